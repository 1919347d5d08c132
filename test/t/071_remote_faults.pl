# Exactly once at another server, whatever is cut, killed, blocked or full, and
# whenever.  A proxy stands between the two servers; it cuts connections before, in and
# after COMMIT.  Totals that are kept by adding betray whatever is lost or doubled.
#
# TRUCKER_SEED=n repeats the choice of disasters (not the load's timing).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerRemote;
use TruckerTest;

seed();

my $source = trucker_node('source', conf => "wal_writer_delay = '1s'\n");
my $target = remote_node('target', conf => "max_connections = 20\n", init => ['--wal-segsize=1']);
my $proxy  = proxy($target);

connect_remote($source, $target, 'warehouse', port => $proxy->{port});

$source->safe_psql('postgres', q{
	CREATE TABLE account (id int PRIMARY KEY, grp int NOT NULL, val int NOT NULL);
	ALTER TABLE account REPLICA IDENTITY FULL;
	CREATE TABLE entry (id bigserial PRIMARY KEY, account int NOT NULL, amount int NOT NULL);
	INSERT INTO account SELECT n, n % 7, 100 FROM generate_series(1, 200) AS n;
	INSERT INTO entry (account, amount) SELECT n, 100 FROM generate_series(1, 200) AS n});

my $add = q{
	INSERT INTO total AS t SELECT grp, sum(val), sum(n)
	FROM (SELECT grp, val, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL SELECT old__grp, -old__val, -1 FROM r WHERE meta__operation <> 'insert') AS d
	GROUP BY grp ON CONFLICT (grp) DO UPDATE SET val = t.val + excluded.val, n = t.n + excluded.n};
my $append = q{INSERT INTO log (id, account, amount) SELECT id, account, amount FROM r ORDER BY meta__seq};

$target->safe_psql('postgres', q{
	CREATE TABLE total (grp int PRIMARY KEY, val bigint NOT NULL, n bigint NOT NULL);
	CREATE TABLE log (seq bigserial, id bigint, account int, amount int);
	GRANT ALL ON ALL TABLES IN SCHEMA public TO writer;
	GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO writer});
$source->safe_psql('postgres', qq{
	SELECT trucker.create_truck('total', '{account}', \$\$$add\$\$, output_connection => 'warehouse',
		options => '{"reset_sql": "DELETE FROM total"}');
	SELECT trucker.create_truck('log', '{entry}', \$\$$append\$\$, output_connection => 'warehouse');
	SELECT trucker.start()});

sub all_same
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck ('total', 'log')
	{
		return fail("$name: $truck catches up") unless caught_up($source, $truck);
	}
	my $good = same_remote($source, 'SELECT grp, sum(val) AS val, count(*) AS n FROM account GROUP BY grp',
		$target, 'SELECT grp, val, n FROM total WHERE n <> 0', "$name: totals are right");
	$good &= same_remote($source, 'SELECT id, account, amount FROM entry', $target, 'SELECT id, account, amount FROM log',
		"$name: each row was appended once");
	return $good;
}

my $load;

sub load_runs
{
	my $dir = $source->basedir;

	return if $load;
	open my $out, '>', "$dir/load.sql" or die $!;
	print $out q{
\set lo random(1, 100)
\set hi random(101, 200)
\set amount random(-50, 50)
\set new 1000 + random(1, 100) * 10 + :client_id
BEGIN;
UPDATE account SET val = val - (:amount), grp = random() * 6 WHERE id = :lo;
UPDATE account SET val = val + :amount WHERE id = :hi;
INSERT INTO account VALUES (:new, 3, :amount) ON CONFLICT (id) DO UPDATE SET val = account.val + 1;
DELETE FROM account WHERE id = :new AND :amount > 20;
INSERT INTO entry (account, amount) VALUES (:lo, 0 - :amount), (:hi, :amount);
COMMIT;
};
	close $out or die $!;
	$load = bless {
		node => $source, err => "$dir/load.err",
		pid => spawn_pgbench($source, '/dev/null', "$dir/load.err", '-n', '-c', '3', '-T', '3600', '-R', '150', '-f', "$dir/load.sql") },
	  'TruckerChaos::Load';
	return;
}

sub load_stops
{
	$load->stop if $load;
	undef $load;
	return;
}

ok(all_same('backfill'), 'the trucks run');

# ----
# The connection is cut before, in and after COMMIT
# ----

sub wait_for_cut
{
	my ($count) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $proxy->cuts >= $count;
		select undef, undef, undef, 0.1;
	}
	return 0;
}

load_runs();
foreach my $mode (shuffle(('before', 'in', 'after') x 3))
{
	my $cuts = $proxy->cuts;

	$proxy->mode($mode);
	ok(wait_for_cut($cuts + 1), "the connection was cut: $mode COMMIT");
}
load_stops();
all_same('connections cut around COMMIT');

# Each by itself, without a load: the outcome is known.
foreach my $mode ('before', 'in', 'after')
{
	my $cuts = $proxy->cuts;
	my $offset = -s $source->logfile;

	$proxy->mode($mode);
	$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (1, 1); UPDATE account SET val = val + 1 WHERE id = 1');
	ok(wait_for_cut($cuts + 1), "cut: $mode COMMIT");
	all_same("cut $mode COMMIT");
}

# ----
# Servers are killed under load
# ----

foreach my $round (1 .. 3)
{
	load_runs();
	wal_passes($source, 20_000 + int rand 200_000);
	disaster($target, 'kill -9 of the postmaster', 'none');
	wal_passes($source, 20_000 + int rand 50_000);
	load_stops();
	all_same("kill -9 of the destination, round $round");
}

foreach my $kind ('kill -9 of the worker', 'kill -9 of the postmaster', 'immediate shutdown')
{
	load_runs();
	wal_passes($source, 20_000 + int rand 200_000);
	disaster($source, $kind, 'log');
	load_stops();
	all_same($kind);
}

foreach my $point ('remote: before commit', 'remote: committed')
{
	my $offset = -s $source->logfile;

	$source->safe_psql('postgres', "ALTER SYSTEM SET trucker.stop_point = '$point'");
	$source->reload;
	$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (2, 2)');
	$source->wait_for_log(qr/stop point "\Q$point\E" reached/, $offset);
	my $pid = stream_worker_pid($source, 'log');
	$source->safe_psql('postgres', 'ALTER SYSTEM RESET trucker.stop_point');
	kill_server_process($source, $pid);
	$source->reload;
	all_same("kill -9 at \"$point\"");
}

# An error between the two commits: what is at the destination counts.
{
	my $offset = -s $source->logfile;

	$source->safe_psql('postgres', "ALTER SYSTEM SET trucker.stop_point = 'remote: committed'");
	$source->reload;
	$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (2, 2)');
	$source->wait_for_log(qr/stop point "remote: committed" reached/, $offset);
	my $pid = stream_worker_pid($source, 'log');
	$source->safe_psql('postgres', 'ALTER SYSTEM RESET trucker.stop_point');
	$source->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$source->reload;
	all_same('cancelled after the COMMIT there, before the one here');
}

# ----
# The destination refuses, blocks, hangs, is full
# ----

sub state_error
{
	my ($truck, $state, $error, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_state($source, $truck, $state);
	return ok($source->poll_query_until('postgres', "SELECT coalesce(last_error, '') ~ '$error' FROM trucker.status WHERE truck = '$truck'"), $name)
	  || diag $source->safe_psql('postgres', "SELECT state, last_error FROM trucker.status WHERE truck = '$truck'");
}

$target->safe_psql('postgres', 'ALTER ROLE writer CONNECTION LIMIT 0');
$target->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'});
$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (3, 3); UPDATE account SET val = 3 WHERE id = 3');
state_error('log', 'retrying', 'too many connections for role', 'no connection is free: the truck is tried again');
$target->safe_psql('postgres', 'ALTER ROLE writer CONNECTION LIMIT -1');
all_same('connections were exhausted');

# A lock: the one truck waits, and stops at once when it is told to.
my $locker = $target->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE log');
$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (4, 4); UPDATE account SET val = 4 WHERE id = 4');
ok(caught_up($source, 'total'), 'a lock there keeps one truck waiting, and not the other one');
ok($target->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'writer'}),
	'which waits for it');
$source->safe_psql('postgres', q{SELECT trucker.stop('log')});
ok(wait_state($source, 'log', 'stopped'), 'a truck that waits for a lock there can be stopped');
ok($target->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'writer'}),
	'and its session there ends');
$locker->query_safe('ROLLBACK');
$locker->quit;
$source->safe_psql('postgres', q{SELECT trucker.start('log')});
all_same('a lock is gone');

# A network that swallows all: stop and shutdown do not wait.
$proxy->mode('hang');
$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (5, 5); UPDATE account SET val = 5 WHERE id = 5');
wait_state($source, 'log', [ 'streaming', 'retrying', 'catch-up' ]);
$source->safe_psql('postgres', q{SELECT trucker.stop('log')});
ok(wait_state($source, 'log', 'stopped'), 'a truck whose destination does not answer can be stopped');
$source->stop('fast');
$source->start;
my $error = psql_err($source, q{SET statement_timeout = '1s'; SELECT trucker.start('log')});
like($error, qr/57014/, 'start() can be cancelled while it connects');
$source->stop('smart');
pass('a smart shutdown does not wait for a destination that does not answer');
$source->start;
$proxy->mode('pass');
$source->safe_psql('postgres', q{SELECT trucker.start('log')});
all_same('the network is back');

$proxy->mode('refuse');
$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (6, 6); UPDATE account SET val = 6 WHERE id = 6');
state_error('log', 'retrying', '08', 'nobody answers: the truck is tried again');
$proxy->mode('pass');
all_same('the destination is back');

# Its disk is full.  (A limit of the process on the size of files: the server sees
# what it sees when there is no room.)
$target->stop;
{
	my $data = $target->data_dir;
	my $log = $target->logfile;
	my $bin = $target->installed_command('pg_ctl');

	system('bash', '-c', "ulimit -f 4004; exec $bin -w -D '$data' -l '$log' start >/dev/null") == 0 or die 'pg_ctl';
	$target->_update_pid(1);
}
$source->safe_psql('postgres', q{INSERT INTO entry (account, amount) SELECT 7, n FROM generate_series(1, 120000) AS n});
state_error('log', 'retrying', '53100', 'the disk there is full: the truck is tried again');
$target->stop;
$target->start;
all_same('the disk is not full any more');

# An error there comes over whole.
$target->safe_psql('postgres', q{ALTER TABLE log ADD CONSTRAINT no_13 CHECK (amount <> 13131313)});
$source->safe_psql('postgres', 'INSERT INTO entry (account, amount) VALUES (7, 13131313)');
wait_state($source, 'log', 'retrying');
$source->poll_query_until('postgres', q{SELECT last_error ~ '^23514' FROM trucker.status WHERE truck = 'log'});
like($source->safe_psql('postgres', q{SELECT last_error FROM trucker.status WHERE truck = 'log'}),
	qr/^23514: new row for relation "log" violates check constraint "no_13"\nDETAIL: Failing row contains .*, 7, 13131313\)\.\nCONTEXT: .*remote SQL: INSERT INTO log/s,
	'an error comes over with SQLSTATE, detail and the SQL');
$target->safe_psql('postgres', q{ALTER TABLE log DROP CONSTRAINT no_13});
all_same('the constraint is gone');

# ----
# A backfill whose COMMIT is not known
# ----

sub backfill_cut
{
	my ($truck, $mode) = @_;
	my $cuts = $proxy->cuts;

	$source->safe_psql('postgres', "SELECT trucker.stop(); SELECT trucker.resync('$truck')");
	wait_state($source, $_, 'stopped') foreach 'total', 'log';
	$target->safe_psql('postgres', 'TRUNCATE log') if $truck eq 'log';
	$proxy->mode($mode);
	$source->safe_psql('postgres', "SELECT trucker.start('$truck')");
	ok(wait_for_cut($cuts + 1), "backfill of $truck: cut $mode COMMIT");
	return;
}

backfill_cut('total', 'after');
$source->safe_psql('postgres', q{SELECT trucker.start('log')});
all_same('a backfill with reset_sql, its COMMIT unknown');
backfill_cut('log', 'before');
$source->safe_psql('postgres', q{SELECT trucker.start('total')});
all_same('a backfill that was not committed');
backfill_cut('log', 'after');
state_error('log', 'lost', 'its backfill was committed at its destination', 'without reset_sql the truck is lost, and nothing is there twice');
same_remote($source, 'SELECT id, account, amount FROM entry', $target, 'SELECT id, account, amount FROM log', 'what was committed is there, once');
$target->safe_psql('postgres', 'TRUNCATE log');
$source->safe_psql('postgres', q{SELECT trucker.resync('log'); SELECT trucker.start()});
all_same('resync');

$proxy->stop;
done_testing();
