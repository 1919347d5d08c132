/*
 * backfill.h
 *	  The first load of a truck's input tables.
 */
#ifndef TRUCKER_BACKFILL_H
#define TRUCKER_BACKFILL_H

#include "postmaster/bgworker.h"

#include "pipeline.h"

/* in backfill.c */
extern void trucker_backfill(TruckerPipeline *pipeline, const char *snapshot, XLogRecPtr consistent_point,
							 const char *slot_name);
extern void trucker_backfill_added(TruckerPipeline *pipeline, const List *relids, XLogRecPtr consistent_point);

/* in backfill_worker.c */
extern bool trucker_backfill_register(int entry, const pg_uuid_t *truck_id, const char *name,
									  const char *snapshot, XLogRecPtr consistent_point, const char *slot_name,
									  BackgroundWorkerHandle **handle);

#endif							/* TRUCKER_BACKFILL_H */
