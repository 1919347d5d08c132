#!/usr/bin/perl
# tap.pl: run TAP tests as prove does, and write to a file what became of them:
#
#   tap.pl RESULT_FILE TEST...
#
# RESULT_FILE gets "passed N", "failed N", "skipped N" (in tests, not files; what
# was skipped or is TODO is not passed) and a line "bad FILE" for each test file
# that failed.  A file that breaks off without a failed test counts as one.
# TEST_JOBS: files at a time; TEST_VERBOSE: print each test.
use strict;
use warnings;

use TAP::Harness;

my ($result_file, @tests) = @ARGV;

my $harness = TAP::Harness->new(
	{
		jobs      => $ENV{TEST_JOBS} || 2,
		timer     => 1,
		verbosity => $ENV{TEST_VERBOSE} ? 1 : 0,
		color     => 0,
	});
my $aggregate = $harness->runtests(@tests);

my ($passed, $failed, $skipped) = (0, 0, 0);
my @bad;

foreach my $file ($aggregate->descriptions)
{
	my ($parser) = $aggregate->parsers($file);
	my %not_really = map { $_ => 1 } $parser->skipped, $parser->todo;
	my @failures = $parser->failed;

	$passed += grep { !$not_really{$_} } $parser->passed;
	$skipped += $parser->skip_all ? 1 : scalar keys %not_really;
	if ($parser->has_problems && !@failures)
	{
		$failed++;
	}
	$failed += @failures;
	push @bad, $file if $parser->has_problems;
}

open my $out, '>', $result_file or die "could not write \"$result_file\": $!";
print $out "passed $passed\nfailed $failed\nskipped $skipped\n";
print $out "bad $_\n" foreach @bad;
close $out or die "could not write \"$result_file\": $!";

exit(@bad ? 1 : 0);
