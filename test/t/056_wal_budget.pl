# Trucks never fill the server's disk.  One that is behind by trucker.max_retained_wal,
# for whatever reason and whether or not it has a worker, is warned of at half of that
# and lost at the limit; its slot goes, or moves on, and the WAL with it.  No other
# truck suffers for it: not those of the same stream, nor those that are idle and
# whose positions are old, nor those that were stopped later.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'budget',
	init => { extra => [ '--no-locale', '--encoding=UTF8', '--wal-segsize=1' ] },
	conf => q{
min_wal_size = '2MB'
max_wal_size = '1GB'
autovacuum = off
trucker.max_retained_wal = '16MB'
trucker.max_catchup_streams = 1
trucker.max_truck_delay = 0
trucker.retry_max_delay = '10s'
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', "SET client_min_messages = error;\n$sql");
}

# For each name a table, a mirror of it $name_copy, and a truck $name from one to the
# other on this stream, which runs.
sub make
{
	my ($stream, @names) = @_;

	sql(qq{
CREATE TABLE $_ (id int PRIMARY KEY, v int);
CREATE TABLE ${_}_copy (id int PRIMARY KEY, v int);
INSERT INTO $_ SELECT n, n FROM generate_series(1, 10) AS n;
SELECT trucker.create_truck('$_', '{$_}', \$\$
	DELETE FROM ${_}_copy AS c USING r WHERE r.meta__operation <> 'insert' AND c.id = r.old__id;
	INSERT INTO ${_}_copy SELECT id, v FROM r WHERE meta__operation <> 'delete'
	ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$,
	options => '{"stream": "$stream", "reset_sql": "TRUNCATE ${_}_copy"}');}) foreach @names;
	sql("SELECT trucker.start('$_')") foreach @names;
	return;
}

# So much WAL is written, which is none of any truck's business.  A checkpoint now and
# then writes the record that lets restart_lsn follow what is confirmed, as a server
# under load does every 15 s.
sub fill
{
	my ($megabytes) = @_;

	sql("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1024 * 1024)); CHECKPOINT") foreach 1 .. $megabytes;
	return;
}

sub status
{
	my ($name, $columns) = @_;

	return sql("SELECT $columns FROM trucker.status WHERE truck = '$name'");
}

sub eventually
{
	my ($what, $query) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return 1 if ok($node->poll_query_until('postgres', $query), $what);
	diag sql('SELECT truck, state, stream, lag_bytes, warning, last_error FROM trucker.status ORDER BY truck');
	return 0;
}

sub list
{
	return "'" . join("', '", @_) . "'";
}

my @many = map { "many$_" } 1 .. 12;
my @kept = qw(idle healthy many_other pair_other rest_idle rest_healthy);
my @lost = (qw(alone failing early resting), @many);

make('alone', 'alone');
make('fails', qw(failing healthy idle));
make('many', @many, 'many_other');
make('pair', qw(early late pair_other));
make('rests', qw(resting rest_idle rest_healthy));
foreach my $name (@lost, @kept, 'late')
{
	caught_up($node, $name) or die "$name does not run";
	wait_state($node, $name, 'streaming') or die "$name is not at home";
}

# ----
# Something holds them up
# ----

# They leave their homes, as far as there are slots.  Alone on its stream, a truck
# leaves nobody behind; its stream has no worker then.
sql("SELECT trucker.stop('$_')") foreach 'alone', 'early', @many;
eventually('trucks are stopped',
	"SELECT count(*) = 14 FROM trucker.status WHERE state = 'stopped' AND truck IN (" . list('alone', 'early', @many) . ')');
eventually('one stream for many that are stopped, one for another',
	q{SELECT count(DISTINCT stream) = 2 AND bool_and(stream ~ 'catch-up') FROM trucker.status WHERE truck ~ '^(many[0-9]|early)'});
sql(q{ALTER TABLE failing_copy ADD CHECK (id < 11); INSERT INTO failing VALUES (11, 11)});
eventually('a failing truck has left its home', q{SELECT stream ~ 'catch-up' FROM trucker.status WHERE truck = 'failing'});

# No slot is left for this one: it rests where it is, and its home's slot is held
# back for it.
sql(q{ALTER TABLE resting_copy ADD CHECK (id < 11); INSERT INTO resting VALUES (11, 11)});
eventually('another one waits for a slot', q{SELECT state IN ('waiting', 'retrying') AND last_error ~ '23514' FROM trucker.status WHERE truck = 'resting'});
sql("INSERT INTO $_ VALUES (12, 12)") foreach @lost, 'late', 'healthy', 'rest_healthy';

fill(6);
ok(caught_up($node, 'late'), 'a truck that is stopped later ...');
sql(q{SELECT trucker.stop('late')});
eventually('... goes where the first one is',
	q{SELECT state = 'stopped' AND stream ~ 'catch-up' FROM trucker.status WHERE truck = 'late'});
sql('INSERT INTO late VALUES (13, 13)');
is(sql('SELECT count(*) FROM trucker.status WHERE warning IS NOT NULL'), '0', 'less than half of the budget: no warning');

# ----
# Half of the budget
# ----

my $offset = -s $node->logfile;
fill(4);
eventually('beyond half of it: a warning for each truck that is behind, and no other',
	q{SELECT array_agg(truck ORDER BY truck) FILTER (WHERE warning ~ '^it is 1[0-3] MB behind.* at 16 MB \(trucker.max_retained_wal\)')
	= (SELECT array_agg(t ORDER BY t) FROM unnest(ARRAY[} . list(@lost) . q{]) AS t) FROM trucker.status});
is(sql("SELECT count(*) FROM trucker.status WHERE warning IS NOT NULL AND truck NOT IN (" . list(@lost) . ')'), '0', 'and no other');
foreach my $name (@lost)
{
	my $hint = $name =~ /failing|resting/ ? 'trucker\.status' : "SELECT trucker\\.start\\('$name'\\).*drop_truck\\('$name'\\)";

	$node->wait_for_log(qr/WARNING:  truck "$name" is (?:[89]|1[0-3]) MB behind\n.*DETAIL:  At 16 MB.*slot "trucker_\w+" keeps the WAL from [0-9A-F]+\/[0-9A-F]+ on.*\n.*HINT:  .*$hint/, $offset);
}
pass('the log tells what keeps the WAL, and what helps');
is(sql("SELECT count(*) FROM trucker.status WHERE state = 'lost'"), '0', 'nobody is lost');

# What a worker knew of those that are not behind is forgotten; where the slot of their
# home stands says nothing of them.
$node->restart;
wait_state($node, $_, 'streaming') foreach @kept;
cmp_ok(
	sql(q{SELECT max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), greatest(s.applied_lsn, p.lsn))) FROM trucker.truck_state AS s JOIN trucker.truck AS t ON t.id = s.truck_id JOIN trucker.position AS p ON p.truck_id = t.id WHERE t.name IN ('rest_idle', 'rest_healthy')}),
	'<', 4 * 1024 * 1024, 'how far the others of the stream are is known all the same');
ok(caught_up($node, $_), "$_ has nothing to catch up with") foreach @kept;

# ----
# The limit
# ----

fill(8);
eventually('at the limit: lost', "SELECT count(*) = " . @lost . " FROM trucker.status WHERE state = 'lost' AND truck IN (" . list(@lost) . ')');
eventually('all others are what they were',
	"SELECT string_agg(truck || ' ' || state, ', ') = 'late stopped' FROM trucker.status WHERE truck NOT IN (" . list(@lost) . q{) AND state <> 'streaming'});
my $reason = qr/^55000: truck "\w+" cannot go on: it is (?:1[6-9]|2\d) MB behind, and trucker\.max_retained_wal is 16 MB\nDETAIL: .*\nHINT: SELECT trucker\.resync\('\w+'\) loads the destination anew\.$/;
like(status($_, 'last_error'), $reason, "$_: why, and what helps") foreach @lost;
is(sql('SELECT count(*) FROM trucker.status WHERE state = $$lost$$ AND (warning IS NOT NULL OR stream IS NOT NULL)'), '0',
	'what is lost needs no warning, and no stream');

eventually('nothing is kept any longer',
	q{SELECT max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)) < 14 * 1024 * 1024 FROM pg_replication_slots});
eventually('slots that nobody needs are gone: what is left are homes with work, and the slot of the one that is stopped',
	q{SELECT count(*) = 5 FROM pg_replication_slots});
$node->wait_for_log(qr/LOG:  replication slot "trucker_\w+" moved on to/, $offset);
fill(1);
eventually('the slots let go of the WAL',
	q{SELECT max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)) < 16 * 1024 * 1024 FROM pg_replication_slots});
# (each checkpoint lets the slots move on, behind which the next one removes more)
my $left;
foreach (1 .. 100)
{
	sql('CHECKPOINT');
	$left = sql(q{SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name < (SELECT pg_walfile_name(min(restart_lsn)) FROM pg_replication_slots)});
	last if $left eq '0';
}
is($left, '0', 'and the server removes it');

# ----
# The others
# ----

foreach my $name (@kept)
{
	sql("INSERT INTO $name VALUES (20, 20)");
	ok(caught_up($node, $name), "$name goes on");
	same($node, "TABLE $name", "TABLE ${name}_copy", "$name: with all changes");
}
sql(q{SELECT trucker.start('late')});
ok(caught_up($node, 'late'), 'what was stopped later can be started');
same($node, 'TABLE late', 'TABLE late_copy', 'and has all changes');

# Idle for longer than the budget, with a position of long ago.
foreach my $what ('stopped', 'restarted')
{
	sql(q{SELECT trucker.stop('idle')});
	ok(wait_state($node, 'idle', 'stopped'), "an idle truck is $what");
	$node->restart if $what eq 'restarted';
	cmp_ok(sql(q{SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), lsn) FROM trucker.position AS p JOIN trucker.truck AS t ON t.id = p.truck_id WHERE t.name = 'idle'}),
		'<', 1024 * 1024, 'its position is new') if $what eq 'stopped';
	fill(9);
	$node->wait_for_log(qr/WARNING:  truck "idle" is (?:[89]|1[0-3]) MB behind/, $offset);
	is(status('idle', 'state'), 'stopped', 'what counts is since when it is stopped');
	sql(q{SELECT trucker.start('idle')});
	ok(caught_up($node, 'idle'), 'it goes on');
	eventually('it is at home', q{SELECT state = 'streaming' AND warning IS NULL FROM trucker.status WHERE truck = 'idle'});
	fill(9);
	ok(caught_up($node, 'idle'), 'it is as far as the WAL');
	$offset = -s $node->logfile;
}

# ----
# Those that are lost
# ----

foreach my $name (qw(alone failing resting many7))
{
	like(psql_err($node, "SELECT trucker.start('$name')"), qr/55000: truck "$name" is lost.*HINT:.*trucker\.resync\('$name'\)/s,
		"$name: start() refuses");
	sql("ALTER TABLE ${name}_copy DROP CONSTRAINT IF EXISTS ${name}_copy_id_check; SELECT trucker.resync('$name'); SELECT trucker.start('$name')");
	ok(caught_up($node, $name), "$name: resync() recovers it");
	sql("INSERT INTO $name VALUES (30, 30)");
	ok(caught_up($node, $name), "$name: changes flow again");
	same($node, "TABLE $name", "TABLE ${name}_copy", "$name: all of them");
}

my $log = slurp_file($node->logfile);
foreach my $name (@lost, 'idle')
{
	my $warnings = () = $log =~ /WARNING:  truck "$name" is \d+ MB behind/g;

	is($warnings, $name eq 'idle' ? 2 : 1, "$name: the log has warned of it once each time");
}
unlike($log, qr/\bPANIC|terminated by signal|TRAP:/, 'no process has crashed');
$node->stop;

done_testing();
