# Transactions of the application that stay open make every slot keep WAL, from where
# they began.  No truck is lost for that before the log has named the transaction, nor
# before as much is kept for it as a truck may be behind; but then the server comes
# first.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'open',
	init => { extra => [ '--no-locale', '--encoding=UTF8', '--wal-segsize=1' ] },
	conf => q{
min_wal_size = '2MB'
max_wal_size = '1GB'
autovacuum = off
max_prepared_transactions = 2
trucker.max_retained_wal = '16MB'
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', "SET client_min_messages = error;\n$sql");
}

sub make
{
	my ($name) = @_;

	sql(qq{
CREATE TABLE $name (id int PRIMARY KEY, v int);
CREATE TABLE ${name}_copy (id int PRIMARY KEY, v int);
INSERT INTO $name SELECT n, n FROM generate_series(1, 10) AS n;
SELECT trucker.create_truck('$name', '{$name}', \$\$
	INSERT INTO ${name}_copy SELECT id, v FROM r\$\$,
	options => '{"stream": "$name", "reset_sql": "TRUNCATE ${name}_copy"}');
SELECT trucker.start('$name')});
	caught_up($node, $name) or die "$name does not run";
	return;
}

sub budget
{
	my ($megabytes) = @_;

	sql("ALTER SYSTEM SET trucker.max_retained_wal = '${megabytes}MB'");
	$node->reload;
	return;
}

sub fill
{
	my ($megabytes) = @_;

	sql("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1024 * 1024)); CHECKPOINT") foreach 1 .. $megabytes;
	return;
}

sub eventually
{
	my ($what, $query) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return 1 if ok($node->poll_query_until('postgres', $query), $what);
	diag sql('SELECT truck, state, stream, lag_bytes, waiting_for, warning, last_error FROM trucker.status ORDER BY truck');
	return 0;
}

sub state_of
{
	my ($name) = @_;

	return sql("SELECT state FROM trucker.status WHERE truck = '$name'");
}

make('work');
make('rest');

my $session = $node->background_psql('postgres');
my $idle_pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe('BEGIN; CREATE TABLE of_open_transaction ()');
my $offset = -s $node->logfile;
fill(10);
sql('INSERT INTO work VALUES (12, 12)');
ok(caught_up($node, 'work'), 'a transaction stays open; the trucks are caught up');
# from half of the budget on, whenever the launcher looks
$node->wait_for_log(qr/WARNING:  replication slot "trucker_\w+" keeps (?:[89]|1[0-3]) MB of WAL for transactions that are still open\n.*DETAIL:  The oldest one is that of process $idle_pid\. .*At 16 MB \(trucker\.max_retained_wal\) the trucks that it serves will be lost\.\n.*HINT:  End the transaction/, $offset);
eventually('status tells it, for each truck',
	q{SELECT count(*) = 2 AND bool_and(state = 'streaming' AND warning ~ 'slot keeps 1[0-3] MB of WAL for transactions that are still open.* 16 MB') FROM trucker.status});
$session->query_safe('COMMIT');
eventually('the transaction ends: nothing to warn of', q{SELECT bool_and(warning IS NULL) FROM trucker.status});

# Much WAL in a short time is no open transaction.
$offset = -s $node->logfile;
sql(q{SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1024 * 1024)) FROM generate_series(1, 24)});
ok(caught_up($node, $_), "$_ is caught up") foreach qw(work rest);
eventually('the slots follow', q{SELECT bool_and(confirmed_flush_lsn - restart_lsn < 8 * 1024 * 1024) FROM pg_replication_slots});
unlike(slurp_file($node->logfile, $offset), qr/transactions that are still open/, 'no warning of open transactions where there are none');

# A prepared one.
$session->query_safe(q{BEGIN; CREATE TABLE of_prepared_transaction (); PREPARE TRANSACTION 'forgotten'});
sql(q{SELECT trucker.stop('rest')});
ok(wait_state($node, 'rest', 'stopped'), 'one truck is stopped');
fill(12);
$node->wait_for_log(qr/WARNING:  replication slot .*\n.*DETAIL:  The oldest one is prepared, with transaction ID \d+ \(pg_prepared_xacts\)\./, $offset);
is(state_of('work'), 'streaming', 'not lost without a warning');
sql('INSERT INTO work VALUES (13, 13)');
ok(caught_up($node, 'work'), 'it goes on');
fill(2);
is(state_of('rest'), 'stopped', 'the one that is stopped keeps what it has yet to read, and no more');
fill(6);
eventually('as much is kept as the budget: lost', q{SELECT bool_and(state = 'lost') FROM trucker.status});
like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 'work'}),
	qr/^55000: truck "work" cannot go on: its replication slot keeps \d+ MB of WAL for transactions that are still open, and trucker\.max_retained_wal is 16 MB\nDETAIL: The oldest one is prepared, with transaction ID \d+.*\nHINT: SELECT trucker\.resync\('work'\)/,
	'the reason');
eventually('no slot is left', q{SELECT count(*) = 0 FROM pg_replication_slots});
sql(q{ROLLBACK PREPARED 'forgotten'});
sql(q{SELECT trucker.resync('work')});
ok(caught_up($node, 'work'), 'resync() recovers it');
same($node, 'TABLE work', 'TABLE work_copy', 'with all rows');

# No budget, no limit.
budget(0);
$session->query_safe('BEGIN; CREATE TABLE another ()');
sql(q{SELECT trucker.stop('work')});
ok(wait_state($node, 'work', 'stopped'), 'a truck is stopped');
fill(20);
$session->query_safe('COMMIT');
$session->quit;
is(sql(q{SELECT state, warning FROM trucker.status WHERE truck = 'work'}), 'stopped|', 'without a budget nothing is said');
sql(q{SELECT trucker.start('work')});
ok(caught_up($node, 'work'), 'and nothing is lost');

unlike(slurp_file($node->logfile), qr/\bPANIC|terminated by signal|TRAP:/, 'no process has crashed');
$node->stop;

done_testing();
