# Crashes while trucks move: a process is stopped at each point at which a slot is made,
# a table is loaded, or a truck changes streams, and then killed, or the whole server
# is, under a load of transactions over several tables.  Every truck adds up what it
# reads; so what is lost, or applied twice, shows in the comparison with the source.
#
# TRUCKER_SEED=n repeats the choice of how to kill.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();

my $node = trucker_node(
	'stream_crash',
	conf => q{
autovacuum = off
wal_writer_delay = '500ms'
log_line_prefix = '%m [%p] '
trucker.max_truck_delay = '500ms'
trucker.retry_max_delay = '200ms'
trucker.max_backfills = 1
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# ----
# Load and trucks
# ----

sql(q{
CREATE TABLE a (id int PRIMARY KEY, grp int NOT NULL, v int NOT NULL);
CREATE TABLE b (LIKE a INCLUDING ALL);
CREATE TABLE c (LIKE a INCLUDING ALL);
ALTER TABLE a REPLICA IDENTITY FULL;
ALTER TABLE b REPLICA IDENTITY FULL;
ALTER TABLE c REPLICA IDENTITY FULL;
INSERT INTO a SELECT n, n % 5, n FROM generate_series(1, 300) AS n;
INSERT INTO b TABLE a;
INSERT INTO c TABLE a;

CREATE TABLE trouble (truck text PRIMARY KEY);
CREATE FUNCTION trouble(name text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM trouble WHERE truck = name) THEN
		RAISE 'trouble of truck %', name;
	END IF;
	RETURN true;
END
$$});

my %inputs = (one => [qw(a)], two => [qw(a b)], three => [qw(b c)], four => [qw(a c)]);
my @trucks = sort keys %inputs;
foreach my $truck (@trucks)
{
	my $list = join ', ', @{ $inputs{$truck} };

	sql(qq{
CREATE TABLE total_$truck (tab text, grp int, v bigint NOT NULL, n bigint NOT NULL, PRIMARY KEY (tab, grp));
SELECT trucker.create_truck('$truck', '{$list}', \$\$
	INSERT INTO total_$truck AS t
	SELECT '{{ .input_table }}', grp, sum(v), sum(n)
	FROM (SELECT grp, v, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL
		  SELECT old__grp, -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
	WHERE trouble('$truck')
	GROUP BY grp
	ON CONFLICT (tab, grp) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n
\$\$, options => '{"reset_sql": "DELETE FROM total_$truck"}')});
}

my $script = $node->basedir . '/load.sql';
append_to_file($script, q{
\set x random(-20, 20)
\set i random(1, 300)
\set j random(1, 300)
\set new 1000 * (:client_id + 1) + random(1, 50)
BEGIN;
UPDATE a SET v = v + :x WHERE id = :i;
UPDATE b SET v = v - :x, grp = :j % 5 WHERE id = :j;
INSERT INTO c VALUES (:new, :i % 5, :x) ON CONFLICT (id) DO UPDATE SET v = c.v + 1, grp = excluded.grp;
SAVEPOINT s;
INSERT INTO b VALUES (:new, 0, 0);
ROLLBACK TO SAVEPOINT s;
DELETE FROM a WHERE id = :new;
INSERT INTO a VALUES (:new, :j % 5, 1);
COMMIT;
});
my $load;

sub load_runs
{
	return if $load && waitpid($load, POSIX::WNOHANG()) == 0;
	$load = spawn_pgbench($node, '/dev/null', $node->basedir . '/pgbench.err',
		'-n', '-c', '3', '-T', '3600', '-R', '150', '-f', $script);
	return;
}

sub load_stops
{
	stop_pgbench($node, $load);
	return;
}

sub all_same
{
	my ($name) = @_;
	my @a;
	my @b;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck (@trucks)
	{
		return fail("$name: truck $truck catches up") unless caught_up($node, $truck);
		push @a, map { "SELECT '$truck' AS truck, 'public.$_' AS tab, grp, sum(v)::bigint, count(*) FROM $_ GROUP BY grp" } @{ $inputs{$truck} };
		push @b, "SELECT '$truck', tab, grp, v, n FROM total_$truck WHERE n <> 0";
	}
	return same($node, join(' UNION ALL ', @a), join(' UNION ALL ', @b), $name);
}

# All trucks are at home again, and there is one slot: the home's.
sub all_home
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', q{
			SELECT (SELECT bool_and(state = 'streaming' AND stream = 'main') FROM trucker.status)
				AND count(*) = 1 AND bool_and(slot_name = (SELECT slot_name FROM trucker.stream)) FROM pg_replication_slots}),
		"$name: all trucks are at home, and there is no other slot")
	  || diag sql('SELECT truck, state, stream, waiting_for, last_error FROM trucker.status') . "\n" . sql('TABLE trucker.stream');
}

# ----
# Stopping and killing
# ----

# Which is read when the setting is: now, with $now, or at the next start of the server.
sub stop_at
{
	my ($point, $now) = @_;

	sql(defined $point ? "ALTER SYSTEM SET trucker.stop_point = '$point'" : 'ALTER SYSTEM RESET trucker.stop_point');
	$node->reload if $now;
	return;
}

# What comes next happens at once: the worker of a truck that streams must have read the
# setting.  It is told of it before a new session sees it, and reads it between batches.
sub has_read
{
	my ($truck, $point) = @_;

	$node->poll_query_until('postgres', "SELECT current_setting('trucker.stop_point') = '$point'")
	  && caught_up($node, $truck)
	  or die "the worker of truck $truck does not go on";
	return;
}

# The process that has come to the point, since the log had that size.
sub who_stops_at
{
	my ($point, $log) = @_;

	$node->wait_for_log(qr/\[\d+\] LOG:  stop point "\Q$point\E" reached/, $log);
	my ($pid) = slurp_file($node->logfile, $log) =~ /\[(\d+)\] LOG:  stop point "\Q$point\E" reached/;
	return $pid;
}

my @ways = ('kill -9', 'kill -9 of the walsender', 'kill -9 of the postmaster', 'immediate shutdown', 'SIGTERM', 'SIGINT');

# The process is at a point, where it stays; ends it, or the server, and lets all go on.
# If it has only taken long, then long enough for the others to confirm what they have
# applied, if they may.
sub strike
{
	my ($way, $pid) = @_;
	my $walsender = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender' LIMIT 1});
	my $crash = $way =~ /kill -9|immediate/;

	stop_at(undef, 0);
	if    ($way eq 'kill -9')                    { kill_server_process($node, $pid); }
	elsif ($way eq 'kill -9 of the walsender')   { kill_server_process($node, $walsender || $pid); }
	elsif ($way eq 'kill -9 of the postmaster')  { disaster($node, $way, ''); }
	elsif ($way eq 'immediate shutdown')         { disaster($node, $way, ''); }
	elsif ($way eq 'SIGTERM')                    { kill 'TERM', $pid; }
	elsif ($way eq 'SIGINT')                     { kill 'INT', $pid; }
	$node->reload;
	# a process that has just ended by itself cannot be killed, and the load goes on
	load_stops() if $crash;
	return;
}

# ----
# Each point
# ----

sub trouble { my (@names) = @_; sql("INSERT INTO trouble VALUES ('$_') ON CONFLICT DO NOTHING") foreach @names; return; }

sub stands
{
	my ($truck, $condition) = @_;

	$node->poll_query_until('postgres', "SELECT $condition FROM trucker.status WHERE truck = '$truck'")
	  or die "truck $truck: not $condition";
	return;
}

# What makes some process come to the point, after what must come before; "reader" rides the
# stream whose worker comes to it at once.
my $reload = { go => sub { sql(q{SELECT trucker.resync('two')}) } };
my $leave  = { reader => 'one', go => sub { trouble('two') } };
my $follow = {
	reader => 'one',
	before => sub { trouble('three'); stands('three', "stream = 'main (catch-up)'") },
	go     => sub { trouble('two') }
};
my $return = {
	before => sub { trouble(qw(two three)); stands($_, "stream = 'main (catch-up)'") foreach qw(two three) },
	go     => sub { sql('DELETE FROM trouble') }
};
my $retry = { go => sub { trouble('two'); sql(q{SELECT trucker.resync('two')}) } };
my $again = {
	before => sub { sql(q{SELECT trucker.stop('two')}); stands('two', "state = 'stopped' AND stream <> 'main'") },
	go     => sub { sql(q{SELECT trucker.start('two')}) }
};
my $alone = {
	before => sub { sql(q{SELECT trucker.stop()}); stands($_, "state = 'stopped'") foreach @trucks; sql(q{SELECT trucker.resync('two')}) },
	go     => sub { sql(q{SELECT trucker.start('two')}) }
};
my @cases = (
	[ 'slot recorded'        => $reload ],
	[ 'slot created'         => $reload ],
	[ 'backfill: begun'      => $reload ],
	[ 'backfill: loaded'     => $reload ],
	[ 'backfill: committed'  => $reload ],
	[ 'backfilled'           => $reload ],
	[ 'reopened'             => $retry ],
	[ 'catch-up begun'       => $reload ],
	[ 'catch-up begun'       => $again ],
	[ 'join: begun'          => $return ],
	[ 'join: committed'      => $return ],
	[ 'takeover: pending'    => $return ],
	[ 'takeover: loaded'     => $return ],
	[ 'split: recorded'      => $leave ],
	[ 'split: copied'        => $leave ],
	[ 'split: moved'         => $leave ],
	[ 'move: begun'          => $follow ],
	[ 'move: committed'      => $follow ],
	[ 'promoted'             => $alone ],
	[ 'applied for one truck' => { go => sub { } } ]);

load_runs();
sql(q{SELECT trucker.start()});
all_home('start under load');

my @hands = shuffle(@ways);
push @cases, map { [ $_->[0], $_->[1], 'time passes' ] } grep { $_->[0] =~ /^(join|move|takeover)/ } @cases;
foreach my $case (shuffle(@cases))
{
	my ($point, $how, $way) = @$case;

	$way //= shift @hands;
	@hands = shuffle(@ways) unless @hands;
	my $name = "$way at \"$point\"";

	# one that is still on its way home would not come to the point
	load_runs();
	last unless all_home("before $name");
	$how->{before}->() if $how->{before};
	my $log = -s $node->logfile;
	stop_at($point, 1);
	has_read($how->{reader}, $point) if $how->{reader};
	$how->{go}->();
	my $pid = who_stops_at($point, $log);
	wal_passes($node, $way eq 'time passes' ? 120_000 : int(rand(60_000)));
	strike($way, $pid);
	sql('DELETE FROM trouble');
	sql('SELECT trucker.start()');
	load_runs();
	wal_passes($node, int(rand(30_000)));
	load_stops();
	last unless all_same($name);
}
all_home('in the end');

is(join('', grep { /TRAP|PANIC|terminated by signal (?!9\b)/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed by itself');

$node->stop;

done_testing();
