/*
 * drained.h
 *	  Trucks that were drained for pg_upgrade.
 */
#ifndef TRUCKER_DRAINED_H
#define TRUCKER_DRAINED_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "truck.h"

/* What an input table holds. */
typedef struct TruckerDrainedTable
{
	Oid			relid;
	int64		nrows;
	bool		is_newer;		/* some of them are of that transaction or a later one */
} TruckerDrainedTable;

/* in drained.c */
extern uint64 trucker_drained_next_xid(List **pids);
extern TruckerDrainedTable *trucker_drained_look(Oid relid, uint64 next_xid);
extern void trucker_drained_record(const TruckerTruck *truck, XLogRecPtr lsn, uint64 next_xid, List *tables);
extern void trucker_drained_forget(const pg_uuid_t *truck_id);
extern XLogRecPtr trucker_drained_lsn(const TruckerTruck *truck);
extern const char *trucker_drained_trouble(const TruckerTruck *truck);

#endif							/* TRUCKER_DRAINED_H */
