# The option output_table: what is generated keeps a table equal to its source, here and
# at another server; what does not go together is said at start; the SQL can be seen.
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
$source->safe_psql('postgres', q{
	CREATE TABLE item (a int, "B" text, note text, amount numeric, dropped int, PRIMARY KEY (a, "B"));
	ALTER TABLE item DROP COLUMN dropped;
	INSERT INTO item SELECT n, 'b' || n % 3, repeat('x', n % 50), n FROM generate_series(1, 5000) AS n;
	CREATE TABLE keys_only (id int PRIMARY KEY)});
my $tables = q{
	CREATE TABLE item_mirror (amount numeric, note text, "B" text, a int, twice numeric GENERATED ALWAYS AS (amount * 2) STORED, own text DEFAULT 'own', PRIMARY KEY ("B", a));
	CREATE TABLE item_log (a int, "B" text, note text, amount numeric);
	CREATE TABLE item_audit (a int, "B" text, old__a int, note text, amount numeric, meta__operation text, meta__lsn pg_lsn);
	CREATE TABLE keys_mirror (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
	CREATE TABLE no_key (a int, "B" text, note text, amount numeric);
	CREATE TABLE too_few (a int, "B" text, PRIMARY KEY (a, "B"));
	CREATE TABLE other_type (a int, "B" text, note date, amount numeric, PRIMARY KEY (a, "B"))};

$source->safe_psql('postgres', $tables);
$target->safe_psql('postgres', $tables);

sub truck
{
	my ($name, $connection, $input, $table, $more, $args) = @_;

	$source->safe_psql('postgres', "SELECT trucker.create_truck('$name', '{$input}', output_connection => '$connection', "
		  . ($args // '') . qq{ options => '{"output_table": "$table"$more}')});
	return;
}

my %node = (local => $source, warehouse => $target);
foreach my $connection ('local', 'warehouse')
{
	truck("${connection}_mirror", $connection, 'item', 'item_mirror', '');
	truck("${connection}_log", $connection, 'item', 'public.item_log', ', "mode": "append"');
	truck("${connection}_audit", $connection, 'item', 'item_audit', ', "mode": "append", "backfill": false');
	truck("${connection}_keys", $connection, 'keys_only', 'keys_mirror', '');
	truck("${connection}_joined", $connection, 'item', 'other_type', '',
		q{input_sql => 'SELECT a, "B", old__a, "old__B", NULL::date AS note, amount * 2 AS amount, meta__operation FROM r',});
}
$source->safe_psql('postgres', 'SELECT trucker.start()');
my @trucks = split /\n/, $source->safe_psql('postgres', 'SELECT name FROM trucker.truck');
ok(caught_up($source, $_), "$_: backfill") foreach @trucks;
$source->safe_psql('postgres', q{
	INSERT INTO item VALUES (0, 'new', NULL, NULL);
	UPDATE item SET note = 'changed', amount = -amount WHERE a % 7 = 0;
	UPDATE item SET a = a + 10000 WHERE a BETWEEN 100 AND 200;
	UPDATE item SET "B" = 'other' WHERE a BETWEEN 300 AND 310;
	DELETE FROM item WHERE a BETWEEN 1000 AND 4000;
	INSERT INTO keys_only SELECT generate_series(1, 10);
	UPDATE keys_only SET id = -id WHERE id < 5;
	DELETE FROM keys_only WHERE id = 7});
ok(caught_up($source, $_), "$_: changes") foreach @trucks;
foreach my $connection ('local', 'warehouse')
{
	my $node = $node{$connection};

	same_remote($source, 'SELECT a, "B", note, amount, amount * 2 AS twice, \'own\' AS own FROM item', $node, 'SELECT a, "B", note, amount, twice, own FROM item_mirror', "$connection: mirror");
	same_remote($source, 'TABLE keys_only', $node, 'TABLE keys_mirror', "$connection: nothing but a key");
	same_remote($source, 'SELECT a, "B", NULL AS note, amount * 2 AS amount FROM item', $node, 'SELECT a, "B", note, amount FROM other_type', "$connection: with input_sql");
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT a) FROM item_log'), '5001|5001', "$connection: append takes inserts");
	is($node->safe_psql('postgres', 'SELECT meta__operation, count(*), count(a), count(old__a) FROM item_audit GROUP BY 1 ORDER BY 1'),
		"delete|3001|0|3001\ninsert|1|1|0\nupdate|827|827|827", "$connection: append takes all changes where they can be told apart");
}

is($source->safe_psql('postgres', q{SELECT output_sql FROM trucker.generated_sql('warehouse_keys')}),
	qq{DELETE FROM keys_mirror AS t USING r
WHERE t.id = r.old__id AND r.meta__operation <> 'insert'
AND (r.meta__operation = 'delete' OR ROW(r.id) IS DISTINCT FROM ROW(r.old__id));
INSERT INTO keys_mirror (id) OVERRIDING SYSTEM VALUE
SELECT r.id FROM r
WHERE r.meta__operation <> 'delete'
ON CONFLICT (id) DO NOTHING}, 'the SQL can be seen');
is($source->safe_psql('postgres', q{SELECT count(*) FROM trucker.generated_sql('local_mirror') WHERE input_table = 'item'::regclass}), '1', 'of each input table');

# What does not go together
foreach my $connection ('local', 'warehouse')
{
	foreach my $case (
		[ 'no_key', '', '55000', qr/output table no_key has no primary key/ ],
		[ 'too_few', '', '42703', qr/output table too_few has no column "note"/ ],
		[ 'other_type', '', '42804', qr/column "note" is of type date/ ],
		[ 'nowhere', '', '42P01', qr/relation "nowhere" does not exist/ ])
	{
		my ($table, $more, $state, $message) = @$case;

		like(psql_err($source, qq{
			BEGIN;
			SELECT trucker.create_truck('x', '{item}', output_connection => '$connection', options => '{"output_table": "$table"$more}');
			SELECT trucker.start('x')}), qr/$state: +$message/, "$connection: $table");
	}
}
foreach my $case (
	[ q{options => '{}'}, '22004', qr/a truck needs output_sql/ ],
	[ q{output_sql => 'SELECT 1', options => '{"output_table": "t"}'}, '22023', qr/exclude each other/ ],
	[ q{options => '{"output_table": "t", "mode": "merge"}'}, '22023', qr/option "mode" of a truck must be "append" or "mirror"/ ],
	[ q{options => '{"output_table": "a.b c.d"}'}, '42602', qr/invalid name syntax/ ],
	[ q{options => '{"output_table": "t", "inserts_only": true}'}, '22023', qr/need "mode": "append"/ ])
{
	my ($args, $state, $message) = @$case;

	like(psql_err($source, "SELECT trucker.create_truck('x', '{item}', $args)"), qr/$state: +.*$message/, "refused: $args");
}

# From SQL of one's own to what is generated, and back
$source->safe_psql('postgres', q{
	SELECT trucker.alter_truck('local_log', output_sql => 'INSERT INTO item_log (a) SELECT -a FROM r', options => '{"output_table": null, "mode": null}');
	INSERT INTO item VALUES (77777, 'x', NULL, NULL)});
ok(caught_up($source, 'local_log'), 'altered');
is($source->safe_psql('postgres', 'SELECT count(*) FROM item_log WHERE a = -77777'), '1', 'SQL of its own');
$source->safe_psql('postgres', q{
	SELECT trucker.alter_truck('local_log', output_sql => '', options => '{"output_table": "item_log", "mode": "append"}');
	INSERT INTO item VALUES (77778, 'x', NULL, NULL)});
ok(caught_up($source, 'local_log'), 'altered back');
is($source->safe_psql('postgres', 'SELECT count(*) FROM item_log WHERE a = 77778'), '1', 'generated again');

done_testing();
