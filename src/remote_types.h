/*
 * remote_types.h
 *	  The columns of r at another server, and their values on the way there.
 */
#ifndef TRUCKER_REMOTE_TYPES_H
#define TRUCKER_REMOTE_TYPES_H

#include "fmgr.h"
#include "lib/stringinfo.h"

#include "script.h"

/* One column of r. */
typedef struct TruckerRemoteColumn
{
	int			at;				/* in the row, from 0 */
	const char *name;			/* for errors */
	char	   *quoted;
	Oid			array_type;		/* of the parameter: its elements are the values */
	char	   *element;		/* the elements' type, in SQL */
	char	   *cast;			/* to what they are cast there; NULL: they are it already */
	bool		is_money;		/* goes as numeric */
	FmgrInfo	output;
} TruckerRemoteColumn;

/* Those columns of r that are sent.  With none, there is one parameter nevertheless: the number of rows. */
typedef struct TruckerRemoteShape
{
	TupleDesc	desc;			/* of the rows */
	int			n;
	TruckerRemoteColumn *columns;
	int			nparams;
	Oid		   *param_types;
} TruckerRemoteShape;

/* in remote_types.c */
extern TruckerRemoteShape *trucker_remote_shape_create(TupleDesc desc, const Bitmapset *columns);
extern char *trucker_remote_shape_params_query(const TruckerRemoteShape *shape);
extern char *trucker_remote_shape_table_query(const TruckerRemoteShape *shape, const char *table);
extern char *trucker_remote_shape_columns(const TruckerRemoteShape *shape);
extern char **trucker_remote_params(TruckerRemoteShape *shape, const TruckerRows *rows, Size limit);
extern void trucker_remote_copy_row(TruckerRemoteShape *shape, TupleTableSlot *slot, StringInfo line);

#endif							/* TRUCKER_REMOTE_TYPES_H */
