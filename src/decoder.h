/*
 * decoder.h
 *	  What an output plugin's message becomes, and what a decoder must offer.
 *
 * A decoder turns one message of the replication stream into one
 * TruckerMessage.  It does no I/O and looks at no catalog: names and values
 * are those of the moment of the change, as the plugin wrote them.  Matching
 * them to today's table is changeset.c's job.
 */
#ifndef TRUCKER_DECODER_H
#define TRUCKER_DECODER_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

typedef enum TruckerMessageKind
{
	TRUCKER_MSG_BEGIN,
	TRUCKER_MSG_COMMIT,
	TRUCKER_MSG_INSERT,
	TRUCKER_MSG_UPDATE,
	TRUCKER_MSG_DELETE,
	TRUCKER_MSG_TRUNCATE,
	TRUCKER_MSG_LOGICAL			/* pg_logical_emit_message() and the like */
} TruckerMessageKind;

/*
 * One column's value.  A column that the plugin left out (an unchanged TOAST
 * value, a column added later) has no field at all: absent is not NULL.
 */
typedef struct TruckerField
{
	const char *name;			/* column name at the time of the change */
	int			attnum;			/* pg_attribute.attnum, or 0 if not sent */
	const char *value;			/* text form; NULL means SQL NULL */
} TruckerField;

typedef struct TruckerMessage
{
	TruckerMessageKind kind;
	TransactionId xid;			/* InvalidTransactionId if not sent */
	TimestampTz committed_at;	/* 0 if not sent */
	XLogRecPtr	commit_lsn;		/* BEGIN, COMMIT: start of the commit record */
	XLogRecPtr	end_lsn;		/* BEGIN, COMMIT: end of the commit record */
	XLogRecPtr	lsn;			/* start of its own record; the receiver fills it in */

	/* INSERT, UPDATE, DELETE, TRUNCATE */
	const char *schema;
	const char *table;
	Oid			leaf;			/* the partition that it is a change of, or invalid; the receiver fills it in */
	int			nnew;			/* INSERT, UPDATE: the new row */
	TruckerField *newfields;
	int			nold;			/* UPDATE, DELETE: the old row, as far as sent */
	TruckerField *oldfields;

	/* LOGICAL */
	const char *prefix;
	const char *content;		/* NUL-terminated */
	bool		transactional;
} TruckerMessage;

/* What a stream asks of its plugin. */
typedef struct TruckerDecodeRequest
{
	List	   *tables;			/* of TruckerTableName *, historic names included */
	const char *message_prefix; /* of the only logical messages that are wanted */
} TruckerDecodeRequest;

typedef struct TruckerTableName
{
	char	   *schema;
	char	   *table;
} TruckerTableName;

typedef struct TruckerDecoder
{
	const char *plugin;			/* name of the output plugin */
	bool		bytea_lacks_prefix; /* bytea comes as bare hex, without \x */
	bool		loses_nan;		/* NaN and infinity arrive as NULL */

	/*
	 * Append the plugin's options as START_REPLICATION wants them, without the
	 * parentheses: "name" 'value', ...  Quoted for the replication grammar.
	 */
	void		(*append_options) (StringInfo buf, const TruckerDecodeRequest *request);

	/*
	 * Decode one message into *message, with all that it points at in the
	 * current memory context.  Raises ERRCODE_PROTOCOL_VIOLATION for a message
	 * that is not what the plugin is known to write; never crashes on one.
	 */
	void		(*decode) (const char *data, int len, TruckerMessage *message);
} TruckerDecoder;

/* in wal2json.c */
extern const TruckerDecoder trucker_wal2json;

#endif							/* TRUCKER_DECODER_H */
