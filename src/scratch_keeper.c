/*
 * scratch_keeper.c
 *	  The process that drops the databases of a test, whatever becomes of the test.
 *
 * A backend whose statement fails, or is cancelled, cannot run DROP DATABASE any more: it
 * is in an aborted transaction, and may be about to end.  So whoever makes databases for a
 * while (scratch.c) starts a keeper first.  It waits until the other one lets go of the
 * memory that both share, which happens at any end of its transaction, and then drops
 * the databases that bear the token.
 *
 * A keeper that is terminated, or goes down with the server, leaves them.  The launcher
 * sends one with an empty token at the server's start, before any of them is looked into:
 * that one drops all there are.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "log.h"
#include "scratch.h"
#include "wait.h"
#include "worker.h"

/* somebody may have just begun to connect, or be hard to end */
#define ATTEMPTS 30
#define PAUSE_MS 1000

/* What the keeper is told, in bgw_extra. */
typedef struct Order
{
	char		token[32];		/* "": all databases of tests */
	uint32		segment;		/* 0: nobody is to be waited for */
} Order;

/* What pg_stat_activity calls the keeper of these databases. */
char *
trucker_scratch_keeper_type(const char *token)
{
	return psprintf("trucker tests %s", token);
}

/* A database of a test that has no keeper (any more).  In a transaction. */
bool
trucker_scratch_is_leftover(const char *name)
{
	char	   *type;

	if (!trucker_scratch_is_name(name))
		return false;
	type = trucker_scratch_keeper_type(pnstrdup(name + strlen(TRUCKER_SCRATCH_PREFIX), TRUCKER_SCRATCH_TOKEN));
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		LocalPgBackendStatus *entry = pgstat_fetch_stat_local_beentry(i);
		const char *found = entry && entry->backendStatus.st_procpid > 0 ?
			GetBackgroundWorkerTypeByPid(entry->backendStatus.st_procpid) : NULL;

		if (found && strcmp(found, type) == 0)
			return false;
	}
	return true;
}

/* False: no worker is free. */
bool
trucker_scratch_keeper_register(Oid database, const char *token, uint32 segment, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;
	Order		order = {.segment = segment};

	trucker_worker_describe(&worker, "trucker_scratch_keeper_main", trucker_scratch_keeper_type(token));
	strlcpy(order.token, token, sizeof(order.token));
	memcpy(worker.bgw_extra, &order, sizeof(order));
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* Until the other one has let go of the segment. */
static void
wait_for_end(uint32 handle)
{
	dsm_segment *segment = handle ? dsm_attach(handle) : NULL;
	shm_mq	   *queue;
	shm_mq_handle *mq;
	Size		len;
	void	   *data;

	if (segment == NULL)
		return;
	queue = dsm_segment_address(segment);
	shm_mq_set_receiver(queue, MyProc);
	mq = shm_mq_attach(queue, segment, NULL);
	(void) shm_mq_receive(mq, &len, &data, false);
	dsm_detach(segment);
}

/* The names of the databases with this token, in the given context. */
static List *
list_scratch(const char *token, MemoryContext context)
{
	char	   *prefix = psprintf("%s%s", TRUCKER_SCRATCH_PREFIX, token);
	List	   *names = NIL;
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		char	   *name = NameStr(((Form_pg_database) GETSTRUCT(tuple))->datname);
		MemoryContext old;

		if (!trucker_scratch_is_name(name) || strncmp(name, prefix, strlen(prefix)) != 0)
			continue;
		/* should it be the launcher alone that has begun anew, others' tests go on */
		if (token[0] == '\0' && !trucker_scratch_is_leftover(name))
			continue;
		old = MemoryContextSwitchTo(context);
		names = lappend(names, pstrdup(name));
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return names;
}

/* Drop them all.  Each in a transaction of its own, as DROP DATABASE must be. */
static void
drop_all(const char *token, MemoryContext context)
{
	List	   *names;
	ListCell   *lc;

	StartTransactionCommand();
	names = list_scratch(token, context);
	CommitTransactionCommand();
	foreach(lc, names)
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		dropdb(lfirst(lc), true, true);
		PopActiveSnapshot();
		CommitTransactionCommand();
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("dropped database \"%s\", which a test has left", (char *) lfirst(lc))));
	}
}

/* True if there is nothing left to drop. */
static bool
try_to_drop(const char *token, MemoryContext context)
{
	volatile bool done = true;

	PG_TRY();
	{
		drop_all(token, context);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		AbortOutOfAnyTransaction();
		EmitErrorReport();
		FlushErrorState();
		RESUME_INTERRUPTS();
		done = false;
	}
	PG_END_TRY();
	return done;
}

/* bgworker entry point: the argument is a database to connect to, which is not one of those. */
void
trucker_scratch_keeper_main(Datum main_arg)
{
	Order		order;
	MemoryContext context;

	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg), InvalidOid, 0);
	pgstat_report_appname("trucker tests");
	context = AllocSetContextCreate(TopMemoryContext, "trucker tests", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	wait_for_end(order.segment);
	for (int i = 0; i < ATTEMPTS; i++)
	{
		/* what the other one has begun may come to its end after it */
		bool		done = try_to_drop(order.token, context);

		if (done && (i > 0 || order.segment == 0))
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, PAUSE_MS, trucker_wait(TRUCKER_WAIT_TEST));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	proc_exit(0);
}
