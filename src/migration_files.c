/*
 * migration_files.c
 *	  The files of a connection's migrations.
 *
 *	  migrate/<connection>/<version>_up.sql, <version>_down.sql
 *	  migrate/<connection>/<version>_<name>_up.sql, <version>_<name>_down.sql
 *
 * A version is a time, such as 2024-12-25T17:31:54, so the order of the bytes is the
 * order of the versions.  A name is there to be read and means nothing.
 *
 * All that is wrong with a folder is found before anything runs, and told at once: names
 * that mean nothing (a migration whose name has a slip would else be passed over in
 * silence), two files of one version, a way down without a way up, SQL that cannot be run
 * from a file.
 */
#include "trucker.h"

#include <ctype.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "migration.h"
#include "project_files.h"
#include "sql_file.h"

#define VERSION_LENGTH 19
#define UP "_up.sql"
#define DOWN "_down.sql"

/* Is it of the form 2024-12-25T17:31:54? */
bool
trucker_migration_is_version(const char *text, size_t len)
{
	static const char form[] = "dddd-dd-ddTdd:dd:dd";

	if (len != VERSION_LENGTH)
		return false;
	for (int i = 0; i < VERSION_LENGTH; i++)
		if (form[i] == 'd' ? !isdigit((unsigned char) text[i]) : text[i] != form[i])
			return false;
	return true;
}

/* What a file must still hold to be the one that was applied: the SHA-256 of its UTF-8, without a byte order mark. */
char *
trucker_migration_checksum(const char *sql)
{
	text	   *bytes = cstring_to_text(pg_server_to_any(sql, strlen(sql), PG_UTF8));

	return TextDatumGetCString(DirectFunctionCall2(binary_encode,
												   DirectFunctionCall1(sha256_bytea, PointerGetDatum(bytes)),
												   CStringGetTextDatum("hex")));
}

/* Version and name, for messages. */
char *
trucker_migration_label(const TruckerMigration *migration)
{
	return migration->name ? psprintf("%s_%s", migration->version, migration->name) : migration->version;
}

/* The migration of this version; NULL: there is none. */
TruckerMigration *
trucker_migration_find(const TruckerMigrations *migrations, const char *version)
{
	ListCell   *lc;

	foreach(lc, migrations->all)
		if (strcmp(((TruckerMigration *) lfirst(lc))->version, version) == 0)
			return lfirst(lc);
	return NULL;
}

static bool
ends_with(const char *text, const char *end)
{
	size_t		len = strlen(text);

	return len >= strlen(end) && strcmp(text + len - strlen(end), end) == 0;
}

/* Version and name of a file's name; false: it has no such form. */
static bool
parse_name(const char *file, size_t len, char **version, char **name)
{
	if (len < VERSION_LENGTH || !trucker_migration_is_version(file, VERSION_LENGTH))
		return false;
	*version = pnstrdup(file, VERSION_LENGTH);
	*name = NULL;
	if (len == VERSION_LENGTH)
		return true;
	if (file[VERSION_LENGTH] != '_' || len == VERSION_LENGTH + 1)
		return false;
	*name = pnstrdup(file + VERSION_LENGTH + 1, len - VERSION_LENGTH - 1);
	for (const char *p = *name; *p; p++)
		if (!isalnum((unsigned char) *p) && *p != '_' && *p != '-')
			return false;
	return true;
}

static void
add_problem(TruckerMigrations *migrations, char *problem)
{
	migrations->problems = lappend(migrations->problems, problem);
}

static void
take_file(TruckerMigrations *migrations, const char *folder, const char *file)
{
	bool		up = ends_with(file, UP);
	char	   *path = psprintf("%s/%s", folder, file);
	TruckerMigration *migration;
	char	  **place;
	char	   *version;
	char	   *name;

	if ((!up && !ends_with(file, DOWN)) ||
		!parse_name(file, strlen(file) - strlen(up ? UP : DOWN), &version, &name))
	{
		add_problem(migrations, psprintf("%s: the name is not of the form 2024-12-25T17:31:54_up.sql or ..._down.sql, with a name before _up and _down if you like", path));
		return;
	}
	if (trucker_project_file_kind(migrations->dir, path) != TRUCKER_FILE_REGULAR)
	{
		add_problem(migrations, psprintf("%s: it is not a regular file, or cannot be read", path));
		return;
	}
	migration = trucker_migration_find(migrations, version);
	if (migration == NULL)
	{
		migration = palloc0(sizeof(TruckerMigration));
		migration->version = version;
		migration->name = name;
		migrations->all = lappend(migrations->all, migration);
	}
	place = up ? &migration->up_file : &migration->down_file;
	if (*place)
		add_problem(migrations, psprintf("%s: %s has the same version", path, *place));
	else if ((name == NULL) != (migration->name == NULL) || (name && strcmp(name, migration->name) != 0))
		add_problem(migrations, psprintf("%s: %s has the same version, and another name", path,
										 up ? migration->down_file : migration->up_file));
	else
		*place = path;
}

/* The file's text, and what is wrong with its SQL. */
static char *
read_sql(TruckerMigrations *migrations, const char *file)
{
	MemoryContext old = CurrentMemoryContext;
	char	   *text = trucker_project_read(migrations->dir, file, false);
	List	   *statements = NIL;
	ListCell   *lc;

	/* the lexer takes nothing that an error would have to give back */
	PG_TRY();
	{
		statements = trucker_sql_file_split(file, text);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_SYNTAX_ERROR)
			PG_RE_THROW();
		FlushErrorState();
		add_problem(migrations, psprintf("%s: %s", error->context ? error->context : file, error->message));
	}
	PG_END_TRY();
	foreach(lc, statements)
	{
		TruckerSqlStatement *statement = lfirst(lc);

		if (statement->problem)
			add_problem(migrations, psprintf("file \"%s\", line %d: %s", file, statement->line, statement->problem));
	}
	return text;
}

static int
compare_versions(const ListCell *a, const ListCell *b)
{
	return strcmp(((TruckerMigration *) lfirst(a))->version, ((TruckerMigration *) lfirst(b))->version);
}

static char *
folder_of(const char *connection)
{
	if (connection[0] == '\0' || connection[0] == '.' || strchr(connection, '/'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("a connection called \"%s\" can have no folder", connection)));
	return psprintf("%s/%s", TRUCKER_MIGRATE_FOLDER, connection);
}

/* Has the project a folder of migrations for this connection? */
bool
trucker_migrations_exist(const char *dir, const char *connection)
{
	if (connection[0] == '\0' || connection[0] == '.' || strchr(connection, '/'))
		return false;
	return trucker_project_file_kind(dir, folder_of(connection)) != TRUCKER_FILE_NONE;
}

/*
 * The migrations of which there are files, in the current memory context.  What is wrong
 * with them is in problems; only what cannot be read raises an error.
 */
TruckerMigrations *
trucker_migrations_read_files(const char *dir, const char *connection)
{
	TruckerMigrations *migrations = palloc0(sizeof(TruckerMigrations));
	char	   *folder = folder_of(connection);
	ListCell   *lc;

	migrations->connection = pstrdup(connection);
	migrations->dir = pstrdup(dir);
	foreach(lc, trucker_project_list(dir, folder, true))
		take_file(migrations, folder, lfirst(lc));
	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->up_file)
		{
			migration->up_text = read_sql(migrations, migration->up_file);
			migration->checksum = trucker_migration_checksum(migration->up_text);
		}
		else
			add_problem(migrations, psprintf("%s: there is no %s_up.sql", migration->down_file, trucker_migration_label(migration)));
		if (migration->down_file)
			migration->down_text = read_sql(migrations, migration->down_file);
	}
	list_sort(migrations->all, compare_versions);
	return migrations;
}
