# alter_truck(): a truck that runs is changed, and no change of the source is lost or
# applied twice.  Another SQL takes over between two source transactions; a table that
# is added is loaded alone, and shows at once as of the very point where the truck
# stands, whatever is killed meanwhile; a truck of another role or stream moves there.
# The other trucks of its stream notice nothing.
#
# In every state of the source that anybody can see, the sum of a's and b's values is
# the same.  So it must be at the destination once both are there, if whole
# transactions are.
#
# TRUCKER_SEED=n repeats the choices (not the load's timing).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();

my $node = trucker_node('alter', conf => q{
autovacuum_naptime = '1s'
max_prepared_transactions = 2
trucker.max_truck_delay = '1min'
});
my $load;

# sql($statements...): run them, without warnings; returns the last one's result
sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# becomes($truck, $condition, $test_name): a test that status shows it, in the end
sub becomes
{
	my ($truck, $condition, $test_name) = @_;
	my $good = $node->poll_query_until('postgres',
		"SELECT $condition FROM trucker.status WHERE truck = '$truck'");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good, $test_name) or diag sql('SELECT * FROM trucker.status');
	return $good;
}

# stop_at($point): the workers of trucks that stream must have read it before what comes next,
# which makes one of them come to it.  They are told before a new session sees it, and read it
# between batches.
sub stop_at
{
	my ($point) = @_;

	setting($node, 'trucker.stop_point', $point);
	caught_up($node, 'quiet') or die 'the worker does not go on';
	return;
}

# The process that carries a truck.
sub carrier
{
	my ($truck) = @_;
	my $query = "SELECT w.pid FROM trucker.truck_workers() AS w JOIN trucker.truck AS t ON t.id = w.truck_id WHERE t.name = '$truck'";

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($query) AS q") or die "nobody carries $truck";
	return sql($query);
}

# reaches($point, $do): from when $do is done (if given) a process comes to the stop point.
sub reaches
{
	my ($point, $offset) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(eval { $node->wait_for_log(qr/stop point "\Q$point\E" reached/, $offset); 1 }, "comes to: $point");
}

my %script = (
	transfer => q{
\set id random(1, 100)
\set jd random(1, 100)
\set amount random(-50, 50)
BEGIN;
UPDATE a SET v = v - :amount WHERE id = :id;
UPDATE b SET v = v + :amount WHERE id = :jd;
INSERT INTO ledger (client) VALUES (:client_id);
COMMIT;
},
	away => q{
\set id 1000 * (:client_id + 1) + random(1, 20)
BEGIN;
WITH gone AS (DELETE FROM a WHERE id = :id RETURNING v) INSERT INTO b SELECT :id, v FROM gone;
INSERT INTO ledger (client) VALUES (:client_id);
COMMIT;
},
	back => q{
\set id 1000 * (:client_id + 1) + random(1, 20)
BEGIN;
WITH gone AS (DELETE FROM b WHERE id = :id RETURNING v) INSERT INTO a SELECT :id, v FROM gone;
UPDATE c SET v = v + 1 WHERE id = 1 + :client_id;
COMMIT;
});

sub load_runs
{
	return if $load;
	my $dir  = $node->basedir;
	my @args = qw(-n -c 3 -T 36000 -R 300);

	foreach my $name (sort keys %script)
	{
		append_to_file("$dir/$name.sql", $script{$name}) unless -e "$dir/$name.sql";
		push @args, '-f', "$dir/$name.sql";
	}
	my $pid = spawn_pgbench($node, '/dev/null', "$dir/pgbench.err", @args);
	$load = bless { node => $node, pid => $pid, err => "$dir/pgbench.err" }, 'TruckerChaos::Load';
	return;
}

sub load_stops
{
	return unless $load;
	$load->stop or diag 'the load ended: ' . $load->errors;
	undef $load;
	return;
}

# kill -9 of a process that has come to a stop point: the server ends all its processes
# and starts again; with another stop point, if one is named.
sub crash
{
	my ($pid, $point) = @_;

	# it must not go on when the setting changes
	kill 'STOP', $pid or die "could not stop $pid: $!";
	setting($node, 'trucker.stop_point', $point // '');
	my $offset = -s $node->logfile;
	kill 'KILL', $pid or die "could not kill $pid: $!";
	$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
	$load->stop;
	undef $load;
	load_runs();
	return $offset;
}

# The SQL of a mirror: of several tables in one.
my $mirror = q{
	DELETE FROM copy AS d USING r WHERE r.meta__operation <> 'insert' AND (d.tab, d.id) = (r.meta__table, r.old__id);
	INSERT INTO copy SELECT meta__table, id, v FROM r WHERE meta__operation <> 'delete'
	ON CONFLICT (tab, id) DO UPDATE SET v = excluded.v};

sub summing
{
	my ($name) = @_;
	return qq{INSERT INTO $name AS t SELECT 1, sum(v), sum(n) FROM
			(SELECT v, 1 AS n FROM r WHERE meta__operation <> 'delete' UNION ALL SELECT -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
		ON CONFLICT (k) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n};
}

sub logging
{
	my ($version) = @_;
	return "INSERT INTO ledger_log (id, version) SELECT id, $version FROM r ORDER BY meta__seq";
}

# Is the mirror equal to these tables?
sub same_copy
{
	my ($name, @tables) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return same($node, join(' UNION ALL ', map { "SELECT 'public.$_' AS tab, id, v FROM $_" } @tables),
		'SELECT tab, id, v FROM copy', $name);
}

my $all = 'SELECT sum(v), sum(n) FROM (SELECT v, 1 AS n FROM a UNION ALL SELECT v, 1 FROM b) AS ab';

sql(q{
	CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL);
	CREATE TABLE b (LIKE a INCLUDING ALL);
	CREATE TABLE c (LIKE a INCLUDING ALL);
	ALTER TABLE a REPLICA IDENTITY FULL;
	ALTER TABLE b REPLICA IDENTITY FULL;
	CREATE TABLE ledger (id bigserial PRIMARY KEY, client int);
	INSERT INTO a SELECT n, n FROM generate_series(1, 100) AS n;
	INSERT INTO b SELECT n, 7 FROM generate_series(1, 100) AS n;
	INSERT INTO a SELECT 1000 * c + n, c + n FROM generate_series(1, 3) AS c, generate_series(1, 20) AS n;
	INSERT INTO c SELECT n, 0 FROM generate_series(1, 3) AS n;
	CREATE TABLE copy (tab text, id int, v int, PRIMARY KEY (tab, id));
	CREATE TABLE total (k int PRIMARY KEY, v bigint, n bigint);
	CREATE TABLE ledger_log (seq bigserial PRIMARY KEY, id bigint, version int);
	CREATE TABLE c_copy (LIKE c INCLUDING ALL)});
my $constant = sql($all);

foreach my $truck (
	[ 'copy',  '{a}',      $mirror ],
	[ 'total', '{a}',      summing('total') ],
	[ 'log',   '{ledger}', logging(1) ],
	[ 'quiet', '{c}',      'INSERT INTO c_copy SELECT id, v FROM r WHERE meta__operation <> \'delete\' ON CONFLICT (id) DO UPDATE SET v = excluded.v' ])
{
	sql("SELECT trucker.create_truck('$truck->[0]', '$truck->[1]', \$\$$truck->[2]\$\$)");
}
load_runs();
sql('SELECT trucker.start()');
ok(caught_up($node, $_), "$_ runs") foreach qw(copy total log quiet);
is(sql(q{SELECT count(DISTINCT stream_id) FROM trucker.truck_state}), 1, 'all on one stream');

# ----
# Another SQL
# ----

foreach my $version (2 .. 12)
{
	sql(qq{SELECT trucker.alter_truck('log', output_sql => '@{[ logging($version) ]}')});
	wal_passes($node, int(rand(30_000)));
	# most of them as fast as that; but a worker that has little time must not miss all of them
	next if $version % 3;
	$node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM ledger_log WHERE version = $version)") or die "version $version is not used";
}
ok(caught_up($node, 'log'), 'altered again and again');
is(sql(q{SELECT count(*) FROM ledger_log AS l JOIN ledger_log AS m ON m.seq = l.seq + 1 WHERE m.version < l.version}),
	0, 'what has been taken over does not come back');
cmp_ok(sql('SELECT count(DISTINCT version) FROM ledger_log'), '>', 3, 'several versions were at work');

# input_sql comes, and goes
sql(q{SELECT trucker.alter_truck('log', input_sql => 'SELECT id, 20 + (meta__operation = ''insert'')::int AS version FROM r ORDER BY meta__seq',
	output_sql => 'INSERT INTO ledger_log (id, version) SELECT id, version FROM r')},
	q{INSERT INTO ledger (client) VALUES (-1)});
ok(caught_up($node, 'log'), 'with an input_sql');
is(sql('SELECT version FROM ledger_log WHERE id = (SELECT max(id) FROM ledger WHERE client = -1)'), 21, '... which is at work');
sql(q{SELECT trucker.alter_truck('log', input_sql => '', output_sql => 'INSERT INTO ledger_log (id, version) SELECT id, 30 FROM r ORDER BY meta__seq')},
	q{INSERT INTO ledger (client) VALUES (-2)});
ok(caught_up($node, 'log'), 'without it');
is(sql('SELECT version FROM ledger_log WHERE id = (SELECT max(id) FROM ledger WHERE client = -2)'), 30, '... it is not');
is(sql(q{SELECT input_sql IS NULL FROM trucker.truck WHERE name = 'log'}), 't', '... nor stored');

# the search_path of the session that gives SQL
sql('CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.ledger_log (seq bigserial, id bigint, version int)',
	q{SET search_path = elsewhere; SELECT trucker.alter_truck('log', options => '{"on_error": "retry"}')},
	q{INSERT INTO ledger (client) VALUES (-3)});
ok(caught_up($node, 'log'), 'altered with another search_path, but no SQL');
is(sql('SELECT count(*) FROM elsewhere.ledger_log'), 0, '... which is not taken over');
sql(q{SET search_path = elsewhere; SELECT trucker.alter_truck('log', output_sql => 'INSERT INTO ledger_log (id, version) SELECT id, 1 FROM r')},
	q{INSERT INTO ledger (client) VALUES (-4)});
ok(caught_up($node, 'log'), 'and with SQL');
cmp_ok(sql('SELECT count(*) FROM elsewhere.ledger_log'), '>', 0, '... it is');
sql(q{SELECT trucker.alter_truck('log', output_sql => 'INSERT INTO ledger_log (id, version) SELECT id, 30 FROM r ORDER BY meta__seq')});

# rolled back, and prepared
sql(q{BEGIN; SELECT trucker.alter_truck('log', output_sql => 'DELETE FROM ledger_log'), trucker.alter_truck('log', '{a}'); ROLLBACK});
like(psql_err($node, q{BEGIN; SELECT trucker.alter_truck('log', '{a}'); PREPARE TRANSACTION 'x'}),
	qr/0A000: cannot PREPARE a transaction that has started, stopped, altered or dropped a truck/, 'PREPARE is refused');
ok(caught_up($node, 'log'), 'what is rolled back has not happened');

# two sessions take turns
my $first = $node->background_psql('postgres');
$first->query_safe(q{BEGIN; SELECT trucker.alter_truck('log', options => '{"toast": "current"}')});
my $second = $node->background_psql('postgres');
$second->query_until(qr/begin/, qq{\\echo begin\nSELECT trucker.alter_truck('log', options => '{"inserts_only": true}');\n});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%inserts_only%' AND pid <> pg_backend_pid()}),
	'a second session waits');
$first->query_safe('COMMIT');
$first->quit;
$second->query_safe('SELECT 1');
$second->quit;
is(sql(q{SELECT options FROM trucker.truck WHERE name = 'log'}), '{"toast": "current", "on_error": "retry", "inserts_only": true}', 'and both have altered');
sql(q{SELECT trucker.alter_truck('log', options => '{"toast": null, "on_error": null, "inserts_only": null, "backfill": null}')});
is(sql(q{SELECT options FROM trucker.truck WHERE name = 'log'}), '{}', 'null removes an option');

load_stops();
ok(caught_up($node, 'log'), 'log catches up');
same($node, 'SELECT id FROM ledger', 'SELECT id FROM ledger_log UNION ALL SELECT id FROM elsewhere.ledger_log', 'each row was appended once');

# ----
# A table more, a table less
# ----

load_runs();
sql(q{SELECT trucker.alter_truck('copy', '{a,b,c}')});
ok(caught_up($node, 'copy'), 'two tables added: the truck gets there');
load_stops();
ok(caught_up($node, 'copy'), '... and goes on');
same_copy('two tables were added', 'a', 'b', 'c');

load_runs();
sql(q{BEGIN; SELECT trucker.alter_truck('copy', '{c,a}'); DELETE FROM copy WHERE tab = 'public.b'; COMMIT});
ok(caught_up($node, 'copy'), 'one table removed: the truck goes on');
sql(q{DELETE FROM copy WHERE tab = 'public.b'});
load_stops();
ok(caught_up($node, 'copy'), '... and on');
same_copy('one table is not read any more', 'a', 'c');
sql(q{SELECT trucker.alter_truck('copy', '{b}')}, q{DELETE FROM copy WHERE tab <> 'public.b'});
ok(caught_up($node, 'copy'), 'all its tables replaced');
same_copy('the new one was loaded', 'b');
sql(q{SELECT trucker.alter_truck('copy', '{a,b,c}')});
ok(caught_up($node, 'copy'), 'others come again');
same_copy('and are loaded again', 'a', 'b', 'c');

# Meanwhile all others go on: the truck is alone where it waits.
load_runs();
sql(q{CREATE TABLE d (LIKE a INCLUDING ALL); INSERT INTO d SELECT n, n FROM generate_series(1, 500) AS n});
my $writer = $node->background_psql('postgres');
my $writer_pid = $writer->query_safe('BEGIN; SELECT pg_current_xact_id(); SELECT pg_backend_pid()') =~ s/.*\n//r;
sql(q{SELECT trucker.alter_truck('copy', '{a,b,c,d}')});
becomes('copy', "state = 'creating slot' AND waiting_for ~ '\\m$writer_pid\\M'", 'a slot waits for those who write, and status says for whom');
ok(caught_up($node, $_), "... $_ goes on") foreach qw(total log quiet);
sql(q{SELECT trucker.alter_truck('copy', '{a,b,c}')});
ok(caught_up($node, 'copy'), 'altered again, it waits no longer');
$writer->query_safe('ROLLBACK');
$writer->quit;
sql(q{SELECT trucker.alter_truck('copy', '{a,b,c,d}')});
ok(caught_up($node, 'copy'), 'and once more: the table is loaded');

# ----
# Killed over it
# ----

# The load of b goes into the very row that the truck has just written for a.
my $offset = -s $node->logfile;
stop_at('split: copied');
sql(q{SELECT trucker.alter_truck('total', '{a,b}')});
reaches('split: copied', $offset);
foreach my $point (map { "added tables: $_" } 'slot created', 'caught up', 'read', 'loaded', 'committed')
{
	# at the home, or wherever it is by now
	my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker stream' AND pid IN
		(SELECT w.pid FROM trucker.truck_workers() AS w JOIN trucker.truck AS t ON t.id = w.truck_id WHERE t.name = 'total')});
	if ($point =~ /slot created/)
	{
		isnt(sql('SELECT v, n FROM total'), $constant, 'not yet there');
	}
	$offset = crash($pid, $point);
	reaches($point, $offset);
	next if $point =~ /committed/;
	is(sql(q{SELECT state FROM trucker.status WHERE truck = 'total'}), 'backfill', "$point: status says what it does");
	isnt(sql('SELECT v, n FROM total'), $constant, "$point: nothing of it is to be seen");
	ok(caught_up($node, 'quiet'), "$point: others go on");
}
is(sql('SELECT v, n FROM total'), $constant, 'as soon as it has committed, the added table is in step with the other');
$offset = crash(carrier('total'));
ok(caught_up($node, 'total'), 'killed right after the commit, it goes on');
is(sql('SELECT v, n FROM total'), $constant, '... and has loaded it once');
is(sql(q{SELECT count(DISTINCT (v, n)) FROM (SELECT v, n FROM total UNION ALL SELECT sum(v), sum(n) FROM (SELECT v, 1 AS n FROM a UNION ALL SELECT v, 1 FROM b) AS ab) AS x}),
	1, '... in step');
sql(q{
	DO $$
	DECLARE
		seen int := 0;
		at pg_lsn := '0/0';
		now_at pg_lsn;
		sums bigint;
		good CONSTANT bigint := (SELECT sum(v) FROM (SELECT v FROM a UNION ALL SELECT v FROM b) AS ab);
	BEGIN
		WHILE seen < 30 LOOP
			SELECT p.lsn, t.v INTO now_at, sums FROM total AS t, trucker.position AS p JOIN trucker.truck AS k ON k.id = p.truck_id WHERE k.name = 'total';
			IF sums <> good THEN
				RAISE 'half a transaction: % instead of %', sums, good;
			END IF;
			seen := seen + (now_at > at)::int;
			at := now_at;
			COMMIT;
		END LOOP;
	END $$});
pass('whole transactions of both tables arrive');

# The connection that holds slot and snapshot
setting($node, 'trucker.stop_point', 'added tables: slot created');
$offset = -s $node->logfile;
sql('CREATE TABLE e (LIKE a INCLUDING ALL); INSERT INTO e SELECT n, -n FROM generate_series(1, 200) AS n; ALTER TABLE e REPLICA IDENTITY FULL',
	q{SELECT trucker.alter_truck('copy', '{a,b,c,d,e}')});
reaches('added tables: slot created', $offset);
is(sql(q{SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE temporary}), 1, 'its walsender is ended');
setting($node, 'trucker.stop_point', '');
ok(caught_up($node, 'copy'), 'then it begins anew');
load_stops();
ok(caught_up($node, 'copy'), 'copy catches up');
same_copy('all is there', 'a' .. 'e');

# ----
# From now on
# ----

# With "backfill": false a truck reads all that is committed after alter_truck() was,
# however busy it is, and nothing of before.
load_runs();
sql(q{CREATE TABLE later (id int, n int); CREATE TABLE later_copy (tab text, id int)},
	q{SELECT trucker.create_truck('now', '{a}', $$INSERT INTO later_copy SELECT meta__table, id FROM r WHERE meta__table LIKE '%now%'$$, options => '{"backfill": false}')},
	q{SELECT trucker.start('now')});
ok(caught_up($node, 'now'), 'now runs');
my @now = ('a');
foreach my $n (1 .. 8)
{
	push @now, "now_$n";
	sql("CREATE TABLE now_$n (id int PRIMARY KEY); INSERT INTO now_$n VALUES (1)");
	my $session = $node->background_psql('postgres');
	$session->query_safe(qq{SET client_min_messages = error; SELECT trucker.alter_truck('now', '{@{[ join ',', @now ]}}');
		INSERT INTO now_$n VALUES (2); INSERT INTO now_$n VALUES (3); UPDATE a SET v = v WHERE id = 1; INSERT INTO now_$n VALUES (4)});
	$session->quit;
}
ok(caught_up($node, 'now'), 'now catches up');
# (pgoutput reads it from where its publication can be relied upon)
my $published = ($ENV{TRUCKER_OUTPUT_PLUGIN} // '') eq 'pgoutput';
sql(join ';', map { "INSERT INTO now_$_ VALUES (9)" } 1 .. 8) if $published;
ok(caught_up($node, 'now'), 'and goes on');
my $from = $published ? 4 : 1;
same($node, join(' UNION ALL ', map { "SELECT 'public.now_$_', id FROM now_$_ WHERE id > $from" } 1 .. 8), "SELECT * FROM later_copy WHERE id > $from",
	'what is committed after it is read, from the first row on');

# the same while it is stopped
sql(q{SELECT trucker.stop('now')});
wait_state($node, 'now', 'stopped');
sql('CREATE TABLE now_9 (id int PRIMARY KEY); INSERT INTO now_9 VALUES (1)');
sql(qq{SELECT trucker.alter_truck('now', '{@{[ join ',', @now, 'now_9' ]}}')}, 'INSERT INTO now_9 VALUES (2)', q{SELECT trucker.start('now')});
ok(caught_up($node, 'now'), 'altered while stopped');
is(sql(q{SELECT string_agg(id::text, ' ') FROM later_copy WHERE tab = 'public.now_9'}), $published ? '' : '2', 'it reads from then on');

# ... and a table to be loaded: when it is started
sql(q{SELECT trucker.stop('copy')});
wait_state($node, 'copy', 'stopped');
sql(q{CREATE TABLE f AS TABLE e; ALTER TABLE f ADD PRIMARY KEY (id)}, q{SELECT trucker.alter_truck('copy', '{a,b,c,d,e,f}')},
	'INSERT INTO f VALUES (1000, 1)', q{SELECT trucker.start('copy')}, 'INSERT INTO f VALUES (1001, 1); DELETE FROM f WHERE id = 1');
ok(caught_up($node, 'copy'), 'a table was added while the truck was stopped');
load_stops();
ok(caught_up($node, 'copy'), 'copy catches up');
same_copy('it was loaded at the next start', 'a' .. 'f');

# ----
# What fails is the truck's own, and can be repaired
# ----

setting($node, 'trucker.retry_initial_delay', '1h');
setting($node, 'trucker.retry_max_delay', '1h');
load_runs();
sql(q{ALTER TABLE ledger_log ADD CHECK (version < 100)});
like(psql_err($node, q{SELECT trucker.alter_truck('log', output_sql => 'INSERT INTO nowhere SELECT id FROM r')}),
	qr/42P01: relation "nowhere" does not exist/, 'what start() would refuse is refused');
like(psql_err($node, q{SELECT trucker.alter_truck('log', '{ledger_log}')}), qr/42P17: truck "log" writes its own input table/, '... also a loop');
sql(qq{SELECT trucker.alter_truck('log', output_sql => '@{[ logging(100) ]}')});
becomes('log', q{state = 'retrying' AND last_error ~ 'check constraint' AND next_retry_at > now() + '10 min'}, 'SQL that fails: it will be tried again in an hour');
ok(caught_up($node, $_), "... $_ goes on") foreach qw(copy total quiet);
sql(qq{SELECT trucker.alter_truck('log', output_sql => '@{[ logging(31) ]}')});
ok(caught_up($node, 'log'), 'altered, it recovers at once');

sql(q{ALTER TABLE copy ADD CHECK (tab <> 'public.g')},
	q{CREATE TABLE g (LIKE a INCLUDING ALL); INSERT INTO g VALUES (1, 1)}, q{SELECT trucker.alter_truck('copy', '{a,b,c,d,e,f,g}')});
becomes('copy', q{state = 'retrying' AND last_error ~ 'check constraint'}, 'a load that fails is retried');
ok(caught_up($node, $_), "... $_ goes on") foreach qw(log total quiet);
sql(q{ALTER TABLE copy DROP CONSTRAINT copy_tab_check}, q{SELECT trucker.start('copy')});
ok(caught_up($node, 'copy'), 'with the cause removed, it is loaded');

# on_error stop
sql(qq{SELECT trucker.alter_truck('log', output_sql => '@{[ logging(100) ]}', options => '{"on_error": "stop"}')});
becomes('log', q{state = 'failed'}, 'with "on_error": "stop" it is stopped');
my ($rc, $out, $err) = $node->psql('postgres', qq{SELECT trucker.alter_truck('log', output_sql => '@{[ logging(32) ]}')});
like($err, qr/NOTICE:  truck "log" has failed, and stays stopped\nHINT:  SELECT trucker.start\('log'\);/, 'altered, it stays so');
sql(q{SELECT trucker.start('log')});
ok(caught_up($node, 'log'), 'until it is started');

load_stops();
ok(caught_up($node, $_), "$_ catches up") foreach qw(copy total log quiet);
same_copy('nothing was lost by that', 'a' .. 'g');
is(sql('SELECT v, n FROM total'), $constant, '... nor here');
same($node, 'SELECT id FROM ledger', 'SELECT id FROM ledger_log UNION ALL SELECT id FROM elsewhere.ledger_log', '... nor there');
setting($node, 'trucker.retry_initial_delay', '100ms');

# ----
# Another role, another stream
# ----

sql(q{CREATE ROLE carrier; CREATE ROLE driver; ALTER ROLE driver SET application_name = 'driven';
	CREATE TABLE who (id bigint, who name, how text);
	GRANT SELECT ON ledger TO carrier, driver; GRANT INSERT ON who TO carrier, driver; GRANT USAGE ON SCHEMA public TO carrier, driver;
	SELECT trucker.create_truck('who', '{ledger}', 'INSERT INTO who SELECT id, current_user, current_setting(''work_mem'') FROM r', options => '{"role": "carrier", "backfill": true}');
	SELECT trucker.start('who')});
ok(caught_up($node, 'who'), 'who runs');
load_runs();
sql(q{ALTER ROLE carrier SET work_mem = '1234kB'; ALTER ROLE driver SET work_mem = '4321kB'});
my $alone = sql('SELECT count(*) FROM pg_replication_slots');
foreach my $move (
	[ '{"role": "driver"}',                       'driver',   '4321kB' ],
	[ '{"role": "driver", "stream": "special"}',  'driver',   '4321kB' ],
	[ '{"role": null, "stream": null}',           'postgres', undef ],
	[ '{"role": "carrier", "stream": "special"}', 'carrier',  '1234kB' ])
{
	my ($options, $role, $work_mem) = @$move;

	sql(qq{SELECT trucker.alter_truck('who', options => '$options')}, 'INSERT INTO ledger (client) VALUES (-9)');
	ok(caught_up($node, 'who'), "$options: it gets there");
	is(sql('SELECT who FROM who WHERE id = (SELECT max(id) FROM ledger WHERE client = -9)'), $role, "$options: and runs as $role");
	is(sql('SELECT how FROM who WHERE id = (SELECT max(id) FROM ledger WHERE client = -9)'), $work_mem, "$options: with that role's settings")
	  if $work_mem;
	is(sql(q{SELECT x.run_as::regrole || ' ' || x.name FROM trucker.stream AS x JOIN trucker.truck_state AS s ON s.stream_id = x.id JOIN trucker.truck AS t ON t.id = s.truck_id WHERE t.name = 'who'}),
		"$role " . ($options =~ /special/ ? 'special' : 'main'), "$options: on a stream of that role and name");
}

# killed over it: leaving others
sql(q{SELECT trucker.alter_truck('who', options => '{"role": null, "stream": null}')});
ok(caught_up($node, 'who'), 'back at home');
becomes('who', q{stream = 'main'}, 'with the others');
stop_at('split: copied');
$offset = -s $node->logfile;
sql(q{SELECT trucker.alter_truck('who', options => '{"stream": "special"}')});
reaches('split: copied', $offset);
crash(carrier('quiet'));
ok(caught_up($node, 'who'), 'killed while it leaves, it gets there');
becomes('who', q{stream = 'special'}, 'special');

# while it is stopped: it moves when it is started
sql(q{SELECT trucker.stop('who')});
wait_state($node, 'who', 'stopped');
sql(q{SELECT trucker.alter_truck('who', options => '{"stream": null, "role": "driver"}'), trucker.start('who')});
ok(caught_up($node, 'who'), 'altered while stopped, it moves at the start');
becomes('who', q{stream = 'main'}, 'to its new home');

# failing, with no slot for another catch-up stream: the stream itself becomes another role's
setting($node, 'trucker.max_catchup_streams', '1');
sql(q{SELECT trucker.alter_truck('who', options => '{"role": null}')});
ok(caught_up($node, 'who'), 'who is postgres again');
becomes('who', q{stream = 'main'}, 'and at home');
sql(q{SELECT trucker.alter_truck('who', output_sql => 'INSERT INTO who SELECT id, (id / (current_user = ''driver'')::int)::text, ''x'' FROM r')});
becomes('who', q{state = 'retrying' AND stream = 'main (catch-up)' AND last_error ~ '22012'}, 'it fails, and has the only catch-up stream');
sql(q{SELECT trucker.alter_truck('who', options => '{"role": "driver"}')});
ok(caught_up($node, 'who'), 'another role heals it there');
like(psql_err($node, q{SELECT trucker.alter_truck('who', options => '{"role": "nobody"}')}), qr/42704: role "nobody" does not exist/, 'no such role');
setting($node, 'trucker.max_catchup_streams', '4');

load_stops();
ok(caught_up($node, 'who'), 'who catches up');
same($node, 'SELECT id FROM ledger', 'SELECT id FROM who', 'no row was lost or doubled on the way');

# ----
# In other states
# ----

# in its first backfill, which begins anew
my $blocker = $node->background_psql('postgres');
sql(q{CREATE TABLE firsts (id int, version int); CREATE TABLE gate ();
	CREATE FUNCTION pass(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN LOCK TABLE gate IN ROW SHARE MODE; RETURN $1; END'});
$blocker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
sql(q{SELECT trucker.create_truck('first', '{a}', 'INSERT INTO firsts SELECT id, pass(1) FROM r WHERE meta__operation = ''insert''')},
	q{SELECT trucker.start('first')});
becomes('first', q{state = 'backfill' AND waiting_for IS NOT NULL}, 'a first backfill');
sql(q{SELECT trucker.alter_truck('first', '{c}', 'INSERT INTO firsts SELECT id, pass(2) FROM r WHERE meta__operation = ''insert''', options => '{"stream": "special"}')});
becomes('first', q{state = 'backfill' AND waiting_for IS NOT NULL AND stream LIKE 'special%'}, 'altered in it');
sql(q{SELECT trucker.alter_truck('first', output_sql => 'INSERT INTO firsts SELECT id, pass(3) FROM r WHERE meta__operation = ''insert''')});
$blocker->query_safe('ROLLBACK');
$blocker->quit;
ok(caught_up($node, 'first'), 'and again: it gets there');
same($node, 'SELECT id, 3 FROM c', 'TABLE firsts', 'it has loaded what it was to load in the end');

# lost: without the table that is no more, it can be loaded anew
sql('CREATE TABLE brief (LIKE a INCLUDING ALL)', q{SELECT trucker.alter_truck('first', '{c,brief}')});
ok(caught_up($node, 'first'), 'with another table');
sql('DROP TABLE brief');
becomes('first', q{state = 'lost' AND last_error ~ 'alter_truck'}, 'which is dropped');
like(psql_err($node, q{SELECT trucker.alter_truck('first', output_sql => 'SELECT 1')}), qr/42P01: an input table of truck "first" \(OID \d+\) has been dropped/, 'it cannot keep that');
($rc, $out, $err) = $node->psql('postgres', q{SELECT trucker.alter_truck('first', '{c}', options => '{"reset_sql": "DELETE FROM firsts"}')});
like($err, qr/NOTICE:  truck "first" is lost, and stays so/, 'without it, it is still lost');
sql(q{SELECT trucker.resync('first')});
ok(caught_up($node, 'first'), 'until it is loaded anew');
same($node, 'SELECT id, 3 FROM c', 'TABLE firsts', '... which it is');

# all in one transaction
sql(q{BEGIN; SELECT trucker.alter_truck('first', '{a}'), trucker.stop('first'); SELECT trucker.drop_truck('first'); COMMIT});
is(sql(q{SELECT count(*) FROM trucker.status WHERE truck = 'first'}), 0, 'altered, stopped and dropped at once');

# a loop of trucks cannot be made by altering one, neither by its SQL nor by its inputs
sql('CREATE TABLE ring (id int PRIMARY KEY)', 'CREATE TABLE ring_copy (id int PRIMARY KEY)',
	q{SELECT trucker.create_truck('ring', '{ring}', 'INSERT INTO ring_copy SELECT id FROM r')}, q{SELECT trucker.start('ring')});
ok(caught_up($node, 'ring'), 'a truck that is no loop');
like(psql_err($node, q{SELECT trucker.alter_truck('ring', output_sql => 'INSERT INTO ring SELECT id FROM r')}),
	qr/42P17: truck "ring" writes its own input table public\.ring$/m, 'cannot be made to write what it reads');
like(psql_err($node, q{SELECT trucker.alter_truck('ring', '{ring,ring_copy}')}),
	qr/42P17: truck "ring" writes its own input table public\.ring_copy$/m, 'nor to read what it writes');
sql('INSERT INTO ring VALUES (1)');
ok(caught_up($node, 'ring'), 'and goes on as it was');
same($node, 'TABLE ring', 'TABLE ring_copy', '... with the SQL of before');
sql(q{SELECT trucker.stop('ring')}, q{SELECT trucker.drop_truck('ring')});

ok(caught_up($node, $_), "$_ still runs") foreach qw(copy total log quiet now who);
same($node, 'TABLE c', 'TABLE c_copy', 'quiet is equal to its table');
ok($node->poll_query_until('postgres', q{SELECT count(*) = (SELECT count(DISTINCT stream_id) FROM trucker.truck_state) FROM pg_replication_slots}),
	'there is a slot for each stream that is needed, and no other');
unlike(slurp_file($node->logfile), qr/truck "quiet" has (left|recovered)/, 'the one that was not altered has not noticed');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|is not an input of truck|changed by somebody else/, 'nothing odd is in the log');

$node->stop;
done_testing();
