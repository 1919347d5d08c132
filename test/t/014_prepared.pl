# Two-phase commit: what a prepared transaction has changed arrives when it is
# committed, not before, in the order of the commits, once; also across a crash in
# between, and not at all when it is rolled back.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('prepared', conf => 'max_prepared_transactions = 10');

$node->safe_psql(
	'postgres', q{
	CREATE TABLE s (id int PRIMARY KEY, v int);
	CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, id int, v int);
	SELECT trucker.create_truck('log', '{s}',
		'INSERT INTO log (id, v) SELECT id, v FROM r ORDER BY meta__seq');
	SELECT trucker.start('log');
});
ok(caught_up($node, 'log'), 'the truck has caught up');

sub logged
{
	return $node->safe_psql('postgres', q{SELECT string_agg(id || ':' || v, ' ' ORDER BY n) FROM log});
}

$node->safe_psql('postgres', q{BEGIN; INSERT INTO s VALUES (1, 1); PREPARE TRANSACTION 'one'});
$node->safe_psql('postgres', q{BEGIN; INSERT INTO s VALUES (2, 2); SAVEPOINT a; INSERT INTO s VALUES (3, 3); RELEASE a; PREPARE TRANSACTION 'two'});
$node->safe_psql('postgres', q{BEGIN; INSERT INTO s VALUES (4, 4); PREPARE TRANSACTION 'never'});
$node->safe_psql('postgres', 'INSERT INTO s VALUES (5, 5)');
ok(caught_up($node, 'log'), 'changes beside prepared transactions arrive');
is(logged(), '5:5', 'those of the prepared ones do not');

$node->safe_psql('postgres', q{COMMIT PREPARED 'two'});
ok(caught_up($node, 'log'), 'a prepared transaction is committed');
is(logged(), '5:5 2:2 3:3', 'and arrives, in the order of the commits');

$node->stop('immediate');
$node->start;
ok(caught_up($node, 'log'), 'the truck goes on after a crash');
is(logged(), '5:5 2:2 3:3', 'with nothing more');

$node->safe_psql('postgres', q{ROLLBACK PREPARED 'never'; COMMIT PREPARED 'one'});
ok(caught_up($node, 'log'), 'the others are ended');
is(logged(), '5:5 2:2 3:3 1:1', 'what was committed arrives, what was rolled back does not');
same($node, 'SELECT id, v FROM s', 'SELECT id, v FROM log', 'the destination is right');

$node->stop;
done_testing();
