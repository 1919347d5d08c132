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
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* how long to wait before looking again whether a slot can be had */
#define SLOT_RETRY_MS 1000
/* the same for a background worker */
#define WORKER_RETRY_MS 1000

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
	ListCell   *lc;

	foreach(lc, running)
		TerminateBackgroundWorker((BackgroundWorkerHandle *) lfirst(lc));
	running = NIL;
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

		if (trucker_member_shall_run(member) && member->truck->needs_backfill &&
			trucker_member_try(member, trucker_member_compile, NULL, true))
			fit = lappend(fit, member);
	}
	trucker_member_end_turn();
	return fit;
}

/* May a slot be made now?  The home's always; else as many as the setting says. */
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

		member->names = trucker_tables_current_names(member->truck, trucker_tables_inputs(member->truck));
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
start_backfill(Backfill *backfill, const char *snapshot, XLogRecPtr consistent_point)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	TruckerMember *member = backfill->member;

	backfill->started = trucker_backfill_register(member->entry, &member->truck_id, member->truck->name,
												  snapshot, consistent_point, &backfill->handle);
	if (backfill->started)
		running = lappend(running, backfill->handle);
	else
		backfill->handle = NULL;
	MemoryContextSwitchTo(old);
	return backfill->started;
}

/* Run all, a limited number at a time, until each has ended. */
static void
run_backfills(List *members, const char *snapshot, XLogRecPtr consistent_point)
{
	int			n = list_length(members);
	Backfill   *backfills = palloc0(n * sizeof(Backfill));
	int			next = 0;
	bool		told = false;

	for (int i = 0; i < n; i++)
		backfills[i].member = list_nth(members, i);
	for (;;)
	{
		int			count = count_running(backfills, n);
		long		timeout = -1;

		while (next < n && count < trucker_max_backfills)
		{
			if (trucker_truck_must_reload(backfills[next].member->entry))
				next++;			/* stopped meanwhile */
			else if (start_backfill(&backfills[next], snapshot, consistent_point))
			{
				trucker_truck_set_state(backfills[next].member->entry, TRUCKER_BACKFILL);
				next++;
				count++;
			}
			else
			{
				if (!told)
					ereport(LOG,
							(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
							 errmsg("could not start the backfill of truck \"%s\": no background worker is free",
									backfills[next].member->truck->name),
							 errhint("Raise max_worker_processes.")));
				told = true;
				timeout = WORKER_RETRY_MS;
				break;
			}
		}
		if (count == 0 && next == n)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(backfills);
}

/* What became of a truck's backfill?  Those that failed go aboard again. */
static bool
take_result(TruckerStream *stream, TruckerMember *member, XLogRecPtr consistent_point)
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
		return false;
	}
	return true;
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
	static bool registered = false;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz retry_at = trucker_roster_next_retry(stream);
	List	   *members;
	XLogRecPtr	consistent_point;
	char	   *snapshot;
	bool		any = false;
	ListCell   *lc;

	if (!registered)
		before_shmem_exit(terminate_running, (Datum) 0);
	registered = true;
	terminate_running(0, (Datum) 0);

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
	record_slot(stream, members, trucker_slot_new_name());
	stream->replication = trucker_stream_connect(stream);
	trucker_replication_create_slot(stream->replication, stream->row->slot_name, false,
									trucker_stream_decoder, &consistent_point, &snapshot);
	ereport(LOG,
			(errmsg("stream \"%s\": replication slot \"%s\" created, backfill of %d trucks begins at %X/%X",
					stream->row->name, stream->row->slot_name, list_length(members),
					LSN_FORMAT_ARGS(consistent_point)), errhidecontext(true)));
	stream->confirmed = consistent_point;
	trucker_stop_point("slot created");
	run_backfills(members, snapshot, consistent_point);
	trucker_stop_point("backfilled");
	trucker_conn_close(stream->replication->conn);
	stream->replication = NULL;
	trucker_worker_set_walsender(0);

	foreach(lc, members)
		any |= take_result(stream, lfirst(lc), consistent_point);
	(void) trucker_roster_refresh(stream);
	return any;
}
