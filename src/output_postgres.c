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
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "output.h"
#include "remote_position.h"
#include "remote_sql.h"
#include "remote_types.h"

#define SMALL_RUN (128 * 1024)
#define COPY_BUFFER (64 * 1024)
/* answers are read when so much is under way */
#define MAX_PENDING 128
#define MAX_PENDING_BYTES (1024 * 1024)
/* a session is given up, between batches, when so many names have been used in it */
#define MAX_NAMES 1000

/* What an answer that is yet to come belongs to. */
typedef enum Expect
{
	EXPECT_ANYTHING,
	EXPECT_LOCK,
	EXPECT_COMMIT,
	EXPECT_ONE_ROW,
	EXPECT_SYNC
} Expect;

typedef struct Pending
{
	Expect		expect;
	const char *sql;			/* for errors */
} Pending;

typedef struct Remote
{
	TruckerOutput output;
	MemoryContext context;

	/* the session */
	MemoryContext session_context;	/* a reset closes the connection */
	TruckerConn *conn;			/* NULL: none */
	TruckerRemotePosition *position;
	uint64		changes;		/* of servers and mappings, before we connected */
	uint64		session;		/* its number */
	uint64		transaction;	/* the number of the last one */
	int			names;			/* of statements and tables, used up */
	bool		checking;		/* only to find out whether SQL can be prepared */

	/* the open transaction */
	bool		begun;
	MemoryContext batch_context;
	Pending		pending[MAX_PENDING + 16];
	int			first;			/* of the pending ones that have not been answered */
	int			last;
	Size		bytes;			/* sent since answers were read */
} Remote;

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

static void
close_session(Remote *remote)
{
	remote->conn = NULL;
	remote->position = NULL;
	remote->begun = false;
	remote->first = remote->last = 0;
	remote->bytes = 0;
	MemoryContextReset(remote->session_context);
	MemoryContextReset(remote->batch_context);
}

/* Connect, in a transaction or outside of any. */
static void
open_session(Remote *remote)
{
	const TruckerTruck *truck = remote->output.truck;
	MemoryContext old = MemoryContextSwitchTo(remote->session_context);
	bool		own_transaction = !IsTransactionState();
	TruckerConnection *connection;

	/* before the catalogs are read: what is altered after that, we hear of */
	remote->changes = trucker_connection_changes();
	if (own_transaction)
	{
		StartTransactionCommand();
		MemoryContextSwitchTo(remote->session_context);
	}
	connection = trucker_connection_load(truck->connection, truck->role);
	if (own_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(remote->session_context);
	remote->conn = trucker_connection_open(connection, psprintf(TRUCKER_APPLICATION_NAME, truck->name));
	remote->position = trucker_remote_position_open(remote->conn, connection, truck);
	remote->session++;
	remote->names = 0;
	MemoryContextSwitchTo(old);
}

/*
 * Has the other end gone while we did nothing?  What it says unasked is its farewell, or
 * might be.
 */
static bool
is_alive(TruckerConn *conn)
{
	return PQstatus(conn->pg) == CONNECTION_OK &&
		(WaitLatchOrSocket(NULL, WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   PQsocket(conn->pg), 0, PG_WAIT_EXTENSION) & WL_SOCKET_READABLE) == 0;
}

static bool
remote_is_ready(TruckerOutput *output)
{
	Remote	   *remote = (Remote *) output;

	return remote->conn != NULL && remote->changes == trucker_connection_changes() &&
		remote->names < MAX_NAMES && is_alive(remote->conn);
}

static const char *
remote_make_ready(TruckerOutput *output, TruckerPosition *position)
{
	Remote	   *remote = (Remote *) output;
	MemoryContext old = CurrentMemoryContext;
	const char *trouble;

	/* hear what has been altered by now */
	StartTransactionCommand();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	if (remote_is_ready(output))
		return NULL;
	close_session(remote);
	open_session(remote);
	MemoryContextSwitchTo(remote->session_context);
	trouble = trucker_remote_position_take(remote->conn, remote->position, output->truck, position);
	MemoryContextSwitchTo(old);
	if (trouble)
	{
		trouble = pstrdup(trouble);
		close_session(remote);
	}
	return trouble;
}

static bool
remote_needs_reset(TruckerOutput *output)
{
	Remote	   *remote = (Remote *) output;

	return remote->position && remote->position->must_reset;
}

/* ----
 * The pipeline
 * ----
 */

static void
raise_answer(Remote *remote, PGresult *result, const Pending *pending)
{
	if (pending->expect == EXPECT_LOCK && trucker_remote_position_is_mismatch(result))
	{
		PQclear(result);
		trucker_remote_position_raise_mismatch(remote->output.truck);
	}
	trucker_conn_raise(remote->conn, result, pending->sql);
}

/* Is the answer what it must be, beyond not being an error? */
static bool
is_as_expected(const PGresult *result, Expect expect)
{
	if (expect == EXPECT_COMMIT)
		return strcmp(PQcmdStatus(unconstify(PGresult *, result)), "COMMIT") == 0;
	if (expect == EXPECT_ONE_ROW)
		return strcmp(PQcmdTuples(unconstify(PGresult *, result)), "1") == 0;
	return true;
}

static void
handle_answer(Remote *remote, PGresult *result, const Pending *pending)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_SINGLE_TUPLE:
		case PGRES_EMPTY_QUERY:
		case PGRES_PIPELINE_SYNC:
			break;
		default:
			raise_answer(remote, result, pending);
	}
	if (PQresultStatus(result) != PGRES_SINGLE_TUPLE && !is_as_expected(result, pending->expect))
	{
		PQclear(result);
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection \"%s\": unexpected answer to \"%s\"",
						remote->output.truck->connection, pending->sql)));
	}
	PQclear(result);
}

/* Read all answers that are due: there must be something that makes the server send them. */
static void
read_answers(Remote *remote)
{
	PGconn	   *pg = remote->conn->pg;

	trucker_conn_flush(remote->conn);
	while (remote->first < remote->last)
	{
		const Pending *pending = &remote->pending[remote->first];
		PGresult   *result;

		/* what SELECT returns is thrown away, row by row */
		if (pending->expect == EXPECT_ANYTHING)
			(void) PQsetSingleRowMode(pg);
		result = trucker_conn_result(remote->conn);
		if (result)
			handle_answer(remote, result, pending);
		else if (PQstatus(pg) != CONNECTION_OK)
			trucker_conn_raise(remote->conn, NULL, pending->sql);
		/* each command's answers end with none; that of a sync is one by itself */
		if (result == NULL || pending->expect == EXPECT_SYNC)
			remote->first++;
	}
	remote->first = remote->last = 0;
	remote->bytes = 0;
}

/* Something has been handed to libpq whose answer will come. */
static void
sent(Remote *remote, int accepted, Expect expect, const char *sql, Size bytes)
{
	if (!accepted)
		trucker_conn_raise(remote->conn, NULL, sql);
	remote->pending[remote->last].expect = expect;
	/* what has been prepared may be forgotten before the answer comes */
	remote->pending[remote->last++].sql = MemoryContextStrdup(remote->batch_context, sql);
	remote->bytes += bytes;
	if (remote->last < MAX_PENDING && remote->bytes < MAX_PENDING_BYTES)
		return;
	if (!PQsendFlushRequest(remote->conn->pg))
		trucker_conn_raise(remote->conn, NULL, sql);
	read_answers(remote);
}

static void
send_sql(Remote *remote, const char *sql, Expect expect)
{
	sent(remote, PQsendQueryParams(remote->conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0),
		 expect, sql, strlen(sql));
}

static void
send_sync(Remote *remote)
{
	sent(remote, PQpipelineSync(remote->conn->pg), EXPECT_SYNC, "", 0);
	read_answers(remote);
}

static void
enter_pipeline(Remote *remote)
{
	if (PQpipelineStatus(remote->conn->pg) == PQ_PIPELINE_OFF && !PQenterPipelineMode(remote->conn->pg))
		trucker_conn_raise(remote->conn, NULL, NULL);
}

/* For commands that are answered one by one. */
static void
leave_pipeline(Remote *remote)
{
	if (PQpipelineStatus(remote->conn->pg) == PQ_PIPELINE_OFF)
		return;
	send_sync(remote);
	if (!PQexitPipelineMode(remote->conn->pg))
		trucker_conn_raise(remote->conn, NULL, NULL);
}

/* Begin the transaction, if that has not been done for this batch. */
static void
begin(Remote *remote)
{
	TruckerRemotePosition *position = remote->position;
	const char *values[2];

	enter_pipeline(remote);
	if (remote->begun)
		return;
	remote->begun = true;
	remote->transaction++;
	send_sql(remote, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", EXPECT_ANYTHING);
	send_sql(remote, position->settings_sql, EXPECT_ANYTHING);
	values[0] = psprintf("%X/%X", LSN_FORMAT_ARGS(position->lsn));
	values[1] = position->token;
	sent(remote, PQsendQueryParams(remote->conn->pg, position->lock_sql, 2, NULL, values, NULL, NULL, 0),
		 EXPECT_LOCK, position->lock_sql, strlen(position->lock_sql));
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
	plan->shape = trucker_remote_shape_create(desc);
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
send_statement(Remote *remote, RemotePlan *plan, RemoteStatement *statement, char **params)
{
	PGconn	   *pg = remote->conn->pg;
	int			n = statement->reads_rows ? plan->shape->nparams : 0;
	Size		bytes = strlen(statement->params_sql);

	for (int i = 0; i < n; i++)
		bytes += strlen(params[i]);
	if (remote->position->pooled)
	{
		sent(remote, PQsendQueryParams(pg, statement->params_sql, n, plan->shape->param_types,
									   (const char *const *) params, NULL, NULL, 0),
			 EXPECT_ANYTHING, statement->params_sql, bytes);
		return;
	}
	if (statement->session != remote->session)
	{
		snprintf(statement->name, NAMEDATALEN, "trucker_%d", ++remote->names);
		sent(remote, PQsendPrepare(pg, statement->name, statement->params_sql, n, plan->shape->param_types),
			 EXPECT_ANYTHING, statement->params_sql, 0);
		statement->session = remote->session;
	}
	sent(remote, PQsendQueryPrepared(pg, statement->name, n, (const char *const *) params, NULL, NULL, 0),
		 EXPECT_ANYTHING, statement->params_sql, bytes);
}

/* ----
 * Large runs
 * ----
 */

/* An empty table for the rows. */
static void
make_table(Remote *remote, RemotePlan *plan)
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
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(plan));

		statement->table_sql = statement->reads_rows ?
			trucker_sql_with_rows(statement->raw, trucker_remote_shape_table_query(plan->shape, plan->table)) :
			statement->params_sql;
		MemoryContextSwitchTo(old);
	}
}

static void
put_data(Remote *remote, StringInfo buffer, const char *command)
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
copy_rows(Remote *remote, RemotePlan *plan, const TruckerRows *rows)
{
	char	   *command = psprintf("COPY %s FROM STDIN", plan->table);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(plan->shape->desc, &TTSOpsMinimalTuple);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "trucker row to copy", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	StringInfoData buffer;
	PGresult   *result;
	int			nestlevel = trucker_remote_set_formats();

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
execute_large(Remote *remote, RemotePlan *plan, const TruckerRows *rows)
{
	leave_pipeline(remote);
	make_table(remote, plan);
	copy_rows(remote, plan, rows);
	enter_pipeline(remote);
	for (int i = 0; i < plan->n; i++)
		send_sql(remote, plan->statements[i].table_sql, EXPECT_ANYTHING);
	/* the next run may want the table */
	send_sync(remote);
}

static void
remote_execute(TruckerOutput *output, void *prepared, const TruckerRows *rows)
{
	Remote	   *remote = (Remote *) output;
	RemotePlan *plan = prepared;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);
	char	  **params = NULL;
	int			nestlevel;

	begin(remote);
	if (plan->reads_rows)
	{
		nestlevel = trucker_remote_set_formats();
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
	Remote	   *remote = (Remote *) output;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);
	ListCell   *lc;

	begin(remote);
	foreach(lc, statements)
		send_sql(remote, pstrdup(lfirst(lc)), EXPECT_ANYTHING);
	send_sync(remote);
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
	Remote	   *remote = (Remote *) output;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);
	const char *values[2];

	begin(remote);
	values[0] = psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
	values[1] = psprintf("%u", GetWALInsertionTimeLine());
	sent(remote, PQsendQueryParams(remote->conn->pg, remote->position->write_sql, 2, NULL, values, NULL, NULL, 0),
		 EXPECT_ONE_ROW, remote->position->write_sql, 0);
	trucker_stop_point("remote: before commit");
	send_sql(remote, "COMMIT", EXPECT_COMMIT);
	send_sync(remote);
	remote->begun = false;
	remote->position->lsn = lsn;
	remote->position->must_reset = false;
	MemoryContextSwitchTo(old);
	MemoryContextReset(remote->batch_context);
	trucker_stop_point("remote: committed");
}

static void
remote_rollback(TruckerOutput *output)
{
	Remote	   *remote = (Remote *) output;

	if (remote->begun || remote->checking || remote->first < remote->last)
		close_session(remote);
	remote->checking = false;
}

/* ----
 * Checks
 * ----
 */

/* Connect only for checks: a transaction that is never committed, and no row is touched. */
static void
begin_checks(Remote *remote)
{
	PGresult   *result;
	bool		may_make_tables;

	if (remote->checking)
		return;
	close_session(remote);
	remote->checking = true;
	open_session(remote);
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

static List *
remote_check(TruckerOutput *output, void *prepared, const TruckerRows *rows)
{
	Remote	   *remote = (Remote *) output;
	RemotePlan *plan = prepared;
	MemoryContext old = MemoryContextSwitchTo(remote->batch_context);

	begin_checks(remote);
	enter_pipeline(remote);
	for (int i = 0; i < plan->n; i++)
	{
		RemoteStatement *statement = &plan->statements[i];

		sent(remote, PQsendPrepare(remote->conn->pg, "", statement->params_sql,
								   statement->reads_rows ? plan->shape->nparams : 0, plan->shape->param_types),
			 EXPECT_ANYTHING, statement->params_sql, 0);
	}
	leave_pipeline(remote);
	MemoryContextSwitchTo(old);
	return NIL;
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
	Remote	   *remote = (Remote *) output;
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
	leave_pipeline(remote);
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
	.is_ready = remote_is_ready,
	.describe_table = remote_describe_table,
	.columns_read = remote_columns_read,
	.prepare = remote_prepare,
	.check = remote_check,
	.execute = remote_execute,
	.run = remote_run,
	.check_statements = remote_check_statements,
	.commit = remote_commit,
	.rollback = remote_rollback,
	.needs_reset = remote_needs_reset,
};

/* A destination at another server, in a child of the current memory context. */
TruckerOutput *
trucker_output_postgres(const TruckerTruck *truck)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker remote output", ALLOCSET_DEFAULT_SIZES);
	Remote	   *remote = MemoryContextAllocZero(context, sizeof(Remote));

	remote->output.routine = &postgres_routine;
	remote->output.truck = truck;
	remote->context = context;
	remote->session_context = AllocSetContextCreate(context, "trucker remote session", ALLOCSET_DEFAULT_SIZES);
	remote->batch_context = AllocSetContextCreate(context, "trucker remote batch", ALLOCSET_DEFAULT_SIZES);
	return &remote->output;
}
