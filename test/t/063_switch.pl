# A stream that runs is switched to another output plugin: nothing is lost, nothing comes
# twice, whatever happens meanwhile.
#
# TRUCKER_SEED=n repeats the choices.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();
my $node = trucker_node('switch', conf => "trucker.output_plugin = wal2json\nautovacuum_naptime = '1s'\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# The plugins of all slots of streams.
sub plugins
{
	return sql(q{SELECT string_agg(DISTINCT r.plugin, ' ' ORDER BY r.plugin) FROM trucker.stream x JOIN pg_replication_slots r USING (slot_name)});
}

sub wait_plugin
{
	my ($plugin, $what) = @_;

	return ok($node->poll_query_until('postgres', qq{SELECT count(*) > 0 AND bool_and(r.plugin = '$plugin') FROM trucker.stream x
		LEFT JOIN pg_replication_slots r USING (slot_name) JOIN trucker.truck_state s ON s.stream_id = x.id AND s.enabled}), $what);
}

sub set_plugin
{
	my ($plugin) = @_;

	sql("ALTER SYSTEM SET trucker.output_plugin = $plugin");
	$node->reload;
	return;
}

# ----
# Bad input, rights
# ----

like(psql_err($node, "SELECT trucker.set_output_plugin('main', 'test_decoding')"),
	qr/ERROR:  22023: unknown output plugin "test_decoding"\nHINT:  Available: "wal2json", "pgoutput"\./, 'an unknown plugin');
like(psql_err($node, "SELECT trucker.set_output_plugin(NULL, 'wal2json')"), qr/ERROR:  22004: argument "stream" of set_output_plugin must not be null/, 'no stream');
like(psql_err($node, "SELECT trucker.set_output_plugin('', 'wal2json')"), qr/ERROR:  42602: invalid stream name ""/, 'no name');
like(psql_err($node, "ALTER SYSTEM SET trucker.output_plugin = 'no'"), qr/ERROR:  22023: .*\nHINT:  Available values: wal2json, pgoutput\./, 'an unknown setting');
sql("CREATE ROLE other");
like(psql_err($node, "SET ROLE other; SELECT trucker.set_output_plugin('main', 'wal2json')"), qr/ERROR:  42501: permission denied for function set_output_plugin/, 'no right');

# ----
# A transaction that has begun before the table was published
# ----

sql(q{CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE t_copy (LIKE t INCLUDING ALL);
INSERT INTO t VALUES (1, 'backfill');
SELECT trucker.create_truck('copy', '{t}', $$
	DELETE FROM t_copy AS c USING r WHERE c.id = r.old__id;
	INSERT INTO t_copy SELECT id, v FROM r WHERE meta__operation <> 'delete'$$, options => '{"reset_sql": "TRUNCATE t_copy"}');
SELECT trucker.start('copy')});
ok(wait_state($node, 'copy', 'streaming'), 'a truck streams');
is(plugins(), 'wal2json', 'by wal2json');

my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; INSERT INTO t VALUES (10, 'before')");
my $log = -s $node->logfile;
set_plugin('pgoutput');
ok($node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM trucker.published_table WHERE added_before IS NOT NULL)"), 'the table is published');
$open->query_safe("INSERT INTO t VALUES (11, 'after')");
sql("INSERT INTO t VALUES (2, 'meanwhile')");
ok(caught_up($node, 'copy'), 'the truck goes on');
is(plugins(), 'wal2json', 'by the old plugin, as an old transaction is open');
is(sql("SELECT state FROM trucker.publications"), 'for slots that are made from now on; for others when the transactions have ended that ran when it was added', 'the view tells');
$open->query_safe("COMMIT");
$open->quit;
wait_plugin('pgoutput', 'it is switched when that has ended');
same($node, 'TABLE t', 'TABLE t_copy', 'and has brought all of its changes') if caught_up($node, 'copy');
ok($node->wait_for_log(qr/stream "main" is decoded by pgoutput from/, $log), 'the log says so');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_replication_slots"), 'the old slot is gone');
sql("UPDATE t SET v = v || '!'; DELETE FROM t WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2");
same($node, 'TABLE t', 'TABLE t_copy', 'changes by pgoutput') if caught_up($node, 'copy');

# ----
# One stream, by its owner
# ----

sql("SELECT trucker.set_output_plugin('main', 'wal2json')");
wait_plugin('wal2json', 'one stream is switched back');
sql("INSERT INTO t VALUES (20, 'wal2json')");
same($node, 'TABLE t', 'TABLE t_copy', 'and goes on') if caught_up($node, 'copy');
sql("SELECT trucker.set_output_plugin('main')");
wait_plugin('pgoutput', 'and follows the setting again');

# ----
# A truck that rests stays where it is, and joins what there is later
# ----

set_plugin('wal2json');
wait_plugin('wal2json', 'wal2json again');
sql(q{CREATE TABLE t_late (LIKE t INCLUDING ALL);
SELECT trucker.create_truck('late', '{t}', $$
	DELETE FROM t_late AS c USING r WHERE c.id = r.old__id;
	INSERT INTO t_late SELECT id, v FROM r WHERE meta__operation <> 'delete'$$, options => '{"reset_sql": "TRUNCATE t_late"}');
SELECT trucker.start('late')});
ok(wait_state($node, 'late', 'streaming'), 'another truck');
sql("SELECT trucker.stop('late')");
ok(wait_state($node, 'late', 'stopped'), 'is stopped');
sql("INSERT INTO t VALUES (30, 'while it rests')");
set_plugin('pgoutput');
ok($node->poll_query_until('postgres', q{SELECT r.plugin = 'pgoutput' FROM trucker.stream x JOIN pg_replication_slots r USING (slot_name) WHERE home}), 'the others are switched');
sql("UPDATE t SET v = 'while it rests, later'; SELECT trucker.start('late')");
same($node, 'TABLE t', 'TABLE t_late', 'it has read what it had to, by the plugin of before') if caught_up($node, 'late');
wait_plugin('pgoutput', 'and joins');
sql("INSERT INTO t VALUES (31, 'together')");
same($node, 'TABLE t', 'TABLE t_late', 'and goes on') if caught_up($node, 'late');

# ----
# Crashes at each step
# ----

my $to = 'wal2json';
foreach my $point ('published', 'switch: recorded', 'switch: copied', 'switch: moved')
{
	# only pgoutput needs a publication, and a new one only if there was none
	if ($point eq 'published')
	{
		set_plugin($to = 'wal2json');
		wait_plugin($to, 'wal2json');
		ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_publication"), 'the publication goes');
	}
	my $offset = -s $node->logfile;

	$to = $to eq 'pgoutput' ? 'wal2json' : 'pgoutput';
	sql("ALTER SYSTEM SET trucker.stop_point = '$point'");
	set_plugin($to);
	ok($node->wait_for_log(qr/stop point "$point" reached/, $offset), "$point: reached");
	sql("INSERT INTO t SELECT coalesce(max(id), 0) + 1, '$point' FROM t");
	sql("ALTER SYSTEM RESET trucker.stop_point");
	$node->stop('immediate');
	$node->start;
	wait_plugin($to, "$point: after a crash it is switched");
	sql("UPDATE t SET v = v || '.'");
	foreach my $truck (qw(copy late))
	{
		same($node, 'TABLE t', "TABLE t_$truck", "$point: truck $truck") if caught_up($node, $truck);
	}
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_replication_slots"), "$point: one slot is left");
}
sql("SELECT trucker.drop_truck(truck) FROM trucker.status");

# ----
# To and fro under load, with disasters
# ----

chaos_setup($node);
sql("SELECT trucker.start()");
ok(caught_up($node, $_), "truck $_ runs") foreach @chaos_trucks;
my $load = chaos_load($node);
foreach my $round (1 .. 6)
{
	my $truck = $chaos_trucks[ rand @chaos_trucks ];

	set_plugin($to = $to eq 'pgoutput' ? 'wal2json' : 'pgoutput');
	wal_passes($node, int rand 400_000);
	if ($round % 2)
	{
		my $kind = $disasters[ rand @disasters ];

		disaster($node, $kind, $truck);
		# it may not have noticed yet that it has ended
		$load->stop if is_crash($kind);
	}
	wait_plugin($to, "round $round: all streams are read by $to");
	$load = chaos_load($node) unless $load->alive;
}
$load->stop;
chaos_same($node, 'after all');

done_testing();
