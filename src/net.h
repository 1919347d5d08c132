/*
 * net.h
 *	  The net of an input table's changes: one for each row, however often it was
 *	  changed.
 */
#ifndef TRUCKER_NET_H
#define TRUCKER_NET_H

#include "row.h"

typedef struct TruckerNet TruckerNet;

/* in net.c */
extern void trucker_net_check(const TruckerRelation *relation);
extern TruckerNet *trucker_net_create(const TruckerRelation *relation, const TruckerRowType *type);

/* one change: find, perhaps complete, add */
extern bool trucker_net_find(TruckerNet *net, const TruckerRow *row);
extern void trucker_net_complete(TruckerNet *net, TruckerRow *row);
extern void trucker_net_add(TruckerNet *net, const TruckerRow *row);

extern Size trucker_net_memory(const TruckerNet *net);
extern const TruckerRow *trucker_net_next(TruckerNet *net);
extern void trucker_net_clear(TruckerNet *net);

#endif							/* TRUCKER_NET_H */
