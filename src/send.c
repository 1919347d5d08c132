/*
 * send.c
 *	  In the walsender of a stream: changes are sent in blocks.
 *
 * A walsender hands each change to the socket by itself.  That is a system call a change,
 * and what waits in a unix socket is counted by the packet, not by its bytes: after about
 * 280 small ones the sender waits for the reader.  So while a worker executes a run,
 * hardly anything is decoded, and the two take turns instead of working side by side.
 *
 * The server keeps how a process talks to its client behind a table of functions
 * (PqCommMethods).  In the walsenders that serve us it is replaced by one that keeps
 * changes back until there is a block of them.  Nobody waits for what is kept back:
 * a walsender tries to send right after each message that it has put into its buffer, and
 * once more before it looks for more WAL or rests.  Only the former is put off.
 *
 * It is asked for by a setting of the connection, which everybody may use for their own:
 * it alters when bytes are sent, not which.
 */
#include "trucker.h"

/* What libpq.h says of Kerberos needs headers that Debian's server packages do not bring, and is not used here. */
#undef ENABLE_GSS
#include "libpq/libpq.h"
#include "replication/walsender.h"

/* what the server's own buffer holds at first */
#define BLOCK 8192

bool		trucker_send_in_blocks = false;

static const PQcommMethods *server_methods;

/* of changes, in bytes */
static size_t kept = 0;

/* Has a change come since it was last tried to send? */
static bool is_new = false;

/* Have we said that nothing is left to be sent, though there are these changes? */
static bool is_hidden = false;

static void
reset(void)
{
	kept = 0;
	is_new = is_hidden = false;
}

static void
comm_reset(void)
{
	reset();
	server_methods->comm_reset();
}

static int
flush_all(void)
{
	reset();
	return server_methods->flush();
}

static int
flush_if_writable(void)
{
	if (is_new && kept < BLOCK)
	{
		is_new = false;
		is_hidden = true;
		return 0;
	}
	reset();
	return server_methods->flush_if_writable();
}

static bool
is_send_pending(void)
{
	return !is_hidden && server_methods->is_send_pending();
}

static int
putmessage(char msgtype, const char *s, size_t len)
{
	is_new = false;
	return server_methods->putmessage(msgtype, s, len);
}

/* Only XLogData is kept back; a keepalive takes it along. */
static void
putmessage_noblock(char msgtype, const char *s, size_t len)
{
	server_methods->putmessage_noblock(msgtype, s, len);
	is_new = msgtype == 'd' && len > 0 && s[0] == 'w';
	kept += len;
}

static const PQcommMethods methods = {
	comm_reset,
	flush_all,
	flush_if_writable,
	is_send_pending,
	putmessage,
	putmessage_noblock
};

/* The setting's assign hook. */
void
trucker_assign_send_in_blocks(bool newval, void *extra)
{
	if (!newval || !am_walsender || server_methods != NULL)
		return;
	server_methods = PqCommMethods;
	PqCommMethods = &methods;
}
