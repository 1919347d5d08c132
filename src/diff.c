/*
 * diff.c
 *	  What is different between two texts, line by line.
 *
 * As diff -u would show it: "- " before lines that go, "+ " before lines that come,
 * and a few lines around them.  What is alike at both ends is left out first; between
 * them the longest common subsequence is looked for, unless that would be too much
 * work: then all of it goes, and all of it comes.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "diff.h"

/* lines that are shown around what is different */
#define CONTEXT_LINES 2
/* of the one text, times those of the other */
#define MAX_WORK 4000000

typedef struct Line
{
	const char *text;
	int			len;
} Line;

typedef struct Lines
{
	int			n;
	Line	   *lines;
} Lines;

/* A text as lines; it is not copied.  Line ends of either kind are not part of them. */
static Lines
split(const char *text)
{
	Lines		result = {0, NULL};
	int			size = 16;

	result.lines = palloc(size * sizeof(Line));
	while (*text != '\0')
	{
		int			len = strcspn(text, "\n");

		if (result.n == size)
		{
			size *= 2;
			result.lines = repalloc(result.lines, size * sizeof(Line));
		}
		result.lines[result.n].text = text;
		result.lines[result.n++].len = len > 0 && text[len - 1] == '\r' ? len - 1 : len;
		text += len + (text[len] == '\n' ? 1 : 0);
	}
	return result;
}

static bool
same(const Line *a, const Line *b)
{
	return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

static void
put(StringInfo out, char mark, const Line *line)
{
	appendStringInfo(out, "\n%c %.*s", mark, line->len, line->text);
}

/* How long is the longest common subsequence of what is behind i of the one and j of the other? */
static int *
measure(const Lines *old, const Lines *new, int start, int old_end, int new_end)
{
	int			rows = old_end - start;
	int			columns = new_end - start + 1;
	int		   *length = palloc0((Size) (rows + 1) * columns * sizeof(int));

	for (int i = rows - 1; i >= 0; i--)
	{
		CHECK_FOR_INTERRUPTS();
		for (int j = columns - 2; j >= 0; j--)
			length[i * columns + j] = same(&old->lines[start + i], &new->lines[start + j]) ?
				length[(i + 1) * columns + j + 1] + 1 :
				Max(length[(i + 1) * columns + j], length[i * columns + j + 1]);
	}
	return length;
}

/* The lines between what is alike at both ends. */
static void
put_middle(StringInfo out, const Lines *old, const Lines *new, int start, int old_end, int new_end)
{
	int			columns = new_end - start + 1;
	bool		small = (int64) (old_end - start + 1) * columns <= MAX_WORK;
	int		   *length = small ? measure(old, new, start, old_end, new_end) : NULL;
	int			i = start;
	int			j = start;

	while (i < old_end || j < new_end)
	{
		if (small && i < old_end && j < new_end && same(&old->lines[i], &new->lines[j]))
		{
			put(out, ' ', &old->lines[i++]);
			j++;
		}
		else if (i < old_end && (j == new_end || !small ||
								 length[(i - start + 1) * columns + j - start] >= length[(i - start) * columns + j - start + 1]))
			put(out, '-', &old->lines[i++]);
		else
			put(out, '+', &new->lines[j++]);
	}
	if (length)
		pfree(length);
}

/*
 * Append what makes the one text the other, each line behind a line end; nothing if
 * they are alike but for their line ends.
 */
void
trucker_diff(StringInfo out, const char *old_text, const char *new_text)
{
	Lines		old = split(old_text);
	Lines		new = split(new_text);
	int			start = 0;
	int			old_end = old.n;
	int			new_end = new.n;

	while (start < old_end && start < new_end && same(&old.lines[start], &new.lines[start]))
		start++;
	while (old_end > start && new_end > start && same(&old.lines[old_end - 1], &new.lines[new_end - 1]))
	{
		old_end--;
		new_end--;
	}
	if (start == old_end && start == new_end)
		return;
	for (int i = Max(start - CONTEXT_LINES, 0); i < start; i++)
		put(out, ' ', &old.lines[i]);
	put_middle(out, &old, &new, start, old_end, new_end);
	for (int i = old_end; i < Min(old_end + CONTEXT_LINES, old.n); i++)
		put(out, ' ', &old.lines[i]);
}
