/*
 * tables.c
 *	  The input tables of a stream's trucks, as the output plugin names them.
 *
 * What a change costs depends on how many trucks read its table, not on how many
 * there are: the table is found by name in a hash table, and knows its readers.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "stream.h"

typedef struct NameKey
{
	char		schema[NAMEDATALEN];
	char		table[NAMEDATALEN];
} NameKey;

typedef struct NameEntry
{
	NameKey		key;			/* must be first */
	int			number;
} NameEntry;

/* goes up with each table that is altered */
static uint64 alterations = 1;

static void
relcache_changed(Datum arg, Oid relid)
{
	alterations++;
}

static void
make_key(NameKey *key, const char *schema, const char *table)
{
	memset(key, 0, sizeof(*key));
	strlcpy(key->schema, schema, NAMEDATALEN);
	strlcpy(key->table, table, NAMEDATALEN);
}

static void
add_reader(TruckerStream *stream, TruckerMember *member, const TruckerInputName *name)
{
	TruckerReader *reader = palloc(sizeof(TruckerReader));
	TruckerTable *table;
	NameEntry  *entry;
	NameKey		key;
	bool		found;

	make_key(&key, name->schema, name->table);
	entry = hash_search(stream->tables_by_name, &key, HASH_ENTER, &found);
	if (!found)
	{
		table = &stream->tables[stream->ntables];
		/* the pass may outlive the member, which may leave in its midst */
		table->schema = pstrdup(name->schema);
		table->table = pstrdup(name->table);
		table->number = entry->number = stream->ntables++;
		table->readers = NIL;
	}
	table = &stream->tables[entry->number];
	reader->member = member;
	reader->relid = name->relid;
	reader->from_lsn = name->from_lsn;
	table->readers = lappend(table->readers, reader);
	member->tables[member->ntables++] = table->number;
}

/* Find the tables of the active trucks, for one pass, in the current memory context. */
void
trucker_tables_build(TruckerStream *stream)
{
	static bool registered = false;
	HASHCTL		ctl = {.keysize = sizeof(NameKey), .entrysize = sizeof(NameEntry), .hcxt = CurrentMemoryContext};
	int			most = 0;
	ListCell   *lc;
	ListCell   *name;

	if (!registered)
		CacheRegisterRelcacheCallback(relcache_changed, (Datum) 0);
	registered = true;
	alterations++;

	foreach(lc, stream->members)
		most += list_length(((TruckerMember *) lfirst(lc))->names);
	stream->tables_by_name = hash_create("trucker input tables", Max(most, 16), &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	stream->tables = palloc0(Max(most, 1) * sizeof(TruckerTable));
	stream->ntables = 0;
	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		member->ntables = 0;
		member->tables = palloc(Max(list_length(member->names), 1) * sizeof(int));
		if (!member->active)
			continue;
		foreach(name, member->names)
			add_reader(stream, member, lfirst(name));
	}
}

/* The truck leaves the stream: its tables have one reader less. */
void
trucker_tables_forget(TruckerStream *stream, const TruckerMember *member)
{
	for (int i = 0; stream->pass_context && i < stream->ntables; i++)
	{
		TruckerTable *table = &stream->tables[i];
		ListCell   *lc;

		foreach(lc, table->readers)
			if (((TruckerReader *) lfirst(lc))->member == member)
				table->readers = foreach_delete_current(table->readers, lc);
	}
}

/* The table of a change; NULL: no active truck reads it. */
TruckerTable *
trucker_tables_find(TruckerStream *stream, const TruckerMessage *message)
{
	NameEntry  *entry;
	NameKey		key;

	make_key(&key, message->schema, message->table);
	entry = hash_search(stream->tables_by_name, &key, HASH_FIND, NULL);
	return entry ? &stream->tables[entry->number] : NULL;
}

/* The tables' names as the decoder wants them. */
List *
trucker_tables_names(const TruckerStream *stream)
{
	List	   *names = NIL;

	for (int i = 0; i < stream->ntables; i++)
	{
		TruckerTableName *name = palloc(sizeof(TruckerTableName));

		name->schema = stream->tables[i].schema;
		name->table = stream->tables[i].table;
		names = lappend(names, name);
	}
	return names;
}

/* A truck's input tables and their names as of now.  In a transaction. */
List *
trucker_tables_current_names(const TruckerTruck *truck)
{
	List	   *names = NIL;

	for (int i = 0; i < truck->ninputs; i++)
	{
		TruckerInputName *name = palloc0(sizeof(TruckerInputName));

		name->relid = truck->inputs[i];
		name->table = get_rel_name(name->relid);
		if (name->table == NULL)
			trucker_raise_dropped(truck->name, name->relid);
		name->schema = get_namespace_name(get_rel_namespace(name->relid));
		names = lappend(names, name);
	}
	return names;
}

static void
check_name(TruckerMember *member, const TruckerTable *table)
{
	ListCell   *lc;

	foreach(lc, table->readers)
	{
		TruckerReader *reader = lfirst(lc);
		char	   *relname;
		char	   *schema;

		if (reader->member != member)
			continue;
		relname = get_rel_name(reader->relid);
		schema = relname ? get_namespace_name(get_rel_namespace(reader->relid)) : NULL;
		if (schema == NULL)
		{
			member->lost = true;
			trucker_raise_dropped(member->truck->name, reader->relid);
		}
		if (strcmp(schema, table->schema) != 0 || strcmp(relname, table->table) != 0)
			trucker_member_raise_lost(member,
									  psprintf("its input table %s has been renamed to %s",
											   quote_qualified_identifier(table->schema, table->table),
											   quote_qualified_identifier(schema, relname)));
	}
}

/*
 * Are the truck's input tables still called what the output plugin filters by?  If
 * not, changes may have passed unseen, or be another table's, and the truck is
 * lost.  To be asked before a batch is committed, in its transaction: the batch has
 * locked the tables whose changes it holds, and so has waited for whoever renamed
 * one and for the news of it, which come after the commit that we have decoded.
 */
void
trucker_tables_check_names(TruckerStream *stream, TruckerMember *member)
{
	AcceptInvalidationMessages();
	if (member->names_seen == alterations)
		return;
	member->names_seen = alterations;
	for (int i = 0; i < member->ntables; i++)
		check_name(member, &stream->tables[member->tables[i]]);
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
