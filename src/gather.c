/*
 * gather.c
 *	  Trucks that rest share a slot.
 *
 * A truck that is stopped, or has failed for good, while it rides on a catch-up
 * stream rests there, and keeps that stream's slot.  Several such streams of the same
 * owner, role and name are more slots than are of use: the server keeps WAL from the
 * oldest slot on, whoever that is for.  So a probe gathers the trucks of those that
 * rest on the one that is furthest behind.  What it costs is that they have more to
 * read again when they are started; therefore only streams that are near each other
 * are gathered, or, when slots are short, all.
 *
 * Moving safely.  Neither stream has a worker, and none can begin to confirm anything
 * for the taker: a worker's first act is to delete the note of where the slot of a
 * resting stream stands (trucker_state_forget_confirmed), which waits for our lock on
 * the stream's row; only then it loads its trucks anew.  A truck that is being
 * started just now is left where it is.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "gather.h"
#include "holder.h"
#include "log.h"
#include "position.h"
#include "shmem.h"
#include "slots.h"
#include "state.h"

typedef struct Gathering
{
	const TruckerStreamRow *taker;
	const TruckerStreamRow *giver;
	int			nmoved;
} Gathering;

/* Is the stream, whose row is locked, still as it was, with a slot that nobody has moved? */
static bool
is_at_rest(const TruckerStreamRow *stream)
{
	return trucker_state_is_resting(stream) && !trucker_has_worker(MyDatabaseId, &stream->id) &&
		trucker_slot_active_pid(stream->slot_name) == 0 &&
		trucker_slot_trouble(stream->slot_name, stream->confirmed_lsn) == NULL;
}

static bool
gather(void *arg)
{
	Gathering  *gathering = arg;
	const TruckerStreamRow *taker = gathering->taker;
	const TruckerStreamRow *giver = gathering->giver;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	/* neither waits, so the order does not matter */
	if (trucker_holder_lock_stream(&taker->id) && trucker_holder_lock_stream(&giver->id) &&
		is_at_rest(taker) && is_at_rest(giver))
		gathering->nmoved = trucker_state_gather(&giver->id, &taker->id, giver->confirmed_lsn);
	PopActiveSnapshot();
	CommitTransactionCommand();
	/* before the slot that they do not need any more is dropped */
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	return true;
}

static bool
is_same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static const char *
plugin_of(const TruckerStreamRow *stream)
{
	TruckerSlotInfo info;

	return trucker_slot_find(stream->slot_name, &info) >= 0 ? pstrdup(info.plugin) : NULL;
}

static bool
are_alike(const TruckerStreamRow *a, const TruckerStreamRow *b)
{
	return a->owner == b->owner && a->role == b->role && strcmp(a->name, b->name) == 0 &&
		is_same(a->publication, b->publication) && is_same(plugin_of(a), plugin_of(b));
}

/*
 * Gather the trucks of resting catch-up streams.  True: some stream may have become
 * empty, and another probe should look.  Outside any transaction; what it allocates is
 * in context.
 */
bool
trucker_gather(MemoryContext context)
{
	const TruckerStreamRow *taker = NULL;
	List	   *streams;
	bool		short_of_slots;
	bool		gathered = false;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	streams = trucker_state_resting_streams();
	short_of_slots = list_length(streams) >= trucker_max_catchup_streams || trucker_slots_free() == 0;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	/* those that are alike stand together, the one furthest behind first */
	foreach(lc, streams)
	{
		const TruckerStreamRow *stream = lfirst(lc);
		Gathering	gathering = {taker, stream, 0};

		if (taker == NULL || !are_alike(taker, stream) ||
			(!short_of_slots && stream->confirmed_lsn - taker->confirmed_lsn > TRUCKER_NEAR_BYTES))
		{
			taker = stream;
			continue;
		}
		if (!trucker_catalog_try(gather, &gathering) || gathering.nmoved == 0)
			continue;
		gathered = true;
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("%d trucks that rest share replication slot \"%s\" from now on",
						gathering.nmoved, taker->slot_name),
				 errdetail("Replication slot \"%s\" is not needed for them any more.", stream->slot_name)));
	}
	return gathered;
}
