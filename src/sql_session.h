/*
 * sql_session.h
 *	  A session in which SQL runs as in psql: here, in a process of its own, or at another server.
 */
#ifndef TRUCKER_SQL_SESSION_H
#define TRUCKER_SQL_SESSION_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "storage/shm_mq.h"

#include "connection.h"

/* What a statement has returned: text, NULL for null. */
typedef struct TruckerSqlRow
{
	int			n;
	char	  **values;
} TruckerSqlRow;

typedef struct TruckerSqlSession TruckerSqlSession;

/* in sql_session.c */
extern TruckerSqlSession *trucker_sql_session_in(Oid database, Oid role, const char *name);
extern TruckerSqlSession *trucker_sql_session_confined(Oid role, const char *name);
extern TruckerSqlSession *trucker_sql_session_local(Oid role, const char *name);
extern TruckerSqlSession *trucker_sql_session_worker(const char *function, const char *type, const char *name);
extern TruckerSqlSession *trucker_sql_session_remote(TruckerConnection *connection, const char *name, bool exclusive);
extern List *trucker_sql_session_columns(TruckerSqlSession *session, const char *sql);
extern List *trucker_sql_session_execute(TruckerSqlSession *session, const char *sql, bool keep);
extern void trucker_sql_session_become(TruckerSqlSession *session);
extern int	trucker_sql_session_error_position(const TruckerSqlSession *session);
extern TruckerConn *trucker_sql_session_conn(TruckerSqlSession *session);
extern void trucker_sql_session_close(TruckerSqlSession *session);

/* in sql_worker.c */
extern Oid trucker_sql_worker_attach(Datum main_arg, shm_mq_handle **commands, shm_mq_handle **answers);
extern char *trucker_sql_worker_receive(shm_mq_handle *commands, bool *keep);
extern bool trucker_sql_worker_done(shm_mq_handle *answers);
extern PGDLLEXPORT void trucker_sql_worker_main(Datum main_arg);

/* what the process is told, in its segment of shared memory */
#define TRUCKER_SQL_MAGIC 0x74727371
#define TRUCKER_SQL_ORDER 0
#define TRUCKER_SQL_COMMANDS 1
#define TRUCKER_SQL_ANSWERS 2

typedef struct TruckerSqlOrder
{
	Oid			database;
	Oid			login;			/* the role whose session it is; invalid: the bootstrap superuser's */
	Oid			confined_to;	/* or: the superuser's, in which all SQL has this role's rights */
	char		name[NAMEDATALEN];
} TruckerSqlOrder;

#endif							/* TRUCKER_SQL_SESSION_H */
