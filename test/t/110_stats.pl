# What stat_truck, stat_stream and backfill_progress show is what has happened: each
# figure is compared with what the test knows it to be.  What was rolled back is not
# counted, counters outlive workers, others' figures are not shown, and looking at them
# all the time harms nobody.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $node = trucker_node('stats', conf => q{
autovacuum = off
trucker.max_trucks = 4
trucker.batch_memory = '64 kB'
});

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# truck($truck, $columns), stream($stream, $columns): of the views
sub truck
{
	my ($truck, $columns) = @_;

	return sql("SELECT $columns FROM trucker.stat_truck WHERE truck = '$truck'");
}

sub stream
{
	my ($stream, $columns) = @_;

	return sql("SELECT $columns FROM trucker.stat_stream WHERE stream = '$stream'");
}

# becomes($from, $condition, $test_name): a test that a view shows it, in the end
sub becomes
{
	my ($from, $condition, $test_name) = @_;
	my ($view) = $from =~ /^(\S+)/;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', "SELECT $condition FROM trucker.$from"), $test_name)
	  or diag sql("SELECT * FROM trucker.$view");
	return;
}

# stop point: set it, wait until it is reached, go on
sub stop_at
{
	my ($point) = @_;

	sql("ALTER SYSTEM SET trucker.stop_point = '$point'", 'SELECT pg_reload_conf()');
	return;
}

sql(q{
	CREATE TABLE s (id int PRIMARY KEY, v text);
	CREATE TABLE d (LIKE s INCLUDING ALL);
	CREATE TABLE divisor AS SELECT 1 AS n;
	CREATE TABLE gate ();
	CREATE FUNCTION pass(int) RETURNS int LANGUAGE plpgsql AS
		'BEGIN LOCK TABLE gate IN ROW SHARE MODE; RETURN $1; END';
	INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 2500) i});

# mirror($truck, $before, $options): a truck that mirrors s in d
sub mirror
{
	my ($truck, $before, $options) = @_;

	sql(qq{SELECT trucker.create_truck('$truck', '{s}', \$\$$before
		DELETE FROM d USING r WHERE r.meta__operation <> 'insert' AND d.id = r.old__id;
		INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$}
		  . ", options => '" . ($options // '{}') . "')");
	return;
}

# ----
# A backfill, and how far it is
# ----
mirror('t', 'SELECT pass(id) FROM r WHERE id = 1600;', '{"on_truncate": "run", "truncate_sql": "DELETE FROM d"}');
is(truck('t', 'rows_inserted, runs, stats_reset'), '||', 'a truck that has not run has a row without figures');
is(sql('SELECT count(*) FROM trucker.backfill_progress'), '0', 'nothing is being backfilled');
sql('ALTER SYSTEM SET trucker.max_run_rows = 1000', 'SELECT pg_reload_conf()');
{
	my $locker = $node->background_psql('postgres');

	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	sql(q{ANALYZE s; SELECT trucker.start('t')});
	# the run in which row 1600 is waits; it is executed when the next row has been read
	becomes(q{backfill_progress WHERE truck = 't'}, 'rows_done = 2000', 'a backfill that waits: how many rows it has read');
	is(sql(q{SELECT truck, input_table, table_number, tables, estimated_rows, percent, rows_per_second > 0, time_left > '0 s',
			time_left < '1 h', started_at <= now(), pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker backfill')
			FROM trucker.backfill_progress}),
		't|s|1|1|2500|80.0|t|t|t|t|t', 'and all the rest that there is to say');
	like(sql(q{SELECT application_name || ', ' || query FROM pg_stat_activity WHERE backend_type = 'trucker backfill'}),
		qr/^trucker t, backfill of truck "t": \d+ rows of table public\.s read$/, 'pg_stat_activity says what the process is at');
	ok($node->poll_query_until('postgres', q{SELECT (application_name, query) = ('trucker main', 'stream "main": waits for backfills') FROM pg_stat_activity WHERE backend_type = 'trucker stream'}),
		'and what its stream does');
	is(truck('t', 'rows_backfilled, runs, batches'), '0|0|0', 'nothing of it is counted as applied yet');
	$locker->query_safe('COMMIT');
	$locker->quit;
}
ok(caught_up($node, 't'), 'then it goes on');
is(sql('SELECT count(*) FROM trucker.backfill_progress'), '0', 'and is not shown any more');
is(truck('t', 'rows_inserted, rows_updated, rows_deleted, truncates, rows_backfilled, runs, batches, transactions, bytes, errors, retries, latency_p50_ms'),
	'0|0|0|0|2500|3|1|0|0|0|0|', 'a backfill: rows, runs, one batch, no source transaction, and no latency');
is(truck('t', 'decode_ms > 0, output_ms > 0, commit_ms > 0, stats_reset < now()'), 't|t|t|t', 'and the time that it took');
is(sql('SELECT count(*) FROM d'), '2500', 'all rows are there');

# ----
# Changes
# ----
sql(q{INSERT INTO s SELECT i, 'new' FROM generate_series(3001, 3700) i});
ok(caught_up($node, 't'), 'inserts');
sql(q{UPDATE s SET v = 'updated' WHERE id <= 300}, q{DELETE FROM s WHERE id BETWEEN 301 AND 350},
	'BEGIN; INSERT INTO s VALUES (4001); UPDATE s SET v = $$x$$ WHERE id = 4001; DELETE FROM s WHERE id = 4001; COMMIT',
	'BEGIN; INSERT INTO s VALUES (4002); ROLLBACK', 'CREATE TABLE other AS SELECT 1', 'TRUNCATE s', q{INSERT INTO s VALUES (1, 'again')});
ok(caught_up($node, 't'), 'updates, deletes, all in one, something rolled back, TRUNCATE');
is(truck('t', 'rows_inserted, rows_updated, rows_deleted, truncates, rows_backfilled, transactions, errors, retries'),
	'702|301|51|1|2500|6|0|0', 'each change is counted by kind, and each source transaction that had some');
is(truck('t', 'runs >= 5, batches BETWEEN 3 AND 7, bytes > 1055 * 10'), 't|t|t', 'runs, batches and bytes');
is(truck('t', 'latency_p50_ms > 0, latency_p50_ms <= latency_p95_ms, latency_p95_ms <= latency_p99_ms, latency_p99_ms < 60000'), 't|t|t|t', 'latencies');
is(stream('main', 'owner, received_transactions, received_changes, received_bytes > 1055 * 10, spills, reconnects, errors, decode_ms > 0'),
	'postgres|6|1055|t|0|0|0|t', 'what the stream has received');
# what the truck has written itself is WAL, too, and so is what the server writes now and then
becomes(q{stat_stream WHERE stream = 'main'}, 'lag_bytes = 0 AND lag_seconds = 0', 'and that it is not behind');
is(stream('main', q{plugin = (SELECT plugin FROM pg_replication_slots WHERE slot_name = s.slot_name),
	pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker stream'),
	walsender_pid = (SELECT pid FROM pg_stat_replication), stats_reset < now()} =~ s/s\.slot_name/trucker.stat_stream.slot_name/r), 't|t|t|t', 'with what, and by which processes');
ok($node->poll_query_until('postgres', q{SELECT (state, query, wait_event_type) = ('idle', 'truck "t": applies changes', 'Extension') FROM pg_stat_activity WHERE backend_type = 'trucker stream'}),
	'pg_stat_activity: the stream waits, and what it did last');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'trucker launcher' AND application_name = 'trucker launcher'}), '1', 'and there is the launcher');

# ----
# What is rolled back is not counted; errors and retries are
# ----
mirror('u', 'SELECT 1 / n FROM divisor, r WHERE r.v = $q$bad$q$;', '{"backfill": false, "stream": "u"}');
sql(q{SELECT trucker.start('u')});
ok(caught_up($node, 'u'), 'another truck');
sql('UPDATE divisor SET n = 0', q{INSERT INTO s SELECT i, 'bad' FROM generate_series(5001, 5010) i});
becomes(q{stat_truck WHERE truck = 'u'}, 'errors >= 3 AND retries >= 2', 'errors and retries are counted');
is(truck('u', 'rows_inserted, transactions, latency_p99_ms'), '0|0|', 'what was rolled back is not');
becomes(q{status WHERE truck = 'u'}, q{state = 'retrying' AND since < now() AND next_retry_at > last_error_at}, 'status: since when it is retrying, and until when');
sql('UPDATE divisor SET n = 1');
ok(caught_up($node, 'u'), 'the cause is removed');
is(truck('u', 'rows_inserted, transactions, errors - retries, latency_p99_ms > 0'), '10|1|0|t', 'then it is counted, once; each error was followed by a retry');
is(truck('t', 'errors, retries'), '0|0', 'another truck has none of it');
{
	my ($errors) = truck('u', 'errors');

	sql('UPDATE divisor SET n = 0', q{SELECT trucker.alter_truck('u', options => '{"on_error": "stop"}')}, q{INSERT INTO s VALUES (5011, 'bad')});
	ok(wait_state($node, 'u', 'failed'), 'on_error stop');
	is(truck('u', 'errors') - $errors, 1, 'one error more');
	is(sql(q{SELECT since = last_error_at FROM trucker.status WHERE truck = 'u'}), 't', 'status: since when it has failed');
	sql(q{SELECT trucker.drop_truck('u')});
}
is(truck('u', 'count(*)'), '0', 'a dropped truck is not shown');

# ----
# Source transactions that are skipped or put aside have not been applied
# ----
sql('UPDATE divisor SET n = 0');
mirror('q', 'SELECT 1 / n FROM divisor, r WHERE r.v = $q$bad$q$;', '{"backfill": false, "stream": "q", "on_error": "quarantine"}');
sql(q{SELECT trucker.start('q')});
ok(caught_up($node, 'q'), 'a truck with a quarantine');
sql(q{INSERT INTO s VALUES (6001, 'bad'), (6002, 'bad')}, q{INSERT INTO s VALUES (6003, 'good')});
ok(caught_up($node, 'q'), 'goes on without what fails');
is(truck('q', 'rows_inserted, transactions'), '1|1', 'what is in quarantine is not counted as applied');
sql('UPDATE divisor SET n = 1', q{SELECT trucker.retry_quarantined('q')});
becomes(q{stat_truck WHERE truck = 'q'}, 'rows_inserted = 3', 'when it is applied, its rows are counted');
is(truck('q', 'transactions'), '1', 'its latency is not: it says nothing about the truck');
sql(q{SELECT trucker.drop_truck('q')});

# ----
# Net changes; several trucks on one stream, and a batch that goes to disk
# ----
mirror('net', '', '{"backfill": false, "changes": "net"}');
sql('TRUNCATE s');
ok(caught_up($node, 't'), 'an empty table');
sql(q{SELECT trucker.start('net')});
ok(wait_state($node, 'net', 'streaming'), 'a truck that joins');
becomes(q{status WHERE truck = 'net'}, q{stream = 'main'}, 'the stream of the first');
sql('SELECT trucker.reset_stats()');
is(truck('t', 'rows_inserted, runs, batches, decode_ms, latency_p50_ms, stats_reset > now() - interval $$1 min$$'), '0|0|0|0||t', 'reset_stats(): all begins at zero');
is(stream('main', 'received_transactions, received_changes, spills'), '0|0|0', 'the stream\'s figures, too');
sql(q{BEGIN; INSERT INTO s SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i; UPDATE s SET v = 'y'; DELETE FROM s WHERE id > 500; COMMIT});
ok(caught_up($node, $_), "$_ has it") foreach 't', 'net';
is(truck($_, 'rows_inserted, rows_updated, rows_deleted, transactions, batches'), '2000|2000|1500|1|1', "$_: each change is counted, as the source made it") foreach 't', 'net';
is(truck('net', 'bytes'), truck('t', 'bytes'), 'the same bytes');
is(stream('main', 'received_transactions, received_changes, spills > 0'), '1|5500|t', 'the stream has received them once, and kept them on disk');
is(sql('SELECT count(*) FROM d'), '500', 'and they are right');
sql(q{SELECT trucker.reset_stats('t')});
is(truck('t', 'rows_inserted') . truck('net', 'rows_inserted'), '02000', 'reset_stats() of one truck leaves the others alone');
is(stream('main', 'received_changes'), '5500', 'and the stream');

# ----
# A worker that is killed; a server that is restarted
# ----
{
	my $reconnects = stream('main', 'reconnects');
	my $pid = stream_worker_pid($node, 'net');

	# what has not been confirmed the next worker would receive once more
	ok($node->poll_query_until('postgres', q{SELECT bool_and(confirmed_flush_lsn >= (SELECT max(lsn) FROM trucker.position)) FROM pg_replication_slots}), 'all is confirmed');
	sql("SELECT pg_terminate_backend($pid)");
	ok($node->poll_query_until('postgres', "SELECT pid <> $pid AND walsender_pid IS NOT NULL FROM trucker.stat_stream WHERE stream = 'main'"), 'another worker');
	sql(q{INSERT INTO s VALUES (9000)});
	ok(caught_up($node, 'net'), 'which goes on');
	is(truck('net', 'rows_inserted'), '2001', 'figures outlive workers');
	is(stream('main', 'received_changes'), '5501', 'also the stream\'s');
	cmp_ok(stream('main', 'reconnects'), '>', $reconnects, 'which tells of the new connection');
}
# stopped and started again: the same stream, and the same truck
sql(q{SELECT trucker.stop()});
ok(wait_state($node, $_, 'stopped'), "$_ is stopped") foreach 't', 'net';
is(truck('net', 'rows_inserted'), '2001', 'a stopped truck has its figures');
is(sql(q{SELECT since BETWEEN now() - interval '1 min' AND now() FROM trucker.status WHERE truck = 'net'}), 't', 'and status tells since when it is stopped');
sql(q{SELECT trucker.start('net')});
ok(caught_up($node, 'net'), 'and goes on');
is(stream('main', 'received_changes >= 5501'), 't', 'its stream, too');
$node->restart;
ok(caught_up($node, 'net'), 'a restart of the server');
is(truck('net', 'rows_inserted, stats_reset > pg_postmaster_start_time()'), '0|t', 'begins at zero, and says since when');
is(truck('t', 'rows_inserted'), '', 'a truck that has not run since has no figures');
sql(q{SELECT trucker.drop_truck('t')});

# ----
# More trucks than there is room for
# ----
{
	# four of them take the places; the one that has been stopped gives up its own
	mirror("m$_", '', qq({"backfill": false, "stream": "m$_"})) foreach 1 .. 4;
	foreach (1 .. 3)
	{
		sql("SELECT trucker.start('m$_')");
		ok(caught_up($node, "m$_"), "m$_ runs");
	}
	sql(q{INSERT INTO s VALUES (9001)});
	ok(caught_up($node, $_), "$_ has it") foreach 'net', 'm1', 'm2', 'm3';
	is(truck('m1', 'rows_inserted'), '1', 'a truck that runs has figures');
	my $offset = -s $node->logfile;
	sql(q{SELECT trucker.start('m4')});
	ok($node->wait_for_log(qr/ERROR:  more than 4 trucks shall run/, $offset), 'one too many waits');
	is(truck('m4', 'rows_inserted, stats_reset'), '|', 'and has no figures, rather than others\'');
	sql(q{SELECT trucker.stop('m1')});
	ok(wait_state($node, 'm1', 'stopped'), 'another one is stopped');
	sql(q{SELECT trucker.start('m4')});
	ok(caught_up($node, 'm4'), 'when another one is stopped it takes its place');
	sql(q{INSERT INTO s VALUES (9003)});
	ok(caught_up($node, 'm4'), 'a change');
	is(truck('m4', 'rows_inserted'), '1', 'with figures of its own');
	is(truck('m1', 'rows_inserted, stats_reset'), '|', 'whose figures are not shown any more');
	sql("SELECT trucker.drop_truck('m$_')") foreach 1 .. 4;
}

# ----
# Several tables, a partitioned one, tables that are added
# ----
sql(q{
	CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
	CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (9000);
	INSERT INTO p SELECT generate_series(1, 3000);
	CREATE TABLE one (id int PRIMARY KEY);
	INSERT INTO one VALUES (1);
	CREATE TABLE ids (id int);
	ANALYZE;
	SELECT trucker.create_truck('parts', '{one, p}', 'INSERT INTO ids SELECT pass(id) FROM r')});
{
	my $locker = $node->background_psql('postgres');

	stop_at('backfill: begun');
	sql(q{SELECT trucker.start('parts')});
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'trucker backfill'}), 'a backfill begins');
	$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
	stop_at('');
	# the one row of the first table is executed when the second one's first has been read
	becomes(q{backfill_progress WHERE truck = 'parts'}, q{input_table = 'p'::regclass AND table_number = 2 AND tables = 2 AND estimated_rows = 3000 AND rows_done = 0 AND percent = 0 AND time_left IS NULL},
		'the second of two tables, which is partitioned');
	sql(q{SELECT trucker.stop('parts')});
	becomes('backfill_progress', 'count(*) = 0', 'a backfill that is cancelled is not shown any more');
	$locker->query_safe('COMMIT');
	$locker->quit;
}
sql(q{SELECT trucker.start('parts')});
ok(caught_up($node, 'parts'), 'it is started again');
is(truck('parts', 'rows_backfilled, errors'), '3001|0', 'and each row is counted once');
sql(q{CREATE TABLE added (id int PRIMARY KEY); INSERT INTO added SELECT generate_series(1, 42)},
	q{SELECT trucker.alter_truck('parts', input_tables => '{one, p, added}')});
ok(caught_up($node, 'parts'), 'a table is added');
is(truck('parts', 'rows_backfilled'), '3043', 'its rows are counted as well');
sql(q{SELECT trucker.drop_truck('parts')});

# ----
# Who sees what, and may do what
# ----
sql(q{CREATE ROLE owner; CREATE ROLE member IN ROLE owner; CREATE ROLE stranger; CREATE ROLE monitor IN ROLE pg_monitor;
	GRANT EXECUTE ON FUNCTION trucker.create_truck, trucker.start, trucker.reset_stats TO owner;
	CREATE TABLE owned (id int PRIMARY KEY); ALTER TABLE owned OWNER TO owner; INSERT INTO owned VALUES (1);
	SET ROLE owner; SELECT trucker.create_truck('theirs', '{owned}', 'SELECT count(*) FROM r'); SELECT trucker.start('theirs')});
ok(caught_up($node, 'theirs'), 'a truck of another role');
becomes('stat_stream', 'count(*) = 2', 'and no streams but his and ours, as those of dropped trucks have gone');
foreach ([ 'owner', 'theirs', 'owner' ], [ 'member', 'theirs', 'owner' ], [ 'stranger', '', '' ], [ 'monitor', 'net theirs', 'owner postgres' ])
{
	my ($role, $trucks, $owners) = @$_;

	is(sql("SET ROLE $role; SELECT string_agg(truck, ' ' ORDER BY truck) FROM trucker.stat_truck"), $trucks, "$role sees the trucks: $trucks");
	is(sql("SET ROLE $role; SELECT string_agg(truck, ' ' ORDER BY truck) FROM trucker.truck_stats()"), $trucks, "$role: also past the view");
	is(sql("SET ROLE $role; SELECT string_agg(owner::text, ' ' ORDER BY owner::text) FROM trucker.stat_stream"), $owners, "$role sees the streams of: $owners");
}
like(psql_err($node, "SET ROLE owner; SELECT trucker.reset_stats('net')"), qr/ERROR:  42501: must be owner of truck "net"/, 'reset_stats() of another one\'s truck is refused');
like(psql_err($node, 'SET ROLE stranger; SELECT trucker.reset_stats()'), qr/ERROR:  42501: permission denied for function reset_stats/, 'not everybody may call it');
like(psql_err($node, "SET ROLE monitor; SELECT trucker.reset_stats('theirs')"), qr/ERROR:  42501: /, 'to look is not to reset');
like(psql_err($node, q{SELECT trucker.reset_stats('nobody')}), qr/ERROR:  42704: truck "nobody" does not exist.*HINT:/s, 'an unknown truck');
sql(q{INSERT INTO s VALUES (9002)});
ok(caught_up($node, 'net'), 'something to be seen');
is(sql('SET ROLE owner; SELECT trucker.reset_stats(); SELECT rows_backfilled FROM trucker.stat_truck'), "\n0", 'the owner resets his own');
cmp_ok(truck('net', 'rows_inserted'), '>', 0, 'and nobody else\'s');

# ----
# At another server
# ----
{
	my $target = remote_node('stats_target');

	connect_remote($node, $target, 'warehouse');
	$target->safe_psql('postgres', 'SET ROLE writer; CREATE TABLE d (id int PRIMARY KEY, v text)');
	sql(q{CREATE TABLE far (id int PRIMARY KEY, v text); INSERT INTO far VALUES (1, 'a'), (2, 'b');
		SELECT trucker.create_truck('far', '{far}', 'INSERT INTO d SELECT id, v FROM r', output_connection => 'warehouse'); SELECT trucker.start('far')});
	ok(caught_up($node, 'far'), 'a truck that writes to another server');
	sql(q{INSERT INTO far SELECT i, 'c' FROM generate_series(3, 12) i});
	ok(caught_up($node, 'far'), 'has applied changes');
	is(truck('far', 'rows_backfilled, rows_inserted, transactions, batches, runs, errors, commit_ms > 0, output_ms > 0, latency_p50_ms > 0'), '2|10|1|2|2|0|t|t|t', 'is counted likewise');
	is($target->safe_psql('postgres', 'SELECT count(*) FROM d'), '12', 'all is there');
	$target->safe_psql('postgres', 'INSERT INTO d VALUES (100)');
	sql(q{INSERT INTO far VALUES (100)});
	becomes(q{stat_truck WHERE truck = 'far'}, 'errors >= 2 AND rows_inserted = 10', 'what fails there is not counted as applied');
	sql(q{SELECT trucker.drop_truck('far')});
	$target->stop;
}

# ----
# Polled all the time, under load
# ----
{
	my $dir = PostgreSQL::Test::Utils::tempdir;

	append_to_file("$dir/load.sql", "\\set id random(20000, 900000)\nINSERT INTO s VALUES (:id) ON CONFLICT DO NOTHING;\n");
	append_to_file("$dir/poll.sql", "SELECT sum(rows_inserted) FROM trucker.stat_truck;\nSELECT sum(received_changes) FROM trucker.stat_stream;\n"
		. "SELECT count(*) FROM trucker.backfill_progress;\nSELECT count(*) FROM trucker.status;\n");
	sql('SELECT trucker.reset_stats()');
	my $before = sql('SELECT count(*) FROM s');
	my $load = spawn_pgbench($node, "$dir/load.out", "$dir/load.err", '-n', '-c', '2', '-t', '1500', '-f', "$dir/load.sql");
	my $poll = spawn_pgbench($node, "$dir/poll.out", "$dir/poll.err", '-n', '-c', '2', '-t', '200', '-f', "$dir/poll.sql");
	waitpid($load, 0);
	is($?, 0, 'the load has met no error') or diag slurp_file("$dir/load.err");
	waitpid($poll, 0);
	is($?, 0, 'nor have those who look') or diag slurp_file("$dir/poll.err");
	ok(caught_up($node, 'net'), 'the truck has caught up');
	my $inserted = sql('SELECT count(*) FROM s') - $before;
	is(truck('net', 'rows_inserted, transactions'), "$inserted|$inserted", "$inserted inserts, each counted once");
	is(truck('net', 'batches <= transactions'), 't', 'in batches');
}

is(join('', grep { /TRAP|PANIC|terminated by signal/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed');
$node->stop;

done_testing();
