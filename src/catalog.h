/*
 * catalog.h
 *	  Statements on trucker's own tables.
 */
#ifndef TRUCKER_CATALOG_H
#define TRUCKER_CATALOG_H

#include "access/htup_details.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "identity.h"

/* Between begin and end the current user is the bootstrap superuser, and SPI is connected. */
typedef struct TruckerCatalog
{
	TruckerIdentity identity;
	MemoryContext result_context;	/* the caller's */
	bool		pushed_snapshot;
	bool		read_only;		/* what the user's SQL may not, we must */
} TruckerCatalog;

/* in catalog.c */
extern void trucker_catalog_begin(TruckerCatalog *access);
extern void trucker_catalog_end(const TruckerCatalog *access);
extern uint64 trucker_catalog_execute(const char *sql, int nargs, Oid *types, Datum *values,
									  const char *nulls, int expected);
extern uint64 trucker_catalog_write(const char *sql, const pg_uuid_t *id, const char *text, int expected);
extern List *trucker_catalog_list(const char *sql, const pg_uuid_t *id, void *(*form) (HeapTuple tuple));

extern bool trucker_catalog_try(bool (*action) (void *arg), void *arg);

/* columns (numbered from 1) of a row of the last statement; copies, in the current context */
extern Datum trucker_column(HeapTuple tuple, int number, bool *isnull);
extern char *trucker_text_column(HeapTuple tuple, int number);
extern pg_uuid_t trucker_uuid_column(HeapTuple tuple, int number);
extern bool trucker_bool_column(HeapTuple tuple, int number);

#endif							/* TRUCKER_CATALOG_H */
