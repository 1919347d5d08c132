/*
 * filter_store.c
 *	  The tables that hold trucks' filters of columns.
 *
 * trucker.filter_attnum holds what counts here: attnums.  It is not dumped.
 * trucker.column_filter holds the same as names, for a dump.  Of the rows for a truck and a
 * table that with the greatest LSN counts.
 *
 * So a statement that renames or drops columns need only insert a row with the names that
 * there are then, in its own transaction: an insert neither waits for anybody nor fails.
 * Others cannot have written one at the same time: whoever sets a filter has the table
 * locked against being altered until the commit, and whoever alters it has locked it
 * against everybody.
 *
 * After a restore there are names only.  start() finds the columns by them and writes the
 * attnums; it raises an error for one that is not there.
 */
#include "trucker.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "filter.h"

/* For those of the tables $1 (null: all) whose columns are not called what the newest row says. */
static const char follow_sql[] =
	"INSERT INTO trucker.column_filter (truck_id, input_table, keeps, columns, since) "
	"SELECT n.truck_id, n.input_table, n.keeps, c.columns, greatest(pg_current_wal_insert_lsn(), n.since + 1) "
	"FROM (SELECT DISTINCT ON (truck_id, input_table) * FROM trucker.column_filter "
	"WHERE $1 IS NULL OR input_table::oid = ANY ($1) ORDER BY truck_id, input_table, since DESC) n "
	"JOIN trucker.filter_attnum a ON a.truck_id = n.truck_id AND a.relid = n.input_table::oid "
	"CROSS JOIN LATERAL (SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') AS columns "
	"FROM pg_attribute WHERE attrelid = a.relid AND attnum = ANY (a.attnums) AND NOT attisdropped) c "
	"WHERE c.columns <> n.columns AND EXISTS (SELECT FROM pg_class WHERE oid = a.relid)";

static void *
form_filter(HeapTuple tuple)
{
	TruckerFilter *filter = palloc0(sizeof(TruckerFilter));
	bool		isnull;
	Datum	   *names;
	int			n;

	filter->relid = DatumGetObjectId(trucker_column(tuple, 1, &isnull));
	filter->keeps = trucker_bool_column(tuple, 2);
	deconstruct_array(DatumGetArrayTypeP(trucker_column(tuple, 3, &isnull)), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, NULL, &n);
	for (int i = 0; i < n; i++)
		filter->names = lappend(filter->names, TextDatumGetCString(names[i]));
	return filter;
}

/* The filters (TruckerFilter *) of a truck that was restored from a dump: by names only. */
List *
trucker_filter_restored(const TruckerTruck *truck)
{
	return trucker_catalog_list("SELECT DISTINCT ON (input_table) input_table::oid, keeps, columns "
								"FROM trucker.column_filter WHERE truck_id = $1 ORDER BY input_table, since DESC",
								&truck->id, form_filter);
}

static XLogRecPtr
delete_names(const TruckerTruck *truck)
{
	Oid			type = UUIDOID;
	Datum		value = UUIDPGetDatum(&truck->id);
	XLogRecPtr	last = InvalidXLogRecPtr;
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("DELETE FROM trucker.column_filter WHERE truck_id = $1 RETURNING since",
								   1, &type, &value, NULL, SPI_OK_DELETE_RETURNING);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		last = Max(last, DatumGetLSN(trucker_column(SPI_tuptable->vals[i], 1, &isnull)));
	}
	trucker_catalog_end(&access);
	return last;
}

static void
insert_filter(const TruckerTruck *truck, const TruckerFilter *filter, XLogRecPtr after)
{
	Oid			types[] = {UUIDOID, OIDOID, BOOLOID, INT2ARRAYOID, PG_LSNOID};
	int			n = bms_num_members(filter->attnums);
	Datum	   *attnums = palloc(Max(n, 1) * sizeof(Datum));
	Datum		values[5];
	int			attnum = -1;
	TruckerCatalog access;

	for (int i = 0; i < n; i++)
		attnums[i] = Int16GetDatum((int16) (attnum = bms_next_member(filter->attnums, attnum)));
	values[0] = UUIDPGetDatum(&truck->id);
	values[1] = ObjectIdGetDatum(filter->relid);
	values[2] = BoolGetDatum(filter->keeps);
	values[3] = PointerGetDatum(construct_array(attnums, n, INT2OID, sizeof(int16), true, TYPALIGN_SHORT));
	values[4] = LSNGetDatum(after);

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("WITH a AS (INSERT INTO trucker.filter_attnum (truck_id, relid, keeps, attnums) "
								   "VALUES ($1, $2, $3, $4)) "
								   "INSERT INTO trucker.column_filter (truck_id, input_table, keeps, columns, since) "
								   "SELECT $1, $2::regclass, $3, coalesce(array_agg(attname::text ORDER BY attnum), '{}'), "
								   "greatest(pg_current_wal_insert_lsn(), $5 + 1) "
								   "FROM pg_attribute WHERE attrelid = $2 AND attnum = ANY ($4) AND NOT attisdropped",
								   5, types, values, NULL, SPI_OK_INSERT);
	trucker_catalog_end(&access);
}

/* Write down the truck's filters in place of those that it had.  Those of a restored truck are found by name first. */
void
trucker_filter_store(TruckerTruck *truck)
{
	static const TruckerFilterOptions nothing = {NULL, NULL};
	XLogRecPtr	last;
	ListCell   *lc;

	if (truck->filters_restored)
		trucker_filter_set(truck, &nothing);
	last = delete_names(truck);
	trucker_catalog_write("DELETE FROM trucker.filter_attnum WHERE truck_id = $1", &truck->id, NULL, SPI_OK_DELETE);
	foreach(lc, truck->filters)
		insert_filter(truck, lfirst(lc), last);
}

/* Has the table never held a row, or is the library newer than the tables? */
static bool
nothing_is_filtered(void)
{
	Oid			relid = get_relname_relid("filter_attnum", get_namespace_oid(TRUCKER_SCHEMA, false));
	Relation	rel;
	bool		empty;

	if (!OidIsValid(relid))
		return true;
	rel = table_open(relid, AccessShareLock);
	empty = RelationGetNumberOfBlocks(rel) == 0;
	table_close(rel, AccessShareLock);
	return empty;
}

/*
 * In the transaction of a statement that may have renamed or dropped columns, after it and
 * a CommandCounterIncrement(): let the names follow.
 */
void
trucker_filter_follow(const TruckerAltered *altered)
{
	static SPIPlanPtr plan = NULL;
	Oid			type = OIDARRAYOID;
	int			ntables = Min(altered->ntables, TRUCKER_MAX_ALTERED);
	Datum		elements[TRUCKER_MAX_ALTERED];
	Datum		value;
	TruckerCatalog access;

	if (ntables == 0 || nothing_is_filtered())
		return;
	for (int i = 0; i < ntables; i++)
		elements[i] = ObjectIdGetDatum(altered->tables[i]);
	value = PointerGetDatum(construct_array(elements, ntables, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	trucker_catalog_begin(&access);
	if (plan == NULL)
	{
		plan = SPI_prepare(follow_sql, 1, &type);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\"", follow_sql);
	}
	if (SPI_execute_plan(plan, &value, altered->ntables > ntables ? "n" : NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "unexpected result of \"%s\"", follow_sql);
	trucker_catalog_end(&access);
}
