# A destination that is not what it was, and two servers that take themselves for the
# same truck: recognised, and nothing is written twice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $source = trucker_node('source');
my $target = remote_node('target');

connect_remote($source, $target, 'warehouse');
$source->safe_psql('postgres', q{CREATE TABLE entry (id bigserial PRIMARY KEY, v text)});
$target->safe_psql('postgres', 'CREATE TABLE log (id bigint, v text)');
$source->safe_psql('postgres', q{
	INSERT INTO entry (v) VALUES ('first');
	SELECT trucker.create_truck('log', '{entry}', 'INSERT INTO log SELECT id, v FROM r', output_connection => 'warehouse',
		options => '{"reset_sql": "TRUNCATE log"}');
	SELECT trucker.start('log')});
ok(caught_up($source, 'log'), 'the truck runs');

sub lost
{
	my ($node, $why, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_state($node, 'log', 'lost'), $name);
	return like($node->safe_psql('postgres', 'SELECT last_error FROM trucker.status'), qr/cannot go on: .*$why.*HINT: SELECT trucker\.resync/s, 'and it says why');
}

sub resync
{
	my ($node) = @_;

	$node->safe_psql('postgres', q{SELECT trucker.resync('log'); SELECT trucker.start('log')});
	ok(caught_up($node, 'log'), 'resync');
	return same_remote($node, 'TABLE entry', $target, 'TABLE log', 'loads anew');
}

# ----
# A copy of the source that goes its own way
# ----

$source->stop;
my $copy = PostgreSQL::Test::Cluster->new('copy');
system('cp', '-a', $source->data_dir, $copy->basedir . '/') == 0 or die 'cp';
$copy->append_conf('postgresql.conf', 'port = ' . $copy->port);
$source->start;
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('of the source')});
ok(caught_up($source, 'log'), 'the source goes on');
$copy->start;
lost($copy, 'another server has taken over', 'a copy that starts later is not the one');
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('of the source again')});
ok(caught_up($source, 'log'), 'the source has not been disturbed');
same_remote($source, 'TABLE entry', $target, 'TABLE log', 'and nothing of the copy is there');

# The copy is told to take over: now it is the source that finds out.
$copy->safe_psql('postgres', q{SELECT trucker.resync('log'); SELECT trucker.start('log')});
ok(caught_up($copy, 'log'), 'the copy takes over');
same_remote($copy, 'TABLE entry', $target, 'TABLE log', 'by loading anew');
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('too late')});
lost($source, 'another server has taken over', 'the source has lost it');
same_remote($copy, 'TABLE entry', $target, 'TABLE log', 'and has written nothing');
$copy->stop;
resync($source);

# ----
# A destination that goes back
# ----

$target->stop;
my $old = $target->basedir . '/old';
system('cp', '-a', $target->data_dir, $old) == 0 or die 'cp';
$target->start;
$source->safe_psql('postgres', q{INSERT INTO entry (v) SELECT 'more' FROM generate_series(1, 100)});
ok(caught_up($source, 'log'), 'more is written');
$target->stop;
system('rm', '-rf', $target->data_dir) == 0 && system('mv', $old, $target->data_dir) == 0 or die 'mv';
$target->start;
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('after the restore')});
lost($source, 'went back in time', 'a destination that was restored');
is($target->safe_psql('postgres', q{SELECT count(*) FROM log WHERE v = 'after the restore'}), '0', 'nothing was written to it');
resync($source);

# ----
# A destination that is another one
# ----

$target->safe_psql('postgres', 'CREATE DATABASE other OWNER writer');
$target->safe_psql('other', 'CREATE TABLE log (id bigint, v text); GRANT ALL ON log TO writer');
$source->safe_psql('postgres', q{ALTER SERVER warehouse OPTIONS (SET dbname 'other'); INSERT INTO entry (v) VALUES ('elsewhere')});
lost($source, 'knows nothing of it', 'another database');
$source->safe_psql('postgres', q{ALTER SERVER warehouse OPTIONS (SET dbname 'postgres')});
resync($source);

# A position that somebody changes by hand
$target->safe_psql('postgres', q{UPDATE trucker_positions.position SET lsn = '0/1'});
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('not now')});
lost($source, 'went back in time', 'somebody has changed the position');
is($target->safe_psql('postgres', q{SELECT count(*) FROM log WHERE v = 'not now'}), '0', 'nothing was written');
resync($source);

# A source transaction that cannot be applied there is skipped.
$target->safe_psql('postgres', q{ALTER TABLE log ADD CONSTRAINT no_skip CHECK (v <> 'skip me')});
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('before'); INSERT INTO entry (v) VALUES ('skip me'); INSERT INTO entry (v) VALUES ('after')});
ok($source->poll_query_until('postgres', q{SELECT failed_lsn IS NOT NULL AND last_error ~ '^23514' FROM trucker.status WHERE truck = 'log'}), 'a source transaction that fails there');
$source->safe_psql('postgres', q{SELECT trucker.skip('log', (SELECT failed_lsn FROM trucker.status WHERE truck = 'log'))});
ok(caught_up($source, 'log'), 'is skipped');
same_remote($source, q{SELECT * FROM entry WHERE v <> 'skip me'}, $target, 'TABLE log', 'and the others are there, once');
$target->safe_psql('postgres', 'ALTER TABLE log DROP CONSTRAINT no_skip');

# ----
# This very database
# ----

my $role = q{CREATE ROLE loop LOGIN SUPERUSER};
$source->safe_psql('postgres', $role . sprintf(
	q{; CREATE SERVER myself FOREIGN DATA WRAPPER trucker OPTIONS (host '%s', port '%s', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER myself OPTIONS (user 'loop');
	CREATE SERVER sister FOREIGN DATA WRAPPER trucker OPTIONS (host '%s', port '%s', dbname 'sister');
	CREATE USER MAPPING FOR CURRENT_USER SERVER sister OPTIONS (user 'loop');
	CREATE TABLE log (id bigint, v text)}, ($source->host, $source->port) x 2));
my ($rc, $out, $notice) = $source->psql('postgres', q{
	SELECT trucker.create_truck('loop', '{entry}', 'INSERT INTO log SELECT id, v FROM r', output_connection => 'myself');
	SELECT detail FROM trucker.check('loop') WHERE item LIKE '%destination';
	SELECT trucker.start('loop')});
is($rc, 0, 'a way round to this database is no obstacle');
like($out, qr/leads to this very database: start\(\) makes it "local"/, 'check() says what will become of it');
like($notice, qr/NOTICE:.*connection "myself" leads to this very database.*DETAIL:.*rights of role/s, 'start() says that it is local');
is($source->safe_psql('postgres', q{SELECT output_connection FROM trucker.truck WHERE name = 'loop'}), 'local', 'and so it is');
ok(caught_up($source, 'loop'), 'it is loaded');
same($source, 'SELECT id, v FROM entry', 'SELECT id, v FROM log', 'like any local one');
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('round')});
ok(caught_up($source, 'loop'), 'changes flow');
same($source, 'SELECT id, v FROM entry', 'SELECT id, v FROM log', 'too');
$source->safe_psql('postgres', 'CREATE DATABASE sister');
$source->safe_psql('sister', 'CREATE TABLE log (id bigint, v text)');
$source->safe_psql('postgres', q{
	SELECT trucker.create_truck('sister', '{entry}', 'INSERT INTO log SELECT id, v FROM r', output_connection => 'sister');
	SELECT trucker.start('sister')});
ok(caught_up($source, 'sister'), 'another database of the same server');
is($source->safe_psql('sister', 'SELECT count(*) FROM log'), $source->safe_psql('postgres', 'SELECT count(*) FROM entry'), 'is a destination like any other');
$source->safe_psql('postgres', q{ALTER SERVER sister OPTIONS (SET dbname 'postgres'); INSERT INTO entry (v) VALUES ('astray')});
ok($source->poll_query_until('postgres', q{SELECT state = 'retrying' AND last_error ~ '^22023: connection "sister" leads to this very database' FROM trucker.status WHERE truck = 'sister'}),
	'once it is loaded it does not change to here');
ok(caught_up($source, 'loop'), 'the local one goes on');
same($source, 'SELECT id, v FROM entry', 'SELECT id, v FROM log', 'and nobody else has written there');
$source->safe_psql('postgres', q{ALTER SERVER sister OPTIONS (SET dbname 'sister')});
ok(caught_up($source, 'sister'), 'it goes on where it was');
is($source->safe_psql('sister', 'SELECT count(*) FROM log'), $source->safe_psql('postgres', 'SELECT count(*) FROM entry'), 'with all that is there');

# What is refused: writes here, more tables
like(psql_err($source, q{
	BEGIN;
	CREATE TABLE side (id bigint);
	SELECT trucker.create_truck('writes', '{entry}', 'INSERT INTO log SELECT id, v FROM r', output_connection => 'warehouse',
		input_sql => 'WITH s AS (INSERT INTO side SELECT id FROM r) SELECT id, v FROM r');
	SELECT trucker.start('writes')}), qr/0A000: +input_sql of truck "writes" writes table public\.side/, 'input_sql that writes is refused');
$source->safe_psql('postgres', q{
	CREATE TABLE side (id bigint);
	CREATE FUNCTION sly(id bigint) RETURNS bigint LANGUAGE sql AS 'INSERT INTO side VALUES (id) RETURNING id';
	SELECT trucker.create_truck('sly', '{entry}', 'INSERT INTO log SELECT id, v FROM r', output_connection => 'warehouse',
		input_sql => 'SELECT sly(id) AS id, v FROM r', options => '{"backfill": false}');
	SELECT trucker.start('sly')});
caught_up($source, 'sly');
$source->safe_psql('postgres', q{INSERT INTO entry (v) VALUES ('sly')});
ok(wait_state($source, 'sly', 'retrying'), 'and stopped where it hides in a function');
ok($source->poll_query_until('postgres', q{SELECT last_error ~ '^25006: cannot execute INSERT in a read-only transaction' FROM trucker.status WHERE truck = 'sly'}), 'with an error');
is($source->safe_psql('postgres', 'SELECT count(*) FROM side'), '0', 'nothing is written');
$source->safe_psql('postgres', q{SELECT trucker.drop_truck('sly')});
like(psql_err($source, q{CREATE TABLE more (id int PRIMARY KEY); SELECT trucker.alter_truck('log', '{entry, more}')}),
	qr/0A000: +cannot add input tables to truck "log", which writes to connection "warehouse"/, 'tables cannot be added');

done_testing();
