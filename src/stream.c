/*
 * stream.c
 *	  One attempt to follow a truck's slot, until an error ends it.
 *
 *	  no position --> slot created --> backfill committed --> streaming
 *	       ^               |                                     |
 *	       +---- error ----+                            error: a new attempt
 *	                                                    from the position
 *
 * Each attempt begins with what the catalog says, and nothing else: whatever
 * went wrong, the way on is the way that a crash would have taken.  A slot is
 * useful only together with the backfill that its snapshot was exported for; as
 * long as there is no position, an attempt makes a new slot and drops the one
 * that an earlier attempt may have left.  The slot's name is committed, and
 * flushed, before the slot is made, so that no slot is ever forgotten.
 *
 * A batch is closed when nothing more has arrived, or when it is large or old
 * enough; always behind a whole source transaction.  After an error the source
 * transactions up to the failed one are applied one by one, so that those before
 * it are committed, and the error names the one.
 *
 * "lost" means that no attempt can help, only the user can: the slot is gone, or
 * the position is not one of this server's WAL.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backfill.h"
#include "check.h"
#include "identity.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* how often to look whether our commits have been flushed, and to confirm */
#define FLUSH_CHECK_MS 100
#define CONFIRM_INTERVAL_MS 1000

static const TruckerDecoder *const decoder = &trucker_wal2json;

/* the message names the truck already, so its context would say it twice */
#define LOG_EVENT(...) \
	ereport(LOG, (errmsg(__VA_ARGS__), errhidecontext(true)))

/* ----
 * Getting ready
 * ----
 */

static void
raise_lost(TruckerStream *stream, const char *why)
{
	stream->lost = true;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("truck \"%s\" cannot go on: %s", stream->truck->name, why),
			 errdetail("Changes would be skipped or applied twice if it did."),
			 errhint("SELECT trucker.resync(%s) loads the destination anew.",
					 quote_literal_cstr(stream->truck->name))));
}

/*
 * Are the input tables still called what the output plugin filters by?  If not,
 * changes may have passed unseen.  Needs a transaction.
 */
static void
check_names(TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->names)
	{
		TruckerInputName *name = lfirst(lc);
		char	   *table = get_rel_name(name->relid);
		char	   *schema = table ? get_namespace_name(get_rel_namespace(name->relid)) : NULL;

		if (schema == NULL)
		{
			stream->lost = true;
			trucker_raise_dropped(stream->truck->name, name->relid);
		}
		if (strcmp(schema, name->schema) != 0 || strcmp(table, name->table) != 0)
			raise_lost(stream, psprintf("its input table %s has been renamed to %s",
										quote_qualified_identifier(name->schema, name->table),
										quote_qualified_identifier(schema, table)));
	}
}

/* The input tables' names as of now. */
static List *
current_names(const TruckerTruck *truck)
{
	List	   *names = NIL;

	for (int i = 0; i < truck->ninputs; i++)
	{
		TruckerInputName *name = palloc(sizeof(TruckerInputName));

		name->relid = truck->inputs[i];
		name->table = get_rel_name(name->relid);
		if (name->table == NULL)
			trucker_raise_dropped(truck->name, name->relid);
		name->schema = get_namespace_name(get_rel_namespace(name->relid));
		names = lappend(names, name);
	}
	return names;
}

/* Read the catalog.  False: the truck is gone, or shall not run. */
static bool
load(TruckerStream *stream)
{
	/*
	 * The position that we are about to read may have been committed, by the
	 * attempt before this one, without waiting for the disk.  It must be safe
	 * before anything is confirmed because of it.
	 */
	XLogFlush(trucker_lsn_record_end(GetXLogInsertRecPtr()));

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(stream->context);
	stream->truck = trucker_truck_load(&stream->truck_id);
	if (stream->truck && stream->truck->enabled && !stream->truck->lost)
	{
		trucker_truck_check_role(stream->truck);
		stream->position = trucker_position_load(&stream->truck_id);
		stream->names = trucker_truck_input_names(&stream->truck_id);
		stream->pipeline = trucker_pipeline_create(stream->truck, decoder, stream->position);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	if (stream->pipeline == NULL)
		return false;
	trucker_identity_init(stream->truck->role, stream->pipeline->role_is_superuser);
	MemoryContextSwitchTo(stream->context);
	return true;
}

/*
 * Check the rights and compile the SQL now: errors show before the first change
 * comes, and before a slot is made in vain.
 */
static void
compile(TruckerStream *stream)
{
	TruckerPipeline *pipeline = stream->pipeline;

	trucker_pipeline_begin_batch(pipeline, NULL);
	pipeline->commit_lsn = stream->position->lsn;
	pipeline->xid = InvalidTransactionId;
	trucker_pipeline_compile(pipeline);
	trucker_pipeline_end_empty(pipeline);
	MemoryContextSwitchTo(stream->context);
}

/* The input tables' names as the decoder wants them. */
static List *
table_names(const TruckerStream *stream)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, stream->names)
	{
		TruckerInputName *input = lfirst(lc);
		TruckerTableName *name = palloc(sizeof(TruckerTableName));

		name->schema = input->schema;
		name->table = input->table;
		names = lappend(names, name);
	}
	return names;
}

static void
connect_replication(TruckerStream *stream)
{
	char	   *database;

	StartTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	database = get_database_name(MyDatabaseId);
	stream->replication = trucker_replication_open(database,
												   psprintf(TRUCKER_APPLICATION_NAME, stream->truck->name));
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	trucker_worker_set_walsender(trucker_replication_backend_pid(stream->replication));
}

/* ----
 * The first start
 * ----
 */

/* Commit the name of the slot to come, durably, with the inputs' names. */
static void
record_slot(TruckerStream *stream, char *slot_name)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(stream->context);
	stream->names = current_names(stream->truck);
	trucker_truck_set_slot(&stream->truck_id, slot_name);
	trucker_truck_set_input_names(&stream->truck_id, stream->names);
	PopActiveSnapshot();
	CommitTransactionCommand();
	XLogFlush(XactLastCommitEnd);
	MemoryContextSwitchTo(stream->context);
	stream->truck->slot_name = slot_name;
}

static void
start_fresh(TruckerStream *stream)
{
	XLogRecPtr	consistent_point;
	char	   *snapshot;

	compile(stream);
	trucker_worker_set_state(TRUCKER_CREATING_SLOT);
	if (stream->truck->slot_name)
		trucker_slot_drop(stream->truck->slot_name);
	record_slot(stream, trucker_slot_new_name());
	connect_replication(stream);
	trucker_replication_create_slot(stream->replication, stream->truck->slot_name,
									decoder, &consistent_point, &snapshot);
	LOG_EVENT("truck \"%s\": replication slot \"%s\" created, backfill begins at %X/%X",
			  stream->truck->name, stream->truck->slot_name, LSN_FORMAT_ARGS(consistent_point));

	trucker_worker_set_state(TRUCKER_BACKFILL);
	stream->confirmed = consistent_point;
	trucker_backfill(stream->pipeline, snapshot, consistent_point);
	LOG_EVENT("truck \"%s\": backfill committed", stream->truck->name);
}

/* ----
 * Start from a position
 * ----
 */

/*
 * May the truck go on from its position, with its slot?  The slot rests between
 * two attempts, and while the truck is stopped: if it stands further than we can
 * have told it, somebody else has moved it.
 */
static void
check_position(TruckerStream *stream)
{
	const char *trouble = trucker_position_trouble(stream->position);
	XLogRecPtr	noted = stream->truck->confirmed_lsn;
	XLogRecPtr	expected = Max(noted, stream->confirmed);

	if (!XLogRecPtrIsInvalid(expected))
		expected = Max(expected, stream->position->lsn);

	if (!stream->position->exists)
		trouble = "it has no position";
	else if (stream->truck->slot_name == NULL)
		trouble = "it has no replication slot";
	if (trouble == NULL)
		trouble = trucker_slot_trouble(stream->truck->slot_name, expected);
	if (trouble)
		raise_lost(stream, trouble);
	stream->confirmed = Max(expected, trucker_slot_confirmed(stream->truck->slot_name));

	StartTransactionCommand();
	check_names(stream);
	if (!XLogRecPtrIsInvalid(noted))
		trucker_truck_forget_confirmed(&stream->truck_id);
	CommitTransactionCommand();

	/* or, after a crash, the old note would be held against a slot that moved on */
	if (!XLogRecPtrIsInvalid(noted))
		XLogFlush(XactLastCommitEnd);
	MemoryContextSwitchTo(stream->context);
}

static void
start_streaming(TruckerStream *stream)
{
	TruckerDecodeRequest request = {table_names(stream)};

	if (stream->replication == NULL)
	{
		check_position(stream);
		compile(stream);
		trucker_check_is_no_standby();
		connect_replication(stream);
	}
	(void) trucker_slot_wait_inactive(stream->truck->slot_name, -1);
	trucker_replication_start(stream->replication, stream->truck->slot_name,
							  stream->position->lsn, decoder, &request);
	/* after a failure we are "retrying" until something has gone well */
	if (stream->failures == 0)
		trucker_worker_set_state(TRUCKER_STREAMING);
	LOG_EVENT("truck \"%s\": streaming from %X/%X",
			  stream->truck->name, LSN_FORMAT_ARGS(stream->position->lsn));
}

/* ----
 * Streaming
 * ----
 */

/*
 * All that committed before lsn is at the destination.  at is when the source
 * was there: the time of a commit, or when the walsender said that it had no more.
 */
static void
applied(TruckerStream *stream, XLogRecPtr lsn, TimestampTz at)
{
	if (lsn > stream->failed_lsn && stream->failures > 0)
	{
		stream->failed_lsn = InvalidXLogRecPtr;
		stream->failures = 0;
		LOG_EVENT("truck \"%s\" has recovered", stream->truck->name);
		trucker_worker_set_state(TRUCKER_STREAMING);
	}
	trucker_worker_set_applied(lsn, at);
}

static void
confirm(TruckerStream *stream, bool force)
{
	XLogRecPtr	lsn = trucker_position_confirmable(stream->position);

	/* noted first: an error may hide whether it was sent */
	stream->confirmed = Max(stream->confirmed, lsn);
	trucker_replication_confirm(stream->replication, lsn, force);
	stream->confirmed_at = stream->sent_at;
}

/*
 * Nothing is pending, and all before lsn has been received.  A rename that was
 * part of it would make what follows invisible; so look before saying so.
 */
static void
idle_at(TruckerStream *stream, XLogRecPtr lsn)
{
	StartTransactionCommand();
	check_names(stream);
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->message_context);
	trucker_position_idle(stream->position, lsn);
	applied(stream, lsn, stream->sent_at);
}

static void
finish_batch(TruckerStream *stream)
{
	check_names(stream);
	trucker_pipeline_commit(stream->pipeline, stream->batch_end);
	MemoryContextSwitchTo(stream->message_context);

	/* autovacuum must hear of what we do to the destination */
	pgstat_report_stat(false);
	applied(stream, stream->batch_end, stream->begin.committed_at);
}

static bool
batch_is_full(const TruckerStream *stream)
{
	const TruckerPipeline *pipeline = stream->pipeline;

	return stream->begin.commit_lsn <= stream->failed_lsn ||
		pipeline->batch_rows >= trucker_max_batch_rows ||
		TimestampDifferenceExceeds(pipeline->batch_started, GetCurrentTimestamp(),
								   trucker_max_batch_age);
}

static void
end_source(TruckerStream *stream, const TruckerMessage *message)
{
	stream->in_source = false;
	if (stream->pipeline->in_batch)
	{
		stream->batch_end = message->end_lsn;
		if (batch_is_full(stream))
			finish_batch(stream);
	}
	else
	{
		trucker_position_idle(stream->position, message->end_lsn);
		applied(stream, message->end_lsn, message->committed_at);
	}
	if (TimestampDifferenceExceeds(stream->confirmed_at, stream->sent_at, CONFIRM_INTERVAL_MS))
		confirm(stream, false);
}

static Oid
input_of(const TruckerStream *stream, const TruckerMessage *message)
{
	ListCell   *lc;

	foreach(lc, stream->names)
	{
		TruckerInputName *name = lfirst(lc);

		if (strcmp(name->table, message->table) == 0 &&
			strcmp(name->schema, message->schema) == 0)
			return name->relid;
	}
	return InvalidOid;
}

static void
handle_change(TruckerStream *stream, const TruckerMessage *message)
{
	TruckerPipeline *pipeline = stream->pipeline;
	Oid			relid;

	if (!stream->in_source)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received a change outside of a transaction")));
	relid = stream->skip ? InvalidOid : input_of(stream, message);
	if (!OidIsValid(relid))
		return;
	if (!pipeline->in_batch)
	{
		trucker_pipeline_begin_batch(pipeline, NULL);
		MemoryContextSwitchTo(stream->message_context);
	}
	if (!stream->announced)
		trucker_pipeline_begin_source(pipeline, &stream->begin);
	stream->announced = true;
	trucker_pipeline_change(pipeline, relid, message);
}

static void
handle_data(TruckerStream *stream, const char *data, int len)
{
	TruckerMessage message;

	decoder->decode(data, len, &message);
	switch (message.kind)
	{
		case TRUCKER_MSG_BEGIN:
			stream->in_source = true;
			stream->announced = false;
			stream->begin = message;
			stream->skip = trucker_position_skips(stream->position, message.commit_lsn);
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

/* Nothing more has arrived: close the batch, confirm, and wait. */
static void
rest(TruckerStream *stream)
{
	if (stream->pipeline->in_batch && !stream->in_source)
		finish_batch(stream);
	confirm(stream, false);
	if (!stream->in_source)
		pgstat_report_stat(true);
	(void) trucker_conn_wait(stream->replication->conn,
							 trucker_position_has_unflushed(stream->position) ? FLUSH_CHECK_MS : -1);
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
				if (stream->pipeline->in_batch)
					finish_batch(stream);
				idle_at(stream, rep->sent_lsn);
			}
			confirm(stream, rep->reply_requested);
			break;
		case TRUCKER_RECEIVED_NOTHING:
			rest(stream);
			break;
	}
}

/*
 * Follow the slot until an error is raised.  Returns false, without having done
 * anything, if the truck shall not run.  All that it allocates is in
 * stream->context.
 */
bool
trucker_stream_follow(TruckerStream *stream)
{
	if (!load(stream))
		return false;
	if (stream->truck->needs_backfill)
		start_fresh(stream);
	start_streaming(stream);

	stream->message_context = AllocSetContextCreate(stream->context, "trucker message",
													ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContextSwitchTo(stream->message_context);
		receive(stream);
		MemoryContextReset(stream->message_context);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending && !stream->pipeline->in_batch)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			trucker_check_is_no_standby();
		}
	}
}
