/*
 * migrate_start.c
 *	  start() and migrations: a truck does not start while its connection has pending ones.
 *
 * Its SQL was written for the schema that the project's files lead to.  start() tries that
 * SQL at the destination before anything runs, so a connection with "migrate: auto" is
 * migrated by start() itself, before those checks: a worker that did it later would come
 * too late.  That happens in a session of its own, which commits by itself: should start()
 * fail or be rolled back, the migrations stay, as if migrate() had been called before.
 *
 * start() has a snapshot, and perhaps locks, which it cannot let go of.  SQL that waits for
 * one of them is found out (sql_session.c) and fails; migrations that run without a
 * transaction are left to migrate() from the beginning.  The schema file is not written: a
 * project that is deployed comes with it.
 *
 * Whoever starts a truck need not be one who may read the server's files: what he is told
 * of them are names of migrations.  Running them takes that right, as in migrate().
 */
#include "trucker.h"

#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "checklist.h"
#include "migrate.h"
#include "project.h"
#include "project_files.h"
#include "sql_file.h"
#include "truck.h"

/* What start() and check() ask of a connection. */
typedef struct Question
{
	const char *dir;
	const char *folder;			/* the connection, as the project calls it */
	const char *connection;		/* as the truck does */
	Oid			role;			/* the truck's */
	bool		automatic;
} Question;

/* The project's connection of this name, if its trucker.yml can be read and has one. */
static TruckerProjectConnection *
project_connection(const TruckerProject *project, const char *name)
{
	return project->readable ? trucker_project_connection(project, name) : NULL;
}

/* Does the project say that this connection leads to this very database? */
bool
trucker_migrations_leads_here(const char *dir, const char *connection)
{
	TruckerProjectConnection *found = project_connection(trucker_project_read_folder(dir), connection);

	return found != NULL && trucker_project_is_here(found);
}

/* ----
 * One connection
 * ----
 */

/* Files, and what the truck's role can read of the rows. */
static TruckerMigrations *
look(const Question *question)
{
	TruckerMigrations *migrations = trucker_migrations_read_files(question->dir, question->folder);
	TruckerSqlSession *session = NULL;

	if (!trucker_connection_is_local(question->connection))
		session = trucker_sql_session_remote(trucker_connection_load(question->connection, question->role), "trucker start", false);
	trucker_migrations_read_rows(migrations, session);
	if (session)
		trucker_sql_session_close(session);
	return migrations;
}

/* The names of those that must be applied before trucks may run; NULL: none. */
static char *
list_pending(const TruckerMigrations *migrations)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->state == TRUCKER_MIGRATION_PENDING || migration->state == TRUCKER_MIGRATION_OUT_OF_ORDER ||
			migration->state == TRUCKER_MIGRATION_UNFINISHED)
			appendStringInfo(&names, "%s%s%s", names.len > 0 ? ", " : "", trucker_migration_label(migration),
							 migration->state == TRUCKER_MIGRATION_PENDING ? "" :
							 psprintf(" (%s)", trucker_migration_state_name(migration->state)));
	}
	return names.len > 0 ? names.data : NULL;
}

static void
raise_pending(const Question *question, const char *pending, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("connection \"%s\" has pending migrations", question->folder),
			 errdetail("Of the project in \"%s\" these are not applied: %s.%s", question->dir, pending, why),
			 errhint("CALL trucker.migrate(%s);", quote_literal_cstr(question->folder))));
}

static bool
runs_without_transaction(const TruckerMigrations *migrations)
{
	ListCell   *lc;

	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->state == TRUCKER_MIGRATION_PENDING && trucker_sql_file_without_transaction(migration->up_text))
			return true;
	}
	return false;
}

/* As migrate(), but within the caller's transaction. */
static void
migrate(const Question *question)
{
	TruckerMigrator *migrator = trucker_migrator_create(question->dir, question->folder, GetUserId());
	TruckerMigrations *migrations = trucker_migrations_read_files(question->dir, question->folder);

	trucker_migrate_all(migrator, migrations);
}

static void
before_start(const Question *question)
{
	TruckerMigrations *migrations = look(question);
	char	   *pending = list_pending(migrations);

	if (pending == NULL)
		return;
	if (!question->automatic)
		raise_pending(question, pending, "");
	if (!trucker_project_may_read())
		raise_pending(question, pending, "  Whoever has them run must be one who may read the server's files.");
	if (runs_without_transaction(migrations))
		raise_pending(question, pending, "  Among them are some that run without a transaction, which start() cannot wait for.");
	migrate(question);
}

static const char *
check(TruckerChecklist *list, void *arg)
{
	const Question *question = arg;
	char	   *pending = list_pending(look(question));

	if (pending && !question->automatic)
		raise_pending(question, pending, "");
	return pending ? psprintf("start() runs %s", pending) : "all are applied";
}

/* ----
 * All connections of some trucks
 * ----
 */

/* The project's connections that have migrations, and by which one a truck writes. */
static List *
questions_of(const TruckerProject *project, const TruckerTruck *truck)
{
	List	   *questions = NIL;
	ListCell   *lc;

	foreach(lc, trucker_project_list(project->dir, TRUCKER_MIGRATE_FOLDER, true))
	{
		const char *folder = lfirst(lc);
		TruckerProjectConnection *connection = project_connection(project, folder);
		Question   *question;

		if (trucker_project_file_kind(project->dir, psprintf("%s/%s", TRUCKER_MIGRATE_FOLDER, folder)) != TRUCKER_FILE_FOLDER)
			continue;
		/* what leads here has become "local" in the truck */
		if (strcmp(folder, truck->connection) != 0 &&
			!(trucker_connection_is_local(truck->connection) && connection &&
			  GetForeignServerByName(folder, true) == NULL && trucker_project_is_here(connection)))
			continue;
		question = palloc0(sizeof(Question));
		question->dir = project->dir;
		question->folder = folder;
		question->connection = truck->connection;
		question->role = truck->role;
		question->automatic = connection && connection->migrate_auto;
		questions = lappend(questions, question);
	}
	return questions;
}

/* The project, if there is one and it has migrations. */
static TruckerProject *
project_with_migrations(void)
{
	char	   *dir;

	if (trucker_project_dir_setting == NULL || trucker_project_dir_setting[0] == '\0')
		return NULL;
	dir = trucker_project_dir(NULL);
	if (trucker_project_file_kind(dir, TRUCKER_MIGRATE_FOLDER) != TRUCKER_FILE_FOLDER)
		return NULL;
	return trucker_project_read_folder(dir);
}

/*
 * What the connections of trucks (TruckerTruck *) that are to be started lack is run, or
 * raises an error that names it.
 */
void
trucker_migrations_before_start(List *trucks)
{
	TruckerProject *project = project_with_migrations();
	List	   *done = NIL;
	ListCell   *lc;

	foreach(lc, trucks)
	{
		ListCell   *lc2;

		if (project == NULL)
			break;
		foreach(lc2, questions_of(project, lfirst(lc)))
		{
			Question   *question = lfirst(lc2);
			String	   *folder = makeString(pstrdup(question->folder));

			if (list_member(done, folder))
				continue;
			before_start(question);
			done = lappend(done, folder);
		}
	}
}

/* The project, kept for the checks after this one. */
typedef struct ProjectCheck
{
	MemoryContext context;
	TruckerProject *project;
} ProjectCheck;

static const char *
check_project(TruckerChecklist *list, void *arg)
{
	ProjectCheck *check = arg;
	MemoryContext old = MemoryContextSwitchTo(check->context);

	check->project = project_with_migrations();
	MemoryContextSwitchTo(old);
	return check->project ? "it has migrations" : "it has no migrations";
}

/* For check(): tell what start() would say of the connections of trucks (TruckerTruck *). */
void
trucker_migrations_check_list(TruckerChecklist *list, List *trucks)
{
	ProjectCheck project = {CurrentMemoryContext, NULL};
	List	   *done = NIL;
	ListCell   *lc;

	if (trucker_project_dir_setting == NULL || trucker_project_dir_setting[0] == '\0')
		return;
	(void) trucker_checklist_run(list, "project", check_project, &project);
	foreach(lc, trucks)
	{
		ListCell   *lc2;

		if (project.project == NULL)
			break;
		foreach(lc2, questions_of(project.project, lfirst(lc)))
		{
			Question   *question = lfirst(lc2);
			String	   *folder = makeString(pstrdup(question->folder));

			if (list_member(done, folder))
				continue;
			(void) trucker_checklist_run(list, psprintf("migrations of connection \"%s\"", question->folder), check, question);
			done = lappend(done, folder);
		}
	}
}
