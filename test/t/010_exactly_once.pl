# Exactly once: whatever is killed, and whenever, the destination holds each source
# transaction's effect once.  The position commits with the data, and the slot lets
# go only of what would survive a crash; a mistake in either shows here as a row
# that is missing, or there twice, or a total that is off.
#
# TRUCKER_SEED=n repeats the choice of disasters (not the load's timing).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();

my $node = trucker_node('exactly_once', conf => "autovacuum_naptime = '1s'\nwal_writer_delay = '1s'\n");
my $load;

sub load_runs
{
	$load //= chaos_load($node);
	return;
}

sub load_stops
{
	return unless $load;
	$load->stop or diag 'the load ended: ' . $load->errors;
	undef $load;
	return;
}

# As disaster(); a crash ends the load.
sub strike
{
	my ($kind, $truck) = @_;

	disaster($node, $kind, $truck);
	return unless is_crash($kind);
	$load->stop;
	undef $load;
	return;
}

chaos_setup($node);

# The tests below see what they are to see.
$node->safe_psql('postgres', q{
	INSERT INTO flat SELECT i.id, grp, val, note, name FROM item AS i JOIN grp ON grp.id = grp;
	INSERT INTO grp_total SELECT grp, sum(val), count(*) FROM item GROUP BY grp});
foreach my $change (
	'UPDATE grp_total SET val = val + 1 WHERE grp = 1',
	'UPDATE flat SET name = name || 1 WHERE id = 1')
{
	my $differ = $node->safe_psql('postgres', qq{
		BEGIN; $change;
		SELECT EXISTS (SELECT grp, sum(val), count(*) FROM item GROUP BY grp EXCEPT ALL SELECT grp, val, n FROM grp_total)
			OR EXISTS (SELECT i.id, name FROM item AS i JOIN grp ON grp.id = grp EXCEPT ALL SELECT id, name FROM flat);
		ROLLBACK});
	is($differ, 't', "the comparison would notice: $change");
}
$node->safe_psql('postgres', 'DELETE FROM flat; DELETE FROM grp_total');

# ----
# While changes stream
# ----

load_runs();
$node->safe_psql('postgres', 'SELECT trucker.start()');
load_stops();
chaos_same($node, 'start under load');

# Ten rounds; kills have the larger share.  Every other round strikes twice, the
# second time wherever the trucks are with getting up again.
my @kinds = shuffle(@disasters, grep { /kill -9/ } @disasters);
my $round = 0;
foreach my $kind (@kinds[ 0 .. 9 ])
{
	my $name = 'round ' . ++$round . ", $kind";

	load_runs();
	wal_passes($node, 1000 + int(rand(1_000_000)));
	strike($kind, $chaos_trucks[ rand @chaos_trucks ]);
	if ($round % 2 == 0)
	{
		my $second = $disasters[ rand @disasters ];

		load_runs();
		wal_passes($node, int(rand(200_000)));
		strike($second, $chaos_trucks[ rand @chaos_trucks ]);
		$name .= ", then $second";
	}
	load_stops();
	last unless chaos_same($node, $name);
}
is($round, 10, 'all rounds were played');

is($node->safe_psql('postgres', 'SELECT count(*) FROM ledger WHERE client = -1'),
	'0', 'the source has nothing that was rolled back');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id < 0'),
	'>', 0, 'keys were changed');

# ----
# While the slot is made, and while existing rows are loaded
# ----

# Slots are made only when all running transactions have ended; a lock on the
# destination holds the backfill.
#
# One truck starts as others run on its stream, so it makes its slot and loads its
# rows on a catch-up stream, and joins them; the other one is its stream's only one.
my %late_table = (late => 'late_total', recluse => 'recluse_total');
create_total($node, 'late', $late_table{late});
create_total($node, 'recluse', $late_table{recluse}, 'recluse');
foreach my $truck (sort keys %late_table)
{
	$node->safe_psql('postgres', "SELECT trucker.start('$truck')");
	ok(caught_up($node, $truck), "one more truck runs: $truck");
}

# A session that has begun a transaction with this statement, and its pid.
sub session
{
	my ($statement) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe("BEGIN; $statement");
	return ($session, $session->query_safe('SELECT pg_backend_pid()'));
}

sub late_waits
{
	my ($truck, $state, $pid, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(
		$node->poll_query_until('postgres',
			qq{SELECT state = '$state' AND waiting_for ~ '\\m$pid\\M' FROM trucker.status WHERE truck = '$truck'}),
		$name);
}

my $turn = 0;
foreach my $kind (shuffle(@disasters, grep { /of the worker/ } @disasters))
{
	my $truck = (sort keys %late_table)[ $turn++ % 2 ];
	my $name = "$truck: $kind while the slot is made";

	load_runs();
	my ($writer, $writer_pid) = session('SELECT pg_current_xact_id()');
	$node->safe_psql('postgres', "SELECT trucker.resync('$truck')");
	late_waits($truck, 'creating slot', $writer_pid, "$name: it waits, and says for whom");
	strike($kind, $truck);
	if (is_crash($kind))
	{
		# the session is gone, and so is what held the truck; psql has not noticed
		$writer->{run}->kill_kill;
		ok(caught_up($node, $truck), "$name: the truck gets there");
		load_runs();
		($writer, $writer_pid) = session('SELECT pg_current_xact_id()');
		$node->safe_psql('postgres', "SELECT trucker.resync('$truck')");
	}
	late_waits($truck, 'creating slot', $writer_pid, "$name: the next attempt waits likewise");

	# the backfill is a process of its own, which has the same enemies
	my $backfill_kind = $kind =~ /of the worker/ && int(rand(2)) ? $kind =~ s/worker/backfill/r : $kind;
	$name = "$truck: $backfill_kind during the backfill";
	my ($lock, $lock_pid) = session("LOCK TABLE $late_table{$truck} IN SHARE MODE");
	$writer->query_safe('ROLLBACK');
	$writer->quit;
	late_waits($truck, 'backfill', $lock_pid, "$name: it waits, and says for whom");
	strike($backfill_kind, $truck);
	if (is_crash($backfill_kind))
	{
		$lock->{run}->kill_kill;
	}
	else
	{
		$lock->query_safe('COMMIT');
		$lock->quit;
	}
	load_stops();
	ok(caught_up($node, $truck), "$name: the truck gets there");
	same_total($node, $late_table{$truck},
		"$name, too: rows were loaded once, changes followed");
	no_other_slot($node, $name);
}
chaos_same($node, 'the others, after all that');
$node->safe_psql('postgres', "SELECT trucker.drop_truck('$_')") foreach sort keys %late_table;
chaos_same($node, 'without them');

# ----
# What is visible need not be safe
# ----

# The worker's commits are flushed later.  Neither the worker nor the one after it,
# which reads a position that is not on disk yet, may tell the slot to let go: should
# the server crash now, the position would be the older one again, and the slot not.
# To hold the flush, the WAL writer is stopped; in the end it is what is killed.  (On a
# stream that trucks share, those that rest would leave it, which flushes.)
$node->safe_psql('postgres', q{ALTER SYSTEM SET autovacuum = off});
$node->reload;
foreach my $terminated (0, 1)
{
	my $what = $terminated ? 'the next worker' : 'the worker';
	my $id = 90 + $terminated;

	$node->safe_psql('postgres', 'SELECT trucker.stop()');
	wait_state($node, $_, 'stopped') foreach @chaos_trucks;
	# with a point to restart decoding from before and behind the change, the slot
	# is written to disk when it is confirmed
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', "INSERT INTO ledger (client, amount) VALUES ($id, 9)");
	my $lsn = $node->lsn('insert');
	$node->safe_psql('postgres', 'CHECKPOINT') if $terminated;

	my $wal_writer = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
	kill 'STOP', $wal_writer or die "could not stop the WAL writer: $!";
	$node->safe_psql('postgres', q{SELECT trucker.start('alone')});
	ok( $node->poll_query_until('postgres', qq{
			SELECT (SELECT count(*) = 1 FROM ledger_log_alone WHERE client = $id)
				AND (SELECT count(*) = 2 FROM pg_stat_activity WHERE application_name = 'trucker alone' AND wait_event IN ('Extension', 'WalSenderWaitForWAL'))}),
		"$what: a change is visible before its commit is on disk, and all rest");
	if ($terminated)
	{
		my $worker = worker_pid($node, 'alone');

		$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
		ok( $node->poll_query_until('postgres', qq{
				SELECT count(*) = 1 FROM pg_replication_slots AS s
				JOIN trucker.stream AS x USING (slot_name)
				WHERE x.name = 'alone' AND s.confirmed_flush_lsn >= '$lsn' AND s.active_pid IS NOT NULL}),
			"$what confirms it");
	}
	kill_server_process($node, $wal_writer);
	isnt($node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'}),
		$wal_writer, "$what: the server crashes and comes back");
	$node->safe_psql('postgres', 'SELECT trucker.start()');
	chaos_same($node, "$what: a crash before the flush");
}

$node->stop;

done_testing();
