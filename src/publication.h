/*
 * publication.h
 *	  The publications that streams read by pgoutput.
 */
#ifndef TRUCKER_PUBLICATION_H
#define TRUCKER_PUBLICATION_H

#include "access/xlogdefs.h"
#include "nodes/parsenodes.h"

#include "state.h"

/* the second one, of tables without a replica identity, is named like the first with this */
#define TRUCKER_INSERTS_SUFFIX "_i"

/* in publication.c: in a worker */
extern char *trucker_publication_prepare(const pg_uuid_t *stream_id, List *trucks);
extern void trucker_publication_lock_all(void);
extern void trucker_publication_settle(const char *name);
extern bool trucker_publication_covers(const char *name, const TruckerTruck *truck, const List *unloaded,
									   XLogRecPtr lsn);
extern List *trucker_publication_names(const char *name);
extern const char *trucker_publication_trouble(const char *name, const TruckerTruck *truck, const List *unloaded);
extern void trucker_publication_clean(void);

/* in publication_guard.c: in anybody's session */
extern void trucker_publication_refuse(Node *statement);
extern void trucker_publication_before(Node *statement);
extern void trucker_publication_after(const TruckerAltered *altered);

/* in publication_guard.c: for both */
extern void trucker_publication_withdraw(const char *name, Oid relid);
extern void trucker_publication_enter(const char *name, Oid relid);
extern bool trucker_publication_is_ours(const char *name);

#endif							/* TRUCKER_PUBLICATION_H */
