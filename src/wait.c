/*
 * wait.c
 *	  What pg_stat_activity calls the things that our processes wait for.
 *
 * Where the server lets an extension name its wait events they have names of their own,
 * elsewhere all of them are "Extension".
 */
#include "trucker.h"

#include "utils/wait_event.h"

#include "wait.h"

static const char *const names[] = {
	[TRUCKER_WAIT_LAUNCHER] = "TruckerLauncher",
	[TRUCKER_WAIT_CHANGES] = "TruckerChanges",
	[TRUCKER_WAIT_RETRY] = "TruckerRetry",
	[TRUCKER_WAIT_BACKFILL] = "TruckerBackfill",
	[TRUCKER_WAIT_CONNECTION] = "TruckerConnection",
	[TRUCKER_WAIT_SLOT] = "TruckerSlot",
	[TRUCKER_WAIT_PROGRESS] = "TruckerProgress",
	[TRUCKER_WAIT_SESSION] = "TruckerSession",
	[TRUCKER_WAIT_PROGRAM] = "TruckerProgram",
	[TRUCKER_WAIT_WORKER] = "TruckerWorker",
	[TRUCKER_WAIT_TEST] = "TruckerTest",
	[TRUCKER_WAIT_STOP_POINT] = "TruckerStopPoint",
};

/* The number that the server knows it by; asked for once in each process. */
uint32
trucker_wait(TruckerWait wait)
{
	static uint32 events[lengthof(names)] = {0};

	if (events[wait] == 0)
		events[wait] = trucker_new_wait_event(names[wait]);
	return events[wait];
}
