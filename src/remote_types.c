/*
 * remote_types.c
 *	  The columns of r at another server, and their values on the way there.
 *
 * Values go in their text form, under settings that make it mean the same everywhere.
 * Binary would have to have the text beside it, for types that are not built in; and
 * where two servers understand a type differently, text is what shows it.
 * Few rows go as parameters, one array a column, of which "unnest" there makes rows
 * again; many go by COPY into a temporary table.  Either way a query over that is what
 * r stands for (remote_sql.c).
 *
 * A built-in type is the same one there, and has the same OID.  A value of another
 * type - an enum, a composite type, an extension's - and one that cannot be an array's
 * element (an array) goes as text and is cast there to the type of that name: what type
 * that is, and whether there is one, is for the other server to say.  A domain's value
 * is one of its base type.
 */
#include "trucker.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/cash.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "remote_types.h"

/* libpq and the server deal with one message of up to 1 GB */
#define MAX_VALUE (MaxAllocSize / 2)

static char *
type_name(Oid type)
{
	bits16		flags = FORMAT_TYPE_TYPEMOD_GIVEN;

	if (type >= FirstGenbkiObjectId)
		flags |= FORMAT_TYPE_FORCE_QUALIFY;
	return format_type_extended(type, -1, flags);
}

/* Is the type built in, and can its values be elements of an array with commas? */
static bool
can_be_element(Oid type)
{
	int16		len;
	bool		byval;
	char		align;
	char		delimiter;
	Oid			io_param;
	Oid			function;

	if (type >= FirstGenbkiObjectId || OidIsValid(get_element_type(type)) ||
		!OidIsValid(get_array_type(type)) || get_typtype(type) == TYPTYPE_COMPOSITE)
		return false;
	get_type_io_data(type, IOFunc_output, &len, &byval, &align, &delimiter, &io_param, &function);
	return delimiter == ',';
}

static void
describe_column(TruckerRemoteColumn *column, Form_pg_attribute attr)
{
	Oid			type = getBaseType(attr->atttypid);
	Oid			function;
	bool		is_varlena;

	column->name = NameStr(attr->attname);
	column->quoted = pstrdup(quote_identifier(column->name));
	if (get_typtype(type) == TYPTYPE_PSEUDO && type != UNKNOWNOID)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("column \"%s\" of \"r\" has the pseudo-type %s", column->name, type_name(type)),
				 errdetail("Another server could not tell what its values are."),
				 errhint("Cast it in input_sql.")));
	getTypeOutputInfo(type, &function, &is_varlena);
	fmgr_info(function, &column->output);
	column->array_type = TEXTARRAYOID;
	column->element = "text";
	if (type == MONEYOID)
	{
		/* its text form depends on lc_monetary, its number does not */
		column->is_money = true;
		column->array_type = NUMERICARRAYOID;
		column->element = "numeric";
		column->cast = "money";
	}
	else if (can_be_element(type))
	{
		column->array_type = get_array_type(type);
		column->element = type_name(type);
	}
	else if (type != UNKNOWNOID)
		column->cast = type_name(type);
}

/*
 * How an r of these columns, which are copied, goes there: only the columns with these
 * numbers (from 1).  In the current context.
 */
TruckerRemoteShape *
trucker_remote_shape_create(TupleDesc desc, const Bitmapset *columns)
{
	TruckerRemoteShape *shape = palloc0(sizeof(TruckerRemoteShape));
	int			number = -1;

	shape->desc = CreateTupleDescCopy(desc);
	shape->n = bms_num_members(columns);
	shape->nparams = Max(shape->n, 1);
	shape->columns = palloc0(shape->nparams * sizeof(TruckerRemoteColumn));
	shape->param_types = palloc(shape->nparams * sizeof(Oid));
	shape->param_types[0] = INT8OID;
	for (int i = 0; i < shape->n; i++)
	{
		number = bms_next_member(columns, number);
		shape->columns[i].at = number - 1;
		describe_column(&shape->columns[i], TupleDescAttr(shape->desc, number - 1));
		shape->param_types[i] = shape->columns[i].array_type;
	}
	return shape;
}

/* ----
 * Queries that r stands for
 * ----
 */

static void
append_select_list(StringInfo sql, const TruckerRemoteShape *shape)
{
	appendStringInfoString(sql, "SELECT");
	for (int i = 0; i < shape->n; i++)
	{
		const TruckerRemoteColumn *column = &shape->columns[i];

		appendStringInfo(sql, "%s q.c%d", i > 0 ? "," : "", i + 1);
		if (column->cast)
			appendStringInfo(sql, "::%s", column->cast);
		appendStringInfo(sql, " AS %s", column->quoted);
	}
}

/* The query over parameters. */
char *
trucker_remote_shape_params_query(const TruckerRemoteShape *shape)
{
	StringInfoData sql;

	initStringInfo(&sql);
	append_select_list(&sql, shape);
	if (shape->n == 0)
	{
		appendStringInfoString(&sql, " FROM pg_catalog.generate_series(1, $1::bigint)");
		return sql.data;
	}
	appendStringInfoString(&sql, " FROM ROWS FROM (");
	for (int i = 0; i < shape->n; i++)
		appendStringInfo(&sql, "%spg_catalog.unnest($%d::%s[])", i > 0 ? ", " : "", i + 1,
						 shape->columns[i].element);
	appendStringInfoString(&sql, ") AS q(");
	for (int i = 0; i < shape->n; i++)
		appendStringInfo(&sql, "%sc%d", i > 0 ? ", " : "", i + 1);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* The query over a temporary table. */
char *
trucker_remote_shape_table_query(const TruckerRemoteShape *shape, const char *table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	append_select_list(&sql, shape);
	appendStringInfo(&sql, " FROM %s AS q", table);
	return sql.data;
}

/* That table's columns: name and type. */
char *
trucker_remote_shape_columns(const TruckerRemoteShape *shape)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < shape->n; i++)
		appendStringInfo(&sql, "%sc%d %s", i > 0 ? ", " : "", i + 1, shape->columns[i].element);
	return sql.data;
}

/* ----
 * Values
 * ----
 */

static char *
value_text(TruckerRemoteColumn *column, Datum value)
{
	char	   *text;

	if (column->is_money)
		return DatumGetCString(DirectFunctionCall1(numeric_out, DirectFunctionCall1(cash_numeric, value)));
	text = OutputFunctionCall(&column->output, value);
	if (strlen(text) > MAX_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a value of column \"%s\" of \"r\" is too large to be sent", column->name)));
	return text;
}

static void
append_element(StringInfo array, const char *text)
{
	appendStringInfoChar(array, '"');
	for (const char *p = text; *p; p++)
	{
		if (*p == '"' || *p == '\\')
			appendStringInfoCharMacro(array, '\\');
		appendStringInfoCharMacro(array, *p);
	}
	appendStringInfoChar(array, '"');
}

static Size
append_to_arrays(TruckerRemoteShape *shape, TupleTableSlot *slot, StringInfoData *arrays)
{
	Size		size = 0;

	slot_getallattrs(slot);
	for (int i = 0; i < shape->n; i++)
	{
		TruckerRemoteColumn *column = &shape->columns[i];

		appendStringInfoChar(&arrays[i], arrays[i].len > 0 ? ',' : '{');
		if (slot->tts_isnull[column->at])
			appendStringInfoString(&arrays[i], "NULL");
		else
			append_element(&arrays[i], value_text(column, slot->tts_values[column->at]));
		size += arrays[i].len;
	}
	return size;
}

/*
 * The rows as parameters, one text for each; NULL if they would be larger than limit.
 * In the current context.
 */
char **
trucker_remote_params(TruckerRemoteShape *shape, const TruckerRows *rows, Size limit)
{
	StringInfoData *arrays = palloc(shape->nparams * sizeof(StringInfoData));
	char	  **params = palloc(shape->nparams * sizeof(char *));
	TupleTableSlot *slot = MakeSingleTupleTableSlot(shape->desc, &TTSOpsMinimalTuple);
	int64		count = 0;
	Size		size = 0;

	for (int i = 0; i < shape->nparams; i++)
		initStringInfo(&arrays[i]);
	tuplestore_rescan(rows->store);
	while (size <= limit && tuplestore_gettupleslot(rows->store, true, false, slot))
	{
		count++;
		size = append_to_arrays(shape, slot, arrays);
		CHECK_FOR_INTERRUPTS();
	}
	ExecDropSingleTupleTableSlot(slot);
	if (size > limit)
		return NULL;
	for (int i = 0; i < shape->n; i++)
	{
		appendStringInfoString(&arrays[i], arrays[i].len > 0 ? "}" : "{}");
		params[i] = arrays[i].data;
	}
	if (shape->n == 0)
		params[0] = psprintf(INT64_FORMAT, count);
	return params;
}

/* A row as a line of COPY. */
void
trucker_remote_copy_row(TruckerRemoteShape *shape, TupleTableSlot *slot, StringInfo line)
{
	slot_getallattrs(slot);
	for (int i = 0; i < shape->n; i++)
	{
		TruckerRemoteColumn *column = &shape->columns[i];

		if (i > 0)
			appendStringInfoCharMacro(line, '\t');
		if (slot->tts_isnull[column->at])
		{
			appendStringInfoString(line, "\\N");
			continue;
		}
		for (const char *p = value_text(column, slot->tts_values[column->at]); *p; p++)
		{
			switch (*p)
			{
				case '\n':
					appendStringInfoString(line, "\\n");
					break;
				case '\r':
					appendStringInfoString(line, "\\r");
					break;
				case '\t':
					appendStringInfoString(line, "\\t");
					break;
				case '\\':
					appendStringInfoString(line, "\\\\");
					break;
				default:
					appendStringInfoCharMacro(line, *p);
			}
		}
	}
	appendStringInfoCharMacro(line, '\n');
}
