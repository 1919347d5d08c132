/*
 * written.h
 *	  Which tables the open batch writes; and that no loop of trucks is closed.
 */
#ifndef TRUCKER_WRITTEN_H
#define TRUCKER_WRITTEN_H

#include "truck.h"

/* The tables that a truck has been seen to write in this process. */
typedef struct TruckerWritten TruckerWritten;

/* in written.c */
extern TruckerWritten *trucker_written_create(const TruckerTruck *truck, MemoryContext context);
extern void trucker_written_begin(TruckerWritten *written);
extern bool trucker_written_in_batch(void);
extern void trucker_written_note(Oid relid);
extern void trucker_written_show(void);
extern bool trucker_written_is_awaited(void);
extern void trucker_written_readers_changed(void);
extern void trucker_written_start(const TruckerTruck *truck, List *planned, bool was_stopped);

#endif							/* TRUCKER_WRITTEN_H */
