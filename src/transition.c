/*
 * transition.c
 *	  A truck changes streams, or a stream becomes the home.  doc/architecture.md
 *	  has the diagram; each arrow between streams is a function here.
 *
 *	 leave		 a truck that fails, rests or is slow leaves the home, onto a
 *				 catch-up stream whose slot is not beyond it: one that exists, or a
 *				 new one with a copy of the home's slot.  One whose role or stream
 *				 has been altered leaves for a catch-up stream of that role and name;
 *				 one that has inputs to load, or is to be verified, for one of its own
 *				 (added_tables.c, verification.c)
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
#include "storage/standby.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"
#include "log.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* when a truck that could not leave is tried again */
#define LEAVE_RETRY_MS 1000

/* how long a walsender may take to notice that nobody listens to it any more */
#define SENDER_WAIT_MS 100

/* how far behind its home a stream may be when it first tries to join */
#define JOIN_BYTES (16 * 1024 * 1024)
#define JOIN_INTERVAL_MS 100
#define STANDBY_WAIT_MS 3000

/* how long to wait before trying again to let a truck board another stream */
#define BOARD_INTERVAL_MS 1000

/* has a catch-up stream been added that has no truck yet? */
static bool splitting = false;

typedef struct Transition
{
	bool		(*action) (TruckerStream *stream, TruckerMember *member);
	TruckerStream *stream;
	TruckerMember *member;
} Transition;

static bool
run_transition(void *arg)
{
	Transition *transition = arg;

	return transition->action(transition->stream, transition->member);
}

/*
 * Try a transition; false: it was not possible, or has failed, which is only
 * logged.
 */
static bool
try_transition(bool (*action) (TruckerStream *stream, TruckerMember *member),
			   TruckerStream *stream, TruckerMember *member)
{
	Transition	transition = {action, stream, member};
	bool		done = trucker_catalog_try(run_transition, &transition);

	trucker_move_end();
	trucker_worker_set_splitting(false);
	/* a new stream that nobody has come aboard, and its slot */
	if (splitting)
		trucker_request_scan(MyDatabaseId);
	splitting = false;
	return done;
}

/* Everything that this process has committed is on disk. */
static void
flush_all(void)
{
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
}

/* A transaction, without changing the memory context: what is read outlives it. */
void
trucker_transition_begin(void)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
}

/* On disk, too, when it returns. */
void
trucker_transition_commit(void)
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

/*
 * Can a truck that has applied all before lsn ride on from that slot?  To be asked
 * again once trucker_move_begin() keeps the slot's worker from going beyond.  A
 * walsender whose worker has ended may have yet to read what that one has confirmed
 * at last.
 */
static bool
slot_will_do(const TruckerStreamRow *to, XLogRecPtr lsn)
{
	int			pid = trucker_slot_active_pid(to->slot_name);
	XLogRecPtr	confirmed;

	if (pid > 0 && !trucker_is_walsender(pid))
		return false;
	confirmed = trucker_slot_confirmed(to->slot_name);
	return !XLogRecPtrIsInvalid(confirmed) && confirmed <= lsn &&
		trucker_slot_trouble(to->slot_name, InvalidXLogRecPtr) == NULL;
}

/*
 * Between two passes of a stream its slot is in the hands of the last one's walsender
 * for a moment, and looks as if it would not do.  A slot made because of that would be
 * one too many, and keep WAL.
 */
static void
wait_for_last_walsender(const char *slot_name)
{
	int			pid = trucker_slot_active_pid(slot_name);

	if (pid > 0 && !trucker_is_walsender(pid))
		(void) trucker_slot_wait_inactive(slot_name, SENDER_WAIT_MS);
}

/* Of the catch-up streams, the one that a truck at lsn can ride with the least to read. */
static TruckerStreamRow *
nearest(const TruckerStream *stream, const TruckerMember *member, List *streams, XLogRecPtr lsn, XLogRecPtr *confirmed)
{
	TruckerStreamRow *best = NULL;
	ListCell   *lc;

	foreach(lc, streams)
	{
		TruckerStreamRow *row = lfirst(lc);
		XLogRecPtr	at;

		if (memcmp(&row->id, &stream->id, sizeof(pg_uuid_t)) == 0)
			continue;
		wait_for_last_walsender(row->slot_name);
		at = trucker_slot_confirmed(row->slot_name);
		if (!slot_will_do(row, lsn) || at > lsn || (best && at < *confirmed) ||
			!trucker_switch_suits(stream->row, row, member, lsn))
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
	bool		moved;

	if (!trucker_move_begin(&to->id, lsn))
		return false;
	if (!slot_will_do(to, lsn))
		return false;
	trucker_stop_point("move: begun");
	trucker_transition_begin();
	locked = trucker_state_lock_stream(&to->id);
	/* a slot without a worker may have been moved on until we had the lock (judge.c) */
	moved = locked != NULL && is_for(locked, member->truck) &&
		locked->slot_name != NULL && strcmp(locked->slot_name, to->slot_name) == 0 &&
		slot_will_do(to, lsn) && trucker_state_hand_over(&member->truck_id, &stream->id, &to->id, lsn);
	trucker_transition_commit();
	trucker_stop_point("move: committed");
	return moved;
}

/*
 * Copy a slot, for the output plugin of that name.  In a transaction of its own, as it must
 * not have written anything.
 */
void
trucker_transition_copy_slot(const char *from, const char *to, const char *plugin)
{
	Oid			types[] = {NAMEOID, NAMEOID, NAMEOID};
	NameData	names[3];
	Datum		values[] = {NameGetDatum(&names[0]), NameGetDatum(&names[1]), NameGetDatum(&names[2])};
	TruckerCatalog access;

	namestrcpy(&names[0], from);
	namestrcpy(&names[1], to);
	namestrcpy(&names[2], plugin);
	trucker_transition_begin();
	trucker_catalog_begin(&access);
	trucker_catalog_execute("SELECT pg_copy_logical_replication_slot($1, $2, false, $3)",
							3, types, values, NULL, SPI_OK_SELECT);
	trucker_catalog_end(&access);
	trucker_transition_commit();
	trucker_slot_tell(to, trucker_slot_confirmed(to));
}

/*
 * A new catch-up stream, with a copy of our slot, for the truck.  Until the truck is
 * aboard, probes are kept from taking the stream for a leftover.
 */
static bool
split(TruckerStream *stream, TruckerMember *member, XLogRecPtr lsn)
{
	char	   *slot_name = trucker_slot_new_name();
	TruckerSlotInfo info;
	pg_uuid_t	id;

	if (trucker_slot_find(stream->row->slot_name, &info) < 0)
		return false;
	trucker_worker_set_splitting(true);
	trucker_transition_begin();
	/* it would be a pity to make a slot for a truck that cannot be moved */
	splitting = trucker_state_lock_truck(&member->truck_id, &stream->id);
	if (splitting)
		id = trucker_state_add_catchup(member->truck, slot_name, stream->row->publication);
	trucker_transition_commit();
	if (!splitting)
		return false;
	trucker_stop_point("split: recorded");
	trucker_transition_copy_slot(stream->row->slot_name, slot_name, info.plugin);
	trucker_stop_point("split: copied");
	trucker_transition_begin();
	splitting = !trucker_state_hand_over(&member->truck_id, &stream->id, &id, lsn);
	trucker_transition_commit();
	trucker_stop_point("split: moved");
	return !splitting;
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
	trucker_transition_begin();
	/* if it has to be alone, others' company will not do */
	if (member->unloaded == NIL && !trucker_verification_needs_own_stream(stream, member))
		best = nearest(stream, member, trucker_state_catchup_streams(&member->truck_id), lsn, &confirmed);
	can_copy = slot_can_be_had();
	trucker_transition_commit();

	if (best && (!can_copy || lsn - confirmed <= TRUCKER_NEAR_BYTES))
		return move(stream, member, best, lsn);
	return can_copy && split(stream, member, lsn);
}

/*
 * The truck is tried again where it is, like one that has failed even if it has only
 * run out of time, and never gets more of the others' time than max_truck_delay.
 */
static void
stay(TruckerMember *member)
{
	member->must_stay = true;
	member->retry_at = Max(member->retry_at,
						   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   trucker_retry_delay(member->failures + member->patience,
																		   trucker_retry_max_delay)));
	trucker_truck_set_failure(member->entry, member->failures, member->failed_lsn, member->retry_at);
	trucker_truck_set_state(member->entry, TRUCKER_WAITING);
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
		/* one that is active goes on, and one that is misplaced must not */
		if (member->truck->enabled && !member->active && !member->misplaced && member->leave_at == 0)
			stay(member);
		return false;
	}
	if (stream->row->home && member->patience > 0)
		trucker_truck_held_up_home(member->entry);
	/* if it has only run out of time it need not pause where there are no others */
	if (member->failures == 0)
		trucker_truck_set_failure(member->entry, 0, member->failed_lsn, 0);
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
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

	trucker_transition_begin();
	done = trucker_state_rekey(&stream->id, member->truck);
	trucker_transition_commit();
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
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
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

	trucker_transition_begin();
	home = trucker_state_home_of(stream->row);
	unneeded = home == NULL || !trucker_state_has_work(&home->id);
	if (unneeded && home)
	{
		/* another one may have been faster */
		home = trucker_state_lock_stream(&home->id);
		unneeded = home == NULL || (home->home && !trucker_state_has_work(&home->id));
	}
	if (unneeded)
	{
		if (home)
			trucker_state_set_home(&home->id, false);
		trucker_state_set_home(&stream->id, true);
	}
	trucker_transition_commit();
	if (unneeded)
		trucker_stop_point("promoted");
	/* a truck there may have been started in this very moment */
	if (unneeded && home)
		trucker_signal_stream(MyDatabaseId, &home->id);
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

/* Has the truck's time away from home passed? */
static bool
may_go_home(const TruckerMember *member)
{
	TruckerTruckInfo info;

	trucker_truck_get_info(member->entry, &info);
	return member->active && info.home_after <= GetCurrentTimestamp();
}

static bool
any_may_go_home(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (may_go_home(lfirst(lc)))
			return true;
	return false;
}

/*
 * All active trucks move home, but those that have to wait, if that is not further
 * than they are.  True: some have.
 */
static bool
join(TruckerStream *stream, TruckerMember *ignored)
{
	TruckerStreamRow *home;
	TruckerStreamRow *locked;
	bool		any = false;
	bool		possible;
	ListCell   *lc;

	trucker_transition_begin();
	home = trucker_state_home_of(stream->row);
	trucker_transition_commit();
	if (home == NULL || home->slot_name == NULL)
		return false;
	flush_all();
	if (!trucker_move_begin(&home->id, stream->applied) ||
		!slot_will_do(home, stream->applied))
		return false;
	trucker_stop_point("join: begun");

	trucker_transition_begin();
	locked = trucker_state_lock_stream(&home->id);
	possible = locked != NULL && locked->home && locked->slot_name != NULL &&
		locked->role == stream->row->role && strcmp(locked->name, stream->row->name) == 0 &&
		strcmp(locked->slot_name, home->slot_name) == 0 && slot_will_do(home, stream->applied);
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		member->moved = possible && may_go_home(member) &&
			trucker_state_lock_truck(&member->truck_id, &stream->id) &&
			trucker_switch_suits(stream->row, locked, member, stream->applied) &&
			trucker_state_hand_over(&member->truck_id, &stream->id, &home->id, stream->applied);
		any |= member->moved;
	}
	trucker_transition_commit();
	trucker_stop_point("join: committed");
	return any;
}

/*
 * The home will start decoding anew, from its slot's restart_lsn, which follows
 * what is confirmed only at records of running transactions.  The server writes
 * one every 15 s; here is another, so that the others need not wait while much is
 * decoded twice.  True: the home has come past it, or does not come on.
 */
static bool
restart_is_near(TruckerStream *stream, const TruckerWorkerInfo *home, TimestampTz now)
{
	if (stream->standby_at == 0)
	{
		stream->standby_lsn = LogStandbySnapshot();
		stream->standby_at = now;
		XLogFlush(stream->standby_lsn);
	}
	return home->told_lsn >= stream->standby_lsn ||
		TimestampDifferenceExceeds(stream->standby_at, now, STANDBY_WAIT_MS);
}

/*
 * The trucks of a catch-up stream have applied all that there is to apply, nothing
 * is open: let them join their home, if they are as far, or become the home.  True:
 * some have, and the pass must end, or this is the home now.
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

	trucker_transition_begin();
	home = trucker_state_home_of(stream->row);
	if (home && !trucker_state_has_work(&home->id))
		home = NULL;
	trucker_transition_commit();
	if (home == NULL)
		return trucker_transition_promote(stream);
	if (!any_may_go_home(stream))
		return false;
	/* while it has not begun to read, its worker may be busy with backfills */
	if (!trucker_find_worker(MyDatabaseId, &home->id, &info) || info.pid == 0 ||
		XLogRecPtrIsInvalid(info.applied_lsn) ||
		(info.applied_lsn > stream->applied && info.applied_lsn - stream->applied > JOIN_BYTES) ||
		!restart_is_near(stream, &info, now) || !trucker_switch_prepare_to_join(stream, home))
		return false;
	if (!try_transition(join, stream, NULL))
		return false;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->moved)
			continue;
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("truck \"%s\" joins stream \"%s\" at %X/%X", member->truck->name,
						stream->row->name, LSN_FORMAT_ARGS(stream->applied)), errhidecontext(true)));
		stream->members = foreach_delete_current(stream->members, lc);
		trucker_member_free(member);
	}
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
	bool		possible;

	trucker_transition_begin();
	/* the truck's row first, as start() and resync() do */
	possible = trucker_state_lock_truck(&member->truck_id, &stream->id);
	if (possible)
		id = trucker_state_board(member->truck);
	trucker_transition_commit();
	if (possible)
		trucker_signal_stream(MyDatabaseId, &id);
	return possible;
}

/*
 * The truck has no position, and this stream's slot is of no use to it: it goes
 * where the next slot will be made.
 */
void
trucker_transition_board_again(TruckerStream *stream, TruckerMember *member)
{
	if (!try_transition(board_again, stream, member))
	{
		member->retry_at = Max(member->retry_at,
							   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BOARD_INTERVAL_MS));
		return;
	}
	remove_member(stream, member);
	trucker_request_scan(MyDatabaseId);
}

static bool
reopen(TruckerStream *stream, TruckerMember *member)
{
	char	   *slot_name = stream->row->slot_name;
	bool		reopened;

	trucker_transition_begin();
	reopened = trucker_state_lock_stream(&stream->id) != NULL && trucker_state_reopen(&stream->id);
	trucker_transition_commit();
	if (reopened)
	{
		trucker_stop_point("reopened");
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

/*
 * Shall the truck leave?  The home lets go of trucks that rest, if there are others
 * that it would hold up: its slot is held back for what is aboard.  A truck that
 * has inputs to load, or is to be verified, must be alone for that, and one that is misplaced elsewhere.
 */
static bool
shall_leave(const TruckerStream *stream, const TruckerMember *member)
{
	if (member->gone || member->lost || member->truck->needs_backfill)
		return false;
	if (trucker_member_shall_run(member) &&
		(member->misplaced || (member->active && member->unloaded != NIL && !trucker_added_is_alone(stream, member)) ||
		 trucker_verification_needs_own_stream(stream, member)))
		return true;
	return stream->row->home && stream->nactive > 0 && !member->active;
}

static TruckerMember *
next_to_leave(const TruckerStream *stream, TimestampTz now)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (member->leave_at <= now && shall_leave(stream, member))
			return member;
	}
	return NULL;
}

/* A truck that must not run here, and could not go where it belongs. */
static void
wait_to_leave(TruckerMember *member)
{
	member->retry_at = member->leave_at;
	trucker_truck_set_failure(member->entry, member->failures, member->failed_lsn, member->retry_at);
	trucker_truck_set_state(member->entry, TRUCKER_WAITING);
}

/* Let trucks leave that shall, between batches. */
void
trucker_transition_let_leave(TruckerStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();
	TruckerMember *member;

	while (!stream->rekeyed && (member = next_to_leave(stream, now)) != NULL)
	{
		bool		active = member->active;

		if (member->misplaced && trucker_transition_rekey(stream, member))
			stream->rekeyed = true;
		else if (trucker_transition_leave(stream, member))
			stream->nactive -= active ? 1 : 0;
		else
		{
			member->leave_at = TimestampTzPlusMilliseconds(now, LEAVE_RETRY_MS);
			if (member->misplaced)
				wait_to_leave(member);
		}
	}
}
