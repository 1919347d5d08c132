/*
 * verify_compare.c
 *	  Which rows of two sessions differ, without carrying all of them.
 *
 * Both sides have rows with a key that says which belong together.  They are sorted into
 * ranges of the keys' hashes: a range of the keys themselves would be another one where
 * the other server sorts text in another way.  Each side says of each range how many rows
 * it has and the sum of their hashes; only rows of ranges in which that differs are
 * fetched, in the order of the keys' hashes, and compared one by one.  So each side reads
 * its rows once, and a second time only if something differs.
 *
 * Values are compared as text, in UTF-8, whatever the encodings of the databases; that
 * both sides render it alike is the caller's business.  The hash is MD5, of which each
 * version and each kind of machine has the same; 64 bits of it are added up.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "verify.h"

/* hexadecimal digits of a key's hash that name its range: 4,096 ranges */
#define RANGE_DIGITS 3
#define NRANGES 4096
/* rows that are fetched at a time */
#define FETCH_ROWS "200"

/* What a side says of a range. */
typedef struct Range
{
	char	   *count;			/* NULL: it has no row there */
	char	   *sum;
} Range;

/* A side's rows of the ranges that differ, one after the other. */
typedef struct Cursor
{
	TruckerVerifySide *side;
	MemoryContext context;		/* of the rows that have been fetched */
	List	   *rows;			/* of TruckerSqlRow: hash of the key, key, row */
	int			next;
	char	   *last_hash;		/* of the row before; NULL: there is none */
	TruckerSqlRow *row;			/* the current one; NULL: no more */
} Cursor;

static void
append_array(StringInfo sql, List *expressions)
{
	const char *separator = "";
	ListCell   *lc;

	appendStringInfoString(sql, "ARRAY[");
	foreach(lc, expressions)
	{
		appendStringInfo(sql, "%s%s", separator, (char *) lfirst(lc));
		separator = ", ";
	}
	appendStringInfoString(sql, "]::pg_catalog.text[]::pg_catalog.text");
}

/* A side's rows: keys and columns are expressions (char *) of type text over what from names. */
char *
trucker_verify_rows_sql(const char *from, List *keys, List *columns)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_array(&sql, keys);
	appendStringInfoString(&sql, " AS k, ");
	append_array(&sql, columns);
	appendStringInfo(&sql, " AS r FROM %s", from);
	return sql.data;
}

static char *
hash_of(const char *column)
{
	return psprintf("pg_catalog.md5(pg_catalog.convert_to(%s, 'UTF8'))", column);
}

/* The number of a range. */
static int
range_number(const char *digits)
{
	char	   *end;
	long		number = strtol(digits, &end, 16);

	if (*end != '\0' || number < 0 || number >= NRANGES)
		elog(ERROR, "unexpected range \"%s\"", digits);
	return (int) number;
}

static void
read_ranges(const TruckerVerifySide *side, Range *ranges)
{
	char	   *sql = psprintf("SELECT pg_catalog.left(j.b, %d), pg_catalog.count(*), pg_catalog.sum(j.h) FROM (SELECT %s AS b, "
							   "('x' || pg_catalog.left(%s, 16))::pg_catalog.bit(64)::pg_catalog.int8 AS h FROM (%s) AS i) AS j GROUP BY 1",
							   RANGE_DIGITS, hash_of("i.k"), hash_of("i.r"), side->rows);
	ListCell   *lc;

	foreach(lc, trucker_sql_session_execute(side->session, sql, true))
	{
		TruckerSqlRow *row = lfirst(lc);
		Range	   *range = &ranges[range_number(row->values[0])];

		range->count = row->values[1];
		range->sum = row->values[2];
	}
}

/* Those that differ, as an array literal; NULL: none. */
static char *
differing_ranges(const Range *a, const Range *b)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < NRANGES; i++)
	{
		if (a[i].count == NULL && b[i].count == NULL)
			continue;
		if (a[i].count && b[i].count && strcmp(a[i].count, b[i].count) == 0 && strcmp(a[i].sum, b[i].sum) == 0)
			continue;
		appendStringInfo(&list, "%s%0*x", list.len ? "," : "", RANGE_DIGITS, i);
	}
	return list.len ? psprintf("{%s}", list.data) : NULL;
}

static void
raise_not_unique(const TruckerVerifySide *side, List *keys, const char *key)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, keys)
		appendStringInfo(&names, "%s%s", names.len ? ", " : "", quote_identifier(lfirst(lc)));
	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 errmsg("key_columns are not unique in %s", side->what),
			 errdetail("Several rows have (%s) = %s.", names.data, key),
			 errhint("Name columns in key_columns that tell each row from all others.")));
}

/* Raise an error if several rows have the same key. */
void
trucker_verify_check_unique(TruckerVerifySide *side, List *keys)
{
	List	   *rows = trucker_sql_session_execute(side->session,
												   psprintf("SELECT i.k FROM (%s) AS i GROUP BY i.k HAVING pg_catalog.count(*) > 1 LIMIT 1", side->rows), true);

	if (rows != NIL)
		raise_not_unique(side, keys, ((TruckerSqlRow *) linitial(rows))->values[0]);
}

/* ----
 * Row by row
 * ----
 */

static void
advance(Cursor *cursor, List *keys)
{
	if (cursor->row)
		cursor->last_hash = pstrdup(cursor->row->values[0]);
	if (cursor->next == list_length(cursor->rows))
	{
		MemoryContext old;

		MemoryContextReset(cursor->context);
		old = MemoryContextSwitchTo(cursor->context);
		cursor->rows = trucker_sql_session_execute(cursor->side->session, "FETCH " FETCH_ROWS " FROM trucker_verify", true);
		MemoryContextSwitchTo(old);
		cursor->next = 0;
	}
	cursor->row = cursor->next < list_length(cursor->rows) ? list_nth(cursor->rows, cursor->next++) : NULL;
	if (cursor->row && cursor->last_hash && strcmp(cursor->row->values[0], cursor->last_hash) == 0)
		raise_not_unique(cursor->side, keys, cursor->row->values[1]);
	if (cursor->last_hash)
		pfree(cursor->last_hash);
	cursor->last_hash = NULL;
}

static void
open_cursor(Cursor *cursor, TruckerVerifySide *side, const char *ranges, List *keys)
{
	memset(cursor, 0, sizeof(*cursor));
	cursor->side = side;
	cursor->context = AllocSetContextCreate(CurrentMemoryContext, "trucker verify rows", ALLOCSET_DEFAULT_SIZES);
	(void) trucker_sql_session_execute(side->session,
									   psprintf("DECLARE trucker_verify NO SCROLL CURSOR FOR SELECT j.b, j.k, j.r FROM "
												"(SELECT %s AS b, i.k, i.r FROM (%s) AS i) AS j "
												"WHERE pg_catalog.left(j.b, %d) = ANY ('%s'::pg_catalog.text[]) ORDER BY j.b COLLATE pg_catalog.\"C\"",
												hash_of("i.k"), side->rows, RANGE_DIGITS, ranges), false);
	advance(cursor, keys);
}

/* An array's text as a jsonb object. */
static Datum
object_of(List *names, const char *values)
{
	Datum	   *elements = palloc(list_length(names) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return DirectFunctionCall2(jsonb_object_two_arg,
							   PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT)),
							   OidInputFunctionCall(F_ARRAY_IN, unconstify(char *, values), TEXTOID, -1));
}

static void
put_difference(ReturnSetInfo *rsinfo, List *keys, List *columns, const TruckerSqlRow *expected, const TruckerSqlRow *actual)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, expected == NULL, actual == NULL};

	values[0] = object_of(keys, (expected ? expected : actual)->values[1]);
	values[1] = CStringGetTextDatum(actual == NULL ? "missing" : expected == NULL ? "unexpected" : "different");
	values[2] = expected ? object_of(columns, expected->values[2]) : (Datum) 0;
	values[3] = actual ? object_of(columns, actual->values[2]) : (Datum) 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
compare_rows(Cursor *expected, Cursor *actual, List *keys, List *columns, ReturnSetInfo *rsinfo)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker verify difference", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;

	while (expected->row || actual->row)
	{
		int			order = expected->row == NULL ? 1 : actual->row == NULL ? -1 :
			strcmp(expected->row->values[0], actual->row->values[0]);

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		if (order != 0 || strcmp(expected->row->values[2], actual->row->values[2]) != 0)
			put_difference(rsinfo, keys, columns, order <= 0 ? expected->row : NULL, order >= 0 ? actual->row : NULL);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		if (order <= 0)
			advance(expected, keys);
		if (order >= 0)
			advance(actual, keys);
	}
	MemoryContextDelete(context);
}

/* Put a row into the result for each that differs.  keys and columns are names (char *). */
void
trucker_verify_compare(TruckerVerifySide *expected, TruckerVerifySide *actual,
					   List *keys, List *columns, ReturnSetInfo *rsinfo)
{
	Range	   *a = palloc0(NRANGES * sizeof(Range));
	Range	   *b = palloc0(NRANGES * sizeof(Range));
	char	   *ranges;
	Cursor		left;
	Cursor		right;

	read_ranges(expected, a);
	read_ranges(actual, b);
	ranges = differing_ranges(a, b);
	if (ranges == NULL)
		return;
	open_cursor(&left, expected, ranges, keys);
	open_cursor(&right, actual, ranges, keys);
	compare_rows(&left, &right, keys, columns, rsinfo);
}
