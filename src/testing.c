/*
 * testing.c
 *	  SQL-callable ways into parts of trucker that have none of their own.
 *
 * Regression tests should be able to hold a part by itself: a template, the files
 * of a project or the decoder without a truck, a worker, a slot or a connection.  The functions
 * here exist for that only.  They are no part of the extension: its SQL script
 * does not mention them, and a test that wants one creates it, as superuser,
 * with
 *
 *		CREATE FUNCTION ... AS 'trucker', 'trucker_test_...' LANGUAGE C STRICT
 *
 * A function here converts arguments and results, and does nothing else; what
 * is tested is then what trucker runs.  Decoded values are printed as SQL
 * literals, so that the value NULL and the text 'NULL', or an absent field and
 * an empty one, cannot be mistaken.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "decoder.h"
#include "project.h"
#include "template.h"

PG_FUNCTION_INFO_V1(trucker_test_render);
PG_FUNCTION_INFO_V1(trucker_test_uses_operation);
PG_FUNCTION_INFO_V1(trucker_test_project);
PG_FUNCTION_INFO_V1(trucker_test_decode);
PG_FUNCTION_INFO_V1(trucker_test_wal2json_options);

/*
 * trucker_test_render(template text, operation text) returns text
 *
 * The template rendered for a run of that operation on table public.t.
 */
Datum
trucker_test_render(PG_FUNCTION_ARGS)
{
	TruckerTemplateVars vars = {
		.rows = "r",
		.operation = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.input_table = "public.t"
	};
	TruckerTemplate *tmpl;

	tmpl = trucker_template_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								  "template");
	PG_RETURN_TEXT_P(cstring_to_text(trucker_template_render(tmpl, &vars)));
}

/*
 * trucker_test_uses_operation(template text) returns bool
 *
 * Does the template name .operation?
 */
Datum
trucker_test_uses_operation(PG_FUNCTION_ARGS)
{
	TruckerTemplate *tmpl;

	tmpl = trucker_template_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								  "template");
	PG_RETURN_BOOL(trucker_template_uses_operation(tmpl));
}

/* What a project's files may name here: A, and nothing else. */
static const char *
test_environment(const char *name)
{
	return strcmp(name, "A") == 0 ? "value of A" : NULL;
}

/*
 * trucker_test_project(root bool, source text) returns text
 *
 * What is wrong with a trucker.yml (root) or a truck.yml, but for what it names; each
 * complaint on a line.
 */
Datum
trucker_test_project(PG_FUNCTION_ARGS)
{
	TruckerProject project = {0};
	TruckerProjectText file = {.name = "file", .errors = &project.errors};
	TruckerYaml *tree;

	trucker_project_errors_init(&project.errors);
	file.source = text_to_cstring(PG_GETARG_TEXT_PP(1));
	tree = trucker_project_text_read(&file, test_environment);
	if (PG_GETARG_BOOL(0))
		trucker_project_read_root(&project, &file, tree);
	else
		(void) trucker_project_read_truck(&file, tree);
	PG_RETURN_TEXT_P(cstring_to_text(project.errors.lines.data));
}

static const char *
kind_name(TruckerMessageKind kind)
{
	switch (kind)
	{
		case TRUCKER_MSG_BEGIN:
			return "BEGIN";
		case TRUCKER_MSG_COMMIT:
			return "COMMIT";
		case TRUCKER_MSG_INSERT:
			return "INSERT";
		case TRUCKER_MSG_UPDATE:
			return "UPDATE";
		case TRUCKER_MSG_DELETE:
			return "DELETE";
		case TRUCKER_MSG_TRUNCATE:
			return "TRUNCATE";
		case TRUCKER_MSG_LOGICAL:
			return "LOGICAL";
	}
	return "???";
}

static void
dump_fields(StringInfo buf, const char *label, const TruckerField *fields, int n)
{
	if (fields == NULL)
		return;

	appendStringInfo(buf, " %s:", label);
	for (int i = 0; i < n; i++)
		appendStringInfo(buf, " %s#%d=%s", fields[i].name, fields[i].attnum,
						 fields[i].value ? quote_literal_cstr(fields[i].value) : "NULL");
}

/*
 * trucker_test_decode(message text) returns text
 *
 * Decode one message and print it on one line (but for line feeds in values).
 */
Datum
trucker_test_decode(PG_FUNCTION_ARGS)
{
	text	   *data = PG_GETARG_TEXT_PP(0);
	TruckerMessage message;
	StringInfoData buf;

	trucker_wal2json.decode(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), &message);

	initStringInfo(&buf);
	appendStringInfoString(&buf, kind_name(message.kind));
	appendStringInfo(&buf, " xid=%u", message.xid);
	if (message.kind == TRUCKER_MSG_BEGIN || message.kind == TRUCKER_MSG_COMMIT)
		appendStringInfo(&buf, " commit_lsn=%X/%X end_lsn=%X/%X",
						 LSN_FORMAT_ARGS(message.commit_lsn),
						 LSN_FORMAT_ARGS(message.end_lsn));
	if (message.committed_at != 0)
		appendStringInfo(&buf, " committed_at=%s",
						 timestamptz_to_str(message.committed_at));
	if (message.schema != NULL || message.table != NULL)
		appendStringInfo(&buf, " %s",
						 quote_qualified_identifier(message.schema, message.table));
	dump_fields(&buf, "new", message.newfields, message.nnew);
	dump_fields(&buf, "old", message.oldfields, message.nold);
	if (message.kind == TRUCKER_MSG_LOGICAL)
		appendStringInfo(&buf, " transactional=%s prefix=%s content=%s",
						 message.transactional ? "true" : "false",
						 quote_literal_cstr(message.prefix),
						 quote_literal_cstr(message.content));

	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/*
 * trucker_test_wal2json_options(tables text[]) returns text
 *
 * The options for the tables {schema, table, schema, table, ...}.
 */
Datum
trucker_test_wal2json_options(PG_FUNCTION_ARGS)
{
	TruckerDecodeRequest request = {NIL, "prefix"};
	StringInfoData buf;
	Datum	   *names;
	bool	   *nulls;
	int			n;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, &nulls, &n);

	for (int i = 0; i < n; i += 2)
	{
		TruckerTableName *name = palloc(sizeof(TruckerTableName));

		if (i + 1 == n || nulls[i] || nulls[i + 1])
			elog(ERROR, "names must come in pairs, none of them null");
		name->schema = TextDatumGetCString(names[i]);
		name->table = TextDatumGetCString(names[i + 1]);
		request.tables = lappend(request.tables, name);
	}

	initStringInfo(&buf);
	trucker_wal2json.append_options(&buf, &request);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}
