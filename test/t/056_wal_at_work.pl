# The WAL budget of trucks that are at work.  One that comes nearer is not lost, however
# far behind it is; one that hangs in its own SQL is, and so is one whose backfill
# lasts too long.  Their transactions, which make all slots keep WAL, cost no other
# truck anything.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'at_work',
	init => { extra => [ '--no-locale', '--encoding=UTF8', '--wal-segsize=1' ] },
	conf => q{
min_wal_size = '2MB'
max_wal_size = '1GB'
autovacuum = off
trucker.max_retained_wal = '128MB'
trucker.max_truck_delay = 0
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', "SET client_min_messages = error;\n$sql");
}

sub make
{
	my ($stream, $name, $extra) = @_;

	$extra //= '';
	sql(qq{
CREATE TABLE $name (id int PRIMARY KEY, v int);
CREATE TABLE ${name}_copy (id int PRIMARY KEY, v int);
INSERT INTO $name SELECT n, n FROM generate_series(1, 10) AS n;
SELECT trucker.create_truck('$name', '{$name}', \$\$
	$extra INSERT INTO ${name}_copy SELECT id, v FROM r\$\$,
	options => '{"stream": "$stream", "reset_sql": "TRUNCATE ${name}_copy"}')});
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

sub recovers
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sql("SELECT trucker.resync('$name')");
	ok(caught_up($node, $name), "$name: resync() recovers it");
	same($node, "SELECT id, v FROM $name", "TABLE ${name}_copy", "$name: with all rows");
	return;
}

# ----
# Slow, stuck, and busy with a backfill
# ----

# The slow one takes a while for each of its transactions, which are 1 MB apart: so long
# that it is far behind when all the others have been judged, and no longer than that.
sql('CREATE TABLE pace AS SELECT 0.7 AS seconds');
make('slow', 'slow', 'SELECT pg_sleep(seconds) FROM r, pace WHERE id > 10 LIMIT 1;');
make('stuck', 'stuck', 'SELECT pg_advisory_xact_lock_shared(1) FROM r LIMIT 1;');
make('loads', 'loads', 'SELECT pg_advisory_xact_lock_shared(1) FROM r LIMIT 1;');
make('bystander', 'bystander');
sql("SELECT trucker.start('$_')") foreach qw(slow stuck bystander);
caught_up($node, $_) or die "$_ does not run" foreach qw(slow stuck bystander);
sql(q{SELECT trucker.stop('slow')});
wait_state($node, 'slow', 'stopped') or die 'slow does not stop';

my $lock = $node->background_psql('postgres');
$lock->query_safe('SELECT pg_advisory_lock(1)');
sql('INSERT INTO stuck VALUES (11, 11)');
sql(q{SELECT trucker.start('loads')});
eventually('a truck hangs in its SQL', q{SELECT waiting_for ~ 'pid' AND state = 'streaming' FROM trucker.status WHERE truck = 'stuck'});
eventually('so does a backfill', q{SELECT waiting_for ~ 'pid' AND state = 'backfill' FROM trucker.status WHERE truck = 'loads'});

sql(q{ALTER SYSTEM SET trucker.max_batch_rows = 1});
$node->reload;
sql(join '; ', map { "INSERT INTO slow VALUES ($_, $_); SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1024 * 1024))" } 11 .. 90);
fill(1);
is(sql(q{SELECT count(*) FROM trucker.status WHERE state = 'lost'}), '0', 'more than half of the budget');

# It still has some to apply when the time of those that do not come nearer is over.
my $offset = -s $node->logfile;
sql(q{SELECT trucker.start('slow')});
eventually('the slow one is at work', q{SELECT count(*) > 11 FROM slow_copy});
budget(6);
eventually('one that hangs is lost, although its worker is busy', q{SELECT state = 'lost' FROM trucker.status WHERE truck = 'stuck'});
eventually('and a backfill', q{SELECT state = 'lost' FROM trucker.status WHERE truck = 'loads'});
cmp_ok(sql(q{SELECT lag_bytes FROM trucker.status WHERE truck = 'slow'}), '>', 6 * 1024 * 1024, 'another one is further behind than the budget, ...');
is(state_of('slow'), 'streaming', '... but gets nearer');
sql('UPDATE pace SET seconds = 0');
like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 'stuck'}),
	qr/^55000: truck "stuck" cannot go on: it is \d+ MB behind, and trucker\.max_retained_wal is 6 MB\n/, 'the reason');
eventually('what they executed has been cancelled',
	q{SELECT count(*) = 0 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'});
eventually('their slots are gone', q{SELECT count(*) = 2 FROM pg_replication_slots});
is(sql('SELECT count(*) FROM stuck_copy'), '10', 'nothing of theirs is half done');
$lock->query_safe('SELECT pg_advisory_unlock(1)');
recovers($_) foreach qw(stuck loads);
ok(caught_up($node, 'slow'), 'the slow one arrives');
same($node, 'SELECT id, v FROM slow', 'TABLE slow_copy', 'with all rows');
unlike(slurp_file($node->logfile, $offset), qr/truck "slow" cannot go on/, 'and was never lost');
is(sql(q{SELECT state FROM trucker.status WHERE truck = 'bystander'}), 'streaming', 'a bystander has not noticed anything');

unlike(slurp_file($node->logfile), qr/\bPANIC|terminated by signal|TRAP:/, 'no process has crashed');
$node->stop;

done_testing();
