/*
 * pgoutput.c
 *	  The decoder for pgoutput, the output plugin of PostgreSQL's own logical replication.
 *
 * Messages are those of the manual's chapter "Logical Replication Message Formats", of
 * protocol versions 1 and 2.  A Relation message describes a table before the first change
 * of it, and whenever that description may have altered; the changes name the table by
 * OID, and hold nothing but values.  So the decoder remembers the descriptions, and the
 * fields of a message point at the names in them.
 *
 * What it makes of a change is what wal2json would have told:
 * - an update that leaves the key as it was comes without an old row: the old values of
 *   the key are those of the new row then;
 * - where only the key of the old row is known, the other columns come as nulls, which
 *   mean nothing, and are dropped;
 * - a TOAST value that was left unchanged is no field at all, but the message tells which
 *	 columns these are: a column that is neither was not sent, as the publication's column
 *	 list did not have it then (column_list.c).
 * Stored generated columns are missing (PostgreSQL 15 does not send them): generated.c.
 *
 * With version 2 of the protocol large transactions are sent while they run, in parts
 * (trucker.stream_in_progress; streamed.c keeps them).  Each message within a part has the xid
 * of its subtransaction behind its kind; that is taken out, so that the rest is a message as
 * any other, to be decoded when the transaction has committed.  Tables are described anew to
 * each such transaction, and what it was told last counts for what comes later, too: so its
 * Relation messages are kept, for its own changes, and remembered at once, for all others.
 *
 * Of what publications can do, column lists are used (column_list.c), and these are not:
 * - publish_via_partition_root: a change would come as one of the whole.  Partitions are
 *	 published one by one, so that a new one is only when it has a replica identity, and
 *	 toast.c must know in which of them the row is;
 * - row filters: there is nothing that they could be made of.  A truck's WHERE may read
 *	 other tables, which change by themselves; and an update that takes a row out of it, or
 *	 into it, would come as a delete or an insert, so that r would not be what it is with
 *	 wal2json.
 *
 * No message is trusted: each read is checked against the end of the message, each count
 * against what was announced.  Whatever does not fit is ERRCODE_PROTOCOL_VIOLATION, and
 * no error repeats a value.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "decoder.h"
#include "pgoutput.h"

/* flags of a column in a Relation message, and of a logical message */
#define FLAG_KEY 1
#define FLAG_TRANSACTIONAL 1

typedef struct KnownColumn
{
	const char *name;
	Oid			type;
	bool		is_key;			/* of the replica identity */
} KnownColumn;

/* A table as a Relation message has described it. */
typedef struct KnownTable
{
	Oid			relid;			/* hash key */
	char		status;			/* simplehash's */
	MemoryContext context;		/* of all that follows */
	const char *raw;			/* the message, to be compared */
	int			rawlen;
	const char *schema;
	const char *table;
	bool		full;			/* REPLICA IDENTITY FULL */
	int			ncolumns;
	KnownColumn *columns;
} KnownTable;

#define SH_PREFIX known
#define SH_ELEMENT_TYPE KnownTable
#define SH_KEY_TYPE Oid
#define SH_KEY relid
#define SH_HASH_KEY(tb, key) murmurhash32(key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct Decoding
{
	MemoryContext context;
	known_hash *tables;
	const char *message_prefix; /* of the only logical messages that are wanted; NULL: none are */
	bool		in_progress;	/* transactions may come while they run */
	TransactionId part_of;		/* the one that a part of is being sent; or invalid */
} Decoding;

/* A message while it is read. */
typedef struct Reader
{
	const char *data;
	int			len;
	int			at;
} Reader;

static void
malformed(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("message from the output plugin pgoutput is malformed"),
			 errdetail("%s", detail)));
}

/* ----
 * Reading
 * ----
 */

static const char *
take_bytes(Reader *reader, int n)
{
	const char *bytes = reader->data + reader->at;

	if (n < 0 || n > reader->len - reader->at)
		malformed("The message ends too early.");
	reader->at += n;
	return bytes;
}

static char
take_byte(Reader *reader)
{
	return *take_bytes(reader, 1);
}

static uint16
take_int16(Reader *reader)
{
	uint16		n;

	memcpy(&n, take_bytes(reader, sizeof(n)), sizeof(n));
	return pg_ntoh16(n);
}

static uint32
take_int32(Reader *reader)
{
	uint32		n;

	memcpy(&n, take_bytes(reader, sizeof(n)), sizeof(n));
	return pg_ntoh32(n);
}

static uint64
take_int64(Reader *reader)
{
	uint64		n;

	memcpy(&n, take_bytes(reader, sizeof(n)), sizeof(n));
	return pg_ntoh64(n);
}

/* A string with its zero byte, where it stands in the message. */
static const char *
take_string(Reader *reader)
{
	const char *start = reader->data + reader->at;
	const char *end = memchr(start, '\0', reader->len - reader->at);

	if (end == NULL)
		malformed("A string has no end.");
	reader->at += end - start + 1;
	return start;
}

static void
check_end(const Reader *reader)
{
	if (reader->at != reader->len)
		malformed("The message is longer than it should be.");
}

/* ----
 * Tables
 * ----
 */

static const KnownTable *
take_table(Decoding *decoding, Reader *reader)
{
	const KnownTable *table = known_lookup(decoding->tables, take_int32(reader));

	if (table == NULL)
		malformed("The message is about a table that has not been described.");
	return table;
}

static void
take_columns(KnownTable *table, Reader *reader)
{
	table->ncolumns = take_int16(reader);
	if (table->ncolumns > MaxHeapAttributeNumber)
		malformed("A table has too many columns.");
	table->columns = palloc0(Max(table->ncolumns, 1) * sizeof(KnownColumn));
	for (int i = 0; i < table->ncolumns; i++)
	{
		KnownColumn *column = &table->columns[i];

		column->is_key = (take_byte(reader) & FLAG_KEY) != 0;
		column->name = take_string(reader);
		column->type = take_int32(reader);
		(void) take_int32(reader);	/* its type modifier: values are as that had them */
	}
}

/* Read a copy of the message, at which the description will point. */
static void
describe(KnownTable *table, Reader *reader)
{
	table->schema = take_string(reader);
	/* so it is written for the system's own */
	if (table->schema[0] == '\0')
		table->schema = "pg_catalog";
	table->table = take_string(reader);
	table->full = take_byte(reader) == 'f';
	take_columns(table, reader);
	check_end(reader);
}

/*
 * Remember a table, or what has become of it.  Messages that were decoded before may point
 * at what it was, but these live until the next one is decoded, which is this one.
 */
static void
remember_table(Decoding *decoding, const char *data, int len)
{
	Reader		reader = {data, len, 1};
	Oid			relid = take_int32(&reader);
	KnownTable	described = {.relid = relid};
	KnownTable *table = known_lookup(decoding->tables, relid);
	MemoryContext old;
	bool		found;

	/* it is sent again whenever anything may have been altered */
	if (table && table->rawlen == len && memcmp(table->raw, data, len) == 0)
		return;

	described.context = AllocSetContextCreate(decoding->context, "trucker described table", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(described.context);
	described.raw = memcpy(palloc(len), data, len);
	described.rawlen = len;
	reader.data = described.raw;
	describe(&described, &reader);
	MemoryContextSwitchTo(old);

	table = known_insert(decoding->tables, relid, &found);
	if (found)
		MemoryContextDelete(table->context);
	described.status = table->status;
	*table = described;
}

/* ----
 * Rows
 * ----
 */

/*
 * A row's fields, in the order of the table's columns.  Values are where they stand in
 * copy, which is the message once more: there each of them gets the zero byte that ends
 * it, in the place of what follows, which is read from the message itself.  only_key: the
 * others are there, and mean nothing.  message: where to tell of columns left unchanged; or NULL.
 */
static TruckerField *
take_row(const KnownTable *table, Reader *reader, char *copy, bool only_key, int *nfields, TruckerMessage *message)
{
	TruckerField *fields;
	int			n = 0;

	if (take_int16(reader) != table->ncolumns)
		malformed("A row has more or less columns than its table.");
	fields = palloc(Max(table->ncolumns, 1) * sizeof(TruckerField));
	for (int i = 0; i < table->ncolumns; i++)
	{
		const KnownColumn *column = &table->columns[i];
		TruckerField *field = &fields[n];
		char		kind = take_byte(reader);

		memset(field, 0, sizeof(*field));
		field->name = column->name;
		field->type_oid = column->type;
		if (kind == 't' || kind == 'b')
		{
			int			len = (int) take_int32(reader);
			const char *value = take_bytes(reader, len);

			field->value = copy + (value - reader->data);
			field->len = len;
			field->binary = kind == 'b';
			copy[reader->at] = '\0';
			if (kind == 't' && memchr(value, '\0', len) != NULL)
				malformed("A text holds a zero byte.");
		}
		else if (kind != 'n' && kind != 'u')
			malformed("A value is of an unknown kind.");
		if (kind == 'u' && message)
		{
			if (message->unchanged == NULL)
				message->unchanged = palloc(table->ncolumns * sizeof(char *));
			message->unchanged[message->nunchanged++] = column->name;
		}
		if (kind != 'u' && (column->is_key || !only_key))
			n++;
	}
	*nfields = n;
	return fields;
}

/* The key of the new row, which is the old row's, too. */
static void
copy_key(const KnownTable *table, TruckerMessage *message)
{
	int			at = 0;

	if (table->full)
		malformed("An update carries no old row, and the table's replica identity is FULL.");
	message->oldfields = palloc(Max(message->nnew, 1) * sizeof(TruckerField));
	/* fields are in the order of the columns, but some may be missing */
	for (int i = 0; i < message->nnew; i++)
	{
		while (table->columns[at].name != message->newfields[i].name)
			at++;
		if (table->columns[at].is_key)
			message->oldfields[message->nold++] = message->newfields[i];
	}
}

/* Does an old row follow?  Its kind: 'K' or 'O'; or that of a new row, 'N'. */
static void
take_old_row(const KnownTable *table, Reader *reader, char *copy, char kind, TruckerMessage *message)
{
	if (kind != 'K' && kind != 'O')
		malformed("A row is neither an old one nor a key.");
	message->oldfields = take_row(table, reader, copy, kind == 'K', &message->nold, NULL);
}

static void
take_new_row(const KnownTable *table, Reader *reader, char *copy, char kind, TruckerMessage *message)
{
	if (kind != 'N')
		malformed("A row is not a new one.");
	message->newfields = take_row(table, reader, copy, false, &message->nnew, message);
	message->tells_unchanged = true;
}

/* An insert, update or delete, all of it but its kind. */
static void
take_change(Decoding *decoding, Reader *reader, TruckerMessage *message)
{
	const KnownTable *table = take_table(decoding, reader);
	char		kind = take_byte(reader);
	char	   *copy = palloc(reader->len + 1);

	memcpy(copy, reader->data, reader->len);
	message->relid = table->relid;
	message->schema = table->schema;
	message->table = table->table;
	if (message->kind == TRUCKER_MSG_DELETE)
		take_old_row(table, reader, copy, kind, message);
	else if (message->kind == TRUCKER_MSG_UPDATE && kind != 'N')
	{
		take_old_row(table, reader, copy, kind, message);
		kind = take_byte(reader);
		take_new_row(table, reader, copy, kind, message);
	}
	else
	{
		take_new_row(table, reader, copy, kind, message);
		if (message->kind == TRUCKER_MSG_UPDATE)
			copy_key(table, message);
	}
}

/* All tables of one TRUNCATE, the first one in *message. */
static void
take_truncate(Decoding *decoding, Reader *reader, TruckerMessage *message)
{
	uint32		n = take_int32(reader);

	(void) take_byte(reader);	/* CASCADE, RESTART IDENTITY: what became of it is what we are told */
	if (n == 0 || n > (uint32) (reader->len - reader->at) / sizeof(Oid))
		malformed("A TRUNCATE is about no table, or about more than are named.");
	for (uint32 i = 0; i < n; i++)
	{
		const KnownTable *table = take_table(decoding, reader);

		if (i > 0)
			message = message->also = palloc0(sizeof(TruckerMessage));
		message->decoder = &trucker_pgoutput;
		message->kind = TRUCKER_MSG_TRUNCATE;
		message->relid = table->relid;
		message->schema = table->schema;
		message->table = table->table;
	}
}

/* ----
 * Messages
 * ----
 */

static void
take_begin(Reader *reader, TruckerMessage *message)
{
	message->kind = TRUCKER_MSG_BEGIN;
	message->commit_lsn = take_int64(reader);
	/* a TimestampTz as it is */
	message->committed_at = (TimestampTz) take_int64(reader);
	message->xid = take_int32(reader);
}

static void
take_commit(Reader *reader, TruckerMessage *message)
{
	message->kind = TRUCKER_MSG_COMMIT;
	(void) take_byte(reader);	/* flags, of which there are none */
	message->commit_lsn = take_int64(reader);
	message->end_lsn = take_int64(reader);
	message->committed_at = (TimestampTz) take_int64(reader);
}

/*
 * A logical message.  pgoutput sends everybody's, of any size: what is not ours is not
 * even copied.
 */
static bool
take_logical(const Decoding *decoding, Reader *reader, TruckerMessage *message)
{
	const char *prefix;
	const char *content;
	int			len;

	message->kind = TRUCKER_MSG_LOGICAL;
	message->transactional = (take_byte(reader) & FLAG_TRANSACTIONAL) != 0;
	(void) take_int64(reader);	/* its LSN, as in the header of what it comes in */
	prefix = take_string(reader);
	len = (int) take_int32(reader);
	content = take_bytes(reader, len);
	if (decoding->message_prefix == NULL || strcmp(prefix, decoding->message_prefix) != 0)
		return false;
	message->prefix = decoding->message_prefix;
	message->content = pnstrdup(content, len);
	return true;
}

/* ----
 * Transactions in progress
 * ----
 */

/* No part of another one can come within it. */
static void
take_stream_start(Decoding *decoding, Reader *reader, TruckerMessage *message)
{
	message->kind = TRUCKER_MSG_STREAM_START;
	message->xid = take_int32(reader);
	(void) take_byte(reader);	/* is it the first part? */
	if (!TransactionIdIsNormal(message->xid))
		malformed("A transaction in progress has no transaction ID.");
	decoding->part_of = message->xid;
}

static void
take_stream_stop(Decoding *decoding, TruckerMessage *message)
{
	message->kind = TRUCKER_MSG_STREAM_STOP;
	message->xid = decoding->part_of;
	decoding->part_of = InvalidTransactionId;
}

static void
take_stream_commit(Reader *reader, TruckerMessage *message)
{
	TransactionId xid = take_int32(reader);

	take_commit(reader, message);
	message->kind = TRUCKER_MSG_STREAM_COMMIT;
	message->xid = xid;
}

static void
take_stream_abort(Reader *reader, TruckerMessage *message)
{
	message->kind = TRUCKER_MSG_STREAM_ABORT;
	message->xid = take_int32(reader);
	message->subxid = take_int32(reader);
}

/*
 * A message that is to be decoded when its transaction has committed: without the xid
 * behind its kind.  False: it is of no use then, either.
 */
static bool
take_kept(Decoding *decoding, char kind, Reader *reader, TruckerMessage *message)
{
	TruckerMessage logical;
	char	   *kept;

	message->kind = TRUCKER_MSG_STREAM_KEEP;
	message->xid = decoding->part_of;
	message->subxid = take_int32(reader);
	if (!TransactionIdIsNormal(message->subxid))
		malformed("A change of a transaction in progress has no transaction ID.");
	message->keptlen = reader->len - sizeof(TransactionId);
	kept = palloc(message->keptlen);
	kept[0] = kind;
	memcpy(kept + 1, reader->data + reader->at, message->keptlen - 1);
	message->kept = kept;
	if (kind == 'R')
		remember_table(decoding, kept, message->keptlen);
	if (kind == 'M')
		return take_logical(decoding, reader, &logical);
	return true;
}

/* Types are known by their OIDs, and of origins we have no use. */
static void
skip_type(Reader *reader)
{
	(void) take_int32(reader);
	(void) take_string(reader);
	(void) take_string(reader);
}

static void
skip_origin(Reader *reader)
{
	(void) take_int64(reader);
	(void) take_string(reader);
}

static void *
begin(const TruckerDecodeRequest *request)
{
	Decoding   *decoding = palloc0(sizeof(Decoding));

	decoding->context = AllocSetContextCreate(CurrentMemoryContext, "trucker described tables", ALLOCSET_DEFAULT_SIZES);
	decoding->tables = known_create(decoding->context, 64, NULL);
	if (request->message_prefix)
		decoding->message_prefix = pstrdup(request->message_prefix);
	decoding->in_progress = request->in_progress;
	return decoding;
}

/* A message within a part of a transaction in progress, behind its kind. */
static bool
decode_within_part(Decoding *decoding, char kind, Reader *reader, TruckerMessage *message)
{
	switch (kind)
	{
		case 'I':
		case 'U':
		case 'D':
		case 'T':
		case 'M':
		case 'R':
			return take_kept(decoding, kind, reader, message);
		case 'E':
			take_stream_stop(decoding, message);
			check_end(reader);
			return true;
		case 'Y':
			(void) take_int32(reader);
			skip_type(reader);
			check_end(reader);
			return false;
		case 'O':
			skip_origin(reader);
			check_end(reader);
			return false;
	}
	malformed("The message is of a kind that cannot be part of a transaction in progress.");
	return false;
}

/* The decoder's decode: see decoder.h. */
static bool
decode(void *state, const char *data, int len, TruckerMessage *message)
{
	Decoding   *decoding = state;
	Reader		reader = {data, len, 0};
	bool		wanted = true;
	char		kind = take_byte(&reader);

	memset(message, 0, sizeof(*message));
	message->decoder = &trucker_pgoutput;
	if (TransactionIdIsValid(decoding->part_of))
		return decode_within_part(decoding, kind, &reader, message);
	/* what has not been asked for is no message */
	if (!decoding->in_progress && strchr("ScA", kind) != NULL)
		kind = '?';
	switch (kind)
	{
		case 'B':
			take_begin(&reader, message);
			break;
		case 'C':
			take_commit(&reader, message);
			break;
		case 'I':
			message->kind = TRUCKER_MSG_INSERT;
			take_change(decoding, &reader, message);
			break;
		case 'U':
			message->kind = TRUCKER_MSG_UPDATE;
			take_change(decoding, &reader, message);
			break;
		case 'D':
			message->kind = TRUCKER_MSG_DELETE;
			take_change(decoding, &reader, message);
			break;
		case 'T':
			take_truncate(decoding, &reader, message);
			break;
		case 'M':
			wanted = take_logical(decoding, &reader, message);
			break;
		case 'R':
			remember_table(decoding, data, len);
			return false;
		case 'Y':
			skip_type(&reader);
			wanted = false;
			break;
		case 'O':
			skip_origin(&reader);
			wanted = false;
			break;
		case 'S':
			take_stream_start(decoding, &reader, message);
			break;
		case 'c':
			take_stream_commit(&reader, message);
			break;
		case 'A':
			take_stream_abort(&reader, message);
			break;
		default:
			/* those of other versions of the protocol, too */
			malformed("The message is of an unknown kind.");
	}
	check_end(&reader);
	return wanted;
}

const TruckerDecoder trucker_pgoutput = {
	.plugin = TRUCKER_PGOUTPUT,
	.needs_publication = true,
	.omits_generated = true,
	.append_options = trucker_pgoutput_append_options,
	.begin = begin,
	.decode = decode
};
