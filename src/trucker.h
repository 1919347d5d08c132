/*
 * trucker.h
 *	  What all of trucker shares: settings, and the names of its objects.
 *
 * The words used throughout (truck, stream, run, batch, position, r) are
 * defined in doc/architecture.md.
 */
#ifndef TRUCKER_H
#define TRUCKER_H

#include "postgres.h"

#include "access/xlogdefs.h"

#include "compat.h"

#define TRUCKER_SCHEMA "trucker"
#define TRUCKER_ROW_RELATION "r"

/*
 * Replication slots are named trucker_<database oid>_<random token>.  The
 * prefix marks a slot as ours, so that one whose truck is gone can be found
 * and dropped.
 */
#define TRUCKER_SLOT_PREFIX "trucker_"

/* The exact prefix of worker and replication connection names. */
#define TRUCKER_APPLICATION_NAME "trucker %s"

/* Values of trucker.output_plugin. */
typedef enum TruckerPlugin
{
	TRUCKER_PLUGIN_WAL2JSON,
	TRUCKER_PLUGIN_PGOUTPUT
} TruckerPlugin;

#define TRUCKER_PLUGINS 2

/* Settings; documented in doc/reference.md.  in trucker.c */
extern int	trucker_max_run_rows;
extern int	trucker_max_batch_rows;
extern int	trucker_max_batch_age;
extern int	trucker_slow_query_threshold;
extern int	trucker_run_timeout;
extern int	trucker_retry_initial_delay;
extern int	trucker_retry_max_delay;
extern bool trucker_hide_writes;
extern int	trucker_max_trucks;
extern int	trucker_batch_memory;
extern int	trucker_max_truck_delay;
extern int	trucker_max_failures;
extern int	trucker_max_quarantined;
extern int	trucker_max_backfills;
extern int	trucker_max_catchup_streams;
extern int	trucker_max_retained_wal;
extern bool trucker_refuse_unsafe_types;
extern bool trucker_require_ssl;
extern int	trucker_log_level;
extern int	trucker_log_slow_plans;
extern bool trucker_log_row_data;
extern int	trucker_log_repeat_interval;
extern int	trucker_output_plugin;
extern bool trucker_stream_in_progress;
extern char *trucker_replication_conninfo;
extern char *trucker_stop_point_name;
extern char *trucker_project_dir_setting;
extern bool trucker_send_in_blocks;
extern void trucker_assign_send_in_blocks(bool newval, void *extra);
extern char *trucker_test_truck;
extern char *trucker_test_output;
extern char *trucker_test_batch_until;
extern int	trucker_test_timeout;

/* Is a batch that has come to this LSN to be kept open?  Only in the databases of test(). */
extern bool trucker_test_holds_batch(XLogRecPtr lsn);

/* Let pg_stat_activity say what this process is at: kind "name": activity. */
extern void trucker_report(const char *kind, const char *name, const char *activity);

/* Wait here while trucker.stop_point names this point. */
extern void trucker_stop_point(const char *point);

/*
 * The pause, in milliseconds, before another attempt after that many failures in
 * a row: trucker.retry_initial_delay, doubled with each further failure, up to max.
 */
extern int	trucker_retry_delay(int failures, int max);

#endif							/* TRUCKER_H */
