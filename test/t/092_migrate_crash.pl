# Migrations that are broken off: by a cancel, a crash, another session that comes at the
# same time.  In a transaction, all of a file or nothing; without one, what is not known
# is said, and nothing goes on by itself.  CREATE INDEX CONCURRENTLY waits for nobody of ours.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerTest;

my $node = trucker_node('broken_off');
my $dir  = project_dir($node);
my $m    = 'migrate/local';

sub call
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $stderr;
}

sub state
{
	return $node->safe_psql('postgres', qq{SELECT state FROM trucker.migrations WHERE version = '$_[0]'});
}

# A CALL in the background: its output is for finish().
sub begin_call
{
	my ($sql) = @_;
	my %call = (out => '', err => '');

	$call{run} = IPC::Run::start([ $node->installed_command('psql'), '-X', '-d', $node->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-c', $sql ],
		'<', \undef, '>', \$call{out}, '2>', \$call{err});
	return \%call;
}

sub finish
{
	my ($call) = @_;

	$call->{run}->finish;
	return $call->{err};
}

sub no_process_left
{
	return $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'trucker SQL'});
}

sub wait_for_sql
{
	my ($what) = @_;

	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'trucker SQL' AND wait_event_type = 'Lock' AND query LIKE '$what%'");
}

# ----
# Without a transaction
# ----

$node->safe_psql('postgres', 'CREATE TABLE big AS SELECT n AS id FROM generate_series(1, 1000) AS n');
project_files(
	$dir,
	"$m/2024-01-01T00:00:00_up.sql" => "-- trucker: no transaction\nSET lock_timeout = '1min';\nCREATE INDEX CONCURRENTLY big_id ON big (id);\nVACUUM big;\nCREATE TABLE lock_timeout AS SELECT current_setting('lock_timeout') AS value",
	"$m/2024-01-01T00:00:00_down.sql" => "-- trucker: no transaction\nDROP INDEX CONCURRENTLY big_id;\nDROP TABLE lock_timeout");
unlike(call(q{CALL trucker.migrate('local')}), qr/ERROR|WARNING/, 'CREATE INDEX CONCURRENTLY');
is($node->safe_psql('postgres', q{SELECT indisvalid FROM pg_index WHERE indexrelid = 'big_id'::regclass}), 't', 'the index is there');
is($node->safe_psql('postgres', 'TABLE lock_timeout'), '1min', 'what a statement sets holds for those behind it');
is(state('2024-01-01T00:00:00'), 'applied', 'and it is applied');
unlike(call(q{DO $$ BEGIN CALL trucker.rollback('local'); END $$}), qr/ERROR|WARNING/, 'DROP INDEX CONCURRENTLY, called from a DO block');
is($node->safe_psql('postgres', q{SELECT to_regclass('big_id') IS NULL}), 't', 'the index is gone');
is(state('2024-01-01T00:00:00'), 'pending', 'and the migration pending again');

project_files($dir, "$m/2024-01-01T00:00:00_up.sql" => "-- trucker: no transaction\nCREATE TABLE first ();\n\nSELECT 1/0;\nCREATE TABLE third ()");
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  22012.*line 4, statement 2 of 3/s, 'an error in the middle');
is($node->safe_psql('postgres', q{SELECT state, detail FROM trucker.migrations}),
	'unfinished|it was begun and not finished: 1 of its statements are done, and the one after them (line 4) may be', 'the view says how far it came');
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  55000.*2024-01-01T00:00:00: it was begun and not finished: 1 of its.*mark_migration/s, 'nothing goes on by itself');
like(call(q{CALL trucker.rollback('local')}), qr/ERROR:  55000.*begun and not finished/s, 'nor back');
$node->safe_psql('postgres', 'CREATE TABLE third ()');
is(call(q{CALL trucker.mark_migration('local', '2024-01-01T00:00:00', true)}), '', 'somebody has looked');
is(state('2024-01-01T00:00:00'), 'applied', 'and said so');
call(q{CALL trucker.mark_migration('local', '2024-01-01T00:00:00', false)});
$node->safe_psql('postgres', 'DROP TABLE first, third');

# ----
# Crashes between statements
# ----

$node->append_conf('postgresql.conf', "trucker.stop_point = 'migration: statement done'");
$node->reload;
foreach my $marker ('', "-- trucker: no transaction\n")
{
	my $what = $marker ? 'without a transaction' : 'in a transaction';
	my $log  = -s $node->logfile;

	project_files($dir, "$m/2024-01-01T00:00:00_up.sql" => $marker . "CREATE TABLE first ();\nCREATE TABLE second ()");
	my $call = begin_call(q{CALL trucker.migrate('local')});
	ok($node->wait_for_log(qr/stop point "migration: statement done" reached/, $log), "$what: the first statement is done");
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL trucker.migrate%' AND backend_type = 'client backend'});
	$log = -s $node->logfile;
	kill 'KILL', $pid;
	finish($call);
	ok($node->wait_for_log(qr/database system is ready to accept connections/, $log), "$what: the server has crashed, and is back");
	is($node->safe_psql('postgres', q{SELECT to_regclass('first') IS NOT NULL, to_regclass('second') IS NOT NULL}), $marker ? 't|f' : 'f|f', "$what: what is there");
	is(state('2024-01-01T00:00:00'), $marker ? 'unfinished' : 'pending', "$what: what is said of it");
}
$node->safe_psql('postgres', q{ALTER SYSTEM SET trucker.stop_point = ''; SELECT pg_reload_conf()});
$node->poll_query_until('postgres', q{SELECT current_setting('trucker.stop_point') = ''});
$node->safe_psql('postgres', 'DROP TABLE first');
call(q{CALL trucker.mark_migration('local', '2024-01-01T00:00:00', false)});
project_files($dir, "$m/2024-01-01T00:00:00_up.sql" => "CREATE TABLE first ();\nCREATE TABLE second ()");
unlike(call(q{CALL trucker.migrate('local')}), qr/ERROR|WARNING/, 'migrated after all');

# ----
# Cancelled, terminated
# ----

project_files($dir, "$m/2024-01-02T00:00:00_up.sql" => "CREATE TABLE waits ();\nALTER TABLE big ADD COLUMN more int");
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE big');
foreach my $how ('pg_cancel_backend', 'pg_terminate_backend')
{
	my $call = begin_call(q{CALL trucker.migrate('local')});

	ok(wait_for_sql('ALTER TABLE big'), 'a migration waits for a lock');
	$node->safe_psql('postgres', qq{SELECT $how(pid) FROM pg_stat_activity WHERE query LIKE 'CALL trucker.migrate%' AND backend_type = 'client backend'});
	like(finish($call), $how eq 'pg_cancel_backend' ? qr/ERROR:  57014.*statement 2 of 2: ALTER TABLE/s : qr/57P01/, "$how");
	ok(no_process_left(), 'the process of the SQL ends');
	is($node->safe_psql('postgres', q{SELECT to_regclass('waits') IS NULL}), 't', 'nothing is left');
	is(state('2024-01-02T00:00:00'), 'pending', 'and it is pending');
}

# The process itself
my $call = begin_call(q{CALL trucker.migrate('local')});
ok(wait_for_sql('ALTER TABLE big'), 'it waits again');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'trucker SQL'});
like(finish($call), qr/57P01/, 'the process of the SQL is terminated');

# ----
# Two at a time
# ----

my @calls = (begin_call(q{CALL trucker.migrate('local')}));
ok(wait_for_sql('ALTER TABLE big'), 'the first one waits for the table');
push @calls, begin_call(q{CALL trucker.migrate('local')});
ok(wait_for_sql('SELECT pg_catalog.pg_advisory_lock'), 'the second one for the first');
$blocker->query_safe('COMMIT');
like(finish($calls[0]), qr/2024-01-02T00:00:00 is applied/, 'the first one migrates');
like(finish($calls[1]), qr/waiting for somebody else's migrations.*no migration is pending/s, 'the second one finds it done');

# ----
# What would wait for the caller itself
# ----

project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => "SELECT pg_advisory_xact_lock(4711)");
like(call(q{SELECT pg_advisory_lock(4711); CALL trucker.migrate('local')}), qr/ERROR:  40P01.*deadlock detected.*waits for this very transaction/s, 'a lock that the caller holds');
project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => "-- trucker: no transaction\nCALL trucker.migrate('local')");
like(call(q{CALL trucker.migrate('local')}), qr/ERROR:  55000.*a migration cannot run migrations/s, 'migrate() in a migration');
call(q{CALL trucker.mark_migration('local', '2024-01-03T00:00:00', false)});

# pg_dump waits for a lock: it can be cancelled, too.
project_files($dir, "$m/2024-01-03T00:00:00_up.sql" => 'SELECT 1');
$blocker->query_safe('BEGIN; LOCK TABLE big');
$call = begin_call(q{CALL trucker.migrate('local')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'}), 'pg_dump waits for a lock');
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL trucker.migrate%' AND backend_type = 'client backend'});
like(finish($call), qr/57014/, 'it is cancelled');
is(state('2024-01-03T00:00:00'), 'applied', 'the migration is applied');
$blocker->query_safe('COMMIT');
$blocker->quit;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pg_dump'}), 'pg_dump is gone');
ok(no_process_left(), 'no process is left');

done_testing();
