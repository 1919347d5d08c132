/*
 * position.h
 *	  The LSN rules: what to skip, what is durable, what may be confirmed.
 */
#ifndef TRUCKER_POSITION_H
#define TRUCKER_POSITION_H

#include "access/xlogdefs.h"
#include "lib/ilist.h"
#include "storage/itemptr.h"
#include "utils/uuid.h"

typedef struct TruckerPosition
{
	pg_uuid_t	truck_id;
	Oid			relid;			/* of trucker.position */
	bool		exists;			/* is there a committed row? */
	ItemPointerData tid;		/* of that row */
	XLogRecPtr	lsn;			/* in that row */
	uint64		system_id;
	TimeLineID	timeline;

	/* written in the open transaction, not yet committed */
	ItemPointerData new_tid;
	XLogRecPtr	new_lsn;		/* InvalidXLogRecPtr: nothing written */

	/* committed here, perhaps not yet flushed to disk */
	dlist_head	unflushed;
	MemoryContext context;
	XLogRecPtr	applied;		/* noted when it changed streams */
	XLogRecPtr	durable;		/* may be confirmed to the slot */
} TruckerPosition;

/* in position.c */
extern TruckerPosition *trucker_position_load(const pg_uuid_t *truck_id, XLogRecPtr applied_lsn);
extern void trucker_position_read_again(TruckerPosition *position);
extern const char *trucker_position_trouble(const TruckerPosition *position);
extern bool trucker_position_is_of_other_timeline(const TruckerPosition *position);
extern void trucker_position_adopt(TruckerPosition *position);
extern bool trucker_position_skips(const TruckerPosition *position, XLogRecPtr commit_lsn);
extern void trucker_position_write(TruckerPosition *position, XLogRecPtr lsn);
extern void trucker_position_committed(TruckerPosition *position, XLogRecPtr local_end);
extern void trucker_position_aborted(TruckerPosition *position);
extern void trucker_position_idle(TruckerPosition *position, XLogRecPtr sent_lsn);
extern XLogRecPtr trucker_position_confirmable(TruckerPosition *position);
extern bool trucker_position_has_unflushed(const TruckerPosition *position);
extern XLogRecPtr trucker_lsn_record_end(XLogRecPtr lsn);

#endif							/* TRUCKER_POSITION_H */
