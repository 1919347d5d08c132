/*
 * fuzz_template.c
 *	  Whatever the text is: it is a template, or is refused with
 *	  ERRCODE_SYNTAX_ERROR; if it compares values of different kinds, rendering is.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "template.h"

#include "server.h"

typedef struct Input
{
	char	   *source;
	TruckerTemplate *tmpl;
	const char *operation;
	char	   *text;
} Input;

static void
parse(void *arg)
{
	Input	   *input = arg;

	input->tmpl = trucker_template_parse(input->source, "template");
}

static void
render(void *arg)
{
	Input	   *input = arg;
	TruckerTemplateVars vars = {"r", input->operation, "public.t"};

	input->text = trucker_template_render(input->tmpl, &vars);
}

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const operations[] = {"insert", "update", "delete"};
	Input		input = {0};
	int			sqlstate;

	/* a text of the server's has no zero byte and is of its encoding */
	if (memchr(data, '\0', size) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, (const char *) data, (int) size) != (int) size)
		return 0;
	input.source = pnstrdup((const char *) data, size);

	if (fuzz_try(parse, &input, &sqlstate))
	{
		char	   *rendered[lengthof(operations)];

		for (int i = 0; i < lengthof(operations); i++)
		{
			input.operation = operations[i];
			rendered[i] = NULL;
			if (fuzz_try(render, &input, &sqlstate))
				rendered[i] = input.text;
			else if (sqlstate != ERRCODE_DATATYPE_MISMATCH)
				fuzz_fail("rendering raises another error than for values of different kinds");
			if (rendered[i] && pg_encoding_verifymbstr(PG_UTF8, rendered[i], (int) strlen(rendered[i])) != (int) strlen(rendered[i]))
				fuzz_fail("what is rendered is not valid in its encoding");
		}
		/* one that does not name .operation is rendered once for all of them */
		if (!trucker_template_uses_operation(input.tmpl))
			for (int i = 1; i < lengthof(operations); i++)
				if ((rendered[0] == NULL) != (rendered[i] == NULL) ||
					(rendered[0] && strcmp(rendered[0], rendered[i]) != 0))
					fuzz_fail("a template that does not name .operation depends on it");
		(void) trucker_template_uses_rows(input.tmpl);
	}
	else if (sqlstate != ERRCODE_SYNTAX_ERROR)
		fuzz_fail("parsing raises an error that is no syntax error");
	fuzz_reset();
	return 0;
}
