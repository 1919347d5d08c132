/*
 * template.c
 *	  A subset of Go's text/template: template text in, text out.
 *
 * input.sql and output.sql are written in Go's template language because that
 * is what users of trucker's predecessor already have.  What this file accepts
 * means exactly what it means in Go; template.h lists the subset.  What Go has
 * and this file does not is refused when the template is parsed, with the
 * place and with a hint that says what there is.  Nothing is passed over in
 * silence.  In three places we are stricter than Go on purpose: a pipe at the
 * end of an action is an error, and so are an unknown variable and a function
 * called with the wrong number of arguments, even in a branch never taken.
 *
 * This file knows nothing of SQL, and reads no catalog: it does not quote what
 * it inserts, nor look at what the text around an action means.
 *
 * A template is parsed by recursive descent into a small tree.  The tokens of
 * an action are read on demand, one ahead; text between actions is never
 * tokenized, and is not copied either: text nodes point into the template's
 * own copy of the source, which must be kept anyway so that an error while
 * rendering can still name line and column.  Positions are therefore kept as
 * byte offsets, and become line and column only when somebody has to see them.
 *
 * Scanning byte by byte for ASCII characters is safe: in every encoding that a
 * PostgreSQL server may have, all bytes of a multi-byte character have the high
 * bit set.
 *
 * Every function here allocates in the current memory context and frees
 * nothing: a template goes away with its context.
 */
#include "postgres.h"

#include "common/int.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"

#include "template.h"

#define NAMES_HINT \
	"The variables are .rows, .operation and .input_table; the functions are eq, ne, and, or and not."
#define SUBSET_HINT \
	"The supported subset of Go templates is: if, else if, else and end; the variables .rows, .operation and .input_table; " \
	"the functions eq, ne, and, or and not; string, integer and boolean literals; pipes, parentheses, trim marks and comments."
#define ESCAPES_HINT \
	"The escapes are \\a \\b \\f \\n \\r \\t \\v \\\\ \\\" \\xNN \\NNN \\uNNNN \\UNNNNNNNN; in `...` a backslash is an ordinary character."

typedef enum ValueKind
{
	VALUE_STRING,
	VALUE_INTEGER,
	VALUE_BOOLEAN
} ValueKind;

typedef struct Value
{
	ValueKind	kind;
	union
	{
		const char *string;
		int64		integer;
		bool		boolean;
	}			u;
} Value;

typedef enum FunctionId
{
	FUNCTION_EQ,
	FUNCTION_NE,
	FUNCTION_AND,
	FUNCTION_OR,
	FUNCTION_NOT
} FunctionId;

typedef struct Function
{
	const char *name;
	FunctionId	id;
	int			min_args;
	int			max_args;		/* -1: no limit */
	const char *arity;			/* the two numbers, in words */
} Function;

static const Function functions[] = {
	{"eq", FUNCTION_EQ, 2, -1, "two or more arguments"},
	{"ne", FUNCTION_NE, 2, 2, "two arguments"},
	{"and", FUNCTION_AND, 1, -1, "one or more arguments"},
	{"or", FUNCTION_OR, 1, -1, "one or more arguments"},
	{"not", FUNCTION_NOT, 1, 1, "one argument"}
};

typedef struct Variable
{
	const char *name;
	size_t		offset;			/* of the field in TruckerTemplateVars */
	bool		is_operation;
} Variable;

static const Variable variables[] = {
	{".rows", offsetof(TruckerTemplateVars, rows), false},
	{".operation", offsetof(TruckerTemplateVars, operation), true},
	{".input_table", offsetof(TruckerTemplateVars, input_table), false}
};

/* Words that mean something in Go's template language, but nothing here. */
static const char *const unsupported_keywords[] = {
	"range", "with", "define", "block", "template", "break", "continue", "nil"
};

typedef enum TemplateExprKind
{
	EXPR_LITERAL,
	EXPR_VARIABLE,
	EXPR_CALL,
	EXPR_PIPELINE				/* of two or more commands */
} TemplateExprKind;

typedef struct TemplateExpr
{
	TemplateExprKind kind;
	int			offset;			/* in the source, in bytes */
	Value		literal;		/* EXPR_LITERAL */
	const Variable *variable;	/* EXPR_VARIABLE */
	const Function *function;	/* EXPR_CALL */
	List	   *args;			/* EXPR_CALL: without what is piped in */
	List	   *commands;		/* EXPR_PIPELINE: all but the first are calls */
} TemplateExpr;

typedef struct Branch
{
	TemplateExpr *condition;
	List	   *body;			/* of TemplateNode */
} Branch;

typedef enum TemplateNodeKind
{
	NODE_TEXT,
	NODE_OUTPUT,
	NODE_IF
} TemplateNodeKind;

typedef struct TemplateNode
{
	TemplateNodeKind kind;
	const char *text;			/* NODE_TEXT: points into the source */
	int			text_len;
	TemplateExpr *output;		/* NODE_OUTPUT */
	List	   *branches;		/* NODE_IF: if and each else if, of Branch */
	List	   *otherwise;		/* NODE_IF: the body of else, of TemplateNode */
} TemplateNode;

struct TruckerTemplate
{
	const char *source;
	const char *source_name;
	List	   *nodes;
	bool		uses_operation;
};

typedef enum TokenKind
{
	TOKEN_CLOSE,				/* }} or -}} */
	TOKEN_PIPE,
	TOKEN_LEFT_PAREN,
	TOKEN_RIGHT_PAREN,
	TOKEN_WORD,					/* keyword, function, true or false */
	TOKEN_VARIABLE,
	TOKEN_LITERAL				/* string or integer */
} TokenKind;

typedef struct Token
{
	TokenKind	kind;
	int			offset;
	int			len;
	bool		space_before;
	Value		literal;
} Token;

typedef struct Parser
{
	TruckerTemplate *tmpl;
	const char *pos;			/* the next byte to read */
	int			action_offset;	/* of the {{ that pos is in */
	Token		token;			/* the current token of that action */
} Parser;

/* How a list of nodes ended, and where. */
typedef enum BlockEndKind
{
	BLOCK_SOURCE_END,
	BLOCK_ELSE,
	BLOCK_ELSE_IF,				/* the condition has not been read yet */
	BLOCK_END
} BlockEndKind;

typedef struct BlockEnd
{
	BlockEndKind kind;
	int			offset;
} BlockEnd;

static void syntax_error(const TruckerTemplate *tmpl, int offset,
						 const char *hint, const char *fmt,...)
			pg_attribute_noreturn() pg_attribute_printf(4, 5);
static List *parse_nodes(Parser *p, BlockEnd *end);
static TemplateExpr *parse_pipeline(Parser *p);
static void render_nodes(const TruckerTemplate *tmpl, List *nodes,
						 const TruckerTemplateVars *vars, StringInfo out);
static Value eval_expr(const TruckerTemplate *tmpl, const TemplateExpr *expr,
					   const Value *piped, const TruckerTemplateVars *vars);

/*
 * Where in the source an offset is, as every error message here starts:
 * "input_sql: line 3, column 8".
 */
static char *
position(const TruckerTemplate *tmpl, int offset)
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
static void
syntax_error(const TruckerTemplate *tmpl, int offset, const char *hint,
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
			errmsg("%s: %s", position(tmpl, offset), reason.data),
			errhint("%s", hint));
}

static int
current_offset(const Parser *p)
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
skip_close_mark(Parser *p, int len)
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
	const Parser *p = arg;

	errcontext("%s: Unicode escape", position(p->tmpl, current_offset(p)));
}

/*
 * Append a Unicode code point in the database encoding.  Raises whatever
 * pg_unicode_to_server raises for a character that the encoding lacks.
 */
static void
append_code_point(Parser *p, StringInfo out, uint32 code_point)
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
lex_escape(Parser *p, StringInfo out)
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
		syntax_error(p->tmpl, current_offset(p), ESCAPES_HINT,
					 "invalid escape sequence in string");
	if (value == 0)
		syntax_error(p->tmpl, current_offset(p), ESCAPES_HINT,
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
lex_string(Parser *p)
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
			syntax_error(p->tmpl, p->token.offset,
						 "A string in \"...\" ends on the line it starts on; one in `...` may go over several lines.",
						 "unterminated string");
		if (!(raw && c == '\r'))
			appendStringInfoChar(&buf, c);
		p->pos++;
	}
	p->pos++;

	if (!pg_verifymbstr(buf.data, buf.len, true))
		syntax_error(p->tmpl, p->token.offset,
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
lex_number(Parser *p)
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
		syntax_error(p->tmpl, p->token.offset,
					 "Numbers are decimal integers of up to 64 bits, without leading zeros.",
					 "invalid number \"%.*s\"", (int) (p->pos - start), start);

	p->token.kind = TOKEN_LITERAL;
	p->token.literal.kind = VALUE_INTEGER;
	p->token.literal.u.integer = value;
}

static bool
token_is(const Parser *p, TokenKind kind, const char *str)
{
	return p->token.kind == kind && p->token.len == strlen(str) &&
		starts_with(p->tmpl->source + p->token.offset, str);
}

/*
 * Read a word, or a variable: a field of a field, .a.b, is taken as one name,
 * so that it is reported whole.
 */
static void
lex_name(Parser *p)
{
	bool		variable = (*p->pos == '.');

	while (is_word_char(*p->pos) || (variable && *p->pos == '.'))
		p->pos++;
	p->token.kind = variable ? TOKEN_VARIABLE : TOKEN_WORD;
	p->token.len = current_offset(p) - p->token.offset;

	for (int i = 0; i < lengthof(unsupported_keywords); i++)
	{
		if (token_is(p, TOKEN_WORD, unsupported_keywords[i]))
			syntax_error(p->tmpl, p->token.offset, SUBSET_HINT,
						 "keyword \"%s\" is not supported",
						 unsupported_keywords[i]);
	}
}

/* Refuse a character that no token starts with. */
static void
bad_character(const Parser *p)
{
	char		c = *p->pos;
	const char *hint = SUBSET_HINT;

	if (c == '/')
		hint = "A comment is {{/* ... */}} or {{- /* ... */ -}}, with no other white space around /* and */.";
	else if (c == '\'')
		hint = "Write a string as \"...\" or `...`.";
	else if (c == '=')
		hint = "Compare with eq: {{ if eq .operation \"insert\" }}.";

	syntax_error(p->tmpl, p->token.offset, hint,
				 "unexpected character \"%c\"", c);
}

/*
 * Read the next token of the action into p->token.  After TOKEN_CLOSE, p->pos
 * is where the text behind the action starts.
 */
static void
next_token(Parser *p)
{
	const char *start = p->pos;
	Token	   *token = &p->token;
	int			close_len;

	while (is_space(*p->pos))
		p->pos++;

	memset(token, 0, sizeof(Token));
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
			syntax_error(p->tmpl, p->action_offset,
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

/* Refuse the current token, which is whole but in the wrong place. */
static void
unexpected_token(const Parser *p, const char *hint)
{
	syntax_error(p->tmpl, p->token.offset, hint, "unexpected \"%.*s\"",
				 p->token.len, p->tmpl->source + p->token.offset);
}

/* Can the current token start an operand? */
static bool
at_operand(const Parser *p)
{
	TokenKind	kind = p->token.kind;

	return kind == TOKEN_WORD || kind == TOKEN_VARIABLE ||
		kind == TOKEN_LITERAL || kind == TOKEN_LEFT_PAREN;
}

/* Go on behind an operand, from which the next one must stand apart. */
static void
finish_operand(Parser *p)
{
	next_token(p);
	if (at_operand(p) && !p->token.space_before)
		unexpected_token(p, "Arguments are separated by white space.");
}

static TemplateExpr *
make_expr(TemplateExprKind kind, int offset)
{
	TemplateExpr *expr = palloc0(sizeof(TemplateExpr));

	expr->kind = kind;
	expr->offset = offset;
	return expr;
}

/* Look up the variable that the current token names. */
static const Variable *
find_variable(const Parser *p)
{
	for (int i = 0; i < lengthof(variables); i++)
	{
		if (token_is(p, TOKEN_VARIABLE, variables[i].name))
			return &variables[i];
	}

	syntax_error(p->tmpl, p->token.offset, NAMES_HINT, "unknown variable \"%.*s\"",
				 p->token.len, p->tmpl->source + p->token.offset);
}

/* Look up the function that the current token names. */
static const Function *
find_function(const Parser *p)
{
	for (int i = 0; i < lengthof(functions); i++)
	{
		if (token_is(p, TOKEN_WORD, functions[i].name))
			return &functions[i];
	}

	if (token_is(p, TOKEN_WORD, "if") || token_is(p, TOKEN_WORD, "else") ||
		token_is(p, TOKEN_WORD, "end"))
		unexpected_token(p, "A keyword must be the first word of an action.");

	syntax_error(p->tmpl, p->token.offset, NAMES_HINT, "unknown function \"%.*s\"",
				 p->token.len, p->tmpl->source + p->token.offset);
}

/* Check the number of arguments of a call, including one that is piped in. */
static void
check_arity(const Parser *p, const TemplateExpr *call, bool piped)
{
	const Function *function = call->function;
	int			nargs = list_length(call->args) + (piped ? 1 : 0);

	if (nargs < function->min_args ||
		(function->max_args >= 0 && nargs > function->max_args))
		syntax_error(p->tmpl, call->offset,
					 "A call among arguments needs parentheses; a value that is piped in counts as the last argument.",
					 "function \"%s\" takes %s, not %d",
					 function->name, function->arity, nargs);
}

/* Parse one operand: a literal, a variable, or something in parentheses. */
static TemplateExpr *
parse_operand(Parser *p)
{
	int			offset = p->token.offset;
	TemplateExpr *expr;

	if (p->token.kind == TOKEN_LEFT_PAREN)
	{
		next_token(p);
		expr = parse_pipeline(p);
		if (p->token.kind != TOKEN_RIGHT_PAREN)
			syntax_error(p->tmpl, offset,
						 "Every ( needs a ) in the same action.",
						 "unclosed parenthesis");
	}
	else if (p->token.kind == TOKEN_VARIABLE)
	{
		expr = make_expr(EXPR_VARIABLE, offset);
		expr->variable = find_variable(p);
		if (expr->variable->is_operation)
			p->tmpl->uses_operation = true;
	}
	else if (p->token.kind == TOKEN_LITERAL)
	{
		expr = make_expr(EXPR_LITERAL, offset);
		expr->literal = p->token.literal;
	}
	else if (token_is(p, TOKEN_WORD, "true") ||
			 token_is(p, TOKEN_WORD, "false"))
	{
		expr = make_expr(EXPR_LITERAL, offset);
		expr->literal.kind = VALUE_BOOLEAN;
		expr->literal.u.boolean = token_is(p, TOKEN_WORD, "true");
	}
	else
	{
		/* as in Go, a function among arguments is a call with none */
		expr = make_expr(EXPR_CALL, offset);
		expr->function = find_function(p);
		check_arity(p, expr, false);
	}

	finish_operand(p);
	return expr;
}

/* Parse one command of a pipeline: an operand, or a call with arguments. */
static TemplateExpr *
parse_command(Parser *p, bool piped)
{
	int			offset = p->token.offset;
	TemplateExpr *expr;

	if (!at_operand(p))
		syntax_error(p->tmpl, offset, SUBSET_HINT,
					 "missing value before \"%.*s\"",
					 p->token.len, p->tmpl->source + offset);

	if (p->token.kind == TOKEN_WORD && !token_is(p, TOKEN_WORD, "true") &&
		!token_is(p, TOKEN_WORD, "false"))
	{
		expr = make_expr(EXPR_CALL, offset);
		expr->function = find_function(p);
		finish_operand(p);
		while (at_operand(p))
			expr->args = lappend(expr->args, parse_operand(p));
		check_arity(p, expr, piped);
		return expr;
	}

	expr = parse_operand(p);
	if (piped || at_operand(p))
		syntax_error(p->tmpl, offset,
					 "The functions are eq, ne, and, or and not.",
					 "only a function can be given arguments");
	return expr;
}

/*
 * Parse commands separated by pipes, up to a token that cannot go on the
 * pipeline.  The caller checks whether that is the one that ought to be there.
 */
static TemplateExpr *
parse_pipeline(Parser *p)
{
	int			offset = p->token.offset;
	List	   *commands = NIL;
	TemplateExpr *pipeline;

	check_stack_depth();

	for (;;)
	{
		commands = lappend(commands, parse_command(p, commands != NIL));
		if (p->token.kind != TOKEN_PIPE)
			break;
		next_token(p);
	}

	if (list_length(commands) == 1)
		return linitial(commands);

	pipeline = make_expr(EXPR_PIPELINE, offset);
	pipeline->commands = commands;
	return pipeline;
}

/* The action must end here. */
static void
expect_close(const Parser *p)
{
	if (p->token.kind != TOKEN_CLOSE)
		unexpected_token(p, "The action should have ended here, with }}.");
}

/*
 * Parse {{ if }} from behind the word "if", to its {{ end }}.  A chain of
 * {{ else if }} is a loop, not a recursion: only nesting costs stack.
 */
static TemplateNode *
parse_if(Parser *p)
{
	int			if_offset = p->action_offset;
	TemplateNode *node = palloc0(sizeof(TemplateNode));
	BlockEnd	end;

	node->kind = NODE_IF;
	do
	{
		Branch	   *branch = palloc0(sizeof(Branch));

		next_token(p);
		branch->condition = parse_pipeline(p);
		expect_close(p);
		branch->body = parse_nodes(p, &end);
		node->branches = lappend(node->branches, branch);
	} while (end.kind == BLOCK_ELSE_IF);

	if (end.kind == BLOCK_ELSE)
	{
		node->otherwise = parse_nodes(p, &end);
		if (end.kind == BLOCK_ELSE || end.kind == BLOCK_ELSE_IF)
			syntax_error(p->tmpl, end.offset,
						 "An {{ if }} has at most one {{ else }}, as its last branch.",
						 "unexpected {{ else }} after {{ else }}");
	}

	if (end.kind == BLOCK_SOURCE_END)
		syntax_error(p->tmpl, if_offset,
					 "Every {{ if }} needs an {{ end }}.",
					 "{{ if }} without {{ end }}");
	return node;
}

/* Parse {{ else }}, {{ else if }} (up to the "if") or {{ end }}. */
static void
parse_block_end(Parser *p, BlockEnd *end)
{
	end->kind = token_is(p, TOKEN_WORD, "end") ? BLOCK_END : BLOCK_ELSE;
	end->offset = p->action_offset;

	next_token(p);
	if (end->kind == BLOCK_ELSE && token_is(p, TOKEN_WORD, "if"))
		end->kind = BLOCK_ELSE_IF;
	else
		expect_close(p);
}

/*
 * Take the text up to the next action, if there is any text, and open that
 * action.  Returns false at the end of the source.
 */
static bool
parse_text(Parser *p, List **nodes)
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

	if (stop > start)
	{
		TemplateNode *node = palloc0(sizeof(TemplateNode));

		node->kind = NODE_TEXT;
		node->text = start;
		node->text_len = stop - start;
		*nodes = lappend(*nodes, node);
	}
	return open != NULL;
}

/* Step over a comment, from its slash-star to behind its closing mark. */
static void
skip_comment(Parser *p)
{
	const char *stop = strstr(p->pos + 2, "*/");
	int			close_len;

	if (stop == NULL)
		syntax_error(p->tmpl, p->action_offset,
					 "A comment ends with */}} or */ -}}.",
					 "unclosed comment");

	/* here a trim mark is one white space and a dash, no more */
	p->pos = stop + 2;
	if (is_space(p->pos[0]) && p->pos[1] == '-')
		p->pos++;
	close_len = close_mark_len(p->pos, p->pos > stop + 2);
	if (close_len == 0)
		syntax_error(p->tmpl, p->action_offset,
					 "A comment ends with */}} or */ -}}.",
					 "comment ends before the end of its action");
	skip_close_mark(p, close_len);
}

/*
 * Parse text and actions up to the end of the source, or to an {{ else }} or
 * {{ end }} of the block around them.  *end tells which.
 */
static List *
parse_nodes(Parser *p, BlockEnd *end)
{
	List	   *nodes = NIL;

	check_stack_depth();

	while (parse_text(p, &nodes))
	{
		if (starts_with(p->pos, "/*"))
		{
			skip_comment(p);
			continue;
		}

		next_token(p);
		if (token_is(p, TOKEN_WORD, "else") || token_is(p, TOKEN_WORD, "end"))
		{
			parse_block_end(p, end);
			return nodes;
		}
		else if (token_is(p, TOKEN_WORD, "if"))
			nodes = lappend(nodes, parse_if(p));
		else
		{
			TemplateNode *node = palloc0(sizeof(TemplateNode));

			node->kind = NODE_OUTPUT;
			node->output = parse_pipeline(p);
			expect_close(p);
			nodes = lappend(nodes, node);
		}
	}

	end->kind = BLOCK_SOURCE_END;
	end->offset = current_offset(p);
	return nodes;
}

/* See template.h. */
TruckerTemplate *
trucker_template_parse(const char *source, const char *source_name)
{
	TruckerTemplate *tmpl = palloc0(sizeof(TruckerTemplate));
	Parser		parser = {0};
	BlockEnd	end;

	tmpl->source = pstrdup(source);
	tmpl->source_name = pstrdup(source_name);
	parser.tmpl = tmpl;
	parser.pos = tmpl->source;

	tmpl->nodes = parse_nodes(&parser, &end);
	if (end.kind != BLOCK_SOURCE_END)
		syntax_error(tmpl, end.offset,
					 "There is no open {{ if }} that it could belong to.",
					 "unexpected {{ %s }}",
					 end.kind == BLOCK_END ? "end" :
					 end.kind == BLOCK_ELSE ? "else" : "else if");
	return tmpl;
}

/* Truth as in Go: all but the empty string, zero and false. */
static bool
is_true(Value value)
{
	switch (value.kind)
	{
		case VALUE_STRING:
			return value.u.string[0] != '\0';
		case VALUE_INTEGER:
			return value.u.integer != 0;
		case VALUE_BOOLEAN:
			return value.u.boolean;
	}
	return false;				/* keep compiler quiet */
}

static Value
make_boolean(bool boolean)
{
	Value		value;

	value.kind = VALUE_BOOLEAN;
	value.u.boolean = boolean;
	return value;
}

/* Are two arguments of call equal?  Raises an error if their kinds differ. */
static bool
values_equal(const TruckerTemplate *tmpl, const TemplateExpr *call, Value a, Value b)
{
	static const char *const kind_names[] = {
		[VALUE_STRING] = "string",
		[VALUE_INTEGER] = "integer",
		[VALUE_BOOLEAN] = "boolean"
	};

	if (a.kind != b.kind)
		ereport(ERROR,
				errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("%s: function \"%s\" cannot compare %s with %s",
					   position(tmpl, call->offset), call->function->name,
					   kind_names[a.kind], kind_names[b.kind]),
				errhint("Compare values of the same type; variables are strings."));

	switch (a.kind)
	{
		case VALUE_STRING:
			return strcmp(a.u.string, b.u.string) == 0;
		case VALUE_INTEGER:
			return a.u.integer == b.u.integer;
		case VALUE_BOOLEAN:
			return a.u.boolean == b.u.boolean;
	}
	return false;				/* keep compiler quiet */
}

/*
 * Evaluate eq or ne.  All arguments are evaluated, but as in Go the comparison
 * ends at the first that is equal: one of another kind behind it is not seen.
 * For ne, which has two arguments, "any of the others" is the other one.
 */
static bool
eval_equality(const TruckerTemplate *tmpl, const TemplateExpr *call,
			  const Value *piped, const TruckerTemplateVars *vars)
{
	int			nargs = list_length(call->args);
	Value	   *values = palloc(sizeof(Value) * (nargs + 1));

	for (int i = 0; i < nargs; i++)
		values[i] = eval_expr(tmpl, list_nth(call->args, i), NULL, vars);
	if (piped != NULL)
		values[nargs++] = *piped;

	for (int i = 1; i < nargs; i++)
	{
		if (values_equal(tmpl, call, values[0], values[i]))
			return true;
	}
	return false;
}

/*
 * Evaluate a call.  piped is the value that comes as last argument, or NULL.
 * It has been evaluated already, even where and/or then decide before they get
 * to it; their arguments proper are evaluated only as far as needed.
 */
static Value
eval_call(const TruckerTemplate *tmpl, const TemplateExpr *call,
		  const Value *piped, const TruckerTemplateVars *vars)
{
	FunctionId	id = call->function->id;
	Value		value = make_boolean(false);
	ListCell   *lc;

	if (id == FUNCTION_EQ || id == FUNCTION_NE)
	{
		bool		equal = eval_equality(tmpl, call, piped, vars);

		return make_boolean(equal == (id == FUNCTION_EQ));
	}

	/* and, or: the argument that decides; not: its only argument */
	foreach(lc, call->args)
	{
		value = eval_expr(tmpl, lfirst(lc), NULL, vars);
		if ((id == FUNCTION_AND && !is_true(value)) ||
			(id == FUNCTION_OR && is_true(value)))
			return value;
	}
	if (piped != NULL)
		value = *piped;

	return id == FUNCTION_NOT ? make_boolean(!is_true(value)) : value;
}

static Value
eval_expr(const TruckerTemplate *tmpl, const TemplateExpr *expr,
		  const Value *piped, const TruckerTemplateVars *vars)
{
	Value		value = make_boolean(false);
	ListCell   *lc;

	/* the depth that was enough to parse may not be enough to evaluate */
	check_stack_depth();

	switch (expr->kind)
	{
		case EXPR_LITERAL:
			value = expr->literal;
			break;
		case EXPR_VARIABLE:
			value.kind = VALUE_STRING;
			value.u.string = *(const char *const *)
				((const char *) vars + expr->variable->offset);
			break;
		case EXPR_CALL:
			value = eval_call(tmpl, expr, piped, vars);
			break;
		case EXPR_PIPELINE:
			foreach(lc, expr->commands)
			{
				bool		first = (lc == list_head(expr->commands));

				value = eval_expr(tmpl, lfirst(lc), first ? NULL : &value, vars);
			}
			break;
	}
	return value;
}

static void
append_value(StringInfo out, Value value)
{
	switch (value.kind)
	{
		case VALUE_STRING:
			appendStringInfoString(out, value.u.string);
			break;
		case VALUE_INTEGER:
			appendStringInfo(out, INT64_FORMAT, value.u.integer);
			break;
		case VALUE_BOOLEAN:
			appendStringInfoString(out, value.u.boolean ? "true" : "false");
			break;
	}
}

/* Render the first branch whose condition holds, else the body of else. */
static void
render_if(const TruckerTemplate *tmpl, const TemplateNode *node,
		  const TruckerTemplateVars *vars, StringInfo out)
{
	ListCell   *lc;

	foreach(lc, node->branches)
	{
		Branch	   *branch = lfirst(lc);

		if (is_true(eval_expr(tmpl, branch->condition, NULL, vars)))
		{
			render_nodes(tmpl, branch->body, vars, out);
			return;
		}
	}
	render_nodes(tmpl, node->otherwise, vars, out);
}

static void
render_nodes(const TruckerTemplate *tmpl, List *nodes,
			 const TruckerTemplateVars *vars, StringInfo out)
{
	ListCell   *lc;

	check_stack_depth();

	foreach(lc, nodes)
	{
		TemplateNode *node = lfirst(lc);

		switch (node->kind)
		{
			case NODE_TEXT:
				appendBinaryStringInfo(out, node->text, node->text_len);
				break;
			case NODE_OUTPUT:
				append_value(out, eval_expr(tmpl, node->output, NULL, vars));
				break;
			case NODE_IF:
				render_if(tmpl, node, vars, out);
				break;
		}
	}
}

/* See template.h. */
char *
trucker_template_render(const TruckerTemplate *tmpl,
						const TruckerTemplateVars *vars)
{
	StringInfoData out;

	initStringInfo(&out);
	render_nodes(tmpl, tmpl->nodes, vars, &out);
	return out.data;
}

/* See template.h. */
bool
trucker_template_uses_operation(const TruckerTemplate *tmpl)
{
	return tmpl->uses_operation;
}
