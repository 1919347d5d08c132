# A truck that has nothing to do costs nothing: no WAL, no CPU, and its slot does
# not hold back the WAL that unrelated tables and databases make.  An idle truck that
# writes makes WAL for ever, and one that never confirms fills the disk.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

# What else writes WAL or takes CPU by itself is switched off or far away.
my $node = trucker_node(
	'idle',
	conf => q{
autovacuum = off
checkpoint_timeout = 1h
bgwriter_delay = 10s
});

$node->safe_psql(
	'postgres', q{
	CREATE TABLE s (id int PRIMARY KEY, v int);
	CREATE TABLE d (id int PRIMARY KEY, v int);
	CREATE TABLE other (id int);
	INSERT INTO s SELECT i, i FROM generate_series(1, 100) AS i;
	SELECT trucker.create_truck('idle', '{s}', $$
		DELETE FROM d USING r WHERE meta__operation <> 'insert' AND d.id = r.old__id;
		INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete'$$);
	SELECT trucker.start('idle');
	CREATE DATABASE elsewhere;
});
ok(caught_up($node, 'idle'), 'the truck has caught up');

my $slot = $node->safe_psql('postgres', 'SELECT slot_name FROM trucker.truck_state');

sub insert_lsn { return $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()') }

# settled(): wait until the slot has been told all that there is; the LSN.
sub settled
{
	ok( $node->poll_query_until(
			'postgres',
			"SELECT confirmed_flush_lsn >= pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name = '$slot'"),
		$_[0]);
	return insert_lsn();
}

# The CPU time that a process has used, in clock ticks.
sub cpu
{
	my ($pid) = @_;
	my @stat = split / /, (slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr);

	return $stat[11] + $stat[12];
}

#
# Traffic that is none of the truck's business.
#
$node->safe_psql('postgres',
	'INSERT INTO other SELECT generate_series(1, 20000); DELETE FROM other');
settled('the slot follows the WAL of an unrelated table');
is($node->safe_psql('postgres', q{SELECT lag_bytes || ' ' || lag_seconds FROM trucker.status}),
	'0 0', 'and so does the status');

$node->safe_psql('elsewhere', 'CREATE TABLE t AS SELECT generate_series(1, 20000)');
settled('the slot follows the WAL of another database');

$node->safe_psql('postgres', 'BEGIN; INSERT INTO s VALUES (-1, 1); ROLLBACK');
settled('the slot follows a transaction that was rolled back');

my $restart = q{SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '} . $slot . q{'};
my $before = $node->safe_psql('postgres', $restart);
for my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'CHECKPOINT; INSERT INTO other VALUES (1)');
	settled("checkpoint $round passes");
}
is( $node->safe_psql('postgres', "SELECT ($restart) > '$before'"),
	't', 'WAL that nobody needs can be removed: restart_lsn moves');

#
# A change of an input and then rest: the position is written once, and that is all.
#
$node->safe_psql('postgres', 'UPDATE s SET v = v + 1');
ok(caught_up($node, 'idle'), 'changes arrive');
same($node, 'SELECT id, v FROM s', 'SELECT id, v FROM d', 'and are right');
my $position = $node->safe_psql('postgres', 'SELECT lsn FROM trucker.position');

my $lsn = settled('the slot follows the truck\'s own writes');
for my $round (1 .. 20)
{
	$node->safe_psql('postgres', q{SELECT trucker.wait_for('idle')});
}
is(insert_lsn(), $lsn, 'waiting for an idle truck writes no WAL');
is($node->safe_psql('postgres', 'SELECT lsn FROM trucker.position'),
	$position, 'nor a new position');

#
# A measured interval.  A process that wakes up ten times a second shows in it.
#
my %process = (
	worker => worker_pid($node, 'idle'),
	walsender => walsender_pid($node, 'idle'),
	launcher => $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker launcher'}));
my %cpu_before = map { $_ => cpu($process{$_}) } keys %process;
my %switches_before = map { $_ => switches($process{$_}) } keys %process;

sub switches
{
	my ($pid) = @_;
	my ($n) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)$/m;

	return $n;
}

$node->safe_psql('postgres', 'SELECT pg_sleep(5)');
for my $name (sort keys %process)
{
	cmp_ok(cpu($process{$name}) - $cpu_before{$name}, '<=', 1, "the idle $name uses no CPU that can be measured");
	next if $name eq 'walsender';
	cmp_ok(switches($process{$name}) - $switches_before{$name}, '<=', 2, "the idle $name sleeps");
}
is(insert_lsn(), $lsn, 'an idle truck writes no WAL');

#
# An LSN at which no record ends: the insert position behind a new segment's header.
#
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
is( $node->safe_psql('postgres', q{SELECT trucker.wait_for('idle', pg_current_wal_insert_lsn(), '60 s')}),
	't', 'the insert position behind a segment switch can be waited for');

$node->stop;
done_testing();
