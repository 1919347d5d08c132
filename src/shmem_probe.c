/*
 * shmem_probe.c
 *	  What shared memory knows of the probe that is under way: whether it may go into
 *	  its database, and whether it has done what it was sent for.
 *
 * The launcher sends one at a time.  Between sending it and its connection to the
 * database somebody may drop that, or the extension in it (hooks.c).  Such a probe is
 * called off if it has not started yet, and waited for if it has: once it is connected,
 * who drops the database finds it there as any other session.
 */
#include "trucker.h"

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
	trucker_shared->probe_goes_to = closing ? InvalidOid : database;
	trucker_shared->probe_comes = false;
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
	comes = trucker_shared->probe_goes_to == database;
	if (comes)
		trucker_shared->probe_comes = true;
	LWLockRelease(trucker_shared_lock);
	return comes;
}

/*
 * It has connected, and so keeps the database from being dropped; or it has ended.
 * (After a launcher's death the next one may have sent another one.)
 */
void
trucker_probe_has_come(Oid database)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (trucker_shared->probe_comes && trucker_shared->probe_goes_to == database)
	{
		trucker_shared->probe_goes_to = InvalidOid;
		trucker_shared->probe_comes = false;
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
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
