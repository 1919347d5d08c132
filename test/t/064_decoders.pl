# Whichever output plugin decodes the WAL, a truck's SQL sees the same r: two trucks read
# the same changes, one through wal2json, as text, the other one through pgoutput, in
# binary form, and what they write is compared, with each other and with the source.
#
# TRUCKER_SEED=n repeats the choices.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util 'max';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;
use TruckerTypes;

seed();
my $node = trucker_node('decoders', conf => "log_replication_commands = on\ntrucker.output_plugin = wal2json\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Long statements, of which a failure is to print the error only.
sub execute
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);

	die 'SQL failed: ' . substr($stderr, 0, 1000) if $rc != 0;
	return;
}

# Two trucks with the same SQL, in which %d stands for the one's own destination.
sub create_pair
{
	my ($name, $inputs, $sql, $options, $pgoutput_options) = @_;

	foreach my $plugin ('wal2json', 'pgoutput')
	{
		my $mine = $plugin eq 'pgoutput' && $pgoutput_options ? "$options, $pgoutput_options" : $options;

		sql("SELECT trucker.create_truck('${name}_$plugin', '{$inputs}', \$sql\$" . ($sql =~ s/%d/${name}_$plugin/gr) .
			"\$sql\$, options => '{\"stream\": \"$plugin\"" . ($mine ? ", $mine" : '') . "}')");
		sql("SELECT trucker.start('${name}_$plugin')");
		ok(wait_state($node, "${name}_$plugin", 'streaming'), "$name: the truck for $plugin starts");
	}
	return;
}

sub both_caught_up
{
	my ($name, $what) = @_;

	ok(caught_up($node, "${name}_$_"), "$name, $_: $what") foreach ('wal2json', 'pgoutput');
	return;
}

# What START_REPLICATION has asked for last.
sub last_binary
{
	my @all = slurp_file($node->logfile) =~ /START_REPLICATION .*"binary" '(true|false)'/g;
	return $all[-1];
}

create_types($node);
sql(q{
SELECT trucker.set_output_plugin('pgoutput', 'pgoutput');
-- binary text, too, is taken for what the database holds
ALTER ROLE hostile SET client_encoding = 'LATIN1';
});

# ----
# Types
# ----

# Those of which something has no binary form: arrays of them cannot be sent, or not be
# received.  wal2json loses what is NaN or infinite beyond the domains.
my %values = type_values();
my %no_binary = map { $_ => 1 } qw(aclitem int2vector oidvector isbn13 tsquery);
my @columns = type_columns(grep { !$no_binary{$_} } sort keys %values);
my $nrows = max map { scalar @{ $_->{list} } } @columns;
my $definitions = join ', ', map { "$_->{name} $_->{type}" } @columns;
my $names = join ', ', map { $_->{name} } @columns;
my $old_names = join ', ', map { "old__$_->{name}" } @columns;
my %title = map { $_->{name} => $_->{title} } @columns;

sub equal
{
	my ($a, $b, $key, $test_name) = @_;
	my $differences = sql("SELECT differences('$a', '$b', '$key')");

	$differences =~ s/(c\d\d\d):/$title{$1} ($1):/g;
	is($differences, '', $test_name);
	return;
}

execute(qq{
DROP TABLE s;
CREATE TABLE s (id int PRIMARY KEY, $definitions);
ALTER TABLE s REPLICA IDENTITY FULL;
CREATE TABLE s_old (id int, op text, $definitions);
} . join('', map { qq{
CREATE TABLE types_$_ (LIKE s INCLUDING INDEXES);
CREATE TABLE types_${_}_old (LIKE s_old);
GRANT ALL ON s, types_$_, types_${_}_old TO hostile;
} } ('wal2json', 'pgoutput')) . qq{
CREATE FUNCTION keep_old() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO s_old SELECT old.id, lower(tg_op), @{[join ', ', map { "old.$_->{name}" } @columns]};
	RETURN NULL;
END \$\$;
CREATE TRIGGER keep_old AFTER UPDATE OR DELETE ON s FOR EACH ROW EXECUTE FUNCTION keep_old();
});
create_pair('types', 'public.s', qq{
	INSERT INTO public.%d_old SELECT old__id, meta__operation, $old_names FROM r WHERE meta__operation <> 'insert';
	DELETE FROM public.%d USING r WHERE r.meta__operation <> 'insert' AND %d.id = r.old__id;
	INSERT INTO public.%d SELECT id, $names FROM r WHERE meta__operation <> 'delete'}, '"role": "hostile"');
is(last_binary(), 'true', 'pgoutput is asked for binary form');

foreach my $i (0 .. $nrows - 1)
{
	execute("INSERT INTO s VALUES ($i, " . join(', ', map { $_->{list}[ $i % @{ $_->{list} } ] } @columns) . ')');
}
both_caught_up('types', 'inserts of all values arrive');
equal('s', 'types_pgoutput', 'id', 'pgoutput, inserts: every value of every type is exact');
equal('types_wal2json', 'types_pgoutput', 'id', 'and equal to what wal2json gives');

my $shifted = join ', ', map { "$_->{name} = n.$_->{name}" } @columns;
execute("UPDATE s SET $shifted FROM s n WHERE n.id = (s.id + 1) % $nrows; DELETE FROM s WHERE id % 3 = 0");
both_caught_up('types', 'updates and deletes arrive');
equal('s', 'types_pgoutput', 'id', 'pgoutput: every updated value is exact');
equal('s_old', 'types_pgoutput_old', 'id, op', 'pgoutput: every old value is exact');
equal('types_wal2json_old', 'types_pgoutput_old', 'id, op', 'and equal to what wal2json gives');

# What wal2json 2.5 cannot carry, and a name of what is no more
sql(q{
CREATE TABLE nan (id int PRIMARY KEY, f float4, g float8, n numeric, c regclass, t regtype);
CREATE TABLE nan_copy (LIKE nan);
CREATE TABLE dropped ();
SELECT trucker.create_truck('nan', '{nan}', 'INSERT INTO nan_copy SELECT id, f, g, n, c, t FROM r', options => '{"stream": "pgoutput"}')});
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{SELECT trucker.start('nan')});
unlike($stderr, qr/NaN/, 'no warning of what pgoutput can carry');
ok(wait_state($node, 'nan', 'streaming'), 'a truck for NaN');
sql(q{
SELECT trucker.stop('nan');
INSERT INTO nan VALUES (1, 'NaN', '-Infinity', 'NaN', 'dropped', 'dropped'), (2, 'Infinity', 'NaN', '-Infinity', NULL, NULL);
DROP TABLE dropped;
SELECT trucker.start('nan')});
ok(caught_up($node, 'nan'), 'has them');
is(sql(q{SELECT string_agg(format('%s %s %s %s', id, f, g, n), ' ' ORDER BY id) FROM nan_copy}), '1 NaN -Infinity NaN 2 Infinity NaN -Infinity', 'exact');
same($node, 'SELECT id, c::oid, t::oid FROM nan', 'SELECT id, c::oid, t::oid FROM nan_copy', 'so are references to what has been dropped');

# ----
# What has no binary form
# ----

sql(q{
CREATE TABLE acl (id int PRIMARY KEY, a aclitem[], v oidvector, one aclitem, q tsquery);
CREATE TABLE acl_wal2json (LIKE acl);
CREATE TABLE acl_pgoutput (LIKE acl)});
create_pair('acl', 'acl', 'INSERT INTO %d SELECT id, a, v, one, q FROM r', '"inserts_only": true');
is(last_binary(), 'false', 'a table with such a column has the stream read as text');
sql(q{INSERT INTO acl VALUES (1, '{=r/hostile}', '', '=r/hostile', ''), (2, NULL, '1 2', NULL, 'a & b'); INSERT INTO s (id) VALUES (1000)});
both_caught_up('acl', 'has them');
same($node, 'SELECT id, a::text, v::text, one::text, q::text FROM acl', 'SELECT id, a::text, v::text, one::text, q::text FROM acl_pgoutput', 'as they are');
both_caught_up('types', 'others go as text as well');
is(sql(q{SELECT count(*) FROM types_pgoutput WHERE id = 1000}), '1', 'and arrive');

# dropped while changes with it are pending: the walsender fails on it, and is asked for text
sql(q{SELECT trucker.stop('acl_' || p), trucker.drop_truck('acl_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p; DROP TABLE acl_wal2json, acl_pgoutput});
sql(q{
CREATE TABLE late (id int PRIMARY KEY, v text);
CREATE TABLE late_wal2json (LIKE late);
CREATE TABLE late_pgoutput (LIKE late)});
create_pair('late', 'late', 'INSERT INTO %d SELECT id, v FROM r', '"inserts_only": true');
is(last_binary(), 'true', 'without such a table the stream is read in binary form');
sql(q{
SELECT trucker.stop('late_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p;
ALTER TABLE late ADD a aclitem[];
INSERT INTO late VALUES (1, 'one', '{=r/hostile}');
ALTER TABLE late DROP a;
INSERT INTO late VALUES (2, 'two');
SELECT trucker.start('late_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p});
both_caught_up('late', 'a column of that kind that is no more');
same($node, 'SELECT * FROM late', "SELECT * FROM late_$_", "does no harm ($_)") foreach ('wal2json', 'pgoutput');

# ----
# All kinds of changes
# ----

# everything r can say, but the order within a batch
sql(q{
CREATE TABLE two (a int, b text, v text, w numeric, big text, PRIMARY KEY (a, b));
CREATE TABLE whole (a int, b text, big text);
CREATE TABLE other_key (id int PRIMARY KEY, k int NOT NULL, v "char"[]);
CREATE UNIQUE INDEX other_key_k ON other_key (k);
ALTER TABLE whole REPLICA IDENTITY FULL;
ALTER TABLE other_key REPLICA IDENTITY USING INDEX other_key_k;
ALTER TABLE two ALTER big SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
CREATE TABLE rows_wal2json (lsn pg_lsn, xid bigint, at timestamptz, tab text, op text, new text, old text);
CREATE TABLE rows_pgoutput (LIKE rows_wal2json)});
my %reads = (two => [ 'a, b, v, w, md5(big)', 'old__a, old__b' ], whole => [ 'a, b, md5(big)', 'old__a, old__b, md5(old__big)' ], other_key => [ 'id, k, v', 'old__k' ]);
foreach my $table (sort keys %reads)
{
	sql("CREATE VIEW ${table}_wal2json AS SELECT * FROM rows_wal2json; CREATE VIEW ${table}_pgoutput AS SELECT * FROM rows_pgoutput");
	create_pair($table, $table, "INSERT INTO %d SELECT meta__lsn, meta__xid, meta__committed_at, meta__table, meta__operation, ROW($reads{$table}[0])::text, ROW($reads{$table}[1])::text FROM r",
		'"toast": "current"');
}

# None of them fails, whatever the others have left: no key comes to where there is one.
my @statements = (
	sub { my $n = int rand 40; "INSERT INTO two VALUES ($n, repeat('k', @{[ rand() < 0.2 ? 2500 : 1 ]}), 'v', $n.50, repeat('x$n', 3000)) ON CONFLICT DO NOTHING" },
	sub { "UPDATE two SET v = v || 'x' WHERE a = " . int rand 40 },
	sub { my $n = int rand 40; "UPDATE two SET w = NULL, b = b || 'y' WHERE a = $n AND NOT EXISTS (SELECT FROM two o WHERE o.a = $n AND o.b = two.b || 'y')" },
	sub { my $n = int rand 40; "UPDATE two SET a = a + 100, big = NULL WHERE a = $n AND NOT EXISTS (SELECT FROM two o WHERE o.a = $n + 100)" },
	sub { "DELETE FROM two WHERE a % 7 = " . int rand 7 },
	sub { my $n = int rand 10; "INSERT INTO whole VALUES ($n, NULL, repeat('w$n', 3000)), (NULL, '', NULL)" },
	sub { "UPDATE whole SET b = 'b" . int(rand 10) . "' WHERE a = " . int rand 10 },
	sub { "DELETE FROM whole WHERE a IS NULL OR a = " . int rand 10 },
	sub { my $n = int rand 40; "INSERT INTO other_key VALUES ($n, -$n, '{a,\"\",NULL}') ON CONFLICT DO NOTHING" },
	sub { my $n = int rand 40; "UPDATE other_key SET id = id + 100 WHERE id = $n AND NOT EXISTS (SELECT FROM other_key o WHERE o.id = $n + 100)" },
	sub { "UPDATE other_key SET k = k - 100 WHERE k > -100 AND NOT EXISTS (SELECT FROM other_key o WHERE o.k = other_key.k - 100) AND id = " . int rand 140 },
	sub { "DELETE FROM other_key WHERE id % 7 = " . int rand 7 },
	sub { "SAVEPOINT s; UPDATE two SET v = 'gone'; DELETE FROM whole; ROLLBACK TO s" });
foreach (1 .. 120)
{
	execute('BEGIN; ' . join('; ', map { $statements[ rand @statements ]->() } 1 .. 1 + rand 6) . (rand() < 0.2 ? '; ROLLBACK' : '; COMMIT'));
}
both_caught_up($_, 'all changes') foreach sort keys %reads;
ok(sql('SELECT count(*) > 100 FROM rows_wal2json') eq 't', 'there were many');
is(sql(q{SELECT string_agg(DISTINCT tab || ' ' || op, ', ' ORDER BY tab || ' ' || op) FROM rows_wal2json}),
	join(', ', map { my $t = $_; map { "public.$t $_" } qw(delete insert update) } sort keys %reads), 'of all kinds');
same($node, 'SELECT * FROM rows_wal2json', 'SELECT * FROM rows_pgoutput', 'r is the same, whichever plugin it comes from');

# ----
# Generated columns
# ----

sql(q{
CREATE TABLE gen (id int PRIMARY KEY, big text, n int, CHECK (n < 1000),
	g text GENERATED ALWAYS AS (left(big, 3) || n) STORED, h bigint GENERATED ALWAYS AS (n * 2) STORED,
	d d_d_numeric GENERATED ALWAYS AS (n + 1) STORED, o oid GENERATED ALWAYS AS (tableoid) STORED);
ALTER TABLE gen ALTER big SET STORAGE EXTERNAL;
CREATE TABLE gen_full (LIKE gen INCLUDING ALL);
ALTER TABLE gen_full REPLICA IDENTITY FULL;
CREATE TABLE gen_wal2json (xid bigint, op text, id int, g text, h bigint, d numeric, o oid, old text);
CREATE TABLE gen_pgoutput (LIKE gen_wal2json);
CREATE TABLE gen_full_wal2json (LIKE gen_wal2json);
CREATE TABLE gen_full_pgoutput (LIKE gen_wal2json);
CREATE TABLE net_wal2json (LIKE gen_wal2json);
CREATE TABLE net_pgoutput (LIKE gen_wal2json)});
create_pair('gen', 'gen', q{INSERT INTO %d SELECT meta__xid, meta__operation, id, g, h, d, o, old__id::text FROM r}, '');
create_pair('gen_full', 'gen_full', q{INSERT INTO %d SELECT meta__xid, meta__operation, id, g, h, d, o, ROW(old__id, old__g, old__h, old__d)::text FROM r}, '');
create_pair('net', 'gen_full', q{INSERT INTO %d SELECT 0, meta__operation, coalesce(id, old__id), g, h, d, o, '' FROM r}, '"changes": "net"');
foreach my $table ('gen', 'gen_full')
{
	sql("INSERT INTO $table SELECT i, repeat(i::text, 5000), i FROM generate_series(1, 5) i; INSERT INTO $table VALUES (6, NULL, 6), (7, 'x', NULL)");
	both_caught_up($table, 'inserts');
	# the expression needs what the update does not carry
	sql("UPDATE $table SET n = n + 10");
	both_caught_up($table, 'updates');
	sql("BEGIN; UPDATE $table SET big = big || '!' WHERE id = 2; DELETE FROM $table WHERE id = 3; COMMIT");
	both_caught_up($table, 'more of them');
	same($node, "SELECT * FROM ${table}_wal2json", "SELECT * FROM ${table}_pgoutput", "$table: generated values are the same");
	is(sql("SELECT count(*) FROM $table s WHERE NOT EXISTS (SELECT FROM ${table}_pgoutput p WHERE (p.id, p.g, p.h, p.d, p.o) IS NOT DISTINCT FROM (s.id, s.g, s.h, s.d::numeric, s.o))"),
		'0', "$table: and those of the source");
}
both_caught_up('net', 'net changes');
foreach my $plugin ('wal2json', 'pgoutput')
{
	same($node, 'SELECT id, g, h, d::numeric, o FROM gen_full',
		"SELECT DISTINCT ON (id) id, g, h, d, o FROM (SELECT *, row_number() OVER () AS n FROM net_$plugin) x WHERE id NOT IN (SELECT id FROM net_$plugin WHERE op = 'delete') ORDER BY id, n DESC",
		"net changes, $plugin: the last generated values");
}

# the truck's role runs the expression; a column that was generated then and is none now
sql(q{SELECT trucker.stop(truck) FROM trucker.status WHERE truck ~ '^gen_(wal|pg)';
INSERT INTO gen (id, big, n) VALUES (10, 'ten', 10);
ALTER TABLE gen ALTER h DROP EXPRESSION;
INSERT INTO gen (id, big, n, h) VALUES (11, 'eleven', 11, 5);
SELECT trucker.start(truck) FROM trucker.status WHERE truck ~ '^gen_(wal|pg)'});
ok(caught_up($node, 'gen_wal2json'), 'wal2json has sent what was generated when the change was made');
is(sql('SELECT string_agg(h::text, \' \' ORDER BY id) FROM gen_wal2json WHERE id >= 10'), '20 5', 'and it is right');
ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'carries no value for column "h"' FROM trucker.status WHERE truck = 'gen_pgoutput'}),
	'pgoutput has not: the truck stops');
is(sql('SELECT count(*) FROM gen_pgoutput WHERE id >= 10'), '0', 'no NULL takes its place');
sql(q{SELECT trucker.stop('gen_pgoutput'); SELECT trucker.drop_truck('gen_pgoutput')});

# a replica identity that pgoutput does not send
sql(q{
CREATE TABLE gk (a int NOT NULL, k int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY);
CREATE TABLE gk_wal2json (op text, k int, old__k int);
CREATE TABLE gk_pgoutput (LIKE gk_wal2json);
SELECT trucker.create_truck('gk', '{gk}', 'INSERT INTO gk_pgoutput SELECT meta__operation, k, old__k FROM r', options => '{"stream": "pgoutput"}')});
like(psql_err($node, q{SELECT trucker.start('gk')}),
	qr/ERROR:  0A000: the replica identity of table public.gk has a generated column "k", which output plugin "pgoutput" does not send\nDETAIL:  .*\nHINT:  .*ALTER TABLE public.gk REPLICA IDENTITY FULL; or use another output plugin: see trucker.set_output_plugin\(\)\./,
	'a generated replica identity: start() refuses');
sql(q{SELECT trucker.drop_truck('gk'); ALTER TABLE gk REPLICA IDENTITY FULL});
create_pair('gk', 'gk', 'INSERT INTO %d SELECT meta__operation, k, old__k FROM r', '');
sql($_) foreach ('INSERT INTO gk VALUES (1), (2), (3)', 'UPDATE gk SET a = a + 10', 'DELETE FROM gk WHERE a = 12');
both_caught_up('gk', 'a generated primary key, and the whole old row');
same($node, 'SELECT * FROM gk_wal2json', 'SELECT * FROM gk_pgoutput', 'old and new keys are computed');
is(sql(q{SELECT string_agg(op || coalesce(k, 0) || coalesce(old__k, 0), ' ' ORDER BY op, k) FROM gk_pgoutput WHERE op <> 'insert'}), 'delete024 update222 update244 update266', 'and right');
# altered while the truck runs
sql(q{ALTER TABLE gk REPLICA IDENTITY DEFAULT; UPDATE gk SET a = 5 WHERE a = 11});
ok($node->poll_query_until('postgres', q{SELECT last_error ~ '^0A000: the replica identity of table public.gk has a generated column' FROM trucker.status WHERE truck = 'gk_pgoutput'}),
	'the truck stops when the replica identity becomes such a one');
ok(caught_up($node, 'gk_wal2json'), 'wal2json reads on');
sql(q{SELECT trucker.stop('gk_pgoutput'); SELECT trucker.drop_truck('gk_pgoutput')});

# ----
# Tables that are altered while changes are pending
# ----

sql(q{
CREATE TYPE short_lived AS ENUM ('a', 'b');
CREATE TABLE alt (id int PRIMARY KEY, i int, ts timestamptz, e short_lived, swap1 text, swap2 int);
CREATE TABLE alt_wal2json (id bigint, i text, ts text, s1 text, s2 int);
CREATE TABLE alt_pgoutput (LIKE alt_wal2json)});
create_pair('alt', 'alt', 'INSERT INTO %d SELECT id, i::text, ts::text, swap1, swap2 FROM r', '"inserts_only": true');
sql(q{
SELECT trucker.stop('alt_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p;
INSERT INTO alt VALUES (1, 5, '2024-01-02 03:04:05.678+00', 'a', 'one', 1);
ALTER TABLE alt ALTER id TYPE bigint, ALTER i TYPE numeric(10,2), ALTER ts TYPE text;
INSERT INTO alt VALUES (2, 5.5, 'late', 'a', 'two', 2);
ALTER TABLE alt RENAME swap1 TO swap;
ALTER TABLE alt RENAME swap2 TO swap1;
ALTER TABLE alt RENAME swap TO swap2;
INSERT INTO alt VALUES (3, NULL, NULL, 'b', 'three', 3);
ALTER TABLE alt RENAME swap1 TO swap;
ALTER TABLE alt RENAME swap2 TO swap1;
ALTER TABLE alt RENAME swap TO swap2;
SELECT trucker.start('alt_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p});
both_caught_up('alt', 'changes of other columns than today\'s');
is(sql('SELECT count(*) FROM alt_pgoutput'), '3', 'all are there');
same($node, 'SELECT * FROM alt_wal2json', 'SELECT * FROM alt_pgoutput', 'values of other types are the same');

# of a type that is no more
sql(q{CREATE TABLE en_pgoutput (id int, e text);
SELECT trucker.create_truck('en', '{alt}', 'INSERT INTO en_pgoutput SELECT id, e FROM r', options => '{"stream": "pgoutput", "inserts_only": true}');
SELECT trucker.start('en')});
ok(wait_state($node, 'en', 'streaming'), 'a truck that reads an enum');
sql(q{
SELECT trucker.stop('en');
INSERT INTO alt (id, e) VALUES (4, 'a');
ALTER TABLE alt ALTER e TYPE text;
DROP TYPE short_lived;
SELECT trucker.start('en')});
ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'a value is of a type that has been dropped since' FROM trucker.status WHERE truck = 'en'}),
	'a value in the binary form of a dropped type: the truck says so');
sql(q{SELECT trucker.resync('en')});
ok(wait_state($node, 'en', 'streaming'), 'and goes on after resync()');
is(sql('SELECT string_agg(e, \' \' ORDER BY id) FROM en_pgoutput WHERE id = 4'), 'a', 'with what the table holds');

# ----
# Quarantine
# ----

sql(q{
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE qu (id positive PRIMARY KEY, ps positive[], ts timestamptz, iv interval, f float8, b bytea, n numeric[], m mood, c regclass, v text);
CREATE TABLE qu_wal2json (LIKE qu);
CREATE TABLE qu_pgoutput (LIKE qu);
GRANT ALL ON qu, qu_wal2json, qu_pgoutput TO hostile;
ALTER TABLE qu_wal2json ADD CHECK (v <> 'bad');
ALTER TABLE qu_pgoutput ADD CHECK (v <> 'bad')});
create_pair('qu', 'qu', q{
	DELETE FROM public.%d USING r WHERE %d.id = r.old__id;
	INSERT INTO public.%d SELECT id, ps, ts, iv, f, b, n, m, c, v FROM r WHERE meta__operation <> 'delete'}, '"on_error": "quarantine", "role": "hostile"');
sql(q{
INSERT INTO qu VALUES (1, '{1,2,NULL,3}', '2024-02-03 04:05:06.789+00', '-1 year -2 mons +3 days -04:05:06.000001', 0.30000000000000004, '\x00ff5c', '{1.10,NULL,NaN}', 'größe', '"Mixed.Case"', 'bad');
INSERT INTO qu VALUES (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'good');
UPDATE qu SET v = 'good' WHERE id = 1;
});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 4 FROM trucker.quarantine}), 'what fails waits in quarantine, and what must not overtake it');
both_caught_up('qu', 'the others go on');
same($node, q{SELECT operation, keys, new_names, old_names FROM trucker.quarantined_change WHERE plugin = 'wal2json'},
	q{SELECT operation, keys, new_names, old_names FROM trucker.quarantined_change WHERE plugin = 'pgoutput'}, 'it is kept alike, keys and all');
sql(q{
ALTER TABLE qu_wal2json DROP CONSTRAINT qu_wal2json_v_check;
ALTER TABLE qu_pgoutput DROP CONSTRAINT qu_pgoutput_v_check;
SELECT trucker.retry_quarantined('qu_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.quarantine}), 'and is applied later');
is(sql("SELECT differences('qu', 'qu_pgoutput', 'id')"), '', 'with exact values, which had become text');
is(sql("SELECT differences('qu', 'qu_wal2json', 'id')"), '', 'likewise');

# values that no domain accepts any more are kept, and become values when one does
sql(q{SELECT trucker.stop('qu_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p;
INSERT INTO qu (id, ps, v) VALUES (500, '{1,500,NULL,500}', 'good');
ALTER DOMAIN positive ADD CONSTRAINT small CHECK (value < 100) NOT VALID;
SELECT trucker.start('qu_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM trucker.quarantine WHERE error LIKE '23514: value for domain %'}), 'what a domain does not accept waits in quarantine');
same($node, q{SELECT new FROM trucker.quarantine WHERE truck = 'qu_wal2json'}, q{SELECT new FROM trucker.quarantine WHERE truck = 'qu_pgoutput'}, 'its texts are the same');
sql(q{ALTER DOMAIN positive DROP CONSTRAINT small; SELECT trucker.retry_quarantined('qu_' || p) FROM unnest('{wal2json,pgoutput}'::text[]) p});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.quarantine}), 'until it does');
is(sql("SELECT differences('qu', 'qu_pgoutput', 'id')"), '', 'the values are exact');

is(sql(q{SELECT string_agg(truck || ': ' || last_error, E'\n') FROM trucker.status WHERE last_error !~ '^(42883: no binary output|55000: a value is of a type|23514: (new row|value for domain)|0A000: the replica identity)'}),
	'', 'no truck has met another error');
$node->stop;
done_testing();
