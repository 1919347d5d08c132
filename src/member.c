/*
 * member.c
 *	  One truck on the stream that carries it: its errors are its own.
 *
 * Whatever a truck's SQL raises ends that truck's transaction and nothing else:
 * trucker_member_try() catches it, rolls back, keeps the error where
 * trucker.status shows it, and sets the truck aside.  The stream goes on with the
 * others.  What then becomes of the one is decided in transition.c.
 *
 * Among others a truck has limited time (trucker.max_truck_delay) for one step:
 * one that waits for a lock, or has a huge transaction to apply, must not hold up
 * the rest.  It is set aside like one that has failed, and given twice the time
 * when it is tried again.  Alone it has all the time, until others come whom the
 * worker cannot take over because of it.
 *
 * With on_error = "quarantine" a source transaction that fails is tried once more by
 * itself, like any other one after an error; when that fails, too, the truck is not
 * set aside, but has a culprit, which its stream is to put into quarantine (apply.c).
 * Errors that no source transaction is to blame for (rights on an input, a backfill,
 * the quarantine itself) are counted as they are with "retry".
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "identity.h"
#include "log.h"
#include "member.h"
#include "shmem.h"
#include "stream.h"

/* what trucker.status keeps of each part of an error, in bytes */
#define MAX_ERROR_TEXT 2000
/* a truck's time is doubled at most so often */
#define MAX_PATIENCE 20
/* and halved at most so often */
#define MAX_HURRY 4

static TimeoutId delay_timeout;
static volatile sig_atomic_t delay_is_over = false;

/* the entry of the truck whose turn it is, or -1 */
static int	executing = -1;

/* how many trucks have run out of time since it was nobody's turn */
static int	overruns = 0;

static void
delay_handler(void)
{
	delay_is_over = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* Once, when the worker starts. */
void
trucker_member_init(void)
{
	delay_timeout = RegisterTimeout(USER_TIMEOUT, delay_handler);
}

/*
 * A truck that is carried now; NULL: it has been dropped, or reset, since it was
 * listed.  slot_lsn is up to where the stream's slot is confirmed: the truck has
 * applied all before; published, that the stream sends what publications hold.  In a transaction; the member is a child of the current memory
 * context.  What this process has committed must have been flushed: the position that
 * is read here counts as durable.
 */
TruckerMember *
trucker_member_create(const TruckerTruck *truck, XLogRecPtr slot_lsn, bool published)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker member",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TruckerMember *member = palloc0(sizeof(TruckerMember));
	TruckerTruckInfo info;

	member->context = context;
	member->truck_id = truck->id;
	/* first: what the catalog says from now on, we are told */
	member->entry = trucker_truck_attach(&truck->id);
	if (member->entry < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more than %d trucks shall run", trucker_max_trucks),
				 errhint("Raise trucker.max_trucks, and restart the server.")));
	member->truck = trucker_truck_load(&truck->id);
	if (member->truck == NULL || !member->truck->has_stream ||
		memcmp(&member->truck->stream_id, &truck->stream_id, sizeof(pg_uuid_t)) != 0)
	{
		MemoryContextSwitchTo(old);
		trucker_member_free(member);
		return NULL;
	}
	member->tidies = !published;
	if (published && (member->former = trucker_former_load(member->truck)) != NULL && member->former->in_force)
		member->truck = member->former->truck;
	trucker_truck_get_info(member->entry, &info);
	member->failures = info.failures;
	member->failed_lsn = info.failed_lsn;
	member->retry_at = info.next_retry_at;
	if (!member->truck->enabled)
		trucker_truck_set_state(member->entry, TRUCKER_RESTING);
	else if (member->failures > 0 && member->retry_at > GetCurrentTimestamp())
		trucker_truck_set_state(member->entry, TRUCKER_RETRYING);

	member->position = trucker_position_load(&truck->id, member->truck->applied_lsn);
	if (member->position->exists)
		member->position->durable = Max(member->position->durable, slot_lsn);
	trucker_member_read_names(member);
	member->load_at = GetFlushRecPtr(NULL);
	member->pipeline = trucker_pipeline_create(member->truck, member->position);
	member->pipeline->quarantine = trucker_quarantine_load(&truck->id);
	member->pipeline->count.entry = member->entry;
	MemoryContextSwitchTo(old);
	return member;
}

/* What the inputs are called.  In a transaction. */
void
trucker_member_read_names(TruckerMember *member)
{
	MemoryContext old;

	/* each DDL on an input has them read once more */
	member->names = NIL;
	member->unloaded = NIL;
	if (member->names_context == NULL)
		member->names_context = AllocSetContextCreate(member->context, "trucker input names", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(member->names_context);
	old = MemoryContextSwitchTo(member->names_context);
	member->names = trucker_state_input_names(&member->truck_id, &member->names_before);
	member->unloaded = member->truck->needs_backfill ? NIL :
		trucker_tables_unloaded(member->truck, &member->names);
	MemoryContextSwitchTo(old);
}

/*
 * This transaction has altered inputs (Oid), and commits at commit_lsn: must the names
 * be read again before it is applied?
 */
bool
trucker_member_heeds_ddl(const TruckerMember *member, uint64 xid, const List *relids, XLogRecPtr commit_lsn)
{
	bool		reads = false;
	ListCell   *lc;

	foreach(lc, member->names)
	{
		const TruckerInputName *name = lfirst(lc);

		if (name->named_by == xid && XLogRecPtrIsInvalid(name->commit_lsn))
			return true;		/* it must be noted where it commits */
		reads |= list_member_oid(relids, name->relid);
	}
	return reads && xid >= member->names_before && commit_lsn > member->names_lsn;
}

/* Not in a batch. */
void
trucker_member_free(TruckerMember *member)
{
	trucker_truck_detach(member->entry);
	MemoryContextDelete(member->context);
}

bool
trucker_member_shall_run(const TruckerMember *member)
{
	return member->truck->enabled && !member->truck->lost && !member->lost && !member->gone;
}

void
trucker_member_raise_lost(TruckerMember *member, const char *why)
{
	member->lost = true;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("truck \"%s\" cannot go on: %s", member->truck->name, why),
			 errdetail("Changes would be skipped or applied twice if it did."),
			 errhint("SELECT trucker.resync(%s) loads the destination anew.",
					 quote_literal_cstr(member->truck->name))));
}

/* ----
 * Errors
 * ----
 */

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

/* Errors that may go away by themselves: connections, concurrency, resources, operators. */
static bool
is_transient(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return false;
	}
}

/* Shall a truck that has failed that often in a row, at last with this error, be stopped? */
static bool
is_final(const TruckerTruck *truck, int sqlstate, int failures)
{
	if (is_transient(sqlstate))
		return false;
	return truck->on_error == TRUCKER_ON_ERROR_STOP ||
		(trucker_max_failures > 0 && failures >= trucker_max_failures);
}

/* An error as trucker.status shows it. */
char *
trucker_error_text(const ErrorData *edata)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s: ", unpack_sql_state(edata->sqlerrcode));
	append_clipped(&text, "", edata->message);
	append_clipped(&text, "\nDETAIL: ", edata->detail);
	append_clipped(&text, "\nHINT: ", edata->hint);
	append_clipped(&text, "\nQUERY: ", edata->internalquery);
	append_clipped(&text, "\nCONTEXT: ", edata->context);
	return text.data;
}

typedef struct ErrorRecord
{
	const TruckerTruck *truck;
	const ErrorData *edata;
	bool		lost;
	bool		final;
	XLogRecPtr	failed_lsn;
} ErrorRecord;

static bool
write_error(void *arg)
{
	const ErrorRecord *record = arg;
	bool		recorded;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	recorded = trucker_state_record_error(&record->truck->id, trucker_error_text(record->edata),
										  record->lost, record->final, record->failed_lsn);
	PopActiveSnapshot();
	CommitTransactionCommand();
	/* the slot is held back for a lost truck no more, and must not survive that */
	if (recorded && record->lost)
		XLogFlush(XactLastCommitEnd);
	return recorded;
}

static bool
record_error(const ErrorRecord *record, int failures)
{
	if (!trucker_catalog_try(write_error, unconstify(ErrorRecord *, record)))
		return false;
	if (record->final)
		ereport(trucker_elevel(TRUCKER_LOG_WARN),
				(errmsg("truck \"%s\" has failed: it is stopped after %d errors in a row",
						record->truck->name, failures),
				 errhint("When the cause is removed: SELECT trucker.start(%s);",
						 quote_literal_cstr(record->truck->name)),
				 errhidecontext(true)));
	return true;
}

/*
 * Remember an error where trucker.status shows it, and what comes of it: the truck
 * is lost, or has failed for good, or neither.  False: that was not possible now.
 * Outside any transaction.
 */
bool
trucker_record_error(const TruckerTruck *truck, const ErrorData *edata, int failures, bool lost)
{
	ErrorRecord record = {truck, edata, lost, !lost && is_final(truck, edata->sqlerrcode, failures),
	InvalidXLogRecPtr};

	return record_error(&record, failures);
}

/* The truck gets no more changes for now, and when it may have the next is known. */
void
trucker_member_set_aside(TruckerMember *member)
{
	member->active = false;
	member->follows = false;
	member->compiled = false;
	member->leave_at = 0;
	if (!member->truck->enabled)
		trucker_truck_set_state(member->entry, TRUCKER_RESTING);
	else if (member->failures > 0 && !member->gone)
	{
		member->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   trucker_retry_delay(member->failures, trucker_retry_max_delay));
		trucker_truck_set_state(member->entry, TRUCKER_RETRYING);
	}
	trucker_truck_set_failure(member->entry, member->failures, member->failed_lsn, member->retry_at);
	trucker_truck_set_applied(member->entry, trucker_position_confirmable(member->position), 0, false);
}

/* Is this how the truck, or the worker, was told to stop? */
static bool
is_told_to_stop(const TruckerMember *member)
{
	return trucker_truck_must_reload(member->entry) || trucker_worker_must_end();
}

/* What an error says about the source transactions of the batch that it ended. */
typedef struct Blame
{
	XLogRecPtr	lsn;			/* the only one's commit; 0: there were none, or several */
	bool		bisects;		/* next time they are tried one by one */
	bool		culprit;		/* it has been tried by itself, and is to go into quarantine */
} Blame;

static Blame
find_blame(const TruckerMember *member, int sqlstate)
{
	const TruckerPipeline *pipeline = member->pipeline;
	Blame		blame = {InvalidXLogRecPtr, false, false};
	bool		quarantines = member->truck->on_error == TRUCKER_ON_ERROR_QUARANTINE &&
		!is_transient(sqlstate) && !member->lost && !member->pipeline->quarantine->full;

	if (!pipeline->in_batch || pipeline->nsources == 0 || member->on_trial)
		return blame;
	if (pipeline->nsources == 1)
		blame.lsn = pipeline->commit_lsn;
	blame.bisects = quarantines && pipeline->commit_lsn > member->failed_lsn;
	/* what fails to be put into quarantine stays the truck's trouble */
	blame.culprit = quarantines && !blame.bisects && pipeline->nsources == 1 && !member->sets_apart;
	return blame;
}

/*
 * What fails by its former definition may well be what the truck was altered for, and that
 * cannot help yet.
 */
static void
tell_of_former(const TruckerMember *member, ErrorData *edata)
{
	const TruckerTruck *truck = member->truck;
	const char *name = quote_literal_cstr(truck->name);

	if (!truck->is_former || edata->hint != NULL)
		return;
	edata->hint = psprintf("The truck runs its former definition: changes made before %s do not carry all columns that the new one needs (with \"on_error\": \"quarantine\": all). "
						   "To do without it, SELECT trucker.resync(%s) loads the destination anew; "
						   "or, while the truck is the only one of its stream, SELECT trucker.set_output_plugin(%s, 'wal2json'), and then trucker.start(%s). "
						   "To leave out what fails: SELECT trucker.skip(truck, failed_lsn) FROM trucker.status WHERE truck = %s.",
						   XLogRecPtrIsInvalid(truck->former_until) ? "its new columns are published" :
						   psprintf("%X/%X", LSN_FORMAT_ARGS(truck->former_until)),
						   name, quote_literal_cstr(truck->stream_name), name, name);
}

/*
 * The truck has failed.  If that could not be recorded it is not known to be lost, or
 * stopped, after a restart; so it is neither, and the next error is another chance.
 */
static void
fail(TruckerMember *member, const ErrorData *edata, const Blame *blame)
{
	ErrorRecord record = {member->truck, edata, member->lost, false, blame->lsn};
	bool		recorded;

	member->failures++;
	if (!member->lost && !blame->bisects)
		record.final = member->pipeline->quarantine->full ||
			is_final(member->truck, edata->sqlerrcode, member->failures);
	recorded = record_error(&record, member->failures);
	if (!recorded)
		member->lost = false;
	else if (record.final)
		member->truck->enabled = false;
}

/*
 * How many milliseconds a step may take.  Trucks that wait for the same lock do so
 * one after the other: each leaves the next one half of the time, down to a limit, so
 * that all of them together do not hold up the rest for much longer than one.
 */
static int
time_among_others(const TruckerMember *member)
{
	int64		ms = (int64) trucker_max_truck_delay << (member->must_stay ? 0 : member->patience);

	return (int) Max(Min(ms, PG_INT32_MAX) >> Min(overruns, MAX_HURRY), 1);
}

/* Its time has run out: now the others shall have as much. */
static void
overrun(TruckerMember *member)
{
	member->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), time_among_others(member));
	member->patience = Min(member->patience + 1, MAX_PATIENCE);
	overruns++;
	ereport(trucker_elevel(TRUCKER_LOG_WARN),
			(errmsg("truck \"%s\" holds up the others of its stream", member->truck->name),
			 errdetail("It has not ended its batch within trucker.max_truck_delay."),
			 errhidecontext(true)));
}

static void
log_failure(const TruckerMember *member, const ErrorData *edata)
{
	uint32		failure = trucker_failure_hash(edata, member->pipeline->nsources == 1);
	MemoryContext old;
	int			more;

	if (!trucker_truck_logs_failure(member->entry, failure, &more))
		return;
	/* the batch is about to be rolled back, which empties it */
	old = MemoryContextSwitchTo(member->pipeline->change_context);
	trucker_log_error(edata, more);
	MemoryContextSwitchTo(old);
}

/*
 * A step has failed: clean up, tell, and set the truck aside.  Called with the
 * error still in place, in no particular memory context.
 */
static void
handle_error(TruckerMember *member, bool ran_out_of_time)
{
	ErrorData  *edata;
	bool		cancelled;
	Blame		blame;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(member->context);
	edata = CopyErrorData();
	LWLockReleaseAll();
	tell_of_former(member, edata);
	/* it may also have been meant for the truck before this one */
	cancelled = trucker_worker_was_cancelled() || is_told_to_stop(member);
	cancelled = cancelled && edata->sqlerrcode == ERRCODE_QUERY_CANCELED;
	FlushErrorState();
	if (!cancelled && !ran_out_of_time)
	{
		trucker_stats_count(member->entry, TRUCKER_ERRORS, 1);
		log_failure(member, edata);
	}

	AbortOutOfAnyTransaction();
	trucker_identity_reset();
	blame = find_blame(member, edata->sqlerrcode);
	if (member->pipeline->in_batch && !member->on_trial)
		member->failed_lsn = Max(member->failed_lsn, member->pipeline->commit_lsn);
	trucker_pipeline_rollback(member->pipeline);
	RESUME_INTERRUPTS();

	MemoryContextSwitchTo(member->context);
	/* what it did by a definition that has been altered since says nothing about the new one */
	if (cancelled || trucker_truck_must_reload(member->entry))
	{
		member->gone = is_told_to_stop(member);
		member->lost = false;
	}
	else if (ran_out_of_time)
		overrun(member);
	else if (member->on_trial)
		member->trial_error = trucker_error_text(edata);
	else if (blame.culprit)
	{
		member->culprit_lsn = blame.lsn;
		member->culprit_error = trucker_error_text(edata);
	}
	else
		fail(member, edata, &blame);
	FreeErrorData(edata);
	/* with these two it can go on at once */
	if (member->trial_error == NULL && member->culprit_error == NULL)
		trucker_member_set_aside(member);
}

/* The open batch, if there is one, is not to be: its changes are read again. */
void
trucker_member_drop_batch(TruckerMember *member)
{
	if (!member->pipeline->in_batch)
		return;
	HOLD_INTERRUPTS();
	AbortOutOfAnyTransaction();
	trucker_identity_reset();
	trucker_pipeline_rollback(member->pipeline);
	RESUME_INTERRUPTS();
	member->compiled = false;
}

static void
error_context(void *arg)
{
	trucker_pipeline_error_context(((TruckerMember *) arg)->pipeline);
}

static void
start_clock(const TruckerMember *member)
{
	if (trucker_max_truck_delay > 0)
		enable_timeout_after(delay_timeout, time_among_others(member));
}

/*
 * From now on it is this truck's SQL that is executed, and cancelled should the
 * truck be stopped.  False: it has been already.
 */
static bool
take_turn(TruckerMember *member)
{
	if (executing == member->entry)
		return true;
	trucker_worker_set_executing(member->entry);
	executing = member->entry;
	trucker_report("truck", member->truck->name, "applies changes");
	if (!trucker_truck_must_reload(member->entry))
		return true;
	member->gone = true;
	trucker_member_set_aside(member);
	return false;
}

/* It is nobody's turn. */
void
trucker_member_end_turn(void)
{
	if (executing >= 0)
		trucker_worker_set_executing(-1);
	executing = -1;
	overruns = 0;
}

/*
 * Do a step of a truck's work.  False: it has failed, and the truck is set aside;
 * or the truck is told to stop.  Without "alone", the step has limited time.
 */
bool
trucker_member_try(TruckerMember *member, TruckerMemberStep step, void *arg, bool alone)
{
	MemoryContext old = CurrentMemoryContext;
	ErrorContextCallback callback;
	volatile bool succeeded = false;

	if (!take_turn(member))
		return false;
	callback.callback = error_context;
	callback.arg = member;
	callback.previous = error_context_stack;

	PG_TRY();
	{
		error_context_stack = &callback;
		delay_is_over = false;
		if (!alone)
			start_clock(member);
		step(member, arg);
		if (!alone)
			disable_timeout(delay_timeout, false);
		if (delay_is_over)
			QueryCancelPending = false; /* just in time */
		error_context_stack = callback.previous;
		succeeded = true;
	}
	PG_CATCH();
	{
		/* PG_CATCH has put the error context stack back */
		handle_error(member, trucker_worker_was_hurried() || delay_is_over);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return succeeded;
}

/*
 * All that committed before lsn is at the truck's destination: if it had failed
 * before that, it has recovered.
 */
void
trucker_member_progress(TruckerMember *member, XLogRecPtr lsn, TruckerState state)
{
	if (lsn <= member->failed_lsn || (member->failures == 0 && member->failed_lsn == 0))
		return;
	if (member->failures > 0)
		ereport(trucker_elevel(TRUCKER_LOG_WARN),
				(errmsg("truck \"%s\" has recovered", member->truck->name), errhidecontext(true)));
	member->failures = 0;
	member->patience = 0;
	member->failed_lsn = InvalidXLogRecPtr;
	member->retry_at = 0;
	trucker_truck_set_failure(member->entry, 0, InvalidXLogRecPtr, 0);
	trucker_truck_set_state(member->entry, state);
}

/* ----
 * Steps
 * ----
 */

/*
 * Check the rights and compile the SQL now: errors show before the first change
 * comes, and before a slot is made in vain.
 */
void
trucker_member_compile(TruckerMember *member, void *arg)
{
	TruckerPipeline *pipeline = member->pipeline;
	TruckerOutput *output = pipeline->output;
	const char *trouble = output->routine->make_ready(output, member->position);

	if (trouble)
		trucker_member_raise_lost(member, trouble);
	trucker_pipeline_begin_batch(pipeline, NULL);
	pipeline->commit_lsn = member->position->lsn;
	pipeline->xid = InvalidTransactionId;
	trucker_pipeline_compile(pipeline);
	trucker_pipeline_end_empty(pipeline);
}
