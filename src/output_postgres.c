/*
 * output_postgres.c
 *	  Write to another PostgreSQL server.
 *
 * The destination's transaction is one there.  Ours, in which input.sql runs, commits
 * after it; what that means after a crash is in remote_position.c.
 *
 * A small batch takes one round trip: BEGIN, settings, the lock of the position,
 * output.sql with the rows as parameters, the position and COMMIT are sent one behind
 * the other, and the answers read when all has been sent (libpq's pipeline mode).
 * Statements are prepared once a session, for each size of r its own.  In a larger
 * batch answers are read now and then, so that neither side has to buffer much.
 *
 * A run whose rows take more than SMALL_RUN bytes goes by COPY into a temporary table,
 * made once a session for each set of columns.  COPY cannot be part of a pipeline, so
 * that takes a few round trips more; and its statements are planned anew each time, as
 * the table is as large as it is then.
 *
 * Behind a pooler that gives sessions to transactions (pgbouncer) nothing is kept
 * between transactions: statements are not prepared, and the table is made in the
 * transaction that needs it.
 *
 * After any error the connection is closed: all that the session held is gone with it,
 * and the next one begins with asking the destination where it is.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "output.h"
#include "remote_session.h"
#include "remote_sql.h"
#include "remote_types.h"
#include "value.h"

/*
 * In bytes of parameters.  test/bench/remote.sh showed no difference in time between the
 * two ways beyond its noise, so this is about memory, ours and libpq's.
 */
#define SMALL_RUN (128 * 1024)
/* in explain(): more rows than that are taken for too many for it */
#define EXPLAIN_PARAMS 100
#define COPY_BUFFER (64 * 1024)
/* a session is given up, between batches, when so many names have been used in it */
#define MAX_NAMES 1000

/* One statement of output.sql. */
typedef struct RemoteStatement
{
	const char *raw;
	bool		reads_rows;
	char	   *params_sql;		/* raw, if it reads no rows */
	char	   *table_sql;
	uint64		session;		/* in which it has been prepared */
	char		name[NAMEDATALEN];
} RemoteStatement;

/* output.sql, prepared for an r of certain columns. */
typedef struct RemotePlan
{
	int			n;
	RemoteStatement *statements;
	TruckerRemoteShape *shape;
	bool		reads_rows;
	uint64		session;		/* in which the table has been made */
	char		table[NAMEDATALEN + 16];
	uint64		transaction;	/* which used it last */
} RemotePlan;

/* ----
 * The session
 * ----
 */

/* Is there nothing to do before a batch? */
static bool
is_ready(const TruckerRemote *remote)
{
	return remote->taken && remote->changes == trucker_connection_changes() &&
		remote->names < MAX_NAMES && trucker_remote_is_alive(remote->conn);
}

static const char *
remote_make_ready(TruckerOutput *output, TruckerPosition *position)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	MemoryContext old = CurrentMemoryContext;
	const char *trouble;

	/* hear what has been altered by now */
	StartTransactionCommand();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	if (is_ready(remote))
		return NULL;
	trucker_remote_close(remote);
	trucker_remote_open(remote);
	MemoryContextSwitchTo(remote->session_context);
	trouble = output->rehearses ?
		trucker_remote_position_look(remote->conn, remote->position, output->truck, position) :
		trucker_remote_position_take(remote->conn, remote->position, output->truck, position);
	MemoryContextSwitchTo(old);
	if (trouble)
	{
		trouble = pstrdup(trouble);
		trucker_remote_close(remote);
	}
	else
		remote->taken = true;
	return trouble;
}

static bool
remote_needs_reset(TruckerOutput *output)
{
	TruckerRemote *remote = (TruckerRemote *) output;

	return remote->position && remote->position->must_reset;
}

/* ----
 * Runs
 * ----
 */

static RemotePlan *
make_plan(const char *sql, TupleDesc desc)
{
	RemotePlan *plan = palloc0(sizeof(RemotePlan));
	List	   *statements = trucker_script_split(sql, "output_sql", false);
	char	   *params_query;
	ListCell   *lc;

	plan->statements = palloc0(Max(list_length(statements), 1) * sizeof(RemoteStatement));
	/* of what input.sql returns, too, only what is read is sent */
	plan->shape = trucker_remote_shape_create(desc, trucker_sql_columns_named(statements, desc));
	params_query = trucker_remote_shape_params_query(plan->shape);
	foreach(lc, statements)
	{
		RemoteStatement *statement = &plan->statements[plan->n++];

		statement->raw = lfirst(lc);
		statement->reads_rows = trucker_sql_reads_rows(statement->raw);
		statement->params_sql = statement->reads_rows ?
			trucker_sql_with_rows(statement->raw, params_query) : pstrdup(statement->raw);
		plan->reads_rows |= statement->reads_rows;
	}
	return plan;
}

static Bitmapset *
remote_columns_read(TruckerOutput *output, const char *sql, TupleDesc desc)
{
	return trucker_sql_columns_named(trucker_script_split(sql, "output_sql", false), desc);
}

static void *
remote_prepare(TruckerOutput *output, const char *sql, const TruckerRows *rows)
{
	return make_plan(sql, rows->desc);
}

static void
send_statement(TruckerRemote *remote, RemotePlan *plan, RemoteStatement *statement, char **params)
{
	PGconn	   *pg = remote->conn->pg;
	int			n = statement->reads_rows ? plan->shape->nparams : 0;
	Size		bytes = strlen(statement->params_sql);

	for (int i = 0; i < n; i++)
		bytes += strlen(params[i]);
	if (remote->position->pooled)
	{
		trucker_remote_sent(remote, PQsendQueryParams(pg, statement->params_sql, n, plan->shape->param_types,
									   (const char *const *) params, NULL, NULL, 0),
			 TRUCKER_EXPECT_ANYTHING, statement->raw, bytes);
		return;
	}
	if (statement->session != remote->session)
	{
		snprintf(statement->name, NAMEDATALEN, "trucker_%d", ++remote->names);
		trucker_remote_sent(remote, PQsendPrepare(pg, statement->name, statement->params_sql, n, plan->shape->param_types),
			 TRUCKER_EXPECT_ANYTHING, statement->raw, 0);
		statement->session = remote->session;
	}
	trucker_remote_sent(remote, PQsendQueryPrepared(pg, statement->name, n, (const char *const *) params, NULL, NULL, 0),
		 TRUCKER_EXPECT_ANYTHING, statement->raw, bytes);
}

/* ----
 * Large runs
 * ----
 */

/* An empty table for the rows. */
static void
make_table(TruckerRemote *remote, RemotePlan *plan)
{
	bool		once = !remote->position->pooled;
	bool		used = plan->transaction == remote->transaction;

	plan->transaction = remote->transaction;
	if (plan->session == remote->session && (once || used))
	{
		/* at the end of a transaction the server empties it */
		if (used)
			PQclear(trucker_conn_exec(remote->conn, psprintf("TRUNCATE %s", plan->table), PGRES_COMMAND_OK));
		return;
	}
	snprintf(plan->table, sizeof(plan->table), "pg_temp.trucker_r%d", ++remote->names);
	PQclear(trucker_conn_exec(remote->conn, psprintf("CREATE TEMPORARY TABLE %s (%s) ON COMMIT %s",
													 plan->table + strlen("pg_temp."),
													 trucker_remote_shape_columns(plan->shape),
													 once ? "DELETE ROWS" : "DROP"), PGRES_COMMAND_OK));
	plan->session = remote->session;
	for (int i = 0; i < plan->n; i++)
	{
		RemoteStatement *statement = &plan->statements[i];
		char	   *sql = statement->reads_rows ?
			trucker_sql_with_rows(statement->raw, trucker_remote_shape_table_query(plan->shape, plan->table)) :
			statement->params_sql;

		/* behind a pooler each transaction has a table of its own */
		if (statement->table_sql)
			pfree(statement->table_sql);
		statement->table_sql = MemoryContextStrdup(GetMemoryChunkContext(plan), sql);
	}
}

static void
put_data(TruckerRemote *remote, StringInfo buffer, const char *command)
{
	int			done;

	while ((done = PQputCopyData(remote->conn->pg, buffer->data, buffer->len)) == 0)
		trucker_conn_flush(remote->conn);
	if (done < 0)
		trucker_conn_raise(remote->conn, NULL, command);
	trucker_conn_flush(remote->conn);
	resetStringInfo(buffer);
}

static void
copy_rows(TruckerRemote *remote, RemotePlan *plan, const TruckerRows *rows)
{
	char	   *command = psprintf("COPY %s FROM STDIN", plan->table);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(plan->shape->desc, &TTSOpsMinimalTuple);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "trucker row to copy", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	StringInfoData buffer;
	PGresult   *result;
	int			nestlevel = trucker_value_set_formats();

	PQclear(trucker_conn_exec(remote->conn, command, PGRES_COPY_IN));
	initStringInfo(&buffer);
	tuplestore_rescan(rows->store);
	while (tuplestore_gettupleslot(rows->store, true, false, slot))
	{
		MemoryContextSwitchTo(row_context);
		trucker_remote_copy_row(plan->shape, slot, &buffer);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
		if (buffer.len >= COPY_BUFFER)
			put_data(remote, &buffer, command);
		CHECK_FOR_INTERRUPTS();
	}
	put_data(remote, &buffer, command);
	AtEOXact_GUC(false, nestlevel);
	while ((nestlevel = PQputCopyEnd(remote->conn->pg, NULL)) == 0)
		trucker_conn_flush(remote->conn);
	if (nestlevel < 0)
		trucker_conn_raise(remote->conn, NULL, command);
	trucker_conn_flush(remote->conn);
	while ((result = trucker_conn_result(remote->conn)) != NULL)
	{
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			trucker_conn_raise(remote->conn, result, command);
		PQclear(result);
	}
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(row_context);
}

static void
execute_large(TruckerRemote *remote, RemotePlan *plan, const TruckerRows *rows)
{
	trucker_remote_leave_pipeline(remote);
	make_table(remote, plan);
	copy_rows(remote, plan, rows);
	trucker_remote_enter_pipeline(remote);
	for (int i = 0; i < plan->n; i++)
		trucker_remote_sent(remote, PQsendQueryParams(remote->conn->pg, plan->statements[i].table_sql, 0, NULL, NULL, NULL, NULL, 0),
			 TRUCKER_EXPECT_ANYTHING, plan->statements[i].raw, strlen(plan->statements[i].table_sql));
	/* the next run may want the table */
	trucker_remote_sync(remote);
}

static void
remote_execute(TruckerOutput *output, void *prepared, const TruckerRows *rows)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	RemotePlan *plan = prepared;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);
	char	  **params = NULL;
	int			nestlevel;

	trucker_remote_begin(remote);
	if (plan->reads_rows)
	{
		nestlevel = trucker_value_set_formats();
		params = trucker_remote_params(plan->shape, rows, SMALL_RUN);
		AtEOXact_GUC(false, nestlevel);
	}
	if (plan->reads_rows && params == NULL)
		execute_large(remote, plan, rows);
	else
	{
		for (int i = 0; i < plan->n; i++)
			send_statement(remote, plan, &plan->statements[i], params);
		/* what is under way is kept by libpq */
		trucker_conn_flush(remote->conn);
	}
	MemoryContextSwitchTo(old);
	/* no answer is waited for, but those that have been sent refer to the plan's text */
	if (remote->first == remote->last)
		MemoryContextReset(remote->batch_context);
}

static void
remote_run(TruckerOutput *output, List *statements)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);
	ListCell   *lc;

	trucker_remote_begin(remote);
	foreach(lc, statements)
		trucker_remote_send(remote, pstrdup(lfirst(lc)), TRUCKER_EXPECT_ANYTHING);
	trucker_remote_sync(remote);
	MemoryContextSwitchTo(old);
	MemoryContextReset(remote->batch_context);
}

/* ----
 * The end of a batch
 * ----
 */

static void
remote_commit(TruckerOutput *output, TruckerPosition *position, XLogRecPtr lsn)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);
	const char *values[2];

	trucker_remote_begin(remote);
	values[0] = psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
	values[1] = psprintf("%u", GetWALInsertionTimeLine());
	trucker_remote_sent(remote, PQsendQueryParams(remote->conn->pg, remote->position->write_sql, 2, NULL, values, NULL, NULL, 0),
		 TRUCKER_EXPECT_ONE_ROW, remote->position->write_sql, 0);
	trucker_stop_point("remote: before commit");
	trucker_remote_send(remote, "COMMIT", TRUCKER_EXPECT_COMMIT);
	trucker_remote_sync(remote);
	remote->position->lsn = lsn;
	remote->position->must_reset = false;
	MemoryContextSwitchTo(old);
	MemoryContextReset(remote->batch_context);
	trucker_stop_point("remote: committed");
}

/*
 * Deferred constraints and triggers are executed, and may fail; what the triggers do is
 * undone, and that the constraints are immediate, as SET CONSTRAINTS would hold for all
 * that follows.
 */
static void
remote_settle(TruckerOutput *output)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	static const char *const commands[] = {"SAVEPOINT trucker", "SET CONSTRAINTS ALL IMMEDIATE",
	"ROLLBACK TO SAVEPOINT trucker", "RELEASE SAVEPOINT trucker"};

	if (!remote->begun)
		return;
	trucker_remote_leave_pipeline(remote);
	for (int i = 0; i < lengthof(commands); i++)
		PQclear(trucker_conn_exec(remote->conn, commands[i], PGRES_COMMAND_OK));
}

/* Waits for all that has been sent. */
static TruckerChanged
remote_changed(TruckerOutput *output)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	TruckerChanged changed = {0, 0, 0};
	PGresult   *result;

	if (!remote->begun)
		return changed;
	trucker_remote_leave_pipeline(remote);
	result = trucker_conn_exec(remote->conn, "SELECT pg_catalog.sum(n_tup_ins), pg_catalog.sum(n_tup_upd), pg_catalog.sum(n_tup_del) "
							   "FROM pg_catalog.pg_stat_xact_user_tables WHERE schemaname OPERATOR(pg_catalog.!~) '^pg_temp'", PGRES_TUPLES_OK);
	changed.inserted = strtoi64(PQgetvalue(result, 0, 0), NULL, 10);
	changed.updated = strtoi64(PQgetvalue(result, 0, 1), NULL, 10);
	changed.deleted = strtoi64(PQgetvalue(result, 0, 2), NULL, 10);
	PQclear(result);
	return changed;
}

static void
remote_committed(TruckerOutput *output)
{
	((TruckerRemote *) output)->begun = false;
}

/*
 * Also where the error came after the COMMIT there and before ours: what we know of the
 * position is not true any more then, and the destination must be asked.
 */
static void
remote_rollback(TruckerOutput *output)
{
	TruckerRemote *remote = (TruckerRemote *) output;

	if (remote->begun || !remote->taken)
		trucker_remote_close(remote);
	remote->checking = false;
}

/* ----
 * Checks
 * ----
 */

/* Connect only for checks: a transaction that is never committed, and no row is touched. */
static void
begin_checks(TruckerRemote *remote)
{
	PGresult   *result;
	bool		may_make_tables;

	if (remote->checking)
		return;
	trucker_remote_close(remote);
	remote->checking = true;
	trucker_remote_open(remote);
	MemoryContextSwitchTo(remote->batch_context);
	trucker_remote_position_begin(remote->conn, remote->position);
	trucker_remote_position_make_table(remote->conn, remote->position);
	result = trucker_conn_exec(remote->conn, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')",
							   PGRES_TUPLES_OK);
	may_make_tables = PQgetvalue(result, 0, 0)[0] == 't';
	PQclear(result);
	if (!may_make_tables)
		ereport(WARNING,
				(errmsg("the user of connection \"%s\" may not make temporary tables", remote->output.truck->connection),
				 errdetail("Runs of more than %d kB go through one, and will fail.", SMALL_RUN / 1024),
				 errhint("GRANT TEMPORARY on the database there.")));
}

static char *
explain_sql(const char *command, const char *name, int nparams)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "%s %s", command, name);
	for (int i = 0; i < nparams; i++)
		appendStringInfoString(&sql, i == 0 ? " (NULL" : ", NULL");
	if (nparams > 0)
		appendStringInfoChar(&sql, ')');
	return sql.data;
}

static List *
remote_check(TruckerOutput *output, void *prepared, const TruckerRows *rows)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	RemotePlan *plan = prepared;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);

	begin_checks(remote);
	trucker_remote_enter_pipeline(remote);
	for (int i = 0; i < plan->n; i++)
	{
		RemoteStatement *statement = &plan->statements[i];

		int			nparams = statement->reads_rows ? plan->shape->nparams : 0;
		char	   *name = psprintf("trucker_check_%d", ++remote->names);

		trucker_remote_sent(remote, PQsendPrepare(remote->conn->pg, name, statement->params_sql, nparams, plan->shape->param_types),
			 TRUCKER_EXPECT_ANYTHING, statement->raw, 0);
		/* which also looks whether the user there may do what the plan does */
		trucker_remote_sent(remote, PQsendQueryParams(remote->conn->pg, explain_sql("EXPLAIN EXECUTE", name, nparams), 0, NULL, NULL, NULL, NULL, 0),
			 TRUCKER_EXPECT_ANYTHING, statement->raw, 0);
	}
	trucker_remote_leave_pipeline(remote);
	MemoryContextSwitchTo(old);
	return NIL;
}

/* The lines of a plan, in the current memory context. */
static char *
explain_there(TruckerRemote *remote, const char *sql)
{
	PGresult   *result = trucker_conn_exec(remote->conn, sql, PGRES_TUPLES_OK);
	StringInfoData plan;

	initStringInfo(&plan);
	for (int i = 0; i < PQntuples(result); i++)
		appendStringInfo(&plan, "%s%s", i > 0 ? "\n" : "", PQgetvalue(result, i, 0));
	PQclear(result);
	return plan.data;
}

/* The plan of a statement that gets the rows as parameters: for arrays that are not known. */
static char *
explain_params(TruckerRemote *remote, RemotePlan *plan, RemoteStatement *statement)
{
	int			nparams = statement->reads_rows ? plan->shape->nparams : 0;
	char	   *name = psprintf("trucker_explain_%d", ++remote->names);

	trucker_remote_enter_pipeline(remote);
	trucker_remote_sent(remote, PQsendPrepare(remote->conn->pg, name, statement->params_sql, nparams, plan->shape->param_types),
		 TRUCKER_EXPECT_ANYTHING, statement->raw, 0);
	trucker_remote_leave_pipeline(remote);
	PQclear(trucker_conn_exec(remote->conn, "SET LOCAL plan_cache_mode = force_generic_plan", PGRES_COMMAND_OK));
	return explain_there(remote, explain_sql("EXPLAIN (VERBOSE, FORMAT TEXT) EXECUTE", name, nparams));
}

/*
 * As a run of that many rows would be executed there.  How many rows go through a
 * temporary table depends on their size, of which nothing is known here.
 */
static List *
remote_explain(TruckerOutput *output, const char *sql, void *prepared, const TruckerRows *rows)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	RemotePlan *plan = prepared;
	MemoryContext old = CurrentMemoryContext;
	List	   *explained = NIL;
	bool		large = plan->reads_rows && rows->count > EXPLAIN_PARAMS;

	begin_checks(remote);
	MemoryContextSwitchTo(old);
	trucker_remote_leave_pipeline(remote);
	if (large)
	{
		make_table(remote, plan);
		PQclear(trucker_conn_exec(remote->conn, psprintf("INSERT INTO %s SELECT FROM pg_catalog.generate_series(1, %.0f)",
														 plan->table, rows->count), PGRES_COMMAND_OK));
	}
	for (int i = 0; i < plan->n; i++)
	{
		RemoteStatement *statement = &plan->statements[i];
		TruckerExplained *one = palloc0(sizeof(TruckerExplained));

		one->sql = pstrdup(large ? statement->table_sql : statement->params_sql);
		if (trucker_script_is_planned(statement->raw))
			one->plan = large ? explain_there(remote, psprintf("EXPLAIN (VERBOSE, FORMAT TEXT) %s", one->sql)) :
				explain_params(remote, plan, statement);
		explained = lappend(explained, one);
	}
	return explained;
}

/* TRUNCATE cannot be prepared; the names it holds are not looked up before it runs. */
static List *
remote_check_statements(TruckerOutput *output, List *statements)
{
	return NIL;
}

static TruckerTarget *
remote_describe_table(TruckerOutput *output, const char *name)
{
	TruckerRemote *remote = (TruckerRemote *) output;
	char	   *sql = psprintf("SELECT a.attname, a.attgenerated <> '', a.attidentity = 'a', coalesce(a.attnum = ANY (i.indkey), false) "
							   "FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisprimary "
							   "WHERE a.attrelid = %s::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
							   quote_literal_cstr(trucker_target_name(name)));
	TruckerTarget *target = palloc0(sizeof(TruckerTarget));
	MemoryContext old = CurrentMemoryContext;
	PGresult   *result;

	if (remote->conn == NULL)
		begin_checks(remote);
	MemoryContextSwitchTo(old);
	trucker_remote_leave_pipeline(remote);
	result = trucker_conn_exec(remote->conn, sql, PGRES_TUPLES_OK);
	target->n = PQntuples(result);
	target->columns = palloc0(Max(target->n, 1) * sizeof(TruckerTargetColumn));
	for (int i = 0; i < target->n; i++)
	{
		target->columns[i].name = pstrdup(PQgetvalue(result, i, 0));
		target->columns[i].is_generated = PQgetvalue(result, i, 1)[0] == 't';
		target->columns[i].is_identity = PQgetvalue(result, i, 2)[0] == 't';
		target->columns[i].is_key = PQgetvalue(result, i, 3)[0] == 't';
	}
	PQclear(result);
	return target;
}

static const TruckerOutputRoutine postgres_routine = {
	.adapter = "postgres",
	.is_local = false,
	.make_ready = remote_make_ready,
	.describe_table = remote_describe_table,
	.columns_read = remote_columns_read,
	.prepare = remote_prepare,
	.check = remote_check,
	.explain = remote_explain,
	.execute = remote_execute,
	.run = remote_run,
	.check_statements = remote_check_statements,
	.commit = remote_commit,
	.settle = remote_settle,
	.changed = remote_changed,
	.committed = remote_committed,
	.rollback = remote_rollback,
	.needs_reset = remote_needs_reset,
};

/* A destination at another server, in a child of the current memory context. */
TruckerOutput *
trucker_output_postgres(const TruckerTruck *truck)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker remote output", ALLOCSET_DEFAULT_SIZES);
	TruckerRemote *remote = MemoryContextAllocZero(context, sizeof(TruckerRemote));

	remote->output.routine = &postgres_routine;
	remote->output.truck = truck;
	remote->context = context;
	remote->session_context = AllocSetContextCreate(context, "trucker remote session", ALLOCSET_DEFAULT_SIZES);
	remote->batch_context = AllocSetContextCreate(context, "trucker remote batch", ALLOCSET_DEFAULT_SIZES);
	return &remote->output;
}
