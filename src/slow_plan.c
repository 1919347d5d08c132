/*
 * slow_plan.c
 *	  The plans of a slow run's statements, for the log (trucker.log_slow_plans).
 *
 * Whether a run is slow is known at its end, and then its plans are gone.  So when one
 * of its statements ends that has taken a good part of what makes a run slow, its plan
 * is kept as text; it is thrown away if the run is not slow after all.  Only the truck's
 * own statements count, not those that functions and triggers execute within them.
 *
 * A plan shows the constants of the truck's SQL, and no row: r is a relation, and there
 * are no parameters.
 */
#include "trucker.h"

#include "commands/explain.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"

#include "log.h"
#include "slow_plan.h"

/* a statement's part of the threshold below which its plan is not kept */
#define PART_OF_THRESHOLD 10

static bool watching = false;
static double least_ms;
static MemoryContext plans_context = NULL;
static StringInfo plans = NULL; /* NULL: none yet */
static int	nstatements;

/* the statement that is being executed; NULL: none */
static QueryDesc *statement = NULL;
static instr_time began;

/* A run begins, which is slow if it takes that long. */
void
trucker_plans_watch(int threshold_ms)
{
	trucker_plans_forget();
	if (trucker_log_slow_plans == TRUCKER_PLANS_OFF || threshold_ms < 0)
		return;
	if (plans_context == NULL)
		plans_context = AllocSetContextCreate(TopMemoryContext, "trucker slow plans", ALLOCSET_SMALL_SIZES);
	least_ms = (double) threshold_ms / PART_OF_THRESHOLD;
	nstatements = 0;
	watching = true;
}

/* The run has been executed; NULL: there are no plans to be shown. */
const char *
trucker_plans_taken(void)
{
	watching = false;
	return plans ? plans->data : NULL;
}

/* The run has been dealt with, or has failed. */
void
trucker_plans_forget(void)
{
	watching = false;
	statement = NULL;
	plans = NULL;
	if (plans_context)
		MemoryContextReset(plans_context);
}

/*
 * A statement begins.  The first one is the run's; those until it ends are of functions
 * and triggers, or trucker's own.
 */
void
trucker_plans_before_start(QueryDesc *query, int eflags)
{
	if (!watching || statement != NULL || (eflags & EXEC_FLAG_EXPLAIN_ONLY))
		return;
	if (trucker_log_slow_plans == TRUCKER_PLANS_ANALYZE)
		query->instrument_options |= INSTRUMENT_TIMER | INSTRUMENT_ROWS | INSTRUMENT_BUFFERS;
	statement = query;
	INSTR_TIME_SET_CURRENT(began);
}

static void
explain(QueryDesc *query, double ms)
{
	MemoryContext old = MemoryContextSwitchTo(query->estate->es_query_cxt);
	ExplainState *es = NewExplainState();

	es->analyze = trucker_log_slow_plans == TRUCKER_PLANS_ANALYZE && query->instrument_options != 0;
	es->buffers = es->timing = es->summary = es->analyze;
	ExplainBeginOutput(es);
	ExplainPrintPlan(es, query);
	if (es->analyze)
		ExplainPrintTriggers(es, query);
	ExplainEndOutput(es);

	MemoryContextSwitchTo(plans_context);
	if (plans == NULL)
		plans = makeStringInfo();
	appendStringInfo(plans, "%sStatement %d, %.1f ms:\n", plans->len > 0 ? "\n" : "", nstatements, ms);
	appendBinaryStringInfo(plans, es->str->data, Max(es->str->len - 1, 0));
	MemoryContextSwitchTo(old);
}

void
trucker_plans_before_end(QueryDesc *query)
{
	instr_time	now;

	if (!watching || query != statement)
		return;
	statement = NULL;
	nstatements++;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, began);
	if (INSTR_TIME_GET_MILLISEC(now) >= least_ms)
		explain(query, INSTR_TIME_GET_MILLISEC(now));
}
