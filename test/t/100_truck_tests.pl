# Tests of trucks: those of the examples pass; what is wrong with a truck, or with its
# test, is a row that says so; and no database is left, whatever happens.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;
use TruckerProject;
use TruckerTest;

my $node = trucker_node('truck_tests');
my $none_left = q{SELECT count(*) = 0 FROM pg_database WHERE datname LIKE 'trucker\_test\_%'};

# test_rows($dir, $arguments): what test() returns
sub test_rows
{
	my ($dir, $arguments) = @_;

	return $node->safe_psql('postgres', "SET trucker.project_dir = '$dir'; SELECT ok, truck, case_name, \"row\", detail FROM trucker.test(" . ($arguments // '') . ')');
}

# test_error($dir, $arguments, $before): its error
sub test_error
{
	my ($dir, $arguments, $before) = @_;

	return psql_err($node, "SET trucker.project_dir = '$dir'; " . ($before // '') . 'SELECT * FROM trucker.test(' . ($arguments // '') . ')');
}

# ----
# The examples
# ----

foreach my $example (qw(order_flat customer_totals audit_log))
{
	my $dir = "$FindBin::RealBin/../../examples/$example";
	my $tap = $node->safe_psql('postgres', "SET trucker.project_dir = '$dir'; SELECT * FROM trucker.test_tap()");

	like($tap, qr/\ATAP version 13\nok 1 - .*\n1\.\.(\d+)\z/s, "example $example: TAP");
	unlike($tap, qr/^not ok/m, "example $example passes") or diag $tap;
	like($tap, qr/^ok \d+ - \S+: all in one batch: the output is the same$/m, "example $example: all in one batch comes to the same");
	like($tap, qr/^ok \d+ - \S+: worker ended on the way: the output is the same$/m, "example $example: and with a worker that is ended");
}
is($node->safe_psql('postgres', $none_left), 't', 'no database is left');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots}), '0', 'and no slot');
is($node->safe_psql('postgres', q{SELECT count(*) FROM trucker.truck}), '0', 'the database of the caller has no truck of the project');

# ----
# What is wrong is told
# ----

my $project = project($node, 'wrong');
my $backfill = "CREATE TABLE input (id int PRIMARY KEY, value text);\nCREATE TABLE output (id int, value text);\nINSERT INTO input VALUES (1, 'one');\n";
$project->put(
	'trucker.yml'      => '',
	'copy/truck.yml'   => "input:\n  table: public.input\n",
	'copy/output.sql'  => 'INSERT INTO output SELECT id, value FROM r',
	'copy/test/rows/backfill.sql' => $backfill,
	'copy/test/rows/test.sql' => "SELECT count(*) = 1 FROM output;\nSELECT NULL::boolean, 'is null';\nSELECT false, 7, 'is false';\nSELECT 1 / 0");
my $rows = test_rows($project->dir, q{'copy', 'rows'});
like($rows, qr{^t\|copy\|rows\|1\|one transaction a batch: copy/test/rows/test.sql, line 1, row 1: t$}m, 'a row that is true');
like($rows, qr{^f\|copy\|rows\|2\|.*line 2, row 1: NULL \| is null$}m, 'one that is null is a failure, and shown');
like($rows, qr{^f\|copy\|rows\|3\|.*line 3, row 1: f \| 7 \| is false$}m, 'so is one that is false');
like($rows, qr{^f\|copy\|rows\|4\|one transaction a batch: ERROR: division by zero\nCONTEXT: .*file "copy/test/rows/test.sql", line 4}m, 'and an error, with its place');

$project->put('copy/test/rows/test.sql' => 'SELECT true WHERE false');
like(test_rows($project->dir), qr{^f\|copy\|rows\|1\|one transaction a batch: copy/test/rows/test.sql: it has returned no row$}m, 'no row at all');

# not the same in one batch: this truck counts runs
$project->put(
	'copy/test/rows/test.sql'   => 'SELECT count(*) > 1 FROM output',
	'copy/test/rows/stream.sql' => "INSERT INTO input VALUES (2, 'two');\nINSERT INTO input VALUES (3, 'three')",
	'copy/output.sql'           => 'INSERT INTO output SELECT count(*), NULL FROM r');
like(test_rows($project->dir),
	qr{^f\|copy\|rows\|\d+\|all in one batch: the output is not the same as with one transaction a batch: output: \(2,\) instead of output: \(1,\)$}m,
	'output that depends on the batches is found');
$project->put('copy/test/rows/test.sql' => 'DELETE FROM output; SELECT true');
like(test_rows($project->dir), qr{^f\|.*all in one batch: the output is not the same}m, 'also if test.sql writes');
$project->put('copy/test/rows/compare.sql' => 'SELECT FROM output WHERE false', 'copy/test/rows/test.sql' => q{SELECT 'true'::text});
my $nothing = test_rows($project->dir);
like($nothing, qr{^f\|.*compare\.sql: it has returned no row, so nothing is compared$}m, 'a compare.sql that compares nothing');
like($nothing, qr{^f\|.*row 1: true \(the first column must be boolean\)$}m, 'a value that is no boolean');
$project->put('copy/test/rows/compare.sql' => undef);

# the truck fails
$project->put('copy/output.sql' => q{INSERT INTO output SELECT id, value::int::text FROM r WHERE value <> 'one'});
my $tap = $node->safe_psql('postgres', "SET trucker.project_dir = '" . $project->dir . "'; SELECT * FROM trucker.test_tap('copy')");
like($tap, qr/^not ok 1 - copy\/rows: one transaction a batch: ERROR: the truck has failed\n# DETAIL: .*invalid input syntax for type integer: "two"/m, 'a truck that fails is told with its error');
is($node->safe_psql('postgres', $none_left), 't', 'no database is left after failures');

# what takes too long
$project->put(
	'copy/output.sql' => 'INSERT INTO output SELECT id, value FROM r',
	'copy/test/rows/stream.sql' => 'SELECT pg_sleep(1000)');
# (what else the case waits for may take as long)
like($node->safe_psql('postgres', "SET trucker.test_timeout = '5s'; SET trucker.project_dir = '" . $project->dir . "'; SELECT detail FROM trucker.test()"),
	qr/ERROR: the statement takes longer than trucker.test_timeout \(5 s\)/, 'a statement that does not end');

# files
$project->put('copy/test/rows/strem.sql' => 'SELECT 1', 'copy/test/rows/test.sql' => undef, 'copy/test/rows/stream.sql' => undef);
$rows = test_rows($project->dir);
like($rows, qr{^f\|copy\|rows\|1\|copy/test/rows/strem.sql: unknown file}m, 'a file with a slip in its name');
like($rows, qr{^f\|copy\|rows\|2\|copy/test/rows/test.sql: the file is missing}m, 'a case without test.sql');

# ----
# Connections and roles: the real ones are not touched
# ----

my $elsewhere = project($node, 'elsewhere');
my $host = $node->host;
$node->safe_psql('postgres', 'CREATE DATABASE destination');
$node->safe_psql('postgres', 'CREATE ROLE etl NOLOGIN');
$elsewhere->put(
	'trucker.yml' => "connections:\n  - { name: app, adapter: postgres, host: nowhere.invalid, database: app, user: app }\n"
	  . "  - { name: real, adapter: postgres, host: '$host', port: @{[ $node->port ]}, database: destination, user: nobody }\n",
	'trucks/copy/truck.yml'   => "input: { connection: app, table: public.input }\noutput: { connection: real }\nrole: etl\n",
	'trucks/copy/output.sql'  => 'INSERT INTO output SELECT id, value, session_user, current_database() FROM r',
	'trucks/copy/test/role/backfill.sql' => "CREATE TABLE input (id int PRIMARY KEY, value text);\nINSERT INTO input VALUES (1, 'one');\nGRANT SELECT ON input TO etl;",
	'trucks/copy/test/role/stream.sql' => "INSERT INTO input VALUES (2, 'two');\nINSERT INTO input VALUES (3, 'three')",
	'trucks/copy/test/role/test.sql' => 'SELECT count(*) = 3 FROM output;' . q{SELECT db = current_database() AND db LIKE 'trucker\_test\_%\_output', db FROM output},
	'trucks/copy/test/role/compare.sql' => 'SELECT id, value FROM output',
	'migrate/app/2024-01-01T00:00:00_up.sql' => 'CREATE TABLE from_app ()',
	'migrate/app/2024-01-01T00:00:00_down.sql' => 'DROP TABLE from_app',
	'migrate/real/2024-01-01T00:00:00_up.sql' => "-- trucker: no transaction\nCREATE TABLE output (id int, value text, who name, db name);\nCREATE INDEX CONCURRENTLY ON output (id);\n",
	'migrate/real/2024-01-01T00:00:00_down.sql' => 'DROP TABLE output');
$rows = test_rows($elsewhere->dir);
unlike($rows, qr/^f/m, 'a truck that reads and writes over connections, as a role') or diag $rows;
is(() = $rows =~ /^t\|/mg, 14, 'all of it is looked at');
is($node->safe_psql('destination', q{SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)'}), '0', 'the real destination is as it was');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_foreign_server}), '0', 'and the database of the caller');

# ----
# Who, and when
# ----

like(test_error($project->dir, q{'nobody'}), qr/ERROR:  42704.*has no truck "nobody"/s, 'a truck that is not there');
like(test_error($project->dir, q{'copy', 'nothing'}), qr/ERROR:  42704.*there is no such test/s, 'a case that is not there');
like(test_error($project->dir, '', 'BEGIN; CREATE TABLE written (); '), qr/ERROR:  25001.*cannot be run in a transaction that has written/s, 'not in a transaction that has written');
$node->safe_psql('postgres', 'CREATE ROLE maker LOGIN CREATEDB IN ROLE pg_read_server_files; GRANT EXECUTE ON FUNCTION trucker.test(text, text) TO maker');
like(psql_err($node, 'SET ROLE maker; SELECT * FROM trucker.test()'), qr/ERROR:  42501.*must be superuser/s, 'for superusers only');

# ----
# Nothing is left
# ----

# a cancel, while a statement of the case runs
$project->put('copy/test/rows/strem.sql' => undef, 'copy/test/rows/test.sql' => 'SELECT pg_sleep(1000)');
my ($in, $out, $err) = ('', '', '');
my $handle = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SET trucker.project_dir = '" . $project->dir . "'", '-c', 'SELECT * FROM trucker.test()' ],
	\$in, \$out, \$err);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'}) or die 'it does not sleep';
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT * FROM trucker.test()'});
$handle->finish;
like($err, qr/canceling statement due to user request/, 'a test that is cancelled');
ok($node->poll_query_until('postgres', $none_left), 'leaves nothing');

# the keeper is ended, too: the next test drops what is there
$handle = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SET trucker.project_dir = '" . $project->dir . "'", '-c', 'SELECT * FROM trucker.test()' ],
	\$in, \$out, \$err);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'}) or die 'it does not sleep';
my $scratch = $node->safe_psql('postgres', q{SELECT datname FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'});
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'trucker tests %'});
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'trucker tests %'}) or die 'the keeper is still there';
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT * FROM trucker.test()'});
$handle->finish;
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = '$scratch'"), '1', 'without its keeper a database stays');
$node->safe_psql('postgres', "CREATE DATABASE trucker_test_of_somebody");
like(test_rows("$FindBin::RealBin/../../examples/customer_totals"), qr/^t\|customer_totals/, 'another test');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = '$scratch'"), '0', 'has dropped it');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = 'trucker_test_of_somebody'"), '1', 'and no database of somebody else');
$node->safe_psql('postgres', 'DROP DATABASE trucker_test_of_somebody');

# the server goes down: the next start cleans up
$handle = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SET trucker.project_dir = '" . $project->dir . "'", '-c', 'SELECT * FROM trucker.test()' ],
	\$in, \$out, \$err);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'}) or die 'it does not sleep';
$node->stop('immediate');
$handle->finish;
$node->start;
ok($node->poll_query_until('postgres', $none_left), 'what a crash has left is dropped at the next start');

done_testing();
