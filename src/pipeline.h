/*
 * pipeline.h
 *	  The one road that rows take, for stream and backfill alike.
 */
#ifndef TRUCKER_PIPELINE_H
#define TRUCKER_PIPELINE_H

#include "changeset.h"
#include "count.h"
#include "decoder.h"
#include "needs.h"
#include "net.h"
#include "part.h"
#include "program.h"
#include "quarantine.h"
#include "utils/hsearch.h"
#include "written.h"

/* One input table of the truck. */
typedef struct TruckerInput
{
	Oid			relid;
	Relation	rel;			/* open while a batch uses it, else NULL */
	TruckerProgram *program;	/* NULL: to be compiled (anew) */
	MemoryContext context;		/* of program, run and row */
	TruckerRun *run;
	TruckerRow *row;
	TruckerNet *net;			/* NULL: each change counts */
	TruckerKeyHasher *hasher;	/* NULL: not needed yet */
	TruckerColumns *columns;	/* that it has had */
	TruckerParts *parts;		/* partitions whose changes have come; NULL: it has none */
	const TruckerNeeds *kept;	/* of the changes that come, and known to be enough; or NULL */
	int64		loaded;			/* rows that its backfill has read */
	XLogRecPtr	truncated_at;	/* the record that has truncated it, of which each partition tells as well */
} TruckerInput;

/* Who wants to know what is executed: after each run, and each execution of truncate_sql. */
typedef struct TruckerPipelineObserver
{
	void		(*executed) (struct TruckerPipelineObserver *observer, const TruckerInput *input,
							 int64 rows_in, int64 rows_out);
} TruckerPipelineObserver;

typedef struct TruckerPipeline
{
	const TruckerTruck *truck;
	bool		role_is_superuser;
	TruckerOutput *output;
	TruckerPosition *position;
	TruckerWritten *written;
	TruckerQuarantine *quarantine;	/* NULL: for a backfill */
	TruckerPipelineObserver *observer;	/* or NULL */

	TruckerCount count;
	bool		loading;		/* shared memory tells how far a backfill is */

	MemoryContext context;		/* lives as long as the pipeline */
	MemoryContext batch_context;	/* one batch */
	MemoryContext change_context;	/* one change */

	int			ninputs;
	TruckerInput *inputs;
	TruckerInput *current;		/* whose run has rows; or NULL */
	TruckerInput *changing;		/* whose change is being taken over; or NULL */
	TruckerInput **collected;	/* that have net changes, in the order of the first */
	int			ncollected;

	bool		lost;			/* a backfill has found that the truck cannot go on */

	/* the open batch */
	bool		in_batch;
	int64		batch_rows;
	int			nsources;		/* source transactions in it */
	bool		replaying;		/* it is one from quarantine */
	TimestampTz batch_started;
	TimestampTz run_started;	/* 0: no SQL is being executed */
	bool		in_truncate;	/* truncate_sql is being executed */
	HTAB	   *toast_taken;	/* of the current source transaction */
	int			nunseen;		/* source transactions perhaps not yet visible */
	TransactionId *unseen;
	int			max_unseen;

	/* the current source transaction */
	TransactionId xid;
	XLogRecPtr	commit_lsn;
	TimestampTz committed_at;
	TruckerHeld *parked;		/* what of it has been put into quarantine; or NULL */
} TruckerPipeline;

/* in pipeline.c */
extern TruckerPipeline *trucker_pipeline_create(const TruckerTruck *truck, TruckerPosition *position);
extern void trucker_pipeline_begin_batch(TruckerPipeline *pipeline, const char *snapshot);
extern void trucker_pipeline_compile(TruckerPipeline *pipeline);
extern TruckerInput *trucker_pipeline_input(TruckerPipeline *pipeline, Oid relid);
extern void trucker_pipeline_add_needs(const TruckerPipeline *pipeline, Oid relid, TruckerNeeds *needs);
extern void trucker_pipeline_check_kept(TruckerPipeline *pipeline, Oid relid, const TruckerNeeds *kept);
extern void trucker_pipeline_flush(TruckerPipeline *pipeline);
extern void trucker_pipeline_commit(TruckerPipeline *pipeline, XLogRecPtr position);
extern void trucker_pipeline_commit_aside(TruckerPipeline *pipeline);
extern void trucker_pipeline_settle(TruckerPipeline *pipeline);
extern void trucker_pipeline_end_empty(TruckerPipeline *pipeline);
extern void trucker_pipeline_rollback(TruckerPipeline *pipeline);
extern void trucker_pipeline_error_context(void *arg);

/* in pipeline_change.c */
extern void trucker_pipeline_begin_source(TruckerPipeline *pipeline, const TruckerMessage *message);
extern TruckerPart *trucker_pipeline_part(TruckerInput *input, const TruckerMessage *message);
extern const TruckerColumnSpan *trucker_pipeline_columns(TruckerPipeline *pipeline, TruckerInput *input,
														 const TruckerMessage *message);
extern bool trucker_pipeline_has_old_columns(const TruckerPipeline *pipeline);
extern void trucker_pipeline_change(TruckerPipeline *pipeline, Oid relid, const TruckerMessage *message);

/* in pipeline_run.c */
extern void trucker_pipeline_add(TruckerPipeline *pipeline, TruckerInput *input);

/* in apart.c */
extern bool trucker_apart_ignores(const TruckerPipeline *pipeline, const TruckerMessage *message);
extern bool trucker_apart_park(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message);
extern void trucker_apart_add(TruckerPipeline *pipeline, Oid relid, const TruckerMessage *message,
							  const char *error);

#endif							/* TRUCKER_PIPELINE_H */
