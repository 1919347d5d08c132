/*
 * truck.c
 *	  Reading and writing the definition and the state of trucks.
 *
 * The only file that knows the columns of trucker.truck, trucker.truck_state
 * and trucker.input_table.  (trucker.position is position.c's.)
 *
 * Ordinary users have no rights on these tables.  The functions here act as
 * the bootstrap superuser with a search_path that nobody else can write to;
 * the callers check first who asks.  All of them need a transaction.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "identity.h"
#include "truck.h"

#define UNREADABLE "EXISTS (SELECT FROM trucker.unreadable_input u WHERE u.truck_id = t.id)"

#define TRUCK_COLUMNS \
	"t.id, t.name, t.owner::oid, t.run_as::oid, t.input_tables::oid[], t.input_sql, " \
	"t.output_sql, t.output_connection, t.search_path, t.options, " \
	"coalesce(s.enabled, false), coalesce(s.needs_backfill, true), " \
	"coalesce(s.needs_reset, false), coalesce(s.lost, true) OR " UNREADABLE ", s.slot_name, s.truck_id IS NULL, " \
	"coalesce(s.confirmed_lsn, '0/0') " \
	"FROM trucker.truck t LEFT JOIN trucker.truck_state s ON s.truck_id = t.id "

/* ----
 * Talking to the catalog
 * ----
 */

typedef struct CatalogAccess
{
	TruckerIdentity identity;
	MemoryContext result_context;
	bool		pushed_snapshot;
} CatalogAccess;

static void
catalog_begin(CatalogAccess *access)
{
	access->result_context = CurrentMemoryContext;
	access->pushed_snapshot = !ActiveSnapshotSet();
	if (access->pushed_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	trucker_identity_push(&access->identity, BOOTSTRAP_SUPERUSERID,
						  SECURITY_LOCAL_USERID_CHANGE, "pg_catalog, pg_temp");
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static void
catalog_end(const CatalogAccess *access)
{
	SPI_finish();
	trucker_identity_pop(&access->identity);
	if (access->pushed_snapshot)
		PopActiveSnapshot();
}

/* Run one statement; how many rows it touched. */
static uint64
catalog_execute(const char *sql, int nargs, Oid *types, Datum *values,
				const char *nulls, int expected)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, nulls,
										   false, 0);

	if (rc != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/* A statement about one truck, with its id as $1 and up to one text as $2. */
static uint64
write_state(const char *sql, const pg_uuid_t *id, const char *text,
			int expected)
{
	Oid			types[] = {UUIDOID, TEXTOID};
	Datum		values[] = {UUIDPGetDatum(id), text ? CStringGetTextDatum(text) : (Datum) 0};
	char		nulls[] = {' ', text ? ' ' : 'n', '\0'};
	CatalogAccess access;
	uint64		touched;

	catalog_begin(&access);
	touched = catalog_execute(sql, 2, types, values, nulls, expected);
	catalog_end(&access);
	return touched;
}

static Datum
column(HeapTuple tuple, int number, bool *isnull)
{
	return SPI_getbinval(tuple, SPI_tuptable->tupdesc, number, isnull);
}

/* A text column, copied to the current context; NULL for a null. */
static char *
text_column(HeapTuple tuple, int number)
{
	bool		isnull;
	Datum		value = column(tuple, number, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static bool
bool_column(HeapTuple tuple, int number)
{
	bool		isnull;

	return DatumGetBool(column(tuple, number, &isnull));
}


static TruckerTruck *
form_truck(HeapTuple tuple)
{
	TruckerTruck *truck = palloc0(sizeof(TruckerTruck));
	bool		isnull;
	ArrayType  *inputs;
	char	   *ignored;

	truck->id = *DatumGetUUIDP(column(tuple, 1, &isnull));
	truck->name = text_column(tuple, 2);
	truck->owner = DatumGetObjectId(column(tuple, 3, &isnull));
	truck->role = DatumGetObjectId(column(tuple, 4, &isnull));
	inputs = DatumGetArrayTypePCopy(column(tuple, 5, &isnull));
	truck->ninputs = ArrayGetNItems(ARR_NDIM(inputs), ARR_DIMS(inputs));
	truck->inputs = (Oid *) ARR_DATA_PTR(inputs);
	truck->input_sql = text_column(tuple, 6);
	truck->output_sql = text_column(tuple, 7);
	truck->connection = text_column(tuple, 8);
	truck->search_path = text_column(tuple, 9);
	truck->options = DatumGetJsonbPCopy(column(tuple, 10, &isnull));
	truck->enabled = bool_column(tuple, 11);
	truck->needs_backfill = bool_column(tuple, 12);
	truck->needs_reset = bool_column(tuple, 13);
	truck->lost = bool_column(tuple, 14);
	truck->slot_name = text_column(tuple, 15);
	truck->restored = bool_column(tuple, 16);
	truck->confirmed_lsn = DatumGetLSN(column(tuple, 17, &isnull));
	trucker_truck_parse_options(truck, &ignored);
	return truck;
}

/* The one truck that the query finds, in the caller's context; or NULL. */
static TruckerTruck *
load_one(const char *sql, Oid type, Datum value)
{
	CatalogAccess access;
	TruckerTruck *truck = NULL;

	catalog_begin(&access);
	if (catalog_execute(sql, 1, &type, &value, NULL, SPI_OK_SELECT) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(access.result_context);

		truck = form_truck(SPI_tuptable->vals[0]);
		MemoryContextSwitchTo(old);
	}
	catalog_end(&access);
	return truck;
}

/* A list, in the caller's context, of what form() makes of each row. */
static List *
load_list(const char *sql, const pg_uuid_t *id, void *(*form) (HeapTuple tuple))
{
	Oid			type = UUIDOID;
	Datum		value = id ? UUIDPGetDatum(id) : (Datum) 0;
	CatalogAccess access;
	MemoryContext old;
	List	   *result = NIL;

	catalog_begin(&access);
	catalog_execute(sql, id ? 1 : 0, &type, &value, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		result = lappend(result, form(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	catalog_end(&access);
	return result;
}

/* ----
 * Options
 * ----
 */

static void
option_type_error(const char *key, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" of a truck must be %s", key, wanted)));
}

static bool
bool_option(const char *key, const JsonbValue *value)
{
	if (value->type != jbvBool)
		option_type_error(key, "true or false");
	return value->val.boolean;
}

static char *
text_option(const char *key, const JsonbValue *value)
{
	if (value->type != jbvString)
		option_type_error(key, "a string");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* One of some words; list is how an error enumerates them. */
static int
word_option(const char *key, const JsonbValue *value, const char *const *words,
			int nwords, const char *list)
{
	char	   *text = text_option(key, value);

	for (int i = 0; i < nwords; i++)
		if (strcmp(text, words[i]) == 0)
			return i;
	option_type_error(key, list);
	return 0;					/* keep compiler quiet */
}

static void
set_option(TruckerTruck *truck, char **role_name, const char *key,
		   const JsonbValue *value)
{
	static const char *const changes[] = {"all", "net"};
	static const char *const on_truncate[] = {
		[TRUCKER_TRUNCATE_ERROR] = "error",
		[TRUCKER_TRUNCATE_IGNORE] = "ignore",
		[TRUCKER_TRUNCATE_RUN] = "run"
	};
	static const char *const toast[] = {"exact", "current"};

	if (strcmp(key, "backfill") == 0)
		truck->backfill = bool_option(key, value);
	else if (strcmp(key, "changes") == 0)
		truck->net = word_option(key, value, changes, lengthof(changes), "\"all\" or \"net\"") == 1;
	else if (strcmp(key, "reset_sql") == 0)
		truck->reset_sql = text_option(key, value);
	else if (strcmp(key, "inserts_only") == 0)
		truck->inserts_only = bool_option(key, value);
	else if (strcmp(key, "role") == 0)
		*role_name = text_option(key, value);
	else if (strcmp(key, "on_truncate") == 0)
		truck->on_truncate = word_option(key, value, on_truncate, lengthof(on_truncate),
										 "\"error\", \"ignore\" or \"run\"");
	else if (strcmp(key, "toast") == 0)
		truck->toast_current = word_option(key, value, toast, lengthof(toast), "\"exact\" or \"current\"") == 1;
	else if (strcmp(key, "truncate_sql") == 0)
		truck->truncate_sql = text_option(key, value);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown option \"%s\" of a truck", key),
				 errhint("Valid options are: backfill, changes, inserts_only, on_truncate, reset_sql, role, toast, truncate_sql.")));
}

static void
check_options(const TruckerTruck *truck)
{
	if (truck->net && truck->inserts_only)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the options \"changes\": \"net\" and \"inserts_only\": true of a truck exclude each other"),
				 errdetail("Inserts alone do not tell what becomes of a row."),
				 errhint("Leave out one of them.")));
	if (truck->on_truncate == TRUCKER_TRUNCATE_RUN && truck->truncate_sql == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the option \"on_truncate\": \"run\" of a truck needs the option \"truncate_sql\""),
				 errhint("\"truncate_sql\" is the SQL to run when an input table has been truncated.")));
	if (truck->on_truncate != TRUCKER_TRUNCATE_RUN && truck->truncate_sql != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the option \"truncate_sql\" of a truck needs the option \"on_truncate\": \"run\""),
				 errhint("Without that it would never be run.")));
}

/*
 * Set the truck's option fields from truck->options.  *role_name becomes the
 * option role, or NULL.  An unknown key or a wrong type is an error, and so are
 * options that do not go together.
 */
void
trucker_truck_parse_options(TruckerTruck *truck, char **role_name)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	truck->backfill = true;
	truck->reset_sql = NULL;
	truck->inserts_only = false;
	truck->toast_current = false;
	truck->net = false;
	truck->on_truncate = TRUCKER_TRUNCATE_ERROR;
	truck->truncate_sql = NULL;
	*role_name = NULL;

	if (!JB_ROOT_IS_OBJECT(truck->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a truck must be a JSON object")));

	it = JsonbIteratorInit(&truck->options->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *key;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(value.val.string.val, value.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		set_option(truck, role_name, key, &value);
	}
	check_options(truck);
}

/* ----
 * Reading
 * ----
 */

/*
 * The truck of this name, for somebody who wants to manage it.  Raises an
 * error if there is none, or if the current user does not have its owner's
 * rights.
 */
TruckerTruck *
trucker_truck_get(const char *name)
{
	TruckerTruck *truck = load_one("SELECT " TRUCK_COLUMNS "WHERE t.name = $1",
								   TEXTOID, CStringGetTextDatum(name));

	if (truck == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("truck \"%s\" does not exist", name),
				 errhint("SELECT truck FROM trucker.status lists the trucks of this database.")));
	if (!has_privs_of_role(GetUserId(), truck->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of truck \"%s\"", name)));
	return truck;
}

/* The truck with this id; NULL if it is gone. */
TruckerTruck *
trucker_truck_load(const pg_uuid_t *id)
{
	return load_one("SELECT " TRUCK_COLUMNS "WHERE t.id = $1",
					UUIDOID, UUIDPGetDatum(id));
}

static void *
form_truck_pointer(HeapTuple tuple)
{
	return form_truck(tuple);
}

/* Names (char *) of all trucks that the current user may manage, in order. */
List *
trucker_truck_own_names(void)
{
	List	   *all = load_list("SELECT " TRUCK_COLUMNS "ORDER BY t.name",
								NULL, form_truck_pointer);
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, all)
	{
		TruckerTruck *truck = lfirst(lc);

		if (has_privs_of_role(GetUserId(), truck->owner))
			names = lappend(names, truck->name);
	}
	return names;
}

/* All trucks (TruckerTruck *) that shall run. */
List *
trucker_truck_enabled(void)
{
	return load_list("SELECT " TRUCK_COLUMNS "WHERE s.enabled AND NOT s.lost AND NOT " UNREADABLE " ORDER BY t.name",
					 NULL, form_truck_pointer);
}

static void *
form_text(HeapTuple tuple)
{
	return text_column(tuple, 1);
}

/* Names (char *) of all slots that some truck needs. */
List *
trucker_truck_slot_names(void)
{
	return load_list("SELECT s.slot_name FROM trucker.truck t "
					 "JOIN trucker.truck_state s ON s.truck_id = t.id "
					 "WHERE s.slot_name IS NOT NULL", NULL, form_text);
}

static void *
form_input_name(HeapTuple tuple)
{
	TruckerInputName *name = palloc(sizeof(TruckerInputName));
	bool		isnull;

	name->relid = DatumGetObjectId(column(tuple, 1, &isnull));
	name->schema = text_column(tuple, 2);
	name->table = text_column(tuple, 3);
	return name;
}

/* The names (TruckerInputName *) of a truck's inputs as of its position. */
List *
trucker_truck_input_names(const pg_uuid_t *id)
{
	return load_list("SELECT relid, schema_name, table_name FROM trucker.input_table "
					 "WHERE truck_id = $1", id, form_input_name);
}

/* ----
 * Writing
 * ----
 */

/*
 * Insert the definition, and a state: a truck without one has been restored from
 * a dump.  truck->id is filled in by the table's default.
 */
void
trucker_truck_insert(const TruckerTruck *truck)
{
	Oid			types[] = {TEXTOID, OIDOID, OIDOID, OIDARRAYOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID};
	Datum		values[9];
	char		nulls[10] = "         ";
	Datum	   *inputs = palloc(truck->ninputs * sizeof(Datum));
	CatalogAccess access;

	for (int i = 0; i < truck->ninputs; i++)
		inputs[i] = ObjectIdGetDatum(truck->inputs[i]);
	values[0] = CStringGetTextDatum(truck->name);
	values[1] = ObjectIdGetDatum(truck->owner);
	values[2] = ObjectIdGetDatum(truck->role);
	values[3] = PointerGetDatum(construct_array(inputs, truck->ninputs, OIDOID,
												sizeof(Oid), true, TYPALIGN_INT));
	values[4] = truck->input_sql ? CStringGetTextDatum(truck->input_sql) : (Datum) 0;
	nulls[4] = truck->input_sql ? ' ' : 'n';
	values[5] = CStringGetTextDatum(truck->output_sql);
	values[6] = CStringGetTextDatum(truck->connection);
	values[7] = JsonbPGetDatum(truck->options);
	values[8] = CStringGetTextDatum(truck->search_path);

	catalog_begin(&access);
	if (catalog_execute("WITH new AS (INSERT INTO trucker.truck (name, owner, run_as, input_tables, input_sql, "
						"output_sql, output_connection, options, search_path) "
						"VALUES ($1, $2::regrole, $3::regrole, "
						"$4::regclass[], $5, $6, $7, $8, $9) ON CONFLICT (name) DO NOTHING RETURNING id) "
						"INSERT INTO trucker.truck_state (truck_id) SELECT id FROM new",
						9, types, values, nulls, SPI_OK_INSERT) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("truck \"%s\" already exists", truck->name)));
	catalog_end(&access);
}

/* Remove all that is known of a truck, its position included. */
void
trucker_truck_delete(const pg_uuid_t *id)
{
	static const char *const statements[] = {
		"DELETE FROM trucker.truck WHERE id = $1 AND $2 IS NULL",
		"DELETE FROM trucker.truck_state WHERE truck_id = $1 AND $2 IS NULL",
		"DELETE FROM trucker.input_table WHERE truck_id = $1 AND $2 IS NULL",
		"DELETE FROM trucker.unreadable_input WHERE truck_id = $1 AND $2 IS NULL",
		"DELETE FROM trucker.position WHERE truck_id = $1 AND $2 IS NULL"
	};

	for (int i = 0; i < lengthof(statements); i++)
		write_state(statements[i], id, NULL, SPI_OK_DELETE);
}

/* Change the wished-for state; nothing is written if it is that already. */
void
trucker_truck_set_enabled(const pg_uuid_t *id, bool enabled)
{
	write_state("INSERT INTO trucker.truck_state AS s (truck_id, enabled) "
				"VALUES ($1, $2::boolean) ON CONFLICT (truck_id) DO UPDATE "
				"SET enabled = excluded.enabled WHERE s.enabled <> excluded.enabled",
				id, enabled ? "true" : "false", SPI_OK_INSERT);
}

void
trucker_truck_request_resync(const pg_uuid_t *id)
{
	/* the names that hold from now on are recorded with the new slot */
	write_state("DELETE FROM trucker.input_table WHERE truck_id = $1 AND $2 IS NULL",
				id, NULL, SPI_OK_DELETE);
	write_state("DELETE FROM trucker.unreadable_input WHERE truck_id = $1 AND $2 IS NULL",
				id, NULL, SPI_OK_DELETE);
	write_state("INSERT INTO trucker.truck_state (truck_id, needs_reset) "
				"SELECT $1, true WHERE $2 IS NULL ON CONFLICT (truck_id) DO UPDATE "
				"SET needs_backfill = true, needs_reset = true, lost = false, confirmed_lsn = NULL",
				id, NULL, SPI_OK_INSERT);
}

/* Record the slot's name; before the slot is made, so that none is forgotten. */
void
trucker_truck_set_slot(const pg_uuid_t *id, const char *slot_name)
{
	write_state("UPDATE trucker.truck_state SET slot_name = $2 WHERE truck_id = $1",
				id, slot_name, SPI_OK_UPDATE);
}

void
trucker_truck_set_backfilled(const pg_uuid_t *id)
{
	if (write_state("UPDATE trucker.truck_state SET needs_backfill = false, needs_reset = false "
					"WHERE truck_id = $1 AND $2 IS NULL", id, NULL, SPI_OK_UPDATE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the truck has been dropped")));
}

/* Remember why the truck could not go on; lost: nor will it by itself. */
void
trucker_truck_set_error(const pg_uuid_t *id, const char *message, bool lost)
{
	write_state("UPDATE trucker.truck_state "
				"SET last_error = $2, last_error_at = clock_timestamp() WHERE truck_id = $1",
				id, message, SPI_OK_UPDATE);
	if (lost)
		write_state("UPDATE trucker.truck_state SET lost = true WHERE truck_id = $1 AND $2 IS NULL",
					id, NULL, SPI_OK_UPDATE);
}

/*
 * Note, for trucks that are stopped, up to where their slots are confirmed.  The
 * slot of a truck that rests must not move; if it does, somebody else has read
 * from it or advanced it.
 */
void
trucker_truck_note_confirmed(void)
{
	CatalogAccess access;

	catalog_begin(&access);
	catalog_execute("UPDATE trucker.truck_state s SET confirmed_lsn = r.confirmed_flush_lsn "
					"FROM pg_replication_slots r WHERE r.slot_name = s.slot_name AND NOT r.active "
					"AND NOT s.enabled AND s.confirmed_lsn IS NULL",
					0, NULL, NULL, NULL, SPI_OK_UPDATE);
	catalog_end(&access);
}

/* The truck's worker is about to move the slot again. */
void
trucker_truck_forget_confirmed(const pg_uuid_t *id)
{
	write_state("UPDATE trucker.truck_state SET confirmed_lsn = NULL "
				"WHERE truck_id = $1 AND $2 IS NULL AND confirmed_lsn IS NOT NULL",
				id, NULL, SPI_OK_UPDATE);
}

/*
 * Trucks that have begun to read a table are lost when it is renamed (what it was
 * called at which point of the WAL cannot be found out later), or when its
 * changes are no longer in the WAL.  Called in the transaction that has altered
 * something; returns how many trucks that has cost.
 */
int
trucker_truck_mark_unreadable(void)
{
	static const char *const sql =
		"INSERT INTO trucker.unreadable_input (truck_id, reason) SELECT t.id, "
		"format(CASE WHEN c.oid IS NULL "
		"THEN E'42P01: input table %I.%I %s\\nHINT: SELECT trucker.drop_truck(%L), and create it again with the tables that there are.' "
		"ELSE E'55000: input table %I.%I %s\\nHINT: SELECT trucker.resync(%L) loads the destination anew.' END, "
		"i.schema_name, i.table_name, why.reason, t.name) "
		"FROM trucker.input_table i JOIN trucker.truck t ON t.id = i.truck_id "
		"LEFT JOIN pg_class c ON c.oid = i.relid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace "
		"CROSS JOIN LATERAL (SELECT CASE WHEN c.oid IS NULL THEN 'has been dropped' "
		"WHEN (n.nspname, c.relname) <> (i.schema_name, i.table_name) "
		"THEN format('has been renamed to %I.%I', n.nspname, c.relname) "
		"WHEN c.relpersistence <> 'p' THEN 'has been made unlogged' "
		"WHEN t.options @> '{\"inserts_only\": true}' OR c.relreplident = 'f' THEN NULL "
		"WHEN NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate "
		"AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END) "
		"THEN 'has lost its replica identity' END) AS why(reason) "
		"WHERE why.reason IS NOT NULL AND NOT " UNREADABLE;
	CatalogAccess access;
	int			touched;

	catalog_begin(&access);
	touched = (int) catalog_execute(sql, 0, NULL, NULL, NULL, SPI_OK_INSERT);
	catalog_end(&access);
	return touched;
}

static void
check_role_exists(const TruckerTruck *truck, Oid role, const char *what)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the %s of truck \"%s\" (OID %u) does not exist any more",
						what, truck->name, role),
				 errhint("Drop the truck with trucker.drop_truck(), and create it again.")));
}

/*
 * May the truck's SQL still run as its role?  Raises an error if not: roles are
 * dropped, and memberships revoked, while a truck runs.
 */
void
trucker_truck_check_role(const TruckerTruck *truck)
{
	check_role_exists(truck, truck->owner, "owner");
	check_role_exists(truck, truck->role, "role");
	if (!is_member_of_role(truck->owner, truck->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("owner \"%s\" of truck \"%s\" is not a member of its role \"%s\"",
						GetUserNameFromId(truck->owner, false), truck->name,
						GetUserNameFromId(truck->role, false)),
				 errhint("GRANT %s TO %s;",
						 quote_identifier(GetUserNameFromId(truck->role, false)),
						 quote_identifier(GetUserNameFromId(truck->owner, false)))));
}

/* An input table is gone, and that is all that can be said. */
void
trucker_raise_dropped(const char *truck_name, Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("an input table of truck \"%s\" (OID %u) has been dropped", truck_name, relid),
			 errhint("Drop the truck with trucker.drop_truck(), and create it again with the tables that there are.")));
}

/* Replace the names of a truck's inputs. */
void
trucker_truck_set_input_names(const pg_uuid_t *id, List *names)
{
	Oid			types[] = {UUIDOID, OIDOID, TEXTOID, TEXTOID};
	Datum		values[] = {UUIDPGetDatum(id), (Datum) 0, (Datum) 0, (Datum) 0};
	CatalogAccess access;
	ListCell   *lc;

	catalog_begin(&access);
	catalog_execute("DELETE FROM trucker.input_table WHERE truck_id = $1",
					1, types, values, NULL, SPI_OK_DELETE);
	foreach(lc, names)
	{
		TruckerInputName *name = lfirst(lc);

		values[1] = ObjectIdGetDatum(name->relid);
		values[2] = CStringGetTextDatum(name->schema);
		values[3] = CStringGetTextDatum(name->table);
		catalog_execute("INSERT INTO trucker.input_table VALUES ($1, $2, $3, $4)",
						4, types, values, NULL, SPI_OK_INSERT);
	}
	catalog_end(&access);
}
