/*
 * migrate.h
 *	  Run migrations.
 */
#ifndef TRUCKER_MIGRATE_H
#define TRUCKER_MIGRATE_H

#include "checklist.h"
#include "migration.h"
#include "truck.h"

/* A session in which a connection's migrations run, under their lock. */
typedef struct TruckerMigrator
{
	char	   *connection;		/* as the project calls it */
	Oid			role;
	Oid			database;		/* of this server, unless remote */
	TruckerConnection *remote;	/* NULL: a database of this server */
	TruckerSqlSession *session;
	char	   *prepare_sql;	/* settings for a file */
} TruckerMigrator;

/* in migrate.c */
extern TruckerMigrator *trucker_migrator_create(const char *dir, const char *connection, Oid role);
extern TruckerMigrator *trucker_migrator_create_in(Oid database, const char *connection, Oid role);
extern void trucker_migrator_open(TruckerMigrator *migrator);
extern void trucker_migrator_close(TruckerMigrator *migrator);
extern void trucker_migrator_run(TruckerMigrator *migrator, const char *file, const char *sql,
								 void (*bookkeeping) (TruckerMigrator *migrator, void *arg), void *arg);
extern void trucker_migrate_check(const TruckerMigrations *migrations);
extern void trucker_migrate_all(TruckerMigrator *migrator, TruckerMigrations *migrations);
extern int	trucker_migrate_up(TruckerMigrator *migrator, TruckerMigrations *migrations);
extern int	trucker_migrate_down(TruckerMigrator *migrator, TruckerMigrations *migrations, int steps);

/* in schema_file.c */
extern char *trucker_schema_file(const char *connection);
extern void trucker_schema_file_write(TruckerMigrator *migrator, const TruckerMigrations *migrations);
extern void trucker_schema_file_try_write(TruckerMigrator *migrator, const TruckerMigrations *migrations);

/* in schema_load.c */
extern void trucker_schema_load(TruckerMigrator *migrator, const char *dir);

/* in migrate_start.c */
extern void trucker_migrations_before_start(List *trucks);
extern void trucker_migrations_check_list(TruckerChecklist *list, List *trucks);
extern bool trucker_migrations_leads_here(const char *dir, const char *connection);

#endif							/* TRUCKER_MIGRATE_H */
