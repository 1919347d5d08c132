/*
 * input_ddl.c
 *	  DDL on input tables: what it means for the trucks that read them.
 *
 * The output plugin names a change's table as it was called at the time of the
 * change, and filters by that name.  So when an input is renamed, or a partition of
 * it is made, attached, detached or dropped, both the streams and their plugins must
 * know what was called what at which point of the WAL.
 *
 * That is exact without any state in the workers.  Each decoded change comes with the
 * LSN of its own WAL record.  Whoever renames a table holds an exclusive lock on it
 * until the commit, so of all changes of this table, in whatever transaction, those
 * recorded before a certain LSN bear the old name and those after it the new one.
 * (Renaming a schema locks no tables.  So we do that, for those that are read, before it
 * is renamed: trucker_ddl_lock_schema().  Else others' transactions could go on, and which
 * name their changes get would depend on what the output plugin happens to have cached:
 * decoded after the rename, they may bear the new name from their beginning.)
 *
 * The same holds of the columns of an input, which columns.c finds; partitions have
 * those of the whole.  Nothing needs to be read again for these: only the statement's
 * rows must be there before its changes are applied.
 *
 * So the statement's own transaction compares what the catalog says now with what
 * trucker.input_table says, and inserts rows for what differs.  An insert neither
 * waits for anybody nor fails, and a rollback takes it back.  tables.c finds a
 * change's table by name and LSN.  Were several of these statements left unseen (an
 * extension's script, say), the next one would make up for it, but late; so streams
 * compare, too (trucker_ddl_unnoted), and a difference that they find is no rename
 * that can be followed: the truck is lost.
 *
 * A running stream does not know the new names yet.  It learns of them from a logical
 * message in the same transaction, and then reads this transaction again, with the
 * names of all its trucks (stream.c).  The message has a prefix that only we know:
 * anybody may write logical messages, and those of others stay in the walsender.
 *
 * What cannot be followed marks the trucks as lost, here and now: the input has been
 * dropped, it is not in the WAL any more (unlogged, a foreign table as partition),
 * its updates and deletes are not (no replica identity); or a table with rows has
 * become a partition, since no change will ever tell of these rows.
 *
 * A new partition that lacks the replica identity is not lost: it is made by one
 * statement and given the identity by another.  It has a row without a name, its
 * changes are not read, and the truck stops with an error (part.c) until it gets the
 * identity.  If it has rows by then, they have not been seen, as with ATTACH.
 */
#include "trucker.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "state.h"

/* What to do about a table that is not what trucker.input_table says. */
typedef enum Action
{
	LOST = 'l',					/* the truck cannot go on */
	NAMED = 'n',				/* it has another name */
	ADDED = 'a',				/* it belongs to the input now */
	PENDING = 'p',				/* it does, but lacks a replica identity */
	CLOSED = 'c'				/* it belongs to the input no more */
} Action;

typedef struct Difference
{
	pg_uuid_t	truck_id;
	Oid			relid;
	Oid			leaf;
	char	   *schema;
	char	   *table;
	Datum		from_lsn;
	bool		no_from_lsn;
	Action		action;
	char	   *reason;			/* with LOST; else of what to warn, or NULL */
	char	   *lost_if_rows;	/* with ADDED: the reason if the table has rows; or NULL */
	char	   *lost_truck;		/* the same for who is told of it: which truck, and why */
} Difference;

/*
 * All differences, of one truck or of all ($1 is null) that are not lost already.  What is to be
 * done is decided row by row: was_ is what trucker.input_table says last of a table, now_ what it is.
 */
static const char differences_sql[] =
	"WITH newest AS MATERIALIZED (SELECT DISTINCT ON (truck_id, relid, leaf) * FROM trucker.input_table "
	"WHERE $1 IS NULL OR truck_id = $1 ORDER BY truck_id, relid, leaf, named_lsn DESC), "
	"input AS MATERIALIZED (SELECT truck_id, relid, from_lsn, schema_name, table_name FROM newest WHERE leaf = relid), "
	"now AS MATERIALIZED (SELECT i.relid, p.* FROM (SELECT DISTINCT relid FROM newest) i "
	"CROSS JOIN LATERAL trucker.input_parts(i.relid) p), "
	/* nearly all rows end here */
	"changed AS MATERIALIZED (SELECT truck_id, relid, leaf, n.leaf IS NOT NULL AS is_there, n.schema_name AS now_schema, "
	"n.table_name AS now_table, n.kind, n.persistence, n.has_identity, w.schema_name AS was_schema, w.table_name AS was_table FROM "
	"(SELECT i.truck_id, n.* FROM input i JOIN now n USING (relid)) n FULL JOIN newest w USING (truck_id, relid, leaf) "
	"WHERE (n.table_name = w.table_name AND n.schema_name = w.schema_name AND n.kind IN ('r', 'p') "
	"AND n.persistence = 'p' AND (n.has_identity OR n.kind = 'p')) IS NOT TRUE) "
	"SELECT truck_id, relid, leaf, now_schema, now_table, from_lsn, action, "
	"format(E'%s: %s\\nHINT: ' || CASE WHEN NOT exists THEN 'Name the tables that there are with trucker.alter_truck(%L, input_tables => ...), then trucker.resync(); or drop the truck.' "
	"ELSE 'SELECT trucker.resync(%L) loads the destination anew.' END, "
	"CASE WHEN exists THEN '55000' ELSE '42P01' END, lost, truck), "
	"loads, what, concat(quote_ident(now_schema), '.', quote_ident(now_table)), format('Truck \"%s\": %s.', truck, lost) "
	"FROM (SELECT *, what || ' ' || CASE action WHEN 'a' THEN 'had rows before its changes could be read' ELSE trouble END AS lost "
	"FROM (SELECT truck_id, relid, leaf, c.now_schema, c.now_table, i.from_lsn, t.name AS truck, "
	"c.is_there OR leaf <> relid AS exists, x.trouble, "
	"CASE WHEN leaf = relid THEN '' ELSE concat('partition ', quote_ident(c.now_schema), '.', quote_ident(c.now_table), ' of ') END || "
	"concat('input table ', quote_ident(i.schema_name), '.', quote_ident(i.table_name)) AS what, "
	"coalesce(t.options->'backfill', 'true') = 'true' AS loads, "
	"CASE WHEN x.trouble IS NOT NULL THEN 'l' "
	"WHEN NOT c.is_there AND c.was_schema IS NULL THEN NULL "
	"WHEN NOT c.is_there THEN 'c' "
	"WHEN c.was_table IS NULL AND NOT x.readable AND c.was_schema IS NOT NULL THEN NULL "
	"WHEN c.was_table IS NULL AND NOT x.readable THEN 'p' "
	"WHEN c.was_table IS NULL THEN 'a' "
	"WHEN (c.now_schema, c.now_table) <> (c.was_schema, c.was_table) THEN 'n' END AS action "
	"FROM changed c JOIN input i USING (truck_id, relid) JOIN trucker.truck t ON t.id = truck_id "
	"CROSS JOIN LATERAL (SELECT c.kind = 'p' OR c.has_identity OR t.options @> '{\"inserts_only\": true}' AS readable) r "
	"CROSS JOIN LATERAL (SELECT r.readable, CASE WHEN NOT c.is_there AND leaf = relid THEN 'has been dropped' "
	"WHEN c.kind = 'f' THEN 'is a foreign table' "
	"WHEN c.kind = 'r' AND c.persistence <> 'p' THEN 'has been made unlogged' "
	"WHEN c.was_table IS NOT NULL AND NOT r.readable THEN 'has lost its replica identity' END AS trouble) x "
	"WHERE NOT " TRUCKER_UNREADABLE ") d WHERE action IS NOT NULL) l ORDER BY truck, what";

/*
 * Of the tables $1 (null: all), those whose columns are not what trucker.input_table says
 * last have these since $2.  With $3, each new one had a default.
 */
static const char columns_sql[] =
	"WITH newest AS MATERIALIZED (SELECT DISTINCT ON (truck_id, relid) * FROM trucker.input_table "
	"WHERE leaf = relid AND ($1 IS NULL OR relid = ANY ($1)) ORDER BY truck_id, relid, named_lsn DESC), "
	"now AS MATERIALIZED (SELECT i.relid, c.columns, CASE WHEN $3 THEN "
	"(SELECT array_agg(attnum) FROM pg_attribute WHERE attrelid = i.relid AND attnum > 0) ELSE c.defaulted END AS defaulted "
	"FROM (SELECT DISTINCT relid FROM newest) i CROSS JOIN LATERAL trucker.input_columns(i.relid) c) "
	"INSERT INTO trucker.input_table (truck_id, relid, from_lsn, leaf, schema_name, table_name, named_lsn, columns, defaulted) "
	"SELECT truck_id, relid, from_lsn, leaf, schema_name, table_name, greatest($2, named_lsn + 1), n.columns, n.defaulted "
	"FROM newest w JOIN now n USING (relid) WHERE n.columns <> w.columns OR (w.columns IS NULL AND n.columns IS NOT NULL)";

/*
 * Of inputs other than the tables $1, those that have columns whose type has been altered:
 * they are found by their marks.  The tables are not locked.
 */
static const char altered_types_sql[] =
	"WITH newest AS MATERIALIZED (SELECT DISTINCT ON (truck_id, relid) * FROM trucker.input_table "
	"WHERE leaf = relid AND ($1 IS NULL OR relid <> ALL ($1)) ORDER BY truck_id, relid, named_lsn DESC), "
	"now AS MATERIALIZED (SELECT i.relid, c.* FROM (SELECT DISTINCT relid FROM newest "
	"WHERE EXISTS (SELECT FROM unnest(columns) AS x WHERE split_part(x, ' ', 3) LIKE '%.%')) i "
	"CROSS JOIN LATERAL trucker.input_columns(i.relid) c) "
	"SELECT w.truck_id, relid FROM newest w JOIN now n USING (relid) WHERE n.columns <> w.columns";

/* Of one of them. */
static const char altered_type_sql[] =
	"INSERT INTO trucker.input_table (truck_id, relid, from_lsn, leaf, schema_name, table_name, named_lsn, named_by, columns, defaulted) "
	"SELECT truck_id, relid, from_lsn, leaf, schema_name, table_name, greatest($3, named_lsn + 1), pg_current_xact_id(), c.columns, c.defaulted "
	"FROM (SELECT * FROM trucker.input_table WHERE truck_id = $1 AND relid = $2 AND leaf = $2 ORDER BY named_lsn DESC LIMIT 1) w "
	"CROSS JOIN LATERAL trucker.input_columns($2) c";

static void *
form_difference(HeapTuple tuple)
{
	Difference *difference = palloc0(sizeof(Difference));
	bool		isnull;
	char	   *action = trucker_text_column(tuple, 7);
	char	   *lost = trucker_text_column(tuple, 8);

	difference->truck_id = trucker_uuid_column(tuple, 1);
	difference->relid = DatumGetObjectId(trucker_column(tuple, 2, &isnull));
	difference->leaf = DatumGetObjectId(trucker_column(tuple, 3, &isnull));
	difference->schema = trucker_text_column(tuple, 4);
	difference->table = trucker_text_column(tuple, 5);
	difference->from_lsn = trucker_column(tuple, 6, &difference->no_from_lsn);
	difference->action = action[0];
	if (difference->action == LOST)
		difference->reason = lost;
	if (difference->action == ADDED && trucker_bool_column(tuple, 9))
		difference->lost_if_rows = lost;
	if (difference->action == PENDING)
		difference->reason = psprintf("%s has no replica identity\nALTER TABLE %s REPLICA IDENTITY FULL;",
									  trucker_text_column(tuple, 10), trucker_text_column(tuple, 11));
	difference->lost_truck = trucker_text_column(tuple, 12);
	return difference;
}

/* Has trucker.input_table never held a row?  Most databases have no trucks. */
static bool
nothing_is_read(void)
{
	Relation	rel = table_open(get_relname_relid("input_table", get_namespace_oid(TRUCKER_SCHEMA, false)),
								 AccessShareLock);
	bool		empty = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	return empty;
}

/*
 * In an open access to the catalog; the list is in its result context.  Planning takes
 * longer than most executions, so the plan is kept.
 */
static SPIPlanPtr
prepare(const char *sql, int nargs, Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", sql);
	return plan;
}

static List *
find_differences(const TruckerCatalog *access, const pg_uuid_t *truck_id)
{
	static SPIPlanPtr plan = NULL;
	Oid			type = UUIDOID;
	Datum		value = truck_id ? UUIDPGetDatum(truck_id) : (Datum) 0;
	MemoryContext old;
	List	   *result = NIL;

	/* estimates are high, rows few: compiling would take many times longer than the query */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (plan == NULL)
		plan = prepare(differences_sql, 1, &type);
	if (SPI_execute_plan(plan, &value, truck_id ? NULL : "n", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", differences_sql);
	old = MemoryContextSwitchTo(access->result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		result = lappend(result, form_difference(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	return result;
}

/* Does a table that has just become a partition, and is locked for that, hold any row? */
static bool
has_rows(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleTableSlot *slot;
	Snapshot	snapshot;
	TableScanDesc scan;
	bool		found;

	/* a partition that is partitioned itself has none, but its partitions may */
	if (rel->rd_rel->relkind != RELKIND_RELATION)
	{
		table_close(rel, AccessShareLock);
		return false;
	}
	slot = table_slot_create(rel, NULL);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, snapshot, 0, NULL);
	found = table_scan_getnextslot(scan, ForwardScanDirection, slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return found;
}

static void
mark_lost(const Difference *difference)
{
	Oid			types[] = {UUIDOID, TEXTOID};
	Datum		values[] = {UUIDPGetDatum(&difference->truck_id), CStringGetTextDatum(difference->reason)};

	trucker_catalog_execute("INSERT INTO trucker.unreadable_input (truck_id, reason) VALUES ($1, $2)",
							2, types, values, NULL, SPI_OK_INSERT);
}

/* The difference is true of changes recorded from this LSN on. */
static void
insert_name(const Difference *difference, XLogRecPtr lsn, bool unlocked)
{
	Oid			types[] = {UUIDOID, OIDOID, PG_LSNOID, OIDOID, TEXTOID, TEXTOID, PG_LSNOID, BOOLOID};
	bool		has_schema = difference->action != CLOSED;
	bool		has_table = has_schema && difference->action != PENDING;
	Datum		values[] = {UUIDPGetDatum(&difference->truck_id), ObjectIdGetDatum(difference->relid),
		difference->from_lsn, ObjectIdGetDatum(difference->leaf),
		has_schema ? CStringGetTextDatum(difference->schema) : (Datum) 0,
		has_table ? CStringGetTextDatum(difference->table) : (Datum) 0,
	LSNGetDatum(lsn), BoolGetDatum(unlocked)};
	char		nulls[] = {' ', ' ', difference->no_from_lsn ? 'n' : ' ', ' ',
	has_schema ? ' ' : 'n', has_table ? ' ' : 'n', ' ', ' ', '\0'};

	trucker_catalog_execute("INSERT INTO trucker.input_table "
							"(truck_id, relid, from_lsn, leaf, schema_name, table_name, named_lsn, named_by, columns, defaulted) "
							"SELECT $1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN pg_current_xact_id() END, c.columns, c.defaulted "
							"FROM trucker.input_columns(CASE WHEN $4 = $2 THEN $2 END) c",
							8, types, values, nulls, SPI_OK_INSERT);
}

/* The columns of these tables may be others now.  After the names. */
static void
note_columns(const TruckerAltered *altered, bool defaults_lost)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {OIDARRAYOID, PG_LSNOID, BOOLOID};
	int			ntables = Min(altered->ntables, TRUCKER_MAX_ALTERED);
	Datum		elements[TRUCKER_MAX_ALTERED];
	Datum		values[] = {(Datum) 0, LSNGetDatum(XLogRecPtrIsInvalid(altered->lsn) ? GetXLogInsertRecPtr() : altered->lsn),
	BoolGetDatum(defaults_lost)};

	for (int i = 0; i < ntables; i++)
		elements[i] = ObjectIdGetDatum(altered->tables[i]);
	values[0] = PointerGetDatum(construct_array(elements, ntables, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	if (plan == NULL)
		plan = prepare(columns_sql, lengthof(types), types);
	if (SPI_execute_plan(plan, values, altered->ntables > ntables ? "n  " : NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "unexpected result of \"%s\"", columns_sql);
}

/* Tell the streams, at this point of the WAL, which inputs (Oid) are concerned. */
static XLogRecPtr
write_message(const List *relids)
{
	StringInfoData content;
	ListCell   *lc;

	initStringInfo(&content);
	appendStringInfo(&content, UINT64_FORMAT, U64FromFullTransactionId(GetTopFullTransactionId()));
	foreach(lc, relids)
		appendStringInfo(&content, " %u", lfirst_oid(lc));
	return LogLogicalMessage(trucker_state_message_prefix(), content.data, content.len, true);
}

/* The reverse: returns the transaction, and the inputs; 0 for what we have not written. */
uint64
trucker_ddl_parse(const char *content, List **relids)
{
	char	   *end;
	uint64		xid = strtou64(content, &end, 10);

	*relids = NIL;
	while (*end == ' ')
		*relids = lappend_oid(*relids, (Oid) strtoul(end + 1, &end, 10));
	return *end == '\0' ? xid : 0;
}

/*
 * Types may have been altered that columns of inputs are of, with whatever is between.  Nobody
 * has locked these tables: for others' changes the alteration holds from the commit on, so the
 * streams are told.
 */
static void
note_types(const TruckerAltered *altered, void (*before_message) (void))
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {OIDARRAYOID};
	int			ntables = Min(altered->ntables, TRUCKER_MAX_ALTERED);
	Datum		elements[TRUCKER_MAX_ALTERED];
	Datum		value;
	XLogRecPtr	lsn = XLogRecPtrIsInvalid(altered->lsn) ? GetXLogInsertRecPtr() : altered->lsn;
	SPITupleTable *found;
	uint64		nfound;
	List	   *relids = NIL;

	for (int i = 0; i < ntables; i++)
		elements[i] = ObjectIdGetDatum(altered->tables[i]);
	value = PointerGetDatum(construct_array(elements, ntables, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	if (plan == NULL)
		plan = prepare(altered_types_sql, lengthof(types), types);
	if (SPI_execute_plan(plan, &value, altered->ntables > ntables ? "n" : NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", altered_types_sql);
	found = SPI_tuptable;
	nfound = SPI_processed;
	for (uint64 i = 0; i < nfound; i++)
	{
		bool		isnull;
		Oid			insert_types[] = {UUIDOID, OIDOID, PG_LSNOID};
		Datum		values[] = {SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull),
			SPI_getbinval(found->vals[i], found->tupdesc, 2, &isnull), LSNGetDatum(lsn)};

		trucker_catalog_execute(altered_type_sql, lengthof(insert_types), insert_types, values, NULL, SPI_OK_INSERT);
		relids = list_append_unique_oid(relids, DatumGetObjectId(values[1]));
		/* nobody keeps it from being dropped meanwhile */
		if (SearchSysCacheExists1(RELOID, values[1]))
			CacheInvalidateRelcacheByRelid(DatumGetObjectId(values[1]));
	}
	if (relids == NIL)
		return;
	before_message();
	(void) write_message(relids);
}

/*
 * Before a schema is renamed: wait until nobody writes the tables in it that trucks read,
 * and let nobody until the transaction ends, as if each of them were renamed.  Who may
 * not rename it locks nothing.
 */
void
trucker_ddl_lock_schema(const char *name)
{
	Oid			schema = get_namespace_oid(name, true);
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(schema);
	TruckerCatalog access;
	MemoryContext old;
	List	   *relids = NIL;
	ListCell   *lc;

	if (!OidIsValid(schema) || !pg_namespace_ownercheck(schema, GetUserId()) ||
		!OidIsValid(get_relname_relid("input_table", get_namespace_oid(TRUCKER_SCHEMA, true))) || nothing_is_read())
		return;
	trucker_catalog_begin(&access);
	/* always in the same order */
	(void) trucker_catalog_execute("SELECT DISTINCT c.oid FROM trucker.input_table i JOIN pg_class c ON c.oid = i.leaf "
								   "WHERE c.relnamespace = $1 AND c.relkind = 'r' ORDER BY c.oid", 1, &type, &value, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		relids = lappend_oid(relids, DatumGetObjectId(trucker_column(SPI_tuptable->vals[i], 1, &isnull)));
	}
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	foreach(lc, relids)
		LockRelationOid(lfirst_oid(lc), ShareLock);
	list_free(relids);
}

/*
 * In the transaction of a statement that may have altered input tables, after it and
 * a CommandCounterIncrement(): write down what it has done to them.  Without a lock on
 * the tables (a schema has been renamed): unlocked.  With defaults_lost, new columns may
 * have been filled from a default that they have no more; with types_altered, it is an enum's
 * labels that the statement has altered.  before_message() is called if
 * there is something to tell the streams.  Returns, as a sentence each (char *), the
 * trucks that it has cost, and why.
 */
List *
trucker_ddl_note(const TruckerAltered *altered, bool unlocked, bool defaults_lost, bool types_altered, void (*before_message) (void))
{
	TruckerCatalog access;
	List	   *differences;
	List	   *relids = NIL;
	List	   *warnings = NIL;
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	List	   *lost = NIL;
	MemoryContext old;
	ListCell   *lc;

	if (nothing_is_read())
		return NIL;
	trucker_catalog_begin(&access);
	differences = find_differences(&access, NULL);
	foreach(lc, differences)
	{
		Difference *difference = lfirst(lc);

		if (difference->lost_if_rows && has_rows(difference->leaf))
		{
			difference->action = LOST;
			difference->reason = difference->lost_if_rows;
		}
		if (difference->action != LOST)
			relids = list_append_unique_oid(relids, difference->relid);
	}
	if (relids != NIL)
	{
		before_message();
		lsn = write_message(relids);
	}
	if (!XLogRecPtrIsInvalid(altered->lsn))
		lsn = altered->lsn;
	foreach(lc, differences)
	{
		Difference *difference = lfirst(lc);

		if (difference->action == LOST)
			mark_lost(difference);
		else
			insert_name(difference, lsn, unlocked);
		/* these outlive the access to the catalog */
		old = MemoryContextSwitchTo(access.result_context);
		if (difference->action == LOST)
			lost = lappend(lost, difference->lost_truck);
		else if (difference->action == PENDING)
			warnings = list_append_unique(warnings, makeString(difference->reason));
		MemoryContextSwitchTo(old);
	}
	/* of so many tables it is not known which are locked: none, then */
	if (altered->ntables > TRUCKER_MAX_ALTERED && !defaults_lost)
		note_types(altered, before_message);
	if (altered->ntables > 0)
		note_columns(altered, defaults_lost);
	if (altered->ntables > 0 || types_altered)
		note_types(altered, before_message);
	trucker_catalog_end(&access);
	foreach(lc, warnings)
	{
		char	   *text = pstrdup(strVal(lfirst(lc)));
		char	   *hint = strchr(text, '\n');

		*hint = '\0';
		ereport(WARNING,
				(errmsg("%s", text),
				 errdetail("Its updates and deletes would not reach the trucks that read the table, so they stop."),
				 errhint("%s", hint + 1)));
	}
	return lost;
}

/*
 * Is there anything that trucker_ddl_note() has not been told of?  Then the truck
 * cannot go on: returns why, or NULL.  In a worker's transaction.
 */
const char *
trucker_ddl_unnoted(const pg_uuid_t *truck_id)
{
	TruckerCatalog access;
	const char *reason = NULL;
	List	   *differences;
	MemoryContext old;
	ListCell   *lc;

	trucker_catalog_begin(&access);
	differences = find_differences(&access, truck_id);
	/* the reason outlives the access to the catalog */
	old = MemoryContextSwitchTo(access.result_context);
	foreach(lc, differences)
	{
		Difference *difference = lfirst(lc);

		/* without a replica identity it will not be read: the truck says that itself */
		if (difference->action != PENDING && reason == NULL)
			reason = psprintf("its input table %s was altered in a way that has not been followed",
							  difference->table ? quote_qualified_identifier(difference->schema, difference->table) :
							  psprintf("(OID %u)", difference->leaf));
	}
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return reason;
}
