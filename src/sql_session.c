/*
 * sql_session.c
 *	  A session in which SQL runs as if somebody had typed it into psql.
 *
 * What a migration does, SPI cannot do: CREATE INDEX CONCURRENTLY and its like end the
 * transaction that they begin in, and want to be a client's own command.  So SQL for
 * this database runs in a background worker (sql_worker.c) that is a session of the
 * role's: it is connected as the role, not as a superuser who pretends to be one, so
 * whatever the SQL does (RESET ROLE, RESET SESSION AUTHORIZATION, an abort), no other
 * rights are behind it than those that the caller could have had in a session of his own.
 * A connection of libpq's to ourselves would have to log in, and could only do so as a
 * superuser.  SQL for another server goes over libpq, with the caller's user mapping.
 *
 * The worker belongs to the transaction in which the session was opened: should that end
 * with an error, the segment of shared memory between both goes, and the worker ends; if it
 * is at work, it is terminated.
 *
 * While we wait, the session may come to wait for us: for a lock of our transaction, or,
 * as CREATE INDEX CONCURRENTLY does, for our snapshot.  The server's deadlock detector sees
 * two processes of which one waits for no lock.  So we look ourselves.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "libpq/pqmq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "sql_session.h"
#include "wait.h"
#include "worker.h"

#define QUEUE_SIZE 65536
/* how often to look whether the session waits for us */
#define LOOK_MS 1000

struct TruckerSqlSession
{
	MemoryContext context;
	TruckerConnection *connection;	/* NULL: in this database */
	bool		busy;			/* it has a command that is not answered */
	char	   *set_role;		/* what makes it the role; NULL: it is */
	List	   *columns;		/* names (char *) of what the last statement has returned */
	int			error_position; /* in the statement, in characters from 1; 0: not known */

	/* here */
	dsm_segment *segment;
	BackgroundWorkerHandle *handle;
	shm_mq_handle *commands;
	shm_mq_handle *answers;

	/* there */
	TruckerConn *conn;
	int			pid;			/* of the session, if it is one of this server's; 0: it is not, or we do not know */
};

/* ----
 * Do we stand in its way?
 * ----
 */

static void
check_not_blocked_by_us(const TruckerSqlSession *session)
{
	pid_t		pid = session->pid;
	ArrayType  *blockers;
	Datum	   *pids;
	int			n;

	if (session->handle && GetBackgroundWorkerPid(session->handle, &pid) != BGWH_STARTED)
		return;
	if (pid == 0)
		return;
	blockers = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(pid)));
	deconstruct_array(blockers, INT4OID, sizeof(int32), true, TYPALIGN_INT, &pids, NULL, &n);
	for (int i = 0; i < n; i++)
		if (DatumGetInt32(pids[i]) == MyProcPid)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
					 errmsg("deadlock detected"),
					 errdetail("The SQL waits for this very transaction, or for a lock of this session, which waits for the SQL."),
					 errhint("Let nothing else go before it in the transaction, and let the session hold no locks.")));
}

/* A wait has ended or timed out. */
static void
after_wait(const TruckerSqlSession *session, int rc)
{
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (rc & WL_TIMEOUT)
		check_not_blocked_by_us(session);
}

/* ----
 * In this database
 * ----
 */

static bool
may_log_in(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		may = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return may;
}

/*
 * As whom does the process connect?  As the role; or, where that one may not log in and
 * the session's user has become it by SET ROLE, as that user, who does the same there.
 */
static Oid
login_role(Oid role)
{
	if (may_log_in(role))
		return role;
	if (role == GetUserId() && !InLocalUserIdChange() && may_log_in(GetSessionUserId()) &&
		is_member_of_role(GetSessionUserId(), role))
		return GetSessionUserId();
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("role \"%s\" is not permitted to log in", GetUserNameFromId(role, false)),
			 errdetail("The SQL runs in a session of its own."),
			 errhint("ALTER ROLE %s LOGIN; or log in as one that may, and SET ROLE.",
					 quote_identifier(GetUserNameFromId(role, false)))));
}

/* One that waits for a command ends by itself, without a word in the log. */
static void
terminate_worker(dsm_segment *segment, Datum arg)
{
	TruckerSqlSession *session = (TruckerSqlSession *) DatumGetPointer(arg);

	if (session->busy)
		TerminateBackgroundWorker(session->handle);
}

static void
make_segment(TruckerSqlSession *session, Oid database, Oid login, Oid confined_to, const char *name)
{
	shm_toc_estimator estimator;
	shm_toc    *toc;
	TruckerSqlOrder *order;
	Size		size;

	shm_toc_initialize_estimator(&estimator);
	shm_toc_estimate_chunk(&estimator, sizeof(TruckerSqlOrder));
	shm_toc_estimate_chunk(&estimator, QUEUE_SIZE);
	shm_toc_estimate_chunk(&estimator, QUEUE_SIZE);
	shm_toc_estimate_keys(&estimator, 3);
	size = shm_toc_estimate(&estimator);
	session->segment = dsm_create(size, 0);
	toc = shm_toc_create(TRUCKER_SQL_MAGIC, dsm_segment_address(session->segment), size);

	order = shm_toc_allocate(toc, sizeof(TruckerSqlOrder));
	order->database = database;
	order->login = login;
	order->confined_to = confined_to;
	strlcpy(order->name, name, sizeof(order->name));
	shm_toc_insert(toc, TRUCKER_SQL_ORDER, order);
	for (int key = TRUCKER_SQL_COMMANDS; key <= TRUCKER_SQL_ANSWERS; key++)
	{
		shm_mq	   *queue = shm_mq_create(shm_toc_allocate(toc, QUEUE_SIZE), QUEUE_SIZE);

		if (key == TRUCKER_SQL_COMMANDS)
			shm_mq_set_sender(queue, MyProc);
		else
			shm_mq_set_receiver(queue, MyProc);
		shm_toc_insert(toc, key, queue);
		*(key == TRUCKER_SQL_COMMANDS ? &session->commands : &session->answers) =
			shm_mq_attach(queue, session->segment, NULL);
	}
}

static void
start_worker(TruckerSqlSession *session, const char *function, const char *type)
{
	BackgroundWorker worker;

	trucker_worker_describe(&worker, function, type);
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(session->segment));
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &session->handle))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free in which the SQL could run"),
				 errhint("Raise max_worker_processes, or try again when others have ended.")));
	on_dsm_detach(session->segment, terminate_worker, PointerGetDatum(session));
	shm_mq_set_handle(session->commands, session->handle);
	shm_mq_set_handle(session->answers, session->handle);
}

/* In memory that is still there when, after an error, the transaction's resources are let go of. */
static TruckerSqlSession *
make_session(void)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "trucker SQL session", ALLOCSET_DEFAULT_SIZES);
	TruckerSqlSession *session = MemoryContextAllocZero(context, sizeof(TruckerSqlSession));

	session->context = context;
	return session;
}

/* The process would not be started before the end of recovery. */
static void
check_is_no_standby(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("no SQL can be run on a standby server")));
}

static TruckerSqlSession *
open_session(Oid database, Oid login, Oid confined_to, const char *set_role, const char *name)
{
	TruckerSqlSession *session;
	MemoryContext old;

	check_is_no_standby();
	session = make_session();
	old = MemoryContextSwitchTo(session->context);
	if (set_role)
		session->set_role = psprintf("SET ROLE %s", set_role);
	make_segment(session, database, login, confined_to, name);
	start_worker(session, "trucker_sql_worker_main", "trucker SQL");
	trucker_sql_session_become(session);
	MemoryContextSwitchTo(old);
	return session;
}

/*
 * A session of the role in a database of this server's.  name is its application_name.  It
 * must be closed before the transaction is committed.
 */
TruckerSqlSession *
trucker_sql_session_in(Oid database, Oid role, const char *name)
{
	Oid			login = login_role(role);

	return open_session(database, login, InvalidOid,
						login == role ? NULL : quote_identifier(GetUserNameFromId(role, false)), name);
}

/*
 * A session in this database for SQL with the rights of a truck's role, which may be one
 * that cannot log in.  It can become no other role (sql_worker.c), and should be left with
 * an open transaction: what is committed is not tidied up after.
 */
TruckerSqlSession *
trucker_sql_session_confined(Oid role, const char *name)
{
	return open_session(MyDatabaseId, InvalidOid, role, NULL, name);
}

/* Likewise, in this database. */
TruckerSqlSession *
trucker_sql_session_local(Oid role, const char *name)
{
	return trucker_sql_session_in(MyDatabaseId, role, name);
}

/*
 * A process of ours in this database that answers in the same way, and ends likewise with
 * our transaction, but knows by itself what to do with the one command that it is sent.
 */
TruckerSqlSession *
trucker_sql_session_worker(const char *function, const char *type, const char *name)
{
	TruckerSqlSession *session;
	MemoryContext old;

	check_is_no_standby();
	session = make_session();
	old = MemoryContextSwitchTo(session->context);
	make_segment(session, MyDatabaseId, InvalidOid, InvalidOid, name);
	start_worker(session, function, type);
	MemoryContextSwitchTo(old);
	return session;
}

static void
raise_ended(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the process in which the SQL runs has ended"),
			 errhint("The server's log says why.")));
}

static void
send_command(TruckerSqlSession *session, const char *sql, bool keep)
{
	char		kind = keep ? 'Q' : 'X';
	shm_mq_iovec parts[2] = {{&kind, 1}, {sql, strlen(sql) + 1}};

	session->busy = true;
	for (;;)
	{
		shm_mq_result result = shm_mq_sendv(session->commands, parts, 2, true, true);

		if (result == SHM_MQ_SUCCESS)
			return;
		/* perhaps it has left word of why */
		if (result == SHM_MQ_DETACHED)
			return;
		after_wait(session, WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
									  LOOK_MS, trucker_wait(TRUCKER_WAIT_SESSION)));
	}
}

static void
take_row(StringInfo message, List **rows)
{
	TruckerSqlRow *row = palloc0(sizeof(TruckerSqlRow));

	row->n = pq_getmsgint(message, 2);
	row->values = palloc0(Max(row->n, 1) * sizeof(char *));
	for (int i = 0; i < row->n; i++)
	{
		int			len = pq_getmsgint(message, 4);

		if (len >= 0)
			row->values[i] = pnstrdup(pq_getmsgbytes(message, len), len);
	}
	*rows = lappend(*rows, row);
}

/* What the columns of the rows to come are called. */
static void
take_columns(TruckerSqlSession *session, StringInfo message)
{
	int			n = pq_getmsgint(message, 2);

	session->columns = NIL;
	for (int i = 0; i < n; i++)
	{
		session->columns = lappend(session->columns, pstrdup(pq_getmsgrawstring(message)));
		/* table, column, type, length, typmod, format */
		(void) pq_getmsgbytes(message, 4 + 2 + 4 + 2 + 4 + 2);
	}
}

/* An error or a notice of the session's, raised here. */
static void
take_error(TruckerSqlSession *session, StringInfo message)
{
	ErrorData	edata;

	pq_parse_errornotice(message, &edata);
	/* it is a place in the statement, not in the client's query */
	session->error_position = edata.elevel >= ERROR ? edata.cursorpos : 0;
	edata.cursorpos = 0;
	if (edata.elevel >= ERROR)
		session->busy = false;
	/* the process has ended, but we have not */
	edata.elevel = Min(edata.elevel, ERROR);
	ThrowErrorData(&edata);
}

static List *
read_answers(TruckerSqlSession *session)
{
	List	   *rows = NIL;

	for (;;)
	{
		StringInfoData message;
		shm_mq_result result;
		Size		len;
		void	   *data;

		result = shm_mq_receive(session->answers, &len, &data, true);
		if (result == SHM_MQ_DETACHED)
			raise_ended();
		if (result == SHM_MQ_WOULD_BLOCK)
		{
			/* a look at a catalog must not hold up the SQL */
			InvalidateCatalogSnapshot();
			after_wait(session, WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
										  LOOK_MS, trucker_wait(TRUCKER_WAIT_SESSION)));
			continue;
		}
		initStringInfo(&message);
		appendBinaryStringInfo(&message, data, len);
		switch (pq_getmsgbyte(&message))
		{
			case 'D':
				take_row(&message, &rows);
				break;
			case 'T':
				take_columns(session, &message);
				break;
			case 'E':
			case 'N':
				take_error(session, &message);
				break;
			case 'Z':
				session->busy = false;
				return rows;
			default:
				break;
		}
		pfree(message.data);
	}
}

/* ----
 * At another server
 * ----
 */

/* What the other server says beside the answers. */
static void
pass_notice(void *arg, const PGresult *result)
{
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	int			elevel = severity && strcmp(severity, "WARNING") == 0 ? WARNING :
		severity && strcmp(severity, "INFO") == 0 ? INFO : NOTICE;

	if (primary)
		ereport(elevel,
				(errmsg_internal("%s", primary),
				 detail ? errdetail_internal("%s", detail) : 0,
				 hint ? errhint("%s", hint) : 0));
}

/* Who is there?  Behind a pooler what is set, and locked, would be for the next one who comes. */
static void
get_to_know(TruckerSqlSession *session, bool exclusive)
{
	List	   *rows = trucker_sql_session_execute(session,
												   "SELECT pg_catalog.pg_backend_pid(), (SELECT system_identifier FROM pg_catalog.pg_control_system()), "
												   "pg_catalog.round((extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.numeric)", true);
	TruckerSqlRow *row = linitial(rows);
	int64		started = PgStartTime + USECS_PER_DAY * (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE);
	int			pid = atoi(row->values[0]);

	if (exclusive && pid != PQbackendPID(session->conn->pg))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("connection \"%s\" leads through a pooler", session->connection->name),
				 errdetail("Locks and settings of a session would be left to others."),
				 errhint("Let the connection lead to the server itself.")));
	if (row->values[1] && strtou64(row->values[1], NULL, 10) == GetSystemIdentifier() &&
		strtoi64(row->values[2], NULL, 10) == started)
		session->pid = pid;
}

/* Likewise, at another server; exclusive: it must not be shared with others by a pooler. */
TruckerSqlSession *
trucker_sql_session_remote(TruckerConnection *connection, const char *name, bool exclusive)
{
	TruckerSqlSession *session = make_session();
	MemoryContext old = MemoryContextSwitchTo(session->context);

	session->connection = connection;
	session->conn = trucker_connection_open(connection, name);
	PQsetNoticeReceiver(session->conn->pg, pass_notice, NULL);
	get_to_know(session, exclusive);
	MemoryContextSwitchTo(old);
	return session;
}

static void
take_result_rows(PGresult *result, List **rows)
{
	for (int i = 0; i < PQntuples(result); i++)
	{
		TruckerSqlRow *row = palloc0(sizeof(TruckerSqlRow));

		row->n = PQnfields(result);
		row->values = palloc0(Max(row->n, 1) * sizeof(char *));
		for (int j = 0; j < row->n; j++)
			if (!PQgetisnull(result, i, j))
				row->values[j] = pstrdup(PQgetvalue(result, i, j));
		*rows = lappend(*rows, row);
	}
}

/* As trucker_conn_result(), but that it looks whether the session waits for us. */
static PGresult *
next_result(TruckerSqlSession *session)
{
	PGconn	   *pg = session->conn->pg;

	while (PQisBusy(pg))
	{
		InvalidateCatalogSnapshot();
		if (!trucker_conn_wait(session->conn, LOOK_MS, TRUCKER_WAIT_SESSION) && session->pid != 0)
			check_not_blocked_by_us(session);
	}
	return PQgetResult(pg);
}

static List *
execute_remote(TruckerSqlSession *session, const char *sql, bool keep)
{
	PGconn	   *pg = session->conn->pg;
	List	   *rows = NIL;
	PGresult   *result;

	if (!PQsendQuery(pg, sql))
		trucker_conn_raise(session->conn, NULL, NULL);
	/* what nobody wants to read is thrown away row by row */
	if (!keep)
		(void) PQsetSingleRowMode(pg);
	trucker_conn_flush(session->conn);
	while ((result = next_result(session)) != NULL)
	{
		const char *position = PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION);

		switch (PQresultStatus(result))
		{
			case PGRES_TUPLES_OK:
				if (keep)
					take_result_rows(result, &rows);
				break;
			case PGRES_COMMAND_OK:
			case PGRES_SINGLE_TUPLE:
			case PGRES_EMPTY_QUERY:
				break;
			case PGRES_COPY_IN:
			case PGRES_COPY_OUT:
				PQclear(result);
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("COPY with the client is not possible here")));
				break;
			default:
				session->error_position = position ? atoi(position) : 0;
				trucker_conn_raise(session->conn, result, NULL);
		}
		PQclear(result);
	}
	if (PQstatus(pg) != CONNECTION_OK)
		trucker_conn_raise(session->conn, NULL, NULL);
	return rows;
}

/* ----
 * Both
 * ----
 */

/*
 * Execute one statement; it may be BEGIN, or COMMIT.  With keep, the rows
 * (TruckerSqlRow *) that it returns.  An error of the statement's is raised here whole,
 * and the session is of no use any more.
 */
List *
trucker_sql_session_execute(TruckerSqlSession *session, const char *sql, bool keep)
{
	session->error_position = 0;
	if (session->conn)
		return execute_remote(session, sql, keep);
	send_command(session, sql, keep);
	return read_answers(session);
}

/* The names (char *) of the columns that a query returns, which runs in this database. */
List *
trucker_sql_session_columns(TruckerSqlSession *session, const char *sql)
{
	session->columns = NIL;
	(void) trucker_sql_session_execute(session, sql, true);
	return session->columns;
}

/* After RESET ROLE: be the role again whose session it is. */
void
trucker_sql_session_become(TruckerSqlSession *session)
{
	if (session->set_role)
		(void) trucker_sql_session_execute(session, session->set_role, false);
}

/* Where in the statement, in characters from 1, is what the last error is about?  0: it does not say. */
int
trucker_sql_session_error_position(const TruckerSqlSession *session)
{
	return session->error_position;
}

/* The connection to the other server; NULL: it is here. */
TruckerConn *
trucker_sql_session_conn(TruckerSqlSession *session)
{
	return session->conn;
}

void
trucker_sql_session_close(TruckerSqlSession *session)
{
	if (session->conn)
		trucker_conn_close(session->conn);
	else
	{
		/* it ends when it finds the queue gone */
		cancel_on_dsm_detach(session->segment, terminate_worker, PointerGetDatum(session));
		dsm_detach(session->segment);
		(void) WaitForBackgroundWorkerShutdown(session->handle);
	}
	MemoryContextDelete(session->context);
}
