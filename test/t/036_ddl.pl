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
	my $id = 1000 + ($. // 0) + int(rand(1000000));

	sql("INSERT INTO $table VALUES ($id, 'before')");
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $ddl);
	is("$rc$stderr", '0', "$what: without a warning");
	$table = $new;
	sql("UPDATE $table SET v = 'after' WHERE id = $id", "INSERT INTO $table VALUES (-$id, 'after')", "DELETE FROM $table WHERE id = 1", "INSERT INTO $table VALUES (1, '$id')");
	ok(caught_up($node, 'one'), "$what: the truck goes on");
	same($node, "SELECT id, v FROM $table", 'TABLE one_copy', "$what: each change is there once");
}
is(worker('one'), $pid, 'all by the same worker');

done_testing();
