/*
 * shmem.h
 *	  Shared memory: which workers are wanted, which run, how far they are.
 */
#ifndef TRUCKER_SHMEM_H
#define TRUCKER_SHMEM_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* how long a worker may take to end in order */
#define TRUCKER_END_PATIENCE_MS 3000

/* What a stream worker is doing; the names are what trucker.status shows. */
typedef enum TruckerState
{
	TRUCKER_STARTING,
	TRUCKER_CREATING_SLOT,
	TRUCKER_BACKFILL,
	TRUCKER_STREAMING,
	TRUCKER_RETRYING
} TruckerState;

/* A truck that shall run, as a probe found it in its database's catalog. */
typedef struct TruckerWanted
{
	pg_uuid_t	truck_id;
	char		name[NAMEDATALEN];
} TruckerWanted;

/* One worker as others may see it: a copy, taken under the lock. */
typedef struct TruckerWorkerInfo
{
	int			index;			/* place in shared memory */
	uint64		generation;
	Oid			database;
	pg_uuid_t	truck_id;
	char		name[NAMEDATALEN];
	bool		wanted;
	bool		restart;		/* end it, and start it again at once */
	pid_t		pid;			/* 0: not running */
	int			walsender_pid;	/* 0: none */
	TruckerState state;
	TimestampTz since;
	TimestampTz next_retry_at;	/* 0: no retry pending */
	TimestampTz launch_after;	/* 0: at once */
	int			quick_exits;	/* in a row */
	bool		waits_for_worker;	/* max_worker_processes is used up */
	XLogRecPtr	applied_lsn;	/* all that committed before it is at the destination */
	TimestampTz applied_at;
} TruckerWorkerInfo;

/* in shmem.c */
extern void trucker_shmem_init(void);
extern bool trucker_shmem_available(void);
extern const char *trucker_state_name(TruckerState state);

/* what a worker is told */
typedef enum TruckerSignal
{
	TRUCKER_POKE,				/* try again now */
	TRUCKER_RESTART,			/* end, and be started again at once */
	TRUCKER_END					/* end: the truck shall not run */
} TruckerSignal;

/* requests to the launcher: look into a database (InvalidOid: into all) */
extern void trucker_request_scan(Oid database);
extern bool trucker_take_scan_request(Oid *database);
extern void trucker_launcher_attach(void);

/* the launcher's and the probes' view */
extern void trucker_probe_begins(void);
extern void trucker_probe_succeeded(void);
extern bool trucker_probe_has_succeeded(void);
extern void trucker_set_wanted(Oid database, const TruckerWanted *wanted, int n);
extern int	trucker_worker_count(void);
extern bool trucker_get_worker(int index, TruckerWorkerInfo *info);
extern bool trucker_find_worker(Oid database, const pg_uuid_t *truck_id, TruckerWorkerInfo *info);
extern void trucker_worker_set_launch(int index, uint64 generation, TimestampTz launch_after, bool waits_for_worker);
extern void trucker_worker_launched(int index, uint64 generation);
extern void trucker_worker_forget(int index, uint64 generation);
extern void trucker_worker_terminate(int index, uint64 generation);
extern bool trucker_is_walsender(int pid);
extern int	trucker_database_workers(Oid database);

/* any backend */
extern void trucker_signal_worker(Oid database, const pg_uuid_t *truck_id, TruckerSignal signal);
extern void trucker_set_database_closing(Oid database, bool closing);
extern bool trucker_database_closing(Oid database);
extern void trucker_wait_progress_prepare(void);
extern bool trucker_wait_progress(long timeout_ms);
extern void trucker_wait_progress_end(void);

/* the worker itself; in shmem_worker.c */
extern bool trucker_worker_attach(int index, uint64 generation, TruckerWorkerInfo *info);
extern void trucker_worker_set_state(TruckerState state);
extern void trucker_worker_set_walsender(int pid);
extern void trucker_worker_set_retry(TimestampTz next_retry_at);
extern void trucker_worker_set_applied(XLogRecPtr lsn, TimestampTz at);
extern bool trucker_worker_poked(void);
extern bool trucker_worker_must_end(void);
extern void trucker_worker_give_up(void);

#endif							/* TRUCKER_SHMEM_H */
