/*
 * keyhash.h
 *	  The keys of a change as numbers that can be kept.
 */
#ifndef TRUCKER_KEYHASH_H
#define TRUCKER_KEYHASH_H

#include "row.h"

/* The keys that a change is about: its row's, before and after. */
typedef struct TruckerRowKeys
{
	int64		made_of;		/* stands for the key columns; hashes of others say nothing */
	bool		any;			/* it may be about any row of the table */
	int			n;
	int64		hashes[2];
} TruckerRowKeys;

typedef struct TruckerKeyHasher TruckerKeyHasher;

/* in keyhash.c */
extern TruckerKeyHasher *trucker_key_hasher_create(Relation rel);
extern void trucker_key_hasher_read(TruckerKeyHasher *hasher, TransactionId xid, const TruckerPart *part,
									const TruckerColumnSpan *then, const TruckerMessage *message,
									TruckerRowKeys *keys);

#endif							/* TRUCKER_KEYHASH_H */
