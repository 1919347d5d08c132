/*
 * pgconn.h
 *	  libpq inside a backend: interruptible waits, errors carried over whole.
 */
#ifndef TRUCKER_PGCONN_H
#define TRUCKER_PGCONN_H

#include "libpq-fe.h"

#include "wait.h"

/*
 * A connection.  It belongs to the memory context that it was opened in, and
 * is closed when that is reset or deleted; so an error cannot leak it.
 */
typedef struct TruckerConn
{
	PGconn	   *pg;
	bool		busy;			/* a command is running at the other end that must not outlive us */
	bool		must_cancel;	/* PQcancel() what is busy */
	const char *command_context;	/* what errors call a command */
	MemoryContextCallback on_reset;
} TruckerConn;

/* in pgconn.c */
extern TruckerConn *trucker_conn_open(const char *const *keywords, const char *const *values,
									  int timeout_ms, const char *hint, bool secret);
extern TruckerConn *trucker_conn_start(const char *const *keywords, const char *const *values,
									   int timeout_ms, const char *failure);
extern void trucker_conn_close(TruckerConn *conn);
extern PGresult *trucker_conn_exec(TruckerConn *conn, const char *command, ExecStatusType expected);
extern PGresult *trucker_conn_exec_while(TruckerConn *conn, const char *command, ExecStatusType expected,
										  bool (*goes_on) (void *arg), void *arg);
extern PGresult *trucker_conn_exec_params(TruckerConn *conn, const char *command, int n, const char *const *values, ExecStatusType expected);
extern bool trucker_conn_wait(TruckerConn *conn, long timeout_ms, TruckerWait wait);
extern void trucker_conn_flush(TruckerConn *conn);
extern PGresult *trucker_conn_result(TruckerConn *conn);
extern void trucker_conn_raise(TruckerConn *conn, PGresult *result, const char *command) pg_attribute_noreturn();

#endif							/* TRUCKER_PGCONN_H */
