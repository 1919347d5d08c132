/*
 * written.c
 *	  Which tables the open batch writes; and that no loop of trucks is closed.
 *
 * trucker.output_table says which tables each truck writes: those that its plans
 * show when it is started, and those that its batches are then seen to write, in
 * functions, triggers, rules and cascades.  When a stopped truck is started, its
 * rows are replaced by what the plans show: what it wrote once and writes no more
 * must not be held against it for ever, and what hides is found again.
 *
 * There is no loop of trucks that are enabled.  To close one, a truck must be
 * enabled, or write what it has not written before.  The transaction that does this
 * looks twice.  First at once, while the error's context still shows the SQL that
 * is to blame.  Then right before its commit, under a lock that it keeps until it
 * has committed: of two that close a loop together, the second sees the first.
 * Nobody waits for anything while holding that lock but for the end of the commit,
 * so it makes no deadlock, and an open transaction that has called start() holds up
 * nobody.  (A commit of start() that waits for a synchronous standby does hold up
 * others' first writes; while the standby is away, the application waits likewise.)
 *
 * A truck writes the same tables again and again: a worker remembers them for an
 * attempt, and for these a write costs one look into a hash table.  When one of
 * them is altered, which may make it a partition of what somebody reads, the next
 * write looks again.
 *
 * What is rolled back to a savepoint has not been written.  It matters: else SQL
 * that may not write a table could pretend to, and so keep from starting the
 * trucks of others.
 *
 * Not seen is what SQL makes other sessions write (dblink, postgres_fdw).
 *
 * What nobody reads need not be decoded.  Every stream's walsender goes over the
 * WAL of all that trucks write, and a backfill's one transaction of millions of
 * rows would hold up each for seconds, only to be thrown away.  So a batch's
 * changes bear the origin DoNotReplicateId, which wal2json is told to filter,
 * until it writes a table that some truck reads: from then on they bear none.  The
 * look at who reads a table must not be out of date: a truck that is created makes
 * all workers look again, and since the batch has a transaction id by then, a slot
 * that is made after the look comes to its consistent point only after the batch.
 * Where pgoutput decodes nothing is gained by that, as the one of PostgreSQL 15 can filter
 * no origin; and one that sends transactions while they run looks up the name of theirs, which
 * an Assert there does not allow for this one.
 */
#include "trucker.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "lib/ilist.h"
#include "replication/origin.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "lineage.h"
#include "written.h"

/* ----
 * What a batch writes
 * ----
 */

typedef struct WrittenTable
{
	Oid			relid;			/* hash key */
	bool		checked;		/* closes no loop, and has not been altered since that was seen */
	bool		read;			/* by some truck */
	bool		covered;		/* is a partition of another one of these: needs no row of its own */
	SubTransactionId since;		/* which has written it; invalid if the catalog says so */
} WrittenTable;

struct TruckerWritten
{
	const TruckerTruck *truck;
	HTAB	   *tables;
	bool		unsettled;		/* there are tables that the open transaction has added */
	dlist_node	node;			/* in all_written */
	MemoryContextCallback on_reset;
};

/* all there are in this process, and whose batch is open */
static dlist_head all_written = DLIST_STATIC_INIT(all_written);
static TruckerWritten *open_batch = NULL;

/* has a batch written what some truck reads, and is that truck waiting for it? */
static bool is_awaited = false;

/* trucks (pg_uuid_t *) that this transaction starts */
static List *starting = NIL;

/* goes up with each table that is altered */
static uint64 alterations = 0;

/* trucker.output_table: "altered" by whoever changes what trucks read */
static Oid	output_table = InvalidOid;

/*
 * Are changes of this kind of table of any interest?  Temporary tables, often made
 * anew by each run, are not even remembered.
 */
static bool
is_of_interest(Oid relid)
{
	switch (get_rel_relkind(relid))
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
			break;
		default:
			return false;
	}
	return relid >= FirstNormalObjectId &&
		get_rel_persistence(relid) != RELPERSISTENCE_TEMP &&
		get_rel_namespace(relid) != get_namespace_oid(TRUCKER_SCHEMA, true);
}

static WrittenTable *
find_table(Oid relid)
{
	return hash_search(open_batch->tables, &relid, HASH_FIND, NULL);
}

/* A table that the truck writes, too, and that this one is a partition of. */
static WrittenTable *
find_whole(Oid relid)
{
	ListCell   *lc;

	if (!get_rel_relispartition(relid))
		return NULL;
	foreach(lc, get_partition_ancestors(relid))
	{
		WrittenTable *whole = find_table(lfirst_oid(lc));

		if (whole != NULL && !whole->covered)
			return whole;
	}
	return NULL;
}

/* A table that has not been written before in this attempt, or has been altered since. */
static void
look_at(Oid relid)
{
	uint64		seen = alterations;
	WrittenTable *whole = find_whole(relid);
	WrittenTable *table = find_table(relid);
	bool		unknown = true;

	if (whole == NULL)
		unknown = trucker_lineage_check_write(&open_batch->truck->id, list_make1_oid(relid)) != NIL;
	else if (!whole->checked)
		look_at(whole->relid);

	if (table != NULL && table->covered && whole == NULL)
		table = NULL;			/* has been detached, and counts by itself now */
	if (table == NULL)
	{
		table = hash_search(open_batch->tables, &relid, HASH_ENTER, NULL);
		table->since = unknown ? GetCurrentSubTransactionId() : InvalidSubTransactionId;
		table->covered = whole != NULL;
		/* should the next look fail, the entry outlives the batch if it is the catalog's */
		table->checked = table->read = false;
		open_batch->unsettled |= unknown;
	}
	table->read = trucker_lineage_is_read(relid);
	/* if something was altered while we were looking, look again next time */
	table->checked = seen == alterations;
}

/* Is it a truck's SQL that runs here, so that what it writes should be noted? */
bool
trucker_written_in_batch(void)
{
	return open_batch != NULL;
}

/* The open batch's changes are to be decoded from now on. */
void
trucker_written_show(void)
{
	if (open_batch)
		replorigin_session_origin = InvalidRepOriginId;
}

/* The open batch is about to write this table. */
void
trucker_written_note(Oid relid)
{
	WrittenTable *table;

	if (replorigin_session_origin != InvalidRepOriginId)
	{
		(void) GetCurrentTransactionId();
		AcceptInvalidationMessages();
	}
	table = find_table(relid);
	if (table == NULL ? is_of_interest(relid) : !table->checked)
	{
		look_at(relid);
		table = find_table(relid);
	}
	if (table && table->read)
	{
		trucker_written_show();
		is_awaited = true;
	}
}

/*
 * Have batches of this process written what another truck reads?  It gets to see
 * them when they are flushed, so with nothing else to do one should see to that.
 * Asking forgets it.
 */
bool
trucker_written_is_awaited(void)
{
	bool		awaited = is_awaited;

	is_awaited = false;
	return awaited;
}

/* ----
 * The end of a transaction
 * ----
 */

/* The truck's batch is about to commit: record what it has written for the first time. */
static void
record_outputs(void)
{
	HASH_SEQ_STATUS scan;
	WrittenTable *table;
	List	   *added = NIL;

	hash_seq_init(&scan, open_batch->tables);
	while ((table = hash_seq_search(&scan)) != NULL)
		if (table->since != InvalidSubTransactionId && !table->covered)
			added = lappend_oid(added, table->relid);
	if (added == NIL)
		return;
	trucker_lineage_lock();
	added = trucker_lineage_check_write(&open_batch->truck->id, added);
	trucker_state_set_outputs(&open_batch->truck->id, added, false);
}

/*
 * What a (sub)transaction has added to the tables is now its parent's, or, with an
 * invalid parent, the catalog's; or it has never been.
 */
static void
settle(SubTransactionId subid, bool committed, SubTransactionId parent)
{
	HASH_SEQ_STATUS scan;
	WrittenTable *table;

	if (open_batch == NULL || !open_batch->unsettled)
		return;
	hash_seq_init(&scan, open_batch->tables);
	while ((table = hash_seq_search(&scan)) != NULL)
	{
		if (table->since != subid)
			continue;
		if (committed)
			table->since = parent;
		else
			(void) hash_search(open_batch->tables, &table->relid, HASH_REMOVE, NULL);
	}
}

static void
end_transaction(bool committed)
{
	settle(TopSubTransactionId, committed, InvalidSubTransactionId);
	if (open_batch)
		open_batch->unsettled = false;
	if (open_batch)
		replorigin_session_origin = InvalidRepOriginId;
	open_batch = NULL;
	list_free_deep(starting);
	starting = NIL;
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (open_batch && open_batch->unsettled)
				record_outputs();
			if (starting != NIL)
			{
				/* others may have been started in the meantime */
				trucker_lineage_lock();
				trucker_lineage_check_start(starting);
			}
			break;
		case XACT_EVENT_COMMIT:
			end_transaction(true);
			break;
		case XACT_EVENT_ABORT:
			end_transaction(false);
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		settle(subid, true, parent);
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		settle(subid, false, parent);
}

/* Tables have been altered: this one, or any. */
static void
relcache_callback(Datum arg, Oid relid)
{
	dlist_iter	iter;

	alterations++;
	dlist_foreach(iter, &all_written)
	{
		TruckerWritten *written = dlist_container(TruckerWritten, node, iter.cur);
		HASH_SEQ_STATUS scan;
		WrittenTable *table;

		if (OidIsValid(relid) && relid != output_table)
		{
			table = hash_search(written->tables, &relid, HASH_FIND, NULL);
			if (table)
				table->checked = false;
			continue;
		}
		hash_seq_init(&scan, written->tables);
		while ((table = hash_seq_search(&scan)) != NULL)
			table->checked = false;
	}
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	registered = true;
}

/* ----
 * Workers, and start()
 * ----
 */

static void
forget_written(void *arg)
{
	TruckerWritten *written = arg;

	dlist_delete(&written->node);
	if (open_batch == written)
		open_batch = NULL;
}

/* For a worker's attempt.  Lives as long as the context, and keeps the truck. */
TruckerWritten *
trucker_written_create(const TruckerTruck *truck, MemoryContext context)
{
	TruckerWritten *written = MemoryContextAllocZero(context, sizeof(TruckerWritten));
	HASHCTL		ctl;

	register_callbacks();
	output_table = get_relname_relid("output_table", get_namespace_oid(TRUCKER_SCHEMA, false));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(WrittenTable);
	ctl.hcxt = context;
	written->truck = truck;
	written->tables = hash_create("trucker written tables", 16, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	dlist_push_tail(&all_written, &written->node);
	written->on_reset.func = forget_written;
	written->on_reset.arg = written;
	MemoryContextRegisterResetCallback(context, &written->on_reset);
	return written;
}

/* From now on until the end of the transaction, the truck's SQL is what runs. */
void
trucker_written_begin(TruckerWritten *written)
{
	open_batch = written;
	if (trucker_hide_writes && trucker_output_plugin == TRUCKER_PLUGIN_WAL2JSON)
		replorigin_session_origin = DoNotReplicateId;
}

/* This transaction changes what trucks read: workers shall look again when it has committed. */
void
trucker_written_readers_changed(void)
{
	CacheInvalidateRelcacheByRelid(get_relname_relid("output_table", get_namespace_oid(TRUCKER_SCHEMA, false)));
}

/* Without partitions of what is in the list as well. */
static List *
wholes(List *relids)
{
	List	   *result = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);
		bool		covered = false;

		foreach(lc2, get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL)
			covered |= list_member_oid(relids, lfirst_oid(lc2));
		if (!covered && is_of_interest(relid))
			result = lappend_oid(result, relid);
	}
	return result;
}

/*
 * The truck is being started, in a session's transaction that has enabled it; its
 * plans write these tables (Oid).  Raises an error if that closes a loop, now or
 * at commit.
 */
void
trucker_written_start(const TruckerTruck *truck, List *planned, bool was_stopped)
{
	MemoryContext old;
	pg_uuid_t  *id;

	register_callbacks();
	trucker_state_set_outputs(&truck->id, wholes(planned), was_stopped);

	old = MemoryContextSwitchTo(TopMemoryContext);
	id = palloc(sizeof(pg_uuid_t));
	*id = truck->id;
	starting = lappend(starting, id);
	MemoryContextSwitchTo(old);
	trucker_lineage_check_start(list_make1(id));
}
