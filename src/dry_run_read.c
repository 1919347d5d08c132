/*
 * dry_run_read.c
 *	  Read the next source transactions of a truck, and leave its slot where it is.
 *
 * They are read from a copy of the slot, in the form that the stream's worker would get
 * them.  The copy is a temporary one of the walsender's that serves us: it goes with the
 * connection, whatever ends that, and is gone before any SQL of the truck's is run.
 * Nothing is confirmed.  What tables.c knows about names is used as the stream does, over
 * a stream that has this truck only, and of which nobody else knows.
 *
 * A transaction that alters input tables ends the pass, if it says what was not known, and
 * all is read once more, from a new copy: what was asked of the plugin may have been too
 * little.  Where such a transaction commits is noted in memory only; the stream will find
 * out by itself.
 */
#include "trucker.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "check.h"
#include "dry_run.h"
#include "publication.h"
#include "slots.h"
#include "state.h"

/* Where a transaction commits that has named tables without a lock on them. */
typedef struct KnownCommit
{
	uint64		xid;
	XLogRecPtr	lsn;
} KnownCommit;

/* The place of a table among the truck's inputs. */
int
trucker_dry_run_input(const TruckerDryRun *run, Oid relid)
{
	const TruckerTruck *truck = run->member.truck;

	for (int i = 0; i < truck->ninputs; i++)
		if (truck->inputs[i] == relid)
			return i;
	elog(ERROR, "relation %u is not an input of truck \"%s\"", relid, truck->name);
}

/* ----
 * A pass
 * ----
 */

static void
choose_decoder(TruckerStream *stream, const TruckerDecodeRequest *request)
{
	const char *name = stream->row->slot_name;
	TruckerSlotInfo info;

	stream->decoder = trucker_slot_find(name, &info) >= 0 ? trucker_decoder_find(info.plugin) : NULL;
	if (stream->decoder == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replication slot \"%s\" cannot be read", name),
				 errhint("SELECT * FROM trucker.slots; shows why.")));
	stream->decoder = trucker_decoder_installed(stream->decoder);
	stream->decoding = stream->decoder->begin ? stream->decoder->begin(request) : NULL;
}

/* What the plugin is asked for, in the current memory context: all columns, as text. */
static void
make_request(const TruckerDryRun *run, TruckerDecodeRequest *request)
{
	const TruckerTruck *truck = run->member.truck;
	MemoryContext context = CurrentMemoryContext;

	memset(request, 0, sizeof(*request));
	StartTransactionCommand();
	request->message_prefix = MemoryContextStrdup(context, trucker_state_message_prefix());
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	request->tables = trucker_tables_names(&run->stream);
	request->no_updates = truck->inserts_only;
	request->no_truncates = truck->on_truncate == TRUCKER_TRUNCATE_IGNORE && !truck->net;
	request->as_text = true;
	if (run->stream.row->publication)
		request->publications = trucker_publication_names(run->stream.row->publication);
}

static void
begin_pass(TruckerDryRun *run)
{
	TruckerStream *stream = &run->stream;
	TruckerDecodeRequest request;
	char	   *copy = trucker_slot_new_name();
	MemoryContext context;

	stream->pass_context = AllocSetContextCreate(run->context, "trucker pass", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(stream->pass_context);
	trucker_tables_build(stream);
	make_request(run, &request);
	choose_decoder(stream, &request);
	stream->batch = trucker_batch_create(stream->decoder, list_length(stream->tables));
	stream->message_context = AllocSetContextCreate(stream->pass_context, "trucker message", ALLOCSET_DEFAULT_SIZES);
	stream->in_source = stream->pass_is_over = false;

	/* the connection in a context of its own, with which it goes */
	stream->context = AllocSetContextCreate(stream->pass_context, "trucker dry run connection", ALLOCSET_DEFAULT_SIZES);
	context = MemoryContextSwitchTo(stream->context);
	StartTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	stream->replication = trucker_replication_open(get_database_name(MyDatabaseId),
												   psprintf(TRUCKER_APPLICATION_NAME, "dry run"));
	CommitTransactionCommand();
	MemoryContextSwitchTo(stream->context);
	trucker_replication_copy_slot(stream->replication, stream->row->slot_name, copy);
	trucker_stop_point("dry run: slot copied");
	trucker_replication_start(stream->replication, copy,
							  Max(run->member.position->lsn, run->member.position->applied),
							  stream->decoder, &request);
	MemoryContextSwitchTo(context);
}

/* The end of the connection, and of the copy. */
static void
disconnect(TruckerDryRun *run)
{
	MemoryContextSwitchTo(run->context);
	MemoryContextDelete(run->stream.context);
	run->stream.context = NULL;
	run->stream.replication = NULL;
}

/* Forget a pass whose names were not those that count. */
static void
forget_pass(TruckerDryRun *run)
{
	trucker_batch_clear(run->stream.batch);
	MemoryContextSwitchTo(run->context);
	MemoryContextDelete(run->stream.pass_context);
	run->stream.pass_context = NULL;
	run->stream.batch = NULL;
	run->sources = NIL;
}

/* ----
 * Messages
 * ----
 */

/* A source transaction that has a change for the truck. */
static TruckerTried *
announce(TruckerDryRun *run)
{
	TruckerStream *stream = &run->stream;
	MemoryContext old = MemoryContextSwitchTo(run->context);
	const TruckerTruck *truck = run->member.truck;
	TruckerTried *tried = palloc0(sizeof(TruckerTried));

	trucker_batch_begin_source(stream->batch, &stream->begin);
	stream->announced = true;
	tried->begin = stream->begin;
	tried->inputs = palloc0(truck->ninputs * sizeof(TruckerTriedInput));
	tried->skipped = stream->begin.commit_lsn == truck->skip_lsn;
	tried->failed_input = -1;
	run->sources = lappend(run->sources, tried);
	MemoryContextSwitchTo(old);
	return tried;
}

static int
kind_number(TruckerMessageKind kind)
{
	switch (kind)
	{
		case TRUCKER_MSG_INSERT:
			return 0;
		case TRUCKER_MSG_UPDATE:
			return 1;
		case TRUCKER_MSG_DELETE:
			return 2;
		default:
			return 3;
	}
}

/* A change of one of the truck's tables. */
static void
take_change(TruckerDryRun *run, const TruckerTable *table, const TruckerMessage *message)
{
	TruckerStream *stream = &run->stream;
	const TruckerReader *reader = linitial(table->readers);
	TruckerTried *tried;

	if (stream->begin.commit_lsn < reader->from_lsn || trucker_apart_ignores(run->member.pipeline, message))
		return;
	tried = stream->announced ? llast(run->sources) : announce(run);
	tried->inputs[trucker_dry_run_input(run, reader->relid)].changes[kind_number(message->kind)]++;
	trucker_batch_add(stream->batch, table->number, message, NULL);
}

static void
handle_change(TruckerDryRun *run, TruckerMessage *message)
{
	TruckerStream *stream = &run->stream;

	if (trucker_position_skips(run->member.position, stream->begin.commit_lsn))
		return;
	for (TruckerSpan *span = trucker_tables_find(stream, message, stream->begin.xid); span != NULL;
		 span = trucker_tables_next(span, message, stream->begin.xid))
	{
		message->leaf = span->leaf;
		take_change(run, list_nth(stream->tables, span->number), message);
	}
}

static void
handle_truncate(TruckerDryRun *run, TruckerMessage *message)
{
	ListCell   *lc;

	if (OidIsValid(message->relid))
		foreach(lc, trucker_tables_truncated(&run->stream, message, run->stream.begin.xid))
			handle_change(run, lfirst(lc));
	for (TruckerMessage *table = message; table != NULL; table = table->also)
	{
		table->lsn = message->lsn;
		handle_change(run, table);
	}
}

/* DDL on input tables: do we know of what it has done? */
static void
handle_ddl(TruckerDryRun *run, const TruckerMessage *message)
{
	TruckerStream *stream = &run->stream;
	List	   *relids;
	uint64		xid = trucker_ddl_parse(message->content, &relids);

	if (!stream->in_source || !message->transactional || (TransactionId) xid != stream->begin.xid ||
		!trucker_member_heeds_ddl(&run->member, xid, relids, stream->begin.commit_lsn))
		return;
	stream->ddl_xid = xid;
	stream->ddl_lsn = stream->begin.commit_lsn;
	stream->pass_is_over = true;
}

static void
handle_data(TruckerDryRun *run)
{
	TruckerStream *stream = &run->stream;
	TruckerMessage message;

	if (!stream->decoder->decode(stream->decoding, stream->replication->data, stream->replication->len, &message))
		return;
	message.lsn = stream->replication->data_lsn;
	switch (message.kind)
	{
		case TRUCKER_MSG_BEGIN:
			stream->pass_is_over = message.commit_lsn >= run->until;
			stream->in_source = true;
			stream->announced = false;
			stream->begin = message;
			break;
		case TRUCKER_MSG_COMMIT:
			stream->in_source = false;
			if (stream->announced)
				trucker_batch_end_source(stream->batch, message.end_lsn);
			stream->pass_is_over = list_length(run->sources) >= run->wanted;
			break;
		case TRUCKER_MSG_INSERT:
		case TRUCKER_MSG_UPDATE:
		case TRUCKER_MSG_DELETE:
			handle_change(run, &message);
			break;
		case TRUCKER_MSG_TRUNCATE:
			handle_truncate(run, &message);
			break;
		case TRUCKER_MSG_LOGICAL:
			handle_ddl(run, &message);
			break;
		default:
			/* transactions in progress are not asked for */
			elog(ERROR, "unexpected message of kind %d", message.kind);
	}
}

/* Receive until there is enough, or no more before run->until. */
static void
receive(TruckerDryRun *run)
{
	TruckerStream *stream = &run->stream;
	TruckerReplication *replication = stream->replication;

	while (!stream->pass_is_over)
	{
		MemoryContextSwitchTo(stream->message_context);
		switch (trucker_replication_receive(replication))
		{
			case TRUCKER_RECEIVED_DATA:
				handle_data(run);
				break;
			case TRUCKER_RECEIVED_KEEPALIVE:
				if (!stream->in_source && replication->sent_lsn >= run->until)
					stream->pass_is_over = true;
				if (replication->reply_requested)
					trucker_replication_confirm(replication, InvalidXLogRecPtr, true);
				break;
			case TRUCKER_RECEIVED_NOTHING:
				(void) trucker_conn_wait(replication->conn, -1, TRUCKER_WAIT_CHANGES);
				break;
		}
		MemoryContextReset(stream->message_context);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ----
 * Names
 * ----
 */

/* The last pass has come to a transaction that has altered inputs: what of that is not known? */
static void
learn_names(TruckerDryRun *run)
{
	TruckerMember *member = &run->member;
	TransactionId xid = (TransactionId) run->stream.ddl_xid;
	KnownCommit *commit = palloc(sizeof(KnownCommit));
	ListCell   *lc;
	ListCell   *lc2;

	commit->xid = run->stream.ddl_xid;
	commit->lsn = run->stream.ddl_lsn;
	run->commits = lappend(run->commits, commit);
	StartTransactionCommand();
	if (TransactionIdIsInProgress(xid))
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
	trucker_member_read_names(member);
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->context);
	foreach(lc, member->names)
	{
		TruckerInputName *name = lfirst(lc);

		foreach(lc2, run->commits)
		{
			commit = lfirst(lc2);
			if (name->named_by == commit->xid && XLogRecPtrIsInvalid(name->commit_lsn))
				name->commit_lsn = commit->lsn;
		}
	}
	member->names_lsn = Max(member->names_lsn, run->stream.ddl_lsn);
	run->stream.ddl_xid = 0;
}

/*
 * Read as many source transactions as are wanted, and are there: run->sources, and their
 * changes in the stream's batch.  Outside any transaction; nothing else is left of it.
 */
void
trucker_dry_run_read(TruckerDryRun *run)
{
	for (;;)
	{
		trucker_check_is_no_standby();
		begin_pass(run);
		receive(run);
		disconnect(run);
		if (run->stream.ddl_xid == 0)
			return;
		forget_pass(run);
		learn_names(run);
	}
}
