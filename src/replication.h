/*
 * replication.h
 *	  The replication connection to this very server: slots and streaming.
 */
#ifndef TRUCKER_REPLICATION_H
#define TRUCKER_REPLICATION_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "decoder.h"
#include "pgconn.h"

typedef enum TruckerReceived
{
	TRUCKER_RECEIVED_NOTHING,	/* nothing there yet */
	TRUCKER_RECEIVED_DATA,		/* a message of the output plugin */
	TRUCKER_RECEIVED_KEEPALIVE
} TruckerReceived;

typedef struct TruckerReplication
{
	TruckerConn *conn;
	char	   *copied;			/* libpq's buffer that data points into */
	MemoryContextCallback on_reset; /* frees it */

	/* DATA */
	const char *data;
	int			len;
	XLogRecPtr	data_lsn;		/* start of the record that it is about; runs backwards with transactions */

	/* KEEPALIVE: all that committed before this LSN has been sent */
	XLogRecPtr	sent_lsn;
	bool		reply_requested;

	TimestampTz sent_at;		/* both: when the walsender sent it */
	XLogRecPtr	confirmed;		/* what we last told it */
} TruckerReplication;

/* in replication.c */
extern char *trucker_replication_socket(void);
extern List *trucker_own_server_parameters(const char *database);
extern TruckerReplication *trucker_replication_open(const char *database, const char *application_name);
extern int	trucker_replication_backend_pid(TruckerReplication *rep);
extern void trucker_replication_create_slot(TruckerReplication *rep, const char *slot, bool temporary,
											const char *plugin,
											XLogRecPtr *consistent_point, char **snapshot);
extern void trucker_replication_copy_slot(TruckerReplication *rep, const char *from, const char *to);
extern bool trucker_replication_create_slot_while(TruckerReplication *rep, const char *slot, const char *plugin,
												  bool (*goes_on) (void *arg), void *arg,
												  XLogRecPtr *consistent_point, char **snapshot);
extern void trucker_replication_start(TruckerReplication *rep, const char *slot, XLogRecPtr from,
									  const TruckerDecoder *decoder, const TruckerDecodeRequest *request);
extern TruckerReceived trucker_replication_receive(TruckerReplication *rep);
extern void trucker_replication_confirm(TruckerReplication *rep, XLogRecPtr lsn, bool force);

#endif							/* TRUCKER_REPLICATION_H */
