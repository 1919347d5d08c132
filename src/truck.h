/*
 * truck.h
 *	  A truck as the catalog holds it.
 */
#ifndef TRUCKER_TRUCK_H
#define TRUCKER_TRUCK_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* the connection that means: this database */
#define TRUCKER_CONNECTION_LOCAL "local"

/* What becomes of a TRUNCATE of an input table. */
typedef enum TruckerOnTruncate
{
	TRUCKER_TRUNCATE_ERROR,		/* the truck stops */
	TRUCKER_TRUNCATE_IGNORE,
	TRUCKER_TRUNCATE_RUN		/* truncate_sql is run */
} TruckerOnTruncate;

typedef struct TruckerTruck
{
	pg_uuid_t	id;
	char	   *name;
	Oid			owner;			/* may manage it */
	Oid			role;			/* its SQL runs as */
	int			ninputs;
	Oid		   *inputs;
	char	   *input_sql;		/* NULL: r reaches output_sql unchanged */
	char	   *output_sql;
	char	   *connection;
	char	   *search_path;	/* as it was when the truck was created */

	/* options */
	Jsonb	   *options;
	bool		backfill;
	char	   *reset_sql;		/* or NULL */
	bool		inserts_only;
	bool		toast_current;	/* accept today's value for an unchanged TOAST value */
	bool		net;			/* collapse the changes of each row in a batch */
	TruckerOnTruncate on_truncate;
	char	   *truncate_sql;	/* with TRUCKER_TRUNCATE_RUN, else NULL */

	/* state */
	bool		enabled;
	bool		needs_backfill;
	bool		needs_reset;
	bool		lost;			/* cannot go on from its position */
	bool		restored;		/* from a dump, which holds no position: lost, too */
	XLogRecPtr	confirmed_lsn;	/* of its slot, while the truck is stopped */
	char	   *slot_name;		/* recorded before the slot is made; or NULL */
} TruckerTruck;

/* An input table's name at the truck's position. */
typedef struct TruckerInputName
{
	Oid			relid;
	char	   *schema;
	char	   *table;
} TruckerInputName;

/* in truck.c */
extern void trucker_truck_parse_options(TruckerTruck *truck, char **role_name);

extern TruckerTruck *trucker_truck_get(const char *name);
extern TruckerTruck *trucker_truck_load(const pg_uuid_t *id);
extern List *trucker_truck_own_names(void);
extern List *trucker_truck_enabled(void);
extern List *trucker_truck_slot_names(void);

extern void trucker_truck_insert(const TruckerTruck *truck);
extern void trucker_truck_delete(const pg_uuid_t *id);
extern void trucker_truck_set_enabled(const pg_uuid_t *id, bool enabled);
extern void trucker_truck_request_resync(const pg_uuid_t *id);
extern void trucker_truck_set_slot(const pg_uuid_t *id, const char *slot_name);
extern void trucker_truck_set_backfilled(const pg_uuid_t *id);
extern void trucker_truck_set_error(const pg_uuid_t *id, const char *message, bool lost);

extern void trucker_truck_note_confirmed(void);
extern void trucker_truck_forget_confirmed(const pg_uuid_t *id);
extern int	trucker_truck_mark_unreadable(void);
extern void trucker_truck_check_role(const TruckerTruck *truck);
extern void trucker_raise_dropped(const char *truck_name, Oid relid) pg_attribute_noreturn();

extern List *trucker_truck_input_names(const pg_uuid_t *id);
extern void trucker_truck_set_input_names(const pg_uuid_t *id, List *names);

#endif							/* TRUCKER_TRUCK_H */
