/*
 * pgconn.c
 *	  libpq inside a backend.
 *
 * Every wait is on the process's latch and the socket, serves interrupts, and
 * ends when the postmaster dies, so that a worker that waits for another
 * server can be cancelled, terminated or passed by DROP DATABASE at any time.
 * Remote errors are raised again here with all their parts: SQLSTATE, message,
 * detail, hint, and the remote command as context.  A connection string never
 * appears in an error.
 *
 * A command that still runs at the other end when the process leaves is
 * cancelled: a walsender that is creating a slot would otherwise wait on, with
 * the slot in its hands, for as long as the oldest transaction lasts.  That is for our
 * own server only: PQcancel() would wait for a far one that does not answer.  Those
 * are told to look now and then whether we are still there (remote_position.c).
 */
#include "trucker.h"

#include <stdlib.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pgconn.h"

/* how often to ask whether somebody still wants to know */
#define GOES_ON_MS 200

/* the connection whose command must not outlive this process */
static TruckerConn *busy_conn = NULL;

static void
cancel_busy(int code, Datum arg)
{
	PGcancel   *cancel;
	char		ignored[256];

	if (busy_conn == NULL || busy_conn->pg == NULL)
		return;
	cancel = PQgetCancel(busy_conn->pg);
	if (cancel)
	{
		(void) PQcancel(cancel, ignored, sizeof(ignored));
		PQfreeCancel(cancel);
	}
	busy_conn = NULL;
}

static void
set_busy(TruckerConn *conn, bool busy)
{
	static bool registered = false;

	if (!conn->must_cancel)
		return;
	if (!registered)
	{
		before_shmem_exit(cancel_busy, (Datum) 0);
		registered = true;
	}
	conn->busy = busy;
	if (busy)
		busy_conn = conn;
	else if (busy_conn == conn)
		busy_conn = NULL;
}

/* Also the memory context's callback, so it must not fail. */
void
trucker_conn_close(TruckerConn *conn)
{
	if (conn->pg == NULL)
		return;
	if (conn->busy)
	{
		busy_conn = conn;
		cancel_busy(0, (Datum) 0);
	}
	PQfinish(conn->pg);
	conn->pg = NULL;
	conn->busy = false;
}

static void
close_callback(void *arg)
{
	trucker_conn_close((TruckerConn *) arg);
}

static int
remaining_ms(TimestampTz deadline)
{
	return (int) TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
}

/*
 * Take the PG* variables, which the postmaster may have been started with, out
 * of the environment: they must not silently complete a connection.  The list
 * of taken ones, for restore_environment, holds name and value in turn.
 */
static List *
hide_environment(void)
{
	static const char *const more[] = {"PGDATESTYLE", "PGTZ", "PGGEQO"};
	PQconninfoOption *defaults = PQconndefaults();
	List	   *names = NIL;
	List	   *hidden = NIL;
	ListCell   *lc;

	for (PQconninfoOption *option = defaults; option && option->keyword; option++)
		if (option->envvar)
			names = lappend(names, pstrdup(option->envvar));
	PQconninfoFree(defaults);
	for (int i = 0; i < lengthof(more); i++)
		names = lappend(names, pstrdup(more[i]));

	foreach(lc, names)
	{
		char	   *name = lfirst(lc);
		char	   *value = getenv(name);

		if (value == NULL)
			continue;
		hidden = lappend(hidden, name);
		hidden = lappend(hidden, pstrdup(value));
		unsetenv(name);
	}
	return hidden;
}

static void
restore_environment(List *hidden)
{
	for (int i = 0; i + 1 < list_length(hidden); i += 2)
		setenv(list_nth(hidden, i), list_nth(hidden, i + 1), 1);
}

static void
finish_connecting(TruckerConn *conn, TimestampTz deadline, const char *failure)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
		int			rc;

		events |= (status == PGRES_POLLING_READING) ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
		rc = WaitLatchOrSocket(MyLatch, events, PQsocket(conn->pg),
							   remaining_ms(deadline), trucker_wait(TRUCKER_WAIT_CONNECTION));
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (rc & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			status = PQconnectPoll(conn->pg);
		else if (remaining_ms(deadline) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("%s: timeout expired", failure)));
	}
}

/*
 * Connect, and return a connection that is established or has failed, which
 * PQstatus() tells.  keywords and values are libpq's, NULL-terminated.  Raises class
 * 08 errors, with failure as the message, if the time is up.
 */
TruckerConn *
trucker_conn_start(const char *const *keywords, const char *const *values,
				   int timeout_ms, const char *failure)
{
	TruckerConn *conn = palloc0(sizeof(TruckerConn));
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	List	   *hidden = hide_environment();

	conn->command_context = "replication command";
	conn->on_reset.func = close_callback;
	conn->on_reset.arg = conn;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &conn->on_reset);

	PG_TRY();
	{
		conn->pg = PQconnectStartParams(keywords, values, false);
		if (conn->pg == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		if (PQstatus(conn->pg) != CONNECTION_BAD)
			finish_connecting(conn, deadline, failure);
	}
	PG_FINALLY();
	{
		restore_environment(hidden);
	}
	PG_END_TRY();
	return conn;
}

/*
 * Connect.  Raises class 08 errors; hint, if not NULL, says what the user may do
 * about them.  With secret, what libpq says (it names host, port and user) is for the
 * server's log only.
 */
TruckerConn *
trucker_conn_open(const char *const *keywords, const char *const *values,
				  int timeout_ms, const char *hint, bool secret)
{
	TruckerConn *conn = trucker_conn_start(keywords, values, timeout_ms, "could not connect to server");

	if (PQstatus(conn->pg) != CONNECTION_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server"),
				 secret ? errdetail_log("%s", pchomp(PQerrorMessage(conn->pg))) :
				 errdetail_internal("%s", pchomp(PQerrorMessage(conn->pg))),
				 hint ? errhint("%s", hint) : 0));

	conn->must_cancel = true;
	PQsetnonblocking(conn->pg, 1);
	return conn;
}

/*
 * Wait until the connection has something to read, the latch is set, or the
 * time is up (-1: no limit), and serve interrupts.  True if there is something to read; it has
 * been read into libpq's buffer then.  wait is what pg_stat_activity shows.
 */
bool
trucker_conn_wait(TruckerConn *conn, long timeout_ms, TruckerWait wait)
{
	int			events = WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH;
	int			rc;

	if (timeout_ms >= 0)
		events |= WL_TIMEOUT;
	rc = WaitLatchOrSocket(MyLatch, events, PQsocket(conn->pg), timeout_ms,
						   trucker_wait(wait));
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (!(rc & WL_SOCKET_READABLE))
		return false;
	if (PQconsumeInput(conn->pg) == 0)
		trucker_conn_raise(conn, NULL, NULL);
	return true;
}

/* Send all that is buffered. */
void
trucker_conn_flush(TruckerConn *conn)
{
	int			left;

	while ((left = PQflush(conn->pg)) > 0)
	{
		int			rc = WaitLatchOrSocket(MyLatch,
										   WL_LATCH_SET | WL_SOCKET_READABLE |
										   WL_SOCKET_WRITEABLE | WL_EXIT_ON_PM_DEATH,
										   PQsocket(conn->pg), -1, trucker_wait(TRUCKER_WAIT_CONNECTION));

		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if ((rc & WL_SOCKET_READABLE) && PQconsumeInput(conn->pg) == 0)
			trucker_conn_raise(conn, NULL, NULL);
	}
	if (left < 0)
		trucker_conn_raise(conn, NULL, NULL);
}

/* The next result of what has been sent, as PQgetResult() would return it. */
PGresult *
trucker_conn_result(TruckerConn *conn)
{
	while (PQisBusy(conn->pg))
		(void) trucker_conn_wait(conn, -1, TRUCKER_WAIT_CONNECTION);
	return PQgetResult(conn->pg);
}

/* The result of a command that has been handed to libpq. */
static PGresult *
finish_command(TruckerConn *conn, const char *command, ExecStatusType expected)
{
	PGresult   *result;

	set_busy(conn, true);
	trucker_conn_flush(conn);
	result = trucker_conn_result(conn);
	if (result == NULL || PQresultStatus(result) != expected)
	{
		set_busy(conn, false);
		trucker_conn_raise(conn, result, command);
	}
	if (expected != PGRES_COPY_BOTH && expected != PGRES_COPY_IN)
	{
		PGresult   *extra;

		PG_TRY();
		{
			while ((extra = trucker_conn_result(conn)) != NULL)
				PQclear(extra);
		}
		PG_CATCH();
		{
			PQclear(result);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	set_busy(conn, false);
	return result;
}

/*
 * Run one command and return its result, which the caller clears.  Raises the
 * remote error if the result is not of the expected status.  With
 * PGRES_COPY_BOTH expected, the connection is in that mode afterwards.
 */
PGresult *
trucker_conn_exec(TruckerConn *conn, const char *command, ExecStatusType expected)
{
	if (!PQsendQuery(conn->pg, command))
		trucker_conn_raise(conn, NULL, command);
	return finish_command(conn, command, expected);
}

/*
 * The same, as long as goes_on() says so, which is asked several times a second: NULL if it
 * does not any more.  Then the connection is of no use, and its close cancels the command.
 */
PGresult *
trucker_conn_exec_while(TruckerConn *conn, const char *command, ExecStatusType expected,
						bool (*goes_on) (void *arg), void *arg)
{
	if (!PQsendQuery(conn->pg, command))
		trucker_conn_raise(conn, NULL, command);
	set_busy(conn, true);
	trucker_conn_flush(conn);
	while (PQisBusy(conn->pg))
	{
		if (!goes_on(arg))
			return NULL;
		(void) trucker_conn_wait(conn, GOES_ON_MS, TRUCKER_WAIT_CONNECTION);
	}
	return finish_command(conn, command, expected);
}

/* The same with parameters, as text. */
PGresult *
trucker_conn_exec_params(TruckerConn *conn, const char *command, int n, const char *const *values,
						 ExecStatusType expected)
{
	if (!PQsendQueryParams(conn->pg, command, n, NULL, values, NULL, NULL, 0))
		trucker_conn_raise(conn, NULL, command);
	return finish_command(conn, command, expected);
}

/*
 * Raise the remote error that result holds (or, without one, the connection's)
 * here, whole.  Clears result.  command becomes the context; it must not hold
 * secrets.
 */
void
trucker_conn_raise(TruckerConn *conn, PGresult *result, const char *command)
{
	PG_TRY();
	{
		const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
		const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
		const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
		const char *context = PQresultErrorField(result, PG_DIAG_CONTEXT);
		int			sqlstate = ERRCODE_CONNECTION_FAILURE;

		if (state && strlen(state) == 5)
			sqlstate = MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
		if (primary == NULL)
			primary = pchomp(PQerrorMessage(conn->pg));
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg_internal("%s", primary[0] ? primary : "connection closed by server"),
				 detail ? errdetail_internal("%s", detail) : 0,
				 hint ? errhint("%s", hint) : 0,
				 context ? errcontext("%s", context) : 0,
				 command ? errcontext("%s: %s", conn->command_context, command) : 0));
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	pg_unreachable();
}
