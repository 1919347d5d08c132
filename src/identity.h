/*
 * identity.h
 *	  Run a transaction as a truck's role, and come back clean.
 */
#ifndef TRUCKER_IDENTITY_H
#define TRUCKER_IDENTITY_H

/* Saved identity of code that acts for a while with other rights. */
typedef struct TruckerIdentity
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
} TruckerIdentity;

/* in identity.c */

/* in any backend, inside a transaction */
extern void trucker_identity_push(TruckerIdentity *saved, Oid role, int sec_context,
								  const char *search_path);
extern void trucker_identity_pop(const TruckerIdentity *saved);

/* in a worker */
extern void trucker_identity_protect(void);

/* in a worker: whole transactions as the truck's role */
extern void trucker_identity_init(Oid role, bool role_is_superuser);
extern void trucker_identity_begin(Oid role, bool role_is_superuser, const char *search_path);
extern void trucker_identity_commit(void);
extern void trucker_identity_reset(void);

#endif							/* TRUCKER_IDENTITY_H */
