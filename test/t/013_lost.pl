# Nothing is skipped in silence.  What a truck cannot read any more (its slot is gone,
# was advanced or made anew; its input table was dropped, truncated or is no longer in the WAL) ends
# in a state that says so and what to do, and in no case in a destination that lacks
# changes and looks well.  What may pass (a failing SQL, no free WAL sender, a cancelled
# worker) is retried with growing pauses and heals by itself when the cause is gone.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'lost',
	init => { extra => [ '--no-locale', '--encoding=UTF8', '--wal-segsize=1' ] },
	conf => "min_wal_size = '2MB'\nmax_wal_size = '32MB'\ntrucker.retry_max_delay = '1s'\nautovacuum = off\ntrucker.max_truck_delay = '1min'\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# A table $name, a mirror of it $name_copy, and a truck $name from one to the other,
# which runs; on a stream of its own, if no other is named.
sub make
{
	my ($name, $stream) = @_;

	$stream //= $name;

	sql(qq{
CREATE TABLE $name (id int PRIMARY KEY, v int);
CREATE TABLE ${name}_copy (id int PRIMARY KEY, v int);
INSERT INTO $name SELECT n, n FROM generate_series(1, 10) AS n;
SELECT trucker.create_truck('$name', '{$name}', \$\$
	DELETE FROM ${name}_copy AS c USING r WHERE r.meta__operation <> 'insert' AND c.id = r.old__id;
	INSERT INTO ${name}_copy SELECT id, v FROM r WHERE meta__operation <> 'delete'
	ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$,
	options => '{"reset_sql": "TRUNCATE ${name}_copy", "stream": "$stream"}');
SELECT trucker.start('$name')});
	caught_up($node, $name) or die "$name does not run";
	return;
}

# A truck is stopped when its worker has let go of it; the WAL sender, if nobody else needs
# it, takes a moment longer to let go of the slot, and to free its place.
sub stop_truck
{
	my ($name) = @_;

	sql("SELECT trucker.stop('$name')");
	wait_state($node, $name, 'stopped') or die "$name does not stop";
	$node->poll_query_until('postgres', qq{
		SELECT NOT EXISTS (SELECT FROM trucker.stream AS x JOIN pg_replication_slots AS r USING (slot_name)
			WHERE r.active AND NOT EXISTS (SELECT FROM trucker.truck_state AS s WHERE s.stream_id = x.id AND s.enabled))
		AND (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender')
			= (SELECT count(*) FROM pg_replication_slots WHERE active)}) or die "the slot of $name stays in use";
	return;
}

sub slot_of
{
	my ($name) = @_;

	return sql("SELECT slot_name FROM trucker.stream WHERE name = '$name' AND slot_name IS NOT NULL");
}

sub last_error
{
	my ($name) = @_;

	return sql("SELECT last_error FROM trucker.status WHERE truck = '$name'");
}

# The truck is lost, for this reason, and says what helps; its destination has the
# content that it had ($copy: a query's result).  Nothing short of resync() makes it
# run; that does.
sub is_lost
{
	my ($name, $reason, $what, %opts) = @_;
	my $table = $opts{table} // $name;
	my $copy = "SELECT count(*), sum(v) FROM ${name}_copy";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_state($node, $name, 'lost'), "$what: lost") or return;
	like(last_error($name), qr/^55000: .*$reason.*\nHINT: .*trucker\.resync\('$name'\)/s,
		"$what: the reason, and what helps");
	is(sql($copy), $opts{copy}, "$what: the destination is as it was") if defined $opts{copy};
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "SELECT trucker.wait_for('$name')");
	like($stderr, qr/truck "$name" is lost.*HINT:.*trucker\.resync\('$name'\)/s, "$what: wait_for() says so");
	like(psql_err($node, "SELECT trucker.start('$name')"),
		qr/55000: truck "$name" is lost.*HINT:.*trucker\.resync\('$name'\)/s, "$what: start() refuses");
	sql(q{SELECT trucker.start()});
	is(sql("SELECT state FROM trucker.status WHERE truck = '$name'"), 'lost', "$what: start() of all leaves it alone");

	sql("SELECT trucker.resync('$name'); SELECT trucker.start('$name')");
	ok(caught_up($node, $name), "$what: resync() recovers it");
	same($node, "TABLE $table", "TABLE ${name}_copy", "$what: and loads the destination anew");
	sql("INSERT INTO $table VALUES (1000000 + (SELECT count(*) FROM $table), 0)");
	ok(caught_up($node, $name), "$what: changes flow again");
	same($node, "TABLE $table", "TABLE ${name}_copy", "$what: all of them");
	ok( $node->poll_query_until('postgres',
			q{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name ~ '^trucker_' AND slot_name NOT IN (SELECT slot_name FROM trucker.stream WHERE slot_name IS NOT NULL)}),
		"$what: and leaves no slot behind");
	return;
}

# Start a truck that is lost and does not know it yet.  A probe may have found out just
# now: then start() says so.
sub start_lost
{
	my ($name) = @_;
	my $error = psql_err($node, "SELECT trucker.start('$name')");

	$error =~ /ERROR:  55000: truck "$name" is lost/ or $error !~ /ERROR/ or die $error;
	return;
}

sub drop_truck
{
	my ($name) = @_;

	sql("SELECT trucker.drop_truck('$name')");
	return;
}

# ----
# The slot
# ----

make('slot');

# Terminates what holds the slot, as often as it comes back, until $then has worked.
sub grab_slot
{
	my ($then) = @_;
	my $slot = slot_of('slot');

	sql(qq{
DO \$\$
DECLARE
	deadline CONSTANT timestamptz := clock_timestamp() + interval '$PostgreSQL::Test::Utils::timeout_default s';
BEGIN
	WHILE clock_timestamp() < deadline LOOP
		BEGIN
			$then
			RETURN;
		EXCEPTION WHEN object_in_use THEN
			PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '$slot';
		END;
	END LOOP;
	RAISE 'the slot is in use all the time';
END
\$\$} =~ s/SLOT/'$slot'/gr);
	return;
}

stop_truck('slot');
sql('INSERT INTO slot VALUES (11, 11)');
sql("SELECT pg_drop_replication_slot('" . slot_of('slot') . "')");
start_lost('slot');
is_lost('slot', 'replication slot "trucker_\w+" does not exist', 'slot dropped under a stopped truck', copy => '10|55');

my $copy = sql('SELECT count(*), sum(v) FROM slot_copy');
grab_slot('PERFORM pg_drop_replication_slot(SLOT);');
sql('INSERT INTO slot VALUES (12, 12)');
is_lost('slot', 'replication slot "trucker_\w+" does not exist', 'slot dropped under a running truck', copy => $copy);

stop_truck('slot');
$copy = sql('SELECT count(*), sum(v) FROM slot_copy');
sql('INSERT INTO slot VALUES (13, 13)');
sql(q{SELECT pg_replication_slot_advance('} . slot_of('slot') . q{', pg_current_wal_lsn())});
start_lost('slot');
is_lost('slot', 'has been advanced', 'slot advanced while the truck was stopped', copy => $copy);

stop_truck('slot');
$copy = sql('SELECT count(*), sum(v) FROM slot_copy');
sql('INSERT INTO slot VALUES (14, 14)');
my $slot = slot_of('slot');
sql("SELECT pg_drop_replication_slot('$slot')");
sql("SELECT pg_create_logical_replication_slot('$slot', 'wal2json')");
start_lost('slot');
is_lost('slot', $slot, 'another slot of the same name', copy => $copy);

# What an administrator may do when a failing truck holds back the WAL: its slot is
# free between two attempts.
$copy = sql('SELECT count(*), sum(v) FROM slot_copy');
sql('ALTER TABLE slot_copy ADD CONSTRAINT no_15 CHECK (id <> 15)');
sql('INSERT INTO slot VALUES (15, 15)');
ok(wait_state($node, 'slot', 'retrying'), 'a truck fails');
grab_slot('PERFORM pg_replication_slot_advance(SLOT, pg_current_wal_lsn());');
sql('ALTER TABLE slot_copy DROP CONSTRAINT no_15');
is_lost('slot', 'has been advanced', 'slot advanced between two attempts', copy => $copy);

$copy = sql('SELECT count(*), sum(v) FROM slot_copy');
sql('ALTER TABLE slot_copy ADD CONSTRAINT no_16 CHECK (id <> 16)');
sql('INSERT INTO slot VALUES (16, 16)');
ok(wait_state($node, 'slot', 'retrying'), 'a truck fails');
$slot = slot_of('slot');
grab_slot('PERFORM pg_drop_replication_slot(SLOT);');
sql("SELECT pg_create_logical_replication_slot('$slot', 'wal2json')");
sql('ALTER TABLE slot_copy DROP CONSTRAINT no_16');
is_lost('slot', $slot, 'slot made anew between two attempts', copy => $copy);

# The same beside a crash of the server, as which everything that is remembered only
# in memory goes away.
sql('INSERT INTO slot VALUES (17, 17)');
ok(caught_up($node, 'slot'), 'all is well before the crash');
stop_truck('slot');
# where its slot stands must be known, and on disk, or nothing is left to compare it with
ok($node->poll_query_until('postgres', q{SELECT confirmed_lsn IS NOT NULL FROM trucker.stream WHERE name = 'slot'}),
	'the truck is stopped before the crash');
sql('CHECKPOINT');
$copy = sql('SELECT count(*), sum(v) FROM slot_copy');
$node->stop('immediate');
$node->start;
sql('INSERT INTO slot VALUES (18, 18)');
sql(q{SELECT pg_replication_slot_advance('} . slot_of('slot') . q{', pg_current_wal_lsn())});
start_lost('slot');
is_lost('slot', 'has been advanced', 'slot advanced after a crash', copy => $copy);

# A slot that the server has invalidated; while the truck is stopped, and while it is
# held by a lock, with its walsender at work.
sql(q{ALTER SYSTEM SET max_slot_wal_keep_size = '2MB'});
$node->reload;

sub let_wal_go
{
	my ($name) = @_;
	my $slot = slot_of($name);

	foreach (1 .. 12)
	{
		sql('CREATE TABLE scratch (); DROP TABLE scratch; SELECT pg_switch_wal()');
	}
	sql('CHECKPOINT');
	ok( $node->poll_query_until('postgres', "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '$slot'"),
		'the slot is invalidated');
	return;
}

stop_truck('slot');
$copy = sql('SELECT count(*), sum(v) FROM slot_copy');
sql('INSERT INTO slot VALUES (19, 19)');
let_wal_go('slot');
start_lost('slot');
is_lost('slot', 'max_slot_wal_keep_size', 'slot invalidated under a stopped truck', copy => $copy);

my $lock = $node->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE slot_copy IN SHARE MODE');
sql('INSERT INTO slot VALUES (20, 20)');
ok($node->poll_query_until('postgres', q{SELECT waiting_for IS NOT NULL FROM trucker.status WHERE truck = 'slot'}),
	'the truck waits for a lock');
let_wal_go('slot');
$lock->query_safe('COMMIT');
$lock->quit;
is_lost('slot', 'max_slot_wal_keep_size', 'slot invalidated under a running truck');

sql('ALTER SYSTEM RESET max_slot_wal_keep_size');
$node->reload;
stop_truck('slot');
drop_truck('slot');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots}),
	'a dropped truck leaves no slot');

# ----
# The input table
# ----

# A bystander on the same stream, which must not notice anything of what follows.
make('other', 'shared');
make('renamed', 'shared');

# A rename is followed (036_ddl.pl has more): no truck is lost by it.
sub is_followed
{
	my ($what, $ddl, $table) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $ddl);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("$rc$stderr", '0', "$what: without a warning");
	ok(caught_up($node, 'renamed'), "$what: the truck goes on");
	same($node, "TABLE $table", 'TABLE renamed_copy', "$what: with all changes");
	return;
}

is_followed('input table renamed', 'ALTER TABLE renamed RENAME TO anew; INSERT INTO anew VALUES (11, 11)', 'anew');
is_followed('input table renamed, written and renamed back',
	'BEGIN; ALTER TABLE anew RENAME TO other_name; INSERT INTO other_name VALUES (12, 12); ALTER TABLE other_name RENAME TO anew; COMMIT', 'anew');

stop_truck('renamed');
sql('ALTER TABLE anew RENAME TO renamed; INSERT INTO renamed VALUES (13, 13); ALTER TABLE renamed RENAME TO anew');
is_followed('the same while the truck is stopped', q{SELECT trucker.start('renamed')}, 'anew');

is_followed('input table moved to another schema',
	'CREATE SCHEMA elsewhere; ALTER TABLE anew SET SCHEMA elsewhere; INSERT INTO elsewhere.anew VALUES (14, 14)', 'elsewhere.anew');
is_followed('its schema renamed, and back',
	'ALTER SCHEMA elsewhere RENAME TO nowhere; INSERT INTO nowhere.anew VALUES (15, 15); ALTER SCHEMA nowhere RENAME TO elsewhere', 'elsewhere.anew');

# A swap, as schema migrations do it: the truck follows the table, not the name.
is_followed('another table under its name', 'CREATE TABLE elsewhere.swap (id int PRIMARY KEY, v int);
	BEGIN; ALTER TABLE elsewhere.anew RENAME TO gone; ALTER TABLE elsewhere.swap RENAME TO anew;
	INSERT INTO elsewhere.anew VALUES (77, 77); INSERT INTO elsewhere.gone VALUES (16, 16); COMMIT', 'elsewhere.gone');

ok(wait_state($node, 'renamed', 'streaming'), 'the truck is on its stream');
my $pid = worker_pid($node, 'renamed');
sql('BEGIN; ALTER TABLE elsewhere.gone RENAME TO never; INSERT INTO elsewhere.never VALUES (17, 17); ROLLBACK; INSERT INTO elsewhere.gone VALUES (18, 18)');
ok(caught_up($node, 'renamed'), 'a rename that is rolled back is none');
same($node, 'TABLE elsewhere.gone', 'TABLE renamed_copy', 'the truck goes on');
is(worker_pid($node, 'renamed'), $pid, 'without a restart');

# The hint for a table that is gone cannot be resync().
sub is_dropped
{
	my ($name, $what, $copy) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_state($node, $name, 'lost'), "$what: lost") or return;
	like(last_error($name), qr/input table.*dropped.*HINT: .*trucker\.alter_truck.*, then trucker\.resync\(\); or drop the truck/s, "$what: the reason, and what helps");
	is(sql("SELECT count(*), sum(v) FROM ${name}_copy"), $copy, "$what: the destination is as it was");
	isnt(psql_err($node, "SELECT trucker.start('$name')"), '', "$what: start() refuses");
	return;
}

sql('DROP TABLE elsewhere.gone');
is_dropped('renamed', 'input table dropped', sql('SELECT count(*), sum(v) FROM renamed_copy'));
drop_truck('renamed');

make('dropped', 'shared');
sql('INSERT INTO dropped VALUES (11, 11)');
ok(caught_up($node, 'dropped'), 'before the table is dropped');
sql('BEGIN; DROP TABLE dropped; CREATE TABLE dropped (id int PRIMARY KEY, v int); INSERT INTO dropped VALUES (5, 500); COMMIT');
is_dropped('dropped', 'input table dropped and made anew', '11|66');
drop_truck('dropped');
sql('DROP TABLE dropped, dropped_copy');

make('dropped', 'shared');
stop_truck('dropped');
sql('DROP TABLE dropped');
like(psql_err($node, q{SELECT trucker.start('dropped')}), qr/input table.*(dropped|not exist).*HINT: .*trucker\.drop_truck/s,
	'input table dropped while the truck is stopped: start() says so');
is(sql(q{SELECT count(*), sum(v) FROM dropped_copy}), '10|55', 'the destination is as it was');
drop_truck('dropped');

# The statement itself tells which trucks it is the end of, and why; and they are lost
# from its commit on, although nobody of trucker's has heard of it yet.
make('many', 'many');
sql(q{SELECT trucker.create_truck('many_' || n, '{many}', 'SELECT id FROM r', options => '{"stream": "many"}') FROM generate_series(1, 11) AS n;
	SELECT trucker.start()});
ok( $node->poll_query_until('postgres', q{SELECT count(*) = 12 FROM trucker.status WHERE truck ~ '^many' AND state = 'streaming' AND stream = 'many'}),
	'many trucks read a table');
my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker launcher'});
my $told;
kill 'STOP', $launcher;
$node->psql('postgres', 'DROP TABLE many', stderr => \$told);
is( sql(q{SELECT string_agg(DISTINCT state, ' ') FROM trucker.status WHERE truck ~ '^many'}),
	'lost', 'the table is dropped: all are lost at once');
kill 'CONT', $launcher;
my $why = 'input table public\.many has been dropped\.\n';
like($told, qr/WARNING:  trucks that read this table cannot go on\nDETAIL:  Truck "many": ${why}Truck "many_1": ${why}Truck "many_10": $why(?:Truck "many_\d+": $why){7}And 2 more\.\nHINT:/,
	'and its warning names them, but no endless list, with the reason');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck ~ '^many'; DROP TABLE many_copy});

# TRUNCATE: what came before is applied, and no more.
make('cut', 'shared');
sql('INSERT INTO cut VALUES (11, 11)');
sql('BEGIN; INSERT INTO cut VALUES (12, 12); TRUNCATE cut; INSERT INTO cut VALUES (1, -1); COMMIT');
sql('INSERT INTO cut VALUES (2, -2)');
ok( $node->poll_query_until('postgres',
		q{SELECT last_error ~ 'public\.cut has been truncated' FROM trucker.status WHERE truck = 'cut'}),
	'TRUNCATE of an input table is an error');
like(last_error('cut'), qr/^55000: .*\nHINT: .*trucker\.resync\('cut'\)/s, 'that says what helps');
# tried all together before, it is applied one by one after the error
ok($node->poll_query_until('postgres', q{SELECT count(*) >= 11 FROM cut_copy}), 'what came before is applied');
is(sql('SELECT count(*), sum(v) FROM cut_copy'), '11|66', 'and no more');
sql(q{SELECT trucker.resync('cut'); SELECT trucker.start('cut')});
ok(caught_up($node, 'cut'), 'resync() recovers the truck');
same($node, 'TABLE cut', 'TABLE cut_copy', 'and loads the destination anew');
drop_truck('cut');

sql('INSERT INTO other VALUES (11, 11)');
ok(caught_up($node, 'other'), 'the bystander goes on');
same($node, 'TABLE other', 'TABLE other_copy', 'with all changes');

# ----
# What passes
# ----

make('flaky');
my $flaky_pid = worker_pid($node, 'flaky');
my $offset = -s $node->logfile;
sql('ALTER TABLE flaky_copy ADD CONSTRAINT lucky CHECK (v <> 13)');
sql('INSERT INTO flaky VALUES (11, 11)');
my @lsn = $node->lsn('flush');
sql('INSERT INTO flaky VALUES (12, 13)');
push @lsn, $node->lsn('flush');
sql('INSERT INTO flaky VALUES (14, 14)');
ok(wait_state($node, 'flaky', 'retrying'), 'a truck whose SQL fails is retrying');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM flaky_copy WHERE id = 11}),
	'the transaction before the failing one is applied');
is(sql('SELECT count(*) FROM flaky_copy WHERE id > 11'), '0', 'none of those behind it is');
my $context = qr/CONTEXT: .*truck "flaky", run of 1 rows? of table public\.flaky, changes committed at ([0-9A-F]+\/[0-9A-F]+)/s;
ok( $node->poll_query_until('postgres', q{SELECT last_error ~ 'run of 1 rows?' FROM trucker.status WHERE truck = 'flaky'}),
	'it has found the very change');
like(last_error('flaky'), qr/^23514: new row for relation "flaky_copy" violates check constraint "lucky".*$context/s,
	'status tells SQLSTATE, message, table and LSN');
my ($at) = last_error('flaky') =~ $context;
is(sql("SELECT '$at'::pg_lsn BETWEEN '$lsn[0]' AND '$lsn[1]'"), 't', 'the LSN is the failing transaction\'s');
$node->wait_for_log(qr/ERROR:  .*violates check constraint "lucky".*\n(?:.*\n)*?.*$context/, $offset);
pass('so does the log, with a context');

# 100 ms, 200 ms, 400 ms, 800 ms, and no more than the 1 s that is set.
my $pause = q{next_retry_at - last_error_at};
ok($node->poll_query_until('postgres', "SELECT $pause > '700 ms' FROM trucker.status WHERE truck = 'flaky'"),
	'the pauses grow');
sql('INSERT INTO other VALUES (12, 12)');
ok(caught_up($node, 'other'), 'others do not wait for it');
# doubled without a limit, 800 ms would be followed by 1600
ok($node->poll_query_until('postgres', "SELECT $pause > '900 ms' AND $pause < '1500 ms' FROM trucker.status WHERE truck = 'flaky'"),
	'up to their limit, and no further');
is(sql(q{SELECT trucker.wait_for('flaky', timeout => '10 ms')}), 'f', 'wait_for() does not say that it has arrived');

sql('ALTER TABLE flaky_copy DROP CONSTRAINT lucky');
ok(caught_up($node, 'flaky'), 'the cause gone, it heals by itself');
same($node, 'TABLE flaky', 'TABLE flaky_copy', 'and has skipped nothing');
ok(wait_state($node, 'flaky', 'streaming'), 'it is streaming again');
is(sql(q{SELECT next_retry_at IS NULL FROM trucker.status WHERE truck = 'flaky'}), 't', 'and there is no next attempt');
is(worker_pid($node, 'flaky'), $flaky_pid, 'in the same process');

# Long ago is no reason to wait long: were the pauses still growing, the last one of
# these would be longer than anybody waits here.
sql(q{ALTER SYSTEM SET trucker.retry_max_delay = '1h'});
$node->reload;
my $before = sql('SELECT clock_timestamp()');
foreach my $round (1 .. 13)
{
	my $walsender = walsender_pid($node, 'flaky');

	sql("SELECT pg_terminate_backend($walsender)");
	sql("INSERT INTO flaky VALUES (100 + $round, 0)");
	ok(caught_up($node, 'flaky'), "terminated walsender $round: the truck goes on");
}
is(sql(qq{SELECT last_error_at > '$before' FROM trucker.status WHERE truck = 'flaky'}), 't', 'it has noticed');
sql(q{ALTER SYSTEM RESET trucker.retry_max_delay});
$node->reload;

# The wrong SQL itself, from the start on: its table is dropped under it.
sql('ALTER TABLE flaky_copy RENAME TO flaky_hidden; INSERT INTO flaky VALUES (15, 15)');
ok( $node->poll_query_until('postgres', q{SELECT state = 'retrying' AND last_error ~ '^42P01: relation "flaky_copy" does not exist' FROM trucker.status WHERE truck = 'flaky'}),
	'an output table that is gone: retrying');
sql('ALTER TABLE flaky_hidden RENAME TO flaky_copy');
ok(caught_up($node, 'flaky'), 'it is back: so is the truck');
same($node, 'TABLE flaky', 'TABLE flaky_copy', 'with all changes');

# A cancelled run.
$lock = $node->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE flaky_copy IN SHARE MODE');
my $lock_pid = $lock->query_safe('SELECT pg_backend_pid()');
sql('INSERT INTO flaky VALUES (16, 16)');
my $held = "SELECT waiting_for ~ '\\m$lock_pid\\M' FROM trucker.status WHERE truck = 'flaky'";
ok($node->poll_query_until('postgres', $held), 'a truck waits for a lock, and says whose');
sql("SELECT pg_cancel_backend($flaky_pid)");
ok( $node->poll_query_until('postgres', q{SELECT last_error ~ '^57014: ' FROM trucker.status WHERE truck = 'flaky'}),
	'pg_cancel_backend() of the worker is an error like any');
ok($node->poll_query_until('postgres', $held), 'the truck tries again');
$lock->query_safe('COMMIT');
$lock->quit;
ok(caught_up($node, 'flaky'), 'and succeeds');
same($node, 'TABLE flaky', 'TABLE flaky_copy', 'nothing was skipped');
is(worker_pid($node, 'flaky'), $flaky_pid, 'the worker has survived it');
drop_truck('flaky');

# ----
# No WAL sender is free
# ----

# While the truck pauses, others take all WAL senders; start() ends the pause.
sql(q{SELECT trucker.drop_truck('other'); ALTER SYSTEM SET max_wal_senders = 2; ALTER SYSTEM SET trucker.retry_initial_delay = '1h'; ALTER SYSTEM SET trucker.retry_max_delay = '1h'});
make('sender');
$node->restart;
ok(caught_up($node, 'sender'), 'a truck runs on a server with two WAL senders');
# its place is free only when the process has ended
is(sql('SELECT pg_terminate_backend(' . walsender_pid($node, 'sender') . ", $PostgreSQL::Test::Utils::timeout_default * 1000)"), 't',
	'its WAL sender is terminated');
ok( $node->poll_query_until('postgres', q{SELECT state = 'retrying' AND next_retry_at > now() + interval '50 min' FROM trucker.status WHERE truck = 'sender'}),
	'without one, it waits for the time that is set');
my @senders = map { $node->background_psql('postgres', replication => 'database', on_error_stop => 0) } 1 .. 2;
$_->query('IDENTIFY_SYSTEM') foreach @senders;
sql('INSERT INTO sender VALUES (11, 11)');
sql(q{ALTER SYSTEM SET trucker.retry_initial_delay = '50ms'; ALTER SYSTEM SET trucker.retry_max_delay = '200ms'});
$node->reload;
ok( $node->poll_query_until('postgres', q{SELECT setting = '200' FROM pg_settings WHERE name = 'trucker.retry_max_delay'}),
	'shorter pauses are set');
sql(q{SELECT trucker.start('sender')});
ok( $node->poll_query_until('postgres', q{SELECT state = 'retrying' AND last_error ~ 'max_wal_senders' FROM trucker.status WHERE truck = 'sender'}),
	'all WAL senders taken: retrying, and the error names the setting');
like(last_error('sender'), qr/^(53300|08001): .*max_wal_senders/s, 'with its SQLSTATE');
$_->quit foreach @senders;
ok(caught_up($node, 'sender'), 'one is free: the truck goes on by itself');
same($node, 'TABLE sender', 'TABLE sender_copy', 'and has skipped nothing');

# A truck that has yet to start is told at once.
stop_truck('sender');
@senders = map { $node->background_psql('postgres', replication => 'database', on_error_stop => 0) } 1 .. 2;
$_->query('IDENTIFY_SYSTEM') foreach @senders;
like(psql_err($node, q{SELECT trucker.start('sender')}), qr/53400: .*WAL sender.*HINT: .*max_wal_senders/s,
	'start() names the setting');
is(sql(q{SELECT state FROM trucker.status WHERE truck = 'sender'}), 'stopped', 'and has started nothing');
$_->quit foreach @senders;

unlike(slurp_file($node->logfile), qr/\bPANIC|terminated by signal|TRAP:/, 'no process has crashed');
$node->stop;

done_testing();
