/*
 * batch.h
 *	  Whole source transactions, kept until each truck of the stream has applied them.
 */
#ifndef TRUCKER_BATCH_H
#define TRUCKER_BATCH_H

#include "executor/tuptable.h"
#include "utils/tuplestore.h"

#include "decoder.h"
#include "needs.h"

typedef struct TruckerSource
{
	TruckerMessage begin;		/* xid, LSNs and time */
	int64		first;			/* number of its first change; the next one's ends it */
} TruckerSource;

/* The changes of one table, in order. */
typedef struct TruckerBatchTable
{
	Tuplestorestate *store;		/* NULL: none */
	int64		nchanges;

	/* of the reader */
	TupleTableSlot *slot;		/* the next change */
	int64		next;			/* its number; -1: there is none */
} TruckerBatchTable;

typedef struct TruckerBatch
{
	MemoryContext context;		/* of one batch */
	int64		memory_left;	/* bytes, to be given to further tables */
	int64		nchanges;
	int			nsources;
	int			max_sources;
	TruckerSource *sources;
	const TruckerDecoder *decoder;	/* of all changes */
	int			ntables;
	TruckerBatchTable *tables;

	/* of the reader */
	int			source;
	int			nreading;
	const int  *reading;		/* tables */
	int			last;			/* whose change was returned last; -1: none */
} TruckerBatch;

/* in batch.c */
extern TruckerBatch *trucker_batch_create(const TruckerDecoder *decoder, int ntables);
extern void trucker_batch_begin_source(TruckerBatch *batch, const TruckerMessage *begin);
extern void trucker_batch_add(TruckerBatch *batch, int table, const TruckerMessage *message,
							  const TruckerNeeds *needs);
extern void trucker_batch_end_source(TruckerBatch *batch, XLogRecPtr end_lsn);
extern void trucker_batch_clear(TruckerBatch *batch);

extern void trucker_batch_read(TruckerBatch *batch, int ntables, const int *tables);
extern bool trucker_batch_next(TruckerBatch *batch, const TruckerSource **source, int *table,
							   TruckerMessage *message);

#endif							/* TRUCKER_BATCH_H */
