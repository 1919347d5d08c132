/*
 * state_stream.c
 *	  Which streams there are, and which carries which truck.
 *
 * The only file that knows the columns of trucker.stream.
 *
 * Who locks what: whoever lets a truck board a stream, or moves it there, locks
 * the stream's row first; whoever deletes a stream locks its row and then looks
 * whether it is still empty.  Sessions have the truck's row already when a truck
 * boards: so who has a stream's row waits for no truck's, nor do probes for either.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "shmem.h"
#include "state.h"

/* a truck of the query's shall run: s is trucker.truck_state, t trucker.truck */
#define SHALL_RUN "s.enabled AND NOT s.lost AND NOT " TRUCKER_UNREADABLE

#define STREAM_COLUMNS \
	"x.id, x.owner::oid, x.run_as::oid, x.name, x.home, x.slot_name, coalesce(x.confirmed_lsn, '0/0'), x.publication, " \
	"(SELECT g.output_plugin FROM trucker.stream_setting g WHERE (g.owner, g.name) = (x.owner, x.name)) " \
	"FROM trucker.stream x "

static void *
form_stream(HeapTuple tuple)
{
	TruckerStreamRow *row = palloc0(sizeof(TruckerStreamRow));
	bool		isnull;

	row->id = trucker_uuid_column(tuple, 1);
	row->owner = DatumGetObjectId(trucker_column(tuple, 2, &isnull));
	row->role = DatumGetObjectId(trucker_column(tuple, 3, &isnull));
	row->name = trucker_text_column(tuple, 4);
	row->home = trucker_bool_column(tuple, 5);
	row->slot_name = trucker_text_column(tuple, 6);
	row->confirmed_lsn = DatumGetLSN(trucker_column(tuple, 7, &isnull));
	row->publication = trucker_text_column(tuple, 8);
	row->output_plugin = trucker_text_column(tuple, 9);
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

/*
 * For probes, which wait for nobody: false if somebody else has it locked, perhaps for long, or
 * it is gone.
 */
static bool
lock_stream_unless_locked(const pg_uuid_t *stream_id)
{
	return trucker_catalog_write("SELECT FROM trucker.stream WHERE id = $1 FOR UPDATE SKIP LOCKED",
								 stream_id, NULL, SPI_OK_SELECT) > 0;
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

/* no truck of the catch-up stream x shall run; one that is being made has no truck yet */
#define IS_RESTING \
	"(NOT x.home AND x.slot_name IS NOT NULL AND EXISTS " \
	"(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id) AND NOT EXISTS " \
	"(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id AND s.enabled))"

/*
 * How many catch-up streams of this database have, or are about to make, a slot for
 * trucks that shall run.  Those that only rest keep nobody from starting (gather.c).
 */
int
trucker_state_slot_count(void)
{
	return list_length(trucker_catalog_list("SELECT slot_name FROM trucker.stream x WHERE slot_name IS NOT NULL "
											"AND NOT home AND NOT " IS_RESTING, NULL, form_text));
}

/*
 * The catch-up streams (TruckerStreamRow *) whose trucks all rest, and of whose slots
 * is noted where they stand: those of one owner, role and name together, the furthest
 * behind first.
 */
List *
trucker_state_resting_streams(void)
{
	return trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE " IS_RESTING " AND x.confirmed_lsn IS NOT NULL "
								"ORDER BY x.owner::oid, x.run_as::oid, x.name, x.confirmed_lsn, x.id",
								NULL, form_stream);
}

/* Is it still one of those, with the same slot at the same place?  The caller has locked it. */
bool
trucker_state_is_resting(const TruckerStreamRow *stream)
{
	TruckerStreamRow *row = first_stream(trucker_catalog_list("SELECT " STREAM_COLUMNS "WHERE x.id = $1 AND " IS_RESTING,
															  &stream->id, form_stream));

	return row && strcmp(row->slot_name, stream->slot_name) == 0 && row->confirmed_lsn == stream->confirmed_lsn &&
		row->owner == stream->owner && row->role == stream->role && strcmp(row->name, stream->name) == 0;
}

/*
 * Let the trucks of one resting stream be carried by another one.  All before
 * applied_lsn is at their destinations.  Returns how many; not those that somebody has
 * locked, or has started, nor those without a position.
 */
int
trucker_state_gather(const pg_uuid_t *from, const pg_uuid_t *to, XLogRecPtr applied_lsn)
{
	Oid			types[] = {UUIDOID, UUIDOID, PG_LSNOID};
	Datum		values[] = {UUIDPGetDatum(from), UUIDPGetDatum(to), LSNGetDatum(applied_lsn)};
	TruckerCatalog access;
	int			moved;

	trucker_catalog_begin(&access);
	moved = (int) trucker_catalog_execute("UPDATE trucker.truck_state SET stream_id = $2, applied_lsn = greatest(applied_lsn, $3) "
										  "WHERE truck_id IN (SELECT x.truck_id FROM trucker.truck_state x WHERE x.stream_id = $1 "
										  "AND NOT x.enabled AND NOT x.needs_backfill FOR UPDATE SKIP LOCKED)",
										  3, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
	return moved;
}

/*
 * The catch-up streams (TruckerStreamRow *) with a slot that could carry a truck: of
 * its owner, role and stream.  Not those whose workers are busy with backfills,
 * perhaps for hours; nor those that a truck with inputs that are yet to be loaded has
 * for itself (added_tables.c).
 */
List *
trucker_state_catchup_streams(const pg_uuid_t *truck_id)
{
	return trucker_catalog_list("SELECT " STREAM_COLUMNS "JOIN trucker.truck t ON (x.owner, x.run_as, x.name) = "
								"(t.owner, t.run_as, coalesce(t.options->>'stream', '" TRUCKER_DEFAULT_STREAM "')) "
								"WHERE t.id = $1 AND NOT x.home AND x.slot_name IS NOT NULL AND NOT EXISTS "
								"(SELECT FROM trucker.truck_state s JOIN trucker.truck o ON o.id = s.truck_id "
								"WHERE s.stream_id = x.id AND CASE WHEN s.needs_backfill THEN s.enabled ELSE EXISTS "
								"(SELECT unnest(o.input_tables::oid[]) EXCEPT "
								"SELECT relid FROM trucker.input_table WHERE truck_id = o.id) END) ORDER BY x.id",
								truck_id, form_stream);
}

/* Insert a stream and return its id; false: a unique index stands against it. */
static bool
insert_stream(Oid owner, Oid role, const char *name, const char *slot_name, const char *publication, pg_uuid_t *id)
{
	Oid			types[] = {OIDOID, OIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(owner), ObjectIdGetDatum(role), CStringGetTextDatum(name),
		slot_name ? CStringGetTextDatum(slot_name) : (Datum) 0,
		publication ? CStringGetTextDatum(publication) : (Datum) 0};
	char		nulls[] = {' ', ' ', ' ', slot_name ? ' ' : 'n', publication ? ' ' : 'n', '\0'};
	TruckerCatalog access;
	bool		inserted;

	trucker_catalog_begin(&access);
	inserted = trucker_catalog_execute("INSERT INTO trucker.stream (owner, run_as, name, slot_name, publication, home) "
									   "SELECT $1::regrole, $2::regrole, $3, $4, $5, $4 IS NULL AND NOT EXISTS "
									   "(SELECT FROM trucker.stream WHERE (owner, run_as, name) = ($1, $2, $3) AND home) "
									   "ON CONFLICT DO NOTHING RETURNING id",
									   5, types, values, nulls, SPI_OK_INSERT_RETURNING) > 0;
	if (inserted)
		*id = trucker_uuid_column(SPI_tuptable->vals[0], 1);
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
		*id = trucker_uuid_column(SPI_tuptable->vals[0], 1);
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
		   !insert_stream(truck->owner, truck->role, truck->stream_name, NULL, NULL, &id))
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

/* A new catch-up stream for a truck, with a slot that is yet to be made, perhaps for that publication. */
pg_uuid_t
trucker_state_add_catchup(const TruckerTruck *truck, const char *slot_name, const char *publication)
{
	pg_uuid_t	id;

	if (!insert_stream(truck->owner, truck->role, truck->stream_name, slot_name, publication, &id))
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

/*
 * Make the stream, as a catch-up stream, that of the truck's role and stream, if it
 * carries no other truck.  False: it does.
 */
bool
trucker_state_rekey(const pg_uuid_t *stream_id, const TruckerTruck *truck)
{
	Oid			types[] = {UUIDOID, OIDOID, TEXTOID, UUIDOID};
	Datum		values[] = {UUIDPGetDatum(stream_id), ObjectIdGetDatum(truck->role),
	CStringGetTextDatum(truck->stream_name), UUIDPGetDatum(&truck->id)};
	TruckerCatalog access;
	bool		done;

	/* with the row locked no further truck can come aboard */
	if (trucker_state_lock_stream(stream_id) == NULL)
		return false;
	trucker_catalog_begin(&access);
	done = trucker_catalog_execute("UPDATE trucker.stream x SET run_as = $2::regrole, name = $3, home = false "
								   "WHERE x.id = $1 AND NOT EXISTS (SELECT FROM trucker.truck_state s "
								   "WHERE s.stream_id = x.id AND s.truck_id <> $4)",
								   4, types, values, NULL, SPI_OK_UPDATE) > 0;
	trucker_catalog_end(&access);
	return done;
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
		if (lock_stream_unless_locked(&stream->id))
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
	if (!lock_stream_unless_locked(stream_id))
		return;
	trucker_catalog_write("DELETE FROM trucker.stream x WHERE x.id = $1 AND NOT EXISTS "
						  "(SELECT FROM trucker.truck_state s WHERE s.stream_id = x.id)",
						  stream_id, NULL, SPI_OK_DELETE);
}

/* ----
 * What streams are read by
 * ----
 */

void
trucker_state_set_publication(const pg_uuid_t *stream_id, const char *publication)
{
	trucker_catalog_write("UPDATE trucker.stream SET publication = $2 WHERE id = $1",
						  stream_id, publication, SPI_OK_UPDATE);
}

/*
 * The publication that a stream should share: its home's, else that of another one of
 * its owner, role and name; NULL: none has any.
 */
char *
trucker_state_publication_of(const TruckerStreamRow *stream)
{
	List	   *names = trucker_catalog_list("SELECT y.publication FROM trucker.stream x JOIN trucker.stream y "
											 "ON (y.owner, y.run_as, y.name) = (x.owner, x.run_as, x.name) "
											 "WHERE x.id = $1 AND y.publication IS NOT NULL ORDER BY NOT y.home, y.id",
											 &stream->id, form_text);

	return names == NIL ? NULL : linitial(names);
}

static void *
form_id(HeapTuple tuple)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	*id = trucker_uuid_column(tuple, 1);
	return id;
}

/*
 * Set the output plugin for the streams of that owner and name; NULL: as the setting
 * says.  Returns the streams (pg_uuid_t *) that there are.
 */
List *
trucker_state_set_output_plugin(Oid owner, const char *name, const char *plugin)
{
	Oid			types[] = {OIDOID, TEXTOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(owner), CStringGetTextDatum(name),
	plugin ? CStringGetTextDatum(plugin) : (Datum) 0};
	TruckerCatalog access;
	MemoryContext old;
	List	   *ids = NIL;

	trucker_catalog_begin(&access);
	if (plugin)
		trucker_catalog_execute("INSERT INTO trucker.stream_setting VALUES ($1::regrole, $2, $3) "
								"ON CONFLICT (owner, name) DO UPDATE SET output_plugin = excluded.output_plugin",
								3, types, values, NULL, SPI_OK_INSERT);
	else
		trucker_catalog_execute("DELETE FROM trucker.stream_setting WHERE (owner, name) = ($1, $2)",
								2, types, values, NULL, SPI_OK_DELETE);
	trucker_catalog_execute("SELECT id FROM trucker.stream WHERE (owner, name) = ($1, $2)",
							2, types, values, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		ids = lappend(ids, form_id(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return ids;
}

/* The same read: NULL if none is set.  For a stream that there is, see its row. */
char *
trucker_state_output_plugin(Oid owner, const char *name)
{
	Oid			types[] = {OIDOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(owner), CStringGetTextDatum(name)};
	TruckerCatalog access;
	MemoryContext old;
	char	   *plugin = NULL;

	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("SELECT output_plugin FROM trucker.stream_setting WHERE (owner, name) = ($1, $2)",
								2, types, values, NULL, SPI_OK_SELECT) > 0)
	{
		old = MemoryContextSwitchTo(access.result_context);
		plugin = trucker_text_column(SPI_tuptable->vals[0], 1);
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	return plugin;
}
