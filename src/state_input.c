/*
 * state_input.c
 *	  The input tables of trucks as the catalog knows them: which tables they consist
 *	  of, what these were called, and what columns they had, from which point of the WAL on.
 *
 * The only file, with input_ddl.c, that knows the columns of trucker.input_table.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "column_list.h"
#include "state.h"

#define INPUT_COLUMNS "relid, leaf, schema_name, table_name, coalesce(from_lsn, '0/0'), named_lsn, " \
	"coalesce(named_by, '0')::text::bigint, coalesce(commit_lsn, '0/0')"

static XLogRecPtr
lsn_column(HeapTuple tuple, int number)
{
	bool		isnull;

	return DatumGetLSN(trucker_column(tuple, number, &isnull));
}

/* of a row of INPUT_COLUMNS */
static void *
form_input_name(HeapTuple tuple)
{
	TruckerInputName *name = palloc(sizeof(TruckerInputName));
	bool		isnull;

	name->relid = DatumGetObjectId(trucker_column(tuple, 1, &isnull));
	name->leaf = DatumGetObjectId(trucker_column(tuple, 2, &isnull));
	name->schema = trucker_text_column(tuple, 3);
	name->table = trucker_text_column(tuple, 4);
	name->from_lsn = lsn_column(tuple, 5);
	name->named_lsn = lsn_column(tuple, 6);
	name->named_by = (uint64) DatumGetInt64(trucker_column(tuple, 7, &isnull));
	name->commit_lsn = lsn_column(tuple, 8);
	return name;
}

/*
 * The names (TruckerInputName *) of a truck's inputs, of each table the oldest first.
 * If complete_to is given: what transactions before that one have done is among them.
 */
List *
trucker_state_input_names(const pg_uuid_t *truck_id, uint64 *complete_to)
{
	Oid			type = UUIDOID;
	Datum		value = UUIDPGetDatum(truck_id);
	TruckerCatalog access;
	MemoryContext old;
	List	   *names = NIL;
	bool		isnull;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("SELECT " INPUT_COLUMNS ", pg_snapshot_xmin(pg_current_snapshot())::text::bigint "
							"FROM trucker.input_table WHERE truck_id = $1 ORDER BY relid, leaf, named_lsn",
							1, &type, &value, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	if (complete_to)
		*complete_to = 0;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		names = lappend(names, form_input_name(SPI_tuptable->vals[i]));
		if (complete_to)
			*complete_to = (uint64) DatumGetInt64(trucker_column(SPI_tuptable->vals[i], 9, &isnull));
	}
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return names;
}

/*
 * The names as of now of some of a truck's input tables, and of their partitions.  A
 * partition without a replica identity, where the truck needs one, has none.
 */
List *
trucker_state_current_names(const TruckerTruck *truck, const List *relids)
{
	static const char *const sql =
		"SELECT $1, leaf, schema_name, CASE WHEN $2 OR kind = 'p' OR has_identity OR leaf = $1 THEN table_name END, "
		"'0/0'::pg_lsn, '0/0'::pg_lsn, 0::bigint, '0/0'::pg_lsn FROM trucker.input_parts($1) ORDER BY leaf";
	Oid			types[] = {OIDOID, BOOLOID};
	TruckerCatalog access;
	List	   *names = NIL;
	ListCell   *lc;

	trucker_catalog_begin(&access);
	foreach(lc, relids)
	{
		Datum		values[] = {ObjectIdGetDatum(lfirst_oid(lc)), BoolGetDatum(truck->inserts_only)};
		MemoryContext old;

		if (trucker_catalog_execute(sql, 2, types, values, NULL, SPI_OK_SELECT) == 0)
			trucker_raise_dropped(truck->name, lfirst_oid(lc));
		old = MemoryContextSwitchTo(access.result_context);
		for (uint64 i = 0; i < SPI_processed; i++)
			names = lappend(names, form_input_name(SPI_tuptable->vals[i]));
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	return names;
}

/* Replace the names of a truck's inputs. */
void
trucker_state_set_input_names(const pg_uuid_t *truck_id, List *names)
{
	trucker_catalog_write("DELETE FROM trucker.input_table WHERE truck_id = $1",
						  truck_id, NULL, SPI_OK_DELETE);
	trucker_state_add_input_names(truck_id, names);
}

/* Names (TruckerInputName *) of further inputs of a truck. */
void
trucker_state_add_input_names(const pg_uuid_t *truck_id, List *names)
{
	Oid			types[] = {UUIDOID, OIDOID, PG_LSNOID, OIDOID, TEXTOID, TEXTOID};
	Datum		values[6] = {UUIDPGetDatum(truck_id)};
	TruckerCatalog access;
	ListCell   *lc;

	trucker_catalog_begin(&access);
	foreach(lc, names)
	{
		TruckerInputName *name = lfirst(lc);

		values[1] = ObjectIdGetDatum(name->relid);
		values[2] = LSNGetDatum(name->from_lsn);
		values[3] = ObjectIdGetDatum(name->leaf);
		values[4] = CStringGetTextDatum(name->schema);
		values[5] = name->table ? CStringGetTextDatum(name->table) : (Datum) 0;
		trucker_catalog_execute("INSERT INTO trucker.input_table (truck_id, relid, from_lsn, leaf, schema_name, table_name, columns, defaulted) "
								"SELECT $1, $2, nullif($3, '0/0'), $4, $5, $6, c.columns, c.defaulted "
								"FROM trucker.input_columns(CASE WHEN $4 = $2 THEN $2 END) c",
								6, types, values, name->table ? NULL : "     n", SPI_OK_INSERT);
	}
	trucker_catalog_end(&access);
}

/*
 * A transaction that has renamed input tables has been decoded: it committed at this
 * LSN.  For the trucks of a stream.
 */
void
trucker_state_note_commit(const pg_uuid_t *stream_id, uint64 xid, XLogRecPtr commit_lsn)
{
	Oid			types[] = {UUIDOID, INT8OID, PG_LSNOID};
	Datum		values[] = {UUIDPGetDatum(stream_id), Int64GetDatum((int64) xid), LSNGetDatum(commit_lsn)};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("UPDATE trucker.input_table SET commit_lsn = $3 "
							"WHERE named_by = $2::text::xid8 AND commit_lsn IS NULL AND truck_id IN "
							"(SELECT truck_id FROM trucker.truck_state WHERE stream_id = $1)",
							3, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

static TruckerInputColumns *
form_columns(HeapTuple tuple)
{
	TruckerInputColumns *columns = palloc0(sizeof(TruckerInputColumns));
	bool		isnull;
	Datum		array;
	Datum	   *elements;
	int			n;

	columns->named_lsn = lsn_column(tuple, 1);
	columns->named_by = (uint64) DatumGetInt64(trucker_column(tuple, 4, &isnull));
	columns->commit_lsn = lsn_column(tuple, 5);
	array = trucker_column(tuple, 2, &isnull);
	if (isnull)
		return columns;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &columns->ncolumns);
	columns->columns = palloc(Max(columns->ncolumns, 1) * sizeof(char *));
	for (int i = 0; i < columns->ncolumns; i++)
		columns->columns[i] = TextDatumGetCString(elements[i]);
	array = trucker_column(tuple, 3, &isnull);
	if (isnull)
		return columns;
	deconstruct_array(DatumGetArrayTypeP(array), INT2OID, sizeof(int16), true, TYPALIGN_SHORT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		columns->defaulted = bms_add_member(columns->defaulted, Max(DatumGetInt16(elements[i]), 0));
	return columns;
}

/*
 * What columns (TruckerInputColumns *) a truck's input has had, the oldest first, and
 * behind these what it has now; NIL: nothing is known.
 */
List *
trucker_state_columns(const pg_uuid_t *truck_id, Oid relid)
{
	Oid			types[] = {UUIDOID, OIDOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), ObjectIdGetDatum(relid)};
	TruckerCatalog access;
	MemoryContext old;
	List	   *list = NIL;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("(SELECT named_lsn, columns, defaulted, coalesce(named_by, '0')::text::bigint, coalesce(commit_lsn, '0/0') "
							"FROM trucker.input_table WHERE truck_id = $1 AND relid = $2 AND leaf = $2 ORDER BY named_lsn) "
							"UNION ALL SELECT '0/0'::pg_lsn, c.columns, c.defaulted, 0::bigint, '0/0'::pg_lsn FROM trucker.input_columns($2) c",
							2, types, values, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		list = lappend(list, form_columns(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return list_length(list) > 1 ? list : NIL;
}

/*
 * Something that is another as soon as columns of a truck's input have been altered, or
 * their types, by a transaction that has committed; in the current memory context.  Asked
 * for in each batch, so the plan is kept.
 */
char *
trucker_state_columns_version(const pg_uuid_t *truck_id, Oid relid)
{
	static const char *const sql = "SELECT string_agg(columns::text, ' ' ORDER BY named_lsn) FROM trucker.input_table "
		"WHERE truck_id = $1 AND relid = $2 AND leaf = $2";
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {UUIDOID, OIDOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), ObjectIdGetDatum(relid)};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext old;
	TruckerCatalog access;
	char	   *version;

	trucker_catalog_begin(&access);
	if (plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare_cursor(sql, lengthof(types), types, CURSOR_OPT_GENERIC_PLAN);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not prepare \"%s\"", sql);
		plan = prepared;
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	old = MemoryContextSwitchTo(caller);
	version = trucker_text_column(SPI_tuptable->vals[0], 1);
	version = version ? version : pstrdup("");
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return version;
}

/* They are not what the table has: none of it is to be relied upon. */
void
trucker_state_forget_columns(const pg_uuid_t *truck_id, Oid relid)
{
	Oid			types[] = {UUIDOID, OIDOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), ObjectIdGetDatum(relid)};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("UPDATE trucker.input_table SET columns = NULL, defaulted = NULL "
							"WHERE truck_id = $1 AND relid = $2 AND columns IS NOT NULL",
							2, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/*
 * holds of a row that is true of all changes from $2 on; also those in quarantine, which
 * are still to be applied with the columns of their time
 */
#define IN_FORCE(row) "CASE WHEN " row ".named_by IS NULL THEN " row ".named_lsn ELSE " row ".commit_lsn END < $2::pg_lsn " \
	"AND NOT EXISTS (SELECT FROM trucker.quarantined_change q WHERE q.truck_id = $1 AND q.record_lsn < " row ".named_lsn)"

/*
 * Forget names and columns with which the truck gets no changes any more: its slot holds
 * none from before restart_lsn that it has not applied.  False: there are none.
 */
bool
trucker_state_prune_names(const pg_uuid_t *truck_id, XLogRecPtr restart_lsn)
{
	static const char *const superseded =
		"DELETE FROM trucker.input_table o WHERE o.truck_id = $1 AND EXISTS (SELECT FROM trucker.input_table n "
		"WHERE n.truck_id = $1 AND n.relid = o.relid AND n.leaf = o.leaf AND n.named_lsn > o.named_lsn AND " IN_FORCE("n") ")";
	static const char *const gone =
		"DELETE FROM trucker.input_table o WHERE o.truck_id = $1 AND o.schema_name IS NULL AND " IN_FORCE("o");
	static const char *const settled =
		"UPDATE trucker.input_table o SET named_lsn = '0/0', named_by = NULL, commit_lsn = NULL "
		"WHERE o.truck_id = $1 AND o.named_lsn > '0/0' AND " IN_FORCE("o");
	char	   *lsn = psprintf("%X/%X", LSN_FORMAT_ARGS(restart_lsn));

	/* names that nothing is older than are true from the beginning: trucks with like names share the decoded changes */
	return trucker_catalog_write(superseded, truck_id, lsn, SPI_OK_DELETE) +
		trucker_catalog_write(gone, truck_id, lsn, SPI_OK_DELETE) +
		trucker_catalog_write(settled, truck_id, lsn, SPI_OK_UPDATE) > 0;
}

static void *
form_prefix(HeapTuple tuple)
{
	return trucker_text_column(tuple, 1);
}

/* The prefix of the messages that input_ddl.c writes. */
char *
trucker_state_message_prefix(void)
{
	List	   *rows = trucker_catalog_list("SELECT prefix FROM trucker.message_prefix LIMIT 1", NULL, form_prefix);

	if (rows == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table trucker.message_prefix is empty"),
				 errhint("INSERT INTO trucker.message_prefix VALUES (translate(gen_random_uuid()::text, '-', ''));")));
	return linitial(rows);
}

/* Forget what the truck does not read any more. */
void
trucker_state_remove_inputs(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("DELETE FROM trucker.input_table i USING trucker.truck t "
						  "WHERE t.id = $1 AND i.truck_id = t.id AND i.relid <> ALL (t.input_tables::oid[])",
						  truck_id, NULL, SPI_OK_DELETE);
	trucker_column_need_forget_others(truck_id);
}

/*
 * The backfill of added inputs, with these names (TruckerInputName *), is part of
 * this very transaction.  Raises an error if the truck has been altered, stopped,
 * reset or dropped meanwhile; whoever wants to must wait from now on.
 */
void
trucker_state_set_added(const TruckerTruck *truck, List *names)
{
	/* the second statement sees what those have done whom the first one waited for */
	if (trucker_catalog_write("SELECT FROM trucker.truck_state WHERE truck_id = $1 "
							  "AND enabled AND NOT lost AND NOT needs_backfill FOR UPDATE",
							  &truck->id, NULL, SPI_OK_SELECT) == 0 ||
		trucker_catalog_write("SELECT FROM trucker.truck WHERE id = $1 AND xmin::text = $2",
							  &truck->id, truck->version, SPI_OK_SELECT) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the truck has been altered, stopped or dropped")));
	trucker_state_add_input_names(&truck->id, names);
}
