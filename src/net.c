/*
 * net.c
 *	  Collapse the changes of one input table to what they amount to.
 *
 * With the truck's option changes = "net", changes do not go into runs as they
 * come.  They are collected here, and each row of the table becomes one change at
 * most: what it was before the first, and what it is after the last.
 *
 *	insert, delete			nothing
 *	insert, updates			an insert of the last values
 *	updates					an update from the first old to the last new values
 *	updates, delete			a delete of the first old values
 *	delete, insert			an update, if the same key was there before
 *
 * A row is followed when its key changes.  So there is a NetRow for each row of
 * the table, and an entry for each key that has occurred: which row stood there
 * at first (was), and which stands there now (here).  A key's entry without a row
 * that was there means: the key was free, and an insert or another row took it.
 *
 * Order.  What comes out is arranged so that a key is free before it is taken:
 *	1. deletes,
 *	2. updates,
 *	3. inserts;
 * each of them in the order of the rows' last changes.  A row that moves to a key
 * which another row has left by an update would need a certain place among the
 * updates, or there is none (two rows that swap their keys).  It comes out as a
 * delete and an insert.  The runs that are made of all this end where a key
 * recurs, as any others do (changeset.c).  So whoever applies them in order never
 * meets a key that is taken.
 *
 * A change that does not fit what is known (a key inserted that is there already)
 * cannot be, as long as the table's key is what it was.  If it happens all the
 * same, the caller executes what has been collected and begins anew, which is
 * right at any point; as it does when the memory allowed is full.
 *
 * Values are kept as tuples of just the columns that r or the key need: one of
 * the row before, one of the row after.  The second is replaced with each change.
 * That each change is converted, although most values are superseded, is a tenth of
 * what it costs (measured; half is decoding and receiving it): not worth keeping
 * texts, which would have to be told apart from values that toast.c has found.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "lib/ilist.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "keytable.h"
#include "net.h"

struct NetRow;

/* What is known of a key; zero when it first occurs. */
typedef struct NetKey
{
	struct NetRow *was;			/* the row that stood here before all changes */
	struct NetRow *here;		/* the row that stands here now */
} NetKey;

/* One row of the table, since its first change. */
typedef struct NetRow
{
	dlist_node	node;			/* in the order of the last change */
	NetKey	   *from;			/* where it stood before; NULL: nowhere, it is new */
	NetKey	   *to;				/* where it stands; NULL: nowhere, it is deleted */
	MinimalTuple before;		/* NULL if from is */
	MinimalTuple after;			/* NULL if to is */
	Bitmapset  *as_of_now;		/* columns of after whose values are not the change's */

	/* of the last change */
	XLogRecPtr	lsn;
	TransactionId xid;
	TimestampTz committed_at;
	int64		seq;
} NetRow;

/* The columns kept of the old or of the new row. */
typedef struct NetSide
{
	bool		old;
	TupleDesc	desc;
	AttrNumber *attnums;
	Datum	   *values;
	bool	   *nulls;
} NetSide;

/* In which order changes come out. */
typedef enum NetPhase
{
	PHASE_DELETE,
	PHASE_UPDATE,
	PHASE_INSERT,
	PHASE_DONE
} NetPhase;

struct TruckerNet
{
	const TruckerRelation *relation;
	const TruckerRowType *type;
	TruckerKeyTable *keys;
	MemoryContext context;		/* of rows and their tuples */
	NetSide		before;
	NetSide		after;
	dlist_head	rows;

	/* the change at hand */
	NetKey	   *old_key;
	NetKey	   *new_key;
	NetRow	   *found;			/* the row that it changes, if that has been changed before */

	/* what is coming out */
	NetPhase	phase;
	dlist_node *next;			/* NULL: the phase has not begun */
	TruckerRow *row;
};

/* ----
 * What a table needs
 * ----
 */

static void
refuse_key(const TruckerRelation *relation, Form_pg_attribute attr, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("table %s cannot be read with the option \"changes\": \"net\"", relation->name),
			 errdetail("Its key column \"%s\" %s.", NameStr(attr->attname), why),
			 errhint("Create the truck without that option, or choose another key with ALTER TABLE %s REPLICA IDENTITY USING INDEX.",
					 relation->name)));
}

/*
 * Are two keys of the index the same just if we take them for the same?  An index
 * whose operator class or collation tells more apart would have rows of which we
 * make one.
 */
static void
check_comparison(const TruckerRelation *relation)
{
	Relation	index = index_open(relation->identity_index, AccessShareLock);

	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, index->rd_index->indkey.values[i] - 1);
		TypeCacheEntry *type = lookup_type_cache(attr->atttypid, TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);
		Oid			opcintype = index->rd_opcintype[i];

		if (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_proc))
			refuse_key(relation, attr, psprintf("is of type %s, which cannot be hashed",
												format_type_be(attr->atttypid)));
		if (get_opfamily_member(index->rd_opfamily[i], opcintype, opcintype,
								BTEqualStrategyNumber) != type->eq_opr)
			refuse_key(relation, attr, "is compared by its index in another way than by its type");
		if (index->rd_indcollation[i] != attr->attcollation &&
			!get_collation_isdeterministic(attr->attcollation))
			refuse_key(relation, attr, "is compared by its index with another collation than its own");
	}
	index_close(index, AccessShareLock);
}

/*
 * Can the changes of this table be collapsed?  Raises an error if not: rows must
 * be told apart by a key.
 */
void
trucker_net_check(const TruckerRelation *relation)
{
	if (!OidIsValid(relation->identity_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has no primary key, which the option \"changes\": \"net\" needs",
						relation->name),
				 errdetail("REPLICA IDENTITY FULL alone does not tell equal rows apart."),
				 errhint("Add a primary key, or create the truck without that option.")));
	check_comparison(relation);
}

/* ----
 * Values
 * ----
 */

/* Which columns are kept: those that r has of this side, and the key. */
static void
init_side(NetSide *side, bool old, const TruckerRelation *relation, const TruckerRowType *type)
{
	TruckerColumnSource source = old ? TRUCKER_FROM_OLD : TRUCKER_FROM_NEW;
	Bitmapset  *attnums = NULL;
	int			attnum = -1;
	int			n = 0;

	for (int i = 0; i < relation->nkeys; i++)
		attnums = bms_add_member(attnums, relation->keys[i]);
	for (int i = 0; i < type->desc->natts; i++)
		if (type->columns[i].source == source)
			attnums = bms_add_member(attnums, type->columns[i].number);

	side->old = old;
	side->desc = CreateTemplateTupleDesc(bms_num_members(attnums));
	side->attnums = palloc(side->desc->natts * sizeof(AttrNumber));
	side->values = palloc(side->desc->natts * sizeof(Datum));
	side->nulls = palloc(side->desc->natts * sizeof(bool));
	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
	{
		side->attnums[n++] = attnum;
		TupleDescCopyEntry(side->desc, n, relation->desc, attnum);
	}
	bms_free(attnums);
}

/*
 * The values of one side of a change, as r would show them.  Raises an error, as
 * trucker_row_project() would, for a value that nobody can supply.
 */
static MinimalTuple
form_side(TruckerNet *net, NetSide *side, const TruckerRow *row)
{
	MemoryContext old;
	MinimalTuple tuple;

	for (int i = 0; i < side->desc->natts; i++)
		side->values[i] = trucker_row_value(row, net->relation, side->old,
											side->attnums[i], &side->nulls[i]);
	old = MemoryContextSwitchTo(net->context);
	tuple = heap_form_minimal_tuple(side->desc, side->values, side->nulls);
	MemoryContextSwitchTo(old);
	return tuple;
}

static void
deform_side(NetSide *side, MinimalTuple tuple)
{
	HeapTupleData heap_tuple;

	heap_tuple.t_len = tuple->t_len + MINIMAL_TUPLE_OFFSET;
	heap_tuple.t_data = (HeapTupleHeader) ((char *) tuple - MINIMAL_TUPLE_OFFSET);
	heap_deform_tuple(&heap_tuple, side->desc, side->values, side->nulls);
}

/* Lay a tuple out as one side of a change. */
static void
fill_side(NetSide *side, MinimalTuple tuple, TruckerRow *row)
{
	Datum	   *values = side->old ? row->oldvalues : row->newvalues;
	TruckerPresence *presence = side->old ? row->oldpresence : row->newpresence;

	deform_side(side, tuple);
	for (int i = 0; i < side->desc->natts; i++)
	{
		int			at = side->attnums[i] - 1;

		values[at] = side->values[i];
		presence[at] = side->nulls[i] ? TRUCKER_IS_NULL : TRUCKER_PRESENT;
	}
}

/* ----
 * Collecting
 * ----
 */

/*
 * A net with no changes yet, in the current memory context, for a table that has
 * passed trucker_net_check().
 */
TruckerNet *
trucker_net_create(const TruckerRelation *relation, const TruckerRowType *type)
{
	TruckerNet *net = palloc0(sizeof(TruckerNet));

	net->relation = relation;
	net->type = type;
	net->keys = trucker_key_table_create(relation, sizeof(NetKey));
	net->context = AllocSetContextCreate(CurrentMemoryContext, "trucker net changes",
										 ALLOCSET_DEFAULT_SIZES);
	init_side(&net->before, true, relation, type);
	init_side(&net->after, false, relation, type);
	dlist_init(&net->rows);
	net->row = trucker_row_create(relation);
	return net;
}

/*
 * Find the row that a change is about.  False: the change does not fit those
 * before it; they must be executed and cleared first, and then it does.  A key
 * that has occurred and has nobody on it is free.
 */
bool
trucker_net_find(TruckerNet *net, const TruckerRow *row)
{
	bool		is_first = false;

	net->old_key = NULL;
	net->new_key = NULL;
	net->found = NULL;
	if (row->operation != TRUCKER_INSERT)
	{
		net->old_key = trucker_key_table_enter(net->keys, row->oldvalues, row->oldpresence, &is_first);
		net->found = net->old_key->here;
		if (net->found == NULL && !is_first)
			return false;
	}
	if (row->operation == TRUCKER_UPDATE &&
		trucker_key_is_unchanged(net->relation, row))
		net->new_key = net->old_key;
	else if (row->operation != TRUCKER_DELETE)
	{
		net->new_key = trucker_key_table_enter(net->keys, row->newvalues, row->newpresence, &is_first);
		return net->new_key == net->old_key || net->new_key->here == NULL;
	}
	return true;
}

/*
 * Values that an update left out, because it left them unchanged, are those that
 * the row's change before has shown - unless that has shown what the table held
 * then, which may have been another row's.  After trucker_net_find().  They are
 * good until trucker_net_add().
 */
void
trucker_net_complete(TruckerNet *net, TruckerRow *row)
{
	NetSide    *side = &net->after;
	bool		deformed = false;

	if (row->operation != TRUCKER_UPDATE || net->found == NULL)
		return;
	for (int i = 0; i < side->desc->natts; i++)
	{
		int			at = side->attnums[i] - 1;

		/* a generated value that is absent depends on others, which may have changed */
		if (row->newpresence[at] != TRUCKER_ABSENT ||
			TupleDescAttr(net->relation->desc, at)->attgenerated != '\0' ||
			bms_is_member(at + 1, net->found->as_of_now))
			continue;
		if (!deformed)
			deform_side(side, net->found->after);
		deformed = true;
		row->newvalues[at] = side->values[i];
		row->newpresence[at] = side->nulls[i] ? TRUCKER_IS_NULL : TRUCKER_PRESENT;
	}
}

static Bitmapset *
copy_set(TruckerNet *net, const Bitmapset *set)
{
	MemoryContext old = MemoryContextSwitchTo(net->context);
	Bitmapset  *copy = bms_copy(set);

	MemoryContextSwitchTo(old);
	return copy;
}

static NetRow *
begin_row(TruckerNet *net)
{
	NetRow	   *found = MemoryContextAllocZero(net->context, sizeof(NetRow));

	dlist_push_tail(&net->rows, &found->node);
	return found;
}

static void
forget_row(NetRow *found)
{
	dlist_delete(&found->node);
	if (found->before)
		pfree(found->before);
	pfree(found);
}

/* Add a change, after trucker_net_find(). */
void
trucker_net_add(TruckerNet *net, const TruckerRow *row)
{
	NetRow	   *found = net->found;
	MinimalTuple after = row->operation == TRUCKER_DELETE ? NULL : form_side(net, &net->after, row);

	if (found == NULL)
	{
		found = begin_row(net);
		if (row->operation != TRUCKER_INSERT)
		{
			found->before = form_side(net, &net->before, row);
			found->from = net->old_key;
			found->from->was = found;
		}
	}
	else
	{
		found->to->here = NULL;
		pfree(found->after);
		bms_free(found->as_of_now);
	}

	found->after = after;
	found->as_of_now = copy_set(net, row->as_of_now);
	found->to = net->new_key;
	if (found->to)
		found->to->here = found;
	else if (found->from == NULL)
	{
		/* it came and went */
		forget_row(found);
		return;
	}
	found->lsn = row->lsn;
	found->xid = row->xid;
	found->committed_at = row->committed_at;
	found->seq = row->seq;
	dlist_delete(&found->node);
	dlist_push_tail(&net->rows, &found->node);
}

/* How much memory do the collected changes take, in bytes? */
Size
trucker_net_memory(const TruckerNet *net)
{
	return MemoryContextMemAllocated(net->context, false) + trucker_key_table_memory(net->keys);
}

/* ----
 * Coming out
 * ----
 */

/* Has the row's key, a new row's, been a deleted row's before? */
static bool
replaces_deleted(const NetRow *found)
{
	return found->from == NULL && found->to->was != NULL && found->to->was->to == NULL;
}

/* Does the row stand where another one stood that stands elsewhere now? */
static bool
takes_left_key(const NetRow *found)
{
	const NetRow *was = found->to->was;

	return was != NULL && was != found && was->to != NULL;
}

/* Has another, new row come to where the deleted row was? */
static bool
is_replaced(const NetRow *found)
{
	const NetRow *here = found->from->here;

	return here != NULL && here->from == NULL;
}

/* Does the row come out in this phase? */
static bool
comes_out(const NetRow *found, NetPhase phase)
{
	bool		split = found->from && found->to && takes_left_key(found);

	switch (phase)
	{
		case PHASE_DELETE:
			return split || (found->to == NULL && !is_replaced(found));
		case PHASE_UPDATE:
			return found->to != NULL && !split &&
				(found->from != NULL || replaces_deleted(found));
		case PHASE_INSERT:
			return split || (found->from == NULL && !replaces_deleted(found));
		case PHASE_DONE:
			break;
	}
	return false;
}

static const TruckerRow *
show(TruckerNet *net, const NetRow *found)
{
	static const TruckerOperation operations[] = {
		[PHASE_DELETE] = TRUCKER_DELETE,
		[PHASE_UPDATE] = TRUCKER_UPDATE,
		[PHASE_INSERT] = TRUCKER_INSERT
	};
	TruckerRow *row = net->row;

	trucker_row_clear(row, net->relation);
	row->operation = operations[net->phase];
	row->lsn = found->lsn;
	row->xid = found->xid;
	row->committed_at = found->committed_at;
	row->seq = found->seq;
	if (net->phase != PHASE_INSERT)
		fill_side(&net->before, found->from ? found->before : found->to->was->before, row);
	if (net->phase != PHASE_DELETE)
		fill_side(&net->after, found->after, row);
	return row;
}

/*
 * The next of the net changes, or NULL behind the last one; then only
 * trucker_net_clear() is left to do.  Its values are good until then, the row
 * itself until the next call.
 */
const TruckerRow *
trucker_net_next(TruckerNet *net)
{
	for (; net->phase != PHASE_DONE; net->phase++, net->next = NULL)
	{
		if (net->next == NULL)
			net->next = net->rows.head.next;
		while (net->next != &net->rows.head)
		{
			NetRow	   *found = dlist_container(NetRow, node, net->next);

			net->next = net->next->next;
			if (comes_out(found, net->phase))
				return show(net, found);
		}
	}
	return NULL;
}

/* Forget all changes. */
void
trucker_net_clear(TruckerNet *net)
{
	dlist_init(&net->rows);
	net->phase = PHASE_DELETE;
	net->next = NULL;
	trucker_key_table_clear(net->keys);
	MemoryContextReset(net->context);
}
