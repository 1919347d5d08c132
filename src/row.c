/*
 * row.c
 *	  From the text of a change to the columns of r.
 *
 * Three shapes meet here: the change as the decoder read it (names and texts
 * of the moment of the change), the input table as it is now, and r, which
 * carries only those columns that the truck's SQL reads.  How the first one becomes
 * values of the second one is in row_message.c.
 *
 * A value that the change does not carry is ABSENT, never NULL.  What an absent
 * value means is decided in trucker_row_project(): for a column that was added
 * after the change, the table's own "missing" value; for an unchanged TOAST
 * value, what toast.c has put in its place before; else an error.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "part.h"
#include "row.h"

static const struct
{
	const char *name;
	Oid			type;
}			meta_columns[TRUCKER_METAS] =
{
	[TRUCKER_META_OPERATION] = {"meta__operation", TEXTOID},
	[TRUCKER_META_LSN] = {"meta__lsn", PG_LSNOID},
	[TRUCKER_META_XID] = {"meta__xid", INT8OID},
	[TRUCKER_META_COMMITTED_AT] = {"meta__committed_at", TIMESTAMPTZOID},
	[TRUCKER_META_SEQ] = {"meta__seq", INT8OID},
	[TRUCKER_META_TABLE] = {"meta__table", TEXTOID},
};

const char *
trucker_operation_name(TruckerOperation operation)
{
	switch (operation)
	{
		case TRUCKER_INSERT:
			return "insert";
		case TRUCKER_UPDATE:
			return "update";
		case TRUCKER_DELETE:
			return "delete";
	}
	return "unknown";
}

/* ----
 * The input table
 * ----
 */

/* A table's name as SQL wants it: with its schema, and quoted where needed. */
char *
trucker_qualified_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/* attnums, from a relcache bitmap with its offset */
Bitmapset *
trucker_attnums_of(Bitmapset *offset_set)
{
	Bitmapset  *result = NULL;
	int			x = -1;

	while ((x = bms_next_member(offset_set, x)) >= 0)
		result = bms_add_member(result, x + FirstLowInvalidHeapAttributeNumber);
	return result;
}

/*
 * What tells rows apart within a run: the replica identity's columns; with
 * REPLICA IDENTITY FULL the primary key's, and without one all columns whose
 * type can be hashed - a coarser key only ends runs earlier.
 */
static void
choose_keys(TruckerRelation *relation, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *keys = relation->identity;
	int			attnum = -1;

	if (relation->identity_full || (relation->is_partitioned && OidIsValid(relation->identity_index)))
		keys = OidIsValid(rel->rd_pkindex) ?
			trucker_attnums_of(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY)) : NULL;
	relation->has_key = keys != NULL;
	if (keys == NULL && relation->identity_full)
	{
		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute attr = TupleDescAttr(desc, i);

			if (!attr->attisdropped &&
				OidIsValid(lookup_type_cache(attr->atttypid, TYPECACHE_HASH_PROC)->hash_proc))
				keys = bms_add_member(keys, attr->attnum);
		}
	}
	relation->keys = palloc(Max(bms_num_members(keys), 1) * sizeof(AttrNumber));
	while ((attnum = bms_next_member(keys, attnum)) >= 0)
		relation->keys[relation->nkeys++] = (AttrNumber) attnum;
}

/* When was each column last altered?  By attnum - 1. */
static TransactionId *
columns_altered_by(Oid relid, int natts)
{
	TransactionId *altered_by = palloc0(Max(natts, 1) * sizeof(TransactionId));

	for (int i = 0; i < natts; i++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(i + 1));

		if (!HeapTupleIsValid(tuple))
			continue;
		altered_by[i] = HeapTupleHeaderGetXmin(tuple->t_data);
		ReleaseSysCache(tuple);
	}
	return altered_by;
}

/* What the changes of an open table without partitions carry of the old row. */
static void
describe_identity(TruckerRelation *relation, Relation rel)
{
	relation->has_toast = OidIsValid(rel->rd_rel->reltoastrelid);
	(void) RelationGetIndexList(rel);	/* sets rd_pkindex and rd_replidindex */
	relation->identity_full = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	relation->identity_index = relation->identity_full ? rel->rd_pkindex : rel->rd_replidindex;
	if (relation->identity_full)
		for (int i = 1; i <= RelationGetNumberOfAttributes(rel); i++)
			relation->identity = bms_add_member(relation->identity, i);
	else
		relation->identity = trucker_attnums_of(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY));
}

/* Is there a column whose type is, or may contain, a domain? */
static bool
has_code(TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			type = TupleDescAttr(desc, i)->atttypid;
		Oid			element = get_element_type(type);
		char		kind;

		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		kind = get_typtype(OidIsValid(element) ? element : type);
		if (kind != TYPTYPE_BASE && kind != TYPTYPE_ENUM && kind != TYPTYPE_PSEUDO)
			return true;
	}
	return false;
}

/*
 * What runs when values of a table are made - CHECKs of its domains, the expressions of its
 * generated columns - is the work of its owner, and not of the truck's role, which only
 * reads it.  So it runs with the owner's rights, and as little freedom as the server gives
 * to the expressions of an index.  An error undoes it, too.
 */
void
trucker_relation_begin_as_owner(const TruckerRelation *relation, TruckerIdentity *saved)
{
	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	SetUserIdAndSecContext(relation->owner, saved->sec_context | SECURITY_RESTRICTED_OPERATION);
	saved->nestlevel = NewGUCNestLevel();
}

void
trucker_relation_end_as_owner(const TruckerIdentity *saved)
{
	AtEOXact_GUC(false, saved->nestlevel);
	SetUserIdAndSecContext(saved->userid, saved->sec_context);
}

/*
 * Describe an open table, in the current memory context.  Nothing is needed of
 * it yet but its keys.
 */
TruckerRelation *
trucker_relation_build(Relation rel)
{
	TruckerRelation *relation = palloc0(sizeof(TruckerRelation));
	int			natts = RelationGetNumberOfAttributes(rel);

	relation->relid = RelationGetRelid(rel);
	relation->owner = rel->rd_rel->relowner;
	relation->runs_code = has_code(RelationGetDescr(rel));
	relation->name = trucker_qualified_name(rel);
	relation->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	relation->need_new = palloc0(Max(natts, 1) * sizeof(bool));
	relation->need_old = palloc0(Max(natts, 1) * sizeof(bool));
	relation->input = palloc0(Max(natts, 1) * sizeof(FmgrInfo));
	relation->input_param = palloc0(Max(natts, 1) * sizeof(Oid));
	relation->receive = palloc0(Max(natts, 1) * sizeof(FmgrInfo));
	relation->receive_param = palloc0(Max(natts, 1) * sizeof(Oid));
	relation->receive_copy = palloc0(Max(natts, 1) * sizeof(bool));
	relation->altered_by = columns_altered_by(relation->relid, natts);
	relation->names_objects = palloc0(Max(natts, 1) * sizeof(bool));

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		trucker_parts_describe(relation, rel);
	else
		describe_identity(relation, rel);
	choose_keys(relation, rel);
	for (int i = 0; i < relation->nkeys; i++)
	{
		relation->need_new[relation->keys[i] - 1] = true;
		relation->need_old[relation->keys[i] - 1] = true;
	}
	return relation;
}

/* Is the description still true of the table? */
bool
trucker_relation_is_current(const TruckerRelation *relation, Relation rel)
{
	(void) RelationGetIndexList(rel);
	if (!equalTupleDescs(relation->desc, RelationGetDescr(rel)) || relation->owner != rel->rd_rel->relowner ||
		strcmp(relation->name, trucker_qualified_name(rel)) != 0)
		return false;
	if (relation->is_partitioned)
		return trucker_parts_are_current(relation, rel);
	return relation->identity_full == (rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL) &&
		relation->identity_index == (relation->identity_full ? rel->rd_pkindex : rel->rd_replidindex);
}

/* ----
 * The columns of r
 * ----
 */

static void
add_table_columns(TruckerRowType *type, int *n, TupleDesc reldesc,
				  TruckerColumnSource source, const Bitmapset *excluded)
{
	for (int i = 0; i < reldesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(reldesc, i);
		const char *name = NameStr(attr->attname);
		TruckerColumn *column = &type->columns[*n];

		if (attr->attisdropped || bms_is_member(attr->attnum, excluded))
			continue;
		column->source = source;
		column->number = attr->attnum;
		if (source == TRUCKER_FROM_OLD)
		{
			name = psprintf("old__%s", name);
			column->name_too_long = strlen(name) >= NAMEDATALEN;
		}
		TupleDescInitEntry(type->desc, ++(*n), name, attr->atttypid,
						   attr->atttypmod, attr->attndims);
		TupleDescInitEntryCollation(type->desc, *n, attr->attcollation);
	}
}

/* All the columns that r can have: new values, old values, metadata.  Without the columns (attnum) in excluded. */
TruckerRowType *
trucker_row_type_full(TupleDesc reldesc, const Bitmapset *excluded)
{
	TruckerRowType *type = palloc0(sizeof(TruckerRowType));
	int			live = 0;
	int			n = 0;

	for (int i = 0; i < reldesc->natts; i++)
		live += TupleDescAttr(reldesc, i)->attisdropped || bms_is_member(i + 1, excluded) ? 0 : 1;
	type->desc = CreateTemplateTupleDesc(2 * live + TRUCKER_METAS);
	type->columns = palloc0((2 * live + TRUCKER_METAS) * sizeof(TruckerColumn));

	add_table_columns(type, &n, reldesc, TRUCKER_FROM_NEW, excluded);
	add_table_columns(type, &n, reldesc, TRUCKER_FROM_OLD, excluded);
	for (int i = 0; i < TRUCKER_METAS; i++)
	{
		type->columns[n].source = TRUCKER_FROM_META;
		type->columns[n].number = i;
		TupleDescInitEntry(type->desc, ++n, meta_columns[i].name,
						   meta_columns[i].type, -1, 0);
	}
	return type;
}

/*
 * Only some columns of r, given by their numbers (from 1) in full.  A tuple
 * holds 1,664 columns, and each column carried costs its conversion, so r has
 * those that the SQL reads.  meta__seq stays in any case: no relation of no
 * columns.
 */
TruckerRowType *
trucker_row_type_narrow(const TruckerRowType *full, const Bitmapset *columns)
{
	TruckerRowType *type = palloc0(sizeof(TruckerRowType));
	int			seq = full->desc->natts - TRUCKER_METAS + TRUCKER_META_SEQ + 1;
	Bitmapset  *wanted = bms_add_member(bms_copy(columns), seq);
	int			count = bms_num_members(wanted);
	int			number = -1;
	int			n = 0;

	if (count > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("the SQL of the truck reads %d columns of \"r\"", count),
				 errdetail("A row holds at most %d columns.", MaxTupleAttributeNumber)));
	type->desc = CreateTemplateTupleDesc(count);
	type->columns = palloc0(count * sizeof(TruckerColumn));
	while ((number = bms_next_member(wanted, number)) >= 0)
	{
		type->columns[n] = full->columns[number - 1];
		TupleDescCopyEntry(type->desc, ++n, full->desc, number);
	}
	return type;
}

/* Does r have this column? */
bool
trucker_row_type_reads(const TruckerRowType *type, TruckerColumnSource source,
					   int number)
{
	for (int i = 0; i < type->desc->natts; i++)
		if (type->columns[i].source == source && type->columns[i].number == number)
			return true;
	return false;
}

/* ----
 * One change
 * ----
 */

TruckerRow *
trucker_row_create(const TruckerRelation *relation)
{
	TruckerRow *row = palloc0(sizeof(TruckerRow));
	int			natts = Max(relation->desc->natts, 1);

	row->newvalues = palloc0(natts * sizeof(Datum));
	row->oldvalues = palloc0(natts * sizeof(Datum));
	row->newpresence = palloc0(natts * sizeof(TruckerPresence));
	row->oldpresence = palloc0(natts * sizeof(TruckerPresence));
	return row;
}

/* Every value absent. */
void
trucker_row_clear(TruckerRow *row, const TruckerRelation *relation)
{
	memset(row->newpresence, 0, relation->desc->natts * sizeof(TruckerPresence));
	memset(row->oldpresence, 0, relation->desc->natts * sizeof(TruckerPresence));
	row->as_of_now = NULL;
	row->part = NULL;
	row->then = NULL;
}

/*
 * The value of a column that the change does not carry because the column was
 * added later, perhaps with a default.  That is what the table itself shows for such
 * rows, unless adding the column rewrote them.
 */
Datum
trucker_row_missing(const TruckerRow *row, const TruckerRelation *relation, int attnum,
					bool defaulted, bool *isnull)
{
	TupleDesc	desc = relation->desc;
	Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);

	/* a partition has its own missing values */
	if (row->part && row->part->desc && row->part->from_whole[attr->attnum - 1] > 0)
	{
		desc = row->part->desc;
		attr = TupleDescAttr(desc, row->part->from_whole[attr->attnum - 1] - 1);
	}
	if (!attr->atthasmissing && (defaulted || attr->attnotnull))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a change of table %s carries no value for column \"%s\"",
						relation->name, NameStr(attr->attname)),
				 defaulted ? errdetail("The column was added, with a default, after the change was made.") :
				 errdetail("The column was added after the change was made, and is NOT NULL now."),
				 errhint("Call trucker.resync() to load the table anew.")));
	return getmissingattr(desc, attr->attnum, isnull);
}

/*
 * The same where only the column as it is now can tell whether there was a default.  A
 * column that was there then (perhaps as a generated one, which the plugin does not send),
 * or may have been, has no missing value.
 */
static Datum
missing_value(const TruckerRow *row, const TruckerRelation *relation, Form_pg_attribute attr,
			  bool *isnull)
{
	if (row->then ? bms_is_member(attr->attnum, row->then->attnums) : row->absent_in_doubt)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a change of table %s carries no value for column \"%s\"",
						relation->name, NameStr(attr->attname)),
				 errdetail("The column, or its name, was another when the change was made."),
				 errhint("Call trucker.resync() to load the table anew.")));
	return trucker_row_missing(row, relation, attr->attnum, attr->atthasdef || attr->attidentity != '\0', isnull);
}

/*
 * The replica identity says that old values of this column are logged, but the
 * change has none.  Where it has the new one the column existed, so the identity
 * was another then.
 */
static Datum
missing_old_value(const TruckerRow *row, const TruckerRelation *relation,
				  Form_pg_attribute attr, bool *isnull)
{
	if (row->operation == TRUCKER_DELETE ? row->old_in_doubt || !relation->identity_full :
		row->newpresence[attr->attnum - 1] != TRUCKER_ABSENT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a change of table %s carries no old value for column \"%s\"",
						relation->name, NameStr(attr->attname)),
				 errdetail("The table's replica identity, or its columns, were others when the change was made."),
				 errhint("Call trucker.resync() to load the table anew.")));
	return missing_value(row, relation, attr, isnull);
}

/*
 * A column's old or new value as r shows it.  Raises an error for one that the
 * change does not carry and nobody can supply.
 */
Datum
trucker_row_value(const TruckerRow *row, const TruckerRelation *relation,
				  bool old, int attnum, bool *isnull)
{
	TruckerPresence presence = (old ? row->oldpresence : row->newpresence)[attnum - 1];

	*isnull = presence != TRUCKER_PRESENT;
	if (presence == TRUCKER_PRESENT)
		return (old ? row->oldvalues : row->newvalues)[attnum - 1];
	if (presence == TRUCKER_IS_NULL)
		return (Datum) 0;
	if (row->operation == (old ? TRUCKER_INSERT : TRUCKER_DELETE))
		return (Datum) 0;		/* such a change has no such side */
	if (old && !bms_is_member(attnum, relation->identity))
		return (Datum) 0;		/* beyond the replica identity */
	return old ?
		missing_old_value(row, relation, TupleDescAttr(relation->desc, attnum - 1), isnull) :
		missing_value(row, relation, TupleDescAttr(relation->desc, attnum - 1), isnull);
}

static Datum
project_meta(const TruckerRow *row, const TruckerRelation *relation,
			 TruckerMeta meta)
{
	switch (meta)
	{
		case TRUCKER_META_OPERATION:
			return CStringGetTextDatum(trucker_operation_name(row->operation));
		case TRUCKER_META_LSN:
			return LSNGetDatum(row->lsn);
		case TRUCKER_META_XID:
			return Int64GetDatum((int64) row->xid);
		case TRUCKER_META_COMMITTED_AT:
			return TimestampTzGetDatum(row->committed_at);
		case TRUCKER_META_SEQ:
			return Int64GetDatum(row->seq);
		case TRUCKER_META_TABLE:
			return CStringGetTextDatum(relation->name);
	}
	return (Datum) 0;
}

/*
 * Lay a change out as a row of r; see trucker_row_value().  In a backfill there is
 * no commit: the time and the transaction are NULL then.
 */
void
trucker_row_project(const TruckerRow *row, const TruckerRelation *relation,
					const TruckerRowType *type, Datum *values, bool *nulls)
{
	for (int i = 0; i < type->desc->natts; i++)
	{
		TruckerColumn *column = &type->columns[i];

		nulls[i] = false;
		if (column->source == TRUCKER_FROM_META)
		{
			nulls[i] = (column->number == TRUCKER_META_XID && !TransactionIdIsValid(row->xid)) ||
				(column->number == TRUCKER_META_COMMITTED_AT && row->committed_at == 0);
			if (!nulls[i])
				values[i] = project_meta(row, relation, column->number);
		}
		else
			values[i] = trucker_row_value(row, relation,
										  column->source == TRUCKER_FROM_OLD,
										  column->number, &nulls[i]);
	}
}
