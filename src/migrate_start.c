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

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "migrate.h"
#include "project_files.h"
#include "sql_file.h"
#include "truck.h"

/* Does the project say that this connection leads to this very database? */
bool
trucker_migrations_leads_here(const char *dir, const char *connection)
{
	return false;
}
