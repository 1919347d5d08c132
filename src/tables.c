/*
 * tables.c
 *	  The input tables of a stream's trucks, as the output plugin names them.
 *
 * What a change costs depends on how many trucks read its table, not on how many
 * there are: the table is found by name in a hash table, and knows its readers.
 *
 * A name means what it meant where the change was recorded.  An input may have had
 * several names, and consist of many tables with names of their own, its partitions;
 * and a name may have been one table's first and another one's later.  So to each
 * name belong spans: that table, from this LSN on, until its next span begins.
 * input_ddl.c says why that is exact, and where the LSNs come from.
 *
 * A plugin that sends OIDs (pgoutput, which need not be right about the name of a schema
 * that was renamed) spares all that, but for one thing: from where to where in the WAL a
 * table was a partition of an input.  So spans are found by OID as well.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "deadlock.h"
#include "publication.h"
#include "slots.h"
#include "stream.h"

typedef struct NameKey
{
	char		schema[NAMEDATALEN];
	char		table[NAMEDATALEN];
} NameKey;

typedef struct NameEntry
{
	NameKey		key;			/* must be first */
	TruckerSpan *spans;
} NameEntry;

typedef struct LeafEntry
{
	Oid			relid;			/* must be first */
	TruckerSpan *spans;
} LeafEntry;

/* goes up with each schema that is altered, and each table that belongs to an input of this pass */
static uint64 alterations = 1;
static HTAB *watched = NULL;

static void
relcache_changed(Datum arg, Oid relid)
{
	/* between passes nobody knows which tables matter */
	if (!OidIsValid(relid) || watched == NULL || hash_search(watched, &relid, HASH_FIND, NULL))
		alterations++;
}

static void
schema_changed(Datum arg, int cache_id, uint32 hash_value)
{
	alterations++;
}

static void
forget_watched(void *arg)
{
	watched = NULL;
}

/* In the current memory context, as long as it lives. */
static void
watch_tables(void)
{
	static bool registered = false;
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(Oid), .hcxt = CurrentMemoryContext};
	MemoryContextCallback *on_reset = palloc(sizeof(MemoryContextCallback));

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
	}
	registered = true;
	on_reset->func = forget_watched;
	on_reset->arg = NULL;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, on_reset);
	watched = hash_create("trucker watched tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
make_key(NameKey *key, const char *schema, const char *table)
{
	memset(key, 0, sizeof(*key));
	strlcpy(key->schema, schema, NAMEDATALEN);
	strlcpy(key->table, table, NAMEDATALEN);
}

/* ----
 * Building
 * ----
 */

/* The names (TruckerInputName *) of one input, in a form that can be compared. */
static char *
history_of(List *names)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, names)
	{
		const TruckerInputName *name = lfirst(lc);

		appendStringInfo(&text, "%u " UINT64_FORMAT " " UINT64_FORMAT " " UINT64_FORMAT, name->leaf,
						 name->named_lsn, name->named_by, name->commit_lsn);
		if (name->table)
			appendStringInfo(&text, " %zu %s %s", strlen(name->schema), name->schema, name->table);
		appendStringInfoChar(&text, '\n');
	}
	return text.data;
}

static void
add_span(TruckerStream *stream, TruckerTable *table, TruckerSpan *span, const TruckerInputName *name)
{
	NameEntry  *entry;
	LeafEntry  *leaf;
	NameKey		key;
	bool		found;

	(void) hash_search(watched, &name->leaf, HASH_ENTER, NULL);
	span->number = table->number;
	span->leaf = name->leaf == name->relid ? InvalidOid : name->leaf;
	span->named_lsn = name->named_lsn;
	span->named_by = name->named_by;
	span->commit_lsn = name->commit_lsn;
	if (name->table == NULL)
		return;
	make_key(&key, name->schema, name->table);
	entry = hash_search(stream->tables_by_name, &key, HASH_ENTER, &found);
	span->same_name = found ? entry->spans : NULL;
	entry->spans = span;
	leaf = hash_search(stream->tables_by_oid, &name->leaf, HASH_ENTER, &found);
	span->same_leaf = found ? leaf->spans : NULL;
	leaf->spans = span;
}

/* An input whose names have not occurred in this pass. */
static TruckerTable *
add_table(TruckerStream *stream, Oid relid, char *history, List *names)
{
	TruckerTable *table = palloc0(sizeof(TruckerTable));
	TruckerSpan *spans = palloc0(list_length(names) * sizeof(TruckerSpan));
	int			i = 0;
	Oid			last = InvalidOid;
	ListCell   *lc;

	table->relid = relid;
	table->history = history;
	table->number = list_length(stream->tables);
	stream->tables = lappend(stream->tables, table);
	foreach(lc, names)
	{
		const TruckerInputName *name = lfirst(lc);

		add_span(stream, table, &spans[i], name);
		/* they are sorted: the next one of the same table ends it */
		if (name->leaf == last)
			spans[i - 1].ended_by = &spans[i];
		last = name->leaf;
		i++;
	}
	return table;
}

/*
 * Trucks that know the same of an input share its changes.  (They may not: one that
 * has begun later does not know of earlier names.)
 */
static TruckerTable *
table_for(TruckerStream *stream, Oid relid, List *names)
{
	char	   *history = history_of(names);
	ListCell   *lc;

	foreach(lc, stream->tables)
	{
		TruckerTable *table = lfirst(lc);

		if (table->relid == relid && strcmp(table->history, history) == 0)
			return table;
	}
	return add_table(stream, relid, history, names);
}

static void
add_reader(TruckerStream *stream, TruckerMember *member, List *names)
{
	const TruckerInputName *name = linitial(names);
	TruckerTable *table = table_for(stream, name->relid, names);
	TruckerReader *reader = palloc(sizeof(TruckerReader));

	reader->member = member;
	reader->relid = name->relid;
	reader->from_lsn = name->from_lsn;
	table->readers = lappend(table->readers, reader);
	member->tables[member->ntables++] = table->number;
}

static void
add_readers(TruckerStream *stream, TruckerMember *member)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, member->names)
	{
		TruckerInputName *name = lfirst(lc);

		if (names != NIL && ((TruckerInputName *) linitial(names))->relid != name->relid)
		{
			add_reader(stream, member, names);
			names = NIL;
		}
		names = lappend(names, name);
	}
	if (names != NIL)
		add_reader(stream, member, names);
}

/* Find the tables of the active trucks, for one pass, in the current memory context. */
void
trucker_tables_build(TruckerStream *stream)
{
	HASHCTL		ctl = {.keysize = sizeof(NameKey), .entrysize = sizeof(NameEntry), .hcxt = CurrentMemoryContext};
	HASHCTL		by_oid = {.keysize = sizeof(Oid), .entrysize = sizeof(LeafEntry), .hcxt = CurrentMemoryContext};
	ListCell   *lc;

	watch_tables();
	stream->tables_by_name = hash_create("trucker input tables", 64, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	stream->tables_by_oid = hash_create("trucker input tables by OID", 64, &by_oid,
										HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	stream->tables = NIL;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		member->ntables = 0;
		member->tables = palloc(Max(list_length(member->names), 1) * sizeof(int));
		if (member->active)
			add_readers(stream, member);
	}
}

/* Has a partition, as far as the input has columns, the same ones in the same places? */
static bool
is_alike(Oid input, Oid leaf)
{
	for (AttrNumber attnum = 1;; attnum++)
	{
		HeapTuple	whole = SearchSysCache2(ATTNUM, ObjectIdGetDatum(input), Int16GetDatum(attnum));
		HeapTuple	part = SearchSysCache2(ATTNUM, ObjectIdGetDatum(leaf), Int16GetDatum(attnum));
		bool		is_end = !HeapTupleIsValid(whole);
		bool		same = is_end;

		if (HeapTupleIsValid(whole) && HeapTupleIsValid(part))
			same = strcmp(NameStr(((Form_pg_attribute) GETSTRUCT(whole))->attname),
						  NameStr(((Form_pg_attribute) GETSTRUCT(part))->attname)) == 0;
		if (HeapTupleIsValid(whole))
			ReleaseSysCache(whole);
		if (HeapTupleIsValid(part))
			ReleaseSysCache(part);
		if (is_end || !same)
			return same && attnum > 1;
	}
}

/*
 * What do the active trucks need, of each table and of all?  When their SQL has been
 * compiled, outside any transaction, in the current memory context.
 */
void
trucker_tables_find_needs(TruckerStream *stream, TruckerDecodeRequest *request)
{
	MemoryContext context = CurrentMemoryContext;
	HASH_SEQ_STATUS scan;
	NameEntry  *entry;
	ListCell   *lc;
	ListCell   *lc2;

	request->no_updates = request->no_truncates = true;
	foreach(lc, stream->tables)
	{
		TruckerTable *table = lfirst(lc);

		table->needs = trucker_needs_create();
		foreach(lc2, table->readers)
		{
			TruckerReader *reader = lfirst(lc2);
			const TruckerTruck *truck = reader->member->truck;

			trucker_pipeline_add_needs(reader->member->pipeline, reader->relid, table->needs);
			request->no_updates &= truck->inserts_only;
			/* net changes must not be merged over one */
			request->no_truncates &= truck->on_truncate == TRUCKER_TRUNCATE_IGNORE && !truck->net;
		}
	}

	/* the catalog says what partitions are like; their attnums never change */
	StartTransactionCommand();
	hash_seq_init(&scan, stream->tables_by_name);
	while ((entry = hash_seq_search(&scan)) != NULL)
		for (TruckerSpan *span = entry->spans; span != NULL; span = span->same_name)
		{
			TruckerTable *table = list_nth(stream->tables, span->number);

			span->alike = !OidIsValid(span->leaf) ||
				(!table->needs->all && is_alike(table->relid, span->leaf));
		}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* The truck leaves the stream: its tables have one reader less. */
void
trucker_tables_forget(TruckerStream *stream, const TruckerMember *member)
{
	ListCell   *table;

	if (stream->pass_context == NULL)
		return;
	foreach(table, stream->tables)
	{
		TruckerTable *t = lfirst(table);
		ListCell   *lc;

		foreach(lc, t->readers)
			if (((TruckerReader *) lfirst(lc))->member == member)
				t->readers = foreach_delete_current(t->readers, lc);
	}
}

/* ----
 * Finding
 * ----
 */

/* Had the span's table got its name when this change was recorded? */
static bool
has_begun(const TruckerSpan *span, const TruckerMessage *change, TransactionId xid)
{
	if (span->named_by == 0 || (TransactionId) span->named_by == xid)
		return change->lsn >= span->named_lsn;
	return !XLogRecPtrIsInvalid(span->commit_lsn) && change->lsn >= span->commit_lsn;
}

static bool
is_in_force(const TruckerSpan *span, const TruckerMessage *change, TransactionId xid)
{
	return has_begun(span, change, xid) && (span->ended_by == NULL || !has_begun(span->ended_by, change, xid));
}

static TruckerSpan *
next_of(const TruckerSpan *span, const TruckerMessage *change)
{
	return OidIsValid(change->relid) ? span->same_leaf : span->same_name;
}

static TruckerSpan *
first_in_force(TruckerSpan *span, const TruckerMessage *change, TransactionId xid)
{
	while (span && !is_in_force(span, change, xid))
		span = next_of(span, change);
	return span;
}

/*
 * What a change of this source transaction is a change of: an input, or a partition of
 * one; NULL: no active truck reads it.  It may be several: trucker_tables_next().
 */
TruckerSpan *
trucker_tables_find(const TruckerStream *stream, const TruckerMessage *change, TransactionId xid)
{
	NameEntry  *entry;
	NameKey		key;

	if (OidIsValid(change->relid))
	{
		LeafEntry  *leaf = hash_search(stream->tables_by_oid, &change->relid, HASH_FIND, NULL);

		return leaf ? first_in_force(leaf->spans, change, xid) : NULL;
	}
	make_key(&key, change->schema, change->table);
	entry = hash_search(stream->tables_by_name, &key, HASH_FIND, NULL);
	return entry ? first_in_force(entry->spans, change, xid) : NULL;
}

TruckerSpan *
trucker_tables_next(const TruckerSpan *span, const TruckerMessage *change, TransactionId xid)
{
	return first_in_force(next_of(span, change), change, xid);
}

static bool
is_among(const TruckerMessage *truncates, Oid relid)
{
	while (truncates && truncates->relid != relid)
		truncates = truncates->also;
	return truncates != NULL;
}

/*
 * pgoutput tells which partitions a TRUNCATE has emptied, and not of which table.  It was
 * the whole input if it was all of its partitions: returns a message (TruckerMessage *)
 * for each of these.
 */
List *
trucker_tables_truncated(const TruckerStream *stream, const TruckerMessage *truncates, TransactionId xid)
{
	MemoryContext context = CurrentMemoryContext;
	int			n = list_length(stream->tables);
	int		   *missing = palloc0(Max(n, 1) * sizeof(int));
	int		   *emptied = palloc0(Max(n, 1) * sizeof(int));
	List	   *relids = NIL;
	List	   *messages = NIL;
	bool		outside = !IsTransactionState();	/* no batch is open */
	HASH_SEQ_STATUS scan;
	LeafEntry  *entry;

	if (outside)
		StartTransactionCommand();
	MemoryContextSwitchTo(context);
	hash_seq_init(&scan, stream->tables_by_oid);
	while ((entry = hash_seq_search(&scan)) != NULL)
		for (const TruckerSpan *span = entry->spans; span != NULL; span = span->same_leaf)
		{
			/* what is partitioned itself has no rows, and is not told of */
			if (!OidIsValid(span->leaf) || !is_in_force(span, truncates, xid) ||
				get_rel_relkind(span->leaf) == RELKIND_PARTITIONED_TABLE)
				continue;
			if (is_among(truncates, span->leaf))
				emptied[span->number]++;
			else
				missing[span->number]++;
		}
	if (outside)
		CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	for (int i = 0; i < n; i++)
	{
		TruckerTable *table = list_nth(stream->tables, i);
		TruckerMessage *message;

		if (emptied[i] == 0 || missing[i] > 0 || list_member_oid(relids, table->relid))
			continue;
		relids = lappend_oid(relids, table->relid);
		message = palloc(sizeof(TruckerMessage));
		*message = *truncates;
		message->relid = table->relid;
		message->also = NULL;
		messages = lappend(messages, message);
	}
	return messages;
}

/* The tables' names as the decoder wants them. */
List *
trucker_tables_names(const TruckerStream *stream)
{
	List	   *names = NIL;
	HASH_SEQ_STATUS scan;
	NameEntry  *entry;

	hash_seq_init(&scan, stream->tables_by_name);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		TruckerTableName *name = palloc(sizeof(TruckerTableName));

		name->schema = entry->key.schema;
		name->table = entry->key.table;
		names = lappend(names, name);
	}
	return names;
}

/* The OIDs of all that a truck reads. */
List *
trucker_tables_inputs(const TruckerTruck *truck)
{
	List	   *relids = NIL;

	for (int i = 0; i < truck->ninputs; i++)
		relids = lappend_oid(relids, truck->inputs[i]);
	return relids;
}

/*
 * Lock inputs (Oid) before their names are read and written down: who alters one now must
 * see what is written, or be seen.
 */
void
trucker_tables_lock(const List *relids)
{
	ListCell   *lc;

	trucker_give_way_in_deadlocks(true);
	foreach(lc, relids)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	trucker_give_way_in_deadlocks(false);
}

/*
 * The OIDs of what a truck reads and has no name (TruckerInputName *) for: inputs
 * that were added to it, and have yet to be loaded.  Names of what it does not read
 * are taken off the list.
 */
List *
trucker_tables_unloaded(const TruckerTruck *truck, List **names)
{
	List	   *inputs = trucker_tables_inputs(truck);
	List	   *unloaded = list_copy(inputs);
	ListCell   *lc;

	foreach(lc, *names)
	{
		Oid			relid = ((TruckerInputName *) lfirst(lc))->relid;

		if (list_member_oid(inputs, relid))
			unloaded = list_delete_oid(unloaded, relid);
		else
			*names = foreach_delete_current(*names, lc);
	}
	return unloaded;
}

/* ----
 * What has been altered unnoticed
 * ----
 */

/*
 * Has what was done to the truck's input tables been written down?  If not, changes
 * may have passed unseen, or be another table's, and the truck is lost.  To be asked
 * before a batch is committed, in its transaction: the batch has locked the tables
 * whose changes it holds, and so has waited for whoever altered one and for the
 * news of it, which come after the commit that we have decoded.
 */
void
trucker_tables_check_names(TruckerStream *stream, TruckerMember *member)
{
	const char *trouble;

	AcceptInvalidationMessages();
	/* perhaps it does not read the tables any more */
	if (member->names_seen == alterations || trucker_truck_must_reload(member->entry))
		return;
	member->names_seen = alterations;
	trouble = trucker_ddl_unnoted(&member->truck_id);
	if (trouble == NULL && stream->decoder->needs_publication)
		trouble = trucker_publication_trouble(stream->row->publication, member->truck, member->unloaded);
	if (trouble)
		trucker_member_raise_lost(member, trouble);
	if (trucker_pipeline_has_old_columns(member->pipeline))
		(void) trucker_state_prune_names(&member->truck_id, trucker_slot_restart(stream->row->slot_name));
}

static void
check_idle(TruckerMember *member, void *arg)
{
	StartTransactionCommand();
	trucker_tables_check_names(arg, member);
	CommitTransactionCommand();
}

/* The same for all active trucks, with no batch open. */
void
trucker_tables_check_all(TruckerStream *stream)
{
	MemoryContext old = CurrentMemoryContext;
	ListCell   *lc;

	/* what other sessions have committed is heard of at a transaction's start */
	StartTransactionCommand();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		if (member->active && member->names_seen != alterations &&
			!trucker_member_try(member, check_idle, stream, true))
			stream->nactive--;
	}
}

/* Has something been altered since this was asked last?  Between batches. */
bool
trucker_tables_were_altered(TruckerStream *stream)
{
	bool		altered = stream->lists_seen != alterations;

	stream->lists_seen = alterations;
	return altered;
}
