/*
 * migration_rows.c
 *	  What a database says of the migrations that have been applied to it.
 *
 * The rows belong to what they are about, so they are in the database that is migrated,
 * and are written in the transaction of the migration: trucker_migrations.migration, one
 * row a connection and version.  The schema is always called that, and is not the
 * connection's position_schema: this database has none, the schema file must leave it
 * out, and it must be found by whoever migrates, whatever options he connects with.
 * The connection is a part of the key, for a database may be the output of several
 * projects, each of which knows it by a name of its own.
 *
 * Anybody may read the table: start() looks with the rights of the truck's role.  To write
 * into somebody else's is refused, as with positions: it could have triggers.  To read it
 * runs nobody's code, if it is a table and its owner's row security is kept out.
 */
#include "trucker.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "identity.h"
#include "migration.h"
#include "sql_file.h"

#define TABLE "trucker_migrations.migration"

/* of the lock that the making of the table takes: "truckmig" */
#define MAKE_LOCK "8392560227474991463"

/* Rows (TruckerSqlRow *) of a query in this database, with the current user's rights. */
static List *
query_here(const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *rows = NIL;
	bool		pushed = !ActiveSnapshotSet();

	if (pushed)
		PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		TruckerSqlRow *row = palloc0(sizeof(TruckerSqlRow));

		row->n = SPI_tuptable->tupdesc->natts;
		row->values = palloc0(row->n * sizeof(char *));
		for (int j = 0; j < row->n; j++)
			row->values[j] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, j + 1);
		rows = lappend(rows, row);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	if (pushed)
		PopActiveSnapshot();
	return rows;
}

/* Is there a table that may be written?  Raises an error if there is one that may not. */
static bool
find_table(TruckerSqlSession *session)
{
	List	   *rows = trucker_sql_session_execute(session,
							 "SELECT CASE WHEN c.relkind <> 'r' THEN 'is not a table' "
							 /* a superuser trusts superusers only, though he is a member of all roles */
							 "WHEN EXISTS (SELECT FROM pg_catalog.pg_roles o "
							 "JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database() "
							 "JOIN pg_catalog.pg_roles me ON me.rolname = current_user "
							 "WHERE o.oid IN (c.relowner, n.nspowner) AND NOT o.rolsuper "
							 "AND (me.rolsuper OR NOT (pg_catalog.pg_has_role(o.oid, 'MEMBER') OR o.oid = d.datdba))) "
							 "THEN 'or its schema belongs to a role that is neither this one nor trusted' END "
							 "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
							 "WHERE n.nspname = 'trucker_migrations' AND c.relname = 'migration'", true);
	TruckerSqlRow *row = rows ? linitial(rows) : NULL;

	if (row && row->values[0])
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table %s cannot hold migrations", TABLE),
				 errdetail("It %s.", row->values[0]),
				 errhint("Both must belong to this role, to one that it is a member of, to the database's owner or to a superuser; "
						 "and to a superuser, if this role is one: its triggers would run with this role's rights.")));
	return row != NULL;
}

/* Make the table where there is none; whoever comes at the same time waits. */
void
trucker_migrations_make_table(TruckerSqlSession *session)
{
	static const char *const ddl[] = {
		"CREATE SCHEMA IF NOT EXISTS trucker_migrations",
		"CREATE TABLE " TABLE " (connection text NOT NULL, version text NOT NULL, name text, checksum text NOT NULL, "
		"state text NOT NULL CHECK (state IN ('applied', 'applying', 'rolling back')), "
		"statements integer NOT NULL, applied_at timestamptz NOT NULL, PRIMARY KEY (connection, version))",
		"COMMENT ON COLUMN " TABLE ".statements IS 'how many of the file''s statements have been done, while its state is not applied'",
		"GRANT USAGE ON SCHEMA trucker_migrations TO PUBLIC",
		"GRANT SELECT ON " TABLE " TO PUBLIC"
	};

	if (find_table(session))
		return;
	(void) trucker_sql_session_execute(session, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", false);
	(void) trucker_sql_session_execute(session, "SELECT pg_catalog.pg_advisory_xact_lock(" MAKE_LOCK ")", false);
	if (!find_table(session))
		for (int i = 0; i < lengthof(ddl); i++)
			(void) trucker_sql_session_execute(session, ddl[i], false);
	(void) trucker_sql_session_execute(session, "COMMIT", false);
}

/* ----
 * Writing
 * ----
 */

static char *
literal(const char *text)
{
	return text ? quote_literal_cstr(text) : "NULL";
}

/*
 * Write a migration's row.  Without replace there must be none: should somebody else be at
 * work in spite of the lock, one of both fails.
 */
void
trucker_migration_write(TruckerSqlSession *session, const char *connection, const TruckerMigration *migration,
						const char *state, int statements, bool replace)
{
	(void) trucker_sql_session_execute(session,
									   psprintf("INSERT INTO " TABLE " AS m (connection, version, name, checksum, state, statements, applied_at) "
												"VALUES (%s, %s, %s, %s, %s, %d, pg_catalog.clock_timestamp())%s",
												literal(connection), literal(migration->version), literal(migration->name),
												literal(migration->checksum ? migration->checksum : migration->recorded_checksum),
												literal(state), statements,
												replace ? " ON CONFLICT (connection, version) DO UPDATE SET name = excluded.name, "
												"checksum = excluded.checksum, state = excluded.state, "
												"statements = excluded.statements, applied_at = excluded.applied_at" : ""), false);
}

void
trucker_migration_delete(TruckerSqlSession *session, const char *connection, const char *version)
{
	(void) trucker_sql_session_execute(session,
									   psprintf("DELETE FROM " TABLE " WHERE connection = %s AND version = %s",
												literal(connection), literal(version)), false);
}

/* ----
 * Reading
 * ----
 */

static int
compare_versions(const ListCell *a, const ListCell *b)
{
	return strcmp(((TruckerMigration *) lfirst(a))->version, ((TruckerMigration *) lfirst(b))->version);
}

static void
take_row(TruckerMigrations *migrations, char **values)
{
	TruckerMigration *migration = trucker_migration_find(migrations, values[0]);

	if (migration == NULL)
	{
		migration = palloc0(sizeof(TruckerMigration));
		migration->version = values[0];
		migration->name = values[1];
		migrations->all = lappend(migrations->all, migration);
	}
	migration->recorded = true;
	migration->recorded_checksum = values[2];
	migration->recorded_state = values[3];
	migration->statements = atoi(values[4]);
	migration->applied_at = values[5];
}

/* What follows from files and rows. */
static void
judge(TruckerMigrations *migrations)
{
	const char *newest = NULL;
	ListCell   *lc;

	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->recorded)
			newest = migration->version;
	}
	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (!migration->recorded)
			migration->state = newest && strcmp(migration->version, newest) < 0 ?
				TRUCKER_MIGRATION_OUT_OF_ORDER : TRUCKER_MIGRATION_PENDING;
		else if (strcmp(migration->recorded_state, "applied") != 0)
			migration->state = TRUCKER_MIGRATION_UNFINISHED;
		else if (migration->up_file == NULL)
			migration->state = TRUCKER_MIGRATION_MISSING;
		else
			migration->state = strcmp(migration->checksum, migration->recorded_checksum) == 0 ?
				TRUCKER_MIGRATION_APPLIED : TRUCKER_MIGRATION_EDITED;
	}
}

/* Its owner, if there is such a table; a view would be another thing. */
#define OWNER_SQL "SELECT c.relowner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace " \
	"WHERE n.nspname = 'trucker_migrations' AND c.relname = 'migration' AND c.relkind = 'r'"

/* In this database: as the table's owner, to whom row security does not matter. */
static List *
read_here(const char *sql)
{
	List	   *rows = query_here(OWNER_SQL);
	TruckerIdentity saved;

	if (rows == NIL)
		return NIL;
	trucker_identity_push(&saved, atooid(((TruckerSqlRow *) linitial(rows))->values[0]),
						  SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION, "pg_catalog, pg_temp");
	rows = query_here(sql);
	trucker_identity_pop(&saved);
	return rows;
}

/* There: row security that would count is an error, and the lock keeps the table what it is. */
static List *
read_there(TruckerSqlSession *session, const char *sql)
{
	List	   *rows = trucker_sql_session_execute(session, OWNER_SQL, true);

	if (rows == NIL)
		return NIL;
	(void) trucker_sql_session_execute(session, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", false);
	(void) trucker_sql_session_execute(session, "SET LOCAL row_security = off", false);
	(void) trucker_sql_session_execute(session, "LOCK TABLE " TABLE " IN ACCESS SHARE MODE", false);
	rows = trucker_sql_session_execute(session, OWNER_SQL, true);
	if (rows != NIL)
		rows = trucker_sql_session_execute(session, sql, true);
	(void) trucker_sql_session_execute(session, "COMMIT", false);
	return rows;
}

/*
 * Add what the database says to what the files say: without a session, this database,
 * whoever asks.
 */
void
trucker_migrations_read_rows(TruckerMigrations *migrations, TruckerSqlSession *session)
{
	char	   *sql = psprintf("SELECT version, name, checksum, state, statements, "
							   "pg_catalog.to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00') FROM " TABLE
							   " WHERE connection = %s", literal(migrations->connection));
	ListCell   *lc;

	foreach(lc, session ? read_there(session, sql) : read_here(sql))
		take_row(migrations, ((TruckerSqlRow *) lfirst(lc))->values);
	list_sort(migrations->all, compare_versions);
	judge(migrations);
}

/* ----
 * Words
 * ----
 */

const char *
trucker_migration_state_name(TruckerMigrationState state)
{
	switch (state)
	{
		case TRUCKER_MIGRATION_APPLIED:
			return "applied";
		case TRUCKER_MIGRATION_PENDING:
			return "pending";
		case TRUCKER_MIGRATION_OUT_OF_ORDER:
			return "out of order";
		case TRUCKER_MIGRATION_EDITED:
			return "edited";
		case TRUCKER_MIGRATION_MISSING:
			return "missing";
		case TRUCKER_MIGRATION_UNFINISHED:
			return "unfinished";
	}
	return "???";
}

/* The line of the statement that comes after those that are done. */
static int
next_line(const TruckerMigration *migration)
{
	bool		up = strcmp(migration->recorded_state, "applying") == 0;
	const char *text = up ? migration->up_text : migration->down_text;
	List	   *statements = text ? trucker_sql_file_split(up ? migration->up_file : migration->down_file, text) : NIL;

	if (migration->statements >= list_length(statements))
		return 0;
	return ((TruckerSqlStatement *) list_nth(statements, migration->statements))->line;
}

/* What there is to say of a migration that is neither applied nor simply pending; else NULL. */
char *
trucker_migration_detail(const TruckerMigration *migration)
{
	switch (migration->state)
	{
		case TRUCKER_MIGRATION_OUT_OF_ORDER:
			return pstrdup("it is not applied, and a newer one is");
		case TRUCKER_MIGRATION_EDITED:
			return pstrdup("its file has been edited since it was applied");
		case TRUCKER_MIGRATION_MISSING:
			return pstrdup("it is applied, and its file is gone");
		case TRUCKER_MIGRATION_UNFINISHED:
			return psprintf("%s was begun and not finished: %d of its statements are done, and the one after them%s may be",
							strcmp(migration->recorded_state, "applying") == 0 ? "it" : "its rollback",
							migration->statements,
							next_line(migration) > 0 ? psprintf(" (line %d)", next_line(migration)) : "");
		default:
			return NULL;
	}
}
