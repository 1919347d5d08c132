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
#include "decoder.h"
#include "identity.h"
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

/* What may stop this truck one day. */
static void
warn(const TruckerTruck *truck, const TruckerProgram *program)
{
	const TruckerRelation *relation = program->relation;
	const char *column;
	StringInfoData names;

	if (!truck->inserts_only && !truck->toast_current &&
		trucker_toast_can_occur(relation, program->type, &column))
		ereport(WARNING,
				(errmsg("updates of table %s do not carry large values of column \"%s\" that they leave unchanged",
						relation->name, column),
				 errdetail("If such a row is changed again before the truck has read it from the table, the truck stops."),
				 errhint("%s or create the truck with the option \"toast\": \"current\".",
						 trucker_parts_alter_all(relation))));

	if (!trucker_wal2json.loses_nan)
		return;
	initStringInfo(&names);
	for (int i = 0; i < relation->desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(relation->desc, i);

		if (!attr->attisdropped && trucker_type_can_lose_nan(attr->atttypid) &&
			(trucker_row_type_reads(program->type, TRUCKER_FROM_NEW, attr->attnum) ||
			 trucker_row_type_reads(program->type, TRUCKER_FROM_OLD, attr->attnum)))
			appendStringInfo(&names, "%s\"%s\"", names.len ? ", " : "", NameStr(attr->attname));
	}
	if (names.len > 0)
		ereport(WARNING,
				(errmsg("%s cannot carry NaN and infinity of floating-point and numeric columns",
						trucker_wal2json.plugin),
				 errdetail("They would arrive as NULL.  The SQL reads such columns of table %s: %s.",
						   relation->name, names.data),
				 errhint("Where the column is NOT NULL the truck stops at such a value; elsewhere a CHECK constraint can keep it out.")));
}

static void
check_input(const TruckerTruck *truck, TruckerOutput *output, Oid relid, List **written)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	TruckerIdentity saved;
	TruckerProgram *program;

	if (rel == NULL)
		trucker_raise_dropped(truck->name, relid);
	check_kind(rel);
	trucker_check_input_rights(truck, rel);

	trucker_identity_push(&saved, truck->role,
						  SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
						  truck->search_path);
	program = trucker_program_create(truck, output, rel);
	trucker_program_check_identity(program);
	trucker_program_check(program, written);
	trucker_identity_pop(&saved);

	warn(truck, program);
	trucker_program_free(program);
	relation_close(rel, NoLock);
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
	TruckerOutput *output = trucker_output_create(truck);
	List	   *written = NIL;

	trucker_truck_check_role(truck);
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < truck->ninputs; i++)
		check_input(truck, output, truck->inputs[i], &written);
	output->routine->rollback(output);
	PopActiveSnapshot();
	return written;
}
