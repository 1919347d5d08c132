/*
 * former.h
 *	  The definition that a truck had, while the one that it has cannot be run yet.
 */
#ifndef TRUCKER_FORMER_H
#define TRUCKER_FORMER_H

#include "truck.h"

typedef struct TruckerFormer
{
	TruckerTruck *truck;		/* as it was, but for its role, its stream, and tables that it reads no more */
	bool		in_force;		/* else it is not known yet whether it is needed */
	XLogRecPtr	switches_at;	/* what commits from here on is for the new definition; 0: not known yet */
} TruckerFormer;

/* in former.c */
extern void trucker_former_keep(const pg_uuid_t *truck_id);
extern void trucker_former_forget(const pg_uuid_t *truck_id);
extern TruckerFormer *trucker_former_load(const TruckerTruck *truck);
extern void trucker_former_set_in_force(const pg_uuid_t *truck_id, bool in_force);
extern void trucker_former_set_switch(const pg_uuid_t *truck_id, XLogRecPtr lsn);

#endif							/* TRUCKER_FORMER_H */
