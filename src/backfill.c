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
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "executor/tuptable.h"
#include "optimizer/plancat.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "backfill.h"
#include "drained.h"
#include "log.h"
#include "state.h"

/* how often pg_stat_activity is told how far a backfill is */
#define PROGRESS_ROWS 10000
/* and shared memory */
#define PROGRESS_STEP 1000

static void
run_reset_sql(TruckerPipeline *pipeline)
{
	int			nestlevel = NewGUCNestLevel();

	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_OUTPUT);
	pipeline->output->routine->run(pipeline->output,
								   trucker_script_split(pipeline->truck->reset_sql, "reset_sql", true));
	AtEOXact_GUC(false, nestlevel);
	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_DECODE);
}

/*
 * A row of the table as if it had been inserted just now.  columns says where a
 * partition has the table's columns.
 */
static void
row_from_slot(TruckerInput *input, TupleTableSlot *slot, const AttrNumber *columns, XLogRecPtr lsn)
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
		row->newvalues[i] = slot_getattr(slot, columns ? columns[i] : i + 1, &isnull);
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

static void
raise_altered(const char *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("table %s has been created, renamed, truncated, rewritten or dropped since its backfill began", table),
			 errhint("The backfill begins anew by itself.")));
}

/*
 * Is the table, which is locked, what it was when the snapshot was taken?  A rewrite
 * since then hides its rows from the snapshot.  So is its name, if that matters.
 */
static void
check_is_the_same(Relation rel, Snapshot snapshot, bool name_matters)
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
		(name_matters && (strcmp(NameStr(was->relname), RelationGetRelationName(rel)) != 0 ||
						  strcmp(NameStr(((Form_pg_namespace) GETSTRUCT(namespace))->nspname),
								 get_namespace_name(RelationGetNamespace(rel))) != 0)))
		raise_altered(trucker_qualified_name(rel));
}

/*
 * The partitions (Oid) that hold a partitioned table's rows, at any depth, as the
 * snapshot shows them; NULL: as they are now.
 */
static List *
parts_as_of(Oid relid, Snapshot snapshot)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *children = NIL;
	List	   *parts = NIL;
	ListCell   *lc;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(inherits, InheritsParentIndexId, true, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		children = lappend_oid(children, ((Form_pg_inherits) GETSTRUCT(tuple))->inhrelid);
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	list_sort(children, list_oid_cmp);
	foreach(lc, children)
	{
		HeapTuple	class = catalog_row(RelationRelationId, ClassOidIndexId, Anum_pg_class_oid,
										lfirst_oid(lc), snapshot);

		if (HeapTupleIsValid(class) && ((Form_pg_class) GETSTRUCT(class))->relkind == RELKIND_PARTITIONED_TABLE)
			parts = list_concat(parts, parts_as_of(lfirst_oid(lc), snapshot));
		else
			parts = lappend_oid(parts, lfirst_oid(lc));
	}
	return parts;
}

/* Load the rows of an open table, which is the input itself or a partition of it. */
static void
load_rows(TruckerPipeline *pipeline, TruckerInput *input, Relation rel, const AttrNumber *columns,
		  Snapshot snapshot, XLogRecPtr lsn)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(pipeline->change_context);

		if (input->loaded % PROGRESS_ROWS == 0)
			pgstat_report_activity(STATE_RUNNING,
								   psprintf("backfill of truck \"%s\": " INT64_FORMAT " rows of table %s read",
											pipeline->truck->name, input->loaded, input->program->relation->name));
		if (++input->loaded % PROGRESS_STEP == 0 && pipeline->loading)
			trucker_progress_set(pipeline->count.entry, input->loaded);
		pipeline->count.values[TRUCKER_ROWS_BACKFILLED]++;
		row_from_slot(input, slot, columns, lsn);
		trucker_pipeline_add(pipeline, input);
		MemoryContextSwitchTo(old);
		MemoryContextReset(pipeline->change_context);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	pgstat_report_activity(STATE_RUNNING, NULL);
}

/* Does a partition that is none any more still have the table's columns? */
static bool
has_columns(const TruckerRelation *relation, const AttrNumber *columns)
{
	for (int i = 0; i < relation->desc->natts; i++)
		if (relation->need_new[i] && columns[i] == 0)
			return false;
	return true;
}

static void
load_part(TruckerPipeline *pipeline, TruckerInput *input, Oid relid, Snapshot snapshot, XLogRecPtr lsn, bool name_matters)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	TruckerPart *part;

	if (rel == NULL)
		raise_altered(input->program->relation->name);
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition %s of input table %s is not a table", trucker_qualified_name(rel),
						input->program->relation->name),
				 errhint("Name the other partitions as input tables, one by one.")));
	check_is_the_same(rel, snapshot, name_matters);
	part = trucker_part_build(input->program->relation, relid, rel);
	/* detached meanwhile: with a new snapshot it will not be there */
	if (part->desc == NULL || !has_columns(input->program->relation, part->from_whole))
		raise_altered(trucker_qualified_name(rel));
	load_rows(pipeline, input, rel, part->from_whole, snapshot, lsn);
	relation_close(rel, NoLock);
}

static double
estimate_rows(Relation rel)
{
	BlockNumber pages;
	double		rows;
	double		visible;

	estimate_rel_size(rel, NULL, &pages, &rows, &visible);
	return rows;
}

/* The same, for all partitions; what is locked by somebody is waited for here, and not held. */
static double
estimate_parts(const List *parts)
{
	double		rows = 0;
	ListCell   *lc;

	foreach(lc, parts)
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (rel == NULL)
			continue;
		if (rel->rd_rel->relkind == RELKIND_RELATION)
			rows += estimate_rows(rel);
		relation_close(rel, AccessShareLock);
	}
	return rows;
}

/* From now on others see how far it is. */
static void
begin_progress(TruckerPipeline *pipeline, TruckerInput *input, int number, int ntables, double estimate)
{
	input->loaded = 0;
	pipeline->loading = pipeline->count.entry >= 0;
	if (pipeline->loading)
		trucker_progress_begin(pipeline->count.entry, input->relid, number, ntables, estimate);
}

/* All of it has been read; it is shown until the next table's turn, or the end of the batch. */
static void
end_progress(TruckerPipeline *pipeline, TruckerInput *input)
{
	if (pipeline->loading)
		trucker_progress_set(pipeline->count.entry, input->loaded);
}

/*
 * Load an input, the number-th of ntables.  name_matters: nobody has written down what
 * was renamed since the snapshot was taken.
 */
static void
load_table(TruckerPipeline *pipeline, TruckerInput *input, Snapshot snapshot, XLogRecPtr lsn, bool name_matters,
		   int number, int ntables)
{
	List	   *parts;
	ListCell   *lc;

	check_is_the_same(input->rel, snapshot, name_matters);
	if (!input->program->relation->is_partitioned)
	{
		if (!pipeline->truck->backfill)
			return;
		begin_progress(pipeline, input, number, ntables, estimate_rows(input->rel));
		load_rows(pipeline, input, input->rel, NULL, snapshot, lsn);
		end_progress(pipeline, input);
		return;
	}
	parts = parts_as_of(input->relid, snapshot);
	if (name_matters && !equal(parts, parts_as_of(input->relid, NULL)))
		raise_altered(input->program->relation->name);
	if (!pipeline->truck->backfill)
		return;
	begin_progress(pipeline, input, number, ntables, estimate_parts(parts));
	foreach(lc, parts)
		load_part(pipeline, input, lfirst_oid(lc), snapshot, lsn, name_matters);
	end_progress(pipeline, input);
}

/*
 * The truck was drained before pg_upgrade: its destination holds what is to be loaded, if
 * the inputs are as they were then.
 */
static void
resume(TruckerPipeline *pipeline)
{
	const TruckerTruck *truck = pipeline->truck;
	const char *trouble = trucker_drained_trouble(truck);

	pipeline->lost = trouble != NULL;
	if (trouble)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" cannot go on after pg_upgrade: %s", truck->name, trouble),
				 errdetail("What was written in between is in no WAL of this server."),
				 errhint("SELECT trucker.resync(%s) loads the destination anew.", quote_literal_cstr(truck->name))));
	trucker_drained_forget(&truck->id);
	ereport(trucker_elevel(TRUCKER_LOG_WARN), (errmsg("truck \"%s\" goes on after pg_upgrade: its input tables are as they were when it was drained", truck->name)));
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
	if (trucker_truck_resumes(truck))
		resume(pipeline);
	else if (truck->reset_sql && (truck->needs_reset || pipeline->output->routine->needs_reset(pipeline->output)))
		run_reset_sql(pipeline);
	if (truck->backfill && !trucker_truck_resumes(truck))
		for (int i = 0; i < pipeline->ninputs; i++)
			load_table(pipeline, &pipeline->inputs[i], GetTransactionSnapshot(), consistent_point, false,
					   i + 1, pipeline->ninputs);
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
		load_table(pipeline, trucker_pipeline_input(pipeline, lfirst_oid(lc)), snapshot, consistent_point, true,
				   foreach_current_index(lc) + 1, list_length(relids));
	trucker_pipeline_flush(pipeline);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(old);
}
