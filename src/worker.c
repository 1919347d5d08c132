/*
 * worker.c
 *	  The process that serves one stream: attempts, errors, pauses.
 *
 * A stream worker is a dynamic background worker that the launcher starts and
 * the postmaster never restarts.  It makes one attempt after another to follow
 * its truck's slot (stream.c).  An error ends the attempt and nothing else: it is
 * logged with its context, kept in trucker.truck_state, and after a pause, which
 * grows, the next attempt begins from the position.  The pause ends early when
 * somebody calls trucker.start() again.
 *
 * The road's PG_TRY is here, at the top.  (toast.c has one for a question whose
 * answer may be an error; elsewhere errors just pass.)
 *
 * A worker that shall end (stop, resync, a drop) is told so in shared memory, and
 * interrupted with SIGINT, as a query would be cancelled: it leaves in order, and
 * nothing alarming is logged.  SIGTERM, which kills it as it kills any backend, is
 * for whoever sends one, and for a worker whose SQL holds on in spite of SIGINT.
 */
#include "trucker.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "identity.h"
#include "shmem.h"
#include "stream.h"
#include "worker.h"

/* what trucker.status keeps of each part of an error, in bytes */
#define MAX_ERROR_TEXT 2000

/*
 * Fill in what all our processes have in common: they belong to a database (or,
 * the launcher, to none), and the postmaster starts them once.  Name and argument
 * are left to the caller.
 */
void
trucker_worker_describe(BackgroundWorker *worker, const char *function, const char *type)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "trucker", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
	strlcpy(worker->bgw_name, type, BGW_MAXLEN);
}

/* Register a worker for an entry of shared memory; false: no worker is free. */
bool
trucker_stream_register(int index, uint64 generation, const char *name,
						BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	trucker_worker_describe(&worker, "trucker_stream_main", "trucker stream");
	snprintf(worker.bgw_name, BGW_MAXLEN, "trucker stream %s", name);
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, &generation, sizeof(generation));
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* A message may be of any size; what is kept of it may not. */
static void
append_clipped(StringInfo text, const char *prefix, const char *message)
{
	int			len;

	if (message == NULL)
		return;
	len = pg_mbcliplen(message, strlen(message), MAX_ERROR_TEXT);
	appendStringInfoString(text, prefix);
	appendBinaryStringInfo(text, message, len);
	if (message[len] != '\0')
		appendStringInfoString(text, "...");
}

/* Remember the error where trucker.status shows it. */
static void
record_error(const TruckerStream *stream, const ErrorData *edata)
{
	StringInfoData text;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	initStringInfo(&text);
	appendStringInfo(&text, "%s: ", unpack_sql_state(edata->sqlerrcode));
	append_clipped(&text, "", edata->message);
	append_clipped(&text, "\nDETAIL: ", edata->detail);
	append_clipped(&text, "\nHINT: ", edata->hint);
	append_clipped(&text, "\nQUERY: ", edata->internalquery);
	append_clipped(&text, "\nCONTEXT: ", edata->context);
	trucker_truck_set_error(&stream->truck_id, text.data, stream->lost);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * The attempt has failed: clean up, and tell - unless the error is only how we
 * were told to end.  Called with the error still in place, in no particular
 * memory context.
 */
static void
handle_error(TruckerStream *stream)
{
	ErrorData  *edata;
	bool		ended;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(TopMemoryContext);
	edata = CopyErrorData();
	LWLockReleaseAll();
	ended = trucker_worker_must_end();
	if (!ended)
		EmitErrorReport();
	FlushErrorState();

	AbortOutOfAnyTransaction();
	trucker_identity_reset();
	if (stream->pipeline)
	{
		if (stream->pipeline->in_batch)
			stream->failed_lsn = Max(stream->failed_lsn, stream->pipeline->commit_lsn);
		trucker_pipeline_rollback(stream->pipeline);
	}
	/* closes the replication connection, frees all plans */
	MemoryContextReset(stream->context);
	stream->pipeline = NULL;
	stream->replication = NULL;
	trucker_worker_set_walsender(0);
	RESUME_INTERRUPTS();

	MemoryContextSwitchTo(stream->context);
	if (!ended)
		record_error(stream, edata);
	FreeErrorData(edata);
}

/* Wait for the time of the next attempt, or until somebody asks for it. */
static void
pause_before_retry(TruckerStream *stream)
{
	TimestampTz until;

	stream->failures++;
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), trucker_retry_delay(stream->failures, trucker_retry_max_delay));
	trucker_worker_set_retry(until);
	pgstat_report_activity(STATE_IDLE, NULL);

	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (left <= 0 || trucker_worker_poked() || trucker_worker_must_end())
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static void
error_context(void *arg)
{
	TruckerStream *stream = arg;

	if (stream->pipeline)
		trucker_pipeline_error_context(stream->pipeline);
}

/* One attempt; false: the truck shall not run. */
static bool
attempt(TruckerStream *stream)
{
	ErrorContextCallback callback;
	volatile bool wanted = true;

	callback.callback = error_context;
	callback.arg = stream;
	callback.previous = error_context_stack;

	PG_TRY();
	{
		error_context_stack = &callback;
		wanted = trucker_stream_follow(stream);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		/* PG_CATCH has put the error context stack back */
		handle_error(stream);
	}
	PG_END_TRY();
	return wanted;
}

/* bgworker entry point: the argument is the entry in shared memory. */
void
trucker_stream_main(Datum main_arg)
{
	TruckerWorkerInfo info;
	TruckerStream stream;
	uint64		generation;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	if (!trucker_worker_attach(DatumGetInt32(main_arg), generation, &info))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(info.database, InvalidOid, 0);
	trucker_identity_protect();
	pgstat_report_appname(psprintf(TRUCKER_APPLICATION_NAME, info.name));

	memset(&stream, 0, sizeof(stream));
	stream.truck_id = info.truck_id;
	stream.context = AllocSetContextCreate(TopMemoryContext, "trucker stream",
										   ALLOCSET_DEFAULT_SIZES);
	while (!stream.lost && !trucker_worker_must_end())
	{
		if (!attempt(&stream))
			stream.lost = true;
		else if (!stream.lost && !trucker_worker_must_end())
			pause_before_retry(&stream);
	}
	if (stream.lost)
		trucker_worker_give_up();
	ereport(LOG, (errmsg("worker of truck \"%s\" ends", info.name)));
	proc_exit(0);
}
