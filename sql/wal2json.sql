--
-- The wal2json decoder, without a slot: each shape of message is read as it
-- was meant, and whatever is not such a message is refused with
-- protocol_violation and without a word of the row's data.
--
CREATE FUNCTION trucker_test_decode(text) RETURNS text
	AS 'trucker', 'trucker_test_decode' LANGUAGE C STRICT;
CREATE FUNCTION trucker_test_wal2json_options(text[]) RETURNS text
	AS 'trucker', 'trucker_test_wal2json_options' LANGUAGE C STRICT;
\pset format unaligned
SET timezone = 'UTC';
SET datestyle = 'ISO';

--
-- Every shape, as wal2json 2.5 writes it.
--
SELECT trucker_test_decode($${"action":"B","xid":790,"lsn":"0/1C34B68","nextlsn":"0/1C34BA8"}$$);
SELECT trucker_test_decode($${"action":"C","xid":4294967295,"timestamp":"2024-02-29 12:34:56.789+05:30","lsn":"FFFFFFFF/1","nextlsn":"ffffffff/2a"}$$);
SELECT trucker_test_decode($${"action":"I","xid":790,"lsn":"0/1C34B00","schema":"public","table":"t","columns":[{"name":"id","value":7,"position":1},{"name":"note","value":"a","position":3}]}$$);
SELECT trucker_test_decode($${"action":"U","xid":790,"lsn":"0/1C34B00","schema":"public","table":"t","columns":[{"name":"id","value":8,"position":1},{"name":"note","value":null,"position":3}],"identity":[{"name":"id","value":7}]}$$);
SELECT trucker_test_decode($${"action":"D","xid":790,"lsn":"0/1C34B00","schema":"public","table":"t","identity":[{"name":"id","value":7},{"name":"note","value":null}]}$$);
SELECT trucker_test_decode($${"action":"T","xid":790,"lsn":"0/1C34B00","schema":"public","table":"t"}$$);
SELECT trucker_test_decode($${"action":"M","xid":790,"timestamp":"2024-02-29 12:34:56+00","lsn":"0/1C34B00","transactional":true,"prefix":"trucker","content":"rename"}$$);
SELECT trucker_test_decode($${"action":"M","xid":null,"timestamp":null,"lsn":"0/1C34B00","transactional":false,"prefix":"trucker","content":""}$$);

-- a table without columns; a row of which nothing was sent
SELECT trucker_test_decode($${"action":"I","schema":"public","table":"empty","columns":[]}$$);

-- values: numbers as they were written, booleans, null and 'null', empty text
SELECT trucker_test_decode($${"action":"I","schema":"s","table":"t","columns":[{"name":"a","value":-0.0012300,"position":1},{"name":"b","value":1e+300,"position":2},{"name":"c","value":123456789012345678901234567890,"position":3},{"name":"d","value":true,"position":4},{"name":"e","value":false,"position":5},{"name":"f","value":null,"position":6},{"name":"g","value":"null","position":7},{"name":"h","value":"","position":32767}]}$$);

-- strings: non-ASCII, every escape, names that need quoting
SELECT trucker_test_decode($${"action":"I","schema":"Mixed \"Case\"","table":"naïve.日本","columns":[{"name":"größe, \"x\"","value":"é 日本 😀","position":1}]}$$);
SELECT trucker_test_decode($${"action":"I","schema":"s","table":"t","columns":[{"name":"a","value":"\"\\\/\b\f\n\r\t\u0001\u001F\u0041","position":1}]}$$)
	= E'INSERT xid=0 s.t new: a#1=E''"\\\\/\b\f\n\r\t\x01\x1f' || 'A''' AS escapes_are_resolved;
SELECT trucker_test_decode($${"action":"I","schema":"s","table":"t","columns":[{"name":"a","value":"plain\\","position":1},{"name":"b","value":"\"","position":2},{"name":"c","value":"x\\\\y\\n","position":3}]}$$);

-- white space, the order of keys, and escapes in keys mean nothing
SELECT trucker_test_decode(E' {\n"table" : "t",\t"columns" : [ { "position" : 1 , "value" : 7 , "n\\u0061me" : "id" } ] ,"schema":"s", "\\u0061ction":"I"}\r\n ');

-- unknown keys are skipped at every level, whatever they hold
SELECT trucker_test_decode($${"action":"I","origin":0,"x":{"action":"D","y":[1,{"z":[]},"]"],"e":{}},"schema":"s","table":"t","pk":[{"name":"id"}],"columns":[{"name":"id","type":"integer","typeoid":23,"value":7,"optional":false,"position":1,"default":{"a":[null,true]}}],"n":null,"":"empty"}$$);

-- more fields than the first guess
SELECT length(trucker_test_decode('{"action":"I","schema":"s","table":"t","columns":['
	|| string_agg(format('{"name":"c%s","value":%s,"position":%s}', i, i, i), ',') || ']}'))
FROM generate_series(1, 1600) i;

-- commit times mean the same under every DateStyle
SET datestyle = 'German, DMY';
SELECT trucker_test_decode($${"action":"B","timestamp":"2024-01-02 03:04:05.000006-11:30:15","lsn":"0/1","nextlsn":"0/2"}$$);
SET datestyle = 'ISO';

--
-- Whatever else: the reason, but no data.  Each message holds "secret" where a
-- row would hold its values; no error may repeat it.
--
CREATE FUNCTION refusal(message text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN 'decoded: ' || trucker_test_decode(message);
EXCEPTION WHEN protocol_violation THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	IF SQLERRM <> 'could not decode message of output plugin "wal2json"' OR
		SQLERRM || detail LIKE '%secret%' THEN
		RETURN 'WRONG: ' || SQLERRM || ' ' || detail;
	END IF;
	RETURN detail;
END $$;

SELECT trucker_test_decode('{"action":"I"');

-- not JSON
SELECT message, refusal(message) FROM (VALUES
	(1, ''),
	(2, ' '),
	(3, '{'),
	(4, '}'),
	(5, '{"action"'),
	(6, '{"action":'),
	(7, '{"action":"I"'),
	(8, '{"action":"I",}'),
	(9, '{,"action":"I"}'),
	(10, '{"action" "I"}'),
	(11, '{"action":secret}'),
	(12, '{"action":"secret'),
	(13, '{"action":"\x"}'),
	(14, '{"action":"\u12"}'),
	(15, '{"action":"\'),
	(16, E'{"action":"\n"}'),
	(17, '{action:"I"}'),
	(18, '{1:"I"}'),
	(19, '{"x":[1,]}'),
	(20, '{"x":[,]}'),
	(21, '{"x":[1 2]}'),
	(22, '{"x":{]}'),
	(23, '{"x":01}'),
	(24, '{"x":1"secret"}'),
	(25, '{"x":"secret""secret"}'),
	(26, '{"x":-}'),
	(27, '{"x":1.}'),
	(28, '{"x":nul}')) AS m (n, message) ORDER BY n;
-- JSON, but not a message
SELECT message, refusal(message) FROM (VALUES
	(1, 'null'),
	(2, '"secret"'),
	(3, '[]'),
	(4, '17'),
	(5, '{}'),
	(6, '{"action":null}'),
	(7, '{"action":1}'),
	(8, '{"action":{}}'),
	(9, '{"action":""}'),
	(10, '{"action":"secret"}'),
	(11, '{"action":"i"}'),
	(12, '{"action":"I","action":"I"}'),
	(13, '{"action":"T","schema":"s","table":"t"} x'),
	(14, '{"action":"T","schema":"s","table":"t"}}'),
	(15, '{"action":"T","schema":"s","table":"t"}{}'),
	(16, '{"action":"T","schema":"s","table":"\u0000"}'),
	(17, '{"action":"T","schema":"s","table":"\u00e9"}'),
	(18, '{"change":[]}')) AS m (n, message) ORDER BY n;
-- BEGIN and COMMIT
SELECT message, refusal(message) FROM (VALUES
	(1, '{"action":"B","xid":7}'),
	(2, '{"action":"B","xid":7,"lsn":"0/1"}'),
	(3, '{"action":"C","xid":7,"nextlsn":"0/1"}'),
	(4, '{"action":"C","xid":7,"lsn":"0/1","nextlsn":null}'),
	(5, '{"action":"C","xid":7,"lsn":1,"nextlsn":"0/2"}'),
	(6, '{"action":"C","xid":7,"lsn":"secret","nextlsn":"0/2"}'),
	(7, '{"action":"C","xid":7,"lsn":"0/1","nextlsn":"0/123456789"}'),
	(8, '{"action":"C","xid":7,"lsn":"0/0","nextlsn":"0/2"}'),
	(9, '{"action":"C","xid":7,"lsn":"0/1 ","nextlsn":"0/2"}'),
	(10, '{"action":"B","xid":4294967296,"lsn":"0/1","nextlsn":"0/2"}'),
	(11, '{"action":"B","xid":99999999999999999999999999,"lsn":"0/1","nextlsn":"0/2"}'),
	(12, '{"action":"B","xid":-1,"lsn":"0/1","nextlsn":"0/2"}'),
	(13, '{"action":"B","xid":0,"lsn":"0/1","nextlsn":"0/2"}'),
	(14, '{"action":"B","xid":1.5,"lsn":"0/1","nextlsn":"0/2"}'),
	(15, '{"action":"B","xid":"7","lsn":"0/1","nextlsn":"0/2"}'),
	(16, '{"action":"B","xid":null,"lsn":"0/1","nextlsn":"0/2"}'),
	(17, '{"action":"B","xid":7,"xid":7,"lsn":"0/1","nextlsn":"0/2"}'),
	(18, '{"action":"B","schema":"s","lsn":"0/1","nextlsn":"0/2"}'),
	(19, '{"action":"B","columns":[],"lsn":"0/1","nextlsn":"0/2"}')) AS m (n, message) ORDER BY n;
-- their commit times
SELECT commit_time, refusal(format('{"action":"B","lsn":"0/1","nextlsn":"0/2","timestamp":%s}', commit_time)) FROM (VALUES
	(1, 'null'),
	(2, '1'),
	(3, '""'),
	(4, '"secret"'),
	(5, '"now"'),
	(6, '"infinity"'),
	(7, '"2024-02-29"'),
	(8, '"2024-02-29 12:34:56"'),
	(9, '"2024-02-30 12:34:56+00"'),
	(10, '"2024-02-29 12:34:61+00"'),
	(11, '"2024-02-29 12:34:56+99"'),
	(12, '"2024-02-29 12:34:56 CET"'),
	(13, '"99999999-02-29 12:34:56+00"')) AS m (n, commit_time) ORDER BY n;
SELECT refusal(format('{"action":"B","lsn":"0/1","nextlsn":"0/2","timestamp":"%s +"}', repeat('1-', 100000)));
-- changes
SELECT message, refusal(message) FROM (VALUES
	(1, '{"action":"I","table":"t","columns":[]}'),
	(2, '{"action":"I","schema":"s","columns":[]}'),
	(3, '{"action":"I","schema":"s","table":"t"}'),
	(4, '{"action":"I","schema":"s","table":"t","columns":null}'),
	(5, '{"action":"I","schema":"s","table":"t","columns":{}}'),
	(6, '{"action":"I","schema":"s","table":"t","columns":"secret"}'),
	(7, '{"action":"I","schema":"s","table":"t","columns":[],"columns":[]}'),
	(8, '{"action":"I","schema":"s","table":"t","columns":[],"identity":[]}'),
	(9, '{"action":"I","schema":null,"table":"t","columns":[]}'),
	(10, '{"action":"I","schema":["s"],"table":"t","columns":[]}'),
	(11, '{"action":"I","schema":"s","table":7,"columns":[]}'),
	(12, '{"action":"I","schema":"s","table":"t","columns":[],"content":"secret"}'),
	(13, '{"action":"U","schema":"s","table":"t","columns":[]}'),
	(14, '{"action":"U","schema":"s","table":"t","identity":[]}'),
	(15, '{"action":"U","schema":"s","table":"t","columns":[],"identity":7}'),
	(16, '{"action":"D","schema":"s","table":"t"}'),
	(17, '{"action":"D","schema":"s","table":"t","columns":[],"identity":[]}'),
	(18, '{"action":"T","schema":"s"}'),
	(19, '{"action":"T","schema":"s","table":"t","columns":[]}')) AS m (n, message) ORDER BY n;
-- their fields
SELECT field, refusal(format('{"action":"I","schema":"s","table":"t","columns":[%s]}', field)) FROM (VALUES
	(1, '7'),
	(2, 'null'),
	(3, '[]'),
	(4, '{}'),
	(5, '{"name":"secret","position":1}'),
	(6, '{"value":"secret","position":1}'),
	(7, '{"name":null,"value":7,"position":1}'),
	(8, '{"name":7,"value":7,"position":1}'),
	(9, '{"name":"a","value":{"secret":7},"position":1}'),
	(10, '{"name":"a","value":["secret"],"position":1}'),
	(11, '{"name":"a","value":"secret","value":"secret","position":1}'),
	(12, '{"name":"a","name":"a","value":7,"position":1}'),
	(13, '{"name":"a","value":7,"position":1,"position":1}'),
	(14, '{"name":"a","value":7,"position":"1"}'),
	(15, '{"name":"a","value":7,"position":null}'),
	(16, '{"name":"a","value":7,"position":0}'),
	(17, '{"name":"a","value":7,"position":-8}'),
	(18, '{"name":"a","value":7,"position":32768}'),
	(19, '{"name":"a","value":7,"position":1e3}'),
	(20, '{"name":"a","value":"secret"},'),
	(21, '{"name":"a","value":"secret"}{"name":"b","value":7}')) AS m (n, field) ORDER BY n;
-- logical messages
SELECT message, refusal(message) FROM (VALUES
	(1, '{"action":"M","transactional":true,"prefix":"trucker"}'),
	(2, '{"action":"M","transactional":true,"content":"secret"}'),
	(3, '{"action":"M","prefix":"trucker","content":"secret"}'),
	(4, '{"action":"M","transactional":"true","prefix":"trucker","content":"secret"}'),
	(5, '{"action":"M","transactional":null,"prefix":"trucker","content":"secret"}'),
	(6, '{"action":"M","transactional":true,"prefix":"trucker","content":null}'),
	(7, '{"action":"M","transactional":true,"prefix":"trucker","content":7}')) AS m (n, message) ORDER BY n;
-- nesting, deep enough to exhaust the stack
SELECT refusal('{"x":' || repeat('[', 1000000)),
	refusal('{"x":' || repeat('{"x":', 1000000)),
	refusal(repeat('[', 1000000)),
	refusal('{"action":"T","schema":"s","table":"t","x":' || repeat('[', 50) || repeat(']', 50) || '}');

--
-- Any prefix of a message, and a message with any damage, is decoded or is
-- refused with protocol_violation: there is no third way.
--
CREATE FUNCTION outcome(message text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM trucker_test_decode(message);
	RETURN 'decoded';
EXCEPTION
	WHEN protocol_violation THEN
		RETURN 'refused';
	WHEN OTHERS THEN
		RAISE WARNING '% % for %', SQLSTATE, SQLERRM, message;
		RETURN 'something else';
END $$;

CREATE TEMPORARY TABLE valid (message text);
INSERT INTO valid VALUES
	($${"action":"B","xid":790,"timestamp":"2024-02-29 12:34:56.789+05:30","lsn":"0/1C34B68","nextlsn":"0/1C34BA8"}$$),
	($${"action":"U","xid":790,"lsn":"0/1C34B00","schema":"pub\"lic","table":"t","columns":[{"name":"id","value":-8.5e3,"position":1},{"name":"b","value":true,"position":2},{"name":"note","value":"\u0001\n\\ text","position":3}],"identity":[{"name":"id","value":null}],"more":{"a":[1,{}]}}$$),
	($${"action":"M","xid":null,"timestamp":null,"lsn":"0/1C34B00","transactional":false,"prefix":"trucker","content":"a\tb"}$$);

SELECT outcome(left(message, n)), count(*)
FROM valid, generate_series(0, length(message)) n
GROUP BY 1 ORDER BY 1;

-- one to three characters replaced, dropped or inserted
DO $$
DECLARE
	original text;
	damaged text;
	at int;
	c text;
	result text;
	tried int := 0;
	decoded int := 0;
	refused int := 0;
BEGIN
	PERFORM setseed(0.5);
	FOR original IN SELECT message FROM valid LOOP
		FOR i IN 1..300 LOOP
			damaged := original;
			FOR j IN 1..1 + (i % 3) LOOP
				at := 1 + floor(random() * length(damaged));
				-- half of the time something that the grammar knows
				IF random() < 0.5 THEN
					c := substr('{}[],:"\0e-', 1 + floor(random() * 11)::int, 1);
				ELSE
					c := chr(1 + floor(random() * 127)::int);
				END IF;
				damaged := CASE i % 4
					WHEN 0 THEN overlay(damaged PLACING '' FROM at FOR 1)
					WHEN 1 THEN overlay(damaged PLACING c FROM at FOR 0)
					ELSE overlay(damaged PLACING c FROM at FOR 1) END;
			END LOOP;
			result := outcome(damaged);
			tried := tried + 1;
			decoded := decoded + (result = 'decoded')::int;
			refused := refused + (result = 'refused')::int;
		END LOOP;
	END LOOP;
	RAISE NOTICE 'tried %, neither decoded nor refused %, both happened %',
		tried, tried - decoded - refused, decoded > 0 AND refused > 0;
END $$;

--
-- The options.  Names reach the plugin through its own list syntax, which is
-- quoted for the replication grammar: quotes doubled, backslashes not.
--
SELECT trucker_test_wal2json_options('{public,t}') AS options;
SELECT n, substring(trucker_test_wal2json_options(ARRAY['public', n]) FROM '"add-tables" .*') AS add_tables
FROM unnest(ARRAY['Mixed Case', 'a.b', 'a,b', 'it''s', 'say "x"', '*', '*.*', '\', '\\', E'new\nline', E'tab\t', ' ', 'naïve', '日本', 'plain_1']) n;
SELECT substring(trucker_test_wal2json_options('{a,b,"*","*",x.y,"z,"}') FROM '"add-tables" .*') AS add_tables;
-- no table must not mean all tables
SELECT substring(trucker_test_wal2json_options('{}') FROM '"add-tables" .*') AS add_tables;

DROP FUNCTION outcome(text), refusal(text), trucker_test_decode(text),
	trucker_test_wal2json_options(text[]);
