/*
 * gather.h
 *	  Trucks that rest share a slot.
 */
#ifndef TRUCKER_GATHER_H
#define TRUCKER_GATHER_H

/* in gather.c */
extern bool trucker_gather(MemoryContext context);

#endif							/* TRUCKER_GATHER_H */
