/*
 * position.c
 *	  A truck's position, and the LSN rules that make "exactly once" true.
 *
 * The position is the end LSN of the last source transaction whose effects are
 * committed at the destination.  It is one row of trucker.position, written in
 * the very transaction that writes the data.
 *
 * Rule 1: a source transaction is skipped iff its commit record starts before
 *	the position.  (A commit record never straddles one: the position is the
 *	end of another commit record.)
 * Rule 2: what may be confirmed to the slot is what would survive a crash of
 *	this server now: positions whose local commit has been flushed.
 * Rule 3: while nothing is pending - no batch open, no commit unflushed - the
 *	LSN up to which the walsender has sent may be confirmed, so that an idle
 *	truck does not hold back the WAL of unrelated traffic.  It is not written to
 *	the row: that would make WAL, which would make another transaction, for ever.
 *	So the slot may be ahead of the row; never ahead of what the row implies.
 *
 * The row has no index.  The worker remembers its TID and updates it through
 * the table access method; found by key, it gets slower with every dead
 * version that an old snapshot, our own backfill's included, keeps alive.
 * Should the row be somewhere else (VACUUM FULL), it is looked for again.
 *
 * An LSN means something only together with the server and the timeline that it
 * was read on.  Both are in the row.  After a promotion or a restore the server is
 * on another timeline; what is before the point at which that one forked off is the
 * same on both, so a position there still holds, and is written anew as of now.
 */
#include "trucker.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/timeline.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "executor/tuptable.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "position.h"

/* columns of trucker.position */
enum
{
	COL_TRUCK_ID = 0,
	COL_SYSTEM_ID,
	COL_TIMELINE,
	COL_LSN,
	NCOLUMNS
};

typedef struct Unflushed
{
	dlist_node	node;
	XLogRecPtr	local_end;		/* end of our commit record */
	XLogRecPtr	source_end;		/* position that it committed */
} Unflushed;

static bool
is_my_row(const TruckerPosition *position, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	return memcmp(DatumGetUUIDP(slot->tts_values[COL_TRUCK_ID]),
				  &position->truck_id, sizeof(pg_uuid_t)) == 0;
}

/* Look for the row through the whole (small) table. */
static void
find_row(TruckerPosition *position, Relation rel, Snapshot as_of)
{
	Snapshot	snapshot = RegisterSnapshot(as_of);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

	position->exists = false;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		if (!is_my_row(position, slot))
			continue;
		position->exists = true;
		position->tid = slot->tts_tid;
		position->lsn = DatumGetLSN(slot->tts_values[COL_LSN]);
		position->system_id = (uint64) DatumGetInt64(slot->tts_values[COL_SYSTEM_ID]);
		position->timeline = (TimeLineID) DatumGetInt32(slot->tts_values[COL_TIMELINE]);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
}

/*
 * Read a truck's position.  applied_lsn was noted, durably, when it last changed
 * streams: it may be further, for what was no business of the truck's leaves no
 * trace in the row.  The result belongs to the current context.
 *
 * What the row says may have been committed without waiting for the disk, by the
 * attempt before this one or by the truck's backfill.  It is put there before anybody
 * confirms anything because of it.
 */
TruckerPosition *
trucker_position_load(const pg_uuid_t *truck_id, XLogRecPtr applied_lsn)
{
	TruckerPosition *position = palloc0(sizeof(TruckerPosition));
	Relation	rel;

	position->truck_id = *truck_id;
	position->context = CurrentMemoryContext;
	dlist_init(&position->unflushed);
	position->relid = get_relname_relid("position",
										get_namespace_oid(TRUCKER_SCHEMA, false));
	rel = table_open(position->relid, AccessShareLock);
	find_row(position, rel, GetLatestSnapshot());
	table_close(rel, AccessShareLock);
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	position->applied = applied_lsn;
	position->durable = Max(position->lsn, applied_lsn);
	return position;
}

/*
 * Read the row again as the transaction's snapshot sees it, which is an imported
 * one.  What somebody else commits for the truck after that snapshot cannot be seen
 * in the destination either, and must make trucker_position_write() fail.
 */
void
trucker_position_read_again(TruckerPosition *position)
{
	Relation	rel = table_open(position->relid, AccessShareLock);

	find_row(position, rel, GetActiveSnapshot());
	table_close(rel, AccessShareLock);
}

/*
 * Does the position belong to the timeline that this server is on, or to what came
 * before it?  NULL if so.  If that cannot be told now, an error is raised.
 */
static const char *
timeline_trouble(const TruckerPosition *position)
{
	XLogRecPtr	lsn = Max(position->lsn, position->applied);
	TimeLineID	current = GetWALInsertionTimeLine();
	XLogRecPtr	fork;
	List	   *history;

	if (position->timeline == current)
		return NULL;
	/* without its file a timeline seems to have no history */
	if (current != 1 && !existsTimeLineHistory(current))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the history of this server's timeline %u is missing", current),
				 errdetail("The position was written on timeline %u, and it cannot be told whether it still holds.",
						   position->timeline),
				 errhint("Copy %08X.history from the WAL archive into pg_wal, or load the destination anew with trucker.resync().", current)));
	history = readTimeLineHistory(current);
	if (!tliInHistory(position->timeline, history))
		return psprintf("its position %X/%X was written on timeline %u, which this server, on timeline %u, does not come from",
						LSN_FORMAT_ARGS(lsn), position->timeline, current);
	fork = tliSwitchPoint(position->timeline, history, NULL);
	if (lsn > fork)
		return psprintf("its position %X/%X was written on timeline %u, which this server left at %X/%X",
						LSN_FORMAT_ARGS(lsn), position->timeline, LSN_FORMAT_ARGS(fork));
	return NULL;
}

/*
 * Does the position belong to this server's WAL?  NULL if so, else what is
 * wrong with it.
 */
const char *
trucker_position_trouble(const TruckerPosition *position)
{
	if (!position->exists)
		return NULL;
	if (position->system_id != GetSystemIdentifier())
		return psprintf("its position was written by another server (system identifier " UINT64_FORMAT ")",
						position->system_id);
	if (Max(position->lsn, position->applied) > GetFlushRecPtr(NULL))
		return psprintf("its position %X/%X is ahead of this server's WAL, which ends at %X/%X",
						LSN_FORMAT_ARGS(Max(position->lsn, position->applied)),
						LSN_FORMAT_ARGS(GetFlushRecPtr(NULL)));
	return timeline_trouble(position);
}

/* Has the server been promoted or restored since the position was written? */
bool
trucker_position_is_of_other_timeline(const TruckerPosition *position)
{
	return position->exists && position->timeline != GetWALInsertionTimeLine();
}

/* Rule 1. */
bool
trucker_position_skips(const TruckerPosition *position, XLogRecPtr commit_lsn)
{
	return commit_lsn < Max(position->lsn, position->applied);
}

static void
fill_slot(TupleTableSlot *slot, TruckerPosition *position, XLogRecPtr lsn)
{
	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, NCOLUMNS * sizeof(bool));
	slot->tts_values[COL_TRUCK_ID] = UUIDPGetDatum(&position->truck_id);
	slot->tts_values[COL_SYSTEM_ID] = Int64GetDatum((int64) GetSystemIdentifier());
	slot->tts_values[COL_TIMELINE] = Int32GetDatum((int32) GetWALInsertionTimeLine());
	slot->tts_values[COL_LSN] = LSNGetDatum(lsn);
	ExecStoreVirtualTuple(slot);
}

/* Is the row still where, and as, we left it? */
static bool
row_in_place(TruckerPosition *position, Relation rel, TupleTableSlot *slot)
{
	return table_tuple_fetch_row_version(rel, &position->tid, GetActiveSnapshot(), slot) &&
		is_my_row(position, slot) &&
		DatumGetLSN(slot->tts_values[COL_LSN]) == position->lsn;
}

/*
 * Write the position in the current transaction, with an active snapshot; at
 * most once in each.  Raises an error if the row is not as this worker left
 * it: then somebody else works for the same truck, and this transaction must
 * not commit.
 */
void
trucker_position_write(TruckerPosition *position, XLogRecPtr lsn)
{
	Relation	rel = table_open(position->relid, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	if (!position->exists || !row_in_place(position, rel, slot))
	{
		XLogRecPtr	expected = position->lsn;
		bool		existed = position->exists;

		find_row(position, rel, GetLatestSnapshot());
		if (position->exists != existed || position->lsn != expected)
		{
			position->exists = existed;
			position->lsn = expected;
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the position of the truck was changed by somebody else")));
		}
	}

	ExecClearTuple(slot);
	if (position->exists)
	{
		bool		ignored;

		fill_slot(slot, position, lsn);
		simple_table_tuple_update(rel, &position->tid, slot, GetActiveSnapshot(), &ignored);
	}
	else
	{
		fill_slot(slot, position, lsn);
		simple_table_tuple_insert(rel, slot);
	}
	position->new_tid = slot->tts_tid;
	position->new_lsn = lsn;

	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}

/* The transaction that wrote the position has committed, up to local_end. */
void
trucker_position_committed(TruckerPosition *position, XLogRecPtr local_end)
{
	Unflushed  *item;

	if (position->new_lsn == InvalidXLogRecPtr)
		return;
	position->exists = true;
	position->tid = position->new_tid;
	position->lsn = position->new_lsn;
	position->system_id = GetSystemIdentifier();
	position->timeline = GetWALInsertionTimeLine();
	position->new_lsn = InvalidXLogRecPtr;

	item = MemoryContextAlloc(position->context, sizeof(Unflushed));
	item->local_end = local_end;
	item->source_end = position->lsn;
	dlist_push_tail(&position->unflushed, &item->node);
}

void
trucker_position_aborted(TruckerPosition *position)
{
	position->new_lsn = InvalidXLogRecPtr;
}

/* The position holds on this timeline, too: write that down.  Outside any transaction. */
void
trucker_position_adopt(TruckerPosition *position)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_position_write(position, position->lsn);
	PopActiveSnapshot();
	CommitTransactionCommand();
	trucker_position_committed(position, XactLastCommitEnd);
}

/*
 * Rule 3: nothing is pending, and all that committed before sent_lsn has been
 * received (and was none of this truck's business, or is applied).
 */
void
trucker_position_idle(TruckerPosition *position, XLogRecPtr sent_lsn)
{
	if (dlist_is_empty(&position->unflushed) && position->durable < sent_lsn)
		position->durable = sent_lsn;
}

/* Rule 2: the LSN that the slot may be told. */
XLogRecPtr
trucker_position_confirmable(TruckerPosition *position)
{
	XLogRecPtr	flushed;
	dlist_mutable_iter iter;

	if (dlist_is_empty(&position->unflushed))
		return position->durable;

	flushed = GetFlushRecPtr(NULL);
	dlist_foreach_modify(iter, &position->unflushed)
	{
		Unflushed  *item = dlist_container(Unflushed, node, iter.cur);

		if (item->local_end > flushed)
			break;
		position->durable = Max(position->durable, item->source_end);
		dlist_delete(iter.cur);
		pfree(item);
	}
	return position->durable;
}

bool
trucker_position_has_unflushed(const TruckerPosition *position)
{
	return !dlist_is_empty((dlist_head *) &position->unflushed);
}

/*
 * The insert position may stand behind a page's header, where no record has
 * ended and an idle server never flushes to.  Say where the record before it
 * ended instead.
 */
XLogRecPtr
trucker_lsn_record_end(XLogRecPtr lsn)
{
	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		return lsn - SizeOfXLogLongPHD;
	if (XLogSegmentOffset(lsn, wal_segment_size) > SizeOfXLogLongPHD &&
		lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return lsn - SizeOfXLogShortPHD;
	return lsn;
}
