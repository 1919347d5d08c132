/*
 * wal2json_v1.c
 *	  Messages of wal2json's format version 1: a whole source transaction in one JSON
 *	  object, with an array "change" of which each element is a change.
 *
 * trucker's own streams never ask for it, for a transaction of more than 1 GB cannot
 * be written so.  It is what users have kept, and what others' slots give; the SQL
 * function decode_wal2json() reads it.
 *
 * A change names its columns, their types and their values in arrays of their own,
 * so what can be wrong beside the JSON is that these are not of one length.  As in
 * format 2, what wal2json is not known to write is an error, a key that we have not
 * heard of is passed over, and no error names more than keys of the format.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "compat.h"
#include "decoder.h"
#include "wal2json.h"
#include "wal2json_reader.h"

#define INITIAL_ELEMENTS 16

/* The keys of the message. */
#define TOP_CHANGE			(1 << 0)
#define TOP_XID				(1 << 1)
#define TOP_TIMESTAMP		(1 << 2)
#define TOP_NEXTLSN			(1 << 3)

#define TOP_NULLABLE		(TOP_XID | TOP_TIMESTAMP)

static const char *const top_names[] = {
	"change", "xid", "timestamp", "nextlsn"
};

/* The keys of a change. */
#define KEY_KIND			(1 << 0)
#define KEY_SCHEMA			(1 << 1)
#define KEY_TABLE			(1 << 2)
#define KEY_NAMES			(1 << 3)
#define KEY_VALUES			(1 << 4)
#define KEY_TYPES			(1 << 5)
#define KEY_TYPEOIDS		(1 << 6)
#define KEY_POSITIONS		(1 << 7)
#define KEY_OPTIONALS		(1 << 8)
#define KEY_DEFAULTS		(1 << 9)
#define KEY_OLDKEYS			(1 << 10)
#define KEY_TRANSACTIONAL	(1 << 11)
#define KEY_PREFIX			(1 << 12)
#define KEY_CONTENT			(1 << 13)

static const char *const key_names[] = {
	"kind", "schema", "table", "columnnames", "columnvalues", "columntypes",
	"columntypeoids", "columnpositions", "columnoptionals", "columndefaults",
	"oldkeys", "transactional", "prefix", "content"
};

/* The keys of "oldkeys". */
#define OLD_NAMES			(1 << 0)
#define OLD_VALUES			(1 << 1)
#define OLD_TYPES			(1 << 2)
#define OLD_TYPEOIDS		(1 << 3)

static const char *const old_names[] = {
	"keynames", "keyvalues", "keytypes", "keytypeoids"
};

#define KEYS_TABLE		(KEY_KIND | KEY_SCHEMA | KEY_TABLE)
#define KEYS_NEW		(KEY_NAMES | KEY_VALUES)
#define KEYS_NEW_MORE	(KEY_TYPES | KEY_TYPEOIDS | KEY_POSITIONS | KEY_OPTIONALS | KEY_DEFAULTS)

/* As in format 2, an update or delete without an old row says of no row which it is. */
typedef struct ChangeShape
{
	const char *kind;
	TruckerMessageKind message_kind;
	int			required;
	int			optional;
} ChangeShape;

static const ChangeShape shapes[] = {
	{"insert", TRUCKER_MSG_INSERT, KEYS_TABLE | KEYS_NEW, KEYS_NEW_MORE},
	{"update", TRUCKER_MSG_UPDATE, KEYS_TABLE | KEYS_NEW | KEY_OLDKEYS, KEYS_NEW_MORE},
	{"delete", TRUCKER_MSG_DELETE, KEYS_TABLE | KEY_OLDKEYS, 0},
	{"truncate", TRUCKER_MSG_TRUNCATE, KEYS_TABLE, 0},
	{"message", TRUCKER_MSG_LOGICAL, KEY_KIND | KEY_TRANSACTIONAL | KEY_PREFIX | KEY_CONTENT, 0}
};

/* One of the arrays that describe columns. */
typedef struct Column
{
	const char **elements;
	int			n;				/* -1: the array is not there */
} Column;

typedef enum ElementKind
{
	STRINGS,
	VALUES,						/* any scalar; NULL for null */
	COUNTED						/* whatever they are, only how many */
} ElementKind;

/* Take an array, of which only the number of elements counts or each is a scalar. */
static Column
take_array(JsonLexContext *lex, const char *key, ElementKind kind)
{
	int			size = kind == COUNTED ? 0 : INITIAL_ELEMENTS;
	bool		first = true;
	Column		column = {NULL, 0};

	if (lex->token_type != JSON_TOKEN_ARRAY_START)
		malformed("The value of key \"%s\" is not an array.", key);
	next_token(lex);

	if (kind != COUNTED)
		column.elements = palloc(size * sizeof(char *));
	while (next_element(lex, &first, JSON_TOKEN_ARRAY_END))
	{
		/* more than any table can have; and the size must not overflow */
		if (column.n > PG_INT16_MAX)
			malformed("The value of key \"%s\" has too many elements.", key);
		if (kind == COUNTED)
			trucker_json_skip(lex, 0);
		else
		{
			if (column.n == size)
			{
				size *= 2;
				column.elements = repalloc(column.elements, size * sizeof(char *));
			}
			if (kind == STRINGS && lex->token_type != JSON_TOKEN_STRING)
				malformed("An element of key \"%s\" is not a string.", key);
			column.elements[column.n] = take_value(lex);
		}
		column.n++;
	}
	return column;
}

/* All arrays that are there must be as long as that of the names. */
static void
check_length(const Column *names, const Column *column, const char *names_key, const char *key)
{
	if (column->n >= 0 && column->n != names->n)
		malformed("The values of keys \"%s\" and \"%s\" are not of one length.", names_key, key);
}

static TruckerField *
make_fields(const Column *names, const Column *values, const Column *types)
{
	TruckerField *fields = palloc0(Max(names->n, 1) * sizeof(TruckerField));

	for (int i = 0; i < names->n; i++)
	{
		fields[i].name = names->elements[i];
		fields[i].value = values->elements[i];
		fields[i].type = types->n >= 0 ? types->elements[i] : NULL;
	}
	return fields;
}

static void
take_oldkeys(JsonLexContext *lex, TruckerMessage *message)
{
	Column		columns[lengthof(old_names)];
	int			seen = 0;
	int			missing;
	bool		first = true;
	const char *key;

	for (int i = 0; i < lengthof(columns); i++)
		columns[i].n = -1;
	if (lex->token_type != JSON_TOKEN_OBJECT_START)
		malformed("The value of key \"%s\" is not an object.", "oldkeys");
	next_token(lex);

	while (next_member(lex, &first, &key))
	{
		int			which = lookup_key(key, old_names, lengthof(old_names));
		ElementKind kind = which == OLD_VALUES ? VALUES : which == OLD_TYPEOIDS ? COUNTED : STRINGS;

		if (seen & which)
			malformed("Key \"%s\" occurs twice.", mask_name(which, old_names));
		seen |= which;
		if (which == 0)
			trucker_json_skip(lex, 0);
		else
			columns[pg_rightmost_one_pos32(which)] = take_array(lex, mask_name(which, old_names), kind);
	}
	missing = (OLD_NAMES | OLD_VALUES) & ~seen;
	if (missing != 0)
		malformed("Key \"%s\" is missing in \"%s\".", mask_name(missing, old_names), "oldkeys");
	for (int i = 1; i < lengthof(columns); i++)
		check_length(&columns[0], &columns[i], old_names[0], old_names[i]);
	message->nold = columns[0].n;
	message->oldfields = make_fields(&columns[0], &columns[1], &columns[2]);
}

static bool
take_boolean(JsonLexContext *lex, const char *key)
{
	bool		value = lex->token_type == JSON_TOKEN_TRUE;

	if (!value && lex->token_type != JSON_TOKEN_FALSE)
		malformed("The value of key \"%s\" is not a boolean.", key);
	next_token(lex);
	return value;
}

static const ChangeShape *
find_shape(const char *kind)
{
	for (int i = 0; kind && i < lengthof(shapes); i++)
		if (strcmp(shapes[i].kind, kind) == 0)
			return &shapes[i];
	if (kind == NULL)
		malformed("Key \"%s\" is missing in a change.", "kind");
	malformed("The kind of a change is unknown.");
	return NULL;				/* keep compiler quiet */
}

/* With all keys of a change read: do they belong together? */
static void
check_change(int seen, const char *kind, Column *columns, TruckerMessage *message)
{
	const ChangeShape *shape = find_shape(kind);
	const int	names = 3;		/* the bits of KEY_NAMES ... */
	int			wrong;

	wrong = shape->required & ~seen;
	if (wrong != 0)
		malformed("Key \"%s\" is missing in a change of kind \"%s\".", mask_name(wrong, key_names), shape->kind);
	wrong = seen & ~(shape->required | shape->optional);
	if (wrong != 0)
		malformed("Key \"%s\" does not belong to a change of kind \"%s\".", mask_name(wrong, key_names), shape->kind);
	message->kind = shape->message_kind;
	if (!(shape->required & KEY_NAMES))
		return;
	for (int i = names + 1; (1 << i) < KEY_OLDKEYS; i++)
		check_length(&columns[names], &columns[i], key_names[names], key_names[i]);
	message->nnew = columns[names].n;
	message->newfields = make_fields(&columns[names], &columns[names + 1], &columns[names + 2]);
}

/* Take one element of "change". */
static TruckerMessage *
take_change(JsonLexContext *lex)
{
	TruckerMessage *message = palloc0(sizeof(TruckerMessage));
	Column		columns[lengthof(key_names)];
	const char *kind = NULL;
	int			seen = 0;
	bool		first = true;
	const char *key;

	for (int i = 0; i < lengthof(columns); i++)
		columns[i].n = -1;
	if (lex->token_type != JSON_TOKEN_OBJECT_START)
		malformed("A change is not an object.");
	next_token(lex);

	while (next_member(lex, &first, &key))
	{
		int			which = lookup_key(key, key_names, lengthof(key_names));
		int			bit = which ? pg_rightmost_one_pos32(which) : 0;
		const char *name = key_names[bit];

		if (seen & which)
			malformed("Key \"%s\" occurs twice in a change.", name);
		seen |= which;
		switch (which)
		{
			case KEY_KIND:
				kind = take_required_string(lex, name);
				break;
			case KEY_SCHEMA:
				message->schema = take_required_string(lex, name);
				break;
			case KEY_TABLE:
				message->table = take_required_string(lex, name);
				break;
			case KEY_NAMES:
			case KEY_TYPES:
				columns[bit] = take_array(lex, name, STRINGS);
				break;
			case KEY_VALUES:
				columns[bit] = take_array(lex, name, VALUES);
				break;
			case KEY_TYPEOIDS:
			case KEY_POSITIONS:
			case KEY_OPTIONALS:
			case KEY_DEFAULTS:
				columns[bit] = take_array(lex, name, COUNTED);
				break;
			case KEY_OLDKEYS:
				take_oldkeys(lex, message);
				break;
			case KEY_TRANSACTIONAL:
				message->transactional = take_boolean(lex, name);
				break;
			case KEY_PREFIX:
				message->prefix = take_required_string(lex, name);
				break;
			case KEY_CONTENT:
				message->content = take_required_string(lex, name);
				break;
			default:
				trucker_json_skip(lex, 0);
		}
	}
	check_change(seen, kind, columns, message);
	return message;
}

static List *
take_changes(JsonLexContext *lex)
{
	List	   *changes = NIL;
	bool		first = true;

	if (lex->token_type != JSON_TOKEN_ARRAY_START)
		malformed("The value of key \"%s\" is not an array.", "change");
	next_token(lex);
	while (next_element(lex, &first, JSON_TOKEN_ARRAY_END))
	{
		CHECK_FOR_INTERRUPTS();
		changes = lappend(changes, take_change(lex));
	}
	return changes;
}

/*
 * Decode a message of format version 1: its changes (TruckerMessage *), each with what
 * the message says of the transaction.  All in the current memory context.
 */
List *
trucker_wal2json_decode_v1(const char *data, int len)
{
	JsonLexContext *lex = trucker_json_open(data, len);
	TruckerMessage about = {0};
	List	   *changes = NIL;
	ListCell   *lc;
	int			seen = 0;
	bool		first = true;
	const char *key;

	if (lex->token_type != JSON_TOKEN_OBJECT_START)
		malformed("The message is not a JSON object.");
	next_token(lex);
	while (next_member(lex, &first, &key))
	{
		int			which = lookup_key(key, top_names, lengthof(top_names));

		if (seen & which)
			malformed("Key \"%s\" occurs twice.", mask_name(which, top_names));
		seen |= which;
		if (which == TOP_CHANGE)
			changes = take_changes(lex);
		else if ((which & TOP_NULLABLE) && lex->token_type == JSON_TOKEN_NULL)
			next_token(lex);	/* of a message outside of any transaction */
		else if (which == TOP_XID)
			about.xid = take_integer(lex, "xid", PG_UINT32_MAX);
		else if (which == TOP_TIMESTAMP)
			about.committed_at = trucker_json_timestamp(take_required_string(lex, "timestamp"));
		else if (which == TOP_NEXTLSN)
			about.end_lsn = trucker_json_lsn(take_required_string(lex, "nextlsn"), "nextlsn");
		else
			trucker_json_skip(lex, 0);
	}
	if (lex->token_type != JSON_TOKEN_END)
		malformed_json();
	if (!(seen & TOP_CHANGE))
		malformed("Key \"%s\" is missing.", "change");

	foreach(lc, changes)
	{
		TruckerMessage *message = lfirst(lc);

		message->xid = about.xid;
		message->committed_at = about.committed_at;
		message->end_lsn = about.end_lsn;
	}
	return changes;
}

/*
 * Is this a message of format version 1?  Told by which key of the outermost object
 * comes first, "change" or "action".  What is neither, or no JSON, is not: the
 * decoder for format 2 says what is wrong with it.
 */
bool
trucker_wal2json_is_v1(const char *data, int len)
{
	JsonLexContext *lex = makeJsonLexContextCstringLen(unconstify(char *, data), len,
													   GetDatabaseEncoding(), false);
	int			depth = 0;

	while (json_lex(lex) == JSON_SUCCESS && lex->token_type != JSON_TOKEN_END)
	{
		const char *start = lex->token_start;
		int			length = lex->token_terminator - start;

		CHECK_FOR_INTERRUPTS();
		if (lex->token_type == JSON_TOKEN_OBJECT_START || lex->token_type == JSON_TOKEN_ARRAY_START)
			depth++;
		else if (lex->token_type == JSON_TOKEN_OBJECT_END || lex->token_type == JSON_TOKEN_ARRAY_END)
			depth--;
		else if (depth == 1 && lex->token_type == JSON_TOKEN_STRING && length == strlen("\"change\""))
		{
			bool		is_v1 = strncmp(start, "\"change\"", length) == 0;

			if (!is_v1 && strncmp(start, "\"action\"", length) != 0)
				continue;
			/* it may be a value */
			if (json_lex(lex) != JSON_SUCCESS)
				return false;
			if (lex->token_type == JSON_TOKEN_COLON)
				return is_v1;
		}
	}
	return false;
}
