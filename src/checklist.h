/*
 * checklist.h
 *	  Checks that either raise the first failure, or are collected as rows.
 */
#ifndef TRUCKER_CHECKLIST_H
#define TRUCKER_CHECKLIST_H

#include "nodes/execnodes.h"

/* Where the outcome of checks goes; NULL: nowhere, a failure is raised. */
typedef struct TruckerChecklist TruckerChecklist;

/*
 * One check.  Raises an error if what it looks at is not as it must be; returns what
 * there is to say if it is, or NULL for nothing.
 */
typedef const char *(*TruckerCheck) (TruckerChecklist *list, void *arg);

/* in checklist.c */
extern TruckerChecklist *trucker_checklist_create(ReturnSetInfo *rsinfo);
extern bool trucker_checklist_run(TruckerChecklist *list, const char *item, TruckerCheck check, void *arg);
extern void trucker_checklist_warn(TruckerChecklist *list, const char *message, const char *detail, const char *hint);
extern ErrorData *trucker_checklist_try(TruckerCheck check, void *arg, const char **result);

#endif							/* TRUCKER_CHECKLIST_H */
