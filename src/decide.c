/*
 * decide.c
 *	  The SQL functions by which the owner decides about what a truck fails at:
 *	  retry_quarantined(), discard_quarantined() and skip().
 *
 * As in api.c: they write to the catalog, and the worker hears of it when the
 * transaction has committed.  What is to be applied again, or passed over, is the
 * worker's to do (retry.c, apply.c), with the truck's rights.
 */
#include "trucker.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "check.h"
#include "position.h"
#include "quarantine.h"
#include "state.h"
#include "truck.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(trucker_retry_quarantined);
PG_FUNCTION_INFO_V1(trucker_retry_all_quarantined);
PG_FUNCTION_INFO_V1(trucker_discard_quarantined);
PG_FUNCTION_INFO_V1(trucker_discard_all_quarantined);
PG_FUNCTION_INFO_V1(trucker_skip);

static void
raise_unknown(int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("quarantined transaction " INT64_FORMAT " does not exist", id),
			 errhint("SELECT DISTINCT id, truck, error FROM trucker.quarantine lists those that there are.")));
}

/* The truck whose source transaction it is, for somebody with its owner's rights. */
static TruckerTruck *
truck_of(int64 id)
{
	pg_uuid_t	truck_id;
	TruckerTruck *truck = NULL;

	if (trucker_quarantine_owner(id, &truck_id))
		truck = trucker_truck_load(&truck_id);
	if (truck == NULL)
		raise_unknown(id);
	if (!has_privs_of_role(GetUserId(), truck->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of the truck that quarantined transaction " INT64_FORMAT " belongs to", id)));
	return truck;
}

/* The worker shall look at it, once we have committed. */
static void
tell_worker(const TruckerTruck *truck, TruckerSignal signal)
{
	trucker_at_commit_signal(&truck->id, signal);
	if (truck->has_stream)
		trucker_at_commit_poke(&truck->stream_id);
	trucker_at_commit_scan();
}

static void
tell_if_stopped(const TruckerTruck *truck, const char *what)
{
	if (truck->lost)
		ereport(NOTICE,
				(errmsg("truck \"%s\" is lost: %s if it is started again", truck->name, what),
				 errhint("trucker.resync() loads the destination anew, and forgets what is in quarantine.")));
	else if (!truck->enabled)
		ereport(NOTICE,
				(errmsg("truck \"%s\" is stopped: %s when it is started", truck->name, what),
				 errhint("SELECT trucker.start(%s);", quote_literal_cstr(truck->name))));
}

/* ----
 * retry_quarantined
 * ----
 */

/* An earlier one that has one of its keys must come first; unless it has been asked for, too. */
static void
check_order(const TruckerTruck *truck, int64 id)
{
	TruckerQuarantine *quarantine = trucker_quarantine_load(&truck->id);
	TruckerHeld *held = trucker_quarantine_find(quarantine, id);
	int32		seq = 0;
	List	   *kept;

	if (held == NULL)
		raise_unknown(id);
	while ((kept = trucker_quarantine_kept(held, seq)) != NIL)
	{
		ListCell   *lc;

		foreach(lc, kept)
		{
			TruckerKeptChange *change = lfirst(lc);
			TruckerHeld *blocker = trucker_quarantine_holder(quarantine, change->relid, &change->keys, held->lsn);

			seq = change->seq;
			if (blocker && !blocker->asked)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("quarantined transaction " INT64_FORMAT " cannot be retried before " INT64_FORMAT,
								id, blocker->id),
						 errdetail("Both of them change the same row of table %s.", change->table),
						 errhint("SELECT trucker.retry_quarantined(" INT64_FORMAT "); or SELECT trucker.retry_quarantined(%s), which retries all of them in order.",
								 blocker->id, quote_literal_cstr(truck->name))));
		}
	}
}

/* retry_quarantined(id) */
Datum
trucker_retry_quarantined(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	TruckerTruck *truck = truck_of(id);

	trucker_check_preloaded();
	check_order(truck, id);
	if (trucker_quarantine_ask(&truck->id, id) == 0)
		raise_unknown(id);
	tell_if_stopped(truck, "the transaction is retried");
	tell_worker(truck, TRUCKER_POKE);
	PG_RETURN_VOID();
}

/* retry_quarantined(name) */
Datum
trucker_retry_all_quarantined(PG_FUNCTION_ARGS)
{
	TruckerTruck *truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	uint64		n;

	trucker_check_preloaded();
	n = trucker_quarantine_ask(&truck->id, TRUCKER_QUARANTINE_ALL);
	if (n > 0)
	{
		tell_if_stopped(truck, "its quarantined transactions are retried");
		tell_worker(truck, TRUCKER_POKE);
	}
	PG_RETURN_INT64((int64) n);
}

/* ----
 * discard_quarantined
 * ----
 */

/* discard_quarantined(id) */
Datum
trucker_discard_quarantined(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	TruckerTruck *truck = truck_of(id);

	if (trucker_quarantine_discard(&truck->id, id) == 0)
		raise_unknown(id);
	tell_worker(truck, TRUCKER_POKE);
	PG_RETURN_VOID();
}

/* discard_quarantined(name) */
Datum
trucker_discard_all_quarantined(PG_FUNCTION_ARGS)
{
	TruckerTruck *truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	uint64		n = trucker_quarantine_discard(&truck->id, TRUCKER_QUARANTINE_ALL);

	if (n > 0)
		tell_worker(truck, TRUCKER_POKE);
	PG_RETURN_INT64((int64) n);
}

/* ----
 * skip
 * ----
 */

/* Is it what the truck fails at now?  Nothing else may be skipped: it would be by mistake. */
static void
check_fails_at(const TruckerTruck *truck, XLogRecPtr lsn)
{
	TruckerPosition *position = trucker_position_load(&truck->id, truck->applied_lsn);
	bool		fails = !XLogRecPtrIsInvalid(truck->failed_lsn) &&
		!trucker_position_skips(position, truck->failed_lsn);

	if (trucker_position_skips(position, lsn))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" has passed %X/%X already", truck->name, LSN_FORMAT_ARGS(lsn)),
				 errdetail("Its position is %X/%X.", LSN_FORMAT_ARGS(Max(position->lsn, position->applied)))));
	if (!fails)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no source transaction is known that truck \"%s\" fails at", truck->name),
				 errhint("Where it fails shows in column failed_lsn of trucker.status, once the truck has tried the source transaction by itself.")));
	if (lsn != truck->failed_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" does not fail at %X/%X", truck->name, LSN_FORMAT_ARGS(lsn)),
				 errdetail("The source transaction that it fails at commits at %X/%X.", LSN_FORMAT_ARGS(truck->failed_lsn)),
				 errhint("SELECT trucker.skip(%s, '%X/%X');", quote_literal_cstr(truck->name),
						 LSN_FORMAT_ARGS(truck->failed_lsn))));
}

/* skip(name, lsn) */
Datum
trucker_skip(PG_FUNCTION_ARGS)
{
	TruckerTruck *truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	XLogRecPtr	lsn = PG_GETARG_LSN(1);

	trucker_check_preloaded();
	if (truck->lost || truck->needs_backfill)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" reads no source transactions now", truck->name),
				 truck->lost ? errdetail("It is lost.") : errdetail("It has yet to be loaded.")));
	check_fails_at(truck, lsn);
	trucker_state_ask_skip(&truck->id, lsn);
	tell_if_stopped(truck, "the source transaction is skipped");
	/* let go of it, if it is just being tried */
	tell_worker(truck, TRUCKER_RELOAD);
	PG_RETURN_VOID();
}
