# pg_upgrade brings no WAL and no slots along.  trucker.prepare_upgrade() drains the trucks,
# says what is not as it must be, and stops them; on the new server they go on with new
# slots, without loading anything, and have each change once, here and at another server -
# unless an input table was written in between: then the truck is lost, and says so.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $conf = "autovacuum = off\nmax_prepared_transactions = 3\n";
my $old   = trucker_node('before', conf => $conf);
my $there = remote_node('destination');

sub sql
{
	my ($node, @statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# prepare($node, $timeout): what is not as it must be
sub prepare
{
	my ($node, $timeout) = @_;

	return sql($node, "SELECT item, detail, hint FROM trucker.prepare_upgrade('$timeout') WHERE NOT ok");
}

# Changes of all tables; several of the same rows.
my $next = 1000;

sub change
{
	my ($node) = @_;

	foreach my $table (qw(a b c d))
	{
		$next++;
		sql($node, "INSERT INTO $table VALUES ($next, $next)",
			"BEGIN; UPDATE $table SET v = v + 1 WHERE id % 7 = $next % 7; DELETE FROM $table WHERE id = $next - 2; COMMIT");
	}
	return;
}

# All trucks have what their tables hold, each change once, also what comes now.
sub all_right
{
	my ($node, $name, @trucks) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $when ($name, "$name, and further changes")
	{
		ok(caught_up($node, $_), "$when: $_ catches up") foreach @trucks, 'step';
		foreach my $truck (@trucks)
		{
			next if $truck eq 'there';
			same($node, "SELECT sum(v)::bigint, count(*) FROM $truck", "SELECT v, n FROM total_$truck", "$when: truck $truck has each change once");
		}
		same($node, 'SELECT id, v FROM b', 'SELECT id, v FROM mirror', "$when: the first step of the cascade");
		same($node, 'SELECT id, v FROM mirror', 'SELECT id, v FROM mirror2', "$when: the second step");
		is($there->safe_psql('postgres', 'SELECT v, n FROM total'), sql($node, 'SELECT sum(v), count(*) FROM a'), "$when: the other server has each change once");
		change($node);
	}
	return;
}

# A truck that adds up what it reads: what is lost, or applied twice, shows.
sub adder
{
	my ($truck, $table, $target, $more) = @_;

	return qq{SELECT trucker.create_truck('$truck', '{$table}', \$\$
	INSERT INTO $target AS t SELECT true, sum(v), sum(n)
	FROM (SELECT v, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL SELECT -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
	HAVING count(*) > 0 ON CONFLICT (one) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n\$\$$more)};
}

my $total = '(one bool PRIMARY KEY, v bigint NOT NULL, n bigint NOT NULL, loaded timestamptz DEFAULT clock_timestamp())';
sql($old, "CREATE TABLE $_ (id int PRIMARY KEY, v int NOT NULL); ALTER TABLE $_ REPLICA IDENTITY FULL;
	INSERT INTO $_ SELECT n, n FROM generate_series(1, 100) AS n; CREATE TABLE total_$_ $total") foreach qw(a b);
sql($old, q{CREATE TABLE c (id int PRIMARY KEY, v int NOT NULL) PARTITION BY RANGE (id)},
	q{CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (50)}, q{CREATE TABLE c2 PARTITION OF c DEFAULT},
	q{ALTER TABLE c1 REPLICA IDENTITY FULL; ALTER TABLE c2 REPLICA IDENTITY FULL; INSERT INTO c SELECT n, n FROM generate_series(1, 100) AS n},
	"CREATE TABLE total_c $total",
	q{CREATE TABLE d (id int PRIMARY KEY, v int NOT NULL); CREATE TABLE mirror (id int PRIMARY KEY, v int); CREATE TABLE mirror2 (id int PRIMARY KEY, v int)});
$there->safe_psql('postgres', "CREATE TABLE total $total; GRANT ALL ON total TO writer");
connect_remote($old, $there, 'warehouse');
sql($old, adder('a', 'a', 'total_a', ''), adder('b', 'b', 'total_b', q{, options => '{"stream": "aside"}'}),
	adder('c', 'c', 'total_c', q{, options => '{"stream": "pg", "reset_sql": "TRUNCATE total_c"}'}),
	q{SELECT trucker.set_output_plugin('pg', 'pgoutput')},
	adder('there', 'a', 'total', q{, output_connection => 'warehouse'}),
	q{SELECT trucker.create_truck('mirror', '{b}', options => '{"output_table": "mirror"}')},
	q{SELECT trucker.create_truck('step', '{mirror}', options => '{"output_table": "mirror2"}')},
	q{SELECT trucker.create_truck('rests', '{d}', 'DELETE FROM mirror2 WHERE false')},
	'SELECT trucker.start()');
my @trucks = qw(a b c there);
change($old);
all_right($old, 'before', @trucks);
my $loaded = 'SELECT loaded FROM total_a UNION ALL SELECT loaded FROM total_b UNION ALL SELECT loaded FROM total_c';
my $loaded_at = sql($old, $loaded);
my $loaded_there = $there->safe_psql('postgres', 'SELECT loaded FROM total');

# ----
# What is not as it must be
# ----
ok(wait_state($old, $_, 'streaming'), "$_ streams") foreach @trucks, qw(mirror step rests);
like(psql_err($old, 'BEGIN; CREATE TABLE x (); SELECT * FROM trucker.prepare_upgrade()'),
	qr/ERROR:  25001: prepare_upgrade cannot be called in a transaction that has written/, 'not in a transaction that has written');
my $writer = $old->background_psql('postgres');
$writer->query_safe('BEGIN; INSERT INTO a VALUES (0, 0)');
like(prepare($old, '1 s'), qr/^everything is applied\|transactions that have written are still running\.  After 00:00:01: process \d+ \(client backend\)\.\|Stop the application/,
	'a transaction that has written and is still open');
is(sql($old, q{SELECT count(*) FROM trucker.status WHERE state = 'streaming'}), '7', 'then nothing is stopped');
$writer->query_safe(q{PREPARE TRANSACTION 'left over'});
like(prepare($old, '1 s'), qr/prepared transaction 'left over'/, 'a prepared transaction');
sql($old, q{ROLLBACK PREPARED 'left over'});

# what is only deleted leaves no row behind that would tell of it
my $offset = -s $old->logfile;
sql($old, q{ALTER SYSTEM SET trucker.stop_point = 'upgrade: applied'}, 'SELECT pg_reload_conf()');
$old->wait_for_log(qr/parameter "trucker.stop_point" changed/, $offset);
my $caller = $old->background_psql('postgres');
$caller->query_until(qr/asked/, "\\echo asked\nSELECT item, left(detail, 100) FROM trucker.prepare_upgrade('10 s') WHERE NOT ok;\n\\echo ended\n");
$old->wait_for_log(qr/stop point "upgrade: applied" reached/, $offset);
my $worker = stream_worker_pid($old, 'a');
kill 'STOP', $worker;
sql($old, q{DELETE FROM a WHERE id = 7}, 'ALTER SYSTEM RESET trucker.stop_point', 'SELECT pg_reload_conf()');
like($caller->query_until(qr/ended/, ''), qr/^everything is applied\|truck "\w+" has not applied all that is committed/m, 'a delete that comes in between, and is not applied, is noticed');
kill 'CONT', $worker;
$caller->quit;
is(sql($old, q{SELECT count(*) FROM trucker.truck_state WHERE enabled}), '7', 'nothing is stopped');

sql($old, q{SELECT trucker.stop('rests')});
ok(wait_state($old, 'rests', 'stopped'), 'one truck is stopped');
is(prepare($old, '60 s'), q{truck "rests"|truck "rests" is stopped|SELECT trucker.start('rests');},
	'of a truck that was stopped nobody knows whether it has all: that is all there is to say');
is(sql($old, q{SELECT count(*) FROM trucker.truck_state WHERE enabled}), '0', 'all others are stopped');
ok(wait_state($old, $_, 'stopped'), "$_ is stopped") foreach @trucks, 'mirror', 'step';
like(prepare($old, '1 s'), qr/^truck "rests"[^\n]*$/, 'called again, it finds them drained');
sql($old, q{INSERT INTO a VALUES (-1, 1)});
like(prepare($old, '1 s'), qr/truck "a" is not drained any more: rows of table a have been written since it was drained\|SELECT trucker\.start\('a'\)/,
	'somebody writes: what was drained is not any more');
is(sql($old, q{SELECT count(*) FROM trucker.prepare_upgrade() WHERE ok AND item = 'truck "b"'}), '1', '... but those whose tables are as they were are');

# staying on this server, all go on as after any stop
sql($old, 'SELECT trucker.start()');
change($old);
all_right($old, 'the upgrade was called off', @trucks);
is(sql($old, 'SELECT count(*) FROM trucker.drained'), '0', 'and nothing is noted any more');
is(sql($old, $loaded), $loaded_at, 'nothing was loaded anew');

# ----
# pg_upgrade
# ----
my $bindir = $old->config_data('--bindir');

# upgraded($from, $name): a new server made from the one, which is stopped
sub upgraded
{
	my ($from, $name) = @_;
	my $to = trucker_node($name, conf => $conf, start => 0, extension => 0);

	$from->stop if defined $from->{_pid};
	local $ENV{PGPORT};
	my $dir = $to->basedir;
	chdir $dir or die "chdir: $!";
	command_ok([ "$bindir/pg_upgrade", '-d', $from->data_dir, '-D', $to->data_dir, '-b', $bindir, '-B', $bindir,
			'-s', $from->host, '-p', $from->port, '-P', $to->port, '--no-sync' ], "pg_upgrade makes $name")
	  or diag map { "$_:\n" . slurp_file($_) } glob($to->data_dir . '/pg_upgrade_output.d/*/log/*');
	return $to;
}

is(prepare($old, '60 s'), '', 'before pg_upgrade nothing is left to do');
my $new = upgraded($old, 'after');
$new->start;
isnt(sql($new, 'SELECT system_identifier FROM pg_control_system()'), '', 'it runs');
is(sql($new, q{SELECT string_agg(DISTINCT state, ' ') FROM trucker.status}), 'stopped', 'on the new server the trucks are stopped');
sql($new, 'SELECT trucker.start()');
ok(wait_state($new, $_, 'streaming'), "$_ runs") foreach @trucks, 'mirror', 'step', 'rests';
change($new);
all_right($new, 'after pg_upgrade', @trucks);
is(sql($new, $loaded), $loaded_at, 'nothing was loaded anew');
is($there->safe_psql('postgres', 'SELECT loaded FROM total'), $loaded_there, '... nor at the other server');
is($there->safe_psql('postgres', 'SELECT count(*) FROM trucker_positions.position'), '1', 'where the position is the new server\'s');
is(sql($new, 'SELECT count(*) FROM trucker.drained'), '0', 'nothing is noted any more');
ok($new->poll_query_until('postgres', q{SELECT count(*) = 3 FROM pg_replication_slots}), 'each stream has one slot')
  or diag sql($new, 'TABLE trucker.slots');

# the old server, started by mistake, cannot write to the same destination
$old->start;
sql($old, q{SELECT trucker.start('there')});
ok(wait_state($old, 'there', 'lost'), 'on the old server the truck that writes elsewhere has lost its destination');
like(sql($old, q{SELECT last_error FROM trucker.status WHERE truck = 'there'}), qr/its destination knows nothing of it/, 'and says so');
$old->stop;
all_right($new, 'after that', @trucks);

# ----
# What was written in between is noticed
# ----
is(prepare($new, '60 s'), '', 'once more nothing is left to do');
sql($new, q{UPDATE a SET v = v + 1 WHERE id = 5}, q{DELETE FROM c WHERE id = 60});
my $third = upgraded($new, 'written');
$third->start;
sql($third, q{INSERT INTO mirror VALUES (-5, 5)}, 'SELECT trucker.start()');
my %why = (
	a => 'rows of table a have been written since it was drained',
	there => 'rows of table a have been written since it was drained',
	c => 'table c had \d+ rows when it was drained, and has \d+',
	step => 'rows of table mirror have been written since it was drained');
foreach my $truck (sort keys %why)
{
	ok(wait_state($third, $truck, 'lost'), "truck $truck is lost");
	like(sql($third, "SELECT last_error FROM trucker.status WHERE truck = '$truck'"),
		qr/^55000: truck "$truck" cannot go on after pg_upgrade: $why{$truck}\nDETAIL:.*\nHINT: .*trucker\.resync\('$truck'\)/, '... and says why');
}
ok(wait_state($third, 'b', 'streaming'), 'a truck whose table was not written goes on');
ok(caught_up($third, 'b'), '... and catches up');
same($third, 'SELECT sum(v)::bigint, count(*) FROM b', 'SELECT v, n FROM total_b', '... and has each change once');
sql($third, q{SELECT trucker.resync('c'); SELECT trucker.start('c')});
ok(caught_up($third, 'c'), 'resync() helps');
same($third, 'SELECT sum(v)::bigint, count(*) FROM c', 'SELECT v, n FROM total_c', '... and the truck has each change once');

$third->stop;
$there->stop;
done_testing();
