/*
 * drained.c
 *	  Trucks that were drained for pg_upgrade: what is known of them, and does it still hold?
 *
 * pg_upgrade brings all tables along, trucker's as well, with the numbers of databases,
 * tables and transactions, but no WAL and no slot, and the new server is another one: it
 * has another system identifier.  A position means nothing there.  But a truck that had
 * applied all there was can go on with a new slot, if nothing was written in between.
 * That can be told from the tables: of an input it is noted how many rows it has, and
 * which transaction would have been the next one.  If there is no row of that transaction
 * or a later one, nothing was inserted or updated, and if there are as many rows, nothing
 * was deleted either.  (A row that came and went again leaves no trace.  It would have
 * left none in a destination that shows what there is; one that keeps what has happened
 * misses it.)
 *
 * That is looked at under the snapshot that is exported with the new slot: what is not in
 * it, the slot gives.  The only file that knows the columns of trucker.drained.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "drained.h"

static int64
int64_column(HeapTuple tuple, int number)
{
	bool		isnull;
	Datum		value = trucker_column(tuple, number, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * All transactions of this database before the one that is returned, which is the first
 * that the active snapshot does not know of, have ended; or, with pids (text) of some that
 * have not, 0.  Prepared ones are among these.
 */
uint64
trucker_drained_next_xid(List **pids)
{
	TruckerCatalog access;
	MemoryContext old;
	uint64		next_xid;

	*pids = NIL;
	trucker_catalog_begin(&access);
	if (SPI_execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the snapshot");
	next_xid = (uint64) int64_column(SPI_tuptable->vals[0], 1);
	/* read after the snapshot was taken, and anew each time: what has ended since has ended */
	pgstat_clear_snapshot();
	if (SPI_execute("SELECT 'process ' || pid || coalesce(' (' || backend_type || ')', '') FROM pg_stat_activity WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database()) "
					"AND backend_xid IS NOT NULL AND pid <> pg_backend_pid() "
					"UNION ALL SELECT 'prepared transaction ' || quote_literal(gid) FROM pg_prepared_xacts WHERE database = current_database()", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the transactions");
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		*pids = lappend(*pids, trucker_text_column(SPI_tuptable->vals[i], 1));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return *pids == NIL ? next_xid : 0;
}

/*
 * What an input table holds, as the active snapshot shows it, with the rights of the
 * superuser: nothing of anybody's is executed by counting rows.
 */
TruckerDrainedTable *
trucker_drained_look(Oid relid, uint64 next_xid)
{
	TruckerDrainedTable *table = palloc0(sizeof(TruckerDrainedTable));
	char	   *name = get_rel_name(relid);
	bool		is_partitioned = get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE;
	TruckerCatalog access;
	char	   *sql;

	if (name == NULL)
		return NULL;
	table->relid = relid;
	/* age() counts from the same point for both, so a greater number is a lesser age */
	sql = psprintf("SELECT count(*), coalesce(bool_or(age(x.xmin) <= age('%u'::xid)), false) FROM %s%s AS x",
				   (TransactionId) next_xid, is_partitioned ? "" : "ONLY ",
				   quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name));
	trucker_catalog_begin(&access);
	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count the rows of table %u", relid);
	table->nrows = int64_column(SPI_tuptable->vals[0], 1);
	table->is_newer = trucker_bool_column(SPI_tuptable->vals[0], 2);
	trucker_catalog_end(&access);
	return table;
}

/* The truck has applied all before lsn; its inputs, among the tables (TruckerDrainedTable *), are as they are. */
void
trucker_drained_record(const TruckerTruck *truck, XLogRecPtr lsn, uint64 next_xid, List *tables)
{
	Oid			types[] = {UUIDOID, INT8OID, PG_LSNOID, INT8OID, OIDOID, INT8OID};
	Datum		values[6] = {UUIDPGetDatum(&truck->id), Int64GetDatum((int64) GetSystemIdentifier()),
	LSNGetDatum(lsn), Int64GetDatum((int64) next_xid)};
	ListCell   *lc;

	trucker_drained_forget(&truck->id);
	foreach(lc, tables)
	{
		TruckerDrainedTable *table = lfirst(lc);
		bool		is_input = false;
		TruckerCatalog access;

		for (int i = 0; i < truck->ninputs; i++)
			is_input |= truck->inputs[i] == table->relid;
		if (!is_input)
			continue;
		values[4] = ObjectIdGetDatum(table->relid);
		values[5] = Int64GetDatum(table->nrows);
		trucker_catalog_begin(&access);
		trucker_catalog_execute("INSERT INTO trucker.drained (truck_id, system_id, lsn, next_xid, relid, row_count) "
								"VALUES ($1, $2, $3, $4, $5, $6)", 6, types, values, NULL, SPI_OK_INSERT);
		trucker_catalog_end(&access);
	}
}

void
trucker_drained_forget(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("DELETE FROM trucker.drained WHERE truck_id = $1", truck_id, NULL, SPI_OK_DELETE);
}

/* A row of trucker.drained. */
typedef struct Row
{
	Oid			relid;
	int64		nrows;
	uint64		next_xid;
	XLogRecPtr	lsn;
} Row;

static void *
form_row(HeapTuple tuple)
{
	Row		   *row = palloc(sizeof(Row));
	bool		isnull;

	row->relid = DatumGetObjectId(trucker_column(tuple, 1, &isnull));
	row->nrows = int64_column(tuple, 2);
	row->next_xid = (uint64) int64_column(tuple, 3);
	row->lsn = DatumGetLSN(trucker_column(tuple, 4, &isnull));
	return row;
}

static List *
rows_of(const TruckerTruck *truck)
{
	return trucker_catalog_list("SELECT relid, row_count, next_xid, lsn FROM trucker.drained WHERE truck_id = $1",
								&truck->id, form_row);
}

/* The truck had applied all before this; 0: it has not been drained. */
XLogRecPtr
trucker_drained_lsn(const TruckerTruck *truck)
{
	List	   *rows = rows_of(truck);

	return rows == NIL ? InvalidXLogRecPtr : ((Row *) linitial(rows))->lsn;
}

/* Do the truck's inputs hold what they did, as the active snapshot shows them?  NULL, or what does not. */
const char *
trucker_drained_trouble(const TruckerTruck *truck)
{
	List	   *rows = rows_of(truck);

	for (int i = 0; i < truck->ninputs; i++)
	{
		const Row  *found = NULL;
		TruckerDrainedTable *table;
		ListCell   *lc;

		foreach(lc, rows)
			if (((Row *) lfirst(lc))->relid == truck->inputs[i])
				found = lfirst(lc);
		if (found == NULL)
			return psprintf("table %u has become an input since it was drained", truck->inputs[i]);
		CHECK_FOR_INTERRUPTS();
		table = trucker_drained_look(found->relid, found->next_xid);
		if (table == NULL)
			return psprintf("an input table (OID %u) has been dropped since it was drained", found->relid);
		if (table->is_newer)
			return psprintf("rows of table %s have been written since it was drained", get_rel_name(found->relid));
		if (table->nrows != found->nrows)
			return psprintf("table %s had " INT64_FORMAT " rows when it was drained, and has " INT64_FORMAT,
							get_rel_name(found->relid), found->nrows, table->nrows);
	}
	return NULL;
}
