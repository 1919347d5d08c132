# r has the table's columns, whatever they are called, how many they are, in whatever
# way the SQL reads them, and whatever ALTER TABLE does to them while the truck runs
# or while its changes wait.  A change is decoded with the columns of its time and
# applied with those of now: each value must reach the column that it was written to,
# or the truck must stop; a value that the change does not carry is never NULL.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'columns',
	conf => q{
max_replication_slots = 80
max_wal_senders = 80
max_worker_processes = 100
track_commit_timestamp = on
});

# Long SQL goes through a file: psql would break the pipe at an error.
sub sql
{
	my ($sql) = @_;

	if (length $sql > 10000)
	{
		my $file = PostgreSQL::Test::Utils::tempdir . '/long.sql';
		append_to_file($file, $sql);
		$sql = "\\i $file";
	}
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	die 'SQL failed: ' . substr($stderr =~ s{^.*?(?=[^\n]*ERROR:)}{}sr, 0, 2000) if $rc != 0;
	return $stdout;
}

sub literal
{
	my ($text) = @_;
	return "'" . ($text =~ s/'/''/gr) . "'";
}

sub quoted
{
	my ($name) = @_;
	return '"' . ($name =~ s/"/""/gr) . '"';
}

sub last_error
{
	my ($truck) = @_;
	return sql('SELECT last_error FROM trucker.status WHERE truck = ' . literal($truck));
}

# Wait until the truck has applied everything, or has stopped at an error.  Returns
# the lines in its log, or the error.
sub wait_for_end
{
	my ($truck) = @_;
	my $lsn = sql('SELECT pg_current_wal_insert_lsn()');

	$node->poll_query_until('postgres', "SELECT position >= '$lsn' OR state IN ('retrying', 'lost') FROM trucker.status WHERE truck = " . literal($truck))
	  or return 'neither';
	return sql("SELECT CASE WHEN state IN ('retrying', 'lost') THEN last_error ELSE (SELECT string_agg(line, E'\\n' ORDER BY n) FROM log_$truck) END FROM trucker.status WHERE truck = "
		  . literal($truck));
}

# Wait until the truck has stopped at an error, and test what it says.
sub stops_with
{
	my ($truck, $pattern, $test_name) = @_;
	my $lsn = sql('SELECT pg_current_wal_insert_lsn()');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->poll_query_until('postgres', "SELECT position >= '$lsn' OR state IN ('retrying', 'lost') FROM trucker.status WHERE truck = " . literal($truck));
	return like(last_error($truck), $pattern, $test_name);
}

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

###
### ALTER TABLE with changes pending, and in the middle of a transaction
###

# A change as one line: its operation and its columns by name, new values as
# name=value and old values as old__name=value.
sub line_sql
{
	my ($table, $reads) = @_;
	return qq{INSERT INTO $table (line) SELECT meta__operation || ' ' ||
		(SELECT string_agg(key || '=' || coalesce(value, 'NULL'), ' ' ORDER BY key) FROM jsonb_each_text(to_jsonb(row_of_r)) WHERE key !~ '^meta__'
		AND (key ~ '^old__' OR meta__operation <> 'delete') AND (key !~ '^old__' OR meta__operation <> 'insert'))
		FROM (SELECT $reads FROM r) AS row_of_r ORDER BY meta__seq};
}

# name => [ columns, columns of r that are read (r.*: replica identity FULL), changes
# that are pending, ALTERs after them, what becomes of it ].  The latter is the lines
# of all changes, or a pattern of the lines or the error.  Each table begins with
# (1, 'a'); %t is its name.
my $mine = 'id, v, old__id, meta__operation, meta__seq';
my @alters = (
	added => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); UPDATE %t SET v = 'c' WHERE id = 2; DELETE FROM %t WHERE id = 1},
		'ALTER TABLE %t ADD COLUMN n int',
		"insert id=2 n=NULL v=b\nupdate id=2 n=NULL old__id=2 old__n=NULL old__v=b v=c\ndelete old__id=1 old__n=NULL old__v=a"
	],
	added_default => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); DELETE FROM %t WHERE id = 1},
		q{ALTER TABLE %t ADD COLUMN n int DEFAULT 5, ADD COLUMN t text DEFAULT 'x' NOT NULL, ADD COLUMN l text NOT NULL DEFAULT repeat('y', 5)},
		"insert id=2 l=yyyyy n=5 t=x v=b\ndelete old__id=1 old__l=yyyyy old__n=5 old__t=x old__v=a"
	],
	added_default_changed => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n int DEFAULT 5; ALTER TABLE %t ALTER COLUMN n SET DEFAULT 6; INSERT INTO %t VALUES (3, 'c'); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT; INSERT INTO %t VALUES (4, 'd')},
		"insert id=2 n=5 v=b\ninsert id=3 n=6 v=c\ninsert id=4 n=NULL v=d"
	],
	added_volatile => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 DEFAULT random()}, qr/no value for column "n".*resync/s
	],
	added_volatile_dropped_default => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 NOT NULL DEFAULT random(); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT}, qr/column "n"/
	],
	added_volatile_nullable => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 DEFAULT random(); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT}, qr/no value for column "n".*resync/s
	],
	added_volatile_in_one => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 DEFAULT random(), ALTER COLUMN n SET DEFAULT NULL}, qr/no value for column "n".*resync/s
	],
	added_volatile_by_function => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{DO $$ BEGIN ALTER TABLE %t ADD COLUMN n float8 DEFAULT random(); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT; END $$}, qr/no value for column "n".*resync/s
	],
	added_by_domain => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER DOMAIN %t_domain SET DEFAULT floor(random() * 10); ALTER TABLE %t ADD COLUMN n %t_domain; ALTER DOMAIN %t_domain DROP DEFAULT},
		qr/no value for column "n".*resync/s
	],
	added_default_rewritten => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n int DEFAULT 5; ALTER TABLE %t ALTER COLUMN n DROP DEFAULT; VACUUM FULL %t}, qr/no value for column "n".*resync/s
	],
	added_default_later => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); UPDATE %t SET v = 'c' WHERE id = 2},
		q{ALTER TABLE %t ADD COLUMN n int; ALTER TABLE %t ALTER COLUMN n SET DEFAULT 7; UPDATE %t SET n = 8 WHERE id = 2},
		"insert id=2 n=NULL v=b\nupdate id=2 n=NULL old__id=2 old__n=NULL old__v=b v=c\nupdate id=2 n=8 old__id=2 old__n=NULL old__v=c v=c"
	],
	added_generated => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n text GENERATED ALWAYS AS (v || v) STORED}, qr/no value for column "n".*resync/s
	],
	added_identity => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n int GENERATED ALWAYS AS IDENTITY}, qr/column "n"/
	],
	added_text_again => [
		'id int PRIMARY KEY, v text, n text', "n, $mine", q{ALTER TABLE %t DROP COLUMN n; UPDATE %t SET v = 'b'},
		q{ALTER TABLE %t ADD COLUMN n text DEFAULT 'x'}, 'update id=1 n=x old__id=1 v=b'
	],
	dropped => [
		'id int PRIMARY KEY, v text, w text, x int', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'gone', 7); UPDATE %t SET v = 'c', w = 'gone' WHERE id = 2; DELETE FROM %t WHERE id = 2},
		'ALTER TABLE %t DROP COLUMN w',
		"insert id=2 v=b x=7\nupdate id=2 old__id=2 old__v=b old__x=7 v=c x=7\ndelete old__id=2 old__v=c old__x=7"
	],
	dropped_and_added => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'gone'); UPDATE %t SET v = 'c' WHERE id = 2},
		'ALTER TABLE %t DROP COLUMN w, ADD COLUMN w text',
		"insert id=2 v=b w=NULL\nupdate id=2 old__id=2 old__v=b old__w=NULL v=c w=NULL"
	],
	dropped_and_added_delete => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'gone'); DELETE FROM %t WHERE id = 2},
		'ALTER TABLE %t DROP COLUMN w, ADD COLUMN w text',
		"insert id=2 v=b w=NULL\ndelete old__id=2 old__v=b old__w=NULL"
	],
	dropped_with_its_type => [
		'id int PRIMARY KEY, v text, w %t_domain', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 4); DELETE FROM %t WHERE id = 2},
		'DROP DOMAIN %t_domain CASCADE; ALTER TABLE %t RENAME v TO w; DELETE FROM %t',
		"insert id=2 w=b\ndelete old__id=2 old__w=b\ndelete old__id=1 old__w=a"
	],
	renamed => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); UPDATE %t SET v = 'c' WHERE id = 2},
		'ALTER TABLE %t RENAME v TO w', "insert id=2 w=b\nupdate id=2 old__id=2 old__w=b w=c"
	],
	renamed_delete => [
		'id int PRIMARY KEY, v text', 'r.*', q{DELETE FROM %t WHERE id = 1}, 'ALTER TABLE %t RENAME v TO w',
		'delete old__id=1 old__w=a'
	],
	renamed_key_delete => [
		'id int PRIMARY KEY, v text', 'r.*', q{DELETE FROM %t WHERE id = 1}, 'ALTER TABLE %t RENAME id TO key',
		'delete old__key=1 old__v=a'
	],
	swapped => [
		'id int, v text, k int DEFAULT 0, PRIMARY KEY (id, k)', "k, old__k, $mine", q{INSERT INTO %t VALUES (2, 'b', 7); UPDATE %t SET v = 'c' WHERE k = 7},
		'ALTER TABLE %t RENAME id TO x; ALTER TABLE %t RENAME k TO id; ALTER TABLE %t RENAME x TO k',
		"insert id=7 k=2 v=b\nupdate id=7 k=2 old__id=7 old__k=2 v=c"
	],
	swapped_delete => [
		'id int, v text, k int DEFAULT 0, PRIMARY KEY (id, k)', "k, old__k, $mine", q{DELETE FROM %t},
		'ALTER TABLE %t RENAME id TO x; ALTER TABLE %t RENAME k TO id; ALTER TABLE %t RENAME x TO k',
		'delete old__id=0 old__k=1'
	],
	swapped_thrice => [
		'id int, v text, k int DEFAULT 0, PRIMARY KEY (id, k)', "k, old__k, $mine", join(";\n", q{INSERT INTO %t VALUES (2, 'b', 7), (3, 'c', 8), (4, 'd', 9)},
			map { ("DELETE FROM %t WHERE v = '$_'", 'BEGIN; ALTER TABLE %t RENAME id TO x; ALTER TABLE %t RENAME k TO id; ALTER TABLE %t RENAME x TO k; COMMIT') } qw(a b c)),
		q{DELETE FROM %t}, "insert id=7 k=2 v=b\ninsert id=8 k=3 v=c\ninsert id=9 k=4 v=d\ndelete old__id=0 old__k=1\ndelete old__id=7 old__k=2\ndelete old__id=8 old__k=3\ndelete old__id=9 old__k=4"
	],
	type_wider => [
		'id int PRIMARY KEY, v text, n int, m numeric(10,4)', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 7, 1.25); UPDATE %t SET n = 8 WHERE id = 2},
		'ALTER TABLE %t ALTER id TYPE bigint, ALTER n TYPE text, ALTER v TYPE varchar(100), ALTER m TYPE numeric',
		"insert id=2 m=1.2500 n=7 v=b\nupdate id=2 m=1.2500 n=8 old__id=2 old__m=1.2500 old__n=7 old__v=b v=b"
	],
	type_from_bytea => [
		'id int PRIMARY KEY, v text, w bytea', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE text USING convert_from(w, 'UTF8')}, qr/column "w".*bytea.*resync/s
	],
	type_to_bytea => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{DELETE FROM %t; INSERT INTO %t VALUES (2, 'b', 'abcd')},
		q{ALTER TABLE %t ALTER w TYPE bytea USING convert_to(w, 'UTF8')}, qr/column "w".*bytea.*resync/s
	],
	type_from_domain => [
		'id int PRIMARY KEY, v text, w %t_bytes', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE text USING convert_from(w, 'UTF8'); DROP DOMAIN %t_bytes}, qr/column "w".*bytea.*resync/s
	],
	type_there_and_back => [
		'id int PRIMARY KEY, v text, w bytea', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE text USING 'x'; INSERT INTO %t VALUES (3, 'c', NULL); ALTER TABLE %t ALTER w TYPE bytea USING w::bytea},
		"insert id=2 v=b w=\\x6869\ninsert id=3 v=c w=NULL"
	],
	type_to_domain => [
		'id int PRIMARY KEY, v text, w bytea', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE %t_bytes; INSERT INTO %t VALUES (3, 'c', 'ho')}, "insert id=2 v=b w=\\x6869\ninsert id=3 v=c w=\\x686f"
	],
	type_was_an_enum => [
		'id int PRIMARY KEY, v text, w %t_mood', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'sad')},
		q{ALTER TABLE %t ALTER w TYPE text; DROP TYPE %t_mood}, 'insert id=2 v=b w=sad'
	],
	type_narrower => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'not a number'); DELETE FROM %t WHERE id = 2},
		'ALTER TABLE %t ALTER w TYPE int USING w::int', qr/22P02: invalid input syntax for type integer.*column "w"/s
	],
	enum_renamed => [
		'id int PRIMARY KEY, v text, w %t_mood', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'sad')},
		q{ALTER TYPE %t_mood RENAME VALUE 'sad' TO 'blue'}, qr/22P02: invalid input value for enum.*column "w"/s
	],
	domain_narrowed => [
		'id int PRIMARY KEY, v text, w %t_domain', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 5); DELETE FROM %t WHERE w = 5},
		q{ALTER DOMAIN %t_domain ADD CHECK (value < 5)}, qr/23514: value for domain.*column "w"/s
	],
	not_null_since => [
		'id int PRIMARY KEY, v text, n numeric', 'r.*', q{INSERT INTO %t VALUES (2, 'b', NULL); UPDATE %t SET n = 0},
		q{ALTER TABLE %t ALTER n SET NOT NULL}, qr/column "n".*null/s
	],
	primary_key_moved => [
		'id int PRIMARY KEY, v text, k int NOT NULL DEFAULT 9', $mine, q{UPDATE %t SET v = 'b'; DELETE FROM %t},
		'ALTER TABLE %t DROP CONSTRAINT %t_pkey, ADD PRIMARY KEY (k)', qr/does not carry its key column "k".*resync|reads "old__id"/s
	],
	identity_was_default => [
		'id int PRIMARY KEY, v text', 'r.*', q{ALTER TABLE %t REPLICA IDENTITY DEFAULT; UPDATE %t SET id = 5; DELETE FROM %t},
		'ALTER TABLE %t REPLICA IDENTITY FULL', qr/REPLICA IDENTITY FULL|column "v"/
	],
	mixed_in_one_transaction => [
		'id int PRIMARY KEY, v text', 'r.*',
		q{BEGIN; INSERT INTO %t VALUES (2, 'b'); ALTER TABLE %t ADD COLUMN n int DEFAULT 5; UPDATE %t SET n = 6 WHERE id = 1; INSERT INTO %t VALUES (3, 'c');
		ALTER TABLE %t RENAME v TO w; UPDATE %t SET w = 'd' WHERE id = 3; COMMIT}, '',
		"insert id=2 n=5 w=b\nupdate id=1 n=6 old__id=1 old__n=5 old__w=a w=a\ninsert id=3 n=5 w=c\nupdate id=3 n=5 old__id=3 old__n=5 old__w=c w=d"
	],
	rolled_back => [
		'id int PRIMARY KEY, v text', 'r.*',
		q{BEGIN; INSERT INTO %t VALUES (2, 'b'); SAVEPOINT s; ALTER TABLE %t ADD COLUMN n int DEFAULT 5; INSERT INTO %t VALUES (3, 'x'); ROLLBACK TO s; UPDATE %t SET v = 'c' WHERE id = 2; COMMIT}, '',
		"insert id=2 v=b\nupdate id=2 old__id=2 old__v=b v=c"
	],
	rewritten => [
		'id int PRIMARY KEY, gone int, v text', 'r.*', q{ALTER TABLE %t DROP COLUMN gone; INSERT INTO %t VALUES (2, 'b'); VACUUM FULL %t; INSERT INTO %t VALUES (3, 'c'); CLUSTER %t USING %t_pkey; DELETE FROM %t WHERE id = 1}, '',
		"insert id=2 v=b\ninsert id=3 v=c\ndelete old__id=1 old__v=a"
	],
);
my (@alter_names, %alter);
my ($setup, $pending) = ('', '');
while (my ($name, $spec) = splice @alters, 0, 2)
{
	my ($definition, $reads, $changes, $alter, $expected) = map { ref $_ ? $_ : s/%t/al_$name/gr } @$spec;
	my $identity = $reads eq 'r.*' ? 'FULL' : 'DEFAULT';

	push @alter_names, $name;
	$alter{$name} = $expected;
	$setup .= qq{
CREATE TYPE al_${name}_mood AS ENUM ('sad');
CREATE DOMAIN al_${name}_domain AS int;
CREATE DOMAIN al_${name}_bytes0 AS bytea;
CREATE DOMAIN al_${name}_bytes AS al_${name}_bytes0;
CREATE TABLE al_$name ($definition);
INSERT INTO al_$name (id, v) VALUES (1, 'a');
ALTER TABLE al_$name REPLICA IDENTITY $identity;
CREATE TABLE log_$name (n serial, line text);
SELECT trucker.create_truck('$name', '{al_$name}', } . literal(line_sql("log_$name", $reads)) . q{, options => '{"backfill": false}');
};
	$pending .= "$changes;\n$alter;\n";
}
sql("$setup SELECT trucker.start()");
ok(wait_state($node, $_, 'streaming'), "$_: starts") foreach @alter_names;
sql('SELECT trucker.stop()');
ok(wait_state($node, $_, 'stopped'), "$_: stops") foreach @alter_names;
sql($pending);
foreach my $name (@alter_names)
{
	my $expected = $alter{$name};

	# start() may see it already
	my $seen = psql_err($node, "SET client_min_messages = error; SELECT trucker.start('$name')") || wait_for_end($name);

	if (ref $expected)
	{
		like($seen, $expected, "ALTER with changes pending, $name: right, or an error that tells the column");
		unlike($seen, qr/=NULL/, "ALTER with changes pending, $name: a value that is not there is not NULL") unless $name =~ /^dropped/;
	}
	else
	{
		is($seen, $expected, "ALTER with changes pending, $name: right");
	}
}

# Those that have stopped can be loaded anew.
sql(qq{SELECT trucker.resync('added_volatile'); TRUNCATE log_added_volatile});
ok(wait_state($node, 'added_volatile', 'streaming'), 'resync() gets a stopped truck going');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### By transactions that overlap, with partitions, from quarantine; and what need not be known is forgotten
###
sql(q{
CREATE TABLE lap (id int, k int, v text, PRIMARY KEY (id, k)); CREATE TABLE lap_log (n serial, line text);
CREATE TABLE whole (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id); CREATE TABLE whole_log (n serial, line text);
CREATE TABLE part_1 PARTITION OF whole FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 (gone int, v text, k int NOT NULL, id int NOT NULL); ALTER TABLE part_2 DROP gone; ALTER TABLE whole ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE kept (id int PRIMARY KEY, k int, v text, w bytea); CREATE TABLE kept_log (n serial, line text);
INSERT INTO lap VALUES (1, 2, 'a'), (3, 4, 'b'); INSERT INTO whole VALUES (1, 2, 'a'), (11, 12, 'b'), (3, 4, 'c'); INSERT INTO kept VALUES (1, 2, 'a');
ALTER TABLE kept REPLICA IDENTITY FULL;
CREATE FUNCTION check_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF EXISTS (SELECT FROM pg_class WHERE relname = 'kept_is_bad') THEN RAISE 'not yet'; END IF; RETURN new; END $$;
CREATE TRIGGER check_kept BEFORE INSERT ON kept_log FOR EACH ROW EXECUTE FUNCTION check_kept();
} . join "\n", map { my ($t, $options) = @$_; "SELECT trucker.create_truck('$t', '{$t}', " . literal(line_sql("${t}_log", $t eq 'kept' ? 'r.*' : 'id, k, v, old__id, old__k, meta__operation, meta__seq')) . ", options => '{\"backfill\": false$options}'); SELECT trucker.start('$t');" }
	[ 'lap', '' ], [ 'whole', '' ], [ 'kept', ', "on_error": "quarantine"' ]);
ok(wait_state($node, $_, 'streaming'), "truck $_ runs") foreach qw(lap whole kept);

sub log_of
{
	my ($truck) = @_;
	return sql("SELECT string_agg(line, E'\\n' ORDER BY n) FROM ${truck}_log");
}

sub swap
{
	my ($table) = @_;
	return "ALTER TABLE $table RENAME id TO x; ALTER TABLE $table RENAME k TO id; ALTER TABLE $table RENAME x TO k";
}

foreach (qw(lap whole))
{
	sql("SELECT trucker.stop('$_')");
	wait_state($node, $_, 'stopped');
}

# The one that alters has begun to write before the other one that deletes.
my $older = $node->background_psql('postgres', on_error_stop => 1);
$older->query_safe(q{BEGIN; INSERT INTO kept VALUES (100, 0, 'older')});
sql(q{DELETE FROM lap WHERE id = 1});
$older->query_safe(swap('lap') . q{; COMMIT});
$older->quit;
sql(q{DELETE FROM lap; ALTER TABLE lap ADD w int DEFAULT 1; INSERT INTO lap (id, k, v) VALUES (5, 6, 'c');} . swap('lap') . q{; DELETE FROM lap});
sql(q{SELECT trucker.start('lap')});
ok(caught_up($node, 'lap'), 'columns are swapped by a transaction older than a delete');
is(log_of('lap'), "delete old__id=1 old__k=2\ndelete old__id=3 old__k=4\ninsert id=6 k=5 v=c\ndelete old__id=6 old__k=5", 'each value is that of its column');

# A partition's columns have another order; one is dropped when its changes wait.
sql(q{DELETE FROM whole WHERE id = 1; DELETE FROM whole WHERE id = 11; INSERT INTO part_2 (id, k, v) VALUES (12, 13, 'd');} . swap('whole') . q{; DELETE FROM part_2;
	ALTER TABLE whole DETACH PARTITION part_2; DROP TABLE part_2; INSERT INTO whole (k, id, v) VALUES (5, 6, 'e');} . swap('whole') . q{; DELETE FROM whole});
sql(q{SELECT trucker.start('whole')});
ok(caught_up($node, 'whole'), 'columns of a partitioned table are swapped, a partition is dropped');
is(log_of('whole'), "delete old__id=1 old__k=2\ndelete old__id=11 old__k=12\ninsert id=12 k=13 v=d\ndelete old__id=12 old__k=13\n" .
	"insert id=5 k=6 v=e\ndelete old__id=3 old__k=4\ndelete old__id=5 old__k=6", 'each value is that of its column, also of the dropped partition');

# What is in quarantine keeps the columns of its time.
sql(q{DELETE FROM kept; CREATE TABLE kept_is_bad (); DELETE FROM kept_log});
ok(caught_up($node, 'kept'), 'a truck with quarantine');
sql(q{DELETE FROM kept_log; INSERT INTO kept VALUES (7, 8, 'q', 'hi'); DELETE FROM kept});
ok(caught_up($node, 'kept'), 'changes go into quarantine');
my $quarantined = sql(q{SELECT count(*) FROM trucker.quarantine});
cmp_ok($quarantined, '>', 0, 'they are there');
foreach my $i (1 .. 5)
{
	# the names make the stream forget what it can
	sql(swap('kept') . qq{; INSERT INTO kept VALUES (1$i, 1$i, 'x'); ALTER TABLE kept RENAME TO kept_; ALTER TABLE kept_ RENAME TO kept; CHECKPOINT});
	caught_up($node, 'kept');
}
sql(q{DROP TABLE kept_is_bad; DELETE FROM kept_log; SELECT trucker.retry_quarantined('kept')});
ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM trucker.quarantine)}), 'they are applied');
like(log_of('kept'), qr/^insert id=8 k=7 old__id.* v=q w=.x6869|^insert id=8 k=7 v=q w=.x6869/m, 'with the columns of their time');

# Old columns are forgotten.
my $spans = 0;
for my $i (1 .. 50)
{
	sql(q{ALTER TABLE lap ADD y int; INSERT INTO lap (id, k) VALUES (1, 1); DELETE FROM lap; ALTER TABLE lap DROP y; INSERT INTO lap (id, k) VALUES (1, 1); DELETE FROM lap; CHECKPOINT});
	caught_up($node, 'lap');
	$spans = sql(q{SELECT count(*) FROM trucker.input_table WHERE relid = 'lap'::regclass});
	last if $i > 5 && $spans < 8;
}
cmp_ok($spans, '<', 8, 'old columns are forgotten');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### The same while the truck runs
###

sql(q{
CREATE TABLE running (id int PRIMARY KEY, v text);
ALTER TABLE running REPLICA IDENTITY FULL;
CREATE TABLE running_log (n serial, line text);
SELECT trucker.create_truck('running', '{running}', } . literal(line_sql('running_log', 'r.*')) . q{);
SELECT trucker.start('running');
});
ok(wait_state($node, 'running', 'streaming'), 'the truck runs');
my @steps = (
	q{INSERT INTO running VALUES (1, 'a')}                         => 'insert id=1 v=a',
	q{ALTER TABLE running ADD COLUMN n int DEFAULT 5}              => undef,
	q{UPDATE running SET v = 'b'}                                  => 'update id=1 n=5 old__id=1 old__n=5 old__v=a v=b',
	q{ALTER TABLE running RENAME v TO w}                           => undef,
	q{UPDATE running SET n = 6}                                    => 'update id=1 n=6 old__id=1 old__n=5 old__w=b w=b',
	q{ALTER TABLE running DROP COLUMN n, ADD COLUMN n text}        => undef,
	q{UPDATE running SET n = 'x'}                                  => 'update id=1 n=x old__id=1 old__n=NULL old__w=b w=b',
	q{ALTER TABLE running ALTER id TYPE text}                      => undef,
	q{UPDATE running SET id = 'key'}                               => 'update id=key n=x old__id=1 old__n=x old__w=b w=b',
	q{ALTER TABLE running ADD COLUMN u uuid NOT NULL DEFAULT md5(random()::text)::uuid, ADD COLUMN g text GENERATED ALWAYS AS (w || '!') STORED; ALTER TABLE running ALTER u DROP DEFAULT} => undef,
	q{UPDATE running SET u = '00000000-0000-0000-0000-000000000000'; DELETE FROM running; INSERT INTO running VALUES ('k2', 'c', NULL, '11111111-1111-1111-1111-111111111111')} => [
		qr/^update g=b! id=key n=x old__g=b! old__id=key old__n=x old__u=[0-9a-f-]{36} old__w=b u=00000000-0000-0000-0000-000000000000 w=b\ndelete old__g=b! old__id=key old__n=x old__u=00000000-0000-0000-0000-000000000000 old__w=b\ninsert g=c! id=k2 n=NULL u=11111111-1111-1111-1111-111111111111 w=c$/
	],
	q{ALTER TABLE running DROP CONSTRAINT running_pkey}            => undef,
	q{DELETE FROM running}                                         => 'delete old__g=c! old__id=k2 old__n=NULL old__u=11111111-1111-1111-1111-111111111111 old__w=c');
my $seen = 0;
while (my ($step, $expected) = splice @steps, 0, 2)
{
	sql($step);
	next unless defined $expected;
	ok(caught_up($node, 'running'), 'changes arrive');
	my $lines = sql("SELECT string_agg(line, E'\\n' ORDER BY n) FROM running_log WHERE n > $seen");
	$seen = sql('SELECT max(n) FROM running_log');
	ref $expected ? like($lines, $expected->[0], 'ALTER while the truck runs: ' . substr($step, 0, 60)) : is($lines, $expected, 'ALTER while the truck runs: ' . substr($step, 0, 60));
}
is(last_error('running') // '', '', 'no ALTER has stopped the truck');

# A column that the SQL names goes away, and comes back.
sql(q{
CREATE TABLE needed (id int PRIMARY KEY, v text, w text);
CREATE TABLE needed_copy (id int, v text);
SELECT trucker.create_truck('needed', '{needed}', 'INSERT INTO needed_copy SELECT id, v FROM r');
SELECT trucker.start('needed');
});
ok(wait_state($node, 'needed', 'streaming'), 'a truck names a column');
sql(q{INSERT INTO needed VALUES (1, 'a'); ALTER TABLE needed RENAME v TO x; INSERT INTO needed VALUES (2, 'b')});
stops_with('needed', qr/42703: column "v" does not exist/, 'it stops when the column is renamed');
sql(q{ALTER TABLE needed RENAME x TO v});
ok(caught_up($node, 'needed'), 'and goes on when it is back');
is(sql(q{SELECT string_agg(id || v, ' ' ORDER BY id) FROM needed_copy}), '1a 2b', 'with nothing lost');

###
### The replica identity changes while the truck runs
###

sql(q{
CREATE TABLE ident (id int PRIMARY KEY, v text);
ALTER TABLE ident REPLICA IDENTITY FULL;
CREATE TABLE ident_log (n serial, line text);
INSERT INTO ident VALUES (1, 'a'), (2, 'b');
SELECT trucker.create_truck('ident', '{ident}', } . literal(line_sql('ident_log', "old__v, $mine")) . q{, options => '{"backfill": false}');
CREATE TABLE noident (id int PRIMARY KEY, v text);
CREATE TABLE noident_log (n serial, line text);
INSERT INTO noident VALUES (1, 'a'), (2, 'b');
SELECT trucker.create_truck('noident', '{noident}', } . literal(line_sql('noident_log', $mine)) . q{, options => '{"backfill": false}');
SELECT trucker.start(n) FROM unnest('{ident, noident}'::text[]) n;
});
ok(wait_state($node, $_, 'streaming'), "truck $_ runs") foreach qw(ident noident);
sql(q{ALTER TABLE ident REPLICA IDENTITY DEFAULT; UPDATE ident SET v = 'c' WHERE id = 1});
stops_with('ident', qr/REPLICA IDENTITY FULL/, 'old values that are not logged any more stop the truck that reads them');
is(sql(q{SELECT count(*) FROM ident_log}), '0', 'they are not passed as NULL');
sql(q{ALTER TABLE noident DROP CONSTRAINT noident_pkey; DELETE FROM noident WHERE id = 1});
stops_with('noident', qr/replica identity/, 'a table that loses its replica identity stops the truck: its deletes are not in the WAL');

###
### Altered with nobody there to write it down
###
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});
sql(q{CREATE TABLE unseen (id int, k int, v text, PRIMARY KEY (id, k)); CREATE TABLE unseen_log (n serial, line text); INSERT INTO unseen VALUES (1, 2, 'a');
SELECT trucker.create_truck('unseen', '{unseen}', } . literal(line_sql('unseen_log', 'id, k, v, old__id, old__k, meta__operation, meta__seq')) . q{); SELECT trucker.start('unseen')});
ok(wait_state($node, 'unseen', 'streaming'), 'a truck runs');
sql(q{SELECT trucker.stop('unseen')});
ok(wait_state($node, 'unseen', 'stopped'), 'it rests');
my $preloaded = sql('SHOW shared_preload_libraries');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
sql(q{DELETE FROM unseen;} . swap('unseen'));
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$preloaded'");
$node->restart;
sql(q{SELECT trucker.start('unseen')});
stops_with('unseen', qr/column "(id|k)" of table public.unseen was altered after a change.*resync/s, 'columns swapped unnoticed: a delete that waits stops the truck');
# at once, so that it does not try again in between
sql(q{BEGIN; ALTER TABLE unseen ADD w int; TRUNCATE unseen_log; SELECT trucker.resync('unseen'); COMMIT});
ok(wait_state($node, 'unseen', 'streaming'), 'resync() gets it going');
sql(q{INSERT INTO unseen VALUES (3, 4, 'b')});
ok(caught_up($node, 'unseen'), 'changes arrive');
sql(q{SELECT trucker.stop('unseen')});
ok(wait_state($node, 'unseen', 'stopped'), 'it rests again');
sql(q{DELETE FROM unseen;} . swap('unseen') . q{; SELECT trucker.start('unseen')});
ok(caught_up($node, 'unseen'), 'columns swapped as usual');
is(log_of('unseen'), "insert id=4 k=3 v=b\ndelete old__id=3 old__k=4", 'each value is that of its column');

is(sql(q{SELECT count(*) FROM trucker.status WHERE state = 'creating slot' OR state = 'backfill'}), '0', 'no truck is stuck');
$node->stop;

done_testing();
