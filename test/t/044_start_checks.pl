# start() checks at once what a truck reads and writes: its tables, its SQL, its role's
# rights and what the tables log; each of its errors says what to do, and doing just that,
# literally, is what cures it.  So do those of create_truck().  (What the server must have:
# 040_start.pl.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use StartTest;
use TruckerTest;

$node = trucker_node('checks');
sql('CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, $$one$$);
	 CREATE TABLE d (LIKE s INCLUDING ALL)');
create(mirror('s', 'd'));

# ----
# What create_truck refuses
# ----
my $t = q{'t', ARRAY['s'::regclass]};
raises("SELECT trucker.create_truck($t, '')", '22023', qr/^output_sql is empty$/, undef, 'empty SQL');
raises("SELECT trucker.create_truck($t, E' \\n\\t')", '22023', qr/^output_sql is empty$/, undef, 'SQL of spaces only');
raises("SELECT trucker.create_truck($t, 'SELECT 1', '')",
	'22023', qr/^input_sql is empty$/, undef, 'empty input_sql');
raises("SELECT trucker.create_truck($t, '-- nothing')", '22023', qr/^output_sql/, undef,
	'SQL of comments only');
raises("SELECT trucker.create_truck($t, ';')", '22023', qr/^output_sql/, undef, 'SQL of semicolons only');
raises("SELECT trucker.create_truck(NULL, '{s}', 'SELECT 1')",
	'22004', qr/"name"/, undef, 'no name');
raises("SELECT trucker.create_truck('', '{s}', 'SELECT 1')", '42602', qr/^invalid truck name ""$/, undef, 'an empty name');
raises("SELECT trucker.create_truck(repeat('x', 64), '{s}', 'SELECT 1')",
	'42602', qr/^invalid truck name/, undef, 'a name that is too long');
raises("SELECT trucker.create_truck('t', '{}', 'SELECT 1')",
	'22023', qr/at least one input table/, undef, 'no input table');
raises("SELECT trucker.create_truck('t', '{s,public.s}', 'SELECT 1')",
	'22023', qr/names a table twice/, undef, 'a table named twice');
raises("SELECT trucker.create_truck('t', '{nosuch}', 'SELECT 1')",
	'42P01', qr/^relation "nosuch" does not exist$/, undef, 'input table missing');
raises(q{SELECT trucker.create_truck('t', '{other.public.s}', 'SELECT 1')},
	'0A000', qr/cross-database|other\.public\.s/, undef, 'input table in another database');
raises("SELECT trucker.create_truck($t, 'SELECT 1', NULL, 'elsewhere')",
	'42704', qr/^connection "elsewhere" does not exist$/, qr/"local"/, 'unknown connection');
raises(qq{SELECT trucker.create_truck($t, 'SELECT 1', options => '{"backfil": true}')},
	'22023', qr/^unknown option "backfil" of a truck$/, qr/^Valid options are: .*backfill/, 'unknown option');
raises(qq{SELECT trucker.create_truck($t, 'SELECT 1', options => '{"$_->[0]": $_->[1]}')},
	'22023', qr/^option "$_->[0]" of a truck must be /, undef, "option $_->[0] of a wrong type")
  foreach ([ 'backfill', '"yes"' ], [ 'inserts_only', 1 ], [ 'reset_sql', '["SELECT 1"]' ], [ 'toast', '"maybe"' ],
	[ 'toast', 'null' ], [ 'role', '{}' ]);
raises("SELECT trucker.create_truck($t, 'SELECT 1', options => '$_')", '22023', qr/must be a JSON object/, undef,
	"options that are no object: $_")
  foreach '[]', '1', 'null', '"x"';
raises(qq{SELECT trucker.create_truck($t, 'SELECT 1', options => '{"role": "nobody_here"}')},
	'42704', qr/^role "nobody_here" does not exist$/, undef, 'option role names nobody');
raises("SELECT trucker.create_truck($t, 'SELECT 1; $_->[0]')", '0A000', qr/^$_->[1] is not allowed in output_sql$/,
	qr/^Allowed are SELECT, INSERT, UPDATE, DELETE, MERGE and CALL\.$/, "$_->[1] in output_sql")
  foreach ([ 'SET ROLE x', 'SET' ], [ 'COMMIT', 'COMMIT' ], [ 'CREATE TABLE x()', 'CREATE TABLE' ],
	[ 'SELECT 1 INTO x', 'SELECT INTO' ], [ 'TRUNCATE s', 'TRUNCATE TABLE' ], [ 'DO $$BEGIN END$$', 'DO' ],
	[ 'COPY s TO STDOUT', 'COPY' ], [ 'LOCK s', 'LOCK TABLE' ], [ 'PREPARE x AS SELECT 1', 'PREPARE' ]);

# ----
# Kinds of tables
# ----
sql(q{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
	CREATE VIEW in_view AS SELECT * FROM s;
	CREATE MATERIALIZED VIEW in_matview AS SELECT * FROM s;
	CREATE FOREIGN TABLE in_foreign (id int, v text) SERVER elsewhere;
	CREATE UNLOGGED TABLE "in Unlogged" (id int PRIMARY KEY, v text);
	CREATE TABLE in_partitioned (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE in_partition PARTITION OF in_partitioned DEFAULT;
	CREATE SEQUENCE in_sequence;
	CREATE TYPE in_type AS (id int, v text)});

# refused($table, ...): such an input table
sub refused
{
	my ($table, $message, $hint) = @_;

	create("'refused', ARRAY['$table'::regclass], 'SELECT count(*) FROM r'");
	my $error = raises("SELECT trucker.start('refused')", '42809', $message, $hint, "input table $table is refused");
	drop('refused');
	return $error;
}
refused('in_view', qr/^public\.in_view cannot be an input table: it is a view$/, qr/^Name the tables behind it/);
refused('in_matview', qr/^public\.in_matview cannot be an input table: it is a .*view$/, qr/^Name the tables behind it/);
refused('in_foreign', qr/it is a foreign table$/, qr/^Install trucker in the database that holds the table\.$/);
refused('in_sequence', qr/it is not a table$/, undef);
refused('s_pkey', qr/it is not a table$/, undef);
refused('in_type', qr/it is not a table$/, undef);
refused('pg_class', qr/it is a system catalog$/, undef);
refused('pg_authid', qr/it is a system catalog$/, undef);
refused('trucker.truck', qr/it belongs to trucker$/, undef);
refused('trucker.position', qr/it belongs to trucker$/, undef);
{
	my $error = refused('"in Unlogged"', qr/^public\."in Unlogged" cannot be an input table: it is an unlogged table$/,
		qr/^Its changes are not in the WAL\.  ALTER TABLE public\."in Unlogged" SET LOGGED;$/);
	my ($cure) = $error =~ /(ALTER TABLE .*;)/;
	sql($cure);
	sql('CREATE TABLE d_unlogged (LIKE "in Unlogged" INCLUDING ALL)');
	create(mirror('"in Unlogged"', 'd_unlogged'));
	starts('d_unlogged', 'an unlogged table, after the ALTER TABLE of the hint');
	drop('d_unlogged');
}
{
	sql('CREATE TABLE d_partition (LIKE s INCLUDING ALL)');
	create(mirror('in_partition', 'd_partition'));
	starts('d_partition', 'a partition, as the hint about partitioned tables says');
	drop('d_partition');
}
raises(
	q{CREATE TEMPORARY TABLE in_temp (id int PRIMARY KEY, v text);
	  SELECT trucker.create_truck('temp', ARRAY['in_temp'::regclass], 'SELECT count(*) FROM r');
	  SELECT trucker.start('temp')},
	'42809', qr/^pg_temp\w*\.in_temp cannot be an input table: it is a temporary table$/,
	qr/^Its changes are not in the WAL\.$/, 'input table in_temp is refused');
drop('temp');

sql('CREATE TABLE goes (id int PRIMARY KEY, v text)');
create(q{'goes', ARRAY['goes'::regclass], 'SELECT count(*) FROM r'});
sql('DROP TABLE goes');
raises("SELECT trucker.start('goes')", '42P01', qr/^an input table of truck "goes" \(OID \d+\) has been dropped$/,
	qr/^Give the truck the tables that there are with trucker\.alter_truck\(\)/, 'input table dropped since');
drop('goes');
pass('a truck whose input table is gone can be dropped');

# ----
# Rights
# ----
sql(q{
	CREATE ROLE carter LOGIN;
	CREATE ROLE "Other Carter" LOGIN;
	CREATE ROLE passer BYPASSRLS;
	GRANT passer TO carter;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO carter, "Other Carter";
	CREATE TABLE secret (id int PRIMARY KEY, v text);
	CREATE TABLE carters (id int PRIMARY KEY, v text);
	ALTER TABLE carters OWNER TO carter});
sql('SET ROLE carter; SELECT trucker.create_truck(' . mirror('secret', 'carters') . ')');
{
	my $error = raises("SET ROLE carter; SELECT trucker.start('carters')",
		'42501', qr/^role "carter" may not read input table public\.secret$/, qr/^GRANT SELECT ON public\.secret TO carter;$/,
		'no SELECT right: says what to grant');
	my ($cure) = $error =~ /^HINT:  (.*)/m;
	sql($cure);
	starts('carters', 'the right, granted as the hint says');
	raises('SET ROLE "Other Carter"; ' . "SELECT trucker.$_('carters')", '42501', qr/^must be owner of truck "carters"$/,
		undef, "$_ of somebody else's truck")
	  foreach qw(start stop resync drop_truck wait_for);
	is( psql_err($node, 'SET ROLE "Other Carter"; SELECT trucker.stop()'),
		'', 'stop() without a name succeeds for somebody without trucks');
	is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'carters'}),
		'streaming', 'and leaves other roles\' trucks alone');
	sql("SELECT trucker.stop('carters')");
	wait_state($node, 'carters', 'stopped');

	sql('ALTER TABLE secret ENABLE ROW LEVEL SECURITY');
	raises("SET ROLE carter; SELECT trucker.start('carters')",
		'42501', qr/^row security of table public\.secret applies to role "carter"$/, qr/option "role"/,
		'row security: refused');
	drop('carters');

	# what the hint says: a role that row security does not apply to
	sql('GRANT SELECT ON secret TO passer; GRANT ALL ON carters TO passer; GRANT USAGE, CREATE ON SCHEMA public TO passer');
	sql('SET ROLE carter; SELECT trucker.create_truck(' . mirror('secret', 'carters') . q{, options => '{"role": "passer"}')});
	starts('carters', 'with a role that row security does not apply to');
	drop('carters');
	sql('ALTER TABLE secret DISABLE ROW LEVEL SECURITY');
}
{
	sql('SET ROLE carter; SELECT trucker.create_truck(' . mirror('carters', 'secret') . ')');
	raises("SET ROLE carter; SELECT trucker.start('secret')",
		'42501', qr/^permission denied for table secret$/, undef, 'no right to write the output: refused');
	drop('secret');
	raises(q{SET ROLE carter; SELECT trucker.create_truck('t', '{carters}', 'SELECT 1', options => '{"role": "Other Carter"}')},
		'42501', qr/must be member of role "Other Carter"/, undef, 'a role that one is not a member of');
	sql('REVOKE EXECUTE ON FUNCTION trucker.start(text) FROM carter');
	raises('SET ROLE carter; SELECT trucker.start()', '42501', qr/^permission denied for function start$/, undef,
		'start is not open to all');
}

# ----
# SQL that does not fit, with the place of the error
# ----
# at($sql, $sqlstate, $message, $place, ...): the error points into the truck's SQL
sub at
{
	my ($error, $place, $test_name) = @_;
	my ($line, $mark) = $error =~ /^LINE \d+: (.*)\n(\s*)\^/m;
	my $prefix = length(($error =~ /^(LINE \d+: )/m)[0] // '');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like(substr($line // '', length($mark // '') - $prefix), qr/^\Q$place\E/, $test_name)
	  or diag $error;
	return;
}
{
	my $error = raises(qq{SELECT trucker.create_truck($t, E'DELETE FROM d;\\nINSERT INTO d SELEC 1')},
		'42601', qr/^syntax error at or near "SELEC"$/, undef, 'SQL that does not parse');
	at($error, 'SELEC 1', 'SQL that does not parse: with its position');

	create(q{'t', ARRAY['s'::regclass], 'DELETE FROM d; INSERT INTO d SELECT id, valu FROM r'});
	$error = raises("SELECT trucker.start('t')", '42703', qr/^column "valu" does not exist$/, undef, 'a column that r has not');
	at($error, 'valu FROM r', 'a column that r has not: with its position');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'SELECT * FROM r', 'SELECT * FROM r JOIN nosuch USING (id)'});
	$error = raises("SELECT trucker.start('t')", '42P01', qr/^relation "nosuch" does not exist$/, undef, 'a table that does not exist');
	at($error, 'nosuch', 'a table that does not exist: with its position');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'INSERT INTO d SELECT v, id FROM r'});
	$error = raises("SELECT trucker.start('t')", '42804', qr/^column "id" is of type integer but expression is of type text$/,
		qr/cast/, 'types that do not fit');
	at($error, 'v, id', 'types that do not fit: with its position');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'INSERT INTO d SELECT id, v FROM r ON CONFLICT (v) DO NOTHING'});
	raises("SELECT trucker.start('t')", '42P10', qr/no unique or exclusion constraint/, undef,
		'SQL that parses and cannot be planned');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'SELECT * FROM r', 'DELETE FROM d'});
	raises("SELECT trucker.start('t')", '42601', qr/^input_sql returns no rows$/, qr/SELECT|RETURNING/, 'an input_sql without rows');
	drop('t');

	create(q{'t', ARRAY['s'::regclass], 'INSERT INTO d SELECT id, v FROM r', 'SELECT id FROM r'});
	$error = raises("SELECT trucker.start('t')", '42703', qr/^column "v" does not exist$/, qr/./,
		'output_sql that reads what input_sql does not return');
	at($error, 'v FROM r', 'output_sql that reads what input_sql does not return: with its position');
	drop('t');
}

# ----
# Replica identity
# ----
{
	my ($error, $cure);

	sql(q{CREATE TABLE "Old" (id int PRIMARY KEY, v text, "W x" int);
		  CREATE TABLE old_d (id int, v text)});
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT old__id, old__v FROM r'});
	$error = raises("SELECT trucker.start('old')", '55000', qr/^the SQL of truck "old" reads "old__v", which table public\."Old" does not log$/,
		qr/^ALTER TABLE public\."Old" REPLICA IDENTITY FULL;$/, 'old__ columns beyond the replica identity: the exact ALTER TABLE');
	($cure) = $error =~ /^HINT:  (.*)/m;
	sql($cure);
	starts('old', 'old__ columns, after the ALTER TABLE of the hint');
	sql(q{INSERT INTO "Old" VALUES (1, 'a'); UPDATE "Old" SET v = 'b'});
	ok(caught_up($node, 'old'), 'caught up');
	is($node->safe_psql('postgres', 'SELECT id, v FROM old_d WHERE id IS NOT NULL'), '1|a', 'the old value has arrived');

	# what is not to be read needs no logging
	drop('old');
	sql('ALTER TABLE "Old" REPLICA IDENTITY DEFAULT');
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT old__id, v FROM r'});
	starts('old', 'old__ columns of the replica identity only');
	drop('old');
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT id, to_jsonb(r)->>$$old__W x$$ FROM r'});
	raises("SELECT trucker.start('old')", '55000', qr/reads "old__/, qr/REPLICA IDENTITY FULL;$/, 'a whole-row reference reads old__ columns, too');
	drop('old');
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT old__id, old__v FROM r', options => '{"inserts_only": true}'});
	starts('old', 'inserts_only has no old values to miss');
	drop('old');

	# the identity may be another index than the primary key
	sql(q{ALTER TABLE "Old" ALTER v SET NOT NULL; CREATE UNIQUE INDEX old_v ON "Old" (v);
		  ALTER TABLE "Old" REPLICA IDENTITY USING INDEX old_v});
	create(q{'old', ARRAY['"Old"'::regclass], 'INSERT INTO old_d SELECT 0, old__v FROM r'});
	starts('old', 'REPLICA IDENTITY USING INDEX');
	drop('old');

	sql('CREATE TABLE "No Key" (id int, v text); CREATE TABLE no_key_d (id int, v text)');
	create(q{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r'});
	$error = raises("SELECT trucker.start('nokey')", '55000', qr/^table public\."No Key" has no replica identity$/,
		qr/ALTER TABLE public\."No Key" REPLICA IDENTITY FULL;.*"inserts_only": true/, 'no replica identity: the exact ALTER TABLE, or inserts_only');
	($cure) = $error =~ /(ALTER TABLE .*? REPLICA IDENTITY FULL;)/;
	sql($cure);
	starts('nokey', 'no key, after the ALTER TABLE of the hint');
	drop('nokey');
	my ($option) = $error =~ /("inserts_only": true)/;
	sql('ALTER TABLE "No Key" REPLICA IDENTITY DEFAULT');
	create(qq{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r', options => '{$option}'});
	starts('nokey', 'no key, with the option of the hint');
	drop('nokey');
	sql('ALTER TABLE "No Key" ADD PRIMARY KEY (id)');
	create(q{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r'});
	starts('nokey', 'with the primary key of the hint');
	drop('nokey');

	sql('ALTER TABLE "No Key" REPLICA IDENTITY NOTHING');
	create(q{'nokey', ARRAY['"No Key"'::regclass], 'INSERT INTO no_key_d SELECT id, v FROM r'});
	raises("SELECT trucker.start('nokey')", '55000', qr/has no replica identity$/, qr/REPLICA IDENTITY/, 'REPLICA IDENTITY NOTHING beside a primary key');
	drop('nokey');
}

# ----
# Trucks that write what they read
# ----
sql(q{
	CREATE TABLE loop_in (id int PRIMARY KEY, v text);
	CREATE TABLE loop_out (id int PRIMARY KEY, v text);
	CREATE VIEW loop_view AS SELECT * FROM loop_in;
	CREATE TABLE loop_ruled (id int, v text);
	CREATE RULE loop_rule AS ON INSERT TO loop_ruled DO INSTEAD INSERT INTO loop_in VALUES (new.id + 1, new.v);
	CREATE TABLE loop_parent (id int, v text, primary key (id));
	CREATE TABLE loop_child () INHERITS (loop_parent);
	ALTER TABLE loop_child ADD PRIMARY KEY (id);
	CREATE TABLE loop_parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE loop_part PARTITION OF loop_parts FOR VALUES FROM (0) TO (1000);
	CREATE TABLE loop_part2 PARTITION OF loop_parts FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (id);
	CREATE TABLE loop_part2a PARTITION OF loop_part2 DEFAULT;
});

foreach my $case (
	[ 'loop_in', 'directly', 'INSERT INTO loop_in SELECT id + 1, v FROM r' ],
	[ 'loop_in', 'in a WITH', 'WITH w AS (UPDATE loop_in SET v = 1 RETURNING id) INSERT INTO loop_out SELECT r.id FROM r JOIN w USING (id)' ],
	[ 'loop_in', 'in its second statement', 'SELECT count(*) FROM r; DELETE FROM loop_in USING r WHERE loop_in.id = r.id' ],
	[ 'loop_in', 'by MERGE', 'MERGE INTO loop_in l USING r ON l.id = r.id WHEN MATCHED THEN DELETE' ],
	[ 'loop_in', 'through a view', 'INSERT INTO loop_view SELECT id + 1, v FROM r' ],
	[ 'loop_in', 'through a rule', 'INSERT INTO loop_ruled SELECT id, v FROM r' ],
	[ 'loop_child', 'through its parent', 'UPDATE loop_parent p SET v = r.v FROM r WHERE p.id = r.id' ],
	[ 'loop_part', 'through the partitioned table', 'UPDATE loop_parts p SET v = r.v FROM r WHERE p.id = r.id' ],
	[ 'loop_part', 'as a partition that rows are routed to', 'INSERT INTO loop_parts SELECT id + 1, v FROM r' ],
	[ 'loop_part2a', 'as a partition\'s partition that rows are routed to', 'INSERT INTO loop_parts SELECT id + 1, v FROM r' ],
	[ 'loop_part', 'by MERGE into the partitioned table',
		'MERGE INTO loop_parts l USING r ON l.id = r.id + 1 WHEN NOT MATCHED THEN INSERT VALUES (r.id + 1, r.v)' ])
{
	my ($input, $how, $sql) = @$case;

	create(qq{'loop', ARRAY['$input'::regclass], '$sql'});
	raises("SELECT trucker.start('loop')", '42P17', qr/^truck "loop" writes its own input table public\.\S+$/, qr/drop_truck\('loop'\)/,
		"output that writes its own input table $how");
	drop('loop');
}
create(q{'loop', ARRAY['loop_in'::regclass], 'SELECT count(*) FROM r',
	'WITH w AS (DELETE FROM loop_in WHERE false) SELECT 1 FROM r'});
raises("SELECT trucker.start('loop')", '42P17', qr/^truck "loop" writes its own input table/, qr/drop_truck\('loop'\)/, 'input_sql that writes the input table');
drop('loop');

# What no plan shows, the worker sees, before it commits.
sql(q{
	CREATE FUNCTION loop_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO loop_in VALUES (new.id + 1, new.v);
		RETURN new;
	END$$;
	CREATE TRIGGER loop_trigger AFTER INSERT ON loop_out FOR EACH ROW EXECUTE FUNCTION loop_trigger();
	CREATE TABLE loop_deferred (LIKE loop_out INCLUDING ALL);
	CREATE CONSTRAINT TRIGGER loop_deferred AFTER INSERT ON loop_deferred DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION loop_trigger();
	CREATE TABLE loop_plain (id int PRIMARY KEY, v text);
	CREATE FUNCTION loop_function(id int, v text) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN EXECUTE 'INSERT INTO loop_in SELECT $1 + 1, $2' USING id, v; RETURN id; END$$;
	CREATE FUNCTION loop_catches(id int, v text) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN BEGIN INSERT INTO loop_in VALUES (id + 1, v); EXCEPTION WHEN OTHERS THEN NULL; END; RETURN id; END$$;
	CREATE FUNCTION loop_truncates(id int) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN TRUNCATE loop_in; RETURN id; END$$;
	CREATE TABLE loop_ref (id int PRIMARY KEY);
	CREATE TABLE loop_cascade (id int PRIMARY KEY REFERENCES loop_ref ON DELETE CASCADE, v text);
	INSERT INTO loop_ref VALUES (1)});
foreach my $case (
	[ 'loop_in', 'in a trigger', 'INSERT INTO loop_out SELECT id, v FROM r', 'loop_out' ],
	[ 'loop_in', 'in a deferred trigger', 'INSERT INTO loop_deferred SELECT id, v FROM r', 'loop_deferred' ],
	[ 'loop_in', 'in a function', 'INSERT INTO loop_plain SELECT loop_function(id, v), v FROM r', 'loop_plain' ],
	[ 'loop_in', 'by TRUNCATE in a function', 'INSERT INTO loop_plain SELECT loop_truncates(id), v FROM r', 'loop_plain' ],
	[ 'loop_cascade', 'by a cascade', 'INSERT INTO loop_plain SELECT id, v FROM r; DELETE FROM loop_ref USING r WHERE loop_ref.id = r.id', 'loop_plain' ])
{
	my ($input, $how, $sql, $output) = @$case;
	my $content = "SELECT count(*) FROM $input UNION ALL SELECT count(*) FROM $output";

	sql("TRUNCATE $input, $output", "INSERT INTO $input VALUES (1, 'one')");
	create(qq{'loop', ARRAY['$input'::regclass], '$sql'});
	sql("SELECT trucker.start('loop')");
	ok( $node->poll_query_until('postgres',
			q{SELECT last_error ~ '^27000: truck "loop" would write its own input table|^55006: cannot TRUNCATE' FROM trucker.status WHERE truck = 'loop'}),
		"a write to the input table hidden $how stops the truck")
	  or diag $node->safe_psql('postgres', 'TABLE trucker.status');
	is($node->safe_psql('postgres', $content), "1\n0", "hidden $how: nothing of it is committed");
	drop('loop');
}

# An error that the SQL itself catches does no harm: nothing has been written.
sql("TRUNCATE loop_in, loop_plain", "INSERT INTO loop_in VALUES (1, 'one')");
create(q{'loop', ARRAY['loop_in'::regclass], 'INSERT INTO loop_plain SELECT loop_catches(id, v), v FROM r'});
sql("SELECT trucker.start('loop')");
ok(wait_state($node, 'loop', 'streaming'), 'a function that catches the error');
is($node->safe_psql('postgres', 'SELECT count(*) FROM loop_in'), '1', 'has still not written to the input table');
drop('loop');

# Writing what another truck reads is right (loops over several: 050_cascade.pl).
create(q{'other', ARRAY['loop_plain'::regclass], 'INSERT INTO s SELECT id + 100, v FROM r'});
starts('other', 'writing what another truck reads');
drop('other');

unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|terminated by signal/, 'no crash in all of this');
$node->stop;

done_testing();
