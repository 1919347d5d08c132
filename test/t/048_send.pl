# A stream's walsender sends changes in blocks: trucker.send_in_blocks alters when bytes
# are sent, and neither which nor their order.  Nothing waits for more to come, a reader
# that is slow or stands still loses nothing, and a shutdown waits for no block to fill.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('send');
my $dir = PostgreSQL::Test::Utils::tempdir;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# A reader of a slot, which it leaves at LSN $until; what it reads is in $dir/$slot.
sub reader
{
	my ($slot, $blocks, $until) = @_;
	my @command = ('pg_recvlogical', '-d', $node->connstr('postgres'), '--slot', $slot, '--start', '--no-loop', '--status-interval', '1',
		'-f', "$dir/$slot", '--fsync-interval', '0', '-o', 'format-version=2', '-o', 'include-xids=1', '-o', 'include-lsn=1',
		$until ? ('--endpos', $until) : ());

	local $ENV{PGOPTIONS} = $blocks ? '-c trucker.send_in_blocks=on -c wal_sender_timeout=2147483647' : '';
	return IPC::Run::start(\@command, '2>', "$dir/$slot.err");
}

sub walsender { return sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '$_[0]'"); }
sub wait_for_reader { return $node->poll_query_until('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = '$_[0]'"); }

sub has_line
{
	my ($slot, $text) = @_;

	foreach my $i (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if -e "$dir/$slot" && slurp_file("$dir/$slot") =~ /$text/;
		select undef, undef, undef, 0.1;
	}
	return 0;
}

sql(qq{
CREATE TABLE t (id bigserial PRIMARY KEY, x text);
SELECT pg_create_logical_replication_slot(s, 'wal2json') FROM unnest('{plain,blocks,slow}'::text[]) AS s});

# Small transactions and one that is spilled; aborted parts, messages, values larger than a block
sql(q{
INSERT INTO t (x) SELECT 'many ' || n FROM generate_series(1, 20000) AS n;
DO $$ BEGIN FOR i IN 1..300 LOOP INSERT INTO t (x) VALUES ('single ' || i); COMMIT; END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..50 LOOP
	BEGIN INSERT INTO t (x) VALUES ('part ' || i); IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END;
END LOOP; END $$;
INSERT INTO t (x) SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 5) AS n, generate_series(1, 1000) AS i GROUP BY n;
SELECT pg_logical_emit_message(false, 'm', 'at once'), pg_logical_emit_message(true, 'm', repeat('x', 30000));
UPDATE t SET x = x || '!' WHERE id % 7 = 0;
DELETE FROM t WHERE id % 5 = 0});
sql(q{INSERT INTO t (x) VALUES ('the last one')});
my $until = sql('SELECT pg_current_wal_insert_lsn()');
sql('CHECKPOINT');

reader('plain', 0, $until)->finish;
my $expected = slurp_file("$dir/plain");
cmp_ok(() = $expected =~ /"action":"I"/g, '>', 20000, 'there is something to be read');
like($expected, qr/the last one/, '... to the end');
reader('blocks', 1, $until)->finish;
ok(slurp_file("$dir/blocks") eq $expected, 'in blocks the same is read, in the same order');

# a reader that stands still, as nobody takes what it writes: the walsender waits for it,
# with whatever it has kept back
POSIX::mkfifo("$dir/slow", 0700) or die "mkfifo: $!";
my $slow = reader('slow', 1, $until);
wait_for_reader('slow');
ok($node->poll_query_until('postgres', sprintf(q{SELECT wait_event = 'WalSenderWriteData' FROM pg_stat_activity WHERE pid = %s}, walsender('slow'))),
	'a walsender waits for a reader that stands still');
my $read = slurp_file("$dir/slow");
$slow->finish;
ok($read eq $expected, '... and sends all when that goes on');

# what is less than a block is sent at once, with nothing behind it
unlink "$dir/blocks";
my $reader = reader('blocks', 1, undef);
wait_for_reader('blocks');
foreach my $i (1 .. 3)
{
	sql("INSERT INTO t (x) VALUES ('alone $i')");
	ok(has_line('blocks', "alone $i.*\n.*\"action\":\"C\""), "a row is sent with the end of its transaction ($i)");
}
sql(q{SELECT pg_logical_emit_message(false, 'm', 'alone')});
ok(has_line('blocks', '"action":"M".*"transactional":false.*"content":"alone"'), 'so is a message of no transaction');

# the server waits for its walsenders, and these for what they have sent
sql(q{INSERT INTO t (x) SELECT 'before the end ' || n FROM generate_series(1, 3000) AS n});
$node->stop('fast');
$reader->finish;
like(slurp_file("$dir/blocks"), qr/before the end 3000".*\n.*"action":"C"/, 'a shutdown waits until all is sent');

$node->start;
my ($rc, $out, $err) = $node->psql('postgres', 'SET trucker.send_in_blocks = on');
like($err, qr/ERROR:  parameter "trucker.send_in_blocks" cannot be set after connection start/, 'it is a setting of a connection');
{
	local $ENV{PGOPTIONS} = '-c trucker.send_in_blocks=on';
	is(sql('SELECT count(*) FROM generate_series(1, 10000)'), '10000', '... and means nothing to a session');
}
$node->stop;
done_testing();
