/*
 * shmem_stats.c
 *	  The part of shared memory in which trucks and streams are counted.
 *
 * Whoever counts adds to an atomic variable and takes no lock, so to look at the
 * figures costs those who work nothing.  A look may fall between two of them (a batch
 * is counted, its rows are not yet); the next one sees both.
 *
 * A truck's figures are those of its entry (shmem_truck.c): they outlive its workers,
 * and are given up with the entry, when more trucks have run since the server started
 * than there is room for.  Then they begin at zero again, and say since when.  A
 * stream's have places of their own, for its worker's entry is somebody else's as soon
 * as the stream rests.  All of it ends with the server.
 *
 * How far a backfill is stands here, too: what a table's rows are counted up to is
 * written under the lock, once a table, the count itself is atomic.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/slot.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "shmem_internal.h"
#include "stats.h"

typedef struct TruckStats
{
	pg_atomic_uint64 since;
	pg_atomic_uint64 values[TRUCKER_TRUCK_STATS];
	pg_atomic_uint64 latency[TRUCKER_LATENCY_BUCKETS];
	pg_atomic_uint64 backfill_rows;
	TruckerProgress progress;	/* but for the rows; under the lock */
} TruckStats;

typedef struct StreamStats
{
	/* under the lock */
	bool		in_use;
	Oid			database;
	pg_uuid_t	id;
	TimestampTz attached_at;
	bool		connected;		/* its worker's only: there was a connection before */

	pg_atomic_uint64 since;
	pg_atomic_uint64 values[TRUCKER_STREAM_STATS];
} StreamStats;

typedef struct SharedStats
{
	int			nstreams;
	StreamStats *streams;		/* behind the trucks */
	TruckStats	trucks[FLEXIBLE_ARRAY_MEMBER];
} SharedStats;

static SharedStats *stats = NULL;

/* this worker's stream; NULL: none */
static StreamStats *my_stream = NULL;

/* There are no more workers at a time, and each stream that lasts has a slot. */
static int
stream_places(void)
{
	return max_worker_processes + max_replication_slots;
}

static Size
trucks_size(void)
{
	return MAXALIGN(add_size(offsetof(SharedStats, trucks),
							 mul_size(trucker_max_trucks, sizeof(TruckStats))));
}

Size
trucker_stats_size(void)
{
	return add_size(trucks_size(), mul_size(stream_places(), sizeof(StreamStats)));
}

static void
clear(pg_atomic_uint64 *since, pg_atomic_uint64 *values, int n)
{
	for (int i = 0; i < n; i++)
		pg_atomic_write_u64(&values[i], 0);
	pg_atomic_write_u64(since, (uint64) GetCurrentTimestamp());
}

static void
init(pg_atomic_uint64 *since, pg_atomic_uint64 *values, int n)
{
	for (int i = 0; i < n; i++)
		pg_atomic_init_u64(&values[i], 0);
	pg_atomic_init_u64(since, 0);
}

/* Under AddinShmemInitLock. */
void
trucker_stats_startup(void)
{
	bool		found;

	stats = ShmemInitStruct("trucker statistics", trucker_stats_size(), &found);
	if (found)
		return;
	memset(stats, 0, trucker_stats_size());
	stats->nstreams = stream_places();
	stats->streams = (StreamStats *) ((char *) stats + trucks_size());
	for (int i = 0; i < trucker_max_trucks; i++)
	{
		TruckStats *truck = &stats->trucks[i];

		init(&truck->since, truck->values, TRUCKER_TRUCK_STATS);
		init(&truck->backfill_rows, truck->latency, TRUCKER_LATENCY_BUCKETS);
	}
	for (int i = 0; i < stats->nstreams; i++)
		init(&stats->streams[i].since, stats->streams[i].values, TRUCKER_STREAM_STATS);
}

/* ----
 * Trucks
 * ----
 */

static void
clear_truck(TruckStats *truck)
{
	for (int i = 0; i < TRUCKER_LATENCY_BUCKETS; i++)
		pg_atomic_write_u64(&truck->latency[i], 0);
	clear(&truck->since, truck->values, TRUCKER_TRUCK_STATS);
}

/* The entry is another truck's from now on. */
void
trucker_stats_clear_truck_locked(int truck)
{
	clear_truck(&stats->trucks[truck]);
	memset(&stats->trucks[truck].progress, 0, sizeof(TruckerProgress));
}

/* For whom the entry belongs to: its worker, its backfill. */
void
trucker_stats_count(int truck, TruckerTruckStat stat, uint64 n)
{
	if (n > 0)
		pg_atomic_fetch_add_u64(&stats->trucks[truck].values[stat], n);
}

/* That many source transactions, which committed then, can be seen at the destination now. */
void
trucker_stats_count_latency(int truck, const TimestampTz *committed, int n, TimestampTz visible)
{
	TruckStats *mine = &stats->trucks[truck];
	uint64		sum = 0;

	for (int i = 0; i < n; i++)
	{
		/* a clock may have been set back */
		int64		us = Max(visible - committed[i], 0);

		sum += us;
		pg_atomic_fetch_add_u64(&mine->latency[trucker_latency_bucket(us)], 1);
	}
	trucker_stats_count(truck, TRUCKER_LATENCY_US, sum);
}

/* A truck's figures; NULL: it has no entry.  The caller holds the lock. */
static TruckStats *
find_truck_locked(Oid database, const pg_uuid_t *truck_id)
{
	TruckerTruckEntry *entry = trucker_find_truck_locked(database, truck_id);

	return entry ? &stats->trucks[entry - trucker_shared->trucks] : NULL;
}

bool
trucker_stats_get_truck(Oid database, const pg_uuid_t *truck_id, TruckerTruckFigures *figures)
{
	TruckStats *truck;

	/* under the lock, so that the entry remains this truck's */
	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	truck = find_truck_locked(database, truck_id);
	if (truck)
	{
		figures->since = (TimestampTz) pg_atomic_read_u64(&truck->since);
		for (int i = 0; i < TRUCKER_TRUCK_STATS; i++)
			figures->values[i] = pg_atomic_read_u64(&truck->values[i]);
		for (int i = 0; i < TRUCKER_LATENCY_BUCKETS; i++)
			figures->latency[i] = pg_atomic_read_u64(&truck->latency[i]);
	}
	LWLockRelease(trucker_shared_lock);
	return truck != NULL;
}

void
trucker_stats_reset_truck(Oid database, const pg_uuid_t *truck_id)
{
	TruckStats *truck;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	truck = find_truck_locked(database, truck_id);
	if (truck)
		clear_truck(truck);
	LWLockRelease(trucker_shared_lock);
}

/* ----
 * Backfills
 * ----
 */

/* This process begins to load an input table. */
void
trucker_progress_begin(int truck, Oid relid, int number, int ntables, double estimate)
{
	TruckStats *mine = &stats->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	pg_atomic_write_u64(&mine->backfill_rows, 0);
	mine->progress = (TruckerProgress)
	{
		.pid = MyProcPid,.relid = relid,.number = number,.ntables = ntables,
			.estimate = estimate,.started_at = GetCurrentTimestamp()
	};
	LWLockRelease(trucker_shared_lock);
}

/* That many rows of it have been read. */
void
trucker_progress_set(int truck, uint64 rows)
{
	pg_atomic_write_u64(&stats->trucks[truck].backfill_rows, rows);
}

/* This process loads nothing for the truck any more. */
void
trucker_progress_end(int truck)
{
	TruckStats *mine = &stats->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (mine->progress.pid == MyProcPid)
		mine->progress.pid = 0;
	LWLockRelease(trucker_shared_lock);
}

/* Only what is under way: who began may have died since. */
bool
trucker_stats_get_progress(Oid database, const pg_uuid_t *truck_id, TruckerProgress *progress)
{
	bool		found = false;
	TruckStats *truck;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	truck = find_truck_locked(database, truck_id);
	if (truck)
	{
		const TruckerTruckEntry *entry = &trucker_shared->trucks[truck - stats->trucks];
		const TruckerWorkerEntry *worker = trucker_carrier_locked(entry);

		*progress = truck->progress;
		progress->rows = pg_atomic_read_u64(&truck->backfill_rows);
		found = progress->pid != 0 &&
			(progress->pid == entry->info.backfill_pid || (worker && progress->pid == worker->info.pid));
	}
	LWLockRelease(trucker_shared_lock);
	return found;
}

/* ----
 * Streams
 * ----
 */

static StreamStats *
find_stream_locked(Oid database, const pg_uuid_t *stream_id)
{
	for (int i = 0; i < stats->nstreams; i++)
	{
		StreamStats *stream = &stats->streams[i];

		if (stream->in_use && stream->database == database &&
			memcmp(&stream->id, stream_id, sizeof(pg_uuid_t)) == 0)
			return stream;
	}
	return NULL;
}

static bool
is_idle_locked(const StreamStats *stream)
{
	const TruckerWorkerEntry *worker;

	if (!stream->in_use)
		return true;
	worker = trucker_find_worker_locked(stream->database, &stream->id);
	return worker == NULL || worker->info.pid == 0;
}

/*
 * A place for a stream: a free one, or else that of the stream that has had no worker
 * for longest.  There is one, since there are more places than workers.
 */
static StreamStats *
allocate_stream_locked(void)
{
	StreamStats *best = NULL;

	for (int i = 0; i < stats->nstreams; i++)
	{
		StreamStats *stream = &stats->streams[i];

		if (!is_idle_locked(stream))
			continue;
		if (!stream->in_use)
			return stream;
		if (best == NULL || stream->attached_at < best->attached_at)
			best = stream;
	}
	return best;
}

/* A worker's stream is counted from now on, from where the one before it has stopped. */
void
trucker_stats_attach_stream(const pg_uuid_t *stream_id)
{
	Oid			database = trucker_my_entry->info.database;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	my_stream = find_stream_locked(database, stream_id);
	if (my_stream == NULL && (my_stream = allocate_stream_locked()) != NULL)
	{
		my_stream->in_use = true;
		my_stream->database = database;
		my_stream->id = *stream_id;
		my_stream->connected = false;
		clear(&my_stream->since, my_stream->values, TRUCKER_STREAM_STATS);
	}
	if (my_stream)
		my_stream->attached_at = GetCurrentTimestamp();
	LWLockRelease(trucker_shared_lock);
}

void
trucker_stats_count_stream(TruckerStreamStat stat, uint64 n)
{
	if (my_stream && n > 0)
		pg_atomic_fetch_add_u64(&my_stream->values[stat], n);
}

/* The worker has connected to be sent changes. */
void
trucker_stats_connected(void)
{
	if (my_stream == NULL)
		return;
	if (my_stream->connected)
		trucker_stats_count_stream(TRUCKER_STREAM_RECONNECTS, 1);
	my_stream->connected = true;
}

bool
trucker_stats_get_stream(Oid database, const pg_uuid_t *stream_id, TruckerStreamFigures *figures)
{
	StreamStats *stream;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	stream = find_stream_locked(database, stream_id);
	if (stream)
	{
		figures->since = (TimestampTz) pg_atomic_read_u64(&stream->since);
		for (int i = 0; i < TRUCKER_STREAM_STATS; i++)
			figures->values[i] = pg_atomic_read_u64(&stream->values[i]);
	}
	LWLockRelease(trucker_shared_lock);
	return stream != NULL;
}

void
trucker_stats_reset_stream(Oid database, const pg_uuid_t *stream_id)
{
	StreamStats *stream;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	stream = find_stream_locked(database, stream_id);
	if (stream)
		clear(&stream->since, stream->values, TRUCKER_STREAM_STATS);
	LWLockRelease(trucker_shared_lock);
}
