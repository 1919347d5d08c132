/*
 * wal2json.c
 *	  The decoder for the output plugin wal2json, format version 2: one JSON
 *	  object for each BEGIN, COMMIT, change, truncated table and message.
 *
 * This file turns one message into a TruckerMessage; the options that make the
 * plugin send that format are written by wal2json_options.c.  It does no I/O,
 * looks at no catalog and keeps no state.  It does not judge a row: whether a column
 * exists, a value fits its type, or a table is one of ours is the caller's
 * business.  It does not verify the text's encoding either: the message comes
 * from a walsender of this very database, in the database's encoding, and some
 * of what it may rightly hold is not valid there: a "char" above 127, or the
 * content of a logical message, which is whatever bytes its author chose.
 *
 * This is the hot path: every change of every table comes through here; how it is
 * read is told in wal2json_reader.h.  The SQL function decode_wal2json() reads
 * messages that somebody else has asked for, so for it fewer keys are required, and
 * more of them are read (trucker_wal2json_decode_any).  Format version 1 is
 * wal2json_v1.c's.
 *
 * What wal2json is not known to write is an error, not a guess: a wrong guess
 * would write wrong rows.  The one exception is a key that we have not heard
 * of, which is skipped, so that a newer plugin may say more.  No error names
 * any part of the message but the keys of the format: rows must not get into
 * the server's log.
 */
#include "postgres.h"

#include "compat.h"
#include "decoder.h"
#include "wal2json.h"
#include "wal2json_reader.h"

#define INITIAL_FIELDS 16

/* The keys of a message, as bits: what was seen, what must be seen. */
#define KEY_ACTION			(1 << 0)
#define KEY_XID				(1 << 1)
#define KEY_TIMESTAMP		(1 << 2)
#define KEY_LSN				(1 << 3)
#define KEY_NEXTLSN			(1 << 4)
#define KEY_SCHEMA			(1 << 5)
#define KEY_TABLE			(1 << 6)
#define KEY_COLUMNS			(1 << 7)
#define KEY_IDENTITY		(1 << 8)
#define KEY_TRANSACTIONAL	(1 << 9)
#define KEY_PREFIX			(1 << 10)
#define KEY_CONTENT			(1 << 11)

/* The same for the keys of a field; another set, another mask. */
#define FIELD_NAME			(1 << 0)
#define FIELD_VALUE			(1 << 1)
#define FIELD_POSITION		(1 << 2)
#define FIELD_TYPE			(1 << 3)

static const char *const key_names[] = {
	"action", "xid", "timestamp", "lsn", "nextlsn", "schema", "table",
	"columns", "identity", "transactional", "prefix", "content"
};

static const char *const field_key_names[] = {
	"name", "value", "position", "type"
};

/*
 * Which keys each action has.  An UPDATE or DELETE without an old row (wal2json
 * writes one, with a warning, when its catalog says that there is a replica
 * identity and the WAL holds none) cannot be applied to the right row, so
 * "identity" is required.
 */
typedef struct MessageShape
{
	char		action;
	TruckerMessageKind kind;
	int			required;
} MessageShape;

/*
 * Optional in all of them.  The xid and time of a message outside of any
 * transaction are null.  Only in BEGIN and COMMIT are time and LSN read: in
 * between, the time is repeated, and reading it would cost a third more; "lsn"
 * is the change's own position, of which nobody here has a use.
 */
#define KEYS_OPTIONAL	(KEY_XID | KEY_TIMESTAMP | KEY_LSN)
#define KEYS_NULLABLE	(KEY_XID | KEY_TIMESTAMP)

#define KEYS_COMMIT		(KEY_ACTION | KEY_LSN | KEY_NEXTLSN)
#define KEYS_TABLE		(KEY_ACTION | KEY_SCHEMA | KEY_TABLE)

static const MessageShape shapes[] = {
	{'B', TRUCKER_MSG_BEGIN, KEYS_COMMIT},
	{'C', TRUCKER_MSG_COMMIT, KEYS_COMMIT},
	{'I', TRUCKER_MSG_INSERT, KEYS_TABLE | KEY_COLUMNS},
	{'U', TRUCKER_MSG_UPDATE, KEYS_TABLE | KEY_COLUMNS | KEY_IDENTITY},
	{'D', TRUCKER_MSG_DELETE, KEYS_TABLE | KEY_IDENTITY},
	{'T', TRUCKER_MSG_TRUNCATE, KEYS_TABLE},
	{'M', TRUCKER_MSG_LOGICAL, KEY_ACTION | KEY_TRANSACTIONAL | KEY_PREFIX | KEY_CONTENT}
};

/* What the keys of a message said, until all of them are known. */
typedef struct MessageKeys
{
	int			seen;
	int			nulls;			/* those of them that were null */
	const char *action;
	const char *timestamp;
	const char *lsn;
	const char *nextlsn;
} MessageKeys;

/*
 * ---------- Fields ----------
 */

static void
take_field(JsonLexContext *lex, TruckerField *field)
{
	int			missing;
	int			seen = 0;
	bool		first = true;
	const char *key;

	/* positions come with the new row only, types if they are asked for */
	field->attnum = 0;
	field->type = NULL;

	if (lex->token_type != JSON_TOKEN_OBJECT_START)
		malformed("A field is not an object.");
	next_token(lex);

	while (next_member(lex, &first, &key))
	{
		int			which = lookup_key(key, field_key_names, lengthof(field_key_names));

		if (seen & which)
			malformed("Key \"%s\" occurs twice in a field.",
					  mask_name(which, field_key_names));
		seen |= which;

		switch (which)
		{
			case FIELD_NAME:
				field->name = take_required_string(lex, "name");
				break;
			case FIELD_VALUE:
				field->value = take_value(lex);
				break;
			case FIELD_POSITION:
				field->attnum = take_integer(lex, "position", PG_INT16_MAX);
				break;
			case FIELD_TYPE:
				field->type = take_required_string(lex, "type");
				break;
			default:
				trucker_json_skip(lex, 0);
		}
	}

	missing = (FIELD_NAME | FIELD_VALUE) & ~seen;
	if (missing != 0)
		malformed("Key \"%s\" is missing in a field.",
				  mask_name(missing, field_key_names));
}

/*
 * Take an array of fields.  That a table has no two columns of one name or
 * number is for the caller to rely on or to check: it places them by number
 * anyway, and here it would take a search.
 */
static TruckerField *
take_fields(JsonLexContext *lex, const char *key, int *nfields)
{
	int			size = INITIAL_FIELDS;
	int			n = 0;
	bool		first = true;
	TruckerField *fields;

	if (lex->token_type != JSON_TOKEN_ARRAY_START)
		malformed("The value of key \"%s\" is not an array.", key);
	next_token(lex);

	fields = palloc(size * sizeof(TruckerField));
	while (next_element(lex, &first, JSON_TOKEN_ARRAY_END))
	{
		if (n == size)
		{
			/* more than any table can have; and the size must not overflow */
			if (n > PG_INT16_MAX)
				malformed("The value of key \"%s\" has too many fields.", key);
			size *= 2;
			fields = repalloc(fields, size * sizeof(TruckerField));
		}
		memset(&fields[n], 0, sizeof(TruckerField));
		take_field(lex, &fields[n++]);
	}

	*nfields = n;
	return fields;
}

/*
 * ---------- Messages ----------
 */

/* Take the value of one key of the message, of which the name has been read. */
static void
take_key(JsonLexContext *lex, int which, MessageKeys *keys, TruckerMessage *message)
{
	if (which != 0 && lex->token_type == JSON_TOKEN_NULL)
	{
		/* whether it may be null depends on the action */
		keys->nulls |= which;
		next_token(lex);
		return;
	}

	switch (which)
	{
		case KEY_ACTION:
			keys->action = take_required_string(lex, "action");
			break;
		case KEY_XID:
			message->xid = take_integer(lex, "xid", PG_UINT32_MAX);
			break;
		case KEY_TIMESTAMP:
			keys->timestamp = take_required_string(lex, "timestamp");
			break;
		case KEY_LSN:
			keys->lsn = take_required_string(lex, "lsn");
			break;
		case KEY_NEXTLSN:
			keys->nextlsn = take_required_string(lex, "nextlsn");
			break;
		case KEY_SCHEMA:
			message->schema = take_required_string(lex, "schema");
			break;
		case KEY_TABLE:
			message->table = take_required_string(lex, "table");
			break;
		case KEY_COLUMNS:
			message->newfields = take_fields(lex, "columns", &message->nnew);
			break;
		case KEY_IDENTITY:
			message->oldfields = take_fields(lex, "identity", &message->nold);
			break;
		case KEY_TRANSACTIONAL:
			message->transactional = (lex->token_type == JSON_TOKEN_TRUE);
			if (!message->transactional && lex->token_type != JSON_TOKEN_FALSE)
				malformed("The value of key \"%s\" is not a boolean.", "transactional");
			next_token(lex);
			break;
		case KEY_PREFIX:
			message->prefix = take_required_string(lex, "prefix");
			break;
		case KEY_CONTENT:
			message->content = take_required_string(lex, "content");
			break;
		default:
			trucker_json_skip(lex, 0);
	}
}

/*
 * With all keys read: find the action's shape, and hold the keys against it.
 * not_required are keys that need not be there.
 */
static const MessageShape *
check_shape(const MessageKeys *keys, int not_required)
{
	int			wrong;

	if (keys->action == NULL)
		malformed("Key \"%s\" is missing.", "action");

	for (int i = 0; i < lengthof(shapes); i++)
	{
		const MessageShape *shape = &shapes[i];

		if (shape->action != keys->action[0] || keys->action[1] != '\0')
			continue;

		wrong = shape->required & ~(keys->seen | not_required);
		if (wrong != 0)
			malformed("Key \"%s\" is missing in a message with action \"%c\".",
					  mask_name(wrong, key_names), shape->action);
		wrong = keys->seen & ~(shape->required | KEYS_OPTIONAL);
		if (wrong != 0)
			malformed("Key \"%s\" does not belong to a message with action \"%c\".",
					  mask_name(wrong, key_names), shape->action);
		wrong = keys->nulls & ~(shape->kind == TRUCKER_MSG_LOGICAL ? KEYS_NULLABLE : 0);
		if (wrong != 0)
			malformed("Key \"%s\" is null in a message with action \"%c\".",
					  mask_name(wrong, key_names), shape->action);
		return shape;
	}

	malformed("The action is unknown.");
	return NULL;				/* keep compiler quiet */
}

/* Read all keys of the message; returns its shape. */
static const MessageShape *
read_message(const char *data, int len, int not_required, MessageKeys *keys, TruckerMessage *message)
{
	bool		first = true;
	const char *key;
	JsonLexContext *lex;

	memset(message, 0, sizeof(*message));
	memset(keys, 0, sizeof(*keys));

	lex = trucker_json_open(data, len);
	if (lex->token_type != JSON_TOKEN_OBJECT_START)
		malformed("The message is not a JSON object.");
	next_token(lex);

	while (next_member(lex, &first, &key))
	{
		int			which = lookup_key(key, key_names, lengthof(key_names));

		if (keys->seen & which)
			malformed("Key \"%s\" occurs twice.", mask_name(which, key_names));
		keys->seen |= which;
		take_key(lex, which, keys, message);
	}

	if (lex->token_type != JSON_TOKEN_END)
		malformed_json();
	return check_shape(keys, not_required);
}

/*
 * The decoder's decode: see decoder.h.  All strings of the message lie in one
 * copy of the data, so none of them can be freed alone.
 */
static bool
decode(void *state, const char *data, int len, TruckerMessage *message)
{
	MessageKeys keys;

	message->kind = read_message(data, len, 0, &keys, message)->kind;
	if (message->kind == TRUCKER_MSG_BEGIN || message->kind == TRUCKER_MSG_COMMIT)
	{
		message->commit_lsn = trucker_json_lsn(keys.lsn, "lsn");
		message->end_lsn = trucker_json_lsn(keys.nextlsn, "nextlsn");
		if (keys.timestamp != NULL)
			message->committed_at = trucker_json_timestamp(keys.timestamp);
	}
	message->decoder = &trucker_wal2json;
	return true;
}

/*
 * Decode a message that was written with any options of the plugin: LSNs may be
 * missing, and the time is read wherever it stands.  *lsn is the change's own, or
 * invalid.
 */
void
trucker_wal2json_decode_any(const char *data, int len, TruckerMessage *message, XLogRecPtr *lsn)
{
	MessageKeys keys;

	message->kind = read_message(data, len, KEY_LSN | KEY_NEXTLSN, &keys, message)->kind;
	*lsn = keys.lsn ? trucker_json_lsn(keys.lsn, "lsn") : InvalidXLogRecPtr;
	if (keys.nextlsn != NULL)
		message->end_lsn = trucker_json_lsn(keys.nextlsn, "nextlsn");
	if (keys.timestamp != NULL)
		message->committed_at = trucker_json_timestamp(keys.timestamp);
}

const TruckerDecoder trucker_wal2json = {
	.plugin = TRUCKER_WAL2JSON,
	.bytea_lacks_prefix = true,
	.loses_nan = true,
	.installed = trucker_wal2json_installed,
	.append_options = trucker_wal2json_append_options,
	.decode = decode
};

/* The same messages, but for numbers as strings. */
static bool
decode_exact(void *state, const char *data, int len, TruckerMessage *message)
{
	bool		result = decode(state, data, len, message);

	message->decoder = &trucker_wal2json_exact;
	return result;
}

/* For a version of the plugin that can carry all values. */
const TruckerDecoder trucker_wal2json_exact = {
	.plugin = TRUCKER_WAL2JSON,
	.bytea_lacks_prefix = true,
	.refused = trucker_wal2json_refused,
	.append_options = trucker_wal2json_append_exact_options,
	.decode = decode_exact
};
