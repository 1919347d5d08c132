/*
 * verify.c
 *	  trucker.verify(): does a destination hold what it should?
 *
 * The answer to "what should it hold" is a query over the source, and both are looked at
 * as of one position: verification.c says how a truck comes to rest where a snapshot of
 * the source is.  Each side is a session with a read-only transaction of its own, with the
 * rights of the truck's role; verify_compare.c compares what they read.  When both have
 * their snapshots the truck goes on.
 *
 * The source's session keeps the role's settings, since the query may depend on them; the
 * destination's gets those that say how values are rendered from there.
 */
#include "trucker.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "api.h"
#include "check.h"
#include "connection.h"
#include "output_table.h"
#include "shmem.h"
#include "state.h"
#include "truck.h"
#include "verify.h"

PG_FUNCTION_INFO_V1(trucker_verify);

/* how often to look at the catalog while waiting: a lost truck makes no progress */
#define LOOK_MS 1000

/* what a value's text must not depend on */
#define RENDERING "SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'"

/* A column of the destination. */
typedef struct Column
{
	char	   *name;
	char	   *type;			/* that expected values are cast to; NULL: not one of the server's own */
} Column;

typedef struct Verify
{
	TruckerTruck *truck;
	List	   *keys;			/* names (char *) */
	char	   *expected_sql;
	char	   *destination;	/* as the destination's session finds it */
	TimestampTz deadline;
	char	   *timeout;

	TruckerVerifySide expected;
	TruckerVerifySide actual;
	List	   *names;			/* of the columns that are compared (char *) */
	char	   *table;			/* the destination's full name */
	List	   *columns;		/* of Column */
	bool		has_unique_key; /* an index says so */
} Verify;

/* ----
 * Arguments
 * ----
 */

static void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" of %s must not be null", name, "verify")));
}

static List *
key_columns(ArrayType *array)
{
	List	   *keys = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key_columns must not contain nulls")));
		keys = lappend(keys, TextDatumGetCString(values[i]));
	}
	if (keys == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key_columns names no column"),
				 errhint("Name the columns that tell each row from all others, for example '{id}'.")));
	return keys;
}

/* One query, without what may follow it. */
static char *
query_argument(char *sql)
{
	List	   *parsed = raw_parser(sql, RAW_PARSE_DEFAULT);
	RawStmt    *raw = list_length(parsed) == 1 ? linitial_node(RawStmt, parsed) : NULL;

	if (raw == NULL || !IsA(raw->stmt, SelectStmt) || ((SelectStmt *) raw->stmt)->intoClause)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected_sql is not one query"),
				 errhint("Give one SELECT, whose columns are called like those of the destination.")));
	return raw->stmt_len > 0 ? pnstrdup(sql + raw->stmt_location, raw->stmt_len) : sql + raw->stmt_location;
}

/* The only table of this database that the truck writes, as far as is known. */
static char *
only_output(const TruckerTruck *truck)
{
	List	   *outputs = NIL;
	ListCell   *lc;

	foreach(lc, trucker_state_nodes())
	{
		TruckerNode *node = lfirst(lc);

		if (memcmp(&node->id, &truck->id, sizeof(pg_uuid_t)) == 0)
			outputs = node->outputs;
	}
	foreach(lc, outputs)
		if (get_rel_name(lfirst_oid(lc)) == NULL)
			outputs = foreach_delete_current(outputs, lc);
	if (list_length(outputs) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("truck \"%s\" is known to write %d tables", truck->name, list_length(outputs)),
				 errhint("Name the one to look at: destination => '...'.")));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(linitial_oid(outputs))),
									  get_rel_name(linitial_oid(outputs)));
}

static char *
destination_of(const TruckerTruck *truck)
{
	if (truck->output_table)
		return trucker_target_name(truck->output_table);
	if (trucker_connection_is_local(truck->connection))
		return only_output(truck);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("it is not known which table truck \"%s\" writes at connection \"%s\"", truck->name, truck->connection),
			 errhint("Name it: destination => '...'.")));
}

/* ----
 * The two sessions
 * ----
 */

static List *
run(const TruckerVerifySide *side, const char *sql)
{
	return trucker_sql_session_execute(side->session, sql, true);
}

static char *
only_value(const TruckerVerifySide *side, const char *sql)
{
	List	   *rows = run(side, sql);

	return rows == NIL ? NULL : ((TruckerSqlRow *) linitial(rows))->values[0];
}

static void
set_search_path(const TruckerVerifySide *side, const char *search_path)
{
	(void) run(side, psprintf("SELECT pg_catalog.set_config('search_path', %s, false)", quote_literal_cstr(search_path)));
}

static void
open_sessions(Verify *v)
{
	const TruckerTruck *truck = v->truck;
	const char *name = psprintf("trucker verify %s", truck->name);

	v->expected.what = "expected_sql";
	v->expected.session = trucker_sql_session_confined(truck->role, name);
	set_search_path(&v->expected, truck->search_path);
	v->actual.what = "the destination";
	if (!trucker_connection_is_local(truck->connection))
	{
		v->actual.session = trucker_sql_session_remote(trucker_connection_load(truck->connection, truck->role), name, false);
		return;
	}
	v->actual.session = trucker_sql_session_confined(truck->role, name);
	set_search_path(&v->actual, truck->search_path);
}

/* How values are rendered in the source's session. */
static char *
rendering_settings(const Verify *v)
{
	static const char *const names[] = {"timezone", "datestyle", "intervalstyle"};
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, RENDERING);
	for (int i = 0; i < lengthof(names); i++)
		appendStringInfo(&sql, "; SET LOCAL %s = %s", names[i],
						 quote_literal_cstr(only_value(&v->expected, psprintf("SHOW %s", names[i]))));
	return sql.data;
}

/* ----
 * What there is to compare
 * ----
 */

static Column *
find_column(const Verify *v, const char *name)
{
	ListCell   *lc;

	foreach(lc, v->columns)
		if (strcmp(((Column *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

static char *
column_names(const Verify *v)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, v->columns)
		appendStringInfo(&names, "%s%s", names.len ? ", " : "", quote_identifier(((Column *) lfirst(lc))->name));
	return names.data;
}

/*
 * A type of the server's own, as SQL here names it; NULL: it is none.  What the other server
 * says is not trusted to be no more than the name of a type.
 */
static char *
own_type(const char *name)
{
	Oid			type;
	int32		typmod;

	if (name == NULL)
		return NULL;
	parseTypeString(name, &type, &typmod, true);
	if (!OidIsValid(type) || type >= FirstUnpinnedObjectId)
		return NULL;
	return format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* The destination's columns, and whether an index makes the key unique. */
static void
describe_destination(Verify *v)
{
	char	   *relation = psprintf("pg_catalog.to_regclass(%s)", quote_literal_cstr(v->destination));
	StringInfoData keys;
	ListCell   *lc;

	v->table = only_value(&v->actual, psprintf("SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) "
											   "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s", relation));
	if (v->table == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("destination %s of truck \"%s\" does not exist", v->destination, v->truck->name),
				 errhint("Name it with its schema: destination => 'schema.table'.")));
	foreach(lc, run(&v->actual, psprintf("SELECT a.attname, CASE WHEN n.nspname = 'pg_catalog' THEN pg_catalog.format_type(a.atttypid, a.atttypmod) END "
										 "FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
										 "JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace "
										 "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum", relation)))
	{
		TruckerSqlRow *row = lfirst(lc);
		Column	   *column = palloc(sizeof(Column));

		column->name = row->values[0];
		column->type = own_type(row->values[1]);
		v->columns = lappend(v->columns, column);
	}
	initStringInfo(&keys);
	foreach(lc, v->keys)
		appendStringInfo(&keys, "%s%s", keys.len ? ", " : "", quote_literal_cstr(lfirst(lc)));
	v->has_unique_key = run(&v->actual, psprintf("SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate "
												 "AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS "
												 "(SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1]) "
												 "AND (NOT a.attnotnull OR a.attname::pg_catalog.text <> ALL (ARRAY[%s]::pg_catalog.text[])))", relation, keys.data)) != NIL;
}

static bool
is_among(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* The columns of expected_sql, each of which the destination must have, and the key among them. */
static void
describe_expected(Verify *v)
{
	List	   *names = trucker_sql_session_columns(v->expected.session,
													psprintf("SELECT * FROM (\n%s\n) AS expected LIMIT 0", v->expected_sql));
	ListCell   *lc;

	foreach(lc, names)
	{
		char	   *name = lfirst(lc);

		if (find_column(v, name) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("destination %s has no column \"%s\", as expected_sql has", v->table, name),
					 errhint("Name the columns of expected_sql like those that shall be compared: %s.", column_names(v))));
		if (is_among(v->names, name))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("expected_sql has column \"%s\" twice", name)));
		v->names = lappend(v->names, name);
	}
	foreach(lc, v->keys)
		if (!is_among(v->names, lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("expected_sql has no column \"%s\", which key_columns names", (char *) lfirst(lc)),
					 errhint("Each column of key_columns must be one of expected_sql and of the destination.")));
}

/* Columns as text; those that are expected become what the destination would make of them first. */
static List *
as_text(const Verify *v, List *names, bool expected)
{
	List	   *expressions = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = quote_identifier(lfirst(lc));
		const char *type = expected ? find_column(v, lfirst(lc))->type : NULL;

		expressions = lappend(expressions, type ? psprintf("(x.%s)::%s::pg_catalog.text", name, type) :
							  psprintf("(x.%s)::pg_catalog.text", name));
	}
	return expressions;
}

/* Before the truck has to rest: are these two things that can be compared? */
static void
describe(Verify *v)
{
	(void) run(&v->actual, "BEGIN READ ONLY");
	describe_destination(v);
	(void) run(&v->actual, "ROLLBACK");
	(void) run(&v->expected, "BEGIN READ ONLY");
	describe_expected(v);
	(void) run(&v->expected, "ROLLBACK");
	v->expected.rows = trucker_verify_rows_sql(psprintf("(\n%s\n) AS x", v->expected_sql),
											   as_text(v, v->keys, true), as_text(v, v->names, true));
	v->actual.rows = trucker_verify_rows_sql(psprintf("%s AS x", v->table),
											 as_text(v, v->keys, false), as_text(v, v->names, false));
}

/* ----
 * One position
 * ----
 */

static void
raise_late(const Verify *v)
{
	TruckerTruckInfo info;

	if (trucker_find_truck(MyDatabaseId, &v->truck->id, &info) && info.failures > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" fails, and did not come to a snapshot of the source within %s", v->truck->name, v->timeout),
				 errhint("SELECT last_error FROM trucker.status WHERE truck = %s; tells why.", quote_literal_cstr(v->truck->name))));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("truck \"%s\" and a snapshot of the source did not come to one position within %s", v->truck->name, v->timeout),
			 errdetail("The snapshot waits for all transactions that are running, and a truck that is behind has to come there.  Among others the truck needs a catch-up stream for itself (trucker.max_catchup_streams, max_replication_slots)."),
			 errhint("trucker.status says what the truck waits for (waiting_for).  What runs long: SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; or give more time: timeout => '10 min'.")));
}

static void
raise_failed(const Verify *v)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("there could not be made a snapshot of the source for truck \"%s\"", v->truck->name),
			 errdetail("It takes one more replication slot and one more WAL sender.  The server's log says what is missing."),
			 errhint("Raise max_replication_slots or max_wal_senders, or try again when others are free.")));
}

/* Wait until the worker offers a snapshot. */
static void
wait_for_offer(const Verify *v, int index, TruckerVerifyOffer *offer)
{
	TruckerVerifyStep step;

	trucker_wait_progress_prepare();
	while ((step = trucker_verify_look(index, offer)) == TRUCKER_VERIFY_ASKED)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), v->deadline);

		if (left <= 0)
			raise_late(v);
		if (!trucker_wait_progress(Min(left, LOOK_MS)))
			trucker_check_can_progress(v->truck->name);
	}
	trucker_wait_progress_end();
	if (step == TRUCKER_VERIFY_FAILED)
		raise_failed(v);
}

/* Both sessions get their snapshots; false: the truck has gone on meanwhile. */
static bool
take_snapshots(const Verify *v, int index, const TruckerVerifyOffer *offer, const char *settings)
{
	(void) run(&v->expected, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	(void) run(&v->expected, psprintf("SET TRANSACTION SNAPSHOT %s", quote_literal_cstr(offer->snapshot)));
	(void) run(&v->actual, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	(void) run(&v->actual, settings);
	(void) run(&v->actual, "SELECT 1");
	(void) run(&v->expected, settings);
	(void) run(&v->expected, "SELECT 1");
	if (trucker_verify_take(index, offer->number))
		return true;
	(void) run(&v->expected, "ROLLBACK");
	(void) run(&v->actual, "ROLLBACK");
	return false;
}

static void
end_verification(int code, Datum index)
{
	trucker_verify_end(DatumGetInt32(index));
}

/* Let the truck come to a snapshot of the source, and both sessions see what is there. */
static XLogRecPtr
meet(const Verify *v)
{
	char	   *settings = rendering_settings(v);
	int			index = trucker_verify_ask(&v->truck->id, v->deadline);
	TruckerVerifyOffer offer;

	if (index == -1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("truck \"%s\" is being verified by another session", v->truck->name)));
	if (index < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many trucks are being verified at the same time"),
				 errhint("Try again when another call of trucker.verify() has ended.")));
	PG_ENSURE_ERROR_CLEANUP(end_verification, Int32GetDatum(index));
	{
		do
			wait_for_offer(v, index, &offer);
		while (!take_snapshots(v, index, &offer, settings));
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_verification, Int32GetDatum(index));
	return offer.lsn;
}

/* verify(truck, key_columns, expected_sql, destination, timeout) */
Datum
trucker_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Verify	   *v = palloc0(sizeof(Verify));
	XLogRecPtr	lsn;

	require_argument(fcinfo, 0, "truck");
	require_argument(fcinfo, 1, "key_columns");
	require_argument(fcinfo, 2, "expected_sql");
	require_argument(fcinfo, 4, "timeout");
	v->truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	trucker_check_can_wait("verify", "A snapshot of the source that goes with a position waits for it to end.");
	v->keys = key_columns(PG_GETARG_ARRAYTYPE_P(1));
	v->expected_sql = query_argument(trucker_argument_sql(PG_GETARG_TEXT_PP(2), "expected_sql"));
	trucker_check_can_progress(v->truck->name);
	trucker_truck_check_role(v->truck);
	v->destination = PG_ARGISNULL(3) ? destination_of(v->truck) : trucker_target_name(text_to_cstring(PG_GETARG_TEXT_PP(3)));
	v->timeout = DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(4)));
	v->deadline = trucker_deadline(PG_GETARG_INTERVAL_P(4), "verify");
	InitMaterializedSRF(fcinfo, 0);
	open_sessions(v);
	describe(v);
	lsn = meet(v);
	ereport(DEBUG1,
			(errmsg("truck \"%s\" and the source are compared at %X/%X", v->truck->name, LSN_FORMAT_ARGS(lsn))));
	if (!v->has_unique_key)
		trucker_verify_check_unique(&v->actual, v->keys);
	trucker_verify_compare(&v->expected, &v->actual, v->keys, v->names, rsinfo);
	trucker_sql_session_close(v->expected.session);
	trucker_sql_session_close(v->actual.session);
	return (Datum) 0;
}
