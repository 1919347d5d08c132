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
 * A key of a type that cannot be hashed (keytable.c) makes every row a run of its
 * own.
 *
 * Each run gets a new tuplestore: in one that is reused with tuplestore_clear()
 * every scan leaves a read pointer behind.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "changeset.h"

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
	run->keys = trucker_key_table_create(relation, 0);
	return run;
}

/* Note a key; false: it was there already. */
static bool
note_key(TruckerRun *run, const Datum *values, const TruckerPresence *presence)
{
	bool		isnew;

	(void) trucker_key_table_enter(run->keys, values, presence, &isnew);
	return isnew;
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
	if (!run->keys->hashable)
		return run->nrows == 0;
	if (row->operation != TRUCKER_DELETE)
		fresh &= note_key(run, row->newvalues, row->newpresence);
	if (row->operation == TRUCKER_DELETE ||
		(row->operation == TRUCKER_UPDATE && !trucker_key_is_unchanged(run->relation, row)))
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
		run->last_lsn = row->lsn;
		MemoryContextSwitchTo(old);
	}
	trucker_row_project(row, run->relation, run->type, run->values, run->nulls);
	tuplestore_putvalues(run->store, run->type->desc, run->values, run->nulls);
	/* net changes do not come in the order of their commits */
	run->first_lsn = Min(run->first_lsn, row->lsn);
	run->last_lsn = Max(run->last_lsn, row->lsn);
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
	trucker_key_table_clear(run->keys);
}
