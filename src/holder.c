/*
 * holder.c
 *	  Which trucks the server keeps WAL for, as the catalog knows it.
 *
 * The server keeps WAL for slots, and a slot is held back for the trucks that its
 * stream carries.  Beside state.c this is the only file that knows the columns of
 * trucker.truck_state and trucker.stream.
 *
 * A probe works with this, and every other probe waits for it.  So nothing here
 * waits for a row that somebody's open transaction has locked: it is left for the
 * next time.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "holder.h"
#include "state.h"

static XLogRecPtr
lsn_column(HeapTuple tuple, int number)
{
	bool		isnull;
	Datum		value = trucker_column(tuple, number, &isnull);

	return isnull ? InvalidXLogRecPtr : DatumGetLSN(value);
}

static void *
form_holder(HeapTuple tuple)
{
	TruckerHolder *holder = palloc0(sizeof(TruckerHolder));
	bool		isnull;

	holder->truck_id = *DatumGetUUIDP(trucker_column(tuple, 1, &isnull));
	holder->name = trucker_text_column(tuple, 2);
	holder->enabled = trucker_bool_column(tuple, 3);
	holder->lsn = lsn_column(tuple, 4);
	holder->warned_lsn = lsn_column(tuple, 5);
	holder->stream_id = *DatumGetUUIDP(trucker_column(tuple, 6, &isnull));
	holder->slot_name = trucker_text_column(tuple, 7);
	holder->noted_lsn = lsn_column(tuple, 8);
	return holder;
}

/* All trucks (TruckerHolder *) that a slot is held back for, those of one stream together. */
List *
trucker_holder_list(void)
{
	return trucker_catalog_list("SELECT t.id, t.name, s.enabled, "
								"CASE WHEN NOT s.needs_backfill THEN greatest(p.lsn, s.applied_lsn) END, "
								"s.warned_lsn, x.id, x.slot_name, x.confirmed_lsn "
								"FROM trucker.stream x JOIN trucker.truck_state s ON s.stream_id = x.id "
								"JOIN trucker.truck t ON t.id = s.truck_id "
								"LEFT JOIN trucker.position p ON p.truck_id = t.id "
								"WHERE x.slot_name IS NOT NULL AND NOT s.lost AND NOT " TRUCKER_UNREADABLE
								/* pg_upgrade has left the slot behind, and it needs none */
								" AND NOT EXISTS (SELECT FROM trucker.drained d WHERE d.truck_id = t.id "
								"AND d.system_id <> (SELECT system_identifier FROM pg_control_system())) ORDER BY x.id, t.name",
								NULL, form_holder);
}

/* The log says that the truck is behind; the WAL ends at lsn.  The caller has locked it. */
void
trucker_holder_set_warned(const pg_uuid_t *truck_id, XLogRecPtr lsn)
{
	trucker_catalog_write("UPDATE trucker.truck_state SET warned_lsn = $2::pg_lsn WHERE truck_id = $1",
						  truck_id, psprintf("%X/%X", LSN_FORMAT_ARGS(lsn)), SPI_OK_UPDATE);
}

typedef struct Note
{
	const pg_uuid_t *truck_id;
	const pg_uuid_t *stream_id;
	XLogRecPtr	lsn;
} Note;

static bool
note_applied(void *arg)
{
	Note	   *note = arg;
	Oid			types[] = {UUIDOID, UUIDOID, PG_LSNOID};
	Datum		values[] = {UUIDPGetDatum(note->truck_id), UUIDPGetDatum(note->stream_id), LSNGetDatum(note->lsn)};
	TruckerCatalog access;
	bool		noted;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_catalog_begin(&access);
	noted = trucker_catalog_execute("UPDATE trucker.truck_state SET applied_lsn = $3 "
									"WHERE truck_id IN (SELECT truck_id FROM trucker.truck_state "
									"WHERE truck_id = $1 AND stream_id = $2 AND NOT needs_backfill FOR UPDATE SKIP LOCKED)",
									3, types, values, NULL, SPI_OK_UPDATE) > 0;
	trucker_catalog_end(&access);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return noted;
}

/*
 * Note that all before lsn is, durably, at the truck's destination.  False: not now.
 * In a transaction of its own.
 */
bool
trucker_holder_note_applied(const pg_uuid_t *truck_id, const pg_uuid_t *stream_id, XLogRecPtr lsn)
{
	Note		note = {truck_id, stream_id, lsn};

	return trucker_catalog_try(note_applied, &note);
}

/* Lock a stream, so that no truck is moved there; false: somebody else has locked it, or it is gone. */
bool
trucker_holder_lock_stream(const pg_uuid_t *stream_id)
{
	return trucker_catalog_write("SELECT FROM trucker.stream WHERE id = $1 FOR UPDATE SKIP LOCKED",
								 stream_id, NULL, SPI_OK_SELECT) > 0;
}

static void *
form_lsn(HeapTuple tuple)
{
	XLogRecPtr *lsn = palloc(sizeof(XLogRecPtr));

	*lsn = lsn_column(tuple, 1);
	return lsn;
}

/*
 * Up to here all trucks of a stream have applied everything; InvalidXLogRecPtr: one
 * of them has no position, or there is none.
 */
XLogRecPtr
trucker_holder_least_position(const pg_uuid_t *stream_id)
{
	List	   *lsns = trucker_catalog_list("SELECT CASE WHEN NOT s.needs_backfill THEN greatest(p.lsn, s.applied_lsn) END "
											"FROM trucker.truck_state s LEFT JOIN trucker.position p ON p.truck_id = s.truck_id "
											"WHERE s.stream_id = $1", stream_id, form_lsn);
	XLogRecPtr	least = PG_UINT64_MAX;
	ListCell   *lc;

	foreach(lc, lsns)
		least = Min(least, *(XLogRecPtr *) lfirst(lc));
	return lsns == NIL ? InvalidXLogRecPtr : least;
}

/* Note where the slot of a stream that rests stands. */
void
trucker_holder_set_noted(const pg_uuid_t *stream_id, XLogRecPtr lsn)
{
	trucker_catalog_write("UPDATE trucker.stream SET confirmed_lsn = $2::pg_lsn WHERE id = $1",
						  stream_id, psprintf("%X/%X", LSN_FORMAT_ARGS(lsn)), SPI_OK_UPDATE);
}
