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
PG_FUNCTION_INFO_V1(trucker_test_pgoutput);
PG_FUNCTION_INFO_V1(trucker_test_pgoutput_options);

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
		default:
			break;
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
	{
		const TruckerField *field = &fields[i];

		if (OidIsValid(field->type_oid))
			appendStringInfo(buf, " %s:%u=", field->name, field->type_oid);
		else
			appendStringInfo(buf, " %s#%d=", field->name, field->attnum);
		if (field->value == NULL)
			appendStringInfoString(buf, "NULL");
		else if (!field->binary)
			appendStringInfoString(buf, quote_literal_cstr(field->value));
		else
		{
			appendStringInfoChar(buf, 'x');
			for (int b = 0; b < field->len; b++)
				appendStringInfo(buf, "%02x", (unsigned char) field->value[b]);
			if (field->value[field->len] != '\0')
				elog(ERROR, "a value is not followed by a zero byte");
		}
	}
}

/* On one line, but for line feeds in values. */
static void
dump_message(StringInfo buf, const TruckerMessage *message)
{
	appendStringInfoString(buf, kind_name(message->kind));
	appendStringInfo(buf, " xid=%u", message->xid);
	if (message->kind == TRUCKER_MSG_BEGIN || message->kind == TRUCKER_MSG_COMMIT)
		appendStringInfo(buf, " commit_lsn=%X/%X end_lsn=%X/%X",
						 LSN_FORMAT_ARGS(message->commit_lsn),
						 LSN_FORMAT_ARGS(message->end_lsn));
	if (message->committed_at != 0)
		appendStringInfo(buf, " committed_at=%s",
						 timestamptz_to_str(message->committed_at));
	if (message->schema != NULL || message->table != NULL)
		appendStringInfo(buf, " %s",
						 quote_qualified_identifier(message->schema, message->table));
	dump_fields(buf, "new", message->newfields, message->nnew);
	dump_fields(buf, "old", message->oldfields, message->nold);
	if (message->kind == TRUCKER_MSG_LOGICAL)
		appendStringInfo(buf, " transactional=%s prefix=%s content=%s",
						 message->transactional ? "true" : "false",
						 quote_literal_cstr(message->prefix),
						 quote_literal_cstr(message->content));
}

/*
 * trucker_test_decode(message text) returns text
 *
 * Decode one message and print it.
 */
Datum
trucker_test_decode(PG_FUNCTION_ARGS)
{
	text	   *data = PG_GETARG_TEXT_PP(0);
	TruckerMessage message;
	StringInfoData buf;

	(void) trucker_wal2json.decode(NULL, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), &message);

	initStringInfo(&buf);
	dump_message(&buf, &message);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/*
 * trucker_test_pgoutput(prefix text, messages bytea[]) returns text
 *
 * Decode messages of one stream, and print those that the decoder does not keep to
 * itself, each on a line; another table of the same TRUNCATE after an "also".
 */
Datum
trucker_test_pgoutput(PG_FUNCTION_ARGS)
{
	TruckerDecodeRequest request = {.message_prefix = text_to_cstring(PG_GETARG_TEXT_PP(0))};
	void	   *state = trucker_pgoutput.begin(&request);
	StringInfoData buf;
	Datum	   *messages;
	bool	   *nulls;
	int			n;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT,
					  &messages, &nulls, &n);
	initStringInfo(&buf);
	for (int i = 0; i < n; i++)
	{
		bytea	   *data;
		TruckerMessage message;

		if (nulls[i])
			elog(ERROR, "no message may be null");
		data = DatumGetByteaPP(messages[i]);
		if (!trucker_pgoutput.decode(state, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), &message))
			continue;
		if (buf.len > 0)
			appendStringInfoChar(&buf, '\n');
		dump_message(&buf, &message);
		for (TruckerMessage *also = message.also; also; also = also->also)
		{
			appendStringInfoString(&buf, " also ");
			dump_message(&buf, also);
		}
	}
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/*
 * trucker_test_pgoutput_options(publications text[], as_text boolean) returns text
 */
Datum
trucker_test_pgoutput_options(PG_FUNCTION_ARGS)
{
	TruckerDecodeRequest request = {.as_text = PG_GETARG_BOOL(1)};
	StringInfoData buf;
	Datum	   *names;
	int			n;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, NULL, &n);
	for (int i = 0; i < n; i++)
		request.publications = lappend(request.publications, TextDatumGetCString(names[i]));
	initStringInfo(&buf);
	trucker_pgoutput.append_options(&buf, &request);
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
	TruckerDecodeRequest request = {.message_prefix = "prefix"};
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
