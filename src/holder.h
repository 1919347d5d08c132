/*
 * holder.h
 *	  Which trucks the server keeps WAL for.
 */
#ifndef TRUCKER_HOLDER_H
#define TRUCKER_HOLDER_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

/* A truck that a stream with a slot carries. */
typedef struct TruckerHolder
{
	pg_uuid_t	truck_id;
	char	   *name;
	bool		enabled;
	XLogRecPtr	lsn;			/* all before it is at the destination; 0: it has no position */
	XLogRecPtr	warned_lsn;		/* where the WAL ended when it was last said to be behind */
	pg_uuid_t	stream_id;
	char	   *slot_name;
	XLogRecPtr	noted_lsn;		/* where the slot of a stream that rests stands; 0: not noted */
} TruckerHolder;

/* in holder.c */
extern List *trucker_holder_list(void);
extern void trucker_holder_set_warned(const pg_uuid_t *truck_id, XLogRecPtr lsn);
extern bool trucker_holder_note_applied(const pg_uuid_t *truck_id, const pg_uuid_t *stream_id, XLogRecPtr lsn);
extern bool trucker_holder_lock_stream(const pg_uuid_t *stream_id);
extern XLogRecPtr trucker_holder_least_position(const pg_uuid_t *stream_id);
extern void trucker_holder_set_noted(const pg_uuid_t *stream_id, XLogRecPtr lsn);

#endif							/* TRUCKER_HOLDER_H */
