/*
 * program.h
 *	  A truck's SQL, compiled for one of its input tables.
 */
#ifndef TRUCKER_PROGRAM_H
#define TRUCKER_PROGRAM_H

#include "output.h"
#include "row.h"
#include "template.h"
#include "truck.h"

/* plans are made for about 1, 10, 100, ... rows */
#define TRUCKER_SIZE_CLASSES 6

/* Both SQLs, rendered for one operation and planned for one size of r. */
typedef struct TruckerPlans
{
	TruckerScript *input;		/* NULL: no input.sql */
	TupleDesc	result;			/* of input.sql, or r itself */
	void	   *output;
} TruckerPlans;

typedef struct TruckerProgram
{
	const TruckerTruck *truck;
	TruckerOutput *output;
	MemoryContext context;		/* all of the below */
	TruckerTemplate *input_template;	/* NULL: no input.sql */
	TruckerTemplate *output_template;	/* NULL: generated */
	TruckerTarget *target;		/* for which it is generated, else NULL */
	TruckerTemplate *truncate_template; /* NULL: no truncate_sql */
	bool		by_operation;	/* a template asks for .operation */

	TruckerRelation *relation;
	char	   *filtered;		/* what the truck's options leave out of r, for errors; NULL: nothing */
	TruckerRowType *full;		/* all columns that r could have */
	TruckerRowType *type;		/* those that the SQL reads */
	TruckerPlans *plans[TRUCKER_OPERATIONS][TRUCKER_SIZE_CLASSES];
} TruckerProgram;

/* in program.c */
extern TruckerProgram *trucker_program_create(const TruckerTruck *truck, TruckerOutput *output, Relation rel);
extern int	trucker_program_operations(const TruckerProgram *program);
extern double trucker_program_estimate(double nrows);
extern List *trucker_program_input_statements(const TruckerProgram *program, TruckerOperation operation);
extern char *trucker_program_output_sql(TruckerProgram *program, TruckerOperation operation);
extern void trucker_program_free(TruckerProgram *program);
extern TruckerPlans *trucker_program_plans(TruckerProgram *program, TruckerOperation operation, double nrows);
extern List *trucker_program_truncate_statements(const TruckerProgram *program);
extern void trucker_check_input_rights(const TruckerTruck *truck, Relation rel);
extern void trucker_program_check_identity(const TruckerProgram *program);
extern void trucker_program_check(TruckerProgram *program, List **written);
extern List *trucker_program_targets(const TruckerTruck *truck);
extern void trucker_program_check_syntax(const TruckerTruck *truck);

#endif							/* TRUCKER_PROGRAM_H */
