/*
 * script.c
 *	  Run SQL over the relation r.
 *
 * r is an ephemeral named relation over a tuplestore, as a trigger's
 * transition table is.  Its type is known to the parser, no literal is built,
 * and statements are prepared once and kept: a plan survives SPI_finish(), and
 * finds r by name in whatever SPI connection executes it.
 *
 * A file may hold several statements.  SPI would analyse all of them before it
 * runs the first; so they are split here, with the server's own parser, and
 * prepared one by one.  Only statements that read and write rows are allowed:
 * what else they might do (SET, COMMIT, DDL) has no place in a transaction that
 * trucker promises to be exactly once.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/queryenvironment.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "script.h"

/* ----
 * Splitting
 * ----
 */

/* SELECT INTO: in a set operation, INTO stands in the leftmost SELECT. */
static bool
is_select_into(const SelectStmt *select)
{
	while (select->op != SETOP_NONE)
		select = select->larg;
	return select->intoClause != NULL;
}

static bool
is_allowed(Node *stmt, bool allow_truncate)
{
	switch (nodeTag(stmt))
	{
		case T_SelectStmt:
			return !is_select_into((SelectStmt *) stmt);
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
		case T_CallStmt:
			return true;
		case T_TruncateStmt:
			return allow_truncate;
		default:
			return false;
	}
}

/* What is being parsed, for errors. */
typedef struct ParsedText
{
	const char *sql;
	const char *source_name;
} ParsedText;

/* Syntax errors should point into the user's text, not into a call of ours. */
static void
parse_error_callback(void *arg)
{
	ParsedText *text = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(text->sql);
	}
	errcontext("%s", text->source_name);
}

/*
 * Split SQL into its statements (char *), in the current memory context.
 * source_name ("output_sql") is for errors.  Raises an error for SQL that does
 * not parse, and for statements other than SELECT, INSERT, UPDATE, DELETE,
 * MERGE and CALL (and TRUNCATE where that is allowed).
 */
List *
trucker_script_split(const char *sql, const char *source_name,
					 bool allow_truncate)
{
	ParsedText	text = {sql, source_name};
	ErrorContextCallback callback;
	List	   *parsed;
	List	   *statements = NIL;
	ListCell   *lc;

	callback.callback = parse_error_callback;
	callback.arg = &text;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	parsed = raw_parser(sql, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;

	foreach(lc, parsed)
	{
		RawStmt    *raw = lfirst_node(RawStmt, lc);

		if (!is_allowed(raw->stmt, allow_truncate))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s is not allowed in %s",
							IsA(raw->stmt, SelectStmt) ? "SELECT INTO" : GetCommandTagName(CreateCommandTag(raw->stmt)),
							source_name),
					 errhint("Allowed are SELECT, INSERT, UPDATE, DELETE, MERGE and CALL%s.",
							 allow_truncate ? ", and TRUNCATE" : "")));
		statements = lappend(statements,
							 raw->stmt_len > 0 ?
							 pnstrdup(sql + raw->stmt_location, raw->stmt_len) :
							 pstrdup(sql + raw->stmt_location));
	}
	return statements;
}

/* ----
 * Preparing and executing
 * ----
 */

static void
register_rows(const TruckerRows *rows)
{
	EphemeralNamedRelation enr;

	if (rows == NULL)
		return;
	enr = palloc0(sizeof(EphemeralNamedRelationData));
	enr->md.name = pstrdup(TRUCKER_ROW_RELATION);
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = rows->desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = rows->count;
	enr->reldata = rows->store;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register relation \"%s\"", TRUCKER_ROW_RELATION);
}

static void
connect(const TruckerRows *rows)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	register_rows(rows);
}

static void
free_plans(void *arg)
{
	TruckerScript *script = arg;

	for (int i = 0; i < script->n; i++)
		SPI_freeplan(script->plans[i]);
	script->n = 0;
}

/*
 * Prepare statements over r (rows may be NULL: there is no r).  The result
 * belongs to the current memory context.  Needs a transaction and an active
 * snapshot; analysis runs with the current user's rights.
 */
TruckerScript *
trucker_script_prepare(List *statements, const TruckerRows *rows)
{
	TruckerScript *script = palloc0(sizeof(TruckerScript));
	ListCell   *lc;

	script->plans = palloc0(Max(list_length(statements), 1) * sizeof(SPIPlanPtr));
	script->on_reset.func = free_plans;
	script->on_reset.arg = script;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &script->on_reset);

	connect(rows);
	foreach(lc, statements)
	{
		SPIPlanPtr	plan = SPI_prepare(lfirst(lc), 0, NULL);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		script->plans[script->n++] = plan;
	}
	SPI_finish();
	return script;
}

static CachedPlanSource *
only_source(SPIPlanPtr plan)
{
	return linitial(SPI_plan_get_plan_sources(plan));
}

/*
 * The columns that the last statement returns, copied to the current memory
 * context; or NULL if it returns no rows.
 */
TupleDesc
trucker_script_result(const TruckerScript *script)
{
	TupleDesc	desc = script->n == 0 ? NULL :
		only_source(script->plans[script->n - 1])->resultDesc;

	return desc ? CreateTupleDescCopy(desc) : NULL;
}

/*
 * Run all statements in order.  What the last one returns goes to result, if
 * that is not NULL; all else that is returned is thrown away.  A plan may be
 * made anew while it is executed; should it then return other columns than
 * result_desc, that is an error, since others have been planned for those.
 */
void
trucker_script_execute(const TruckerScript *script, const TruckerRows *rows,
					   Tuplestorestate *result, TupleDesc result_desc)
{
	MemoryContext result_context = CurrentMemoryContext;

	connect(rows);
	for (int i = 0; i < script->n; i++)
	{
		bool		keep = result != NULL && i == script->n - 1;
		SPIExecuteOptions options;
		int			rc;

		memset(&options, 0, sizeof(options));
		options.dest = keep ? CreateTuplestoreDestReceiver() : None_Receiver;
		if (keep)
			SetTuplestoreDestReceiverParams(options.dest, result, result_context,
											false, result_desc,
											"the columns that input_sql returns have changed");
		rc = SPI_execute_plan_extended(script->plans[i], &options);
		if (rc < 0)
			elog(ERROR, "could not execute a statement: %s", SPI_result_code_string(rc));
		if (keep)
			options.dest->rDestroy(options.dest);
	}
	SPI_finish();
}

/*
 * Prepare and run statements without an r, one by one: a TRUNCATE must have run
 * before what follows it is planned.  Plans belong to the current memory context.
 */
void
trucker_script_run(List *statements)
{
	ListCell   *lc;

	foreach(lc, statements)
		trucker_script_execute(trucker_script_prepare(list_make1(lfirst(lc)), NULL),
							   NULL, NULL, NULL);
}

/* ----
 * What the statements read
 * ----
 */

typedef struct ReadContext
{
	List	   *rtables;		/* range tables, innermost query's first */
	TupleDesc	desc;			/* of r */
	Bitmapset  *columns;
} ReadContext;

static bool read_walker(Node *node, ReadContext *context);

static void
read_var(const Var *var, ReadContext *context)
{
	List	   *rtable = list_nth(context->rtables, var->varlevelsup);
	RangeTblEntry *rte = rt_fetch(var->varno, rtable);

	if (rte->rtekind == RTE_NAMEDTUPLESTORE &&
		strcmp(rte->enrname, TRUCKER_ROW_RELATION) == 0)
	{
		if (var->varattno > 0)
			context->columns = bms_add_member(context->columns, var->varattno);
		else
			context->columns = bms_add_range(context->columns, 1, context->desc->natts);
	}
	else if (rte->rtekind == RTE_JOIN)
	{
		/* a merged column (FULL JOIN ... USING), or the join's whole row */
		List	   *saved = context->rtables;
		ListCell   *lc;
		int			number = 0;

		context->rtables = list_copy_tail(saved, var->varlevelsup);
		foreach(lc, rte->joinaliasvars)
		{
			number++;
			if (var->varattno == 0 || var->varattno == number)
				read_walker(lfirst(lc), context);
		}
		context->rtables = saved;
	}
}

/*
 * How many of r's columns stand in a list of other names?  (The range table entry
 * of such a relation does not say that it has an alias.)
 */
static int
count_aliases(const RangeTblEntry *rte, TupleDesc desc)
{
	ListCell   *lc;
	int			number = 0;
	int			aliases = 0;

	foreach(lc, rte->eref->colnames)
	{
		if (number < desc->natts &&
			strcmp(strVal(lfirst(lc)), NameStr(TupleDescAttr(desc, number)->attname)) != 0)
			aliases = number + 1;
		number++;
	}
	return aliases;
}

/*
 * FROM r AS x(a, b): the list of names counts r's columns from the first on, so
 * these must stay what they are.  A join's list counts through both its sides.
 */
static void
read_aliased(List *rtable, ReadContext *context)
{
	ListCell   *lc;

	foreach(lc, rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		int			aliases = 0;

		if (rte->rtekind == RTE_JOIN && rte->alias && rte->alias->colnames != NIL)
			aliases = context->desc->natts;
		else if (rte->rtekind == RTE_NAMEDTUPLESTORE &&
				 strcmp(rte->enrname, TRUCKER_ROW_RELATION) == 0)
			aliases = count_aliases(rte, context->desc);
		if (aliases > 0)
			context->columns = bms_add_range(context->columns, 1, aliases);
	}
}

static bool
read_walker(Node *node, ReadContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		read_var((Var *) node, context);
		return false;
	}
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		bool		result;

		context->rtables = lcons(query->rtable, context->rtables);
		read_aliased(query->rtable, context);
		result = query_tree_walker(query, read_walker, context, QTW_IGNORE_JOINALIASES);
		context->rtables = list_delete_first(context->rtables);
		return result;
	}
	return expression_tree_walker(node, read_walker, context);
}

/*
 * The columns of r (from 1) that the statements read; desc is what they were
 * prepared for.  A reference to the whole row counts as all.
 */
Bitmapset *
trucker_script_columns_read(const TruckerScript *script, TupleDesc desc)
{
	ReadContext context = {NIL, desc, NULL};

	for (int i = 0; i < script->n; i++)
	{
		ListCell   *lc;

		foreach(lc, only_source(script->plans[i])->query_list)
			read_walker(lfirst(lc), &context);
	}
	return context.columns;
}

/*
 * Plan all statements, check that the current user may run them, and return
 * the tables (Oid) that the plans write.
 */
List *
trucker_script_check_plans(const TruckerScript *script, const TruckerRows *rows)
{
	MemoryContext result_context = CurrentMemoryContext;
	List	   *written = NIL;

	connect(rows);
	for (int i = 0; i < script->n; i++)
	{
		CachedPlan *plan = SPI_plan_get_cached_plan(script->plans[i]);
		ListCell   *lc;

		foreach(lc, plan->stmt_list)
		{
			PlannedStmt *stmt = lfirst_node(PlannedStmt, lc);
			MemoryContext old;
			ListCell   *lc2;

			if (stmt->commandType == CMD_UTILITY)
				continue;
			ExecCheckRTPerms(stmt->rtable, true);
			old = MemoryContextSwitchTo(result_context);
			foreach(lc2, stmt->resultRelations)
				written = list_append_unique_oid(written, rt_fetch(lfirst_int(lc2), stmt->rtable)->relid);
			MemoryContextSwitchTo(old);
		}
		ReleaseCachedPlan(plan, CurrentResourceOwner);
	}
	SPI_finish();
	return written;
}

/* The tables (Oid) that a TRUNCATE reaches; the current user must be able to. */
static List *
check_truncate(const TruncateStmt *stmt)
{
	List	   *reached = NIL;
	List	   *more;
	ListCell   *lc;

	foreach(lc, stmt->relations)
	{
		RangeVar   *table = lfirst_node(RangeVar, lc);
		Oid			relid = RangeVarGetRelid(table, AccessShareLock, false);
		AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_TRUNCATE);

		if (result != ACLCHECK_OK)
			aclcheck_error(result, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
		reached = list_concat_unique_oid(reached, table->inh ?
										 find_all_inheritors(relid, AccessShareLock, NULL) : list_make1_oid(relid));
	}
	while (stmt->behavior == DROP_CASCADE && (more = heap_truncate_find_FKs(reached)) != NIL)
		reached = list_concat(reached, more);
	return reached;
}

/* trucker_script_check_plans() for statements that trucker_script_run() will run. */
List *
trucker_script_check_statements(List *statements)
{
	List	   *written = NIL;
	ListCell   *lc;

	foreach(lc, statements)
	{
		RawStmt    *raw = linitial_node(RawStmt, raw_parser(lfirst(lc), RAW_PARSE_DEFAULT));
		List	   *more = IsA(raw->stmt, TruncateStmt) ?
			check_truncate((TruncateStmt *) raw->stmt) :
			trucker_script_check_plans(trucker_script_prepare(list_make1(lfirst(lc)), NULL), NULL);

		written = list_concat_unique_oid(written, more);
	}
	return written;
}

/* ----
 * Showing plans
 * ----
 */

/* Does a statement have a plan?  CALL and TRUNCATE have none. */
bool
trucker_script_is_planned(const char *statement)
{
	Node	   *stmt = linitial_node(RawStmt, raw_parser(statement, RAW_PARSE_DEFAULT))->stmt;

	return !IsA(stmt, CallStmt) && !IsA(stmt, TruncateStmt);
}

/*
 * What EXPLAIN says of a statement over r (rows may be NULL: there is no r; else it
 * must have a store, which is not read), planned with the current user's rights, which
 * are checked.  NULL: it has no plan.
 */
char *
trucker_script_explain(const char *statement, const TruckerRows *rows)
{
	StringInfoData plan;

	if (!trucker_script_is_planned(statement))
		return NULL;
	initStringInfo(&plan);
	connect(rows);
	if (SPI_execute(psprintf("EXPLAIN (VERBOSE, FORMAT TEXT) %s", statement), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "unexpected result of EXPLAIN");
	for (uint64 i = 0; i < SPI_processed; i++)
		appendStringInfo(&plan, "%s%s", i > 0 ? "\n" : "",
						 SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	return plan.data;
}
