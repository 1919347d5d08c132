#!/usr/bin/perl
# openmetrics-http.pl: serves trucker.openmetrics() to Prometheus.
#
#   openmetrics-http.pl ADDRESS:PORT CONNINFO...
#
# Each request runs psql once for each connection string.  Databases are told apart by
# the label "database".  It has no encryption and asks nobody for a password: let it
# listen where only Prometheus can reach it.
use strict;
use warnings;

use IO::Socket::INET;

my ($listen, @databases) = @ARGV;
die "usage: openmetrics-http.pl ADDRESS:PORT CONNINFO...\n" unless @databases;

my $server = IO::Socket::INET->new(LocalAddr => $listen, Listen => 5, ReuseAddr => 1)
  or die "could not listen at $listen: $!\n";

# metrics(): the text of all databases as one, in which each family of metrics must stand
# together; nothing if one of them does not answer
sub metrics
{
	my (@families, %told_by, %head, %samples);

	foreach my $database (@databases)
	{
		open my $psql, '-|', 'psql', '-XAtqw', '-d', $database, '-c', 'SELECT trucker.openmetrics()' or return;
		my $family = '';

		while (my $line = <$psql>)
		{
			if ($line =~ /^# (?:TYPE|UNIT|HELP) (\S+)/)
			{
				$family = $1;
				push @families, $family unless exists $told_by{$family};
				$told_by{$family} //= $database;
				$head{$family} .= $line if $told_by{$family} eq $database;
			}
			elsif ($line =~ /^trucker_/)
			{
				$samples{$family} .= $line;
			}
		}
		close $psql or return;
	}
	return join('', map { $head{$_} . ($samples{$_} // '') } @families) . "# EOF\n";
}

while (1)
{
	my $client = $server->accept or next;

	eval {
		local $SIG{ALRM} = sub { die "timeout\n" };
		local $SIG{PIPE} = 'IGNORE';
		alarm 20;
		my $request = <$client> // '';
		while (my $header = <$client>) { last if $header =~ /^\r?$/; }
		my $body = $request =~ m{^GET /metrics[ ?]} ? metrics() : undef;
		my $status = defined $body ? '200 OK' : $request =~ m{^GET /metrics[ ?]} ? '503 Service Unavailable' : '404 Not Found';

		$body //= '';
		print $client "HTTP/1.1 $status\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
		  . 'Content-Length: ' . length($body) . "\r\nConnection: close\r\n\r\n$body";
		1;
	} or warn "openmetrics-http.pl: $@";
	alarm 0;
	close $client;
}
