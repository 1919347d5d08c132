/*
 * apply.c
 *	  A batch that has been kept is applied, truck by truck.
 *
 * Each truck has a destination transaction of its own, so that what one cannot do is no
 * other one's trouble.
 *
 * After an error the source transactions up to the failed one are applied one by
 * one for that truck, so that those before it are committed, and the error names
 * the one.  Such a one may be put into quarantine (apart.c), or be skipped because
 * trucker.skip() says so.  Both need the kept batch, as its changes must be there once
 * more, or must be known not to have been taken: so up to there it is kept for a truck
 * that is the only active one, too.
 */
#include "trucker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "log.h"
#include "state.h"
#include "stream.h"

/* One source transaction's changes, and nothing else, may be in a batch up to here. */
bool
trucker_apply_goes_alone(const TruckerMember *member, XLogRecPtr commit_lsn)
{
	return commit_lsn <= Max(member->failed_lsn, member->truck->skip_lsn);
}

/* Must the batch that begins with this source transaction be kept, even for one truck? */
bool
trucker_apply_must_keep(const TruckerMember *member, XLogRecPtr commit_lsn)
{
	return commit_lsn <= member->truck->skip_lsn ||
		(member->truck->on_error == TRUCKER_ON_ERROR_QUARANTINE && trucker_apply_goes_alone(member, commit_lsn));
}

/* Is it at the truck's destination already? */
bool
trucker_apply_is_skipped(const TruckerMember *member, XLogRecPtr commit_lsn)
{
	return trucker_position_skips(member->position, commit_lsn);
}

/* Which of the truck's inputs is the table?  None, for what was loaded with a backfill. */
Oid
trucker_apply_relid(const TruckerTable *table, const TruckerMember *member, XLogRecPtr commit_lsn)
{
	ListCell   *lc;

	foreach(lc, table->readers)
	{
		TruckerReader *reader = lfirst(lc);

		if (reader->member == member)
			return commit_lsn < reader->from_lsn ? InvalidOid : reader->relid;
	}
	return InvalidOid;
}

/* The truck has applied everything up to end_lsn. */
void
trucker_apply_commit(TruckerStream *stream, TruckerMember *member, XLogRecPtr end_lsn)
{
	trucker_tables_check_names(stream, member);
	trucker_pipeline_commit(member->pipeline, end_lsn);
}

/* Pass over a source transaction, because trucker.skip() says so; with no batch open. */
static void
skip_source(TruckerStream *stream, TruckerMember *member, const TruckerSource *source)
{
	TruckerPipeline *pipeline = member->pipeline;
	const char *done;

	trucker_pipeline_begin_batch(pipeline, NULL);
	MemoryContextSwitchTo(stream->message_context);
	trucker_pipeline_begin_source(pipeline, &source->begin);
	trucker_count_forget(&pipeline->count);
	done = psprintf("source transaction %u committed at %X/%X was skipped, as trucker.skip() had asked",
					source->begin.xid, LSN_FORMAT_ARGS(source->begin.commit_lsn));
	trucker_state_skipped(&member->truck_id, done);
	trucker_stop_point("skip: written");
	trucker_apply_commit(stream, member, source->begin.end_lsn);
	member->truck->skip_lsn = InvalidXLogRecPtr;
	ereport(trucker_elevel(TRUCKER_LOG_WARN), (errmsg("truck \"%s\": %s", member->truck->name, done), errhidecontext(true)));
	trucker_stop_point("skip: committed");
}

/* Apply the kept batch for one truck. */
static void
apply_batch(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;
	TruckerPipeline *pipeline = member->pipeline;
	const TruckerSource *current = NULL;
	const TruckerSource *source;
	TruckerMessage message;
	int			number;

	trucker_batch_read(stream->batch, member->ntables, member->tables);
	while (trucker_batch_next(stream->batch, &source, &number, &message))
	{
		Oid			relid = trucker_apply_relid(list_nth(stream->tables, number), member, source->begin.commit_lsn);

		if (OidIsValid(relid) && !trucker_apply_is_skipped(member, source->begin.commit_lsn))
		{
			if (current && current != source && pipeline->in_batch &&
				trucker_apply_goes_alone(member, current->begin.commit_lsn))
				trucker_apply_commit(stream, member, current->begin.end_lsn);
			if (source->begin.commit_lsn == member->truck->skip_lsn)
			{
				skip_source(stream, member, source);
				current = NULL;
				continue;
			}
			if (!pipeline->in_batch)
			{
				trucker_pipeline_begin_batch(pipeline, NULL);
				current = NULL;
			}
			MemoryContextSwitchTo(stream->message_context);
			if (current != source)
				trucker_pipeline_begin_source(pipeline, &source->begin);
			current = source;
			trucker_pipeline_check_kept(pipeline, relid, ((TruckerTable *) list_nth(stream->tables, number))->needs);
			trucker_pipeline_change(pipeline, relid, &message);
		}
		MemoryContextReset(stream->message_context);
	}
	if (pipeline->in_batch)
		trucker_apply_commit(stream, member, stream->batch_end);
}

/*
 * Put the member's culprit, which is in the kept batch, into quarantine, and move the
 * position behind it.
 */
static void
set_culprit_apart(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;
	TruckerPipeline *pipeline = member->pipeline;
	const TruckerSource *culprit = NULL;
	const TruckerSource *source;
	TruckerMessage message;
	int			number;
	int64		nchanges;

	trucker_pipeline_begin_batch(pipeline, NULL);
	trucker_batch_read(stream->batch, member->ntables, member->tables);
	while (trucker_batch_next(stream->batch, &source, &number, &message))
	{
		Oid			relid = trucker_apply_relid(list_nth(stream->tables, number), member, source->begin.commit_lsn);

		MemoryContextSwitchTo(stream->message_context);
		if (OidIsValid(relid) && source->begin.commit_lsn == member->culprit_lsn)
		{
			if (culprit == NULL)
				trucker_pipeline_begin_source(pipeline, &source->begin);
			culprit = source;
			trucker_apart_add(pipeline, relid, &message, member->culprit_error);
			CHECK_FOR_INTERRUPTS();
		}
		MemoryContextReset(stream->message_context);
	}
	if (culprit == NULL)
		elog(ERROR, "the source transaction committed at %X/%X is not in the batch",
			 LSN_FORMAT_ARGS(member->culprit_lsn));
	nchanges = pipeline->batch_rows;
	trucker_count_forget(&pipeline->count);
	trucker_stop_point("quarantine: written");
	trucker_apply_commit(stream, member, culprit->begin.end_lsn);
	ereport(trucker_elevel(TRUCKER_LOG_WARN),
			(errmsg("truck \"%s\": source transaction %u committed at %X/%X has been put into quarantine",
					member->truck->name, culprit->begin.xid, LSN_FORMAT_ARGS(culprit->begin.commit_lsn)),
			 errdetail("It has " INT64_FORMAT " changes for the truck, which goes on without them.", nchanges),
			 errhidecontext(true)));
	trucker_stop_point("quarantine: committed");
}

/* The same as a step that may fail; false: it has. */
static bool
handle_culprit(TruckerStream *stream, TruckerMember *member, bool alone)
{
	bool		done;

	member->sets_apart = true;
	done = trucker_member_try(member, set_culprit_apart, stream, alone);
	member->sets_apart = false;
	pfree(member->culprit_error);
	member->culprit_error = NULL;
	if (!done)
		trucker_member_set_aside(member);
	return done;
}

/* The kept batch for one truck: applied, but for what goes into quarantine.  False: it is set aside. */
static bool
apply_for_member(TruckerStream *stream, TruckerMember *member)
{
	bool		alone = stream->nactive == 1;

	while (!trucker_member_try(member, apply_batch, stream, alone))
		if (member->culprit_error == NULL || !handle_culprit(stream, member, alone))
			return false;
	return true;
}

/* Which active trucks read a table that occurs in the batch? */
static void
mark_concerned(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		((TruckerMember *) lfirst(lc))->in_batch = false;
	for (int i = 0; i < list_length(stream->tables); i++)
	{
		if (stream->batch->tables[i].nchanges == 0)
			continue;
		foreach(lc, ((TruckerTable *) list_nth(stream->tables, i))->readers)
		{
			TruckerMember *member = ((TruckerReader *) lfirst(lc))->member;

			member->in_batch = member->active;
		}
	}
}

/*
 * The pipelines wait until the source transactions of what they apply can be seen by
 * all.  With synchronous replication that can take long: then it is no truck's fault,
 * so it is waited for here first, where nobody's time runs.
 */
static void
wait_for_sources(const TruckerBatch *batch)
{
	for (int i = 0; i < batch->nsources; i++)
	{
		TransactionId xid = batch->sources[i].begin.xid;

		if (!TransactionIdIsInProgress(xid))
			continue;
		StartTransactionCommand();
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
		CommitTransactionCommand();
	}
}

void
trucker_apply_to_all(TruckerStream *stream)
{
	ListCell   *lc;

	wait_for_sources(stream->batch);
	MemoryContextSwitchTo(stream->message_context);
	mark_concerned(stream);
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->in_batch || !member->active)
			continue;
		if (!apply_for_member(stream, member))
			stream->nactive--;
		trucker_stop_point("applied for one truck");
		CHECK_FOR_INTERRUPTS();
	}
	trucker_member_end_turn();
	trucker_batch_clear(stream->batch);
}
