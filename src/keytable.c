/*
 * keytable.c
 *	  Which keys of an input table have occurred, and what is known of each.
 *
 * Keys are compared as their types compare them (1.0 is 1.00), in the server's
 * own TupleHashTable.  A run asks only whether a key is there; net changes keep
 * an entry with each.
 */
#include "trucker.h"

#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "keytable.h"

/* hash buckets that are cheap to clear */
#define SMALL_TABLE 512

static TupleDesc
key_desc(const TruckerRelation *relation)
{
	TupleDesc	desc = CreateTemplateTupleDesc(relation->nkeys);

	for (int i = 0; i < relation->nkeys; i++)
		TupleDescCopyEntry(desc, i + 1, relation->desc, relation->keys[i]);
	return desc;
}

/* Find how keys are hashed and compared; false: they cannot be hashed. */
static bool
find_functions(TruckerKeyTable *keys)
{
	const TruckerRelation *relation = keys->relation;
	Oid		   *operators = palloc(Max(relation->nkeys, 1) * sizeof(Oid));

	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, relation->keys[i] - 1);
		TypeCacheEntry *type = lookup_type_cache(attr->atttypid,
												 TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);

		if (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_proc))
			return false;
		operators[i] = type->eq_opr;
		keys->collations[i] = attr->attcollation;
		keys->columns[i] = (AttrNumber) (i + 1);
	}
	execTuplesHashPrepare(relation->nkeys, operators, &keys->eq_functions, &keys->hash_functions);
	return relation->nkeys > 0;
}

/*
 * A table with no keys yet.  With entry_size, each key has an entry of that many
 * bytes, which are zero at first.
 */
TruckerKeyTable *
trucker_key_table_create(const TruckerRelation *relation, Size entry_size)
{
	TruckerKeyTable *keys = palloc0(sizeof(TruckerKeyTable));

	keys->relation = relation;
	keys->entry_size = entry_size;
	keys->table_context = AllocSetContextCreate(CurrentMemoryContext, "trucker key table",
												ALLOCSET_DEFAULT_SIZES);
	keys->key_context = AllocSetContextCreate(CurrentMemoryContext, "trucker keys",
											  ALLOCSET_DEFAULT_SIZES);
	keys->temp_context = AllocSetContextCreate(CurrentMemoryContext, "trucker key comparison",
											   ALLOCSET_SMALL_SIZES);
	keys->collations = palloc0(Max(relation->nkeys, 1) * sizeof(Oid));
	keys->columns = palloc0(Max(relation->nkeys, 1) * sizeof(AttrNumber));
	keys->hashable = find_functions(keys);
	if (keys->hashable)
		keys->slot = MakeSingleTupleTableSlot(key_desc(relation), &TTSOpsVirtual);
	return keys;
}

static void
build_table(TruckerKeyTable *keys)
{
	keys->table = BuildTupleHashTableExt(NULL, keys->slot->tts_tupleDescriptor,
										 keys->relation->nkeys, keys->columns,
										 keys->eq_functions, keys->hash_functions,
										 keys->collations, SMALL_TABLE / 2, keys->entry_size,
										 keys->table_context, keys->key_context,
										 keys->temp_context, false);
}

/*
 * Enter the key of a row (arrays by attnum - 1), unless it is there already, and
 * return its entry, which stays where it is until the table is cleared.  Keys must
 * be hashable.
 */
void *
trucker_key_table_enter(TruckerKeyTable *keys, const Datum *values,
						const TruckerPresence *presence, bool *isnew)
{
	TupleTableSlot *slot = keys->slot;
	TupleHashEntry entry;

	if (keys->table == NULL)
		build_table(keys);
	ExecClearTuple(slot);
	for (int i = 0; i < keys->relation->nkeys; i++)
	{
		int			at = keys->relation->keys[i] - 1;

		slot->tts_values[i] = values[at];
		slot->tts_isnull[i] = presence[at] != TRUCKER_PRESENT;
	}
	ExecStoreVirtualTuple(slot);
	entry = LookupTupleHashEntry(keys->table, slot, isnew, NULL);
	MemoryContextReset(keys->temp_context);
	if (*isnew && keys->entry_size > 0)
		entry->additional = MemoryContextAllocZero(keys->key_context, keys->entry_size);
	return entry->additional;
}

/* How much memory do the keys take, in bytes? */
Size
trucker_key_table_memory(const TruckerKeyTable *keys)
{
	return MemoryContextMemAllocated(keys->table_context, false) +
		MemoryContextMemAllocated(keys->key_context, false);
}

/* Forget all keys. */
void
trucker_key_table_clear(TruckerKeyTable *keys)
{
	if (keys->table == NULL)
		return;

	/* resetting costs the table's size; a large one would burden few keys */
	if (keys->table->hashtab->size <= SMALL_TABLE)
		ResetTupleHashTable(keys->table);
	else
	{
		MemoryContextReset(keys->table_context);
		keys->table = NULL;
	}
	MemoryContextReset(keys->key_context);
}

/* Do the old and the new row have the same key, byte by byte? */
bool
trucker_key_is_unchanged(const TruckerRelation *relation, const TruckerRow *row)
{
	for (int i = 0; i < relation->nkeys; i++)
	{
		int			at = relation->keys[i] - 1;
		Form_pg_attribute attr = TupleDescAttr(relation->desc, at);

		if (row->oldpresence[at] != row->newpresence[at])
			return false;
		if (row->newpresence[at] == TRUCKER_PRESENT &&
			!datumIsEqual(row->oldvalues[at], row->newvalues[at],
						  attr->attbyval, attr->attlen))
			return false;
	}
	return true;
}
