/*
 * trucker.c
 *	  Entry point of the library: settings, and what must be set up when the
 *	  server starts.
 */
#include "trucker.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "log.h"
#include "shmem.h"
#include "wait.h"
#include "worker.h"

PG_MODULE_MAGIC;

int			trucker_max_run_rows = 20000;
int			trucker_max_batch_rows = 50000;
int			trucker_max_batch_age = 200;
int			trucker_slow_query_threshold = 1000;
int			trucker_run_timeout = 0;
int			trucker_retry_initial_delay = 1000;
int			trucker_retry_max_delay = 60000;
bool		trucker_hide_writes = true;
int			trucker_max_trucks = 1000;
int			trucker_batch_memory = 65536;
int			trucker_max_truck_delay = 2000;
int			trucker_max_failures = 10;
int			trucker_max_quarantined = 10000;
int			trucker_max_backfills = 2;
int			trucker_max_catchup_streams = 4;
int			trucker_max_retained_wal = 16384;
bool		trucker_refuse_unsafe_types = false;
bool		trucker_require_ssl = false;
int			trucker_log_level = TRUCKER_LOG_INFO;
int			trucker_log_slow_plans = TRUCKER_PLANS_OFF;
bool		trucker_log_row_data = false;
bool		trucker_stream_in_progress = true;
int			trucker_log_repeat_interval = 60000;
int			trucker_output_plugin = TRUCKER_PLUGIN_WAL2JSON;
char	   *trucker_replication_conninfo = NULL;
char	   *trucker_stop_point_name = NULL;
char	   *trucker_project_dir_setting = NULL;
char	   *trucker_test_truck = NULL;
char	   *trucker_test_output = NULL;
char	   *trucker_test_batch_until = NULL;
int			trucker_test_timeout = 60;

static const struct config_enum_entry output_plugins[] = {
	{"wal2json", TRUCKER_PLUGIN_WAL2JSON, false},
	{"pgoutput", TRUCKER_PLUGIN_PGOUTPUT, false},
	{NULL, 0, false}
};

static const struct config_enum_entry log_levels[] = {
	{"warn", TRUCKER_LOG_WARN, false},
	{"info", TRUCKER_LOG_INFO, false},
	{"debug", TRUCKER_LOG_DEBUG, false},
	{NULL, 0, false}
};

static const struct config_enum_entry slow_plans[] = {
	{"off", TRUCKER_PLANS_OFF, false},
	{"on", TRUCKER_PLANS_ON, false},
	{"analyze", TRUCKER_PLANS_ANALYZE, false},
	{NULL, 0, false}
};

extern PGDLLEXPORT void _PG_init(void);

int
trucker_retry_delay(int failures, int max)
{
	double		delay = trucker_retry_initial_delay;

	for (int i = 1; i < failures && delay < max; i++)
		delay *= 2;
	return (int) Min(delay, max);
}

void
trucker_report(const char *kind, const char *name, const char *activity)
{
	char		text[3 * NAMEDATALEN];

	snprintf(text, sizeof(text), "%s \"%s\": %s", kind, name, activity);
	pgstat_report_activity(STATE_RUNNING, text);
}

/* Does trucker.stop_point, a list separated by commas, name this point? */
static bool
stops_at(const char *point)
{
	size_t		len = strlen(point);
	const char *p = trucker_stop_point_name ? trucker_stop_point_name : "";

	while (*p != '\0')
	{
		size_t		n = strcspn(p, ",");

		if (n == len && strncmp(p, point, n) == 0)
			return true;
		p += n + (p[n] == ',' ? 1 : 0);
	}
	return false;
}

/*
 * Tests that want a process to be in a certain state, to kill it there, name the
 * point in trucker.stop_point and wait for the log line.
 */
void
trucker_stop_point(const char *point)
{
	bool		told = false;

	while (stops_at(point))
	{
		/* the latch may have been set for it, and reset, before we came here */
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			continue;
		}
		if (!told)
			ereport(LOG, (errmsg("stop point \"%s\" reached", point), errhidecontext(true)));
		told = true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, trucker_wait(TRUCKER_WAIT_STOP_POINT));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
define_log_settings(void)
{
	DefineCustomIntVariable("trucker.slow_query_threshold",
							"Time above which a run is logged.",
							"-1 logs none, 0 logs all.",
							&trucker_slow_query_threshold, 1000, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("trucker.log_level",
							 "What trucks and streams tell in the server's log.",
							 "warn: start, stop, and what is out of the ordinary; info: what else happens to them; debug: each batch.",
							 &trucker_log_level, TRUCKER_LOG_INFO, log_levels,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("trucker.log_slow_plans",
							 "Logs the plans of slow runs with them.",
							 "analyze: with what happened in each node, which makes all runs slower.",
							 &trucker_log_slow_plans, TRUCKER_PLANS_OFF, slow_plans,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.log_repeat_interval",
							"How often the same failure of a truck, which is tried again, is logged at most.",
							"0: each time.",
							&trucker_log_repeat_interval, 60000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("trucker.log_row_data",
							 "Logs errors of trucks with the values of rows that they show.",
							 NULL, &trucker_log_row_data, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
}

static void
define_settings(void)
{
	DefineCustomIntVariable("trucker.max_run_rows",
							"Maximum number of changes that one execution of a truck's SQL sees.",
							NULL, &trucker_max_run_rows, 20000, 1, 10000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_batch_rows",
							"Number of changes after which a batch is committed.",
							"A batch ends behind a whole source transaction, so one may be larger.",
							&trucker_max_batch_rows, 50000, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_batch_age",
							"Time after which a batch is committed although more changes wait.",
							NULL, &trucker_max_batch_age, 200, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.run_timeout",
							"Time after which a run is cancelled.",
							"0 means no limit.",
							&trucker_run_timeout, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.retry_initial_delay",
							"Pause after a truck's first failure; it doubles with each further one.",
							NULL, &trucker_retry_initial_delay, 1000, 10, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.retry_max_delay",
							"Longest pause between two attempts of a failing truck.",
							NULL, &trucker_retry_max_delay, 60000, 10, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("trucker.hide_writes",
							 "Marks what trucks write, and no truck reads, so that decoding can leave it out.",
							 "Subscriptions with origin = none leave it out, too.",
							 &trucker_hide_writes, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_trucks",
							"Maximum number of trucks that run in this server.",
							NULL, &trucker_max_trucks, 1000, 1, 100000,
							/* a session that loads us by itself cannot have any of the postmaster's */
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
							0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.batch_memory",
							"Memory that a stream with several trucks uses for a batch before it goes to disk.",
							NULL, &trucker_batch_memory, 65536, 64, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_truck_delay",
							"Time after which a truck that holds up the others of its stream is set aside.",
							"It goes on on a catch-up stream.  0 means no limit.",
							&trucker_max_truck_delay, 2000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_failures",
							"Number of errors in a row, other than transient ones, after which a truck is stopped.",
							"0 means no limit.",
							&trucker_max_failures, 10, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_quarantined",
							"Maximum number of changes that a truck may have in quarantine.",
							"One that would have more is stopped.",
							&trucker_max_quarantined, 10000, 1, 10000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_backfills",
							"Maximum number of backfills that a stream makes at the same time.",
							NULL, &trucker_max_backfills, 2, 1, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_catchup_streams",
							"Maximum number of catch-up streams, and of their replication slots, in a database.",
							NULL, &trucker_max_catchup_streams, 4, 1, 10000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.max_retained_wal",
							"WAL that a truck may be behind before it is given up as lost.",
							"0 means no limit.",
							&trucker_max_retained_wal, 16384, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomBoolVariable("trucker.refuse_unsafe_types",
							 "Refuses to start trucks that read columns whose values the output plugin cannot always carry.",
							 "Off: they are warned of.",
							 &trucker_refuse_unsafe_types, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("trucker.output_plugin",
							 "Output plugin that decodes the WAL for streams for which no other one is set.",
							 "Streams that run switch to it by themselves.",
							 &trucker_output_plugin, TRUCKER_PLUGIN_WAL2JSON, output_plugins,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("trucker.stream_in_progress",
							 "Has large transactions decoded and sent while they run, where the output plugin can.",
							 "They are kept in temporary files until they have committed.",
							 &trucker_stream_in_progress, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("trucker.require_ssl",
							 "Refuses connections to other servers that are not encrypted.",
							 NULL, &trucker_require_ssl, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("trucker.stop_point",
							   "Points in the life of a truck at which processes wait; for tests.",
							   "They are separated by commas.  Processes go on when theirs is not named any more.",
							   &trucker_stop_point_name, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("trucker.replication_conninfo",
							   "How trucker connects to its own server for replication.",
							   "Empty: the first socket directory, as the bootstrap superuser.",
							   &trucker_replication_conninfo, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomBoolVariable("trucker.send_in_blocks",
							 "Makes a walsender send changes in blocks; set by streams for theirs.",
							 NULL, &trucker_send_in_blocks, false,
							 PGC_BACKEND, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL | GUC_DISALLOW_IN_FILE,
							 NULL, trucker_assign_send_in_blocks, NULL);
	DefineCustomStringVariable("trucker.project_dir",
							   "The folder of the project that load(), plan() and start() read.",
							   "Empty: there is none.",
							   &trucker_project_dir_setting, "",
							   /* it may be set for a database, and where it is tells of the machine */
							   PGC_SUSET, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("trucker.test_timeout",
							"Longest time that test() waits for a statement, or for a truck.",
							NULL, &trucker_test_timeout, 60, 1, 86400,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("trucker.test_truck",
							   "The only truck of a project that is loaded; set by test() in its databases.",
							   NULL, &trucker_test_truck, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);
	DefineCustomStringVariable("trucker.test_output",
							   "The database of this server that stands for where the truck writes; set by test() in its databases.",
							   NULL, &trucker_test_output, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);
	DefineCustomStringVariable("trucker.test_batch_until",
							   "A batch is kept open until the stream has come to this LSN; set by test() for its databases.",
							   NULL, &trucker_test_batch_until, "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);
	define_log_settings();
	MarkGUCPrefixReserved("trucker");
}

bool
trucker_test_holds_batch(XLogRecPtr lsn)
{
	uint32		high;
	uint32		low;

	if (trucker_test_batch_until == NULL || trucker_test_batch_until[0] == '\0' ||
		sscanf(trucker_test_batch_until, "%X/%X", &high, &low) != 2)
		return false;
	return lsn < ((uint64) high << 32 | low);
}

void
_PG_init(void)
{
	define_settings();

	/* loaded by a session only: the functions will say what is missing */
	if (!process_shared_preload_libraries_in_progress)
		return;
	/* pg_upgrade makes the extension bit by bit, and wants its databases for itself */
	if (IsBinaryUpgrade)
		return;
	trucker_shmem_init();
	trucker_hooks_init();
	trucker_launcher_register();
}
