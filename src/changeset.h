/*
 * changeset.h
 *	  A run: consecutive changes of one input table, as rows in a tuplestore.
 */
#ifndef TRUCKER_CHANGESET_H
#define TRUCKER_CHANGESET_H

#include "utils/tuplestore.h"

#include "keytable.h"
#include "row.h"

/*
 * Belongs to the memory context that it was created in.  The tuplestore is made
 * anew for each run, and lives in the transaction that is open then.
 */
typedef struct TruckerRun
{
	const TruckerRelation *relation;
	const TruckerRowType *type;
	bool		by_operation;	/* may a run hold one operation only? */

	int64		nrows;
	TruckerOperation operation; /* the first row's; all rows', with by_operation */
	XLogRecPtr	first_lsn;
	XLogRecPtr	last_lsn;
	Tuplestorestate *store;		/* NULL while there are no rows */

	MemoryContext context;		/* of one run */
	Datum	   *values;
	bool	   *nulls;

	TruckerKeyTable *keys;		/* that have occurred in this run */
} TruckerRun;

/* in changeset.c */
extern TruckerRun *trucker_run_create(const TruckerRelation *relation, const TruckerRowType *type, bool by_operation);
extern bool trucker_run_accepts(TruckerRun *run, const TruckerRow *row);
extern void trucker_run_add(TruckerRun *run, const TruckerRow *row);
extern void trucker_run_clear(TruckerRun *run);

#endif							/* TRUCKER_CHANGESET_H */
