/*
 * backfill.h
 *	  The first load of a truck's input tables.
 */
#ifndef TRUCKER_BACKFILL_H
#define TRUCKER_BACKFILL_H

#include "pipeline.h"

/* in backfill.c */
extern void trucker_backfill(TruckerPipeline *pipeline, const char *snapshot, XLogRecPtr consistent_point);

#endif							/* TRUCKER_BACKFILL_H */
