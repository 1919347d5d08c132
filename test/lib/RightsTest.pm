# RightsTest.pm: who is who in the tests of rights, and what these tests share.
package RightsTest;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TruckerTest;

our @EXPORT = qw($node $super $password rights_node let_them_make_trucks sql refused start_truck reports now);

our $password = 'n0b0dy-sh0uld-see-this';
our $node;
our $super;

# rights_node($name): makes $node, with roles, and schemas of theirs.  $super is the name of
# its first superuser.  Who shares a stream stays there, however slow the machine is.
sub rights_node
{
	my ($name) = @_;

	$node = trucker_node(
		$name,
		conf => qq{
max_replication_slots = 60
max_wal_senders = 60
max_worker_processes = 60
trucker.max_truck_delay = '1min'
trucker.retry_max_delay = '500ms'
trucker.replication_conninfo = 'password=$password'
});
	$super = $node->safe_psql('postgres', 'SELECT rolname FROM pg_authid WHERE oid = 10');
	$node->safe_psql('postgres', q{
		CREATE ROLE alice LOGIN;
		CREATE ROLE bob LOGIN;
		CREATE ROLE carol LOGIN;
		CREATE ROLE eve LOGIN;
		CREATE ROLE boss LOGIN SUPERUSER;
		CREATE ROLE friend LOGIN IN ROLE alice;
		CREATE ROLE stranger LOGIN NOINHERIT IN ROLE alice;
		CREATE ROLE monitor LOGIN IN ROLE pg_read_all_stats;
		CREATE ROLE writer LOGIN IN ROLE pg_write_all_data, pg_read_all_data;
		CREATE ROLE etl;
		GRANT etl TO alice;
		CREATE SCHEMA alice AUTHORIZATION alice;
		CREATE SCHEMA bob AUTHORIZATION bob;
		CREATE SCHEMA carol AUTHORIZATION carol;
		CREATE SCHEMA etl AUTHORIZATION etl;
		GRANT USAGE ON SCHEMA alice TO bob, etl, boss;
		GRANT USAGE ON SCHEMA bob TO alice;
		GRANT USAGE ON SCHEMA etl TO alice;
		CREATE TABLE public.secret (told text)});
	return;
}

# let_them_make_trucks(): most of them, as an administrator would.
sub let_them_make_trucks
{
	$node->safe_psql('postgres', q{
		GRANT EXECUTE ON FUNCTION trucker.create_truck, trucker.drop_truck, trucker.start,
			trucker.stop, trucker.resync, trucker.wait_for
		TO alice, bob, carol, eve, friend, stranger, writer, etl});
	return;
}

# sql($user, $sql): run SQL as a user; its result.
sub sql
{
	my ($user, $sql) = @_;

	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $user ]);
}

# refused($user, $sql, $error, $test_name): a test that SQL fails, with this error.
sub refused
{
	my ($user, $sql, $error, $test_name) = @_;
	my ($rc, $stdout, $stderr) = $node->psql(
		'postgres', $sql,
		extra_params => [ '-U', $user, '-v', 'VERBOSITY=verbose', '-v', 'ON_ERROR_STOP=1' ]);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	subtest $test_name => sub {
		isnt($rc, 0, 'it fails');
		like($stderr, $error, 'with the right error');
	};
	return;
}

# Start a truck as a user, and wait until it streams.
sub start_truck
{
	my ($user, $truck) = @_;

	sql($user, "SELECT trucker.start('$truck')");
	return wait_state($node, $truck, 'streaming');
}

# Wait until the truck reports an error like this one that is newer than $since.
sub reports
{
	my ($truck, $error, $since) = @_;

	return $node->poll_query_until('postgres', qq{
		SELECT state IN ('retrying', 'starting', 'lost') AND last_error ~ '$error' AND last_error_at > '$since'
		FROM trucker.status WHERE truck = '$truck'});
}

sub now
{
	return $node->safe_psql('postgres', 'SELECT clock_timestamp()');
}

1;
