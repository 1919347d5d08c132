# ColumnsTest.pm: what the tests of columns share.
package ColumnsTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

our @EXPORT = qw($node columns_node sql literal quoted last_error wait_for_end stops_with);

our $node;

# columns_node($name): makes $node, in which many trucks can have a stream of their own.
sub columns_node
{
	my ($name) = @_;

	$node = trucker_node(
		$name,
		conf => q{
max_replication_slots = 80
max_wal_senders = 80
max_worker_processes = 100
track_commit_timestamp = on
});
	return;
}

# Long SQL goes through a file: psql would break the pipe at an error.
sub sql
{
	my ($sql) = @_;

	if (length $sql > 10000)
	{
		my $file = PostgreSQL::Test::Utils::tempdir . '/long.sql';
		append_to_file($file, $sql);
		$sql = "\\i $file";
	}
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
	die 'SQL failed: ' . substr($stderr =~ s{^.*?(?=[^\n]*ERROR:)}{}sr, 0, 2000) if $rc != 0;
	return $stdout;
}

sub literal
{
	my ($text) = @_;
	return "'" . ($text =~ s/'/''/gr) . "'";
}

sub quoted
{
	my ($name) = @_;
	return '"' . ($name =~ s/"/""/gr) . '"';
}

sub last_error
{
	my ($truck) = @_;
	return sql('SELECT last_error FROM trucker.status WHERE truck = ' . literal($truck));
}

# Wait until the truck has applied everything, or has stopped at an error.  Returns
# the lines in its log, or the error.
sub wait_for_end
{
	my ($truck) = @_;
	my $lsn = sql('SELECT pg_current_wal_insert_lsn()');

	for (;;)
	{
		$node->poll_query_until('postgres', "SELECT position >= '$lsn' OR state IN ('retrying', 'lost') FROM trucker.status WHERE truck = " . literal($truck))
		  or return 'neither';
		# it may just be on its way to another stream
		my ($end, $result) = sql("SELECT CASE WHEN state IN ('retrying', 'lost') THEN 'stopped' WHEN position >= '$lsn' THEN 'applied' END,
				CASE WHEN state IN ('retrying', 'lost') THEN last_error ELSE (SELECT string_agg(line, E'\\n' ORDER BY n) FROM log_$truck) END
			FROM trucker.status WHERE truck = " . literal($truck)) =~ /^(\w*)\|(.*)$/s;
		return $result if $end ne '';
	}
}

# Wait until the truck has stopped at an error, and test what it says.
sub stops_with
{
	my ($truck, $pattern, $test_name) = @_;
	my $lsn = sql('SELECT pg_current_wal_insert_lsn()');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->poll_query_until('postgres', "SELECT position >= '$lsn' OR state IN ('retrying', 'lost') FROM trucker.status WHERE truck = " . literal($truck));
	return like(last_error($truck), $pattern, $test_name);
}

1;
