/*
 * check_server.c
 *	  What must hold of the server before a truck may start.
 *
 * Each failure is an error that names the setting to change.  What is counted
 * here (slots, senders, workers) may be taken by somebody else a moment later;
 * the worker then waits and retries.  Finding out now is for the user's sake.
 *
 * start() raises the first failure, check() tells all of them (checklist.c).  What
 * is said of a check that has passed is only read by check().
 */
#include "trucker.h"

#include <sys/statvfs.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
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

#include "budget.h"
#include "check.h"
#include "checklist.h"
#include "decoder.h"
#include "replication.h"
#include "shmem.h"
#include "slots.h"
#include "state.h"
#include "wait.h"
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

static const char *
check_preloaded(TruckerChecklist *list, void *arg)
{
	trucker_check_preloaded();
	return "trucker was loaded when the server started";
}

static const char *
check_primary(TruckerChecklist *list, void *arg)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trucks cannot run on a standby server")));
	return "this server is no standby";
}

static const char *
check_wal_level(TruckerChecklist *list, void *arg)
{
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("wal_level is not \"logical\""),
				 errhint("Set wal_level = logical in postgresql.conf, and restart the server.")));
	return "logical";
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

static const char *
check_no_standby(TruckerChecklist *list, void *arg)
{
	trucker_check_is_no_standby();
	return "no commit waits for trucker's own connections";
}

/* What the trucks to be started need. */
typedef struct Wanted
{
	int			trucks;			/* that do not run yet */
	int			slots;			/* that do not exist yet */
	const TruckerDecoder *decoder;	/* of one of the output plugins, for checks of these */
} Wanted;

/* The output plugin must be allowed, where the server has such a setting ... */
static const char *
check_plugin_allowed(TruckerChecklist *list, void *arg)
{
	const char *plugin = ((Wanted *) arg)->decoder->plugin;
	const char *allowed = GetConfigOption("output_plugin_libraries", true, false);
	List	   *names;
	ListCell   *lc;
	StringInfoData wanted;

	if (allowed == NULL)
		return "this server has no output_plugin_libraries: all are";
	if (!SplitGUCList(pstrdup(allowed), ',', &names))
		names = NIL;			/* the empty list is shown as one empty name */
	initStringInfo(&wanted);
	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), plugin) == 0)
			return psprintf("output_plugin_libraries = %s", allowed);
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
	return NULL;				/* keep compiler quiet */
}

/* ... and installed, in one of the directories that the server looks in. */
static const char *
check_plugin_installed(TruckerChecklist *list, void *arg)
{
	const TruckerDecoder *decoder = trucker_decoder_installed(((Wanted *) arg)->decoder);
	const char *plugin = decoder->plugin;

	if (trucker_decoder_library(plugin))
		return psprintf("%s, in the version that is installed, carries all values%s", plugin, decoder->loses_nan ?
						" but NaN and infinity of real, double precision and numeric" : "");
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FILE),
			 errmsg("output plugin \"%s\" is not installed", plugin),
			 errhint("Install it; on Debian: apt-get install postgresql-%d-wal2json.  Or let another one be used: ALTER SYSTEM SET trucker.output_plugin = pgoutput; SELECT pg_reload_conf();",
					 PG_VERSION_NUM / 10000)));
	return NULL;				/* keep compiler quiet */
}

static const char *
check_slots(TruckerChecklist *list, void *arg)
{
	int			wanted = ((Wanted *) arg)->slots;

	if (trucker_slots_free() < wanted)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg_plural("%d replication slot is needed, and %d are free",
							   "%d replication slots are needed, and %d are free",
							   wanted, wanted, trucker_slots_free()),
				 errhint("Raise max_replication_slots (now %d) and restart the server, or drop slots that nobody needs.",
						 max_replication_slots)));
	return psprintf("%d of %d are free", trucker_slots_free(), max_replication_slots);
}

static const char *
check_senders(TruckerChecklist *list, void *arg)
{
	int			wanted = ((Wanted *) arg)->trucks;
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
	return psprintf("%d of %d are free", nfree, max_wal_senders);
}

/*
 * The server does not tell how many workers are free; so take one, and see.  The
 * launcher's probe may hold the last one for a moment.
 */
static const char *
check_workers(TruckerChecklist *list, void *arg)
{
	BackgroundWorkerHandle *handle;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FREE_WORKER_TIMEOUT_MS);

	if (((Wanted *) arg)->trucks == 0)
		return "no more are needed";
	while (!trucker_probe_register(InvalidOid, &handle))
	{
		if (GetCurrentTimestamp() > deadline)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no background worker is free"),
					 errhint("Raise max_worker_processes (now %d), and restart the server.",
							 max_worker_processes)));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 FREE_WORKER_TIMEOUT_MS / 10, trucker_wait(TRUCKER_WAIT_WORKER));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
	return psprintf("at least one of %d is free", max_worker_processes);
}

static const char *
check_own_connection(TruckerChecklist *list, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker connection check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TruckerReplication *replication;

	replication = trucker_replication_open(get_database_name(MyDatabaseId), "trucker check");
	PQclear(trucker_conn_exec(replication->conn, "IDENTIFY_SYSTEM", PGRES_TUPLES_OK));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return "trucker can connect to its own server for replication";
}

/* Megabytes that are free where the WAL is; -1: unknown. */
static int64
free_megabytes(void)
{
	struct statvfs st;

	if (statvfs(XLOGDIR, &st) != 0)
		return -1;
	return (int64) st.f_bavail * st.f_frsize / (1024 * 1024);
}

/* Megabytes that the slot of ours keeps which keeps most. */
static int64
kept_megabytes(void)
{
	XLogRecPtr	end = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetFlushRecPtr(NULL);
	int64		most = 0;

	for (int i = 0; i < max_replication_slots; i++)
	{
		TruckerSlotInfo slot;

		if (trucker_slot_get(i, &slot) && !slot.invalidated &&
			!XLogRecPtrIsInvalid(slot.restart_lsn) && slot.restart_lsn < end)
			most = Max(most, (int64) ((end - slot.restart_lsn) / (1024 * 1024)));
	}
	return most;
}

/*
 * Is there room for the WAL that may be kept for trucks?  start() does not ask: the
 * disk may be enlarged, or emptied, long before.
 */
static const char *
check_headroom(TruckerChecklist *list, void *arg)
{
	int64		limit = trucker_max_retained_wal;
	int64		kept = kept_megabytes();
	int64		nfree = free_megabytes();

	if (max_slot_wal_keep_size_mb >= 0 && (limit == 0 || max_slot_wal_keep_size_mb < limit))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("max_slot_wal_keep_size (%d MB) is below trucker.max_retained_wal (%s)",
						max_slot_wal_keep_size_mb, limit ? psprintf("%lld MB", (long long) limit) : "no limit"),
				 errdetail("The server would invalidate slots before trucker warns of trucks that are behind."),
				 errhint("Set trucker.max_retained_wal below max_slot_wal_keep_size.")));
	if (limit == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("nothing bounds the WAL that is kept for trucks"),
				 errdetail("A stopped or failing truck can fill the disk."),
				 errhint("Set trucker.max_retained_wal to what the disk can spare.")));
	if (nfree >= 0 && nfree < limit - kept)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the WAL's disk has %lld MB free, and trucks may keep %lld MB more",
						(long long) nfree, (long long) (limit - kept)),
				 errdetail("trucker.max_retained_wal is %lld MB, of which %lld MB are kept now.",
						   (long long) limit, (long long) kept),
				 errhint("Set trucker.max_retained_wal to what the disk can spare, or make room.")));
	return psprintf("trucks keep %lld of at most %lld MB; %lld MB are free",
					(long long) kept, (long long) limit, (long long) nfree);
}

/* The order is that in which start() asks. */
typedef struct ServerCheck
{
	const char *item;
	TruckerCheck check;
	enum
	{
		ALWAYS,
		FOR_NEW,				/* start() asks only if there is a truck that does not run yet */
		LISTED					/* start() does not ask */
	}			when;
	bool		needs_preload;
	bool		of_plugin;		/* once for each output plugin that is wanted */
} ServerCheck;

static const ServerCheck checks[] = {
	{"shared_preload_libraries", check_preloaded, ALWAYS, false, false},
	{"primary server", check_primary, ALWAYS, false, false},
	{"wal_level", check_wal_level, ALWAYS, false, false},
	{"synchronous_standby_names", check_no_standby, ALWAYS, false, false},
	{"output plugin installed", check_plugin_installed, ALWAYS, false, true},
	{"output plugin allowed", check_plugin_allowed, ALWAYS, false, true},
	{"replication slots", check_slots, FOR_NEW, false, false},
	{"WAL senders", check_senders, FOR_NEW, false, false},
	{"background workers", check_workers, FOR_NEW, true, false},
	{"replication connection", check_own_connection, FOR_NEW, true, false},
	{"WAL headroom", check_headroom, LISTED, false, false}
};

static void
run(const ServerCheck *check, TruckerChecklist *list, int new_trucks, int new_slots, List *decoders)
{
	Wanted		wanted = {new_trucks, new_slots, NULL};
	ListCell   *lc;

	if (!check->of_plugin)
		(void) trucker_checklist_run(list, check->item, check->check, &wanted);
	else
		foreach(lc, decoders)
		{
			wanted.decoder = lfirst(lc);
			(void) trucker_checklist_run(list, check->item, check->check, &wanted);
		}
}

/*
 * Check the server for that many trucks that do not run yet, and that many slots
 * that do not exist yet, to be read by these decoders (TruckerDecoder *); raises an error
 * for the first thing that is missing.
 */
void
trucker_check_server(int new_trucks, int new_slots, List *decoders)
{
	for (int i = 0; i < lengthof(checks); i++)
		if (checks[i].when == ALWAYS || (checks[i].when == FOR_NEW && new_trucks > 0))
			run(&checks[i], NULL, new_trucks, new_slots, decoders);
}

/* The same, and the room for WAL, told as a list. */
void
trucker_check_list_server(TruckerChecklist *list, int new_trucks, int new_slots, List *decoders)
{
	for (int i = 0; i < lengthof(checks); i++)
		if (trucker_shmem_available() || !checks[i].needs_preload)
			run(&checks[i], list, new_trucks, new_slots, decoders);
}

/* The decoder of the stream that the truck is, or will be, on; if that is not switched. */
const TruckerDecoder *
trucker_check_decoder(const TruckerTruck *truck)
{
	return trucker_decoder_wanted(trucker_state_output_plugin(truck->owner, truck->stream_name));
}
