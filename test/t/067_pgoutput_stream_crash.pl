# Crashes while trucks move: all of 059_stream_crash.pl once more, with streams that pgoutput decodes.
use strict;
use warnings;

use FindBin;

$ENV{TRUCKER_OUTPUT_PLUGIN} = 'pgoutput';
do "$FindBin::RealBin/059_stream_crash.pl";
die $@ if $@;
