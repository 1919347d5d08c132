/*
 * launcher.c
 *	  Start and end the stream workers.
 *
 * A static background worker that belongs to no database.  It sleeps until its
 * latch is set: by a request to look into a database (at server start: into
 * all), by a worker that has ended, or by a worker slot's change in shared
 * memory.  Then it
 *	- sends a probe into each database asked for, one at a time, and again if it
 *	  fails;
 *	- looks, every few seconds, how much WAL the slots keep (budget.c);
 *	- ends the workers of trucks that shall not run any more;
 *	- starts those of trucks that shall, one process each.
 * A worker that ends by itself is started again: at once the first time, then
 * after pauses that grow.
 *
 * The launcher keeps nothing that it could not find out again, so an error may
 * end it; the postmaster starts it anew.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "log.h"
#include "scratch.h"
#include "shmem.h"
#include "wait.h"
#include "worker.h"

#define LAUNCHER_RESTART_S 1
#define NO_WORKER_RETRY_MS 2000
#define PROBE_RETRY_MS 2000
#define MAX_RELAUNCH_DELAY_MS 30000

/* Databases (Oid) that a probe is to be sent into, and the one that is under way. */
static List *to_probe = NIL;
static BackgroundWorkerHandle *probe_handle = NULL;
static Oid	probed = InvalidOid;
static TimestampTz next_probe_at = 0;
static bool probe_is_stuck = false;

/* There are databases of tests that nobody drops. */
static bool found_leftovers = false;

/* Handles of the workers that this launcher has registered, by index. */
static BackgroundWorkerHandle **handles;

/* Called while preloading. */
void
trucker_launcher_register(void)
{
	BackgroundWorker worker;

	trucker_worker_describe(&worker, "trucker_launcher_main", "trucker launcher");
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	RegisterBackgroundWorker(&worker);
}

/* ----
 * Probes
 * ----
 */

/* The databases (Oid) that one can connect to. */
static List *
list_databases(MemoryContext context)
{
	List	   *databases = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (database->datistemplate || !database->datallowconn)
			continue;
		/* left by a crash: it is to be dropped, not looked into, which would start its trucks */
		if (trucker_scratch_is_leftover(NameStr(database->datname)))
		{
			found_leftovers = true;
			continue;
		}
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/*
 * Databases of tests that a crash has left are dropped once, at our start.  Should no
 * worker be free, the next test drops them.
 */
static void
drop_leftovers(MemoryContext scratch)
{
	List	   *databases = list_databases(scratch);
	BackgroundWorkerHandle *handle;

	if (found_leftovers && databases != NIL)
		(void) trucker_scratch_keeper_register(linitial_oid(databases), "", 0, &handle);
}

/* Take over all requests. */
static void
take_requests(MemoryContext scratch)
{
	Oid			database;

	while (trucker_take_scan_request(&database))
	{
		List	   *databases = list_databases(scratch);
		MemoryContext old;

		/* a request may be about a database that has just been dropped */
		if (OidIsValid(database))
			databases = list_member_oid(databases, database) ? list_make1_oid(database) : NIL;
		old = MemoryContextSwitchTo(TopMemoryContext);
		to_probe = list_concat_unique_oid(to_probe, databases);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Has the probe that was sent last ended?  One that failed is sent again, after
 * a pause, unless its database is gone.
 */
static bool
probe_has_ended(MemoryContext scratch)
{
	pid_t		pid;

	if (probe_handle == NULL)
		return true;
	switch (GetBackgroundWorkerPid(probe_handle, &pid))
	{
		case BGWH_NOT_YET_STARTED:
		case BGWH_STARTED:
			return false;
		default:
			break;
	}
	pfree(probe_handle);
	probe_handle = NULL;
	if (!trucker_probe_has_succeeded() &&
		list_member_oid(list_databases(scratch), probed))
	{
		trucker_request_scan(probed);
		next_probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PROBE_RETRY_MS);
	}
	return true;
}

/*
 * Send the next probe, if there is one to send: one at a time, without waiting
 * for it, so that one that hangs on a lock holds up only other probes.  Returns
 * the milliseconds to wait before calling again, or -1 for no limit.
 */
static long
send_probe(MemoryContext scratch)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!probe_has_ended(scratch))
		return -1;
	take_requests(scratch);
	if (to_probe == NIL)
		return -1;
	if (next_probe_at > now)
		return TimestampDifferenceMilliseconds(now, next_probe_at) + 1;

	probed = linitial_oid(to_probe);
	/* it may have waited here for others, and have been dropped meanwhile */
	if (list_member_oid(list_databases(scratch), probed) && trucker_probe_begins(probed))
	{
		bool		registered;

		/* the handle must outlive the scratch context */
		MemoryContextSwitchTo(TopMemoryContext);
		registered = trucker_probe_register(probed, &probe_handle);
		MemoryContextSwitchTo(scratch);
		if (!registered)
		{
			probe_handle = NULL;
			if (!probe_is_stuck)
				ereport(trucker_elevel(TRUCKER_LOG_WARN),
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("could not look into database %u: no background worker is free", probed),
						 errhint("Raise max_worker_processes.")));
			probe_is_stuck = true;
			next_probe_at = TimestampTzPlusMilliseconds(now, PROBE_RETRY_MS);
			return PROBE_RETRY_MS;
		}
	}
	probe_is_stuck = false;
	to_probe = list_delete_first(to_probe);
	return to_probe == NIL ? -1 : 0;
}

/* ----
 * Workers
 * ----
 */

/* Has a registered worker neither started nor ended yet? */
static bool
is_pending(int index)
{
	pid_t		pid;

	if (handles[index] == NULL)
		return false;
	switch (GetBackgroundWorkerPid(handles[index], &pid))
	{
		case BGWH_NOT_YET_STARTED:
		case BGWH_STARTED:
			return true;
		default:
			pfree(handles[index]);
			handles[index] = NULL;
			return false;
	}
}

/*
 * Start the worker of an entry, if it is time to.  Returns the milliseconds to
 * wait before looking at it again, or -1 for no limit.
 */
static long
start_worker(const TruckerWorkerInfo *info)
{
	TimestampTz now = GetCurrentTimestamp();
	int			delay = info->quick_exits == 0 ? 0 :
		trucker_retry_delay(info->quick_exits, MAX_RELAUNCH_DELAY_MS);

	if (trucker_database_closing(info->database))
		return -1;
	if (delay > 0 && info->launch_after == 0)
	{
		trucker_worker_set_launch(info->index, info->generation,
								  TimestampTzPlusMilliseconds(now, delay),
								  info->waits_for_worker);
		return delay;
	}
	if (info->launch_after > now)
		return TimestampDifferenceMilliseconds(now, info->launch_after) + 1;

	if (!trucker_stream_register(info->index, info->generation, info->name, &handles[info->index]))
	{
		handles[info->index] = NULL;
		if (!info->waits_for_worker)
			ereport(trucker_elevel(TRUCKER_LOG_WARN),
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not start the worker of stream \"%s\": no background worker is free", info->name),
					 errhint("Raise max_worker_processes.")));
		trucker_worker_set_launch(info->index, info->generation,
								  TimestampTzPlusMilliseconds(now, NO_WORKER_RETRY_MS), true);
		return NO_WORKER_RETRY_MS;
	}
	trucker_worker_launched(info->index, info->generation);
	return -1;
}

/* Bring what runs in line with what shall run; returns as start_worker does. */
static long
tend_workers(void)
{
	long		wait = trucker_interrupt_workers();

	for (int i = 0; i < trucker_worker_count(); i++)
	{
		TruckerWorkerInfo info;
		long		this_wait = -1;

		if (!trucker_get_worker(i, &info))
			continue;
		if (info.pid != 0)
		{
			if (!info.wanted)
			{
				trucker_worker_terminate(i, info.generation);
				this_wait = TRUCKER_END_PATIENCE_MS;
			}
		}
		else if (is_pending(i))
			continue;			/* we are told when it starts and when it ends */
		else if (!info.wanted)
		{
			/* its slot may be nobody's now: let a probe see to that */
			if (trucker_worker_forget(i, info.generation))
				trucker_request_scan(info.database);
		}
		else
			this_wait = start_worker(&info);
		if (this_wait >= 0 && (wait < 0 || this_wait < wait))
			wait = this_wait;
	}
	return wait;
}

/* bgworker entry point. */
void
trucker_launcher_main(Datum main_arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	/* before anybody can have moved one */
	trucker_slots_take_down();
	BackgroundWorkerUnblockSignals();
	trucker_worker_connect(InvalidOid);
	pgstat_report_appname("trucker launcher");

	handles = MemoryContextAllocZero(TopMemoryContext,
									 trucker_worker_count() * sizeof(BackgroundWorkerHandle *));
	context = AllocSetContextCreate(TopMemoryContext, "trucker launcher", ALLOCSET_DEFAULT_SIZES);
	trucker_launcher_attach();
	drop_leftovers(context);
	trucker_request_scan(InvalidOid);

	for (;;)
	{
		long		wait;
		long		probe_wait;
		long		budget_wait;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextSwitchTo(context);
		budget_wait = trucker_budget_look();
		probe_wait = send_probe(context);
		MemoryContextSwitchTo(TopMemoryContext);
		wait = tend_workers();
		MemoryContextReset(context);
		if (probe_wait >= 0 && (wait < 0 || wait > probe_wait))
			wait = probe_wait;
		if (budget_wait >= 0 && (wait < 0 || wait > budget_wait))
			wait = budget_wait;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait >= 0 ? WL_TIMEOUT : 0),
						 wait, trucker_wait(TRUCKER_WAIT_LAUNCHER));
	}
}
