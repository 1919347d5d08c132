/*
 * project_text.c
 *	  A YAML file of a project: template, text, tree; and what is wrong with it.
 *
 * A file is rendered as a template before it is parsed, so a line of what is parsed
 * need not be that line of the file.  All places are kept in the rendered text, and
 * are led back to the file when somebody has to see them: what an action has put there
 * is at the action.
 *
 * What an action has put there may be a secret of the environment's.  No message shows
 * it: it shows {{ ... }} instead.
 *
 * No file, no catalog: project.c reads the files, and the fuzzer comes in here.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "project.h"

/* nobody corrects more at once */
#define MAX_ERRORS 100
/* of rendered text: what an environment adds to a file is small */
#define MAX_RENDERED (4 * 1024 * 1024)

void
trucker_project_errors_init(TruckerProjectErrors *errors)
{
	errors->count = 0;
	initStringInfo(&errors->lines);
}

static void
add_error(TruckerProjectErrors *errors, const char *place, const char *fmt, va_list args)
{
	char		message[2048];

	if (++errors->count > MAX_ERRORS)
		return;
	pg_vsnprintf(message, sizeof(message), fmt, args);
	/* cut off in the middle of a character? */
	message[pg_mbcliplen(message, strlen(message), sizeof(message) - 5)] = '\0';
	/* one line each, whatever a value holds, and libpq says */
	for (char *p = message; *p != '\0'; p++)
		if ((unsigned char) *p < ' ')
			*p = ' ';
	appendStringInfo(&errors->lines, "%s%s%s", errors->lines.len > 0 ? "\n" : "", place, message);
}

/* Add what is wrong somewhere; the message names the place itself. */
void
trucker_project_error(TruckerProjectErrors *errors, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	add_error(errors, "", fmt, args);
	va_end(args);
}

/* Where in the file is what stands there in the rendered text? */
static char *
place(const TruckerProjectText *file, int start)
{
	int			offset = trucker_template_source_offset(&file->map, start);
	const char *line_start = file->source;
	const char *stop = file->source + Min(offset, (int) strlen(file->source));
	const char *newline;
	int			line = 1;

	while ((newline = memchr(line_start, '\n', stop - line_start)) != NULL)
	{
		line_start = newline + 1;
		line++;
	}
	return psprintf("%s: line %d, column %d: ", file->name, line,
					pg_mbstrlen_with_len(line_start, stop - line_start) + 1);
}

/* Add what is wrong with a file at a place of its rendered text. */
void
trucker_project_complain(const TruckerProjectText *file, int start, const char *fmt,...)
{
	va_list		args;

	if (file->errors->count >= MAX_ERRORS)
	{
		file->errors->count++;
		return;
	}
	va_start(args, fmt);
	add_error(file->errors, place(file, start), fmt, args);
	va_end(args);
}

/* A piece of the text, in quotes, as a message may show it. */
char *
trucker_project_shown(const TruckerProjectText *file, int start, int end, const char *text)
{
	if (file && trucker_template_is_rendered(&file->map, start, end))
		return pstrdup("{{ ... }}");
	return psprintf("\"%s\"", text);
}

char *
trucker_project_value_shown(const TruckerProjectValue *value)
{
	return trucker_project_shown(value->file, value->start, value->end, value->text);
}

static void
complain_of_yaml(void *arg, int start, int end, const char *message)
{
	trucker_project_complain(arg, start, "%s", message);
}

/*
 * Render and parse a file whose name, source and errors are set.  NULL: it is empty, or
 * it has been complained of.  An error of the template is raised: its message names
 * the place.
 */
TruckerYaml *
trucker_project_text_read(TruckerProjectText *file, const char *(*environment) (const char *name))
{
	TruckerTemplateVars vars = {.environment = environment};
	TruckerTemplate *tmpl = trucker_template_parse_environment(file->source, file->name);
	char	   *text;

	memset(&file->map, 0, sizeof(file->map));
	text = trucker_template_render_mapped(tmpl, &vars, &file->map);
	if (strlen(text) > MAX_RENDERED)
	{
		trucker_project_error(file->errors, "%s: becomes larger than %d bytes when it is rendered",
							  file->name, MAX_RENDERED);
		return NULL;
	}
	return trucker_yaml_read(text, complain_of_yaml, file);
}
