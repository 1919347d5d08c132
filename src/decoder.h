/*
 * decoder.h
 *	  What an output plugin's message becomes, and what a decoder must offer.
 *
 * A decoder turns one message of the replication stream into one
 * TruckerMessage.  It does no I/O and looks at no catalog: names and values
 * are those of the moment of the change, as the plugin wrote them.  Matching
 * them to today's table is row_message.c's job.
 */
#ifndef TRUCKER_DECODER_H
#define TRUCKER_DECODER_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

typedef enum TruckerMessageKind
{
	TRUCKER_MSG_BEGIN,
	TRUCKER_MSG_COMMIT,
	TRUCKER_MSG_INSERT,
	TRUCKER_MSG_UPDATE,
	TRUCKER_MSG_DELETE,
	TRUCKER_MSG_TRUNCATE,
	TRUCKER_MSG_LOGICAL,		/* pg_logical_emit_message() and the like */

	/*
	 * Of transactions that are sent while they run, if that is asked for.  What lies between
	 * a start and the next stop is of one of them, and comes as messages to be kept.
	 */
	TRUCKER_MSG_STREAM_START,
	TRUCKER_MSG_STREAM_KEEP,
	TRUCKER_MSG_STREAM_STOP,
	TRUCKER_MSG_STREAM_COMMIT,	/* what is kept may be decoded, as if it came now */
	TRUCKER_MSG_STREAM_ABORT	/* of the transaction, or of one of its subtransactions */
} TruckerMessageKind;

/*
 * One column's value.  A column that the plugin left out (an unchanged TOAST
 * value, a column added later) has no field at all: absent is not NULL.
 */
typedef struct TruckerField
{
	const char *name;			/* column name at the time of the change */
	int			attnum;			/* pg_attribute.attnum, or 0 if not sent */
	const char *value;			/* NULL means SQL NULL; a zero byte follows it */
	bool		binary;			/* value is in the type's binary form, else it is text */
	int			len;			/* with binary: of value, in bytes */
	const char *type;			/* as the plugin writes it; NULL if not sent */
	Oid			type_oid;		/* the column's type then, or InvalidOid if not sent */
} TruckerField;

typedef struct TruckerMessage
{
	const struct TruckerDecoder *decoder;	/* who has read it */
	TruckerMessageKind kind;
	TransactionId xid;			/* InvalidTransactionId if not sent */
	TimestampTz committed_at;	/* 0 if not sent */
	XLogRecPtr	commit_lsn;		/* BEGIN, COMMIT: start of the commit record */
	XLogRecPtr	end_lsn;		/* COMMIT, and BEGIN if sent: end of the commit record */
	XLogRecPtr	lsn;			/* start of its own record; the receiver fills it in */
	int			size;			/* of the plugin's message, in bytes; likewise */

	/* INSERT, UPDATE, DELETE, TRUNCATE */
	Oid			relid;			/* of the table, or InvalidOid if not sent: then names tell */
	const char *schema;
	const char *table;
	Oid			leaf;			/* the partition that it is a change of, or invalid; the receiver fills it in */
	int			nnew;			/* INSERT, UPDATE: the new row */
	TruckerField *newfields;
	bool		tells_unchanged;	/* INSERT, UPDATE: all columns that were sent are told of */
	int			nunchanged;		/* ... these among them, without their large values, which were left as they were */
	const char **unchanged;		/* names */
	int			nold;			/* UPDATE, DELETE: the old row, as far as sent */
	TruckerField *oldfields;
	struct TruckerMessage *also;	/* TRUNCATE: the next table of the same statement, or NULL */

	/* LOGICAL */
	const char *prefix;
	const char *content;		/* NUL-terminated */
	bool		transactional;

	/* STREAM_KEEP, STREAM_ABORT: what it is about; may be xid itself */
	TransactionId subxid;

	/* STREAM_KEEP: a message that another state, made by begin(), will decode */
	const char *kept;
	int			keptlen;
} TruckerMessage;

/* What a stream asks of its plugin. */
typedef struct TruckerDecodeRequest
{
	List	   *tables;			/* of TruckerTableName *, historic names included */
	List	   *publications;	/* names (char *), if the decoder needs them */
	const char *message_prefix; /* of the only logical messages that are wanted */
	bool		no_updates;		/* nobody wants updates, nor deletes */
	bool		no_truncates;
	bool		as_text;		/* some types have no binary form: all values are wanted as text (value.c) */
	bool		in_progress;	/* large transactions are wanted while they run, if the plugin can */
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
	bool		needs_publication;	/* it sends what its publications hold, and knows of no list of tables */
	bool		omits_generated;	/* stored generated columns are not sent */

	/* The decoder for the version of the plugin that is installed; NULL: this one is for any. */
	const struct TruckerDecoder *(*installed) (void);

	/* Decoding could not be started, with this message.  NULL: that tells nothing. */
	void		(*refused) (const char *message);

	/*
	 * Append the plugin's options as START_REPLICATION wants them, without the
	 * parentheses: "name" 'value', ...  Quoted for the replication grammar.
	 */
	void		(*append_options) (StringInfo buf, const TruckerDecodeRequest *request);

	/*
	 * What the decoder has to remember from one message of a replication stream to the
	 * next, in the current memory context.  NULL instead of the function: nothing.
	 */
	void	   *(*begin) (const TruckerDecodeRequest *request);

	/*
	 * Decode one message into *message, with all that it points at in the
	 * current memory context, or in that of state, which is what begin() has
	 * returned; the latter is valid until the next message is decoded.  False: the
	 * message is the decoder's own business, and *message is nothing.  Raises
	 * ERRCODE_PROTOCOL_VIOLATION for a message that is not what the plugin is
	 * known to write; never crashes on one.
	 */
	bool		(*decode) (void *state, const char *data, int len, TruckerMessage *message);
} TruckerDecoder;

/* the output plugins */
#define TRUCKER_PGOUTPUT "pgoutput"

/* in wal2json.c */
extern const TruckerDecoder trucker_wal2json;
extern const TruckerDecoder trucker_wal2json_exact;

/* in pgoutput.c */
extern const TruckerDecoder trucker_pgoutput;

/* in decoder.c */
extern const TruckerDecoder *trucker_decoder_find(const char *plugin);
extern const TruckerDecoder *trucker_decoder_installed(const TruckerDecoder *decoder);
extern char *trucker_decoder_library(const char *plugin);
extern const TruckerDecoder *trucker_decoder_wanted(const char *plugin);

#endif							/* TRUCKER_DECODER_H */
