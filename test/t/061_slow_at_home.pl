# A truck that is slow each time it is at home, among others, comes home ever more seldom:
# each time costs the others trucker.max_truck_delay.  While it is away it goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::Local;
use TruckerTest;

my $node = trucker_node(
	'slow_at_home',
	conf => q{
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
trucker.max_truck_delay = '300ms'
trucker.retry_initial_delay = '3s'
trucker.retry_max_delay = '12s'
});

sub sql
{
	return $node->safe_psql('postgres', join ";\n", @_);
}

sql(q{
CREATE TABLE a (id bigserial PRIMARY KEY);
CREATE TABLE quick (id bigint);
CREATE TABLE slow (id bigint);
CREATE TABLE pace (seconds float8 NOT NULL);
INSERT INTO pace VALUES (0.8);
CREATE FUNCTION tarry() RETURNS bool LANGUAGE sql AS 'SELECT pg_sleep(seconds) IS NOT NULL FROM pace';
SELECT trucker.create_truck('quick', '{a}', 'INSERT INTO quick SELECT id FROM r');
SELECT trucker.create_truck('slow', '{a}', 'INSERT INTO slow SELECT id FROM r; SELECT tarry()');
SELECT trucker.start()});
ok(wait_state($node, $_, 'streaming'), "$_ streams") foreach 'quick', 'slow';

# Seconds from each time that it has left until it has come back.
sub times_away
{
	my ($left, @away);

	foreach my $line (split /\n/, slurp_file($node->logfile))
	{
		next unless $line =~ /^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+\.\d+) UTC .*truck "slow" (has left|joins) stream "main"/;
		my $at = timegm(0, $5, $4, $3, $2 - 1, $1) + $6;

		if ($7 eq 'has left')   { $left = $at; }
		elsif (defined $left) { push @away, $at - $left; undef $left; }
	}
	return @away;
}

sub at_home
{
	my ($truck) = @_;

	$node->poll_query_until('postgres', "SELECT state = 'streaming' AND stream = 'main' FROM trucker.status WHERE truck = '$truck'")
	  or die "$truck does not come home";
	return;
}

# Wait until it is at home, and let it hold up the other one.  On a machine that is busy that
# one, too, may be taken for slow, and while it is away nobody is held up.
sub slow_at_home
{
	my $away = '';

	until ($away =~ /\bslow\b/)
	{
		at_home('slow');
		if (sql(q{SELECT stream FROM trucker.status WHERE truck = 'quick'}) ne 'main')
		{
			# which lets it come at once
			sql(q{SELECT trucker.start('quick')});
			at_home($_) foreach 'quick', 'slow';
		}
		sql('INSERT INTO a DEFAULT VALUES');
		my $query = q{SELECT coalesce(string_agg(truck, ' '), '') FROM trucker.status WHERE stream LIKE '%(catch-up)'};
		$node->poll_query_until('postgres', "SELECT ($query) <> ''") or die 'it does not leave';
		$away = sql($query);
	}
	ok(caught_up($node, 'slow'), 'it goes on where it is');
	return;
}

# On a machine that is busy it may come home so late that it has done no harm for long enough.
my @away;
for (my $n = 0; $n < 10 && !grep { $_ >= 5.999 } @away; $n++)
{
	slow_at_home();
	@away = times_away();
}
note "away for: @away";
# the clock of the log is exact to the millisecond only
is(scalar(grep { $_ < 2.999 } @away), 0, 'each time it stays away for trucker.retry_initial_delay at least');
cmp_ok(scalar(grep { $_ >= 5.999 } @away), '>', 0, 'and twice as long if it does so again');
ok(wait_state($node, 'quick', 'streaming'), 'the other one streams');

# start() lets it come at once, also from a pause that has hardly begun
foreach my $setting ('trucker.retry_max_delay', 'trucker.retry_initial_delay')
{
	sql("ALTER SYSTEM SET $setting = '1h'");
}
sql('SELECT pg_reload_conf()');
slow_at_home();
sql('UPDATE pace SET seconds = 0');
ok(caught_up($node, 'slow'), 'it is slow no more');
is(sql(q{SELECT stream FROM trucker.status WHERE truck = 'slow'}), 'main (catch-up)', 'and stays away all the same');
sql(q{SELECT trucker.start('slow')});
ok($node->poll_query_until('postgres', q{SELECT stream = 'main' FROM trucker.status WHERE truck = 'slow'}), 'start() lets it come home');

ok(caught_up($node, $_), "$_ has applied everything") foreach 'quick', 'slow';
same($node, 'TABLE a', "TABLE $_", "$_ has each row once") foreach 'quick', 'slow';

$node->stop;

done_testing();
