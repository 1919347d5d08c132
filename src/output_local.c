/*
 * output_local.c
 *	  Write to this very database.
 *
 * output.sql runs in the transaction in which input.sql ran, over the same kind
 * of relation r; the position is a row of that transaction, too.  So there is
 * one commit, and it is exactly once by the server's own word.
 */
#include "trucker.h"

#include "output.h"

static const char *
local_make_ready(TruckerOutput *output, TruckerPosition *position)
{
	return NULL;
}

static TruckerTarget *
local_describe_table(TruckerOutput *output, const char *name)
{
	return trucker_target_describe(name);
}

static Bitmapset *
local_columns_read(TruckerOutput *output, const char *sql, TupleDesc desc)
{
	TruckerRows rows = {desc, 1, NULL};

	return trucker_script_columns_read(trucker_script_prepare(trucker_script_split(sql, "output_sql", false), &rows),
									   desc);
}

static void *
local_prepare(TruckerOutput *output, const char *sql, const TruckerRows *rows)
{
	return trucker_script_prepare(trucker_script_split(sql, "output_sql", false), rows);
}

static List *
local_check(TruckerOutput *output, void *prepared, const TruckerRows *rows)
{
	return trucker_script_check_plans(prepared, rows);
}

static List *
local_explain(TruckerOutput *output, const char *sql, void *prepared, const TruckerRows *rows)
{
	List	   *explained = NIL;
	ListCell   *lc;

	foreach(lc, trucker_script_split(sql, "output_sql", false))
	{
		TruckerExplained *one = palloc(sizeof(TruckerExplained));

		one->sql = lfirst(lc);
		one->plan = trucker_script_explain(one->sql, rows);
		explained = lappend(explained, one);
	}
	return explained;
}

static void
local_execute(TruckerOutput *output, void *prepared, const TruckerRows *rows)
{
	trucker_script_execute((TruckerScript *) prepared, rows, NULL, NULL);
}

static void
local_run(TruckerOutput *output, List *statements)
{
	trucker_script_run(statements);
}

static List *
local_check_statements(TruckerOutput *output, List *statements)
{
	return trucker_script_check_statements(statements);
}

static void
local_commit(TruckerOutput *output, TruckerPosition *position, XLogRecPtr lsn)
{
}

static void
local_committed(TruckerOutput *output)
{
}

static void
local_rollback(TruckerOutput *output)
{
}

static bool
local_needs_reset(TruckerOutput *output)
{
	return false;
}

static const TruckerOutputRoutine local_routine = {
	.adapter = "local",
	.is_local = true,
	.make_ready = local_make_ready,
	.describe_table = local_describe_table,
	.columns_read = local_columns_read,
	.prepare = local_prepare,
	.check = local_check,
	.explain = local_explain,
	.execute = local_execute,
	.run = local_run,
	.check_statements = local_check_statements,
	.commit = local_commit,
	.committed = local_committed,
	.rollback = local_rollback,
	.needs_reset = local_needs_reset,
};

TruckerOutput *
trucker_output_local(const TruckerTruck *truck)
{
	TruckerOutput *output = palloc0(sizeof(TruckerOutput));

	output->routine = &local_routine;
	output->truck = truck;
	return output;
}
