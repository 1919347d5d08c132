# Through pgbouncer with transaction pooling, where two transactions may not see the same
# session: small and large batches arrive, once, also when pgbouncer is restarted.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerRemote;
use TruckerTest;

my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'pgbouncer is not installed' unless $pgbouncer;

my $source = trucker_node('source');
my $target = remote_node('target', hba => "local all all trust\n");
my $dir    = PostgreSQL::Test::Utils::tempdir;
my $port   = PostgreSQL::Test::Cluster::get_free_port();

append_to_file("$dir/users", qq{"writer" "secret of the writer"\n});
append_to_file("$dir/ini", qq{[databases]
postgres = host=127.0.0.1 port=@{[ $target->port ]} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $dir/users
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
logfile = $dir/log
pidfile = $dir/pid
});

my $pid;

sub bouncer_starts
{
	unlink "$dir/pid";
	system($pgbouncer, '-q', '-d', "$dir/ini") == 0 or die 'pgbouncer does not start';
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if -s "$dir/pid";
		select undef, undef, undef, 0.1;
	}
	$pid = slurp_file("$dir/pid");
	chomp $pid;
	return;
}

bouncer_starts();

connect_remote($source, $target, 'pooled', port => $port);
$source->safe_psql('postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, v text);
	CREATE TABLE entry (id bigserial PRIMARY KEY, v text);
	INSERT INTO item SELECT n, repeat('v', 20) || n FROM generate_series(1, 30000) AS n});
$target->safe_psql('postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, v text);
	CREATE TABLE log (id bigint, v text);
	GRANT ALL ON ALL TABLES IN SCHEMA public TO writer});
$source->safe_psql('postgres', q{
	SELECT trucker.create_truck('item', '{item}', output_connection => 'pooled', options => '{"output_table": "item"}');
	SELECT trucker.create_truck('log', '{entry}', 'INSERT INTO log SELECT id, v FROM r', output_connection => 'pooled');
	SELECT trucker.start()});
foreach my $round (1 .. 3)
{
	foreach my $n (1 .. 20)
	{
		$source->safe_psql('postgres', "INSERT INTO entry (v) VALUES ('$round'); UPDATE item SET v = v || '.' WHERE id = $n");
	}
	$source->safe_psql('postgres', 'UPDATE item SET v = v || 1 WHERE id > 5000');
	if ($round == 2)
	{
		$source->safe_psql('postgres', 'INSERT INTO entry (v) SELECT n FROM generate_series(1, 40000) AS n');
		kill 'KILL', $pid;
		select undef, undef, undef, 0.1 while kill 0, $pid;
		bouncer_starts();
	}
	ok(caught_up($source, $_), "round $round: $_") foreach 'item', 'log';
	same_remote($source, 'TABLE item', $target, 'TABLE item', "round $round: the mirror");
	same_remote($source, 'TABLE entry', $target, 'TABLE log', "round $round: each row once");
}
cmp_ok($target->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'writer'}), '>=', 1, 'the sessions are those of the pool');

# dry_run() and explain() need no session beyond their transaction, and leave nothing in one of the pool's.
$source->safe_psql('postgres', q{SELECT trucker.stop('item')});
wait_state($source, 'item', 'stopped');
$source->safe_psql('postgres', q{UPDATE item SET v = 'small' WHERE id < 4});
$source->safe_psql('postgres', q{UPDATE item SET v = v || 'large' WHERE id > 5000});
is( $source->safe_psql('postgres', q{SELECT outcome, updates, rows_in, rows_inserted + rows_updated, error FROM trucker.dry_run('item', 10)}),
	"applied|3|3|3|\napplied|25000|25000|25000|", 'dry_run() through a pooler');
is($source->safe_psql('postgres', q{SELECT count(*), count(plan) FROM trucker.explain('item', 1)}), '2|2', 'explain(), rows as parameters');
is($source->safe_psql('postgres', q{SELECT count(*), count(plan) FROM trucker.explain('item', 5000)}), '2|2', '... and in a table');
is($target->safe_psql('postgres', q{SELECT count(*) FROM item WHERE v ~ 'small|large'}), '0', 'nothing is written');
is($target->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'trucker_r%'}), '0', '... and no table is left');
$source->safe_psql('postgres', q{SELECT trucker.start('item')});
ok(caught_up($source, 'item'), 'the truck goes on');
same_remote($source, 'TABLE item', $target, 'TABLE item', '... and writes each row');

# Migrations need a session; to look at them does not.
my $project = project_dir($source);
project_files($project, 'trucker.yml' => "connections: []\n", 'migrate/pooled/2024-01-01T00:00:00_up.sql' => 'SELECT 1');
is($source->safe_psql('postgres', 'SELECT connection, state FROM trucker.migrations'), 'pooled|pending', 'the view looks through a pooler');
like(psql_err($source, q{CALL trucker.migrate('pooled')}), qr/ERROR:  0A000.*connection "pooled" leads through a pooler/s, 'migrate() does not go through one');

kill 'TERM', $pid;
done_testing();
