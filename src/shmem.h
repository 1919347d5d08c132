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
/* how often to look, at least, whether a truck holds up others that have come */
#define TRUCKER_HURRY_INTERVAL_MS 100

/* What a truck, or its stream, is doing; the names are what trucker.status shows. */
typedef enum TruckerState
{
	TRUCKER_STARTING,
	TRUCKER_WAITING,			/* for a free slot of a catch-up stream */
	TRUCKER_CREATING_SLOT,
	TRUCKER_BACKFILL,
	TRUCKER_CATCHUP,
	TRUCKER_STREAMING,
	TRUCKER_RETRYING,
	TRUCKER_RESTING				/* its stream runs for others */
} TruckerState;

/* A stream that shall have a worker, as a probe found it in its database's catalog. */
typedef struct TruckerWanted
{
	pg_uuid_t	stream_id;
	char		name[NAMEDATALEN];
} TruckerWanted;

/*
 * How a truck moves from one stream to another: see shmem_move.c.  The state is
 * that of the worker that gives the truck away.
 */
typedef enum TruckerMove
{
	TRUCKER_MOVE_NONE,
	TRUCKER_MOVE_MOVING,		/* the catalog is being changed */
	TRUCKER_MOVE_MOVED,			/* it has been, or the worker has died over it */
	TRUCKER_MOVE_TAKING			/* the other stream's worker is reading it */
} TruckerMove;

/* One worker as others may see it: a copy, taken under the lock. */
typedef struct TruckerWorkerInfo
{
	int			index;			/* place in shared memory */
	uint64		generation;
	Oid			database;
	pg_uuid_t	stream_id;
	char		name[NAMEDATALEN];
	bool		wanted;
	pid_t		pid;			/* 0: not running */
	int			walsender_pid;	/* 0: none */
	TimestampTz launch_after;	/* 0: at once */
	int			quick_exits;	/* in a row */
	bool		waits_for_worker;	/* max_worker_processes is used up */
	XLogRecPtr	applied_lsn;	/* all that committed before it is at the destinations of those that follow */
	TimestampTz applied_at;
	int			truck;			/* whose SQL is being executed; -1: none */
	bool		splitting;		/* a catch-up stream is being made, which still is empty */
	XLogRecPtr	told_lsn;		/* the furthest that its slot can have been confirmed */
	TruckerMove move;
	pg_uuid_t	move_to;		/* stream */
	XLogRecPtr	move_lsn;		/* all before it is at the destination of what moves */
} TruckerWorkerInfo;

/* One truck that a worker carries, or has carried; likewise. */
typedef struct TruckerTruckInfo
{
	Oid			database;
	pg_uuid_t	id;
	int			worker;			/* index of the one that carries it; -1: none */
	int			backfill_pid;	/* 0: none */
	bool		reload;			/* the catalog says something new about it */
	TimestampTz reload_since;
	TruckerState state;
	TimestampTz since;
	bool		follows;		/* it is as far as its worker */
	XLogRecPtr	applied_lsn;	/* without regard to that */
	TimestampTz applied_at;
	int			failures;		/* in a row, without progress */
	XLogRecPtr	failed_lsn;		/* one source transaction a batch until beyond it */
	TimestampTz next_retry_at;	/* 0: no retry pending */
	int			times_slow;		/* how often it has held up its home, with too little time in between */
	TimestampTz home_after;		/* it does not join its home before that; 0: it may */
	uint64		behind;			/* bytes of WAL, when it was last measured (budget.c) */
	TimestampTz behind_at;		/* 0: never */
} TruckerTruckInfo;

/* What has become of a session's wish to compare a truck's destination with the source. */
typedef enum TruckerVerifyStep
{
	TRUCKER_VERIFY_ASKED,
	TRUCKER_VERIFY_OFFERED,		/* the truck rests where the snapshot shows the source */
	TRUCKER_VERIFY_FAILED
} TruckerVerifyStep;

typedef struct TruckerVerifyOffer
{
	uint64		number;			/* no other offer has had it */
	XLogRecPtr	lsn;
	char		snapshot[NAMEDATALEN];	/* to be imported */
} TruckerVerifyOffer;

/* in shmem.c */
extern void trucker_shmem_init(void);
extern bool trucker_shmem_available(void);
extern const char *trucker_state_name(TruckerState state);

/* What a truck's worker is told. */
typedef enum TruckerSignal
{
	TRUCKER_POKE,				/* try again now */
	TRUCKER_RELOAD				/* let go of it, and look what the catalog says */
} TruckerSignal;

/* requests to the launcher: look into a database (InvalidOid: into all) */
extern void trucker_request_scan(Oid database);
extern bool trucker_take_scan_request(Oid *database);
extern void trucker_launcher_attach(void);

/* the launcher's and the probes' view */
extern bool trucker_probe_begins(Oid database);
extern bool trucker_probe_comes(Oid database);
extern void trucker_probe_ends(void);
extern void trucker_probe_succeeded(void);
extern bool trucker_probe_has_succeeded(void);
extern void trucker_set_wanted(Oid database, const TruckerWanted *wanted, int n);
extern int	trucker_worker_count(void);
extern bool trucker_get_worker(int index, TruckerWorkerInfo *info);
extern bool trucker_has_worker(Oid database, const pg_uuid_t *stream_id);
extern bool trucker_find_worker(Oid database, const pg_uuid_t *stream_id, TruckerWorkerInfo *info);
extern void trucker_worker_set_launch(int index, uint64 generation, TimestampTz launch_after, bool waits_for_worker);
extern void trucker_worker_launched(int index, uint64 generation);
extern bool trucker_worker_forget(int index, uint64 generation);
extern void trucker_worker_terminate(int index, uint64 generation);
extern long trucker_interrupt_workers(void);
extern bool trucker_is_own_process(int pid);
extern bool trucker_is_walsender(int pid);
extern int	trucker_database_workers(Oid database);

extern bool trucker_database_is_splitting(Oid database);

/* any backend */
extern void trucker_signal_stream(Oid database, const pg_uuid_t *stream_id);
extern void trucker_set_database_closing(Oid database, bool closing);
extern bool trucker_database_closing(Oid database);
extern void trucker_wait_progress_prepare(void);
extern bool trucker_wait_progress(long timeout_ms);
extern void trucker_wait_progress_end(void);

/* in shmem_truck.c: any backend */
extern int	trucker_truck_entry_count(void);
extern bool trucker_get_truck(int index, TruckerTruckInfo *info);
extern bool trucker_find_truck(Oid database, const pg_uuid_t *truck_id, TruckerTruckInfo *info);
extern void trucker_signal_truck(Oid database, const pg_uuid_t *truck_id, TruckerSignal signal);

/* in shmem_truck.c: a probe */
extern bool trucker_truck_gains(Oid database, const pg_uuid_t *truck_id, uint64 behind, int interval_ms);

/* in shmem_truck.c: the worker that carries the truck */
extern int	trucker_truck_attach(const pg_uuid_t *truck_id);
extern void trucker_truck_detach(int truck);
extern void trucker_truck_set_state(int truck, TruckerState state);
extern void trucker_truck_set_applied(int truck, XLogRecPtr lsn, TimestampTz at, bool follows);
extern void trucker_truck_set_failure(int truck, int failures, XLogRecPtr failed_lsn, TimestampTz next_retry_at);
extern bool trucker_truck_logs_failure(int truck, uint32 failure, int *more);
extern void trucker_truck_held_up_home(int truck);
extern bool trucker_truck_must_reload(int truck);
extern void trucker_truck_get_info(int truck, TruckerTruckInfo *info);

/* in shmem_truck.c: its backfill */
extern bool trucker_truck_attach_backfill(int truck, const pg_uuid_t *truck_id, pid_t worker_pid);
extern bool trucker_worker_has_backfills(void);
extern void trucker_truck_set_backfilled(int truck);
extern void trucker_truck_count_backfill_failure(int truck);
extern bool trucker_truck_backfill_must_end(int truck);

/* in shmem_worker.c: the worker itself */
extern bool trucker_worker_attach(int index, uint64 generation, TruckerWorkerInfo *info);
extern void trucker_worker_set_walsender(int pid);
extern void trucker_worker_set_applied(XLogRecPtr lsn, TimestampTz at);
extern void trucker_worker_set_executing(int truck);
extern bool trucker_worker_was_cancelled(void);
extern bool trucker_worker_was_hurried(void);
extern void trucker_worker_works(void);
extern void trucker_worker_set_splitting(bool splitting);
extern bool trucker_worker_poked(void);
extern bool trucker_worker_is_poked(void);
extern bool trucker_worker_must_end(void);
extern void trucker_worker_give_up(void);
extern int	trucker_worker_index(void);

/* in shmem_slot.c */
extern void trucker_slot_tell(const char *name, XLogRecPtr lsn);
extern XLogRecPtr trucker_slot_told(const char *name);
extern void trucker_slots_take_down(void);
extern void trucker_slot_set_held_open(int index, const char *name, bool held_open);
extern bool trucker_slot_is_held_open(const char *name);

/* in shmem_move.c: the worker that gives a truck away */
extern bool trucker_move_begin(const pg_uuid_t *to_stream, XLogRecPtr lsn);
extern void trucker_move_end(void);

/* in shmem_move.c: the worker that takes it */
extern XLogRecPtr trucker_move_limit_confirm(XLogRecPtr lsn);
extern bool trucker_takeover_pending(void);
extern void trucker_takeover_begin(void);
extern void trucker_takeover_end(void);

/* in shmem_verify.c: the session that calls verify() */
extern int	trucker_verify_ask(const pg_uuid_t *truck_id, TimestampTz deadline);
extern TruckerVerifyStep trucker_verify_look(int index, TruckerVerifyOffer *offer);
extern bool trucker_verify_take(int index, uint64 number);
extern void trucker_verify_end(int index);

/* in shmem_verify.c: the worker that carries the truck */
extern bool trucker_verify_is_wanted(const pg_uuid_t *truck_id);
extern uint64 trucker_verify_offer(const pg_uuid_t *truck_id, XLogRecPtr lsn, const char *snapshot);
extern bool trucker_verify_is_open(const pg_uuid_t *truck_id, uint64 number);
extern void trucker_verify_withdraw(const pg_uuid_t *truck_id, bool failed);

#endif							/* TRUCKER_SHMEM_H */
