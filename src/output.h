/*
 * output.h
 *	  What a destination must be able to do.
 */
#ifndef TRUCKER_OUTPUT_H
#define TRUCKER_OUTPUT_H

#include "position.h"
#include "script.h"

/*
 * One kind of destination.  The pipeline calls these inside the transaction in
 * which it runs input.sql, as the truck's role.
 */
typedef struct TruckerOutputRoutine
{
	const char *adapter;

	/*
	 * Prepare rendered SQL for an r of these columns and about that many rows.
	 * The result belongs to the current memory context.
	 */
	void	   *(*prepare) (const char *sql, const TruckerRows *rows);

	/* Write one run's rows. */
	void		(*execute) (void *prepared, const TruckerRows *rows);

	/* Write the position where, and with what, the rows are written. */
	void		(*write_position) (TruckerPosition *position, XLogRecPtr lsn);
} TruckerOutputRoutine;

/* in output_local.c */
extern const TruckerOutputRoutine trucker_output_local;

#endif							/* TRUCKER_OUTPUT_H */
