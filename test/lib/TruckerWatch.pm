# TruckerWatch.pm: watches what must not grow while a server works, for the soak test.
#
#   my $watch = TruckerWatch->new($node);
#   $watch->sample($phase, $what)   look, print a line, remember it under the phase; a hash of what there is
#   $watch->growth($phase)          a test for each quantity: the median of the phase's last quarter is not
#                                   beyond that of its first by more than is allowed; prints both
#
# Medians, as a checkpoint, an autovacuum or a big transaction makes peaks; the first quarter is
# long enough for caches to fill.
package TruckerWatch;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);
use TruckerChaos;

# What is watched, and how much it may grow: by a fifth, and by so much.  The private memory is that
# of the largest process of its kind.
my @quantities = (
	[ worker    => 'MB', 8,  'memory of a worker' ],
	[ walsender => 'MB', 16, 'memory of a walsender' ],
	[ launcher  => 'MB', 2,  'memory of the launcher' ],
	[ slots     => '',   0,  'replication slots' ],
	[ kept      => 'MB', 64, 'WAL that a slot keeps' ],
	[ wal       => 'MB', 256, 'WAL on disk' ],
	[ spilled   => 'MB', 8,  'files of the slots' ],
	[ position  => 'MB', 1,  "trucker's table of positions" ],
	[ state     => 'MB', 2,  "trucker's tables" ],
	[ catalogs  => 'MB', 16, 'system catalogs' ],
	[ disk      => 'MB', 100, 'disk without WAL' ]);

sub new
{
	my ($class, $node) = @_;

	return bless { node => $node, began => time, samples => {} }, $class;
}

sub sample
{
	my ($self, $phase, $what) = @_;
	my $node = $self->{node};
	my %now = (worker => 0, walsender => 0, launcher => 0);

	@now{qw(wal kept slots position state catalogs)} = split /\|/, $node->safe_psql('postgres', q{
		SELECT (SELECT sum(size) FROM pg_ls_waldir()) / 1e6,
			(SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_replication_slots) / 1e6,
			(SELECT count(*) FROM pg_replication_slots),
			pg_total_relation_size('trucker.position') / 1e6,
			(SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'trucker'::regnamespace AND relkind = 'r') / 1e6,
			(SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r') / 1e6});
	foreach my $line (split /\n/, $node->safe_psql('postgres', q{
		SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type IN ('trucker stream', 'trucker launcher', 'walsender')}))
	{
		my ($pid, $type) = split /\|/, $line;
		my $kind = $type eq 'trucker stream' ? 'worker' : $type =~ s/trucker //r;
		my $mb = rss_anon($pid) / 1000;

		$now{$kind} = $mb if $mb > $now{$kind};
	}
	$now{disk} = _size($node->data_dir, '--exclude=pg_wal');
	$now{spilled} = _size($node->data_dir . '/pg_replslot');

	diag sprintf '%5d s  %-70s  worker %3d MB, walsender %3d MB, slots %d, WAL %4d MB (kept %d), trucker %.1f MB (positions %.1f), disk %d MB',
	  time - $self->{began}, substr($what, 0, 70), @now{qw(worker walsender slots wal kept state position disk)};
	push @{ $self->{samples}{$phase} }, \%now;
	return %now;
}

# Files may go while they are counted, and that does not matter.
sub _size
{
	my (@arguments) = @_;
	my ($stdout) = PostgreSQL::Test::Utils::run_command([ 'du', '-sk', @arguments ]);

	return ($stdout =~ /^(\d+)/ ? $1 : 0) / 1000;
}

sub _median
{
	my @sorted = sort { $a <=> $b } @_;

	return $sorted[ $#sorted / 2 ];
}

sub growth
{
	my ($self, $phase) = @_;
	my @samples = @{ $self->{samples}{$phase} // [] };
	my $quarter = int(@samples / 4);
	my $good = 1;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	if ($quarter == 0)
	{
		diag "$phase: " . @samples . ' samples are too few to tell whether anything grows';
		return 1;
	}
	diag sprintf '%s: %d samples; medians of the first and the last quarter, and what is allowed', $phase, scalar @samples;
	foreach my $quantity (@quantities)
	{
		my ($name, $unit, $slack, $text) = @$quantity;
		my $first = _median(map { $_->{$name} } @samples[ 0 .. $quarter - 1 ]);
		my $last = _median(map { $_->{$name} } @samples[ -$quarter .. -1 ]);
		my $allowed = $first * 1.2 + $slack;

		diag sprintf '  %-30s %8.1f %8.1f %8.1f %s', $text, $first, $last, $allowed, $unit;
		$good &= cmp_ok($last, '<=', $allowed, "$phase: $text does not grow");
	}
	return $good;
}

1;
