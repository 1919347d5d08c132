/*
 * output.h
 *	  What a destination must be able to do.
 */
#ifndef TRUCKER_OUTPUT_H
#define TRUCKER_OUTPUT_H

#include "output_table.h"
#include "position.h"
#include "script.h"
#include "truck.h"

typedef struct TruckerOutput TruckerOutput;

/* How many rows a transaction has changed, in whatever tables. */
typedef struct TruckerChanged
{
	int64		inserted;
	int64		updated;
	int64		deleted;
} TruckerChanged;

/* A statement of output.sql, for explain(). */
typedef struct TruckerExplained
{
	char	   *sql;
	char	   *plan;			/* NULL: it has none */
} TruckerExplained;

/*
 * One kind of destination.  All but "make_ready" and "rollback" are called inside the
 * transaction in which input.sql runs, as the truck's role.
 */
typedef struct TruckerOutputRoutine
{
	const char *adapter;

	/* Is the destination's transaction the one in which input.sql runs? */
	bool		is_local;

	/*
	 * Before a batch, outside any transaction: be connected, and know that the
	 * position is the destination's.  What the destination says may move it.  NULL,
	 * or why the truck is lost.
	 */
	const char *(*make_ready) (TruckerOutput *output, TruckerPosition *position);

	/* The table of this name there, for which output.sql is to be generated. */
	TruckerTarget *(*describe_table) (TruckerOutput *output, const char *name);

	/* The columns of r (from 1) that rendered SQL reads; perhaps a few more. */
	Bitmapset  *(*columns_read) (TruckerOutput *output, const char *sql, TupleDesc desc);

	/*
	 * Prepare rendered SQL for an r of these columns and about that many rows.
	 * The result belongs to the current memory context.
	 */
	void	   *(*prepare) (TruckerOutput *output, const char *sql, const TruckerRows *rows);

	/*
	 * Find out whether what has been prepared can be executed, and return the tables
	 * of this database (Oid) that it writes.  With rights restricted, no batch open.
	 */
	List	   *(*check) (TruckerOutput *output, void *prepared, const TruckerRows *rows);

	/*
	 * The same to be shown: SQL as it is sent, and its plan (TruckerExplained *).  rows has
	 * a store, which is not read.
	 */
	List	   *(*explain) (TruckerOutput *output, const char *sql, void *prepared, const TruckerRows *rows);

	/* Write one run's rows. */
	void		(*execute) (TruckerOutput *output, void *prepared, const TruckerRows *rows);

	/* Run statements (char *) without an r: truncate_sql, reset_sql; check them likewise. */
	void		(*run) (TruckerOutput *output, List *statements);
	List	   *(*check_statements) (TruckerOutput *output, List *statements);

	/*
	 * Commit there, with the position, if that is another transaction than ours; it
	 * is committed for certain when this returns.  After an error it may have been.
	 */
	void		(*commit) (TruckerOutput *output, TruckerPosition *position, XLogRecPtr lsn);

	/*
	 * In a transaction that will be rolled back (output->rehearses).  Do what a commit does
	 * first: what is deferred until then.  And what has this transaction changed by now?
	 */
	void		(*settle) (TruckerOutput *output);
	TruckerChanged (*changed) (TruckerOutput *output);

	/* Our transaction has committed as well. */
	void		(*committed) (TruckerOutput *output);

	/* After an error, perhaps inside of what this does: nothing of the batch is left. */
	void		(*rollback) (TruckerOutput *output);

	/* Must reset_sql be run before a backfill, although nobody has asked for it? */
	bool		(*needs_reset) (TruckerOutput *output);
} TruckerOutputRoutine;

/* A truck's destination.  Kinds that need more begin with this. */
struct TruckerOutput
{
	const TruckerOutputRoutine *routine;
	const TruckerTruck *truck;
	bool		rehearses;		/* nothing is ever committed, and the position there stays whose it is */
};

/* in output.c */
extern void trucker_output_connect(TruckerOutput *output, TruckerPosition *position);
/* A destination for a truck, in the current memory context, not connected yet. */
extern TruckerOutput *trucker_output_create(const TruckerTruck *truck);

/* Is its connection another way to this very database?  Then it is to be local. */
extern bool trucker_output_leads_here(const TruckerTruck *truck);

/* in output_local.c */
extern TruckerOutput *trucker_output_local(const TruckerTruck *truck);

/* in output_postgres.c */
extern TruckerOutput *trucker_output_postgres(const TruckerTruck *truck);

#endif							/* TRUCKER_OUTPUT_H */
