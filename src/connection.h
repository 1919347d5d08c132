/*
 * connection.h
 *	  Connections: foreign servers with the role's user mapping, as libpq wants them.
 */
#ifndef TRUCKER_CONNECTION_H
#define TRUCKER_CONNECTION_H

#include "nodes/pg_list.h"

#include "pgconn.h"

/* Where an option may stand. */
#define TRUCKER_ON_SERVER 1
#define TRUCKER_ON_MAPPING 2

/* An option of a foreign server or a user mapping. */
typedef struct TruckerConnectionOption
{
	const char *name;
	int			where;
	bool		superuser_only; /* only a superuser may set it */
	bool		for_libpq;		/* a keyword of libpq's */
	bool		identifying;	/* its value tells whereto or as whom: never shown */
} TruckerConnectionOption;

/* A connection as a role may use it.  Belongs to the memory context that it was loaded in. */
typedef struct TruckerConnection
{
	char	   *name;
	Oid			role;
	List	   *options;		/* of DefElem: server's, then the mapping's */
	int			nserver;		/* so many are the server's */
	bool		trusted;		/* superuser-only options of the server count */
	bool		has_password;
	bool		password_required;
	char	   *position_schema;
	char	   *statement_timeout;
	char	   *lock_timeout;
} TruckerConnection;

/* in connection_options.c */
extern const TruckerConnectionOption *trucker_connection_option(const char *name);
extern void trucker_connection_check_options(List *options, Oid catalog);

/* in connection.c */
extern bool trucker_connection_is_local(const char *name);
extern void trucker_connection_check(const char *name, Oid role);
extern TruckerConnection *trucker_connection_load(const char *name, Oid role);
extern TruckerConnection *trucker_connection_from_options(const char *name, Oid role, List *server, List *mapping);
extern TruckerConn *trucker_connection_open(const TruckerConnection *connection, const char *application_name);
extern char *trucker_connection_clean_output(const TruckerConnection *connection, const char *program, const char *output);
extern List *trucker_connection_parameters(const TruckerConnection *connection);
extern uint64 trucker_connection_changes(void);
extern void trucker_connection_refuse_drop(Oid server);

#endif							/* TRUCKER_CONNECTION_H */
