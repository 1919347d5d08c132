# explain(): what it shows is what the truck executes: the SQL rendered for each input
# table and operation, planned as the truck's role for runs of the size that one asks
# for, here and at another server.  Nothing is executed, and nothing is left behind.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $node = trucker_node('explain');
my $there = remote_node('explain_there');

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sql(q{
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE item (id int PRIMARY KEY, customer_id int, v text);
CREATE TABLE item_out (id int PRIMARY KEY, v text, name text);
INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 20000) AS i;
ANALYZE customer;
SELECT trucker.create_truck('item', '{item, customer}', input_sql => $$
	{{ if eq .input_table "public.item" -}}
	SELECT r.old__id, r.id, r.v, c.name FROM {{ .rows }} LEFT JOIN customer AS c ON c.id = r.customer_id
	{{- else -}}
	SELECT NULL::int AS old__id, i.id, i.v, r.name FROM r JOIN item AS i ON i.customer_id = r.id
	{{- end }}$$,
	output_sql => $$
	DELETE FROM item_out AS o USING r WHERE o.id = r.old__id;
	INSERT INTO item_out SELECT id, v, name FROM r WHERE id IS NOT NULL
	ON CONFLICT (id) DO UPDATE SET (v, name) = (excluded.v, excluded.name)$$)});

# ----
# What is shown
# ----

is( sql(q{SELECT input_table, coalesce(operation, '-'), part, statement FROM trucker.explain('item')}),
	"item|-|input|1\nitem|-|output|1\nitem|-|output|2\ncustomer|-|input|1\ncustomer|-|output|1\ncustomer|-|output|2",
	'each statement for each input table');
like(sql(q{SELECT sql FROM trucker.explain('item') WHERE input_table = 'item'::regclass AND part = 'input'}),
	qr/^SELECT r\.old__id, r\.id, r\.v, c\.name FROM r LEFT JOIN customer AS c ON c\.id = r\.customer_id$/,
	'a template is rendered');
like(sql(q{SELECT plan FROM trucker.explain('item') WHERE input_table = 'item'::regclass AND part = 'input'}),
	qr/Named Tuplestore Scan/, 'the plan reads r');
like(sql(q{SELECT plan FROM trucker.explain('item') WHERE input_table = 'item'::regclass AND statement = 2}),
	qr/Insert on public\.item_out.*Conflict Resolution: UPDATE.*Named Tuplestore Scan/s,
	'that of output.sql shows what is written, verbosely');

# the estimate decides: one row is looked up by the index, many are hashed
my $input_plan = q{SELECT plan FROM trucker.explain('item', %d) WHERE input_table = 'item'::regclass AND part = 'input'};
like(sql(sprintf $input_plan, 1), qr/Index Scan using customer_pkey/, 'a run of one row looks up the index');
like(sql(sprintf $input_plan, 90000), qr/Hash .*rows=100000/s, 'one of 90,000 rows, planned for 100,000, does not');

# and it is what the truck does
sql(q{SELECT trucker.start('item')});
ok(caught_up($node, 'item'), 'the truck runs');
is(sql(q{SELECT count(*) FROM item_out}), 0, 'nothing had been executed');
sql(q{INSERT INTO item VALUES (1, 7, 'x')});
ok(caught_up($node, 'item'), '... with the SQL that was explained');
is(sql(q{TABLE item_out}), '1|x|c7', '... right');
is(sql(q{SELECT count(*) FROM trucker.explain('item')}), 6, 'a running truck is explained as well');

# by operation; CALL has no plan; truncate_sql
sql(q{
CREATE PROCEDURE note() LANGUAGE sql AS 'INSERT INTO item_out (id) VALUES (-1)';
CREATE TABLE log (id int, operation text);
SELECT trucker.create_truck('log', '{item}', output_sql => $$
	CALL note();
	INSERT INTO log SELECT coalesce(id, old__id), '{{ .operation }}' FROM r$$,
	options => '{"on_truncate": "run", "truncate_sql": "TRUNCATE log; DELETE FROM item_out"}')});
is( sql(q{SELECT coalesce(operation, '-'), part, statement, plan IS NULL FROM trucker.explain('log')}),
	join("\n", (map { ("$_|output|1|t", "$_|output|2|f") } qw(insert update delete)), '-|truncate|1|t', '-|truncate|2|f'),
	'one text for each operation where .operation is used; CALL and TRUNCATE have no plan');
like(sql(q{SELECT plan FROM trucker.explain('log') WHERE operation = 'delete' AND statement = 2}), qr/'delete'/,
	'... with that operation');
is(sql(q{SELECT count(*) FROM item_out WHERE id = -1}), 0, 'no procedure was called');

# generated SQL
sql(q{
CREATE TABLE copy (id int PRIMARY KEY, customer_id int, v text);
SELECT trucker.create_truck('copy', '{item}', options => '{"output_table": "copy"}')});
is( sql(q{SELECT count(*) FROM trucker.explain('copy') AS e JOIN trucker.generated_sql('copy') AS g ON strpos(g.output_sql, btrim(e.sql, E'\n\t ')) > 0}),
	sql(q{SELECT count(*) FROM trucker.explain('copy')}), 'SQL that is generated for output_table');

# ----
# Who may ask, and with whose rights it is planned
# ----

sql(q{
CREATE ROLE owner LOGIN;
CREATE ROLE other LOGIN;
CREATE ROLE runner;
GRANT runner TO owner;
GRANT EXECUTE ON FUNCTION trucker.explain(text, bigint), trucker.create_truck(text, regclass[], text, text, name, jsonb) TO owner, other;
GRANT SELECT ON item TO owner, runner, other;
CREATE TABLE target (id int);
CREATE SCHEMA runners AUTHORIZATION runner;
CREATE TABLE who (name text);
GRANT INSERT ON who TO PUBLIC;
CREATE FUNCTION runners.planned() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE NOTICE 'planned as %', current_user;
	BEGIN
		PERFORM set_config('role', 'postgres', false);
	EXCEPTION WHEN insufficient_privilege OR others THEN
		RAISE NOTICE 'no way out: %', SQLERRM;
	END;
	RETURN 1;
END $$;
SET SESSION AUTHORIZATION owner;
SELECT trucker.create_truck('owned', '{item}',
	output_sql => 'INSERT INTO public.target SELECT id FROM r WHERE id > runners.planned()', options => '{"role": "runner"}');
RESET SESSION AUTHORIZATION;
GRANT INSERT ON target TO owner});
my $owned = q{SET SESSION AUTHORIZATION owner; SELECT plan FROM trucker.explain('owned')};
like(psql_err($node, $owned), qr/42501: +permission denied for table target/,
	'planned as the role: the rights of who asks are not enough');
sql(q{REVOKE INSERT ON target FROM owner; GRANT INSERT ON target TO runner; GRANT USAGE ON SCHEMA runners TO PUBLIC});
my ($rc, $stdout, $stderr) = $node->psql('postgres', $owned);
like($stdout, qr/Insert on public\.target/, '... those of the role are');
like($stderr, qr/planned as runner/, 'IMMUTABLE functions run as the role');
like($stderr, qr/no way out: cannot set parameter "role" within security-/, '... and cannot leave it');
unlike($stderr, qr/planned as (owner|postgres)/, '... nor as anybody else');
like(psql_err($node, q{SET SESSION AUTHORIZATION other; SELECT * FROM trucker.explain('owned')}),
	qr/42501: +must be owner of truck "owned"/, 'only the owner may ask');
sql(q{CREATE ROLE nobody LOGIN});
like(psql_err($node, q{SET SESSION AUTHORIZATION nobody; SELECT * FROM trucker.explain('owned')}),
	qr/42501: +permission denied for function explain/, '... and whom the function is granted to');
sql(q{REVOKE SELECT ON item FROM runner});
like(psql_err($node, $owned), qr/42501: +role "runner" may not read input table public\.item.*GRANT SELECT ON public\.item TO runner/s,
	'the role must be able to read the inputs');
sql(q{GRANT SELECT ON item TO runner});

# ----
# Bad input, bad SQL
# ----

like(psql_err($node, q{SELECT * FROM trucker.explain('nix')}), qr/42704: +truck "nix" does not exist/, 'no such truck');
like(psql_err($node, q{SELECT * FROM trucker.explain('item', 0)}), qr/22023: +argument "rows" of explain must be at least 1.*HINT/s,
	'no rows');
sql(q{DROP TABLE target});
like(psql_err($node, $owned), qr/42P01: +relation "public\.target" does not exist.*INSERT INTO public\.target/s,
	'SQL that cannot be planned: the error, and where');
is(sql(q{BEGIN READ ONLY; SELECT count(*) FROM trucker.explain('item'); COMMIT}), 6, 'in a transaction that only reads');

# ----
# At another server
# ----

$there->safe_psql('postgres', q{
CREATE TABLE remote_out (id int PRIMARY KEY, v text);
ALTER TABLE remote_out OWNER TO writer});
connect_remote($node, $there, 'warehouse');
sql(q{
SELECT trucker.create_truck('remote', '{item}', input_sql => 'SELECT id, v FROM r WHERE id IS NOT NULL', output_sql => $$
	INSERT INTO remote_out SELECT id, v FROM r ON CONFLICT (id) DO UPDATE SET v = excluded.v;
	DELETE FROM remote_out WHERE id < 0$$, output_connection => 'warehouse')});
is(sql(q{SELECT part, statement, plan IS NULL FROM trucker.explain('remote')}), "input|1|f\noutput|1|f\noutput|2|f",
	'a truck that writes elsewhere');
like(sql(q{SELECT sql FROM trucker.explain('remote') WHERE part = 'output' AND statement = 1}),
	qr/^WITH r AS NOT MATERIALIZED \(SELECT .*unnest.*\$1.*INSERT INTO remote_out/s, 'SQL as it is sent: rows as parameters');
like(sql(q{SELECT plan FROM trucker.explain('remote') WHERE part = 'output' AND statement = 1}),
	qr/Insert on public\.remote_out.*Function Scan/s, 'planned there');
like(sql(q{SELECT plan FROM trucker.explain('remote') WHERE part = 'input'}), qr/Named Tuplestore Scan/, 'input.sql is planned here');
like(sql(q{SELECT sql || plan FROM trucker.explain('remote', 5000) WHERE part = 'output' AND statement = 1}),
	qr/FROM pg_temp\.trucker_r\d+ AS q\).*Insert on public\.remote_out.*Seq Scan on pg_temp\S*\.trucker_r\d+/s,
	'many rows go through a temporary table');
$there->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'writer'})
  or diag 'a session is left there';
is($there->safe_psql('postgres', q{SELECT to_regnamespace('trucker_positions') IS NULL, (SELECT count(*) FROM remote_out),
	(SELECT count(*) FROM pg_class WHERE relname LIKE 'trucker_r%'), (SELECT count(*) FROM pg_stat_activity WHERE usename = 'writer')}),
	't|0|0|0', 'nothing is left there');
# by way of a connection that leads here, of which start() makes "local"
sql('CREATE SERVER here FOREIGN DATA WRAPPER trucker OPTIONS (host \'' . $node->host . "', port '" . $node->port . q{', dbname 'postgres');
CREATE ROLE loop LOGIN SUPERUSER;
CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user 'loop');
SELECT trucker.create_truck('round', '{item}', output_sql => 'INSERT INTO copy SELECT id FROM r WHERE id IS NOT NULL', output_connection => 'here')});
like(sql(q{SELECT plan FROM trucker.explain('round')}), qr/Insert on public\.copy.*Named Tuplestore Scan/s,
	'a connection that leads here');
$there->safe_psql('postgres', 'DROP TABLE remote_out');
like(psql_err($node, q{SELECT * FROM trucker.explain('remote')}), qr/42P01: +relation "remote_out" does not exist/,
	'an error there is told here');
$there->stop;
like(psql_err($node, q{SELECT * FROM trucker.explain('remote')}), qr/08\d\d\d: /, 'no server there');

$node->stop;
done_testing();
