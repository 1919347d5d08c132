/*
 * probe.c
 *	  Look once into a database: which trucks shall run, which slots are left.
 *
 * The launcher belongs to no database, so it sends a short-lived worker into
 * each that it must know about.  The probe
 *	- lets go of trucks that DDL has made lost;
 *	- finds those that are lost because of their slots, or of the WAL that these keep
 *	  (judge.c);
 *	- reports the streams that shall have a worker to shared memory;
 *	- notes where the slots of those that rest stand, and lets these share slots
 *	  (gather.c);
 *	- drops streams without trucks, and replication slots that bear our name and that
 *	  no stream needs: of dropped trucks, of a dropped extension, of a start that a
 *	  crash cut short.
 * It runs at server start, whenever start(), stop() and the like have committed, and
 * when a slot keeps much WAL.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "budget.h"
#include "gather.h"
#include "identity.h"
#include "log.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "state.h"
#include "worker.h"

/* how long a walsender may take to notice that its worker has ended */
#define SLOT_WAIT_MS 10000

/*
 * Register a probe of a database; false: no worker is free.  InvalidOid: a probe
 * that ends at once, which tells whether there is a free worker.
 */
bool
trucker_probe_register(Oid database, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	trucker_worker_describe(&worker, "trucker_probe_main", "trucker probe");
	snprintf(worker.bgw_name, BGW_MAXLEN, "trucker probe of database %u", database);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * A worker has just ended, and its walsender will in a moment.  The launcher
 * waits for us, so we do not wait for a worker that it has yet to end; it sends
 * another probe after that.
 */
static void
wait_for_walsenders(List *slots)
{
	ListCell   *lc;

	foreach(lc, slots)
	{
		int			pid = trucker_slot_active_pid(lfirst(lc));

		if (pid > 0 && !trucker_is_walsender(pid))
			(void) trucker_slot_wait_inactive(lfirst(lc), SLOT_WAIT_MS);
	}
}

/*
 * Drop our slots that no stream needs.  Only a worker makes slots, and it commits
 * the name first; so a slot whose name is nowhere is nobody's.  The slots are
 * listed before the names are read: one that is made in between is not judged.
 */
static void
drop_orphans(List *slots, List *needed)
{
	ListCell   *lc;

	foreach(lc, slots)
	{
		if (trucker_slot_is_among(needed, lfirst(lc)))
			continue;

		if (trucker_slot_active_pid(lfirst(lc)) > 0)
		{
			/* if its worker is alive, its end will send the next probe */
			if (!trucker_is_walsender(trucker_slot_active_pid(lfirst(lc))))
				trucker_request_scan(MyDatabaseId);
			continue;
		}
		trucker_slot_drop(lfirst(lc));
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("dropped replication slot \"%s\", which no stream needs", (char *) lfirst(lc))));
	}
}

static void
report_wanted(List *streams)
{
	TruckerWanted *wanted = palloc0(Max(list_length(streams), 1) * sizeof(TruckerWanted));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, streams)
	{
		TruckerStreamRow *stream = lfirst(lc);

		wanted[n].stream_id = stream->id;
		strlcpy(wanted[n].name, stream->name, NAMEDATALEN);
		n++;
	}
	trucker_set_wanted(MyDatabaseId, wanted, n);
}

/*
 * Trucks that DDL has marked as lost ride on nowhere: their streams may have others to
 * carry, and hear of it only from us; or no worker at all.  On disk before a slot moves
 * on without them.
 */
static void
let_go_of_unreadable(MemoryContext context)
{
	List	   *trucks;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	trucks = trucker_state_unreadable_trucks();
	foreach(lc, trucks)
		trucker_state_set_lost(lfirst(lc));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (trucks == NIL)
		return;
	XLogFlush(XactLastCommitEnd);
	foreach(lc, trucks)
		trucker_signal_truck(MyDatabaseId, lfirst(lc), TRUCKER_RELOAD);
}

/*
 * Delete streams that carry no truck; their slots are orphans then.  A worker that
 * is making a catch-up stream has it empty for a moment; if it ends making it
 * after we listed the empty ones, the truck is seen aboard.
 */
static void
delete_empty_streams(MemoryContext context)
{
	List	   *empty;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	empty = trucker_state_empty_streams();
	PopActiveSnapshot();
	if (empty != NIL && !trucker_database_is_splitting(MyDatabaseId))
		foreach(lc, empty)
			trucker_state_delete_empty(&((TruckerStreamRow *) lfirst(lc))->id);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* What the probe is for. */
static void
look(MemoryContext context)
{
	List	   *slots;
	List	   *needed = NIL;
	List	   *streams = NIL;
	bool		installed;

	MemoryContextSwitchTo(context);
	slots = trucker_slots_of_database(MyDatabaseId, false);
	wait_for_walsenders(slots);

	StartTransactionCommand();
	installed = OidIsValid(get_extension_oid("trucker", true));
	CommitTransactionCommand();
	if (installed)
	{
		let_go_of_unreadable(context);
		trucker_judge(context);
		delete_empty_streams(context);
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(context);
		streams = trucker_state_wanted_streams();
		needed = trucker_state_slot_names();
		trucker_state_note_confirmed();
		trucker_publication_clean();
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
		if (trucker_gather(context))
			trucker_request_scan(MyDatabaseId);
	}
	report_wanted(streams);
	drop_orphans(slots, needed);
	trucker_probe_succeeded();
}

static void
ends(int code, Datum arg)
{
	trucker_probe_ends();
}

/*
 * bgworker entry point: the argument is the database's OID.  Who drops that, or the
 * extension in it, calls us off (shmem_probe.c).  That is no failure to be logged: if
 * it is not dropped after all, the launcher sends another probe.
 */
void
trucker_probe_main(Datum main_arg)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!OidIsValid(DatumGetObjectId(main_arg)))
		proc_exit(0);
	if (!trucker_probe_comes(DatumGetObjectId(main_arg)))
		proc_exit(0);
	before_shmem_exit(ends, (Datum) 0);

	PG_TRY();
	{
		BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg), InvalidOid, 0);
		trucker_identity_protect();
		look(AllocSetContextCreate(TopMemoryContext, "trucker probe", ALLOCSET_DEFAULT_SIZES));
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
