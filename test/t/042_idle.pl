# A truck that has nothing to do costs nothing: it writes no WAL (which would be
# traffic for itself, for ever, and would keep an idle server's archive busy), it
# takes no CPU, and its slot does not hold back the WAL of others.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

# What the server itself writes while idle is kept away; autovacuum most of all.
my $node = trucker_node('idle', conf => q{
autovacuum = off
checkpoint_timeout = 1h
checkpoint_completion_target = 0.1
});

sub value
{
	my ($query, $db) = @_;

	return $node->safe_psql($db // 'postgres', $query);
}

sub sql
{
	my ($db, @statements) = @_;

	$node->safe_psql($db, "SET client_min_messages = error; $_") foreach @statements;
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE other');
sql('other', 'CREATE EXTENSION trucker');
foreach my $db ('postgres', 'other')
{
	sql($db, q{
		CREATE TABLE s (id int PRIMARY KEY, v text);
		CREATE TABLE d (LIKE s INCLUDING ALL);
		CREATE TABLE unrelated (v text);
		INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 100) i;
		SELECT trucker.create_truck('mirror', '{s}', $$
			DELETE FROM d USING r WHERE r.meta__operation <> 'insert' AND d.id = r.old__id;
			INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET v = excluded.v$$);
		SELECT trucker.create_truck('idle', '{s}', 'SELECT count(*) FROM r');
		SELECT trucker.create_truck('alone', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "alone"}')}, 'SELECT trucker.start()');
}
sql('postgres', q{SELECT trucker.create_truck('stopped', '{s}', 'SELECT count(*) FROM r')});
foreach my $db ('postgres', 'other')
{
	ok(caught_up($node, $_, db => $db), "$db: $_ streams") foreach 'mirror', 'idle', 'alone';
}

# settled(): until nothing is left to say: each slot has confirmed all there is
sub settled
{
	my ($test_name) = @_;

	return ok(
		$node->poll_query_until(
			'postgres', q{
			SELECT bool_and(confirmed_flush_lsn >= pg_current_wal_flush_lsn()) AND count(*) = 4
			FROM pg_replication_slots}),
		$test_name)
	  || diag value('SELECT slot_name, confirmed_flush_lsn, pg_current_wal_flush_lsn(), pg_current_wal_insert_lsn() FROM pg_replication_slots');
}

# ----
# No WAL
# ----
# A checkpoint, and the record of running transactions that the background writer
# adds once to an active log, come before; after them an idle server writes nothing.
sub quiet_lsn
{
	$node->safe_psql('postgres', 'CHECKPOINT');
	settled('all slots follow');
	return value('SELECT pg_current_wal_insert_lsn()');
}

sql('postgres', 'UPDATE s SET v = v');
ok(caught_up($node, 'mirror'), 'a batch has been applied');

# The background writer logs running transactions at most every 15 s, and only if
# something has been written since; the next one may come at any moment.  So: the
# LSN stays the same over a whole measured interval, within few tries.
my $quiet = 0;
foreach my $try (1 .. 10)
{
	my $before = quiet_lsn();

	ok(caught_up($node, $_, db => 'other') && caught_up($node, $_), "wait_for on an idle server ($_)") foreach 'mirror', 'idle', 'alone';
	value('SELECT pg_sleep(2)');
	my $after = value('SELECT pg_current_wal_insert_lsn()');
	my $bytes = value("SELECT '$after'::pg_lsn - '$before'::pg_lsn");
	note "$bytes bytes of WAL";
	$quiet = $bytes == 0;
	last if $quiet;

	# only a record of running transactions (and the header of a page), or pruning by
	# what the test has asked, may be the cause
	my $records = $node->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS pg_walinspect; '
		. "SELECT DISTINCT resource_manager || '/' || record_type FROM pg_get_wal_records_info('$before', '$after')");
	like($records, qr{^(?:(?:Standby/RUNNING_XACTS|Heap2/PRUNE)\n?)+$}, 'and if there is WAL, it is not ours');
}
ok($quiet, 'no WAL is written while trucks are idle, also when wait_for is used');

# No file of the server is dirtied either: confirming the same LSN again does nothing.
# (Unless there is a record of running transactions, which they follow.)
my ($slots, $slots_later);
foreach my $try (1 .. 10)
{
	my $look = q{SELECT string_agg(slot_name || confirmed_flush_lsn, ',' ORDER BY slot_name) FROM pg_replication_slots};
	my $lsn = quiet_lsn();

	$slots = value($look);
	value('SELECT pg_sleep(1)');
	$slots_later = value($look);
	last if value('SELECT pg_current_wal_insert_lsn()') eq $lsn;
}
is($slots_later, $slots, 'the slots rest, too');

# ----
# No CPU
# ----
my %processes = map { split /\|/ } split /\n/, value(q{
	SELECT pid || '|' || backend_type || ' ' || application_name || ' ' || coalesce(datname, '') FROM pg_stat_activity
	WHERE backend_type IN ('trucker launcher', 'trucker stream', 'walsender')});
is(scalar keys %processes, 9, 'a launcher, four workers and their walsenders are there to be measured');

# ticks of CPU (user and system) that each process has used
sub cpu
{
	my %cpu;

	foreach my $pid (keys %processes)
	{
		my $stat = slurp_file("/proc/$pid/stat");

		$stat =~ s/^.*\) //s;
		my @field = split / /, $stat;
		$cpu{$pid} = $field[11] + $field[12];
	}
	return \%cpu;
}

# How often the kernel has put the process on a CPU: finer than ticks.
sub switches
{
	my %switches;

	foreach my $pid (keys %processes)
	{
		my ($n) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)$/m;

		$switches{$pid} = $n;
	}
	return \%switches;
}

{
	settled('all slots follow');
	my ($cpu_before, $switches_before) = (cpu(), switches());
	value('SELECT pg_sleep(3)');
	my ($cpu_after, $switches_after) = (cpu(), switches());
	foreach my $pid (sort { $processes{$a} cmp $processes{$b} } keys %processes)
	{
		my $ticks = $cpu_after->{$pid} - $cpu_before->{$pid};
		my $woken = $switches_after->{$pid} - $switches_before->{$pid};

		cmp_ok($ticks, '<=', 1, "idle for 3 s: no measurable CPU ($processes{$pid})");

		# the record of running transactions may come in between
		cmp_ok($woken, '<=', 12, "idle for 3 s: it sleeps ($processes{$pid})");
	}
}
is(value(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'trucker probe'}), '0', 'no probe runs periodically');

# ----
# The slot follows the WAL of unrelated traffic
# ----
my %other_traffic = (
	'a table that is no input'   => [ 'postgres', 'INSERT INTO unrelated SELECT repeat(md5(i::text), 20) FROM generate_series(1, 20000) i' ],
	'another database'           => [ 'other',    'INSERT INTO unrelated SELECT repeat(md5(i::text), 20) FROM generate_series(1, 20000) i' ],
	'a transaction that aborts'  => [ 'postgres', 'BEGIN; INSERT INTO unrelated SELECT repeat(md5(i::text), 20) FROM generate_series(1, 20000) i; ROLLBACK' ],
	'no transaction at all'      => [ 'postgres', 'SELECT pg_switch_wal()' ],
	'the log file\'s next segment' => [ 'postgres', 'SELECT pg_logical_emit_message(false, $$x$$, repeat($$x$$, 100000)); SELECT pg_switch_wal()' ],
	'CREATE DATABASE'            => [ 'postgres', 'CREATE DATABASE third' ],
	'VACUUM and ANALYZE'         => [ 'postgres', 'VACUUM FREEZE ANALYZE unrelated' ]);
foreach my $what (sort keys %other_traffic)
{
	my ($db, $sql) = @{ $other_traffic{$what} };

	sql($db, $sql);
	my $lsn = value('SELECT pg_current_wal_flush_lsn()');
	ok( $node->poll_query_until('postgres', "SELECT bool_and(confirmed_flush_lsn >= '$lsn') FROM pg_replication_slots"),
		"slots follow the WAL of: $what")
	  or diag value("SELECT *, '$lsn' FROM pg_replication_slots");
	ok( $node->poll_query_until($db, q{SELECT bool_and(lag_bytes = 0 AND lag_seconds = 0) FROM trucker.status WHERE state = 'streaming'}),
		"lag returns to 0 after: $what")
	  or diag value('TABLE trucker.status', $db);
}

# ... and let go of it: a checkpoint can remove it.
{
	for (1 .. 4)
	{
		sql('postgres', 'INSERT INTO unrelated SELECT repeat(md5(i::text), 20) FROM generate_series(1, 5000) i; SELECT pg_switch_wal()');
	}
	settled('all slots follow');
	my $lsn = value('SELECT pg_current_wal_flush_lsn()');

	# restart_lsn moves at a record of running transactions, which a checkpoint writes
	sql('postgres', 'CHECKPOINT');
	ok($node->poll_query_until('postgres', "SELECT bool_and(restart_lsn >= '$lsn') FROM pg_replication_slots"), 'no slot holds back WAL');
}

# Also with positions that stand far behind: what is confirmed is not lost by a restart.
{
	my $position = value(q{SELECT max(lsn) FROM trucker.position p JOIN trucker.truck t ON t.id = p.truck_id WHERE name IN ('idle', 'alone')});

	cmp_ok(value("SELECT min(confirmed_flush_lsn) - '$position' FROM pg_replication_slots"), '>', 10_000_000, 'idle trucks do not write their positions');
	$node->restart;
	ok(caught_up($node, $_), "and go on behind them after a restart ($_)") foreach 'idle', 'alone';
	$node->stop('immediate');
	$node->start;
	ok(caught_up($node, $_), "and after a crash ($_)") foreach 'idle', 'alone';
	sql('postgres', q{INSERT INTO s VALUES (1001, 'late')});
	ok(caught_up($node, 'mirror'), 'a late change arrives');
	same($node, 'TABLE s', 'TABLE d', 'the destination is right');
}

# ----
# wait_for is true on a server that rests at any place of its WAL
# ----
# Where a record ends with its page, the insert position stands behind the next page's
# header: no record has ended there, and nobody flushes so far.
{
	my $at_boundary = 0;
	my $false = 0;

	sql('postgres', 'SELECT pg_switch_wal()');
	foreach my $round (1 .. 12)
	{
		# A message's record has a header of 24 bytes, 5 for the length, 24 of its own
		# and one for the prefix's end, and is filled up to a multiple of 8.
		my $found = $node->safe_psql('postgres', q{
			DO $$
			DECLARE
				room int;
			BEGIN
				FOR i IN 1 .. 300 LOOP
					room := 8192 - (pg_current_wal_insert_lsn() - '0/0')::numeric % 8192;
					PERFORM pg_logical_emit_message(false, '',
						repeat('x', CASE WHEN room BETWEEN 400 AND 8000 THEN room - 54 ELSE 100 END));
					EXIT WHEN (pg_current_wal_insert_lsn() - '0/0')::numeric % 8192 IN (24, 40);
				END LOOP;
			END$$;
			SELECT (pg_current_wal_insert_lsn() - '0/0')::numeric % 8192 IN (24, 40)});
		$at_boundary++ if $found eq 't';
		foreach my $lsn ('NULL', 'pg_current_wal_insert_lsn()', 'pg_current_wal_lsn()')
		{
			my $answer = $node->safe_psql('postgres', "SELECT trucker.wait_for('idle', $lsn, '20 s')");
			$false++ if $answer ne 't';
		}
		last if $at_boundary >= 2;
	}
	cmp_ok($at_boundary, '>', 0, 'the insert position has stood behind a page header');
	is($false, 0, 'wait_for is true there');
	sql('postgres', 'SELECT pg_switch_wal()');
	is($node->safe_psql('postgres', q{SELECT trucker.wait_for('idle', timeout => '20 s')}), 't', 'and at the start of a segment');
	is($node->safe_psql('postgres', q{SELECT trucker.wait_for('idle', pg_current_wal_insert_lsn(), '20 s')}), 't', 'told where that is');
	ok($node->poll_query_until('postgres', q{SELECT bool_and(lag_bytes = 0) FROM trucker.status WHERE state = 'streaming'}), 'no lag there');

	# an asynchronous commit ends behind what is flushed
	sql('postgres', q{SET synchronous_commit = off; INSERT INTO s VALUES (1002, 'async')});
	is($node->safe_psql('postgres', q{SELECT trucker.wait_for('mirror', timeout => '20 s')}), 't', 'wait_for after an asynchronous commit');
	same($node, 'TABLE s', 'TABLE d', 'which has arrived then');
}

$node->stop;

done_testing();
