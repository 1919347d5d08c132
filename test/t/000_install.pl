# The extension installs as its control file says, documents itself, and goes
# without a trace: what CREATE EXTENSION makes, DROP EXTENSION takes away.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('install', extension => 0);
my $tree = "$FindBin::RealBin/../..";

# Every kind of object an extension can hold that has a catalog of its own, by name.
my $everything = q{
	SELECT classid::regclass::text || ' ' || identity
	FROM (
		SELECT 'pg_class'::regclass AS classid, oid AS objid FROM pg_class
		UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
		UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type
		UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
		UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger
		UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
		UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
		UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
		UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
		UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension
		UNION ALL SELECT 'pg_authid'::regclass, oid FROM pg_authid
		UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace
			WHERE nspname !~ '^pg_(toast_)?temp_'
	) AS o, pg_identify_object(classid, objid, 0)
	UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots
	ORDER BY 1};
my $before = $node->safe_psql('postgres', $everything);

my $control = slurp_file("$tree/trucker.control");
my ($version) = $control =~ /^default_version = '(.*)'$/m;

$node->safe_psql('postgres', 'CREATE EXTENSION trucker');
is( $node->safe_psql('postgres',
		q{SELECT extversion || ' ' || nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'trucker'}
	),
	"$version pg_catalog",
	'the control file\'s version is installed');
is( $node->safe_psql('postgres',
		q{SELECT deptype FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = 'trucker'::regnamespace AND refclassid = 'pg_extension'::regclass}),
	'e', 'schema trucker belongs to the extension');
like(slurp_file("$tree/META.json"), qr/"version": "\Q$version\E\.\d+"/,
	'META.json tells the same version');
isnt($node->safe_psql('postgres', $everything),
	$before, 'the list of objects sees what the extension makes');

is( $node->safe_psql(
		'postgres', q{
	SELECT p.oid::regprocedure::text FROM pg_proc p
	WHERE pronamespace = 'trucker'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
	UNION ALL
	SELECT oid::regclass::text FROM pg_class
	WHERE relnamespace = 'trucker'::regnamespace AND relkind IN ('v', 'm', 'r') AND obj_description(oid, 'pg_class') IS NULL
	ORDER BY 1}),
	'', 'every function, view and table has a comment');
isnt( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'trucker'::regnamespace}),
	'0', 'there are functions to comment');

is($node->safe_psql('postgres', 'SELECT count(*) FROM trucker.status'),
	'0', 'the status view works and shows no truck');

$node->safe_psql('postgres', 'DROP EXTENSION trucker');
is($node->safe_psql('postgres', $everything),
	$before, 'DROP EXTENSION leaves nothing');
$node->safe_psql('postgres', 'CREATE EXTENSION trucker; DROP EXTENSION trucker');
is($node->safe_psql('postgres', $everything),
	$before, 'and it can be created again');

unlike(slurp_file($node->logfile), qr/\b(PANIC|FATAL|WARNING):/, 'nothing alarming in the log');
$node->stop;

done_testing();
