# TruckerRemote.pm: a second server, for trucks that write to it.
#
#   remote_node($name, %opts)   a server without trucker, started; it asks all that
#                               connect by TCP for a password (scram-sha-256)
#   connect_remote($source, $target, $connection, %opts)
#                               make foreign server and user mapping
#   same_remote($source, $query, $target, $query, $test_name)
#                               a test that both return the same rows
package TruckerRemote;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  connect_remote
  remote_node
  same_remote
);

# Options: conf => lines for postgresql.conf; hba => lines that come first in
# pg_hba.conf; user, password => of a role that owns database postgres.
sub remote_node
{
	my ($name, %opts) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $user = $opts{user} // 'writer';
	my $password = $opts{password} // 'secret of the writer';

	$node->init(extra => [ '--no-locale', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nrestart_after_crash = on\nlog_statement = none\n" . ($opts{conf} // ''));
	my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
	unlink $node->data_dir . '/pg_hba.conf';
	append_to_file($node->data_dir . '/pg_hba.conf',
		($opts{hba} // '') . "host all all 127.0.0.1/32 scram-sha-256\n" . $hba);
	$node->start;
	$node->safe_psql('postgres', 'CREATE ROLE ' . _identifier($user) . ' LOGIN PASSWORD ' . _literal($password) . ';'
		  . 'ALTER DATABASE postgres OWNER TO ' . _identifier($user) . '; GRANT ALL ON SCHEMA public TO ' . _identifier($user)
		  . '; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO ' . _identifier($user));
	return $node;
}

sub _identifier
{
	my ($name) = @_;
	return '"' . ($name =~ s/"/""/gr) . '"';
}

sub _literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "E'" . ($text =~ s/\\/\\\\/gr) . "'";
}

# Options: port (of a proxy), user, password, role => whose mapping, server => more
# options of the server, db => of the source.
sub connect_remote
{
	my ($source, $target, $connection, %opts) = @_;
	my $port = $opts{port} // $target->port;
	my $role = $opts{role} // 'CURRENT_USER';

	$source->safe_psql($opts{db} // 'postgres',
		'CREATE SERVER ' . _identifier($connection) . " FOREIGN DATA WRAPPER trucker OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres'"
		  . ($opts{server} ? ", $opts{server}" : '') . ');'
		  . "CREATE USER MAPPING FOR $role SERVER " . _identifier($connection)
		  . ' OPTIONS (user ' . _literal($opts{user} // 'writer') . ', password ' . _literal($opts{password} // 'secret of the writer') . ')');
	return;
}

# The rows of both, each as text, sorted.
sub same_remote
{
	my ($source, $query_a, $target, $query_b, $name) = @_;
	my @rows;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $side ([ $source, $query_a ], [ $target, $query_b ])
	{
		push @rows, [ split /\n/, $side->[0]->safe_psql('postgres',
			qq{SET timezone = 'UTC'; SELECT regexp_replace(row_to_json(same_row)::text, '\\n', ' ', 'g') FROM ($side->[1]) AS same_row}) ];
	}
	# columns may be called otherwise
	foreach my $side (@rows)
	{
		s/([{,])"\w+":/$1/g foreach @$side;
	}
	my %count;
	$count{$_}++ foreach @{ $rows[0] };
	$count{$_}-- foreach @{ $rows[1] };
	my @differ = grep { $count{$_} != 0 } sort keys %count;
	my $good = ok(!@differ && @{ $rows[0] } > 0, $name);
	note scalar(@{ $rows[0] }) . ' rows on both sides' if $good;
	diag 'source has ' . @{ $rows[0] } . ', target ' . @{ $rows[1] } . ' rows, ' . @differ . ' differ' if !$good;
	diag(($count{$_} > 0 ? 'source: ' : 'target: ') . $_) foreach grep { defined } @differ[ 0 .. 5 ];
	return $good;
}

1;
