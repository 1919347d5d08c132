/*
 * shmem_truck.c
 *	  What shared memory knows of each truck that a worker carries.
 *
 * An entry outlives the worker that carries the truck, so that what one stream's
 * worker has learned of it (how often it failed, when to try again) is known to
 * the next.  An entry whose carrier is dead may be given to another truck.
 *
 * Its worker writes an entry; others may only ask, through it, that the worker
 * look at the catalog again.
 */
#include "trucker.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "shmem_internal.h"
#include "stats.h"

/* A truck's entry; NULL: it has none.  The caller holds the lock. */
TruckerTruckEntry *
trucker_find_truck_locked(Oid database, const pg_uuid_t *truck_id)
{
	for (int i = 0; i < trucker_shared->ntrucks; i++)
	{
		TruckerTruckEntry *entry = &trucker_shared->trucks[i];

		if (entry->in_use && entry->info.database == database &&
			memcmp(&entry->info.id, truck_id, sizeof(pg_uuid_t)) == 0)
			return entry;
	}
	return NULL;
}

/* The worker that carries the truck, if it is alive.  The caller holds the lock. */
TruckerWorkerEntry *
trucker_carrier_locked(const TruckerTruckEntry *truck)
{
	TruckerWorkerEntry *worker;

	if (truck->info.worker < 0)
		return NULL;
	worker = &trucker_shared->workers[truck->info.worker];
	if (!worker->in_use || worker->info.generation != truck->worker_generation ||
		worker->info.pid == 0)
		return NULL;
	return worker;
}

/* Likewise. */
TruckerWorkerEntry *
trucker_truck_carrier_locked(Oid database, const pg_uuid_t *truck_id)
{
	TruckerTruckEntry *entry = trucker_find_truck_locked(database, truck_id);

	return entry ? trucker_carrier_locked(entry) : NULL;
}

static TruckerTruckEntry *
allocate_truck_locked(Oid database, const pg_uuid_t *truck_id)
{
	TruckerTruckEntry *entry = NULL;

	for (int i = 0; i < trucker_shared->ntrucks && (entry == NULL || entry->in_use); i++)
	{
		TruckerTruckEntry *candidate = &trucker_shared->trucks[i];

		if (!candidate->in_use ||
			(trucker_carrier_locked(candidate) == NULL && candidate->info.backfill_pid == 0))
			entry = candidate;
	}
	if (entry)
	{
		memset(entry, 0, sizeof(*entry));
		entry->in_use = true;
		entry->info.database = database;
		entry->info.id = *truck_id;
		entry->info.worker = -1;
		trucker_stats_clear_truck_locked((int) (entry - trucker_shared->trucks));
	}
	return entry;
}

/* A worker's entry is about to be another stream's.  The caller holds the lock. */
void
trucker_release_trucks_locked(int worker)
{
	for (int i = 0; i < trucker_shared->ntrucks; i++)
		if (trucker_shared->trucks[i].info.worker == worker)
			trucker_shared->trucks[i].info.worker = -1;
}

/* ----
 * Any backend
 * ----
 */

/* The number of entries; indexes run from 0. */
int
trucker_truck_entry_count(void)
{
	return trucker_shared->ntrucks;
}

/* As others shall see it: a truck that follows is as far as its worker. */
static void
copy_truck_locked(const TruckerTruckEntry *entry, TruckerTruckInfo *info)
{
	const TruckerWorkerEntry *worker = trucker_carrier_locked(entry);

	*info = entry->info;
	if (worker == NULL)
		info->worker = -1;
	else if (info->follows)
	{
		info->applied_lsn = Max(info->applied_lsn, worker->info.applied_lsn);
		info->applied_at = worker->info.applied_at;
	}
}

/* Copy an entry; false: it is free. */
bool
trucker_get_truck(int index, TruckerTruckInfo *info)
{
	bool		in_use;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	in_use = trucker_shared->trucks[index].in_use;
	if (in_use)
		copy_truck_locked(&trucker_shared->trucks[index], info);
	LWLockRelease(trucker_shared_lock);
	return in_use;
}

/* Copy a truck's entry; false: it has none. */
bool
trucker_find_truck(Oid database, const pg_uuid_t *truck_id, TruckerTruckInfo *info)
{
	TruckerTruckEntry *entry;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	entry = trucker_find_truck_locked(database, truck_id);
	if (entry)
		copy_truck_locked(entry, info);
	LWLockRelease(trucker_shared_lock);
	return entry != NULL;
}

static void
request_reload_locked(TruckerTruckEntry *entry, TruckerWorkerEntry *worker)
{
	entry->info.reload = true;
	entry->info.reload_since = GetCurrentTimestamp();
	/* whoever asked must not be shown what held before */
	entry->info.follows = false;
	entry->info.applied_lsn = InvalidXLogRecPtr;
	if (entry->info.backfill_pid != 0)
		kill(entry->info.backfill_pid, SIGINT);
	if (worker && worker->info.truck == entry - trucker_shared->trucks)
	{
		worker->cancelled = true;
		kill(worker->info.pid, SIGINT);
	}
}

/* Tell the worker that carries a truck something. */
void
trucker_signal_truck(Oid database, const pg_uuid_t *truck_id, TruckerSignal signal)
{
	TruckerTruckEntry *entry;

	if (trucker_shared == NULL)
		return;
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	entry = trucker_find_truck_locked(database, truck_id);
	if (entry)
	{
		TruckerWorkerEntry *worker = trucker_carrier_locked(entry);

		entry->info.failures = 0;
		entry->info.next_retry_at = 0;
		memset(&entry->repeats, 0, sizeof(entry->repeats));
		entry->info.times_slow = 0;
		entry->info.home_after = 0;
		if (signal == TRUCKER_RELOAD)
			request_reload_locked(entry, worker);
		if (worker)
			trucker_poke_worker_locked(worker);
	}
	trucker_wake_launcher_locked();
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * A truck's SQL that goes on although it has been cancelled for a while is ended
 * together with its worker.  True: there is some.  The caller holds the lock.
 */
bool
trucker_kill_stubborn_locked(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;

	for (int i = 0; i < trucker_shared->ntrucks; i++)
	{
		TruckerTruckEntry *entry = &trucker_shared->trucks[i];
		TruckerWorkerEntry *worker;

		if (!entry->in_use || !entry->info.reload)
			continue;
		worker = trucker_carrier_locked(entry);
		if (entry->info.backfill_pid == 0 && (worker == NULL || worker->info.truck != i))
			continue;
		any = true;
		if (TimestampDifferenceExceeds(entry->info.reload_since, now, TRUCKER_END_PATIENCE_MS))
			kill(entry->info.backfill_pid ? entry->info.backfill_pid : worker->info.pid, SIGTERM);
	}
	return any;
}

/*
 * A truck is that far behind.  Is it coming nearer?  The first answer, and one after
 * a long time, is yes: there is nothing to compare with.  So it is within interval_ms
 * of the last comparison.
 */
bool
trucker_truck_gains(Oid database, const pg_uuid_t *truck_id, uint64 behind, int interval_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	TruckerTruckEntry *entry;
	bool		gains = false;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	entry = trucker_find_truck_locked(database, truck_id);
	if (entry == NULL)
		entry = allocate_truck_locked(database, truck_id);
	if (entry)
	{
		TimestampTz before = entry->info.behind_at;

		if (before != 0 && !TimestampDifferenceExceeds(before, now, interval_ms))
			gains = true;
		else
		{
			gains = before == 0 || TimestampDifferenceExceeds(before, now, 10 * interval_ms) ||
				behind < entry->info.behind;
			entry->info.behind = behind;
			entry->info.behind_at = now;
		}
	}
	LWLockRelease(trucker_shared_lock);
	return gains;
}

/* ----
 * The worker that carries the truck
 * ----
 */

/* Take over a truck's entry, made if need be; -1: there is no room. */
int
trucker_truck_attach(const pg_uuid_t *truck_id)
{
	Oid			database = trucker_my_entry->info.database;
	TruckerTruckEntry *entry;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	entry = trucker_find_truck_locked(database, truck_id);
	if (entry == NULL)
		entry = allocate_truck_locked(database, truck_id);
	if (entry)
	{
		entry->info.worker = trucker_my_entry->info.index;
		entry->worker_generation = trucker_my_entry->info.generation;
		entry->info.reload = false;
		entry->info.follows = false;
		/* in the pause after a failure it changes streams */
		entry->info.state = entry->info.next_retry_at != 0 ? TRUCKER_RETRYING : TRUCKER_STARTING;
		entry->info.since = GetCurrentTimestamp();
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
	return entry ? (int) (entry - trucker_shared->trucks) : -1;
}

static bool
is_mine_locked(const TruckerTruckEntry *entry)
{
	return entry->info.worker == trucker_my_entry->info.index &&
		entry->worker_generation == trucker_my_entry->info.generation;
}

/* The truck is no business of this worker any more. */
void
trucker_truck_detach(int truck)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (is_mine_locked(entry))
	{
		/* what others have seen of it stays true */
		copy_truck_locked(entry, &entry->info);
		entry->info.worker = -1;
		entry->info.follows = false;
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

void
trucker_truck_set_state(int truck, TruckerState state)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (is_mine_locked(entry) && entry->info.state != state)
	{
		entry->info.state = state;
		entry->info.since = GetCurrentTimestamp();
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * Everything that committed before lsn is at the truck's destination; from now on
 * it is as far as the worker, or it is not.  Not published once a reload was asked for.
 */
void
trucker_truck_set_applied(int truck, XLogRecPtr lsn, TimestampTz at, bool follows)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (is_mine_locked(entry) && !entry->info.reload)
	{
		entry->info.applied_lsn = Max(entry->info.applied_lsn, lsn);
		if (at != 0)
			entry->info.applied_at = at;
		entry->info.follows = follows;
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * What is known of the truck's failures; next_retry_at 0: no retry is pending.  Not
 * told once a reload was asked for: with it they are forgotten.
 */
void
trucker_truck_set_failure(int truck, int failures, XLogRecPtr failed_lsn, TimestampTz next_retry_at)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (is_mine_locked(entry) && !entry->info.reload)
	{
		entry->info.failures = failures;
		entry->info.failed_lsn = failed_lsn;
		entry->info.next_retry_at = next_retry_at;
		/* it has recovered: the next failure is news */
		if (failures == 0)
			memset(&entry->repeats, 0, sizeof(entry->repeats));
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * Is this failure of the truck's to be logged?  Asked by its worker, or its backfill.
 * *more: how often it has come without being logged.
 */
bool
trucker_truck_logs_failure(int truck, uint32 failure, int *more)
{
	bool		logs;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	logs = trucker_repeats_log(&trucker_shared->trucks[truck].repeats, failure, more);
	LWLockRelease(trucker_shared_lock);
	return logs;
}

/*
 * The truck leaves its home, as it has held up the others.  What it was slow at may be
 * waiting for it there again, and be it the mere making of its plans; so it stays away
 * for a while, twice as long each time, until it has done no harm for as long.
 */
void
trucker_truck_held_up_home(int truck)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];
	TimestampTz now = GetCurrentTimestamp();
	int			pause;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	pause = trucker_retry_delay(entry->info.times_slow, trucker_retry_max_delay);
	if (TimestampDifferenceExceeds(entry->info.home_after, now, pause))
		entry->info.times_slow = 0;
	entry->info.times_slow++;
	pause = trucker_retry_delay(entry->info.times_slow, trucker_retry_max_delay);
	entry->info.home_after = TimestampTzPlusMilliseconds(now, pause);
	LWLockRelease(trucker_shared_lock);
}

/*
 * Does the catalog say something new about the truck?  If another worker has taken it
 * over, it does: that one has cleared the mark.
 */
bool
trucker_truck_must_reload(int truck)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];
	bool		reload;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	reload = entry->info.reload || !is_mine_locked(entry);
	LWLockRelease(trucker_shared_lock);
	return reload;
}

void
trucker_truck_get_info(int truck, TruckerTruckInfo *info)
{
	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	*info = trucker_shared->trucks[truck].info;
	LWLockRelease(trucker_shared_lock);
}

/* ----
 * The truck's backfill
 * ----
 */

static void
backfill_detach(int code, Datum arg)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[DatumGetInt32(arg)];
	TruckerWorkerEntry *worker;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (entry->info.backfill_pid == MyProcPid)
		entry->info.backfill_pid = 0;
	worker = trucker_carrier_locked(entry);
	if (worker && worker->latch)
		SetLatch(worker->latch);
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}

/*
 * A backfill takes its truck's entry.  False: it is not wanted any more, or its
 * snapshot went with the worker that has ordered it.
 */
bool
trucker_truck_attach_backfill(int truck, const pg_uuid_t *truck_id, pid_t worker_pid)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];
	TruckerWorkerEntry *worker;
	bool		wanted;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	worker = trucker_carrier_locked(entry);
	wanted = entry->in_use && !entry->info.reload && entry->info.backfill_pid == 0 &&
		memcmp(&entry->info.id, truck_id, sizeof(pg_uuid_t)) == 0 &&
		worker != NULL && worker->info.pid == worker_pid &&
		!trucker_is_closing_locked(entry->info.database);
	if (wanted)
		entry->info.backfill_pid = MyProcPid;
	LWLockRelease(trucker_shared_lock);
	if (wanted)
		before_shmem_exit(backfill_detach, Int32GetDatum(truck));
	return wanted;
}

/* Is a backfill under way that this stream's worker has ordered, or the one before it? */
bool
trucker_worker_has_backfills(void)
{
	bool		found = false;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	for (int i = 0; i < trucker_shared->ntrucks; i++)
		found |= trucker_shared->trucks[i].in_use && is_mine_locked(&trucker_shared->trucks[i]) &&
			trucker_shared->trucks[i].info.backfill_pid != 0;
	LWLockRelease(trucker_shared_lock);
	return found;
}

/* The backfill has committed; the truck's stream goes on when all of its backfills have ended. */
void
trucker_truck_set_backfilled(int truck)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (entry->info.backfill_pid == MyProcPid)
	{
		entry->info.state = TRUCKER_CATCHUP;
		entry->info.since = GetCurrentTimestamp();
	}
	LWLockRelease(trucker_shared_lock);
}

/* The backfill has failed. */
void
trucker_truck_count_backfill_failure(int truck)
{
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	trucker_shared->trucks[truck].info.failures++;
	LWLockRelease(trucker_shared_lock);
}

/* Is what the backfill does of no use any more? */
bool
trucker_truck_backfill_must_end(int truck)
{
	TruckerTruckEntry *entry = &trucker_shared->trucks[truck];
	bool		must_end;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	must_end = entry->info.reload || trucker_carrier_locked(entry) == NULL ||
		trucker_is_closing_locked(entry->info.database);
	LWLockRelease(trucker_shared_lock);
	return must_end;
}
