/*
 * diff.h
 *	  What is different between two texts, line by line.  Pure.
 */
#ifndef TRUCKER_DIFF_H
#define TRUCKER_DIFF_H

#include "lib/stringinfo.h"

/* in diff.c */
extern void trucker_diff(StringInfo out, const char *old, const char *new);

#endif							/* TRUCKER_DIFF_H */
