/*
 * added_tables.c
 *	  Load the tables that alter_truck() has added to a truck, and no others.
 *
 * The truck has a position, and its destination must show the new tables as of just
 * that position, and from there on in step with the others.  So:
 *
 *	 1. catch up   the truck reads its other tables up to where the WAL ended when it
 *				   came here: what follows shall not take long
 *	 2. slot	   nothing is read.  A temporary slot is made over a connection of its
 *				   own, and a snapshot exported with it, at the consistent point Q.
 *				   Since the truck rests, Q is not before its position
 *	 3. approach   it reads its other tables up to Q: all that commits before, and
 *				   nothing of what commits after it
 *	 4. load	   one transaction at the destination: the new tables' rows as the
 *				   snapshot shows them, their names, from_lsn = Q and position = Q
 *	 5.			   a new pass, with all tables, from Q
 *
 * An input has a row in trucker.input_table if it has been loaded, and none before.
 * Whatever happens before the transaction of step 4 has committed, a crash included,
 * leaves the truck as it was, the temporary slot goes with its connection, and all
 * begins anew; after it all is done.  Errors are the truck's own (member.c).
 *
 * It is done by the stream's worker itself, without a process like those of first
 * backfills: the truck could do nothing meanwhile, and the worker has to take it to
 * Q.  So that it keeps nobody waiting, the truck is alone on a catch-up stream for
 * that (stream.c lets it leave, transition.c gives it a slot of its own); until it
 * has one, it goes on with its other tables.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "backfill.h"
#include "log.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

typedef struct TruckerAddition
{
	MemoryContext context;		/* of all this */
	pg_uuid_t	truck_id;
	TruckerReplication *replication;	/* holds slot and snapshot */
	char	   *snapshot;
} TruckerAddition;

/* Is this the only truck of the stream that shall run? */
bool
trucker_added_is_alone(const TruckerStream *stream, const TruckerMember *member)
{
	ListCell   *lc;

	if (stream->row->home)
		return false;			/* others may come at any time */
	foreach(lc, stream->members)
		if (lfirst(lc) != member && trucker_member_shall_run(lfirst(lc)))
			return false;
	return true;
}

/* The truck whose new inputs can be loaded on this stream; NULL: there is none. */
TruckerMember *
trucker_added_member(const TruckerStream *stream)
{
	ListCell   *lc;

	if (stream->row->home)
		return NULL;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (member->unloaded != NIL && !member->misplaced && trucker_member_shall_run(member))
			return trucker_added_is_alone(stream, member) ? member : NULL;
	}
	return NULL;
}

/* Is there one, and is it as far as it shall be when its slot is made? */
bool
trucker_added_is_due(const TruckerStream *stream)
{
	TruckerMember *member = trucker_added_member(stream);

	return member && member->active && stream->addition == NULL && stream->applied >= member->load_at;
}

static void
forget(TruckerStream *stream)
{
	MemoryContext context = stream->addition->context;

	stream->addition = NULL;
	stream->read_until = InvalidXLogRecPtr;
	/* closes the connection */
	MemoryContextDelete(context);
}

/* ----
 * Steps of the truck's, whose errors are its own
 * ----
 */

static void
create_slot(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;
	TruckerAddition *addition = stream->addition;

	MemoryContextSwitchTo(addition->context);
	/* before the slot: see publication.c */
	if (stream->decoder->needs_publication)
		(void) trucker_publication_prepare(&stream->row->id, list_make1(member->truck));
	addition->replication = trucker_stream_connect(stream);
	trucker_replication_create_slot(addition->replication, trucker_slot_new_name(), true, stream->decoder->plugin,
									&stream->read_until, &addition->snapshot);
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
			(errmsg("truck \"%s\": backfill of %d added tables at %X/%X", member->truck->name,
					list_length(member->unloaded), LSN_FORMAT_ARGS(stream->read_until)), errhidecontext(true)));
}

/*
 * Changes of a table that was an input before, and that a last batch has put into
 * quarantine after it had been taken away, are in what is loaded.
 */
static void
forget_quarantined(TruckerMember *member)
{
	const TruckerTruck *truck = member->truck;
	Oid		   *others = palloc(truck->ninputs * sizeof(Oid));
	int			n = 0;

	for (int i = 0; i < truck->ninputs; i++)
		if (!list_member_oid(member->unloaded, truck->inputs[i]))
			others[n++] = truck->inputs[i];
	if (trucker_quarantine_discard_others(&truck->id, n, others) > 0)
		member->pipeline->quarantine->stale = true;
}

/*
 * Of a truck that loads nothing (alter.c): it reads the tables from here on, since that
 * is where their publication can be relied upon.
 */
static void
begin_reading(TruckerMember *member, XLogRecPtr from)
{
	List	   *names;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_tables_lock(member->unloaded);
	names = trucker_state_current_names(member->truck, member->unloaded);
	foreach(lc, names)
		((TruckerInputName *) lfirst(lc))->from_lsn = from;
	trucker_state_set_added(member->truck, names);
	PopActiveSnapshot();
	CommitTransactionCommand();
	XLogFlush(XactLastCommitEnd);
}

static void
load(TruckerMember *member, void *arg)
{
	TruckerStream *stream = arg;
	TruckerAddition *addition = stream->addition;
	TruckerPipeline *pipeline = member->pipeline;
	MemoryContext old;
	List	   *names;
	ListCell   *lc;

	if (!member->truck->backfill)
	{
		begin_reading(member, stream->read_until);
		return;
	}
	/* a failure here is no source transaction's */
	pipeline->commit_lsn = member->position->lsn;
	pipeline->xid = InvalidTransactionId;
	trucker_pipeline_begin_batch(pipeline, addition->snapshot);
	/* with the snapshot imported, nobody needs the slot any more */
	trucker_conn_close(addition->replication->conn);
	old = MemoryContextSwitchTo(pipeline->batch_context);
	trucker_backfill_added(pipeline, member->unloaded, stream->read_until);
	names = trucker_state_current_names(member->truck, member->unloaded);
	foreach(lc, names)
		((TruckerInputName *) lfirst(lc))->from_lsn = stream->read_until;
	trucker_stop_point("added tables: read");
	trucker_state_set_added(member->truck, names);
	/* the names and columns are those of the snapshot; a table may have been altered before it was locked */
	foreach(lc, member->unloaded)
	{
		TruckerInput *input = trucker_pipeline_input(pipeline, lfirst_oid(lc));

		trucker_columns_check(input->columns, &member->truck_id, RelationGetDescr(input->rel));
	}
	forget_quarantined(member);
	trucker_stop_point("added tables: loaded");
	MemoryContextSwitchTo(old);
	trucker_pipeline_commit(pipeline, stream->read_until);
}

/* ----
 * The stream's view
 * ----
 */

/*
 * Step 2, between two passes: the next one ends at stream->read_until.  Should it
 * fail, the truck is set aside.
 */
void
trucker_added_begin(TruckerStream *stream)
{
	TruckerMember *member = trucker_added_member(stream);
	MemoryContext context = AllocSetContextCreate(stream->context, "trucker added tables", ALLOCSET_SMALL_SIZES);
	TruckerAddition *addition = MemoryContextAllocZero(context, sizeof(TruckerAddition));

	addition->context = context;
	addition->truck_id = member->truck_id;
	stream->addition = addition;
	trucker_truck_set_state(member->entry, TRUCKER_CREATING_SLOT);
	if (trucker_member_try(member, create_slot, stream, true))
	{
		trucker_truck_set_state(member->entry, TRUCKER_BACKFILL);
		trucker_stop_point("added tables: slot created");
	}
	else
	{
		stream->nactive--;
		forget(stream);
	}
	trucker_member_end_turn();
	trucker_worker_set_walsender(0);
}

/* The inputs' names, now that all have been loaded. */
static void
take_names(TruckerMember *member)
{
	StartTransactionCommand();
	trucker_member_read_names(member);
	CommitTransactionCommand();
	/* what it needs of them is to be written down */
	member->arranged = false;
}

/*
 * After a pass: step 4, if the pass has come to its end.  If not - an error, another
 * truck that has come aboard, an altered truck - all begins anew.
 */
void
trucker_added_end(TruckerStream *stream)
{
	MemoryContext old = CurrentMemoryContext;
	TruckerMember *member;

	if (stream->addition == NULL)
		return;
	member = trucker_added_member(stream);
	if (member && member->active && stream->applied >= stream->read_until &&
		memcmp(&member->truck_id, &stream->addition->truck_id, sizeof(pg_uuid_t)) == 0)
	{
		trucker_truck_set_state(member->entry, TRUCKER_BACKFILL);
		trucker_stop_point("added tables: caught up");
		if (trucker_member_try(member, load, stream, true))
		{
			ereport(trucker_elevel(TRUCKER_LOG_INFO),
					(errmsg("truck \"%s\": backfill of added tables committed", member->truck->name),
					 errhidecontext(true)));
			take_names(member);
			trucker_stop_point("added tables: committed");
		}
		trucker_member_end_turn();
	}
	MemoryContextSwitchTo(old);
	forget(stream);
}
