# Every value of every type arrives as it is in the table: what the backfill copies
# and what goes through text in the stream, new values and old ones, whatever the
# settings of the role that the truck runs as.  The destination is compared byte by
# byte (record_image_eq) and as text, since a value that merely looks right, or is
# merely equal, is still another value.
#
# The list of types is the catalog's: a type that a new server brings makes this
# test fail until there are values for it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use List::Util 'max';
use Test::More;
use TruckerTest;
use TruckerTypes;

my $node = trucker_node('types');

# Long statements, of which a failure is to print the error only.
sub execute
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);

	die 'SQL failed: ' . substr($stderr, 0, 1000) if $rc != 0;
	return;
}

# Types that only the server itself can make values of.
my @no_input = qw(gtsvector pg_brin_bloom_summary pg_brin_minmax_multi_summary pg_dependencies pg_mcv_list pg_ndistinct pg_node_tree);

create_types($node);

# The catalog's types, and what we have values for.
my %values = type_values();
my @builtin = split /\n/, $node->safe_psql(
	'postgres', q{
	SELECT typname FROM pg_type
	WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'd', 'e', 'r', 'm')
	AND NOT (typelem <> 0 AND typsubscript = 'array_subscript_handler'::regproc AND typlen = -1 AND typname ~ '^_')
	UNION ALL
	SELECT 'information_schema.' || typname FROM pg_type
	WHERE typnamespace = 'information_schema'::regnamespace AND typtype = 'd'
	ORDER BY 1});
my %no_input = map { $_ => 1 } @no_input;
is(join(' ', grep { !$values{$_} && !$no_input{$_} } @builtin), '', 'there are values for every type of the catalog');
foreach my $type (@no_input)
{
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "SELECT ''::$type");
	like($stderr, qr/cannot accept a value|not implemented/, "$type takes no input");
}

my @columns = type_columns();
my @rows;
my $nrows = max map { scalar @{ $_->{list} } } @columns;
note scalar(@columns) . " columns, $nrows rows";

my $definitions = join ', ', map { "$_->{name} $_->{type}" } @columns;
my $names = join ', ', map { $_->{name} } @columns;
my $old_names = join ', ', map { "old__$_->{name}" } @columns;

$node->safe_psql(
	'postgres', qq{
DROP TABLE s;
CREATE TABLE s (id int PRIMARY KEY, $definitions);
ALTER TABLE s REPLICA IDENTITY FULL;
CREATE TABLE s_old (id int, op text, $definitions);
CREATE TABLE streamed (LIKE s INCLUDING INDEXES);
CREATE TABLE streamed_old (LIKE s_old);
CREATE TABLE mixed (LIKE s INCLUDING INDEXES);
CREATE TABLE mixed_old (LIKE s_old);
GRANT ALL ON s, streamed, streamed_old TO hostile;

CREATE FUNCTION keep_old() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO s_old SELECT old.id, lower(tg_op), (old).*;
	RETURN NULL;
END \$\$;
});

# OLD.* holds id as well
$node->safe_psql(
	'postgres', qq{
CREATE OR REPLACE FUNCTION keep_old() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO s_old SELECT old.id, lower(tg_op), @{[join ', ', map { "old.$_->{name}" } @columns]};
	RETURN NULL;
END \$\$;
CREATE TRIGGER keep_old AFTER UPDATE OR DELETE ON s FOR EACH ROW EXECUTE FUNCTION keep_old();
});

my %title = map { $_->{name} => $_->{title} } @columns;

# The columns' types instead of their names
sub equal
{
	my ($a, $b, $key, $test_name) = @_;
	my $differences = $node->safe_psql('postgres', "SELECT differences('$a', '$b', '$key')");

	$differences =~ s/(c\d\d\d):/$title{$1} ($1):/g;
	is($differences, '', $test_name);
	return;
}

sub output_sql
{
	my ($d) = @_;
	return qq{
		INSERT INTO public.${d}_old SELECT old__id, meta__operation, $old_names FROM r WHERE meta__operation <> 'insert';
		DELETE FROM public.$d USING r WHERE r.meta__operation <> 'insert' AND $d.id = r.old__id;
		INSERT INTO public.$d SELECT id, $names FROM r WHERE meta__operation <> 'delete'};
}

# A search_path in which pg_catalog comes last is the worst for names.
$node->safe_psql(
	'postgres', qq{
SET search_path = "Odd, ""Path""", public, pg_catalog;
SELECT trucker.create_truck('streamed', '{public.s}', \$\$@{[output_sql('streamed')]}\$\$, options => '{"role": "hostile"}');
SELECT trucker.start('streamed');
});
ok(wait_state($node, 'streamed', 'streaming'), 'a truck that reads all types starts');

foreach my $i (0 .. $nrows - 1)
{
	push @rows, "INSERT INTO s VALUES ($i, " . join(', ', map { $_->{list}[ $i % @{ $_->{list} } ] } @columns) . ');';
}
execute($_) foreach @rows;
ok(caught_up($node, 'streamed'), 'inserts of all values arrive');
equal('s', 'streamed', 'id', 'streamed inserts: every value of every type is exact');

$node->safe_psql(
	'postgres', qq{
SELECT trucker.create_truck('mixed', '{s}', \$\$@{[output_sql('mixed')]}\$\$);
SELECT trucker.start('mixed');
});
ok(wait_state($node, 'mixed', 'streaming'), 'a truck backfills all types');
ok(caught_up($node, 'mixed'), 'and catches up');
equal('s', 'mixed', 'id', 'backfilled: every value of every type is exact');

# Each value takes the place of another; then some go.
my $shifted = join ', ', map { "$_->{name} = n.$_->{name}" } @columns;
$node->safe_psql(
	'postgres', qq{
UPDATE s SET $shifted FROM s n WHERE n.id = (s.id + 1) % $nrows;
DELETE FROM s WHERE id % 3 = 0;
});
foreach my $d (qw(streamed mixed))
{
	ok(caught_up($node, $d), "$d: updates and deletes arrive");
	equal('s', $d, 'id', "$d: every updated value is exact");
	equal('s_old', "${d}_old", 'id, op', "$d: every old value is exact");
}

# Can this comparison fail at all?
$node->safe_psql('postgres', q{UPDATE mixed SET c005 = NULL WHERE id = 1; DELETE FROM streamed WHERE id = 2});
isnt($node->safe_psql('postgres', q{SELECT differences('s', 'streamed', 'id')}), '', 'the comparison sees a lost row');

# A NaN that the plugin cannot carry: the backfill can, and start() says which
# columns are in danger.
$node->safe_psql('postgres', q{
CREATE TABLE nan (id int PRIMARY KEY, "F" float4, g float8, n numeric, unread numeric);
INSERT INTO nan VALUES (1, 'NaN', '-Infinity', 'NaN', 0), (2, 'Infinity', 'NaN', '-Infinity', 0), (3, 1, 2, 3, 4);
CREATE TABLE nan_copy (id int, "F" float4, g float8, n numeric);
SELECT trucker.create_truck('nan', '{nan}', 'INSERT INTO nan_copy SELECT id, "F", g, n FROM r', options => '{"inserts_only": true}')});
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{SELECT trucker.start('nan')});
SKIP:
{
	skip 'this decoder carries NaN', 2 if $rc == 0 && $stderr !~ /NaN/;
	like($stderr, qr/WARNING:.*NaN.*numeric columns/, 'start() warns of columns whose NaN would be lost');
	like($stderr, qr/"F", "g", "n"\./, 'and names those that the SQL reads, no others');
}
ok(caught_up($node, 'nan'), 'the truck runs');
same($node, 'SELECT id, "F"::text, g::text, n::text FROM nan', 'SELECT id, "F"::text, g::text, n::text FROM nan_copy',
	'NaN and infinity are exact in a backfill');

# What has no input function cannot be streamed: not read, it does no harm.
$node->safe_psql('postgres', q{
CREATE TABLE noinput (id int PRIMARY KEY, tree pg_node_tree, v text);
CREATE TABLE noinput_copy (id int, v text);
SELECT trucker.create_truck('noinput', '{noinput}', 'INSERT INTO noinput_copy SELECT id, v FROM r', options => '{"inserts_only": true}');
SELECT trucker.start('noinput');
});
ok(wait_state($node, 'noinput', 'streaming'), 'a column without input function does not keep a truck from starting');
$node->safe_psql('postgres', q{INSERT INTO noinput SELECT row_number() OVER (), adbin, 'v' FROM pg_attrdef LIMIT 3});
ok(caught_up($node, 'noinput'), 'nor from streaming, if it is not read');
is($node->safe_psql('postgres', q{SELECT string_agg(id || v, ' ' ORDER BY id) FROM noinput_copy}), '1v 2v 3v', 'the other columns arrive');

is($node->safe_psql('postgres', q{SELECT string_agg(truck || ': ' || last_error, E'\n') FROM trucker.status WHERE last_error IS NOT NULL}),
	'', 'no truck has met an error');
$node->stop;

done_testing();
