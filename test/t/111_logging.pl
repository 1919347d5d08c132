# The log says what an operator must know, and says it once: levels, failures that come
# again and again, slow runs and their plans, no values of rows, and each message as one
# record that programs can read.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('logging', conf => q{
autovacuum = off
trucker.retry_max_delay = '100ms'
});
my $db = 'postgres';

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql($db, "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# logged($offset): what has been since
sub logged
{
	my ($offset) = @_;

	return slurp_file($node->logfile, $offset);
}

# times($offset, $pattern): how often
sub times_logged
{
	my ($offset, $pattern) = @_;
	my @found = logged($offset) =~ /$pattern/g;

	return scalar @found;
}

sub errors_counted
{
	return sql('SELECT coalesce(sum(errors), 0) FROM trucker.stat_truck');
}

my $tables = q{
	CREATE TABLE s (id int PRIMARY KEY, v text);
	CREATE TABLE d (id int PRIMARY KEY, v text, UNIQUE (v));
	CREATE TABLE divisor AS SELECT 1 AS n};
my $copy = q{SELECT 1 / n FROM divisor, r WHERE r.v LIKE $q$bad%$q$; INSERT INTO d SELECT id, v FROM r};
sql($tables, qq{SELECT trucker.create_truck('t', '{s}', \$\$$copy\$\$)});

# ----
# A truck that fails
# ----
my $offset = -s $node->logfile;
sql(q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a truck runs');
like(logged($offset), qr/LOG:  truck "t": streaming from/, 'its start is logged');

# While it fails, ten times a second, the log tells it once; once more because it has been
# tried with other source transactions first, and its context names more than one then.
$offset = -s $node->logfile;
sql('UPDATE divisor SET n = 0', q{INSERT INTO s VALUES (1, 'bad')});
ok($node->poll_query_until($db, q{SELECT errors >= 20 FROM trucker.stat_truck WHERE truck = 't'}), 'it fails twenty times');
my $lines = times_logged($offset, qr/ERROR:  division by zero/);
cmp_ok($lines, '>=', 1, 'the failure is logged');
cmp_ok($lines, '<=', 2, 'and not each time that it comes again');
my $worker = stream_worker_pid($node, 't');
cmp_ok(times_logged($offset, qr/^\S+ \S+ \S+ \[$worker\] .*(?:LOG|ERROR|WARNING):/m), '<=', 3, 'the worker has nothing else to say');
is(times_logged($offset, qr/streaming from/), 0, 'not even that it begins again');
is(sql(q{SELECT last_error ~ '^22012: division by zero\n' AND last_error_at > now() - interval '1 min' FROM trucker.status}), 't', 'status knows better');

$offset = -s $node->logfile;
sql('UPDATE divisor SET n = 1');
ok(caught_up($node, 't'), 'the cause is removed');
is(times_logged($offset, qr/LOG:  truck "t" has recovered/), 1, 'which is logged');
sql('UPDATE divisor SET n = 0', q{INSERT INTO s VALUES (2, 'bad, too')});
$node->wait_for_log(qr/ERROR:  division by zero/, $offset);
ok(1, 'the next failure is news, and logged at once');

$offset = -s $node->logfile;
sql(q{SELECT trucker.start('t')});
$node->wait_for_log(qr/ERROR:  division by zero/, $offset);
ok(1, 'whoever calls start() sees at once what comes of it');

# another failure is logged as well
$offset = -s $node->logfile;
sql('DROP TABLE divisor');
$node->wait_for_log(qr/ERROR:  relation "divisor" does not exist/, $offset);
ok(1, 'and so is another one');

# how often it has come is told with the next that is logged
setting($node, 'trucker.log_repeat_interval', '1 h');
# it fails in a run first, and then when its SQL is compiled: with another context
my $before = errors_counted();
ok($node->poll_query_until($db, "SELECT errors >= $before + 3 FROM trucker.stat_truck WHERE truck = 't'"), 'it fails at once');
$offset = -s $node->logfile;
$before = errors_counted();
ok($node->poll_query_until($db, "SELECT errors >= $before + 5 FROM trucker.stat_truck WHERE truck = 't'"), 'it goes on failing');
is(times_logged($offset, qr/ERROR:  relation "divisor" does not exist/), 0, 'which is not logged');
setting($node, 'trucker.log_repeat_interval', '1 ms');
$node->wait_for_log(qr/ERROR:  relation "divisor" does not exist.*\n(?:.*\n)*?.*this failure has come \d+ more times since it was last logged/, $offset);
my ($more) = logged($offset) =~ /this failure has come (\d+) more times/;
cmp_ok($more, '>=', 5, "$more times more");
setting($node, 'trucker.log_repeat_interval', '1 h');

# an error of the stream itself
$offset = -s $node->logfile;
sql('CREATE TABLE divisor AS SELECT 1 AS n');
ok(caught_up($node, 't'), 'it works again');
setting($node, 'trucker.replication_conninfo', 'user=nobody_of_that_name');
sql('SELECT pg_terminate_backend(' . stream_worker_pid($node, 't') . ')');
ok($node->poll_query_until($db, q{SELECT errors >= 5 FROM trucker.stat_stream}), 'a stream that cannot connect');
is(times_logged($offset, qr/ERROR:  could not connect to server/), 1, 'is logged once, too');
setting($node, 'trucker.replication_conninfo', '');
ok(caught_up($node, 't'), 'and goes on');

# ----
# Levels
# ----
# at_level($level): what a truck that starts, applies a change, and stops leaves in the log
sub at_level
{
	my ($level) = @_;
	my $from;

	setting($node, 'trucker.log_level', $level);
	$from = -s $node->logfile;
	sql(q{SELECT trucker.create_truck('l', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "l"}')}, q{SELECT trucker.start('l')});
	ok(caught_up($node, 'l'), "$level: a truck runs");
	sql(q{INSERT INTO s SELECT max(id) + 1, 'good' || max(id) FROM s});
	ok(caught_up($node, 'l'), "$level: it applies a change");
	sql(q{SELECT trucker.drop_truck('l')});
	$node->wait_for_log(qr/worker of stream "l" ends/, $from);
	return logged($from);
}
my $start = qr/LOG:  truck "l": streaming from/;
my $created = qr/LOG:  stream "l": replication slot "\w+" created/;
my $batch = qr/LOG:  truck "l": batch of 1 changes of 1 source transactions committed, up to/;
{
	my $log = at_level('debug');

	like($log, $_, 'debug: start, what else happens, each batch') foreach $start, $created, $batch;
	$log = at_level('info');
	like($log, $_, 'info: start, what else happens') foreach $start, $created;
	unlike($log, $batch, 'info: not each batch');
	$log = at_level('warn');
	like($log, $start, 'warn: start, and stop');
	unlike($log, $_, 'warn: nothing else') foreach $created, $batch;
}
like(psql_err($node, q{ALTER SYSTEM SET trucker.log_level = 'loud'}), qr/ERROR:  22023: .*HINT:  Available values: warn, info, debug\./s, 'there are no others');

# for a single database, where all others have "warn"
sql('CREATE DATABASE chatty');
sql(q{ALTER DATABASE chatty SET trucker.log_level = 'debug'});
$db = 'chatty';
$offset = -s $node->logfile;
sql('CREATE EXTENSION trucker', $tables, qq{SELECT trucker.create_truck('c', '{s}', \$\$$copy\$\$); SELECT trucker.start('c')});
ok(caught_up($node, 'c', db => $db), 'a truck of another database');
ok($node->wait_for_log(qr/LOG:  truck "c": backfill committed/, $offset), 'ALTER DATABASE ... SET trucker.log_level');
like(logged($offset), qr/LOG:  stream "main": replication slot "\w+" created/, 'for all processes there');
sql(q{SELECT trucker.drop_truck('c')});
$db = 'postgres';
setting($node, 'trucker.log_level', 'info');

sql('CREATE ROLE stranger');
like(psql_err($node, "SET ROLE stranger; SET trucker.$_ = 'on'"), qr/ERROR:  42501: permission denied to set parameter "trucker\.$_"/, "$_ is a superuser's")
  foreach 'log_slow_plans', 'log_row_data';
like(psql_err($node, q{SET ROLE stranger; SET trucker.log_level = 'debug'}), qr/ERROR:  42501: permission denied to set parameter "trucker\.log_level"/, 'so is log_level');

# ----
# Slow runs
# ----
sql(q{CREATE TABLE o (id int PRIMARY KEY, v text);
	SELECT trucker.create_truck('slow', '{s}', 'SELECT count(*) FROM r; INSERT INTO o SELECT id, v FROM r WHERE pg_sleep(0.5) IS NOT NULL',
		options => '{"backfill": false, "stream": "slow", "slow_query_threshold": 400}'); SELECT trucker.start('slow')});
ok(caught_up($node, 'slow'), 'a truck with slow runs');
# slow_run(): what one leaves in the log
sub slow_run
{
	my $from = -s $node->logfile;

	sql(q{INSERT INTO s SELECT max(id) + 1, 'secret value ' || max(id) FROM s});
	ok(caught_up($node, 'slow'), 'a slow run');
	return logged($from);
}
# 500 ms or more, however busy the machine is
my $long = qr/(?:[5-9]\d\d|\d{4,})/;
my $slow = qr/LOG:  slow run of truck "slow": $long ms for 1 rows of table public\.s/;
{
	my $log = slow_run();

	like($log, $slow, 'truck, table, rows and time are logged');
	unlike($log, qr/Insert on/, 'without a plan');
	setting($node, 'trucker.log_slow_plans', 'on');
	$log = slow_run();
	like($log, qr/$slow\n.*DETAIL:  Statement 2, $long\.\d ms:\n\s*Insert on o .*\n(?:\s+.*\n)*?\s+->  Named Tuplestore Scan/, 'log_slow_plans: with the plan of the statement that was slow');
	unlike($log, qr/Statement 1/, 'and not of that which was not');
	unlike($log, qr/actual time/, 'it is the plan only');
	setting($node, 'trucker.log_slow_plans', 'analyze');
	$log = slow_run();
	like($log, qr/Insert on o .*\(actual time=.* rows=0 loops=1\)/, 'analyze: with what happened');
	like($log, qr/Named Tuplestore Scan .*\(actual time=[\d.]+ rows=1 loops=1\)|Named Tuplestore Scan .*\(actual time=.*rows=1 loops=1\)/, 'in each node');
	unlike($log, qr/secret value/, 'values of rows are in none of it');
	setting($node, 'trucker.log_slow_plans', 'off');
	unlike(slow_run(), qr/Insert on/, 'off again');
	is(sql('SELECT count(*) FROM o'), '4', 'the runs have done what they should');
}
# its functions' statements are not the truck's
sql(q{CREATE FUNCTION nested(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN $1; END';
	SELECT trucker.alter_truck('slow', output_sql => 'INSERT INTO o SELECT nested(id), v FROM r')});
setting($node, 'trucker.log_slow_plans', 'on');
{
	my $log = slow_run();

	is(scalar(() = $log =~ /Statement \d/g), 1, 'only the truck\'s own statements are explained');
	like($log, qr/DETAIL:  Statement 1, $long\.\d ms:\n\s*Insert on o/, 'with all the time that they took');
}
sql(q{SELECT trucker.drop_truck('slow')});

# ----
# Values of rows
# ----
# fails_with($v): a change that the truck cannot apply; what is logged of it
sub fails_with
{
	my ($v) = @_;
	my $from = -s $node->logfile;
	my $since = sql('SELECT clock_timestamp()');

	sql("INSERT INTO s SELECT max(id) + 1, '$v' FROM s");
	# the error is counted first, then logged, then noted where status shows it
	$node->poll_query_until($db, "SELECT failed_lsn IS NOT NULL AND last_error_at > '$since' FROM trucker.status WHERE truck = 't'") or die 'it does not fail';
	$node->wait_for_log(qr/ERROR: .*(?:.|\n)*CONTEXT:  .*(?:\n\t.*)*truck "t", run of/, $from);
	my $status = sql(q{SELECT last_error FROM trucker.status WHERE truck = 't'});
	my $log = logged($from);

	sql(q{SELECT trucker.skip('t', failed_lsn) FROM trucker.status WHERE truck = 't'});
	ok(caught_up($node, 't'), 'it is skipped');
	return ($log, $status);
}
sub unique_violation
{
	return fails_with('geheim 4711');
}
sql(q{SELECT trucker.alter_truck('t', output_sql => 'INSERT INTO d SELECT id, v FROM r')}, q{INSERT INTO s SELECT max(id) + 1, 'geheim 4711' FROM s});
ok(caught_up($node, 't'), 'a value');
{
	my ($log, $status) = unique_violation();

	like($log, qr/ERROR:  duplicate key value violates unique constraint "d_v_key"\n.*DETAIL:  Values of rows are logged only with trucker\.log_row_data/, 'a violated constraint is logged by its name');
	unlike($log, qr/geheim/, 'and the value is not');
	like($status, qr/DETAIL: Key \(v\)=\(geheim 4711\) already exists\./, 'status shows it to the owner');
	setting($node, 'trucker.log_row_data', 'on');
	($log, $status) = unique_violation();
	like($log, qr/DETAIL:  Key \(v\)=\(geheim 4711\) already exists\./, 'log_row_data: so does the log');
	setting($node, 'trucker.log_row_data', 'off');
}
sql(q{SELECT trucker.alter_truck('t', output_sql => 'INSERT INTO d SELECT id, v::jsonb->>0 FROM r')});
{
	my ($log, $status) = fails_with('["a", geheim 4712]');

	like($log, qr/ERROR:  invalid input syntax for type json\n.*DETAIL:  Values of rows/, 'a value that is none of its type: what is wrong is logged');
	like($log, qr/JSON data, line 1$/m, 'and where');
	unlike($log, qr/geheim/, 'and the value is not, nor the data around it');
	like($status, qr/geheim/, 'status shows it to the owner');
}
sql(q{SELECT trucker.alter_truck('t', output_sql => 'INSERT INTO d SELECT v::int, v FROM r')});
{
	my ($log, $status) = fails_with('ge"heim" 4713');

	like($log, qr/ERROR:  invalid input syntax for type integer: "\.\.\."\n/, 'a value within the message is left out');
	unlike($log, qr/heim/, 'all of it');
	like($status, qr/integer: "ge"heim" 4713"/, 'status has it');
}
sql(q{SELECT trucker.alter_truck('t', output_sql => 'INSERT INTO d SELECT v::regclass::oid::int, v FROM r')});
{
	my ($log, $status) = fails_with('geheim4714');

	like($log, qr/ERROR:  relation "\.\.\." does not exist\n/, 'so it is where a value names what is not there');
	unlike($log, qr/geheim/, 'wherever');
	like($status, qr/relation "geheim4714" does not exist/, 'status has it');
}
{
	# the worker may see this as soon as the SQL is compiled anew, before there is a change
	my $from = -s $node->logfile;

	sql(q{SELECT trucker.alter_truck('t', output_sql => 'INSERT INTO d SELECT id, v FROM r'); ALTER TABLE d RENAME TO e},
		q{INSERT INTO s SELECT max(id) + 1, 'x' FROM s});
	$node->wait_for_log(qr/ERROR:  relation "d" does not exist/, $from);
	pass('what the SQL names is no value');
}
sql('ALTER TABLE e RENAME TO d');
ok(caught_up($node, 't'), 'it is there again');
is(join('', grep { /TRAP|PANIC|terminated by signal/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed');
$node->stop;

# ----
# For programs
# ----
$node = trucker_node('programs', conf => q{
autovacuum = off
logging_collector = on
log_destination = 'csvlog,jsonlog'
log_filename = 'trucker.log'
log_rotation_size = 0
log_rotation_age = 0
trucker.slow_query_threshold = 400
trucker.log_slow_plans = on
trucker.log_level = debug
trucker.retry_max_delay = '100ms'
});
sql($tables, qq{SELECT trucker.create_truck('t', '{s}', \$\$$copy\$\$); SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a server that writes its log for programs');
sql('UPDATE divisor SET n = 0', q{INSERT INTO s VALUES (1, 'bad')});
ok($node->poll_query_until($db, q{SELECT errors >= 2 FROM trucker.stat_truck}), 'an error');
sql('UPDATE divisor SET n = 1');
ok(caught_up($node, 't'), 'which is removed');
sql(q{SELECT trucker.alter_truck('t', output_sql => 'INSERT INTO d SELECT id, v FROM r WHERE pg_sleep(0.5) IS NOT NULL')}, q{INSERT INTO s VALUES (2, E'line\nline')});
ok(caught_up($node, 't'), 'a slow run');
$node->stop;

my @records = map { decode_json($_) } split /\n/, slurp_file($node->data_dir . '/log/trucker.json');
cmp_ok(scalar @records, '>', 10, 'each line of jsonlog is a record');
# record($pattern): those whose message it is
sub records
{
	my ($pattern) = @_;

	return grep { ($_->{message} // '') =~ $pattern } @records;
}
{
	my ($error) = records(qr/^division by zero$/);
	my ($slow_run) = records(qr/^slow run of truck "t": \d+ ms for 1 rows of table public\.s$/);
	my ($begun) = records(qr/^truck "t": streaming from [0-9A-F]+\/[0-9A-F]+$/);
	my ($applied) = records(qr/^truck "t": batch of 1 changes of 1 source transactions committed, up to [0-9A-F]+\/[0-9A-F]+$/);

	is("$error->{error_severity} $error->{state_code} $error->{backend_type}", 'ERROR 22012 trucker stream', 'an error: which, and whose');
	like($error->{context}, qr/^truck "t", run of \d+ rows? of table public\.s, changes committed at/m, 'its context');
	is($slow_run->{error_severity}, 'LOG', 'a slow run');
	like($slow_run->{detail}, qr/^Statement 1, \d+\.\d ms:\nInsert on d .*\n\s+->  .*Named Tuplestore Scan/s, 'its plan is the detail of one record');
	is($_->{error_severity}, 'LOG', $_->{message}) foreach $begun, $applied;
}
$node->append_conf('postgresql.conf', "log_destination = 'stderr'\nlogging_collector = off\n");
$node->start;
# as the server's documentation says
sql(q{CREATE TABLE log (log_time timestamp(3) with time zone, user_name text, database_name text, process_id integer, connection_from text,
	session_id text, session_line_num bigint, command_tag text, session_start_time timestamp with time zone, virtual_transaction_id text,
	transaction_id bigint, error_severity text, sql_state_code text, message text, detail text, hint text, internal_query text,
	internal_query_pos integer, context text, query text, query_pos integer, location text, application_name text, backend_type text,
	leader_pid integer, query_id bigint, PRIMARY KEY (session_id, session_line_num))},
	"COPY log FROM '" . $node->data_dir . "/log/trucker.csv' WITH csv");
is(sql('SELECT count(*) FROM log'), scalar @records, 'csvlog can be loaded: it has the same records');
is(sql(q{SELECT count(*) FROM log WHERE message ~ '^slow run of truck "t"' AND detail ~ E'^Statement 1, .* ms:\nInsert on d' AND backend_type = 'trucker stream'}), '1', 'among them the slow run');
$node->stop;

done_testing();
