/*
 * backfill_worker.c
 *	  The process that makes one backfill.
 *
 * It is started by the worker of the truck's stream, which holds the connection
 * whose snapshot it imports, and ends after the one transaction.  An error is kept
 * where trucker.status shows it; the stream's worker sees in the catalog that no
 * position has come of it.
 */
#include "trucker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "backfill.h"
#include "identity.h"
#include "log.h"
#include "member.h"
#include "shmem.h"
#include "stream.h"
#include "worker.h"

/* What the process is told, in bgw_extra. */
typedef struct BackfillOrder
{
	pg_uuid_t	truck_id;
	int			entry;			/* in shared memory */
	pid_t		worker_pid;		/* who has ordered it */
	XLogRecPtr	consistent_point;
	char		snapshot[32];
	char		slot_name[48];
} BackfillOrder;

StaticAssertDecl(sizeof(BackfillOrder) <= BGW_EXTRALEN, "a backfill's order must fit");

/*
 * Register a backfill of a truck, under an exported snapshot and as of its LSN;
 * false: no worker is free.
 */
bool
trucker_backfill_register(int entry, const pg_uuid_t *truck_id, const char *name,
						  const char *snapshot, XLogRecPtr consistent_point, const char *slot_name,
						  BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;
	BackfillOrder order;

	memset(&order, 0, sizeof(order));
	order.truck_id = *truck_id;
	order.entry = entry;
	order.worker_pid = MyProcPid;
	order.consistent_point = consistent_point;
	if (strlcpy(order.snapshot, snapshot, sizeof(order.snapshot)) >= sizeof(order.snapshot) ||
		strlcpy(order.slot_name, slot_name, sizeof(order.slot_name)) >= sizeof(order.slot_name))
		elog(ERROR, "name of snapshot \"%s\" or slot \"%s\" is too long", snapshot, slot_name);

	trucker_worker_describe(&worker, "trucker_backfill_main", "trucker backfill");
	snprintf(worker.bgw_name, BGW_MAXLEN, "trucker backfill %s", name);
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	memcpy(worker.bgw_extra, &order, sizeof(order));
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

static void
error_context(void *arg)
{
	trucker_pipeline_error_context(arg);
}

/* Load the truck; NULL: there is nothing to do any more. */
static pg_noinline TruckerPipeline *
load(const BackfillOrder *order, MemoryContext context)
{
	TruckerPipeline *pipeline = NULL;
	TruckerTruck *truck;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	truck = trucker_truck_load(&order->truck_id);
	if (truck && truck->enabled && truck->needs_backfill && !truck->lost)
		pipeline = trucker_pipeline_create(truck, trucker_position_load(&truck->id, InvalidXLogRecPtr));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return pipeline;
}

static void
backfill(TruckerPipeline *pipeline, const BackfillOrder *order)
{
	ErrorContextCallback callback;

	callback.callback = error_context;
	callback.arg = pipeline;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	trucker_backfill(pipeline, order->snapshot, order->consistent_point, order->slot_name);
	error_context_stack = callback.previous;
	trucker_truck_set_backfilled(order->entry);
	ereport(trucker_elevel(TRUCKER_LOG_INFO), (errmsg("truck \"%s\": backfill committed", pipeline->truck->name)));
}

/* As in member.c, but that the process ends afterwards. */
static void
handle_error(const BackfillOrder *order, const TruckerPipeline *pipeline, MemoryContext context)
{
	ErrorData  *edata;
	TruckerTruckInfo info;
	int			more;

	HOLD_INTERRUPTS();
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	LWLockReleaseAll();
	if (trucker_truck_backfill_must_end(order->entry))
		proc_exit(0);
	FlushErrorState();
	trucker_stats_count(order->entry, TRUCKER_ERRORS, 1);
	if (trucker_truck_logs_failure(order->entry, trucker_failure_hash(edata, true), &more))
		trucker_log_error(edata, more);
	AbortOutOfAnyTransaction();
	trucker_identity_reset();
	RESUME_INTERRUPTS();

	trucker_truck_get_info(order->entry, &info);
	trucker_truck_count_backfill_failure(order->entry);
	MemoryContextSwitchTo(context);
	(void) trucker_record_error(pipeline->truck, edata, info.failures + 1, pipeline->lost);
}

/* bgworker entry point: the argument is the database's OID. */
void
trucker_backfill_main(Datum main_arg)
{
	MemoryContext context;
	TruckerPipeline *pipeline;
	BackfillOrder order;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	if (!trucker_truck_attach_backfill(order.entry, &order.truck_id, order.worker_pid))
		proc_exit(0);
	trucker_worker_connect(DatumGetObjectId(main_arg));
	trucker_identity_protect();

	context = AllocSetContextCreate(TopMemoryContext, "trucker backfill", ALLOCSET_DEFAULT_SIZES);
	pipeline = load(&order, context);
	if (pipeline == NULL)
		proc_exit(0);
	pipeline->count.entry = order.entry;
	pgstat_report_appname(psprintf(TRUCKER_APPLICATION_NAME, pipeline->truck->name));

	PG_TRY();
	{
		trucker_identity_init(pipeline->truck->role, pipeline->role_is_superuser);
		MemoryContextSwitchTo(context);
		backfill(pipeline, &order);
	}
	PG_CATCH();
	{
		handle_error(&order, pipeline, context);
	}
	PG_END_TRY();
	proc_exit(0);
}
