/*
 * wal2json_reader.h
 *	  Private to the decoders for wal2json: a message's JSON, token by token.
 *
 * The grammar of a message is fixed and flat, so a reader that asks the server's
 * lexer (common/jsonapi.h) for one token after another is enough; it stands
 * instead of pg_parse_json() and its callbacks because those get a fresh copy
 * of every key and every value, most of which are looked at once.  Here the
 * message is copied once, and strings are cut out of the copy in place: a
 * closing quote becomes the terminator, escapes are resolved on the spot
 * (their result is never longer).  The lexer runs without de-escaping, which
 * would build each string byte by byte.
 *
 * Every change of every table comes through here; hence the inline functions.
 */
#ifndef TRUCKER_WAL2JSON_READER_H
#define TRUCKER_WAL2JSON_READER_H

#include "access/xlogdefs.h"
#include "common/jsonapi.h"
#include "datatype/timestamp.h"
#include "port/pg_bitutils.h"

#define TRUCKER_WAL2JSON "wal2json"

/* The detail is a whole sentence, and never quotes the message. */
#define malformed(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_PROTOCOL_VIOLATION), \
			 errmsg("could not decode message of output plugin \"%s\"", \
					TRUCKER_WAL2JSON), \
			 errdetail(__VA_ARGS__)))

#define malformed_json() malformed("The message is not valid JSON.")

/* in wal2json_reader.c */
extern JsonLexContext *trucker_json_open(const char *data, int len);
extern void trucker_json_unescape(char *escape, char *end);
extern void trucker_json_skip(JsonLexContext *lex, int depth);
extern XLogRecPtr trucker_json_lsn(const char *text, const char *key);
extern TimestampTz trucker_json_timestamp(const char *text);

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
		trucker_json_unescape(escape, end);
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

static inline const char *
take_required_string(JsonLexContext *lex, const char *key)
{
	if (lex->token_type != JSON_TOKEN_STRING)
		malformed("The value of key \"%s\" is not a string.", key);
	return take_string(lex);
}

/* Take an integer from 1 to max. */
static inline uint32
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

/*
 * ---------- Keys ----------
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

#endif							/* TRUCKER_WAL2JSON_READER_H */
