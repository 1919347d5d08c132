/*
 * template_parse.c
 *	  A template's tokens to a small tree, by recursive descent.
 *
 * What Go has and we do not is refused here, with the place and with a hint
 * that says what there is.  Nothing is passed over in silence.  In three places
 * we are stricter than Go on purpose: a pipe at the end of an action is an
 * error, and so are an unknown variable and a function called with the wrong
 * number of arguments, even in a branch never taken.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "template_internal.h"

#define NAMES_HINT(tmpl) \
	((tmpl)->environment ? \
	 "The variables are those of the server's environment, as .NAME; the functions are eq, ne, and, or and not." : \
	 "The variables are .rows, .operation and .input_table; the functions are eq, ne, and, or and not.")

static const TemplateFunction functions[] = {
	{"eq", FUNCTION_EQ, 2, -1, "two or more arguments"},
	{"ne", FUNCTION_NE, 2, 2, "two arguments"},
	{"and", FUNCTION_AND, 1, -1, "one or more arguments"},
	{"or", FUNCTION_OR, 1, -1, "one or more arguments"},
	{"not", FUNCTION_NOT, 1, 1, "one argument"}
};

static const TemplateVariable variables[] = {
	{".rows", offsetof(TruckerTemplateVars, rows), false, true},
	{".operation", offsetof(TruckerTemplateVars, operation), true, false},
	{".input_table", offsetof(TruckerTemplateVars, input_table), false, false}
};

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

static List *parse_nodes(TemplateParser *p, BlockEnd *end);
static TemplateExpr *parse_pipeline(TemplateParser *p);

/* Refuse the current token, which is whole but in the wrong place. */
static void
unexpected_token(const TemplateParser *p, const char *hint)
{
	trucker_template_error(p->tmpl, p->token.offset, hint, "unexpected \"%.*s\"",
						   p->token.len, p->tmpl->source + p->token.offset);
}

/* Can the current token start an operand? */
static bool
at_operand(const TemplateParser *p)
{
	TemplateTokenKind kind = p->token.kind;

	return kind == TOKEN_WORD || kind == TOKEN_VARIABLE ||
		kind == TOKEN_LITERAL || kind == TOKEN_LEFT_PAREN;
}

/* Go on behind an operand, from which the next one must stand apart. */
static void
finish_operand(TemplateParser *p)
{
	trucker_template_next_token(p);
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

/* A variable of the environment: any name, without the dot; but not a field of a field. */
static const TemplateVariable *
environment_variable(const TemplateParser *p)
{
	const char *name = p->tmpl->source + p->token.offset + 1;
	int			len = p->token.len - 1;
	TemplateVariable *variable;

	if (len == 0 || memchr(name, '.', len) != NULL)
		return NULL;
	variable = palloc0(sizeof(TemplateVariable));
	variable->name = pnstrdup(name, len);
	return variable;
}

/* Look up the variable that the current token names. */
static const TemplateVariable *
find_variable(const TemplateParser *p)
{
	const TemplateVariable *variable = p->tmpl->environment ? environment_variable(p) : NULL;

	if (variable)
		return variable;
	for (int i = 0; !p->tmpl->environment && i < lengthof(variables); i++)
	{
		if (trucker_template_token_is(p, TOKEN_VARIABLE, variables[i].name))
			return &variables[i];
	}

	trucker_template_error(p->tmpl, p->token.offset, NAMES_HINT(p->tmpl), "unknown variable \"%.*s\"",
						   p->token.len, p->tmpl->source + p->token.offset);
}

/* Look up the function that the current token names. */
static const TemplateFunction *
find_function(const TemplateParser *p)
{
	for (int i = 0; i < lengthof(functions); i++)
	{
		if (trucker_template_token_is(p, TOKEN_WORD, functions[i].name))
			return &functions[i];
	}

	if (trucker_template_token_is(p, TOKEN_WORD, "if") || trucker_template_token_is(p, TOKEN_WORD, "else") ||
		trucker_template_token_is(p, TOKEN_WORD, "end"))
		unexpected_token(p, "A keyword must be the first word of an action.");

	trucker_template_error(p->tmpl, p->token.offset, NAMES_HINT(p->tmpl), "unknown function \"%.*s\"",
						   p->token.len, p->tmpl->source + p->token.offset);
}

/* Check the number of arguments of a call, including one that is piped in. */
static void
check_arity(const TemplateParser *p, const TemplateExpr *call, bool piped)
{
	const TemplateFunction *function = call->function;
	int			nargs = list_length(call->args) + (piped ? 1 : 0);

	if (nargs < function->min_args ||
		(function->max_args >= 0 && nargs > function->max_args))
		trucker_template_error(p->tmpl, call->offset,
							   "A call among arguments needs parentheses; a value that is piped in counts as the last argument.",
							   "function \"%s\" takes %s, not %d",
							   function->name, function->arity, nargs);
}

/* Parse one operand: a literal, a variable, or something in parentheses. */
static TemplateExpr *
parse_operand(TemplateParser *p)
{
	int			offset = p->token.offset;
	TemplateExpr *expr;

	if (p->token.kind == TOKEN_LEFT_PAREN)
	{
		trucker_template_next_token(p);
		expr = parse_pipeline(p);
		if (p->token.kind != TOKEN_RIGHT_PAREN)
			trucker_template_error(p->tmpl, offset,
								   "Every ( needs a ) in the same action.",
								   "unclosed parenthesis");
	}
	else if (p->token.kind == TOKEN_VARIABLE)
	{
		expr = make_expr(EXPR_VARIABLE, offset);
		expr->variable = find_variable(p);
		if (expr->variable->is_operation)
			p->tmpl->uses_operation = true;
		if (expr->variable->is_rows)
			p->tmpl->uses_rows = true;
	}
	else if (p->token.kind == TOKEN_LITERAL)
	{
		expr = make_expr(EXPR_LITERAL, offset);
		expr->literal = p->token.literal;
	}
	else if (trucker_template_token_is(p, TOKEN_WORD, "true") ||
			 trucker_template_token_is(p, TOKEN_WORD, "false"))
	{
		expr = make_expr(EXPR_LITERAL, offset);
		expr->literal.kind = VALUE_BOOLEAN;
		expr->literal.u.boolean = trucker_template_token_is(p, TOKEN_WORD, "true");
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
parse_command(TemplateParser *p, bool piped)
{
	int			offset = p->token.offset;
	TemplateExpr *expr;

	if (!at_operand(p))
		trucker_template_error(p->tmpl, offset, TEMPLATE_SUBSET_HINT(p->tmpl),
							   "missing value before \"%.*s\"",
							   p->token.len, p->tmpl->source + offset);

	if (p->token.kind == TOKEN_WORD && !trucker_template_token_is(p, TOKEN_WORD, "true") &&
		!trucker_template_token_is(p, TOKEN_WORD, "false"))
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
		trucker_template_error(p->tmpl, offset,
							   "The functions are eq, ne, and, or and not.",
							   "only a function can be given arguments");
	return expr;
}

/*
 * Parse commands separated by pipes, up to a token that cannot go on the
 * pipeline.  The caller checks whether that is the one that ought to be there.
 */
static TemplateExpr *
parse_pipeline(TemplateParser *p)
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
		trucker_template_next_token(p);
	}

	if (list_length(commands) == 1)
		return linitial(commands);

	pipeline = make_expr(EXPR_PIPELINE, offset);
	pipeline->commands = commands;
	return pipeline;
}

/* The action must end here. */
static void
expect_close(const TemplateParser *p)
{
	if (p->token.kind != TOKEN_CLOSE)
		unexpected_token(p, "The action should have ended here, with }}.");
}

/*
 * Parse {{ if }} from behind the word "if", to its {{ end }}.  A chain of
 * {{ else if }} is a loop, not a recursion: only nesting costs stack.
 */
static TemplateNode *
parse_if(TemplateParser *p)
{
	int			if_offset = p->action_offset;
	TemplateNode *node = palloc0(sizeof(TemplateNode));
	BlockEnd	end;

	node->kind = NODE_IF;
	do
	{
		TemplateBranch *branch = palloc0(sizeof(TemplateBranch));

		trucker_template_next_token(p);
		branch->condition = parse_pipeline(p);
		expect_close(p);
		branch->body = parse_nodes(p, &end);
		node->branches = lappend(node->branches, branch);
	} while (end.kind == BLOCK_ELSE_IF);

	if (end.kind == BLOCK_ELSE)
	{
		node->otherwise = parse_nodes(p, &end);
		if (end.kind == BLOCK_ELSE || end.kind == BLOCK_ELSE_IF)
			trucker_template_error(p->tmpl, end.offset,
								   "An {{ if }} has at most one {{ else }}, as its last branch.",
								   "unexpected {{ else }} after {{ else }}");
	}

	if (end.kind == BLOCK_SOURCE_END)
		trucker_template_error(p->tmpl, if_offset,
							   "Every {{ if }} needs an {{ end }}.",
							   "{{ if }} without {{ end }}");
	return node;
}

/* Parse {{ else }}, {{ else if }} (up to the "if") or {{ end }}. */
static void
parse_block_end(TemplateParser *p, BlockEnd *end)
{
	end->kind = trucker_template_token_is(p, TOKEN_WORD, "end") ? BLOCK_END : BLOCK_ELSE;
	end->offset = p->action_offset;

	trucker_template_next_token(p);
	if (end->kind == BLOCK_ELSE && trucker_template_token_is(p, TOKEN_WORD, "if"))
		end->kind = BLOCK_ELSE_IF;
	else
		expect_close(p);
}

static TemplateNode *
make_text(const char *text, int len)
{
	TemplateNode *node = palloc0(sizeof(TemplateNode));

	node->kind = NODE_TEXT;
	node->text = text;
	node->text_len = len;
	return node;
}

/*
 * Parse text and actions up to the end of the source, or to an {{ else }} or
 * {{ end }} of the block around them.  *end tells which.
 */
static List *
parse_nodes(TemplateParser *p, BlockEnd *end)
{
	List	   *nodes = NIL;

	check_stack_depth();

	for (;;)
	{
		const char *text;
		int			text_len;
		bool		at_action = trucker_template_next_text(p, &text, &text_len);

		if (text_len > 0)
			nodes = lappend(nodes, make_text(text, text_len));
		if (!at_action)
			break;
		if (trucker_template_at_comment(p))
		{
			trucker_template_skip_comment(p);
			continue;
		}

		trucker_template_next_token(p);
		if (trucker_template_token_is(p, TOKEN_WORD, "else") ||
			trucker_template_token_is(p, TOKEN_WORD, "end"))
		{
			parse_block_end(p, end);
			return nodes;
		}
		else if (trucker_template_token_is(p, TOKEN_WORD, "if"))
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
	end->offset = p->pos - p->tmpl->source;
	return nodes;
}

static TruckerTemplate *
parse(const char *source, const char *source_name, bool environment)
{
	TruckerTemplate *tmpl = palloc0(sizeof(TruckerTemplate));
	TemplateParser parser = {0};
	BlockEnd	end;

	tmpl->environment = environment;
	tmpl->source = pstrdup(source);
	tmpl->source_name = pstrdup(source_name);
	parser.tmpl = tmpl;
	parser.pos = tmpl->source;

	tmpl->nodes = parse_nodes(&parser, &end);
	if (end.kind != BLOCK_SOURCE_END)
		trucker_template_error(tmpl, end.offset,
							   "There is no open {{ if }} that it could belong to.",
							   "unexpected {{ %s }}",
							   end.kind == BLOCK_END ? "end" :
							   end.kind == BLOCK_ELSE ? "else" : "else if");
	return tmpl;
}

/* See template.h. */
TruckerTemplate *
trucker_template_parse(const char *source, const char *source_name)
{
	return parse(source, source_name, false);
}

/* See template.h. */
TruckerTemplate *
trucker_template_parse_environment(const char *source, const char *source_name)
{
	return parse(source, source_name, true);
}
