/*
 * deadlock.c
 *	  Give way in deadlocks.
 *
 * A batch holds weak locks on the input tables that it has come to, for as long as
 * it lasts.  A session that locks two of them strongly (TRUNCATE a, b) may have one
 * and wait for the other, while the worker has that and waits for the first.  The
 * same may happen with the tables that the truck writes.  Who notices a deadlock is
 * who fails, and that should not be the application.
 *
 * The server looks for a deadlock once for each wait, deadlock_timeout after it has
 * begun.  If the session's wait was the later one, only the session would see it.  So
 * the worker looks again and again while it waits, and more often than that.
 */
#include "trucker.h"

#include "storage/proc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "deadlock.h"

/* how many times the worker looks before a session does */
#define LOOKS 4

/*
 * Between here and the switching off, a wait for a lock that is part of a deadlock
 * ends with an error soon.
 */
void
trucker_give_way_in_deadlocks(bool on)
{
	static TimeoutId timeout = MAX_TIMEOUTS;
	int			delay = Max(DeadlockTimeout / LOOKS, 1);

	/* the server's own handler: whoever waits for a lock wakes up and looks */
	if (timeout == MAX_TIMEOUTS)
		timeout = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
	if (on)
		enable_timeout_every(timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay), delay);
	else
		disable_timeout(timeout, false);
}
