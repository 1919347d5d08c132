/*
 * project_plan.c
 *	  What must be done so that this database is as a project says.
 *
 * The steps are in the order in which load() takes them: foreign servers before user
 * mappings before the trucks that write there; and what goes away, the other way
 * round.  Nothing is changed here, so plan() works on a standby, too.
 *
 * Which connections of trucker.yml become foreign servers:
 *
 * - those that do not lead to this very database.  Of one that a truck reads from that
 *	 is found out by connecting (project_connection.c); it must lead here.  Of the
 *	 others it is not, since the other end may be down: start() tells when it gets
 *	 there, and makes such a truck "local"
 * - each with a user mapping for its owner, and one for each role that a truck writes
 *	 there as, which also gets USAGE
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "checklist.h"
#include "connection.h"
#include "project_plan.h"

typedef struct Planning
{
	TruckerProject *project;
	List	   *objects;		/* what projects have made */
	List	   *served;			/* connections that have a foreign server */
	List	   *steps;
} Planning;

/*
 * Add an error that was raised while something of the project was looked at; where is
 * the folder or file that it is about.
 */
void
trucker_project_caught(TruckerProject *project, const char *where, const ErrorData *error)
{
	static const char *const arguments[] = {"input_sql", "output_sql", "truncate_sql", "reset_sql"};
	const char *message = error->message;
	char	   *place = psprintf("%s: ", where);

	/* the message names an argument of create_truck(); here it is a file */
	for (int i = 0; i < lengthof(arguments); i++)
	{
		size_t		len = strlen(arguments[i]);

		if (strncmp(message, arguments[i], len) != 0)
			continue;
		place = psprintf("%s/%.*s.sql", where, (int) (len - strlen("_sql")), arguments[i]);
		message += len;
	}
	trucker_project_error(&project->errors, "%s%s%s%s%s%s", place, message,
						  error->detail ? ".  " : "", error->detail ? error->detail : "",
						  error->hint ? ".  " : "", error->hint ? error->hint : "");
}

/* ----
 * What projects have made
 * ----
 */

static const TruckerProjectObject *
find_object(const Planning *planning, TruckerProjectKind kind, const char *name, Oid role)
{
	ListCell   *lc;

	foreach(lc, planning->objects)
	{
		const TruckerProjectObject *object = lfirst(lc);

		if (object->kind == kind && object->role == role && strcmp(object->name, name) == 0)
			return object;
	}
	return NULL;
}

/* Has this project made it?  A project that has got a unique_id was known by its folder before. */
static bool
is_ours(const TruckerProject *project, const TruckerProjectObject *object)
{
	return object && (strcmp(object->project, project->id) == 0 || strcmp(object->project, project->dir) == 0);
}

/*
 * May the project change what exists under that name?  Complains if somebody else has
 * made it.
 */
static bool
may_change(Planning *planning, TruckerProjectKind kind, const char *name, Oid role, const char *where, const char *shown)
{
	const TruckerProjectObject *object = find_object(planning, kind, name, role);

	if (is_ours(planning->project, object))
		return true;
	trucker_project_error(&planning->project->errors, "%s: %s %s exists already, and was made by %s", where,
						  trucker_project_kind_name(kind), shown,
						  object ? psprintf("project \"%s\"", object->project) : "hand, not by this project");
	return false;
}

static TruckerProjectStep *
add_step(Planning *planning, TruckerProjectKind kind, TruckerProjectAction action, const char *name, const char *detail)
{
	TruckerProjectStep *step = palloc0(sizeof(TruckerProjectStep));

	step->kind = kind;
	step->action = action;
	step->name = pstrdup(name);
	step->detail = detail;
	planning->steps = lappend(planning->steps, step);
	return step;
}

/* ----
 * Options of servers and mappings
 * ----
 */

static const char *
option(const List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, name) == 0)
			return defGetString(lfirst(lc));
	return NULL;
}

static void
add_change(List **changes, StringInfo detail, bool secret, DefElem *def, DefElemAction action, const char *old, const char *new)
{
	*changes = lappend(*changes, makeDefElemExtended(NULL, def->defname, action == DEFELEM_DROP ? NULL : copyObject(def->arg), action, -1));
	if (detail->len > 0)
		appendStringInfoChar(detail, '\n');
	if (secret)
		appendStringInfo(detail, "%s: %s", def->defname, action == DEFELEM_DROP ? "removed" : action == DEFELEM_ADD ? "added" : "changed");
	else
		appendStringInfo(detail, "%s: %s -> %s", def->defname, old ? old : "(none)", new ? new : "(none)");
}

/* What ALTER has to do to options; *detail tells of it. */
static List *
compare_options(List *old, List *new, bool secret, char **detail)
{
	StringInfoData text;
	List	   *changes = NIL;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, old)
		if (option(new, ((DefElem *) lfirst(lc))->defname) == NULL)
			add_change(&changes, &text, secret, lfirst(lc), DEFELEM_DROP, defGetString(lfirst(lc)), NULL);
	foreach(lc, new)
	{
		DefElem    *def = lfirst(lc);
		const char *was = option(old, def->defname);

		if (was == NULL)
			add_change(&changes, &text, secret, def, DEFELEM_ADD, NULL, defGetString(def));
		else if (strcmp(was, defGetString(def)) != 0)
			add_change(&changes, &text, secret, def, DEFELEM_SET, was, defGetString(def));
	}
	*detail = text.data;
	return changes;
}

/* "host, port" */
static char *
option_names(const List *options)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, options)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", ((DefElem *) lfirst(lc))->defname);
	return names.data;
}

/* ----
 * Connections
 * ----
 */

typedef struct Attempt
{
	TruckerProjectConnection *connection;
} Attempt;

static const char *
look_where_it_leads(TruckerChecklist *list, void *arg)
{
	(void) trucker_project_is_here(((Attempt *) arg)->connection);
	return NULL;
}

static const char *
check_options(TruckerChecklist *list, void *arg)
{
	trucker_connection_check_options(trucker_project_server_options(((Attempt *) arg)->connection), ForeignServerRelationId);
	trucker_connection_check_options(trucker_project_mapping_options(((Attempt *) arg)->connection), UserMappingRelationId);
	return NULL;
}

/* Try it; what is wrong is told at the place of value.  False: something is. */
static bool
attempt(Planning *planning, TruckerCheck check, TruckerProjectConnection *connection,
		const TruckerProjectValue *value, const char *prefix)
{
	Attempt		arg = {connection};
	const char *result;
	ErrorData  *error = trucker_checklist_try(check, &arg, &result);

	if (error)
		trucker_project_complain(value->file, value->start, "%s%s%s%s%s%s", prefix, error->message,
								 error->detail ? ".  " : "", error->detail ? error->detail : "",
								 error->hint ? ".  " : "", error->hint ? error->hint : "");
	return error == NULL;
}

/* What a truck reads is this database; else it belongs into another one. */
static void
check_input(Planning *planning, const TruckerProjectTruck *truck)
{
	const TruckerProjectValue *value = &truck->input_connection;
	TruckerProjectConnection *connection = value->text ? trucker_project_connection(planning->project, value->text) : NULL;

	if (connection == NULL)
		return;
	if (!attempt(planning, look_where_it_leads, connection, value,
				 "whether the input connection leads to this database cannot be found out: "))
	{
		/* once is enough */
		connection->known_here = connection->is_here = true;
		return;
	}
	if (!connection->is_here)
		trucker_project_complain(value->file, value->start,
								 "input connection %s does not lead to this database, and a truck reads the database that it is in",
								 trucker_project_value_shown(value));
}

/* A role with a user mapping: the server's owner, or a truck's that writes there. */
static List *
mapping_roles(const Planning *planning, const TruckerProjectConnection *connection, Oid owner)
{
	List	   *roles = list_make1_oid(owner);
	ListCell   *lc;

	foreach(lc, planning->steps)
	{
		const TruckerProjectStep *step = lfirst(lc);

		if (step->kind == TRUCKER_PROJECT_TRUCK && step->truck && OidIsValid(step->truck->role) &&
			strcmp(step->truck->connection, connection->name.text) == 0)
			roles = list_append_unique_oid(roles, step->truck->role);
	}
	return roles;
}

static void
plan_mapping(Planning *planning, TruckerProjectConnection *connection, const ForeignServer *server, Oid role)
{
	List	   *wanted = trucker_project_mapping_options(connection);
	HeapTuple	tuple = server ? SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
												 ObjectIdGetDatum(server->serverid)) : NULL;
	const char *name = connection->name.text;
	TruckerProjectStep *step = NULL;

	if (!HeapTupleIsValid(tuple))
		step = add_step(planning, TRUCKER_PROJECT_MAPPING, TRUCKER_PROJECT_CREATE, name,
						psprintf("options: %s", option_names(wanted)));
	else
	{
		char	   *detail;
		List	   *changes;

		ReleaseSysCache(tuple);
		if (!may_change(planning, TRUCKER_PROJECT_MAPPING, name, role, TRUCKER_PROJECT_FILE,
						psprintf("of role \"%s\" for \"%s\"", GetUserNameFromId(role, false), name)))
			return;
		changes = compare_options(GetUserMapping(role, server->serverid)->options, wanted, true, &detail);
		step = add_step(planning, TRUCKER_PROJECT_MAPPING, changes ? TRUCKER_PROJECT_CHANGE : TRUCKER_PROJECT_NONE, name, detail);
		step->changes = changes;
	}
	step->options = wanted;
	step->role = role;
	step->grant = server ? pg_foreign_server_aclcheck(server->serverid, role, ACL_USAGE) != ACLCHECK_OK :
		role != GetUserId() && !superuser_arg(role);
	if (step->grant && step->action == TRUCKER_PROJECT_NONE)
	{
		step->action = TRUCKER_PROJECT_CHANGE;
		step->detail = "the role gets USAGE on the foreign server";
	}
}

/*
 * Somebody else's server would be somebody else's to lead elsewhere, with the password
 * that is put into a mapping for it.
 */
static bool
is_trustworthy(Planning *planning, const TruckerProjectConnection *connection, const ForeignServer *server)
{
	if (server->owner == GetUserId() || superuser_arg(server->owner))
		return true;
	trucker_project_complain(connection->file, connection->name.start,
							 "foreign server \"%s\" belongs to role \"%s\", which could lead it elsewhere", server->servername,
							 GetUserNameFromId(server->owner, true));
	return false;
}

/* The server of a connection, if it has one; mappings follow when the trucks are known. */
static void
plan_server(Planning *planning, TruckerProjectConnection *connection)
{
	List	   *wanted;
	const char *name = connection->name.text;
	ForeignServer *server = GetForeignServerByName(name, true);
	TruckerProjectStep *step;
	char	   *detail;
	List	   *changes;

	if ((connection->user.text == NULL || connection->user.text[0] == '\0') &&
		option(trucker_project_server_options(connection), "service") == NULL)
		trucker_project_complain(connection->file, connection->name.start, "connection %s needs a \"user\"",
								 trucker_project_value_shown(&connection->name));
	if (!attempt(planning, check_options, connection, &connection->name, ""))
		return;
	wanted = trucker_project_server_options(connection);
	if (server == NULL)
	{
		step = add_step(planning, TRUCKER_PROJECT_CONNECTION, TRUCKER_PROJECT_CREATE, name,
						wanted ? psprintf("options: %s", option_names(wanted)) : "");
		step->options = wanted;
		return;
	}
	if (!may_change(planning, TRUCKER_PROJECT_CONNECTION, name, InvalidOid, TRUCKER_PROJECT_FILE,
					trucker_project_value_shown(&connection->name)) ||
		!is_trustworthy(planning, connection, server))
		return;
	changes = compare_options(server->options, wanted, false, &detail);
	step = add_step(planning, TRUCKER_PROJECT_CONNECTION, changes ? TRUCKER_PROJECT_CHANGE : TRUCKER_PROJECT_NONE, name, detail);
	step->options = wanted;
	step->changes = changes;
}

/* Does the connection need a foreign server? */
static bool
needs_server(const TruckerProjectConnection *connection)
{
	return !(connection->known_here && connection->is_here) &&
		!trucker_connection_is_local(connection->name.text);
}

static void
plan_servers(Planning *planning)
{
	ListCell   *lc;

	foreach(lc, planning->project->connections)
	{
		TruckerProjectConnection *connection = lfirst(lc);

		/* the name means this database; another one cannot have it */
		if (trucker_connection_is_local(connection->name.text) &&
			attempt(planning, look_where_it_leads, connection, &connection->name,
					"whether connection \"local\" leads to this database cannot be found out: ") &&
			!connection->is_here)
			trucker_project_complain(connection->file, connection->name.start,
									 "connection \"local\" must lead to this database: the name means that");
		if (!needs_server(connection))
			continue;
		planning->served = lappend(planning->served, connection);
		plan_server(planning, connection);
	}
}

static void
plan_mappings(Planning *planning)
{
	List	   *steps = list_copy(planning->steps);
	List	   *trucks = NIL;
	ListCell   *lc;

	foreach(lc, planning->served)
	{
		TruckerProjectConnection *connection = lfirst(lc);
		ForeignServer *server;
		ListCell   *role;

		server = GetForeignServerByName(connection->name.text, true);
		foreach(role, mapping_roles(planning, connection, server ? server->owner : GetUserId()))
			plan_mapping(planning, connection, server, lfirst_oid(role));
	}
	/* trucks come behind */
	foreach(lc, steps)
		if (((TruckerProjectStep *) lfirst(lc))->kind == TRUCKER_PROJECT_TRUCK)
			trucks = lappend(trucks, lfirst(lc));
	planning->steps = list_concat(list_difference_ptr(planning->steps, trucks), trucks);
}

/* ----
 * Trucks
 * ----
 */

static void
plan_truck(Planning *planning, TruckerProjectTruck *given)
{
	TruckerProject *project = planning->project;
	TruckerTruck *old = trucker_truck_find(given->name);
	TruckerTruck *truck;
	TruckerProjectStep *step;
	char	   *detail;

	if (old && !may_change(planning, TRUCKER_PROJECT_TRUCK, given->name, InvalidOid, given->folder,
						   psprintf("\"%s\"", given->name)))
		return;
	if (old && !has_privs_of_role(GetUserId(), old->owner))
	{
		trucker_project_error(&project->errors, "%s: must be owner of truck \"%s\"", given->folder, given->name);
		return;
	}
	truck = trucker_project_truck(project, given, old);
	if (old == NULL)
	{
		step = add_step(planning, TRUCKER_PROJECT_TRUCK, TRUCKER_PROJECT_CREATE, given->name,
						psprintf("reads %s; writes to connection \"%s\"",
								 trucker_project_table_names(truck->inputs, truck->ninputs), truck->connection));
		step->truck = truck;
		return;
	}
	detail = trucker_project_truck_diff(old, truck);
	step = add_step(planning, TRUCKER_PROJECT_TRUCK, detail[0] ? TRUCKER_PROJECT_CHANGE : TRUCKER_PROJECT_NONE, given->name, detail);
	step->truck = truck;
	step->old = old;
}

/*
 * A truck's connection cannot be altered: another destination is empty, and its
 * position is not there.  But start() may have found that it leads here.
 */
static void
check_same_connection(Planning *planning, const TruckerProjectTruck *given, TruckerProjectStep *step)
{
	const TruckerProjectValue *value = &given->output_connection;
	TruckerProjectConnection *connection = value->text ? trucker_project_connection(planning->project, value->text) : NULL;

	if (step->old == NULL || strcmp(step->old->connection, step->truck->connection) == 0)
		return;
	if (trucker_connection_is_local(step->old->connection) && connection)
	{
		if (!attempt(planning, look_where_it_leads, connection, value,
					 "whether the output connection still leads to this database cannot be found out: "))
			return;
		if (connection->is_here)
		{
			step->truck->connection = step->old->connection;
			return;
		}
	}
	trucker_project_error(&planning->project->errors,
						  "%s: truck \"%s\" writes to connection \"%s\", which cannot be changed to \"%s\".  "
						  "SELECT trucker.drop_truck(%s) first: it is made anew then, and loads its new destination",
						  given->folder, given->name, step->old->connection, step->truck->connection,
						  quote_literal_cstr(given->name));
}

/* ----
 * What goes
 * ----
 */

static bool
has_step(const Planning *planning, const TruckerProjectObject *object)
{
	ListCell   *lc;

	foreach(lc, planning->steps)
	{
		const TruckerProjectStep *step = lfirst(lc);

		if (step->kind == object->kind && step->role == object->role && strcmp(step->name, object->name) == 0)
			return true;
	}
	return false;
}

static TruckerProjectTruck *
find_given(const TruckerProject *project, const char *name)
{
	ListCell   *lc;

	foreach(lc, project->trucks)
		if (strcmp(((TruckerProjectTruck *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

static void
plan_drops(Planning *planning, TruckerProjectKind kind)
{
	ListCell   *lc;

	foreach(lc, planning->objects)
	{
		const TruckerProjectObject *object = lfirst(lc);
		TruckerProjectStep *step;

		if (object->kind != kind || !is_ours(planning->project, object) || has_step(planning, object) ||
			(kind == TRUCKER_PROJECT_TRUCK && find_given(planning->project, object->name)))
			continue;
		step = add_step(planning, kind, TRUCKER_PROJECT_DROP, object->name,
						kind == TRUCKER_PROJECT_TRUCK ? "it is not in the project any more; what it has written stays" :
						"nothing in the project needs it any more");
		step->role = object->role;
		if (kind == TRUCKER_PROJECT_TRUCK)
			step->old = trucker_truck_find(object->name);
		if (kind == TRUCKER_PROJECT_TRUCK && !has_privs_of_role(GetUserId(), step->old->owner))
			trucker_project_error(&planning->project->errors, "must be owner of truck \"%s\", which is not in the project any more",
								  object->name);
	}
}

/*
 * The steps (TruckerProjectStep *), in the order in which they are to be taken.  What
 * is wrong is added to the project's errors; then they are of no use.
 */
List *
trucker_project_plan(TruckerProject *project)
{
	Planning	planning = {project, trucker_project_objects(), NIL, NIL};
	ListCell   *lc;

	/* which connections lead here decides what is made of all others */
	foreach(lc, project->connections)
		trucker_project_note_here(lfirst(lc));
	foreach(lc, project->trucks)
		check_input(&planning, lfirst(lc));
	plan_servers(&planning);
	foreach(lc, project->trucks)
		plan_truck(&planning, lfirst(lc));
	foreach(lc, list_copy(planning.steps))
	{
		TruckerProjectStep *step = lfirst(lc);

		if (step->kind == TRUCKER_PROJECT_TRUCK)
			check_same_connection(&planning, find_given(project, step->name), step);
	}
	plan_mappings(&planning);
	plan_drops(&planning, TRUCKER_PROJECT_TRUCK);
	plan_drops(&planning, TRUCKER_PROJECT_MAPPING);
	plan_drops(&planning, TRUCKER_PROJECT_CONNECTION);
	return planning.steps;
}
