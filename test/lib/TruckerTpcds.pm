# TruckerTpcds.pm: a schema as in TPC-DS, trucks that keep the answers to questions about it,
# and a load that does to it whatever applications do.  test/tpcds/ has the SQL, and a README.
# Used by 150_tpcds.pl and by the soak test.
#
#   tpcds_setup($node, $remote, %opts)  tables, rows, trucks (not started); scale => 1
#   tpcds_load($node, $rate)            start the load: so many transactions a second, and DDL; an object
#                                       with ->stop, which is false if there was an error, and ->errors
#   tpcds_sells($node, $n)              wait until so many tickets more have been sold
#   tpcds_same($node, $remote, $what)   wait for the trucks, and compare each answer with its question;
#                                       tests named after $what
#   tpcds_disaster($node, $remote, $kind, $truck)
#                                       see @tpcds_disasters; back when the server answers again
#   tpcds_operator($node)               something that an operator does while trucks run; says what
#   tpcds_ends_sessions($kind)          does it end the sessions of $node?
#
# $node needs max_prepared_transactions and a superuser's connection to $remote, of TruckerRemote.
package TruckerTpcds;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(basename dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerChaos;
use TruckerRemote;
use TruckerTest;

our @EXPORT = qw(
  @tpcds_disasters
  @tpcds_trucks
  tpcds_disaster
  tpcds_ends_sessions
  tpcds_load
  tpcds_operator
  tpcds_same
  tpcds_sells
  tpcds_setup
);

my $dir = dirname(__FILE__) . '/../tpcds';

# in the order of the alphabet, in which a cascade's first step comes first
our @tpcds_trucks = map { basename($_, '.sql') } sort glob "$dir/trucks/*.sql";

our @tpcds_disasters = (@disasters, 'kill -9 of a client', 'crash of the other server');

my $clients = 4;

# the schema of the source's tables; trucks keep the path with which they are made
my $path = '-c search_path=tpcds,public';

sub _run_file
{
	my ($node, $file, %variables) = @_;

	local $ENV{PGOPTIONS} = $path;
	$node->psql(
		'postgres', slurp_file("$dir/$file"),
		on_error_die => 1,
		extra_params => [ map { ('-v', "$_=$variables{$_}") } sort keys %variables ]);
	return;
}

sub tpcds_setup
{
	my ($node, $remote, %opts) = @_;

	$remote->safe_psql('postgres', q{
CREATE SCHEMA answer AUTHORIZATION writer;
SET ROLE writer;
CREATE TABLE answer.sale_flat (ss_item_sk integer, ss_ticket_number bigint, c_last_name char(30), c_first_name char(20), ca_city varchar(60),
	ca_state char(2), hd_buy_potential char(15), s_store_name varchar(50), ss_quantity integer, ss_net_paid numeric(7,2),
	PRIMARY KEY (ss_item_sk, ss_ticket_number))});
	connect_remote($node, $remote, 'warehouse_server');
	_run_file($node, 'schema.sql');
	_run_file($node, 'data.sql', seed => int(rand(2**31)), scale => $opts{scale} // 1);
	_run_file($node, 'load.sql');
	$node->safe_psql('postgres', q{SELECT trucker.set_output_plugin('ds', 'wal2json'), trucker.set_output_plugin('dsp', 'pgoutput')});
	_run_file($node, "trucks/$_.sql") foreach @tpcds_trucks;
	return;
}

# What transactions a crash has left prepared is committed or not.
sub _end_prepared
{
	my ($node) = @_;

	foreach my $gid (split /\n/, $node->safe_psql('postgres', q{SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE gid LIKE 'tpcds %' ORDER BY gid}))
	{
		$node->safe_psql('postgres', (rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED $gid");
	}
	return;
}

sub tpcds_load
{
	my ($node, $rate) = @_;
	my $self = bless { node => $node, err => [] }, 'TruckerTpcds::Load';
	my @scripts = map { ('-f', $_ . '@' . (basename($_) =~ /^(\d+)_/)[0]) } sort glob "$dir/load/[0-9]*.sql";
	my @parts = (
		[ '-c', $clients, '-R', $rate, @scripts ],
		[ '-c', 1, '-R', $rate / 50, '-f', "$dir/load/ddl.sql" ]);

	_end_prepared($node);
	# the names of the sessions
	local $ENV{PGAPPNAME} = 'tpcds';
	# a notice is no error; a warning is, for nothing here may warn
	local $ENV{PGOPTIONS} = "$path -c client_min_messages=warning";
	foreach my $part (@parts)
	{
		my $err = $node->basedir . '/tpcds_' . @{ $self->{err} } . '.err';

		push @{ $self->{err} }, $err;
		push @{ $self->{pids} }, spawn_pgbench($node, '/dev/null', $err,
			'-n', '-T', '36000', '--random-seed', int(rand(2**31)), @$part);
	}
	return $self;
}

sub tpcds_sells
{
	my ($node, $n) = @_;
	my $until = $n + $node->safe_psql('postgres', 'SELECT last_value FROM load.ticket');

	$node->poll_query_until('postgres', "SELECT last_value >= $until FROM load.ticket")
	  or die 'nobody sells anything';
	return;
}

sub tpcds_same
{
	my ($node, $remote, $what) = @_;
	my $good = 1;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $truck (@tpcds_trucks)
	{
		return fail("$what: truck $truck catches up") unless caught_up($node, $truck);
	}
	foreach my $truck (@tpcds_trucks)
	{
		$good &= $truck eq 'sale_flat'
		  ? same_remote($node, "TABLE question.$truck", $remote, "TABLE answer.$truck", "$what: $truck")
		  : same($node, "TABLE question.$truck", _answer($node, $truck), "$what: $truck");
	}
	return $good;
}

# An answer may keep more columns than are asked for.
sub _answer
{
	my ($node, $truck) = @_;
	my $columns = $node->safe_psql('postgres', qq{
		SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = 'answer.$truck'::regclass AND attnum BETWEEN 1 AND
			(SELECT max(attnum) FROM pg_attribute WHERE attrelid = 'question.$truck'::regclass)});

	return "SELECT $columns FROM answer.$truck";
}

sub tpcds_operator
{
	my ($node) = @_;
	my $truck = $tpcds_trucks[ rand @tpcds_trucks ];
	my $stream = rand() < 0.5 ? 'ds' : 'dsp';
	my @settings = (
		[ 'trucker.max_run_rows',      50, 1000, 20000 ],
		[ 'trucker.max_batch_rows',    20, 1000, 50000 ],
		[ 'trucker.max_truck_delay',   1000, 2000, 60000 ],
		[ 'trucker.batch_memory',      64, 65536 ],
		[ 'logical_decoding_work_mem', 64, 65536 ]);
	my $choice = int(rand(4));

	if ($choice == 0)
	{
		$node->safe_psql('postgres', "SELECT trucker.stop('$truck')");
		$node->safe_psql('postgres', "SET client_min_messages = error; SELECT trucker.start('$truck')");
		return "stop and start of $truck";
	}
	if ($choice == 1)
	{
		my $plugin = rand() < 0.5 ? 'wal2json' : 'pgoutput';

		$node->safe_psql('postgres', "SET client_min_messages = error; SELECT trucker.set_output_plugin('$stream', '$plugin')");
		return "$stream reads $plugin";
	}
	my ($setting, @values) = @{ $settings[ rand @settings ] };
	my $value = $values[ rand @values ];

	$node->safe_psql('postgres', $_) foreach "ALTER SYSTEM SET $setting = $value", 'SELECT pg_reload_conf()';
	return "$setting = $value";
}

sub tpcds_ends_sessions
{
	my ($kind) = @_;

	return $kind !~ /other server/ && is_crash($kind);
}

sub tpcds_disaster
{
	my ($node, $remote, $kind, $truck) = @_;

	if ($kind eq 'crash of the other server')
	{
		$remote->stop('immediate');
		$remote->start;
	}
	elsif ($kind eq 'kill -9 of a client')
	{
		# any one of them: in a transaction, or waiting for a lock
		my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE application_name = 'tpcds' ORDER BY state = 'idle', random() LIMIT 1});

		kill_server_process($node, $pid);
	}
	else
	{
		disaster($node, $kind, $truck // $tpcds_trucks[ rand @tpcds_trucks ]);
	}
	return;
}

package TruckerTpcds::Load;

use strict;
use warnings;

use POSIX ();

# Stop, and wait until the server has nothing of it in hand any more.  False if part of
# it had stopped by itself, or lost a client.
sub stop
{
	my ($self) = @_;
	my $alive = 1;

	foreach my $pid (@{ $self->{pids} })
	{
		if (waitpid($pid, POSIX::WNOHANG) == 0)
		{
			kill 'TERM', $pid;
			waitpid $pid, 0;
		}
		else
		{
			$alive = 0;
		}
	}
	$self->{node}->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'tpcds'})
	  or die 'the load does not end';
	TruckerTpcds::_end_prepared($self->{node});
	return $alive && $self->errors eq '';
}

# What it complained about.
sub errors
{
	my ($self) = @_;

	return join '', grep { !/setting random seed/ } map { split /^/m, PostgreSQL::Test::Utils::slurp_file($_) } @{ $self->{err} };
}

1;
