/*
 * program.c
 *	  Compile a truck's SQL for one of its input tables.
 *
 * Compiling goes twice over the SQL.  First it is analysed against an r of all
 * possible columns (but those that the truck's options leave out: filter.c); the analysed queries tell which of them it reads.  Then r is
 * narrowed to these, and that is what is planned and run: nothing is converted
 * or stored that nobody reads, and tables of up to 1,600 columns fit.
 *
 * The planner copies r's row count when a statement is analysed, and a plan for
 * one row may be a disaster for 100,000; so one plan is kept for each size
 * class, made when a run of that size first comes along.  Plans follow changes
 * of the tables that they name by themselves, but not of r: when the input
 * table's columns change, the whole program is made anew (pipeline.c sees to
 * that).
 *
 * Only where a template asks for .operation is the SQL rendered for each
 * operation; else a run mixes them, and there is one text.
 */
#include "trucker.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "filter.h"
#include "net.h"
#include "part.h"
#include "program.h"
#include "remote_sql.h"

static char *
render(const TruckerProgram *program, const TruckerTemplate *tmpl,
	   TruckerOperation operation)
{
	TruckerTemplateVars vars;

	vars.rows = TRUCKER_ROW_RELATION;
	vars.operation = trucker_operation_name(operation);
	vars.input_table = program->relation->name;
	return trucker_template_render(tmpl, &vars);
}

/* The statements of input.sql for an operation; NIL if there are none. */
List *
trucker_program_input_statements(const TruckerProgram *program, TruckerOperation operation)
{
	if (program->input_template == NULL)
		return NIL;
	return trucker_script_split(render(program, program->input_template, operation),
								"input_sql", false);
}

/* output.sql for an operation, where r has these columns. */
static char *
output_text(const TruckerProgram *program, TruckerOperation operation, TupleDesc rows)
{
	if (program->output_template == NULL)
		return trucker_target_sql(program->truck, program->target, rows);
	return render(program, program->output_template, operation);
}

/* The statements of truncate_sql, when the input table has been truncated. */
List *
trucker_program_truncate_statements(const TruckerProgram *program)
{
	if (program->truncate_template == NULL)
		return NIL;
	return trucker_script_split(render(program, program->truncate_template, TRUCKER_INSERT),
								"truncate_sql", true);
}

/* A TRUNCATE tells which table, and nothing else. */
static TruckerTemplate *
parse_truncate_sql(const char *sql)
{
	TruckerTemplate *tmpl = trucker_template_parse(sql, "truncate_sql");

	if (trucker_template_uses_rows(tmpl) || trucker_template_uses_operation(tmpl))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("truncate_sql names .rows or .operation"),
				 errdetail("When a table has been truncated, there are no changes of rows."),
				 errhint("The only variable in truncate_sql is .input_table.")));
	return tmpl;
}

static void
parse_templates(TruckerProgram *program, const TruckerTruck *truck)
{
	if (truck->input_sql)
		program->input_template = trucker_template_parse(truck->input_sql, "input_sql");
	if (truck->output_sql)
		program->output_template = trucker_template_parse(truck->output_sql, "output_sql");
	if (truck->truncate_sql)
		program->truncate_template = parse_truncate_sql(truck->truncate_sql);
}

static TruckerScript *
prepare_input(List *statements, const TruckerRows *rows)
{
	TruckerScript *script = trucker_script_prepare(statements, rows);

	if (trucker_script_result(script) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("input_sql returns no rows"),
				 errhint("Its last statement must be a SELECT, or have a RETURNING clause.")));
	return script;
}

/* The operations that the SQL must be compiled for: one, or each. */
int
trucker_program_operations(const TruckerProgram *program)
{
	if (!program->by_operation || program->truck->inserts_only)
		return 1;
	return TRUCKER_OPERATIONS;
}

static void
need_column(TruckerRelation *relation, const TruckerColumn *column)
{
	if (column->source == TRUCKER_FROM_META)
		return;

	/* an unchanged TOAST value of the new row may be found in the old one */
	relation->need_old[column->number - 1] = true;
	if (column->source == TRUCKER_FROM_NEW)
		relation->need_new[column->number - 1] = true;
}

/* Two columns of one name, both read: r.* of a table with a column "old__x". */
static void
refuse_clashes(const TruckerProgram *program)
{
	TupleDesc	desc = program->type->desc;

	for (int i = 0; i < desc->natts; i++)
		for (int j = 0; j < i; j++)
			if (strcmp(NameStr(TupleDescAttr(desc, i)->attname),
					   NameStr(TupleDescAttr(desc, j)->attname)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("the SQL of the truck reads two columns of \"r\" that are called \"%s\"",
								NameStr(TupleDescAttr(desc, i)->attname)),
						 errdetail("One is a column of table %s, the other one is made by trucker.",
								   program->relation->name),
						 errhint("Rename the table's column, or read neither.")));
}

/*
 * SQL names a column that is not there: perhaps one that an option of the truck leaves
 * out.  (An error of ours about columns has no place in the SQL.)
 */
static void
filter_error_callback(void *arg)
{
	const TruckerProgram *program = arg;

	if (program->filtered && geterrcode() == ERRCODE_UNDEFINED_COLUMN &&
		(geterrposition() > 0 || getinternalerrposition() > 0 || !program->output->routine->is_local))
		errhint("%s", program->filtered);
}

/*
 * Which columns of r does the SQL read, for any operation?  Where there is an
 * input.sql, only that reads the changes.
 */
static void
narrow(TruckerProgram *program)
{
	TruckerRows rows = {program->full->desc, 1, NULL};
	Bitmapset  *read = NULL;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "trucker analysis",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);

	for (int operation = 0; operation < trucker_program_operations(program); operation++)
	{
		List	   *input = trucker_program_input_statements(program, operation);
		Bitmapset  *columns = input != NIL ?
			trucker_script_columns_read(prepare_input(input, &rows), rows.desc) :
			program->output->routine->columns_read(program->output,
												   output_text(program, operation, rows.desc), rows.desc);

		read = bms_add_members(read, columns);
	}
	MemoryContextSwitchTo(old);
	program->type = trucker_row_type_narrow(program->full, read);
	MemoryContextDelete(scratch);

	refuse_clashes(program);
	for (int i = 0; i < program->type->desc->natts; i++)
	{
		TruckerColumn *column = &program->type->columns[i];

		if (column->name_too_long)
			ereport(ERROR,
					(errcode(ERRCODE_NAME_TOO_LONG),
					 errmsg("the SQL of the truck reads a column of \"r\" whose name is too long"),
					 errdetail("\"old__%s\" has more than %d bytes.",
							   NameStr(TupleDescAttr(program->relation->desc, column->number - 1)->attname),
							   NAMEDATALEN - 1),
					 errhint("Rename the column of table %s, or do not read its old value.",
							 program->relation->name)));
		need_column(program->relation, column);
	}
}

/*
 * Compile the truck's SQL for an open table, as the current user, with an
 * active snapshot.  The program is a child of the current memory context, and
 * keeps truck and output, which must outlive it.
 */
TruckerProgram *
trucker_program_create(const TruckerTruck *truck,
					   TruckerOutput *output, Relation rel)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker program",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TruckerProgram *program = palloc0(sizeof(TruckerProgram));
	ErrorContextCallback callback = {error_context_stack, filter_error_callback, program};

	program->truck = truck;
	program->output = output;
	program->context = context;
	program->relation = trucker_relation_build(rel);
	parse_templates(program, truck);
	program->by_operation = (program->output_template && trucker_template_uses_operation(program->output_template)) ||
		(program->input_template && trucker_template_uses_operation(program->input_template));
	program->full = trucker_row_type_full(program->relation->desc, trucker_filter_excluded(truck, program->relation));
	program->filtered = trucker_filter_describe(truck, program->relation);
	error_context_stack = &callback;
	if (truck->output_sql == NULL)
		program->target = output->routine->describe_table(output, truck->output_table);
	narrow(program);
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(old);
	return program;
}

void
trucker_program_free(TruckerProgram *program)
{
	MemoryContextDelete(program->context);
}

/* output.sql as it is executed for an operation. */
char *
trucker_program_output_sql(TruckerProgram *program, TruckerOperation operation)
{
	List	   *input = trucker_program_input_statements(program, operation);
	TruckerRows rows = {program->full->desc, 1, NULL};

	if (input != NIL)
		rows.desc = trucker_script_result(prepare_input(input, &rows));
	return output_text(program, operation, rows.desc);
}

static int
size_class(double nrows)
{
	int			class = 0;

	for (double limit = 1; limit < nrows && class < TRUCKER_SIZE_CLASSES - 1; limit *= 10)
		class++;
	return class;
}

/* For how many rows are the plans of a run of that size made? */
double
trucker_program_estimate(double nrows)
{
	double		estimate = 1;

	for (int i = size_class(nrows); i > 0; i--)
		estimate *= 10;
	return estimate;
}

static TruckerPlans *
make_plans(TruckerProgram *program, TruckerOperation operation, double nrows)
{
	TruckerPlans *plans = palloc0(sizeof(TruckerPlans));
	List	   *input = trucker_program_input_statements(program, operation);
	TruckerRows rows = {program->type->desc, nrows, NULL};

	if (input != NIL)
	{
		plans->input = prepare_input(input, &rows);
		rows.desc = trucker_script_result(plans->input);
	}
	plans->result = rows.desc;
	plans->output = program->output->routine->prepare(program->output,
													  output_text(program, operation, plans->input ? rows.desc : program->full->desc),
													  &rows);
	return plans;
}

/*
 * The plans for a run of this operation and size, made if need be, with the
 * current user's rights and an active snapshot.
 */
TruckerPlans *
trucker_program_plans(TruckerProgram *program, TruckerOperation operation,
					  double nrows)
{
	int			which = program->by_operation ? operation : TRUCKER_INSERT;
	int			class = size_class(nrows);
	TruckerPlans **plans = &program->plans[which][class];

	if (*plans == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(program->context);

		*plans = make_plans(program, which, trucker_program_estimate(nrows));
		MemoryContextSwitchTo(old);
	}
	return *plans;
}

/*
 * May the truck's role read all of an input table?  r is not subject to any check
 * of the server's, so this is ours to ask, and again in every batch.
 */
void
trucker_check_input_rights(const TruckerTruck *truck, Relation rel)
{
	char	   *role = GetUserNameFromId(truck->role, false);
	char	   *table = trucker_qualified_name(rel);

	if (pg_class_aclcheck(RelationGetRelid(rel), truck->role, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not read input table %s", role, table),
				 errhint("GRANT SELECT ON %s TO %s;", table, quote_identifier(role))));
	if (check_enable_rls(RelationGetRelid(rel), truck->role, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security of table %s applies to role \"%s\"", table, role),
				 errdetail("A truck reads all rows of its input tables."),
				 errhint("Give the truck a role that row security does not apply to, with the option \"role\".")));
}

static void
check_identity(const TruckerTruck *truck, const TruckerRelation *relation)
{
	if (truck->inserts_only)
		return;
	if (relation->parts_without != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partitions of table %s have no replica identity", relation->name),
				 errdetail("Their updates and deletes would not reach the truck."),
				 errhint("Add a primary key, or: %s", trucker_parts_alter(relation->parts_without))));
	if (relation->identity != NULL || relation->identity_full)
		return;
	if (relation->parts_not_full != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the partitions of table %s have no column of their replica identities in common", relation->name),
				 errdetail("Rows of the table could not be told apart."),
				 errhint("%s", trucker_parts_alter(relation->parts_not_full))));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s has no replica identity", relation->name),
			 errdetail("Its updates and deletes would not reach the truck."),
			 errhint("Add a primary key, or ALTER TABLE %s REPLICA IDENTITY FULL; or create the truck with the option \"inserts_only\": true.",
					 relation->name)));
}

static void
check_old_columns(const TruckerTruck *truck, const TruckerProgram *program)
{
	const TruckerRelation *relation = program->relation;

	if (truck->inserts_only || relation->identity_full)
		return;
	for (int i = 0; i < program->type->desc->natts; i++)
	{
		TruckerColumn *column = &program->type->columns[i];

		if (column->source != TRUCKER_FROM_OLD ||
			bms_is_member(column->number, relation->identity))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the SQL of truck \"%s\" reads \"old__%s\", which table %s does not log",
						truck->name,
						NameStr(TupleDescAttr(relation->desc, column->number - 1)->attname),
						relation->name),
				 errdetail("Only the columns of the replica identity have old values in the WAL."),
				 errhint("%s", trucker_parts_alter_all(relation))));
	}
}

/*
 * Does the table log what the truck needs?  Raises an error that names the ALTER
 * TABLE to run.
 */
void
trucker_program_check_identity(const TruckerProgram *program)
{
	check_identity(program->truck, program->relation);
	check_old_columns(program->truck, program);
	if (program->truck->net)
		trucker_net_check(program->relation);
}

/* What is written here would not be part of the destination's transaction. */
static void
raise_writes_here(const TruckerTruck *truck, Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("input_sql of truck \"%s\" writes table %s", truck->name,
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid))),
			 errdetail("The truck's output is connection \"%s\", and what it writes there and here could not be committed at once.",
					   truck->connection),
			 errhint("Let input_sql read only.")));
}

/*
 * Plan everything once, check the current user's rights on all that the plans
 * touch, and add the tables (Oid) that they write to *written.
 */
void
trucker_program_check(TruckerProgram *program, List **written)
{
	TruckerOutput *output = program->output;
	ErrorContextCallback callback = {error_context_stack, filter_error_callback, program};

	error_context_stack = &callback;
	for (int operation = 0; operation < trucker_program_operations(program); operation++)
	{
		TruckerRows rows = {program->type->desc, 1, NULL};
		TruckerPlans *plans = trucker_program_plans(program, operation, 1);

		if (plans->input)
			*written = list_concat_unique_oid(*written, trucker_script_check_plans(plans->input, &rows));
		if (!output->routine->is_local && *written != NIL)
			raise_writes_here(program->truck, linitial_oid(*written));
		rows.desc = plans->result;
		*written = list_concat_unique_oid(*written, output->routine->check(output, plans->output, &rows));
	}
	error_context_stack = callback.previous;
	*written = list_concat_unique_oid(*written,
									  output->routine->check_statements(output, trucker_program_truncate_statements(program)));
}

/*
 * What can be said of a truck's SQL from the names of its tables alone: the
 * templates, the syntax, the kinds of statements.  Raises an error.
 */
void
trucker_program_check_syntax(const TruckerTruck *truck)
{
	TruckerRelation relation;
	TruckerProgram program;
	int			input_count = 0;
	int			output_count = 0;
	int			truncate_count = 0;

	memset(&relation, 0, sizeof(relation));
	memset(&program, 0, sizeof(program));
	program.relation = &relation;
	parse_templates(&program, truck);

	for (int i = 0; i < truck->ninputs; i++)
	{
		relation.name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(truck->inputs[i])),
												   get_rel_name(truck->inputs[i]));
		for (int operation = 0; operation < TRUCKER_OPERATIONS; operation++)
		{
			input_count += list_length(trucker_program_input_statements(&program, operation));
			if (truck->output_sql)
				output_count += list_length(trucker_script_split(render(&program, program.output_template, operation),
																 "output_sql", false));
		}
		truncate_count += list_length(trucker_program_truncate_statements(&program));
	}
	if ((truck->input_sql && input_count == 0) || (truck->output_sql && output_count == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is empty", truck->output_sql && output_count == 0 ? "output_sql" : "input_sql"),
				 errdetail("It holds no statement, for any input table and operation.")));
	if (truck->truncate_sql && truncate_count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("truncate_sql is empty"),
				 errdetail("It holds no statement, for any input table."),
				 errhint("To pass over TRUNCATE, create the truck with the option \"on_truncate\": \"ignore\".")));
	if (truck->output_table)
		(void) trucker_target_name(truck->output_table);
	if (truck->reset_sql)
		(void) trucker_script_split(truck->reset_sql, "reset_sql", true);
}

/*
 * The tables (char *) that the truck's SQL names as those which it writes, as it writes
 * their names: for any input table and operation.
 */
List *
trucker_program_targets(const TruckerTruck *truck)
{
	TruckerRelation relation;
	TruckerProgram program;
	List	   *targets = truck->output_table ? list_make1(trucker_target_name(truck->output_table)) : NIL;

	memset(&relation, 0, sizeof(relation));
	memset(&program, 0, sizeof(program));
	program.relation = &relation;
	parse_templates(&program, truck);
	for (int i = 0; i < truck->ninputs; i++)
	{
		char	   *name = get_rel_name(truck->inputs[i]);

		if (name == NULL)
			continue;
		relation.name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(truck->inputs[i])), name);
		for (int operation = 0; truck->output_sql && operation < TRUCKER_OPERATIONS; operation++)
			targets = trucker_sql_add_targets(targets, trucker_script_split(render(&program, program.output_template, operation),
																			"output_sql", false));
		targets = trucker_sql_add_targets(targets, trucker_program_truncate_statements(&program));
	}
	return targets;
}
