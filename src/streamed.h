/*
 * streamed.h
 *	  Transactions that are sent while they run are kept until they have committed.
 */
#ifndef TRUCKER_STREAMED_H
#define TRUCKER_STREAMED_H

#include "decoder.h"

/* All that are in progress on a replication connection. */
typedef struct TruckerStreamed TruckerStreamed;

extern TruckerStreamed *trucker_streamed_create(void);
extern void trucker_streamed_take(TruckerStreamed *streamed, const TruckerMessage *message);
extern void trucker_streamed_read(TruckerStreamed *streamed, TransactionId xid);
extern bool trucker_streamed_next(TruckerStreamed *streamed, XLogRecPtr *lsn, char **data, int *len, bool *taken_back);
extern bool trucker_streamed_is_empty(const TruckerStreamed *streamed);
extern void trucker_streamed_clear(TruckerStreamed *streamed);

#endif							/* TRUCKER_STREAMED_H */
