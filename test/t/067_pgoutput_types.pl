# ALTER TYPE of columns' types: all of 039_types_altered.pl once more, with streams that pgoutput decodes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

# what must be loaded before a program runs, and not by one that it reads
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

$ENV{TRUCKER_OUTPUT_PLUGIN} = 'pgoutput';
do "$FindBin::RealBin/039_types_altered.pl";
die $@ if $@;
