/*
 * count.c
 *	  What is counted of a batch until it has been committed, and of a stream.
 *
 * What a batch has done is kept here, and told to shared memory when the destination
 * has it: an attempt that is rolled back has applied nothing.  A clock is read when a
 * batch goes from one phase to the next, which is a few times a run, never for a row.
 *
 * A stream's own time is that in which it is not waiting, less what the SQL of trucks
 * takes in between, when one of them takes the changes as they arrive.
 */
#include "trucker.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "count.h"

/* a stream with that many untold changes tells of them, in the midst of a transaction, too */
#define TELL_CHANGES 10000

/* seconds that this process has spent in phases other than decoding */
static double elsewhere = 0;

/* Nothing is counted yet; context must live as long. */
void
trucker_count_init(TruckerCount *count, MemoryContext context)
{
	memset(count, 0, sizeof(*count));
	count->entry = -1;
	count->context = context;
	count->phase = TRUCKER_PHASE_NONE;
}

/* The batch does something else from now on. */
void
trucker_count_phase(TruckerCount *count, TruckerPhase phase)
{
	instr_time	now;

	if (phase == count->phase)
		return;
	INSTR_TIME_SET_CURRENT(now);
	if (count->phase != TRUCKER_PHASE_NONE)
	{
		INSTR_TIME_ACCUM_DIFF(count->spent[count->phase], now, count->since);
		if (count->phase != TRUCKER_PHASE_DECODE)
		{
			instr_time	spent = now;

			INSTR_TIME_SUBTRACT(spent, count->since);
			elsewhere += INSTR_TIME_GET_DOUBLE(spent);
		}
	}
	count->phase = phase;
	count->since = now;
}

/* The batch has a source transaction more. */
void
trucker_count_source(TruckerCount *count, TimestampTz committed_at)
{
	if (count->nsources == count->max_sources)
	{
		count->max_sources = Max(64, count->max_sources * 2);
		if (count->committed == NULL)
			count->committed = MemoryContextAlloc(count->context, count->max_sources * sizeof(TimestampTz));
		else
			count->committed = repalloc_huge(count->committed, count->max_sources * sizeof(TimestampTz));
	}
	count->committed[count->nsources++] = committed_at;
}

/* The batch is not, or has been told. */
void
trucker_count_forget(TruckerCount *count)
{
	trucker_count_phase(count, TRUCKER_PHASE_NONE);
	memset(count->values, 0, sizeof(count->values));
	memset(count->spent, 0, sizeof(count->spent));
	count->nsources = 0;
}

/* The batch can be seen at the destination. */
void
trucker_count_committed(TruckerCount *count)
{
	trucker_count_phase(count, TRUCKER_PHASE_NONE);
	if (count->entry >= 0)
	{
		count->values[TRUCKER_BATCHES]++;
		count->values[TRUCKER_TRANSACTIONS] += count->nsources;
		for (int i = 0; i < TRUCKER_PHASES; i++)
			count->values[TRUCKER_DECODE_NS + i] = (int64) (INSTR_TIME_GET_DOUBLE(count->spent[i]) * 1e9);
		for (int i = 0; i < TRUCKER_TRUCK_STATS; i++)
			trucker_stats_count(count->entry, i, count->values[i]);
		if (count->nsources > 0)
			trucker_stats_count_latency(count->entry, count->committed, count->nsources, GetCurrentTimestamp());
	}
	trucker_count_forget(count);
}

/* ----
 * Streams
 * ----
 */

static void
tell(TruckerStreamCount *count)
{
	for (int i = 0; i < TRUCKER_STREAM_STATS; i++)
		trucker_stats_count_stream(i, count->values[i]);
	memset(count->values, 0, sizeof(count->values));
}

/* A message has come: the stream is not waiting. */
void
trucker_stream_clock_start(TruckerStreamCount *count)
{
	if (count->values[TRUCKER_STREAM_CHANGES] >= TELL_CHANGES)
		trucker_stream_clock_stop(count);
	if (count->running)
		return;
	INSTR_TIME_SET_CURRENT(count->since);
	count->elsewhere = elsewhere;
	count->running = true;
}

/* It waits, or lets trucks apply what it has received. */
void
trucker_stream_clock_stop(TruckerStreamCount *count)
{
	instr_time	now;
	double		seconds;

	if (!count->running)
		return;
	count->running = false;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, count->since);
	seconds = INSTR_TIME_GET_DOUBLE(now) - (elsewhere - count->elsewhere);
	count->values[TRUCKER_STREAM_DECODE_NS] = (int64) (Max(seconds, 0) * 1e9);
	tell(count);
}
