/*
 * budget.c
 *	  How much WAL the server keeps for trucks, and who looks after it.
 *
 * A slot keeps WAL for two reasons:
 *
 *	 restart_lsn ------- open -------> confirmed LSN ------- behind -------> end
 *
 *	 behind	 what some truck of its stream has yet to apply
 *	 open	 what transactions wrote that are still open, and all that was written
 *			 beside them: decoding has to begin where they began
 *
 * trucker.max_retained_wal is the limit of each.  A truck that is behind by more is
 * lost, so that its slot can be dropped, or can move on for the others.  Open
 * transactions are no truck's fault, so the log names them at half the limit.
 * But the server comes first: at the limit, the trucks of the slot are lost, too.
 *
 * A worker may be absent, in a pause, or busy for hours with somebody's SQL.  So it
 * is the launcher that looks at the slots, in shared memory, every
 * TRUCKER_BUDGET_LOOK_MS.  It belongs to no database; what is to be done it leaves to
 * a probe (judge.c), which it sends when a slot keeps more than half, and again as
 * the WAL grows.
 */
#include "trucker.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "budget.h"
#include "shmem.h"
#include "slots.h"

/* how often, in a budget of WAL, to look into the catalog when much is kept */
#define PROBES_A_BUDGET 32

/* What the launcher remembers of the slot in a place, to tell whether open transactions hold it. */
typedef struct Look
{
	char		name[NAMEDATALEN];
	XLogRecPtr	restart_lsn;
	XLogRecPtr	asked_lsn;		/* end of a record that lets restart_lsn follow; 0: none was written */
	int			rounds;			/* so often it has not followed */
	bool		warned;
} Look;

/* The limit in bytes; 0: there is none. */
uint64
trucker_budget_bytes(void)
{
	return (uint64) trucker_max_retained_wal * 1024 * 1024;
}

/* Bytes of WAL that a slot keeps for what was open when it was confirmed, or while it is made. */
static uint64
kept_before(const TruckerSlotInfo *slot, XLogRecPtr end)
{
	XLogRecPtr	upto = XLogRecPtrIsInvalid(slot->confirmed_lsn) ? end : slot->confirmed_lsn;

	return XLogRecPtrIsInvalid(slot->restart_lsn) || slot->restart_lsn > upto ? 0 : upto - slot->restart_lsn;
}

/* What a slot keeps for a truck that has applied all before lsn (0: it has no position). */
TruckerKept
trucker_budget_measure(const TruckerSlotInfo *slot, XLogRecPtr lsn)
{
	XLogRecPtr	end = GetFlushRecPtr(NULL);
	TruckerKept kept = {0, 0};

	/* the slot may be ahead of the position, never ahead of what it implies */
	lsn = Max(lsn, slot->confirmed_lsn);
	/* nobody is behind while the slot is being made */
	if (!XLogRecPtrIsInvalid(lsn) && lsn < end)
		kept.behind = end - lsn;
	if (trucker_slot_is_held_open(slot->name))
		kept.open = kept_before(slot, end);
	return kept;
}

/*
 * For trucker.status: what to warn of about a truck that has applied all before lsn
 * (0: it has no position); NULL: nothing.
 */
char *
trucker_budget_warning(const char *slot_name, XLogRecPtr lsn)
{
	uint64		limit = trucker_budget_bytes();
	TruckerSlotInfo slot;
	TruckerKept kept;

	if (limit == 0 || RecoveryInProgress() || trucker_slot_find(slot_name, &slot) < 0)
		return NULL;
	kept = trucker_budget_measure(&slot, lsn);
	if (kept.behind >= limit / 2)
		return psprintf("it is " UINT64_FORMAT " MB behind, and will be lost at %d MB (trucker.max_retained_wal)",
						kept.behind >> 20, trucker_max_retained_wal);
	if (kept.open >= limit / 2)
		return psprintf("its slot keeps " UINT64_FORMAT " MB of WAL for transactions that are still open, "
						"and it will be lost at %d MB (trucker.max_retained_wal)",
						kept.open >> 20, trucker_max_retained_wal);
	return NULL;
}

/* A sentence that says whose transaction is the oldest one that is open. */
const char *
trucker_budget_oldest_transaction(void)
{
	TransactionId xid = GetOldestActiveTransactionId();
	int			pid = BackendXidGetPid(xid);

	if (pid != 0)
		return psprintf("The oldest one is that of process %d.", pid);
	if (TransactionIdIsInProgress(xid))
		return psprintf("The oldest one is prepared, with transaction ID %u (pg_prepared_xacts).", xid);
	return "It has just ended.";
}

/* ----
 * The launcher
 * ----
 */

/*
 * Is a slot held back by open transactions?  Its restart_lsn follows what is confirmed
 * only at records of running transactions, of which the server writes one every 15 s
 * or so.  So another is written; when the slot is confirmed beyond the second one and
 * restart_lsn has not moved, it is.  One that nobody reads from does not move anyway,
 * and keeps no more before its confirmed LSN than it did.  If the transaction is our
 * own, of a backfill or of a huge batch, it is ended when its truck is behind by the
 * limit, which it is then: it began behind the truck's position.
 */
static bool
is_held_open(Look *look, const TruckerSlotInfo *slot)
{
	if (strcmp(look->name, slot->name) != 0 || look->restart_lsn != slot->restart_lsn)
	{
		memset(look, 0, sizeof(*look));
		strlcpy(look->name, slot->name, NAMEDATALEN);
		look->restart_lsn = slot->restart_lsn;
	}
	if (slot->active_pid == 0 ||
		trucker_is_own_process(BackendXidGetPid(GetOldestActiveTransactionId())))
		look->rounds = 0;
	else if (XLogRecPtrIsInvalid(slot->confirmed_lsn))
		look->rounds++;			/* it is being made, which waits for them */
	else if (XLogRecPtrIsInvalid(look->asked_lsn))
		look->asked_lsn = LogStandbySnapshot();
	else if (slot->confirmed_lsn >= look->asked_lsn)
	{
		look->rounds++;
		look->asked_lsn = LogStandbySnapshot();
	}
	return look->rounds >= 2;
}

static void
warn_of_open(Look *look, const TruckerSlotInfo *slot, uint64 kept)
{
	if (!look->warned)
		ereport(WARNING,
				(errmsg("replication slot \"%s\" keeps " UINT64_FORMAT " MB of WAL for transactions that are still open",
						slot->name, kept >> 20),
				 errdetail("%s  At %d MB (trucker.max_retained_wal) the trucks that it serves will be lost.",
						   trucker_budget_oldest_transaction(), trucker_max_retained_wal),
				 errhint("End the transaction, or raise trucker.max_retained_wal.")));
	look->warned = true;
}

/* How much does the slot keep that is to be limited? */
static uint64
look_at(int index, Look *look, const TruckerSlotInfo *slot, uint64 limit)
{
	XLogRecPtr	end = GetFlushRecPtr(NULL);
	uint64		open = kept_before(slot, end);
	bool		held = false;

	if (open < limit / 2)
		memset(look, 0, sizeof(*look));
	else
		held = is_held_open(look, slot);
	trucker_slot_set_held_open(index, slot->name, held);
	if (held)
		warn_of_open(look, slot, open);
	return Max(held ? open : 0, trucker_budget_measure(slot, InvalidXLogRecPtr).behind);
}

static bool
any_worker(void)
{
	TruckerWorkerInfo info;

	for (int i = 0; i < trucker_worker_count(); i++)
		if (trucker_get_worker(i, &info))
			return true;
	return false;
}

/*
 * Look at the slots, if it is time to, and ask for probes.  Returns the milliseconds
 * until it will be again; -1: there is no slot, nor a worker that could make one.
 */
long
trucker_budget_look(void)
{
	static Look *looks = NULL;
	static TimestampTz next = 0;
	static XLogRecPtr probed_at = InvalidXLogRecPtr;	/* the end of the WAL then */
	TimestampTz now = GetCurrentTimestamp();
	uint64		limit = trucker_budget_bytes();
	XLogRecPtr	end = GetFlushRecPtr(NULL);
	bool		grown;
	bool		any = false;

	if (now < next)
		return TimestampDifferenceMilliseconds(now, next) + 1;
	next = TimestampTzPlusMilliseconds(now, TRUCKER_BUDGET_LOOK_MS);
	if (looks == NULL)
		looks = MemoryContextAllocZero(TopMemoryContext, max_replication_slots * sizeof(Look));

	grown = end - probed_at >= limit / PROBES_A_BUDGET;
	if (grown)
		probed_at = end;
	for (int i = 0; i < max_replication_slots; i++)
	{
		TruckerSlotInfo slot;
		uint64		kept;

		if (!trucker_slot_get(i, &slot))
			continue;
		any = true;
		kept = limit == 0 ? 0 : look_at(i, &looks[i], &slot, limit);
		if (slot.invalidated ||
			(limit > 0 && (kept >= limit || (kept >= limit / 2 && grown))))
			trucker_request_scan(slot.database);
	}
	return any || any_worker() ? TRUCKER_BUDGET_LOOK_MS : -1;
}
