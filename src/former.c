/*
 * former.c
 *	  The definition that a truck had, while the one that it has cannot be run yet.
 *
 * A publication holds the columns that trucks need, and no others (column_list.c).  When a
 * truck is altered to read more, what has been written until then does not carry them, and
 * never will: so it is applied by the definition that was made for it.  Only from an LSN on
 * the new one is run, for everything that commits there or later (redefine.c).
 *
 * Until then both are in the catalog: what alter_truck() has been told in trucker.truck,
 * where everybody finds it, and the other one here, where only the stream's worker looks.
 * It outlives crashes, stop() and start().  When the truck is altered again, the one that
 * has run so far stays, and what it was to become is replaced.
 *
 * What is kept is what decides how changes are applied: SQL with its search_path, options,
 * filters.  Role and stream are as they have been altered to: they say whose rights the
 * truck has and who carries it, which shall not wait.  A table that is read no more is not
 * read by the former definition either, and one that was added is loaded when the new one
 * is run.
 *
 * The only file that knows the columns of trucker.former_truck, and the only one beside
 * truck.c that reads those of trucker.truck.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "catalog.h"
#include "former.h"

/*
 * The truck is about to be altered: keep what it is now, in the caller's transaction.  What
 * is kept already has been its definition for all that it has applied, and stays.
 */
void
trucker_former_keep(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("INSERT INTO trucker.former_truck (truck_id, input_tables, input_sql, output_sql, options, search_path, filters) "
						  "SELECT t.id, t.input_tables::oid[], t.input_sql, t.output_sql, t.options, t.search_path, "
						  "(SELECT array_agg(concat_ws(' ', f.relid, f.keeps::int, array_to_string(f.attnums, ' '))) "
						  "FROM trucker.filter_attnum f WHERE f.truck_id = t.id) FROM trucker.truck t WHERE t.id = $1 "
						  "ON CONFLICT (truck_id) DO UPDATE SET in_force = false, switches_at = NULL",
						  truck_id, NULL, SPI_OK_INSERT);
}

/* The truck runs by the definition that it has. */
void
trucker_former_forget(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("DELETE FROM trucker.former_truck WHERE truck_id = $1", truck_id, NULL, SPI_OK_DELETE);
}

/* Does the new definition have to wait?  Keeps where it takes effect, if that is known. */
void
trucker_former_set_in_force(const pg_uuid_t *truck_id, bool in_force)
{
	trucker_catalog_write("UPDATE trucker.former_truck SET in_force = $2::boolean WHERE truck_id = $1",
						  truck_id, in_force ? "true" : "false", SPI_OK_UPDATE);
}

/* Now it is known where. */
void
trucker_former_set_switch(const pg_uuid_t *truck_id, XLogRecPtr lsn)
{
	trucker_catalog_write("UPDATE trucker.former_truck SET switches_at = $2::pg_lsn WHERE truck_id = $1 AND in_force",
						  truck_id, psprintf("%X/%X", LSN_FORMAT_ARGS(lsn)), SPI_OK_UPDATE);
}

/* Those of the former inputs that the truck still reads. */
static void
take_inputs(TruckerTruck *former, const TruckerTruck *truck, ArrayType *array)
{
	Oid		   *inputs = (Oid *) ARR_DATA_PTR(array);
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	former->inputs = palloc(Max(n, 1) * sizeof(Oid));
	former->ninputs = 0;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < truck->ninputs; j++)
			if (truck->inputs[j] == inputs[i])
				former->inputs[former->ninputs++] = inputs[i];
}

static void *
form_former(HeapTuple tuple, const TruckerTruck *truck)
{
	TruckerFormer *former = palloc0(sizeof(TruckerFormer));
	TruckerTruck *was = palloc(sizeof(TruckerTruck));
	bool		isnull;
	char	   *ignored;

	*was = *truck;
	take_inputs(was, truck, DatumGetArrayTypeP(trucker_column(tuple, 1, &isnull)));
	was->input_sql = trucker_text_column(tuple, 2);
	was->output_sql = trucker_text_column(tuple, 3);
	was->options = DatumGetJsonbPCopy(trucker_column(tuple, 4, &isnull));
	was->search_path = trucker_text_column(tuple, 5);
	was->filters = trucker_truck_form_filters(tuple, 6);
	was->filters_restored = false;
	trucker_truck_parse_options(was, &ignored);
	was->stream_name = truck->stream_name;
	former->truck = was;
	former->in_force = trucker_bool_column(tuple, 7);
	former->switches_at = DatumGetLSN(trucker_column(tuple, 8, &isnull));
	was->is_former = true;
	was->former_until = former->switches_at;
	return former;
}

/*
 * What the truck was, in the current memory context; NULL: nothing is kept, or nothing that
 * could be run, since it does not read any of its former tables.  In a transaction.
 */
TruckerFormer *
trucker_former_load(const TruckerTruck *truck)
{
	Oid			type = UUIDOID;
	Datum		value = UUIDPGetDatum(&truck->id);
	TruckerFormer *former = NULL;
	TruckerCatalog access;
	MemoryContext old;

	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("SELECT input_tables, input_sql, output_sql, options, search_path, filters, in_force, coalesce(switches_at, '0/0') "
								"FROM trucker.former_truck WHERE truck_id = $1", 1, &type, &value, NULL, SPI_OK_SELECT) > 0)
	{
		old = MemoryContextSwitchTo(access.result_context);
		former = form_former(SPI_tuptable->vals[0], truck);
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	return former && former->truck->ninputs > 0 ? former : NULL;
}
