# ALTER TYPE of what input tables' columns are of, while changes wait: a value that a change
# carries is what it was, or the truck stops; what is written afterwards is right.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use ColumnsTest;
use TruckerTest;

columns_node('types_altered');

my $line = q{INSERT INTO %s (line) SELECT concat_ws(' ', meta__operation, coalesce(id, old__id), c) FROM r ORDER BY meta__seq};
my $refused = qr/^55000: .*column "c", whose type has been altered since.*resync\(\)/s;

# name => [ the column's type, changes and statements with the truck stopped, what becomes of
# it ].  %t is a prefix of the types' names; %t_xy is (x int, y int), %t_lab an enum (a, b).
my $swap = q{ALTER TYPE %t_lab RENAME VALUE 'a' TO 'c'; ALTER TYPE %t_lab RENAME VALUE 'b' TO 'a'; ALTER TYPE %t_lab RENAME VALUE 'c' TO 'b'};
my $readd = q{ALTER TYPE %t_xy DROP ATTRIBUTE x; ALTER TYPE %t_xy ADD ATTRIBUTE x int};
my @specs = (
	composite => [ '%t_xy', qq{INSERT INTO %t VALUES (1, row(1,2)); $readd}, $refused ],
	composite_in_one => [ '%t_xy', qq{BEGIN; INSERT INTO %t VALUES (1, row(1,2)); $readd; COMMIT}, $refused ],
	composite_after => [ '%t_xy', qq{BEGIN; $readd; INSERT INTO %t VALUES (1, row(1,2)); COMMIT; INSERT INTO %t VALUES (2, row(3,4))}, "insert 1 (1,2)\ninsert 2 (3,4)" ],
	composite_null => [ '%t_xy', qq{INSERT INTO %t VALUES (1, NULL); $readd}, 'insert 1' ],
	composite_added => [ '%t_xy', q{INSERT INTO %t VALUES (1, row(1,2)); ALTER TYPE %t_xy ADD ATTRIBUTE z int}, $refused ],
	composite_renamed => [ '%t_xy', q{INSERT INTO %t VALUES (1, row(1,2)); ALTER TYPE %t_xy RENAME ATTRIBUTE x TO z}, 'insert 1 (1,2)' ],
	composite_array => [ '%t_xy[]', qq{INSERT INTO %t VALUES (1, ARRAY[row(1,2)::%t_xy]); $readd}, $refused ],
	composite_domain => [ '%t_dxy', qq{INSERT INTO %t VALUES (1, row(1,2)::%t_xy); $readd}, $refused ],
	composite_nested => [ '%t_outer', qq{INSERT INTO %t VALUES (1, row(row(1,2), 'a')); $readd}, $refused ],
	composite_by_function => [ '%t_xy', qq{INSERT INTO %t VALUES (1, row(1,2)); DO \$\$ BEGIN $readd; END \$\$}, $refused ],
	composite_rolled_back => [ '%t_xy', qq{INSERT INTO %t VALUES (1, row(1,2)); BEGIN; $readd; ROLLBACK}, 'insert 1 (1,2)' ],
	composite_by_cascade => [ '%t_outer', q{INSERT INTO %t VALUES (1, row(row(1,2), 'a')); DROP TYPE %t_lab CASCADE; ALTER TYPE %t_outer ADD ATTRIBUTE z text}, $refused ],
	row_type => [ '%t_rows', q{INSERT INTO %t VALUES (1, row(1,2)); ALTER TABLE %t_rows DROP x; ALTER TABLE %t_rows ADD x int}, $refused ],
	row_type_in_one => [ '%t_rows', q{INSERT INTO %t VALUES (1, row(1,2)); ALTER TABLE %t_rows DROP x, ADD x int; INSERT INTO %t VALUES (2, row(3,4))}, $refused ],
	enum => [ '%t_lab', qq{INSERT INTO %t VALUES (1, 'a'); $swap}, $refused ],
	enum_in_one => [ '%t_lab', qq{BEGIN; INSERT INTO %t VALUES (1, 'a'); $swap; COMMIT}, $refused ],
	enum_after => [ '%t_lab', qq{BEGIN; $swap; INSERT INTO %t VALUES (1, 'a'); COMMIT; INSERT INTO %t VALUES (2, 'b')}, "insert 1 a\ninsert 2 b" ],
	enum_there_and_back => [ '%t_lab', qq{INSERT INTO %t VALUES (1, 'a'); $swap; $swap}, 'insert 1 a' ],
	enum_added => [ '%t_lab', q{INSERT INTO %t VALUES (1, 'a'); ALTER TYPE %t_lab ADD VALUE 'z' BEFORE 'a'; INSERT INTO %t VALUES (2, 'z')}, "insert 1 a\ninsert 2 z" ],
	enum_array => [ '%t_lab[]', qq{INSERT INTO %t VALUES (1, '{a,b}'); $swap}, $refused ],
	enum_within_range => [ '%t_range', qq{INSERT INTO %t VALUES (1, '[a,b]'); $swap}, $refused ],
	enum_within_multirange => [ '%t_multirange', qq{INSERT INTO %t VALUES (1, '{[a,b]}'); $swap}, $refused ],
	enum_then_text => [ '%t_lab', qq{INSERT INTO %t VALUES (1, 'a'); $swap; ALTER TABLE %t ALTER c TYPE text}, $refused ],
	enum_delete => [ '%t_lab', qq{INSERT INTO %t VALUES (1, 'a'); DELETE FROM %t WHERE id = 1; $swap}, $refused ],
	enum_partition => [ '%t_lab', qq{INSERT INTO %t VALUES (1, 'a'); $swap}, $refused ],
	domain => [ '%t_d', q{INSERT INTO %t VALUES (1, 5); ALTER DOMAIN %t_d ADD CHECK (value > 0)}, 'insert 1 5' ],
);
my (@names, %expected);
my ($setup, $pending) = ('', '');
while (my ($name, $spec) = splice @specs, 0, 2)
{
	my ($type, $changes, $expected) = map { ref $_ ? $_ : s/%t/ty_$name/gr } @$spec;
	my $partitioned = $name =~ /partition/;

	push @names, $name;
	$expected{$name} = $expected;
	$setup .= qq{
CREATE TYPE ty_${name}_lab AS ENUM ('a', 'b');
CREATE TYPE ty_${name}_xy AS (x int, y int);
CREATE DOMAIN ty_${name}_dxy AS ty_${name}_xy;
CREATE TYPE ty_${name}_outer AS (i ty_${name}_xy, l ty_${name}_lab);
CREATE TYPE ty_${name}_range AS RANGE (subtype = ty_${name}_lab, multirange_type_name = ty_${name}_multirange);
CREATE TABLE ty_${name}_rows (x int, y int);
CREATE DOMAIN ty_${name}_d AS int;
CREATE TABLE ty_$name (id int PRIMARY KEY, c $type)} . ($partitioned ? qq{ PARTITION BY RANGE (id);
CREATE TABLE ty_${name}_part PARTITION OF ty_$name FOR VALUES FROM (0) TO (10);} : ';') . qq{
CREATE TABLE log_$name (n serial, line text);
SELECT trucker.create_truck('$name', '{ty_$name}', } . literal(sprintf($line, "log_$name")) . q{, options => '{"backfill": false}');
};
	$pending .= "$changes;\n";
}
sql("$setup SELECT trucker.start()");
ok(wait_state($node, $_, 'streaming'), "$_: starts") foreach @names;
sql('SELECT trucker.stop()');
ok(wait_state($node, $_, 'stopped'), "$_: stops") foreach @names;
sql($pending);
foreach my $name (@names)
{
	sql("SET client_min_messages = error; SELECT trucker.start('$name')");
	my $seen = wait_for_end($name);
	ref $expected{$name} ? like($seen, $expected{$name}, "with changes waiting, $name: the truck stops") :
	  is($seen, $expected{$name}, "with changes waiting, $name: right");
	is(sql("SELECT count(*) FROM log_$name"), '0', "$name: and nothing wrong has arrived") if ref $expected{$name};
}
sql(q{SELECT trucker.resync('composite')});
ok(wait_state($node, 'composite', 'streaming'), 'resync() gets a stopped truck going');
sql(q{INSERT INTO ty_composite VALUES (2, row(3,4))});
ok(caught_up($node, 'composite'), 'changes arrive');
is(sql(q{SELECT line FROM log_composite ORDER BY n DESC LIMIT 1}), 'insert 2 (3,4)', 'and are right');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### Others go on writing: nobody waits, and for them it holds from the commit on
###
sql(q{
CREATE TYPE lab AS ENUM ('a', 'b');
CREATE TABLE others (id int PRIMARY KEY, c lab);
CREATE TABLE log_others (n serial, line text);
SELECT trucker.create_truck('others', '{others}', } . literal(sprintf($line, 'log_others')) . q{); SELECT trucker.start('others')});
ok(wait_state($node, 'others', 'streaming'), 'the truck runs');
sub swap_of_lab { return $swap =~ s/%t_lab/lab/gr }

my $alters = $node->background_psql('postgres', on_error_stop => 1);
my $log = q{SELECT string_agg(line, ' ' ORDER BY n) FROM log_others};

# caught up: needs nothing
sql(q{INSERT INTO others VALUES (1, 'a')});
ok(caught_up($node, 'others'), 'the truck has caught up');
$alters->query_safe('BEGIN; ' . swap_of_lab());
sql(q{INSERT INTO others VALUES (2, 'a')});
ok(caught_up($node, 'others'), 'a change made and applied before the commit');
$alters->query_safe('COMMIT');
sql(q{INSERT INTO others VALUES (3, 'a')});
ok(caught_up($node, 'others'), 'a truck that has caught up goes on');
is(sql($log), 'insert 1 a insert 2 a insert 3 a', 'all is right');
is(last_error('others') // '', '', 'with no error');

# others' changes of after the statement, read after the commit
sql(q{SELECT trucker.stop('others')});
ok(wait_state($node, 'others', 'stopped'), 'the truck stops');
$alters->query_safe('BEGIN; ' . swap_of_lab() . q{; INSERT INTO others VALUES (4, 'b')});
sql(q{INSERT INTO others VALUES (5, 'a')});
$alters->query_safe('COMMIT');
sql(q{SELECT trucker.start('others')});
stops_with('others', $refused, q{another one's change between the statement and its commit stops the truck});
is(sql($log), 'insert 1 a insert 2 a insert 3 a', 'and is not taken for another value');

# ... and of after the commit
sql(q{SELECT trucker.resync('others')});
ok(wait_state($node, 'others', 'streaming'), 'loaded anew');
sql(q{SELECT trucker.stop('others')});
ok(wait_state($node, 'others', 'stopped'), 'the truck stops');
$alters->query_safe('BEGIN; ' . swap_of_lab() . q{; INSERT INTO others VALUES (6, 'b'); COMMIT});
sql(q{INSERT INTO others VALUES (7, 'a'); TRUNCATE log_others});
sql(q{SELECT trucker.start('others')});
ok(caught_up($node, 'others'), 'changes of the same transaction and of later ones');
is(sql($log), 'insert 6 b insert 7 a', 'are right');

# ... and in the middle of a batch that has read the value already
my $before = sql('SELECT clock_timestamp()');
$alters->query_safe('SELECT pg_advisory_lock(1)');
sql(q{
CREATE FUNCTION wait_a_bit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN new; END $$;
CREATE TRIGGER wait_a_bit BEFORE INSERT ON log_others FOR EACH ROW EXECUTE FUNCTION wait_a_bit();
INSERT INTO others VALUES (8, 'a')});
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)}), 'a batch waits, with a value read');
sql('BEGIN; ' . swap_of_lab() . '; COMMIT');
$alters->query_safe('SELECT pg_advisory_unlock(1)');
# it may be told of the first attempt, which goes away by itself
$node->poll_query_until('postgres', qq{SELECT last_error ~ '^55000' AND last_error_at > '$before' FROM trucker.status WHERE truck = 'others'});
stops_with('others', $refused, 'its values are not taken for what they were: the truck stops');
is(sql($log), 'insert 6 b insert 7 a', 'and nothing of it has arrived');
sql(q{SELECT trucker.resync('others')});
ok(wait_state($node, 'others', 'streaming'), 'loaded anew');
$alters->quit;
is(sql(q{SELECT count(*) FROM trucker.status WHERE state <> 'streaming'}), '0', 'the truck runs');
$node->stop;

done_testing();
