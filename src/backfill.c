/*
 * backfill.c
 *	  Load the rows that input tables have before the stream starts, or before they
 *	  are added to a truck.
 *
 * The rows are read under the snapshot that was exported with the slot, so they
 * are what all transactions before the slot's consistent point have left; the
 * stream starts at just that point.  There is no gap and no overlap.
 *
 * The whole backfill is one transaction at the destination, and the position
 * commits with it: a crash in the middle leaves nothing, and it begins anew with
 * a new slot.  reset_sql, after a resync, is part of that transaction, too.
 *
 * Tables that are added to a truck later are loaded likewise, and no others; how
 * truck and snapshot come to the same point is in added_tables.c.
 *
 * The tables are scanned directly, not by SQL: that the role may read them, and
 * that no row security stands in between, the pipeline has checked.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "executor/tuptable.h"
#include "pgstat.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "backfill.h"
#include "state.h"

/* how often pg_stat_activity is told how far a backfill is */
#define PROGRESS_ROWS 10000

static void
run_reset_sql(const TruckerPipeline *pipeline)
{
	int			nestlevel = NewGUCNestLevel();

	pipeline->output->routine->run(pipeline->output,
								   trucker_script_split(pipeline->truck->reset_sql, "reset_sql", true));
	AtEOXact_GUC(false, nestlevel);
}

/* A row of the table as if it had been inserted just now. */
static void
row_from_slot(TruckerInput *input, TupleTableSlot *slot, XLogRecPtr lsn)
{
	TruckerRow *row = input->row;
	const TruckerRelation *relation = input->program->relation;

	trucker_row_clear(row, relation);
	row->operation = TRUCKER_INSERT;
	row->lsn = lsn;
	row->xid = InvalidTransactionId;
	row->committed_at = 0;
	for (int i = 0; i < relation->desc->natts; i++)
	{
		bool		isnull;

		if (!relation->need_new[i])
			continue;
		row->newvalues[i] = slot_getattr(slot, i + 1, &isnull);
		row->newpresence[i] = isnull ? TRUCKER_IS_NULL : TRUCKER_PRESENT;
	}
}

/* A row of pg_class or pg_namespace as the snapshot shows it. */
static HeapTuple
catalog_row(Oid catalog, Oid index, AttrNumber oid_column, Oid oid, Snapshot snapshot)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, oid_column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, index, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return tuple;
}

/*
 * Is the table, which is locked, what it was when the snapshot was taken?  A rewrite
 * since then hides its rows from the snapshot; and the changes that follow are
 * filtered by the name that it had then.
 */
static void
check_is_the_same(Relation rel, Snapshot snapshot)
{
	HeapTuple	class = catalog_row(RelationRelationId, ClassOidIndexId, Anum_pg_class_oid,
									RelationGetRelid(rel), snapshot);
	HeapTuple	namespace = NULL;
	Form_pg_class was = HeapTupleIsValid(class) ? (Form_pg_class) GETSTRUCT(class) : NULL;

	if (was)
		namespace = catalog_row(NamespaceRelationId, NamespaceOidIndexId, Anum_pg_namespace_oid,
								was->relnamespace, snapshot);
	if (was == NULL || !HeapTupleIsValid(namespace) ||
		was->relfilenode != rel->rd_rel->relfilenode ||
		strcmp(NameStr(was->relname), RelationGetRelationName(rel)) != 0 ||
		strcmp(NameStr(((Form_pg_namespace) GETSTRUCT(namespace))->nspname),
			   get_namespace_name(RelationGetNamespace(rel))) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table %s has been created, renamed, truncated or rewritten since its backfill began",
						trucker_qualified_name(rel)),
				 errhint("The backfill begins anew by itself.")));
}

static void
load_table(TruckerPipeline *pipeline, TruckerInput *input, Snapshot snapshot, XLogRecPtr lsn)
{
	Relation	rel = input->rel;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	int64		nrows = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(pipeline->change_context);

		if (nrows++ % PROGRESS_ROWS == 0)
			pgstat_report_activity(STATE_RUNNING,
								   psprintf("backfill of truck \"%s\": " INT64_FORMAT " rows of table %s read",
											pipeline->truck->name, nrows - 1, input->program->relation->name));
		row_from_slot(input, slot, lsn);
		trucker_pipeline_add(pipeline, input);
		MemoryContextSwitchTo(old);
		MemoryContextReset(pipeline->change_context);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	pgstat_report_activity(STATE_RUNNING, NULL);
}

/*
 * Do all of it and commit.  snapshot is the name of the snapshot that was exported
 * with the slot, consistent_point the LSN that it belongs to.
 */
void
trucker_backfill(TruckerPipeline *pipeline, const char *snapshot,
				 XLogRecPtr consistent_point, const char *slot_name)
{
	const TruckerTruck *truck = pipeline->truck;
	MemoryContext old;

	trucker_pipeline_begin_batch(pipeline, snapshot);
	pipeline->commit_lsn = consistent_point;
	pipeline->xid = InvalidTransactionId;
	old = MemoryContextSwitchTo(pipeline->batch_context);
	trucker_position_read_again(pipeline->position);
	trucker_stop_point("backfill: begun");

	trucker_pipeline_compile(pipeline);
	if (truck->reset_sql && (truck->needs_reset || pipeline->output->routine->needs_reset(pipeline->output)))
		run_reset_sql(pipeline);
	if (truck->backfill)
		for (int i = 0; i < pipeline->ninputs; i++)
		{
			check_is_the_same(pipeline->inputs[i].rel, GetTransactionSnapshot());
			load_table(pipeline, &pipeline->inputs[i], GetTransactionSnapshot(), consistent_point);
		}
	trucker_pipeline_flush(pipeline);
	trucker_stop_point("backfill: loaded");
	/* last: from here on who stops the truck, or finds it lost, waits for us */
	trucker_state_set_backfilled(&truck->id, consistent_point, slot_name);

	MemoryContextSwitchTo(old);
	trucker_pipeline_commit(pipeline, consistent_point);
	trucker_stop_point("backfill: committed");
}

/*
 * Load inputs that were added to a truck whose destination holds all that the others
 * had before consistent_point.  In an open batch that sees the database as the
 * exported snapshot of that point does.  The caller commits.
 *
 * Only the tables are read as of then.  The SQL sees the present, as it does in the
 * stream: what the truck has written since the snapshot was taken must not be
 * invisible to it, nor be in its way.
 */
void
trucker_backfill_added(TruckerPipeline *pipeline, const List *relids,
					   XLogRecPtr consistent_point)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	MemoryContext old = MemoryContextSwitchTo(pipeline->batch_context);
	ListCell   *lc;

	PopActiveSnapshot();
	XactIsoLevel = XACT_READ_COMMITTED;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, relids)
	{
		TruckerInput *input = trucker_pipeline_input(pipeline, lfirst_oid(lc));

		check_is_the_same(input->rel, snapshot);
		if (pipeline->truck->backfill)
			load_table(pipeline, input, snapshot, consistent_point);
	}
	trucker_pipeline_flush(pipeline);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(old);
}
