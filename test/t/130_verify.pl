# trucker.verify() compares a destination with a query over the source at one position:
# under load it finds nothing where nothing is wrong, which no two snapshots taken
# somehow would do, and each row that somebody has changed, here and at another server.
# Nobody waits for it but the truck itself, and that goes on whatever ends the call.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerRemote;
use TruckerTest;

my $node = trucker_node('verify', conf => q{
autovacuum = off
timezone = 'UTC'
trucker.max_truck_delay = '1min'
});
my $there = remote_node('destination', conf => "log_statement = all\ntimezone = 'Asia/Tokyo'\ndatestyle = 'SQL, DMY'\nextra_float_digits = -10\nbytea_output = escape\nintervalstyle = sql_standard\n");

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# stop_at($point): the workers of trucks that stream must have read it before what comes next,
# which makes one of them come to it.  They are told before a new session sees it, and read it
# between batches.
sub stop_at
{
	my ($point) = @_;

	setting($node, 'trucker.stop_point', $point);
	caught_up($node, $_) or die 'the worker does not go on' foreach qw(flat total);
	return;
}

my $flat  = q{SELECT id, v, w, at FROM a};
my $total = q{SELECT k, count(*)::bigint AS n, sum(v) AS v FROM (SELECT id % 10 AS k, v FROM a UNION ALL SELECT id % 10, v FROM b) AS u GROUP BY k};

# a machine that is busy may need more than the minute that is given where nothing is said
my $timeout = "$PostgreSQL::Test::Utils::timeout_default s";

# verify($truck, $keys, $sql, $more): what it finds, row by row
sub verify
{
	my ($truck, $keys, $sql, $more) = @_;

	return sql("SELECT key, difference, expected, actual FROM trucker.verify('$truck', '$keys', \$q\$$sql\$q\$" . ($more // '') . ", timeout => '$timeout') ORDER BY key::text");
}

sub refused
{
	my ($call, $pattern, $test_name, %opts) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like(psql_err($node, ($opts{before} // '') . "SELECT * FROM trucker.verify($call)"), $pattern, $test_name);
}

# No slot but the home's is left, and all trucks are there.
sub all_at_home
{
	my ($test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 3 AND count(*) FILTER (WHERE state <> 'streaming' OR stream <> 'main') = 0
		AND (SELECT count(*) FROM pg_replication_slots) = 1 FROM trucker.status}), $test_name)
	  or diag sql('TABLE trucker.status; SELECT * FROM pg_replication_slots');
	return;
}

$node->safe_psql('postgres', q{
	CREATE TABLE a (id int PRIMARY KEY, v numeric NOT NULL, w float8, at timestamptz DEFAULT now());
	CREATE TABLE b (id int PRIMARY KEY, v numeric NOT NULL);
	ALTER TABLE a REPLICA IDENTITY FULL;
	ALTER TABLE b REPLICA IDENTITY FULL;
	INSERT INTO a SELECT n, n, n / 3.0 FROM generate_series(1, 20000) AS n;
	INSERT INTO b SELECT n, n FROM generate_series(1, 1000) AS n;
	CREATE TABLE flat (id int PRIMARY KEY, v numeric(20,4), w float8, at timestamptz);
	CREATE TABLE total (k int PRIMARY KEY, n bigint, v numeric);
	SELECT trucker.create_truck('flat', '{a}', options => '{"output_table": "flat"}');
	SELECT trucker.create_truck('total', '{a, b}', $$
		INSERT INTO total AS t
		SELECT k, sum(n), sum(v)
		FROM (SELECT id % 10 AS k, 1 AS n, v FROM r WHERE meta__operation <> 'delete'
			  UNION ALL SELECT old__id % 10, -1, -old__v FROM r WHERE meta__operation <> 'insert') AS d
		GROUP BY k ON CONFLICT (k) DO UPDATE SET n = t.n + excluded.n, v = t.v + excluded.v$$);
	});
$there->safe_psql('postgres', 'CREATE TABLE flat (id int PRIMARY KEY, v numeric(20,4), w float8, at timestamptz); GRANT ALL ON flat TO writer');
connect_remote($node, $there, 'warehouse');
sql(q{SELECT trucker.create_truck('there', '{a}', output_connection => 'warehouse', options => '{"output_table": "flat"}')},
	'SELECT trucker.start()');
caught_up($node, $_) or die "$_ does not run" foreach qw(flat total there);
all_at_home('the trucks share a stream');

# ----
# Nothing is found where nothing is wrong
# ----
append_to_file($node->basedir . '/load.sql', q{
\set id random(1, 1000)
\set jd random(1, 1000)
BEGIN;
UPDATE a SET v = v - 1, w = random() WHERE id = :id;
UPDATE b SET v = v + 1 WHERE id = :jd;
COMMIT;
BEGIN;
DELETE FROM a WHERE id = :id + 19000;
INSERT INTO a VALUES (:jd + 19000, :id, 0.1) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
END;
});
my $load = spawn_pgbench($node, '/dev/null', $node->basedir . '/load.err', qw(-n -c 4 -T 36000 -R 400 -f), $node->basedir . '/load.sql');

foreach my $round (1 .. 3)
{
	is(verify('flat', '{id}', $flat), '', "under load, round $round: flat is right");
	is(verify('total', '{k}', $total), '', "under load, round $round: sums of two tables are right");
	is(verify('there', '{id}', $flat), '', "under load, round $round: the table at the other server is right");
}

# several at a time: each truck has a stream for itself meanwhile
my @several = map { my $psql = $node->background_psql('postgres'); $psql->query_until(qr/asked/, "\\echo asked\nSELECT 'found ' || count(*) FROM trucker.verify($_);\n\\echo ended\n"); $psql }
  map { "$_, timeout => '$timeout'" } "'flat', '{id}', '$flat'", "'total', '{k}', '$total'", "'there', '{id}', '$flat'";
like($_->query_until(qr/ended/, ''), qr/found 0\n/, 'one of three calls at a time') foreach @several;
$_->quit foreach @several;
all_at_home('after that all are together again');

# What would be found without one position: the load changes what is summed up all the time.
my $before = sql('SELECT sum(v) FROM a');
ok($node->poll_query_until('postgres', "SELECT sum(v) <> $before FROM a"), 'the load runs');

# ----
# What is wrong is found, and nothing else
# ----
sub damage
{
	my ($where) = @_;

	$where->safe_psql('postgres', q{
		UPDATE flat SET v = 0.5 WHERE id = 5000;
		DELETE FROM flat WHERE id = 5001;
		INSERT INTO flat VALUES (-7, 1, NULL, '2020-01-01 00:00+00')});
	return;
}

my $at = sql('SELECT to_json(at::text) FROM a WHERE id = 5000');
my $w  = sql('SELECT w FROM a WHERE id = 5000');
my $w1 = sql('SELECT w FROM a WHERE id = 5001');
my $found = join "\n",
  qq({"id": "-7"}|unexpected||{"v": "1.0000", "w": null, "at": "2020-01-01 00:00:00+00", "id": "-7"}),
  qq({"id": "5000"}|different|{"v": "5000.0000", "w": "$w", "at": $at, "id": "5000"}|{"v": "0.5000", "w": "$w", "at": $at, "id": "5000"}),
  qq({"id": "5001"}|missing|{"v": "5001.0000", "w": "$w1", "at": $at, "id": "5001"}|);

foreach my $truck (qw(flat there))
{
	my $offset = -s $there->logfile;
	damage($truck eq 'flat' ? $node : $there);
	is(verify($truck, '{id}', $flat), $found, "$truck: exactly what was changed is found");
	next if $truck eq 'flat';
	my ($ranges) = slurp_file($there->logfile, $offset) =~ /DECLARE trucker_verify .* = ANY \('\{([0-9a-f,]+)\}'/;
	my @ranges = split /,/, $ranges // '';
	ok(@ranges > 0 && @ranges <= 3, 'of the other server\'s 20,000 rows those of three ranges in 4,096 were carried')
	  or diag $ranges;
}
is(verify('total', '{k}', $total), '', 'the third truck is right as before');

# ----
# Nobody waits; the truck goes on
# ----
my $held = $node->background_psql('postgres');
$held->query_safe('BEGIN; SELECT pg_current_xact_id()');
refused(qq{'flat', '{id}', '$flat', timeout => '1 s'},
	qr/ERROR:  55000: truck "flat" and a snapshot of the source did not come to one position within 00:00:01\nDETAIL:.*max_catchup_streams.*\nHINT:.*pg_stat_activity/s,
	'while a transaction is open there is no snapshot: the call ends in time, and says what to look for');
my $waiting = $node->background_psql('postgres', on_error_stop => 0);
my $waits_for_slot = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'walsender' AND query LIKE 'CREATE_REPLICATION_SLOT%' AND state = 'active'};

# ask($sql, $timeout): in a session of its own; returns when its slot is waited for
sub ask
{
	my ($sql) = @_;

	# not for that of the last call
	$node->poll_query_until('postgres', $waits_for_slot =~ s/= 1/= 0/r) or die 'a slot is still being made';
	$waiting->query_until(qr/asked/, "\\echo asked\n$sql;\n\\echo ended\n");
	$node->poll_query_until('postgres', $waits_for_slot) or die 'no slot is being made';
	return;
}

ask("SELECT 'found ' || count(*) FROM trucker.verify('flat', '{id}', '$flat', timeout => '$timeout')");
ok(caught_up($node, $_), "while it waits, truck $_ goes on") foreach qw(total there);
# and for the transactions of the load only as long as these run
ok($node->poll_query_until('postgres', q{SELECT state = 'creating slot' AND waiting_for ~ '^pid \d+$' FROM trucker.status WHERE truck = 'flat'}), 'status tells what for');
$held->query_safe('COMMIT');
like($waiting->query_until(qr/ended/, ''), qr/found 3\n/, 'when the transaction has ended, it is done');
all_at_home('and the truck joins the others again');

$held->query_safe('BEGIN; SELECT pg_current_xact_id()');
foreach my $how ('cancelled', 'terminated')
{
	ask("SELECT 'found ' || count(*) FROM trucker.verify('flat', '{id}', '$flat', timeout => '$timeout')");
	my $call = $how eq 'cancelled' ? 'pg_cancel_backend' : 'pg_terminate_backend';
	is(sql(qq{SELECT $call(pid) FROM pg_stat_activity WHERE query LIKE '%found%trucker.verify%' AND pid <> pg_backend_pid()}), 't', "the call is $how");
	ok(caught_up($node, 'flat'), "$how: the truck goes on, while the transaction is still open");
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots WHERE temporary}), "$how: no slot is left");
	$waiting->query_until(qr/ended/, '') if $how eq 'cancelled';
}
eval { $waiting->quit };

# the truck is stopped meanwhile: at once, and the call says so
$waiting = $node->background_psql('postgres', on_error_stop => 0);
my $log = -s $node->logfile;
ask("SELECT 'found ' || count(*) FROM trucker.verify('flat', '{id}', '$flat', timeout => '$timeout')");
sql(q{SELECT trucker.stop('flat')});
ok(wait_state($node, 'flat', 'stopped'), 'a truck can be stopped while its snapshot is waited for');
$waiting->query_until(qr/ended/, '');
ok($node->log_contains(qr/ERROR:  truck "flat" is stopped/, $log), 'then the call ends, and says so');
$waiting->quit;
sql(q{SELECT trucker.start('flat')});
$held->query_safe('COMMIT');
$held->quit;
all_at_home('all are together again');

# ----
# Whatever is killed
# ----
foreach my $point ('verify: begun', 'verify: slot created', 'verify: offered')
{
	my $offset = -s $node->logfile;
	stop_at($point);
	$waiting = $node->background_psql('postgres', on_error_stop => 0);
	$waiting->query_until(qr/asked/, "\\echo asked\nSELECT 'found ' || count(*) FROM trucker.verify('flat', '{id}', '$flat', timeout => '$timeout');\n");
	$node->wait_for_log(qr/stop point "\Q$point\E" reached/, $offset);
	my $pid = sql(q{SELECT w.pid FROM trucker.truck_workers() AS w JOIN trucker.truck AS t ON t.id = w.truck_id WHERE t.name = 'flat'});
	# it must not go on when the setting changes
	kill 'STOP', $pid;
	setting($node, 'trucker.stop_point', '');
	$offset = -s $node->logfile;
	kill 'KILL', $pid;
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	stop_pgbench($node, $load);
	eval { $waiting->quit };
	$load = spawn_pgbench($node, '/dev/null', $node->basedir . '/load.err', qw(-n -c 4 -T 36000 -R 400 -f), $node->basedir . '/load.sql');
	ok(caught_up($node, 'flat'), "killed at \"$point\": the truck goes on");
	all_at_home("killed at \"$point\": nothing is left");
	is(verify('flat', '{id}', $flat), $found, "killed at \"$point\": the next call finds what there is");
}

# the worker ends in order, while the session has the offer: the next worker makes another one
my $offset = -s $node->logfile;
stop_at('verify: offered');
$waiting = $node->background_psql('postgres', on_error_stop => 0);
$waiting->query_until(qr/asked/, "\\echo asked\nSELECT 'found ' || count(*) FROM trucker.verify('flat', '{id}', '$flat', timeout => '$timeout');\n\\echo ended\n");
$node->wait_for_log(qr/stop point "verify: offered" reached/, $offset);
like($waiting->query_until(qr/ended/, ''), qr/found 3\n/, 'the session need not wait for the worker once it has an offer');
$waiting->quit;
setting($node, 'trucker.stop_point', '');
ok(caught_up($node, 'flat'), 'the truck goes on');

stop_pgbench($node, $load);
caught_up($node, $_) foreach qw(flat total there);

# ----
# What is refused
# ----
refused(q{'nobody', '{id}', 'SELECT 1 AS id'}, qr/ERROR:  42704: truck "nobody" does not exist/, 'a truck that does not exist');
refused(q{'flat', NULL, 'SELECT 1 AS id'}, qr/ERROR:  22004: argument "key_columns" of verify must not be null/, 'a null');
refused(q{'flat', '{}', 'SELECT 1 AS id'}, qr/ERROR:  22023: key_columns names no column\nHINT:/, 'no key');
refused(q{'flat', '{id}', 'DELETE FROM a'}, qr/ERROR:  22023: expected_sql is not one query\nHINT:/, 'something else than a query');
refused(q{'flat', '{id}', 'SELECT 1 AS id; DROP TABLE a'}, qr/ERROR:  22023: expected_sql is not one query\nHINT:/, 'a query and something else');
refused(q{'flat', '{id}', 'SELECT id, v AS vv FROM a'}, qr/ERROR:  42703: destination public\.flat has no column "vv", as expected_sql has\nHINT:.*id, v, w, at/, 'a column that the destination does not have');
refused(q{'flat', '{id}', 'SELECT v FROM a'}, qr/ERROR:  42703: expected_sql has no column "id", which key_columns names\nHINT:/, 'a key that expected_sql does not have');
refused(q{'flat', '{id}', 'SELECT id, v, v FROM a'}, qr/ERROR:  42701: expected_sql has column "v" twice/, 'a column twice');
refused(q{'flat', '{v}', 'SELECT id, v FROM a'}, qr/ERROR:  21000: key_columns are not unique in the destination\nDETAIL:.*\(v\) = /, 'a key that is none');
refused(q{'flat', '{id}', 'SELECT id, v FROM a UNION ALL SELECT 77, 0'}, qr/ERROR:  21000: key_columns are not unique in expected_sql\nDETAIL:.*\(id\) = \{77\}/, 'a key that is none in expected_sql');
refused(q{'flat', '{id}', 'SELECT id FROM a', 'nowhere'}, qr/ERROR:  42P01: destination nowhere of truck "flat" does not exist\nHINT:/, 'a destination that does not exist');
refused(q{'flat', '{id}', 'SELECT id, v / 0 AS v FROM a'}, qr/ERROR:  22012: division by zero/, 'an error of expected_sql is told');
refused(q{'flat', '{id}', 'SELECT id FROM a'}, qr/ERROR:  25001: verify cannot be called in a transaction that has written/, 'a transaction that has written', before => 'BEGIN; CREATE TABLE x (); ');
sql(q{CREATE TABLE second (n bigint); SELECT trucker.alter_truck('total', output_sql => $$INSERT INTO second SELECT count(*) FROM r; $$ || (SELECT output_sql FROM trucker.truck WHERE name = 'total'))},
	q{SELECT trucker.start('total'); UPDATE a SET v = v WHERE id = 1});
caught_up($node, 'total');
refused(qq{'total', '{k}', '$total'}, qr/ERROR:  22023: truck "total" is known to write 2 tables\nHINT:.*destination =>/, 'one of several output tables must be named');
is(verify('total', '{k}', $total, q{, 'public.total'}), '', '... and then it is looked at');
sql(q{SELECT trucker.stop('total')});
refused(qq{'total', '{k}', '$total', 'total'}, qr/ERROR:  55000: truck "total" is stopped\nHINT:  SELECT trucker\.start\('total'\)/, 'a truck that is stopped');
sql(q{SELECT trucker.start('total')});

# ----
# With whose rights
# ----
sql(q{
	CREATE ROLE owner NOLOGIN;
	CREATE ROLE other LOGIN;
	CREATE TABLE secret AS SELECT 1 AS id, 'x' AS v;
	CREATE SCHEMA o AUTHORIZATION owner;
	CREATE TABLE o.s (id int PRIMARY KEY, v text);
	CREATE TABLE o.d (id int PRIMARY KEY, v text);
	ALTER TABLE o.s OWNER TO owner;
	ALTER TABLE o.d OWNER TO owner;
	INSERT INTO o.s VALUES (1, 'x');
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO owner, other;
	GRANT USAGE ON FOREIGN SERVER warehouse TO owner;
	SET ROLE owner;
	SET search_path = o;
	CREATE FUNCTION climb() RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''role'', ''none'', false); RETURN current_user; END';
	CREATE FUNCTION become() RETURNS text LANGUAGE plpgsql AS 'BEGIN SET SESSION AUTHORIZATION postgres; RETURN current_user; END';
	CREATE FUNCTION leave_something() RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO o.s VALUES (2, ''y''); RETURN ''x''; END';
	SELECT trucker.create_truck('owned', '{s}', options => '{"output_table": "d"}');
	SELECT trucker.start('owned')});
ok(caught_up($node, 'owned'), 'a truck of a role that cannot log in');
is(verify('owned', '{id}', 'SELECT id, v FROM s'), '', 'is verified, with its search_path');
is(verify('owned', '{id}', q{SELECT id, session_user || '/' || current_user AS v FROM s}),
	'{"id": "1"}|different|{"v": "owner/owner", "id": "1"}|{"v": "x", "id": "1"}', 'expected_sql runs as the truck\'s role, whoever calls');
refused(q{'owned', '{id}', 'SELECT id, v FROM public.secret'}, qr/ERROR:  42501: permission denied for table secret/, '... with no other rights');
refused(q{'owned', '{id}', 'SELECT 1 AS id, o.climb() AS v'}, qr/ERROR:  42501: cannot set parameter "role" within security-definer function/, '... and cannot get others: RESET ROLE');
refused(q{'owned', '{id}', 'SELECT 1 AS id, o.become() AS v'}, qr/ERROR:  42501: cannot set parameter "session_authorization" within security-definer function/, '... SET SESSION AUTHORIZATION');
refused(q{'owned', '{id}', 'SELECT 1 AS id, o.leave_something() AS v'}, qr/ERROR:  25006: cannot execute INSERT in a read-only transaction/, '... and writes nothing');
refused(q{'owned', '{id}', 'SELECT id, v FROM o.s'}, qr/ERROR:  42501: must be owner of truck/, 'others may not call it', before => 'SET ROLE other; ');
ok(caught_up($node, 'owned'), 'and the truck goes on');

$node->stop;
$there->stop;
done_testing();
