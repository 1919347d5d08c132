# StartTest.pm: what the tests of start() and its errors share.  $node is the server that
# they are about just now.
package StartTest;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TruckerTest;

our @EXPORT = qw($node sql raises starts mirror create drop);

our $node;

# sql($statements...): run them in database postgres.
sub sql
{
	$node->safe_psql('postgres', $_) foreach @_;
	return;
}

# raises($sql, $sqlstate, $message, $hint, $test_name): the statement fails, with
# this SQLSTATE, message and hint (undef: none).  Returns the whole error.
sub raises
{
	my ($sql, $sqlstate, $message, $hint, $test_name, %opts) = @_;
	my $error = psql_err($node, $sql, %opts);
	$error =~ s/^.*(?=^\S*psql:\S+ (?:ERROR|FATAL):)//ms;	# warnings before it
	my ($state, $text) = $error =~ /(?:ERROR|FATAL):  (\w{5}): (.*)/;
	my ($said) = $error =~ /^HINT:  (.*?)\n(?:CONTEXT|LOCATION|QUERY|LINE)/ms;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	subtest $test_name => sub {
		is($state, $sqlstate, 'SQLSTATE');
		like($text // '', $message, 'message');
		defined $hint ? like($said // '', $hint, 'hint') : is($said, undef, 'no hint');
	} or diag $error;
	return $error;
}

# starts($truck, $test_name): start() succeeds and the truck streams.
sub starts
{
	my ($truck, $test_name) = @_;
	my $error = psql_err($node, "SELECT trucker.start('$truck')");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($error =~ s/^.*WARNING:(?:.|\n)*//r, '', "$test_name: start() finds nothing wrong");
	ok(wait_state($node, $truck, 'streaming'), "$test_name: the truck streams");
	return;
}

# The SQL of a mirror of table $from (id, v) in table $to.
sub mirror
{
	my ($from, $to) = @_;

	return qq{'$to', ARRAY['$from'::regclass], \$\$
		DELETE FROM $to USING r WHERE r.meta__operation <> 'insert' AND $to.id = r.old__id;
		INSERT INTO $to SELECT id, v FROM r WHERE meta__operation <> 'delete'
			ON CONFLICT (id) DO UPDATE SET v = excluded.v\$\$};
}

# create(@arguments) makes a truck; warnings (it is a superuser's) do not matter here.
sub create
{
	my ($arguments) = @_;
	my ($name) = $arguments =~ /^'((?:[^']|'')*)'/;

	# what a test that failed has left must not make the next one fail
	sql("SELECT trucker.drop_truck(truck) FROM trucker.status WHERE truck = '$name'",
		"SET client_min_messages = error; SELECT trucker.create_truck($arguments)");
	return;
}

# drop($truck, ...)
sub drop
{
	sql("SELECT trucker.drop_truck('$_')") foreach @_;
	return;
}

1;
