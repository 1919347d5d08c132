/*
 * row_message.c
 *	  A change as the decoder read it becomes the values of a row.
 *
 * Columns are matched by the names that the table's columns had when the change was made
 * (columns.c), a partition's, too.  Where these are not known: those of the new row by
 * attnum, which survives a rename, if it is sent; the old row's, which wal2json sends by
 * name only, and all that pgoutput sends, by name through the same message's new row, or
 * through the table.  A partition's columns
 * lie elsewhere than the table's (part.c), but have the same names.
 *
 * Text is converted by the type's input function, a value in binary form by its receive
 * function (value.c).  Both may run code of the table's owner (the CHECK of a domain), and
 * do it with that owner's rights, in the transaction of the truck's role.
 */
#include "trucker.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "row.h"
#include "value.h"

/* Types whose NaN and infinity wal2json 2.5 writes as null; domains it does not. */
bool
trucker_type_can_lose_nan(Oid type)
{
	return type == FLOAT4OID || type == FLOAT8OID || type == NUMERICOID;
}

/* A null where the column allows none can only be a value the plugin lost. */
static void
check_lost_value(const TruckerRelation *relation, Form_pg_attribute attr, Oid type,
				 const TruckerDecoder *decoder)
{
	if (decoder->loses_nan && attr->attnotnull && trucker_type_can_lose_nan(type))
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

/* of a value of that type */
static Datum
convert(TruckerRelation *relation, int attnum, const char *text, Oid type,
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
	if (decoder->bytea_lacks_prefix && type == BYTEAOID)
		text = psprintf("\\x%s", text);
	if (relation->names_objects[attnum - 1])
		return convert_name(input, text, relation->input_param[attnum - 1], attr->atttypmod);
	return InputFunctionCall(input, unconstify(char *, text),
							 relation->input_param[attnum - 1], attr->atttypmod);
}

/*
 * The same of a value in binary form.  One of another type than the column has now goes
 * through text, as it would have come from another plugin.
 */
static Datum
convert_binary(TruckerRelation *relation, int attnum, const TruckerField *field,
			   const TruckerDecoder *decoder)
{
	Form_pg_attribute attr = TupleDescAttr(relation->desc, attnum - 1);
	FmgrInfo   *receive = &relation->receive[attnum - 1];

	if (field->type_oid != attr->atttypid)
		return convert(relation, attnum, trucker_value_text(field->value, field->len, field->type_oid),
					   field->type_oid, decoder);
	if (!OidIsValid(receive->fn_oid))
	{
		Oid			function;

		getTypeBinaryInputInfo(attr->atttypid, &function, &relation->receive_param[attnum - 1]);
		fmgr_info_cxt(function, receive, GetMemoryChunkContext(relation));
		relation->receive_copy[attnum - 1] = trucker_value_is_written_to(attr->atttypid);
	}
	return trucker_value_receive(receive, relation->receive_param[attnum - 1], attr->atttypmod,
								 field->value, field->len, relation->receive_copy[attnum - 1]);
}

/* Was the column's type altered from bytea to another, or to bytea? */
static bool
is_refused(const TruckerRelation *relation, int attnum, const TruckerField *field, const TruckerColumnThen *column)
{
	Oid			type = TupleDescAttr(relation->desc, attnum - 1)->atttypid;

	if (column)
		return column->refused;
	return OidIsValid(field->type_oid) && field->type_oid != type &&
		(getBaseType(type) == BYTEAOID) !=
		(SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(field->type_oid)) && getBaseType(field->type_oid) == BYTEAOID);
}

static void
raise_refused(const TruckerRelation *relation, int attnum)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a change of table %s carries a value of column \"%s\" that cannot be converted",
					relation->name, NameStr(TupleDescAttr(relation->desc, attnum - 1)->attname)),
			 errdetail("After the change was made, the column's type was altered from bytea to another, or to bytea."),
			 errhint("Call trucker.resync() to load the table anew.")));
}

static void
raise_altered(const TruckerRelation *relation, int attnum)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a change of table %s carries a value of column \"%s\", whose type has been altered since",
					relation->name, NameStr(TupleDescAttr(relation->desc, attnum - 1)->attname)),
			 errdetail("After the change was made, attributes of a composite type or labels of an enum within the column's type were altered."),
			 errhint("Call trucker.resync() to load the table anew.")));
}

/* A value of a column that was what column says when the change was made; NULL: not known. */
static void
store_value(Datum *values, TruckerPresence *presence, int attnum,
			TruckerRelation *relation, const TruckerField *field, const TruckerColumnThen *column,
			const TruckerDecoder *decoder)
{
	Oid			type = column ? column->type : TupleDescAttr(relation->desc, attnum - 1)->atttypid;

	if (field->value == NULL)
	{
		check_lost_value(relation, TupleDescAttr(relation->desc, attnum - 1), type, decoder);
		presence[attnum - 1] = TRUCKER_IS_NULL;
		return;
	}
	if (is_refused(relation, attnum, field, column))
		raise_refused(relation, attnum);
	if (column && column->altered)
		raise_altered(relation, attnum);
	relation->converting = attnum;
	values[attnum - 1] = field->binary ? convert_binary(relation, attnum, field, decoder) :
		convert(relation, attnum, field->value, type, decoder);
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

/* The attnum that the same message's new row gives for a name, or 0; looked for from *hint on. */
int
trucker_message_attnum(const TruckerMessage *message, const char *name, int *hint)
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

/*
 * A deleted row's values come by name only.  Where the column of that name was
 * altered after the delete, another one may have borne the name then.
 */
static void
check_name_is_old(const TruckerRelation *relation, Form_pg_attribute attr,
				  TransactionId altered_by, TransactionId xid)
{
	if (TransactionIdIsNormal(altered_by) && TransactionIdIsNormal(xid) &&
		TransactionIdFollows(altered_by, xid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" of table %s was altered after a change that the truck has yet to apply",
						NameStr(attr->attname), relation->name),
				 errdetail("The change names its values by column, and another column may have had that name."),
				 errhint("Call trucker.resync() to load the table anew.")));
}

/* The table's attnum for a column of the change's own table; 0: it is there no more. */
static int
attnum_of_whole(const TruckerRelation *relation, const TruckerPart *part, int attnum)
{
	TupleDesc	desc = part ? part->desc : relation->desc;

	if (attnum < 1 || attnum > desc->natts || TupleDescAttr(desc, attnum - 1)->attisdropped)
		return 0;
	return part ? part->to_whole[attnum - 1] : attnum;
}

/*
 * The same for a column of which the change tells only the name, which for a partition
 * was the table's, too.  With is_needed, the column of that name must be the one that
 * bore it then.
 */
static int
attnum_of_name(const TruckerRelation *relation, const char *name, const bool *is_needed,
			   TransactionId xid, int *hint)
{
	int			attnum = attnum_by_name(relation->desc, name, hint);

	if (is_needed && attnum > 0 && is_needed[attnum - 1])
		check_name_is_old(relation, TupleDescAttr(relation->desc, attnum - 1), relation->altered_by[attnum - 1], xid);
	return attnum;
}

/*
 * The same if the change's table is a partition no more: its columns had the names that
 * the table's had then.
 */
static int
attnum_of_former(const TruckerRelation *relation, const char *name, const bool *is_needed,
				 TransactionId xid, int *hint)
{
	int			attnum = attnum_of_name(relation, name, is_needed, xid, hint);

	if (attnum == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a change of a former partition of table %s has a column \"%s\", which the table has not",
						relation->name, name),
				 errdetail("The column was dropped or renamed, and the partition detached or dropped, before the truck had applied the change."),
				 errhint("Call trucker.resync() to load the table anew.")));
	return attnum;
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

/* Is the change's table one whose columns cannot be asked for any more? */
static bool
is_former(const TruckerPart *part)
{
	return part && part->desc == NULL;
}

/*
 * Of a change for which the columns of its time are known: the attnum, now, of the column
 * that had this name; 0: it is there no more.
 */
static int
attnum_then(const TruckerRelation *relation, const TruckerColumnSpan *then, const char *name,
			const TruckerColumnThen **column, int *hint)
{
	int			attnum;

	*column = trucker_columns_find(then, name, hint);
	if (*column == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a change of table %s has a column \"%s\", which the table had not when the change was made",
						relation->name, name),
				 errdetail("The table was altered in a way that has not been followed."),
				 errhint("Call trucker.resync() to load the table anew.")));
	attnum = (*column)->attnum;
	return attnum < 1 || attnum > relation->desc->natts || TupleDescAttr(relation->desc, attnum - 1)->attisdropped ? 0 : attnum;
}

static void
take_new(TruckerRow *row, TruckerRelation *relation, const TruckerMessage *message)
{
	int			hint = 0;

	for (int i = 0; i < message->nnew; i++)
	{
		TruckerField *field = &message->newfields[i];
		const TruckerColumnThen *column = NULL;
		int			attnum;

		if (row->then)
			attnum = attnum_then(relation, row->then, field->name, &column, &hint);
		else if (is_former(row->part))
			attnum = attnum_of_former(relation, field->name, relation->need_new, row->xid, &hint);
		else if (field->attnum == 0)
			attnum = attnum_of_name(relation, field->name, relation->need_new, row->xid, &hint);
		else
			attnum = attnum_of_whole(relation, row->part, field->attnum);
		if (attnum == 0)
			continue;
		if (relation->need_new[attnum - 1])
			store_value(row->newvalues, row->newpresence, attnum, relation,
						field, column, message->decoder);
		else
			row->newpresence[attnum - 1] = TRUCKER_UNREAD;
	}
}

static void
take_old(TruckerRow *row, TruckerRelation *relation, const TruckerMessage *message)
{
	int			message_hint = 0;
	int			table_hint = 0;

	for (int i = 0; i < message->nold; i++)
	{
		TruckerField *field = &message->oldfields[i];
		const TruckerColumnThen *column = NULL;
		int			attnum = field->attnum;

		if (row->then)
			attnum = attnum_then(relation, row->then, field->name, &column, &table_hint);
		else if (is_former(row->part))
			attnum = attnum_of_former(relation, field->name, relation->need_old, row->xid, &table_hint);
		else
		{
			if (attnum == 0)
				attnum = trucker_message_attnum(message, field->name, &message_hint);
			if (attnum != 0)
				attnum = attnum_of_whole(relation, row->part, attnum);
			else
			{
				attnum = attnum_of_name(relation, field->name, relation->need_old, row->xid, &table_hint);
				row->old_in_doubt |= attnum == 0;
			}
		}
		if (attnum > 0 && relation->need_old[attnum - 1])
			store_value(row->oldvalues, row->oldpresence, attnum, relation,
						field, column, message->decoder);
	}
}

static bool
is_unchanged(const TruckerMessage *message, const char *name)
{
	for (int i = 0; i < message->nunchanged; i++)
		if (strcmp(message->unchanged[i], name) == 0)
			return true;
	return false;
}

/* What the column was called when the change was made, as far as that is known; NULL: it was not there. */
static const char *
name_then(const TruckerRow *row, const TruckerRelation *relation, int attnum)
{
	if (row->then == NULL)
		return NameStr(TupleDescAttr(relation->desc, attnum - 1)->attname);
	for (int i = 0; i < row->then->ncolumns; i++)
		if (row->then->columns[i].attnum == attnum)
			return row->then->columns[i].name;
	return NULL;
}

/*
 * A column that somebody needs, and that is neither in the new row nor one that it has left
 * unchanged, was not sent.  Nothing else may be taken for its value, not even the table's
 * own: a later change of the same row would not show that it has altered it (toast.c).
 */
static void
check_sent(const TruckerRow *row, const TruckerRelation *relation, const TruckerMessage *message)
{
	for (int attnum = 1; attnum <= relation->desc->natts; attnum++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, attnum - 1);
		const char *name;

		if (!relation->need_new[attnum - 1] || row->newpresence[attnum - 1] != TRUCKER_ABSENT ||
			attr->attisdropped || attr->attgenerated != '\0')
			continue;
		name = name_then(row, relation, attnum);
		if (name && !is_unchanged(message, name))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("a change of table %s carries no value for column \"%s\"", relation->name, NameStr(attr->attname)),
					 row->then ? errdetail("When the change was made, the column was generated, or was not among those that trucks needed.") :
					 errdetail("The column, or its name, was another when the change was made."),
					 errhint("Call trucker.resync() to load the table anew.")));
	}
}

/*
 * A column that somebody needs, and that was not there when the change was made: nothing
 * else can be meant by its absence (as by that of an unchanged TOAST value).
 */
static void
add_value(TruckerRow *row, const TruckerRelation *relation, int attnum, Datum *values, TruckerPresence *presence)
{
	bool		isnull;

	values[attnum - 1] = trucker_row_missing(row, relation, attnum,
											 trucker_columns_were_defaulted(row->then, attnum), &isnull);
	presence[attnum - 1] = isnull ? TRUCKER_IS_NULL : TRUCKER_PRESENT;
}

static void
take_added(TruckerRow *row, const TruckerRelation *relation)
{
	for (int attnum = 1; attnum <= relation->desc->natts; attnum++)
	{
		if (TupleDescAttr(relation->desc, attnum - 1)->attisdropped || bms_is_member(attnum, row->then->attnums))
			continue;
		if (row->operation != TRUCKER_DELETE && relation->need_new[attnum - 1] &&
			row->newpresence[attnum - 1] == TRUCKER_ABSENT)
			add_value(row, relation, attnum, row->newvalues, row->newpresence);
		if (row->operation != TRUCKER_INSERT && relation->need_old[attnum - 1] &&
			row->oldpresence[attnum - 1] == TRUCKER_ABSENT && bms_is_member(attnum, relation->identity))
			add_value(row, relation, attnum, row->oldvalues, row->oldpresence);
	}
}

/*
 * Take over a change of the table, or of a partition of it, made by transaction
 * row->xid.  then: the table's columns when it was made, or NULL.  Only the values that somebody needs are converted, into the current
 * memory context.
 */
void
trucker_row_from_message(TruckerRow *row, TruckerRelation *relation,
						 const TruckerPart *part, const TruckerColumnSpan *then,
						 const TruckerMessage *message)
{
	ErrorContextCallback callback;
	TruckerIdentity saved;

	callback.callback = conversion_error_context;
	callback.arg = relation;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	trucker_row_clear(row, relation);
	row->part = part;
	row->then = then;
	row->old_in_doubt = false;
	/* the plugin tells columns by name only, and leaves some out */
	row->absent_in_doubt = then == NULL && message->decoder->omits_generated;
	row->operation = message->kind == TRUCKER_MSG_INSERT ? TRUCKER_INSERT :
		message->kind == TRUCKER_MSG_UPDATE ? TRUCKER_UPDATE : TRUCKER_DELETE;
	if (relation->runs_code)
		trucker_relation_begin_as_owner(relation, &saved);
	take_new(row, relation, message);
	take_old(row, relation, message);
	if (relation->runs_code)
		trucker_relation_end_as_owner(&saved);
	if (then && then->next)
		take_added(row, relation);
	if (message->tells_unchanged && row->operation != TRUCKER_DELETE)
		check_sent(row, relation, message);
	error_context_stack = callback.previous;
}
