/*
 * check.c
 *	  What must hold of a truck and its tables before it may start.
 *
 * Everything here can be found out again, and is, by the worker: tables and
 * rights change while a truck runs.  But the user is here now, and can read an
 * error.
 *
 * The truck's SQL is analysed and planned as its role, in a security-restricted
 * context, since planning may execute functions that are marked IMMUTABLE.
 *
 * start() raises the first failure, check() tells all of them (checklist.c).
 */
#include "trucker.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "check.h"
#include "checklist.h"
#include "decoder.h"
#include "generated.h"
#include "identity.h"
#include "lineage.h"
#include "part.h"
#include "pipeline.h"
#include "program.h"
#include "toast.h"

static void
refuse_table(Relation rel, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("%s cannot be an input table: %s", trucker_qualified_name(rel), why),
			 hint ? errhint("%s", hint) : 0));
}

/* Are the changes of the table in the WAL? */
static void
check_persistence(Relation rel)
{
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_table(rel, "it is a temporary table", "Its changes are not in the WAL.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse_table(rel, "it is an unlogged table",
					 psprintf("Its changes are not in the WAL.  ALTER TABLE %s SET LOGGED;", trucker_qualified_name(rel)));
}

static void
check_parts(Relation rel)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(RelationGetRelid(rel), NoLock, NULL))
	{
		Relation	part = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (part == NULL)
			continue;
		if (part->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
			refuse_table(rel, psprintf("its partition %s is a foreign table", trucker_qualified_name(part)),
						 "Name the other partitions as input tables, one by one.");
		if (part->rd_rel->relkind == RELKIND_RELATION && part->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
			refuse_table(rel, psprintf("its partition %s is an unlogged table", trucker_qualified_name(part)),
						 psprintf("Its changes are not in the WAL.  ALTER TABLE %s SET LOGGED;", trucker_qualified_name(part)));
		relation_close(part, AccessShareLock);
	}
}

static void
check_kind(Relation rel)
{
	char		kind = rel->rd_rel->relkind;

	if (kind == RELKIND_VIEW || kind == RELKIND_MATVIEW)
		refuse_table(rel, "it is a view", "Name the tables behind it, and put the view's query into input_sql.");
	if (kind == RELKIND_FOREIGN_TABLE)
		refuse_table(rel, "it is a foreign table", "Install trucker in the database that holds the table.");
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse_table(rel, "it is not a table", NULL);
	check_persistence(rel);
	if (kind == RELKIND_PARTITIONED_TABLE)
		check_parts(rel);
	if (IsCatalogRelation(rel))
		refuse_table(rel, "it is a system catalog", NULL);
	if (RelationGetNamespace(rel) == get_namespace_oid(TRUCKER_SCHEMA, true))
		refuse_table(rel, "it belongs to trucker", NULL);
}

/* One input table of a truck, and what the checks before have made of it. */
typedef struct InputCheck
{
	const TruckerTruck *truck;
	Oid			relid;
	Relation	rel;			/* NULL: it has been dropped */
	TruckerOutput *output;
	MemoryContext context;		/* that the program lives in */
	TruckerProgram *program;
	List	  **written;		/* tables (Oid) that the plans write */
} InputCheck;

static const char *
check_table(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;

	if (input->rel == NULL)
		trucker_raise_dropped(input->truck->name, input->relid);
	check_kind(input->rel);
	return "its changes are in the WAL";
}

static const char *
check_rights(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;

	trucker_check_input_rights(input->truck, input->rel);
	return psprintf("role \"%s\" may read all of it", GetUserNameFromId(input->truck->role, false));
}

/* As the truck's role; what it makes lives in the caller's memory. */
static void
begin_as_role(InputCheck *input, TruckerIdentity *saved)
{
	trucker_identity_push(saved, input->truck->role,
						  SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
						  input->truck->search_path);
	MemoryContextSwitchTo(input->context);
}

static const char *
check_sql(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;
	MemoryContext old = CurrentMemoryContext;
	TruckerIdentity saved;

	begin_as_role(input, &saved);
	input->program = trucker_program_create(input->truck, input->output, input->rel);
	MemoryContextSwitchTo(old);
	trucker_identity_pop(&saved);
	return psprintf("reads %d columns of r%s%s", input->program->type->desc->natts,
					input->program->filtered ? ".  " : "", input->program->filtered ? input->program->filtered : "");
}

static const char *
check_identity(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;

	trucker_program_check_identity(input->program);
	if (!input->truck->inserts_only)
		trucker_generated_check(input->program->relation, trucker_check_decoder(input->truck));
	return input->truck->inserts_only ? "inserts only: none is needed" : "gives the old values that are needed";
}

static const char *
check_plans(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;
	MemoryContext old = CurrentMemoryContext;
	TruckerIdentity saved;

	begin_as_role(input, &saved);
	trucker_program_check(input->program, input->written);
	MemoryContextSwitchTo(old);
	trucker_identity_pop(&saved);
	return "the SQL can be planned, its role may do what the plans do, and each ON CONFLICT has its index";
}

/* What may stop this truck one day: unchanged TOAST values ... */
static const char *
check_toast(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;
	const TruckerRelation *relation = input->program->relation;
	const char *column;

	if (input->truck->inserts_only || input->truck->toast_current ||
		!trucker_toast_can_occur(relation, input->program->type, &column))
		return "none can be missing";
	trucker_checklist_warn(list,
						   psprintf("updates of table %s do not carry large values of column \"%s\" that they leave unchanged",
									relation->name, column),
						   "If such a row is changed again before the truck has read it from the table, the truck stops.",
						   psprintf("%s or create the truck with the option \"toast\": \"current\".",
									trucker_parts_alter_all(relation)));
	return NULL;
}

/* ... and what the output plugin cannot carry. */
static const char *
check_nan(TruckerChecklist *list, void *arg)
{
	InputCheck *input = arg;
	const TruckerRelation *relation = input->program->relation;
	const TruckerRowType *type = input->program->type;
	const TruckerDecoder *decoder = trucker_decoder_installed(trucker_check_decoder(input->truck));
	StringInfoData names;
	char	   *message;
	char	   *detail;

	initStringInfo(&names);
	for (int i = 0; decoder->loses_nan && i < relation->desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, i);

		if (!attr->attisdropped && trucker_type_can_lose_nan(attr->atttypid) &&
			(trucker_row_type_reads(type, TRUCKER_FROM_NEW, attr->attnum) ||
			 trucker_row_type_reads(type, TRUCKER_FROM_OLD, attr->attnum)))
			appendStringInfo(&names, "%s\"%s\"", names.len ? ", " : "", NameStr(attr->attname));
	}
	if (names.len == 0)
		return psprintf("%s carries all values that the SQL reads", decoder->plugin);

	message = psprintf("%s cannot carry NaN and infinity of floating-point and numeric columns",
					   decoder->plugin);
	detail = psprintf("They would arrive as NULL.  The SQL reads such columns of table %s: %s.",
					  relation->name, names.data);
	if (trucker_refuse_unsafe_types)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s", message),
				 errdetail("%s", detail),
				 errhint("Let the SQL not read them, give the columns a domain over their type, which arrives as text, or set trucker.refuse_unsafe_types = off.  pgoutput carries all values: ALTER SYSTEM SET trucker.output_plugin = pgoutput; SELECT pg_reload_conf();")));
	trucker_checklist_warn(list, message, detail,
						   "Where the column is NOT NULL the truck stops at such a value; elsewhere a CHECK constraint can keep it out.  pgoutput carries all values: ALTER SYSTEM SET trucker.output_plugin = pgoutput; SELECT pg_reload_conf();");
	return NULL;
}

static void
check_input(TruckerChecklist *list, const TruckerTruck *truck, TruckerOutput *output, Oid relid, List **written)
{
	InputCheck	input = {truck, relid, NULL, output, CurrentMemoryContext, NULL, written};
	char	   *prefix;

	input.rel = try_relation_open(relid, AccessShareLock);
	prefix = psprintf("truck \"%s\", %s", truck->name,
					  input.rel ? trucker_qualified_name(input.rel) : psprintf("OID %u", relid));
	if (trucker_checklist_run(list, psprintf("%s: input table", prefix), check_table, &input))
	{
		(void) trucker_checklist_run(list, psprintf("%s: right to read", prefix), check_rights, &input);
		if (trucker_checklist_run(list, psprintf("%s: SQL", prefix), check_sql, &input))
		{
			(void) trucker_checklist_run(list, psprintf("%s: replica identity", prefix), check_identity, &input);
			if (!trucker_checklist_run(list, psprintf("%s: plans", prefix), check_plans, &input))
				output->routine->rollback(output);
			(void) trucker_checklist_run(list, psprintf("%s: unchanged TOAST values", prefix), check_toast, &input);
			(void) trucker_checklist_run(list, psprintf("%s: values", prefix), check_nan, &input);
			trucker_program_free(input.program);
		}
		else
			output->routine->rollback(output);
	}
	if (input.rel)
		relation_close(input.rel, NoLock);
}

static const char *
check_role(TruckerChecklist *list, void *arg)
{
	const TruckerTruck *truck = arg;

	trucker_truck_check_role(truck);
	return psprintf("owner \"%s\", runs as \"%s\"%s", GetUserNameFromId(truck->owner, false),
					GetUserNameFromId(truck->role, false),
					superuser_arg(truck->role) ? ", which is a superuser" : "");
}

/* A truck's destination; not connected yet. */
typedef struct OutputCheck
{
	const TruckerTruck *truck;
	MemoryContext context;		/* that the output lives in */
	TruckerOutput *output;
} OutputCheck;

static const char *
check_output(TruckerChecklist *list, void *arg)
{
	OutputCheck *check = arg;
	MemoryContext old = MemoryContextSwitchTo(check->context);

	if (trucker_output_leads_here(check->truck))
	{
		check->output = trucker_output_local(check->truck);
		MemoryContextSwitchTo(old);
		return psprintf("connection \"%s\" leads to this very database: start() makes it \"%s\"",
						check->truck->connection, TRUCKER_CONNECTION_LOCAL);
	}
	check->output = trucker_output_create(check->truck);
	MemoryContextSwitchTo(old);
	return psprintf("connection \"%s\"", check->truck->connection);
}

static List *
check_truck(TruckerChecklist *list, const TruckerTruck *truck)
{
	OutputCheck destination = {truck, CurrentMemoryContext, NULL};
	List	   *written = NIL;

	/* without its role nothing of the truck's can be looked at */
	if (!trucker_checklist_run(list, psprintf("truck \"%s\": role", truck->name), check_role,
							   unconstify(TruckerTruck *, truck)))
		return NIL;
	if (!trucker_checklist_run(list, psprintf("truck \"%s\": destination", truck->name), check_output, &destination))
		return NIL;
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < truck->ninputs; i++)
		check_input(list, truck, destination.output, truck->inputs[i], &written);
	destination.output->routine->rollback(destination.output);
	PopActiveSnapshot();
	return written;
}

/* The SQL that is generated for an input of a truck with the option output_table. */
char *
trucker_check_generated(const TruckerTruck *truck, Oid relid)
{
	TruckerOutput *output = trucker_output_create(truck);
	Relation	rel = try_relation_open(relid, AccessShareLock);
	TruckerIdentity saved;
	char	   *sql;

	if (rel == NULL)
		trucker_raise_dropped(truck->name, relid);
	trucker_truck_check_role(truck);
	trucker_check_input_rights(truck, rel);
	PushActiveSnapshot(GetTransactionSnapshot());
	trucker_identity_push(&saved, truck->role,
						  SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
						  truck->search_path);
	sql = trucker_program_output_sql(trucker_program_create(truck, output, rel), TRUCKER_INSERT);
	trucker_identity_pop(&saved);
	PopActiveSnapshot();
	output->routine->rollback(output);
	relation_close(rel, NoLock);
	return sql;
}

/*
 * Check one truck; raises an error for the first thing that is wrong.  Returns the
 * tables (Oid) that its plans write.
 */
List *
trucker_check_truck(const TruckerTruck *truck)
{
	return check_truck(NULL, truck);
}

/* ----
 * What start() looks at in its own way, for a list
 * ----
 */

/* A lost truck cannot be started: raises an error that says what to do. */
void
trucker_check_not_lost(const TruckerTruck *truck, int elevel)
{
	for (int i = 0; truck->lost && elevel >= ERROR && i < truck->ninputs; i++)
		if (get_rel_name(truck->inputs[i]) == NULL)
			trucker_raise_dropped(truck->name, truck->inputs[i]);
	if (truck->restored)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" was restored from a dump, and its position was not", truck->name),
				 errhint("SELECT trucker.resync(%s) makes it run its reset_sql and load the destination anew when it starts.",
						 quote_literal_cstr(truck->name))));
	else if (truck->lost)
		ereport(elevel,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" is lost: it cannot go on from its position", truck->name),
				 errhint("SELECT trucker.resync(%s) loads the destination anew.",
						 quote_literal_cstr(truck->name))));
}

static const char *
check_state(TruckerChecklist *list, void *arg)
{
	const TruckerTruck *truck = arg;

	trucker_check_not_lost(truck, ERROR);
	if (truck->failed)
	{
		trucker_checklist_warn(list, psprintf("truck \"%s\" has failed", truck->name),
							   "trucker.status shows the error.",
							   psprintf("Remove the cause, then SELECT trucker.start(%s);", quote_literal_cstr(truck->name)));
		return NULL;
	}
	if (truck->needs_backfill)
		return truck->enabled ? "started; its backfill is not complete" : "never started, or to be loaded anew";
	return truck->enabled ? "started" : "stopped";
}

typedef struct LoopCheck
{
	const TruckerTruck *truck;
	List	   *written;
} LoopCheck;

static const char *
check_loop(TruckerChecklist *list, void *arg)
{
	LoopCheck  *loop = arg;

	trucker_lineage_check_planned(&loop->truck->id, loop->written);
	return "its plans close none with trucks that are started";
}

/* Tell all that there is to tell of a truck. */
void
trucker_check_list_truck(TruckerChecklist *list, const TruckerTruck *truck)
{
	LoopCheck	loop = {truck, NIL};

	(void) trucker_checklist_run(list, psprintf("truck \"%s\": state", truck->name), check_state,
								 unconstify(TruckerTruck *, truck));
	loop.written = check_truck(list, truck);
	(void) trucker_checklist_run(list, psprintf("truck \"%s\": loops", truck->name), check_loop, &loop);
}
