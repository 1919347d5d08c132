/*
 * child.h
 *	  Run a program, and read what it writes.
 */
#ifndef TRUCKER_CHILD_H
#define TRUCKER_CHILD_H

#include "lib/stringinfo.h"

/* in child.c */
extern int	trucker_child_run(const char *path, char *const *arguments, char *const *environment,
							  StringInfo output, StringInfo errors);

#endif							/* TRUCKER_CHILD_H */
