/*
 * alter.c
 *	  trucker.alter_truck(): change a truck's definition, and keep its position.
 *
 * What is written here is the catalog, no more.  When the transaction has committed,
 * the worker that carries the truck lets go of it and loads it anew, at the end of a
 * source transaction; what that needs is found in the catalog:
 *
 *	- another SQL, or option: nothing but that; where the truck is sent only the columns that
 *	  it has read so far, from where it is sent the others on (redefine.c)
 *	- a table that is not read any more: its row in trucker.input_table is gone
 *	- a table that was added: has no such row until it has been loaded
 *	  (added_tables.c).  With "backfill": false it gets its row here: the truck reads
 *	  what commits from now on; but for a stream of pgoutput, where it must be published first
 *	- another role or stream: the truck is not where it belongs, and moves
 *	  (transition.c)
 *
 * Two sessions that alter a truck take turns, and a backfill that has worked with the
 * definition of before cannot commit after this.
 */
#include "trucker.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "api.h"
#include "check.h"
#include "column_list.h"
#include "connection.h"
#include "filter.h"
#include "former.h"
#include "program.h"
#include "quarantine.h"
#include "state.h"
#include "stream.h"
#include "worker.h"
#include "written.h"

PG_FUNCTION_INFO_V1(trucker_alter_truck);

/* A truck that the caller may alter, as it is now that nobody else can. */
TruckerTruck *
trucker_alter_lock(const char *name)
{
	TruckerTruck *truck = trucker_truck_get(name);

	if (trucker_truck_lock(&truck->id))
	{
		trucker_state_touch(&truck->id);
		return trucker_truck_load(&truck->id);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("truck \"%s\" does not exist", truck->name)));
}

static TruckerTruck *
lock_truck(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"name\" of alter_truck must not be null")));
	return trucker_alter_lock(text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

/*
 * The SQL, and with it the search_path that it was written for.  An empty one means:
 * none any more.
 */
static void
set_sql(TruckerTruck *truck, FunctionCallInfo fcinfo)
{
	bool		given = false;

	if (!PG_ARGISNULL(2) && VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(2)) == 0)
		truck->output_sql = NULL;
	else if (!PG_ARGISNULL(2))
	{
		truck->output_sql = trucker_argument_sql(PG_GETARG_TEXT_PP(2), "output_sql");
		given = true;
	}
	if (!PG_ARGISNULL(3) && VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(3)) == 0)
		truck->input_sql = NULL;
	else if (!PG_ARGISNULL(3))
	{
		truck->input_sql = trucker_argument_sql(PG_GETARG_TEXT_PP(3), "input_sql");
		given = true;
	}
	if (given)
		truck->search_path = pstrdup(GetConfigOption("search_path", false, false));
}

/* Replace all options but filters, and the role that they name, if it is another one. */
void
trucker_alter_options(TruckerTruck *truck, Jsonb *options)
{
	char	   *old_role;
	char	   *new_role;

	trucker_truck_parse_options(truck, &old_role);
	truck->options = options;
	trucker_truck_parse_options(truck, &new_role);
	/* a role that has been renamed is still the one that it was */
	if ((old_role == NULL) == (new_role == NULL) &&
		(new_role == NULL || strcmp(old_role, new_role) == 0))
		return;
	trucker_argument_role(truck, new_role);
	trucker_truck_check_role(truck);
}

/* Replace some. */
static void
set_options(TruckerTruck *truck, Jsonb *changes)
{
	TruckerTruck merged = *truck;

	trucker_truck_merge_options(&merged, changes);
	trucker_alter_options(truck, merged.options);
}

/*
 * Inputs that have no row yet are to be read from now on, without their rows.  They
 * stay locked, so that they keep the names that are written here.
 */
static void
begin_reading(const TruckerTruck *truck)
{
	List	   *names = trucker_state_input_names(&truck->id, NULL);
	List	   *unloaded = trucker_tables_unloaded(truck, &names);
	ListCell   *lc;

	foreach(lc, unloaded)
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (rel == NULL)
			trucker_raise_dropped(truck->name, lfirst_oid(lc));
		trucker_check_input_rights(truck, rel);
		relation_close(rel, NoLock);
	}
	names = trucker_state_current_names(truck, unloaded);
	foreach(lc, names)
		((TruckerInputName *) lfirst(lc))->from_lsn = GetXLogInsertRecPtr();
	trucker_state_add_input_names(&truck->id, names);
}

/* Does the stream that carries it get only what a publication holds? */
static bool
is_published_for(const TruckerTruck *truck)
{
	TruckerStreamRow *stream = truck->has_stream ? trucker_state_stream(&truck->stream_id) : NULL;

	return stream && trucker_switch_publication(stream) != NULL;
}

/* Where the definition alone does not make the truck run. */
static void
tell_what_is_missing(const TruckerTruck *truck)
{
	if (truck->lost)
		ereport(NOTICE,
				(errmsg("truck \"%s\" is lost, and stays so", truck->name),
				 errhint("SELECT trucker.resync(%s) loads the destination anew.",
						 quote_literal_cstr(truck->name))));
	else if (truck->failed)
		ereport(NOTICE,
				(errmsg("truck \"%s\" has failed, and stays stopped", truck->name),
				 errhint("SELECT trucker.start(%s);", quote_literal_cstr(truck->name))));
}

/* Does it read a table that it has not read before? */
static bool
adds_tables(const TruckerTruck *truck, const TruckerTruck *old)
{
	for (int i = 0; i < truck->ninputs; i++)
	{
		bool		known = false;

		for (int j = 0; j < old->ninputs; j++)
			known |= truck->inputs[i] == old->inputs[j];
		if (!known)
			return true;
	}
	return false;
}

/*
 * Rows of added tables and the note that they are there could not be committed at once
 * to two servers.
 */
static void
refuse_added(const TruckerTruck *truck, const TruckerTruck *old)
{
	if (old->needs_backfill || !truck->backfill || !adds_tables(truck, old))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot add input tables to truck \"%s\", which writes to connection \"%s\"",
					truck->name, truck->connection),
			 errdetail("Only into this database can the rows of added tables be loaded by themselves."),
			 errhint("SELECT trucker.resync(%s) first, while the truck is stopped: it then loads all tables anew.",
					 quote_literal_cstr(truck->name))));
}

/*
 * It has changes to apply that may not carry what it will read: its worker finds out, and
 * runs what it is now as long as need be.
 */
static void
keep_former(const TruckerTruck *truck)
{
	if (!truck->needs_backfill && !truck->lost && is_published_for(truck))
	{
		trucker_former_keep(&truck->id);
		return;
	}
	trucker_former_forget(&truck->id);
	trucker_column_need_forget(&truck->id);
}

/*
 * Write down what a truck has become, of which old is what trucker_alter_lock() has
 * returned; with its filters, if they may be others.
 */
void
trucker_alter(TruckerTruck *truck, const TruckerTruck *old, bool filters_change)
{
	List	   *written = NIL;
	bool		runs;
	bool		moves;
	uint64		discarded;

	for (int i = 0; i < truck->ninputs; i++)
		if (get_rel_name(truck->inputs[i]) == NULL)
			trucker_raise_dropped(truck->name, truck->inputs[i]);
	trucker_truck_check_output(truck);
	trucker_program_check_syntax(truck);
	if (!trucker_connection_is_local(truck->connection))
	{
		trucker_connection_check(truck->connection, truck->role);
		refuse_added(truck, old);
	}
	runs = truck->enabled && !truck->lost;
	if (runs)
		written = trucker_check_truck(truck);

	keep_former(truck);
	trucker_truck_update(truck);
	if (filters_change)
		trucker_filter_store(truck);
	trucker_written_readers_changed();
	/* what it has written so far stays known: the worker goes on with that SQL until we commit */
	if (runs)
		trucker_written_start(truck, written, false);
	trucker_state_remove_inputs(&truck->id);
	discarded = trucker_quarantine_discard_others(&truck->id, truck->ninputs, truck->inputs);
	if (discarded > 0)
		ereport(NOTICE,
				(errmsg(UINT64_FORMAT " quarantined changes of tables that truck \"%s\" reads no more are discarded",
						discarded, truck->name)));
	/* a table that is yet to be published cannot be read from now on (added_tables.c) */
	if (!truck->needs_backfill && !truck->lost && !truck->backfill && !is_published_for(truck))
		begin_reading(truck);
	else if (!truck->needs_backfill && !truck->backfill && adds_tables(truck, old))
		ereport(NOTICE,
				(errmsg("added tables are read from where their publication can be relied upon"),
				 errdetail("The truck's stream is decoded by pgoutput, which sends no changes that were made before a table was published.")));
	moves = truck->role != old->role || strcmp(truck->stream_name, old->stream_name) != 0;
	if (moves && truck->needs_backfill && runs)
	{
		/* nothing to keep: it starts where it belongs now */
		pg_uuid_t	stream_id = trucker_state_board(truck);

		trucker_at_commit_poke(&stream_id);
	}
	tell_what_is_missing(truck);
	trucker_at_commit_signal(&truck->id, TRUCKER_RELOAD);
	trucker_at_commit_scan();
}

/* alter_truck(name, input_tables, output_sql, input_sql, options) */
Datum
trucker_alter_truck(PG_FUNCTION_ARGS)
{
	TruckerTruck *old = lock_truck(fcinfo);
	TruckerTruck *truck = palloc(sizeof(TruckerTruck));
	TruckerFilterOptions filters = {NULL, NULL};
	bool		filters_change;

	*truck = *old;
	if (!PG_ARGISNULL(1))
		trucker_argument_inputs(truck, PG_GETARG_ARRAYTYPE_P(1));
	for (int i = 0; i < truck->ninputs; i++)
		if (get_rel_name(truck->inputs[i]) == NULL)
			trucker_raise_dropped(truck->name, truck->inputs[i]);
	set_sql(truck, fcinfo);
	if (!PG_ARGISNULL(4))
		set_options(truck, trucker_filter_take_options(PG_GETARG_JSONB_P(4), &filters));
	filters_change = !PG_ARGISNULL(1) || filters.only || filters.except;
	if (filters_change)
		trucker_filter_set(truck, &filters);
	trucker_alter(truck, old, filters_change);
	PG_RETURN_VOID();
}
