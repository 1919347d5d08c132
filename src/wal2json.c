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
 * This is the hot path: every change of every table comes through here.  The
 * grammar of a message is fixed and flat, so a reader that asks the server's
 * lexer (common/jsonapi.h) for one token after another is enough; it stands
 * instead of pg_parse_json() and its callbacks because those get a fresh copy
 * of every key and every value, most of which are looked at once.  Here the
 * message is copied once, and strings are cut out of the copy in place: a
 * closing quote becomes the terminator, escapes are resolved on the spot
 * (their result is never longer).  The lexer runs without de-escaping, which
 * would build each string byte by byte.
 *
 * What wal2json is not known to write is an error, not a guess: a wrong guess
 * would write wrong rows.  The one exception is a key that we have not heard
 * of, which is skipped, so that a newer plugin may say more.  No error names
 * any part of the message but the keys of the format: rows must not get into
 * the server's log.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "port/pg_bitutils.h"
#include "utils/datetime.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "decoder.h"
#include "wal2json.h"

#define PLUGIN_NAME "wal2json"

/*
 * wal2json nests three levels deep; this bounds the recursion over a key that
 * we skip, well before the stack would.
 */
#define MAX_SKIPPED_DEPTH 64

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

static const char *const key_names[] = {
	"action", "xid", "timestamp", "lsn", "nextlsn", "schema", "table",
	"columns", "identity", "transactional", "prefix", "content"
};

static const char *const field_key_names[] = {
	"name", "value", "position"
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

/* The detail is a whole sentence, and never quotes the message. */
#define malformed(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_PROTOCOL_VIOLATION), \
			 errmsg("could not decode message of output plugin \"%s\"", \
					PLUGIN_NAME), \
			 errdetail(__VA_ARGS__)))

#define malformed_json() malformed("The message is not valid JSON.")

/*
 * ---------- Tokens ----------
 *
 * The lexer always stands on a token not yet used.  take_...() uses it, moves
 * on, and returns what the token said.
 */

static inline void
next_token(JsonLexContext *lex)
{
	if (json_lex(lex) != JSON_SUCCESS)
		malformed_json();
}

static inline void
expect_token(JsonLexContext *lex, JsonTokenType token)
{
	if (lex->token_type != token)
		malformed_json();
	next_token(lex);
}

/*
 * Resolve the escapes of a string in place, and terminate it.  escape is its
 * first backslash, end its closing quote.
 *
 * wal2json writes \u for control characters only.  For a character beyond
 * ASCII it has no reason, and in a database that is not UTF-8 we would have no
 * conversion that fails softly: such an escape is refused, and so is zero.
 */
static void
unescape(char *escape, char *end)
{
	static const char letters[] = "\"\\/bfnrt";
	static const char meanings[] = "\"\\/\b\f\n\r\t";
	const char *src = escape;
	char	   *dst = escape;

	/* src stands on a backslash, or at the end */
	while (src < end)
	{
		const char *next;
		const char *letter = strchr(letters, src[1]);

		if (src[1] == 'u')
		{
			/* the lexer has made sure that there are four hexadecimal digits */
			char		digits[5] = {src[2], src[3], src[4], src[5], '\0'};
			unsigned long c = strtoul(digits, NULL, 16);

			if (c == 0 || c > 0x7F)
				malformed("The message holds a Unicode escape that the plugin does not write.");
			*dst++ = (char) c;
			src += 6;
		}
		else if (letter != NULL && *letter != '\0')
		{
			*dst++ = meanings[letter - letters];
			src += 2;
		}
		else
			malformed_json();	/* the lexer lets a zero byte pass here */

		/* carry over what lies before the next escape */
		next = memchr(src, '\\', end - src);
		if (next == NULL)
			next = end;
		memmove(dst, src, next - src);
		dst += next - src;
		src = next;
	}
	*dst = '\0';
}

/* The lexer must stand on a string. */
static inline char *
take_string(JsonLexContext *lex)
{
	char	   *start = lex->token_start + 1;
	char	   *end = lex->token_terminator - 1;
	char	   *escape = memchr(start, '\\', end - start);

	next_token(lex);
	if (escape == NULL)
		*end = '\0';
	else
		unescape(escape, end);
	return start;
}

/*
 * The lexer must stand on a number; returns its text.  The terminator may hit
 * the next token's first byte, so that token is read before.  If it is
 * punctuation, nobody looks at its text again; if not, it is out of place
 * after a number, and the caller will say so.
 */
static inline char *
take_number(JsonLexContext *lex)
{
	char	   *start = lex->token_start;
	char	   *end = lex->token_terminator;

	next_token(lex);
	*end = '\0';
	return start;
}

static const char *
take_required_string(JsonLexContext *lex, const char *key)
{
	if (lex->token_type != JSON_TOKEN_STRING)
		malformed("The value of key \"%s\" is not a string.", key);
	return take_string(lex);
}

/* Take an integer from 1 to max. */
static uint32
take_integer(JsonLexContext *lex, const char *key, uint32 max)
{
	uint64		value = 0;
	const char *p;

	if (lex->token_type != JSON_TOKEN_NUMBER)
		malformed("The value of key \"%s\" is not a number.", key);

	for (p = take_number(lex); *p != '\0'; p++)
	{
		if (*p < '0' || *p > '9')
			malformed("The value of key \"%s\" is not a positive integer.", key);
		value = value * 10 + (*p - '0');
		if (value > max)
			malformed("The value of key \"%s\" is out of range.", key);
	}
	if (value == 0)
		malformed("The value of key \"%s\" is out of range.", key);
	return (uint32) value;
}

/* Take a column's value: the text of any scalar, NULL for null. */
static inline const char *
take_value(JsonLexContext *lex)
{
	const char *literal = NULL;

	switch (lex->token_type)
	{
		case JSON_TOKEN_STRING:
			return take_string(lex);
		case JSON_TOKEN_NUMBER:
			return take_number(lex);
		case JSON_TOKEN_TRUE:
			literal = "true";
			break;
		case JSON_TOKEN_FALSE:
			literal = "false";
			break;
		case JSON_TOKEN_NULL:
			break;
		case JSON_TOKEN_OBJECT_START:
		case JSON_TOKEN_ARRAY_START:
			malformed("The value of a field is an object or an array.");
			break;
		default:
			malformed_json();
	}
	next_token(lex);
	return literal;
}

/*
 * Walk over an object or an array, whose opening token has been used.  Each
 * returns whether another member or element follows; when none does, the
 * closing token has been used as well.  *first must be true at the start.
 */
static inline bool
next_element(JsonLexContext *lex, bool *first, JsonTokenType closing)
{
	if (lex->token_type == closing)
	{
		next_token(lex);
		return false;
	}
	if (*first)
		*first = false;
	else
	{
		expect_token(lex, JSON_TOKEN_COMMA);
		/* no comma before the end */
		if (lex->token_type == closing)
			malformed_json();
	}
	return true;
}

static inline bool
next_member(JsonLexContext *lex, bool *first, const char **key)
{
	if (!next_element(lex, first, JSON_TOKEN_OBJECT_END))
		return false;
	if (lex->token_type != JSON_TOKEN_STRING)
		malformed_json();
	*key = take_string(lex);
	expect_token(lex, JSON_TOKEN_COLON);
	return true;
}

/* Skip the value of an unknown key, whatever it is. */
static void
skip_value(JsonLexContext *lex, int depth)
{
	bool		first = true;
	const char *key;

	if (depth > MAX_SKIPPED_DEPTH)
		malformed("The message is nested too deeply.");

	switch (lex->token_type)
	{
		case JSON_TOKEN_OBJECT_START:
			next_token(lex);
			while (next_member(lex, &first, &key))
				skip_value(lex, depth + 1);
			break;
		case JSON_TOKEN_ARRAY_START:
			next_token(lex);
			while (next_element(lex, &first, JSON_TOKEN_ARRAY_END))
				skip_value(lex, depth + 1);
			break;
		case JSON_TOKEN_STRING:
		case JSON_TOKEN_NUMBER:
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
		case JSON_TOKEN_NULL:
			next_token(lex);
			break;
		default:
			malformed_json();
	}
}

/*
 * ---------- Fields ----------
 */

/* Which bit does a key have in its mask?  0 if none: we do not know it. */
static inline int
lookup_key(const char *key, const char *const *names, int nnames)
{
	for (int i = 0; i < nnames; i++)
	{
		/* hardly any two begin with the same letter */
		if (key[0] == names[i][0] && strcmp(key, names[i]) == 0)
			return 1 << i;
	}
	return 0;
}

/* The name of the lowest bit of a mask that is not empty. */
static inline const char *
mask_name(int mask, const char *const *names)
{
	return names[pg_rightmost_one_pos32(mask)];
}

static void
take_field(JsonLexContext *lex, TruckerField *field)
{
	int			missing;
	int			seen = 0;
	bool		first = true;
	const char *key;

	/* positions come with the new row only */
	field->attnum = 0;

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
			default:
				skip_value(lex, 0);
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
		take_field(lex, &fields[n++]);
	}

	*nfields = n;
	return fields;
}

/*
 * ---------- Values of the message's own keys ----------
 */

static XLogRecPtr
parse_lsn(const char *text, const char *key)
{
	bool		failed;
	XLogRecPtr	lsn = pg_lsn_in_internal(text, &failed);

	if (failed || XLogRecPtrIsInvalid(lsn))
		malformed("The value of key \"%s\" is not a valid LSN.", key);
	return lsn;
}

/*
 * Read a commit time as timestamptz_to_str() writes it, which is ISO 8601 with
 * a numeric zone under every DateStyle.
 *
 * Not by timestamptz_in(): that would quote what it cannot read in an error of
 * its own.  Without letters, nothing is left that DecodeDateTime() would raise
 * or look up.
 */
static TimestampTz
parse_timestamp(const char *text)
{
	char		workbuf[MAXDATELEN + MAXDATEFIELDS];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			nfields;
	int			dtype;
	int			tz;
	fsec_t		fsec;
	struct pg_tm tm;
	TimestampTz result;
	const char *clock = strchr(text, ' ');

	/* without a zone, it would be taken for a time in our own */
	if (clock == NULL || strpbrk(clock, "+-") == NULL ||
		text[strspn(text, "0123456789 :.+-")] != '\0' ||
		ParseDateTime(text, workbuf, sizeof(workbuf), field, ftype,
					  MAXDATEFIELDS, &nfields) != 0 ||
		DecodeDateTime(field, ftype, nfields, &dtype, &tm, &fsec, &tz) != 0 ||
		dtype != DTK_DATE ||
		tm2timestamp(&tm, fsec, &tz, &result) != 0)
		malformed("The value of key \"%s\" is not a valid timestamp.", "timestamp");

	return result;
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
			skip_value(lex, 0);
	}
}

/* With all keys read: find the action's shape, and hold the keys against it. */
static const MessageShape *
check_shape(const MessageKeys *keys)
{
	int			wrong;

	if (keys->action == NULL)
		malformed("Key \"%s\" is missing.", "action");

	for (int i = 0; i < lengthof(shapes); i++)
	{
		const MessageShape *shape = &shapes[i];

		if (shape->action != keys->action[0] || keys->action[1] != '\0')
			continue;

		wrong = shape->required & ~keys->seen;
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

/*
 * The decoder's decode: see decoder.h.  All strings of the message lie in one
 * copy of the data, so none of them can be freed alone.
 */
static void
decode(const char *data, int len, TruckerMessage *message)
{
	MessageKeys keys = {0};
	bool		first = true;
	const char *key;
	char	   *copy;
	JsonLexContext *lex;

	memset(message, 0, sizeof(*message));

	/* one more byte, for the terminator of a number at the very end */
	copy = palloc(len + 1);
	memcpy(copy, data, len);
	copy[len] = '\0';

	lex = makeJsonLexContextCstringLen(copy, len, GetDatabaseEncoding(), false);
	next_token(lex);
	if (lex->token_type != JSON_TOKEN_OBJECT_START)
		malformed("The message is not a JSON object.");
	next_token(lex);

	while (next_member(lex, &first, &key))
	{
		int			which = lookup_key(key, key_names, lengthof(key_names));

		if (keys.seen & which)
			malformed("Key \"%s\" occurs twice.", mask_name(which, key_names));
		keys.seen |= which;
		take_key(lex, which, &keys, message);
	}

	if (lex->token_type != JSON_TOKEN_END)
		malformed_json();

	message->kind = check_shape(&keys)->kind;
	if (message->kind == TRUCKER_MSG_BEGIN || message->kind == TRUCKER_MSG_COMMIT)
	{
		message->commit_lsn = parse_lsn(keys.lsn, "lsn");
		message->end_lsn = parse_lsn(keys.nextlsn, "nextlsn");
		if (keys.timestamp != NULL)
			message->committed_at = parse_timestamp(keys.timestamp);
	}
}

const TruckerDecoder trucker_wal2json = {
	.plugin = PLUGIN_NAME,
	.bytea_lacks_prefix = true,
	.loses_nan = true,
	.append_options = trucker_wal2json_append_options,
	.decode = decode
};
