/*
 * generated.h
 *	  Values of stored generated columns that a change does not carry.
 */
#ifndef TRUCKER_GENERATED_H
#define TRUCKER_GENERATED_H

#include "row.h"

/* in generated.c */
extern void trucker_generated_prepare(TruckerRelation *relation, Relation rel);
extern void trucker_generated_fill(TruckerRow *row, TruckerRelation *relation);
extern const char *trucker_generated_in_identity(const TruckerRelation *relation);

#endif							/* TRUCKER_GENERATED_H */
