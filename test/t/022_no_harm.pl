# The application's own transactions neither fail nor wait because of trucker: what a
# truck must be told of an ALTER TABLE is told beside it, whatever others do to the
# truck at that moment, and whatever the isolation level.  Nor is another truck, which
# shares the stream, any worse for what becomes of the one.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

# (the bystander's own slowness is none of that)
my $node = trucker_node('no_harm', conf => "trucker.max_truck_delay = '1min'\n");

$node->safe_psql(
	'postgres', q{
	CREATE TABLE s (id int PRIMARY KEY, v int);
	CREATE TABLE d (id int PRIMARY KEY, v int);
	SELECT trucker.create_truck('t', '{s}', $$
		DELETE FROM d USING r WHERE meta__operation <> 'insert' AND d.id = r.old__id;
		INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete'$$,
		options => '{"reset_sql": "DELETE FROM d"}');
	CREATE TABLE s2 (id serial PRIMARY KEY);
	CREATE TABLE d2 (id int);
	SELECT trucker.create_truck('bystander', '{s2}', 'INSERT INTO d2 SELECT id FROM r');
	SELECT trucker.start();
});
ok(caught_up($node, 't'), 'the truck has caught up');
ok(caught_up($node, 'bystander'), 'so has the other one');
my $worker = worker_pid($node, 'bystander');

# unharmed(): the other truck goes on, in the process that it was in.
sub unharmed
{
	my ($what) = @_;

	$node->safe_psql('postgres', 'INSERT INTO s2 DEFAULT VALUES');
	ok(caught_up($node, 'bystander'), "$what: the other truck goes on");
	same($node, 'TABLE s2', 'TABLE d2', "$what: with what it has to do");
	is(worker_pid($node, 'bystander'), $worker, "$what: and has not left");
}

# script_file(): a file of pgbench's with these commands.
sub script_file
{
	my ($commands) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/script.sql';

	append_to_file($path, $commands);
	return $path;
}

# resynced(): the truck goes on, and its destination is right.
sub resynced
{
	$node->safe_psql('postgres',
		q{SELECT trucker.resync('t'); SELECT trucker.start('t')});
	ok(caught_up($node, 't'), "$_[0]: resync makes the truck go on");
	same($node, 'SELECT id, v FROM s', 'SELECT id, v FROM d', "$_[0]: and its destination is right");
}

#
# The truck's state changes under a transaction that sees an old snapshot.
#
for my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $session = $node->open_transaction($level);

	is($session->('SELECT count(*) FROM pg_class'), '', "$level: a transaction takes its snapshot");

	$node->safe_psql('postgres', q{SELECT trucker.stop('t'); SELECT trucker.start('t')});
	is($session->('ALTER TABLE s RENAME TO renamed; INSERT INTO renamed VALUES (random() * 1000000, 1); COMMIT'),
		'', "$level: ALTER TABLE is not disturbed by a change of the truck's state");
	unharmed($level);
	ok(caught_up($node, 't'), "$level: and the truck follows it");
	same($node, 'SELECT id, v FROM renamed', 'SELECT id, v FROM d', "$level: with all changes");
	$node->safe_psql('postgres', 'ALTER TABLE renamed RENAME TO s');
}

#
# Somebody has called stop() and not committed.
#
my $open = $node->open_transaction('READ COMMITTED');
is($open->(q{SELECT trucker.stop('t')}), '', 'a transaction that stops the truck stays open');
is( psql_err($node, q{SET lock_timeout = '20s'; ALTER TABLE s RENAME TO renamed; ALTER TABLE renamed RENAME TO s}),
	'', 'ALTER TABLE does not wait for it');
unharmed('an open stop()');
is($open->('ROLLBACK'), '', 'it is rolled back');
$node->safe_psql('postgres', 'INSERT INTO s VALUES (random() * 1000000, 1)');
ok(caught_up($node, 't'), 'the truck follows the ALTER TABLE');
same($node, 'SELECT id, v FROM s', 'SELECT id, v FROM d', 'and its destination is right');

#
# A procedure that rolls back and then forgets the prepared statement that has called
# it: nothing of that statement is left when it ends.
#
$node->safe_psql(
	'postgres', q{
	CREATE PROCEDURE forget() LANGUAGE plpgsql AS $$
	BEGIN
		ROLLBACK;
		EXECUTE 'DEALLOCATE ALL';
	END $$});
$node->command_ok(
	[ 'pgbench', '-n', '-M', 'prepared', '-t', '1', '-f', script_file('CALL forget();'), $node->connstr('postgres') ],
	'a prepared CALL whose plan goes while it runs');

#
# A standby name that would make commits wait for the truck's own connection.
#
$node->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = '*'});
$node->reload;
ok( $node->poll_query_until('postgres',
		q{SELECT bool_and(state = 'retrying' AND last_error LIKE '%synchronous_standby_names%') FROM trucker.status}),
	'synchronous_standby_names = * stops the trucks');
ok( $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication'),
	'and ends its connection');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$node->reload;
$node->safe_psql('postgres', 'INSERT INTO s VALUES (-1, -1)');
ok(caught_up($node, 't'), 'it goes on when the setting is gone');
same($node, 'SELECT id, v FROM s', 'SELECT id, v FROM d', 'and its destination is right');
unharmed('synchronous_standby_names');

unlike(slurp_file($node->logfile), qr/\b(PANIC|TRAP)\b|terminated by signal/, 'no process has crashed');
$node->stop;
done_testing();

# A session that has begun a transaction of this isolation level: a function that
# runs SQL in it and returns the errors.
package PostgreSQL::Test::Cluster;

sub open_transaction
{
	my ($self, $level) = @_;
	my ($in, $out, $err) = ('', '', '');
	my $timer = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
	my $handle = IPC::Run::start(
		[ $self->installed_command('psql'), '-XAtq', '-d', $self->connstr('postgres'), '-f', '-' ],
		'<', \$in, '>', \$out, '2>', \$err, $timer);
	my $run = sub {
		my ($sql) = @_;

		$out = $err = '';
		$in .= "SET client_min_messages = error; $sql;\n\\echo done\n";
		$handle->pump until $out =~ /^done$/m;
		return $err;
	};

	$run->("BEGIN ISOLATION LEVEL $level");
	return $run;
}
