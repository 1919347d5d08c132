/*
 * graph.c
 *	  graph(): which trucks read and write which tables, as text for Mermaid or Graphviz.
 *
 * What a truck of this database writes is what its plans and its batches have shown
 * (written.c); of one that has not been started yet, what its SQL names.  What a truck
 * writes at another server can only be told from its SQL, whose names mean there what
 * they mean there.
 *
 * A truck is shown to those to whom trucker.status shows it; what is known from its SQL
 * only to those who have its owner's rights.
 *
 * Nodes are numbered, so names occur in labels only.  In Mermaid all that may mean
 * something is written as a character reference (#34;); Graphviz knows quotes,
 * backslashes and HTML's references.  Control characters, but line feeds, are shown as \xHH in both.
 */
#include "trucker.h"

#include <ctype.h>

#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "checklist.h"
#include "connection.h"
#include "identity.h"
#include "program.h"

PG_FUNCTION_INFO_V1(trucker_graph);

typedef struct GraphTruck
{
	pg_uuid_t	id;
	char	   *name;
	char	   *state;
	char	   *connection;
	bool		is_local;
	bool		may_see_sql;
	List	   *inputs;			/* tables (Oid) */
	List	   *outputs;		/* likewise */
	List	   *targets;		/* names (char *) of what it writes elsewhere; NIL: not known */
} GraphTruck;

/* A table of this database. */
typedef struct GraphTable
{
	Oid			relid;
	char	   *name;
	bool		read;			/* by a truck that is shown */
	bool		written;
} GraphTable;

typedef struct Graph
{
	List	   *trucks;			/* GraphTruck * */
	int			ntables;
	GraphTable *tables;			/* by name */
	List	   *connections;	/* names (char *) */
	List	   *targets;		/* of each of them, names (List of char *) */
} Graph;

/* ----
 * What there is
 * ----
 */

static List *
oid_list(HeapTuple tuple, int number)
{
	bool		isnull;
	ArrayType  *array = DatumGetArrayTypeP(trucker_column(tuple, number, &isnull));
	List	   *list = NIL;

	for (int i = 0; i < ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)); i++)
		list = list_append_unique_oid(list, ((Oid *) ARR_DATA_PTR(array))[i]);
	return list;
}

static GraphTruck *
form_truck(HeapTuple tuple)
{
	GraphTruck *truck = palloc0(sizeof(GraphTruck));

	truck->id = trucker_uuid_column(tuple, 1);
	truck->name = trucker_text_column(tuple, 2);
	truck->state = trucker_text_column(tuple, 3);
	truck->connection = trucker_text_column(tuple, 4);
	truck->inputs = oid_list(tuple, 5);
	truck->outputs = oid_list(tuple, 6);
	truck->may_see_sql = trucker_bool_column(tuple, 7);
	truck->is_local = trucker_connection_is_local(truck->connection);
	return truck;
}

/* The trucks that the caller may see. */
static List *
load_trucks(void)
{
	Oid			type = OIDOID;
	Datum		caller = ObjectIdGetDatum(GetUserId());
	TruckerCatalog access;
	MemoryContext old;
	List	   *trucks = NIL;

	/* there the current user is another one, to whom the view shows all */
	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("SELECT t.id, t.name, s.state, t.output_connection, t.input_tables::oid[], coalesce(o.relids, '{}'), "
								   "pg_has_role($1, t.owner, 'USAGE') "
								   "FROM trucker.truck t JOIN trucker.status s ON s.truck = t.name "
								   "LEFT JOIN (SELECT truck_id, array_agg(relid ORDER BY relid) AS relids FROM trucker.output_table "
								   "GROUP BY truck_id) o ON o.truck_id = t.id "
								   "WHERE pg_has_role($1, t.owner, 'USAGE') OR pg_has_role($1, 'pg_read_all_stats'::name, 'USAGE') "
								   "ORDER BY t.name COLLATE \"C\"", 1, &type, &caller, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(access.result_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		trucks = lappend(trucks, form_truck(SPI_tuptable->vals[i]));
	MemoryContextSwitchTo(old);
	trucker_catalog_end(&access);
	return trucks;
}

/* What one truck's SQL names. */
typedef struct Naming
{
	GraphTruck *truck;
	MemoryContext context;		/* that the names live in */
} Naming;

static const char *
name_targets(TruckerChecklist *list, void *arg)
{
	Naming	   *naming = arg;
	TruckerTruck *truck = trucker_truck_load(&naming->truck->id);
	MemoryContext old;
	TruckerIdentity saved;
	List	   *targets;
	ListCell   *lc;

	if (truck == NULL)
		return NULL;
	targets = trucker_program_targets(truck);
	old = MemoryContextSwitchTo(naming->context);
	if (!naming->truck->is_local)
		foreach(lc, targets)
			naming->truck->targets = lappend(naming->truck->targets, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
	if (!naming->truck->is_local)
		return NULL;
	trucker_identity_push(&saved, truck->role, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
						  truck->search_path);
	foreach(lc, targets)
	{
		Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(lfirst(lc)))),
											 NoLock, true);

		MemoryContextSwitchTo(naming->context);
		if (OidIsValid(relid))
			naming->truck->outputs = list_append_unique_oid(naming->truck->outputs, relid);
		MemoryContextSwitchTo(old);
	}
	trucker_identity_pop(&saved);
	return NULL;
}

/* SQL that cannot be rendered as the tables are called now names nothing. */
static void
find_targets(GraphTruck *truck)
{
	Naming		naming = {truck, CurrentMemoryContext};
	const char *result;

	if (truck->may_see_sql && (!truck->is_local || truck->outputs == NIL))
		(void) trucker_checklist_try(name_targets, &naming, &result);
}

static int
compare_tables(const void *a, const void *b)
{
	const GraphTable *left = a;
	const GraphTable *right = b;
	int			order = strcmp(left->name, right->name);

	return order != 0 ? order : (left->relid > right->relid) - (left->relid < right->relid);
}

static void
collect_tables(Graph *graph)
{
	List	   *read = NIL;
	List	   *written = NIL;
	List	   *all;
	ListCell   *lc;

	foreach(lc, graph->trucks)
	{
		read = list_concat_unique_oid(read, ((GraphTruck *) lfirst(lc))->inputs);
		written = list_concat_unique_oid(written, ((GraphTruck *) lfirst(lc))->outputs);
	}
	all = list_union_oid(read, written);
	graph->tables = palloc0(Max(list_length(all), 1) * sizeof(GraphTable));
	foreach(lc, all)
	{
		GraphTable *table = &graph->tables[graph->ntables];
		char	   *name = get_rel_name(lfirst_oid(lc));

		/* dropped since */
		if (name == NULL)
			continue;
		table->relid = lfirst_oid(lc);
		table->name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->relid)), name);
		table->read = list_member_oid(read, table->relid);
		table->written = list_member_oid(written, table->relid);
		graph->ntables++;
	}
	qsort(graph->tables, graph->ntables, sizeof(GraphTable), compare_tables);
}

static int
find_name(List *names, const char *name)
{
	ListCell   *lc;
	int			number = 0;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return number;
		number++;
	}
	return -1;
}

/* The connections, and what is written there; "...": something. */
static void
collect_connections(Graph *graph)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, graph->trucks)
	{
		GraphTruck *truck = lfirst(lc);
		int			number;

		if (truck->is_local)
			continue;
		if (truck->targets == NIL)
			truck->targets = list_make1("...");
		number = find_name(graph->connections, truck->connection);
		if (number < 0)
		{
			number = list_length(graph->connections);
			graph->connections = lappend(graph->connections, truck->connection);
			graph->targets = lappend(graph->targets, NIL);
		}
		foreach(lc2, truck->targets)
			if (find_name(list_nth(graph->targets, number), lfirst(lc2)) < 0)
				lfirst(list_nth_cell(graph->targets, number)) = lappend(list_nth(graph->targets, number), lfirst(lc2));
	}
}

/* Its number, from 1; 0: it has been dropped. */
static int
table_number(const Graph *graph, Oid relid)
{
	for (int i = 0; i < graph->ntables; i++)
		if (graph->tables[i].relid == relid)
			return i + 1;
	return 0;
}

/* Is a change of the one, by way of partitions, one of the other? */
static bool
feeds(const GraphTable *output, const GraphTable *input)
{
	return output->relid != input->relid && output->written && input->read &&
		((get_rel_relispartition(output->relid) && list_member_oid(get_partition_ancestors(output->relid), input->relid)) ||
		 (get_rel_relispartition(input->relid) && list_member_oid(get_partition_ancestors(input->relid), output->relid)));
}

/* ----
 * Names
 * ----
 */

static bool
is_control(char c)
{
	return ((unsigned char) c < ' ' && c != '\n') || c == '\x7f';
}

/* In quotes of Mermaid's. */
static void
append_mermaid(StringInfo text, const char *name)
{
	for (; *name; name++)
	{
		if (is_control(*name))
			appendStringInfo(text, "#92;x%02X", (unsigned char) *name);
		else if (IS_HIGHBIT_SET(*name) || isalnum((unsigned char) *name) || strchr(" _.,-()/", *name))
			appendStringInfoChar(text, *name);
		else
			appendStringInfo(text, "#%d;", *name);
	}
}

/* In quotes of Graphviz's. */
static void
append_dot(StringInfo text, const char *name)
{
	for (; *name; name++)
	{
		if (is_control(*name))
			appendStringInfo(text, "\\\\x%02X", (unsigned char) *name);
		else if (*name == '\n')
			appendStringInfoString(text, "\\n");
		else if (*name == '&')
			appendStringInfoString(text, "&amp;");
		else if (*name == '"' || *name == '\\')
			appendStringInfo(text, "\\%c", *name);
		else
			appendStringInfoChar(text, *name);
	}
}

/* ----
 * Writing
 * ----
 */

typedef void (*AppendName) (StringInfo text, const char *name);

/* What differs between the formats. */
typedef struct Format
{
	const char *name;
	AppendName	append;
	const char *head;
	const char *table[2];		/* around a table's label; before it comes its number */
	const char *truck[2];		/* around a truck's label; behind it comes how it is */
	const char *line;			/* in it, between name and state */
	const char *moods[3];		/* it works, rests, fails */
	const char *connection[2];	/* a connection's number and label, and then its tables */
	const char *end;			/* ... and their end */
	const char *edge;			/* between two nodes */
	const char *partition;		/* likewise, from partition to table, or the reverse */
	const char *tail;
} Format;

static const Format formats[] = {
	{
		"mermaid", append_mermaid, "flowchart LR\n",
		{"[(\"", "\")]\n"}, {"[\"", "\"]:::%s\n"}, "<br/>", {"works", "rests", "fails"},
		{"    subgraph c%d[\"", "\"]\n"}, "    end\n",
		"    %s --> %s\n", "    %s -. partition .-> %s\n",
		"    classDef works fill:#d9f2df,stroke:#2b7a3f,color:#000000\n"
		"    classDef rests fill:#eeeeee,stroke:#777777,color:#000000\n"
		"    classDef fails fill:#f9d6d2,stroke:#b3261e,color:#000000\n"
	},
	{
		"dot", append_dot, "digraph trucker {\n    rankdir = LR;\n    node [shape = cylinder];\n",
		{" [label = \"", "\"];\n"}, {" [shape = box, label = \"", "\", style = filled, fillcolor = \"%s\"];\n"}, "\\n", {"#d9f2df", "#eeeeee", "#f9d6d2"},
		{"    subgraph cluster_c%d {\n    label = \"", "\";\n"}, "    }\n",
		"    %s -> %s;\n", "    %s -> %s [style = dashed, label = \"partition\"];\n",
		"}\n"
	}
};

/* How is a truck in this state? */
static int
mood(const char *state)
{
	static const char *const fails[] = {"failed", "lost", "retrying", "waiting"};
	static const char *const rests[] = {"stopped", "stopping", "starting"};

	for (int i = 0; i < lengthof(fails); i++)
		if (strcmp(state, fails[i]) == 0)
			return 2;
	for (int i = 0; i < lengthof(rests); i++)
		if (strcmp(state, rests[i]) == 0)
			return 1;
	return 0;
}

static void
write_truck(StringInfo text, const Format *format, int number, const GraphTruck *truck)
{
	appendStringInfo(text, "    k%d%s", number, format->truck[0]);
	format->append(text, truck->name);
	appendStringInfoString(text, format->line);
	format->append(text, truck->state);
	appendStringInfo(text, format->truck[1], format->moods[mood(truck->state)]);
}

static void
write_nodes(StringInfo text, const Format *format, const Graph *graph)
{
	ListCell   *lc;
	ListCell   *lc2;
	int			connection = 0;
	int			target = 0;

	for (int i = 0; i < graph->ntables; i++)
	{
		appendStringInfo(text, "    t%d%s", i + 1, format->table[0]);
		format->append(text, graph->tables[i].name);
		appendStringInfoString(text, format->table[1]);
	}
	foreach(lc, graph->trucks)
		write_truck(text, format, foreach_current_index(lc) + 1, lfirst(lc));
	foreach(lc, graph->connections)
	{
		appendStringInfo(text, format->connection[0], connection + 1);
		format->append(text, lfirst(lc));
		appendStringInfoString(text, format->connection[1]);
		foreach(lc2, list_nth(graph->targets, connection))
		{
			appendStringInfo(text, "    r%d%s", ++target, format->table[0]);
			format->append(text, lfirst(lc2));
			appendStringInfoString(text, format->table[1]);
		}
		appendStringInfoString(text, format->end);
		connection++;
	}
}

/* The number of a table at a connection. */
static int
target_number(const Graph *graph, const char *connection, const char *name)
{
	int			number = find_name(graph->connections, connection);
	int			before = 0;

	for (int i = 0; i < number; i++)
		before += list_length(list_nth(graph->targets, i));
	return before + find_name(list_nth(graph->targets, number), name) + 1;
}

static void
write_edges(StringInfo text, const Format *format, const Graph *graph)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, graph->trucks)
	{
		const GraphTruck *truck = lfirst(lc);
		char	   *name = psprintf("k%d", foreach_current_index(lc) + 1);

		foreach(lc2, truck->inputs)
			if (table_number(graph, lfirst_oid(lc2)) > 0)
				appendStringInfo(text, format->edge, psprintf("t%d", table_number(graph, lfirst_oid(lc2))), name);
		foreach(lc2, truck->outputs)
			if (truck->is_local && table_number(graph, lfirst_oid(lc2)) > 0)
				appendStringInfo(text, format->edge, name, psprintf("t%d", table_number(graph, lfirst_oid(lc2))));
		foreach(lc2, truck->targets)
			appendStringInfo(text, format->edge, name, psprintf("r%d", target_number(graph, truck->connection, lfirst(lc2))));
	}
	for (int i = 0; i < graph->ntables; i++)
		for (int j = 0; j < graph->ntables; j++)
			if (feeds(&graph->tables[i], &graph->tables[j]))
				appendStringInfo(text, format->partition, psprintf("t%d", i + 1), psprintf("t%d", j + 1));
}

static const Format *
find_format(const char *name)
{
	for (int i = 0; i < lengthof(formats); i++)
		if (strcmp(formats[i].name, name) == 0)
			return &formats[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown format \"%s\" of a graph", name),
			 errhint("SELECT trucker.graph('mermaid'); or 'dot', for Graphviz.")));
}

/* graph(format) */
Datum
trucker_graph(PG_FUNCTION_ARGS)
{
	const Format *format = find_format(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	StringInfoData text;
	Graph		graph;
	ListCell   *lc;

	memset(&graph, 0, sizeof(graph));
	graph.trucks = load_trucks();
	foreach(lc, graph.trucks)
		find_targets(lfirst(lc));
	collect_tables(&graph);
	collect_connections(&graph);

	initStringInfo(&text);
	appendStringInfoString(&text, format->head);
	write_nodes(&text, format, &graph);
	write_edges(&text, format, &graph);
	appendStringInfoString(&text, format->tail);
	PG_RETURN_TEXT_P(cstring_to_text(text.data));
}
