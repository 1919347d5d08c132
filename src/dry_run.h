/*
 * dry_run.h
 *	  What the next source transactions would do to a truck's destination.
 */
#ifndef TRUCKER_DRY_RUN_H
#define TRUCKER_DRY_RUN_H

#include "output.h"
#include "stream.h"

#define TRUCKER_DRY_RUN_MOST 10000
#define TRUCKER_DRY_RUN_COLUMNS 15

/* What a source transaction changes in one input table, and what comes of it. */
typedef struct TruckerTriedInput
{
	int64		changes[4];		/* inserts, updates, deletes, truncates; of those that the truck does not ignore */
	int64		rows_in;		/* of r */
	int64		rows_out;		/* that output.sql gets */
	TruckerChanged changed;
} TruckerTriedInput;

typedef struct TruckerTried
{
	TruckerMessage begin;
	TruckerTriedInput *inputs;	/* as the truck's */
	bool		done;			/* it could be applied, or is to be skipped */
	bool		skipped;
	char	   *error;			/* NULL: there was none */
	int			failed_input;	/* that the error is about; -1: not known */
} TruckerTried;

typedef struct TruckerDryRun
{
	MemoryContext context;		/* of all */
	TruckerMember member;		/* which no stream carries */
	TruckerStream stream;		/* which no worker follows: one pass */
	int			wanted;			/* source transactions */
	XLogRecPtr	until;			/* what commits from here on is not looked at */
	List	   *sources;		/* of TruckerTried, in the order of their commits */

	/* from one pass to the next */
	List	   *commits;		/* of KnownCommit: of transactions that have altered inputs */

	/* while they are tried */
	TruckerPipelineObserver observer;
	TruckerTried *current;
	TruckerChanged changed;		/* by now */
} TruckerDryRun;

/* in dry_run_read.c */
extern void trucker_dry_run_read(TruckerDryRun *run);
extern int	trucker_dry_run_input(const TruckerDryRun *run, Oid relid);

/* in dry_run_worker.c */
extern PGDLLEXPORT void trucker_dry_run_main(Datum main_arg);

#endif							/* TRUCKER_DRY_RUN_H */
