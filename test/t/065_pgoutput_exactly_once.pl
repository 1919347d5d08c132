# Exactly once, across crashes under load: all of 010_exactly_once.pl once more, with streams that pgoutput decodes,
# and transactions that are sent while they run as soon as the server can.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

# what must be loaded before a program runs, and not by one that it reads
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

$ENV{TRUCKER_OUTPUT_PLUGIN} = 'pgoutput';
$ENV{TRUCKER_TEST_CONF} = 'logical_decoding_work_mem = 64kB';
do "$FindBin::RealBin/010_exactly_once.pl";
die $@ if $@;
