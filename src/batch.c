/*
 * batch.c
 *	  Whole source transactions, kept until each truck of the stream has applied them.
 *
 * Several trucks cannot have their destination transactions open side by side in
 * one process, so what has been decoded is kept, and applied truck by truck.
 * Changes are kept by table: what a truck costs depends on the tables that it
 * reads, not on how many there are.  A truck that reads several gets their changes
 * in the order of the source, by number.
 *
 * Of a change only the columns are kept that some truck needs which reads the table; what
 * cannot be told for certain is kept.
 *
 * The tables' changes are tuplestores, which go to disk when they grow.  Each
 * table that occurs in a batch is given half of the memory that is left of
 * trucker.batch_memory: the first ones, which are mostly the only ones, get most.
 *
 * Tuplestores here live across transactions, and belong to no resource owner; the
 * batch's memory context and trucker_batch_clear() end them.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "batch.h"
#include "stats.h"

/* what a tuplestore is given at least */
#define MIN_TABLE_MEMORY (64 * 1024)

/* a column's value in a packed change: its length, or one of these */
#define PACKED_NULL (-1)

/* in the place of the number of columns left unchanged: the plugin does not tell */
#define NOT_TOLD (-1)

/* No catalog may be looked at outside a transaction; to a tuple, text is as good as bytea. */
static TupleDesc
packed_desc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(2);

	TupleDescInitBuiltinEntry(desc, 1, "number", INT8OID, -1, 0);
	TupleDescInitBuiltinEntry(desc, 2, "change", TEXTOID, -1, 0);
	return desc;
}

/* ----
 * A change as a string of bytes
 * ----
 */

/* Before a field's name and value, each followed by a zero byte. */
typedef struct PackedField
{
	int32		attnum;
	Oid			type_oid;
	int32		len;			/* of the value; or PACKED_NULL */
	bool		binary;
} PackedField;

/*
 * A column's attnum in the message's own table; 0: it is not known.  The old row's columns
 * come by name only, perhaps, and so do a deleted row's.
 */
static int
attnum_of(const TruckerMessage *message, const TruckerField *field, int *hint)
{
	return field->attnum != 0 ? field->attnum : trucker_message_attnum(message, field->name, hint);
}

/*
 * Those fields that somebody needs, or all (needs is NULL); how many these are.  The
 * message's attnums must be the table's.
 */
static int
pack_fields(StringInfo buf, const TruckerMessage *message, const TruckerField *fields, int n,
			const TruckerNeeds *needs)
{
	int			hint = 0;
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		const TruckerField *field = &fields[i];
		/* not looked up again, when the new row's columns may be missing */
		int			attnum = needs ? attnum_of(message, field, &hint) : field->attnum;
		PackedField packed = {attnum, field->type_oid, PACKED_NULL, field->binary};

		if (needs && attnum > 0 && !trucker_needs_column(needs, attnum))
			continue;
		count++;
		if (field->value)
			packed.len = field->binary ? field->len : (int) strlen(field->value);
		appendBinaryStringInfo(buf, (char *) &packed, sizeof(packed));
		appendBinaryStringInfo(buf, field->name, strlen(field->name) + 1);
		if (field->value)
			appendBinaryStringInfo(buf, field->value, packed.len + 1);
	}
	return count;
}

/* A change's kind, columns and values, without its transaction and table. */
static bytea *
pack_message(const TruckerMessage *message, const TruckerNeeds *needs)
{
	StringInfoData buf;
	int32		header[6] = {message->kind, 0, 0, (int32) message->leaf, message->size, message->tells_unchanged ? message->nunchanged : NOT_TOLD};

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendBinaryStringInfo(&buf, (char *) header, sizeof(header));
	appendBinaryStringInfo(&buf, (char *) &message->lsn, sizeof(message->lsn));
	header[1] = pack_fields(&buf, message, message->newfields, message->nnew, needs);
	header[2] = pack_fields(&buf, message, message->oldfields, message->nold, needs);
	for (int i = 0; i < message->nunchanged; i++)
		appendBinaryStringInfo(&buf, message->unchanged[i], strlen(message->unchanged[i]) + 1);
	memcpy(buf.data + VARHDRSZ, header, sizeof(header));
	SET_VARSIZE(buf.data, buf.len);
	return (bytea *) buf.data;
}

static const char *
unpack_fields(const char *p, TruckerField **fields, int n)
{
	*fields = palloc0(Max(n, 1) * sizeof(TruckerField));
	for (int i = 0; i < n; i++)
	{
		TruckerField *field = &(*fields)[i];
		PackedField packed;

		memcpy(&packed, p, sizeof(packed));
		p += sizeof(packed);
		field->attnum = packed.attnum;
		field->type_oid = packed.type_oid;
		field->binary = packed.binary;
		field->name = p;
		p += strlen(p) + 1;
		if (packed.len != PACKED_NULL)
		{
			field->value = p;
			field->len = packed.len;
			p += packed.len + 1;
		}
	}
	return p;
}

/* The reverse; the message points into what it was packed in, which must not be toasted. */
static void
unpack_message(const bytea *packed, TruckerMessage *message)
{
	const char *p = VARDATA_ANY(packed);
	int32		header[6];

	memset(message, 0, sizeof(*message));
	memcpy(header, p, sizeof(header));
	message->kind = header[0];
	message->nnew = header[1];
	message->nold = header[2];
	message->leaf = (Oid) header[3];
	message->size = header[4];
	memcpy(&message->lsn, p + sizeof(header), sizeof(message->lsn));
	p = unpack_fields(p + sizeof(header) + sizeof(message->lsn), &message->newfields, message->nnew);
	p = unpack_fields(p, &message->oldfields, message->nold);
	message->tells_unchanged = header[5] != NOT_TOLD;
	if (header[5] <= 0)
		return;
	message->unchanged = palloc(header[5] * sizeof(char *));
	while (message->nunchanged < header[5])
	{
		message->unchanged[message->nunchanged++] = p;
		p += strlen(p) + 1;
	}
}

/* ----
 * Writing
 * ----
 */

/* An empty batch for that many tables' changes, as the decoder reads them, in a child of the current memory context. */
TruckerBatch *
trucker_batch_create(const TruckerDecoder *decoder, int ntables)
{
	TruckerBatch *batch = palloc0(sizeof(TruckerBatch));

	batch->context = AllocSetContextCreate(CurrentMemoryContext, "trucker stream batch",
										   ALLOCSET_DEFAULT_SIZES);
	batch->decoder = decoder;
	batch->ntables = ntables;
	batch->tables = palloc0(Max(ntables, 1) * sizeof(TruckerBatchTable));
	batch->memory_left = (int64) trucker_batch_memory * 1024;
	return batch;
}

/* The changes that follow are this source transaction's. */
void
trucker_batch_begin_source(TruckerBatch *batch, const TruckerMessage *begin)
{
	if (batch->nsources == batch->max_sources)
	{
		batch->max_sources = Max(16, batch->max_sources * 2);
		if (batch->sources == NULL)
			batch->sources = MemoryContextAlloc(batch->context, batch->max_sources * sizeof(TruckerSource));
		else
			batch->sources = repalloc_huge(batch->sources, batch->max_sources * sizeof(TruckerSource));
	}
	batch->sources[batch->nsources].begin = *begin;
	batch->sources[batch->nsources].first = batch->nchanges;
	batch->nsources++;
}

static void
open_table(TruckerBatch *batch, TruckerBatchTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	ResourceOwner owner = CurrentResourceOwner;
	int64		memory = Max(batch->memory_left / 2, MIN_TABLE_MEMORY);

	batch->memory_left = Max(batch->memory_left - memory, 0);
	CurrentResourceOwner = NULL;
	table->store = tuplestore_begin_heap(false, true, (int) (memory / 1024));
	tuplestore_set_eflags(table->store, EXEC_FLAG_REWIND);
	CurrentResourceOwner = owner;
	table->slot = MakeSingleTupleTableSlot(packed_desc(), &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(old);
}

/*
 * A change of the current source transaction.  Only what somebody needs of it is kept, by
 * the attnums that it comes with; needs NULL: they are not the table's, all is kept.
 * Scratch is taken from the current context.
 */
void
trucker_batch_add(TruckerBatch *batch, int table_number, const TruckerMessage *message,
				  const TruckerNeeds *needs)
{
	TruckerBatchTable *table = &batch->tables[table_number];
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (table->store == NULL)
		open_table(batch, table);
	values[0] = Int64GetDatum(batch->nchanges);
	values[1] = PointerGetDatum(pack_message(message, needs));
	tuplestore_putvalues(table->store, table->slot->tts_tupleDescriptor, values, nulls);
	pfree(DatumGetPointer(values[1]));
	table->nchanges++;
	batch->nchanges++;
}

/* The last source transaction is whole.  A plugin may tell only now where it ends. */
void
trucker_batch_end_source(TruckerBatch *batch, XLogRecPtr end_lsn)
{
	if (batch->nsources > 0)
		batch->sources[batch->nsources - 1].begin.end_lsn = end_lsn;
}

/* Empty the batch. */
void
trucker_batch_clear(TruckerBatch *batch)
{
	bool		spilled = false;

	for (int i = 0; i < batch->ntables; i++)
	{
		TruckerBatchTable *table = &batch->tables[i];

		if (table->store == NULL)
			continue;
		spilled |= !tuplestore_in_memory(table->store);
		ExecDropSingleTupleTableSlot(table->slot);
		tuplestore_end(table->store);
		memset(table, 0, sizeof(*table));
	}
	trucker_stats_count_stream(TRUCKER_STREAM_SPILLS, spilled ? 1 : 0);
	MemoryContextReset(batch->context);
	batch->sources = NULL;
	batch->nsources = batch->max_sources = 0;
	batch->nchanges = 0;
	batch->memory_left = (int64) trucker_batch_memory * 1024;
}

/* ----
 * Reading
 * ----
 */

/* A change that comes from disk is the slot's until the next one, whatever the caller resets. */
static void
fetch(TruckerBatch *batch, TruckerBatchTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		isnull;

	if (table->store == NULL ||
		!tuplestore_gettupleslot(table->store, true, false, table->slot))
		table->next = -1;
	else
		table->next = DatumGetInt64(slot_getattr(table->slot, 1, &isnull));
	MemoryContextSwitchTo(old);
}

/* Start to read the changes of some tables; one reader at a time. */
void
trucker_batch_read(TruckerBatch *batch, int ntables, const int *tables)
{
	batch->source = 0;
	batch->nreading = ntables;
	batch->reading = tables;
	batch->last = -1;
	for (int i = 0; i < ntables; i++)
	{
		TruckerBatchTable *table = &batch->tables[tables[i]];

		if (table->store)
			tuplestore_rescan(table->store);
		fetch(batch, table);
	}
}

/*
 * The next change, in the order of the source, with its transaction and its table;
 * false: there are no more.  What message points at is valid until the next call.
 */
bool
trucker_batch_next(TruckerBatch *batch, const TruckerSource **source, int *table_number,
				   TruckerMessage *message)
{
	TruckerBatchTable *table = NULL;
	int			found = -1;
	bool		isnull;

	if (batch->last >= 0)
		fetch(batch, &batch->tables[batch->last]);
	for (int i = 0; i < batch->nreading; i++)
	{
		TruckerBatchTable *candidate = &batch->tables[batch->reading[i]];

		if (candidate->next >= 0 && (table == NULL || candidate->next < table->next))
		{
			table = candidate;
			found = batch->reading[i];
		}
	}
	if (table == NULL)
	{
		batch->last = -1;
		return false;
	}
	while (batch->source + 1 < batch->nsources &&
		   batch->sources[batch->source + 1].first <= table->next)
		batch->source++;

	unpack_message(DatumGetByteaPP(slot_getattr(table->slot, 2, &isnull)), message);
	message->decoder = batch->decoder;
	*source = &batch->sources[batch->source];
	*table_number = batch->last = found;
	message->xid = (*source)->begin.xid;
	message->commit_lsn = (*source)->begin.commit_lsn;
	message->end_lsn = (*source)->begin.end_lsn;
	message->committed_at = (*source)->begin.committed_at;
	return true;
}
