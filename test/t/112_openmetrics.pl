# What Prometheus gets is what the views show: trucker.openmetrics() is valid, a real
# Prometheus scrapes it without complaint, so does postgres_exporter with our queries, the
# alerts fire when they shall, and each query of the dashboard finds something.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use HTTP::Tiny;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $monitoring = "$FindBin::RealBin/../../doc/monitoring";
my $dir = PostgreSQL::Test::Utils::tempdir;
my $http = HTTP::Tiny->new(timeout => 20, proxy => undef, http_proxy => undef);
my @children;

my $node = trucker_node('openmetrics', conf => "autovacuum = off\n");

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# spawn($name, \%environment, @command): a program in the background, whose output goes to a file
sub spawn
{
	my ($name, $environment, @command) = @_;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		%ENV = (%ENV, %$environment);
		open STDIN,  '<', '/dev/null';
		open STDOUT, '>', "$dir/$name.log";
		open STDERR, '>&', \*STDOUT;
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	push @children, $pid;
	return $pid;
}

END
{
	my $status = $?;

	kill 'KILL', $_ foreach @children;
	waitpid $_, 0 foreach @children;
	$? = $status;
}

# get($url): its content, as soon as there is some
sub get
{
	my ($url) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	my $answer = $http->get($url);

	while (!$answer->{success} && time < $until)
	{
		select undef, undef, undef, 0.1;
		$answer = $http->get($url);
	}
	return $answer->{content} if $answer->{success};
	die "$url: $answer->{status} $answer->{reason} $answer->{content}";
}

# run($name, @command): a test that it succeeds
sub run_ok
{
	my ($name, $input, @command) = @_;
	my ($out, $good);

	$good = IPC::Run::run(\@command, '<', \$input, '>&', \$out);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good, $name) or diag $out;
	return;
}

# ----
# Something to be measured
# ----
my $odd = qq{we"ird\\truck\nof 'two' lines};
my $odd_sql = "E'we\"ird\\\\truck\\nof ''two'' lines'";
sql(q{CREATE TABLE s (id int PRIMARY KEY, v text);
	CREATE TABLE d (LIKE s INCLUDING ALL);
	CREATE TABLE gate ();
	CREATE FUNCTION pass(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN LOCK TABLE gate IN ROW SHARE MODE; RETURN $1; END';
	INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 500) i;
	SELECT trucker.create_truck('t', '{s}', $$DELETE FROM d USING r WHERE r.meta__operation <> 'insert' AND d.id = r.old__id;
		INSERT INTO d SELECT id, v FROM r WHERE meta__operation <> 'delete'$$);
	SELECT trucker.create_truck('fails', '{s}', 'SELECT 1 / (id - 1001) FROM r', options => '{"stream": "q", "on_error": "quarantine", "backfill": false}');
	SELECT trucker.create_truck('rests', '{s}', 'SELECT count(*) FROM r')},
	"SELECT trucker.create_truck($odd_sql, '{s}', 'SELECT count(*) FROM r', options => '{\"stream\": \"odd\\\"one\"}')",
	q{SELECT trucker.start('t'); SELECT trucker.start('fails')}, "SELECT trucker.start($odd_sql)");
ok(caught_up($node, $_), 'a truck runs') foreach 't', 'fails', $odd;
sql(q{INSERT INTO s SELECT i, 'new' FROM generate_series(1001, 1100) i}, q{UPDATE s SET v = 'x' WHERE id <= 30}, q{DELETE FROM s WHERE id > 1093});
ok(caught_up($node, $_), 'and has applied changes') foreach 't', 'fails', $odd;
ok(wait_state($node, 't', 'streaming'), 'and streams');
# one is being backfilled
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE gate IN EXCLUSIVE MODE');
sql(q{SELECT trucker.create_truck('fills', '{s}', 'SELECT pass(id) FROM r', options => '{"stream": "f"}'); SELECT trucker.start('fills')});
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM trucker.backfill_progress) AND waiting_for IS NOT NULL FROM trucker.status WHERE truck = 'fills'}),
	'another one is being backfilled, and waits');

# ----
# The text
# ----
my $text = sql('SELECT trucker.openmetrics()') . "\n";
my (%type, %unit, %help, %value, @wrong);
{
	my $family = '';
	my $ended = 0;
	my $last = '';

	foreach my $line (split /\n/, $text)
	{
		push @wrong, "behind the end: $line" if $ended;
		if ($line eq '# EOF') { $ended = 1; }
		elsif ($line =~ /^# TYPE ([a-z_]+) (gauge|counter|histogram)$/)
		{
			push @wrong, "twice: $line" if exists $type{$1};
			($family, $type{$1}) = ($1, $2);
		}
		elsif ($line =~ /^# UNIT ([a-z_]+) ([a-z]+)$/) { push @wrong, $line unless $1 eq $family && $family =~ /_\Q$2\E$/; $unit{$1} = $2; }
		elsif ($line =~ /^# HELP ([a-z_]+) (.+)$/) { push @wrong, $line unless $1 eq $family; $help{$1} = $2; }
		elsif ($line =~ /^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,(?!\})|(?=\})))+\}) (-?\d+(?:\.\d+)?(?:e[-+]\d+)?)$/)
		{
			my ($name, $labels, $number) = ($1, $2, $3);
			my $suffix = substr $name, length $family;

			push @wrong, "not of family $family: $line"
			  unless index($name, $family) == 0
			  && $suffix =~ ($type{$family} eq 'counter' ? qr/^_total$/ : $type{$family} eq 'histogram' ? qr/^_(?:bucket|sum|count)$/ : qr/^$/);
			push @wrong, "twice: $line" if exists $value{"$name$labels"};
			$value{"$name$labels"} = $number;
		}
		else { push @wrong, $line; }
		$last = $line;
	}
	push @wrong, 'no end' unless $ended;
}
is(join("\n", @wrong), '', 'each line is what the format says');
is_deeply([ sort keys %type ], [ sort keys %help ], 'each family has a type and a help');
cmp_ok(scalar keys %value, '>', 100, 'and there are samples');
$text =~ s/^"//;
is($value{'trucker_truck_rows_total{database="postgres",truck="t",operation="insert"}'}, 100, 'inserts');
is($value{'trucker_truck_rows_total{database="postgres",truck="t",operation="update"}'}, 30, 'updates');
is($value{'trucker_truck_rows_total{database="postgres",truck="t",operation="delete"}'}, 7, 'deletes');
is($value{'trucker_truck_rows_total{database="postgres",truck="t",operation="backfill"}'}, 500, 'backfilled');
is($value{'trucker_truck_transactions_total{database="postgres",truck="t"}'}, 3, 'source transactions');
is($value{'trucker_truck_rows_total{database="postgres",truck="we\"ird\\\\truck\\nof \'two\' lines",operation="insert"}'}, 100, 'labels are escaped');
is($value{'trucker_truck_state{database="postgres",truck="t",state="streaming"}'}, 1, 'states');
is($value{'trucker_truck_state{database="postgres",truck="rests",state="stopped"}'}, 1, 'also of one that rests');
ok(!exists $value{'trucker_truck_runs_total{database="postgres",truck="rests"}'}, 'which has nothing else to show');
is($value{'trucker_truck_quarantined_changes{database="postgres",truck="fails"}'}, 107, 'quarantine');
cmp_ok($value{'trucker_truck_errors_total{database="postgres",truck="fails"}'}, '>=', 1, 'errors');
is($value{'trucker_stream_running{database="postgres",stream="odd\"one",owner="postgres"}'}, 1, 'streams');
is($value{'trucker_truck_waiting{database="postgres",truck="fills"}'}, 1, 'a truck that waits');
cmp_ok($value{'trucker_backfill_estimated_rows{database="postgres",truck="fills",input_table="public.s"}'}, '>', 0, 'backfills');
{
	my @buckets = grep { /^trucker_truck_latency_seconds_bucket\{database="postgres",truck="t",/ } split /\n/, $text;
	my $last = -1;
	my @bounds;

	foreach (@buckets)
	{
		my ($bound, $count) = /le="([^"]+)"\} (\d+)$/;

		push @bounds, $bound;
		$last = $count >= $last ? $count : 'it decreases';
	}
	is("@bounds[0 .. 4] .. @bounds[-2, -1]", '0.0001 0.0002 0.0005 0.001 0.002 .. 100000.0 +Inf', 'the buckets of the histogram, in order');
	is($last, 3, 'all of it is counted in the last');
	is($value{'trucker_truck_latency_seconds_count{database="postgres",truck="t"}'}, 3, 'so it is in _count');
	cmp_ok($value{'trucker_truck_latency_seconds_sum{database="postgres",truck="t"}'}, '>', 0, 'and _sum');
}
# promtool knows the older text format only, in which a counter's family has the suffix
run_ok('promtool has nothing to say against names, types and helps',
	$text =~ s/^(# (?:TYPE|HELP) )(\S+)(?= )/$1 . $2 . ($type{$2} eq 'counter' ? '_total' : '')/gemr =~ s/^# (?:UNIT|EOF).*\n//gmr,
	'promtool', 'check', 'metrics');

# ----
# Who may
# ----
sql('CREATE ROLE stranger; CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE owner; GRANT EXECUTE ON FUNCTION trucker.openmetrics() TO owner');
like(psql_err($node, 'SET ROLE stranger; SELECT trucker.openmetrics()'), qr/ERROR:  42501: permission denied for function openmetrics/, 'not everybody');
like(sql('SET ROLE monitor; SELECT trucker.openmetrics()'), qr/^trucker_truck_rows_total\{database="postgres",truck="t",operation="insert"\} 100$/m, 'pg_monitor sees all');
unlike(sql('SET ROLE owner; SELECT trucker.openmetrics()'), qr/^trucker_/m, 'another one sees what is his: nothing');

# ----
# A Prometheus
# ----
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $prometheus = PostgreSQL::Test::Cluster::get_free_port();
my $exporter = PostgreSQL::Test::Cluster::get_free_port();
my $connstr = $node->connstr('postgres') . ' user=monitor';

# a second database, with a truck of the same name
$node->safe_psql('postgres', 'CREATE DATABASE stock');
$node->safe_psql('stock', q{CREATE EXTENSION trucker; CREATE TABLE s (id int PRIMARY KEY); INSERT INTO s VALUES (1);
	SELECT trucker.create_truck('t', '{s}', 'SELECT count(*) FROM r')});
sql('GRANT ALL ON SCHEMA public TO monitor');
spawn('http', {}, $^X, "$monitoring/openmetrics-http.pl", "127.0.0.1:$port", $connstr, $connstr =~ s/dbname=(?:'postgres'|postgres)/dbname=stock/r);
my $served = get("http://127.0.0.1:$port/metrics");
like($served, qr/^trucker_truck_state\{database="stock",truck="t",state="stopped"\} 1$/m, 'openmetrics-http.pl: both databases');
is(scalar(() = $served =~ /^# TYPE trucker_truck_state /mg), 1, 'each family once');
is($http->get("http://127.0.0.1:$port/")->{status}, 404, 'there is nothing else');

spawn('exporter', { DATA_SOURCE_NAME => 'host=' . $node->host . ' port=' . $node->port . ' user=monitor dbname=postgres sslmode=disable' },
	'prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$exporter", "--extend.query-path=$monitoring/queries.yaml",
	'--disable-default-metrics', '--disable-settings-metrics');
append_to_file("$dir/prometheus.yml", qq{
global:
  scrape_interval: 3s
  scrape_timeout: 3s
  evaluation_interval: 1s
rule_files: ['$monitoring/trucker.rules.yml']
scrape_configs:
  - job_name: trucker
    static_configs: [{targets: ['127.0.0.1:$port']}]
  - job_name: exporter
    static_configs: [{targets: ['127.0.0.1:$exporter']}]
});
run_ok('the configuration is valid', '', 'promtool', 'check', 'config', "$dir/prometheus.yml");
spawn('prometheus', {}, 'prometheus', "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/tsdb", "--web.listen-address=127.0.0.1:$prometheus");

# query($promql): the result, as a list of [labels, value]
sub query
{
	my ($promql) = @_;
	my $answer = decode_json(get("http://127.0.0.1:$prometheus/api/v1/query?" . $http->www_form_urlencode({ query => $promql })));

	die "$promql: $answer->{error}" unless $answer->{status} eq 'success';
	return map { [ $_->{metric}, $_->{value}[1] ] } @{ $answer->{data}{result} };
}

# once_true($condition): until it is, or it has taken too long
sub once_true
{
	my ($condition) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($condition->() || time >= $until)
	{
		select undef, undef, undef, 0.2;
	}
	return;
}

# wait_query($promql, $value): until its only result is that
sub wait_query
{
	my ($promql, $wanted, $name) = @_;
	my @result;

	once_true(sub {
		@result = query($promql);
		return @result == 1 && $result[0][1] == $wanted;
	});
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join(' ', map { $_->[1] } @result), $wanted, $name);
	return;
}
get("http://127.0.0.1:$prometheus/-/ready");
wait_query('up{job="trucker"}', 1, 'Prometheus scrapes it');
wait_query('up{job="exporter"}', 1, 'and the exporter');
foreach my $job ('trucker', 'exporter')
{
	wait_query(qq(sum by (truck) (trucker_truck_rows_total{job="$job", database="postgres", truck="t", operation!="backfill"})), 137, "$job: changes");
	wait_query(qq(trucker_truck_rows_total{job="$job", database="postgres", truck="t", operation="backfill"}), 500, "$job: rows backfilled");
	wait_query(qq(trucker_truck_state{job="$job", database="postgres", truck="t", state="streaming"}), 1, "$job: state");
	wait_query(qq(trucker_truck_latency_seconds_bucket{job="$job", database="postgres", truck="t", le="+Inf"}), 3, "$job: histogram");
	wait_query(qq(trucker_truck_latency_seconds_count{job="$job", database="postgres", truck="t"}), 3, "$job: its count");
	wait_query(qq(trucker_truck_quarantined_changes{job="$job", truck="fails"}), 107, "$job: quarantine");
	wait_query(qq(trucker_stream_running{job="$job", stream="main", database="postgres"}), 1, "$job: streams");
	wait_query(qq(count(trucker_backfill_read_rows{job="$job", truck="fills", input_table="public.s"})), 1, "$job: backfills");
	wait_query(qq(count(trucker_truck_busy_seconds_total{job="$job", truck="t", database="postgres"})), 4, "$job: time");
}
{
	# all that the one way tells, but for what is told of a single stream or bucket
	my %names;

	# a scrape for which there was no time leaves nothing until the next
	once_true(sub {
		foreach my $job ('trucker', 'exporter')
		{
			$names{$job} = { map { $_->[0]{__name__} => 1 } query(qq({job="$job", __name__=~"trucker_.*"})) };
		}
		return join(' ', sort keys %{ $names{exporter} }) eq join(' ', sort keys %{ $names{trucker} });
	});
	cmp_ok(scalar keys %{ $names{trucker} }, '>', 10, 'there are metrics');
	is_deeply($names{exporter}, $names{trucker}, 'both ways have the same');
	my @labels = grep { $_->[0]{truck} eq $odd } query('trucker_truck_state{job="trucker", state="streaming"}');
	is(scalar @labels, 1, 'a name with quotes, backslash and line feed arrives as it is');
	my $metadata = decode_json(get("http://127.0.0.1:$prometheus/api/v1/targets/metadata?metric=trucker_truck_read_bytes"));
	is("$metadata->{data}[0]{type} $metadata->{data}[0]{unit}", 'counter bytes', 'types and units arrive, too');
	my $health;

	once_true(sub {
		my $targets = decode_json(get("http://127.0.0.1:$prometheus/api/v1/targets"));

		$health = join ' ', map { "$_->{health}$_->{lastError}" } @{ $targets->{data}{activeTargets} };
		return $health eq 'up up';
	});
	is($health, 'up up', 'scrapes do not complain');
}
# counted on
sql(q{INSERT INTO s VALUES (2001), (2002), (2003)});
ok(caught_up($node, 't'), 'more changes');
wait_query('sum by (truck) (trucker_truck_rows_total{job="trucker", database="postgres", truck="t", operation="insert"})', 103, 'are seen with the next scrape');

# ----
# Dashboard and alerts
# ----
{
	my $dashboard = decode_json(slurp_file("$monitoring/dashboard.json"));
	my $n;
	my (@bad, @empty);

	# rates need two scrapes within a minute
	once_true(sub {
		$n = 0;
		@bad = @empty = ();
		foreach my $panel (@{ $dashboard->{panels} })
		{
			foreach my $target (@{ $panel->{targets} })
			{
				my $promql = $target->{expr} =~ s/\$__rate_interval/1m/gr =~ s/\$(?:database|truck)/.*/gr;
				my $answer = $http->get("http://127.0.0.1:$prometheus/api/v1/query?" . $http->www_form_urlencode({ query => $promql }));

				$n++;
				push @bad, "$panel->{title}: $answer->{content}" unless $answer->{success};
				push @empty, $panel->{title} if $answer->{success} && !query($promql);
			}
		}
		return !@bad && @empty == 1;
	});
	cmp_ok($n, '>=', 14, 'the dashboard asks for much');
	is(join("\n", @bad), '', 'and each of its queries is valid');
	# all trucks are well
	is(join(', ', @empty), 'Trucks that need somebody', 'and finds something');
}
run_ok('the alert rules are valid', '', 'promtool', 'check', 'rules', "$monitoring/trucker.rules.yml");
run_ok('and fire when they shall', '', 'promtool', 'test', 'rules', "$FindBin::RealBin/../monitoring/trucker.rules.test.yml");
sql('DROP TABLE d CASCADE', 'ALTER SYSTEM SET trucker.max_failures = 1', 'SELECT pg_reload_conf()', q{INSERT INTO s VALUES (3001)});
ok(wait_state($node, 't', 'failed'), 'a truck fails');
wait_query('count(ALERTS{alertname="TruckerFailed", alertstate="firing", job="trucker", database="postgres", truck="t"})', 1, 'which Prometheus tells of');
$locker->quit;
is(join('', grep { /TRAP|PANIC|terminated by signal/ } split /^/m, slurp_file($node->logfile)), '', 'nothing has crashed');
$node->stop;

done_testing();
