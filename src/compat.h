/*
 * compat.h
 *	  The one place that knows the differences between server versions.
 *
 * Everything else in trucker is written against PostgreSQL 15; what another
 * major version spells differently gets a wrapper here, so that no other file
 * holds a PG_VERSION_NUM.
 */
#ifndef TRUCKER_COMPAT_H
#define TRUCKER_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "this release of trucker is for PostgreSQL 15"
#endif

/* Has the server given up the WAL that a slot needs?  (16: an enum instead) */
#define trucker_slot_is_invalidated(slot) \
	(!XLogRecPtrIsInvalid((slot)->data.invalidated_at))

/* A wait event of our own; before 17 there is one for all extensions. */
#if PG_VERSION_NUM >= 170000
#define trucker_new_wait_event(name) WaitEventExtensionNew(name)
#else
#define trucker_new_wait_event(name) PG_WAIT_EXTENSION
#endif

#endif							/* TRUCKER_COMPAT_H */
