/*
 * project_scratch.c
 *	  A project as it is loaded into the database of a test.
 *
 * trucker.test() (harness.c) runs each truck by itself, in databases that it makes and
 * drops.  There only that truck is loaded: what the others read does not exist.  Its input
 * is that very database, whatever trucker.yml says; and where it writes elsewhere, that is
 * a second database of this server, so that nothing can reach the real destination:
 * host, user, password and all other options of the connection are left out.
 *
 * test() tells which by two settings that only superusers can set; they hold in its own
 * sessions.
 */
#include "trucker.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"

#include "project.h"
#include "replication.h"

/* Over our own socket, as whom the server's own workers come. */
static void
lead_to_scratch(TruckerProjectConnection *connection)
{
	char	   *host = trucker_replication_socket();

	connection->host.text = host ? host : "localhost";
	connection->port.text = psprintf("%d", PostPortNumber);
	connection->database.text = trucker_test_output;
	connection->user.text = GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false);
	connection->pass.text = NULL;
	connection->password_file = NULL;
	connection->ssl.text = NULL;
	connection->options = NULL;
	connection->no_password = true;
	connection->is_here = false;
}

/* Called when a project has been read; does nothing but in the session of a test. */
void
trucker_project_fit_scratch(TruckerProject *project)
{
	TruckerProjectTruck *truck = NULL;
	ListCell   *lc;

	if (trucker_test_truck == NULL || trucker_test_truck[0] == '\0')
		return;
	foreach(lc, project->trucks)
		if (strcmp(((TruckerProjectTruck *) lfirst(lc))->name, trucker_test_truck) == 0)
			truck = lfirst(lc);
	project->trucks = truck ? list_make1(truck) : NIL;
	foreach(lc, project->connections)
	{
		TruckerProjectConnection *connection = lfirst(lc);

		connection->known_here = connection->is_here = true;
		if (trucker_test_output[0] != '\0' && truck && truck->output_connection.text && connection->name.text &&
			strcmp(connection->name.text, truck->output_connection.text) == 0)
			lead_to_scratch(connection);
	}
}
