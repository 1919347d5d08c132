/*
 * project_store.h
 *	  What projects have made in this database, and what of it is to become of it.
 */
#ifndef TRUCKER_PROJECT_STORE_H
#define TRUCKER_PROJECT_STORE_H

#include "nodes/pg_list.h"
#include "utils/uuid.h"

typedef enum TruckerProjectKind
{
	TRUCKER_PROJECT_CONNECTION,
	TRUCKER_PROJECT_MAPPING,
	TRUCKER_PROJECT_TRUCK
} TruckerProjectKind;

/* A row of trucker.project_object whose object exists. */
typedef struct TruckerProjectObject
{
	char	   *project;
	TruckerProjectKind kind;
	char	   *name;			/* of the foreign server, or the truck */
	Oid			role;			/* of a user mapping; else InvalidOid */
} TruckerProjectObject;

/* in project_store.c */
extern const char *trucker_project_kind_name(TruckerProjectKind kind);
extern List *trucker_project_objects(void);
extern void trucker_project_lock(void);
extern void trucker_project_take_over(const char *id, const char *dir);
extern void trucker_project_note(const char *id, TruckerProjectKind kind, const char *name, Oid role);
extern void trucker_project_forget(TruckerProjectKind kind, const char *name, Oid role);
extern void trucker_project_forget_server(Oid server_id);

#endif							/* TRUCKER_PROJECT_STORE_H */
