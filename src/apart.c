/*
 * apart.c
 *	  Changes that go into quarantine instead of a run.
 *
 * With the truck's option on_error = "quarantine", a source transaction that leads to
 * an error, applied alone, does not stop the truck: all its changes for the truck are
 * put into quarantine, in the transaction that moves the position behind it.  That parts
 * it from its order.  What must not be lost is the order of the changes of each row: so
 * later changes of a row that has one there are put there as well, whatever the option
 * says by then, each source transaction's under a number of its own; the rest of such a
 * source transaction is applied.  An update that moves a row to another key takes that
 * key into quarantine, too.  A TRUNCATE is a change of all rows of its table.
 *
 * This is decided before a change is converted, and before it can become part of a net
 * change; what a batch has collected before it comes before it.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "pipeline.h"

/* Is it nothing to the truck? */
bool
trucker_apart_ignores(const TruckerPipeline *pipeline, const TruckerMessage *message)
{
	if (message->kind == TRUCKER_MSG_TRUNCATE)
		return pipeline->truck->on_truncate == TRUCKER_TRUNCATE_IGNORE;
	return message->kind != TRUCKER_MSG_INSERT && pipeline->truck->inserts_only;
}

static void
read_keys(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message, TruckerRowKeys *keys)
{
	if (input->hasher == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(input->context);

		input->hasher = trucker_key_hasher_create(input->rel);
		MemoryContextSwitchTo(old);
	}
	trucker_key_hasher_read(input->hasher, pipeline->xid, trucker_pipeline_part(input, message),
							trucker_pipeline_columns(pipeline, input, message), message, keys);
}

/* Put a change into quarantine: for an error, or because its key is there already. */
static void
keep_change(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message,
			const TruckerRowKeys *keys, const char *error, int64 behind)
{
	if (pipeline->parked == NULL)
	{
		TruckerMessage begin = {.xid = pipeline->xid, .commit_lsn = pipeline->commit_lsn,
		.committed_at = pipeline->committed_at};

		pipeline->parked = trucker_quarantine_open(pipeline->quarantine, &begin, error, behind);
	}
	trucker_quarantine_add(pipeline->quarantine, pipeline->parked, input->relid,
						   input->program->relation->name, message, keys);
	pipeline->batch_rows++;
}

/*
 * An earlier change of the same row is in quarantine: this one must not be applied
 * before that.  False: there is none.  The input is open.  A TRUNCATE that is an error
 * is one.
 */
bool
trucker_apart_park(TruckerPipeline *pipeline, TruckerInput *input, const TruckerMessage *message)
{
	TruckerQuarantine *quarantine = pipeline->quarantine;
	const TruckerHeld *holder;
	TruckerRowKeys keys;

	if (quarantine == NULL || trucker_quarantine_is_empty(quarantine) || pipeline->replaying ||
		trucker_apart_ignores(pipeline, message) ||
		(message->kind == TRUCKER_MSG_TRUNCATE && pipeline->truck->on_truncate == TRUCKER_TRUNCATE_ERROR))
		return false;
	read_keys(pipeline, input, message, &keys);
	holder = trucker_quarantine_holder(quarantine, input->relid, &keys, PG_UINT64_MAX);
	if (holder == NULL)
		return false;
	keep_change(pipeline, input, message, &keys, NULL, holder->id);
	return true;
}

/*
 * Put a change of the current source transaction into quarantine, because of an error
 * that the transaction leads to.  In an open batch.
 */
void
trucker_apart_add(TruckerPipeline *pipeline, Oid relid, const TruckerMessage *message,
						   const char *error)
{
	TruckerInput *input = trucker_pipeline_input(pipeline, relid);
	MemoryContext old = MemoryContextSwitchTo(pipeline->change_context);
	TruckerRowKeys keys;

	if (!trucker_apart_ignores(pipeline, message))
	{
		read_keys(pipeline, input, message, &keys);
		keep_change(pipeline, input, message, &keys, error, 0);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(pipeline->change_context);
}
