/*
 * stats.h
 *	  Figures of what trucks and streams have done: what is counted, and where.
 */
#ifndef TRUCKER_STATS_H
#define TRUCKER_STATS_H

#include "datatype/timestamp.h"
#include "portability/instr_time.h"
#include "utils/uuid.h"

/* What is counted of a truck.  But for errors and retries, only what has been committed. */
typedef enum TruckerTruckStat
{
	TRUCKER_ROWS_INSERTED,		/* changes of the source, as they were applied */
	TRUCKER_ROWS_UPDATED,
	TRUCKER_ROWS_DELETED,
	TRUCKER_TRUNCATES,
	TRUCKER_ROWS_BACKFILLED,
	TRUCKER_RUNS,
	TRUCKER_BATCHES,
	TRUCKER_TRANSACTIONS,		/* of the source */
	TRUCKER_BYTES,				/* of the output plugin's messages about these changes */
	TRUCKER_DECODE_NS,			/* see TruckerPhase; in its order */
	TRUCKER_INPUT_NS,
	TRUCKER_OUTPUT_NS,
	TRUCKER_COMMIT_NS,
	TRUCKER_LATENCY_US,			/* sum of what the histogram has counted */
	TRUCKER_ERRORS,
	TRUCKER_RETRIES,
	TRUCKER_TRUCK_STATS
} TruckerTruckStat;

/* What a truck's batch is at, so that its time can be told apart. */
typedef enum TruckerPhase
{
	TRUCKER_PHASE_DECODE,		/* changes become rows of r */
	TRUCKER_PHASE_INPUT,		/* input_sql, and the wait for its source transactions to be visible */
	TRUCKER_PHASE_OUTPUT,		/* output_sql, truncate_sql, reset_sql */
	TRUCKER_PHASE_COMMIT,
	TRUCKER_PHASES,
	TRUCKER_PHASE_NONE = -1		/* its time is nobody's */
} TruckerPhase;

/* What is counted of a stream. */
typedef enum TruckerStreamStat
{
	TRUCKER_STREAM_TRANSACTIONS,	/* received, whole */
	TRUCKER_STREAM_CHANGES,
	TRUCKER_STREAM_BYTES,
	TRUCKER_STREAM_SPILLS,		/* batches that went to disk */
	TRUCKER_STREAM_RECONNECTS,
	TRUCKER_STREAM_DECODE_NS,	/* receiving, decoding, keeping */
	TRUCKER_STREAM_ERRORS,
	TRUCKER_STREAM_STATS
} TruckerStreamStat;

/* The histogram of latencies: up to these bounds, in microseconds; the last bucket has none. */
#define TRUCKER_LATENCY_BOUNDS 55
#define TRUCKER_LATENCY_BUCKETS (TRUCKER_LATENCY_BOUNDS + 1)

/* Copies for others to look at. */
typedef struct TruckerTruckFigures
{
	uint64		values[TRUCKER_TRUCK_STATS];
	uint64		latency[TRUCKER_LATENCY_BUCKETS];	/* how many source transactions */
	TimestampTz since;			/* what is counted */
} TruckerTruckFigures;

typedef struct TruckerStreamFigures
{
	uint64		values[TRUCKER_STREAM_STATS];
	TimestampTz since;
} TruckerStreamFigures;

/* How far the backfill of a truck's table is. */
typedef struct TruckerProgress
{
	int			pid;			/* who is at it */
	Oid			relid;			/* the input table */
	int			number;			/* which one it is, from 1 */
	int			ntables;
	uint64		rows;			/* read */
	double		estimate;		/* how many there are; -1: not known */
	TimestampTz started_at;		/* with this table */
} TruckerProgress;

/* in shmem_stats.c: shared memory, for shmem.c */
extern Size trucker_stats_size(void);
extern void trucker_stats_startup(void);
extern void trucker_stats_clear_truck_locked(int truck);

/* in shmem_stats.c: who counts; truck is its entry's index */
extern void trucker_stats_count(int truck, TruckerTruckStat stat, uint64 n);
extern void trucker_stats_count_latency(int truck, const TimestampTz *committed, int n, TimestampTz visible);
extern void trucker_stats_attach_stream(const pg_uuid_t *stream_id);
extern void trucker_stats_count_stream(TruckerStreamStat stat, uint64 n);
extern void trucker_stats_connected(void);

/* in shmem_stats.c: a backfill */
extern void trucker_progress_begin(int truck, Oid relid, int number, int ntables, double estimate);
extern void trucker_progress_set(int truck, uint64 rows);
extern void trucker_progress_end(int truck);

/* in shmem_stats.c: who looks; false: nothing is known */
extern bool trucker_stats_get_truck(Oid database, const pg_uuid_t *truck_id, TruckerTruckFigures *figures);
extern bool trucker_stats_get_stream(Oid database, const pg_uuid_t *stream_id, TruckerStreamFigures *figures);
extern bool trucker_stats_get_progress(Oid database, const pg_uuid_t *truck_id, TruckerProgress *progress);
extern void trucker_stats_reset_truck(Oid database, const pg_uuid_t *truck_id);
extern void trucker_stats_reset_stream(Oid database, const pg_uuid_t *stream_id);

/* in latency.c */
extern int	trucker_latency_bucket(int64 us);
extern int64 trucker_latency_bound(int bucket);
extern double trucker_latency_percentile(const uint64 *buckets, double fraction);

#endif							/* TRUCKER_STATS_H */
