# Whatever is wrong with migrations is found and named, all at once, before anything runs;
# an error of a statement says which one it is, and leaves nothing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerTest;

my $node = trucker_node('wrong');
my $dir  = project_dir($node);
my $m    = 'migrate/local';

sub call
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $stderr;
}

sub states
{
	return $node->safe_psql('postgres', q{SELECT version || ' ' || state FROM trucker.migrations WHERE version IS NOT NULL ORDER BY version});
}

# ----
# The folder
# ----

project_files(
	$dir,
	"$m/2024-01-01T00:00:00_up.sql"       => 'CREATE TABLE one ()',
	"$m/2024-01-01T00:00:00_again_up.sql" => 'SELECT 1',
	"$m/2024-01-02_up.sql"                => 'SELECT 1',
	"$m/README.md"                        => 'text',
	"$m/.hidden"                          => 'text',
	"$m/2024-01-03T00:00:00_down.sql"     => 'SELECT 1',
	"$m/2024-01-04T00:00:00_a_up.sql"     => 'SELECT 1',
	"$m/2024-01-04T00:00:00_b_down.sql"   => 'SELECT 1',
	"$m/2024-01-05T00:00:00_up.sql"       => "SELECT 1;\n\nCOMMIT;\nCOPY one FROM STDIN;\nSELECT 'x" . ' and on' x 10000,
	"$m/2024-01-06T00:00:00_up.sql"       => "SELECT 1;\n\nCOMMIT;\n-- c\nCOPY one (a) FROM STDIN;\nCOPY (SELECT 1) TO STDOUT; COPY one FROM '/stdin'; START TRANSACTION",
	"$m/2024-01-07T00:00:00_up.sql"       => "SELECT 1;\n\\d\n");
my $said = call(q{CALL trucker.migrate('local')});
like($said, qr/ERROR:  55000.*the migrations of connection "local" are not as they must be/s, 'what is wrong is an error');
my @named = (
	qr{2024-01-01T00:00:00_up.sql: migrate/local/2024-01-01T00:00:00_again_up.sql has the same version},
	qr{2024-01-02_up.sql: the name is not of the form},
	qr{README.md: the name is not of the form},
	qr{2024-01-03T00:00:00_down.sql: there is no 2024-01-03T00:00:00_up.sql},
	qr{2024-01-04T00:00:00_b_down.sql: migrate/local/2024-01-04T00:00:00_a_up.sql has the same version, and another name},
	qr{2024-01-05T00:00:00_up.sql", line 5: unterminated quoted string},
	qr{2024-01-06T00:00:00_up.sql", line 3: transaction control is not possible},
	qr{2024-01-06T00:00:00_up.sql", line 5: COPY with the client},
	qr{2024-01-06T00:00:00_up.sql", line 6: COPY with the client},
	qr{2024-01-06T00:00:00_up.sql", line 6: transaction control},
	qr{2024-01-07T00:00:00_up.sql", line 2: psql's backslash commands});
like($said, $_, "named: $_") foreach @named;
cmp_ok(length $said, '<', 5000, 'a quote without end does not show the rest of the file');
is(() = $said =~ /^(?:DETAIL:  )?(?:file "migrate|migrate).*$/mg, scalar @named, 'and nothing else is');
is($node->safe_psql('postgres', q{SELECT to_regclass('one') IS NULL}), 't', 'nothing has been run');
is($node->safe_psql('postgres', q{SELECT count(*) FROM trucker.migrations WHERE state = 'problem'}), scalar @named, 'the view shows them, too');

project_files($dir, map { $_ => undef } map { s/^\Q$dir\E\///r } glob("$dir/$m/*"));

# ----
# Files and rows
# ----

project_files($dir, map { ("$m/2024-02-0${_}T00:00:00_up.sql" => "CREATE TABLE t$_ ()", "$m/2024-02-0${_}T00:00:00_down.sql" => "DROP TABLE t$_") } 1, 3, 5);
unlike(call(q{CALL trucker.migrate('local')}), qr/ERROR|WARNING/, 'three migrations');
project_files(
	$dir,
	"$m/2024-02-01T00:00:00_up.sql"   => 'CREATE TABLE t1 (edited int)',
	"$m/2024-02-02T00:00:00_up.sql"   => 'CREATE TABLE t2 ()',
	"$m/2024-02-03T00:00:00_up.sql"   => undef,
	"$m/2024-02-03T00:00:00_down.sql" => undef,
	"$m/2024-02-06T00:00:00_up.sql"   => 'CREATE TABLE t6 ()');
is(states(), "2024-02-01T00:00:00 edited\n2024-02-02T00:00:00 out of order\n2024-02-03T00:00:00 missing\n2024-02-05T00:00:00 applied\n2024-02-06T00:00:00 pending", 'states');
$said = call(q{CALL trucker.migrate('local')});
like($said, qr/ERROR:  55000.*2024-02-01T00:00:00: its file has been edited.*2024-02-02T00:00:00: it is not applied, and a newer one is.*2024-02-03T00:00:00: it is applied, and its file is gone.*HINT:.*CALL trucker.mark_migration\('local'/s, 'edited, a gap, missing: named at once');
is($node->safe_psql('postgres', q{SELECT to_regclass('t6') IS NULL}), 't', 'nothing has been run');
like(call(q{CALL trucker.rollback('local', 2)}), qr/ERROR:  55000.*2024-02-03T00:00:00: there is no 2024-02-03T00:00:00_down.sql/s, 'no way down');
is($node->safe_psql('postgres', q{SELECT to_regclass('t5') IS NOT NULL}), 't', 'nothing has been undone');

call(q{CALL trucker.mark_migration('local', '2024-02-01T00:00:00', true)});
call(q{CALL trucker.mark_migration('local', '2024-02-02T00:00:00', true)});
call(q{CALL trucker.mark_migration('local', '2024-02-03T00:00:00', false)});
like(call(q{CALL trucker.mark_migration('local', '2024-02-03T00:00:00', true)}), qr/ERROR:  42704/, 'there is no such migration');
like(call(q{CALL trucker.mark_migration('local', '2024-02-06T00:00:00', false)}), qr/ERROR:  42704.*that is applied/s, 'nor this one');
is(states(), "2024-02-01T00:00:00 applied\n2024-02-02T00:00:00 applied\n2024-02-05T00:00:00 applied\n2024-02-06T00:00:00 pending", 'marked');
like(call(q{CALL trucker.migrate('local')}), qr/WARNING:.*without a "_down.sql" cannot be rolled back: 2024-02-06T00:00:00/, 'a missing way down is warned of');
is($node->safe_psql('postgres', q{SELECT to_regclass('t2') IS NULL AND to_regclass('t6') IS NOT NULL}), 't', 'what was marked has not been run, what was pending has');

# ----
# Errors of statements
# ----

project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => "CREATE TABLE before_it ();\n\nINSERT INTO nothing\nVALUES (1);\n",
	"$m/2024-03-01T00:00:00_down.sql" => 'SELECT 1');
$said = call(q{CALL trucker.migrate('local')});
like($said, qr/ERROR:  42P01: +relation "nothing" does not exist\nCONTEXT:  file "migrate\/local\/2024-03-01T00:00:00_up.sql", line 3, statement 2 of 2: INSERT INTO nothing\nVALUES \(1\)/, 'the error, file, line and statement');
is($node->safe_psql('postgres', q{SELECT to_regclass('before_it') IS NULL}), 't', 'what came before it is rolled back');
like(states(), qr/2024-03-01T00:00:00 pending/, 'and so is its row');
project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => "SELECT 1,\n 2,\n nix,\n 3");
like(call(q{CALL trucker.migrate('local')}), qr/column "nix" does not exist.*line 3, statement 1 of 1/s, 'the line is that of the error');
project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => 'DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = \'22012\', MESSAGE = \'m\', DETAIL = \'d\', HINT = \'h\'; END $$');
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  22012: +m\nDETAIL:  d\nHINT:  h\nCONTEXT:  PL\/pgSQL function inline_code_block/, 'an error comes whole');
project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => 'CREATE TABLE later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO later VALUES (1), (1)');
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  23505.*CONTEXT:  end of file "migrate\/local\/2024-03-01T00:00:00_up.sql"/s, 'an error at COMMIT');
like(states(), qr/2024-03-01T00:00:00 pending/, 'leaves nothing, either');
project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => 'CREATE INDEX CONCURRENTLY ON t6 ((1))');
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  25001.*cannot run inside a transaction block/s, 'what needs no transaction says so');
project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => 'SET statement_timeout = 50; SELECT pg_sleep(100)');
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  57014.*statement timeout.*statement 2 of 2/s, 'statement_timeout holds in a file');
project_files($dir, "$m/2024-03-01T00:00:00_up.sql" => "CREATE TABLE noticed ();\nDO \$\$ BEGIN RAISE WARNING 'look'; END \$\$; SELECT 1 AS x UNION ALL SELECT 2; -- the end");
like(call(q{CALL trucker.migrate('local')}), qr/WARNING:  01000: +look/, 'warnings arrive');
like(states(), qr/2024-03-01T00:00:00 applied/, 'and it is applied');

done_testing();
