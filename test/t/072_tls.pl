# TLS: a connection is as safe as its options say, and never less; and where the administrator
# asks for encryption (trucker.require_ssl) there is none without.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

if (system('openssl version >/dev/null 2>&1') != 0)
{
	plan skip_all => 'openssl is not installed';
}

my $dir = PostgreSQL::Test::Utils::tempdir;

sub openssl
{
	my (@args) = @_;

	run_log([ 'openssl', @args ]) or die "openssl @args";
	return;
}

# A certificate authority, and what it signs.
sub make_ca
{
	my ($name) = @_;

	openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt",
		'-days', '30', '-subj', "/CN=$name");
	append_to_file("$dir/$name.index", '');
	append_to_file("$dir/$name.cnf", "[ca]\ndefault_ca=d\n[d]\ndatabase=$dir/$name.index\ndefault_md=sha256\ndefault_crl_days=30\ncertificate=$dir/$name.crt\nprivate_key=$dir/$name.key\n");
	return;
}

sub make_cert
{
	my ($ca, $name, $cn, %opts) = @_;

	openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr", '-subj', "/CN=$cn");
	append_to_file("$dir/$name.ext", $opts{san} ? "subjectAltName=$opts{san}\n" : "basicConstraints=CA:FALSE\n");
	openssl('x509', '-req', '-in', "$dir/$name.csr", '-CA', "$dir/$ca.crt", '-CAkey', "$dir/$ca.key", '-CAcreateserial',
		'-out', "$dir/$name.crt", '-days', $opts{days} // 30, '-extfile', "$dir/$name.ext");
	chmod 0600, "$dir/$name.key";
	return;
}

make_ca('ca');
make_ca('other_ca');
make_cert('ca', 'server', 'localhost', san => 'DNS:localhost');
make_cert('ca', 'elsewhere', 'elsewhere.example.com', san => 'DNS:elsewhere.example.com');
make_cert('ca', 'expired', 'localhost', san => 'DNS:localhost', days => -1);
make_cert('ca', 'client', 'writer');
make_cert('other_ca', 'stranger', 'writer');
openssl('ca', '-config', "$dir/ca.cnf", '-gencrl', '-out', "$dir/empty.crl");
openssl('ca', '-config', "$dir/ca.cnf", '-revoke', "$dir/server.crt");
openssl('ca', '-config', "$dir/ca.cnf", '-gencrl', '-out', "$dir/revoked.crl");

my $target = remote_node("target", conf => "listen_addresses = 'localhost'\nssl = on\nssl_cert_file = '$dir/server.crt'\nssl_key_file = '$dir/server.key'\nssl_ca_file = '$dir/ca.crt'\n",
	hba => "hostssl plain all all reject\nhostnossl plain all all scram-sha-256\nhostssl cert_db all all cert\nhostssl all all all scram-sha-256\nhostnossl all all all reject\n");
$target->safe_psql('postgres', 'CREATE TABLE copy (id int PRIMARY KEY); GRANT ALL ON copy TO writer');
foreach my $db ('plain', 'cert_db')
{
	$target->safe_psql('postgres', "CREATE DATABASE $db OWNER writer");
	$target->safe_psql($db, 'CREATE TABLE copy (id int PRIMARY KEY); GRANT ALL ON copy TO writer; GRANT ALL ON SCHEMA public TO writer');
}

my $source = trucker_node('source');
my $port = $target->port;

$source->safe_psql('postgres', qq{
	CREATE TABLE item (id int PRIMARY KEY);
	CREATE SERVER warehouse FOREIGN DATA WRAPPER trucker OPTIONS (host 'localhost', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER warehouse OPTIONS (user 'writer', password 'secret of the writer')});

# What start() says with these options of the server (and the mapping).
sub starts
{
	my ($options, $mapping, $db) = @_;
	my @list = map { /^(\S+) (.*)$/ ? "$1 '$2'" : () } @$options;

	push @list, "host 'localhost'" unless grep { /^host / } @list;
	push @list, "port '$port'", q{dbname '} . ($db // 'postgres') . q{'};
	my $error = psql_err($source, q{
		BEGIN;
		DROP SERVER warehouse CASCADE;
		CREATE SERVER warehouse FOREIGN DATA WRAPPER trucker OPTIONS (} . join(', ', @list) . q{);
		CREATE USER MAPPING FOR CURRENT_USER SERVER warehouse OPTIONS (user 'writer'} . ($mapping // q{, password 'secret of the writer'}) . q{);
		SELECT trucker.create_truck('t', '{item}', 'INSERT INTO copy SELECT id FROM r', output_connection => 'warehouse');
		SELECT trucker.start('t');
		ROLLBACK});
	my ($primary) = $error =~ /^psql:.*ERROR: +(.*(?:\n(?:DETAIL|\t).*)*)/m;
	return $primary // '';
}

# A server that accepts nothing but TLS (hostssl).
foreach my $mode ('allow', 'prefer', 'require')
{
	is(starts([ "sslmode $mode" ]), '', "hostssl only, sslmode $mode");
}
is(starts([]), '', 'hostssl only, no sslmode');
like(starts([ 'sslmode disable' ]), qr/08001.*(no encryption|rejects)/s, 'hostssl only, sslmode disable');
is(starts([ 'sslmode verify-ca', "sslrootcert $dir/ca.crt" ]), '', 'verify-ca');
is(starts([ 'sslmode verify-full', "sslrootcert $dir/ca.crt" ]), '', 'verify-full');
like(starts([ 'sslmode verify-ca', "sslrootcert $dir/other_ca.crt" ]), qr/08001.*certificate verify failed/s, 'a wrong authority');
like(starts([ 'sslmode require', "sslrootcert $dir/other_ca.crt" ]), qr/08001.*certificate verify failed/s, 'require with a root certificate verifies it');
like(starts([ 'sslmode verify-full', "sslrootcert $dir/nothing" ]), qr/08001.*does not exist/s, 'a root certificate that is not there');
like(starts([ 'sslmode verify-full', "sslrootcert $dir/ca.crt", 'host 127.0.0.1' ]), qr/08001.*(certificate|does not match)/s, 'a host that the certificate does not name');
is(starts([ 'sslmode verify-ca', "sslrootcert $dir/ca.crt", 'host 127.0.0.1' ]), '', 'verify-ca does not look at the name');
is(starts([ 'sslmode verify-full', "sslrootcert $dir/ca.crt", "sslcrl $dir/empty.crl" ]), '', 'a revocation list');
like(starts([ 'sslmode verify-full', "sslrootcert $dir/ca.crt", "sslcrl $dir/revoked.crl" ]), qr/08001.*certificate verify failed/s, 'a certificate that was revoked');
like(starts([ 'sslmode verify-full', "sslrootcert $dir/ca.crt", "sslcrl $dir/nothing" ]), qr/F0000.*could not read "sslcrl"/s, 'a revocation list that is not there is not passed over');

# A client certificate, without any password.
is(starts([ 'sslmode require' ], ", sslcert '$dir/client.crt', sslkey '$dir/client.key'", 'cert_db'), '', 'a client certificate');
like(starts([ 'sslmode require' ], ", sslcert '$dir/stranger.crt', sslkey '$dir/stranger.key'", 'cert_db'), qr/08001/, 'that another authority has signed');
like(starts([ 'sslmode require' ], undef, 'cert_db'), qr/08001.*certificate/s, 'none');

# trucker.require_ssl
is(starts([], undef, 'plain'), '', 'a server that does not encrypt');
$source->safe_psql('postgres', 'ALTER SYSTEM SET trucker.require_ssl = on');
$source->reload;
$source->poll_query_until('postgres', 'SHOW trucker.require_ssl', 'on');
like(starts([], undef, 'plain'), qr/08001/, 'require_ssl: is refused');
like(starts([ 'sslmode prefer' ], undef, 'plain'), qr/08001/, 'require_ssl: also with sslmode prefer');
like(starts([ 'sslmode disable' ], undef, 'plain'), qr/08004.*is not encrypted.*sslmode/s, 'require_ssl: sslmode disable');
like(starts([ 'host ' . $target->host ]), qr/08004.*is not encrypted/s, 'require_ssl: a socket');
is(starts([]), '', 'require_ssl: a server that does');

# The truck that runs over it.
$source->safe_psql('postgres', qq{
	ALTER SERVER warehouse OPTIONS (ADD sslmode 'verify-full', ADD sslrootcert '$dir/ca.crt');
	SELECT trucker.create_truck('t', '{item}', 'INSERT INTO copy SELECT id FROM r', output_connection => 'warehouse');
	INSERT INTO item SELECT generate_series(1, 50000)});
$source->safe_psql('postgres', q{SELECT trucker.start('t')});
$source->safe_psql('postgres', 'INSERT INTO item SELECT generate_series(-50000, 0)');
ok(caught_up($source, 't'), 'a truck over TLS');
same_remote($source, 'TABLE item', $target, 'TABLE copy', 'has written all');
is($target->safe_psql('postgres', q{SELECT bool_and(s.ssl) FROM pg_stat_ssl AS s JOIN pg_stat_activity USING (pid) WHERE application_name = 'trucker t'}), 't', 'encrypted');

my $session = q{SELECT pid FROM pg_stat_activity WHERE application_name = 'trucker t'};
# the backfill's may not have noticed yet that nobody is there any more
$source->poll_query_until('postgres', q{SELECT state = 'streaming' AND stream = 'main' FROM trucker.status WHERE truck = 't'})
  && $target->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($session) AS s") or die 'there is not one session';
my $pid = $target->safe_psql('postgres', $session);
foreach (1 .. 3)
{
	$source->safe_psql('postgres', 'INSERT INTO item SELECT max(id) + 1 FROM item');
	caught_up($source, 't');
}
is($target->safe_psql('postgres', $session), $pid, 'one session serves many batches');

# The server's certificate is changed under it.
foreach my $case ([ 'elsewhere', 'does not match host name' ], [ 'expired', 'certificate verify failed' ], [ 'server', undef ])
{
	my ($certificate, $error) = @$case;

	$target->append_conf('postgresql.conf', "ssl_cert_file = '$dir/$certificate.crt'\nssl_key_file = '$dir/$certificate.key'");
	$target->reload;
	$target->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trucker t'});
	$source->safe_psql('postgres', 'INSERT INTO item SELECT max(id) + 1 FROM item');
	if ($error)
	{
		ok(wait_state($source, 't', 'retrying'), "certificate: $certificate");
		# the first errors may still be those of the old certificate's end
		ok($source->poll_query_until('postgres', "SELECT last_error ~ '^08001: could not connect.*$error' FROM trucker.status"), 'the error says why')
		  or diag $source->safe_psql('postgres', 'SELECT last_error FROM trucker.status');
	}
	else
	{
		ok(caught_up($source, 't'), 'the right one is back');
		same_remote($source, 'TABLE item', $target, 'TABLE copy', 'and all is written');
	}
}

done_testing();
