/*
 * shmem_slot.c
 *	  What shared memory knows of each slot: how far it can have been confirmed.
 *
 * Only what trucker confirms moves its slots.  A slot that stands further has been
 * advanced, or read from, by somebody else, and what lies between would be missing
 * at the destinations.  How far a slot was told to go is forgotten neither when its
 * worker ends nor between two attempts, only with the server; and right after a
 * start of the server the launcher, before it does anything else, takes down where
 * all slots stand.  (For streams that rest it is noted in the catalog as well.)
 *
 * The entry of a slot is that of its place in the server's array of slots.
 */
#include "trucker.h"

#include "access/xlog.h"
#include "replication/slot.h"

#include "shmem_internal.h"
#include "slots.h"

/* The entry of a slot, which may be about an earlier one in the same place; NULL: no such slot. */
static TruckerSlotEntry *
find_entry(const char *name)
{
	int			index = trucker_slot_find(name, NULL);

	return index < 0 ? NULL : &trucker_shared->slots[index];
}

static bool
is_about(const TruckerSlotEntry *entry, const char *name)
{
	return strcmp(entry->name, name) == 0;
}

/* The caller holds the lock. */
static void
take_entry_locked(TruckerSlotEntry *entry, const char *name)
{
	if (is_about(entry, name))
		return;
	memset(entry, 0, sizeof(*entry));
	strlcpy(entry->name, name, NAMEDATALEN);
}

/* A slot is about to be confirmed up to lsn, or has just been made there. */
void
trucker_slot_tell(const char *name, XLogRecPtr lsn)
{
	TruckerSlotEntry *entry = find_entry(name);

	if (entry == NULL)
		return;
	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	take_entry_locked(entry, name);
	entry->told_lsn = Max(entry->told_lsn, lsn);
	LWLockRelease(trucker_shared_lock);
}

/* The furthest that we can have confirmed a slot; InvalidXLogRecPtr: not known. */
XLogRecPtr
trucker_slot_told(const char *name)
{
	TruckerSlotEntry *entry = find_entry(name);
	XLogRecPtr	told = InvalidXLogRecPtr;

	if (entry == NULL)
		return InvalidXLogRecPtr;
	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	if (is_about(entry, name))
		told = entry->told_lsn;
	LWLockRelease(trucker_shared_lock);
	return told;
}

/*
 * The launcher starts: what is not known of a slot begins with where it stands.  One
 * that stands beyond the WAL comes from elsewhere.
 */
void
trucker_slots_take_down(void)
{
	XLogRecPtr	end = GetFlushRecPtr(NULL);

	for (int i = 0; i < max_replication_slots; i++)
	{
		TruckerSlotEntry *entry = &trucker_shared->slots[i];
		TruckerSlotInfo slot;

		if (!trucker_slot_get(i, &slot) || XLogRecPtrIsInvalid(slot.confirmed_lsn))
			continue;
		LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
		take_entry_locked(entry, slot.name);
		if (XLogRecPtrIsInvalid(entry->told_lsn))
			entry->told_lsn = Min(slot.confirmed_lsn, end);
		LWLockRelease(trucker_shared_lock);
	}
}

/* The launcher has found out whether open transactions hold a slot back. */
void
trucker_slot_set_held_open(int index, const char *name, bool held_open)
{
	TruckerSlotEntry *entry = &trucker_shared->slots[index];

	LWLockAcquire(trucker_shared_lock, LW_EXCLUSIVE);
	if (held_open || is_about(entry, name))
	{
		take_entry_locked(entry, name);
		entry->held_open = held_open;
	}
	LWLockRelease(trucker_shared_lock);
}

bool
trucker_slot_is_held_open(const char *name)
{
	TruckerSlotEntry *entry = trucker_shared ? find_entry(name) : NULL;
	bool		held_open;

	if (entry == NULL)
		return false;
	LWLockAcquire(trucker_shared_lock, LW_SHARED);
	held_open = is_about(entry, name) && entry->held_open;
	LWLockRelease(trucker_shared_lock);
	return held_open;
}
