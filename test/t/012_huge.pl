# Size does not matter: a transaction of 500,000 rows is applied whole while the
# worker's memory stays flat, or, on a stream that trucks share, within bounds; 100,000 transactions of one row each are applied
# together, many in one commit, and as fast while an old snapshot keeps every dead
# version of the position alive.  How far behind a truck is, status tells.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use TruckerChaos;
use TruckerTest;

my $node = trucker_node('huge', conf => "autovacuum_naptime = '1s'\nmax_wal_size = '4GB'\n");

$node->safe_psql(
	'postgres', q{
CREATE TABLE big (id int PRIMARY KEY, a int, b text, c numeric, d timestamptz, e text);
CREATE TABLE big_copy (LIKE big INCLUDING ALL);
CREATE TABLE big_shared (LIKE big INCLUDING ALL);
CREATE TABLE small (id bigserial PRIMARY KEY, client int);
CREATE TABLE small_copy (LIKE small INCLUDING ALL);
SELECT trucker.create_truck('big', '{big}', $$
	DELETE FROM big_copy USING r WHERE r.meta__operation <> 'insert' AND big_copy.id = r.old__id;
	INSERT INTO big_copy SELECT id, a, b, c, d, e FROM r WHERE meta__operation <> 'delete'$$, options => '{"stream": "big"}');
SELECT trucker.create_truck('big_shared', '{big}', $$
	DELETE FROM big_shared USING r WHERE r.meta__operation <> 'insert' AND big_shared.id = r.old__id;
	INSERT INTO big_shared SELECT id, a, b, c, d, e FROM r WHERE meta__operation <> 'delete'$$);
SELECT trucker.create_truck('small', '{small}', 'INSERT INTO small_copy SELECT id, client FROM r');
SELECT trucker.start('big'), trucker.start('small');
});
ok(caught_up($node, $_), "$_ runs") foreach qw(big small);

# ----
# One transaction of 500,000 rows
# ----

# Runs $sql, and returns the most private memory, in MB, that the worker of $neighbour and
# its walsender took, more than before, until $truck had done its work.
sub growth
{
	my ($truck, $sql, $neighbour) = @_;
	$neighbour //= $truck;
	my %pid = (worker => worker_pid($node, $neighbour), walsender => walsender_pid($node, $neighbour));
	my %before = map { $_ => rss_anon($pid{$_}) } keys %pid;
	my %most = %before;

	$node->safe_psql('postgres', $sql);
	my $lsn = $node->lsn('flush');
	my $started = time;
	my $asked = 0;
	for (;;)
	{
		foreach my $who (keys %pid)
		{
			my $now = rss_anon($pid{$who});
			$most{$who} = $now if $now > $most{$who};
		}
		if (time - $asked > 0.2)
		{
			last if $node->safe_psql('postgres',
				"SELECT position >= '$lsn' FROM trucker.status WHERE truck = '$truck'") eq 't';
			$asked = time;
		}
		die "$truck does not catch up" if time - $started > $PostgreSQL::Test::Utils::timeout_default;
		usleep(5000);
	}
	diag sprintf '%s: %.1f s, worker %d kB before, %d kB at most; walsender %d and %d kB',
	  $truck, time - $started, map { ($before{$_}, $most{$_}) } qw(worker walsender);
	is(worker_pid($node, $neighbour), $pid{worker}, 'it was one worker all the time');
	return map { ($most{$_} - $before{$_}) / 1024 } qw(worker walsender);
}

# rss_anon() sees memory: a session that builds a string of 100 MB.
my $session = $node->background_psql('postgres');
my $session_pid = $session->query_safe('SELECT pg_backend_pid()');
my $session_before = rss_anon($session_pid);
$session->query_safe(q{DO $$ BEGIN PERFORM set_config('test.memory', repeat('x', 100000000), false); END $$});
cmp_ok(rss_anon($session_pid) - $session_before, '>', 90_000, 'the memory of a process can be watched');
$session->quit;

my %statement = (
	'insert of 500,000 rows' => q{
		INSERT INTO big SELECT n, n % 100, 'row ' || n, n / 3.0, '2026-01-01', repeat('x', n % 50) FROM generate_series(1, 500000) AS n},
	'update of 250,000 keys' => q{UPDATE big SET id = -id, b = 'moved' WHERE id % 2 = 0},
	'deletion of 250,000 rows' => q{DELETE FROM big WHERE id < 0});
foreach my $what ('insert of 500,000 rows', 'update of 250,000 keys', 'deletion of 250,000 rows')
{
	my ($worker, $walsender) = growth('big', $statement{$what});

	cmp_ok($worker, '<', 60, "$what: the worker's memory stays flat");
	cmp_ok($walsender, '<', 200, "$what: so does the walsender's");
	same($node, 'TABLE big', 'TABLE big_copy', "$what: applied whole");
}

# On a stream that trucks share, changes are kept for them, on disk beyond
# trucker.batch_memory (64 MB).  A truck that takes long over them leaves.
$node->safe_psql('postgres', q{SELECT trucker.start('big_shared')});
ok(wait_state($node, 'big_shared', 'streaming'), 'a truck shares the stream of the small one');
my ($worker, $walsender) = growth('big_shared', q{UPDATE big SET a = a + 1, e = repeat('y', 200)}, 'small');
cmp_ok($worker, '<', 64 + 60, "update of 250,000 rows: the shared worker's memory is bounded");
cmp_ok($walsender, '<', 200, "update of 250,000 rows: so is its walsender's");
same($node, 'TABLE big', 'TABLE big_shared', 'update of 250,000 rows: applied whole by the one that shares');
ok(caught_up($node, 'big'), 'and the other one has it');
same($node, 'TABLE big', 'TABLE big_copy', 'update of 250,000 rows: applied whole by the one alone');
ok(wait_state($node, 'big_shared', 'streaming'), 'both stream');
$node->safe_psql('postgres', q{SELECT trucker.drop_truck('big_shared')});

# ----
# 100,000 transactions of one row
# ----

# Without taking one.
sub next_xid
{
	return $node->safe_psql('postgres', 'SELECT pg_snapshot_xmax(pg_current_snapshot())');
}

# What arrives while the truck is stopped, so that its speed counts and not pgbench's.
sub stopped_and_loaded
{
	my ($what, $transactions) = @_;

	$node->safe_psql('postgres', q{SELECT trucker.stop('small')});
	ok(wait_state($node, 'small', 'stopped'), "$what: the truck is stopped");
	$node->safe_psql('postgres', 'INSERT INTO small DEFAULT VALUES; INSERT INTO small DEFAULT VALUES');
	$node->pgbench("-n -c 4 -t $transactions", 0, [qr/actually processed: (\d+)\/\1\b/], [qr/^$/],
		"$what: transactions of one row",
		{ 'small_' . $what =~ s/\W/_/gr . '.sql' => 'INSERT INTO small (client) VALUES (:client_id);' });
	return;
}

# Seconds of processor time that a process has taken: other than those of the clock, they do
# not tell of whatever else the machine has to do.
sub processor_time
{
	my ($pid) = @_;
	my @field = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;

	return ($field[11] + $field[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Each commit of the worker's takes a transaction id, and little else does.
sub hundred_thousand
{
	my ($what) = @_;

	stopped_and_loaded($what, 25_000);
	my $xid = next_xid();
	my $started = time;

	$node->safe_psql('postgres', q{SELECT trucker.start('small')});
	ok(caught_up($node, 'small'), "$what: 100,000 of them arrive");
	my $commits = next_xid() - $xid;
	# the worker has begun with start()
	my $seconds = processor_time(worker_pid($node, 'small'));

	diag sprintf '%s: %.1f s, of which the worker has worked for %.1f, %d commits', $what, time - $started, $seconds, $commits;
	cmp_ok($commits, '<', 10_000, "$what: more than ten of them in one commit");
	same($node, 'TABLE small', 'TABLE small_copy', "$what: all of them");
	return $seconds;
}

my $quiet = hundred_thousand('without an old snapshot');

my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM small');
my $burdened = hundred_thousand('with an old snapshot');
cmp_ok($burdened, '<', 4 * $quiet + 5, 'an old snapshot hardly slows it down');
$old->query_safe('COMMIT');
$old->quit;

# ----
# How far behind
# ----

# The truck applies the first transaction of the backlog and is held at the second.
# What it has applied was sent just now, but committed long ago.
my $id = $node->safe_psql('postgres', 'SELECT max(id) + 2 FROM small');
my $before = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
stopped_and_loaded('lag', 2_500);
my $after = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$node->safe_psql('postgres', 'ALTER SYSTEM SET trucker.max_batch_rows = 1');
$node->reload;
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; INSERT INTO small_copy VALUES ($id)");
my $holder_pid = $holder->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', q{SELECT trucker.start('small')});
ok( $node->poll_query_until('postgres',
		"SELECT waiting_for ~ '\\m$holder_pid\\M' FROM trucker.status WHERE truck = 'small'"),
	'the truck is held, and says by whom');
is( $node->safe_psql('postgres', "SELECT count(*) FROM small_copy WHERE id = $id - 1"),
	'1', 'behind the first transaction');
is( $node->safe_psql('postgres', qq{
		SELECT clock_timestamp() - lag_seconds * interval '1 s' BETWEEN '$before' AND '$after'::timestamptz, lag_bytes > 100000
		FROM trucker.status WHERE truck = 'small'}),
	't|t', 'lag_seconds counts from when the last applied transaction was committed');
$holder->query_safe('ROLLBACK');
$holder->quit;
ok(caught_up($node, 'small'), 'released, it gets there');
ok( $node->poll_query_until('postgres', q{SELECT lag_seconds = 0 FROM trucker.status WHERE truck = 'small'}),
	'and is not behind any more');
same($node, 'TABLE small', 'TABLE small_copy', 'nor is anything missing');

$node->stop;

done_testing();
