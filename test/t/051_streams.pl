# Streams: many trucks on one slot and one worker; each keeps its own position and its
# own troubles.  Trucks come and go, fail, block and rest, and the others do not notice;
# whoever is behind reads on another stream and comes back; no slot stays behind.
#
# Every truck adds up what it reads, so a change that is lost, or applied twice, shows
# in the comparison of its row with the source.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'streams',
	# (a short max_truck_delay only where trucks are to be too slow: others may be as well)
	conf => q{
trucker.max_truck_delay = '10s'
trucker.retry_max_delay = '300ms'
trucker.log_repeat_interval = 0
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# What trucker.status shows of a truck.
sub status
{
	my ($column, $truck) = @_;

	return sql("SELECT $column FROM trucker.status WHERE truck = '$truck'");
}

sub wait_status
{
	my ($truck, $condition, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT $condition FROM trucker.status WHERE truck = '$truck'"), $name)
	  || diag sql('SELECT truck, state, stream, waiting_for, last_error FROM trucker.status');
}

# ----
# Trucks that add up, and what may befall them
# ----

sql(q{
CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL);
CREATE TABLE b (id int PRIMARY KEY, v int NOT NULL);
ALTER TABLE a REPLICA IDENTITY FULL;
ALTER TABLE b REPLICA IDENTITY FULL;
INSERT INTO a SELECT n, n FROM generate_series(1, 100) AS n;
INSERT INTO b SELECT n, -n FROM generate_series(1, 100) AS n;
CREATE TABLE total (truck text, tab text, v bigint NOT NULL, n bigint NOT NULL, PRIMARY KEY (truck, tab));

CREATE TABLE trouble (truck text PRIMARY KEY, kind text NOT NULL);
CREATE FUNCTION trouble(name text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
	k text;
BEGIN
	SELECT kind INTO k FROM trouble WHERE truck = name;
	IF k = 'fail' THEN
		RAISE 'trouble of truck %', name;
	ELSIF k = 'block' THEN
		PERFORM pg_advisory_xact_lock_shared(1);
	END IF;
	RETURN true;
END
$$});

my %inputs;

# create($truck, $inputs, $options): a truck whose rows in table total are its inputs'
# sums and counts.
sub create
{
	my ($truck, $inputs, $options) = @_;

	$options //= '';
	$inputs{$truck} = [ split /, /, $inputs ];
	sql(qq{SELECT trucker.create_truck('$truck', '{$inputs}', \$\$
		INSERT INTO total AS t
		SELECT '$truck', '{{ .input_table }}', sum(v), sum(n)
		FROM (SELECT v, 1 AS n FROM r WHERE meta__operation <> 'delete'
			  UNION ALL
			  SELECT -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
		WHERE trouble('$truck')
		HAVING count(*) > 0
		ON CONFLICT (truck, tab) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n
	\$\$, options => '{"reset_sql": "DELETE FROM total WHERE truck = ''$truck''"$options}')});
	return;
}

sub trouble
{
	my ($kind, @trucks) = @_;

	sql("INSERT INTO trouble VALUES ('$_', '$kind') ON CONFLICT (truck) DO UPDATE SET kind = excluded.kind") foreach @trucks;
	return;
}

sub heal
{
	my (@trucks) = @_;

	sql("DELETE FROM trouble WHERE truck = '$_'") foreach @trucks;
	return;
}

my $next = 1000;

# Two transactions that change both tables.
sub change
{
	$next++;
	sql("BEGIN; INSERT INTO a VALUES ($next, 1); UPDATE b SET v = v + 3 WHERE id = 1 + $next % 100; INSERT INTO b VALUES ($next, 2); COMMIT");
	sql("BEGIN; UPDATE a SET v = v - 5 WHERE id % 10 = $next % 10; DELETE FROM b WHERE id = $next; COMMIT");
	return;
}

# All of these trucks are up to date, and have counted each change once.
sub all_same
{
	my ($name, @trucks) = @_;
	my @a;
	my @b;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck (@trucks)
	{
		return fail("$name: truck $truck catches up") unless caught_up($node, $truck);
		push @a, map { "SELECT '$truck' AS truck, 'public.$_' AS tab, sum(v)::bigint, count(*) FROM $_" } @{ $inputs{$truck} };
		push @b, "SELECT truck, tab, v, n FROM total WHERE truck = '$truck'";
	}
	return same($node, join(' UNION ALL ', @a), join(' UNION ALL ', @b), $name);
}

# There are as many slots as this, each one of a stream that carries trucks.
sub slots
{
	my ($n, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', qq{
			SELECT count(*) = $n AND count(x.id) = $n AND (SELECT count(*) = $n FROM trucker.stream)
			FROM pg_replication_slots AS s LEFT JOIN trucker.stream AS x USING (slot_name)}), $name)
	  || diag sql('SELECT slot_name FROM pg_replication_slots') . "\n" . sql('TABLE trucker.stream');
}

# A session that has executed this in a transaction that goes on.
sub session
{
	my ($statement) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe("BEGIN; $statement");
	return $session;
}

sub end_session
{
	my ($session, $how) = @_;

	$session->query_safe($how);
	$session->quit;
	return;
}

# ----
# One slot, one worker
# ----

create('one', 'a');
create('two', 'a, b');
create('three', 'b');
create('apart', 'a, b', ', "stream": "aside"');
sql(q{SELECT trucker.start()});
wait_status($_, "state = 'streaming'", "truck $_ runs") foreach qw(one two three apart);
is(sql('SELECT count(DISTINCT pid), count(DISTINCT stream_id), count(*) FROM trucker.truck_workers()'),
	'2|2|4', 'four trucks, two workers');
is(sql(q{SELECT string_agg(stream, ' ' ORDER BY truck) FROM trucker.status}),
	'aside main main main', 'the option stream says on which one; it is main by default');
slots(2, 'a slot for each stream');
change();
all_same('from the start on', qw(one two three apart));
like(psql_err($node, q{SELECT trucker.create_truck('bad', '{a}', 'SELECT 1', options => '{"stream": ""}')}),
	qr/option "stream" of a truck must be a name of 1 to 63 bytes/, 'a stream has a name');

# ----
# Coming and going
# ----

# The load makes every comparison a test of what happens in between.
my ($out, $err) = map { $node->basedir . "/pgbench.$_" } qw(out err);
my $script = $node->basedir . '/load.sql';
append_to_file($script, q{
\set id random(1, 100)
\set new 10000 * (:client_id + 1) + random(1, 200)
BEGIN;
UPDATE a SET v = v + 7 WHERE id = :id;
UPDATE b SET v = v - :id WHERE id = :id;
INSERT INTO a VALUES (:new, 1) ON CONFLICT (id) DO UPDATE SET v = a.v + 1;
DELETE FROM b WHERE id = :new;
INSERT INTO b VALUES (:new, :id);
COMMIT;
});
my $load;

sub load_runs
{
	$load = spawn_pgbench($node, $out, $err, '-n', '-c', '2', '-T', '3600', '-R', '100', '-f', $script);
	return;
}

sub load_stops
{
	is(waitpid($load, POSIX::WNOHANG()), 0, 'the load has met no error') or diag slurp_file($err);
	kill 'TERM', $load;
	waitpid $load, 0;
	return;
}

my $worker = worker_pid($node, 'one');
load_runs();
create('four', 'a, b');
sql(q{SELECT trucker.start('four')});
wait_status('four', "state = 'streaming' AND stream = 'main'", 'a truck that is started while others stream joins them');
slots(2, 'and leaves no slot of its own');
sql(q{SELECT trucker.stop('two')});
wait_status('two', "state = 'stopped' AND stream = 'main (catch-up)'", 'one that is stopped leaves');
slots(3, 'its slot keeps the WAL for it');
my $kept = sql(q{SELECT confirmed_flush_lsn FROM pg_replication_slots JOIN trucker.stream USING (slot_name) WHERE name = 'main' AND NOT home});
ok($node->poll_query_until('postgres', qq{
		SELECT confirmed_flush_lsn > '$kept' FROM pg_replication_slots JOIN trucker.stream USING (slot_name) WHERE name = 'main' AND home}),
	'the stream does not');
like(psql_err($node, q{SELECT trucker.wait_for('two')}), qr/truck "two" is stopped/, 'wait_for() knows that');
sql(q{SELECT trucker.stop('one')});
wait_status('one', "state = 'stopped' AND stream = 'main (catch-up)'", 'another one leaves');
slots(3, 'and shares the slot of the first');
sql(q{SELECT trucker.start('two')});
wait_status('two', "state = 'streaming' AND stream = 'main'", 'started again, a truck catches up and joins');
wait_status('one', "state = 'stopped'", 'the one beside it goes on to rest');
slots(3, 'and keeps its slot');
sql(q{SELECT trucker.start('one')});
wait_status('one', "state = 'streaming' AND stream = 'main'", 'until it is started, too');
slots(2, 'then that slot goes');
foreach my $truck (qw(three four))
{
	sql(qq{SELECT trucker.stop('$truck')});
	sql(qq{SELECT trucker.start('$truck')});
}
sql(q{SELECT trucker.resync('two')});
wait_status($_, "state = 'streaming' AND stream = 'main'", "truck $_: stopped and started again at once, or loaded anew") foreach qw(two three four);
load_stops();
all_same('after coming and going', qw(one two three four apart));
is(worker_pid($node, 'one'), $worker, 'it was one worker all the time');
slots(2, 'no slot stays behind');

# ----
# Failing
# ----

load_runs();
trouble('fail', 'two');
change();
wait_status('two', "state = 'retrying' AND stream = 'main (catch-up)' AND last_error ~ 'P0001: trouble of truck two'",
	'a truck that fails leaves at once, and is tried again');
trouble('fail', 'four');
wait_status('four', "state = 'retrying' AND stream = 'main (catch-up)'", 'so does another one');
slots(3, 'they share a catch-up stream');
change();
ok(caught_up($node, $_), "while others fail: $_") foreach qw(one three apart);
heal('two');
wait_status('two', "state = 'streaming' AND stream = 'main'", 'what has recovered joins');
wait_status('four', "state = 'retrying'", 'what has not stays');
heal('four');
wait_status('four', "state = 'streaming' AND stream = 'main'", 'and joins later');
load_stops();
slots(2, 'no slot stays behind');
all_same('after failures', qw(one two three four apart));

# Those that read the same table as one that has left must not be told of its names.
trouble('fail', 'four');
change();
wait_status('four', "stream = 'main (catch-up)'", 'the first of several that read a table leaves');
sql('CREATE INDEX ON a (v)');
change();
all_same('DDL on its table', qw(one two three));
heal('four');
all_same('the one that had left', 'four');
wait_status('four', "state = 'streaming' AND stream = 'main'", 'it joins');

# A pause may be long; start() ends it, on a catch-up stream that others use as well.
sql(q{ALTER SYSTEM SET trucker.retry_initial_delay = '1h'});
sql(q{ALTER SYSTEM SET trucker.retry_max_delay = '1h'});
$node->reload;
trouble('fail', qw(one two));
change();
wait_status($_, "state = 'retrying' AND stream = 'main (catch-up)' AND next_retry_at > now() + '50 min'", "truck $_ pauses for an hour") foreach qw(one two);
heal('two');
sql(q{SELECT trucker.start('two')});
wait_status('two', "state = 'streaming' AND stream = 'main'", 'start() ends the pause');
heal('one');
sql(q{SELECT trucker.start('one')});
wait_status('one', "state = 'streaming' AND stream = 'main'", 'for each truck');
sql("ALTER SYSTEM RESET $_") foreach qw(trucker.retry_initial_delay trucker.retry_max_delay);
$node->reload;

# Failing for good: what cannot succeed is stopped, also beside one that goes on.
create('strict', 'a', ', "on_error": "stop"');
sql(q{SELECT trucker.start('strict')});
wait_status('strict', "state = 'streaming' AND stream = 'main'", 'a truck with on_error = stop');
trouble('fail', qw(strict two));
change();
wait_status('strict', "state = 'failed' AND stream = 'main (catch-up)'", 'is stopped by its first error');
wait_status('two', "state = 'retrying' AND stream = 'main (catch-up)'", 'others are not');
sql(q{ALTER SYSTEM SET trucker.max_failures = 3});
$node->reload;
wait_status('two', "state = 'failed'", 'until they have failed max_failures times in a row');
like(psql_err($node, q{SELECT trucker.wait_for('two')}), qr/truck "two" has failed\nDETAIL:  Its last error was P0001: trouble of truck two\.\nHINT:  .*SELECT trucker\.start\('two'\);/, 'wait_for() does not wait for it, and says why');
heal(qw(strict two));
change();
all_same('beside failed trucks', qw(one three four));
is(status('state', 'strict'), 'failed', 'it needs start()');
sql(q{SELECT trucker.start('strict'); SELECT trucker.start('two')});
all_same('started again after they had failed', qw(strict two));
sql('ALTER SYSTEM RESET trucker.max_failures');
$node->reload;
wait_status($_, "state = 'streaming' AND stream = 'main'", "truck $_ joins") foreach qw(strict two);
sql(q{SELECT trucker.drop_truck('strict')});
slots(2, 'a dropped truck leaves no slot');

# ----
# wait_for while a truck moves
# ----

# Whenever it says true, what was committed before is there.
my $early = 0;
my $moves = 0;
foreach my $round (1 .. 12)
{
	my $kind = $round % 3;

	if    ($kind == 0) { sql(q{SELECT trucker.stop('two')}); change(); sql(q{SELECT trucker.start('two')}); }
	elsif ($kind == 1) { trouble('fail', 'two'); change(); wait_status('two', "stream <> 'main'", "round $round: it leaves"); heal('two'); }
	else               { sql(q{SELECT trucker.resync('two')}); }
	foreach my $more (1 .. 3)
	{
		sql('INSERT INTO a VALUES (' . ++$next . ', 1)');
		my $said = sql(qq{SELECT trucker.wait_for('two', timeout => '$PostgreSQL::Test::Utils::timeout_default s')});
		my $there = sql(q{SELECT t.n >= (SELECT count(*) FROM a) FROM total AS t WHERE truck = 'two' AND tab = 'public.a'});
		$early++ unless $said eq 't' && $there eq 't';
		$moves++;
	}
}
is($early, 0, "what wait_for() has said $moves times while the truck moved was true each time");
wait_status('two', "state = 'streaming' AND stream = 'main'", 'the truck is at home');
slots(2, 'no slot stays behind');

# ----
# Blocking
# ----

sql(q{ALTER SYSTEM SET trucker.max_truck_delay = '300ms'});
$node->reload;
load_runs();
my $lock = session('SELECT pg_advisory_lock(1)');
trouble('block', 'one');
wait_status('one', "stream = 'main (catch-up)' AND waiting_for ~ '^pid'", 'a truck that waits for a lock leaves, and waits elsewhere');
change();
ok(caught_up($node, $_), "beside one that is blocked: $_") foreach qw(two three four apart);
# On its stream it has all the time, until another one comes.
trouble('fail', 'two');
change();
wait_status('two', "stream = 'main (catch-up)' AND last_error_at > now() - interval '10 s'", 'one that fails comes to the same stream');
slots(3, 'there is one catch-up stream');
heal('two');
ok(caught_up($node, 'two'), 'which is no hindrance');
trouble('block', qw(two three four));
wait_status('three', "waiting_for ~ '^pid'", 'all are blocked');
change();
ok(caught_up($node, 'apart'), 'but for the other stream');
ok($node->poll_query_until('postgres', 'SELECT count(*) <= 3 FROM pg_replication_slots'), 'they share one catch-up stream');
heal(qw(two three four));
end_session($lock, 'COMMIT; SELECT pg_advisory_unlock(1)');
heal('one');
sql('ALTER SYSTEM RESET trucker.max_truck_delay');
$node->reload;
load_stops();
all_same('after the lock', qw(one two three four apart));
wait_status($_, "state = 'streaming' AND stream = 'main'", "truck $_ is back") foreach qw(one two three four);
slots(2, 'no slot stays behind');

# A transaction that has called stop() holds the truck's row: others must not wait.
my $stopper = session(q{SELECT trucker.stop('two')});
my $log = -s $node->logfile;
trouble('fail', 'two');
change();
ok($node->poll_query_until('postgres', q{SELECT state <> 'streaming' FROM trucker.status WHERE truck = 'two'}), 'a truck fails whose row is locked');
foreach my $round (1 .. 5)
{
	change();
	ok(caught_up($node, $_), "the others go on: $_, round $round") foreach qw(one three);
}
unlike(slurp_file($node->logfile, $log), qr/lock timeout/, 'nobody has waited for the lock');
heal('two');
end_session($stopper, 'ROLLBACK');
all_same('after the lock on its row', qw(one two three four));
wait_status('two', "state = 'streaming' AND stream = 'main'", 'it is back');
slots(2, 'no slot stays behind');

# ----
# Limits
# ----

sql(q{CREATE TABLE helper (); SELECT trucker.create_truck('vain', '{a}', 'SELECT FROM r, helper', options => '{"backfill": false}'); SELECT trucker.start('vain')});
wait_status('vain', "state = 'streaming' AND stream = 'main'", 'a truck that reads another table');
sql(q{ALTER SYSTEM SET trucker.max_catchup_streams = 1});
$node->reload;
create('second', 'a', ', "stream": "aside"');
sql(q{SELECT trucker.start('second')});
wait_status('second', "state = 'streaming' AND stream = 'aside'", 'two trucks on another stream');
trouble('fail', 'second');
change();
wait_status('second', "state = 'retrying' AND stream = 'aside (catch-up)'", 'one of which takes the only catch-up stream');
trouble('fail', 'two');
change();
wait_status('two', "state = 'waiting' AND stream = 'main' AND waiting_for = 'a catch-up stream (trucker.max_catchup_streams, max_replication_slots)'",
	'a truck that fails cannot leave, and says so');
change();
all_same('beside one that cannot leave', qw(one three four));

# One whose SQL does not even compile any more is tried again and again beside those that
# work, by the same process: nothing of it is left there.
$log = -s $node->logfile;
my $pid = worker_pid($node, 'one');
sql('ALTER TABLE helper RENAME TO gone');
change();
$node->wait_for_log(qr/(?:ERROR:  relation "helper" does not exist(?:.|\n)*){6}/, $log);
sql("SELECT pg_log_backend_memory_contexts($pid)");
$node->wait_for_log(qr/logging memory contexts of PID $pid(?:.|\n)*Grand total:/, $log);
my @programs = slurp_file($node->logfile, $log) =~ /\[$pid\].*level: \d+; trucker program:/g;
cmp_ok(scalar @programs, '>', 0, 'what has been compiled is in memory');
cmp_ok(scalar @programs, '<', 6 + 1, 'and nothing of what has been in vain');
is(worker_pid($node, 'one'), $pid, 'of a process that has seen all of it');
sql(q{SELECT trucker.drop_truck('vain'); DROP TABLE gone});

heal('two');
all_same('what has recovered needs no catch-up stream', 'two');
is(status('stream', 'two'), 'main', 'it has been tried again at home');
create('five', 'a, b');
sql(q{SELECT trucker.start('five')});
wait_status('five', "state = 'waiting' AND waiting_for ~ 'max_catchup_streams'", 'a truck that starts waits, too');
heal('second');
all_same('as soon as there is one', qw(five second));
wait_status('five', "state = 'streaming' AND stream = 'main'", 'it goes on');
wait_status('second', "state = 'streaming' AND stream = 'aside'", 'and so does the other one');
slots(2, 'no slot stays behind');
sql(q{ALTER SYSTEM RESET trucker.max_catchup_streams});
$node->reload;

my $free = sql(q{SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_replication_slots});
sql(qq{SELECT pg_create_physical_replication_slot('taken_' || n) FROM generate_series(1, $free) AS n});
trouble('fail', 'two');
change();
wait_status('two', "state = 'waiting' AND stream = 'main'", 'all slots are used: a truck that fails stays');
create('six', 'a');
like(psql_err($node, q{SELECT trucker.start('six')}), qr/53400: 1 replication slot is needed, and 0 are free/, 'and none can be started');
change();
all_same('without a free slot', qw(one three four));
sql(q{SELECT pg_drop_replication_slot('taken_1')});
wait_status('two', "state = 'retrying' AND stream = 'main (catch-up)'", 'it leaves when there is one');
heal('two');
wait_status('two', "state = 'streaming' AND stream = 'main'", 'and is back');
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_type = 'physical'});
all_same('after slots had been used up', qw(one two three four five));
slots(2, 'no slot stays behind');

# ----
# Resting
# ----

# Each is stopped on the stream that it was started on.
sub start_and_stop
{
	my ($truck) = @_;
	my $log = -s $node->logfile;

	create($truck, 'a, b');
	sql(q{ALTER SYSTEM SET trucker.stop_point = 'catch-up begun'});
	$node->reload;
	sql("SELECT trucker.start('$truck')");
	$node->wait_for_log(qr/stop point "catch-up begun" reached/, $log);
	sql("SELECT trucker.stop('$truck')");
	sql('ALTER SYSTEM RESET trucker.stop_point');
	$node->reload;
	return wait_status($truck, "state = 'stopped' AND stream = 'main (catch-up)'", "$truck rests on a catch-up stream");
}

sql(q{ALTER SYSTEM SET trucker.max_catchup_streams = 3});
start_and_stop('rest1');
slots(3, 'which has a slot');
change();
start_and_stop('rest2');
slots(3, 'trucks that rest near each other share one');
sql(q{SELECT pg_logical_emit_message(false, 'test', repeat('x', 70 * 1024 * 1024))});
change();
start_and_stop('rest3');
slots(4, 'one that is far from them has its own');
sql(q{SELECT pg_logical_emit_message(false, 'test', repeat('x', 70 * 1024 * 1024))});
start_and_stop('rest4');
slots(3, 'unless slots are short; those that rest keep nobody from starting');
change();
sql(qq{SELECT trucker.start('rest$_')}) foreach 3, 1, 4, 2;
all_same('after they have shared a slot', map { "rest$_" } 1 .. 4);
wait_status("rest$_", "state = 'streaming' AND stream = 'main'", "rest$_ is at home") foreach 1 .. 4;
slots(2, 'no slot stays behind');
sql(qq{SELECT trucker.drop_truck('rest$_')}) foreach 1 .. 4;
sql(q{ALTER SYSTEM RESET trucker.max_catchup_streams});
$node->reload;

# ----
# The home
# ----

# When all trucks of the home rest, whoever runs takes its place.  And trucks that rest
# do not keep others from starting, however many they are.
sql(q{SELECT trucker.stop()});
wait_status($_, "state = 'stopped'", "truck $_ is stopped") foreach qw(one five apart second);
foreach my $n (1 .. 6)
{
	create("rest_$n", 'b');
	sql("SELECT trucker.start('rest_$n')");
	wait_status("rest_$n", "state = 'streaming' AND stream = 'main'", "a truck is started while $n streams rest");
	sql("SELECT trucker.stop('rest_$n')");
	wait_status("rest_$n", "state = 'stopped'", 'and stopped');
	change();
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = count(DISTINCT name) FROM trucker.stream WHERE NOT home}),
	'those that rest share a slot');
sql(q{SELECT trucker.start()});
my @all = (qw(one two three four five second apart), map { "rest_$_" } 1 .. 6);
all_same('all of them', @all);
wait_status($_, "state = 'streaming' AND stream !~ 'catch-up'", "truck $_ is home") foreach @all;
slots(2, 'no slot stays behind');
is(sql('SELECT count(*) FROM trucker.stream WHERE home'), 2, 'each stream has one home');

# ----
# Lost
# ----

sql('CREATE TABLE c (id int PRIMARY KEY, v int NOT NULL); ALTER TABLE c REPLICA IDENTITY FULL; INSERT INTO c VALUES (1, 1)');
create('reader', 'a, c');
sql(q{SELECT trucker.start('reader')});
wait_status('reader', "state = 'streaming'", 'a truck that reads a table that others do not');
$node->psql('postgres', 'ALTER TABLE c RENAME TO d; ALTER TABLE d SET UNLOGGED');
wait_status('reader', "state = 'lost' AND stream IS NULL", 'is lost when it is made unlogged');
change();
all_same('beside a lost one', @all);
$inputs{reader} = [qw(a d)];
sql('ALTER TABLE d SET LOGGED');
sql(q{SELECT trucker.resync('reader')});
wait_status('reader', "state = 'streaming' AND stream = 'main'", 'it can be loaded anew');
all_same('and is the same', 'reader');

# ----
# The end
# ----

sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck <> 'apart'});
slots(1, 'dropped trucks leave no slot');
sql(q{SELECT trucker.drop_truck('apart')});
slots(0, 'nor does the last one');
is(sql('SELECT count(*) FROM trucker.truck_state') . sql('SELECT count(*) FROM trucker.position') . sql('SELECT count(*) FROM trucker.input_table'),
	'000', 'nothing is remembered of them');
is(join('', grep { /TRAP|PANIC|terminated by signal/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed');

$node->stop;

done_testing();
