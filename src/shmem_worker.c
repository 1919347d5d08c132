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

static TruckerWorkerEntry *my_entry = NULL;

static void
worker_detach(int code, Datum arg)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	my_entry->info.pid = 0;
	my_entry->info.walsender_pid = 0;
	my_entry->info.next_retry_at = 0;
	my_entry->latch = NULL;
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
	my_entry = NULL;
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * A worker takes its entry.  False: the entry has been given to another truck,
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
	LWLockRelease(trucker_shared_lock);

	if (mine)
		before_shmem_exit(worker_detach, (Datum) 0);
	return mine;
}

void
trucker_worker_set_state(TruckerState state)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (my_entry->info.state != state)
	{
		my_entry->info.state = state;
		my_entry->info.since = GetCurrentTimestamp();
	}
	if (state != TRUCKER_RETRYING)
		my_entry->info.next_retry_at = 0;
	if (state == TRUCKER_STREAMING)
		my_entry->info.quick_exits = 0;
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

void
trucker_worker_set_walsender(int pid)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	my_entry->info.walsender_pid = pid;
	LWLockRelease(trucker_shared_lock);
}

void
trucker_worker_set_retry(TimestampTz next_retry_at)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	my_entry->info.next_retry_at = next_retry_at;
	LWLockRelease(trucker_shared_lock);
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

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (!my_entry->info.restart)
	{
		progress = my_entry->info.applied_lsn < lsn;
		if (progress)
			my_entry->info.applied_lsn = lsn;
		my_entry->info.applied_at = at;
	}
	LWLockRelease(trucker_shared_lock);
	if (progress)
		ConditionVariableBroadcast(&trucker_shared->progress);
}

/* Has the worker been told to end? */
bool
trucker_worker_must_end(void)
{
	bool		must_end;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	must_end = !my_entry->info.wanted || my_entry->info.restart ||
		trucker_is_closing_locked(my_entry->info.database);
	LWLockRelease(trucker_shared_lock);
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

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	my_entry->info.wanted = false;
	LWLockRelease(trucker_shared_lock);
	trucker_request_scan(database);
}

/* Has somebody asked the worker to try again now?  Asking forgets it. */
bool
trucker_worker_poked(void)
{
	bool		poked;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	poked = my_entry->poked;
	my_entry->poked = false;
	LWLockRelease(trucker_shared_lock);
	return poked;
}
