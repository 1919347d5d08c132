/*
 * quarantine_store.c
 *	  The tables in which quarantined changes are kept.
 *
 * The only file that knows the columns of trucker.quarantined_transaction and
 * trucker.quarantined_change.  A change is kept as the decoder read it: names and texts
 * of the moment of the change, in arrays.  So it can be kept although its values may
 * not convert, it can be looked at with SQL, and it does not depend on how a machine
 * or a version of trucker lays out bytes.
 *
 * Sessions that ask for a retry, or discard, lock rows that the worker wants: it
 * passes over what is locked, and hears of it when they have committed.
 */
#include "trucker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "quarantine.h"
#include "value.h"

/* how many changes are read at a time, at most */
#define CHUNK "100"

/* the row $1 of trucker.quarantined_transaction, unless somebody else has it locked */
#define UNLESS_LOCKED \
	"WHERE id IN (SELECT x.id FROM trucker.quarantined_transaction x WHERE x.id = $1 FOR UPDATE SKIP LOCKED)"

/* there may be many: it is planned once in a process */
static SPIPlanPtr insert_plan = NULL;

static const char *const operations[] = {
	[TRUCKER_MSG_INSERT] = "insert",
	[TRUCKER_MSG_UPDATE] = "update",
	[TRUCKER_MSG_DELETE] = "delete",
	[TRUCKER_MSG_TRUNCATE] = "truncate"
};

static int64
int64_column(HeapTuple tuple, int number)
{
	bool		isnull;

	return DatumGetInt64(trucker_column(tuple, number, &isnull));
}

/* ----
 * Reading what there is
 * ----
 */

static void
form_keys(HeapTuple tuple, int number, TruckerRowKeys *keys)
{
	Datum		array;

	keys->made_of = int64_column(tuple, number);
	keys->n = 0;
	array = trucker_column(tuple, number + 1, &keys->any);
	if (!keys->any)
	{
		ArrayType  *hashes = DatumGetArrayTypeP(array);

		keys->n = Min(ArrayGetNItems(ARR_NDIM(hashes), ARR_DIMS(hashes)), (int) lengthof(keys->hashes));
		memcpy(keys->hashes, ARR_DATA_PTR(hashes), keys->n * sizeof(int64));
	}
}

/* Fill an empty picture of what the truck has in quarantine. */
void
trucker_quarantine_read(TruckerQuarantine *quarantine)
{
	Oid			type = UUIDOID;
	Datum		value = UUIDPGetDatum(&quarantine->truck_id);
	TruckerHeld *held = NULL;
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("SELECT q.id, q.lsn, q.error IS NULL, q.retry, c.relid, c.made_of, c.keys "
								   "FROM trucker.quarantined_transaction q "
								   "JOIN trucker.quarantined_change c ON c.id = q.id "
								   "WHERE q.truck_id = $1 ORDER BY q.lsn, c.id, c.seq",
								   1, &type, &value, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		int64		id = int64_column(tuple, 1);
		TruckerRowKeys keys;
		bool		isnull;

		if (held == NULL || held->id != id)
		{
			held = trucker_quarantine_note_held(quarantine, id, DatumGetLSN(trucker_column(tuple, 2, &isnull)));
			held->parked = trucker_bool_column(tuple, 3);
			held->asked = trucker_bool_column(tuple, 4);
		}
		form_keys(tuple, 6, &keys);
		trucker_quarantine_note(quarantine, held, DatumGetObjectId(trucker_column(tuple, 5, &isnull)), &keys);
	}
	trucker_catalog_end(&access);
}

/* ----
 * Adding
 * ----
 */

/*
 * A source transaction whose changes follow: because of an error; or, if that is
 * NULL, because another one holds their keys.
 */
TruckerHeld *
trucker_quarantine_open(TruckerQuarantine *quarantine, const TruckerMessage *begin,
						const char *error, int64 behind)
{
	Oid			types[] = {UUIDOID, PG_LSNOID, INT8OID, TIMESTAMPTZOID, TEXTOID, INT8OID};
	Datum		values[] = {UUIDPGetDatum(&quarantine->truck_id), LSNGetDatum(begin->commit_lsn),
	Int64GetDatum((int64) begin->xid), TimestampTzGetDatum(begin->committed_at),
	error ? CStringGetTextDatum(error) : (Datum) 0, Int64GetDatum(behind)};
	char		nulls[] = {' ', ' ', ' ', ' ', error ? ' ' : 'n', error ? 'n' : ' ', '\0'};
	TruckerCatalog access;
	TruckerHeld *held;

	/* what is added to memory now may be rolled back */
	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("INSERT INTO trucker.quarantined_transaction "
								   "(truck_id, lsn, xid, committed_at, error, behind) "
								   "VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
								   6, types, values, nulls, SPI_OK_INSERT_RETURNING);
	held = trucker_quarantine_note_held(quarantine, int64_column(SPI_tuptable->vals[0], 1), begin->commit_lsn);
	held->parked = error == NULL;
	trucker_catalog_end(&access);
	return held;
}

/* A value in binary form becomes text, which does not depend on a type's version, and can be looked at. */
static const char *
field_text(const TruckerField *field)
{
	return field->binary ? trucker_value_text(field->value, field->len, field->type_oid) : field->value;
}

/* Names, attnums and texts of a row as three arrays; NULLs for a row that is not there. */
static void
form_fields(const TruckerField *fields, int n, Datum *values, char *nulls)
{
	Datum	   *names = palloc(Max(n, 1) * sizeof(Datum));
	Datum	   *attnums = palloc(Max(n, 1) * sizeof(Datum));
	Datum	   *texts = palloc(Max(n, 1) * sizeof(Datum));
	bool	   *absent = palloc(Max(n, 1) * sizeof(bool));
	int			lower = 1;

	memset(nulls, n == 0 ? 'n' : ' ', 3);
	for (int i = 0; i < n; i++)
	{
		names[i] = CStringGetTextDatum(fields[i].name);
		attnums[i] = Int32GetDatum(fields[i].attnum);
		absent[i] = fields[i].value == NULL;
		texts[i] = absent[i] ? (Datum) 0 : CStringGetTextDatum(field_text(&fields[i]));
	}
	values[0] = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(attnums, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_md_array(texts, absent, 1, &n, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
raise_full(TruckerQuarantine *quarantine)
{
	quarantine->full = true;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the truck would have more than %d changes in quarantine", trucker_max_quarantined),
			 errhint("The view trucker.quarantine shows their errors. Remove the cause, call trucker.retry_quarantined() or trucker.discard_quarantined(), and start the truck; or raise trucker.max_quarantined.")));
}

/* One more change of a source transaction, which was opened last. */
void
trucker_quarantine_add(TruckerQuarantine *quarantine, TruckerHeld *held, Oid relid, const char *table,
					   const TruckerMessage *message, const TruckerRowKeys *keys)
{
	Oid			types[] = {INT8OID, INT4OID, UUIDOID, OIDOID, OIDOID, PG_LSNOID, TEXTOID, TEXTOID, INT8OID, INT8ARRAYOID,
	TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1] = "                 ";
	Datum		hashes[lengthof(keys->hashes)];
	TruckerCatalog access;

	if (quarantine->nchanges >= trucker_max_quarantined)
		raise_full(quarantine);
	for (int i = 0; i < keys->n; i++)
		hashes[i] = Int64GetDatum(keys->hashes[i]);
	values[0] = Int64GetDatum(held->id);
	values[1] = Int32GetDatum((int32) held->nchanges + 1);
	values[2] = UUIDPGetDatum(&quarantine->truck_id);
	values[3] = ObjectIdGetDatum(relid);
	values[4] = ObjectIdGetDatum(message->leaf);
	values[5] = LSNGetDatum(message->lsn);
	values[6] = CStringGetTextDatum(table);
	values[7] = CStringGetTextDatum(operations[message->kind]);
	values[8] = Int64GetDatum(keys->made_of);
	values[9] = PointerGetDatum(construct_array(hashes, keys->any ? 0 : keys->n, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	nulls[9] = keys->any ? 'n' : ' ';
	form_fields(message->newfields, message->nnew, &values[10], &nulls[10]);
	form_fields(message->oldfields, message->nold, &values[13], &nulls[13]);
	values[16] = CStringGetTextDatum(message->decoder->plugin);

	trucker_catalog_begin(&access);
	if (insert_plan == NULL)
	{
		insert_plan = SPI_prepare("INSERT INTO trucker.quarantined_change VALUES "
								  "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
								  lengthof(types), types);
		if (insert_plan == NULL || SPI_keepplan(insert_plan) != 0)
			elog(ERROR, "could not prepare to keep changes");
	}
	if (SPI_execute_plan(insert_plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not keep a change");
	trucker_catalog_end(&access);
	trucker_quarantine_note(quarantine, held, relid, keys);
}

/* ----
 * Retrying
 * ----
 */

/*
 * Lock a source transaction that somebody has asked to be applied, and tell what it
 * was.  False: that is not so any more, or somebody else has it locked.
 */
bool
trucker_quarantine_take(const TruckerQuarantine *quarantine, const TruckerHeld *held, TruckerMessage *begin)
{
	Oid			types[] = {INT8OID, UUIDOID};
	Datum		values[] = {Int64GetDatum(held->id), UUIDPGetDatum(&quarantine->truck_id)};
	TruckerCatalog access;
	bool		taken;

	memset(begin, 0, sizeof(*begin));
	begin->kind = TRUCKER_MSG_BEGIN;
	trucker_catalog_begin(&access);
	taken = trucker_catalog_execute("SELECT lsn, xid, committed_at FROM trucker.quarantined_transaction "
									"WHERE id = $1 AND truck_id = $2 AND retry FOR UPDATE SKIP LOCKED",
									2, types, values, NULL, SPI_OK_SELECT) > 0;
	if (taken)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		bool		isnull;

		begin->commit_lsn = DatumGetLSN(trucker_column(tuple, 1, &isnull));
		begin->xid = (TransactionId) int64_column(tuple, 2);
		begin->committed_at = DatumGetTimestampTz(trucker_column(tuple, 3, &isnull));
	}
	trucker_catalog_end(&access);
	return taken;
}

static TruckerMessageKind
kind_of(const char *operation)
{
	for (int i = TRUCKER_MSG_INSERT; i < TRUCKER_MSG_TRUNCATE; i++)
		if (strcmp(operation, operations[i]) == 0)
			return i;
	return TRUCKER_MSG_TRUNCATE;
}

static int
read_fields(HeapTuple tuple, int number, TruckerField **fields)
{
	bool		isnull;
	Datum		array = trucker_column(tuple, number, &isnull);
	Datum	   *names;
	Datum	   *attnums;
	Datum	   *texts;
	bool	   *nulls;
	int			n;
	int			nattnums;
	int			ntexts;

	*fields = NULL;
	if (isnull)
		return 0;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(trucker_column(tuple, number + 1, &isnull)), INT4OID, sizeof(int32), true,
					  TYPALIGN_INT, &attnums, NULL, &nattnums);
	deconstruct_array(DatumGetArrayTypeP(trucker_column(tuple, number + 2, &isnull)), TEXTOID, -1, false,
					  TYPALIGN_INT, &texts, &nulls, &ntexts);
	n = Min(n, Min(nattnums, ntexts));
	*fields = palloc0(Max(n, 1) * sizeof(TruckerField));
	for (int i = 0; i < n; i++)
	{
		(*fields)[i].name = TextDatumGetCString(names[i]);
		(*fields)[i].attnum = DatumGetInt32(attnums[i]);
		(*fields)[i].value = nulls[i] ? NULL : TextDatumGetCString(texts[i]);
	}
	return n;
}

static TruckerKeptChange *
form_kept(HeapTuple tuple)
{
	TruckerKeptChange *kept = palloc0(sizeof(TruckerKeptChange));
	bool		isnull;

	kept->seq = DatumGetInt32(trucker_column(tuple, 1, &isnull));
	kept->relid = DatumGetObjectId(trucker_column(tuple, 2, &isnull));
	kept->message.leaf = DatumGetObjectId(trucker_column(tuple, 3, &isnull));
	kept->message.lsn = DatumGetLSN(trucker_column(tuple, 4, &isnull));
	kept->table = trucker_text_column(tuple, 5);
	kept->message.kind = kind_of(trucker_text_column(tuple, 6));
	form_keys(tuple, 7, &kept->keys);
	kept->message.nnew = read_fields(tuple, 9, &kept->message.newfields);
	kept->message.nold = read_fields(tuple, 12, &kept->message.oldfields);
	kept->message.decoder = trucker_decoder_find(trucker_text_column(tuple, 15));
	if (kept->message.decoder == NULL)
		elog(ERROR, "no decoder for a change in quarantine");
	return kept;
}

/*
 * Some of a source transaction's changes (TruckerKeptChange), those after that number;
 * NIL: all have been read.  A range of numbers, not a LIMIT: without statistics that
 * would be taken to read and sort all of them.  (Numbers may have gaps.)
 */
List *
trucker_quarantine_kept(const TruckerHeld *held, int32 after)
{
	Oid			types[] = {INT8OID, INT4OID};
	Datum		values[] = {Int64GetDatum(held->id), Int32GetDatum(after)};
	TruckerCatalog access;
	MemoryContext old;
	List	   *list = NIL;

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("SELECT seq, relid, part, record_lsn, table_name, operation, made_of, keys, "
								   "new_names, new_attnums, new_values, old_names, old_attnums, old_values, plugin "
								   "FROM trucker.quarantined_change WHERE id = $1 AND seq > $2 AND seq < " CHUNK
								   " + (SELECT min(x.seq) FROM trucker.quarantined_change x WHERE x.id = $1 AND x.seq > $2) "
								   "ORDER BY seq", 2, types, values, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		list = lappend(list, form_kept(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return list;
}

/* It is being applied.  Those (TruckerHeld) that were there only because of it are to follow. */
void
trucker_quarantine_remove(const TruckerQuarantine *quarantine, const TruckerHeld *held, const List *followers)
{
	Oid			types[] = {UUIDOID, INT8ARRAYOID};
	Datum		values[] = {UUIDPGetDatum(&quarantine->truck_id), (Datum) 0};
	Datum	   *ids = palloc(Max(list_length(followers), 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;
	TruckerCatalog access;

	(void) trucker_quarantine_discard(&quarantine->truck_id, held->id);
	foreach(lc, followers)
		ids[n++] = Int64GetDatum(((TruckerHeld *) lfirst(lc))->id);
	if (n == 0)
		return;
	values[1] = PointerGetDatum(construct_array(ids, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("UPDATE trucker.quarantined_transaction SET retry = true "
								   "WHERE id IN (SELECT x.id FROM trucker.quarantined_transaction x "
								   "WHERE x.truck_id = $1 AND x.id = ANY ($2) AND x.error IS NULL FOR UPDATE SKIP LOCKED)",
								   2, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/* It could not be applied; because of an error of its own, or not. */
void
trucker_quarantine_note_failure(const TruckerHeld *held, const char *why, bool own_error)
{
	Oid			types[] = {INT8OID, TEXTOID, BOOLOID};
	Datum		values[] = {Int64GetDatum(held->id), CStringGetTextDatum(why), BoolGetDatum(own_error)};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("UPDATE trucker.quarantined_transaction "
								   "SET retry = false, retried_at = clock_timestamp(), retry_error = $2, "
								   "error = CASE WHEN $3 THEN coalesce(error, $2) ELSE error END " UNLESS_LOCKED,
								   3, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/* ----
 * For those who decide about it
 * ----
 */

/* Whose is it?  False: there is no such source transaction in quarantine. */
bool
trucker_quarantine_owner(int64 id, pg_uuid_t *truck_id)
{
	Oid			type = INT8OID;
	Datum		value = Int64GetDatum(id);
	TruckerCatalog access;
	bool		found;

	trucker_catalog_begin(&access);
	found = trucker_catalog_execute("SELECT truck_id FROM trucker.quarantined_transaction WHERE id = $1",
									1, &type, &value, NULL, SPI_OK_SELECT) > 0;
	if (found)
		*truck_id = trucker_uuid_column(SPI_tuptable->vals[0], 1);
	trucker_catalog_end(&access);
	return found;
}

/* Run a statement on the rows of one of a truck's source transactions; or of all of them. */
static uint64
write_some(const char *statement, const pg_uuid_t *truck_id, int64 id, int expected)
{
	Oid			types[] = {UUIDOID, INT8OID};
	Datum		values[] = {UUIDPGetDatum(truck_id), Int64GetDatum(id)};
	TruckerCatalog access;
	uint64		touched;

	trucker_catalog_begin(&access);
	touched = trucker_catalog_execute(psprintf("%s WHERE truck_id = $1 AND %s", statement, id == TRUCKER_QUARANTINE_ALL ? "$2 = 0" : "id = $2"),
									  2, types, values, NULL, expected);
	trucker_catalog_end(&access);
	return touched;
}

/* Ask that they be applied; how many source transactions. */
uint64
trucker_quarantine_ask(const pg_uuid_t *truck_id, int64 id)
{
	return write_some("UPDATE trucker.quarantined_transaction SET retry = true", truck_id, id, SPI_OK_UPDATE);
}

/* Remove them; how many source transactions.  First what the worker locks first. */
uint64
trucker_quarantine_discard(const pg_uuid_t *truck_id, int64 id)
{
	uint64		n = write_some("DELETE FROM trucker.quarantined_transaction", truck_id, id, SPI_OK_DELETE);

	(void) write_some("DELETE FROM trucker.quarantined_change", truck_id, id, SPI_OK_DELETE);
	return n;
}

/* Remove the changes of tables that are not the truck's inputs; how many changes. */
uint64
trucker_quarantine_discard_others(const pg_uuid_t *truck_id, int ninputs, const Oid *inputs)
{
	Oid			types[] = {UUIDOID, OIDARRAYOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), (Datum) 0};
	Datum	   *elements = palloc(Max(ninputs, 1) * sizeof(Datum));
	TruckerCatalog access;
	uint64		n;

	for (int i = 0; i < ninputs; i++)
		elements[i] = ObjectIdGetDatum(inputs[i]);
	values[1] = PointerGetDatum(construct_array(elements, ninputs, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	trucker_catalog_begin(&access);
	/* first what the worker, and who discards, lock first */
	(void) trucker_catalog_execute("SELECT FROM trucker.quarantined_transaction WHERE truck_id = $1 FOR UPDATE",
								   1, types, values, NULL, SPI_OK_SELECT);
	n = trucker_catalog_execute("DELETE FROM trucker.quarantined_change WHERE truck_id = $1 AND relid <> ALL ($2)",
								2, types, values, NULL, SPI_OK_DELETE);
	if (n > 0)
		(void) trucker_catalog_execute("DELETE FROM trucker.quarantined_transaction q WHERE truck_id = $1 "
									   "AND NOT EXISTS (SELECT FROM trucker.quarantined_change c WHERE c.id = q.id)",
									   1, types, values, NULL, SPI_OK_DELETE);
	trucker_catalog_end(&access);
	return n;
}
