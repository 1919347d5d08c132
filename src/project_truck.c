/*
 * project_truck.c
 *	  A project's truck as create_truck() and alter_truck() want it, and what makes it
 *	  different from the one that there is.
 *
 * Names of tables are looked up with the search_path of the session that loads, as
 * create_truck() does.  All that truck.yml can say is an option of the truck, so the
 * options of a project's truck are what its files say and nothing else: one that
 * somebody has set with alter_truck() goes with the next load().
 */
#include "trucker.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "checklist.h"
#include "connection.h"
#include "diff.h"
#include "filter.h"
#include "program.h"
#include "project_plan.h"

/* ----
 * Options
 * ----
 */

static void
push_text(JsonbParseState **state, const char *text, JsonbIteratorToken token)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	pushJsonbValue(state, token, &value);
}

static void
push_key(JsonbParseState **state, const char *key)
{
	push_text(state, key, WJB_KEY);
}

/* An option, if it is given. */
static void
push_option(JsonbParseState **state, const char *key, const char *text)
{
	if (text == NULL)
		return;
	push_key(state, key);
	push_text(state, text, WJB_VALUE);
}

static void
push_bool(JsonbParseState **state, const char *key, const TruckerProjectValue *given)
{
	JsonbValue	value;

	if (given->text == NULL)
		return;
	value.type = jbvBool;
	value.val.boolean = strcmp(given->text, "true") == 0;
	push_key(state, key);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_number(JsonbParseState **state, const char *key, const char *text)
{
	JsonbValue	value;

	if (text == NULL)
		return;
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int4_numeric, Int32GetDatum(atoi(text))));
	push_key(state, key);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_list(JsonbParseState **state, const TruckerYaml *list)
{
	ListCell   *lc;

	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	foreach(lc, list->values)
		push_text(state, ((TruckerYaml *) lfirst(lc))->text, WJB_ELEM);
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* Columns: a list, or lists by table. */
static void
push_columns(JsonbParseState **state, const char *key, const TruckerYaml *columns)
{
	if (columns == NULL)
		return;
	push_key(state, key);
	if (columns->kind == TRUCKER_YAML_LIST)
	{
		push_list(state, columns);
		return;
	}
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < list_length(columns->keys); i++)
	{
		push_key(state, ((TruckerYaml *) list_nth(columns->keys, i))->text);
		push_list(state, list_nth(columns->values, i));
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

static Jsonb *
options_of(const TruckerProject *project, const TruckerProjectTruck *given)
{
	JsonbParseState *state = NULL;
	const char *threshold = given->slow_query_threshold_ms.text;
	const char *on_truncate = given->on_truncate.text;

	if (threshold == NULL)
		threshold = project->slow_query_threshold_ms.text;
	if (on_truncate == NULL && given->truncate_sql)
		on_truncate = "run";
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_bool(&state, "backfill", &given->backfill);
	push_option(&state, "changes", given->changes.text);
	push_columns(&state, "except_columns", given->except_columns);
	push_bool(&state, "inserts_only", &given->inserts_only);
	/* beside an output.sql, output.table says in which table that writes, and no more */
	if (given->output_sql == NULL)
	{
		push_option(&state, "mode", given->mode.text);
		push_option(&state, "output_table", given->output_table.text);
	}
	push_option(&state, "on_error", given->on_error.text);
	push_option(&state, "on_truncate", on_truncate);
	push_columns(&state, "only_columns", given->only_columns);
	push_option(&state, "reset_sql", given->reset_sql);
	push_option(&state, "role", given->role.text);
	push_number(&state, "slow_query_threshold", threshold);
	push_option(&state, "stream", given->stream.text);
	push_option(&state, "toast", given->toast.text);
	push_option(&state, "truncate_sql", given->truncate_sql);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* ----
 * Input tables
 * ----
 */

/* What is to be tried, and complained of. */
typedef struct Attempt
{
	const char *name;
	Oid			relid;
	TruckerTruck *truck;
	const TruckerFilterOptions *filters;
	char	   *role_name;
} Attempt;

static const char *
find_table(TruckerChecklist *list, void *arg)
{
	Attempt    *attempt = arg;

	attempt->relid = RangeVarGetRelid(makeRangeVarFromNameList(stringToQualifiedNameList(attempt->name)),
									  NoLock, true);
	return NULL;
}

static void
find_tables(TruckerProject *project, const TruckerProjectTruck *given, TruckerTruck *truck)
{
	ListCell   *lc;

	truck->inputs = palloc(Max(list_length(given->tables), 1) * sizeof(Oid));
	foreach(lc, given->tables)
	{
		const TruckerProjectValue *table = lfirst(lc);
		Attempt		attempt = {.name = table->text};
		const char *result;
		ErrorData  *error = trucker_checklist_try(find_table, &attempt, &result);

		if (error)
			trucker_project_complain(table->file, table->start, "input table %s: %s",
									 trucker_project_value_shown(table), error->message);
		else if (!OidIsValid(attempt.relid))
			trucker_project_complain(table->file, table->start, "input table %s does not exist",
									 trucker_project_value_shown(table));
		else
		{
			for (int i = 0; i < truck->ninputs; i++)
				if (truck->inputs[i] == attempt.relid)
					trucker_project_complain(table->file, table->start, "input table %s is another one's name once more",
											 trucker_project_value_shown(table));
			truck->inputs[truck->ninputs++] = attempt.relid;
		}
	}
}

/* ----
 * Errors of SQL
 * ----
 */

/* The line and column of a byte of a text. */
static char *
line_and_column(const char *text, int offset)
{
	const char *line_start = text;
	const char *newline;
	int			line = 1;

	while ((newline = memchr(line_start, '\n', text + offset - line_start)) != NULL)
	{
		line_start = newline + 1;
		line++;
	}
	return psprintf("line %d, column %d", line, pg_mbstrlen_with_len(line_start, text + offset - line_start) + 1);
}

/* The byte at which the character of that number, from 1, stands. */
static int
byte_of(const char *text, int position)
{
	const char *p = text;

	while (--position > 0 && *p != '\0')
		p += pg_mblen(p);
	return p - text;
}

/*
 * Where in a file of SQL is what stands there in the SQL that it became?  For which
 * table and operation that was is not known: for the ones that make the same of it.
 */
static char *
place_in_sql(const TruckerTruck *truck, const char *source, const char *rendered, int position)
{
	static const char *const operations[] = {"insert", "update", "delete"};
	TruckerTemplate *tmpl = trucker_template_parse(source, "");

	for (int i = 0; i < truck->ninputs; i++)
		for (int j = 0; j < lengthof(operations); j++)
		{
			TruckerTemplateVars vars = {TRUCKER_ROW_RELATION, operations[j], trucker_project_table_names(&truck->inputs[i], 1), NULL};
			TruckerTemplateMap map = {0};

			if (strcmp(trucker_template_render_mapped(tmpl, &vars, &map), rendered) == 0)
				return line_and_column(source, trucker_template_source_offset(&map, byte_of(rendered, position)));
		}
	return NULL;
}

/* Add an error of a truck's definition: of SQL with its place in the file. */
static void
complain_of_definition(TruckerProject *project, const TruckerProjectTruck *given, const TruckerTruck *truck, const ErrorData *error)
{
	const struct
	{
		const char *context;
		const char *file;
		const char *source;
	}			files[] = {
		{"input_sql", "input.sql", given->input_sql},
		{"output_sql", "output.sql", given->output_sql},
		{"truncate_sql", "truncate.sql", given->truncate_sql},
		{"reset_sql", "reset.sql", given->reset_sql},
	};

	for (int i = 0; error->context && error->internalquery && i < lengthof(files); i++)
	{
		char	   *place;

		if (strcmp(error->context, files[i].context) != 0 || files[i].source == NULL)
			continue;
		/* reset_sql is no template */
		place = strcmp(files[i].source, error->internalquery) == 0 ?
			line_and_column(files[i].source, byte_of(files[i].source, error->internalpos)) :
			place_in_sql(truck, files[i].source, error->internalquery, error->internalpos);
		if (place == NULL)
			continue;
		trucker_project_error(&project->errors, "%s/%s: %s: %s", given->folder, files[i].file, place, error->message);
		return;
	}
	trucker_project_caught(project, given->folder, error);
}

/* ----
 * The truck
 * ----
 */

static const char *
check_definition(TruckerChecklist *list, void *arg)
{
	Attempt    *attempt = arg;

	/* without an input table only the templates can be looked at */
	if (attempt->truck->ninputs == 0)
	{
		if (attempt->truck->input_sql)
			(void) trucker_template_parse(attempt->truck->input_sql, "input_sql");
		if (attempt->truck->output_sql)
			(void) trucker_template_parse(attempt->truck->output_sql, "output_sql");
		return NULL;
	}
	trucker_truck_parse_options(attempt->truck, &attempt->role_name);
	trucker_truck_check_output(attempt->truck);
	trucker_program_check_syntax(attempt->truck);
	/* without its role nothing can be said about what it may read */
	if (OidIsValid(attempt->truck->role))
		trucker_filter_set(attempt->truck, attempt->filters);
	return NULL;
}

/* Where the truck writes: "local", or a foreign server. */
static const char *
connection_of(TruckerProject *project, const TruckerProjectTruck *given)
{
	const char *name = given->output_connection.text;
	TruckerProjectConnection *connection = name ? trucker_project_connection(project, name) : NULL;

	if (name == NULL || strcmp(name, TRUCKER_CONNECTION_LOCAL) == 0 ||
		(connection && connection->known_here && connection->is_here))
		return TRUCKER_CONNECTION_LOCAL;
	return name;
}

static void
check_role(const TruckerProjectTruck *given, TruckerTruck *truck)
{
	const TruckerProjectValue *role = &given->role;

	if (role->text == NULL)
		return;
	truck->role = get_role_oid(role->text, true);
	if (!OidIsValid(truck->role))
		trucker_project_complain(role->file, role->start, "role %s does not exist", trucker_project_value_shown(role));
	else if (!is_member_of_role(GetUserId(), truck->role))
		trucker_project_complain(role->file, role->start, "must be member of role %s", trucker_project_value_shown(role));
}

/*
 * A truck as its files say, in the current memory context; old is the one that there
 * is, or NULL.  What is wrong is added to the project's errors.
 */
TruckerTruck *
trucker_project_truck(TruckerProject *project, TruckerProjectTruck *given, const TruckerTruck *old)
{
	TruckerTruck *truck = palloc0(sizeof(TruckerTruck));
	TruckerFilterOptions filters;
	Attempt		attempt = {.truck = truck, .filters = &filters};
	const char *result;
	ErrorData  *error;

	if (old)
		*truck = *old;
	truck->ninputs = 0;
	truck->name = given->name;
	truck->input_sql = given->input_sql;
	truck->output_sql = given->output_sql;
	truck->connection = pstrdup(connection_of(project, given));
	if (old == NULL)
		truck->owner = GetUserId();
	truck->role = truck->owner;
	truck->options = trucker_filter_take_options(options_of(project, given), &filters);
	truck->filters = NIL;
	truck->filters_restored = false;
	find_tables(project, given, truck);
	check_role(given, truck);
	error = trucker_checklist_try(check_definition, &attempt, &result);
	if (error)
		complain_of_definition(project, given, truck, error);
	return truck;
}

/* ----
 * What is different
 * ----
 */

/* "public.a, public.b" */
char *
trucker_project_table_names(const Oid *tables, int n)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < n; i++)
	{
		const char *name = get_rel_name(tables[i]);

		if (names.len > 0)
			appendStringInfoString(&names, ", ");
		if (name)
			appendStringInfoString(&names, quote_qualified_identifier(get_namespace_name(get_rel_namespace(tables[i])), name));
		else
			appendStringInfo(&names, "OID %u", tables[i]);
	}
	return names.data;
}

static void
begin_line(StringInfo out)
{
	if (out->len > 0)
		appendStringInfoChar(out, '\n');
}

/* Tables that the one has and the other has not. */
static void
put_tables(StringInfo out, char mark, const TruckerTruck *has, const TruckerTruck *lacks)
{
	for (int i = 0; i < has->ninputs; i++)
	{
		bool		found = false;

		for (int j = 0; j < lacks->ninputs; j++)
			found |= has->inputs[i] == lacks->inputs[j];
		if (found)
			continue;
		begin_line(out);
		appendStringInfo(out, "%c input table %s", mark, trucker_project_table_names(&has->inputs[i], 1));
	}
}

static void
put_sql(StringInfo out, const char *file, const char *old, const char *new)
{
	if ((old == NULL) == (new == NULL) && (old == NULL || strcmp(old, new) == 0))
		return;
	begin_line(out);
	appendStringInfo(out, "%s:", file);
	trucker_diff(out, old ? old : "", new ? new : "");
}

/* An option's value as text; NULL: it is not given. */
static char *
option_text(Jsonb *options, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&options->root, key, strlen(key), &buffer);

	if (value == NULL)
		return NULL;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	return JsonbToCString(NULL, &JsonbValueToJsonb(value)->root, 0);
}

static bool
is_sql_option(const char *key)
{
	return strcmp(key, "reset_sql") == 0 || strcmp(key, "truncate_sql") == 0;
}

/* Options of the one, compared with the other's; with only_missing those that the other has not. */
static void
put_options(StringInfo out, Jsonb *options, Jsonb *others, bool only_missing)
{
	JsonbIterator *it = JsonbIteratorInit(&options->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *key;
		char	   *text;
		char	   *other;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(value.val.string.val, value.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		text = option_text(options, key);
		other = option_text(others, key);
		if (only_missing ? other != NULL : other && strcmp(text, other) == 0)
			continue;
		if (is_sql_option(key))
		{
			/* reset.sql is reset_sql */
			key[strlen(key) - 4] = '.';
			put_sql(out, key, only_missing ? text : other, only_missing ? NULL : text);
			continue;
		}
		begin_line(out);
		appendStringInfo(out, "%s: %s -> %s", key, only_missing ? text : other ? other : "(default)",
						 only_missing ? "(default)" : text);
	}
}

/* The columns that a filter names; of one that was restored from a dump they are known by name. */
static Bitmapset *
filtered(const TruckerFilter *filter)
{
	Bitmapset  *attnums = bms_copy(filter->attnums);
	ListCell   *lc;

	foreach(lc, filter->names)
	{
		AttrNumber	attnum = get_attnum(filter->relid, lfirst(lc));

		if (AttributeNumberIsValid(attnum))
			attnums = bms_add_member(attnums, attnum);
	}
	return attnums;
}

/* Which columns of a table the truck has: "all", "only a, b", "all but c". */
static char *
columns_text(const List *filters, Oid relid)
{
	StringInfoData text;
	ListCell   *lc;

	foreach(lc, filters)
	{
		const TruckerFilter *filter = lfirst(lc);
		int			attnum = -1;
		bool		first = true;

		if (filter->relid != relid)
			continue;
		initStringInfo(&text);
		appendStringInfoString(&text, filter->keeps ? "only" : "all but");
		while ((attnum = bms_next_member(filtered(filter), attnum)) >= 0)
		{
			const char *name = get_attname(relid, attnum, true);

			appendStringInfo(&text, "%s %s", first ? "" : ",", name ? quote_identifier(name) : "?");
			first = false;
		}
		return text.data;
	}
	return pstrdup("all");
}

/* Of tables that it keeps, which columns it has. */
static void
put_filters(StringInfo out, const TruckerTruck *old, const TruckerTruck *truck)
{
	List	   *filters = old->filters_restored ? trucker_filter_restored(old) : old->filters;

	for (int i = 0; i < truck->ninputs; i++)
	{
		Oid			relid = truck->inputs[i];
		char	   *was = columns_text(filters, relid);
		char	   *is = columns_text(truck->filters, relid);

		if (strcmp(was, is) == 0)
			continue;
		begin_line(out);
		appendStringInfo(out, "columns of %s: %s -> %s", trucker_project_table_names(&relid, 1), was, is);
	}
}

/* What changes old into truck, readable; empty: nothing. */
char *
trucker_project_truck_diff(const TruckerTruck *old, const TruckerTruck *truck)
{
	StringInfoData out;

	initStringInfo(&out);
	put_tables(&out, '-', old, truck);
	put_tables(&out, '+', truck, old);
	put_sql(&out, "input.sql", old->input_sql, truck->input_sql);
	put_sql(&out, "output.sql", old->output_sql, truck->output_sql);
	put_filters(&out, old, truck);
	put_options(&out, old->options, truck->options, true);
	put_options(&out, truck->options, old->options, false);
	return out.data;
}
