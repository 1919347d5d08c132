/*
 * project_plan.h
 *	  What must be done so that this database is as a project says.
 */
#ifndef TRUCKER_PROJECT_PLAN_H
#define TRUCKER_PROJECT_PLAN_H

#include "project.h"
#include "project_store.h"
#include "truck.h"

typedef enum TruckerProjectAction
{
	TRUCKER_PROJECT_NONE,
	TRUCKER_PROJECT_CREATE,
	TRUCKER_PROJECT_CHANGE,
	TRUCKER_PROJECT_DROP
} TruckerProjectAction;

/* One object, and what is to become of it. */
typedef struct TruckerProjectStep
{
	TruckerProjectKind kind;
	TruckerProjectAction action;
	const char *name;			/* of the foreign server, or the truck */
	const char *detail;			/* what is different; no secret in it */

	/* of a connection, and of a user mapping */
	List	   *options;		/* those that it is to have */
	List	   *changes;		/* of DefElem, with what ALTER is to do */
	Oid			role;			/* of a user mapping */
	bool		grant;			/* the role lacks USAGE of the server */
	/* of a truck */
	TruckerTruck *truck;		/* as it is to be; NULL: it goes */
	TruckerTruck *old;			/* as it is; NULL: it is new */
} TruckerProjectStep;

/* in project_truck.c */
extern TruckerTruck *trucker_project_truck(TruckerProject *project, TruckerProjectTruck *given, const TruckerTruck *old);
extern char *trucker_project_truck_diff(const TruckerTruck *old, const TruckerTruck *truck);
extern char *trucker_project_table_names(const Oid *tables, int n);

/* in project_plan.c */
extern List *trucker_project_plan(TruckerProject *project);
extern void trucker_project_caught(TruckerProject *project, const char *where, const ErrorData *error);

#endif							/* TRUCKER_PROJECT_PLAN_H */
