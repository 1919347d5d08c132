# dry_run(): what a truck's next source transactions would do is what they then do; what
# would fail, fails with the same error.  And nothing is left behind, whatever ends it:
# no row, no slot, no moved position, here and at another server; also while the truck
# runs, and with both output plugins.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $node = trucker_node(
	'dry_run',
	init => { allows_streaming => 1 },
	conf => q{
log_line_prefix = '%m [%p] '
trucker.retry_max_delay = '200ms'
});
my $there = remote_node('dry_run_there');

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# The rows without what is another one each time.
sub tried
{
	my ($truck, $transactions, $columns) = @_;

	$columns //= 'outcome, input_table, inserts, updates, deletes, truncates, rows_in, rows_out, rows_inserted, rows_updated, rows_deleted, left(error, 5)';
	return sql("SELECT $columns FROM trucker.dry_run('$truck', $transactions)");
}

# All of a stopped truck's that a dry run could leave behind, or move.
sub left
{
	my ($truck) = @_;

	# the walsender of the last one may still be about to notice that nobody listens
	# and so may that of the truck's last worker
	$node->poll_query_until('postgres', qq{SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE temporary)
		AND NOT EXISTS (SELECT FROM trucker.truck AS t JOIN trucker.truck_state AS s ON s.truck_id = t.id JOIN trucker.stream AS x ON x.id = s.stream_id
			JOIN pg_replication_slots USING (slot_name) WHERE t.name = '$truck' AND active)
		AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'trucker dry run' OR application_name = 'trucker dry run')})
	  or diag 'a process or a slot of a dry run is left';
	return sql(qq{
SELECT confirmed_flush_lsn, p.*, s.* FROM trucker.truck AS t JOIN trucker.truck_state AS s ON s.truck_id = t.id
JOIN trucker.position AS p ON p.truck_id = t.id JOIN trucker.stream AS x ON x.id = s.stream_id
JOIN pg_replication_slots USING (slot_name) WHERE t.name = '$truck';
SELECT (SELECT count(*) FROM pg_replication_slots) = (SELECT count(slot_name) FROM trucker.stream),
	(SELECT count(*) FROM trucker.quarantined_transaction), (SELECT count(*) FROM trucker.destination)});
}

# ----
# It tells what then happens
# ----

sub counts
{
	my ($plugin) = @_;
	my $t = "i_$plugin";

	sql(qq{
CREATE TABLE $t (id int PRIMARY KEY, v text);
CREATE TABLE ${t}_more (id int PRIMARY KEY, v text);
CREATE TABLE ${t}_out (id int PRIMARY KEY, v text CHECK (v <> 'bad'));
CREATE TABLE ${t}_audit (id int);
CREATE FUNCTION ${t}_note() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN INSERT INTO ${t}_audit VALUES (NEW.id); RETURN NEW; END \$\$;
CREATE TRIGGER note AFTER INSERT ON ${t}_out FOR EACH ROW EXECUTE FUNCTION ${t}_note();
SELECT trucker.set_output_plugin('$t', '$plugin');
SELECT trucker.create_truck('$t', '{$t, ${t}_more}', input_sql => \$\$SELECT id, old__id, v FROM r WHERE v IS DISTINCT FROM 'unwanted'\$\$,
	output_sql => \$\$
	DELETE FROM ${t}_out AS o USING r WHERE o.id = r.old__id AND r.id IS DISTINCT FROM r.old__id;
	INSERT INTO ${t}_out SELECT id, v FROM r WHERE id IS NOT NULL
	ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$,
	options => '{"stream": "$t", "on_truncate": "run", "truncate_sql": "DELETE FROM ${t}_out WHERE id < 100"}');
SELECT trucker.start('$t')});
	ok(caught_up($node, $t), "$plugin: the truck runs");
	is(sql("SELECT plugin FROM pg_replication_slots AS s JOIN trucker.stream AS x USING (slot_name) WHERE x.name = '$t'"),
		$plugin, '... decoded by it');
	is(tried($t, 10), '', '... and has nothing to try');

	sql("SELECT trucker.stop('$t')");
	wait_state($node, $t, 'stopped');
	sql("INSERT INTO $t VALUES (1, 'a'), (2, 'b'), (3, 'unwanted')");
	sql(qq{
BEGIN;
UPDATE $t SET v = 'aa' WHERE id = 1;
DELETE FROM $t WHERE id = 2;
INSERT INTO ${t}_more VALUES (101, 'm'), (102, 'n');
UPDATE $t SET id = 4 WHERE id = 3;
COMMIT});
	sql("BEGIN; INSERT INTO $t VALUES (77, 'never'); ROLLBACK; CREATE TABLE ${t}_nobody (); INSERT INTO ${t}_nobody DEFAULT VALUES");
	sql("TRUNCATE $t");
	my $before = left($t);

	is(tried($t, 1), "applied|$t|3|0|0|0|3|2|4|0|0|", 'the next transaction: rows of input, of output, with those that a trigger writes');
	my $expected = "applied|$t|3|0|0|0|3|2|4|0|0|\n"
	  . "applied|$t|0|2|1|0|3|2|0|1|1|\napplied|${t}_more|2|0|0|0|2|2|4|0|0|\n"
	  . "applied|$t|0|0|0|1|0|0|0|0|1|";
	is(tried($t, 10), $expected, 'several: each behind the ones before it');
	is(tried($t, 10), $expected, '... as often as one likes');
	is( tried($t, 10, 'count(DISTINCT commit_lsn), bool_and(commit_lsn >= (SELECT lsn FROM trucker.position JOIN trucker.truck ON id = truck_id WHERE name = ' . "'$t'"
			  . ')), count(DISTINCT xid), bool_and(committed_at BETWEEN now() - interval \'1 h\' AND now())'),
		'3|t|3|t', '... with LSN, number and time');
	is(sql("SELECT (SELECT count(*) FROM ${t}_out), (SELECT count(*) FROM ${t}_audit)"), '0|0', 'nothing has been written');
	is(left($t), $before, '... slots and positions are where they were');

	# an error
	sql("INSERT INTO $t VALUES (5, 'good')");
	my $xid = sql("INSERT INTO $t VALUES (6, 'bad') RETURNING xmin");
	sql("INSERT INTO $t VALUES (7, 'behind')");
	$before = left($t);
	is( tried($t, 10, 'outcome, inserts, rows_inserted, left(error, 5)'),
		"applied|3|4|\napplied|0|0|\napplied|2|4|\napplied|0|0|\napplied|1|2|\nfails|1|0|23514",
		'it ends at the first transaction that fails');
	my $error = sql("SELECT error FROM trucker.dry_run('$t', 10) WHERE xid = $xid");
	like($error, qr/^23514: new row for relation "${t}_out" violates check constraint.*DETAIL: +Failing row contains \(6, bad\).*CONTEXT: .*truck "$t", run of 1 rows/s,
		'... with the error that the truck would stop with');
	is(left($t), $before, 'nothing is left behind an error');

	# now do it
	sql("SELECT trucker.start('$t')");
	ok($node->poll_query_until('postgres', "SELECT failed_lsn IS NOT NULL FROM trucker.status WHERE truck = '$t'"), 'the truck fails');
	is(sql("SELECT split_part(last_error, E'\\n', 1) FROM trucker.status WHERE truck = '$t'"), (split /\n/, $error)[0], '... with that error');
	is(sql("SELECT string_agg(id || v, ',' ORDER BY id) FROM ${t}_out"), '5good,101m,102n', '... behind what was told');
	is(tried($t, 10, 'xid, outcome'), "$xid|fails", 'a truck that fails: the very transaction');
	sql("ALTER TABLE ${t}_out DROP CONSTRAINT ${t}_out_v_check");
	ok(caught_up($node, $t), 'the cause is removed, and the truck goes on');
	is(tried($t, 10), '', '... past what had been tried');
	ok(wait_state($node, $t, 'streaming'), '... and streams');
	is(sql("SELECT last_error IS NULL OR last_error LIKE '23514%' FROM trucker.status WHERE truck = '$t'"), 't', '... and has met no other error');
	return;
}

counts($_) foreach qw(wal2json pgoutput);

# A truck that was altered to read what is not sent yet: tried by what it still is.
sql(q{
CREATE TABLE f (id int PRIMARY KEY, a int, b int);
CREATE TABLE f_out (id int, a int);
SELECT trucker.set_output_plugin('former', 'pgoutput');
SELECT trucker.create_truck('former', '{f}', output_sql => 'INSERT INTO f_out SELECT id, a FROM r', options => '{"stream": "former", "reset_sql": "TRUNCATE f_out"}');
SELECT trucker.start('former')});
ok(wait_state($node, 'former', 'streaming'), 'a truck reads two of three columns');
my $open = $node->background_psql('postgres');
$open->query_safe('BEGIN; INSERT INTO f VALUES (1, 1, 1)');
sql(q{SELECT trucker.alter_truck('former', output_sql => 'INSERT INTO f_out SELECT id, a / (b - b) FROM r')});
ok($node->poll_query_until('postgres', q{SELECT state LIKE '%are published, but%' FROM trucker.former_definitions}), '... is altered to read the third, which may be missing for a while');
sql(q{SELECT trucker.stop('former')});
wait_state($node, 'former', 'stopped');
sql('INSERT INTO f VALUES (2, 2, 2), (3, 3, 3)');
is(tried('former', 10, 'outcome, inserts, rows_inserted'), 'applied|2|2', '... and tried by its former definition');
$open->query_safe('COMMIT');
$open->quit;
sql(q{SELECT trucker.start('former')});
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), '... by which these are applied');
is(sql('SELECT string_agg(id || a::text, \' \' ORDER BY id) FROM f_out'), '11 22 33', '... all of them');
sql(q{SELECT trucker.stop('former')});
wait_state($node, 'former', 'stopped');
sql('INSERT INTO f VALUES (4, 4, 4)');
is(tried('former', 10, 'outcome, left(error, 5)'), 'fails|22012', '... then by the new one');

# ----
# What else is on the road
# ----

sub truck
{
	my ($name, $inputs, $output_sql, $options) = @_;

	sql("SELECT trucker.create_truck('$name', '{$inputs}', output_sql => \$\$$output_sql\$\$, options => '$options'); SELECT trucker.start('$name')");
	ok(caught_up($node, $name), "$name runs") or return;
	sql("SELECT trucker.stop('$name')");
	wait_state($node, $name, 'stopped');
	return;
}

# deferred constraints and triggers
sql(q{
CREATE TABLE d (id int PRIMARY KEY);
CREATE TABLE d_parent (id int PRIMARY KEY);
CREATE TABLE d_out (id int REFERENCES d_parent DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (id) DEFERRABLE)});
truck('d', 'd', 'INSERT INTO d_out SELECT id FROM r WHERE id > 0; INSERT INTO d_parent SELECT id FROM r WHERE id > 0 AND id < 10', '{}');
sql('INSERT INTO d VALUES (1); INSERT INTO d VALUES (2)');
sql('INSERT INTO d VALUES (11)');
is( tried('d', 10, 'outcome, input_table, rows_inserted, left(error, 5)'),
	"applied|d|2|\napplied|d|2|\nfails|d|1|\nfails|||23503" =~ s/\|\|\|23503/||0|23503/r,
	'what is deferred until the commit fails there, and not before');

# partitions, net changes, a renamed table and a renamed schema
sql(q{
CREATE SCHEMA s;
CREATE TABLE s.p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE s.p1 PARTITION OF s.p FOR VALUES FROM (0) TO (100);
CREATE TABLE s.p2 PARTITION OF s.p FOR VALUES FROM (100) TO (200);
ALTER TABLE s.p1 REPLICA IDENTITY FULL;
ALTER TABLE s.p2 REPLICA IDENTITY FULL;
CREATE TABLE p_out (id int, v int)});
foreach my $plugin (qw(wal2json pgoutput))
{
	sql("SELECT trucker.set_output_plugin('p_$plugin', '$plugin')");
	truck("p_$plugin", 's.p', 'INSERT INTO p_out SELECT coalesce(id, old__id), v FROM r', qq({"changes": "net", "stream": "p_$plugin"}));
}
sql(q{
BEGIN;
INSERT INTO s.p VALUES (1, 1), (2, 1), (101, 1);
UPDATE s.p SET v = v + 1;
DELETE FROM s.p WHERE id = 2;
COMMIT});
sql('ALTER TABLE s.p2 RENAME TO p_two; INSERT INTO s.p VALUES (102, 1)');
sql('BEGIN; ALTER SCHEMA s RENAME TO s2; INSERT INTO s2.p VALUES (103, 1); COMMIT');
sql('INSERT INTO s2.p VALUES (104, 1), (3, 1)');
foreach my $plugin (qw(wal2json pgoutput))
{
	is( tried("p_$plugin", 10, 'input_table, inserts, updates, deletes, rows_in, rows_inserted, error'),
		"s2.p|3|3|1|2|2|\ns2.p|1|0|0|1|1|\ns2.p|1|0|0|1|1|\ns2.p|2|0|0|2|2|",
		"$plugin: net changes of partitions, under the names that they had");
	sql("SELECT trucker.start('p_$plugin')");
	ok(caught_up($node, "p_$plugin"), '... which are applied');
}
is(sql('SELECT count(*), count(DISTINCT id) FROM p_out'), '12|6', '... all, each once');

# many runs, and unchanged TOAST values
sql(q{
CREATE TABLE b (id int PRIMARY KEY, v int, large text);
ALTER TABLE b ALTER COLUMN large SET STORAGE EXTERNAL;
CREATE TABLE b_out (id int PRIMARY KEY, v int, large text);
INSERT INTO b VALUES (0, 0, repeat('large', 2000))});
truck('b', 'b', 'INSERT INTO b_out SELECT id, v, large FROM r ON CONFLICT (id) DO UPDATE SET (v, large) = (excluded.v, excluded.large)', '{}');
sql(q{INSERT INTO b SELECT i, i, 'x' FROM generate_series(1, 50000) AS i});
sql(q{UPDATE b SET v = 1 WHERE id = 0});
is(tried('b', 10, 'outcome, inserts, updates, rows_in, rows_inserted, rows_updated, error'), "applied|50000|0|50000|50000|0|\napplied|0|1|1|0|1|",
	'a transaction of several runs, and a value that an update leaves out');
sql(q{INSERT INTO b VALUES (60000)});
sql(q{UPDATE b SET large = 'other' WHERE id = 0});
like(tried('b', 10, 'outcome, error'), qr/^applied\|\nfails\|55000: .*large/, '... and that is not there any more');

# quarantine, and a transaction that is to be skipped
sql(q{
CREATE TABLE q (id int PRIMARY KEY, v text);
CREATE TABLE q_out (id int PRIMARY KEY, v text CHECK (v <> 'bad'))});
truck('q', 'q', 'INSERT INTO q_out SELECT id, v FROM r ON CONFLICT (id) DO UPDATE SET v = excluded.v', '{"on_error": "quarantine"}');
sql(q{INSERT INTO q VALUES (1, 'bad')});
sql(q{SELECT trucker.start('q')});
ok(caught_up($node, 'q'), 'a transaction is put into quarantine');
sql(q{SELECT trucker.stop('q')});
wait_state($node, 'q', 'stopped');
sql(q{UPDATE q SET v = 'good' WHERE id = 1});
sql(q{INSERT INTO q VALUES (2, 'bad')});
my $before = left('q');
is(tried('q', 10, 'outcome, inserts, updates, rows_in, left(error, 5)'), "applied|0|1|0|\nfails|1|0|1|23514",
	'behind one in quarantine a change of the same row is put there, too');
is(left('q'), $before, '... but not by a dry run');

sql(q{
CREATE TABLE k (id int PRIMARY KEY);
CREATE TABLE k_out (id int CHECK (id <> 2))});
truck('k', 'k', 'INSERT INTO k_out SELECT id FROM r', '{}');
sql("INSERT INTO k VALUES ($_)") foreach 1 .. 3;
is(tried('k', 10, 'outcome'), "applied\nfails", 'which one of several transactions would fail');
my $fails = tried('k', 10, 'max(commit_lsn)');
sql(q{SELECT trucker.start('k')});
$node->poll_query_until('postgres', q{SELECT failed_lsn IS NOT NULL FROM trucker.status WHERE truck = 'k'});
is(sql(q{SELECT failed_lsn FROM trucker.status WHERE truck = 'k'}), $fails, '... is the one at which the truck fails');
sql(q{SELECT trucker.stop('k')});
wait_state($node, 'k', 'stopped');
sql("SELECT trucker.skip('k', '$fails')");
is(tried('k', 10, 'outcome, inserts, rows_in, error'), "skipped|1|0|\napplied|1|1|", 'a transaction that is to be skipped is');
sql(q{SELECT trucker.start('k')});
ok(caught_up($node, 'k'), '... as it is then');
is(sql('SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM k_out'), '1,3', '... and no other one');

# a run that takes too long
sql(q{
CREATE TABLE slow (id int PRIMARY KEY);
CREATE TABLE slow_out (id int)});
truck('slow', 'slow', 'INSERT INTO slow_out SELECT id FROM r, pg_sleep(1000)', '{}');
sql(q{INSERT INTO slow VALUES (1); ALTER SYSTEM SET trucker.run_timeout = '100ms'; SELECT pg_reload_conf()});
$node->poll_query_until('postgres', q{SELECT current_setting('trucker.run_timeout') = '100ms'});
like(tried('slow', 1, 'outcome, rows_in, error'), qr/^fails\|1\|57014: .*CONTEXT: .*trucker\.run_timeout/s, 'a run that takes longer than it may');
sql(q{ALTER SYSTEM RESET trucker.run_timeout; SELECT pg_reload_conf()});
sql(q{SELECT trucker.drop_truck('slow')});

# SQL that cannot be compiled any more
sql(q{SELECT trucker.stop('k')});
wait_state($node, 'k', 'stopped');
sql('INSERT INTO k VALUES (4); DROP TABLE k_out');
like(tried('k', 1, 'outcome, input_table, error'), qr/^fails\|k\|\nfails\|\|42P01: relation "k_out" does not exist/,
	'SQL that cannot be compiled: the error');

# ----
# Whose rights; who may ask
# ----

sql(q{
CREATE ROLE owner LOGIN;
CREATE ROLE other LOGIN;
CREATE ROLE runner;
GRANT runner TO owner;
ALTER ROLE runner SET client_min_messages = 'notice';
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO owner;
GRANT EXECUTE ON FUNCTION trucker.dry_run(text, integer) TO other;
CREATE TABLE w (id int PRIMARY KEY);
CREATE TABLE w_out (who text, session text);
CREATE SEQUENCE w_seq;
GRANT SELECT ON w TO owner, runner;
GRANT INSERT ON w_out TO runner;
GRANT USAGE ON SEQUENCE w_seq TO runner;
CREATE FUNCTION w_who() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM set_config('role', 'postgres', false);
	EXCEPTION WHEN others THEN
		RAISE NOTICE 'no way out: %', SQLERRM;
	END;
	PERFORM nextval('w_seq');
	RAISE NOTICE 'as %, %', current_user, session_user;
	RETURN current_user;
END $$;
SET SESSION AUTHORIZATION owner;
SELECT trucker.create_truck('w', '{w}', output_sql => 'INSERT INTO w_out SELECT w_who(), session_user FROM r', options => '{"role": "runner"}');
SELECT trucker.start('w')});
ok(caught_up($node, 'w'), 'a truck with a role');
sql(q{SELECT trucker.stop('w')});
wait_state($node, 'w', 'stopped');
sql('INSERT INTO w VALUES (1)');
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{SET SESSION AUTHORIZATION owner; SELECT outcome, rows_inserted FROM trucker.dry_run('w')});
is($stdout, 'applied|1', 'its owner may try it');
like($stderr, qr/as runner, runner/, '... with the rights of the role');
like($stderr, qr/no way out: cannot set parameter "role" within security-/, '... and no others');
is(sql('SELECT is_called FROM w_seq'), 't', 'what no rollback undoes: a sequence has been advanced');
like(psql_err($node, q{SET SESSION AUTHORIZATION other; SELECT * FROM trucker.dry_run('w')}),
	qr/42501: +must be owner of truck "w"/, 'nobody else may');
sql(q{CREATE ROLE nobody LOGIN});
like(psql_err($node, q{SET SESSION AUTHORIZATION nobody; SELECT * FROM trucker.dry_run('w')}),
	qr/42501: +permission denied for function dry_run/, '... and nobody to whom it is not granted');
sql('REVOKE SELECT ON w FROM runner');
like(tried('w', 1, 'outcome, error'), qr/42501: role "runner" may not read input table public\.w/, 'rights that have been revoked');
sql('GRANT SELECT ON w TO runner');

# ----
# Bad input
# ----

like(psql_err($node, "SELECT * FROM trucker.dry_run('w', $_)"), qr/22023: +argument "transactions" of dry_run must be from 1 to 10000.*HINT/s,
	"$_ transactions") foreach 0, 10001;
like(psql_err($node, q{SELECT * FROM trucker.dry_run('nix')}), qr/42704: +truck "nix" does not exist/, 'no such truck');
sql(q{SELECT trucker.create_truck('new', '{w}', output_sql => 'INSERT INTO w_out SELECT id::text FROM r')});
like(psql_err($node, q{SELECT * FROM trucker.dry_run('new')}), qr/55000: +truck "new" has no position yet.*HINT: .*trucker\.explain\('new'\)/s,
	'one that has not been loaded');

# ----
# The caller's transaction, and the truck's
# ----

like(psql_err($node, q{BEGIN; LOCK TABLE w_out; SELECT * FROM trucker.dry_run('w')}),
	qr/40P01: +deadlock detected.*HINT/s, 'it does not wait for ever for the caller\'s own locks');
is(sql(q{BEGIN READ ONLY; SELECT outcome FROM trucker.dry_run('w'); COMMIT}), 'applied', 'a caller that only reads');
is(sql(q{BEGIN; INSERT INTO w VALUES (2); SELECT outcome, inserts FROM trucker.dry_run('w', 10); ROLLBACK}), 'applied|1',
	'a caller that has written: that has not committed');
is(sql(q{SELECT count(*) FROM w_out}), 0, 'nothing is written');

sub stop_at
{
	my ($point) = @_;

	sql(defined $point ? "ALTER SYSTEM SET trucker.stop_point = '$point'" : 'ALTER SYSTEM RESET trucker.stop_point');
	$node->reload;
	$node->poll_query_until('postgres', 'SELECT current_setting($$trucker.stop_point$$) = $$' . ($point // '') . '$$');
	return;
}

# A dry run that has come to the point: its session, and its process.
sub begin_dry_run
{
	my ($truck, $point) = @_;
	my $log = -s $node->logfile;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	stop_at($point);
	$session->query_until(qr/begun/, "\\echo begun\nSELECT outcome FROM trucker.dry_run('$truck', 10);\n");
	$node->wait_for_log(qr/\[\d+\] LOG:  stop point "\Q$point\E" reached/, $log);
	my ($pid) = slurp_file($node->logfile, $log) =~ /\[(\d+)\] LOG:  stop point "\Q$point\E" reached/;
	return ($session, $pid);
}

# ended by whom
$before = left('w');
foreach my $point ('dry run: slot copied', 'dry run: tried')
{
	my ($session, $pid) = begin_dry_run('w', $point);
	# its walsender may still be about to notice that nobody listens
	ok($node->poll_query_until('postgres', 'SELECT count(*) = ' . ($point eq 'dry run: tried' ? 0 : 1) . ' FROM pg_replication_slots WHERE temporary'),
		"$point: " . ($point eq 'dry run: tried' ? 'the copy of the slot is gone' : 'there is a copy of the slot'));
	is(sql("SELECT backend_type FROM pg_stat_activity WHERE pid = $pid"), 'trucker dry run', '... and a process');
	sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%trucker.dry_run(%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'});
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), '... cancelled: the process ends');
	is(left('w'), $before, '... and nothing is left');
	stop_at();
	$session->quit;

	($session, $pid) = begin_dry_run('w', $point);
	sql("SELECT pg_cancel_backend($pid)");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), '... the process is cancelled');
	stop_at();
	$session->query_until(qr/done/, "\\echo done\n");
	like($session->{stderr}, qr/canceling statement due to user request/, '... which is the caller\'s error, and not the truck\'s');
	is(left('w'), $before, '... and nothing is left');
	$session->quit;

	($session, $pid) = begin_dry_run('w', $point);
	sql("SELECT pg_terminate_backend($pid)");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), '... the process is terminated');
	is(left('w'), $before, '... and nothing is left');
	stop_at();
	$session->quit;

	my $log = -s $node->logfile;
	($session, $pid) = begin_dry_run('w', $point);
	stop_at();
	$log = -s $node->logfile;
	my ($again, $second) = begin_dry_run('w', $point);
	kill 'KILL', $second;
	$node->wait_for_log(qr/database system is ready to accept connections/, $log);
	$node->poll_query_until('postgres', 'SELECT true');
	stop_at();
	# a slot that has only passed what was nobody's business may be found further back then
	is(left('w') =~ s/^\S+?\|//r, $before =~ s/^\S+?\|//r, '... after a crash, too');
	$before = left('w');
	$_->{run}->kill_kill foreach $session, $again;
}

# the truck goes on meanwhile
my ($session, $pid) = begin_dry_run('w', 'dry run: slot copied');
sql(q{SELECT trucker.start('w')});
ok(caught_up($node, 'w'), 'a truck goes on while it is tried');
stop_at();
$session->query_until(qr/done/, "\\echo done\n");
like($session->{stderr}, qr/truck "w" has itself applied meanwhile what was being tried/, '... which is noticed');
$session->quit;
is(sql('SELECT count(*) FROM w_out'), 1, '... and has applied it once');
is(tried('w', 10), '', 'a truck that streams has nothing to try');

# ----
# At another server
# ----

$there->safe_psql('postgres', q{
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE remote_out (id int PRIMARY KEY REFERENCES parent DEFERRABLE INITIALLY DEFERRED, v text CHECK (v <> 'bad'));
ALTER TABLE parent OWNER TO writer;
ALTER TABLE remote_out OWNER TO writer;
INSERT INTO parent SELECT generate_series(1, 20000)});
connect_remote($node, $there, 'warehouse');
sql(q{
CREATE TABLE m (id int PRIMARY KEY, v text);
SELECT trucker.create_truck('m', '{m}', input_sql => 'SELECT id, old__id, v FROM r', output_sql => $$
	DELETE FROM remote_out AS o USING r WHERE o.id = r.old__id AND r.id IS NULL;
	INSERT INTO remote_out SELECT id, v FROM r WHERE id IS NOT NULL ON CONFLICT (id) DO UPDATE SET v = excluded.v$$,
	output_connection => 'warehouse');
SELECT trucker.start('m')});
ok(caught_up($node, 'm'), 'a truck that writes elsewhere');
is(tried('m', 10), '', '... and streams: nothing to try');
sql(q{INSERT INTO m VALUES (1, 'x')});
ok(caught_up($node, 'm'), '... whose session there is not disturbed');
sql(q{SELECT trucker.stop('m')});
wait_state($node, 'm', 'stopped');
sql(q{INSERT INTO m VALUES (2, 'y'), (3, 'z')});
sql(q{BEGIN; UPDATE m SET v = 'xx' WHERE id = 1; DELETE FROM m WHERE id = 2; COMMIT});
sql(q{INSERT INTO m SELECT i, repeat('large', 20) FROM generate_series(100, 5000) AS i});
my $position = q{SELECT lsn, token, written_at FROM trucker_position.position};
my $schema = $there->safe_psql('postgres', q{SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'position'});
$position =~ s/trucker_position\./$schema./;
my $position_before = $there->safe_psql('postgres', $position);
$before = left('m');
is( tried('m', 10, 'outcome, inserts, updates, deletes, rows_in, rows_out, rows_inserted, rows_updated, rows_deleted, error'),
	"applied|2|0|0|2|2|2|0|0|\napplied|0|1|1|2|2|0|1|1|\napplied|4901|0|0|4901|4901|4901|0|0|",
	'what would change there, small runs and large ones');
sql(q{INSERT INTO m VALUES (30000, 'no parent')});
sql(q{INSERT INTO m VALUES (30001, 'bad')});
is(tried('m', 10, 'outcome, input_table, left(error, 5)'), "applied|m|\napplied|m|\napplied|m|\nfails|m|\nfails||23503",
	'what is deferred there fails at its transaction');
$there->safe_psql('postgres', 'INSERT INTO parent VALUES (30000), (30001)');
is(tried('m', 10, q{outcome, input_table, left(error, 5), error LIKE '%remote SQL: %INSERT INTO remote_out%'}),
	"applied|m||\napplied|m||\napplied|m||\napplied|m||\nfails|m|23514|t", 'an error there');
is(left('m'), $before, 'nothing is left here');
is($there->safe_psql('postgres', $position), $position_before, '... and the position there is whose it was');
is($there->safe_psql('postgres', 'SELECT string_agg(id || v, $$,$$) FROM remote_out'), '1x', '... nothing is written there');
sql(q{UPDATE m SET v = 'good' WHERE id = 30001});
$there->safe_psql('postgres', 'ALTER TABLE remote_out DROP CONSTRAINT remote_out_v_check');
sql(q{SELECT trucker.start('m')});
ok(caught_up($node, 'm'), '... the truck goes on');
same_remote($node, 'SELECT * FROM m', $there, 'SELECT * FROM remote_out', '... and writes each row once');
sql(q{SELECT trucker.stop('m')});
wait_state($node, 'm', 'stopped');
$there->safe_psql('postgres', "UPDATE $schema.position SET token = gen_random_uuid()");
like(psql_err($node, q{SELECT * FROM trucker.dry_run('m')}), qr/55000: +truck "m" cannot go on: another server has taken over its destination.*HINT: .*resync/s,
	'a truck that would be lost');
$there->stop;
like(psql_err($node, q{SELECT * FROM trucker.dry_run('m')}), qr/08\d\d\d: /, 'no server there');

# ----
# No room
# ----

sql(q{SELECT trucker.stop()});
ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM trucker.status WHERE state NOT IN ('stopped', 'lost', 'failed'))
	AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE active)
	AND (SELECT count(*) FROM pg_replication_slots) = (SELECT count(slot_name) FROM trucker.stream)}), 'all trucks rest, and no slot comes or goes');
sql('INSERT INTO w VALUES (10)');
my $slots = sql('SELECT count(*) FROM pg_replication_slots');
sql("ALTER SYSTEM SET max_replication_slots = $slots");
$node->restart;
like(psql_err($node, q{SELECT * FROM trucker.dry_run('w')}), qr/53400: +all replication slots are in use.*HINT/s, 'no slot is free');
sql('ALTER SYSTEM RESET max_replication_slots');
# the launchers of trucker and of the server
sql('ALTER SYSTEM SET max_worker_processes = 2');
$node->restart;
like(psql_err($node, q{SELECT * FROM trucker.dry_run('w')}),
	qr/53400: +no background worker is free.*HINT: .*max_worker_processes/s, 'no worker is free');
sql('ALTER SYSTEM RESET max_worker_processes');
$node->restart;
is(tried('w', 1, 'outcome'), 'applied', 'both are');

# on a standby
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('dry_run_standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
like(psql_err($standby, q{SELECT * FROM trucker.dry_run('w')}), qr/25006: +no SQL can be run on a standby server/, 'nothing is tried on a standby');
is($standby->safe_psql('postgres', q{SELECT count(*), count(plan) FROM trucker.explain('w')}), '1|1', '... but explain() tells there what it would do');
like($standby->safe_psql('postgres', q{SELECT trucker.graph()}), qr/"w<br\/>stopped"/, '... and graph()');
$standby->stop;

# no way on
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM trucker.stream JOIN trucker.truck_state ON stream_id = stream.id JOIN trucker.truck ON truck.id = truck_id WHERE truck.name = 'w'});
like(psql_err($node, q{SELECT * FROM trucker.dry_run('w')}),
	qr/55000: +truck "w" cannot go on: its replication slot "\w+" does not exist any more.*HINT: .*resync/s, 'a slot that is gone');

$node->stop;
done_testing();
