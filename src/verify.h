/*
 * verify.h
 *	  Compare what a query returns with what a table holds, in two sessions.
 */
#ifndef TRUCKER_VERIFY_H
#define TRUCKER_VERIFY_H

#include "nodes/execnodes.h"
#include "nodes/pg_list.h"

#include "sql_session.h"

/* One of the two. */
typedef struct TruckerVerifySide
{
	TruckerSqlSession *session; /* in a transaction, with its snapshot */
	const char *what;			/* as errors call it */
	char	   *rows;			/* SELECT: key and row, each as the text of an array of text */
} TruckerVerifySide;

/* in verify_compare.c */
extern char *trucker_verify_rows_sql(const char *from, List *keys, List *columns);
extern void trucker_verify_compare(TruckerVerifySide *expected, TruckerVerifySide *actual,
								   List *keys, List *columns, ReturnSetInfo *rsinfo);
extern void trucker_verify_check_unique(TruckerVerifySide *side, List *keys);

#endif							/* TRUCKER_VERIFY_H */
