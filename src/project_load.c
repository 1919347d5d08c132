/*
 * project_load.c
 *	  trucker.plan() and trucker.load(): a project becomes what this database holds.
 *
 * load() is one transaction, its caller's, and does all as its caller: it makes
 * foreign servers and user mappings as CREATE SERVER and CREATE USER MAPPING would, and
 * trucks as create_truck(), alter_truck() and drop_truck() do; so a truck that runs goes
 * on from its position with its new SQL, and only tables that are added are loaded.
 * Each step runs in a subtransaction, so that the errors of all of them can be told at
 * once; if there is one, all of it is rolled back by the error that tells.
 *
 * The statements are built as trees, not as text: a password in a text would reach
 * error contexts, and what records statements.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "api.h"
#include "checklist.h"
#include "project_files.h"
#include "project_load.h"
#include "project_plan.h"

PG_FUNCTION_INFO_V1(trucker_plan);
PG_FUNCTION_INFO_V1(trucker_load);

static const char *const action_names[] = {
	[TRUCKER_PROJECT_NONE] = "none",
	[TRUCKER_PROJECT_CREATE] = "create",
	[TRUCKER_PROJECT_CHANGE] = "change",
	[TRUCKER_PROJECT_DROP] = "drop",
};

/* ----
 * Statements
 * ----
 */

/* Execute a utility statement; what it is called holds nothing secret. */
static void
execute(Node *statement, const char *called)
{
	PlannedStmt *planned = makeNode(PlannedStmt);

	planned->commandType = CMD_UTILITY;
	planned->canSetTag = false;
	planned->utilityStmt = statement;
	ProcessUtility(planned, called, false, PROCESS_UTILITY_QUERY, NULL, NULL, None_Receiver, NULL);
	CommandCounterIncrement();
}

static RoleSpec *
role_spec(Oid role)
{
	RoleSpec   *spec = makeNode(RoleSpec);

	spec->roletype = ROLESPEC_CSTRING;
	spec->rolename = GetUserNameFromId(role, false);
	spec->location = -1;
	return spec;
}

static void
create_server(const TruckerProjectStep *step)
{
	CreateForeignServerStmt *statement = makeNode(CreateForeignServerStmt);

	statement->servername = pstrdup(step->name);
	statement->fdwname = "trucker";
	statement->options = step->options;
	execute((Node *) statement, psprintf("CREATE SERVER %s FOREIGN DATA WRAPPER trucker", quote_identifier(step->name)));
}

static void
alter_server(const TruckerProjectStep *step)
{
	AlterForeignServerStmt *statement = makeNode(AlterForeignServerStmt);

	statement->servername = pstrdup(step->name);
	statement->options = step->changes;
	execute((Node *) statement, psprintf("ALTER SERVER %s", quote_identifier(step->name)));
}

static void
drop_server(const TruckerProjectStep *step)
{
	DropStmt   *statement = makeNode(DropStmt);

	statement->removeType = OBJECT_FOREIGN_SERVER;
	statement->objects = list_make1(makeString(pstrdup(step->name)));
	statement->behavior = DROP_RESTRICT;
	execute((Node *) statement, psprintf("DROP SERVER %s", quote_identifier(step->name)));
}

static char *
mapping_called(const char *command, const TruckerProjectStep *step)
{
	return psprintf("%s USER MAPPING FOR %s SERVER %s", command,
					quote_identifier(GetUserNameFromId(step->role, false)), quote_identifier(step->name));
}

static void
create_mapping(const TruckerProjectStep *step)
{
	CreateUserMappingStmt *statement = makeNode(CreateUserMappingStmt);

	statement->user = role_spec(step->role);
	statement->servername = pstrdup(step->name);
	statement->options = step->options;
	execute((Node *) statement, mapping_called("CREATE", step));
}

static void
alter_mapping(const TruckerProjectStep *step)
{
	AlterUserMappingStmt *statement = makeNode(AlterUserMappingStmt);

	statement->user = role_spec(step->role);
	statement->servername = pstrdup(step->name);
	statement->options = step->changes;
	execute((Node *) statement, mapping_called("ALTER", step));
}

static void
drop_mapping(const TruckerProjectStep *step)
{
	DropUserMappingStmt *statement = makeNode(DropUserMappingStmt);

	statement->user = role_spec(step->role);
	statement->servername = pstrdup(step->name);
	execute((Node *) statement, mapping_called("DROP", step));
}

/* The role of a user mapping may use the server, or may not any more. */
static void
set_usage(const TruckerProjectStep *step, bool grant)
{
	GrantStmt  *statement = makeNode(GrantStmt);
	AccessPriv *usage = makeNode(AccessPriv);

	usage->priv_name = "usage";
	statement->is_grant = grant;
	statement->targtype = ACL_TARGET_OBJECT;
	statement->objtype = OBJECT_FOREIGN_SERVER;
	statement->objects = list_make1(makeString(pstrdup(step->name)));
	statement->privileges = list_make1(usage);
	statement->grantees = list_make1(role_spec(step->role));
	statement->behavior = DROP_RESTRICT;
	execute((Node *) statement, psprintf("%s USAGE ON FOREIGN SERVER %s", grant ? "GRANT" : "REVOKE",
										 quote_identifier(step->name)));
}

/* ----
 * Steps
 * ----
 */

static void
do_server(const TruckerProjectStep *step)
{
	if (step->action == TRUCKER_PROJECT_CREATE)
		create_server(step);
	else if (step->action == TRUCKER_PROJECT_CHANGE)
		alter_server(step);
	else if (step->action == TRUCKER_PROJECT_DROP)
		drop_server(step);
}

static void
do_mapping(const TruckerProjectStep *step)
{
	if (step->action == TRUCKER_PROJECT_CREATE)
		create_mapping(step);
	else if (step->action == TRUCKER_PROJECT_CHANGE && step->changes)
		alter_mapping(step);
	else if (step->action == TRUCKER_PROJECT_DROP)
	{
		drop_mapping(step);
		set_usage(step, false);
	}
	if (step->grant)
		set_usage(step, true);
}

/* Is the SQL another one?  Then the search_path that it is given with is stored with it. */
static bool
same_sql(const char *a, const char *b)
{
	return (a == NULL) == (b == NULL) && (a == NULL || strcmp(a, b) == 0);
}

static void
alter(const TruckerProjectStep *step)
{
	TruckerTruck *old = trucker_alter_lock(step->name);
	TruckerTruck *truck = palloc(sizeof(TruckerTruck));

	*truck = *old;
	truck->ninputs = step->truck->ninputs;
	truck->inputs = step->truck->inputs;
	if (!same_sql(old->input_sql, step->truck->input_sql) || !same_sql(old->output_sql, step->truck->output_sql))
		truck->search_path = pstrdup(GetConfigOption("search_path", false, false));
	truck->input_sql = step->truck->input_sql;
	truck->output_sql = step->truck->output_sql;
	trucker_alter_options(truck, step->truck->options);
	truck->filters = step->truck->filters;
	truck->filters_restored = false;
	trucker_alter(truck, old, true);
}

static void
do_truck(const TruckerProjectStep *step)
{
	if (step->action == TRUCKER_PROJECT_CREATE)
		trucker_create(step->truck);
	else if (step->action == TRUCKER_PROJECT_CHANGE)
		alter(step);
	else if (step->action == TRUCKER_PROJECT_DROP)
		trucker_drop(trucker_truck_get(step->name));
}

typedef struct Execution
{
	const TruckerProject *project;
	const TruckerProjectStep *step;
} Execution;

static const char *
do_step(TruckerChecklist *list, void *arg)
{
	Execution  *execution = arg;
	const TruckerProjectStep *step = execution->step;

	if (step->kind == TRUCKER_PROJECT_CONNECTION)
		do_server(step);
	else if (step->kind == TRUCKER_PROJECT_MAPPING)
		do_mapping(step);
	else
		do_truck(step);
	if (step->action == TRUCKER_PROJECT_CREATE)
		trucker_project_note(execution->project->id, step->kind, step->name, step->role);
	else if (step->action == TRUCKER_PROJECT_DROP)
		trucker_project_forget(step->kind, step->name, step->role);
	return NULL;
}

/* Who is to be named when a step fails: the truck's folder, or the file that defines connections. */
static const char *
where(const TruckerProject *project, const TruckerProjectStep *step)
{
	ListCell   *lc;

	foreach(lc, project->trucks)
	{
		const TruckerProjectTruck *truck = lfirst(lc);

		if (step->kind == TRUCKER_PROJECT_TRUCK && strcmp(truck->name, step->name) == 0)
			return truck->folder;
	}
	return psprintf("%s: %s \"%s\"", TRUCKER_PROJECT_FILE, trucker_project_kind_name(step->kind), step->name);
}

/* Take all steps; an error if one of them fails. */
static void
carry_out(TruckerProject *project, List *steps)
{
	ListCell   *lc;

	trucker_project_take_over(project->id, project->dir);
	foreach(lc, steps)
	{
		Execution	execution = {project, lfirst(lc)};
		const char *result;
		ErrorData  *error;

		if (execution.step->action == TRUCKER_PROJECT_NONE)
			continue;
		error = trucker_checklist_try(do_step, &execution, &result);
		if (error)
			trucker_project_caught(project, where(project, execution.step), error);
	}
	trucker_project_raise(project);
}

/* ----
 * The functions
 * ----
 */

/* What a row calls it. */
static char *
name_of(const TruckerProjectStep *step)
{
	return step->kind == TRUCKER_PROJECT_MAPPING ?
		psprintf("%s for %s", step->name, GetUserNameFromId(step->role, true) ? GetUserNameFromId(step->role, true) : "?") :
		pstrdup(step->name);
}

static void
put_rows(ReturnSetInfo *rsinfo, List *steps)
{
	ListCell   *lc;

	foreach(lc, steps)
	{
		const TruckerProjectStep *step = lfirst(lc);
		Datum		values[4];
		bool		nulls[4] = {false, false, false, step->detail == NULL || step->detail[0] == '\0'};

		values[0] = CStringGetTextDatum(trucker_project_kind_name(step->kind));
		values[1] = CStringGetTextDatum(name_of(step));
		values[2] = CStringGetTextDatum(action_names[step->action]);
		values[3] = nulls[3] ? (Datum) 0 : CStringGetTextDatum(step->detail);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * A project, and the steps that it takes, in a database that is as it is now.  Errors
 * of files come first, by themselves: what they mean for the database is not known.
 */
static TruckerProject *
read_and_plan(const char *dir, List **steps)
{
	TruckerProject *project = trucker_project_load(dir);

	*steps = trucker_project_plan(project);
	trucker_project_raise(project);
	return project;
}

/* plan(dir) */
Datum
trucker_plan(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *steps;

	InitMaterializedSRF(fcinfo, 0);
	(void) read_and_plan(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)), &steps);
	put_rows(rsinfo, steps);
	return (Datum) 0;
}

/*
 * A project is loaded by who has called for it, not by whose function, index or view
 * an operation happens to run.
 */
static void
refuse_restricted(void)
{
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot load a project within a security-restricted operation")));
}

/*
 * A position that is dropped is gone, and start() is called for another reason: the
 * folder of a truck may be missing for the moment of a checkout.
 */
static List *
leave_drops(List *steps)
{
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, steps)
	{
		TruckerProjectStep *step = lfirst(lc);

		if (step->action != TRUCKER_PROJECT_DROP)
			rest = lappend(rest, step);
		else if (step->kind == TRUCKER_PROJECT_TRUCK)
			ereport(WARNING,
					(errmsg("truck \"%s\" is not in the project any more, and stays as it is", step->name),
					 errhint("SELECT * FROM trucker.load() drops it.")));
	}
	return rest;
}

/* The steps that have been taken; without drops, what is not in the project any more stays. */
static List *
load(const char *dir, bool drops)
{
	TruckerProject *project;
	List	   *steps;

	PreventCommandDuringRecovery("trucker.load()");
	refuse_restricted();
	trucker_project_check_rights();
	trucker_project_lock();
	project = read_and_plan(dir, &steps);
	if (!drops)
		steps = leave_drops(steps);
	carry_out(project, steps);
	return steps;
}

/* load(dir) */
Datum
trucker_load(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	put_rows(rsinfo, load(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)), true));
	return (Datum) 0;
}

/* Could the caller call load()? */
static bool
may_load(void)
{
	Oid			argument = TEXTOID;
	Oid			function = LookupFuncName(list_make2(makeString(TRUCKER_SCHEMA), makeString("load")), 1, &argument, true);

	return trucker_project_may_read() && OidIsValid(function) &&
		pg_proc_aclcheck(function, GetUserId(), ACL_EXECUTE) == ACLCHECK_OK;
}

/*
 * start() loads the project of trucker.project_dir first, if there is one and its
 * caller may load it; what changes is told.  Who may not starts what is there.  It
 * drops nothing.
 */
void
trucker_project_load_first(void)
{
	ListCell   *lc;

	if (trucker_project_dir_setting == NULL || trucker_project_dir_setting[0] == '\0' ||
		InSecurityRestrictedOperation() || !may_load())
		return;
	foreach(lc, load(NULL, false))
	{
		const TruckerProjectStep *step = lfirst(lc);

		if (step->action != TRUCKER_PROJECT_NONE)
			ereport(NOTICE,
					(errmsg("project: %s %s \"%s\"", action_names[step->action], trucker_project_kind_name(step->kind),
							name_of(step))));
	}
}
