/*
 * toast.h
 *	  Supply TOAST values that an update did not change, and so does not carry.
 */
#ifndef TRUCKER_TOAST_H
#define TRUCKER_TOAST_H

#include "utils/hsearch.h"

#include "row.h"

/* in toast.c */
extern bool trucker_toast_is_needed(const TruckerRow *row, const TruckerRelation *relation, const TruckerRowType *type);
extern void trucker_toast_fill(TruckerRow *row, Relation rel, const TruckerRelation *relation,
							   const TruckerRowType *type, bool accept_current, HTAB *taken);
extern HTAB *trucker_toast_create_taken(void);
extern void trucker_toast_check_taken(const TruckerRow *row, const TruckerRelation *relation, HTAB *taken);
extern bool trucker_toast_can_occur(const TruckerRelation *relation, const TruckerRowType *type, const char **column);

#endif							/* TRUCKER_TOAST_H */
