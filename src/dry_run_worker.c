/*
 * dry_run_worker.c
 *	  The process of a dry run: it applies source transactions, and rolls all of them back.
 *
 * It goes the way that the stream's worker goes: the same pipeline, as the truck's role,
 * in one destination transaction, each source transaction behind the ones before it.  A
 * process of its own is needed for that: in the caller's session the truck's SQL would
 * meet the caller's settings, temporary tables and locks, and could leave its own there.
 *
 * The first error ends it: there the truck would stop, too, or put the source transaction
 * into quarantine.  What is deferred until a commit is done after each source
 * transaction.  No commit ever happens, so whatever becomes of this process, or of the
 * server, nothing is left behind but what no rollback undoes: numbers that sequences
 * have given out, and what functions do outside of the database.
 *
 * The truck may go on meanwhile.  What it applies is not to be tried any more, and may
 * have made errors of what is right: so the position is looked at once more at the end.
 */
#include "trucker.h"

#include "access/xact.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "dry_run.h"
#include "identity.h"
#include "publication.h"
#include "slots.h"
#include "sql_session.h"
#include "state.h"

/* ----
 * Getting ready
 * ----
 */

static void
raise_cannot_go_on(const TruckerTruck *truck, const char *trouble)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("truck \"%s\" cannot go on: %s", truck->name, trouble),
			 errhint("SELECT trucker.resync(%s) loads the destination anew.", quote_literal_cstr(truck->name))));
}

/*
 * What is applied by the truck's former definition is tried by it, up to where the new one
 * takes effect; if that is not known yet, it is beyond all there is.
 */
static void
take_former(TruckerDryRun *run)
{
	TruckerFormer *former = trucker_former_load(run->member.truck);

	if (former == NULL || !former->in_force)
		return;
	run->member.truck = former->truck;
	if (!XLogRecPtrIsInvalid(former->switches_at))
		run->until = Min(run->until, former->switches_at);
}

/* Load the truck, as its stream's worker does, but that nobody hears of us. */
static void
load(TruckerDryRun *run, const pg_uuid_t *truck_id)
{
	TruckerMember *member = &run->member;
	const char *trouble;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(run->context);
	member->truck_id = *truck_id;
	member->context = run->context;
	member->truck = trucker_truck_load(truck_id);
	if (member->truck == NULL || !member->truck->has_stream)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the truck has been dropped, or is to be loaded anew, in the meantime")));
	run->stream.row = trucker_state_stream(&member->truck->stream_id);
	if (run->stream.row == NULL || run->stream.row->slot_name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" has no replication slot", member->truck->name)));
	if (run->stream.row->publication)
		take_former(run);
	trouble = trucker_slot_trouble(run->stream.row->slot_name, InvalidXLogRecPtr);
	if (trouble == NULL)
		trouble = trucker_ddl_unnoted(truck_id);
	member->position = trucker_position_load(truck_id, member->truck->applied_lsn);
	trucker_member_read_names(member);
	if (trouble == NULL && run->stream.row->publication)
		trouble = trucker_publication_trouble(run->stream.row->publication, member->truck, member->unloaded);
	if (trouble)
		raise_cannot_go_on(member->truck, trouble);
	member->pipeline = trucker_pipeline_create(member->truck, member->position);
	member->pipeline->quarantine = trucker_quarantine_load(truck_id);
	member->pipeline->output->rehearses = true;
	member->active = true;
	run->stream.members = list_make1(member);
	run->stream.nactive = 1;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->context);
}

/* Let a destination elsewhere say where it is. */
static void
connect_output(TruckerDryRun *run)
{
	TruckerOutput *output = run->member.pipeline->output;
	const char *trouble = output->routine->make_ready(output, run->member.position);

	MemoryContextSwitchTo(run->context);
	if (trouble)
		raise_cannot_go_on(run->member.truck, trouble);
}

/* ----
 * Trying
 * ----
 */

/* What has been executed is the current source transaction's, and that input's. */
static void
executed(TruckerPipelineObserver *observer, const TruckerInput *input, int64 rows_in, int64 rows_out)
{
	TruckerDryRun *run = (TruckerDryRun *) ((char *) observer - offsetof(TruckerDryRun, observer));
	TruckerOutput *output = run->member.pipeline->output;
	TruckerTriedInput *tried = &run->current->inputs[trucker_dry_run_input(run, input->relid)];
	TruckerChanged changed = output->routine->changed(output);

	tried->rows_in += rows_in;
	tried->rows_out += rows_out;
	tried->changed.inserted += changed.inserted - run->changed.inserted;
	tried->changed.updated += changed.updated - run->changed.updated;
	tried->changed.deleted += changed.deleted - run->changed.deleted;
	run->changed = changed;
}

/* All changes of the current source transaction have been taken. */
static void
end_source(TruckerDryRun *run)
{
	TruckerPipeline *pipeline = run->member.pipeline;

	if (run->current == NULL)
		return;
	if (!run->current->skipped)
		trucker_pipeline_settle(pipeline);
	run->current->done = true;
	/* what was deferred is nobody's */
	run->changed = pipeline->output->routine->changed(pipeline->output);
}

static void
begin_source(TruckerDryRun *run, TruckerTried *tried, const TruckerSource *source)
{
	end_source(run);
	run->current = tried;
	if (!tried->skipped)
		trucker_pipeline_begin_source(run->member.pipeline, &source->begin);
}

/* Apply all that has been read. */
static void
try_sources(TruckerDryRun *run)
{
	TruckerStream *stream = &run->stream;
	TruckerMember *member = &run->member;
	TruckerPipeline *pipeline = member->pipeline;
	const TruckerSource *source;
	const TruckerSource *last = NULL;
	TruckerMessage message;
	int			number;
	int			nsources = 0;

	/* what it raises before the first change is the first one's error */
	run->current = linitial(run->sources);
	trucker_pipeline_begin_batch(pipeline, NULL);
	trucker_pipeline_compile(pipeline);
	run->changed = pipeline->output->routine->changed(pipeline->output);
	run->current = NULL;

	MemoryContextSwitchTo(stream->message_context);
	trucker_batch_read(stream->batch, member->ntables, member->tables);
	while (trucker_batch_next(stream->batch, &source, &number, &message))
	{
		const TruckerReader *reader = linitial(((TruckerTable *) list_nth(stream->tables, number))->readers);

		if (source != last)
			begin_source(run, list_nth(run->sources, nsources++), source);
		last = source;
		if (!run->current->skipped)
			trucker_pipeline_change(pipeline, reader->relid, &message);
		MemoryContextSwitchTo(stream->message_context);
		MemoryContextReset(stream->message_context);
	}
	end_source(run);
	trucker_stop_point("dry run: tried");
}

static void
error_context(void *arg)
{
	trucker_pipeline_error_context(arg);
}

/* Has somebody cancelled us?  A run that takes too long is an error as any other. */
static bool
is_cancelled(const TruckerPipeline *pipeline)
{
	bool		late = trucker_run_timeout > 0 && pipeline->run_started != 0 &&
		TimestampDifferenceExceeds(pipeline->run_started, GetCurrentTimestamp(), trucker_run_timeout);

	return geterrcode() == ERRCODE_QUERY_CANCELED && !late;
}

/* The current source transaction has failed.  Called with the error still in place. */
static void
handle_error(TruckerDryRun *run)
{
	TruckerPipeline *pipeline = run->member.pipeline;
	const TruckerInput *input = pipeline->changing ? pipeline->changing : pipeline->current;
	TruckerTried *tried = run->current;
	ErrorData  *edata;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(run->context);
	edata = CopyErrorData();
	LWLockReleaseAll();
	FlushErrorState();
	tried->error = trucker_error_text(edata);
	if (input)
		tried->failed_input = trucker_dry_run_input(run, input->relid);
	/* the run that has failed has not been told of */
	if (input && input == pipeline->current && input->run)
		tried->inputs[tried->failed_input].rows_in += input->run->nrows;
	RESUME_INTERRUPTS();
}

/* Apply, and roll back. */
static void
rehearse(TruckerDryRun *run)
{
	ErrorContextCallback callback = {error_context_stack, error_context, run->member.pipeline};

	run->observer.executed = executed;
	run->member.pipeline->observer = &run->observer;
	PG_TRY();
	{
		error_context_stack = &callback;
		try_sources(run);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		if (is_cancelled(run->member.pipeline))
			PG_RE_THROW();
		handle_error(run);
	}
	PG_END_TRY();
	HOLD_INTERRUPTS();
	AbortOutOfAnyTransaction();
	trucker_identity_reset();
	trucker_pipeline_rollback(run->member.pipeline);
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(run->context);
}

/* Has the truck itself applied some of it meanwhile? */
static void
check_has_not_moved(const TruckerDryRun *run)
{
	const TruckerTruck *truck = run->member.truck;
	const TruckerTried *first = linitial(run->sources);
	TruckerPosition *position;

	StartTransactionCommand();
	position = trucker_position_load(&truck->id, InvalidXLogRecPtr);
	if (!position->exists || trucker_position_skips(position, first->begin.commit_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("truck \"%s\" has itself applied meanwhile what was being tried", truck->name),
				 errhint("SELECT trucker.stop(%s); and try again.", quote_literal_cstr(truck->name))));
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->context);
}

/* ----
 * Telling
 * ----
 */

static void
send_text(StringInfo buf, const char *text)
{
	if (text == NULL)
		pq_sendint32(buf, -1);
	else
	{
		pq_sendint32(buf, strlen(text));
		pq_sendbytes(buf, text, strlen(text));
	}
}

static void
send_number(StringInfo buf, int64 number)
{
	send_text(buf, psprintf(INT64_FORMAT, number));
}

/* A row as a query returns it.  input: NULL for an error that is none of an input table's. */
static void
send_row(const TruckerTried *tried, Oid relid, const TruckerTriedInput *input, const char *error)
{
	StringInfoData buf;

	pq_beginmessage(&buf, 'D');
	pq_sendint16(&buf, TRUCKER_DRY_RUN_COLUMNS);
	send_text(&buf, psprintf("%X/%X", LSN_FORMAT_ARGS(tried->begin.commit_lsn)));
	send_number(&buf, tried->begin.xid);
	send_text(&buf, timestamptz_to_str(tried->begin.committed_at));
	send_text(&buf, tried->skipped ? "skipped" : tried->error ? "fails" : "applied");
	send_text(&buf, input ? psprintf("%u", relid) : NULL);
	for (int i = 0; i < lengthof(input->changes); i++)
		send_number(&buf, input ? input->changes[i] : 0);
	send_number(&buf, input ? input->rows_in : 0);
	send_number(&buf, input ? input->rows_out : 0);
	send_number(&buf, input ? input->changed.inserted : 0);
	send_number(&buf, input ? input->changed.updated : 0);
	send_number(&buf, input ? input->changed.deleted : 0);
	send_text(&buf, error);
	pq_endmessage(&buf);
}

static void
send_source(const TruckerDryRun *run, const TruckerTried *tried)
{
	const TruckerTruck *truck = run->member.truck;

	for (int i = 0; i < truck->ninputs; i++)
	{
		const TruckerTriedInput *input = &tried->inputs[i];

		if (input->changes[0] + input->changes[1] + input->changes[2] + input->changes[3] > 0)
			send_row(tried, truck->inputs[i], input, i == tried->failed_input ? tried->error : NULL);
	}
	if (tried->error && tried->failed_input < 0)
		send_row(tried, InvalidOid, NULL, tried->error);
}

/* ----
 * The process
 * ----
 */

static void
run_dry(TruckerDryRun *run, const char *command)
{
	pg_uuid_t  *truck_id;
	char		id[37];
	uint32		high;
	uint32		low;
	ListCell   *lc;

	if (sscanf(command, "%36s %d %X/%X", id, &run->wanted, &high, &low) != 4)
		elog(ERROR, "invalid order of a dry run: \"%s\"", command);
	run->until = ((uint64) high) << 32 | low;
	truck_id = DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
	load(run, truck_id);
	connect_output(run);
	trucker_dry_run_read(run);
	if (run->sources == NIL)
		return;
	trucker_identity_init(run->member.truck->role, run->member.pipeline->role_is_superuser);
	rehearse(run);
	check_has_not_moved(run);
	/* as the other end expects it, whatever the role's settings are */
	SetClientEncoding(GetDatabaseEncoding());
	foreach(lc, run->sources)
	{
		const TruckerTried *tried = lfirst(lc);

		if (tried->done || tried->error)
			send_source(run, tried);
	}
}

/* bgworker entry point: the argument is the segment's handle. */
void
trucker_dry_run_main(Datum main_arg)
{
	shm_mq_handle *commands;
	shm_mq_handle *answers;
	TruckerDryRun *run;
	MemoryContext context;
	char	   *command;
	bool		keep;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	(void) trucker_sql_worker_attach(main_arg, &commands, &answers);
	trucker_identity_protect();
	context = AllocSetContextCreate(TopMemoryContext, "trucker dry run", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	command = trucker_sql_worker_receive(commands, &keep);
	if (command == NULL)
		proc_exit(0);
	pgstat_report_activity(STATE_RUNNING, "dry run");
	run = palloc0(sizeof(TruckerDryRun));
	run->context = context;
	run_dry(run, command);
	(void) trucker_sql_worker_done(answers);
	proc_exit(0);
}
