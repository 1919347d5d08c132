/*
 * budget.h
 *	  How much WAL the server keeps for trucks.
 */
#ifndef TRUCKER_BUDGET_H
#define TRUCKER_BUDGET_H

#include "slots.h"

/* How often the launcher looks at the slots, in milliseconds. */
#define TRUCKER_BUDGET_LOOK_MS 5000

/* What a slot keeps for a truck, in bytes. */
typedef struct TruckerKept
{
	uint64		behind;			/* since what the truck has applied */
	uint64		open;			/* for transactions that are still open; 0 as long as that is not certain */
} TruckerKept;

/* in budget.c */
extern uint64 trucker_budget_bytes(void);
extern TruckerKept trucker_budget_measure(const TruckerSlotInfo *slot, XLogRecPtr lsn);
extern char *trucker_budget_warning(const char *slot_name, XLogRecPtr lsn);
extern const char *trucker_budget_oldest_transaction(void);
extern long trucker_budget_look(void);

/* in judge.c */
extern void trucker_judge(MemoryContext context);

#endif							/* TRUCKER_BUDGET_H */
