/*
 * template_lex.c
 *	  A template's source as text and tokens, with errors that name the place.
 *
 * The tokens of an action are read on demand, one ahead; text between actions
 * is never tokenized, and is not copied either: it points into the template's
 * own copy of the source, which must be kept anyway so that an error while
 * rendering can still name line and column.  Positions are therefore kept as
 * byte offsets, and become line and column only when somebody has to see them.
 *
 * Scanning byte by byte for ASCII characters is safe: in every encoding that a
 * PostgreSQL server may have, all bytes of a multi-byte character have the high
 * bit set.
 */
#include "postgres.h"

#include "common/int.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "template_internal.h"

#define ESCAPES_HINT \
	"The escapes are \\a \\b \\f \\n \\r \\t \\v \\\\ \\\" \\xNN \\NNN \\uNNNN \\UNNNNNNNN; in `...` a backslash is an ordinary character."

/* Words that mean something in Go's template language, but nothing here. */
static const char *const unsupported_keywords[] = {
	"range", "with", "define", "block", "template", "break", "continue", "nil"
};

/*
 * Where in the source an offset is, as every error message here starts:
 * "input_sql: line 3, column 8".
 */
char *
trucker_template_position(const TruckerTemplate *tmpl, int offset)
{
	const char *line_start = tmpl->source;
	const char *stop = tmpl->source + offset;
	const char *newline;
	int			line = 1;

	while ((newline = memchr(line_start, '\n', stop - line_start)) != NULL)
	{
		line_start = newline + 1;
		line++;
	}

	return psprintf("%s: line %d, column %d", tmpl->source_name, line,
					pg_mbstrlen_with_len(line_start, stop - line_start) + 1);
}

/*
 * Refuse the template, because of what stands at offset.  The primary message
 * is the position and then fmt with its arguments.
 */
void
trucker_template_error(const TruckerTemplate *tmpl, int offset, const char *hint,
					   const char *fmt,...)
{
	StringInfoData reason;
	va_list		args;
	int			needed;

	initStringInfo(&reason);
	for (;;)
	{
		va_start(args, fmt);
		needed = appendStringInfoVA(&reason, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&reason, needed);
	}

	ereport(ERROR,
			errcode(ERRCODE_SYNTAX_ERROR),
			errmsg("%s: %s", trucker_template_position(tmpl, offset), reason.data),
			errhint("%s", hint));
}

static int
current_offset(const TemplateParser *p)
{
	return p->pos - p->tmpl->source;
}

/* White space in Go's templates: these four, whatever the locale says. */
static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/*
 * What a name may hold.  Bytes of multi-byte characters are let in, so that an
 * error names the whole word.
 */
static bool
is_word_char(char c)
{
	return c == '_' || is_digit(c) || (c >= 'a' && c <= 'z') ||
		(c >= 'A' && c <= 'Z') || IS_HIGHBIT_SET(c);
}

static bool
starts_with(const char *str, const char *prefix)
{
	return strncmp(str, prefix, strlen(prefix)) == 0;
}

/*
 * Is this the closing mark of an action, and if so how long?  Returns 0 if
 * not.  The dash of a trim mark belongs to it only when white space stands
 * before it.
 */
static int
close_mark_len(const char *str, bool space_before)
{
	if (starts_with(str, "}}"))
		return 2;
	if (space_before && starts_with(str, "-}}"))
		return 3;
	return 0;
}

/* Step over a closing mark, and over the white space that it trims. */
static void
skip_close_mark(TemplateParser *p, int len)
{
	p->pos += len;
	if (len == 3)
	{
		while (is_space(*p->pos))
			p->pos++;
	}
}

/* Adds the place of a \u escape to an error from converting it. */
static void
unicode_escape_error_context(void *arg)
{
	const TemplateParser *p = arg;

	errcontext("%s: Unicode escape", trucker_template_position(p->tmpl, current_offset(p)));
}

/*
 * Append a Unicode code point in the database encoding.  Raises whatever
 * pg_unicode_to_server raises for a character that the encoding lacks.
 */
static void
append_code_point(TemplateParser *p, StringInfo out, uint32 code_point)
{
	unsigned char buf[MAX_UNICODE_EQUIVALENT_STRING + 1];
	ErrorContextCallback callback;

	callback.callback = unicode_escape_error_context;
	callback.arg = p;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	pg_unicode_to_server((pg_wchar) code_point, buf);

	error_context_stack = callback.previous;

	appendStringInfoString(out, (char *) buf);
}

/* Read exactly count digits of base 8 or 16.  False if they are not there. */
static bool
read_digits(const char *str, int count, int base, uint32 *result)
{
	uint32		value = 0;

	for (int i = 0; i < count; i++)
	{
		char		c = str[i];
		int			digit;

		if (is_digit(c))
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			return false;
		if (digit >= base)
			return false;
		value = value * base + digit;
	}

	*result = value;
	return true;
}

/*
 * Read the escape that p->pos, at a backslash, starts.  \x and octal escapes
 * are bytes, as in Go: whether they make valid text is checked when the string
 * is complete.
 */
static void
lex_escape(TemplateParser *p, StringInfo out)
{
	static const char letters[] = "abfnrtv\\\"";
	static const char meanings[] = "\a\b\f\n\r\t\v\\\"";
	char		c = p->pos[1];
	const char *letter = strchr(letters, c);
	const char *digits = p->pos + 2;
	int			ndigits;
	int			base = 16;
	uint32		value;
	bool		valid;

	if (letter != NULL)
	{
		appendStringInfoChar(out, meanings[letter - letters]);
		p->pos += 2;
		return;
	}

	if (c == 'x')
		ndigits = 2;
	else if (c == 'u')
		ndigits = 4;
	else if (c == 'U')
		ndigits = 8;
	else
	{
		/* octal has no letter: the digits start right after the backslash */
		ndigits = 3;
		base = 8;
		digits = p->pos + 1;
	}

	valid = read_digits(digits, ndigits, base, &value);
	if (valid && (c == 'u' || c == 'U'))
		valid = value <= 0x10FFFF && !is_utf16_surrogate_first(value) &&
			!is_utf16_surrogate_second(value);
	else if (valid)
		valid = value <= 0xFF;
	if (!valid)
		trucker_template_error(p->tmpl, current_offset(p), ESCAPES_HINT,
							   "invalid escape sequence in string");
	if (value == 0)
		trucker_template_error(p->tmpl, current_offset(p), ESCAPES_HINT,
							   "a string cannot hold the character with code zero");

	if (c == 'u' || c == 'U')
		append_code_point(p, out, value);
	else
		appendStringInfoChar(out, (char) value);
	p->pos = digits + ndigits;
}

/*
 * Read a string literal, "..." or `...`, that p->pos is at.  The raw form goes
 * over lines and loses its carriage returns, as in Go.
 */
static void
lex_string(TemplateParser *p)
{
	StringInfoData buf;
	char		quote = *p->pos;
	bool		raw = (quote == '`');

	initStringInfo(&buf);
	p->pos++;
	while (*p->pos != quote)
	{
		char		c = *p->pos;

		if (!raw && c == '\\' && p->pos[1] != '\0' && p->pos[1] != '\n')
		{
			lex_escape(p, &buf);
			continue;
		}
		if (c == '\0' || (!raw && (c == '\n' || c == '\\')))
			trucker_template_error(p->tmpl, p->token.offset,
								   "A string in \"...\" ends on the line it starts on; one in `...` may go over several lines.",
								   "unterminated string");
		if (!(raw && c == '\r'))
			appendStringInfoChar(&buf, c);
		p->pos++;
	}
	p->pos++;

	if (!pg_verifymbstr(buf.data, buf.len, true))
		trucker_template_error(p->tmpl, p->token.offset,
							   "\\xNN and \\NNN stand for bytes; write a character as \\uNNNN.",
							   "the escapes in this string do not make valid text in encoding \"%s\"",
							   GetDatabaseEncodingName());

	p->token.kind = TOKEN_LITERAL;
	p->token.literal.kind = VALUE_STRING;
	p->token.literal.u.string = buf.data;
}

/*
 * Read an integer literal that p->pos is at.  All that could belong to a
 * number is taken first, so that 0x10, 1.5, 1e3 and 2i are refused whole.  A
 * leading zero is refused because to Go it means octal.
 */
static void
lex_number(TemplateParser *p)
{
	const char *start = p->pos;
	const char *digits;
	bool		negative = (*start == '-');
	int64		value = 0;
	bool		valid;

	while (is_word_char(*p->pos) || *p->pos == '.' ||
		   *p->pos == '+' || *p->pos == '-')
		p->pos++;

	digits = start + (*start == '-' || *start == '+');
	valid = digits < p->pos && (*digits != '0' || digits + 1 == p->pos);
	for (const char *c = digits; valid && c < p->pos; c++)
	{
		/* built up below zero, where there is room for the smallest int64 */
		valid = is_digit(*c) &&
			!pg_mul_s64_overflow(value, 10, &value) &&
			!pg_sub_s64_overflow(value, *c - '0', &value);
	}
	if (valid && !negative)
		valid = !pg_sub_s64_overflow(0, value, &value);
	if (!valid)
		trucker_template_error(p->tmpl, p->token.offset,
							   "Numbers are decimal integers of up to 64 bits, without leading zeros.",
							   "invalid number \"%.*s\"", (int) (p->pos - start), start);

	p->token.kind = TOKEN_LITERAL;
	p->token.literal.kind = VALUE_INTEGER;
	p->token.literal.u.integer = value;
}

/* Is the current token of that kind, and does it read str? */
bool
trucker_template_token_is(const TemplateParser *p, TemplateTokenKind kind, const char *str)
{
	return p->token.kind == kind && p->token.len == strlen(str) &&
		starts_with(p->tmpl->source + p->token.offset, str);
}

/*
 * Read a word, or a variable: a field of a field, .a.b, is taken as one name,
 * so that it is reported whole.
 */
static void
lex_name(TemplateParser *p)
{
	bool		variable = (*p->pos == '.');

	while (is_word_char(*p->pos) || (variable && *p->pos == '.'))
		p->pos++;
	p->token.kind = variable ? TOKEN_VARIABLE : TOKEN_WORD;
	p->token.len = current_offset(p) - p->token.offset;

	for (int i = 0; i < lengthof(unsupported_keywords); i++)
	{
		if (trucker_template_token_is(p, TOKEN_WORD, unsupported_keywords[i]))
			trucker_template_error(p->tmpl, p->token.offset, TEMPLATE_SUBSET_HINT(p->tmpl),
								   "keyword \"%s\" is not supported",
								   unsupported_keywords[i]);
	}
}

/* Refuse a character that no token starts with. */
static void
bad_character(const TemplateParser *p)
{
	char		c = *p->pos;
	const char *hint = TEMPLATE_SUBSET_HINT(p->tmpl);

	if (c == '/')
		hint = "A comment is {{/* ... */}} or {{- /* ... */ -}}, with no other white space around /* and */.";
	else if (c == '\'')
		hint = "Write a string as \"...\" or `...`.";
	else if (c == '=')
		hint = p->tmpl->environment ? "Compare with eq: {{ if eq .STAGE \"test\" }}." :
			"Compare with eq: {{ if eq .operation \"insert\" }}.";

	trucker_template_error(p->tmpl, p->token.offset, hint,
						   "unexpected character \"%c\"", c);
}

/*
 * Read the next token of the action into p->token.  After TOKEN_CLOSE, p->pos
 * is where the text behind the action starts.
 */
void
trucker_template_next_token(TemplateParser *p)
{
	const char *start = p->pos;
	TemplateToken *token = &p->token;
	int			close_len;

	while (is_space(*p->pos))
		p->pos++;

	memset(token, 0, sizeof(TemplateToken));
	token->offset = current_offset(p);
	token->space_before = p->pos > start;

	close_len = close_mark_len(p->pos, token->space_before);
	if (close_len > 0)
	{
		token->kind = TOKEN_CLOSE;
		token->len = close_len;
		skip_close_mark(p, close_len);
		return;
	}

	switch (*p->pos)
	{
		case '\0':
			trucker_template_error(p->tmpl, p->action_offset,
								   "An action starts with {{ and ends with }}.",
								   "unclosed action");
		case '|':
			token->kind = TOKEN_PIPE;
			p->pos++;
			break;
		case '(':
			token->kind = TOKEN_LEFT_PAREN;
			p->pos++;
			break;
		case ')':
			token->kind = TOKEN_RIGHT_PAREN;
			p->pos++;
			break;
		case '"':
		case '`':
			lex_string(p);
			break;
		default:
			if (is_digit(*p->pos) || *p->pos == '+' || *p->pos == '-' ||
				(*p->pos == '.' && is_digit(p->pos[1])))
				lex_number(p);
			else if (*p->pos == '.' || is_word_char(*p->pos))
				lex_name(p);
			else
				bad_character(p);
	}
	token->len = current_offset(p) - token->offset;
}

/*
 * Take the text up to the next action, less what trim marks take from it, and
 * open that action.  *text points into the source.  Returns false when there is
 * no action any more: the text was the last.
 */
bool
trucker_template_next_text(TemplateParser *p, const char **text, int *len)
{
	const char *start = p->pos;
	const char *open = strstr(start, "{{");
	const char *stop = open != NULL ? open : start + strlen(start);

	p->pos = stop;
	if (open != NULL)
	{
		p->action_offset = current_offset(p);
		p->pos += 2;

		/* a dash is a trim mark only with white space behind it: {{-3}} */
		if (p->pos[0] == '-' && is_space(p->pos[1]))
		{
			p->pos += 2;
			while (stop > start && is_space(stop[-1]))
				stop--;
		}
	}

	*text = start;
	*len = stop - start;
	return open != NULL;
}

/* Is the action that has just been opened a comment? */
bool
trucker_template_at_comment(const TemplateParser *p)
{
	return starts_with(p->pos, "/*");
}

/* Step over a comment, from its slash-star to behind its closing mark. */
void
trucker_template_skip_comment(TemplateParser *p)
{
	const char *stop = strstr(p->pos + 2, "*/");
	int			close_len;

	if (stop == NULL)
		trucker_template_error(p->tmpl, p->action_offset,
							   "A comment ends with */}} or */ -}}.",
							   "unclosed comment");

	/* here a trim mark is one white space and a dash, no more */
	p->pos = stop + 2;
	if (is_space(p->pos[0]) && p->pos[1] == '-')
		p->pos++;
	close_len = close_mark_len(p->pos, p->pos > stop + 2);
	if (close_len == 0)
		trucker_template_error(p->tmpl, p->action_offset,
							   "A comment ends with */}} or */ -}}.",
							   "comment ends before the end of its action");
	skip_close_mark(p, close_len);
}
