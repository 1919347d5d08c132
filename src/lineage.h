/*
 * lineage.h
 *	  Which truck writes what another one reads; and whether it goes round.
 */
#ifndef TRUCKER_LINEAGE_H
#define TRUCKER_LINEAGE_H

#include "state.h"

/* in lineage.c */
extern void trucker_lineage_lock(void);
extern void trucker_lineage_check_start(List *ids);
extern void trucker_lineage_check_planned(const pg_uuid_t *id, List *relids);
extern bool trucker_lineage_is_read(Oid relid);
extern List *trucker_lineage_check_write(const pg_uuid_t *id, List *relids);

#endif							/* TRUCKER_LINEAGE_H */
