# Crashes while source transactions are put into quarantine, applied from there, or
# skipped, under a load of which a part cannot be applied at first.  When the cause is
# gone, and all has been retried, the destinations are equal to queries over the source:
# nothing was lost, applied twice, or applied to a row out of its order.
#
# TRUCKER_SEED=n repeats the choice of how to kill.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();

my $node = trucker_node(
	'quarantine_crash',
	conf => q{
autovacuum = off
wal_writer_delay = '500ms'
log_line_prefix = '%m [%p] '
trucker.retry_max_delay = '200ms'
trucker.max_quarantined = 1000000
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub becomes
{
	my ($query, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT coalesce(($query), false)"), $name)
	  || diag sql(q{SELECT truck, state, quarantined, last_error FROM trucker.status});
}

# ----
# Load and trucks
# ----

# sums adds new values and takes off old ones; rows keeps the last state of each row.
# Both stumble over some values while there is trouble; calm never does.
sql(q{
CREATE TABLE a (id int PRIMARY KEY, grp int NOT NULL, v int NOT NULL);
ALTER TABLE a REPLICA IDENTITY FULL;
INSERT INTO a SELECT n, n % 5, 10 * n FROM generate_series(1, 400) AS n;

CREATE TABLE trouble (x int);
CREATE FUNCTION stumble(x int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF x % 29 = 7 AND EXISTS (SELECT FROM trouble) THEN
		RAISE 'trouble with %', x;
	END IF;
	RETURN x;
END
$$;
CREATE TABLE sums_out (grp int PRIMARY KEY, v bigint NOT NULL, n bigint NOT NULL);
CREATE TABLE rows_out (LIKE a INCLUDING ALL);
CREATE TABLE calm_out (LIKE a INCLUDING ALL);
SELECT trucker.create_truck('sums', '{a}', $$
	INSERT INTO sums_out AS t
	SELECT grp, sum(stumble(v)), sum(n)
	FROM (SELECT grp, v, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL
		  SELECT old__grp, -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
	GROUP BY grp
	ON CONFLICT (grp) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n
$$, options => '{"on_error": "quarantine", "reset_sql": "DELETE FROM sums_out"}')});
foreach my $truck ('rows', 'calm')
{
	my ($new, $more) = $truck eq 'rows' ? ('stumble(v)', '"on_error": "quarantine", "changes": "net"') : ('v', '"on_error": "retry"');

	sql(qq{
SELECT trucker.create_truck('$truck', '{a}', \$\$
	DELETE FROM ${truck}_out AS o USING r WHERE o.id = r.old__id AND r.id IS DISTINCT FROM r.old__id;
	INSERT INTO ${truck}_out SELECT id, grp, $new FROM r WHERE id IS NOT NULL
	ON CONFLICT (id) DO UPDATE SET grp = excluded.grp, v = excluded.v
\$\$, options => '{$more, "reset_sql": "DELETE FROM ${truck}_out"}')});
}

my $script = $node->basedir . '/load.sql';
append_to_file($script, q{
\set x random(-20, 20)
\set i random(1, 400)
\set j random(1, 400)
\set new 1000 * (:client_id + 1) + random(1, 30)
BEGIN;
UPDATE a SET v = v + :x WHERE id = :i;
INSERT INTO a VALUES (:new, :j % 5, :x) ON CONFLICT (id) DO UPDATE SET v = a.v + 1, grp = excluded.grp;
UPDATE a SET id = id + 100 WHERE id = :new AND NOT EXISTS (SELECT FROM a AS b WHERE b.id = :new + 100);
DELETE FROM a WHERE id = :new + 100 AND v % 2 = 0;
COMMIT;
});
my $load;

sub load_runs
{
	return if $load && waitpid($load, POSIX::WNOHANG()) == 0;
	$load = spawn_pgbench($node, '/dev/null', $node->basedir . '/pgbench.err',
		'-n', '-c', '2', '-T', '3600', '-R', '80', '-f', $script);
	return;
}

# Stop, and wait until the server has nothing of it in hand any more.
sub load_stops
{
	stop_pgbench($node, $load);
	return;
}

sub all_same
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck ('sums', 'rows', 'calm')
	{
		return fail("$name: truck $truck catches up") unless caught_up($node, $truck);
	}
	my $n = sql(q{SELECT trucker.retry_quarantined('sums') + trucker.retry_quarantined('rows')});
	becomes(q{SELECT sum(quarantined) = 0 FROM trucker.status}, "$name: all of $n can be applied") or return 0;
	return same($node, 'SELECT grp, sum(v)::bigint, count(*) FROM a GROUP BY grp', 'SELECT grp, v, n FROM sums_out WHERE (v, n) <> (0, 0)', "$name: nothing is lost or applied twice")
	  & same($node, 'TABLE a', 'TABLE rows_out', "$name: each row is as its last change left it")
	  & same($node, 'TABLE a', 'TABLE calm_out', "$name: and so it is where nothing fails");
}

# ----
# Stopping and killing
# ----

sub stop_at
{
	my ($point) = @_;

	sql(defined $point ? "ALTER SYSTEM SET trucker.stop_point = '$point'" : 'ALTER SYSTEM RESET trucker.stop_point');
	$node->reload if defined $point;
	return;
}

# The process that has come to the point, since the log had that size.
sub who_stops_at
{
	my ($point, $log) = @_;

	$node->wait_for_log(qr/\[\d+\] LOG:  stop point "\Q$point\E" reached/, $log);
	my ($pid) = slurp_file($node->logfile, $log) =~ /\[(\d+)\] LOG:  stop point "\Q$point\E" reached/;
	return $pid;
}

sub strike
{
	my ($way, $pid) = @_;

	stop_at(undef);
	if    ($way eq 'kill -9') { kill_server_process($node, $pid); }
	elsif ($way eq 'SIGTERM') { kill 'TERM', $pid; }
	elsif ($way eq 'stop()')  { sql('SELECT trucker.stop()'); }
	else                      { disaster($node, $way, ''); }
	$node->reload;
	# a process that has just ended by itself cannot be killed, and the load goes on
	load_stops() if $load && is_crash($way);
	return;
}

my @ways = ('kill -9', 'kill -9 of the postmaster', 'immediate shutdown', 'SIGTERM', 'stop()');
my @points = ('quarantine: written', 'quarantine: committed', 'retry: applied', 'retry: committed');

sql(q{SELECT trucker.start()});
ok(caught_up($node, $_), "$_ is loaded") foreach qw(sums rows calm);

my @hands;
foreach my $point (shuffle(@points), shuffle(@points))
{
	@hands = shuffle(@ways) unless @hands;
	my $way  = shift @hands;
	my $name = "$way at \"$point\"";
	my $log  = -s $node->logfile;

	sql('INSERT INTO trouble VALUES (1)');
	load_runs();
	becomes(q{SELECT min(quarantined) > 0 FROM trucker.status WHERE truck <> 'calm'}, "before $name: some things fail") or last;
	stop_at($point);
	if ($point =~ /^retry/)
	{
		sql('DELETE FROM trouble');
		sql(q{SELECT trucker.retry_quarantined('sums'), trucker.retry_quarantined('rows')});
	}
	my $pid = who_stops_at($point, $log);
	wal_passes($node, int(rand(30_000)));
	strike($way, $pid);
	sql('INSERT INTO trouble VALUES (1)');
	sql('SELECT trucker.start()');
	load_runs();
	wal_passes($node, int(rand(30_000)));
	# some trouble is over while the load goes on
	sql('DELETE FROM trouble') if rand() < 0.5;
	wal_passes($node, int(rand(30_000)));
	load_stops();
	sql('DELETE FROM trouble');
	last unless all_same($name);
}

# ----
# skip()
# ----

# Each source transaction adds a row; what is skipped stays away, and nothing else does.
sql(q{
CREATE TABLE s (id int PRIMARY KEY);
CREATE TABLE s_out (id int PRIMARY KEY CHECK (id % 10 <> 7));
SELECT trucker.create_truck('plain', '{s}', 'INSERT INTO s_out SELECT id FROM r');
SELECT trucker.start('plain')});
ok(caught_up($node, 'plain'), 'a truck to which skip() is');
my $next = 0;
foreach my $point ('skip: written', 'skip: committed', 'catch-up begun')
{
	foreach my $way ('kill -9', 'immediate shutdown')
	{
		my $log = -s $node->logfile;

		sql("INSERT INTO s VALUES ($_)") foreach $next + 1 .. $next + 9;
		$next += 10;
		becomes(q{SELECT failed_lsn IS NOT NULL FROM trucker.status WHERE truck = 'plain'}, 'it fails') or last;
		# what is tried again and again may come there at once
		stop_at($point);
		sql(q{SELECT trucker.skip('plain', failed_lsn) FROM trucker.status WHERE truck = 'plain'});
		strike($way, who_stops_at($point, $log));
		ok(caught_up($node, 'plain'), "$way at \"$point\"");
		same($node, 'SELECT id FROM s WHERE id % 10 <> 7', 'SELECT id FROM s_out', 'the one is skipped, and no other');
		is(sql(q{SELECT skip_lsn IS NULL FROM trucker.truck_state JOIN trucker.truck ON id = truck_id WHERE name = 'plain'}), 't', 'and nothing is left to be skipped');
	}
}

is(join('', grep { /TRAP|PANIC|terminated by signal (?!9\b)/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed by itself');

$node->stop;
done_testing();
