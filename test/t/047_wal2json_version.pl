# What the installed version of wal2json offers: from 2.6 on numbers come as strings, and
# NaN and infinity with them; what an older version cannot carry is told by start() and
# check().  The version on the disk is what counts, also when it is exchanged under a
# running server; a plugin that refuses what its library seems to offer stops nobody.
#
# TRUCKER_WAL2JSON=/path/to/wal2json.so is another version, which takes the place of the
# installed one under a running server.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $option = 'numeric-data-types-as-string';
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = trucker_node('version', conf => "dynamic_library_path = '$dir:\$libdir'\ntrucker.output_plugin = wal2json\n");
my $installed = $node->config_data('--pkglibdir') . '/wal2json.so';

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub offers
{
	my ($library) = @_;

	return slurp_file($library) =~ /\0\Q$option\E\0/ ? 1 : 0;
}

# Another library takes the place of the one that is used, in one moment.
sub put
{
	my ($content) = @_;

	append_to_file("$dir/new", $content);
	rename "$dir/new", "$dir/wal2json.so" or die "rename: $!";
	return;
}

my $numbers = q{(%d, 'NaN', 'Infinity', '-Infinity', 'NaN', 1.50, 123456789012345678901234567890.1, 0.1, -5, 9223372036854775807)};
sql(q{
CREATE TABLE n (id int PRIMARY KEY, a float8, b float4, c numeric, d numeric, e numeric(8, 2), f numeric, g float8, h smallint, i bigint);
CREATE TABLE o (LIKE n INCLUDING ALL);
CREATE TABLE s (id int PRIMARY KEY, x float8 NOT NULL);
CREATE TABLE s_o (LIKE s INCLUDING ALL);
SELECT trucker.create_truck('n', '{n}', NULL, options => '{"output_table": "o"}');
SELECT trucker.create_truck('s', '{s}', NULL, options => '{"output_table": "s_o", "stream": "s"}')});

# start() and check() tell what the version cannot carry; the truck's changes show it
sub carries
{
	my ($exact, $id, $which) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', q{SELECT trucker.start('n')});
	my $warned = $stderr =~ /WARNING:  wal2json cannot carry NaN and infinity/ ? 1 : 0;
	my $detail = sql(q{SELECT detail FROM trucker.check('n') WHERE item ~ 'installed'});

	is($warned, $exact ? 0 : 1, "$which: start() " . ($exact ? 'does not warn' : 'warns'));
	like($detail, $exact ? qr/carries all values$/ : qr/but NaN and infinity/, "$which: check() tells");
	ok(wait_state($node, 'n', 'streaming'), "$which: the truck runs");
	sql('INSERT INTO n VALUES ' . sprintf($numbers, $id));
	sql("UPDATE n SET h = h + 1 WHERE id = $id");
	ok(caught_up($node, 'n'), "$which: it has caught up");
	same($node, "SELECT id, e, f, g, h, i FROM n WHERE id = $id", "SELECT id, e, f, g, h, i FROM o WHERE id = $id", "$which: numbers arrive");
	is(sql("SELECT concat_ws(' ', a, b, c, d) FROM o WHERE id = $id"), $exact ? 'NaN Infinity -Infinity NaN' : '', "$which: NaN and infinity " . ($exact ? 'arrive' : 'do not'));
	sql(q{SELECT trucker.stop('n')});
	wait_state($node, 'n', 'stopped');
	return;
}

carries(offers($installed), 1, 'the installed version');
if (offers($installed))
{
	# one that does not know the option, as far as can be seen
	put(slurp_file($installed) =~ s/\0\Q$option\E\0/\0x$option\0/sr =~ s/\0x\Q$option\E\0/\0unknown-data-types-as-string\0/sr);
	carries(0, 2, 'an older version');
	unlink "$dir/wal2json.so";
	carries(1, 3, 'the installed version again');
}
else
{
	# a NULL where the column allows none is seen
	sql(q{SELECT trucker.start('s')});
	ok(wait_state($node, 's', 'streaming'), 's runs');
	sql(q{INSERT INTO s VALUES (1, 'NaN')});
	ok(wait_state($node, 's', [ 'retrying', 'failed' ]), 'a value that is lost stops the truck where its column is NOT NULL');
	like(sql(q{SELECT last_error FROM trucker.status WHERE truck = 's'}), qr/holds NaN or infinity, which this version of wal2json cannot carry/, '... and the error says why');
	sql(q{SELECT trucker.drop_truck('s')});

	# a library that has the option's name in it, and refuses the option
	put(slurp_file($installed) . "\0$option\0");
	my $offset = -s $node->logfile;
	sql(q{SELECT trucker.start('n')});
	sql('INSERT INTO n VALUES ' . sprintf($numbers, 4));
	ok(caught_up($node, 'n'), 'a plugin that refuses the option is used without it');
	my $log = slurp_file($node->logfile, $offset);
	like($log, qr/ERROR:  option "\Q$option\E" = "1" is unknown/, '... after an error');
	like($log, qr/LOG:  output plugin "wal2json" is used without the option "\Q$option\E".*DETAIL:.*arrive as NULL/s, '... and the log says what that means');
	sql(q{SELECT trucker.stop('n')});
	wait_state($node, 'n', 'stopped');
	unlink "$dir/wal2json.so";
}

# With TRUCKER_WAL2JSON, the file of another version of the library: that one also.
foreach my $other (grep { defined } $ENV{TRUCKER_WAL2JSON})
{
	put(slurp_file($other));
	carries(offers($other), 5, "the version in $other");
	sql(q{SELECT trucker.start('n')});
	ok(wait_state($node, 'n', 'streaming'), 'the truck streams');
	unlink "$dir/wal2json.so";
	sql('INSERT INTO n VALUES ' . sprintf($numbers, 6));
	ok(caught_up($node, 'n'), 'a stream goes on with the version that it began with');
	is(sql(q{SELECT concat_ws(' ', a, b, c, d) FROM o WHERE id = 6}), offers($other) ? 'NaN Infinity -Infinity NaN' : '', '... until it begins anew');
	sql(q{SELECT trucker.stop('n')});
	wait_state($node, 'n', 'stopped');
	carries(offers($installed), 7, 'the installed version behind it');
}

$node->stop;
done_testing();
