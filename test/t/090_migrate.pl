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

like(call(q{CALL trucker.rollback('local')}), qr/2024-01-02T00:00:00_add_two is rolled back/, 'rollback() undoes the newest');
is($node->safe_psql('postgres', 'SELECT * FROM one'), '1', 'it is undone');
unlike(slurp_file("$dir/migrate/local_schema.sql"), qr/mood/, 'and gone from the schema file');
call(q{CALL trucker.migrate('local')});
is(slurp_file("$dir/migrate/local_schema.sql"), $schema, 'the same schema gives the same file');
call(q{CALL trucker.rollback('local', 2)});
is($node->safe_psql('postgres', q{SELECT to_regclass('one') IS NULL}), 't', 'two steps');
like(call(q{CALL trucker.rollback('local')}), qr/ERROR:  55000.*1 are to be rolled back, and only 0 are applied/s, 'there is nothing more to undo');
like(call(q{CALL trucker.rollback('local', 0)}), qr/ERROR:  22023.*steps must be 1 or more/s, 'no steps');

done_testing();
