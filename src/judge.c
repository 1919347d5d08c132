/*
 * judge.c
 *	  Which trucks are lost because of their slots, or of the WAL that is kept for them.
 *
 * A probe judges the trucks of its database, whoever has sent it.
 *
 * Slots of streams without a worker: is the slot still there, valid, and where it
 * was left?  (A worker asks that itself.)  So a truck that is stopped does not have to
 * be started to learn that it is lost.
 *
 * The budget: a truck that is behind by trucker.max_retained_wal is lost.  One that
 * shall run, and does not fail, is given GAIN_INTERVAL_MS, and is not lost as long as
 * it comes nearer: what is kept shrinks then.  How far a truck is, its position tells
 * only of what there was to write; beside it count what was noted when the slot was
 * held back for others, or came to rest, the slot, and what its worker has published.
 * A slot that no worker moves, and that was held back for a truck that is gone, is
 * moved on to where the others need it.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "budget.h"
#include "catalog.h"
#include "holder.h"
#include "log.h"
#include "member.h"
#include "position.h"
#include "shmem.h"
#include "state.h"

/* how long a truck that works has to come nearer: a few looks, as its next commit may take its time */
#define GAIN_INTERVAL_MS (3 * TRUCKER_BUDGET_LOOK_MS - 1000)
/* A probe moves a slot at most so far: decoding on takes time, and others wait for a probe. */
#define ADVANCE_BYTES (UINT64CONST(512) * 1024 * 1024)
/* in that many steps, since each takes restart_lsn only to where the step began */
#define ADVANCE_STEPS 8

/* The trucks of one stream, judged together. */
typedef struct Stream
{
	List	   *holders;		/* of TruckerHolder */
	const TruckerHolder *first;
	bool		has_worker;
	bool		has_slot;
	TruckerSlotInfo slot;
} Stream;

static void
begin(MemoryContext context)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
}

static void
commit(MemoryContext context)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* ----
 * Sentences
 * ----
 */

typedef struct Sentence
{
	const TruckerHolder *holder;
	ErrorData	edata;
	bool		done;
} Sentence;

static bool
execute_sentence(void *arg)
{
	Sentence   *sentence = arg;
	const TruckerHolder *holder = sentence->holder;

	begin(CurrentMemoryContext);
	sentence->done = trucker_state_lock_truck(&holder->truck_id, &holder->stream_id) &&
		trucker_state_record_error(&holder->truck_id, trucker_error_text(&sentence->edata), true, false,
									   InvalidXLogRecPtr);
	commit(CurrentMemoryContext);
	/* before a worker hears of it, and lets the slot move on */
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	return true;
}

static bool
say(void *arg)
{
	ThrowErrorData(arg);
	return true;
}

static bool
has_backfill(const TruckerHolder *holder)
{
	TruckerTruckInfo info;

	return trucker_find_truck(MyDatabaseId, &holder->truck_id, &info) && info.backfill_pid != 0;
}

/* The truck is lost. */
static void
give_up(const TruckerHolder *holder, const char *why, const char *detail)
{
	Sentence	sentence = {.holder = holder};
	ErrorData  *edata = &sentence.edata;

	edata->elevel = ERROR;
	edata->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	edata->message = psprintf("truck \"%s\" cannot go on: %s", holder->name, why);
	edata->detail = unconstify(char *, detail);
	edata->hint = psprintf("SELECT trucker.resync(%s) loads the destination anew.",
						   quote_literal_cstr(holder->name));
	if (!trucker_catalog_try(execute_sentence, &sentence))
		return;
	if (sentence.done)
		(void) trucker_catalog_try(say, edata); /* it logs what is raised */
	/* its row may be locked by its own backfill, which is cancelled then; next time it will not be */
	if (sentence.done || has_backfill(holder))
		trucker_signal_truck(MyDatabaseId, &holder->truck_id, TRUCKER_RELOAD);
}

/* ----
 * The budget
 * ----
 */

typedef struct Warning
{
	const TruckerHolder *holder;
	bool		done;
} Warning;

static bool
note_warning(void *arg)
{
	Warning    *warning = arg;

	begin(CurrentMemoryContext);
	warning->done = trucker_state_lock_truck(&warning->holder->truck_id, &warning->holder->stream_id);
	if (warning->done)
		trucker_holder_set_warned(&warning->holder->truck_id, GetFlushRecPtr(NULL));
	commit(CurrentMemoryContext);
	return true;
}

/*
 * The truck is behind by half the budget: say so, once until it has come as far as
 * the WAL went when that was said last.
 */
static void
warn(const TruckerHolder *holder, const TruckerSlotInfo *slot, XLogRecPtr lsn, uint64 behind)
{
	Warning		warning = {holder, false};
	const char *name = quote_literal_cstr(holder->name);

	if (!XLogRecPtrIsInvalid(holder->warned_lsn) && lsn <= holder->warned_lsn)
		return;
	if (!trucker_catalog_try(note_warning, &warning) || !warning.done)
		return;
	ereport(WARNING,
			(errmsg("truck \"%s\" is " UINT64_FORMAT " MB behind", holder->name, behind >> 20),
			 errdetail("At %d MB (trucker.max_retained_wal) it will be lost.  Replication slot \"%s\" keeps the WAL from %X/%X on for it.",
					   trucker_max_retained_wal, slot->name, LSN_FORMAT_ARGS(slot->restart_lsn)),
			 holder->enabled ?
			 errhint("trucker.status tells what holds it up.") :
			 errhint("It is stopped: SELECT trucker.start(%s); or, if nobody needs it any more, SELECT trucker.drop_truck(%s);",
					 name, name)));
}

/* Does the truck cost too much WAL? */
static void
judge_budget(const TruckerHolder *holder, const TruckerSlotInfo *slot)
{
	uint64		limit = trucker_budget_bytes();
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	bool		works = holder->enabled;
	TruckerTruckInfo info;
	TruckerKept kept;

	if (!XLogRecPtrIsInvalid(holder->lsn))
		lsn = Max(holder->lsn, holder->noted_lsn);
	if (trucker_find_truck(MyDatabaseId, &holder->truck_id, &info))
	{
		if (!XLogRecPtrIsInvalid(lsn))
			lsn = Max(lsn, info.applied_lsn);
		works = works && info.failures == 0;
	}
	kept = trucker_budget_measure(slot, lsn);

	if (kept.behind >= limit &&
		!(works && trucker_truck_gains(MyDatabaseId, &holder->truck_id, kept.behind, GAIN_INTERVAL_MS)))
		give_up(holder,
				psprintf("it is " UINT64_FORMAT " MB behind, and trucker.max_retained_wal is %d MB",
						 kept.behind >> 20, trucker_max_retained_wal),
				"The server keeps no more WAL for it; what it has not read would be skipped.");
	else if (kept.open >= limit)
		give_up(holder,
				psprintf("its replication slot keeps " UINT64_FORMAT " MB of WAL for transactions that are still open, "
						 "and trucker.max_retained_wal is %d MB",
						 kept.open >> 20, trucker_max_retained_wal),
				trucker_budget_oldest_transaction());
	else if (kept.behind >= limit / 2)
		warn(holder, slot, Max(lsn, slot->confirmed_lsn), kept.behind);
}

/* ----
 * Slots of streams without a worker
 * ----
 */

/* Up to here the slot may stand; InvalidXLogRecPtr: not known. */
static XLogRecPtr
furthest(const Stream *stream)
{
	XLogRecPtr	told = Max(stream->first->noted_lsn, trucker_slot_told(stream->first->slot_name));
	XLogRecPtr	least = PG_UINT64_MAX;
	ListCell   *lc;

	if (XLogRecPtrIsInvalid(told))
		return InvalidXLogRecPtr;
	foreach(lc, stream->holders)
		least = Min(least, ((TruckerHolder *) lfirst(lc))->lsn);
	return Max(told, least);
}

/* What is wrong with the slot; NULL: nothing, or that is a worker's business. */
static const char *
slot_trouble(const Stream *stream)
{
	XLogRecPtr	expected = furthest(stream);
	const char *trouble;

	if (stream->has_worker)
		return NULL;
	trouble = trucker_slot_trouble(stream->first->slot_name, expected);
	/* one that has started since may have moved it */
	return trucker_has_worker(MyDatabaseId, &stream->first->stream_id) ? NULL : trouble;
}

static void
advance_slot(const char *slot_name, XLogRecPtr from, XLogRecPtr to)
{
	Oid			types[] = {NAMEOID, PG_LSNOID};
	NameData	name;
	Datum		values[] = {NameGetDatum(&name), (Datum) 0};
	TruckerCatalog access;

	namestrcpy(&name, slot_name);
	trucker_slot_tell(slot_name, to);
	trucker_catalog_begin(&access);
	for (int i = 1; i <= ADVANCE_STEPS; i++)
	{
		values[1] = LSNGetDatum(from + (to - from) / ADVANCE_STEPS * i);
		if (i == ADVANCE_STEPS)
			values[1] = LSNGetDatum(to);
		trucker_catalog_execute("SELECT pg_replication_slot_advance($1, $2)", 2, types, values, NULL, SPI_OK_SELECT);
	}
	trucker_catalog_end(&access);
}

typedef struct Advance
{
	const Stream *stream;
	XLogRecPtr	to;				/* 0: it has not been moved */
} Advance;

static bool
advance(void *arg)
{
	Advance    *advance = arg;
	const TruckerHolder *first = advance->stream->first;
	XLogRecPtr	confirmed = trucker_slot_confirmed(first->slot_name);
	XLogRecPtr	to = InvalidXLogRecPtr;

	/* the positions may have been committed without waiting for the disk */
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	begin(CurrentMemoryContext);
	if (trucker_holder_lock_stream(&first->stream_id) && !trucker_has_worker(MyDatabaseId, &first->stream_id))
		to = Min(trucker_holder_least_position(&first->stream_id), confirmed + ADVANCE_BYTES);
	if (!XLogRecPtrIsInvalid(confirmed) && to > confirmed)
	{
		if (!XLogRecPtrIsInvalid(first->noted_lsn))
			trucker_holder_set_noted(&first->stream_id, to);
		advance_slot(first->slot_name, confirmed, to);
		advance->to = to;
	}
	commit(CurrentMemoryContext);
	return true;
}

/*
 * Nobody moves the slot, and it may have been held back for a truck that is lost now,
 * or dropped.  With the stream locked no truck can come aboard.  If the way is long,
 * this is one step of it.
 */
static void
let_slot_follow(const Stream *stream)
{
	Advance		arg = {stream, InvalidXLogRecPtr};

	if (stream->has_slot && stream->slot.active_pid == 0 && !stream->slot.invalidated &&
		trucker_budget_measure(&stream->slot, InvalidXLogRecPtr).behind >= trucker_budget_bytes() / 2 &&
		trucker_catalog_try(advance, &arg) && !XLogRecPtrIsInvalid(arg.to))
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("replication slot \"%s\" moved on to %X/%X, where its trucks stand",
						stream->slot.name, LSN_FORMAT_ARGS(arg.to))));
}

/* ----
 * All of it
 * ----
 */

static void
judge_stream(Stream *stream)
{
	const char *trouble = slot_trouble(stream);
	ListCell   *lc;

	foreach(lc, stream->holders)
	{
		TruckerHolder *holder = lfirst(lc);

		if (trouble && !XLogRecPtrIsInvalid(holder->lsn))
			give_up(holder, trouble, "Changes would be skipped or applied twice if it did.");
		else if (trouble == NULL && stream->has_slot && !stream->slot.invalidated && trucker_budget_bytes() > 0)
			judge_budget(holder, &stream->slot);
	}
	if (!stream->has_worker && trouble == NULL && trucker_budget_bytes() > 0)
		let_slot_follow(stream);
}

/* Judge the trucks of this database.  Outside any transaction; what it allocates is in context. */
void
trucker_judge(MemoryContext context)
{
	List	   *holders;
	Stream		stream = {.first = NULL};
	ListCell   *lc;

	begin(context);
	holders = trucker_holder_list();
	commit(context);
	foreach(lc, holders)
	{
		TruckerHolder *holder = lfirst(lc);

		if (stream.first == NULL ||
			memcmp(&stream.first->stream_id, &holder->stream_id, sizeof(pg_uuid_t)) != 0)
		{
			memset(&stream, 0, sizeof(stream));
			stream.first = holder;
			stream.has_worker = trucker_has_worker(MyDatabaseId, &holder->stream_id);
			stream.has_slot = trucker_slot_find(holder->slot_name, &stream.slot) >= 0;
		}
		stream.holders = lappend(stream.holders, holder);
		if (lnext(holders, lc) == NULL ||
			memcmp(&((TruckerHolder *) lfirst(lnext(holders, lc)))->stream_id, &holder->stream_id, sizeof(pg_uuid_t)) != 0)
			judge_stream(&stream);
	}
}
