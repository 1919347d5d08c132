# What arrives while a truck is busy becomes one batch, however small its transactions
# are: else one that takes long for a batch would fall behind by that for each of them.
# A walsender that has caught up writes a keepalive behind each transaction; these do
# not end a batch.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('batches', conf => "autovacuum = off\ntrucker.max_batch_age = '1h'\ntrucker.max_truck_delay = 0\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sql(q{
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE a_one (id int);
CREATE TABLE a_two (id int);
});
foreach my $table ('a_one', 'a_two')
{
	sql(qq{SELECT trucker.create_truck('$table', '{a}', 'INSERT INTO $table SELECT id FROM r', options => '{"stream": "$table"}')});
}
# one truck alone takes changes as they arrive, several share a kept batch
sql(q{
CREATE TABLE b_two (id int);
SELECT trucker.create_truck('b_two', '{a}', 'INSERT INTO b_two SELECT id FROM r', options => '{"stream": "a_two"}');
SELECT trucker.start()});
foreach my $truck ('a_one', 'a_two', 'b_two')
{
	ok(wait_state($node, $truck, 'streaming'), "truck $truck streams");
}

my $lock = $node->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE a_one, a_two IN SHARE MODE');
sql('INSERT INTO a VALUES (0)');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation IN ('a_one'::regclass, 'a_two'::regclass)}),
	'both streams wait for a lock');
foreach my $id (1 .. 30)
{
	sql("INSERT INTO a VALUES ($id)");
	my $lsn = sql('SELECT pg_current_wal_lsn()');

	$node->poll_query_until('postgres', "SELECT bool_and(sent_lsn >= '$lsn') FROM pg_stat_replication")
	  or die 'the walsenders do not catch up';
}
$lock->query_safe('COMMIT');
$lock->quit;

foreach my $truck ('a_one', 'a_two', 'b_two')
{
	ok(caught_up($node, $truck), "truck $truck goes on");
	same($node, 'TABLE a', "TABLE $truck", 'with all that there is');
	# the transaction that waited, and all the others
	cmp_ok(sql("SELECT count(DISTINCT xmin::text) FROM $truck"), '<=', 3, 'in few transactions');
}

$node->stop;

done_testing();
