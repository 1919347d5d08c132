/*
 * value.h
 *	  The two forms in which a value can arrive: text, and its type's binary form.
 */
#ifndef TRUCKER_VALUE_H
#define TRUCKER_VALUE_H

#include "fmgr.h"

/* in value.c */
extern int	trucker_value_set_formats(void);
extern bool trucker_value_is_written_to(Oid type);
extern Datum trucker_value_receive(FmgrInfo *function, Oid param, int32 typmod, const char *data, int len, bool copy);
extern char *trucker_value_text(const char *data, int len, Oid type);
extern bool trucker_value_table_is_binary(Oid relid);

#endif							/* TRUCKER_VALUE_H */
