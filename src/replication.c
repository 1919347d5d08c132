/*
 * replication.c
 *	  The replication connection: make a slot, start, receive, confirm.
 *
 * A stream reads its slot through an ordinary walsender of its own server, as
 * any subscriber would: changes are pushed within a millisecond, decoding runs
 * on another core, and pg_stat_replication shows it.  This file knows the
 * replication protocol and no output plugin.
 *
 * It uses libpq and not libpqwalreceiver, because walrcv_startstreaming()
 * writes pgoutput's options and no others.
 */
#include "trucker.h"

#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "replication.h"

#define CONNECT_TIMEOUT_MS 30000
#define MAX_PARAMETERS 64

/*
 * Settings of the walsender.  No timeout may end the connection: a run between
 * two messages takes as long as it takes, and so does creating a slot.  (For its own a
 * walsender is given the longest, 24 days, as with none at all it looks for a reply after
 * each change.)  Changes are sent in blocks (send.c).  The rest makes the text form of
 * values independent of anybody's settings.
 */
#define WALSENDER_OPTIONS \
	"-c wal_sender_timeout=2147483647 -c trucker.send_in_blocks=on " \
	"-c statement_timeout=0 -c lock_timeout=0 " \
	"-c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0 " \
	"-c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=3 " \
	"-c bytea_output=hex -c timezone=UTC -c search_path=pg_catalog"

typedef struct Parameters
{
	int			n;
	const char *keywords[MAX_PARAMETERS + 1];
	const char *values[MAX_PARAMETERS + 1];
} Parameters;

static void
set_parameter(Parameters *params, const char *keyword, const char *value)
{
	int			i = 0;

	while (i < params->n && strcmp(params->keywords[i], keyword) != 0)
		i++;
	if (i == params->n)
	{
		if (params->n == MAX_PARAMETERS)
			elog(ERROR, "too many connection parameters");
		params->n++;
	}
	params->keywords[i] = keyword;
	params->values[i] = value;
}

/* The user's trucker.replication_conninfo; never shown in an error. */
static void
add_user_parameters(Parameters *params)
{
	PQconninfoOption *options;
	char	   *error = NULL;

	if (trucker_replication_conninfo == NULL || trucker_replication_conninfo[0] == '\0')
		return;
	options = PQconninfoParse(trucker_replication_conninfo, &error);
	if (options == NULL)
	{
		if (error)
			PQfreemem(error);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"%s\"", "trucker.replication_conninfo"),
				 errhint("It must be a libpq connection string, such as \"host=/run/postgresql user=postgres\".")));
	}
	for (PQconninfoOption *option = options; option->keyword; option++)
		if (option->val && option->val[0])
			set_parameter(params, pstrdup(option->keyword), pstrdup(option->val));
	PQconninfoFree(options);
}

/* The first directory of unix_socket_directories, or NULL. */
char *
trucker_replication_socket(void)
{
	List	   *directories;

	if (!SplitDirectoriesString(pstrdup(Unix_socket_directories), ',', &directories) ||
		directories == NIL)
		return NULL;
	return linitial(directories);
}

/* A name for pg_hba.conf: always quoted, as some words mean something there. */
static char *
hba_name(const char *name)
{
	StringInfoData quoted;

	initStringInfo(&quoted);
	appendStringInfoChar(&quoted, '"');
	for (; *name; name++)
	{
		if (*name == '"')
			appendStringInfoChar(&quoted, '"');
		appendStringInfoChar(&quoted, *name);
	}
	appendStringInfoChar(&quoted, '"');
	return quoted.data;
}

/* How this server can be connected to. */
static void
add_own_server(Parameters *params)
{
	char	   *host = trucker_replication_socket();

	set_parameter(params, "host", host ? host : "localhost");
	set_parameter(params, "port", psprintf("%d", PostPortNumber));
	set_parameter(params, "user", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false));
	add_user_parameters(params);
}

/*
 * The same for a program, without replication: keywords and values (char *) in turn, with
 * secrets among them.
 */
List *
trucker_own_server_parameters(const char *database)
{
	Parameters	params;
	List	   *parameters = NIL;

	memset(&params, 0, sizeof(params));
	add_own_server(&params);
	set_parameter(&params, "dbname", database);
	for (int i = 0; i < params.n; i++)
		parameters = lappend(lappend(parameters, unconstify(char *, params.keywords[i])),
							 unconstify(char *, params.values[i]));
	return parameters;
}

/* Everything that the connection needs, and the hint if it fails. */
static char *
build_parameters(Parameters *params, const char *database,
				 const char *application_name)
{
	char	   *host = trucker_replication_socket();
	char	   *user = GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false);
	StringInfoData options;

	add_own_server(params);

	/* a user's options come first, so that ours have the last word */
	initStringInfo(&options);
	for (int i = 0; i < params->n; i++)
	{
		if (strcmp(params->keywords[i], "options") == 0)
			appendStringInfo(&options, "%s ", params->values[i]);
	}
	appendStringInfo(&options, WALSENDER_OPTIONS " -c lc_monetary=%s",
					 GetConfigOption("lc_monetary", false, false));

	set_parameter(params, "options", options.data);
	set_parameter(params, "dbname", database);
	set_parameter(params, "replication", "database");
	set_parameter(params, "client_encoding", GetDatabaseEncodingName());
	set_parameter(params, "application_name", application_name);

	if (trucker_replication_conninfo && trucker_replication_conninfo[0])
		return "Check trucker.replication_conninfo and pg_hba.conf.  A logical replication connection is matched by its database's name.";
	return psprintf("trucker reads this server's WAL over a replication connection to itself.  "
					"If pg_hba.conf refuses it, put this line before the others there, and reload:\n"
					"%s %s %s %s\n"
					"A logical replication connection is matched by its database's name; peer wants an OS user of the role's name, or a map.  "
					"Another login can be set in trucker.replication_conninfo.",
					host ? "local" : "host", hba_name(database), hba_name(user),
					host ? "peer" : "127.0.0.1/32 scram-sha-256");
}

/* Also the memory context's callback: the buffer is malloc's, not the context's. */
static void
free_copied(void *arg)
{
	TruckerReplication *rep = arg;

	if (rep->copied)
		PQfreemem(rep->copied);
	rep->copied = NULL;
}

/*
 * A copy of a server has the settings of the original, and slots of the same names.
 * If the original is where trucker.replication_conninfo leads, the copy would read
 * those, and confirm what the original has not applied.  The system identifier is
 * the same on both; when they were started is not.
 */
static void
check_is_this_server(TruckerReplication *rep)
{
	PGresult   *result = trucker_conn_exec(rep->conn, "SELECT pg_catalog.pg_postmaster_start_time()", PGRES_TUPLES_OK);
	char	   *text = PQntuples(result) == 1 ? pstrdup(PQgetvalue(result, 0, 0)) : pstrdup("");
	TimestampTz started;

	PQclear(result);
	started = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
													  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	if (started == PgStartTime)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("trucker's replication connection leads to another server"),
			 errdetail("That one was started at %s, this one at %s.  If this is a copy of that one, it would read the replication slots of the original.",
					   text, pstrdup(timestamptz_to_str(PgStartTime))),
			 errhint("Set trucker.replication_conninfo so that it leads to this server, or reset it: ALTER SYSTEM RESET trucker.replication_conninfo; SELECT pg_reload_conf();")));
}

/*
 * Connect to this server for logical replication of the given database.  The
 * connection belongs to the current memory context.
 */
TruckerReplication *
trucker_replication_open(const char *database, const char *application_name)
{
	TruckerReplication *rep = palloc0(sizeof(TruckerReplication));
	Parameters	params;
	char	   *hint;

	rep->on_reset.func = free_copied;
	rep->on_reset.arg = rep;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &rep->on_reset);

	memset(&params, 0, sizeof(params));
	hint = build_parameters(&params, database, application_name);
	rep->conn = trucker_conn_open(params.keywords, params.values,
								  CONNECT_TIMEOUT_MS, hint,
								  trucker_replication_conninfo && trucker_replication_conninfo[0]);
	check_is_this_server(rep);
	return rep;
}

/* The walsender's pid: it is this server's, so it means something here. */
int
trucker_replication_backend_pid(TruckerReplication *rep)
{
	return PQbackendPID(rep->conn->pg);
}

static char *
slot_command(const char *slot, bool temporary, const char *plugin)
{
	return psprintf("CREATE_REPLICATION_SLOT %s %sLOGICAL %s (SNAPSHOT 'export')",
					quote_identifier(slot), temporary ? "TEMPORARY " : "",
					quote_identifier(plugin));
}

static void
read_slot(PGresult *result, XLogRecPtr *consistent_point, char **snapshot)
{
	bool		valid = PQntuples(result) == 1 && PQnfields(result) == 4;
	char	   *lsn = valid ? pstrdup(PQgetvalue(result, 0, 1)) : NULL;

	*snapshot = valid ? pstrdup(PQgetvalue(result, 0, 2)) : NULL;
	PQclear(result);
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid response to CREATE_REPLICATION_SLOT")));
	*consistent_point = DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(lsn)));
}

/*
 * Copy a slot; the copy is a temporary one, and goes with the connection.  Waits for
 * nobody.
 */
void
trucker_replication_copy_slot(TruckerReplication *rep, const char *from, const char *to)
{
	PQclear(trucker_conn_exec(rep->conn, psprintf("SELECT pg_catalog.pg_copy_logical_replication_slot(%s, %s, true)",
												  quote_literal_cstr(from), quote_literal_cstr(to)), PGRES_TUPLES_OK));
}

/*
 * Create a slot and export the snapshot that goes with it.  The snapshot lives
 * until the connection's next command, a temporary slot as long as the connection.
 * Waits for all transactions that are running now; so the caller must not be one.
 */
void
trucker_replication_create_slot(TruckerReplication *rep, const char *slot, bool temporary,
								const char *plugin,
								XLogRecPtr *consistent_point, char **snapshot)
{
	read_slot(trucker_conn_exec(rep->conn, slot_command(slot, temporary, plugin), PGRES_TUPLES_OK),
			  consistent_point, snapshot);
}

/* The same with a temporary one, as long as goes_on() says so; false: it does not any more. */
bool
trucker_replication_create_slot_while(TruckerReplication *rep, const char *slot, const char *plugin,
									  bool (*goes_on) (void *arg), void *arg,
									  XLogRecPtr *consistent_point, char **snapshot)
{
	PGresult   *result = trucker_conn_exec_while(rep->conn, slot_command(slot, true, plugin), PGRES_TUPLES_OK,
												 goes_on, arg);

	if (result)
		read_slot(result, consistent_point, snapshot);
	return result != NULL;
}

/*
 * Start streaming.  The server starts at from or at what the slot has
 * confirmed, whichever is later.
 */
void
trucker_replication_start(TruckerReplication *rep, const char *slot,
						  XLogRecPtr from, const TruckerDecoder *decoder,
						  const TruckerDecodeRequest *request)
{
	MemoryContext context = CurrentMemoryContext;
	StringInfoData command;

	initStringInfo(&command);
	appendStringInfo(&command, "START_REPLICATION SLOT %s LOGICAL %X/%X (",
					 quote_identifier(slot), LSN_FORMAT_ARGS(from));
	decoder->append_options(&command, request);
	appendStringInfoChar(&command, ')');
	PG_TRY();
	{
		PQclear(trucker_conn_exec(rep->conn, command.data, PGRES_COPY_BOTH));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		/* next time it may want other options */
		if (decoder->refused)
			decoder->refused(CopyErrorData()->message);
		PG_RE_THROW();
	}
	PG_END_TRY();
	rep->confirmed = InvalidXLogRecPtr;
}

static void
parse_message(TruckerReplication *rep, TruckerReceived *received)
{
	StringInfoData buf;

	buf.data = rep->copied;
	buf.maxlen = buf.len = rep->len;
	buf.cursor = 0;

	switch (pq_getmsgbyte(&buf))
	{
		case 'w':
			rep->data_lsn = (XLogRecPtr) pq_getmsgint64(&buf);
			(void) pq_getmsgint64(&buf);	/* end: the same */
			rep->sent_at = (TimestampTz) pq_getmsgint64(&buf);
			rep->data = buf.data + buf.cursor;
			rep->len = buf.len - buf.cursor;
			*received = TRUCKER_RECEIVED_DATA;
			break;
		case 'k':
			rep->sent_lsn = (XLogRecPtr) pq_getmsgint64(&buf);
			rep->sent_at = (TimestampTz) pq_getmsgint64(&buf);
			rep->reply_requested = pq_getmsgbyte(&buf) != 0;
			*received = TRUCKER_RECEIVED_KEEPALIVE;
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("unknown message of the replication stream")));
	}
}

/*
 * Take the next message, without waiting for one.  What it points at is valid
 * until the next call.
 */
TruckerReceived
trucker_replication_receive(TruckerReplication *rep)
{
	TruckerReceived received = TRUCKER_RECEIVED_NOTHING;

	free_copied(rep);
	rep->len = PQgetCopyData(rep->conn->pg, &rep->copied, 1);
	if (rep->len == 0)
	{
		/* libpq's buffer is empty: look once whether the socket has more */
		if (PQconsumeInput(rep->conn->pg) == 0)
			trucker_conn_raise(rep->conn, NULL, NULL);
		rep->len = PQgetCopyData(rep->conn->pg, &rep->copied, 1);
	}
	if (rep->len > 0)
		parse_message(rep, &received);
	else if (rep->len == -1)
	{
		PGresult   *result = PQgetResult(rep->conn->pg);

		if (result && PQresultStatus(result) == PGRES_FATAL_ERROR)
			trucker_conn_raise(rep->conn, result, NULL);
		PQclear(result);
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the server ended the replication stream")));
	}
	else if (rep->len < 0)
		trucker_conn_raise(rep->conn, NULL, NULL);
	return received;
}

/*
 * Tell the walsender that everything up to lsn is safe here, so that the slot
 * may let go of it.  Write, flush and apply are the same to us.  Said only if
 * it is news, or with force (the walsender has asked): an answer to each of
 * its pings makes it ping again.
 */
void
trucker_replication_confirm(TruckerReplication *rep, XLogRecPtr lsn, bool force)
{
	StringInfoData reply;

	if (lsn < rep->confirmed)
		lsn = rep->confirmed;
	if (lsn == rep->confirmed && !force)
		return;

	initStringInfo(&reply);
	pq_sendbyte(&reply, 'r');
	pq_sendint64(&reply, lsn);
	pq_sendint64(&reply, lsn);
	pq_sendint64(&reply, lsn);
	pq_sendint64(&reply, GetCurrentTimestamp());
	pq_sendbyte(&reply, 0);
	if (PQputCopyData(rep->conn->pg, reply.data, reply.len) <= 0)
		trucker_conn_raise(rep->conn, NULL, NULL);
	trucker_conn_flush(rep->conn);
	rep->confirmed = lsn;
	pfree(reply.data);
}
