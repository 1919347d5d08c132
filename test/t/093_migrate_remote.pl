# Migrations of another server's database; and trucks, which do not start before those of
# their connection are applied, or have start() run them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Cwd qw(realpath);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerRemote;
use TruckerTest;

my $node   = trucker_node('migrating', conf => "log_statement = all\n");
my $target = remote_node('target');
my $dir    = project_dir($node);
my $m      = 'migrate/warehouse';

sub yml
{
	my ($database, $migrate, $more) = @_;

	return "connections:\n  - name: warehouse\n    adapter: postgres\n    host: 127.0.0.1\n    port: " . $target->port
	  . "\n    database: $database\n    user: writer\n    pass: secret of the writer\n    migrate: $migrate\n" . ($more // '');
}

project_files($dir, 'trucker.yml' => yml('postgres', 'manual'));
$node->safe_psql('postgres', 'CREATE TABLE item (id int PRIMARY KEY, name text); SELECT trucker.load()');

sub call
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $stderr;
}

sub states
{
	return $node->safe_psql('postgres', q{SELECT version || ' ' || state FROM trucker.migrations WHERE connection = 'warehouse' ORDER BY version});
}

# ----
# start() is refused
# ----

project_files(
	$dir,
	"$m/2024-01-01T00:00:00_up.sql"   => 'CREATE TABLE item_copy (id int PRIMARY KEY, name text)',
	"$m/2024-01-01T00:00:00_down.sql" => 'DROP TABLE item_copy',
	"$m/2024-01-02T00:00:00_up.sql"   => "-- trucker: no transaction\nDO \$\$ BEGIN RAISE NOTICE 'from there'; END \$\$;\nCREATE INDEX CONCURRENTLY item_copy_name ON item_copy (name)",
	"$m/2024-01-02T00:00:00_down.sql" => 'DROP INDEX item_copy_name');
$node->safe_psql('postgres', q{SELECT trucker.create_truck('copies', '{item}', output_connection => 'warehouse', options => '{"output_table": "item_copy"}')});
like(psql_err($node, q{SELECT trucker.start('copies')}),
	qr/ERROR:  55000: +connection "warehouse" has pending migrations\nDETAIL:.*: 2024-01-01T00:00:00, 2024-01-02T00:00:00\.\nHINT:  CALL trucker.migrate\('warehouse'\);/, 'start() names what is pending');
is($node->safe_psql('postgres', q{SELECT detail FROM trucker.check('copies') WHERE NOT ok AND item LIKE '%migrations%'}) =~ /has pending migrations/, 1, 'check() tells it, too');

# ----
# migrate() there
# ----

my $said = call(q{CALL trucker.migrate('warehouse')});
like($said, qr/NOTICE:  00000: +from there.*2024-01-02T00:00:00 is applied/s, 'migrated there, and its notices are passed on');
unlike($said, qr/ERROR|WARNING/, 'without a warning');
is($target->safe_psql('postgres', 'SELECT connection, version, state FROM trucker_migrations.migration ORDER BY version'),
	"warehouse|2024-01-01T00:00:00|applied\nwarehouse|2024-01-02T00:00:00|applied", 'the rows are there');
is($node->safe_psql('postgres', q{SELECT to_regclass('trucker_migrations.migration') IS NULL}), 't', 'and not here');
is(states(), "2024-01-01T00:00:00 applied\n2024-01-02T00:00:00 applied", 'the view asks there');
my $schema = slurp_file("$dir/migrate/warehouse_schema.sql");
like($schema, qr/CREATE TABLE public.item_copy.*CREATE INDEX item_copy_name/s, 'the schema file is of that database');
unlike($schema, qr/trucker_migrations|trucker_positions/, 'without what is trucker\'s');
$node->safe_psql('postgres', q{INSERT INTO item VALUES (1, 'one'); SELECT trucker.start('copies')});
ok(caught_up($node, 'copies'), 'the truck starts');
same_remote($node, 'TABLE item', $target, 'TABLE item_copy', 'and writes');
call(q{CALL trucker.dump_schema('warehouse')});
is(slurp_file("$dir/migrate/warehouse_schema.sql"), $schema, 'positions do not show in the schema file');

project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => "SELECT 1;\nSELECT *\nFROM nowhere", "$m/2024-01-03T00:00:00_down.sql" => 'SELECT 1');
like(call(q{CALL trucker.migrate('warehouse')}), qr/ERROR:  42P01: +relation "nowhere" does not exist\nCONTEXT:  file "$m\/2024-01-03T00:00:00_up.sql", line 3, statement 2 of 2: SELECT/, 'an error comes from there, with file, line and statement');
project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => 'SELECT pg_sleep(0); CREATE ROLE climber');
like(call(q{CALL trucker.migrate('warehouse')}), qr/ERROR:  42501.*permission denied to create role/s, 'with the rights of the mapping');

# cancelled: the session there ends, too
project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => 'ALTER TABLE item_copy ADD COLUMN more int; SELECT pg_sleep(1000)');
$node->psql('postgres', q{SELECT trucker.stop()});
my ($out, $err) = ('', '');
my $run = IPC::Run::start([ $node->installed_command('psql'), '-X', '-d', $node->connstr('postgres'), '-c', q{CALL trucker.migrate('warehouse')} ], '<', \undef, '>', \$out, '2>', \$err);
ok($target->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)%' AND pid <> pg_backend_pid()}), 'a long statement there');
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL trucker.migrate%'});
$run->finish;
like($err, qr/canceling statement due to user request/, 'is cancelled here');
ok($target->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)%' AND pid <> pg_backend_pid()}), 'and there');
is($target->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'item_copy'::regclass AND attname = 'more'}), '0', 'nothing is left');

# pg_dump's command line is for all to see
project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => 'SELECT 1');
my $blocker = $target->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE item_copy');
$run = IPC::Run::start([ $node->installed_command('psql'), '-X', '-d', $node->connstr('postgres'), '-c', q{CALL trucker.migrate('warehouse')} ], '<', \undef, '>', \$out, '2>', \$err);
ok($target->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE%' AND wait_event_type = 'Lock'}), 'pg_dump waits for a lock there');
# that of this server: other tests may have theirs
my @lines = grep { /pg_dump/ } map { my $line = eval { slurp_file("$_/cmdline") } // ''; $line }
  grep { (readlink("$_/cwd") // '') eq realpath($node->data_dir) } glob('/proc/[0-9]*');
SKIP:
{
	skip 'no /proc', 2 if !-e '/proc/self/cmdline';
	cmp_ok(scalar @lines, '>=', 1, 'there is its command line');
	is((grep { /secret of|writer|127\.0\.0\.1/ } @lines), 0, 'and in it neither password nor user nor host');
}
$blocker->query_safe('COMMIT');
$blocker->quit;
$run->finish;
unlike($err, qr/WARNING.*not written/, 'it goes on');
call(q{CALL trucker.rollback('warehouse')});

# ----
# load_schema() there
# ----

project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => 'ALTER TABLE item_copy ADD COLUMN more int', "$m/2024-01-03T00:00:00_down.sql" => 'ALTER TABLE item_copy DROP COLUMN more');
like(call(q{CALL trucker.load_schema('warehouse')}), qr/ERROR:  55000.*is not empty.*table item_copy/s, 'not into a database that is not empty');
$target->safe_psql('postgres', 'ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM writer; CREATE DATABASE fresh OWNER writer');
$target->safe_psql('fresh', 'GRANT ALL ON SCHEMA public TO writer');
$node->safe_psql('postgres', q{SELECT trucker.drop_truck('copies')});
project_files($dir, 'trucker.yml' => yml('fresh', 'manual'), 'migrate/warehouse_schema.sql' => $schema =~ s/^ALTER DEFAULT PRIVILEGES.*\n//mgr);
$node->safe_psql('postgres', 'SELECT trucker.load()');
like(call(q{CALL trucker.load_schema('warehouse')}), qr/the schema is loaded, with 2 migrations\nHINT:  1 more/s, 'into an empty one');
is(states(), "2024-01-01T00:00:00 applied\n2024-01-02T00:00:00 applied\n2024-01-03T00:00:00 pending", 'what is newer is pending');
unlike(call(q{CALL trucker.migrate('warehouse')}), qr/ERROR|WARNING/, 'and can be run');
like(call(q{CALL trucker.rollback('warehouse', 2)}), qr/2024-01-02T00:00:00 is rolled back/, 'and back');
is($target->safe_psql('fresh', 'SELECT version FROM trucker_migrations.migration'), '2024-01-01T00:00:00', 'rows are gone with what they tell');

# ----
# migrate: auto
# ----

project_files($dir, 'trucker.yml' => yml('fresh', 'auto'), "$m/2024-01-02T00:00:00_up.sql" => 'CREATE INDEX item_copy_name ON item_copy (name)');
$node->safe_psql('postgres', q{SELECT trucker.create_truck('fresh', '{item}', output_connection => 'warehouse', options => '{"output_table": "item_copy"}')});
like($node->safe_psql('postgres', q{SELECT detail FROM trucker.check('fresh') WHERE item LIKE '%migrations%'}), qr/^start\(\) runs 2024-01-02T00:00:00, 2024-01-03T00:00:00$/, 'check() says what start() will run');
$node->safe_psql('postgres', q{CREATE ROLE starter LOGIN; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO starter;
	GRANT SELECT ON item TO starter; GRANT USAGE ON FOREIGN SERVER warehouse TO starter;
	CREATE USER MAPPING FOR starter SERVER warehouse OPTIONS (user 'writer', password 'secret of the writer')});
like(psql_err($node, q{SET ROLE starter;
	SELECT trucker.create_truck('theirs', '{item}', output_connection => 'warehouse', options => '{"output_table": "item_copy"}');
	SELECT trucker.start('theirs')}), qr/ERROR:  55000.*has pending migrations.*must be one who may read the server's files/s, 'not for everybody');
$node->safe_psql('postgres', q{SELECT trucker.start('fresh')});
is(states(), "2024-01-01T00:00:00 applied\n2024-01-02T00:00:00 applied\n2024-01-03T00:00:00 applied", 'start() has run them');
ok(caught_up($node, 'fresh'), 'and started the truck');
is($target->safe_psql('fresh', 'SELECT id, name, more IS NULL FROM item_copy'), '1|one|t', 'which writes');

project_files($dir, "$m/2024-01-04T00:00:00_up.sql" => "-- trucker: no transaction\nCREATE INDEX CONCURRENTLY ON item_copy (more)", "$m/2024-01-04T00:00:00_down.sql" => 'SELECT 1');
like(psql_err($node, q{SELECT trucker.start('fresh')}), qr/ERROR:  55000.*2024-01-04T00:00:00\.  Among them are some that run without a transaction.*CALL trucker.migrate/s, 'what runs without a transaction is left to migrate()');
unlike(call(q{CALL trucker.migrate('warehouse')}), qr/ERROR|WARNING/, 'which runs it');
project_files($dir, "$m/2024-01-05T00:00:00_up.sql" => 'SELECT 1/0', "$m/2024-01-05T00:00:00_down.sql" => 'SELECT 1');
like(psql_err($node, q{SELECT trucker.start('fresh')}), qr/ERROR:  22012.*2024-01-05T00:00:00_up.sql/s, 'an error of a migration is start()\'s');
project_files($dir, "$m/2024-01-05T00:00:00_up.sql" => undef, "$m/2024-01-05T00:00:00_down.sql" => undef);

# This database, whose trucks write here.  start() holds locks that a migration may want.
project_files(
	$dir,
	'trucker.yml' => yml('fresh', 'auto', "  - name: local\n    adapter: postgres\n    migrate: auto\n"),
	'migrate/local/2024-01-01T00:00:00_up.sql'     => 'CREATE TABLE item_here (id int PRIMARY KEY, name text)',
	'migrate/local/2024-01-01T00:00:00_down.sql'   => 'DROP TABLE item_here');
$node->safe_psql('postgres', q{SELECT trucker.create_truck('here', '{item}', options => '{"output_table": "item_here"}')});
is(psql_err($node, q{SELECT trucker.start('here')}), '', 'start() migrates this database');
ok(caught_up($node, 'here'), 'and starts the truck');
project_files($dir, 'migrate/local/2024-01-02T00:00:00_up.sql' => 'LOCK TABLE item', 'migrate/local/2024-01-02T00:00:00_down.sql' => 'SELECT 1');
like(psql_err($node, q{BEGIN; INSERT INTO item VALUES (2, 'two'); SELECT trucker.start('here')}), qr/ERROR:  40P01.*deadlock detected/s, 'a migration that waits for the transaction of start() is found out');
project_files($dir, 'migrate/local/2024-01-02T00:00:00_up.sql' => undef, 'migrate/local/2024-01-02T00:00:00_down.sql' => undef);

# ----
# There is nobody there
# ----

$target->stop;
is($node->safe_psql('postgres', q{SELECT DISTINCT state FROM trucker.migrations WHERE connection = 'warehouse'}), 'unknown', 'the view says what it does not know');
like(call(q{CALL trucker.migrate('warehouse')}), qr/ERROR:  08001.*could not connect to connection "warehouse"/s, 'migrate() says so');
unlike(slurp_file($node->logfile) =~ s/^.*(?:statement|STATEMENT): .*(?:\n\t.*)*$//mgr, qr/secret of the writer/, 'no password in the log');

done_testing();
