/*
 * shmem_verify.c
 *	  How trucker.verify() and the worker of a truck's stream meet at one position.
 *
 * The session asks that the truck be brought to the consistent point of a snapshot of
 * the source.  When it stands there its worker offers the snapshot, and lets the truck
 * rest while the offer stands.  The session imports the snapshot, takes one of the
 * destination, and then takes the offer, which frees the entry: only if the offer is
 * still the same one then, and the worker that made it lives, did the truck rest all
 * the time, so that both snapshots show the same position.
 *
 * A session that ends, in whatever way, frees its entry, and the truck goes on.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "shmem_internal.h"

static TruckerVerifyEntry *
find_locked(Oid database, const pg_uuid_t *truck_id)
{
	for (int i = 0; i < TRUCKER_MAX_VERIFICATIONS; i++)
	{
		TruckerVerifyEntry *entry = &trucker_shared->verifications[i];

		if (entry->pid != 0 && entry->database == database &&
			memcmp(&entry->truck_id, truck_id, sizeof(pg_uuid_t)) == 0)
			return entry;
	}
	return NULL;
}

static void
poke_carrier_locked(const TruckerVerifyEntry *entry)
{
	TruckerWorkerEntry *worker = trucker_truck_carrier_locked(entry->database, &entry->truck_id);

	if (worker)
		trucker_poke_worker_locked(worker);
}

/* ----
 * The session
 * ----
 */

/*
 * Ask for a truck of this database until the deadline.  Returns the entry's index; -1:
 * another session has asked for this truck; -2: no entry is free.
 */
int
trucker_verify_ask(const pg_uuid_t *truck_id, TimestampTz deadline)
{
	int			index = -2;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (find_locked(MyDatabaseId, truck_id))
		index = -1;
	for (int i = 0; i < TRUCKER_MAX_VERIFICATIONS && index == -2; i++)
		if (trucker_shared->verifications[i].pid == 0)
			index = i;
	if (index >= 0)
	{
		TruckerVerifyEntry *entry = &trucker_shared->verifications[index];

		memset(entry, 0, sizeof(*entry));
		entry->pid = MyProcPid;
		entry->database = MyDatabaseId;
		entry->truck_id = *truck_id;
		entry->deadline = deadline;
		entry->step = TRUCKER_VERIFY_ASKED;
		trucker_shared->nverifications++;
		poke_carrier_locked(entry);
	}
	LWLockRelease(trucker_shared_lock);
	return index;
}

/* What has become of it; with an offer, its number, snapshot and LSN. */
TruckerVerifyStep
trucker_verify_look(int index, TruckerVerifyOffer *offer)
{
	TruckerVerifyEntry *entry = &trucker_shared->verifications[index];
	TruckerVerifyStep step;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	step = entry->step;
	*offer = entry->offer;
	LWLockRelease(trucker_shared_lock);
	return step;
}

/* Has the truck rested since that offer was made?  Then the entry is freed, and the truck goes on. */
bool
trucker_verify_take(int index, uint64 number)
{
	TruckerVerifyEntry *entry = &trucker_shared->verifications[index];
	TruckerWorkerEntry *worker;
	bool		taken;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	worker = trucker_truck_carrier_locked(entry->database, &entry->truck_id);
	taken = entry->step == TRUCKER_VERIFY_OFFERED && entry->offer.number == number &&
		worker && worker->info.pid == entry->offered_by;
	LWLockRelease(trucker_shared_lock);
	if (taken)
		trucker_verify_end(index);
	return taken;
}

/* Nothing is asked for any more. */
void
trucker_verify_end(int index)
{
	TruckerVerifyEntry *entry = &trucker_shared->verifications[index];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (entry->pid == MyProcPid)
	{
		entry->pid = 0;
		trucker_shared->nverifications--;
		poke_carrier_locked(entry);
	}
	LWLockRelease(trucker_shared_lock);
}

/* ----
 * The worker
 * ----
 */

/* Does a session wait for this truck? */
bool
trucker_verify_is_wanted(const pg_uuid_t *truck_id)
{
	TruckerVerifyEntry *entry;
	bool		wanted;

	/* mostly there is none; who asks pokes us */
	if (trucker_shared->nverifications == 0)
		return false;
	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	entry = find_locked(MyDatabaseId, truck_id);
	wanted = entry && entry->step != TRUCKER_VERIFY_FAILED && GetCurrentTimestamp() < entry->deadline;
	LWLockRelease(trucker_shared_lock);
	return wanted;
}

/* The truck rests at lsn, as the snapshot shows the source.  0: nobody wants to know. */
uint64
trucker_verify_offer(const pg_uuid_t *truck_id, XLogRecPtr lsn, const char *snapshot)
{
	TruckerVerifyEntry *entry;
	uint64		number = 0;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	entry = find_locked(MyDatabaseId, truck_id);
	if (entry)
	{
		number = ++trucker_shared->last_offer;
		entry->step = TRUCKER_VERIFY_OFFERED;
		entry->offered_by = MyProcPid;
		entry->offer.number = number;
		entry->offer.lsn = lsn;
		strlcpy(entry->offer.snapshot, snapshot, sizeof(entry->offer.snapshot));
	}
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
	return number;
}

/* Has the offer neither been taken, nor its session gone? */
bool
trucker_verify_is_open(const pg_uuid_t *truck_id, uint64 number)
{
	TruckerVerifyEntry *entry;
	bool		is_open;

	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	entry = find_locked(MyDatabaseId, truck_id);
	is_open = entry && entry->step == TRUCKER_VERIFY_OFFERED && entry->offer.number == number;
	LWLockRelease(trucker_shared_lock);
	return is_open;
}

/* The truck is about to go on, or cannot be brought to a position: whoever waits must know before. */
void
trucker_verify_withdraw(const pg_uuid_t *truck_id, bool failed)
{
	TruckerVerifyEntry *entry;

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	entry = find_locked(MyDatabaseId, truck_id);
	if (entry)
		entry->step = failed ? TRUCKER_VERIFY_FAILED : TRUCKER_VERIFY_ASKED;
	LWLockRelease(trucker_shared_lock);
	ConditionVariableBroadcast(&trucker_shared->progress);
}
