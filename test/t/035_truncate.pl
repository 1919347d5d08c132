# TRUNCATE of an input table, by the truck's option on_truncate: it stops the truck
# (013_lost.pl shows that, too), is passed over, or makes the truck run truncate_sql,
# in its place among the other changes, with its role's rights, in the transaction
# that writes the data.  The truck's own inputs cannot be truncated by it, on no way.
#
# TRUCKER_SEED=n repeats a random workload.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerTest;

my $node = trucker_node('truncate', conf => "autovacuum_naptime = '1s'\n");
seed();

sub sql
{
	my ($sql) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	die 'SQL failed: ' . substr($stderr =~ s{^.*?(?=[^\n]*ERROR:)}{}sr, 0, 1000) . 'in: ' . substr($sql, 0, 500) if $rc != 0;
	return $stdout;
}

sub stop
{
	my ($truck) = @_;

	sql("SELECT trucker.stop('$truck')");
	return wait_state($node, $truck, 'stopped');
}

sub last_error
{
	my ($truck) = @_;

	return sql("SELECT last_error FROM trucker.status WHERE truck = '$truck'");
}

sub errors
{
	return sql(q{SELECT string_agg(truck || ': ' || last_error, E'\n') FROM trucker.status WHERE last_error IS NOT NULL});
}

# ----
# In its place among the other changes
# ----

sql(q{
CREATE TABLE a (id serial PRIMARY KEY, v text);
CREATE TABLE b (id serial PRIMARY KEY, a int REFERENCES a, v text);
CREATE TABLE c (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE c_1 PARTITION OF c FOR VALUES IN (1);
CREATE TABLE c_2 PARTITION OF c FOR VALUES IN (2);
CREATE TABLE unread (id int);
});

# Each run, and each run of truncate_sql, is a line in its log.
foreach my $truck ([ 'all' ], [ 'net', '"changes": "net"' ])
{
	my ($name, $option) = @$truck;
	my $options = join ', ', '"on_truncate": "run"', qq{"truncate_sql": "TRUNCATE {{ .input_table }}_$name; INSERT INTO log_$name (what) VALUES ('truncate {{ .input_table }}')"}, $option // ();

	sql(qq{
CREATE TABLE a_$name (id int PRIMARY KEY, v text);
CREATE TABLE b_$name (id int PRIMARY KEY, v text);
CREATE TABLE c_1_$name (id int PRIMARY KEY, v text);
CREATE TABLE log_$name (seq bigserial, what text);
SELECT trucker.create_truck('$name', '{a, b, c_1}', \$\$
	INSERT INTO log_$name (what) SELECT string_agg(DISTINCT meta__operation, ' ' ORDER BY meta__operation) || ' ' || count(*) || ' {{ .input_table }}' FROM r;
	DELETE FROM {{ .input_table }}_$name AS d USING r WHERE meta__operation <> 'insert' AND d.id = old__id;
	INSERT INTO {{ .input_table }}_$name SELECT id, v FROM r WHERE meta__operation <> 'delete'\$\$, options => '{@{[ $options =~ s/'/''/gr ]}}');
SELECT trucker.start('$name')});
}
ok(caught_up($node, $_), "truck $_ runs") foreach qw(all net);

sub arrived
{
	my ($what) = @_;

	foreach my $name (qw(all net))
	{
		ok(caught_up($node, $name), "$what: truck $name catches up") or return 0;
		same($node, "SELECT id, v FROM $_", "SELECT id, v FROM ${_}_$name", "$what: $name has table $_") foreach qw(a b c_1);
	}
	return 1;
}

foreach my $case (
	[ 'TRUNCATE', 'TRUNCATE b', 'truncate public.b' ],
	[ 'of an empty table', 'TRUNCATE c_1', 'truncate public.c_1' ],
	[ 'of another table', 'TRUNCATE unread', '' ],
	[ 'of several tables', 'TRUNCATE b, unread, c_1', 'truncate public.b, truncate public.c_1' ],
	[ 'CASCADE', 'TRUNCATE a CASCADE', 'truncate public.a, truncate public.b' ],
	[ 'RESTART IDENTITY', q{TRUNCATE b RESTART IDENTITY; INSERT INTO b (v) VALUES ('again')}, 'truncate public.b, insert 1 public.b' ],
	[ 'of a partitioned table', 'TRUNCATE c', 'truncate public.c_1' ],
	[ 'of another partition', 'TRUNCATE c_2', '' ],
	[ 'after changes', q{INSERT INTO c_1 VALUES (8, 1, 'eight'), (9, 1, 'nine'); TRUNCATE c_1}, 'insert 2 public.c_1, truncate public.c_1' ],
	[ 'before changes', q{TRUNCATE c_1; INSERT INTO c_1 VALUES (1, 1, 'new'), (9, 1, 'nine')}, 'truncate public.c_1, insert 2 public.c_1' ],
	[ 'between changes', q{UPDATE c_1 SET v = 'before'; INSERT INTO b (v) VALUES ('other'); TRUNCATE c_1; INSERT INTO c_1 VALUES (1, 1, 'after'); UPDATE b SET v = 'still'},
		'update 2 public.c_1, insert 1 public.b, truncate public.c_1, insert 1 public.c_1, update 3 public.b' ],
	[ 'twice', q{TRUNCATE c_1; INSERT INTO c_1 VALUES (1, 1, 'between'); TRUNCATE c_1; INSERT INTO c_1 VALUES (1, 1, 'after')},
		'truncate public.c_1, insert 1 public.c_1, truncate public.c_1, insert 1 public.c_1' ],
	[ 'rolled back', q{SAVEPOINT s; TRUNCATE c_1; INSERT INTO c_1 VALUES (1, 1, 'not'); ROLLBACK TO s; INSERT INTO c_1 VALUES (3, 1, 'yes')}, 'insert 1 public.c_1' ])
{
	my ($what, $statements, $expected) = @$case;

	sql(qq{
DELETE FROM b; DELETE FROM a; DELETE FROM c;
INSERT INTO a VALUES (1, 'one'), (2, 'two'); INSERT INTO b VALUES (901, 1, 'one'), (902, NULL, 'two'); INSERT INTO c VALUES (1, 1, 'one'), (2, 1, 'two'), (3, 2, 'three')});
	caught_up($node, $_) foreach qw(all net);
	sql(qq{TRUNCATE log_all, log_net; BEGIN; $statements; COMMIT});
	arrived($what);
	is(sql("SELECT string_agg(what, ', ' ORDER BY seq) FROM log_all"), $expected, "$what: in its place");
}

# A key that is there before and after is not taken for one row, where the TRUNCATE
# comes from.
sql(q{DELETE FROM c; INSERT INTO c VALUES (1, 1, 'one'), (2, 1, 'two')});
caught_up($node, 'net');
sql(q{TRUNCATE log_net; BEGIN; UPDATE c_1 SET v = 'x' WHERE id = 1; UPDATE c_1 SET v = 'y' WHERE id = 1; TRUNCATE c_1; INSERT INTO c_1 VALUES (1, 1, 'z'); UPDATE c_1 SET v = 'zz'; COMMIT});
arrived('net changes on both sides of a TRUNCATE');
is(sql("SELECT string_agg(what, ', ' ORDER BY seq) FROM log_net"), 'update 1 public.c_1, truncate public.c_1, insert 1 public.c_1', 'net changes end before a TRUNCATE');

is(errors(), '', 'no truck has met an error');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

# ----
# Passed over
# ----

sql(q{
CREATE TABLE kept (id int PRIMARY KEY, v text);
CREATE TABLE kept_all (LIKE kept INCLUDING ALL);
CREATE TABLE kept_net (LIKE kept INCLUDING ALL);
INSERT INTO kept VALUES (1, 'one'), (2, 'two');
});
foreach my $changes (qw(all net))
{
	sql(qq{SELECT trucker.create_truck('$changes', '{kept}', \$\$
	DELETE FROM kept_$changes AS d USING r WHERE meta__operation <> 'insert' AND d.id = old__id;
	INSERT INTO kept_$changes SELECT id, v FROM r WHERE meta__operation <> 'delete' ON CONFLICT (id) DO UPDATE SET v = excluded.v || ' again'\$\$,
	options => '{"on_truncate": "ignore", "changes": "$changes"}');
SELECT trucker.start('$changes')});
}
sql(q{SELECT trucker.create_truck('inserts', '{kept}', 'SELECT FROM r', options => '{"inserts_only": true, "on_truncate": "ignore"}'); SELECT trucker.start('inserts')});
ok(caught_up($node, $_), "truck $_ runs") foreach qw(all net inserts);
sql(q{BEGIN; UPDATE kept SET v = 'uno' WHERE id = 1; TRUNCATE kept; INSERT INTO kept VALUES (1, 'ein'), (3, 'drei'); COMMIT; TRUNCATE kept});
foreach my $changes (qw(all net))
{
	ok(caught_up($node, $changes), "a TRUNCATE is passed over by truck $changes");
	is(sql("SELECT string_agg(id || v, ', ' ORDER BY id) FROM kept_$changes"), '1ein again, 2two, 3drei', 'what was there stays, and what comes then is new');
}
ok(caught_up($node, 'inserts'), 'so it is by a truck of inserts only');
is(errors(), '', 'no truck has met an error');
sql(q{SELECT trucker.drop_truck(truck) FROM trucker.status});

# ----
# Whose rights, what it may do, and how it fails
# ----

sql(q{
CREATE ROLE etl;
GRANT USAGE ON SCHEMA public TO etl;
CREATE TABLE source (id int PRIMARY KEY, v text);
CREATE TABLE target (id int PRIMARY KEY, who text);
CREATE TABLE settings (seq bigserial, value text);
CREATE SEQUENCE s;
GRANT SELECT ON source TO etl;
GRANT INSERT, DELETE, SELECT ON target, settings TO etl;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO etl;
});

# create($truncate_sql, %more): the truck 't', which has the role etl.
sub create
{
	my ($truncate_sql, %more) = @_;
	my $json = $truncate_sql =~ s/(["\\])/\\$1/gr =~ s/'/''/gr =~ s/\s+/ /gr;
	my $inputs = $more{inputs} // 'source';
	my $role = $more{role} // 'etl';

	sql(qq{SELECT trucker.drop_truck('t') WHERE EXISTS (SELECT FROM trucker.status WHERE truck = 't')});
	sql(qq{SELECT trucker.create_truck('t', '{$inputs}', \$\$
		INSERT INTO target SELECT id, current_user || current_setting('x.y', true) FROM r WHERE meta__operation = 'insert' ON CONFLICT DO NOTHING\$\$,
		options => '{"role": "$role", "on_truncate": "run", "truncate_sql": "$json"}')});
	return;
}

create('TRUNCATE target');
like(psql_err($node, q{SELECT trucker.start('t')}), qr/ERROR:  42501: permission denied for table target/, 'start() sees that the role may not truncate');
sql('GRANT TRUNCATE ON target TO etl');
is(psql_err($node, q{SELECT trucker.start('t')}), '', 'or that it may');
foreach my $case (
	[ 'TRUNCATE nowhere', qr/ERROR:  42P01: relation "nowhere" does not exist/ ],
	[ 'DELETE FROM nowhere', qr/ERROR:  42P01: relation "nowhere" does not exist/ ],
	[ 'UPDATE target SET who = 1', qr/ERROR:  42501: permission denied for table target/ ],
	[ 'DELETE FROM target USING r WHERE true', qr/ERROR:  42P01: relation "r" does not exist/ ],
	[ 'DELETE FROM target; TRUNCATE source', qr/ERROR:  42501: permission denied for table source/ ],
	[ 'TRUNCATE source', qr/ERROR:  42P17: truck "t" writes its own input table public\.source/, role => 'postgres' ],
	[ 'DELETE FROM source', qr/ERROR:  42P17: truck "t" writes its own input table public\.source/, role => 'postgres' ],
	[ 'TRUNCATE a CASCADE', qr/ERROR:  42P17: truck "t" writes its own input table public\.b/, role => 'postgres', inputs => 'source, b' ],
	[ 'TRUNCATE c', qr/ERROR:  42P17: truck "t" writes its own input table public\.c_1/, role => 'postgres', inputs => 'source, c_1' ])
{
	my ($truncate_sql, $message, %more) = @$case;

	create($truncate_sql, %more);
	like(psql_err($node, q{SELECT trucker.start('t')}), $message, "start() refuses: $truncate_sql");
}
sql(q{CREATE TABLE heirs (id int); CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (heirs)});
create('TRUNCATE heirs', role => 'postgres', inputs => 'heir');
like(psql_err($node, q{SELECT trucker.start('t')}), qr/ERROR:  42P17: truck "t" writes its own input table public\.heir/, 'start() refuses: TRUNCATE of an input\'s parent');
create('TRUNCATE ONLY heirs', role => 'postgres', inputs => 'heir');
is(psql_err($node, q{SELECT trucker.start('t')}), '', 'but not ONLY of that');

# What start() cannot see is seen when it happens.
sql(q{CREATE PROCEDURE hidden() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE a CASCADE; END $$; INSERT INTO a VALUES (77, 'stays'); INSERT INTO b VALUES (77, 77, 'stays')});
create('CALL hidden()', role => 'postgres', inputs => 'source, b');
is(psql_err($node, q{SELECT trucker.start('t')}), '', 'start() does not look into a procedure');
ok(caught_up($node, 't'), 'the truck runs');
sql('TRUNCATE source');
ok(wait_state($node, 't', 'retrying'), 'a TRUNCATE that cascades to an own input in a procedure fails');
like(last_error('t'), qr/^27000: truck "t" would write its own input table through public\.b.*CONTEXT:.*TRUNCATE a CASCADE.*truck "t", truncate_sql for table public\.source, truncated by source transaction \d+ committed at/s, 'and the error says where');
is(sql('SELECT count(*) FROM b WHERE id = 77'), '1', 'nothing was truncated');

# Settings end with it; it is the role's; and it sees the changes before it.
create(q{INSERT INTO settings (value) SELECT current_user || ' ' || (SELECT count(*) FROM target) || ' ' || session_user || set_config('x.y', ' has leaked', false); DELETE FROM target; INSERT INTO settings (value) SELECT count(*) FROM target});
sql(q{DELETE FROM source; DELETE FROM target; SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'another truck runs');
sql(q{BEGIN; INSERT INTO source VALUES (1, 'x'), (2, 'x'); TRUNCATE source; INSERT INTO source VALUES (3, 'x'); COMMIT});
ok(caught_up($node, 't'), 'it has run its truncate_sql');
is(sql(q{SELECT string_agg(value, ', ' ORDER BY seq) FROM settings}), 'etl 2 etl has leaked, 0', 'as the role, behind the changes before, each statement seeing the one before');
is(sql(q{SELECT string_agg(id || who, ', ') FROM target}), '3etl', 'what it has set ends with it');
is(last_error('t'), '', 'without an error');

# Revoked, and granted again.
create('TRUNCATE target');
sql(q{DELETE FROM source; DELETE FROM target; SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'one more truck runs');
sql(q{REVOKE TRUNCATE ON target FROM etl; INSERT INTO source VALUES (1, 'x'); BEGIN; INSERT INTO source VALUES (2, 'x'); TRUNCATE source; INSERT INTO source VALUES (3, 'x'); COMMIT});
ok(wait_state($node, 't', 'retrying'), 'without the right the truck stops');
like(last_error('t'), qr/^42501: permission denied for table target.*CONTEXT:.*truck "t", truncate_sql for table public\.source/s, 'with an error');
ok($node->poll_query_until('postgres', q{SELECT string_agg(id::text, ',') = '1' FROM target}), 'what came before is there, and nothing of the transaction itself');
sql(q{GRANT TRUNCATE ON target TO etl});
ok(caught_up($node, 't'), 'granted again, it goes on');
is(sql(q{SELECT string_agg(id::text, ',') FROM target}), '3', 'and nothing has happened twice or not at all');

# It is ended by trucker.run_timeout.
create('DELETE FROM target; SELECT pg_sleep(300)');
sql(q{DELETE FROM source; DELETE FROM target; SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'the last truck runs');
sql(q{ALTER SYSTEM SET trucker.run_timeout = '500ms'});
$node->reload;
# a worker that has been through a batch knows the setting
sql(q{INSERT INTO source VALUES (1, 'x')});
ok(caught_up($node, 't'), 'a row arrives');
sql('TRUNCATE source');
ok($node->poll_query_until('postgres', q{SELECT state = 'retrying' AND last_error ~ 'truncate_sql for table' FROM trucker.status WHERE truck = 't'}),
	'truncate_sql that takes longer than trucker.run_timeout fails');
like(last_error('t'), qr/^57014: .*CONTEXT:.*trucker\.run_timeout \(500 ms\).*truncate_sql for table public\.source/s, 'with an error that says why');
is(sql('SELECT string_agg(id::text, \',\') FROM target'), '1', 'and is undone');
sql(q{SELECT trucker.drop_truck('t'); ALTER SYSTEM RESET ALL});
$node->reload;

# ----
# Deadlocks
# ----

# The worker has one input table open, and comes to the other one; a session has
# truncated that one, and comes to the first.  Either of them may be the last.
sql(q{
CREATE TABLE gate (id int PRIMARY KEY);
CREATE TABLE first (id int PRIMARY KEY);
CREATE TABLE second (id int PRIMARY KEY);
SELECT trucker.create_truck('t', '{first, second}', 'INSERT INTO gate SELECT id FROM r ON CONFLICT DO NOTHING', options => '{"on_truncate": "ignore"}');
ALTER SYSTEM SET trucker.max_run_rows = 1;
ALTER SYSTEM SET deadlock_timeout = '3s';
});
$node->reload;
sql(q{SELECT trucker.start('t')});
ok(caught_up($node, 't'), 'a truck of two tables runs');
foreach my $last (qw(worker session))
{
	my $holder = $node->background_psql('postgres');
	my $session = $node->background_psql('postgres');
	my $worker = worker_pid($node, 't');
	my $waits_for_table = qq{SELECT count(*) = 1 FROM pg_locks WHERE pid = $worker AND locktype = 'relation' AND NOT granted};

	sql('DELETE FROM gate');
	$holder->query_safe('BEGIN; INSERT INTO gate VALUES (1)');
	sql('BEGIN; INSERT INTO first VALUES (1), (2); INSERT INTO second VALUES (3); COMMIT');
	ok($node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_locks WHERE pid = $worker AND NOT granted}), 'its worker is held, at the first table');
	$session->query_safe('BEGIN; TRUNCATE second');
	if ($last eq 'session')
	{
		$holder->query_safe('ROLLBACK');
		ok($node->poll_query_until('postgres', $waits_for_table), 'the worker waits for the session');
	}
	$session->query_until(qr/going on/, "\\echo going on\nTRUNCATE first;\n");
	if ($last eq 'worker')
	{
		ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation WHERE relname = 'first' AND mode = 'AccessExclusiveLock' AND NOT granted}), 'the session waits for the worker');
		$holder->query_safe('ROLLBACK');
	}
	is(eval { $session->query_safe('COMMIT'); 1 }, 1, "the session comes through, when the $last was the last");
	ok($node->poll_query_until('postgres', q{SELECT last_error ~ '^40P01: deadlock detected' FROM trucker.status}), 'it was the worker that gave way');
	ok(caught_up($node, 't'), 'and is back');
	is(sql(q{SELECT string_agg(id::text, ', ' ORDER BY id) FROM gate}), '1, 2, 3', 'with all that it has to write');
	$holder->quit;
	$session->quit;
}
sql(q{SELECT trucker.drop_truck('t')});
sql('ALTER SYSTEM RESET ALL');
$node->reload;

# ----
# Random transactions, and crashes
# ----

my @trucks = qw(all net few);

sql(q{
CREATE TABLE x (id serial PRIMARY KEY, n int);
CREATE TABLE y (id serial PRIMARY KEY, x int REFERENCES x, n int);
ALTER TABLE y REPLICA IDENTITY FULL;
CREATE ROLE short_of_memory SUPERUSER;
ALTER ROLE short_of_memory SET work_mem = '64kB';
});
foreach my $truck ([ 'all' ], [ 'net', ', "changes": "net"' ], [ 'few', ', "changes": "net", "role": "short_of_memory"' ])
{
	my ($name, $options) = @$truck;

	$options //= '';
	sql(qq{
CREATE TABLE x_$name (id int PRIMARY KEY, n int);
CREATE TABLE y_$name (id int PRIMARY KEY, x int, n int);
SELECT trucker.create_truck('$name', '{x, y}', \$\$
	DELETE FROM {{ .input_table }}_$name AS d USING r WHERE meta__operation <> 'insert' AND d.id = old__id;
	INSERT INTO {{ .input_table }}_$name SELECT id, {{ if eq .input_table "public.y" }}x, {{ end }}n FROM r WHERE meta__operation <> 'delete'\$\$,
	options => '{"on_truncate": "run", "truncate_sql": "TRUNCATE {{ .input_table }}_$name"$options}');
SELECT trucker.start('$name')});
}

sub transaction
{
	my @statements = map {
		my ($i, $j) = (1 + int rand 9, 1 + int rand 9);
		(
			"INSERT INTO x (n) SELECT $i FROM generate_series(1, $j) ON CONFLICT DO NOTHING",
			"INSERT INTO x VALUES ($i, $j) ON CONFLICT DO NOTHING",
			"INSERT INTO y (x, n) SELECT id, $j FROM x WHERE id > $i LIMIT $j ON CONFLICT DO NOTHING",
			"INSERT INTO y (n) VALUES ($i) ON CONFLICT DO NOTHING",
			"UPDATE x SET n = n + $j WHERE id % $i = 0",
			"UPDATE y SET n = n + $j, x = NULL WHERE id % $i = 0",
			"UPDATE y SET id = -id WHERE id % $i = 0 AND NOT EXISTS (SELECT FROM y AS o WHERE o.id = -y.id)",
			"DELETE FROM y WHERE id % $i = 0",
			'TRUNCATE y',
			'TRUNCATE y RESTART IDENTITY',
			'TRUNCATE x, y',
			'TRUNCATE x RESTART IDENTITY CASCADE')[ rand 12 ];
	} 0 .. rand 8;

	return join '; ', 'BEGIN', @statements, "COMMIT;\n";
}

my $round = 0;
foreach my $disaster (undef, 'kill -9 of the worker', undef, 'kill -9 of the postmaster', 'pg_cancel_backend of the worker')
{
	sql(q{ALTER SYSTEM SET trucker.max_run_rows = } . (1, 5, 20000)[ rand 3 ]);
	$node->reload;
	for (1 .. 4)
	{
		sql(join '', map { transaction() } 1 .. 15);
		disaster($node, $disaster, $trucks[ rand @trucks ]) if $disaster && $_ == 2;
	}
	$round++;
	foreach my $name (@trucks)
	{
		ok(caught_up($node, $name), "round $round: truck $name catches up");
		same($node, 'TABLE x', "TABLE x_$name", 'table x is equal');
		same($node, 'TABLE y', "TABLE y_$name", 'table y is equal');
	}
}
is(sql(q{SELECT count(*) FROM trucker.status WHERE last_error !~ '^(57|40P01)'}), '0', 'no truck has met an error but those that were made, and deadlocks, in which it gives way');
$node->stop;

done_testing();
