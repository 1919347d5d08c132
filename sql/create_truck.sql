--
-- create_truck() refuses what can be known to be wrong, with the argument, the
-- option, or the line and column; nothing of it needs a server that trucks can
-- run on.  start() refuses the rest; that takes one: see the TAP tests.
--
SET client_min_messages = error;
\pset format unaligned
CREATE TABLE ct (id int PRIMARY KEY, v text);
CREATE TABLE ct_copy (id int, v text);
CREATE VIEW ct_view AS TABLE ct;

-- What create_truck() says, on one line; and nothing is left of it
CREATE FUNCTION refusal(name text DEFAULT 't', input_tables regclass[] DEFAULT '{ct}', output_sql text DEFAULT 'SELECT 1',
	input_sql text DEFAULT NULL, output_connection name DEFAULT 'local', options jsonb DEFAULT '{}')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM trucker.create_truck(name, input_tables, output_sql, input_sql, output_connection, options);
	PERFORM trucker.drop_truck(name);
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ': ' || message || coalesce(' DETAIL: ' || nullif(detail, ''), '') || coalesce(' HINT: ' || nullif(hint, ''), '');
END $$;

-- arguments
SELECT refusal(name => NULL);
SELECT refusal(name => '');
SELECT refusal(name => repeat('n', 64));
SELECT refusal(name => repeat('n', 63));
SELECT refusal(name => repeat('é', 32));
SELECT refusal(name => 'it''s "odd", {{ .rows }}');
SELECT refusal(input_tables => NULL);
SELECT refusal(input_tables => '{}');
SELECT refusal(input_tables => '{ct,NULL}');
SELECT refusal(input_tables => '{ct,ct}');
CREATE TABLE ct_whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE ct_part PARTITION OF ct_whole FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
CREATE TABLE ct_leaf PARTITION OF ct_part DEFAULT;
SELECT refusal(input_tables => '{ct,ct_leaf,ct_whole}');
SELECT refusal(input_tables => '{ct_part,ct_whole}');
DROP TABLE ct_whole;
SELECT refusal(input_tables => '{ct,ct_copy}');
SELECT refusal(input_tables => ARRAY[['ct', 'ct_copy']]::regclass[]);
SELECT refusal(output_connection => NULL);
SELECT refusal(output_connection => 'nowhere');
SELECT refusal(output_connection => '');
SELECT refusal(options => NULL);
SELECT trucker.create_truck('t', '{nonexistent}', 'SELECT 1');

-- SQL that is not there
SELECT refusal(output_sql => NULL);
SELECT to_json(output_sql), refusal(output_sql => output_sql) FROM (VALUES (''), (E' \t\r\n'), (';'), ('-- nothing'), ('/* nothing */ ; ;'), ('{{/* nothing */}}')) AS v(output_sql);
SELECT input_sql, refusal(input_sql => input_sql) FROM (VALUES (''), (' '), (';'), ('-- nothing')) AS v(input_sql);

-- statements
SELECT sql, refusal(output_sql => sql) FROM (VALUES
	('INSERT INTO ct_copy SELECT id, v FROM r'),
	('SELECT 1; SELECT 2;'),
	('WITH x AS (DELETE FROM ct_copy RETURNING 1) SELECT FROM x'),
	('UPDATE ct_copy SET v = 1; DELETE FROM ct_copy; CALL p()'),
	('MERGE INTO ct_copy USING r ON r.id = ct_copy.id WHEN MATCHED THEN DELETE'),
	('VALUES (1)'),
	('TABLE r'),
	('SELECT * INTO x FROM r'),
	('SELECT 1; SELECT * INTO x FROM r'),
	('CREATE TABLE x AS SELECT * FROM r'),
	('CREATE TEMPORARY TABLE x ()'),
	('DROP TABLE ct'),
	('TRUNCATE ct_copy'),
	('BEGIN'),
	('COMMIT'),
	('SELECT 1; ROLLBACK'),
	('SAVEPOINT s'),
	('PREPARE TRANSACTION ''x'''),
	('SET search_path = x'),
	('SET LOCAL search_path = x'),
	('RESET ALL'),
	('SET ROLE postgres'),
	('SET SESSION AUTHORIZATION DEFAULT'),
	('DO $x$ BEGIN COMMIT; END $x$'),
	('PREPARE p AS SELECT 1'),
	('EXECUTE p'),
	('DECLARE c CURSOR WITH HOLD FOR SELECT 1'),
	('COPY ct_copy FROM STDIN'),
	('COPY ct_copy TO PROGRAM ''true'''),
	('EXPLAIN SELECT 1'),
	('EXPLAIN ANALYZE DELETE FROM ct_copy'),
	('LOCK TABLE ct_copy'),
	('VACUUM ct_copy'),
	('NOTIFY x'),
	('LISTEN x'),
	('CREATE EXTENSION citext'),
	('GRANT ALL ON ct TO PUBLIC'),
	('REFRESH MATERIALIZED VIEW x')) AS v(sql);
SELECT sql, refusal(input_sql => sql) FROM (VALUES ('SELECT id FROM r'), ('COMMIT'), ('SELECT id INTO x FROM r'), ('SELECT 1; TRUNCATE ct_copy')) AS v(sql);

-- syntax: the position is shown in the user's own text
SELECT trucker.create_truck('t', '{ct}', 'INSERT INTO ct_copy SELECT id, FROM r');
SELECT trucker.create_truck('t', '{ct}', E'SELECT 1;\n\nSELEC 2');
SELECT trucker.create_truck('t', '{ct}', 'SELECT 1', input_sql => 'SELECT ''open FROM r');
SELECT trucker.create_truck('t', '{ct}', 'SELECT 1', options => '{"reset_sql": "TRUNCATE ct_copy; DELET"}');
SELECT trucker.create_truck('t', '{ct}', 'SELECT 1', options => '{"on_truncate": "run", "truncate_sql": "TRUNCATE {{ .input_table }}_copy; DELET"}');

-- templates: line and column
SELECT template, refusal(output_sql => template) FROM (VALUES
	('SELECT * FROM {{ .rows }} WHERE ''{{ .operation }}'' = ''{{ .input_table }}'''),
	('{{ if .operation | eq "delete" }}SELECT 1{{ else if eq .operation "insert" }}SELECT 2{{ else }}SELECT 3{{ end }}'),
	('{{ if eq .operation "delete" }}DELETE FROM ct_copy{{ end }}'),
	('SELECT {{ .row }}'),
	(E'SELECT 1;\nSELECT {{ .Rows }}'),
	('SELECT {{ rows }}'),
	('SELECT {{ printf "x" }}'),
	('SELECT {{ .rows'),
	(E'SELECT 1\n;  {{ if eq .operation "insert" }} SELECT 2'),
	('SELECT {{ end }}'),
	('SELECT {{ else }}'),
	('SELECT {{ "open }}'),
	('SELECT {{ }}'),
	('SELECT {{ range .rows }}{{ end }}'),
	('SELECT {{ .operation.name }}'),
	('SELECT {{ eq .operation }}'),
	(E'SELECT ''é'', {{ x }}'),
	-- wrong for one operation only
	('{{ if eq .operation "delete" }}DELET{{ else }}SELECT 1{{ end }}'),
	('{{ if eq .operation "update" }}COMMIT{{ end }}')) AS v(template);
SELECT refusal(input_sql => 'SELECT * FROM {{ .row }}');

-- options: an unknown key or a wrong type is an error
SELECT options, refusal(options => options::jsonb) FROM (VALUES
	('{}'),
	('{"backfill": false}'),
	('{"backfill": true, "inserts_only": true, "toast": "current", "reset_sql": "TRUNCATE ct_copy; DELETE FROM ct"}'),
	('{"toast": "exact"}'),
	('[]'),
	('["backfill"]'),
	('null'),
	('"backfill"'),
	('7'),
	('{"nonsense": 1}'),
	('{"Backfill": false}'),
	('{"": 1}'),
	('{"backfill": "false"}'),
	('{"backfill": 0}'),
	('{"backfill": null}'),
	('{"backfill": [false]}'),
	('{"backfill": {"backfill": false}}'),
	('{"inserts_only": "yes"}'),
	('{"inserts_only": {}}'),
	('{"toast": true}'),
	('{"toast": "now"}'),
	('{"toast": ""}'),
	('{"toast": null}'),
	('{"reset_sql": 1}'),
	('{"reset_sql": null}'),
	('{"reset_sql": ["TRUNCATE ct"]}'),
	('{"reset_sql": ""}'),
	('{"reset_sql": "COMMIT"}'),
	('{"reset_sql": "TRUNCATE ct_copy; DROP TABLE ct"}'),
	('{"changes": "all"}'),
	('{"changes": "net", "inserts_only": false}'),
	('{"changes": "net", "inserts_only": true}'),
	('{"changes": "some"}'),
	('{"changes": true}'),
	('{"changes": null}'),
	('{"on_truncate": "error"}'),
	('{"on_truncate": "ignore"}'),
	('{"on_truncate": "run"}'),
	('{"on_truncate": "stop"}'),
	('{"on_truncate": false}'),
	('{"on_truncate": "run", "truncate_sql": "TRUNCATE ct_copy; DELETE FROM {{ .input_table }}_copy; CALL p()"}'),
	('{"on_truncate": "run", "truncate_sql": "{{ if eq .input_table \"public.ct\" }}SELECT 1{{ end }}"}'),
	('{"on_truncate": "run", "truncate_sql": "{{ if eq .input_table \"ct\" }}SELECT 1{{ end }}"}'),
	('{"on_truncate": "run", "truncate_sql": ""}'),
	('{"on_truncate": "run", "truncate_sql": "-- nothing"}'),
	('{"on_truncate": "run", "truncate_sql": 1}'),
	('{"on_truncate": "run", "truncate_sql": null}'),
	('{"on_truncate": "run", "truncate_sql": "COMMIT"}'),
	('{"on_truncate": "run", "truncate_sql": "TRUNCATE ct_copy; DROP TABLE ct_copy"}'),
	('{"on_truncate": "run", "truncate_sql": "DELETE FROM ct_copy USING {{ .rows }}"}'),
	('{"on_truncate": "run", "truncate_sql": "{{ if eq .operation \"delete\" }}SELECT 1{{ end }}"}'),
	('{"on_truncate": "run", "truncate_sql": "TRUNCATE {{ .table }}"}'),
	('{"on_truncate": "ignore", "truncate_sql": "TRUNCATE ct_copy"}'),
	('{"truncate_sql": "TRUNCATE ct_copy"}'),
	('{"role": 1}'),
	('{"role": null}'),
	('{"role": ""}'),
	('{"role": "no_such_role"}'),
	('{"role": "public"}'),
	('{"role": "none"}'),
	('{"stream": "other"}'),
	('{"stream": ""}'),
	('{"stream": null}'),
	('{"stream": 1}'),
	('{"stream": "' || repeat('s', 64) || '"}'),
	('{"on_error": "retry"}'),
	('{"on_error": "stop"}'),
	('{"on_error": "quarantine"}'),
	('{"on_error": "Stop"}'),
	('{"on_error": null}'),
	('{"on_error": true}')) AS v(options);

-- names
SELECT trucker.create_truck('twice', '{ct}', 'SELECT 1');
SELECT trucker.create_truck('twice', '{ct}', 'SELECT 1');
SELECT trucker.create_truck('Twice', '{ct}', 'SELECT 1');
SELECT truck, state, stream, position, last_error FROM trucker.status ORDER BY truck COLLATE "C";
SELECT trucker.drop_truck('twice');
SELECT trucker.drop_truck('twice');
SELECT trucker.drop_truck(NULL) IS NULL AS nothing;
SELECT trucker.start('twice');
SELECT trucker.stop('twice');
SELECT trucker.resync('twice');
SELECT trucker.wait_for('twice');
SELECT trucker.wait_for('Twice');
SELECT trucker.wait_for(NULL);
SELECT trucker.wait_for('Twice', timeout => NULL);
SELECT trucker.stop();

-- transactional
BEGIN;
SELECT trucker.create_truck('gone', '{ct}', 'SELECT 1');
SELECT trucker.drop_truck('Twice');
ROLLBACK;
SELECT truck FROM trucker.status;
SELECT trucker.drop_truck('Twice');

DROP FUNCTION refusal;
DROP VIEW ct_view;
DROP TABLE ct, ct_copy;

-- templates are read with the names of the truck's own tables
CREATE TABLE by_name_1 (id int PRIMARY KEY);
CREATE TABLE by_name_2 (id int PRIMARY KEY);
SELECT trucker.create_truck('by_name', '{by_name_1, by_name_2}',
	'{{ if eq .input_table "public.by_name_1" }}SELECT 1 FROM r{{ else if eq .input_table "public.by_name_2" }}SELECT 2 FROM r{{ end }}');
SELECT trucker.drop_truck('by_name');
DROP TABLE by_name_1, by_name_2;
