/*
 * remote_session.c
 *	  A session at another PostgreSQL server, and what is under way in it.
 *
 * Commands are sent one behind the other, and their answers read when something is to
 * be known: at the end of a batch, before COPY, or when much is under way (libpq's
 * pipeline mode).  Answers come in the order of the commands, so each is told by its
 * place what it belongs to.
 */
#include "trucker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "remote_session.h"
#include "wait.h"

#define MAX_PENDING_BYTES (1024 * 1024)

/* ----
 * The session
 * ----
 */

void
trucker_remote_close(TruckerRemote *remote)
{
	remote->conn = NULL;
	remote->position = NULL;
	remote->taken = false;
	remote->begun = false;
	remote->first = remote->last = 0;
	remote->bytes = 0;
	MemoryContextReset(remote->session_context);
	MemoryContextReset(remote->batch_context);
}

static void
raise_is_here(const TruckerTruck *truck)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("connection \"%s\" leads to this very database", truck->connection),
			 errdetail("What the truck has written elsewhere is not here; and what it wrote here by way of a connection could not be told from the application's own changes."),
			 errhint("Create the truck with output_connection => '%s'.", TRUCKER_CONNECTION_LOCAL)));
}

/*
 * Does a truck's connection lead to this very database?  It is connected to for that.
 * In a transaction.
 */
bool
trucker_remote_leads_here(const TruckerTruck *truck)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker remote question", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TruckerConnection *connection = trucker_connection_load(truck->connection, truck->role);
	TruckerConn *conn = trucker_connection_open(connection, psprintf(TRUCKER_APPLICATION_NAME, truck->name));
	bool		leads_here = trucker_remote_position_open(conn, connection, truck)->is_here;

	MemoryContextSwitchTo(old);
	/* closes the connection */
	MemoryContextDelete(context);
	return leads_here;
}

/* Connect, in a transaction or outside of any. */
void
trucker_remote_open(TruckerRemote *remote)
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
	if (remote->position->is_here)
		raise_is_here(truck);
	remote->session++;
	remote->names = 0;
	MemoryContextSwitchTo(old);
}

/*
 * Has the other end gone while we did nothing?  What it says unasked is its farewell, or
 * might be.
 */
bool
trucker_remote_is_alive(TruckerConn *conn)
{
	return PQstatus(conn->pg) == CONNECTION_OK &&
		(WaitLatchOrSocket(NULL, WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   PQsocket(conn->pg), 0, trucker_wait(TRUCKER_WAIT_CONNECTION)) & WL_SOCKET_READABLE) == 0;
}

/* ----
 * The pipeline
 * ----
 */

static void
raise_answer(TruckerRemote *remote, PGresult *result, const TruckerRemotePending *pending)
{
	if (pending->expect == TRUCKER_EXPECT_LOCK && trucker_remote_position_is_mismatch(result))
	{
		PQclear(result);
		trucker_remote_position_raise_mismatch(remote->output.truck);
	}
	trucker_conn_raise(remote->conn, result, pending->sql);
}

/* Is the answer what it must be, beyond not being an error? */
static bool
is_as_expected(const PGresult *result, TruckerRemoteExpect expect)
{
	if (expect == TRUCKER_EXPECT_COMMIT)
		return strcmp(PQcmdStatus(unconstify(PGresult *, result)), "COMMIT") == 0;
	if (expect == TRUCKER_EXPECT_ONE_ROW)
		return strcmp(PQcmdTuples(unconstify(PGresult *, result)), "1") == 0;
	return true;
}

static void
handle_answer(TruckerRemote *remote, PGresult *result, const TruckerRemotePending *pending)
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
read_answers(TruckerRemote *remote)
{
	PGconn	   *pg = remote->conn->pg;

	trucker_conn_flush(remote->conn);
	while (remote->first < remote->last)
	{
		const TruckerRemotePending *pending = &remote->pending[remote->first];
		PGresult   *result;

		/* what SELECT returns is thrown away, row by row */
		if (pending->expect == TRUCKER_EXPECT_ANYTHING)
			(void) PQsetSingleRowMode(pg);
		result = trucker_conn_result(remote->conn);
		if (result)
			handle_answer(remote, result, pending);
		else if (PQstatus(pg) != CONNECTION_OK)
			trucker_conn_raise(remote->conn, NULL, pending->sql);
		/* each command's answers end with none; that of a sync is one by itself */
		if (result == NULL || pending->expect == TRUCKER_EXPECT_SYNC)
			remote->first++;
	}
	remote->first = remote->last = 0;
	remote->bytes = 0;
}

/* Something has been handed to libpq whose answer will come. */
void
trucker_remote_sent(TruckerRemote *remote, int accepted, TruckerRemoteExpect expect, const char *sql, Size bytes)
{
	if (!accepted)
		trucker_conn_raise(remote->conn, NULL, sql);
	remote->pending[remote->last].expect = expect;
	/* what has been prepared may be forgotten before the answer comes */
	remote->pending[remote->last++].sql = MemoryContextStrdup(remote->batch_context, sql);
	remote->bytes += bytes;
	if (remote->last < TRUCKER_REMOTE_PENDING && remote->bytes < MAX_PENDING_BYTES)
		return;
	if (!PQsendFlushRequest(remote->conn->pg))
		trucker_conn_raise(remote->conn, NULL, sql);
	read_answers(remote);
}

void
trucker_remote_send(TruckerRemote *remote, const char *sql, TruckerRemoteExpect expect)
{
	trucker_remote_sent(remote, PQsendQueryParams(remote->conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0),
		 expect, sql, strlen(sql));
}

void
trucker_remote_sync(TruckerRemote *remote)
{
	trucker_remote_sent(remote, PQpipelineSync(remote->conn->pg), TRUCKER_EXPECT_SYNC, "", 0);
	read_answers(remote);
}

void
trucker_remote_enter_pipeline(TruckerRemote *remote)
{
	if (PQpipelineStatus(remote->conn->pg) == PQ_PIPELINE_OFF && !PQenterPipelineMode(remote->conn->pg))
		trucker_conn_raise(remote->conn, NULL, NULL);
}

/* For commands that are answered one by one. */
void
trucker_remote_leave_pipeline(TruckerRemote *remote)
{
	if (PQpipelineStatus(remote->conn->pg) == PQ_PIPELINE_OFF)
		return;
	trucker_remote_sync(remote);
	if (!PQexitPipelineMode(remote->conn->pg))
		trucker_conn_raise(remote->conn, NULL, NULL);
}

/* Begin the transaction, if that has not been done for this batch. */
void
trucker_remote_begin(TruckerRemote *remote)
{
	TruckerRemotePosition *position = remote->position;
	const char *values[2];

	trucker_remote_enter_pipeline(remote);
	if (remote->begun)
		return;
	remote->begun = true;
	remote->transaction++;
	trucker_remote_send(remote, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", TRUCKER_EXPECT_ANYTHING);
	trucker_remote_send(remote, position->settings_sql, TRUCKER_EXPECT_ANYTHING);
	/* else it is the truck's own worker that holds it */
	if (remote->output.rehearses)
		return;
	values[0] = psprintf("%X/%X", LSN_FORMAT_ARGS(position->lsn));
	values[1] = position->token;
	trucker_remote_sent(remote, PQsendQueryParams(remote->conn->pg, position->lock_sql, 2, NULL, values, NULL, NULL, 0),
		 TRUCKER_EXPECT_LOCK, position->lock_sql, strlen(position->lock_sql));
}
