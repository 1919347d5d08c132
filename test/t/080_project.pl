# A project's folder is what a database becomes: load() makes its trucks and connections,
# plan() tells what it would do, and does nothing; what the project does not define any
# more goes, and what somebody has made by hand is never touched.  Trucks that run go on
# from their position with new SQL, without a backfill.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerTest;

my $node = trucker_node('project');

# sql($statements...): run them, without warnings; returns the last one's result
sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# steps($function, $project): what it returns, but for what stays as it is
sub steps
{
	my ($function, $project) = @_;

	return sql("SELECT string_agg(action || ' ' || kind || ' ' || name, '; ')
		FROM trucker.$function('" . $project->dir . "') WHERE action <> 'none'");
}

sub detail
{
	my ($project, $name) = @_;

	return sql("SELECT detail FROM trucker.plan('" . $project->dir . "') WHERE name = '$name'");
}

sql(q{
CREATE TABLE a (id integer PRIMARY KEY, v text);
CREATE TABLE b (id integer PRIMARY KEY, v text);
CREATE TABLE out (source text, id integer, v text, PRIMARY KEY (source, id));
INSERT INTO a SELECT i, 'a' || i FROM generate_series(1, 3) AS i;
INSERT INTO b SELECT i, 'b' || i FROM generate_series(1, 3) AS i;
});

my $project = project($node, 'one')->put(
	'trucker.yml' => "unique_id: one\n",
	'copy/truck.yml' => "input:\n  table: public.a\n",
	'copy/output.sql' => "INSERT INTO out SELECT 'a', id, v FROM {{ .rows }} WHERE meta__operation = 'insert'\n");

# ---- plan and load

is(steps('plan', $project), 'create truck copy', 'plan tells what is new');
is(sql('SELECT count(*) FROM trucker.truck'), '0', '... and makes nothing');
is(steps('load', $project), 'create truck copy', 'load makes it');
is(steps('plan', $project), '', 'then there is nothing to do');
is(sql("SELECT name || ' ' || action FROM trucker.plan('" . $project->dir . "')"), 'copy none', '... and the truck is named');
sql("SELECT trucker.start('copy')");
ok(caught_up($node, 'copy'), 'the truck runs');
is(sql('SELECT count(*) FROM out'), '3', '... and has loaded its table');

# ---- a truck that runs gets another SQL

$project->put('copy/output.sql' => "INSERT INTO out SELECT 'a', id, upper(v) FROM {{ .rows }} WHERE meta__operation = 'insert'\n");
is(steps('plan', $project), 'change truck copy', 'plan tells what has changed');
is(detail($project, 'copy'),
	"output.sql:\n- INSERT INTO out SELECT 'a', id, v FROM {{ .rows }} WHERE meta__operation = 'insert'\n"
	  . "+ INSERT INTO out SELECT 'a', id, upper(v) FROM {{ .rows }} WHERE meta__operation = 'insert'",
	'... and how');
sql("INSERT INTO a VALUES (4, 'before')");
ok(caught_up($node, 'copy'), 'up to here the old SQL runs');
is(steps('load', $project), 'change truck copy', 'it is changed');
sql("INSERT INTO a VALUES (5, 'after')");
ok(caught_up($node, 'copy'), '... and goes on');
is(sql("SELECT string_agg(v, ',' ORDER BY id) FROM out"), 'a1,a2,a3,before,AFTER', '... from its position, without a backfill');

# ---- a table is added, and only that is loaded

$project->put(
	'copy/truck.yml' => "input:\n  tables: [ public.a, b ]\nslow_query_threshold_ms: 5000\n",
	'copy/output.sql' => "INSERT INTO out SELECT {{ if eq .input_table \"public.a\" }}'a'{{ else }}'b'{{ end }}, id, v FROM r WHERE meta__operation = 'insert'\n");
like(detail($project, 'copy'), qr/^\+ input table public\.b\noutput\.sql:\n.*\nslow_query_threshold: \(default\) -> 5000$/s, 'plan tells of the table and the option');
steps('load', $project);
ok($node->poll_query_until('postgres', "SELECT count(*) = 3 FROM out WHERE source = 'b'"), 'the table is loaded');
is(sql("SELECT string_agg(v, ',' ORDER BY id) FROM out WHERE source = 'a'"), 'a1,a2,a3,before,AFTER', '... and the other one is not');
is(sql("SELECT options FROM trucker.truck"), '{"slow_query_threshold": 5000}', 'the option is set');
$project->put('copy/truck.yml' => "input:\n  tables: [ public.a, b ]\n");
is(detail($project, 'copy'), 'slow_query_threshold: 5000 -> (default)', 'an option that goes');
steps('load', $project);

# ---- other trucks come and go; what was made by hand stays

$project->put(
	'trucks/second/truck.yml' => "input: { table: a }\noutput: { table: out_a, mode: append }\nstream: other\n"
	  . "changes: all\non_error: stop\non_truncate: run\ntoast: current\nbackfill: false\n",
	'trucks/second/truncate.sql' => "DELETE FROM out_a\n",
	'trucks/second/reset.sql' => "TRUNCATE out_a\n");
sql('CREATE TABLE out_a (id integer, v text)',
	"SELECT trucker.create_truck('by_hand', '{a}', output_sql => 'INSERT INTO out_a SELECT id, v FROM r')");
is(steps('load', $project), 'create truck second', 'a truck in folder trucks');
is(sql("SELECT options || jsonb_build_object('backfill', options->'backfill') FROM trucker.truck WHERE name = 'second'"),
	'{"mode": "append", "toast": "current", "stream": "other", "changes": "all", "backfill": false, "on_error": "stop", '
	  . '"reset_sql": "TRUNCATE out_a\n", "on_truncate": "run", "output_table": "out_a", "truncate_sql": "DELETE FROM out_a\n"}',
	'each key of truck.yml is an option');
$project->put('trucks/second/truncate.sql' => "DELETE FROM out_a\nWHERE true\n", 'trucks/second/reset.sql' => undef);
is(detail($project, 'second'), "reset.sql:\n- TRUNCATE out_a\ntruncate.sql:\n  DELETE FROM out_a\n+ WHERE true", 'a file that goes, and one that changes');
$project->put('trucks' => undef);
is(steps('plan', $project), 'drop truck second', 'plan tells what goes');
is(steps('load', $project), 'drop truck second', 'a truck that is not in the project any more is dropped');
is(sql("SELECT string_agg(name, ' ' ORDER BY name) FROM trucker.truck"), 'by_hand copy', '... and no other one');
$project->put('by_hand/truck.yml' => "input: { table: a }\n", 'by_hand/output.sql' => "SELECT 1 FROM r\n");
is_deeply([ errors($node, $project) ], ['by_hand: truck "by_hand" exists already, and was made by hand, not by this project'],
	'what somebody has made by hand is not touched');
is_deeply([ errors($node, $project, function => 'load') ], [ errors($node, $project) ], '... by load neither');
sql("SELECT trucker.drop_truck('by_hand')");
is(steps('load', $project), 'create truck by_hand', 'when it is gone, the project has its own');
sql("SELECT trucker.drop_truck('by_hand')", "SELECT trucker.create_truck('by_hand', '{a}', output_sql => 'SELECT 2 FROM r')");
is_deeply([ errors($node, $project) ], ['by_hand: truck "by_hand" exists already, and was made by hand, not by this project'],
	'one that was made in its place is not taken for it');
$project->put('by_hand' => undef);
is(steps('load', $project), '', '... nor dropped');
is(sql("SELECT output_sql FROM trucker.truck WHERE name = 'by_hand'"), 'SELECT 2 FROM r', '... nor changed');

# ---- two projects

my $two = project($node, 'two')->put(
	'trucker.yml' => '', 'other/truck.yml' => "input: { table: a }\n", 'other/output.sql' => "SELECT 1 FROM r\n");
is(steps('load', $two), 'create truck other', 'a second project, with an empty trucker.yml');
is(steps('load', $project), '', 'projects leave each other alone');
$two->put('copy/truck.yml' => "input: { table: a }\n", 'copy/output.sql' => "SELECT 1 FROM r\n");
is_deeply([ errors($node, $two) ], ['copy: truck "copy" exists already, and was made by project "one"'], '... also where they want the same name');
$two->put('copy' => undef, 'trucker.yml' => "unique_id: two\n");
is(steps('plan', $two), '', 'a project that gets a unique_id still knows its trucks');
steps('load', $two);
is(sql('SELECT DISTINCT project FROM trucker.project_object ORDER BY 1'), "one\ntwo", '... and owns them by it');
$two->put('other' => undef);
is(steps('load', $two), 'drop truck other', '... and drops them');

# ---- nothing is half applied

$project->put(
	'good/truck.yml' => "input: { table: a }\n", 'good/output.sql' => "SELECT 1 FROM r\n",
	'copy/output.sql' => "SELEC 1 FROM r\n",
	'bad/truck.yml' => "input: { table: nowhere }\n", 'bad/output.sql' => "SELECT {{ .row }}\n");
my @errors = errors($node, $project, function => 'load');
is(scalar @errors, 3, 'all that is wrong is told at once') or diag join "\n", @errors;
like($errors[0], qr/^bad\/truck\.yml: line 1, column 17: input table "nowhere" does not exist$/, '... a table that does not exist');
like($errors[1], qr/^bad\/output\.sql: line 1, column 11: unknown variable "\.row"/, '... an error in a template');
like($errors[2], qr/^copy\/output\.sql: line 1, column 1: syntax error at or near "SELEC"$/, '... and one in SQL');
is(sql("SELECT string_agg(name, ' ' ORDER BY name) FROM trucker.truck"), 'by_hand copy', '... and nothing is done');
$project->put('good' => undef, 'bad' => undef,
	'copy/output.sql' => "INSERT INTO out SELECT {{ if eq .input_table \"public.a\" }}'a'{{ else }}'b'{{ end }}, id, v FROM r WHERE meta__operation = 'insert'\n");
is(steps('plan', $project), '', 'the project is as it was');
sql("BEGIN; SELECT trucker.stop('copy'); COMMIT");
my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT trucker.drop_truck('copy'); SELECT * FROM trucker.load('" . $project->dir . "'); ROLLBACK; SELECT count(*) FROM trucker.truck WHERE name = 'copy'");
like($out, qr/truck\|copy\|create\|.*\n1$/s, 'load is part of its transaction, and sees what that has done');

# ---- start() loads the project first

sql("ALTER DATABASE postgres SET trucker.project_dir = '" . $project->dir . "'");
$project->put('late/truck.yml' => "input: { table: a }\n", 'late/output.sql' => "SELECT 1 FROM r\n");
($rc, $out, $err) = $node->psql('postgres', "SELECT trucker.start('late')");
is($rc, 0, 'start() of a truck that was not loaded yet') or diag $err;
like($err, qr/NOTICE:  project: create truck "late"/, '... tells what it has loaded');
ok(caught_up($node, 'late'), '... and it runs');
is(sql('SELECT DISTINCT action FROM trucker.load()'), 'none', 'load() without an argument reads trucker.project_dir');
sql(q{CREATE ROLE plain LOGIN; GRANT EXECUTE ON FUNCTION trucker.start, trucker.stop, trucker.load, trucker.plan, trucker.create_truck TO plain;
	GRANT SELECT ON a TO plain; SET ROLE plain;
	SELECT trucker.create_truck('plain', '{a}', output_sql => 'SELECT 1 FROM r')});
$project->put('later/truck.yml' => "input: { table: a }\n", 'later/output.sql' => "SELECT 1 FROM r\n");
sql("SET ROLE plain; SELECT trucker.start('plain')");
is(sql("SELECT count(*) FROM trucker.truck WHERE name = 'later'"), '0', 'who may not read the files starts what is there');
like(psql_err($node, 'SET ROLE plain; SELECT * FROM trucker.load()'), qr/42501: permission denied to read the files of a project/, '... and cannot load');
like(psql_err($node, 'SET ROLE plain; SELECT * FROM trucker.plan()'), qr/42501: permission denied to read the files of a project/, '... nor plan');
like(psql_err($node, 'SET ROLE plain; SET trucker.project_dir = \'/\''), qr/42501: permission denied to set parameter "trucker.project_dir"/, '... nor say where it is');
like(psql_err($node, 'SET ROLE plain; SHOW trucker.project_dir'), qr/42501: must be superuser/, '... nor see it');
sql('REVOKE EXECUTE ON FUNCTION trucker.load FROM plain; GRANT pg_read_server_files TO plain');
sql("SET ROLE plain; SELECT trucker.start('plain')");
is(sql("SELECT count(*) FROM trucker.truck WHERE name = 'later'"), '0', 'who may not call load() does not load by start() either');

$project->put('later' => undef);
sql('ALTER DATABASE postgres RESET trucker.project_dir', "SELECT * FROM trucker.load('" . $project->dir . "')");

# ---- start() drops nothing

sql("ALTER DATABASE postgres SET trucker.project_dir = '" . $project->dir . "'");
$project->put('gone/truck.yml' => "input: { table: a }\n", 'gone/output.sql' => "SELECT 1 FROM r\n");
sql('SELECT * FROM trucker.load()');
$project->put('gone' => undef);
($rc, $out, $err) = $node->psql('postgres', "SELECT trucker.start('copy')");
like($err, qr/WARNING:  truck "gone" is not in the project any more, and stays as it is\nHINT:  SELECT \* FROM trucker\.load\(\) drops it\./, 'start() warns of a truck that is not in the project any more');
is(sql("SELECT count(*) FROM trucker.truck WHERE name = 'gone'"), '1', '... and lets it be');
is(steps('load', $project), 'drop truck gone', '... until load()');
$project->put('copy/truck.yml' => "input: [\n");
like(psql_err($node, "SELECT trucker.start('copy')"), qr/F0000: project ".*" has/, 'a project with errors starts nothing');
like(psql_err($node, "SET trucker.project_dir = ''; SELECT trucker.start('copy')") || 'started', qr/^started$/, '... but what is there can be started without it');
$project->put('copy/truck.yml' => "input:\n  tables: [ public.a, b ]\n");
sql('ALTER DATABASE postgres RESET trucker.project_dir');

# ---- slow runs: the project's threshold, and a truck's own

$project->put('trucker.yml' => "unique_id: one\nslow_query_threshold_ms: 0\n",
	'late/truck.yml' => "input: { table: a }\nslow_query_threshold_ms: 3600000\n");
is(steps('load', $project), 'change truck copy; change truck late', 'a threshold for all trucks, and one for a single truck');
is(sql("SELECT string_agg(name || ' ' || (options->>'slow_query_threshold'), ', ' ORDER BY name) FROM trucker.truck WHERE name IN ('copy', 'late')"), 'copy 0, late 3600000', '... which counts there');
sql("SELECT trucker.start('copy')");
ok(caught_up($node, $_), "$_ has taken it over") foreach qw(copy late);
my $offset = -s $node->logfile;
sql("INSERT INTO a VALUES (6, 'a value of a row')");
ok(caught_up($node, $_), "$_ has run") foreach qw(copy late);
my $log = substr(slurp_file($node->logfile), $offset);
like($log, qr/LOG:  slow run of truck "copy": \d+ ms for 1 rows of table public\.a\n/, 'a run above its threshold is logged');
unlike($log, qr/slow run of truck "late"/, '... and one below is not');
unlike($log, qr/a value of a row|INSERT INTO out/, '... without SQL and rows');
like(psql_err($node, qq{SELECT trucker.alter_truck('late', options => '{"slow_query_threshold": $_}')}), qr/22023: option "slow_query_threshold" of a truck must be a number of milliseconds, or -1/, "not $_")
  foreach '-2', '"fast"', '1e99', 'true';

# ---- the example of README.md

my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my ($input, $output) = $readme =~ /input_sql => \$\$\n(\t\t\{\{ if eq .*?)\$\$,\n\toutput_sql => \$\$\n(.*?)\$\$,/s or die 'no example in README.md';
my ($root, $truck) = $readme =~ /`trucker\.yml`, and `order_flat\/truck\.yml`:\n\n(?:<!--.*?-->\n)?```yaml\n(.*?)```\n\n(?:<!--.*?-->\n)?```yaml\n(.*?)```/s or die 'no project in README.md';
my ($tables) = $readme =~ /(CREATE TABLE customers .*?)\nSELECT trucker\.create_truck/s or die 'no tables in README.md';
my ($table) = $readme =~ /reads public\.orders.*\n/ ? $readme =~ /\n truck \| order_flat \| create \| (.*)\n/ : die 'no plan in README.md';
my $shop = project($node, 'shop')->put('trucker.yml' => $root, 'order_flat/truck.yml' => $truck, 'order_flat/input.sql' => $input,
	'order_flat/output.sql' => $output, 'order_flat/reset.sql' => 'TRUNCATE order_flat');
sql($tables);
is(detail($shop, 'order_flat'), $table, 'README.md shows what plan() shows');
is(steps('load', $shop), 'create truck order_flat', '... and its project can be loaded');
sql("SELECT trucker.start('order_flat')");
ok(caught_up($node, 'order_flat'), '... and started');
is(sql("SELECT string_agg(concat_ws(' ', id, customer, country, amount), ', ' ORDER BY id) FROM order_flat"),
	'10 Ana PT 20.00, 11 Ana PT 5.50, 12 Ola PL 7.25', '... with the outcome of the truck that SQL makes');

# ---- a standby

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$project->put('late' => undef);
is($standby->safe_psql('postgres', "SELECT string_agg(action || ' ' || kind || ' ' || name, '; ') FROM trucker.plan('" . $project->dir . "') WHERE action <> 'none'"),
	'drop truck late', 'plan() works on a standby');
like(psql_err($standby, "SELECT * FROM trucker.load('" . $project->dir . "')"), qr/25006: /, '... and load() does not');
$standby->stop;

done_testing();
