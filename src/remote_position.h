/*
 * remote_position.h
 *	  A truck's position at another server, in the transaction that writes the data.
 */
#ifndef TRUCKER_REMOTE_POSITION_H
#define TRUCKER_REMOTE_POSITION_H

#include "connection.h"
#include "position.h"
#include "truck.h"

/* What a session there knows of it. */
typedef struct TruckerRemotePosition
{
	char	   *schema_name;
	char	   *schema;			/* quoted */
	char	   *table;			/* quoted, with its schema */
	char	   *key;			/* a condition: this truck's row */
	char	   *settings_sql;	/* for each transaction */
	char	   *lock_sql;		/* of lsn and token: raises an error if the row is another one */
	char	   *write_sql;		/* of lsn and timeline */
	XLogRecPtr	lsn;			/* in the row, as we have left it */
	char	   *token;
	bool		is_here;		/* it is this very database */
	bool		pooled;			/* there is no session between two transactions */
	bool		must_reset;		/* a backfill has been committed of which we do not know */
} TruckerRemotePosition;

/* in remote_position.c */
extern TruckerRemotePosition *trucker_remote_position_open(TruckerConn *conn, const TruckerConnection *connection, const TruckerTruck *truck);
extern void trucker_remote_position_begin(TruckerConn *conn, const TruckerRemotePosition *remote);
extern void trucker_remote_position_make_table(TruckerConn *conn, const TruckerRemotePosition *remote);
extern const char *trucker_remote_position_take(TruckerConn *conn, TruckerRemotePosition *remote,
												const TruckerTruck *truck, TruckerPosition *position);
extern const char *trucker_remote_position_look(TruckerConn *conn, const TruckerRemotePosition *remote,
												const TruckerTruck *truck, TruckerPosition *position);
extern bool trucker_remote_position_is_mismatch(const PGresult *result);
extern void trucker_remote_position_raise_mismatch(const TruckerTruck *truck) pg_attribute_noreturn();

#endif							/* TRUCKER_REMOTE_POSITION_H */
