/*
 * slots.h
 *	  trucker's replication slots, seen from inside the server.
 */
#ifndef TRUCKER_SLOTS_H
#define TRUCKER_SLOTS_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"

/* a slot that is further behind than this would have to be read for long */
#define TRUCKER_NEAR_BYTES (64 * 1024 * 1024)

/* One of our slots: a copy, taken under its lock. */
typedef struct TruckerSlotInfo
{
	char		name[NAMEDATALEN];
	char		plugin[NAMEDATALEN];
	Oid			database;
	int			active_pid;		/* 0: nobody holds it */
	bool		invalidated;	/* the server has given up what it needs */
	XLogRecPtr	restart_lsn;	/* the server keeps the WAL from here on */
	XLogRecPtr	confirmed_lsn;	/* 0: it is still being made */
} TruckerSlotInfo;

/* in slots.c */
extern char *trucker_new_token(void);
extern char *trucker_slot_new_name(void);
extern bool trucker_slot_get(int index, TruckerSlotInfo *info);
extern int	trucker_slot_find(const char *name, TruckerSlotInfo *info);
extern const char *trucker_slot_trouble(const char *name, XLogRecPtr expected);
extern XLogRecPtr trucker_slot_confirmed(const char *name);
extern XLogRecPtr trucker_slot_restart(const char *name);
extern void trucker_slot_drop(const char *name);
extern int	trucker_slot_active_pid(const char *name);
extern bool trucker_slot_wait_inactive(const char *name, int timeout_ms);
extern List *trucker_slots_of_database(Oid database, bool temporary_too);
extern bool trucker_slot_is_among(List *names, const char *name);
extern int	trucker_slots_free(void);

#endif							/* TRUCKER_SLOTS_H */
