# Transactions that are sent while they run (pgoutput, trucker.stream_in_progress): nothing
# of them is applied before they have committed, nothing of what was rolled back ever, all
# in the order of the commits; with their values, and with tables as they were.
#
# TRUCKER_SEED=n repeats the transactions of the random load, and who is killed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

seed();

# the least that a walsender keeps before it sends what is not complete
my $node = trucker_node('in_progress', conf => q{
autovacuum = off
logical_decoding_work_mem = 64kB
max_prepared_transactions = 5
max_connections = 50
trucker.output_plugin = pgoutput
trucker.stream_in_progress = on
trucker.max_run_rows = 500
});

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# A session whose transaction is open and has made these changes.
sub session
{
	my (@statements) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe($_) foreach 'BEGIN', @statements;
	return $session;
}

sub ends
{
	my ($session, @statements) = @_;

	$session->query_safe($_) foreach @statements;
	$session->quit;
	return;
}

# Each transaction that is sent in parts is kept in a file of its own.
sub kept
{
	my ($n, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT count(*) = $n FROM pg_ls_tmpdir()"), $name)
	  || diag sql('SELECT * FROM pg_ls_tmpdir()');
}

sub all_same
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(caught_up($node, $_), "$name: $_") foreach qw(copy mirror alone);
	same($node, 'TABLE s', "TABLE $_", "$name: $_ is the table") foreach qw(copy mirror alone);
	return;
}

# rows($from, $to, $what): an INSERT that is well over what a walsender keeps
sub rows
{
	my ($from, $to, $what) = @_;

	return "INSERT INTO s SELECT i, '$what ' || i, repeat('x', 100) FROM generate_series($from, $to) AS i";
}

# two trucks share a stream, so that batches are kept; the third one takes changes as they come
sql(q{
CREATE TABLE s (id int PRIMARY KEY, v text, large text);
ALTER TABLE s ALTER large SET STORAGE EXTERNAL;
CREATE TABLE small (id int PRIMARY KEY);
CREATE TABLE copy (LIKE s INCLUDING ALL);
CREATE TABLE mirror (LIKE s INCLUDING ALL);
CREATE TABLE alone (LIKE s INCLUDING ALL);
CREATE TABLE small_copy (LIKE small INCLUDING ALL);
CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, id int, v text);
SELECT trucker.create_truck('seen', '{s}', $$INSERT INTO seen (id, v) SELECT id, v FROM r WHERE meta__operation <> 'delete' ORDER BY meta__seq$$, options => '{"on_truncate": "ignore"}');
SELECT trucker.create_truck('small', '{small}', $$INSERT INTO small_copy SELECT id FROM r$$);
DO $$
DECLARE
	truck text;
BEGIN
	FOREACH truck IN ARRAY '{copy,mirror,alone}'::text[] LOOP
		PERFORM trucker.create_truck(truck, '{s}', format('
			DELETE FROM %1$I USING r WHERE %1$I.id = r.old__id;
			INSERT INTO %1$I SELECT id, v, large FROM r WHERE meta__operation <> ''delete''', truck),
			options => jsonb_build_object('on_truncate', 'run', 'truncate_sql', format('TRUNCATE %I', truck),
				'stream', CASE WHEN truck = 'alone' THEN 'alone' ELSE 'main' END));
	END LOOP;
END $$;
SELECT trucker.start();
});
all_same('start');

# ----
# What is sent while it runs
# ----
my $t1 = session(rows(1, 3000, 'first'));
kept(2, 'a transaction is sent to both streams while it runs');
sql('INSERT INTO small VALUES (1)');
ok(caught_up($node, 'small'), 'another one does not wait for it');
is(sql('TABLE small_copy'), '1', 'and is there');
is(sql('SELECT count(*) FROM copy'), '0', 'nothing of the first one is');
ends($t1, 'COMMIT');
all_same('committed');
cmp_ok(sql('SELECT min(stream_txns) FROM pg_stat_replication_slots'), '>=', 1, 'each slot has sent it so');
kept(0, 'nothing is kept any more');

$t1 = session(rows(10001, 13000, 'never'));
kept(2, 'one that will not commit');
ends($t1, 'ROLLBACK');
kept(0, 'is forgotten when it has not');
all_same('rolled back');

# The order is that of the commits, as the values are.
sql('TRUNCATE seen');
$t1 = session(rows(20001, 22000, 'one'));
my $t2 = session(rows(30001, 32000, 'two'));
kept(4, 'two transactions at a time');
$t1->query_safe(rows(22001, 24000, 'one'));
$t2->query_safe('UPDATE s SET v = v || \', altered\' WHERE id BETWEEN 30001 AND 31000');
sql(rows(40001, 40010, 'between'));
ends($t2, 'COMMIT');
ends($t1, 'COMMIT');
all_same('two at a time');
is(sql(q{SELECT string_agg(what, ', ' ORDER BY n) FROM (SELECT split_part(v, ' ', 1) AS what, min(n) AS n FROM seen GROUP BY 1) AS x}),
	'between, two, one', 'in the order of their commits');
is(sql(q{SELECT count(*) FROM (SELECT split_part(v, ' ', 1) AS what, lag(split_part(v, ' ', 1)) OVER (ORDER BY n) AS before FROM seen) AS x WHERE what <> before}),
	'2', 'and none in the midst of another one');

# ----
# Subtransactions
# ----
$t1 = session(
	rows(50001, 51000, 'kept'),
	'SAVEPOINT a', rows(51001, 53000, 'taken back'), 'UPDATE s SET v = \'taken back\' WHERE id < 50500', 'ROLLBACK TO a',
	rows(53001, 54000, 'kept'),
	'SAVEPOINT b', rows(54001, 55000, 'kept'),
	'SAVEPOINT c', rows(55001, 57000, 'kept'), 'RELEASE c',
	'SAVEPOINT d', rows(57001, 58000, 'taken back'), 'SAVEPOINT e', rows(58001, 60000, 'taken back'), 'RELEASE e', 'ROLLBACK TO d',
	rows(58001, 58100, 'kept after all'), 'RELEASE b',
	'SAVEPOINT f', 'SAVEPOINT g', rows(60001, 62000, 'taken back'), 'RELEASE g', rows(62001, 63000, 'taken back'), 'ROLLBACK TO f',
	'UPDATE s SET v = v || \'!\' WHERE id > 50000');
kept(2, 'a transaction with subtransactions is sent');
ends($t1, 'COMMIT');
all_same('subtransactions');
is(sql(q{SELECT count(*) FROM alone WHERE v ~ 'taken back'}), '0', 'what was taken back is not there');

# The server does not say that this one is rolled back: it has spilled more of it than it
# reads back in one go.  Its first change is the first one of the table that is described.
foreach my $first ('SELECT pg_current_xact_id()', rows(64001, 65000, 'kept'))
{
	my $from = -s $node->logfile;

	$t1 = session($first, 'SAVEPOINT a', q{INSERT INTO s VALUES (79999, 'taken back', repeat('0123456789', 1000000))});
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 2 AND min(size) > 9000000 FROM pg_ls_tmpdir()'), 'a large value is sent');
	ends($t1, 'ROLLBACK TO a', rows(70001, 71000, 'kept'), 'COMMIT');
	foreach my $truck (qw(copy mirror alone))
	{
		ok(caught_up($node, $truck), "a large value that was taken back: $truck");
		is(sql("WITH gone AS (DELETE FROM $truck WHERE id = 79999 RETURNING id) SELECT count(*) FROM gone"), '0', 'is not there');
	}
	all_same('a large value that was taken back');
	unlike(slurp_file($node->logfile, $from), qr/ERROR/, 'and need not be read again');
	sql('DELETE FROM s WHERE id > 70000');
}

# so many that they are not remembered for nothing
sql(q{
DO $$
BEGIN
	FOR i IN 100001 .. 120000 LOOP
		BEGIN
			INSERT INTO s VALUES (i, 'one of many', NULL);
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'taken back';
			END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$});
all_same('20,000 subtransactions');

# ----
# What a transaction can do
# ----
# a prepared one ends in another session
$t1 = session(rows(130001, 132000, 'prepared'), q{PREPARE TRANSACTION 'p'});
kept(2, 'a prepared transaction is sent');
is(sql('SELECT count(*) FROM copy WHERE id > 130000'), '0', 'and not applied');
$t1->quit;
sql(q{COMMIT PREPARED 'p'});
all_same('prepared');
$t1 = session(rows(140001, 142000, 'prepared'), q{PREPARE TRANSACTION 'q'});
kept(2, 'another one');
$t1->quit;
sql(q{ROLLBACK PREPARED 'q'});
kept(0, 'is rolled back');

# large values that are left as they were, and are found in what is kept
sql(q{INSERT INTO s SELECT i, 'large', repeat(i::text, 1000) FROM generate_series(150001, 150200) AS i});
all_same('large values');
$t1 = session('UPDATE s SET v = \'altered\' || repeat(\' and so on\', 100) WHERE id BETWEEN 150001 AND 150100', 'UPDATE s SET large = large || \'!\' WHERE id > 150100');
kept(2, 'changes that do not carry them');
ends($t1, 'COMMIT');
all_same('large values that were left as they were');

# DDL in the midst of it: the trucks read again, with the names that there are then
$t1 = session(rows(160001, 162000, 'before'), 'ALTER TABLE s ADD added int DEFAULT 7', 'ALTER TABLE s RENAME v TO w',
	q{INSERT INTO s SELECT i, 'after', 'x', 8 FROM generate_series(162001, 164000) AS i}, 'ALTER TABLE s RENAME w TO v', 'ALTER TABLE s DROP added',
	rows(164001, 165000, 'at last'));
kept(2, 'a transaction that alters the table');
ends($t1, 'COMMIT');
all_same('altered within');
$t1 = session(rows(166001, 168000, 'gone'), 'TRUNCATE s', rows(1, 2000, 'new'));
kept(2, 'a transaction that truncates the table');
ends($t1, 'COMMIT');
all_same('truncated within');

# A truck that is to read more than what is sent: for this transaction it is what it was.
sql(q{CREATE TABLE lengths (id int PRIMARY KEY, n int);
	SELECT trucker.create_truck('less', '{s}', 'INSERT INTO lengths SELECT id FROM r ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n', options => '{"stream": "less", "backfill": false}');
	SELECT trucker.start('less')});
ok(caught_up($node, 'less'), 'a truck that reads less');
$t1 = session(rows(180001, 182000, 'before'));
kept(3, 'a transaction is sent to it');
sql(q{SELECT trucker.alter_truck('less', output_sql => 'INSERT INTO lengths SELECT id, length(large) FROM r ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM trucker.former_definitions WHERE state ~ 'transactions run'}), 'it is altered to read more, and waits for it');
ends($t1, rows(182001, 184000, 'after'), 'COMMIT');
sql(rows(190001, 190100, 'later'));
ok(caught_up($node, 'less'), 'it goes on');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.former_definitions}), 'as what it was altered to');
sql(q{UPDATE s SET v = 'once more' WHERE id > 190090});
ok(caught_up($node, 'less'), 'a change');
is(sql(q{SELECT count(*) FILTER (WHERE id <= 184000 AND n IS NULL), count(*) FILTER (WHERE id > 190090 AND n = 100) FROM lengths WHERE id > 180000}),
	'4000|10', 'all of the transaction was for what it was');
sql(q{SELECT trucker.drop_truck('less')});
all_same('a truck that reads more');

# A transaction that cannot be applied is put aside as a whole.
sql(q{CREATE TABLE strict (id int PRIMARY KEY CHECK (id <> 203000));
	SELECT trucker.create_truck('strict', '{s}', 'INSERT INTO strict SELECT id FROM r WHERE meta__operation = $q$insert$q$', options => '{"stream": "strict", "on_error": "quarantine", "backfill": false}');
	SELECT trucker.start('strict')});
ok(caught_up($node, 'strict'), 'a truck that cannot apply everything');
$t1 = session(rows(200001, 203000, 'bad'));
kept(3, 'a transaction is sent');
ends($t1, rows(203001, 203100, 'bad'), 'COMMIT');
sql(rows(210001, 210010, 'good'));
ok(caught_up($node, 'strict'), 'it goes on without it');
is(sql(q{SELECT count(*), min(id), max(id) FROM strict}), '10|210001|210010', 'as a whole');
is(sql(q{SELECT quarantined FROM trucker.status WHERE truck = 'strict'}), '3100', 'which is in quarantine');
sql(q{SELECT trucker.drop_truck('strict')});
all_same('quarantine');

# ----
# Settings
# ----
$t1 = session(rows(220001, 222000, 'on'));
kept(2, 'while it is on');
setting($node, 'trucker.stream_in_progress', 'off');
kept(0, 'switched off, it takes effect at once');
ends($t1, rows(222001, 224000, 'off'), 'COMMIT');
all_same('switched off');
$t1 = session(rows(230001, 234000, 'off'));
setting($node, 'trucker.stream_in_progress', 'on');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'walsender' AND query ~ $$"streaming" 'on'$$}),
	'and on again');
# what it has written so far may be behind the slot, and is sent with what comes now
$t1->query_safe(rows(234001, 236000, 'on'));
kept(2, 'it is sent');
ends($t1, 'COMMIT');
all_same('switched on');

# Where a file cannot grow, that is an error, which goes away with its cause: nobody has to
# do anything, and the log is not filled meanwhile.
sub cannot_grow
{
	my ($what, $error, $forbid, $rows, $allow) = @_;
	my @workers = map { stream_worker_pid($node, $_) } qw(copy alone);
	my $offset = -s $node->logfile;
	my $session = session(rows(240001, 242000, 'much'));

	kept(2, "$what: a transaction grows");
	sql('SELECT trucker.reset_stats()');
	$forbid->(@workers);
	$session->query_safe($rows);
	$node->wait_for_log(qr/ERROR:  $error/, $offset);
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM trucker.stat_stream WHERE errors >= 4}),
		"$what: both streams fail, again and again");
	my @errors = slurp_file($node->logfile, $offset) =~ /ERROR:  ($error)/g;
	cmp_ok(scalar @errors, '<=', 4, "$what: which the log does not tell each time");
	sql('INSERT INTO small SELECT max(id) + 1 FROM small');
	$allow->(@workers);
	ends($session, 'COMMIT');
	ok(caught_up($node, 'small'), "$what: the streams go on");
	all_same($what);
	is(join(' ', map { stream_worker_pid($node, $_) } qw(copy alone)), "@workers", "$what: by the same workers, which make pauses");
	sql('DELETE FROM s WHERE id > 240000');
	all_same("$what, over");
	return;
}

# the most that these processes can write into a file, in bytes
sub file_size
{
	my ($size, @pids) = @_;

	system_or_bail('prlimit', "--pid=$_", "--fsize=$size:unlimited") foreach @pids;
	return;
}

cannot_grow('temp_file_limit', 'temporary file size exceeds temp_file_limit',
	sub { setting($node, 'temp_file_limit', '600kB') },
	rows(242001, 250000, 'too much'),
	sub { setting($node, 'temp_file_limit', '-1') });
# as on a full disk; but they must be able to write a segment of WAL, of 16 MB
cannot_grow('no more space', 'could not write to a temporary file: ',
	sub { file_size(17_000_000, @_) },
	q{INSERT INTO s SELECT i, 'too much', repeat('x', 1000) FROM generate_series(242001, 265000) AS i},
	sub { file_size('unlimited', @_) });

# ----
# Random transactions; connections, workers and the server die
# ----
sql(q{
ALTER TABLE s REPLICA IDENTITY FULL;
CREATE SEQUENCE ids START 1000000;
CREATE FUNCTION mess(client int, depth int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 2 + (random() * 3)::int LOOP
		BEGIN
			CASE floor(random() * 5)::int
				WHEN 0, 1 THEN
					INSERT INTO s SELECT nextval('ids') * 4 + client, 'of ' || client, repeat('y', (random() * 3000)::int) FROM generate_series(1, 30);
				WHEN 2 THEN
					UPDATE s SET v = left(v || ', again', 200) WHERE id > 4000000 AND id % 4 = client AND random() < 0.2;
				WHEN 3 THEN
					DELETE FROM s WHERE id > 4000000 AND id % 4 = client AND random() < 0.1;
				ELSE
					IF depth > 0 THEN
						PERFORM mess(client, depth - 1);
					END IF;
			END CASE;
			IF random() < 0.3 THEN
				RAISE EXCEPTION 'taken back';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
});
my $transactions = 0;
foreach my $round (1 .. 4)
{
	my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 0 .. 3;

	foreach my $turn (1 .. 8)
	{
		foreach my $client (0 .. 3)
		{
			my $seed = rand(2) - 1;

			$sessions[$client]->query_safe($turn % 2 ? "BEGIN; SELECT setseed($seed)" : 'SELECT 1');
			$sessions[$client]->query_safe("SELECT mess($client, 3)");
			next if $turn % 2;
			$sessions[$client]->query_safe(rand() < 0.25 ? 'ROLLBACK' : 'COMMIT');
			$transactions++;
		}
		next unless rand() < 0.5;
		my $truck = (qw(copy alone))[ rand 2 ];
		my $kind = (qw(walsender stream))[ rand 2 ];
		my $pid = $kind eq 'walsender' ? walsender_pid($node, $truck) : stream_worker_pid($node, $truck);
		sql("SELECT pg_terminate_backend($pid)") if $pid;
	}
	$_->quit foreach @sessions;
	if ($round == 2)
	{
		$t1 = session(rows(300001, 303000, 'lost'));
		$node->stop('immediate');
		$t1->{run}->kill_kill;
		$node->start;
	}
	all_same("round $round");
}
cmp_ok(sql('SELECT count(*) FROM alone WHERE id > 4000000'), '>', 100, "$transactions random transactions have left something");
kept(0, 'nothing is kept in the end');
is(join('', grep { /TRAP|PANIC|terminated by signal/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed');

done_testing();
