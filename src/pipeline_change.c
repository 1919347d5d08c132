/*
 * pipeline_change.c
 *	  The part of the road on which a message becomes a change of a row, or a TRUNCATE.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "generated.h"
#include "pipeline_internal.h"
#include "toast.h"

/* The changes that follow are this source transaction's.  In an open batch. */
void
trucker_pipeline_begin_source(TruckerPipeline *pipeline, const TruckerMessage *message)
{
	pipeline->xid = message->xid;
	pipeline->commit_lsn = message->commit_lsn;
	pipeline->committed_at = message->committed_at;
	pipeline->nsources++;
	pipeline->parked = NULL;
	trucker_pipeline_note_source(pipeline, message->xid);
	/* how long one was in quarantine says nothing about how fast the truck is */
	if (!pipeline->replaying)
		trucker_count_source(&pipeline->count, message->committed_at);
	if (pipeline->toast_taken)
		hash_destroy(pipeline->toast_taken);
	pipeline->toast_taken = NULL;
}

static void
raise_truncated(const TruckerPipeline *pipeline, const TruckerInput *input)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("input table %s has been truncated", input->program->relation->name),
			 pipeline->truck->backfill ?
			 errhint("SELECT trucker.resync(%s) loads the destination anew.",
					 quote_literal_cstr(pipeline->truck->name)) :
			 errhint("SELECT trucker.resync(%s) goes on with the changes made from then on; those made until then are not applied, as the truck has the option \"backfill\": false.",
					 quote_literal_cstr(pipeline->truck->name))));
}

/* truncate_sql is about the whole table. */
static void
raise_part_truncated(const TruckerPipeline *pipeline, const TruckerInput *input, Oid leaf)
{
	char	   *name = get_rel_name(leaf);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("partition %s of input table %s has been truncated",
					name ? quote_qualified_identifier(get_namespace_name(get_rel_namespace(leaf)), name) : "(dropped)",
					input->program->relation->name),
			 errdetail("truncate_sql is run when the whole table is truncated, and cannot be for a partition."),
			 errhint("SELECT trucker.resync(%s) loads the destination anew.  To have the rows deleted one by one, DELETE them.",
					 quote_literal_cstr(pipeline->truck->name))));
}

/* Values that an update left out, because it left them unchanged. */
static void
complete_row(TruckerPipeline *pipeline, TruckerInput *input)
{
	const TruckerRelation *relation = input->program->relation;

	if (pipeline->toast_taken)
		trucker_toast_check_taken(input->row, relation, pipeline->toast_taken);
	if (input->net)
	{
		trucker_net_complete(input->net, input->row);
		trucker_generated_fill(input->row, input->program->relation);
	}
	if (!trucker_toast_is_needed(input->row, relation, input->program->type))
		return;
	if (pipeline->toast_taken == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(pipeline->batch_context);

		pipeline->toast_taken = trucker_toast_create_taken();
		MemoryContextSwitchTo(old);
	}
	trucker_pipeline_wait_for_sources(pipeline);
	trucker_toast_fill(input->row, input->row->part ? input->row->part->rel : input->rel, relation, input->program->type,
					   pipeline->truck->toast_current, pipeline->toast_taken);
}

/* Net changes would take all rows without a key for one. */
static bool
is_missing(const TruckerInput *input, TruckerPresence presence)
{
	return presence == TRUCKER_ABSENT || (presence == TRUCKER_IS_NULL && input->net);
}

/*
 * The key is what runs are told apart by: without it there is no safe way on.  A
 * key that is stored out of line and was not changed comes in the old row only.
 * With REPLICA IDENTITY FULL only net changes cannot do without.
 */
static void
check_key(const TruckerInput *input)
{
	const TruckerRelation *relation = input->program->relation;
	TruckerRow *row = input->row;

	if (relation->identity_full && input->net == NULL)
		return;
	for (int i = 0; i < relation->nkeys; i++)
	{
		int			at = relation->keys[i] - 1;

		if (row->operation == TRUCKER_UPDATE && row->newpresence[at] == TRUCKER_ABSENT)
		{
			row->newpresence[at] = row->oldpresence[at];
			row->newvalues[at] = row->oldvalues[at];
		}
		if ((row->operation != TRUCKER_DELETE && is_missing(input, row->newpresence[at])) ||
			(row->operation != TRUCKER_INSERT && is_missing(input, row->oldpresence[at])))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("a change of table %s does not carry its key column \"%s\"",
							relation->name,
							NameStr(TupleDescAttr(relation->desc, at)->attname)),
					 errdetail("The replica identity, or the column's name, was another when the change was made."),
					 errhint("Call trucker.resync() to load the table anew.")));
	}
}

static void
count_change(TruckerPipeline *pipeline, const TruckerMessage *message, TruckerTruckStat stat)
{
	pipeline->count.values[stat]++;
	pipeline->count.values[TRUCKER_BYTES] += message->size;
}

/* Execute truncate_sql: an input table has been truncated. */
static void
execute_truncate_sql(TruckerPipeline *pipeline, TruckerInput *input)
{
	int			nestlevel = trucker_pipeline_begin_sql(pipeline);

	trucker_count_phase(&pipeline->count, TRUCKER_PHASE_OUTPUT);
	pipeline->in_truncate = true;
	pipeline->output->routine->run(pipeline->output, trucker_program_truncate_statements(input->program));
	if (pipeline->observer)
		pipeline->observer->executed(pipeline->observer, input, 0, 0);
	pipeline->in_truncate = false;
	trucker_pipeline_end_sql(pipeline, nestlevel);
}

/*
 * An input table has been truncated.  What was collected before comes first; net
 * changes must not be merged with those that follow, also where the TRUNCATE is
 * ignored, since rows have gone that they hold to be there.
 */
static void
handle_truncate(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	if (!OidIsValid(message->leaf))
		input->truncated_at = message->lsn;
	else if (input->truncated_at == message->lsn)
		return;					/* with the whole table */
	else if (pipeline->truck->on_truncate == TRUCKER_TRUNCATE_RUN)
		raise_part_truncated(pipeline, input, message->leaf);
	if (pipeline->truck->on_truncate == TRUCKER_TRUNCATE_ERROR)
		raise_truncated(pipeline, input);
	pipeline->batch_rows++;
	if (input->net || pipeline->truck->on_truncate == TRUCKER_TRUNCATE_RUN)
		trucker_pipeline_execute_collected(pipeline);
	if (pipeline->truck->on_truncate == TRUCKER_TRUNCATE_RUN)
	{
		execute_truncate_sql(pipeline, input);
		count_change(pipeline, message, TRUCKER_TRUNCATES);
	}
}

/* The partition that a change is of, open until the batch ends; NULL: it is the table's own. */
TruckerPart *
trucker_pipeline_part(TruckerInput *input, const TruckerMessage *message)
{
	if (input->parts == NULL || !OidIsValid(message->leaf))
		return NULL;
	return trucker_parts_open(input->parts, input->program->relation, message->leaf);
}

/* The table's columns when the change was made; NULL: not known. */
const TruckerColumnSpan *
trucker_pipeline_columns(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	return trucker_columns_at(input->columns, &pipeline->truck->id, RelationGetDescr(input->rel), message->lsn, pipeline->xid);
}

/* Are columns known that have been altered since? */
bool
trucker_pipeline_has_old_columns(const TruckerPipeline *pipeline)
{
	for (int i = 0; i < pipeline->ninputs; i++)
		if (trucker_columns_have_old(pipeline->inputs[i].columns))
			return true;
	return false;
}

/* One change of a row. */
static void
handle_row(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	TruckerRow *row = input->row;

	row->xid = pipeline->xid;
	if (message->decoder->omits_generated)
		trucker_generated_prepare(input->program->relation, input->rel);
	if (message->kind != TRUCKER_MSG_INSERT)
		trucker_generated_check(input->program->relation, message->decoder);
	trucker_row_from_message(row, input->program->relation, trucker_pipeline_part(input, message),
							 trucker_pipeline_columns(pipeline, input, message), message);
	row->lsn = pipeline->commit_lsn;
	row->committed_at = pipeline->committed_at;
	if (message->decoder->omits_generated)
		trucker_generated_fill(row, input->program->relation);
	check_key(input);
	if (input->net && !trucker_net_find(input->net, row))
	{
		trucker_pipeline_execute_collected(pipeline);
		(void) trucker_net_find(input->net, row);
	}
	complete_row(pipeline, input);
	if (input->net)
		trucker_pipeline_collect(pipeline, input);
	else
	{
		pipeline->changing = NULL;
		trucker_pipeline_add(pipeline, input);
	}
}

/*
 * One change of the current source transaction.  In an open batch.
 */
void
trucker_pipeline_change(TruckerPipeline *pipeline, Oid relid,
						const TruckerMessage *message)
{
	TruckerInput *input = trucker_pipeline_input(pipeline, relid);
	MemoryContext old = MemoryContextSwitchTo(pipeline->change_context);

	pipeline->changing = input;
	if (trucker_apart_park(pipeline, input, message))
		CHECK_FOR_INTERRUPTS();
	else if (message->kind == TRUCKER_MSG_TRUNCATE)
		handle_truncate(pipeline, input, message);
	else if (!trucker_apart_ignores(pipeline, message))
	{
		handle_row(pipeline, input, message);
		count_change(pipeline, message, message->kind == TRUCKER_MSG_INSERT ? TRUCKER_ROWS_INSERTED :
					 message->kind == TRUCKER_MSG_UPDATE ? TRUCKER_ROWS_UPDATED : TRUCKER_ROWS_DELETED);
	}
	pipeline->changing = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(pipeline->change_context);
}
