--
-- Templates mean what they mean in Go, and what is refused is refused with its
-- line and column: users bring their input.sql from Go, and must neither get
-- another SQL out of it nor have to search for what we do not know.
--
-- Needs a database in UTF8.  Needs no extension: the functions are not part of
-- it, see src/testing.c.
--
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
\pset format unaligned
\pset footer off

CREATE FUNCTION trucker_test_render(template text, operation text)
RETURNS text AS 'trucker', 'trucker_test_render' LANGUAGE C STRICT;
CREATE FUNCTION trucker_test_uses_operation(template text)
RETURNS bool AS 'trucker', 'trucker_test_uses_operation' LANGUAGE C STRICT;

-- One line, on which white space can be seen
CREATE FUNCTION visible(t text) RETURNS text LANGUAGE sql AS
$$ SELECT replace(replace(replace(t, E'\n', '\n'), E'\t', '\t'), E'\r', '\r') $$;

-- What a template renders to, in brackets, or the error
CREATE FUNCTION try(template text, operation text DEFAULT 'insert')
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN '[' || visible(trucker_test_render(template, operation)) || ']';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || visible(SQLERRM);
END $$;

-- Text, variables, literals
SELECT visible(t) AS template, try(t) FROM (VALUES
	(''),
	('SELECT 1'),
	('SELECT * FROM {{ .rows }}'),
	('{{.rows}}{{ .operation }} {{	.input_table	}}'),
	(E'{{\n.rows\n}}'),
	('}} { {x} - }'),
	('{{ "a" }}'),
	('{{ "" }}'),
	('{{ "}}" }}{{ "{{" }}'),
	('{{ `raw \n "quoted" }}` }}'),
	(E'{{ `two\r\nlines` }}'),
	('{{ "\n\r\t\\\"" }}'),
	('{{ "\x41\101\u0041\U00000041" }}'),
	('{{ "\u00e9\xc3\xa9\303\251\U0001F69A" }}'),
	('é{{ "é" }}'),
	('{{ 0 }} {{ 42 }} {{ -7 }} {{ +7 }} {{ -0 }}'),
	('{{ 9223372036854775807 }} {{ -9223372036854775808 }}'),
	('{{ true }} {{ false }}')
) AS v(t);

SELECT convert_to(trucker_test_render('{{ "\a\b\f\v" }}', 'insert'), 'UTF8');

-- Text that a variable renders to is not a template
SELECT try('{{ .operation }}', '{{ .rows }}');

-- Trim marks need white space beside the dash
SELECT visible(t) AS template, try(t) FROM (VALUES
	('a {{ 3 }} b'),
	('a {{- 3 }} b'),
	('a {{ 3 -}} b'),
	(E'a \t\r\n {{- 3 -}} \t\r\n b'),
	(E'a {{-\n3\t-}} b'),
	('a {{-3}} b'),
	('a {{- -3 -}} b'),
	('a {{-  3  -}} b'),
	('a {{ "x" -}} {{- "y" }} b'),
	('{{- 3 -}}'),
	('a {{ 3-}} b'),
	('a {{ "x"-}} b'),
	('a {{ -}} b'),
	('a {{- -}} b')
) AS v(t);

-- Comments
SELECT visible(t) AS template, try(t) FROM (VALUES
	('a {{/* c */}} b'),
	('a {{- /* c */}} b'),
	('a {{/* c */ -}} b'),
	('a {{- /* c */ -}} b'),
	('a {{/**/}} b'),
	(E'a {{/* two\nlines, }} {{ .foo }} " ` */}} b'),
	('a {{/* c */ }} b'),
	('a {{/* c */  -}} b'),
	('a {{/* c */-}} b'),
	('a {{ /* c */}} b'),
	('a {{-/* c */}} b'),
	('a {{/* c }} b'),
	('a {{/*/}} b')
) AS v(t);

-- Functions: eq is true if the first argument equals any other; and/or return
-- the argument that decided, and do not look at those after it
SELECT visible(t) AS template, try(t) FROM (VALUES
	('{{ eq .operation "insert" }}'),
	('{{ eq .operation "update" }}'),
	('{{ eq .operation "update" "insert" }}'),
	('{{ eq .operation "update" "delete" }}'),
	('{{ eq 1 1 }} {{ eq 1 -1 }} {{ eq 7 +7 }} {{ eq true false }}'),
	('{{ eq "Insert" "insert" }}'),
	('{{ ne .operation "insert" }} {{ ne .operation "update" }}'),
	('{{ not true }} {{ not "" }} {{ not "x" }} {{ not 0 }} {{ not -1 }}'),
	('{{ and 1 "x" }} {{ and 1 0 "x" }} {{ and "a" }}'),
	('{{ or 0 "x" 2 }} {{ or 0 false }} {{ or "a" }}'),
	('[{{ or 0 "" }}] [{{ and "" 1 }}]'),
	('{{ or 1 (eq 1 "a") }} {{ and 0 (eq 1 "a") }}'),
	('{{ eq 1 1 "a" }}'),
	('{{ eq (eq 1 1) true }}'),
	('{{ not (eq .operation "delete") }}'),
	('{{ or (eq .operation "insert") (eq .operation "update") }}'),
	('{{ and (ne .operation "insert") (ne .operation "update") }}'),
	('{{ ((("a"))) }} {{ ( eq ( 1 ) (1) ) }}')
) AS v(t);

-- Pipes: the value comes last
SELECT visible(t) AS template, try(t) FROM (VALUES
	('{{ .operation | eq "delete" }} {{ .operation | eq "insert" }}'),
	('{{ .operation|eq "insert"|not }}'),
	('{{ "x" | and 1 }} {{ "x" | and 0 }} {{ "x" | or 0 }} {{ "x" | or 1 }}'),
	('{{ .operation | eq "update" "insert" }}'),
	('{{ .operation | eq "insert" "update" }}'),
	('{{ "update" | eq "insert" .operation }}'),
	('{{ "x" | ne "y" }} {{ "x" | or }} {{ (eq 1 1) | not }}'),
	('{{ eq (.operation | ne "a" | not) false }}'),
	-- what is piped in is evaluated even if or does not need it
	('{{ eq 1 "a" | or 1 }}')
) AS v(t);

-- if
SELECT visible(t) AS template, try(t, 'insert') AS insert,
	try(t, 'update') AS update, try(t, 'delete') AS delete
FROM (VALUES
	('{{ if eq .operation "insert" }}i{{ end }}'),
	('{{ if eq .operation "insert" }}i{{ else }}other{{ end }}'),
	('{{ if eq .operation "insert" }}i{{ else if eq .operation "update" }}u{{ end }}'),
	('{{if eq .operation "insert"}}i{{else if eq .operation "update"}}u{{else}}d{{end}}'),
	('{{ if or (eq .operation "insert") (eq .operation "update") }}iu{{ end }}'),
	('{{ if not (eq .operation "delete") }}iu{{ end }}'),
	('{{ if .operation | eq "delete" }}d{{ end }}'),
	(E'a\n{{- if eq .operation "insert" }} i\n{{- else }} other\n{{- end }} b'),
	('{{ if ne .operation "delete" }}<{{ if eq .operation "insert" }}i{{ else }}u{{ end }}>{{ else }}<{{ if true }}d{{ end }}>{{ end }}'),
	('{{ if false }}{{ else if false }}{{ else if eq .operation "update" }}u{{ else }}{{ if eq .operation "delete" }}d{{ end }}{{ end }}')
) AS v(t);

-- Truth
SELECT t AS value, try('{{ if ' || t || ' }}yes{{ else }}no{{ end }}')
FROM (VALUES
	('""'), ('``'), ('" "'), ('"false"'), ('"0"'), ('0'), ('-0'), ('1'), ('-1'),
	('true'), ('false'), ('.rows'), ('(not .rows)')
) AS v(t);
SELECT try('{{ if .operation }}yes{{ else }}no{{ end }}', '');

-- Does a template name .operation, also where it is never rendered?
SELECT t AS template, trucker_test_uses_operation(t)
FROM (VALUES
	(''),
	('.operation'),
	('{{ .rows }} {{ .input_table }} {{ ".operation" }}'),
	('{{/* .operation */}}'),
	('{{ .operation }}'),
	('{{ eq "insert" (.operation) }}'),
	('{{ "insert" | eq .operation }}'),
	('{{ if false }}{{ .operation }}{{ end }}'),
	('{{ if true }}{{ else if eq .operation "insert" }}{{ end }}'),
	('{{ or true .operation }}')
) AS v(t);

-- Errors in names.  Columns count characters, lines end with a line feed.
SELECT visible(t) AS template, try(t) FROM (VALUES
	('{{ .foo }}'),
	(E'SELECT 1\nFROM x\nWHERE {{ .foo }}'),
	(E'é\r\n\tüñ🚚 {{ "é" | eq .été }}'),
	('{{ . }}'),
	('{{ .rows.id }}'),
	('{{ .Rows }}'),
	('{{ .rows1 }}'),
	('{{ rows }}'),
	('{{ printf "%s" .rows }}'),
	('{{ EQ 1 1 }}'),
	('{{ "a" | upper }}'),
	('{{ if false }}{{ .foo }}{{ end }}'),
	('{{ or true .foo }}')
) AS v(t);

-- Go has it, we do not
SELECT visible(t) AS template, try(t) FROM (VALUES
	('{{ range .rows }}{{ end }}'),
	('{{ with .rows }}{{ end }}'),
	('{{ define "x" }}{{ end }}'),
	('{{ block "x" .rows }}{{ end }}'),
	('{{ template "x" }}'),
	('{{ break }}'),
	('{{ continue }}'),
	('{{ eq .rows nil }}'),
	('{{ $x := .rows }}'),
	('{{ $.rows }}'),
	('{{ ''a'' }}'),
	('{{ 1.5 }}'),
	('{{ .5 }}'),
	('{{ 0x10 }}'),
	('{{ 010 }}'),
	('{{ 1_000 }}'),
	('{{ 1e3 }}'),
	('{{ 1+2i }}'),
	('{{ 9223372036854775808 }}'),
	('{{ -9223372036854775809 }}')
) AS v(t);

-- Errors in structure
SELECT visible(t) AS template, try(t) FROM (VALUES
	('a {{'),
	('é {{ .rows'),
	('a {{ .rows }'),
	(E'a\n {{ if true }} {{ .rows '),
	('{{ "abc }}'),
	(E'{{ "abc\n" }}'),
	('{{ "abc\'),
	(E'{{ "abc\\\n" }}'),
	('{{ `abc }}'),
	(E'a\né {{ if true }}b{{ if false }}{{ end }}'),
	('{{ if true }}a{{ else }}b'),
	('{{ if true }}a{{ else if true }}b'),
	('a {{ end }}'),
	('a {{ else }}'),
	('a {{ else if true }}'),
	('{{ if true }}{{ end }}{{ end }}'),
	('{{ if true }}{{ else }}{{ else }}{{ end }}'),
	('{{ if true }}{{ else }}{{ else if true }}{{ end }}'),
	('{{ if }}{{ end }}'),
	('{{ if true }}{{ else if }}{{ end }}'),
	('{{ if true }}{{ else true }}{{ end }}'),
	('{{ if true }}{{ end true }}'),
	('{{ if true }}{{ elseif true }}{{ end }}'),
	('{{ eq 1 if }}'),
	('{{ 1 | end }}')
) AS v(t);

-- Errors in expressions
SELECT visible(t) AS template, try(t) FROM (VALUES
	('{{}}'),
	('{{ }}'),
	('{{ () }}'),
	('{{ ( }}'),
	('{{ (eq 1 (or 2 3) }}'),
	('{{ (1 }} {{ ) }}'),
	('{{ ) }}'),
	('{{ (1)) }}'),
	('{{ | not }}'),
	('{{ 1 | }}'),
	('{{ 1 | | not }}'),
	('{{ (1 | ) }}'),
	('{{ eq }}'),
	('{{ eq "a" }}'),
	('{{ .operation | eq }}'),
	('{{ ne 1 }}'),
	('{{ ne 1 2 3 }}'),
	('{{ 3 | ne 1 2 }}'),
	('{{ not }}'),
	('{{ not 1 2 }}'),
	('{{ 1 | not 2 }}'),
	('{{ and }}'),
	('{{ or }}'),
	('{{ if not eq .operation "delete" }}{{ end }}'),
	('{{ .rows "a" }}'),
	('{{ "a" "b" }}'),
	('{{ ("a") "b" }}'),
	('{{ 1 | .rows }}'),
	('{{ 1 | "a" }}'),
	('{{ 1 | true }}'),
	('{{ 1 | (eq 1) }}'),
	('{{ 1 | (eq 1 1) }}'),
	('{{ eq .operation"insert" }}'),
	('{{ eq "a""b" }}'),
	('{{ not(true) }}'),
	('{{ eq (1)(1) }}'),
	('{{ eq .operation, "insert" }}'),
	('{{ .operation == "insert" }}'),
	('{{ .rows; }}'),
	('{{{ .rows }}}'),
	('{{ é }}')
) AS v(t);

-- Errors in strings
SELECT visible(t) AS template, try(t) FROM (VALUES
	('é {{ "é\q" }}'),
	('{{ "\''" }}'),
	('{{ "\x4" }}'),
	('{{ "\u123" }}'),
	('{{ "\U0011FFFF" }}'),
	('{{ "\ud83d\ude9a" }}'),
	('{{ "\400" }}'),
	('{{ "\18" }}'),
	('{{ "\x00" }}'),
	('{{ "\000" }}'),
	('{{ "\u0000" }}'),
	('{{ eq "a" "b\xff" }}')
) AS v(t);

-- Comparisons that Go refuses fail when they are reached
SELECT visible(t) AS template, try(t) FROM (VALUES
	('{{ eq .operation 1 }}'),
	(E'SELECT 1;\né {{ if eq 1 .operation }}{{ end }}'),
	('{{ ne true "true" }}'),
	('{{ eq 1 2 "a" }}'),
	('{{ 1 | eq true }}'),
	('{{ not (eq 1 (eq 1 1)) }}'),
	('{{ if false }}{{ eq 1 "1" }}{{ end }}')
) AS v(t);

-- Hints
SELECT trucker_test_render('{{ .foo }}', 'insert');
SELECT trucker_test_render('{{ len .rows }}', 'insert');
SELECT trucker_test_render('{{ range .rows }}', 'insert');
SELECT trucker_test_render('{{ $x }}', 'insert');
SELECT trucker_test_render('{{ .operation == "insert" }}', 'insert');
SELECT trucker_test_render('{{ /* c */ }}', 'insert');
SELECT trucker_test_render('{{ "\q" }}', 'insert');
SELECT trucker_test_render('{{ eq "a" }}', 'insert');
SELECT trucker_test_render('{{ .rows', 'insert');
SELECT trucker_test_render('{{ if true }}', 'insert');
SELECT trucker_test_render('{{ eq .operation 1 }}', 'insert');

-- Nesting ends in an error, not in a crash.  Only SQLSTATE: which message
-- comes depends on the stack.
DO $$
DECLARE
	t text;
BEGIN
	FOREACH t IN ARRAY ARRAY[
		'{{ ' || repeat('(', 100000),
		'{{ ' || repeat('(', 100000) || '1' || repeat(')', 100000) || ' }}',
		'{{ ' || repeat('not (', 100000) || '1' || repeat(')', 100000) || ' }}',
		repeat('{{ if true }}', 100000) || repeat('{{ end }}', 100000)]
	LOOP
		BEGIN
			PERFORM trucker_test_render(t, 'insert');
			RAISE WARNING 'no error';
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING '%', SQLSTATE;
		END;
	END LOOP;
END $$;

-- What is long without being deep is fine
SELECT length(trucker_test_render(repeat('{{ if false }}{{ else }}x{{ end }}', 10000), 'insert'));
SELECT trucker_test_render('{{ if false }}' || repeat('{{ else if false }}', 10000) || '{{ else }}x{{ end }}', 'insert');
SELECT trucker_test_render('{{ 1' || repeat(' | not', 10001) || ' }}', 'insert');
SELECT trucker_test_render('{{ eq 0' || repeat(' 1', 10000) || ' 0 }}', 'insert');
SELECT trucker_test_render('{{ ' || repeat('(', 500) || '1' || repeat(')', 500) || ' }}', 'insert');
SELECT trucker_test_render('{{ "' || repeat('\u00e9', 10000) || '" }}', 'insert') = repeat('é', 10000);

DROP FUNCTION try, visible, trucker_test_render, trucker_test_uses_operation;
