/*
 * fuzz_project.c
 *	  Whatever the file is: it becomes a project or a truck, or is complained of, or its
 *	  template is refused; every complaint is one line of valid text that names a line
 *	  which the file has, and none shows what the environment holds.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "project.h"

#include "server.h"

#define SECRET "geheim"

typedef struct Input
{
	TruckerProject project;
	TruckerProjectText file;
	bool		root;
} Input;

/* Names with U are not set; the others hold a secret, with M over several lines. */
static const char *
environment(const char *name)
{
	if (name[0] == 'U')
		return NULL;
	return name[0] == 'M' ? SECRET "\n- " SECRET ": [" : SECRET;
}

static void
read_file(void *arg)
{
	Input	   *input = arg;
	TruckerYaml *tree = trucker_project_text_read(&input->file, environment);

	if (input->root)
		trucker_project_read_root(&input->project, &input->file, tree);
	else
		(void) trucker_project_read_truck(&input->file, tree);
}

/* Does it hold the secret? */
static bool
tells(const char *text)
{
	return strstr(text, SECRET) != NULL;
}

static void
check_errors(const Input *input)
{
	const char *lines = input->project.errors.lines.data;
	int			count = input->project.errors.count;
	int			last = 1;
	int			found = 0;

	if (pg_encoding_verifymbstr(PG_UTF8, lines, (int) strlen(lines)) != (int) strlen(lines))
		fuzz_fail("a complaint is not valid in its encoding");
	if (tells(lines) && !tells(input->file.source))
		fuzz_fail("a complaint shows what the environment holds");
	for (const char *p = input->file.source; *p; p++)
		last += *p == '\n' ? 1 : 0;
	for (const char *p = lines; *p != '\0';)
	{
		int			line;
		int			column;

		found++;
		if (sscanf(p, "file: line %d, column %d: ", &line, &column) == 2 ?
			line < 1 || line > last || column < 1 : strncmp(p, "file: becomes larger", 20) != 0)
			fuzz_fail("a complaint does not name a line that the file has");
		p += strcspn(p, "\n");
		p += *p == '\n' ? 1 : 0;
	}
	if (found != (count < 100 ? count : 100))
		fuzz_fail("a complaint is not one line");
}

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		input = {0};
	int			sqlstate;

	/* the first byte tells what the file is; a file has no zero byte and is of its encoding */
	if (size < 1 || memchr(data, '\0', size) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, (const char *) data, (int) size) != (int) size || (data[0] & 0x80))
		return 0;
	input.root = data[0] == 'r';
	trucker_project_errors_init(&input.project.errors);
	input.file.name = "file";
	input.file.source = pnstrdup((const char *) data + 1, size - 1);
	input.file.errors = &input.project.errors;
	if (!fuzz_try(read_file, &input, &sqlstate) &&
		sqlstate != ERRCODE_SYNTAX_ERROR && sqlstate != ERRCODE_DATATYPE_MISMATCH &&
		sqlstate != ERRCODE_UNDEFINED_PARAMETER)
		fuzz_fail("reading raises an error that is not the template's");
	check_errors(&input);
	fuzz_reset();
	return 0;
}
