--
-- The decoder for pgoutput, without a slot: each kind of message is read as it was
-- meant, and whatever is not such a message is refused with protocol_violation and
-- without a word of the row's data.
--
CREATE FUNCTION trucker_test_pgoutput(prefix text, messages bytea[]) RETURNS text
	AS 'trucker', 'trucker_test_pgoutput' LANGUAGE C STRICT;
CREATE FUNCTION trucker_test_pgoutput_options(publications text[], as_text boolean) RETURNS text
	AS 'trucker', 'trucker_test_pgoutput_options' LANGUAGE C STRICT;
\pset format unaligned
SET timezone = 'UTC';
SET datestyle = 'ISO';

--
-- The words of the protocol.
--
CREATE FUNCTION str(text) RETURNS bytea LANGUAGE sql AS $$ SELECT convert_to($1, 'UTF8') || '\x00' $$;
CREATE FUNCTION i2(int) RETURNS bytea LANGUAGE sql AS $$ SELECT int2send($1::int2) $$;
CREATE FUNCTION i4(bigint) RETURNS bytea LANGUAGE sql AS $$ SELECT substr(int8send($1), 5) $$;
CREATE FUNCTION col(flags int, name text, type regtype) RETURNS bytea LANGUAGE sql
	AS $$ SELECT substr(i2(flags), 2) || str(name) || i4(type::oid::bigint) || '\xffffffff' $$;
CREATE FUNCTION rel(relid int, schema text, name text, identity text, VARIADIC cols bytea[]) RETURNS bytea LANGUAGE sql
	AS $$ SELECT 'R'::bytea || i4(relid) || str(schema) || str(name) || identity::bytea || i2(cardinality(cols)) || string_agg(c, '' ORDER BY n)
		FROM unnest(cols) WITH ORDINALITY u(c, n) $$;
CREATE FUNCTION b(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT 'b'::bytea || i4(length($1)) || $1 $$;
CREATE FUNCTION t(text) RETURNS bytea LANGUAGE sql AS $$ SELECT 't'::bytea || i4(octet_length($1)) || convert_to($1, 'UTF8') $$;
CREATE FUNCTION tup(kind text, VARIADIC vals bytea[]) RETURNS bytea LANGUAGE sql
	AS $$ SELECT kind::bytea || i2(cardinality(vals)) || string_agg(v, '' ORDER BY n) FROM unnest(vals) WITH ORDINALITY u(v, n) $$;
-- a table whose key are the first two columns, and one with REPLICA IDENTITY FULL
CREATE FUNCTION rel_t() RETURNS bytea LANGUAGE sql
	AS $$ SELECT rel(7, 'public', 't', 'd', col(1, 'id', 'int4'), col(1, 'k', 'text'), col(0, 'v', 'text'), col(0, 'w', 'float8')) $$;
CREATE FUNCTION rel_f() RETURNS bytea LANGUAGE sql AS $$ SELECT rel(8, '', 'f', 'f', col(1, 'a', 'int4'), col(1, 'b', 'bytea')) $$;
CREATE FUNCTION decode(VARIADIC messages bytea[]) RETURNS text LANGUAGE sql AS $$ SELECT trucker_test_pgoutput('ours', ARRAY[rel_t(), rel_f()] || messages) $$;

--
-- Every kind.
--
SELECT decode('B'::bytea || '\x00000000015620180003042e79219a39000002e0');
SELECT decode('C'::bytea || '\x0000000000015620180000000001562048' || '\x0003042e79219a39');
-- a value in binary form, a text, a null, a value that is not sent
SELECT decode('I'::bytea || i4(7) || tup('N', b(int4send(5)), t('it''s'), 'n', 'u'));
SELECT decode('I'::bytea || i4(7) || tup('N', b(int4send(5)), t(''), t('größe 日本'), b('')));
-- the key is as it was: the old values are the new row's
SELECT decode('U'::bytea || i4(7) || tup('N', b(int4send(5)), t('k'), 'u', 'n'));
-- a key of which a part is large and unchanged
SELECT decode('U'::bytea || i4(7) || tup('N', b(int4send(5)), 'u', t('v'), 'n'));
-- another key: of the old row only that means something
SELECT decode('U'::bytea || i4(7) || tup('K', b(int4send(4)), t('old'), 'n', 'n') || tup('N', b(int4send(5)), t('k'), t('v'), 'n'));
SELECT decode('D'::bytea || i4(7) || tup('K', b(int4send(4)), 'n', 'n', 'n'));
-- the whole old row; a schema without a name is pg_catalog
SELECT decode('U'::bytea || i4(8) || tup('O', b(int4send(4)), 'n') || tup('N', b(int4send(5)), b('\x00ff')));
SELECT decode('D'::bytea || i4(8) || tup('O', 'n', b('\x00')));
SELECT decode('T'::bytea || i4(1) || '\x00' || i4(7));
SELECT decode('T'::bytea || i4(3) || '\x03' || i4(7) || i4(8) || i4(7));
-- only our own logical messages are anybody's business
SELECT decode('M'::bytea || '\x01' || int8send(1) || str('ours') || i4(3) || 'ddl'::bytea);
SELECT decode('M'::bytea || '\x00' || int8send(1) || str('ours') || i4(0));
SELECT decode('M'::bytea || '\x01' || int8send(1) || str('our') || i4(3) || '\x00ff00') = '' AS another_prefix,
	decode('M'::bytea || '\x01' || int8send(1) || str('ours') || i4(4) || '\x61006263') AS up_to_a_zero;
-- types and origins are no news
SELECT decode('Y'::bytea || i4(16384) || str('public') || str('mood'), 'O'::bytea || int8send(1) || str('pg_16384')) = '' AS nothing;
-- tables without columns
SELECT trucker_test_pgoutput('', ARRAY['R'::bytea || i4(1) || str('s') || str('t') || 'f' || i2(0), 'I'::bytea || i4(1) || 'N' || i2(0)]);
-- a table without a key: its update says nothing of the old row
SELECT trucker_test_pgoutput('', ARRAY[rel(1, 's', 't', 'd', col(0, 'a', 'int4')), 'U'::bytea || i4(1) || tup('N', t('1'))]);
-- names that need quoting; more columns than one message usually has
SELECT trucker_test_pgoutput('', ARRAY[rel(1, 'Odd "s"', 'naïve.日本', 'd', col(1, 'größe, "x"', 'int4')), 'D'::bytea || i4(1) || tup('K', t('1'))]);
SELECT length(trucker_test_pgoutput('', ARRAY[
	(SELECT rel(1, 's', 't', 'd', VARIADIC array_agg(col(i % 2, 'c' || i, 'int4') ORDER BY i)) FROM generate_series(1, 1600) i),
	(SELECT 'U'::bytea || i4(1) || tup('N', VARIADIC array_agg(t(i::text) ORDER BY i)) FROM generate_series(1, 1600) i)]));

--
-- A description holds until the next one of the same table.
--
SELECT trucker_test_pgoutput('', ARRAY[rel_t(), rel(7, 'public', 'renamed', 'd', col(1, 'id', 'int8'), col(0, 'new', 'text')),
	'I'::bytea || i4(7) || tup('N', b(int8send(5)), t('v'))]);
SELECT trucker_test_pgoutput('', ARRAY[rel_t(), rel_t(), 'T'::bytea || i4(1) || '\x00' || i4(7), rel_t(), 'T'::bytea || i4(1) || '\x00' || i4(7)]);
-- many tables, again and again
SELECT length(trucker_test_pgoutput('', (SELECT array_agg(m ORDER BY n, i, o) FROM generate_series(1, 3) n, generate_series(1, 1000) i,
	LATERAL (VALUES (1, rel(i, 's' || n, 't' || i, 'd', col(1, 'id', 'int4'))), (2, 'T'::bytea || i4(1) || '\x00' || i4(i))) v(o, m))));

--
-- Whatever else: the reason, but no data.  Each row holds "secret" where a value is; no
-- error may repeat it.
--
CREATE FUNCTION refusal(VARIADIC messages bytea[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	message text;
BEGIN
	RETURN 'NOT REFUSED: ' || decode(VARIADIC messages);
EXCEPTION WHEN protocol_violation THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, message = MESSAGE_TEXT;
	IF message || detail LIKE '%secret%' THEN
		RETURN 'DATA IN THE ERROR: ' || detail;
	END IF;
	RETURN detail;
END $$;
SELECT refusal('I'::bytea || i4(7) || tup('N', t('secret')));
DO $$ BEGIN PERFORM decode(''); EXCEPTION WHEN protocol_violation THEN RAISE NOTICE '% %', SQLSTATE, SQLERRM; END $$;
-- not a kind, or one that was not asked for
SELECT kind, refusal(kind::bytea) FROM unnest('{"",X,S,E,c,A,b,P,K,r,p,i}'::text[]) kind WHERE refusal(kind::bytea) !~ 'unknown kind|ends too early';
SELECT refusal('X'), refusal('S'::bytea || i4(7) || '\x01');
-- tables that nobody has described
SELECT refusal('I'::bytea || i4(9) || tup('N', t('secret')));
SELECT refusal('T'::bytea || i4(2) || '\x00' || i4(7) || i4(9));
-- rows that are not the table's
SELECT refusal('I'::bytea || i4(7) || tup('N', t('secret'), 'n', 'n', 'n', 'n'));
SELECT refusal('I'::bytea || i4(7) || 'N' || '\xffff' || t('secret'));
SELECT refusal('I'::bytea || i4(7) || tup('N', t('secret'), 'x', 'n', 'n'));
SELECT refusal('I'::bytea || i4(7) || tup('K', t('secret'), 'n', 'n', 'n'));
SELECT refusal('U'::bytea || i4(7) || tup('X', t('secret'), 'n', 'n', 'n'));
SELECT refusal('U'::bytea || i4(7) || tup('K', t('secret'), 'n', 'n', 'n') || tup('O', t('secret'), 'n', 'n', 'n'));
SELECT refusal('D'::bytea || i4(7) || tup('N', t('secret'), 'n', 'n', 'n'));
SELECT refusal('U'::bytea || i4(8) || tup('N', t('secret'), 'n'));
-- lengths
SELECT refusal('I'::bytea || i4(7) || 'N' || i2(4) || 't' || '\x7fffffff' || 'secret');
SELECT refusal('I'::bytea || i4(7) || 'N' || i2(4) || 't' || '\xffffffff' || 'secret');
SELECT refusal('I'::bytea || i4(7) || 'N' || i2(4) || 'b' || '\x80000000' || 'secret');
SELECT refusal('M'::bytea || '\x01' || int8send(1) || str('ours') || '\xffffffff' || 'secret');
SELECT refusal('M'::bytea || '\x01' || int8send(1) || 'ours');
SELECT refusal('T'::bytea || '\xffffffff' || '\x00' || i4(7));
SELECT refusal('T'::bytea || '\x40000001' || '\x00' || i4(7));
SELECT refusal('T'::bytea || i4(0) || '\x00');
SELECT refusal('R'::bytea || i4(7) || str('s') || str('t') || 'd' || i2(-1));
SELECT refusal('R'::bytea || i4(7) || str('s') || str('t') || 'd' || i2(1601));
-- a text with a zero byte would be taken for a shorter one; in binary form it is a byte like others
SELECT refusal('I'::bytea || i4(7) || tup('N', 'n', 't'::bytea || i4(8) || '\x7365637265740078', 'n', 'n'));
SELECT decode('I'::bytea || i4(7) || tup('N', 'n', b('\x610062'), 'n', 'n'));

-- all beginnings of each kind of message, and all of them with something behind
CREATE TABLE messages (kind text, message bytea);
INSERT INTO messages VALUES
	('begin', 'B'::bytea || '\x00000000015620180003042e79219a39000002e0'),
	('commit', 'C'::bytea || '\x0000000000015620180000000001562048' || '\x0003042e79219a39'),
	('insert', 'I'::bytea || i4(7) || tup('N', b(int4send(5)), t('secret'), 'n', 'u')),
	('update', 'U'::bytea || i4(7) || tup('N', b(int4send(5)), t('secret'), 'n', 'u')),
	('update of the key', 'U'::bytea || i4(7) || tup('K', b(int4send(4)), t('secret'), 'n', 'n') || tup('N', b(int4send(5)), t('secret'), 'n', 'u')),
	('update of all', 'U'::bytea || i4(8) || tup('O', b(int4send(4)), t('secret')) || tup('N', b(int4send(5)), t('secret'))),
	('delete by key', 'D'::bytea || i4(7) || tup('K', b(int4send(4)), t('secret'), 'n', 'n')),
	('delete of all', 'D'::bytea || i4(8) || tup('O', b(int4send(4)), 'n')),
	('truncate', 'T'::bytea || i4(2) || '\x00' || i4(7) || i4(8)),
	('logical', 'M'::bytea || '\x01' || int8send(1) || str('ours') || i4(6) || 'secret'),
	('relation', rel(9, 'public', 'u', 'd', col(1, 'id', 'int4'), col(0, 'secret', 'text'))),
	('type', 'Y'::bytea || i4(16384) || str('public') || str('secret')),
	('origin', 'O'::bytea || int8send(1) || str('secret'));
SELECT count(*), count(*) FILTER (WHERE decode(message) IS NOT NULL) AS accepted FROM messages;
SELECT kind, count(*) = max(length(message)) AS all_beginnings, string_agg(DISTINCT refusal, ' ' ORDER BY refusal) AS refusals
FROM messages, LATERAL generate_series(0, length(message) - 1) n, refusal(substr(message, 1, n)) GROUP BY 1 ORDER BY 1;
SELECT DISTINCT refusal FROM messages, refusal(message || '\x00');

-- each byte replaced: it is another message, or none; never anything else
SELECT count(*) > 1000 AS many, count(*) FILTER (WHERE refusal ~ '^NOT REFUSED') > 100 AS some_accepted,
	count(*) FILTER (WHERE refusal ~ '^DATA') AS data_in_errors
FROM messages, LATERAL generate_series(0, length(message) - 1) n, unnest('{0,1,2,75,78,79,98,110,116,127,128,255}'::int[]) value, refusal(set_byte(message, n, value));

--
-- The options.
--
SELECT trucker_test_pgoutput_options('{trucker_a,"It''s \"odd\", \\really","  "}', false);
SELECT trucker_test_pgoutput_options('{}', true);
