/*
 * migration.h
 *	  Migrations of a connection: their files, and what the database there says of them.
 */
#ifndef TRUCKER_MIGRATION_H
#define TRUCKER_MIGRATION_H

#include "nodes/pg_list.h"

#include "sql_session.h"

/* the folder of all connections' migrations in a project */
#define TRUCKER_MIGRATE_FOLDER "migrate"

/* What is to be said of a migration, as trucker.migrations shows it. */
typedef enum TruckerMigrationState
{
	TRUCKER_MIGRATION_APPLIED,
	TRUCKER_MIGRATION_PENDING,
	TRUCKER_MIGRATION_OUT_OF_ORDER, /* pending, and a newer one has been applied */
	TRUCKER_MIGRATION_EDITED,	/* applied, and the file is another one now */
	TRUCKER_MIGRATION_MISSING,	/* applied, and there is no file */
	TRUCKER_MIGRATION_UNFINISHED	/* statement by statement, and not all of them */
} TruckerMigrationState;

typedef struct TruckerMigration
{
	char	   *version;
	char	   *name;			/* NULL: none */
	TruckerMigrationState state;

	/* files, by their names in the project; NULL: there is none */
	char	   *up_file;
	char	   *up_text;
	char	   *checksum;		/* of up_text */
	char	   *down_file;
	char	   *down_text;

	/* the row in the database there */
	bool		recorded;
	char	   *recorded_checksum;
	char	   *recorded_state;	/* applied, applying, rolling back */
	char	   *applied_at;
	int			statements;		/* done, while it is not applied */
} TruckerMigration;

typedef struct TruckerMigrations
{
	char	   *connection;
	char	   *dir;			/* the project */
	List	   *all;			/* of TruckerMigration *, in the order of the versions */
	List	   *problems;		/* of char *: what is wrong with the folder */
} TruckerMigrations;

/* in migration_files.c */
extern TruckerMigrations *trucker_migrations_read_files(const char *dir, const char *connection);
extern bool trucker_migrations_exist(const char *dir, const char *connection);
extern bool trucker_migration_is_version(const char *text, size_t len);
extern char *trucker_migration_checksum(const char *sql);
extern char *trucker_migration_label(const TruckerMigration *migration);
extern TruckerMigration *trucker_migration_find(const TruckerMigrations *migrations, const char *version);

/* in migration_rows.c */
extern void trucker_migrations_read_rows(TruckerMigrations *migrations, TruckerSqlSession *session);
extern void trucker_migrations_make_table(TruckerSqlSession *session);
extern void trucker_migration_write(TruckerSqlSession *session, const char *connection, const TruckerMigration *migration, const char *state, int statements, bool replace);
extern void trucker_migration_delete(TruckerSqlSession *session, const char *connection, const char *version);
extern const char *trucker_migration_state_name(TruckerMigrationState state);
extern char *trucker_migration_detail(const TruckerMigration *migration);

#endif							/* TRUCKER_MIGRATION_H */
