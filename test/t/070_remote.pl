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
same_remote($source, 'SELECT id, name, CASE WHEN id <> -1 THEN price END AS price, at FROM item', $target, 'TABLE item_copy',
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

# ----
# Types
# ----

# Each in small runs and in large ones (parameters, COPY), in a backfill and in changes.
my $user_types = q{
	CREATE SCHEMA "odd schema";
	CREATE TYPE "odd schema"."Mood" AS ENUM ('happy', 'it''s "sad", {really}');
	CREATE TYPE pair AS (a int, b text);
	CREATE DOMAIN positive AS int CHECK (VALUE > 0)};
my @columns = (
	'id int PRIMARY KEY', 'b boolean', 'i2 smallint', 'i8 bigint', 'f4 real', 'f8 float8', 'n numeric', 'm money', 't text', 'c char(5)', 'ch "char"',
	'v varchar(9)', 'nm name', 'by bytea', 'd date', 'tm time', 'tz timetz', 'ts timestamp', 'tstz timestamptz', 'iv interval',
	'u uuid', 'j json', 'jb jsonb', 'x xml', 'ip inet', 'cd cidr', 'mc macaddr', 'bt bit(3)', 'vb varbit', 'p point', 'bx box', 'pa path', 'po polygon', 'ci circle',
	'tv tsvector', 'tq tsquery', 'r4 int4range', 'mr int4multirange', 'ls pg_lsn', 'oc oid', 'rc regclass', 'ia int[]', 'ta text[]', 'ba box[]',
	'mo "odd schema"."Mood"', 'moa "odd schema"."Mood"[]', 'pr pair', 'pra pair[]', 'po2 positive', 'poa positive[]');
my $list = join ', ', @columns;
my @names = map { /^(\S+)/ } @columns;
my $rows = q{
	(1, true, -1, 9223372036854775807, 1.5e-30, 1e300, 123456789012345678901234567890.000000001, '-1234.56', E'tab\t nl\n cr\r bs\\\\ q" c, b{} NULL \\N', 'ab', 'x',
	 'v', 'nm', '\\xdeadbeef00', '2020-02-29', '24:00:00', '12:00:00.123456+05:30', '4713-01-01 BC', '1900-01-01 00:00:00+00', '-1 year 2 mons -3 days 04:05:06.789',
	 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" : [1, null, "\\u00e9"]}', '{"b": {}}', '<a b="c">d</a>', '10.0.0.1/8', 'fe80::/10', '08:00:2b:01:02:03', B'101', B'1', '(1,2)', '(1,2),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1))', '<(0,0),1>',
	 'a:1A b', 'a & !b', '[1,5)', '{[1,2),[5,6)}', '1/2', 42, 'pg_class', '{{1,2},{3,NULL}}', E'{"a,b","NULL",NULL,"\\\\"",""}', '{(1,1),(0,0);(2,2),(1,1)}',
	 'it''s "sad", {really}', ARRAY['happy', NULL]::"odd schema"."Mood"[], ROW(1, E'x,")('), ARRAY[ROW(NULL, '')::pair], 7, '{1,2}'),
	(2, NULL, NULL, NULL, 'NaN', '-Infinity', 'NaN', '0', '', '', '', '', '', '', 'infinity', NULL, NULL, '-infinity', 'infinity', '0', NULL, 'null', 'null', '', '::', NULL, NULL, NULL, B'', NULL, NULL, NULL, NULL, NULL,
	 '', '', 'empty', '{}', '0/0', 0, '0', '{}', '{}', '{}', 'happy', '{}', ROW(NULL, NULL), '{}', NULL, NULL)};

# the quotes above are Perl's
foreach my $node ($source, $target)
{
	$node->safe_psql('postgres', $user_types);
	$node->safe_psql('postgres', "CREATE TABLE types ($list); ALTER TABLE types ALTER t SET STORAGE EXTERNAL");
}
$target->safe_psql('postgres', 'GRANT USAGE ON SCHEMA "odd schema" TO writer; GRANT ALL ON types TO writer');
$source->safe_psql('postgres', "ALTER TABLE types REPLICA IDENTITY FULL; INSERT INTO types VALUES $rows");
my $columns = join ', ', @names;
my $set = join ', ', map { "excluded.$_" } @names;
$source->safe_psql('postgres', qq{
	SELECT trucker.create_truck('types', '{types}', 'INSERT INTO types ($columns) SELECT $columns FROM r WHERE meta__operation <> ''delete'' ON CONFLICT (id) DO UPDATE SET ($columns) = ROW($set)',
		output_connection => 'warehouse');
	ALTER DATABASE postgres SET datestyle = 'SQL, DMY';
	ALTER DATABASE postgres SET intervalstyle = 'sql_standard';
	ALTER DATABASE postgres SET extra_float_digits = '-10';
	ALTER DATABASE postgres SET bytea_output = 'escape'});
$target->safe_psql('postgres', q{
	ALTER ROLE writer SET datestyle = 'German';
	ALTER ROLE writer SET intervalstyle = 'iso_8601';
	ALTER ROLE writer SET timezone = 'Asia/Kathmandu';
	ALTER ROLE writer SET synchronous_commit = off;
	ALTER ROLE writer SET standard_conforming_strings = off;
	ALTER ROLE writer SET default_transaction_read_only = on;
	ALTER ROLE writer SET default_transaction_isolation = 'serializable'});
$source->safe_psql('postgres', q{SELECT trucker.start('types')});
ok(caught_up($source, 'types'), 'types: backfill');

sub same_types
{
	my ($name, $where) = @_;
	my $text = join ', ', map { "$_\::text AS $_" } @names;
	my $query = "SET extra_float_digits = 1; SET datestyle = ISO; SET intervalstyle = postgres; SET bytea_output = hex; SET timezone = UTC; SELECT to_jsonb(q) FROM (SELECT $text FROM types WHERE $where) AS q ORDER BY id::int";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $here = $source->safe_psql('postgres', $query);
	isnt($here, '', "$name: there is something to compare");
	return is($target->safe_psql('postgres', $query), $here, $name);
}

same_types('types in a backfill', 'true');

# NaN and infinity do not come by the WAL
$source->safe_psql('postgres', q{
	UPDATE types SET id = id + 10, f4 = 0.1, f8 = 1.0000000000000002, n = 0 WHERE id = 2;
	UPDATE types SET i2 = 5;
	INSERT INTO types SELECT 100, b FROM types WHERE id = 1});
ok(caught_up($source, 'types'), 'types: changes');
same_types('types in small runs', 'id <> 2');
$source->safe_psql('postgres', 'INSERT INTO types SELECT (jsonb_populate_record(orig, jsonb_build_object(\'id\', g.k))).* FROM types AS orig, generate_series(1000, 1500) AS g(k) WHERE orig.id = 1');
ok(caught_up($source, 'types'), 'types: many');
same_types('types in a large run', 'id BETWEEN 1000 AND 1500');

# A type that is not there
$source->safe_psql('postgres', q{CREATE TYPE only_here AS ENUM ('a'); CREATE TABLE strange (id int PRIMARY KEY, v only_here)});
$target->safe_psql('postgres', 'CREATE TABLE strange (id int PRIMARY KEY, v text); GRANT ALL ON strange TO writer');
like(psql_err($source, q{
	BEGIN;
	SELECT trucker.create_truck('strange', '{strange}', 'INSERT INTO strange SELECT id, v FROM r', output_connection => 'warehouse');
	SELECT trucker.start('strange')}), qr/42704: +type "public\.only_here" does not exist/, 'a type that is not there is refused at start');
is(psql_err($source, q{
	SET client_min_messages = error;
	BEGIN;
	SELECT trucker.create_truck('strange', '{strange}', 'INSERT INTO strange SELECT id, v FROM r', 'SELECT id, v::text FROM r', output_connection => 'warehouse');
	SELECT trucker.start('strange');
	ROLLBACK}), '', 'input_sql can cast it');

# ----
# SQL of all kinds
# ----

$source->safe_psql('postgres', q{CREATE TABLE one (id int PRIMARY KEY, v text); CREATE TABLE two (id int PRIMARY KEY, w int); ALTER TABLE two REPLICA IDENTITY FULL});
$target->safe_psql('postgres', q{
	CREATE TABLE merged (id int PRIMARY KEY, v text);
	CREATE TABLE counted (source text PRIMARY KEY, n bigint);
	CREATE TABLE called (n int);
	CREATE TABLE ctes (id int, what text);
	CREATE TABLE wide (whole text);
	CREATE PROCEDURE note_call(n int) LANGUAGE sql AS 'INSERT INTO called VALUES (n)';
	GRANT ALL ON ALL TABLES IN SCHEMA public TO writer});
$source->safe_psql('postgres', q{
	SELECT trucker.create_truck('kinds', '{one, two}', output_connection => 'warehouse', output_sql => $$
		{{ if eq .input_table "public.one" }}
		MERGE INTO merged AS t USING r ON t.id = coalesce(r.id, r.old__id)
		WHEN MATCHED AND r.meta__operation = 'delete' THEN DELETE
		WHEN MATCHED THEN UPDATE SET v = r.v
		WHEN NOT MATCHED AND r.meta__operation <> 'delete' THEN INSERT VALUES (r.id, r.v);
		/* a comment */ WITH /* another */ RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2),
			gone AS (DELETE FROM ctes USING r WHERE ctes.id = r.old__id RETURNING ctes.id)
		INSERT INTO ctes SELECT x.id, 'n' || n.i FROM {{ .rows }} AS x, n WHERE x.meta__operation <> 'delete';
		CALL note_call(1);
		SELECT count(*) FROM r;
		{{ else }}
		INSERT INTO wide SELECT r.* ::text FROM r;
		{{ end }}
		INSERT INTO counted AS c SELECT '{{ .input_table }}', count(*) FROM r ON CONFLICT (source) DO UPDATE SET n = c.n + excluded.n
	$$);
	SELECT trucker.start('kinds')});
ok(caught_up($source, 'kinds'), 'SQL of all kinds is checked');
$source->safe_psql('postgres', q{
	INSERT INTO one VALUES (1, 'a'), (2, 'b'), (3, 'c');
	INSERT INTO two VALUES (1, 10);
	UPDATE one SET v = 'x' WHERE id = 2;
	DELETE FROM one WHERE id = 3});
ok(caught_up($source, 'kinds'), 'SQL of all kinds');
same_remote($source, 'TABLE one', $target, 'TABLE merged', 'MERGE');
same_remote($source, q{SELECT id, 'n' || n AS what FROM one, generate_series(1, 2) AS n}, $target, 'TABLE ctes', 'WITH RECURSIVE, data-modifying, an alias');
is($target->safe_psql('postgres', q{SELECT * FROM counted ORDER BY 1}), "public.one|5\npublic.two|1", 'a statement that reads no column');
cmp_ok($target->safe_psql('postgres', 'SELECT count(*) FROM called'), '>=', 1, 'CALL');
like($target->safe_psql('postgres', 'SELECT whole FROM wide'), qr/^\(1,10,,,insert,/, 'the whole row');
like(psql_err($source, q{
	BEGIN;
	SELECT trucker.create_truck('bad', '{one}', 'WITH r AS (SELECT id, v FROM r) INSERT INTO merged SELECT id, v FROM r', output_connection => 'warehouse');
	SELECT trucker.start('bad')}), qr/42712: +a WITH query of output_sql is called "r"/, 'another r is refused');
like(psql_err($source, q{
	BEGIN;
	SELECT trucker.create_truck('bad', '{one}', 'INSERT INTO merged SELECT id, nothing FROM r', output_connection => 'warehouse');
	SELECT trucker.start('bad')}), qr/42703: +column "nothing" does not exist.*CONTEXT: .*remote SQL/s, 'an error of the SQL there shows at start');

# All of a source transaction, or nothing of it, is seen there.
$source->safe_psql('postgres', q{
	CREATE TABLE pair_of (id int PRIMARY KEY, v int);
	INSERT INTO pair_of VALUES (1, 0), (2, 0)});
$target->safe_psql('postgres', 'CREATE TABLE pair_of (id int PRIMARY KEY, v int); GRANT ALL ON pair_of TO writer');
$source->safe_psql('postgres', q{
	SELECT trucker.create_truck('whole', '{pair_of}', output_connection => 'warehouse', options => '{"output_table": "pair_of"}');
	SELECT trucker.start('whole')});
ok(caught_up($source, 'whole'), 'pairs');
my $torn = 0;
foreach my $n (1 .. 30)
{
	$source->safe_psql('postgres', "BEGIN; UPDATE pair_of SET v = $n WHERE id = 1; UPDATE pair_of SET v = $n WHERE id = 2; COMMIT");
	$torn += $target->safe_psql('postgres', 'SELECT count(DISTINCT v) FROM pair_of') - 1;
}
is($torn, 0, 'source transactions are seen whole');
ok(caught_up($source, 'whole'), 'and arrive');
is($target->safe_psql('postgres', q{SELECT current_setting('synchronous_commit') FROM pg_database LIMIT 1}), 'on', 'the server is as it was');

# check() looks at the SQL there, each input of a truck, whatever fails at the one before
$source->safe_psql('postgres', q{
	SELECT trucker.create_truck('bad', '{one, two}', output_connection => 'warehouse',
		output_sql => $$INSERT INTO merged SELECT id, {{ if eq .input_table "public.one" }}nothing{{ else }}w{{ end }} FROM r$$)});
my $failing = q{SELECT string_agg(item || ': ' || detail, '; ') FROM trucker.check(%s) WHERE NOT ok};
is($source->safe_psql('postgres', sprintf $failing, q{'bad'}), 'truck "bad", public.one: plans: column "nothing" does not exist', 'check() tells of SQL that does not fit there');
is($source->safe_psql('postgres', sprintf $failing, q{'mirror'}), '', 'and of nothing where all is well');
is($source->safe_psql('postgres', q{SELECT needs, ok FROM trucker.check_replica_identity('one') WHERE truck = 'bad'}), 'a key|t', 'its needs are known without a word from there');
$target->stop;
like($source->safe_psql('postgres', sprintf $failing, q{'whole'}), qr/^truck "whole", public.pair_of: SQL: /, 'check() tells that there is no connection');
$target->start;

done_testing();
