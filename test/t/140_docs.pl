# What the documents say is so: every SQL block of README.md and of the tutorial runs, in
# order, on a real server, and prints what the text shows; every function, view and
# setting that there is stands in the reference, with its arguments, and in the catalog with
# a comment; the states of the diagram are those of the code.
#
# How blocks are read:
#   ```sql		is run by psql.  A path /srv/shop is a folder of the test's
#   ``` 		with lines "# SQL;": each is run, and prints the lines that follow it; right
#				behind SQL without such lines: what the first statement there prints; else only text
#   <!-- docs: ... -->	in the line before a block:
#     later NAME	it is run where a line of a later block says "NAME, from the top of this page"
#     file PATH		it is written to that file
#     in DATABASE	it is run there
#     database NAME	it makes a database, whose server's address is the test's
#     wait SQL		wait until that is true first
#     not run: WHY	it is not
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use File::Basename qw(dirname);
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $tree = "$FindBin::RealBin/../..";
my $node = trucker_node('docs', extension => 0, conf => "trucker.retry_max_delay = '1s'\n");
my $shop = $node->basedir . '/shop';
my $not_run = 0;

# blocks($text): each block as [ language, body, marker, line ]
sub blocks
{
	my ($text) = @_;
	my ($marker, $block, @blocks) = ('');
	my $number = 0;

	foreach my $line (split /\n/, $text)
	{
		$number++;
		if ($block && $line eq '```')
		{
			push @blocks, $block;
			($block, $marker) = (undef, '');
		}
		elsif ($block) { $block->[1] .= "$line\n"; }
		elsif ($line =~ /^```(\w*)$/) { $block = [ $1, '', $marker, $number ]; }
		else { $marker = $line =~ /^<!-- docs: (.*) -->$/ ? $1 : ''; }
	}
	die "a block does not end" if $block;
	return @blocks;
}

# Where things are on this machine.
sub here
{
	my ($text) = @_;
	my ($host, $port) = ($node->host, $node->port);

	$text =~ s{/srv/shop}{$shop}g;
	$text =~ s{host '/var/run/postgresql'}{host '$host', port '$port'};
	$text =~ s{OPTIONS \(user 'postgres'\)}{"OPTIONS (user '" . $node->safe_psql('postgres', 'SELECT current_user') . "')"}e;
	return $text;
}

# run($database, $sql): what psql prints, without errors; tables without footers
sub run
{
	my ($database, $sql) = @_;
	my ($stdout, $stderr) = ('', '');
	my $ok = IPC::Run::run([ $node->installed_command('psql'), '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-P', 'footer=off', '-d', $node->connstr($database) ],
		'<', \$sql, '>', \$stdout, '2>', \$stderr);

	$stdout =~ s/[ \t]+$//mg;
	$stdout =~ s/\s+\z/\n/;
	return ($ok, $stdout, $stderr);
}

# As a table looks, whatever the width of its columns.
sub cells
{
	my ($table) = @_;
	my @lines = grep { !/^[-+]+$/ && /\S/ } split /\n/, $table;

	return join "\n", map { join '|', map { s/^\s+|\s+$//gr } split /\|/, $_, -1 } @lines;
}

# document($name, $database, $before): run it
sub document
{
	my ($name, $database, $before) = @_;
	my ($ran, $compared, $printed, %later) = (0, 0, '');

	foreach my $block (blocks(slurp_file("$tree/$name")))
	{
		my ($language, $body, $marker, $line) = @$block;
		my ($in) = $marker =~ /^in (\w+)$/ ? $1 : $database;

		if ($marker =~ /^not run: \S/) { $not_run++; next; }
		if ($marker =~ /^later (\w+)$/) { $later{$1} = $body; next; }
		if ($marker =~ /^file (\S+)$/)
		{
			my $path = here($1);
			make_path(dirname($path));
			append_to_file($path, $body);
			next;
		}
		$node->poll_query_until($in, $1) if $marker =~ /^wait (.*)$/;
		$body = here($body);
		if ($language eq 'sql')
		{
			$before->($body) if $before;
			$body =~ s/^-- .*\b(\w+), from the top of this page.*$/delete $later{$1} \/\/ die "line $line: there is no block $1"/mge;
			my ($ok, $stdout, $stderr) = run($in, $body);
			ok($ok, "$name, line $line: runs") or diag $stderr;
			unlike($stdout, qr/ wait_for\n-+\n f/, "$name, line $line: what is waited for comes") if $body =~ /wait_for/;
			$printed = $stdout;
			$ran++;
		}
		elsif ($language eq '' && $body =~ /^# /)
		{
			foreach my $part (split /^(?=# )/m, $body)
			{
				my ($sql, $expected) = $part =~ /\A# (.*)\n(.*)\z/s;
				($sql, $expected) = ($1, $2) if $part =~ /\A# ([^\n]*)\n(.*)\z/s;
				my ($ok, $stdout, $stderr) = run($in, $sql);
				is(cells($stdout . $stderr), cells($expected), "$name, line $line: prints what it shows");
				$compared++;
			}
		}
		elsif ($language eq '' && $printed ne '' && $body =~ /^-+\+-+/m)
		{
			my ($first) = split /\n\n/, $printed;
			is(cells($first), cells($body), "$name, line $line: prints what it shows");
			$compared++;
		}
		$printed = '' if $language ne 'sql';
	}
	is(join(' ', keys %later), '', "$name: each block that is run later is");
	cmp_ok($ran, '>=', 5, "$name: blocks have been run");
	cmp_ok($compared, '>=', 4, "$name: outputs have been compared");
	return;
}

# In the README the project's SQL is "what is above".
my $readme = slurp_file("$tree/README.md");
my ($input)  = $readme =~ /'order_flat',\n.*?input_sql => \$\$(.*?)\$\$/s;
my ($output) = $readme =~ /'order_flat',\n.*?output_sql => \$\$(.*?)\$\$/s;
make_path("$shop/order_flat");
append_to_file("$shop/order_flat/input.sql", $input);
append_to_file("$shop/order_flat/output.sql", $output);
append_to_file("$shop/order_flat/reset.sql", 'TRUNCATE order_flat');
$node->safe_psql('postgres', 'CREATE DATABASE readme');
document('README.md', 'readme', sub {
	# "A truck that was made by hand is not taken over: drop it first, and empty what it has written"
	$node->safe_psql('readme', q{SELECT trucker.drop_truck('order_flat'); TRUNCATE order_flat}) if $_[0] =~ /trucker\.plan/;
});
ok(caught_up($node, 'order_flat', db => 'readme'), 'the truck of the README\'s project runs');
$node->safe_psql('readme', 'SELECT trucker.drop_truck(name) FROM trucker.truck');

File::Path::remove_tree($shop);
$node->safe_psql('postgres', 'CREATE DATABASE tutorial');
document('doc/tutorial.md', 'tutorial');
is($not_run, 0, 'no block is left out');

# ----
# The reference
# ----
my $reference = slurp_file("$tree/doc/reference.md");
my @headings = $reference =~ /^#+ (.*)$/mg;

sub rows
{
	return split /\n/, $node->safe_psql('tutorial', $_[0]);
}

# of functions that are not for users, a heading will do
my $internal = qr/^(truck_workers|stream_workers|waiting_for|wal_warning|input_parts|input_columns|type_marks|columns_made_of|migration_status|truck_stats|stream_stats|backfills|truck_latencies|metric_labels|fdw_validator)$/;
my $functions = 0;
foreach (rows(q{
	SELECT p.proname, coalesce(string_agg(quote_ident(a.name) || ' ' || format_type(a.type, NULL), ', ' ORDER BY a.n), '')
	FROM pg_proc p LEFT JOIN LATERAL unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes::text[]) WITH ORDINALITY AS a(name, type, mode, n)
		ON a.type IS NOT NULL AND coalesce(a.mode, 'i') = 'i'
	WHERE p.pronamespace = 'trucker'::regnamespace GROUP BY p.oid, p.proname ORDER BY 1, 2}))
{
	my ($function, $arguments) = /^(.*?)\|(.*)$/;

	$functions++;
	ok((grep { /\btrucker\.\Q$function\E\b/ } @headings), "reference: $function has a heading");
	next if $function =~ $internal;
	my @shown = map {
		my $text = $_ =~ s/\s+/ /gr;
		$text =~ s/ DEFAULT (?:'[^']*'|[^,')]+)//g;
		$text =~ s/\s*,\s*/, /g;
		$text
	} $reference =~ /^(?:CALL )?trucker\.\Q$function\E\(((?:[^()']|'[^']*')*)\)/mg;
	$arguments =~ s/timestamp with time zone/timestamptz/g;
	ok((grep { $_ eq $arguments } @shown), "reference: $function($arguments) is shown") or diag "shown: $_" foreach \@shown ? join(' / ', @shown) : 'nothing';
}
cmp_ok($functions, '>=', 30, 'there are functions');
foreach my $view (rows(q{SELECT relname FROM pg_class WHERE relnamespace = 'trucker'::regnamespace AND relkind = 'v'}))
{
	ok((grep { /view trucker\.\Q$view\E\b/ } @headings), "reference: the view $view has a heading");
	my ($section) = $reference =~ /^#+ The view trucker\.\Q$view\E\n(.*?)^#/ms;
	my @missing = grep { ($section // '') !~ /`\Q$_\E`/ } rows("SELECT attname FROM pg_attribute WHERE attrelid = 'trucker.$view'::regclass AND attnum > 0");
	is(join(' ', @missing), '', "reference: each column of $view is explained");
}
# those for tests of trucker itself are not for users
my @settings = rows(q{SELECT name FROM pg_settings WHERE name LIKE 'trucker.%' ORDER BY 1});
cmp_ok(scalar @settings, '>=', 20, 'there are settings');
foreach my $setting (grep { !/^trucker\.(stop_point|test_truck|test_output|test_batch_until)$/ } @settings)
{
	like($reference, qr/^\| `\Q$setting\E` \|/m, "reference: the setting $setting");
}
foreach my $setting ($reference =~ /^\| `(trucker\.\w+)` \|/mg)
{
	ok((grep { $_ eq $setting } @settings), "the setting $setting of the reference exists");
}
is(join("\n", rows(q{
	SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'trucker'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
	UNION ALL SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'trucker'::regnamespace AND relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL
	UNION ALL SELECT fdwname::text FROM pg_foreign_data_wrapper WHERE fdwname = 'trucker' AND obj_description(oid, 'pg_foreign_data_wrapper') IS NULL
	UNION ALL SELECT name FROM pg_settings WHERE name LIKE 'trucker.%' AND coalesce(short_desc, '') = ''})), '', 'everything has a comment');

# ----
# The states
# ----
my ($states)  = $reference =~ /^## States\n(.*?)^## /ms;
my ($diagram) = slurp_file("$tree/doc/architecture.md") =~ /```mermaid\nstateDiagram-v2\n(.*?)```/s;
my ($code)    = slurp_file("$tree/src/shmem.c") =~ /^trucker_state_name\(.*?^\}/ms ? $& : '';
my %of_code   = map { $_ => 1 } grep { $_ ne 'unknown' } $code =~ /return "([^"]+)"/g;
$of_code{$_} = 1 foreach rows(q{SELECT (regexp_matches(pg_get_viewdef('trucker.status'::regclass), $$THEN '(lost|failed|stopped|stopping|starting)'::text|ELSE '(stopping)'$$, 'g'))[1]});
delete $of_code{''};
$of_code{stopping} = 1;
my %of_reference = map { $_ => 1 } $states =~ /^\| `([^`]+)` \|/mg;
my %of_diagram = map { tr/_/ /r =~ s/^catch up$/catch-up/r => 1 } grep { $_ ne '[*]' } $diagram =~ /^\s*(\S+) --> (\S+?):? /mg;
is(join(', ', sort keys %of_reference), join(', ', sort keys %of_code), 'the reference has the states of the code');
is(join(', ', sort keys %of_diagram), join(', ', sort keys %of_code), 'the diagram has the states of the code');

$node->stop;
done_testing();
