# Restored, promoted and copied servers.  A position means something only together with
# the server, the timeline and the slot that it goes with.  Where data, position and slot
# still belong together, a truck goes on, and has each change once, as if nothing had
# happened; where they do not, it is lost, says why and what to do, and its destination
# stays as it was.  One of the two, in each case, on a server of its own.
#
# Every truck adds up what it reads, so a change that is lost, or applied twice, shows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use File::Path ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $origin = trucker_node(
	'origin',
	init => { allows_streaming => 1, has_archiving => 1, extra => [ '--no-locale', '--encoding=UTF8', '--wal-segsize=1' ] },
	conf => q{
min_wal_size = '2MB'
autovacuum = off
max_connections = 30
trucker.retry_max_delay = '300ms'
});

# ----
# Trucks that add up
# ----

# "idle" reads a table that nobody changes in the meantime.
my %input = (busy => 'a', rests => 'b', idle => 'c');
my %stream = (busy => 'main', rests => 'main', idle => 'aside');
my $next = 1000;

foreach my $truck (sort keys %input)
{
	my $table = $input{$truck};

	$origin->safe_psql('postgres', qq{
CREATE TABLE $table (id int PRIMARY KEY, v int NOT NULL);
ALTER TABLE $table REPLICA IDENTITY FULL;
INSERT INTO $table SELECT n, n FROM generate_series(1, 100) AS n;
CREATE TABLE total_$truck (one bool PRIMARY KEY, v bigint NOT NULL, n bigint NOT NULL, loaded timestamptz DEFAULT now());
SELECT trucker.create_truck('$truck', '{$table}', \$\$
	INSERT INTO total_$truck AS t
	SELECT true, sum(v), sum(n)
	FROM (SELECT v, 1 AS n FROM r WHERE meta__operation <> 'delete'
		  UNION ALL
		  SELECT -old__v, -1 FROM r WHERE meta__operation <> 'insert') AS d
	HAVING count(*) > 0
	ON CONFLICT (one) DO UPDATE SET v = t.v + excluded.v, n = t.n + excluded.n
\$\$, options => '{"reset_sql": "DELETE FROM total_$truck", "stream": "$stream{$truck}"}');
SELECT trucker.start('$truck')});
}
caught_up($origin, $_) or die "$_ does not run" foreach sort keys %input;

# Two transactions on each table, or on those that are named.
sub change
{
	my ($node, @tables) = @_;

	foreach my $table (@tables ? @tables : qw(a b))
	{
		$next++;
		$node->safe_psql('postgres', "INSERT INTO $table VALUES ($next, $next)");
		$node->safe_psql('postgres', "BEGIN; UPDATE $table SET v = v + 1 WHERE id % 7 = $next % 7; DELETE FROM $table WHERE id = $next - 2; COMMIT");
	}
	return;
}

sub total
{
	my ($node, $truck) = @_;

	return $node->safe_psql('postgres', "SELECT v, n, loaded FROM total_$truck");
}

# The truck has all changes, each once, and goes on having them.  With a time at which
# its destination was loaded: it has not been loaded anew.
sub goes_on
{
	my ($node, $truck, $name, $loaded) = @_;
	my $table = $input{$truck};

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $when ($name, "$name, and further changes")
	{
		return fail("$when: truck $truck catches up") unless caught_up($node, $truck);
		same($node, "SELECT sum(v)::bigint, count(*) FROM $table", "SELECT v, n FROM total_$truck", "$when: truck $truck has each change once");
		change($node, qw(a b), $table);
	}
	is($node->safe_psql('postgres', "SELECT loaded FROM total_$truck"), $loaded, "$name: truck $truck was not loaded anew") if defined $loaded;
	return;
}

# The truck is lost for this reason and says what helps; its destination is as it was;
# that helps.
sub is_lost
{
	my ($node, $truck, $reason, $name, $before) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_state($node, $truck, 'lost'), "$name: truck $truck is lost") or return;
	change($node);
	like($node->safe_psql('postgres', "SELECT last_error FROM trucker.status WHERE truck = '$truck'"),
		qr/^55000: truck "$truck" cannot go on: .*$reason.*\nHINT: .*trucker\.resync\('$truck'\)/s, "$name: why, and what helps");
	like(psql_err($node, "SELECT trucker.start('$truck')"), qr/55000: truck "$truck" is lost.*HINT:.*trucker\.resync\('$truck'\)/s, "$name: start() refuses");
	is(total($node, $truck), $before, "$name: the destination of truck $truck is as it was") if defined $before;
	$node->safe_psql('postgres', "SELECT trucker.resync('$truck'); SELECT trucker.start('$truck')");
	goes_on($node, $truck, "$name, resync()");
	return;
}

sub stop_truck
{
	my ($node, $truck) = @_;

	$node->safe_psql('postgres', "SELECT trucker.stop('$truck')");
	wait_state($node, $truck, 'stopped') or die "$truck does not stop";
	return;
}

# The slots whose names stand in the catalog, and how far they are.
sub slots
{
	my ($node) = @_;

	return $node->safe_psql('postgres', q{
		SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM trucker.stream JOIN pg_replication_slots USING (slot_name)});
}

# A server made from a backup of the origin; not started.  It must not write to the
# archive that others are restored from.
sub copy_of_origin
{
	my ($name, $backup, $conf, %opts) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($origin, $backup, %opts);
	$node->append_conf('postgresql.conf', "archive_mode = off\n" . ($conf // ''));
	return $node;
}

# Restored from the backup and the archive, up to the point; it is a server of its own
# when this returns.
sub start_restored
{
	my ($node) = @_;

	$node->start;
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
	return $node;
}

sub restored_to
{
	my ($name, $point, $conf) = @_;

	return copy_of_origin($name, 'cold', "recovery_target_name = '$point'\nrecovery_target_action = 'promote'\n" . ($conf // ''),
		has_restoring => 1, standby => 0);
}

sub ends
{
	my ($node) = @_;

	unlike(slurp_file($node->logfile), qr/\bPANIC|terminated by signal|TRAP:/, $node->name . ': no process has crashed');
	$node->stop;
	return;
}

# ----
# What is to be restored
# ----

# One truck is stopped, and has something to read, when the copies are made.
change($origin);
ok(caught_up($origin, $_), "before the copies: $_") foreach sort keys %input;
stop_truck($origin, 'rests');
change($origin);
ok(caught_up($origin, 'busy'), 'and one goes on');
my $ahead = q{confirmed_flush_lsn > p.lsn FROM trucker.position AS p JOIN trucker.truck AS t ON t.id = p.truck_id
	JOIN trucker.truck_state AS s USING (truck_id) JOIN trucker.stream AS x ON x.id = s.stream_id JOIN pg_replication_slots USING (slot_name)
	WHERE t.name =};
ok($origin->poll_query_until('postgres', "SELECT $ahead '$_'"), "the slot of truck $_ is further than its position") foreach qw(idle rests);
my %total = map { $_ => total($origin, $_) } sort keys %input;
my %loaded = map { $_ => $origin->safe_psql('postgres', "SELECT loaded FROM total_$_") } sort keys %input;

$origin->backup('base');
$origin->stop;
$origin->backup_fs_cold('cold');
$origin->start;

# Up to "between" the source transactions are committed, and not what the truck makes of them.
change($origin);
ok(caught_up($origin, 'busy'), 'a batch after the copies');
$origin->safe_psql('postgres', q{SELECT pg_create_restore_point('behind')});
my $lock = $origin->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE total_busy IN SHARE MODE');
my $between = total($origin, 'busy');
change($origin);
ok($origin->poll_query_until('postgres', q{SELECT waiting_for IS NOT NULL FROM trucker.status WHERE truck = 'busy'}), 'a batch that has to wait');
$origin->safe_psql('postgres', q{SELECT pg_create_restore_point('between')});
$lock->query_safe('COMMIT');
$lock->quit;
ok(caught_up($origin, 'busy'), 'and is applied then');
change($origin);
ok(caught_up($origin, 'busy'), 'one more');
$origin->safe_psql('postgres', q{SELECT pg_create_restore_point('last')});
change($origin);
ok(caught_up($origin, 'busy'), 'and one that no copy will have');
my $archived = $origin->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
$origin->poll_query_until('postgres', "SELECT last_archived_wal >= '$archived' FROM pg_stat_archiver") or die 'WAL is not archived';

# ----
# A copy that is started as it is
# ----

# Two servers that know nothing of each other, with slots of the same names.
my $clone = copy_of_origin('clone', 'cold');
$clone->start;
is(slots($clone), slots($origin), 'a copy has slots of the same names');
goes_on($clone, $_, 'copied', $loaded{$_}) foreach qw(busy idle);
$clone->safe_psql('postgres', q{SELECT trucker.start('rests')});
goes_on($clone, 'rests', 'copied', $loaded{rests});
goes_on($origin, 'busy', 'the original', $loaded{busy});
ends($clone);

# The same with a setting that leads the copy to the original, whose slots it must not read.
my $there = 'host=' . $origin->host . ' port=' . $origin->port;
my $misled = copy_of_origin('misled', 'cold', "trucker.replication_conninfo = '$there'\n");
my $log = -s $origin->logfile;
$misled->start;
ok( $misled->poll_query_until('postgres', q{SELECT state = 'retrying' AND last_error ~ '^55000: .*replication connection leads to another server' FROM trucker.status WHERE truck = 'busy'}),
	'a copy does not read the slots of its original');
like($misled->safe_psql('postgres', q{SELECT last_error FROM trucker.status WHERE truck = 'busy'}),
	qr/DETAIL: .*started at.*\nHINT: .*trucker\.replication_conninfo/s, 'and says what to do');
like(psql_err($misled, q{SELECT trucker.start('rests')}), qr/55000: .*leads to another server.*HINT: .*ALTER SYSTEM RESET/s, 'start() says so at once');
unlike(slurp_file($origin->logfile, $log), qr/START_REPLICATION|CREATE_REPLICATION_SLOT/, 'nothing has been asked of the original');
goes_on($origin, 'busy', 'an original beside a misled copy', $loaded{busy});
$misled->adjust_conf('postgresql.conf', 'trucker.replication_conninfo', "''");
$misled->reload;
goes_on($misled, 'busy', 'led to itself', $loaded{busy});
ends($misled);

# ----
# A base backup, which holds no slots
# ----

my $base = copy_of_origin('base', 'base');
$base->start;
is_lost($base, $_, 'replication slot "trucker_\w+" does not exist any more', 'pg_basebackup', $_ eq 'busy' ? undef : $total{$_}) foreach sort keys %input;
ends($base);

# ----
# A point in time, with slots that were copied along
# ----

# The slot is that of the copy, further back than the position, which has come on with
# the data.
foreach my $point (qw(behind between last))
{
	my $node = start_restored(restored_to("to_$point", $point));

	is($node->safe_psql('postgres', 'SELECT timeline_id FROM pg_control_checkpoint()'), 2, "restored to \"$point\": another timeline")
	  if $point eq 'last';
	goes_on($node, 'busy', "restored to \"$point\"", $loaded{busy});
	is($node->safe_psql('postgres', q{SELECT timeline FROM trucker.position JOIN trucker.truck ON id = truck_id WHERE name = 'busy'}), 2,
		"restored to \"$point\": the position is of the new timeline");
	if ($point eq 'last')
	{
		is_lost($node, 'idle', 'promoted or restored since its position [0-9A-F/]+ was written, and its replication slot "trucker_\w+" stands further',
			"restored to \"$point\", nothing to apply since the copy", $total{idle});
		rested($node);
	}
	ends($node);
}

# A truck that rests knows nothing of the new timeline until it is started.  Where its
# slot stands was noted when it came to rest.
sub rested
{
	my ($node) = @_;
	my $history = $node->data_dir . '/pg_wal/00000002.history';

	rename $history, "$history.gone" or die "$history: $!";
	$node->safe_psql('postgres', q{SELECT trucker.start('rests')});
	ok( $node->poll_query_until('postgres', q{SELECT state = 'retrying' AND last_error ~ 'history of this server.s timeline 2 is missing' FROM trucker.status WHERE truck = 'rests'}),
		'without the history file it cannot be told whether a position holds');
	like($node->safe_psql('postgres', q{SELECT last_error FROM trucker.status WHERE truck = 'rests'}),
		qr/^55000: .*HINT: .*00000002\.history.*pg_wal/s, 'which the truck says');
	goes_on($node, 'busy', 'beside it', $loaded{busy});
	rename "$history.gone", $history or die "$history: $!";
	goes_on($node, 'rests', 'as soon as it is there', $loaded{rests});

	# positions that only a copy of rows, or a hand, can have put there
	foreach my $case (
		[ "timeline = 1, lsn = pg_current_wal_flush_lsn()", 'was written on timeline 1, which this server left at' ],
		[ "timeline = 7", 'was written on timeline 7, which this server, on timeline 2, does not come from' ],
		[ "lsn = '7FFFFFFF/0'", q{ahead of this server's WAL} ],
		[ "system_id = 4711", 'was written by another server \(system identifier 4711\)' ])
	{
		my ($set, $reason) = @$case;

		stop_truck($node, 'rests');
		my $before = total($node, 'rests');
		$node->safe_psql('postgres', "UPDATE trucker.position SET $set WHERE truck_id = (SELECT id FROM trucker.truck WHERE name = 'rests')");
		$node->safe_psql('postgres', q{SELECT trucker.start('rests')});
		is_lost($node, 'rests', $reason, "a position with $set", $before);
	}
	return;
}

# ----
# A point in time, with slots of a later time
# ----

# What somebody gets who copies pg_replslot over from the server of before: what the slots
# have let go of was applied there, not here.
$origin->safe_psql('postgres', q{SELECT trucker.start('rests')});
ok(caught_up($origin, $_), "the original is further: $_") foreach sort keys %input;
ok($origin->poll_query_until('postgres', q{
		SELECT count(*) = 2 AND bool_and(confirmed_flush_lsn >= (SELECT max(lsn) FROM trucker.position)) FROM pg_replication_slots}),
	'and so is its slot');
$origin->stop;
$origin->backup_fs_cold('late');
$origin->start;

sub with_late_slots
{
	my ($node) = @_;
	my $slots = $node->data_dir . '/pg_replslot';

	File::Path::remove_tree($slots);
	PostgreSQL::Test::RecursiveCopy::copypath($origin->backup_dir . '/late/pg_replslot', $slots);
	return $node;
}

my $late = start_restored(with_late_slots(restored_to('late', 'between')));
is_lost($late, 'busy', q{stands at [0-9A-F/]+, ahead of this server's WAL}, 'slots of a later time', $between);
is_lost($late, 'rests', 'replication slot "trucker_\w+" does not exist any more', 'slots of a later time');
ends($late);

# The same, when the WAL has passed them, as trucker was not there: nothing but the
# timeline tells.
my $passed = start_restored(with_late_slots(restored_to('passed', 'between', "shared_preload_libraries = ''\n")));
my $far = $passed->safe_psql('postgres', 'SELECT max(confirmed_flush_lsn) FROM pg_replication_slots');
$passed->safe_psql('postgres', qq{
DO \$\$
BEGIN
	WHILE pg_current_wal_flush_lsn() <= '$far' LOOP
		PERFORM pg_logical_emit_message(false, 'test', repeat('x', 100000));
		PERFORM pg_switch_wal();
	END LOOP;
END
\$\$});
change($passed);
$passed->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'trucker'");
$passed->restart;
is_lost($passed, 'busy', 'promoted or restored since its position [0-9A-F/]+ was written, and its replication slot "trucker_\w+" stands further',
	'slots of a later time, passed by the WAL', $between);
ends($passed);

# ----
# Standbys
# ----

sub standby
{
	my ($name, $backup) = @_;
	my $node = copy_of_origin($name, $backup, "hot_standby = on\n", has_streaming => 1, has_restoring => 1);

	$node->start;
	return $node;
}

# As pg_basebackup makes them; and one that has the slots, as tools that copy them from
# the primary leave it.
my $plain = standby('plain', 'base');
my $slotted = standby('slotted', 'late');
change($origin);
ok(caught_up($origin, $_), "under standbys: $_") foreach sort keys %input;
$origin->wait_for_catchup($_, 'replay', $origin->lsn('insert')) foreach ($plain, $slotted);
foreach my $node ($plain, $slotted)
{
	is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT state, ' ') FROM trucker.status}), 'stopped', $node->name . ': trucks do not run on a standby');
	like(psql_err($node, q{SELECT trucker.start('busy')}), qr/trucks cannot run on a standby|25006/, $node->name . ': start() says so');
}
$plain->stop;

# A failover with loss: what the old primary committed last has not arrived.
$slotted->stop;
$slotted->adjust_conf('postgresql.conf', $_, "''") foreach qw(primary_conninfo restore_command);
$slotted->start;
change($origin);
ok(caught_up($origin, 'busy'), 'the old primary goes on');
my $before = total($origin, 'busy');
$slotted->promote;
$slotted->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'it is not promoted';
goes_on($slotted, $_, 'promoted with slots', $loaded{$_}) foreach qw(busy rests);
isnt(total($slotted, 'busy'), $before, 'two servers have parted');
ends($slotted);

$plain->start;
$origin->wait_for_catchup($plain, 'replay', $origin->lsn('insert'));
$origin->stop;
$plain->promote;
is_lost($plain, $_, 'replication slot "trucker_\w+" does not exist any more', 'promoted', $_ eq 'busy' ? $before : undef) foreach sort keys %input;

# ----
# Another truck under the same name
# ----

# What is left of the old one, by its uuid, is nothing to the new one.
my $old = $plain->safe_psql('postgres', q{SELECT truck_id, system_id, timeline, lsn FROM trucker.position JOIN trucker.truck ON id = truck_id WHERE name = 'busy'});
my ($uuid, $system, $timeline, $lsn) = split /\|/, $old;
my $definition = q{SELECT trucker.create_truck('busy', '{a}', (SELECT output_sql FROM was), options => (SELECT options FROM was))};
$plain->safe_psql('postgres', q{CREATE TABLE was AS SELECT output_sql, options FROM trucker.truck WHERE name = 'busy'; SELECT trucker.drop_truck('busy')});
is($plain->safe_psql('postgres', "SELECT count(*) FROM trucker.position WHERE truck_id = '$uuid'"), 0, 'a dropped truck leaves no position');
$plain->safe_psql('postgres', "DELETE FROM total_busy; $definition");
$plain->safe_psql('postgres', "INSERT INTO trucker.position VALUES ('$uuid', $system, $timeline, '$lsn')");
is($plain->safe_psql('postgres', q{SELECT position IS NULL FROM trucker.status WHERE truck = 'busy'}), 't', 'a position under the old uuid is not the new truck\'s');
$plain->safe_psql('postgres', q{SELECT trucker.start('busy')});
goes_on($plain, 'busy', 'made anew under the same name');
ends($plain);

done_testing();
