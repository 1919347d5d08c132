/*
 * shmem.c
 *	  The only shared memory that trucker has.
 *
 * It holds no truth, only news: which trucks the probes found enabled, which
 * worker processes exist for them, and how far these are.  All of it can be
 * thrown away (as it is after a crash) and found again from the catalogs.
 *
 * Everything is protected by one LWLock, held for a few instructions each
 * time.  An entry is reused for another truck only after its worker has gone;
 * its generation counter tells a late reader, or a worker that was registered
 * for the entry's former truck, that the entry is no longer the one it meant.
 *
 * Whoever waits for progress (trucker.wait_for) sleeps on one condition
 * variable that every worker broadcasts.  That costs a worker nothing while
 * nobody waits.
 */
#include "trucker.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "shmem.h"

#define MAX_PENDING_SCANS 64
#define MAX_CLOSING_DATABASES 64

typedef struct WorkerEntry
{
	bool		in_use;
	bool		poked;
	Latch	   *latch;			/* of the running worker, or NULL */
	TimestampTz ending_since;	/* it has been told to end; 0: it has not */
	TruckerWorkerInfo info;
} WorkerEntry;

typedef struct SharedState
{
	Latch	   *launcher;		/* NULL while no launcher runs */
	bool		probe_succeeded;	/* the one that was sent last */
	bool		scan_all;
	int			npending;
	Oid			pending[MAX_PENDING_SCANS];
	int			nclosing;
	Oid			closing[MAX_CLOSING_DATABASES];
	ConditionVariable progress;
	int			nworkers;
	WorkerEntry workers[FLEXIBLE_ARRAY_MEMBER];
} SharedState;

static SharedState *shared = NULL;
static LWLock *shared_lock = NULL;
static WorkerEntry *my_entry = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
shared_size(void)
{
	return add_size(offsetof(SharedState, workers),
					mul_size(max_worker_processes, sizeof(WorkerEntry)));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("trucker", 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("trucker", shared_size(), &found);
	shared_lock = &(GetNamedLWLockTranche("trucker"))->lock;
	if (!found)
	{
		memset(shared, 0, shared_size());
		ConditionVariableInit(&shared->progress);
		shared->nworkers = max_worker_processes;
	}
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
	return shared != NULL;
}

const char *
trucker_state_name(TruckerState state)
{
	switch (state)
	{
		case TRUCKER_STARTING:
			return "starting";
		case TRUCKER_CREATING_SLOT:
			return "creating slot";
		case TRUCKER_BACKFILL:
			return "backfill";
		case TRUCKER_STREAMING:
			return "streaming";
		case TRUCKER_RETRYING:
			return "retrying";
	}
	return "unknown";
}

/* ----
 * Requests to the launcher
 * ----
 */

static void
wake_launcher_locked(void)
{
	if (shared->launcher)
		SetLatch(shared->launcher);
}

void
trucker_wake_launcher(void)
{
	LWLockAcquire(shared_lock, LW_SHARED);
	wake_launcher_locked();
	LWLockRelease(shared_lock);
}

/* Ask the launcher to look into a database, or with InvalidOid into all. */
void
trucker_request_scan(Oid database)
{
	bool		known = false;

	if (shared == NULL)
		return;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->npending; i++)
		known |= shared->pending[i] == database;
	if (!OidIsValid(database) ||
		(!known && shared->npending == MAX_PENDING_SCANS))
		shared->scan_all = true;
	else if (!known)
		shared->pending[shared->npending++] = database;
	wake_launcher_locked();
	LWLockRelease(shared_lock);
}

/*
 * Take the next request.  False: there is none.  *database is InvalidOid for
 * "all of them".
 */
bool
trucker_take_scan_request(Oid *database)
{
	bool		found = true;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (shared->scan_all)
	{
		*database = InvalidOid;
		shared->scan_all = false;
		shared->npending = 0;
	}
	else if (shared->npending > 0)
	{
		*database = shared->pending[0];
		shared->npending--;
		memmove(shared->pending, shared->pending + 1,
				shared->npending * sizeof(Oid));
	}
	else
		found = false;
	LWLockRelease(shared_lock);
	return found;
}

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->launcher = NULL;
	LWLockRelease(shared_lock);
}

/* The launcher says hello; it is forgotten when its process ends. */
void
trucker_launcher_attach(void)
{
	before_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->launcher = MyLatch;
	LWLockRelease(shared_lock);
}

/* ----
 * The launcher's and the probes' view of the workers
 * ----
 */

static void
set_probe_succeeded(bool succeeded)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	shared->probe_succeeded = succeeded;
	LWLockRelease(shared_lock);
}

/* Only one probe runs at a time, so one mark will do. */
void
trucker_probe_begins(void)
{
	set_probe_succeeded(false);
}

void
trucker_probe_succeeded(void)
{
	set_probe_succeeded(true);
}

bool
trucker_probe_has_succeeded(void)
{
	bool		succeeded;

	LWLockAcquire(shared_lock, LW_SHARED);
	succeeded = shared->probe_succeeded;
	LWLockRelease(shared_lock);
	return succeeded;
}

static WorkerEntry *
find_entry(Oid database, const pg_uuid_t *truck_id)
{
	for (int i = 0; i < shared->nworkers; i++)
	{
		WorkerEntry *entry = &shared->workers[i];

		if (entry->in_use && entry->info.database == database &&
			memcmp(&entry->info.truck_id, truck_id, sizeof(pg_uuid_t)) == 0)
			return entry;
	}
	return NULL;
}

static WorkerEntry *
allocate_entry(Oid database, const TruckerWanted *wanted)
{
	for (int i = 0; i < shared->nworkers; i++)
	{
		WorkerEntry *entry = &shared->workers[i];
		uint64		generation = entry->info.generation + 1;

		if (entry->in_use)
			continue;
		memset(entry, 0, sizeof(*entry));
		entry->in_use = true;
		entry->info.index = i;
		entry->info.generation = generation;
		entry->info.database = database;
		entry->info.truck_id = wanted->truck_id;
		strlcpy(entry->info.name, wanted->name, NAMEDATALEN);
		entry->info.since = GetCurrentTimestamp();
		return entry;
	}
	return NULL;
}

/*
 * A probe reports all trucks of its database that shall run.  Trucks it does
 * not name shall not run.  The launcher acts on the difference.
 */
void
trucker_set_wanted(Oid database, const TruckerWanted *wanted, int n)
{
	int			unplaced = 0;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nworkers; i++)
	{
		WorkerEntry *entry = &shared->workers[i];

		if (entry->in_use && entry->info.database == database)
			entry->info.wanted = false;
	}
	for (int i = 0; i < n; i++)
	{
		WorkerEntry *entry = find_entry(database, &wanted[i].truck_id);

		if (entry == NULL)
			entry = allocate_entry(database, &wanted[i]);
		if (entry == NULL)
			unplaced++;
		else
			entry->info.wanted = true;
	}
	wake_launcher_locked();
	LWLockRelease(shared_lock);
	ConditionVariableBroadcast(&shared->progress);

	if (unplaced > 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start %d trucks: no worker slot is free", unplaced),
				 errhint("Raise max_worker_processes.")));
}

/* The number of entries; indexes run from 0. */
int
trucker_worker_count(void)
{
	return shared->nworkers;
}

/* Copy an entry; false: it is free. */
bool
trucker_get_worker(int index, TruckerWorkerInfo *info)
{
	bool		in_use;

	LWLockAcquire(shared_lock, LW_SHARED);
	in_use = shared->workers[index].in_use;
	*info = shared->workers[index].info;
	LWLockRelease(shared_lock);
	return in_use;
}

/* Copy a truck's entry; false: it has none. */
bool
trucker_find_worker(Oid database, const pg_uuid_t *truck_id,
					TruckerWorkerInfo *info)
{
	WorkerEntry *entry;

	LWLockAcquire(shared_lock, LW_SHARED);
	entry = find_entry(database, truck_id);
	if (entry)
		*info = entry->info;
	LWLockRelease(shared_lock);
	return entry != NULL;
}

/* The launcher could not, or shall not yet, start this worker. */
void
trucker_worker_set_launch(int index, uint64 generation,
						  TimestampTz launch_after, bool waits_for_worker)
{
	WorkerEntry *entry = &shared->workers[index];

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation)
	{
		entry->info.launch_after = launch_after;
		entry->info.waits_for_worker = waits_for_worker;
	}
	LWLockRelease(shared_lock);
}

/* The launcher has registered a worker for this entry. */
void
trucker_worker_launched(int index, uint64 generation)
{
	WorkerEntry *entry = &shared->workers[index];

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation)
	{
		entry->info.waits_for_worker = false;
		entry->info.restart = false;
		entry->info.launch_after = 0;
		entry->info.quick_exits++;	/* until it has shown that it works */
	}
	LWLockRelease(shared_lock);
}

/* Free an entry whose truck shall not run and whose worker is gone. */
void
trucker_worker_forget(int index, uint64 generation)
{
	WorkerEntry *entry = &shared->workers[index];

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation &&
		!entry->info.wanted && entry->info.pid == 0)
		entry->in_use = false;
	LWLockRelease(shared_lock);
	ConditionVariableBroadcast(&shared->progress);
}

/*
 * Tell a worker, if there is one, to end; and when it has not done so after a
 * while, make it.  Under the lock, so that the pid is the worker's.
 */
static void
end_worker_locked(WorkerEntry *entry)
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
	WorkerEntry *entry = &shared->workers[index];

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (entry->in_use && entry->info.generation == generation)
		end_worker_locked(entry);
	LWLockRelease(shared_lock);
}

/* Does this walsender serve a worker that is alive? */
bool
trucker_is_walsender(int pid)
{
	bool		found = false;

	LWLockAcquire(shared_lock, LW_SHARED);
	for (int i = 0; i < shared->nworkers; i++)
		found |= shared->workers[i].in_use && shared->workers[i].info.walsender_pid == pid;
	LWLockRelease(shared_lock);
	return found;
}

/* How many workers are alive in a database? */
int
trucker_database_workers(Oid database)
{
	int			n = 0;

	LWLockAcquire(shared_lock, LW_SHARED);
	for (int i = 0; i < shared->nworkers; i++)
	{
		TruckerWorkerInfo *info = &shared->workers[i].info;

		if (shared->workers[i].in_use && info->database == database && info->pid != 0)
			n++;
	}
	LWLockRelease(shared_lock);
	return n;
}

/* ----
 * For any backend
 * ----
 */

/*
 * Tell a truck's worker something.  After TRUCKER_RESTART nobody is told of its
 * former progress, until it has started again.
 */
void
trucker_signal_worker(Oid database, const pg_uuid_t *truck_id, TruckerSignal signal)
{
	WorkerEntry *entry;

	if (shared == NULL)
		return;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	entry = find_entry(database, truck_id);
	if (entry && signal == TRUCKER_END)
	{
		entry->info.wanted = false;
		end_worker_locked(entry);
	}
	else if (entry)
	{
		entry->info.launch_after = 0;
		entry->info.quick_exits = 0;
		if (signal == TRUCKER_RESTART)
		{
			entry->info.restart = true;
			entry->info.applied_lsn = InvalidXLogRecPtr;
			end_worker_locked(entry);
		}
		else if (entry->latch)
		{
			entry->poked = true;
			SetLatch(entry->latch);
		}
	}
	wake_launcher_locked();
	LWLockRelease(shared_lock);
}

/*
 * While a database is being dropped, or the extension in it, no worker may
 * start there; those that run are ended.
 */
void
trucker_set_database_closing(Oid database, bool closing)
{
	int			place = -1;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nclosing; i++)
		if (shared->closing[i] == database)
			place = i;
	if (closing && place < 0)
	{
		if (shared->nclosing == MAX_CLOSING_DATABASES)
		{
			LWLockRelease(shared_lock);
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many databases are being dropped at the same time")));
		}
		shared->closing[shared->nclosing++] = database;
	}
	else if (!closing && place >= 0)
		shared->closing[place] = shared->closing[--shared->nclosing];

	if (closing)
	{
		for (int i = 0; i < shared->nworkers; i++)
		{
			WorkerEntry *entry = &shared->workers[i];

			if (entry->in_use && entry->info.database == database)
				end_worker_locked(entry);
		}
	}
	wake_launcher_locked();
	LWLockRelease(shared_lock);
}

static bool
is_closing_locked(Oid database)
{
	for (int i = 0; i < shared->nclosing; i++)
		if (shared->closing[i] == database)
			return true;
	return false;
}

bool
trucker_database_closing(Oid database)
{
	bool		closing;

	LWLockAcquire(shared_lock, LW_SHARED);
	closing = is_closing_locked(database);
	LWLockRelease(shared_lock);
	return closing;
}

/* Before looking at a state that one will wait on: no change is missed. */
void
trucker_wait_progress_prepare(void)
{
	ConditionVariablePrepareToSleep(&shared->progress);
}

/* Wait until some worker's state changes; false: the time is up. */
bool
trucker_wait_progress(long timeout_ms)
{
	return !ConditionVariableTimedSleep(&shared->progress, timeout_ms,
										PG_WAIT_EXTENSION);
}

void
trucker_wait_progress_end(void)
{
	ConditionVariableCancelSleep();
}

/* ----
 * For the worker itself
 * ----
 */

static void
worker_detach(int code, Datum arg)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_entry->info.pid = 0;
	my_entry->info.walsender_pid = 0;
	my_entry->info.next_retry_at = 0;
	my_entry->latch = NULL;
	wake_launcher_locked();
	LWLockRelease(shared_lock);
	my_entry = NULL;
	ConditionVariableBroadcast(&shared->progress);
}

/*
 * A worker takes its entry.  False: the entry has been given to another truck,
 * has a worker already, or is not wanted any more; the process shall end.
 */
bool
trucker_worker_attach(int index, uint64 generation, TruckerWorkerInfo *info)
{
	WorkerEntry *entry = &shared->workers[index];
	bool		mine;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	mine = entry->in_use && entry->info.generation == generation &&
		entry->info.wanted && entry->info.pid == 0 &&
		!is_closing_locked(entry->info.database);
	if (mine)
	{
		entry->latch = MyLatch;
		entry->poked = false;
		entry->ending_since = 0;
		entry->info.pid = MyProcPid;
		entry->info.restart = false;
		entry->info.state = TRUCKER_STARTING;
		entry->info.since = GetCurrentTimestamp();
		entry->info.next_retry_at = 0;
		entry->info.applied_lsn = InvalidXLogRecPtr;
		entry->info.applied_at = 0;
		*info = entry->info;
		my_entry = entry;
	}
	LWLockRelease(shared_lock);

	if (mine)
		before_shmem_exit(worker_detach, (Datum) 0);
	return mine;
}

void
trucker_worker_set_state(TruckerState state)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (my_entry->info.state != state)
	{
		my_entry->info.state = state;
		my_entry->info.since = GetCurrentTimestamp();
	}
	if (state != TRUCKER_RETRYING)
		my_entry->info.next_retry_at = 0;
	if (state == TRUCKER_STREAMING)
		my_entry->info.quick_exits = 0;
	LWLockRelease(shared_lock);
	ConditionVariableBroadcast(&shared->progress);
}

void
trucker_worker_set_walsender(int pid)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_entry->info.walsender_pid = pid;
	LWLockRelease(shared_lock);
}

void
trucker_worker_set_retry(TimestampTz next_retry_at)
{
	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_entry->info.next_retry_at = next_retry_at;
	LWLockRelease(shared_lock);
	trucker_worker_set_state(TRUCKER_RETRYING);
}

/*
 * Everything that committed before lsn is at the destination.  Not published
 * once a restart was asked for: whoever asked must not be shown what held
 * before.
 */
void
trucker_worker_set_applied(XLogRecPtr lsn, TimestampTz at)
{
	bool		progress = false;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	if (!my_entry->info.restart)
	{
		progress = my_entry->info.applied_lsn < lsn;
		if (progress)
			my_entry->info.applied_lsn = lsn;
		my_entry->info.applied_at = at;
	}
	LWLockRelease(shared_lock);
	if (progress)
		ConditionVariableBroadcast(&shared->progress);
}

/* Has the worker been told to end? */
bool
trucker_worker_must_end(void)
{
	bool		must_end;

	LWLockAcquire(shared_lock, LW_SHARED);
	must_end = !my_entry->info.wanted || my_entry->info.restart ||
		is_closing_locked(my_entry->info.database);
	LWLockRelease(shared_lock);
	return must_end;
}

/*
 * The worker ends by itself: its truck shall not run.  Somebody may have changed
 * that in this very moment, so the catalog is looked at once more.
 */
void
trucker_worker_give_up(void)
{
	Oid			database = my_entry->info.database;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	my_entry->info.wanted = false;
	LWLockRelease(shared_lock);
	trucker_request_scan(database);
}

/* Has somebody asked the worker to try again now?  Asking forgets it. */
bool
trucker_worker_poked(void)
{
	bool		poked;

	LWLockAcquire(shared_lock, LW_EXCLUSIVE);
	poked = my_entry->poked;
	my_entry->poked = false;
	LWLockRelease(shared_lock);
	return poked;
}
