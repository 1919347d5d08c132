# Where a run ends, and what its SQL sees.  Changes keep their order; no key, old or
# new, occurs twice in a run, as its type compares it; so a mirror made with ON
# CONFLICT is equal to its table after any sequence of changes, however they are
# batched.  Plans are kept, and made anew when a table or the size changes.  No run
# sees the source as it was before its own changes were visible.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'runs',
	conf => q{
# it analyzes tables, and plans are made anew
autovacuum = off
max_replication_slots = 60
max_wal_senders = 60
max_worker_processes = 80
track_commit_timestamp = on
shared_preload_libraries = 'trucker, auto_explain'
auto_explain.log_min_duration = -1
});
seed();

sub sql
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	die 'SQL failed: ' . substr($stderr =~ s{^.*?(?=[^\n]*ERROR:)}{}sr, 0, 1000) . 'in: ' . substr($sql, 0, 500) if $rc != 0;
	return $stdout;
}

sub stop
{
	sql('SELECT trucker.stop()');
	return $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.status WHERE state <> 'stopped'});
}

sub start
{
	sql('SELECT trucker.start()');
	return $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.status WHERE state <> 'streaming'});
}

sub drop_all
{
	sql('SELECT trucker.drop_truck(truck) FROM trucker.status');
	return;
}

sub errors
{
	return sql(q{SELECT string_agg(truck || ': ' || last_error, E'\n') FROM trucker.status WHERE last_error IS NOT NULL});
}

# The keys that occur more than once in a run, old and new.
sub repeated
{
	my ($key) = @_;
	return qq{SELECT k FROM (SELECT $key AS k FROM r WHERE meta__operation <> 'delete'
		UNION ALL SELECT old__$key FROM r WHERE meta__operation = 'delete' OR meta__operation = 'update' AND old__$key <> $key) AS keys
		GROUP BY k HAVING count(*) > 1};
}

sub mirror
{
	my ($name) = @_;
	return qq{
		INSERT INTO ${name}_repeated SELECT k::text FROM (@{[repeated('id')]}) AS q;
		INSERT INTO ${name}_runs (tab, n, operations) SELECT min(meta__table), count(*), string_agg(DISTINCT meta__operation, ' ' ORDER BY meta__operation) FROM r;
		DELETE FROM ${name}_copy USING r WHERE r.meta__operation <> 'insert' AND ${name}_copy.id = r.old__id;
		INSERT INTO ${name}_copy SELECT id, n FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET id = excluded.id, n = excluded.n};
}

###
### Keys are compared as their types do
###

# type => two spellings of one value, and another value
my %keys = (
	'numeric'   => [ '1.0', '1.00', '2' ],
	'float8'    => [ '0', '-0', '2' ],
	'char(5)'   => [ 'a', 'a  ', 'b' ],
	'interval'  => [ '1 day', '24:00:00', '1 hour' ],
	'jsonb'     => [ '{"a": 1.0}', '{"a": 1.00}', '2' ],
	'numeric[]' => [ '{1.0}', '{1.00}', '{2}' ],
	'pair'      => [ '(1.0,a)', '(1.00,a)', '(2,b)' ],
	'numrange'  => [ '[1.0,2]', '[1.00,2.0]', 'empty' ],
	'timetz'    => [ '12:00:00+00', '12:00:00+00', '13:00:00+00' ],
	'money'     => [ '$1', '$1.00', '$2' ],
	'varbit'    => [ '101', '101', '0' ],
	'inet'      => [ '10.0.0.1', '10.0.0.1/32', '::1' ],
	'mood'      => [ 'sad', 'sad', 'ok' ],
	'name'      => [ 'a', 'a', 'b' ],
	'tsvector'  => [ 'a b', 'b a', 'c' ],
	'd_numeric' => [ '1.0', '1.00', '2' ]);

sql(q{
CREATE TYPE pair AS (a numeric, b text);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'fine');
CREATE DOMAIN d_numeric AS numeric;
});
if (sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'}))
{
	sql('CREATE EXTENSION citext');
	$keys{citext} = [ 'a', 'A', 'b' ];
}
if (sql(q{SELECT count(*) FROM pg_collation WHERE collprovider = 'i'}))
{
	sql(q{CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)});
	$keys{'text COLLATE ci'} = [ 'a', 'A', 'b' ];
}

my %name;
foreach my $type (sort keys %keys)
{
	my $name = $name{$type} = 'k_' . $type =~ s/\W+/_/gr;

	sql(qq{
CREATE TABLE $name (id $type PRIMARY KEY, n int);
CREATE TABLE ${name}_copy (LIKE $name INCLUDING INDEXES);
CREATE TABLE ${name}_repeated (k text);
CREATE TABLE ${name}_runs (seq serial, tab text, n int, operations text);
SELECT trucker.create_truck('$name', '{$name}', \$\$@{[mirror($name)]}\$\$);
});
}
ok(start(), 'trucks with keys of many types run');
ok(stop(), 'and stop');
foreach my $type (sort keys %keys)
{
	my $plain = $type =~ s/ COLLATE.*//r;
	my ($one, $same, $other) = map { "'$_'::$plain" } @{ $keys{$type} };
	my $t = $name{$type};

	# together in one transaction, then as a transaction each
	my $changes = qq{
INSERT INTO $t VALUES ($one, 1);
DELETE FROM $t WHERE id = $same;
INSERT INTO $t VALUES ($same, 2);
UPDATE $t SET id = $one WHERE id = $same;
UPDATE $t SET n = 3;
INSERT INTO $t VALUES ($other, 4);
DELETE FROM $t WHERE id = $same;
UPDATE $t SET id = $same WHERE id = $other;
INSERT INTO $t VALUES ($other, 5);
UPDATE $t SET n = n + 1};
	sql("BEGIN; $changes; COMMIT; DELETE FROM $t; $changes");
}
ok(start(), 'the trucks go on');
foreach my $type (sort keys %keys)
{
	my $t = $name{$type};

	ok(caught_up($node, $t), "changes of keys of type $type arrive");
	same($node, "SELECT id::text COLLATE \"C\", n FROM $t", "SELECT id::text COLLATE \"C\", n FROM ${t}_copy", "equal keys of type $type, spelled differently");
	is(sql("SELECT count(*) FROM ${t}_repeated"), '0', "no key of type $type is twice in a run");
}
is(errors(), '', 'no truck has met an error');
drop_all();

###
### Any sequence of changes, in runs of any size
###

sql(q{
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO happened (tab, op, id, n, old_id) VALUES (tg_table_name, lower(tg_op), new.id, new.n, old.id);
	RETURN NULL;
END $$;
CREATE TABLE happened (seq bigserial, tab text, op text, id int, n int, old_id int);
CREATE TABLE a (id int PRIMARY KEY, n int);
CREATE TABLE b (id int PRIMARY KEY, n int);
ALTER TABLE b REPLICA IDENTITY FULL;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON b FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO a SELECT i, 0 FROM generate_series(1, 5) AS i;
TRUNCATE happened RESTART IDENTITY;
CREATE TABLE log (seq bigserial, tab text, op text, id int, n int, old_id int);
CREATE TABLE log_runs (seq serial, tab text, n int, operations text);
CREATE TABLE log_repeated (k text);
SELECT trucker.create_truck('log', '{a, b}', $$
	INSERT INTO log_repeated SELECT k::text FROM (} . repeated('id') . q{) AS q;
	INSERT INTO log_runs (tab, n, operations) SELECT string_agg(DISTINCT meta__table, ' '), count(*), string_agg(DISTINCT meta__operation, ' ') FROM r;
	INSERT INTO log (tab, op, id, n, old_id) SELECT replace(meta__table, 'public.', ''), meta__operation, id, n, old__id FROM r ORDER BY meta__seq$$, options => '{"backfill": false}');
CREATE TABLE byop_runs (seq serial, tab text, n int, operations text);
CREATE TABLE byop_copy (tab text, id int, n int, PRIMARY KEY (tab, id));
SELECT trucker.create_truck('byop', '{a, b}', $$
	INSERT INTO byop_runs (tab, n, operations) SELECT string_agg(DISTINCT meta__table, ' '), count(*), string_agg(DISTINCT meta__operation, ' ') || ' as {{ .operation }} of {{ .input_table }}' FROM {{ .rows }};
	{{- if eq .operation "insert" }}
	INSERT INTO byop_copy SELECT '{{ .input_table }}', id, n FROM {{ .rows }};
	{{- else if .operation | eq "delete" }}
	DELETE FROM byop_copy USING {{ .rows }} WHERE tab = '{{ .input_table }}' AND byop_copy.id = r.old__id;
	{{- else }}
	UPDATE byop_copy SET id = r.id, n = r.n FROM {{ .rows }} WHERE tab = '{{ .input_table }}' AND byop_copy.id = r.old__id;
	{{- end }}$$);
} . join '', map { qq{
CREATE TABLE ${_}_copy (LIKE $_ INCLUDING INDEXES);
CREATE TABLE ${_}_repeated (k text);
CREATE TABLE ${_}_runs (seq serial, tab text, n int, operations text);
SELECT trucker.create_truck('mirror_$_', '{$_}', \$\$@{[mirror($_)]}\$\$);
} } qw(a b));
ok(start(), 'trucks over two tables run');

# Random changes of few keys, so that they meet again and again.
sub random_changes
{
	my ($transactions) = @_;
	my $sql = '';

	foreach (1 .. $transactions)
	{
		my $statements = 1 + int rand 8;

		$sql .= "BEGIN;\n";
		foreach (1 .. $statements)
		{
			my $t = rand() < 0.5 ? 'a' : 'b';
			my ($x, $y, $n) = map { 1 + int rand $_ } 6, 6, 1000;
			my $kind = int rand 9;

			$sql .=
			    $kind == 0 ? "DELETE FROM $t WHERE id = $x;\n"
			  : $kind == 1 ? "DELETE FROM $t;\n"
			  : $kind == 2 ? "UPDATE $t SET id = 100 WHERE id = $x; UPDATE $t SET id = $x WHERE id = $y; UPDATE $t SET id = $y WHERE id = 100;\n"
			  : $kind == 3 ? "UPDATE $t SET n = $n;\n"
			  : $kind == 4 ? "SAVEPOINT s; INSERT INTO $t VALUES ($x + 50, $n); DELETE FROM $t WHERE id = $x; ROLLBACK TO s;\n"
			  : $kind == 5 ? "UPDATE $t SET n = $n WHERE id = $x;\n"
			  : $kind == 6 ? "INSERT INTO a SELECT * FROM b ON CONFLICT (id) DO UPDATE SET n = excluded.n + $n;\n"
			  :              "INSERT INTO $t VALUES ($x, $n) ON CONFLICT (id) DO UPDATE SET n = excluded.n; INSERT INTO $t VALUES ($y, $n) ON CONFLICT (id) DO NOTHING;\n";
		}
		# a swap where the other row is missing must not leave key 100 behind
		$sql .= "DELETE FROM a WHERE id = 100; DELETE FROM b WHERE id = 100;\n";
		$sql .= rand() < 0.1 ? "ROLLBACK;\n" : "COMMIT;\n";
	}
	return $sql;
}

sub all_is_equal
{
	my ($what) = @_;

	ok(caught_up($node, $_), "$what: changes arrive at truck $_") foreach qw(log byop mirror_a mirror_b);
	same($node, 'SELECT * FROM a', 'SELECT * FROM a_copy', "$what: the mirror of a table equals it");
	same($node, 'SELECT * FROM b', 'SELECT * FROM b_copy', "$what: the mirror of a table with REPLICA IDENTITY FULL equals it");
	same($node, q{SELECT 'public.a', * FROM a UNION ALL SELECT 'public.b', * FROM b}, 'SELECT * FROM byop_copy', "$what: a mirror with a statement for each operation equals its tables");
	same($node, 'SELECT row_number() OVER (ORDER BY seq), tab, op, id, n, old_id FROM happened', 'SELECT row_number() OVER (ORDER BY seq), tab, op, id, n, old_id FROM log', "$what: all changes, in the order in which they were made");
	is(sql('SELECT count(*) FROM (TABLE log_repeated UNION ALL TABLE a_repeated UNION ALL TABLE b_repeated) AS x'), '0', "$what: no key is twice in a run");
	is(sql(q{SELECT count(*) FROM log_runs WHERE tab ~ ' '}), '0', "$what: a run is of one table");
	is(sql(q{SELECT count(*) FROM byop_runs WHERE operations <> split_part(operations, ' ', 1) || ' as ' || split_part(operations, ' ', 1) || ' of ' || tab}), '0', "$what: with .operation in a template a run is of one operation, and that is what the template gets");
	is(errors(), '', "$what: no truck has met an error");
	return;
}

foreach my $size (1, 2, 3, 20000)
{
	sql("ALTER SYSTEM SET trucker.max_run_rows = $size");
	sql('SELECT pg_reload_conf()');

	# each transaction by itself, as it comes; then many of them in one batch
	ok(stop(), "the trucks stop") && start();
	sql('TRUNCATE log_runs, a_runs, b_runs, byop_runs');
	sql(random_changes(15));
	all_is_equal("runs of up to $size rows, as changes come");
	ok(stop(), 'the trucks stop');
	sql(random_changes(60));
	ok(start(), 'and go on');
	all_is_equal("runs of up to $size rows, many transactions at once");
	cmp_ok(sql('SELECT max(n) FROM (TABLE log_runs UNION ALL TABLE byop_runs UNION ALL TABLE a_runs UNION ALL TABLE b_runs) AS x'), '<=', $size, "runs have at most $size rows");
}
cmp_ok(sql(q{SELECT count(*) FROM log_runs WHERE operations ~ ' '}), '>', 0, 'without .operation a run mixes operations');
drop_all();

# How large runs are, exactly.
sql(q{
TRUNCATE a, b, log_runs;
SELECT trucker.create_truck('exact', '{a, b}', $$INSERT INTO log_runs (tab, n, operations) SELECT min(meta__table), count(*), string_agg(DISTINCT meta__operation, ' ' ORDER BY meta__operation) FROM r$$);
});
ok(start(), 'a truck runs');
sql(q{
BEGIN;
INSERT INTO a SELECT i, 0 FROM generate_series(1, 10) AS i;
INSERT INTO a SELECT i, 0 FROM generate_series(11, 20) AS i;
UPDATE a SET n = 1 WHERE id > 10;
INSERT INTO b VALUES (1, 0);
INSERT INTO a VALUES (21, 0);
DELETE FROM a WHERE id <= 10;
UPDATE a SET id = id + 100 WHERE id > 15;
DELETE FROM b;
COMMIT;
});
ok(caught_up($node, 'exact'), 'the changes of one transaction arrive');
is( sql(q{SELECT string_agg(concat_ws(' ', tab, n, operations), E'\n' ORDER BY seq) FROM log_runs}),
	"public.a 20 insert\npublic.a 10 update\npublic.b 1 insert\npublic.a 16 delete insert update\npublic.a 1 update\npublic.b 1 delete",
	'changes join a run until the table changes or a key comes again');
drop_all();

# Rows that only their whole content tells apart, and rows that nothing does.
sql(q{
CREATE TABLE nokey (id int, n int);
ALTER TABLE nokey REPLICA IDENTITY FULL;
CREATE TABLE nokey_copy (id int, n int, c bigint);
SELECT trucker.create_truck('nokey', '{nokey}', $$
	INSERT INTO nokey_copy SELECT old__id, old__n, -1 FROM r WHERE meta__operation <> 'insert';
	INSERT INTO nokey_copy SELECT id, n, 1 FROM r WHERE meta__operation <> 'delete'$$);
CREATE TABLE nohash (j json);
ALTER TABLE nohash REPLICA IDENTITY FULL;
CREATE TABLE nohash_copy (j text);
SELECT trucker.create_truck('nohash', '{nohash}', $$
	DELETE FROM nohash_copy USING r WHERE meta__operation <> 'insert' AND nohash_copy.j = r.old__j::text;
	INSERT INTO nohash_copy SELECT j::text FROM r WHERE meta__operation <> 'delete'$$);
CREATE TABLE half (id int, j json);
ALTER TABLE half REPLICA IDENTITY FULL;
CREATE TABLE half_copy (id int, j text);
SELECT trucker.create_truck('half', '{half}', $$
	DELETE FROM half_copy USING r WHERE meta__operation <> 'insert' AND half_copy.j = r.old__j::text AND half_copy.id IS NOT DISTINCT FROM r.old__id;
	INSERT INTO half_copy SELECT id, j::text FROM r WHERE meta__operation <> 'delete'$$);
});
ok(start(), 'tables without a primary key run');
sql(q{
BEGIN;
INSERT INTO nokey VALUES (1, 1), (1, 1), (NULL, NULL), (NULL, NULL), (2, NULL);
UPDATE nokey SET n = 2 WHERE id = 1;
DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE id IS NULL);
DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE id = 1);
INSERT INTO nohash VALUES ('1');
DELETE FROM nohash;
INSERT INTO nohash VALUES ('2');
UPDATE nohash SET j = '3';
UPDATE nohash SET j = '4';
INSERT INTO half VALUES (NULL, '1'), (1, '2');
UPDATE half SET j = '3';
DELETE FROM half WHERE id = 1;
INSERT INTO half VALUES (1, '3');
COMMIT;
});
ok(caught_up($node, $_), "changes arrive at truck $_") foreach qw(nokey nohash half);
same($node, 'SELECT id, n, count(*) FROM nokey GROUP BY 1, 2', 'SELECT id, n, sum(c)::bigint FROM nokey_copy GROUP BY 1, 2 HAVING sum(c) <> 0', 'rows without a key, each as often as there');
same($node, 'SELECT j::text FROM nohash', 'SELECT j FROM nohash_copy', 'rows that cannot be hashed keep the order of their changes');
same($node, 'SELECT id, j::text FROM half', 'SELECT id, j FROM half_copy', 'rows of which a part cannot be hashed, too');
drop_all();

###
### Several tables: order is kept between them
###

sql(q{
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
CREATE TABLE parent_copy (LIKE parent INCLUDING INDEXES);
CREATE TABLE child_copy (id int PRIMARY KEY, parent int REFERENCES parent_copy);
SELECT trucker.create_truck('family', '{child, parent}', $$
	{{ if eq .input_table "public.parent" }}
	DELETE FROM parent_copy USING r WHERE meta__operation = 'delete' AND parent_copy.id = r.old__id;
	INSERT INTO parent_copy SELECT id FROM r WHERE meta__operation = 'insert';
	{{ else }}
	DELETE FROM child_copy USING r WHERE meta__operation = 'delete' AND child_copy.id = r.old__id;
	INSERT INTO child_copy SELECT id, parent FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET parent = excluded.parent;
	{{ end }}$$);
});
ok(start() && stop(), 'a truck over a foreign key runs and stops');
sql(q{
BEGIN;
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1, 1);
INSERT INTO parent VALUES (2);
UPDATE child SET parent = 2;
DELETE FROM parent WHERE id = 1;
INSERT INTO child VALUES (2, 2);
INSERT INTO parent VALUES (1);
UPDATE child SET parent = 1 WHERE id = 2;
DELETE FROM child WHERE id = 1;
DELETE FROM parent WHERE id = 2;
COMMIT;
INSERT INTO parent VALUES (3);
INSERT INTO child VALUES (3, 3);
DELETE FROM child WHERE id = 3;
DELETE FROM parent WHERE id = 3;
});
ok(start() && caught_up($node, 'family'), 'its changes arrive');
same($node, 'SELECT 0 AS c, id, NULL FROM parent UNION ALL SELECT 1, * FROM child', 'SELECT 0 AS c, id, NULL FROM parent_copy UNION ALL SELECT 1, * FROM child_copy',
	'foreign keys of the destination hold at each moment');
is(errors(), '', 'without an error');
drop_all();

###
### input_sql and output_sql
###

sql(q{
CREATE TABLE src (id int PRIMARY KEY, v text);
CREATE TABLE dim (id int PRIMARY KEY, label text);
INSERT INTO dim VALUES (1, 'one'), (2, 'two');
CREATE TABLE seen (what text);
CREATE TABLE dst (key int, label text, op text);
SELECT trucker.create_truck('two_steps', '{src}',
	'INSERT INTO seen SELECT ''output '' || count(*) FROM r; INSERT INTO dst SELECT key, label, op FROM {{ .rows }} AS q; INSERT INTO seen SELECT ''in output: '' || string_agg(DISTINCT k, '','' ORDER BY k) FROM r, jsonb_object_keys(to_jsonb(r)) AS k',
	input_sql => 'INSERT INTO seen SELECT ''input '' || count(*) FROM r; SELECT 1; DELETE FROM dim WHERE id = 99; SELECT r.id AS key, d.label, meta__operation AS op, 5 AS five FROM {{ .rows }} LEFT JOIN dim AS d USING (id) WHERE meta__operation <> ''delete''');
SELECT trucker.create_truck('returning', '{src}', 'INSERT INTO seen SELECT ''returned '' || v FROM r', input_sql => 'WITH x AS (SELECT 1) INSERT INTO dim SELECT 100 + id, v FROM r WHERE meta__operation = ''insert'' RETURNING label AS v');
SELECT trucker.create_truck('empty', '{src}', 'INSERT INTO seen SELECT ''empty '' || count(*) FROM r', input_sql => 'SELECT id FROM r WHERE false');
SELECT trucker.create_truck('nothing', '{src}', '{{ if eq .operation "delete" }}INSERT INTO seen SELECT ''gone '' || old__id FROM r{{ end }}');
});
ok(start(), 'trucks with input_sql run');
sql(q{INSERT INTO src VALUES (1, 'a'), (2, 'b'), (3, 'c')});
ok(caught_up($node, $_), "changes arrive at truck $_") foreach qw(two_steps returning empty nothing);
sql('DELETE FROM src');
ok(caught_up($node, $_), "changes arrive at truck $_") foreach qw(two_steps returning empty nothing);
is(sql(q{SELECT string_agg(concat_ws(' ', key, label, op), ', ' ORDER BY key) FROM dst}), '1 one insert, 2 two insert, 3 insert', 'r in output_sql is what the last statement of input_sql returns');
is( sql(q{SELECT string_agg(what, E'\n' ORDER BY what) FROM seen}),
	"empty 0\nempty 0\ngone 1\ngone 2\ngone 3\nin output: five,key,label,op\ninput 3\ninput 3\noutput 0\noutput 3\nreturned a\nreturned b\nreturned c",
	'each statement runs once a run, on its own r; a result may be empty, or come from RETURNING; a template may give no statement');
drop_all();
like(psql_err($node, q{SELECT trucker.create_truck('no_rows', '{src}', 'SELECT 1', input_sql => 'DELETE FROM dim'); SELECT trucker.start('no_rows')}),
	qr/42601: .*input_sql returns no rows.*HINT:.*RETURNING/s, 'input_sql that returns nothing is refused');
like(psql_err($node, q{SELECT trucker.create_truck('no_column', '{src}', 'SELECT v FROM r', input_sql => 'SELECT id FROM r'); SELECT trucker.start('no_column')}),
	qr/42703: .*column "v" does not exist.*output_sql|42703: .*column "v" does not exist.*SELECT v FROM r/s, 'output_sql cannot read what input_sql does not return');
drop_all();

###
### Metadata
###

sql(q{
CREATE SCHEMA "Sch.";
CREATE TABLE "Sch."."Ta ble" (id int PRIMARY KEY, top xid8 DEFAULT pg_current_xact_id());
INSERT INTO "Sch."."Ta ble" VALUES (0);
CREATE TABLE meta (id int, top xid8, op text, lsn pg_lsn, xid bigint, committed_at timestamptz, seq bigint, tab text);
CREATE TABLE marks (n int, lsn pg_lsn);
SELECT trucker.create_truck('meta', ARRAY['"Sch."."Ta ble"'::regclass], 'INSERT INTO meta SELECT coalesce(id, old__id), top, meta__operation, meta__lsn, meta__xid, meta__committed_at, meta__seq, meta__table FROM r');
});
ok(start() && stop(), 'truck meta runs and stops');
foreach my $n (1 .. 3)
{
	sql(qq{
INSERT INTO marks SELECT $n, pg_current_wal_insert_lsn();
BEGIN;
INSERT INTO "Sch."."Ta ble" VALUES ($n * 10);
SAVEPOINT s;
INSERT INTO "Sch."."Ta ble" VALUES ($n * 10 + 1);
RELEASE s;
INSERT INTO "Sch."."Ta ble" VALUES ($n * 10 + 2);
COMMIT;
});
}
sql(q{INSERT INTO marks SELECT 4, pg_current_wal_insert_lsn(); DELETE FROM "Sch."."Ta ble" WHERE id = 10});
ok(start() && caught_up($node, 'meta'), 'changes arrive in one batch');
is(sql(q{SELECT concat_ws(' ', op, xid IS NULL, committed_at IS NULL, lsn IS NOT NULL, tab) FROM meta WHERE id = 0}), 'insert t t t "Sch."."Ta ble"',
	'a backfilled row: meta__operation is insert, meta__xid and meta__committed_at are NULL, meta__table is quoted');
is(sql(q{SELECT count(*) FROM meta WHERE id BETWEEN 10 AND 32 AND op = 'insert' AND xid = (top::text::bigint & 4294967295)}), '9', 'meta__xid is the top-level transaction');
is(sql(q{SELECT count(*) FROM meta WHERE id > 0 AND committed_at = pg_xact_commit_timestamp(xid::text::xid)}), '10', 'meta__committed_at is the time of the commit');
is(sql(q{SELECT count(*) FROM meta JOIN marks AS m ON m.n = id / 10 JOIN marks AS x ON x.n = id / 10 + 1 WHERE op = 'insert' AND meta.lsn > m.lsn AND meta.lsn < x.lsn}), '9', 'meta__lsn is where the transaction committed');
is(sql(q{SELECT count(DISTINCT lsn) || ' ' || count(DISTINCT xid) FROM meta WHERE id > 0}), '4 4', 'and the same for all its changes');
is(sql(q{SELECT string_agg(id::text, ' ' ORDER BY lsn, seq) FROM meta WHERE id > 0}), '10 11 12 20 21 22 30 31 32 10', 'meta__lsn and meta__seq give the order');
is(sql(q{SELECT bool_and(ids = sorted) FROM (SELECT array_agg(id ORDER BY seq) AS ids, array_agg(id ORDER BY id) AS sorted FROM meta WHERE id > 0 GROUP BY xid) AS x}), 't', 'meta__seq is the order within a transaction');
drop_all();

###
### The clock: now() is the time of the batch, statement_timestamp() that of the run
###

sql(q{
CREATE TABLE clock (id int PRIMARY KEY, n int);
CREATE TABLE clock_seen (id int, n int, made timestamptz DEFAULT now(), run_at timestamptz);
SELECT trucker.create_truck('clock', '{clock}', 'INSERT INTO clock_seen (id, n, run_at) SELECT id, n, statement_timestamp() FROM r');
});
ok(start(), 'truck clock runs');
my @before;
foreach my $id (1 .. 3)
{
	push @before, sql('SELECT clock_timestamp()');
	# the same key twice: two runs in one batch
	sql("BEGIN; INSERT INTO clock VALUES ($id, 1); UPDATE clock SET n = 2 WHERE id = $id; COMMIT");
	ok(caught_up($node, 'clock'), "change $id arrives");
}
push @before, sql('SELECT clock_timestamp()');
is(sql("SELECT count(*) FROM clock_seen WHERE made > (ARRAY['$before[0]', '$before[1]', '$before[2]']::timestamptz[])[id] AND made < '$before[3]'"), '6',
	'now() is after the change was made, not when the worker began');
is(sql('SELECT count(*) FROM clock_seen AS a JOIN clock_seen AS b USING (id) WHERE a.n = 1 AND b.n = 2 AND a.made = b.made AND a.run_at < b.run_at AND a.made <= a.run_at'), '3',
	'it is the same for all of a batch, and statement_timestamp() is of the run');
drop_all();

###
### Plans
###

sql(q{
CREATE FUNCTION planned(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE LOG 'planned %', $1; RETURN $1; END $$;
CREATE TABLE p_src (id int PRIMARY KEY, v text);
CREATE TABLE p_dim (id int PRIMARY KEY, label text);
INSERT INTO p_dim SELECT i, 'label' || i FROM generate_series(1, 100000) AS i;
VACUUM ANALYZE p_dim;
CREATE TABLE p_dst (id int, label text, x text);
SELECT trucker.create_truck('plans', '{p_src}', 'INSERT INTO p_dst SELECT id, label, planned(''out'') FROM r', input_sql => 'SELECT r.id, d.label, planned(''in'') FROM r JOIN p_dim AS d USING (id)');
});
ok(start(), 'truck plans runs');

sub plannings
{
	my ($offset) = @_;
	my $log = substr slurp_file($node->logfile), $offset;

	return scalar(() = $log =~ /planned out/g) . ' ' . scalar(() = $log =~ /planned in/g);
}

sub one_row_runs
{
	my ($from) = @_;

	foreach my $i ($from .. $from + 4)
	{
		sql("INSERT INTO p_src VALUES ($i, 'x')");
		caught_up($node, 'plans') or return 0;
	}
	return 1;
}

ok(one_row_runs(1), 'runs of one row');
my $offset = -s $node->logfile;
ok(one_row_runs(11), 'more runs of one row');
is(plannings($offset), '0 0', 'plans are kept: five more runs of the same size plan nothing');
my $step = 20;
foreach my $ddl (
	'ALTER TABLE p_dst ADD COLUMN y int DEFAULT 7',
	'ALTER TABLE p_dim RENAME TO p_dim_old; CREATE TABLE p_dim AS SELECT id, label || $$ new$$ AS label FROM p_dim_old',
	'ALTER TABLE p_dim ALTER label TYPE varchar(50)',
	'CREATE INDEX ON p_dim (id); ANALYZE p_dim',
	'ALTER TABLE p_src ADD COLUMN w int',
	'ALTER TABLE p_src DROP COLUMN w',
	'ALTER TABLE p_dst RENAME TO p_old; CREATE TABLE p_dst (id int, label text, x text)')
{
	$offset = -s $node->logfile;
	sql($ddl);
	ok(one_row_runs($step), 'runs after: ' . substr $ddl, 0, 50);
	isnt(plannings($offset), '0 0', 'are planned anew');
	$offset = -s $node->logfile;
	ok(one_row_runs($step + 5), 'and again');
	is(plannings($offset), '0 0', 'are not');
	$step += 10;
}
same($node, 'SELECT id, (SELECT label FROM p_dim WHERE p_dim.id = p_src.id) FROM p_src WHERE id >= 80', 'SELECT id, label FROM p_dst', 'the rows are right, in the tables of now');

# The destination goes, and comes back.
sql('ALTER TABLE p_dst RENAME label TO gone');
sql('ALTER TABLE p_dst DROP COLUMN gone');
sql(q{INSERT INTO p_src VALUES (1001, 'x')});
ok(wait_state($node, 'plans', 'retrying'), 'a truck whose output table lost a column fails');
like(sql(q{SELECT last_error FROM trucker.status}), qr/more expressions than target columns|target columns/, 'with that error');
sql('ALTER TABLE p_dst ADD COLUMN label text');
ok(caught_up($node, 'plans'), 'and recovers when it is back');
is(sql('SELECT count(*) FROM p_dst WHERE id = 1001'), '1', 'with the row');

# Each size of run has a plan for it.
sql(q{DROP TABLE p_dst; CREATE TABLE p_dst (id int, label text, x text); ALTER SYSTEM SET auto_explain.log_min_duration = 0; ALTER SYSTEM SET trucker.max_run_rows = 100000});
sql('SELECT pg_reload_conf()');
ok(stop() && start(), 'the truck restarts');

sub plan_of
{
	my ($change) = @_;
	my $offset = -s $node->logfile;

	sql($change);
	caught_up($node, 'plans');
	my $log = substr slurp_file($node->logfile), $offset;
	return $log =~ /Query Text: SELECT r\.id, d\.label.*?\n(.*?)(?=\n\d{4}-)/s ? $1 : $log;
}

like(plan_of(q{INSERT INTO p_src VALUES (2001, 'x')}), qr/Index .*Scan/, 'a run of one row looks up the other table by index');
unlike(plan_of(q{INSERT INTO p_src SELECT i, 'x' FROM generate_series(3001, 93000) AS i}), qr/Nested Loop/, 'a run of 90,000 rows does not');
like(plan_of(q{INSERT INTO p_src VALUES (2002, 'x')}), qr/Index .*Scan/, 'and a run of one row does again');
same($node, q{SELECT id FROM p_src WHERE id > 2000}, q{SELECT id FROM p_dst}, 'all rows have arrived');
sql('ALTER SYSTEM RESET ALL');
sql('SELECT pg_reload_conf()');
drop_all();

###
### A run sees what its changes' transactions have left
###

sql(q{
CREATE TABLE v_src (id int PRIMARY KEY, n int);
CREATE TABLE v_dim (id int PRIMARY KEY, label text);
CREATE TABLE v_dst (id int, label text, rows_seen bigint);
SELECT trucker.create_truck('visible', '{v_src}', 'INSERT INTO v_dst SELECT id, label, rows_seen FROM r',
	input_sql => 'SELECT r.id, d.label, (SELECT count(*) FROM v_src AS s WHERE s.id = r.id AND s.n = r.n) AS rows_seen FROM r LEFT JOIN v_dim AS d USING (id)');
});
ok(start(), 'truck visible runs');

# A standby that is not there: commits are flushed and decoded, but not visible until
# somebody gives up waiting for it.
sql(q{ALTER SYSTEM SET synchronous_standby_names = 'absent'});
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = 'absent'}), 'a standby is to be waited for');
# sessions wait when the checkpointer has heard of it, as it has when it does something for us
sql('CHECKPOINT');
my ($in, $out, $err) = ('', '', '');
my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= q{SET application_name = 'held';
BEGIN; INSERT INTO v_dim VALUES (1, 'one'); INSERT INTO v_src VALUES (1, 1); SAVEPOINT s; INSERT INTO v_dim VALUES (2, 'two'); INSERT INTO v_src VALUES (2, 2); COMMIT;
};
$psql->pump_nb;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'held' AND wait_event = 'SyncRep'}), 'a commit is held');
my $worker = worker_pid($node, 'visible');
ok($node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_locks WHERE pid = $worker AND locktype = 'transactionid' AND NOT granted}), 'the worker has got its changes and waits for them to be visible');
is(sql('SELECT count(*) FROM v_src'), '0', 'they are not');
is(sql('SELECT count(*) FROM v_dst'), '0', 'and no run has been made of them');
like(sql(q{SELECT waiting_for FROM trucker.status WHERE truck = 'visible'}), qr/^pid \d+$/, 'trucker.status tells whom it waits for');
sql(q{SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = ''});
$node->reload;
$psql->finish;
ok(caught_up($node, 'visible'), 'when the commit gets through, the changes arrive');
is(sql(q{SELECT string_agg(concat_ws(' ', id, label, rows_seen), ', ' ORDER BY id) FROM v_dst}), '1 one 1, 2 two 1', 'and the run has seen all that came with them');

# The worker's own commits wait for no standby.
sql(q{ALTER SYSTEM SET synchronous_standby_names = 'absent'});
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = 'absent'});
sql('CHECKPOINT');
sql(q{SET synchronous_commit = local; INSERT INTO v_dim VALUES (3, 'three'); INSERT INTO v_src VALUES (3, 3)});
ok(caught_up($node, 'visible'), 'a worker does not wait for a standby at its own commits');
is(sql(q{SELECT concat_ws(' ', id, label, rows_seen) FROM v_dst WHERE id = 3}), '3 three 1', 'its effects are there');
sql(q{SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = ''});
$node->reload;

# Without a standby, the window is short: try it often, with many sessions.
my $script = PostgreSQL::Test::Utils::tempdir . '/visible.sql';
append_to_file($script, q{
\set id random(1000, 1000000000)
BEGIN;
INSERT INTO v_dim VALUES (:id, 'd') ON CONFLICT DO NOTHING;
INSERT INTO v_src VALUES (:id, :id) ON CONFLICT DO NOTHING;
COMMIT;
});
$node->command_ok([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 400, '-f', $script, 'postgres' ], 'pgbench runs');
ok(caught_up($node, 'visible'), 'its changes arrive');
is(sql('SELECT count(*) - (SELECT count(*) FROM v_src) FROM v_dst'), '0', 'all of them');
is(sql(q{SELECT count(*) FROM v_dst WHERE label IS NULL OR rows_seen <> 1}), '0', 'and each run has seen its own changes');

# now() is the time of the batch, not of anything before
sql(q{CREATE TABLE clock_src (id int PRIMARY KEY); CREATE TABLE clock_dst (id int, began timestamptz, statement timestamptz);
	SELECT trucker.create_truck('clock', '{clock_src}', 'INSERT INTO clock_dst SELECT id, now(), statement_timestamp() FROM r')});
start();
foreach my $id (1, 2)
{
	my $before = sql('SELECT clock_timestamp()');

	sql("INSERT INTO clock_src VALUES ($id)");
	ok(caught_up($node, 'clock'), 'a change');
	is(sql("SELECT began BETWEEN '$before' AND clock_timestamp(), statement BETWEEN '$before' AND clock_timestamp() FROM clock_dst WHERE id = $id"),
		't|t', 'now() and statement_timestamp() are of its batch');
}

is(errors(), '', 'no truck has met an error');
$node->stop;

done_testing();
