# Tables are renamed, moved and swapped, schemas renamed, partitions made, emptied,
# detached and dropped, all under load, and whatever is killed, also at the very points
# where a stream learns of it: each change arrives once.  The trucks' SQL is strict: a
# change that is lost, comes twice, or is another table's, shows.
#
# SEED=n repeats a test.
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
my $node = trucker_node('ddl_crash', conf => "max_wal_senders = 40\nmax_replication_slots = 40\nmax_worker_processes = 60\ntrucker.retry_max_delay = '1s'\n");

sub sql
{
	return $node->safe_psql('postgres', join ";\n", @_);
}

# The load writes tables by what they are, whatever they are called; between the look at
# the name and the write it may have been renamed, or the partition be gone.
sql(q{
CREATE TABLE which (name text PRIMARY KEY, relid oid);
CREATE SCHEMA home;
CREATE TABLE home.plain (id int PRIMARY KEY, v text);
CREATE TABLE home.decoy (id int PRIMARY KEY, v text);
CREATE TABLE home.whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE home.w0 PARTITION OF home.whole FOR VALUES FROM (0) TO (100);
CREATE TABLE home.w1 (v text, x int, id int NOT NULL);
ALTER TABLE home.w1 DROP x;
ALTER TABLE home.whole ATTACH PARTITION home.w1 FOR VALUES FROM (100) TO (200);
INSERT INTO which VALUES ('plain', 'home.plain'::regclass), ('decoy', 'home.decoy'::regclass), ('whole', 'home.whole'::regclass);
INSERT INTO home.whole SELECT i, 'v' || i FROM generate_series(0, 199) i;
INSERT INTO home.plain SELECT i, 'v' || i FROM generate_series(0, 199) i;

CREATE FUNCTION write(which text, a int, b int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t text;
BEGIN
	SELECT n.nspname || '.' || c.relname INTO t FROM which w JOIN pg_class c ON c.oid = w.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE w.name = write.which;
	EXECUTE format('INSERT INTO %s VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v', t) USING a, which || b;
	EXECUTE format('DELETE FROM %s WHERE id = $1', t) USING b;
	EXECUTE format('UPDATE %s SET id = $1, v = v || $1 WHERE id = $2 AND NOT EXISTS (SELECT FROM %s WHERE id = $1)', t, t) USING b, a;
EXCEPTION
	WHEN undefined_table OR check_violation OR unique_violation OR invalid_schema_name OR deadlock_detected OR object_not_in_prerequisite_state OR serialization_failure THEN NULL;
END $$});

my @trucks = qw(one two net parts);
my %table = (one => 'plain', two => 'plain', net => 'whole', parts => 'whole');
foreach (
	[ 'one', '{"stream": "alone"}' ],
	[ 'two', '{}' ],
	[ 'net', '{"changes": "net"}' ],
	[ 'parts', '{}' ])
{
	my ($truck, $options) = @$_;

	sql(qq{CREATE TABLE copy_$truck (id int PRIMARY KEY, v text);
		SELECT trucker.create_truck('$truck', '{home.$table{$truck}}', \$\$
			DELETE FROM copy_$truck AS d USING r WHERE meta__operation <> 'insert' AND d.id = old__id;
			INSERT INTO copy_$truck SELECT id, v FROM r WHERE meta__operation <> 'delete'\$\$, options => '$options')});
}

my $script = $node->basedir . '/load.sql';
append_to_file($script, join '', map { qq{
\\set a random(0, 299)
\\set b random(0, 299)
BEGIN;
SELECT write('$_', :a, :b);
SELECT write('plain', :b, :a);
COMMIT;
} } qw(plain decoy whole));
my $load;

sub load_runs
{
	return if $load && waitpid($load, POSIX::WNOHANG()) == 0;
	$load = spawn_pgbench($node, '/dev/null', $node->basedir . '/pgbench.err',
		'-n', '-c', '3', '-T', '3600', '-R', '120', '-f', $script);
	return;
}

# Stop, and wait until the server has nothing of it in hand any more.
sub load_stops
{
	stop_pgbench($node, $load);
	return;
}

# What a table is called now.
sub name_of
{
	my ($which) = @_;
	return sql("SELECT n.nspname || '.' || c.relname FROM which w JOIN pg_class c ON c.oid = w.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE name = '$which'");
}

sub bare
{
	my ($name) = @_;
	return $name =~ s/.*\.//r;
}

sub all_same
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck (@trucks)
	{
		ok(caught_up($node, $truck), "$what: truck $truck goes on")
		  && same($node, 'SELECT id, v FROM ' . name_of($table{$truck}), "TABLE copy_$truck", "$what: truck $truck is right");
	}
	return;
}

my $count = 0;
my %ddl = (
	rename => sub {
		my $which = (qw(plain whole))[ rand 2 ];
		my $name = name_of($which);
		return "ALTER TABLE $name RENAME TO r" . ++$count;
	},
	move => sub {
		my $which = (qw(plain whole))[ rand 2 ];
		my $name = name_of($which);
		# (as it may be tried again)
		return "SET client_min_messages = warning; CREATE SCHEMA IF NOT EXISTS m@{[ ++$count ]}; ALTER TABLE $name SET SCHEMA m$count";
	},
	swap => sub {
		my ($a, $b) = (name_of('plain'), name_of('decoy'));
		my ($sa, $sb) = ($a =~ s/\..*//r, $b =~ s/\..*//r);
		$count++;
		return "BEGIN; ALTER TABLE $a RENAME TO x$count; ALTER TABLE $b RENAME TO y$count; SELECT write('plain', 1, 2), write('decoy', 3, 4); "
		  . ($sa ne $sb ? "ALTER TABLE $sb.y$count SET SCHEMA $sa; ALTER TABLE $sa.x$count SET SCHEMA $sb; " : '')
		  . "ALTER TABLE $sb.x$count RENAME TO " . bare($b) . "; ALTER TABLE $sa.y$count RENAME TO " . bare($a) . "; SELECT write('decoy', 1, 2), write('plain', 3, 4); COMMIT";
	},
	schema => sub {
		my $schema = name_of((qw(plain whole))[ rand 2 ]) =~ s/\..*//r;
		return "BEGIN; SELECT write('plain', 5, 6); ALTER SCHEMA $schema RENAME TO n@{[ ++$count ]}; SELECT write('plain', 7, 8), write('whole', 7, 8); COMMIT";
	},
	undone => sub {
		my $name = name_of('plain');
		return "BEGIN; ALTER TABLE $name RENAME TO undone; SELECT write('plain', 9, 10), write('decoy', 9, 10); ROLLBACK";
	},
	partition => sub {
		my $whole = name_of('whole');
		my $third = sql("SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '$whole'::regclass AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), inhrelid) LIKE '%(200)%(300)%'");

		return $third ne ''
		  ? "BEGIN; LOCK TABLE $third; DELETE FROM $third; ALTER TABLE $whole DETACH PARTITION $third; INSERT INTO $third (id, v) VALUES (299, 'not ours'); COMMIT; DROP TABLE $third"
		  : rand() < 0.5 ? "CREATE TABLE p@{[ ++$count ]} PARTITION OF $whole FOR VALUES FROM (200) TO (300)"
		  : "BEGIN; CREATE TABLE p@{[ ++$count ]} (v text, id int NOT NULL); ALTER TABLE $whole ATTACH PARTITION p$count FOR VALUES FROM (200) TO (300); SELECT write('whole', 201, 202); COMMIT";
	});
my @kinds = sort keys %ddl;

sub alter
{
	my ($kind) = @_;
	my $sql = $ddl{$kind}->();
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, on_error_stop => 1);

	# who loses a deadlock with the load may try again
	for (1 .. 20)
	{
		last if $stderr !~ /deadlock/;
		($rc, $stdout, $stderr) = $node->psql('postgres', $sql, on_error_stop => 1);
	}
	note "$kind: $sql";
	return is($stderr, '', "$kind: no warning") && $rc == 0;
}

load_runs();
sql(q{SELECT trucker.start()});
wait_state($node, $_, 'streaming') foreach @trucks;

alter($_) foreach shuffle(@kinds, @kinds, @kinds, @kinds);
load_stops();
all_same('under load');

# Killed at the points where it is learnt, or at any other.
foreach my $case (
	[ 'inputs altered', 'kill -9' ], [ 'names learnt', 'kill -9' ],
	[ 'inputs altered', 'SIGTERM' ], [ 'names learnt', 'SIGTERM' ],
	[ '', 'kill -9 of the walsender' ], [ '', 'kill -9 of the worker' ], [ '', 'immediate shutdown' ])
{
	my ($point, $way) = @$case;
	my $log = -s $node->logfile;

	load_runs();
	sql("ALTER SYSTEM SET trucker.stop_point = '$point'");
	$node->reload;
	alter((grep { $_ ne 'undone' } @kinds)[ rand($#kinds) ]) for 1 .. ($point eq '' ? 3 : 1);
	if ($point ne '')
	{
		$node->wait_for_log(qr/\[\d+\] LOG:  stop point "$point" reached/, $log);
		my ($pid) = slurp_file($node->logfile, $log) =~ /\[(\d+)\] LOG:  stop point "$point" reached/;
		alter($kinds[ rand @kinds ]);
		sql('ALTER SYSTEM RESET trucker.stop_point');
		if ($way eq 'kill -9')
		{
			kill_server_process($node, $pid);
			load_stops();
		}
		else
		{
			kill 'TERM', $pid;
		}
		$node->reload;
	}
	else
	{
		sql('ALTER SYSTEM RESET trucker.stop_point');
		$node->reload;
		disaster($node, $way, 'parts');
		# a process that has just ended by itself cannot be killed, and the load goes on
		load_stops() if is_crash($way);
	}
	load_runs();
	alter($_) foreach (shuffle(@kinds))[ 0 .. 2 ];
	load_stops();
	all_same("$way at \"$point\"");
}

unlike(slurp_file($node->logfile), qr/\b(PANIC|TRAP)\b/, 'no process has crashed by itself');
done_testing();
