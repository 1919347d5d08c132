/*
 * truck.c
 *	  The definition of trucks: read, written, and its options.
 *
 * The only file that knows the columns of trucker.truck.  What a truck is to do
 * and which stream carries it is state.c's, its position is position.c's; a
 * TruckerTruck shows the state as well, as it was when the truck was loaded.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "state.h"
#include "truck.h"

/* the options that there are, in the order of their names */
#define OPTION_NAMES "backfill, changes, except_columns, inserts_only, mode, on_error, on_truncate, only_columns, output_table, reset_sql, role, slow_query_threshold, stream, toast, truncate_sql"

#define TRUCK_COLUMNS \
	"t.id, t.name, t.owner::oid, t.run_as::oid, t.input_tables::oid[], t.input_sql, " \
	"t.output_sql, t.output_connection, t.search_path, t.options, " \
	"coalesce(s.enabled, false), coalesce(s.needs_backfill, true), " \
	"coalesce(s.needs_reset, false), coalesce(s.lost, true) OR " TRUCKER_UNREADABLE ", " \
	"s.truck_id IS NULL, s.stream_id, coalesce(s.failed, false), " \
	"coalesce(s.applied_lsn, '0/0'), t.xmin::text, coalesce(s.failed_lsn, '0/0'), coalesce(s.skip_lsn, '0/0'), " \
	"(SELECT array_agg(concat_ws(' ', f.relid, f.keeps::int, array_to_string(f.attnums, ' '))) " \
	"FROM trucker.filter_attnum f WHERE f.truck_id = t.id), " \
	"EXISTS (SELECT FROM trucker.column_filter f WHERE f.truck_id = t.id), " \
	"(SELECT d.system_id FROM trucker.drained d WHERE d.truck_id = t.id LIMIT 1) " \
	"FROM trucker.truck t LEFT JOIN trucker.truck_state s ON s.truck_id = t.id "

/* The filters that the catalog knows by attnum: for each input one text, of numbers. */
List *
trucker_truck_form_filters(HeapTuple tuple, int number)
{
	bool		isnull;
	Datum		array = trucker_column(tuple, number, &isnull);
	List	   *filters = NIL;
	Datum	   *texts;
	int			n;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &texts, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		TruckerFilter *filter = palloc0(sizeof(TruckerFilter));
		char	   *p = TextDatumGetCString(texts[i]);

		filter->relid = (Oid) strtoul(p, &p, 10);
		filter->keeps = strtoul(p, &p, 10) != 0;
		while (*p == ' ')
			filter->attnums = bms_add_member(filter->attnums, (int) strtoul(p, &p, 10));
		filters = lappend(filters, filter);
	}
	return filters;
}

static TruckerTruck *
form_truck(HeapTuple tuple)
{
	TruckerTruck *truck = palloc0(sizeof(TruckerTruck));
	bool		isnull;
	ArrayType  *inputs;
	Datum		stream_id;
	char	   *ignored;

	truck->id = *DatumGetUUIDP(trucker_column(tuple, 1, &isnull));
	truck->name = trucker_text_column(tuple, 2);
	truck->owner = DatumGetObjectId(trucker_column(tuple, 3, &isnull));
	truck->role = DatumGetObjectId(trucker_column(tuple, 4, &isnull));
	inputs = DatumGetArrayTypePCopy(trucker_column(tuple, 5, &isnull));
	truck->ninputs = ArrayGetNItems(ARR_NDIM(inputs), ARR_DIMS(inputs));
	truck->inputs = (Oid *) ARR_DATA_PTR(inputs);
	truck->input_sql = trucker_text_column(tuple, 6);
	truck->output_sql = trucker_text_column(tuple, 7);
	truck->connection = trucker_text_column(tuple, 8);
	truck->search_path = trucker_text_column(tuple, 9);
	truck->options = DatumGetJsonbPCopy(trucker_column(tuple, 10, &isnull));
	truck->enabled = trucker_bool_column(tuple, 11);
	truck->needs_backfill = trucker_bool_column(tuple, 12);
	truck->needs_reset = trucker_bool_column(tuple, 13);
	truck->lost = trucker_bool_column(tuple, 14);
	truck->restored = trucker_bool_column(tuple, 15);
	stream_id = trucker_column(tuple, 16, &isnull);
	truck->has_stream = !isnull;
	if (!isnull)
		truck->stream_id = *DatumGetUUIDP(stream_id);
	truck->failed = trucker_bool_column(tuple, 17);
	truck->applied_lsn = DatumGetLSN(trucker_column(tuple, 18, &isnull));
	truck->version = trucker_text_column(tuple, 19);
	truck->failed_lsn = DatumGetLSN(trucker_column(tuple, 20, &isnull));
	truck->skip_lsn = DatumGetLSN(trucker_column(tuple, 21, &isnull));
	truck->filters = trucker_truck_form_filters(tuple, 22);
	truck->filters_restored = truck->filters == NIL && trucker_bool_column(tuple, 23);
	truck->drained_on = (uint64) DatumGetInt64(trucker_column(tuple, 24, &isnull));
	trucker_truck_parse_options(truck, &ignored);
	return truck;
}

/*
 * Was the truck drained on the server from which pg_upgrade has made this one?  Then what
 * its backfill does is to see that nothing is missing (drained.c).
 */
bool
trucker_truck_resumes(const TruckerTruck *truck)
{
	return truck->drained_on != 0 && truck->drained_on != GetSystemIdentifier();
}

/* The one truck that the query finds, in the caller's context; or NULL. */
static TruckerTruck *
load_one(const char *sql, Oid type, Datum value)
{
	TruckerCatalog access;
	TruckerTruck *truck = NULL;

	trucker_catalog_begin(&access);
	if (trucker_catalog_execute(sql, 1, &type, &value, NULL, SPI_OK_SELECT) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(access.result_context);

		truck = form_truck(SPI_tuptable->vals[0]);
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	return truck;
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

/* Milliseconds; -1: never. */
static int
milliseconds_option(const char *key, const JsonbValue *value)
{
	int32		number;
	bool		error = true;

	if (value->type == jbvNumeric)
		number = numeric_int4_opt_error(value->val.numeric, &error);
	if (error || number < -1)
		option_type_error(key, "a number of milliseconds, or -1");
	return number;
}

static char *
text_option(const char *key, const JsonbValue *value)
{
	if (value->type != jbvString)
		option_type_error(key, "a string");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static char *
name_option(const char *key, const JsonbValue *value)
{
	char	   *name = text_option(key, value);

	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		option_type_error(key, psprintf("a name of 1 to %d bytes", NAMEDATALEN - 1));
	return name;
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
raise_unknown_option(const char *key)
{
	if (strcmp(key, "input_connection") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the input of a truck is the database that it is created in"),
				 errhint("Install trucker in the database that holds the tables.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\" of a truck", key),
			 errhint("Valid options are: " OPTION_NAMES ".")));
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
	static const char *const on_error[] = {
		[TRUCKER_ON_ERROR_RETRY] = "retry",
		[TRUCKER_ON_ERROR_STOP] = "stop",
		[TRUCKER_ON_ERROR_QUARANTINE] = "quarantine"
	};
	static const char *const toast[] = {"exact", "current"};
	static const char *const modes[] = {"append", "mirror"};

	if (strcmp(key, "backfill") == 0)
		truck->backfill = bool_option(key, value);
	else if (strcmp(key, "changes") == 0)
		truck->net = word_option(key, value, changes, lengthof(changes), "\"all\" or \"net\"") == 1;
	else if (strcmp(key, "reset_sql") == 0)
		truck->reset_sql = text_option(key, value);
	else if (strcmp(key, "inserts_only") == 0)
		truck->inserts_only = bool_option(key, value);
	else if (strcmp(key, "slow_query_threshold") == 0)
		truck->slow_query_threshold = milliseconds_option(key, value);
	else if (strcmp(key, "role") == 0)
		*role_name = text_option(key, value);
	else if (strcmp(key, "stream") == 0)
		truck->stream_name = name_option(key, value);
	else if (strcmp(key, "on_error") == 0)
		truck->on_error = word_option(key, value, on_error, lengthof(on_error),
									  "\"retry\", \"stop\" or \"quarantine\"");
	else if (strcmp(key, "on_truncate") == 0)
		truck->on_truncate = word_option(key, value, on_truncate, lengthof(on_truncate),
										 "\"error\", \"ignore\" or \"run\"");
	else if (strcmp(key, "toast") == 0)
		truck->toast_current = word_option(key, value, toast, lengthof(toast), "\"exact\" or \"current\"") == 1;
	else if (strcmp(key, "output_table") == 0)
		truck->output_table = text_option(key, value);
	else if (strcmp(key, "mode") == 0)
		truck->mirror = word_option(key, value, modes, lengthof(modes), "\"append\" or \"mirror\"") == 1;
	else if (strcmp(key, "truncate_sql") == 0)
		truck->truncate_sql = text_option(key, value);
	else
		raise_unknown_option(key);
}

static void
check_is_object(Jsonb *options)
{
	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a truck must be a JSON object")));
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
	truck->stream_name = pstrdup(TRUCKER_DEFAULT_STREAM);
	truck->on_error = TRUCKER_ON_ERROR_RETRY;
	truck->net = false;
	truck->on_truncate = TRUCKER_TRUNCATE_ERROR;
	truck->truncate_sql = NULL;
	truck->output_table = NULL;
	truck->mirror = true;
	truck->slow_query_threshold = TRUCKER_THRESHOLD_OF_SERVER;
	*role_name = NULL;

	check_is_object(truck->options);
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

/* What a truck writes is said by output_sql or by the option output_table. */
void
trucker_truck_check_output(const TruckerTruck *truck)
{
	if (truck->output_sql == NULL && truck->output_table == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a truck needs output_sql"),
				 errhint("Or the option \"output_table\", for which it is generated.")));
	if (truck->output_sql && truck->output_table)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("output_sql and the option \"output_table\" of a truck exclude each other"),
				 errhint("Leave out one of them; in alter_truck(), output_sql => '' means none.")));
	if (truck->on_error == TRUCKER_ON_ERROR_QUARANTINE && strcmp(truck->connection, TRUCKER_CONNECTION_LOCAL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the option \"on_error\": \"quarantine\" is for trucks that write to this database"),
				 errdetail("What is put into quarantine here and the position at connection \"%s\" could not be committed at once.",
						   truck->connection),
				 errhint("Use \"retry\" or \"stop\"; trucker.skip() passes over a source transaction.")));
	if (truck->output_table && truck->mirror && truck->inserts_only)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the options \"inserts_only\": true and \"output_table\" of a truck need \"mode\": \"append\""),
				 errdetail("Inserts alone do not tell what becomes of a row.")));
}

/*
 * Replace the options that changes names, and remove those that it gives as null.
 * What comes of it is not parsed yet.
 */
void
trucker_truck_merge_options(TruckerTruck *truck, Jsonb *changes)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	check_is_object(changes);
	truck->options = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(truck->options),
														JsonbPGetDatum(changes)));
	it = JsonbIteratorInit(&changes->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *key;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(value.val.string.val, value.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvNull)
			continue;
		if (strstr(", " OPTION_NAMES ",", psprintf(" %s,", key)) == NULL)
			raise_unknown_option(key);
		truck->options = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(truck->options),
															CStringGetTextDatum(key)));
	}
}

/* ----
 * Reading
 * ----
 */

/* The truck of this name, whoever asks; NULL: there is none. */
TruckerTruck *
trucker_truck_find(const char *name)
{
	return load_one("SELECT " TRUCK_COLUMNS "WHERE t.name = $1", TEXTOID, CStringGetTextDatum(name));
}

/*
 * The truck of this name, for somebody who wants to manage it.  Raises an
 * error if there is none, or if the current user does not have its owner's
 * rights.
 */
TruckerTruck *
trucker_truck_get(const char *name)
{
	TruckerTruck *truck = trucker_truck_find(name);

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

/*
 * The trucks (TruckerTruck *) that a stream carries, in the order of their names:
 * those that are stopped, failed or lost included.
 */
List *
trucker_truck_of_stream(const pg_uuid_t *stream_id)
{
	return trucker_catalog_list("SELECT " TRUCK_COLUMNS "WHERE s.stream_id = $1 ORDER BY t.name",
								stream_id, form_truck_pointer);
}

/* All trucks (TruckerTruck *) that read the table, in the order of their names, whoever asks. */
List *
trucker_truck_readers(Oid relid)
{
	List	   *all = trucker_catalog_list("SELECT " TRUCK_COLUMNS "ORDER BY t.name",
								NULL, form_truck_pointer);
	List	   *readers = NIL;
	ListCell   *lc;

	foreach(lc, all)
	{
		TruckerTruck *truck = lfirst(lc);

		for (int i = 0; i < truck->ninputs; i++)
			if (truck->inputs[i] == relid)
				readers = lappend(readers, truck);
	}
	return readers;
}

/* Names (char *) of all trucks that the current user may manage, in order. */
List *
trucker_truck_own_names(void)
{
	List	   *all = trucker_catalog_list("SELECT " TRUCK_COLUMNS "ORDER BY t.name",
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

/* ----
 * Writing
 * ----
 */

static Datum
inputs_datum(const TruckerTruck *truck)
{
	Datum	   *inputs = palloc(truck->ninputs * sizeof(Datum));

	for (int i = 0; i < truck->ninputs; i++)
		inputs[i] = ObjectIdGetDatum(truck->inputs[i]);
	return PointerGetDatum(construct_array(inputs, truck->ninputs, OIDOID,
										   sizeof(Oid), true, TYPALIGN_INT));
}

/*
 * Insert the definition, and a state: a truck without one has been restored from
 * a dump.  The table's default fills in truck->id.
 */
void
trucker_truck_insert(TruckerTruck *truck)
{
	Oid			types[] = {TEXTOID, OIDOID, OIDOID, OIDARRAYOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID};
	Datum		values[9];
	char		nulls[10] = "         ";
	TruckerCatalog access;

	values[0] = CStringGetTextDatum(truck->name);
	values[1] = ObjectIdGetDatum(truck->owner);
	values[2] = ObjectIdGetDatum(truck->role);
	values[3] = inputs_datum(truck);
	values[4] = truck->input_sql ? CStringGetTextDatum(truck->input_sql) : (Datum) 0;
	nulls[4] = truck->input_sql ? ' ' : 'n';
	values[5] = truck->output_sql ? CStringGetTextDatum(truck->output_sql) : (Datum) 0;
	nulls[5] = truck->output_sql ? ' ' : 'n';
	values[6] = CStringGetTextDatum(truck->connection);
	values[7] = JsonbPGetDatum(truck->options);
	values[8] = CStringGetTextDatum(truck->search_path);

	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("WITH new AS (INSERT INTO trucker.truck (name, owner, run_as, input_tables, input_sql, "
						"output_sql, output_connection, options, search_path) "
						"VALUES ($1, $2::regrole, $3::regrole, "
						"$4::regclass[], $5, $6, $7, $8, $9) ON CONFLICT (name) DO NOTHING RETURNING id) "
						"INSERT INTO trucker.truck_state (truck_id) SELECT id FROM new RETURNING truck_id",
						9, types, values, nulls, SPI_OK_INSERT_RETURNING) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("truck \"%s\" already exists", truck->name)));
	truck->id = trucker_uuid_column(SPI_tuptable->vals[0], 1);
	trucker_catalog_end(&access);
}

/*
 * Keep others from changing or dropping the truck until the transaction ends, and
 * wait for those that are at it; false: it has been dropped.
 */
bool
trucker_truck_lock(const pg_uuid_t *id)
{
	return trucker_catalog_write("SELECT FROM trucker.truck WHERE id = $1 FOR UPDATE",
								 id, NULL, SPI_OK_SELECT) > 0;
}

/* Let the truck write elsewhere, which is not loaded yet. */
void
trucker_truck_set_connection(TruckerTruck *truck, const char *connection)
{
	truck->connection = pstrdup(connection);
	trucker_catalog_write("UPDATE trucker.truck SET output_connection = $2 WHERE id = $1",
						  &truck->id, connection, SPI_OK_UPDATE);
}

/* Replace what may be altered of the definition. */
void
trucker_truck_update(const TruckerTruck *truck)
{
	Oid			types[] = {UUIDOID, OIDOID, OIDARRAYOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID};
	Datum		values[7];
	char		nulls[8] = "       ";
	TruckerCatalog access;

	values[0] = UUIDPGetDatum(&truck->id);
	values[1] = ObjectIdGetDatum(truck->role);
	values[2] = inputs_datum(truck);
	values[3] = truck->input_sql ? CStringGetTextDatum(truck->input_sql) : (Datum) 0;
	nulls[3] = truck->input_sql ? ' ' : 'n';
	values[4] = truck->output_sql ? CStringGetTextDatum(truck->output_sql) : (Datum) 0;
	nulls[4] = truck->output_sql ? ' ' : 'n';
	values[5] = JsonbPGetDatum(truck->options);
	values[6] = CStringGetTextDatum(truck->search_path);

	trucker_catalog_begin(&access);
	trucker_catalog_execute("UPDATE trucker.truck SET run_as = $2::regrole, input_tables = $3::regclass[], "
							"input_sql = $4, output_sql = $5, options = $6, search_path = $7 WHERE id = $1",
							7, types, values, nulls, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/* Remove all that is known of a truck, its position included. */
void
trucker_truck_delete(const pg_uuid_t *id)
{
	trucker_catalog_write("DELETE FROM trucker.truck WHERE id = $1", id, NULL, SPI_OK_DELETE);
	trucker_state_delete(id);
	trucker_catalog_write("DELETE FROM trucker.position WHERE truck_id = $1", id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("DELETE FROM trucker.column_filter WHERE truck_id = $1", id, NULL, SPI_OK_DELETE);
	trucker_catalog_write("DELETE FROM trucker.filter_attnum WHERE truck_id = $1", id, NULL, SPI_OK_DELETE);
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
			 errhint("Give the truck the tables that there are with trucker.alter_truck(), or drop it with trucker.drop_truck().")));
}

