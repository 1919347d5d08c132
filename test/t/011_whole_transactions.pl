# Whole transactions: who reads the destination sees each source transaction whole or
# not at all, and never a later one without the earlier ones; a transaction of
# 200,000 rows, and the backfill, likewise.  And there is no gap between the backfill
# and the stream that follows it, though the load never rests.
#
# Readers are pgbench scripts that divide by zero when they see what must not be.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('whole_transactions');
my $dir  = $node->basedir;

# pgbench with a script, in the background.
sub bench
{
	my ($name, $script, @args) = @_;

	open my $out, '>', "$dir/$name.sql" or die "$name: $!";
	print $out $script;
	close $out or die "$name: $!";
	my $pid = spawn_pgbench($node, "$dir/$name.out", "$dir/$name.err",
		'-n', '-f', "$dir/$name.sql", @args);

	return { pid => $pid, name => $name };
}

# End it; a test that it had not ended before, as it does upon an error.
sub bench_ends
{
	my ($bench, $test_name) = @_;
	my $alive = waitpid($bench->{pid}, POSIX::WNOHANG) == 0;

	if ($alive)
	{
		kill 'TERM', $bench->{pid};
		waitpid $bench->{pid}, 0;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($alive, $test_name) or diag slurp_file("$dir/$bench->{name}.err");
	return;
}

# Accounts, whose sum never changes; each transfer is also booked, and numbered in
# the order of commits, since the counter's row is locked until the end.
$node->safe_psql(
	'postgres', q{
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE counter (one int PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE booking (n bigint, line int, amount bigint NOT NULL, PRIMARY KEY (n, line));
CREATE TABLE bulk (id int PRIMARY KEY, generation int NOT NULL);
INSERT INTO account SELECT n, 1000 FROM generate_series(1, 50) AS n;
INSERT INTO counter VALUES (1, 0);
INSERT INTO bulk SELECT n, 0 FROM generate_series(1, 200) AS n;

CREATE TABLE account_copy (LIKE account INCLUDING ALL);
CREATE TABLE counter_copy (LIKE counter INCLUDING ALL);
CREATE TABLE booking_log (seq bigserial, n bigint, line int, amount bigint, xid bigint);
CREATE INDEX ON booking_log (n);
CREATE TABLE bulk_copy (LIKE bulk INCLUDING ALL);
CREATE TABLE bulk_alone (LIKE bulk INCLUDING ALL);

SELECT trucker.create_truck('bank', '{account, counter, booking}', $$
	{{- if eq .input_table "public.booking" }}
	INSERT INTO booking_log (n, line, amount, xid) SELECT n, line, amount, meta__xid FROM r ORDER BY meta__seq
	{{- else if eq .input_table "public.counter" }}
	INSERT INTO counter_copy SELECT one, n FROM r ON CONFLICT (one) DO UPDATE SET n = excluded.n
	{{- else }}
	INSERT INTO account_copy SELECT id, balance FROM r ON CONFLICT (id) DO UPDATE SET balance = excluded.balance
	{{- end }}$$, options => '{"reset_sql": "DELETE FROM booking_log; DELETE FROM counter_copy; DELETE FROM account_copy"}');
SELECT trucker.create_truck('bulk', '{bulk}', $$
	DELETE FROM bulk_copy USING r WHERE r.meta__operation <> 'insert' AND bulk_copy.id = r.old__id;
	INSERT INTO bulk_copy SELECT id, generation FROM r WHERE meta__operation <> 'delete'$$);
SELECT trucker.create_truck('bulk_alone', '{bulk}', $$
	DELETE FROM bulk_alone USING r WHERE r.meta__operation <> 'insert' AND bulk_alone.id = r.old__id;
	INSERT INTO bulk_alone SELECT id, generation FROM r WHERE meta__operation <> 'delete'$$, options => '{"stream": "alone"}');
});

# Bookings of a transfer: as many as its number says, modulo 3, and 1.
my $transfer = q{
\set a random(1, 25)
\set b random(26, 50)
\set amount random(1, 100)
BEGIN;
UPDATE account SET balance = balance - :amount WHERE id = :a;
UPDATE counter SET n = n + 1 RETURNING n AS n \gset
INSERT INTO booking SELECT :n, line, :amount FROM generate_series(0, :n % 3) AS line;
UPDATE account SET balance = balance + :amount WHERE id = :b;
COMMIT;
};

# What has to hold of any state between two transactions; %1$s is '' or '_copy',
# %2$s the bookings.  Zero is good; all tables may also be empty.
my $broken = q{
	SELECT CASE WHEN EXISTS (SELECT FROM account%1$s) THEN
		abs((SELECT sum(balance) - 50000 FROM account%1$s))
		+ abs((SELECT count(*) - 50 FROM account%1$s))
		+ abs(coalesce((SELECT n FROM counter%1$s), -1) - (SELECT coalesce(max(n), 0) FROM %2$s))
		+ abs((SELECT coalesce(sum(1 + n %% 3), 0) FROM generate_series(1, (SELECT n FROM counter%1$s)) AS n) - (SELECT count(*) FROM %2$s))
		ELSE (SELECT count(*) FROM counter%1$s) + (SELECT count(*) FROM %2$s) END};
my $source_broken = sprintf $broken, '', 'booking';
my $copy_broken = sprintf $broken, '_copy', 'booking_log';
my $reader = "SELECT 1 / (CASE WHEN ($copy_broken) = 0 THEN 1 ELSE 0 END)";

# ----
# The load never rests: backfill, then stream
# ----

$node->safe_psql('postgres', q{
	INSERT INTO counter_copy VALUES (1, 0);
	INSERT INTO account_copy SELECT * FROM account});
foreach my $change (
	'UPDATE account_copy SET balance = balance - 1 WHERE id = 1',
	'INSERT INTO booking_log (n, line, amount) VALUES (1, 0, 1)',
	'UPDATE counter_copy SET n = 1',
	'DELETE FROM counter_copy',
	'DELETE FROM account_copy')
{
	isnt($node->safe_psql('postgres', "BEGIN; $change; $copy_broken; ROLLBACK"),
		'0', "a reader would notice: $change");
}
$node->safe_psql('postgres', 'DELETE FROM counter_copy; DELETE FROM account_copy');

my $load  = bench('transfer', $transfer, '-c', 3, '-T', 36000, '-R', 500);
my $watch = bench('reader', "$reader;\n", '-T', 36000, '-R', 100);
my $control = bench('source_reader', "SELECT 1 / (CASE WHEN ($source_broken) = 0 THEN 1 ELSE 0 END);\n", '-T', 36000, '-R', 20);

sub booked
{
	my ($more) = @_;
	my $from = $node->safe_psql('postgres', 'SELECT n FROM counter');

	return $node->poll_query_until('postgres', "SELECT n >= $from + $more FROM counter");
}

booked(100);
$node->safe_psql('postgres', q{SELECT trucker.start()});
foreach my $round (1 .. 5)
{
	ok(caught_up($node, 'bank'), "start $round under load");
	booked(200);
	is( $node->safe_psql('postgres', $copy_broken),
		'0', "start $round: the destination is the state between two transactions");
	$node->safe_psql('postgres', q{SELECT trucker.resync('bank')}) if $round < 5;
}
bench_ends($watch, 'nobody saw a part of a transaction, or one before its predecessor');
bench_ends($control, 'nor at the source, by the same query');

# ----
# A large transaction
# ----

# Between the load's small ones.  The readers look all the time that it takes.  One
# truck shares its stream, which keeps the transaction until it is there as a whole; the
# other one is alone on its stream, and applies it as it arrives.
my %bulk_table = (bulk => 'bulk_copy', bulk_alone => 'bulk_alone');
foreach my $truck (sort keys %bulk_table)
{
	ok(caught_up($node, $truck), "$truck: the small table was loaded");
}
my @bulk_readers = map {
	bench("reader_$_",
		qq{SELECT 1 / (CASE WHEN count(*) IN (200, 200200) AND count(DISTINCT generation) = 1 THEN 1 ELSE 0 END) FROM $bulk_table{$_};\n},
		'-c', 1, '-T', 36000)
} sort keys %bulk_table;
$node->safe_psql('postgres', q{
	BEGIN;
	UPDATE bulk SET generation = 1;
	INSERT INTO bulk SELECT n, 1 FROM generate_series(201, 200200) AS n;
	COMMIT});
foreach my $truck (sort keys %bulk_table)
{
	ok(caught_up($node, $truck), "$truck: a transaction of 200,000 rows arrives");
	is( $node->safe_psql('postgres',
			"SELECT count(*), min(generation), max(generation) FROM $bulk_table{$truck}"),
		'200200|1|1', "$truck: all of it");
}
bench_ends($_, "$_->{name}: all at once") foreach @bulk_readers;

# ----
# Order, and equality in the end
# ----

bench_ends($load, 'the load has met no error');
ok( $node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'}),
	'it is over');
ok(caught_up($node, 'bank'), 'the last transfers arrive');
same($node, 'TABLE account', 'TABLE account_copy', 'the accounts are equal');
same($node, 'TABLE booking', 'SELECT n, line, amount FROM booking_log', 'each booking is there once');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM (SELECT n - lag(n) OVER w AS step, line, lag(line) OVER w AS before
							  FROM booking_log WHERE xid <> 0 WINDOW w AS (ORDER BY seq)) AS b
		WHERE NOT (step = 0 AND line = before + 1) AND NOT (step = 1 AND line = 0)}),
	'0', 'in the order of their commits, and within a transaction of its statements');
foreach my $part ('xid <> 0', 'coalesce(xid, 0) = 0')
{
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM booking_log WHERE $part"),
		'>', 300, "they are many: $part");
}

unlike(slurp_file($node->logfile), qr/ERROR:  (?!terminating|canceling)/, 'no error in the log');
$node->stop;

done_testing();
