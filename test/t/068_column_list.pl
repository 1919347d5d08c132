# Of a table pgoutput sends only the columns that trucks read.  When they are to read more,
# their new SQL begins exactly where the columns do; and no column list makes a statement of
# the application fail, or leaves a value out that some truck's SQL is given as NULL.
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
my $node = trucker_node('column_list', conf => "trucker.output_plugin = pgoutput\ntrucker.max_failures = 0\nautovacuum_naptime = '1s'\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# What is published of a table, or a partition, as a query.
sub list_query
{
	my ($table) = @_;

	return qq{SELECT coalesce(string_agg(coalesce((SELECT string_agg(coalesce(a.attname, '?'), ' ' ORDER BY n.o)
		FROM unnest(r.prattrs::int2[]) WITH ORDINALITY AS n(attnum, o) LEFT JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = n.attnum), 'all'), ', '), 'nothing')
		FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname LIKE 'trucker\\_%' AND r.prrelid = '$table'::regclass};
}

sub list_of
{
	my ($table) = @_;

	return sql(list_query($table));
}

sub wait_list
{
	my ($table, $list, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->poll_query_until('postgres', list_query($table), $list);
	return is(list_of($table), $list, $test_name);
}

sub former
{
	return sql(q{SELECT coalesce(string_agg(truck || CASE WHEN switches_at IS NULL THEN ' waits' ELSE ' knows' END, ', ' ORDER BY truck), 'none') FROM trucker.former_definitions});
}

# ----
# What is published
# ----

sql(q{
CREATE TABLE t (id int PRIMARY KEY, a int, b text, big text, c int);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE o1 (id int PRIMARY KEY, a int, c int, b text, big text);
CREATE TABLE o2 (LIKE o1 INCLUDING ALL);
INSERT INTO t VALUES (1, 10, 'b1', 'x', 100);
SELECT trucker.create_truck('one', '{t}', $$
	DELETE FROM o1 USING r WHERE o1.id = r.old__id;
	INSERT INTO o1 (id, a) SELECT id, a FROM r WHERE meta__operation <> 'delete'$$, options => '{"reset_sql": "TRUNCATE o1"}');
SELECT trucker.start('one')});
ok(wait_state($node, 'one', 'streaming'), 'a truck streams');
wait_list('t', 'id a', 'only what it reads is published, and the key');
is(sql("SELECT columns FROM trucker.publications WHERE input_table = 't'::regclass"), '{id,a}', 'the view tells');
sql("INSERT INTO t VALUES (2, 20, 'b2', 'y', 200); UPDATE t SET a = a + 1; UPDATE t SET b = 'other'");
same($node, 'SELECT id, a FROM t', 'SELECT id, a FROM o1', 'changes arrive') if caught_up($node, 'one');
is(former(), 'none', 'nobody needs a former definition');

done_testing();
