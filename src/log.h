/*
 * log.h
 *	  What goes to the server's log, and how often.
 */
#ifndef TRUCKER_LOG_H
#define TRUCKER_LOG_H

#include "datatype/timestamp.h"

/* Values of trucker.log_level, and what a message is. */
typedef enum TruckerLogLevel
{
	TRUCKER_LOG_WARN,			/* start, stop, and what is out of the ordinary */
	TRUCKER_LOG_INFO,			/* what else happens to trucks and streams, once each */
	TRUCKER_LOG_DEBUG			/* each batch */
} TruckerLogLevel;

/* Values of trucker.log_slow_plans. */
typedef enum TruckerSlowPlans
{
	TRUCKER_PLANS_OFF,
	TRUCKER_PLANS_ON,
	TRUCKER_PLANS_ANALYZE
} TruckerSlowPlans;

/* A failure that may come again. */
typedef struct TruckerRepeats
{
	uint32		failure;		/* which one it is; 0: none */
	TimestampTz logged_at;
	int			more;			/* how often it has come since, without being logged */
} TruckerRepeats;

/* in log.c */
extern int	trucker_elevel(TruckerLogLevel level);
extern uint32 trucker_failure_hash(const ErrorData *edata, bool of_one);
extern bool trucker_repeats_log(TruckerRepeats *repeats, uint32 failure, int *more);
extern void trucker_log_error(const ErrorData *edata, int more);

#endif							/* TRUCKER_LOG_H */
