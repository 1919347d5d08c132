/*
 * migrate_api.c
 *	  The SQL procedures about migrations, and what the view trucker.migrations is made of.
 *
 * They are procedures because they must let go of their snapshot while another session
 * works: CREATE INDEX CONCURRENTLY waits for all snapshots older than its own.  So they
 * commit what came before them, and are refused where that is not possible: in a
 * transaction block, and in a function.  They say so themselves, since "invalid
 * transaction termination" says nothing.
 *
 * The SQL of a project's files runs with the rights of the current user, who must be one
 * who may read the server's files.
 */
#include "trucker.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#include "check.h"
#include "checklist.h"
#include "migrate.h"
#include "project_files.h"
#include "truck.h"

PG_FUNCTION_INFO_V1(trucker_migrate);
PG_FUNCTION_INFO_V1(trucker_rollback);
PG_FUNCTION_INFO_V1(trucker_load_schema);
PG_FUNCTION_INFO_V1(trucker_dump_schema);
PG_FUNCTION_INFO_V1(trucker_mark_migration);
PG_FUNCTION_INFO_V1(trucker_migration_status);

/* A call of a procedure: what it is about. */
typedef struct Call
{
	MemoryContext context;		/* outlives the commit */
	MemoryContext old;
	char	   *dir;
	TruckerMigrator *migrator;
} Call;

static void
refuse_atomic(FunctionCallInfo fcinfo, const char *name)
{
	CallContext *context = (CallContext *) fcinfo->context;

	if (context && IsA(context, CallContext) && !context->atomic)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("%s cannot be called in a transaction block or a function", name),
			 errdetail("It commits, so that nothing waits for the snapshot of its caller."),
			 errhint("COMMIT first, or call it by itself.")));
}

/* What every procedure does first: may he, and whereto?  Then commit, and connect. */
static void
begin_call(Call *call, FunctionCallInfo fcinfo, const char *name)
{
	char	   *connection;

	trucker_check_preloaded();
	refuse_atomic(fcinfo, name);
	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of %s must not be null", name)));
	trucker_project_check_rights();
	call->context = AllocSetContextCreate(PortalContext, "trucker migrations", ALLOCSET_DEFAULT_SIZES);
	call->old = MemoryContextSwitchTo(call->context);
	connection = text_to_cstring(PG_GETARG_TEXT_PP(0));
	call->dir = trucker_project_dir(NULL);
	call->migrator = trucker_migrator_create(call->dir, connection, GetUserId());

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	SPI_commit();
	SPI_finish();
	MemoryContextSwitchTo(call->context);
	trucker_migrator_open(call->migrator);
}

static void
end_call(Call *call)
{
	trucker_migrator_close(call->migrator);
	MemoryContextSwitchTo(call->old);
	MemoryContextDelete(call->context);
}

/* Files and rows; are rows to be written? */
static TruckerMigrations *
read_migrations(Call *call, bool write)
{
	TruckerMigrations *migrations = trucker_migrations_read_files(call->dir, call->migrator->connection);

	if (write)
		trucker_migrations_make_table(call->migrator->session);
	trucker_migrations_read_rows(migrations, call->migrator->session);
	return migrations;
}

/* migrate(connection) */
Datum
trucker_migrate(PG_FUNCTION_ARGS)
{
	Call		call;
	TruckerMigrations *migrations;

	begin_call(&call, fcinfo, "migrate");
	migrations = read_migrations(&call, true);
	if (trucker_migrate_up(call.migrator, migrations) > 0)
		trucker_schema_file_try_write(call.migrator, migrations);
	else
		ereport(NOTICE,
				(errmsg("connection \"%s\": no migration is pending", call.migrator->connection)));
	end_call(&call);
	PG_RETURN_VOID();
}

/* rollback(connection, steps) */
Datum
trucker_rollback(PG_FUNCTION_ARGS)
{
	Call		call;
	TruckerMigrations *migrations;
	int			steps = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT32(1);

	if (steps < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("steps must be 1 or more")));
	begin_call(&call, fcinfo, "rollback");
	migrations = read_migrations(&call, true);
	if (trucker_migrate_down(call.migrator, migrations, steps) > 0)
		trucker_schema_file_try_write(call.migrator, migrations);
	end_call(&call);
	PG_RETURN_VOID();
}

/* load_schema(connection) */
Datum
trucker_load_schema(PG_FUNCTION_ARGS)
{
	Call		call;

	begin_call(&call, fcinfo, "load_schema");
	trucker_schema_load(call.migrator, call.dir);
	end_call(&call);
	PG_RETURN_VOID();
}

/* dump_schema(connection) */
Datum
trucker_dump_schema(PG_FUNCTION_ARGS)
{
	Call		call;

	begin_call(&call, fcinfo, "dump_schema");
	trucker_schema_file_write(call.migrator, read_migrations(&call, false));
	end_call(&call);
	PG_RETURN_VOID();
}

/* mark_migration(connection, version, applied) */
Datum
trucker_mark_migration(PG_FUNCTION_ARGS)
{
	Call		call;
	TruckerMigrations *migrations;
	TruckerMigration *migration;
	char	   *version;
	bool		applied;

	begin_call(&call, fcinfo, "mark_migration");
	version = text_to_cstring(PG_GETARG_TEXT_PP(1));
	applied = PG_GETARG_BOOL(2);
	migrations = read_migrations(&call, true);
	migration = trucker_migration_find(migrations, version);
	if (migration == NULL || (applied ? migration->up_file == NULL : !migration->recorded))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("connection \"%s\" has no migration \"%s\"%s", call.migrator->connection, version,
						applied ? "" : " that is applied"),
				 errhint("SELECT version, state FROM trucker.migrations WHERE connection = %s;",
						 quote_literal_cstr(call.migrator->connection))));
	if (applied)
		trucker_migration_write(call.migrator->session, call.migrator->connection, migration, "applied", 0, true);
	else
		trucker_migration_delete(call.migrator->session, call.migrator->connection, version);
	end_call(&call);
	PG_RETURN_VOID();
}

/* ----
 * The view
 * ----
 */

typedef struct StatusCheck
{
	const char *dir;
	const char *connection;
	MemoryContext context;
	TruckerMigrations *migrations;
} StatusCheck;

/* Files first: should the database not be reached, they are shown. */
static const char *
read_rows(TruckerChecklist *list, void *arg)
{
	StatusCheck *check = arg;
	MemoryContext old = MemoryContextSwitchTo(check->context);
	TruckerMigrator *migrator = trucker_migrator_create(check->dir, check->connection, GetUserId());
	TruckerSqlSession *session = migrator->remote ?
		trucker_sql_session_remote(migrator->remote, "trucker migrations", false) : NULL;

	trucker_migrations_read_rows(check->migrations, session);
	if (session)
		trucker_sql_session_close(session);
	MemoryContextSwitchTo(old);
	return NULL;
}

static void
put_row(ReturnSetInfo *rsinfo, const char *connection, const TruckerMigration *migration, const char *state, const char *detail)
{
	Datum		values[7] = {0};
	bool		nulls[7] = {false, true, true, true, false, true, detail == NULL};

	values[0] = CStringGetTextDatum(connection);
	values[4] = CStringGetTextDatum(state);
	values[6] = detail ? CStringGetTextDatum(detail) : (Datum) 0;
	if (migration)
	{
		values[1] = CStringGetTextDatum(migration->version);
		values[2] = migration->name ? CStringGetTextDatum(migration->name) : (Datum) 0;
		nulls[1] = false;
		nulls[2] = migration->name == NULL;
		nulls[3] = migration->applied_at == NULL;
		if (migration->applied_at)
			values[3] = DirectFunctionCall3(timestamptz_in, CStringGetDatum(migration->applied_at),
											ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		values[5] = BoolGetDatum(migration->down_file != NULL);
		nulls[5] = false;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_connection(ReturnSetInfo *rsinfo, const char *dir, const char *connection)
{
	StatusCheck check = {dir, connection, CurrentMemoryContext, trucker_migrations_read_files(dir, connection)};
	const char *ignored;
	ErrorData  *error = trucker_checklist_try(read_rows, &check, &ignored);
	ListCell   *lc;

	if (error)
		put_row(rsinfo, connection, NULL, "unknown",
				error->detail ? psprintf("%s.  %s", error->message, error->detail) : error->message);
	foreach(lc, check.migrations->problems)
		put_row(rsinfo, connection, NULL, "problem", lfirst(lc));
	foreach(lc, check.migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		put_row(rsinfo, connection, migration, error ? "unknown" : trucker_migration_state_name(migration->state),
				error ? NULL : trucker_migration_detail(migration));
	}
}

/* migration_status(): the view trucker.migrations */
Datum
trucker_migration_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *dir;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	trucker_project_check_rights();
	dir = trucker_project_dir(NULL);
	foreach(lc, trucker_project_list(dir, TRUCKER_MIGRATE_FOLDER, true))
	{
		char	   *connection = lfirst(lc);

		if (trucker_project_file_kind(dir, psprintf("%s/%s", TRUCKER_MIGRATE_FOLDER, connection)) == TRUCKER_FILE_FOLDER)
			put_connection(rsinfo, dir, connection);
	}
	return (Datum) 0;
}
