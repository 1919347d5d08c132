-- Options of connections: what is wrong is refused when it is given, and the hint names
-- what is right.
\pset format unaligned
CREATE FUNCTION refusal(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
	state text;
BEGIN
	EXECUTE command;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT, state = RETURNED_SQLSTATE;
	RETURN state || ': ' || message || CASE WHEN detail <> '' THEN ' DETAIL: ' || detail ELSE '' END
		|| CASE WHEN hint <> '' THEN ' HINT: ' || hint ELSE '' END;
END
$$;
CREATE FUNCTION server(options text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN refusal('CREATE SERVER s FOREIGN DATA WRAPPER trucker OPTIONS (' || options || ')');
END
$$;
CREATE FUNCTION mapping(options text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN refusal('CREATE USER MAPPING FOR CURRENT_USER SERVER warehouse OPTIONS (' || options || ')');
END
$$;
CREATE SERVER warehouse FOREIGN DATA WRAPPER trucker
	OPTIONS (adapter 'postgres', host 'db.example.com', hostaddr '192.0.2.1', port '5432', dbname 'dw', sslmode 'verify-full',
		sslrootcert '/etc/ca.pem', connect_timeout '5', position_schema 'p', statement_timeout '1000',
		lock_timeout '500', tcp_user_timeout '3000', keepalives_idle '10', target_session_attrs 'read-write',
		application_name 'x', options '-c geqo=off');

-- names
SELECT server($$hst 'x'$$);
SELECT server($$sslmodus 'require'$$);
SELECT server($$frobnicate 'x'$$);
SELECT server($$password 'x'$$);
SELECT server($$user 'x'$$);
SELECT server($$client_encoding 'LATIN1'$$);
SELECT mapping($$host 'x'$$);
SELECT mapping($$usr 'x'$$);
SELECT refusal($$ALTER FOREIGN DATA WRAPPER trucker OPTIONS (host 'x')$$);

-- values
SELECT server($$host ''$$);
SELECT server($$adapter 'mysql'$$);
SELECT server($$sslmode 'maybe'$$);
SELECT server($$connect_timeout '0'$$);
SELECT server($$connect_timeout 'soon'$$);
SELECT server($$statement_timeout '-1'$$);
SELECT server($$lock_timeout '99999999999'$$);
SELECT mapping($$user 'u', password ''$$);
SELECT mapping($$user 'u', password_file 'relative'$$);
SELECT mapping($$user 'u', password_required 'perhaps'$$);

-- together
SELECT mapping($$user 'u', password 'x', password_file '/x'$$);
SELECT server($$sslmode 'verify-ca'$$);
SELECT server($$sslmode 'disable', sslrootcert '/x'$$);
SELECT mapping($$user 'u', sslcert '/x'$$);
SELECT server($$host 'a,b', port '1,2,3'$$);
SELECT server($$host 'a,b', port '1,2'$$);
DROP SERVER s;
SELECT server($$host 'a,b', hostaddr '127.0.0.1'$$);
SELECT server($$ssl_min_protocol_version 'TLSv1.3', ssl_max_protocol_version 'TLSv1.2'$$);

-- values that libpq would not take
SELECT server($$port 'abc'$$);
SELECT server($$port '70000'$$);
SELECT server($$port '1,'$$);
SELECT server($$target_session_attrs 'foo'$$);
SELECT server($$channel_binding 'foo'$$);
SELECT server($$ssl_min_protocol_version 'TLSv2'$$);
SELECT server($$keepalives '2'$$);
SELECT server($$sslrootcert 'root.crt'$$);
SELECT server($$position_schema 'pg_catalog'$$);
SELECT refusal($$ALTER SERVER warehouse OPTIONS (DROP sslrootcert)$$);
SELECT refusal($$ALTER SERVER warehouse OPTIONS (SET sslmode 'disable')$$);

-- what is the superuser's
CREATE ROLE regress_trucker_user;
GRANT USAGE ON FOREIGN DATA WRAPPER trucker TO regress_trucker_user;
GRANT USAGE ON FOREIGN SERVER warehouse TO regress_trucker_user;
SET ROLE regress_trucker_user;
SELECT server($$options '-c x=y'$$);
SELECT server($$service 'x'$$);
SELECT server($$passfile '/x'$$);
SELECT server($$sslcert '/x', sslkey '/y'$$);
SELECT mapping($$user 'u', password_file '/x'$$);
SELECT mapping($$user 'u', passfile '/x'$$);
SELECT mapping($$user 'u', sslcert '/x', sslkey '/y'$$);
SELECT mapping($$user 'u', password_required 'false'$$);
SELECT mapping($$user 'u', password 'p', password_required 'true'$$);
RESET ROLE;

-- which servers can be connections
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER others FOREIGN DATA WRAPPER other;
CREATE SERVER unused FOREIGN DATA WRAPPER trucker;
CREATE TABLE connection_input (id int PRIMARY KEY);
CREATE FUNCTION create_truck(connection text) RETURNS text LANGUAGE sql AS $$
	SELECT refusal(format('SELECT trucker.create_truck(''t_'' || %1$L, ''{connection_input}'', ''INSERT INTO far SELECT id FROM r'', output_connection => %1$L)', connection))
$$;
SET client_min_messages = error;
SELECT create_truck('others');
SELECT create_truck('nowhere');
SELECT create_truck('warehouse');
SELECT create_truck('local');
GRANT EXECUTE ON FUNCTION trucker.create_truck TO regress_trucker_user;
REVOKE USAGE ON FOREIGN SERVER warehouse FROM regress_trucker_user;
SET ROLE regress_trucker_user;
SELECT create_truck('warehouse');
RESET ROLE;

-- the input is always this database
SELECT refusal($$SELECT trucker.create_truck('t', '{connection_input}', 'SELECT 1', options => '{"input_connection": "warehouse"}')$$);

-- quarantine is here, the position there
SELECT refusal($$SELECT trucker.create_truck('t', '{connection_input}', 'SELECT 1', output_connection => 'warehouse', options => '{"on_error": "quarantine"}')$$);

-- a server that a truck writes to stays, and keeps its name
DROP USER MAPPING FOR regress_trucker_user SERVER warehouse;
SELECT refusal('DROP SERVER warehouse');
SELECT refusal('DROP SERVER warehouse CASCADE');
SELECT refusal('ALTER SERVER warehouse RENAME TO house');
SELECT refusal('ALTER SERVER unused RENAME TO used');
SELECT refusal('DROP SERVER used');

-- with nobody mapped there is nothing to connect with; nor without a user's name
CREATE FUNCTION start_refusal() RETURNS text LANGUAGE sql AS $$
	SELECT replace(refusal($s$SELECT trucker.start('t_warehouse')$s$), current_user, '(me)')
$$;
SELECT start_refusal();
CREATE USER MAPPING FOR CURRENT_USER SERVER warehouse;
SELECT start_refusal();

SELECT trucker.drop_truck('t_warehouse'), trucker.drop_truck('t_local');
DROP SERVER warehouse CASCADE;
DROP FOREIGN DATA WRAPPER other CASCADE;
DROP TABLE connection_input;
REVOKE ALL ON FOREIGN DATA WRAPPER trucker FROM regress_trucker_user;
REVOKE ALL ON FUNCTION trucker.create_truck FROM regress_trucker_user;
DROP ROLE regress_trucker_user;
DROP FUNCTION refusal, server, mapping, create_truck(text), start_refusal;
