/*
 * shmem_probe.c
 *	  What shared memory knows of the probe that is under way: whether it may go into
 *	  its database, and whether it has done what it was sent for.
 *
 * The launcher sends one at a time.  Somebody may drop its database meanwhile, or the
 * extension in it (hooks.c).  A probe that has not started yet is called off then; one
 * that has is interrupted, and waited for: it would keep the database from being
 * dropped, could not connect to it any more, or be in a deadlock with a DROP EXTENSION,
 * which locks our tables in an order of its own.
 */
#include "trucker.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "shmem_internal.h"

static void
set_probe_succeeded(bool succeeded)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_shared->probe_succeeded = succeeded;
	LWLockRelease(trucker_shared_lock);
}

/*
 * Only one probe runs at a time, so one mark will do.  False: the database is being
 * dropped, or the extension in it.
 */
bool
trucker_probe_begins(Oid database)
{
	bool		closing;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	closing = trucker_is_closing_locked(database);
	trucker_shared->probe_succeeded = false;
	trucker_shared->probe_database = closing ? InvalidOid : database;
	trucker_shared->probe_pid = 0;
	LWLockRelease(trucker_shared_lock);
	return !closing;
}

/*
 * A probe has started.  False: somebody has begun to drop the database since it was
 * sent.  If the database stays the launcher sends another one, as after any failure.
 */
bool
trucker_probe_comes(Oid database)
{
	bool		comes;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	comes = trucker_shared->probe_database == database && trucker_shared->probe_pid == 0;
	if (comes)
		trucker_shared->probe_pid = MyProcPid;
	LWLockRelease(trucker_shared_lock);
	return comes;
}

/* This probe ends.  (After a launcher's death the next one may have sent another one.) */
void
trucker_probe_ends(void)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (trucker_shared->probe_pid == MyProcPid)
	{
		trucker_shared->probe_database = InvalidOid;
		trucker_shared->probe_pid = 0;
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/* Its database is being dropped, or the extension in it.  The caller holds the lock. */
void
trucker_call_off_probe_locked(Oid database)
{
	if (trucker_shared->probe_database != database)
		return;
	if (trucker_shared->probe_pid == 0)
		trucker_shared->probe_database = InvalidOid;
	else
		kill(trucker_shared->probe_pid, SIGINT);
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

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	succeeded = trucker_shared->probe_succeeded;
	LWLockRelease(trucker_shared_lock);
	return succeeded;
}
