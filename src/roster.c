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

#include "budget.h"
#include "catalog.h"
#include "holder.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* how often, in a budget of WAL, to note how far those are that do not hold back the slot */
#define NOTES_A_BUDGET 16

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

/*
 * The server has been promoted or restored since the position was written.  A slot
 * that came along, as a file, may have been confirmed because of commits that did
 * not.  So it must not be beyond what the catalog, which came as a whole, says.
 */
static const char *
inherited_slot_trouble(const TruckerStream *stream, const TruckerPosition *position)
{
	XLogRecPtr	confirmed = trucker_slot_confirmed(stream->row->slot_name);
	XLogRecPtr	known = Max(Max(position->lsn, position->applied), stream->row->confirmed_lsn);

	if (confirmed <= known)
		return NULL;
	return psprintf("the server has been promoted or restored since its position %X/%X was written, "
					"and its replication slot \"%s\" stands further, at %X/%X",
					LSN_FORMAT_ARGS(known), stream->row->slot_name, LSN_FORMAT_ARGS(confirmed));
}

/* What makes a truck lost as soon as it is looked at. */
static void
check_member(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;
	TruckerPosition *position = member->position;
	const char *trouble;

	if (member->truck->needs_backfill)
		return;
	trouble = trucker_position_trouble(position);
	if (trouble == NULL && !position->exists)
		trouble = "it has no position";
	if (trouble == NULL && stream->row->slot_name == NULL)
		trouble = "it has no replication slot";
	if (trouble == NULL && trucker_position_is_of_other_timeline(position))
	{
		trouble = inherited_slot_trouble(stream, position);
		if (trouble == NULL)
			trucker_position_adopt(position);
	}
	if (trouble)
		trucker_member_raise_lost(member, trouble);
}

/* The truck is lost, as DDL has marked it: no stream needs to keep anything for it. */
static bool
let_go_of_lost(void *arg)
{
	StartTransactionCommand();
	trucker_state_set_lost(&((TruckerTruck *) arg)->id);
	CommitTransactionCommand();
	return true;
}

/* Has the truck's role, or its stream, been altered, so that others shall carry it? */
static bool
is_misplaced(const TruckerStream *stream, const TruckerTruck *truck)
{
	return truck->role != stream->row->role || strcmp(truck->stream_name, stream->row->name) != 0;
}

static void
add_member(TruckerStream *stream, const TruckerTruck *truck, XLogRecPtr slot_lsn, bool published)
{
	MemoryContext old = MemoryContextSwitchTo(stream->members_context);
	TruckerMember *member = trucker_member_create(truck, slot_lsn, published);

	if (member)
	{
		member->misplaced = is_misplaced(stream, member->truck);
		stream->members = lappend(stream->members, member);
	}
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

/* A text of the row may be another one now; either may be NULL. */
static void
take_text(TruckerStream *stream, char **kept, const char *text)
{
	if (*kept == text || (*kept && text && strcmp(*kept, text) == 0))
		return;
	*kept = text ? MemoryContextStrdup(stream->context, text) : NULL;
}

/*
 * Read the stream's row again: it may be the home no more, or have become it.  A
 * note of where the slot stands was made while no truck should run; if this worker
 * has not ended since then, it says nothing.  (state.c: trucker_state_note_confirmed)
 */
static bool
refresh_row(TruckerStream *stream, bool *written)
{
	TruckerStreamRow *row = stream->row->slot_name == NULL ? trucker_state_stream(&stream->id) :
		trucker_state_lock_stream(&stream->id);
	bool		changed;

	if (row == NULL)
		return true;
	changed = row->home != stream->row->home;
	stream->row->home = row->home;
	take_text(stream, &stream->row->output_plugin, row->output_plugin);
	take_text(stream, &stream->row->publication, row->publication);
	if (XLogRecPtrIsInvalid(stream->confirmed))
		stream->row->confirmed_lsn = row->confirmed_lsn;
	else if (!XLogRecPtrIsInvalid(row->confirmed_lsn))
	{
		trucker_state_forget_confirmed(&stream->id);
		*written = true;
	}
	return changed;
}

/* Somebody may have asked, with start(), that a truck be tried again at once. */
static void
heed_pokes(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);
		TruckerTruckInfo info;

		if (member->active)
			continue;
		trucker_truck_get_info(member->entry, &info);
		member->failures = info.failures;
		member->retry_at = info.next_retry_at;
	}
}

/* Somebody may have decided about what trucks have in quarantine.  In a transaction. */
static void
read_quarantines(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerQuarantine *quarantine = ((TruckerMember *) lfirst(lc))->pipeline->quarantine;

		if (quarantine->held != NIL)
			trucker_quarantine_reload(quarantine);
	}
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
	bool		changed;
	bool		written = false;
	bool		published;
	ListCell   *lc;

	/* positions that are read now may be confirmed, and are of commits that did not wait for the disk */
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	if (trucker_takeover_pending())
		trucker_stop_point("takeover: pending");
	trucker_takeover_begin();
	if (stream->row->slot_name)
		slot_lsn = trucker_slot_confirmed(stream->row->slot_name);
	published = trucker_switch_publication(stream->row) != NULL;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(scratch);
	trucks = trucker_truck_of_stream(&stream->id);
	changed = forget_members(stream, trucks);
	heed_pokes(stream);
	read_quarantines(stream);
	foreach(lc, trucks)
	{
		TruckerTruck *truck = lfirst(lc);

		if (truck->lost)
			lost = lappend(lost, truck);
		else if (find_member(stream, &truck->id) == NULL)
		{
			add_member(stream, truck, slot_lsn, published);
			changed = true;		/* also if it is gone again: see below */
		}
	}
	/* after the trucks: whoever sees one enabled sees what was noted before */
	changed |= refresh_row(stream, &written);
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (written)
		XLogFlush(XactLastCommitEnd);
	MemoryContextSwitchTo(scratch);

	foreach(lc, lost)
		(void) trucker_catalog_try(let_go_of_lost, lfirst(lc));
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active && trucker_member_shall_run(member))
			(void) trucker_member_try(member, check_member, stream, true);
	}
	trucker_member_end_turn();

	/*
	 * The slot is not held back any more for those that are gone.  What has taken
	 * them away may have been committed without waiting for the disk; were it
	 * forgotten by a crash, they would miss what is confirmed from now on.
	 */
	if (changed)
		XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	if (changed)
		trucker_stop_point("takeover: loaded");
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

/* But for a pause, can it get changes on this stream? */
static bool
can_run_here(const TruckerMember *member)
{
	return trucker_member_shall_run(member) && !member->misplaced && !member->truck->needs_backfill;
}

static void
activate(TruckerStream *stream, TruckerMember *member)
{
	member->active = true;
	stream->nactive++;
	trucker_stats_count(member->entry, TRUCKER_RETRIES, member->failures > 0 ? 1 : 0);
	if (member->retry_at == 0)
		return;
	member->retry_at = 0;
	trucker_truck_set_failure(member->entry, member->failures, member->failed_lsn, 0);
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

		member->active = false;
		if (can_run_here(member) && member->retry_at <= now)
			activate(stream, member);
	}
	if (stream->nactive > 0)
		return;

	/* what has only run out of time, among others, need not wait if there are none */
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (can_run_here(member) && member->failures == 0)
			activate(stream, member);
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

/* Up to here a slot may be moved without harm to any of the trucks that have a position. */
XLogRecPtr
trucker_roster_least_position(const TruckerStream *stream)
{
	XLogRecPtr	least = InvalidXLogRecPtr;
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);
		XLogRecPtr	lsn = Max(member->position->lsn, member->position->applied);

		if (!member->truck->needs_backfill && (XLogRecPtrIsInvalid(least) || lsn < least))
			least = lsn;
	}
	return least;
}

/*
 * The slot is held back for trucks that rest: note now and then how far those are
 * that do not.  Their positions say it only as far as there was something to write,
 * and the slot does not.  After a restart they would seem to be as far behind as the
 * others (budget.c).  In a batch of nobody.
 */
void
trucker_roster_note_applied(TruckerStream *stream)
{
	uint64		step = trucker_budget_bytes() / NOTES_A_BUDGET;
	ListCell   *lc;

	if (step == 0 || stream->applied - stream->confirmed < step || stream->applied < stream->confirmed)
		return;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);
		XLogRecPtr	lsn = trucker_position_confirmable(member->position);

		if (member->active && member->follows && !member->lost &&
			lsn >= Max(member->position->lsn, member->position->applied) + step &&
			trucker_holder_note_applied(&member->truck_id, &stream->id, lsn))
			member->position->applied = lsn;
	}
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
	(void) trucker_record_error(member->truck, arg, 0, false);
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

/* What an active truck is doing. */
TruckerState
trucker_roster_active_state(const TruckerStream *stream)
{
	if (stream->addition)
		return TRUCKER_BACKFILL;
	return stream->row->home ? TRUCKER_STREAMING : TRUCKER_CATCHUP;
}
