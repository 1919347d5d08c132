/*
 * scratch.h
 *	  Databases for a while.
 */
#ifndef TRUCKER_SCRATCH_H
#define TRUCKER_SCRATCH_H

#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"

/* Followed by 16 hexadecimal digits, "_" and what it is for. */
#define TRUCKER_SCRATCH_PREFIX "trucker_test_"
#define TRUCKER_SCRATCH_TOKEN 16

typedef struct TruckerScratch TruckerScratch;

/* in scratch.c */
extern TruckerScratch *trucker_scratch_begin(void);
extern Oid	trucker_scratch_create(TruckerScratch *scratch, const char *purpose, char **name);
extern void trucker_scratch_drop(TruckerScratch *scratch);
extern void trucker_scratch_end(TruckerScratch *scratch);
extern bool trucker_scratch_is_name(const char *name);

/* in scratch_keeper.c */
extern PGDLLEXPORT void trucker_scratch_keeper_main(Datum main_arg);
extern bool trucker_scratch_keeper_register(Oid database, const char *token, uint32 segment, BackgroundWorkerHandle **handle);
extern bool trucker_scratch_is_leftover(const char *name);
extern char *trucker_scratch_keeper_type(const char *token);

#endif							/* TRUCKER_SCRATCH_H */
