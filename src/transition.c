/*
 * transition.c
 *	  A truck changes streams, or a stream becomes the home.  doc/architecture.md
 *	  has the diagram; each arrow between streams is a function here.
 *
 *	 leave		 a truck that fails, rests or is slow leaves the home, onto a
 *				 catch-up stream whose slot is not beyond it: one that exists, or a
 *				 new one with a copy of the home's slot.  One whose role or stream
 *				 has been altered leaves for a catch-up stream of that role and name;
 *				 one that has inputs to load, for one of its own (added_tables.c)
 *	 rekey		 a stream becomes its only truck's, whose role or stream was altered
 *	 join		 trucks of a catch-up stream that are as far as their home move there
 *	 promote	 a catch-up stream whose home has no work becomes the home itself
 *	 board_again a truck whose backfill failed goes where the next slot is made
 *	 reopen		 a stream of which nothing has come makes itself ready for a new slot
 *
 * All of them are changes of the catalog, committed and flushed before anybody
 * acts on them.  One that fails, for whatever reason, leaves everything as it was,
 * and is tried again later: meanwhile the truck rests where it is, and its stream's
 * slot is held back for it, which costs others nothing but WAL.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/standby.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* a catch-up stream that is further behind than this would have to be read for long */
#define NEAR_BYTES (64 * 1024 * 1024)

/* how far behind its home a stream may be when it first tries to join */
#define JOIN_BYTES (16 * 1024 * 1024)
#define JOIN_INTERVAL_MS 100

typedef bool (*Transition) (TruckerStream *stream, TruckerMember *member);

/*
 * Try a transition; false: it was not possible, or has failed, which is only
 * logged.
 */
static bool
try_transition(Transition transition, TruckerStream *stream, TruckerMember *member)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		done = transition(stream, member);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		QueryCancelPending = false;
		MemoryContextSwitchTo(old);
		LWLockReleaseAll();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	trucker_move_end();
	trucker_worker_set_splitting(false);
	MemoryContextSwitchTo(old);
	return done;
}

/* Everything that this process has committed is on disk. */
static void
flush_all(void)
{
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
}

/* A transaction, without changing the memory context: what is read outlives it. */
static void
begin(void)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
}

static void
commit(void)
{
	MemoryContext context = CurrentMemoryContext;

	PopActiveSnapshot();
	CommitTransactionCommand();
	flush_all();
	MemoryContextSwitchTo(context);
}

static void
remove_member(TruckerStream *stream, TruckerMember *member)
{
	trucker_tables_forget(stream, member);
	if (stream->direct == member)
		stream->direct = NULL;
	stream->members = list_delete_ptr(stream->members, member);
	trucker_member_free(member);
}

/* Does this stream carry trucks of the truck's role and stream? */
static bool
is_for(const TruckerStreamRow *row, const TruckerTruck *truck)
{
	return row->role == truck->role && strcmp(row->name, truck->stream_name) == 0;
}

/* ----
 * Leaving
 * ----
 */

static bool
slot_can_be_had(void)
{
	return trucker_state_slot_count() < trucker_max_catchup_streams && trucker_slots_free() > 0;
}

/* Of the catch-up streams, the one that a truck at lsn can ride with the least to read. */
static TruckerStreamRow *
nearest(const TruckerStream *stream, List *streams, XLogRecPtr lsn, XLogRecPtr *confirmed)
{
	TruckerStreamRow *best = NULL;
	ListCell   *lc;

	foreach(lc, streams)
	{
		TruckerStreamRow *row = lfirst(lc);
		XLogRecPtr	at = trucker_slot_confirmed(row->slot_name);

		if (memcmp(&row->id, &stream->id, sizeof(pg_uuid_t)) == 0)
			continue;
		if (XLogRecPtrIsInvalid(at) || at > lsn || (best && at < *confirmed))
			continue;
		best = row;
		*confirmed = at;
	}
	return best;
}

/* Change the catalog so that another stream, which has a slot, carries the truck. */
static bool
move(TruckerStream *stream, TruckerMember *member, const TruckerStreamRow *to, XLogRecPtr lsn)
{
	TruckerStreamRow *locked;

	if (!trucker_move_begin(&to->id, lsn))
		return false;
	/* looked at only now that it cannot go beyond lsn any more */
	if (XLogRecPtrIsInvalid(trucker_slot_confirmed(to->slot_name)) ||
		trucker_slot_confirmed(to->slot_name) > lsn)
		return false;
	begin();
	locked = trucker_state_lock_stream(&to->id);
	if (locked == NULL || !is_for(locked, member->truck))
	{
		commit();
		return false;
	}
	trucker_state_move(&member->truck_id, &to->id, lsn);
	commit();
	return true;
}

static void
copy_slot(const char *from, const char *to)
{
	Oid			types[] = {NAMEOID, NAMEOID};
	NameData	names[2];
	Datum		values[] = {NameGetDatum(&names[0]), NameGetDatum(&names[1])};
	TruckerCatalog access;

	namestrcpy(&names[0], from);
	namestrcpy(&names[1], to);
	begin();
	trucker_catalog_begin(&access);
	trucker_catalog_execute("SELECT pg_copy_logical_replication_slot($1, $2, false)",
							2, types, values, NULL, SPI_OK_SELECT);
	trucker_catalog_end(&access);
	commit();
}

/*
 * A new catch-up stream, with a copy of our slot, for the truck.  The copy is made
 * in a transaction of its own, as it must not have written anything; until the
 * truck is aboard, probes are kept from taking the stream for a leftover.
 */
static bool
split(TruckerStream *stream, TruckerMember *member, XLogRecPtr lsn)
{
	char	   *slot_name = trucker_slot_new_name();
	pg_uuid_t	id;

	trucker_worker_set_splitting(true);
	begin();
	id = trucker_state_add_catchup(member->truck, slot_name);
	commit();
	copy_slot(stream->row->slot_name, slot_name);
	trucker_stop_point("slot copied");
	begin();
	trucker_state_move(&member->truck_id, &id, lsn);
	commit();
	return true;
}

static bool
leave(TruckerStream *stream, TruckerMember *member)
{
	TruckerStreamRow *best = NULL;
	XLogRecPtr	confirmed = InvalidXLogRecPtr;
	XLogRecPtr	lsn;
	bool		can_copy;

	flush_all();
	lsn = trucker_position_confirmable(member->position);
	begin();
	if (member->unloaded == NIL)
		best = nearest(stream, trucker_state_catchup_streams(&member->truck_id), lsn, &confirmed);
	can_copy = slot_can_be_had();
	commit();

	if (best && (!can_copy || lsn - confirmed <= NEAR_BYTES))
		return move(stream, member, best, lsn);
	return can_copy && split(stream, member, lsn);
}

/*
 * A truck leaves its stream.  False: it stays here for now, as no catch-up stream can
 * take it.  Not in a batch.
 */
bool
trucker_transition_leave(TruckerStream *stream, TruckerMember *member)
{
	if (!try_transition(leave, stream, member))
	{
		if (member->truck->enabled)
			trucker_truck_set_state(member->entry, TRUCKER_WAITING);
		return false;
	}
	ereport(LOG,
			(errmsg("truck \"%s\" has left stream \"%s\" for a catch-up stream",
					member->truck->name, stream->row->name), errhidecontext(true)));
	remove_member(stream, member);
	trucker_request_scan(MyDatabaseId);
	return true;
}

static bool
rekey(TruckerStream *stream, TruckerMember *member)
{
	bool		done;

	begin();
	done = trucker_state_rekey(&stream->id, member->truck);
	commit();
	return done;
}

/*
 * The stream becomes one of its only truck's role and stream, so that no other slot
 * is needed.  False: it carries others.  Once done, this process must end: its
 * settings are those of the role of before.
 */
bool
trucker_transition_rekey(TruckerStream *stream, TruckerMember *member)
{
	if (!try_transition(rekey, stream, member))
		return false;
	ereport(LOG,
			(errmsg("stream \"%s\" is another role's or another name's now, as its only truck \"%s\" was altered",
					stream->row->name, member->truck->name), errhidecontext(true)));
	/* the next process need not wait */
	trucker_signal_stream(MyDatabaseId, &stream->id);
	return true;
}

/* ----
 * Becoming the home, or joining it
 * ----
 */

/*
 * Is there no home, or none that has work?  Then this stream is the home from now
 * on; whoever rests there catches up and joins when started.
 */
static bool
promote(TruckerStream *stream, TruckerMember *member)
{
	TruckerStreamRow *home;
	bool		unneeded;

	begin();
	home = trucker_state_home_of(stream->row);
	if (home)
		home = trucker_state_lock_stream(&home->id);
	unneeded = home == NULL || !trucker_state_has_work(&home->id);
	if (unneeded)
	{
		if (home)
			trucker_state_set_home(&home->id, false);
		trucker_state_set_home(&stream->id, true);
	}
	commit();
	return unneeded;
}

bool
trucker_transition_promote(TruckerStream *stream)
{
	if (!try_transition(promote, stream, NULL))
		return false;
	stream->row->home = true;
	trucker_request_scan(MyDatabaseId);
	return true;
}

/* All active trucks move home, if that is not further than they are. */
static bool
join(TruckerStream *stream, TruckerMember *ignored)
{
	TruckerStreamRow *home;
	ListCell   *lc;

	begin();
	home = trucker_state_home_of(stream->row);
	commit();
	if (home == NULL || home->slot_name == NULL)
		return false;
	flush_all();
	if (!trucker_move_begin(&home->id, stream->applied))
		return false;
	if (XLogRecPtrIsInvalid(trucker_slot_confirmed(home->slot_name)) ||
		trucker_slot_confirmed(home->slot_name) > stream->applied)
		return false;

	begin();
	home = trucker_state_lock_stream(&home->id);
	if (home == NULL || !home->home || home->role != stream->row->role ||
		strcmp(home->name, stream->row->name) != 0)
	{
		commit();
		return false;
	}
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (member->active)
			trucker_state_move(&member->truck_id, &home->id, stream->applied);
	}
	commit();
	return true;
}

/*
 * The trucks of a catch-up stream have applied all that there is to apply, nothing
 * is open: let them join their home, if they are as far, or become the home.  True:
 * none that is active is left here, or this is the home now.
 */
bool
trucker_transition_join(TruckerStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();
	TruckerWorkerInfo info;
	TruckerStreamRow *home;
	ListCell   *lc;

	if (!TimestampDifferenceExceeds(stream->joined_at, now, JOIN_INTERVAL_MS))
		return false;
	stream->joined_at = now;

	begin();
	home = trucker_state_home_of(stream->row);
	if (home && !trucker_state_has_work(&home->id))
		home = NULL;
	commit();
	if (home == NULL)
		return trucker_transition_promote(stream);
	if (!trucker_find_worker(MyDatabaseId, &home->id, &info) || info.pid == 0 ||
		(info.applied_lsn > stream->applied && info.applied_lsn - stream->applied > JOIN_BYTES))
		return false;
	if (!try_transition(join, stream, NULL))
		return false;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active)
			continue;
		ereport(LOG,
				(errmsg("truck \"%s\" joins stream \"%s\" at %X/%X", member->truck->name,
						stream->row->name, LSN_FORMAT_ARGS(stream->applied)), errhidecontext(true)));
		stream->members = foreach_delete_current(stream->members, lc);
		trucker_member_free(member);
	}
	stream->nactive = 0;
	trucker_request_scan(MyDatabaseId);
	return true;
}

/* ----
 * Making a slot anew
 * ----
 */

static bool
board_again(TruckerStream *stream, TruckerMember *member)
{
	pg_uuid_t	id;

	begin();
	id = trucker_state_board(member->truck);
	commit();
	trucker_signal_stream(MyDatabaseId, &id);
	return true;
}

/*
 * The truck has no position, and this stream's slot is of no use to it: it goes
 * where the next slot will be made.
 */
void
trucker_transition_board_again(TruckerStream *stream, TruckerMember *member)
{
	if (!try_transition(board_again, stream, member))
		return;
	remove_member(stream, member);
	trucker_request_scan(MyDatabaseId);
}

static bool
reopen(TruckerStream *stream, TruckerMember *member)
{
	char	   *slot_name = stream->row->slot_name;
	bool		reopened;

	begin();
	reopened = trucker_state_reopen(&stream->id);
	commit();
	if (reopened)
	{
		trucker_slot_drop(slot_name);
		stream->row->slot_name = NULL;
	}
	return reopened;
}

/*
 * None of the stream's trucks has a position: the next attempt makes a new slot,
 * here or where trucks board already.
 */
void
trucker_transition_reopen(TruckerStream *stream)
{
	List	   *members = list_copy(stream->members);
	ListCell   *lc;

	if (try_transition(reopen, stream, NULL))
		return;
	foreach(lc, members)
		trucker_transition_board_again(stream, lfirst(lc));
}
