/*
 * row.h
 *	  An input table's columns, the columns of r, and one change as Datums.
 */
#ifndef TRUCKER_ROW_H
#define TRUCKER_ROW_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"

#include "columns.h"
#include "decoder.h"
#include "identity.h"

typedef enum TruckerOperation
{
	TRUCKER_INSERT,
	TRUCKER_UPDATE,
	TRUCKER_DELETE
} TruckerOperation;

#define TRUCKER_OPERATIONS 3

/* An input table as it is now, with what converting its changes needs. */
typedef struct TruckerRelation
{
	Oid			relid;
	Oid			owner;
	bool		runs_code;		/* its values cannot be made without the code of CHECKs of domains */
	char	   *name;			/* quoted and schema-qualified */
	TupleDesc	desc;			/* a copy, with constraints */
	bool		has_toast;		/* does it have a TOAST table? */
	bool		identity_full;	/* REPLICA IDENTITY FULL */
	Oid			identity_index; /* of the replica identity, or of the primary key; or invalid */
	Bitmapset  *identity;		/* attnums whose old values a change carries */
	bool		has_key;		/* an index says what tells rows apart; else any column does that can be hashed */
	int			nkeys;			/* what tells rows apart within a run */
	AttrNumber *keys;

	/* by attnum - 1 */
	bool	   *need_new;		/* does anybody need the new value? */
	bool	   *need_old;
	FmgrInfo   *input;			/* input functions, looked up when first needed */
	Oid		   *input_param;
	TransactionId *altered_by;	/* xmin of the pg_attribute row */
	FmgrInfo   *receive;		/* receive functions, likewise */
	Oid		   *receive_param;
	bool	   *receive_copy;	/* do they write to what they read? */
	bool	   *names_objects;	/* is the text an object's name (regclass ...)? */
	struct TruckerGenerated *generated; /* NULL: not looked at (generated.c) */
	int			converting;		/* attnum at hand, for errors; 0: none */

	/* of a partitioned table; the identity is what all partitions log (part.c) */
	bool		is_partitioned;
	char	   *parts;			/* the partitions and what they log, to be compared */
	uint64		parts_seen;		/* they were so as of that many alterations */
	List	   *parts_without;	/* names of those without a replica identity */
	List	   *parts_not_full; /* ... with less than REPLICA IDENTITY FULL */
} TruckerRelation;

/* A partition of an input table: its columns may lie elsewhere. */
typedef struct TruckerPart
{
	Oid			relid;
	bool		is_open;		/* by this batch */
	Relation	rel;			/* NULL: it is no more; or it is not open */

	TupleDesc	desc;			/* NULL: it is no partition any more, match by the names in the change */
	AttrNumber *to_whole;		/* the table's attnum, or 0, by the partition's - 1 */
	AttrNumber *from_whole;		/* the reverse */
	Oid			key_index;		/* of its replica identity, or primary key; or invalid */
} TruckerPart;

/* The metadata columns of r, in order. */
typedef enum TruckerMeta
{
	TRUCKER_META_OPERATION,
	TRUCKER_META_LSN,
	TRUCKER_META_XID,
	TRUCKER_META_COMMITTED_AT,
	TRUCKER_META_SEQ,
	TRUCKER_META_TABLE
} TruckerMeta;

#define TRUCKER_METAS 6

typedef enum TruckerColumnSource
{
	TRUCKER_FROM_NEW,
	TRUCKER_FROM_OLD,
	TRUCKER_FROM_META
} TruckerColumnSource;

typedef struct TruckerColumn
{
	TruckerColumnSource source;
	int			number;			/* attnum, or TruckerMeta */
	bool		name_too_long;	/* old__ does not fit before the name */
} TruckerColumn;

/* The columns of r. */
typedef struct TruckerRowType
{
	TupleDesc	desc;
	TruckerColumn *columns;
} TruckerRowType;

/* Whether a value is there.  A missing value is not a NULL. */
typedef enum TruckerPresence
{
	TRUCKER_ABSENT,
	TRUCKER_IS_NULL,
	TRUCKER_PRESENT,
	TRUCKER_UNREAD				/* it is there, and nobody wants to know */
} TruckerPresence;

/* One change.  Arrays by attnum - 1. */
typedef struct TruckerRow
{
	TruckerOperation operation;
	const TruckerPart *part;	/* whose change it was; NULL: the table's own */
	const TruckerColumnSpan *then;	/* the table's columns when it was made; NULL: not known */
	Datum	   *newvalues;
	TruckerPresence *newpresence;
	Datum	   *oldvalues;
	TruckerPresence *oldpresence;
	bool		old_in_doubt;	/* the old row holds columns that are not known any more */
	bool		absent_in_doubt;	/* what a column that is absent was then, is not known */
	Bitmapset  *as_of_now;		/* new values that are today's, not the change's */
	XLogRecPtr	lsn;
	TransactionId xid;
	TimestampTz committed_at;
	int64		seq;
} TruckerRow;

/* in row.c */
extern const char *trucker_operation_name(TruckerOperation operation);
extern char *trucker_qualified_name(Relation rel);
extern Bitmapset *trucker_attnums_of(Bitmapset *offset_set);

extern TruckerRelation *trucker_relation_build(Relation rel);
extern void trucker_relation_begin_as_owner(const TruckerRelation *relation, TruckerIdentity *saved);
extern void trucker_relation_end_as_owner(const TruckerIdentity *saved);
extern bool trucker_relation_is_current(const TruckerRelation *relation, Relation rel);

extern TruckerRowType *trucker_row_type_full(TupleDesc reldesc, const Bitmapset *excluded);
extern TruckerRowType *trucker_row_type_narrow(const TruckerRowType *full, const Bitmapset *columns);
extern bool trucker_row_type_reads(const TruckerRowType *type, TruckerColumnSource source, int number);

extern TruckerRow *trucker_row_create(const TruckerRelation *relation);
extern void trucker_row_clear(TruckerRow *row, const TruckerRelation *relation);
extern Datum trucker_row_missing(const TruckerRow *row, const TruckerRelation *relation, int attnum,
								 bool defaulted, bool *isnull);
extern Datum trucker_row_value(const TruckerRow *row, const TruckerRelation *relation,
							   bool old, int attnum, bool *isnull);
extern void trucker_row_project(const TruckerRow *row, const TruckerRelation *relation,
								const TruckerRowType *type, Datum *values, bool *nulls);

/* in row_message.c */
extern bool trucker_type_can_lose_nan(Oid type);
extern int	trucker_message_attnum(const TruckerMessage *message, const char *name, int *hint);
extern void trucker_row_from_message(TruckerRow *row, TruckerRelation *relation,
									 const TruckerPart *part, const TruckerColumnSpan *then,
									 const TruckerMessage *message);

#endif							/* TRUCKER_ROW_H */
