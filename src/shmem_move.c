/*
 * shmem_move.c
 *	  How a truck moves from one stream to another without losing a change.
 *
 * The catalog says which stream carries a truck.  What a truck needs of a stream
 * is that its slot still holds all that the truck has not applied; and a stream
 * heeds only the trucks that its worker has loaded.  So between the moment that
 * the catalog is changed and the moment that the other worker has read it, that
 * worker must confirm nothing beyond what the truck has applied.
 *
 *	 giver:  moving	  "nothing beyond L": refused if more has been confirmed already
 *			 changes the catalog, durably
 *	 giver:  moved	  the taker is woken
 *	 taker:  taking	  loads its trucks, heeds them, reads again from its slot
 *	 taker:  none
 *
 * The state stands in the giver's entry, which is kept until the taker, if it is
 * alive, has seen it.  A taker that is not alive reads the catalog before it
 * confirms anything, so it needs no telling.
 */
#include "trucker.h"

#include <signal.h>

#include "storage/latch.h"
#include "utils/timestamp.h"

#include "shmem_internal.h"

static TruckerWorkerEntry *
alive_locked(const pg_uuid_t *stream_id)
{
	TruckerWorkerEntry *entry = trucker_find_worker_locked(trucker_my_entry->info.database, stream_id);

	return entry && entry->info.pid != 0 ? entry : NULL;
}

/* ----
 * The worker that gives a truck away
 * ----
 */

/*
 * A truck that has applied all before lsn is about to move.  False: it cannot now,
 * since that stream is further, or an earlier move has not been noticed yet.
 */
bool
trucker_move_begin(const pg_uuid_t *to_stream, XLogRecPtr lsn)
{
	TruckerWorkerInfo *mine = &trucker_my_entry->info;
	TruckerWorkerEntry *taker;
	bool		possible = true;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (mine->move != TRUCKER_MOVE_NONE && alive_locked(&mine->move_to) == NULL)
		mine->move = TRUCKER_MOVE_NONE;
	taker = alive_locked(to_stream);
	if (taker && taker->info.told_lsn > lsn)
		possible = false;
	else if (mine->move == TRUCKER_MOVE_NONE)
		mine->move_lsn = lsn;
	else if (memcmp(&mine->move_to, to_stream, sizeof(pg_uuid_t)) == 0)
		mine->move_lsn = Min(mine->move_lsn, lsn);	/* one more before the first was noticed */
	else
		possible = false;
	if (possible)
	{
		mine->move = TRUCKER_MOVE_MOVING;
		mine->move_to = *to_stream;
	}
	LWLockRelease(trucker_shared_lock);
	return possible;
}

/* The catalog has been changed, durably, or nothing has come of it. */
void
trucker_move_end(void)
{
	TruckerWorkerInfo *mine = &trucker_my_entry->info;
	TruckerWorkerEntry *taker;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (mine->move == TRUCKER_MOVE_MOVING)
	{
		taker = alive_locked(&mine->move_to);
		mine->move = taker ? TRUCKER_MOVE_MOVED : TRUCKER_MOVE_NONE;
		trucker_my_entry->moved_at = GetCurrentTimestamp();
		if (taker)
			trucker_poke_worker_locked(taker);
		trucker_wake_launcher_locked();
	}
	LWLockRelease(trucker_shared_lock);
}

/* ----
 * The worker that takes it
 * ----
 */

static bool
comes_to_me(const TruckerWorkerEntry *entry)
{
	return entry->in_use && entry->info.move != TRUCKER_MOVE_NONE &&
		entry->info.database == trucker_my_entry->info.database &&
		memcmp(&entry->info.move_to, &trucker_my_entry->info.stream_id, sizeof(pg_uuid_t)) == 0;
}

/*
 * This worker wants to confirm lsn.  Returns what it may confirm; others take it
 * that it has done so.
 */
XLogRecPtr
trucker_move_limit_confirm(XLogRecPtr lsn)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < trucker_shared->nworkers; i++)
		if (comes_to_me(&trucker_shared->workers[i]))
			lsn = Min(lsn, trucker_shared->workers[i].info.move_lsn);
	trucker_my_entry->info.told_lsn = Max(trucker_my_entry->info.told_lsn, lsn);
	LWLockRelease(trucker_shared_lock);
	return lsn;
}

/* Have trucks been moved here that the worker has not loaded? */
bool
trucker_takeover_pending(void)
{
	bool		pending = false;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	for (int i = 0; i < trucker_shared->nworkers; i++)
		pending |= comes_to_me(&trucker_shared->workers[i]) &&
			trucker_shared->workers[i].info.move == TRUCKER_MOVE_MOVED;
	LWLockRelease(trucker_shared_lock);
	return pending;
}

/* The worker is about to load its trucks from the catalog: all that have been moved up to now. */
void
trucker_takeover_begin(void)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < trucker_shared->nworkers; i++)
		if (comes_to_me(&trucker_shared->workers[i]) &&
			trucker_shared->workers[i].info.move == TRUCKER_MOVE_MOVED)
			trucker_shared->workers[i].info.move = TRUCKER_MOVE_TAKING;
	LWLockRelease(trucker_shared_lock);
}

/* They have been loaded, and what the worker wants to confirm heeds them. */
void
trucker_takeover_end(void)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	for (int i = 0; i < trucker_shared->nworkers; i++)
	{
		TruckerWorkerEntry *giver = &trucker_shared->workers[i];

		if (comes_to_me(giver) && giver->info.move == TRUCKER_MOVE_TAKING)
		{
			giver->info.move = TRUCKER_MOVE_NONE;
			if (giver->latch)
				SetLatch(giver->latch);
		}
	}
	trucker_my_entry->hurried = false;
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
}

/* ----
 * The launcher
 * ----
 */

/*
 * A truck that is alone on its stream has all the time; not so when others have
 * come, whom the worker has not noticed yet since it is executing that one's SQL.
 * Returns the milliseconds to wait before looking again, or -1.  The caller holds
 * the lock.
 */
long
trucker_hurry_takers_locked(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		wait = -1;

	for (int i = 0; i < trucker_shared->nworkers && trucker_max_truck_delay > 0; i++)
	{
		TruckerWorkerEntry *giver = &trucker_shared->workers[i];
		TruckerWorkerEntry *taker;
		long		left;

		if (!giver->in_use || giver->info.move != TRUCKER_MOVE_MOVED)
			continue;
		taker = trucker_find_worker_locked(giver->info.database, &giver->info.move_to);
		if (taker == NULL || taker->info.pid == 0 || taker->hurried)
			continue;
		left = TimestampDifferenceMilliseconds(now, TimestampTzPlusMilliseconds(giver->moved_at, trucker_max_truck_delay));
		if (left == 0 && taker->info.truck >= 0)
		{
			taker->hurried = true;
			kill(taker->info.pid, SIGINT);
		}
		else if (wait < 0 || left < wait)
			wait = Max(left, TRUCKER_HURRY_INTERVAL_MS);
	}
	return wait;
}
