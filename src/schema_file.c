/*
 * schema_file.c
 *	  migrate/<connection>_schema.sql: what the migrated database is, for people and for load_schema().
 *
 * It is what pg_dump of this server's version says of the schema, without what differs
 * from one dump to the next (versions, the random keys of \restrict), what belongs to one
 * installation (owners, tablespaces, the foreign servers that are connections), and what
 * is nobody's business: user mappings and subscriptions hold passwords.  The migrations
 * that are in it stand at its end.  Rights stay: without them a database that was set up from
 * the file would be another one.
 *
 * The file's statements are told apart by our own lexer, not by pg_dump's comments, which
 * the body of a function may imitate.
 *
 * pg_dump is given its connection in its environment: command lines are for all to see.
 * To this database it connects as trucker does for replication, since we do not know the
 * caller's password; a schema is no secret, but for what is left out.
 */
#include "trucker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "checklist.h"
#include "child.h"
#include "migrate.h"
#include "project_files.h"
#include "replication.h"
#include "sql_file.h"

/* so long pg_dump waits for each lock */
#define LOCK_WAIT "30s"

/* The file's name in the project. */
char *
trucker_schema_file(const char *connection)
{
	return psprintf("%s/%s_schema.sql", TRUCKER_MIGRATE_FOLDER, connection);
}

/* ----
 * pg_dump
 * ----
 */

static char *
pg_dump_path(void)
{
	char		path[MAXPGPATH];

	strlcpy(path, my_exec_path, sizeof(path));
	get_parent_directory(path);
	return psprintf("%s/pg_dump", path);
}

/* The variable that libpq reads a keyword from; NULL: there is none. */
static const char *
variable_of(const PQconninfoOption *known, const char *keyword, bool *secret)
{
	*secret = false;
	for (; known->keyword; known++)
		if (strcmp(known->keyword, keyword) == 0)
		{
			*secret = known->dispchar[0] == '*';
			return known->envvar;
		}
	return NULL;
}

/* Keywords and values become the environment of a program; those without a variable, a connection string. */
static List *
make_environment(List *parameters, StringInfo conninfo)
{
	PQconninfoOption *known = PQconndefaults();
	List	   *environment = list_make1("LC_ALL=C");

	if (known == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	for (int i = 0; i < list_length(parameters); i += 2)
	{
		const char *keyword = list_nth(parameters, i);
		const char *value = list_nth(parameters, i + 1);
		bool		secret;
		const char *variable = variable_of(known, keyword, &secret);

		if (variable)
			environment = lappend(environment, psprintf("%s=%s", variable, value));
		else if (!secret)
		{
			appendStringInfo(conninfo, "%s%s='", conninfo->len > 0 ? " " : "", keyword);
			for (; *value; value++)
			{
				if (*value == '\'' || *value == '\\')
					appendStringInfoChar(conninfo, '\\');
				appendStringInfoChar(conninfo, *value);
			}
			appendStringInfoChar(conninfo, '\'');
		}
		else
		{
			PQconninfoFree(known);
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("pg_dump cannot be given the option \"%s\" in secret", keyword),
					 errhint("Use a key without a password.")));
		}
	}
	PQconninfoFree(known);
	return environment;
}

static char **
to_array(List *list)
{
	char	  **array = palloc0((list_length(list) + 1) * sizeof(char *));
	ListCell   *lc;

	foreach(lc, list)
		array[foreach_current_index(lc)] = lfirst(lc);
	return array;
}

/* Whereto, and as whom; as our own session, which has been checked: another look at the name service might lead elsewhere. */
static List *
connection_parameters(const TruckerMigrator *migrator)
{
	PGconn	   *pg;
	List	   *parameters;

	if (migrator->remote == NULL)
		return trucker_own_server_parameters(get_database_name(MyDatabaseId));
	pg = trucker_sql_session_conn(migrator->session)->pg;
	parameters = trucker_connection_parameters(migrator->remote);
	for (int i = 0; i < list_length(parameters); i += 2)
	{
		const char *keyword = list_nth(parameters, i);

		if (strcmp(keyword, "host") == 0 && PQhost(pg))
			lfirst(list_nth_cell(parameters, i + 1)) = pstrdup(PQhost(pg));
		else if (strcmp(keyword, "port") == 0 && PQport(pg))
			lfirst(list_nth_cell(parameters, i + 1)) = pstrdup(PQport(pg));
		else if (strcmp(keyword, "hostaddr") == 0)
			lfirst(list_nth_cell(parameters, i)) = "fallback_application_name";
	}
	if (PQhostaddr(pg) && PQhostaddr(pg)[0])
		parameters = lappend(lappend(parameters, "hostaddr"), pstrdup(PQhostaddr(pg)));
	return parameters;
}

/* A schema's name as a pattern that means itself. */
static char *
exclude_schema(const char *name)
{
	StringInfoData argument;

	initStringInfo(&argument);
	appendStringInfoString(&argument, "--exclude-schema=\"");
	for (; *name; name++)
	{
		if (*name == '"')
			appendStringInfoChar(&argument, '"');
		appendStringInfoChar(&argument, *name);
	}
	appendStringInfoChar(&argument, '"');
	return argument.data;
}

static char *
dump(const TruckerMigrator *migrator)
{
	char	   *path = pg_dump_path();
	List	   *arguments = list_make5("pg_dump", "--schema-only", "--no-owner", "--no-tablespaces", "--no-subscriptions");
	List	   *environment;
	StringInfoData conninfo;
	StringInfoData output;
	StringInfoData errors;
	int			status;

	if (access(path, X_OK) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("there is no program \"%s\"", path),
				 errhint("Install the client programs of this server's version.")));
	initStringInfo(&conninfo);
	initStringInfo(&output);
	initStringInfo(&errors);
	environment = make_environment(connection_parameters(migrator), &conninfo);
	/* as the server itself was started, with libraries of its own */
	if (getenv("LD_LIBRARY_PATH"))
		environment = lappend(environment, psprintf("LD_LIBRARY_PATH=%s", getenv("LD_LIBRARY_PATH")));
	/* to another server with nothing of the operating system user's */
	if (migrator->remote)
		environment = lappend(environment, "HOME=/dev/null/none");
	arguments = lappend(arguments, "--encoding=UTF8");
	arguments = lappend(arguments, "--no-password");
	arguments = lappend(arguments, "--lock-wait-timeout=" LOCK_WAIT);
	arguments = lappend(arguments, exclude_schema("trucker_migrations"));
	if (migrator->remote)
		arguments = lappend(arguments, exclude_schema(migrator->remote->position_schema));
	if (conninfo.len > 0)
		arguments = lappend(arguments, psprintf("--dbname=%s", conninfo.data));
	status = trucker_child_run(path, to_array(arguments), to_array(environment), &output, &errors);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("pg_dump has failed"),
				 errdetail_internal("%s", pchomp(migrator->remote ?
												 trucker_connection_clean_output(migrator->remote, "pg_dump", errors.data) :
												 errors.data))));
	return output.data;
}

/* ----
 * What is kept of it
 * ----
 */

/*
 * Newer releases of pg_dump put psql under guard: "\restrict KEY" before the first statement,
 * "\unrestrict KEY" behind the last one.  The key is another one each time.
 */
static void
blank_guards(char *dump)
{
	char	   *line = dump;
	char	   *end;

	while (strncmp(line, "--", 2) == 0 || *line == '\n')
		line += strcspn(line, "\n") + 1;
	if (strncmp(line, "\\restrict ", 10) != 0)
		return;
	memset(line, ' ', strcspn(line, "\n"));
	for (end = dump + strlen(dump); end > line; end--)
		if (strncmp(end, "\n\\unrestrict ", 13) == 0)
		{
			memset(end + 1, ' ', strcspn(end + 1, "\n"));
			return;
		}
}

/* The name of a server that CREATE SERVER makes as a connection, as it is written; NULL: it does not. */
static char *
connection_made(const TruckerSqlStatement *statement)
{
	const char *wrapper = strstr(statement->sql, " FOREIGN DATA WRAPPER trucker");
	const char *name = statement->sql + strlen("CREATE SERVER ");

	if (!trucker_sql_begins(statement, "create server") || wrapper == NULL)
		return NULL;
	return pnstrdup(name, name[0] == '"' ? strcspn(name + 1, "\"") + 2 : strcspn(name, " "));
}

/* A right or a comment on a connection. */
static bool
is_about(const TruckerSqlStatement *statement, List *connections)
{
	const char *server = strstr(statement->sql, " SERVER ");
	ListCell   *lc;

	if (server == NULL || !(trucker_sql_begins(statement, "comment on server") ||
							strcmp(statement->words[0], "grant") == 0 || strcmp(statement->words[0], "revoke") == 0))
		return false;
	foreach(lc, connections)
	{
		size_t		len = strlen(lfirst(lc));

		if (strncmp(server + strlen(" SERVER "), lfirst(lc), len) == 0 && server[strlen(" SERVER ") + len] == ' ')
			return true;
	}
	return false;
}

/* A connection and what is about one, or what must not be known. */
static bool
leave_out(const TruckerSqlStatement *statement, List **connections)
{
	static const char *const kinds[] = {"create user mapping", "alter user mapping", "create subscription", "alter subscription",
		"comment on subscription", "create extension if not exists trucker", "comment on extension"};
	char	   *connection = connection_made(statement);

	for (int i = 0; i < lengthof(kinds); i++)
		if (trucker_sql_begins(statement, kinds[i]))
			return true;
	if (connection)
		*connections = lappend(*connections, connection);
	return connection != NULL || is_about(statement, *connections);
}

/* The file: a head, the statements, the migrations that are in it. */
static char *
make_file(char *dump, const TruckerMigrations *migrations)
{
	StringInfoData file;
	bool		first = true;
	List	   *connections = NIL;
	ListCell   *lc;

	initStringInfo(&file);
	appendStringInfo(&file, "-- Schema of connection \"%s\" after its migrations, written by trucker: do not edit.\n"
					 "-- CALL trucker.load_schema(%s) sets up an empty database from it.\n",
					 migrations->connection, quote_literal_cstr(migrations->connection));
	blank_guards(dump);
	foreach(lc, trucker_sql_file_split("pg_dump", dump))
	{
		TruckerSqlStatement *statement = lfirst(lc);

		/* the comments before the first one tell versions */
		if (first)
			appendStringInfo(&file, "\n%.*s", statement->chunk_len - statement->offset, statement->chunk + statement->offset);
		else if (!leave_out(statement, &connections))
			appendBinaryStringInfo(&file, statement->chunk, statement->chunk_len);
		first = false;
	}
	appendStringInfoString(&file, "\n\n");
	foreach(lc, migrations->all)
	{
		TruckerMigration *migration = lfirst(lc);

		if (migration->state == TRUCKER_MIGRATION_APPLIED || migration->state == TRUCKER_MIGRATION_EDITED ||
			migration->state == TRUCKER_MIGRATION_MISSING)
			appendStringInfo(&file, "-- trucker: applied %s %s%s%s\n", migration->version,
							 migration->recorded_checksum ? migration->recorded_checksum : migration->checksum,
							 migration->name ? " " : "", migration->name ? migration->name : "");
	}
	return file.data;
}

/* ----
 * Writing
 * ----
 */

static void
raise_not_written(const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", path),
			 errhint("The server's operating system user must be able to write in that folder.")));
}

/* Whole or not at all: another file, which then takes the name. */
static void
write_file(const char *dir, const char *name, const char *text)
{
	char	   *path = trucker_project_path(dir, name);
	char	   *temporary = trucker_project_path(dir, psprintf("%s/.schema.%d.tmp", TRUCKER_MIGRATE_FOLDER, MyProcPid));
	size_t		len = strlen(text);
	struct stat st;
	/* the server's own files are closed to others, but people are to read this one */
	mode_t		mode = stat(path, &st) == 0 ? st.st_mode & 0777 : S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH;
	int			fd;

	if (unlink(temporary) != 0 && errno != ENOENT)
		raise_not_written(temporary);
	fd = OpenTransientFile(temporary, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY);
	if (fd < 0)
		raise_not_written(path);
	errno = 0;
	if (fchmod(fd, mode) != 0 || write(fd, text, len) != len || pg_fsync(fd) != 0 || CloseTransientFile(fd) != 0)
	{
		int			saved = errno ? errno : ENOSPC;

		(void) unlink(temporary);
		errno = saved;
		raise_not_written(path);
	}
	(void) durable_rename(temporary, path, ERROR);
}

/*
 * Write the file of the database that the migrator is connected to.  The current user
 * must be one who may write files of the server's.
 */
void
trucker_schema_file_write(TruckerMigrator *migrator, const TruckerMigrations *migrations)
{
	char	   *name = trucker_schema_file(migrations->connection);
	char	   *text;
	char	   *present;

	if (!has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to write file \"%s\" of the project", name),
				 errhint("A superuser may, and so may a member of pg_write_server_files.")));
	text = make_file(dump(migrator), migrations);
	if (strlen(text) > TRUCKER_MAX_PROJECT_FILE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the schema is too large for file \"%s\"", name),
				 errdetail("A file of a project has at most %d bytes.", TRUCKER_MAX_PROJECT_FILE)));
	present = trucker_project_file_kind(migrations->dir, name) == TRUCKER_FILE_REGULAR ?
		trucker_project_read(migrations->dir, name, true) : NULL;
	if (present == NULL || strcmp(present, text) != 0)
		write_file(migrations->dir, name, text);
}

typedef struct Write
{
	TruckerMigrator *migrator;
	const TruckerMigrations *migrations;
} Write;

static const char *
try_write(TruckerChecklist *list, void *arg)
{
	Write	   *write = arg;

	trucker_schema_file_write(write->migrator, write->migrations);
	return NULL;
}

/* The same after migrations: they are done, whatever becomes of the file. */
void
trucker_schema_file_try_write(TruckerMigrator *migrator, const TruckerMigrations *migrations)
{
	Write		write = {migrator, migrations};
	const char *ignored;
	ErrorData  *error = trucker_checklist_try(try_write, &write, &ignored);

	if (error)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("the migrations are done, but file \"%s\" is not written: %s",
						trucker_schema_file(migrations->connection), error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("%s%sCALL trucker.dump_schema(%s) writes it.", error->hint ? error->hint : "", error->hint ? "  " : "",
						 quote_literal_cstr(migrations->connection))));
}
