# Exactly once, across crashes under load: all of 010_exactly_once.pl once more, with streams that pgoutput decodes.
use strict;
use warnings;

use FindBin;

$ENV{TRUCKER_OUTPUT_PLUGIN} = 'pgoutput';
do "$FindBin::RealBin/010_exactly_once.pl";
die $@ if $@;
