# graph(): the lineage of tables, trucks and connections as text that Mermaid and Graphviz
# can read, whatever the names are; with what the caller may see, and nothing else.
use strict;
use warnings;

use Encode ();
use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerRemote;
use TruckerTest;

my $node = trucker_node('graph');
my $there = remote_node('graph_there');

sub sql
{
	my ($sql, $db) = @_;

	return $node->safe_psql($db // 'postgres', $sql);
}

sub svg
{
	my ($dot) = @_;
	my $file = $node->basedir . '/graph.dot';

	open my $out, '>', $file or die "$file: $!";
	print $out $dot;
	close $out or die $!;
	my ($stdout, $stderr) = run_command([ 'dot', '-Tsvg', $file ]);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($stderr, '', 'Graphviz can read it');
	return $stdout;
}

# The texts that Graphviz shows, line by line.
sub shown
{
	my ($svg) = @_;
	my @texts = $svg =~ m{<text [^>]*>(.*?)</text>}gs;

	foreach (@texts)
	{
		s/&#160;/ /g;
		s/&#45;/-/g;
		s/&lt;/</g;
		s/&gt;/>/g;
		s/&quot;|&#34;/"/g;
		s/&#39;/'/g;
		s/&amp;/&/g;
	}
	return @texts;
}

# A flowchart as this function may write one: nodes (id => label), edges, classes, and
# which nodes are in which subgraph.  Dies at a line that is anything else.
sub flowchart
{
	my ($text) = @_;
	my $label = qr/"((?:[A-Za-z0-9 _.,()\/\x80-\xff-]|#\d+;|<br\/>)*)"/;
	my %chart = (nodes => {}, edges => [], classes => {}, within => {}, subgraphs => {});
	my ($subgraph, @lines) = (undef, split /\n/, $text);

	die "it begins with $lines[0]" if shift @lines ne 'flowchart LR';
	foreach my $line (@lines)
	{
		if ($line =~ /^    ([tr]\d+)\[\($label\)\]$/ || $line =~ /^    (k\d+)\[$label\]:::(works|rests|fails)$/)
		{
			die "twice: $1" if exists $chart{nodes}{$1};
			$chart{nodes}{$1} = $2;
			$chart{classes}{$1} = $3 if defined $3;
			$chart{within}{$1} = $subgraph if defined $subgraph;
		}
		elsif ($line =~ /^    subgraph (c\d+)\[$label\]$/ && !defined $subgraph)
		{
			$subgraph = $1;
			$chart{subgraphs}{$1} = $2;
		}
		elsif ($line eq '    end' && defined $subgraph)
		{
			$subgraph = undef;
		}
		elsif ($line =~ /^    ([tk]\d+) (-->|-\. partition \.->) ([tkr]\d+)$/)
		{
			push @{ $chart{edges} }, [ $1, $2 eq '-->' ? 'to' : 'partition', $3 ];
		}
		elsif ($line !~ /^    classDef (works|rests|fails) fill:#[0-9a-f]{6},stroke:#[0-9a-f]{6},color:#000000$/)
		{
			die "unknown line: $line";
		}
	}
	die 'a subgraph has no end' if defined $subgraph;
	foreach my $edge (@{ $chart{edges} })
	{
		die "no node $_" foreach grep { !exists $chart{nodes}{$_} } $edge->[0], $edge->[2];
	}
	foreach (values %{ $chart{nodes} }, values %{ $chart{subgraphs} })
	{
		s/<br\/>/ | /g;
		s/#(\d+);/chr $1/ge;
	}
	return \%chart;
}

# The edges with labels instead of numbers, sorted.
sub edges
{
	my ($chart) = @_;

	return join "\n", sort map {
		my ($from, $to) = map { my $n = $chart->{nodes}{$_}; $n .= " at $chart->{subgraphs}{$chart->{within}{$_}}" if $chart->{within}{$_}; $n } $_->[0], $_->[2];
		"$from " . ($_->[1] eq 'to' ? '->' : '..>') . " $to"
	} @{ $chart->{edges} };
}

# ----
# README
# ----

my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my @blocks = $readme =~ /^```sql\n(.*?)^```$/msg;
my ($example) = grep { /create_truck\(\s*'order_flat'/ } @blocks;
my ($totals) = grep { /create_truck\(\s*'customer_total'/ } @blocks;
my ($total_table) = $readme =~ /^(CREATE TABLE customer_total .*;)$/m;
my ($promised) = $readme =~ /^```mermaid\n(.*?)^```$/ms;

sql('CREATE DATABASE readme');
sql('CREATE EXTENSION trucker', 'readme');
sql($example, 'readme');
sql("ALTER TABLE orders REPLICA IDENTITY FULL; $total_table $totals", 'readme');
ok(caught_up($node, $_, db => 'readme'), "the README's example runs: $_") foreach qw(order_flat customer_total);
wait_state($node, $_, 'streaming', db => 'readme') foreach qw(order_flat customer_total);
is(sql('SELECT trucker.graph()', 'readme'), $promised, 'its graph is what README shows');
is( edges(flowchart($promised)), join("\n", sort
		'public.customers -> order_flat | streaming', 'public.orders -> order_flat | streaming', 'order_flat | streaming -> public.order_flat',
		'public.orders -> customer_total | streaming', 'customer_total | streaming -> public.customer_total'),
	'... and what the example does');
svg(sql(q{SELECT trucker.graph('dot')}, 'readme'));
sql('SELECT trucker.stop()', 'readme');
wait_state($node, 'order_flat', 'stopped', db => 'readme');

# ----
# Names
# ----

sub truck
{
	my ($name, $inputs, $output_sql, $more) = @_;
	my $literal = "'" . ($name =~ s/'/''/gr) . "'";

	$more //= '';
	sql("SELECT trucker.create_truck($literal, ARRAY[$inputs]::regclass[], output_sql => \$sql\$$output_sql\$sql\$$more)");
	return;
}

is(sql('SELECT trucker.graph()') =~ s/^    classDef.*\n?//mgr, "flowchart LR\n", 'no trucks, no nodes');
svg(sql(q{SELECT trucker.graph('dot')}));

# psql takes a NUL for an end, and so does the server
my @nasty = (
	'a"b', q(it's), 'x]y)}>', '[("z")]', '<b>&amp;</b>', '#35;', '#quot;', 'end', 'style:a#b;', 'classDef c:#d;', '%%{init: {}}%%',
	'`**bold**`', 'back\\slash\\', '\\N\\l\\"', 'line' . "\n" . 'feed', "tab\tand \x01", 'k1 --> t1', 'subgraph', ' ', '$x$', '{ .x }', 
	"gr\xc3\xbc\xc3\x9fe \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x9a\x9a", '-', 'graph TD; a-->b', "\x7f", '//c', 'a&b');
my $number = 0;
foreach my $name (@nasty)
{
	my $table = '"' . ($name =~ s/"/""/gr) . '"';
	my $input = 'in_' . ++$number;

	sql("CREATE TABLE $input (id int PRIMARY KEY); CREATE TABLE $table (id int PRIMARY KEY)");
	truck($name, "'$input'", "INSERT INTO $table SELECT id FROM r");
}
my $chart = flowchart(sql('SELECT trucker.graph()'));
my $visible = sub { my ($name) = @_; $name =~ s/([\x01-\x09\x0b-\x1f\x7f])/sprintf '\\x%02X', ord $1/ge; return $name; };
my %labels = map { $_ => 1 } values %{ $chart->{nodes} };
my @missing = grep { !$labels{ $visible->("$_ | stopped") } } @nasty;
is("@missing", '', 'each truck is there under its name');
@missing = grep { !$labels{ $visible->('public.' . sql("SELECT quote_ident(convert_from('\\x" . unpack('H*', $_) . "', 'UTF8'))")) } } @nasty;
is("@missing", '', '... and each table');
is(scalar @{ $chart->{edges} }, 2 * @nasty, '... with an edge from its input and one to its output, which its SQL names');
my %texts = map { $_ => 1 } shown(svg(sql(q{SELECT trucker.graph('dot')})));
# what Graphviz shows of a label is a text a line
@missing = grep { !$texts{$_} } map { split /\n/, $visible->($_) } grep { $_ ne ' ' } @nasty;
is("@missing", '', 'Graphviz shows each name');
sql('SELECT trucker.drop_truck(truck) FROM trucker.status');

# ----
# What there is to see
# ----

connect_remote($node, $there, 'ware"house');
$there->safe_psql('postgres', 'CREATE TABLE flat (id int PRIMARY KEY); ALTER TABLE flat OWNER TO writer; CREATE SCHEMA s AUTHORIZATION writer; CREATE TABLE s.log (id int); ALTER TABLE s.log OWNER TO writer');
sql(q{
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY);
CREATE TABLE b_log (id int);
CREATE FUNCTION b_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO b_log VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER note AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION b_note();
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)});
truck('ab', q('a'), 'INSERT INTO b SELECT id FROM r');
truck('bp', q('b'), 'INSERT INTO p1 SELECT id FROM r');
truck('far', q('p'), 'WITH x AS (INSERT INTO s.log SELECT id FROM r RETURNING id) INSERT INTO flat SELECT id FROM x', q(, output_connection => 'ware"house'));
truck('bad', q('a'), 'INSERT INTO b_log SELECT id / 0 FROM r', q(, options => '{"on_error": "stop"}'));
sql(q{SELECT trucker.start('ab'), trucker.start('bp'), trucker.start('far'), trucker.start('bad')});
ok(caught_up($node, $_), "$_ runs") foreach qw(ab bp far);
sql('INSERT INTO a VALUES (1)');
ok(caught_up($node, 'ab') && caught_up($node, 'bp') && caught_up($node, 'far'), 'a change goes all the way');
wait_state($node, 'bad', 'failed');
wait_state($node, $_, 'streaming') foreach qw(ab bp far);

my @all = (
	'public.a -> ab | streaming', 'ab | streaming -> public.b', 'ab | streaming -> public.b_log',
	'public.b -> bp | streaming', 'bp | streaming -> public.p1', 'public.p1 ..> public.p',
	'public.p -> far | streaming', 'far | streaming -> flat at ware"house', 'far | streaming -> s.log at ware"house',
	'public.a -> bad | failed', 'bad | failed -> public.b_log');
$chart = flowchart(sql('SELECT trucker.graph()'));
is(edges($chart), join("\n", sort @all), 'a cascade, with what triggers write, a partition, and another server');
is( join(' ', map { "$chart->{nodes}{$_} $chart->{classes}{$_}," } sort keys %{ $chart->{classes} }),
	'ab | streaming works, bad | failed fails, bp | streaming works, far | streaming works,', 'states have colours');
my $svg = svg(sql(q{SELECT trucker.graph('dot')}));
my %there = map { $_ => 1 } shown($svg);
is(join(' ', grep { !$there{$_} } qw(public.a ab streaming bad failed ware"house s.log flat public.p1 partition)), '', 'the same in Graphviz');
is(scalar(() = $svg =~ /class="edge"/g), scalar @all, '... with as many edges');

# by whom
sql(q{
CREATE ROLE other LOGIN;
CREATE ROLE watcher LOGIN;
GRANT pg_read_all_stats TO watcher;
GRANT EXECUTE ON FUNCTION trucker.create_truck(text, regclass[], text, text, name, jsonb) TO other;
CREATE TABLE others (id int PRIMARY KEY);
ALTER TABLE others OWNER TO other;
SET SESSION AUTHORIZATION other;
SELECT trucker.create_truck('mine', '{others}', output_sql => 'DELETE FROM nowhere; UPDATE others SET id = 1')});
is( edges(flowchart(sql('SET SESSION AUTHORIZATION other; SELECT trucker.graph()'))), "mine | stopped -> public.others\npublic.others -> mine | stopped",
	'who is not its owner does not see a truck; what is not there is not shown');
my $watched = edges(flowchart(sql('SET SESSION AUTHORIZATION watcher; SELECT trucker.graph()')));
like($watched, qr/far \| streaming -> \.\.\. at ware"house/, 'members of pg_read_all_stats see all trucks');
unlike($watched, qr/flat|s\.log/, '... but not what is known from their SQL only');
like($watched, qr/public\.others -> mine \| stopped/, '... likewise');
unlike($watched, qr/mine \| stopped -> /, '... here');

# SQL that cannot be rendered as a table is called now; a table that is gone
truck('renders', q('a'), '{{ if eq .input_table "public.a" }}INSERT INTO b SELECT id FROM r{{ else }}nonsense{{ end }}');
sql(q{ALTER TABLE a RENAME TO "A b"});
like(edges(flowchart(sql('SELECT trucker.graph()'))), qr/^public\."A b" -> renders \| stopped$/m, 'SQL that cannot be rendered now does no harm');
sql(q{DROP TABLE "A b"});
unlike(edges(flowchart(sql('SELECT trucker.graph()'))), qr/renders/, '... nor does a table that has been dropped');
svg(sql(q{SELECT trucker.graph('dot')}));

like(psql_err($node, q{SELECT trucker.graph('svg')}), qr/22023: +unknown format "svg" of a graph.*HINT: .*mermaid.*dot/s, 'a format that there is not');
is(sql(q{SELECT trucker.graph(NULL) IS NULL}), 't', 'no format, no graph');
is(sql(q{BEGIN READ ONLY; SELECT trucker.graph() LIKE 'flowchart%'; COMMIT}), 't', 'in a transaction that only reads');

$node->stop;
$there->stop;
done_testing();
