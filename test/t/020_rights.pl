# A truck's SQL has its role's rights, and no others, whatever it tries: the worker
# that runs it is connected as superuser, so one way out of the role's identity would
# be a way to superuser for everybody who may make a truck.  Each attempt below
# leaves a row that says who ran it; a table that only superusers may read tells
# whether anything was gained.  Nor do the role's own settings change that, or its values.
# (What is revoked, and who sees what: 023_rights_revoked.pl.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use RightsTest;
use TruckerTest;

rights_node('rights');

refused('eve', q{SELECT trucker.create_truck('t', '{pg_class}', 'SELECT 1 FROM r')},
	qr/42501: permission denied for function create_truck/,
	'nobody makes a truck without having been granted that');
refused('eve', "SELECT trucker.$_('t')", qr/42501: permission denied for function $_/, "nor calls $_")
  foreach qw(start stop resync drop_truck wait_for);

let_them_make_trucks();

# ----
# Attempts to escape
# ----

# note() writes down who runs, and whether that may do what only a superuser may.
# try() tells how SQL ends.  Everything is in a schema that alice may write to and
# that comes first in the truck's search_path.
$node->safe_psql('postgres', qq{
SET SESSION AUTHORIZATION alice;
SET search_path = alice, pg_catalog;

CREATE TABLE alice.evidence (
	id serial, attack text, moment text, cu text, su text, is_superuser text, gained boolean, process text, pid int);
CREATE TABLE alice.tried (id serial, attack text, sql text, result text, process text);
GRANT INSERT ON alice.evidence, alice.tried TO bob, PUBLIC;
GRANT USAGE ON SEQUENCE alice.evidence_id_seq, alice.tried_id_seq TO PUBLIC;

-- backend_type is hidden from ordinary users, the name of the application is not
CREATE FUNCTION alice.process() RETURNS text LANGUAGE sql VOLATILE AS \$\$
	SELECT CASE WHEN starts_with(application_name, 'trucker ') THEN 'trucker stream' ELSE 'client backend' END
	FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) pg_backend_pid() \$\$;

CREATE FUNCTION alice.note(attack text, moment text) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	gained boolean := true;
BEGIN
	BEGIN
		PERFORM FROM public.secret;
	EXCEPTION WHEN insufficient_privilege THEN
		gained := false;
	END;
	INSERT INTO alice.evidence (attack, moment, cu, su, is_superuser, gained, process, pid)
	VALUES (attack, moment, current_user, session_user, current_setting('is_superuser'), gained,
			alice.process(), pg_backend_pid());
	RETURN moment;
END \$\$;

CREATE FUNCTION alice.try(attack text, sql text) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	result text := 'ok';
BEGIN
	BEGIN
		EXECUTE sql;
	EXCEPTION WHEN OTHERS THEN
		result := SQLSTATE;
	END;
	INSERT INTO alice.tried (attack, sql, result, process) VALUES (attack, sql, result, alice.process());
	RETURN result;
END \$\$;

CREATE FUNCTION alice.become(attack text, moment text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	sql text;
BEGIN
	FOREACH sql IN ARRAY ARRAY[
		'SET ROLE "$super"', 'SET LOCAL ROLE "$super"', 'RESET ROLE', 'SET ROLE NONE', 'SET ROLE DEFAULT',
		'SET SESSION AUTHORIZATION "$super"', 'SET LOCAL SESSION AUTHORIZATION "$super"',
		'SET SESSION AUTHORIZATION DEFAULT', 'RESET SESSION AUTHORIZATION',
		'SELECT set_config(''role'', ''$super'', false)', 'SELECT set_config(''role'', ''none'', true)',
		'SELECT set_config(''session_authorization'', ''$super'', false)',
		'ALTER ROLE alice SUPERUSER', 'SET session_replication_role = replica']
	LOOP
		PERFORM alice.try(attack, sql);
		PERFORM alice.note(attack, moment);
	END LOOP;
END \$\$;

-- in a session of her own alice is herself, too, and try() tells a success
SELECT alice.note('herself', 'session');
SELECT alice.try('herself', 'SELECT 1');
});
$node->safe_psql('postgres', q{SELECT alice.note('superuser', 'session')});
is( sql('alice', 'SELECT attack, cu, su, is_superuser, gained, process FROM alice.evidence ORDER BY id'),
	"herself|alice|alice|off|f|client backend\nsuperuser|$super|$super|on|t|client backend",
	'the evidence tells a superuser from an ordinary user');
is(sql('alice', 'SELECT result FROM alice.tried'), 'ok', 'and an attempt that succeeds from one that fails');
sql('alice', 'TRUNCATE alice.evidence, alice.tried');

# The attacks.  attack_x() is executed by a truck for a row that names x.
$node->safe_psql('postgres', qq{
SET SESSION AUTHORIZATION alice;
SET search_path = alice, pg_catalog;

CREATE FUNCTION alice.attack_role() RETURNS void LANGUAGE sql AS
	\$\$ SELECT alice.become('role', 'function') \$\$;

CREATE FUNCTION alice.attack_handler() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	BEGIN
		PERFORM alice.become('handler', 'subtransaction');
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM alice.note('handler', 'handler');
		PERFORM alice.become('handler', 'handler');
		BEGIN
			PERFORM alice.become('handler', 'nested');
			RAISE EXCEPTION 'again';
		EXCEPTION WHEN raise_exception THEN
			PERFORM alice.become('handler', 'handler');
		END;
	END;
	PERFORM alice.become('handler', 'after');
END \$\$;

-- deferred triggers: one that queues more, and defers anew
CREATE TABLE alice.deferring (depth int);
CREATE FUNCTION alice.deferred() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.become('deferred', 'depth ' || new.depth);
	IF new.depth < 3 THEN
		SET CONSTRAINTS ALL IMMEDIATE;
		SET CONSTRAINTS ALL DEFERRED;
		INSERT INTO alice.deferring VALUES (new.depth + 1);
	END IF;
	PERFORM alice.note('deferred', 'depth ' || new.depth);
	PERFORM set_config('work_mem', '77kB', false), set_config('alice.planted', 'yes', false);
	RETURN NULL;
END \$\$;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON alice.deferring
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alice.deferred();
CREATE FUNCTION alice.attack_deferred() RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO alice.deferring VALUES (1) \$\$;

-- a held cursor's query is executed at commit, behind the first deferred triggers
CREATE FUNCTION alice.at_commit() RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.become('cursor', 'commit');
	INSERT INTO alice.deferring VALUES (3);
	RETURN alice.note('cursor', 'commit');
END \$\$;
CREATE FUNCTION alice.attack_cursor() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT alice.at_commit()';
END \$\$;

CREATE PROCEDURE alice.committing() LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO alice.tried (attack, sql, result) VALUES ('committing', 'COMMIT', 'before');
	COMMIT;
	PERFORM alice.become('commit', 'committed');
END \$\$;
CREATE FUNCTION alice.attack_commit() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.try('commit', 'DO \$x\$ BEGIN COMMIT; END \$x\$');
	PERFORM alice.try('commit', 'DO \$x\$ BEGIN ROLLBACK; PERFORM alice.become(''commit'', ''rolled back''); END \$x\$');
	PERFORM alice.try('commit', 'CALL alice.committing()');
	PERFORM alice.try('commit', 'COMMIT');
	PERFORM alice.try('commit', 'ABORT');
	PERFORM alice.try('commit', 'PREPARE TRANSACTION ''x''');
END \$\$;

-- an expression index on a table that is written to
CREATE FUNCTION alice.indexed(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN
	PERFORM alice.become('index', 'index');
	RETURN n;
END \$\$;
CREATE TABLE alice.with_index (n int);
CREATE INDEX ON alice.with_index (alice.indexed(n));
CREATE FUNCTION alice.attack_index() RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO alice.with_index VALUES (1) \$\$;

-- operators and functions that shadow those of pg_catalog
CREATE FUNCTION alice.equal(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.note('shadow', 'operator');
	RETURN uuid_eq(\$1, \$2);
END \$\$;
CREATE OPERATOR alice.= (FUNCTION = alice.equal, LEFTARG = uuid, RIGHTARG = uuid);
CREATE FUNCTION alice.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.note('shadow', 'function');
	RETURN pg_catalog.clock_timestamp();
END \$\$;
CREATE FUNCTION alice.attack_shadow() RETURNS void LANGUAGE sql AS \$\$
	SELECT clock_timestamp();
	SELECT '00000000-0000-0000-0000-000000000000'::uuid = '00000000-0000-0000-0000-000000000000'::uuid \$\$;

-- parallel workers
CREATE FUNCTION alice.who(leader int) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS \$\$
BEGIN
	RETURN concat_ws(' ', current_user, session_user, current_setting('is_superuser'),
					 CASE WHEN pg_backend_pid() OPERATOR(pg_catalog.<>) leader THEN 'in parallel' END);
END \$\$;
CREATE FUNCTION alice.in_parallel() RETURNS SETOF text LANGUAGE plpgsql
	SET force_parallel_mode = on AS \$\$
DECLARE
	leader int := pg_backend_pid();
BEGIN
	RETURN QUERY SELECT alice.who(leader);
END \$\$;
CREATE FUNCTION alice.attack_parallel() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO alice.tried (attack, result) SELECT 'parallel', x FROM alice.in_parallel() AS x;
END \$\$;

-- what a run may try to leave behind
CREATE FUNCTION alice.attack_plant() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.try('plant', 'CREATE TEMP TABLE r (attack text, dom text, meta__operation text)');
	PERFORM alice.try('plant', format('CREATE TEMP TABLE %I (id uuid, name text, truck_id uuid, lsn pg_lsn)', x))
	FROM unnest(ARRAY['truck', 'truck_state', 'position', 'input_table', 'pg_db_role_setting', 'pg_authid']) AS x;
	PERFORM alice.try('plant', 'CREATE FUNCTION pg_temp.note(text) RETURNS text LANGUAGE sql AS ''SELECT 1::text''');
	PERFORM alice.try('plant', 'PREPARE planted AS SELECT alice.note(''plant'', ''prepared'')');
	PERFORM alice.try('plant', 'DECLARE held CURSOR WITH HOLD FOR SELECT 1');
	PERFORM alice.try('plant', 'SELECT pg_advisory_lock(4711)');
	PERFORM alice.try('plant', 'SET search_path = pg_temp, alice');
	PERFORM alice.try('plant', 'SET work_mem = ''77kB''');
	PERFORM alice.try('plant', 'SET default_transaction_read_only = on');
	PERFORM alice.try('plant', 'SET alice.planted = ''yes''');
	PERFORM alice.try('listen', 'LISTEN planted');
END \$\$;
CREATE TABLE alice.left_over (attack text, what text);
CREATE FUNCTION alice.look(attack text) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO alice.left_over
	SELECT attack, 'temporary table ' || relname FROM pg_catalog.pg_class WHERE relnamespace = pg_my_temp_schema()
	UNION ALL SELECT attack, 'temporary function ' || proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()
	UNION ALL SELECT attack, 'prepared ' || name FROM pg_prepared_statements
	UNION ALL SELECT attack, 'cursor ' || name FROM pg_cursors WHERE is_holdable
	UNION ALL SELECT attack, 'advisory lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
	UNION ALL SELECT attack, 'setting ' || name || ' = ' || setting FROM pg_settings
		WHERE (name, setting) IN (('work_mem', '77'), ('default_transaction_read_only', 'on'))
	UNION ALL SELECT attack, 'setting alice.planted' WHERE current_setting('alice.planted', true) <> ''
	UNION ALL SELECT attack, 'search_path ' || x FROM current_setting('search_path') AS x WHERE x <> 'alice, pg_catalog'
	UNION ALL SELECT attack, 'listening on ' || x FROM pg_listening_channels() AS x \$\$;
CREATE FUNCTION alice.attack_look() RETURNS void LANGUAGE sql AS \$\$ SELECT alice.look('after commit') \$\$;
CREATE TABLE alice.switch (fails boolean);
INSERT INTO alice.switch VALUES (true);
CREATE FUNCTION alice.attack_fail() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.look('after an error');
	PERFORM alice.attack_plant();
	IF (SELECT fails FROM alice.switch) THEN
		RAISE EXCEPTION 'planted and failed';
	END IF;
END \$\$;

-- SQL that will not be cancelled
CREATE FUNCTION alice.attack_hold() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	WHILE (SELECT fails FROM alice.switch) LOOP
		BEGIN
			PERFORM pg_sleep(1000);
		EXCEPTION WHEN query_canceled THEN
			PERFORM alice.become('hold', 'cancelled');
		END;
	END LOOP;
END \$\$;

-- planning executes IMMUTABLE functions; so does start(), in its caller's session
CREATE FUNCTION alice.planned(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN
	PERFORM alice.become('planning', 'planning');
	IF alice.process() = 'client backend' THEN
		PERFORM alice.try('restricted', 'CREATE TEMP TABLE planted ()');
		PERFORM alice.try('restricted', 'DECLARE planted CURSOR WITH HOLD FOR SELECT alice.at_commit()');
		PERFORM alice.try('restricted', 'INSERT INTO alice.deferring VALUES (3)');
		PERFORM alice.try('restricted', 'PREPARE planted AS SELECT 1');
		PERFORM alice.try('restricted', 'LISTEN planted');
	END IF;
	RETURN n;
END \$\$;

-- conversion of values executes the CHECKs of domains
CREATE FUNCTION alice.is_valid(text) RETURNS boolean LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM alice.become('domain', 'domain');
	RETURN true;
END \$\$;
CREATE DOMAIN alice.checked AS text CHECK (alice.is_valid(VALUE));

CREATE TABLE alice.src (id serial PRIMARY KEY, attack text NOT NULL, dom alice.checked);
ALTER TABLE alice.src REPLICA IDENTITY FULL;
CREATE FUNCTION alice.attack(attack text) RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE format('SELECT alice.%I()', 'attack_' || attack);
	RETURN alice.note(attack, 'end');
END \$\$;
SELECT trucker.create_truck('attack', '{alice.src}',
	\$\$ SELECT alice.attack(attack) FROM r WHERE meta__operation = 'insert' AND alice.planned(1) = 1 AND dom IS NOT NULL \$\$,
	options => jsonb_build_object('reset_sql', \$\$ SELECT alice.become('reset_sql', 'reset') \$\$));

-- another truck of hers, which shares the process
CREATE TABLE alice.peek (id serial PRIMARY KEY, attack text);
SELECT trucker.create_truck('neighbour', '{alice.peek}',
	\$\$ SELECT alice.look('beside ' || attack), alice.note(attack, 'neighbour') FROM r \$\$);
});

# Security-definer functions of somebody else, and functions that carry SET clauses.
$node->safe_psql('postgres', qq{
	CREATE FUNCTION bob.definer() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \$\$
	BEGIN
		PERFORM alice.become('definer', 'bob');
		BEGIN
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM alice.become('definer', 'bob');
		END;
	END \$\$;
	ALTER FUNCTION bob.definer() OWNER TO bob;
	CREATE FUNCTION alice.with_role() RETURNS void LANGUAGE sql SET role = '$super' AS
		\$\$ SELECT alice.note('definer', 'SET role') \$\$;
	ALTER FUNCTION alice.with_role() OWNER TO alice;
	CREATE FUNCTION alice.with_session() RETURNS void LANGUAGE sql SET session_authorization = '$super' AS
		\$\$ SELECT alice.note('definer', 'SET session_authorization') \$\$;
	ALTER FUNCTION alice.with_session() OWNER TO alice;
	CREATE FUNCTION alice.attack_definer() RETURNS void LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM bob.definer();
		PERFORM alice.become('definer', 'alice');
		PERFORM alice.try('definer', 'SELECT alice.with_role()');
		PERFORM alice.try('definer', 'SELECT alice.with_session()');
	END \$\$;
	ALTER FUNCTION alice.attack_definer() OWNER TO alice;
	GRANT EXECUTE ON FUNCTION bob.definer() TO alice});

# attack($name): let the truck run an attack, and its neighbour look what it has left
# behind; wait for the end of both.
sub attack
{
	my ($name) = @_;

	sql('alice', "BEGIN; INSERT INTO alice.src (attack, dom) VALUES ('$name', 'x'); INSERT INTO alice.peek (attack) VALUES ('$name'); COMMIT");
	return caught_up($node, 'attack') && caught_up($node, 'neighbour');
}

# What the truck's processes did in an attack, as SQL conditions on the evidence.
sub evidence
{
	my ($attack, $condition) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT count(*) FROM alice.evidence
		WHERE attack = '$attack' AND process = 'trucker stream' AND ($condition)});
}

# The first attack is in the backfill.  A superuser starts the truck.
sql('alice', q{INSERT INTO alice.src (attack, dom) VALUES ('role', 'x')});
sql('alice', 'TRUNCATE alice.evidence, alice.tried');
start_truck($super, 'attack');
isnt(evidence('role', q{cu = 'alice' AND su = 'alice'}), '0', 'a backfill is attacked');
isnt(evidence('planning', q{cu = 'alice' AND su = 'alice'}), '0', 'planning in the worker is attacked');
is( $node->safe_psql('postgres', q{
	SELECT DISTINCT cu, gained FROM alice.evidence WHERE attack = 'planning' AND process = 'client backend'}),
	'alice|f', 'when a superuser starts a truck, its SQL is planned as its role');
is( $node->safe_psql('postgres', q{
	SELECT string_agg(DISTINCT result, ' ') || ' of ' || count(DISTINCT sql) FROM alice.tried
	WHERE attack = 'restricted' AND process = 'client backend'}),
	'42501 of 5', 'and can leave nothing behind in the session of who starts it');

start_truck('alice', 'neighbour');
sql('alice', 'TRUNCATE alice.evidence, alice.tried');
foreach my $name (
	qw(role handler definer deferred look cursor commit index shadow parallel plant look))
{
	ok(attack($name), "attack: $name");
	isnt(evidence($name, q{moment <> 'neighbour'}), '0', "attack $name has left evidence");
	is( $node->safe_psql('postgres', qq{
			SELECT count(*) > 0 FROM alice.evidence AS a JOIN alice.evidence AS b USING (attack, pid)
			WHERE attack = '$name' AND a.moment = 'end' AND b.moment = 'neighbour' AND a.id < b.id}),
		't', 'the neighbour looked after it, in the same process');
}
is(evidence('deferred', q{moment = 'depth 3'}) > 0 ? 1 : 0, 1, 'deferred triggers fire, also those that a deferred trigger queues');
isnt(evidence('cursor', q{moment = 'commit'}), '0', 'a held cursor is filled at commit');
isnt(evidence('index', q{moment = 'index'}), '0', 'an index expression is evaluated');
isnt(evidence('domain', 'true'), '0', 'a domain\'s CHECK is evaluated when a value is converted');
isnt(evidence('shadow', q{moment = 'operator'}), '0', 'the role\'s own operators serve its own SQL');
is( $node->safe_psql('postgres', q{SELECT result FROM alice.tried WHERE attack = 'parallel'}),
	'alice alice off in parallel', 'a parallel worker is the role, too');
is( $node->safe_psql('postgres', q{
	SELECT string_agg(DISTINCT result, ' ') FROM alice.tried WHERE attack = 'commit' AND sql NOT IN ('COMMIT', 'ABORT', 'PREPARE TRANSACTION ''x''')
	}), '2D000', 'DO and CALL cannot commit or roll back');
is($node->safe_psql('postgres', q{SELECT count(*) FROM alice.tried WHERE attack IN ('commit', 'committing') AND result IN ('ok', 'before')}),
	'0', 'nothing ends the transaction');

# An error leaves no more behind than a commit does.
my $since = now();
sql('alice', q{INSERT INTO alice.src (attack, dom) VALUES ('fail', 'x')});
ok(reports('attack', 'P0001: planted and failed', $since), 'a run that plants and fails');
$since = now();
ok(reports('attack', 'P0001: planted and failed', $since), 'and once more');
sql('alice', 'UPDATE alice.switch SET fails = false');
ok(caught_up($node, 'attack'), 'and heals');
ok(attack('look'), 'and looks again');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM alice.tried WHERE attack = 'plant' AND result = 'ok'}),
	2 * 15, 'what was planted took root');
is($node->safe_psql('postgres', 'SELECT attack, what FROM alice.left_over ORDER BY 1, 2'),
	'', 'one run leaves nothing to the next: tables, functions, cursors, statements, locks, settings');
is($node->safe_psql('postgres', q{SELECT DISTINCT result FROM alice.tried WHERE attack = 'listen'}),
	'0A000', 'nor can it listen');

# A worker whose SQL will not be cancelled ends nevertheless.  It is the neighbour's, too.
ok(wait_state($node, 'attack', 'streaming'), 'the truck is back on its stream');
sql('alice', q{UPDATE alice.switch SET fails = true; INSERT INTO alice.src (attack, dom) VALUES ('hold', 'x')});
ok( $node->poll_query_until('postgres',
		'SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = \'PgSleep\' AND pid = ' . worker_pid($node, 'attack')),
	'SQL that will not be cancelled');
sql('alice', q{SELECT trucker.stop('attack'); INSERT INTO alice.peek (attack) VALUES ('hold')});
ok(wait_state($node, 'attack', 'stopped'), 'is stopped');
ok(caught_up($node, 'neighbour'), 'the neighbour, whose process that was, goes on');
isnt(evidence('hold', q{moment = 'neighbour'}), '0', 'with what it has to do');
sql('alice', 'UPDATE alice.switch SET fails = false');
start_truck('alice', 'attack');
ok(caught_up($node, 'attack'), 'and goes on when it will');

# resync() runs reset_sql.
sql('alice', q{SELECT trucker.resync('attack')});
ok(caught_up($node, 'attack'), 'after a resync');
isnt(evidence('reset_sql', q{cu = 'alice'}), '0', 'reset_sql is attacked');

# The balance.
is( $node->safe_psql('postgres', q{
	SELECT DISTINCT attack, moment, cu, su, is_superuser, gained FROM alice.evidence
	WHERE process = 'trucker stream' AND NOT (cu = 'alice' AND su = 'alice' AND is_superuser = 'off' AND NOT gained)
	ORDER BY 1, 2}),
	'definer|bob|bob|alice|off|f',
	'nothing ran as anybody but the truck\'s role, or the owner of a security-definer function');
is( $node->safe_psql('postgres', q{SELECT DISTINCT attack, moment FROM alice.evidence WHERE gained}),
	'', 'nothing was gained');
is( $node->safe_psql('postgres', q{
	SELECT DISTINCT attack, sql, result FROM alice.tried
	WHERE attack NOT IN ('plant', 'parallel') AND (process = 'trucker stream' OR attack = 'planning') AND result IN ('ok', 'before')}),
	'', 'no attempt succeeded');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'alice'}), 'f', 'alice is no superuser');

sql('alice', q{SELECT trucker.drop_truck('neighbour')});

# CALL as the truck's own statement.
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION alice;
	CREATE TABLE alice.call (id int PRIMARY KEY);
	SELECT trucker.create_truck('call', '{alice.call}', 'CALL alice.committing()')});
start_truck('alice', 'call');
$since = now();
sql('alice', 'INSERT INTO alice.call VALUES (1)');
ok(reports('call', '2D000: invalid transaction termination', $since), 'a procedure that commits fails');
is(sql('alice', q{SELECT count(*) FROM alice.tried WHERE attack = 'committing'}), '0', 'and leaves nothing');
sql('alice', q{SELECT trucker.drop_truck('call')});

# Settings that a run leaves behind do not reach values that are converted later in
# the same batch.
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION alice;
	CREATE TABLE alice.arrays (id int PRIMARY KEY, a text[], d date, i interval);
	ALTER TABLE alice.arrays REPLICA IDENTITY FULL;
	CREATE TABLE alice.arrays_log (LIKE alice.arrays, path text, style text);
	CREATE FUNCTION alice.disturb() RETURNS void LANGUAGE sql AS $$
		SELECT set_config('array_nulls', 'off', false), set_config('search_path', 'pg_temp', false),
			set_config('datestyle', 'German', false) $$;
	SELECT trucker.create_truck('settings', '{alice.arrays}',
		$$ INSERT INTO alice.arrays_log SELECT id, a, d, i, current_setting('search_path'), current_setting('datestyle') FROM r;
		   SELECT alice.disturb() $$)});
start_truck('alice', 'settings');
sql('alice', q{
	BEGIN;
	INSERT INTO alice.arrays VALUES (1, '{a,NULL}', '2024-02-03', '-1 day +02:03');
	UPDATE alice.arrays SET id = id;
	UPDATE alice.arrays SET id = id;
	UPDATE alice.arrays SET id = id;
	COMMIT});
ok(caught_up($node, 'settings'), 'several runs in one batch');
is(sql('alice', 'SELECT DISTINCT id, a, d, i FROM alice.arrays_log'), '1|{a,NULL}|2024-02-03|-1 days +02:03:00',
	'a setting that one run leaves behind changes no value of the next');
is(sql('alice', 'SELECT count(DISTINCT (path, style)) FROM alice.arrays_log'), '1', 'each run starts with the same settings');
sql('alice', q{SELECT trucker.drop_truck('settings')});

# Two owners' SQL never meets in one process, nor does that of two roles of one owner,
# although their streams are called the same.
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION bob;
	CREATE TABLE bob.src (id int PRIMARY KEY);
	SELECT trucker.create_truck('bob', '{bob.src}', $$ SELECT alice.note('bob', 'run') FROM r $$)});
start_truck('bob', 'bob');
sql('bob', 'INSERT INTO bob.src VALUES (1)');
ok(caught_up($node, 'bob'), 'a truck of another owner');
is(evidence('bob', q{cu = 'bob' AND su = 'bob' AND NOT gained}), '1', 'runs as that owner');
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION alice;
	CREATE TABLE alice.for_etl (id int PRIMARY KEY);
	GRANT SELECT ON alice.for_etl TO etl;
	SELECT trucker.create_truck('by_etl', '{alice.for_etl}', $$ SELECT alice.note('by_etl', 'run') FROM r $$,
		options => '{"role": "etl"}')});
start_truck('alice', 'by_etl');
sql('alice', 'INSERT INTO alice.for_etl VALUES (1)');
ok(caught_up($node, 'by_etl'), 'a truck of another role');
is(evidence('by_etl', q{cu = 'etl' AND su = 'etl' AND NOT gained}), '1', 'runs as that role');
ok(wait_state($node, 'attack', 'streaming'), 'one of the owner as herself is on its stream');
sql('alice', q{INSERT INTO alice.src (attack, dom) VALUES ('look', 'x')});
ok(caught_up($node, 'attack'), 'beside one of the owner as herself');
is( $node->safe_psql('postgres', q{
	SELECT count(DISTINCT pid), count(DISTINCT su) FROM alice.evidence
	WHERE process = 'trucker stream' AND pid IN (SELECT pid FROM trucker.truck_workers())}),
	'3|3', 'all three are running');
is( $node->safe_psql('postgres', q{
	SELECT count(*) FROM (SELECT FROM alice.evidence WHERE process = 'trucker stream'
						  GROUP BY pid HAVING count(DISTINCT su) > 1) AS p}),
	'0', 'and no process has run the SQL of two of them');
sql('alice', q{SELECT trucker.drop_truck('by_etl')});

# ----
# ALTER ROLE ... SET
# ----

# a server may have been built without libxml
my $xml = psql_err($node, q{SELECT '<a/>'::xml}) ? 'NULL' : q{xmlparse(content 'a<b/>')};

# What a role's sessions start with must neither break its trucks nor change values.
# Anybody may set anything for himself here, also role and session_authorization.
$node->safe_psql('postgres', qq{
	ALTER ROLE carol SET session_authorization = '$super';
	ALTER ROLE carol SET role = '$super';
	ALTER ROLE carol SET default_transaction_read_only = on;
	ALTER ROLE carol SET default_transaction_isolation = serializable;
	ALTER ROLE carol SET default_transaction_deferrable = on;
	ALTER ROLE carol SET search_path = 'evil';
	ALTER ROLE carol SET array_nulls = off;
	ALTER ROLE carol SET datestyle = 'SQL, DMY';
	ALTER ROLE carol SET intervalstyle = sql_standard;
	ALTER ROLE carol SET timezone = 'Asia/Kathmandu';
	ALTER ROLE carol SET extra_float_digits = -10;
	ALTER ROLE carol SET bytea_output = escape;
	ALTER ROLE carol SET xmloption = document;
	ALTER ROLE carol SET quote_all_identifiers = on;
	ALTER ROLE carol SET statement_timeout = '1ms';
	ALTER ROLE carol SET idle_in_transaction_session_timeout = '1ms';
	ALTER ROLE carol SET idle_session_timeout = '1ms';
	ALTER ROLE carol SET synchronous_commit = remote_apply;
	ALTER ROLE carol SET row_security = off;
	ALTER ROLE carol SET client_encoding = latin1;
	ALTER ROLE carol SET exit_on_error = on;
	ALTER ROLE carol IN DATABASE postgres SET carol.place = 'here';
	ALTER ROLE carol SET carol.place = 'elsewhere'});
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION carol;
	SET search_path = carol;
	CREATE TABLE src (
		id int PRIMARY KEY, a text[], d date, ts timestamp, tz timestamptz, i interval, f float8, b bytea, x xml, m money, c text);
	CREATE TABLE dst (LIKE src, tbl text, cu text, su text, is_superuser text, role text, guc text);
	SELECT trucker.create_truck('carol', '{src}', $$
		INSERT INTO dst SELECT id, a, d, ts, tz, i, f, b, x, m, c, meta__table, current_user, session_user,
			current_setting('is_superuser'), current_setting('role'), current_setting('carol.place')
		FROM r WHERE meta__operation = 'insert' $$, options => '{"toast": "current"}');
	SELECT trucker.start('carol')});
ok(wait_state($node, 'carol', 'streaming'), 'a truck starts whatever its role\'s settings are');
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION carol;
	INSERT INTO carol.src VALUES
		(1, '{a,NULL,"NULL"}', '2024-02-03', '2024-02-03 04:05:06.789', '2024-02-03 04:05:06.789+05:45',
		 '-1 year +2 days -03:04:05.6', 0.1, '\x00ff5c27', XML, '12.34', U&'\0444\20ac'),
		(2, '{{NULL,1},{2,NULL}}', '0044-03-15 BC', 'infinity', '-infinity', '-1 days 02:03:04', 1e-300, '', NULL, '-0.01', '')} =~ s/XML/$xml/r);
ok(caught_up($node, 'carol'), 'streams');
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION carol;
	INSERT INTO carol.src SELECT id + 10, a, d, ts, tz, i, f, b, x, m, c FROM carol.src});
ok(caught_up($node, 'carol'), 'and streams on');
same($node, 'SELECT id, a, d, ts, tz, i, f, b, x::text AS xml, m, c FROM carol.src',
	'SELECT id, a, d, ts, tz, i, f, b, x::text AS xml, m, c FROM carol.dst', 'and no value is changed by its role\'s settings');
is( $node->safe_psql('postgres', 'SELECT DISTINCT cu, su, is_superuser, role FROM carol.dst'), 'carol|carol|off|none',
	'a role that another role is set for is still itself');
is( $node->safe_psql('postgres', 'SELECT DISTINCT tbl FROM carol.dst'), 'carol.src', 'names look as they always do');
is( $node->safe_psql('postgres', 'SELECT DISTINCT guc FROM carol.dst'), 'here', 'other settings are as in the role\'s own sessions');

# An error is reported, and a setting that was the cause is gone with the next start.
$node->safe_psql('postgres', q{
	ALTER ROLE carol SET carol.fails = 'yes';
	SELECT trucker.stop('carol')});
ok(wait_state($node, 'carol', 'stopped'), 'stopped');
$node->safe_psql('postgres', q{
	SET SESSION AUTHORIZATION carol;
	CREATE FUNCTION carol.fail() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('carol.fails', true) = 'yes' THEN
			RAISE EXCEPTION 'carol.fails';
		END IF;
		RETURN new;
	END $$;
	CREATE TRIGGER fail BEFORE INSERT ON carol.dst FOR EACH ROW EXECUTE FUNCTION carol.fail();
	INSERT INTO carol.src (id) VALUES (20)});
$since = now();
$node->safe_psql('postgres', q{SELECT trucker.start('carol')});
ok(reports('carol', 'P0001: carol.fails', $since), 'an error is reported, not fatal, also where exit_on_error is set');
$node->safe_psql('postgres', q{
	ALTER ROLE carol RESET carol.fails;
	SELECT trucker.stop('carol')});
ok(wait_state($node, 'carol', 'stopped'), 'stopped');
start_truck($super, 'carol');
ok(caught_up($node, 'carol'), 'a worker starts with the settings that its role has then');
sql($super, q{SELECT trucker.drop_truck('carol')});

unlike(slurp_file($node->logfile), qr/\b(PANIC|TRAP)\b|terminated by signal/, 'no process has crashed');
$node->stop;

done_testing();
