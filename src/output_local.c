/*
 * output_local.c
 *	  Write to this very database.
 *
 * output.sql runs in the transaction in which input.sql ran, over the same kind
 * of relation r; the position is a row of that transaction, too.  So there is
 * one commit, and it is exactly once by the server's own word.
 */
#include "trucker.h"

#include "output.h"

static void *
local_prepare(const char *sql, const TruckerRows *rows)
{
	return trucker_script_prepare(trucker_script_split(sql, "output_sql", false), rows);
}

static void
local_execute(void *prepared, const TruckerRows *rows)
{
	trucker_script_execute((TruckerScript *) prepared, rows, NULL, NULL);
}

const TruckerOutputRoutine trucker_output_local = {
	.adapter = "local",
	.prepare = local_prepare,
	.execute = local_execute,
	.write_position = trucker_position_write,
};
