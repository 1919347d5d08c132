# The connections of a project.  One that leads to this very database is no other one, as
# in projects of trucker's predecessor, which run unchanged; any other one becomes a
# foreign server with user mappings for who writes there.  Passwords are in the mapping
# or in their file, and nowhere else: not in what plan() shows, not in an error or the
# log.  What others have made is neither used nor touched.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerProject;
use TruckerRemote;
use TruckerTest;

$ENV{TRUCKER_TEST_HOST} = '127.0.0.1';
$ENV{TRUCKER_TEST_PASS} = 'geheim-aus-der-umgebung';

my $node = trucker_node('connections', start => 0, conf => "listen_addresses = '127.0.0.1'\n");
{
	my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
	unlink $node->data_dir . '/pg_hba.conf';
	append_to_file($node->data_dir . '/pg_hba.conf', "host all all 127.0.0.1/32 scram-sha-256\n$hba");
}
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION trucker');
my $remote = remote_node('warehouse', password => 'geheim-im-lager');
my ($port, $remote_port) = ($node->port, $remote->port);

sub sql
{
	my (@statements) = @_;
	my $result = '';

	$result = $node->safe_psql('postgres', "SET client_min_messages = error; $_") foreach @statements;
	return $result;
}

# steps($function, $project): what it returns, but for what stays as it is
sub steps
{
	my ($function, $project, $before) = @_;

	return sql(($before // '') . "; SELECT string_agg(action || ' ' || kind || ' ' || name, '; ')
		FROM trucker.$function('" . $project->dir . "') WHERE action <> 'none'");
}

sub detail
{
	my ($project, $name) = @_;

	return sql("SELECT detail FROM trucker.plan('" . $project->dir . "') WHERE name = '$name'");
}

# options($what): of which server or mapping there are, without the values of secrets
sub servers
{
	return sql(q{SELECT string_agg(srvname || ': ' || coalesce(array_to_string(srvoptions, ', '), ''), '; ' ORDER BY srvname) FROM pg_foreign_server});
}

sub mappings
{
	return sql(q{SELECT string_agg(srvname || ' ' || usename || ': ' || regexp_replace(array_to_string(umoptions, ', '), 'password=[^,]*', 'password'), '; ' ORDER BY srvname, usename) FROM pg_user_mappings});
}

sql(q{
CREATE ROLE trucker LOGIN PASSWORD 'geheim-aus-der-umgebung';
CREATE ROLE etl;
CREATE TABLE drinks (id integer PRIMARY KEY, name text, kind_id integer);
CREATE TABLE kinds (id integer PRIMARY KEY, name text);
CREATE TABLE drinks_flat (id integer PRIMARY KEY, name text, kind text);
INSERT INTO kinds VALUES (1, 'tea'), (2, 'coffee');
INSERT INTO drinks VALUES (1, 'assam', 1), (2, 'robusta', 2);
GRANT SELECT ON drinks, kinds TO etl;
});
my $me = sql('SELECT current_user');

# ---- a project of the predecessor

my $project = project($node, 'predecessor')->put(
	'trucker.yml' => qq{metrics_addr: ":9090"
unique_id: drinks
connections:
- name: pgconn
  adapter: postgres
  host: {{ or .TRUCKER_TEST_HOST "postgres" }}
  port: $port
  database: postgres
  user: trucker
  pass: {{ .TRUCKER_TEST_PASS }}
},
	'flat/truck.yml' => qq{input:
  connection: pgconn
  table: public.drinks
output:
  connection: pgconn
  table: public.drinks_flat
},
	'flat/input.sql' => q{SELECT r.id, r.name, k.name kind
FROM {{ .rows }} r
JOIN kinds k ON r.kind_id = k.id;
},
	'flat/output.sql' => q{INSERT INTO public.drinks_flat (id, name, kind)
SELECT id, name, kind FROM {{ .rows }};
});
is(steps('load', $project), 'create truck flat', 'a project of the predecessor is loaded');
is(servers(), '', 'a connection to this very database needs no foreign server');
is(sql('SELECT output_connection FROM trucker.truck'), 'local', '... and is local');
sql("SELECT trucker.start('flat')");
ok(caught_up($node, 'flat'), 'it runs');
sql("INSERT INTO drinks VALUES (3, 'oolong', 1)");
ok(caught_up($node, 'flat'), '... and follows');
is(sql("SELECT string_agg(name || ' ' || kind, ', ' ORDER BY id) FROM drinks_flat"), 'assam tea, robusta coffee, oolong tea', '... and writes what it should');
is(steps('plan', $project), '', 'nothing to do');
my $elsewhere = slurp_file($project->dir . '/trucker.yml');
$project->put('trucker.yml' => $elsewhere =~ s/port: $port/port: $remote_port/r =~ s/user: trucker/user: writer/r =~ s/pass: .*/pass: geheim-im-lager/r);
is_deeply([ errors($node, $project) ], [
		'flat/truck.yml: line 2, column 15: input connection "pgconn" does not lead to this database, and a truck reads the database that it is in',
		'flat: truck "flat" writes to connection "local", which cannot be changed to "pgconn".  SELECT trucker.drop_truck(\'flat\') first: it is made anew then, and loads its new destination' ],
	'an input connection must lead here');
$project->put('trucker.yml' => $elsewhere =~ s/pass: .*/pass: falsch-geheim/r);
like((errors($node, $project))[0], qr/whether the input connection leads to this database cannot be found out: could not connect to connection "pgconn"\.  FATAL:  password authentication failed for user \(user\)/,
	'... and that can be seen');
$project->put('trucker.yml' => "unique_id: drinks\nconnections:\n- name: pgconn\n");
is(steps('plan', $project), '', 'a connection that names no other host is this database');
$project->put('trucker.yml' => "unique_id: drinks\nconnections:\n- { name: pgconn, port: 1 }\n");
like((errors($node, $project))[0], qr/whether the input connection leads to this database cannot be found out: connection "pgconn" does not name a user/, '... unless its port is another one');

# ---- a connection to another server, its values in files

$project->put(
	'trucker.yml' => qq{unique_id: drinks
connections:
- name: pgconn
- name: warehouse
  adapter: postgres
  host_path: secrets/host
  port_path: secrets/port
  database_path: secrets/database
  user_path: secrets/user
  pass_path: secrets/pass
  ssl_path: secrets/ssl
  options: { connect_timeout: 7 }
},
	'secrets/host' => " 127.0.0.1\n", 'secrets/port' => "$remote_port\n", 'secrets/database' => 'postgres',
	'secrets/user' => "writer\n", 'secrets/pass' => "geheim-im-lager\n", 'secrets/ssl' => "false\n",
	'away/truck.yml' => "input: { connection: pgconn, table: drinks }\noutput: { connection: warehouse, table: drinks, mode: mirror }\n");
$remote->safe_psql('postgres', 'CREATE TABLE drinks (id integer PRIMARY KEY, name text, kind_id integer); ALTER TABLE drinks OWNER TO writer');
is(steps('plan', $project), "create connection warehouse; create user mapping warehouse for $me; create truck away", 'a connection to another server');
is(detail($project, 'warehouse'), 'options: host, port, dbname, sslmode, connect_timeout', '... with its options');
is(detail($project, "warehouse for $me"), 'options: user, password_file', '... and those of the mapping');
is(steps('load', $project), "create connection warehouse; create user mapping warehouse for $me; create truck away", '... is made');
is(servers(), "warehouse: host=127.0.0.1, port=$remote_port, dbname=postgres, sslmode=disable, connect_timeout=7", 'its values come from the files');
is(mappings(), "warehouse $me: user=writer, password_file=" . $project->dir . '/secrets/pass', '... but the password stays in its file');
is(steps('plan', $project), '', 'then there is nothing to do');
sql("SELECT trucker.start('away')");
ok(caught_up($node, 'away'), 'the truck writes there');
same_remote($node, 'SELECT * FROM drinks', $remote, 'SELECT * FROM drinks', '... and exactly that');

# ---- changes; secrets are not shown

$project->put('trucker.yml' => qq{unique_id: drinks
connections:
- name: pgconn
- name: warehouse
  host: localhost
  port: $remote_port
  database: postgres
  user: writer
  pass: geheim-im-lager
});
is(detail($project, 'warehouse'), "sslmode: disable -> (none)\nconnect_timeout: 7 -> (none)\nhost: 127.0.0.1 -> localhost", 'what changes of a server');
is(detail($project, "warehouse for $me"), "password_file: removed\npassword: added", '... and of a mapping, without the password');
$remote->append_conf('pg_hba.conf', "host all all ::1/128 scram-sha-256\n");
$remote->reload;
is(steps('load', $project), "change connection warehouse; change user mapping warehouse for $me", 'they are changed');
sql("INSERT INTO drinks VALUES (4, 'mocha', 2)");
ok(caught_up($node, 'away'), '... and the truck goes on');
same_remote($node, 'SELECT * FROM drinks', $remote, 'SELECT * FROM drinks', '... and misses nothing');
my $yml = slurp_file($project->dir . '/trucker.yml');
$project->put('trucker.yml' => $yml =~ s/pass: .*/pass: geheim-neu/r);
is(detail($project, "warehouse for $me"), 'password: changed', 'another password');
$project->put('trucker.yml' => $yml);

# ---- roles

$project->put('away/truck.yml' => "input: { connection: pgconn, table: drinks }\noutput: { connection: warehouse, table: drinks, mode: mirror }\nrole: etl\n");
is(steps('load', $project), 'create user mapping warehouse for etl; change truck away', 'a role that writes there has a mapping');
is(sql("SELECT has_server_privilege('etl', 'warehouse', 'USAGE')"), 't', '... and may use the server');
sql('REVOKE USAGE ON FOREIGN SERVER warehouse FROM etl');
is(detail($project, 'warehouse for etl'), 'the role gets USAGE on the foreign server', 'what was taken from it');
is(steps('load', $project), 'change user mapping warehouse for etl', '... it gets again');
sql("INSERT INTO drinks VALUES (5, 'sencha', 1)");
ok(caught_up($node, 'away'), 'the truck writes as that role');
same_remote($node, 'SELECT * FROM drinks', $remote, 'SELECT * FROM drinks', '... all there is');
$project->put('away/truck.yml' => "input: { connection: pgconn, table: drinks }\noutput: { connection: warehouse, table: drinks, mode: mirror }\n");
is(steps('load', $project), 'change truck away; drop user mapping warehouse for etl', 'a role that does not any more loses its mapping');
is(sql("SELECT has_server_privilege('etl', 'warehouse', 'USAGE')"), 'f', '... and the right');

# ---- an output connection that turns out to be this database

$project->put(
	'trucker.yml' => $yml . "- { name: self, host: 127.0.0.1, port: $port, database: postgres, user: trucker, pass: '{{ .TRUCKER_TEST_PASS }}' }\n",
	'here/truck.yml' => "input: { table: drinks }\noutput: { connection: self, table: drinks_copy, mode: append }\n");
sql('CREATE TABLE drinks_copy (id integer, name text, kind_id integer)');
is(steps('load', $project), "create connection self; create user mapping self for $me; create truck here", 'a connection that nobody has been asked about');
sql("SELECT trucker.start('here')");
ok(caught_up($node, 'here'), 'start() finds that it leads here');
is(sql("SELECT output_connection FROM trucker.truck WHERE name = 'here'"), 'local', '... and makes the truck local');
is(steps('load', $project), '', '... which is no difference');
$project->put('here/truck.yml' => "input: { table: drinks }\noutput: { connection: warehouse, table: drinks_copy, mode: append }\n");
is_deeply([ errors($node, $project) ],
	['here: truck "here" writes to connection "local", which cannot be changed to "warehouse".  SELECT trucker.drop_truck(\'here\') first: it is made anew then, and loads its new destination'],
	'a truck cannot be led to another destination');
$project->put('trucker.yml' => $yml, 'here' => undef);
is(steps('load', $project), "drop truck here; drop user mapping self for $me; drop connection self", 'what the project has not any more goes');

# ---- what others have made

$project->put('trucker.yml' => $yml . "- { name: other, host: h, user: u, pass: geheim-fuer-niemand }\n");
sql('CREATE SERVER other FOREIGN DATA WRAPPER trucker');
is_deeply([ errors($node, $project, function => 'load') ], ['trucker.yml: connection "other" exists already, and was made by hand, not by this project'],
	'a server that somebody has made by hand is not touched');
sql('DROP SERVER other', "SELECT * FROM trucker.load('" . $project->dir . "')");
sql('CREATE ROLE mallory; ALTER SERVER other OWNER TO mallory');
is_deeply([ errors($node, $project) ], ['trucker.yml: line 10, column 11: foreign server "other" belongs to role "mallory", which could lead it elsewhere'],
	'no password is put where another role decides whereto it goes');
sql("ALTER SERVER other OWNER TO $me", 'DROP SERVER other CASCADE', 'CREATE SERVER other FOREIGN DATA WRAPPER trucker');
is_deeply([ errors($node, $project) ], ['trucker.yml: connection "other" exists already, and was made by hand, not by this project'],
	'one that was made in the place of the project\'s is not taken for it');
sql('DROP SERVER other', "SELECT * FROM trucker.load('" . $project->dir . "')", 'ALTER SERVER other RENAME TO another', 'CREATE SERVER other FOREIGN DATA WRAPPER trucker');
is_deeply([ errors($node, $project) ], ['trucker.yml: connection "other" exists already, and was made by hand, not by this project'],
	'... nor where that was renamed');
sql('DROP SERVER other; DROP SERVER another CASCADE');
$project->put('trucker.yml' => $yml);
sql("CREATE USER MAPPING FOR etl SERVER warehouse OPTIONS (user 'x')");
is(steps('plan', $project), '', 'a mapping that somebody has made by hand is not touched');
$project->put('away/truck.yml' => "input: { connection: pgconn, table: drinks }\noutput: { connection: warehouse, table: drinks, mode: mirror }\nrole: etl\n");
is_deeply([ errors($node, $project) ], ['trucker.yml: user mapping of role "etl" for "warehouse" exists already, and was made by hand, not by this project'],
	'... and is in the way where the project needs its own');
$project->put('trucker.yml' => "unique_id: drinks\nconnections:\n- name: pgconn\n", 'away' => undef);
like((errors($node, $project, function => 'load'))[0], qr/^trucker\.yml: connection "warehouse": cannot drop server warehouse because other objects depend on it/,
	'a server that others use is not dropped');
sql('DROP USER MAPPING FOR etl SERVER warehouse');
is(steps('load', $project), "drop truck away; drop user mapping warehouse for $me; drop connection warehouse", '... and goes when they are gone');

# ---- a statement that fails does not show its password

$project->put('trucker.yml' => $yml . "- { name: other, host: h, user: u, pass: geheim-fuer-niemand }\n");
sql(q{CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END'},
	q{CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE USER MAPPING') EXECUTE FUNCTION refuse()});
is((errors($node, $project, function => 'load'))[0], 'trucker.yml: user mapping "warehouse": refused', 'event triggers see what load() does');
is(servers(), '', '... and nothing is half applied');
sql('DROP EVENT TRIGGER refuse');
is(steps('load', $project), "create connection warehouse; create user mapping warehouse for $me; create connection other; create user mapping other for $me" =~ s/(create user mapping \S+ for \S+); (create connection other); /$2; $1; /r, 'without it, all is made');

# ---- who is no superuser

sql('CREATE ROLE loader LOGIN', 'GRANT pg_read_server_files TO loader', 'GRANT EXECUTE ON FUNCTION trucker.load, trucker.plan, trucker.start, trucker.drop_truck TO loader',
	'GRANT SELECT ON drinks TO loader', 'CREATE TABLE drinks_loader (LIKE drinks)', 'GRANT ALL ON drinks_loader TO loader');
my $loaders = project($node, 'loaders')->put('trucker.yml' => "connections:\n- { name: mine, host: 127.0.0.1, port: $remote_port, database: postgres, user: writer, pass: geheim-im-lager }\n",
	'loaded/truck.yml' => "input: { table: drinks }\noutput: { table: drinks_loader, mode: append }\n");
my @lines = errors($node, $loaders, function => 'load', sql => 'SET SESSION AUTHORIZATION loader');
is($lines[0], 'trucker.yml: connection "mine": permission denied for foreign-data wrapper trucker', 'load() has the rights of who calls it');
sql('GRANT USAGE ON FOREIGN DATA WRAPPER trucker TO loader');
is(steps('load', $loaders, 'SET SESSION AUTHORIZATION loader'), 'create connection mine; create user mapping mine for loader; create truck loaded', '... who can be no superuser');
is(sql("SELECT owner::text || ' ' || run_as FROM trucker.truck WHERE name = 'loaded'"), 'loader loader', '... and owns what it makes');
$loaders->put('pass' => "x\n", 'trucker.yml' => slurp_file($loaders->dir . '/trucker.yml') =~ s/pass: [^ ]* /pass_path: pass /r);
like((errors($node, $loaders, sql => 'SET SESSION AUTHORIZATION loader'))[0], qr/^trucker\.yml: line 2, column 11: option "password_file" is superuser-only\./, 'a password file is the superuser\'s');
$loaders->put('trucker.yml' => "connections:\n- { name: self, host: 127.0.0.1, port: $port, database: postgres, user: trucker }\n",
	'loaded/truck.yml' => "input: { connection: self, table: drinks }\noutput: { table: drinks_loader, mode: append }\n");
like((errors($node, $loaders, sql => 'SET SESSION AUTHORIZATION loader'))[0], qr/password is required/, 'without a password the server does not connect for somebody else');
$loaders->put('trucker.yml' => '', 'loaded/truck.yml' => "input: { table: drinks }\noutput: { table: drinks_loader, mode: append }\nrole: $me\n");
is_deeply([ errors($node, $loaders, sql => 'SET SESSION AUTHORIZATION loader') ], ["loaded/truck.yml: line 3, column 7: must be member of role \"$me\""], 'nobody loads a truck of somebody else\'s role');
sql('CREATE ROLE other LOGIN', 'GRANT pg_read_server_files TO other', 'GRANT EXECUTE ON FUNCTION trucker.load, trucker.plan TO other');
$loaders->put('loaded/truck.yml' => "input: { table: drinks }\noutput: { table: drinks_loader, mode: append }\n");
is_deeply([ errors($node, $loaders, sql => 'SET SESSION AUTHORIZATION other') ], ['loaded: must be owner of truck "loaded"'], '... nor changes somebody else\'s truck');
sql(q{CREATE FUNCTION of_other() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT trucker.load(''/nowhere'')'; ALTER FUNCTION of_other() OWNER TO mallory; GRANT EXECUTE ON FUNCTION trucker.load TO mallory});
like(psql_err($node, 'SELECT of_other()'), qr/42501: permission denied to read the files of a project/, 'a function of somebody who may not read files does not for a superuser either');
sql("CREATE FUNCTION lent() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS 'SELECT name FROM trucker.plan(''" . $loaders->dir . "'')'; GRANT EXECUTE ON FUNCTION lent() TO etl");
is($node->safe_psql('postgres', 'SET SESSION AUTHORIZATION etl; SELECT string_agg(l, NULL) FROM lent() AS l') =~ s/\n//r, 'mineloadedmine for loader' =~ s/.*/loadedmine for loadermine/r, '... and one of a superuser lends what that may');

# ---- two at once; dump and restore

my $first = $node->background_psql('postgres');
$first->query_safe("BEGIN; SELECT count(*) FROM trucker.load('" . $project->dir . "')");
like(psql_err($node, "SET lock_timeout = '100ms'; SELECT * FROM trucker.load('" . $project->dir . "')"), qr/55P03: canceling statement due to lock timeout/, 'of two that load the second one waits for the first');
is(steps('plan', $project), '', '... but plan() waits for nobody');
$first->query_safe('COMMIT');
$first->quit;
is(steps('load', $project), '', '... and when that is done, it goes on');
is(steps('plan', $project), '', 'all is as the project says');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'the database is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ], '... and restored');
is($node->safe_psql('copy', "SELECT string_agg(action || ' ' || kind || ' ' || name, '; ') FROM trucker.plan('" . $project->dir . "') WHERE action <> 'none'"), '',
	'... and the project still owns what it has made');

unlike(slurp_file($node->logfile), qr/geheim/, 'no password is in the log');
foreach my $table (qw(trucker.truck trucker.project_object))
{
	unlike(sql("SELECT string_agg(t::text, '') FROM $table AS t"), qr/geheim/, "... nor in $table");
}

done_testing();
