# start() checks at once whatever can be checked at once, and each of its errors
# says what to do: doing just that, literally, is what cures it.  A truck that
# would fail later, in the background, costs its owner a search through logs.
# (What it checks of the truck: 044_start_checks.pl.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use StartTest;
use TruckerTest;

# ----
# A server on which everything is missing: each hint leads to the next one, and
# the last to a truck that streams.
# ----
my $knows_plugins = 0;
{
	$node = trucker_node(
		'bare',
		conf => q{
shared_preload_libraries = ''
wal_level = replica
max_replication_slots = 0
max_wal_senders = 0
max_worker_processes = 2
});
	$knows_plugins = server_knows($node, 'output_plugin_libraries');
	sql('CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, $$one$$);
		 CREATE TABLE d (LIKE s INCLUDING ALL)');
	create(mirror('s', 'd'));

	# follow($setting, $value): what the hint before has asked for
	my $follow = sub {
		my ($setting, $value) = @_;
		$node->append_conf('postgresql.conf', "$setting = $value");
		$node->restart;
	};

	raises("SELECT trucker.start('d')", '55000', qr/^trucker is not in shared_preload_libraries$/,
		qr/^Add trucker to shared_preload_libraries in postgresql\.conf, and restart the server\.$/,
		'not in shared_preload_libraries: says so');
	raises("SELECT trucker.wait_for('d')", '55000', qr/^trucker is not in shared_preload_libraries$/,
		qr/restart/, 'wait_for says so, too');
	is( $node->safe_psql('postgres', 'SELECT truck, state FROM trucker.status'),
		'd|stopped', 'the status view works without it');
	$follow->('shared_preload_libraries', q{'trucker'});

	raises("SELECT trucker.start('d')", '55000', qr/^wal_level is not "logical"$/,
		qr/^Set wal_level = logical in postgresql\.conf, and restart the server\.$/,
		'wal_level: says that a restart is needed');
	$follow->('wal_level', 'logical');

	my $n = qr/1 replication slots? (?:is|are) needed, and 0 are free/;
	raises("SELECT trucker.start('d')", '53400', $n,
		qr/^Raise max_replication_slots \(now 0\) and restart the server/,
		'no free replication slot: names the setting');
	$follow->('max_replication_slots', 1);

	$n = qr/1 WAL senders? (?:is|are) needed, and 0 are free/;
	raises("SELECT trucker.start('d')", '53400', $n, qr/^Raise max_wal_senders \(now 0\), and restart the server\.$/,
		'no free WAL sender: names the setting');
	$follow->('max_wal_senders', 1);

	raises("SELECT trucker.start('d')", '53400', qr/^no background worker is free$/,
		qr/^Raise max_worker_processes \(now 2\), and restart the server\.$/,
		'no free background worker: names the setting');
	$follow->('max_worker_processes', 3);

	starts('d', 'all hints followed, and nothing to spare');
	is($node->safe_psql('postgres', 'SELECT id, v FROM d'), '1|one', 'and has done its backfill');

	sql("SELECT trucker.start('d')");
	pass('a second start of a truck that runs needs no further slot, sender or worker');

	# A second truck finds nothing free.
	sql('CREATE TABLE d2 (LIKE s INCLUDING ALL)');
	create(mirror('s', 'd2'));
	raises("SELECT trucker.start('d2')", '53400', qr/replication slot/, qr/max_replication_slots \(now 1\)/,
		'a second truck is told that there is no slot left');
	raises('SELECT trucker.start()', '53400', qr/replication slot/, qr/max_replication_slots \(now 1\)/,
		'start() of all trucks counts those that run already as satisfied');

	# The first one keeps its slot when it rests, so it needs none to go on.
	$node->append_conf('postgresql.conf', "max_worker_processes = 6\nmax_wal_senders = 3");
	$node->restart;
	ok(wait_state($node, 'd', 'streaming'), 'the truck starts by itself after a restart');
	sql("SELECT trucker.stop('d')");
	ok(wait_state($node, 'd', 'stopped'), 'it stops');
	starts('d', 'its own slot, kept while it was stopped, is not missing');
	$node->stop;
}

# ----
# From here on, a server that has all that trucks need.
# ----
$node = trucker_node('main');
sql('CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, $$one$$);
	 CREATE TABLE d (LIKE s INCLUDING ALL)');
create(mirror('s', 'd'));

# The output plugin
raises("SET dynamic_library_path = '/nonexistent'; SELECT trucker.start('d')",
	'58P01', qr/^output plugin "wal2json" is not installed$/, qr/apt-get install postgresql-\d+-wal2json\.  Or let another one be used: ALTER SYSTEM SET trucker\.output_plugin = pgoutput;/,
	'output plugin not installed: names the package');

SKIP:
{
	skip 'this server has no output_plugin_libraries', 12 unless $knows_plugins;
	foreach my $allowed (q{'pgoutput', 'test_decoding'}, q{''}, q{'pgoutput', 'Odd Name'})
	{
		sql("ALTER SYSTEM SET output_plugin_libraries = $allowed", 'SELECT pg_reload_conf()');
		$node->poll_query_until('postgres',
			q{SELECT current_setting('output_plugin_libraries') !~ 'wal2json'});
		my $error = raises("SELECT trucker.start('d')",
			'55000', qr/^output plugin "wal2json" is not in output_plugin_libraries$/,
			qr/^ALTER SYSTEM SET output_plugin_libraries = .*wal2json; SELECT pg_reload_conf\(\);$/,
			"output_plugin_libraries = $allowed: not allowed, says how to allow it");
		my ($cure) = $error =~ /^HINT:  (.*)/m;
		is(psql_err($node, $cure), '', 'what the hint says can be run') or next;
		$node->poll_query_until('postgres',
			q{SELECT current_setting('output_plugin_libraries') ~ 'wal2json'});
		starts('d', 'what the hint says');
		sql("SELECT trucker.stop('d')");
		wait_state($node, 'd', 'stopped');
	}
	sql('ALTER SYSTEM RESET output_plugin_libraries', 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres',
		q{SELECT current_setting('output_plugin_libraries') ~ 'test_decoding.*wal2json'});
}

# Synchronous replication
foreach my $names ('*', 'FIRST 1 (a, *)', 'ANY 1 ("*")')
{
	sql("ALTER SYSTEM SET synchronous_standby_names = '$names'", 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', qq{SELECT current_setting('synchronous_standby_names') = '$names'});
	raises("SELECT trucker.start('d')", '55000', qr/^synchronous_standby_names contains "\*"$/,
		qr/one by one/, "synchronous_standby_names = '$names': commits would wait for ourselves");
}
sql('ALTER SYSTEM RESET synchronous_standby_names', 'SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('synchronous_standby_names') = ''});

# ----
# Names
# ----
raises("SELECT trucker.start('nobody')", '42704', qr/^truck "nobody" does not exist$/,
	qr/^SELECT truck FROM trucker\.status/, 'unknown truck: start');
raises("SELECT trucker.$_('nobody')", '42704', qr/^truck "nobody" does not exist$/, qr/trucker\.status/,
	"unknown truck: $_")
  foreach qw(stop resync drop_truck wait_for);
raises('SELECT trucker.create_truck(' . mirror('s', 'd') . ')',
	'42710', qr/^truck "d" already exists$/, undef, 'name clash');
is( $node->safe_psql('postgres', 'SELECT trucker.start(NULL::text), trucker.stop()'),
	'|', 'no name stands for all trucks');

# ----
# All at once
# ----

# If one cannot be started none is, and the error says which one it is.
create(q{'sound', ARRAY['s'::regclass], 'SELECT count(*) FROM r'});
create(q{'un''sound', ARRAY['s'::regclass], 'SELECT nothing FROM r'});
{
	my $error = raises('SELECT trucker.start()', '42703', qr/^column "nothing" does not exist$/, undef, 'start() of all, one of which does not fit');

	like($error, qr/^(?:CONTEXT:  )?start of truck "un'sound"$/m, 'says which one');
	is($node->safe_psql('postgres', q{SELECT DISTINCT state FROM trucker.status}), 'stopped', 'and starts none');
	unlike(raises(q{SELECT trucker.start('un''sound')}, '42703', qr/nothing/, undef, 'start() of that one'), qr/start of truck/, 'need not say it');
}
drop('sound', q{un''sound});

# ----
# Transactions
# ----
sql(q{BEGIN; SELECT trucker.start('d'); ROLLBACK});
sql(q{BEGIN; SAVEPOINT x; SELECT trucker.start('d'); ROLLBACK TO x; COMMIT});
is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'd'}), 'stopped',
	'a start that is rolled back does nothing');
{
	my $session = $node->background_psql('postgres');

	$session->query_safe(q{SET client_min_messages = error; BEGIN; SELECT trucker.start('d')});

	# what has been asked for in the meantime has been served when this truck runs; on
	# the same stream it would wait for the other start(), whose slot it shares
	create(q{'marker', ARRAY['s'::regclass], 'SELECT count(*) FROM r', options => '{"backfill": false, "stream": "marker"}'});
	sql("SELECT trucker.start('marker')");
	ok($node->poll_query_until('postgres', q{SELECT state = 'creating slot' FROM trucker.status WHERE truck = 'marker'}),
		'another truck, started later, has a worker');
	is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'd'}), 'stopped',
		'a start that has not committed yet does nothing');
	$session->query_safe('COMMIT');
	$session->quit;
	ok(wait_state($node, 'd', 'streaming'), 'its commit starts the truck');
	drop('marker');
}
sql(q{SELECT trucker.start('d')}, q{SELECT trucker.start('d'); SELECT trucker.start('d')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'trucker stream' AND application_name = 'trucker main'}),
	'1', 'starting a truck twice makes no second worker');
is($node->safe_psql('postgres', q{SELECT state FROM trucker.status WHERE truck = 'd'}), 'streaming', 'and does not disturb it');
sql(q{BEGIN; SELECT trucker.stop('d'); SELECT trucker.start('d'); COMMIT});
sql(q{INSERT INTO s VALUES (3, 'three')});
ok(caught_up($node, 'd'), 'stop and start in one transaction: the truck goes on');

$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->restart;
foreach my $what ("trucker.start('d')", "trucker.stop('d')", "trucker.resync('d')", "trucker.drop_truck('d')")
{
	raises("BEGIN; SELECT $what; PREPARE TRANSACTION 'p'", '0A000',
		qr/^cannot PREPARE a transaction that has started, stopped, altered or dropped a truck$/, undef, "PREPARE TRANSACTION after $what is refused");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'and prepares nothing');
ok(wait_state($node, 'd', 'streaming'), 'nor changes what the truck does');

# A name with a quote: hints must hold SQL that can be run.
{
	my ($error, $cure);

	create(q{'it''s', ARRAY['s'::regclass], 'SELECT count(*) FROM r'});
	$error = raises(q{SELECT trucker.wait_for('it''s')}, '55000', qr/^truck "it's" is stopped$/, qr/trucker\.start/, 'waiting for a stopped truck');
	($cure) = $error =~ /^HINT:  (.*)/m;
	is(psql_err($node, $cure) =~ s/^.*WARNING:(?:.|\n)*//r, '', 'the hint can be run even if the name holds a quote');
	drop(q{it''s});
}

# ----
# The server's own pg_hba.conf.  A logical connection is matched by its database's
# name; so that we can still get in, a role of our own does.
# ----
sql('CREATE ROLE boss SUPERUSER LOGIN', 'CREATE ROLE carter');
foreach my $db ('postgres', 'my db', 'replication', 'sameuser', 'all', 'it"s')
{
	my $quoted = $db =~ s/"/""/gr;
	my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
	local $ENV{PGUSER} = 'boss';
	my $reload = sub {
		my ($text) = @_;
		open my $file, '>', $node->data_dir . '/pg_hba.conf' or die "pg_hba.conf: $!";
		print $file $text;
		close $file;

		# a backend that starts after this line in the log sees the new rules
		my $offset = -s $node->logfile;
		$node->reload;
		$node->wait_for_log(qr/received SIGHUP, reloading configuration files/, $offset);
		$node->poll_query_until('postgres', 'SELECT 1', '1');
	};

	sql(qq{CREATE DATABASE "$quoted"}) if $db ne 'postgres';
	my $make = q{SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS trucker;
		CREATE TABLE h (id int PRIMARY KEY, v text); CREATE TABLE h_d (LIKE h INCLUDING ALL);
		SELECT trucker.create_truck(} . mirror('h', 'h_d') . ')';
	$node->safe_psql($db, $make);
	$reload->("local all boss trust\nlocal all all reject\n");

	my $error = raises("SELECT trucker.start('h_d')", '08001', qr/^could not connect to server$/, qr/^trucker reads this server's WAL over a replication connection to itself\..*put this line before the others there, and reload:\n/s,
		"own server not reachable from database $db: says what is missing", db => $db);
	like($error, qr/^DETAIL:  .*pg_hba\.conf rejects/m, 'and why');
	my ($line) = $error =~ /before the others there, and reload:\n(.*)/;
	$reload->(($line // '') . "\nlocal all boss trust\nlocal all all reject\n");
	is( psql_err($node, "SET client_min_messages = error; SELECT trucker.start('h_d')", db => $db),
		'', "database $db: the line of the hint, put in literally, lets trucker in")
	  or diag "the line: $line";
	$reload->($hba);
	ok(wait_state($node, 'h_d', 'streaming', db => $db), 'the truck streams');
	$node->safe_psql($db, "SELECT trucker.drop_truck('h_d')");
	sql(qq{DROP DATABASE "$quoted"}) if $db ne 'postgres';
}

# ----
# Another way in: trucker.replication_conninfo.  What it holds is nobody's business.
# ----
sql(q{SELECT trucker.stop('d')});
wait_state($node, 'd', 'stopped');
foreach my $case ([ 'user=nobody_here password=hush', '08001', qr/^could not connect to server$/ ],
	[ 'host=/nonexistent password=hush', '08001', qr/^could not connect to server$/ ],
	[ 'hush', '22023', qr/^invalid value for parameter "trucker\.replication_conninfo"$/ ])
{
	my ($conninfo, $sqlstate, $message) = @$case;

	sql("ALTER SYSTEM SET trucker.replication_conninfo = '$conninfo'", 'SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', qq{SELECT current_setting('trucker.replication_conninfo') = '$conninfo'});
	my $error = raises("SELECT trucker.start('d')", $sqlstate, $message, qr/./, "trucker.replication_conninfo that does not work ($sqlstate)");
	unlike($error, qr/hush/, 'the error does not show the setting');
}
raises('SET ROLE carter; SHOW trucker.replication_conninfo', '42501', qr/trucker\.replication_conninfo/, undef,
	'nor may everybody look at it');
sql('ALTER SYSTEM RESET trucker.replication_conninfo', 'SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('trucker.replication_conninfo') = ''});
starts('d', 'without the wrong setting');

# ----
# A standby
# ----
{
	my $primary = $node;

	$primary->backup('b');
	$node = PostgreSQL::Test::Cluster->new('standby');
	$node->init_from_backup($primary, 'b', has_streaming => 1);
	$node->start;
	$primary->wait_for_catchup($node, 'replay', $primary->lsn('insert'));

	raises("SELECT trucker.start('d')", '55000', qr/^trucks cannot run on a standby server$/, undef, 'start on a standby is refused');
	raises("SELECT trucker.wait_for('d')", '55000', qr/standby/, undef, 'wait_for on a standby is refused');
	is($node->safe_psql('postgres', q{SELECT state, position IS NOT NULL FROM trucker.status WHERE truck = 'd'}), 'stopped|t',
		'the status view on a standby shows trucks, and none that starts');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^trucker'}), '0',
		'no trucker process runs on a standby');
	$node->stop;
	$node = $primary;
}

unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|terminated by signal/, 'no crash in all of this');
$node->stop;

done_testing();
