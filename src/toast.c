/*
 * toast.c
 *	  Supply TOAST values that an update did not change.
 *
 * Such a value is not in the WAL.  It is taken, in this order,
 *	1. from the old row, where REPLICA IDENTITY FULL carries that;
 *	2. from the table's row, while that is still the version that this very
 *	   change made: its xmin is the change's transaction;
 *	3. from the table's row whatever its version, if the truck's option
 *	   toast = "current" accepts that;
 * else the truck stops.
 *
 * "The version that this change made" needs more than xmin: the same source
 * transaction may have changed the row again, or put another row in its place.
 * Then a later change of that transaction shows it: it carries the column, deletes
 * the row, or moves a row away from the key or to it.  So the keys of rows whose
 * values were taken by rule 2 are remembered until the source transaction ends,
 * and trucker_toast_check_taken() raises an error when a later change proves one
 * of them wrong - always before anything is committed.
 */
#include "trucker.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/subtrans.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "part.h"
#include "toast.h"

static bool
is_toastable(Form_pg_attribute attr)
{
	return attr->attlen == -1 && attr->attstorage != TYPSTORAGE_PLAIN;
}

/* Is the type's longest value too short to be worth moving out of line? */
static bool
is_short(Form_pg_attribute attr)
{
	int32		size = type_maximum_size(attr->atttypid, attr->atttypmod);

	return size > 0 && size <= TOAST_POINTER_SIZE;
}

/* The attribute of a column of r, if the row should have it and does not. */
static Form_pg_attribute
absent_attribute(const TruckerRow *row, const TruckerRelation *relation,
				 const TruckerColumn *column)
{
	Form_pg_attribute attr;

	if (column->source != TRUCKER_FROM_NEW ||
		row->newpresence[column->number - 1] != TRUCKER_ABSENT)
		return NULL;
	attr = TupleDescAttr(relation->desc, column->number - 1);
	/* a generated value may depend on a large one (generated.c) */
	return is_toastable(attr) || attr->attgenerated != '\0' ? attr : NULL;
}

/* Does this change lack a value that is read, and might be an unchanged one? */
bool
trucker_toast_is_needed(const TruckerRow *row, const TruckerRelation *relation,
						const TruckerRowType *type)
{
	if (row->operation != TRUCKER_UPDATE)
		return false;
	for (int i = 0; i < type->desc->natts; i++)
		if (absent_attribute(row, relation, &type->columns[i]))
			return true;
	return false;
}

/*
 * Could rule 2 ever be needed for this truck and table?  *column is the name of
 * the first such column.
 */
bool
trucker_toast_can_occur(const TruckerRelation *relation,
						const TruckerRowType *type, const char **column)
{
	if (relation->identity_full || !relation->has_toast)
		return false;
	for (int i = 0; i < type->desc->natts; i++)
	{
		Form_pg_attribute attr;

		if (type->columns[i].source != TRUCKER_FROM_NEW)
			continue;
		attr = TupleDescAttr(relation->desc, type->columns[i].number - 1);
		if (is_toastable(attr) && !bms_is_member(attr->attnum, relation->identity) &&
			!is_short(attr))
		{
			*column = NameStr(attr->attname);
			return true;
		}
	}
	return false;
}

/* ----
 * Finding the table's row
 * ----
 */

/* The row's attnum for a column of the table where it is: perhaps a partition. */
static int
attnum_in_row(const TruckerRow *row, int attnum)
{
	return row->part ? row->part->to_whole[attnum - 1] : attnum;
}

static int
attnum_in_table(const TruckerRow *row, int attnum)
{
	return row->part ? row->part->from_whole[attnum - 1] : attnum;
}

/* Scan keys "all columns of the index equal the change's new key"; 0: it is not known. */
static int
build_scan_keys(ScanKey keys, Relation index, const TruckerRow *row)
{
	int			n = IndexRelationGetNumberOfKeyAttributes(index);

	for (int i = 0; i < n; i++)
	{
		int			attnum = attnum_in_row(row, index->rd_index->indkey.values[i]);
		Oid			opfamily = index->rd_opfamily[i];
		Oid			type = index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(opfamily, type, type, BTEqualStrategyNumber);

		if (!OidIsValid(operator))
			elog(ERROR, "missing equality operator in operator family %u", opfamily);
		if (attnum == 0 || row->newpresence[attnum - 1] != TRUCKER_PRESENT)
			return 0;
		ScanKeyInit(&keys[i], i + 1, BTEqualStrategyNumber,
					get_opcode(operator), row->newvalues[attnum - 1]);
		keys[i].sk_collation = index->rd_indcollation[i];
	}
	return n;
}

/* Fetch the row with the change's key into slot; false: there is none. */
static bool
fetch_row(TupleTableSlot *slot, Relation rel, Oid index_id, const TruckerRow *row)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	Relation	index;
	IndexScanDesc scan;
	int			nkeys;
	bool		found = false;

	if (!OidIsValid(index_id))
		return false;
	index = index_open(index_id, AccessShareLock);
	nkeys = build_scan_keys(keys, index, row);
	if (nkeys > 0)
	{
		scan = index_beginscan(rel, index, GetActiveSnapshot(), nkeys, 0);
		index_rescan(scan, keys, nkeys, NULL, 0);
		found = index_getnext_slot(scan, ForwardScanDirection, slot);
		if (found)
			ExecMaterializeSlot(slot);
		index_endscan(scan);
	}
	index_close(index, AccessShareLock);
	return found;
}

/*
 * Is subxid a subtransaction of xid, both of them ended?
 *
 * pg_subtrans knows, but vouches only for transactions that may still run
 * (hence the assertion there on TransactionXmin).  What it says of older ones is
 * right as long as it is there: a parent is always older than its child, and we
 * ask for one certain parent.  If it is there no more, reading it is an error,
 * which here means no more than "not known": hence the subtransaction around it.
 */
static bool
is_part_of(TransactionId subxid, TransactionId xid)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	TransactionId saved_xmin = TransactionXmin;
	volatile bool found = false;

	if (!TransactionIdFollows(subxid, xid))
		return false;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		TransactionXmin = xid;
		found = TransactionIdEquals(SubTransGetTopmostTransaction(subxid), xid);
		TransactionXmin = saved_xmin;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		TransactionXmin = saved_xmin;
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return found;
}

/* Was this row version made by the transaction or by one of its parts? */
static bool
made_by(TupleTableSlot *slot, TransactionId xid)
{
	bool		isnull;
	TransactionId xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));

	if (TransactionIdEquals(xmin, xid))
		return true;
	return TransactionIdIsNormal(xmin) && is_part_of(xmin, xid);
}

/* ----
 * The keys of rows whose values were taken
 * ----
 */

typedef struct TakenEntry
{
	uint64		key;			/* hash of the table and the row's key */
	Bitmapset  *columns;		/* whose values were taken */
} TakenEntry;

/* Keys and columns, by a 64-bit hash of the key, in the current memory context. */
HTAB *
trucker_toast_create_taken(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(TakenEntry);
	ctl.hcxt = CurrentMemoryContext;
	return hash_create("trucker taken TOAST values", 64, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static uint64
hash_value(Datum value, Form_pg_attribute attr, uint64 seed)
{
	if (attr->attbyval)
		return hash_bytes_extended((unsigned char *) &value, sizeof(Datum), seed);
	if (attr->attlen == -1)
		return hash_bytes_extended((unsigned char *) VARDATA_ANY(DatumGetPointer(value)),
								   VARSIZE_ANY_EXHDR(DatumGetPointer(value)), seed);
	return hash_bytes_extended((unsigned char *) DatumGetPointer(value),
							   attr->attlen == -2 ? strlen(DatumGetCString(value)) : attr->attlen,
							   seed);
}

static uint64
hash_key(const TruckerRelation *relation, const Datum *values,
		 const TruckerPresence *presence)
{
	uint64		hash = relation->relid;

	for (int i = 0; i < relation->nkeys; i++)
	{
		int			at = relation->keys[i] - 1;

		hash = presence[at] == TRUCKER_PRESENT ?
			hash_value(values[at], TupleDescAttr(relation->desc, at), hash) :
			hash_combine64(hash, 1);
	}
	return hash;
}

static TakenEntry *
find_taken(HTAB *taken, uint64 key)
{
	return hash_search(taken, &key, HASH_FIND, NULL);
}

static bool
carries_one_of(const TruckerRow *row, const Bitmapset *columns)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(columns, attnum)) >= 0)
		if (row->newpresence[attnum - 1] != TRUCKER_ABSENT)
			return true;
	return false;
}

/*
 * A change after another one of the same source transaction, for which a value
 * was taken from the table: does it show that the value was not yet there?
 */
void
trucker_toast_check_taken(const TruckerRow *row, const TruckerRelation *relation,
						  HTAB *taken)
{
	uint64		old_key = 0;
	uint64		new_key = 0;
	TakenEntry *entry = NULL;
	bool		doubtful;

	if (hash_get_num_entries(taken) == 0)
		return;
	if (row->operation != TRUCKER_INSERT)
		old_key = hash_key(relation, row->oldvalues, row->oldpresence);
	if (row->operation != TRUCKER_DELETE)
		new_key = hash_key(relation, row->newvalues, row->newpresence);

	if (row->operation == TRUCKER_UPDATE && old_key == new_key)
	{
		entry = find_taken(taken, old_key);
		doubtful = entry != NULL && carries_one_of(row, entry->columns);
	}
	else
		doubtful = (row->operation != TRUCKER_INSERT && find_taken(taken, old_key)) ||
			(row->operation != TRUCKER_DELETE && find_taken(taken, new_key));
	if (doubtful)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("an update of table %s does not carry a large value that it left unchanged",
						relation->name),
				 errdetail("The same transaction has changed the row again, so the value can no longer be read from the table."),
				 errhint("Run %s then trucker.resync(); or create the truck with the option \"toast\": \"current\".",
						 trucker_parts_alter_all(relation))));
}

static void
note_taken(HTAB *taken, const TruckerRow *row, const TruckerRelation *relation,
		   Bitmapset *columns)
{
	uint64		key = hash_key(relation, row->newvalues, row->newpresence);
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(taken));
	bool		found;
	TakenEntry *entry = hash_search(taken, &key, HASH_ENTER, &found);

	entry->columns = bms_union(found ? entry->columns : NULL, columns);
	MemoryContextSwitchTo(old);
}

/* ----
 * Filling in
 * ----
 */

static void
raise_unavailable(const TruckerRelation *relation, Form_pg_attribute attr)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("an update of table %s does not carry the large value of column \"%s\", which it left unchanged",
					relation->name, NameStr(attr->attname)),
			 errdetail("The row has been changed since, so the value can no longer be read from the table."),
			 errhint("Run %s then trucker.resync(); or create the truck with the option \"toast\": \"current\".",
					 trucker_parts_alter_all(relation))));
}

/*
 * Fill in what trucker_toast_is_needed() found missing, or raise an error.  The
 * active snapshot must be newer than the change's transaction.  rel is where the row
 * is: the table, or the partition row->part.  Values are allocated in the current memory
 * context.
 */
void
trucker_toast_fill(TruckerRow *row, Relation rel, const TruckerRelation *relation,
				   const TruckerRowType *type, bool accept_current, HTAB *taken)
{
	TupleTableSlot *slot = NULL;
	Bitmapset  *columns = NULL;
	bool		found = false;

	for (int i = 0; i < type->desc->natts; i++)
	{
		Form_pg_attribute attr = absent_attribute(row, relation, &type->columns[i]);
		int			at = type->columns[i].number - 1;
		bool		isnull;
		Datum		value;

		if (attr == NULL)
			continue;
		if (row->oldpresence[at] != TRUCKER_ABSENT)
		{
			row->newpresence[at] = row->oldpresence[at];
			row->newvalues[at] = row->oldvalues[at];
			continue;
		}
		if (slot == NULL)
		{
			/* a partition that is none any more is another's table */
			if (row->part && row->part->desc == NULL)
				raise_unavailable(relation, attr);
			slot = table_slot_create(rel, NULL);
			found = fetch_row(slot, rel, row->part ? row->part->key_index : relation->identity_index, row);
			if (!accept_current && !(found && made_by(slot, row->xid)))
				raise_unavailable(relation, attr);
		}
		columns = bms_add_member(columns, attr->attnum);
		value = found ? slot_getattr(slot, attnum_in_table(row, attr->attnum), &isnull) : (Datum) 0;
		if (!found || isnull)
			row->newpresence[at] = TRUCKER_IS_NULL;
		else
		{
			row->newvalues[at] = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
			row->newpresence[at] = TRUCKER_PRESENT;
		}
	}
	if (slot)
	{
		ExecDropSingleTupleTableSlot(slot);
		if (accept_current)
			row->as_of_now = columns;
		else
			note_taken(taken, row, relation, columns);
	}
}
