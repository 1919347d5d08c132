# trucker.check() tells all that start() would refuse, in start()'s own words, and
# changes nothing; trucker.slots, check_replica_identity() and drop_orphans() tell what
# exists, what is missing and what is left over; decode_wal2json() reads what the
# installed wal2json writes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('check', conf => q{
autovacuum = off
trucker.max_retained_wal = '64MB'
});

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# failing($call): the items that are not as they must be
sub failing
{
	return sql("SELECT string_agg(item, '; ') FROM trucker.check($_[0]) WHERE NOT ok");
}

# agrees($truck, $item, $sqlstate, $test_name): start() is refused, and check() names the
# item as the first that fails, with the message, detail and hint of start()
sub agrees
{
	my ($truck, $item, $sqlstate, $test_name) = @_;
	my $error = psql_err($node, "SET client_min_messages = error; SELECT trucker.start('$truck')");
	my ($message) = $error =~ /ERROR:\s+\Q$sqlstate\E: (.*)/;
	my ($detail)  = $error =~ /^DETAIL:\s+(.*)/m;
	my ($hint)    = $error =~ /^HINT:\s+(.*)/m;
	my $row = sql("SELECT item || '|' || detail || '|' || coalesce(split_part(hint, E'\\n', 1), '')
		FROM trucker.check('$truck') WITH ORDINALITY AS c(item, ok, detail, hint, n) WHERE NOT ok ORDER BY n LIMIT 1");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($row, join('|', $item, ($message // "no error: $error") . (defined $detail ? ".  $detail" : ''), $hint // ''), $test_name);
	return;
}

sql(q{
	CREATE ROLE etl;
	CREATE ROLE other;
	CREATE ROLE watcher;
	GRANT pg_read_all_stats TO watcher;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO etl, other;
	GRANT EXECUTE ON FUNCTION trucker.drop_orphans TO watcher;
	CREATE TABLE s (id int PRIMARY KEY, v text, amount numeric);
	CREATE TABLE d (id int PRIMARY KEY, v text, amount numeric);
	CREATE TABLE keyless (id int, v text);
	GRANT SELECT ON s, keyless TO etl;
	GRANT SELECT, INSERT, UPDATE, DELETE ON d TO etl;
	INSERT INTO s SELECT i, 'v' || i, i FROM generate_series(1, 10) i});

my $mirror = q{INSERT INTO d SELECT id, v, amount FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET v = excluded.v};
sql(qq{SET ROLE etl; SELECT trucker.create_truck('t', '{s}', \$\$$mirror\$\$)});

# ----
# All is well
# ----
is(failing(q{'t'}), '', 'nothing fails');
is(sql(q{SELECT count(*) FILTER (WHERE item !~ '^truck '), string_agg(item, '; ') FILTER (WHERE item ~ '^truck ') FROM trucker.check('t')}),
	'11|truck "t": state; truck "t": role; truck "t": destination; truck "t", public.s: input table; truck "t", public.s: right to read; truck "t", public.s: SQL; '
	  . 'truck "t", public.s: replica identity; truck "t", public.s: plans; truck "t", public.s: unchanged TOAST values; truck "t", public.s: values; truck "t": loops',
	'each check is told of');
is(sql(q{SELECT string_agg(item, '; ') FROM trucker.check('t') WHERE hint IS NOT NULL}),
	'truck "t", public.s: unchanged TOAST values; truck "t", public.s: values',
	'what start() only warns of is ok, and has a hint');
is(sql(q{SELECT count(*) = 0 FROM trucker.check('t') WHERE detail IS NULL}), 't', 'each has something to say');
my $before = sql(q{SELECT (SELECT string_agg(s::text, ',') FROM trucker.truck_state s), (SELECT count(*) FROM trucker.stream), (SELECT count(*) FROM pg_replication_slots)});
is(sql(q{BEGIN READ ONLY; SELECT count(*) FROM trucker.check('t') WHERE ok}), '22', 'in a read-only transaction as well');
is(sql(q{SELECT (SELECT string_agg(s::text, ',') FROM trucker.truck_state s), (SELECT count(*) FROM trucker.stream), (SELECT count(*) FROM pg_replication_slots)}),
	$before, 'nothing has been changed');

# ----
# What is wrong: in the words of start(), and all of it at once
# ----
sql('ALTER TABLE s REPLICA IDENTITY NOTHING');
agrees('t', 'truck "t", public.s: replica identity', '55000', 'no replica identity');
sql('REVOKE SELECT ON s FROM etl', 'REVOKE INSERT ON d FROM etl');
agrees('t', 'truck "t", public.s: right to read', '42501', 'no right to read the input table');
is(failing(q{'t'}), 'truck "t", public.s: right to read; truck "t", public.s: replica identity; truck "t", public.s: plans', 'three things are told at once');
sql('ALTER TABLE s REPLICA IDENTITY DEFAULT', 'GRANT SELECT ON s TO etl');
agrees('t', 'truck "t", public.s: plans', '42501', 'no right to write');
sql('GRANT INSERT ON d TO etl', 'ALTER TABLE d DROP CONSTRAINT d_pkey');
agrees('t', 'truck "t", public.s: plans', '42P10', 'no index for ON CONFLICT');
sql('ALTER TABLE d ADD PRIMARY KEY (id)', 'ALTER TABLE s RENAME v TO w');
agrees('t', 'truck "t", public.s: SQL', '42703', 'a column that the SQL names is gone');
sql('ALTER TABLE s RENAME w TO v');
is(failing(q{'t'}), '', 'all is well again');

sql('CREATE TABLE gone (id int PRIMARY KEY)', q{SELECT trucker.create_truck('gone', '{gone}', 'SELECT 1')}, 'DROP TABLE gone');
like(failing(q{'gone'}), qr/^truck "gone", OID \d+: input table$/, 'a dropped input table');
sql(q{SELECT trucker.drop_truck('gone')});

sql(q{SELECT trucker.create_truck('loop', '{d}', 'INSERT INTO s (id) SELECT id FROM r')});
is(failing(q{'loop'}), '', 'a loop with a truck that is stopped is none');
sql(q{SELECT trucker.start('t')});
wait_state($node, 't', 'streaming') or die;
agrees('loop', 'truck "loop": loops', '42P17', 'a loop with one that is started');
sql(q{SELECT trucker.drop_truck('loop')});
is(failing(q{'t'}), '', 'of a truck that runs nothing fails');

setting($node, 'synchronous_standby_names', '*');
agrees('t', 'synchronous_standby_names', '55000', 'commits would wait for trucker itself');
setting($node, 'synchronous_standby_names', undef);
SKIP:
{
	skip 'this server has no output_plugin_libraries', 1 if !server_knows($node, 'output_plugin_libraries');
	setting($node, 'output_plugin_libraries', 'pgoutput');
	agrees('t', 'output plugin allowed', '55000', 'the output plugin is not allowed');
	setting($node, 'output_plugin_libraries', undef);
}
sql(q{SELECT trucker.create_truck('u', '{s}', $$SELECT id FROM r$$, options => '{"stream": "second"}')});
setting($node, 'trucker.replication_conninfo', 'user=nobody_at_all');
agrees('u', 'replication connection', '08001', 'no replication connection');
setting($node, 'trucker.replication_conninfo', undef);
is(failing('NULL'), '', 'NULL: each truck, and nothing fails');
is(sql(q{SELECT count(*) FROM trucker.check() WHERE item ~ 'truck "(t|u)": role'}), '2', 'each of them is told of');

# ----
# Room for WAL: start() does not ask
# ----
is(sql(q{SELECT ok, detail ~ '^trucks keep \d+ of at most 64 MB; \d+ MB are free$', hint IS NULL FROM trucker.check('u') WHERE item = 'WAL headroom'}), 't|t|t', 'the room for WAL');
setting($node, 'trucker.max_retained_wal', '1000TB');
is(failing(q{'u'}), 'WAL headroom', 'less is free than may be kept');
like(sql(q{SELECT detail FROM trucker.check('u') WHERE item = 'WAL headroom'}), qr/^the WAL's disk has \d+ MB free, and trucks may keep \d+ MB more/, 'and it says how much');
setting($node, 'trucker.max_retained_wal', 0);
like(sql(q{SELECT detail FROM trucker.check('u') WHERE item = 'WAL headroom'}), qr/^nothing bounds the WAL/, 'no bound');
setting($node, 'max_slot_wal_keep_size', '32MB');
like(sql(q{SELECT detail FROM trucker.check('u') WHERE item = 'WAL headroom'}), qr/^max_slot_wal_keep_size \(32 MB\) is below trucker.max_retained_wal \(no limit\)/, 'the server\'s own bound comes first');
setting($node, 'max_slot_wal_keep_size', undef);
setting($node, 'trucker.max_retained_wal', '64MB');

# ----
# trucker.refuse_unsafe_types
# ----
my ($rc, $out, $warned) = $node->psql('postgres', q{SELECT trucker.start('t')});
like($warned, qr/WARNING:  wal2json cannot carry NaN and infinity.*DETAIL:.*table public.s: "amount"\./s, 'columns that may hold NaN are warned of');
setting($node, 'trucker.refuse_unsafe_types', 'on');
agrees('t', 'truck "t", public.s: values', '0A000', 'or refused');
like(psql_err($node, q{SET client_min_messages = error; SELECT trucker.alter_truck('t', output_sql => $$INSERT INTO d SELECT id, v, amount FROM r$$)}), qr/0A000: wal2json cannot carry NaN/, 'by alter_truck() as well');
is(failing(q{'u'}), '', 'one that does not read such columns may start');
sql('CREATE DOMAIN exact AS numeric', 'CREATE TABLE e (id int PRIMARY KEY, amount exact)',
	q{SELECT trucker.create_truck('e', '{e}', 'INSERT INTO d (id, amount) SELECT id, amount FROM r')}, q{SELECT trucker.start('e')});
sql(q{INSERT INTO e VALUES (1001, 'NaN')});
caught_up($node, 'e');
is(sql('SELECT amount FROM d WHERE id = 1001'), 'NaN', 'and one that reads a domain, which arrives right');
sql(q{SELECT trucker.drop_truck('e')});
setting($node, 'trucker.refuse_unsafe_types', undef);

# ----
# Whose
# ----
like(psql_err($node, q{SET ROLE other; SELECT * FROM trucker.check('t')}), qr/42501: must be owner of truck "t"/, 'check() of another\'s truck');
is(sql(q{SET ROLE other; SELECT count(*) FROM trucker.check() WHERE item ~ 'truck '}), '0', 'check() of all tells of none of others');
is(sql(q{SET ROLE etl; SELECT count(DISTINCT substring(item from 'truck "\w+"')) FROM trucker.check() WHERE item ~ 'truck '}), '1', 'the owner sees his own');
like(psql_err($node, "SET ROLE watcher; SELECT * FROM trucker.$_"), qr/42501: permission denied for function/, "$_ needs a GRANT") foreach 'check()';
sql(q{REVOKE EXECUTE ON FUNCTION trucker.drop_orphans FROM other});
like(psql_err($node, 'SET ROLE other; SELECT trucker.drop_orphans()'), qr/42501: permission denied for function/, 'drop_orphans() needs a GRANT');

# user code runs as the truck's role, in a check as anywhere else
sql(q{
	CREATE FUNCTION spy() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planned as %', current_user; END$$;
	SET ROLE etl;
	SELECT trucker.create_truck('spy', '{s}', 'INSERT INTO d (id) SELECT id FROM r WHERE id = public.spy()')});
is(sql(q{SELECT detail FROM trucker.check('spy') WHERE NOT ok}), 'planned as etl', 'IMMUTABLE functions are executed as the truck\'s role');
is(sql(q{SELECT current_user || ' ' || (SELECT count(*) FROM trucker.check('spy')) || ' ' || current_user}), 'postgres 22 postgres', 'and the caller is who he was');
sql(q{SELECT trucker.drop_truck('spy')});

# ----
# check_replica_identity
# ----
sub identity
{
	my ($table, $role) = @_;

	return sql(($role ? "SET ROLE $role; " : '') . "SELECT truck, needs, has, ok, alter_table FROM trucker.check_replica_identity('$table')");
}

is(identity('s'), "t|a key|primary key (id)|t|\nu|a key|primary key (id)|t|", 'a primary key is enough');
is(identity('s', 'etl'), 't|a key|primary key (id)|t|', 'one\'s own trucks only');
is(identity('s', 'other'), '|a key, for updates and deletes|primary key (id)|t|', 'with none, what any truck needs');
is(identity('s', 'watcher'), "t|a key|primary key (id)|t|\nu|a key|primary key (id)|t|", 'all, with pg_read_all_stats');
is(identity('keyless'), '|a key, for updates and deletes|nothing, as there is no primary key|f|ALTER TABLE public.keyless REPLICA IDENTITY FULL;', 'no key');
sql('ALTER TABLE keyless ALTER id SET NOT NULL', 'CREATE UNIQUE INDEX partial ON keyless (id) WHERE id > 0',
	'CREATE UNIQUE INDEX nullable ON keyless (v)', 'CREATE UNIQUE INDEX "Fit" ON keyless (id)');
is(identity('keyless'), '|a key, for updates and deletes|nothing, as there is no primary key|f|ALTER TABLE public.keyless REPLICA IDENTITY USING INDEX "Fit";', 'an index that would do is named');
sql('ALTER TABLE public.keyless REPLICA IDENTITY USING INDEX "Fit"');
is(identity('keyless'), '|a key, for updates and deletes|index "Fit" (id)|t|', 'and what it says does it');
sql(q{SELECT trucker.create_truck('old', '{s, keyless}', 'SELECT old__v FROM r')}, q{SELECT trucker.create_truck('ins', '{s, keyless}', 'SELECT 1 FROM r', options => '{"inserts_only": true}')},
	q{SELECT trucker.create_truck('net', '{s, keyless}', 'SELECT 1 FROM r', options => '{"changes": "net"}')},
	q{SELECT trucker.create_truck('bad', '{keyless}', 'SELECT nothing FROM r')});
is(identity('keyless'), join("\n",
	'bad|unknown: its SQL does not fit the table, see trucker.check()|index "Fit" (id)||',
	'ins|nothing: it passes over updates and deletes|index "Fit" (id)|t|',
	'net|a primary key, or an index chosen by REPLICA IDENTITY|index "Fit" (id)|t|',
	'old|old values of columns outside of the key: v|index "Fit" (id)|f|ALTER TABLE public.keyless REPLICA IDENTITY FULL;'), 'each truck has needs of its own');
sql(q{SELECT trucker.drop_truck('bad')}, 'ALTER TABLE public.s REPLICA IDENTITY FULL');
is(sql(q{SELECT string_agg(truck || ' ' || ok, ', ') FROM trucker.check_replica_identity('s')}), 'ins true, net true, old true, t true, u true', 'FULL is enough for all, where there is a primary key');
sql('ALTER TABLE s REPLICA IDENTITY DEFAULT', 'ALTER TABLE keyless REPLICA IDENTITY NOTHING');
is(sql(q{SELECT string_agg(truck || ' ' || ok || coalesce(' ' || alter_table, ''), ', ') FROM trucker.check_replica_identity('keyless')}),
	'ins true, net false ALTER TABLE public.keyless REPLICA IDENTITY USING INDEX "Fit";, old false ALTER TABLE public.keyless REPLICA IDENTITY FULL;', 'nothing is enough for inserts');
sql("SELECT trucker.drop_truck('$_')") foreach qw(old ins net);
sql(q{
	CREATE TABLE parted (a int, b int, c int) PARTITION BY LIST (a);
	CREATE TABLE p1 PARTITION OF parted (PRIMARY KEY (b)) FOR VALUES IN (1);
	CREATE TABLE p2 (c int NOT NULL, b int, dropped int, a int);
	ALTER TABLE p2 DROP dropped;
	ALTER TABLE parted ATTACH PARTITION p2 FOR VALUES IN (2);
	CREATE UNIQUE INDEX ON p2 (c)});
is(sql(q{SELECT logged_table, has, ok, alter_table FROM trucker.check_replica_identity('parted')}),
	"p1|primary key (b)|t|\np2|nothing, as there is no primary key|f|ALTER TABLE public.p2 REPLICA IDENTITY USING INDEX p2_c_idx;", 'of a partitioned table, each partition');
like(psql_err($node, q{SELECT * FROM trucker.check_replica_identity('trucker.status')}), qr/42809: trucker.status is not a table/, 'a view');
like(psql_err($node, q{SELECT * FROM trucker.check_replica_identity(1)}), qr/42P01: relation with OID 1 does not exist/, 'no table');

# ----
# Slots, and those that nobody needs
# ----
sql(q{SELECT trucker.start('u')});
wait_state($node, $_, 'streaming') or die foreach 't', 'u';
is(sql(q{SELECT stream, owner, trucks, active_pid IS NOT NULL, wal_status, kept_bytes >= 0, kept_for FROM trucker.slots ORDER BY 1}),
	"main|etl|{t}|t|reserved|t|running: t\nsecond|postgres|{u}|t|reserved|t|running: u", 'slots: whose, and why each is kept');
is(sql(q{SET ROLE etl; SELECT stream FROM trucker.slots}), 'main', 'the owner sees his own');
is(sql(q{SET ROLE other; SELECT count(*) FROM trucker.slots}), '0', 'others see none');
is(sql(q{SET ROLE watcher; SELECT count(*) FROM trucker.slots}), '2', 'members of pg_read_all_stats see all');
sql(q{SELECT trucker.stop('u')});
wait_state($node, 'u', 'stopped') or die;
$node->poll_query_until('postgres', q{SELECT kept_for = 'stopped or failed, and yet to read on: u' AND active_pid IS NULL FROM trucker.slots WHERE stream = 'second'})
  or die;
sql(q{INSERT INTO s SELECT i FROM generate_series(101, 5000) i});
cmp_ok(sql(q{SELECT kept_bytes FROM trucker.slots WHERE stream = 'second'}), '>', 200000, 'what a stopped truck makes the server keep');

# no probe comes in between: the one after the worker's end has been, and no other will
$node->poll_query_until('postgres', q{SELECT confirmed_lsn IS NOT NULL FROM trucker.stream WHERE name = 'second'}) or die;
my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'trucker launcher'});
kill 'STOP', $launcher;
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'trucker probe'}) or die;
my $oid = sql('SELECT oid FROM pg_database WHERE datname = current_database()');
my $orphan = "trucker_${oid}_0123456789abcdef";
my $held   = "trucker_${oid}_fedcba9876543210";
sql("SELECT pg_create_logical_replication_slot(s, 'test_decoding') FROM unnest('{$orphan, $held, trucker_mine, trucker_1_0123456789abcdef, trucker_${oid}_0123456789ABCDEF}'::text[]) s WHERE s !~ '[A-F]\$'");
is(sql(qq{SELECT stream IS NULL, trucks IS NULL, kept_for FROM trucker.slots WHERE slot_name = '$orphan'}),
	't|t|no stream needs it: trucker.drop_orphans()', 'a slot that no stream needs is shown');
is(sql(q{SELECT count(*) FROM trucker.slots}), '4', 'slots of other names are not');
is(sql(q{SET ROLE etl; SELECT count(*) FROM trucker.slots}), '1', 'it is shown to pg_read_all_stats only');
like(psql_err($node, q{BEGIN; CREATE TABLE x (); SELECT trucker.drop_orphans()}), qr/25001: drop_orphans cannot be called in a transaction that has written/, 'not in a transaction that has written');

# somebody reads from one of them: a walsender that holds it
my $recv = IPC::Run::start(
	[ 'pg_recvlogical', '-d', $node->connstr('postgres'), '-S', $held, '--start', '-f', '-', '--no-loop' ],
	'>', \my $stdout, '2>', \my $stderr);
$node->poll_query_until('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = '$held'") or die;
is(sql(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT string_agg(s, ',') FROM trucker.drop_orphans() s; ROLLBACK}), $orphan, 'drop_orphans() drops it, and nothing else');
is(sql(qq{SELECT kept_for FROM trucker.slots WHERE slot_name = '$held'}), 'no stream needs it, but a process holds it', 'one that is held stays');
$recv->signal('INT');
$recv->finish;
$node->poll_query_until('postgres', "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '$held'") or die;
is(sql(q{SET ROLE watcher; SELECT trucker.drop_orphans()}), $held, 'whoever has been granted it drops that, too');
is(sql(q{SELECT count(*) FROM trucker.drop_orphans()}), '0', 'then there is none');
is(sql(q{SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE slot_name NOT IN (SELECT slot_name FROM trucker.slots)}),
	'trucker_1_0123456789abcdef,trucker_mine', 'slots of other names stay');

# one that was dropped under its stream
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM trucker.slots WHERE stream = 'second'});
is(sql(q{SELECT active_pid IS NULL, wal_status IS NULL, kept_for FROM trucker.slots WHERE stream = 'second'}), 't|t|it does not exist: its trucks are lost', 'a slot that should be there and is not');
kill 'CONT', $launcher;
sql(q{SELECT trucker.drop_truck('u')}, q{SELECT pg_drop_replication_slot(s) FROM unnest('{trucker_1_0123456789abcdef, trucker_mine}'::text[]) s});

# ----
# Messages as the installed wal2json writes them
# ----
sql(q{
	CREATE SCHEMA "Odd ""name""";
	CREATE TABLE "Odd ""name""".k (id int PRIMARY KEY, "a b" text, n numeric, f float8, b boolean, by bytea, ts timestamptz, arr int[]);
	CREATE TABLE "Odd ""name""".f (LIKE "Odd ""name""".k);
	ALTER TABLE "Odd ""name""".f REPLICA IDENTITY FULL;
	SELECT pg_create_logical_replication_slot(s, 'wal2json') FROM unnest('{v1, v2}'::text[]) s;
	SELECT pg_logical_emit_message(false, 'q', '');
	BEGIN;
	INSERT INTO "Odd ""name""".k VALUES (1, E'x"\\\\y\\n\\u0001é', 1.50, 'NaN', true, '\\xdeadbeef', '2024-02-29 12:34:56+00', '{1,NULL}');
	INSERT INTO "Odd ""name""".k VALUES (2);
	INSERT INTO "Odd ""name""".f SELECT * FROM "Odd ""name""".k WHERE id = 1;
	UPDATE "Odd ""name""".k SET "a b" = 'new' WHERE id = 1;
	UPDATE "Odd ""name""".k SET id = 3 WHERE id = 2;
	UPDATE "Odd ""name""".f SET n = 2 WHERE id = 1;
	DELETE FROM "Odd ""name""".k WHERE id = 1;
	DELETE FROM "Odd ""name""".f;
	SELECT pg_logical_emit_message(true, 'p', 'c"');
	COMMIT});
my $options = q{'include-xids', '1', 'include-timestamp', '1', 'include-lsn', '1', 'include-types', '1', 'include-type-oids', '1', 'include-not-null', '1', 'include-default', '1', 'include-column-positions', '1', 'include-pk', '1', 'include-origin', '1'};
my $rows = q{operation, schema_name, table_name, new_names, new_types, new_values, old_names, old_types, old_values, transactional, prefix, content};
my $v1 = sql("SELECT $rows FROM pg_logical_slot_peek_changes('v1', NULL, NULL, 'format-version', '1', $options) WITH ORDINALITY AS m (lsn, xid, data, o), trucker.decode_wal2json(data) ORDER BY o, n");
my $v2 = sql("SELECT $rows FROM pg_logical_slot_peek_changes('v2', NULL, NULL, 'format-version', '2', $options) WITH ORDINALITY AS m (lsn, xid, data, o), trucker.decode_wal2json(data) ORDER BY o, n");
cmp_ok(scalar(my @lines = split /^(?=insert|update|delete|message)/m, $v1), '==', 10, 'format 1, with all options: each change is a row');
is($v1, $v2, 'format 2 gives the same rows');
is(sql("SELECT $rows FROM pg_logical_slot_peek_changes('v1', NULL, NULL, 'format-version', '1', $options, 'pretty-print', '1') WITH ORDINALITY AS m (lsn, xid, data, o), trucker.decode_wal2json(data) ORDER BY o, n"),
	$v1, 'pretty-print means nothing');
like($v1, qr/^insert\|Odd "name"\|k\|\{id,"a b",n,f,b,by,ts,arr\}\|.*\{1,"x\\"\\\\y\n\x01\xc3\xa9",1\.50,NULL,true,deadbeef,"2024-02-29 12:34:56\+00","\{1,NULL\}"\}/m, 'and the values are those of the table');
is(sql("SELECT count(*), count(DISTINCT d.xid), bool_and(d.xid::text = m.xid::text AND d.end_lsn > '0/0' AND d.committed_at > now() - interval '1 h')
	FROM pg_logical_slot_peek_changes('v1', NULL, NULL, 'format-version', '1', $options) AS m, trucker.decode_wal2json(data) AS d WHERE operation <> 'message' OR transactional"), '9|1|t', 'xid, LSN and time of format 1');
is(sql("SELECT bool_and(d.lsn > '0/0' AND d.committed_at > now() - interval '1 h')
	FROM pg_logical_slot_peek_changes('v2', NULL, NULL, 'format-version', '2', $options) AS m, trucker.decode_wal2json(data) AS d WHERE operation <> 'message' OR transactional"), 't', 'LSN and time of format 2');

# where they differ: format 1 leaves out what was null in a whole old row
sql(q{SELECT pg_replication_slot_advance(s, pg_current_wal_lsn()) FROM unnest('{v1, v2}'::text[]) s},
	q{INSERT INTO "Odd ""name""".f (id) VALUES (7); DELETE FROM "Odd ""name""".f});
is(sql("SELECT old_names FROM pg_logical_slot_peek_changes('v1', NULL, NULL, 'format-version', '1') m, trucker.decode_wal2json(data) WHERE operation = 'delete'"), '{id}', 'format 1: an absent old value is not there');
is(sql("SELECT old_values FROM pg_logical_slot_peek_changes('v2', NULL, NULL, 'format-version', '2') m, trucker.decode_wal2json(data) WHERE operation = 'delete'"),
	'{7,NULL,NULL,NULL,NULL,NULL,NULL,NULL}', 'format 2: a null one is null');
sql(q{SELECT pg_drop_replication_slot(s) FROM unnest('{v1, v2}'::text[]) s});
sql(q{SELECT trucker.stop('t')});
wait_state($node, 't', 'stopped') or die;

$node->stop;

# ----
# A server without trucker, and without logical WAL
# ----
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nwal_level = replica\nmax_wal_senders = 0\nmax_replication_slots = 20");
unlink glob($node->data_dir . '/pg_replslot/*/state');
rmdir foreach glob($node->data_dir . '/pg_replslot/*');
$node->start;
is(sql(q{SELECT string_agg(item, '; ') FROM trucker.check('t') WHERE NOT ok AND item !~ '^truck'}), 'shared_preload_libraries; wal_level; WAL senders', 'what a server lacks is told at once');
is(sql(q{SELECT count(*) FROM trucker.check('t') WHERE ok AND item ~ '^truck'}), '11', 'and trucks are looked at all the same');
is(sql(q{SELECT kept_for FROM trucker.slots}), 'it does not exist: its trucks are lost', 'slots work as well');
$node->stop;

done_testing();
