/*
 * output.c
 *	  Which kind of destination a truck has.
 */
#include "trucker.h"

#include "connection.h"
#include "output.h"

/* A destination for a truck, in the current memory context, not connected yet. */
TruckerOutput *
trucker_output_create(const TruckerTruck *truck)
{
	if (trucker_connection_is_local(truck->connection))
		return trucker_output_local(truck);
	return trucker_output_postgres(truck);
}
