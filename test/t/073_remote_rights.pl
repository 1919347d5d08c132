# Nobody gets by a connection what he may not have otherwise: not the rights of the
# server's operating system user, not a file that only that user may read, not another
# role's password.  And what is secret stays so: it is in no log, error or view.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

# The postmaster's own environment, which no connection may be completed from.
my $home = PostgreSQL::Test::Utils::tempdir;
append_to_file("$home/passfile", "*:*:*:*:password of the passfile\n");
chmod 0600, "$home/passfile" or die $!;

my $target = remote_node('target', hba => "host all trusted 127.0.0.1/32 trust\n");
my $source;
{
	local $ENV{PGPASSWORD} = 'password of the environment';
	local $ENV{PGPASSFILE} = "$home/passfile";
	local $ENV{PGOPTIONS}  = '-c application_name=from_the_environment';
	local $ENV{PGAPPNAME};
	delete $ENV{PGAPPNAME};
	$source = trucker_node('source', conf => "log_min_messages = debug1\n");
}

$target->safe_psql('postgres', q{
	CREATE ROLE trusted LOGIN;
	CREATE ROLE by_file LOGIN PASSWORD 'password of the passfile';
	CREATE ROLE by_environment LOGIN PASSWORD 'password of the environment';
	CREATE ROLE writer_too LOGIN PASSWORD 'another secret';
	GRANT CREATE ON DATABASE postgres TO trusted, by_file, by_environment, writer_too;
	CREATE TABLE copy (id int PRIMARY KEY);
	GRANT ALL ON copy TO PUBLIC});
my ($host, $port) = ('127.0.0.1', $target->port);
$source->safe_psql('postgres', qq{
	CREATE ROLE alice LOGIN;
	CREATE TABLE item (id int PRIMARY KEY);
	GRANT SELECT ON item TO alice;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trucker TO alice;
	GRANT USAGE ON FOREIGN DATA WRAPPER trucker TO alice;
	CREATE SERVER warehouse FOREIGN DATA WRAPPER trucker OPTIONS (host '$host', port '$port', dbname 'postgres');
	GRANT USAGE ON FOREIGN SERVER warehouse TO alice});

# What alice, who is no superuser, is told when she starts a truck over the connection.
sub alice_starts
{
	my ($connection) = @_;
	my $error = psql_err($source, qq{
		SET ROLE alice;
		BEGIN;
		SELECT trucker.create_truck('t', '{item}', 'INSERT INTO copy SELECT id FROM r', output_connection => '$connection');
		SELECT trucker.start('t');
		ROLLBACK});

	return $error;
}

sub alice_maps
{
	my ($options, $connection) = @_;

	$connection //= 'warehouse';
	$source->safe_psql('postgres', "SET ROLE alice; DROP USER MAPPING IF EXISTS FOR alice SERVER $connection; CREATE USER MAPPING FOR alice SERVER $connection OPTIONS ($options)");
	return;
}

# ----
# Guards
# ----

like(alice_starts('warehouse'), qr/42704: *role "alice" has no user mapping/, 'no user mapping, no connection');
alice_maps(q{user 'trusted'});
like(alice_starts('warehouse'), qr/2F003: *password is required/, 'a mapping without a password');
alice_maps(q{user 'trusted', password 'whatever'});
like(alice_starts('warehouse'), qr/2F003: *password is required.*has not asked for the password/s, 'a server that does not ask for it');
alice_maps(q{user 'by_environment'});
like(alice_starts('warehouse'), qr/2F003/, q{the postmaster's PGPASSWORD is not hers});
alice_maps(q{user 'by_file', password 'wrong'});
like(alice_starts('warehouse'), qr/08001: .*could not connect.*password authentication failed for user \(user\)/s, 'a wrong password: libpq says so');
alice_maps(q{user 'writer', password 'secret of the writer'});
is(alice_starts('warehouse'), '', 'with user and password she gets in');

# The same for a superuser, who may do without: but not by way of the environment.
$source->safe_psql('postgres', q{CREATE USER MAPPING FOR postgres SERVER warehouse OPTIONS (user 'by_environment')});
my $superuser_starts = q{
	BEGIN;
	SELECT trucker.create_truck('t', '{item}', 'INSERT INTO copy SELECT id FROM r', output_connection => 'warehouse');
	SELECT trucker.start('t');
	ROLLBACK};
like(psql_err($source, $superuser_starts), qr/08001: .*no password supplied/s, 'PGPASSWORD does not reach a connection');
$source->safe_psql('postgres', q{ALTER USER MAPPING FOR postgres SERVER warehouse OPTIONS (SET user 'by_file')});
like(psql_err($source, $superuser_starts), qr/08001: .*no password supplied/s, 'nor does PGPASSFILE');
$source->safe_psql('postgres', qq{ALTER USER MAPPING FOR postgres SERVER warehouse OPTIONS (ADD passfile '$home/passfile')});
is(psql_err($source, $superuser_starts) =~ s/^.*WARNING.*$|^HINT.*$|^LOCATION.*$|\n//mgr, '', 'a passfile that a superuser names does');
append_to_file("$home/password", "password of the passfile\n");
$source->safe_psql('postgres', qq{ALTER USER MAPPING FOR postgres SERVER warehouse OPTIONS (DROP passfile, ADD password_file '$home/password')});
is(psql_err($source, $superuser_starts) =~ s/^.*WARNING.*$|^HINT.*$|^LOCATION.*$|\n//mgr, '', 'a password_file, too, without the end of its line');
$source->safe_psql('postgres', qq{ALTER USER MAPPING FOR postgres SERVER warehouse OPTIONS (SET password_file '$home/nothing')});
my $no_file = psql_err($source, $superuser_starts);
like($no_file, qr/F0000: *could not read the password of connection "warehouse"/, 'a password_file that is not there');
POSIX::mkfifo("$home/pipe", 0600) or die "mkfifo: $!";
$source->safe_psql('postgres', qq{ALTER USER MAPPING FOR postgres SERVER warehouse OPTIONS (SET password_file '$home/pipe')});
like(psql_err($source, $superuser_starts), qr/F0000: *could not read the password of connection "warehouse".*a regular file/s, 'nobody waits for who might write into a pipe');
unlike($no_file, qr/\Q$home\E/, 'is not named');
$source->safe_psql('postgres', 'DROP USER MAPPING FOR postgres SERVER warehouse');

# This server itself, by its socket: peer or trust would let in the server's own user.
my $socket = $source->host;
$source->safe_psql('postgres', "SET ROLE alice; CREATE SERVER trick FOREIGN DATA WRAPPER trucker OPTIONS (host '$socket', port '@{[ $source->port ]}', dbname 'postgres')");
alice_maps(q{user 'postgres', password 'x'}, 'trick');
like(alice_starts('trick'), qr/2F003: *password is required/, 'the socket of this server lets nobody in who has no password of his own');

# A server of postgres_fdw is accepted, and its weaker validator does not matter.
$source->safe_psql('postgres', qq{
	CREATE EXTENSION postgres_fdw;
	GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO alice;
	SET ROLE alice;
	CREATE SERVER fdw FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres', fetch_size '10');
	CREATE SERVER fdw_file FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres', passfile '$home/passfile')});
alice_maps(q{user 'writer', password 'secret of the writer'}, 'fdw');
is(alice_starts('fdw'), '', 'a server of postgres_fdw');
alice_maps(q{user 'by_file', password 'x'}, 'fdw_file');
like(alice_starts('fdw_file'), qr/42501: *option "passfile" of connection "fdw_file" is superuser-only/, 'its passfile is not a way to a file');

# Rights that end while a truck runs.
$source->safe_psql('postgres', q{
	SET ROLE alice;
	SELECT trucker.create_truck('mine', '{item}', 'INSERT INTO copy SELECT id FROM r', output_connection => 'warehouse');
	SELECT trucker.start('mine')});
ok(caught_up($source, 'mine'), 'her truck runs');
$source->safe_psql('postgres', 'INSERT INTO item VALUES (1)');
ok(caught_up($source, 'mine'), 'and writes');
$source->safe_psql('postgres', 'REVOKE USAGE ON FOREIGN SERVER warehouse FROM alice; INSERT INTO item VALUES (2)');
ok(wait_state($source, 'mine', 'retrying'), 'USAGE is revoked: it stops writing');
ok($source->poll_query_until('postgres', q{SELECT last_error ~ '^42501: role "alice" may not use connection "warehouse"' FROM trucker.status WHERE truck = 'mine'}), 'and says why');
is($target->safe_psql('postgres', 'SELECT count(*) FROM copy'), '1', 'nothing more has been written');
$source->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER warehouse TO alice');
ok(caught_up($source, 'mine'), 'and goes on when it is granted');

# Another password, another user: heard of while it runs.
$target->safe_psql('postgres', q{ALTER ROLE writer PASSWORD 'new secret of the writer'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'});
$source->safe_psql('postgres', 'INSERT INTO item VALUES (3)');
ok(wait_state($source, 'mine', 'retrying'), 'the password has changed');
$source->safe_psql('postgres', q{SET ROLE alice; ALTER USER MAPPING FOR alice SERVER warehouse OPTIONS (SET password 'new secret of the writer')});
ok(caught_up($source, 'mine'), 'the mapping follows');
$target->safe_psql('postgres', q{GRANT writer TO writer_too});
$source->safe_psql('postgres', q{SET ROLE alice; ALTER USER MAPPING FOR alice SERVER warehouse OPTIONS (SET user 'writer_too', SET password 'another secret')});
$source->safe_psql('postgres', 'INSERT INTO item VALUES (4)');
ok(caught_up($source, 'mine'), 'another user');
# the session of before may not have noticed yet that nobody is there any more
ok($target->poll_query_until('postgres', q{SELECT string_agg(DISTINCT usename, ' ') = 'writer_too' FROM pg_stat_activity WHERE application_name = 'trucker mine'}), 'is the one who writes now');
is($target->safe_psql('postgres', 'SELECT count(*) FROM copy'), '4', 'everything has been written');

# A position table that somebody else has put there could have triggers.
$target->safe_psql('postgres', q{CREATE ROLE mallory; CREATE SCHEMA trap AUTHORIZATION mallory; SET ROLE mallory;
	CREATE TABLE trap.position (system_id bigint, database_oid bigint, truck_id uuid, truck text, timeline int, lsn pg_lsn, token uuid, written_at timestamptz);
	GRANT ALL ON SCHEMA trap TO PUBLIC; GRANT ALL ON trap.position TO PUBLIC});
$source->safe_psql('postgres', qq{CREATE SERVER trapped FOREIGN DATA WRAPPER trucker OPTIONS (host '$host', port '$port', dbname 'postgres', position_schema 'trap'); GRANT USAGE ON FOREIGN SERVER trapped TO alice});
alice_maps(q{user 'writer', password 'new secret of the writer'}, 'trapped');
like(alice_starts('trapped'), qr/42501: *the other server's trap\.position cannot hold the positions/, q{a position table that is another role's is not used});

# Who may not create one there is told what to have created.
$target->safe_psql('postgres', q{CREATE ROLE poor LOGIN PASSWORD 'poor'});
$source->safe_psql('postgres', qq{CREATE SERVER bare FOREIGN DATA WRAPPER trucker OPTIONS (host '$host', port '$port', dbname 'postgres', position_schema 'other place'); GRANT USAGE ON FOREIGN SERVER bare TO alice});
alice_maps(q{user 'poor', password 'poor'}, 'bare');
my $ddl = alice_starts('bare');
like($ddl, qr/42501: *the connection's user may not create table "other place"\.position/, 'no right to create the table of positions');
my ($create) = $ddl =~ /on the table: (CREATE SCHEMA .*;)$/m;
$target->safe_psql('postgres', "$create GRANT USAGE ON SCHEMA \"other place\" TO poor; GRANT SELECT, INSERT, UPDATE ON \"other place\".position TO poor");
is(alice_starts('bare'), '', 'what the hint says helps');

# ----
# Passwords of all kinds
# ----

my $number = 0;
foreach my $password ('%41&x=1', 'a?b@c:d/e', q{back\\slash'quote"double}, ' space at both ends ', 'пароль ü 密码', q{'}, '$$', "tab\there", 'x' x 300)
{
	my $name = 'user_' . ++$number;
	my $literal = "E'" . ($password =~ s/\\/\\\\/gr =~ s/'/''/gr) . "'";

	$target->safe_psql('postgres', "CREATE ROLE $name LOGIN PASSWORD $literal; GRANT CREATE ON DATABASE postgres TO $name; GRANT writer TO $name");
	alice_maps("user '$name', password $literal");
	is(alice_starts('warehouse'), '', "password: $password") or last;
}

# ----
# Secrets
# ----

$source->safe_psql('postgres', 'INSERT INTO item VALUES (5)');
$target->stop;
wait_state($source, 'mine', 'retrying');
$source->poll_query_until('postgres', q{SELECT last_error ~ '^08' FROM trucker.status WHERE truck = 'mine'});
my $shown = $source->safe_psql('postgres', q{
	SELECT * FROM trucker.status; SELECT * FROM pg_stat_activity WHERE backend_type LIKE 'trucker%';
	SELECT * FROM trucker.truck_state});
my $log = slurp_file($source->logfile);
# what sessions were told to log themselves is no message of ours
$log =~ s/^.*STATEMENT: .*(\n\t.*)*//mg;
foreach my $secret ('secret of the writer', 'another secret', 'password of the', '%41&x=1', 'writer_too', "port=$port", "port $port", '"127.0.0.1"')
{
	unlike($log, qr/\Q$secret\E/, "not in the log: $secret");
	unlike($shown, qr/\Q$secret\E/, "nor in a view: $secret");
}
like($shown, qr/could not connect to connection "warehouse"/, 'but the error is');

done_testing();
