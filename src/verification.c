/*
 * verification.c
 *	  Bring a truck to the consistent point of a snapshot, for trucker.verify().
 *
 * What a destination should hold is known only of a point of the WAL at which there is
 * a snapshot of the source, too.  A snapshot that a session takes is none: transactions
 * become visible in another order than they commit in the WAL.  One that is exported with
 * a slot is: it shows what commits before the slot's consistent point, and nothing else.
 * So, as for tables that are added (added_tables.c):
 *
 *	 1. slot	   nothing is read.  A temporary slot is made, with a snapshot at its
 *				   consistent point Q, which cannot be before where the truck rests.  That
 *				   waits for the transactions that run
 *	 2. approach   the truck reads up to Q, and nothing of what commits after it
 *	 3. offer	   it rests there while the session imports the snapshot, and takes one of
 *				   the destination, and no longer than OFFER_MS.  The comparison needs no truck
 *	 4.			   a new pass, from where the slot is confirmed
 *
 * For that the truck has its stream for itself: among others it leaves for a catch-up
 * stream first (transition.c), and joins them when all is done.  So nobody waits for it.
 *
 * Nothing of this is in the catalog.  An error here is not the truck's, and is told to the
 * session; whatever ends session or worker, the slot goes with its connection.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"
#include "wait.h"

/* how long a truck rests, at most, until the session has its snapshots */
#define OFFER_MS 10000
/* how often to look whether it has */
#define LOOK_MS 100

typedef struct TruckerVerification
{
	MemoryContext context;		/* of all this */
	pg_uuid_t	truck_id;
	TruckerReplication *replication;	/* holds slot and snapshot */
	char	   *snapshot;
} TruckerVerification;

/* Is this the only truck of the stream that shall run? */
static bool
is_alone(const TruckerStream *stream, const TruckerMember *member)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (lfirst(lc) != member && trucker_member_shall_run(lfirst(lc)))
			return false;
	return true;
}

/* Can the truck be brought to a point, and does a session want it to be? */
static bool
is_wanted(const TruckerMember *member)
{
	return member->active && !member->misplaced && member->unloaded == NIL &&
		trucker_verify_is_wanted(&member->truck_id);
}

/* The truck that is to be verified on this stream; NULL: there is none. */
TruckerMember *
trucker_verification_member(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (is_wanted(lfirst(lc)))
			return is_alone(stream, lfirst(lc)) ? lfirst(lc) : NULL;
	return NULL;
}

/* Must the truck leave the others for that? */
bool
trucker_verification_needs_own_stream(const TruckerStream *stream, const TruckerMember *member)
{
	return is_wanted(member) && !is_alone(stream, member);
}

/* Is a slot to be made for it now? */
bool
trucker_verification_is_due(const TruckerStream *stream)
{
	return stream->verification == NULL && stream->addition == NULL && trucker_verification_member(stream) != NULL;
}

static void
forget(TruckerStream *stream)
{
	MemoryContext context = stream->verification->context;

	stream->verification = NULL;
	stream->read_until = InvalidXLogRecPtr;
	/* closes the connection */
	MemoryContextDelete(context);
}

/* Somebody may want something else of the worker, or the session may be gone. */
static bool
is_still_wanted(void *arg)
{
	return !trucker_worker_is_poked() && trucker_verify_is_wanted(arg);
}

static bool
create_slot(void *arg)
{
	TruckerStream *stream = arg;
	TruckerVerification *verification = stream->verification;

	MemoryContextSwitchTo(verification->context);
	verification->replication = trucker_stream_connect(stream);
	/* nothing is read from it, so any plugin will do: this one is always there */
	if (!trucker_replication_create_slot_while(verification->replication, trucker_slot_new_name(), trucker_pgoutput.plugin,
											   is_still_wanted, &verification->truck_id,
											   &stream->read_until, &verification->snapshot))
		stream->read_until = InvalidXLogRecPtr;
	return true;
}

/* Step 1, between two passes: the next one ends at stream->read_until. */
void
trucker_verification_begin(TruckerStream *stream)
{
	TruckerMember *member = trucker_verification_member(stream);
	MemoryContext context = AllocSetContextCreate(stream->context, "trucker verification", ALLOCSET_SMALL_SIZES);
	TruckerVerification *verification = MemoryContextAllocZero(context, sizeof(TruckerVerification));

	verification->context = context;
	verification->truck_id = member->truck_id;
	stream->verification = verification;
	/* trucker.status tells whom the walsender waits for; the next pass sets it right */
	trucker_truck_set_state(member->entry, TRUCKER_CREATING_SLOT);
	trucker_stop_point("verify: begun");
	if (!trucker_catalog_try(create_slot, stream))
	{
		trucker_verify_withdraw(&verification->truck_id, true);
		stream->read_until = InvalidXLogRecPtr;
	}
	if (XLogRecPtrIsInvalid(stream->read_until))
		forget(stream);
	else
		trucker_stop_point("verify: slot created");
	trucker_worker_set_walsender(0);
}

/*
 * The truck is at stream->read_until, and all that it has committed can be seen: let the
 * session know, and rest until it has its snapshots.
 */
static void
offer(TruckerStream *stream, TruckerMember *member)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OFFER_MS);
	const pg_uuid_t *truck_id = &member->truck_id;
	uint64		number = trucker_verify_offer(truck_id, stream->read_until, stream->verification->snapshot);

	PG_TRY();
	{
		trucker_stop_point("verify: offered");
		while (number != 0 && trucker_verify_is_open(truck_id, number) && GetCurrentTimestamp() < deadline &&
			   !trucker_truck_must_reload(member->entry) && !trucker_worker_must_end())
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, trucker_wait(TRUCKER_WAIT_PROGRESS));
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		if (number != 0 && trucker_verify_is_open(truck_id, number))
			trucker_verify_withdraw(truck_id, false);
	}
	PG_END_TRY();
}

/*
 * After a pass: step 3, if the pass has come to its end.  If not - an error, another truck
 * that has come aboard, an altered truck - all begins anew, as long as it is wanted.
 */
void
trucker_verification_end(TruckerStream *stream)
{
	TruckerMember *member;

	if (stream->verification == NULL)
		return;
	member = trucker_verification_member(stream);
	if (member && stream->applied >= stream->read_until &&
		memcmp(&member->truck_id, &stream->verification->truck_id, sizeof(pg_uuid_t)) == 0)
		offer(stream, member);
	forget(stream);
}
