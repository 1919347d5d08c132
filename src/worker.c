/*
 * worker.c
 *	  The process that serves one stream: attempts, errors, pauses.
 *
 * A stream worker is a dynamic background worker that the launcher starts and
 * the postmaster never restarts.  It makes one attempt after another to follow
 * its stream's slot (stream.c).  Errors of a truck are that truck's (member.c); an
 * error of the stream itself, such as a lost replication connection, ends the
 * attempt and nothing else: it is logged, shown as each of its trucks' last error, and
 * after a pause, which grows, the next attempt begins from the positions.  The
 * pause ends early when somebody calls trucker.start() again.
 *
 * A worker that shall end (its last truck is stopped, a drop) is told so in shared
 * memory, and interrupted with SIGINT, as a query would be cancelled: it leaves in
 * order, and nothing alarming is logged.  SIGTERM, which kills it as it kills any backend, is
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
#include "log.h"
#include "shmem.h"
#include "stream.h"
#include "wait.h"
#include "worker.h"

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

/*
 * What all our lasting processes do first.  The server makes a background worker ignore
 * SIGHUP while it starts, so a reload in that moment would pass it by for good: the file
 * is read once more.  Who drops the database, and has it locked, or the extension in it may
 * call us off already: that is no failure to be logged.
 */
void
trucker_worker_connect(Oid database)
{
	PG_TRY();
	{
		BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		proc_exit(0);
	}
	PG_END_TRY();
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
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

/*
 * The attempt has failed: clean up, and tell - unless the error is only how we
 * were told to end.  Called with the error still in place, in no particular
 * memory context.
 */
static void
handle_error(TruckerStream *stream)
{
	bool		ended;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(TopMemoryContext);
	LWLockReleaseAll();
	ended = trucker_worker_was_cancelled();
	ended |= trucker_worker_was_hurried();
	ended |= trucker_worker_must_end();
	AbortOutOfAnyTransaction();
	trucker_identity_reset();
	if (!ended)
	{
		ErrorData  *edata;
		int			more;

		MemoryContextSwitchTo(stream->context);
		edata = CopyErrorData();
		FlushErrorState();
		if (trucker_repeats_log(&stream->repeats, trucker_failure_hash(edata, true), &more))
			trucker_log_error(edata, more);
		stream->failures++;
		trucker_stats_count_stream(TRUCKER_STREAM_ERRORS, 1);
		/* so says a type's function for its binary form of what it holds, of a column perhaps that is no more */
		stream->as_text |= edata->sqlerrcode == ERRCODE_UNDEFINED_FUNCTION;
		stream->next_attempt_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															  trucker_retry_delay(stream->failures, trucker_retry_max_delay));
		RESUME_INTERRUPTS();
		trucker_roster_record_error(stream, edata);
	}
	else
	{
		FlushErrorState();
		stream->next_attempt_at = 0;
		RESUME_INTERRUPTS();
	}
	trucker_stream_abandon(stream);
	MemoryContextSwitchTo(stream->context);
}

/* Wait for the time of the next attempt, or until somebody asks for it. */
static void
pause_before_retry(TruckerStream *stream)
{
	TimestampTz until = stream->next_attempt_at;

	pgstat_report_activity(STATE_IDLE, NULL);

	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		/* there is nothing to cancel; why we were interrupted is asked below */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (left <= 0 || trucker_worker_poked() || trucker_worker_must_end())
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, trucker_wait(TRUCKER_WAIT_RETRY));
		ResetLatch(MyLatch);
	}
}

/* One attempt; false: no truck of the stream shall run. */
static bool
attempt(TruckerStream *stream)
{
	volatile bool wanted = true;

	PG_TRY();
	{
		wanted = trucker_stream_follow(stream) == TRUCKER_AGAIN;
		trucker_stream_abandon(stream);
	}
	PG_CATCH();
	{
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
	trucker_worker_connect(info.database);
	trucker_identity_protect();
	pgstat_report_appname(psprintf(TRUCKER_APPLICATION_NAME, info.name));

	trucker_stats_attach_stream(&info.stream_id);
	trucker_member_init();

	memset(&stream, 0, sizeof(stream));
	stream.id = info.stream_id;
	stream.context = AllocSetContextCreate(TopMemoryContext, "trucker stream",
										   ALLOCSET_DEFAULT_SIZES);
	while (!trucker_worker_must_end())
	{
		if (!attempt(&stream))
		{
			trucker_worker_give_up();
			break;
		}
		if (!trucker_worker_must_end())
			pause_before_retry(&stream);
	}
	/* we are ending already: what else we are told comes too late */
	HOLD_INTERRUPTS();
	ereport(trucker_elevel(TRUCKER_LOG_WARN), (errmsg("worker of stream \"%s\" ends", info.name)));
	proc_exit(0);
}
