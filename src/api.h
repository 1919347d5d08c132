/*
 * api.h
 *	  What the SQL functions share: their arguments, checked.
 */
#ifndef TRUCKER_API_H
#define TRUCKER_API_H

#include "datatype/timestamp.h"
#include "utils/array.h"

#include "truck.h"

/* in api.c */
extern char *trucker_argument_sql(text *argument, const char *name);
extern void trucker_argument_inputs(TruckerTruck *truck, ArrayType *array);
extern void trucker_argument_role(TruckerTruck *truck, const char *role_name);
extern void trucker_check_can_wait(const char *function, const char *detail);
extern TimestampTz trucker_deadline(Interval *timeout, const char *function);
extern XLogRecPtr trucker_flushed_now(void);
extern bool trucker_wait_until(const TruckerTruck *truck, XLogRecPtr target, TimestampTz deadline);
extern void trucker_check_can_progress(const char *name);
extern void trucker_create(TruckerTruck *truck);
extern void trucker_drop(const TruckerTruck *truck);

/* in alter.c */
extern TruckerTruck *trucker_alter_lock(const char *name);
extern void trucker_alter_options(TruckerTruck *truck, Jsonb *options);
extern void trucker_alter(TruckerTruck *truck, const TruckerTruck *old, bool filters_change);

#endif							/* TRUCKER_API_H */
