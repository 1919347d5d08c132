# Whatever ALTER TABLE does to columns while the truck runs or while its changes wait: a
# change is decoded with the columns of its time and applied with those of now. Each value
# must reach the column that it was written to, or the truck must stop; a value that the
# change does not carry is never NULL.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ColumnsTest;
use TruckerTest;

columns_node('columns_altered');

###
### ALTER TABLE with changes pending, and in the middle of a transaction
###

# A change as one line: its operation and its columns by name, new values as
# name=value and old values as old__name=value.
sub line_sql
{
	my ($table, $reads) = @_;
	return qq{INSERT INTO $table (line) SELECT meta__operation || ' ' ||
		(SELECT string_agg(key || '=' || coalesce(value, 'NULL'), ' ' ORDER BY key) FROM jsonb_each_text(to_jsonb(row_of_r)) WHERE key !~ '^meta__'
		AND (key ~ '^old__' OR meta__operation <> 'delete') AND (key !~ '^old__' OR meta__operation <> 'insert'))
		FROM (SELECT $reads FROM r) AS row_of_r ORDER BY meta__seq};
}

# name => [ columns, columns of r that are read (r.*: replica identity FULL), changes
# that are pending, ALTERs after them, what becomes of it ].  The latter is the lines
# of all changes, or a pattern of the lines or the error.  Each table begins with
# (1, 'a'); %t is its name.
my $mine = 'id, v, old__id, meta__operation, meta__seq';
my @alters = (
	added => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); UPDATE %t SET v = 'c' WHERE id = 2; DELETE FROM %t WHERE id = 1},
		'ALTER TABLE %t ADD COLUMN n int',
		"insert id=2 n=NULL v=b\nupdate id=2 n=NULL old__id=2 old__n=NULL old__v=b v=c\ndelete old__id=1 old__n=NULL old__v=a"
	],
	added_default => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); DELETE FROM %t WHERE id = 1},
		q{ALTER TABLE %t ADD COLUMN n int DEFAULT 5, ADD COLUMN t text DEFAULT 'x' NOT NULL, ADD COLUMN l text NOT NULL DEFAULT repeat('y', 5)},
		"insert id=2 l=yyyyy n=5 t=x v=b\ndelete old__id=1 old__l=yyyyy old__n=5 old__t=x old__v=a"
	],
	added_default_changed => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n int DEFAULT 5; ALTER TABLE %t ALTER COLUMN n SET DEFAULT 6; INSERT INTO %t VALUES (3, 'c'); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT; INSERT INTO %t VALUES (4, 'd')},
		"insert id=2 n=5 v=b\ninsert id=3 n=6 v=c\ninsert id=4 n=NULL v=d"
	],
	added_volatile => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 DEFAULT random()}, qr/no value for column "n".*resync/s
	],
	added_volatile_dropped_default => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 NOT NULL DEFAULT random(); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT}, qr/column "n"/
	],
	added_volatile_nullable => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 DEFAULT random(); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT}, qr/no value for column "n".*resync/s
	],
	added_volatile_in_one => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n float8 DEFAULT random(), ALTER COLUMN n SET DEFAULT NULL}, qr/no value for column "n".*resync/s
	],
	added_volatile_by_function => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{DO $$ BEGIN ALTER TABLE %t ADD COLUMN n float8 DEFAULT random(); ALTER TABLE %t ALTER COLUMN n DROP DEFAULT; END $$}, qr/no value for column "n".*resync/s
	],
	added_by_domain => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER DOMAIN %t_domain SET DEFAULT floor(random() * 10); ALTER TABLE %t ADD COLUMN n %t_domain; ALTER DOMAIN %t_domain DROP DEFAULT},
		qr/no value for column "n".*resync/s
	],
	added_default_rewritten => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n int DEFAULT 5; ALTER TABLE %t ALTER COLUMN n DROP DEFAULT; VACUUM FULL %t}, qr/no value for column "n".*resync/s
	],
	added_default_later => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); UPDATE %t SET v = 'c' WHERE id = 2},
		q{ALTER TABLE %t ADD COLUMN n int; ALTER TABLE %t ALTER COLUMN n SET DEFAULT 7; UPDATE %t SET n = 8 WHERE id = 2},
		"insert id=2 n=NULL v=b\nupdate id=2 n=NULL old__id=2 old__n=NULL old__v=b v=c\nupdate id=2 n=8 old__id=2 old__n=NULL old__v=c v=c"
	],
	added_generated => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n text GENERATED ALWAYS AS (v || v) STORED}, qr/no value for column "n".*resync/s
	],
	added_identity => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b')},
		q{ALTER TABLE %t ADD COLUMN n int GENERATED ALWAYS AS IDENTITY}, qr/column "n"/
	],
	added_text_again => [
		'id int PRIMARY KEY, v text, n text', "n, $mine", q{ALTER TABLE %t DROP COLUMN n; UPDATE %t SET v = 'b'},
		q{ALTER TABLE %t ADD COLUMN n text DEFAULT 'x'}, 'update id=1 n=x old__id=1 v=b'
	],
	dropped => [
		'id int PRIMARY KEY, v text, w text, x int', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'gone', 7); UPDATE %t SET v = 'c', w = 'gone' WHERE id = 2; DELETE FROM %t WHERE id = 2},
		'ALTER TABLE %t DROP COLUMN w',
		"insert id=2 v=b x=7\nupdate id=2 old__id=2 old__v=b old__x=7 v=c x=7\ndelete old__id=2 old__v=c old__x=7"
	],
	dropped_and_added => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'gone'); UPDATE %t SET v = 'c' WHERE id = 2},
		'ALTER TABLE %t DROP COLUMN w, ADD COLUMN w text',
		"insert id=2 v=b w=NULL\nupdate id=2 old__id=2 old__v=b old__w=NULL v=c w=NULL"
	],
	dropped_and_added_delete => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'gone'); DELETE FROM %t WHERE id = 2},
		'ALTER TABLE %t DROP COLUMN w, ADD COLUMN w text',
		"insert id=2 v=b w=NULL\ndelete old__id=2 old__v=b old__w=NULL"
	],
	dropped_with_its_type => [
		'id int PRIMARY KEY, v text, w %t_domain', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 4); DELETE FROM %t WHERE id = 2},
		'DROP DOMAIN %t_domain CASCADE; ALTER TABLE %t RENAME v TO w; DELETE FROM %t',
		"insert id=2 w=b\ndelete old__id=2 old__w=b\ndelete old__id=1 old__w=a"
	],
	renamed => [
		'id int PRIMARY KEY, v text', 'r.*', q{INSERT INTO %t VALUES (2, 'b'); UPDATE %t SET v = 'c' WHERE id = 2},
		'ALTER TABLE %t RENAME v TO w', "insert id=2 w=b\nupdate id=2 old__id=2 old__w=b w=c"
	],
	renamed_delete => [
		'id int PRIMARY KEY, v text', 'r.*', q{DELETE FROM %t WHERE id = 1}, 'ALTER TABLE %t RENAME v TO w',
		'delete old__id=1 old__w=a'
	],
	renamed_key_delete => [
		'id int PRIMARY KEY, v text', 'r.*', q{DELETE FROM %t WHERE id = 1}, 'ALTER TABLE %t RENAME id TO key',
		'delete old__key=1 old__v=a'
	],
	swapped => [
		'id int, v text, k int DEFAULT 0, PRIMARY KEY (id, k)', "k, old__k, $mine", q{INSERT INTO %t VALUES (2, 'b', 7); UPDATE %t SET v = 'c' WHERE k = 7},
		'ALTER TABLE %t RENAME id TO x; ALTER TABLE %t RENAME k TO id; ALTER TABLE %t RENAME x TO k',
		"insert id=7 k=2 v=b\nupdate id=7 k=2 old__id=7 old__k=2 v=c"
	],
	swapped_delete => [
		'id int, v text, k int DEFAULT 0, PRIMARY KEY (id, k)', "k, old__k, $mine", q{DELETE FROM %t},
		'ALTER TABLE %t RENAME id TO x; ALTER TABLE %t RENAME k TO id; ALTER TABLE %t RENAME x TO k',
		'delete old__id=0 old__k=1'
	],
	swapped_thrice => [
		'id int, v text, k int DEFAULT 0, PRIMARY KEY (id, k)', "k, old__k, $mine", join(";\n", q{INSERT INTO %t VALUES (2, 'b', 7), (3, 'c', 8), (4, 'd', 9)},
			map { ("DELETE FROM %t WHERE v = '$_'", 'BEGIN; ALTER TABLE %t RENAME id TO x; ALTER TABLE %t RENAME k TO id; ALTER TABLE %t RENAME x TO k; COMMIT') } qw(a b c)),
		q{DELETE FROM %t}, "insert id=7 k=2 v=b\ninsert id=8 k=3 v=c\ninsert id=9 k=4 v=d\ndelete old__id=0 old__k=1\ndelete old__id=7 old__k=2\ndelete old__id=8 old__k=3\ndelete old__id=9 old__k=4"
	],
	type_wider => [
		'id int PRIMARY KEY, v text, n int, m numeric(10,4)', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 7, 1.25); UPDATE %t SET n = 8 WHERE id = 2},
		'ALTER TABLE %t ALTER id TYPE bigint, ALTER n TYPE text, ALTER v TYPE varchar(100), ALTER m TYPE numeric',
		"insert id=2 m=1.2500 n=7 v=b\nupdate id=2 m=1.2500 n=8 old__id=2 old__m=1.2500 old__n=7 old__v=b v=b"
	],
	type_from_bytea => [
		'id int PRIMARY KEY, v text, w bytea', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE text USING convert_from(w, 'UTF8')}, qr/column "w".*bytea.*resync/s
	],
	type_to_bytea => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{DELETE FROM %t; INSERT INTO %t VALUES (2, 'b', 'abcd')},
		q{ALTER TABLE %t ALTER w TYPE bytea USING convert_to(w, 'UTF8')}, qr/column "w".*bytea.*resync/s
	],
	type_from_domain => [
		'id int PRIMARY KEY, v text, w %t_bytes', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE text USING convert_from(w, 'UTF8'); DROP DOMAIN %t_bytes}, qr/column "w".*bytea.*resync/s
	],
	type_there_and_back => [
		'id int PRIMARY KEY, v text, w bytea', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE text USING 'x'; INSERT INTO %t VALUES (3, 'c', NULL); ALTER TABLE %t ALTER w TYPE bytea USING w::bytea},
		"insert id=2 v=b w=\\x6869\ninsert id=3 v=c w=NULL"
	],
	type_to_domain => [
		'id int PRIMARY KEY, v text, w bytea', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'hi')},
		q{ALTER TABLE %t ALTER w TYPE %t_bytes; INSERT INTO %t VALUES (3, 'c', 'ho')}, "insert id=2 v=b w=\\x6869\ninsert id=3 v=c w=\\x686f"
	],
	type_was_an_enum => [
		'id int PRIMARY KEY, v text, w %t_mood', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'sad')},
		q{ALTER TABLE %t ALTER w TYPE text; DROP TYPE %t_mood}, 'insert id=2 v=b w=sad'
	],
	type_narrower => [
		'id int PRIMARY KEY, v text, w text', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'not a number'); DELETE FROM %t WHERE id = 2},
		'ALTER TABLE %t ALTER w TYPE int USING w::int', qr/22P02: invalid input syntax for type integer.*column "w"/s
	],
	enum_renamed => [
		'id int PRIMARY KEY, v text, w %t_mood', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 'sad')},
		q{ALTER TYPE %t_mood RENAME VALUE 'sad' TO 'blue'}, qr/55000: .*column "w", whose type has been altered since.*resync/s
	],
	domain_narrowed => [
		'id int PRIMARY KEY, v text, w %t_domain', 'r.*', q{INSERT INTO %t VALUES (2, 'b', 5); DELETE FROM %t WHERE w = 5},
		q{ALTER DOMAIN %t_domain ADD CHECK (value < 5)}, qr/23514: value for domain.*column "w"/s
	],
	not_null_since => [
		'id int PRIMARY KEY, v text, n numeric', 'r.*', q{INSERT INTO %t VALUES (2, 'b', NULL); UPDATE %t SET n = 0},
		q{ALTER TABLE %t ALTER n SET NOT NULL}, qr/column "n".*null/s
	],
	primary_key_moved => [
		'id int PRIMARY KEY, v text, k int NOT NULL DEFAULT 9', $mine, q{UPDATE %t SET v = 'b'; DELETE FROM %t},
		'ALTER TABLE %t DROP CONSTRAINT %t_pkey, ADD PRIMARY KEY (k)', qr/does not carry its key column "k".*resync|reads "old__id"/s
	],
	identity_was_default => [
		'id int PRIMARY KEY, v text', 'r.*', q{ALTER TABLE %t REPLICA IDENTITY DEFAULT; UPDATE %t SET id = 5; DELETE FROM %t},
		'ALTER TABLE %t REPLICA IDENTITY FULL', qr/REPLICA IDENTITY FULL|column "v"/
	],
	mixed_in_one_transaction => [
		'id int PRIMARY KEY, v text', 'r.*',
		q{BEGIN; INSERT INTO %t VALUES (2, 'b'); ALTER TABLE %t ADD COLUMN n int DEFAULT 5; UPDATE %t SET n = 6 WHERE id = 1; INSERT INTO %t VALUES (3, 'c');
		ALTER TABLE %t RENAME v TO w; UPDATE %t SET w = 'd' WHERE id = 3; COMMIT}, '',
		"insert id=2 n=5 w=b\nupdate id=1 n=6 old__id=1 old__n=5 old__w=a w=a\ninsert id=3 n=5 w=c\nupdate id=3 n=5 old__id=3 old__n=5 old__w=c w=d"
	],
	rolled_back => [
		'id int PRIMARY KEY, v text', 'r.*',
		q{BEGIN; INSERT INTO %t VALUES (2, 'b'); SAVEPOINT s; ALTER TABLE %t ADD COLUMN n int DEFAULT 5; INSERT INTO %t VALUES (3, 'x'); ROLLBACK TO s; UPDATE %t SET v = 'c' WHERE id = 2; COMMIT}, '',
		"insert id=2 v=b\nupdate id=2 old__id=2 old__v=b v=c"
	],
	rewritten => [
		'id int PRIMARY KEY, gone int, v text', 'r.*', q{ALTER TABLE %t DROP COLUMN gone; INSERT INTO %t VALUES (2, 'b'); VACUUM FULL %t; INSERT INTO %t VALUES (3, 'c'); CLUSTER %t USING %t_pkey; DELETE FROM %t WHERE id = 1}, '',
		"insert id=2 v=b\ninsert id=3 v=c\ndelete old__id=1 old__v=a"
	],
);
my (@alter_names, %alter);
my ($setup, $pending) = ('', '');
while (my ($name, $spec) = splice @alters, 0, 2)
{
	my ($definition, $reads, $changes, $alter, $expected) = map { ref $_ ? $_ : s/%t/al_$name/gr } @$spec;
	my $identity = $reads eq 'r.*' ? 'FULL' : 'DEFAULT';

	# what pgoutput sends is binary, which takes the type; and a NULL of its is no lost NaN
	if (($ENV{TRUCKER_OUTPUT_PLUGIN} // '') eq 'pgoutput')
	{
		$expected = qr/a value is of a type that has been dropped since/ if $name eq 'type_was_an_enum';
		next if $name eq 'not_null_since';
	}
	push @alter_names, $name;
	$alter{$name} = $expected;
	$setup .= qq{
CREATE TYPE al_${name}_mood AS ENUM ('sad');
CREATE DOMAIN al_${name}_domain AS int;
CREATE DOMAIN al_${name}_bytes0 AS bytea;
CREATE DOMAIN al_${name}_bytes AS al_${name}_bytes0;
CREATE TABLE al_$name ($definition);
INSERT INTO al_$name (id, v) VALUES (1, 'a');
ALTER TABLE al_$name REPLICA IDENTITY $identity;
CREATE TABLE log_$name (n serial, line text);
SELECT trucker.create_truck('$name', '{al_$name}', } . literal(line_sql("log_$name", $reads)) . q{, options => '{"backfill": false}');
};
	$pending .= "$changes;\n$alter;\n";
}
sql("$setup SELECT trucker.start()");
ok(wait_state($node, $_, 'streaming'), "$_: starts") foreach @alter_names;
sql('SELECT trucker.stop()');
ok(wait_state($node, $_, 'stopped'), "$_: stops") foreach @alter_names;
sql($pending);
foreach my $name (@alter_names)
{
	my $expected = $alter{$name};

	# start() may see it already
	my $seen = psql_err($node, "SET client_min_messages = error; SELECT trucker.start('$name')") || wait_for_end($name);

	if (ref $expected)
	{
		like($seen, $expected, "ALTER with changes pending, $name: right, or an error that tells the column");
		unlike($seen, qr/=NULL/, "ALTER with changes pending, $name: a value that is not there is not NULL") unless $name =~ /^dropped/;
	}
	else
	{
		is($seen, $expected, "ALTER with changes pending, $name: right");
	}
}

# Those that have stopped can be loaded anew.
sql(qq{SELECT trucker.resync('added_volatile'); TRUNCATE log_added_volatile});
ok(wait_state($node, 'added_volatile', 'streaming'), 'resync() gets a stopped truck going');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### By transactions that overlap, with partitions, from quarantine; and what need not be known is forgotten
###
sql(q{
CREATE TABLE lap (id int, k int, v text, PRIMARY KEY (id, k)); CREATE TABLE lap_log (n serial, line text);
CREATE TABLE whole (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id); CREATE TABLE whole_log (n serial, line text);
CREATE TABLE part_1 PARTITION OF whole FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 (gone int, v text, k int NOT NULL, id int NOT NULL); ALTER TABLE part_2 DROP gone; ALTER TABLE whole ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE kept (id int PRIMARY KEY, k int, v text, w bytea); CREATE TABLE kept_log (n serial, line text);
INSERT INTO lap VALUES (1, 2, 'a'), (3, 4, 'b'); INSERT INTO whole VALUES (1, 2, 'a'), (11, 12, 'b'), (3, 4, 'c'); INSERT INTO kept VALUES (1, 2, 'a');
ALTER TABLE kept REPLICA IDENTITY FULL;
CREATE FUNCTION check_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF EXISTS (SELECT FROM pg_class WHERE relname = 'kept_is_bad') THEN RAISE 'not yet'; END IF; RETURN new; END $$;
CREATE TRIGGER check_kept BEFORE INSERT ON kept_log FOR EACH ROW EXECUTE FUNCTION check_kept();
} . join "\n", map { my ($t, $options) = @$_; "SELECT trucker.create_truck('$t', '{$t}', " . literal(line_sql("${t}_log", $t eq 'kept' ? 'r.*' : 'id, k, v, old__id, old__k, meta__operation, meta__seq')) . ", options => '{\"backfill\": false$options}'); SELECT trucker.start('$t');" }
	[ 'lap', '' ], [ 'whole', '' ], [ 'kept', ', "on_error": "quarantine"' ]);
ok(wait_state($node, $_, 'streaming'), "truck $_ runs") foreach qw(lap whole kept);

sub log_of
{
	my ($truck) = @_;
	return sql("SELECT string_agg(line, E'\\n' ORDER BY n) FROM ${truck}_log");
}

sub swap
{
	my ($table) = @_;
	return "ALTER TABLE $table RENAME id TO x; ALTER TABLE $table RENAME k TO id; ALTER TABLE $table RENAME x TO k";
}

foreach (qw(lap whole))
{
	sql("SELECT trucker.stop('$_')");
	wait_state($node, $_, 'stopped');
}

# The one that alters has begun to write before the other one that deletes.
my $older = $node->background_psql('postgres', on_error_stop => 1);
$older->query_safe(q{BEGIN; INSERT INTO kept VALUES (100, 0, 'older')});
sql(q{DELETE FROM lap WHERE id = 1});
$older->query_safe(swap('lap') . q{; COMMIT});
$older->quit;
sql(q{DELETE FROM lap; ALTER TABLE lap ADD w int DEFAULT 1; INSERT INTO lap (id, k, v) VALUES (5, 6, 'c');} . swap('lap') . q{; DELETE FROM lap});
sql(q{SELECT trucker.start('lap')});
ok(caught_up($node, 'lap'), 'columns are swapped by a transaction older than a delete');
is(log_of('lap'), "delete old__id=1 old__k=2\ndelete old__id=3 old__k=4\ninsert id=6 k=5 v=c\ndelete old__id=6 old__k=5", 'each value is that of its column');

# A partition's columns have another order; one is dropped when its changes wait.
sql(q{DELETE FROM whole WHERE id = 1; DELETE FROM whole WHERE id = 11; INSERT INTO part_2 (id, k, v) VALUES (12, 13, 'd');} . swap('whole') . q{; DELETE FROM part_2;
	ALTER TABLE whole DETACH PARTITION part_2; DROP TABLE part_2; INSERT INTO whole (k, id, v) VALUES (5, 6, 'e');} . swap('whole') . q{; DELETE FROM whole});
sql(q{SELECT trucker.start('whole')});
ok(caught_up($node, 'whole'), 'columns of a partitioned table are swapped, a partition is dropped');
is(log_of('whole'), "delete old__id=1 old__k=2\ndelete old__id=11 old__k=12\ninsert id=12 k=13 v=d\ndelete old__id=12 old__k=13\n" .
	"insert id=5 k=6 v=e\ndelete old__id=3 old__k=4\ndelete old__id=5 old__k=6", 'each value is that of its column, also of the dropped partition');

# What is in quarantine keeps the columns of its time.
sql(q{DELETE FROM kept; CREATE TABLE kept_is_bad (); DELETE FROM kept_log});
ok(caught_up($node, 'kept'), 'a truck with quarantine');
sql(q{DELETE FROM kept_log; INSERT INTO kept VALUES (7, 8, 'q', 'hi'); DELETE FROM kept});
ok(caught_up($node, 'kept'), 'changes go into quarantine');
my $quarantined = sql(q{SELECT count(*) FROM trucker.quarantine});
cmp_ok($quarantined, '>', 0, 'they are there');
foreach my $i (1 .. 5)
{
	# the names make the stream forget what it can
	sql(swap('kept') . qq{; INSERT INTO kept VALUES (1$i, 1$i, 'x'); ALTER TABLE kept RENAME TO kept_; ALTER TABLE kept_ RENAME TO kept; CHECKPOINT});
	caught_up($node, 'kept');
}
sql(q{DROP TABLE kept_is_bad; DELETE FROM kept_log; SELECT trucker.retry_quarantined('kept')});
ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM trucker.quarantine)}), 'they are applied');
like(log_of('kept'), qr/^insert id=8 k=7 old__id.* v=q w=.x6869|^insert id=8 k=7 v=q w=.x6869/m, 'with the columns of their time');

# Old columns are forgotten.
my $spans = 0;
for my $i (1 .. 50)
{
	sql(q{ALTER TABLE lap ADD y int; INSERT INTO lap (id, k) VALUES (1, 1); DELETE FROM lap; ALTER TABLE lap DROP y; INSERT INTO lap (id, k) VALUES (1, 1); DELETE FROM lap; CHECKPOINT});
	caught_up($node, 'lap');
	$spans = sql(q{SELECT count(*) FROM trucker.input_table WHERE relid = 'lap'::regclass});
	last if $i > 5 && $spans < 8;
}
cmp_ok($spans, '<', 8, 'old columns are forgotten');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### The same while the truck runs
###

sql(q{
CREATE TABLE running (id int PRIMARY KEY, v text);
ALTER TABLE running REPLICA IDENTITY FULL;
CREATE TABLE running_log (n serial, line text);
SELECT trucker.create_truck('running', '{running}', } . literal(line_sql('running_log', 'r.*')) . q{);
SELECT trucker.start('running');
});
ok(wait_state($node, 'running', 'streaming'), 'the truck runs');
my @steps = (
	q{INSERT INTO running VALUES (1, 'a')}                         => 'insert id=1 v=a',
	q{ALTER TABLE running ADD COLUMN n int DEFAULT 5}              => undef,
	q{UPDATE running SET v = 'b'}                                  => 'update id=1 n=5 old__id=1 old__n=5 old__v=a v=b',
	q{ALTER TABLE running RENAME v TO w}                           => undef,
	q{UPDATE running SET n = 6}                                    => 'update id=1 n=6 old__id=1 old__n=5 old__w=b w=b',
	q{ALTER TABLE running DROP COLUMN n, ADD COLUMN n text}        => undef,
	q{UPDATE running SET n = 'x'}                                  => 'update id=1 n=x old__id=1 old__n=NULL old__w=b w=b',
	q{ALTER TABLE running ALTER id TYPE text}                      => undef,
	q{UPDATE running SET id = 'key'}                               => 'update id=key n=x old__id=1 old__n=x old__w=b w=b',
	q{ALTER TABLE running ADD COLUMN u uuid NOT NULL DEFAULT md5(random()::text)::uuid, ADD COLUMN g text GENERATED ALWAYS AS (w || '!') STORED; ALTER TABLE running ALTER u DROP DEFAULT} => undef,
	q{UPDATE running SET u = '00000000-0000-0000-0000-000000000000'; DELETE FROM running; INSERT INTO running VALUES ('k2', 'c', NULL, '11111111-1111-1111-1111-111111111111')} => [
		qr/^update g=b! id=key n=x old__g=b! old__id=key old__n=x old__u=[0-9a-f-]{36} old__w=b u=00000000-0000-0000-0000-000000000000 w=b\ndelete old__g=b! old__id=key old__n=x old__u=00000000-0000-0000-0000-000000000000 old__w=b\ninsert g=c! id=k2 n=NULL u=11111111-1111-1111-1111-111111111111 w=c$/
	],
	q{ALTER TABLE running DROP CONSTRAINT running_pkey}            => undef,
	q{DELETE FROM running}                                         => 'delete old__g=c! old__id=k2 old__n=NULL old__u=11111111-1111-1111-1111-111111111111 old__w=c');
my $seen = 0;
while (my ($step, $expected) = splice @steps, 0, 2)
{
	sql($step);
	next unless defined $expected;
	ok(caught_up($node, 'running'), 'changes arrive');
	my $lines = sql("SELECT string_agg(line, E'\\n' ORDER BY n) FROM running_log WHERE n > $seen");
	$seen = sql('SELECT max(n) FROM running_log');
	ref $expected ? like($lines, $expected->[0], 'ALTER while the truck runs: ' . substr($step, 0, 60)) : is($lines, $expected, 'ALTER while the truck runs: ' . substr($step, 0, 60));
}
is(last_error('running') // '', '', 'no ALTER has stopped the truck');

# A column that the SQL names goes away, and comes back.
sql(q{
CREATE TABLE needed (id int PRIMARY KEY, v text, w text);
CREATE TABLE needed_copy (id int, v text);
SELECT trucker.create_truck('needed', '{needed}', 'INSERT INTO needed_copy SELECT id, v FROM r');
SELECT trucker.start('needed');
});
ok(wait_state($node, 'needed', 'streaming'), 'a truck names a column');
sql(q{INSERT INTO needed VALUES (1, 'a'); ALTER TABLE needed RENAME v TO x; INSERT INTO needed VALUES (2, 'b')});
stops_with('needed', qr/42703: column "v" does not exist/, 'it stops when the column is renamed');
sql(q{ALTER TABLE needed RENAME x TO v});
ok(caught_up($node, 'needed'), 'and goes on when it is back');
is(sql(q{SELECT string_agg(id || v, ' ' ORDER BY id) FROM needed_copy}), '1a 2b', 'with nothing lost');

###
### The replica identity changes while the truck runs
###

sql(q{
CREATE TABLE ident (id int PRIMARY KEY, v text);
ALTER TABLE ident REPLICA IDENTITY FULL;
CREATE TABLE ident_log (n serial, line text);
INSERT INTO ident VALUES (1, 'a'), (2, 'b');
SELECT trucker.create_truck('ident', '{ident}', } . literal(line_sql('ident_log', "old__v, $mine")) . q{, options => '{"backfill": false}');
CREATE TABLE noident (id int PRIMARY KEY, v text);
CREATE TABLE noident_log (n serial, line text);
INSERT INTO noident VALUES (1, 'a'), (2, 'b');
SELECT trucker.create_truck('noident', '{noident}', } . literal(line_sql('noident_log', $mine)) . q{, options => '{"backfill": false}');
SELECT trucker.start(n) FROM unnest('{ident, noident}'::text[]) n;
});
ok(wait_state($node, $_, 'streaming'), "truck $_ runs") foreach qw(ident noident);
sql(q{ALTER TABLE ident REPLICA IDENTITY DEFAULT; UPDATE ident SET v = 'c' WHERE id = 1});
stops_with('ident', qr/REPLICA IDENTITY FULL/, 'old values that are not logged any more stop the truck that reads them');
is(sql(q{SELECT count(*) FROM ident_log}), '0', 'they are not passed as NULL');
sql(q{ALTER TABLE noident DROP CONSTRAINT noident_pkey; DELETE FROM noident WHERE id = 1});
stops_with('noident', qr/replica identity/, 'a table that loses its replica identity stops the truck: its deletes are not in the WAL');

###
### Altered with nobody there to write it down
###
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});
sql(q{CREATE TABLE unseen (id int, k int, v text, PRIMARY KEY (id, k)); CREATE TABLE unseen_log (n serial, line text); INSERT INTO unseen VALUES (1, 2, 'a');
SELECT trucker.create_truck('unseen', '{unseen}', } . literal(line_sql('unseen_log', 'id, k, v, old__id, old__k, meta__operation, meta__seq')) . q{); SELECT trucker.start('unseen')});
ok(wait_state($node, 'unseen', 'streaming'), 'a truck runs');
sql(q{SELECT trucker.stop('unseen')});
ok(wait_state($node, 'unseen', 'stopped'), 'it rests');
my $preloaded = sql('SHOW shared_preload_libraries');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
sql(q{DELETE FROM unseen;} . swap('unseen'));
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$preloaded'");
$node->restart;
sql(q{SELECT trucker.start('unseen')});
stops_with('unseen', qr/column "(id|k)" of table public.unseen was altered after a change.*resync/s, 'columns swapped unnoticed: a delete that waits stops the truck');
# at once, so that it does not try again in between
sql(q{BEGIN; ALTER TABLE unseen ADD w int; TRUNCATE unseen_log; SELECT trucker.resync('unseen'); COMMIT});
ok(wait_state($node, 'unseen', 'streaming'), 'resync() gets it going');
sql(q{INSERT INTO unseen VALUES (3, 4, 'b')});
ok(caught_up($node, 'unseen'), 'changes arrive');
sql(q{SELECT trucker.stop('unseen')});
ok(wait_state($node, 'unseen', 'stopped'), 'it rests again');
sql(q{DELETE FROM unseen;} . swap('unseen') . q{; SELECT trucker.start('unseen')});
ok(caught_up($node, 'unseen'), 'columns swapped as usual');
is(log_of('unseen'), "insert id=4 k=3 v=b\ndelete old__id=3 old__k=4", 'each value is that of its column');

is(sql(q{SELECT count(*) FROM trucker.status WHERE state = 'creating slot' OR state = 'backfill'}), '0', 'no truck is stuck');
$node->stop;

done_testing();
