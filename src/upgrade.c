/*
 * upgrade.c
 *	  trucker.prepare_upgrade(): what must be done before pg_upgrade, and is it?
 *
 * Trucks are drained: brought to where nothing is left to apply, and no transaction runs
 * that could bring more.  A truck may write what another one reads, so that takes some
 * rounds.  What their input tables hold then is noted, and they are stopped, in the
 * caller's transaction; drained.c says what that is good for after pg_upgrade.
 *
 * Nobody is kept from writing.  Who does so later is found out on the new server.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api.h"
#include "check.h"
#include "checklist.h"
#include "drained.h"
#include "quarantine.h"
#include "shmem.h"
#include "slots.h"
#include "state.h"
#include "truck.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(trucker_prepare_upgrade);

/* how often to look whether the transactions have ended */
#define LOOK_MS 100

typedef struct Drain
{
	List	   *trucks;			/* TruckerTruck *: that run */
	TimestampTz deadline;
	char	   *timeout;

	/* what has come of it */
	MemoryContext context;
	XLogRecPtr	lsn;
	uint64		next_xid;
	List	   *tables;			/* of TruckerDrainedTable: all inputs */
} Drain;

static char *
join(List *texts)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, texts)
		appendStringInfo(&text, "%s%s", text.len ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

/* ----
 * Draining
 * ----
 */

/*
 * Wait until no transaction runs that could have written.  What they have left is in the
 * snapshot that is returned, and of no later one anything is.
 */
static Snapshot
wait_for_transactions(Drain *drain)
{
	Snapshot	snapshot;
	List	   *others;

	trucker_wait_progress_prepare();
	for (;;)
	{
		long		left;

		snapshot = RegisterSnapshot(GetLatestSnapshot());
		PushActiveSnapshot(snapshot);
		drain->next_xid = trucker_drained_next_xid(&others);
		PopActiveSnapshot();
		if (drain->next_xid != 0)
			break;
		UnregisterSnapshot(snapshot);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), drain->deadline);
		if (left <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("transactions that have written are still running"),
					 errdetail("After %s: %s.", drain->timeout, join(others)),
					 errhint("Stop the application, and let them end: SELECT pid, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL;  Prepared transactions are in pg_prepared_xacts.")));
		(void) trucker_wait_progress(Min(left, LOOK_MS));
		CHECK_FOR_INTERRUPTS();
	}
	trucker_wait_progress_end();
	return snapshot;
}

static void
wait_for_trucks(const Drain *drain, XLogRecPtr lsn)
{
	ListCell   *lc;

	foreach(lc, drain->trucks)
	{
		const TruckerTruck *truck = lfirst(lc);

		if (!trucker_wait_until(truck, lsn, drain->deadline))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("truck \"%s\" has not applied all that is committed", truck->name),
					 errdetail("It was waited for %s.", drain->timeout),
					 errhint("trucker.status says what it does and waits for.  Give it more time: SELECT * FROM trucker.prepare_upgrade('10 min');")));
	}
}

static bool
is_known(List *tables, Oid relid)
{
	ListCell   *lc;

	foreach(lc, tables)
		if (((TruckerDrainedTable *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

/*
 * What do the inputs hold as of the snapshot?  Returns the name of one that has been
 * written since, or NULL.  Whatever that was, the trucks need not have it.
 */
static char *
look_at_inputs(Drain *drain, Snapshot snapshot)
{
	char	   *written = NULL;
	ListCell   *lc;

	drain->tables = NIL;
	foreach(lc, drain->trucks)
	{
		const TruckerTruck *truck = lfirst(lc);

		for (int i = 0; i < truck->ninputs && written == NULL; i++)
		{
			TruckerDrainedTable *then;
			TruckerDrainedTable *now;

			if (is_known(drain->tables, truck->inputs[i]))
				continue;
			PushActiveSnapshot(snapshot);
			then = trucker_drained_look(truck->inputs[i], drain->next_xid);
			PopActiveSnapshot();
			PushActiveSnapshot(GetLatestSnapshot());
			now = trucker_drained_look(truck->inputs[i], drain->next_xid);
			PopActiveSnapshot();
			if (then && now && (now->is_newer || now->nrows != then->nrows))
				written = get_rel_name(now->relid);
			if (then)
				drain->tables = lappend(drain->tables, then);
		}
	}
	return written;
}

static const char *
drain_all(TruckerChecklist *list, void *arg)
{
	Drain	   *drain = arg;
	char	   *written = NULL;

	if (drain->trucks == NIL)
		return "no truck runs";
	/* each round, one more step of a cascade has come to its end */
	for (int round = 0; round <= list_length(drain->trucks); round++)
	{
		Snapshot	snapshot = wait_for_transactions(drain);
		MemoryContext old;

		drain->lsn = trucker_flushed_now();
		wait_for_trucks(drain, drain->lsn);
		trucker_stop_point("upgrade: applied");
		old = MemoryContextSwitchTo(drain->context);
		written = look_at_inputs(drain, snapshot);
		MemoryContextSwitchTo(old);
		UnregisterSnapshot(snapshot);
		if (written == NULL)
			return psprintf("all that is committed before %X/%X is applied", LSN_FORMAT_ARGS(drain->lsn));
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("table %s is still being written", written),
			 errhint("Stop the application, or let nobody write: ALTER DATABASE %s SET default_transaction_read_only = on; and end its sessions.  The setting goes with pg_upgrade: reset it afterwards.",
					 quote_identifier(get_database_name(MyDatabaseId)))));
}

/* ----
 * Trucks
 * ----
 */

/* A truck that cannot be, or need not be, drained now. */
static const char *
check_resting(TruckerChecklist *list, void *arg)
{
	const TruckerTruck *truck = arg;
	XLogRecPtr	lsn = truck->drained_on == GetSystemIdentifier() ? trucker_drained_lsn(truck) : InvalidXLogRecPtr;
	const char *trouble;

	if (truck->lost)
		trucker_check_not_lost(truck, ERROR);
	if (truck->needs_backfill)
		return "it has not been loaded: start it after pg_upgrade";
	if (XLogRecPtrIsInvalid(lsn))
		trucker_check_can_progress(truck->name);
	trouble = trucker_drained_trouble(truck);
	if (trouble)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" is not drained any more: %s", truck->name, trouble),
				 errhint("SELECT trucker.start(%s); and call trucker.prepare_upgrade() again.", quote_literal_cstr(truck->name))));
	return psprintf("drained at %X/%X, and stopped; after pg_upgrade: SELECT trucker.start(%s);",
					LSN_FORMAT_ARGS(lsn), quote_literal_cstr(truck->name));
}

typedef struct Stop
{
	const Drain *drain;
	const TruckerTruck *truck;
} Stop;

/* A truck that has been drained: note it, and stop it. */
static const char *
record_and_stop(TruckerChecklist *list, void *arg)
{
	const Stop *stop = arg;
	const TruckerTruck *truck = stop->truck;
	const TruckerTruck *now = trucker_truck_lock(&truck->id) ? trucker_truck_load(&truck->id) : NULL;

	if (now == NULL || strcmp(now->version, truck->version) != 0 || !now->enabled || now->lost || now->needs_backfill)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("truck \"%s\" was altered, stopped or dropped meanwhile", truck->name),
				 errhint("Call trucker.prepare_upgrade() again.")));
	trucker_drained_record(truck, stop->drain->lsn, stop->drain->next_xid, stop->drain->tables);
	trucker_state_set_enabled(&truck->id, false);
	trucker_at_commit_signal(&truck->id, TRUCKER_RELOAD);
	return psprintf("drained at %X/%X, and stopped; after pg_upgrade: SELECT trucker.start(%s);",
					LSN_FORMAT_ARGS(stop->drain->lsn), quote_literal_cstr(truck->name));
}

/* What is in quarantine would be forgotten. */
static const char *
check_quarantine(TruckerChecklist *list, void *arg)
{
	const TruckerTruck *truck = arg;

	if (trucker_quarantine_load(&truck->id)->held != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" has changes in quarantine", truck->name),
				 errhint("Decide about them first: trucker.retry_quarantined(), or trucker.discard_quarantined().")));
	return NULL;
}

/* ----
 * The server
 * ----
 */

/* Do trucks of other databases run? */
static const char *
check_other_databases(TruckerChecklist *list, void *arg)
{
	List	   *names = NIL;

	for (int i = 0; i < max_replication_slots; i++)
	{
		TruckerSlotInfo info;

		if (!trucker_slot_get(i, &info) || info.database == MyDatabaseId || info.active_pid == 0)
			continue;
		names = lappend(names, psprintf("\"%s\"", get_database_name(info.database)));
	}
	if (names != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("trucks run in other databases, too: %s", join(names)),
				 errhint("Call trucker.prepare_upgrade() there as well.")));
	return "none runs";
}

static const char *
tell_new_server(TruckerChecklist *list, void *arg)
{
	trucker_checklist_warn(list, "it must have trucker's files, shared_preload_libraries = 'trucker', wal_level = logical and the other settings of this one",
						   NULL, "pg_upgrade does not copy postgresql.conf and pg_hba.conf.  Replication slots are not needed: trucks that were drained get new ones.");
	return NULL;
}

static const char *
tell_afterwards(TruckerChecklist *list, void *arg)
{
	trucker_checklist_warn(list, "write nothing to input tables until pg_upgrade is done and the trucks are started; a truck whose input was written is lost, and says so",
						   NULL, "SELECT trucker.start() on the new server, then let the application in.  If you stay on this one: SELECT trucker.start(), too.");
	return NULL;
}

/* prepare_upgrade(timeout) */
Datum
trucker_prepare_upgrade(PG_FUNCTION_ARGS)
{
	Drain		drain = {NIL, 0, NULL, CurrentMemoryContext, InvalidXLogRecPtr, 0, NIL};
	TruckerChecklist *list;
	List	   *resting = NIL;
	ListCell   *lc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" of %s must not be null", "timeout", "prepare_upgrade")));
	trucker_check_can_wait("prepare_upgrade", "Its own changes could not be applied before it ends.");
	drain.timeout = DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(0)));
	drain.deadline = trucker_deadline(PG_GETARG_INTERVAL_P(0), "prepare_upgrade");
	InitMaterializedSRF(fcinfo, 0);
	list = trucker_checklist_create((ReturnSetInfo *) fcinfo->resultinfo);
	foreach(lc, trucker_truck_own_names())
	{
		TruckerTruck *truck = trucker_truck_get(lfirst(lc));
		bool		runs = truck->enabled && !truck->failed && !truck->lost;

		if (!trucker_checklist_run(list, psprintf("truck \"%s\": quarantine", truck->name), check_quarantine, truck))
			continue;
		if (runs)
			drain.trucks = lappend(drain.trucks, truck);
		else
			resting = lappend(resting, truck);
	}
	if (trucker_checklist_run(list, "everything is applied", drain_all, &drain))
		foreach(lc, drain.trucks)
		{
			Stop		stop = {&drain, lfirst(lc)};

			(void) trucker_checklist_run(list, psprintf("truck \"%s\"", stop.truck->name), record_and_stop, &stop);
		}
	foreach(lc, resting)
		(void) trucker_checklist_run(list, psprintf("truck \"%s\"", ((TruckerTruck *) lfirst(lc))->name), check_resting, lfirst(lc));
	(void) trucker_checklist_run(list, "other databases", check_other_databases, NULL);
	(void) trucker_checklist_run(list, "the new server", tell_new_server, NULL);
	(void) trucker_checklist_run(list, "afterwards", tell_afterwards, NULL);
	trucker_at_commit_scan();
	return (Datum) 0;
}
