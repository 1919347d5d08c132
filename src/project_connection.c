/*
 * project_connection.c
 *	  What a project's connection is as foreign server and user mapping; and does it
 *	  lead to this very database?
 *
 * A project of the predecessor names the database that it reads as any other one.  So
 * one has to be asked: by host and port alone a server does not know itself (a name of
 * the container's network, a pooler, a forwarded port).  It is connected to as the
 * options say, by the rules that hold for any connection.
 */
#include "trucker.h"

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "postmaster/postmaster.h"
#include "utils/memutils.h"

#include "connection.h"
#include "project.h"
#include "remote_position.h"
#include "truck.h"

static void
add_option(List **options, const char *name, const char *value)
{
	if (value && value[0] != '\0')
		*options = lappend(*options, makeDefElem(pstrdup(name), (Node *) makeString(pstrdup(value)), -1));
}

/* The sslmode that "ssl" stands for. */
static const char *
sslmode(const char *ssl)
{
	if (ssl && strcmp(ssl, "true") == 0)
		return "require";
	if (ssl && strcmp(ssl, "false") == 0)
		return "disable";
	return ssl;
}

/* Options (DefElem) of the foreign server. */
List *
trucker_project_server_options(const TruckerProjectConnection *connection)
{
	List	   *options = NIL;

	add_option(&options, "host", connection->host.text);
	add_option(&options, "port", connection->port.text);
	add_option(&options, "dbname", connection->database.text);
	add_option(&options, "sslmode", sslmode(connection->ssl.text));
	for (int i = 0; connection->options && i < list_length(connection->options->keys); i++)
		add_option(&options, ((TruckerYaml *) list_nth(connection->options->keys, i))->text,
				   ((TruckerYaml *) list_nth(connection->options->values, i))->text);
	return options;
}

/* Options (DefElem) of each user mapping. */
List *
trucker_project_mapping_options(const TruckerProjectConnection *connection)
{
	List	   *options = NIL;

	add_option(&options, "user", connection->user.text);
	if (connection->password_file)
		add_option(&options, "password_file", connection->password_file);
	else
		add_option(&options, "password", connection->pass.text);
	if (connection->no_password)
		add_option(&options, "password_required", "false");
	return options;
}

/* Does it name nothing but, at most, this database? */
static bool
names_nothing_else(const TruckerProjectConnection *connection)
{
	const char *host = connection->host.text;
	const char *port = connection->port.text;
	const char *database = connection->database.text;

	return connection->options == NULL && (host == NULL || host[0] == '\0') &&
		(port == NULL || atoi(port) == PostPortNumber) &&
		(database == NULL || database[0] == '\0' || strcmp(database, get_database_name(MyDatabaseId)) == 0);
}

/* As far as can be told without asking, does a truck write to another database than it reads? */
bool
trucker_project_writes_elsewhere(const TruckerProject *project, const TruckerProjectTruck *truck)
{
	const char *name = truck->output_connection.text;
	const char *input = truck->input_connection.text;

	return name && strcmp(name, "local") != 0 && (input == NULL || strcmp(input, name) != 0) &&
		!names_nothing_else(trucker_project_connection(project, name));
}

/* One that names no other host leads here, and need not be asked. */
void
trucker_project_note_here(TruckerProjectConnection *connection)
{
	if (!connection->known_here && names_nothing_else(connection))
		connection->known_here = connection->is_here = true;
}

/*
 * Does the connection lead to this very database?  It is asked once.  Raises an error
 * if it cannot be found out.
 */
bool
trucker_project_is_here(TruckerProjectConnection *connection)
{
	MemoryContext context;
	MemoryContext old;
	TruckerTruck nobody = {0};

	TruckerConnection *open;
	TruckerConn *conn;

	trucker_project_note_here(connection);
	if (connection->known_here)
		return connection->is_here;

	/* an error leaves it to the memory context to close the connection */
	context = AllocSetContextCreate(CurrentMemoryContext, "trucker project connection", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	open = trucker_connection_from_options(connection->name.text, GetUserId(),
										   trucker_project_server_options(connection),
										   trucker_project_mapping_options(connection));
	conn = trucker_connection_open(open, psprintf(TRUCKER_APPLICATION_NAME, "project"));
	connection->is_here = trucker_remote_position_open(conn, open, &nobody)->is_here;
	trucker_conn_close(conn);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	connection->known_here = true;
	return connection->is_here;
}
