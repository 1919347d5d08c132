/*
 * state.c
 *	  What trucks are to do, which streams there are, and which carries which truck.
 *
 * The only file that knows the columns of trucker.truck_state, trucker.stream,
 * trucker.input_table, trucker.output_table and trucker.unreadable_input.  What is written here is the
 * truth; shared memory only tells of it.
 *
 * Who locks what: whoever lets a truck board a stream, or moves it there, locks
 * the stream's row first; whoever deletes a stream locks its row and then looks
 * whether it is still empty.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "shmem.h"
#include "state.h"

/* a truck of the query's shall run: s is trucker.truck_state, t trucker.truck */
#define SHALL_RUN "s.enabled AND NOT s.lost AND NOT " TRUCKER_UNREADABLE

/* the truck's row, unless somebody else has it locked; of trucker.truck_state */
#define UNLESS_LOCKED \
	"WHERE truck_id = (SELECT x.truck_id FROM trucker.truck_state x WHERE x.truck_id = $1 FOR UPDATE SKIP LOCKED)"

#define STREAM_COLUMNS \
	"x.id, x.owner::oid, x.run_as::oid, x.name, x.home, x.slot_name, coalesce(x.confirmed_lsn, '0/0') " \
	"FROM trucker.stream x "

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
		/* and what the last batch of a truck may have added after it had been dropped */
		"DELETE FROM trucker.output_table WHERE truck_id = $1 OR truck_id NOT IN (SELECT id FROM trucker.truck)"
	};

	for (int i = 0; i < lengthof(statements); i++)
		trucker_catalog_write(statements[i], truck_id, NULL, SPI_OK_DELETE);
}

/* Change the wished-for state; false: it is that already, and nothing is written. */
bool
trucker_state_set_enabled(const pg_uuid_t *truck_id, bool enabled)
{
	return trucker_catalog_write("INSERT INTO trucker.truck_state AS s (truck_id, enabled) "
								 "VALUES ($1, $2::boolean) ON CONFLICT (truck_id) DO UPDATE "
								 "SET enabled = excluded.enabled, failed = false "
								 "WHERE s.enabled <> excluded.enabled OR s.failed",
								 truck_id, enabled ? "true" : "false", SPI_OK_INSERT) > 0;
}

void
trucker_state_request_resync(const pg_uuid_t *truck_id)
{
	/* the names that hold from now on are recorded with the new slot */
	trucker_catalog_write("DELETE FROM trucker.input_table WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("DELETE FROM trucker.unreadable_input WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("INSERT INTO trucker.truck_state (truck_id, needs_reset) "
						  "VALUES ($1, true) ON CONFLICT (truck_id) DO UPDATE "
						  "SET needs_backfill = true, needs_reset = true, lost = false, failed = false, "
						  "stream_id = NULL, applied_lsn = NULL",
						  truck_id, NULL, SPI_OK_INSERT);
}

/*
 * The backfill is part of this very transaction.  Raises an error if the truck has
 * been dropped, stopped or reset meanwhile; or if its stream has made another slot,
 * which begins later than this backfill, or is about to.
 */
void
trucker_state_set_backfilled(const pg_uuid_t *truck_id, XLogRecPtr consistent_point, const char *slot_name)
{
	trucker_catalog_write("UPDATE trucker.input_table SET from_lsn = $2::pg_lsn WHERE truck_id = $1",
						  truck_id, psprintf("%X/%X", LSN_FORMAT_ARGS(consistent_point)), SPI_OK_UPDATE);
	if (trucker_catalog_write("UPDATE trucker.truck_state SET needs_backfill = false, needs_reset = false "
							  "WHERE truck_id = $1 AND enabled AND stream_id = "
							  "(SELECT x.id FROM trucker.stream x WHERE x.slot_name = $2 FOR SHARE)",
							  truck_id, slot_name, SPI_OK_UPDATE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the backfill is of no use any more"),
				 errdetail("The truck has been dropped, stopped or reset, or replication slot \"%s\" been given up.",
						   slot_name)));
}

/*
 * Remember why the truck could not go on, and what comes of it.  Lost: it cannot go
 * on by itself, and no stream needs to keep anything for it.  Failed: it is
 * stopped until start().  False: somebody has the row locked, in a transaction that
 * starts, stops or drops the truck; nobody else shall wait for that.
 */
bool
trucker_state_record_error(const pg_uuid_t *truck_id, const char *message, bool lost, bool failed)
{
	Oid			types[] = {UUIDOID, TEXTOID, BOOLOID, BOOLOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), CStringGetTextDatum(message),
	BoolGetDatum(lost), BoolGetDatum(failed)};
	TruckerCatalog access;
	bool		recorded;

	trucker_catalog_begin(&access);
	recorded = trucker_catalog_execute("UPDATE trucker.truck_state SET last_error = $2, last_error_at = clock_timestamp(), "
									   "lost = lost OR $3, stream_id = CASE WHEN NOT $3 THEN stream_id END, "
									   "failed = failed OR $4, enabled = enabled AND NOT $4 " UNLESS_LOCKED,
									   4, types, values, NULL, SPI_OK_UPDATE) > 0;
	trucker_catalog_end(&access);
	return recorded;
}

static void *
form_uuid(HeapTuple tuple)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	bool		isnull;

	*id = *DatumGetUUIDP(trucker_column(tuple, 1, &isnull));
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
 * Trucks that have begun to read a table are lost when it is renamed (what it was
 * called at which point of the WAL cannot be found out later), or when its
 * changes are no longer in the WAL.  Called in the transaction that has altered
 * something; returns how many trucks that has cost.
 */
int
trucker_state_mark_unreadable(void)
{
	static const char *const sql =
		"INSERT INTO trucker.unreadable_input (truck_id, reason) SELECT t.id, "
		"format(CASE WHEN c.oid IS NULL "
		"THEN E'42P01: input table %I.%I %s\\nHINT: SELECT trucker.drop_truck(%L), and create it again with the tables that there are.' "
		"ELSE E'55000: input table %I.%I %s\\nHINT: SELECT trucker.resync(%L) loads the destination anew.' END, "
		"i.schema_name, i.table_name, why.reason, t.name) "
		"FROM trucker.input_table i JOIN trucker.truck t ON t.id = i.truck_id "
		"LEFT JOIN pg_class c ON c.oid = i.relid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace "
		"CROSS JOIN LATERAL (SELECT CASE WHEN c.oid IS NULL THEN 'has been dropped' "
		"WHEN (n.nspname, c.relname) <> (i.schema_name, i.table_name) "
		"THEN format('has been renamed to %I.%I', n.nspname, c.relname) "
		"WHEN c.relpersistence <> 'p' THEN 'has been made unlogged' "
		"WHEN t.options @> '{\"inserts_only\": true}' OR c.relreplident = 'f' THEN NULL "
		"WHEN NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate "
		"AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END) "
		"THEN 'has lost its replica identity' END) AS why(reason) "
		"WHERE why.reason IS NOT NULL AND NOT " TRUCKER_UNREADABLE;
	TruckerCatalog access;
	int			touched;

	trucker_catalog_begin(&access);
	touched = (int) trucker_catalog_execute(sql, 0, NULL, NULL, NULL, SPI_OK_INSERT);
	trucker_catalog_end(&access);
	return touched;
}

static void *
form_input_name(HeapTuple tuple)
{
	TruckerInputName *name = palloc(sizeof(TruckerInputName));
	bool		isnull;

	name->relid = DatumGetObjectId(trucker_column(tuple, 1, &isnull));
	name->schema = trucker_text_column(tuple, 2);
	name->table = trucker_text_column(tuple, 3);
	name->from_lsn = DatumGetLSN(trucker_column(tuple, 4, &isnull));
	return name;
}

/* The names (TruckerInputName *) of a truck's inputs as of its position. */
List *
trucker_state_input_names(const pg_uuid_t *truck_id)
{
	return trucker_catalog_list("SELECT relid, schema_name, table_name, coalesce(from_lsn, '0/0') "
								"FROM trucker.input_table WHERE truck_id = $1", truck_id, form_input_name);
}

/* Replace the names of a truck's inputs. */
void
trucker_state_set_input_names(const pg_uuid_t *truck_id, List *names)
{
	Oid			types[] = {UUIDOID, OIDOID, TEXTOID, TEXTOID, PG_LSNOID};
	Datum		values[5] = {UUIDPGetDatum(truck_id)};
	TruckerCatalog access;
	ListCell   *lc;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("DELETE FROM trucker.input_table WHERE truck_id = $1",
							1, types, values, NULL, SPI_OK_DELETE);
	foreach(lc, names)
	{
		TruckerInputName *name = lfirst(lc);

		values[1] = ObjectIdGetDatum(name->relid);
		values[2] = CStringGetTextDatum(name->schema);
		values[3] = CStringGetTextDatum(name->table);
		values[4] = LSNGetDatum(name->from_lsn);
		trucker_catalog_execute("INSERT INTO trucker.input_table VALUES ($1, $2, $3, $4, nullif($5, '0/0'))",
								5, types, values, NULL, SPI_OK_INSERT);
	}
	trucker_catalog_end(&access);
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
	bool		isnull;

	node->id = *DatumGetUUIDP(trucker_column(tuple, 1, &isnull));
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

/* ----
 * Streams
 * ----
 */

static void *
form_stream(HeapTuple tuple)
{
	TruckerStreamRow *row = palloc0(sizeof(TruckerStreamRow));
	bool		isnull;

	row->id = *DatumGetUUIDP(trucker_column(tuple, 1, &isnull));
	row->owner = DatumGetObjectId(trucker_column(tuple, 2, &isnull));
	row->role = DatumGetObjectId(trucker_column(tuple, 3, &isnull));
	row->name = trucker_text_column(tuple, 4);
	row->home = trucker_bool_column(tuple, 5);
	row->slot_name = trucker_text_column(tuple, 6);
	row->confirmed_lsn = DatumGetLSN(trucker_column(tuple, 7, &isnull));
	return row;
}

static TruckerStreamRow *
first_stream(List *rows)
{
	return rows == NIL ? NULL : linitial(rows);
}

/* A stream; NULL if it is gone. */
TruckerStreamRow *
trucker_state_stream(const pg_uuid_t *stream_id)
{
	return first_stream(trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE x.id = $1",
											 stream_id, form_stream));
}

/* The same, locked until the end of the transaction, as its latest version is. */
TruckerStreamRow *
trucker_state_lock_stream(const pg_uuid_t *stream_id)
{
	return first_stream(trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE x.id = $1 FOR UPDATE",
											 stream_id, form_stream));
}

/* The home of a stream's trucks: itself, another one, or NULL if there is none. */
TruckerStreamRow *
trucker_state_home_of(const TruckerStreamRow *stream)
{
	return first_stream(trucker_catalog_list("SELECT " STREAM_COLUMNS "JOIN trucker.stream y "
											 "ON (y.owner, y.run_as, y.name) = (x.owner, x.run_as, x.name) "
											 "WHERE y.id = $1 AND x.home", &stream->id, form_stream));
}

/* Does the stream carry a truck that shall run? */
bool
trucker_state_has_work(const pg_uuid_t *stream_id)
{
	return trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE x.id = $1 AND EXISTS "
								"(SELECT FROM trucker.truck t JOIN trucker.truck_state s ON s.truck_id = t.id "
								"WHERE s.stream_id = x.id AND " SHALL_RUN ")", stream_id, form_stream) != NIL;
}

/* The streams (TruckerStreamRow *) that shall have a worker. */
List *
trucker_state_wanted_streams(void)
{
	return trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE EXISTS "
								"(SELECT FROM trucker.truck t JOIN trucker.truck_state s ON s.truck_id = t.id "
								"WHERE s.stream_id = x.id AND " SHALL_RUN ") ORDER BY x.name, NOT x.home, x.id",
								NULL, form_stream);
}

static void *
form_text(HeapTuple tuple)
{
	return trucker_text_column(tuple, 1);
}

/* Names (char *) of all slots that some stream needs. */
List *
trucker_state_slot_names(void)
{
	return trucker_catalog_list("SELECT slot_name FROM trucker.stream WHERE slot_name IS NOT NULL",
								NULL, form_text);
}

/* How many catch-up streams of this database have, or are about to make, a slot. */
int
trucker_state_slot_count(void)
{
	return list_length(trucker_catalog_list("SELECT slot_name FROM trucker.stream "
											"WHERE slot_name IS NOT NULL AND NOT home", NULL, form_text));
}

/*
 * The catch-up streams (TruckerStreamRow *) with a slot, of the trucks of a home.
 * Not those whose workers are busy with backfills, perhaps for hours.
 */
List *
trucker_state_catchup_streams(const TruckerStreamRow *home)
{
	return trucker_catalog_list("SELECT " STREAM_COLUMNS "JOIN trucker.stream y "
								"ON (y.owner, y.run_as, y.name) = (x.owner, x.run_as, x.name) "
								"WHERE y.id = $1 AND NOT x.home AND x.slot_name IS NOT NULL AND NOT EXISTS "
								"(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id "
								"AND s.enabled AND s.needs_backfill) ORDER BY x.id",
								&home->id, form_stream);
}

/* Insert a stream and return its id; false: a unique index stands against it. */
static bool
insert_stream(Oid owner, Oid role, const char *name, const char *slot_name, pg_uuid_t *id)
{
	Oid			types[] = {OIDOID, OIDOID, TEXTOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(owner), ObjectIdGetDatum(role), CStringGetTextDatum(name),
		slot_name ? CStringGetTextDatum(slot_name) : (Datum) 0};
	char		nulls[] = {' ', ' ', ' ', slot_name ? ' ' : 'n', '\0'};
	TruckerCatalog access;
	bool		inserted;

	trucker_catalog_begin(&access);
	inserted = trucker_catalog_execute("INSERT INTO trucker.stream (owner, run_as, name, slot_name, home) "
									   "SELECT $1::regrole, $2::regrole, $3, $4, $4 IS NULL AND NOT EXISTS "
									   "(SELECT FROM trucker.stream WHERE (owner, run_as, name) = ($1, $2, $3) AND home) "
									   "ON CONFLICT DO NOTHING RETURNING id",
									   4, types, values, nulls, SPI_OK_INSERT_RETURNING) > 0;
	if (inserted)
	{
		pg_uuid_t  *returned = form_uuid(SPI_tuptable->vals[0]);

		*id = *returned;
	}
	trucker_catalog_end(&access);
	return inserted;
}

/* The stream that trucks may come aboard, locked; false: there is none. */
static bool
find_boarding(const TruckerTruck *truck, pg_uuid_t *id)
{
	Oid			types[] = {OIDOID, OIDOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(truck->owner), ObjectIdGetDatum(truck->role),
	CStringGetTextDatum(truck->stream_name)};
	TruckerCatalog access;
	bool		found;

	trucker_catalog_begin(&access);
	found = trucker_catalog_execute("SELECT id FROM trucker.stream WHERE (owner, run_as, name) = ($1, $2, $3) "
									"AND slot_name IS NULL FOR UPDATE",
									3, types, values, NULL, SPI_OK_SELECT) > 0;
	if (found)
		*id = *(pg_uuid_t *) form_uuid(SPI_tuptable->vals[0]);
	trucker_catalog_end(&access);
	return found;
}

/*
 * Put a truck that has to be backfilled aboard a stream that has no slot yet: it
 * shares the slot and the snapshot with all that board before the slot is made.
 * Returns the stream.
 */
pg_uuid_t
trucker_state_board(const TruckerTruck *truck)
{
	pg_uuid_t	id;

	while (!find_boarding(truck, &id) &&
		   !insert_stream(truck->owner, truck->role, truck->stream_name, NULL, &id))
		CHECK_FOR_INTERRUPTS();	/* another one's has been left, or deleted, in between */
	trucker_state_move(&truck->id, &id, InvalidXLogRecPtr);
	return id;
}

/* Record the slot's name; before the slot is made, so that none is forgotten. */
void
trucker_state_set_slot(const pg_uuid_t *stream_id, const char *slot_name)
{
	trucker_catalog_write("UPDATE trucker.stream SET slot_name = $2, confirmed_lsn = NULL WHERE id = $1",
						  stream_id, slot_name, SPI_OK_UPDATE);
}

/*
 * Let trucks come aboard again.  False: there is another stream for that, or a
 * truck with a position rides this one.  The caller has locked the stream.
 */
bool
trucker_state_reopen(const pg_uuid_t *stream_id)
{
	return trucker_catalog_write("UPDATE trucker.stream x SET slot_name = NULL, confirmed_lsn = NULL "
								 "WHERE x.id = $1 AND NOT EXISTS (SELECT FROM trucker.stream y "
								 "WHERE (y.owner, y.run_as, y.name) = (x.owner, x.run_as, x.name) "
								 "AND y.slot_name IS NULL) AND NOT EXISTS "
								 "(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id "
								 "AND NOT s.needs_backfill)", stream_id, NULL, SPI_OK_UPDATE) > 0;
}

/* A new catch-up stream for trucks of a home, with a slot that is yet to be made. */
pg_uuid_t
trucker_state_add_catchup(const TruckerStreamRow *home, const char *slot_name)
{
	pg_uuid_t	id;

	if (!insert_stream(home->owner, home->role, home->name, slot_name, &id))
		elog(ERROR, "could not add a catch-up stream");
	return id;
}

/* Let a truck be carried by another stream.  All before applied_lsn is at its destination. */
void
trucker_state_move(const pg_uuid_t *truck_id, const pg_uuid_t *stream_id, XLogRecPtr applied_lsn)
{
	Oid			types[] = {UUIDOID, UUIDOID, PG_LSNOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), UUIDPGetDatum(stream_id), LSNGetDatum(applied_lsn)};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("UPDATE trucker.truck_state SET stream_id = $2, applied_lsn = nullif($3, '0/0') "
							"WHERE truck_id = $1", 3, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/*
 * The same, for a truck that has a position, if it still rides the one stream and
 * nobody else has its row locked: a session may have reset it, or may be about to.
 */
bool
trucker_state_hand_over(const pg_uuid_t *truck_id, const pg_uuid_t *from, const pg_uuid_t *to, XLogRecPtr applied_lsn)
{
	Oid			types[] = {UUIDOID, UUIDOID, UUIDOID, PG_LSNOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), UUIDPGetDatum(from), UUIDPGetDatum(to), LSNGetDatum(applied_lsn)};
	TruckerCatalog access;
	bool		moved;

	trucker_catalog_begin(&access);
	moved = trucker_catalog_execute("UPDATE trucker.truck_state SET stream_id = $3, applied_lsn = $4 WHERE truck_id = "
									"(SELECT x.truck_id FROM trucker.truck_state x WHERE x.truck_id = $1 "
									"AND x.stream_id = $2 AND NOT x.needs_backfill FOR UPDATE SKIP LOCKED)",
									4, types, values, NULL, SPI_OK_UPDATE) > 0;
	trucker_catalog_end(&access);
	return moved;
}

/* Lock a truck's row; false: somebody else has it, or the truck rides that stream no more. */
bool
trucker_state_lock_truck(const pg_uuid_t *truck_id, const pg_uuid_t *stream_id)
{
	Oid			types[] = {UUIDOID, UUIDOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), UUIDPGetDatum(stream_id)};
	TruckerCatalog access;
	bool		locked;

	trucker_catalog_begin(&access);
	locked = trucker_catalog_execute("SELECT FROM trucker.truck_state WHERE truck_id = $1 AND stream_id = $2 "
									 "FOR UPDATE SKIP LOCKED", 2, types, values, NULL, SPI_OK_SELECT) > 0;
	trucker_catalog_end(&access);
	return locked;
}

void
trucker_state_set_home(const pg_uuid_t *stream_id, bool home)
{
	trucker_catalog_write("UPDATE trucker.stream SET home = $2::boolean WHERE id = $1",
						  stream_id, home ? "true" : "false", SPI_OK_UPDATE);
}

#define RESTS \
	"r.slot_name = x.slot_name AND NOT r.active AND x.confirmed_lsn IS NULL AND NOT EXISTS " \
	"(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id AND s.enabled)"

/*
 * Note, for streams that rest, up to where their slots are confirmed.  The slot of
 * a stream that rests must not move; if it does, somebody else has read from it or
 * advanced it.  One of their trucks may be started at any moment: with the row
 * locked it is looked at once more, and the worker, which locks it, too, sees
 * either no note or all of it.
 */
void
trucker_state_note_confirmed(void)
{
	List	   *streams = trucker_catalog_list("SELECT " STREAM_COLUMNS "JOIN pg_replication_slots r ON " RESTS,
											   NULL, form_stream);
	ListCell   *lc;

	foreach(lc, streams)
	{
		TruckerStreamRow *stream = lfirst(lc);
		XLogRecPtr	told = trucker_slot_told(stream->slot_name);

		/* it may have been moved since its worker has ended */
		if (XLogRecPtrIsInvalid(told))
			told = PG_UINT64_MAX;
		if (trucker_state_lock_stream(&stream->id) != NULL)
			trucker_catalog_write("UPDATE trucker.stream x SET confirmed_lsn = least(r.confirmed_flush_lsn, $2::pg_lsn) "
								  "FROM pg_replication_slots r WHERE x.id = $1 AND " RESTS,
								  &stream->id, psprintf("%X/%X", LSN_FORMAT_ARGS(told)), SPI_OK_UPDATE);
	}
}

/* The stream's worker is about to move the slot again. */
void
trucker_state_forget_confirmed(const pg_uuid_t *stream_id)
{
	trucker_catalog_write("UPDATE trucker.stream SET confirmed_lsn = NULL "
						  "WHERE id = $1 AND confirmed_lsn IS NOT NULL", stream_id, NULL, SPI_OK_UPDATE);
}

/* Streams (TruckerStreamRow *) that carry no truck. */
List *
trucker_state_empty_streams(void)
{
	return trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE NOT EXISTS "
								"(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id)",
								NULL, form_stream);
}

/*
 * Delete a stream unless a truck has come aboard.  With the row locked no further
 * truck can, and the second statement sees all that have.
 */
void
trucker_state_delete_empty(const pg_uuid_t *stream_id)
{
	if (trucker_state_lock_stream(stream_id) == NULL)
		return;
	trucker_catalog_write("DELETE FROM trucker.stream x WHERE x.id = $1 AND NOT EXISTS "
						  "(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id)",
						  stream_id, NULL, SPI_OK_DELETE);
}
