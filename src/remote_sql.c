/*
 * remote_sql.c
 *	  What can be told of SQL whose tables are elsewhere: from its parse tree.
 *
 * In this database r is a relation that the executor gets beside the query.  No other
 * server can be given one like that.  There r becomes a WITH query of each statement
 * that reads it:
 *
 *	  INSERT INTO t SELECT id FROM r
 *	  WITH r AS NOT MATERIALIZED (SELECT ...) INSERT INTO t SELECT id FROM r
 *
 * which is right in SELECT, INSERT, UPDATE, DELETE and MERGE, and wherever in them r is
 * named; the planner puts its query in place.  CALL can read no relation.  A temporary
 * table of that name would do as well, but for trucks of several inputs, whose runs
 * have different columns: each change of the table behind the name would leave dead
 * rows in the catalogs there, and make all plans void.
 *
 * The statements cannot be analysed here, so which columns of r they read is told from
 * the names that occur: too many sometimes, too few never.
 */
#include "trucker.h"

#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"

#include "remote_sql.h"

static RawStmt *
parse(const char *statement)
{
	return linitial_node(RawStmt, raw_parser(statement, RAW_PARSE_DEFAULT));
}

static bool
is_rows(const Node *node)
{
	const RangeVar *var = (const RangeVar *) node;

	return IsA(node, RangeVar) && var->schemaname == NULL && var->catalogname == NULL &&
		strcmp(var->relname, TRUCKER_ROW_RELATION) == 0;
}

static bool
reads_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (is_rows(node))
		return true;
	return raw_expression_tree_walker(node, reads_walker, context);
}

/* Does a statement name r? */
bool
trucker_sql_reads_rows(const char *statement)
{
	Node	   *stmt = parse(statement)->stmt;

	/* the server's tree walker does not know CALL, whose arguments cannot be queries */
	return !IsA(stmt, CallStmt) && !IsA(stmt, TruncateStmt) && reads_walker(stmt, NULL);
}

/* ----
 * r as a WITH query
 * ----
 */

static WithClause *
with_clause(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_SelectStmt:
			return ((SelectStmt *) stmt)->withClause;
		case T_InsertStmt:
			return ((InsertStmt *) stmt)->withClause;
		case T_UpdateStmt:
			return ((UpdateStmt *) stmt)->withClause;
		case T_DeleteStmt:
			return ((DeleteStmt *) stmt)->withClause;
		case T_MergeStmt:
			return ((MergeStmt *) stmt)->withClause;
		default:
			return NULL;
	}
}

static void
refuse_other_rows(const WithClause *with)
{
	ListCell   *lc;

	foreach(lc, with->ctes)
		if (strcmp(lfirst_node(CommonTableExpr, lc)->ctename, TRUCKER_ROW_RELATION) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_ALIAS),
					 errmsg("a WITH query of output_sql is called \"%s\"", TRUCKER_ROW_RELATION),
					 errdetail("That is the name of the relation that holds the changes."),
					 errhint("Call it otherwise.")));
}

/* A statement that reads r, with the query that r stands for put in front. */
char *
trucker_sql_with_rows(const char *statement, const char *rows_query)
{
	WithClause *with = with_clause(parse(statement)->stmt);
	StringInfoData sql;
	int			first;

	initStringInfo(&sql);
	if (with == NULL)
	{
		appendStringInfo(&sql, "WITH %s AS NOT MATERIALIZED (%s) %s",
						 TRUCKER_ROW_RELATION, rows_query, statement);
		return sql.data;
	}
	refuse_other_rows(with);
	first = linitial_node(CommonTableExpr, with->ctes)->location;
	appendBinaryStringInfo(&sql, statement, with->location);
	appendStringInfo(&sql, "WITH %s%s AS NOT MATERIALIZED (%s), %s",
					 with->recursive ? "RECURSIVE " : "", TRUCKER_ROW_RELATION, rows_query,
					 statement + first);
	return sql.data;
}

/* ----
 * Which tables are written
 * ----
 */

static List *
add_target(List *targets, const RangeVar *table)
{
	char	   *name = quote_qualified_identifier(table->schemaname, table->relname);
	ListCell   *lc;

	foreach(lc, targets)
		if (strcmp(lfirst(lc), name) == 0)
			return targets;
	return lappend(targets, name);
}

static List *
add_targets(List *targets, Node *stmt)
{
	WithClause *with = with_clause(stmt);
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_InsertStmt:
			targets = add_target(targets, ((InsertStmt *) stmt)->relation);
			break;
		case T_UpdateStmt:
			targets = add_target(targets, ((UpdateStmt *) stmt)->relation);
			break;
		case T_DeleteStmt:
			targets = add_target(targets, ((DeleteStmt *) stmt)->relation);
			break;
		case T_MergeStmt:
			targets = add_target(targets, ((MergeStmt *) stmt)->relation);
			break;
		case T_TruncateStmt:
			foreach(lc, ((TruncateStmt *) stmt)->relations)
				targets = add_target(targets, lfirst(lc));
			break;
		default:
			break;
	}
	/* only here may a WITH query write */
	foreach(lc, with ? with->ctes : NIL)
		targets = add_targets(targets, lfirst_node(CommonTableExpr, lc)->ctequery);
	return targets;
}

/* Add to names, as SQL writes them, those of the tables that statements (char *) write. */
List *
trucker_sql_add_targets(List *targets, List *statements)
{
	ListCell   *lc;

	foreach(lc, statements)
		targets = add_targets(targets, parse(lfirst(lc))->stmt);
	return targets;
}

/* ----
 * Which columns are read
 * ----
 */

typedef struct Names
{
	List	   *aliases;		/* other names for r, or for joins that may hold it */
	List	   *columns;		/* names that may be r's columns */
	bool		stars;			/* would a bare * mean r's columns, too? */
	bool		all;			/* all columns are read */
} Names;

static bool
contains(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

static bool
alias_walker(Node *node, Names *names)
{
	Alias	   *alias = NULL;

	if (node == NULL)
		return false;
	if (is_rows(node))
		alias = ((RangeVar *) node)->alias;
	else if (IsA(node, JoinExpr))
		alias = ((JoinExpr *) node)->alias;
	if (alias)
		names->aliases = lappend(names->aliases, alias->aliasname);
	/* a list of other names counts r's columns from the first on */
	names->all |= alias && alias->colnames != NIL;
	return raw_expression_tree_walker(node, alias_walker, names);
}

/* Does r stand in a FROM list, not counting the queries in it? */
static bool
from_holds_rows(List *from)
{
	ListCell   *lc;

	foreach(lc, from)
	{
		Node	   *item = lfirst(lc);

		if (is_rows(item))
			return true;
		if (IsA(item, JoinExpr) &&
			from_holds_rows(list_make2(((JoinExpr *) item)->larg, ((JoinExpr *) item)->rarg)))
			return true;
	}
	return false;
}

static void
note_column_ref(const ColumnRef *ref, Names *names)
{
	Node	   *last = llast(ref->fields);
	const char *first = IsA(linitial(ref->fields), String) ? strVal(linitial(ref->fields)) : NULL;

	if (IsA(last, A_Star))
		names->all |= first == NULL ? names->stars : contains(names->aliases, first);
	else if (list_length(ref->fields) == 1 && contains(names->aliases, first))
		names->all = true;		/* the whole row */
	else
		names->columns = lappend(names->columns, strVal(last));
}

static bool names_walker(Node *node, Names *names);

/* Walk a statement in which a bare * means what stands in its FROM list. */
static bool
walk_statement(Node *node, List *from, Names *names)
{
	bool		saved = names->stars;
	bool		result;

	names->stars = from_holds_rows(from);
	result = raw_expression_tree_walker(node, names_walker, names);
	names->stars = saved;
	return result;
}

static bool
names_walker(Node *node, Names *names)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_ColumnRef:
			note_column_ref((ColumnRef *) node, names);
			return false;
		case T_SelectStmt:
			return walk_statement(node, ((SelectStmt *) node)->fromClause, names);
		case T_UpdateStmt:
			return walk_statement(node, ((UpdateStmt *) node)->fromClause, names);
		case T_DeleteStmt:
			return walk_statement(node, ((DeleteStmt *) node)->usingClause, names);
		case T_MergeStmt:
			/* INSERT DEFAULT VALUES and the like name columns only as targets */
			return walk_statement(node, list_make1(((MergeStmt *) node)->sourceRelation), names);
		case T_JoinExpr:
			names->all |= ((JoinExpr *) node)->isNatural;
			foreach(lc, ((JoinExpr *) node)->usingClause)
				names->columns = lappend(names->columns, strVal(lfirst(lc)));
			break;
		default:
			break;
	}
	return raw_expression_tree_walker(node, names_walker, names);
}

/* The columns of r (from 1) that statements (char *) may read, by their names. */
Bitmapset *
trucker_sql_columns_named(List *statements, TupleDesc desc)
{
	Bitmapset  *columns = NULL;
	ListCell   *lc;

	foreach(lc, statements)
	{
		Node	   *stmt = parse(lfirst(lc))->stmt;
		Names		names = {list_make1(TRUCKER_ROW_RELATION), NIL, false, false};

		if (!trucker_sql_reads_rows(lfirst(lc)))
			continue;
		(void) alias_walker(stmt, &names);
		(void) names_walker(stmt, &names);
		for (int i = 0; i < desc->natts; i++)
			if (names.all || contains(names.columns, NameStr(TupleDescAttr(desc, i)->attname)))
				columns = bms_add_member(columns, i + 1);
	}
	return columns;
}
