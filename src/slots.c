/*
 * slots.c
 *	  Name, find and drop trucker's replication slots.
 *
 * Slots are made over the replication connection (replication.c), since only a
 * walsender can export the snapshot that goes with one.  All else is done here,
 * inside the server.
 */
#include "trucker.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "slots.h"
#include "wait.h"

/* a 64-bit token in hexadecimal */
#define TOKEN_DIGITS 16

/* TOKEN_DIGITS hexadecimal digits that nobody can guess. */
char *
trucker_new_token(void)
{
	uint64		token;

	if (!pg_strong_random(&token, sizeof(token)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	return psprintf("%016llx", (unsigned long long) token);
}

/*
 * A name that no slot has had: the token is random, so that a slot that somebody
 * makes under an old name is never taken for ours.
 */
char *
trucker_slot_new_name(void)
{
	return psprintf(TRUCKER_SLOT_PREFIX "%u_%s", MyDatabaseId, trucker_new_token());
}

/* Is this a name that trucker_slot_new_name() gives? */
static bool
is_our_name(const char *name, Oid database)
{
	char	   *prefix = psprintf(TRUCKER_SLOT_PREFIX "%u_", database);
	size_t		len = strlen(prefix);
	bool		ours = strncmp(name, prefix, len) == 0 &&
		strlen(name) == len + TOKEN_DIGITS &&
		strspn(name + len, "0123456789abcdef") == TOKEN_DIGITS;

	pfree(prefix);
	return ours;
}

static void
copy_slot(ReplicationSlot *slot, TruckerSlotInfo *info)
{
	SpinLockAcquire(&slot->mutex);
	strlcpy(info->name, NameStr(slot->data.name), NAMEDATALEN);
	strlcpy(info->plugin, NameStr(slot->data.plugin), NAMEDATALEN);
	info->database = slot->data.database;
	info->active_pid = slot->active_pid;
	info->invalidated = trucker_slot_is_invalidated(slot);
	info->restart_lsn = slot->data.restart_lsn;
	info->confirmed_lsn = slot->data.confirmed_flush;
	SpinLockRelease(&slot->mutex);
}

/* The slot in one of the server's max_replication_slots places; false: there is none of ours. */
bool
trucker_slot_get(int index, TruckerSlotInfo *info)
{
	ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[index];
	bool		ours;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	ours = slot->in_use && is_our_name(NameStr(slot->data.name), slot->data.database);
	if (ours)
		copy_slot(slot, info);
	LWLockRelease(ReplicationSlotControlLock);
	return ours;
}

/* A slot's place; -1: there is no such slot.  info may be NULL. */
int
trucker_slot_find(const char *name, TruckerSlotInfo *info)
{
	ReplicationSlot *slot;
	int			index = -1;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	if (slot)
	{
		index = slot - ReplicationSlotCtl->replication_slots;
		if (info)
			copy_slot(slot, info);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return index;
}

/*
 * NULL if the slot can be read on from; else why not.  expected is the furthest
 * that we can have confirmed, or InvalidXLogRecPtr if that is not known.
 */
const char *
trucker_slot_trouble(const char *name, XLogRecPtr expected)
{
	ReplicationSlot *slot;
	const char *trouble = NULL;
	XLogRecPtr	confirmed = InvalidXLogRecPtr;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	if (slot == NULL)
		trouble = psprintf("its replication slot \"%s\" does not exist any more", name);
	else if (slot->data.database != MyDatabaseId)
		trouble = psprintf("its replication slot \"%s\" belongs to the database that this one was copied from", name);
	else
	{
		SpinLockAcquire(&slot->mutex);
		if (trucker_slot_is_invalidated(slot))
			trouble = "invalidated";
		confirmed = slot->data.confirmed_flush;
		SpinLockRelease(&slot->mutex);
		if (trouble)
			trouble = psprintf("the server has removed WAL that its replication slot \"%s\" needs (max_slot_wal_keep_size)", name);
		else if (confirmed > GetFlushRecPtr(NULL))
			trouble = psprintf("its replication slot \"%s\" stands at %X/%X, ahead of this server's WAL, which ends at %X/%X",
							   name, LSN_FORMAT_ARGS(confirmed), LSN_FORMAT_ARGS(GetFlushRecPtr(NULL)));
		else if (!XLogRecPtrIsInvalid(expected) && confirmed > expected)
			trouble = psprintf("its replication slot \"%s\" has been advanced to %X/%X, and the truck stands at %X/%X",
							   name, LSN_FORMAT_ARGS(confirmed), LSN_FORMAT_ARGS(expected));
	}
	LWLockRelease(ReplicationSlotControlLock);
	return trouble;
}

/* Up to where the slot is confirmed; InvalidXLogRecPtr if there is no such slot. */
XLogRecPtr
trucker_slot_confirmed(const char *name)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
	XLogRecPtr	confirmed = InvalidXLogRecPtr;

	if (slot)
	{
		SpinLockAcquire(&slot->mutex);
		confirmed = slot->data.confirmed_flush;
		SpinLockRelease(&slot->mutex);
	}
	return confirmed;
}

/* From where on the server keeps the WAL for it: no transaction that is yet to be confirmed began before. */
XLogRecPtr
trucker_slot_restart(const char *name)
{
	TruckerSlotInfo info;

	return trucker_slot_find(name, &info) >= 0 ? info.restart_lsn : InvalidXLogRecPtr;
}

/* Who holds the slot: a pid, 0 for nobody, -1 if there is no such slot. */
static int
active_pid(const char *name, ReplicationSlot **slot)
{
	int			pid = -1;

	*slot = SearchNamedReplicationSlot(name, true);
	if (*slot)
	{
		SpinLockAcquire(&(*slot)->mutex);
		pid = (*slot)->active_pid;
		SpinLockRelease(&(*slot)->mutex);
	}
	return pid;
}

/* The pid that holds the slot: 0 for nobody, -1 if there is no such slot. */
int
trucker_slot_active_pid(const char *name)
{
	ReplicationSlot *slot;

	return active_pid(name, &slot);
}

/*
 * Wait until nobody holds the slot: an earlier worker's walsender notices only
 * after a moment that nobody listens to it any more.  False: the time (-1: no
 * limit) is up.
 */
bool
trucker_slot_wait_inactive(const char *name, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	ReplicationSlot *slot;
	bool		late = false;

	if (active_pid(name, &slot) <= 0)
		return true;
	ConditionVariablePrepareToSleep(&slot->active_cv);
	while (active_pid(name, &slot) > 0 && !late)
	{
		(void) ConditionVariableTimedSleep(&slot->active_cv, 100, trucker_wait(TRUCKER_WAIT_SLOT));
		late = timeout_ms >= 0 && GetCurrentTimestamp() > deadline;
	}
	ConditionVariableCancelSleep();
	return active_pid(name, &slot) <= 0;
}

/*
 * Drop a slot, if it exists, waiting until nobody holds it.  A slot of another
 * database is left alone: this database is a copy of that one then, and knows
 * the slot's name from there.
 */
void
trucker_slot_drop(const char *name)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);

	if (slot == NULL || slot->data.database != MyDatabaseId)
		return;
	(void) trucker_slot_wait_inactive(name, -1);
	if (active_pid(name, &slot) >= 0)
		ReplicationSlotDrop(name, false);
}

/*
 * The names (char *) of all slots of a database that are named as ours.  Temporary
 * ones go by themselves, with their connection.
 */
List *
trucker_slots_of_database(Oid database, bool temporary_too)
{
	List	   *names = NIL;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		if (slot->in_use && slot->data.database == database &&
			(temporary_too || slot->data.persistency != RS_TEMPORARY) &&
			is_our_name(NameStr(slot->data.name), database))
			names = lappend(names, pstrdup(NameStr(slot->data.name)));
	}
	LWLockRelease(ReplicationSlotControlLock);
	return names;
}

/* Is it one of these names (char *)? */
bool
trucker_slot_is_among(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* How many more slots can be made. */
int
trucker_slots_free(void)
{
	int			n = 0;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
		n += ReplicationSlotCtl->replication_slots[i].in_use ? 0 : 1;
	LWLockRelease(ReplicationSlotControlLock);
	return n;
}
