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
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "check.h"
#include "identity.h"
#include "log.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"
#include "value.h"

/* how often, at least, to look for other trucks than those that it knows */
#define LOOK_INTERVAL_MS 100

/* ----
 * Getting ready
 * ----
 */

static bool
load(TruckerStream *stream)
{
	bool		role_is_superuser = false;

	trucker_first_start_wait_for_abandoned();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(stream->context);
	stream->row = trucker_state_stream(&stream->id);
	if (stream->row)
		role_is_superuser = superuser_arg(stream->row->role);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	if (stream->row == NULL)
		return false;
	stream->members_context = AllocSetContextCreate(stream->context, "trucker members", ALLOCSET_SMALL_SIZES);
	(void) trucker_roster_refresh(stream);
	if (!trucker_roster_has_work(stream))
		return false;
	trucker_identity_init(stream->row->role, role_is_superuser);
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

/* Is there a truck that has a position, or one that has none? */
static bool
some_are_loaded(const TruckerStream *stream, bool loaded)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (((TruckerMember *) lfirst(lc))->truck->needs_backfill != loaded)
			return true;
	return false;
}

/*
 * Trucks without a position cannot use a slot whose snapshot is gone; nor one that
 * is made for another role or stream.
 */
static void
sort_out_unfilled(TruckerStream *stream)
{
	List	   *members;
	ListCell   *lc;

	if (!some_are_loaded(stream, false))
		return;
	members = list_copy(stream->members);
	foreach(lc, members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->misplaced || !member->truck->needs_backfill)
			continue;
		members = foreach_delete_current(members, lc);
		trucker_transition_board_again(stream, member);
	}
	if (stream->row->slot_name == NULL)
		return;
	if (!some_are_loaded(stream, true))
	{
		trucker_transition_reopen(stream);
		return;
	}
	foreach(lc, members)
		if (((TruckerMember *) lfirst(lc))->truck->needs_backfill)
			trucker_transition_board_again(stream, lfirst(lc));
}

/* ----
 * Passes
 * ----
 */

/* Open a replication connection, in the current memory context. */
TruckerReplication *
trucker_stream_connect(const TruckerStream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	TruckerReplication *replication;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	replication = trucker_replication_open(get_database_name(MyDatabaseId),
										   psprintf(TRUCKER_APPLICATION_NAME, stream->row->name));
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	trucker_worker_set_walsender(trucker_replication_backend_pid(replication));
	return replication;
}

/* What commits there or later is for another pass; 0: there is no limit. */
XLogRecPtr
trucker_stream_limit(const TruckerStream *stream)
{
	if (stream->read_until != 0 && stream->switch_lsn != 0)
		return Min(stream->read_until, stream->switch_lsn);
	return Max(stream->read_until, stream->switch_lsn);
}

/* The end of a pass: nothing of it is left. */
static void
end_pass(TruckerStream *stream)
{
	if (stream->batch)
		trucker_batch_clear(stream->batch);
	stream->batch = NULL;
	if (stream->streamed)
		trucker_streamed_clear(stream->streamed);
	stream->streamed = NULL;
	stream->kept_context = NULL;
	stream->replication = NULL;
	stream->direct = NULL;
	stream->in_source = false;
	stream->pass_is_over = false;
	stream->batch_started = 0;
	stream->idle_lsn = InvalidXLogRecPtr;
	trucker_worker_set_walsender(0);
	MemoryContextSwitchTo(stream->context);
	/* closes the replication connection */
	if (stream->pass_context)
		MemoryContextDelete(stream->pass_context);
	stream->pass_context = NULL;
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
		{
			member->compiled = true;
			member->arranged = false;
		}
		else
			stream->nactive--;
	}
	trucker_member_end_turn();
}

/* In the current memory context. */
static char *
read_message_prefix(void)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *prefix;

	StartTransactionCommand();
	prefix = MemoryContextStrdup(context, trucker_state_message_prefix());
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return prefix;
}

/*
 * The last pass has come to a transaction that has altered inputs: read what it, and
 * others since, have written down of that.  Where it commits is noted, durably: after
 * it has been confirmed to the slot nobody could find out any more.
 */
static void
learn_names(TruckerStream *stream)
{
	TransactionId xid = (TransactionId) stream->ddl_xid;
	XLogRecPtr	restart_lsn;
	ListCell   *lc;

	if (stream->ddl_xid == 0)
		return;
	restart_lsn = trucker_slot_restart(stream->row->slot_name);
	StartTransactionCommand();
	if (TransactionIdIsInProgress(xid))
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_state_note_commit(&stream->id, stream->ddl_xid, stream->ddl_lsn);
	foreach(lc, stream->members)
		(void) trucker_state_prune_names(&((TruckerMember *) lfirst(lc))->truck_id, restart_lsn);
	PopActiveSnapshot();
	CommitTransactionCommand();
	XLogFlush(XactLastCommitEnd);

	StartTransactionCommand();
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		trucker_member_read_names(member);
		member->names_lsn = Max(member->names_lsn, stream->ddl_lsn);
		member->compiled = false;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	stream->ddl_xid = 0;
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
			(errmsg("stream \"%s\": input tables were altered by transaction %u, which committed at %X/%X",
					stream->row->name, xid, LSN_FORMAT_ARGS(stream->ddl_lsn)),
			 errhidecontext(true)));
	trucker_stop_point("names learnt");
}

/* Ready to decode what the slot's output plugin writes. */
static void
choose_decoder(TruckerStream *stream, const TruckerDecodeRequest *request)
{
	const char *name = stream->row->slot_name;
	TruckerSlotInfo info;

	stream->decoder = trucker_slot_find(name, &info) >= 0 ? trucker_decoder_find(info.plugin) : NULL;
	if (stream->decoder == NULL)
		elog(ERROR, "replication slot \"%s\" cannot be read", name);
	stream->decoder = trucker_decoder_installed(stream->decoder);
	stream->decoding = stream->decoder->begin ? stream->decoder->begin(request) : NULL;
}

/* Are there columns whose values cannot all come in binary form? */
static bool
wants_text(const TruckerStream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	bool		wanted = stream->as_text;
	ListCell   *lc;

	StartTransactionCommand();
	foreach(lc, stream->tables)
		wanted = wanted || !trucker_value_table_is_binary(((TruckerTable *) lfirst(lc))->relid);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return wanted;
}

static void
begin_pass(TruckerStream *stream)
{
	TruckerDecodeRequest request = {NIL};
	ListCell   *lc;

	end_pass(stream);
	stream->pass_context = AllocSetContextCreate(stream->context, "trucker pass", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(stream->pass_context);
	trucker_tables_build(stream);
	stream->in_progress = trucker_stream_in_progress;
	request.in_progress = stream->in_progress;
	request.message_prefix = stream->message_prefix = read_message_prefix();
	choose_decoder(stream, &request);
	stream->streamed = trucker_streamed_create();
	stream->batch = trucker_batch_create(stream->decoder, list_length(stream->tables));
	stream->message_context = AllocSetContextCreate(stream->pass_context, "trucker message",
													ALLOCSET_DEFAULT_SIZES);
	trucker_check_is_no_standby();
	stream->replication = trucker_stream_connect(stream);
	trucker_stats_connected();
	stream->confirmed_at = stream->sent_at = 0;
	stream->pass_started = GetCurrentTimestamp();
	stream->fresh_at = 0;
	stream->standby_at = 0;

	trucker_report("stream", stream->row->name, "begins to read");
	(void) trucker_slot_wait_inactive(stream->row->slot_name, -1);
	request.tables = trucker_tables_names(stream);
	trucker_tables_find_needs(stream, &request);
	if (stream->decoder->needs_publication)
	{
		request.publications = trucker_publication_names(stream->row->publication);
		request.as_text = wants_text(stream);
	}
	trucker_replication_start(stream->replication, stream->row->slot_name,
							  trucker_slot_confirmed(stream->row->slot_name), stream->decoder, &request);

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
			trucker_truck_set_state(member->entry, trucker_roster_active_state(stream));
		/* not again for each of those that others join or leave */
		if (!member->follows)
			ereport(trucker_elevel(member->failures > 0 ? TRUCKER_LOG_DEBUG : TRUCKER_LOG_WARN),
					(errmsg("truck \"%s\": streaming from %X/%X", member->truck->name,
							LSN_FORMAT_ARGS(Max(member->position->lsn, member->position->applied))),
					 errhidecontext(true)));
	}
}

/* ----
 * The attempt
 * ----
 */

/*
 * Is it time to read again from where the slot is, for trucks that have failed?  At
 * the home these are trucks that could not leave.  Only after the others have had as
 * much time on new ground as it takes to come there.
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

	if (stream->nactive == 0 || stream->pass_is_over || stream->rekeyed)
		return true;
	if (stream->in_source || stream->batch_started != 0)
		return false;

	/* under load, not behind each source transaction */
	poked = trucker_worker_is_poked() || trucker_retry_is_due(stream);
	if (!poked && !TimestampDifferenceExceeds(stream->looked_at, GetCurrentTimestamp(), LOOK_INTERVAL_MS))
		return false;
	stream->looked_at = GetCurrentTimestamp();
	if (trucker_worker_poked() || trucker_takeover_pending())
	{
		if (trucker_roster_refresh(stream))
			return true;
	}
	if (trucker_retry_is_due(stream))
		trucker_retry_work(stream);
	stream->switches = trucker_switch_is_due(stream);
	trucker_redefine_settle(stream);
	if (trucker_redefine_is_due(stream))
		return true;
	if (trucker_added_is_due(stream) || stream->switches || trucker_verification_is_due(stream))
		return true;
	if (!stream->row->home && trucker_added_member(stream) == NULL &&
		trucker_verification_member(stream) == NULL && trucker_transition_join(stream))
		return true;
	trucker_transition_let_leave(stream);
	trucker_roster_note_applied(stream);
	return stream->nactive == 0 || stream->rekeyed || retry_is_due(stream);
}

/* Settings take effect between batches. */
static void
reload_settings(TruckerStream *stream)
{
	if (!ConfigReloadPending || stream->batch_started != 0)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	trucker_check_is_no_standby();
	/* it is asked for when a pass begins */
	if (stream->replication)
		stream->pass_is_over |= stream->in_progress != trucker_stream_in_progress;
}

/* Receive until the pass must end. */
static void
follow(TruckerStream *stream)
{
	while (!pass_must_end(stream))
	{
		MemoryContextSwitchTo(stream->message_context);
		trucker_receive(stream);
		MemoryContextReset(stream->message_context);
		CHECK_FOR_INTERRUPTS();
		reload_settings(stream);
	}
	if (stream->replication)
		trucker_receive_confirm(stream, false);
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
		/* passes may be so short that nothing is received in them */
		reload_settings(stream);
		(void) trucker_roster_refresh(stream);
		if (!trucker_roster_has_work(stream) || trucker_worker_must_end() || stream->rekeyed)
			return TRUCKER_FINISHED;
		sort_out_unfilled(stream);
		if (stream->row->slot_name == NULL)
			break;
		trucker_roster_activate(stream);
		compile_new(stream);
		trucker_retry_work(stream);
		trucker_transition_let_leave(stream);
		if (stream->rekeyed)
			continue;
		if ((stream->switches || trucker_switch_is_due(stream)) && trucker_switch(stream))
			continue;
		if (trucker_redefine_arrange(stream))
			continue;
		if (trucker_added_is_due(stream))
			trucker_added_begin(stream);
		else if (trucker_verification_is_due(stream))
			trucker_verification_begin(stream);
		if (stream->nactive == 0)
			break;
		begin_pass(stream);
		follow(stream);
		end_pass(stream);
		trucker_redefine_end_pass(stream);
		trucker_added_end(stream);
		trucker_verification_end(stream);
		learn_names(stream);
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
	stream->addition = NULL;
	stream->verification = NULL;
	stream->read_until = stream->switch_lsn = InvalidXLogRecPtr;
	stream->ddl_xid = 0;
	end_pass(stream);
	trucker_member_end_turn();
	trucker_move_end();
	trucker_worker_set_splitting(false);
	MemoryContextReset(stream->context);
	stream->members_context = NULL;
	stream->row = NULL;
}
