--
-- decode_wal2json(): each shape of message of both formats becomes the rows that it
-- means, and whatever is not such a message is refused with protocol_violation,
-- without a word of the row's data.
--
\pset format unaligned
\pset null '(null)'
SET timezone = 'UTC';
SET datestyle = 'ISO';

--
-- Format 1, as users have it: inserts, updates and deletes, with the key only and
-- with the full old row, several in one message.
--
CREATE TEMPORARY TABLE kept (n int GENERATED ALWAYS AS IDENTITY, message text);
INSERT INTO kept (message) VALUES
	($${"change":[{"kind":"insert","schema":"public","table":"countries","columnnames":["id","name"],"columntypes":["integer","text"],"columnvalues":[7,"a"]},{"kind":"insert","schema":"public","table":"countries","columnnames":["id","name"],"columntypes":["integer","text"],"columnvalues":[8,"b"]},{"kind":"insert","schema":"public","table":"countries","columnnames":["id","name"],"columntypes":["integer","text"],"columnvalues":[9,"c"]}]}$$),
	($${"change":[{"kind":"insert","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[3,"a",12,1]},{"kind":"insert","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[4,"b",15,2]},{"kind":"insert","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[5,"c",18,3]}]}$$),
	($${"change":[{"kind":"update","schema":"public","table":"countries","columnnames":["id","name"],"columntypes":["integer","text"],"columnvalues":[6,"boda"],"oldkeys":{"keynames":["id"],"keytypes":["integer"],"keyvalues":[6]}}]}$$),
	($${"change":[{"kind":"update","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[1,"boda1",15,4],"oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[1,"Glenfiddich",15,4]}},{"kind":"update","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[3,"boda3",12,1],"oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[3,"a",12,1]}},{"kind":"update","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[4,"boda4",15,2],"oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[4,"b",15,2]}},{"kind":"update","schema":"public","table":"whiskies","columnnames":["id","name","age","whisky_type_id"],"columntypes":["integer","text","integer","integer"],"columnvalues":[5,"boda5",18,3],"oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[5,"c",18,3]}}]}$$),
	($${"change":[{"kind":"delete","schema":"public","table":"whisky_types","oldkeys":{"keynames":["id"],"keytypes":["integer"],"keyvalues":[1]}},{"kind":"delete","schema":"public","table":"whisky_types","oldkeys":{"keynames":["id"],"keytypes":["integer"],"keyvalues":[2]}},{"kind":"delete","schema":"public","table":"whisky_types","oldkeys":{"keynames":["id"],"keytypes":["integer"],"keyvalues":[3]}},{"kind":"delete","schema":"public","table":"whisky_types","oldkeys":{"keynames":["id"],"keytypes":["integer"],"keyvalues":[4]}},{"kind":"delete","schema":"public","table":"whisky_types","oldkeys":{"keynames":["id"],"keytypes":["integer"],"keyvalues":[5]}}]}$$),
	($${"change":[{"kind":"delete","schema":"public","table":"whiskies","oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[1,"boda1",15,4]}},{"kind":"delete","schema":"public","table":"whiskies","oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[3,"boda3",12,1]}},{"kind":"delete","schema":"public","table":"whiskies","oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[4,"boda4",15,2]}},{"kind":"delete","schema":"public","table":"whiskies","oldkeys":{"keynames":["id","name","age","whisky_type_id"],"keytypes":["integer","text","integer","integer"],"keyvalues":[5,"boda5",18,3]}}]}$$);
SELECT kept.n AS message, d.n, operation, schema_name, table_name, new_names, new_types, new_values, old_names, old_types, old_values
FROM kept, trucker.decode_wal2json(message) AS d ORDER BY 1, 2;
SELECT bool_and(xid IS NULL AND lsn IS NULL AND end_lsn IS NULL AND committed_at IS NULL
	AND transactional IS NULL AND prefix IS NULL AND content IS NULL) AS nothing_else
FROM kept, trucker.decode_wal2json(message);
-- values as a JSON object, in one expression
SELECT jsonb_object(new_names, new_values) FROM trucker.decode_wal2json(
	$${"change":[{"kind":"insert","schema":"s","table":"t","columnnames":["a","b","c"],"columnvalues":[1.50,null,"x"]}]}$$);

-- all that options add, and keys that nobody knows; the order of keys means nothing
SELECT * FROM trucker.decode_wal2json($$ {"nextlsn" : "0/1C34BA8", "origin":0, "change":[
	{"oldkeys":{"keyvalues":[7],"keytypeoids":[23],"keynames":["id"],"more":{"a":[1,{}]}},
	 "columnvalues":[8,null,true,"\"\\\/\b\f\n\r\t\u0001", -0.50e+300, "null", ""],
	 "columnnames":["id","n","b","t","f","s","e"],
	 "columntypeoids":[23,25,16,25,1700,25,25],"columnpositions":[1,2,3,4,5,6,7],
	 "columnoptionals":[false,true,true,true,true,true,true],"columndefaults":[null,"1",null,null,null,null,null],
	 "pk":{"pknames":["id"],"pktypes":["integer"]},
	 "schema":"Mixed \"Case\"","table":"naïve.日本","kind":"update"},
	{"kind":"truncate","schema":"public","table":"t"},
	{"kind":"message","transactional":true,"prefix":"p","content":"c\u0009d"},
	{"kind":"insert","schema":"s","table":"empty","columnnames":[],"columnvalues":[]}
	],"timestamp":"2024-02-29 12:34:56.789+05:30","xid":4294967295} $$);
SELECT * FROM trucker.decode_wal2json($${"xid":null,"timestamp":null,"change":[{"kind":"message","transactional":false,"prefix":"","content":""}]}$$);
SELECT count(*) FROM trucker.decode_wal2json('{"change":[]}');
-- a message may be called as it likes: only the outermost keys tell the format
SELECT n, operation, prefix FROM trucker.decode_wal2json($${"x":"change","y":["action"],"z":{"action":1},"change":[{"kind":"message","transactional":true,"prefix":"action","content":""}]}$$);
SELECT n, operation, table_name FROM trucker.decode_wal2json($${"x":"change","y":{"change":[]},"action":"T","schema":"s","table":"change"}$$);
-- as many columns as a table can have, and many changes
SELECT n, cardinality(new_names), cardinality(new_values), new_values[1600] FROM trucker.decode_wal2json(
	(SELECT '{"change":[{"kind":"insert","schema":"s","table":"t","columnnames":[' || string_agg('"c' || i || '"', ',')
	 || '],"columnvalues":[' || string_agg(i::text, ',') || ']}]}' FROM generate_series(1, 1600) i));
SELECT count(*), max(n), sum(new_values[1]::int) FROM trucker.decode_wal2json(
	(SELECT '{"change":[' || string_agg(format('{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[%s]}', i), ',') || ']}'
	 FROM generate_series(1, 10000) i));

--
-- Format 2: each message is one change, or none.
--
SELECT * FROM trucker.decode_wal2json($${"action":"U","xid":790,"timestamp":"2024-02-29 12:34:56+00","lsn":"0/1C34B00","schema":"public","table":"t","columns":[{"name":"id","type":"integer","value":8,"position":1},{"name":"note","type":"character varying(10)","value":null}],"identity":[{"name":"id","type":"integer","value":7}]}$$);
SELECT operation, xid, lsn, end_lsn, new_names, new_types, new_values, old_names, old_types, old_values FROM unnest(ARRAY[
	'{"action":"I","schema":"s","table":"t","columns":[{"name":"a","value":1}]}',
	'{"action":"I","schema":"s","table":"t","columns":[{"name":"a","type":"integer","value":1},{"name":"b","value":"x"}]}',
	'{"action":"D","schema":"s","table":"t","identity":[{"name":"a","value":null}]}',
	'{"action":"T","xid":790,"lsn":"0/1C34B00","schema":"s","table":"t"}']) WITH ORDINALITY AS m (message, o),
	trucker.decode_wal2json(message) ORDER BY o;
SELECT operation, transactional, prefix, content FROM trucker.decode_wal2json($${"action":"M","transactional":false,"prefix":"p","content":""}$$);
-- begin and commit are no changes; they need not tell LSNs
SELECT count(*) FROM unnest(ARRAY['{"action":"B"}', '{"action":"C","xid":7}',
	'{"action":"C","xid":7,"timestamp":"2024-02-29 12:34:56+00","lsn":"0/1","nextlsn":"0/2"}']) AS message, trucker.decode_wal2json(message);
SELECT count(*) FROM trucker.decode_wal2json(NULL);

--
-- Whatever else: the reason, but no data.  Each message holds "secret" where a row
-- would hold its values; no error may repeat it.
--
CREATE FUNCTION refusal(message text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN 'decoded: ' || (SELECT count(*) FROM trucker.decode_wal2json(message));
EXCEPTION WHEN protocol_violation THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	IF SQLERRM <> 'could not decode message of output plugin "wal2json"' OR
		SQLERRM || detail LIKE '%secret%' THEN
		RETURN 'WRONG: ' || SQLERRM || ' ' || detail;
	END IF;
	RETURN detail;
END $$;

SELECT * FROM trucker.decode_wal2json('{"change":[');

-- the message
SELECT message, refusal(message) FROM (VALUES
	(1, ''),
	(2, '[]'),
	(3, 'null'),
	(4, '{}'),
	(5, '{"changes":[]}'),
	(6, '{"change":[]'),
	(7, '{"change":[]}}'),
	(8, '{"change":[]}{}'),
	(9, '{"change":[],}'),
	(10, '{"change":[]],"x":1}'),
	(11, '{"change":null}'),
	(12, '{"change":{}}'),
	(13, '{"change":"secret"}'),
	(14, '{"change":[],"change":[]}'),
	(15, '{"change":[{}]}'),
	(16, '{"change":["secret"]}'),
	(17, '{"change":[null]}'),
	(18, '{"change":[[]]}'),
	(19, '{"change":[],"xid":0}'),
	(20, '{"change":[],"xid":4294967296}'),
	(21, '{"change":[],"xid":-1}'),
	(22, '{"change":[],"xid":1.5}'),
	(23, '{"change":[],"xid":"7"}'),
	(24, '{"change":[],"nextlsn":null}'),
	(25, '{"change":[],"nextlsn":"secret"}'),
	(26, '{"change":[],"nextlsn":"0/123456789"}'),
	(27, '{"change":[],"nextlsn":7}'),
	(28, '{"change":[],"timestamp":"secret"}'),
	(29, '{"change":[],"timestamp":"2024-02-30 12:34:56+00"}'),
	(30, '{"change":[],"timestamp":{}}'),
	(31, '{"change":[],"xid":7,"xid":7}'),
	(32, '{"change":[{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":["secret')) AS m (n, message) ORDER BY n;
-- a change
SELECT change, refusal(format('{"change":[%s]}', change)) FROM (VALUES
	(1, '{"kind":"insert"}'),
	(2, '{"kind":null,"schema":"s","table":"t"}'),
	(3, '{"kind":"INSERT","schema":"s","table":"t"}'),
	(4, '{"kind":"secret","schema":"s","table":"t"}'),
	(5, '{"schema":"s","table":"t","columnnames":[],"columnvalues":[]}'),
	(6, '{"kind":"insert","table":"t","columnnames":[],"columnvalues":[]}'),
	(7, '{"kind":"insert","schema":"s","columnnames":[],"columnvalues":[]}'),
	(8, '{"kind":"insert","schema":"s","table":"t","columnvalues":[]}'),
	(9, '{"kind":"insert","schema":"s","table":"t","columnnames":[]}'),
	(10, '{"kind":"insert","schema":7,"table":"t","columnnames":[],"columnvalues":[]}'),
	(11, '{"kind":"insert","schema":"s","table":null,"columnnames":[],"columnvalues":[]}'),
	(12, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[]}'),
	(13, '{"kind":"insert","schema":"s","table":"t","columnnames":[],"columnvalues":["secret"]}'),
	(14, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columntypes":[]}'),
	(15, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columntypes":["x","secret"]}'),
	(16, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columntypeoids":[1,2]}'),
	(17, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columnpositions":[]}'),
	(18, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columnoptionals":[true,true]}'),
	(19, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columndefaults":[]}'),
	(20, '{"kind":"insert","schema":"s","table":"t","columnnames":[7],"columnvalues":[1]}'),
	(21, '{"kind":"insert","schema":"s","table":"t","columnnames":[null],"columnvalues":[1]}'),
	(22, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1],"columntypes":[23]}'),
	(23, '{"kind":"insert","schema":"s","table":"t","columnnames":{"a":1},"columnvalues":[1]}'),
	(24, '{"kind":"insert","schema":"s","table":"t","columnnames":"secret","columnvalues":["secret"]}'),
	(25, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":"secret"}'),
	(26, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[["secret"]]}'),
	(27, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[{"secret":1}]}'),
	(28, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1,]}'),
	(29, '{"kind":"insert","schema":"s","table":"t","columnnames":["a"],"columnvalues":[1 2]}'),
	(30, '{"kind":"insert","schema":"s","table":"t","columnnames":[],"columnnames":[],"columnvalues":[]}'),
	(31, '{"kind":"insert","schema":"s","table":"t","columnnames":null,"columnvalues":[]}'),
	(32, '{"kind":"insert","schema":"s","table":"t","columnnames":[],"columnvalues":[],"oldkeys":{"keynames":[],"keyvalues":[]}}'),
	(33, '{"kind":"update","schema":"s","table":"t","columnnames":[],"columnvalues":[]}'),
	(34, '{"kind":"update","schema":"s","table":"t","oldkeys":{"keynames":[],"keyvalues":[]}}'),
	(35, '{"kind":"delete","schema":"s","table":"t"}'),
	(36, '{"kind":"delete","schema":"s","table":"t","columnnames":[],"columnvalues":[],"oldkeys":{"keynames":[],"keyvalues":[]}}'),
	(37, '{"kind":"truncate","schema":"s"}'),
	(38, '{"kind":"truncate","schema":"s","table":"t","content":"secret"}'),
	(39, '{"kind":"message","transactional":true,"prefix":"p"}'),
	(40, '{"kind":"message","transactional":"true","prefix":"p","content":"secret"}'),
	(41, '{"kind":"message","transactional":null,"prefix":"p","content":"secret"}'),
	(42, '{"kind":"message","transactional":true,"prefix":"p","content":null}'),
	(43, '{"kind":"message","transactional":true,"prefix":"p","content":"c","schema":"s"}')) AS m (n, change) ORDER BY n;
-- its old row
SELECT oldkeys, refusal(format('{"change":[{"kind":"delete","schema":"s","table":"t","oldkeys":%s}]}', oldkeys)) FROM (VALUES
	(1, 'null'),
	(2, '[]'),
	(3, '7'),
	(4, '{}'),
	(5, '{"keynames":["a"]}'),
	(6, '{"keyvalues":["secret"]}'),
	(7, '{"keynames":["a"],"keyvalues":[]}'),
	(8, '{"keynames":[],"keyvalues":["secret"]}'),
	(9, '{"keynames":["a"],"keyvalues":[1],"keytypes":[]}'),
	(10, '{"keynames":["a"],"keyvalues":[1],"keytypeoids":[1,2]}'),
	(11, '{"keynames":["a"],"keyvalues":[1],"keytypes":[null]}'),
	(12, '{"keynames":["a"],"keyvalues":[{"secret":1}]}'),
	(13, '{"keynames":["a"],"keynames":["a"],"keyvalues":[1]}'),
	(14, '{"keynames":[1],"keyvalues":[1]}')) AS m (n, oldkeys) ORDER BY n;
-- strings: escapes that wal2json does not write would need a conversion; half
-- surrogates, zero and broken ones are none at all
SELECT value, refusal(format('{"change":[{"kind":"delete","schema":"s","table":"t","oldkeys":{"keynames":["a"],"keyvalues":[%s]}}]}', value)) FROM (VALUES
	(1, '"\u0000"'),
	(2, '"\u00e9"'),
	(3, '"\ud83d\ude00"'),
	(4, '"\ud83d"'),
	(5, '"\ude00\ud83d"'),
	(6, '"\u12"'),
	(7, '"\u123g"'),
	(8, '"\x"'),
	(9, '"\'),
	(10, E'"\t"'),
	(11, 'secret'),
	(12, '01'),
	(13, '1.'),
	(14, '-'),
	(15, '1e'),
	(16, '+1'),
	(17, 'NaN'),
	(18, '''secret''')) AS m (n, value) ORDER BY n;
-- bytes that are not of the encoding do not even become a text
SELECT * FROM trucker.decode_wal2json(convert_from('\x7b226368616e6765ff223a5b5d7d', 'UTF8'));
-- nesting, deep enough to exhaust the stack; and arrays longer than any table's
SELECT refusal('{"change":' || repeat('[', 1000000)),
	refusal('{"change":[{"x":' || repeat('{"x":', 1000000)),
	refusal(repeat('[', 1000000) || '"change":'),
	refusal('{"change":[{"kind":"insert","columnvalues":[' || repeat('1,', 40000) || '1]}]}'),
	refusal('{"change":[],"x":' || repeat('[', 50) || repeat(']', 50) || '}');

--
-- Any prefix of a message is refused, with protocol_violation.
--
CREATE FUNCTION outcome(message text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM trucker.decode_wal2json(message);
	RETURN 'decoded';
EXCEPTION
	WHEN protocol_violation THEN
		RETURN 'refused';
	WHEN OTHERS THEN
		RAISE WARNING '% % for %', SQLSTATE, SQLERRM, message;
		RETURN 'something else';
END $$;

SELECT outcome(left(message, i)), count(*) = 2 AS only_the_whole
FROM kept, generate_series(0, length(message)) i
WHERE kept.n IN (3, 5)
GROUP BY 1 ORDER BY 1;

DROP FUNCTION outcome(text), refusal(text);
