/*
 * shmem_internal.h
 *	  How trucker's shared memory is laid out; for the files shmem*.c.
 */
#ifndef TRUCKER_SHMEM_INTERNAL_H
#define TRUCKER_SHMEM_INTERNAL_H

#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "log.h"
#include "shmem.h"

#define MAX_PENDING_SCANS 64
#define MAX_CLOSING_DATABASES 64
#define TRUCKER_MAX_VERIFICATIONS 8

typedef struct TruckerWorkerEntry
{
	bool		in_use;
	bool		poked;
	bool		cancelled;		/* SIGINT was sent because of a truck */
	bool		hurried;		/* likewise, because trucks wait to be taken over */
	TimestampTz moved_at;		/* when it has given a truck away; see info.move */
	Latch	   *latch;			/* of the running worker, or NULL */
	TimestampTz ending_since;	/* it has been told to end; 0: it has not */
	TruckerWorkerInfo info;
} TruckerWorkerEntry;

typedef struct TruckerTruckEntry
{
	bool		in_use;
	uint64		worker_generation;	/* of info.worker */
	TruckerRepeats repeats;		/* of its failures, in the log */
	TruckerTruckInfo info;
} TruckerTruckEntry;

/* What is known of the slot in one of the server's places for slots. */
typedef struct TruckerSlotEntry
{
	char		name[NAMEDATALEN];	/* of the slot that it is about */
	XLogRecPtr	told_lsn;		/* the furthest that it can have been confirmed; 0: not known */
	bool		held_open;		/* transactions that are still open hold it back */
} TruckerSlotEntry;

/* A session that compares a truck's destination with the source (shmem_verify.c). */
typedef struct TruckerVerifyEntry
{
	pid_t		pid;			/* of the session; 0: the entry is free */
	Oid			database;
	pg_uuid_t	truck_id;
	TimestampTz deadline;
	TruckerVerifyStep step;
	pid_t		offered_by;
	TruckerVerifyOffer offer;
} TruckerVerifyEntry;

typedef struct TruckerSharedState
{
	Latch	   *launcher;		/* NULL while no launcher runs */
	bool		probe_succeeded;	/* the one that was sent last */
	Oid			probe_database; /* where it is, or is to go; InvalidOid: nowhere */
	pid_t		probe_pid;		/* 0: it has not started yet */
	bool		scan_all;
	int			npending;
	Oid			pending[MAX_PENDING_SCANS];
	int			nclosing;
	Oid			closing[MAX_CLOSING_DATABASES];
	ConditionVariable progress;
	int			nworkers;
	int			ntrucks;
	TruckerTruckEntry *trucks;	/* behind the workers */
	int			nslots;
	TruckerSlotEntry *slots;	/* behind the trucks */
	int			nverifications;
	uint64		last_offer;
	TruckerVerifyEntry verifications[TRUCKER_MAX_VERIFICATIONS];
	TruckerWorkerEntry workers[FLEXIBLE_ARRAY_MEMBER];
} TruckerSharedState;

/* in shmem.c; all but the pointers themselves is protected by the lock */
extern TruckerSharedState *trucker_shared;
extern LWLock *trucker_shared_lock;

extern void trucker_wake_launcher_locked(void);
extern bool trucker_is_closing_locked(Oid database);
extern TruckerWorkerEntry *trucker_find_worker_locked(Oid database, const pg_uuid_t *stream_id);
extern void trucker_poke_worker_locked(TruckerWorkerEntry *entry);

/* in shmem_truck.c */
extern TruckerTruckEntry *trucker_find_truck_locked(Oid database, const pg_uuid_t *truck_id);
extern void trucker_release_trucks_locked(int worker);
extern TruckerWorkerEntry *trucker_carrier_locked(const TruckerTruckEntry *truck);
extern TruckerWorkerEntry *trucker_truck_carrier_locked(Oid database, const pg_uuid_t *truck_id);
extern bool trucker_kill_stubborn_locked(void);

/* in shmem_probe.c */
extern void trucker_call_off_probe_locked(Oid database);

/* in shmem_move.c */
extern long trucker_hurry_takers_locked(void);

/* in shmem_worker.c: this process's entry, NULL if it is no stream worker */
extern TruckerWorkerEntry *trucker_my_entry;

#endif							/* TRUCKER_SHMEM_INTERNAL_H */
