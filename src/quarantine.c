/*
 * quarantine.c
 *	  Which rows have changes in quarantine, and for which source transaction.
 *
 * A change of a row that has an earlier change in quarantine must not be applied
 * before that one: it is put there as well.  So for each key it must be known whether,
 * and where, it occurs there.  This is a picture of what the catalog holds
 * (quarantine_store.c), kept while the truck is aboard; of a truck without quarantine
 * it is empty and costs nothing.
 *
 * For each key there is the list of source transactions that hold it, in the order of
 * their commits; likewise for each table, and for the changes of it that may be about
 * any row (a TRUNCATE; keyhash.c).  Where a table's key was another for some of what is
 * there, hashes say nothing, and each of its changes may be about any row.
 *
 * The bound trucker.max_quarantined keeps it small.  What a transaction that is rolled
 * back has added here is not taken out again: the catalog is read anew.
 */
#include "trucker.h"

#include "utils/memutils.h"

#include "quarantine.h"

typedef struct HeldKey
{
	/* the hash key */
	int64		hash;
	Oid			relid;
	uint32		padding;

	List	   *held;			/* of TruckerHeld, by commit */
} HeldKey;

typedef struct HeldTable
{
	Oid			relid;			/* the hash key */
	int64		made_of;		/* the hashes of its keys */
	bool		mixed;			/* ... are made of different columns */
	List	   *all;			/* of TruckerHeld, by commit */
	List	   *any;			/* those with a change that may be about any row */
} HeldTable;

/* What a truck has in quarantine, in a child of the current memory context.  Needs a transaction. */
TruckerQuarantine *
trucker_quarantine_load(const pg_uuid_t *truck_id)
{
	TruckerQuarantine *quarantine = palloc0(sizeof(TruckerQuarantine));

	quarantine->truck_id = *truck_id;
	quarantine->context = AllocSetContextCreate(CurrentMemoryContext, "trucker quarantine",
												ALLOCSET_SMALL_SIZES);
	trucker_quarantine_reload(quarantine);
	return quarantine;
}

/* Read it again. */
void
trucker_quarantine_reload(TruckerQuarantine *quarantine)
{
	MemoryContextReset(quarantine->context);
	quarantine->held = NIL;
	quarantine->tables = NULL;
	quarantine->keys = NULL;
	quarantine->nchanges = 0;
	quarantine->stale = true;
	trucker_quarantine_read(quarantine);
	quarantine->stale = false;
}

bool
trucker_quarantine_is_empty(const TruckerQuarantine *quarantine)
{
	return quarantine->nchanges == 0;
}

/* The source transaction of that number, or NULL. */
TruckerHeld *
trucker_quarantine_find(const TruckerQuarantine *quarantine, int64 id)
{
	ListCell   *lc;

	foreach(lc, quarantine->held)
	{
		TruckerHeld *held = lfirst(lc);

		if (held->id == id && !held->gone)
			return held;
	}
	return NULL;
}

/* The first one that is to be applied, and has not been tried; or NULL. */
TruckerHeld *
trucker_quarantine_asked(const TruckerQuarantine *quarantine)
{
	ListCell   *lc;

	foreach(lc, quarantine->held)
	{
		TruckerHeld *held = lfirst(lc);

		if (held->asked && !held->tried && !held->gone)
			return held;
	}
	return NULL;
}

/* ----
 * Who holds what
 * ----
 */

static HTAB *
create_table(TruckerQuarantine *quarantine, const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl;

	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = quarantine->context;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static HeldKey *
find_key(const TruckerQuarantine *quarantine, Oid relid, int64 hash, HASHACTION action, bool *found)
{
	HeldKey		key;

	memset(&key, 0, sizeof(key));
	key.hash = hash;
	key.relid = relid;
	return hash_search(quarantine->keys, &key, action, found);
}

static List *
append(List *list, TruckerHeld *held)
{
	return list != NIL && llast(list) == held ? list : lappend(list, held);
}

/* A source transaction that is not there yet, and is the last one. */
TruckerHeld *
trucker_quarantine_note_held(TruckerQuarantine *quarantine, int64 id, XLogRecPtr lsn)
{
	MemoryContext old = MemoryContextSwitchTo(quarantine->context);
	TruckerHeld *held = palloc0(sizeof(TruckerHeld));

	held->id = id;
	held->lsn = lsn;
	quarantine->held = lappend(quarantine->held, held);
	MemoryContextSwitchTo(old);
	return held;
}

/* One more change of the last source transaction. */
void
trucker_quarantine_note(TruckerQuarantine *quarantine, TruckerHeld *held, Oid relid,
						const TruckerRowKeys *keys)
{
	MemoryContext old = MemoryContextSwitchTo(quarantine->context);
	HeldTable  *table;
	bool		found;

	if (quarantine->tables == NULL)
	{
		quarantine->tables = create_table(quarantine, "trucker quarantined tables", sizeof(Oid), sizeof(HeldTable));
		quarantine->keys = create_table(quarantine, "trucker quarantined keys", offsetof(HeldKey, held), sizeof(HeldKey));
	}
	table = hash_search(quarantine->tables, &relid, HASH_ENTER, &found);
	if (!found)
	{
		table->made_of = keys->made_of;
		table->mixed = false;
		table->all = table->any = NIL;
	}
	table->mixed |= table->made_of != keys->made_of;
	table->all = append(table->all, held);
	if (keys->any)
		table->any = append(table->any, held);
	for (int i = 0; i < keys->n && !keys->any; i++)
	{
		HeldKey    *key = find_key(quarantine, relid, keys->hashes[i], HASH_ENTER, &found);

		key->held = append(found ? key->held : NIL, held);
	}
	held->nchanges++;
	quarantine->nchanges++;
	MemoryContextSwitchTo(old);
}

/* The first one in the list that is still there, if it committed before that; and before "best". */
static TruckerHeld *
first_of(List **list, XLogRecPtr before, TruckerHeld *best)
{
	TruckerHeld *held;

	while (*list != NIL && ((TruckerHeld *) linitial(*list))->gone)
		*list = list_delete_first(*list);
	if (*list == NIL)
		return best;
	held = linitial(*list);
	return held->lsn < before && (best == NULL || held->lsn < best->lsn) ? held : best;
}

/* Can hashes not tell whether the table's changes there are about the same row as this one? */
static bool
concerns_all(const HeldTable *table, const TruckerRowKeys *keys)
{
	return keys->any || table->mixed || table->made_of != keys->made_of;
}

/*
 * The first source transaction that holds one of the keys of a change, and committed
 * before that LSN; NULL: there is none.
 */
TruckerHeld *
trucker_quarantine_holder(const TruckerQuarantine *quarantine, Oid relid,
						  const TruckerRowKeys *keys, XLogRecPtr before)
{
	HeldTable  *table = quarantine->tables ? hash_search(quarantine->tables, &relid, HASH_FIND, NULL) : NULL;
	TruckerHeld *first;

	if (table == NULL)
		return NULL;
	if (concerns_all(table, keys))
		return first_of(&table->all, before, NULL);
	first = first_of(&table->any, before, NULL);
	for (int i = 0; i < keys->n; i++)
	{
		HeldKey    *key = find_key(quarantine, relid, keys->hashes[i], HASH_FIND, NULL);

		if (key)
			first = first_of(&key->held, before, first);
	}
	return first;
}

static List *
add_followers(List *followers, List *held, XLogRecPtr after)
{
	ListCell   *lc;

	foreach(lc, held)
	{
		TruckerHeld *follower = lfirst(lc);

		if (follower->lsn > after && follower->parked && !follower->gone && !follower->asked)
		{
			follower->asked = true;
			followers = lappend(followers, follower);
		}
	}
	return followers;
}

/*
 * Add those that committed after that LSN and are there only because somebody before
 * them held one of the keys of a change.  They are asked for from now on.
 */
List *
trucker_quarantine_followers(const TruckerQuarantine *quarantine, Oid relid,
							 const TruckerRowKeys *keys, XLogRecPtr after, List *followers)
{
	HeldTable  *table = hash_search(quarantine->tables, &relid, HASH_FIND, NULL);

	if (table == NULL)
		return followers;
	if (concerns_all(table, keys))
		return add_followers(followers, table->all, after);
	followers = add_followers(followers, table->any, after);
	for (int i = 0; i < keys->n; i++)
	{
		HeldKey    *key = find_key(quarantine, relid, keys->hashes[i], HASH_FIND, NULL);

		if (key)
			followers = add_followers(followers, key->held, after);
	}
	return followers;
}
