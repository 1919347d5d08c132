/*
 * changeset.c
 *	  Collect changes of one input table into runs.
 *
 * A run ends before a change
 *	- whose operation differs, where the truck's templates ask for it;
 *	- whose replica identity key, old or new, has occurred in the run: a second
 *	  row for one key would make ON CONFLICT DO UPDATE fail, and would make the
 *	  order of the two matter;
 *	- that would make the run larger than trucker.max_run_rows.
 * So within a run the order of rows does not matter, and runs are executed in
 * order.
 *
 * Keys are compared as their types compare them (1.0 is 1.00), in the server's
 * own TupleHashTable.  A key of a type that cannot be hashed makes every row a
 * run of its own.
 *
 * Each run gets a new tuplestore: in one that is reused with tuplestore_clear()
 * every scan leaves a read pointer behind.
 */
#include "trucker.h"

#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "changeset.h"

/* hash buckets that are cheap to clear */
#define SMALL_KEY_TABLE 512

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
find_key_functions(TruckerRun *run)
{
	const TruckerRelation *relation = run->relation;
	Oid		   *operators = palloc(Max(relation->nkeys, 1) * sizeof(Oid));

	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, relation->keys[i] - 1);
		TypeCacheEntry *type = lookup_type_cache(attr->atttypid,
												 TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);

		if (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_proc))
			return false;
		operators[i] = type->eq_opr;
		run->collations[i] = attr->attcollation;
		run->key_columns[i] = (AttrNumber) (i + 1);
	}
	execTuplesHashPrepare(relation->nkeys, operators, &run->eq_functions, &run->hash_functions);
	return true;
}

/* A run with no rows yet, for a table and the columns of r. */
TruckerRun *
trucker_run_create(const TruckerRelation *relation, const TruckerRowType *type,
				   bool by_operation)
{
	TruckerRun *run = palloc0(sizeof(TruckerRun));

	run->relation = relation;
	run->type = type;
	run->by_operation = by_operation;
	run->values = palloc(type->desc->natts * sizeof(Datum));
	run->nulls = palloc(type->desc->natts * sizeof(bool));
	run->context = AllocSetContextCreate(CurrentMemoryContext, "trucker run",
										 ALLOCSET_DEFAULT_SIZES);
	run->table_context = AllocSetContextCreate(CurrentMemoryContext, "trucker key table",
											   ALLOCSET_DEFAULT_SIZES);
	run->key_context = AllocSetContextCreate(CurrentMemoryContext, "trucker run keys",
											 ALLOCSET_DEFAULT_SIZES);
	run->temp_context = AllocSetContextCreate(CurrentMemoryContext, "trucker key comparison",
											  ALLOCSET_SMALL_SIZES);
	run->collations = palloc0(Max(relation->nkeys, 1) * sizeof(Oid));
	run->key_columns = palloc0(Max(relation->nkeys, 1) * sizeof(AttrNumber));
	run->hashable = find_key_functions(run);
	if (run->hashable && relation->nkeys > 0)
		run->key_slot = MakeSingleTupleTableSlot(key_desc(relation), &TTSOpsVirtual);
	return run;
}

static void
build_key_table(TruckerRun *run)
{
	run->keys = BuildTupleHashTableExt(NULL, run->key_slot->tts_tupleDescriptor,
									   run->relation->nkeys, run->key_columns,
									   run->eq_functions, run->hash_functions,
									   run->collations, SMALL_KEY_TABLE / 2, 0,
									   run->table_context, run->key_context,
									   run->temp_context, false);
}

/* Note a key; false: it was there already. */
static bool
note_key(TruckerRun *run, const Datum *values, const TruckerPresence *presence)
{
	TupleTableSlot *slot = run->key_slot;
	bool		isnew;

	if (run->keys == NULL)
		build_key_table(run);
	ExecClearTuple(slot);
	for (int i = 0; i < run->relation->nkeys; i++)
	{
		int			at = run->relation->keys[i] - 1;

		slot->tts_values[i] = values[at];
		slot->tts_isnull[i] = presence[at] != TRUCKER_PRESENT;
	}
	ExecStoreVirtualTuple(slot);
	(void) LookupTupleHashEntry(run->keys, slot, &isnew, NULL);
	MemoryContextReset(run->temp_context);
	return isnew;
}

/* Do the old and the new row have the same key, byte by byte? */
static bool
same_key(const TruckerRelation *relation, const TruckerRow *row)
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

/* Note the row's keys; false: one of them has occurred in this run. */
static bool
note_keys(TruckerRun *run, const TruckerRow *row)
{
	bool		fresh = true;

	/* nothing tells rows apart: only inserts can stand side by side */
	if (run->relation->nkeys == 0)
		return run->nrows == 0 ||
			(row->operation == TRUCKER_INSERT && run->operation == TRUCKER_INSERT);
	if (!run->hashable)
		return run->nrows == 0;
	if (row->operation != TRUCKER_DELETE)
		fresh &= note_key(run, row->newvalues, row->newpresence);
	if (row->operation == TRUCKER_DELETE ||
		(row->operation == TRUCKER_UPDATE && !same_key(run->relation, row)))
		fresh &= note_key(run, row->oldvalues, row->oldpresence);
	return fresh;
}

/*
 * May this change join the run?  If not, the run must be executed and cleared
 * first; then it may.
 */
bool
trucker_run_accepts(TruckerRun *run, const TruckerRow *row)
{
	if (run->nrows > 0 &&
		(run->nrows >= trucker_max_run_rows ||
		 (run->by_operation && run->operation != row->operation)))
		return false;
	if (note_keys(run, row) || run->nrows == 0)
		return true;
	return false;
}

/* Add a change that the run has accepted; the values are copied. */
void
trucker_run_add(TruckerRun *run, const TruckerRow *row)
{
	if (run->store == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(run->context);

		run->store = tuplestore_begin_heap(false, false, work_mem);
		run->operation = row->operation;
		run->first_lsn = row->lsn;
		MemoryContextSwitchTo(old);
	}
	trucker_row_project(row, run->relation, run->type, run->values, run->nulls);
	tuplestore_putvalues(run->store, run->type->desc, run->values, run->nulls);
	run->last_lsn = row->lsn;
	run->nrows++;
}

/* Empty the run. */
void
trucker_run_clear(TruckerRun *run)
{
	if (run->store)
		tuplestore_end(run->store);
	run->store = NULL;
	run->nrows = 0;
	MemoryContextReset(run->context);
	if (run->keys == NULL)
		return;

	/* resetting costs the table's size; a large one would burden small runs */
	if (run->keys->hashtab->size <= SMALL_KEY_TABLE)
		ResetTupleHashTable(run->keys);
	else
	{
		MemoryContextReset(run->table_context);
		run->keys = NULL;
	}
	MemoryContextReset(run->key_context);
}
