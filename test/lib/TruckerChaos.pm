# TruckerChaos.pm: a load that does to tables whatever applications do, trucks on
# them whose tables betray a lost, doubled or reordered change, and disasters.
# Used by the crash tests and by the soak test.
#
#   chaos_setup($node)        tables, rows, functions, and the trucks (not started)
#   chaos_load($node)         start pgbench; an object with ->stop and ->alive
#   chaos_same($node, $what)  wait for the trucks, compare; tests named after $what
#   disaster($node, $kind, $truck)
#                             see @disasters; back when the server answers again
#   kill_server_process($node, $pid)
#                             kill -9, which ends all sessions; likewise
#   stop_pgbench($node, $pid) stop one that was spawned, and wait until none has anything in hand
#   wal_passes($node, $bytes) wait until so much WAL has been written from now on
#   rss_anon($pid)            kB of private memory of a process
#
# The trucks:
#   flat    item joined with grp, both of them inputs: a mirror.  Shows wrong values.
#   total   sum and count of item per grp, kept by adding new and taking off old
#           values.  Shows every change that is lost or applied twice.
#   log     appends ledger's rows to a table without any key.  The same for inserts;
#           and its own sequence shows the order.
#   alone   the same as log, but on a stream of its own; the others share one.
package TruckerChaos;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use TruckerTest;

our @EXPORT = qw(
  @chaos_trucks
  @disasters
  chaos_load
  chaos_same
  chaos_setup
  create_log
  create_total
  disaster
  is_crash
  kill_server_process
  no_other_slot
  rss_anon
  same_total
  stop_pgbench
  wal_passes
);

our @chaos_trucks = qw(flat total log alone);

# What may happen to a server; is_crash() tells those that end all its sessions.  A
# worker is the one of the stream that carries the truck; a backfill is a process of
# the truck's own, and can be named instead.
our @disasters = (
	'kill -9 of the worker',
	'kill -9 of the walsender',
	'kill -9 of the postmaster',
	'immediate shutdown',
	'restart',
	'pg_terminate_backend of the worker',
	'pg_terminate_backend of the walsender',
	'pg_cancel_backend of the worker');

# Clients 0..3 share items 1..80, which they lock in ascending order; each has
# 1000 more for itself, where keys come, go and change their sign.
my %script = (
	transfer => q{
\set lo random(1, 40)
\set hi random(41, 80)
\set amount random(-100, 100)
BEGIN;
UPDATE item SET val = val - :amount WHERE id = :lo;
UPDATE item SET val = val + :amount WHERE id = :hi;
INSERT INTO ledger (client, amount) VALUES (:client_id, :amount);
SAVEPOINT a;
UPDATE item SET val = 0, note = 'rolled back' WHERE id = :lo;
INSERT INTO ledger (client, amount) VALUES (-1, 0);
ROLLBACK TO SAVEPOINT a;
SAVEPOINT b;
UPDATE item SET note = 'after a savepoint ' || :amount WHERE id = :lo;
RELEASE SAVEPOINT b;
COMMIT;
},
	churn => q{
\set base 1000 * (:client_id + 1)
\set new :base + random(1, 60)
\set moved :base + random(1, 60)
\set gone :base + random(1, 60)
\set brief :base + 100
\set grp random(1, 8)
BEGIN;
INSERT INTO item VALUES (:new, :grp, 1, 'new') ON CONFLICT (id) DO UPDATE SET val = item.val + 1;
UPDATE item SET id = -id, grp = :grp, val = val + 3 WHERE id = :moved AND NOT EXISTS (SELECT FROM item AS i WHERE i.id = -:moved);
DELETE FROM item WHERE id IN (-:gone, :gone);
INSERT INTO item VALUES (:brief, :grp, 7, NULL);
UPDATE item SET val = val + 1, note = repeat('x', 100) WHERE id = :brief;
UPDATE item SET id = id + 1 WHERE id = :brief;
DELETE FROM item WHERE id = :brief + 1;
INSERT INTO ledger (client, amount) VALUES (:client_id, :new);
COMMIT;
},
	'group' => q{
\set grp random(1, 8)
\set id random(1, 80)
\set base 1000 * (:client_id + 1) + 200
BEGIN;
UPDATE grp SET name = 'group ' || :grp || ', ' || hits, hits = hits + 1 WHERE id = :grp;
UPDATE item SET grp = :grp, val = val + 1 WHERE id = :id;
INSERT INTO item SELECT :base + n, :grp, n, 'many' FROM generate_series(1, 30) AS n;
UPDATE item SET val = val * 2 WHERE id BETWEEN :base + 1 AND :base + 30;
INSERT INTO ledger (client, amount) SELECT :client_id, n FROM generate_series(1, 30) AS n;
DELETE FROM item WHERE id BETWEEN :base + 1 AND :base + 30;
COMMIT;
},
	rollback => q{
\set id random(1, 80)
BEGIN;
UPDATE item SET val = -1, note = 'rolled back' WHERE id = :id;
INSERT INTO ledger (client, amount) VALUES (-1, 0);
DELETE FROM item WHERE id = :id;
ROLLBACK;
});
my %weight = (transfer => 5, churn => 4, group => 1, rollback => 1);

sub _options
{
	my ($table, $stream, $more) = @_;

	return qq('{"reset_sql": "DELETE FROM $table", "stream": "$stream") . ($more ? ", $more" : '') . q(}');
}

# create_total($node, $truck, $table, $stream, $options): a truck that keeps sum and
# count of item per grp in the table, which is made, too.  $options are more JSON
# members.
sub create_total
{
	my ($node, $truck, $table, $stream, $more) = @_;
	my $options = _options($table, $stream // 'main', $more);

	$node->safe_psql('postgres', qq{
CREATE TABLE $table (grp int PRIMARY KEY, val bigint NOT NULL, n bigint NOT NULL);
SELECT trucker.create_truck('$truck', '{item}', \$\$
	INSERT INTO $table AS t
	SELECT grp, sum(val), sum(n)
	FROM (SELECT grp, val, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL
		  SELECT old__grp, -old__val, -1 FROM r WHERE meta__operation <> 'insert') AS d
	GROUP BY grp
	ON CONFLICT (grp) DO UPDATE SET val = t.val + excluded.val, n = t.n + excluded.n
\$\$, options => $options)});
	return;
}

# create_log($node, $truck, $table, $stream): a truck that appends ledger's rows to
# the table, which is made, too.
sub create_log
{
	my ($node, $truck, $table, $stream) = @_;
	my $options = _options($table, $stream // 'main');

	$node->safe_psql('postgres', qq{
CREATE TABLE $table (seq bigserial, id bigint, client int, amount int);
SELECT trucker.create_truck('$truck', '{ledger}',
	'INSERT INTO $table (id, client, amount) SELECT id, client, amount FROM r WHERE meta__operation = ''insert'' ORDER BY meta__seq',
	options => $options)});
	return;
}

sub same_total
{
	my ($node, $table, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return same($node,
		'SELECT grp, sum(val)::bigint, count(*) FROM item GROUP BY grp',
		"SELECT grp, val, n FROM $table WHERE (val, n) <> (0, 0)", $name);
}

sub chaos_setup
{
	my ($node) = @_;

	$node->safe_psql(
		'postgres', q{
CREATE TABLE grp (id int PRIMARY KEY, name text NOT NULL, hits int NOT NULL DEFAULT 0);
CREATE TABLE item (id int PRIMARY KEY, grp int NOT NULL REFERENCES grp, val int NOT NULL, note text);
ALTER TABLE item REPLICA IDENTITY FULL;
CREATE TABLE ledger (id bigserial PRIMARY KEY, client int NOT NULL, amount int NOT NULL);
INSERT INTO grp SELECT n, 'group ' || n FROM generate_series(1, 8) AS n;
INSERT INTO item SELECT n, 1 + n % 8, 100, 'old' FROM generate_series(1, 80) AS n;
INSERT INTO ledger (client, amount) SELECT -2, n FROM generate_series(1, 100) AS n;

CREATE TABLE flat (id int PRIMARY KEY, grp int, val int, note text, name text);
SELECT trucker.create_truck('flat', '{item, grp}', input_sql => $$
	{{- if eq .input_table "public.item" }}
	SELECT r.*, g.name FROM r LEFT JOIN grp AS g ON g.id = r.grp
	{{- else }}
	SELECT id, name FROM r
	{{- end }}
$$, output_sql => $$
	{{- if eq .input_table "public.item" }}
	DELETE FROM flat USING r WHERE r.meta__operation <> 'insert' AND flat.id = r.old__id;
	INSERT INTO flat SELECT id, grp, val, note, name FROM r WHERE meta__operation <> 'delete'
	ON CONFLICT (id) DO UPDATE SET (grp, val, note, name) = (excluded.grp, excluded.val, excluded.note, excluded.name)
	{{- else }}
	UPDATE flat SET name = r.name FROM r WHERE flat.grp = r.id
	{{- end }}
$$, options => '{"reset_sql": "DELETE FROM flat"}');
});
	create_total($node, 'total', 'grp_total');
	create_log($node, 'log', 'ledger_log');
	create_log($node, 'alone', 'ledger_log_alone', 'alone');
	return;
}

# Start the load: four clients, $rate transactions a second.
sub chaos_load
{
	my ($node, $rate) = @_;
	my $dir  = $node->basedir;
	my @args = ('-n', '-c', '4', '-T', '36000', '-R', $rate // 600);

	foreach my $name (sort keys %script)
	{
		open my $out, '>', "$dir/$name.sql" or die "$dir/$name.sql: $!";
		print $out $script{$name};
		close $out or die "$dir/$name.sql: $!";
		push @args, '-f', "$dir/$name.sql\@$weight{$name}";
	}
	my $pid = spawn_pgbench($node, '/dev/null', "$dir/pgbench.err", @args);

	return bless { node => $node, pid => $pid, err => "$dir/pgbench.err" },
	  'TruckerChaos::Load';
}

# All trucks are running, and their tables are equal to what the source says.
sub chaos_same
{
	my ($node, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck (@chaos_trucks)
	{
		return fail("$what: truck $truck catches up") unless caught_up($node, $truck);
	}
	my $good = same($node,
		'SELECT i.id, i.grp, i.val, i.note, g.name FROM item AS i JOIN grp AS g ON g.id = i.grp',
		'SELECT id, grp, val, note, name FROM flat',
		"$what: the mirror is equal to the join");
	$good &= same_total($node, 'grp_total', "$what: nothing was added twice or not at all");
	foreach my $table ('ledger_log', 'ledger_log_alone')
	{
		$good &= same($node, 'SELECT id, client, amount FROM ledger',
			"SELECT id, client, amount FROM $table",
			"$what: each row was appended once to $table");
	}
	$good &= no_other_slot($node, $what);
	return $good;
}

# A test that all come home: the trucks that shall run stream on their homes again, and
# there is a slot for each stream that has trucks, and no other.
sub no_other_slot
{
	my ($node, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $good = $node->poll_query_until('postgres', q{
		SELECT (SELECT bool_and(s.state = 'streaming' AND s.stream = coalesce(t.options ->> 'stream', 'main'))
				FROM trucker.status AS s JOIN trucker.truck AS t ON t.name = s.truck)
			AND (SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots)
				= (SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM trucker.stream)
			AND (SELECT count(*) FROM trucker.stream)
				= (SELECT count(DISTINCT coalesce(options ->> 'stream', 'main')) FROM trucker.truck)});
	ok($good, "$what: all trucks are on their streams, and there is no other slot")
	  or diag $node->safe_psql('postgres', q{
		SELECT truck, state, stream, last_error FROM trucker.status ORDER BY 1;
		SELECT name, home, slot_name FROM trucker.stream;
		SELECT slot_name, active FROM pg_replication_slots});
	return $good;
}

sub is_crash
{
	my ($kind) = @_;

	return $kind =~ /kill -9|immediate|restart/;
}

sub _children
{
	my ($parent) = @_;
	my @pids;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		# a process may end while we look
		open my $in, '<', $file or next;
		my $line = <$in> // '';
		close $in;
		push @pids, $1 if $line =~ /^(\d+) \(.*\) \S (\d+) /s && $2 == $parent;
	}
	return @pids;
}

sub _wait_gone
{
	my (@pids) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (@pids = grep { kill 0, $_ } @pids)
	{
		die "processes @pids do not end" if time > $deadline;
		usleep(10_000);
	}
	return;
}

# There is one as soon as the server has started, or will be in a moment.
sub _checkpointer
{
	my ($node) = @_;
	my $query = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'};

	$node->poll_query_until('postgres', "SELECT EXISTS ($query)") or die 'there is no checkpointer';
	return $node->safe_psql('postgres', $query);
}

# A killed process ends all others: wait until the server has been there and back.
sub kill_server_process
{
	my ($node, $pid) = @_;
	my $started = _checkpointer($node);

	# it may just have ended by itself
	kill 'KILL', $pid or return;
	my $back;
	do
	{
		# a psql that is refused may end before it has got the query, and that is
		# an error to IPC::Run
		$back = eval {
			$node->poll_query_until('postgres',
				"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'checkpointer' AND pid <> $started");
		};
	} until defined $back;
	die 'the server does not come back' unless $back;
	return;
}

sub _kill_postmaster
{
	my ($node) = @_;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children = _children($postmaster);

	$node->kill9;
	_wait_gone($postmaster, @children);
	$node->start;
	return;
}

sub disaster
{
	my ($node, $kind, $truck) = @_;
	my ($how, $whom) = $kind =~ /^(.*) of the (.*)$/ ? ($1, $2) : ($kind, '');
	my $pid =
		$whom eq 'worker'    ? stream_worker_pid($node, $truck)
	  : $whom eq 'backfill'  ? worker_pid($node, $truck)
	  : $whom eq 'walsender' ? walsender_pid($node, $truck)
	  :                        undef;

	note "$kind, truck $truck";
	if    ($how =~ /^pg_/)          { $node->safe_psql('postgres', "SELECT $how($pid)"); }
	elsif ($whom eq 'postmaster')   { _kill_postmaster($node); }
	elsif ($how eq 'kill -9')       { kill_server_process($node, $pid); }
	elsif ($how eq 'restart')       { $node->restart; }
	else                            { $node->stop('immediate'); $node->start; }
	return;
}

# A backend goes on with what it was told last although pgbench is gone; what it commits then
# would be missing where others have just been told that they have all.
sub stop_pgbench
{
	my ($node, $pid) = @_;

	# unless it has ended by itself
	if (waitpid($pid, POSIX::WNOHANG()) == 0)
	{
		kill 'TERM', $pid;
		waitpid $pid, 0;
	}
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'})
	  or die 'the load does not end';
	return;
}

sub wal_passes
{
	my ($node, $bytes) = @_;

	$node->safe_psql('postgres', qq{
DO \$\$
DECLARE
	from_lsn CONSTANT pg_lsn := pg_current_wal_insert_lsn();
	deadline CONSTANT timestamptz := clock_timestamp() + interval '$PostgreSQL::Test::Utils::timeout_default s';
BEGIN
	WHILE pg_wal_lsn_diff(pg_current_wal_insert_lsn(), from_lsn) < $bytes LOOP
		PERFORM pg_sleep(0.002);
		IF clock_timestamp() > deadline THEN
			RAISE 'nobody writes WAL';
		END IF;
	END LOOP;
END
\$\$});
	return;
}

sub rss_anon
{
	my ($pid) = @_;

	# the process may be gone
	open my $in, '<', "/proc/$pid/status" or return 0;
	my ($kb) = join('', <$in>) =~ /^RssAnon:\s+(\d+) kB/m;
	close $in;
	return $kb // 0;
}

package TruckerChaos::Load;

use strict;
use warnings;

use POSIX ();

# False if all clients have given up: thrown out by the server, or by an error.
sub alive
{
	my ($self) = @_;

	return waitpid($self->{pid}, POSIX::WNOHANG) == 0;
}

# Stop, and wait until the server has nothing of it in hand any more.  False if it
# had stopped by itself.
sub stop
{
	my ($self) = @_;
	my $alive = $self->alive;

	TruckerChaos::stop_pgbench($self->{node}, $self->{pid});
	return $alive;
}

# What it complained about.
sub errors
{
	my ($self) = @_;

	return PostgreSQL::Test::Utils::slurp_file($self->{err});
}

1;
