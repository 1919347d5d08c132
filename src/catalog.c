/*
 * catalog.c
 *	  How trucker reads and writes its own tables.
 *
 * Ordinary users have no rights on these tables.  Statements run as the
 * bootstrap superuser, with a search_path that nobody else can write to; the
 * callers check first who asks.  Everything here needs a transaction.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"

#define WORKER_LOCK_TIMEOUT "2s"

/* Become the superuser and connect SPI; undo with trucker_catalog_end, an error does, too. */
void
trucker_catalog_begin(TruckerCatalog *access)
{
	access->result_context = CurrentMemoryContext;
	access->pushed_snapshot = !ActiveSnapshotSet();
	if (access->pushed_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	trucker_identity_push(&access->identity, BOOTSTRAP_SUPERUSERID,
						  SECURITY_LOCAL_USERID_CHANGE, "pg_catalog, pg_temp");
	/* a session that holds one of our rows must not hold up a whole stream */
	if (IsBackgroundWorker)
		(void) set_config_option("lock_timeout", WORKER_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	access->read_only = XactReadOnly;
	XactReadOnly = false;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
trucker_catalog_end(const TruckerCatalog *access)
{
	SPI_finish();
	XactReadOnly = access->read_only;
	trucker_identity_pop(&access->identity);
	if (access->pushed_snapshot)
		PopActiveSnapshot();
}

/* Run one statement; how many rows it touched. */
uint64
trucker_catalog_execute(const char *sql, int nargs, Oid *types, Datum *values,
						const char *nulls, int expected)
{
	int			rc = SPI_execute_with_args(sql, nargs, types, values, nulls,
										   false, 0);

	if (rc != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * Do something to the catalog, in transactions of its own, that may fail without
 * harm: it is logged then, and false returned; but a cancellation is kept for who looks
 * for interrupts next.  Outside any transaction.
 */
bool
trucker_catalog_try(bool (*action) (void *arg), void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool done = false;
	bool		cancelled;

	PG_TRY();
	{
		done = action(arg);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		QueryCancelPending = false;
		MemoryContextSwitchTo(old);
		LWLockReleaseAll();
		cancelled = geterrcode() == ERRCODE_QUERY_CANCELED;
		if (!cancelled)
			EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		/* one that was being copied */
		if (MyReplicationSlot != NULL)
			ReplicationSlotRelease();
		/* whoever has called us off means the process, which knows why, and whether to tell */
		if (cancelled)
			InterruptPending = QueryCancelPending = true;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return done;
}

/* One writing statement, with an id as $1 and up to one text as $2. */
uint64
trucker_catalog_write(const char *sql, const pg_uuid_t *id, const char *text,
					  int expected)
{
	Oid			types[] = {UUIDOID, TEXTOID};
	Datum		values[] = {UUIDPGetDatum(id), text ? CStringGetTextDatum(text) : (Datum) 0};
	char		nulls[] = {' ', text ? ' ' : 'n', '\0'};
	TruckerCatalog access;
	uint64		touched;

	trucker_catalog_begin(&access);
	touched = trucker_catalog_execute(sql, strstr(sql, "$2") ? 2 : 1, types, values, nulls, expected);
	trucker_catalog_end(&access);
	return touched;
}

/*
 * A list, in the caller's context, of what form() makes of each row that a query
 * returns, with an id as $1 if one is given.
 */
List *
trucker_catalog_list(const char *sql, const pg_uuid_t *id, void *(*form) (HeapTuple tuple))
{
	Oid			type = UUIDOID;
	Datum		value = id ? UUIDPGetDatum(id) : (Datum) 0;
	TruckerCatalog access;
	MemoryContext old;
	List	   *result = NIL;

	trucker_catalog_begin(&access);
	trucker_catalog_execute(sql, id ? 1 : 0, &type, &value, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		result = lappend(result, form(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return result;
}

Datum
trucker_column(HeapTuple tuple, int number, bool *isnull)
{
	return SPI_getbinval(tuple, SPI_tuptable->tupdesc, number, isnull);
}

/* A text column; NULL for a null. */
char *
trucker_text_column(HeapTuple tuple, int number)
{
	bool		isnull;
	Datum		value = trucker_column(tuple, number, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

bool
trucker_bool_column(HeapTuple tuple, int number)
{
	bool		isnull;

	return DatumGetBool(trucker_column(tuple, number, &isnull));
}

pg_uuid_t
trucker_uuid_column(HeapTuple tuple, int number)
{
	bool		isnull;

	return *DatumGetUUIDP(trucker_column(tuple, number, &isnull));
}
