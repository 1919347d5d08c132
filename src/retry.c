/*
 * retry.c
 *	  Apply what somebody has asked to be applied from quarantine.
 *
 * trucker.retry_quarantined() leaves a mark in the catalog and wakes the worker.  It is
 * done between batches, with the rights and on the road of any other change, one source
 * transaction in one destination transaction, which also removes its rows; the
 * position is not touched.  Whatever happens before that has committed leaves mark and
 * rows as they were, a crash included.
 *
 * They are taken in the order of their commits, and none before an earlier one that has
 * one of its keys.  Those that are there only because of one that has been applied are
 * marked in its transaction, and so follow it.  An error is kept with the source
 * transaction, and says nothing about the truck.
 */
#include "trucker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "log.h"
#include "stream.h"

typedef struct Retry
{
	TruckerStream *stream;
	int64		id;				/* 0: nothing was to be done */
} Retry;

/* Does somebody want a truck's quarantined changes to be applied, and can they be now? */
static bool
has_retries(const TruckerMember *member)
{
	return member->active && trucker_quarantine_asked(member->pipeline->quarantine) != NULL;
}

/* Is there such a truck? */
bool
trucker_retry_is_due(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (has_retries(lfirst(lc)))
			return true;
	return false;
}

/* ----
 * One source transaction
 * ----
 */

/*
 * Look at all its keys: who stands in its way, if anybody; and who is there only
 * because of it.
 */
static const TruckerHeld *
look_at_keys(TruckerQuarantine *quarantine, const TruckerHeld *held, MemoryContext scratch, List **followers)
{
	const TruckerHeld *blocker = NULL;
	MemoryContext old = CurrentMemoryContext;
	int32		seq = 0;
	List	   *kept;

	*followers = NIL;
	do
	{
		ListCell   *lc;

		MemoryContextReset(scratch);
		MemoryContextSwitchTo(scratch);
		kept = trucker_quarantine_kept(held, seq);
		MemoryContextSwitchTo(old);
		foreach(lc, kept)
		{
			TruckerKeptChange *change = lfirst(lc);

			seq = change->seq;
			if (blocker == NULL)
				blocker = trucker_quarantine_holder(quarantine, change->relid, &change->keys, held->lsn);
			if (blocker == NULL)
				*followers = trucker_quarantine_followers(quarantine, change->relid, &change->keys, held->lsn, *followers);
		}
	} while (kept != NIL && blocker == NULL);
	return blocker;
}

static void
check_is_input(const TruckerTruck *truck, const TruckerKeptChange *change)
{
	for (int i = 0; i < truck->ninputs; i++)
		if (truck->inputs[i] == change->relid)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s is no input of truck \"%s\" any more", change->table, truck->name),
			 errhint("Discard the change with trucker.discard_quarantined().")));
}

static void
apply_kept(TruckerPipeline *pipeline, const TruckerHeld *held, const TruckerMessage *begin, MemoryContext scratch)
{
	MemoryContext old = CurrentMemoryContext;
	int32		seq = 0;
	List	   *kept;

	pipeline->replaying = true;
	trucker_pipeline_begin_source(pipeline, begin);
	/* it can be seen by all for long; its number may be in use again */
	pipeline->nunseen = 0;
	do
	{
		ListCell   *lc;

		MemoryContextReset(scratch);
		MemoryContextSwitchTo(scratch);
		kept = trucker_quarantine_kept(held, seq);
		foreach(lc, kept)
		{
			TruckerKeptChange *change = lfirst(lc);

			seq = change->seq;
			check_is_input(pipeline->truck, change);
			change->message.xid = begin->xid;
			change->message.commit_lsn = begin->commit_lsn;
			change->message.committed_at = begin->committed_at;
			trucker_pipeline_change(pipeline, change->relid, &change->message);
		}
		MemoryContextSwitchTo(old);
	} while (kept != NIL);
}

/* Apply the first one that is asked for. */
static void
retry_one(TruckerMember *member, void *arg)
{
	Retry	   *retry = arg;
	TruckerPipeline *pipeline = member->pipeline;
	TruckerQuarantine *quarantine = pipeline->quarantine;
	TruckerHeld *held;
	const TruckerHeld *blocker;
	TruckerMessage begin;
	MemoryContext scratch;
	List	   *followers;

	trucker_pipeline_begin_batch(pipeline, NULL);
	MemoryContextSwitchTo(pipeline->batch_context);
	scratch = AllocSetContextCreate(pipeline->batch_context, "trucker retry", ALLOCSET_DEFAULT_SIZES);
	held = trucker_quarantine_asked(quarantine);
	retry->id = held ? held->id : 0;
	if (held && trucker_quarantine_take(quarantine, held, &begin))
	{
		/* should it be rolled back, what is noted in memory was wrong */
		blocker = look_at_keys(quarantine, held, scratch, &followers);
		if (blocker)
		{
			trucker_quarantine_note_failure(held, psprintf("an earlier quarantined transaction, number " INT64_FORMAT
														   ", holds one of its keys", blocker->id), false);
			trucker_pipeline_end_empty(pipeline);
			held->asked = false;
			return;
		}
		apply_kept(pipeline, held, &begin, scratch);
		trucker_quarantine_remove(quarantine, held, followers);
		trucker_stop_point("retry: applied");
		trucker_pipeline_commit_aside(pipeline);
		held->gone = true;
		quarantine->nchanges -= held->nchanges;
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("truck \"%s\": quarantined transaction " INT64_FORMAT " has been applied",
						member->truck->name, held->id), errhidecontext(true)));
		trucker_stop_point("retry: committed");
		return;
	}
	/* it has been discarded, or somebody is about to decide something else */
	trucker_pipeline_end_empty(pipeline);
	if (held)
		held->tried = true;
}

/* ----
 * All that are asked for
 * ----
 */

/* Keep the error of one that could not be applied, and read what there is anew. */
typedef struct Failure
{
	TruckerQuarantine *quarantine;
	int64		id;
	const char *error;
} Failure;

static bool
note_failure(void *arg)
{
	Failure    *failure = arg;
	TruckerHeld held = {.id = failure->id};

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_quarantine_note_failure(&held, failure->error, true);
	trucker_quarantine_reload(failure->quarantine);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return true;
}

static void
retry_member(TruckerStream *stream, TruckerMember *member)
{
	TruckerQuarantine *quarantine = member->pipeline->quarantine;
	Retry		retry = {stream, 0};

	while (has_retries(member))
	{
		bool		done;

		CHECK_FOR_INTERRUPTS();
		member->on_trial = true;
		done = trucker_member_try(member, retry_one, &retry, stream->nactive == 1);
		member->on_trial = false;
		if (!done && member->trial_error == NULL)
		{
			/* told to stop, or out of time: the mark is still there */
			stream->nactive--;
			return;
		}
		if (!done)
		{
			Failure		failure = {quarantine, retry.id, member->trial_error};

			if (!trucker_catalog_try(note_failure, &failure))
			{
				TruckerHeld *held = trucker_quarantine_find(quarantine, retry.id);

				if (held)
					held->tried = true;
			}
			pfree(member->trial_error);
			member->trial_error = NULL;
		}
	}
}

/* Between batches: apply what is asked for, for all active trucks. */
void
trucker_retry_work(TruckerStream *stream)
{
	MemoryContext old = CurrentMemoryContext;
	ListCell   *lc;

	foreach(lc, stream->members)
		retry_member(stream, lfirst(lc));
	trucker_member_end_turn();
	MemoryContextSwitchTo(old);
}
