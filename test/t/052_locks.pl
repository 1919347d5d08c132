# Sessions, workers and probes that want the same rows and objects of the catalog: none of
# them is in a deadlock with another, probes wait for nobody, and a process that is called
# off logs nothing alarming.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TruckerTest;

my $node = trucker_node('locks', conf => q{
trucker.output_plugin = pgoutput
trucker.retry_max_delay = '1h'
});

sub sql
{
	my ($sql, $db) = @_;

	return $node->safe_psql($db // 'postgres', "SET client_min_messages = error; $sql");
}

sub create
{
	my ($truck, $tables, $stream, $db) = @_;

	return sql(qq{CREATE TABLE out_$truck (id int);
		SELECT trucker.create_truck('$truck', '{$tables}', 'INSERT INTO out_$truck SELECT id FROM r', options => '{"stream": "$stream"}')}, $db);
}

# A session with an open transaction in which that has been run.
sub session
{
	my ($sql, $db) = @_;
	my $session = $node->background_psql($db // 'postgres', on_error_stop => 0);

	$session->query_safe("SET client_min_messages = error; BEGIN; $sql");
	return $session;
}

# Wait for a session that waits for a lock, and says so in its application name.
sub waits_for_lock
{
	my ($name) = @_;

	return $node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE application_name = '$name' AND wait_event_type = 'Lock'});
}

# Let this run in another session; finish() waits for its end, and returns its errors.
sub beside
{
	my ($name, $sql) = @_;
	my %run = (out => '', err => '');

	$run{handle} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres') . " application_name=$name", '-c', $sql ],
		'>', \$run{out}, '2>', \$run{err});
	return \%run;
}

sub finish
{
	my ($run) = @_;

	$run->{handle}->finish;
	return $run->{err} =~ s/^(NOTICE|WARNING|DETAIL|HINT|LOCATION).*\n//mgr;
}

sub logged_since
{
	my ($offset) = @_;

	return join "\n", grep { /(ERROR|FATAL|PANIC): / } split /\n/, slurp_file($node->logfile, $offset);
}

sql('CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)');

# ----
# A probe waits for nobody, since start() and stop() of all others wait for it
# ----

create('q', 'a', 'q');
sql(q{SELECT trucker.start('q')});
wait_state($node, 'q', 'streaming') or die;

# ... that drops a table of a publication which no stream needs any more
{
	create('p', 'b, c', 'p');
	sql(q{SELECT trucker.start('p')});
	wait_state($node, 'p', 'streaming') or die;
	sql(q{SELECT trucker.stop('p'); SELECT trucker.stop('q')});
	wait_state($node, $_, 'stopped') or die foreach 'p', 'q';

	my $offset = -s $node->logfile;
	my $session = session('DROP TABLE c');
	sql(q{SELECT trucker.drop_truck('p')});
	sql(q{SELECT trucker.start('q')});
	ok(wait_state($node, 'q', 'streaming'), 'while a transaction that drops a published table is open, others are started');
	is(logged_since($offset), '', '... and no probe fails');
	$session->query_safe('DROP TABLE b; COMMIT');
	$session->quit;
	sql(q{SELECT trucker.stop('q'); SELECT trucker.start('q')});
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 2 FROM pg_publication'), 'the publication is dropped by the next probe');
	is(logged_since($offset), '', 'no deadlock');
}

# ... that lets a truck board a stream which has just become empty
{
	sql('CREATE TABLE b (id int PRIMARY KEY)');
	create('x', 'b', 's2');
	create('y', 'b', 's2');
	sql(q{BEGIN; SELECT trucker.start('x'); DROP TABLE out_x; COMMIT});
	wait_state($node, 'x', 'retrying') or die;
	sql(q{SELECT trucker.stop('q')});
	wait_state($node, 'q', 'stopped') or die;

	my $offset = -s $node->logfile;
	my $session = session(q{SELECT trucker.start('y')});
	sql(q{SELECT trucker.drop_truck('x')});
	sql(q{SELECT trucker.start('q')});
	ok(wait_state($node, 'q', 'streaming'), 'while a transaction that starts a truck is open, others are started');
	is(logged_since($offset), '', '... and no probe fails');
	$session->query_safe('COMMIT');
	$session->quit;
	ok(wait_state($node, 'y', 'streaming'), 'the truck that boarded a stream which was empty runs');
}

# ----
# Sessions
# ----

# start() of all, and of one of them in a transaction that has its row already
{
	create($_, 'b', 's3') foreach 't1', 't2';
	my $offset = -s $node->logfile;
	my $session = session(q{SELECT trucker.stop('t2')});
	my $all = beside('all', 'SELECT trucker.start()');

	waits_for_lock('all') or die;
	$session->query(q{SELECT trucker.start('t2'); COMMIT});
	$session->quit;
	is(finish($all), '', 'start() of all waits for a session that starts one of them');
	is(logged_since($offset), '', 'no deadlock');
	ok(wait_state($node, $_, 'streaming'), "truck $_ runs") foreach 't1', 't2';
}

# alter_truck() takes quarantined changes away that another session, or a worker, has taken
{
	sql(q{CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE bad (id int PRIMARY KEY); CREATE TABLE out_k (id int CHECK (id < 100));
		SELECT trucker.create_truck('k', '{good, bad}', 'INSERT INTO out_k SELECT id FROM r', options => '{"stream": "k", "on_error": "quarantine"}');
		SELECT trucker.start('k')});
	wait_state($node, 'k', 'streaming') or die;
	sql('INSERT INTO bad VALUES (100)');
	$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM trucker.quarantine') or die;

	my $offset = -s $node->logfile;
	my $session = session('SELECT FROM trucker.quarantined_transaction FOR UPDATE');
	my $alter = beside('alter', q{SELECT trucker.alter_truck('k', input_tables => '{good}')});

	waits_for_lock('alter') or die;
	$session->query(q{SELECT trucker.discard_quarantined('k'); COMMIT});
	$session->quit;
	is(finish($alter), '', 'alter_truck() waits for who discards what is in quarantine');
	is(logged_since($offset), '', 'no deadlock');
	is(sql('SELECT count(*) FROM trucker.quarantined_change'), '0', 'nothing is left there');
}

# ----
# Called off
# ----

# A worker that changes streams
{
	sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});
	create($_, 'b', 's4') foreach 'm1', 'm2';
	sql(q{SELECT trucker.start()});
	caught_up($node, $_) or die foreach 'm1', 'm2';
	ok(wait_state($node, $_, 'streaming'), "truck $_ runs") foreach 'm1', 'm2';

	my $offset = -s $node->logfile;
	setting($node, 'trucker.stop_point', 'split: recorded');
	sql(q{SELECT trucker.stop('m1')});
	ok($node->wait_for_log(qr/stop point.*split: recorded/, $offset), 'a worker lets a truck leave');
	sql(q{ALTER SYSTEM RESET trucker.stop_point});
	sql(q{BEGIN; DROP EXTENSION trucker; ROLLBACK});
	sql(q{SELECT pg_reload_conf()});
	is(logged_since($offset), '', 'called off by DROP EXTENSION, it logs nothing alarming');
	ok(wait_state($node, 'm2', 'streaming'), 'rolled back: it is back');
	ok(wait_state($node, 'm1', 'stopped'), '... and the truck that was stopped is');
}

# A worker that is connecting, and waits for somebody who has the database locked
{
	sql('CREATE DATABASE db2');
	sql('CREATE EXTENSION trucker; CREATE TABLE a (id int PRIMARY KEY)', 'db2');
	create('n', 'a', 'n', 'db2');
	sql(q{SELECT trucker.start('n')}, 'db2');
	wait_state($node, 'n', 'streaming', db => 'db2') or die;

	my $session = $node->background_psql('db2', on_error_stop => 0);
	my $locks = q{FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass
		AND objid = (SELECT oid FROM pg_database WHERE datname = 'db2')};
	my ($copy, $offset);
	my $waits = 0;

	# it has db2 locked while it waits for those who are in there: for 5 s, and then it fails
	for (my $try = 1; $try <= 10 && !$waits; $try++)
	{
		my $pid = stream_worker_pid($node, 'n', db => 'db2');
		my $end = time + 4;

		finish($copy) if $copy;
		$copy = beside('copy', "CREATE DATABASE db3_$try TEMPLATE db2");
		$node->poll_query_until('postgres', "SELECT count(*) = 1 $locks AND mode = 'ShareLock' AND granted") or die;
		sql("SELECT pg_terminate_backend($pid, 10000)");
		$offset = -s $node->logfile;
		$waits = sql("SELECT count(*) $locks AND NOT granted") until $waits || time > $end;
	}
	is($waits, 1, 'a worker cannot connect yet');
	$session->query('BEGIN; DROP EXTENSION trucker; ROLLBACK');
	$session->quit;
	my $log = slurp_file($node->logfile, $offset);
	unlike($log, qr/canceling statement|exit code 1|terminating/, 'called off by DROP EXTENSION, it logs nothing alarming');
	finish($copy);
	ok(wait_state($node, 'n', 'streaming', db => 'db2'), 'rolled back: it is back');
}

$node->stop;
done_testing();
