# Columns that a truck does not read: what only_columns and except_columns leave out is
# not in r, whatever columns are renamed, added and dropped; who names such a column is
# told so.  Of the changes that are kept for several trucks only those columns are kept
# that one of them needs - and all of them where they may go into quarantine, or where it
# cannot be known - so each truck arrives at the same as a truck that reads everything.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $node = trucker_node('filter',
	conf => "log_temp_files = 0\ntrucker.batch_memory = '64kB'\ntrucker.max_truck_delay = 0\n");

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub err { return psql_err($node, $_[0]); }

sub started
{
	my (@trucks) = @_;

	sql(join '; ', map { "SELECT trucker.start('$_')" } @trucks);
	wait_state($node, $_, 'streaming') or die "$_ does not run" foreach @trucks;
	return;
}

# What a truck's r has of table t, beside its own columns.
sub columns_of
{
	my ($truck) = @_;

	return sql("SELECT string_agg(key, ' ' ORDER BY key) FROM (SELECT DISTINCT jsonb_object_keys(j) AS key FROM ${truck}_out) AS k"
		  . q{ WHERE key !~ '^(old__|meta__)'});
}

# ----
# What is refused
# ----

sql(q{
CREATE TABLE t (id int PRIMARY KEY, a int, b text, secret text, gone int, "Odd name" int);
ALTER TABLE t REPLICA IDENTITY FULL;
ALTER TABLE t DROP COLUMN gone;
CREATE TABLE u (id int PRIMARY KEY, a int);
ALTER TABLE u REPLICA IDENTITY FULL;
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE o (j jsonb);
CREATE ROLE somebody LOGIN;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO somebody;
});

my $create = sub {
	my ($options, %opts) = @_;
	return "SELECT trucker.create_truck('bad', '" . ($opts{inputs} // '{t}')
	  . "', 'INSERT INTO o SELECT to_jsonb(r) FROM r', options => \$\${$options}\$\$)";
};
foreach my $case (
	[ 'an unknown column', '"only_columns": ["a", "x"]', '42703', qr/column "x" of table public\.t does not exist.*The option "only_columns".*HINT:/s ],
	[ 'a dropped column', '"except_columns": ["gone"]', '42703', qr/column "gone" of table public\.t does not exist/ ],
	[ 'a dropped column by the name that the catalog gives it', '"only_columns": ["........pg.dropped.5........"]', '42703', qr/does not exist/ ],
	[ 'another case', '"only_columns": ["odd name"]', '42703', qr/column "odd name"/ ],
	[ 'a system column', '"only_columns": ["ctid"]', '42P10', qr/column "ctid" of table public\.t is a system column/ ],
	[ 'a column twice', '"except_columns": ["a", "b", "a"]', '42701', qr/names column "a" twice/ ],
	[ 'no column', '"only_columns": []', '22023', qr/names no column.*HINT:/s ],
	[ 'both for a table', '"only_columns": ["a"], "except_columns": ["b"]', '22023', qr/exclude each other.*public\.t.*HINT:/s ],
	[ 'a key column', '"except_columns": ["a", "id"]', '22023', qr/cannot leave out column "id" of table public\.t.*HINT:/s ],
	[ 'a table that the truck does not read', '"except_columns": {"public.u": ["a"]}', '22023', qr/"public\.u", which is no input table of truck "bad"/ ],
	[ 'an unknown table', '"except_columns": {"nowhere.t": ["a"]}', '42P01', qr/"nowhere\.t"/ ],
	[ 'a table twice', '"only_columns": {"public.t": ["a"], "t": ["b"]}', '22023', qr/names a table twice/ ],
	[ 'a string', '"only_columns": "a"', '22023', qr/must be an array of column names, or an object.*HINT:/s ],
	[ 'a number', '"except_columns": 1', '22023', qr/must be an array/ ],
	[ 'numbers', '"only_columns": [1]', '22023', qr/must be an array/ ],
	[ 'nulls', '"only_columns": [null]', '22023', qr/must be an array/ ],
	[ 'arrays in it', '"only_columns": [["a"]]', '22023', qr/must be an array/ ],
	[ 'an object without arrays', '"only_columns": {"t": "a"}', '22023', qr/must be an array/ ],
	[ 'an object of objects', '"only_columns": {"t": {"a": 1}}', '22023', qr/must be an array/ ])
{
	my ($what, $options, $state, $message) = @$case;
	my $error = err($create->($options));

	like($error, qr/ERROR:  $state:/, "$what is refused");
	like($error, $message, '... and the error says what is wrong');
}
like(err($create->('"only_columns": ["a"]', inputs => '{t,u}')), qr/does not say which table.*HINT:.*\{"schema\.table"/s, 'with two tables, a list is refused');
is(sql('SELECT count(*) FROM trucker.truck'), '0', 'nothing of all that is left');
like(psql_err($node, "SET ROLE somebody; " . $create->('"only_columns": ["a"]')), qr/ERROR:  42501:.*may not read input table public\.t/s,
	'who may not read the table cannot lock it by a filter');

# ----
# What r has
# ----

sub create_all
{
	my ($truck, $options) = @_;

	sql(qq{CREATE TABLE ${truck}_out (j jsonb);
SELECT trucker.create_truck('$truck', '{t}', 'INSERT INTO ${truck}_out SELECT to_jsonb(r) FROM r', options => \$\${$options}\$\$)});
}
sql(q{INSERT INTO t VALUES (1, 10, 'b', 'hush', 7)});
create_all('every', '');
create_all('only', '"only_columns": ["a", "Odd name"]');
create_all('but', '"except_columns": {"public.t": ["secret"]}');
started(qw(every only but));
is(columns_of('every'), 'Odd name a b id secret', 'without an option r has all columns');
is(columns_of('only'), 'Odd name a id', 'only_columns: these, and the key');
is(columns_of('but'), 'Odd name a b id', 'except_columns: all but these');
sql(q{UPDATE t SET a = 11, secret = 'more'; DELETE FROM t; INSERT INTO t VALUES (2, 20, 'c', 'psst', 8)});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(every only but);
is(sql(q{SELECT count(*) FROM but_out WHERE j::text ~ 'hush|more|psst'}), '0', 'nothing of the column comes by a stream either');
is(sql(q{SELECT count(*) FROM every_out WHERE j::text ~ 'hush|more|psst'}), '4', 'where it is not left out it comes');
same($node, q{SELECT j->>'id', j->>'a', j->>'old__id', j->>'meta__operation' FROM every_out},
	q{SELECT j->>'id', j->>'a', j->>'old__id', j->>'meta__operation' FROM only_out}, 'what is left in is the same');
like(sql(q{SELECT detail FROM trucker.check('but') WHERE item ~ ': SQL'}), qr/option "except_columns" leaves out of "r": "secret"/, 'check() tells');

# SQL that names what is left out
sql(q{SELECT trucker.create_truck('names', '{t}', 'INSERT INTO o SELECT to_jsonb(secret) FROM r', options => '{"except_columns": ["secret"]}')});
like(err(q{SELECT trucker.start('names')}), qr/ERROR:  42703:.*"secret" does not exist.*HINT:  Of table public\.t the truck's option "except_columns" leaves out of "r": "secret"\./s,
	'SQL that names a column that is left out is refused by start(), and the error says why');
like(err(q{SELECT trucker.alter_truck('only', output_sql => 'INSERT INTO only_out SELECT to_jsonb(r.b) FROM r')}),
	qr/ERROR:  42703:.*HINT:  Of table public\.t the truck's option "only_columns" leaves in "r" only the key and: "a", "Odd name"\./s, '... by alter_truck()');
like(err(q{SELECT trucker.alter_truck('but', output_sql => 'INSERT INTO but_out SELECT to_jsonb(old__secret) FROM r')}),
	qr/ERROR:  42703:.*HINT:  Of table/s, '... and so are old values');
like(err(q{SELECT trucker.alter_truck('but', options => '{"only_columns": ["a"]}')}), qr/exclude each other/, 'alter_truck() does not add the other option');
like(err(q{SELECT trucker.alter_truck('but', input_tables => '{t,u}', options => '{"except_columns": ["b"]}')}), qr/does not say which table/, '... nor a list to two tables');

# ----
# Columns are renamed, added, dropped
# ----

sql(q{TRUNCATE but_out, only_out;
ALTER TABLE t RENAME COLUMN secret TO harmless;
ALTER TABLE t RENAME COLUMN b TO secret;
ALTER TABLE t ADD COLUMN fresh int DEFAULT 5;
INSERT INTO t VALUES (3, 30, 'now b', 'pssst', 9)});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(only but);
is(columns_of('but'), 'Odd name a fresh id secret', 'what was left out is so under its new name, a new column is not');
is(sql(q{SELECT j->>'secret' FROM but_out}), 'now b', '... nor another one that has got its name');
is(columns_of('only'), 'Odd name a id', 'only_columns does not let in a new column');
sql(q{ALTER TABLE t RENAME COLUMN a TO aa; TRUNCATE only_out; INSERT INTO t VALUES (4, 40, 'x', 'y', 0)});
ok(caught_up($node, 'only'), 'only has caught up');
is(columns_of('only'), 'Odd name aa id', 'only_columns follows a rename');
sql(q{BEGIN; ALTER TABLE t RENAME COLUMN aa TO zz; ROLLBACK});
is(sql(q{SELECT string_agg(columns::text, ' ') FROM (SELECT DISTINCT ON (truck_id) columns FROM trucker.column_filter f JOIN trucker.truck t ON t.id = truck_id WHERE name IN ('only', 'but') ORDER BY truck_id, since DESC) AS c}) =~ /\{aa,"Odd name"\}/, 1,
	'names of now are what a dump would hold');

# a dump holds the names
sql(q{SELECT trucker.stop()});
wait_state($node, $_, 'stopped') foreach qw(only but every);
my $dump = "$PostgreSQL::Test::Utils::tmp_check/filter.sql";
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'the database is dumped');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ], '... and restored');
is($node->safe_psql('restored', q{SELECT count(*) FROM trucker.filter_attnum}), '0', 'numbers of columns are not restored');
$node->safe_psql('restored', q{TRUNCATE only_out, but_out; SELECT trucker.resync('only'); SELECT trucker.resync('but'); SELECT trucker.start('only'); SELECT trucker.start('but')});
ok(caught_up($node, $_, db => 'restored'), "$_ runs where it was restored") foreach qw(only but);
is($node->safe_psql('restored', q{SELECT string_agg(DISTINCT k, ' ' ORDER BY k) FROM but_out, jsonb_object_keys(j) AS k WHERE k !~ '__'}), 'Odd name aa fresh id secret',
	'there, too, except_columns leaves out the column that it left out');
is($node->safe_psql('restored', q{SELECT string_agg(DISTINCT k, ' ' ORDER BY k) FROM only_out, jsonb_object_keys(j) AS k WHERE k !~ '__'}), 'Odd name aa id', '... and only_columns lets in what it let in');
$node->safe_psql('restored', q{ALTER TABLE t RENAME COLUMN harmless TO h2; TRUNCATE but_out; INSERT INTO t VALUES (50, 1, 'x', 'y', 0)});
ok(caught_up($node, 'but', db => 'restored'), 'a rename there is followed as well');
is($node->safe_psql('restored', q{SELECT count(*) FROM but_out WHERE j ? 'h2'}), '0', '... and shows nothing');
$node->safe_psql('restored', 'SELECT trucker.drop_truck(name) FROM trucker.truck');
is($node->safe_psql('restored', q{SELECT (SELECT count(*) FROM trucker.filter_attnum) + (SELECT count(*) FROM trucker.column_filter)}), '0', 'drop_truck() leaves nothing of filters');
$node->safe_psql('restored', 'DROP EXTENSION trucker CASCADE');

# altering
started(qw(only but));
sql(q{SELECT trucker.alter_truck('only', options => '{"only_columns": null, "except_columns": ["harmless"]}'); SELECT trucker.alter_truck('but', options => '{"except_columns": null}');
TRUNCATE only_out, but_out; INSERT INTO t VALUES (5, 50, 'x', 'y', 0)});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(only but);
is(columns_of('only'), 'Odd name aa fresh id secret', 'one option can take the place of the other');
is(columns_of('but'), 'Odd name aa fresh harmless id secret', 'null takes the filter away');
sql(q{ALTER TABLE t DROP COLUMN harmless; TRUNCATE only_out; INSERT INTO t VALUES (6, 60, 'x', 0, 0)});
ok(caught_up($node, 'only'), 'a column that is left out can be dropped');
is(columns_of('only'), 'Odd name aa fresh id secret', '... and that changes nothing');

# the table that a filter is about is not read any more
sql(q{SELECT trucker.alter_truck('only', input_tables => '{u}', options => '{"backfill": false}')});
is(sql(q{SELECT count(*) FROM trucker.column_filter f JOIN trucker.truck t ON t.id = truck_id WHERE name = 'only'}), '0', 'a filter goes with its table');
sql(q{SELECT trucker.drop_truck(name) FROM trucker.truck});

# REPLICA IDENTITY FULL: with a key that is left in; without one anything may be left out
sql(q{
CREATE TABLE f (id int PRIMARY KEY, a int, b int); ALTER TABLE f REPLICA IDENTITY FULL;
CREATE TABLE g (a int, b int); ALTER TABLE g REPLICA IDENTITY FULL;
CREATE TABLE fg (op text, j jsonb);
SELECT trucker.create_truck('full', '{f,g}', 'INSERT INTO fg SELECT meta__operation, to_jsonb(r) FROM r',
	options => '{"only_columns": {"f": ["a"], "g": ["b"]}}')});
like(err(q{SELECT trucker.alter_truck('full', options => '{"only_columns": null, "except_columns": {"f": ["id"]}}')}), qr/cannot leave out column "id"/, 'a primary key is not left out of a table with REPLICA IDENTITY FULL');
started('full');
sql(q{INSERT INTO f VALUES (1, 2, 3); INSERT INTO g VALUES (4, 5); UPDATE f SET b = 4; UPDATE g SET a = 1; DELETE FROM f; DELETE FROM g});
ok(caught_up($node, 'full'), 'changes of tables with REPLICA IDENTITY FULL');
is(sql(q{SELECT string_agg(DISTINCT k, ' ' ORDER BY k) FROM fg, jsonb_object_keys(j) AS k WHERE k !~ 'meta__'}), 'a b id old__a old__b old__id', 'r of both has what is left in');
is(sql(q{SELECT string_agg((j - 'meta__lsn' - 'meta__xid' - 'meta__committed_at' - 'meta__seq' - 'meta__operation')::text, ' ' ORDER BY j->>'meta__seq') FROM fg WHERE j->>'meta__table' = 'public.g' AND op = 'update'}),
	'{"b": 5, "old__b": 5, "meta__table": "public.g"}', '... and no more');
sql(q{SELECT trucker.drop_truck('full')});

# ----
# Of changes that are kept for several trucks only what is needed is kept
# ----

sql(q{
CREATE TABLE wide (id int PRIMARY KEY, k int NOT NULL UNIQUE, v int, big text, n int);
ALTER TABLE wide ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE w1 (id int PRIMARY KEY, v int);
CREATE TABLE w2 (id int PRIMARY KEY, n int);
CREATE TABLE w3 (id int PRIMARY KEY, size int);
SELECT trucker.create_truck('w1', '{wide}', NULL, options => '{"output_table": "w1", "only_columns": ["v"]}');
SELECT trucker.create_truck('w2', '{wide}', NULL, 'SELECT id, n, old__id, meta__operation FROM r', options => '{"output_table": "w2"}');
SELECT trucker.create_truck('w3', '{wide}', NULL, 'SELECT id, length(big) AS size, old__id, meta__operation FROM r', options => '{"output_table": "w3", "toast": "current"}')});
started(qw(w1 w2));

# How many bytes have gone to temporary files of the stream's worker, when sql is applied?
sub spilled
{
	my ($truck, $sql) = @_;
	my $pid = stream_worker_pid($node, $truck);
	my $offset = -s $node->logfile;
	my $sum = 0;

	sql($sql);
	ok(caught_up($node, $_), "$_ has caught up") foreach qw(w1 w2);
	# the batch is cleared behind the last truck; the next one comes after that
	sql(q{INSERT INTO wide VALUES (0, 0); DELETE FROM wide WHERE id = 0});
	ok(caught_up($node, $_), "$_ has caught up again") foreach qw(w1 w2);
	foreach (split /\n/, slurp_file($node->logfile, $offset))
	{
		$sum += $1 if /\[$pid\].*temporary file: .*size (\d+)/;
	}
	return $sum;
}
my $load = q{INSERT INTO wide SELECT n, n, n, repeat(md5(n::text), 400), n FROM generate_series(%d, %d) AS n;
UPDATE wide SET v = v + 1 WHERE id BETWEEN %1$d AND %2$d AND id %% 2 = 0;
UPDATE wide SET id = id + 100000, k = k + 100000 WHERE id BETWEEN %1$d AND %2$d AND id %% 5 = 0;
DELETE FROM wide WHERE id BETWEEN %1$d AND %2$d AND id %% 3 = 0};
my $narrow = spilled('w1', sprintf($load, 1, 300));
sub all_same
{
	my ($when) = @_;

	same($node, 'SELECT id, v FROM wide', 'SELECT id, v FROM w1', "w1 is right $when");
	same($node, 'SELECT id, n FROM wide', 'SELECT id, n FROM w2', "w2 is right $when");
}
all_same('with what others read kept alone');
started('w3');
ok(caught_up($node, 'w3'), 'w3 has caught up');
my $wide = spilled('w1', sprintf($load, 1001, 1300));
all_same('with a truck beside them that reads more');
same($node, 'SELECT id, length(big) FROM wide', 'SELECT id, size FROM w3', 'w3 is right');
note "kept on disk: $narrow bytes, and $wide with a truck that reads the large column";
cmp_ok($wide, '>', 3000000, 'what a truck reads is kept');
# (pgoutput's changes name their columns, and are kept as they are)
cmp_ok($narrow, '<', ($ENV{TRUCKER_OUTPUT_PLUGIN} // '') eq 'pgoutput' ? $wide + 1 : 300000, 'what no truck reads is not kept');

# The SQL is compiled anew, for another key, when the changes have been kept already.
sql(q{SELECT trucker.drop_truck(name) FROM trucker.truck;
CREATE TABLE keyed (id int PRIMARY KEY, k int NOT NULL UNIQUE, v int, w int);
CREATE TABLE k1 (id int, v int); CREATE TABLE k2 (id int, w int);
SELECT trucker.create_truck('k1', '{keyed}', 'INSERT INTO k1 SELECT id, v FROM r');
SELECT trucker.create_truck('k2', '{keyed}', 'INSERT INTO k2 SELECT id, w FROM r')});
started(qw(k1 k2));
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK k1 IN EXCLUSIVE MODE');
sql(q{INSERT INTO keyed SELECT n, n, n, n FROM generate_series(1, 10) AS n});
$node->poll_query_until('postgres', q{SELECT waiting_for IS NOT NULL FROM trucker.status WHERE truck = 'k1'}) or die 'k1 does not wait';
my $alter = $node->background_psql('postgres');
$alter->query_until(qr/altering/, "\\echo altering\nALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_k_key;\n");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'keyed'::regclass AND NOT granted}) or die 'nobody waits for the table';
my $offset = -s $node->logfile;
$holder->query_safe('COMMIT');
ok(caught_up($node, $_), "$_ has caught up behind the ALTER") foreach qw(k1 k2);
$alter->query_safe('SELECT 1');
ok($node->log_contains(qr/ERROR:  table public\.keyed has been altered, and the truck reads other columns of it now/, $offset), 'changes that were kept without the new key are read again');
same($node, 'SELECT id, v FROM keyed', 'SELECT * FROM k1', '... and arrive once');
same($node, 'SELECT id, w FROM keyed', 'SELECT * FROM k2', '... for each truck');
ok(wait_state($node, $_, 'streaming'), "$_ is at home again") foreach qw(k1 k2);
$_->quit foreach $holder, $alter;
sql(q{SELECT trucker.drop_truck(name) FROM trucker.truck});

# ----
# TOAST: a value that is left out, and missing, stops nobody
# ----

sql(q{
CREATE TABLE doc (id int PRIMARY KEY, v int, body text);
ALTER TABLE doc ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO doc VALUES (1, 1, repeat('x', 10000));
CREATE TABLE doc_out (id int, v int);
SELECT trucker.create_truck('doc', '{doc}', 'INSERT INTO doc_out SELECT id, v FROM r', options => '{"except_columns": ["body"], "backfill": false}')});
unlike($node->psql('postgres', q{SELECT trucker.start('doc')}, on_error_die => 1) // '', qr/TOAST/, 'no warning of TOAST values that are left out');
ok(wait_state($node, 'doc', 'streaming'), 'doc runs');
sql(q{UPDATE doc SET v = 2; UPDATE doc SET v = 3; DELETE FROM doc});
ok(caught_up($node, 'doc'), 'updates that leave such a value unchanged, of a row that is gone');
is(sql(q{SELECT string_agg(v::text, ' ' ORDER BY v) FROM doc_out}), '2 3', '... arrive');
sql(q{SELECT trucker.drop_truck('doc')});

# ----
# Quarantine holds all columns: the truck may read others by the time it is retried
# ----

sql(q{
CREATE TABLE q (id int PRIMARY KEY, a int, b int);
CREATE TABLE q1 (id int, v int CHECK (v < 100));
CREATE TABLE q2 (id int, v int);
SELECT trucker.create_truck('q1', '{q}', 'INSERT INTO q1 SELECT id, a FROM r', options => '{"on_error": "quarantine", "backfill": false, "only_columns": ["a"]}');
SELECT trucker.create_truck('q2', '{q}', 'INSERT INTO q2 SELECT id, a FROM r', options => '{"backfill": false}')});
started(qw(q1 q2));
sql(q{INSERT INTO q VALUES (1, 1, 10); INSERT INTO q VALUES (2, 200, 20); UPDATE q SET b = 21 WHERE id = 2});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(q1 q2);
is(sql(q{SELECT string_agg(new::text, ' ' ORDER BY id) FROM trucker.quarantine}), '{"a": "200", "b": "20", "id": "2"} {"a": "200", "b": "21", "id": "2"}', 'all columns are in quarantine');
# with another option, what comes for such a row still goes there, whole
sql(q{SELECT trucker.alter_truck('q1', options => '{"on_error": "retry"}'); UPDATE q SET b = 22 WHERE id = 2});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(q1 q2);
is(sql(q{SELECT new->>'b' FROM trucker.quarantine ORDER BY id DESC LIMIT 1}), '22', '... also of what is parked behind it');
sql(q{SELECT trucker.alter_truck('q1', output_sql => 'INSERT INTO q1 SELECT id, b FROM r', options => '{"only_columns": ["b"]}'); SELECT trucker.retry_quarantined('q1')});
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM trucker.quarantine}) or die 'the quarantine is not emptied';
is(sql(q{SELECT string_agg(v::text, ' ' ORDER BY v) FROM q1}), '1 20 21 22', 'a retry finds the columns that the SQL reads by then');
sql(q{SELECT trucker.drop_truck(name) FROM trucker.truck});

# ----
# Net changes, partitions with columns in other places, renames while changes are pending
# ----

sql(q{
CREATE TABLE p (id int, junk int, k int NOT NULL, v int, wide text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
ALTER TABLE p DROP COLUMN junk;
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
CREATE TABLE p2 (wide text, v int, k int NOT NULL, id int NOT NULL, PRIMARY KEY (id, k));
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200);
CREATE TABLE p_out (id int, k int, v int, PRIMARY KEY (id, k));
CREATE TABLE p_net (id int, k int, v int, PRIMARY KEY (id, k));
SELECT trucker.create_truck('p', '{p}', NULL, options => '{"output_table": "p_out", "except_columns": ["wide"]}');
SELECT trucker.create_truck('net', '{p}', NULL, options => '{"output_table": "p_net", "only_columns": ["v"], "changes": "net"}')});
started(qw(p net));
foreach my $round (1 .. 3)
{
	sql(qq{INSERT INTO p (id, k, v, wide) SELECT n, n % 200, n, repeat('w', 3000) FROM generate_series($round * 1000, $round * 1000 + 300) AS n;
UPDATE p SET v = v + 1 WHERE id % 3 = 0; UPDATE p SET k = (k + 100) % 200 WHERE id % 7 = $round; DELETE FROM p WHERE id % 11 = $round});
}
ok(caught_up($node, $_), "$_ has caught up") foreach qw(p net);
same($node, 'SELECT id, k, v FROM p', "SELECT id, k, v FROM $_", "$_ is right") foreach qw(p_out p_net);

# names change hands while changes wait that were made under the old ones
$holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK p_out, p_net IN EXCLUSIVE MODE');
sql(q{CREATE TABLE hands (id int PRIMARY KEY, x int, y int, z text);
CREATE TABLE h1 (id int PRIMARY KEY, x int); CREATE TABLE h2 (id int PRIMARY KEY, y int);
SELECT trucker.create_truck('h1', '{hands}', 'INSERT INTO h1 SELECT id, x FROM r', options => '{"only_columns": ["x"]}');
SELECT trucker.create_truck('h2', '{hands}', 'INSERT INTO h2 SELECT id, y FROM r', options => '{"except_columns": ["x"]}')});
$holder->query_safe('ROLLBACK');
started(qw(h1 h2));
sql(q{SELECT trucker.stop('h1'); SELECT trucker.stop('h2')});
wait_state($node, $_, 'stopped') foreach qw(h1 h2);
sql(q{INSERT INTO hands VALUES (1, 100, 200, 'old');
ALTER TABLE hands RENAME COLUMN x TO w; ALTER TABLE hands RENAME COLUMN y TO x; ALTER TABLE hands RENAME COLUMN w TO y;
INSERT INTO hands VALUES (2, 101, 201, 'new')});
like(err(q{SELECT trucker.start('h1')}), qr/42703.*only the key and: "y"/s, 'SQL that names the other column now is refused');
sql(q{SELECT trucker.alter_truck('h1', output_sql => 'INSERT INTO h1 SELECT id, y FROM r'); SELECT trucker.alter_truck('h2', output_sql => 'INSERT INTO h2 SELECT id, x FROM r');
SELECT trucker.start('h1'); SELECT trucker.start('h2')});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(h1 h2);
is(sql(q{SELECT string_agg(h1.x || ' ' || h2.y, ', ' ORDER BY id) FROM h1 JOIN h2 USING (id)}), '100 200, 101 201', 'changes from before and after the renames have the right columns');
$holder->quit;
sql(q{SELECT trucker.drop_truck(name) FROM trucker.truck});

# ----
# What no truck wants is not sent: updates and deletes, TRUNCATEs
# ----

sql(q{CREATE TABLE s (id int PRIMARY KEY, v int); CREATE TABLE s1 (id int, v int); CREATE TABLE s2 (id int, v int);
SELECT trucker.create_truck('s1', '{s}', 'INSERT INTO s1 SELECT id, v FROM r', options => '{"inserts_only": true, "on_truncate": "ignore", "stream": "s"}');
SELECT trucker.create_truck('s2', '{s}', 'INSERT INTO s2 SELECT id, v FROM r', options => '{"inserts_only": true, "on_truncate": "ignore", "stream": "s"}')});
sub options_of
{
	my ($offset) = @_;

	return slurp_file($node->logfile, $offset) =~ /.*START_REPLICATION[^\n]*"actions" '([^\n']*)'/s ? $1 : '';
}
$node->append_conf('postgresql.conf', 'log_replication_commands = on');
$node->reload;
$offset = -s $node->logfile;
started(qw(s1 s2));
# pgoutput has no such option
is(options_of($offset), ($ENV{TRUCKER_OUTPUT_PLUGIN} // '') eq 'pgoutput' ? '' : 'insert', 'trucks that take inserts only');
sql(q{INSERT INTO s VALUES (1, 1); UPDATE s SET v = 2; TRUNCATE s; INSERT INTO s VALUES (2, 2)});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(s1 s2);
is(sql(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM s2}), '1 1, 2 2', '... get them');
# one that wants more makes the others get what they pass over
$offset = -s $node->logfile;
sql(q{SELECT trucker.alter_truck('s2', options => '{"inserts_only": false, "on_truncate": "error"}')});
ok(wait_state($node, 's2', 'streaming'), 's2 runs');
sql(q{INSERT INTO s VALUES (3, 3); UPDATE s SET v = 4 WHERE id = 3});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(s1 s2);
is(sql(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id, v) FROM s1}), '1 1, 2 2, 3 3', 'a truck that passes over updates still does');
is(sql(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id, v) FROM s2}), '1 1, 2 2, 3 3, 3 4', 'the other one gets them, from where it was altered');
sql(q{SELECT trucker.drop_truck(name) FROM trucker.truck});

# ----
# Another server
# ----

my $target = remote_node('target');
connect_remote($node, $target, 'there');
$target->safe_psql('postgres', 'CREATE TABLE c (id int PRIMARY KEY, a int, b int); GRANT ALL ON c TO writer');
sql(q{CREATE TABLE c (id int PRIMARY KEY, a int, b int, secret text);
SELECT trucker.create_truck('there', '{c}', NULL, options => '{"output_table": "c", "except_columns": ["secret"]}', output_connection => 'there')});
started('there');
sql(q{INSERT INTO c VALUES (1, 2, 3, 'hush'), (2, 3, 4, 'hush'); UPDATE c SET a = 5 WHERE id = 1});
ok(caught_up($node, 'there'), 'a truck that writes to another server has caught up');
same_remote($node, 'SELECT id, a, b FROM c', $target, 'SELECT id, a, b FROM c', 'a table without the column that is left out can be mirrored there');
like(err(q{SELECT trucker.alter_truck('there', output_sql => 'INSERT INTO c (id) SELECT length(secret) FROM r', options => '{"output_table": null}')}),
	qr/ERROR:  42703:.*HINT:  Of table public\.c the truck's option "except_columns" leaves out of "r": "secret"\./s, 'there, too, SQL that names it is refused');
# what input_sql returns and output_sql does not read is not sent, by parameters or by COPY
$target->append_conf('postgresql.conf', 'log_statement = all');
$target->reload;
$target->safe_psql('postgres', 'CREATE TABLE d (id int PRIMARY KEY, b int); GRANT ALL ON d TO writer');
$offset = -s $target->logfile;
sql(q{SELECT trucker.create_truck('some', '{c}', 'INSERT INTO d (b, id) SELECT b, id FROM r', 'SELECT id, a AS unread, b, secret AS too_long FROM r',
	options => '{"inserts_only": true, "stream": "some"}', output_connection => 'there')});
started('some');
sql(q{INSERT INTO c VALUES (3, 4, 5, 'hush')});
ok(caught_up($node, 'some'), 'a few rows are sent');
sql(q{INSERT INTO c SELECT n, n, n, 'hush' FROM generate_series(4, 40000) AS n});
ok(caught_up($node, 'some'), '... and many');
same_remote($node, 'SELECT id, b FROM c', $target, 'SELECT id, b FROM d', '... with the columns that output_sql reads');
my $sent = slurp_file($target->logfile, $offset);
like($sent, qr/WITH r AS NOT MATERIALIZED \(SELECT q\.c1 AS id, q\.c2 AS b FROM ROWS FROM/, 'these, as parameters');
like($sent, qr/CREATE TEMP[^\n]*\(c1 integer, c2 integer\)/i, '... or in a temporary table');
unlike($sent, qr/unread|too_long/, '... and no others');
sql(q{SELECT trucker.drop_truck('there'); SELECT trucker.drop_truck('some')});

$target->stop;
$node->stop;
done_testing();
