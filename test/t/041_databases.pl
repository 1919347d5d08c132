# Workers come and go with what they serve.  Whatever a truck is doing at the
# moment, it never keeps an administrator from dropping a database or the
# extension, or from stopping the server; and neither leaves a worker or a slot
# behind, for a slot that nobody reads fills the disk.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TruckerTest;

# "at once": far below what any timeout in the server would take.  A machine that is busy
# with other things takes longer for everything, as for the last CREATE DATABASE.
my $at_once = 7;
my $slowness = 0;

my $node = trucker_node('databases', conf => q{
max_prepared_transactions = 5
max_replication_slots = 30
max_wal_senders = 30
trucker.retry_max_delay = '1h'
});
$node->safe_psql('postgres', 'DROP EXTENSION trucker');

# sql($db, $statements...): run them, without warnings
sub sql
{
	my ($db, @statements) = @_;
	my $result = '';

	$result = $node->safe_psql($db, "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# quick($test_name, $code): the code returns true, and at once
sub quick
{
	my ($test_name, $code) = @_;
	my $began = time;
	my $good = $code->();
	my $seconds = sprintf '%.1f', time - $began;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good && $seconds < $at_once + 5 * $slowness, "$test_name: at once") or diag "$seconds s; CREATE DATABASE has taken $slowness s";
	return $good;
}

# quick_sql($db, $sql, $test_name): the SQL succeeds, at once
sub quick_sql
{
	my ($db, $sql, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return quick(
		$test_name,
		sub {
			my $error = psql_err($node, $sql, db => $db);
			diag $error if $error ne '';
			return $error eq '';
		});
}

# nothing_left($test_name): no worker, no walsender, no slot is left on the server
sub nothing_left
{
	my ($test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok( $node->poll_query_until(
			'postgres', q{
			SELECT NOT EXISTS (SELECT FROM pg_replication_slots)
			AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN ('trucker stream', 'walsender'))}),
		"$test_name: no worker and no slot is left")
	  or diag $node->safe_psql('postgres',
		'SELECT slot_name, database, active FROM pg_replication_slots; '
		  . q{SELECT backend_type, datname, application_name, state, query FROM pg_stat_activity WHERE backend_type <> 'client backend'});
	return;
}

# wait_true($db, $query): until it returns true
sub wait_true
{
	my ($db, $query) = @_;

	$node->poll_query_until($db, $query)
	  or die 'waited in vain: ', $query, $node->safe_psql($db, 'TABLE trucker.status');
	return;
}

# A database with the extension and two trucks in the given state: 'a' is in it,
# 'b' streams.  Returns what keeps 'a' in it: sessions to be ended afterwards.
my @tables = (
	q{CREATE TABLE s (id int PRIMARY KEY, v text);
	  CREATE TABLE d (LIKE s INCLUDING ALL);
	  CREATE TABLE gate ();
	  CREATE FUNCTION pass(int) RETURNS int LANGUAGE plpgsql AS
		'BEGIN LOCK TABLE gate IN ROW SHARE MODE; RETURN $1; END';
	  INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 100) i});
my $mirror = q{
	DELETE FROM d USING r WHERE r.meta__operation <> 'insert' AND d.id = r.old__id;
	INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET v = excluded.v};
my %output = (
	'streaming'        => $mirror,
	'backfill'         => 'SELECT pg_sleep(1000) FROM r; ' . $mirror,
	'blocked backfill' => 'SELECT pass(id) FROM r; ' . $mirror,
	'creating slot'    => $mirror,
	'prepared'         => $mirror,
	'retrying'         => 'SELECT 1 / (id - id) FROM r; ' . $mirror,
	'blocked'          => 'SELECT pass(id) FROM r; ' . $mirror,
	'long run'         => q{SELECT pg_sleep(1000) FROM r WHERE v = 'sleep'; } . $mirror,
	'stopped'          => $mirror,
	'lost'             => $mirror);

# The session that holds a lock or an xid is in another database wherever that is
# possible: in the same one, it would itself keep the database from being dropped.
# (An ACCESS EXCLUSIVE lock would give it an xid, for which slots wait.)
sub make_database
{
	my ($db, $state) = @_;
	my @sessions;

	my $began = time;
	sql('postgres', "CREATE DATABASE $db");
	$slowness = time - $began;
	sql($db, 'CREATE EXTENSION trucker', @tables,
		q{SELECT trucker.create_truck('b', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "b"}')},
		qq{SELECT trucker.create_truck('a', '{s}', \$\$$output{$state}\$\$, options => '{"stream": "a"}')},
		q{SELECT trucker.start('b')});
	wait_state($node, 'b', 'streaming', db => $db);
	if ($state eq 'creating slot')
	{
		push @sessions, $node->background_psql('postgres');
		$sessions[0]->query_safe('BEGIN; SELECT txid_current()');
	}
	elsif ($state eq 'prepared')
	{
		sql('postgres', 'BEGIN; SELECT txid_current(); CREATE TABLE prepared_' . $db . q{ (); PREPARE TRANSACTION 'p'});
	}
	elsif ($state eq 'blocked backfill')
	{
		push @sessions, $node->background_psql($db);
		$sessions[0]->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	}
	sql($db, q{SELECT trucker.start('a')});

	if ($state eq 'creating slot' || $state eq 'prepared')
	{
		wait_true($db, q{SELECT state = 'creating slot' AND waiting_for IS NOT NULL FROM trucker.status WHERE truck = 'a'});
	}
	elsif ($state eq 'backfill')
	{
		wait_state($node, 'a', 'backfill', db => $db);
		wait_true($db, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()});
	}
	elsif ($state eq 'blocked backfill')
	{
		wait_true($db, q{SELECT state = 'backfill' AND waiting_for ~ 'pid' FROM trucker.status WHERE truck = 'a'});
	}
	elsif ($state eq 'retrying')
	{
		wait_state($node, 'a', 'retrying', db => $db);
	}
	else
	{
		wait_state($node, 'a', 'streaming', db => $db);
		if ($state eq 'blocked')
		{
			push @sessions, $node->background_psql($db);
			$sessions[0]->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
			sql($db, 'INSERT INTO s VALUES (1001)');
			wait_true($db, q{SELECT waiting_for ~ 'pid' FROM trucker.status WHERE truck = 'a'});
		}
		elsif ($state eq 'long run')
		{
			sql($db, q{INSERT INTO s VALUES (1001, 'sleep')});
			wait_true($db, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()});
		}
		elsif ($state eq 'stopped')
		{
			sql($db, q{SELECT trucker.stop('a')});
			wait_state($node, 'a', 'stopped', db => $db);
		}
		elsif ($state eq 'lost')
		{
			sql($db, 'ALTER TABLE s SET UNLOGGED');
			wait_state($node, 'a', 'lost', db => $db);
		}
	}
	return @sessions;
}

sub end_sessions
{
	my ($state, @sessions) = @_;

	sql('postgres', q{ROLLBACK PREPARED 'p'}) if $state eq 'prepared';

	# its server process may be gone
	foreach my $session (@sessions)
	{
		eval { $session->quit; };
	}
	return;
}

# ----
# DROP DATABASE
# ----
foreach my $state ('streaming', 'backfill', 'creating slot', 'prepared', 'retrying', 'long run', 'stopped', 'lost')
{
	my @sessions = make_database('db1', $state);
	quick_sql('postgres', 'DROP DATABASE db1', "DROP DATABASE, $state");
	nothing_left("DROP DATABASE, $state");
	end_sessions($state, @sessions);
}
foreach my $state ('streaming', 'blocked', 'blocked backfill', 'creating slot')
{
	my @sessions = make_database('db1', $state);
	quick_sql('postgres', 'DROP DATABASE db1 WITH (FORCE)', "DROP DATABASE WITH (FORCE), $state");
	nothing_left("DROP DATABASE WITH (FORCE), $state");
	end_sessions($state, @sessions);
}

# A session of somebody else makes it fail: then everything goes on.
foreach my $state ('streaming', 'blocked', 'creating slot', 'retrying', 'backfill')
{
	my @sessions = make_database('db1', $state);
	my $other = $node->background_psql('db1');
	my $before = sql('db1', q{SELECT pid FROM trucker.truck_workers() w JOIN trucker.truck t ON t.id = w.truck_id WHERE name = 'b'});

	like(psql_err($node, 'DROP DATABASE db1'), qr/55006: database "db1" is being accessed by other users/,
		"DROP DATABASE fails because of a session, $state");
	ok( $node->poll_query_until(
			'db1', qq{
			SELECT count(*) = 2 AND bool_and(pid IS NOT NULL) AND NOT bool_or(pid = $before)
			FROM trucker.truck_workers() WHERE state <> 'starting'}),
		"after a DROP DATABASE that failed, workers are back, $state");
	$_->query_safe('COMMIT') foreach @sessions;
	end_sessions($state, @sessions, $other);
	if ($state eq 'streaming' || $state eq 'blocked' || $state eq 'creating slot')
	{
		sql('db1', q{INSERT INTO s VALUES (2001, 'after')});
		ok(caught_up($node, 'a', db => 'db1'), 'and go on');
		same($node, 'TABLE s', 'TABLE d', "without loss, $state", db => 'db1');
	}
	sql('postgres', 'DROP DATABASE db1');
}
foreach my $failure ([ 'CREATE ROLE nobody', 'SET ROLE nobody; DROP DATABASE db1', qr/42501/, 'no right' ],
	[ 'ALTER DATABASE db1 IS_TEMPLATE true', 'DROP DATABASE db1', qr/42809: cannot drop a template database/, 'a template' ],
	[ 'ALTER DATABASE db1 IS_TEMPLATE false', 'BEGIN; DROP DATABASE db1', qr/25001/, 'in a transaction block' ])
{
	my ($before, $drop, $error, $why) = @$failure;

	make_database('db1', 'streaming') if $why eq 'no right';
	sql('postgres', $before);
	like(psql_err($node, $drop), $error, "DROP DATABASE fails: $why");
	sql('db1', 'INSERT INTO s SELECT max(id) + 1 FROM s');
	ok(caught_up($node, 'a', db => 'db1'), 'and the truck goes on');
}
sql('postgres', 'DROP DATABASE db1');
nothing_left('DROP DATABASE after failed ones');

# ----
# DROP EXTENSION
# ----
foreach my $state ('streaming', 'backfill', 'creating slot', 'prepared', 'retrying', 'blocked', 'blocked backfill', 'long run', 'stopped', 'lost')
{
	my @sessions = make_database('db2', $state);

	quick('a dropped extension that is rolled back', sub {
		psql_err($node, 'BEGIN; DROP EXTENSION trucker; ROLLBACK', db => 'db2') eq '' });
	ok( $node->poll_query_until('db2', q{SELECT state <> 'starting' FROM trucker.status WHERE truck = 'a'})
		  && wait_state($node, 'b', $state eq 'lost' ? 'lost' : 'streaming', db => 'db2'),
		"DROP EXTENSION rolled back: workers are back, $state");
	quick_sql('db2', 'DROP EXTENSION trucker', "DROP EXTENSION, $state");
	nothing_left("DROP EXTENSION, $state");
	end_sessions($state, @sessions);
	sql('postgres', 'DROP DATABASE db2');
}

# probe_gives_way($db, $drop): a probe that waits for a lock of the session that drops the
# extension, and holds others that this needs
sub probe_gives_way
{
	my ($db, $drop) = @_;
	my $session = $node->background_psql($db);
	my $offset;

	$session->query_safe('BEGIN; LOCK TABLE trucker.truck_state');
	# rolled back, it lets a probe come
	like(psql_err($node, q{SET lock_timeout = '10ms'; DROP EXTENSION trucker}, db => $db), qr/55P03/, 'DROP EXTENSION fails for want of a lock');
	wait_true('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE datname = '$db' AND backend_type = 'trucker probe' AND wait_event_type = 'Lock'});
	$offset = -s $node->logfile;
	quick("$drop with locks that a probe waits for", sub { $session->query("$drop; ROLLBACK"); 1 });
	$session->quit;
	unlike(slurp_file($node->logfile, $offset), qr/ERROR|FATAL/, "$drop: nobody is in a deadlock, and nothing alarming is logged");
	ok(wait_state($node, 'a', 'streaming', db => $db), 'rolled back: the workers are back');
	return;
}

# While it is not decided yet, nothing runs; a session that just goes away decides.
{
	make_database('db2', 'streaming');
	make_database('db3', 'streaming');
	my $session = $node->background_psql('db2');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe('BEGIN; DROP EXTENSION trucker');
	# a process is listed for a moment longer than it runs
	my $none = q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'db2' AND backend_type = 'trucker stream'};
	ok($node->poll_query_until('postgres', $none), 'an uncommitted DROP EXTENSION: no worker runs');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots WHERE database = 'db2'}), '2', 'slots are still there');

	# meanwhile, other databases' trucks are not held up
	sql('db3', q{SELECT trucker.stop('b')});
	ok(wait_state($node, 'b', 'stopped', db => 'db3'), 'another database\'s trucks can be stopped');
	sql('db3', q{SELECT trucker.start('b')});
	ok(wait_state($node, 'b', 'streaming', db => 'db3'), 'and started');
	ok(caught_up($node, 'a', db => 'db3'), 'an uncommitted DROP EXTENSION does not hold up another database');
	is($node->safe_psql('postgres', $none), 't', 'and still no worker runs');

	sql('postgres', "SELECT pg_terminate_backend($pid)");
	ok(wait_state($node, 'a', 'streaming', db => 'db2'), 'its session dies: the workers are back');
	eval { $session->quit; };

	$session = $node->background_psql('db2');
	$session->query_safe('BEGIN; SAVEPOINT x; DROP EXTENSION trucker; ROLLBACK TO x; COMMIT');
	$session->quit;
	ok(wait_state($node, 'a', 'streaming', db => 'db2'), 'rolled back to a savepoint: the workers are back');
	sql('db2', q{INSERT INTO s VALUES (3001)});
	ok(caught_up($node, 'a', db => 'db2'), 'and go on');

	probe_gives_way('db2', 'DROP EXTENSION trucker');

	# Other ways to lose it
	like( psql_err($node, 'DROP SCHEMA trucker CASCADE', db => 'db2'),
		qr/2BP01: cannot drop schema trucker because extension trucker requires it/,
		'the schema cannot be dropped without the extension');
	ok(caught_up($node, 'a', db => 'db2'), 'and the truck goes on');
	is(psql_err($node, q{DO 'BEGIN DROP EXTENSION trucker; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END'}, db => 'db2'),
		'', 'dropped and undone in a block');
	ok(wait_state($node, 'a', 'streaming', db => 'db2'), 'the workers are back');
	sql('db2', 'CREATE VIEW needs_it AS SELECT * FROM trucker.status');
	like(psql_err($node, 'DROP EXTENSION trucker', db => 'db2'), qr/2BP01: cannot drop extension trucker because other objects depend on it/,
		'DROP EXTENSION without CASCADE fails');
	ok(wait_state($node, 'a', 'streaming', db => 'db2'), 'the workers are back');
	sql('postgres', 'CREATE ROLE owner_of_it SUPERUSER');
	quick_sql('db2', 'DROP EXTENSION trucker CASCADE', 'DROP EXTENSION CASCADE');
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots WHERE database = 'db2'}), 'its slots are gone');
	sql('postgres', 'DROP DATABASE db2');
	ok(caught_up($node, 'a', db => 'db3'), 'all that has not touched another database');
	sql('db3', q{SELECT trucker.stop()}, 'DROP EXTENSION trucker',
		'SET ROLE owner_of_it; CREATE EXTENSION trucker',
		qq{SELECT trucker.create_truck('a', '{s}', \$\$$mirror\$\$, options => '{"stream": "a"}'); SELECT trucker.start()});
	ok(wait_state($node, 'a', 'streaming', db => 'db3'), 'an extension dropped and made again');
	probe_gives_way('db3', 'DROP OWNED BY owner_of_it');
	quick_sql('db3', 'DROP OWNED BY owner_of_it', 'DROP OWNED');
	is($node->safe_psql('db3', q{SELECT count(*) FROM pg_extension WHERE extname = 'trucker'}), '0', 'DROP OWNED has dropped the extension');
	nothing_left('DROP OWNED');
	sql('postgres', 'DROP DATABASE db3', 'DROP ROLE owner_of_it');
}

# ----
# Two databases, the same names
# ----
make_database('one', 'streaming');
make_database('two', 'streaming');
sql('one', q{INSERT INTO s VALUES (501, 'in one')});
sql('two', q{UPDATE s SET v = 'in two' WHERE id = 7; DELETE FROM s WHERE id = 8});
foreach my $db ('one', 'two')
{
	ok(caught_up($node, 'a', db => $db), "database $db: its truck is not its namesake");
	same($node, 'TABLE s', 'TABLE d', "database $db: the destination is its own", db => $db);
	is($node->safe_psql($db, 'SELECT count(*) FROM trucker.status'), '2', "database $db: status shows its own trucks");
}
sql('one', q{SELECT trucker.stop('a')});
wait_state($node, 'a', 'stopped', db => 'one');
is($node->safe_psql('two', q{SELECT state FROM trucker.status WHERE truck = 'a'}), 'streaming', 'stopping one leaves its namesake alone');
sql('one', q{SELECT trucker.start('a')});
wait_state($node, 'a', 'streaming', db => 'one');

# An idle worker answers to what other sessions need of all processes: DROP DATABASE
# waits until each has.
sql('postgres', 'CREATE DATABASE unrelated');
sql('unrelated', 'CREATE TABLE t AS SELECT generate_series(1, 1000)');
quick_sql('postgres', 'DROP DATABASE unrelated', 'DROP DATABASE of a database without trucks');
sql('one', q{SELECT trucker.create_truck('fails', '{s}', 'SELECT 1 / (id - id) FROM r', options => '{"stream": "fails"}'); SELECT trucker.start('fails')});
wait_state($node, 'fails', 'retrying', db => 'one');
sql('postgres', 'CREATE DATABASE unrelated');
quick_sql('postgres', 'DROP DATABASE unrelated', 'also while a truck pauses');
{
	my $session = $node->background_psql('postgres');

	$session->query_safe('BEGIN; SELECT txid_current()');
	sql('one', q{SELECT trucker.create_truck('waits', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "waits"}'); SELECT trucker.start('waits')});
	wait_state($node, 'waits', 'creating slot', db => 'one');
	sql('postgres', 'CREATE DATABASE unrelated');
	quick_sql('postgres', 'DROP DATABASE unrelated', 'also while a truck waits for its slot');
	$session->query_safe('COMMIT');
	$session->quit;
	wait_state($node, 'waits', 'streaming', db => 'one');
}

# drop_truck, also beside a truck that has no walsender ("fails")
foreach my $truck ('waits', 'b', 'fails')
{
	my $slot = $node->safe_psql('one', qq{SELECT x.slot_name FROM trucker.truck_state s JOIN trucker.truck t ON t.id = s.truck_id JOIN trucker.stream x ON x.id = s.stream_id WHERE t.name = '$truck'});

	sql('one', "SELECT trucker.drop_truck('$truck')");
	ok( $node->poll_query_until('postgres', qq{
			SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')
			AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'one' AND application_name = 'trucker $truck')}),
		"drop_truck of a running truck ($truck) takes its worker and its slot away");
}
sql('one', q{BEGIN; SELECT trucker.drop_truck('a'); ROLLBACK});
ok(caught_up($node, 'a', db => 'one'), 'a drop_truck that is rolled back does nothing');

# A slot that is not ours, even if its name nearly is, stays.
sql('one', q{SELECT pg_create_logical_replication_slot('trucker_mine', 'test_decoding')},
	q{SELECT trucker.create_truck('c', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "c"}'); SELECT trucker.start('c')});
wait_state($node, 'c', 'streaming', db => 'one');
sql('one', q{SELECT trucker.drop_truck('c')});
$node->poll_query_until('postgres', q{SELECT count(*) = 4 FROM pg_replication_slots});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'trucker_mine'}), '1',
	'a slot that somebody has given a similar name is not dropped');
sql('one', q{SELECT pg_drop_replication_slot('trucker_mine')});

# stop, changes, start: nothing is lost, nothing comes twice
foreach my $round (1 .. 2)
{
	sql('one', q{SELECT trucker.stop('a')});
	wait_state($node, 'a', 'stopped', db => 'one');
	sql('one', "INSERT INTO s SELECT i, 'while stopped' FROM generate_series(${round}0000, ${round}0100) i; UPDATE s SET v = v || '.' WHERE id < 50; DELETE FROM s WHERE id = $round");
	sql('one', q{SELECT trucker.start('a')});
	ok(caught_up($node, 'a', db => 'one'), 'stop, changes, start');
	same($node, 'TABLE s', 'TABLE d', 'without loss', db => 'one');
}

# ----
# The launcher and its probes
# ----
{
	my $kill = sub {
		my ($type) = @_;
		return sql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = '$type'");
	};
	my $pids = q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type = 'trucker stream'};
	my $before = $node->safe_psql('postgres', $pids);
	my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker launcher'});

	$kill->('trucker launcher');
	ok( $node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'trucker launcher' AND pid <> $launcher}),
		'a launcher that is terminated comes back');
	sql('one', q{SELECT trucker.create_truck('e', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "e"}'); SELECT trucker.start('e')});
	ok(wait_state($node, 'e', 'streaming', db => 'one'), 'and serves');
	sql('one', q{SELECT trucker.drop_truck('e')});
	ok($node->poll_query_until('postgres', "SELECT ($pids) = '$before'"), 'the workers have not noticed')
	  or diag "before: $before, now: " . $node->safe_psql('postgres', $pids);

	# A probe that waits for a lock, and one that is terminated
	sql('one', q{SELECT trucker.create_truck('e', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "e"}')});
	my $starter = $node->background_psql('one');
	my $locker = $node->background_psql('one');
	$starter->query_safe(q{SET client_min_messages = error; BEGIN; SELECT trucker.start('e')});
	$locker->query_until(qr/waits/, "\\echo waits\nBEGIN; LOCK TABLE trucker.truck_state;\n");
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^LOCK TABLE' AND wait_event_type = 'Lock'});
	$starter->query_safe('COMMIT');
	$starter->quit;
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'trucker probe' AND wait_event_type = 'Lock'}),
		'a probe waits for a lock');

	my $worker = worker_pid($node, 'a', db => 'two');
	sql('postgres', "SELECT pg_terminate_backend($worker)");
	ok($node->poll_query_until('two', qq{SELECT state = 'streaming' AND pid <> $worker FROM trucker.truck_workers() w JOIN trucker.truck t ON t.id = w.truck_id WHERE name = 'a'}),
		'which does not hold up the workers of other databases');

	$kill->('trucker probe');
	$locker->query_safe('COMMIT');
	$locker->quit;
	ok(wait_state($node, 'e', 'streaming', db => 'one'), 'a probe that was terminated is repeated');
	sql('one', q{SELECT trucker.drop_truck('e')});
}

# ----
# Shutdown and restart
# ----
foreach my $state ('streaming', 'backfill', 'creating slot', 'prepared', 'retrying', 'blocked', 'blocked backfill', 'long run')
{
	my @sessions = make_database('db4', $state);

	quick("pg_ctl stop -m fast, $state", sub { $node->stop('fast'); 1 });
	eval { $_->quit; } foreach @sessions;
	$node->start;
	ok(caught_up($node, 'a', db => 'one'), 'trucks start by themselves after a restart');
	end_sessions($state);
	sql('postgres', 'DROP DATABASE db4');
}
make_database('db4', 'streaming');
sql('one', 'INSERT INTO s VALUES (601)');
quick('pg_ctl stop -m smart', sub { $node->stop('smart'); 1 });
$node->start;
sql('one', 'INSERT INTO s VALUES (602)');
ok(caught_up($node, 'a', db => 'one'), 'trucks go on after a smart shutdown');
same($node, 'TABLE s', 'TABLE d', 'without loss', db => 'one');
sql('postgres', 'DROP DATABASE db4');

# ----
# max_worker_processes used up: status says so, and it heals
# ----
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
$node->restart;
sql('postgres', 'DROP DATABASE two');

# launcher, logical replication launcher, and two more for: worker a, probes
sql('one', q{SELECT trucker.create_truck('second', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "second"}'); SELECT trucker.start('second')});
ok(wait_state($node, 'second', 'streaming', db => 'one'), 'the last free worker is used');
sql('one', q{SELECT trucker.create_truck('third', '{s}', 'SELECT count(*) FROM r', options => '{"stream": "third"}')});
like(psql_err($node, q{SELECT trucker.start('third')}, db => 'one'), qr/53400: no background worker is free/, 'there is none for another truck');

# taken while the truck's worker is away
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
my $offset = -s $node->logfile;
$node->restart;
ok( $node->poll_query_until('one', q{SELECT count(*) = 1 FROM trucker.status WHERE waiting_for = 'a background worker (max_worker_processes)'}),
	'max_worker_processes used up: status says so')
  or diag $node->safe_psql('one', 'TABLE trucker.status');
$node->wait_for_log(qr/LOG:  could not start the worker of stream "\w+": no background worker is free\n.*HINT:  Raise max_worker_processes\./, $offset);
pass('so does the log');
my $served = q{FROM trucker.truck_workers() w JOIN trucker.truck t ON t.id = w.truck_id WHERE pid IS NOT NULL};
$node->poll_query_until('one', "SELECT count(*) = 1 $served") or die 'no truck runs';
my $running = $node->safe_psql('one', "SELECT t.name $served");
my $waiting = $running eq 'a' ? 'second' : 'a';
sql('one', "SELECT trucker.stop('$running')");
ok(wait_state($node, $waiting, 'streaming', db => 'one'), 'a truck that stops makes room: it heals');
ok(wait_state($node, $running, 'stopped', db => 'one'), 'stop works although no worker is free');
sql('one', "SELECT trucker.drop_truck('$waiting')");
ok($node->poll_query_until('one', q{SELECT count(*) = 1 FROM pg_replication_slots}), 'drop_truck, too: worker and slot are gone');
quick_sql('postgres', 'DROP DATABASE one', 'and so does DROP DATABASE');
nothing_left('in the end');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC:|TRAP:|terminated by signal/, 'no crash in all of this');
unlike($log, qr/FATAL:  database \d+ does not exist/, 'nothing looks into a database that has been dropped');
unlike($log, qr/too many databases are being dropped/, 'no database is left marked as being dropped');
$node->stop;

done_testing();
