/*
 * output_local.c
 *	  Write to this very database.
 *
 * output.sql runs in the transaction in which input.sql ran, over the same kind
 * of relation r; the position is a row of that transaction, too.  So there is
 * one commit, and it is exactly once by the server's own word.
 */
#include "trucker.h"

#include "commands/trigger.h"

#include "catalog.h"
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
local_settle(TruckerOutput *output)
{
	AfterTriggerFireDeferred();
}

/* As the server counts for its statistics; what we write ourselves is not the truck's. */
static TruckerChanged
local_changed(TruckerOutput *output)
{
	TruckerChanged changed;
	TruckerCatalog access;
	int64	   *counts[] = {&changed.inserted, &changed.updated, &changed.deleted};

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("SELECT coalesce(sum(n_tup_ins), 0)::bigint, coalesce(sum(n_tup_upd), 0)::bigint, coalesce(sum(n_tup_del), 0)::bigint "
								   "FROM pg_stat_xact_user_tables WHERE schemaname <> 'trucker' AND schemaname !~ '^pg_temp'",
								   0, NULL, NULL, NULL, SPI_OK_SELECT);
	for (int i = 0; i < lengthof(counts); i++)
	{
		bool		isnull;

		*counts[i] = DatumGetInt64(trucker_column(SPI_tuptable->vals[0], i + 1, &isnull));
	}
	trucker_catalog_end(&access);
	return changed;
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
	.settle = local_settle,
	.changed = local_changed,
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
