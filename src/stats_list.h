/*
 * stats_list.h
 *	  The trucks and streams whose figures somebody may see.
 */
#ifndef TRUCKER_STATS_LIST_H
#define TRUCKER_STATS_LIST_H

#include "nodes/pg_list.h"
#include "utils/uuid.h"

typedef struct TruckerListed
{
	pg_uuid_t	id;
	char	   *name;
	Oid			owner;
	bool		home;			/* of a stream: no catch-up stream */
	char	   *slot_name;		/* likewise; NULL: none yet */
} TruckerListed;

/* in stats_list.c */
extern List *trucker_list_trucks(bool for_owner);
extern List *trucker_list_streams(bool for_owner);

#endif							/* TRUCKER_STATS_LIST_H */
