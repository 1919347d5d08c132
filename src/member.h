/*
 * member.h
 *	  One truck on the stream that carries it.
 */
#ifndef TRUCKER_MEMBER_H
#define TRUCKER_MEMBER_H

#include "former.h"
#include "pipeline.h"
#include "shmem.h"
#include "state.h"

typedef struct TruckerMember
{
	pg_uuid_t	truck_id;
	int			entry;			/* in shared memory */
	MemoryContext context;		/* all of the below */
	TruckerTruck *truck;
	TruckerPosition *position;
	TruckerPipeline *pipeline;
	MemoryContext names_context;	/* of names and unloaded */
	List	   *names;			/* of TruckerInputName: the inputs, as the plugin names them */
	uint64		names_before;	/* what transactions before this one did is among them */
	XLogRecPtr	names_lsn;		/* ... and what those did that committed here, or before */
	List	   *unloaded;		/* Oids: inputs that were added, and have yet to be loaded */
	XLogRecPtr	load_at;		/* ... when it has come so far */

	bool		active;			/* it gets the changes of this pass */
	bool		misplaced;		/* its role or its stream is not this one's: it gets none here */
	bool		gone;			/* it is to be forgotten, or loaded anew */
	bool		lost;			/* no attempt can help */
	bool		compiled;
	bool		arranged;		/* what it needs of publications is written down, since it was compiled */
	TruckerFormer *former;		/* what it was before it was altered; NULL: nothing, or of no concern here */
	bool		tidies;			/* of that, and of what it needs, nothing must be left */
	bool		in_batch;		/* the batch holds changes of its tables */
	uint64		names_seen;		/* its tables' names were right as of that many alterations */
	int			ntables;
	int		   *tables;			/* numbers of its tables in this pass */

	int			failures;		/* in a row, without progress */
	XLogRecPtr	failed_lsn;		/* one source transaction a batch until beyond it */
	TimestampTz retry_at;		/* 0: at once */
	bool		follows;		/* it is known to be as far as its stream */
	TimestampTz leave_at;		/* when to try again to leave the home; 0: not tried yet */
	bool		moved;			/* the home carries it from now on */
	bool		must_stay;		/* it could not leave: it is tried again among the others */
	int			patience;		/* how often its time among others has been doubled */

	XLogRecPtr	culprit_lsn;	/* the source transaction that is to be put into quarantine */
	char	   *culprit_error;	/* why; NULL: none is */
	bool		sets_apart;		/* it is being put there */
	bool		on_trial;		/* an error of the step says nothing about the truck */
	char	   *trial_error;	/* what it was; NULL: there was none */
} TruckerMember;

/* A step of a member's work that may fail. */
typedef void (*TruckerMemberStep) (TruckerMember *member, void *arg);

/* in member.c */
extern TruckerMember *trucker_member_create(const TruckerTruck *truck, XLogRecPtr slot_lsn, bool published);
extern void trucker_member_free(TruckerMember *member);
extern bool trucker_member_shall_run(const TruckerMember *member);
extern bool trucker_member_try(TruckerMember *member, TruckerMemberStep step, void *arg, bool alone);
extern void trucker_member_set_aside(TruckerMember *member);
extern void trucker_member_progress(TruckerMember *member, XLogRecPtr lsn, TruckerState state);
extern void trucker_member_raise_lost(TruckerMember *member, const char *why) pg_attribute_noreturn();
extern void trucker_member_drop_batch(TruckerMember *member);
extern bool trucker_member_heeds_ddl(const TruckerMember *member, uint64 xid, const List *relids, XLogRecPtr commit_lsn);
extern void trucker_member_read_names(TruckerMember *member);
extern void trucker_member_compile(TruckerMember *member, void *arg);
extern void trucker_member_end_turn(void);
extern void trucker_member_init(void);
extern char *trucker_error_text(const ErrorData *edata);
extern bool trucker_record_error(const TruckerTruck *truck, const ErrorData *edata, int failures, bool lost);

#endif							/* TRUCKER_MEMBER_H */
