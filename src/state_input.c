/*
 * state_input.c
 *	  The input tables of trucks as the catalog knows them: what each was called at
 *	  its truck's position, and which cannot be read any more.
 *
 * The only file that knows the columns of trucker.input_table and, with state.c,
 * trucker.unreadable_input.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "state.h"

static void *
form_input_name(HeapTuple tuple)
{
	TruckerInputName *name = palloc(sizeof(TruckerInputName));
	bool		isnull;

	name->relid = DatumGetObjectId(trucker_column(tuple, 1, &isnull));
	name->schema = trucker_text_column(tuple, 2);
	name->table = trucker_text_column(tuple, 3);
	name->from_lsn = DatumGetLSN(trucker_column(tuple, 4, &isnull));
	return name;
}

/* The names (TruckerInputName *) of a truck's inputs as of its position. */
List *
trucker_state_input_names(const pg_uuid_t *truck_id)
{
	return trucker_catalog_list("SELECT relid, schema_name, table_name, coalesce(from_lsn, '0/0') "
								"FROM trucker.input_table WHERE truck_id = $1", truck_id, form_input_name);
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
	Oid			types[] = {UUIDOID, OIDOID, TEXTOID, TEXTOID, PG_LSNOID};
	Datum		values[5] = {UUIDPGetDatum(truck_id)};
	TruckerCatalog access;
	ListCell   *lc;

	trucker_catalog_begin(&access);
	foreach(lc, names)
	{
		TruckerInputName *name = lfirst(lc);

		values[1] = ObjectIdGetDatum(name->relid);
		values[2] = CStringGetTextDatum(name->schema);
		values[3] = CStringGetTextDatum(name->table);
		values[4] = LSNGetDatum(name->from_lsn);
		trucker_catalog_execute("INSERT INTO trucker.input_table VALUES ($1, $2, $3, $4, nullif($5, '0/0'))",
								5, types, values, NULL, SPI_OK_INSERT);
	}
	trucker_catalog_end(&access);
}

/* Forget what the truck does not read any more. */
void
trucker_state_remove_inputs(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("DELETE FROM trucker.input_table i USING trucker.truck t "
						  "WHERE t.id = $1 AND i.truck_id = t.id AND i.relid <> ALL (t.input_tables::oid[])",
						  truck_id, NULL, SPI_OK_DELETE);
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

/*
 * Trucks that have begun to read a table are lost when it is renamed (what it was
 * called at which point of the WAL cannot be found out later), or when its
 * changes are no longer in the WAL.  Called in the transaction that has altered
 * something; returns how many trucks that has cost.
 */
int
trucker_state_mark_unreadable(void)
{
	static const char *const sql =
		"INSERT INTO trucker.unreadable_input (truck_id, reason) SELECT t.id, "
		"format(CASE WHEN c.oid IS NULL "
		"THEN E'42P01: input table %I.%I %s\\nHINT: Name the tables that there are with trucker.alter_truck(%L, input_tables => ...), then trucker.resync(); or drop the truck.' "
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
		"WHERE why.reason IS NOT NULL AND NOT " TRUCKER_UNREADABLE;
	TruckerCatalog access;
	int			touched;

	trucker_catalog_begin(&access);
	touched = (int) trucker_catalog_execute(sql, 0, NULL, NULL, NULL, SPI_OK_INSERT);
	trucker_catalog_end(&access);
	return touched;
}
