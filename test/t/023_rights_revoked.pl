# A truck does not outlive the rights it had: what is revoked while it runs stops it,
# with an error that says what is missing, and what is granted again heals it.
# And nobody sees or manages another owner's trucks, or reads secrets of the connection.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use RightsTest;
use TruckerTest;

rights_node('rights_revoked');
let_them_make_trucks();

# Two trucks beside the one that most of this is about; one has had an error.
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION alice;
	CREATE TABLE alice.src (id int PRIMARY KEY);
	CREATE TABLE alice.divisor AS SELECT 0 AS d;
	SELECT trucker.create_truck('troubled', '{alice.src}', 'SELECT 1 / d FROM r, alice.divisor');
	SET SESSION AUTHORIZATION bob;
	CREATE TABLE bob.src (id int PRIMARY KEY);
	SELECT trucker.create_truck('bob', '{bob.src}', 'SELECT id FROM r')});
start_truck('alice', 'troubled');
start_truck('bob', 'bob');
my $since = now();
sql('alice', 'INSERT INTO alice.src VALUES (1)');
ok(reports('troubled', '22012: division by zero', $since), 'a truck with an error');
sql('alice', 'UPDATE alice.divisor SET d = 1');
ok(caught_up($node, 'troubled'), 'that it has got over');

# ----
# Rights revoked while a truck runs
# ----

$node->safe_psql('postgres', q{
	CREATE TABLE alice.item (id int PRIMARY KEY, v int);
	ALTER TABLE alice.item OWNER TO alice;
	GRANT SELECT ON alice.item TO etl;
	CREATE TABLE alice.copy (id int PRIMARY KEY, v int, who text);
	ALTER TABLE alice.copy OWNER TO alice;
	GRANT ALL ON alice.copy TO etl});
refused('eve', q{SELECT trucker.create_truck('copy', '{secret}', 'SELECT 1 FROM r', options => '{"role": "etl"}')},
	qr/42501: must be member of role "etl"/, 'the option role names a role that one is a member of');
refused('alice', q{SELECT trucker.create_truck('copy', '{alice.item}', 'SELECT 1 FROM r', options => '{"role": "nobody_at_all"}')},
	qr/42704: role "nobody_at_all" does not exist/, 'and that exists');
sql('alice', q{
	SELECT trucker.create_truck('copy', '{alice.item}', $$
		INSERT INTO alice.copy SELECT id, v, current_user FROM r WHERE meta__operation <> 'delete' $$,
		options => '{"role": "etl"}')});
start_truck('alice', 'copy');

my $next = 1;

sub revoked
{
	my ($what, $break, $error, $heal) = @_;
	my $then = now();

	$node->safe_psql('postgres', $break);
	$node->safe_psql('postgres', 'INSERT INTO alice.item VALUES (' . $next++ . ', 1)');
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(reports('copy', $error, $then), "$what: the truck stops and says why");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM alice.copy'), $next - 2, "$what: nothing is written");
	$node->safe_psql('postgres', $heal);
	ok(caught_up($node, 'copy'), "$what: undone, it goes on by itself");
	same($node, 'SELECT id, v FROM alice.item', 'SELECT id, v FROM alice.copy', "$what: and nothing is missing");
	return;
}

revoked('SELECT on the input table revoked',
	'REVOKE SELECT ON alice.item FROM etl', '42501: .*alice.item|42501: permission denied for table item', 'GRANT SELECT ON alice.item TO etl');
revoked('SELECT on a column is not enough',
	'REVOKE SELECT ON alice.item FROM etl; GRANT SELECT (id) ON alice.item TO etl', '42501: ', 'GRANT SELECT ON alice.item TO etl');
revoked('row security on the input table',
	'ALTER TABLE alice.item ENABLE ROW LEVEL SECURITY', '42501: row security of table', 'ALTER TABLE alice.item DISABLE ROW LEVEL SECURITY');
revoked('INSERT on the output table revoked',
	'REVOKE INSERT ON alice.copy FROM etl', '42501: permission denied for table copy', 'GRANT INSERT ON alice.copy TO etl');
revoked('USAGE on the output schema revoked',
	'REVOKE USAGE ON SCHEMA alice FROM etl', '42501: permission denied for schema alice', 'GRANT USAGE ON SCHEMA alice TO etl');
revoked('membership in the role revoked', 'REVOKE etl FROM alice', '42501: .*etl', 'GRANT etl TO alice');
is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM alice.copy'), 'etl', 'all of it was written by the role');

$node->safe_psql('postgres', q{SELECT trucker.stop('copy'); REVOKE etl FROM alice});
refused('alice', q{SELECT trucker.start('copy')}, qr/42501: .*etl/, 'who has left the role cannot start a truck of it');
$node->safe_psql('postgres', 'GRANT etl TO alice; REVOKE SELECT ON alice.item FROM etl');
refused('alice', q{SELECT trucker.start('copy')},
	qr/42501: role "etl" may not read input table alice\.item.*HINT:  GRANT SELECT ON alice\.item TO etl;/s,
	'start() tells which right is missing');
$node->safe_psql('postgres', 'GRANT SELECT ON alice.item TO etl; ALTER TABLE alice.item ENABLE ROW LEVEL SECURITY');
refused('alice', q{SELECT trucker.start('copy')}, qr/42501: row security of table alice\.item applies to role "etl"/,
	'start() sees row security');
$node->safe_psql('postgres', 'ALTER TABLE alice.item DISABLE ROW LEVEL SECURITY; REVOKE INSERT ON alice.copy FROM etl');
refused('alice', q{SELECT trucker.start('copy')}, qr/42501: permission denied for table copy/,
	'start() sees a missing right on the output');
$node->safe_psql('postgres', q{GRANT INSERT ON alice.copy TO etl});
ok(start_truck('alice', 'copy'), 'and starts when all is granted');

# Roles that are dropped.  What PUBLIC may do is not enough.
$node->safe_psql('postgres', q{
	CREATE ROLE gone;
	CREATE ROLE leaver LOGIN;
	GRANT gone TO alice;
	GRANT etl TO leaver;
	GRANT EXECUTE ON FUNCTION trucker.create_truck, trucker.start TO leaver;
	CREATE TABLE public.open (id int PRIMARY KEY);
	CREATE TABLE public.open_copy (truck text, id int);
	GRANT ALL ON public.open, public.open_copy TO PUBLIC});
sql('alice', q{SELECT trucker.create_truck('gone', '{open}', $$ INSERT INTO open_copy SELECT 'gone', id FROM r $$, options => '{"role": "gone"}')});
sql('leaver', q{SELECT trucker.create_truck('leaver', '{open}', $$ INSERT INTO open_copy SELECT 'leaver', id FROM r $$, options => '{"role": "etl"}')});
start_truck($super, $_) foreach qw(gone leaver);
$node->safe_psql('postgres', 'INSERT INTO open VALUES (1)');
caught_up($node, $_) foreach qw(gone leaver);
$since = now();
$node->safe_psql('postgres', q{
	DROP ROLE gone;
	DROP OWNED BY leaver;
	DROP ROLE leaver;
	INSERT INTO open VALUES (2)});
ok(reports('gone', 'role of truck "gone" .* does not exist', $since), 'a truck whose role has been dropped stops');
ok(reports('leaver', 'owner of truck "leaver" .* does not exist', $since), 'a truck whose owner has been dropped stops');
is($node->safe_psql('postgres', 'SELECT truck, id FROM open_copy ORDER BY 1, 2'), "gone|1\nleaver|1", 'and nothing is written for nobody');
refused($super, "SELECT trucker.start('$_')", qr/does not exist/, "nor can $_ be started") foreach qw(gone leaver);
$node->safe_psql('postgres', 'CREATE ROLE gone; GRANT gone TO alice');
refused($super, q{SELECT trucker.start('gone')}, qr/does not exist/, 'another role of the same name is another role');
sql($super, "SELECT trucker.drop_truck('$_')") foreach qw(gone leaver);

# A superuser's truck warns; and stops being a superuser's when its role does.
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{
	SET SESSION AUTHORIZATION boss;
	SELECT trucker.create_truck('boss', '{open}', $$ INSERT INTO secret SELECT current_user FROM r WHERE id > 2 $$)});
like($stderr, qr/WARNING: .*truck "boss" will run with superuser rights/, 'a truck of a superuser warns');
like($stderr, qr/HINT: .*"role"/, 'and says what else there is');
($rc, $stdout, $stderr) = $node->psql('postgres', q{
	SELECT trucker.create_truck('modest', '{open}', 'SELECT id FROM r', options => '{"role": "alice"}')});
is("$rc $stderr", '0 ', 'with the option role it does not');
start_truck('boss', 'boss');
$node->safe_psql('postgres', 'INSERT INTO open VALUES (3)');
ok(caught_up($node, 'boss'), 'it runs');
is($node->safe_psql('postgres', 'SELECT told FROM secret'), 'boss', 'as the superuser');
$since = now();
$node->safe_psql('postgres', 'ALTER ROLE boss NOSUPERUSER; INSERT INTO open VALUES (4)');
ok(reports('boss', '42501: permission denied for table secret', $since), 'until that is superuser no more');
sql($super, q{SELECT trucker.drop_truck('boss'); SELECT trucker.drop_truck('modest')});

# ----
# Who manages, who sees
# ----

foreach my $function (qw(start stop resync drop_truck wait_for))
{
	refused($_, "SELECT trucker.$function('copy')", qr/42501: must be owner of truck "copy"/,
		"$_ cannot call $function for alice's truck") foreach qw(eve stranger);
}
refused('bob', q{SELECT trucker.create_truck('copy', '{bob.src}', 'SELECT 1 FROM r')},
	qr/42710: truck "copy" already exists/, 'names are unique in a database');
is(sql('friend', q{SELECT trucker.wait_for('copy')}), 't', 'a member of the owner may wait');
sql('friend', q{SELECT trucker.stop('copy')});
ok(wait_state($node, 'copy', 'stopped'), 'stop');
sql('friend', q{SELECT trucker.start()});
ok(wait_state($node, 'copy', 'streaming'), 'and start all that is hers');
is(sql('stranger', q{SET ROLE alice; SELECT trucker.wait_for('copy')}), 't', 'who does not inherit may after SET ROLE');
ok(wait_state($node, $_, 'streaming'), "$_ streams") foreach qw(troubled bob);
sql('eve', 'SELECT trucker.stop(); SELECT trucker.start()');
is($node->safe_psql('postgres', q{SELECT string_agg(state, ' ') FROM trucker.status WHERE truck IN ('copy', 'troubled', 'bob')}),
	'streaming streaming streaming', 'stop() of all stops one\'s own only');

is(sql('alice', 'SELECT truck FROM trucker.status ORDER BY 1'), "copy\ntroubled", 'an owner sees her trucks');
is(sql('friend', 'SELECT truck FROM trucker.status ORDER BY 1'), "copy\ntroubled", 'so does who has her rights');
is(sql('bob', 'SELECT truck FROM trucker.status ORDER BY 1'), 'bob', 'another owner sees his');
is(sql('eve', 'SELECT count(*) FROM trucker.status'), '0', 'others see none');
is(sql('stranger', 'SELECT count(*) FROM trucker.status'), '0', 'nor does who has not taken on the role');
is(sql('monitor', 'SELECT truck FROM trucker.status ORDER BY 1'), "bob\ncopy\ntroubled", 'a member of pg_read_all_stats sees all');
is(sql('monitor', q{SELECT last_error IS NOT NULL FROM trucker.status WHERE truck = 'troubled'}), 't', 'errors, too');
($rc, $stdout, $stderr) = $node->psql('postgres', q{
	CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
		$$ BEGIN RAISE WARNING 'seen: %', $1; RETURN true; END $$;
	SELECT * FROM trucker.status WHERE pg_temp.tell(truck);
	SELECT * FROM trucker.status WHERE pg_temp.tell(last_error)},
	extra_params => [ '-U', 'eve' ]);
is("$rc $stdout$stderr", '0 ', 'a cheap function in the query does not see others\' rows before they are hidden');

foreach my $table (qw(truck truck_state stream position input_table output_table unreadable_input))
{
	foreach my $user (qw(alice eve))
	{
		refused($user, $_, qr/42501: permission denied for table $table/, "$user cannot do that directly: $_")
		  foreach ("SELECT * FROM trucker.$table", "DELETE FROM trucker.$table", "TRUNCATE trucker.$table");
	}
}
refused('eve', 'CREATE TABLE trucker.mine ()', qr/42501: permission denied for schema trucker/, 'schema trucker is closed');

# pg_write_all_data writes ordinary tables; what a worker will run with whose rights
# is not ordinary data.
my $catalog = join ', ', map { "(SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM trucker.$_ AS t)" } qw(truck stream input_table output_table unreadable_input);
# what is left of trucks that were dropped goes by itself
ok($node->poll_query_until('postgres',
		'SELECT NOT EXISTS (SELECT FROM trucker.stream AS x WHERE NOT EXISTS (SELECT FROM trucker.truck_state WHERE stream_id = x.id))'),
	'each stream has a truck');
my $before = $node->safe_psql('postgres', "SELECT $catalog");
foreach my $sql (
	qq{UPDATE trucker.truck SET run_as = '$super', output_sql = 'SELECT alice.note(''writer'', ''x'')'},
	qq{INSERT INTO trucker.truck (name, owner, run_as, input_tables, output_sql, output_connection, options, search_path)
		VALUES ('writer', 'writer', '$super', '{open}', 'SELECT 1 FROM r', 'local', '{}', '')},
	q{INSERT INTO trucker.truck_state (truck_id, enabled) VALUES (gen_random_uuid(), true)},
	q{UPDATE trucker.position SET lsn = 'F/0'},
	q{DELETE FROM trucker.position},
	q{DELETE FROM trucker.truck},
	q{UPDATE trucker.truck_state SET lost = true},
	qq{UPDATE trucker.stream SET run_as = '$super', owner = '$super', home = false},
	qq{INSERT INTO trucker.stream (owner, run_as, name, home) VALUES ('writer', '$super', 'main', true)},
	q{DELETE FROM trucker.stream},
	q{UPDATE trucker.truck_state SET stream_id = (SELECT id FROM trucker.stream LIMIT 1), lost = true},
	q{DELETE FROM trucker.input_table},
	q{INSERT INTO trucker.unreadable_input (truck_id, reason) SELECT gen_random_uuid(), 'x'},
	q{DELETE FROM trucker.output_table},
	q{INSERT INTO trucker.output_table SELECT gen_random_uuid(), 1})
{
	$node->psql('postgres', $sql, extra_params => [ '-U', 'writer' ]);
}
is($node->safe_psql('postgres', "SELECT $catalog"), $before, 'pg_write_all_data is not enough to change trucks');
$node->safe_psql('postgres', 'INSERT INTO alice.item VALUES (' . $next++ . ', 1)');
ok(caught_up($node, 'copy'), 'nor their positions');
same($node, 'SELECT id, v FROM alice.item', 'SELECT id, v FROM alice.copy', 'and no change is lost by it');
is($node->safe_psql('postgres', 'SELECT count(*) FROM trucker.truck_state AS s WHERE NOT EXISTS (SELECT FROM trucker.truck WHERE id = truck_id)'),
	'0', 'nor can it add states of trucks that there are not');

# ----
# Messages and secrets
# ----

sql('eve', $_) foreach (
	q{SELECT pg_logical_emit_message(true, 'trucker', 'rename alice.item')},
	q{SELECT pg_logical_emit_message(false, 'trucker', '{"action":"I","schema":"alice","table":"item"}')},
	q{SELECT pg_logical_emit_message(true, 'trucker', '\x00ff22fe5c'::bytea)},
	q{SELECT pg_logical_emit_message(false, 'trucker', '\xff5c'::bytea)},
	q{SELECT pg_logical_emit_message(true, 'trucker', '')},
	q{SELECT pg_logical_emit_message(true, 'trucker ', 'x'), pg_logical_emit_message(true, '', 'x')},
	q{BEGIN; SELECT pg_logical_emit_message(true, 'trucker', 'x'), pg_logical_emit_message(false, 'trucker', 'x'); ROLLBACK},
	q{SELECT pg_logical_emit_message(true, 'trucker', repeat(E'"\\\\\n', 100000))});
$node->safe_psql('postgres', q{
	BEGIN;
	INSERT INTO alice.item VALUES (1000, 1);
	SELECT pg_logical_emit_message(true, 'trucker', 'x'), pg_logical_emit_message(false, 'trucker', 'y');
	INSERT INTO alice.item VALUES (1001, 1);
	COMMIT});
$since = now();
ok(caught_up($node, 'copy'), 'anybody\'s logical messages with our prefix stop nothing');
same($node, 'SELECT id, v FROM alice.item', 'SELECT id, v FROM alice.copy', 'and change nothing');
is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'copy'}), 'streaming', 'the truck has not stopped');

is($node->safe_psql('postgres', 'SHOW trucker.replication_conninfo'), "password=$password", 'a superuser sees trucker.replication_conninfo');
refused('alice', 'SHOW trucker.replication_conninfo', qr/42501: must be superuser/, 'others do not');
is(sql('alice', q{SELECT count(*) FROM pg_settings WHERE name = 'trucker.replication_conninfo'}), '0', 'nor in pg_settings');
refused('alice', q{SET trucker.replication_conninfo = 'host=evil'}, qr/55P02|42501/, 'nor can they set it');
refused('alice', q{SET trucker.anything = 'x'}, qr/42602: invalid configuration parameter name "trucker\.anything"/, 'nobody invents settings of trucker');

# A login that fails: who starts a truck is told that, and no secret.
$node->append_conf('postgresql.conf',
	"trucker.replication_conninfo = 'host=127.0.0.1 port=1 user=hidden_user password=$password'");
$node->restart;
$since = now();
ok(reports('copy', '08001: could not connect to server', $since), 'a login that fails shows in status');
refused('alice', q{SELECT trucker.stop('copy'); SELECT trucker.start('copy')}, qr/08001: could not connect to server/, 'and in start()');
unlike($node->safe_psql('postgres', 'SELECT string_agg(last_error, chr(10)) FROM trucker.status'), qr/\Q$password\E/, 'status shows no secret');
{
	my ($rc2, $stdout2, $stderr2) = $node->psql('postgres', q{SELECT trucker.start('copy')}, extra_params => [ '-U', 'alice' ]);
	isnt($rc2, 0, 'start() fails');
	unlike($stderr2, qr/\Q$password\E|hidden_user/, 'start() tells an ordinary user nothing of trucker.replication_conninfo');
}
$node->append_conf('postgresql.conf', "trucker.replication_conninfo = 'password=$password nonsense'");
$node->restart;
refused('alice', q{SELECT trucker.start('copy')}, qr/22023: invalid value for parameter "trucker\.replication_conninfo"/, 'a setting that does not parse is an error');
unlike(slurp_file($node->logfile), qr/\Q$password\E/, 'no secret gets into the log');
$node->append_conf('postgresql.conf', "trucker.replication_conninfo = ''");
$node->restart;
ok(start_truck('alice', 'copy'), 'and the default login works');

# ----
# CREATE EXTENSION
# ----

$node->safe_psql('postgres', 'CREATE DATABASE taken OWNER alice');
refused('alice', '\c taken' . "\nCREATE EXTENSION trucker", qr/42501: permission denied to create extension "trucker"/,
	'a database\'s owner cannot create the extension');
$node->safe_psql('taken', 'CREATE SCHEMA trucker AUTHORIZATION alice');
like(psql_err($node, 'CREATE EXTENSION trucker', db => 'taken'), qr/42P06: schema "trucker" already exists/,
	'an existing schema trucker, which is somebody else\'s, is not taken over');
is($node->safe_psql('taken', q{SELECT count(*) FROM pg_extension WHERE extname = 'trucker'}), '0', 'and nothing is installed');

unlike(slurp_file($node->logfile), qr/\b(PANIC|TRAP)\b|terminated by signal/, 'no process has crashed');
$node->stop;

done_testing();
