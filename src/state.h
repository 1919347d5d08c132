/*
 * state.h
 *	  What trucks are to do, which streams there are, and which carries which truck.
 */
#ifndef TRUCKER_STATE_H
#define TRUCKER_STATE_H

#include "access/xlogdefs.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "truck.h"

/* holds in a query in which t is trucker.truck */
#define TRUCKER_UNREADABLE "EXISTS (SELECT FROM trucker.unreadable_input u WHERE u.truck_id = t.id)"

/* A row of trucker.stream. */
typedef struct TruckerStreamRow
{
	pg_uuid_t	id;
	Oid			owner;
	Oid			role;
	char	   *name;
	bool		home;			/* trucks end here; else it is a catch-up stream */
	char	   *slot_name;		/* NULL: trucks may still come aboard */
	XLogRecPtr	confirmed_lsn;	/* of its slot, noted while it rests; 0: not noted */
	char	   *publication;	/* what a slot of pgoutput is read with; NULL: none yet */
	char	   *output_plugin;	/* that it shall be read by; NULL: as trucker.output_plugin says */
} TruckerStreamRow;

/*
 * What a table that belongs to an input was called from some point of the WAL on: a
 * row of trucker.input_table.
 */
typedef struct TruckerInputName
{
	Oid			relid;			/* the input */
	Oid			leaf;			/* the input itself, or a partition of it */
	char	   *schema;
	char	   *table;			/* NULL: its changes are not the input's, or not to be had */
	XLogRecPtr	from_lsn;		/* changes of the input below it are in the backfill; 0: yet to be loaded */
	XLogRecPtr	named_lsn;		/* for changes from here on; 0: the first name that matters */
	uint64		named_by;		/* 0, or a transaction: for others' changes from its commit on */
	XLogRecPtr	commit_lsn;		/* that commit's; 0: not known */
} TruckerInputName;

/* What columns an input table had from some point of the WAL on: of the same row. */
typedef struct TruckerInputColumns
{
	XLogRecPtr	named_lsn;
	uint64		named_by;		/* as with names */
	XLogRecPtr	commit_lsn;
	int			ncolumns;		/* 0: not known */
	char	  **columns;		/* as trucker.input_columns() tells of them */
	Bitmapset  *defaulted;		/* attnums of those that had a default of some kind */
} TruckerInputColumns;

#define TRUCKER_MAX_ALTERED 16

/* What a statement has done to tables. */
typedef struct TruckerAltered
{
	XLogRecPtr	lsn;			/* where the WAL stood when it had the lock on the first one; 0: none yet, or not known */
	int			ntables;		/* whose columns it has altered; more than fit: any */
	Oid			tables[TRUCKER_MAX_ALTERED];
} TruckerAltered;

/* A truck as a node of the graph that trucks make (lineage.c). */
typedef struct TruckerNode
{
	pg_uuid_t	id;
	char	   *name;
	bool		enabled;
	List	   *inputs;			/* tables (Oid) that it reads */
	List	   *outputs;		/* tables (Oid) that it is known to write */
} TruckerNode;

/* in state.c: trucks */
extern void trucker_state_delete(const pg_uuid_t *truck_id);
extern bool trucker_state_set_enabled(const pg_uuid_t *truck_id, bool enabled);
extern void trucker_state_request_resume(const pg_uuid_t *truck_id);
extern void trucker_state_request_resync(const pg_uuid_t *truck_id);
extern void trucker_state_set_backfilled(const pg_uuid_t *truck_id, XLogRecPtr consistent_point,
										 const char *slot_name);
extern bool trucker_state_record_error(const pg_uuid_t *truck_id, const char *message, bool lost, bool failed,
									   XLogRecPtr failed_lsn);
extern char *trucker_state_last_error(const pg_uuid_t *truck_id);
extern void trucker_state_ask_skip(const pg_uuid_t *truck_id, XLogRecPtr lsn);
extern void trucker_state_skipped(const pg_uuid_t *truck_id, const char *message);
extern List *trucker_state_unreadable_trucks(void);
extern void trucker_state_set_lost(const pg_uuid_t *truck_id);
extern void trucker_state_touch(const pg_uuid_t *truck_id);

/* in state_input.c: input tables */
extern List *trucker_state_input_names(const pg_uuid_t *truck_id, uint64 *complete_to);
extern List *trucker_state_current_names(const TruckerTruck *truck, const List *relids);
extern void trucker_state_set_input_names(const pg_uuid_t *truck_id, List *names);
extern void trucker_state_add_input_names(const pg_uuid_t *truck_id, List *names);
extern void trucker_state_remove_inputs(const pg_uuid_t *truck_id);
extern void trucker_state_set_added(const TruckerTruck *truck, List *names);
extern void trucker_state_note_commit(const pg_uuid_t *stream_id, uint64 xid, XLogRecPtr commit_lsn);
extern bool trucker_state_prune_names(const pg_uuid_t *truck_id, XLogRecPtr restart_lsn);
extern char *trucker_state_message_prefix(void);
extern List *trucker_state_columns(const pg_uuid_t *truck_id, Oid relid);
extern char *trucker_state_columns_version(const pg_uuid_t *truck_id, Oid relid);
extern void trucker_state_forget_columns(const pg_uuid_t *truck_id, Oid relid);

/* in input_ddl.c: DDL on input tables */
extern void trucker_ddl_lock_schema(const char *name);
extern List *trucker_ddl_note(const TruckerAltered *altered, bool unlocked, bool defaults_lost, bool types_altered,
							 void (*before_message) (void));
extern const char *trucker_ddl_unnoted(const pg_uuid_t *truck_id);
extern uint64 trucker_ddl_parse(const char *content, List **relids);

/* in state.c: what trucks write */
extern List *trucker_state_nodes(void);
extern void trucker_state_set_outputs(const pg_uuid_t *truck_id, List *relids, bool replace);

/* in state_stream.c: streams */
extern TruckerStreamRow *trucker_state_stream(const pg_uuid_t *stream_id);
extern TruckerStreamRow *trucker_state_lock_stream(const pg_uuid_t *stream_id);
extern TruckerStreamRow *trucker_state_home_of(const TruckerStreamRow *stream);
extern bool trucker_state_has_work(const pg_uuid_t *stream_id);
extern List *trucker_state_wanted_streams(void);
extern List *trucker_state_slot_names(void);
extern int	trucker_state_slot_count(void);
extern List *trucker_state_resting_streams(void);
extern bool trucker_state_is_resting(const TruckerStreamRow *stream);
extern int	trucker_state_gather(const pg_uuid_t *from, const pg_uuid_t *to, XLogRecPtr applied_lsn);
extern pg_uuid_t trucker_state_board(const TruckerTruck *truck);
extern void trucker_state_set_slot(const pg_uuid_t *stream_id, const char *slot_name);
extern bool trucker_state_reopen(const pg_uuid_t *stream_id);
extern pg_uuid_t trucker_state_add_catchup(const TruckerTruck *truck, const char *slot_name, const char *publication);
extern void trucker_state_set_publication(const pg_uuid_t *stream_id, const char *publication);
extern char *trucker_state_publication_of(const TruckerStreamRow *stream);
extern List *trucker_state_set_output_plugin(Oid owner, const char *name, const char *plugin);
extern char *trucker_state_output_plugin(Oid owner, const char *name);
extern List *trucker_state_catchup_streams(const pg_uuid_t *truck_id);
extern void trucker_state_move(const pg_uuid_t *truck_id, const pg_uuid_t *stream_id, XLogRecPtr applied_lsn);
extern bool trucker_state_hand_over(const pg_uuid_t *truck_id, const pg_uuid_t *from, const pg_uuid_t *to,
									XLogRecPtr applied_lsn);
extern bool trucker_state_lock_truck(const pg_uuid_t *truck_id, const pg_uuid_t *stream_id);
extern void trucker_state_set_home(const pg_uuid_t *stream_id, bool home);
extern bool trucker_state_rekey(const pg_uuid_t *stream_id, const TruckerTruck *truck);
extern void trucker_state_note_confirmed(void);
extern void trucker_state_forget_confirmed(const pg_uuid_t *stream_id);
extern List *trucker_state_empty_streams(void);
extern void trucker_state_delete_empty(const pg_uuid_t *stream_id);

#endif							/* TRUCKER_STATE_H */
