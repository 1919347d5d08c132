# Of a table pgoutput sends only the columns that trucks read.  When they are to read more,
# their new SQL begins exactly where the columns do; and no column list makes a statement of
# the application fail, or leaves a value out that some truck's SQL is given as NULL.
#
# TRUCKER_SEED=n repeats the choices.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();
my $node = trucker_node('column_list', conf => "trucker.output_plugin = pgoutput\ntrucker.max_failures = 0\nautovacuum_naptime = '1s'\n");

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# What is published of a table, or a partition, as a query.
sub list_query
{
	my ($table) = @_;

	return qq{SELECT coalesce(string_agg(coalesce((SELECT string_agg(coalesce(a.attname, '?'), ' ' ORDER BY n.o)
		FROM unnest(r.prattrs::int2[]) WITH ORDINALITY AS n(attnum, o) LEFT JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = n.attnum), 'all'), ', '), 'nothing')
		FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname LIKE 'trucker\\_%' AND r.prrelid = '$table'::regclass};
}

sub list_of
{
	my ($table) = @_;

	return sql(list_query($table));
}

sub wait_list
{
	my ($table, $list, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->poll_query_until('postgres', list_query($table), $list);
	return is(list_of($table), $list, $test_name);
}

sub former
{
	return sql(q{SELECT coalesce(string_agg(truck || CASE WHEN switches_at IS NULL THEN ' waits' ELSE ' knows' END, ', ' ORDER BY truck), 'none') FROM trucker.former_definitions});
}

# becomes_former($what, $test_name): the view says that, as soon as no old transaction is left, of which
# autovacuum may have one
sub becomes_former
{
	my ($what, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for (my $n = 0; former() ne $what && $n < 10 * $PostgreSQL::Test::Utils::timeout_default; $n++)
	{
		select undef, undef, undef, 0.1;
	}
	return is(former(), $what, $test_name);
}

# ----
# What is published
# ----

sql(q{
CREATE TABLE t (id int PRIMARY KEY, a int, b text, big text, c int);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE o1 (id int PRIMARY KEY, a int, c int, b text, big text);
CREATE TABLE o2 (LIKE o1 INCLUDING ALL);
INSERT INTO t VALUES (1, 10, 'b1', 'x', 100);
SELECT trucker.create_truck('one', '{t}', $$
	DELETE FROM o1 USING r WHERE o1.id = r.old__id;
	INSERT INTO o1 (id, a) SELECT id, a FROM r WHERE meta__operation <> 'delete'$$, options => '{"reset_sql": "TRUNCATE o1"}');
SELECT trucker.start('one')});
ok(wait_state($node, 'one', 'streaming'), 'a truck streams');
wait_list('t', 'id a', 'only what it reads is published, and the key');
is(sql("SELECT columns FROM trucker.publications WHERE input_table = 't'::regclass"), '{id,a}', 'the view tells');
sql("INSERT INTO t VALUES (2, 20, 'b2', 'y', 200); UPDATE t SET a = a + 1; UPDATE t SET b = 'other'");
same($node, 'SELECT id, a FROM t', 'SELECT id, a FROM o1', 'changes arrive') if caught_up($node, 'one');
is(former(), 'none', 'nobody needs a former definition');


sql(q{
SELECT trucker.create_truck('two', '{t}', $$
	DELETE FROM o2 USING r WHERE o2.id = r.old__id;
	INSERT INTO o2 (id, c) SELECT id, c FROM r WHERE meta__operation <> 'delete'$$, options => '{"reset_sql": "TRUNCATE o2"}');
SELECT trucker.start('two')});
ok(wait_state($node, 'two', 'streaming'), 'another truck, which reads another column');
wait_list('t', 'id a c', 'both columns are published');
sql("INSERT INTO t VALUES (3, 30, 'b3', 'z', 300); DELETE FROM t WHERE id = 1");
same($node, 'SELECT id, a FROM t', 'SELECT id, a FROM o1', 'the first one') if caught_up($node, 'one');
same($node, 'SELECT id, c FROM t', 'SELECT id, c FROM o2', 'and the other one') if caught_up($node, 'two');
sql("SELECT trucker.stop('two')");
ok(wait_state($node, 'two', 'stopped'), 'it is stopped');
sql("SELECT trucker.stop('one'); SELECT trucker.start('one')");
ok(wait_state($node, 'one', 'streaming'), 'the first one is started again');
is(list_of('t'), 'id a c', 'what a stopped truck reads is published all the same');
sql("UPDATE t SET c = c + 1; SELECT trucker.start('two')");
same($node, 'SELECT id, c FROM t', 'SELECT id, c FROM o2', 'and has not been missed') if caught_up($node, 'two');
sql("SELECT trucker.drop_truck('two'); SELECT trucker.stop('one'); SELECT trucker.start('one')");
wait_list('t', 'id a', 'what nobody reads any more is published no more');

# ----
# Where all columns are published
# ----

sql(q{
CREATE TABLE whole (id int PRIMARY KEY, a int, b int);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE generated (id int PRIMARY KEY, a int, b int, g int GENERATED ALWAYS AS (a + 1) STORED, h int GENERATED ALWAYS AS (b + 1) STORED);
CREATE TABLE quarantined (id int PRIMARY KEY, a int, b int);
CREATE TABLE nothing_read (id int PRIMARY KEY, a int, b int);
CREATE TABLE everything (id int PRIMARY KEY, a int, b int);
CREATE TABLE parted (id int, part int, a int, b text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 (b text, gone int, a int, part int NOT NULL, id int NOT NULL, extra int);
ALTER TABLE parted_2 DROP COLUMN gone, DROP COLUMN extra, ADD PRIMARY KEY (id, part);
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2);
CREATE TABLE got (truck text, id int, v text);
CREATE FUNCTION make(truck text, input text, sql text, options jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM trucker.create_truck(truck, ARRAY[input::regclass], 'INSERT INTO got SELECT ' || quote_literal(truck) || ', ' || sql || ' FROM r', options => options);
	PERFORM trucker.start(truck);
END $$;
SELECT make('whole', 'whole', 'coalesce(id, old__id), a::text');
SELECT make('generated', 'generated', 'coalesce(id, old__id), g::text');
SELECT make('quarantined', 'quarantined', 'coalesce(id, old__id), a::text', '{"on_error": "quarantine"}');
SELECT make('everything', 'everything', 'coalesce(id, old__id), a::text || b');
SELECT make('parted', 'parted', 'coalesce(id, old__id), b')});
ok(wait_state($node, $_, 'streaming'), "truck $_ streams") foreach qw(whole generated quarantined everything parted);
wait_list('parted_1', 'id part b', 'a partition has a list');
wait_list('parted_2', 'b part id', 'and another one, whose columns lie elsewhere');
is(list_of($_), 'all', "$_: all columns are published") foreach qw(whole generated quarantined everything);
sql(q{INSERT INTO parted VALUES (1, 1, 10, 'one'), (2, 2, 20, 'two'); UPDATE parted SET part = 3 - part, b = b || '!'; DELETE FROM parted WHERE id = 2;
INSERT INTO generated (id, a) VALUES (1, 5); UPDATE generated SET a = 6});
ok(caught_up($node, $_), "$_ has caught up") foreach qw(parted generated);
is(sql("SELECT string_agg(v, ' ' ORDER BY v) FROM got WHERE truck = 'parted' AND v IS NOT NULL"), 'one one! two two!', 'changes of partitions, and rows that move');
is(sql("SELECT string_agg(v, ' ' ORDER BY v) FROM got WHERE truck = 'generated'"), '6 7', 'generated values');
sql("CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3)");
is(list_of('parted_3'), 'all', 'a new partition is published with all columns');
sql("SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck NOT IN ('one', 'parted')");

# ----
# A truck that is altered to read more
# ----

# Its log tells which definition has applied which source transaction.
sql(q{
CREATE TABLE s (id int PRIMARY KEY, a int, b text, c int, big text);
ALTER TABLE s ALTER big SET STORAGE EXTERNAL;
CREATE TABLE log (n bigint GENERATED ALWAYS AS IDENTITY, def text, lsn pg_lsn, xid bigint, id int, a int, b text, c int, big text);
SELECT trucker.create_truck('log', '{s}', $$INSERT INTO log (def, lsn, xid, id, a) SELECT 'A', meta__lsn, meta__xid, id, a FROM r$$,
	options => '{"reset_sql": "TRUNCATE log", "toast": "current"}');
SELECT trucker.start('log')});
ok(wait_state($node, 'log', 'streaming'), 'a truck streams');
wait_list('s', 'id a', 'it reads two columns');

my %def = (
	B => q{INSERT INTO log (def, lsn, xid, id, a, b) SELECT 'B', meta__lsn, meta__xid, id, a, b FROM r},
	C => q{INSERT INTO log (def, lsn, xid, id, a, b, c) SELECT 'C', meta__lsn, meta__xid, id, a, b, c FROM r},
	D => q{INSERT INTO log (def, lsn, xid, id, c) SELECT 'D', meta__lsn, meta__xid, id, c FROM r},
	big => q{INSERT INTO log (def, lsn, xid, id, a, big) SELECT 'big', meta__lsn, meta__xid, id, a, big FROM r});

sub alter
{
	my ($truck, $def) = @_;

	return sql("SELECT trucker.alter_truck('$truck', output_sql => \$def\$$def{$def}\$def\$)");
}

# What has been applied, by which definition; and that no value is missing that it reads.
sub log_of
{
	my ($test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(caught_up($node, 'log'), "$test_name: caught up");
	is(sql(q{SELECT count(*) FROM log l WHERE (def IN ('B', 'C') AND b IS NULL) OR (def IN ('C', 'D') AND c IS NULL) OR (def = 'big' AND big IS NULL)}), '0', "$test_name: no value is missing");
	return sql(q{WITH l AS (DELETE FROM log RETURNING *) SELECT string_agg(def || id, ' ' ORDER BY n) FROM l});
}

my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; INSERT INTO s VALUES (1, 1, 'one', 1)");
alter('log', 'B');
wait_list('s', 'id a b', 'altered: the column is published');
ok($node->poll_query_until('postgres', "SELECT state LIKE 'the columns that the new definition reads are published, but%' FROM trucker.former_definitions"), 'but cannot be relied upon while an old transaction is open');
is(sql("SELECT by_former_definition FROM trucker.publications WHERE input_table = 's'::regclass"), '{log}', 'the view tells');
$open->query_safe("INSERT INTO s VALUES (2, 2, 'two', 2)");
sql("INSERT INTO s VALUES (3, 3, 'three', 3)");
is(log_of('meanwhile'), 'A3', 'until then the former definition is run');

my $crash = -s $node->logfile;
$node->stop('immediate');
$node->start;
eval { $open->quit };
# the old transaction has gone with the server, so the new definition may have taken effect since
ok(former() =~ /^log / || $node->wait_for_log(qr/truck "log": its new definition takes effect at/, $crash), 'also after a crash');
sql("INSERT INTO s VALUES (4, 4, 'four', 4)");
ok(caught_up($node, 'log'), 'it goes on');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), 'no old transaction is left: the new one takes effect');
sql("INSERT INTO s VALUES (5, 5, 'five', 5)");
like(log_of('then'), qr/^[AB]4 B5$/, 'with what commits from there on');

# altered again before, stopped and started, with a transaction from before to after
$open = $node->background_psql('postgres');
$open->query_safe("BEGIN; INSERT INTO s VALUES (11, 11, 'eleven', 11)");
alter('log', 'C');
wait_list('s', 'id a b c', 'altered once more');
sql("INSERT INTO s VALUES (12, 12, 'twelve', 12)");
is(log_of('waiting'), 'B12', 'the definition that there was');
alter('log', 'D');
ok(caught_up($node, 'log'), 'and again');
sql("INSERT INTO s VALUES (13, 13, 'thirteen', 13)");
is(log_of('altered twice'), 'B13', 'that one stays');
sql("SELECT trucker.stop('log')");
ok(wait_state($node, 'log', 'stopped'), 'it is stopped');
sql("INSERT INTO s VALUES (14, 14, 'fourteen', 14)");
$open->query_safe("INSERT INTO s VALUES (15, 15, 'fifteen', 15); COMMIT");
$open->quit;
sql("INSERT INTO s VALUES (16, 16, 'sixteen', 16); SELECT trucker.start('log')");
ok(caught_up($node, 'log'), 'started');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), 'the last of the new ones takes effect');
sql("INSERT INTO s VALUES (17, 17, 'seventeen', 17)");
is(log_of('after that'), 'B14 B11 B15 B16 D17', 'in front of no other transaction');
wait_list('s', 'id c', 'and the list is what it reads');

# what it need not wait for
alter('log', 'D');
sql("INSERT INTO s VALUES (18, 18, 'eighteen', 18)");
is(log_of('nothing new'), 'D18', 'a definition that reads no more');
is(former(), 'none', 'does not wait');
sql("SELECT trucker.stop('log')");
ok(wait_state($node, 'log', 'stopped'), 'stopped');
sql("INSERT INTO s VALUES (20, 20, 'twenty', 20)");
alter('log', 'C');
alter('log', 'D');
sql("SELECT trucker.start('log')");
is(log_of('to and fro'), 'D20', 'nor one that reads again what has been sent');
is(former(), 'none', 'and nothing is left of those between');

# large values that are left unchanged are no missing columns
alter('log', 'big');
ok(caught_up($node, 'log') && $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), 'a large column is read');
sql("INSERT INTO s VALUES (30, 30, 'x', 30, repeat('x', 10000)); UPDATE s SET a = 31 WHERE id = 30");
is(log_of('large values'), 'big30 big30', 'a large value, and one left unchanged');
sql(q{INSERT INTO log (def, id) SELECT 'none', 0; SELECT trucker.create_truck('beside', '{s}', $$INSERT INTO log (def, id, big) SELECT 'big', id, big FROM r$$,
	options => '{"backfill": false, "toast": "current"}'); SELECT trucker.start('beside')});
ok(wait_state($node, 'beside', 'streaming'), 'a second truck, so that changes are kept');
sql("UPDATE s SET a = 32 WHERE id = 30; DELETE FROM log WHERE def = 'none'");
ok(caught_up($node, 'beside'), 'it has caught up');
is(log_of('kept changes'), 'big30 big30', 'left unchanged in a kept change');
sql("SELECT trucker.drop_truck('beside')");

# killed at each step
alter('log', 'D');
ok(caught_up($node, 'log'), 'a definition that reads less');
foreach my $point ('columns arranged', 'definition switches', 'definition switched')
{
	my $offset = -s $node->logfile;

	wait_list('s', 'id c', "$point: little is published");
	sql("DELETE FROM s; INSERT INTO s VALUES (1, 1, 'one', 1)");
	ok(caught_up($node, 'log'), "$point: caught up");
	sql('DELETE FROM log');
	$open = $node->background_psql('postgres');
	$open->query_safe("BEGIN; INSERT INTO s VALUES (2, 2, 'two', 2)");
	sql("ALTER SYSTEM SET trucker.stop_point = '$point'");
	$node->reload;
	# the worker has been told before a new session sees it, and reads it between batches
	ok($node->poll_query_until('postgres', "SELECT current_setting('trucker.stop_point') = '$point'") && caught_up($node, 'log'), "$point: set");
	alter('log', 'C');
	ok($node->wait_for_log(qr/stop point "columns arranged" reached/, $offset), "$point: reached") if $point eq 'columns arranged';
	$open->query_safe("INSERT INTO s VALUES (3, 3, 'three', 3)");
	$open->query_safe('COMMIT');
	$open->quit;
	ok($node->wait_for_log(qr/stop point "$point" reached/, $offset), "$point: reached") if $point ne 'columns arranged';
	sql("INSERT INTO s VALUES (4, 4, 'four', 4); ALTER SYSTEM RESET trucker.stop_point");
	$node->stop('immediate');
	$node->start;
	ok(caught_up($node, 'log') && $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), "$point: after a crash the new definition takes effect");
	sql("INSERT INTO s VALUES (5, 5, 'five', 5)");
	like(log_of($point), qr/^D2 D3 [CD]4 C5$/, "$point: in its place");
	alter('log', 'D');
	ok(caught_up($node, 'log'), 'back');
}

# to another stream at the same time, and seen by nobody else
$open = $node->background_psql('postgres');
$open->query_safe("BEGIN; INSERT INTO s VALUES (6, 6, 'six', 6)");
sql("SELECT trucker.alter_truck('log', output_sql => \$def\$$def{C}\$def\$, options => '{\"stream\": \"elsewhere\"}')");
ok($node->poll_query_until('postgres', "SELECT stream ~ 'elsewhere' FROM trucker.status WHERE truck = 'log'"), 'altered, and to another stream');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM trucker.former_definitions WHERE state LIKE \'the columns%\''), 'where the former definition is in force, too');
sql("CREATE ROLE nobody; INSERT INTO s VALUES (7, 7, 'seven', 7)");
is(sql('SET ROLE nobody; SELECT count(*) FROM trucker.former_definitions'), '0', 'others do not see it');
like(psql_err($node, 'SET ROLE nobody; TABLE trucker.former_truck'), qr/ERROR:  42501/, 'nor the table');
ok(caught_up($node, 'log'), 'it goes on');
$open->query_safe('COMMIT');
$open->quit;
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), 'until the new one takes effect');
sql("INSERT INTO s VALUES (8, 8, 'eight', 8)");
is(log_of('on another stream'), 'D7 D6 C8', 'each in its place');

# ----
# A truck that fails, and is altered to read what it has not been sent
# ----

sql(q{
CREATE TABLE f (id int PRIMARY KEY, a int, b text);
CREATE TABLE f_copy (id int PRIMARY KEY, a int CHECK (a < 100), b text);
SELECT trucker.create_truck('fails', '{f}', $$
	INSERT INTO f_copy (id, a) SELECT id, a FROM r$$, options => '{"stream": "fails", "inserts_only": true, "reset_sql": "TRUNCATE f_copy"}');
SELECT trucker.start('fails')});
ok(wait_state($node, 'fails', 'streaming'), 'a truck streams');
wait_list('f', 'id a', 'it reads two columns');
foreach my $way ('wal2json', 'resync')
{
	sql("INSERT INTO f SELECT coalesce(max(id), 0) + 1, 100, 'hundred' FROM f");
	ok($node->poll_query_until('postgres', "SELECT last_error LIKE '23514: %' FROM trucker.status WHERE truck = 'fails'"), "$way: it fails");
	sql(q{SELECT trucker.alter_truck('fails', output_sql => 'INSERT INTO f_copy (id, a, b) SELECT id, least(a, 99), b FROM r')});
	ok($node->poll_query_until('postgres', "SELECT last_error LIKE E'23514: %\\nHINT: The truck runs its former definition: %trucker.resync(''fails'')%trucker.set_output_plugin(''fails'', ''wal2json'')%' FROM trucker.status WHERE truck = 'fails'"),
		"$way: also by what it is altered to, and why it does, and what helps, is said");
	becomes_former('fails knows', "$way: the former definition is in force");
	sql($way eq 'resync' ? "SELECT trucker.resync('fails'); SELECT trucker.start('fails')" : "SELECT trucker.set_output_plugin('fails', 'wal2json')");
	ok(caught_up($node, 'fails'), "$way: it helps");
	same($node, 'SELECT id, least(a, 99), b FROM f', 'TABLE f_copy', "$way: and no value is missing");
	becomes_former('none', "$way: nothing is left of the former definition");
	sql(q{SELECT trucker.alter_truck('fails', output_sql => 'INSERT INTO f_copy (id, a) SELECT id, a FROM r'); SELECT trucker.set_output_plugin('fails')});
	ok($node->poll_query_until('postgres', q{SELECT r.plugin = 'pgoutput' FROM trucker.stream x JOIN pg_replication_slots r USING (slot_name) WHERE x.name = 'fails'}), "$way: pgoutput again");
	wait_list('f', 'id a', "$way: with a list");
}
sql("SELECT trucker.drop_truck('fails')");

# ----
# A truck that fails, and shall put aside what it cannot apply
# ----

sub truck_that_fails
{
	my ($truck, $input, $output, $stream) = @_;

	sql(qq{SELECT trucker.create_truck('$truck', '{$input}', 'INSERT INTO $output (id, v) SELECT id, nullif(v, ''bad'') FROM r WHERE id IS NOT NULL', options => '{"stream": "$stream"}');
		SELECT trucker.start('$truck')});
	return ok(wait_state($node, $truck, 'streaming'), "truck $truck streams");
}

sub fails
{
	my ($truck, $error) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT last_error LIKE '$error' FROM trucker.status WHERE truck = '$truck'"), "$truck fails");
}

my $quarantine = q{'{"on_error": "quarantine"}'};
my $hint = q{23502: %\nHINT: The truck runs its former definition: %"on_error": "quarantine"%set_output_plugin(''%'', ''wal2json''), and then trucker.start(''%'')%trucker.skip(truck, failed_lsn)%};

# it reads all columns that there are
sql('CREATE TABLE qi (id int PRIMARY KEY, v text); CREATE TABLE qo (id int PRIMARY KEY, v text NOT NULL)');
truck_that_fails('q1', 'qi', 'qo', 'q1');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM trucker.column_need n JOIN trucker.truck t ON t.id = n.truck_id WHERE t.name = 'q1' AND n.columns = '{1,2}'"), 'what it reads is known');
is(list_of('qi'), 'all', 'that is the whole table');
sql(q{INSERT INTO qi VALUES (2, 'bad')});
sql(q{INSERT INTO qi VALUES (3, 'x')});
fails('q1', '23502: %');
sql("SELECT trucker.alter_truck('q1', options => $quarantine); SELECT trucker.start('q1')");
ok(caught_up($node, 'q1'), 'altered to put aside what fails, it goes on');
is(sql('SELECT id, v FROM qo'), '3|x', 'with the next change');
is(sql("SELECT quarantined FROM trucker.status WHERE truck = 'q1'"), '1', 'and the one that failed is in quarantine');
is(former(), 'none', 'there is no need for the former definition');

# it does not, but another truck needs all of them
sql(q{CREATE TABLE qw (id int PRIMARY KEY, v text, w text NOT NULL); CREATE TABLE qw_o (id int PRIMARY KEY, v text NOT NULL, w text); CREATE TABLE qw_all (LIKE qw INCLUDING ALL)});
sql(q{SELECT trucker.create_truck('whole', '{qw}', 'INSERT INTO qw_all SELECT id, v, w FROM r WHERE id IS NOT NULL', options => '{"stream": "q2"}'); SELECT trucker.start('whole')});
ok(wait_state($node, 'whole', 'streaming'), 'a truck needs all columns');
truck_that_fails('q2', 'qw', 'qw_o', 'q2');
truck_that_fails('q3', 'qw', 'qw_o', 'q2');
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM trucker.column_need n JOIN trucker.truck t ON t.id = n.truck_id WHERE t.name IN ('q2', 'q3') AND n.columns = '{1,2}'"), 'two others do not');
ok($node->poll_query_until('postgres', "SELECT usable_from_lsn IS NOT NULL FROM trucker.publications WHERE input_table = 'qw'::regclass"), 'what is published can be relied upon, though nobody waits for it');
sql("SELECT trucker.stop('q3')");
ok(wait_state($node, 'q3', 'stopped'), 'one of them is stopped');
sql(q{INSERT INTO qw VALUES (2, 'bad', 'w2')});
sql(q{INSERT INTO qw VALUES (3, 'x', 'w3')});
fails('q2', '23502: %');
is(list_of('qw'), 'all', 'so the table is published whole');
sql("SELECT trucker.alter_truck('q2', options => $quarantine); SELECT trucker.start('q2')");
ok(caught_up($node, 'q2'), 'the one that fails, altered to put that aside, goes on');
is(sql('SELECT id, v, w FROM qw_o'), '3|x|', 'with the next change');
is(former(), 'none', 'without its former definition');
sql(q{SELECT trucker.alter_truck('q2', output_sql => 'INSERT INTO qw_o (id, v, w) SELECT id, v || ''!'', w FROM r WHERE id IS NOT NULL'); SELECT trucker.retry_quarantined('q2')});
ok($node->poll_query_until('postgres', "SELECT quarantined = 0 FROM trucker.status WHERE truck = 'q2'"), 'what was put aside is applied by SQL that reads more');
is(sql('SELECT id, v, w FROM qw_o ORDER BY id'), "2|bad!|w2\n3|x|", 'and no value is missing');
sql(q{TRUNCATE qw_o; SELECT trucker.alter_truck('q3', output_sql => 'INSERT INTO qw_o (id, v, w) SELECT id, v, w FROM r WHERE id IS NOT NULL'); SELECT trucker.start('q3')});
ok(caught_up($node, 'q3'), 'the stopped one, altered to read more, is started');
is(sql('SELECT id, v, w FROM qw_o ORDER BY id'), "2|bad|w2\n3|x|w3", 'and reads that of what waited');
is(former(), 'none', 'without its former definition');
sql("SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck IN ('q1', 'q2', 'q3', 'whole')");

# the table is published whole only after what fails
sql('CREATE TABLE qn (id int PRIMARY KEY, v text, w text NOT NULL); CREATE TABLE qn_o (id int PRIMARY KEY, v text NOT NULL, w text); CREATE TABLE qn_all (LIKE qn INCLUDING ALL)');
truck_that_fails('q4', 'qn', 'qn_o', 'q4');
wait_list('qn', 'id v', 'little is published');
sql(q{INSERT INTO qn VALUES (2, 'bad', 'w2')});
fails('q4', '23502: %');
sql(q{SELECT trucker.create_truck('whole', '{qn}', 'INSERT INTO qn_all SELECT id, v, w FROM r WHERE id IS NOT NULL', options => '{"stream": "q4"}'); SELECT trucker.start('whole')});
ok(wait_state($node, 'whole', 'streaming') && caught_up($node, 'whole'), 'another truck comes that needs all columns');
is(list_of('qn'), 'all', 'now the table is published whole');
sql(q{INSERT INTO qn VALUES (3, 'x', 'w3')});
sql("SELECT trucker.alter_truck('q4', options => $quarantine); SELECT trucker.start('q4')");
ok($node->poll_query_until('postgres', "SELECT last_error LIKE E'$hint' FROM trucker.status WHERE truck = 'q4'"), 'what fails does not carry all: the former definition is in force, and what helps is said');
becomes_former('q4 knows', 'so says the view');
is(sql("SELECT quarantined FROM trucker.status WHERE truck = 'q4'"), '0', 'nothing is put aside that lacks columns');
sql(q{SELECT trucker.alter_truck('q4', output_sql => 'INSERT INTO qn_o (id, v, w) SELECT id, v, w FROM r WHERE id IS NOT NULL'); SELECT trucker.start('q4')});
ok($node->poll_query_until('postgres', q{SELECT in_force FROM trucker.former_truck f JOIN trucker.truck t ON t.id = f.truck_id WHERE t.name = 'q4'}), 'nor is what it is altered to read taken to be there');
is(sql('SELECT count(*) FROM qn_o'), '0', 'and no NULL');
sql("SELECT trucker.skip(truck, failed_lsn) FROM trucker.status WHERE truck = 'q4'; SELECT trucker.start('q4')");
ok(caught_up($node, 'q4'), 'when that is left out the truck goes on');
is(sql('SELECT id, v, w FROM qn_o'), '3|x|w3', 'by its new definition');
is(former(), 'none', 'which has taken effect');
sql("SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck IN ('q4', 'whole'); TRUNCATE qn, qn_o");

# wal2json finds the columns in the same WAL
truck_that_fails('q5', 'qn', 'qn_o', 'q5');
wait_list('qn', 'id v', 'little is published');
sql(q{INSERT INTO qn VALUES (2, 'bad', 'w2')});
sql(q{INSERT INTO qn VALUES (3, 'x', 'w3')});
fails('q5', '23502: %');
sql("SELECT trucker.alter_truck('q5', options => $quarantine); SELECT trucker.start('q5')");
ok($node->poll_query_until('postgres', "SELECT last_error LIKE E'$hint' FROM trucker.status WHERE truck = 'q5'"), 'it fails by its former definition');
sql("SELECT trucker.set_output_plugin('q5', 'wal2json')");
sql("SELECT trucker.start('q5')");
ok(caught_up($node, 'q5'), 'with wal2json it goes on');
is(sql("SELECT (SELECT string_agg(id || v, ' ') FROM qn_o), quarantined FROM trucker.status WHERE truck = 'q5'"), '3x|1', 'and puts aside what fails');
is(former(), 'none', 'without its former definition');
sql("SELECT trucker.drop_truck('q5')");

# ----
# DDL of the application
# ----

# Whatever is done to the table, it must work as it would without trucker, and its updates and
# deletes after it; what a truck reads that has not been dropped must arrive.  Another truck
# sees to it that all but one of the columns are in the list.
sql(q{
CREATE SCHEMA ddl;
CREATE TABLE ddl_copy (id int, a text);
CREATE TABLE ddl_more (id int, other int, d int, e text, i text);
CREATE PROCEDURE ddl_setup() LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL client_min_messages = error;
	PERFORM trucker.drop_truck(truck) FROM trucker.status WHERE truck ~ '^ddl';
	DROP SCHEMA ddl CASCADE;
	DROP EXTENSION IF EXISTS isn;
	CREATE SCHEMA ddl;
	CREATE DOMAIN ddl.dom AS int;
	CREATE TYPE ddl.enum AS ENUM ('x', 'y');
	CREATE EXTENSION isn SCHEMA ddl;
	CREATE TABLE ddl.plain (id int PRIMARY KEY, a int, other int NOT NULL, d ddl.dom, e ddl.enum, i ddl.isbn, unread text DEFAULT 'u');
	CREATE UNIQUE INDEX plain_other ON ddl.plain (other);
	CREATE TABLE ddl.parent (id int PRIMARY KEY, a int, other int NOT NULL, d ddl.dom, e ddl.enum, i ddl.isbn, unread text DEFAULT 'u') PARTITION BY RANGE (id);
	CREATE TABLE ddl.child (unread text DEFAULT 'u', gone int, i ddl.isbn, e ddl.enum, d ddl.dom, other int NOT NULL, a int, id int NOT NULL);
	ALTER TABLE ddl.child DROP COLUMN gone;
	ALTER TABLE ddl.parent ATTACH PARTITION ddl.child FOR VALUES FROM (0) TO (1000);
	CREATE UNIQUE INDEX child_other ON ddl.child (other);
	DELETE FROM ddl_copy;
	PERFORM trucker.create_truck('ddl', '{ddl.plain, ddl.parent}', 'INSERT INTO ddl_copy SELECT id, a::text FROM r', options => '{"backfill": false, "inserts_only": true}');
	PERFORM trucker.create_truck('ddl_more', '{ddl.plain, ddl.parent}', 'INSERT INTO ddl_more SELECT id, other, d, e::text, i::text FROM r', options => '{"backfill": false}');
	PERFORM trucker.start('ddl'), trucker.start('ddl_more');
END $$});

# Statements for a table %t, which is partitioned or not, and the partition or itself, %p.
my @ddl = (
	'ALTER TABLE %p REPLICA IDENTITY FULL',
	'ALTER TABLE %p REPLICA IDENTITY USING INDEX %n_other',
	'ALTER TABLE %t DROP CONSTRAINT %k_pkey',
	'ALTER TABLE %t DROP CONSTRAINT %k_pkey, ADD PRIMARY KEY (id, other)',
	'DROP INDEX ddl.%n_other',
	'ALTER TABLE %t DROP COLUMN other',
	'ALTER TABLE %t DROP COLUMN e CASCADE, DROP COLUMN unread',
	'ALTER TABLE %t ALTER other TYPE bigint, ALTER e TYPE text, ALTER unread TYPE varchar(100)',
	'ALTER TABLE %t RENAME other TO another',
	'ALTER TABLE %t ADD more int DEFAULT 5',
	'ALTER TABLE %t ALTER other SET DEFAULT 7, ALTER d SET NOT NULL',
	'ALTER TABLE %p SET (fillfactor = 90)',
	'DROP TYPE ddl.enum CASCADE',
	'DROP DOMAIN ddl.dom CASCADE',
	'DROP EXTENSION isn CASCADE');

# How they are run.
my %way = (
	'by itself' => sub { $_[0] },
	'in a transaction with updates' => sub { "BEGIN; UPDATE $_[1] SET a = a; $_[0]; UPDATE $_[1] SET a = a + 0; DELETE FROM $_[1] WHERE id = -1; COMMIT" },
	'in a DO block' => sub { "DO \$do\$ BEGIN EXECUTE \$sql\$$_[0]\$sql\$; UPDATE $_[1] SET a = a; END \$do\$" },
	'in a function' => sub { "CREATE FUNCTION run() RETURNS void LANGUAGE plpgsql AS \$do\$ BEGIN $_[0]; END \$do\$; SELECT run(); DROP FUNCTION run()" },
	'rolled back, and then' => sub { "BEGIN; $_[0]; ROLLBACK; BEGIN; SAVEPOINT s; $_[0]; ROLLBACK TO s; $_[0]; COMMIT" });
my @ways = sort keys %way;

foreach my $n (0 .. $#ddl)
{
	sql('CALL ddl_setup()');
	ok(wait_state($node, $_, 'streaming'), "truck $_ streams") foreach qw(ddl ddl_more);
	wait_list('ddl.plain', 'id a other d e i', 'a table with a list');
	wait_list('ddl.child', 'i e d other a id', 'and a partition with one');
	sql("INSERT INTO ddl.$_ (id, a, other, d) VALUES (1, 1, 1, 1)") foreach qw(plain parent);
	foreach my $kind ('plain', 'parent')
	{
		my $part = $kind eq 'plain' ? 'plain' : 'child';
		my $how = $ways[ ($n + ($kind eq 'plain' ? 0 : 2)) % @ways ];
		my $statement = $ddl[$n] =~ s/%n/$part/gr =~ s/%k/$kind/gr =~ s/%t/ddl.$kind/gr =~ s/%p/ddl.$part/gr;

		# of the second table the type has gone already
		if ($kind eq 'plain' || $ddl[$n] =~ /%/)
		{
			my ($rc, $stdout, $stderr) = $node->psql('postgres', $way{$how}->($statement, "ddl.$kind"));
			is($rc, 0, "$how: $statement") or diag $stderr;
		}
		my $key = $ddl[$n] =~ /(COLUMN|RENAME) other/ ? '' : ', other';
		my $value = $key ? ', 2' : '';
		my ($rc, $stdout, $stderr) = $node->psql('postgres', "INSERT INTO ddl.$kind (id, a$key) VALUES (2, 2$value); UPDATE ddl.$kind SET a = 3 WHERE id = 2; DELETE FROM ddl.$kind WHERE id = 2");
		if ($ddl[$n] =~ /RENAME other|d SET NOT NULL/)
		{
			($rc, $stdout, $stderr) = $node->psql('postgres', "INSERT INTO ddl.$kind (id, a, " . ($ddl[$n] =~ /RENAME/ ? 'another' : 'd') . ") VALUES (2, 2, 2); UPDATE ddl.$kind SET a = 3 WHERE id = 2; DELETE FROM ddl.$kind WHERE id = 2");
		}
		is($rc, 0, "the application inserts, updates and deletes") or diag $stderr;
		is(sql("SELECT count(*) FROM pg_publication_rel r CROSS JOIN unnest(r.prattrs::int2[]) n(attnum) JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = n.attnum WHERE a.attisdropped"), '0', 'no list holds a dropped column');
		isnt(list_of("ddl.$part"), 'nothing', 'the table is still published');
	}
	ok(caught_up($node, 'ddl'), 'a truck that does not read what was altered has caught up') or next;
	is(sql("SELECT string_agg(a, ' ' ORDER BY a) FROM ddl_copy"), '1 1 2 2', 'and has got all inserts');
}
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck ~ '^ddl'});

# a list that has been made after the session's snapshot was taken is seen all the same
sql("CREATE TABLE rr (id int PRIMARY KEY, a int, b int); CREATE TABLE rr_copy (id int)");
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql(q{SELECT trucker.create_truck('rr', '{rr}', 'INSERT INTO rr_copy SELECT id FROM r', options => '{"backfill": false, "stream": "rr"}'); SELECT trucker.start('rr')});
ok(wait_state($node, 'rr', 'streaming'), 'a truck starts meanwhile');
wait_list('rr', 'id', 'with a list');
$old->query_safe('ALTER TABLE rr REPLICA IDENTITY FULL; INSERT INTO rr VALUES (1, 1, 1); UPDATE rr SET a = 2; DELETE FROM rr WHERE id = 9; COMMIT');
$old->quit;
ok(caught_up($node, 'rr'), 'in a transaction with an older snapshot, too');
is(sql('SELECT count(*) FROM rr_copy'), '2', 'no statement fails, and all arrives');
sql("ALTER TABLE rr REPLICA IDENTITY DEFAULT");
wait_list('rr', 'id', 'a list that has been taken away is made again');

# a name that means another column from then on
sql(q{CREATE TABLE sw (id int PRIMARY KEY, v text, w text); CREATE TABLE sw_copy (id int, v text);
SELECT trucker.create_truck('sw', '{sw}', 'INSERT INTO sw_copy SELECT id, v FROM r', options => '{"inserts_only": true, "stream": "rr"}'); SELECT trucker.start('sw')});
ok(wait_state($node, 'sw', 'streaming'), 'a truck reads a column by its name');
wait_list('sw', 'id v', 'it has a list');
sql(q{ALTER TABLE sw RENAME v TO x; ALTER TABLE sw RENAME w TO v; INSERT INTO sw VALUES (1, 'x', 'v')});
ok(caught_up($node, 'sw'), 'another column gets that name');
is(sql('SELECT v FROM sw_copy'), 'v', 'which is sent from there on');
wait_list('sw', 'id v', 'and listed');
sql(q{SELECT trucker.stop('sw')});
ok(wait_state($node, 'sw', 'stopped'), 'it is stopped');
sql(q{INSERT INTO sw VALUES (2, 'lost', 'v'); ALTER TABLE sw RENAME v TO y; ALTER TABLE sw RENAME x TO v; SELECT trucker.start('sw')});
ok($node->poll_query_until('postgres', q{SELECT last_error ~ '^55000: a change of table public.sw carries no value for column "v"\nDETAIL: .*\nHINT: Call trucker\.resync' FROM trucker.status WHERE truck = 'sw'}),
	'what was not sent under that name is an error');
is(sql('SELECT count(*) FROM sw_copy WHERE id = 2'), '0', 'and no NULL');
sql(q{SELECT trucker.drop_truck('sw')});

# ----
# Dump and restore
# ----

my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'a database with column lists is dumped');
like(slurp_file($dump), qr/ALTER PUBLICATION trucker_\w+ ADD TABLE ONLY public\.rr \(id\);/, 'they are in the dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $dump, $node->connstr('restored') ], 'and restored');
is($node->safe_psql('restored', q{SELECT count(*) FROM pg_publication_rel WHERE prattrs IS NOT NULL}), '0', 'there nobody needs the lists');
$node->safe_psql('restored', q{ALTER TABLE rr REPLICA IDENTITY FULL; INSERT INTO rr VALUES (5, 5, 5); UPDATE rr SET a = 1; DELETE FROM rr; ALTER TABLE t DROP COLUMN a; ALTER TABLE rr ALTER id TYPE bigint});
pass('nor do they stand in the way of DDL');
sql('DROP DATABASE restored');

# ----
# Under load, with alters and disasters
# ----

# Each change has a version of its own, and a trigger keeps the row that it made.  The truck's
# log must have each version once, with just the columns that the definition of its time
# reads, all of them right, and no definition again that has been replaced.
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status;
CREATE SEQUENCE version;
CREATE TABLE w (id int, ver bigint NOT NULL, c1 int, c2 text, c3 numeric, c4 text, c5 int, c6 text, PRIMARY KEY (id));
CREATE TABLE hist (ver bigint, op text, content jsonb);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO hist VALUES (new.ver, lower(tg_op), to_jsonb(new)); RETURN NULL; END $$;
CREATE TRIGGER keep AFTER INSERT OR UPDATE ON w FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TABLE w_log (n bigint GENERATED ALWAYS AS IDENTITY, def int, wanted text[], lsn pg_lsn, ver bigint, op text, content jsonb);
CREATE TABLE mirror (LIKE w INCLUDING ALL);
});

sub definition
{
	my ($def, @columns) = @_;
	my $content = join ', ', map { "'$_', $_" } @columns;
	my $wanted = join ',', @columns;

	return "INSERT INTO w_log (def, wanted, lsn, ver, op, content) SELECT $def, '{$wanted}', meta__lsn, ver, meta__operation, jsonb_build_object($content) FROM r WHERE meta__operation <> 'delete'";
}

sub random_columns
{
	return ('id', 'ver', grep { rand() < 0.4 } map { "c$_" } 1 .. 6);
}

my $number = 1;
sql(q{SELECT trucker.create_truck('w', '{w}', $$} . definition($number, random_columns()) . q{$$, options => '{"backfill": false}');
SELECT trucker.create_truck('mirror', '{w}', options => '{"output_table": "mirror", "reset_sql": "TRUNCATE mirror", "only_columns": ["id", "ver", "c1"]}');
SELECT trucker.start()});
ok(wait_state($node, $_, 'streaming'), "truck $_ streams") foreach qw(w mirror);

my $script = PostgreSQL::Test::Utils::tempdir() . '/columns.sql';
append_to_file($script, q{
\set id random(1, 30)
\set wait random(1, 40)
BEGIN;
INSERT INTO w VALUES (1000 + :id, nextval('version'), :id, 'i' || :id, :id / 7.0, 'd', :id, 'f') ON CONFLICT (id) DO UPDATE SET ver = nextval('version'), c1 = w.c1 + 1, c5 = NULL;
\sleep :wait ms
UPDATE w SET ver = nextval('version'), c2 = 'u' || ver, c3 = random() WHERE id = 1000 + :id;
UPDATE w SET ver = nextval('version'), c4 = md5(ver::text), c6 = NULL WHERE id = 1000 + :id;
COMMIT;
DELETE FROM w WHERE id = 1000 + :id AND :wait > 30;
});
my $load;

sub load
{
	my ($on) = @_;

	if (defined $load && (!$on || waitpid($load, POSIX::WNOHANG()) != 0))
	{
		stop_pgbench($node, $load);
		$load = undef;
	}
	$load = spawn_pgbench($node, '/dev/null', $node->basedir . '/pgbench.err', '-n', '-c', '3', '-T', '36000', '-f', $script) if $on && !defined $load;
	return;
}

my @crashes = ('kill -9 of the worker', 'kill -9 of the postmaster', 'immediate shutdown', 'pg_terminate_backend of the walsender', 'pg_terminate_backend of the worker');
foreach my $round (1 .. 14)
{
	load(1);
	my @columns = random_columns();

	$number++;
	sql(q{SELECT trucker.alter_truck('w', output_sql => $$} . definition($number, @columns) . q{$$)});
	sql(qq{SELECT trucker.alter_truck('mirror', options => '{"only_columns": ["@{[ join '", "', random_columns() ]}"]}')}) if rand() < 0.5;
	sql("SELECT trucker.stop('w')") if $round % 5 == 2;
	wal_passes($node, int rand 150_000);
	if ($round % 3 == 0)
	{
		ok($node->poll_query_until('postgres', "SELECT count(*) > 0 FROM trucker.truck_workers() w JOIN trucker.truck t ON t.id = w.truck_id WHERE t.name = 'mirror'"), "round $round: a worker is there");
		my $kind = $crashes[ rand @crashes ];
		disaster($node, $kind, 'mirror');
		# it may not have noticed yet that it has ended
		load(0) if is_crash($kind);
	}
	sql("SELECT trucker.start('w')") if $round % 5 == 2;
	# so that a machine that has little time gets some of them into force
	if ($round % 4 == 0 || $round == 2)
	{
		load(1);
		ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM trucker.former_definitions WHERE truck = 'w'"), "round $round: the new definition takes effect under load");
	}
}
load(0);
$number++;
sql(q{SELECT trucker.alter_truck('w', output_sql => $$} . definition($number, 'id', 'ver', map { "c$_" } 1 .. 6) . q{$$)});
sql(q{SELECT trucker.alter_truck('mirror', options => '{"only_columns": null}')});
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM trucker.former_definitions'), 'in the end the last definitions are in force');
sql("UPDATE w SET ver = nextval('version')");
ok(caught_up($node, $_), "truck $_ has caught up") foreach qw(w mirror);
same($node, 'TABLE w', 'TABLE mirror', 'the mirror is equal to its source');
same($node, 'SELECT ver, op FROM hist', 'SELECT ver, op FROM w_log', 'the log has each change once');
is(sql(q{SELECT count(*) FROM w_log l WHERE ARRAY(SELECT k FROM jsonb_object_keys(l.content) k ORDER BY k) <> ARRAY(SELECT k FROM unnest(l.wanted) k ORDER BY k)}), '0', 'with the columns of its definition');
is(sql(q{SELECT count(*) FROM w_log l JOIN hist h USING (ver) WHERE NOT h.content @> l.content}), '0', 'and their right values');
is(sql(q{SELECT count(*) FROM (SELECT def, lag(def) OVER (ORDER BY n) AS before FROM w_log) d WHERE def < before}), '0', 'no definition has come back');
is(sql(q{SELECT count(*) FROM (SELECT lsn FROM w_log GROUP BY lsn HAVING count(DISTINCT def) > 1) d}), '0', 'nor has a source transaction been applied by two');
cmp_ok(sql('SELECT count(DISTINCT def) FROM w_log'), '>', 4, 'several have been in force');
is(sql(q{SELECT string_agg(last_error, E'\n') FROM trucker.status WHERE last_error ~ 'carries no value'}), '', 'no change has come without a column that was read');

done_testing();
