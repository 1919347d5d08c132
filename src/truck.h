/*
 * truck.h
 *	  A truck as the catalog holds it.
 */
#ifndef TRUCKER_TRUCK_H
#define TRUCKER_TRUCK_H

#include "access/htup.h"
#include "access/xlogdefs.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* the connection that means: this database */
#define TRUCKER_CONNECTION_LOCAL "local"

/* the stream of trucks that name none */
#define TRUCKER_DEFAULT_STREAM "main"

/* a truck's slow_query_threshold: that of the server's setting holds */
#define TRUCKER_THRESHOLD_OF_SERVER (-2)

/* What an error that will not go away by itself leads to. */
typedef enum TruckerOnError
{
	TRUCKER_ON_ERROR_RETRY,		/* some more attempts, then as with STOP */
	TRUCKER_ON_ERROR_STOP,		/* the truck is failed, until start() */
	TRUCKER_ON_ERROR_QUARANTINE /* the source transaction is put aside, and the truck goes on */
} TruckerOnError;
/* What becomes of a TRUNCATE of an input table. */
typedef enum TruckerOnTruncate
{
	TRUCKER_TRUNCATE_ERROR,		/* the truck stops */
	TRUCKER_TRUNCATE_IGNORE,
	TRUCKER_TRUNCATE_RUN		/* truncate_sql is run */
} TruckerOnTruncate;

/* Which columns of an input table r has (filter.c). */
typedef struct TruckerFilter
{
	Oid			relid;
	bool		keeps;			/* only these, and the key; else all but these */
	Bitmapset  *attnums;
	List	   *names;			/* char *; NIL: attnums is filled in */
} TruckerFilter;

typedef struct TruckerTruck
{
	pg_uuid_t	id;
	char	   *name;
	Oid			owner;			/* may manage it */
	Oid			role;			/* its SQL runs as */
	int			ninputs;
	Oid		   *inputs;
	char	   *input_sql;		/* NULL: r reaches output_sql unchanged */
	char	   *output_sql;		/* NULL: generated, for output_table */
	char	   *connection;
	char	   *search_path;	/* as it was when the truck's SQL was given */

	/* options */
	Jsonb	   *options;
	bool		backfill;
	char	   *reset_sql;		/* or NULL */
	bool		inserts_only;
	bool		toast_current;	/* accept today's value for an unchanged TOAST value */
	char	   *stream_name;
	TruckerOnError on_error;
	bool		net;			/* collapse the changes of each row in a batch */
	TruckerOnTruncate on_truncate;
	char	   *truncate_sql;	/* with TRUCKER_TRUNCATE_RUN, else NULL */
	char	   *output_table;	/* or NULL */
	bool		mirror;			/* it holds each row once; else rows are appended */
	List	   *filters;		/* of TruckerFilter; of a table without one r has all columns */
	bool		filters_restored;	/* from a dump, as names, which have yet to be found */
	int			slow_query_threshold;	/* milliseconds; -1: no run is logged; or TRUCKER_THRESHOLD_OF_SERVER */

	/* state, as it was when the truck was loaded */
	bool		enabled;
	bool		needs_backfill;
	bool		needs_reset;
	bool		lost;			/* cannot go on from its position */
	bool		restored;		/* from a dump, which holds no position: lost, too */
	bool		failed;			/* stopped by an error */
	bool		has_stream;
	pg_uuid_t	stream_id;		/* which carries it now */
	XLogRecPtr	applied_lsn;	/* when it came aboard that stream */
	XLogRecPtr	failed_lsn;		/* of a source transaction that it is known to fail at; or 0 */
	XLogRecPtr	skip_lsn;		/* of one that it shall pass over; or 0 */
	uint64		drained_on;		/* system identifier of the server on which it was drained for pg_upgrade; or 0 */
	char	   *version;		/* of the definition: no other one has had it */
	bool		is_former;		/* SQL, options and filters are those that it had before it was altered (former.c) */
	XLogRecPtr	former_until;	/* ... for all that commits before; 0: not known yet */
} TruckerTruck;

/* in truck.c */
extern bool trucker_truck_resumes(const TruckerTruck *truck);
extern void trucker_truck_parse_options(TruckerTruck *truck, char **role_name);
extern void trucker_truck_check_output(const TruckerTruck *truck);
extern void trucker_truck_merge_options(TruckerTruck *truck, Jsonb *changes);

extern List *trucker_truck_form_filters(HeapTuple tuple, int number);
extern TruckerTruck *trucker_truck_find(const char *name);
extern TruckerTruck *trucker_truck_get(const char *name);
extern TruckerTruck *trucker_truck_load(const pg_uuid_t *id);
extern List *trucker_truck_readers(Oid relid);
extern List *trucker_truck_own_names(void);
extern List *trucker_truck_of_stream(const pg_uuid_t *stream_id);

extern void trucker_truck_insert(TruckerTruck *truck);
extern bool trucker_truck_lock(const pg_uuid_t *id);
extern void trucker_truck_update(const TruckerTruck *truck);
extern void trucker_truck_set_connection(TruckerTruck *truck, const char *connection);
extern void trucker_truck_delete(const pg_uuid_t *id);

extern void trucker_truck_check_role(const TruckerTruck *truck);
extern void trucker_raise_dropped(const char *truck_name, Oid relid) pg_attribute_noreturn();

#endif							/* TRUCKER_TRUCK_H */
