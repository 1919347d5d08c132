# Cascades: what one truck writes, another one reads, however deep; it arrives exactly
# once whatever is killed.  A loop of trucks never runs: where plans show it, start()
# refuses it; where it hides in functions, triggers and the like, the batch that would
# close it is not committed; both name the way round.  And what is no loop is let be.
#
# TRUCKER_SEED=n repeats the choice of disasters (not the load's timing).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

seed();

my $node = trucker_node('cascade', conf => q{
max_replication_slots = 40
max_wal_senders = 40
max_worker_processes = 60
autovacuum = off	# it makes workers look at the graph again
trucker.retry_max_delay = '200ms'
});

sub sql
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "SET client_min_messages = error;\n$sql");

	die "SQL failed: ${stderr}in: $sql" if $rc != 0;
	return $stdout;
}

# create($truck, $inputs, $output_sql): a truck that is not started.
sub create
{
	my ($truck, $inputs, $output_sql, $options) = @_;

	sql("SELECT trucker.create_truck('$truck', '{$inputs}', \$sql\$$output_sql\$sql\$, options => '"
		  . ($options // '{}') . "')");
	return;
}

# What a truck does that appends id and v of each new row to a table.
sub append
{
	my ($table, $id) = @_;

	return 'INSERT INTO ' . $table . ' SELECT ' . ($id // 'id') . ", v FROM r WHERE meta__operation = 'insert'";
}

sub mirror
{
	my ($table) = @_;

	return qq{
		DELETE FROM $table USING r WHERE r.meta__operation <> 'insert' AND $table.id = r.old__id;
		INSERT INTO $table SELECT id, grp, v FROM r WHERE meta__operation <> 'delete'
		ON CONFLICT (id) DO UPDATE SET grp = excluded.grp, v = excluded.v};
}

# settled(): no truck is being made ready.  To be waited for before trucks are stopped or
# dropped: a WAL sender that is cancelled at the very moment in which it gets the lock
# that it waits for, while it makes a slot, keeps it, and servers with assertions crash.
sub settled
{
	return $node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM trucker.status WHERE state IN ('starting', 'creating slot', 'backfill')});
}

sub drop_all
{
	settled();
	sql('SELECT trucker.drop_truck(truck) FROM trucker.status');
	return $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots WHERE active});
}

# refused($sql, $path, $test_name): start() finds a loop, and goes round it thus.
sub refused
{
	my ($sql, $path, $test_name, %opts) = @_;
	my $message = $opts{message} // 'closes a loop of trucks';
	my $error = psql_err($node, "SET client_min_messages = error; $sql");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($error, qr/ERROR:  42P17: truck ".+" $message\nDETAIL:  \Q$path\E\nHINT:  .*SELECT trucker\.\w+\('/, $test_name);
	return;
}

# stopped_at($truck, $path, $test_name): the truck's batch would close a loop, that way.
sub stopped_at
{
	my ($truck, $path, $test_name) = @_;
	my $start = $path =~ /;/ ? qr/27000: truck "$truck" would close a loop of trucks through/
	  : qr/27000: truck "$truck" would write its own input table through/;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	# trucks that write the same tables may also meet in a deadlock
	$node->poll_query_until('postgres', "SELECT last_error ~ '^27000: ' FROM trucker.status WHERE truck = '$truck'");
	like(sql("SELECT last_error FROM trucker.status WHERE truck = '$truck'"),
		qr/^$start \S+\nDETAIL: \Q$path\E\nHINT: /, $test_name);
	return;
}

# The tables that a truck is known to write.
sub known
{
	my ($truck) = @_;

	return sql(qq{SELECT string_agg(relid::regclass::text, ' ' ORDER BY relid::regclass::text COLLATE "C")
		FROM trucker.output_table JOIN trucker.truck AS t ON t.id = truck_id WHERE name = '$truck'});
}

# ----
# A cascade three deep, and a diamond, under load, with kill -9
# ----

#   src -> t1 -> t2 -> total     total adds new and takes off old values: it shows
#    |      `--> both            whatever is lost or comes twice
#    `---> u1 -----^
sql(q{
CREATE TABLE src (id int PRIMARY KEY, grp int NOT NULL, v int NOT NULL);
INSERT INTO src SELECT i, i % 8, i FROM generate_series(1, 500) AS i;
CREATE TABLE t1 (LIKE src INCLUDING ALL);
CREATE TABLE t2 (LIKE src INCLUDING ALL);
CREATE TABLE u1 (LIKE src INCLUDING ALL);
ALTER TABLE t2 REPLICA IDENTITY FULL;
CREATE TABLE total (grp int PRIMARY KEY, v bigint NOT NULL, n bigint NOT NULL);
CREATE TABLE both_sides (id int PRIMARY KEY, v1 int, v2 int);
});
create('a', 'src', mirror('t1'));
create('b', 't1', mirror('t2'));
create('c', 't2', q{
	INSERT INTO total AS t SELECT grp, sum(v), sum(n)
	FROM (SELECT grp, v, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL SELECT old__grp, -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
	GROUP BY grp ON CONFLICT (grp) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n},
	'{"reset_sql": "DELETE FROM total"}');
create('u', 'src', q{
	DELETE FROM u1 USING r WHERE r.meta__operation <> 'insert' AND u1.id = r.old__id;
	INSERT INTO u1 SELECT id, grp, -v FROM r WHERE meta__operation <> 'delete'
	ON CONFLICT (id) DO UPDATE SET grp = excluded.grp, v = excluded.v});
create('d', 't1, u1', q{
	DELETE FROM both_sides AS b USING r WHERE b.id IN (r.id, r.old__id)
		AND NOT EXISTS (SELECT FROM t1 WHERE t1.id = b.id) AND NOT EXISTS (SELECT FROM u1 WHERE u1.id = b.id);
	INSERT INTO both_sides SELECT i.id, t1.v, u1.v FROM (SELECT id FROM r UNION SELECT old__id FROM r) AS i
	LEFT JOIN t1 ON t1.id = i.id LEFT JOIN u1 ON u1.id = i.id WHERE coalesce(t1.id, u1.id) IS NOT NULL
	ON CONFLICT (id) DO UPDATE SET v1 = excluded.v1, v2 = excluded.v2});

my $script = $node->basedir . '/cascade.sql';
append_to_file($script, q{
\set id random(1, 2000)
\set moved random(1, 2000)
\set gone random(1, 2000)
\set v random(-1000, 1000)
BEGIN;
INSERT INTO src VALUES (:id, :id % 8, :v) ON CONFLICT (id) DO UPDATE SET v = excluded.v, grp = (src.grp + 1) % 8;
UPDATE src SET id = :moved + 10000 + :client_id * 10000, v = v + 1 WHERE id = :moved AND NOT EXISTS (SELECT FROM src WHERE id = :moved + 10000 + :client_id * 10000);
DELETE FROM src WHERE id IN (:gone, :gone + 10000 + :client_id * 10000);
SAVEPOINT s;
INSERT INTO src VALUES (-1 - :client_id, 1, 1);
ROLLBACK TO s;
COMMIT;
});

sub load_begins
{
	return spawn_pgbench($node, '/dev/null', $node->basedir . '/pgbench.err',
		'-n', '-c', 2, '-T', 3600, '-R', 300, '-f', $script);
}

sub load_ends
{
	my ($pid) = @_;

	kill 'TERM', $pid;
	waitpid $pid, 0;
	return $node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'});
}

sub all_is_equal
{
	my ($what) = @_;

	# each waits for what was written when it is asked: so in the order of the cascade
	ok(caught_up($node, $_), "$what: $_ catches up") foreach qw(a u b d c);
	same($node, 'SELECT * FROM src', 'SELECT * FROM t1', "$what: the first step is equal to the source");
	same($node, 'SELECT * FROM src', 'SELECT * FROM t2', "$what: the second step is equal to the source");
	same($node, 'SELECT grp, sum(v)::bigint, count(*) FROM src GROUP BY grp', 'SELECT * FROM total WHERE (v, n) <> (0, 0)',
		"$what: at the third step each change has been added once");
	same($node, 'SELECT id, v, -v FROM src', 'SELECT * FROM both_sides', "$what: both ways of the diamond meet");
	return;
}

my $load = load_begins();
sql('SELECT trucker.start()');
my @kills = shuffle(map { "kill -9 of the $_" } qw(worker worker walsender postmaster postmaster));
foreach my $round (0 .. 4)
{
	wal_passes($node, 100_000 + int rand 300_000);
	disaster($node, $kills[$round], (shuffle qw(a b c d u))[0]);
	load_ends($load);
	$load = load_begins();
	next if $round % 2;
	wal_passes($node, 300_000);
	load_ends($load);
	all_is_equal("$kills[$round], round $round");
	$load = load_begins();
}
load_ends($load);
cmp_ok(sql('SELECT count(*) FROM src WHERE id > 10000'), '>', 0, 'keys were changed');
is(sql(q{SELECT count(*) FROM trucker.status WHERE last_error LIKE '27000%'}), '0', 'no truck has been taken for a part of a loop');

# The first step is loaded anew, the others follow its changes.
sql(q{
SELECT trucker.drop_truck('a');
SELECT trucker.create_truck('a', '{src}', $sql$} . mirror('t1') . q{$sql$, options => '{"reset_sql": "DELETE FROM t1"}');
SELECT trucker.resync('a');
SELECT trucker.start('a');
});
all_is_equal('after a resync of the first step');

# ----
# Loops that plans show
# ----
refused(q{SELECT trucker.create_truck('z', '{both_sides}', 'INSERT INTO src SELECT id, 1, 1 FROM r'); SELECT trucker.start('z')},
	'Truck "z" writes public.src, which truck "a" reads; truck "a" writes public.t1, which truck "d" reads; '
	  . 'truck "d" writes public.both_sides, which truck "z" reads.',
	'a loop round the cascade');
drop_all();

sql(join '', map { "CREATE TABLE $_ (id int PRIMARY KEY, v int);" } qw(p1 p2 p3 p4));
create('one', 'p1', append('p1', 'id + 1'));
refused(q{SELECT trucker.start('one')}, 'Truck "one" writes public.p1, which truck "one" reads.', 'a loop of one',
	message => 'writes its own input table public\.p1');
sql(q{SELECT trucker.drop_truck('one')});

create('l1', 'p1', append('p2'));
create('l2', 'p2', append('p1', 'id + 1'));
create('l3', 'p2', append('p3'));
create('l "4"', 'p3', append('p1', 'id + 1'));
my $two = 'Truck "l2" writes public.p1, which truck "l1" reads; truck "l1" writes public.p2, which truck "l2" reads.';
sql(q{SELECT trucker.start('l1')});
refused(q{SELECT trucker.start('l2')}, $two, 'a loop of two');
is(sql(q{SELECT state FROM trucker.status WHERE truck = 'l2'}), 'stopped', 'the refused truck does not run');
sql(q{SELECT trucker.start('l3')});
refused(q{SELECT trucker.start('l "4"')},
	'Truck "l "4"" writes public.p1, which truck "l1" reads; truck "l1" writes public.p2, which truck "l3" reads; '
	  . 'truck "l3" writes public.p3, which truck "l "4"" reads.', 'a loop of three');
settled();
sql(q{SELECT trucker.stop('l1')});
sql(q{SELECT trucker.start('l2'); SELECT trucker.start('l "4"')});
pass('a stopped truck is no part of a loop');
refused(q{SELECT trucker.start('l1')},
	'Truck "l1" writes public.p2, which truck "l2" reads; truck "l2" writes public.p1, which truck "l1" reads.', 'until it is started');
settled();
sql('SELECT trucker.stop()');
refused('SELECT trucker.start()', $two, 'trucks that one call starts');
refused(q{BEGIN; SELECT trucker.start('l1'); SELECT trucker.start('l2'); COMMIT}, $two, 'trucks that one transaction starts');
is(sql(q{SELECT count(*) FROM trucker.truck_state WHERE enabled}), '0', 'none of them is started');
sql(q{BEGIN; SELECT trucker.start('l1'); SELECT trucker.stop('l1'); SELECT trucker.start('l2'); COMMIT});
is(sql(q{SELECT string_agg(name, ' ') FROM trucker.truck JOIN trucker.truck_state ON truck_id = id WHERE enabled}), 'l2',
	'a truck that is stopped again in the same transaction does not count');
settled();
sql('SELECT trucker.stop()');

# Two sessions that do not see each other.
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe(q{SET client_min_messages = error; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT trucker.start('l2')});
	sql(q{SET statement_timeout = '60s'; SELECT trucker.start('l1')});
	$session->query('COMMIT');
	like($session->{stderr}, qr/ERROR:  truck "l2" closes a loop of trucks\nDETAIL:  \Q$two\E/, 'two sessions that start one each: the second COMMIT fails');
	$session->quit;
	is(sql(q{SELECT string_agg(name, ' ') FROM trucker.truck JOIN trucker.truck_state ON truck_id = id WHERE enabled}), 'l1',
		'and the first truck is started');
}

# A partitioned table is written through its partitions, and the other way round.  (The
# catalog is told what create_truck() does not allow: such a table as an input.)
sql(q{
CREATE TABLE whole (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE half PARTITION OF whole FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF half FOR VALUES FROM (0) TO (500);
CREATE TABLE other_leaf PARTITION OF half FOR VALUES FROM (500) TO (1000);
});
create('to_whole', 'p4', append('whole'));
create('from_leaf', 'leaf', append('p4'));
sql(q{SELECT trucker.start('to_whole')});
refused(q{SELECT trucker.start('from_leaf')},
	'Truck "from_leaf" writes public.p4, which truck "to_whole" reads; truck "to_whole" writes public.whole, whose partition public.leaf truck "from_leaf" reads.',
	'through a partitioned table');
is(known('to_whole'), 'whole', 'its partitions need not be named');
create('to_leaf', 'p4', append('leaf'));
foreach my $table ('whole', 'half')
{
	refused(qq{BEGIN; SELECT trucker.stop('to_whole'); SELECT trucker.start('from_leaf');
		UPDATE trucker.truck SET input_tables = '{$table}' WHERE name = 'from_leaf';
		SELECT trucker.start('to_leaf')},
		"Truck \"to_leaf\" writes public.leaf, a partition of public.$table, which truck \"from_leaf\" reads; truck \"from_leaf\" writes public.p4, which truck \"to_leaf\" reads.",
		"a partition of $table, which is read");
}
settled();
sql(q{SELECT trucker.stop('to_whole')});
create('to_other_leaf', 'p4', append('other_leaf'));
sql(q{SELECT trucker.start('to_other_leaf'); SELECT trucker.start('from_leaf')});
ok(wait_state($node, 'from_leaf', 'streaming') && wait_state($node, 'to_other_leaf', 'streaming'), 'another partition of the same table is another table');
drop_all();

# ----
# Loops that no plan shows
# ----

# What writes h_back where nobody sees it; the truck "back" leads from there to h_in.
sql(q{
CREATE TABLE h_in (id int PRIMARY KEY, v int);
CREATE TABLE h_back (id int PRIMARY KEY, v int);

CREATE FUNCTION h_trigger() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN INSERT INTO h_back VALUES (nextval('h_ids'), new.v); RETURN new; END$$;
CREATE FUNCTION h_dynamic(int) RETURNS int LANGUAGE plpgsql AS
$$BEGIN EXECUTE 'UPDATE ' || 'h_back SET v = $1' USING $1; RETURN $1; END$$;
CREATE PROCEDURE h_procedure() LANGUAGE plpgsql AS
$$BEGIN DELETE FROM h_back; END$$;
CREATE FUNCTION h_truncate(int) RETURNS int LANGUAGE plpgsql AS
$$BEGIN TRUNCATE h_referenced CASCADE; RETURN $1; END$$;
CREATE FUNCTION h_copy(int) RETURNS int LANGUAGE plpgsql AS
$$BEGIN COPY h_back FROM PROGRAM 'printf "99\t99\n"'; RETURN $1; END$$;
CREATE FUNCTION h_rule(int) RETURNS int LANGUAGE plpgsql AS
$$BEGIN INSERT INTO h_ruled VALUES ($1); RETURN $1; END$$;
CREATE FUNCTION h_explain(int) RETURNS int LANGUAGE plpgsql AS
$$BEGIN EXECUTE 'EXPLAIN ANALYZE INSERT INTO h_back VALUES (98, 98)'; RETURN $1; END$$;

CREATE SEQUENCE h_ids START 1000;
CREATE TABLE h_ruled (id int PRIMARY KEY);
CREATE RULE h_rule AS ON INSERT TO h_ruled DO ALSO INSERT INTO h_back VALUES (new.id + 2000, 1);
CREATE TABLE h_referenced (id int PRIMARY KEY);
INSERT INTO h_referenced VALUES (1);
INSERT INTO h_back VALUES (1, 1);
ALTER TABLE h_back ADD FOREIGN KEY (id) REFERENCES h_referenced ON DELETE CASCADE NOT VALID;
ALTER TABLE h_referenced DISABLE TRIGGER USER;
} . join '', map { "CREATE TABLE h_$_ (id int PRIMARY KEY, v int);" } qw(a_trigger a_deferred_trigger a_function a_procedure a_truncate a_copy a_rule a_cascade an_explain a_caller));
sql(q{
CREATE TRIGGER t AFTER INSERT ON h_a_trigger FOR EACH ROW EXECUTE FUNCTION h_trigger();
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON h_a_deferred_trigger DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION h_trigger();
INSERT INTO h_referenced SELECT i FROM generate_series(98, 3000) AS i;
});

my %hidden = (
	a_trigger => append('h_a_trigger'),
	a_deferred_trigger => append('h_a_deferred_trigger'),
	a_function => append('h_a_function', 'h_dynamic(id)'),
	a_procedure => append('h_a_procedure') . '; CALL h_procedure()',
	a_truncate => append('h_a_truncate', 'h_truncate(id)'),
	a_copy => append('h_a_copy', 'h_copy(id)'),
	a_rule => append('h_a_rule', 'h_rule(id)'),
	a_cascade => append('h_a_cascade') . '; DELETE FROM h_referenced USING r WHERE h_referenced.id = r.id',
	an_explain => append('h_an_explain', 'h_explain(id)'));
my $h_everything = join ' UNION ALL ', map { "SELECT '$_', id, v FROM $_" } 'h_in', 'h_back', map { "h_$_" } sort keys %hidden;

# Two of them find out in their backfill, the others in what follows.
create('back', 'h_back', append('h_in', 'id + 10000'), '{"backfill": false, "inserts_only": true}');
create($_, 'h_in', $hidden{$_}, $_ =~ /^a_(trigger|function)$/ ? '{}' : '{"backfill": false}') foreach sort keys %hidden;
sql(q{SELECT trucker.start(truck) FROM trucker.status WHERE truck NOT IN ('a_trigger', 'a_function')});
settled();
sql(q{INSERT INTO h_in VALUES (1, 1); SELECT trucker.start()});
foreach my $truck (sort keys %hidden)
{
	stopped_at($truck, "Truck \"$truck\" writes public.h_back, which truck \"back\" reads; truck \"back\" writes public.h_in, which truck \"$truck\" reads.",
		"a loop that hides in " . $truck =~ s/_/ /gr);
}
is(sql("$h_everything ORDER BY 1, 2"), "h_back|1|1\nh_in|1|1", 'nothing of it was committed');
ok(wait_state($node, 'back', 'streaming'), 'the truck that was there first goes on');
ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'CONTEXT: .*h_trigger\(\)' FROM trucker.status WHERE truck = 'a_trigger'}), 'the error shows where it happens');
is(known($_), $_ eq 'a_cascade' ? "h_$_ h_referenced" : "h_$_", "only what the plans of $_ show is known of it") foreach sort keys %hidden;

# As the hint says: without the other truck it is no loop, and so it goes on.
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck NOT IN ('back', 'a_trigger', 'a_function')});
sql(q{SELECT trucker.stop('back')});
ok(caught_up($node, $_), "$_ goes on when the truck that it would feed is stopped") foreach qw(a_trigger a_function);
is(known('a_trigger'), 'h_a_trigger h_back', 'what a trigger writes is known now');
is(sql('SELECT count(*) FROM h_back WHERE id >= 1000'), '1', 'and written');
refused(q{SELECT trucker.start('back')},
	'Truck "back" writes public.h_in, which truck "a_function" reads; truck "a_function" writes public.h_back, which truck "back" reads.',
	'what is known of others is held against a truck that is started');
sql(q{SELECT trucker.stop('a_function')});
sql(q{DROP TRIGGER t ON h_a_trigger; SELECT trucker.start('a_trigger')});
refused(q{SELECT trucker.start('back')},
	'Truck "back" writes public.h_in, which truck "a_trigger" reads; truck "a_trigger" writes public.h_back, which truck "back" reads.',
	'also if the trigger has gone, as long as the truck runs');
sql(q{SELECT trucker.stop('a_trigger')});
ok(wait_state($node, 'a_trigger', 'stopped'), 'it is stopped');
sql(q{SELECT trucker.start('a_trigger')});
is(known('a_trigger'), 'h_a_trigger', 'a truck that is started anew is known by its plans only');
sql(q{SELECT trucker.start('back'); INSERT INTO h_in VALUES (2, 2)});
ok(caught_up($node, 'a_trigger') && caught_up($node, 'back'), 'and without the trigger there is no loop');
drop_all();
is(sql('SELECT count(*) FROM trucker.output_table'), '0', 'nothing is known of trucks that were dropped');

# Two that close a loop together, each before the other's batch has committed: they
# have looked, and wait.  On one stream only one of them would write at a time.
sql(q{
CREATE TABLE w_1 (id int PRIMARY KEY, v int);
CREATE TABLE w_2 (id int PRIMARY KEY, v int);
CREATE FUNCTION w_write(t text, id int) RETURNS int LANGUAGE plpgsql AS
$$BEGIN EXECUTE format('INSERT INTO %I VALUES ($1, 0)', t) USING id; PERFORM pg_advisory_xact_lock_shared(1); RETURN id; END$$;
});
create('w1', 'w_1', q{SELECT w_write('w_2', id + 100) FROM r}, '{"backfill": false, "stream": "first"}');
create('w2', 'w_2', q{SELECT w_write('w_1', id + 100) FROM r}, '{"backfill": false, "stream": "second"}');
sql('SELECT trucker.start()');
wait_state($node, $_, 'streaming') foreach qw(w1 w2);
{
	my $session = $node->background_psql('postgres');

	$session->query_safe('SELECT pg_advisory_lock(1)');
	sql('INSERT INTO w_1 VALUES (1, 1); INSERT INTO w_2 VALUES (2, 2)');
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}),
		'two batches have written, and not committed');
	$session->query_safe('SELECT pg_advisory_unlock(1)');
	$session->quit;
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM trucker.status WHERE last_error LIKE '27000: truck "w_" would close a loop of trucks%'}),
	'the second one to commit is refused');
my ($first, $second) = sql(q{SELECT truck FROM trucker.status WHERE last_error IS NOT NULL}) eq 'w2' ? (1, 2) : (2, 1);
stopped_at("w$second", "Truck \"w$second\" writes public.w_$first, which truck \"w$first\" reads; truck \"w$first\" writes public.w_$second, which truck \"w$second\" reads.",
	'with the way round');
ok(caught_up($node, "w$first"), 'the first one goes on');
is(sql("SELECT count(*) FROM w_$first") . sql("SELECT count(*) FROM w_$second"), '12', 'it has written, the other has not');
drop_all();

# A table becomes a partition of what a truck writes, while it does.
sql(q{
CREATE TABLE grown (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE grown_1 PARTITION OF grown FOR VALUES FROM (0) TO (100);
CREATE TABLE grown_2 (id int PRIMARY KEY, v int);
});
create('grower', 'p1', append('grown'));
create('reader', 'grown_2', append('p1', 'id + 1'), '{"backfill": false}');
sql('TRUNCATE p1; INSERT INTO p1 VALUES (1, 1); SELECT trucker.start()');
ok(caught_up($node, 'grower') && caught_up($node, 'reader'), 'a truck writes a partitioned table, another reads a table of the same shape');
sql('ALTER TABLE grown ATTACH PARTITION grown_2 FOR VALUES FROM (100) TO (200); INSERT INTO p1 VALUES (101, 1)');
stopped_at('grower', 'Truck "grower" writes public.grown, whose partition public.grown_2 truck "reader" reads; truck "reader" writes public.p1, which truck "grower" reads.',
	'when it has become a partition');
is(sql('SELECT count(*) FROM grown'), '1', 'nothing is written');
sql('ALTER TABLE grown DETACH PARTITION grown_2; CREATE TABLE grown_3 PARTITION OF grown FOR VALUES FROM (100) TO (200)');
ok(caught_up($node, 'grower'), 'when it is none any more, the truck goes on');
drop_all();

# ----
# What is no loop
# ----
sql(q{
CREATE ROLE pretender LOGIN;
GRANT ALL ON SCHEMA public TO pretender;
CREATE TABLE n_in (id int PRIMARY KEY, v int);
INSERT INTO n_in VALUES (1, 1);
CREATE TABLE n_out (id int, v int);
CREATE TABLE n_side (id int, v int);
CREATE TABLE n_same (id int, v int);
CREATE TABLE n_pretended (id int, v int);
GRANT SELECT ON n_out TO pretender;
GRANT ALL ON n_pretended TO pretender;
CREATE FUNCTION n_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMPORARY TABLE n_in_temporary ON COMMIT DROP AS SELECT 1 AS id;
	INSERT INTO n_in_temporary VALUES (2);
	INSERT INTO n_side VALUES (new.id, new.v);
	RETURN new;
END$$;
CREATE TRIGGER t AFTER INSERT ON n_out FOR EACH STATEMENT EXECUTE FUNCTION n_trigger();
CREATE FUNCTION n_pretends(int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	BEGIN INSERT INTO n_in VALUES ($1, $1); EXCEPTION WHEN insufficient_privilege THEN NULL; END;
	BEGIN TRUNCATE n_in; EXCEPTION WHEN insufficient_privilege OR triggered_data_change_violation THEN NULL; END;
	RETURN $1;
END$$;
DROP TRIGGER t ON n_out;
CREATE TRIGGER t AFTER INSERT ON n_out FOR EACH ROW EXECUTE FUNCTION n_trigger();
});
create('side', 'n_in', append('n_out'));
create('same_1', 'n_in', append('n_same'));
create('same_2', 'n_in', append('n_same'));
create('pretends', 'n_out', append('n_pretended', 'n_pretends(id)'), '{"role": "pretender", "inserts_only": true}');
sql(q{SELECT trucker.start('pretends')});
sql(q{INSERT INTO n_out VALUES (0, 0)});
ok(caught_up($node, 'pretends'), 'a truck tries to write what it may not');
is(known('pretends'), 'n_pretended', 'that does not count as written');
sql('SELECT trucker.start()');
ok(caught_up($node, $_), "truck $_ runs") foreach qw(side same_1 same_2 pretends);
is(known('side'), 'n_out n_side', 'a trigger writes what nobody reads');
same($node, 'SELECT * FROM n_in UNION ALL VALUES (0, 0)', 'SELECT * FROM n_side', 'and its rows are there');
same($node, 'SELECT * FROM n_in UNION ALL SELECT * FROM n_in', 'SELECT * FROM n_same', 'two trucks that read the same and write the same');
is(sql(q{SELECT string_agg(truck || ': ' || last_error, E'\n') FROM trucker.status WHERE last_error IS NOT NULL}), '', 'no truck has met an error');

# The same tables again and again: they are looked at no more.
{
	my $scans = q{SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_all_tables WHERE relid = 'trucker.output_table'::regclass};
	my $count = sub {
		sql('SELECT pg_stat_force_next_flush()');
		return sql($scans);
	};
	sql(q{SELECT trucker.stop(t) FROM unnest('{same_1,same_2,pretends}'::text[]) AS t});
	$node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM trucker.status WHERE state = 'stopped'});
	sql('INSERT INTO n_in VALUES (2, 2)');
	caught_up($node, 'side');
	# the worker reports its statistics when it comes to rest behind that
	$node->poll_query_until('postgres', q{SELECT n_tup_ins >= (SELECT count(*) FROM n_side) FROM pg_stat_all_tables WHERE relid = 'n_side'::regclass})
	  or die 'the worker reports no statistics';
	my $before = $count->();
	foreach my $id (3 .. 12)
	{
		sql("INSERT INTO n_in VALUES ($id, $id)");
		caught_up($node, 'side') or last;
	}
	$node->poll_query_until('postgres', q{SELECT n_tup_ins >= (SELECT count(*) FROM n_side) FROM pg_stat_all_tables WHERE relid = 'n_side'::regclass})
	  or die 'the worker reports no statistics';
	is($count->(), $before, 'ten more batches that write the same tables do not look at the graph');
	is(sql('SELECT count(*) FROM n_side WHERE id > 2'), '10', 'and they have been written');
}
$node->stop;

done_testing();
