/*
 * keyhash.c
 *	  The keys of a change as numbers that can be kept.
 *
 * Which rows have changes in quarantine must be known for as long as these are there,
 * across restarts.  What is kept of a key is a hash of 64 bits: equal keys, as their
 * type compares them (1.0 is 1.00, 'A' may be 'a'), have equal hashes, and two others
 * that happen to have the same only wait for each other in vain.  A text could not be
 * compared so, and a value could not be kept without its type.
 *
 * Only the key is converted, and to the type below a domain: the row at hand may be
 * one whose values do not convert, or that no domain accepts.  A key with a type that
 * holds others (arrays, composites, ranges) could bring in a domain again; one without
 * a hash function cannot be compared.  A change of such a table is taken to be about
 * any of its rows; likewise one that does not carry its key.  Rows of a table without a
 * replica identity, of which there can only be inserts, have nothing to do with each
 * other.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "keyhash.h"

struct TruckerKeyHasher
{
	TruckerRelation *relation;	/* its key columns are of types below domains */
	TruckerRow *row;
	int64		made_of;
	bool		any;			/* its keys cannot be told apart */
	FmgrInfo  **functions;		/* for each key column */
	bool	   *extended;		/* is it a function with a seed? */
};

/* May a text be converted to the type without running anybody's SQL? */
static bool
is_plain(Oid type)
{
	char		typtype = get_typtype(type);

	return (typtype == TYPTYPE_BASE && !OidIsValid(get_element_type(type))) || typtype == TYPTYPE_ENUM;
}

static bool
find_function(TruckerKeyHasher *hasher, int i, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_HASH_PROC_FINFO |
											  TYPECACHE_HASH_EXTENDED_PROC_FINFO);

	hasher->extended[i] = OidIsValid(entry->hash_extended_proc_finfo.fn_oid);
	hasher->functions[i] = hasher->extended[i] ? &entry->hash_extended_proc_finfo : &entry->hash_proc_finfo;
	return OidIsValid(hasher->functions[i]->fn_oid);
}

/* For an open input table, in the current memory context. */
TruckerKeyHasher *
trucker_key_hasher_create(Relation rel)
{
	TruckerKeyHasher *hasher = palloc0(sizeof(TruckerKeyHasher));
	TruckerRelation *relation = trucker_relation_build(rel);
	uint64		made_of = relation->nkeys;

	hasher->relation = relation;
	hasher->functions = palloc0(Max(relation->nkeys, 1) * sizeof(FmgrInfo *));
	hasher->extended = palloc0(Max(relation->nkeys, 1) * sizeof(bool));
	hasher->any = relation->nkeys == 0 && relation->identity_full;
	for (int i = 0; i < relation->nkeys; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, relation->keys[i] - 1);

		attr->atttypid = getBaseType(attr->atttypid);
		attr->atttypmod = -1;
		attr->attnotnull = false;
		made_of = hash_combine64(made_of, attr->attnum);
		made_of = hash_combine64(made_of, attr->atttypid);
		made_of = hash_combine64(made_of, attr->attcollation);
		if (!is_plain(attr->atttypid) || !find_function(hasher, i, attr->atttypid))
			hasher->any = true;
	}
	hasher->made_of = (int64) made_of;
	hasher->row = trucker_row_create(relation);
	return hasher;
}

/* The hash of one side's key; false: the change does not carry it. */
static bool
hash_key(const TruckerKeyHasher *hasher, const Datum *values, const TruckerPresence *presence, int64 *result)
{
	const TruckerRelation *relation = hasher->relation;
	uint64		hash = 0;

	for (int i = 0; i < relation->nkeys; i++)
	{
		int			at = relation->keys[i] - 1;
		Oid			collation = TupleDescAttr(relation->desc, at)->attcollation;
		uint64		value = 0;

		if (presence[at] == TRUCKER_ABSENT)
			return false;
		if (presence[at] == TRUCKER_PRESENT && hasher->extended[i])
			value = DatumGetUInt64(FunctionCall2Coll(hasher->functions[i], collation, values[at], UInt64GetDatum(0)));
		else if (presence[at] == TRUCKER_PRESENT)
			value = DatumGetUInt32(FunctionCall1Coll(hasher->functions[i], collation, values[at]));
		hash = hash_combine64(hash, value);
	}
	*result = (int64) hash;
	return true;
}

/* A key that is stored out of line, and was not changed, comes in the old row only. */
static void
take_unchanged(TruckerKeyHasher *hasher)
{
	TruckerRow *row = hasher->row;

	for (int i = 0; i < hasher->relation->nkeys; i++)
	{
		int			at = hasher->relation->keys[i] - 1;

		if (row->newpresence[at] != TRUCKER_ABSENT)
			continue;
		row->newpresence[at] = row->oldpresence[at];
		row->newvalues[at] = row->oldvalues[at];
	}
}

/*
 * The keys of a change of the table, or of a partition of it, made by that transaction.
 * Scratch is taken from the current memory context.
 */
void
trucker_key_hasher_read(TruckerKeyHasher *hasher, TransactionId xid, const TruckerPart *part,
						const TruckerColumnSpan *then, const TruckerMessage *message,
						TruckerRowKeys *keys)
{
	TruckerRow *row = hasher->row;

	keys->made_of = hasher->made_of;
	keys->any = hasher->any || message->kind == TRUCKER_MSG_TRUNCATE;
	keys->n = 0;
	if (keys->any || hasher->relation->nkeys == 0)
		return;
	row->xid = xid;
	trucker_row_from_message(row, hasher->relation, part, then, message);
	if (row->operation == TRUCKER_UPDATE)
		take_unchanged(hasher);
	if (row->operation != TRUCKER_DELETE)
		keys->any |= !hash_key(hasher, row->newvalues, row->newpresence, &keys->hashes[keys->n++]);
	if (row->operation != TRUCKER_INSERT)
		keys->any |= !hash_key(hasher, row->oldvalues, row->oldpresence, &keys->hashes[keys->n++]);
}
