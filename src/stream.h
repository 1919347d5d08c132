/*
 * stream.h
 *	  Follow one truck's slot: from nothing to streaming, and on.
 */
#ifndef TRUCKER_STREAM_H
#define TRUCKER_STREAM_H

#include "pipeline.h"
#include "replication.h"

/* What a worker knows of its stream from one attempt to the next. */
typedef struct TruckerStream
{
	pg_uuid_t	truck_id;
	MemoryContext context;		/* of one attempt; all of the below */

	TruckerTruck *truck;
	TruckerPosition *position;
	TruckerPipeline *pipeline;
	TruckerReplication *replication;
	List	   *names;			/* of TruckerInputName: the inputs, as the plugin names them */

	/* the source transaction that is being received */
	bool		in_source;
	bool		skip;			/* the destination has it already */
	TruckerMessage begin;
	bool		announced;		/* has the pipeline been told of it? */
	XLogRecPtr	batch_end;		/* end of the last whole one in the open batch */
	TimestampTz sent_at;
	TimestampTz confirmed_at;
	MemoryContext message_context;

	/* from one attempt to the next */
	int			failures;		/* in a row, without progress */
	XLogRecPtr	failed_lsn;		/* one source transaction a batch until beyond it */
	XLogRecPtr	confirmed;		/* what the slot can have been told by now; 0: not known */
	bool		lost;			/* no further attempt can help */
} TruckerStream;

/* in stream.c */
extern bool trucker_stream_follow(TruckerStream *stream);

#endif							/* TRUCKER_STREAM_H */
