/*
 * shmem_worker.c
 *	  What a stream worker tells of itself in shared memory.
 *
 * A worker owns one entry from its start to its end, and only it writes there
 * what it does and how far it is.  Others may ask it, through the entry, to end or
 * to hurry (shmem.c).
 */
#include "trucker.h"

#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "shmem_internal.h"

TruckerWorkerEntry *trucker_my_entry = NULL;

static void
worker_detach(int code, Datum arg)
{
	TruckerWorkerInfo *info = &trucker_my_entry->info;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	info->pid = 0;
	info->walsender_pid = 0;
	info->truck = -1;
	info->splitting = false;
	/* whether a truck has moved is for the other stream to find out in the catalog */
	if (info->move == TRUCKER_MOVE_MOVING)
		info->move = TRUCKER_MOVE_MOVED;
	trucker_my_entry->latch = NULL;
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
	trucker_my_entry = NULL;
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * A worker takes its entry.  False: the entry has been given to another stream,
 * has a worker already, or is not wanted any more; the process shall end.
 */
bool
trucker_worker_attach(int index, uint64 generation, TruckerWorkerInfo *info)
{
	TruckerWorkerEntry *entry = &trucker_shared->workers[index];
	bool		mine;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	mine = entry->in_use && entry->info.generation == generation &&
		entry->info.wanted && entry->info.pid == 0 &&
		!trucker_is_closing_locked(entry->info.database);
	if (mine)
	{
		entry->latch = MyLatch;
		entry->poked = false;
		entry->cancelled = false;
		entry->hurried = false;
		entry->ending_since = 0;
		entry->info.pid = MyProcPid;
		entry->info.truck = -1;
		entry->info.told_lsn = InvalidXLogRecPtr;
		entry->info.applied_lsn = InvalidXLogRecPtr;
		entry->info.applied_at = 0;
		*info = entry->info;
		trucker_my_entry = entry;
	}
	LWLockRelease(trucker_shared_lock);

	if (mine)
		before_shmem_exit(worker_detach, (Datum) 0);
	return mine;
}

int
trucker_worker_index(void)
{
	return trucker_my_entry->info.index;
}

void
trucker_worker_set_walsender(int pid)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_my_entry->info.walsender_pid = pid;
	LWLockRelease(trucker_shared_lock);
}

/* Everything that committed before lsn is at the destinations of all trucks that follow. */
void
trucker_worker_set_applied(XLogRecPtr lsn, TimestampTz at)
{
	bool		progress;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	progress = trucker_my_entry->info.applied_lsn < lsn;
	if (progress)
		trucker_my_entry->info.applied_lsn = lsn;
	trucker_my_entry->info.applied_at = at;
	LWLockRelease(trucker_shared_lock);
	if (progress)
		ConditionVariableBroadcast(&trucker_shared->progress);
}

/* Whose SQL is being executed (-1: nobody's): it is cancelled if that truck is stopped. */
void
trucker_worker_set_executing(int truck)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_my_entry->info.truck = truck;
	LWLockRelease(trucker_shared_lock);
}

/* Has the worker been interrupted because of a truck?  Asking forgets it. */
bool
trucker_worker_was_cancelled(void)
{
	bool		cancelled;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	cancelled = trucker_my_entry->cancelled;
	trucker_my_entry->cancelled = false;
	LWLockRelease(trucker_shared_lock);
	return cancelled;
}

/* The same, because other trucks wait to be taken over. */
bool
trucker_worker_was_hurried(void)
{
	bool		hurried;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	hurried = trucker_my_entry->hurried;
	trucker_my_entry->hurried = false;
	LWLockRelease(trucker_shared_lock);
	return hurried;
}

/* The worker has come as far as streaming: should it end, it is started again at once. */
void
trucker_worker_works(void)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_my_entry->info.quick_exits = 0;
	LWLockRelease(trucker_shared_lock);
}

/* Between recording a new catch-up stream and moving a truck there: probes keep off. */
void
trucker_worker_set_splitting(bool splitting)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_my_entry->info.splitting = splitting;
	LWLockRelease(trucker_shared_lock);
}

/* Has the worker been told to end? */
bool
trucker_worker_must_end(void)
{
	bool		must_end;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	must_end = !trucker_my_entry->info.wanted ||
		trucker_is_closing_locked(trucker_my_entry->info.database);
	LWLockRelease(trucker_shared_lock);
	return must_end;
}

/*
 * The worker ends by itself: no truck of its stream shall run.  Somebody may have
 * changed that in this very moment, so the catalog is looked at once more.
 */
void
trucker_worker_give_up(void)
{
	Oid			database = trucker_my_entry->info.database;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_my_entry->info.wanted = false;
	LWLockRelease(trucker_shared_lock);
	trucker_request_scan(database);
}

/* Has somebody asked the worker to look at the catalog now?  Asking forgets it. */
bool
trucker_worker_poked(void)
{
	bool		poked;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	poked = trucker_my_entry->poked;
	trucker_my_entry->poked = false;
	LWLockRelease(trucker_shared_lock);
	return poked;
}

/* The same, not forgetting it. */
bool
trucker_worker_is_poked(void)
{
	bool		poked;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	poked = trucker_my_entry->poked;
	LWLockRelease(trucker_shared_lock);
	return poked;
}
