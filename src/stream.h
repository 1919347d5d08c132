/*
 * stream.h
 *	  Follow one stream's slot, for all trucks that it carries.
 */
#ifndef TRUCKER_STREAM_H
#define TRUCKER_STREAM_H

#include "batch.h"
#include "log.h"
#include "member.h"
#include "replication.h"
#include "streamed.h"

/* An input table of some of the stream's trucks that know the same names of it. */
typedef struct TruckerTable
{
	Oid			relid;
	char	   *history;		/* these names */
	int			number;
	List	   *readers;		/* of TruckerReader */
	TruckerNeeds *needs;		/* of the active ones, when the pass began */
} TruckerTable;

/* A table under one name, from some point of the WAL on. */
typedef struct TruckerSpan
{
	int			number;			/* of the TruckerTable that it belongs to */
	Oid			leaf;			/* the partition that it is, or invalid: the input itself */
	bool		alike;			/* its columns have the attnums that the input's have */
	XLogRecPtr	named_lsn;		/* see TruckerInputName */
	uint64		named_by;
	XLogRecPtr	commit_lsn;
	struct TruckerSpan *ended_by;	/* the same table's next; or NULL */
	struct TruckerSpan *same_name;	/* another one with this name; or NULL */
	struct TruckerSpan *same_leaf;	/* another one of this table; or NULL */
} TruckerSpan;

typedef struct TruckerReader
{
	TruckerMember *member;
	Oid			relid;
	XLogRecPtr	from_lsn;		/* changes below it are in the backfill */
} TruckerReader;

/* What comes after an attempt. */
typedef enum TruckerOutcome
{
	TRUCKER_AGAIN,				/* another one, when stream->next_attempt_at has come */
	TRUCKER_FINISHED			/* no truck of the stream shall run */
} TruckerOutcome;

/* What a worker knows of its stream from one attempt to the next. */
typedef struct TruckerStream
{
	pg_uuid_t	id;
	MemoryContext context;		/* of one attempt; all of the below */

	TruckerStreamRow *row;
	bool		rekeyed;		/* it is another role's or name's now: for another process */
	List	   *members;		/* of TruckerMember: also those that rest */
	MemoryContext members_context;
	TruckerReplication *replication;

	/* one pass: from the start of decoding until other tables, or trucks that are behind, want another */
	MemoryContext pass_context;
	int			nactive;
	List	   *tables;			/* of TruckerTable, by number */
	struct HTAB *tables_by_name;
	struct HTAB *tables_by_oid;
	const TruckerDecoder *decoder;	/* of the slot's output plugin */
	void	   *decoding;		/* what it remembers */
	const char *message_prefix; /* of our own logical messages */
	TruckerStreamed *streamed;	/* source transactions that come while they run */
	bool		in_progress;	/* ... are asked for */
	TruckerBatch *batch;
	TimestampTz pass_started;
	TimestampTz fresh_at;		/* when it came to what no truck had applied; 0: not yet */
	bool		pass_is_over;
	uint64		ddl_xid;		/* source transaction that has altered inputs, and ended the pass; 0: none */
	XLogRecPtr	ddl_lsn;		/* start of its commit record */
	struct TruckerAddition *addition;	/* inputs that are being added to its only truck; or NULL */
	struct TruckerVerification *verification;	/* its only truck is being brought to read_until; or NULL */
	XLogRecPtr	read_until;		/* that truck gets nothing that commits at or after it; 0: no limit */
	XLogRecPtr	switch_lsn;		/* what commits at or after it is for the new definition of some truck; 0: no such */
	TimestampTz settle_at;		/* when to look again where that is */
	TimestampTz lists_at;		/* when to look again at columns to publish */
	uint64		lists_seen;		/* ... were looked at as of that many alterations */

	/* the source transaction that is being received */
	bool		in_source;
	bool		announced;		/* has batch or pipeline been told of it? */
	TruckerMessage begin;
	MemoryContext kept_context; /* its messages have been kept, and are being read; or NULL */
	void	   *kept_decoding;	/* ... what the decoder remembers of these */
	TruckerMessage kept_commit; /* ... its end */
	TruckerMember *direct;		/* the only active one: takes changes as they arrive */
	TimestampTz batch_started;	/* 0: no batch is open */
	XLogRecPtr	batch_end;		/* end of the last whole source transaction in it */
	XLogRecPtr	idle_lsn;		/* the walsender had no more before it; 0: taken over */
	XLogRecPtr	applied;		/* all before it is applied by all active trucks */
	TimestampTz sent_at;
	TimestampTz confirmed_at;
	TimestampTz looked_at;		/* when we last looked who is aboard */
	TimestampTz switch_at;		/* when to look again whether it can be switched to another plugin */
	bool		switches;		/* it can, between passes */
	XLogRecPtr	standby_lsn;	/* record of running transactions, written to join */
	TimestampTz standby_at;		/* 0: not written */
	TimestampTz joined_at;		/* when we last tried to join the home */
	MemoryContext message_context;

	/* from one attempt to the next */
	TruckerStreamCount count;
	TruckerRepeats repeats;		/* of its failures, in the log */
	int			failures;		/* of the stream itself, in a row */
	bool		as_text;		/* the walsender could not send a value in binary form */
	TimestampTz next_attempt_at;	/* 0: at once */
	XLogRecPtr	published;		/* what shared memory says of the active trucks */
	XLogRecPtr	confirmed;		/* what the slot can have been told by now; 0: not known */
} TruckerStream;

/* in stream.c */
extern TruckerOutcome trucker_stream_follow(TruckerStream *stream);
extern XLogRecPtr trucker_stream_limit(const TruckerStream *stream);
extern TruckerReplication *trucker_stream_connect(const TruckerStream *stream);
extern void trucker_stream_abandon(TruckerStream *stream);

/* in apply.c: a kept batch is applied, truck by truck */
extern bool trucker_apply_goes_alone(const TruckerMember *member, XLogRecPtr commit_lsn);
extern bool trucker_apply_must_keep(const TruckerMember *member, XLogRecPtr commit_lsn);
extern bool trucker_apply_is_skipped(const TruckerMember *member, XLogRecPtr commit_lsn);
extern Oid	trucker_apply_relid(const TruckerTable *table, const TruckerMember *member, XLogRecPtr commit_lsn);
extern void trucker_apply_commit(TruckerStream *stream, TruckerMember *member, XLogRecPtr end_lsn);
extern void trucker_apply_to_all(TruckerStream *stream);

/* in receive.c: what is received becomes batches */
extern void trucker_receive(TruckerStream *stream);
extern void trucker_receive_confirm(TruckerStream *stream, bool force);

/* in roster.c: which trucks the stream carries */
extern bool trucker_roster_refresh(TruckerStream *stream);
extern bool trucker_roster_has_work(const TruckerStream *stream);
extern TimestampTz trucker_roster_next_retry(const TruckerStream *stream);
extern void trucker_roster_activate(TruckerStream *stream);
extern TruckerState trucker_roster_active_state(const TruckerStream *stream);
extern XLogRecPtr trucker_roster_confirmable(TruckerStream *stream);
extern XLogRecPtr trucker_roster_least_position(const TruckerStream *stream);
extern void trucker_roster_note_applied(TruckerStream *stream);
extern bool trucker_roster_has_unflushed(const TruckerStream *stream);
extern void trucker_roster_record_error(TruckerStream *stream, const ErrorData *edata);

/* in tables.c: the input tables of the stream's trucks */
extern void trucker_tables_build(TruckerStream *stream);
extern void trucker_tables_find_needs(TruckerStream *stream, TruckerDecodeRequest *request);
extern TruckerSpan *trucker_tables_find(const TruckerStream *stream, const TruckerMessage *change, TransactionId xid);
extern TruckerSpan *trucker_tables_next(const TruckerSpan *span, const TruckerMessage *change, TransactionId xid);
extern void trucker_tables_forget(TruckerStream *stream, const TruckerMember *member);
extern List *trucker_tables_truncated(const TruckerStream *stream, const TruckerMessage *truncates, TransactionId xid);
extern List *trucker_tables_names(const TruckerStream *stream);
extern void trucker_tables_check_names(TruckerStream *stream, TruckerMember *member);
extern void trucker_tables_check_all(TruckerStream *stream);
extern bool trucker_tables_were_altered(TruckerStream *stream);
extern List *trucker_tables_inputs(const TruckerTruck *truck);
extern void trucker_tables_lock(const List *relids);
extern List *trucker_tables_unloaded(const TruckerTruck *truck, List **names);

/* in transition.c: from one state of a truck, or stream, to another */
extern bool trucker_transition_leave(TruckerStream *stream, TruckerMember *member);
extern bool trucker_transition_join(TruckerStream *stream);
extern void trucker_transition_let_leave(TruckerStream *stream);
extern void trucker_transition_board_again(TruckerStream *stream, TruckerMember *member);
extern void trucker_transition_reopen(TruckerStream *stream);
extern bool trucker_transition_promote(TruckerStream *stream);
extern bool trucker_transition_rekey(TruckerStream *stream, TruckerMember *member);

/* in switch.c: another output plugin */
extern bool trucker_switch_is_due(TruckerStream *stream);
extern bool trucker_switch(TruckerStream *stream);
extern const char *trucker_switch_publication(const TruckerStreamRow *stream);
extern bool trucker_switch_suits(const TruckerStreamRow *from, const TruckerStreamRow *to,
								 const TruckerMember *member, XLogRecPtr lsn);
extern bool trucker_switch_prepare_to_join(const TruckerStream *stream, const TruckerStreamRow *home);

/* in redefine.c: by which definition an altered truck is run */
extern bool trucker_redefine_arrange(TruckerStream *stream);
extern void trucker_redefine_end_pass(TruckerStream *stream);
extern void trucker_redefine_settle(TruckerStream *stream);
extern bool trucker_redefine_is_waiting(const TruckerStream *stream);
extern bool trucker_redefine_is_due(TruckerStream *stream);

/* in transition.c: for both */
extern void trucker_transition_begin(void);
extern void trucker_transition_commit(void);
extern void trucker_transition_copy_slot(const char *from, const char *to, const char *plugin);

/* in retry.c */
extern bool trucker_retry_is_due(const TruckerStream *stream);
extern void trucker_retry_work(TruckerStream *stream);

/* in first_start.c */
extern bool trucker_first_start(TruckerStream *stream);
extern void trucker_first_start_abandon(void);
extern void trucker_first_start_wait_for_abandoned(void);

/* in added_tables.c */
extern bool trucker_added_is_alone(const TruckerStream *stream, const TruckerMember *member);
extern TruckerMember *trucker_added_member(const TruckerStream *stream);
extern bool trucker_added_is_due(const TruckerStream *stream);
extern void trucker_added_begin(TruckerStream *stream);
extern void trucker_added_end(TruckerStream *stream);

/* in verification.c */
extern TruckerMember *trucker_verification_member(const TruckerStream *stream);
extern bool trucker_verification_needs_own_stream(const TruckerStream *stream, const TruckerMember *member);
extern bool trucker_verification_is_due(const TruckerStream *stream);
extern void trucker_verification_begin(TruckerStream *stream);
extern void trucker_verification_end(TruckerStream *stream);

#endif							/* TRUCKER_STREAM_H */
