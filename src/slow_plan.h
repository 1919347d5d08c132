/*
 * slow_plan.h
 *	  The plans of a slow run's statements, for the log.
 */
#ifndef TRUCKER_SLOW_PLAN_H
#define TRUCKER_SLOW_PLAN_H

#include "executor/execdesc.h"

/* in slow_plan.c: a run */
extern void trucker_plans_watch(int threshold_ms);
extern const char *trucker_plans_taken(void);
extern void trucker_plans_forget(void);

/* in slow_plan.c: for hooks.c */
extern void trucker_plans_before_start(QueryDesc *query, int eflags);
extern void trucker_plans_before_end(QueryDesc *query);

#endif							/* TRUCKER_SLOW_PLAN_H */
