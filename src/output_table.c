/*
 * output_table.c
 *	  The option output_table: instead of output.sql, SQL that is generated.
 *
 * Columns of r and of the table belong together by their names.
 *
 * "mirror": the table is to hold what r shows, one row for each primary key.  Rows that
 *	are gone, and those whose key has changed, are deleted by the old key; the others
 *	are inserted, or replace what is there.
 * "append": a row is inserted for each insert; for each change if the table has a column
 *	meta__operation to tell them apart.
 *
 * What is generated is ordinary SQL over r, and takes the same road as any other.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "output_table.h"

#define OLD_PREFIX "old__"
#define META_PREFIX "meta__"
#define OPERATION "meta__operation"

/* A table's name as SQL has it, or an error if it is none. */
char *
trucker_target_name(const char *name)
{
	List	   *parts = stringToQualifiedNameList(name);

	return NameListToQuotedString(parts);
}

/* The table, in this database, as the current user finds it by this name. */
TruckerTarget *
trucker_target_describe(const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(stringToQualifiedNameList(name));
	Relation	rel = relation_openrv(var, AccessShareLock);
	TruckerTarget *target = palloc0(sizeof(TruckerTarget));
	Bitmapset  *key;

	if (rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE && rel->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("output table %s is not a table", name)));
	key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	target->columns = palloc0(rel->rd_att->natts * sizeof(TruckerTargetColumn));
	for (int i = 0; i < rel->rd_att->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(rel->rd_att, i);
		TruckerTargetColumn *column = &target->columns[target->n];

		if (attr->attisdropped)
			continue;
		target->n++;
		column->name = pstrdup(NameStr(attr->attname));
		column->is_generated = attr->attgenerated != '\0';
		column->is_identity = attr->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		column->is_key = bms_is_member(attr->attnum - FirstLowInvalidHeapAttributeNumber, key);
	}
	relation_close(rel, NoLock);
	return target;
}

static const TruckerTargetColumn *
find_column(const TruckerTarget *target, const char *name)
{
	for (int i = 0; i < target->n; i++)
		if (strcmp(target->columns[i].name, name) == 0)
			return &target->columns[i];
	return NULL;
}

static bool
rows_have(TupleDesc rows, const char *name)
{
	for (int i = 0; i < rows->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(rows, i)->attname), name) == 0)
			return true;
	return false;
}

/* Is it one of those that trucker adds? */
static bool
is_added(const char *name)
{
	return strncmp(name, OLD_PREFIX, strlen(OLD_PREFIX)) == 0 ||
		strncmp(name, META_PREFIX, strlen(META_PREFIX)) == 0;
}

/* The columns of r that the table has, too; an error if one that is not ours is missing. */
static List *
common_columns(const TruckerTruck *truck, const TruckerTarget *target, TupleDesc rows)
{
	List	   *columns = NIL;

	for (int i = 0; i < rows->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(rows, i)->attname);
		const TruckerTargetColumn *column = find_column(target, name);

		/* a dropped column's place */
		if (TupleDescAttr(rows, i)->attisdropped)
			continue;
		if (column == NULL && !is_added(name))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("output table %s has no column \"%s\"", truck->output_table, name),
					 errhint("Add it there, or let input_sql select the columns that the table has.")));
		if (column && !column->is_generated)
			columns = lappend(columns, unconstify(TruckerTargetColumn *, column));
	}
	if (columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("output table %s has none of the columns of \"r\"", truck->output_table)));
	return columns;
}

static void
append_names(StringInfo sql, List *columns, const char *prefix)
{
	ListCell   *lc;

	foreach(lc, columns)
		appendStringInfo(sql, "%s%s%s", foreach_current_index(lc) > 0 ? ", " : "", prefix,
						 quote_identifier(((TruckerTargetColumn *) lfirst(lc))->name));
}

static void
append_insert(StringInfo sql, const char *table, List *columns)
{
	appendStringInfo(sql, "INSERT INTO %s (", table);
	append_names(sql, columns, "");
	appendStringInfoString(sql, ") OVERRIDING SYSTEM VALUE\nSELECT ");
	append_names(sql, columns, TRUCKER_ROW_RELATION ".");
	appendStringInfoString(sql, " FROM " TRUCKER_ROW_RELATION);
}

static void
require_row_column(const TruckerTruck *truck, TupleDesc rows, const char *name)
{
	if (rows_have(rows, name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("mirroring into output table %s takes a column \"%s\" of \"r\"", truck->output_table, name),
			 truck->input_sql ? errhint("Let input_sql select it, too.") :
			 errhint("The table's primary key must be made of columns of the input tables.")));
}

static char *
mirror_sql(const TruckerTruck *truck, const TruckerTarget *target, TupleDesc rows, List *columns)
{
	char	   *table = trucker_target_name(truck->output_table);
	StringInfoData sql;
	StringInfoData keys;
	StringInfoData old_keys;
	StringInfoData same;
	int			updated = 0;
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&keys);
	initStringInfo(&old_keys);
	initStringInfo(&same);
	require_row_column(truck, rows, OPERATION);
	for (int i = 0; i < target->n; i++)
	{
		const char *name = target->columns[i].name;
		const char *old = psprintf(OLD_PREFIX "%s", name);
		const char *comma = keys.len > 0 ? ", " : "";

		if (!target->columns[i].is_key)
			continue;
		require_row_column(truck, rows, name);
		require_row_column(truck, rows, old);
		appendStringInfo(&same, "%st.%s = r.%s", keys.len > 0 ? " AND " : "", quote_identifier(name), quote_identifier(old));
		appendStringInfo(&keys, "%sr.%s", comma, quote_identifier(name));
		appendStringInfo(&old_keys, "%sr.%s", comma, quote_identifier(old));
	}
	if (keys.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("output table %s has no primary key", truck->output_table),
				 errhint("Add one, or use the option \"mode\": \"append\".")));

	appendStringInfo(&sql, "DELETE FROM %s AS t USING r\nWHERE %s AND r." OPERATION " <> 'insert'\n"
					 "AND (r." OPERATION " = 'delete' OR ROW(%s) IS DISTINCT FROM ROW(%s));\n",
					 table, same.data, keys.data, old_keys.data);
	append_insert(&sql, table, columns);
	appendStringInfoString(&sql, "\nWHERE r." OPERATION " <> 'delete'\nON CONFLICT (");
	foreach(lc, columns)
	{
		TruckerTargetColumn *column = lfirst(lc);

		if (column->is_key)
			appendStringInfo(&sql, "%s%s", updated++ > 0 ? ", " : "", quote_identifier(column->name));
	}
	updated = 0;
	foreach(lc, columns)
	{
		TruckerTargetColumn *column = lfirst(lc);

		if (column->is_key || column->is_identity)
			continue;
		appendStringInfo(&sql, "%s%s = excluded.%s", updated++ > 0 ? ", " : ") DO UPDATE SET ",
						 quote_identifier(column->name), quote_identifier(column->name));
	}
	if (updated == 0)
		appendStringInfoString(&sql, ") DO NOTHING");
	return sql.data;
}

/*
 * The SQL that stands for output.sql, where r has these columns.  Raises an error if
 * table and columns do not go together.
 */
char *
trucker_target_sql(const TruckerTruck *truck, const TruckerTarget *target, TupleDesc rows)
{
	List	   *columns = common_columns(truck, target, rows);
	StringInfoData sql;

	if (truck->mirror)
		return mirror_sql(truck, target, rows, columns);
	initStringInfo(&sql);
	append_insert(&sql, trucker_target_name(truck->output_table), columns);
	if (rows_have(rows, OPERATION) && find_column(target, OPERATION) == NULL)
		appendStringInfoString(&sql, "\nWHERE r." OPERATION " = 'insert'");
	return sql.data;
}
