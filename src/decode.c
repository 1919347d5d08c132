/*
 * decode.c
 *	  decode_wal2json(): the changes of any message of wal2json as rows.
 *
 * For people who look into a slot of their own, or have kept such messages.  It reads
 * no table and no slot, so anybody may call it.  Names and values are text, as the
 * plugin wrote them: arrays keep their order, tell an absent column (its name is not
 * there) from a null one, and lose no digit of a number.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "wal2json.h"

PG_FUNCTION_INFO_V1(trucker_decode_wal2json);

/* the columns that it returns */
enum
{
	COLUMN_N,
	COLUMN_OPERATION,
	COLUMN_SCHEMA,
	COLUMN_TABLE,
	COLUMN_XID,
	COLUMN_LSN,
	COLUMN_END_LSN,
	COLUMN_COMMITTED_AT,
	COLUMN_NEW_NAMES,
	COLUMN_NEW_TYPES,
	COLUMN_NEW_VALUES,
	COLUMN_OLD_NAMES,
	COLUMN_OLD_TYPES,
	COLUMN_OLD_VALUES,
	COLUMN_TRANSACTIONAL,
	COLUMN_PREFIX,
	COLUMN_CONTENT,
	COLUMNS
};

static const char *
operation_name(TruckerMessageKind kind)
{
	switch (kind)
	{
		case TRUCKER_MSG_INSERT:
			return "insert";
		case TRUCKER_MSG_UPDATE:
			return "update";
		case TRUCKER_MSG_DELETE:
			return "delete";
		case TRUCKER_MSG_TRUNCATE:
			return "truncate";
		case TRUCKER_MSG_LOGICAL:
			return "message";
		default:
			break;
	}
	return NULL;				/* no change */
}

static void
put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;
	if (text)
		values[column] = CStringGetTextDatum(text);
}

static void
put_lsn(Datum *values, bool *nulls, int column, XLogRecPtr lsn)
{
	values[column] = LSNGetDatum(lsn);
	nulls[column] = XLogRecPtrIsInvalid(lsn);
}

static Datum
text_array(Datum *elements, bool *nulls, int n)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(elements, nulls, 1, &n, &lower,
											  TEXTOID, -1, false, TYPALIGN_INT));
}

/* Three arrays: names, types and values; null if there is no such row, or no types. */
static void
put_fields(Datum *values, bool *nulls, int column, const TruckerField *fields, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));
	bool	   *isnull = palloc0(Max(n, 1) * sizeof(bool));
	bool		types = false;

	nulls[column] = nulls[column + 1] = nulls[column + 2] = fields == NULL;
	if (fields == NULL)
		return;
	for (int i = 0; i < n; i++)
		elements[i] = CStringGetTextDatum(fields[i].name);
	values[column] = text_array(elements, isnull, n);

	for (int i = 0; i < n; i++)
	{
		isnull[i] = fields[i].type == NULL;
		types |= !isnull[i];
		elements[i] = isnull[i] ? (Datum) 0 : CStringGetTextDatum(fields[i].type);
	}
	nulls[column + 1] = !types;
	if (types)
		values[column + 1] = text_array(elements, isnull, n);

	for (int i = 0; i < n; i++)
	{
		isnull[i] = fields[i].value == NULL;
		elements[i] = isnull[i] ? (Datum) 0 : CStringGetTextDatum(fields[i].value);
	}
	values[column + 2] = text_array(elements, isnull, n);
}

static void
put_change(ReturnSetInfo *rsinfo, int number, const TruckerMessage *message, XLogRecPtr lsn)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS] = {false};
	bool		is_message = message->kind == TRUCKER_MSG_LOGICAL;

	values[COLUMN_N] = Int32GetDatum(number);
	put_text(values, nulls, COLUMN_OPERATION, operation_name(message->kind));
	put_text(values, nulls, COLUMN_SCHEMA, message->schema);
	put_text(values, nulls, COLUMN_TABLE, message->table);
	values[COLUMN_XID] = Int64GetDatum(message->xid);
	nulls[COLUMN_XID] = !TransactionIdIsValid(message->xid);
	put_lsn(values, nulls, COLUMN_LSN, lsn);
	put_lsn(values, nulls, COLUMN_END_LSN, message->end_lsn);
	values[COLUMN_COMMITTED_AT] = TimestampTzGetDatum(message->committed_at);
	nulls[COLUMN_COMMITTED_AT] = message->committed_at == 0;
	put_fields(values, nulls, COLUMN_NEW_NAMES, message->newfields, message->nnew);
	put_fields(values, nulls, COLUMN_OLD_NAMES, message->oldfields, message->nold);
	values[COLUMN_TRANSACTIONAL] = BoolGetDatum(message->transactional);
	nulls[COLUMN_TRANSACTIONAL] = !is_message;
	put_text(values, nulls, COLUMN_PREFIX, message->prefix);
	put_text(values, nulls, COLUMN_CONTENT, message->content);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* decode_wal2json(message) */
Datum
trucker_decode_wal2json(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *data = PG_GETARG_TEXT_PP(0);
	const char *p = VARDATA_ANY(data);
	int			len = VARSIZE_ANY_EXHDR(data);
	MemoryContext context;
	MemoryContext old;
	int			number = 0;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (!trucker_wal2json_is_v1(p, len))
	{
		TruckerMessage message;
		XLogRecPtr	lsn;

		trucker_wal2json_decode_any(p, len, &message, &lsn);
		if (operation_name(message.kind) != NULL)
			put_change(rsinfo, 1, &message, lsn);
		return (Datum) 0;
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "trucker decoded change", ALLOCSET_DEFAULT_SIZES);
	foreach(lc, trucker_wal2json_decode_v1(p, len))
	{
		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(context);
		put_change(rsinfo, ++number, lfirst(lc), InvalidXLogRecPtr);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	return (Datum) 0;
}
