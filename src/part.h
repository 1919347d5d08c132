/*
 * part.h
 *	  Partitions of an input table: what they log, and where their columns lie.
 */
#ifndef TRUCKER_PART_H
#define TRUCKER_PART_H

#include "row.h"

/* The partitions of one input table whose changes have been seen. */
typedef struct TruckerParts TruckerParts;

/* in part.c */
extern void trucker_parts_describe(TruckerRelation *relation, Relation rel);
extern bool trucker_parts_are_current(const TruckerRelation *relation, Relation rel);
extern char *trucker_parts_alter(List *names);
extern char *trucker_parts_alter_all(const TruckerRelation *relation);

extern TruckerPart *trucker_part_build(const TruckerRelation *relation, Oid relid, Relation rel);
extern TruckerParts *trucker_parts_create(void);
extern TruckerPart *trucker_parts_open(TruckerParts *parts, const TruckerRelation *relation, Oid relid);
extern void trucker_parts_close(TruckerParts *parts, bool committed);

#endif							/* TRUCKER_PART_H */
