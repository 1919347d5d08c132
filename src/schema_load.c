/*
 * schema_load.c
 *	  Set up an empty database from migrate/<connection>_schema.sql.
 *
 * In one transaction: the file's statements, and the rows of the migrations that the file
 * says are in it; so what is pending then is what is newer than the file.  A database that
 * is not empty is left alone, and what is in it named.
 */
#include "trucker.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "migrate.h"
#include "project_files.h"
#include "sql_file.h"

#define APPLIED "-- trucker: applied "
#define CHECKSUM_LENGTH 64
#define MAX_NAMED 10

/* What stands behind the last statement; a function's body may hold anything. */
static const char *
end_of_statements(const char *file, const char *sql)
{
	List	   *statements = trucker_sql_file_split(file, sql);
	TruckerSqlStatement *last = statements ? llast(statements) : NULL;

	return last ? last->chunk + last->chunk_len : sql;
}

/* The migrations (TruckerMigration *) that the file says are in it. */
static List *
read_versions(const char *file, const char *sql)
{
	List	   *versions = NIL;

	for (const char *line = end_of_statements(file, sql); *line;)
	{
		size_t		len = strcspn(line, "\n");
		char	   *fields = pnstrdup(line, len);

		if (strncmp(fields, APPLIED, strlen(APPLIED)) == 0)
		{
			TruckerMigration *migration = palloc0(sizeof(TruckerMigration));
			char	   *version = strtok(fields + strlen(APPLIED), " \r");
			char	   *checksum = strtok(NULL, " \r");

			if (version == NULL || !trucker_migration_is_version(version, strlen(version)) ||
				checksum == NULL || strlen(checksum) != CHECKSUM_LENGTH)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("file \"%s\": invalid entry of a migration: %s", file, pnstrdup(line, len)),
						 errhint("The file is written by trucker: take it from where it was written last.")));
			migration->version = version;
			migration->checksum = checksum;
			migration->name = strtok(NULL, " \r");
			versions = lappend(versions, migration);
		}
		line += len + (line[len] == '\n' ? 1 : 0);
	}
	return versions;
}

/* Objects that are neither the server's, nor an extension's, nor trucker's. */
static void
refuse_what_is_there(TruckerMigrator *migrator)
{
	const char *positions = migrator->remote ? migrator->remote->position_schema : "trucker_migrations";
	char	   *sql = psprintf("WITH space AS (SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n WHERE n.nspname !~ '^pg_' "
							   "AND n.nspname NOT IN ('information_schema', 'trucker_migrations', %s)), "
							   "object (class, id, what) AS ("
							   "SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 'table ' || c.oid::pg_catalog.regclass::text "
							   "FROM pg_catalog.pg_class AS c JOIN space ON space.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'S', 'f', 'p') "
							   "UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 'function ' || p.oid::pg_catalog.regprocedure::text "
							   "FROM pg_catalog.pg_proc AS p JOIN space ON space.oid = p.pronamespace "
							   "UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 'type ' || t.oid::pg_catalog.regtype::text "
							   "FROM pg_catalog.pg_type AS t JOIN space ON space.oid = t.typnamespace "
							   "LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid "
							   "WHERE t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c' "
							   "UNION ALL SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, space.oid, 'schema ' || pg_catalog.quote_ident(space.nspname) "
							   "FROM space WHERE space.nspname <> 'public') "
							   "SELECT what FROM object WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = object.class "
							   "AND d.objid = object.id AND d.deptype = 'e') ORDER BY what COLLATE \"C\"",
							   quote_literal_cstr(positions));
	List	   *rows = trucker_sql_session_execute(migrator->session, sql, true);
	StringInfoData names;
	ListCell   *lc;

	if (rows == NIL)
		return;
	initStringInfo(&names);
	foreach(lc, rows)
		if (foreach_current_index(lc) < MAX_NAMED)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", ((TruckerSqlRow *) lfirst(lc))->values[0]);
	if (list_length(rows) > MAX_NAMED)
		appendStringInfo(&names, " and %d more", list_length(rows) - MAX_NAMED);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the database of connection \"%s\" is not empty", migrator->connection),
			 errdetail("There are: %s.", names.data),
			 errhint("Migrations that are pending in it are run by CALL trucker.migrate(%s).",
					 quote_literal_cstr(migrator->connection))));
}

static void
write_rows(TruckerMigrator *migrator, void *arg)
{
	ListCell   *lc;

	foreach(lc, (List *) arg)
		trucker_migration_write(migrator->session, migrator->connection, lfirst(lc), "applied", 0, false);
}

static void
refuse_recorded(TruckerMigrator *migrator, const TruckerMigrations *migrations)
{
	ListCell   *lc;

	foreach(lc, migrations->all)
		if (((TruckerMigration *) lfirst(lc))->recorded)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the database of connection \"%s\" has migrations already", migrator->connection),
					 errdetail("Migration %s is recorded there.", trucker_migration_label(lfirst(lc)))));
}

/* Set up the database that the migrator is connected to. */
void
trucker_schema_load(TruckerMigrator *migrator, const char *dir)
{
	char	   *file = trucker_schema_file(migrator->connection);
	char	   *sql = trucker_project_read(dir, file, true);
	TruckerMigrations *migrations = trucker_migrations_read_files(dir, migrator->connection);
	List	   *versions;
	int			pending = 0;
	ListCell   *lc;

	if (sql == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("the project has no file \"%s\"", file),
				 errhint("CALL trucker.dump_schema(%s) writes it, where the database is one that has been migrated; "
						 "an empty one is set up by CALL trucker.migrate(%s) as well.",
						 quote_literal_cstr(migrator->connection), quote_literal_cstr(migrator->connection))));
	versions = read_versions(file, sql);
	refuse_what_is_there(migrator);
	trucker_migrations_make_table(migrator->session);
	trucker_migrations_read_rows(migrations, migrator->session);
	refuse_recorded(migrator, migrations);
	trucker_migrator_run(migrator, file, sql, write_rows, versions);

	migrations = trucker_migrations_read_files(dir, migrator->connection);
	trucker_migrations_read_rows(migrations, migrator->session);
	foreach(lc, migrations->all)
		pending += ((TruckerMigration *) lfirst(lc))->state != TRUCKER_MIGRATION_APPLIED ? 1 : 0;
	ereport(NOTICE,
			(errmsg("connection \"%s\": the schema is loaded, with %d migrations", migrator->connection, list_length(versions)),
			 pending > 0 ? errhint("%d more are to be looked at: SELECT * FROM trucker.migrations; then CALL trucker.migrate(%s);",
								   pending, quote_literal_cstr(migrator->connection)) : 0));
}
