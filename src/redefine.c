/*
 * redefine.c
 *	  From where on a truck that has been altered is run by its new definition.
 *
 * Where the plugin sends all columns: from wherever the truck is.  pgoutput sends the
 * columns that publications hold, and what was written before does not carry those that
 * only the new definition reads.  A truck without such changes before it never notices.  Else:
 *
 *	 1. keep	 alter_truck() keeps what the truck was (former.c).  It is not known there
 *				 which columns are read, for that takes the SQL to be compiled as the role
 *	 2. decide	 the worker compiles the new definition.  If all that it reads is carried by
 *				 what the truck has yet to apply, the former one is forgotten.  That is so of
 *				 what the truck has needed, and of what was published all the same: for other
 *				 trucks, or since there was nothing to leave out
 *	 3. wait	 if not, the lists are made longer, and the truck is run by its former
 *				 definition, which is in force from now on, also after a restart
 *	 4. settle	 when all transactions have ended that ran when the lists were made longer,
 *				 it is known from which LSN on all is carried: what commits there or later
 *	 5. switch	 the pass ends in front of the first such transaction, or when nothing is
 *				 left before that LSN.  One transaction forgets the former definition.
 *				 The truck is loaded anew, and is what it was altered to
 *
 * Whatever is killed in between: after step 3 the catalog says which definition the truck's
 * next change is for.  One that was altered once more begins at step 2, with the former
 * definition that it has.  Until it is decided (an alter_truck() that is yet to commit may
 * keep that waiting) the truck rests.
 *
 * Should a change all the same not carry what is read, it is an error, in row_message.c.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "column_list.h"
#include "log.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* how often to look whether lists can be relied upon */
#define SETTLE_CHECK_MS 500

/* after lists have been looked at in vain */
#define LISTS_CHECK_MS 5000

/* when a truck that cannot be decided about is tried again */
#define UNDECIDED_MS 500

typedef struct Arrangement
{
	TruckerStream *stream;
	const char *publication;
	List	   *arranged;		/* members whose needs are written down now */
	List	   *reloaded;		/* ... that are to be loaded anew */
} Arrangement;

static bool
is_undecided(const TruckerMember *member)
{
	return member->former && !member->former->in_force;
}

static bool
is_in_force(const TruckerMember *member)
{
	return member->former && member->former->in_force;
}

/* ----
 * What a truck needs
 * ----
 */

/* The table's columns as its SQL was compiled for them: as trucker.columns_made_of() has them. */
static char *
made_of(const TruckerRelation *relation)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, i);

		if (!attr->attisdropped)
			appendStringInfo(&text, "%s%d %s", text.len > 0 ? "," : "", attr->attnum, NameStr(attr->attname));
	}
	return text.data;
}

/* Of each input that has been loaded (TruckerColumnNeed *), by the SQL that has been compiled. */
static List *
needs_of(const TruckerMember *member)
{
	const TruckerPipeline *pipeline = member->pipeline;
	List	   *result = NIL;

	for (int i = 0; i < pipeline->ninputs; i++)
	{
		const TruckerInput *input = &pipeline->inputs[i];
		TruckerColumnNeed *need;
		TruckerNeeds *needs;

		if (list_member_oid(member->unloaded, input->relid))
			continue;
		need = palloc0(sizeof(TruckerColumnNeed));
		needs = trucker_needs_create();
		trucker_pipeline_add_needs(pipeline, input->relid, needs);
		need->relid = input->relid;
		need->attnums = needs->all ? NULL : bms_union(needs->columns, needs->identity);
		need->made_of = input->program ? made_of(input->program->relation) : "";
		result = lappend(result, need);
	}
	return result;
}

/* ----
 * Steps, in a transaction that has locked the publications
 * ----
 */

/* May this process decide about the truck: has nobody altered it, or is about to? */
static bool
lock(const TruckerStream *stream, const TruckerMember *member)
{
	return trucker_state_lock_truck(&member->truck_id, &stream->id) &&
		trucker_catalog_write("SELECT FROM trucker.truck WHERE id = $1 AND xmin::text = $2",
							  &member->truck_id, member->truck->version, SPI_OK_SELECT) > 0;
}

static void
reload(Arrangement *arrangement, TruckerMember *member)
{
	arrangement->reloaded = lappend(arrangement->reloaded, member);
}

/* Step 2, or what follows from it. */
static void
decide(Arrangement *arrangement, TruckerMember *member)
{
	List	   *needs = needs_of(member);
	XLogRecPtr	position = trucker_position_confirmable(member->position);
	bool		covered = true;
	bool		known = true;
	ListCell   *lc;

	if (!lock(arrangement->stream, member))
		return;
	foreach(lc, needs)
	{
		covered = covered && (trucker_column_need_covers(&member->truck_id, lfirst(lc)) ||
							  trucker_column_list_carries(arrangement->publication, lfirst(lc), position));
		known = known && trucker_column_need_wants_of(&member->truck_id, lfirst(lc));
	}
	if (is_undecided(member) && !covered)
	{
		foreach(lc, needs)
			trucker_column_need_want(&member->truck_id, lfirst(lc));
		trucker_former_set_in_force(&member->truck_id, true);
		reload(arrangement, member);
		return;
	}
	if (is_in_force(member) && !known)
	{
		/* a table has been altered: what the new definition reads of it must be found out again */
		trucker_former_set_in_force(&member->truck_id, false);
		reload(arrangement, member);
		return;
	}
	if (!is_in_force(member))
	{
		trucker_former_forget(&member->truck_id);
		trucker_column_need_unwant(&member->truck_id);
	}
	foreach(lc, needs)
		trucker_column_need_set(&member->truck_id, lfirst(lc));
	arrangement->arranged = lappend(arrangement->arranged, member);
}

/* Step 5: all that commits before the new definition takes effect has been applied. */
static void
finish(Arrangement *arrangement, TruckerMember *member)
{
	if (!lock(arrangement->stream, member))
		return;
	trucker_column_need_take_wanted(&member->truck_id);
	trucker_former_forget(&member->truck_id);
	reload(arrangement, member);
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
			(errmsg("truck \"%s\": its new definition takes effect at %X/%X", member->truck->name,
					LSN_FORMAT_ARGS(member->former->switches_at)), errhidecontext(true)));
}

static bool
is_past(const TruckerMember *member, XLogRecPtr applied)
{
	return is_in_force(member) && !XLogRecPtrIsInvalid(member->former->switches_at) &&
		applied >= member->former->switches_at;
}

static void
begin(MemoryContext context)
{
	TruckerCatalog access;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	trucker_catalog_begin(&access);
	trucker_publication_lock_all();
	trucker_catalog_end(&access);
}

static void
commit(MemoryContext context)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	XLogFlush(XactLastCommitEnd);
	MemoryContextSwitchTo(context);
}

/* From where on is what is published sent for certain?  The first look may only note when to look. */
static void
settle_twice(const char *publication)
{
	trucker_publication_settle(publication);
	trucker_publication_settle(publication);
}

/* Steps 2 and 3, and step 5 for those that had come so far when something ended. */
static bool
arrange(void *arg)
{
	Arrangement *arrangement = arg;
	MemoryContext context = CurrentMemoryContext;
	ListCell   *lc;

	/* what is published now can then be relied upon before a truck that needs it is altered */
	settle_twice(arrangement->publication);
	begin(context);
	foreach(lc, arrangement->stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active || !member->compiled || member->arranged)
			continue;
		if (is_past(member, trucker_position_confirmable(member->position)))
			finish(arrangement, member);
		else
			decide(arrangement, member);
	}
	trucker_column_list_adapt(arrangement->publication);
	commit(context);
	trucker_stop_point("columns arranged");
	return true;
}

static bool
finish_past(void *arg)
{
	Arrangement *arrangement = arg;
	MemoryContext context = CurrentMemoryContext;
	ListCell   *lc;

	begin(context);
	foreach(lc, arrangement->stream->members)
		if (((TruckerMember *) lfirst(lc))->active && is_past(lfirst(lc), arrangement->stream->applied))
			finish(arrangement, lfirst(lc));
	trucker_stop_point("definition switches");
	commit(context);
	trucker_stop_point("definition switched");
	return true;
}

/* What has been committed is true of the members in memory, too. */
static bool
take_over(Arrangement *arrangement)
{
	ListCell   *lc;

	foreach(lc, arrangement->arranged)
	{
		TruckerMember *member = lfirst(lc);

		member->arranged = true;
		if (!is_in_force(member))
			member->former = NULL;
	}
	foreach(lc, arrangement->reloaded)
		((TruckerMember *) lfirst(lc))->gone = true;
	/* a probe that came meanwhile, to take out what nobody reads any more, has not waited for our locks */
	if (arrangement->arranged != NIL || arrangement->reloaded != NIL)
		trucker_request_scan(MyDatabaseId);
	return arrangement->reloaded != NIL;
}

/* ----
 * Step 4
 * ----
 */

/* Does a truck wait for it? */
bool
trucker_redefine_is_waiting(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		const TruckerMember *member = lfirst(lc);

		if (member->active && is_in_force(member) && XLogRecPtrIsInvalid(member->former->switches_at))
			return true;
	}
	return false;
}

static bool
settle(void *arg)
{
	Arrangement *arrangement = arg;
	MemoryContext context = CurrentMemoryContext;
	ListCell   *lc;

	settle_twice(arrangement->publication);
	begin(context);
	/* tables that were locked when their lists should have become longer */
	trucker_column_list_adapt(arrangement->publication);
	foreach(lc, arrangement->stream->members)
	{
		TruckerMember *member = lfirst(lc);
		XLogRecPtr	lsn;

		if (!is_in_force(member) || !XLogRecPtrIsInvalid(member->former->switches_at))
			continue;
		lsn = trucker_column_list_usable(arrangement->publication, member->truck);
		if (XLogRecPtrIsInvalid(lsn) || !lock(arrangement->stream, member))
			continue;
		trucker_former_set_switch(&member->truck_id, lsn);
		arrangement->arranged = lappend(arrangement->arranged, member);
		member->truck->former_until = lsn;
	}
	commit(context);
	return true;
}

/* The first of the LSNs in front of which the pass must end; 0: there is none. */
static void
find_limit(TruckerStream *stream)
{
	ListCell   *lc;

	stream->switch_lsn = InvalidXLogRecPtr;
	foreach(lc, stream->members)
	{
		const TruckerMember *member = lfirst(lc);

		if (!member->active || !is_in_force(member) || XLogRecPtrIsInvalid(member->former->switches_at))
			continue;
		if (XLogRecPtrIsInvalid(stream->switch_lsn) || member->former->switches_at < stream->switch_lsn)
			stream->switch_lsn = member->former->switches_at;
	}
}

/* Between batches: find out where new definitions take effect, if trucks wait for that. */
void
trucker_redefine_settle(TruckerStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();
	Arrangement arrangement = {stream, stream->row->publication, NIL, NIL};
	ListCell   *lc;

	if (now < stream->settle_at || !trucker_redefine_is_waiting(stream))
		return;
	stream->settle_at = TimestampTzPlusMilliseconds(now, SETTLE_CHECK_MS);
	if (!trucker_catalog_try(settle, &arrangement))
		return;
	foreach(lc, arrangement.arranged)
	{
		TruckerMember *member = lfirst(lc);

		member->former->switches_at = member->truck->former_until;
	}
	find_limit(stream);
}

/* ----
 * The stream's view
 * ----
 */

/* By a plugin that sends all columns a truck runs its new definition at once. */
static void
tidy(TruckerStream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	TruckerSlotInfo info;
	ListCell   *lc;

	if (trucker_slot_find(stream->row->slot_name, &info) < 0)
		return;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active || !member->tidies)
			continue;
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (lock(stream, member))
		{
			trucker_former_forget(&member->truck_id);
			trucker_column_need_forget(&member->truck_id);
			member->tidies = false;
		}
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
	}
}

static bool
all_are_arranged(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (((TruckerMember *) lfirst(lc))->active && !((TruckerMember *) lfirst(lc))->arranged)
			return false;
	return true;
}

/*
 * Before a pass, when the active trucks' SQL has been compiled: write down what they need,
 * let the publications hold that, and find out by which definition trucks are to be run
 * that have been altered.  True: some must be loaded anew for that, or this process shall end.
 */
bool
trucker_redefine_arrange(TruckerStream *stream)
{
	const char *publication = trucker_switch_publication(stream->row);
	Arrangement arrangement = {stream, publication, NIL, NIL};
	ListCell   *lc;

	if (publication == NULL)
	{
		tidy(stream);
		return false;
	}
	if (!all_are_arranged(stream))
	{
		if (trucker_catalog_try(arrange, &arrangement) && take_over(&arrangement))
			return true;
	}
	/* that was what cancelled it: no connection may be opened now to a database that is being dropped */
	if (trucker_worker_must_end())
		return true;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (!member->active || !is_undecided(member))
			continue;
		trucker_member_set_aside(member);
		member->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), UNDECIDED_MS);
		stream->nactive--;
	}
	stream->settle_at = 0;
	trucker_redefine_settle(stream);
	find_limit(stream);
	return false;
}

/* After a pass, while the active trucks are those that it had. */
void
trucker_redefine_end_pass(TruckerStream *stream)
{
	Arrangement arrangement = {stream, NULL, NIL, NIL};
	bool		any = false;
	ListCell   *lc;

	stream->switch_lsn = InvalidXLogRecPtr;
	foreach(lc, stream->members)
		any |= ((TruckerMember *) lfirst(lc))->active && is_past(lfirst(lc), stream->applied);
	if (any && trucker_catalog_try(finish_past, &arrangement))
		(void) take_over(&arrangement);
}

/*
 * Between batches: can lists be made again that have been taken away when tables were
 * altered, or can be written down what could not be before?  True: another pass is called
 * for, with SQL that has been compiled anew.
 */
bool
trucker_redefine_is_due(TruckerStream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	bool		due;
	ListCell   *lc;

	if (!stream->decoder->needs_publication || now < stream->lists_at)
		return false;
	due = !all_are_arranged(stream);
	if (!due && !trucker_tables_were_altered(stream))
		return false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	due = due || trucker_column_list_is_due(stream->row->publication, &stream->id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (!due)
		return false;
	/* a table that is locked, or a truck that fails, may leave it so for long */
	stream->lists_at = TimestampTzPlusMilliseconds(now, LISTS_CHECK_MS);
	foreach(lc, stream->members)
		((TruckerMember *) lfirst(lc))->compiled = false;
	return true;
}
