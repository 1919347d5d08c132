# Definitions of trucks survive pg_dump and restore, into another database and into
# another server, with their owners, roles and grants, whatever the names are made of.
# What is true of the running database only - positions, slots, that a truck runs -
# does not come along: a restored truck writes nothing before somebody has decided,
# with resync(), to load its destination anew.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('dump', extension => 0);
my $other = trucker_node('other', extension => 0);
my $dir = PostgreSQL::Test::Utils::tempdir;

my $db = q{data "base"};
my $copy = q{it's a copy};
my $truck = q{tr'u"ck \ 1};

sub literal
{
	my ($text) = @_;

	return "'" . ($text =~ s/'/''/gr) . "'";
}

# ----
# What is dumped
# ----

my $roles = q{
	CREATE ROLE "O'wner ""x""" LOGIN;
	CREATE ROLE "e't""l";
	CREATE ROLE plain LOGIN;
	GRANT "e't""l" TO "O'wner ""x"""};
$node->safe_psql('postgres', $roles);
$node->safe_psql('postgres', q{CREATE DATABASE "data ""base"""});
$node->safe_psql($db, q{
	CREATE EXTENSION trucker;
	GRANT EXECUTE ON FUNCTION trucker.create_truck, trucker.start, trucker.stop, trucker.resync, trucker.wait_for
	TO "O'wner ""x""", plain;
	CREATE SCHEMA "Sche.ma, ""x""" AUTHORIZATION "O'wner ""x""";
	CREATE SCHEMA plain AUTHORIZATION plain;
	SET SESSION AUTHORIZATION "O'wner ""x""";
	SET search_path = "Sche.ma, ""x""", pg_catalog;
	CREATE TABLE "Ta'b, ""le"".\ 1" ("I'd "" x" int PRIMARY KEY, "select" text);
	CREATE TABLE "de'st" (id int PRIMARY KEY, v text, who name DEFAULT current_user);
	GRANT USAGE ON SCHEMA "Sche.ma, ""x""" TO "e't""l";
	GRANT SELECT ON "Ta'b, ""le"".\ 1" TO "e't""l";
	GRANT ALL ON "de'st" TO "e't""l"});
$node->safe_psql($db,
	q{SET SESSION AUTHORIZATION "O'wner ""x"""; SET search_path = "Sche.ma, ""x""", pg_catalog; SELECT trucker.create_truck(}
	  . literal($truck) . q~, ARRAY['"Ta''b, ""le"".\ 1"'::regclass],
	$$ DELETE FROM "de'st" USING r WHERE meta__operation <> 'insert' AND id = "old__I'd "" x";
	   INSERT INTO "de'st" SELECT "I'd "" x", "select" FROM r WHERE meta__operation <> 'delete' $$,
	$$ SELECT "I'd "" x", "select", "old__I'd "" x", meta__operation FROM {{ .rows }} WHERE 'back\slash and	tab
and newline {{ "{{" }}' <> '' $$,
	options => jsonb_build_object('role', 'e''t"l', 'toast', 'current', 'stream', E'str''e"a\\\\m\t1', 'reset_sql', 'TRUNCATE "de''st"'))~);
$node->safe_psql($db, q{
	SET SESSION AUTHORIZATION plain;
	CREATE TABLE plain.src (id int PRIMARY KEY);
	CREATE TABLE plain.dst (id int);
	SELECT trucker.create_truck('plain', '{plain.src}', 'INSERT INTO plain.dst SELECT id FROM r',
		options => '{"backfill": false, "inserts_only": true}')});
$node->safe_psql($db, q{INSERT INTO "Sche.ma, ""x"""."Ta'b, ""le"".\ 1" SELECT i, 'v' || i FROM generate_series(1, 10) AS i});

my $source = q{SELECT "I'd "" x" AS id, "select" AS v, 'e''t"l' AS who FROM "Sche.ma, ""x"""."Ta'b, ""le"".\ 1"};
my $target = q{SELECT id, v, who FROM "Sche.ma, ""x"""."de'st"};
$node->safe_psql($db, 'SELECT trucker.start()');
ok(wait_state($node, $_, 'streaming', db => $db), "a truck streams: $_") foreach ($truck, 'plain');
$node->safe_psql($db, q{
	UPDATE "Sche.ma, ""x"""."Ta'b, ""le"".\ 1" SET "I'd "" x" = 100, "select" = NULL WHERE "select" = 'v3';
	DELETE FROM "Sche.ma, ""x"""."Ta'b, ""le"".\ 1" WHERE "select" = 'v4';
	INSERT INTO plain.src VALUES (1)});
ok(caught_up($node, $_, db => $db), "and catches up: $_") foreach ($truck, 'plain');
same($node, $source, $target, 'names of all kinds', db => $db);

# ----
# Dump and restore
# ----

# A definition as a dump must carry it: with names, which are what survives.
my $definitions = q{
	SELECT id, name, owner, run_as, input_tables, input_sql, output_sql, output_connection, options, search_path, created_at
	FROM trucker.truck ORDER BY name};
my $rights = q{
	SELECT p.oid::regprocedure, r.rolname, has_function_privilege(r.oid, p.oid, 'EXECUTE')
	FROM pg_proc AS p, pg_roles AS r
	WHERE pronamespace = 'trucker'::regnamespace AND rolname !~ '^pg_' AND NOT rolsuper ORDER BY 1, 2};
my $state = q{SELECT truck, state, last_error FROM trucker.status ORDER BY truck};
my %before = (
	definitions => $node->safe_psql($db, $definitions),
	rights => $node->safe_psql($db, $rights));
like($before{definitions}, qr/O'wner/, 'there is something to compare');
like($before{rights}, qr/\|f\n.*\|t\n/s, 'in rights, too');

command_ok([ 'pg_dump', '--file', "$dir/plain", '--dbname', $node->connstr($db) ], 'pg_dump while trucks run');
command_ok([ 'pg_dump', '--format=c', '--file', "$dir/custom", '--dbname', $node->connstr($db) ], 'pg_dump --format=custom');
unlike(slurp_file("$dir/plain"), qr/trucker_\d+_/, 'the dump does not know the slots');

# restored($node, $db, $where): tests of a database just restored.
sub restored
{
	my ($there, $where) = @_;

	is($there->safe_psql($copy, $definitions), $before{definitions}, "$where: definitions are restored");
	is($there->safe_psql($copy, $rights), $before{rights}, "$where: and who may call what");
	is( $there->safe_psql($copy, q{
		SELECT (SELECT count(*) FROM trucker.position), (SELECT count(*) FROM trucker.truck_state),
			(SELECT count(*) FROM trucker.stream),
			(SELECT count(*) FROM trucker.input_table), (SELECT count(*) FROM trucker.output_table),
			(SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),
			(SELECT count(*) FROM trucker.stream_workers()), (SELECT count(*) FROM trucker.truck_workers())}),
		'0|0|0|0|0|0|0|0', "$where: positions, states, streams, slots and workers are not");
	like($there->safe_psql($copy, 'SELECT DISTINCT state FROM trucker.status'), qr/^(lost|stopped)$/, "$where: no truck runs");

	# The rows of the destination have been restored, too, so it is not loaded
	# again without being asked.
	my $error = psql_err($there, 'SELECT trucker.start(' . literal($truck) . ')', db => $copy);
	like($error, qr/55000: .*restored from a dump/, "$where: start() refuses");
	my ($hint) = $error =~ /^HINT:  (SELECT trucker\.resync\(.*?\))/m;
	ok(defined $hint, "$where: and says what to do") or diag $error;
	$there->safe_psql($copy, 'SELECT trucker.start()');
	is( $there->safe_psql($copy, 'SELECT count(*) FROM trucker.truck_state WHERE enabled'),
		'0', "$where: nor does start() of all start it");

	my $owner = q{SET SESSION AUTHORIZATION "O'wner ""x"""; };
	$there->safe_psql($copy, $owner . $hint . '; SELECT trucker.start(' . literal($truck) . ')');
	ok(wait_state($there, $truck, 'streaming', db => $copy), "$where: after resync() it starts, as its owner says");
	$there->safe_psql($copy, q{
		INSERT INTO "Sche.ma, ""x"""."Ta'b, ""le"".\ 1" VALUES (200, 'new');
		UPDATE "Sche.ma, ""x"""."Ta'b, ""le"".\ 1" SET "select" = 'newer' WHERE "select" = 'v5'});
	ok(caught_up($there, $truck, db => $copy), "$where: and streams");
	is( $there->safe_psql($copy, 'SELECT stream FROM trucker.status WHERE truck = ' . literal($truck)),
		qq{str'e"a\\m\t1}, "$where: on the stream that it names");
	same($there, $source, $target, "$where: the destination is what the source says", db => $copy);
	is($there->safe_psql($copy, q{SELECT DISTINCT who FROM "Sche.ma, ""x"""."de'st"}), q{e't"l}, "$where: written by the truck's role");
	is( $there->safe_psql($copy, q{SELECT state FROM trucker.status WHERE truck = 'plain'}),
		'lost', "$where: the other truck still rests");

	# With "backfill": false a resync() goes on from now.
	$there->safe_psql($copy, q{SET SESSION AUTHORIZATION plain; SELECT trucker.resync('plain'); SELECT trucker.start('plain')});
	ok(wait_state($there, 'plain', 'streaming', db => $copy), "$where: it starts likewise");
	$there->safe_psql($copy, 'INSERT INTO plain.src VALUES (2)');
	ok(caught_up($there, 'plain', db => $copy), "$where: streams");
	is($there->safe_psql($copy, 'SELECT id FROM plain.dst ORDER BY id'), "1\n2", "$where: with its options");
	return;
}

# into another database of the same server
my $slots = q{SELECT slot_name, active FROM pg_replication_slots WHERE database = current_database() ORDER BY 1};
my $slots_before = $node->safe_psql($db, $slots);
my $state_before = $node->safe_psql($db, $state);
$node->safe_psql('postgres', q{CREATE DATABASE "it's a copy"});
command_ok(
	[ 'psql', '--no-psqlrc', '--quiet', '--set=ON_ERROR_STOP=1', '--output', "$dir/restored", '--file', "$dir/plain", '--dbname', $node->connstr($copy) ],
	'restore into another database of the server');
restored($node, 'same server');
is($node->safe_psql($db, $slots), $slots_before, 'the original keeps its slots');
is($node->safe_psql($db, $state), $state_before, 'and its state');
$node->safe_psql($db, 'INSERT INTO plain.src VALUES (3)');
ok(caught_up($node, $_, db => $db), "and streams: $_") foreach ($truck, 'plain');
is($node->safe_psql($db, 'SELECT id FROM plain.dst ORDER BY id'), "1\n3", 'its own changes only');

# into another server
$other->safe_psql('postgres', q{CREATE DATABASE "it's a copy"});
command_fails_like(
	[ 'pg_restore', '--exit-on-error', '--no-owner', '--no-privileges', '--dbname', $other->connstr($copy), "$dir/custom" ],
	qr/role "O'wner \\?"x\\?"" does not exist/, 'a server without the owner refuses his trucks');
$other->safe_psql('postgres', q{DROP DATABASE "it's a copy"});
$other->safe_psql('postgres', q{CREATE ROLE shifts_oids});
$other->safe_psql('postgres', $roles);
$other->safe_psql('postgres', q{CREATE DATABASE "it's a copy"});
command_ok(
	[ 'pg_restore', '--exit-on-error', '--dbname', $other->connstr($copy), "$dir/custom" ],
	'restore into another server');
$other->safe_psql('postgres', 'DROP ROLE shifts_oids');
restored($other, 'other server');

# A dump of the restored database is the same again.
command_ok([ 'pg_dump', '--data-only', '--table=trucker.truck', '--file', "$dir/again", '--dbname', $other->connstr($copy) ], 'dump again');
my ($rows) = slurp_file("$dir/plain") =~ /^(COPY trucker\.truck .*?^\\\.)$/ms;
my ($again) = slurp_file("$dir/again") =~ /^(COPY trucker\.truck .*?^\\\.)$/ms;
ok(defined $rows, 'the dump holds the definitions');
is(join("\n", sort split /\n/, $again // ''), join("\n", sort split /\n/, $rows // ''), 'a dump of what was restored is the same');

unlike(slurp_file($_->logfile), qr/\b(PANIC|TRAP)\b|terminated by signal/, 'no process has crashed') foreach ($node, $other);
$_->stop foreach ($node, $other);

done_testing();
