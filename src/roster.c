/*
 * roster.c
 *	  Which trucks a stream carries, and what they let it confirm.
 *
 * The catalog says which trucks a stream carries.  Those that shall run, and are
 * not in a pause after a failure, are active: they get the changes.  The others
 * rest, and the slot is held back for them; so a stream that other trucks need
 * does not keep them for long (transition.c).  A truck whose role or stream has been
 * altered rests as well until it is elsewhere: its SQL is not for this process.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "shmem.h"
#include "slots.h"
#include "stream.h"

static TruckerMember *
find_member(const TruckerStream *stream, const pg_uuid_t *truck_id)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (memcmp(&member->truck_id, truck_id, sizeof(pg_uuid_t)) == 0)
			return member;
	}
	return NULL;
}

/* What makes a truck lost as soon as it is looked at. */
static void
check_member(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;
	const char *trouble = trucker_position_trouble(member->position);

	if (member->truck->needs_backfill)
		return;
	if (trouble == NULL && !member->position->exists)
		trouble = "it has no position";
	if (trouble == NULL && stream->row->slot_name == NULL)
		trouble = "it has no replication slot";
	if (trouble)
		trucker_member_raise_lost(member, trouble);
}

/* The truck is lost, as DDL has marked it: no stream needs to keep anything for it. */
static void
let_go_of_lost(const TruckerTruck *truck)
{
	StartTransactionCommand();
	trucker_state_set_lost(&truck->id);
	CommitTransactionCommand();
}

/* Has the truck's role, or its stream, been altered, so that others shall carry it? */
static bool
is_misplaced(const TruckerStream *stream, const TruckerTruck *truck)
{
	return truck->role != stream->row->role || strcmp(truck->stream_name, stream->row->name) != 0;
}

static void
add_member(TruckerStream *stream, TruckerTruck *truck, XLogRecPtr slot_lsn)
{
	MemoryContext old = MemoryContextSwitchTo(stream->members_context);
	TruckerMember *member = trucker_member_create(truck, trucker_stream_decoder, slot_lsn);

	member->misplaced = is_misplaced(stream, member->truck);
	stream->members = lappend(stream->members, member);
	MemoryContextSwitchTo(old);
}

/* Forget those that the catalog gives to other streams, or that must be loaded anew. */
static bool
forget_members(TruckerStream *stream, List *trucks)
{
	bool		changed = false;
	ListCell   *lc;
	ListCell   *listed;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);
		bool		keep = !member->gone && !member->lost &&
			!trucker_truck_must_reload(member->entry);

		if (keep)
		{
			keep = false;
			foreach(listed, trucks)
			{
				TruckerTruck *truck = lfirst(listed);

				if (memcmp(&truck->id, &member->truck_id, sizeof(pg_uuid_t)) == 0)
					keep = truck->enabled == member->truck->enabled && !truck->lost &&
						truck->needs_backfill == member->truck->needs_backfill;
			}
		}
		if (keep)
			continue;
		changed = true;
		stream->members = foreach_delete_current(stream->members, lc);
		trucker_member_free(member);
	}
	return changed;
}

/*
 * Bring the roster in line with the catalog.  True: a truck has come, or its
 * decoding must begin anew, or one has left.
 */
bool
trucker_roster_refresh(TruckerStream *stream)
{
	XLogRecPtr	slot_lsn = InvalidXLogRecPtr;
	MemoryContext old = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(stream->context, "trucker roster", ALLOCSET_DEFAULT_SIZES);
	List	   *trucks;
	List	   *lost = NIL;
	bool		flushed = false;
	bool		changed;
	ListCell   *lc;

	trucker_takeover_begin();
	if (stream->row->slot_name)
		slot_lsn = trucker_slot_confirmed(stream->row->slot_name);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(scratch);
	trucks = trucker_truck_of_stream(&stream->id);
	changed = forget_members(stream, trucks);
	foreach(lc, trucks)
	{
		TruckerTruck *truck = lfirst(lc);

		if (truck->lost)
			lost = lappend(lost, truck);
		else if (find_member(stream, &truck->id) == NULL)
		{
			if (!flushed)
				XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
			flushed = true;
			add_member(stream, truck, slot_lsn);
			changed = true;
		}
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(scratch);

	foreach(lc, lost)
		let_go_of_lost(lfirst(lc));
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active && trucker_member_shall_run(member))
			(void) trucker_member_try(member, check_member, stream, true);
	}
	trucker_member_end_turn();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	trucker_takeover_end();
	return changed;
}

/* Is there a truck that shall run? */
bool
trucker_roster_has_work(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (trucker_member_shall_run(lfirst(lc)))
			return true;
	return false;
}

/* When may the first of those that rest after a failure be tried again?  0: none rests. */
TimestampTz
trucker_roster_next_retry(const TruckerStream *stream)
{
	TimestampTz next = 0;
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (member->active || !trucker_member_shall_run(member))
			continue;
		if (next == 0 || member->retry_at < next)
			next = Max(member->retry_at, 1);
	}
	return next;
}

/* Make active what shall run and whose time has come. */
void
trucker_roster_activate(TruckerStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	stream->nactive = 0;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		member->active = trucker_member_shall_run(member) && !member->misplaced &&
			!member->truck->needs_backfill && member->retry_at <= now;
		if (!member->active)
			continue;
		stream->nactive++;
		if (member->retry_at != 0)
		{
			member->retry_at = 0;
			trucker_truck_set_failure(member->entry, member->failures, member->failed_lsn, 0);
		}
	}
}

/*
 * What the slot may be told: what every truck that the stream carries has durably.
 * Active ones have all that the stream has applied, unless a commit of theirs is
 * yet to be flushed.  Not if the catalog says something new, perhaps that a truck
 * reads one table more: it must not miss what has committed since.
 */
XLogRecPtr
trucker_roster_confirmable(TruckerStream *stream)
{
	XLogRecPtr	lsn = PG_UINT64_MAX;
	bool		told = trucker_worker_is_poked();
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (member->truck->needs_backfill || member->lost)
			continue;
		if (member->active && !told)
			trucker_position_idle(member->position, stream->applied);
		lsn = Min(lsn, trucker_position_confirmable(member->position));
	}
	if (lsn == PG_UINT64_MAX)
		lsn = InvalidXLogRecPtr;
	return trucker_move_limit_confirm(lsn);
}

/* Does some truck's commit wait for the disk? */
bool
trucker_roster_has_unflushed(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (trucker_position_has_unflushed(((TruckerMember *) lfirst(lc))->position))
			return true;
	return false;
}

static void
record_error(TruckerMember *member, void *arg)
{
	trucker_record_error(member->truck, arg, 0, false);
}

/* An error of the stream itself is each of its trucks' last error; all pause together. */
void
trucker_roster_record_error(TruckerStream *stream, const ErrorData *edata)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!trucker_member_shall_run(member))
			continue;
		(void) trucker_member_try(member, record_error, unconstify(ErrorData *, edata), true);
		trucker_truck_set_state(member->entry, TRUCKER_RETRYING);
		trucker_truck_set_failure(member->entry, member->failures, member->failed_lsn,
								  Max(member->retry_at, stream->next_attempt_at));
	}
}
