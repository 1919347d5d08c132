/*
 * generated.c
 *	  Values of stored generated columns that a change does not carry.
 *
 * They are in the WAL, and wal2json passes them on, but pgoutput leaves them out.  Such a
 * value depends on nothing but the row's other values, and its expression cannot be altered
 * (only dropped, or the column): so it is computed, as the server did when the row was
 * written.  The columns that the expression reads are needed then, whether r has them or
 * not.
 *
 * Where an update has left a large value (TOAST) of them unchanged, it is that of the old
 * row, if there is one.  If not, the generated value stays absent, and is looked for
 * where a large value is (toast.c).
 *
 * The expression's functions run with the rights of the truck's role, as the CHECK of a
 * domain does.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_attribute.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/proc.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "generated.h"
#include "part.h"

typedef struct GeneratedColumn
{
	AttrNumber	attnum;
	Bitmapset  *bases;			/* attnums that the expression reads */
	Expr	   *expression;
	ExprState  *state;			/* NULL: not ready in this transaction */
} GeneratedColumn;

/* Of one table. */
typedef struct TruckerGenerated
{
	int			ncolumns;
	GeneratedColumn *columns;

	/* what functions keep from one call to the next is good for a transaction */
	LocalTransactionId lxid;
	MemoryContext context;
	ExprContext *econtext;
	TupleTableSlot *slot;
} TruckerGenerated;

static bool
is_generated(TupleDesc desc, int attnum)
{
	Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);

	return attr->attgenerated == ATTRIBUTE_GENERATED_STORED && !attr->attisdropped;
}

/* The name of a generated column that the changes' old rows should carry, and do not; or NULL. */
static const char *
generated_in_identity(const TruckerRelation *relation)
{
	int			attnum = -1;

	if (relation->identity_full)
		return NULL;
	while ((attnum = bms_next_member(relation->identity, attnum)) >= 0)
		if (is_generated(relation->desc, attnum))
			return NameStr(TupleDescAttr(relation->desc, attnum - 1)->attname);
	return NULL;
}

/*
 * May updates and deletes of the table be read through such a plugin?  Of the old row it
 * sends the replica identity only, and of that no generated column: the row could not be
 * found, nor the value computed.
 */
void
trucker_generated_check(const TruckerRelation *relation, const TruckerDecoder *decoder)
{
	const char *column = decoder->omits_generated ? generated_in_identity(relation) : NULL;

	if (column)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the replica identity of table %s has a generated column \"%s\", which output plugin \"%s\" does not send",
						relation->name, column, decoder->plugin),
				 errdetail("It would not be known which rows are updated and deleted."),
				 errhint("%s or use another output plugin: see trucker.set_output_plugin().", trucker_parts_alter_all(relation))));
}

/* Somebody needs the generated column, and so what it is computed from. */
static void
need_bases(TruckerRelation *relation, const GeneratedColumn *column)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(column->bases, attnum)) >= 0)
	{
		if (relation->need_new[column->attnum - 1])
			relation->need_new[attnum - 1] = true;
		/* an unchanged TOAST value of the new row may be found in the old one */
		if (relation->identity_full)
			relation->need_old[attnum - 1] = true;
	}
}

static void
add_column(TruckerRelation *relation, Relation rel, AttrNumber attnum)
{
	TruckerGenerated *generated = relation->generated;
	GeneratedColumn *column = &generated->columns[generated->ncolumns++];
	Node	   *expression = build_column_default(rel, attnum);
	Bitmapset  *read = NULL;
	int			x = -1;

	if (expression == NULL)
		elog(ERROR, "no generation expression found for column number %d of table %s", attnum, relation->name);
	column->attnum = attnum;
	column->expression = expression_planner((Expr *) expression);
	column->state = NULL;
	pull_varattnos(expression, 1, &read);
	/* tableoid is no column */
	while ((x = bms_next_member(read, x)) >= 0)
		if (x + FirstLowInvalidHeapAttributeNumber > 0)
			column->bases = bms_add_member(column->bases, x + FirstLowInvalidHeapAttributeNumber);
	need_bases(relation, column);
}

/*
 * Before the first change of a table, open here, that comes from a plugin that leaves
 * generated columns out: what will be needed to compute those that somebody needs.
 */
void
trucker_generated_prepare(TruckerRelation *relation, Relation rel)
{
	TupleDesc	desc = relation->desc;
	MemoryContext old;
	TruckerIdentity saved;

	if (relation->generated)
		return;
	old = MemoryContextSwitchTo(GetMemoryChunkContext(relation));
	/* planning runs immutable functions */
	trucker_relation_begin_as_owner(relation, &saved);
	relation->generated = palloc0(sizeof(TruckerGenerated));
	relation->generated->columns = palloc0(Max(desc->natts, 1) * sizeof(GeneratedColumn));
	for (int attnum = 1; attnum <= desc->natts; attnum++)
		if (is_generated(desc, attnum) && (relation->need_new[attnum - 1] || relation->need_old[attnum - 1]))
			add_column(relation, rel, attnum);
	if (relation->generated->ncolumns > 0)
		relation->generated->context = AllocSetContextCreate(CurrentMemoryContext, "trucker generated columns",
															 ALLOCSET_SMALL_SIZES);
	trucker_relation_end_as_owner(&saved);
	MemoryContextSwitchTo(old);
}

/* Ready to compute in this transaction. */
static void
begin(TruckerGenerated *generated, const TruckerRelation *relation)
{
	MemoryContext old;

	if (generated->lxid == MyProc->lxid)
		return;
	MemoryContextReset(generated->context);
	old = MemoryContextSwitchTo(generated->context);
	generated->econtext = CreateStandaloneExprContext();
	generated->slot = MakeSingleTupleTableSlot(relation->desc, &TTSOpsVirtual);
	for (int i = 0; i < generated->ncolumns; i++)
		generated->columns[i].state = ExecInitExpr(generated->columns[i].expression, NULL);
	MemoryContextSwitchTo(old);
	generated->lxid = MyProc->lxid;
}

/* What a column's value was in a row; ABSENT: it is not known. */
static TruckerPresence
base_value(const TruckerRow *row, bool of_old, int attnum, Datum *value)
{
	TruckerPresence presence = (of_old ? row->oldpresence : row->newpresence)[attnum - 1];

	if (presence == TRUCKER_ABSENT && !of_old && row->operation == TRUCKER_UPDATE)
	{
		/* left unchanged */
		of_old = true;
		presence = row->oldpresence[attnum - 1];
	}
	if (presence == TRUCKER_PRESENT)
		*value = (of_old ? row->oldvalues : row->newvalues)[attnum - 1];
	return presence;
}

/* Lay out what the expression reads; false: some of it is not known. */
static bool
fill_slot(TupleTableSlot *slot, const GeneratedColumn *column, const TruckerRow *row,
		  const TruckerRelation *relation, bool of_old)
{
	int			attnum = -1;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, relation->desc->natts * sizeof(bool));
	while ((attnum = bms_next_member(column->bases, attnum)) >= 0)
	{
		TruckerPresence presence = base_value(row, of_old, attnum, &slot->tts_values[attnum - 1]);

		if (presence != TRUCKER_PRESENT && presence != TRUCKER_IS_NULL)
			return false;
		slot->tts_isnull[attnum - 1] = presence == TRUCKER_IS_NULL;
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = row->part ? row->part->relid : relation->relid;
	return true;
}

static void
compute(TruckerRow *row, TruckerRelation *relation, const GeneratedColumn *column, bool of_old)
{
	TruckerGenerated *generated = relation->generated;
	Form_pg_attribute attr = TupleDescAttr(relation->desc, column->attnum - 1);
	TruckerPresence *presence = &(of_old ? row->oldpresence : row->newpresence)[column->attnum - 1];
	bool		isnull;
	Datum		value;

	if (*presence != TRUCKER_ABSENT)
		return;
	begin(generated, relation);
	if (!fill_slot(generated->slot, column, row, relation, of_old))
		return;
	generated->econtext->ecxt_scantuple = generated->slot;
	value = ExecEvalExprSwitchContext(column->state, generated->econtext, &isnull);
	if (!isnull)
		(of_old ? row->oldvalues : row->newvalues)[column->attnum - 1] = datumCopy(value, attr->attbyval, attr->attlen);
	*presence = isnull ? TRUCKER_IS_NULL : TRUCKER_PRESENT;
	ResetExprContext(generated->econtext);
}

static void
generation_error_context(void *arg)
{
	errcontext("generated column of table %s, computed from a change's other values",
			   ((TruckerRelation *) arg)->name);
}

/*
 * Compute what a change of a prepared table does not carry, as far as the values are known
 * that it takes; in the current memory context.
 */
void
trucker_generated_fill(TruckerRow *row, TruckerRelation *relation)
{
	ErrorContextCallback callback;
	TruckerIdentity saved;

	if (relation->generated == NULL || relation->generated->ncolumns == 0)
		return;
	callback.callback = generation_error_context;
	callback.arg = relation;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	trucker_relation_begin_as_owner(relation, &saved);
	for (int i = 0; i < relation->generated->ncolumns; i++)
	{
		const GeneratedColumn *column = &relation->generated->columns[i];

		if (row->operation != TRUCKER_DELETE && relation->need_new[column->attnum - 1])
			compute(row, relation, column, false);
		if (row->operation != TRUCKER_INSERT && relation->identity_full && relation->need_old[column->attnum - 1])
			compute(row, relation, column, true);
	}
	trucker_relation_end_as_owner(&saved);
	error_context_stack = callback.previous;
}
