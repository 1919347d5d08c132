/*
 * explain.c
 *	  explain(): a truck's SQL as it is executed, and the plans.
 *
 * Rendered for each input table, and for each operation if a template asks for it;
 * planned for an r of as many rows as the caller says, in the size class that a run of
 * that size would be in.  What is executed is planned likewise (program.c), so this is
 * not an opinion about the SQL but what the truck will do, as long as tables and
 * statistics are the same.
 *
 * Nothing is executed, but functions that are marked IMMUTABLE: so it is done as the
 * truck's role, in a security-restricted context, as start() does it.  What is at another
 * server is planned there, with the connection's rights, in a transaction that is never
 * committed.
 */
#include "trucker.h"

#include <ctype.h>

#include "access/relation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "identity.h"
#include "program.h"

PG_FUNCTION_INFO_V1(trucker_explain);

/* the columns that it returns */
enum
{
	COLUMN_INPUT_TABLE,
	COLUMN_OPERATION,
	COLUMN_PART,
	COLUMN_STATEMENT,
	COLUMN_SQL,
	COLUMN_PLAN,
	COLUMNS
};

typedef struct Explain
{
	ReturnSetInfo *rsinfo;
	const TruckerTruck *truck;
	TruckerOutput *output;
	double		nrows;
	Oid			relid;			/* the input table */
	const char *operation;		/* NULL: any */
} Explain;

/* Without the white space that stands around it in a file. */
static text *
trimmed(const char *sql)
{
	size_t		len;

	while (isspace((unsigned char) *sql))
		sql++;
	len = strlen(sql);
	while (len > 0 && isspace((unsigned char) sql[len - 1]))
		len--;
	return cstring_to_text_with_len(sql, len);
}

static void
put_row(const Explain *explain, const char *part, int number, const char *sql, const char *plan)
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {false};

	values[COLUMN_INPUT_TABLE] = ObjectIdGetDatum(explain->relid);
	nulls[COLUMN_OPERATION] = explain->operation == NULL;
	values[COLUMN_OPERATION] = explain->operation ? CStringGetTextDatum(explain->operation) : (Datum) 0;
	values[COLUMN_PART] = CStringGetTextDatum(part);
	values[COLUMN_STATEMENT] = Int32GetDatum(number);
	values[COLUMN_SQL] = PointerGetDatum(trimmed(sql));
	nulls[COLUMN_PLAN] = plan == NULL;
	values[COLUMN_PLAN] = plan ? CStringGetTextDatum(plan) : (Datum) 0;
	tuplestore_putvalues(explain->rsinfo->setResult, explain->rsinfo->setDesc, values, nulls);
}

/* What runs have: input.sql, then output.sql. */
static void
explain_operation(const Explain *explain, TruckerProgram *program, TruckerOperation operation)
{
	TruckerRows rows = {program->type->desc, trucker_program_estimate(explain->nrows), NULL};
	TruckerPlans *plans = trucker_program_plans(program, operation, explain->nrows);
	int			number = 0;
	ListCell   *lc;

	/* the executor looks at it, but reads no row */
	rows.store = tuplestore_begin_heap(true, false, work_mem);
	foreach(lc, trucker_program_input_statements(program, operation))
		put_row(explain, "input", ++number, lfirst(lc), trucker_script_explain(lfirst(lc), &rows));
	rows.desc = plans->result;
	number = 0;
	foreach(lc, explain->output->routine->explain(explain->output, trucker_program_output_sql(program, operation),
												  plans->output, &rows))
	{
		TruckerExplained *explained = lfirst(lc);

		put_row(explain, "output", ++number, explained->sql, explained->plan);
	}
	tuplestore_end(rows.store);
}

/* What a TRUNCATE of the table leads to; it is sent as it is to where the truck writes. */
static void
explain_truncate(const Explain *explain, const TruckerProgram *program)
{
	int			number = 0;
	ListCell   *lc;

	foreach(lc, trucker_program_truncate_statements(program))
		put_row(explain, "truncate", ++number, lfirst(lc),
				explain->output->routine->is_local ? trucker_script_explain(lfirst(lc), NULL) : NULL);
}

static void
explain_input(Explain *explain)
{
	Relation	rel = try_relation_open(explain->relid, AccessShareLock);
	TruckerIdentity saved;
	TruckerProgram *program;

	if (rel == NULL)
		trucker_raise_dropped(explain->truck->name, explain->relid);
	trucker_check_input_rights(explain->truck, rel);
	trucker_identity_push(&saved, explain->truck->role,
						  SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
						  explain->truck->search_path);
	program = trucker_program_create(explain->truck, explain->output, rel);
	for (int operation = 0; operation < trucker_program_operations(program); operation++)
	{
		explain->operation = program->by_operation ? trucker_operation_name(operation) : NULL;
		explain_operation(explain, program, operation);
	}
	explain->operation = NULL;
	explain_truncate(explain, program);
	trucker_program_free(program);
	trucker_identity_pop(&saved);
	relation_close(rel, NoLock);
}

/* explain(truck, rows) */
Datum
trucker_explain(PG_FUNCTION_ARGS)
{
	Explain		explain = {(ReturnSetInfo *) fcinfo->resultinfo, NULL, NULL, 0, InvalidOid, NULL};
	TruckerTruck *truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int64		nrows = PG_GETARG_INT64(1);

	if (nrows < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"rows\" of explain must be at least 1"),
				 errhint("It is the number of rows of a run for which the SQL is planned.")));
	trucker_truck_check_role(truck);
	InitMaterializedSRF(fcinfo, 0);
	explain.truck = truck;
	explain.nrows = nrows;
	/* start() would make it local */
	explain.output = trucker_output_leads_here(truck) ? trucker_output_local(truck) : trucker_output_create(truck);
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < truck->ninputs; i++)
	{
		explain.relid = truck->inputs[i];
		explain_input(&explain);
	}
	explain.output->routine->rollback(explain.output);
	PopActiveSnapshot();
	return (Datum) 0;
}
