/*
 * backfill.c
 *	  Load the rows that the input tables have before the stream starts.
 *
 * The rows are read under the snapshot that was exported with the slot, so they
 * are what all transactions before the slot's consistent point have left; the
 * stream starts at just that point.  There is no gap and no overlap.
 *
 * The whole backfill is one transaction at the destination, and the position
 * commits with it: a crash in the middle leaves nothing, and it begins anew with
 * a new slot.  reset_sql, after a resync, is part of that transaction, too.
 *
 * The tables are scanned directly, not by SQL: that the role may read them, and
 * that no row security stands in between, the pipeline has checked.
 */
#include "trucker.h"

#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "backfill.h"
#include "state.h"

static void
run_reset_sql(const TruckerPipeline *pipeline)
{
	int			nestlevel = NewGUCNestLevel();

	trucker_script_run(trucker_script_split(pipeline->truck->reset_sql, "reset_sql", true));
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

static void
load_table(TruckerPipeline *pipeline, TruckerInput *input, XLogRecPtr lsn)
{
	Relation	rel = input->rel;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, GetTransactionSnapshot(), 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(pipeline->change_context);

		row_from_slot(input, slot, lsn);
		trucker_pipeline_add(pipeline, input);
		MemoryContextSwitchTo(old);
		MemoryContextReset(pipeline->change_context);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
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
	if (truck->needs_reset && truck->reset_sql)
		run_reset_sql(pipeline);
	if (truck->backfill)
		for (int i = 0; i < pipeline->ninputs; i++)
			load_table(pipeline, &pipeline->inputs[i], consistent_point);
	trucker_pipeline_flush(pipeline);
	trucker_stop_point("backfill: loaded");
	/* last: from here on who stops the truck, or finds it lost, waits for us */
	trucker_state_set_backfilled(&truck->id, consistent_point, slot_name);

	MemoryContextSwitchTo(old);
	trucker_pipeline_commit(pipeline, consistent_point);
	trucker_stop_point("backfill: committed");
}
