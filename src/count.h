/*
 * count.h
 *	  What is counted of a batch until it has been committed, and of a stream.
 */
#ifndef TRUCKER_COUNT_H
#define TRUCKER_COUNT_H

#include "stats.h"

/* Of one truck's batches. */
typedef struct TruckerCount
{
	int			entry;			/* the truck's, in shared memory; -1: nothing is told */
	MemoryContext context;
	int64		values[TRUCKER_TRUCK_STATS];	/* of the open batch */
	TruckerPhase phase;
	instr_time	since;			/* when it began */
	instr_time	spent[TRUCKER_PHASES];	/* of the open batch */
	int			nsources;		/* source transactions of the open batch */
	int			max_sources;
	TimestampTz *committed;		/* when they were */
} TruckerCount;

/* Of the stream, until it is told. */
typedef struct TruckerStreamCount
{
	int64		values[TRUCKER_STREAM_STATS];
	bool		in_change;		/* the source transaction that is being received has changes */
	bool		running;
	instr_time	since;
	double		elsewhere;		/* seconds that trucks' SQL had taken then */
} TruckerStreamCount;

/* in count.c */
extern void trucker_count_init(TruckerCount *count, MemoryContext context);
extern void trucker_count_phase(TruckerCount *count, TruckerPhase phase);
extern void trucker_count_source(TruckerCount *count, TimestampTz committed_at);
extern void trucker_count_committed(TruckerCount *count);
extern void trucker_count_forget(TruckerCount *count);

extern void trucker_stream_clock_start(TruckerStreamCount *count);
extern void trucker_stream_clock_stop(TruckerStreamCount *count);

#endif							/* TRUCKER_COUNT_H */
