/*
 * slots.h
 *	  trucker's replication slots, seen from inside the server.
 */
#ifndef TRUCKER_SLOTS_H
#define TRUCKER_SLOTS_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"

/* in slots.c */
extern char *trucker_slot_new_name(void);
extern const char *trucker_slot_trouble(const char *name, XLogRecPtr expected);
extern XLogRecPtr trucker_slot_confirmed(const char *name);
extern void trucker_slot_drop(const char *name);
extern int	trucker_slot_active_pid(const char *name);
extern bool trucker_slot_wait_inactive(const char *name, int timeout_ms);
extern List *trucker_slots_of_database(Oid database, bool temporary_too);
extern int	trucker_slots_free(void);

#endif							/* TRUCKER_SLOTS_H */
