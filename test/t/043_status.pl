# trucker.status says what a truck is doing, what it waits for and what went wrong;
# wait_for tells when the destination has caught up; and what these promise of each
# state holds, for it is all that the owner of a truck has to go by.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('status', conf => q{
max_prepared_transactions = 5
autovacuum = off
trucker.max_truck_delay = 0
trucker.log_repeat_interval = 0
});

# sql($statements...): run them, without warnings; returns the last one's result
sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# status($truck, $columns)
sub status
{
	my ($truck, $columns) = @_;

	return $node->safe_psql('postgres', "SELECT $columns FROM trucker.status WHERE truck = '$truck'");
}

# becomes($truck, $condition, $test_name): a test that status shows it, in the end
sub becomes
{
	my ($truck, $condition, $test_name) = @_;
	my $good = $node->poll_query_until('postgres',
		"SELECT $condition FROM trucker.status WHERE truck = '$truck'");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good, $test_name) or diag $node->safe_psql('postgres', "SELECT * FROM trucker.status WHERE truck = '$truck'");
	return $good;
}

# heeded($truck): its worker knows the settings that were made before; it reads them
# between two batches, and has been through one.
sub heeded
{
	my ($truck) = @_;

	sql('UPDATE s SET v = v WHERE id = 2');
	caught_up($node, $truck) or die "$truck does not catch up";
	return;
}

sql(q{
	CREATE TABLE s (id int PRIMARY KEY, v text);
	CREATE TABLE d (LIKE s INCLUDING ALL);
	CREATE TABLE gate ();
	CREATE TABLE divisor AS SELECT 0 AS n;
	CREATE FUNCTION pass(int) RETURNS int LANGUAGE plpgsql AS
		'BEGIN LOCK TABLE gate IN ROW SHARE MODE; RETURN $1; END';
	INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 100) i});

# mirror($truck, $before, $more): a truck that mirrors s in d, after other SQL
sub mirror
{
	my ($truck, $before, $more) = @_;

	sql(qq{SELECT trucker.create_truck('$truck', '{s}', \$\$$before
		DELETE FROM d USING r WHERE r.meta__operation <> 'insert' AND d.id = r.old__id;
		INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$} . ($more // '') . ')');
	return;
}

# ----
# From state to state
# ----
mirror('t', 'SELECT pass(id) FROM r;');
is(status('t', 'state, since, stream, position, lag_bytes, lag_seconds, waiting_for, last_error, last_error_at, next_retry_at'),
	'stopped|||||||||', 'a truck that has never run is stopped, and that is all there is to say');

# starting: while nobody has come to start it
my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker launcher'});
kill 'STOP', $launcher;
sql(q{SELECT trucker.start('t')});
is(status('t', 'state'), 'starting', 'a truck that shall run and has no worker is starting');
{
	my $oldest = $node->background_psql('postgres');
	my $younger = $node->background_psql('postgres');
	my $pid = $oldest->query_safe('SELECT pg_backend_pid()');
	my $younger_pid = $younger->query_safe('SELECT pg_backend_pid()');
	$oldest->query_safe('BEGIN; SELECT txid_current()');
	kill 'CONT', $launcher;

	becomes('t', "state = 'creating slot' AND waiting_for = 'pid $pid'", 'creating slot: the pid of the transaction that it waits for is shown');
	is(status('t', 'since > now() - interval $$1 min$$, stream, position IS NULL, last_error IS NULL'),
		't|main|t|t', 'creating slot: since when, and no position yet');

	$younger->query_safe('BEGIN; SELECT txid_current()');
	my $locker = $node->background_psql('postgres');
	my $locker_pid = $locker->query_safe('SELECT pg_backend_pid()');
	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	$oldest->query_safe('COMMIT');
	becomes('t', "state = 'creating slot' AND waiting_for = 'pid $younger_pid'", 'then the next one');

	# the last obstacle is a prepared transaction, which has no pid
	sql(q{BEGIN; SELECT txid_current(); INSERT INTO divisor SELECT 1 WHERE false; CREATE TABLE prepared (); PREPARE TRANSACTION 'it''s prepared'});
	sql(q{SELECT trucker.create_truck('u', '{s}', 'SELECT count(*) FROM r'); SELECT trucker.start('u')});
	becomes('u', "state = 'creating slot' AND waiting_for = 'pid $younger_pid'", 'the oldest transaction comes first');
	$younger->query_safe('COMMIT');
	becomes('u', q{state = 'creating slot' AND waiting_for = 'prepared transaction ''it''''s prepared'''}, 'a prepared transaction is shown by its name');
	sql(q{COMMIT PREPARED 'it''s prepared'});

	# t: its backfill waits for a lock
	becomes('t', "state = 'backfill' AND waiting_for = 'pid $locker_pid'", 'backfill, blocked by a lock: whose is shown');
	is(sql('SELECT count(*) FROM d'), '0', 'nothing of a backfill is to be seen while it runs');
	is(sql(q{SELECT trucker.wait_for('t', timeout => '100 ms')}), 'f', 'nor does wait_for say that it is there');
	$locker->query_safe('COMMIT');
	ok(wait_state($node, 't', 'streaming'), 'backfill, then streaming');

	# only now: another truck's backfill is one of the transactions that a slot waits for
	ok(wait_state($node, 'u', 'streaming'), 'when nothing is left to wait for, the other truck goes on');
	ok(caught_up($node, 't'), 'wait_for is true');
	becomes('t', 'position IS NOT NULL AND lag_bytes = 0 AND lag_seconds = 0 AND waiting_for IS NULL AND last_error IS NULL AND next_retry_at IS NULL',
		'streaming and idle: no lag');

	# blocked while streaming
	my $since = status('t', 'since');
	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	sql(q{INSERT INTO s VALUES (101, 'blocked')});
	becomes('t', "state = 'streaming' AND waiting_for = 'pid $locker_pid'", 'streaming, blocked by a lock: whose is shown');
	becomes('t', 'lag_bytes > 0 AND lag_seconds > 0.2', 'lag grows meanwhile');
	is(sql(q{SELECT trucker.wait_for('t', timeout => '100 ms')}), 'f', 'wait_for is false after its timeout');
	$locker->query_safe('COMMIT');
	ok(caught_up($node, 't'), 'it goes on');
	becomes('t', 'lag_bytes = 0 AND lag_seconds = 0 AND waiting_for IS NULL', 'lag returns to 0');
	is(status('t', 'since'), $since, 'since tells when this state began, not when it was last seen');

	# stopping: a worker that does not answer
	my $worker = worker_pid($node, 't');
	kill 'STOP', $worker;
	sql(q{SELECT trucker.stop('t')});
	is(status('t', 'state'), 'stopping', 'a worker that has not ended yet: stopping');
	kill 'CONT', $worker;
	ok(wait_state($node, 't', 'stopped'), 'then stopped');
	is(status('t', "split_part(stream, ' ', 1), position IS NOT NULL, lag_bytes IS NOT NULL, waiting_for"), 'main|t|t|', 'a stopped truck keeps its position and says how far behind it is');
	$_->quit foreach $oldest, $younger, $locker;
	sql(q{SELECT trucker.drop_truck('t')}, q{SELECT trucker.drop_truck('u')}, 'TRUNCATE d');
}
is(sql('SELECT count(*) FROM trucker.status'), '0', 'a dropped truck is not shown');

# ----
# Failing
# ----
# The pauses, as the log tells them
sub pauses
{
	my ($offset) = @_;
	my @at = map { /^\S+ (\d+):(\d+):([\d.]+) / ? $1 * 3600 + $2 * 60 + $3 : () }
	  grep { /ERROR:  division by zero/ } split /\n/, slurp_file($node->logfile, $offset);

	return map { ($at[$_] - $at[ $_ - 1 ]) + ($at[$_] < $at[ $_ - 1 ] ? 86400 : 0) } 1 .. $#at;
}
{
	setting($node, 'trucker.retry_max_delay', '1 s');
	my $offset = -s $node->logfile;
	my ($before, $after, $pid);

	mirror('t', 'SELECT 1 / n FROM divisor, r WHERE r.id = 102;');
	sql(q{SELECT trucker.start('t')});
	ok(caught_up($node, 't'), 'no error yet');
	sql(q{UPDATE s SET v = 'before' WHERE id = 1});
	$before = sql('SELECT pg_current_wal_insert_lsn()');
	sql(q{INSERT INTO s VALUES (102, 'fails')});
	$after = sql('SELECT pg_current_wal_insert_lsn()');
	sql(q{UPDATE s SET v = 'after' WHERE id = 2});
	ok(wait_state($node, 't', 'retrying'), 'an error: retrying');
	# while it is tried again no next time is known
ok($node->poll_query_until('postgres', q{SELECT last_error_at > now() - interval '1 min' AND next_retry_at > last_error_at AND waiting_for IS NULL FROM trucker.status WHERE truck = 't'}),
	'when, and when again');
	my $error = status('t', 'last_error');
	like($error, qr/^22012: division by zero\n/, 'last_error has SQLSTATE and message');
	like($error, qr/^truck "t", run of \d+ rows? of table public\.s, changes committed at \S+ to \S+$/m, 'and the run that failed');
	like(slurp_file($node->logfile, $offset), qr/ERROR:  division by zero\n.*CONTEXT:  .*truck "t", run of \d+ rows? of table public\.s, changes committed at \S+ to \S+\n/s,
		'so does the log, as the error\'s context');
	$pid = worker_pid($node, 't');

	# growing pauses, up to the maximum
	my @pauses;
	$node->wait_for_log(qr/(?:ERROR:  division by zero(?:.|\n)*){7}/, $offset);
	@pauses = pauses($offset);
	note "pauses: @pauses";
	my @least = (0.1, 0.2, 0.4, 0.8, 1, 1);
	ok(!(grep { $pauses[$_] < $least[$_] - 0.002 } 0 .. 5), 'the pauses between retries grow');
	becomes('t', q{next_retry_at - last_error_at BETWEEN '1 s' AND '1100 ms'}, 'up to trucker.retry_max_delay');

	# what came before the change that fails is at the destination, and the error names that one
	is(sql('SELECT v FROM d WHERE id = 1'), 'before', 'source transactions before the failing one are not held up');
	is(sql('SELECT v FROM d WHERE id = 2'), 'v2', 'those behind it wait');
	my ($first, $last) = status('t', 'last_error') =~ /changes committed at (\S+) to (\S+)/;
	is($first, $last, 'the error names one source transaction');
	is(sql("SELECT '$first'::pg_lsn BETWEEN '$before' AND '$after'"), 't', 'the one that fails');
	is(sql(q{SELECT trucker.wait_for('t', timeout => '100 ms')}), 'f', 'wait_for is false');
	cmp_ok(status('t', 'lag_bytes'), '>', 0, 'and there is lag');

	# a fixed cause heals without a restart, and what went wrong stays known
	sql('UPDATE divisor SET n = 1');
	ok(wait_state($node, 't', 'streaming'), 'a fixed cause heals by itself');
	ok(caught_up($node, 't'), 'and the truck catches up');
	is(worker_pid($node, 't'), $pid, 'without another worker');
	same($node, 'TABLE s', 'TABLE d', 'without loss');
	is(status('t', q{last_error ~ 'division by zero', last_error_at IS NOT NULL, next_retry_at IS NULL}), 't|t|t', 'the last error stays known');

	# the next failure begins with a short pause again: after seven it would be 12.8 s
	setting($node, 'trucker.retry_max_delay', '1 h');
	sql('UPDATE divisor SET n = 0');
	$offset = -s $node->logfile;
	sql(q{UPDATE s SET v = 'fails' WHERE id = 102});
	$node->wait_for_log(qr/(?:ERROR:  division by zero(?:.|\n)*){2}/, $offset);
	cmp_ok((pauses($offset))[0], '<', 10, 'the next failure begins with a short pause again');

	# start() does not wait for the pause to end
	setting($node, 'trucker.retry_initial_delay', '1 h');
	becomes('t', q{next_retry_at > now() + interval '50 min'}, 'settings reload: a long pause');
	sql('UPDATE divisor SET n = 1');
	is(sql(q{SELECT trucker.wait_for('t', timeout => '300 ms')}), 'f', 'the cause is fixed, and the pause is long');
	sql(q{SELECT trucker.start('t')});
	ok(caught_up($node, 't'), 'start() ends the pause');

	# and stop, resync, drop do not, either
	sql('UPDATE divisor SET n = 0', q{UPDATE s SET v = 'fails again' WHERE id = 102});
	ok(wait_state($node, 't', 'retrying'), 'in a long pause');
	sql(q{SELECT trucker.stop('t')});
	ok(wait_state($node, 't', 'stopped'), 'stop() ends the pause');
	is(status('t', 'next_retry_at IS NULL, last_error IS NOT NULL'), 't|t', 'a stopped truck has no next retry');
	sql('ALTER SYSTEM RESET trucker.retry_max_delay');
	setting($node, 'trucker.retry_initial_delay', '100 ms');
	sql('UPDATE divisor SET n = 1', q{SELECT trucker.start('t')});
	ok(caught_up($node, 't'), 'a short pause again');
}

# A worker that dies again and again is started again, after a pause; that is not for
# want of workers, and status must not send anybody looking for some.
{
	my $locker = $node->background_psql('postgres');
	my $terminate = q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trucker main' AND backend_type = 'trucker stream'};
	my $pid = worker_pid($node, 't');

	setting($node, 'trucker.retry_initial_delay', '1 h');

	# it is started again at once, and dies before it has shown that it works
	$locker->query_safe('BEGIN; LOCK TABLE trucker.position');
	sql($terminate);
	ok( $node->poll_query_until('postgres', qq{
			SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'trucker stream' AND pid <> $pid AND wait_event_type = 'Lock'}),
		'a worker that dies is started again at once');
	sql($terminate);
	$locker->query_safe('COMMIT');
	$locker->quit;
	ok(wait_state($node, 't', 'starting'), 'one that dies again has to wait for a while');
	is(status('t', 'waiting_for'), '', 'which is not for want of a background worker');
	sql(q{SELECT trucker.start('t')});
	ok(caught_up($node, 't'), 'start() ends this pause, too');
	setting($node, 'trucker.retry_initial_delay', '100 ms');
}

# ----
# wait_for
# ----
is(psql_err($node, q{SELECT trucker.wait_for(NULL)}) =~ /ERROR:  (\w+)/ ? $1 : '', '22004', 'wait_for: no name');
is(psql_err($node, q{SELECT trucker.wait_for('t', timeout => NULL)}) =~ /ERROR:  (\w+)/ ? $1 : '', '22004', 'wait_for: no timeout');
like(psql_err($node, q{SELECT trucker.wait_for('t', timeout => '-1 s')}), qr/ERROR:  22023: argument "timeout" of wait_for must not be negative/, 'wait_for: less than no time');
is(sql(q{SELECT trucker.wait_for('t', NULL)}), 't', 'wait_for: no lsn means now');
is(sql(q{SELECT trucker.wait_for('t', '0/1')}), 't', 'wait_for: an lsn that has passed');
is(sql(q{SELECT trucker.wait_for('t', pg_current_wal_insert_lsn() + 1000000, '100 ms')}), 'f', 'wait_for: an lsn that has not come');
is(sql(q{SELECT trucker.wait_for('t', timeout => '0')}) =~ /^[tf]$/ ? 1 : 0, 1, 'wait_for: no time at all');
like(psql_err($node, q{SELECT trucker.wait_for('t', '0/1', '-1 s')}), qr/ERROR:  22023: argument "timeout" of wait_for must not be negative/, 'wait_for: even if there is nothing to wait for');
is(sql(q{SELECT trucker.wait_for('t', 'FFFFFFFF/FFFFFFFF', '0')}), 'f', 'wait_for: the end of all LSNs');
like(psql_err($node, q{SELECT trucker.wait_for('nosuch')}), qr/42704: truck "nosuch" does not exist/, 'wait_for: unknown truck');
{
	my $error = psql_err($node, q{BEGIN; INSERT INTO s VALUES (201); SELECT trucker.wait_for('t')});
	like($error, qr/25001: wait_for cannot be called in a transaction that has written\n/, 'wait_for: refused in a transaction that has written');
	like($error, qr/HINT:  COMMIT first\./, 'with a hint');
}
like(psql_err($node, q{BEGIN; SAVEPOINT x; INSERT INTO s VALUES (201); RELEASE x; SELECT trucker.wait_for('t')}), qr/25001/, 'also if a subtransaction has');
is(psql_err($node, q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM d; SELECT trucker.wait_for('t'); COMMIT}), '', 'wait_for: allowed in a transaction that has read');
{
	# somebody commits while it waits, and it still answers for what came before
	my $session = $node->background_psql('postgres');
	my $locker = $node->background_psql('postgres');

	mirror('blocked', 'SELECT pass(id) FROM r;', q{, options => '{"backfill": false}'});
	sql(q{SELECT trucker.start('blocked')});
	ok(caught_up($node, 'blocked'), 'a truck to be blocked');
	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	sql(q{INSERT INTO s VALUES (202, 'waited for')});
	$session->query_until(qr/waiting/, "\\echo waiting\nSELECT 'answer: ' || trucker.wait_for('blocked', timeout => '1 h');\n");
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT .answer' AND wait_event_type = 'Extension'});
	sql(q{INSERT INTO s VALUES (203, 'later')});
	$locker->query_safe('COMMIT');
	like($session->query_until(qr/answer: \w+/, "\n"), qr/answer: true/, 'wait_for returns as soon as it can say so');

	# a truck that is stopped meanwhile makes no progress: say so, do not wait
	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	sql(q{INSERT INTO s VALUES (204, 'blocked')});
	$session->query_until(qr/waiting/, "\\echo waiting\nSELECT 'answer: ' || trucker.wait_for('blocked', timeout => '1 h');\n");
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT .answer' AND wait_event_type = 'Extension'});
	my $offset = -s $node->logfile;
	sql(q{SELECT trucker.stop('blocked')});
	ok($node->wait_for_log(qr/ERROR:  truck "blocked" is stopped/, $offset), 'wait_for ends when its truck is stopped');
	eval { $session->quit; };
	ok(wait_state($node, 'blocked', 'stopped'), 'a blocked truck can be stopped');
	$locker->query_safe('COMMIT');
	$locker->quit;
	like(psql_err($node, q{SELECT trucker.wait_for('blocked')}), qr/55000: truck "blocked" is stopped\n.*HINT:  SELECT trucker\.start\('blocked'\);/s, 'wait_for: refused for a stopped truck');
	sql(q{SELECT trucker.drop_truck('blocked')});
	ok(caught_up($node, 't'), 'others have gone on');
}
{
	# cancelled like any query
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	my $offset = -s $node->logfile;

	$session->query_until(qr/waiting/, "\\echo waiting\nSELECT trucker.wait_for('t', 'FFFFFFFF/0', '1 h');\n");
	$node->poll_query_until('postgres', "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid");
	sql("SELECT pg_cancel_backend($pid)");
	ok($node->wait_for_log(qr/ERROR:  canceling statement due to user request/, $offset), 'wait_for can be cancelled');
	$session->query('SELECT 1');
	is($session->query(q{SELECT trucker.wait_for('t')}), 't', 'and called again');
	$session->quit;
}

# ----
# resync
# ----
# Readers see the old content or the new one, never anything between.  A backfill that
# is held up in its middle gives them the time to look.
sql(q{SELECT trucker.drop_truck('t')}, 'TRUNCATE d');
mirror('t', 'SELECT pass(id) FROM r;', q{, options => '{"reset_sql": "DELETE FROM d"}'});
sql(q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a truck with reset_sql');
sql(q{UPDATE d SET v = 'spoilt' WHERE id < 10; DELETE FROM d WHERE id BETWEEN 20 AND 30; INSERT INTO d VALUES (-1, 'foreign')});
my $spoilt = sql('SELECT md5(string_agg(d::text, $$,$$ ORDER BY id)) FROM d');
{
	my $locker = $node->background_psql('postgres');
	my $pid = $locker->query_safe('SELECT pg_backend_pid()');
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_replication_slots'), 'it has the only slot');
	my $slot = sql('SELECT slot_name FROM pg_replication_slots');
	my $position = status('t', 'position');

	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	sql(q{SELECT trucker.resync('t')});
	becomes('t', "state = 'backfill' AND waiting_for = 'pid $pid'", 'resync of a running truck: backfill');
	is(sql('SELECT md5(string_agg(d::text, $$,$$ ORDER BY id)) FROM d'), $spoilt, 'meanwhile readers see what was there');
	is(sql(q{SELECT trucker.wait_for('t', '0/1', '100 ms')}), 'f', 'the position is forgotten: not even what had come is said to be there');
	sql(q{INSERT INTO s VALUES (301, 'while it is loaded')});
	$locker->query_safe('COMMIT');
	ok(caught_up($node, 't'), 'resync ends');
	same($node, 'TABLE s', 'TABLE d', 'the destination is right, and what was foreign is gone');
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 AND bool_and(slot_name <> '$slot') FROM pg_replication_slots"), 'the old slot is gone, and there is a new one');
	$locker->quit;
}

# a reader that looks all the time
{
	my $reader = $node->background_psql('postgres');
	my $n = sql('SELECT count(*) FROM s');

	sql(q{CREATE TABLE seen (n bigint)});
	$reader->query_until(
		qr/looking/, qq{\\echo looking
DO \$\$BEGIN WHILE NOT EXISTS (SELECT FROM seen WHERE n = -1) LOOP
	INSERT INTO seen SELECT count(*) FROM d HAVING count(*) <> $n; COMMIT;
END LOOP; END\$\$;
});
	foreach (1 .. 3)
	{
		sql(q{SELECT trucker.resync('t')});
		ok(caught_up($node, 't'), 'resync while somebody looks');
	}
	sql('INSERT INTO seen VALUES (-1)');
	$reader->quit;
	is(sql('SELECT count(*), min(n) FROM seen WHERE n <> -1'), '0|', 'readers never see a table that is empty or half full');
}

# a stopped truck
sql(q{SELECT trucker.stop('t')});
wait_state($node, 't', 'stopped');
sql(q{INSERT INTO d VALUES (-2, 'foreign')}, q{SELECT trucker.resync('t')});
is(status('t', 'state'), 'stopped', 'resync of a stopped truck does not start it');
is(sql('SELECT count(*) FROM d WHERE id = -2'), '1', 'nor do anything else yet');
sql(q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'when it starts, it loads anew');
same($node, 'TABLE s', 'TABLE d', 'as resync has asked');

# rolled back
sql(q{INSERT INTO d VALUES (-3, 'foreign'); BEGIN; SELECT trucker.resync('t'); ROLLBACK});
ok(caught_up($node, 't'), 'a resync that is rolled back');
is(sql('SELECT count(*) FROM d WHERE id = -3'), '1', 'does nothing');

# a failing truck, and a reset_sql or backfill that fails
sql(q{SELECT trucker.drop_truck('t')}, 'TRUNCATE d', 'UPDATE divisor SET n = 1');
mirror('t', 'SELECT 1 / n FROM divisor, r WHERE r.id = 1;', q{, options => '{"reset_sql": "DELETE FROM d; INSERT INTO d SELECT -4, 1 / n FROM divisor"}'});
sql(q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a truck whose reset_sql may fail');
sql('UPDATE divisor SET n = 0', q{UPDATE s SET v = 'fails' WHERE id = 1});
ok(wait_state($node, 't', 'retrying'), 'failing');
my $content = 'SELECT md5(string_agg(d::text, $$,$$ ORDER BY id)) FROM d';
my $before = sql($content);
my $failed_at = status('t', 'last_error_at');
sql(q{SELECT trucker.resync('t')});
becomes('t', "state = 'retrying' AND last_error_at > '$failed_at'", 'resync of a failing truck whose reset_sql fails: retrying');
is(sql($content), $before, 'nothing of it is to be seen');
ok($node->poll_query_until('postgres', 'SELECT count(*) <= 1 FROM pg_replication_slots'), 'each attempt drops the slot of the one before');
sql('UPDATE divisor SET n = 1');
ok(caught_up($node, 't'), 'a fixed cause heals that, too');
same($node, q{TABLE s UNION ALL SELECT -4, '1'}, 'TABLE d', 'reset_sql has run once, all is there');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_replication_slots'), 'one slot is left');

# a lost truck
sql('ALTER TABLE s SET UNLOGGED');
ok(wait_state($node, 't', 'lost'), 'lost');
like(status('t', 'last_error'), qr/\S/, 'why is told');
ok( $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.truck_workers()}),
	'a lost truck has no worker, and nobody starts one in vain');
like(psql_err($node, q{SELECT trucker.start('t')}), qr/55000: truck "t" is lost.*HINT:  .*trucker\.resync\('t'\)/s, 'start() of a lost truck says what to do');
like(psql_err($node, q{SELECT trucker.wait_for('t')}), qr/55000: truck "t" is lost.*HINT:  .*trucker\.resync\('t'\)/s, 'so does wait_for');
sql('ALTER TABLE s SET LOGGED', q{SELECT trucker.resync('t')});
ok(caught_up($node, 't'), 'resync of a lost truck');
same($node, q{TABLE s UNION ALL SELECT -4, '1'}, 'TABLE d', 'the destination is right');
sql(q{SELECT trucker.drop_truck('t')}, 'TRUNCATE d');

# ----
# Options
# ----
mirror('t', '', q{, options => '{"backfill": false, "reset_sql": "DELETE FROM d"}'});
sql(q{INSERT INTO d VALUES (1, 'was there')}, q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'backfill: false');
is(sql('SELECT id, v FROM d'), '1|was there', 'no row that was there is loaded');
sql(q{UPDATE s SET v = 'from now on' WHERE id = 5; INSERT INTO s VALUES (401, 'from now on'); DELETE FROM s WHERE id = 1});
ok(caught_up($node, 't'), 'caught up');
is(sql('SELECT id, v FROM d ORDER BY id'), "5|from now on\n401|from now on", 'changes from now on are applied');
sql(q{SELECT trucker.resync('t')});
ok(caught_up($node, 't'), 'resync');
is(sql('SELECT count(*) FROM d'), '0', 'resync of such a truck runs reset_sql and loads nothing');
sql(q{SELECT trucker.drop_truck('t')});

sql(q{CREATE TABLE log (seq bigint GENERATED ALWAYS AS IDENTITY, operation text, id int, old_id int);
	CREATE TABLE nokey (id int);
	INSERT INTO nokey VALUES (1);
	SELECT trucker.create_truck('t', '{nokey,s}', $$INSERT INTO log (operation, id, old_id) SELECT meta__operation, id, old__id FROM r ORDER BY meta__seq$$,
		options => '{"inserts_only": true, "backfill": false}')}, q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'inserts_only');
sql(q{INSERT INTO nokey VALUES (2); INSERT INTO s VALUES (501, 'x'); UPDATE s SET id = 502 WHERE id = 501; DELETE FROM s WHERE id = 502; INSERT INTO nokey VALUES (3)});
ok(caught_up($node, 't'), 'caught up');
is(sql('SELECT operation, id, old_id FROM log ORDER BY seq'), "insert|2|\ninsert|501|\ninsert|3|", 'inserts only');
sql(q{SELECT trucker.drop_truck('t')});

# ----
# Settings
# ----
mirror('t', q{SELECT pg_sleep(1000) FROM r WHERE v = 'sleep';}, q{, options => '{"backfill": false}'});
sql('TRUNCATE d', q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a truck whose run may take long');
setting($node, 'trucker.run_timeout', '200 ms');
heeded('t');
sql(q{INSERT INTO s VALUES (601, 'sleep')});
becomes('t', q{last_error ~ '^57014: ' AND last_error ~ 'trucker\.run_timeout'}, 'trucker.run_timeout, reloaded: a run that takes longer is cancelled, and the error names the setting');
is(sql('SELECT count(*) FROM d WHERE id = 601'), '0', 'it has done nothing');
sql(q{SELECT trucker.stop('t')});
ok(wait_state($node, 't', 'stopped'), 'such a truck can be stopped');
sql(q{SELECT trucker.drop_truck('t')}, 'DELETE FROM s WHERE id = 601');
setting($node, 'trucker.run_timeout', '0');

mirror('t', q{SELECT pg_sleep(0.15) FROM r WHERE v = 'slow';}, q{, options => '{"backfill": false}'});
sql(q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a truck with slow runs');
{
	# slow($digits): on a busy machine any run may be slow, but none is logged that was not
	my $slow = sub { my ($digits) = @_; return qr/LOG:  slow run of truck "t": $digits ms for 1 rows? of table public\.s/ };
	my $run = sub {
		my ($id, $v) = @_;

		heeded('t');
		my $offset = -s $node->logfile;

		sql("INSERT INTO s VALUES ($id, '$v')");
		caught_up($node, 't');
		return slurp_file($node->logfile, $offset);
	};

	unlike($run->(602, 'slow'), $slow->('\d{1,3}'), 'trucker.slow_query_threshold: 1 s is the default');
	setting($node, 'trucker.slow_query_threshold', '100 ms');
	like($run->(603, 'slow'), $slow->('\d{3,}'), 'a run above the threshold is logged');
	unlike($run->(604, 'fast'), $slow->('\d{1,2}'), 'one below is not');
	setting($node, 'trucker.slow_query_threshold', '0');
	like($run->(605, 'fast'), $slow->('\d+'), '0 logs all');
	setting($node, 'trucker.slow_query_threshold', '-1');
	unlike($run->(606, 'slow'), $slow->('\d+'), '-1 logs none');
}
sql('ALTER SYSTEM RESET ALL', 'SELECT pg_reload_conf()');

like(psql_err($node, "ALTER SYSTEM SET $_ = 1"), qr/ERROR:  (?:42602|42704): .*"$_"/, "unknown setting $_ is refused")
  foreach 'trucker.no_such_setting', 'trucker.max_run_row';
like(psql_err($node, 'SET trucker.no_such_setting = 1'), qr/ERROR:  42602: .*"trucker\.no_such_setting"/, 'also in a session');
like(psql_err($node, "SET trucker.$_ = 1"), qr/ERROR:  55P02: parameter "trucker\.$_" cannot be changed now/, "trucker.$_ is the server's, not a session's")
  foreach 'max_run_rows', 'run_timeout', 'slow_query_threshold', 'replication_conninfo';
like(psql_err($node, "ALTER SYSTEM SET trucker.$_->[0] = '$_->[1]'"), qr/ERROR:  22023: /, "trucker.$_->[0] = $_->[1] is refused")
  foreach [ 'max_run_rows', '0' ], [ 'run_timeout', '-1' ], [ 'run_timeout', '5 kB' ], [ 'slow_query_threshold', '-2' ], [ 'retry_initial_delay', '0' ];
is(sql(q{SELECT string_agg(name, ' ') FROM pg_settings WHERE name ~ '^trucker\.' AND (coalesce(short_desc, '') = '' OR context = 'postmaster')}),
	'trucker.max_trucks', 'each setting has a description, and can be changed without a restart, but for the size of shared memory');

# ----
# Who sees what
# ----
sql(q{CREATE ROLE owner; CREATE ROLE member IN ROLE owner; CREATE ROLE stranger; CREATE ROLE monitor IN ROLE pg_monitor;
	GRANT EXECUTE ON FUNCTION trucker.create_truck TO owner;
	CREATE TABLE owned (id int PRIMARY KEY); ALTER TABLE owned OWNER TO owner;
	SET ROLE owner; SELECT trucker.create_truck('theirs', '{owned}', 'SELECT count(*) FROM r')});
is($node->safe_psql('postgres', "SET ROLE $_->[0]; SELECT string_agg(truck, ' ' ORDER BY truck) FROM trucker.status"), $_->[1], "$_->[0] sees in the status view what is his or hers")
  foreach [ 'owner', 'theirs' ], [ 'member', 'theirs' ], [ 'stranger', '' ], [ 'monitor', 't theirs' ];

unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|terminated by signal/, 'no crash in all of this');
$node->stop;

done_testing();
