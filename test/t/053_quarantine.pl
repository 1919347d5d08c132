# on_error = "quarantine": a source transaction that cannot be applied is put aside
# whole, with its error, and the truck goes on; the order of the changes of each row
# holds.  Its owner, and nobody else, sees the rows, and has them applied or discarded.
# And skip(), which passes over one.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'quarantine',
	conf => q{
log_line_prefix = '%m [%p] '
trucker.retry_max_delay = '200ms'
trucker.max_truck_delay = '1min'
trucker.max_failures = 3
});

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Wait until the query returns true.
sub becomes
{
	my ($query, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', "SELECT coalesce(($query), false)"), $name)
	  or diag sql(q{SELECT truck, state, quarantined, last_error FROM trucker.status});
	return;
}

sub there
{
	my ($truck, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(caught_up($node, $truck), $name);
	return;
}

# What a truck has in quarantine.
sub quarantined
{
	my ($truck) = @_;

	return sql(qq{
SELECT string_agg(operation || ' ' || coalesce(old ->> 'id', '') || '>' || coalesce(new ->> 'id', '') ||
	CASE WHEN behind IS NULL THEN '' ELSE ' parked' END, ', ' ORDER BY lsn, seq)
FROM trucker.quarantine WHERE truck = '$truck'});
}

sub id_of
{
	my ($truck, $where) = @_;

	return sql("SELECT DISTINCT id FROM trucker.quarantine WHERE truck = '$truck' AND $where");
}

sub mirror
{
	my ($truck, $table, $more) = @_;

	sql(qq{
SELECT trucker.create_truck('$truck', '{$table}', \$\$
	DELETE FROM ${truck}_out AS o USING r WHERE o.id = r.old__id AND r.id IS DISTINCT FROM r.old__id;
	INSERT INTO ${truck}_out SELECT id, v FROM r WHERE id IS NOT NULL
	ON CONFLICT (id) DO UPDATE SET v = excluded.v
\$\$, options => '{"on_error": "quarantine", "reset_sql": "DELETE FROM ${truck}_out"$more}');
SELECT trucker.start('$truck')});
	there($truck, "$truck is loaded");
	return;
}

sub same_as_source
{
	my ($truck, $table, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	there($truck, "$name: it is there");
	same($node, "SELECT id, v::int FROM $table", "SELECT id, v::int FROM ${truck}_out", $name);
	return;
}

# ----
# A source transaction that fails
# ----

sql(q{
CREATE TABLE item (id int PRIMARY KEY, v int);
INSERT INTO item SELECT n, n FROM generate_series(1, 10) AS n;
CREATE TABLE strict_out (id int PRIMARY KEY, v int CONSTRAINT no_thirteen CHECK (v <> 13));
CREATE TABLE easy_out (id int PRIMARY KEY, v int);
});
# two trucks of one stream, of which one is at fault
mirror('strict', 'item', '');
mirror('easy', 'item', '');
becomes(q{SELECT bool_and(state = 'streaming' AND stream = 'main') FROM trucker.status}, 'both share a stream');
is(sql(q{SELECT sum(quarantined) FROM trucker.status}), '0', 'nothing is in quarantine');

my $log = -s $node->logfile;
sql(q{
BEGIN; UPDATE item SET v = 13 WHERE id = 1; UPDATE item SET v = 20 WHERE id = 2; INSERT INTO item VALUES (11, 11); COMMIT;
UPDATE item SET v = 30 WHERE id = 3;
});
there('strict', 'it goes on behind what fails');
is(quarantined('strict'), 'update 1>1, update 2>2, insert >11', 'all of the source transaction is put aside, in order');
is(sql(q{SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM strict_out WHERE id IN (1, 2, 3, 11)}), '1=1 2=2 3=30', 'and nothing of it is applied');
like(sql(q{SELECT min(error) FROM trucker.quarantine}), qr/^23514: new row for relation "strict_out" violates check constraint "no_thirteen"\nDETAIL:.*CONTEXT:.*truck "strict"/s, 'with its error');
is(sql(q{SELECT count(DISTINCT (id, lsn, xid, committed_at)), bool_and(table_name = 'public.item' AND NOT to_be_retried AND retried_at IS NULL) FROM trucker.quarantine}), '1|t', 'under one number');
is(sql(q{SELECT truck, quarantined FROM trucker.status ORDER BY truck}), "easy|0\nstrict|3", 'status counts the changes');
$node->wait_for_log(qr/truck "strict": source transaction \d+ committed at \S+ has been put into quarantine\n.*DETAIL:  It has 3 changes/, $log);
pass('the log tells');
same_as_source('easy', 'item', 'the other truck has all');
becomes(q{SELECT bool_and(state = 'streaming' AND stream = 'main') FROM trucker.status}, 'both are on their stream');

# Later changes of the same rows wait; those of others, of the same transaction, do not.
sql(q{
BEGIN; UPDATE item SET v = 21 WHERE id = 2; UPDATE item SET v = 40 WHERE id = 4; COMMIT;
UPDATE item SET id = 12 WHERE id = 11;
DELETE FROM item WHERE id = 12;
INSERT INTO item VALUES (12, 1200), (11, 1100);
UPDATE item SET v = 50 WHERE id = 5;
});
there('strict', 'later changes');
is(quarantined('strict'), 'update 1>1, update 2>2, insert >11, update 2>2 parked, update 11>12 parked, delete 12> parked, insert >12 parked, insert >11 parked',
	'what changes rows that are in quarantine is parked, moved keys included');
is(sql(q{SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM strict_out}), '1=1 2=2 3=30 4=40 5=50 6=6 7=7 8=8 9=9 10=10', 'all else is applied');
my $first = id_of('strict', 'behind IS NULL');
is(sql(qq{SELECT string_agg(DISTINCT error, ';') FROM trucker.quarantine WHERE behind IS NOT NULL}), join(';', sort map { "one of its keys was in quarantine, since $_" } $first, id_of('strict', "operation = 'update' AND old ->> 'id' = '11'")),
	'and says since which one');

# ----
# Retrying
# ----

like(psql_err($node, 'SELECT trucker.retry_quarantined(0)'), qr/ERROR:  42704: quarantined transaction 0 does not exist\nHINT/, 'a number that does not exist');
my $later = id_of('strict', "operation = 'delete'");
like(psql_err($node, "SELECT trucker.retry_quarantined($later)"), qr/ERROR:  55000: quarantined transaction $later cannot be retried before \d+\nDETAIL:  Both of them change the same row of table public.item.\nHINT:  SELECT trucker.retry_quarantined\(\d+\)/, 'order per key holds');

# The cause is still there: the error is kept, and the truck goes on.
my $before = quarantined('strict');
sql("SELECT trucker.retry_quarantined($first)");
becomes("SELECT bool_and(retried_at IS NOT NULL AND NOT to_be_retried AND retry_error LIKE '23514: %') FROM trucker.quarantine WHERE id = $first", 'a retry that fails keeps its error');
is(quarantined('strict'), $before, 'nothing else has changed');
sql('UPDATE item SET v = 60 WHERE id = 6');
there('strict', 'the truck is not disturbed');
is(sql(q{SELECT state || ' ' || (SELECT v FROM strict_out WHERE id = 6) FROM trucker.status WHERE truck = 'strict'}), 'streaming 60', 'it streams');

# Not by itself, and not before the commit.
sql("BEGIN; SELECT trucker.retry_quarantined($first); ROLLBACK");
sql('ALTER TABLE strict_out DROP CONSTRAINT no_thirteen');
sql('UPDATE item SET v = 61 WHERE id = 6');
there('strict', 'without a commit');
is(quarantined('strict'), $before, 'nothing is retried');
sql("SELECT trucker.retry_quarantined($first)");
becomes(q{SELECT quarantined = 0 FROM trucker.status WHERE truck = 'strict'}, 'what was parked behind it follows');
same_as_source('strict', 'item', 'the destination is as the source');
sql('UPDATE item SET v = v + 1');
there('strict', 'their rows are changed again');
is(quarantined('strict'), '', 'the keys are free');
same_as_source('strict', 'item', 'and all is right');

# All of a truck, in order.  Some succeed, some not, and those behind them neither.
sql(q{ALTER TABLE strict_out ADD CONSTRAINT no_thirteen CHECK (v <> 13) NOT VALID, ADD CONSTRAINT no_fourteen CHECK (v <> 14) NOT VALID});
sql(q{
UPDATE item SET v = 13 WHERE id = 1;
UPDATE item SET v = 100 WHERE id = 1;
UPDATE item SET v = 14 WHERE id = 2;
UPDATE item SET v = 200 WHERE id = 2;
});
there('strict', 'two of them fail');
is(quarantined('strict'), 'update 1>1, update 1>1 parked, update 2>2, update 2>2 parked', 'both are there');
sql('ALTER TABLE strict_out DROP CONSTRAINT no_fourteen');
is(sql(q{SELECT trucker.retry_quarantined('strict')}), '4', 'all of the truck');
becomes(q{SELECT count(*) = 2 AND bool_and(NOT to_be_retried AND retried_at IS NOT NULL) FROM trucker.quarantine}, 'what can be applied is');
is(quarantined('strict'), 'update 1>1, update 1>1 parked', 'the rest stays');
like(sql(q{SELECT retry_error FROM trucker.quarantine WHERE behind IS NOT NULL}), qr/^an earlier quarantined transaction, number \d+, holds one of its keys$/, 'and says why');
is(sql('SELECT v FROM strict_out WHERE id = 2'), '200', 'in order');

# ----
# Discarding
# ----

$first = id_of('strict', 'behind IS NULL');
sql("BEGIN; SELECT trucker.discard_quarantined($first); ROLLBACK");
is(quarantined('strict'), 'update 1>1, update 1>1 parked', 'a discard that is rolled back');
sql("SELECT trucker.discard_quarantined($first)");
is(quarantined('strict'), 'update 1>1 parked', 'what was parked behind it stays');
like(psql_err($node, "SELECT trucker.discard_quarantined($first)"), qr/ERROR:  42704: quarantined transaction $first does not exist/, 'it is gone');
sql('UPDATE item SET v = 101 WHERE id = 1');
there('strict', 'a later change');
is(quarantined('strict'), 'update 1>1 parked, update 1>1 parked', 'keeps its place behind it');
is(sql(q{SELECT trucker.retry_quarantined('strict')}), '2', 'which can be retried');
becomes(q{SELECT quarantined = 0 FROM trucker.status WHERE truck = 'strict'}, 'and is applied');
same_as_source('strict', 'item', 'the row is as its last change left it');
sql('UPDATE item SET v = 13 WHERE id = 3');
there('strict', 'one more');
is(sql(q{SELECT trucker.discard_quarantined('strict')}), '1', 'all of the truck are discarded');
sql('UPDATE item SET v = 33 WHERE id = 3');
becomes(q{SELECT count(*) = 0 FROM trucker.quarantine}, 'nothing is there');
same_as_source('strict', 'item', 'keys are free');

# ----
# Errors of all kinds
# ----

# A constraint that is checked at commit; values that do not convert, in the table and
# in the SQL; a column that wal2json could not carry.
sql(q{
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CREATE TABLE src (id small PRIMARY KEY, v text, f float8 NOT NULL DEFAULT 0);
CREATE TABLE deferred_out (id int PRIMARY KEY, v text, f float8);
CREATE FUNCTION no_two() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.v = '2' THEN RAISE 'no two' USING ERRCODE = 'P0001'; END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER no_two AFTER INSERT OR UPDATE ON deferred_out DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no_two();
SELECT trucker.create_truck('deferred', '{src}',
	'INSERT INTO deferred_out SELECT id, v::int, f FROM r WHERE meta__operation <> ''delete'' ON CONFLICT (id) DO UPDATE SET v = excluded.v, f = excluded.f',
	options => '{"on_error": "quarantine"}');
SELECT trucker.start('deferred');
});
there('deferred', 'a truck with a deferred trigger');
sql(q{INSERT INTO src VALUES (1, '1'); INSERT INTO src VALUES (2, '2'); INSERT INTO src VALUES (3, 'three'); INSERT INTO src VALUES (4, '4', 'NaN')});
# 500 is read by the worker after the domain has become narrower
sql(q{SELECT trucker.stop('deferred')});
becomes(q{SELECT state = 'stopped' FROM trucker.status WHERE truck = 'deferred'}, 'it is stopped');
sql(q{INSERT INTO src VALUES (500, '5'); ALTER DOMAIN small DROP CONSTRAINT small_check; ALTER DOMAIN small ADD CHECK (VALUE < 100) NOT VALID; SELECT trucker.start('deferred')});
sql(q{INSERT INTO src VALUES (6, '6')});
there('deferred', 'it passes all of them');
# pgoutput carries NaN
my $carried = ($ENV{TRUCKER_OUTPUT_PLUGIN} // '') eq 'pgoutput';
is(sql(q{SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM deferred_out}), $carried ? '1=1 4=4 6=6' : '1=1 6=6', 'what can be applied is');
is(sql(q{SELECT string_agg((new ->> 'id') || ' ' || left(error, 5), ', ' ORDER BY lsn) FROM trucker.quarantine WHERE truck = 'deferred'}), '2 P0001, 3 22P02, ' . ($carried ? '' : '4 0A000, ') . '500 23514', 'an error at commit, in the SQL, of a lost value, of a domain');
sql(q{ALTER DOMAIN small DROP CONSTRAINT small_check; DROP TRIGGER no_two ON deferred_out});
is(sql(q{SELECT trucker.retry_quarantined('deferred')}), $carried ? '3' : '4', 'with two causes gone');
becomes(q{SELECT bool_and(NOT to_be_retried) FROM trucker.quarantine}, 'all are retried');
is(sql(q{SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM deferred_out}), $carried ? '1=1 2=2 4=4 6=6 500=5' : '1=1 2=2 6=6 500=5', 'and two succeed');
is(sql(q{SELECT trucker.drop_truck('deferred'); SELECT count(*) FROM trucker.quarantined_transaction}), "\n0", 'a truck that is dropped leaves nothing');

# Transient errors never put anything into quarantine; nor does one that makes a truck lost.
sql(q{
CREATE FUNCTION may_fail(x int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM transient) THEN RAISE 'wait' USING ERRCODE = (SELECT code FROM transient); END IF;
	RETURN x;
END $$;
CREATE TABLE transient (code text);
ALTER TABLE strict_out ADD CHECK (may_fail(v) IS NOT NULL);
INSERT INTO transient VALUES ('55P03');
UPDATE item SET v = 77 WHERE id = 7;
});
becomes(q{SELECT last_error LIKE '55P03: wait%' AND failed_lsn IS NOT NULL FROM trucker.status WHERE truck = 'strict'}, 'a transient error');
my $seen = sql(q{SELECT last_error_at FROM trucker.status WHERE truck = 'strict'});
becomes("SELECT last_error_at > '$seen' FROM trucker.status WHERE truck = 'strict'", 'again');
is(quarantined('strict'), '', 'is retried');
sql(q{DELETE FROM transient});
same_as_source('strict', 'item', 'until it goes away');

# ----
# Rights
# ----

sql(q{
CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE stats LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE deputy LOGIN;
GRANT pg_read_all_stats TO stats; GRANT pg_read_all_data, pg_write_all_data TO reader; GRANT ann TO deputy;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO ann, bob, stats, reader, deputy;
CREATE TABLE secret (id int PRIMARY KEY, v int);
CREATE TABLE mine_out (id int PRIMARY KEY, v int CHECK (v <> 13));
GRANT SELECT ON secret TO ann; ALTER TABLE mine_out OWNER TO ann;
CREATE TABLE whoami (who name); GRANT INSERT ON whoami TO PUBLIC;
});
sub as
{
	my ($role, $sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return $rc == 0 ? $stdout : $stderr;
}
as('ann', q{
SELECT trucker.create_truck('mine', '{secret}', 'INSERT INTO mine_out SELECT id, v FROM r ON CONFLICT (id) DO UPDATE SET v = excluded.v; INSERT INTO whoami VALUES (current_user)',
	options => '{"on_error": "quarantine"}');
SELECT trucker.start('mine')});
there('mine', 'a truck of a user');
sql('INSERT INTO secret VALUES (1, 13)');
there('mine', 'fails');
my $hers = id_of('mine', 'true');
is(as('ann', 'SELECT truck, new FROM trucker.quarantine'), 'mine|{"v": "13", "id": "1"}', 'its owner sees the row');
is(as('deputy', 'SELECT count(*) FROM trucker.quarantine'), '1', 'and so does a member of the owner');
is(as($_, 'SELECT count(*) FROM trucker.quarantine'), '0', "$_ does not") foreach qw(bob stats reader);
is(as('stats', q{SELECT quarantined FROM trucker.status WHERE truck = 'mine'}), '1', 'pg_read_all_stats sees how many there are');
is(as('stats', q{SELECT last_error ~ '^[0-9A-Z]{5}$' FROM trucker.status WHERE truck = 'mine'}), 't', 'and of the error, which may show values, the SQLSTATE');
is(as('reader', 'SELECT count(*) FROM trucker.quarantined_change'), '0', 'pg_read_all_data sees no rows of the table');
foreach my $call ("retry_quarantined($hers)", "discard_quarantined($hers)")
{
	like(as('bob', "SELECT trucker.$call"), qr/ERROR:  42501: must be owner of the truck that quarantined transaction $hers belongs to/, "others may not call $call");
}
like(as('bob', "SELECT trucker.$_"), qr/ERROR:  42501: must be owner of truck "mine"/, "nor $_") foreach "retry_quarantined('mine')", "discard_quarantined('mine')", "skip('mine', '0/1')";
is(sql(q{SELECT string_agg(p.proname, ' ') FROM pg_proc p WHERE pronamespace = 'trucker'::regnamespace AND proname ~ 'quarantined|skip' AND has_function_privilege('public', p.oid, 'EXECUTE')}), '', 'nobody may by default');
sql('ALTER TABLE mine_out DROP CONSTRAINT mine_out_v_check; TRUNCATE whoami');
is(as('deputy', q{SELECT trucker.retry_quarantined('mine')}), '1', 'a member of the owner may');
becomes('SELECT count(*) = 0 FROM trucker.quarantined_change', 'it is applied');
is(sql('SELECT string_agg(DISTINCT who, $$ $$) FROM whoami'), 'ann', "with the truck's rights");
as('ann', q{SELECT trucker.drop_truck('mine')});

# ----
# The bound
# ----

sql(q{ALTER SYSTEM SET trucker.max_quarantined = 5});
sql(q{ALTER TABLE strict_out ADD CONSTRAINT nothing CHECK (v < -1) NOT VALID});
$node->reload;
sql("UPDATE item SET v = 1000 + $_ WHERE id = $_") foreach 1 .. 5;
there('strict', 'up to the bound it goes on');
sql('UPDATE item SET v = 1006 WHERE id = 6');
becomes(q{SELECT state = 'failed' AND quarantined = 5 AND last_error LIKE '54000: the truck would have more than 5 changes in quarantine%HINT:%retry_quarantined%' FROM trucker.status WHERE truck = 'strict'}, 'beyond it the truck is stopped');
same_as_source('easy', 'item', 'others are not');
sql(q{ALTER TABLE strict_out DROP CONSTRAINT nothing});
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{SELECT trucker.retry_quarantined('strict')});
is($stdout, '5', 'what is there can be retried');
like($stderr, qr/NOTICE:  truck "strict" is stopped: its quarantined transactions are retried when it is started/, 'which will be when it is started');
sql(q{SELECT trucker.start('strict')});
same_as_source('strict', 'item', 'started');
becomes(q{SELECT quarantined = 0 AND state = 'streaming' FROM trucker.status WHERE truck = 'strict'}, 'with nothing in quarantine');

# ... also where it is parked changes that are too many
sql('UPDATE item SET v = 13 WHERE id = 9');
there('strict', 'one that fails');
sql("UPDATE item SET v = 900 + $_ WHERE id = 9") foreach 1 .. 6;
becomes(q{SELECT state = 'failed' AND quarantined = 5 FROM trucker.status WHERE truck = 'strict'}, 'a row that is changed too often');
sql(q{ALTER TABLE strict_out DROP CONSTRAINT no_thirteen; SELECT trucker.retry_quarantined('strict'); SELECT trucker.start('strict')});
same_as_source('strict', 'item', 'retried before it goes on');
becomes(q{SELECT quarantined = 0 AND state = 'streaming' FROM trucker.status WHERE truck = 'strict'}, 'there is room again');
sql('ALTER TABLE strict_out ADD CONSTRAINT no_thirteen CHECK (v <> 13) NOT VALID');

# ... also for one source transaction that has more
sql(q{ALTER TABLE strict_out ADD CONSTRAINT nothing CHECK (v < -1) NOT VALID});
sql('UPDATE item SET v = 1500');
becomes(q{SELECT state = 'failed' AND quarantined = 0 FROM trucker.status WHERE truck = 'strict'}, 'a source transaction that is too large');
sql('ALTER SYSTEM RESET trucker.max_quarantined');
$node->reload;
sql(q{SELECT trucker.start('strict')});
there('strict', 'with another bound it goes on');
is(sql(q{SELECT quarantined > 5 FROM trucker.status WHERE truck = 'strict'}), 't', 'behind it');
sql(q{ALTER TABLE strict_out DROP CONSTRAINT nothing; SELECT trucker.retry_quarantined('strict')});
becomes(q{SELECT quarantined = 0 FROM trucker.status WHERE truck = 'strict'}, 'it is applied');
same_as_source('strict', 'item', 'all is there');

# What no source transaction is to blame for is counted as ever.
sql(q{REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE ROLE lee; GRANT USAGE ON SCHEMA public TO lee; GRANT SELECT ON item TO lee; GRANT ALL ON strict_out TO lee; GRANT SELECT ON transient TO lee;
SELECT trucker.alter_truck('strict', options => '{"role": "lee"}')});
there('strict', 'a role of its own');
sql(q{REVOKE SELECT ON item FROM lee; UPDATE item SET v = 1 WHERE id = 1});
becomes(q{SELECT state = 'failed' AND quarantined = 0 AND last_error LIKE '42501%' FROM trucker.status WHERE truck = 'strict'}, 'without the right to read its input the truck has failed');
sql(q{GRANT SELECT ON item TO lee; SELECT trucker.start('strict')});
same_as_source('strict', 'item', 'with it it goes on');
sql(q{SELECT trucker.alter_truck('strict', options => '{"role": null}')});
there('strict', 'as before');

# ----
# A huge transaction, net changes, TRUNCATE, other kinds of keys
# ----

sql(q{
ALTER SYSTEM SET trucker.max_quarantined = 100000;
ALTER SYSTEM SET trucker.batch_memory = '64kB'});
$node->reload;
# a worker reads settings between two batches: one that has been through one knows these
sql('UPDATE item SET v = v WHERE id = 10');
there('strict', 'the settings are known');
sql(q{
SELECT trucker.stop('easy');
ALTER TABLE strict_out ADD CONSTRAINT no_big CHECK (v <> 25000) NOT VALID;
INSERT INTO item SELECT n, n FROM generate_series(101, 30100) AS n;
});
there('strict', 'a truck that is the only one at work gets past a large one');
is(sql(q{SELECT count(*), count(DISTINCT id), min((new ->> 'id')::int), max((new ->> 'id')::int) FROM trucker.quarantine}), '30000|1|101|30100', 'which is put aside whole');
sql('UPDATE item SET v = v + 1 WHERE id BETWEEN 25000 AND 25100');
there('strict', 'and later ones behind it');
is(sql(q{SELECT count(*) FROM trucker.quarantine WHERE behind IS NOT NULL}), '101', 'are parked');
sql(q{ALTER TABLE strict_out DROP CONSTRAINT no_big; SELECT trucker.retry_quarantined('strict')});
becomes(q{SELECT quarantined = 0 FROM trucker.status WHERE truck = 'strict'}, 'it is applied');
same_as_source('strict', 'item', 'the large one');
sql(q{ALTER SYSTEM RESET trucker.max_quarantined; ALTER SYSTEM RESET trucker.batch_memory; SELECT pg_reload_conf(); SELECT trucker.start('easy'); DELETE FROM item WHERE id > 100});
same_as_source($_, 'item', "$_ has all") foreach qw(strict easy);

# Net changes: what is in quarantine is no part of them, and they lead to the same.
sql(q{
CREATE TABLE net_in (id numeric PRIMARY KEY, v int);
CREATE TABLE net_out (id numeric PRIMARY KEY, v int CONSTRAINT no_thirteen CHECK (v <> 13));
INSERT INTO net_in SELECT n, n FROM generate_series(1, 5) AS n;
CREATE FUNCTION truncated() RETURNS void LANGUAGE sql AS 'DELETE FROM public.net_out';
});
mirror('net', 'net_in', q{, "changes": "net", "on_truncate": "run", "truncate_sql": "SELECT truncated()"});
sql('UPDATE net_in SET v = 13 WHERE id = 1');
there('net', 'one in quarantine');
sql(q{
BEGIN; UPDATE net_in SET v = 14 WHERE id = 1; UPDATE net_in SET v = 15 WHERE id = 2; UPDATE net_in SET v = 16 WHERE id = 2; UPDATE net_in SET id = 1.0 WHERE id = 1; COMMIT;
DELETE FROM net_in WHERE id = 1.0;
INSERT INTO net_in VALUES (1.00, 17);
});
there('net', 'net changes');
is(quarantined('net'), 'update 1>1, update 1>1 parked, update 1>1.0 parked, delete 1.0> parked, insert >1.00 parked', 'keys that are equal are the same, however they are written');
is(sql('SELECT string_agg(id || $$=$$ || v, $$ $$ ORDER BY id) FROM net_out'), '1=1 2=16 3=3 4=4 5=5', 'the others are applied');
sql('TRUNCATE net_in; INSERT INTO net_in VALUES (7, 7)');
there('net', 'TRUNCATE');
is(sql('SELECT count(*) FROM net_out'), '5', 'a TRUNCATE waits for what is in quarantine of its table');
is(sql(q{SELECT string_agg(operation, ' ' ORDER BY lsn, seq) FROM (SELECT * FROM trucker.quarantine WHERE truck = 'net' ORDER BY lsn DESC, seq DESC LIMIT 2) AS q}), 'truncate insert', 'and all waits for it');
sql(q{ALTER TABLE net_out DROP CONSTRAINT no_thirteen; SELECT trucker.retry_quarantined('net')});
becomes(q{SELECT quarantined = 0 FROM trucker.status WHERE truck = 'net'}, 'all of it is applied');
same_as_source('net', 'net_in', 'in order');

# Without a primary key the whole row is the key; rows of a table without any identity are
# independent of each other.
sql(q{
CREATE TABLE full_in (a int, b text); ALTER TABLE full_in REPLICA IDENTITY FULL;
CREATE TABLE log_in (a int, b text);
CREATE TABLE log_out (n serial, a int, b text, CONSTRAINT no_thirteen CHECK (a <> 13));
SELECT trucker.create_truck('full', '{full_in, log_in}', 'INSERT INTO log_out (a, b) SELECT coalesce(a, -old__a), coalesce(b, old__b) FROM r',
	options => '{"on_error": "quarantine", "inserts_only": false}') WHERE false;
SELECT trucker.create_truck('full', '{full_in}', 'INSERT INTO log_out (a, b) SELECT coalesce(a, -old__a), coalesce(b, old__b) FROM r', options => '{"on_error": "quarantine"}');
SELECT trucker.create_truck('log', '{log_in}', 'INSERT INTO log_out (a, b) SELECT a, b FROM r', options => '{"on_error": "quarantine", "inserts_only": true}');
SELECT trucker.start('full'); SELECT trucker.start('log');
});
there($_, "truck $_") foreach qw(full log);
sql(q{
INSERT INTO full_in VALUES (13, 'x'); INSERT INTO full_in VALUES (14, 'x'); UPDATE full_in SET a = 15 WHERE a = 13; UPDATE full_in SET b = NULL WHERE a = 15; DELETE FROM full_in WHERE a = 15; DELETE FROM full_in WHERE a = 14;
INSERT INTO log_in VALUES (13, 'y'); INSERT INTO log_in VALUES (1, 'y'); INSERT INTO log_in VALUES (1, 'y');
});
there($_, "truck $_") foreach qw(full log);
is(sql(q{SELECT truck, string_agg(operation, ' ' ORDER BY lsn) FROM trucker.quarantine GROUP BY 1 ORDER BY 1}), "full|insert update update delete\nlog|insert", 'rows are followed');
is(sql(q{SELECT string_agg(a || coalesce(b, '-'), ' ' ORDER BY n) FROM log_out WHERE b = 'y'}), '1y 1y', 'the log goes on');
is(sql(q{SELECT string_agg(a || coalesce(b, '-'), ' ' ORDER BY n) FROM log_out WHERE b = 'x'}), '14x -14x', 'and other rows do');
sql(q{ALTER TABLE log_out DROP CONSTRAINT no_thirteen; SELECT trucker.retry_quarantined('full'); SELECT trucker.retry_quarantined('log')});
becomes(q{SELECT count(*) = 0 FROM trucker.quarantine}, 'all is applied');
is(sql(q{SELECT string_agg(a || coalesce(b, '-'), ' ' ORDER BY n) FROM log_out WHERE b IS DISTINCT FROM 'y' AND abs(a) <> 14}), '13x 15x 15x -15-', 'in order');

# ----
# alter_truck, resync
# ----

sql('UPDATE item SET v = 13 WHERE id = 1');
there('strict', 'one in quarantine');
sql(q{SELECT trucker.alter_truck('strict', options => '{"on_error": "stop"}'); UPDATE item SET v = 1 WHERE id = 1; UPDATE item SET v = 2 WHERE id = 2});
there('strict', 'with another on_error');
is(quarantined('strict'), 'update 1>1, update 1>1 parked', 'order per key holds all the same');
sql('UPDATE item SET v = 13 WHERE id = 4');
becomes(q{SELECT state = 'failed' AND failed_lsn IS NOT NULL FROM trucker.status WHERE truck = 'strict'}, 'but the next error stops it');
sql(q{SELECT trucker.alter_truck('strict', options => '{"on_error": "quarantine"}'); SELECT trucker.start('strict')});
there('strict', 'and as it was');
is(quarantined('strict'), 'update 1>1, update 1>1 parked, update 4>4', 'it goes on');

# The table's key becomes another: nothing can be told about its rows then.
sql(q{ALTER TABLE item ALTER id TYPE bigint; UPDATE item SET v = 3 WHERE id = 3});
there('strict', 'with another key');
is(quarantined('strict'), 'update 1>1, update 1>1 parked, update 4>4, update 3>3 parked', 'all of the table is parked');
($rc, $stdout, $stderr) = $node->psql('postgres', q{SELECT trucker.resync('strict')});
like($stderr, qr/NOTICE:  3 quarantined transactions of truck "strict" are discarded|NOTICE:  4 quarantined transactions of truck "strict" are discarded/, 'resync() discards what is in quarantine, and says so');
sql('ALTER TABLE strict_out DROP CONSTRAINT no_thirteen');
same_as_source('strict', 'item', 'loaded anew');
is(sql('SELECT count(*) FROM trucker.quarantine'), '0', 'with nothing in quarantine');
is(sql(q{SELECT count(*) FROM trucker.output_table AS o JOIN pg_class AS c ON c.oid = o.relid WHERE c.relnamespace = 'trucker'::regnamespace}), '0', 'what trucker keeps is not taken for what trucks write');

sql(q{
CREATE TABLE other (LIKE item INCLUDING ALL);
ALTER TABLE strict_out ADD CONSTRAINT no_thirteen CHECK (v <> 13) NOT VALID;
SELECT trucker.alter_truck('strict', input_tables => '{item, other}');
});
there('strict', 'with one more table');
sql('INSERT INTO other VALUES (1000, 13); UPDATE item SET v = 13 WHERE id = 1');
there('strict', 'each has something in quarantine');
($rc, $stdout, $stderr) = $node->psql('postgres', q{SELECT trucker.alter_truck('strict', input_tables => '{item}')});
like($stderr, qr/NOTICE:  1 quarantined changes of tables that truck "strict" reads no more are discarded/, 'a table that is read no more');
is(quarantined('strict'), 'update 1>1', 'what is of others stays');
sql(q{SELECT trucker.discard_quarantined('strict'); ALTER TABLE strict_out DROP CONSTRAINT no_thirteen; SELECT trucker.resync('strict')});
same_as_source('strict', 'item', 'loaded anew once more');

# ----
# skip()
# ----

sql(q{SELECT trucker.alter_truck('strict', options => '{"on_error": null}'); ALTER TABLE strict_out ADD CONSTRAINT no_thirteen CHECK (v <> 13) NOT VALID});
there('strict', 'on_error is the default');
like(psql_err($node, q{SELECT trucker.skip('strict', '0/1')}), qr/ERROR:  55000: truck "strict" has passed 0\/1 already\nDETAIL:  Its position is/, 'what is applied cannot be skipped');
like(psql_err($node, q{SELECT trucker.skip('strict', 'FFFFFFFF/FFFFFFF0')}), qr/ERROR:  55000: no source transaction is known that truck "strict" fails at\nHINT:  .*failed_lsn/, 'nor is what does not fail');
like(psql_err($node, q{SELECT trucker.skip('nobody', '0/1')}), qr/ERROR:  42704: truck "nobody" does not exist/, 'nor does a truck that does not exist');
$log = -s $node->logfile;
sql(q{
BEGIN; UPDATE item SET v = 13 WHERE id = 1; UPDATE item SET v = 99 WHERE id = 2; COMMIT;
UPDATE item SET v = 13 WHERE id = 3;
UPDATE item SET v = 100 WHERE id = 4;
});
becomes(q{SELECT state = 'failed' FROM trucker.status WHERE truck = 'strict'}, 'it fails');
my $at = sql(q{SELECT failed_lsn FROM trucker.status WHERE truck = 'strict'});
like(slurp_file($node->logfile, $log), qr/truck "strict", run of .* committed at $at to $at/, 'at the LSN that the error names');
like(psql_err($node, q{SELECT trucker.skip('strict', 'FFFFFFFF/FFFFFFF0')}), qr/ERROR:  55000: truck "strict" does not fail at FFFFFFFF\/FFFFFFF0\nDETAIL:  The source transaction that it fails at commits at $at.\nHINT:  SELECT trucker.skip\('strict', '$at'\);/, 'another LSN is refused');
sql(qq{SELECT trucker.skip('strict', '$at'); SELECT trucker.start('strict')});
becomes("SELECT state = 'failed' AND failed_lsn > '$at' FROM trucker.status WHERE truck = 'strict'", 'it goes on, to the next one that fails');
like(slurp_file($node->logfile, $log), qr/LOG:  truck "strict": source transaction \d+ committed at $at was skipped, as trucker.skip\(\) had asked/, 'the log tells');
is(sql('SELECT string_agg(id || $$=$$ || v, $$ $$ ORDER BY id) FROM strict_out WHERE id <= 4'), sql('SELECT $$1=$$ || (SELECT v FROM strict_out WHERE id = 1) || $$ 2=$$ || (SELECT v FROM strict_out WHERE id = 2) || $$ 3=$$ || (SELECT v FROM strict_out WHERE id = 3) || $$ 4=$$ || (SELECT v FROM strict_out WHERE id = 4)'), 'nothing of it is applied');
isnt(sql('SELECT v FROM strict_out WHERE id = 2'), '99', 'all of the source transaction is skipped');
sql('ALTER SYSTEM SET trucker.max_failures = 0');
$node->reload;
sql(q{SELECT trucker.start('strict')});
becomes(q{SELECT state IN ('retrying', 'catch-up') AND failed_lsn IS NOT NULL FROM trucker.status WHERE truck = 'strict'}, 'while it is tried');
sql(q{SELECT trucker.skip('strict', failed_lsn) FROM trucker.status WHERE truck = 'strict'});
there('strict', 'skip() takes effect at once');
is(sql('SELECT v FROM strict_out WHERE id = 4'), '100', 'and only for the one');
like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 'strict'}), qr/was skipped, as trucker.skip\(\) had asked/, 'status tells');
is(sql(q{SELECT count(*) FROM trucker.truck_state AS s JOIN trucker.truck AS t ON t.id = s.truck_id WHERE t.name = 'strict' AND (skip_lsn, failed_lsn) IS DISTINCT FROM (NULL, NULL)}), '0', 'nothing is left of it');

$node->stop;
done_testing();
