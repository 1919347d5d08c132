# Broken projects, one for each thing that can be wrong: plan() and load() name the file,
# the line and the column, all of it at once, and nothing is done.  What comes from the
# server's environment is in no message.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerTest;

$ENV{TRUCKER_SECRET} = 'geheim';
$ENV{TRUCKER_LINES} = "eins\n\@zwei";
$ENV{TRUCKER_EMPTY} = '';
$ENV{TRUCKER_LATIN1} = "caf\xe9";
delete $ENV{TRUCKER_UNSET};

my $node = trucker_node('project_errors');
my $n = 0;

$node->safe_psql('postgres', 'CREATE TABLE a (id integer PRIMARY KEY, v text); CREATE TABLE b (id integer PRIMARY KEY, v text); CREATE VIEW w AS TABLE a');

my %good = (
	'trucker.yml' => "unique_id: broken\n",
	't/truck.yml' => "input:\n  table: a\n",
	't/output.sql' => "SELECT 1 FROM r\n");

# broken($test_name, {file => text, ...}, $error, ...): the good project with these files
# instead has these errors, as strings or patterns, and no more
sub broken
{
	my ($name, $files, @expected) = @_;
	my $project = project($node, 'p' . ++$n)->put(%good, %$files);
	my @errors = errors($node, $project);
	my $good = @errors == @expected;

	for my $i (0 .. $#expected)
	{
		$good &&= ref $expected[$i] ? $errors[$i] =~ $expected[$i] : $errors[$i] eq $expected[$i];
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good, $name) or diag join("\n", 'errors:', @errors, 'expected:', @expected);
	unlike("@errors", qr/geheim|zwei/, "$name: nothing of the environment is shown");
	return;
}

# trucker.yml with this text, truck.yml with this text
sub root { return { 'trucker.yml' => $_[0] } }
sub truck { return { 't/truck.yml' => $_[0] } }

is_deeply([ errors($node, project($node, 'good')->put(%good)) ], [], 'the project that is broken below is good');

# ---- the folder

foreach (
	[ q{NULL}, qr/55000: there is no project\nDETAIL:  Neither the argument "dir" nor trucker\.project_dir names a folder\.\nHINT:  ALTER DATABASE/, 'no folder' ],
	[ q{''}, qr/55000: there is no project/, 'an empty name' ],
	[ q{'relative'}, qr/22023: the project's folder "relative" is not an absolute path\nHINT:  The path is the server's/, 'a relative path' ],
	[ q{'/nowhere/at/all'}, qr/58P01: could not read the project's folder "\/nowhere\/at\/all": No such file/, 'a folder that is not there' ],
	[ q{'/etc/passwd'}, qr/42809: the project "\/etc\/passwd" is not a folder/, 'a file' ])
{
	my ($argument, $expected, $name) = @$_;

	like(psql_err($node, "SELECT * FROM trucker.plan($argument)"), $expected, $name);
}
broken('no trucker.yml', { 'trucker.yml' => undef }, 'trucker.yml: the file is missing');
mkdir $node->basedir . '/empty';
is_deeply([ errors($node, project($node, 'empty')) ], ['trucker.yml: the file is missing'], 'an empty folder');

# ---- files

broken('no truck.yml', { 't/truck.yml' => undef }, 't/truck.yml: the file is missing');
broken('no output', { 't/output.sql' => undef }, 't/output.sql: the file is missing, and t/truck.yml has no "table" in "output"');
broken('an empty output.sql', { 't/output.sql' => " \n\t\n" }, 't/output.sql: the file is empty');
broken('an unknown SQL file', { 't/imput.sql' => 'SELECT 1' }, 't/imput.sql: unknown file; the SQL of a truck is in input.sql, output.sql, truncate.sql and reset.sql');
broken('two trucks of one name', { 'trucks/t/truck.yml' => "input: { table: a }\n", 'trucks/t/output.sql' => 'SELECT 1 FROM r' },
	'trucks/t: there is another truck "t", in t');
broken('a name that is too long', { ('x' x 64) . '/truck.yml' => "input: { table: a }\n", ('x' x 64) . '/output.sql' => 'SELECT 1 FROM r' },
	('x' x 64) . ': the name of a truck has at most 63 bytes');
broken('a byte order mark is none', { 'trucker.yml' => "\xEF\xBB\xBFunique_id: x\n", 't/output.sql' => "\xEF\xBB\xBFSELECT 1 FROM r" });
broken('not UTF-8', { 't/output.sql' => "SELECT 1\n-- caf\xe9\n FROM r" }, qr/^file ".*\/t\/output\.sql" is not valid UTF-8 in line 2\.  Save it|^file ".*\/t\/output\.sql" is not valid UTF-8 in line 2/,
	't/output.sql: the file is missing, and t/truck.yml has no "table" in "output"');
broken('a zero byte', root("unique_id: a\0b\n"), qr/^file ".*\/trucker\.yml" holds a character with code zero/);
broken('a file that is too large', { 'trucker.yml' => '#' x (1024 * 1024 + 1) }, qr/^file ".*\/trucker\.yml" is too large\.  A file of a project has at most 1048576 bytes/);
broken('truncate.sql that is missing', truck("input: { table: a }\non_truncate: run\n"), 't/truncate.sql: the file is missing, and "on_truncate" is "run"');
broken('truncate.sql that is never run', { 't/truck.yml' => "input: { table: a }\non_truncate: ignore\n", 't/truncate.sql' => 'DELETE FROM b' },
	't/truck.yml: line 2, column 14: truncate.sql is never run, as "on_truncate" is not "run"');
{
	my $project = project($node, 'kinds')->put(%good);
	my $dir = $project->dir;

	unlink "$dir/trucker.yml";
	mkdir "$dir/trucker.yml";
	like((errors($node, $project))[0], qr/^".*\/trucker\.yml" is not a regular file/, 'a folder in the place of a file');
	rmdir "$dir/trucker.yml";
	POSIX::mkfifo("$dir/trucker.yml", 0600);
	like((errors($node, $project))[0], qr/^".*\/trucker\.yml" is not a regular file/, 'a pipe in the place of a file: nobody waits for who writes it');
	unlink "$dir/trucker.yml";
	symlink '/nowhere', "$dir/trucker.yml";
	is((errors($node, $project))[0], 'trucker.yml: the file is missing', 'a symbolic link to nowhere');
	unlink "$dir/trucker.yml";
	$project->put('trucker.yml' => '');
	chmod 0, "$dir/trucker.yml";
	like((errors($node, $project))[0], qr/^could not open file ".*\/trucker\.yml": Permission denied/, 'a file that may not be read');
	chmod 0600, "$dir/trucker.yml";
	chmod 0, "$dir/t";
	like(join("\n", errors($node, $project)), qr/Permission denied/, 'a folder that may not be read');
	chmod 0700, "$dir/t";
}

# ---- YAML

broken('a tab', root("connections:\n\t- name: x\n"), 'trucker.yml: line 2, column 1: a tab cannot stand here: YAML is indented with spaces');
broken('an unclosed list', root("unique_id: [a\n"), qr/^trucker\.yml: line 2, column 1: did not find expected ',' or '\]', while parsing a flow sequence$/);
broken('an unclosed quote', root("unique_id: \"a\n"), qr/^trucker\.yml: line 2, column 1: found unexpected end of stream, while scanning a quoted scalar$/);
broken('a second document', root("unique_id: a\n---\nunique_id: b\n"), 'trucker.yml: line 2, column 1: the file holds more than one document');
broken('an alias', root("unique_id: &x a\nconnections: *x\n"), 'trucker.yml: line 1, column 12: anchors (&name) are not supported',
	'trucker.yml: line 2, column 14: aliases (*name) are not supported');
broken('an alias bomb', root("a: &a [x,x,x,x,x,x,x,x,x]\n" . join('', map { my ($p, $c) = (chr(ord('a') + $_ - 1), chr(ord('a') + $_)); "$c: &$c [" . join(',', ("*$p") x 9) . "]\n" } 1 .. 8)),
	(map { qr/anchors|aliases/ } 1 .. 9 + 72));
broken('a merge key', root("connections:\n- <<: { name: x }\n"), 'trucker.yml: line 2, column 3: merge keys (<<) are not supported');
broken('a tag', root("unique_id: !!str a\n"), 'trucker.yml: line 1, column 12: tags (!name) are not supported');
broken('a key twice', root("unique_id: a\nslow_query_threshold_ms: 1\nunique_id: b\n"), 'trucker.yml: line 3, column 1: this key stands here twice');
broken('a key that is a list', root("[a]: b\n"), 'trucker.yml: line 1, column 1: a key must be a word');
broken('a list in the place of the mapping', root("- a\n"), 'trucker.yml: line 1, column 1: trucker.yml must be a mapping of keys to values');
broken('a scalar in the place of the mapping', root("just text\n"), 'trucker.yml: line 1, column 1: trucker.yml must be a mapping of keys to values');
broken('nesting', root('unique_id: ' . ('[' x 100) . (']' x 100) . "\n"), 'trucker.yml: line 1, column 27: this is nested too deeply');
broken('nesting without an end', root('{a: ' x 100000), qr/^trucker\.yml: line 1, column \d+: this is nested too deeply$/);
broken('a control character', root("unique_id: a\x01\n"), 'trucker.yml: line 1, column 13: control characters are not allowed');
broken('an escape for code zero', root("unique_id: \"a\\0b\"\n"), 'trucker.yml: line 1, column 12: a value cannot hold the character with code zero');
broken('places count characters', root("# \x{c3}\x{a9}\x{c3}\x{a9}\nunique_id: [ \x{e2}\x{82}\x{ac}, *b ]\n"),
	'trucker.yml: line 2, column 17: aliases (*name) are not supported');
broken('line ends of another system', root("unique_id: a\r\nunique: b\r\n"), qr/^trucker\.yml: line 2, column 1: unknown key "unique"; the keys of trucker\.yml are: unique_id, slow_query_threshold_ms, connections$/);
broken('too many keys', root(join '', map { "k$_: 1\n" } 1 .. 3000), qr/^trucker\.yml: line 2001, column 1: these are too many keys$/);
broken('more errors than anybody reads', root(join '', map { "k$_: 1\n" } 1 .. 150), (map { qr/^trucker\.yml: line $_, column 1: unknown key "k$_"/ } 1 .. 100), 'and 50 more');
broken('an empty truck.yml', truck(''), 't/truck.yml: line 1, column 1: a truck needs an "input" with at least one table');

# ---- templates

broken('a variable that is not set', root("unique_id: a\nconnections:\n  - name: {{ .TRUCKER_UNSET }}\n"),
	'trucker.yml: line 3, column 14: environment variable "TRUCKER_UNSET" is not set.  Set it for the server\'s process, or give another value: {{ or .TRUCKER_UNSET "..." }}.');
broken('... is false, and empty where it is not rendered', root("unique_id: {{ or .TRUCKER_UNSET .TRUCKER_EMPTY \"b\" }}{{ if .TRUCKER_UNSET }}x{{ end }}{{ if eq .TRUCKER_UNSET \"\" }}y{{ end }}\n"));
broken('an unclosed action', root("unique_id: a\n# {{ .X\n"), qr/^trucker\.yml: line 2, column 3: unclosed action\.  An action starts with/);
broken('an unknown function', root("unique_id: {{ env \"X\" }}\n"), qr/^trucker\.yml: line 1, column 15: unknown function "env"\.  The variables are those of the server's environment/);
broken('a field of a variable', root("unique_id: {{ .A.B }}\n"), qr/^trucker\.yml: line 1, column 15: unknown variable "\.A\.B"/);
broken('kinds that cannot be compared', root("unique_id: {{ if eq .TRUCKER_SECRET 1 }}a{{ end }}\n"), qr/^trucker\.yml: line 1, column 18: function "eq" cannot compare string with integer/);
broken('a variable that is not in the encoding', root("unique_id: {{ .TRUCKER_LATIN1 }}\n"), qr/^trucker\.yml: environment variable "TRUCKER_LATIN1" is not valid in encoding "UTF8"$/);
broken('a variable of several lines moves no place', root("unique_id: \"{{ or .TRUCKER_UNSET `a\nb\nc` }}\"\nslow: 1\n"), qr/^trucker\.yml: line 4, column 1: unknown key "slow"/);
broken('... and an error in it is at its action', root("unique_id: x\nslow_query_threshold_ms: {{ .TRUCKER_LINES }}\n"),
	qr/^trucker\.yml: line 2, column 29: found character that cannot start any token/);
broken('what an action renders is not shown', root("unique_id: x\nslow_query_threshold_ms: {{ .TRUCKER_SECRET }}\n"),
	'trucker.yml: line 2, column 29: "slow_query_threshold_ms" must be a whole number from 0 to 2147483647, not {{ ... }}');
broken('... as a part of a value, too', truck("input:\n  table: a\nchanges: all{{ .TRUCKER_SECRET }}\n"),
	't/truck.yml: line 3, column 10: "changes" must be one of all, net, not {{ ... }}');
broken('... nor as a key', root("{{ .TRUCKER_SECRET }}: x\n"), qr/^trucker\.yml: line 1, column 4: unknown key \{\{ \.\.\. \}\}; /);
broken('... nor as a name', truck("input: { table: a, connection: {{ .TRUCKER_SECRET }} }\n"),
	't/truck.yml: line 1, column 35: connection {{ ... }} is not defined in trucker.yml');
broken('... nor as a table', truck("input: { table: {{ .TRUCKER_SECRET }} }\n"), 't/truck.yml: line 1, column 20: input table {{ ... }} does not exist');
broken('actions that trim lines away', root("{{ if .TRUCKER_SECRET -}}\n\n\nunique_id: a\n{{- end }}\n{{/* a\ncomment */}}\nslow: 1\n"),
	qr/^trucker\.yml: line 8, column 1: unknown key "slow"/);

# ---- the keys of trucker.yml

broken('an unknown key', root("uniqe_id: x\n"), 'trucker.yml: line 1, column 1: unknown key "uniqe_id"; the keys of trucker.yml are: unique_id, slow_query_threshold_ms, connections');
broken('a list as unique_id', root("unique_id: [ a ]\n"), 'trucker.yml: line 1, column 12: "unique_id" must be a single value, not a list');
broken('a threshold that is no number', root("slow_query_threshold_ms: soon\n"),
	'trucker.yml: line 1, column 26: "slow_query_threshold_ms" must be a whole number from 0 to 2147483647, not "soon"');
broken('... that is negative', root("slow_query_threshold_ms: -1\n"), qr/must be a whole number from 0 to 2147483647, not "-1"$/);
broken('... that is too large', root("slow_query_threshold_ms: 2147483648\n"), qr/must be a whole number from 0 to 2147483647, not "2147483648"$/);
broken('connections that are a mapping', root("connections:\n  x: { host: y }\n"), 'trucker.yml: line 2, column 3: "connections" must be a list');
broken('a connection that is a word', root("connections: [ x ]\n"), 'trucker.yml: line 1, column 16: a connection must be a mapping of keys to values');
broken('a connection without a name', root("connections:\n- host: x\n"), 'trucker.yml: line 2, column 3: a connection needs a "name"');
broken('... with an empty one', root("connections:\n- name: \n"), 'trucker.yml: line 2, column 3: a connection needs a "name"');
broken('... with nothing at all', root("connections:\n-\n"), qr/^trucker\.yml: line \d, column \d: a connection needs a "name"$/);
broken('... with a name that is too long', root("connections:\n- name: " . ('x' x 64) . "\n"), 'trucker.yml: line 2, column 9: the name of a connection has at most 63 bytes');
broken('two connections of one name', root("connections:\n- name: x\n  user: u\n- name: x\n"), 'trucker.yml: line 4, column 9: there are two connections with the name "x"');
broken('an unknown key of a connection', root("connections:\n- name: x\n  hots: y\n"),
	'trucker.yml: line 3, column 3: unknown key "hots"; the keys of a connection are: name, adapter, host, port, database, user, pass, ssl, host_path, port_path, database_path, user_path, pass_path, ssl_path, migrate, options');
broken('an adapter that is not there yet', root("connections:\n- name: x\n  adapter: clickhouse\n"),
	'trucker.yml: line 3, column 12: adapter "clickhouse" is not supported by this version; the only one is: postgres');
broken('an adapter that is none', root("connections:\n- name: x\n  adapter: oracle\n"), 'trucker.yml: line 3, column 12: unknown adapter "oracle"; the only one is: postgres');
broken('a port that is none', root("connections:\n- { name: x, port: 70000 }\n"), 'trucker.yml: line 2, column 20: "port" must be a number from 1 to 65535, not "70000"');
broken('ssl that is none', root("connections:\n- { name: x, ssl: maybe }\n"),
	'trucker.yml: line 2, column 19: "ssl" must be one of disable, allow, prefer, require, verify-ca, verify-full, true, false');
broken('migrate that is none', root("connections:\n- { name: x, migrate: never }\n"), 'trucker.yml: line 2, column 23: "migrate" must be one of auto, manual, not "never"');
broken('a value and its file', { %{ root("connections:\n- { name: x, host: a, host_path: h }\n") }, h => 'b' }, 'trucker.yml: line 2, column 34: "host" and "host_path" exclude each other');
broken('a file of a value that is missing', root("connections:\n- { name: x, host_path: h }\n"), qr/^trucker\.yml: line 2, column 25: could not open file ".*\/h": No such file or directory$/);
broken('... that is empty', { %{ root("connections:\n- { name: x, host_path: h }\n") }, h => "\n" }, 'trucker.yml: line 2, column 25: the file that is named here is empty');
broken('... of a port that is none', { %{ root("connections:\n- { name: x, port_path: h }\n") }, h => "many\n" },
	'trucker.yml: line 2, column 25: the file that is named here must hold a port: a number from 1 to 65535');
broken('... of a password with blanks', { %{ root("connections:\n- { name: x, user: u, host: h, pass_path: h }\n") }, h => "secret \n" },
	'trucker.yml: line 2, column 43: the file that is named here holds white space around the password, which would count');
broken('an option that has a key of its own', root("connections:\n- { name: x, user: u, host: h, options: { sslmode: require } }\n"),
	'trucker.yml: line 2, column 43: option "sslmode" has a key of its own in a connection');
broken('an option that does not exist', root("connections:\n- { name: x, user: u, host: h, options: { spped: high } }\n"), qr/^trucker\.yml: line 2, column 11: invalid option "spped"/);
broken('an option that is wrong', root("connections:\n- { name: x, user: u, host: h, ssl: verify-full }\n"), qr/^trucker\.yml: line 2, column 11: option "sslmode" = verify-full needs option "sslrootcert"/);
broken('a connection without a user', root("connections:\n- { name: x, host: h }\n"), 'trucker.yml: line 2, column 11: connection "x" needs a "user"');
broken('"local" that leads elsewhere', root("connections:\n- { name: local, host: 127.0.0.1, port: 1, user: u, database: d }\n"),
	qr/^trucker\.yml: line 2, column 11: whether connection "local" leads to this database cannot be found out: could not connect to connection "local"\.  /);

# ---- the keys of truck.yml

broken('an unknown key', truck("input: { table: a }\noutptu: { }\n"),
	't/truck.yml: line 2, column 1: unknown key "outptu"; the keys of truck.yml are: slow_query_threshold_ms, stream, changes, on_error, on_truncate, toast, role, backfill, inserts_only, input, output');
broken('an unknown key of input', truck("input: { table: a, schema: public }\n"),
	't/truck.yml: line 1, column 20: unknown key "schema"; the keys of input are: connection, table, tables, only_columns, except_columns');
broken('an unknown key of output', truck("input: { table: a }\noutput: { tabel: b }\n"), 't/truck.yml: line 2, column 11: unknown key "tabel"; the keys of output are: connection, table, mode');
broken('no input', truck("stream: x\n"), 't/truck.yml: line 1, column 1: a truck needs an "input" with at least one table');
broken('an input that is a word', truck("input: a\n"), 't/truck.yml: line 1, column 8: "input" must be a mapping of keys to values');
broken('no table', truck("input: { connection: local }\n"), 't/truck.yml: line 1, column 8: a truck needs at least one input table');
broken('an empty list of tables', truck("input: { tables: [] }\n"), 't/truck.yml: line 1, column 8: a truck needs at least one input table');
broken('table and tables', truck("input: { table: a, tables: [ b ] }\n"), 't/truck.yml: line 1, column 17: "table" and "tables" exclude each other');
broken('table that is a list', truck("input: { table: [ a, b ] }\n"), 't/truck.yml: line 1, column 17: "table" must be a single value; several are a list in "tables"');
broken('tables that are a word', truck("input: { tables: a }\n"), 't/truck.yml: line 1, column 18: "tables" must be a list; a single one is "table"');
broken('a table twice', truck("input: { tables: [ a, a ] }\n"), 't/truck.yml: line 1, column 23: input table "a" is named twice');
broken('... under two names', truck("input: { tables: [ a, public.a ] }\n"), 't/truck.yml: line 1, column 23: input table "public.a" is another one\'s name once more');
broken('a table that does not exist', truck("input: { tables: [ a, nowhere.b, c ] }\n"), qr/^t\/truck\.yml: line 1, column 23: input table "nowhere\.b"(:| does)/,
	't/truck.yml: line 1, column 34: input table "c" does not exist');
broken('a table whose name cannot be one', truck("input: { table: a.b.c.d.e }\n"), qr/^t\/truck\.yml: line 1, column 17: input table "a\.b\.c\.d\.e": improper relation name/);
broken('columns that are a word', truck("input: { table: a, only_columns: id }\n"),
	't/truck.yml: line 1, column 34: "only_columns" must be a list of columns, or a mapping of input tables to such lists');
broken('columns of another table', truck("input: { table: a, only_columns: { b: [ id ] } }\n"), 't/truck.yml: line 1, column 36: "b" is no input table of this truck');
broken('columns of which of two tables', truck("input: { tables: [ a, b ], except_columns: [ v ] }\n"),
	't/truck.yml: line 1, column 44: "except_columns" must say for which of the input tables: a mapping of tables to lists');
broken('a column that is a list', truck("input: { table: a, except_columns: [ [ v ] ] }\n"), 't/truck.yml: line 1, column 38: "except_columns" must hold names of columns');
broken('columns that are kept and left out', truck("input: { table: a, only_columns: [ id ], except_columns: [ v ] }\n"),
	't/truck.yml: line 1, column 58: "only_columns" and "except_columns" exclude each other');
broken('words', truck("input: { table: a }\nchanges: some\non_error: panic\non_truncate: cry\ntoast: burnt\nbackfill: perhaps\ninserts_only: 1\n"),
	't/truck.yml: line 2, column 10: "changes" must be one of all, net, not "some"',
	't/truck.yml: line 3, column 11: "on_error" must be one of retry, stop, quarantine, not "panic"',
	't/truck.yml: line 4, column 14: "on_truncate" must be one of error, ignore, run, not "cry"',
	't/truck.yml: line 5, column 8: "toast" must be one of exact, current, not "burnt"',
	't/truck.yml: line 6, column 11: "backfill" must be true or false, not "perhaps"',
	't/truck.yml: line 7, column 15: "inserts_only" must be true or false, not "1"');
broken('a mode of no use', truck("input: { table: a }\noutput: { table: b, mode: mirror }\n"), 't/truck.yml: line 2, column 27: "mode" is of no use where there is an output.sql');
broken('a mode that is none', truck("input: { table: a }\noutput: { table: b, mode: fast }\n"), 't/truck.yml: line 2, column 27: "mode" must be one of append, mirror, not "fast"');
broken('an output connection that is not defined', truck("input: { table: a }\noutput: { connection: x }\n"), 't/truck.yml: line 2, column 23: connection "x" is not defined in trucker.yml');
broken('a role that does not exist', truck("input: { table: a }\nrole: nobody_at_all\n"), 't/truck.yml: line 2, column 7: role "nobody_at_all" does not exist');
broken('a stream whose name is too long', truck("input: { table: a }\nstream: " . ('x' x 64) . "\n"), 't: option "stream" of a truck must be a name of 1 to 63 bytes');
broken('options that exclude each other', truck("input: { table: a }\nchanges: net\ninserts_only: true\n"), qr/^t: the options "changes": "net" and "inserts_only": true of a truck exclude each other/);
broken('an input connection that leads nowhere', { %{ root("connections:\n- { name: x, host: 127.0.0.1, port: 1, user: u, pass: {{ .TRUCKER_SECRET }}, database: d }\n") }, %{ truck("input: { connection: x, table: a }\n") } },
	qr/^t\/truck\.yml: line 1, column 22: whether the input connection leads to this database cannot be found out: could not connect to connection "x"\.  /);

# ---- SQL

broken('an error of a template', { 't/input.sql' => "SELECT *\nFROM {{ .row }}" }, qr/^t\/input\.sql: line 2, column 9: unknown variable "\.row"\./);
broken('an error of syntax', { 't/output.sql' => "SELEC 1" }, 't/output.sql: line 1, column 1: syntax error at or near "SELEC"');
broken('... behind actions', { 't/input.sql' => "SELECT '\x{c3}\x{a9}' {{- if eq .operation \"delete\" }}\n{{- /* */}}\n, v FRM {{ .rows }} r\n{{ else }}, v FROM r{{ end }}" },
	't/input.sql: line 3, column 12: syntax error at or near "r"');
broken('... at the end', { 't/output.sql' => "SELECT 1 FROM (r" }, 't/output.sql: line 1, column 17: syntax error at end of input');
broken('... in truncate.sql', { 't/truncate.sql' => "DELETE FROM {{ .input_table }};\n DELET FROM b\n" }, 't/truncate.sql: line 2, column 2: syntax error at or near "DELET"');
broken('... in reset.sql', { 't/reset.sql' => "TRUNCATE b;\nTRUNCAT b" }, 't/reset.sql: line 2, column 1: syntax error at or near "TRUNCAT"');
broken('a statement that may not be there', { 't/output.sql' => "CREATE TABLE x ()" },
	't: CREATE TABLE is not allowed in output_sql.  Allowed are SELECT, INSERT, UPDATE, DELETE, MERGE and CALL.');
broken('SQL that is there for no operation', { 't/output.sql' => '-- nothing' }, 't/output.sql is empty.  It holds no statement, for any input table and operation.');

# ---- all at once

broken('much that is wrong in several files', {
		'trucker.yml' => "uniqe: x\nconnections:\n- { name: x, port: no }\n- { host: y }\n",
		't/truck.yml' => "input: { tabel: a }\n", 't/output.sql' => undef,
		'u/output.sql' => '' },
	qr/^trucker\.yml: line 1, column 1: unknown key "uniqe"/, qr/^trucker\.yml: line 3, column 20: "port"/, qr/^trucker\.yml: line 4, column 3: a connection needs/,
	qr/^t\/truck\.yml: line 1, column 10: unknown key "tabel"/, qr/^t\/truck\.yml: line 1, column 8: a truck needs/,
	qr/^t\/output\.sql: the file is missing/, qr/^u\/truck\.yml: the file is missing/);
# ---- another encoding

$node->safe_psql('postgres', "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
$node->safe_psql('latin', 'CREATE EXTENSION trucker; CREATE TABLE a (id integer PRIMARY KEY, v text)');
{
	my $project = project($node, 'latin')->put(%good, 't/output.sql' => "SELECT '\x{c3}\x{a9}' FROM r", 'trucker.yml' => "unique_id: \x{c3}\x{a9} # \x{c3}\x{a9}\n");

	is_deeply([ errors($node, $project, db => 'latin') ], [], 'files are UTF-8, whatever the encoding of the database is');
	$node->safe_psql('latin', "SET client_min_messages = error; SELECT * FROM trucker.load('" . $project->dir . "')");
	is($node->safe_psql('latin', 'SET client_encoding = UTF8; SELECT octet_length(output_sql) || project::text FROM trucker.truck, trucker.project_object'), "17\x{c3}\x{a9}", '... and are converted');
	$project->put('trucker.yml' => "# \x{c3}\x{a9}\n\x{c3}\x{a9}: [ \x{c3}\x{a9} ]\n");
	like((errors($node, $project, db => 'latin', sql => 'SET client_encoding = UTF8'))[0], qr/^trucker\.yml: line 2, column 1: unknown key "\x{c3}\x{a9}"/, 'places are those of characters');
	$project->put('trucker.yml' => '', 't/output.sql' => "SELECT '\x{e2}\x{82}\x{ac}' FROM r");
	like((errors($node, $project, db => 'latin'))[0], qr/^t\/output\.sql: character with byte sequence 0xe2 0x82 0xac in encoding "UTF8" has no equivalent in encoding "LATIN1"/,
		'a character that the database has not');
	$project->put('t/output.sql' => "SELECT 1 FROM r", "t\x{c3}\x{a9}/truck.yml" => '');
	like((errors($node, $project, db => 'latin'))[0], qr/a name in folder ".*" is not ASCII\.  In a database whose encoding is not UTF8/, 'a name that would not lead back to its file');
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM trucker.truck'), '0', 'nothing of all this was done');
is($node->safe_psql('postgres', 'SELECT count(*) FROM trucker.project_object'), '0', '... nor noted');
unlike(slurp_file($node->logfile), qr/geheim/, 'nothing of the environment is in the log');

done_testing();
