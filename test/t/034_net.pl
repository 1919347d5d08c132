# Net changes: each row of an input table comes once in a batch, as what its changes
# amount to; a key is free before it is taken.  Whoever applies them strictly - each
# old row is there just so, each new key is free - finds no fault with them, and ends
# up where the source is: also when keys move and are swapped, when memory is short,
# and when the server is killed.
#
# TRUCKER_SEED=n repeats a random workload (not the batches' sizes).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TruckerChaos;
use TruckerTest;

my $node = trucker_node('net', conf => "track_commit_timestamp = on\nautovacuum_naptime = '1s'\nmax_wal_size = '4GB'\n");
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
	my ($truck) = @_;

	sql("SELECT trucker.stop('$truck')");
	return wait_state($node, $truck, 'stopped');
}

# ----
# What changes amount to
# ----

# Each run is numbered; what it shows is written down in the order of r.
sql(q{
CREATE TABLE t (id int PRIMARY KEY, v text);
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE TABLE t_log (seq bigserial, run int, operation text, old text, new text);
CREATE SEQUENCE run;
SELECT trucker.create_truck('shape', '{t}', $$
	INSERT INTO t_log (run, operation, old, new)
	SELECT n, left(meta__operation, 1), CASE WHEN meta__operation <> 'insert' THEN old__id || coalesce(old__v, '') END,
		CASE WHEN meta__operation <> 'delete' THEN id || coalesce(v, '') END
	FROM (SELECT nextval('run') AS n) AS run, r$$, options => '{"changes": "net"}');
CREATE TABLE d (id int PRIMARY KEY, v text, w text);
CREATE TABLE d_log (seq bigserial, operation text, old int, new int, v text, w text);
SELECT trucker.create_truck('default_identity', '{d}', $$
	INSERT INTO d_log (operation, old, new, v, w) SELECT meta__operation, old__id, id, v, w FROM r$$, options => '{"changes": "net"}');
SELECT trucker.start('shape');
SELECT trucker.start('default_identity');
});
ok(caught_up($node, $_), "truck $_ runs") foreach qw(shape default_identity);

# What the truck shows of a transaction that finds 1a, 2b, 3c; runs stand apart.
sub shape
{
	my ($statements) = @_;

	return sql(qq{
DELETE FROM t;
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT trucker.wait_for('shape') AS "1" \\gset
TRUNCATE t_log;
BEGIN;
$statements;
COMMIT;
SELECT trucker.wait_for('shape') AS "2" \\gset
SELECT string_agg(changes, ' | ' ORDER BY run) FROM (
	SELECT run, string_agg(concat_ws(' ', operation, old, '>' || new), ', ' ORDER BY seq) AS changes FROM t_log GROUP BY run) AS runs});
}

my $x = q{UPDATE t SET v = v || 'x'};
foreach my $case (
	[ 'nothing', 'SELECT', '' ],
	[ 'an insert', q{INSERT INTO t VALUES (4, 'd')}, 'i >4d' ],
	[ 'insert, delete', q{INSERT INTO t VALUES (4, 'd'); DELETE FROM t WHERE id = 4}, '' ],
	[ 'insert, delete, insert', q{INSERT INTO t VALUES (4, 'd'); DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 'e')}, 'i >4e' ],
	[ 'insert, update, update', qq{INSERT INTO t VALUES (4, 'd'); $x WHERE id = 4; $x WHERE id = 4}, 'i >4dxx' ],
	[ 'update, update', "$x WHERE id = 1; $x WHERE id = 1", 'u 1a >1axx' ],
	[ 'an update that changes nothing', 'UPDATE t SET v = v WHERE id = 1', 'u 1a >1a' ],
	[ 'an update and back', "$x WHERE id = 1; UPDATE t SET v = 'a' WHERE id = 1", 'u 1a >1a' ],
	[ 'update, delete', "$x WHERE id = 1; DELETE FROM t WHERE id = 1", 'd 1a' ],
	[ 'delete, insert', q{DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'n')}, 'u 1a >1n' ],
	[ 'delete, insert, update', qq{DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'n'); $x WHERE id = 1}, 'u 1a >1nx' ],
	[ 'delete, insert, delete', q{DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'n'); DELETE FROM t WHERE id = 1}, 'd 1a' ],
	[ 'update, delete, insert, delete, insert', qq{$x WHERE id = 1; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'n'); DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'm')}, 'u 1a >1m' ],
	[ 'NULL before and after', q{UPDATE t SET v = NULL WHERE id = 1; UPDATE t SET v = 'b' WHERE id = 1; UPDATE t SET v = NULL WHERE id = 2}, 'u 1a >1b, u 2b >2' ],
	[ 'deletes, updates, inserts', q{INSERT INTO t VALUES (4, 'd'); UPDATE t SET v = 'y' WHERE id = 2; DELETE FROM t WHERE id = 3}, 'd 3c, u 2b >2y, i >4d' ],
	[ 'in the order of the last change', "INSERT INTO t VALUES (4, 'd'), (5, 'e'); $x WHERE id = 2; $x WHERE id = 1; $x WHERE id = 4; $x WHERE id = 2", 'u 1a >1ax, u 2b >2bxx, i >5e, i >4dx' ],

	# a row is followed when its key changes
	[ 'a key moves twice', 'UPDATE t SET id = 11 WHERE id = 1; UPDATE t SET id = 12 WHERE id = 11', 'u 1a >12a' ],
	[ 'a key moves and comes back', "UPDATE t SET id = 11 WHERE id = 1; UPDATE t SET id = 1, v = 'z' WHERE id = 11", 'u 1a >1z' ],
	[ 'a new row moves', q{INSERT INTO t VALUES (4, 'd'); UPDATE t SET id = 5 WHERE id = 4}, 'i >5d' ],
	[ 'a new row moves and goes', q{INSERT INTO t VALUES (4, 'd'); UPDATE t SET id = 5 WHERE id = 4; DELETE FROM t WHERE id = 5}, '' ],
	[ 'a row moves and goes', 'UPDATE t SET id = 11 WHERE id = 1; DELETE FROM t WHERE id = 11', 'd 1a' ],
	[ 'a row goes where one was deleted', 'DELETE FROM t WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2', 'd 1a | u 2b >1b' ],
	[ 'a row goes where a new one was', q{INSERT INTO t VALUES (4, 'd'); DELETE FROM t WHERE id = 4; UPDATE t SET id = 4 WHERE id = 1}, 'u 1a >4a' ],
	[ 'a new row where one has left', q{UPDATE t SET id = 11 WHERE id = 1; INSERT INTO t VALUES (1, 'n')}, 'u 1a >11a | i >1n' ],
	[ 'which then goes', q{UPDATE t SET id = 11 WHERE id = 1; INSERT INTO t VALUES (1, 'n'); DELETE FROM t WHERE id = 11}, 'u 1a >1n' ],
	[ 'a new row moves where one was deleted', q{INSERT INTO t VALUES (4, 'd'); DELETE FROM t WHERE id = 1; UPDATE t SET id = 1 WHERE id = 4}, 'u 1a >1d' ],
	[ 'a row goes where one has left', 'UPDATE t SET id = 11 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2', 'd 2b, u 1a >11a | i >1b' ],
	[ 'and a third takes its place', 'UPDATE t SET id = 11 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 3', 'd 2b, d 3c, u 1a >11a | i >1b, i >2c' ],
	[ 'or a new one', q{UPDATE t SET id = 11 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; INSERT INTO t VALUES (2, 'n')}, 'd 2b, u 1a >11a | i >1b, i >2n' ],
	[ 'two rows swap keys', 'UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0', 'd 2b, d 1a | i >1b, i >2a' ],
	[ 'three rotate', 'UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 0', 'd 2b, d 3c, d 1a | i >1b, i >2c, i >3a' ],
	[ 'two swap twice', join('; ', ('UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0') x 2), 'u 1a >1a, u 2b >2b' ],
	[ 'two swap, and one goes', 'UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0; DELETE FROM t WHERE id = 1', 'd 2b | u 1a >2a' ],
	[ 'two swap, and one is replaced', q{UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 0; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'n')}, 'd 2b | u 1a >2a | i >1n' ],

	# what is rolled back has not happened
	[ 'a savepoint', "$x WHERE id = 1; SAVEPOINT s; DELETE FROM t; INSERT INTO t VALUES (1, 'n'); ROLLBACK TO s; $x WHERE id = 1", 'u 1a >1axx' ],
	[ 'everything at once', "DELETE FROM t; INSERT INTO t SELECT n, 'n' FROM generate_series(2, 4) AS n; UPDATE t SET id = id + 10; UPDATE t SET id = id - 11", 'u 1a >1n, u 2b >2n, u 3c >3n' ])
{
	my ($what, $statements, $expected) = @$case;

	is(shape($statements), $expected, $what);
}

# ----
# Values that are not in the WAL
# ----

# What the truck shows of a transaction that finds rows 1 and 2, both of them with a
# value v that is stored out of line.
sub unchanged
{
	my ($statements) = @_;
	my $big = "repeat('%s', 3000)";

	return sql(qq{
DELETE FROM d;
INSERT INTO d VALUES (1, big('a'), 'w'), (2, big('b'), 'w');
SELECT trucker.wait_for('default_identity') AS "1" \\gset
TRUNCATE d_log;
BEGIN;
$statements;
COMMIT;
SELECT trucker.wait_for('default_identity') AS "2" \\gset
SELECT string_agg(concat_ws(' ', left(operation, 1), old, '>' || new, left(v, 1) || length(v), w), ', ' ORDER BY seq) FROM d_log});
}

sql(q{
ALTER TABLE d ALTER v SET STORAGE EXTERNAL;
CREATE FUNCTION big(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT repeat($1, 3000)';
});
foreach my $case (
	[ 'of an insert', q{INSERT INTO d VALUES (3, big('c'), 'w'); UPDATE d SET w = 'x' WHERE id = 3}, 'i >3 c3000 x' ],
	[ 'of the update before', q{UPDATE d SET v = big('n') WHERE id = 1; UPDATE d SET w = 'x' WHERE id = 1; UPDATE d SET w = 'y' WHERE id = 1}, 'u 1 >1 n3000 y' ],
	[ 'of the update before, at another key', q{UPDATE d SET v = big('n') WHERE id = 1; UPDATE d SET id = 3 WHERE id = 1; UPDATE d SET w = 'y' WHERE id = 3}, 'u 1 >3 n3000 y' ],
	[ 'of the row that was put in its place', q{DELETE FROM d WHERE id = 1; INSERT INTO d VALUES (1, big('n'), 'w'); UPDATE d SET w = 'x' WHERE id = 1}, 'u 1 >1 n3000 x' ],
	[ 'of the right one of two that swap', q{UPDATE d SET v = big(left(v, 1) || 'n'); UPDATE d SET id = 0 WHERE id = 1; UPDATE d SET id = 1 WHERE id = 2; UPDATE d SET id = 2 WHERE id = 0}, 'd 2, d 1, i >1 b6000 w, i >2 a6000 w' ],
	[ 'of the table', q{UPDATE d SET w = 'x' WHERE id = 1; UPDATE d SET w = 'y' WHERE id = 1}, 'u 1 >1 a3000 y' ],
	[ 'NULL', q{UPDATE d SET v = NULL WHERE id = 1; UPDATE d SET w = 'x' WHERE id = 1}, 'u 1 >1 x' ])
{
	my ($what, $statements, $expected) = @$case;

	is(unchanged($statements), $expected, "an unchanged value is that $what");
}

# A value that was taken from the table, and may not have been there yet.
sql(q{BEGIN; UPDATE d SET w = 'z' WHERE id = 2; UPDATE d SET v = big('m') WHERE id = 2; COMMIT});
ok(wait_state($node, 'default_identity', 'retrying'), 'where it cannot be known the truck stops');
like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 'default_identity'}),
	qr/^55000: an update of table public\.d does not carry a large value.*CONTEXT: truck "default_identity", change of table public\.d by source transaction \d+ committed at/s,
	'and says at which change');
sql(q{SELECT trucker.drop_truck('default_identity')});

# With "toast": "current" a value may be another row's for a moment, but is not
# passed on to the row's later changes.
sql(q{
DELETE FROM d;
INSERT INTO d VALUES (1, big('a'), 'w'), (2, big('b'), 'w');
CREATE TABLE d_copy (LIKE d INCLUDING ALL);
SELECT trucker.create_truck('current', '{d}', $$
	DELETE FROM d_copy AS c USING r WHERE meta__operation <> 'insert' AND c.id = old__id;
	INSERT INTO d_copy SELECT id, v, w FROM r WHERE meta__operation <> 'delete'$$, options => '{"changes": "net", "toast": "current"}');
SELECT trucker.start('current');
});
ok(caught_up($node, 'current'), 'truck current runs');
sql(q{
BEGIN;
UPDATE d SET w = 'x' WHERE id = 1;
UPDATE d SET id = 3 WHERE id = 1;
UPDATE d SET id = 1 WHERE id = 2;
UPDATE d SET w = 'y' WHERE id = 1;
COMMIT;
});
ok(caught_up($node, 'current'), 'with toast "current", changes whose values have gone elsewhere arrive');
same($node, 'TABLE d', 'TABLE d_copy', 'with the right values in the end');
sql(q{SELECT trucker.drop_truck('current')});

# ----
# Several tables, many source transactions, and which change the metadata are of
# ----

sql(q{
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, v text);
INSERT INTO parent VALUES (0, ''), (1, 'a'), (2, 'b');
CREATE TABLE meta_log (seq bigserial, tab text, op text, old int, id int, v text, lsn pg_lsn, xid bigint, at timestamptz, change bigint);
CREATE TABLE gate (id int PRIMARY KEY);
SELECT trucker.create_truck('meta', '{child, parent}', $$
	INSERT INTO gate VALUES (1) ON CONFLICT DO NOTHING;
	INSERT INTO meta_log (tab, op, old, id, v, lsn, xid, at, change)
	SELECT replace(meta__table, 'public.', ''), meta__operation, old__id, id, v, meta__lsn, meta__xid, meta__committed_at, meta__seq FROM r$$,
	options => '{"changes": "net", "backfill": false, "stream": "meta"}');
SELECT trucker.start('meta');
});
ok(caught_up($node, 'meta'), 'truck meta runs');
sql(q{BEGIN; UPDATE parent SET v = 'c' WHERE id = 1; INSERT INTO child VALUES (1, 'o'); DELETE FROM parent WHERE id = 2; UPDATE child SET v = 'p'; UPDATE parent SET v = 'd' WHERE id = 1; COMMIT});
ok(caught_up($node, 'meta'), 'a transaction over two tables arrives');
is(sql(q{SELECT string_agg(concat_ws(' ', tab, op, old, '>' || id, v, change), ', ' ORDER BY seq) FROM meta_log}),
	'parent delete 2 3, parent update 1 >1 d 5, child insert >1 p 4', 'table by table, in the order of the first change, with the number of the last');

# The truck waits for a row.  When it gets it, all of the rest has been sent, which
# is not more than a socket holds: so it takes two batches, at most.
sql(q{
CREATE PROCEDURE many() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..30 LOOP UPDATE parent SET v = i WHERE id = 1; COMMIT; END LOOP; END $$;
CREATE TABLE last_one (xid bigint);
TRUNCATE meta_log, gate;
});
ok(stop('meta'), 'the truck is stopped');
sql(q{UPDATE parent SET v = 'f' WHERE id = 0; CALL many();
	BEGIN; UPDATE parent SET id = 3 WHERE id = 1; INSERT INTO last_one SELECT pg_current_xact_id()::xid::text::bigint; COMMIT});
my $lsn = $node->lsn('flush');
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; INSERT INTO gate VALUES (1)');
my $holder_pid = $holder->query_safe('SELECT pg_backend_pid()');
sql(q{SELECT trucker.start('meta')});
ok($node->poll_query_until('postgres', qq{SELECT waiting_for = 'pid $holder_pid' FROM trucker.status WHERE truck = 'meta'}), 'the truck is held');
ok($node->poll_query_until('postgres', "SELECT sent_lsn >= '$lsn' FROM pg_stat_replication WHERE application_name = 'trucker meta'"), 'and has been sent everything');
$holder->query_safe('ROLLBACK');
$holder->quit;
ok(caught_up($node, 'meta'), '31 transactions that update one row arrive');
cmp_ok(sql('SELECT count(*) FROM meta_log WHERE id <> 0'), '<=', 2, 'as one change of a batch');
is(sql(q{SELECT concat_ws(' ', l.op, l.id, l.v, l.xid = o.xid, l.at = pg_xact_commit_timestamp(o.xid::text::xid), l.lsn > (SELECT lsn FROM meta_log WHERE id = 0))
		FROM meta_log AS l, last_one AS o WHERE l.id = 3}),
	'update 3 30 t t t', 'with transaction, time and LSN of the last');
sql(q{SELECT trucker.drop_truck('meta')});

# ----
# Other unique constraints
# ----

# Two rows exchange what must be unique.  Change by change it is, net it is not.
sql(q{
CREATE TABLE holder (id int PRIMARY KEY, badge int UNIQUE);
CREATE TABLE holder_copy (id int PRIMARY KEY, badge int CONSTRAINT one_badge UNIQUE);
SELECT trucker.create_truck('badges', '{holder}', 'INSERT INTO holder_copy SELECT id, badge FROM r ON CONFLICT (id) DO UPDATE SET badge = excluded.badge', options => '{"changes": "net"}');
SELECT trucker.start('badges');
INSERT INTO holder VALUES (1, 1), (2, 2);
});
ok(caught_up($node, 'badges'), 'truck badges runs');
sql(q{BEGIN; UPDATE holder SET badge = NULL WHERE id = 1; UPDATE holder SET badge = 1 WHERE id = 2; UPDATE holder SET badge = 2 WHERE id = 1; COMMIT});
ok(wait_state($node, 'badges', 'retrying'), 'net changes may offend a unique constraint');
like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 'badges'}), qr/^23505: duplicate key value violates unique constraint "one_badge"/, 'that is checked at once');
sql(q{ALTER TABLE holder_copy DROP CONSTRAINT one_badge, ADD CONSTRAINT one_badge UNIQUE (badge) DEFERRABLE INITIALLY DEFERRED});
ok(caught_up($node, 'badges'), 'but not one that is deferred');
same($node, 'TABLE holder', 'TABLE holder_copy', 'and the rows are right');
sql(q{SELECT trucker.drop_truck('badges')});

# ----
# Random transactions, applied strictly
# ----

# Three kinds of keys; two kinds of old values; columns that may be NULL, and that
# may be out of line.
sql(q{
CREATE TABLE one (id int PRIMARY KEY, n int, big text);
CREATE TABLE two (a int, b text, n int, big text, PRIMARY KEY (b, a));
ALTER TABLE two REPLICA IDENTITY FULL;
CREATE TABLE three (x numeric NOT NULL, n int, y text NOT NULL);
CREATE UNIQUE INDEX three_key ON three (y, x);
ALTER TABLE three REPLICA IDENTITY USING INDEX three_key;
ALTER TABLE one ALTER big SET STORAGE EXTERNAL;
ALTER TABLE two ALTER big SET STORAGE EXTERNAL;

CREATE OR REPLACE FUNCTION big(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT repeat($1, 7000)';

-- an error that no retry heals
CREATE FUNCTION must(holds boolean, what text) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN IF holds IS NOT TRUE THEN RAISE 'strict: %', what; END IF; END $$;
CREATE ROLE short_of_memory SUPERUSER;
ALTER ROLE short_of_memory SET work_mem = '64kB';
ALTER ROLE short_of_memory SET hash_mem_multiplier = 1;
});

# A truck that writes <table>_<name>: each old row is there and just so, each new key
# is free, and each run is of distinct keys.  With REPLICA IDENTITY FULL also keeps
# sums.
sub create_strict
{
	my ($name, $options, $by_operation) = @_;
	my $all_rows = q{SELECT count(*) FROM r WHERE meta__operation <> 'insert'};
	my $sql = '';

	foreach my $table (
		[ 'one', 'id', 'id = old__id', 'id, n, big' ],
		[ 'two', 'b, a', 'b = old__b AND c.a = old__a AND c.n IS NOT DISTINCT FROM old__n AND c.big IS NOT DISTINCT FROM old__big', 'a, b, n, big' ],
		[ 'three', 'y, x', 'y = old__y AND c.x = old__x', 'x, n, y' ])
	{
		my ($source, $key, $is_old, $columns) = @$table;
		my $old_key = $key =~ s/(\w+)/old__$1/gr;

		$sql .= qq[{{- if eq .input_table "public.$source" }}
			SELECT must((SELECT count(*) FROM ${source}_$name AS c JOIN r ON meta__operation <> 'insert' AND c.$is_old) = ($all_rows), 'old rows of $source');
			SELECT must(count(*) <= 1, 'keys of $source') FROM (
				SELECT $key FROM r WHERE meta__operation <> 'delete'
				UNION ALL SELECT $old_key FROM r WHERE meta__operation = 'delete' OR meta__operation = 'update' AND ($old_key) <> ($key)) AS k
			GROUP BY $key HAVING count(*) > 1;
			DELETE FROM ${source}_$name AS c USING r WHERE meta__operation <> 'insert' AND c.$is_old;
			INSERT INTO ${source}_$name SELECT $columns FROM r WHERE meta__operation <> 'delete';
		{{- end }}];
		sql("CREATE TABLE ${source}_$name (LIKE $source INCLUDING ALL)");
	}
	$sql .= qq[INSERT INTO runs_$name (xid, tab) VALUES (pg_current_xact_id(), '{{ .input_table }}');];
	$sql .= q[SELECT must(count(DISTINCT meta__operation) = 1 AND min(meta__operation) = '{{ .operation }}', 'operations') FROM r;] if $by_operation;
	sql(qq{
CREATE TABLE sums_$name (b text PRIMARY KEY, n bigint, rows bigint);
CREATE TABLE runs_$name (seq bigserial, xid xid8, tab text);
SELECT trucker.create_truck('$name', '{one, two, three}', \$sql\$$sql
	{{- if eq .input_table "public.two" }}
	INSERT INTO sums_$name AS s SELECT b, sum(n), sum(rows) FROM (
		SELECT b, coalesce(n, 0) AS n, 1 AS rows FROM r WHERE meta__operation <> 'delete'
		UNION ALL SELECT old__b, -coalesce(old__n, 0), -1 FROM r WHERE meta__operation <> 'insert') AS change GROUP BY b
	ON CONFLICT (b) DO UPDATE SET n = s.n + excluded.n, rows = s.rows + excluded.rows
	{{- end }}\$sql\$, options => '$options')});
	return;
}

my @strict = qw(s_all s_net s_short s_byop);
create_strict('s_all', '{"toast": "current"}');
create_strict('s_net', '{"toast": "current", "changes": "net"}');
create_strict('s_short', '{"toast": "current", "changes": "net", "role": "short_of_memory"}');
create_strict('s_byop', '{"toast": "current", "changes": "net"}', 1);

sub some
{
	my ($n) = @_;
	return 1 + int(rand($n));
}

sub pick
{
	return $_[ rand @_ ];
}

# A value of any size.
sub content
{
	return pick('NULL', "'" . some(9) . "'", 'big(' . some(9) . '::text)', 'big(' . some(9) . '::text)');
}

# A statement that succeeds whatever is in the tables.
sub change
{
	my ($table, $key, $new) = @_;
	my $rand = rand;

	if ($table eq 'one')
	{
		($key, $new) = ('id = ' . some(12), 'id = ' . some(12));
	}
	elsif ($table eq 'two')
	{
		($key, $new) = map { "$_->[0] AND b = '$_->[1]'" } [ 'a = ' . some(4), pick(qw(p q)) ], [ 'a = ' . some(4), pick(qw(p q r)) ];
	}
	else
	{
		($key, $new) = map { "x = $_->[0] AND y = '$_->[1]'" } [ pick(1, '1.0', '2.50', 3), pick(qw(p q)) ], [ pick('1.00', 2.5, '3.0', 4), pick(qw(p q)) ];
	}
	my $set = 'n = ' . pick('NULL', some(99), 'n + 1');
	$set .= ', big = ' . content() if $table ne 'three' && rand() < 0.4;

	return "UPDATE $table SET $set WHERE $key" if $rand < 0.35;
	return "DELETE FROM $table WHERE $key" if $rand < 0.55;
	if ($rand < 0.8)
	{
		my $values = join ', ', map { /= (.*)/ } split / AND /, $new;

		$values = $table eq 'three' ? $values =~ s/, /, 0, /r : "$values, 0, " . content();
		return "INSERT INTO $table VALUES ($values) ON CONFLICT DO NOTHING";
	}
	if ($rand < 0.92 || $table ne 'one')
	{
		my $move = $new =~ s/ AND /, /r;

		return "UPDATE $table SET $move" . (rand() < 0.3 ? ", $set" : '') . " WHERE $key AND NOT EXISTS (SELECT FROM $table AS o WHERE o." . ($new =~ s/ AND / AND o./r) . ')';
	}
	my ($i, $j) = (some(12), some(12));
	return pick(
		"UPDATE one SET id = -1 WHERE id = $i; UPDATE one SET id = $i WHERE id = $j; UPDATE one SET id = $j WHERE id = -1",
		'UPDATE one SET id = -id; UPDATE one SET id = 13 + id',
		'UPDATE one SET id = -id; UPDATE one SET id = 1 - id WHERE id > -12; DELETE FROM one WHERE id < 0',
		"DELETE FROM one; INSERT INTO one SELECT i, i, big(i::text) FROM generate_series(1, 8) AS i");
}

sub transaction
{
	my @statements;

	foreach (1 .. pick(1, 1, 2, 3, 5, 8, 20))
	{
		push @statements, change(pick(qw(one one two two three)));
		push @statements, 'SAVEPOINT s', change(pick(qw(one two three))), 'ROLLBACK TO s' if rand() < 0.05;
	}
	return join ";\n", 'BEGIN', @statements, "COMMIT;\n";
}

sub all_strict_same
{
	my ($what) = @_;

	foreach my $name (@strict)
	{
		ok(caught_up($node, $name), "$what: truck $name catches up") or return 0;
		foreach my $table (qw(one two three))
		{
			same($node, "TABLE $table", "TABLE ${table}_$name", "$what: $name has mirrored table $table") or return 0;
		}
		same($node, 'SELECT b, sum(coalesce(n, 0))::bigint, count(*) FROM two GROUP BY b', "SELECT b, n, rows FROM sums_$name WHERE rows <> 0 OR n <> 0", "$what: and has kept sums") or return 0;
	}
	return 1;
}

sql(q{INSERT INTO one SELECT i, i, big('o') FROM generate_series(1, 6) AS i; INSERT INTO two VALUES (1, 'p', 1, big('t')), (2, 'q', NULL, NULL); INSERT INTO three VALUES (1, 1, 'p')});
sql("SELECT trucker.start('$_')") foreach @strict;
all_strict_same('backfill');
my $round = 0;
foreach my $settings ([ 20000, 50000 ], [ 1, 50000 ], [ 3, 1 ], [ 5, 40 ], [ 20000, 50000 ])
{
	my ($run_rows, $batch_rows) = @$settings;

	sql("ALTER SYSTEM SET trucker.max_run_rows = $run_rows");
	sql("ALTER SYSTEM SET trucker.max_batch_rows = $batch_rows");
	$node->reload;
	if (++$round % 2 == 0)
	{
		# what waits comes in large batches
		stop($_) foreach @strict;
		sql(join '', map { transaction() } 1 .. 80);
		sql("SELECT trucker.start('$_')") foreach @strict;
	}
	sql(join '', map { transaction() } 1 .. 60);
	last unless all_strict_same("round $round");
}
is($round, 5, 'all rounds were played');
cmp_ok(sql(q{SELECT least((SELECT count(*) FROM one), (SELECT count(*) FROM two), (SELECT count(*) FROM three))}), '>', 0, 'there were rows to compare');
is(sql(q{SELECT string_agg(last_error, E'\n') FROM trucker.status WHERE last_error IS NOT NULL}), '', 'nobody has found a fault');

# In how many batches a table comes again, after another one.
sub comes_again
{
	my ($name) = @_;

	return sql(qq{SELECT count(DISTINCT a.xid) FROM runs_$name AS a JOIN runs_$name AS b ON b.xid = a.xid AND b.seq > a.seq AND b.tab <> a.tab
		JOIN runs_$name AS c ON c.xid = a.xid AND c.seq > b.seq AND c.tab = a.tab});
}

cmp_ok(comes_again('s_all'), '>', 0, 'tables come in turns');
is(comes_again('s_net'), '0', 'but net changes table by table');
cmp_ok(comes_again('s_short'), '>', 0, 'unless memory was short');

# The truck would find one.  What a failed batch has collected is forgotten.
sql(q{CREATE TABLE saved AS TABLE two_s_net; UPDATE two_s_net SET n = coalesce(n, 0) + 1; UPDATE two SET n = -7; UPDATE two SET n = -8});
ok(wait_state($node, 's_net', 'retrying'), 'a truck whose rows are not just so finds a fault');
like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 's_net'}),
	qr/^P0001: strict: old rows of two.*CONTEXT:.*truck "s_net", run of \d+ rows of table public\.two, changes committed at/s, 'the error names the run');
sql(q{DELETE FROM two_s_net; INSERT INTO two_s_net TABLE saved; UPDATE two SET n = -9});
all_strict_same('after an error');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});
sql(q{ALTER SYSTEM RESET ALL});
$node->reload;

# ----
# What cannot be collapsed is refused
# ----

sql(q{
CREATE TABLE no_key (a int, b int);
ALTER TABLE no_key REPLICA IDENTITY FULL;
CREATE TABLE no_hash (v tsvector PRIMARY KEY);
CREATE TYPE pair AS (a numeric, b int);
CREATE TABLE finer (p pair NOT NULL);
CREATE UNIQUE INDEX finer_key ON finer (p record_image_ops);
ALTER TABLE finer REPLICA IDENTITY USING INDEX finer_key;
});
my %refused = (
	no_key => qr/ERROR:  55000: table public\.no_key has no primary key, which the option "changes": "net" needs\nDETAIL:  REPLICA IDENTITY FULL alone does not tell equal rows apart\.\nHINT:  Add a primary key/,
	no_hash => qr/ERROR:  0A000: table public\.no_hash cannot be read with the option "changes": "net"\nDETAIL:  Its key column "v" is of type tsvector, which cannot be hashed\./,
	finer => qr/ERROR:  0A000: table public\.finer cannot be read .*\nDETAIL:  Its key column "p" is compared by its index in another way than by its type\./);
if (sql(q{SELECT count(*) FROM pg_collation WHERE collprovider = 'i'}))
{
	sql(q{
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE collated (v text COLLATE ci NOT NULL);
CREATE UNIQUE INDEX collated_key ON collated (v COLLATE "C");
ALTER TABLE collated REPLICA IDENTITY USING INDEX collated_key});
	$refused{collated} = qr/DETAIL:  Its key column "v" is compared by its index with another collation than its own\./;
}
foreach my $table (sort keys %refused)
{
	foreach my $changes (qw(all net))
	{
		sql(qq{SELECT trucker.create_truck('$changes', '{$table}', 'SELECT FROM r', options => '{"changes": "$changes"}')});
	}
	like(psql_err($node, q{SELECT trucker.start('net')}), $refused{$table}, "start() refuses net changes of table $table");
	is(psql_err($node, q{SELECT trucker.start('all')}), '', 'where all of them will do');
	sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});
}

# What was a key when the truck was started, and is none any more.
sql(q{
CREATE TABLE keyed (id int PRIMARY KEY, n int);
ALTER TABLE keyed REPLICA IDENTITY FULL;
CREATE TABLE keyed_copy (id int, n int);
SELECT trucker.create_truck('keyed', '{keyed}', $$INSERT INTO keyed_copy SELECT id, n FROM r WHERE meta__operation = 'insert'$$, options => '{"changes": "net"}');
SELECT trucker.start('keyed');
});
ok(caught_up($node, 'keyed'), 'truck keyed runs');
sql(q{ALTER TABLE keyed DROP CONSTRAINT keyed_pkey; INSERT INTO keyed VALUES (1, 1)});
ok(wait_state($node, 'keyed', 'retrying'), 'it stops when its table has lost the primary key');
like(sql(q{SELECT last_error FROM trucker.status}), qr/^55000: table public\.keyed has no primary key/, 'and says so');
sql(q{ALTER TABLE keyed ADD PRIMARY KEY (id)});
ok(caught_up($node, 'keyed'), 'and goes on when it has one');
sql(q{ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD COLUMN other int PRIMARY KEY GENERATED ALWAYS AS IDENTITY; INSERT INTO keyed VALUES (1, 2)});
ok(caught_up($node, 'keyed'), 'another primary key is as good');
ok(stop('keyed'), 'truck keyed is stopped');
sql(q{INSERT INTO keyed VALUES (2, 3); ALTER TABLE keyed DROP other, ADD COLUMN more int; UPDATE keyed SET more = n; ALTER TABLE keyed ADD PRIMARY KEY (more); SELECT trucker.start('keyed')});
ok(wait_state($node, 'keyed', 'retrying'), 'but not for changes that do not carry it');
like(sql(q{SELECT last_error FROM trucker.status}), qr/^55000: a change of table public\.keyed carries no value for column "more"\n.*was added after the change was made, and is NOT NULL now/, 'which it says');
is(sql(q{SELECT string_agg(id || ' ' || n, ', ' ORDER BY id, n) FROM keyed_copy}), '1 1, 1 2', 'what came before has arrived');
sql(q{SELECT trucker.drop_truck('keyed')});

# Changes that were made while the key was none: they do not fit each other, and are
# not taken for one row's.
sql(q{
CREATE TABLE loose (id int PRIMARY KEY, n int);
ALTER TABLE loose REPLICA IDENTITY FULL;
CREATE TABLE loose_log (seq bigserial, what text);
SELECT trucker.create_truck('loose', '{loose}', $$INSERT INTO loose_log (what) SELECT concat_ws(' ', meta__operation, old__n, '>' || n) FROM r$$, options => '{"changes": "net"}');
SELECT trucker.start('loose');
});
ok(caught_up($node, 'loose') && stop('loose'), 'truck loose has run');
sql(q{
BEGIN;
INSERT INTO loose VALUES (1, 1);
ALTER TABLE loose DROP CONSTRAINT loose_pkey;
INSERT INTO loose VALUES (1, 2);
DELETE FROM loose WHERE n = 2;
DELETE FROM loose WHERE n = 1;
ALTER TABLE loose ADD PRIMARY KEY (id);
COMMIT;
SELECT trucker.start('loose');
});
ok(caught_up($node, 'loose'), 'changes that do not fit arrive');
is(sql(q{SELECT string_agg(what, ', ' ORDER BY seq) FROM loose_log}), 'insert >1, delete 1', 'an insert that was taken back has gone, the other one has not');
sql(q{SELECT trucker.drop_truck('loose')});

# ----
# Crashes
# ----

chaos_setup($node);
create_total($node, 'net_total', 'net_total', 'main', '"changes": "net"');
sql(q{
CREATE TABLE net_item (LIKE item INCLUDING INDEXES);
SELECT trucker.create_truck('net_item', '{item}', $$
	SELECT must((SELECT count(*) FROM net_item AS c JOIN r ON meta__operation <> 'insert' AND (c.id, c.grp, c.val) = (old__id, old__grp, old__val) AND c.note IS NOT DISTINCT FROM old__note)
		= (SELECT count(*) FROM r WHERE meta__operation <> 'insert'), 'old rows of item');
	DELETE FROM net_item AS c USING r WHERE meta__operation <> 'insert' AND c.id = old__id;
	INSERT INTO net_item SELECT id, grp, val, note FROM r WHERE meta__operation <> 'delete'$$, options => '{"changes": "net"}');
SELECT trucker.start('net_total'); SELECT trucker.start('net_item');
});
foreach my $kind ('kill -9 of the worker', 'kill -9 of the postmaster', 'kill -9 of the worker')
{
	my $load = chaos_load($node);

	wal_passes($node, 200_000 + int(rand(800_000)));
	disaster($node, $kind, pick(qw(net_total net_item)));
	$load->stop;
	ok(caught_up($node, $_), "after $kind, truck $_ catches up") foreach qw(net_total net_item);
	same_total($node, 'net_total', 'nothing was added twice or not at all');
	same($node, 'TABLE item', 'TABLE net_item', 'and the mirror is equal');
}
unlike(slurp_file($node->logfile), qr/strict: old rows of item/, 'each old row was there, just so');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

# ----
# One huge transaction
# ----

sql(q{
CREATE TABLE big (id int PRIMARY KEY, a int, b text, c numeric, d timestamptz, e text);
CREATE TABLE big_copy (LIKE big INCLUDING ALL);
CREATE TABLE big_seen (rows bigint);
SELECT trucker.create_truck('big', '{big}', $$
	INSERT INTO big_seen SELECT count(*) FROM r;
	DELETE FROM big_copy USING r WHERE meta__operation <> 'insert' AND big_copy.id = old__id;
	INSERT INTO big_copy SELECT id, a, b, c, d, e FROM r WHERE meta__operation <> 'delete'$$, options => '{"changes": "net"}');
SELECT trucker.start('big');
});
ok(wait_state($node, 'big', 'streaming'), 'truck big runs');
my $pid = worker_pid($node, 'big');
my $before = rss_anon($pid);
my $most = $before;
my $started = time;
sql(q{BEGIN;
	INSERT INTO big SELECT n, n % 100, 'row ' || n, n / 3.0, '2026-01-01', repeat('x', n % 50) FROM generate_series(1, 150000) AS n;
	UPDATE big SET a = a + 1, id = -id WHERE id % 2 = 0;
	DELETE FROM big WHERE id % 3 = 0;
	UPDATE big SET a = a + 1 WHERE id BETWEEN 1 AND 3000;
	UPDATE big SET a = a + 1 WHERE id BETWEEN 1 AND 3000;
	UPDATE big SET a = a + 1 WHERE id BETWEEN 1 AND 3000;
	COMMIT});
$lsn = $node->lsn('flush');
until (sql("SELECT position >= '$lsn' FROM trucker.status WHERE truck = 'big'") eq 't')
{
	my $now = rss_anon($pid);

	$most = $now if $now > $most;
	die 'the truck does not catch up' if time - $started > $PostgreSQL::Test::Utils::timeout_default;
}
diag sprintf 'big: %.1f s, worker %d kB before, %d kB at most', time - $started, $before, $most;
is(worker_pid($node, 'big'), $pid, 'one worker has applied a huge transaction');
cmp_ok(($most - $before) / 1024, '<', 60, 'and its memory stayed flat');
same($node, 'TABLE big', 'TABLE big_copy', 'it was applied whole');
cmp_ok(sql('SELECT sum(rows) FROM big_seen'), '>', 200_000, 'in parts: whenever the memory allowed was full');

$node->stop;

done_testing();
