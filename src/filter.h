/*
 * filter.h
 *	  Which columns of an input table a truck's r has: only_columns, except_columns.
 */
#ifndef TRUCKER_FILTER_H
#define TRUCKER_FILTER_H

#include "row.h"
#include "state.h"
#include "truck.h"

/* What a call of create_truck() or alter_truck() says about filters. */
typedef struct TruckerFilterOptions
{
	Jsonb	   *only;			/* NULL: nothing */
	Jsonb	   *except;
} TruckerFilterOptions;

/* in filter.c */
extern Jsonb *trucker_filter_take_options(Jsonb *options, TruckerFilterOptions *taken);
extern void trucker_filter_set(TruckerTruck *truck, const TruckerFilterOptions *taken);
extern Bitmapset *trucker_filter_excluded(const TruckerTruck *truck, const TruckerRelation *relation);
extern char *trucker_filter_describe(const TruckerTruck *truck, const TruckerRelation *relation);

/* in filter_store.c */
extern List *trucker_filter_restored(const TruckerTruck *truck);
extern void trucker_filter_store(TruckerTruck *truck);
extern void trucker_filter_follow(const TruckerAltered *altered);

#endif							/* TRUCKER_FILTER_H */
