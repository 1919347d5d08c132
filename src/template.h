/*
 * template.h
 *	  The subset of Go's text/template that input.sql and output.sql are
 *	  written in, and the YAML files of projects.  Pure text to text: no
 *	  catalog, no SPI.
 *
 * The subset: {{ .name }} for the variables below, string ("..." with Go's
 * escapes, and `raw`) and decimal integer literals, the functions eq ne and or
 * not, pipes, parentheses, {{ if }} / {{ else if }} / {{ else }} / {{ end }},
 * the trim marks "{{- " and " -}}", and comments {{/\* ... *\/}}.
 */
#ifndef TRUCKER_TEMPLATE_H
#define TRUCKER_TEMPLATE_H

typedef struct TruckerTemplate TruckerTemplate;

/*
 * What a template may name.  The variables of SQL are .rows, .operation and
 * .input_table; each field is the text that the variable renders to.  In a file
 * of a project any name is a variable: of the environment, which is asked when
 * the template is rendered.
 */
typedef struct TruckerTemplateVars
{
	const char *rows;			/* the relation's name: "r" */
	const char *operation;		/* "insert", "update", "delete" */
	const char *input_table;	/* quoted, schema-qualified name */
	const char *(*environment) (const char *name);	/* NULL: it is not set */
} TruckerTemplateVars;

/*
 * Where a rendered text comes from: it consists of pieces of the source, and of
 * what actions have put between them.
 */
typedef struct TruckerTemplatePiece
{
	int			start;			/* in the rendered text */
	int			source;			/* offset there: of the first byte, or of the action */
	bool		verbatim;		/* source text; else an action's output */
} TruckerTemplatePiece;

typedef struct TruckerTemplateMap
{
	int			npieces;
	int			size;
	TruckerTemplatePiece *pieces;
} TruckerTemplateMap;

/* in template_parse.c */

/*
 * Parse source, which must be NUL-terminated and in the database encoding.
 * source_name names it in errors ("input_sql", "output_sql").
 * The result, and everything that it points at, is allocated in the current
 * memory context.  Raises ERRCODE_SYNTAX_ERROR with line and column (both from
 * 1; columns count characters) in the primary message for anything malformed,
 * an unknown variable or an unknown function.
 */
extern TruckerTemplate *trucker_template_parse(const char *source,
											   const char *source_name);

/* Likewise, where variables are those of the environment. */
extern TruckerTemplate *trucker_template_parse_environment(const char *source,
														   const char *source_name);

/* in template.c */

/* Render to a palloc'd string in the current memory context. */
extern char *trucker_template_render(const TruckerTemplate *tmpl,
									 const TruckerTemplateVars *vars);

/*
 * Likewise, and note where each piece of the result comes from.  Raises an error if
 * a variable is to be rendered that is not set.
 */
extern char *trucker_template_render_mapped(const TruckerTemplate *tmpl,
											const TruckerTemplateVars *vars,
											TruckerTemplateMap *map);

/* Where in the source is the text that stands there in the rendered one? */
extern int	trucker_template_source_offset(const TruckerTemplateMap *map, int offset);

/* Has an action put a part of that there? */
extern bool trucker_template_is_rendered(const TruckerTemplateMap *map, int start, int end);

/* Does the template name .operation anywhere, also in a branch not taken? */
extern bool trucker_template_uses_operation(const TruckerTemplate *tmpl);

/* Does it name .rows? */
extern bool trucker_template_uses_rows(const TruckerTemplate *tmpl);

#endif							/* TRUCKER_TEMPLATE_H */
