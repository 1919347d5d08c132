/*
 * hooks.c
 *	  What trucker must know of other sessions' doings.
 *
 * - At commit: start(), stop(), alter_truck() and the like take effect in the launcher and the
 *	 workers only when their transaction has committed.
 * - DROP DATABASE fails at once on an active replication slot, also WITH
 *	 (FORCE).  So the workers of the database are ended from the object access
 *	 hook, which runs after the permission check and before that test; should
 *	 the command fail after all, they are started again.
 * - DROP EXTENSION needs locks that a worker holds for the length of its
 *	 transaction, which may be a long backfill.  So they are ended before the
 *	 command, and started again if it is rolled back.  When it has committed, a
 *	 probe drops the slots.
 * - An input table that is renamed, or gets or loses partitions, must be read under
 *	 other names from then on; one that is dropped, made unlogged, or robbed of its
 *	 replica identity cannot be read any more.  What a statement has done is written
 *	 down in its own transaction (input_ddl.c).
 * - What a truck's SQL writes, also in functions and triggers: written.c must
 *	 know, so that changes do not go round for ever.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "column_list.h"
#include "connection.h"
#include "filter.h"
#include "project_store.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "slow_plan.h"
#include "state.h"
#include "worker.h"
#include "written.h"

/* how long a dropping session waits for workers and walsenders to end */
#define QUIESCE_TIMEOUT_MS 20000
/* how many of the trucks that a statement has cost its warning names */
#define MAX_LOST_TOLD 10

typedef struct PendingSignal
{
	pg_uuid_t	truck_id;
	TruckerSignal signal;
} PendingSignal;

/* What this transaction does to the launcher and the workers when it ends. */
static bool scan_at_commit = false;
static List *signals_at_commit = NIL;
static List *pokes_at_commit = NIL;
static List *closing_databases = NIL;

/* by the statement being executed, or one around it; tables also by one that has failed */
static TruckerAltered altered;
/* DROP EXTENSION trucker is being executed: foreign servers may go, too */
static bool dropping_trucker = false;

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;
static ExecutorStart_hook_type prev_executor_start_hook = NULL;
static ExecutorEnd_hook_type prev_executor_end_hook = NULL;

/* ----
 * The end of the transaction
 * ----
 */

/* Let a probe look into this database once the transaction has committed. */
void
trucker_at_commit_scan(void)
{
	scan_at_commit = true;
}

/* Tell a truck's worker something once the transaction has committed. */
void
trucker_at_commit_signal(const pg_uuid_t *truck_id, TruckerSignal signal)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	PendingSignal *pending = palloc(sizeof(PendingSignal));

	pending->truck_id = *truck_id;
	pending->signal = signal;
	signals_at_commit = lappend(signals_at_commit, pending);
	MemoryContextSwitchTo(old);
}

/* Let a stream's worker look at the catalog once the transaction has committed. */
void
trucker_at_commit_poke(const pg_uuid_t *stream_id)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	pg_uuid_t  *pending = palloc(sizeof(pg_uuid_t));

	*pending = *stream_id;
	pokes_at_commit = lappend(pokes_at_commit, pending);
	MemoryContextSwitchTo(old);
}

static void
forget_pending(void)
{
	list_free_deep(signals_at_commit);
	list_free_deep(pokes_at_commit);
	pokes_at_commit = NIL;
	list_free(closing_databases);
	signals_at_commit = NIL;
	closing_databases = NIL;
	scan_at_commit = false;
}

/* Must not fail: the transaction has ended already. */
static void
end_transaction(bool committed)
{
	ListCell   *lc;

	foreach(lc, closing_databases)
	{
		Oid			database = lfirst_oid(lc);

		if (committed)
			trucker_set_wanted(database, NULL, 0);
		trucker_set_database_closing(database, false);
		/* a probe restarts workers, or drops the slots of a dropped extension */
		if (!committed || database == MyDatabaseId)
			trucker_request_scan(database);
	}
	if (committed)
	{
		foreach(lc, signals_at_commit)
		{
			PendingSignal *pending = lfirst(lc);

			trucker_signal_truck(MyDatabaseId, &pending->truck_id, pending->signal);
		}
		foreach(lc, pokes_at_commit)
			trucker_signal_stream(MyDatabaseId, lfirst(lc));
		if (scan_at_commit)
			trucker_request_scan(MyDatabaseId);
	}
	forget_pending();
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (!scan_at_commit && signals_at_commit == NIL && pokes_at_commit == NIL && closing_databases == NIL)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			end_transaction(true);
			break;
		case XACT_EVENT_ABORT:
			end_transaction(false);
			break;
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has started, stopped, altered or dropped a truck")));
			break;
		default:
			break;
	}
}

/* A statement in it may have failed. */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		altered.lsn = InvalidXLogRecPtr;
}

/* A session that ends without ending its transaction. */
static void
exit_callback(int code, Datum arg)
{
	if (closing_databases != NIL)
		end_transaction(false);
}

/* ----
 * Dropping databases and the extension
 * ----
 */

/*
 * End all workers of a database and keep new ones from starting, until this
 * transaction ends.
 */
static void
quiesce(Oid database)
{
	static bool exit_registered = false;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), QUIESCE_TIMEOUT_MS);
	MemoryContext old;
	ListCell   *lc;

	if (!exit_registered)
		before_shmem_exit(exit_callback, (Datum) 0);
	exit_registered = true;

	/* remembered first, so that an error in between undoes it */
	old = MemoryContextSwitchTo(TopMemoryContext);
	closing_databases = list_append_unique_oid(closing_databases, database);
	MemoryContextSwitchTo(old);
	trucker_set_database_closing(database, true);

	trucker_wait_progress_prepare();
	while (trucker_database_workers(database) > 0 && GetCurrentTimestamp() < deadline)
	{
		if (!trucker_wait_progress(TRUCKER_END_PATIENCE_MS))
			trucker_set_database_closing(database, true);
	}
	trucker_wait_progress_end();

	/* their walsenders follow; others' uses of the slots are not our business */
	foreach(lc, trucker_slots_of_database(database, true))
		(void) trucker_slot_wait_inactive(lfirst(lc),
										  TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline));
}

/*
 * A statement holds its lock on the table now, and nobody can write the table before its
 * end; but for the statement's own event triggers.
 */
static void
note_altered(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id)
{
	bool		is_column = class_id == RelationRelationId && sub_id > 0;

	if (!(access == OAT_POST_ALTER || access == OAT_POST_CREATE || (access == OAT_DROP && is_column)) ||
		!(class_id == RelationRelationId || class_id == NamespaceRelationId) || RecoveryInProgress())
		return;
	if (XLogRecPtrIsInvalid(altered.lsn))
		altered.lsn = GetXLogInsertRecPtr();
	if (!is_column || altered.ntables > TRUCKER_MAX_ALTERED)
		return;
	for (int i = 0; i < altered.ntables; i++)
		if (altered.tables[i] == object_id)
			return;
	if (altered.ntables < TRUCKER_MAX_ALTERED)
		altered.tables[altered.ntables] = object_id;
	altered.ntables++;
}

static void
object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class_id, object_id, sub_id, arg);
	if (access == OAT_TRUNCATE && trucker_written_in_batch())
		trucker_written_note(object_id);
	note_altered(access, class_id, object_id, sub_id);
	if (access != OAT_DROP)
		return;
	if (class_id == DatabaseRelationId)
		quiesce(object_id);
	else if (class_id == ExtensionRelationId &&
			 object_id == get_extension_oid("trucker", true))
		quiesce(MyDatabaseId);
	else if (class_id == ForeignServerRelationId && !dropping_trucker)
	{
		trucker_connection_refuse_drop(object_id);
		trucker_project_forget_server(object_id);
	}
}

/* Is the extension's owner among these roles, and may the user drop what they own? */
static bool
owned_by_droppable(Oid extension, List *roles)
{
	Relation	pg_extension;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;
	ListCell   *lc;

	pg_extension = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(pg_extension, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(pg_extension, AccessShareLock);

	foreach(lc, roles)
		if (OidIsValid(owner) && get_rolespec_oid(lfirst(lc), true) == owner)
			return has_privs_of_role(GetUserId(), owner);
	return false;
}

/*
 * Will this statement, if it does not fail, drop our extension?  The object access hook
 * is called once everything is locked that is to be dropped, in an order of the
 * server's choosing: too late to wait for workers that want these locks.
 */
static bool
drops_trucker(Node *node)
{
	DropStmt   *stmt = (DropStmt *) node;
	Oid			extension;
	ListCell   *lc;

	if (IsA(node, DropOwnedStmt))
	{
		extension = get_extension_oid("trucker", true);
		return OidIsValid(extension) && owned_by_droppable(extension, ((DropOwnedStmt *) node)->roles);
	}
	if (!IsA(node, DropStmt) || stmt->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, stmt->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "trucker") == 0)
		{
			extension = get_extension_oid("trucker", true);
			return OidIsValid(extension) && pg_extension_ownercheck(extension, GetUserId());
		}
	}
	return false;
}

/* A foreign server's name is how trucks know it. */
static bool
renames_server(Node *node)
{
	return IsA(node, RenameStmt) && ((RenameStmt *) node)->renameType == OBJECT_FOREIGN_SERVER;
}

/* A waiting change names its value by the label of its time. */
static bool
renames_label(Node *node)
{
	return IsA(node, AlterEnumStmt) && ((AlterEnumStmt *) node)->oldVal != NULL;
}

/* Could this statement change how an input table is to be read, or whether it can be? */
static bool
alters_tables(Node *node)
{
	switch (nodeTag(node))
	{
		case T_CreateStmt:
			return ((CreateStmt *) node)->partbound != NULL;
		case T_CreateForeignTableStmt:
			return ((CreateForeignTableStmt *) node)->base.partbound != NULL;
		case T_RenameStmt:
		case T_AlterObjectSchemaStmt:
		case T_AlterTableStmt:
			return true;
		case T_AlterEnumStmt:
			return renames_label(node);
		case T_DropOwnedStmt:
			return true;
		case T_DropStmt:
			switch (((DropStmt *) node)->removeType)
			{
				case OBJECT_INDEX:
				case OBJECT_TABLE:
				case OBJECT_FOREIGN_TABLE:
				case OBJECT_SCHEMA:
				case OBJECT_TYPE:
				case OBJECT_EXTENSION:
					return true;
				default:
					/* of a domain, or of a function that a column is generated with */
					return ((DropStmt *) node)->behavior == DROP_CASCADE;
			}
		default:
			return false;
	}
}

/* Renaming a schema renames tables without locking them. */
static bool
renames_schema(Node *node)
{
	return IsA(node, RenameStmt) && ((RenameStmt *) node)->renameType == OBJECT_SCHEMA;
}

/* Has it added columns, and perhaps taken away again the default that they were filled from? */
static bool
loses_defaults(Node *node)
{
	bool		adds = false;
	bool		sets = false;
	ListCell   *lc;

	if (!IsA(node, AlterTableStmt))
		return false;
	foreach(lc, ((AlterTableStmt *) node)->cmds)
	{
		AlterTableType type = lfirst_node(AlterTableCmd, lc)->subtype;

		adds |= type == AT_AddColumn;
		sets |= type == AT_ColumnDefault || type == AT_DropExpression || type == AT_DropIdentity;
	}
	return adds && sets;
}

/* The statement was the end of these trucks, each told of in a sentence (char *). */
static void
warn_of_lost(List *lost)
{
	StringInfoData trucks;
	ListCell   *lc;

	initStringInfo(&trucks);
	foreach(lc, lost)
	{
		if (foreach_current_index(lc) == MAX_LOST_TOLD)
		{
			appendStringInfo(&trucks, "\nAnd %d more.", list_length(lost) - MAX_LOST_TOLD);
			break;
		}
		appendStringInfo(&trucks, "%s%s", trucks.len > 0 ? "\n" : "", (char *) lfirst(lc));
	}
	ereport(WARNING,
			(errmsg("trucks that read this table cannot go on"),
			 errdetail_internal("%s", trucks.data),
			 errhint("SELECT truck, last_error FROM trucker.status WHERE state = 'lost';")));
	pfree(trucks.data);
}

static void
look_at_inputs(Node *node)
{
	List	   *lost;

	/*
	 * Our own script may be altering our own tables just now; or the library is newer
	 * than they are.  The application's statement must not fail for that.
	 */
	if ((creating_extension && CurrentExtensionObject == get_extension_oid("trucker", true)) ||
		!OidIsValid(get_relname_relid("message_prefix", get_namespace_oid(TRUCKER_SCHEMA, true))))
		return;
	CommandCounterIncrement();
	trucker_publication_after(&altered);
	/* what a truck's SQL does must be decoded as well */
	lost = trucker_ddl_note(&altered, renames_schema(node), loses_defaults(node), renames_label(node), trucker_written_show);
	trucker_filter_follow(&altered);
	altered.ntables = 0;
	if (lost == NIL)
		return;
	warn_of_lost(lost);
	trucker_at_commit_scan();
}

/* ----
 * A truck's own SQL, and the hooks themselves
 * ----
 */

/*
 * INSERT, UPDATE, DELETE, MERGE.  A partitioned table stands behind its partitions
 * in the list; it comes first here, since then they need not be looked at.
 */
static void
writes_of_plan(const PlannedStmt *stmt)
{
	for (int i = list_length(stmt->resultRelations) - 1; i >= 0; i--)
		trucker_written_note(rt_fetch(list_nth_int(stmt->resultRelations, i), stmt->rtable)->relid);
}

/* COPY FROM comes neither by ExecutorStart nor by an object access hook. */
static void
writes_of_utility(Node *node)
{
	CopyStmt   *copy = (CopyStmt *) node;

	if (IsA(node, CopyStmt) && copy->is_from)
		trucker_written_note(RangeVarGetRelid(copy->relation, NoLock, true));
}

/* The statement itself. */
static void
execute_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	bool		outer = dropping_trucker;

	if (drops_trucker(pstmt->utilityStmt))
	{
		quiesce(MyDatabaseId);
		dropping_trucker = true;
	}
	PG_TRY();
	{
		if (prev_process_utility_hook)
			prev_process_utility_hook(pstmt, query, read_only_tree, context, params,
									  query_env, dest, qc);
		else
			standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
									query_env, dest, qc);
	}
	PG_FINALLY();
	{
		dropping_trucker = outer;
	}
	PG_END_TRY();
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	/* asked first: a procedure that rolls back may have freed the tree of its own CALL */
	bool		may_alter = alters_tables(pstmt->utilityStmt);
	char	   *restored = trucker_column_list_restored(pstmt->utilityStmt);
	XLogRecPtr	outer_lsn;

	/* an error has left it set */
	if (context == PROCESS_UTILITY_TOPLEVEL)
		memset(&altered, 0, sizeof(altered));
	outer_lsn = altered.lsn;
	if (trucker_written_in_batch())
		writes_of_utility(pstmt->utilityStmt);
	trucker_publication_refuse(pstmt->utilityStmt);
	trucker_publication_before(pstmt->utilityStmt);
	if (renames_schema(pstmt->utilityStmt))
		trucker_ddl_lock_schema(((RenameStmt *) pstmt->utilityStmt)->subname);
	if (renames_server(pstmt->utilityStmt))
	{
		Oid			server = get_foreign_server_oid(strVal(((RenameStmt *) pstmt->utilityStmt)->object), false);

		trucker_connection_refuse_drop(server);
		trucker_project_forget_server(server);
	}
	execute_utility(pstmt, query, read_only_tree, context, params, query_env, dest, qc);
	if (may_alter)
		look_at_inputs(pstmt->utilityStmt);
	if (restored)
		trucker_column_list_strip(restored);
	altered.lsn = outer_lsn;
}

static void
executor_start(QueryDesc *query, int eflags)
{
	trucker_plans_before_start(query, eflags);
	if (prev_executor_start_hook)
		prev_executor_start_hook(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
	/* now the server has checked the rights, and nothing has been written yet */
	if (trucker_written_in_batch() && !(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		writes_of_plan(query->plannedstmt);
}

static void
executor_end(QueryDesc *query)
{
	trucker_plans_before_end(query);
	if (prev_executor_end_hook)
		prev_executor_end_hook(query);
	else
		standard_ExecutorEnd(query);
}

/* Called while preloading. */
void
trucker_hooks_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_executor_start_hook = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	prev_executor_end_hook = ExecutorEnd_hook;
	ExecutorEnd_hook = executor_end;
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
