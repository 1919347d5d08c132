/*
 * output.c
 *	  Which kind of destination a truck has.
 */
#include "trucker.h"

#include "connection.h"
#include "output.h"
#include "remote_session.h"

/* A destination for a truck, in the current memory context, not connected yet. */
TruckerOutput *
trucker_output_create(const TruckerTruck *truck)
{
	if (trucker_connection_is_local(truck->connection))
		return trucker_output_local(truck);
	return trucker_output_postgres(truck);
}

/*
 * Only a truck that has yet to be loaded can change to here: one with a position has
 * written it where its connection led before.
 */
bool
trucker_output_leads_here(const TruckerTruck *truck)
{
	return !trucker_connection_is_local(truck->connection) && truck->needs_backfill &&
		trucker_remote_leads_here(truck);
}

/*
 * A destination elsewhere must be connected.  If it then says that it holds more than
 * the truck had been told, some of what is at hand is applied already: begin anew.
 */
void
trucker_output_connect(TruckerOutput *output, TruckerPosition *position)
{
	XLogRecPtr	known = position->lsn;
	const char *trouble = output->routine->make_ready(output, position);

	if (trouble == NULL && position->lsn == known)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the connection was lost, and the destination is not at position %X/%X", LSN_FORMAT_ARGS(known)),
			 trouble ? errdetail("The truck cannot go on: %s.", trouble) : 0));
}
