/*
 * column_list.h
 *	  Which columns of the input tables trucker's publications hold.
 */
#ifndef TRUCKER_COLUMN_LIST_H
#define TRUCKER_COLUMN_LIST_H

#include "nodes/bitmapset.h"

#include "state.h"

/* What a truck needs of one input table. */
typedef struct TruckerColumnNeed
{
	Oid			relid;
	Bitmapset  *attnums;		/* NULL: all */
	char	   *made_of;		/* the table's columns when that was found out, one after the other */
} TruckerColumnNeed;

/* in column_list.c: in a worker, in an open transaction that has locked the publications */
extern bool trucker_column_need_covers(const pg_uuid_t *truck_id, const TruckerColumnNeed *need);
extern void trucker_column_need_set(const pg_uuid_t *truck_id, const TruckerColumnNeed *need);
extern void trucker_column_need_want(const pg_uuid_t *truck_id, const TruckerColumnNeed *need);
extern bool trucker_column_need_wants_of(const pg_uuid_t *truck_id, const TruckerColumnNeed *need);
extern void trucker_column_need_unwant(const pg_uuid_t *truck_id);
extern void trucker_column_need_take_wanted(const pg_uuid_t *truck_id);
extern void trucker_column_list_adapt(const char *publication);
extern void trucker_column_list_open(const char *publication, const TruckerTruck *truck, Oid relid);

/* ... in any transaction */
extern void trucker_column_need_forget(const pg_uuid_t *truck_id);
extern void trucker_column_need_forget_others(const pg_uuid_t *truck_id);
extern XLogRecPtr trucker_column_list_usable(const char *publication, const TruckerTruck *truck);
extern bool trucker_column_list_carries(const char *publication, const TruckerColumnNeed *need, XLogRecPtr lsn);
extern bool trucker_column_list_is_due(const char *publication, const pg_uuid_t *stream_id);

/* in column_list_guard.c: in anybody's session */
extern void trucker_column_list_set(Oid publication, Oid relid, const Bitmapset *attnums);
extern void trucker_column_list_after(const TruckerAltered *altered);
extern char *trucker_column_list_restored(Node *statement);
extern void trucker_column_list_strip(const char *publication);

#endif							/* TRUCKER_COLUMN_LIST_H */
