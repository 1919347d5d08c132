# r has the table's columns, whatever they are called, how many they are, and in whatever
# way the SQL reads them.  (What ALTER TABLE does to them: 039_columns_altered.pl.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ColumnsTest;
use TruckerTest;

columns_node('columns');

###
### Names
###

my @names = (
	'Mixed', 'MIXED', 'a.b', 'a b', 'a"b', 'a,b', "it's", 'größe', '日本', 'select', 'r', '*', '*.*', '\\', '\\\\', '{{ .rows }}', '%s', '$1', ' ', "new\nline",
	"tab\t", 'x' x 63, 'é' x 29);
my @short = grep { length $_ <= 58 } @names;
my @names_tables;
my $names_sql = '';

foreach my $schema ('public', 'Sche.ma "a", *', 'ü')
{
	$names_sql .= 'CREATE SCHEMA IF NOT EXISTS ' . quoted($schema) . ";\n";
	foreach my $name (@names)
	{
		my $table = quoted($schema) . '.' . quoted($name);

		push @names_tables, $table;
		$names_sql .= "CREATE TABLE $table (" . quoted('key "k", k') . ' int PRIMARY KEY, ' . join(', ', map { quoted($_) . ' text' } @names) . ");\n"
		  . "ALTER TABLE $table REPLICA IDENTITY FULL;\n"
		  . "INSERT INTO $table VALUES (1, " . join(', ', map { literal("old $_") } @names) . ");\nINSERT INTO $table VALUES (2, '');\n";
	}
}
sql($names_sql);
# Braces in a name must be written as a template writes them.
sub in_template
{
	my ($sql) = @_;
	return $sql =~ s/\{\{/{{ "{{" }}/gr;
}

my $key = quoted('key "k", k');
my $old_key = quoted('old__key "k", k');
my $all = join ' || ', map { 'coalesce(' . quoted($_) . q{, '-')} } @names;
my $old_all = join ' || ', map { 'coalesce(' . quoted("old__$_") . q{, '-')} } @short;
my $short_all = join ' || ', map { 'coalesce(' . quoted($_) . q{, '-')} } @short;

# Among the input tables, one is called r, and one *.
sql(q{CREATE TABLE names_copy (tab text, k int, v text, PRIMARY KEY (tab, k));
CREATE TABLE names_old (tab text, k int, op text, v text);}
	  . 'SELECT trucker.create_truck(' . literal(q{it's "names", {{ .rows }}}) . ', ARRAY[' . join(', ', map { literal($_) . '::regclass' } @names_tables) . '], '
	  . literal("INSERT INTO names_old SELECT meta__table, $old_key, meta__operation, " . in_template($old_all) . q{ FROM {{ .rows }} WHERE meta__operation <> 'insert';}
		. qq{DELETE FROM names_copy USING r WHERE meta__operation <> 'insert' AND k = $old_key AND tab = meta__table;}
		. qq{INSERT INTO names_copy SELECT meta__table, $key, } . in_template($all) . q{ FROM r WHERE meta__operation <> 'delete' AND EXISTS (SELECT FROM {{ .input_table }})})
	  . ');');
sql('SELECT trucker.start()');
my $names_truck = q{it's "names", {{ .rows }}};
ok(wait_state($node, $names_truck, 'streaming'), 'a truck with odd names of schemas, tables and columns starts');

my $names_source = join ' UNION ALL ', map { 'SELECT ' . literal($_) . "::regclass::oid::regclass::text AS tab, $key, $all FROM $_" } @names_tables;
my $names_copy = q{SELECT tab::regclass::text, k, v FROM names_copy};
same($node, $names_source, $names_copy, 'odd names: the backfill is exact');

sql("CREATE TABLE names_expected (tab text, k int, op text, v text);\n" . join "\n", map {
		my $name = literal($_);
		"INSERT INTO $_ SELECT 3, '', " . join(', ', map { literal("new $_") } @names[ 1 .. $#names ]) . ";\n"
		  . "INSERT INTO names_expected SELECT $name, $key, CASE $key WHEN 1 THEN 'update' ELSE 'delete' END, $short_all FROM $_ WHERE $key < 3;\n"
		  . "UPDATE $_ SET $key = 4, " . join(', ', map { quoted($_) . " = 'upd ' || " . quoted($_) } @names) . " WHERE $key = 1;\n"
		  . "DELETE FROM $_ WHERE $key = 2;"
	} @names_tables);
ok(caught_up($node, $names_truck), 'odd names: changes arrive');
same($node, $names_source, $names_copy, 'odd names: each value reaches its column');
same($node, 'SELECT tab::regclass::text, k, op, v FROM names_old', 'SELECT tab::regclass::text, k, op, v FROM names_expected',
	'odd names: old values, too');

###
### Ways to read r
###

sql(q{
CREATE TABLE src (id int PRIMARY KEY, a int, b text);
ALTER TABLE src REPLICA IDENTITY FULL;
INSERT INTO src VALUES (1, 10, 'one'), (2, 20, NULL);
CREATE TABLE other (id int, a int, o text);
INSERT INTO other SELECT i, i * 10, 'o' || i FROM generate_series(1, 8) i;
CREATE TABLE calls (n int);
CREATE PROCEDURE called(n int) LANGUAGE sql AS 'INSERT INTO calls VALUES (n)';
CREATE TABLE merged (id int PRIMARY KEY, a int, b text);
CREATE TABLE reference (id int, a int, b text, old__id int, old__a int, old__b text,
	meta__operation text, meta__lsn pg_lsn, meta__xid bigint, meta__committed_at timestamptz, meta__seq bigint, meta__table text);
});

# Queries with the same result for a change, whatever run it comes in.
my @ways = (
	[ 'one column', 'SELECT b FROM r' ],
	[ 'no column', 'SELECT FROM r' ],
	[ 'count', 'SELECT 1 AS one FROM r, (SELECT count(*) >= 1 AS x FROM r) AS n WHERE x' ],
	[ 'a whole row', 'SELECT r FROM r' ],
	[ 'r.* in an expression', 'SELECT (r).b, (r.*) IS NULL AS n, (r.*).old__b AS o FROM r' ],
	[ 'aliases of columns', 'SELECT x.i, x.k, x.old__a FROM r AS x(i, j, k)' ],
	[ 'aliases of old columns', 'SELECT x.l, x.m FROM r AS x(i, j, k, l, m)' ],
	[ 'aliases of the columns of a join', 'SELECT j.three, j.six FROM (r LEFT JOIN other AS o USING (id)) AS j(one, two, three, four, five, six)' ],
	[ 'a whole row by alias', 'SELECT to_jsonb(x) AS doc FROM r AS x' ],
	[ 'JOIN USING', 'SELECT id, a, o FROM r JOIN other USING (id, a)' ],
	[ 'FULL JOIN USING', q{SELECT id, r.b, o.o FROM r FULL JOIN other AS o USING (id) WHERE r.meta__operation IS NOT NULL} ],
	[ 'NATURAL FULL JOIN', q{SELECT id, a, b, o FROM r NATURAL FULL JOIN other AS o WHERE meta__table IS NOT NULL} ],
	[ 'FULL JOIN USING in a subquery', q{SELECT (SELECT id * 100 + a WHERE r.b IS NOT NULL) AS m FROM r FULL JOIN other AS o USING (id, a) WHERE meta__xid IS NOT NULL OR meta__table IS NOT NULL} ],
	[ 'the whole row of a join', q{SELECT j FROM (r LEFT JOIN other AS o USING (id)) AS j} ],
	[ 'an alias of a join', q{SELECT j.id, j.b FROM (r LEFT JOIN other AS o USING (id)) AS j} ],
	[ 'JOIN USING with an alias', q{SELECT u.id FROM r JOIN other USING (id) AS u} ],
	[ 'a correlated subquery', 'SELECT (SELECT max(o) FROM other WHERE other.id = r.id) AS o, EXISTS (SELECT FROM other WHERE other.a = r.old__a) AS e FROM r' ],
	[ 'LATERAL', 'SELECT l.* FROM r, LATERAL (SELECT r.b, other.o FROM other WHERE other.id IN (r.id, r.old__id)) AS l' ],
	[ 'a function of r', 'SELECT g FROM r, generate_series(r.id, r.id + 1) AS g' ],
	[ 'a CTE', 'WITH c AS (SELECT * FROM r), d AS MATERIALIZED (SELECT c.id, c.old__b FROM c) SELECT * FROM d' ],
	[ 'a CTE called r', 'WITH r AS (SELECT id, b FROM r) SELECT * FROM r' ],
	[ 'a subquery called r', 'SELECT r.q FROM (SELECT r.b AS q FROM r) AS r' ],
	[ 'UNION ALL', 'SELECT a FROM r UNION ALL SELECT old__a FROM r' ],
	[ 'r with itself', 'SELECT x.b, y.a FROM r AS x JOIN r AS y ON x.meta__seq = y.meta__seq' ],
	[ 'an ORDER BY of another column', 'SELECT id FROM r ORDER BY b, old__b' ],
	[ 'a window and an aggregate', 'SELECT id, count(*) OVER (PARTITION BY meta__seq), sum(a) FILTER (WHERE b IS NOT NULL) AS s FROM r GROUP BY id, meta__seq, meta__lsn' ],
	[ 'grouping sets', 'SELECT id, b, grouping(b) FROM r GROUP BY GROUPING SETS ((id, b, meta__lsn, meta__seq), (id, b, meta__seq, meta__lsn))' ],
	[ 'VALUES and CASE', 'SELECT v FROM r, LATERAL (VALUES (CASE WHEN r.a > 10 THEN r.b ELSE r.old__b END)) AS v(v)' ],
	[ 'TABLESAMPLE beside it, and r in IN', 'SELECT o FROM other TABLESAMPLE system (100) WHERE id IN (SELECT id FROM r) AND id IN (SELECT 6)' ],
	[ 'recursion', 'WITH RECURSIVE w AS (SELECT id, b, 1 AS n FROM r UNION ALL SELECT id, b, n + 1 FROM w WHERE n < 3) SELECT * FROM w' ],
	[ 'row comparison and arrays', 'SELECT ARRAY[r.a, r.old__a] AS arr, (r.id, r.b) = (r.old__id, r.old__b) AS same FROM r' ],
	[ 'metadata', 'SELECT meta__operation, meta__table, meta__lsn, meta__xid, meta__committed_at FROM r' ]);

my $ways_sql = '';
foreach my $i (0 .. $#ways)
{
	my $query = $ways[$i][1];

	# once in output_sql, once in input_sql
	$ways_sql .= "CREATE TABLE way_$i (doc jsonb); CREATE TABLE in_$i (doc jsonb);\n"
	  . "SELECT trucker.create_truck('way_$i', '{src}', " . literal("INSERT INTO way_$i SELECT to_jsonb(q) FROM ($query) AS q") . q{, options => '{"backfill": false}');} . "\n";
}

# One truck for all in input_sql would need one result: so here come several statements.
$ways_sql .= q{SELECT trucker.create_truck('all_ways', '{src}', 'SELECT 1; INSERT INTO calls SELECT -1 FROM r', input_sql => }
  . literal(join(";\n", map { "INSERT INTO in_$_ SELECT to_jsonb(q) FROM ($ways[$_][1]) AS q" } 0 .. $#ways) . '; SELECT DISTINCT 1 AS one FROM r') . q{, options => '{"backfill": false}');} . "\n";
sql($ways_sql . q{
SELECT trucker.create_truck('reference', '{src}', 'INSERT INTO reference SELECT r.* FROM r; CALL called(1)', options => '{"backfill": false}');
SELECT trucker.create_truck('merge', '{src}', $$
	WITH gone AS (DELETE FROM merged USING r WHERE r.meta__operation = 'delete' AND merged.id = r.old__id RETURNING merged.*)
	INSERT INTO calls SELECT 1000 FROM gone;
	MERGE INTO merged USING r ON merged.id = r.old__id
	WHEN MATCHED AND r.meta__operation = 'update' THEN UPDATE SET id = r.id, a = r.a, b = r.b
	WHEN NOT MATCHED AND r.meta__operation = 'insert' THEN INSERT VALUES (r.id, r.a, r.b)
$$);
});
ok(psql_err($node, "SELECT trucker.start('$_')") eq '' && wait_state($node, $_, 'streaming'), "truck $_ starts") foreach 'all_ways', 'reference', 'merge', map { "way_$_" } 0 .. $#ways;

sql(q{
INSERT INTO src SELECT i, i * 10, 'v' || i FROM generate_series(3, 7) i;
UPDATE src SET b = NULL WHERE id = 3;
UPDATE src SET id = 8, a = -1 WHERE id = 4;
BEGIN;
UPDATE src SET a = a + 1 WHERE id = 5;
UPDATE src SET a = a + 1 WHERE id = 5;
DELETE FROM src WHERE id = 5;
INSERT INTO src VALUES (5, 5, 'again');
COMMIT;
DELETE FROM src WHERE id = 1;
});
ok(caught_up($node, 'reference'), 'changes arrive at truck reference');
is( sql(q{SELECT string_agg(concat_ws('/', meta__operation, coalesce(id::text, '-'), coalesce(a::text, '-'), coalesce(b, '-'), coalesce(old__id::text, '-'), coalesce(old__a::text, '-'), coalesce(old__b, '-')), E'\n' ORDER BY meta__lsn, meta__seq) FROM reference}),
	q{insert/3/30/v3/-/-/-
insert/4/40/v4/-/-/-
insert/5/50/v5/-/-/-
insert/6/60/v6/-/-/-
insert/7/70/v7/-/-/-
update/3/30/-/3/30/v3
update/8/-1/v4/4/40/v4
update/5/51/v5/5/50/v5
update/5/52/v5/5/51/v5
delete/-/-/-/5/52/v5
insert/5/5/again/-/-/-
delete/-/-/-/1/10/one},
	'r.* has new values, old values and metadata, in this order');
is( sql(q{SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) FROM information_schema.columns WHERE table_name = 'reference' AND column_name ~ '^meta'}),
	'meta__operation text, meta__lsn pg_lsn, meta__xid bigint, meta__committed_at timestamp with time zone, meta__seq bigint, meta__table text',
	'and the metadata has these types');

ok(caught_up($node, 'all_ways'), 'changes arrive at truck all_ways');
foreach my $i (0 .. $#ways)
{
	my ($title, $query) = @{ $ways[$i] };
	my $meta_seq = q{regexp_replace(doc::text, '"meta__seq": \d+', '"meta__seq": 0', 'g')};
	my $expected = qq{SELECT $meta_seq FROM (WITH r AS (TABLE reference) SELECT to_jsonb(q) AS doc FROM ($query) AS q) AS e};

	# in reference the order within a batch repeats: number the changes anew
	$expected =~ s/TABLE reference/SELECT id, a, b, old__id, old__a, old__b, meta__operation, meta__lsn, meta__xid, meta__committed_at, row_number() OVER () AS meta__seq, meta__table FROM reference/;
	ok(caught_up($node, "way_$i"), "changes arrive at truck way_$i");
	if ($query =~ /IN \(SELECT 6\)/)
	{
		is(sql("SELECT string_agg(doc::text, ' ') FROM way_$i"), '{"o": "o6"}', "output_sql reads r by $title");
		next;
	}
	same($node, "SELECT $meta_seq FROM way_$i", $expected, "output_sql reads r by $title");
	same($node, "SELECT $meta_seq FROM in_$i", $expected, "input_sql reads r by $title");
}
ok(caught_up($node, 'merge'), 'changes arrive at truck merge');
same($node, 'SELECT * FROM src', 'SELECT * FROM merged', 'MERGE and a data-modifying CTE over r');
is(sql('SELECT count(*) FROM calls WHERE n = 1000'), '2', 'rows returned by a data-modifying CTE are used');
cmp_ok(sql('SELECT count(*) FROM calls WHERE n = 1'), '>', 0, 'CALL is executed with each run');
is(sql(q{SELECT to_regclass('public.r') IS NOT NULL}), 't', 'although there is a table called r');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### How many columns
###

my $wide = join ', ', map { "c$_ int" } 1 .. 1599;
my $fit = join ', ', map { "c$_ int" } 1 .. 828;
sql(qq{
CREATE TABLE wide (id int PRIMARY KEY, $wide);
ALTER TABLE wide REPLICA IDENTITY FULL;
INSERT INTO wide (id, c1, c799, c1599) VALUES (1, 11, 12, 13);
CREATE TABLE wide_copy (id int, c1 int, c799 int, c1599 int, o1599 int, op text);
SELECT trucker.create_truck('wide', '{wide}', 'INSERT INTO wide_copy SELECT id, c1, c799, c1599, old__c1599, meta__operation FROM r');
SELECT trucker.create_truck('wide_half', '{wide}', 'INSERT INTO wide_copy SELECT -1, @{[join ' + ', map { "c$_" } 1 .. 1599]}, NULL, NULL, NULL, meta__operation FROM r');
SELECT trucker.create_truck('too_wide', '{wide}', 'INSERT INTO wide_copy (op) SELECT r::text FROM r');
SELECT trucker.create_truck('too_wide_list', '{wide}', 'INSERT INTO wide_copy (op) SELECT (x.*)::text FROM (SELECT r.* FROM r) AS x');
CREATE TABLE fits (id int PRIMARY KEY, $fit);
ALTER TABLE fits REPLICA IDENTITY FULL;
INSERT INTO fits (id, c828) VALUES (1, 828);
CREATE TABLE fits_copy (doc jsonb);
SELECT trucker.create_truck('fits', '{fits}', 'INSERT INTO fits_copy SELECT to_jsonb(r) FROM r');
CREATE TABLE zero ();
INSERT INTO zero DEFAULT VALUES;
CREATE TABLE zero_full ();
ALTER TABLE zero_full REPLICA IDENTITY FULL;
CREATE TABLE zero_copy (tab text, op text);
SELECT trucker.create_truck('zero', '{zero}', 'INSERT INTO zero_copy SELECT meta__table, meta__operation FROM r', options => '{"inserts_only": true}');
SELECT trucker.create_truck('zero_full', '{zero_full}', 'INSERT INTO zero_copy SELECT meta__table, meta__operation FROM r');
SELECT trucker.start(n) FROM unnest('{wide, wide_half, fits, zero, zero_full}'::text[]) n;
});
like(psql_err($node, q{SELECT trucker.start('too_wide')}), qr/54011:.*reads 3206 columns.*1664/s, 'more columns than a row can hold are refused with the numbers');
like(psql_err($node, q{SELECT trucker.start('too_wide_list')}), qr/54011:.*1664/s, 'also in a column list');
ok(wait_state($node, $_, 'streaming'), "truck $_ starts") foreach qw(wide wide_half fits zero zero_full);
sql(qq{
INSERT INTO wide (id, c799) VALUES (2, 22);
INSERT INTO wide VALUES (3, @{[join ',', 1 .. 1599]});
UPDATE wide SET c1599 = 14, c800 = 0 WHERE id = 1;
DELETE FROM wide WHERE id = 1;
INSERT INTO fits (id, c1) VALUES (2, 1);
INSERT INTO zero DEFAULT VALUES;
INSERT INTO zero_full DEFAULT VALUES;
});
ok(caught_up($node, $_), "changes arrive at truck $_") foreach qw(wide wide_half fits zero zero_full);
is( sql(q{SELECT string_agg(concat_ws('/', op, coalesce(id, 0), coalesce(c1, 0), coalesce(c799, 0), coalesce(c1599, 0), coalesce(o1599, 0)), E'\n' ORDER BY ctid) FROM wide_copy WHERE id IS DISTINCT FROM -1}),
	"insert/1/11/12/13/0\ninsert/2/0/22/0/0\ninsert/3/1/799/1599/0\nupdate/1/11/12/14/13\ndelete/0/0/0/0/14",
	'of a table of 1,600 columns any can be read');
is(sql('SELECT max(c1) FROM wide_copy WHERE id = -1'), 1599 * 800, 'and all new values together');
is(sql(q{SELECT count(*) || ' ' || count(DISTINCT e.key) || ' ' || sum((e.value #>> '{}')::int) FILTER (WHERE key ~ '^c') FROM fits_copy, jsonb_each(doc) e}),
	'3328 1664 829', 'of a table of 829 columns r.* fits');
is(sql(q{SELECT string_agg(tab || ' ' || op, ', ' ORDER BY tab) FROM zero_copy}),
	'public.zero insert, public.zero insert, public.zero_full insert', 'a table may have no columns');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### Names that clash, and names that the prefix makes too long
###

my $long = 'l' x 59;
my $fits = 'f' x 58;
sql(qq{
CREATE TABLE clash (id int PRIMARY KEY, old__id int, meta__lsn text, meta__custom int, old__old__id int, "$long" int, "$fits" int);
ALTER TABLE clash REPLICA IDENTITY FULL;
CREATE TABLE clash_short (id int PRIMARY KEY, old__id int);
ALTER TABLE clash_short REPLICA IDENTITY FULL;
CREATE TABLE clash_copy (id int, x text);
});
my %clash = (
	'old__id'             => 'INSERT INTO clash_copy SELECT id, old__id::text FROM r',
	'meta__lsn'           => 'INSERT INTO clash_copy SELECT id, meta__lsn::text FROM r',
	'old__old__id'        => 'INSERT INTO clash_copy SELECT id, r.old__old__id::text FROM r',
	'r.*'                 => 'INSERT INTO clash_copy SELECT x.i, x.c::text FROM (SELECT r.* FROM r) AS x(i, c)',
	'r.* of two columns'   => 'INSERT INTO clash_copy SELECT x.i, x.c::text FROM (SELECT r.* FROM r) AS x(i, c)',
	'r of two columns'     => 'INSERT INTO clash_copy SELECT id, to_jsonb(r)::text FROM r',
	'whole row'           => 'INSERT INTO clash_copy SELECT id, to_jsonb(r)::text FROM r',
	"old__$long"          => qq{INSERT INTO clash_copy SELECT id, "old__$long"::text FROM r},
	"old__$long cut short" => qq{INSERT INTO clash_copy SELECT id, "old__@{[substr $long, 0, 58]}"::text FROM r});
my $n = 0;
foreach my $what (sort keys %clash)
{
	$n++;
	my $table = $what =~ /two columns/ ? 'clash_short' : 'clash';
	sql("SELECT trucker.create_truck('clash_$n', '{$table}', " . literal($clash{$what}) . ')');
	my $err = psql_err($node, "SELECT trucker.start('clash_$n')");
	like($err, qr/ERROR/, 'refused, as its name is not unique or too long: ' . substr($what, 0, 70));
	note $err;
}
sql(qq{
SELECT trucker.create_truck('no_clash', '{clash}', 'INSERT INTO clash_copy SELECT id, concat_ws(\$\$/\$\$, meta__custom, "$long", "$fits", "old__$fits", meta__operation, meta__xid > 0, meta__table) FROM r');
SELECT trucker.start('no_clash');
});
ok(wait_state($node, 'no_clash', 'streaming'), 'names that clash or are too long do no harm where they are not read');
sql('INSERT INTO clash VALUES (1, 2, 3, 4, 5, 6, 7); UPDATE clash SET id = 9, old__id = 10; DELETE FROM clash');
ok(caught_up($node, 'no_clash'), 'and changes arrive');
is(sql(q{SELECT string_agg(concat_ws(' ', id, x), ', ' ORDER BY ctid) FROM clash_copy}),
	'1 4/6/7/insert/t/public.clash, 9 4/6/7/7/update/t/public.clash, 7/delete/t/public.clash', 'right');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### Generated and identity columns
###

sql(q{
CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, dropped text, g int GENERATED ALWAYS AS (a * 2) STORED, d int GENERATED BY DEFAULT AS IDENTITY, s serial, t text DEFAULT 'def');
ALTER TABLE gen REPLICA IDENTITY FULL;
ALTER TABLE gen DROP COLUMN dropped;
INSERT INTO gen (a) VALUES (1), (NULL);
CREATE TABLE gen_copy (id int, a int, g int, d int, s int, t text);
CREATE TABLE gen_old (id int, g int);
SELECT trucker.create_truck('gen', '{gen}', $$
	INSERT INTO gen_old SELECT old__id, old__g FROM r WHERE meta__operation <> 'insert';
	DELETE FROM gen_copy USING r WHERE gen_copy.id = r.old__id;
	INSERT INTO gen_copy SELECT id, a, g, d, s, t FROM r WHERE meta__operation <> 'delete'$$);
SELECT trucker.start('gen');
});
ok(wait_state($node, 'gen', 'streaming'), 'a table with generated and identity columns starts');
sql('INSERT INTO gen (a) SELECT generate_series(1, 5); UPDATE gen SET a = a + 100 WHERE id > 3; DELETE FROM gen WHERE id = 4');
ok(caught_up($node, 'gen'), 'changes arrive');
same($node, 'SELECT * FROM gen', 'SELECT * FROM gen_copy', 'generated, identity, serial and default values are those of the table');
is(sql(q{SELECT string_agg(id || ' ' || g, ', ' ORDER BY ctid) FROM gen_old}), '4 4, 5 6, 6 8, 7 10, 4 204', 'old values of generated columns, too');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

is(sql(q{SELECT count(*) FROM trucker.status WHERE state = 'creating slot' OR state = 'backfill'}), '0', 'no truck is stuck');
$node->stop;

done_testing();
