/*
 * trucker.c
 *	  Entry point of the library: settings, and what must be set up when the
 *	  server starts.
 */
#include "trucker.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "shmem.h"
#include "worker.h"

PG_MODULE_MAGIC;

int			trucker_max_run_rows = 20000;
int			trucker_max_batch_rows = 50000;
int			trucker_max_batch_age = 200;
int			trucker_slow_query_threshold = 1000;
int			trucker_run_timeout = 0;
int			trucker_retry_initial_delay = 1000;
int			trucker_retry_max_delay = 60000;
char	   *trucker_replication_conninfo = NULL;

extern PGDLLEXPORT void _PG_init(void);

int
trucker_retry_delay(int failures, int max)
{
	double		delay = trucker_retry_initial_delay;

	for (int i = 1; i < failures && delay < max; i++)
		delay *= 2;
	return (int) Min(delay, max);
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
	DefineCustomIntVariable("trucker.slow_query_threshold",
							"Time above which a run is logged.",
							"-1 logs none, 0 logs all.",
							&trucker_slow_query_threshold, 1000, -1, INT_MAX,
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
	DefineCustomStringVariable("trucker.replication_conninfo",
							   "How trucker connects to its own server for replication.",
							   "Empty: the first socket directory, as the bootstrap superuser.",
							   &trucker_replication_conninfo, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	MarkGUCPrefixReserved("trucker");
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
