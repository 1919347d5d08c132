# start() checks at once whatever can be checked at once, and each of its errors
# says what to do: doing just that, literally, is what cures it.  A truck that
# would fail later, in the background, costs its owner a search through logs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node;

# sql($statements...): run them in database postgres.
sub sql
{
	$node->safe_psql('postgres', $_) foreach @_;
	return;
}

# raises($sql, $sqlstate, $message, $hint, $test_name): the statement fails, with
# this SQLSTATE, message and hint (undef: none).  Returns the whole error.
sub raises
{
	my ($sql, $sqlstate, $message, $hint, $test_name, %opts) = @_;
	my $error = psql_err($node, $sql, %opts);
	$error =~ s/^.*(?=^\S*psql:\S+ (?:ERROR|FATAL):)//ms;	# warnings before it
	my ($state, $text) = $error =~ /(?:ERROR|FATAL):  (\w{5}): (.*)/;
	my ($said) = $error =~ /^HINT:  (.*?)\n(?:CONTEXT|LOCATION|QUERY|LINE)/ms;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	subtest $test_name => sub {
		is($state, $sqlstate, 'SQLSTATE');
		like($text // '', $message, 'message');
		defined $hint ? like($said // '', $hint, 'hint') : is($said, undef, 'no hint');
	} or diag $error;
	return $error;
}

# starts($truck, $test_name): start() succeeds and the truck streams.
sub starts
{
	my ($truck, $test_name) = @_;
	my $error = psql_err($node, "SELECT trucker.start('$truck')");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($error =~ s/^.*WARNING:(?:.|\n)*//r, '', "$test_name: start() finds nothing wrong");
	ok(wait_state($node, $truck, 'streaming'), "$test_name: the truck streams");
	return;
}

# The SQL of a mirror of table $from (id, v) in table $to.
sub mirror
{
	my ($from, $to) = @_;

	return qq{'$to', ARRAY['$from'::regclass], \$\$
		DELETE FROM $to USING r WHERE r.meta__operation <> 'insert' AND $to.id = r.old__id;
		INSERT INTO $to SELECT id, v FROM r WHERE meta__operation <> 'delete'
			ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$};
}

# create(@arguments) makes a truck; warnings (it is a superuser's) do not matter here.
sub create
{
	my ($arguments) = @_;
	my ($name) = $arguments =~ /^'((?:[^']|'')*)'/;

	# what a test that failed has left must not make the next one fail
	sql("SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck = '$name'",
		"SET client_min_messages = error; SELECT trucker.create_truck($arguments)");
	return;
}

# drop($truck, ...)
sub drop
{
	sql("SELECT trucker.drop_truck('$_')") foreach @_;
	return;
}

# ----
# A server on which everything is missing: each hint leads to the next one, and
# the last to a truck that streams.
# ----
my $knows_plugins = 0;
{
	$node = trucker_node(
		'bare',
		conf => q{
shared_preload_libraries = ''
wal_level = replica
max_replication_slots = 0
max_wal_senders = 0
max_worker_processes = 2
});
	$knows_plugins = server_knows($node, 'output_plugin_libraries');
	sql('CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, $$one$$);
		 CREATE TABLE d (LIKE s INCLUDING ALL)');
	create(mirror('s', 'd'));

	# follow($setting, $value): what the hint before has asked for
	my $follow = sub {
		my ($setting, $value) = @_;
		$node->append_conf('postgresql.conf', "$setting = $value");
		$node->restart;
	};

	raises("SELECT trucker.start('d')", '55000', qr/^trucker is not in shared_preload_libraries$/,
		qr/^Add trucker to shared_preload_libraries in postgresql\.conf, and restart the server\.$/,
		'not in shared_preload_libraries: says so');
	raises("SELECT trucker.wait_for('d')", '55000', qr/^trucker is not in shared_preload_libraries$/,
		qr/restart/, 'wait_for says so, too');
	is( $node->safe_psql('postgres', 'SELECT truck, state FROM trucker.status'),
		'd|stopped', 'the status view works without it');
	$follow->('shared_preload_libraries', q{'trucker'});

	raises("SELECT trucker.start('d')", '55000', qr/^wal_level is not "logical"$/,
		qr/^Set wal_level = logical in postgresql\.conf, and restart the server\.$/,
		'wal_level: says that a restart is needed');
	$follow->('wal_level', 'logical');

	my $n = qr/1 replication slots? (?:is|are) needed, and 0 are free/;
	raises("SELECT trucker.start('d')", '53400', $n,
		qr/^Raise max_replication_slots \(now 0\) and restart the server/,
		'no free replication slot: names the setting');
	$follow->('max_replication_slots', 1);

	$n = qr/1 WAL senders? (?:is|are) needed, and 0 are free/;
	raises("SELECT trucker.start('d')", '53400', $n, qr/^Raise max_wal_senders \(now 0\), and restart the server\.$/,
		'no free WAL sender: names the setting');
	$follow->('max_wal_senders', 1);

	raises("SELECT trucker.start('d')", '53400', qr/^no background worker is free$/,
		qr/^Raise max_worker_processes \(now 2\), and restart the server\.$/,
		'no free background worker: names the setting');
	$follow->('max_worker_processes', 3);

	starts('d', 'all hints followed, and nothing to spare');
	is($node->safe_psql('postgres', 'SELECT id, v FROM d'), '1|one', 'and has done its backfill');

	sql("SELECT trucker.start('d')");
	pass('a second start of a truck that runs needs no further slot, sender or worker');

	# A second truck finds nothing free.
	sql('CREATE TABLE d2 (LIKE s INCLUDING ALL)');
	create(mirror('s', 'd2'));
	raises("SELECT trucker.start('d2')", '53400', qr/replication slot/, qr/max_replication_slots \(now 1\)/,
		'a second truck is told that there is no slot left');
	raises('SELECT trucker.start()', '53400', qr/replication slot/, qr/max_replication_slots \(now 1\)/,
		'start() of all trucks counts those that run already as satisfied');

	# The first one keeps its slot when it rests, so it needs none to go on.
	$node->append_conf('postgresql.conf', "max_worker_processes = 6\nmax_wal_senders = 3");
	$node->restart;
	ok(wait_state($node, 'd', 'streaming'), 'the truck starts by itself after a restart');
	sql("SELECT trucker.stop('d')");
	ok(wait_state($node, 'd', 'stopped'), 'it stops');
	starts('d', 'its own slot, kept while it was stopped, is not missing');
	$node->stop;
}

# ----
# From here on, a server that has all that trucks need.
# ----
$node = trucker_node('main');
sql('CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, $$one$$);
	 CREATE TABLE d (LIKE s INCLUDING ALL)');
create(mirror('s', 'd'));

# The output plugin
raises("SET dynamic_library_path = '/nonexistent'; SELECT trucker.start('d')",
	'58P01', qr/^output plugin "wal2json" is not installed$/, qr/apt-get install postgresql-\d+-wal2json$/,
	'output plugin not installed: names the package');

SKIP:
{
	skip 'this server has no output_plugin_libraries', 12 unless $knows_plugins;
	foreach my $allowed (q{'pgoutput', 'test_decoding'}, q{''}, q{'pgoutput', 'Odd Name'})
	{
		sql("ALTER SYSTEM SET output_plugin_libraries = $allowed", 'SELECT pg_reload_conf()');
		$node->poll_query_until('postgres',
			q{SELECT current_setting('output_plugin_libraries') !~ 'wal2json'});
		my $error = raises("SELECT trucker.start('d')",
			'55000', qr/^output plugin "wal2json" is not in output_plugin_libraries$/,
			qr/^ALTER SYSTEM SET output_plugin_libraries = .*wal2json; SELECT pg_reload_conf\(\);$/,
			"output_plugin_libraries = $allowed: not allowed, says how to allow it");
		my ($cure) = $error =~ /^HINT:  (.*)/m;
		is(psql_err($node, $cure), '', 'what the hint says can be run') or next;
		$node->poll_query_until('postgres',
			q{SELECT current_setting('output_plugin_libraries') ~ 'wal2json'});
		starts('d', 'what the hint says');
		sql("SELECT trucker.stop('d')");
		wait_state($node, 'd', 'stopped');
	}
	sql('ALTER SYSTEM RESET output_plugin_libraries', 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres',
		q{SELECT current_setting('output_plugin_libraries') ~ 'test_decoding.*wal2json'});
}

# Synchronous replication
foreach my $names ('*', 'FIRST 1 (a, *)', 'ANY 1 ("*")')
{
	sql("ALTER SYSTEM SET synchronous_standby_names = '$names'", 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', qq{SELECT current_setting('synchronous_standby_names') = '$names'});
	raises("SELECT trucker.start('d')", '55000', qr/^synchronous_standby_names contains "\*"$/,
		qr/one by one/, "synchronous_standby_names = '$names': commits would wait for ourselves");
}
sql('ALTER SYSTEM RESET synchronous_standby_names', 'SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = ''});

# ----
# Names
# ----
raises("SELECT trucker.start('nobody')", '42704', qr/^truck "nobody" does not exist$/,
	qr/^SELECT truck FROM trucker\.status/, 'unknown truck: start');
raises("SELECT trucker.$_('nobody')", '42704', qr/^truck "nobody" does not exist$/, qr/trucker\.status/,
	"unknown truck: $_")
  foreach qw(stop resync drop_truck wait_for);
raises('SELECT trucker.create_truck(' . mirror('s', 'd') . ')',
	'42710', qr/^truck "d" already exists$/, undef, 'name clash');
is( $node->safe_psql('postgres', 'SELECT trucker.start(NULL::text), trucker.stop()'),
	'|', 'no name stands for all trucks');

# ----
# What create_truck refuses
# ----
my $t = q{'t', ARRAY['s'::regclass]};
raises("SELECT trucker.create_truck($t, '')", '22023', qr/^output_sql is empty$/, undef, 'empty SQL');
raises("SELECT trucker.create_truck($t, E' \\n\\t')", '22023', qr/^output_sql is empty$/, undef, 'SQL of spaces only');
raises("SELECT trucker.create_truck($t, 'SELECT 1', '')",
	'22023', qr/^input_sql is empty$/, undef, 'empty input_sql');
raises("SELECT trucker.create_truck($t, '-- nothing')", '22023', qr/^output_sql/, undef,
	'SQL of comments only');
raises("SELECT trucker.create_truck($t, ';')", '22023', qr/^output_sql/, undef, 'SQL of semicolons only');
raises("SELECT trucker.create_truck(NULL, '{s}', 'SELECT 1')",
	'22004', qr/"name"/, undef, 'no name');
raises("SELECT trucker.create_truck('', '{s}', 'SELECT 1')", '42602', qr/^invalid truck name ""$/, undef, 'an empty name');
raises("SELECT trucker.create_truck(repeat('x', 64), '{s}', 'SELECT 1')",
	'42602', qr/^invalid truck name/, undef, 'a name that is too long');
raises("SELECT trucker.create_truck('t', '{}', 'SELECT 1')",
	'22023', qr/at least one input table/, undef, 'no input table');
raises("SELECT trucker.create_truck('t', '{s,public.s}', 'SELECT 1')",
	'22023', qr/names a table twice/, undef, 'a table named twice');
raises("SELECT trucker.create_truck('t', '{nosuch}', 'SELECT 1')",
	'42P01', qr/^relation "nosuch" does not exist$/, undef, 'input table missing');
raises(q{SELECT trucker.create_truck('t', '{other.public.s}', 'SELECT 1')},
	'0A000', qr/cross-database|other\.public\.s/, undef, 'input table in another database');
raises("SELECT trucker.create_truck($t, 'SELECT 1', NULL, 'elsewhere')",
	'42704', qr/^connection "elsewhere" does not exist$/, qr/"local"/, 'unknown connection');
raises(qq{SELECT trucker.create_truck($t, 'SELECT 1', options => '{"backfil": true}')},
	'22023', qr/^unknown option "backfil" of a truck$/, qr/^Valid options are: .*backfill/, 'unknown option');
raises(qq{SELECT trucker.create_truck($t, 'SELECT 1', options => '{"$_->[0]": $_->[1]}')},
	'22023', qr/^option "$_->[0]" of a truck must be /, undef, "option $_->[0] of a wrong type")
  foreach ([ 'backfill', '"yes"' ], [ 'inserts_only', 1 ], [ 'reset_sql', '["SELECT 1"]' ], [ 'toast', '"maybe"' ],
	[ 'toast', 'null' ], [ 'role', '{}' ]);
raises("SELECT trucker.create_truck($t, 'SELECT 1', options => '$_')", '22023', qr/must be a JSON object/, undef,
	"options that are no object: $_")
  foreach '[]', '1', 'null', '"x"';
raises(qq{SELECT trucker.create_truck($t, 'SELECT 1', options => '{"role": "nobody_here"}')},
	'42704', qr/^role "nobody_here" does not exist$/, undef, 'option role names nobody');
raises("SELECT trucker.create_truck($t, 'SELECT 1; $_->[0]')", '0A000', qr/^$_->[1] is not allowed in output_sql$/,
	qr/^Allowed are SELECT, INSERT, UPDATE, DELETE, MERGE and CALL\.$/, "$_->[1] in output_sql")
  foreach ([ 'SET ROLE x', 'SET' ], [ 'COMMIT', 'COMMIT' ], [ 'CREATE TABLE x()', 'CREATE TABLE' ],
	[ 'SELECT 1 INTO x', 'SELECT INTO' ], [ 'TRUNCATE s', 'TRUNCATE TABLE' ], [ 'DO $$BEGIN END$$', 'DO' ],
	[ 'COPY s TO STDOUT', 'COPY' ], [ 'LOCK s', 'LOCK TABLE' ], [ 'PREPARE x AS SELECT 1', 'PREPARE' ]);

# ----
# Kinds of tables
# ----
sql(q{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
	CREATE VIEW in_view AS SELECT * FROM s;
	CREATE MATERIALIZED VIEW in_matview AS SELECT * FROM s;
	CREATE FOREIGN TABLE in_foreign (id int, v text) SERVER elsewhere;
	CREATE UNLOGGED TABLE "in Unlogged" (id int PRIMARY KEY, v text);
	CREATE TABLE in_partitioned (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE in_partition PARTITION OF in_partitioned DEFAULT;
	CREATE SEQUENCE in_sequence;
	CREATE TYPE in_type AS (id int, v text)});

# refused($table, ...): such an input table
sub refused
{
	my ($table, $message, $hint) = @_;

	create("'refused', ARRAY['$table'::regclass], 'SELECT count(*) FROM r'");
	my $error = raises("SELECT trucker.start('refused')", '42809', $message, $hint, "input table $table is refused");
	drop('refused');
	return $error;
}
refused('in_view', qr/^public\.in_view cannot be an input table: it is a view$/, qr/^Name the tables behind it/);
refused('in_matview', qr/^public\.in_matview cannot be an input table: it is a .*view$/, qr/^Name the tables behind it/);
refused('in_foreign', qr/it is a foreign table$/, qr/^Install trucker in the database that holds the table\.$/);
refused('in_sequence', qr/it is not a table$/, undef);
refused('s_pkey', qr/it is not a table$/, undef);
refused('in_type', qr/it is not a table$/, undef);
refused('pg_class', qr/it is a system catalog$/, undef);
refused('pg_authid', qr/it is a system catalog$/, undef);
refused('trucker.truck', qr/it belongs to trucker$/, undef);
refused('trucker.position', qr/it belongs to trucker$/, undef);
{
	my $error = refused('"in Unlogged"', qr/^public\."in Unlogged" cannot be an input table: it is an unlogged table$/,
		qr/^Its changes are not in the WAL\.  ALTER TABLE public\."in Unlogged" SET LOGGED;$/);
	my ($cure) = $error =~ /(ALTER TABLE .*;)/;
	sql($cure);
	sql('CREATE TABLE d_unlogged (LIKE "in Unlogged" INCLUDING ALL)');
	create(mirror('"in Unlogged"', 'd_unlogged'));
	starts('d_unlogged', 'an unlogged table, after the ALTER TABLE of the hint');
	drop('d_unlogged');
}
{
	sql('CREATE TABLE d_partition (LIKE s INCLUDING ALL)');
	create(mirror('in_partition', 'd_partition'));
	starts('d_partition', 'a partition, as the hint about partitioned tables says');
	drop('d_partition');
}
raises(
	q{CREATE TEMPORARY TABLE in_temp (id int PRIMARY KEY, v text);
	  SELECT trucker.create_truck('temp', ARRAY['in_temp'::regclass], 'SELECT count(*) FROM r');
	  SELECT trucker.start('temp')},
	'42809', qr/^pg_temp\w*\.in_temp cannot be an input table: it is a temporary table$/,
	qr/^Its changes are not in the WAL\.$/, 'input table in_temp is refused');
drop('temp');

sql('CREATE TABLE goes (id int PRIMARY KEY, v text)');
create(q{'goes', ARRAY['goes'::regclass], 'SELECT count(*) FROM r'});
sql('DROP TABLE goes');
raises("SELECT trucker.start('goes')", '42P01', qr/^an input table of truck "goes" \(OID \d+\) has been dropped$/,
	qr/^Give the truck the tables that there are with trucker\.alter_truck\(\)/, 'input table dropped since');
drop('goes');
pass('a truck whose input table is gone can be dropped');

# ----
# Rights
# ----
sql(q{
	CREATE ROLE carter LOGIN;
	CREATE ROLE "Other Carter" LOGIN;
	CREATE ROLE passer BYPASSRLS;
	GRANT passer TO carter;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO carter, "Other Carter";
	CREATE TABLE secret (id int PRIMARY KEY, v text);
	CREATE TABLE carters (id int PRIMARY KEY, v text);
	ALTER TABLE carters OWNER TO carter});
sql('SET ROLE carter; SELECT trucker.create_truck(' . mirror('secret', 'carters') . ')');
{
	my $error = raises("SET ROLE carter; SELECT trucker.start('carters')",
		'42501', qr/^role "carter" may not read input table public\.secret$/, qr/^GRANT SELECT ON public\.secret TO carter;$/,
		'no SELECT right: says what to grant');
	my ($cure) = $error =~ /^HINT:  (.*)/m;
	sql($cure);
	starts('carters', 'the right, granted as the hint says');
	raises('SET ROLE "Other Carter"; ' . "SELECT trucker.$_('carters')", '42501', qr/^must be owner of truck "carters"$/,
		undef, "$_ of somebody else's truck")
	  foreach qw(start stop resync drop_truck wait_for);
	is( psql_err($node, 'SET ROLE "Other Carter"; SELECT trucker.stop()'),
		'', 'stop() without a name succeeds for somebody without trucks');
	is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'carters'}),
		'streaming', 'and leaves other roles\' trucks alone');
	sql("SELECT trucker.stop('carters')");
	wait_state($node, 'carters', 'stopped');

	sql('ALTER TABLE secret ENABLE ROW LEVEL SECURITY');
	raises("SET ROLE carter; SELECT trucker.start('carters')",
		'42501', qr/^row security of table public\.secret applies to role "carter"$/, qr/option "role"/,
		'row security: refused');
	drop('carters');

	# what the hint says: a role that row security does not apply to
	sql('GRANT SELECT ON secret TO passer; GRANT ALL ON carters TO passer; GRANT USAGE, CREATE ON SCHEMA public TO passer');
	sql('SET ROLE carter; SELECT trucker.create_truck(' . mirror('secret', 'carters') . q{, options => '{"role": "passer"}')});
	starts('carters', 'with a role that row security does not apply to');
	drop('carters');
	sql('ALTER TABLE secret DISABLE ROW LEVEL SECURITY');
}
{
	sql('SET ROLE carter; SELECT trucker.create_truck(' . mirror('carters', 'secret') . ')');
	raises("SET ROLE carter; SELECT trucker.start('secret')",
		'42501', qr/^permission denied for table secret$/, undef, 'no right to write the output: refused');
	drop('secret');
	raises(q{SET ROLE carter; SELECT trucker.create_truck('t', '{carters}', 'SELECT 1', options => '{"role": "Other Carter"}')},
		'42501', qr/must be member of role "Other Carter"/, undef, 'a role that one is not a member of');
	sql('REVOKE EXECUTE ON FUNCTION trucker.start(text) FROM carter');
	raises('SET ROLE carter; SELECT trucker.start()', '42501', qr/^permission denied for function start$/, undef,
		'start is not open to all');
}

# ----
# SQL that does not fit, with the place of the error
# ----
# at($sql, $sqlstate, $message, $place, ...): the error points into the truck's SQL
sub at
{
	my ($error, $place, $test_name) = @_;
	my ($line, $mark) = $error =~ /^LINE \d+: (.*)\n(\s*)\^/m;
	my $prefix = length(($error =~ /^(LINE \d+: )/m)[0] // '');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like(substr($line // '', length($mark // '') - $prefix), qr/^\Q$place\E/, $test_name)
	  or diag $error;
	return;
}
{
	my $error = raises(qq{SELECT trucker.create_truck($t, E'DELETE FROM d;\\nINSERT INTO d SELEC 1')},
		'42601', qr/^syntax error at or near "SELEC"$/, undef, 'SQL that does not parse');
	at($error, 'SELEC 1', 'SQL that does not parse: with its position');

	create(q{'t', ARRAY['s'::regclass], 'DELETE FROM d; INSERT INTO d SELECT id, valu FROM r'});
	$error = raises("SELECT trucker.start('t')", '42703', qr/^column "valu" does not exist$/, undef, 'a column that r has not');
	at($error, 'valu FROM r', 'a column that r has not: with its position');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'SELECT * FROM r', 'SELECT * FROM r JOIN nosuch USING (id)'});
	$error = raises("SELECT trucker.start('t')", '42P01', qr/^relation "nosuch" does not exist$/, undef, 'a table that does not exist');
	at($error, 'nosuch', 'a table that does not exist: with its position');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'INSERT INTO d SELECT v, id FROM r'});
	$error = raises("SELECT trucker.start('t')", '42804', qr/^column "id" is of type integer but expression is of type text$/,
		qr/cast/, 'types that do not fit');
	at($error, 'v, id', 'types that do not fit: with its position');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'INSERT INTO d SELECT id, v FROM r ON CONFLICT (v) DO NOTHING'});
	raises("SELECT trucker.start('t')", '42P10', qr/no unique or exclusion constraint/, undef,
		'SQL that parses and cannot be planned');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'SELECT * FROM r', 'DELETE FROM d'});
	raises("SELECT trucker.start('t')", '42601', qr/^input_sql returns no rows$/, qr/SELECT|RETURNING/, 'an input_sql without rows');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'INSERT INTO d SELECT id, v FROM r', 'SELECT id FROM r'});
	$error = raises("SELECT trucker.start('t')", '42703', qr/^column "v" does not exist$/, qr/./,
		'output_sql that reads what input_sql does not return');
	at($error, 'v FROM r', 'output_sql that reads what input_sql does not return: with its position');
	drop('t');
}

# ----
# Replica identity
# ----
{
	my ($error, $cure);

	sql(q{CREATE TABLE "Old" (id int PRIMARY KEY, v text, "W x" int);
		  CREATE TABLE old_d (id int, v text)});
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT old__id, old__v FROM r'});
	$error = raises("SELECT trucker.start('old')", '55000', qr/^the SQL of truck "old" reads "old__v", which table public\."Old" does not log$/,
		qr/^ALTER TABLE public\."Old" REPLICA IDENTITY FULL;$/, 'old__ columns beyond the replica identity: the exact ALTER TABLE');
	($cure) = $error =~ /^HINT:  (.*)/m;
	sql($cure);
	starts('old', 'old__ columns, after the ALTER TABLE of the hint');
	sql(q{INSERT INTO "Old" VALUES (1, 'a'); UPDATE "Old" SET v = 'b'});
	ok(caught_up($node, 'old'), 'caught up');
	is($node->safe_psql('postgres', 'SELECT id, v FROM old_d WHERE id IS NOT NULL'), '1|a', 'the old value has arrived');

	# what is not to be read needs no logging
	drop('old');
	sql('ALTER TABLE "Old" REPLICA IDENTITY DEFAULT');
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT old__id, v FROM r'});
	starts('old', 'old__ columns of the replica identity only');
	drop('old');
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT id, to_jsonb(r)->>$$old__W x$$ FROM r'});
	raises("SELECT trucker.start('old')", '55000', qr/reads "old__/, qr/REPLICA IDENTITY FULL;$/, 'a whole-row reference reads old__ columns, too');
	drop('old');
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT old__id, old__v FROM r', options => '{"inserts_only": true}'});
	starts('old', 'inserts_only has no old values to miss');
	drop('old');

	# the identity may be another index than the primary key
	sql(q{ALTER TABLE "Old" ALTER v SET NOT NULL; CREATE UNIQUE INDEX old_v ON "Old" (v);
		  ALTER TABLE "Old" REPLICA IDENTITY USING INDEX old_v});
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT 0, old__v FROM r'});
	starts('old', 'REPLICA IDENTITY USING INDEX');
	drop('old');

	sql('CREATE TABLE "No Key" (id int, v text); CREATE TABLE no_key_d (id int, v text)');
	create(q{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r'});
	$error = raises("SELECT trucker.start('nokey')", '55000', qr/^table public\."No Key" has no replica identity$/,
		qr/ALTER TABLE public\."No Key" REPLICA IDENTITY FULL;.*"inserts_only": true/, 'no replica identity: the exact ALTER TABLE, or inserts_only');
	($cure) = $error =~ /(ALTER TABLE .*? REPLICA IDENTITY FULL;)/;
	sql($cure);
	starts('nokey', 'no key, after the ALTER TABLE of the hint');
	drop('nokey');
	my ($option) = $error =~ /("inserts_only": true)/;
	sql('ALTER TABLE "No Key" REPLICA IDENTITY DEFAULT');
	create(qq{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r', options => '{$option}'});
	starts('nokey', 'no key, with the option of the hint');
	drop('nokey');
	sql('ALTER TABLE "No Key" ADD PRIMARY KEY (id)');
	create(q{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r'});
	starts('nokey', 'with the primary key of the hint');
	drop('nokey');

	sql('ALTER TABLE "No Key" REPLICA IDENTITY NOTHING');
	create(q{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r'});
	raises("SELECT trucker.start('nokey')", '55000', qr/has no replica identity$/, qr/REPLICA IDENTITY/, 'REPLICA IDENTITY NOTHING beside a primary key');
	drop('nokey');
}

# ----
# Trucks that write what they read
# ----
sql(q{
	CREATE TABLE loop_in (id int PRIMARY KEY, v text);
	CREATE TABLE loop_out (id int PRIMARY KEY, v text);
	CREATE VIEW loop_view AS SELECT * FROM loop_in;
	CREATE TABLE loop_ruled (id int, v text);
	CREATE RULE loop_rule AS ON INSERT TO loop_ruled DO INSTEAD INSERT INTO loop_in VALUES (new.id + 1, new.v);
	CREATE TABLE loop_parent (id int, v text, primary key (id));
	CREATE TABLE loop_child () INHERITS (loop_parent);
	ALTER TABLE loop_child ADD PRIMARY KEY (id);
	CREATE TABLE loop_parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE loop_part PARTITION OF loop_parts FOR VALUES FROM (0) TO (1000);
	CREATE TABLE loop_part2 PARTITION OF loop_parts FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (id);
	CREATE TABLE loop_part2a PARTITION OF loop_part2 DEFAULT;
});

foreach my $case (
	[ 'loop_in', 'directly', 'INSERT INTO loop_in SELECT id + 1, v FROM r' ],
	[ 'loop_in', 'in a WITH', 'WITH w AS (UPDATE loop_in SET v = 1 RETURNING id) INSERT INTO loop_out SELECT r.id FROM r JOIN w USING (id)' ],
	[ 'loop_in', 'in its second statement', 'SELECT count(*) FROM r; DELETE FROM loop_in USING r WHERE loop_in.id = r.id' ],
	[ 'loop_in', 'by MERGE', 'MERGE INTO loop_in l USING r ON l.id = r.id WHEN MATCHED THEN DELETE' ],
	[ 'loop_in', 'through a view', 'INSERT INTO loop_view SELECT id + 1, v FROM r' ],
	[ 'loop_in', 'through a rule', 'INSERT INTO loop_ruled SELECT id, v FROM r' ],
	[ 'loop_child', 'through its parent', 'UPDATE loop_parent p SET v = r.v FROM r WHERE p.id = r.id' ],
	[ 'loop_part', 'through the partitioned table', 'UPDATE loop_parts p SET v = r.v FROM r WHERE p.id = r.id' ],
	[ 'loop_part', 'as a partition that rows are routed to', 'INSERT INTO loop_parts SELECT id + 1, v FROM r' ],
	[ 'loop_part2a', 'as a partition\'s partition that rows are routed to', 'INSERT INTO loop_parts SELECT id + 1, v FROM r' ],
	[ 'loop_part', 'by MERGE into the partitioned table',
		'MERGE INTO loop_parts l USING r ON l.id = r.id + 1 WHEN NOT MATCHED THEN INSERT VALUES (r.id + 1, r.v)' ])
{
	my ($input, $how, $sql) = @$case;

	create(qq{'loop', ARRAY['$input'::regclass], '$sql'});
	raises("SELECT trucker.start('loop')", '42P17', qr/^truck "loop" writes its own input table public\.\S+$/, qr/drop_truck\('loop'\)/,
		"output that writes its own input table $how");
	drop('loop');
}
create(q{'loop', ARRAY['loop_in'::regclass], 'SELECT count(*) FROM r',
	'WITH w AS (DELETE FROM loop_in WHERE false) SELECT 1 FROM r'});
raises("SELECT trucker.start('loop')", '42P17', qr/^truck "loop" writes its own input table/, qr/drop_truck\('loop'\)/, 'input_sql that writes the input table');
drop('loop');

# What no plan shows, the worker sees, before it commits.
sql(q{
	CREATE FUNCTION loop_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO loop_in VALUES (new.id + 1, new.v);
		RETURN new;
	END$$;
	CREATE TRIGGER loop_trigger AFTER INSERT ON loop_out FOR EACH ROW EXECUTE FUNCTION loop_trigger();
	CREATE TABLE loop_deferred (LIKE loop_out INCLUDING ALL);
	CREATE CONSTRAINT TRIGGER loop_deferred AFTER INSERT ON loop_deferred DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION loop_trigger();
	CREATE TABLE loop_plain (id int PRIMARY KEY, v text);
	CREATE FUNCTION loop_function(id int, v text) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN EXECUTE 'INSERT INTO loop_in SELECT $1 + 1, $2' USING id, v; RETURN id; END$$;
	CREATE FUNCTION loop_catches(id int, v text) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN BEGIN INSERT INTO loop_in VALUES (id + 1, v); EXCEPTION WHEN OTHERS THEN NULL; END; RETURN id; END$$;
	CREATE FUNCTION loop_truncates(id int) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN TRUNCATE loop_in; RETURN id; END$$;
	CREATE TABLE loop_ref (id int PRIMARY KEY);
	CREATE TABLE loop_cascade (id int PRIMARY KEY REFERENCES loop_ref ON DELETE CASCADE, v text);
	INSERT INTO loop_ref VALUES (1)});
foreach my $case (
	[ 'loop_in', 'in a trigger', 'INSERT INTO loop_out SELECT id, v FROM r', 'loop_out' ],
	[ 'loop_in', 'in a deferred trigger', 'INSERT INTO loop_deferred SELECT id, v FROM r', 'loop_deferred' ],
	[ 'loop_in', 'in a function', 'INSERT INTO loop_plain SELECT loop_function(id, v), v FROM r', 'loop_plain' ],
	[ 'loop_in', 'by TRUNCATE in a function', 'INSERT INTO loop_plain SELECT loop_truncates(id), v FROM r', 'loop_plain' ],
	[ 'loop_cascade', 'by a cascade', 'INSERT INTO loop_plain SELECT id, v FROM r; DELETE FROM loop_ref USING r WHERE loop_ref.id = r.id', 'loop_plain' ])
{
	my ($input, $how, $sql, $output) = @$case;
	my $content = "SELECT count(*) FROM $input UNION ALL SELECT count(*) FROM $output";

	sql("TRUNCATE $input, $output", "INSERT INTO $input VALUES (1, 'one')");
	create(qq{'loop', ARRAY['$input'::regclass], '$sql'});
	sql("SELECT trucker.start('loop')");
	ok( $node->poll_query_until('postgres',
			q{SELECT last_error ~ '^27000: truck "loop" would write its own input table|^55006: cannot TRUNCATE' FROM trucker.status WHERE truck = 'loop'}),
		"a write to the input table hidden $how stops the truck")
	  or diag $node->safe_psql('postgres', 'TABLE trucker.status');
	is($node->safe_psql('postgres', $content), "1\n0", "hidden $how: nothing of it is committed");
	drop('loop');
}

# An error that the SQL itself catches does no harm: nothing has been written.
sql("TRUNCATE loop_in, loop_plain", "INSERT INTO loop_in VALUES (1, 'one')");
create(q{'loop', ARRAY['loop_in'::regclass], 'INSERT INTO loop_plain SELECT loop_catches(id, v), v FROM r'});
sql("SELECT trucker.start('loop')");
ok(wait_state($node, 'loop', 'streaming'), 'a function that catches the error');
is($node->safe_psql('postgres', 'SELECT count(*) FROM loop_in'), '1', 'has still not written to the input table');
drop('loop');

# Writing what another truck reads is right (loops over several: 050_cascade.pl).
create(q{'other', ARRAY['loop_plain'::regclass], 'INSERT INTO s SELECT id + 100, v FROM r'});
starts('other', 'writing what another truck reads');
drop('other');

# ----
# Transactions
# ----
sql(q{BEGIN; SELECT trucker.start('d'); ROLLBACK});
sql(q{BEGIN; SAVEPOINT x; SELECT trucker.start('d'); ROLLBACK TO x; COMMIT});
is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'd'}), 'stopped',
	'a start that is rolled back does nothing');
{
	my $session = $node->background_psql('postgres');

	$session->query_safe(q{SET client_min_messages = error; BEGIN; SELECT trucker.start('d')});

	# what has been asked for in the meantime has been served when this truck runs; on
	# the same stream it would wait for the other start(), whose slot it shares
	create(q{'marker', ARRAY['s'::regclass], 'SELECT count(*) FROM r', options => '{"backfill": false, "stream": "marker"}'});
	sql("SELECT trucker.start('marker')");
	ok($node->poll_query_until('postgres', q{SELECT state = 'creating slot' FROM trucker.status WHERE truck = 'marker'}),
		'another truck, started later, has a worker');
	is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'd'}), 'stopped',
		'a start that has not committed yet does nothing');
	$session->query_safe('COMMIT');
	$session->quit;
	ok(wait_state($node, 'd', 'streaming'), 'its commit starts the truck');
	drop('marker');
}
sql(q{SELECT trucker.start('d')}, q{SELECT trucker.start('d'); SELECT trucker.start('d')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'trucker stream' AND application_name = 'trucker main'}),
	'1', 'starting a truck twice makes no second worker');
is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'd'}), 'streaming', 'and does not disturb it');
sql(q{BEGIN; SELECT trucker.stop('d'); SELECT trucker.start('d'); COMMIT});
sql(q{INSERT INTO s VALUES (3, 'three')});
ok(caught_up($node, 'd'), 'stop and start in one transaction: the truck goes on');

$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->restart;
foreach my $what ("trucker.start('d')", "trucker.stop('d')", "trucker.resync('d')", "trucker.drop_truck('d')")
{
	raises("BEGIN; SELECT $what; PREPARE TRANSACTION 'p'", '0A000',
		qr/^cannot PREPARE a transaction that has started, stopped, altered or dropped a truck$/, undef, "PREPARE TRANSACTION after $what is refused");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'and prepares nothing');
ok(wait_state($node, 'd', 'streaming'), 'nor changes what the truck does');

# A name with a quote: hints must hold SQL that can be run.
{
	my ($error, $cure);

	create(q{'it''s', ARRAY['s'::regclass], 'SELECT count(*) FROM r'});
	$error = raises(q{SELECT trucker.wait_for('it''s')}, '55000', qr/^truck "it's" is stopped$/, qr/trucker\.start/, 'waiting for a stopped truck');
	($cure) = $error =~ /^HINT:  (.*)/m;
	is(psql_err($node, $cure) =~ s/^.*WARNING:(?:.|\n)*//r, '', 'the hint can be run even if the name holds a quote');
	drop(q{it''s});
}

# ----
# The server's own pg_hba.conf.  A logical connection is matched by its database's
# name; so that we can still get in, a role of our own does.
# ----
sql('CREATE ROLE boss SUPERUSER LOGIN');
foreach my $db ('postgres', 'my db', 'replication', 'sameuser', 'all', 'it"s')
{
	my $quoted = $db =~ s/"/""/gr;
	my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
	local $ENV{PGUSER} = 'boss';
	my $reload = sub {
		my ($text) = @_;
		open my $file, '>', $node->data_dir . '/pg_hba.conf' or die "pg_hba.conf: $!";
		print $file $text;
		close $file;

		# a backend that starts after this line in the log sees the new rules
		my $offset = -s $node->logfile;
		$node->reload;
		$node->wait_for_log(qr/received SIGHUP, reloading configuration files/, $offset);
		$node->poll_query_until('postgres', 'SELECT 1', '1');
	};

	sql(qq{CREATE DATABASE "$quoted"}) if $db ne 'postgres';
	my $make = q{SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS trucker;
		CREATE TABLE h (id int PRIMARY KEY, v text); CREATE TABLE h_d (LIKE h INCLUDING ALL);
		SELECT trucker.create_truck(} . mirror('h', 'h_d') . ')';
	$node->safe_psql($db, $make);
	$reload->("local all boss trust\nlocal all all reject\n");

	my $error = raises("SELECT trucker.start('h_d')", '08001', qr/^could not connect to server$/, qr/^trucker reads this server's WAL over a replication connection to itself\..*put this line before the others there, and reload:\n/s,
		"own server not reachable from database $db: says what is missing", db => $db);
	like($error, qr/^DETAIL:  .*pg_hba\.conf rejects/m, 'and why');
	my ($line) = $error =~ /before the others there, and reload:\n(.*)/;
	$reload->(($line // '') . "\nlocal all boss trust\nlocal all all reject\n");
	is( psql_err($node, "SET client_min_messages = error; SELECT trucker.start('h_d')", db => $db),
		'', "database $db: the line of the hint, put in literally, lets trucker in")
	  or diag "the line: $line";
	$reload->($hba);
	ok(wait_state($node, 'h_d', 'streaming', db => $db), 'the truck streams');
	$node->safe_psql($db, "SELECT trucker.drop_truck('h_d')");
	sql(qq{DROP DATABASE "$quoted"}) if $db ne 'postgres';
}

# ----
# Another way in: trucker.replication_conninfo.  What it holds is nobody's business.
# ----
sql(q{SELECT trucker.stop('d')});
wait_state($node, 'd', 'stopped');
foreach my $case ([ 'user=nobody_here password=hush', '08001', qr/^could not connect to server$/ ],
	[ 'host=/nonexistent password=hush', '08001', qr/^could not connect to server$/ ],
	[ 'hush', '22023', qr/^invalid value for parameter "trucker\.replication_conninfo"$/ ])
{
	my ($conninfo, $sqlstate, $message) = @$case;

	sql("ALTER SYSTEM SET trucker.replication_conninfo = '$conninfo'", 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', qq{SELECT current_setting('trucker.replication_conninfo') = '$conninfo'});
	my $error = raises("SELECT trucker.start('d')", $sqlstate, $message, qr/./, "trucker.replication_conninfo that does not work ($sqlstate)");
	unlike($error, qr/hush/, 'the error does not show the setting');
}
raises('SET ROLE carter; SHOW trucker.replication_conninfo', '42501', qr/trucker\.replication_conninfo/, undef,
	'nor may everybody look at it');
sql('ALTER SYSTEM RESET trucker.replication_conninfo', 'SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('trucker.replication_conninfo') = ''});
starts('d', 'without the wrong setting');

# ----
# A standby
# ----
{
	my $primary = $node;

	$primary->backup('b');
	$node = PostgreSQL::Test::Cluster->new('standby');
	$node->init_from_backup($primary, 'b', has_streaming => 1);
	$node->start;
	$primary->wait_for_catchup($node, 'replay', $primary->lsn('insert'));

	raises("SELECT trucker.start('d')", '55000', qr/^trucks cannot run on a standby server$/, undef, 'start on a standby is refused');
	raises("SELECT trucker.wait_for('d')", '55000', qr/standby/, undef, 'wait_for on a standby is refused');
	is($node->safe_psql('postgres', q{SELECT state, position IS NOT NULL FROM trucker.status WHERE truck = 'd'}), 'stopped|t',
		'the status view on a standby shows trucks, and none that starts');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^trucker'}), '0',
		'no trucker process runs on a standby');
	$node->stop;
	$node = $primary;
}

unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|terminated by signal/, 'no crash in all of this');
$node->stop;

done_testing();
