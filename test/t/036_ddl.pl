# Input tables are renamed, moved, swapped and altered while a truck reads them, or while
# its changes wait: each change is read under the name that its table had then, and
# what another table wrote under that name is not taken for the input's.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('ddl', conf => "max_wal_senders = 40\nmax_replication_slots = 40\nmax_worker_processes = 60\n");

sub sql
{
	return $node->safe_psql('postgres', join ";\n", @_);
}

# A truck that copies a table with columns id and v, and keeps a log of what came.
sub mirror
{
	my ($truck, $table, $options) = @_;

	$options //= '{}';
	return qq{CREATE TABLE ${truck}_copy (id int PRIMARY KEY, v text);
		SELECT trucker.create_truck('$truck', '{$table}', \$\$
			DELETE FROM ${truck}_copy AS d USING r WHERE meta__operation <> 'insert' AND d.id = old__id;
			INSERT INTO ${truck}_copy SELECT id, v FROM r WHERE meta__operation <> 'delete'\$\$, options => '$options');
		SELECT trucker.start('$truck')};
}

sub worker
{
	return worker_pid($node, @_);
}

###
### One truck that streams
###
sql('CREATE TABLE a (id int PRIMARY KEY, v text)', q{INSERT INTO a VALUES (1, 'one')}, mirror('one', 'a'));
ok(wait_state($node, 'one', 'streaming'), 'a truck streams');
my $pid = worker('one');
my $table = 'public.a';
my $last_id = 100_000;

foreach (
	[ 'renamed', 'public.b', 'ALTER TABLE a RENAME TO b' ],
	[ 'moved to another schema', 'elsewhere.b', 'CREATE SCHEMA elsewhere; ALTER TABLE b SET SCHEMA elsewhere' ],
	[ 'its schema renamed', 'nowhere.b', 'ALTER SCHEMA elsewhere RENAME TO nowhere' ],
	[ 'renamed twice and back in a transaction', 'nowhere.b', q{BEGIN; INSERT INTO nowhere.b VALUES (100, 'before');
		ALTER TABLE nowhere.b RENAME TO c; INSERT INTO nowhere.c VALUES (101, 'c'); UPDATE nowhere.c SET v = v || '-c' WHERE id = 100;
		ALTER TABLE nowhere.c RENAME TO d; INSERT INTO nowhere.d VALUES (102, 'd'); ALTER TABLE nowhere.d RENAME TO b;
		INSERT INTO nowhere.b VALUES (103, 'back'); COMMIT} ],
	[ 'another table under its old name', 'nowhere.q', q{ALTER TABLE nowhere.b RENAME TO q; CREATE TABLE nowhere.b (id int PRIMARY KEY, v text);
		INSERT INTO nowhere.b VALUES (200, 'not ours'); INSERT INTO nowhere.q VALUES (201, 'ours')} ],
	[ 'swapped with that table', 'nowhere.b', q{BEGIN; ALTER TABLE nowhere.q RENAME TO x; INSERT INTO nowhere.b VALUES (210, 'not ours');
		ALTER TABLE nowhere.b RENAME TO q; INSERT INTO nowhere.q VALUES (211, 'not ours'), (212, 'neither'); INSERT INTO nowhere.x VALUES (213, 'ours');
		ALTER TABLE nowhere.x RENAME TO b; INSERT INTO nowhere.b VALUES (214, 'ours'); COMMIT; INSERT INTO nowhere.q VALUES (215, 'not ours')} ],
	[ 'schemas swapped', 'other.b', q{CREATE SCHEMA other; CREATE TABLE other.b (id int PRIMARY KEY, v text);
		BEGIN; INSERT INTO other.b VALUES (300, 'not ours'); ALTER SCHEMA nowhere RENAME TO tmp; INSERT INTO tmp.b VALUES (301, 'ours');
		ALTER SCHEMA other RENAME TO nowhere; INSERT INTO nowhere.b VALUES (302, 'not ours'); ALTER SCHEMA tmp RENAME TO other;
		INSERT INTO other.b VALUES (303, 'ours'); COMMIT; INSERT INTO nowhere.b VALUES (304, 'not ours')} ],
	[ 'renamed in a savepoint that is rolled back', 'other.b', q{BEGIN; SAVEPOINT s; ALTER TABLE other.b RENAME TO u; INSERT INTO other.u VALUES (400, 'never');
		ROLLBACK TO s; INSERT INTO other.b VALUES (401, 'kept'); COMMIT} ],
	[ 'renamed by a function with an exception block', 'other.f', q{DO $$ BEGIN
		BEGIN ALTER TABLE other.b RENAME TO w; INSERT INTO other.w VALUES (402, 'never'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END;
		INSERT INTO other.b VALUES (403, 'kept'); CREATE TEMP TABLE something (i int); INSERT INTO other.b VALUES (404, 'kept');
		ALTER TABLE other.b RENAME TO f; INSERT INTO other.f VALUES (405, 'kept'); END $$} ],
	[ 'renamed with quotes and dots', q{public."A.b, ""c"" *"}, q{ALTER TABLE other.f RENAME TO "A.b, ""c"" *"; ALTER TABLE other."A.b, ""c"" *" SET SCHEMA public} ],
	[ 'columns renamed with it', 'public.a', q{BEGIN; ALTER TABLE public."A.b, ""c"" *" RENAME TO a; ALTER TABLE a ADD x int; INSERT INTO a VALUES (500, 'x', 1); ALTER TABLE a DROP x; COMMIT} ],
  )
{
	my ($what, $new, $ddl) = @$_;
	my $id = ++$last_id;

	sql("INSERT INTO $table VALUES ($id, 'before')");
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $ddl);
	is("$rc$stderr", '0', "$what: without a warning");
	$table = $new;
	sql("UPDATE $table SET v = 'after' WHERE id = $id", "INSERT INTO $table VALUES (-$id, 'after')", "DELETE FROM $table WHERE id = 1", "INSERT INTO $table VALUES (1, '$id')");
	ok(caught_up($node, 'one'), "$what: the truck goes on");
	same($node, "SELECT id, v FROM $table", 'TABLE one_copy', "$what: each change is there once");
}
is(worker('one'), $pid, 'all by the same worker');

# What has been read need not be remembered.
my $rows = 0;
for my $i (1 .. 50)
{
	sql("ALTER TABLE a RENAME TO b; INSERT INTO b VALUES (@{[ 9000 + $i ]}, 'x'); ALTER TABLE b RENAME TO a; CHECKPOINT");
	caught_up($node, 'one');
	$rows = sql('SELECT count(*) FROM trucker.input_table');
	last if $i > 3 && $rows < 6;
}
cmp_ok($rows, '<', 6, 'old names are forgotten');
same($node, 'TABLE a', 'TABLE one_copy', 'and nothing with them');

###
### Several trucks, changes that wait, and an open transaction while a schema is renamed
###
sql(q{CREATE SCHEMA s1; CREATE TABLE s1.t (id int PRIMARY KEY, v text); INSERT INTO s1.t VALUES (1, 'one')},
	mirror('two', 's1.t'), mirror('three', 's1.t', '{"changes": "net"}'), mirror('alone', 's1.t', '{"stream": "alone"}'));
my @trucks = qw(two three alone);
wait_state($node, $_, 'streaming') foreach @trucks;

sub all_same
{
	my ($what, $table) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck (@trucks)
	{
		ok(caught_up($node, $truck), "$what: $truck goes on") && same($node, "TABLE $table", "TABLE ${truck}_copy", "$what: $truck is right");
	}
	return;
}

foreach my $waits (0, 1)
{
	my $what = $waits ? 'a schema is renamed, all trucks rest' : 'a schema is renamed';
	my $writer = $node->background_psql('postgres', on_error_stop => 1);
	my $renamer = $node->background_psql('postgres', on_error_stop => 1);

	if ($waits)
	{
		sql("SELECT trucker.stop('$_')") foreach @trucks;
		wait_state($node, $_, 'stopped') foreach @trucks;
	}
	# who renames a schema waits until nobody writes its input tables
	$writer->query_safe(q{BEGIN; INSERT INTO s1.t VALUES (10, 'a'), (11, 'b')});
	sql(q{INSERT INTO s1.t VALUES (30, 'c')});
	$renamer->query_safe(q{BEGIN; INSERT INTO s1.t VALUES (20, 'a')});
	$renamer->query_until(qr/renames/, "\\echo renames\nALTER SCHEMA s1 RENAME TO s2;\n\\echo renamed\n");
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'ALTER SCHEMA s1%' AND wait_event_type = 'Lock'}),
		"$what: it waits for whoever writes its tables");
	$writer->query_safe(q{INSERT INTO s1.t VALUES (12, 'c'); UPDATE s1.t SET v = v || '!' WHERE id = 10; COMMIT});
	$renamer->query_until(qr/renamed/, '');
	$renamer->query_safe(q{INSERT INTO s2.t VALUES (21, 'b');
		CREATE SCHEMA s1; CREATE TABLE s1.t (id int PRIMARY KEY, v text); INSERT INTO s1.t VALUES (90, 'not ours')});
	$renamer->query_safe(q{INSERT INTO s2.t VALUES (22, 'c'); COMMIT});
	$writer->query_safe(q{BEGIN; INSERT INTO s2.t VALUES (13, 'd'); INSERT INTO s1.t VALUES (91, 'not ours'); DELETE FROM s2.t WHERE id = 11; COMMIT});
	sql(q{INSERT INTO s2.t VALUES (31, 'd'); INSERT INTO s1.t VALUES (92, 'not ours')});
	$_->quit foreach $writer, $renamer;
	sql("SELECT trucker.start('$_')") foreach $waits ? @trucks : ();
	all_same($what, 's2.t');
	is(sql('SELECT count(*) FROM s2.t'), '9', "$what: nothing is missing in the source");
	sql('DROP SCHEMA s1 CASCADE; DELETE FROM s2.t WHERE id > 1; ALTER SCHEMA s2 RENAME TO s1');
	all_same("$what, and back", 's1.t');
}

# Many renames, and changes in between, while they rest.
sql("SELECT trucker.stop('$_')") foreach @trucks;
sql(map { my $to = $_ % 2 ? 't_' : 't'; my $from = $_ % 2 ? 't' : 't_'; ("INSERT INTO s1.$from VALUES ($_ + 100, 'a')", "ALTER TABLE s1.$from RENAME TO $to", "UPDATE s1.$to SET v = v || $_") } 1 .. 20);
sql("SELECT trucker.start('$_')") foreach @trucks;
all_same('20 renames while they rest', 's1.t');

# What alter_truck() adds is followed as well, also when it is renamed at once.
sql(q{CREATE TABLE more (id int PRIMARY KEY, v text); INSERT INTO more VALUES (-1, 'm')});
sql(q{SELECT trucker.alter_truck('two', '{s1.t, more}'); ALTER TABLE more RENAME TO much; INSERT INTO much VALUES (-2, 'm')});
ok(caught_up($node, 'two'), 'a table is added and renamed');
sql(q{ALTER TABLE much RENAME TO more; UPDATE more SET v = 'n'; INSERT INTO more VALUES (-3, 'm')});
ok(caught_up($node, 'two'), 'it is renamed again');
same($node, 'TABLE s1.t UNION ALL TABLE more', 'TABLE two_copy', 'with all its changes');

# A truck's own SQL renames what others read; its changes need not be decoded, this must be.
sql(q{CREATE TABLE orders (n int PRIMARY KEY); CREATE TABLE done (n int);
	CREATE FUNCTION rename(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		EXECUTE format('ALTER TABLE %s RENAME TO t%s', (SELECT oid::regclass FROM pg_class WHERE relnamespace = 's1'::regnamespace AND relkind = 'r'), n);
		RETURN n; END $$;
	SELECT trucker.create_truck('renamer', '{orders}', 'INSERT INTO done SELECT rename(n) FROM r', options => '{"stream": "renamer"}');
	SELECT trucker.start('renamer')});
wait_state($node, 'renamer', 'streaming');
sql(q{INSERT INTO s1.t VALUES (200, 'x'); INSERT INTO orders VALUES (1)});
ok(caught_up($node, 'renamer'), 'a truck renames a table');
sql(q{INSERT INTO s1.t1 VALUES (201, 'x')});
@trucks = qw(three alone);
all_same('renamed by a truck', 's1.t1');

# A prepared transaction.
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->restart;
sql(q{BEGIN; INSERT INTO s1.t1 VALUES (300, 'a'); ALTER TABLE s1.t1 RENAME TO t; INSERT INTO s1.t VALUES (301, 'b'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'; INSERT INTO s1.t VALUES (302, 'c')});
all_same('renamed by a prepared transaction', 's1.t');

# An event trigger that writes the table that has just been renamed.
sql(q{CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
		IF to_regclass('s1.t2') IS NOT NULL THEN INSERT INTO s1.t2 VALUES (400, 'by the trigger') ON CONFLICT DO NOTHING; END IF; END $$;
	CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();
	ALTER TABLE s1.t RENAME TO t2; DROP EVENT TRIGGER on_ddl});
all_same('written by an event trigger', 's1.t2');
is(sql('SELECT v FROM s1.t2 WHERE id = 400'), 'by the trigger', 'the trigger has written it');

unlike(slurp_file($node->logfile), qr/\b(PANIC|TRAP)\b|terminated by signal/, 'no process has crashed');
done_testing();
