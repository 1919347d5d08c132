# TruckerTypes.pm: values of every type of PostgreSQL, for tests of whatever they go through.
package TruckerTypes;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TruckerTest;

our @EXPORT = qw(
  create_types
  type_columns
  type_values
);

# A string constant; of a reference, the expression.
sub literal
{
	my ($text) = @_;
	return $$text if ref $text;
	return "'" . ($text =~ s/'/''/gr) . "'";
}

# Texts that somebody on the road might take for something else.
my @texts = (
	'', ' ', '   trailing   ', 'plain', q{it's "quoted"}, '\\', '\\\\', '\\n', "new\nline", "\r\n", "\t", "\b\f\x01\x1f\x7f",
	'NULL', 'null', '\\N', 'NaN', 'true', '0', '{}', '{"a": 1}', '[1, 2]', '(1,2)', '\\x00', '\\u0041', '\\u0000', 'a,b;c',
	'größe, naïve', '日本語', "\xf0\x9f\x9a\x9b truck", "\xc2\xa0", "\xe2\x80\xa8", '{{ .rows }}', '$1 $$ :x %s', 'x' x 3000, '</a>', '/* --');

my @dates = (
	'2024-02-29', '1970-01-01', '0001-01-01', '0001-12-31 BC', '4713-01-01 BC', '4714-11-24 BC', '0099-03-04', '9999-12-31',
	'10000-01-02', 'infinity', '-infinity', '1999-01-02', '2001-12-11');
my @timestamps = (
	(map { my $d = $_; $d =~ / BC/ ? $d =~ s/ BC/ 23:59:59.999999 BC/r : $d =~ /inf/ ? $d : "$d 01:02:03.000004" } @dates),
	'294276-12-31 23:59:59.999999', '2024-01-01 24:00:00', '1582-10-15 00:00:00', '4714-11-24 00:00:00 BC');

my %values = (
	bool    => [qw(t f)],
	int2    => [qw(0 -1 32767 -32768)],
	int4    => [qw(0 -1 2147483647 -2147483648)],
	int8    => [qw(0 -1 9223372036854775807 -9223372036854775808 9007199254740993)],
	numeric => [
		qw(0 0.0 0.000 1 1.0 1.00 -1.10 100 1e3 123456789012345678901234567890.123456789 -0.000000000000000000001 1e-1000),
		'9' x 2000, '1e131071', '0.' . '1' x 5000
	],
	float4 => [qw(0 -0 1 0.1 -1.5e-10 3.4028235e+38 1.1754944e-38 1e-45 16777217 0.3)],
	float8 => [qw(0 -0 1 0.1 0.30000000000000004 1.7976931348623157e+308 2.2250738585072014e-308 5e-324 -1e15 1e16 123456789.123456789)],
	money  => [ '$0.00', '-$0.01', '$1,234.56', '$92,233,720,368,547,758.07', '-$92,233,720,368,547,758.08' ],
	text   => \@texts,
	varchar => \@texts,
	bpchar  => \@texts,
	name    => [ map { length > 63 ? 'n' x 63 : $_ } @texts ],
	char    => [ '', ' ', 'a', '\\', '"', "'", "\x01", "\x7f", "\n", 'é', '日', "\xf0\x9f\x9a\x9b" ],
	bytea   => [ '', '\\x', '\\x00', '\\xff00ff', '\\x5c78', '\\x27225c0a', 'abc', '\\\\x41', '\\x' . 'deadbeef' x 3000 ],
	date    => [ @dates, '5874897-12-31' ],
	time    => [qw(00:00:00 24:00:00 23:59:59.999999 12:00:00.5)],
	timetz  => [qw(00:00:00+00 24:00:00-15:59:59 23:59:59.999999+15:59:59 12:00:00.5+05:30 12:00:00-08)],
	timestamp   => \@timestamps,
	timestamptz => [ (map { /inf/ ? $_ : / BC/ ? s/ BC/+05:30 BC/r : "$_+00" } grep { !/4714/ } @timestamps), '2024-10-27 02:30:00+02', '2024-10-27 02:30:00+01' ],
	interval => [
		'0', '1 year 2 mons 3 days 04:05:06.789', '-1 year -2 mons +3 days -04:05:06.000001', '1 mon -1 day', '-1 mon +1 day',
		'-1 day +02:03:04', '1 day -00:00:00.000001', '-1 day -02:03:04', '-1 day', '178000000 years', '-178000000 years', '2147483647 days -2147483648 hours', '999 hours',
		'-1 year +1 mon', '-00:00:01', '-1 mons 1 day 1 hour'
	],
	bit    => [ qw(0 1) ],
	varbit => [ '', qw(0 1 000 10101010101010101), '01' x 500 ],
	uuid   => [qw(00000000-0000-0000-0000-000000000000 ffffffff-ffff-ffff-ffff-ffffffffffff a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11)],
	json   => [
		'null', 'true', '""', '{}', '[]', '0', '-1.50e+10', q{"it's"}, ' { "b" : 1, "a":2 ,"a" : 3 } ', "[1,\n\t2]", '"\\u00e9\\u0000\\n\\\\ \\" \\/"', '"é 日本"',
		'[' x 50 . ']' x 50
	],
	jsonb => [
		'null', 'true', '""', '{}', '[]', '0', '-1.50', q{"it's"}, '{"b": 1, "a": {"": [null]}}', '"\\u00e9\\n\\\\ \\" \\/"', '"é 日本"', '1e400',
		'{"' . 'k' x 1000 . '": "' . 'v' x 5000 . '"}'
	],
	jsonpath => [ '$', '$.a[*] ? (@.b > 1 && @.c == "x\\"y\\n")', 'strict $."it\'s é"', 'lax $.**{2 to last}.type()' ],
	xml      => [ '', '<a/>', '<a b="1">t &amp; u</a>', 'text only', '<a/><b/>', '<?xml version="1.0"?><a>é</a>', "<a>\n</a>", '<![CDATA[<&>]]>' ],
	tsvector => [ '', 'a', "'it''s':1A,2B,3 'b\\\\c':16383D 'é'", "a b:1 'c d':2", "'new\nline':5" ],
	tsquery  => [ '', 'a', 'a & !b | c:*AB', "'it''s' <-> 'b\\\\c'", 'a <3> b', '!!a', "'two words'" ],
	point    => [ '(0,0)', '(-1.5,1e300)', '(Infinity,-Infinity)', '(NaN,NaN)', '(0.1,-0)' ],
	line     => [ '{1,2,3}', '{-1.5,1,0.1}', '{0,1,0}', '[(0,0),(1,1)]' ],
	lseg     => [ '[(0,0),(1,1)]', '[(-0.1,1e-300),(Infinity,NaN)]' ],
	box      => [ '(1,1),(0,0)', '(Infinity,0.1),(-Infinity,-0.1)' ],
	path     => [ '[(0,0)]', '((0,0),(1,1),(2,0.1))', '[(0,0),(1,1),(NaN,0)]' ],
	polygon  => [ '((0,0))', '((0,0),(0.1,1),(1,0))' ],
	circle   => [ '<(0,0),0>', '<(0.1,-1),1e10>', '<(NaN,0),Infinity>' ],
	inet     => [qw(0.0.0.0 192.168.1.5/24 255.255.255.255/0 ::1 ::/0 2001:db8::ffff:1.2.3.4/64 ::ffff:1.2.3.4)],
	cidr     => [qw(0.0.0.0/0 192.168.1.0/24 10.0.0.1/32 ::/0 2001:db8::/32 ::1/128)],
	macaddr  => [qw(00:00:00:00:00:00 08:00:2b:01:02:03 ff:ff:ff:ff:ff:ff)],
	macaddr8 => [qw(00:00:00:00:00:00:00:00 08:00:2b:ff:fe:01:02:03)],
	oid      => [qw(0 1 4294967295)],
	xid      => [qw(0 1 4294967295)],
	cid      => [qw(0 4294967295)],
	xid8     => [qw(0 18446744073709551615)],
	tid      => [ '(0,0)', '(4294967295,65535)' ],
	pg_lsn   => [qw(0/0 16/B374D848 FFFFFFFF/FFFFFFFF)],
	txid_snapshot => [ '1:1:', '10:20:10,14,15' ],
	pg_snapshot   => [ '1:1:', '10:20:10,14,15' ],
	refcursor     => [ '', 'c1', q{<unnamed portal "1">} ],
	aclitem       => [ '=r/hostile', 'hostile=arwdDxt*/hostile', q{"it's ""me"""=r*w/hostile} ],
	int2vector    => [ '', '0', '1 -2 32767' ],
	oidvector     => [ '', '0', '1 4294967295' ],
	# the same names as in pg_catalog stand in schema "Odd, ""Path""", which comes first
	regclass      => [ '-', 'pg_class', q{"Odd, ""Path""".pg_class}, q{public."Mixed.Case"}, 's', '99999' ],
	regtype       => [ '-', 'text', 'integer', '"char"', 'timestamp with time zone', 'int4[]', q{"Odd, ""Path""".text}, q{"Odd, ""Path""".text[]}, 'mood' ],
	regproc       => [ '-', 'now', 'textin', q{"Odd, ""Path""".textin} ],
	regprocedure  => [ '-', 'abs(integer)', 'lower(text)', q{"Odd, ""Path""".lower(pg_catalog.text)}, q{"Odd, ""Path""".lower("Odd, ""Path""".text)} ],
	regoper       => [ '0', '*<>', '#-', '||/' ],
	regoperator   => [ '0', '+(integer,integer)', '-(none,integer)', q{OPERATOR_OF_SCHEMA} ],
	regrole       => [ '-', 'hostile', q{"it's ""me"""} ],
	regnamespace  => [ '-', 'pg_catalog', q{"Odd, ""Path"""} ],
	regcollation  => [ '-', '"C"', '"POSIX"', 'ucs_basic', q{"Odd, ""Path"""."C"} ],
	regconfig     => [ '-', 'simple', 'english', q{"Odd, ""Path""".simple} ],
	regdictionary => [ '-', 'simple', 'english_stem' ],
	int4range     => [ 'empty', '[1,10)', '(,)', '[1,)', '(,5)' ],
	int8range     => [ 'empty', '[1,9223372036854775807)', '(,)' ],
	numrange      => [ 'empty', '[1.0,1.00]', '(0.1,NaN)', '[-Infinity,Infinity]', '(,5]' ],
	daterange     => [ 'empty', '[2024-01-01,infinity)', '[0044-03-15 BC,9999-12-31)', '[-infinity,)' ],
	tsrange       => [ 'empty', '["2024-01-01 00:00:00.000001",infinity]', '(,"0044-03-15 12:00:00 BC")' ],
	tstzrange     => [ 'empty', '["2024-01-01 00:00:00+05:30",infinity]', '["0044-03-15 12:00:00+00 BC",)' ],
	int4multirange => [ '{}', '{[1,2),[5,9)}', '{(,)}' ],
	int8multirange => [ '{}', '{[1,2),[5,)}' ],
	nummultirange  => [ '{}', '{[1.0,1.10],(5,NaN]}' ],
	datemultirange => [ '{}', '{[2024-01-01,2024-02-01),[2025-01-01,infinity)}' ],
	tsmultirange   => [ '{}', '{["2024-01-01 00:00:00","2024-01-02 00:00:00.5")}' ],
	tstzmultirange => [ '{}', '{["2024-01-01 00:00:00+02","2024-01-02 00:00:00.5-11:30")}' ],

	# domains of information_schema
	'information_schema.cardinal_number' => [qw(0 2147483647)],
	'information_schema.character_data'  => \@texts,
	'information_schema.sql_identifier'  => [ 'a', q{it's "x"} ],
	'information_schema.time_stamp'      => ['2024-01-01 00:00:00.12+00'],
	'information_schema.yes_or_no'       => [qw(YES NO)],

	# with type modifiers
	'char(10)'                  => [ map { substr($_, 0, 10) } grep { !/[^\x01-\x7f]/ } @texts ],
	'varchar(5)'                => [ '', 'a', '     ', 'größe', '日本語' ],
	'numeric(10,2)'             => [qw(0 0.10 -12345678.99 1)],
	'numeric(5,-2)'             => [qw(0 1200 -9999900)],
	'bit(3)'                    => [qw(000 101)],
	'varbit(5)'                 => [ '', '10101' ],
	'timestamp(0)'              => [ '2024-01-01 00:00:59', '-infinity' ],
	'timestamptz(3)'            => ['2024-01-01 00:00:59.125+00'],
	'time(2)'                   => ['23:59:59.25'],
	'interval year to month'    => ['-1 year 1 mon'],
	'interval day to second(1)' => ['-1 day 00:00:00.1'],
	'int4[3]'                   => [ '{1,NULL}', '{{1,2},{3,4}}' ],

	# a user's own
	mood              => [ 'sad', 'ok', '', q{it's}, 'a,b', 'NULL', '"q"', '\\', 'größe', ' sp ace ' ],
	d_text            => \@texts,
	d_bytea           => [ '', '\\x00ff5c', '\\x' ],
	d_numeric         => [qw(NaN Infinity -Infinity 0.0 1.00)],
	d_float           => [qw(NaN Infinity -Infinity -0 0.1)],
	d_d_numeric       => [qw(NaN 1.0)],
	d_array           => [ '{NaN,1.0,NULL}', '{}' ],
	d_mood            => [ 'sad', '' ],
	d_pair            => [ '(,)', q{(1,"a ""b"" \\\\ ,é")} ],
	pair              => [ '(,)', '(1,)', '(,"")', q{(-1,"a ""b"" \\\\ , é (")}, "(2,\"new\nline\")", '(3,NULL)', '(4," x ")' ],
	nested            => [
		'(,,,)',
		\ q{ROW((1, 'a "b" \\\\ , (''')::pair, ARRAY[(1, 'x'), NULL, (NULL, E'\\\\\n"{}')]::pair[], 'NaN', '\\xff00')},
		\ q{ROW(NULL, '{}', '-Infinity', '\\x')}
	],
	floatrange        => [ 'empty', '[NaN,NaN]', '[-Infinity,0.1)', '[0.1,Infinity]' ],
	floatmultirange   => [ '{}', '{[-Infinity,0.1),[5,NaN]}' ],
	citext            => [ 'A', 'a', 'É', '' ],
	hstore            => [ '', '"a"=>"1", "b"=>NULL', q{"it's"=>"\\"x\\" \\\\ é", ""=>"NULL"} ],
	ltree             => [ '', 'a.b.c' ],
	cube              => [ '(0.1,2)', '(1,2),(3,4)', '(NaN)', '()' ],
	isbn13            => ['978-0-11-000533-1']);
my @contrib = qw(citext hstore ltree cube isn);
my %contrib_type = (citext => 'citext', hstore => 'hstore', ltree => 'ltree', cube => 'cube', isn => 'isbn13');

$values{regoperator}[3] = q{"Odd, ""Path""".+(integer,integer)};

# All values: a list of texts (or, as references, SQL expressions) for each type.
sub type_values
{
	return %values;
}

# create_types($node): the types that are not the server's own, roles and objects with the
# names that occur in values; and a function differences(a, b, key) that names the columns
# in which two tables differ, but for what is no part of the values.  Table s is only there for its name.
sub create_types
{
	my ($node) = @_;

	$node->safe_psql('postgres', q{
CREATE ROLE hostile;
CREATE ROLE "it's ""me""";
CREATE SCHEMA "Odd, ""Path""";
GRANT USAGE ON SCHEMA "Odd, ""Path""" TO hostile;
CREATE TABLE "Odd, ""Path""".pg_class (a int);
CREATE TYPE "Odd, ""Path""".text AS ENUM ('x');
CREATE FUNCTION "Odd, ""Path""".lower(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION "Odd, ""Path""".lower("Odd, ""Path""".text) RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT $1::pg_catalog.text';
CREATE FUNCTION "Odd, ""Path""".textin() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE OPERATOR "Odd, ""Path""".+ (leftarg = int4, rightarg = int4, function = int4pl);
CREATE COLLATION "Odd, ""Path"""."C" FROM "POSIX";
CREATE TEXT SEARCH CONFIGURATION "Odd, ""Path""".simple (COPY = pg_catalog.english);
CREATE TABLE public."Mixed.Case" (a int);
CREATE TYPE mood AS ENUM ('sad', 'ok', '', 'it''s', 'a,b', 'NULL', '"q"', '\\', 'größe', ' sp ace ');
CREATE DOMAIN d_text AS text CHECK (value IS NULL OR length(value) >= 0);
CREATE DOMAIN d_bytea AS bytea;
CREATE DOMAIN d_numeric AS numeric;
CREATE DOMAIN d_d_numeric AS d_numeric CHECK (value > 0);
CREATE DOMAIN d_float AS float8;
CREATE DOMAIN d_array AS float8[];
CREATE DOMAIN d_mood AS mood;
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN d_pair AS pair;
CREATE TYPE nested AS (p pair, ps pair[], f float8, b bytea);
CREATE TYPE floatrange AS RANGE (subtype = float8, multirange_type_name = floatmultirange);
-- for regclass; the table that is compared
CREATE TABLE s ();
ALTER ROLE hostile SET datestyle = 'SQL, DMY';
ALTER ROLE hostile SET intervalstyle = 'sql_standard';
ALTER ROLE hostile SET timezone = 'Asia/Kolkata';
ALTER ROLE hostile SET extra_float_digits = -15;
ALTER ROLE hostile SET bytea_output = 'escape';
ALTER ROLE hostile SET array_nulls = off;
ALTER ROLE hostile SET xmloption = 'document';
} =~ s/'\\\\'/'\\'/r);

	foreach my $extension (@contrib)
	{
		if ($node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = '$extension'"))
		{
			$node->safe_psql('postgres', "CREATE EXTENSION $extension");
		}
		else
		{
			note "extension $extension is not there to be tested";
			delete $values{ $contrib_type{$extension} };
		}
	}
	$node->safe_psql('postgres', q{
-- The columns in which two tables differ, by image and by text; xml by what its output
-- function prints, which leaves out an XML declaration that says nothing; tsquery by its
-- operator =, as the order in which its words are stored says nothing.
CREATE FUNCTION differences(a regclass, b regclass, key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	c name;
	type text;
	ids text;
	result text := '';
BEGIN
	EXECUTE format('SELECT string_agg(coalesce(a.id, b.id)::text, '','') FROM %s a FULL JOIN %s b USING (%s) WHERE a.id IS NULL OR b.id IS NULL', a, b, key) INTO ids;
	IF ids IS NOT NULL THEN
		RETURN 'rows on one side only: ' || ids;
	END IF;
	FOR c, type IN SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = a AND attnum > 0 ORDER BY attnum LOOP
		EXECUTE format('SELECT string_agg(a.id::text, '','' ORDER BY a.id) FROM %1$s a JOIN %2$s b USING (%4$s) WHERE %5$s',
			a, b, c, key,
			format(CASE WHEN type IN ('xml', 'xml[]')
				THEN '(a.%1$I IS NULL) IS DISTINCT FROM (b.%1$I IS NULL) OR format(''%%s'', a.%1$I) <> format(''%%s'', b.%1$I)'
				WHEN type IN ('tsquery', 'tsquery[]')
				THEN 'a.%1$I IS DISTINCT FROM b.%1$I OR a.%1$I::text COLLATE "C" IS DISTINCT FROM b.%1$I::text COLLATE "C"'
				ELSE 'NOT record_image_eq(ROW(a.%1$I), ROW(b.%1$I)) OR a.%1$I::text COLLATE "C" IS DISTINCT FROM b.%1$I::text COLLATE "C"' END, c)) INTO ids;
		IF ids IS NOT NULL THEN
			result := result || format('%s: %s; ', c, ids);
		END IF;
	END LOOP;
	RETURN result;
END $$;
});
	return;
}

# type_columns(@types): one column for each type (all that there are values for) and one for
# its array type, as { name, type, title, list of SQL expressions }.
my @columns;

sub _add_column
{
	my ($type, $title, @list) = @_;
	my $name = sprintf 'c%03d', scalar @columns;

	push @list, 'NULL';
	push @columns, { name => $name, type => $type, title => $title, list => \@list };
	return;
}

sub type_columns
{
	my @types = @_ ? @_ : sort keys %values;

	@columns = ();
	foreach my $type (@types)
	{
		my $sql_type = $type eq 'char' ? '"char"' : $type;
		my @literals = map { literal($_) . "::$sql_type" } @{ $values{$type} };
		my $all = join ', ', map { length > 4000 ? () : $_ } @literals;
		my $first = $literals[0];
		my $last = $literals[-1];

		_add_column($sql_type, $type, @literals);
		next if $type =~ /\(|\[/;
		_add_column("${sql_type}[]", "array of $type",
			"'{}'",
			"ARRAY[$all, NULL]::${sql_type}\[]",
			"ARRAY[ARRAY[$first, NULL], ARRAY[NULL, $last]]::${sql_type}\[]",
			"('[-2:-1][5:5]=' || ARRAY[ARRAY[$first], ARRAY[$last]]::${sql_type}\[]::text)::${sql_type}\[]",
			"ARRAY[NULL, NULL]::${sql_type}\[]",
			$type =~ /^(float\d|numeric)$/ ? "'{NaN,-Infinity,Infinity,NULL}'" : ());
	}
	_add_column('float8[]', 'zero-dimensional from a slice', q{('{1,2}'::float8[])[3:4]});
	return @columns;
}

1;
