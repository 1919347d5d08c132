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
extern void trucker_generated_check(const TruckerRelation *relation, const TruckerDecoder *decoder);

#endif							/* TRUCKER_GENERATED_H */
