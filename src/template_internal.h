/*
 * template_internal.h
 *	  What template_lex.c, template_parse.c and template.c share: the tree that
 *	  a template becomes, and the lexer that the parser reads from.
 *
 * Nobody else includes this: template.h is what the rest of trucker sees.
 */
#ifndef TRUCKER_TEMPLATE_INTERNAL_H
#define TRUCKER_TEMPLATE_INTERNAL_H

#include "nodes/pg_list.h"

#include "template.h"

#define TEMPLATE_SUBSET_HINT(tmpl) \
	((tmpl)->environment ? \
	 "The supported subset of Go templates is: if, else if, else and end; environment variables as .NAME; " \
	 "the functions eq, ne, and, or and not; string, integer and boolean literals; pipes, parentheses, trim marks and comments." : \
	 "The supported subset of Go templates is: if, else if, else and end; the variables .rows, .operation and .input_table; " \
	 "the functions eq, ne, and, or and not; string, integer and boolean literals; pipes, parentheses, trim marks and comments.")

/*
 * ---------- The tree ----------
 */

typedef enum TemplateValueKind
{
	VALUE_STRING,
	VALUE_INTEGER,
	VALUE_BOOLEAN,
	VALUE_UNSET					/* an environment variable that is not set; string is its name */
} TemplateValueKind;

typedef struct TemplateValue
{
	TemplateValueKind kind;
	union
	{
		const char *string;
		int64		integer;
		bool		boolean;
	}			u;
} TemplateValue;

typedef enum TemplateFunctionId
{
	FUNCTION_EQ,
	FUNCTION_NE,
	FUNCTION_AND,
	FUNCTION_OR,
	FUNCTION_NOT
} TemplateFunctionId;

typedef struct TemplateFunction
{
	const char *name;
	TemplateFunctionId id;
	int			min_args;
	int			max_args;		/* -1: no limit */
	const char *arity;			/* the two numbers, in words */
} TemplateFunction;

typedef struct TemplateVariable
{
	const char *name;
	size_t		offset;			/* of the field in TruckerTemplateVars; not of the environment's */
	bool		is_operation;
	bool		is_rows;
} TemplateVariable;

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
	TemplateValue literal;		/* EXPR_LITERAL */
	const TemplateVariable *variable;	/* EXPR_VARIABLE */
	const TemplateFunction *function;	/* EXPR_CALL */
	List	   *args;			/* EXPR_CALL: without what is piped in */
	List	   *commands;		/* EXPR_PIPELINE: all but the first are calls */
} TemplateExpr;

typedef struct TemplateBranch
{
	TemplateExpr *condition;
	List	   *body;			/* of TemplateNode */
} TemplateBranch;

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
	List	   *branches;		/* NODE_IF: if and each else if, of TemplateBranch */
	List	   *otherwise;		/* NODE_IF: the body of else, of TemplateNode */
} TemplateNode;

struct TruckerTemplate
{
	const char *source;
	const char *source_name;
	List	   *nodes;
	bool		environment;	/* variables are those of the environment */
	bool		uses_operation;
	bool		uses_rows;
};

/*
 * ---------- The tokens of an action ----------
 */

typedef enum TemplateTokenKind
{
	TOKEN_CLOSE,				/* }} or -}} */
	TOKEN_PIPE,
	TOKEN_LEFT_PAREN,
	TOKEN_RIGHT_PAREN,
	TOKEN_WORD,					/* keyword, function, true or false */
	TOKEN_VARIABLE,
	TOKEN_LITERAL				/* string or integer */
} TemplateTokenKind;

typedef struct TemplateToken
{
	TemplateTokenKind kind;
	int			offset;
	int			len;
	bool		space_before;
	TemplateValue literal;
} TemplateToken;

typedef struct TemplateParser
{
	TruckerTemplate *tmpl;
	const char *pos;			/* the next byte to read */
	int			action_offset;	/* of the {{ that pos is in */
	TemplateToken token;		/* the current token of that action */
} TemplateParser;

/* in template_lex.c */

/* Where offset is: "input_sql: line 3, column 8". */
extern char *trucker_template_position(const TruckerTemplate *tmpl, int offset);

/* Raise ERRCODE_SYNTAX_ERROR because of what stands at offset. */
extern void trucker_template_error(const TruckerTemplate *tmpl, int offset,
								   const char *hint, const char *fmt,...)
			pg_attribute_noreturn() pg_attribute_printf(4, 5);

extern bool trucker_template_next_text(TemplateParser *p, const char **text, int *len);
extern bool trucker_template_at_comment(const TemplateParser *p);
extern void trucker_template_skip_comment(TemplateParser *p);
extern void trucker_template_next_token(TemplateParser *p);
extern bool trucker_template_token_is(const TemplateParser *p, TemplateTokenKind kind, const char *str);

#endif							/* TRUCKER_TEMPLATE_INTERNAL_H */
