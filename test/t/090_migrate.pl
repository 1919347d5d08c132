# Migrations of this database: run in order, once, each with its row or not at all;
# undone; set up anew from the schema file.  Whatever is wrong is named before anything runs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerTest;

my $node = trucker_node('migrated', conf => "max_worker_processes = 40\n");
my $dir  = project_dir($node);
my $migrations = 'SELECT version, name, state, has_down, applied_at IS NOT NULL FROM trucker.migrations ORDER BY version';

# As psql prints it: notices and warnings, then the error.
sub call
{
	my ($sql, %opts) = @_;
	my ($rc, $stdout, $stderr) = $node->psql($opts{db} // 'postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $stderr;
}

# ----
# Up and down
# ----

project_files(
	$dir,
	'migrate/local/2024-01-01T00:00:00_up.sql'   => "CREATE TABLE one (id int PRIMARY KEY); -- a comment; with a semicolon\nINSERT INTO one VALUES (1);\n",
	'migrate/local/2024-01-01T00:00:00_down.sql' => "DROP TABLE one;\n",
	'migrate/local/2024-01-02T00:00:00_add_two_up.sql' => q{
CREATE FUNCTION two() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 2 END; END;
CREATE TYPE mood AS ENUM ('sad', 'ok;');
DO $$ BEGIN PERFORM 1; EXECUTE 'ALTER TABLE one ADD COLUMN two int DEFAULT two()'; END $$;
SET search_path = nowhere;
SET ROLE pg_monitor
},
	'migrate/local/2024-01-02T00:00:00_add_two_down.sql' => 'ALTER TABLE one DROP COLUMN two; DROP FUNCTION two(); DROP TYPE mood');
is($node->safe_psql('postgres', $migrations), "2024-01-01T00:00:00||pending|t|f\n2024-01-02T00:00:00|add_two|pending|t|f", 'the view shows what is pending');
my $said = call(q{CALL trucker.migrate('local')});
like($said, qr/migration 2024-01-01T00:00:00 is applied.*migration 2024-01-02T00:00:00_add_two is applied/s, 'migrate() runs them in order, and says so');
unlike($said, qr/WARNING|ERROR/, 'and nothing else');
is($node->safe_psql('postgres', 'SELECT * FROM one'), '1|2', 'both have been run');
is($node->safe_psql('postgres', $migrations), "2024-01-01T00:00:00||applied|t|t\n2024-01-02T00:00:00|add_two|applied|t|t", 'the view shows that they are applied');
like(call(q{CALL trucker.migrate('local')}), qr/no migration is pending/, 'a second time there is nothing to do');
my $schema = slurp_file("$dir/migrate/local_schema.sql");
like($schema, qr/CREATE TABLE public\.one/, 'the schema file is written');
unlike($schema, qr/trucker_migrations|restrict|Dumped|EXTENSION|OWNER/, 'without what is not of the schema');
like($schema, qr/^-- trucker: applied 2024-01-01T00:00:00 [0-9a-f]{64}\n-- trucker: applied 2024-01-02T00:00:00 [0-9a-f]{64} add_two\n\z/m, 'with its migrations');
ok(!glob("$dir/migrate/.schema*"), 'no temporary file is left');
is((stat "$dir/migrate/local_schema.sql")[2] & 0777, 0644, 'all may read it');
chmod 0664, "$dir/migrate/local_schema.sql" or die $!;

like(call(q{CALL trucker.rollback('local')}), qr/2024-01-02T00:00:00_add_two is rolled back/, 'rollback() undoes the newest');
is($node->safe_psql('postgres', 'SELECT * FROM one'), '1', 'it is undone');
unlike(slurp_file("$dir/migrate/local_schema.sql"), qr/mood/, 'and gone from the schema file');
call(q{CALL trucker.migrate('local')});
is(slurp_file("$dir/migrate/local_schema.sql"), $schema, 'the same schema gives the same file');
is((stat "$dir/migrate/local_schema.sql")[2] & 0777, 0664, 'its mode is kept');
call(q{CALL trucker.rollback('local', 2)});
is($node->safe_psql('postgres', q{SELECT to_regclass('one') IS NULL}), 't', 'two steps');
like(call(q{CALL trucker.rollback('local')}), qr/ERROR:  55000.*1 are to be rolled back, and only 0 are applied/s, 'there is nothing more to undo');
like(call(q{CALL trucker.rollback('local', 0)}), qr/ERROR:  22023.*steps must be 1 or more/s, 'no steps');

# ----
# What a migration may do, and as whom
# ----

call(q{CALL trucker.migrate('local')});
$node->safe_psql('postgres', q{
	CREATE ROLE deployer LOGIN IN ROLE pg_read_server_files;
	CREATE ROLE owning NOLOGIN;
	CREATE ROLE setter LOGIN IN ROLE pg_read_server_files, owning;
	GRANT pg_read_server_files TO owning;
	CREATE SCHEMA theirs; GRANT ALL ON SCHEMA theirs TO deployer, owning;
	CREATE DATABASE other OWNER deployer; CREATE DATABASE mine OWNER owning});
my $grants = 'CREATE EXTENSION trucker; GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA trucker TO deployer, owning;'
  . 'GRANT EXECUTE ON FUNCTION trucker.migration_status() TO deployer; GRANT SELECT ON trucker.migrations TO deployer;'
  . 'GRANT CREATE ON SCHEMA public TO deployer, owning';
$node->safe_psql($_, $grants) foreach 'other', 'mine';
$node->safe_psql('postgres', 'GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA trucker TO deployer');
foreach my $owner ('pg_monitor', 'deployer')
{
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS strange');
	$node->safe_psql('postgres', 'CREATE DATABASE strange OWNER deployer');
	$node->safe_psql('strange', "$grants; CREATE SCHEMA trucker_migrations AUTHORIZATION $owner; CREATE TABLE trucker_migrations.migration (); ALTER TABLE trucker_migrations.migration OWNER TO $owner");
	like(call(($owner eq 'deployer' ? '' : 'SET ROLE deployer; ') . q{CALL trucker.migrate('local')}, db => 'strange'),
		qr/ERROR:  42501.*cannot hold migrations.*belongs to a role that is neither/s, "rows that $owner keeps are not written");
}
project_files(
	$dir,
	'migrate/local/2024-01-02T00:00:00_add_two_up.sql' => 'CREATE TABLE whose (who text); INSERT INTO whose VALUES (session_user || current_user)',
	'migrate/local/2024-01-02T00:00:00_add_two_down.sql' => 'DROP TABLE whose');
call(q{SET ROLE deployer; CALL trucker.migrate('local')}, db => 'other');
is($node->safe_psql('other', 'TABLE whose'), 'deployerdeployer', 'the SQL runs as the caller, in a session of his');
is($node->safe_psql('other', q{SELECT state FROM trucker.migrations WHERE version = '2024-01-02T00:00:00'}, extra_params => [ '-U', 'deployer' ]),
	'applied', 'who may read the files sees the view');
my ($rc, $out, $err) = $node->psql('mine', q{SET ROLE owning; CALL trucker.migrate('local')}, extra_params => [ '-U', 'setter' ]);
is($node->safe_psql('mine', 'TABLE whose'), 'setterowning', 'a role that may not log in has been set by the session\'s user, there too');
like(call(q{SET ROLE owning; CALL trucker.migrate('local')}, db => 'postgres'), qr/permission denied/, 'EXECUTE is not for all');
project_files($dir, 'migrate/local/2024-01-03T00:00:00_up.sql' => 'RESET ROLE; RESET SESSION AUTHORIZATION; CREATE ROLE climber SUPERUSER');
like(call(q{SET ROLE deployer; CALL trucker.migrate('local')}, db => 'other'), qr/must be superuser to create superusers/, 'there are no other rights to go back to');
project_files($dir, 'migrate/local/2024-01-03T00:00:00_up.sql' => undef);
foreach my $procedure (q{migrate('local')}, q{rollback('local')}, q{load_schema('local')}, q{dump_schema('local')}, q{mark_migration('local', '2024-01-01T00:00:00', true)})
{
	like($node->safe_psql('postgres', "SET client_min_messages = error; SELECT 1") && call("SET ROLE pg_monitor; CALL trucker.$procedure"),
		qr/permission denied/, "$procedure is not for all");
	like(call("BEGIN; CALL trucker.$procedure"), qr/ERROR:  25001.*cannot be called in a transaction block/s, "$procedure is refused in a transaction block");
}
like(call(q{DO $$ BEGIN CALL trucker.migrate('nobody'); END $$}), qr/connection "nobody" does not exist|server "nobody" does not exist/, 'a connection that is not there; and DO can call it');
$node->safe_psql('postgres', q{CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL trucker.migrate('local'); END $$});
like(call('SELECT f()'), qr/ERROR:  25001/, 'a function cannot');
like(call('CALL trucker.migrate(NULL)'), qr/ERROR:  22004/, 'null');
like(call(q{CALL trucker.migrate('../x')}), qr/ERROR:  42602|does not exist/, 'a name that leads out of the folder');
$node->safe_psql('postgres', 'CREATE ROLE nofiles LOGIN; GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA trucker TO nofiles');
like(call(q{SET ROLE nofiles; CALL trucker.migrate('local')}), qr/ERROR:  42501.*pg_read_server_files/s, 'who may not read the files of the server cannot run them');

# ----
# The schema file
# ----

$schema = slurp_file("$dir/migrate/local_schema.sql");
like(call(q{SET ROLE deployer; CALL trucker.dump_schema('local')}, db => 'other'), qr/ERROR:  42501.*pg_write_server_files/s, 'to write it takes a right of its own');
is(slurp_file("$dir/migrate/local_schema.sql"), $schema, 'without it migrate() has left the file as it was');
$node->safe_psql('postgres', 'GRANT pg_write_server_files TO deployer');
$node->safe_psql('other', q{
	CREATE TABLE other_table (id int, note text);
	COMMENT ON TABLE other_table IS 'x;y';
	CREATE FUNCTION body() RETURNS text LANGUAGE sql AS $$ SELECT '
--
-- Name: body; Type: USER MAPPING; Schema: -; Owner: -
--


CREATE USER MAPPING FOR public SERVER s OPTIONS (password ''no secret'')
' $$;
	CREATE SERVER s FOREIGN DATA WRAPPER trucker OPTIONS (host 'localhost');
	CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (user 'u', password 'secret');
	CREATE SERVER "odd name" FOREIGN DATA WRAPPER trucker OPTIONS (host 'localhost');
	GRANT USAGE ON FOREIGN SERVER s, "odd name" TO deployer;
	COMMENT ON SERVER "odd name" IS 'theirs';
	GRANT SELECT ON other_table TO deployer});
call(q{CALL trucker.dump_schema('local')}, db => 'other');
$schema = slurp_file("$dir/migrate/local_schema.sql");
unlike($schema, qr/'secret'|CREATE SERVER|WRAPPER|odd name|FOREIGN SERVER/, 'no connection, and no password');
like($schema, qr/-- Name: body; Type: USER MAPPING; Schema: -; Owner: -\n--\n\n\nCREATE USER MAPPING FOR public SERVER s OPTIONS \(password ''no secret''\)/, 'but what only looks like one');
like($schema, qr/GRANT SELECT ON TABLE public\.other_table TO deployer;/, 'rights are kept');

like(call(q{CALL trucker.load_schema('local')}, db => 'other'),
	qr/ERROR:  55000.*is not empty.*There are: function body\(\), table one, table other_table, table whose/s, 'a database that is not empty is left alone, and what is there named');
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION trucker');
like(call(q{CALL trucker.load_schema('local')}, db => 'fresh'), qr/the schema is loaded, with 2 migrations/, 'an empty one is set up');
is($node->safe_psql('fresh', q{SELECT string_agg(state, ',') FROM trucker.migrations}), 'applied,applied', 'and knows what is in it');
is($node->safe_psql('fresh', 'SELECT body()'), $node->safe_psql('other', 'SELECT body()'), 'function for function');
call(q{CALL trucker.dump_schema('local')}, db => 'fresh');
is(slurp_file("$dir/migrate/local_schema.sql"), $schema, 'its schema file is the same');
like(call(q{CALL trucker.load_schema('local')}, db => 'fresh'), qr/ERROR:  55000/, 'once');

project_files($dir, 'migrate/local_schema.sql' => $schema . 'CREATE TABLE broken (');
$node->safe_psql('postgres', 'CREATE DATABASE broken');
$node->safe_psql('broken', 'CREATE EXTENSION trucker');
like(call(q{CALL trucker.load_schema('local')}, db => 'broken'), qr/ERROR:  42601/, 'a broken file');
is($node->safe_psql('broken', q{SELECT to_regclass('one') IS NULL}), 't', 'leaves nothing');
project_files($dir, 'migrate/local_schema.sql' => undef);
like(call(q{CALL trucker.load_schema('local')}, db => 'broken'), qr/ERROR:  58P01.*has no file "migrate\/local_schema.sql"/s, 'no file');

# The folder cannot be written: the migration stays.
project_files(
	$dir,
	'migrate/local/2024-01-04T00:00:00_up.sql'   => 'CREATE TABLE four ()',
	'migrate/local/2024-01-04T00:00:00_down.sql' => 'DROP TABLE four');
chmod 0555, "$dir/migrate" or die $!;
like(call(q{SET ROLE deployer; CALL trucker.migrate('local')}, db => 'other'), qr/WARNING:  42501.*the migrations are done, but file.*local_schema.sql" is not written.*CALL trucker.dump_schema\('local'\)/s, 'a schema file that cannot be written is warned of');
chmod 0755, "$dir/migrate" or die $!;
is($node->safe_psql('other', q{SELECT to_regclass('four') IS NOT NULL AND (SELECT state FROM trucker.migrations WHERE version LIKE '2024-01-04%') = 'applied'}), 't', 'the migration is applied');
call(q{CALL trucker.dump_schema('local')}, db => 'other');
like(slurp_file("$dir/migrate/local_schema.sql"), qr/CREATE TABLE public.four/, 'and the file can be written later');
ok(!glob("$dir/migrate/.schema*"), 'no temporary file is left');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'trucker SQL'}), 'no process is left');

# A standby runs no SQL of its own.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
like(psql_err($standby, q{CALL trucker.migrate('local')}), qr/ERROR:  25006.*standby/s, 'a standby is refused');
is($standby->safe_psql('other', 'SELECT count(*) FROM trucker.migrations'), '3', 'but the view can be read there');

done_testing();
