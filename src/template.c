/*
 * template.c
 *	  A subset of Go's text/template: a parsed template to text.
 *
 * input.sql and output.sql, and the YAML files of projects, are written in Go's
 * template language because that is what users of trucker's predecessor already have.
 * What is accepted means
 * exactly what it means in Go; template.h lists the subset, template_parse.c
 * refuses the rest.
 *
 * Template text goes in, text comes out: nothing here or in the parser knows
 * SQL or reads a catalog.  What a template inserts is not quoted, and what the
 * text around an action means is not looked at.
 *
 * All functions of a template allocate in the current memory context and free
 * nothing: a template goes away with its context.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "template_internal.h"

/* A text that is being rendered. */
typedef struct Rendering
{
	const TruckerTemplate *tmpl;
	const TruckerTemplateVars *vars;
	StringInfoData out;
	TruckerTemplateMap *map;	/* or NULL */
} Rendering;

static void render_nodes(Rendering *rendering, List *nodes);
static TemplateValue eval_expr(const TruckerTemplate *tmpl, const TemplateExpr *expr,
							   const TemplateValue *piped, const TruckerTemplateVars *vars);

/* Truth as in Go: all but the empty string, zero and false. */
static bool
is_true(TemplateValue value)
{
	switch (value.kind)
	{
		case VALUE_STRING:
			return value.u.string[0] != '\0';
		case VALUE_INTEGER:
			return value.u.integer != 0;
		case VALUE_BOOLEAN:
			return value.u.boolean;
		case VALUE_UNSET:
			return false;
	}
	return false;				/* keep compiler quiet */
}

static TemplateValue
make_boolean(bool boolean)
{
	TemplateValue value;

	value.kind = VALUE_BOOLEAN;
	value.u.boolean = boolean;
	return value;
}

/* Are two arguments of call equal?  Raises an error if their kinds differ. */
static bool
values_equal(const TruckerTemplate *tmpl, const TemplateExpr *call, TemplateValue a, TemplateValue b)
{
	static const char *const kind_names[] = {
		[VALUE_STRING] = "string",
		[VALUE_INTEGER] = "integer",
		[VALUE_BOOLEAN] = "boolean"
	};

	/* what is not set equals nothing that is */
	if (a.kind == VALUE_UNSET || b.kind == VALUE_UNSET)
		return a.kind == b.kind;
	if (a.kind != b.kind)
		ereport(ERROR,
				errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("%s: function \"%s\" cannot compare %s with %s",
					   trucker_template_position(tmpl, call->offset), call->function->name,
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
		case VALUE_UNSET:
			break;
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
			  const TemplateValue *piped, const TruckerTemplateVars *vars)
{
	int			nargs = list_length(call->args);
	TemplateValue *values = palloc(sizeof(TemplateValue) * (nargs + 1));

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
static TemplateValue
eval_call(const TruckerTemplate *tmpl, const TemplateExpr *call,
		  const TemplateValue *piped, const TruckerTemplateVars *vars)
{
	TemplateFunctionId id = call->function->id;
	TemplateValue value = make_boolean(false);
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

static TemplateValue
eval_variable(const TruckerTemplate *tmpl, const TemplateVariable *variable,
			  const TruckerTemplateVars *vars)
{
	TemplateValue value;

	value.kind = VALUE_STRING;
	if (!tmpl->environment)
		value.u.string = *(const char *const *) ((const char *) vars + variable->offset);
	else if ((value.u.string = vars->environment(variable->name)) == NULL)
	{
		value.kind = VALUE_UNSET;
		value.u.string = variable->name;
	}
	return value;
}

static TemplateValue
eval_expr(const TruckerTemplate *tmpl, const TemplateExpr *expr,
		  const TemplateValue *piped, const TruckerTemplateVars *vars)
{
	TemplateValue value = make_boolean(false);
	ListCell   *lc;

	/* the depth that was enough to parse may not be enough to evaluate */
	check_stack_depth();

	switch (expr->kind)
	{
		case EXPR_LITERAL:
			value = expr->literal;
			break;
		case EXPR_VARIABLE:
			value = eval_variable(tmpl, expr->variable, vars);
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

/* Note that what comes next in the text is from there. */
static void
add_piece(Rendering *rendering, int source, bool verbatim)
{
	TruckerTemplateMap *map = rendering->map;

	if (map == NULL)
		return;
	if (map->npieces == map->size)
	{
		map->size = Max(16, map->size * 2);
		map->pieces = map->pieces ? repalloc(map->pieces, map->size * sizeof(TruckerTemplatePiece)) :
			palloc(map->size * sizeof(TruckerTemplatePiece));
	}
	map->pieces[map->npieces].start = rendering->out.len;
	map->pieces[map->npieces].source = source;
	map->pieces[map->npieces++].verbatim = verbatim;
}

static void
append_value(Rendering *rendering, const TemplateExpr *expr, TemplateValue value)
{
	StringInfo	out = &rendering->out;

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
		case VALUE_UNSET:
			/* Go prints "<no value>", which nobody wants as the name of a host */
			ereport(ERROR,
					errcode(ERRCODE_UNDEFINED_PARAMETER),
					errmsg("%s: environment variable \"%s\" is not set",
						   trucker_template_position(rendering->tmpl, expr->offset), value.u.string),
					errhint("Set it for the server's process, or give another value: {{ or .%s \"...\" }}.", value.u.string));
	}
}

/* Render the first branch whose condition holds, else the body of else. */
static void
render_if(Rendering *rendering, const TemplateNode *node)
{
	ListCell   *lc;

	foreach(lc, node->branches)
	{
		TemplateBranch *branch = lfirst(lc);

		if (is_true(eval_expr(rendering->tmpl, branch->condition, NULL, rendering->vars)))
		{
			render_nodes(rendering, branch->body);
			return;
		}
	}
	render_nodes(rendering, node->otherwise);
}

static void
render_nodes(Rendering *rendering, List *nodes)
{
	ListCell   *lc;

	check_stack_depth();

	foreach(lc, nodes)
	{
		TemplateNode *node = lfirst(lc);

		switch (node->kind)
		{
			case NODE_TEXT:
				add_piece(rendering, node->text - rendering->tmpl->source, true);
				appendBinaryStringInfo(&rendering->out, node->text, node->text_len);
				break;
			case NODE_OUTPUT:
				add_piece(rendering, node->output->offset, false);
				append_value(rendering, node->output,
							 eval_expr(rendering->tmpl, node->output, NULL, rendering->vars));
				break;
			case NODE_IF:
				render_if(rendering, node);
				break;
		}
	}
}

/* See template.h. */
char *
trucker_template_render_mapped(const TruckerTemplate *tmpl,
							   const TruckerTemplateVars *vars, TruckerTemplateMap *map)
{
	Rendering	rendering = {.tmpl = tmpl, .vars = vars, .map = map};

	initStringInfo(&rendering.out);
	render_nodes(&rendering, tmpl->nodes);
	return rendering.out.data;
}

/* See template.h. */
char *
trucker_template_render(const TruckerTemplate *tmpl,
						const TruckerTemplateVars *vars)
{
	return trucker_template_render_mapped(tmpl, vars, NULL);
}

/* See template.h. */
int
trucker_template_source_offset(const TruckerTemplateMap *map, int offset)
{
	int			i = map->npieces;

	while (i > 0 && map->pieces[i - 1].start > offset)
		i--;
	if (i == 0)
		return 0;
	return map->pieces[i - 1].source + (map->pieces[i - 1].verbatim ? offset - map->pieces[i - 1].start : 0);
}

/* See template.h. */
bool
trucker_template_is_rendered(const TruckerTemplateMap *map, int start, int end)
{
	for (int i = 0; i < map->npieces && map->pieces[i].start < end; i++)
		if (!map->pieces[i].verbatim && (i + 1 == map->npieces || map->pieces[i + 1].start > start))
			return true;
	return false;
}

/* See template.h. */
bool
trucker_template_uses_operation(const TruckerTemplate *tmpl)
{
	return tmpl->uses_operation;
}

/* See template.h. */
bool
trucker_template_uses_rows(const TruckerTemplate *tmpl)
{
	return tmpl->uses_rows;
}
