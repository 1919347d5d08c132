/*
 * quarantine.h
 *	  Changes of a truck that wait for somebody to decide about them.
 */
#ifndef TRUCKER_QUARANTINE_H
#define TRUCKER_QUARANTINE_H

#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/uuid.h"

#include "keyhash.h"

/* instead of a source transaction's number: all of the truck's */
#define TRUCKER_QUARANTINE_ALL 0

/* A source transaction that has changes in quarantine. */
typedef struct TruckerHeld
{
	int64		id;
	XLogRecPtr	lsn;			/* of its commit */
	int64		nchanges;
	bool		parked;			/* not for an error of its own */
	bool		asked;			/* somebody wants it to be applied */
	bool		tried;			/* not again, before the catalog is read again */
	bool		gone;			/* it has been applied */
} TruckerHeld;

/* All that a truck has in quarantine; without its values. */
typedef struct TruckerQuarantine
{
	pg_uuid_t	truck_id;
	MemoryContext context;		/* of all below */
	bool		stale;			/* it must be read again */
	bool		full;			/* an error was raised because there may be no more */
	int64		nchanges;
	List	   *held;			/* of TruckerHeld, in the order of their commits */
	HTAB	   *tables;			/* NULL: there are none */
	HTAB	   *keys;
} TruckerQuarantine;

/* A change that was kept. */
typedef struct TruckerKeptChange
{
	int32		seq;
	Oid			relid;
	char	   *table;			/* its name when it was put there */
	TruckerRowKeys keys;
	TruckerMessage message;
} TruckerKeptChange;

/* in quarantine.c: what there is */
extern TruckerQuarantine *trucker_quarantine_load(const pg_uuid_t *truck_id);
extern void trucker_quarantine_reload(TruckerQuarantine *quarantine);
extern bool trucker_quarantine_is_empty(const TruckerQuarantine *quarantine);
extern TruckerHeld *trucker_quarantine_find(const TruckerQuarantine *quarantine, int64 id);
extern TruckerHeld *trucker_quarantine_asked(const TruckerQuarantine *quarantine);
extern TruckerHeld *trucker_quarantine_holder(const TruckerQuarantine *quarantine, Oid relid,
											  const TruckerRowKeys *keys, XLogRecPtr before);
extern List *trucker_quarantine_followers(const TruckerQuarantine *quarantine, Oid relid,
										  const TruckerRowKeys *keys, XLogRecPtr after, List *followers);
extern void trucker_quarantine_note(TruckerQuarantine *quarantine, TruckerHeld *held, Oid relid,
									const TruckerRowKeys *keys);
extern TruckerHeld *trucker_quarantine_note_held(TruckerQuarantine *quarantine, int64 id, XLogRecPtr lsn);

/* in quarantine_store.c: what the catalog holds of it */
extern void trucker_quarantine_read(TruckerQuarantine *quarantine);
extern TruckerHeld *trucker_quarantine_open(TruckerQuarantine *quarantine, const TruckerMessage *begin,
											const char *error, int64 behind);
extern void trucker_quarantine_add(TruckerQuarantine *quarantine, TruckerHeld *held, Oid relid,
								   const char *table, const TruckerMessage *message,
								   const TruckerRowKeys *keys);
extern bool trucker_quarantine_take(const TruckerQuarantine *quarantine, const TruckerHeld *held,
									TruckerMessage *begin);
extern List *trucker_quarantine_kept(const TruckerHeld *held, int32 after);
extern void trucker_quarantine_remove(const TruckerQuarantine *quarantine, const TruckerHeld *held,
									  const List *followers);
extern void trucker_quarantine_note_failure(const TruckerHeld *held, const char *why, bool own_error);
extern bool trucker_quarantine_owner(int64 id, pg_uuid_t *truck_id);
extern uint64 trucker_quarantine_ask(const pg_uuid_t *truck_id, int64 id);
extern uint64 trucker_quarantine_discard(const pg_uuid_t *truck_id, int64 id);
extern uint64 trucker_quarantine_discard_others(const pg_uuid_t *truck_id, int ninputs, const Oid *inputs);

#endif							/* TRUCKER_QUARANTINE_H */
