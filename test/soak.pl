#!/usr/bin/perl
# soak.pl: crashes for as long as one likes, and one very large transaction, while
# memory, slots and disk are watched.  test/soak.sh (make soak) calls it.
#
#   MINUTES=60        how long to let disasters happen
#   HUGE_ROWS=5000000 rows of the large transaction; 0: none
#   TRUCKER_SEED=n    the same choice of disasters again
#
# It ends at the first thing that is wrong, with the server's log kept where it says.
# What must not grow: private memory of workers and walsenders, the number of slots, the WAL that the slots hold back, and the size of
# trucker's own tables.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TruckerChaos;
use TruckerTest;

my $minutes   = $ENV{MINUTES}   // 60;
my $huge_rows = $ENV{HUGE_ROWS} // 5_000_000;

my $max_rss_mb   = 100;    # of a worker or walsender, after any number of transactions
my $max_state_mb = 10;     # trucker's own tables
my $max_wal_mb   = 4000;   # max_wal_size below, and the large transaction

# Stop at the first failure, with all that explains it in place.
sub or_bail
{
	my ($good) = @_;

	BAIL_OUT('see above') unless $good;
	return;
}

seed();

my $node = trucker_node('soak', conf => "autovacuum_naptime = '5s'\nmax_wal_size = '1GB'\ncheckpoint_timeout = '30s'\n");
my $began = time;

# What is there now; prints it, and fails if it is too much.
sub watch
{
	my ($what) = @_;
	my ($wal, $state, $database) = split /\|/, $node->safe_psql(
		'postgres', q{
		SELECT (SELECT sum(size) FROM pg_ls_waldir()) / 1000000,
			(SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'trucker'::regnamespace AND relkind = 'r') / 1000000,
			pg_database_size('postgres') / 1000000});
	my @trucks = split /\n/, $node->safe_psql('postgres', 'SELECT truck FROM trucker.status');
	my ($worker, $walsender) = (0, 0);

	foreach my $truck (@trucks)
	{
		my ($w, $s) = map { rss_anon($_) / 1000 } worker_pid($node, $truck), walsender_pid($node, $truck);

		$worker = $w if $w > $worker;
		$walsender = $s if $s > $walsender;
	}
	diag sprintf '%5d s  %-60s  worker %3d MB, walsender %3d MB, WAL %4d MB, trucker %2d MB, database %4d MB',
	  time - $began, $what, $worker, $walsender, $wal, $state, $database;
	or_bail(no_other_slot($node, $what));
	or_bail(cmp_ok($worker, '<', $max_rss_mb, "$what: memory of the workers"));
	or_bail(cmp_ok($walsender, '<', 2 * $max_rss_mb, "$what: memory of the walsenders"));
	or_bail(cmp_ok($wal, '<', $max_wal_mb, "$what: WAL that is held back"));
	or_bail(cmp_ok($state, '<', $max_state_mb, "$what: trucker's own tables"));
	return;
}

# ----
# Crashes
# ----

chaos_setup($node);
$node->safe_psql('postgres', 'SELECT trucker.start()');
or_bail(chaos_same($node, 'start'));
watch('start');

my $rounds = 0;
my $disasters = 0;
while (time - $began < 60 * $minutes)
{
	my $load = chaos_load($node, 200 + int(rand(1500)));
	my @kinds;

	$rounds++;
	for (my $more = 1; $more; $more = rand() < 0.4)
	{
		my $kind = $disasters[ rand @disasters ];

		$load //= chaos_load($node);
		wal_passes($node, int(rand(10)) ? int(rand(500_000)) : int(rand(30_000_000)));
		# sometimes while a truck loads its table anew
		$node->safe_psql('postgres', "SELECT trucker.resync('$chaos_trucks[ rand @chaos_trucks ]')") if rand() < 0.2;
		disaster($node, $kind, $chaos_trucks[ rand @chaos_trucks ]);
		push @kinds, $kind;
		$disasters++;
		next unless is_crash($kind);
		$load->stop;
		undef $load;
	}
	or_bail(ok(!$load || $load->stop, 'the load met no error') || diag $load->errors);
	my $what = "round $rounds: " . join ', ', map { s/ of the / /r } @kinds;
	or_bail(chaos_same($node, $what));
	watch($what);

	# the tables' own growth is not what is watched
	next if $node->safe_psql('postgres', 'SELECT count(*) FROM ledger') < 200_000;
	$node->safe_psql('postgres', 'DELETE FROM ledger');
	or_bail(ok(caught_up($node, 'log'), 'the ledger is cleared'));
	$node->safe_psql('postgres', $_) foreach 'DELETE FROM ledger_log', 'VACUUM ledger', 'VACUUM ledger_log';
}
diag sprintf '%d disasters in %d rounds', $disasters, $rounds;
cmp_ok($rounds, '>', 0, 'there was time for a round');

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
	watch('before the large transaction');
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
	ok(caught_up($node, $_), "$_ is caught up behind it") foreach @chaos_trucks;
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', 'CHECKPOINT');
	watch('after the large transaction');
}

$node->stop;

done_testing();
