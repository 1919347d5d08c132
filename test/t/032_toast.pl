# A large value that an update leaves unchanged is not in the WAL.  r shows it all the
# same, and it is the value that the row had then: from the old image with REPLICA
# IDENTITY FULL; else from the table's row while that is still the version that the
# change made; else the truck stops.  Never is it another value, and never NULL.
# The truth is what a trigger saw when the change was made.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node(
	'toast',
	conf => q{
max_replication_slots = 60
max_wal_senders = 60
max_worker_processes = 80
});

sub sql
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	die 'SQL failed: ' . substr($stderr =~ s{^.*?(?=[^\n]*ERROR:)}{}sr, 0, 2000) . "in: $sql" if $rc != 0;
	return $stdout;
}

# Wait until the truck has applied all, or has stopped at an error: 'applied' or the
# error.
sub wait_for_end
{
	my ($truck) = @_;
	my $lsn = sql('SELECT pg_current_wal_insert_lsn()');

	for (;;)
	{
		$node->poll_query_until('postgres', "SELECT position >= '$lsn' OR state IN ('retrying', 'lost') FROM trucker.status WHERE truck = '$truck'")
		  or return 'neither';
		# it may just be on its way to another stream
		my $end = sql("SELECT CASE WHEN state IN ('retrying', 'lost') THEN last_error WHEN position >= '$lsn' THEN 'applied' END FROM trucker.status WHERE truck = '$truck'");
		return $end if $end ne '';
	}
}

# A value of 20 kB that does not get smaller, and so is stored out of line.
sql(q{
CREATE FUNCTION big(seed text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT string_agg(md5(seed || i), '') FROM generate_series(1, 640) AS i $$;

-- What the changes were, in order
CREATE FUNCTION expect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %I (op, id, n, big) SELECT $1, ($2).id, ($2).n, left(md5(($2).big), 8)', tg_table_name || '_expected') USING lower(tg_op), new;
	RETURN NULL;
END $$;
});

# table($name, %opts): table $name (id, n, small, big) with rows 1 to 3, a trigger that
# notes its inserts and updates, and a truck of the same name that logs what it sees.
sub table
{
	my ($name, %opts) = @_;
	my $options = $opts{options} // '{"backfill": false}';
	my $definition = $opts{definition} // 'id int PRIMARY KEY, n int, small text, big text';
	my $reads = $opts{reads} // 'id, n, left(md5(big), 8)';

	sql(qq{
CREATE TABLE $name ($definition);
@{[$opts{alter} // '']};
INSERT INTO $name SELECT i, 0, 'small', big('$name' || i) FROM generate_series(1, 3) AS i;
CREATE TABLE ${name}_expected (seq serial, op text, id text, n int, big text);
CREATE TABLE ${name}_log (seq serial, op text, id text, n int, big text);
CREATE TRIGGER expect AFTER INSERT OR UPDATE ON $name FOR EACH ROW EXECUTE FUNCTION expect();
SELECT trucker.create_truck('$name', '{$name}', 'INSERT INTO ${name}_log (op, id, n, big) SELECT meta__operation, $reads FROM r WHERE meta__operation <> \$\$delete\$\$ ORDER BY meta__seq', options => '$options');
});
	return;
}

sub start
{
	my ($name) = @_;

	sql("SELECT trucker.start('$name')");
	return wait_state($node, $name, 'streaming');
}

sub stop
{
	my ($name) = @_;

	sql("SELECT trucker.stop('$name')");
	return wait_state($node, $name, 'stopped');
}

# The log is what the trigger has seen.
sub right
{
	my ($name, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is( sql("SELECT string_agg(concat_ws(' ', op, id, n, coalesce(big, 'NULL')), E'\\n' ORDER BY seq) FROM ${name}_log"),
		sql("SELECT string_agg(concat_ws(' ', op, id, n, coalesce(big, 'NULL')), E'\\n' ORDER BY seq) FROM ${name}_expected"),
		$test_name);
}

# The log says nothing that the trigger has not seen.
sub not_wrong
{
	my ($name, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql("SELECT string_agg(concat_ws(' ', op, id, n, coalesce(big, 'NULL')), E'\\n') FROM (SELECT op, id, n, big FROM ${name}_log EXCEPT ALL SELECT op, id, n, big FROM ${name}_expected) AS w"),
		'', $test_name);
}

###
### start() warns
###

sub warns
{
	my ($name) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "SELECT trucker.start('$name')");

	return $stderr;
}

table('w_default');
like(warns('w_default'), qr/WARNING:.*column "big".*HINT:.*ALTER TABLE public.w_default REPLICA IDENTITY FULL.*"toast": "current"/s,
	'start() warns where an unchanged large value may get lost, and says what to do');
table('w_full', alter => 'ALTER TABLE w_full REPLICA IDENTITY FULL');
table('w_unread', reads => 'id, n, NULL');
table('w_inserts', options => '{"inserts_only": true, "backfill": false}');
table('w_current', options => '{"toast": "current", "backfill": false}');
unlike(warns($_), qr/large values/, "start() does not warn where none can: $_") foreach qw(w_full w_unread w_inserts w_current);
wait_state($node, $_, 'streaming') foreach qw(w_default w_full w_unread w_inserts w_current);
sql(q{UPDATE w_unread SET n = 1 WHERE id < 3; UPDATE w_unread SET n = 2 WHERE id < 3; DELETE FROM w_unread WHERE id = 1});
ok(caught_up($node, 'w_unread'), 'a large column that is not read never stops a truck');
is(sql('SELECT count(*) FROM w_unread_log'), '4', 'and all its changes arrive');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### REPLICA IDENTITY FULL: always right, however late the truck is
###

my $hard = q{
UPDATE %t SET n = n + 1 WHERE id = 1;
UPDATE %t SET n = n + 1 WHERE id = 1;
BEGIN;
UPDATE %t SET n = n + 1 WHERE id = 1;
UPDATE %t SET n = n + 1 WHERE id = 1;
UPDATE %t SET big = big('other') WHERE id = 1;
UPDATE %t SET n = n + 1 WHERE id = 1;
UPDATE %t SET small = repeat('s', 10) WHERE id = 1;
SAVEPOINT a;
UPDATE %t SET big = 'rolled back', n = -1 WHERE id = 1;
ROLLBACK TO a;
SAVEPOINT b;
UPDATE %t SET n = 100 WHERE id = 1;
RELEASE b;
UPDATE %t SET id = 5 WHERE id = 1;
UPDATE %t SET id = 1 WHERE id = 2;
UPDATE %t SET id = 2 WHERE id = 5;
COMMIT;
UPDATE %t SET big = NULL WHERE id = 2;
UPDATE %t SET n = 7 WHERE id = 2;
UPDATE %t SET big = 'short now' WHERE id = 1;
UPDATE %t SET n = 8 WHERE id = 1;
INSERT INTO %t VALUES (9, 9, 'x', big('nine'));
UPDATE %t SET n = 10 WHERE id = 9;
DELETE FROM %t WHERE id = 9;
UPDATE %t SET n = 11;
};
table('fullpk', alter => 'ALTER TABLE fullpk REPLICA IDENTITY FULL');
table('fullnopk', definition => 'id int, n int, small text, big text', alter => 'ALTER TABLE fullnopk REPLICA IDENTITY FULL');
table('fullold', alter => 'ALTER TABLE fullold REPLICA IDENTITY FULL; CREATE TABLE fullold_olds (big text)', reads => 'id, n, left(md5(big), 8) FROM r WHERE meta__operation <> $$delete$$ ORDER BY meta__seq; INSERT INTO fullold_olds SELECT md5(old__big)');
my @full = qw(fullpk fullnopk fullold);
ok(start($_), "$_ runs") foreach @full;
foreach my $name (@full)
{
	sql($hard =~ s/%t/$name/gr);
	ok(caught_up($node, $name), "$name, running: changes arrive");
	right($name, "$name, running: each unchanged large value is the row's own");
	ok(stop($name), "$name stops");
	sql(("TRUNCATE ${name}_log, ${name}_expected RESTART IDENTITY; DELETE FROM $name WHERE id < 3; INSERT INTO $name SELECT i, 0, 'again', big('again' || i) FROM generate_series(1, 2) AS i;" . $hard) =~ s/%t/$name/gr);
	ok(start($name) && caught_up($node, $name), "$name, after a stop: changes arrive");
	right($name, "$name, after a stop: each unchanged large value is the row's own");
}
is(sql(q{SELECT count(*) FROM fullold_olds WHERE big NOT IN (SELECT md5(big('again' || i)) FROM generate_series(1, 2) AS i)
	AND big NOT IN (SELECT md5(big('fullold' || i)) FROM generate_series(1, 3) AS i)
	AND big NOT IN (SELECT md5(v) FROM (VALUES (big('other')), ('short now'), (big('nine'))) AS v(v))}),
	'0', 'old large values are complete');

###
### With a key as replica identity: right while the row is still the change's
###

table('keyed');
ok(start('keyed'), 'keyed runs');
my @soon = (
	'an update'                  => q{UPDATE keyed SET n = n + 1 WHERE id = 1},
	'another update of the row'  => q{UPDATE keyed SET n = n + 1 WHERE id = 1},
	'several rows'               => q{UPDATE keyed SET n = n + 1},
	'a new key'                  => q{UPDATE keyed SET id = 7 WHERE id = 3},
	'a savepoint'                => q{BEGIN; SAVEPOINT s; UPDATE keyed SET n = n + 1 WHERE id = 1; RELEASE s; COMMIT},
	'nested savepoints'          => q{BEGIN; UPDATE keyed SET n = n + 1 WHERE id = 7; SAVEPOINT s; SAVEPOINT t; UPDATE keyed SET n = n + 1 WHERE id = 1; RELEASE t; UPDATE keyed SET n = n + 1 WHERE id = 2; COMMIT},
	'a block with EXCEPTION'     => q{DO $$ BEGIN UPDATE keyed SET n = n + 1 WHERE id = 1; EXCEPTION WHEN others THEN RAISE; END $$},
	'a rolled back savepoint'    => q{BEGIN; SAVEPOINT s; UPDATE keyed SET big = 'x' WHERE id = 1; ROLLBACK TO s; UPDATE keyed SET n = n + 1 WHERE id = 1; COMMIT},
	'FOR UPDATE before and after' => q{BEGIN; SELECT 1 FROM keyed WHERE id = 1 FOR UPDATE; UPDATE keyed SET n = n + 1 WHERE id = 1; SELECT 1 FROM keyed FOR KEY SHARE; COMMIT; SELECT 1 FROM keyed FOR UPDATE},
	'a VACUUM FREEZE behind it'  => q{UPDATE keyed SET n = n + 1 WHERE id = 1; VACUUM (FREEZE) keyed},
	'many in one transaction'    => q{INSERT INTO keyed SELECT i, 0, 's', big(i::text) FROM generate_series(100, 160) AS i; UPDATE keyed SET n = n + 1 WHERE id >= 100},
	'a short value'              => q{UPDATE keyed SET big = 'short' WHERE id = 2; INSERT INTO keyed VALUES (50, 0, 's', NULL)},
	'a short value left alone'   => q{UPDATE keyed SET n = n + 1 WHERE id IN (2, 50)});
while (my ($title, $change) = splice @soon, 0, 2)
{
	sql($change);
	is(wait_for_end('keyed'), 'applied', "a key as identity, $title: arrives");
}
right('keyed', 'a key as identity: each unchanged large value is the row\'s own');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

# Keys of other kinds.
table('index_identity', definition => 'id numeric NOT NULL, n int, small text, big text', alter => 'CREATE UNIQUE INDEX index_identity_i ON index_identity (id); ALTER TABLE index_identity REPLICA IDENTITY USING INDEX index_identity_i');
table('text_key', definition => 'id text COLLATE "C" PRIMARY KEY, n int, small text, big text');
table('two_keys', definition => q{id int, n int, small text DEFAULT 'x', big text, dropped int, PRIMARY KEY (small, id)}, alter => 'ALTER TABLE two_keys DROP COLUMN dropped');
table('varchar_key', definition => 'id varchar(20), n int, small text, big text, PRIMARY KEY (id)');
my @keys = qw(index_identity text_key two_keys varchar_key);
ok(start($_), "$_ runs") foreach @keys;
foreach my $name (@keys)
{
	sql("UPDATE $name SET n = n + 1");
	is(wait_for_end($name), 'applied', "$name: an update arrives");
}
sql(q{UPDATE index_identity SET id = 1.00 WHERE id = 1});
is(wait_for_end('index_identity'), 'applied', 'index_identity: a key that changes to an equal one arrives');
right($_, "$_: the unchanged large value is the row's own") foreach @keys;

# A key that is itself stored out of line.
table('big_key', definition => 'id text PRIMARY KEY, n int, small text, big text', alter => 'ALTER TABLE big_key ALTER id SET STORAGE EXTERNAL', reads => 'left(id, 5), n, left(md5(big), 8)');
sql(q{INSERT INTO big_key VALUES (repeat('k', 2500), 0, 's', big('k')); UPDATE big_key_expected SET id = left(id, 5)});
ok(start('big_key'), 'big_key runs');
sql(q{TRUNCATE big_key_expected RESTART IDENTITY; UPDATE big_key SET n = 1; UPDATE big_key_expected SET id = left(id, 5)});
is(wait_for_end('big_key'), 'applied', 'a key that is stored out of line and does not change: the update arrives');
right('big_key', 'and is right');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### With a key as replica identity, and the row not the change's any more: never wrong
###

# changes => must it stop ('stops'), or may it also be right ('either')?
my %late = (
	updated_later       => [ 'stops', q{UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET n = 2 WHERE id = 1} ],
	value_changed_later => [ 'stops', q{UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET big = big('later') WHERE id = 1} ],
	deleted_later       => [ 'stops', q{UPDATE %t SET n = 1 WHERE id = 1; DELETE FROM %t WHERE id = 1} ],
	replaced_later      => [ 'stops', q{UPDATE %t SET n = 1 WHERE id = 1; DELETE FROM %t WHERE id = 1; INSERT INTO %t VALUES (1, 1, 's', big('new'))} ],
	moved_later         => [ 'stops', q{UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET id = 11 WHERE id = 1} ],
	changed_in_it       => [ 'stops', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET big = big('later') WHERE id = 1; COMMIT} ],
	shortened_in_it     => [ 'stops', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET big = 'short' WHERE id = 1; COMMIT} ],
	nulled_in_it        => [ 'stops', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET big = NULL WHERE id = 1; COMMIT} ],
	subxact_in_it       => [ 'stops', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; SAVEPOINT s; UPDATE %t SET big = big('later') WHERE id = 1; RELEASE s; COMMIT} ],
	deleted_in_it       => [ 'either', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; DELETE FROM %t WHERE id = 1; COMMIT} ],
	replaced_in_it      => [ 'stops', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; DELETE FROM %t WHERE id = 1; INSERT INTO %t VALUES (1, 1, 's', big('new')); COMMIT} ],
	twice_in_it         => [ 'either', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET n = 2 WHERE id = 1; COMMIT} ],
	other_in_it         => [ 'either', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET n = 2, small = 'y' WHERE id = 1; COMMIT} ],
	moved_in_it         => [ 'either', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET id = 11 WHERE id = 1; COMMIT} ],
	taken_place         => [ 'stops', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET id = 11 WHERE id = 1; INSERT INTO %t VALUES (1, 1, 's', big('new')); COMMIT} ],
	moved_through       => [ 'stops', q{BEGIN; UPDATE %t SET id = 12 WHERE id = 1; UPDATE %t SET id = 13 WHERE id = 12; UPDATE %t SET id = 12 WHERE id = 2; COMMIT} ],
	swapped             => [ 'stops', q{BEGIN; UPDATE %t SET n = 1; UPDATE %t SET id = -1 WHERE id = 1; UPDATE %t SET id = 1 WHERE id = 2; UPDATE %t SET id = 2 WHERE id = -1; COMMIT} ],
	swapped_later       => [ 'stops', q{UPDATE %t SET n = 1 WHERE id = 1; BEGIN; UPDATE %t SET id = -1 WHERE id = 1; UPDATE %t SET id = 1 WHERE id = 2; UPDATE %t SET id = 2 WHERE id = -1; COMMIT} ],
	there_and_back      => [ 'either', q{BEGIN; UPDATE %t SET n = 1 WHERE id = 1; UPDATE %t SET id = -1 WHERE id = 1; UPDATE %t SET id = 1 WHERE id = -1; COMMIT} ]);
my @late = sort keys %late;

foreach my $name (@late)
{
	table("late_$name");
	table("cur_$name", options => '{"toast": "current", "backfill": false}');
}
my @all = map { ("late_$_", "cur_$_") } @late;
sql('SELECT trucker.start()');
ok(wait_state($node, $_, 'streaming'), "$_ runs") foreach @all;
sql('SELECT trucker.stop()');
ok(wait_state($node, $_, 'stopped'), "$_ stops") foreach @all;
sql(join ";\n", map { my $name = $_; map { $late{$name}[1] =~ s/%t/${_}_$name/gr } qw(late cur) } @late);
sql('SELECT trucker.start()');
foreach my $name (@late)
{
	my $end = wait_for_end("late_$name");

	if ($late{$name}[0] eq 'stops' || $end ne 'applied')
	{
		like($end, qr/\A55000: .*HINT: .*ALTER TABLE public.late_$name REPLICA IDENTITY FULL.*resync.*"toast": "current"/s, "late, $name: stops and says what to do");
	}
	else
	{
		pass("late, $name: applied");
	}
	not_wrong("late_$name", "late, $name: no value that the row never had");
	is(sql("SELECT count(*) FROM late_${name}_log WHERE big IS NULL AND n <> 0 AND id = '1'"), $name eq 'nulled_in_it' && $end eq 'applied' ? '1' : '0', "late, $name: no NULL for a missing value");

	is(wait_for_end("cur_$name"), 'applied', "option toast = current, $name: goes on");
	is( sql("SELECT count(*) FROM (SELECT DISTINCT ON (id) id, big FROM cur_${name}_log ORDER BY id, seq DESC) AS l JOIN cur_$name AS t ON t.id::text = l.id WHERE l.big IS DISTINCT FROM left(md5(t.big), 8)"),
		'0', "option toast = current, $name: the last change of each row has the row's value");
}

# The way out that the hint shows.
sql(q{ALTER TABLE late_updated_later REPLICA IDENTITY FULL; TRUNCATE late_updated_later_log, late_updated_later_expected; SELECT trucker.resync('late_updated_later')});
ok(wait_state($node, 'late_updated_later', 'streaming'), 'REPLICA IDENTITY FULL and resync() get the truck going');
sql(q{UPDATE late_updated_later SET n = 3 WHERE id = 1; UPDATE late_updated_later SET n = 4 WHERE id = 1});
ok(caught_up($node, 'late_updated_later'), 'and changes arrive');
right('late_updated_later', 'right');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### Large values of every kind
###

sql(q{
CREATE TYPE pair AS (a int, b text);
CREATE TABLE large (id int PRIMARY KEY, n int, t text, b bytea, j jsonb, js json, a text[], p pair, xm xml, v tsvector, nm numeric);
ALTER TABLE large REPLICA IDENTITY FULL;
CREATE TABLE large_copy (LIKE large INCLUDING INDEXES);
CREATE TABLE large_keyed (LIKE large INCLUDING INDEXES);
CREATE TABLE large_keyed_copy (LIKE large INCLUDING INDEXES);
SELECT trucker.create_truck(n, ARRAY[n::regclass], format($$
	DELETE FROM %1$s_copy USING r WHERE meta__operation <> 'insert' AND %1$s_copy.id = r.old__id;
	INSERT INTO %1$s_copy SELECT id, n, t, b, j, js, a, p, xm, v, nm FROM r WHERE meta__operation <> 'delete'$$, n))
FROM unnest('{large, large_keyed}'::text[]) AS n;
SELECT trucker.start();
});
ok(wait_state($node, $_, 'streaming'), "$_ runs") foreach qw(large large_keyed);
my $insert = q{
INSERT INTO %t SELECT i, 0, t, convert_to(t, 'UTF8'), to_jsonb(t), to_json(t), ARRAY[t, NULL, t], (1, t)::pair, xmlelement(name a, replace(replace(t, E'\x01', ''), E'\x02', '')), to_tsvector('simple', left(t, 100000)), (repeat('9', 30000) || '.5')::numeric
FROM generate_series(1, 3) AS i,
LATERAL (SELECT repeat(big('large' || i) || E'"quoted" \\ \n\t \x01 größe 日本 it''s ', CASE i WHEN 3 THEN 260 ELSE 5 END) AS t) AS t};
foreach my $name (qw(large large_keyed))
{
	my $columns = "id, n, t, b, j, js::text, a, p, xm::text, v, nm";

	sql($insert =~ s/%t/$name/gr);
	ok(caught_up($node, $name), "$name: inserts of values of up to 5 MB arrive");
	is(sql("SELECT max(octet_length(t)) > 5000000 FROM $name"), 't', "$name: which are that large");
	same($node, "SELECT $columns FROM $name", "SELECT $columns FROM ${name}_copy", "$name: and are exact");
	sql("UPDATE $name SET n = n + 1");
	ok(caught_up($node, $name), "$name: an update that leaves them unchanged arrives");
	same($node, "SELECT $columns FROM $name", "SELECT $columns FROM ${name}_copy", "$name: and they are exact");
	sql("UPDATE $name SET id = id + 10, t = NULL");
	ok(caught_up($node, $name), "$name: new keys arrive");
	sql("DELETE FROM $name WHERE id = 12");
	ok(caught_up($node, $name), "$name: a delete arrives");
	same($node, "SELECT $columns FROM $name", "SELECT $columns FROM ${name}_copy", "$name: and all is exact");
}
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

###
### NaN and infinity that the plugin sends as null
###

foreach my $type (qw(float4 float8 numeric))
{
	foreach my $value (qw(NaN Infinity -Infinity))
	{
		my $name = lc "nan_${type}_" . $value =~ s/-/m/r;

		sql(qq{
CREATE TABLE $name (id int PRIMARY KEY, n $type NOT NULL);
CREATE TABLE ${name}_copy (id int, n $type);
SELECT trucker.create_truck('$name', '{$name}', 'INSERT INTO ${name}_copy SELECT id, n FROM r', options => '{"reset_sql": "TRUNCATE ${name}_copy"}');
SELECT trucker.start('$name');
});
		ok(wait_state($node, $name, 'streaming'), "$name runs");
		sql("INSERT INTO $name VALUES (1, 1), (2, '$value')");
		my $end = wait_for_end($name);
	  SKIP:
		{
			skip 'this decoder carries them', 2 if $end eq 'applied';
			like($end, qr/column "n" of table public.$name .*NaN.*NOT NULL.*HINT: .*wal2json 2\.6.*resync/s, "$value in a NOT NULL $type column stops the truck and says what to do");
			is(sql("SELECT count(*) FROM ${name}_copy"), '0', 'and nothing of its transaction is applied');
			sql("SELECT trucker.resync('$name')");
		}
		ok(wait_state($node, $name, 'streaming'), 'resync() loads it');
		same($node, "SELECT id, n::text FROM $name", "SELECT id, n::text FROM ${name}_copy", 'exactly');
		sql("SELECT trucker.drop_truck('$name')");
	}
}

# As an old value, as a key, and where it is not read.
sql(q{
CREATE TABLE nan_old (id int PRIMARY KEY, n numeric NOT NULL);
ALTER TABLE nan_old REPLICA IDENTITY FULL;
INSERT INTO nan_old VALUES (1, 'NaN'), (2, 'NaN');
CREATE TABLE nan_old_log (op text, n numeric);
CREATE TABLE nan_key (id float8 PRIMARY KEY, v text);
CREATE TABLE nan_key_log (id float8);
CREATE TABLE nan_unread (id int PRIMARY KEY, n numeric NOT NULL, v text);
CREATE TABLE nan_unread_log (id int, v text);
SELECT trucker.create_truck('nan_old', '{nan_old}', 'INSERT INTO nan_old_log SELECT meta__operation, old__n FROM r', options => '{"backfill": false}');
SELECT trucker.create_truck('nan_key', '{nan_key}', 'INSERT INTO nan_key_log SELECT id FROM r', options => '{"backfill": false}');
SELECT trucker.create_truck('nan_unread', '{nan_unread}', 'INSERT INTO nan_unread_log SELECT id, v FROM r', options => '{"backfill": false}');
SELECT trucker.start();
});
ok(wait_state($node, $_, 'streaming'), "$_ runs") foreach qw(nan_old nan_key nan_unread);
sql(q{DELETE FROM nan_old WHERE id = 1; INSERT INTO nan_key VALUES ('NaN', 'a'); INSERT INTO nan_unread VALUES (1, 'NaN', 'a')});
my $end = wait_for_end('nan_old');
$end eq 'applied' ? is(sql('SELECT n FROM nan_old_log'), 'NaN', 'NaN as an old value is carried') : like($end, qr/column "n".*NaN/s, 'NaN as an old value stops the truck');
$end = wait_for_end('nan_key');
$end eq 'applied' ? is(sql('SELECT id FROM nan_key_log'), 'NaN', 'NaN as a key is carried') : like($end, qr/column "id".*NaN/s, 'NaN as a key stops the truck');
is(wait_for_end('nan_unread'), 'applied', 'NaN in a column that is not read does no harm');
is(sql('SELECT id || v FROM nan_unread_log'), '1a', 'and its row arrives');

$node->stop;

done_testing();
