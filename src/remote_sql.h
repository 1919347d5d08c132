/*
 * remote_sql.h
 *	  What can be told of SQL whose tables are elsewhere: from its parse tree.
 */
#ifndef TRUCKER_REMOTE_SQL_H
#define TRUCKER_REMOTE_SQL_H

#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

/* in remote_sql.c */
extern bool trucker_sql_reads_rows(const char *statement);
extern char *trucker_sql_with_rows(const char *statement, const char *rows_query);
extern Bitmapset *trucker_sql_columns_named(List *statements, TupleDesc desc);
extern List *trucker_sql_add_targets(List *targets, List *statements);

#endif							/* TRUCKER_REMOTE_SQL_H */
