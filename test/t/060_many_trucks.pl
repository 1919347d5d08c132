# 200 trucks over 50 tables on one stream: started all at once and one by one, failing
# all at once for one cause, and through a crash.  One of them has another cause to
# fail, that never comes; it must not notice the others.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(max);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TruckerChaos;
use TruckerTest;

my $trucks = 200;
my $tables = 50;

my $node = trucker_node(
	'many_trucks',
	conf => q{
fsync = off
trucker.retry_max_delay = '1s'
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Waits for a number of trucks of which the condition is true; and shows all others.
sub wait_trucks
{
	my ($n, $condition, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT count(*) = $n FROM trucker.status WHERE $condition"), $name)
	  || diag sql("SELECT state, stream, waiting_for, left(last_error, 200), count(*) FROM trucker.status WHERE NOT ($condition) GROUP BY 1, 2, 3, 4");
}

sub slots
{
	my ($n, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT count(*) = $n AND (SELECT count(*) = $n FROM trucker.stream) FROM pg_replication_slots"), $name)
	  || diag sql('TABLE trucker.stream');
}

# ----
# Tables, trucks, load
# ----

# Truck n reads table n % 50 and adds up; every tenth reads the next table as well.
sql(qq{
CREATE ROLE app;
GRANT CREATE, USAGE ON SCHEMA public TO app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO app;
SET ROLE app;
DO \$\$
BEGIN
	FOR n IN 0 .. $tables - 1 LOOP
		EXECUTE format('CREATE TABLE src_%s (id int PRIMARY KEY, v int NOT NULL)', n);
		EXECUTE format('ALTER TABLE src_%s REPLICA IDENTITY FULL', n);
		EXECUTE format('INSERT INTO src_%s SELECT i, i + %s FROM generate_series(1, 100) AS i', n, n);
	END LOOP;
END
\$\$;
CREATE TABLE total (truck int, tab text, v bigint NOT NULL, n bigint NOT NULL, PRIMARY KEY (truck, tab)) WITH (fillfactor = 50);
CREATE TABLE witness (LIKE total INCLUDING ALL);
CREATE TABLE reads (truck int, tab int);
INSERT INTO reads SELECT n, n % $tables FROM generate_series(1, $trucks) AS n;
INSERT INTO reads SELECT n, (n + 1) % $tables FROM generate_series(10, $trucks, 10) AS n;
});

# How long is a minute?  Longer on a machine that has no time: twenty sessions come and go in a
# second elsewhere.
sub minute
{
	my $began = time;

	sql('SELECT 1') foreach 1 .. 20;
	my $took = time - $began;
	note sprintf '20 sessions took %.1f s', $took;
	return 60 * max(1, $took);
}

sub create_all
{
	sql(qq{
SET ROLE app;
DELETE FROM total;
DELETE FROM witness;
SELECT trucker.create_truck('t' || n, (SELECT array_agg(('src_' || tab)::regclass) FROM reads WHERE truck = n), format(\$\$
	INSERT INTO %I AS t
	SELECT %s, '{{ .input_table }}', sum(v), sum(n)
	FROM (SELECT v, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL
		  SELECT -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
	HAVING count(*) > 0
	ON CONFLICT (truck, tab) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n
	\$\$, CASE WHEN n = 1 THEN 'witness' ELSE 'total' END, n),
	options => jsonb_build_object('reset_sql', format('DELETE FROM %I WHERE truck = %s', CASE WHEN n = 1 THEN 'witness' ELSE 'total' END, n)))
FROM generate_series(1, $trucks) AS n});
	return;
}

# All have all, each change once.
sub all_same
{
	my ($name) = @_;
	my $missed = sql(q{SELECT count(*) FROM trucker.status WHERE NOT trucker.wait_for(truck, timeout => '120 s')});

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($missed, 0, "$name: all are up to date");
	my $sources = join ' UNION ALL ', map { "SELECT $_ AS tab, sum(v)::bigint AS v, count(*) AS n FROM src_$_" } 0 .. $tables - 1;
	return same($node,
		"SELECT truck, 'public.src_' || tab, v, n FROM ($sources) AS s JOIN reads USING (tab)",
		'SELECT truck, tab, v, n FROM total UNION ALL SELECT truck, tab, v, n FROM witness', $name);
}

my $script = $node->basedir . '/load.sql';
append_to_file($script, join '', qq{
\\set one random(0, $tables - 1)
\\set two random(0, $tables - 1)
\\set id random(1, 100)
\\set new 1000 * (:client_id + 1) + random(1, 100)
BEGIN;
UPDATE src_:one SET v = v + 1 WHERE id = :id;
INSERT INTO src_:two VALUES (:new, :id) ON CONFLICT (id) DO UPDATE SET v = src_:two.v + 1;
DELETE FROM src_:one WHERE id = :new;
COMMIT;
});
my $load;

sub load_runs
{
	$load = spawn_pgbench($node, '/dev/null', $node->basedir . '/pgbench.err', '-n', '-c', '2', '-T', '3600', '-R', '100', '-f', $script);
	return;
}

sub load_stops
{
	stop_pgbench($node, $load);
	return;
}

# A transaction that concerns every truck.
sub change_all
{
	sql(join ';', 'BEGIN', (map { "UPDATE src_$_ SET v = v + 1 WHERE id % 10 = 1" } 0 .. $tables - 1), 'COMMIT');
	return;
}

# ----
# All at once
# ----

create_all();
load_runs();
my $minute = minute();
my $started = time;
sql('SELECT trucker.start()');
wait_trucks($trucks, "state = 'streaming' AND stream = 'main'", "$trucks trucks stream after one start()");
my $took = time - $started;
note sprintf 'start() of all took %.1f s', $took;
cmp_ok($took, '<', $minute, 'within a minute');
slots(1, 'from one slot');
is(sql('SELECT count(DISTINCT pid) FROM trucker.truck_workers()'), 1, 'in one worker');
load_stops();
all_same('started all at once');

# ----
# One cause for all
# ----

# All but the witness lose the right to write.
foreach my $round (1 .. 2)
{
	load_runs();
	my $since = sql('SELECT now()');
	sql('REVOKE UPDATE ON total FROM app');
	change_all();
	wait_trucks($trucks - 1, "last_error ~ 'permission denied for table total' AND last_error_at > '$since' AND state IN ('retrying', 'waiting')",
		"round $round: one cause fails all but one");
	wait_trucks($trucks - 1, "stream = 'main (catch-up)'", "round $round: they have left");
	# a stream that has got on cannot take one that failed earlier, so it may be more than one
	cmp_ok(sql('SELECT count(*) FROM pg_replication_slots'), '<=', 1 + sql('SHOW trucker.max_catchup_streams'),
		"round $round: and share what they need to go on");
	change_all();
	ok(caught_up($node, 't1'), "round $round: the one goes on");
	is(sql(q{SELECT state || ' ' || stream FROM trucker.status WHERE truck = 't1'}), 'streaming main', "round $round: as ever");
	sql('GRANT UPDATE ON total TO app');
	wait_trucks($trucks, "state = 'streaming' AND stream = 'main'", "round $round: without the cause, all are back");
	slots(1, "round $round: no slot stays behind");
	load_stops();
	all_same("round $round: after they have failed");
}

# Now all of them.
sql('REVOKE UPDATE ON total, witness FROM app');
change_all();
wait_trucks($trucks, "last_error ~ 'permission denied' AND state = 'retrying'", 'one cause fails all');
cmp_ok(sql('SELECT count(*) FROM pg_replication_slots'), '<=', 1 + sql('SHOW trucker.max_catchup_streams'), 'they share what they need to go on');
sql('GRANT UPDATE ON total, witness TO app');
wait_trucks($trucks, "state = 'streaming' AND stream = 'main'", 'without the cause, all go on');
all_same('after all have failed');

# ----
# A crash
# ----

# Kills the worker, and thereby the server, under load.
sub crash
{
	my ($name) = @_;
	my $offset = -s $node->logfile;

	# one that has just ended by itself has not been killed
	kill_server_process($node, stream_worker_pid($node, 't1')) until $node->log_contains(qr/was terminated by signal 9/, $offset);
	pass("$name: the server crashes");
	load_stops();
	wait_trucks($trucks, "state = 'streaming' AND stream = 'main'", "$name: all are back");
	slots(1, "$name: no slot stays behind");
	all_same($name);
	return;
}

load_runs();
crash('while all stream');
load_runs();
sql('SELECT trucker.resync(truck) FROM trucker.status');
ok($node->poll_query_until('postgres', "SELECT count(*) BETWEEN 20 AND $trucks - 20 FROM trucker.truck_state WHERE needs_backfill"),
	'some have been loaded anew, and some have not');
crash('in the midst of backfills');

# ----
# One by one
# ----

sql('SELECT trucker.drop_truck(truck) FROM trucker.status');
slots(0, 'dropped trucks leave no slot');
create_all();
load_runs();
$minute = minute();
$started = time;
sql(join '', map { "SELECT trucker.start('t$_');\n" } 1 .. $trucks);
note sprintf '%d calls of start() took %.1f s', $trucks, time - $started;
wait_trucks($trucks, "state = 'streaming' AND stream = 'main'", "$trucks trucks stream after as many calls of start()");
$took = time - $started;
note sprintf 'until all stream: %.1f s', $took;
cmp_ok($took, '<', $minute, 'within a minute');
slots(1, 'from one slot');
load_stops();
all_same('started one by one');

# ----
# Half of them
# ----

sql(join '', map { 'SELECT trucker.stop(\'t' . (2 * $_) . "');\n" } 1 .. $trucks / 2);
wait_trucks($trucks / 2, "state = 'stopped' AND stream = 'main (catch-up)'", 'half of them are stopped');
cmp_ok(sql('SELECT count(*) FROM pg_replication_slots'), '<=', 3, 'they share what keeps the WAL for them');
change_all();
ok(caught_up($node, 't1'), 'the others go on');
sql('SELECT trucker.start()');
wait_trucks($trucks, "state = 'streaming' AND stream = 'main'", 'all are back');
slots(1, 'no slot stays behind');
all_same('in the end');

is(join('', grep { /TRAP|PANIC|terminated by signal (?!9\b)/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed by itself');

$node->stop;

done_testing();
