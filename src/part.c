/*
 * part.c
 *	  Partitions of an input table: what they log, and where their columns lie.
 *
 * A truck that reads a partitioned table gets the changes of its partitions, at any
 * depth, as changes of the table.  Only partitions have rows, and what their changes
 * carry is their own affair: each has a replica identity, columns that may lie
 * elsewhere than the table's (one that was attached, or had columns dropped), and
 * TOAST values.
 *
 * The table's replica identity, for us, is what all partitions have in common: the
 * columns whose old values are in each of their changes.  It is made anew when a
 * partition comes or goes, or is given another identity.
 *
 * Columns are matched by name: by the name that the partition's column bears now,
 * which is the table's, since a rename is one of both.  A partition that is none any
 * more, or is no more, cannot be asked.  Then the names of the change itself must do,
 * which were the table's when it was made; if the table's column has been altered
 * since, that is an error (row.c).
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "part.h"

/* how many ALTER TABLE a hint shows */
#define MAX_HINTS 20

/* goes up with each table that is altered */
static uint64 alterations = 1;

static void
relcache_changed(Datum arg, Oid relid)
{
	alterations++;
}

static uint64
current_alterations(void)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(relcache_changed, (Datum) 0);
	registered = true;
	return alterations;
}

/* ----
 * What they log
 * ----
 */

/* What the partitions of a table log. */
typedef struct Summary
{
	StringInfoData text;		/* all that is told of here, to be compared */
	int			count;
	bool		has_toast;
	bool		all_full;
	Bitmapset  *identity;		/* attnums of the table */
	List	   *without;		/* names of those without a replica identity */
	List	   *not_full;		/* ... with less than REPLICA IDENTITY FULL */
} Summary;

/* attnums of rel, from a relcache bitmap of the partition's columns with its offset */
static Bitmapset *
attnums_of_whole(Relation part, Relation rel, Bitmapset *offset_set)
{
	Bitmapset  *result = NULL;
	int			x = -1;

	while ((x = bms_next_member(offset_set, x)) >= 0)
	{
		AttrNumber	attnum = x + FirstLowInvalidHeapAttributeNumber;
		Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(part), attnum - 1);

		attnum = get_attnum(RelationGetRelid(rel), NameStr(attr->attname));
		if (attnum > 0)
			result = bms_add_member(result, attnum);
	}
	return result;
}

static void
add_part(Summary *summary, Relation part, Relation rel)
{
	bool		full = part->rd_rel->relreplident == REPLICA_IDENTITY_FULL;

	(void) RelationGetIndexList(part);	/* sets rd_replidindex */
	appendStringInfo(&summary->text, "%u %c %u\n", RelationGetRelid(part),
					 part->rd_rel->relreplident, part->rd_replidindex);
	summary->count++;
	summary->has_toast |= OidIsValid(part->rd_rel->reltoastrelid);
	summary->all_full &= full;
	if (full)
		return;
	summary->not_full = lappend(summary->not_full, trucker_qualified_name(part));
	if (!OidIsValid(part->rd_replidindex))
		summary->without = lappend(summary->without, trucker_qualified_name(part));
	summary->identity = bms_int_members(summary->identity,
										attnums_of_whole(part, rel, RelationGetIndexAttrBitmap(part, INDEX_ATTR_BITMAP_IDENTITY_KEY)));
}

static void
summarize(Summary *summary, Relation rel)
{
	List	   *parts = find_all_inheritors(RelationGetRelid(rel), NoLock, NULL);
	ListCell   *lc;

	memset(summary, 0, sizeof(*summary));
	initStringInfo(&summary->text);
	summary->all_full = true;
	for (int i = 1; i <= RelationGetNumberOfAttributes(rel); i++)
		summary->identity = bms_add_member(summary->identity, i);
	list_sort(parts, list_oid_cmp);
	foreach(lc, parts)
	{
		/* one that is being dropped just now is waited for */
		Relation	part = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (part == NULL)
			continue;
		if (part->rd_rel->relkind == RELKIND_RELATION)
			add_part(summary, part, rel);
		relation_close(part, AccessShareLock);
	}
}

/* Describe what an open partitioned table logs. */
void
trucker_parts_describe(TruckerRelation *relation, Relation rel)
{
	Bitmapset  *key = NULL;
	Summary		summary;

	relation->parts_seen = current_alterations();
	summarize(&summary, rel);
	relation->is_partitioned = true;
	relation->parts = summary.text.data;
	relation->parts_without = summary.without;
	relation->parts_not_full = summary.not_full;
	relation->has_toast = summary.has_toast || summary.count == 0;
	(void) RelationGetIndexList(rel);
	relation->identity_full = summary.all_full;
	relation->identity = summary.identity;
	if (summary.count == 0 && rel->rd_rel->relreplident != REPLICA_IDENTITY_FULL)
	{
		/* what new partitions will have */
		relation->identity_full = false;
		relation->identity = trucker_attnums_of(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY));
	}

	/* the key that tells rows apart, if all partitions log it */
	if (OidIsValid(rel->rd_pkindex))
		key = trucker_attnums_of(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY));
	if (key && bms_is_subset(key, relation->identity))
		relation->identity_index = rel->rd_pkindex;
}

/*
 * Is that still true?  The partitions are looked at only if any table at all has been
 * altered since.
 */
bool
trucker_parts_are_current(const TruckerRelation *relation, Relation rel)
{
	uint64		now = current_alterations();
	MemoryContext scratch;
	MemoryContext old;
	Summary		summary;
	bool		same;

	if (relation->parts_seen == now)
		return true;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "trucker partitions", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(scratch);
	summarize(&summary, rel);
	same = strcmp(summary.text.data, relation->parts) == 0 &&
		(relation->identity_index == rel->rd_pkindex || !OidIsValid(relation->identity_index));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	if (same)
		unconstify(TruckerRelation *, relation)->parts_seen = now;
	return same;
}

/* For a hint: the statements that make these tables (char *) log whole rows. */
char *
trucker_parts_alter(List *names)
{
	StringInfoData text;
	int			count = 0;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, names)
	{
		if (count++ == MAX_HINTS)
		{
			appendStringInfo(&text, " And so for %d more.", list_length(names) - MAX_HINTS);
			break;
		}
		appendStringInfo(&text, "%sALTER TABLE %s REPLICA IDENTITY FULL;", count > 1 ? " " : "", (char *) lfirst(lc));
	}
	return text.data;
}

/* The same for what does not log whole rows: the table, or partitions of it. */
char *
trucker_parts_alter_all(const TruckerRelation *relation)
{
	return trucker_parts_alter(relation->is_partitioned && relation->parts_not_full != NIL ?
							   relation->parts_not_full : list_make1(relation->name));
}

/* ----
 * Where their columns lie
 * ----
 */

struct TruckerParts
{
	MemoryContext context;		/* of what is known of them, and the table below */
	HTAB	   *by_relid;
};

typedef struct PartEntry
{
	Oid			relid;
	TruckerPart *part;
} PartEntry;

static bool
is_part_of(Relation part, Oid relid)
{
	return part->rd_rel->relispartition &&
		list_member_oid(get_partition_ancestors(RelationGetRelid(part)), relid);
}

/*
 * A partition, in the current memory context.  rel is NULL if it is no more; where it
 * is none any more, its columns are not to be relied upon.
 */
TruckerPart *
trucker_part_build(const TruckerRelation *relation, Oid relid, Relation rel)
{
	TruckerPart *part = palloc0(sizeof(TruckerPart));
	int			natts;

	part->relid = relid;
	if (rel == NULL || !is_part_of(rel, relation->relid))
		return part;
	natts = RelationGetNumberOfAttributes(rel);
	part->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	part->to_whole = palloc0(Max(natts, 1) * sizeof(AttrNumber));
	part->from_whole = palloc0(Max(relation->desc->natts, 1) * sizeof(AttrNumber));
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(part->desc, i);

		if (attr->attisdropped)
			continue;
		for (int j = 0; j < relation->desc->natts; j++)
		{
			Form_pg_attribute whole = TupleDescAttr(relation->desc, j);

			if (whole->attisdropped || strcmp(NameStr(whole->attname), NameStr(attr->attname)) != 0)
				continue;
			part->to_whole[i] = whole->attnum;
			part->from_whole[j] = attr->attnum;
		}
	}
	(void) RelationGetIndexList(rel);
	part->key_index = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL ? rel->rd_pkindex : rel->rd_replidindex;
	return part;
}

/* In the current memory context. */
TruckerParts *
trucker_parts_create(void)
{
	TruckerParts *parts = palloc(sizeof(TruckerParts));
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(PartEntry), .hcxt = CurrentMemoryContext};

	parts->context = CurrentMemoryContext;
	parts->by_relid = hash_create("trucker partitions", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return parts;
}

static bool
is_current(const TruckerPart *part, const TruckerRelation *relation, Relation rel)
{
	Oid			key_index;

	if (rel == NULL || !is_part_of(rel, relation->relid))
		return part->desc == NULL;
	(void) RelationGetIndexList(rel);
	key_index = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL ? rel->rd_pkindex : rel->rd_replidindex;
	return part->desc && part->key_index == key_index && equalTupleDescs(part->desc, RelationGetDescr(rel));
}

/* A partition, open until the batch ends.  The table's description outlives this one. */
TruckerPart *
trucker_parts_open(TruckerParts *parts, const TruckerRelation *relation, Oid relid)
{
	bool		found;
	PartEntry  *entry = hash_search(parts->by_relid, &relid, HASH_FIND, NULL);
	Relation	rel;
	MemoryContext old;

	if (entry && entry->part->is_open)
		return entry->part;
	rel = try_relation_open(relid, AccessShareLock);
	old = MemoryContextSwitchTo(parts->context);
	if (entry == NULL || !is_current(entry->part, relation, rel))
	{
		/* an older one is left to the context: that is rare */
		TruckerPart *part = trucker_part_build(relation, relid, rel);

		entry = hash_search(parts->by_relid, &relid, HASH_ENTER, &found);
		entry->part = part;
	}
	MemoryContextSwitchTo(old);
	entry->part->rel = rel;
	entry->part->is_open = true;
	return entry->part;
}

/* The batch ends. */
void
trucker_parts_close(TruckerParts *parts, bool committed)
{
	HASH_SEQ_STATUS scan;
	PartEntry  *entry;

	hash_seq_init(&scan, parts->by_relid);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (committed && entry->part->rel)
			relation_close(entry->part->rel, NoLock);
		entry->part->rel = NULL;
		entry->part->is_open = false;
	}
}
