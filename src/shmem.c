/*
 * shmem.c
 *	  The only shared memory that trucker has.
 *
 * It holds no truth, only news: which streams the probes found wanted, which
 * worker processes exist for them, and how far these are.  All of it can be
 * thrown away (as it is after a crash) and found again from the catalogs.
 *
 * Everything is protected by one LWLock, held for a few instructions each
 * time.  An entry is reused for another stream only after its worker has gone;
 * its generation counter tells a late reader, or a worker that was registered
 * for the entry's former stream, that the entry is no longer the one it meant.
 *
 * This file is for the launcher, the probes and any backend; what a worker says
 * of itself is in shmem_worker.c, what is known of each truck in shmem_truck.c, of
 * each slot in shmem_slot.c, how a truck moves between streams in shmem_move.c, and what
 * is counted in shmem_stats.c.
 *
 * Whoever waits for progress (trucker.wait_for) sleeps on one condition
 * variable that every worker broadcasts.  That costs a worker nothing while
 * nobody waits.
 */
#include "trucker.h"

#include <signal.h>

#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "log.h"
#include "shmem_internal.h"
#include "stats.h"
#include "wait.h"

TruckerSharedState *trucker_shared = NULL;
LWLock	   *trucker_shared_lock = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
workers_size(void)
{
	return add_size(offsetof(TruckerSharedState, workers),
					mul_size(max_worker_processes, sizeof(TruckerWorkerEntry)));
}

static Size
trucks_size(void)
{
	return mul_size(trucker_max_trucks, sizeof(TruckerTruckEntry));
}

static Size
shared_size(void)
{
	return add_size(add_size(MAXALIGN(workers_size()), MAXALIGN(trucks_size())),
					mul_size(max_replication_slots, sizeof(TruckerSlotEntry)));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(trucker_stats_size());
	RequestNamedLWLockTranche("trucker", 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	trucker_shared = ShmemInitStruct("trucker", shared_size(), &found);
	trucker_shared_lock = &(GetNamedLWLockTranche("trucker"))->lock;
	if (!found)
	{
		memset(trucker_shared, 0, shared_size());
		ConditionVariableInit(&trucker_shared->progress);
		trucker_shared->nworkers = max_worker_processes;
		trucker_shared->ntrucks = trucker_max_trucks;
		trucker_shared->trucks = (TruckerTruckEntry *) ((char *) trucker_shared + MAXALIGN(workers_size()));
		trucker_shared->nslots = max_replication_slots;
		trucker_shared->slots = (TruckerSlotEntry *) ((char *) trucker_shared->trucks + MAXALIGN(trucks_size()));
	}
	trucker_stats_startup();
	LWLockRelease(AddinShmemInitLock);
}

/* Ask for the shared memory; called from _PG_init while preloading. */
void
trucker_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* False where trucker is not in shared_preload_libraries. */
bool
trucker_shmem_available(void)
{
	return trucker_shared != NULL;
}

const char *
trucker_state_name(TruckerState state)
{
	switch (state)
	{
		case TRUCKER_STARTING:
			return "starting";
		case TRUCKER_WAITING:
			return "waiting";
		case TRUCKER_CREATING_SLOT:
			return "creating slot";
		case TRUCKER_BACKFILL:
			return "backfill";
		case TRUCKER_CATCHUP:
			return "catch-up";
		case TRUCKER_STREAMING:
			return "streaming";
		case TRUCKER_RETRYING:
			return "retrying";
		case TRUCKER_RESTING:
			return "stopped";
	}
	return "unknown";
}

/* ----
 * Requests to the launcher
 * ----
 */

/* The caller holds the lock. */
void
trucker_wake_launcher_locked(void)
{
	if (trucker_shared->launcher)
		SetLatch(trucker_shared->launcher);
}

/* Ask the launcher to look into a database, or with InvalidOid into all. */
void
trucker_request_scan(Oid database)
{
	bool		known = false;

	if (trucker_shared == NULL)
		return;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < trucker_shared->npending; i++)
		known |= trucker_shared->pending[i] == database;
	if (!OidIsValid(database) ||
		(!known && trucker_shared->npending == MAX_PENDING_SCANS))
		trucker_shared->scan_all = true;
	else if (!known)
		trucker_shared->pending[trucker_shared->npending++] = database;
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
}

/*
 * Take the next request.  False: there is none.  *database is InvalidOid for
 * "all of them".
 */
bool
trucker_take_scan_request(Oid *database)
{
	bool		found = true;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (trucker_shared->scan_all)
	{
		*database = InvalidOid;
		trucker_shared->scan_all = false;
		trucker_shared->npending = 0;
	}
	else if (trucker_shared->npending > 0)
	{
		*database = trucker_shared->pending[0];
		trucker_shared->npending--;
		memmove(trucker_shared->pending, trucker_shared->pending + 1,
				trucker_shared->npending * sizeof(Oid));
	}
	else
		found = false;
	LWLockRelease(trucker_shared_lock);
	return found;
}

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_shared->launcher = NULL;
	LWLockRelease(trucker_shared_lock);
}

/* The launcher says hello; it is forgotten when its process ends. */
void
trucker_launcher_attach(void)
{
	before_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_shared->launcher = MyLatch;
	LWLockRelease(trucker_shared_lock);
}

/* ----
 * The launcher's and the probes' view of the workers
 * ----
 */

/* The caller holds the lock. */
TruckerWorkerEntry *
trucker_find_worker_locked(Oid database, const pg_uuid_t *stream_id)
{
	for (int i = 0; i < trucker_shared->nworkers; i++)
	{
		TruckerWorkerEntry *entry = &trucker_shared->workers[i];

		if (entry->in_use && entry->info.database == database &&
			memcmp(&entry->info.stream_id, stream_id, sizeof(pg_uuid_t)) == 0)
			return entry;
	}
	return NULL;
}

static TruckerWorkerEntry *
allocate_entry(Oid database, const TruckerWanted *wanted)
{
	for (int i = 0; i < trucker_shared->nworkers; i++)
	{
		TruckerWorkerEntry *entry = &trucker_shared->workers[i];
		uint64		generation = entry->info.generation + 1;

		if (entry->in_use)
			continue;
		memset(entry, 0, sizeof(*entry));
		entry->in_use = true;
		entry->info.index = i;
		entry->info.generation = generation;
		entry->info.database = database;
		entry->info.stream_id = wanted->stream_id;
		entry->info.truck = -1;
		strlcpy(entry->info.name, wanted->name, NAMEDATALEN);
		return entry;
	}
	return NULL;
}

/*
 * A probe reports all streams of its database that shall have a worker.  Those it
 * does not name shall not.  The launcher acts on the difference.
 */
void
trucker_set_wanted(Oid database, const TruckerWanted *wanted, int n)
{
	int			unplaced = 0;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < trucker_shared->nworkers; i++)
	{
		TruckerWorkerEntry *entry = &trucker_shared->workers[i];

		if (entry->in_use && entry->info.database == database)
			entry->info.wanted = false;
	}
	for (int i = 0; i < n; i++)
	{
		TruckerWorkerEntry *entry = trucker_find_worker_locked(database, &wanted[i].stream_id);

		if (entry == NULL)
			entry = allocate_entry(database, &wanted[i]);
		if (entry == NULL)
			unplaced++;
		else
		{
			entry->info.wanted = true;
			strlcpy(entry->info.name, wanted[i].name, NAMEDATALEN);
		}
	}
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);

	if (unplaced > 0)
		ereport(trucker_elevel(TRUCKER_LOG_WARN),
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start %d streams: no worker slot is free", unplaced),
				 errhint("Raise max_worker_processes.")));
}

/* The number of entries; indexes run from 0. */
int
trucker_worker_count(void)
{
	return trucker_shared->nworkers;
}

/* Copy an entry; false: it is free. */
bool
trucker_get_worker(int index, TruckerWorkerInfo *info)
{
	bool		in_use;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	in_use = trucker_shared->workers[index].in_use;
	*info = trucker_shared->workers[index].info;
	LWLockRelease(trucker_shared_lock);
	return in_use;
}

/* Has the stream a worker, or one that has begun to start? */
bool
trucker_has_worker(Oid database, const pg_uuid_t *stream_id)
{
	TruckerWorkerInfo worker;

	return trucker_find_worker(database, stream_id, &worker) && worker.pid != 0;
}

/* Copy a stream's entry; false: it has none. */
bool
trucker_find_worker(Oid database, const pg_uuid_t *stream_id, TruckerWorkerInfo *info)
{
	TruckerWorkerEntry *entry;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	entry = trucker_find_worker_locked(database, stream_id);
	if (entry)
		*info = entry->info;
	LWLockRelease(trucker_shared_lock);
	return entry != NULL;
}

/* The launcher could not, or shall not yet, start this worker. */
void
trucker_worker_set_launch(int index, uint64 generation,
						  TimestampTz launch_after, bool waits_for_worker)
{
	TruckerWorkerEntry *entry = &trucker_shared->workers[index];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation)
	{
		entry->info.launch_after = launch_after;
		entry->info.waits_for_worker = waits_for_worker;
	}
	LWLockRelease(trucker_shared_lock);
}

/* The launcher has registered a worker for this entry. */
void
trucker_worker_launched(int index, uint64 generation)
{
	TruckerWorkerEntry *entry = &trucker_shared->workers[index];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation)
	{
		entry->info.waits_for_worker = false;
		entry->info.launch_after = 0;
		entry->info.quick_exits++;	/* until it has shown that it works */
	}
	LWLockRelease(trucker_shared_lock);
}

/* Has the stream that its truck has moved to yet to take it over? */
static bool
is_awaited_locked(const TruckerWorkerEntry *entry)
{
	TruckerWorkerEntry *other = entry->info.move == TRUCKER_MOVE_NONE ? NULL :
		trucker_find_worker_locked(entry->info.database, &entry->info.move_to);

	return other != NULL && other->info.pid != 0;
}

/*
 * Free an entry whose stream shall not run and whose worker is gone.  False: not
 * now; who it waits for wakes the launcher.
 */
bool
trucker_worker_forget(int index, uint64 generation)
{
	TruckerWorkerEntry *entry = &trucker_shared->workers[index];
	bool		forgotten;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	forgotten = entry->in_use && entry->info.generation == generation &&
		!entry->info.wanted && entry->info.pid == 0 && !is_awaited_locked(entry);
	if (forgotten)
	{
		trucker_release_trucks_locked(index);
		entry->in_use = false;
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
	return forgotten;
}

/*
 * Tell a worker, if there is one, to end; and when it has not done so after a
 * while, make it.  Under the lock, so that the pid is the worker's.
 */
static void
end_worker_locked(TruckerWorkerEntry *entry)
{
	TimestampTz now = GetCurrentTimestamp();

	if (entry->info.pid == 0)
		return;
	if (entry->ending_since == 0)
	{
		entry->ending_since = now;
		kill(entry->info.pid, SIGINT);
	}
	else if (TimestampDifferenceExceeds(entry->ending_since, now, TRUCKER_END_PATIENCE_MS))
		kill(entry->info.pid, SIGTERM);
}

/* End the worker of an entry, if there is one.  To be called until it is gone. */
void
trucker_worker_terminate(int index, uint64 generation)
{
	TruckerWorkerEntry *entry = &trucker_shared->workers[index];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation)
		end_worker_locked(entry);
	LWLockRelease(trucker_shared_lock);
}

/*
 * End what goes on although it was cancelled a while ago, and cancel what others have
 * waited for long enough.  Returns the milliseconds to wait before doing so again, or
 * -1 for no limit.
 */
long
trucker_interrupt_workers(void)
{
	long		wait;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	wait = trucker_hurry_takers_locked();
	if (trucker_kill_stubborn_locked() && (wait < 0 || wait > TRUCKER_END_PATIENCE_MS))
		wait = TRUCKER_END_PATIENCE_MS;
	LWLockRelease(trucker_shared_lock);
	return wait;
}

/* Is this process (0: none) a worker or a backfill of ours? */
bool
trucker_is_own_process(int pid)
{
	bool		found = false;

	if (pid == 0)
		return false;
	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	for (int i = 0; i < trucker_shared->nworkers; i++)
		found |= trucker_shared->workers[i].in_use && trucker_shared->workers[i].info.pid == pid;
	for (int i = 0; i < trucker_shared->ntrucks; i++)
		found |= trucker_shared->trucks[i].in_use && trucker_shared->trucks[i].info.backfill_pid == pid;
	LWLockRelease(trucker_shared_lock);
	return found;
}

/* Does this walsender serve a worker that is alive? */
bool
trucker_is_walsender(int pid)
{
	bool		found = false;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	for (int i = 0; i < trucker_shared->nworkers; i++)
		found |= trucker_shared->workers[i].in_use && trucker_shared->workers[i].info.walsender_pid == pid;
	LWLockRelease(trucker_shared_lock);
	return found;
}

/* Is a catch-up stream of the database being made, which still carries no truck? */
bool
trucker_database_is_splitting(Oid database)
{
	bool		splitting = false;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	for (int i = 0; i < trucker_shared->nworkers; i++)
		splitting |= trucker_shared->workers[i].in_use &&
			trucker_shared->workers[i].info.database == database &&
			trucker_shared->workers[i].info.splitting;
	LWLockRelease(trucker_shared_lock);
	return splitting;
}

/* How many workers are alive in a database, backfills and a probe included? */
int
trucker_database_workers(Oid database)
{
	int			n = 0;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	if (trucker_shared->probe_database == database && trucker_shared->probe_pid != 0)
		n++;
	for (int i = 0; i < trucker_shared->nworkers; i++)
	{
		TruckerWorkerInfo *info = &trucker_shared->workers[i].info;

		if (trucker_shared->workers[i].in_use && info->database == database && info->pid != 0)
			n++;
	}
	for (int i = 0; i < trucker_shared->ntrucks; i++)
		if (trucker_shared->trucks[i].in_use && trucker_shared->trucks[i].info.database == database &&
			trucker_shared->trucks[i].info.backfill_pid != 0)
			n++;
	LWLockRelease(trucker_shared_lock);
	return n;
}

/* ----
 * For any backend
 * ----
 */

/* The caller holds the lock. */
void
trucker_poke_worker_locked(TruckerWorkerEntry *entry)
{
	entry->info.launch_after = 0;
	entry->info.quick_exits = 0;
	if (entry->latch)
	{
		entry->poked = true;
		SetLatch(entry->latch);
	}
}

/* Let a stream's worker, if there is one, look at the catalog again. */
void
trucker_signal_stream(Oid database, const pg_uuid_t *stream_id)
{
	TruckerWorkerEntry *entry;

	if (trucker_shared == NULL)
		return;
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	entry = trucker_find_worker_locked(database, stream_id);
	if (entry)
		trucker_poke_worker_locked(entry);
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
}

/*
 * While a database is being dropped, or the extension in it, no worker may
 * start there; those that run are ended.
 */
void
trucker_set_database_closing(Oid database, bool closing)
{
	int			place = -1;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < trucker_shared->nclosing; i++)
		if (trucker_shared->closing[i] == database)
			place = i;
	if (closing && place < 0)
	{
		if (trucker_shared->nclosing == MAX_CLOSING_DATABASES)
		{
			LWLockRelease(trucker_shared_lock);
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many databases are being dropped at the same time")));
		}
		trucker_shared->closing[trucker_shared->nclosing++] = database;
	}
	else if (!closing && place >= 0)
		trucker_shared->closing[place] = trucker_shared->closing[--trucker_shared->nclosing];

	if (closing)
	{
		trucker_call_off_probe_locked(database);
		for (int i = 0; i < trucker_shared->nworkers; i++)
		{
			TruckerWorkerEntry *entry = &trucker_shared->workers[i];

			if (entry->in_use && entry->info.database == database)
				end_worker_locked(entry);
		}
		for (int i = 0; i < trucker_shared->ntrucks; i++)
		{
			TruckerTruckInfo *truck = &trucker_shared->trucks[i].info;

			if (trucker_shared->trucks[i].in_use && truck->database == database && truck->backfill_pid != 0)
				kill(truck->backfill_pid, SIGINT);
		}
	}
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
}

/* The caller holds the lock. */
bool
trucker_is_closing_locked(Oid database)
{
	for (int i = 0; i < trucker_shared->nclosing; i++)
		if (trucker_shared->closing[i] == database)
			return true;
	return false;
}

bool
trucker_database_closing(Oid database)
{
	bool		closing;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	closing = trucker_is_closing_locked(database);
	LWLockRelease(trucker_shared_lock);
	return closing;
}

/* Before looking at a state that one will wait on: no change is missed. */
void
trucker_wait_progress_prepare(void)
{
	ConditionVariablePrepareToSleep(&trucker_shared->progress);
}

/* Wait until some worker's state changes; false: the time is up. */
bool
trucker_wait_progress(long timeout_ms)
{
	return !ConditionVariableTimedSleep(&trucker_shared->progress, timeout_ms,
										trucker_wait(TRUCKER_WAIT_PROGRESS));
}

void
trucker_wait_progress_end(void)
{
	ConditionVariableCancelSleep();
}
