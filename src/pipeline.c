/*
 * pipeline.c
 *	  The road that rows take: change -> run -> input.sql -> output -> position.
 *
 * A batch is one transaction at the destination.  It holds the effects of one
 * or more whole source transactions and the position behind the last of them.
 * The stream and the backfill use the same road; only where rows come from
 * differs.
 *
 * Memory: pipeline (as long as the worker tries), batch, run, change; each is
 * reset when what it is named after ends.  Nothing grows with the number of
 * changes in a transaction: runs are executed while the transaction is still
 * arriving, and the tuplestore spills beyond work_mem.  So are net changes, when
 * they have filled what a hash table may take.
 *
 * Whose rights: the batch is the role's transaction from begin to commit
 * (identity.c).  That the role may still read the input tables is checked each
 * time a batch first touches one; r itself is not subject to any check of the
 * server's.
 */
#include "trucker.h"

#include "access/relation.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "deadlock.h"
#include "identity.h"
#include "log.h"
#include "pipeline_internal.h"
#include "slow_plan.h"

/*
 * A pipeline for a truck, in a child of the current memory context.  Needs a
 * transaction.
 */
TruckerPipeline *
trucker_pipeline_create(const TruckerTruck *truck, TruckerPosition *position)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker pipeline",
												  ALLOCSET_DEFAULT_SIZES);
	TruckerPipeline *pipeline = MemoryContextAllocZero(context, sizeof(TruckerPipeline));
	MemoryContext old;

	pipeline->context = context;
	trucker_count_init(&pipeline->count, context);
	pipeline->truck = truck;
	pipeline->role_is_superuser = superuser_arg(truck->role);
	old = MemoryContextSwitchTo(context);
	pipeline->output = trucker_output_create(truck);
	MemoryContextSwitchTo(old);
	pipeline->position = position;
	pipeline->written = trucker_written_create(truck, context);
	pipeline->batch_context = AllocSetContextCreate(context, "trucker batch",
													ALLOCSET_DEFAULT_SIZES);
	pipeline->change_context = AllocSetContextCreate(context, "trucker change",
													 ALLOCSET_DEFAULT_SIZES);
	pipeline->ninputs = truck->ninputs;
	pipeline->inputs = MemoryContextAllocZero(context, truck->ninputs * sizeof(TruckerInput));
	for (int i = 0; i < truck->ninputs; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		pipeline->inputs[i].relid = truck->inputs[i];
		pipeline->inputs[i].columns = trucker_columns_create(truck->inputs[i]);
		MemoryContextSwitchTo(old);
	}
	pipeline->collected = MemoryContextAlloc(context, truck->ninputs * sizeof(TruckerInput *));
	return pipeline;
}

/* ----
 * Batches
 * ----
 */

/*
 * Open the destination's transaction.  With snapshot, everything in it sees the
 * database as that exported snapshot does.
 */
void
trucker_pipeline_begin_batch(TruckerPipeline *pipeline, const char *snapshot)
{
	const TruckerTruck *truck = pipeline->truck;

	trucker_output_connect(pipeline->output, pipeline->position);
	trucker_identity_begin(truck->role, pipeline->role_is_superuser, truck->search_path);
	trucker_give_way_in_deadlocks(true);
	trucker_written_begin(pipeline->written);
	pipeline->in_batch = true;
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_DECODE);
	pipeline->batch_rows = 0;
	pipeline->nsources = 0;
	pipeline->batch_started = GetCurrentTimestamp();
	pipeline->nunseen = 0;
	pipeline->toast_taken = NULL;
	if (snapshot)
	{
		XactIsoLevel = XACT_REPEATABLE_READ;
		ImportSnapshot(snapshot);
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_truck_check_role(truck);
	pipeline->role_is_superuser = superuser_arg(truck->role);
	/* an imported snapshot may be older than what is there */
	if (pipeline->quarantine && pipeline->quarantine->stale && snapshot == NULL)
		trucker_quarantine_reload(pipeline->quarantine);

	/* what is written here could not be committed with what is written there */
	if (!pipeline->output->routine->is_local)
		XactReadOnly = true;
}

static void
forget_batch(TruckerPipeline *pipeline)
{
	trucker_give_way_in_deadlocks(false);
	if (pipeline->loading)
		trucker_progress_end(pipeline->count.entry);
	pipeline->loading = false;
	pipeline->in_batch = false;
	pipeline->replaying = false;
	pipeline->parked = NULL;
	pipeline->run_started = 0;
	pipeline->in_truncate = false;
	pipeline->ncollected = 0;
	pipeline->current = NULL;
	pipeline->changing = NULL;
	pipeline->toast_taken = NULL;
	for (int i = 0; i < pipeline->ninputs; i++)
	{
		pipeline->inputs[i].rel = NULL;
		if (pipeline->inputs[i].parts)
			trucker_parts_close(pipeline->inputs[i].parts, false);
	}
	MemoryContextReset(pipeline->batch_context);
	MemoryContextReset(pipeline->change_context);
}

/* Forget what was compiled for an input. */
static void
forget_program(TruckerInput *input)
{
	if (input->context)
		MemoryContextDelete(input->context);
	input->program = NULL;
	input->context = NULL;
	input->run = NULL;
	input->net = NULL;
	input->hasher = NULL;
	input->parts = NULL;
	input->kept = NULL;
}

/*
 * After AbortCurrentTransaction(): nothing of the batch is left.  All SQL is
 * compiled anew next time, as the cause may lie in what it was compiled for.
 */
void
trucker_pipeline_rollback(TruckerPipeline *pipeline)
{
	trucker_count_forget(&pipeline->count);
	trucker_plans_forget();
	pipeline->output->routine->rollback(pipeline->output);
	trucker_position_aborted(pipeline->position);
	if (pipeline->quarantine && pipeline->quarantine->held != NIL)
		pipeline->quarantine->stale = true;
	for (int i = 0; i < pipeline->ninputs; i++)
		forget_program(&pipeline->inputs[i]);
	forget_batch(pipeline);
}

/* ----
 * Input tables
 * ----
 */

static void
compile(TruckerPipeline *pipeline, TruckerInput *input)
{
	MemoryContext old;

	forget_program(input);
	input->context = AllocSetContextCreate(pipeline->context, "trucker input table",
										   ALLOCSET_DEFAULT_SIZES);
	/* also the program, so that nothing of it is left should it not compile */
	old = MemoryContextSwitchTo(input->context);
	input->program = trucker_program_create(pipeline->truck, pipeline->output, input->rel);
	trucker_program_check_identity(input->program);
	input->run = trucker_run_create(input->program->relation, input->program->type,
									input->program->by_operation);
	input->row = trucker_row_create(input->program->relation);
	if (pipeline->truck->net)
		input->net = trucker_net_create(input->program->relation, input->program->type);
	if (input->program->relation->is_partitioned)
		input->parts = trucker_parts_create();
	MemoryContextSwitchTo(old);
}

/* Open the table for this batch, and see that all still holds. */
static void
open_input(TruckerPipeline *pipeline, TruckerInput *input)
{
	input->rel = try_relation_open(input->relid, AccessShareLock);
	if (input->rel == NULL)
		trucker_raise_dropped(pipeline->truck->name, input->relid);
	trucker_check_input_rights(pipeline->truck, input->rel);
	trucker_columns_begin(input->columns);
	if (input->program == NULL ||
		!trucker_relation_is_current(input->program->relation, input->rel))
		compile(pipeline, input);
}

/*
 * The input for a table, opened for the batch.  Raises an error if it is none
 * of the truck's.
 */
TruckerInput *
trucker_pipeline_input(TruckerPipeline *pipeline, Oid relid)
{
	for (int i = 0; i < pipeline->ninputs; i++)
	{
		TruckerInput *input = &pipeline->inputs[i];

		if (input->relid != relid)
			continue;
		if (input->rel == NULL)
			open_input(pipeline, input);
		return input;
	}
	elog(ERROR, "relation %u is not an input of truck \"%s\"", relid, pipeline->truck->name);
}

/*
 * Compile the SQL for all inputs now.  In an open batch.
 */
void
trucker_pipeline_compile(TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->ninputs; i++)
		(void) trucker_pipeline_input(pipeline, pipeline->inputs[i].relid);
}

/*
 * Which columns of an input does the truck need?  With its SQL compiled, or all will be.
 * What goes into quarantine goes there whole: by the time somebody wants it to be applied
 * the truck may read other columns.
 */
void
trucker_pipeline_add_needs(const TruckerPipeline *pipeline, Oid relid, TruckerNeeds *needs)
{
	const TruckerQuarantine *quarantine = pipeline->quarantine;
	const TruckerProgram *program = NULL;
	bool		quarantines = pipeline->truck->on_error == TRUCKER_ON_ERROR_QUARANTINE ||
		(quarantine && (quarantine->stale || !trucker_quarantine_is_empty(quarantine)));

	for (int i = 0; i < pipeline->ninputs; i++)
		if (pipeline->inputs[i].relid == relid)
			program = pipeline->inputs[i].program;
	trucker_needs_add(needs, program && !quarantines ? program->relation : NULL);
}

/*
 * Only this has been kept of an input's changes that are to be applied now.  If the SQL
 * has been compiled anew since, for a table that has been altered, that may not be enough:
 * then they must be read again, as after any other error that goes away by itself.
 */
void
trucker_pipeline_check_kept(TruckerPipeline *pipeline, Oid relid, const TruckerNeeds *kept)
{
	TruckerInput *input = trucker_pipeline_input(pipeline, relid);

	if (input->kept == kept)
		return;
	if (!trucker_needs_cover(kept, input->program->relation))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table %s has been altered, and the truck reads other columns of it now", input->program->relation->name),
				 errdetail("Of the changes that it was about to apply, these have not been kept."),
				 errhint("The truck reads them again by itself.")));
	input->kept = kept;
}

/* ----
 * The end of a batch
 * ----
 */

static void
commit(TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->ninputs; i++)
	{
		if (pipeline->inputs[i].rel)
			relation_close(pipeline->inputs[i].rel, NoLock);
		pipeline->inputs[i].rel = NULL;
		if (pipeline->inputs[i].parts)
			trucker_parts_close(pipeline->inputs[i].parts, true);
	}
	PopActiveSnapshot();
	trucker_identity_commit();
	forget_batch(pipeline);
}

/* Execute the last run, before something else that belongs to the batch. */
void
trucker_pipeline_flush(TruckerPipeline *pipeline)
{
	trucker_pipeline_execute_run(pipeline);
}

/* Are the values that have been read still what they were taken for? */
static void
confirm_columns(TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->ninputs; i++)
		if (pipeline->inputs[i].rel)
			trucker_columns_confirm(pipeline->inputs[i].columns, &pipeline->truck->id);
}

/*
 * Finish the batch: execute what has been collected, write the position, commit.  The
 * destination first, if it is elsewhere: our own row then tells what it has been seen
 * to hold, and is durable before the slot lets go of anything.
 */
void
trucker_pipeline_commit(TruckerPipeline *pipeline, XLogRecPtr position)
{
	trucker_pipeline_execute_collected(pipeline);
	confirm_columns(pipeline);
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_COMMIT);
	/* what has been sent to a destination elsewhere is executed while we wait here */
	trucker_pipeline_start_clock(pipeline);
	pipeline->output->routine->commit(pipeline->output, pipeline->position, position);
	trucker_pipeline_stop_clock(pipeline);
	trucker_position_write(pipeline->position, position);
	commit(pipeline);
	trucker_position_committed(pipeline->position, XactLastCommitEnd);
	pipeline->output->routine->committed(pipeline->output);
	trucker_count_committed(&pipeline->count);
	ereport(trucker_elevel(TRUCKER_LOG_DEBUG),
			(errmsg("truck \"%s\": batch of " INT64_FORMAT " changes of %d source transactions committed, up to %X/%X",
					pipeline->truck->name, pipeline->batch_rows, pipeline->nsources, LSN_FORMAT_ARGS(position)),
			 errhidecontext(true)));
}

/* Finish a batch that does not move the position: what it applied was passed long ago. */
void
trucker_pipeline_commit_aside(TruckerPipeline *pipeline)
{
	/* what is elsewhere is committed with the position, or not at all */
	Assert(pipeline->output->routine->is_local);
	trucker_pipeline_execute_collected(pipeline);
	confirm_columns(pipeline);
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_COMMIT);
	commit(pipeline);
	trucker_count_committed(&pipeline->count);
}

/* All that a commit would do by now, but to commit: in a batch that will be rolled back. */
void
trucker_pipeline_settle(TruckerPipeline *pipeline)
{
	trucker_pipeline_execute_collected(pipeline);
	trucker_pipeline_start_clock(pipeline);
	pipeline->output->routine->settle(pipeline->output);
	trucker_pipeline_stop_clock(pipeline);
}

/* Finish a batch that held no changes; nothing is written. */
void
trucker_pipeline_end_empty(TruckerPipeline *pipeline)
{
	commit(pipeline);
	trucker_count_forget(&pipeline->count);
}

/* Where an error happened; arg is the pipeline. */
void
trucker_pipeline_error_context(void *arg)
{
	TruckerPipeline *pipeline = arg;
	TruckerInput *input = pipeline->current;

	if (trucker_run_timeout > 0 && pipeline->run_started != 0 &&
		TimestampDifferenceExceeds(pipeline->run_started, GetCurrentTimestamp(), trucker_run_timeout))
		errcontext("run that has reached trucker.run_timeout (%d ms)", trucker_run_timeout);
	if (pipeline->in_truncate)
		errcontext("truck \"%s\", truncate_sql for table %s, truncated by source transaction %u committed at %X/%X",
				   pipeline->truck->name, pipeline->changing->program->relation->name,
				   pipeline->xid, LSN_FORMAT_ARGS(pipeline->commit_lsn));
	else if (pipeline->in_batch && pipeline->changing)
		errcontext("truck \"%s\", change of table %s by source transaction %u committed at %X/%X",
				   pipeline->truck->name, pipeline->changing->program->relation->name,
				   pipeline->xid, LSN_FORMAT_ARGS(pipeline->commit_lsn));
	else if (pipeline->run_started != 0 && input && input->run)
		errcontext("truck \"%s\", run of " INT64_FORMAT " rows of table %s, changes committed at %X/%X to %X/%X",
				   pipeline->truck->name, input->run->nrows, input->program->relation->name,
				   LSN_FORMAT_ARGS(input->run->first_lsn), LSN_FORMAT_ARGS(input->run->last_lsn));
	else if (!pipeline->in_batch || !TransactionIdIsValid(pipeline->xid))
		errcontext("truck \"%s\"", pipeline->truck->name);
	else
		errcontext("truck \"%s\", source transaction %u committed at %X/%X",
				   pipeline->truck->name, pipeline->xid, LSN_FORMAT_ARGS(pipeline->commit_lsn));
}
