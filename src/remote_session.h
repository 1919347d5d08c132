/*
 * remote_session.h
 *	  A session at another PostgreSQL server, with a transaction that holds the position.
 */
#ifndef TRUCKER_REMOTE_SESSION_H
#define TRUCKER_REMOTE_SESSION_H

#include "output.h"
#include "remote_position.h"

/* answers are read when so many are under way */
#define TRUCKER_REMOTE_PENDING 128

/* What an answer that is yet to come belongs to. */
typedef enum TruckerRemoteExpect
{
	TRUCKER_EXPECT_ANYTHING,
	TRUCKER_EXPECT_LOCK,
	TRUCKER_EXPECT_COMMIT,
	TRUCKER_EXPECT_ONE_ROW,
	TRUCKER_EXPECT_SYNC
} TruckerRemoteExpect;

typedef struct TruckerRemotePending
{
	TruckerRemoteExpect expect;
	const char *sql;			/* for errors */
} TruckerRemotePending;

typedef struct TruckerRemote
{
	TruckerOutput output;
	MemoryContext context;

	/* the session */
	MemoryContext session_context;	/* a reset closes the connection */
	TruckerConn *conn;			/* NULL: none */
	TruckerRemotePosition *position;
	uint64		changes;		/* of servers and mappings, before we connected */
	uint64		session;		/* its number */
	uint64		transaction;	/* the number of the last one */
	int			names;			/* of statements and tables, used up */
	bool		taken;			/* the position there is ours; or, if we only rehearse, known */
	bool		checking;		/* only to find out whether SQL can be prepared */

	/* the open transaction */
	bool		begun;			/* and ours, which belongs to it, has not committed */
	MemoryContext batch_context;
	TruckerRemotePending pending[TRUCKER_REMOTE_PENDING + 16];
	int			first;			/* of the pending ones that have not been answered */
	int			last;
	Size		bytes;			/* sent since answers were read */
} TruckerRemote;

/* in remote_session.c */
extern bool trucker_remote_leads_here(const TruckerTruck *truck);
extern void trucker_remote_open(TruckerRemote *remote);
extern void trucker_remote_close(TruckerRemote *remote);
extern bool trucker_remote_is_alive(TruckerConn *conn);
extern void trucker_remote_enter_pipeline(TruckerRemote *remote);
extern void trucker_remote_leave_pipeline(TruckerRemote *remote);
extern void trucker_remote_begin(TruckerRemote *remote);
extern void trucker_remote_sent(TruckerRemote *remote, int accepted, TruckerRemoteExpect expect, const char *sql, Size bytes);
extern void trucker_remote_send(TruckerRemote *remote, const char *sql, TruckerRemoteExpect expect);
extern void trucker_remote_sync(TruckerRemote *remote);

#endif							/* TRUCKER_REMOTE_SESSION_H */
