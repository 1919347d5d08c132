# TruckerRemote.pm: a second server, for trucks that write to it.
#
#   remote_node($name, %opts)   a server without trucker, started; it asks all that
#                               connect by TCP for a password (scram-sha-256)
#   connect_remote($source, $target, $connection, %opts)
#                               make foreign server and user mapping
#   proxy($target)              a proxy in front of a server; see below
#   same_remote($source, $query, $target, $query, $test_name)
#                               a test that both return the same rows
package TruckerRemote;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  connect_remote
  proxy
  remote_node
  same_remote
);

# Options: conf => lines for postgresql.conf; hba => lines that come first in
# pg_hba.conf; init => more options of initdb; user, password => of a role that owns database postgres.
sub remote_node
{
	my ($name, %opts) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $user = $opts{user} // 'writer';
	my $password = $opts{password} // 'secret of the writer';

	$node->init(extra => [ '--no-locale', '--encoding=UTF8', @{ $opts{init} // [] } ]);
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

# ----
# A proxy that does what networks do
# ----

# proxy($target): an object with
#   ->{port}         where it listens
#   ->mode($mode)    pass    forward all that comes
#                    before  cut the connection instead of forwarding a COMMIT
#                    in      forward a COMMIT, and cut the connection
#                    after   let the server answer a COMMIT, and cut the connection
#                            instead of forwarding the answer
#                    hang    forward nothing, keep connections open
#                    refuse  end connections, and let nobody in
#                    slow    forward one byte after the other
#   ->cuts           how many connections it has cut in the modes before, in and after;
#                    each time it goes back to pass
#   ->stop
# Only transactions that write data are cut, not those in which positions are taken over.
sub proxy
{
	my ($target) = @_;
	my $self = bless {
		file => $target->basedir . '/proxy', target => $target->port }, 'TruckerRemote::Proxy';
	my $listener = IO::Socket::INET->new(Listen => 50, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "proxy: $!";

	$self->{port} = $listener->sockport;
	$self->mode('pass');
	append_to_file("$self->{file}.cuts", '');
	$self->{pid} = fork // die "fork: $!";
	if ($self->{pid} == 0)
	{
		# whoever reads what the test prints must not wait for us
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		eval { $self->_serve($listener, getppid); };
		POSIX::_exit(1);
	}
	close $listener;
	return $self;
}

package TruckerRemote::Proxy;

use strict;
use warnings;

use Time::HiRes ();

sub mode
{
	my ($self, $mode) = @_;

	open my $out, '>', "$self->{file}.new" or die "$self->{file}: $!";
	print $out $mode;
	close $out or die $!;
	rename "$self->{file}.new", "$self->{file}.mode" or die $!;
	return;
}

sub _mode
{
	my ($self) = @_;

	return PostgreSQL::Test::Utils::slurp_file("$self->{file}.mode");
}

sub cuts
{
	my ($self) = @_;

	return -s "$self->{file}.cuts";
}

sub stop
{
	my ($self) = @_;

	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

# The other side of each socket is kept by its file number.
sub _serve
{
	my ($self, $listener, $parent) = @_;
	my $select = IO::Select->new($listener);
	my (%other, %is_client, %held);

	local $SIG{PIPE} = 'IGNORE';
	my $close = sub {
		foreach my $socket (@_)
		{
			my $peer = delete $other{ fileno $socket } // next;
			delete $other{ fileno $peer };
			delete $held{ fileno $_ } foreach $socket, $peer;
			$select->remove($socket, $peer);
			close $_ foreach $socket, $peer;
		}
	};
	while (getppid == $parent)
	{
		my @ready = $select->can_read(0.02);
		my $mode = $self->_mode;

		if ($mode eq 'refuse')
		{
			$close->($_) foreach grep { defined fileno $_ && $other{ fileno $_ } } $select->handles;
		}
		# somebody who is hung up on must hear of it when the mode has changed
		if ($mode eq 'hang')
		{
			Time::HiRes::sleep(0.02);
			next;
		}
		foreach my $socket (@ready)
		{
			if ($socket == $listener)
			{
				my $client = $listener->accept or next;
				my $server = $mode eq 'refuse' ? undef
				  : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{target});
				if (!$server)
				{
					close $client;
					next;
				}
				$select->add($client, $server);
				$other{ fileno $client } = $server;
				$other{ fileno $server } = $client;
				$is_client{ fileno $client } = 1;
				$is_client{ fileno $server } = 0;
				next;
			}
			next unless defined fileno $socket && $other{ fileno $socket };
			my $peer = $other{ fileno $socket };
			my $data;
			if (!sysread $socket, $data, 65536)
			{
				$close->($socket);
				next;
			}
			my $commits = $is_client{ fileno $socket }
			  ? $data =~ /P....\0COMMIT\0/s && $data !~ /\AQ/
			  : $data =~ /COMMIT\0[SZ]/s && $held{ fileno $peer };
			my $cut = $commits
			  && (($is_client{ fileno $socket } && $mode =~ /^(before|in)$/) || (!$is_client{ fileno $socket } && $mode eq 'after'));
			$held{ fileno $socket } = 1 if $commits && $is_client{ fileno $socket };
			if (!$cut || $mode eq 'in')
			{
				my @pieces = $mode eq 'slow' ? split(//, $data) : ($data);
				foreach my $piece (@pieces)
				{
					my $at = 0;
					while ($at < length $piece)
					{
						my $n = syswrite $peer, $piece, length($piece) - $at, $at;
						last unless $n;
						$at += $n;
					}
				}
			}
			next unless $cut;
			# also for what else has come: the test may choose another mode from now on
			$mode = 'pass';
			$self->mode($mode);
			PostgreSQL::Test::Utils::append_to_file("$self->{file}.cuts", 'x');
			$close->($socket);
		}
	}
	return;
}

1;
