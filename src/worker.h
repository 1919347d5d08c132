/*
 * worker.h
 *	  trucker's processes: entry points, and how they are registered.
 */
#ifndef TRUCKER_WORKER_H
#define TRUCKER_WORKER_H

#include "postmaster/bgworker.h"
#include "utils/uuid.h"

#include "shmem.h"

/* in worker.c */
extern void trucker_worker_describe(BackgroundWorker *worker, const char *function, const char *type);
extern void trucker_worker_connect(Oid database);
extern PGDLLEXPORT void trucker_stream_main(Datum main_arg);
extern bool trucker_stream_register(int index, uint64 generation, const char *name, BackgroundWorkerHandle **handle);

/* in backfill_worker.c */
extern PGDLLEXPORT void trucker_backfill_main(Datum main_arg);

/* in probe.c */
extern PGDLLEXPORT void trucker_probe_main(Datum main_arg);
extern bool trucker_probe_register(Oid database, BackgroundWorkerHandle **handle);

/* in launcher.c */
extern PGDLLEXPORT void trucker_launcher_main(Datum main_arg);
extern void trucker_launcher_register(void);

/* in hooks.c */
extern void trucker_hooks_init(void);
extern void trucker_at_commit_scan(void);
extern void trucker_at_commit_signal(const pg_uuid_t *truck_id, TruckerSignal signal);
extern void trucker_at_commit_poke(const pg_uuid_t *stream_id);

#endif							/* TRUCKER_WORKER_H */
