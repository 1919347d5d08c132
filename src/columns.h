/*
 * columns.h
 *	  What columns an input table had when a change was made.
 */
#ifndef TRUCKER_COLUMNS_H
#define TRUCKER_COLUMNS_H

#include "access/tupdesc.h"
#include "access/xlogdefs.h"
#include "nodes/bitmapset.h"
#include "utils/uuid.h"

typedef struct TruckerColumnThen
{
	AttrNumber	attnum;
	Oid			type;
	bool		is_bytea;		/* or a domain over it */
	const char *marks;			/* of its type, as trucker.type_marks() tells; empty: none */
	const char *name;
	bool		altered;		/* its type was, since: its text would be read as another value */
	bool		refused;		/* its text cannot become a value of the type that the column has now */
} TruckerColumnThen;

/* The columns of a table from some point of the WAL on. */
typedef struct TruckerColumnSpan
{
	XLogRecPtr	lsn;
	uint64		named_by;		/* 0, or a transaction: for others' changes from its commit on */
	XLogRecPtr	commit_lsn;		/* that commit's; 0: not known */
	int			ncolumns;		/* 0: not known */
	TruckerColumnThen *columns; /* by attnum */
	Bitmapset  *attnums;
	Bitmapset  *defaulted;		/* attnums of those that had a default of some kind */
	const struct TruckerColumnSpan *next;	/* NULL: these are those of now */
} TruckerColumnSpan;

/* All that is known of one input table's. */
typedef struct TruckerColumns TruckerColumns;

/* in columns.c */
extern TruckerColumns *trucker_columns_create(Oid relid);
extern void trucker_columns_begin(TruckerColumns *columns);
extern const TruckerColumnSpan *trucker_columns_at(TruckerColumns *columns, const pg_uuid_t *truck_id,
												   TupleDesc desc, XLogRecPtr lsn, TransactionId xid);
extern void trucker_columns_check(TruckerColumns *columns, const pg_uuid_t *truck_id, TupleDesc desc);
extern void trucker_columns_confirm(TruckerColumns *columns, const pg_uuid_t *truck_id);
extern bool trucker_columns_have_old(const TruckerColumns *columns);
extern const TruckerColumnThen *trucker_columns_find(const TruckerColumnSpan *then, const char *name, int *hint);
extern bool trucker_columns_were_defaulted(const TruckerColumnSpan *then, AttrNumber attnum);

#endif							/* TRUCKER_COLUMNS_H */
