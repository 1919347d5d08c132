# A partitioned table as input: the changes of its partitions, wherever their columns lie
# and whatever becomes of them, arrive as changes of the table.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('partitions', conf => "max_wal_senders = 40\nmax_replication_slots = 40\nmax_worker_processes = 60\n");

sub sql
{
	return $node->safe_psql('postgres', join ";\n", @_);
}

# A truck that copies a table with key id, k and columns v, big.  The copies have no
# ON CONFLICT: a change that comes twice, or in the wrong order, stops the truck.
sub mirror
{
	my ($truck, $table, $options) = @_;

	$options //= '{}';
	$table = join ', ', map { "'$_'::regclass" } split /, /, $table;
	return qq{CREATE TABLE ${truck}_copy (id int, k int, v text, big text, PRIMARY KEY (id, k));
		CREATE TABLE ${truck}_seen (tab text, op text);
		SELECT trucker.create_truck('$truck', ARRAY[$table], \$\$
			INSERT INTO ${truck}_seen SELECT DISTINCT meta__table || ' {{ .input_table }}', meta__operation FROM r;
			DELETE FROM ${truck}_copy AS d USING r WHERE meta__operation <> 'insert' AND (d.id, d.k) = (old__id, old__k);
			INSERT INTO ${truck}_copy SELECT id, k, v, big FROM r WHERE meta__operation <> 'delete'\$\$, options => '$options');
		SELECT trucker.start('$truck')};
}

sub same_copy
{
	my ($truck, $what, $table) = @_;

	$table //= 'whole';
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(caught_up($node, $truck), "$what: $truck goes on")
	  && same($node, "SELECT id, k, v, big FROM $table", "TABLE ${truck}_copy", "$what: $truck is right");
	return;
}

# DDL, and what it says
sub run_ddl
{
	my ($ddl) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $ddl);

	return $rc == 0 ? $stderr : "failed: $stderr";
}

sub last_error
{
	my ($truck) = @_;
	return sql("SELECT last_error FROM trucker.status WHERE truck = '$truck'");
}

sub becomes
{
	my ($truck, $state, $error, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_state($node, $truck, $state), "$what: $truck is $state") && like(last_error($truck), $error, "$what: and says why");
	return;
}

sub drop_truck
{
	my ($truck) = @_;
	return sql("SELECT trucker.stop('$truck'), trucker.drop_truck('$truck')", "DROP TABLE ${truck}_copy, ${truck}_seen");
}

###
### What start() refuses
###
sub refused
{
	return psql_err($node, 'BEGIN; ' . mirror('refused', @_));
}

sql(q{CREATE TABLE refused (id int, k int, v text, big text) PARTITION BY RANGE (id);
	CREATE TABLE refused_1 PARTITION OF refused FOR VALUES FROM (0) TO (10);
	CREATE TABLE "Refused 2" PARTITION OF refused FOR VALUES FROM (10) TO (20);
	ALTER TABLE "Refused 2" ADD PRIMARY KEY (id);
	CREATE EXTENSION postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw});
my $error = refused('refused');
like($error, qr/55000: partitions of table public\.refused have no replica identity\n.*HINT:  Add a primary key, or: ALTER TABLE public\.refused_1 REPLICA IDENTITY FULL;\n/s,
	'partitions without a replica identity are named');
like($error, qr/^(?!.*Refused 2)/s, 'those that have one are not');
sql('ALTER TABLE refused_1 REPLICA IDENTITY FULL');
like(refused('refused'), qr/55000: .* reads "old__k", which table public\.refused does not log.*HINT:  ALTER TABLE public\."Refused 2" REPLICA IDENTITY FULL;\n/s,
	'partitions that do not log what the SQL reads are named');
sql('ALTER TABLE "Refused 2" REPLICA IDENTITY FULL; CREATE FOREIGN TABLE far PARTITION OF refused FOR VALUES FROM (20) TO (30) SERVER elsewhere');
like(refused('refused'), qr/42809: public\.refused cannot be an input table: its partition public\.far is a foreign table/, 'a foreign table as partition');
sql('DROP FOREIGN TABLE far; CREATE UNLOGGED TABLE near PARTITION OF refused FOR VALUES FROM (20) TO (30)');
like(refused('refused'), qr/42809: .*its partition public\.near is an unlogged table.*ALTER TABLE public\.near SET LOGGED;/s, 'an unlogged partition');
like(refused('refused_1, refused'), qr/22023: input_tables names a partitioned table and its partition "refused_1".*HINT:/s,
	'a table and its partition in one truck');
sql('DROP TABLE refused');

###
### Partitions of many shapes
###
sql(q{CREATE TABLE whole (gone int, id int NOT NULL, k int NOT NULL, v text, big text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);
	CREATE TABLE w1 PARTITION OF whole FOR VALUES FROM (0) TO (100);
	ALTER TABLE whole DROP gone;
	CREATE TABLE "W 2" (big text, x point, v text, k int NOT NULL, y int, id int NOT NULL); ALTER TABLE "W 2" DROP x, DROP y;
	ALTER TABLE whole ATTACH PARTITION "W 2" FOR VALUES FROM (100) TO (200);
	CREATE SCHEMA deep;
	CREATE TABLE deep.w3 PARTITION OF whole FOR VALUES FROM (200) TO (300) PARTITION BY LIST (k);
	CREATE TABLE deep.a PARTITION OF deep.w3 FOR VALUES IN (0, 1, 2);
	CREATE TABLE deep.rest (v text, k int NOT NULL, id int NOT NULL, big text);
	ALTER TABLE deep.w3 ATTACH PARTITION deep.rest DEFAULT;
	ALTER TABLE w1 REPLICA IDENTITY FULL;
	INSERT INTO whole (id, k, v, big) SELECT i, i % 5, 'v' || i, repeat(md5(i::text), CASE WHEN i % 10 = 0 THEN 200 ELSE 1 END) FROM generate_series(0, 299) i;
	CREATE ROLE reader; GRANT SELECT ON whole TO reader; GRANT CREATE ON SCHEMA public TO reader; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO reader;
});
sql(mirror('all_of_it', 'whole'), mirror('net', 'whole', '{"changes": "net"}'), mirror('part', '"W 2"'), 'SET SESSION AUTHORIZATION reader', mirror('rights', 'whole'));
my @trucks = qw(all_of_it net rights);

foreach my $truck (@trucks, 'part')
{
	wait_state($node, $truck, 'streaming');
}

sub all_same
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	same_copy($_, $what) foreach @trucks;
	same_copy('part', $what, '"W 2"');
	return;
}

all_same('backfill');
sql(q{UPDATE whole SET v = v || '+' WHERE id % 3 = 0;
	DELETE FROM whole WHERE id % 7 = 0;
	INSERT INTO whole SELECT i, i % 5, 'new' || i, 'b' FROM generate_series(0, 299) i WHERE i % 7 = 0 AND i % 2 = 0;
	UPDATE "W 2" SET v = 'by its own name' WHERE id % 11 = 0;
	UPDATE deep.rest SET big = 'short' WHERE id % 10 = 3});
all_same('changes of each partition');
sql(q{DELETE FROM whole WHERE id IN (210, 220); UPDATE whole SET id = id + 200, v = v || ' moved' WHERE id IN (10, 20); UPDATE whole SET k = 7 WHERE id = 230;
	BEGIN; UPDATE whole SET id = 10 WHERE id = 210; UPDATE whole SET id = 210 WHERE id = 10; UPDATE whole SET v = 'home' WHERE id = 210; COMMIT});
all_same('rows that move between partitions, with large values');
sql(q{UPDATE "W 2" SET v = 'TOAST untouched' WHERE id % 10 = 0; UPDATE deep.a SET v = 'TOAST untouched' WHERE id % 10 = 0});
all_same('unchanged TOAST values');
is(sql('SELECT string_agg(DISTINCT tab, $$ $$) FROM all_of_it_seen'), 'public.whole public.whole', 'r names the partitioned table');

###
### They come and go
###
is(run_ddl(q{CREATE TABLE w4 PARTITION OF whole FOR VALUES FROM (300) TO (400); INSERT INTO whole VALUES (300, 1, 'first', 'x'); UPDATE w4 SET v = 'second'}),
	'', 'a new partition needs nobody');
all_same('a new partition');
is(run_ddl(q{BEGIN; CREATE TABLE w5 (big text, id int NOT NULL, k int NOT NULL, v text); INSERT INTO w5 VALUES ('x', 1, 1, 'never'); DELETE FROM w5;
	INSERT INTO whole VALUES (301, 1, 'before', 'x'); ALTER TABLE whole ATTACH PARTITION w5 FOR VALUES FROM (400) TO (500);
	INSERT INTO whole VALUES (401, 1, 'after', 'y'); INSERT INTO w5 VALUES ('z', 402, 1, 'by its own name'); COMMIT; UPDATE whole SET big = 'moved', id = 403 WHERE id = 301}),
	'', 'an empty table is attached');
all_same('an attached partition');
is(run_ddl(q{ALTER TABLE w5 RENAME TO w6; ALTER TABLE w6 SET SCHEMA deep; INSERT INTO whole VALUES (404, 1, 'renamed', 'x'); ALTER TABLE whole RENAME TO whole_2;
	CREATE TABLE w5 (LIKE deep.w6); INSERT INTO w5 VALUES ('x', 405, 1, 'another table'); UPDATE whole_2 SET v = 'both' WHERE id = 404;
	ALTER SCHEMA deep RENAME TO deeper; INSERT INTO deeper.a VALUES (200, 1, 'deeper', 'x') ON CONFLICT (id, k) DO UPDATE SET v = 'deeper'; UPDATE deeper.w6 SET v = 'deeper' WHERE id = 401;
	ALTER SCHEMA deeper RENAME TO deep; ALTER TABLE whole_2 RENAME TO whole; INSERT INTO deep.w6 VALUES ('x', 406, 1, 'and back')}),
	'', 'table and partitions are renamed');
all_same('renamed partitions');
is(run_ddl(q{BEGIN; ALTER TABLE whole ADD extra int DEFAULT 7; ALTER TABLE whole RENAME v TO w; INSERT INTO whole VALUES (407, 1, 'w', 'x', 1); UPDATE deep.w6 SET w = 'ww' WHERE id = 406;
	ALTER TABLE whole RENAME w TO v; ALTER TABLE whole DROP extra; COMMIT; ALTER TABLE whole ALTER v TYPE varchar; UPDATE whole SET v = 'nine' WHERE id = 407}),
	'', 'columns are altered');
all_same('altered columns');

is(run_ddl(q{CREATE TABLE sub PARTITION OF whole FOR VALUES FROM (500) TO (600) PARTITION BY LIST (k); CREATE TABLE sub_1 PARTITION OF sub FOR VALUES IN (1);
	INSERT INTO whole VALUES (500, 1, 'sub', 'x'); UPDATE sub SET v = 'of sub';
	CREATE TABLE tree (LIKE whole) PARTITION BY LIST (k); CREATE TABLE tree_1 PARTITION OF tree FOR VALUES IN (1); CREATE TABLE tree_2 PARTITION OF tree DEFAULT;
	INSERT INTO tree VALUES (600, 1, 'never', 'x'); TRUNCATE tree;
	ALTER TABLE whole ATTACH PARTITION tree FOR VALUES FROM (600) TO (700); INSERT INTO whole VALUES (600, 1, 'tree', 'x'), (601, 2, 'tree', 'x'); UPDATE whole SET k = k + 1 WHERE id = 600}),
	'', 'partitions that are partitioned are made and attached');
all_same('partitions with partitions');
is(run_ddl(q{DELETE FROM tree; ALTER TABLE whole DETACH PARTITION tree; INSERT INTO tree VALUES (602, 1, 'unseen', 'x'); DELETE FROM tree;
	ALTER TABLE whole ATTACH PARTITION tree FOR VALUES FROM (600) TO (700); INSERT INTO whole VALUES (603, 1, 'seen', 'x'); DELETE FROM whole WHERE id = 603;
	DELETE FROM whole WHERE id >= 500; DROP TABLE tree, sub}), '', 'they are detached, attached again, and dropped');
all_same('partitions with partitions, gone');

# What has been detached, or dropped, stays in the destination; nothing more comes.
my $kept = sql('SELECT count(*) FROM whole WHERE id >= 400');
is(run_ddl(q{BEGIN; INSERT INTO whole VALUES (410, 1, 'before', 'x'); ALTER TABLE whole DETACH PARTITION deep.w6; INSERT INTO deep.w6 VALUES ('x', 411, 1, 'after'); COMMIT;
	DELETE FROM deep.w6; INSERT INTO deep.w6 VALUES ('x', 412, 1, 'after')}), '', 'a partition is detached');
foreach (@trucks)
{
	ok(caught_up($node, $_), "detached: $_ goes on");
	is(sql("SELECT count(*), max(id) FROM ${_}_copy WHERE id >= 400"), ($kept + 1) . '|410', "detached: $_ has kept the rows, and gets no more");
	sql("DELETE FROM ${_}_copy WHERE id >= 400");
}
is(run_ddl(q{ALTER TABLE whole DETACH PARTITION w4 CONCURRENTLY; UPDATE w4 SET v = 'unseen'}), '', 'a partition is detached concurrently');
foreach (@trucks)
{
	ok(caught_up($node, $_), "detached concurrently: $_ goes on");
	is(sql("SELECT count(*), count(*) FILTER (WHERE v = 'unseen') FROM ${_}_copy WHERE id >= 300"), '1|0', "detached concurrently: $_ has kept the rows");
	sql("DELETE FROM ${_}_copy WHERE id >= 300");
}
is(run_ddl(q{DROP TABLE w4, deep.w6, w5; CREATE TABLE w4 PARTITION OF whole FOR VALUES FROM (300) TO (400); INSERT INTO whole VALUES (301, 1, 'same name', 'x')}), '', 'a partition is made anew');
all_same('dropped and made anew');

# Changes that wait while their partition goes.
sql(map { "SELECT trucker.stop('$_')" } @trucks);
sql(q{INSERT INTO whole VALUES (302, 1, 'waits', 'x'), (303, 1, 'waits', 'y'); UPDATE whole SET v = 'updated' WHERE id = 302; DELETE FROM whole WHERE id = 303;
	UPDATE "W 2" SET v = 'waits' WHERE id = 103; INSERT INTO w1 VALUES (99, 99, 'waits', 'x'); DROP TABLE w4; CREATE TABLE w4 PARTITION OF whole FOR VALUES FROM (300) TO (400); INSERT INTO whole VALUES (303, 1, 'anew', 'y')});
sql(map { "SELECT trucker.start('$_')" } @trucks);
foreach (@trucks)
{
	ok(caught_up($node, $_), "dropped with changes waiting: $_ goes on");
	is(sql("SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM ${_}_copy WHERE id >= 300"), '301 same name, 302 updated, 303 anew', "dropped with changes waiting: $_ has got them");
	sql("DELETE FROM ${_}_copy WHERE id IN (301, 302)");
}
all_same('dropped with changes waiting');

# The same, but their columns have got other names in between.
sql(q{SELECT trucker.stop('all_of_it')});
sql(q{INSERT INTO whole VALUES (304, 1, 'waits', 'x'); DROP TABLE w4; ALTER TABLE whole RENAME v TO z; ALTER TABLE whole RENAME big TO v; ALTER TABLE whole RENAME z TO big;
	ALTER TABLE whole RENAME v TO z; ALTER TABLE whole RENAME big TO v; ALTER TABLE whole RENAME z TO big});
sql(q{SELECT trucker.start('all_of_it')});
ok(caught_up($node, 'all_of_it'), 'columns of a dropped partition with changes waiting: the truck goes on');
is(sql(q{SELECT string_agg(concat_ws(' ', id, k, v, big), ', ') FROM all_of_it_copy WHERE id = 304}), '304 1 waits x', 'each value is that of its column');
foreach (@trucks)
{
	caught_up($node, $_);
	sql("DELETE FROM ${_}_copy WHERE id >= 300");
}
all_same('columns of a dropped partition');

###
### What cannot be followed
###
sql(mirror('no_load', 'whole', '{"backfill": false}'), 'INSERT INTO no_load_copy TABLE all_of_it_copy');
wait_state($node, 'no_load', 'streaming');
sql(q{CREATE TABLE full_one (id int NOT NULL, k int NOT NULL, v varchar, big text); INSERT INTO full_one VALUES (300, 1, 'was there', 'x')});
like(run_ddl('BEGIN; ALTER TABLE whole ATTACH PARTITION full_one FOR VALUES FROM (300) TO (400); ROLLBACK'), qr/WARNING:  trucks that read this table cannot go on\nDETAIL:  Truck "all_of_it": partition public\.full_one of input table public\.whole had rows before its changes could be read\.\n/, 'a table with rows is attached: a warning that says whom it costs, and why');
all_same('the warning is heeded');
like(run_ddl('ALTER TABLE whole ATTACH PARTITION full_one FOR VALUES FROM (300) TO (400)'), qr/WARNING/, 'it is attached all the same');
becomes($_, 'lost', qr/partition public\.full_one of input table public\.whole had rows before its changes could be read\nHINT: SELECT trucker\.resync/, 'a table with rows') foreach @trucks;
same_copy('part', 'a table with rows beside it', '"W 2"');
sql(q{UPDATE whole SET v = 'followed' WHERE id = 200; INSERT INTO whole VALUES (398, 1, 'followed', 'x')});
ok(caught_up($node, 'no_load'), 'a truck that loads no rows needs none');
sql(q{INSERT INTO no_load_copy SELECT id, k, v, big FROM whole WHERE id = 300});
same_copy('no_load', 'attached with rows');
drop_truck('no_load');
sql(map { "TRUNCATE ${_}_copy; SELECT trucker.resync('$_'); SELECT trucker.start('$_')" } @trucks);
all_same('loaded anew after ATTACH');

like(run_ddl('ALTER TABLE w1 REPLICA IDENTITY NOTHING'), qr/WARNING/, 'a partition loses its replica identity: a warning');
becomes($_, 'lost', qr/partition public\.w1 of input table public\.whole has lost its replica identity/, 'replica identity') foreach @trucks;
sql('ALTER TABLE w1 REPLICA IDENTITY DEFAULT', map { "TRUNCATE ${_}_copy; SELECT trucker.resync('$_'); SELECT trucker.start('$_')" } @trucks);
all_same('with it again');

# A partition that is made without the identity that the others have.
sql(q{CREATE TABLE bare (id int, k int, v text, big text) PARTITION BY RANGE (id);
	CREATE TABLE b1 PARTITION OF bare FOR VALUES FROM (0) TO (100); ALTER TABLE b1 REPLICA IDENTITY FULL}, mirror('bare', 'bare'));
wait_state($node, 'bare', 'streaming');
like(run_ddl('CREATE TABLE b2 PARTITION OF bare FOR VALUES FROM (100) TO (200)'),
	qr/WARNING:  partition public\.b2 of input table public\.bare has no replica identity\n.*HINT:  ALTER TABLE public\.b2 REPLICA IDENTITY FULL;/s, 'a new partition without a replica identity: a warning');
becomes('bare', 'retrying', qr/partitions of table public\.bare have no replica identity.*HINT: .*ALTER TABLE public\.b2 REPLICA IDENTITY FULL;/s, 'a partition without a replica identity');
is(run_ddl(q{ALTER TABLE b2 REPLICA IDENTITY FULL; INSERT INTO bare VALUES (100, 1, 'a', 'b'), (1, 1, 'a', 'b'); UPDATE bare SET v = 'c'}), '', 'it is given one');
same_copy('bare', 'a partition that has been given a replica identity', 'bare');
unlike(run_ddl(q{BEGIN; CREATE TABLE b3 PARTITION OF bare FOR VALUES FROM (200) TO (300); ALTER TABLE b3 REPLICA IDENTITY FULL; INSERT INTO b3 VALUES (200, 1, 'a', 'b'); UPDATE b3 SET v = 'x'; COMMIT}),
	qr/failed|cannot go on/, 'the same in one transaction');
same_copy('bare', 'made whole in one transaction', 'bare');
like(run_ddl(q{CREATE TABLE b4 PARTITION OF bare FOR VALUES FROM (300) TO (400); INSERT INTO b4 VALUES (300, 1, 'a', 'b'); UPDATE b4 SET v = 'x'; ALTER TABLE b4 REPLICA IDENTITY FULL}),
	qr/cannot go on/, 'too late: it has rows');
becomes('bare', 'lost', qr/partition public\.b4 of input table public\.bare had rows before its changes could be read/, 'a replica identity that comes too late');
sql(q{TRUNCATE bare_copy; SELECT trucker.resync('bare'); SELECT trucker.start('bare')});
same_copy('bare', 'loaded anew', 'bare');
like(run_ddl('CREATE FOREIGN TABLE far PARTITION OF bare FOR VALUES FROM (900) TO (910) SERVER elsewhere'), qr/WARNING/, 'a foreign table as new partition: a warning');
becomes('bare', 'lost', qr/partition public\.far of input table public\.bare is a foreign table/, 'a foreign table');
sql('DROP FOREIGN TABLE far', q{TRUNCATE bare_copy; SELECT trucker.resync('bare'); SELECT trucker.start('bare')});
same_copy('bare', 'without it', 'bare');
drop_truck('bare');

# A partitioned table is added to a truck, and loaded alone.
sql(q{CREATE TABLE adds (id int, k int, v text, big text, PRIMARY KEY (id, k)); INSERT INTO adds VALUES (-1, 1, 'a', 'b')}, mirror('adds', 'adds'));
wait_state($node, 'adds', 'streaming');
sql(q{SELECT trucker.alter_truck('adds', '{adds, whole}')}, q{UPDATE whole SET v = v || '*' WHERE id % 9 = 0}, 'CREATE TABLE w7 PARTITION OF whole FOR VALUES FROM (700) TO (800)', q{INSERT INTO whole VALUES (700, 1, 'new', 'x')});
same_copy('adds', 'a partitioned table is added', '(SELECT id, k, v, big FROM whole UNION ALL TABLE adds) AS x');
sql(q{UPDATE whole SET v = 'seven' WHERE id = 700; UPDATE adds SET v = 'aa'});
same_copy('adds', 'and followed', '(SELECT id, k, v, big FROM whole UNION ALL TABLE adds) AS x');
drop_truck('adds');

# Inheritance is something else: a table's own rows, and no others.
sql(q{CREATE TABLE parent (id int, k int, v text, big text, PRIMARY KEY (id, k)); CREATE TABLE child () INHERITS (parent);
	INSERT INTO parent VALUES (1, 1, 'parent', 'x'); INSERT INTO child VALUES (2, 1, 'child', 'x')}, mirror('parent', 'parent'));
wait_state($node, 'parent', 'streaming');
sql(q{UPDATE parent SET v = v || '+'; INSERT INTO child VALUES (3, 1, 'child', 'x'); INSERT INTO parent VALUES (4, 1, 'parent', 'x')});
same_copy('parent', 'inheritance', 'ONLY parent');
drop_truck('parent');

###
### TRUNCATE
###
sql(q{CREATE TABLE t (id int, k int, v text, big text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);
	CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id); CREATE TABLE t2a PARTITION OF t2 DEFAULT; INSERT INTO t SELECT i, 1, 'v', 'b' FROM generate_series(0, 199) i},
	mirror('t_error', 't'), mirror('t_ignore', 't', '{"on_truncate": "ignore"}'), mirror('t_run', 't', q({"on_truncate": "run", "truncate_sql": "INSERT INTO t_run_seen VALUES ($$truncated$$, NULL); DELETE FROM t_run_copy"})));
wait_state($node, $_, 'streaming') foreach qw(t_error t_ignore t_run);
sql(q{BEGIN; INSERT INTO t VALUES (50, 2, 'before', ''); TRUNCATE t; INSERT INTO t VALUES (50, 3, 'after', 'x'), (150, 3, 'after', 'y'); COMMIT});
becomes('t_error', 'retrying', qr/input table public\.t has been truncated/, 'TRUNCATE of the table');
ok(caught_up($node, 't_ignore'), 'passed over');
is(sql('SELECT count(*) FROM t_ignore_copy'), '203', 'with its rows');
same_copy('t_run', 'TRUNCATE of the table', 't');
is(sql(q{SELECT count(*) FROM t_run_seen WHERE tab = 'truncated'}), '1', 'truncate_sql has run once');
sql(q{INSERT INTO t VALUES (151, 3, 'x', 'y'); TRUNCATE t2});
becomes('t_run', 'retrying', qr/partition public\.t2(?:a)? of input table public\.t has been truncated.*HINT/s, 'TRUNCATE of a partition');
sql(q{SELECT trucker.stop('t_run'); TRUNCATE t_run_copy; SELECT trucker.resync('t_run'); SELECT trucker.start('t_run')});
same_copy('t_run', 'loaded anew', 't');
drop_truck($_) foreach qw(t_error t_ignore t_run);

unlike(slurp_file($node->logfile), qr/\b(PANIC|TRAP)\b|terminated by signal/, 'no process has crashed');
done_testing();
