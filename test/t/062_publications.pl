# Publications that pgoutput reads: what they hold, that they go when nobody needs them;
# and that they never make a statement of the application fail.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('publications', conf => "trucker.output_plugin = pgoutput\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# What is published, with the trucks for which it is.
sub published
{
	return sql(q{SELECT string_agg(format('%s %s: %s', r.prrelid::regclass, CASE WHEN p.pubupdate THEN 'all' ELSE 'inserts' END,
		(SELECT array_to_string(v.trucks, ' ') FROM trucker.publications v WHERE v.input_table = r.prrelid)), ', ' ORDER BY r.prrelid::regclass::text COLLATE "C")
		FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname LIKE 'trucker\_%'});
}

sub create_mirror
{
	my ($truck, $tables, $more) = @_;
	my $options = '"reset_sql": "DELETE FROM log WHERE truck = ' . qq('$truck'") . ($more ? ", $more" : '');

	sql(qq{SELECT trucker.create_truck('$truck', '{$tables}',
		\$\$INSERT INTO log SELECT '$truck', meta__operation, coalesce(r.id, r.old__id) FROM r\$\$, options => '{@{[ $options =~ s/'/''/gr ]}}')});
	return;
}

# Before changes whose log is looked at: what the truck has yet to write about earlier ones must not come
# in between.
sub forget_log
{
	my ($truck) = @_;

	caught_up($node, $truck) or die "truck $truck does not catch up";
	sql("DELETE FROM log WHERE truck = '$truck'");
	return;
}

sub log_of
{
	my ($truck) = @_;

	ok(caught_up($node, $truck), "truck $truck has caught up");
	return sql(qq{WITH l AS (DELETE FROM log WHERE truck = '$truck' RETURNING *) SELECT string_agg(op || ' ' || id, ', ' ORDER BY op, id) FROM l});
}

# ----
# What is published
# ----

sql(q{
CREATE TABLE log (truck text, op text, id int);
CREATE TABLE a (id int PRIMARY KEY, v text);
CREATE TABLE b (id int PRIMARY KEY, v text);
CREATE TABLE keyless (id int, v text);
CREATE TABLE "Ünd" (id int, v text);
ALTER TABLE "Ünd" REPLICA IDENTITY FULL;
CREATE TABLE parted (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE unread (id int PRIMARY KEY);
INSERT INTO a VALUES (1, 'one');
});
create_mirror('one', 'a, b');
create_mirror('two', 'a, "Ünd", parted');
create_mirror('three', 'keyless', '"inserts_only": true');
is(published(), '', 'nothing is published before a truck starts');
sql("SELECT trucker.start()");
ok(wait_state($node, $_, 'streaming'), "truck $_ streams") foreach qw(one two three);
is(published(), '"Ünd" all: two, a all: one two, b all: one, keyless inserts: three, parted_1 all: ', 'the inputs are published, and no other tables');
is(sql("SELECT bool_or(puballtables) FROM pg_publication"), 'f', 'and no publication is for all tables');
is(sql("SELECT string_agg(DISTINCT plugin, ' ') FROM pg_replication_slots"), 'pgoutput', 'slots are read by pgoutput');
is(sql("SELECT count(*) FROM trucker.publications WHERE state NOT IN ('published', 'for slots that are made from now on; for others when the transactions have ended that ran when it was added')"),
	0, 'the view says nothing else');

is(log_of('one'), 'insert 1', 'backfill');
forget_log('one');
sql(q{INSERT INTO a VALUES (2, 'two'); UPDATE a SET v = 'x'; UPDATE b SET v = 'x'; DELETE FROM a WHERE id = 1; INSERT INTO unread VALUES (1)});
is(log_of('one'), 'delete 1, insert 2, update 1, update 2', 'changes');
forget_log('two');
sql(q{INSERT INTO parted VALUES (1, 1, 'x'); UPDATE parted SET v = 'y'; INSERT INTO "Ünd" VALUES (7, NULL); UPDATE "Ünd" SET id = 8});
is(log_of('two'), 'insert 1, insert 7, update 1, update 8', 'changes of a partition, and of a table with REPLICA IDENTITY FULL');
sql(q{BEGIN; CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3); INSERT INTO parted VALUES (3, 3, 'x'); COMMIT; UPDATE parted SET v = 'z' WHERE id = 3});
is(log_of('two'), 'insert 3, update 3', 'changes of a new partition');
sql(q{DROP TABLE parted_3});
sql(q{INSERT INTO keyless VALUES (1), (2); UPDATE keyless SET v = 'x'; DELETE FROM keyless WHERE id = 2});
is(log_of('three'), 'insert 1, insert 2', 'of a table without a replica identity updates are possible, and only inserts are published');

sql(q{ALTER TABLE keyless ADD PRIMARY KEY (id)});
is(published() =~ s/.*(keyless all).*/$1/r, 'keyless all', 'when it has got one, all changes are published');
sql(q{SELECT trucker.alter_truck('three', options => '{"inserts_only": false}')});
ok(caught_up($node, 'three'), 'the truck is altered to read them');
sql(q{UPDATE keyless SET v = 'y'});
is(log_of('three'), 'update 1', 'and does');
sql(q{SELECT trucker.alter_truck('three', options => '{"inserts_only": true}'); ALTER TABLE keyless DROP CONSTRAINT keyless_pkey; UPDATE keyless SET v = 'z'});
is(published() =~ s/.*(keyless inserts).*/$1/r, 'keyless inserts', 'when it has lost it, only inserts are');

# ----
# Tables that are added, and not read any more
# ----

sql("SELECT trucker.alter_truck('one', '{b, unread}')");
ok(caught_up($node, 'one'), 'a table is added');
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM trucker.publications WHERE input_table = 'unread'::regclass)}), 'it is published');
forget_log('one');
sql("INSERT INTO unread VALUES (5); INSERT INTO a VALUES (5); INSERT INTO b VALUES (5); UPDATE b SET v = '' WHERE id = 5");
is(log_of('one'), 'insert 5, insert 5, update 5', 'and read');
sql("SELECT trucker.alter_truck('two', '{parted}')");
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_publication_rel WHERE prrelid IN ('a'::regclass, '"Ünd"'::regclass)}), 'a table that nobody reads is taken out');
is(published(), 'b all: one, keyless inserts: three, parted_1 all: , unread all: one', 'and "Ünd", which nobody reads either, but no other one');

# ----
# DDL of the application
# ----

sql(q{ALTER TABLE b REPLICA IDENTITY NOTHING; UPDATE b SET v = 'without'});
pass('a table loses its replica identity: updates go on');
ok(wait_state($node, 'one', 'lost'), 'its truck is lost');
is(sql(q{SELECT published || ': ' || state FROM trucker.publications WHERE input_table = 'b'::regclass}), 'insert, truncate: it has lost its replica identity: trucks that read updates and deletes are lost', 'the view tells');
sql(q{ALTER TABLE b REPLICA IDENTITY DEFAULT; SELECT trucker.resync('one'); SELECT trucker.start('one')});
ok(wait_state($node, 'one', 'streaming'), 'with an identity again, the truck can be loaded anew');
forget_log('one');
sql(q{UPDATE b SET v = 'with' WHERE id = 5});
is(log_of('one'), 'update 5', 'and gets updates');

sql(q{BEGIN; ALTER TABLE b DROP CONSTRAINT b_pkey; UPDATE b SET v = 'rolled back'; ROLLBACK; UPDATE b SET v = 'again' WHERE id = 5});
is(log_of('one'), 'update 5', 'what was rolled back was not published');

sql(q{CREATE TABLE parted_2 (v text, id int NOT NULL, part int NOT NULL); ALTER TABLE parted_2 REPLICA IDENTITY NOTHING;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2); INSERT INTO parted VALUES (1, 2, 'x'); UPDATE parted SET v = 'z'});
pass('a partition without a replica identity: updates of it, and of the others, go on');

sql(q{ALTER TABLE unread ADD v int; ALTER TABLE unread DROP COLUMN v; ALTER TABLE unread ALTER id TYPE bigint; ALTER TABLE unread RENAME TO unread_2});
forget_log('one');
sql(q{INSERT INTO unread_2 VALUES (9); DELETE FROM unread_2 WHERE id = 9});
is(log_of('one'), 'delete 9, insert 9', 'columns that are added, dropped, altered; another name');
sql(q{ALTER TABLE unread_2 SET UNLOGGED; UPDATE unread_2 SET id = id});
pass('a table becomes unlogged');
ok(wait_state($node, 'one', 'lost'), 'its truck is lost');
sql(q{DROP TABLE keyless});
ok(wait_state($node, 'three', 'lost'), 'a table is dropped');

# ----
# Whoever takes from them what trucks need
# ----

my $name = sql(q{SELECT DISTINCT publication FROM trucker.publications WHERE input_table = 'parted'::regclass});
like(psql_err($node, "ALTER PUBLICATION $name DROP TABLE parted"), qr/ERROR:  55006: publication "$name" belongs to trucker\n.*DETAIL:.*\nHINT:  The view trucker\.publications/s, 'taking a table out is refused');
like(psql_err($node, "ALTER PUBLICATION $name SET (publish = 'insert')"), qr/ERROR:  55006/, 'and publishing less');
like(psql_err($node, "ALTER PUBLICATION $name RENAME TO mine"), qr/ERROR:  55006/, 'and renaming');
like(psql_err($node, "ALTER PUBLICATION $name OWNER TO CURRENT_USER"), qr/ERROR:  55006/, 'and another owner');
like(psql_err($node, "DROP PUBLICATION $name"), qr/ERROR:  55006/, 'and dropping');
sql(q{CREATE PUBLICATION mine FOR ALL TABLES; ALTER PUBLICATION mine SET (publish = 'insert'); DROP PUBLICATION mine});
pass('others can do with theirs what they like');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'a dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $dump, $node->connstr('restored') ], 'can be restored');
$node->safe_psql('restored', q{UPDATE parted SET v = ''; ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE parted REPLICA IDENTITY NOTHING});
pass('there, too, nothing stands in the way of DDL');
$node->restart;
ok($node->poll_query_until('restored', 'SELECT count(*) = 0 FROM pg_publication'), 'there the publications go, as no stream needs them');

# ----
# The end
# ----

sql("SELECT trucker.drop_truck(truck) FROM trucker.status");
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_publication"), 'publications go with the last truck');
is(sql("SELECT count(*) FROM trucker.published_table"), 0, 'with what is known of them');
create_mirror('last', 'a');
sql("SELECT trucker.start('last')");
ok(wait_state($node, 'last', 'streaming'), 'a truck streams');
sql("DROP EXTENSION trucker");
is(sql("SELECT count(*) FROM pg_publication"), 0, 'or with the extension');

done_testing();
