#!/usr/bin/perl
# soak.pl: loads and crashes for as long as one likes, and one very large transaction, while
# memory, slots and disk are watched.  test/soak.sh (make soak) calls it.
#
#   MINUTES=60        how long: three fifths of it with disasters, the rest without
#   HUGE_ROWS=5000000 rows of the large transaction; 0: none
#   SCALE=1           size of the tables of test/tpcds
#   TRUCKER_SEED=n    the same choice of disasters again
#
# Two loads run at the same time: that of TruckerChaos, small and fast, and that of TruckerTpcds, with
# everything that applications do, and a second server as destination.  In the first part disasters
# meet them; in the second they run on, so that what processes gather in their memory shows.
#
# It ends at the first thing that is wrong, with the server's log kept where it says.
# What must not grow: see TruckerWatch; and private memory, WAL and trucker's tables have bounds at all times.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TruckerChaos;
use TruckerRemote;
use TruckerTest;
use TruckerTpcds;
use TruckerWatch;

my $minutes   = $ENV{MINUTES}   // 60;
my $huge_rows = $ENV{HUGE_ROWS} // 5_000_000;

my $max_rss_mb   = 100;    # of a worker or walsender, after any number of transactions
my $max_state_mb = 10;     # trucker's own tables
my $max_wal_mb   = 4000;   # max_wal_size below, and the large transaction
my $max_kept_mb  = 32;     # WAL that a slot keeps when all is applied
my $calm_tickets = 400;    # of a round in the part without disasters

# Stop at the first failure, with all that explains it in place.
sub or_bail
{
	my ($good) = @_;

	BAIL_OUT('see above') unless $good;
	return;
}

seed();

my $node = trucker_node('soak', conf => q{
autovacuum_naptime = '5s'
max_wal_size = '1GB'
checkpoint_timeout = '30s'
max_prepared_transactions = 20
trucker.retry_max_delay = '5s'
});
my $remote = remote_node('soak_remote');
my @trucks = (@chaos_trucks, @tpcds_trucks);
my $watch = TruckerWatch->new($node);
my $began = time;

# What is there now; prints it, and fails if it is too much.
sub watch
{
	my ($phase, $what) = @_;

	# a slot lets go of WAL when its reader has seen a snapshot of the running transactions, and something behind it
	or_bail(ok($node->poll_query_until('postgres',
		"CHECKPOINT; SELECT bool_and(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < ${max_kept_mb}e6) FROM pg_replication_slots", "CHECKPOINT\nt"),
		"$what: WAL that slots keep"));
	my %now = $watch->sample($phase, $what);

	or_bail(cmp_ok($now{worker}, '<', $max_rss_mb, "$what: memory of the workers"));
	or_bail(cmp_ok($now{walsender}, '<', 2 * $max_rss_mb, "$what: memory of the walsenders"));
	or_bail(cmp_ok($now{wal}, '<', $max_wal_mb, "$what: WAL on disk"));
	or_bail(cmp_ok($now{state}, '<', $max_state_mb, "$what: trucker's own tables"));
	return;
}

# Both loads, or none.
my @loads;

sub loads_run
{
	my ($rate, $tpcds_rate) = @_;

	@loads = (chaos_load($node, $rate), tpcds_load($node, $tpcds_rate)) unless @loads;
	return;
}

# The server has thrown them out.
sub loads_are_gone
{
	$_->stop foreach @loads;
	@loads = ();
	return;
}

# Stop the loads, which must have met no error, and compare everything with everything.
sub settle
{
	my ($what) = @_;
	my $good = 1;

	# a load that was stopped by one of us is no error
	foreach my $load (@loads)
	{
		$good &= ok($load->stop, "$what: the load met no error") || diag $load->errors;
	}
	or_bail($good);
	@loads = ();
	or_bail(chaos_same($node, $what));
	or_bail(tpcds_same($node, $remote, $what));
	or_bail(no_other_slot($node, $what));

	# the tables' own growth is not what is watched
	if ($node->safe_psql('postgres', 'SELECT count(*) FROM ledger') > 100_000)
	{
		$node->safe_psql('postgres', 'DELETE FROM ledger');
		or_bail(ok(caught_up($node, $_), 'the ledger is cleared')) foreach 'log', 'alone';
		$node->safe_psql('postgres', $_) foreach 'DELETE FROM ledger_log', 'DELETE FROM ledger_log_alone',
		  'VACUUM ledger', 'VACUUM ledger_log', 'VACUUM ledger_log_alone';
	}
	return;
}

chaos_setup($node);
tpcds_setup($node, $remote, scale => $ENV{SCALE} // 1);
$node->safe_psql('postgres', 'SET client_min_messages = error; SELECT trucker.start()');
settle('start');
watch('start', 'start');

# ----
# Disasters
# ----

my $rounds = 0;
my $disasters = 0;
while (time - $began < 36 * $minutes || $rounds == 0)
{
	my @kinds;

	$rounds++;
	for (my $more = 1; $more; $more = rand() < 0.4)
	{
		my $kind = $tpcds_disasters[ rand @tpcds_disasters ];

		loads_run(200 + int(rand(800)), 20 + int(rand(80)));
		wal_passes($node, int(rand(10)) ? int(rand(2_000_000)) : int(rand(30_000_000)));
		# the operator is at work, too; and sometimes a truck loads its table anew
		push @kinds, tpcds_operator($node) if rand() < 0.3;
		$node->safe_psql('postgres', "SET client_min_messages = error; SELECT trucker.resync('$trucks[ rand @trucks ]')") if rand() < 0.2;
		tpcds_disaster($node, $remote, $kind, $trucks[ rand @trucks ]);
		push @kinds, $kind;
		$disasters++;
		loads_are_gone() if tpcds_ends_sessions($kind);
	}
	my $what = "round $rounds: " . join ', ', map { s/ of the / /r } @kinds;
	settle($what);
	watch('with disasters', $what);
}
diag sprintf '%d disasters in %d rounds', $disasters, $rounds;

# ----
# None: what grows, grows
# ----

$node->safe_psql('postgres', $_) foreach 'ALTER SYSTEM RESET ALL', 'SELECT pg_reload_conf()';
$rounds = 0;
while (time - $began < 60 * $minutes)
{
	# what the trucks can follow: it is not a backlog that is to be watched
	$rounds++;
	loads_run(150, 40);
	tpcds_sells($node, $calm_tickets);
	settle("calm round $rounds");
	watch('without disasters', "calm round $rounds");
}
or_bail($watch->growth('with disasters'));
or_bail($watch->growth('without disasters'));

# ----
# A very large transaction
# ----

if ($huge_rows > 0)
{
	$node->safe_psql(
		'postgres', q{
CREATE TABLE huge (id int PRIMARY KEY, a int, b text, c numeric, d timestamptz, e text);
CREATE TABLE huge_copy (LIKE huge);
SELECT trucker.create_truck('huge', '{huge}', 'INSERT INTO huge_copy SELECT id, a, b, c, d, e FROM r',
	options => '{"stream": "huge"}');
SELECT trucker.start('huge')});
	or_bail(caught_up($node, 'huge'));
	watch('large', 'before the large transaction');
	$node->safe_psql('postgres', "INSERT INTO huge SELECT n, n % 100, 'row ' || n, n / 3.0, '2026-01-01', repeat('x', n % 50) FROM generate_series(1, $huge_rows) AS n");

	my $started = time;
	my $lsn = $node->lsn('flush');
	my $pid = worker_pid($node, 'huge');
	my $most = 0;
	my $asked = time;
	for (;;)
	{
		my $now = rss_anon($pid) / 1000;

		$most = $now if $now > $most;
		if (time - $asked > 1)
		{
			last if $node->safe_psql('postgres', "SELECT position >= '$lsn' FROM trucker.status WHERE truck = 'huge'") eq 't';
			$asked = time;
		}
		or_bail(ok(0, 'the large transaction does not arrive')) if time - $started > 600 + $huge_rows / 1000;
		usleep(20_000);
	}
	diag sprintf '%d rows in one transaction: %d s, worker %d MB at most', $huge_rows, time - $started, $most;
	cmp_ok($most, '<', $max_rss_mb, 'memory of the worker during the large transaction');
	is(worker_pid($node, 'huge'), $pid, 'it was one worker all the time');
	is( $node->safe_psql('postgres', q{SELECT count(*), sum(id), sum(hashtext(row(h.*)::text)) FROM huge_copy AS h}),
		$node->safe_psql('postgres', q{SELECT count(*), sum(id), sum(hashtext(row(h.*)::text)) FROM huge AS h}),
		'the large transaction was applied whole');
	ok(caught_up($node, $_), "$_ is caught up behind it") foreach @trucks;
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', 'CHECKPOINT');
	watch('large', 'after the large transaction');
	settle('after the large transaction');
}

$node->stop;
$remote->stop;

done_testing();
