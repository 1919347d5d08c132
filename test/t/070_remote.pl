# Output to another PostgreSQL server: what a truck writes there is what it would have
# written here - small batches and large ones, values of all types, deletes, several
# statements, several inputs, backfill, TRUNCATE - once each, in whole transactions.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $source = trucker_node('source');
my $target = remote_node('target');

connect_remote($source, $target, 'warehouse');

# ----
# Backfill, then changes; small and large
# ----

$source->safe_psql('postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(12,2), at timestamptz);
	INSERT INTO item SELECT n, 'item ' || n, n / 7.0, now() - n * interval '1 min' FROM generate_series(1, 30000) AS n});
$target->safe_psql('postgres', q{CREATE TABLE item_copy (id int PRIMARY KEY, name text, price numeric(12,2), at timestamptz)});

my $mirror = q{
	DELETE FROM item_copy AS t USING r WHERE t.id = r.old__id AND r.id IS DISTINCT FROM r.old__id;
	-- a comment, and a semicolon; in it
	INSERT INTO item_copy SELECT id, name, price, at FROM r WHERE meta__operation <> 'delete'
	ON CONFLICT (id) DO UPDATE SET (name, price, at) = (excluded.name, excluded.price, excluded.at);
};
$source->safe_psql('postgres', qq{
	SELECT trucker.create_truck('mirror', '{item}', \$\$$mirror\$\$, output_connection => 'warehouse',
		options => '{"reset_sql": "TRUNCATE item_copy", "on_truncate": "run", "truncate_sql": "TRUNCATE item_copy"}');
	SELECT trucker.start('mirror')});
ok(caught_up($source, 'mirror'), 'the backfill is there');
same_remote($source, 'TABLE item', $target, 'TABLE item_copy', 'a backfill of 30,000 rows');

$source->safe_psql('postgres', q{
	UPDATE item SET name = name || '!' WHERE id = 1;
	DELETE FROM item WHERE id = 2;
	UPDATE item SET id = -3 WHERE id = 3;
	INSERT INTO item VALUES (0, NULL, NULL, NULL);
	INSERT INTO item VALUES (-1, E'quote " back \\\\ brace {} comma , tab \t newline \n end', 'NaN', '-infinity');
	UPDATE item SET price = price + 1 WHERE id BETWEEN 100 AND 9999;
	DELETE FROM item WHERE id BETWEEN 20000 AND 25000;
	UPDATE item SET id = -id WHERE id BETWEEN 26000 AND 29000});
ok(caught_up($source, 'mirror'), 'changes are there');
same_remote($source, 'SELECT id, name, CASE WHEN id <> -1 THEN price END, at FROM item', $target, 'TABLE item_copy',
	'small and large batches of changes');

$source->safe_psql('postgres', q{TRUNCATE item; INSERT INTO item VALUES (1, 'after', 1, now())});
ok(caught_up($source, 'mirror'), 'truncate is there');
same_remote($source, 'TABLE item', $target, 'TABLE item_copy', 'TRUNCATE runs truncate_sql there');

# The position there is the one here.
my $here  = $source->safe_psql('postgres', 'SELECT lsn FROM trucker.position');
my $there = $target->safe_psql('postgres', 'SELECT lsn FROM trucker_positions.position');
is($here, $there, 'both sides know the same position');

$source->safe_psql('postgres', 'INSERT INTO item SELECT n, repeat(md5(n::text), 40), n, NULL FROM generate_series(2, 3000) AS n');
$source->safe_psql('postgres', q{SELECT trucker.resync('mirror')});
ok(caught_up($source, 'mirror'), 'resync');
same_remote($source, 'TABLE item', $target, 'TABLE item_copy', 'resync runs reset_sql there and loads anew');

done_testing();
