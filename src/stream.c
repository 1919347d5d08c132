/*
 * stream.c
 *	  One attempt to follow a stream's slot, until an error of the stream ends it.
 *
 * An attempt begins with what the catalog says, and nothing else: whatever went
 * wrong, the way on is the way that a crash would have taken.  It consists of
 * passes: each starts decoding where the slot is confirmed, for the tables of the
 * trucks that are active then.  Trucks skip what they have applied already, so a
 * pass may begin as often as need be: when a truck comes aboard, and when one that
 * has failed is to be tried again.
 *
 * What is received becomes a batch of whole source transactions.  It is closed
 * when nothing more has arrived, or when it is large or old enough.  With several
 * active trucks the batch is kept (batch.c) and applied truck by truck, each in a
 * destination transaction of its own, so that what one cannot do is no other one's
 * trouble.  A truck that is the only active one takes the changes as they arrive,
 * run by run, so that a huge transaction needs no room.
 *
 * After an error the source transactions up to the failed one are applied one by
 * one for that truck, so that those before it are committed, and the error names
 * the one.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "check.h"
#include "identity.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"
#include "written.h"

/* how often, at least, to look for other trucks than those that it knows */
#define LOOK_INTERVAL_MS 100
/* how often to look whether our commits have been flushed, and to confirm */
#define FLUSH_CHECK_MS 100
#define CONFIRM_INTERVAL_MS 1000
/* how often a catch-up stream looks whether it can join its home */
#define JOIN_CHECK_MS 200
/* the same for trucks that rest: can they be tried again, or leave? */
#define RETRY_CHECK_MS 200

const TruckerDecoder *const trucker_stream_decoder = &trucker_wal2json;

/* ----
 * Getting ready
 * ----
 */

static bool
load(TruckerStream *stream)
{
	TruckerMember *first;

	trucker_first_start_wait_for_abandoned();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(stream->context);
	stream->row = trucker_state_stream(&stream->id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	if (stream->row == NULL)
		return false;
	stream->members_context = AllocSetContextCreate(stream->context, "trucker members", ALLOCSET_SMALL_SIZES);
	(void) trucker_roster_refresh(stream);
	if (!trucker_roster_has_work(stream))
		return false;
	first = linitial(stream->members);
	trucker_identity_init(stream->row->role, first->pipeline->role_is_superuser);
	MemoryContextSwitchTo(stream->context);
	return true;
}

static void
raise_lost(TruckerMember *member, void *trouble)
{
	if (!member->truck->needs_backfill)
		trucker_member_raise_lost(member, trouble);
}

/*
 * Can the slot be read on from?  If not, all its trucks are lost.  If it stands
 * further than we can have told it, somebody else has moved it.
 */
static bool
check_slot(TruckerStream *stream)
{
	const char *name = stream->row->slot_name;
	XLogRecPtr	noted = stream->row->confirmed_lsn;
	XLogRecPtr	told = Max(Max(noted, stream->confirmed), trucker_slot_told(name));
	MemoryContext old = CurrentMemoryContext;
	const char *trouble;
	ListCell   *lc;

	trouble = trucker_slot_trouble(name, XLogRecPtrIsInvalid(told) ? told :
								   Max(told, trucker_roster_least_position(stream)));
	if (trouble)
	{
		foreach(lc, stream->members)
			(void) trucker_member_try(lfirst(lc), raise_lost, unconstify(char *, trouble), true);
		trucker_member_end_turn();
		return false;
	}
	stream->applied = trucker_slot_confirmed(name);
	stream->confirmed = Max(told, stream->applied);
	trucker_slot_tell(name, stream->confirmed);

	if (XLogRecPtrIsInvalid(noted))
		return true;
	StartTransactionCommand();
	trucker_state_forget_confirmed(&stream->id);
	CommitTransactionCommand();
	/* or, after a crash, the old note would be held against a slot that moved on */
	XLogFlush(XactLastCommitEnd);
	stream->row->confirmed_lsn = InvalidXLogRecPtr;
	MemoryContextSwitchTo(old);
	return true;
}

static bool
some_have_positions(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (!((TruckerMember *) lfirst(lc))->truck->needs_backfill)
			return true;
	return false;
}

/*
 * Trucks without a position cannot use a slot whose snapshot is gone.
 */
static void
sort_out_unfilled(TruckerStream *stream)
{
	List	   *members = list_copy(stream->members);
	ListCell   *lc;

	if (stream->row->slot_name == NULL)
		return;
	if (!some_have_positions(stream))
	{
		trucker_transition_reopen(stream);
		return;
	}
	foreach(lc, members)
		if (((TruckerMember *) lfirst(lc))->truck->needs_backfill)
			trucker_transition_board_again(stream, lfirst(lc));
}

/*
 * The home lets go of trucks that rest, if there are others that it would hold up:
 * its slot is held back for what is aboard.
 */
static void
let_resting_leave(TruckerStream *stream)
{
	List	   *members;
	TimestampTz now;
	ListCell   *lc;

	if (!stream->row->home || stream->nactive == 0 ||
		stream->nactive == list_length(stream->members))
		return;
	members = list_copy(stream->members);
	now = GetCurrentTimestamp();
	foreach(lc, members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active && !member->gone && !member->lost && !member->truck->needs_backfill &&
			member->leave_at <= now && !trucker_transition_leave(stream, member))
			member->leave_at = TimestampTzPlusMilliseconds(now, CONFIRM_INTERVAL_MS);
	}
}

/* ----
 * Passes
 * ----
 */

/* Open the replication connection, in the current memory context. */
void
trucker_stream_connect(TruckerStream *stream)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	stream->replication = trucker_replication_open(get_database_name(MyDatabaseId),
												   psprintf(TRUCKER_APPLICATION_NAME, stream->row->name));
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	trucker_worker_set_walsender(trucker_replication_backend_pid(stream->replication));
}

/* The end of a pass: nothing of it is left. */
static void
end_pass(TruckerStream *stream)
{
	if (stream->batch)
		trucker_batch_clear(stream->batch);
	stream->batch = NULL;
	stream->replication = NULL;
	stream->direct = NULL;
	stream->in_source = false;
	stream->batch_started = 0;
	trucker_worker_set_walsender(0);
	MemoryContextSwitchTo(stream->context);
	/* closes the replication connection */
	if (stream->pass_context)
		MemoryContextDelete(stream->pass_context);
	stream->pass_context = NULL;
}

/* What an active truck is doing. */
static TruckerState
active_state(const TruckerStream *stream)
{
	return stream->row->home ? TRUCKER_STREAMING : TRUCKER_CATCHUP;
}

/* Compile what has not been yet: errors show before the first change comes. */
static void
compile_new(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active || member->compiled)
			continue;
		if (trucker_member_try(member, trucker_member_compile, NULL, stream->nactive == 1))
			member->compiled = true;
		else
			stream->nactive--;
	}
	trucker_member_end_turn();
}

static void
begin_pass(TruckerStream *stream)
{
	TruckerDecodeRequest request;
	ListCell   *lc;

	end_pass(stream);
	stream->pass_context = AllocSetContextCreate(stream->context, "trucker pass", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(stream->pass_context);
	trucker_tables_build(stream);
	stream->batch = trucker_batch_create(stream->ntables);
	stream->message_context = AllocSetContextCreate(stream->pass_context, "trucker message",
													ALLOCSET_DEFAULT_SIZES);
	trucker_check_is_no_standby();
	trucker_stream_connect(stream);
	stream->confirmed_at = stream->sent_at = 0;
	stream->pass_started = GetCurrentTimestamp();
	stream->fresh_at = 0;
	stream->standby_at = 0;

	(void) trucker_slot_wait_inactive(stream->row->slot_name, -1);
	request.tables = trucker_tables_names(stream);
	trucker_replication_start(stream->replication, stream->row->slot_name,
							  trucker_slot_confirmed(stream->row->slot_name), trucker_stream_decoder, &request);

	/* only now that it is ours nobody else can move it */
	if (!check_slot(stream))
	{
		stream->nactive = 0;
		return;
	}
	trucker_worker_works();
	if (!stream->row->home)
		trucker_stop_point("catch-up begun");
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active)
			continue;
		/* after a failure it is "retrying" until something has gone well */
		if (member->failures == 0)
			trucker_truck_set_state(member->entry, active_state(stream));
		/* not again for each of those that others join or leave */
		if (!member->follows)
			ereport(LOG,
					(errmsg("truck \"%s\": streaming from %X/%X", member->truck->name,
							LSN_FORMAT_ARGS(Max(member->position->lsn, member->position->applied))),
					 errhidecontext(true)));
	}
}

/* ----
 * Applying
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

	stream->applied = Max(stream->applied, lsn);
	stream->failures = 0;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active)
			continue;
		trucker_member_progress(member, lsn, active_state(stream));
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

static void
confirm(TruckerStream *stream, bool force)
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

/* One source transaction's changes, and nothing else, may be in a batch up to here. */
static bool
goes_alone(const TruckerMember *member, XLogRecPtr commit_lsn)
{
	return commit_lsn <= member->failed_lsn;
}

static bool
is_skipped(const TruckerMember *member, XLogRecPtr commit_lsn)
{
	return trucker_position_skips(member->position, commit_lsn);
}

static Oid
relid_of(const TruckerTable *table, const TruckerMember *member, XLogRecPtr commit_lsn)
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
static void
commit_batch(TruckerStream *stream, TruckerMember *member, XLogRecPtr end_lsn)
{
	trucker_tables_check_names(stream, member);
	trucker_pipeline_commit(member->pipeline, end_lsn);
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
		Oid			relid = relid_of(&stream->tables[number], member, source->begin.commit_lsn);

		if (OidIsValid(relid) && !is_skipped(member, source->begin.commit_lsn))
		{
			if (current && current != source && pipeline->in_batch &&
				goes_alone(member, current->begin.commit_lsn))
				commit_batch(stream, member, current->begin.end_lsn);
			if (!pipeline->in_batch)
			{
				trucker_pipeline_begin_batch(pipeline, NULL);
				current = NULL;
			}
			MemoryContextSwitchTo(stream->message_context);
			if (current != source)
				trucker_pipeline_begin_source(pipeline, &source->begin);
			current = source;
			trucker_pipeline_change(pipeline, relid, &message);
		}
		MemoryContextReset(stream->message_context);
	}
	if (pipeline->in_batch)
		commit_batch(stream, member, stream->batch_end);
}

/* Which active trucks read a table that occurs in the batch? */
static void
mark_concerned(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		((TruckerMember *) lfirst(lc))->in_batch = false;
	for (int i = 0; i < stream->ntables; i++)
	{
		if (stream->batch->tables[i].nchanges == 0)
			continue;
		foreach(lc, stream->tables[i].readers)
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

static void
apply_to_all(TruckerStream *stream)
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
		if (!trucker_member_try(member, apply_batch, stream, stream->nactive == 1))
			stream->nactive--;
		trucker_stop_point("applied for one truck");
		CHECK_FOR_INTERRUPTS();
	}
	trucker_member_end_turn();
	trucker_batch_clear(stream->batch);
}

static void
commit_direct(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;

	if (member->pipeline->in_batch)
		commit_batch(stream, member, stream->batch_end);
}

/* Close the batch: behind a whole source transaction. */
static void
finish_batch(TruckerStream *stream)
{
	if (stream->batch_started == 0)
		return;
	stream->batch_started = 0;
	if (stream->direct == NULL)
		apply_to_all(stream);
	else if (stream->direct->active &&
			 !trucker_member_try(stream->direct, commit_direct, stream, true))
		stream->nactive = 0;
	MemoryContextSwitchTo(stream->message_context);

	/* autovacuum must hear of what we do to the destination */
	pgstat_report_stat(false);
	if (stream->nactive > 0)
		applied(stream, stream->batch_end, stream->begin.committed_at);
	let_resting_leave(stream);
}

static bool
batch_is_full(const TruckerStream *stream)
{
	int64		nchanges = stream->direct ? stream->direct->pipeline->batch_rows : stream->batch->nchanges;

	return (stream->direct && goes_alone(stream->direct, stream->begin.commit_lsn)) ||
		nchanges >= trucker_max_batch_rows ||
		TimestampDifferenceExceeds(stream->batch_started, GetCurrentTimestamp(), trucker_max_batch_age);
}

/* ----
 * Receiving
 * ----
 */

static void
begin_source(TruckerStream *stream, const TruckerMessage *message)
{
	stream->in_source = true;
	stream->announced = false;
	stream->begin = *message;
	if (stream->batch_started != 0)
		return;
	stream->direct = NULL;
	if (stream->nactive == 1)
	{
		ListCell   *lc;

		foreach(lc, stream->members)
			if (((TruckerMember *) lfirst(lc))->active)
				stream->direct = lfirst(lc);
	}
}

static void
end_source(TruckerStream *stream, const TruckerMessage *message)
{
	stream->in_source = false;
	if (stream->batch_started != 0)
	{
		stream->batch_end = message->end_lsn;
		if (batch_is_full(stream))
			finish_batch(stream);
	}
	else if (stream->nactive > 0)
		applied(stream, message->end_lsn, message->committed_at);
	if (TimestampDifferenceExceeds(stream->confirmed_at, stream->sent_at, CONFIRM_INTERVAL_MS))
		confirm(stream, false);
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
			!is_skipped(reader->member, stream->begin.commit_lsn))
			return false;
	}
	return true;
}

static void
handle_change(TruckerStream *stream, const TruckerMessage *message)
{
	TruckerTable *table;

	if (!stream->in_source)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received a change outside of a transaction")));
	table = trucker_tables_find(stream, message);
	if (table == NULL || is_known(stream, table))
		return;
	if (stream->batch_started == 0)
		stream->batch_started = GetCurrentTimestamp();
	if (stream->fresh_at == 0)
		stream->fresh_at = GetCurrentTimestamp();
	if (stream->direct)
	{
		DirectChange change = {stream, relid_of(table, stream->direct, stream->begin.commit_lsn), message};

		if (!trucker_member_try(stream->direct, apply_direct, &change, true))
			stream->nactive = 0;
	}
	else
	{
		if (!stream->announced)
			trucker_batch_begin_source(stream->batch, &stream->begin);
		trucker_batch_add(stream->batch, table->number, message);
	}
	stream->announced = true;
}

static void
handle_data(TruckerStream *stream, const char *data, int len)
{
	TruckerMessage message;

	trucker_stream_decoder->decode(data, len, &message);
	switch (message.kind)
	{
		case TRUCKER_MSG_BEGIN:
			begin_source(stream, &message);
			break;
		case TRUCKER_MSG_COMMIT:
			end_source(stream, &message);
			break;
		case TRUCKER_MSG_INSERT:
		case TRUCKER_MSG_UPDATE:
		case TRUCKER_MSG_DELETE:
		case TRUCKER_MSG_TRUNCATE:
			handle_change(stream, &message);
			break;
		case TRUCKER_MSG_LOGICAL:
			break;
	}
}

/* How long may one wait for more to arrive?  -1: for ever. */
static long
time_to_rest(const TruckerStream *stream)
{
	TimestampTz retry_at = trucker_roster_next_retry(stream);
	long		ms = trucker_roster_has_unflushed(stream) ? FLUSH_CHECK_MS : -1;

	if (!stream->row->home)
		ms = ms < 0 ? JOIN_CHECK_MS : Min(ms, JOIN_CHECK_MS);
	if (retry_at != 0)
		ms = ms < 0 ? RETRY_CHECK_MS : Min(ms, RETRY_CHECK_MS);
	return ms;
}

/* Nothing more has arrived: close the batch, confirm, and wait. */
static void
rest(TruckerStream *stream)
{
	if (!stream->in_source)
		finish_batch(stream);
	/* the next truck of a cascade need not wait for the WAL writer */
	if (stream->batch_started == 0 && trucker_written_is_awaited())
		XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));
	confirm(stream, false);
	if (stream->nactive == 0 || trucker_worker_is_poked())
		return;
	if (!stream->in_source)
	{
		trucker_member_end_turn();
		pgstat_report_stat(true);
	}
	(void) trucker_conn_wait(stream->replication->conn, time_to_rest(stream));
}

static void
receive(TruckerStream *stream)
{
	TruckerReplication *rep = stream->replication;

	switch (trucker_replication_receive(rep))
	{
		case TRUCKER_RECEIVED_DATA:
			stream->sent_at = rep->sent_at;
			handle_data(stream, rep->data, rep->len);
			break;
		case TRUCKER_RECEIVED_KEEPALIVE:
			stream->sent_at = rep->sent_at;
			if (!stream->in_source)
			{
				finish_batch(stream);
				trucker_tables_check_all(stream);
				if (stream->nactive > 0)
					applied(stream, rep->sent_lsn, stream->sent_at);
			}
			confirm(stream, rep->reply_requested);
			break;
		case TRUCKER_RECEIVED_NOTHING:
			rest(stream);
			break;
	}
}

/* ----
 * The attempt
 * ----
 */

/*
 * Is it time to read again from where the slot is, for trucks that have failed?  At
 * the home these are trucks that could not leave.  Only after the others have had as much time on new ground as it takes to come
 * there.
 */
static bool
retry_is_due(const TruckerStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz retry_at = trucker_roster_next_retry(stream);

	if (retry_at == 0 || retry_at > now)
		return false;
	if (stream->nactive == 0)
		return true;
	return stream->fresh_at == 0 ? stream->applied >= stream->confirmed :
		now - stream->fresh_at > stream->fresh_at - stream->pass_started;
}

/* Between batches: is another pass, or another attempt, called for? */
static bool
pass_must_end(TruckerStream *stream)
{
	bool		poked;

	if (stream->nactive == 0)
		return true;
	if (stream->in_source || stream->batch_started != 0)
		return false;

	/* under load, not behind each source transaction */
	poked = trucker_worker_is_poked();
	if (!poked && !TimestampDifferenceExceeds(stream->looked_at, GetCurrentTimestamp(), LOOK_INTERVAL_MS))
		return false;
	stream->looked_at = GetCurrentTimestamp();
	if (trucker_worker_poked() || trucker_takeover_pending())
	{
		if (trucker_roster_refresh(stream))
			return true;
	}
	if (!stream->row->home && trucker_transition_join(stream))
		return true;
	let_resting_leave(stream);
	trucker_roster_note_applied(stream);
	return retry_is_due(stream);
}

/* Receive until the pass must end. */
static void
follow(TruckerStream *stream)
{
	while (!pass_must_end(stream))
	{
		MemoryContextSwitchTo(stream->message_context);
		receive(stream);
		MemoryContextReset(stream->message_context);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending && stream->batch_started == 0)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			trucker_check_is_no_standby();
		}
	}
	if (stream->replication)
		confirm(stream, false);
}

/*
 * Follow the slot until an error of the stream is raised, no truck shall run, or all
 * that shall have to pause.  All that it allocates is in stream->context.
 */
TruckerOutcome
trucker_stream_follow(TruckerStream *stream)
{
	stream->next_attempt_at = 0;
	if (!load(stream))
		return TRUCKER_FINISHED;
	sort_out_unfilled(stream);
	if (stream->row->slot_name == NULL)
	{
		if (!trucker_first_start(stream))
			return trucker_roster_has_work(stream) ? TRUCKER_AGAIN : TRUCKER_FINISHED;
		end_pass(stream);
	}
	(void) check_slot(stream);
	trucker_stop_point("slot checked");

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		(void) trucker_roster_refresh(stream);
		if (!trucker_roster_has_work(stream) || trucker_worker_must_end())
			return TRUCKER_FINISHED;
		sort_out_unfilled(stream);
		if (stream->row->slot_name == NULL)
			break;
		trucker_roster_activate(stream);
		compile_new(stream);
		if (stream->nactive == 0)
			break;
		let_resting_leave(stream);
		begin_pass(stream);
		follow(stream);
		end_pass(stream);
	}
	stream->next_attempt_at = trucker_roster_next_retry(stream);
	return TRUCKER_AGAIN;
}

/* After an error of the stream: nothing of the attempt is left. */
void
trucker_stream_abandon(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		trucker_pipeline_rollback(member->pipeline);
		trucker_truck_set_applied(member->entry, InvalidXLogRecPtr, 0, false);
	}
	stream->members = NIL;
	trucker_first_start_abandon();
	end_pass(stream);
	trucker_member_end_turn();
	trucker_move_end();
	trucker_worker_set_splitting(false);
	MemoryContextReset(stream->context);
	stream->members_context = NULL;
	stream->row = NULL;
}
