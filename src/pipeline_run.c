/*
 * pipeline_run.c
 *	  The part of the road on which changes become runs, and runs are executed.
 *
 * Visibility: a transaction is decoded as soon as its commit record is flushed,
 * but its session takes it off the list of running transactions only later -
 * with synchronous replication, when the standby has answered.  Joins in
 * input.sql must not see the source as it was before the changes that they
 * enrich, so before a run's SQL we wait for the batch's source transactions.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "log.h"
#include "pipeline_internal.h"
#include "slow_plan.h"

/*
 * Wait until all source transactions of the batch can be seen, and take a new
 * snapshot.
 */
void
trucker_pipeline_wait_for_sources(TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->nunseen; i++)
		if (TransactionIdIsInProgress(pipeline->unseen[i]))
			XactLockTableWait(pipeline->unseen[i], NULL, NULL, XLTW_None);
	pipeline->nunseen = 0;

	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
trucker_pipeline_note_source(TruckerPipeline *pipeline, TransactionId xid)
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

/* Returns the rows that output.sql has seen. */
static int64
run_sql(TruckerPipeline *pipeline, TruckerInput *input)
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
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_OUTPUT);
	program->output->routine->execute(program->output, plans->output, &rows);
	if (result)
		tuplestore_end(result);
	return (int64) rows.count;
}

/* Milliseconds from which on a run is slow; -1: none is. */
static int
slow_threshold(const TruckerPipeline *pipeline)
{
	int			threshold = pipeline->truck->slow_query_threshold;

	return threshold == TRUCKER_THRESHOLD_OF_SERVER ? trucker_slow_query_threshold : threshold;
}

static void
log_slow_run(const TruckerPipeline *pipeline, const TruckerInput *input, TimestampTz started)
{
	long		ms = TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());
	int			threshold = slow_threshold(pipeline);
	const char *plans = trucker_plans_taken();

	if (threshold < 0 || ms < threshold)
		return;
	ereport(trucker_elevel(TRUCKER_LOG_WARN),
			(errmsg("slow run of truck \"%s\": %ld ms for " INT64_FORMAT " rows of table %s",
					pipeline->truck->name, ms, input->run->nrows, input->program->relation->name),
			 plans ? errdetail_internal("%s", plans) : 0));
	trucker_plans_forget();
}

/*
 * statement_timeout is armed by the main loop of a session only.  Its timer serves us
 * as well: it cancels the SQL, as pg_cancel_backend would.
 */
void
trucker_pipeline_start_clock(TruckerPipeline *pipeline)
{
	/* each run is a statement; now() is the batch's */
	SetCurrentStatementStartTimestamp();
	pipeline->run_started = GetCurrentStatementStartTimestamp();
	if (trucker_run_timeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, trucker_run_timeout);
}

void
trucker_pipeline_stop_clock(TruckerPipeline *pipeline)
{
	if (trucker_run_timeout > 0)
		disable_timeout(STATEMENT_TIMEOUT, false);
	pipeline->run_started = 0;
}

/* The truck's SQL is about to be executed; returns what trucker_pipeline_end_sql() wants. */
int
trucker_pipeline_begin_sql(TruckerPipeline *pipeline)
{
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_INPUT);
	trucker_pipeline_wait_for_sources(pipeline);
	trucker_pipeline_start_clock(pipeline);

	/* what the SQL SETs ends with the run, and does not reach what follows */
	return NewGUCNestLevel();
}

void
trucker_pipeline_end_sql(TruckerPipeline *pipeline, int nestlevel)
{
	AtEOXact_GUC(false, nestlevel);
	trucker_pipeline_stop_clock(pipeline);
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_DECODE);
}

/* Execute the run that is being collected, if any. */
void
trucker_pipeline_execute_run(TruckerPipeline *pipeline)
{
	TruckerInput *input = pipeline->current;
	TimestampTz started;
	MemoryContext old;
	int			nestlevel;
	int64		rows_out;

	if (input == NULL)
		return;
	nestlevel = trucker_pipeline_begin_sql(pipeline);
	started = pipeline->run_started;
	trucker_plans_watch(slow_threshold(pipeline));
	old = MemoryContextSwitchTo(input->run->context);
	rows_out = run_sql(pipeline, input);
	if (pipeline->observer)
		pipeline->observer->executed(pipeline->observer, input, input->run->nrows, rows_out);
	MemoryContextSwitchTo(old);
	trucker_pipeline_end_sql(pipeline, nestlevel);

	log_slow_run(pipeline, input, started);
	pipeline->count.values[TRUCKER_RUNS]++;
	trucker_run_clear(input->run);
	pipeline->current = NULL;
}

/* Let a change join the input's run, executing first the run that it ends. */
static void
join_run(TruckerPipeline *pipeline, TruckerInput *input, const TruckerRow *row)
{
	TruckerRun *run = input->run;

	if (pipeline->current != NULL && pipeline->current != input)
		trucker_pipeline_execute_run(pipeline);
	if (!trucker_run_accepts(run, row))
	{
		trucker_pipeline_execute_run(pipeline);
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
void
trucker_pipeline_execute_collected(TruckerPipeline *pipeline)
{
	TruckerInput *changing = pipeline->changing;

	/* a run's error is not that of the change before which it is executed */
	pipeline->changing = NULL;
	if (pipeline->ncollected > 0)
		flush_net(pipeline);
	trucker_pipeline_execute_run(pipeline);
	pipeline->changing = changing;
}

/* Collect the change in input->row, of which trucker_net_find() has been told. */
void
trucker_pipeline_collect(TruckerPipeline *pipeline, TruckerInput *input)
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
		trucker_pipeline_execute_collected(pipeline);
	CHECK_FOR_INTERRUPTS();
}
