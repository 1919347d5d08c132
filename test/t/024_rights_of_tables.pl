# Whoever owns an input table lends its code to nobody: CHECKs of domains and expressions
# of generated columns run with the owner's rights, not with those of the trucks that read
# the table; with both output plugins, in changes, in quarantine and out of it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $node = trucker_node('rights_of_tables');

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# The owner's functions try to become a superuser, and note whose rights they have.
sql(q{
CREATE ROLE mallory LOGIN;
CREATE SCHEMA mal AUTHORIZATION mallory;
SET ROLE mallory;
CREATE TABLE mal.seen (what text, who text, has_rights boolean);
CREATE FUNCTION mal.climb(what text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	climbed boolean := false;
BEGIN
	BEGIN
		EXECUTE 'ALTER ROLE mallory SUPERUSER';
		climbed := true;
	EXCEPTION WHEN OTHERS THEN
	END;
	BEGIN
		RESET ROLE;
		RESET SESSION AUTHORIZATION;
	EXCEPTION WHEN OTHERS THEN
	END;
	INSERT INTO mal.seen VALUES (what, current_user, climbed);
	RETURN true;
END $$;
CREATE FUNCTION mal.twice(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM mal.climb('generated');
	RETURN id * 2;
END $$;
CREATE DOMAIN mal.dom AS int CHECK (mal.climb('domain'));
CREATE TYPE mal.pair AS (a mal.dom, b int);
CREATE TABLE mal.t (id int PRIMARY KEY, d mal.dom, many mal.dom[], p mal.pair, g int GENERATED ALWAYS AS (mal.twice(id)) STORED);
ALTER TABLE mal.t REPLICA IDENTITY FULL;
RESET ROLE;
CREATE TABLE wal2json_copy (id int, d int, g int);
CREATE TABLE pgoutput_copy (id int, d int, g int);
});
foreach my $plugin (qw(wal2json pgoutput))
{
	sql(qq{SELECT trucker.set_output_plugin('$plugin', '$plugin');
SELECT trucker.create_truck('$plugin', '{mal.t}', 'INSERT INTO ${plugin}_copy SELECT id, d, g FROM r WHERE many IS NOT NULL AND p IS NOT NULL', options => '{"stream": "$plugin", "on_error": "quarantine"}')});
	sql("SELECT trucker.start('$plugin')");
	ok(wait_state($node, $plugin, 'streaming'), "$plugin: streams");
}

# What is noted is what trucks run: they rest while the table is written.
sub written
{
	my ($role, $dml) = @_;

	foreach my $truck (qw(wal2json pgoutput))
	{
		sql("SELECT trucker.stop('$truck')");
		ok(wait_state($node, $truck, 'stopped'), "$truck: is stopped");
	}
	$node->safe_psql('postgres', "$dml; DELETE FROM mal.seen", extra_params => [ '-U', $role ]);
	sql("SELECT trucker.start('$_')") foreach qw(wal2json pgoutput);
	return;
}
written('mallory', q{INSERT INTO mal.t VALUES (1, 1, '{1,2}', '(3,4)'); UPDATE mal.t SET d = 5});
foreach my $plugin (qw(wal2json pgoutput))
{
	ok(caught_up($node, $plugin), "$plugin: catches up");
	is(sql("SELECT string_agg(concat_ws(' ', id, d, g), ', ' ORDER BY d) FROM ${plugin}_copy"), '1 1 2, 1 5 2', "$plugin: values are right");
}
isnt(sql(q{SELECT count(*) FROM mal.seen WHERE what = 'domain'}), '0', 'CHECKs of domains run');
isnt(sql(q{SELECT count(*) FROM mal.seen WHERE what = 'generated'}), '0', 'expressions of generated columns run, where the plugin does not send them');
is(sql(q{SELECT string_agg(DISTINCT who, ' ') FROM mal.seen}), 'mallory', 'with the rights of the owner of the table, and of nobody else');
is(sql(q{SELECT bool_or(has_rights) FROM mal.seen}), 'f', 'which are not enough');
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'to climb');

# another owner: another one's rights
sql(q{CREATE ROLE heir LOGIN; GRANT ALL ON SCHEMA mal TO heir; GRANT ALL ON mal.seen TO heir; ALTER TABLE mal.t OWNER TO heir});
written('heir', 'UPDATE mal.t SET d = 6');
ok(caught_up($node, $_), "$_: catches up after the table got another owner") foreach qw(wal2json pgoutput);
is(sql(q{SELECT string_agg(DISTINCT who, ' ') FROM mal.seen}), 'heir', 'whose rights count then');

done_testing();
