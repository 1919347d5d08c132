/*
 * lineage.c
 *	  Which truck writes what another one reads; and whether it goes round.
 *
 * A truck leads to another one if it writes a table that the other one reads.
 * Of a partitioned table, a write to the whole may be one to each of its
 * partitions, and a partition's change is a change of the whole.  (Inheritance
 * needs no care: the planner names each child that a statement writes.)
 *
 * Only enabled trucks make a loop.  A stopped one is looked at when it is started.
 *
 * The graph is read with the latest snapshot, whatever that of the transaction is:
 * a backfill's is long out of date.
 */
#include "trucker.h"

#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "lineage.h"

/* ----
 * The graph
 * ----
 */

/* A table that a truck reads or writes. */
typedef struct GraphTable
{
	Oid			relid;
	List	   *ancestors;		/* that it is a partition of, however deep */
} GraphTable;

typedef struct GraphTruck
{
	const TruckerNode *node;
	List	   *inputs;			/* GraphTable * */

	/* how the search has got here, once it has */
	struct GraphTruck *writer;
	Oid			output;			/* that the writer writes */
	Oid			input;			/* that this one reads */
} GraphTruck;

static GraphTable *
graph_table(Oid relid)
{
	GraphTable *table = palloc(sizeof(GraphTable));

	table->relid = relid;
	table->ancestors = get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL;
	return table;
}

/* All trucks (GraphTruck *), as they are now. */
static List *
load_graph(void)
{
	List	   *graph = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, trucker_state_nodes())
	{
		GraphTruck *truck = palloc0(sizeof(GraphTruck));

		truck->node = lfirst(lc);
		foreach(lc2, truck->node->inputs)
			truck->inputs = lappend(truck->inputs, graph_table(lfirst_oid(lc2)));
		graph = lappend(graph, truck);
	}
	return graph;
}

/* Forget an earlier search; the truck with this id, or NULL if it is gone. */
static GraphTruck *
begin_search(List *graph, const pg_uuid_t *id)
{
	GraphTruck *found = NULL;
	ListCell   *lc;

	foreach(lc, graph)
	{
		GraphTruck *truck = lfirst(lc);

		truck->writer = NULL;
		if (memcmp(&truck->node->id, id, sizeof(pg_uuid_t)) == 0)
			found = truck;
	}
	return found;
}

/* Does who writes the one change the other, as those who read it see it? */
static bool
feeds(const GraphTable *output, const GraphTable *input)
{
	return output->relid == input->relid ||
		list_member_oid(input->ancestors, output->relid) ||
		list_member_oid(output->ancestors, input->relid);
}

/* The trucks that a write to the table reaches, and that nothing has reached yet. */
static List *
reach(List *graph, GraphTruck *origin, GraphTruck *writer, Oid relid)
{
	const GraphTable *output = graph_table(relid);
	List	   *reached = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, graph)
	{
		GraphTruck *reader = lfirst(lc);

		if (reader->writer != NULL || (reader != origin && !reader->node->enabled))
			continue;
		foreach(lc2, reader->inputs)
		{
			const GraphTable *input = lfirst(lc2);

			if (!feeds(output, input))
				continue;
			reader->writer = writer;
			reader->output = output->relid;
			reader->input = input->relid;
			reached = lappend(reached, reader);
			break;
		}
	}
	return reached;
}

/*
 * Does any of these tables lead from the truck back to it, over trucks that are
 * enabled?  Then the shortest way is found by going back from the truck, from
 * writer to writer.
 */
static bool
search_loop(List *graph, GraphTruck *origin, List *outputs)
{
	List	   *queue = list_make1(origin);
	ListCell   *lc;
	ListCell   *lc2;

	/* a list may grow while it is gone through */
	foreach(lc, queue)
	{
		GraphTruck *writer = lfirst(lc);

		foreach(lc2, writer == origin ? outputs : writer->node->outputs)
			queue = list_concat(queue, reach(graph, origin, writer, lfirst_oid(lc2)));
		if (origin->writer != NULL)
			return true;
	}
	return false;
}

/* ----
 * Errors
 * ----
 */

static char *
table_name(Oid relid)
{
	char	   *table = get_rel_name(relid);
	char	   *schema = table ? get_namespace_name(get_rel_namespace(relid)) : NULL;

	return schema ? quote_qualified_identifier(schema, table) : psprintf("(OID %u)", relid);
}

/* One truck after the other, from the origin on. */
static char *
describe_loop(GraphTruck *origin)
{
	List	   *steps = NIL;
	GraphTruck *step = origin;
	StringInfoData text;
	ListCell   *lc;

	do
	{
		steps = lcons(step, steps);
		step = step->writer;
	} while (step != origin);

	initStringInfo(&text);
	foreach(lc, steps)
	{
		step = lfirst(lc);
		appendStringInfo(&text, "%sruck \"%s\" writes %s", text.len > 0 ? "; t" : "T",
						 step->writer->node->name, table_name(step->output));
		if (step->output == step->input)
			appendStringInfoString(&text, ", which");
		else if (list_member_oid(graph_table(step->input)->ancestors, step->output))
			appendStringInfo(&text, ", whose partition %s", table_name(step->input));
		else
			appendStringInfo(&text, ", a partition of %s, which", table_name(step->input));
		appendStringInfo(&text, " truck \"%s\" reads", step->node->name);
	}
	appendStringInfoChar(&text, '.');
	return text.data;
}

/* Who comes behind the origin; the origin itself if there is nobody else. */
static GraphTruck *
second_of(GraphTruck *origin)
{
	GraphTruck *step = origin;

	while (step->writer != origin)
		step = step->writer;
	return step;
}

/* A loop that plans show, when the truck is started. */
static void
refuse_start(GraphTruck *origin)
{
	const char *name = origin->node->name;
	GraphTruck *second = second_of(origin);

	if (second == origin)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("truck \"%s\" writes its own input table %s", name, table_name(origin->input)),
				 errdetail("%s", describe_loop(origin)),
				 errhint("Its own changes would reach it again, without end.  SELECT trucker.drop_truck(%s); and create it with SQL that writes another table.",
						 quote_literal_cstr(name))));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("truck \"%s\" closes a loop of trucks", name),
			 errdetail("%s", describe_loop(origin)),
			 errhint("Changes would go round without end.  SELECT trucker.stop(%s); or let one of them write another table.",
					 quote_literal_cstr(second->node->name))));
}

/* A loop that shows in what the truck's SQL does. */
static void
refuse_write(GraphTruck *origin)
{
	const char *name = origin->node->name;
	GraphTruck *second = second_of(origin);

	if (second == origin)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("truck \"%s\" would write its own input table through %s", name, table_name(origin->output)),
				 errdetail("%s", describe_loop(origin)),
				 errhint("Its own changes would reach it again, without end.  Let no function, trigger, rule or foreign key that its SQL sets off write that table.")));
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("truck \"%s\" would close a loop of trucks through %s", name, table_name(second->output)),
			 errdetail("%s", describe_loop(origin)),
			 errhint("Changes would go round without end.  SELECT trucker.stop(%s); or let no function, trigger, rule or foreign key that the truck's SQL sets off write %s.",
					 quote_literal_cstr(second->node->name), table_name(second->output))));
}

/* ----
 * Looking
 * ----
 */

/*
 * Let only one transaction at a time be between its last look at the graph and its
 * commit.  The lock is one on trucker.output_table as an object: who reads or
 * vacuums the relation does not meet it.
 */
void
trucker_lineage_lock(void)
{
	Oid			relid = get_relname_relid("output_table", get_namespace_oid(TRUCKER_SCHEMA, false));

	LockDatabaseObject(RelationRelationId, relid, 0, ExclusiveLock);
}

/*
 * May these trucks (pg_uuid_t *) be enabled, with what they are known to write?
 * Those that are not enabled, or gone, are passed over.  Raises an error.
 */
void
trucker_lineage_check_start(List *ids)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "trucker lineage",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	List	   *graph = load_graph();
	ListCell   *lc;

	foreach(lc, ids)
	{
		GraphTruck *origin = begin_search(graph, lfirst(lc));

		if (origin && origin->node->enabled && search_loop(graph, origin, origin->node->outputs))
			refuse_start(origin);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}

/*
 * Could the truck be enabled, if it writes these tables (Oid)?  Raises an error if that
 * would close a loop.
 */
void
trucker_lineage_check_planned(const pg_uuid_t *id, List *relids)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "trucker lineage",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	List	   *graph = load_graph();
	GraphTruck *origin = begin_search(graph, id);

	if (origin && search_loop(graph, origin, relids))
		refuse_start(origin);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}

/*
 * May the truck write these tables?  Raises an error if they close a loop; returns
 * those that the catalog does not know of yet.
 */
List *
trucker_lineage_check_write(const pg_uuid_t *id, List *relids)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "trucker lineage",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	List	   *graph = load_graph();
	GraphTruck *origin = begin_search(graph, id);
	List	   *unknown;

	if (origin == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the truck has been dropped")));
	if (search_loop(graph, origin, relids))
		refuse_write(origin);
	MemoryContextSwitchTo(old);
	unknown = list_difference_oid(relids, origin->node->outputs);
	MemoryContextDelete(scratch);
	return unknown;
}

/* Does any truck, stopped or not, read what a write to the table changes? */
bool
trucker_lineage_is_read(Oid relid)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "trucker lineage",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	const GraphTable *output = graph_table(relid);
	bool		found = false;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, load_graph())
		foreach(lc2, ((GraphTruck *) lfirst(lc))->inputs)
			found |= feeds(output, lfirst(lc2));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	return found;
}
