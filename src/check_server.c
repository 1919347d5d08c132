/*
 * check_server.c
 *	  What must hold of the server before a truck may start.
 *
 * Each failure is an error that names the setting to change.  What is counted
 * here (slots, senders, workers) may be taken by somebody else a moment later;
 * the worker then waits and retries.  Finding out now is for the user's sake.
 */
#include "trucker.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "check.h"
#include "decoder.h"
#include "replication.h"
#include "shmem.h"
#include "slots.h"
#include "worker.h"

/* how long a background worker may take to become free */
#define FREE_WORKER_TIMEOUT_MS 1000

/* Raise an error unless trucker was loaded when the server started. */
void
trucker_check_preloaded(void)
{
	if (!trucker_shmem_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trucker is not in shared_preload_libraries"),
				 errhint("Add trucker to shared_preload_libraries in postgresql.conf, and restart the server.")));
}

static void
check_wal_level(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trucks cannot run on a standby server")));
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("wal_level is not \"logical\""),
				 errhint("Set wal_level = logical in postgresql.conf, and restart the server.")));
}

/*
 * A standby name of "*" matches our own walsender as well.  Then a commit waits
 * for the worker, which waits for that commit to become visible.
 */
void
trucker_check_is_no_standby(void)
{
	const char *name;

	if (SyncRepConfig == NULL)
		return;
	name = SyncRepConfig->member_names;
	for (int i = 0; i < SyncRepConfig->nmembers; i++)
	{
		if (strcmp(name, "*") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("synchronous_standby_names contains \"*\""),
					 errdetail("Commits would wait for trucker's own replication connections."),
					 errhint("Name the standby servers in synchronous_standby_names one by one.")));
		name += strlen(name) + 1;
	}
}

/* The output plugin must be allowed, where the server has such a setting ... */
static void
check_plugin_allowed(const char *plugin)
{
	const char *allowed = GetConfigOption("output_plugin_libraries", true, false);
	List	   *names;
	ListCell   *lc;
	StringInfoData wanted;

	if (allowed == NULL)
		return;
	if (!SplitGUCList(pstrdup(allowed), ',', &names))
		names = NIL;			/* the empty list is shown as one empty name */
	initStringInfo(&wanted);
	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), plugin) == 0)
			return;
		/* a comma in a name: ALTER SYSTEM was given a whole list as one string */
		if (strchr(lfirst(lc), ',') != NULL)
			appendStringInfo(&wanted, "%s, ", (char *) lfirst(lc));
		else if (*(char *) lfirst(lc) != '\0')
			appendStringInfo(&wanted, "%s, ", quote_identifier(lfirst(lc)));
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("output plugin \"%s\" is not in output_plugin_libraries", plugin),
			 errhint("ALTER SYSTEM SET output_plugin_libraries = %s%s; SELECT pg_reload_conf();",
					 wanted.data, plugin)));
}

/* ... and installed, in one of the directories that the server looks in. */
static void
check_plugin_installed(const char *plugin)
{
	const char *path = Dynamic_library_path;

	while (path && *path)
	{
		int			len = (int) strcspn(path, ":");
		char	   *directory = pnstrdup(path, len);
		struct stat st;

		if (strncmp(directory, "$libdir", 7) == 0)
			directory = psprintf("%s%s", pkglib_path, directory + 7);
		if (stat(psprintf("%s/%s%s", directory, plugin, DLSUFFIX), &st) == 0)
			return;
		path += len + (path[len] == ':' ? 1 : 0);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FILE),
			 errmsg("output plugin \"%s\" is not installed", plugin),
			 errhint("Install it; on Debian: apt-get install postgresql-%d-wal2json",
					 PG_VERSION_NUM / 10000)));
}

static void
check_slots(int wanted)
{
	if (trucker_slots_free() < wanted)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg_plural("%d replication slot is needed, and %d are free",
							   "%d replication slots are needed, and %d are free",
							   wanted, wanted, trucker_slots_free()),
				 errhint("Raise max_replication_slots (now %d) and restart the server, or drop slots that nobody needs.",
						 max_replication_slots)));
}

static void
check_senders(int wanted)
{
	int			nfree = 0;

	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *sender = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&sender->mutex);
		nfree += sender->pid == 0 ? 1 : 0;
		SpinLockRelease(&sender->mutex);
	}
	if (nfree < wanted)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg_plural("%d WAL sender is needed, and %d are free",
							   "%d WAL senders are needed, and %d are free",
							   wanted, wanted, nfree),
				 errhint("Raise max_wal_senders (now %d), and restart the server.", max_wal_senders)));
}

/*
 * The server does not tell how many workers are free; so take one, and see.  The
 * launcher's probe may hold the last one for a moment.
 */
static void
check_workers(void)
{
	BackgroundWorkerHandle *handle;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FREE_WORKER_TIMEOUT_MS);

	while (!trucker_probe_register(InvalidOid, &handle))
	{
		if (GetCurrentTimestamp() > deadline)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no background worker is free"),
					 errhint("Raise max_worker_processes (now %d), and restart the server.",
							 max_worker_processes)));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 FREE_WORKER_TIMEOUT_MS / 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
}

static void
check_own_connection(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker connection check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TruckerReplication *replication;

	replication = trucker_replication_open(get_database_name(MyDatabaseId), "trucker check");
	PQclear(trucker_conn_exec(replication->conn, "IDENTIFY_SYSTEM", PGRES_TUPLES_OK));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Check the server for that many trucks that do not run yet, and that many slots
 * that do not exist yet; raises an error for the first thing that is missing.
 */
void
trucker_check_server(int new_trucks, int new_slots)
{
	trucker_check_preloaded();
	check_wal_level();
	trucker_check_is_no_standby();
	check_plugin_installed(trucker_wal2json.plugin);
	check_plugin_allowed(trucker_wal2json.plugin);
	if (new_trucks == 0)
		return;
	check_slots(new_slots);
	check_senders(new_trucks);
	check_workers();
	check_own_connection();
}
