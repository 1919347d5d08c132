/*
 * migrate.c
 *	  Run migrations: one transaction a file, its row in it, under a lock.
 *
 * A session (sql_session.c) is opened to the database that is migrated, takes a lock of
 * that database, reads the rows and compares them with the files; all that is wrong is
 * told before anything runs.  Then file by file:
 *
 *	  in a transaction: BEGIN; the row; the file's statements; COMMIT.  The row comes first:
 *	  should the lock be lost (a statement may let go of all locks), whoever comes second
 *	  waits for the first one's row, and fails;
 *	  without one (the first line says so, for CREATE INDEX CONCURRENTLY and its like), in a
 *	  second session: the row says "applying", and after each statement how many are done.  After an error or a
 *	  crash nobody but the user can know whether the next one has been done; so nothing goes
 *	  on before he has said so (trucker.mark_migration()).
 *
 * Each file begins with the session as it was at first: what the one before has set,
 * prepared, or become, is gone.
 *
 * The lock is the session's: it must outlive the transactions.  It is one for the whole
 * database, whatever connection leads there; the number is trucker's own.
 */
#include "trucker.h"

#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "migrate.h"
#include "sql_file.h"

/* "truckmig", after that of migration_rows.c */
#define LOCK "8392560227474991464"
/* of a statement in an error's context */
#define MAX_SHOWN 2000

/* What runs, for the context of errors. */
typedef struct Running
{
	TruckerSqlSession *session;
	const char *file;
	const TruckerSqlStatement *statement;	/* NULL: none of the file's */
	int			number;
	int			count;
} Running;

static void
error_context(void *arg)
{
	Running    *running = arg;
	const TruckerSqlStatement *statement = running->statement;
	int			line;
	const char *p;
	int			len;

	if (statement == NULL)
	{
		errcontext("end of file \"%s\"", running->file);
		return;
	}
	line = statement->line;
	p = statement->sql;
	for (int i = 1; i < trucker_sql_session_error_position(running->session) && *p; i++)
	{
		line += *p == '\n' ? 1 : 0;
		p += pg_mblen(p);
	}
	len = pg_mbcliplen(statement->sql, strlen(statement->sql), MAX_SHOWN);
	errcontext("file \"%s\", line %d, statement %d of %d: %.*s%s", running->file, line, running->number, running->count,
			   len, statement->sql, statement->sql[len] ? "..." : "");
}

/* ----
 * The session
 * ----
 */

/* Of a database of this server's, wherever the project leads; for tests of trucks. */
TruckerMigrator *
trucker_migrator_create_in(Oid database, const char *connection, Oid role)
{
	TruckerMigrator *migrator = palloc0(sizeof(TruckerMigrator));

	migrator->connection = pstrdup(connection);
	migrator->role = role;
	migrator->database = database;
	return migrator;
}

/*
 * Whereto a connection of a project's leads, for a role.  Reads the catalogs, so the
 * caller may let go of its snapshot afterwards; needs no connection.
 */
TruckerMigrator *
trucker_migrator_create(const char *dir, const char *connection, Oid role)
{
	TruckerMigrator *migrator = palloc0(sizeof(TruckerMigrator));

	migrator->connection = pstrdup(connection);
	migrator->role = role;
	migrator->database = MyDatabaseId;
	if (!trucker_connection_is_local(connection) &&
		(GetForeignServerByName(connection, true) != NULL || !trucker_migrations_leads_here(dir, connection)))
		migrator->remote = trucker_connection_load(connection, role);
	return migrator;
}

static void
execute(TruckerSqlSession *session, const char *sql)
{
	(void) trucker_sql_session_execute(session, sql, false);
}

/* Settings by which SQL means the same, whatever the role's own are; as far as the server knows them. */
static char *
prepare_sql(void)
{
	static const char *const settings[][2] = {
		{"standard_conforming_strings", "on"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", "0"},
		{"transaction_timeout", "0"},
		/* should we vanish, what runs is to be broken off */
		{"client_connection_check_interval", "1000"},
	};
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.set_config(s.name, v.value, false) FROM (VALUES ('client_encoding', %s)",
					 quote_literal_cstr(GetDatabaseEncodingName()));
	for (int i = 0; i < lengthof(settings); i++)
		appendStringInfo(&sql, ", ('%s', '%s')", settings[i][0], settings[i][1]);
	appendStringInfoString(&sql, ") AS v (name, value) JOIN pg_catalog.pg_settings AS s ON s.name = v.name "
						   "WHERE s.name <> 'client_connection_check_interval' OR pg_catalog.version() LIKE '%linux%'");
	return sql.data;
}

/* The session as it was at first, but for its locks: DISCARD ALL would let go of ours. */
static void
prepare(const TruckerMigrator *migrator, TruckerSqlSession *session)
{
	static const char *const reset[] = {
		"SET SESSION AUTHORIZATION DEFAULT", "RESET ROLE", "RESET ALL", "CLOSE ALL", "DEALLOCATE ALL", "UNLISTEN *",
		"DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP"
	};

	for (int i = 0; i < lengthof(reset); i++)
		execute(session, reset[i]);
	execute(session, migrator->prepare_sql);
	trucker_sql_session_become(session);
}

static TruckerSqlSession *
open_session(const TruckerMigrator *migrator)
{
	TruckerSqlSession *session = migrator->remote ?
		trucker_sql_session_remote(migrator->remote, "trucker migrate", true) :
		trucker_sql_session_in(migrator->database, migrator->role, "trucker migrate");

	prepare(migrator, session);
	return session;
}

/* Open the session, and take the lock; another one's migrations may have to end first. */
void
trucker_migrator_open(TruckerMigrator *migrator)
{
	List	   *rows;

	/* the lock is held by the session beside ours, and would never be let go of */
	if (MyBgworkerEntry && strcmp(MyBgworkerEntry->bgw_function_name, "trucker_sql_worker_main") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a migration cannot run migrations")));
	migrator->prepare_sql = prepare_sql();
	migrator->session = open_session(migrator);
	rows = trucker_sql_session_execute(migrator->session, "SELECT pg_catalog.pg_try_advisory_lock(" LOCK ")", true);
	if (strcmp(((TruckerSqlRow *) linitial(rows))->values[0], "t") != 0)
	{
		ereport(NOTICE,
				(errmsg("waiting for somebody else's migrations of connection \"%s\" to end", migrator->connection)));
		execute(migrator->session, "SELECT pg_catalog.pg_advisory_lock(" LOCK ")");
	}
}

void
trucker_migrator_close(TruckerMigrator *migrator)
{
	/* so that nobody finds it taken until the session has ended */
	execute(migrator->session, "SELECT pg_catalog.pg_advisory_unlock_all()");
	trucker_sql_session_close(migrator->session);
	migrator->session = NULL;
}

/* ----
 * One file
 * ----
 */

static void
run_statement(Running *running, const TruckerSqlStatement *statement)
{
	running->statement = statement;
	running->number++;
	execute(running->session, statement->sql);
	trucker_stop_point("migration: statement done");
}

/*
 * Run a file in one transaction, with the bookkeeping first: should a statement leave
 * the session as another role, or with settings of its own, that is past.
 */
void
trucker_migrator_run(TruckerMigrator *migrator, const char *file, const char *sql,
					 void (*bookkeeping) (TruckerMigrator *migrator, void *arg), void *arg)
{
	List	   *statements = trucker_sql_file_split(file, sql);
	Running		running = {migrator->session, file, NULL, 0, list_length(statements)};
	ErrorContextCallback callback = {error_context_stack, error_context, &running};
	ListCell   *lc;

	prepare(migrator, migrator->session);
	execute(migrator->session, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
	bookkeeping(migrator, arg);
	error_context_stack = &callback;
	foreach(lc, statements)
		run_statement(&running, lfirst(lc));
	running.statement = NULL;
	execute(migrator->session, "COMMIT");
	error_context_stack = callback.previous;
}

/* What is to be written of which migration. */
typedef struct Step
{
	TruckerMigration *migration;
	bool		up;
} Step;

static void
write_step(TruckerMigrator *migrator, void *arg)
{
	Step	   *step = arg;

	if (step->up)
		trucker_migration_write(migrator->session, migrator->connection, step->migration, "applied", 0, false);
	else
		trucker_migration_delete(migrator->session, migrator->connection, step->migration->version);
}

/*
 * Run a file statement by statement, each on its own.  They have a session of their own,
 * and what they set there lasts until the file's end.
 */
static void
run_without_transaction(TruckerMigrator *migrator, Step *step, const char *file, const char *sql)
{
	List	   *statements = trucker_sql_file_split(file, sql);
	Running		running = {open_session(migrator), file, NULL, 0, list_length(statements)};
	ErrorContextCallback callback = {error_context_stack, error_context, &running};
	const char *state = step->up ? "applying" : "rolling back";
	ListCell   *lc;

	trucker_migration_write(migrator->session, migrator->connection, step->migration, state, 0, !step->up);
	foreach(lc, statements)
	{
		error_context_stack = &callback;
		run_statement(&running, lfirst(lc));
		error_context_stack = callback.previous;
		trucker_migration_write(migrator->session, migrator->connection, step->migration, state, running.number, true);
	}
	trucker_sql_session_close(running.session);
	if (step->up)
		trucker_migration_write(migrator->session, migrator->connection, step->migration, "applied", 0, true);
	else
		write_step(migrator, step);
}

static void
run_step(TruckerMigrator *migrator, Step *step)
{
	const char *file = step->up ? step->migration->up_file : step->migration->down_file;
	const char *sql = step->up ? step->migration->up_text : step->migration->down_text;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker migration", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	if (trucker_sql_file_without_transaction(sql))
		run_without_transaction(migrator, step, file, sql);
	else
		trucker_migrator_run(migrator, file, sql, write_step, step);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	ereport(NOTICE,
			(errmsg("connection \"%s\": migration %s is %s", migrator->connection,
					trucker_migration_label(step->migration), step->up ? "applied" : "rolled back")));
	trucker_stop_point("migration: file done");
}

/* ----
 * All of them
 * ----
 */

static void
raise_problems(const TruckerMigrations *migrations, List *problems)
{
	StringInfoData detail;
	ListCell   *lc;

	if (problems == NIL)
		return;
	initStringInfo(&detail);
	foreach(lc, problems)
		appendStringInfo(&detail, "%s%s", detail.len > 0 ? "\n" : "", (char *) lfirst(lc));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the migrations of connection \"%s\" are not as they must be", migrations->connection),
			 errdetail_internal("%s", detail.data),
			 errhint("Put the files right.  Of a version that the database should take for applied, with its file as it is now, "
					 "or should forget: CALL trucker.mark_migration(%s, '<version>', true), or false.  Nothing is run by that.",
					 quote_literal_cstr(migrations->connection))));
}

static char *
problem_of(const TruckerMigration *migration)
{
	return psprintf("%s: %s", trucker_migration_label(migration), trucker_migration_detail(migration));
}

/* Raises an error that names all that keeps migrations from being run. */
void
trucker_migrate_check(const TruckerMigrations *migrations)
{
	List	   *problems = list_copy(migrations->problems);
	ListCell   *lc;

	foreach(lc, migrations->all)
		if (trucker_migration_detail(lfirst(lc)))
			problems = lappend(problems, problem_of(lfirst(lc)));
	raise_problems(migrations, problems);
}

/* No error: many a migration cannot be undone.  But one should know. */
static void
warn_of_missing_down(const TruckerMigrations *migrations)
{
	StringInfoData missing;
	ListCell   *lc;

	initStringInfo(&missing);
	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->state == TRUCKER_MIGRATION_PENDING && migration->down_file == NULL)
			appendStringInfo(&missing, "%s%s", missing.len > 0 ? ", " : "", trucker_migration_label(migration));
	}
	if (missing.len > 0)
		ereport(WARNING,
				(errmsg("migrations without a \"_down.sql\" cannot be rolled back: %s", missing.data)));
}

/* Run what is pending; how many there were.  The rows have been read, under the lock. */
int
trucker_migrate_up(TruckerMigrator *migrator, TruckerMigrations *migrations)
{
	int			done = 0;
	ListCell   *lc;

	trucker_migrate_check(migrations);
	warn_of_missing_down(migrations);
	foreach(lc, migrations->all)
	{
		Step		step = {lfirst(lc), true};

		if (step.migration->state != TRUCKER_MIGRATION_PENDING)
			continue;
		run_step(migrator, &step);
		step.migration->state = TRUCKER_MIGRATION_APPLIED;
		done++;
	}
	return done;
}

/* Undo the newest ones; how many. */
int
trucker_migrate_down(TruckerMigrator *migrator, TruckerMigrations *migrations, int steps)
{
	List	   *problems = list_copy(migrations->problems);
	List	   *chosen = NIL;
	ListCell   *lc;

	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->state == TRUCKER_MIGRATION_UNFINISHED)
			problems = lappend(problems, problem_of(migration));
		if (migration->recorded)
			chosen = lcons(migration, chosen);
	}
	if (list_length(chosen) < steps)
		problems = lappend(problems, psprintf("%d are to be rolled back, and only %d are applied", steps, list_length(chosen)));
	chosen = list_truncate(chosen, steps);
	foreach(lc, chosen)
		if (((TruckerMigration *) lfirst(lc))->down_file == NULL)
			problems = lappend(problems, psprintf("%s: there is no %s_down.sql",
												  trucker_migration_label(lfirst(lc)), trucker_migration_label(lfirst(lc))));
	raise_problems(migrations, problems);
	foreach(lc, chosen)
	{
		Step		step = {lfirst(lc), false};

		run_step(migrator, &step);
		step.migration->recorded = false;
		step.migration->state = TRUCKER_MIGRATION_PENDING;
	}
	return list_length(chosen);
}

/* Bring a database that is not connected to yet up to date, with the files that were read. */
void
trucker_migrate_all(TruckerMigrator *migrator, TruckerMigrations *migrations)
{
	trucker_migrator_open(migrator);
	trucker_migrations_make_table(migrator->session);
	trucker_migrations_read_rows(migrations, migrator->session);
	(void) trucker_migrate_up(migrator, migrations);
	trucker_migrator_close(migrator);
}
