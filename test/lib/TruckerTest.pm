# TruckerTest.pm: what trucker's TAP tests share, on top of PostgreSQL::Test::Cluster.
#
#   use FindBin;
#   use lib "$FindBin::RealBin/../lib";
#   use TruckerTest;
#
# Nothing in here sleeps: each function waits for a fact, for as long as
# PG_TEST_TIMEOUT_DEFAULT says (180 s).
package TruckerTest;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  caught_up
  psql_err
  same
  seed
  spawn_pgbench
  server_knows
  setting
  stream_worker_pid
  trucker_node
  walsender_pid
  wait_state
  worker_pid
);

# server_knows($node, $setting): does the server have this setting?  Older minor
# releases refuse to start with one that they do not know.
sub server_knows
{
	my ($node, $setting) = @_;
	my ($stdout, $stderr) =
	  run_command([ $node->installed_command('postgres'), '--describe-config' ]);

	return $stdout =~ /^\Q$setting\E\t/m;
}

# trucker_node($name, %opts): a server that trucker can work in, started, with the
# extension in database postgres.  Options:
#   conf      => $text   lines for the end of postgresql.conf
#   extension => 0       do not create the extension
#   start     => 0       do not start the server (nor create the extension)
#   init      => {...}   passed to init(); the encoding is UTF8 if extra is not in it
sub trucker_node
{
	my ($name, %opts) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(
		extra => [ '--no-locale', '--encoding=UTF8' ],
		%{ $opts{init} // {} });

	# Cluster.pm's own defaults stand above these lines and lose.  It switches
	# restart_after_crash off; a killed process is what many tests are about.  How
	# often a truck fails before a test has removed the cause depends on the machine.
	$node->append_conf(
		'postgresql.conf', q{
wal_level = logical
shared_preload_libraries = 'trucker'
max_replication_slots = 20
max_wal_senders = 20
max_worker_processes = 40
restart_after_crash = on
log_statement = none
trucker.retry_initial_delay = '100ms'
trucker.max_failures = 0
});
	$node->append_conf('postgresql.conf',
		"output_plugin_libraries = 'pgoutput, test_decoding, wal2json'")
	  if server_knows($node, 'output_plugin_libraries');
	# the whole suite can be run with another decoder
	$node->append_conf('postgresql.conf', "trucker.output_plugin = $ENV{TRUCKER_OUTPUT_PLUGIN}")
	  if $ENV{TRUCKER_OUTPUT_PLUGIN};
	$node->append_conf('postgresql.conf', $opts{conf}) if defined $opts{conf};
	# ... and with other settings
	$node->append_conf('postgresql.conf', $ENV{TRUCKER_TEST_CONF}) if $ENV{TRUCKER_TEST_CONF};

	if ($opts{start} // 1)
	{
		$node->start;
		$node->safe_psql('postgres', 'CREATE EXTENSION trucker')
		  if $opts{extension} // 1;
	}
	return $node;
}

sub _literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "E'" . ($text =~ s/\\/\\\\/gr) . "'";
}

# For what went wrong while waiting: each truck's status, and the end of the log.
sub _explain
{
	my ($node, $db) = @_;
	my ($rc, $stdout, $stderr) = $node->psql(
		$db,
		'SELECT * FROM trucker.status',
		extra_params => ['-x'],
		timeout      => 30);
	my @log = split /\n/, slurp_file($node->logfile);

	splice @log, 0, @log - 30 if @log > 30;
	diag "trucker.status:\n$stdout$stderr";
	diag join "\n", 'end of the server log:', @log;
	return;
}

# wait_state($node, $truck, $state, db => 'postgres'): wait until trucker.status
# shows this state; true if it came.  $state may be a list of states: [ ... ].
sub wait_state
{
	my ($node, $truck, $state, %opts) = @_;
	my $db   = $opts{db} // 'postgres';
	my $list = join ', ', map { _literal($_) } ref $state ? @$state : $state;

	return 1
	  if $node->poll_query_until($db,
		"SELECT state IN ($list) FROM trucker.status WHERE truck = " . _literal($truck));
	_explain($node, $db);
	return 0;
}

# caught_up($node, $truck, db => ..., timeout => '180 s'): wait until everything
# committed before this call is at the truck's destination; true if it is.
sub caught_up
{
	my ($node, $truck, %opts) = @_;
	my $db = $opts{db} // 'postgres';
	my $timeout = $opts{timeout} // "$PostgreSQL::Test::Utils::timeout_default s";
	my ($rc, $stdout, $stderr) = $node->psql($db,
		'SELECT trucker.wait_for(' . _literal($truck) . ", timeout => '$timeout')");

	return 1 if $rc == 0 && $stdout eq 't';
	diag "wait_for: $stdout$stderr";
	_explain($node, $db);
	return 0;
}

# setting($node, $name, $value): change a setting in the running server; undef resets it.  By the
# end the server has it, and whoever connects from then on; processes that run have been told, and
# take it over when they come to it.  It must be a change: one to the same value is not logged.
sub setting
{
	my ($node, $name, $value) = @_;
	my $offset = -s $node->logfile;

	$node->safe_psql('postgres',
		(defined $value ? "ALTER SYSTEM SET $name = " . _literal($value) : "ALTER SYSTEM RESET $name")
		  . '; SELECT pg_reload_conf()');
	$node->wait_for_log(qr/parameter "\Q$name\E" (?:changed to|removed from)/, $offset);
	return;
}

# same($node, $query_a, $query_b, $test_name, db => ...): a test that both queries
# return the same rows, each as often, in any order.  Both are run in one statement,
# so see one snapshot.  Columns must have types that can be compared: cast json,
# xml, point and the like to text.
sub same
{
	my ($node, $query_a, $query_b, $test_name, %opts) = @_;
	my $db = $opts{db} // 'postgres';
	my ($rc, $stdout, $stderr) = $node->psql(
		$db, qq{
WITH a AS MATERIALIZED ($query_a
), b AS MATERIALIZED ($query_b
), d AS (
	SELECT 'only in first' AS side, row_to_json(same_row)::text AS content FROM (TABLE a EXCEPT ALL TABLE b) AS same_row
	UNION ALL
	SELECT 'only in second', row_to_json(same_row)::text FROM (TABLE b EXCEPT ALL TABLE a) AS same_row
)
SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT count(*) FROM d), ''
UNION ALL
(SELECT NULL, NULL, NULL, side || ': ' || content FROM d ORDER BY side, content LIMIT 10)},
		on_error_die => 0);
	my ($counts, @rows) = split /\n/, $stdout;
	my ($count_a, $count_b, $differ) = split /\|/, $counts // '';
	my $good = $rc == 0 && defined $differ && $differ eq '0';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good, $test_name);
	if ($good)
	{
		note "$count_a rows on both sides";
	}
	elsif ($rc != 0)
	{
		diag $stderr;
	}
	else
	{
		diag "first has $count_a rows, second $count_b; $differ differ, among them:";
		diag s/^\|\|\|//r foreach @rows;
	}
	return $good;
}

# psql_err($node, $sql, db => ...): run SQL that is to fail, and return what psql
# prints as error, with SQLSTATE, detail, hint and context; empty if it succeeds.
sub psql_err
{
	my ($node, $sql, %opts) = @_;
	my ($rc, $stdout, $stderr) = $node->psql(
		$opts{db} // 'postgres', $sql,
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $rc == 0 ? '' : $stderr;
}

# The process id that the query returns, as soon as it returns one.
sub _wait_pid
{
	my ($node, $query, $db) = @_;

	my $pid = '';

	$db //= 'postgres';
	# it may be gone again when it is asked for
	while ($pid eq '')
	{
		$node->poll_query_until($db, "SELECT count(*) = 1 FROM ($query) AS p")
		  or die "no process, or more than one: $query";
		$pid = $node->safe_psql($db, $query);
	}
	return $pid;
}

# worker_pid($node, $truck): the pid of the process that works for the truck, as soon
# as there is one: the worker of the stream that carries it, or its backfill.  Names
# are unique in a database only; db => $name picks one.
sub worker_pid
{
	my ($node, $truck, %opts) = @_;

	return _wait_pid($node, _worker_query('pid', $truck), $opts{db});
}

# stream_worker_pid($node, $truck): the pid of the worker of the stream that carries the
# truck, also while there is a backfill.
sub stream_worker_pid
{
	my ($node, $truck, %opts) = @_;

	return _wait_pid($node,
		'SELECT w.pid FROM trucker.stream_workers() AS w JOIN trucker.truck_state AS s USING (stream_id)'
		  . ' JOIN trucker.truck AS t ON t.id = s.truck_id WHERE w.pid IS NOT NULL AND t.name = ' . _literal($truck),
		$opts{db});
}

# walsender_pid($node, $truck): the pid of the walsender that serves the truck's stream.
sub walsender_pid
{
	my ($node, $truck, %opts) = @_;

	return _wait_pid($node, _worker_query('walsender_pid', $truck), $opts{db});
}

sub _worker_query
{
	my ($column, $truck) = @_;

	return "SELECT w.$column FROM trucker.truck_workers() AS w JOIN trucker.truck AS t ON t.id = w.truck_id"
	  . " WHERE w.$column IS NOT NULL AND t.name = " . _literal($truck);
}

# spawn_pgbench($node, $stdout, $stderr, @args): pgbench on database postgres, in the
# background, with its output in files; its pid.
sub spawn_pgbench
{
	my ($node, $stdout, $stderr, @args) = @_;
	my $pgbench = $node->installed_command('pgbench');

	push @args, $node->connstr('postgres');
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN,  '<', '/dev/null';
		open STDOUT, '>', $stdout;
		open STDERR, '>', $stderr;
		exec { $pgbench } $pgbench, @args or POSIX::_exit(127);
	}
	return $pid;
}

# seed(): seeds rand() and prints with what; TRUCKER_SEED repeats a run.
sub seed
{
	my $seed = $ENV{TRUCKER_SEED} // int(rand(2**31));

	srand($seed);
	diag "TRUCKER_SEED=$seed";
	return $seed;
}

1;
