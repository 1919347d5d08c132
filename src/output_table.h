/*
 * output_table.h
 *	  The option output_table: SQL that is generated.
 */
#ifndef TRUCKER_OUTPUT_TABLE_H
#define TRUCKER_OUTPUT_TABLE_H

#include "access/tupdesc.h"

#include "truck.h"

/* A column of the output table. */
typedef struct TruckerTargetColumn
{
	char	   *name;
	bool		is_generated;	/* it cannot be written */
	bool		is_identity;	/* GENERATED ALWAYS AS IDENTITY: it cannot be updated */
	bool		is_key;			/* of the primary key */
} TruckerTargetColumn;

typedef struct TruckerTarget
{
	int			n;
	TruckerTargetColumn *columns;
} TruckerTarget;

/* in output_table.c */
extern char *trucker_target_name(const char *name);
extern TruckerTarget *trucker_target_describe(const char *name);
extern char *trucker_target_sql(const TruckerTruck *truck, const TruckerTarget *target, TupleDesc rows);

#endif							/* TRUCKER_OUTPUT_TABLE_H */
