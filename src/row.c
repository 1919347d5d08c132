/*
 * row.c
 *	  From the text of a change to the columns of r.
 *
 * Three shapes meet here: the change as the decoder read it (names and texts
 * of the moment of the change), the input table as it is now, and r, which
 * carries only those columns that the truck's SQL reads.  Columns of the new
 * row are matched by attnum, which survives a rename; the old row's, which
 * wal2json sends by name only, by name through the same message's new row, or
 * through the table.
 *
 * A value that the change does not carry is ABSENT, never NULL.  What an absent
 * value means is decided in trucker_row_project(): for a column that was added
 * after the change, the table's own "missing" value; for an unchanged TOAST
 * value, what toast.c has put in its place before; else an error.
 *
 * Text is converted by the type's input function, which may run the owner's
 * code (the CHECK of a domain); so callers are in the owner's transaction.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

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
static Bitmapset *
attnums_of(Bitmapset *offset_set)
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

	if (relation->identity_full)
		keys = OidIsValid(rel->rd_pkindex) ?
			attnums_of(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY)) : NULL;
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

/* When was each column last altered? */
static void
note_alterations(TruckerRelation *relation)
{
	for (int i = 0; i < relation->desc->natts; i++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relation->relid),
											Int16GetDatum(i + 1));

		if (!HeapTupleIsValid(tuple))
			continue;
		relation->altered_by[i] = HeapTupleHeaderGetXmin(tuple->t_data);
		ReleaseSysCache(tuple);
	}
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
	relation->name = trucker_qualified_name(rel);
	relation->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	relation->need_new = palloc0(Max(natts, 1) * sizeof(bool));
	relation->need_old = palloc0(Max(natts, 1) * sizeof(bool));
	relation->input = palloc0(Max(natts, 1) * sizeof(FmgrInfo));
	relation->input_param = palloc0(Max(natts, 1) * sizeof(Oid));
	relation->altered_by = palloc0(Max(natts, 1) * sizeof(TransactionId));
	relation->names_objects = palloc0(Max(natts, 1) * sizeof(bool));

	relation->has_toast = OidIsValid(rel->rd_rel->reltoastrelid);
	(void) RelationGetIndexList(rel);	/* sets rd_pkindex and rd_replidindex */
	relation->identity_full = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	relation->identity_index = relation->identity_full ? rel->rd_pkindex : rel->rd_replidindex;
	if (relation->identity_full)
		for (int i = 1; i <= natts; i++)
			relation->identity = bms_add_member(relation->identity, i);
	else
		relation->identity = attnums_of(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY));

	note_alterations(relation);
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
	return equalTupleDescs(relation->desc, RelationGetDescr(rel)) &&
		relation->identity_full == (rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL) &&
		relation->identity_index == (relation->identity_full ? rel->rd_pkindex : rel->rd_replidindex) &&
		strcmp(relation->name, trucker_qualified_name(rel)) == 0;
}

/* ----
 * The columns of r
 * ----
 */

static void
add_table_columns(TruckerRowType *type, int *n, TupleDesc reldesc,
				  TruckerColumnSource source)
{
	for (int i = 0; i < reldesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(reldesc, i);
		const char *name = NameStr(attr->attname);
		TruckerColumn *column = &type->columns[*n];

		if (attr->attisdropped)
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

/* All the columns that r can have: new values, old values, metadata. */
TruckerRowType *
trucker_row_type_full(TupleDesc reldesc)
{
	TruckerRowType *type = palloc0(sizeof(TruckerRowType));
	int			live = 0;
	int			n = 0;

	for (int i = 0; i < reldesc->natts; i++)
		live += TupleDescAttr(reldesc, i)->attisdropped ? 0 : 1;
	type->desc = CreateTemplateTupleDesc(2 * live + TRUCKER_METAS);
	type->columns = palloc0((2 * live + TRUCKER_METAS) * sizeof(TruckerColumn));

	add_table_columns(type, &n, reldesc, TRUCKER_FROM_NEW);
	add_table_columns(type, &n, reldesc, TRUCKER_FROM_OLD);
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
}

/* Types whose NaN and infinity wal2json 2.5 writes as null; domains it does not. */
bool
trucker_type_can_lose_nan(Oid type)
{
	return type == FLOAT4OID || type == FLOAT8OID || type == NUMERICOID;
}

/* A null where the column allows none can only be a value the plugin lost. */
static void
check_lost_value(const TruckerRelation *relation, Form_pg_attribute attr,
				 const TruckerDecoder *decoder)
{
	if (decoder->loses_nan && attr->attnotnull && trucker_type_can_lose_nan(attr->atttypid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of table %s holds NaN or infinity, which this version of %s cannot carry",
						NameStr(attr->attname), relation->name, decoder->plugin),
				 errdetail("The value arrived as null, and the column is NOT NULL."),
				 errhint("Use wal2json 2.6 or later, or keep such values out of the column; then call trucker.resync().")));
}

/* Does the type's text form name an object, perhaps without its schema? */
static bool
names_objects(Oid type)
{
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);

	switch (OidIsValid(element) ? getBaseType(element) : base)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
			return true;
		default:
			return false;
	}
}

/*
 * Names were written under the walsender's search_path, pg_catalog, and must be
 * read under the same, whatever the truck's is.
 */
static Datum
convert_name(FmgrInfo *input, const char *text, Oid param, int32 typmod)
{
	int			nestlevel = NewGUCNestLevel();
	Datum		value;

	(void) set_config_option("search_path", "pg_catalog", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	value = InputFunctionCall(input, unconstify(char *, text), param, typmod);
	AtEOXact_GUC(true, nestlevel);
	return value;
}

static Datum
convert(TruckerRelation *relation, int attnum, const char *text,
		const TruckerDecoder *decoder)
{
	Form_pg_attribute attr = TupleDescAttr(relation->desc, attnum - 1);
	FmgrInfo   *input = &relation->input[attnum - 1];

	if (!OidIsValid(input->fn_oid))
	{
		Oid			function;

		getTypeInputInfo(attr->atttypid, &function, &relation->input_param[attnum - 1]);
		fmgr_info_cxt(function, input, GetMemoryChunkContext(relation));
		relation->names_objects[attnum - 1] = names_objects(attr->atttypid);
	}
	if (decoder->bytea_lacks_prefix && attr->atttypid == BYTEAOID)
		text = psprintf("\\x%s", text);
	if (relation->names_objects[attnum - 1])
		return convert_name(input, text, relation->input_param[attnum - 1], attr->atttypmod);
	return InputFunctionCall(input, unconstify(char *, text),
							 relation->input_param[attnum - 1], attr->atttypmod);
}

static void
store_value(Datum *values, TruckerPresence *presence, int attnum,
			TruckerRelation *relation, const char *text,
			const TruckerDecoder *decoder)
{
	if (text == NULL)
	{
		check_lost_value(relation, TupleDescAttr(relation->desc, attnum - 1), decoder);
		presence[attnum - 1] = TRUCKER_IS_NULL;
		return;
	}
	relation->converting = attnum;
	values[attnum - 1] = convert(relation, attnum, text, decoder);
	relation->converting = 0;
	presence[attnum - 1] = TRUCKER_PRESENT;
}

/* The table's live column of this name, or 0; looked for from *hint on. */
static int
attnum_by_name(TupleDesc desc, const char *name, int *hint)
{
	for (int i = 0; i < desc->natts; i++)
	{
		int			at = (*hint + i) % desc->natts;
		Form_pg_attribute attr = TupleDescAttr(desc, at);

		if (!attr->attisdropped && strcmp(NameStr(attr->attname), name) == 0)
		{
			*hint = at + 1;
			return attr->attnum;
		}
	}
	return 0;
}

/* The attnum that the same message gives for a name, or 0. */
static int
attnum_in_message(const TruckerMessage *message, const char *name, int *hint)
{
	for (int i = 0; i < message->nnew; i++)
	{
		int			at = (*hint + i) % message->nnew;

		if (strcmp(message->newfields[at].name, name) == 0)
		{
			*hint = at + 1;
			return message->newfields[at].attnum;
		}
	}
	return 0;
}

static bool
is_live(const TruckerRelation *relation, int attnum)
{
	return attnum >= 1 && attnum <= relation->desc->natts &&
		!TupleDescAttr(relation->desc, attnum - 1)->attisdropped;
}

/*
 * A deleted row's values come by name only.  Where the column of that name was
 * altered after the delete, another one may have borne the name then.
 */
static void
check_name_is_old(const TruckerRelation *relation, int attnum, TransactionId xid)
{
	TransactionId altered_by = relation->altered_by[attnum - 1];

	if (TransactionIdIsNormal(altered_by) && TransactionIdIsNormal(xid) &&
		TransactionIdFollows(altered_by, xid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" of table %s was altered after a delete that the truck has yet to apply",
						NameStr(TupleDescAttr(relation->desc, attnum - 1)->attname),
						relation->name),
				 errdetail("The delete names its values by column, and another column may have had that name."),
				 errhint("Call trucker.resync() to load the table anew.")));
}

static void
conversion_error_context(void *arg)
{
	TruckerRelation *relation = arg;

	if (relation->converting != 0)
		errcontext("value of column \"%s\" of table %s, as it was when the change was made",
				   NameStr(TupleDescAttr(relation->desc, relation->converting - 1)->attname),
				   relation->name);
}

/*
 * Take over a change.  Only the values that somebody needs are converted, into
 * the current memory context.
 */
void
trucker_row_from_message(TruckerRow *row, TruckerRelation *relation,
						 const TruckerMessage *message,
						 const TruckerDecoder *decoder)
{
	int			message_hint = 0;
	int			table_hint = 0;
	ErrorContextCallback callback;

	callback.callback = conversion_error_context;
	callback.arg = relation;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	trucker_row_clear(row, relation);
	row->old_in_doubt = false;
	row->operation = message->kind == TRUCKER_MSG_INSERT ? TRUCKER_INSERT :
		message->kind == TRUCKER_MSG_UPDATE ? TRUCKER_UPDATE : TRUCKER_DELETE;

	for (int i = 0; i < message->nnew; i++)
	{
		TruckerField *field = &message->newfields[i];
		int			attnum = field->attnum;

		if (attnum == 0)
			attnum = attnum_by_name(relation->desc, field->name, &table_hint);
		if (!is_live(relation, attnum))
			continue;
		if (relation->need_new[attnum - 1])
			store_value(row->newvalues, row->newpresence, attnum, relation,
						field->value, decoder);
		else
			row->newpresence[attnum - 1] = TRUCKER_UNREAD;
	}
	for (int i = 0; i < message->nold; i++)
	{
		TruckerField *field = &message->oldfields[i];
		int			attnum = field->attnum;

		if (attnum == 0)
			attnum = attnum_in_message(message, field->name, &message_hint);
		if (attnum == 0)
		{
			attnum = attnum_by_name(relation->desc, field->name, &table_hint);
			if (attnum == 0)
				row->old_in_doubt = true;
			else if (relation->need_old[attnum - 1])
				check_name_is_old(relation, attnum, message->xid);
		}
		if (is_live(relation, attnum) && relation->need_old[attnum - 1])
			store_value(row->oldvalues, row->oldpresence, attnum, relation,
						field->value, decoder);
	}
	error_context_stack = callback.previous;
}

/*
 * The value of a column that the change does not carry because the column was
 * added later.  That is what the table itself shows for such rows, unless
 * adding the column rewrote them.
 */
static Datum
missing_value(const TruckerRelation *relation, Form_pg_attribute attr,
			  bool *isnull)
{
	if (!attr->atthasmissing &&
		(attr->atthasdef || attr->attnotnull || attr->attidentity != '\0'))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a change of table %s carries no value for column \"%s\"",
						relation->name, NameStr(attr->attname)),
				 errdetail("The column was added, with a default, after the change was made."),
				 errhint("Call trucker.resync() to load the table anew.")));
	return getmissingattr(relation->desc, attr->attnum, isnull);
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
	return missing_value(relation, attr, isnull);
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
		missing_value(relation, TupleDescAttr(relation->desc, attnum - 1), isnull);
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
