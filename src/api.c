/*
 * api.c
 *	  The SQL functions by which trucks are made, run and watched.
 *
 * All of them are transactional: what they change is in the catalog, and the
 * launcher and the workers hear of it when the transaction has committed
 * (hooks.c).  Who may call them is a matter of GRANT; who may manage a given
 * truck - its owner, and whoever has the owner's rights - is checked here.
 */
#include "trucker.h"

#include <ctype.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api.h"
#include "budget.h"
#include "check.h"
#include "connection.h"
#include "drained.h"
#include "filter.h"
#include "migrate.h"
#include "position.h"
#include "program.h"
#include "project_load.h"
#include "quarantine.h"
#include "shmem.h"
#include "state.h"
#include "truck.h"
#include "worker.h"
#include "written.h"

PG_FUNCTION_INFO_V1(trucker_create_truck);
PG_FUNCTION_INFO_V1(trucker_drop_truck);
PG_FUNCTION_INFO_V1(trucker_start);
PG_FUNCTION_INFO_V1(trucker_stop);
PG_FUNCTION_INFO_V1(trucker_resync);
PG_FUNCTION_INFO_V1(trucker_set_output_plugin);
PG_FUNCTION_INFO_V1(trucker_generated_sql);
PG_FUNCTION_INFO_V1(trucker_wait_for);
PG_FUNCTION_INFO_V1(trucker_truck_workers);
PG_FUNCTION_INFO_V1(trucker_stream_workers);
PG_FUNCTION_INFO_V1(trucker_wal_warning);

/* ----
 * create_truck, drop_truck
 * ----
 */

static void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" of create_truck must not be null", name)));
}

/* An argument that holds SQL. */
char *
trucker_argument_sql(text *argument, const char *name)
{
	char	   *sql = text_to_cstring(argument);
	const char *p = sql;

	while (isspace((unsigned char) *p))
		p++;
	if (*p == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is empty", name)));
	return sql;
}

static void
check_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid truck name \"%s\"", name),
				 errdetail("A name has 1 to %d bytes.", NAMEDATALEN - 1)));
}

/* A change of the one would reach the truck twice. */
static void
refuse_part_and_whole(const TruckerTruck *truck, int number)
{
	Oid			relid = truck->inputs[number];
	List	   *wholes = get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL;

	for (int i = 0; i < truck->ninputs; i++)
		if (list_member_oid(wholes, truck->inputs[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("input_tables names a partitioned table and its partition \"%s\"", get_rel_name(relid)),
					 errdetail("Changes of the partition would reach the truck twice."),
					 errhint("Name only the partitioned table: its partitions belong to it.")));
}

/* The argument that names the input tables. */
void
trucker_argument_inputs(TruckerTruck *truck, ArrayType *array)
{
	Datum	   *values;
	bool	   *nulls;

	deconstruct_array(array, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT,
					  &values, &nulls, &truck->ninputs);
	if (truck->ninputs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a truck needs at least one input table")));
	truck->inputs = palloc(truck->ninputs * sizeof(Oid));
	for (int i = 0; i < truck->ninputs; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("input_tables must not contain nulls")));
		truck->inputs[i] = DatumGetObjectId(values[i]);
		if (get_rel_name(truck->inputs[i]) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", truck->inputs[i])));
		for (int j = 0; j < i; j++)
			if (truck->inputs[i] == truck->inputs[j])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("input_tables names a table twice")));
	}
	for (int i = 0; i < truck->ninputs; i++)
		refuse_part_and_whole(truck, i);
}

/* The option role of a truck that the current user creates or alters. */
void
trucker_argument_role(TruckerTruck *truck, const char *role_name)
{
	truck->role = truck->owner;
	if (role_name)
	{
		truck->role = get_role_oid(role_name, false);
		check_is_member_of_role(GetUserId(), truck->role);
	}
	if (superuser_arg(truck->role))
		ereport(WARNING,
				(errmsg("the SQL of truck \"%s\" will run with superuser rights", truck->name),
				 errhint("The option \"role\" names a role with fewer rights.")));
}

/*
 * Create a truck of the current user's, of which all is given that the arguments of
 * create_truck() are: name, inputs, both SQLs, connection, and the options as JSON.
 */
void
trucker_create(TruckerTruck *truck)
{
	TruckerFilterOptions filters;
	char	   *role_name;

	check_name(truck->name);
	truck->options = trucker_filter_take_options(truck->options, &filters);
	trucker_truck_parse_options(truck, &role_name);
	trucker_truck_check_output(truck);
	trucker_program_check_syntax(truck);
	truck->search_path = pstrdup(GetConfigOption("search_path", false, false));
	truck->owner = GetUserId();
	trucker_argument_role(truck, role_name);
	trucker_filter_set(truck, &filters);
	if (!trucker_connection_is_local(truck->connection))
		trucker_connection_check(truck->connection, truck->role);
	trucker_truck_insert(truck);
	if (truck->filters != NIL)
		trucker_filter_store(truck);
	trucker_written_readers_changed();
}

/* Remove a truck that the caller may manage. */
void
trucker_drop(const TruckerTruck *truck)
{
	trucker_truck_delete(&truck->id);
	trucker_at_commit_signal(&truck->id, TRUCKER_RELOAD);
	trucker_at_commit_scan();
}

/* create_truck(name, input_tables, output_sql, input_sql, output_connection, options) */
Datum
trucker_create_truck(PG_FUNCTION_ARGS)
{
	TruckerTruck *truck = palloc0(sizeof(TruckerTruck));

	require_argument(fcinfo, 0, "name");
	require_argument(fcinfo, 1, "input_tables");
	require_argument(fcinfo, 4, "output_connection");
	require_argument(fcinfo, 5, "options");

	truck->name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	trucker_argument_inputs(truck, PG_GETARG_ARRAYTYPE_P(1));
	if (!PG_ARGISNULL(2))
		truck->output_sql = trucker_argument_sql(PG_GETARG_TEXT_PP(2), "output_sql");
	if (!PG_ARGISNULL(3))
		truck->input_sql = trucker_argument_sql(PG_GETARG_TEXT_PP(3), "input_sql");
	truck->connection = NameStr(*PG_GETARG_NAME(4));
	truck->options = PG_GETARG_JSONB_P(5);
	trucker_create(truck);
	PG_RETURN_VOID();
}

/* drop_truck(name) */
Datum
trucker_drop_truck(PG_FUNCTION_ARGS)
{
	trucker_drop(trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0))));
	PG_RETURN_VOID();
}

/* ----
 * start, stop, resync
 * ----
 */

/* The trucks (TruckerTruck *) that a name, or NULL for all, stands for. */
static List *
named_trucks(FunctionCallInfo fcinfo)
{
	List	   *names;
	List	   *trucks = NIL;
	ListCell   *lc;

	if (!PG_ARGISNULL(0))
		return list_make1(trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0))));
	names = trucker_truck_own_names();
	foreach(lc, names)
		trucks = lappend(trucks, trucker_truck_get(lfirst(lc)));
	return trucks;
}

static bool
is_lost(const TruckerTruck *truck, bool one_of_many)
{
	trucker_check_not_lost(truck, one_of_many ? WARNING : ERROR);
	return truck->lost;
}

/*
 * A connection may turn out to be another way to this very database.  Then the truck
 * writes here like any other one, in one transaction and with its own role's rights.
 */
static bool
take_as_local(TruckerTruck *truck)
{
	trucker_truck_check_role(truck);
	if (!trucker_output_leads_here(truck))
		return false;
	ereport(NOTICE,
			(errmsg("connection \"%s\" leads to this very database: truck \"%s\" writes here, as with output_connection => '%s'",
					truck->connection, truck->name, TRUCKER_CONNECTION_LOCAL),
			 errdetail("Its SQL runs with the rights of role \"%s\".", GetUserNameFromId(truck->role, false))));
	trucker_truck_set_connection(truck, TRUCKER_CONNECTION_LOCAL);
	return true;
}

/*
 * A truck that was drained for pg_upgrade: on the new server it gets a new slot, and what
 * its inputs hold is compared with what they held (drained.c).  On the old one that means
 * nothing any more.
 */
static void
take_up(TruckerTruck *truck)
{
	if (truck->drained_on == 0)
		return;
	if (!trucker_truck_resumes(truck))
		trucker_drained_forget(&truck->id);
	else if (!truck->needs_backfill)
	{
		trucker_state_request_resume(&truck->id);
		truck->needs_backfill = true;
		truck->has_stream = false;
	}
}

static void
start_error_context(void *arg)
{
	errcontext("start of truck \"%s\"", ((TruckerTruck *) arg)->name);
}

/* Start a truck.  If it is one of many, an error, which undoes them all, tells which one it is about. */
static void
start_truck(TruckerTruck *truck, bool one_of_many)
{
	ErrorContextCallback callback;
	List	   *written;
	bool		moved;

	if (is_lost(truck, one_of_many))
		return;
	callback.callback = start_error_context;
	callback.arg = truck;
	callback.previous = error_context_stack;
	if (one_of_many)
		error_context_stack = &callback;
	moved = take_as_local(truck);
	take_up(truck);
	written = trucker_check_truck(truck);
	if (truck->filters_restored)
		trucker_filter_store(truck);
	trucker_written_start(truck, written, trucker_state_set_enabled(&truck->id, true));
	error_context_stack = callback.previous;
	trucker_at_commit_signal(&truck->id, truck->enabled && !moved ? TRUCKER_POKE : TRUCKER_RELOAD);
}

/* Put it aboard a stream, unless it is lost, or rides on one. */
static void
board(TruckerTruck *truck)
{
	if (truck->lost)
		return;
	if (truck->needs_backfill && (!truck->enabled || !truck->has_stream))
		truck->stream_id = trucker_state_board(truck);
	trucker_at_commit_poke(&truck->stream_id);
}

/* start(name) */
Datum
trucker_start(PG_FUNCTION_ARGS)
{
	List	   *trucks;
	ListCell   *lc;
	int			new_trucks = 0;
	int			new_slots = 0;
	List	   *decoders = NIL;

	trucker_check_preloaded();
	trucker_project_load_first();
	trucks = named_trucks(fcinfo);
	foreach(lc, trucks)
	{
		TruckerTruck *truck = lfirst(lc);

		new_trucks += truck->enabled ? 0 : 1;
		new_slots += truck->has_stream ? 0 : 1;
		decoders = list_append_unique_ptr(decoders, unconstify(TruckerDecoder *, trucker_check_decoder(truck)));
	}
	/* before their SQL is tried at their destinations */
	trucker_migrations_before_start(trucks);
	/* trucks that start together share what they need */
	trucker_check_server(Min(new_trucks, 1), Min(new_slots, 1), decoders);
	foreach(lc, trucks)
		start_truck(lfirst(lc), PG_ARGISNULL(0));
	/* who has a stream locked waits for no truck's row: who has that one may be about to board, too */
	foreach(lc, trucks)
		board(lfirst(lc));
	trucker_at_commit_scan();
	PG_RETURN_VOID();
}

/* stop(name) */
Datum
trucker_stop(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	foreach(lc, named_trucks(fcinfo))
	{
		TruckerTruck *truck = lfirst(lc);

		trucker_state_set_enabled(&truck->id, false);
		trucker_at_commit_signal(&truck->id, TRUCKER_RELOAD);
	}
	trucker_at_commit_scan();
	PG_RETURN_VOID();
}

/* resync(name) */
Datum
trucker_resync(PG_FUNCTION_ARGS)
{
	TruckerTruck *truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	uint64		discarded;

	if (truck->backfill && truck->reset_sql == NULL)
		ereport(NOTICE,
				(errmsg("truck \"%s\" has no option reset_sql", truck->name),
				 errdetail("What its destination holds stays, and the backfill is written on top of it.")));
	else if (!truck->backfill)
		ereport(NOTICE,
				(errmsg("truck \"%s\" has the option \"backfill\": false", truck->name),
				 errdetail("Changes that it has not applied yet are skipped; it goes on with those made from now on.")));
	trucker_state_request_resync(&truck->id);
	discarded = trucker_quarantine_discard(&truck->id, TRUCKER_QUARANTINE_ALL);
	if (discarded > 0)
		ereport(NOTICE,
				(errmsg(UINT64_FORMAT " quarantined transactions of truck \"%s\" are discarded", discarded, truck->name)));
	if (truck->enabled)
	{
		pg_uuid_t	stream_id = trucker_state_board(truck);

		trucker_at_commit_poke(&stream_id);
	}
	trucker_at_commit_signal(&truck->id, TRUCKER_RELOAD);
	trucker_at_commit_scan();
	PG_RETURN_VOID();
}

/* set_output_plugin(stream, output_plugin) */
Datum
trucker_set_output_plugin(PG_FUNCTION_ARGS)
{
	char	   *plugin = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *stream;
	ListCell   *lc;

	trucker_check_preloaded();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" of %s must not be null", "stream", "set_output_plugin")));
	stream = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (stream[0] == '\0' || strlen(stream) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid stream name \"%s\"", stream),
				 errdetail("A name has 1 to %d bytes.", NAMEDATALEN - 1)));
	if (plugin && trucker_decoder_find(plugin) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown output plugin \"%s\"", plugin),
				 errhint("Available: \"%s\", \"%s\".", trucker_wal2json.plugin, trucker_pgoutput.plugin)));
	trucker_check_server(0, 0, list_make1(unconstify(TruckerDecoder *, trucker_decoder_wanted(plugin))));
	foreach(lc, trucker_state_set_output_plugin(GetUserId(), stream, plugin))
		trucker_at_commit_poke(lfirst(lc));
	trucker_at_commit_scan();
	PG_RETURN_VOID();
}

/* generated_sql(name): the input tables, and what stands for output_sql */
Datum
trucker_generated_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TruckerTruck *truck;

	InitMaterializedSRF(fcinfo, 0);
	truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	for (int i = 0; truck->output_table && i < truck->ninputs; i++)
	{
		Datum		values[2] = {ObjectIdGetDatum(truck->inputs[i]), (Datum) 0};
		bool		nulls[2] = {false, false};

		values[1] = CStringGetTextDatum(trucker_check_generated(truck, truck->inputs[i]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ----
 * wait_for, and what the view status is made of
 * ----
 */

/* Where everything that has committed by now ends; it is flushed first. */
XLogRecPtr
trucker_flushed_now(void)
{
	XLogRecPtr	end = trucker_lsn_record_end(GetXLogInsertRecPtr());

	XLogFlush(end);
	return end;
}

/* Nothing to wait for?  Then say so instead of waiting in vain. */
void
trucker_check_can_progress(const char *name)
{
	TruckerTruck *truck;
	char	   *last_error;

	/* the catalog as it is now, whatever the transaction's snapshot */
	PushActiveSnapshot(GetLatestSnapshot());
	truck = trucker_truck_get(name);
	last_error = truck->failed ? trucker_state_last_error(&truck->id) : NULL;
	PopActiveSnapshot();
	(void) is_lost(truck, false);
	if (truck->failed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" has failed", name),
				 last_error ? errdetail("Its last error was %s.", last_error) : 0,
				 errhint("trucker.status shows all of the error. When its cause is removed: SELECT trucker.start(%s);",
						 quote_literal_cstr(name))));
	if (!truck->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" is stopped", name),
				 errhint("SELECT trucker.start(%s);", quote_literal_cstr(name))));
}

/* Wait until all before target is at the truck's destination; false: the time is up. */
bool
trucker_wait_until(const TruckerTruck *truck, XLogRecPtr target, TimestampTz deadline)
{
	bool		reached = false;

	trucker_wait_progress_prepare();
	for (;;)
	{
		TruckerTruckInfo info;
		long		left;

		reached = trucker_find_truck(MyDatabaseId, &truck->id, &info) &&
			info.applied_lsn >= target;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (reached || left <= 0)
			break;

		/* look at the catalog now and then: a lost truck makes no progress */
		if (!trucker_wait_progress(Min(left, 1000)))
			trucker_check_can_progress(truck->name);
	}
	trucker_wait_progress_end();
	return reached;
}

static void
check_can_run(void)
{
	trucker_check_preloaded();
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trucks do not run on a standby server")));
}

/* Can this session wait for what trucks do?  detail: what of it would never come, if it has written. */
void
trucker_check_can_wait(const char *function, const char *detail)
{
	check_can_run();
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be called in a transaction that has written", function),
				 errdetail("%s", detail),
				 errhint("COMMIT first.")));
}

/* When a function that was given this much time is to give up. */
TimestampTz
trucker_deadline(Interval *timeout, const char *function)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
																   PointerGetDatum(timeout)));

	if (deadline < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of %s must not be negative", "timeout", function)));
	return deadline;
}

/* wait_for(name, lsn, timeout) */
Datum
trucker_wait_for(PG_FUNCTION_ARGS)
{
	TruckerTruck *truck;
	XLogRecPtr	target;
	TimestampTz deadline;

	check_can_run();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and timeout of wait_for must not be null")));
	deadline = trucker_deadline(PG_GETARG_INTERVAL_P(2), "wait_for");
	truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	trucker_check_can_wait("wait_for", "Its own changes reach the destination only after its commit, and a truck that starts waits for it to end.");
	trucker_check_can_progress(truck->name);
	target = PG_ARGISNULL(1) ? trucker_flushed_now() : trucker_lsn_record_end(PG_GETARG_LSN(1));
	PG_RETURN_BOOL(trucker_wait_until(truck, target, deadline));
}

static void
put_truck(ReturnSetInfo *rsinfo, TruckerTruckInfo *info, TruckerWorkerInfo *worker)
{
	Datum		values[9];
	bool		nulls[9] = {false};
	int			pid = info->backfill_pid ? info->backfill_pid : worker->pid;

	values[0] = UUIDPGetDatum(&info->id);
	values[1] = UUIDPGetDatum(&worker->stream_id);
	values[2] = Int32GetDatum(pid);
	values[3] = Int32GetDatum(worker->walsender_pid);
	nulls[3] = worker->walsender_pid == 0;
	values[4] = CStringGetTextDatum(trucker_state_name(info->state));
	values[5] = TimestampTzGetDatum(info->since);
	values[6] = LSNGetDatum(info->applied_lsn);
	nulls[6] = XLogRecPtrIsInvalid(info->applied_lsn);
	values[7] = TimestampTzGetDatum(info->applied_at);
	nulls[7] = info->applied_at == 0;
	values[8] = TimestampTzGetDatum(info->next_retry_at);
	nulls[8] = info->next_retry_at == 0 || info->state != TRUCKER_RETRYING;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* truck_workers(): the trucks that a worker works for; without shared memory there are none */
Datum
trucker_truck_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; trucker_shmem_available() && i < trucker_truck_entry_count(); i++)
	{
		TruckerTruckInfo info;
		TruckerWorkerInfo worker;

		if (trucker_get_truck(i, &info) && info.database == MyDatabaseId && info.worker >= 0 &&
			info.state != TRUCKER_RESTING &&
			trucker_get_worker(info.worker, &worker) && worker.pid != 0)
			put_truck(rsinfo, &info, &worker);
	}
	return (Datum) 0;
}

static void
put_worker(ReturnSetInfo *rsinfo, TruckerWorkerInfo *info)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = UUIDPGetDatum(&info->stream_id);
	values[1] = Int32GetDatum(info->pid);
	nulls[1] = info->pid == 0;
	values[2] = Int32GetDatum(info->walsender_pid);
	nulls[2] = info->walsender_pid == 0;
	values[3] = TimestampTzGetDatum(info->launch_after);
	nulls[3] = info->launch_after == 0;
	values[4] = BoolGetDatum(info->waits_for_worker);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* stream_workers(); likewise */
Datum
trucker_stream_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; trucker_shmem_available() && i < trucker_worker_count(); i++)
	{
		TruckerWorkerInfo info;

		if (trucker_get_worker(i, &info) && info.database == MyDatabaseId)
			put_worker(rsinfo, &info);
	}
	return (Datum) 0;
}

/* wal_warning(slot_name, lsn): what the view status warns of */
Datum
trucker_wal_warning(PG_FUNCTION_ARGS)
{
	char	   *warning = NULL;

	if (trucker_shmem_available() && !PG_ARGISNULL(0))
		warning = trucker_budget_warning(text_to_cstring(PG_GETARG_TEXT_PP(0)),
										 PG_ARGISNULL(1) ? InvalidXLogRecPtr : PG_GETARG_LSN(1));
	if (warning == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(warning));
}
