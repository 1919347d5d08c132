/*
 * remote_position.c
 *	  A truck's position at another server.
 *
 * It is a row of <position_schema>.position there, for this system identifier,
 * database and truck, written in the transaction that writes the data.  Our own row of
 * trucker.position says what has been seen to be committed there, and is durable
 * before the slot lets go of anything.  So after a connection was lost in COMMIT:
 *
 *	  there = here		it was not committed, or it was and we know of it
 *	  there > here		it was: that is the truth, and becomes ours
 *	  there < here		the destination went back in time: the truck is lost
 *
 * The first statement of each transaction with data locks the row, and fails with an
 * error unless it is as this session left it.  An error, because the statements
 * behind it are on their way already, COMMIT among them, and an UPDATE that finds no
 * row would not keep them from being executed.
 *
 * "As this session left it" is more than the LSN: two copies of a server, or a worker
 * that seems to be dead and another one, could be at the same.  So each session puts a
 * token of its own into the row.  It is noted here first, durably, beside the one
 * before (trucker.destination).  Who finds a third one there has lost the row to
 * somebody else, and must not go on: of two copies of a server the one goes on that was
 * the last to connect.
 *
 * The default for position_schema is a name of its own, and not "trucker": that is the
 * extension's, which may be installed there, too, or be wanted one day.
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "remote_position.h"

#define MIN_VERSION 120000
/* two reports of one server's start differ by less, in microseconds */
#define SAME_START 1000

/* The row there. */
typedef struct RemoteRow
{
	bool		exists;
	XLogRecPtr	lsn;			/* 0: nothing that counts has been written */
	TimeLineID	timeline;
	char	   *token;
} RemoteRow;

/* What is noted here: trucker.destination. */
typedef struct Noted
{
	char	   *token;			/* or NULL */
	char	   *next_token;
	bool		emptied;		/* since then only a backfill of ours sets the LSN there */
} Noted;

static char *
lsn_text(XLogRecPtr lsn)
{
	return psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/* A field of the only row of a result, copied; NULL for a null. */
static char *
field(const PGresult *result, int number)
{
	return PQgetisnull(result, 0, number) ? NULL : pstrdup(PQgetvalue(result, 0, number));
}

/* ----
 * Who is there
 * ----
 */

/* Is that this very database? */
static bool
is_here(const char *system_id, const char *database, const char *started)
{
	int64		difference;

	if (system_id == NULL || database == NULL || started == NULL ||
		strtou64(system_id, NULL, 10) != GetSystemIdentifier() || atooid(database) != MyDatabaseId)
		return false;
	/* a copy of this server has the same system identifier, but was not started at the same time */
	difference = strtoi64(started, NULL, 10) - (PgStartTime + USECS_PER_DAY * (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE));
	return difference <= SAME_START && difference >= -SAME_START;
}

/*
 * Settings for a transaction.  They end with it, so that they also hold, and do no harm,
 * where sessions are shared.  Should we vanish, the other server is to notice.
 */
static char *
settings_sql(const TruckerConnection *connection, int version, bool on_linux)
{
	StringInfoData sql;
	const char *settings[][2] = {
		{"statement_timeout", connection->statement_timeout},
		{"lock_timeout", connection->lock_timeout},
		{"idle_in_transaction_session_timeout", "0"},
		{"standard_conforming_strings", "on"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"array_nulls", "on"},
		{"xmloption", "content"},
		{"tcp_keepalives_idle", "30"},
		{"tcp_keepalives_interval", "10"},
		{"tcp_keepalives_count", "3"},
	};

	initStringInfo(&sql);
	/* what a role's default of "off" lets go of, the slot has forgotten */
	appendStringInfoString(&sql, "SELECT pg_catalog.set_config('synchronous_commit', CASE pg_catalog.current_setting('synchronous_commit') "
						   "WHEN 'off' THEN 'on' ELSE pg_catalog.current_setting('synchronous_commit') END, true)");
	for (int i = 0; i < lengthof(settings); i++)
		appendStringInfo(&sql, ", pg_catalog.set_config('%s', %s, true)", settings[i][0],
						 quote_literal_cstr(settings[i][1]));
	if (version >= 140000 && on_linux)
		appendStringInfoString(&sql, ", pg_catalog.set_config('client_connection_check_interval', '1000', true)");
	if (version >= 170000)
		appendStringInfoString(&sql, ", pg_catalog.set_config('transaction_timeout', '0', true)");
	return sql.data;
}

/*
 * Get to know the server at the other end, in the current memory context.  Raises an
 * error if it cannot be a destination.
 */
TruckerRemotePosition *
trucker_remote_position_open(TruckerConn *conn, const TruckerConnection *connection, const TruckerTruck *truck)
{
	TruckerRemotePosition *remote = palloc0(sizeof(TruckerRemotePosition));
	char	   *uuid = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&truck->id)));
	int			version = PQserverVersion(conn->pg);
	char	   *system_id;
	char	   *database;
	char	   *started;
	bool		on_linux;
	PGresult   *result;

	if (version < MIN_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the server of connection \"%s\" is too old", connection->name),
				 errdetail("It is of version %d; PostgreSQL 12 is the oldest that can be a destination.", version / 10000)));
	result = trucker_conn_exec(conn, "SELECT pg_catalog.pg_backend_pid(), pg_catalog.version() LIKE '%linux%', "
							   "(SELECT system_identifier FROM pg_catalog.pg_control_system()), "
							   "(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()), "
							   "pg_catalog.round((extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.numeric)",
							   PGRES_TUPLES_OK);
	/* behind a pooler a session is known by another number */
	remote->pooled = atoi(PQgetvalue(result, 0, 0)) != PQbackendPID(conn->pg);
	on_linux = PQgetvalue(result, 0, 1)[0] == 't';
	system_id = field(result, 2);
	database = field(result, 3);
	started = field(result, 4);
	PQclear(result);
	remote->is_here = is_here(system_id, database, started);

	remote->schema_name = pstrdup(connection->position_schema);
	remote->schema = pstrdup(quote_identifier(connection->position_schema));
	remote->table = psprintf("%s.position", remote->schema);
	remote->key = psprintf("system_id = " INT64_FORMAT " AND database_oid = %u AND truck_id = '%s'",
						   (int64) GetSystemIdentifier(), MyDatabaseId, uuid);
	remote->settings_sql = settings_sql(connection, version, on_linux);
	remote->lock_sql = psprintf("SELECT 1 / pg_catalog.count(*) FROM (SELECT FROM %s WHERE %s AND lsn = $1::pg_catalog.pg_lsn "
								"AND token = $2::pg_catalog.uuid FOR UPDATE) AS mine", remote->table, remote->key);
	remote->write_sql = psprintf("UPDATE %s SET lsn = $1::pg_catalog.pg_lsn, timeline = $2::pg_catalog.int4, "
								 "written_at = pg_catalog.clock_timestamp() WHERE %s", remote->table, remote->key);
	return remote;
}

/* Begin a transaction there, one command after the other. */
void
trucker_remote_position_begin(TruckerConn *conn, const TruckerRemotePosition *remote)
{
	PQclear(trucker_conn_exec(conn, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", PGRES_COMMAND_OK));
	PQclear(trucker_conn_exec(conn, remote->settings_sql, PGRES_TUPLES_OK));
}

/* ----
 * The table
 * ----
 */

static char *
table_ddl(const TruckerRemotePosition *remote)
{
	return psprintf("CREATE TABLE %s (system_id bigint NOT NULL, database_oid bigint NOT NULL, truck_id uuid NOT NULL, "
					"truck text NOT NULL, timeline integer NOT NULL, lsn pg_lsn NOT NULL, token uuid NOT NULL, "
					"written_at timestamptz NOT NULL, PRIMARY KEY (system_id, database_oid, truck_id)) WITH (fillfactor = 50);",
					remote->table);
}

/* NULL: there is none.  Else, may it be used? ("t", or why not) */
static char *
find_table(TruckerConn *conn, const TruckerRemotePosition *remote)
{
	char	   *sql = psprintf("SELECT CASE WHEN c.relkind NOT IN ('r', 'p') THEN 'is not a table' "
							   /* a superuser is a member of every role: its triggers would be anybody's */
							   "WHEN NOT (o.rolsuper OR (NOT u.rolsuper AND "
							   "(pg_catalog.pg_has_role(c.relowner, 'MEMBER') OR c.relowner = d.datdba))) "
							   "THEN 'belongs to a role that is neither this one nor trusted' "
							   "WHEN NOT (pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT') "
							   "AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')) "
							   "THEN 'may not be read and written by this role' ELSE 't' END "
							   "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
							   "JOIN pg_catalog.pg_roles o ON o.oid = c.relowner "
							   "JOIN pg_catalog.pg_roles u ON u.rolname = current_user "
							   "JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database() "
							   "WHERE n.nspname = %s AND c.relname = 'position'",
							   quote_literal_cstr(remote->schema_name));
	PGresult   *result = trucker_conn_exec(conn, sql, PGRES_TUPLES_OK);
	char	   *verdict = PQntuples(result) > 0 ? field(result, 0) : NULL;

	PQclear(result);
	return verdict;
}

static void
create_table(TruckerConn *conn, const TruckerRemotePosition *remote)
{
	char	   *sql = psprintf("SELECT pg_catalog.has_schema_privilege(n.oid, 'CREATE') FROM pg_catalog.pg_namespace n "
							   "WHERE n.nspname = %s UNION ALL "
							   "SELECT NULL WHERE pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') "
							   "ORDER BY 1 LIMIT 1", quote_literal_cstr(remote->schema_name));
	PGresult   *result = trucker_conn_exec(conn, sql, PGRES_TUPLES_OK);
	bool		has_schema = PQntuples(result) > 0 && !PQgetisnull(result, 0, 0);
	bool		may = PQntuples(result) > 0 && (!has_schema || PQgetvalue(result, 0, 0)[0] == 't');

	PQclear(result);
	if (!may)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the connection's user may not create table %s, which holds the positions of trucks", remote->table),
				 errhint("Have somebody run there who may, and grant the user USAGE on the schema and SELECT, INSERT and UPDATE on the table: %s%s",
						 has_schema ? "" : psprintf("CREATE SCHEMA %s; ", remote->schema), table_ddl(remote))));
	if (!has_schema)
		PQclear(trucker_conn_exec(conn, psprintf("CREATE SCHEMA %s", remote->schema), PGRES_COMMAND_OK));
	PQclear(trucker_conn_exec(conn, table_ddl(remote), PGRES_COMMAND_OK));
}

/*
 * See to it that there is a table of positions that we may trust: another role's could
 * have triggers, which would run with our rights there.  In a transaction there.
 */
void
trucker_remote_position_make_table(TruckerConn *conn, const TruckerRemotePosition *remote)
{
	char	   *verdict = find_table(conn, remote);

	if (verdict == NULL)
	{
		/* several trucks may come at once */
		PQclear(trucker_conn_exec(conn, psprintf("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext(%s))",
												 quote_literal_cstr(remote->table)), PGRES_TUPLES_OK));
		verdict = find_table(conn, remote);
	}
	if (verdict == NULL)
		create_table(conn, remote);
	else if (strcmp(verdict, "t") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the other server's %s cannot hold the positions of trucks", remote->table),
				 errdetail("It %s.", verdict),
				 errhint("ALTER SERVER ... OPTIONS (ADD position_schema '...') names another schema; or have it put right there.")));
}

/* ----
 * Taking over the row
 * ----
 */

static RemoteRow
read_row(TruckerConn *conn, const TruckerRemotePosition *remote, const char *key, bool locked)
{
	char	   *sql = psprintf("SELECT lsn, timeline, token FROM %s WHERE %s%s", remote->table, key,
							   locked ? " FOR UPDATE" : "");
	PGresult   *result = trucker_conn_exec(conn, sql, PGRES_TUPLES_OK);
	RemoteRow	row = {false, InvalidXLogRecPtr, 0, NULL};

	row.exists = PQntuples(result) > 0;
	if (row.exists)
	{
		char	   *lsn = field(result, 0);
		char	   *timeline = field(result, 1);

		row.token = field(result, 2);
		PQclear(result);
		row.lsn = DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(lsn)));
		row.timeline = strtoul(timeline, NULL, 10);
	}
	else
		PQclear(result);
	return row;
}

static Noted
read_noted(const TruckerTruck *truck)
{
	Oid			type = UUIDOID;
	Datum		value = UUIDPGetDatum(&truck->id);
	Noted		noted = {NULL, NULL, false};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("SELECT token::text, next_token::text, emptied FROM trucker.destination WHERE truck_id = $1",
								1, &type, &value, NULL, SPI_OK_SELECT) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(access.result_context);

		noted.token = trucker_text_column(SPI_tuptable->vals[0], 1);
		noted.next_token = trucker_text_column(SPI_tuptable->vals[0], 2);
		noted.emptied = trucker_bool_column(SPI_tuptable->vals[0], 3);
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	return noted;
}

/* Note what stands there now, and return the token that shall. */
static char *
write_noted(const TruckerTruck *truck, const char *token, bool emptied)
{
	Oid			types[] = {UUIDOID, TEXTOID, BOOLOID};
	Datum		values[3];
	char		nulls[4] = "   ";
	TruckerCatalog access;
	MemoryContext old;
	char	   *next;

	values[0] = UUIDPGetDatum(&truck->id);
	values[1] = token ? CStringGetTextDatum(token) : (Datum) 0;
	nulls[1] = token ? ' ' : 'n';
	values[2] = BoolGetDatum(emptied);
	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("INSERT INTO trucker.destination (truck_id, token, next_token, emptied) "
								   "VALUES ($1, $2::uuid, gen_random_uuid(), $3) ON CONFLICT (truck_id) DO UPDATE "
								   "SET token = excluded.token, next_token = excluded.next_token, emptied = excluded.emptied "
								   "RETURNING next_token::text", 3, types, values, nulls, SPI_OK_INSERT_RETURNING);
	old = MemoryContextSwitchTo(access.result_context);
	next = trucker_text_column(SPI_tuptable->vals[0], 1);
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return next;
}

static bool
same_token(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

/* Does what the destination holds not count? */
static bool
is_to_be_loaded(const TruckerTruck *truck)
{
	return truck->needs_backfill && !trucker_truck_resumes(truck);
}

/* The condition for the row of the server that this one was made from by pg_upgrade. */
static char *
former_key(const TruckerTruck *truck)
{
	return psprintf("system_id = " INT64_FORMAT " AND database_oid = %u AND truck_id = '%s'",
					(int64) truck->drained_on, MyDatabaseId,
					DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&truck->id))));
}

/* Can the truck go on from what the row says?  NULL, or why not. */
static const char *
row_trouble(const TruckerTruck *truck, const RemoteRow *row, const Noted *noted, const TruckerPosition *position)
{
	TruckerPosition there = *position;

	if (!row->exists || row->lsn == InvalidXLogRecPtr)
		return psprintf("its destination knows nothing of it, and was at position %X/%X: it is another database, or was restored",
						LSN_FORMAT_ARGS(position->lsn));
	if (!same_token(row->token, noted->token) && !same_token(row->token, noted->next_token))
		return "another server has taken over its destination: a copy of this one, or this one is a copy or was restored";
	if (row->lsn < position->lsn)
		return psprintf("its destination went back in time: it is at position %X/%X, and was seen at %X/%X",
						LSN_FORMAT_ARGS(row->lsn), LSN_FORMAT_ARGS(position->lsn));
	/* what it was on the other server, pg_upgrade has carried over; its backfill looks at the rest */
	if (trucker_truck_resumes(truck))
		return NULL;
	there.exists = true;
	there.lsn = row->lsn;
	there.timeline = row->timeline;
	return trucker_position_trouble(&there);
}

/*
 * The same for a truck that is to be loaded: what the row says does not count.  But once
 * it had been emptied, only a backfill can have written it.
 */
static const char *
backfill_trouble(const TruckerTruck *truck, const RemoteRow *row, const Noted *noted, bool *must_reset)
{
	*must_reset = row->exists && row->lsn != InvalidXLogRecPtr && noted->emptied;
	if (*must_reset && truck->reset_sql == NULL)
		return "its backfill was committed at its destination, and the connection or the server was lost before that was known here";
	return NULL;
}

typedef struct Decision
{
	const TruckerTruck *truck;
	TruckerPosition *position;
	RemoteRow	row;
	bool		must_reset;
	char	   *token;
} Decision;

/* Decide, and note it here, durably.  NULL, or why the truck is lost. */
static const char *
decide(Decision *decision)
{
	const TruckerTruck *truck = decision->truck;
	TruckerPosition *position = decision->position;
	MemoryContext context = CurrentMemoryContext;
	const char *trouble;
	bool		adopts = false;
	Noted		noted;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	noted = read_noted(truck);
	if (is_to_be_loaded(truck))
		trouble = backfill_trouble(truck, &decision->row, &noted, &decision->must_reset);
	else
	{
		trouble = row_trouble(truck, &decision->row, &noted, position);
		adopts = trouble == NULL && !truck->needs_backfill && decision->row.lsn > position->lsn;
	}
	if (trouble == NULL)
		decision->token = write_noted(truck, decision->row.token, is_to_be_loaded(truck));
	if (adopts)
		trucker_position_write(position, decision->row.lsn);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (trouble)
		return trouble;
	if (adopts)
		trucker_position_committed(position, XactLastCommitEnd);
	XLogFlush(XactLastCommitEnd);
	return NULL;
}

/*
 * Take over the truck's row: nobody else writes for this truck from now on.  Makes the
 * destination's position ours, if it is further.  NULL, or why the truck is lost.
 * Outside any transaction, here and there.
 */
const char *
trucker_remote_position_take(TruckerConn *conn, TruckerRemotePosition *remote,
							 const TruckerTruck *truck, TruckerPosition *position)
{
	Decision	decision;
	const char *key = remote->key;
	const char *trouble;
	XLogRecPtr	lsn;

	memset(&decision, 0, sizeof(decision));
	decision.truck = truck;
	decision.position = position;
	trucker_remote_position_begin(conn, remote);
	trucker_remote_position_make_table(conn, remote);
	/* waits for whoever is still about to commit for the truck */
	decision.row = read_row(conn, remote, key, true);
	/* taken from the server of before, which cannot go on then */
	if (!decision.row.exists && trucker_truck_resumes(truck))
		decision.row = read_row(conn, remote, key = former_key(truck), true);
	trouble = decide(&decision);
	if (trouble)
		return trouble;

	lsn = decision.row.lsn;
	if (is_to_be_loaded(truck) && !decision.must_reset)
		lsn = InvalidXLogRecPtr;
	if (decision.row.exists)
		PQclear(trucker_conn_exec(conn, psprintf("UPDATE %s SET token = '%s', lsn = '%s', system_id = " INT64_FORMAT " WHERE %s",
												 remote->table, decision.token, lsn_text(lsn), (int64) GetSystemIdentifier(), key),
								  PGRES_COMMAND_OK));
	else
		PQclear(trucker_conn_exec(conn, psprintf("INSERT INTO %s (system_id, database_oid, truck_id, truck, timeline, lsn, token, written_at) "
												 "SELECT " INT64_FORMAT ", %u, '%s', %s, 0, '0/0', '%s', pg_catalog.clock_timestamp()",
												 remote->table, (int64) GetSystemIdentifier(), MyDatabaseId,
												 DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&truck->id))),
												 quote_literal_cstr(truck->name), decision.token),
								  PGRES_COMMAND_OK));
	PQclear(trucker_conn_exec(conn, "COMMIT", PGRES_COMMAND_OK));
	remote->lsn = lsn;
	remote->token = decision.token;
	remote->must_reset = decision.must_reset;
	return NULL;
}

/*
 * Only look where the destination is, and let position say so, in memory.  NULL, or why
 * the truck could not go on.  Outside any transaction, here and there.
 */
const char *
trucker_remote_position_look(TruckerConn *conn, const TruckerRemotePosition *remote,
							 const TruckerTruck *truck, TruckerPosition *position)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *verdict = find_table(conn, remote);
	RemoteRow	row = {false, InvalidXLogRecPtr, 0, NULL};
	const char *trouble;
	Noted		noted;

	if (verdict && strcmp(verdict, "t") == 0)
		row = read_row(conn, remote, remote->key, false);
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	noted = read_noted(truck);
	trouble = row_trouble(truck, &row, &noted, position);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (trouble == NULL)
		position->lsn = Max(position->lsn, row.lsn);
	return trouble;
}

/* ----
 * The lock
 * ----
 */

/* Is this how lock_sql fails? */
bool
trucker_remote_position_is_mismatch(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return state && strcmp(state, "22012") == 0;	/* division by zero */
}

void
trucker_remote_position_raise_mismatch(const TruckerTruck *truck)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the position of truck \"%s\" at connection \"%s\" was changed by somebody else",
					truck->name, truck->connection)));
}
