/*
 * project_load.h
 *	  plan(), load(), and what start() does of it.
 */
#ifndef TRUCKER_PROJECT_LOAD_H
#define TRUCKER_PROJECT_LOAD_H

/* in project_load.c */
extern void trucker_project_load_first(void);

#endif							/* TRUCKER_PROJECT_LOAD_H */
