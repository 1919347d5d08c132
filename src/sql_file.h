/*
 * sql_file.h
 *	  A file of SQL, cut into statements.
 */
#ifndef TRUCKER_SQL_FILE_H
#define TRUCKER_SQL_FILE_H

#include "nodes/pg_list.h"

/* words at the beginning of a statement that are kept */
#define TRUCKER_SQL_WORDS 6

typedef struct TruckerSqlStatement
{
	const char *chunk;			/* with the comments in front of it; in the file's text */
	int			chunk_len;		/* up to its semicolon, and with it */
	int			offset;			/* in it, of the statement */
	char	   *sql;			/* the statement, without comments and semicolon */
	int			line;			/* that it begins in, from 1 */
	char	   *words[TRUCKER_SQL_WORDS];	/* its first words, in lower case; "" where there are fewer, or what is no word */
	char	   *problem;		/* why it cannot be run from a file, or NULL */
} TruckerSqlStatement;

/* in sql_file.c */
extern List *trucker_sql_file_split(const char *file, const char *text);
extern bool trucker_sql_file_without_transaction(const char *text);
extern bool trucker_sql_begins(const TruckerSqlStatement *statement, const char *words);

#endif							/* TRUCKER_SQL_FILE_H */
