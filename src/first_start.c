/*
 * first_start.c
 *	  From nothing to a position: slot, snapshot, backfills.
 *
 *	 boarding --> slot created --> backfills, some at a time --> those that committed
 *		^			   |				  |						 have a position
 *		+--- error ----+------- error ----+
 *
 * Making a slot waits for every transaction that runs, and a long backfill into a
 * local table is one.  So all trucks that are aboard when it begins share one slot
 * and its exported snapshot.  The slot's name is committed, and flushed, before the
 * slot is made, so that no slot is ever forgotten.
 *
 * A slot is useful only together with the snapshot that was exported with it.  A
 * truck whose backfill did not commit before the snapshot went needs another slot,
 * and goes aboard where that will be made.
 *
 * Backfills are processes of their own (backfill_worker.c): at most
 * trucker.max_backfills at a time, and one that fails is no other one's trouble.
 * Where the server has no worker to spare, they are made here, one by one.  They
 * end with the attempt that has ordered them, and before the next one looks at the
 * catalog: what one of them commits must not come as a surprise to a stream that has
 * another slot by then.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backfill.h"
#include "check.h"
#include "log.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"
#include "wait.h"

/* how long to wait before looking again whether a slot can be had */
#define SLOT_RETRY_MS 1000

typedef struct Backfill
{
	TruckerMember *member;
	BackgroundWorkerHandle *handle; /* NULL: not started, or ended */
	bool		started;
} Backfill;

/* Those that run, for when this process has to leave them. */
static List *running = NIL;

static void
terminate_running(int code, Datum arg)
{
	trucker_first_start_abandon();
}

/* The attempt that has ordered them is over: backfills that run end, too. */
void
trucker_first_start_abandon(void)
{
	ListCell   *lc;

	foreach(lc, running)
		TerminateBackgroundWorker((BackgroundWorkerHandle *) lfirst(lc));
}

/* Wait until no backfill of an earlier attempt, perhaps another process's, is under way. */
void
trucker_first_start_wait_for_abandoned(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(terminate_running, (Datum) 0);
	registered = true;

	while (running != NIL)
	{
		BackgroundWorkerHandle *handle = linitial(running);

		if (WaitForBackgroundWorkerShutdown(handle) == BGWH_POSTMASTER_DIED)
			proc_exit(1);
		running = list_delete_first(running);
		pfree(handle);
	}

	/* another process's were told to end when it did, and tell us when they have */
	while (trucker_worker_has_backfills())
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, trucker_wait(TRUCKER_WAIT_BACKFILL));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ----
 * The slot
 * ----
 */

static void
wait_ms(TruckerStream *stream, long ms)
{
	stream->next_attempt_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

/* The trucks whose SQL can be compiled: it would be a pity to make a slot for others. */
static List *
fit_members(TruckerStream *stream)
{
	List	   *fit = NIL;
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (trucker_member_shall_run(member) && member->truck->needs_backfill && !member->misplaced &&
			trucker_member_try(member, trucker_member_compile, NULL, true))
			fit = lappend(fit, member);
	}
	trucker_member_end_turn();
	return fit;
}

/*
 * May a slot be made now?  The home's always; else as many as the setting says.
 * Where the home has no work this stream becomes it: trucks that only rest keep
 * nobody from starting.
 */
static bool
slot_is_free(TruckerStream *stream, List *members)
{
	bool		is_free;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	is_free = stream->row->home || trucker_state_slot_count() < trucker_max_catchup_streams;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	if (!is_free)
		is_free = trucker_transition_promote(stream);
	if (!is_free)
		foreach(lc, members)
			trucker_truck_set_state(((TruckerMember *) lfirst(lc))->entry, TRUCKER_WAITING);
	return is_free;
}

/* Commit the name of the slot to come, durably, with the inputs' names. */
static void
record_slot(TruckerStream *stream, List *members, char *slot_name)
{
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, members)
	{
		TruckerMember *member = lfirst(lc);
		MemoryContext old = MemoryContextSwitchTo(member->context);
		List	   *inputs = trucker_tables_inputs(member->truck);

		trucker_tables_lock(inputs);
		member->names = trucker_state_current_names(member->truck, inputs);
		MemoryContextSwitchTo(old);
		trucker_state_set_input_names(&member->truck_id, member->names);
	}
	trucker_state_set_slot(&stream->id, slot_name);
	PopActiveSnapshot();
	CommitTransactionCommand();
	XLogFlush(XactLastCommitEnd);
	MemoryContextSwitchTo(stream->context);
	stream->row->slot_name = slot_name;
}

static List *
trucks_of(List *members)
{
	List	   *trucks = NIL;
	ListCell   *lc;

	foreach(lc, members)
		trucks = lappend(trucks, ((TruckerMember *) lfirst(lc))->truck);
	return trucks;
}

/* ----
 * The backfills
 * ----
 */

static int
count_running(Backfill *backfills, int n)
{
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		pid_t		pid;

		if (backfills[i].handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(backfills[i].handle, &pid) == BGWH_STOPPED)
		{
			running = list_delete_ptr(running, backfills[i].handle);
			pfree(backfills[i].handle);
			backfills[i].handle = NULL;
		}
		else
			count++;
	}
	return count;
}

/* Start one more; false: no background worker is free. */
static bool
start_backfill(Backfill *backfill, const char *snapshot, XLogRecPtr consistent_point, const char *slot_name)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	TruckerMember *member = backfill->member;

	backfill->started = trucker_backfill_register(member->entry, &member->truck_id, member->truck->name,
												  snapshot, consistent_point, slot_name, &backfill->handle);
	if (backfill->started)
		running = lappend(running, backfill->handle);
	else
		backfill->handle = NULL;
	MemoryContextSwitchTo(old);
	return backfill->started;
}

typedef struct BackfillHere
{
	const char *snapshot;
	const char *slot_name;
	XLogRecPtr	consistent_point;
} BackfillHere;

static void
backfill_here(TruckerMember *member, void *arg)
{
	BackfillHere *here = arg;

	PG_TRY();
	{
		trucker_backfill(member->pipeline, here->snapshot, here->consistent_point, here->slot_name);
	}
	PG_CATCH();
	{
		member->lost = member->pipeline->lost;
		PG_RE_THROW();
	}
	PG_END_TRY();
	ereport(trucker_elevel(TRUCKER_LOG_INFO), (errmsg("truck \"%s\": backfill committed", member->truck->name)));
}

/* Run all, a limited number at a time, until each has ended. */
static void
run_backfills(List *members, const char *snapshot, XLogRecPtr consistent_point, const char *slot_name)
{
	int			n = list_length(members);
	Backfill   *backfills = palloc0(n * sizeof(Backfill));
	int			next = 0;

	for (int i = 0; i < n; i++)
	{
		backfills[i].member = list_nth(members, i);
		trucker_truck_set_state(backfills[i].member->entry, TRUCKER_BACKFILL);
	}
	for (;;)
	{
		int			count = count_running(backfills, n);

		while (next < n && count < trucker_max_backfills)
		{
			if (trucker_truck_must_reload(backfills[next].member->entry))
				next++;			/* stopped meanwhile */
			else if (start_backfill(&backfills[next], snapshot, consistent_point, slot_name))
			{
				next++;
				count++;
			}
			else if (count == 0)
			{
				/* a server without a free worker, and nobody to wait for */
				BackfillHere here = {snapshot, slot_name, consistent_point};

				(void) trucker_member_try(backfills[next].member, backfill_here, &here, true);
				trucker_member_end_turn();
				next++;
			}
			else
				break;
		}
		if (count == 0 && next == n)
			break;
		if (count == 0)
			continue;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, trucker_wait(TRUCKER_WAIT_BACKFILL));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(backfills);
}

/* What became of a truck's backfill?  Those that failed go aboard again. */
static bool
take_result(TruckerStream *stream, TruckerMember *member)
{
	TruckerTruckInfo info;
	TruckerTruck *truck;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(stream->context);
	truck = trucker_truck_load(&member->truck_id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);

	if (truck == NULL || trucker_truck_must_reload(member->entry))
		member->gone = true;
	else if (truck->needs_backfill)
	{
		trucker_truck_get_info(member->entry, &info);
		member->failures = Max(info.failures, 1);
		trucker_member_set_aside(member);
	}
	return truck != NULL && !truck->needs_backfill;
}

/* ----
 * All of it
 * ----
 */

/*
 * Make a slot and backfill the trucks that are aboard.  True: some have a position
 * now.  False: none has, and stream->next_attempt_at says when to try again.
 */
bool
trucker_first_start(TruckerStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz retry_at = trucker_roster_next_retry(stream);
	List	   *members;
	XLogRecPtr	consistent_point;
	char	   *snapshot;
	bool		any = false;
	ListCell   *lc;

	stream->next_attempt_at = retry_at;
	if (retry_at > now)
		return false;
	trucker_check_is_no_standby();
	members = fit_members(stream);
	if (members == NIL)
	{
		stream->next_attempt_at = trucker_roster_next_retry(stream);
		return false;
	}
	if (!slot_is_free(stream, members))
	{
		wait_ms(stream, SLOT_RETRY_MS);
		return false;
	}

	foreach(lc, members)
		trucker_truck_set_state(((TruckerMember *) lfirst(lc))->entry, TRUCKER_CREATING_SLOT);
	stream->decoder = trucker_decoder_wanted(stream->row->output_plugin);
	if (stream->decoder->needs_publication)
		stream->row->publication = trucker_publication_prepare(&stream->row->id, trucks_of(members));
	record_slot(stream, members, trucker_slot_new_name());
	trucker_stop_point("slot recorded");
	stream->replication = trucker_stream_connect(stream);
	trucker_report("stream", stream->row->name, "creates a replication slot");
	trucker_replication_create_slot(stream->replication, stream->row->slot_name, false,
									stream->decoder->plugin, &consistent_point, &snapshot);
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
			(errmsg("stream \"%s\": replication slot \"%s\" created, backfill of %d trucks begins at %X/%X",
					stream->row->name, stream->row->slot_name, list_length(members),
					LSN_FORMAT_ARGS(consistent_point)), errhidecontext(true)));
	stream->confirmed = consistent_point;
	trucker_slot_tell(stream->row->slot_name, consistent_point);
	trucker_stop_point("slot created");
	trucker_report("stream", stream->row->name, "waits for backfills");
	run_backfills(members, snapshot, consistent_point, stream->row->slot_name);
	trucker_stop_point("backfilled");
	trucker_conn_close(stream->replication->conn);
	stream->replication = NULL;
	trucker_worker_set_walsender(0);

	foreach(lc, members)
		any |= take_result(stream, lfirst(lc));
	(void) trucker_roster_refresh(stream);
	return any;
}
