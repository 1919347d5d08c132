/*
 * wal2json_reader.c
 *	  What reading a message of wal2json takes beside its tokens: escapes, keys that
 *	  nobody knows, LSNs, times.
 *
 * No error names any part of the message but the keys of the format: rows must
 * not get into the server's log.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "wal2json_reader.h"

/*
 * wal2json nests a few levels deep; this bounds the recursion over a key that
 * we skip, well before the stack would.
 */
#define MAX_SKIPPED_DEPTH 64

/*
 * A lexer that stands on the first token of a copy of the message.  All strings lie
 * in that copy, so none of them can be freed alone.
 */
JsonLexContext *
trucker_json_open(const char *data, int len)
{
	JsonLexContext *lex;
	char	   *copy;

	/* one more byte, for the terminator of a number at the very end */
	copy = palloc(len + 1);
	memcpy(copy, data, len);
	copy[len] = '\0';

	lex = makeJsonLexContextCstringLen(copy, len, GetDatabaseEncoding(), false);
	next_token(lex);
	return lex;
}

/*
 * Resolve the escapes of a string in place, and terminate it.  escape is its
 * first backslash, end its closing quote.
 *
 * wal2json writes \u for control characters only.  For a character beyond
 * ASCII it has no reason, and in a database that is not UTF-8 we would have no
 * conversion that fails softly: such an escape is refused, and so is zero.
 */
void
trucker_json_unescape(char *escape, char *end)
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

/* Skip the value of an unknown key, whatever it is. */
void
trucker_json_skip(JsonLexContext *lex, int depth)
{
	bool		first = true;
	const char *key;

	if (depth > MAX_SKIPPED_DEPTH)
		malformed("The message is nested too deeply.");
	/* somebody may hand decode_wal2json() a gigabyte of it */
	CHECK_FOR_INTERRUPTS();

	switch (lex->token_type)
	{
		case JSON_TOKEN_OBJECT_START:
			next_token(lex);
			while (next_member(lex, &first, &key))
				trucker_json_skip(lex, depth + 1);
			break;
		case JSON_TOKEN_ARRAY_START:
			next_token(lex);
			while (next_element(lex, &first, JSON_TOKEN_ARRAY_END))
				trucker_json_skip(lex, depth + 1);
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

XLogRecPtr
trucker_json_lsn(const char *text, const char *key)
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
TimestampTz
trucker_json_timestamp(const char *text)
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
