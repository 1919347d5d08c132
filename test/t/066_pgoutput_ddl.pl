# DDL on input tables: all of 036_ddl.pl once more, with streams that pgoutput decodes.
use strict;
use warnings;

use FindBin;

$ENV{TRUCKER_OUTPUT_PLUGIN} = 'pgoutput';
do "$FindBin::RealBin/036_ddl.pl";
die $@ if $@;
