/*
 * needs.h
 *	  Which columns of an input table those need who read its changes.
 */
#ifndef TRUCKER_NEEDS_H
#define TRUCKER_NEEDS_H

#include "row.h"

/* By the table's attnums.  Without anybody who reads it: nothing. */
typedef struct TruckerNeeds
{
	bool		all;			/* each column, whichever it is */
	int			natts;			/* columns beyond have been added since this was found out: they are needed */
	Bitmapset  *columns;		/* of which somebody needs the new value or the old one */
	Bitmapset  *identity;		/* that changes carry old values of; all columns with REPLICA IDENTITY FULL */
} TruckerNeeds;

/* in needs.c */
extern TruckerNeeds *trucker_needs_create(void);
extern void trucker_needs_add(TruckerNeeds *needs, const TruckerRelation *relation);
extern bool trucker_needs_column(const TruckerNeeds *needs, int attnum);
extern bool trucker_needs_cover(const TruckerNeeds *needs, const TruckerRelation *relation);

#endif							/* TRUCKER_NEEDS_H */
