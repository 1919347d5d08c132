/*
 * state.c
 *	  What trucks are to do and what became of it, and what they write.
 *
 * The only file that knows the columns of trucker.truck_state and
 * trucker.output_table; streams and input tables have files of their own
 * (state_stream.c, state_input.c).  What is written here is the truth; shared
 * memory only tells of it.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "column_list.h"
#include "former.h"
#include "state.h"

/* the truck's row, unless somebody else has it locked; of trucker.truck_state */
#define UNLESS_LOCKED \
	"WHERE truck_id = (SELECT x.truck_id FROM trucker.truck_state x WHERE x.truck_id = $1 FOR UPDATE SKIP LOCKED)"

/* ----
 * Trucks
 * ----
 */

/* Remove all that is known of a truck but its definition and position. */
void
trucker_state_delete(const pg_uuid_t *truck_id)
{
	static const char *const statements[] = {
		"DELETE FROM trucker.truck_state WHERE truck_id = $1",
		"DELETE FROM trucker.input_table WHERE truck_id = $1",
		"DELETE FROM trucker.unreadable_input WHERE truck_id = $1",
		"DELETE FROM trucker.destination WHERE truck_id = $1",
		"DELETE FROM trucker.former_truck WHERE truck_id = $1",
		"DELETE FROM trucker.column_need WHERE truck_id = $1",
		"DELETE FROM trucker.drained WHERE truck_id = $1",
		/* and what the last batch of a truck may have added after it had been dropped */
		"DELETE FROM trucker.quarantined_transaction WHERE truck_id = $1 OR truck_id NOT IN (SELECT id FROM trucker.truck)",
		"DELETE FROM trucker.quarantined_change WHERE truck_id = $1 OR truck_id NOT IN (SELECT id FROM trucker.truck)",
		"DELETE FROM trucker.output_table WHERE truck_id = $1 OR truck_id NOT IN (SELECT id FROM trucker.truck)"
	};

	for (int i = 0; i < lengthof(statements); i++)
		trucker_catalog_write(statements[i], truck_id, NULL, SPI_OK_DELETE);
}

/* Change the wished-for state; false: it is that already, and nothing is written. */
bool
trucker_state_set_enabled(const pg_uuid_t *truck_id, bool enabled)
{
	return trucker_catalog_write("INSERT INTO trucker.truck_state AS s (truck_id, enabled, enabled_at) "
								 "VALUES ($1, $2::boolean, clock_timestamp()) ON CONFLICT (truck_id) DO UPDATE "
								 "SET enabled = excluded.enabled, enabled_at = excluded.enabled_at, failed = false "
								 "WHERE s.enabled <> excluded.enabled OR s.failed",
								 truck_id, enabled ? "true" : "false", SPI_OK_INSERT) > 0;
}

void
trucker_state_request_resync(const pg_uuid_t *truck_id)
{
	/* first, as everywhere: who has a truck's row may go on to whatever else is known of it */
	trucker_catalog_write("INSERT INTO trucker.truck_state (truck_id, needs_reset) "
						  "VALUES ($1, true) ON CONFLICT (truck_id) DO UPDATE "
						  "SET needs_backfill = true, needs_reset = true, lost = false, failed = false, "
						  "stream_id = NULL, applied_lsn = NULL, failed_lsn = NULL, skip_lsn = NULL",
						  truck_id, NULL, SPI_OK_INSERT);
	/* the names that hold from now on are recorded with the new slot */
	trucker_catalog_write("DELETE FROM trucker.input_table WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("DELETE FROM trucker.unreadable_input WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_DELETE);
	/* it is loaded by the definition that it has now, and all columns are published for that */
	trucker_former_forget(truck_id);
	trucker_column_need_forget(truck_id);
	trucker_catalog_write("DELETE FROM trucker.drained WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_DELETE);
	/* what the destination holds does not count any more */
	trucker_catalog_write("UPDATE trucker.destination SET emptied = false WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_UPDATE);
}

/* The truck was drained before pg_upgrade: it gets a new slot, as if it had to be loaded. */
void
trucker_state_request_resume(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("UPDATE trucker.truck_state SET needs_backfill = true, needs_reset = false, lost = false, failed = false, "
						  "stream_id = NULL, applied_lsn = NULL, failed_lsn = NULL, skip_lsn = NULL WHERE truck_id = $1 AND NOT needs_backfill",
						  truck_id, NULL, SPI_OK_UPDATE);
}

/*
 * The backfill is part of this very transaction.  Raises an error if the truck has
 * been dropped, stopped or reset meanwhile; or if its stream has made another slot,
 * which begins later than this backfill, or is about to.
 */
void
trucker_state_set_backfilled(const pg_uuid_t *truck_id, XLogRecPtr consistent_point, const char *slot_name)
{
	if (trucker_catalog_write("UPDATE trucker.truck_state SET needs_backfill = false, needs_reset = false "
							  "WHERE truck_id = $1 AND enabled AND stream_id = "
							  "(SELECT x.id FROM trucker.stream x WHERE x.slot_name = $2 FOR SHARE)",
							  truck_id, slot_name, SPI_OK_UPDATE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the backfill is of no use any more"),
				 errdetail("The truck has been dropped, stopped or reset, or replication slot \"%s\" been given up.",
						   slot_name)));
	/* what a last batch, which did not know of the resync, has put into quarantine after it */
	trucker_catalog_write("DELETE FROM trucker.quarantined_transaction WHERE truck_id = $1", truck_id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("DELETE FROM trucker.quarantined_change WHERE truck_id = $1", truck_id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("UPDATE trucker.input_table SET from_lsn = $2::pg_lsn WHERE truck_id = $1",
						  truck_id, psprintf("%X/%X", LSN_FORMAT_ARGS(consistent_point)), SPI_OK_UPDATE);
}

/*
 * Remember why the truck could not go on, and what comes of it.  Lost: it cannot go
 * on by itself, and no stream needs to keep anything for it.  Failed: it is
 * stopped until start().  failed_lsn is the commit of the source transaction whose
 * error it is, if that is known.  False: somebody has the row locked, in a transaction that
 * starts, stops or drops the truck; nobody else shall wait for that.
 */
bool
trucker_state_record_error(const pg_uuid_t *truck_id, const char *message, bool lost, bool failed,
						   XLogRecPtr failed_lsn)
{
	Oid			types[] = {UUIDOID, TEXTOID, BOOLOID, BOOLOID, PG_LSNOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), CStringGetTextDatum(message),
	BoolGetDatum(lost), BoolGetDatum(failed), LSNGetDatum(failed_lsn)};
	char		nulls[] = {' ', ' ', ' ', ' ', XLogRecPtrIsInvalid(failed_lsn) ? 'n' : ' ', '\0'};
	TruckerCatalog access;
	bool		recorded;

	trucker_catalog_begin(&access);
	recorded = trucker_catalog_execute("UPDATE trucker.truck_state SET last_error = $2, last_error_at = clock_timestamp(), "
									   "lost = lost OR $3, stream_id = CASE WHEN NOT $3 THEN stream_id END, "
									   "failed = failed OR $4, enabled = enabled AND NOT $4, failed_lsn = $5 " UNLESS_LOCKED,
									   5, types, values, nulls, SPI_OK_UPDATE) > 0;
	trucker_catalog_end(&access);
	return recorded;
}

static void *
form_error(HeapTuple tuple)
{
	return trucker_text_column(tuple, 1);
}

/* The SQLSTATE and the message of the truck's last error; NULL: there is none. */
char *
trucker_state_last_error(const pg_uuid_t *truck_id)
{
	List	   *rows = trucker_catalog_list("SELECT pg_catalog.split_part(last_error, E'\\n', 1) FROM trucker.truck_state "
											"WHERE truck_id = $1", truck_id, form_error);

	return rows == NIL ? NULL : linitial(rows);
}

/* The truck shall pass over the source transaction that commits there. */
void
trucker_state_ask_skip(const pg_uuid_t *truck_id, XLogRecPtr lsn)
{
	trucker_catalog_write("UPDATE trucker.truck_state SET skip_lsn = $2::pg_lsn WHERE truck_id = $1",
						  truck_id, psprintf("%X/%X", LSN_FORMAT_ARGS(lsn)), SPI_OK_UPDATE);
}

/* It does, in this very transaction; the message says so where trucker.status shows it. */
void
trucker_state_skipped(const pg_uuid_t *truck_id, const char *message)
{
	trucker_catalog_write("UPDATE trucker.truck_state SET skip_lsn = NULL, failed_lsn = NULL, "
						  "last_error = $2, last_error_at = clock_timestamp() WHERE truck_id = $1",
						  truck_id, message, SPI_OK_UPDATE);
}

static void *
form_uuid(HeapTuple tuple)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	*id = trucker_uuid_column(tuple, 1);
	return id;
}

/* The trucks (pg_uuid_t *) that a stream carries although DDL has marked them as lost. */
List *
trucker_state_unreadable_trucks(void)
{
	return trucker_catalog_list("SELECT t.id FROM trucker.truck t JOIN trucker.truck_state s ON s.truck_id = t.id "
								"WHERE s.stream_id IS NOT NULL AND " TRUCKER_UNREADABLE, NULL, form_uuid);
}

/* DDL has marked the truck as lost: no stream needs to keep anything for it. */
void
trucker_state_set_lost(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("UPDATE trucker.truck_state SET lost = true, stream_id = NULL " UNLESS_LOCKED,
						  truck_id, NULL, SPI_OK_UPDATE);
}

/*
 * Change the truck's row without changing what is in it: a backfill that works with
 * the definition of before cannot commit then.
 */
void
trucker_state_touch(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("UPDATE trucker.truck_state SET lost = lost WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_UPDATE);
}

/* ----
 * What trucks write
 * ----
 */

/* An array of OIDs as a list. */
static List *
oid_list_column(HeapTuple tuple, int number)
{
	bool		isnull;
	ArrayType  *array = DatumGetArrayTypeP(trucker_column(tuple, number, &isnull));
	List	   *list = NIL;

	for (int i = 0; i < ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)); i++)
		list = lappend_oid(list, ((Oid *) ARR_DATA_PTR(array))[i]);
	return list;
}

static TruckerNode *
form_node(HeapTuple tuple)
{
	TruckerNode *node = palloc(sizeof(TruckerNode));

	node->id = trucker_uuid_column(tuple, 1);
	node->name = trucker_text_column(tuple, 2);
	node->enabled = trucker_bool_column(tuple, 3);
	node->inputs = oid_list_column(tuple, 4);
	node->outputs = oid_list_column(tuple, 5);
	return node;
}

/*
 * All trucks (TruckerNode *) as they are now, whatever the transaction's snapshot:
 * it may be a backfill's.  SPI uses the active snapshot when it only reads.
 */
List *
trucker_state_nodes(void)
{
	TruckerCatalog access;
	MemoryContext old;
	List	   *nodes = NIL;

	trucker_catalog_begin(&access);
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute("SELECT t.id, t.name, coalesce(s.enabled, false), t.input_tables::oid[], coalesce(o.relids, '{}') "
					"FROM trucker.truck t LEFT JOIN trucker.truck_state s ON s.truck_id = t.id "
					"LEFT JOIN (SELECT truck_id, array_agg(relid) AS relids FROM trucker.output_table "
					"GROUP BY truck_id) o ON o.truck_id = t.id ORDER BY t.name", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the trucks");
	PopActiveSnapshot();
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		nodes = lappend(nodes, form_node(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return nodes;
}

/* Add tables (Oid) to those that a truck writes; or replace them. */
void
trucker_state_set_outputs(const pg_uuid_t *id, List *relids, bool replace)
{
	Oid			types[] = {UUIDOID, OIDARRAYOID};
	Datum		values[] = {UUIDPGetDatum(id), (Datum) 0};
	Datum	   *elements = palloc(Max(list_length(relids), 1) * sizeof(Datum));
	int			n = 0;
	TruckerCatalog access;
	ListCell   *lc;

	foreach(lc, relids)
		elements[n++] = ObjectIdGetDatum(lfirst_oid(lc));
	values[1] = PointerGetDatum(construct_array(elements, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	trucker_catalog_begin(&access);
	if (replace)
		trucker_catalog_execute("DELETE FROM trucker.output_table WHERE truck_id = $1 AND relid <> ALL ($2)",
						2, types, values, NULL, SPI_OK_DELETE);
	trucker_catalog_execute("INSERT INTO trucker.output_table SELECT $1, unnest($2) "
					"EXCEPT SELECT truck_id, relid FROM trucker.output_table WHERE truck_id = $1",
					2, types, values, NULL, SPI_OK_INSERT);
	trucker_catalog_end(&access);
}
