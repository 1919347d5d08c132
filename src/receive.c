/*
 * receive.c
 *	  What the walsender sends becomes batches, and batches go to the trucks.
 *
 * What is received becomes a batch of whole source transactions.  It is closed
 * when nothing more has arrived, or when it is large or old enough.  With several
 * active trucks the batch is kept (batch.c) and applied truck by truck, each in a
 * destination transaction of its own (apply.c).  A truck that is the only active one
 * takes the changes as they arrive, run by run, so that a huge transaction needs no room.
 * A transaction that comes while it runs arrives, in this sense, when it has committed
 * (streamed.c).
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "log.h"
#include "shmem.h"
#include "slots.h"
#include "state.h"
#include "stream.h"
#include "written.h"

/* how often to look whether our commits have been flushed, and to confirm */
#define FLUSH_CHECK_MS 100
#define CONFIRM_INTERVAL_MS 1000
/* how often a catch-up stream looks whether it can join its home */
#define JOIN_CHECK_MS 200
/* for trucks that rest: can they be tried again, or leave? */
#define RETRY_CHECK_MS 200

/* ----
 * Batches
 * ----
 */

/*
 * All that committed before lsn is at the destinations of the active trucks.  at is
 * when the source was there: the time of a commit, or when the walsender said that
 * it had no more.
 */
static void
applied(TruckerStream *stream, XLogRecPtr lsn, TimestampTz at)
{
	ListCell   *lc;

	/*
	 * Has it come further than where it began to read again?  The walsender's first keepalives
	 * are older than that; and what is kept may be what it has failed at, and is not there yet.
	 */
	if (lsn > stream->applied && trucker_streamed_is_empty(stream->streamed))
	{
		stream->failures = 0;
		stream->repeats.failure = 0;
	}
	stream->applied = Max(stream->applied, lsn);
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		/* nobody shall think that all is there while inputs have yet to be loaded */
		if (!member->active || member->unloaded != NIL)
			continue;
		trucker_member_progress(member, lsn, trucker_roster_active_state(stream));
		/* it may be behind the others in what they have read already */
		if (!member->follows)
		{
			member->follows = lsn >= stream->published;
			trucker_truck_set_applied(member->entry, lsn, at, member->follows);
		}
	}
	stream->published = Max(stream->published, lsn);
	trucker_worker_set_applied(lsn, at);
}

void
trucker_receive_confirm(TruckerStream *stream, bool force)
{
	XLogRecPtr	lsn = trucker_roster_confirmable(stream);

	/* noted first: an error may hide whether it was sent */
	if (lsn > stream->confirmed)
	{
		stream->confirmed = lsn;
		trucker_slot_tell(stream->row->slot_name, lsn);
	}
	trucker_replication_confirm(stream->replication, lsn, force);
	stream->confirmed_at = stream->sent_at;
}

static void
commit_direct(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;

	if (member->pipeline->in_batch)
		trucker_apply_commit(stream, member, stream->batch_end);
}

/* Close the batch: behind a whole source transaction. */
static void
finish_batch(TruckerStream *stream)
{
	if (stream->batch_started == 0)
		return;
	stream->batch_started = 0;
	trucker_stream_clock_stop(&stream->count);
	/* what came behind that keepalive has made it old news */
	if (stream->idle_lsn < stream->batch_end)
		stream->idle_lsn = InvalidXLogRecPtr;
	if (stream->direct == NULL)
		trucker_apply_to_all(stream);
	else if (stream->direct->active &&
			 !trucker_member_try(stream->direct, commit_direct, stream, true))
		stream->nactive = 0;
	MemoryContextSwitchTo(stream->message_context);

	/* autovacuum must hear of what we do to the destination */
	pgstat_report_stat(false);
	if (stream->nactive > 0)
		applied(stream, stream->batch_end, stream->begin.committed_at);
	trucker_transition_let_leave(stream);
}

static bool
batch_is_full(const TruckerStream *stream)
{
	int64		nchanges = stream->direct ? stream->direct->pipeline->batch_rows : stream->batch->nchanges;

	return (stream->direct && trucker_apply_goes_alone(stream->direct, stream->begin.commit_lsn)) ||
		nchanges >= trucker_max_batch_rows ||
		(!trucker_test_holds_batch(stream->batch_end) &&
		 TimestampDifferenceExceeds(stream->batch_started, GetCurrentTimestamp(), trucker_max_batch_age));
}

/* ----
 * Receiving
 * ----
 */

/*
 * Must the pass end before this source transaction?  A truck is to stop here; or
 * the catalog, which is looked at between any two transactions, says something new:
 * what has committed since is for trucks as they are now.
 */
static bool
ends_pass(TruckerStream *stream, const TruckerMessage *begin)
{
	XLogRecPtr	limit = trucker_stream_limit(stream);
	bool		is_limit = limit != 0 && begin->commit_lsn >= limit;

	if (!is_limit && !trucker_worker_is_poked())
		return false;
	finish_batch(stream);
	if (is_limit && stream->nactive > 0)
		applied(stream, limit, begin->committed_at);
	return is_limit || (trucker_worker_poked() && trucker_roster_refresh(stream));
}

static void
begin_source(TruckerStream *stream, const TruckerMessage *message)
{
	stream->pass_is_over = ends_pass(stream, message);
	if (stream->pass_is_over)
		return;
	stream->in_source = true;
	stream->announced = false;
	stream->count.in_change = false;
	stream->begin = *message;
	if (stream->batch_started != 0)
		return;
	stream->direct = NULL;
	if (stream->nactive == 1)
	{
		ListCell   *lc;

		foreach(lc, stream->members)
			if (((TruckerMember *) lfirst(lc))->active &&
				!trucker_apply_must_keep(lfirst(lc), message->commit_lsn))
				stream->direct = lfirst(lc);
	}
}

static void
end_source(TruckerStream *stream, const TruckerMessage *message)
{
	stream->in_source = false;
	stream->count.values[TRUCKER_STREAM_TRANSACTIONS] += stream->count.in_change ? 1 : 0;
	if (stream->announced && stream->direct == NULL)
		trucker_batch_end_source(stream->batch, message->end_lsn);
	if (stream->batch_started != 0)
	{
		stream->batch_end = message->end_lsn;
		if (batch_is_full(stream))
			finish_batch(stream);
	}
	else if (stream->nactive > 0)
		applied(stream, message->end_lsn, message->committed_at);
	if (TimestampDifferenceExceeds(stream->confirmed_at, stream->sent_at, CONFIRM_INTERVAL_MS))
		trucker_receive_confirm(stream, false);
}

typedef struct DirectChange
{
	TruckerStream *stream;
	Oid			relid;
	const TruckerMessage *message;
} DirectChange;

/* The only active truck takes a change as it arrives. */
static void
apply_direct(TruckerMember *member, void *arg)
{
	DirectChange *change = arg;
	TruckerStream *stream = change->stream;

	if (!member->pipeline->in_batch)
	{
		trucker_pipeline_begin_batch(member->pipeline, NULL);
		MemoryContextSwitchTo(stream->message_context);
	}
	if (!stream->announced)
		trucker_pipeline_begin_source(member->pipeline, &stream->begin);
	trucker_pipeline_change(member->pipeline, change->relid, change->message);
}

/* Has no active truck yet to apply this source transaction? */
static bool
is_known(TruckerStream *stream, const TruckerTable *table)
{
	ListCell   *lc;

	foreach(lc, table->readers)
	{
		TruckerReader *reader = lfirst(lc);

		if (reader->member->active && stream->begin.commit_lsn >= reader->from_lsn &&
			!trucker_apply_is_skipped(reader->member, stream->begin.commit_lsn))
			return false;
	}
	return true;
}

/* A change of this table, for those who read it.  alike: it comes with the table's attnums. */
static void
take_change(TruckerStream *stream, TruckerTable *table, const TruckerMessage *message, bool alike)
{
	if (is_known(stream, table))
		return;
	if (stream->batch_started == 0)
	{
		stream->batch_started = GetCurrentTimestamp();
		/* a truck that takes them as they arrive says so itself */
		if (stream->direct == NULL)
			trucker_report("stream", stream->row->name, "receives changes");
	}
	if (stream->fresh_at == 0)
		stream->fresh_at = GetCurrentTimestamp();
	if (stream->direct)
	{
		DirectChange change = {stream, trucker_apply_relid(table, stream->direct, stream->begin.commit_lsn), message};

		if (!trucker_member_try(stream->direct, apply_direct, &change, true))
			stream->nactive = 0;
	}
	else
	{
		if (!stream->announced)
			trucker_batch_begin_source(stream->batch, &stream->begin);
		trucker_batch_add(stream->batch, table->number, message, alike && !table->needs->all ? table->needs : NULL);
	}
	stream->announced = true;
}

/* A partition's change may be one of its own, and of each table that it is a partition of. */
static void
handle_change(TruckerStream *stream, TruckerMessage *message)
{
	TruckerSpan *span;

	if (!stream->in_source)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received a change outside of a transaction")));
	stream->count.in_change = true;
	stream->count.values[TRUCKER_STREAM_CHANGES]++;
	for (span = trucker_tables_find(stream, message, stream->begin.xid); span != NULL;
		 span = trucker_tables_next(span, message, stream->begin.xid))
	{
		message->leaf = span->leaf;
		take_change(stream, list_nth(stream->tables, span->number), message, span->alike);
		if (stream->nactive == 0)
			return;
	}
}

/*
 * DDL on input tables, in the midst of the source transaction that did it.  If it says
 * what a truck does not know yet, changes may have been left out already, or been
 * taken for another table's.  So the pass ends, without what it has not committed, and
 * the next one reads all this again, with the names that there are then (stream.c).
 * Trucks that rest count as well: the slot may stay behind for them, but the note of
 * where the commit is must not.
 */
static void
handle_ddl(TruckerStream *stream, const TruckerMessage *message)
{
	List	   *relids;
	uint64		xid = trucker_ddl_parse(message->content, &relids);
	ListCell   *lc;

	if (!stream->in_source || !message->transactional || (TransactionId) xid != stream->begin.xid)
		return;
	foreach(lc, stream->members)
	{
		if (!trucker_member_heeds_ddl(lfirst(lc), xid, relids, stream->begin.commit_lsn))
			continue;
		stream->ddl_xid = xid;
		stream->ddl_lsn = stream->begin.commit_lsn;
		stream->pass_is_over = true;
	}
	if (!stream->pass_is_over)
		return;
	if (stream->direct)
		trucker_member_drop_batch(stream->direct);
	stream->batch_started = 0;
	trucker_stop_point("inputs altered");
}

/* A TRUNCATE, of all the tables that it names. */
static void
handle_truncate(TruckerStream *stream, TruckerMessage *message)
{
	ListCell   *lc;

	if (OidIsValid(message->relid))
		foreach(lc, trucker_tables_truncated(stream, message, stream->begin.xid))
			handle_change(stream, lfirst(lc));
	for (TruckerMessage *table = message; table != NULL && stream->nactive > 0; table = table->also)
	{
		table->lsn = message->lsn;
		handle_change(stream, table);
	}
}

/* What has been kept of a transaction in progress comes now, as it has committed. */
static void
begin_kept(TruckerStream *stream, const TruckerMessage *commit)
{
	TruckerDecodeRequest request = {.message_prefix = stream->message_prefix};
	TruckerMessage begin = *commit;
	MemoryContext old;

	begin.kind = TRUCKER_MSG_BEGIN;
	begin_source(stream, &begin);
	if (stream->pass_is_over)
		return;
	trucker_streamed_read(stream->streamed, commit->xid);
	stream->kept_commit = *commit;
	stream->kept_context = AllocSetContextCreate(stream->pass_context, "trucker kept transaction", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(stream->kept_context);
	stream->kept_decoding = stream->decoder->begin(&request);
	MemoryContextSwitchTo(old);
}

static void
handle_message(TruckerStream *stream, TruckerMessage *message)
{
	switch (message->kind)
	{
		case TRUCKER_MSG_BEGIN:
			begin_source(stream, message);
			break;
		case TRUCKER_MSG_COMMIT:
			end_source(stream, message);
			break;
		case TRUCKER_MSG_INSERT:
		case TRUCKER_MSG_UPDATE:
		case TRUCKER_MSG_DELETE:
			handle_change(stream, message);
			break;
		case TRUCKER_MSG_TRUNCATE:
			handle_truncate(stream, message);
			break;
		case TRUCKER_MSG_LOGICAL:
			handle_ddl(stream, message);
			break;
		case TRUCKER_MSG_STREAM_START:
			trucker_streamed_take(stream->streamed, message);
			/* all the part comes before anything else that the batch could wait for */
			if (!trucker_test_holds_batch(stream->batch_end))
				finish_batch(stream);
			break;
		case TRUCKER_MSG_STREAM_KEEP:
		case TRUCKER_MSG_STREAM_STOP:
		case TRUCKER_MSG_STREAM_ABORT:
			trucker_streamed_take(stream->streamed, message);
			break;
		case TRUCKER_MSG_STREAM_COMMIT:
			begin_kept(stream, message);
			break;
	}
}

static void
handle_data(TruckerStream *stream, const char *data, int len)
{
	TruckerMessage message;

	stream->count.values[TRUCKER_STREAM_BYTES] += len;
	if (!stream->decoder->decode(stream->decoding, data, len, &message))
		return;
	message.lsn = stream->replication->data_lsn;
	message.size = len;
	handle_message(stream, &message);
}

/* The next message of what has been kept, or its end. */
static void
receive_kept(TruckerStream *stream)
{
	TruckerMessage message;
	XLogRecPtr	lsn;
	char	   *data;
	int			len;
	bool		taken_back;

	if (trucker_streamed_next(stream->streamed, &lsn, &data, &len, &taken_back))
	{
		if (!stream->decoder->decode(stream->kept_decoding, data, len, &message) || taken_back)
			return;
		message.lsn = lsn;
		message.size = len;
		handle_message(stream, &message);
		return;
	}
	MemoryContextDelete(stream->kept_context);
	stream->kept_context = NULL;
	end_source(stream, &stream->kept_commit);
}

/* How long may one wait for more to arrive?  -1: for ever. */
static long
time_to_rest(const TruckerStream *stream)
{
	TimestampTz retry_at = trucker_roster_next_retry(stream);
	long		ms = trucker_roster_has_unflushed(stream) ? FLUSH_CHECK_MS : -1;
	ListCell   *lc;

	foreach(lc, stream->members)
		if (((TruckerMember *) lfirst(lc))->unloaded != NIL || trucker_verify_is_wanted(&((TruckerMember *) lfirst(lc))->truck_id))
			ms = ms < 0 ? RETRY_CHECK_MS : Min(ms, RETRY_CHECK_MS);

	if (trucker_redefine_is_waiting(stream))
		ms = ms < 0 ? RETRY_CHECK_MS : Min(ms, RETRY_CHECK_MS);
	if (!stream->row->home)
		ms = ms < 0 ? JOIN_CHECK_MS : Min(ms, JOIN_CHECK_MS);
	if (retry_at != 0)
		ms = ms < 0 ? RETRY_CHECK_MS : Min(ms, RETRY_CHECK_MS);
	return ms;
}

/* With no batch open, what the last keepalive said is true: nothing is pending before that LSN. */
static void
take_idle(TruckerStream *stream)
{
	XLogRecPtr	lsn = stream->idle_lsn;
	XLogRecPtr	limit = trucker_stream_limit(stream);

	if (XLogRecPtrIsInvalid(lsn) || stream->in_source || stream->batch_started != 0)
		return;
	stream->idle_lsn = InvalidXLogRecPtr;
	trucker_tables_check_all(stream);
	if (limit != 0 && lsn >= limit)
	{
		lsn = limit;
		stream->pass_is_over = true;
	}
	if (stream->nactive > 0)
		applied(stream, lsn, stream->sent_at);
}

/* Nothing more has arrived: close the batch, confirm, and wait. */
static void
rest(TruckerStream *stream)
{
	trucker_stream_clock_stop(&stream->count);
	if (!stream->in_source && !trucker_test_holds_batch(Max(stream->batch_end, stream->idle_lsn)))
		finish_batch(stream);
	take_idle(stream);
	/* the next truck of a cascade need not wait for the WAL writer */
	if (stream->batch_started == 0 && trucker_written_is_awaited())
		XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	trucker_receive_confirm(stream, false);
	if (stream->nactive == 0 || trucker_worker_is_poked())
		return;
	if (!stream->in_source)
	{
		trucker_member_end_turn();
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
	}
	if (stream->direct && stream->direct->pipeline->in_batch)
		trucker_count_phase(&stream->direct->pipeline->count, TRUCKER_PHASE_NONE);
	(void) trucker_conn_wait(stream->replication->conn, time_to_rest(stream), TRUCKER_WAIT_CHANGES);
	if (stream->direct && stream->direct->pipeline->in_batch)
		trucker_count_phase(&stream->direct->pipeline->count, TRUCKER_PHASE_DECODE);
}

/*
 * A walsender that has caught up says so whenever it waits, so while we were busy many
 * of these may have come between the source transactions.  They do not end a batch: what
 * one says is taken over when no batch is open any more.
 */
static void
handle_keepalive(TruckerStream *stream)
{
	TruckerReplication *rep = stream->replication;

	stream->sent_at = rep->sent_at;
	if (!stream->in_source)
		stream->idle_lsn = rep->sent_lsn;
	take_idle(stream);
	trucker_receive_confirm(stream, rep->reply_requested);
}

void
trucker_receive(TruckerStream *stream)
{
	TruckerReplication *rep = stream->replication;

	if (stream->kept_context)
	{
		receive_kept(stream);
		return;
	}
	switch (trucker_replication_receive(rep))
	{
		case TRUCKER_RECEIVED_DATA:
			stream->sent_at = rep->sent_at;
			trucker_stream_clock_start(&stream->count);
			handle_data(stream, rep->data, rep->len);
			break;
		case TRUCKER_RECEIVED_KEEPALIVE:
			handle_keepalive(stream);
			break;
		case TRUCKER_RECEIVED_NOTHING:
			rest(stream);
			break;
	}
}
