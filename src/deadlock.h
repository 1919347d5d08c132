/*
 * deadlock.h
 *	  Let the worker be the one that fails, when it and a session wait for each
 *	  other.
 */
#ifndef TRUCKER_DEADLOCK_H
#define TRUCKER_DEADLOCK_H

/* in deadlock.c */
extern void trucker_give_way_in_deadlocks(bool on);

#endif							/* TRUCKER_DEADLOCK_H */
