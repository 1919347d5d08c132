# Sixteen trucks keep the answers to questions about a schema as in TPC-DS (test/tpcds/README.md),
# under a load of everything that applications do to tables, with crashes of whatever there is.
# At each end every answer is what its question says of the source, row for row.
#
# make soak does the same for longer.  TRUCKER_SEED=n makes the same rows, and chooses the same
# disasters and transactions; how these meet is a matter of timing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerRemote;
use TruckerTest;
use TruckerTpcds;

seed();

my $node = trucker_node('tpcds', conf => q{
max_prepared_transactions = 20
autovacuum_naptime = '5s'
log_line_prefix = '%m [%p] %q%a '
trucker.retry_max_delay = '500ms'
});
my $remote = remote_node('warehouse');
my $rate = 90;

sub sql
{
	return $node->safe_psql('postgres', join ";\n", @_);
}

tpcds_setup($node, $remote);

###
### The tables are loaded while they are written
###
my $load = tpcds_load($node, $rate);

sql('SET client_min_messages = error; SELECT trucker.start()');
ok(wait_state($node, $_, 'streaming'), "$_ streams") foreach @tpcds_trucks;
tpcds_sells($node, 200);
ok($load->stop, 'the load meets no error') or diag $load->errors;
tpcds_same($node, $remote, 'loaded');
foreach my $truck (@tpcds_trucks)
{
	cmp_ok(sql("SELECT count(*) FROM question.$truck"), '>', 4, "there is something to compare for $truck");
}

###
### Disasters
###
my @all = shuffle('kill -9 of the worker', 'kill -9 of the walsender', 'kill -9 of a client', 'immediate shutdown', 'crash of the other server',
	'pg_terminate_backend of the worker');

my $not_done = q{SELECT coalesce(string_agg(sequencename, ' '), '') FROM pg_sequences WHERE schemaname = 'load' AND sequencename ~ '^did_' AND last_value IS NULL};

while (my @kinds = splice @all, 0, 2)
{
	undef $load;
	foreach my $kind (@kinds)
	{
		$load //= tpcds_load($node, $rate);
		tpcds_sells($node, 20 + int(rand(80)));
		note tpcds_operator($node) if rand() < 0.5;
		# a load from the beginning, which the disaster may meet
		sql("SET client_min_messages = error; SELECT trucker.resync('$tpcds_trucks[ rand @tpcds_trucks ]')") if rand() < 0.3;
		tpcds_disaster($node, $remote, $kind);
		next unless tpcds_ends_sessions($kind);
		$load->stop;
		undef $load;
	}
	$load //= tpcds_load($node, $rate);
	tpcds_sells($node, 100);
	# how often the rarest things have been done until now is chance
	$node->poll_query_until('postgres', "SELECT ($not_done) = ''") or diag sql($not_done) if !@all;
	ok($load->stop, 'the load meets no error') or diag $load->errors;
	last unless tpcds_same($node, $remote, join ', ', @kinds);
}
no_other_slot($node, 'after all disasters');
is(sql($not_done), '', 'the load has done everything that it is to do');

###
### A table with rows is attached: these rows are in no change, and trucks that read the whole say so
###
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{
	SET search_path = tpcds;
	CREATE TABLE inventory_full (LIKE inventory INCLUDING INDEXES);
	ALTER TABLE inventory_full REPLICA IDENTITY FULL;
	INSERT INTO inventory_full (inv_date_sk, inv_item_sk, inv_warehouse_sk, inv_quantity_on_hand)
		SELECT load.week(60), item, 1, 1000 + item FROM generate_series(1, 200) AS item;
	ALTER TABLE inventory ATTACH PARTITION inventory_full FOR VALUES FROM (2451960) TO (2451990)});
like($stderr, qr/WARNING.*trucks that read this table cannot go on/, 'an attached table with rows: a warning') or diag $stderr;
foreach my $truck (grep { /^inventory/ } @tpcds_trucks)
{
	ok(wait_state($node, $truck, 'lost'), "$truck is lost");
	sql("SELECT trucker.resync('$truck')");
}
tpcds_same($node, $remote, 'loaded anew');

$node->stop;
$remote->stop;

done_testing();
