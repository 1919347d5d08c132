/*
 * wait.h
 *	  What pg_stat_activity calls the things that our processes wait for.
 */
#ifndef TRUCKER_WAIT_H
#define TRUCKER_WAIT_H

typedef enum TruckerWait
{
	TRUCKER_WAIT_LAUNCHER,		/* until something is to be started */
	TRUCKER_WAIT_CHANGES,		/* for the walsender */
	TRUCKER_WAIT_RETRY,			/* until the pause after an error is over */
	TRUCKER_WAIT_BACKFILL,		/* for backfills to end */
	TRUCKER_WAIT_CONNECTION,	/* for another server, or this one's answer to a command */
	TRUCKER_WAIT_SLOT,			/* until a slot is let go of */
	TRUCKER_WAIT_PROGRESS,		/* wait_for() */
	TRUCKER_WAIT_SESSION,		/* SQL in a session of its own */
	TRUCKER_WAIT_PROGRAM,		/* pg_dump */
	TRUCKER_WAIT_WORKER,		/* for a background worker */
	TRUCKER_WAIT_TEST,			/* a test, or its databases */
	TRUCKER_WAIT_STOP_POINT
} TruckerWait;

/* in wait.c */
extern uint32 trucker_wait(TruckerWait wait);

#endif							/* TRUCKER_WAIT_H */
