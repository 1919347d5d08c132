/*
 * script.h
 *	  Rendered SQL: one or more statements over the relation r.
 */
#ifndef TRUCKER_SCRIPT_H
#define TRUCKER_SCRIPT_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "nodes/bitmapset.h"
#include "utils/tuplestore.h"

/* What r is for one execution, or for planning one. */
typedef struct TruckerRows
{
	TupleDesc	desc;
	double		count;			/* for planning: an estimate */
	Tuplestorestate *store;		/* NULL while planning */
} TruckerRows;

/* Prepared statements; they belong to a memory context, and go with it. */
typedef struct TruckerScript
{
	int			n;
	SPIPlanPtr *plans;
	MemoryContextCallback on_reset;
} TruckerScript;

/* in script.c */
extern List *trucker_script_split(const char *sql, const char *source_name, bool allow_truncate);
extern TruckerScript *trucker_script_prepare(List *statements, const TruckerRows *rows);
extern TupleDesc trucker_script_result(const TruckerScript *script);
extern void trucker_script_execute(const TruckerScript *script, const TruckerRows *rows,
								   Tuplestorestate *result, TupleDesc result_desc);
extern void trucker_script_run(List *statements);
extern Bitmapset *trucker_script_columns_read(const TruckerScript *script, TupleDesc desc);
extern List *trucker_script_check_plans(const TruckerScript *script, const TruckerRows *rows);
extern List *trucker_script_check_statements(List *statements);
extern bool trucker_script_is_planned(const char *statement);
extern char *trucker_script_explain(const char *statement, const TruckerRows *rows);

#endif							/* TRUCKER_SCRIPT_H */
