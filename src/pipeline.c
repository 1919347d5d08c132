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
 * Visibility: a transaction is decoded as soon as its commit record is flushed,
 * but its session takes it off the list of running transactions only later -
 * with synchronous replication, when the standby has answered.  Joins in
 * input.sql must not see the source as it was before the changes that they
 * enrich, so before a run's SQL we wait for the batch's source transactions.
 *
 * Whose rights: the batch is the role's transaction from begin to commit
 * (identity.c).  That the role may still read the input tables is checked each
 * time a batch first touches one; r itself is not subject to any check of the
 * server's.
 */
#include "trucker.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "deadlock.h"
#include "identity.h"
#include "pipeline.h"
#include "toast.h"

/*
 * A pipeline for a truck, in a child of the current memory context.  Needs a
 * transaction.
 */
TruckerPipeline *
trucker_pipeline_create(const TruckerTruck *truck, const TruckerDecoder *decoder,
						TruckerPosition *position)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker pipeline",
												  ALLOCSET_DEFAULT_SIZES);
	TruckerPipeline *pipeline = MemoryContextAllocZero(context, sizeof(TruckerPipeline));

	pipeline->context = context;
	pipeline->truck = truck;
	pipeline->role_is_superuser = superuser_arg(truck->role);
	pipeline->output = &trucker_output_local;
	pipeline->decoder = decoder;
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

	trucker_identity_begin(truck->role, pipeline->role_is_superuser, truck->search_path);
	trucker_give_way_in_deadlocks(true);
	trucker_written_begin(pipeline->written);
	pipeline->in_batch = true;
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
}

static void
forget_batch(TruckerPipeline *pipeline)
{
	trucker_give_way_in_deadlocks(false);
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
	if (input->program)
		trucker_program_free(input->program);
	if (input->context)
		MemoryContextDelete(input->context);
	input->program = NULL;
	input->context = NULL;
	input->run = NULL;
	input->net = NULL;
	input->hasher = NULL;
	input->parts = NULL;
}

/*
 * After AbortCurrentTransaction(): nothing of the batch is left.  All SQL is
 * compiled anew next time, as the cause may lie in what it was compiled for.
 */
void
trucker_pipeline_rollback(TruckerPipeline *pipeline)
{
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
	old = MemoryContextSwitchTo(pipeline->context);
	input->program = trucker_program_create(pipeline->truck, pipeline->output, input->rel);
	trucker_program_check_identity(input->program);
	input->context = AllocSetContextCreate(pipeline->context, "trucker input table",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(input->context);
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

/* ----
 * Runs
 * ----
 */

/*
 * Wait until all source transactions of the batch can be seen, and take a new
 * snapshot.
 */
static void
wait_for_sources(TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->nunseen; i++)
		if (TransactionIdIsInProgress(pipeline->unseen[i]))
			XactLockTableWait(pipeline->unseen[i], NULL, NULL, XLTW_None);
	pipeline->nunseen = 0;

	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
note_source(TruckerPipeline *pipeline, TransactionId xid)
{
	if (pipeline->nunseen == pipeline->max_unseen)
	{
		pipeline->max_unseen = Max(64, pipeline->max_unseen * 2);
		if (pipeline->unseen == NULL)
			pipeline->unseen = MemoryContextAlloc(pipeline->context, pipeline->max_unseen * sizeof(TransactionId));
		else
			pipeline->unseen = repalloc(pipeline->unseen, pipeline->max_unseen * sizeof(TransactionId));
	}
	pipeline->unseen[pipeline->nunseen++] = xid;
}

static void
run_sql(TruckerInput *input)
{
	TruckerProgram *program = input->program;
	TruckerRun *run = input->run;
	TruckerRows rows = {program->type->desc, run->nrows, run->store};
	TruckerPlans *plans = trucker_program_plans(program, run->operation, run->nrows);
	Tuplestorestate *result = NULL;

	if (plans->input)
	{
		result = tuplestore_begin_heap(false, false, work_mem);
		trucker_script_execute(plans->input, &rows, result, plans->result);
		rows.desc = plans->result;
		rows.store = result;
		rows.count = tuplestore_tuple_count(result);
	}
	program->output->execute(plans->output, &rows);
	if (result)
		tuplestore_end(result);
}

static void
log_slow_run(const TruckerPipeline *pipeline, const TruckerInput *input, TimestampTz started)
{
	long		ms = TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());

	if (trucker_slow_query_threshold < 0 || ms < trucker_slow_query_threshold)
		return;
	ereport(LOG,
			(errmsg("slow run of truck \"%s\": %ld ms for " INT64_FORMAT " rows of table %s",
					pipeline->truck->name, ms, input->run->nrows, input->program->relation->name)));
}

/* The truck's SQL is about to be executed; returns what end_sql() wants. */
static int
begin_sql(TruckerPipeline *pipeline)
{
	wait_for_sources(pipeline);
	pipeline->run_started = GetCurrentTimestamp();

	/*
	 * statement_timeout is armed by the main loop of a session only.  Its
	 * timer serves us as well: it cancels the SQL, as pg_cancel_backend would.
	 */
	if (trucker_run_timeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, trucker_run_timeout);

	/* what the SQL SETs ends with the run, and does not reach what follows */
	return NewGUCNestLevel();
}

static void
end_sql(TruckerPipeline *pipeline, int nestlevel)
{
	AtEOXact_GUC(false, nestlevel);
	if (trucker_run_timeout > 0)
		disable_timeout(STATEMENT_TIMEOUT, false);
	pipeline->run_started = 0;
}

/* Execute the run that is being collected, if any. */
static void
execute_run(TruckerPipeline *pipeline)
{
	TruckerInput *input = pipeline->current;
	TimestampTz started;
	MemoryContext old;
	int			nestlevel;

	if (input == NULL)
		return;
	nestlevel = begin_sql(pipeline);
	started = pipeline->run_started;
	old = MemoryContextSwitchTo(input->run->context);
	run_sql(input);
	MemoryContextSwitchTo(old);
	end_sql(pipeline, nestlevel);

	log_slow_run(pipeline, input, started);
	trucker_run_clear(input->run);
	pipeline->current = NULL;
}

/* Let a change join the input's run, executing first the run that it ends. */
static void
join_run(TruckerPipeline *pipeline, TruckerInput *input, const TruckerRow *row)
{
	TruckerRun *run = input->run;

	if (pipeline->current != NULL && pipeline->current != input)
		execute_run(pipeline);
	if (!trucker_run_accepts(run, row))
	{
		execute_run(pipeline);
		(void) trucker_run_accepts(run, row);
	}
	trucker_run_add(run, row);
	pipeline->current = input;
	CHECK_FOR_INTERRUPTS();
}

/* Let the change in input->row join the input's run. */
void
trucker_pipeline_add(TruckerPipeline *pipeline, TruckerInput *input)
{
	input->row->seq = ++pipeline->batch_rows;
	join_run(pipeline, input, input->row);
}

/* ----
 * Net changes
 * ----
 */

/* Make runs of the net changes that have been collected, table by table. */
static void
flush_net(TruckerPipeline *pipeline)
{
	MemoryContext context = AllocSetContextCreate(pipeline->batch_context, "trucker net row",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < pipeline->ncollected; i++)
	{
		TruckerInput *input = pipeline->collected[i];
		const TruckerRow *row;

		while ((row = trucker_net_next(input->net)) != NULL)
		{
			join_run(pipeline, input, row);
			MemoryContextReset(context);
		}
		trucker_net_clear(input->net);
	}
	pipeline->ncollected = 0;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Execute all that has been collected. */
static void
execute_collected(TruckerPipeline *pipeline)
{
	TruckerInput *changing = pipeline->changing;

	/* a run's error is not that of the change before which it is executed */
	pipeline->changing = NULL;
	if (pipeline->ncollected > 0)
		flush_net(pipeline);
	execute_run(pipeline);
	pipeline->changing = changing;
}

/* Collect the change in input->row, of which trucker_net_find() has been told. */
static void
collect(TruckerPipeline *pipeline, TruckerInput *input)
{
	Size		memory = 0;
	int			i = 0;

	input->row->seq = ++pipeline->batch_rows;
	trucker_net_add(input->net, input->row);
	while (i < pipeline->ncollected && pipeline->collected[i] != input)
		i++;
	if (i == pipeline->ncollected)
		pipeline->collected[pipeline->ncollected++] = input;

	/* what a hash table of the server's may take is enough for ours together */
	for (i = 0; i < pipeline->ncollected; i++)
		memory += trucker_net_memory(pipeline->collected[i]->net);
	if (memory > get_hash_memory_limit())
		execute_collected(pipeline);
	CHECK_FOR_INTERRUPTS();
}

/* ----
 * The stream
 * ----
 */

/* The changes that follow are this source transaction's.  In an open batch. */
void
trucker_pipeline_begin_source(TruckerPipeline *pipeline, const TruckerMessage *message)
{
	pipeline->xid = message->xid;
	pipeline->commit_lsn = message->commit_lsn;
	pipeline->committed_at = message->committed_at;
	pipeline->nsources++;
	pipeline->parked = NULL;
	note_source(pipeline, message->xid);
	if (pipeline->toast_taken)
		hash_destroy(pipeline->toast_taken);
	pipeline->toast_taken = NULL;
}

static void
raise_truncated(const TruckerPipeline *pipeline, const TruckerInput *input)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("input table %s has been truncated", input->program->relation->name),
			 pipeline->truck->backfill ?
			 errhint("SELECT trucker.resync(%s) loads the destination anew.",
					 quote_literal_cstr(pipeline->truck->name)) :
			 errhint("SELECT trucker.resync(%s) goes on with the changes made from then on; those made until then are not applied, as the truck has the option \"backfill\": false.",
					 quote_literal_cstr(pipeline->truck->name))));
}

/* truncate_sql is about the whole table. */
static void
raise_part_truncated(const TruckerPipeline *pipeline, const TruckerInput *input, Oid leaf)
{
	char	   *name = get_rel_name(leaf);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("partition %s of input table %s has been truncated",
					name ? quote_qualified_identifier(get_namespace_name(get_rel_namespace(leaf)), name) : "(dropped)",
					input->program->relation->name),
			 errdetail("truncate_sql is run when the whole table is truncated, and cannot be for a partition."),
			 errhint("SELECT trucker.resync(%s) loads the destination anew.  To have the rows deleted one by one, DELETE them.",
					 quote_literal_cstr(pipeline->truck->name))));
}

/* Values that an update left out, because it left them unchanged. */
static void
complete_row(TruckerPipeline *pipeline, TruckerInput *input)
{
	const TruckerRelation *relation = input->program->relation;

	if (pipeline->toast_taken)
		trucker_toast_check_taken(input->row, relation, pipeline->toast_taken);
	if (input->net)
		trucker_net_complete(input->net, input->row);
	if (!trucker_toast_is_needed(input->row, relation, input->program->type))
		return;
	if (pipeline->toast_taken == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(pipeline->batch_context);

		pipeline->toast_taken = trucker_toast_create_taken();
		MemoryContextSwitchTo(old);
	}
	wait_for_sources(pipeline);
	trucker_toast_fill(input->row, input->row->part ? input->row->part->rel : input->rel, relation, input->program->type,
					   pipeline->truck->toast_current, pipeline->toast_taken);
}

/* Net changes would take all rows without a key for one. */
static bool
is_missing(const TruckerInput *input, TruckerPresence presence)
{
	return presence == TRUCKER_ABSENT || (presence == TRUCKER_IS_NULL && input->net);
}

/*
 * The key is what runs are told apart by: without it there is no safe way on.  A
 * key that is stored out of line and was not changed comes in the old row only.
 * With REPLICA IDENTITY FULL only net changes cannot do without.
 */
static void
check_key(const TruckerInput *input)
{
	const TruckerRelation *relation = input->program->relation;
	TruckerRow *row = input->row;

	if (relation->identity_full && input->net == NULL)
		return;
	for (int i = 0; i < relation->nkeys; i++)
	{
		int			at = relation->keys[i] - 1;

		if (row->operation == TRUCKER_UPDATE && row->newpresence[at] == TRUCKER_ABSENT)
		{
			row->newpresence[at] = row->oldpresence[at];
			row->newvalues[at] = row->oldvalues[at];
		}
		if ((row->operation != TRUCKER_DELETE && is_missing(input, row->newpresence[at])) ||
			(row->operation != TRUCKER_INSERT && is_missing(input, row->oldpresence[at])))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("a change of table %s does not carry its key column \"%s\"",
							relation->name,
							NameStr(TupleDescAttr(relation->desc, at)->attname)),
					 errdetail("The replica identity, or the column's name, was another when the change was made."),
					 errhint("Call trucker.resync() to load the table anew.")));
	}
}

/* Execute truncate_sql: an input table has been truncated. */
static void
execute_truncate_sql(TruckerPipeline *pipeline, TruckerInput *input)
{
	int			nestlevel = begin_sql(pipeline);

	pipeline->in_truncate = true;
	trucker_script_run(trucker_program_truncate_statements(input->program));
	pipeline->in_truncate = false;
	end_sql(pipeline, nestlevel);
}

/*
 * An input table has been truncated.  What was collected before comes first; net
 * changes must not be merged with those that follow, also where the TRUNCATE is
 * ignored, since rows have gone that they hold to be there.
 */
static void
handle_truncate(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	if (!OidIsValid(message->leaf))
		input->truncated_at = message->lsn;
	else if (input->truncated_at == message->lsn)
		return;					/* with the whole table */
	else if (pipeline->truck->on_truncate == TRUCKER_TRUNCATE_RUN)
		raise_part_truncated(pipeline, input, message->leaf);
	if (pipeline->truck->on_truncate == TRUCKER_TRUNCATE_ERROR)
		raise_truncated(pipeline, input);
	pipeline->batch_rows++;
	if (input->net || pipeline->truck->on_truncate == TRUCKER_TRUNCATE_RUN)
		execute_collected(pipeline);
	if (pipeline->truck->on_truncate == TRUCKER_TRUNCATE_RUN)
		execute_truncate_sql(pipeline, input);
}

/* The partition that a change is of, open until the batch ends; NULL: it is the table's own. */
TruckerPart *
trucker_pipeline_part(TruckerInput *input, const TruckerMessage *message)
{
	if (input->parts == NULL || !OidIsValid(message->leaf))
		return NULL;
	return trucker_parts_open(input->parts, input->program->relation, message->leaf);
}

/* The table's columns when the change was made; NULL: not known. */
const TruckerColumnSpan *
trucker_pipeline_columns(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	return trucker_columns_at(input->columns, &pipeline->truck->id, RelationGetDescr(input->rel), message->lsn);
}

/* Are columns known that have been altered since? */
bool
trucker_pipeline_has_old_columns(const TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->ninputs; i++)
		if (trucker_columns_have_old(pipeline->inputs[i].columns))
			return true;
	return false;
}

/* One change of a row. */
static void
handle_row(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	TruckerRow *row = input->row;

	row->xid = pipeline->xid;
	trucker_row_from_message(row, input->program->relation, trucker_pipeline_part(input, message),
							 trucker_pipeline_columns(pipeline, input, message), message, pipeline->decoder);
	row->lsn = pipeline->commit_lsn;
	row->committed_at = pipeline->committed_at;
	check_key(input);
	if (input->net && !trucker_net_find(input->net, row))
	{
		execute_collected(pipeline);
		(void) trucker_net_find(input->net, row);
	}
	complete_row(pipeline, input);
	if (input->net)
		collect(pipeline, input);
	else
	{
		pipeline->changing = NULL;
		trucker_pipeline_add(pipeline, input);
	}
}

/*
 * One change of the current source transaction.  In an open batch.
 */
void
trucker_pipeline_change(TruckerPipeline *pipeline, Oid relid,
						const TruckerMessage *message)
{
	TruckerInput *input = trucker_pipeline_input(pipeline, relid);
	MemoryContext old = MemoryContextSwitchTo(pipeline->change_context);

	pipeline->changing = input;
	if (trucker_apart_park(pipeline, input, message))
		CHECK_FOR_INTERRUPTS();
	else if (message->kind == TRUCKER_MSG_TRUNCATE)
		handle_truncate(pipeline, input, message);
	else if (!trucker_apart_ignores(pipeline, message))
		handle_row(pipeline, input, message);
	pipeline->changing = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(pipeline->change_context);
}

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
	execute_run(pipeline);
}

/*
 * Finish the batch: execute what has been collected, write the position, commit.
 */
void
trucker_pipeline_commit(TruckerPipeline *pipeline, XLogRecPtr position)
{
	execute_collected(pipeline);
	pipeline->output->write_position(pipeline->position, position);
	commit(pipeline);
	trucker_position_committed(pipeline->position, XactLastCommitEnd);
}

/* Finish a batch that does not move the position: what it applied was passed long ago. */
void
trucker_pipeline_commit_aside(TruckerPipeline *pipeline)
{
	execute_collected(pipeline);
	commit(pipeline);
}

/* Finish a batch that held no changes; nothing is written. */
void
trucker_pipeline_end_empty(TruckerPipeline *pipeline)
{
	commit(pipeline);
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
