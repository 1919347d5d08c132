/*
 * server.c
 *	  As much of the server as the decoders and the templates use, outside of it.
 *
 * Each palloc() is a malloc() of its own, so that AddressSanitizer sees every byte
 * that is read or written beyond one; errors become a longjmp.  The JSON lexer and
 * StringInfo are the server's own, from libpgcommon.  Not the server's are dates:
 * what the decoder hands to DecodeDateTime() has been held against a set of
 * characters before, and is taken here as it comes.
 */
#include "postgres.h"

#include <setjmp.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "server.h"

/* ----
 * Memory
 * ----
 */

typedef union Chunk
{
	struct
	{
		union Chunk *prev;
		union Chunk *next;
		Size		size;
		MemoryContext context;
	}			head;
	max_align_t align;
} Chunk;

static Chunk chunks = {.head = {&chunks, &chunks, 0, NULL}};

/* NULL: the one that there is without any having been made */
MemoryContext CurrentMemoryContext = NULL;

void *
palloc(Size size)
{
	Chunk	   *chunk;

	if (!AllocSizeIsValid(size))
		fuzz_fail("invalid size of an allocation");
	chunk = malloc(sizeof(Chunk) + size);
	chunk->head.size = size;
	chunk->head.context = CurrentMemoryContext;
	chunk->head.prev = &chunks;
	chunk->head.next = chunks.head.next;
	chunks.head.next->head.prev = chunk;
	chunks.head.next = chunk;
	return chunk + 1;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void
pfree(void *pointer)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;

	chunk->head.prev->head.next = chunk->head.next;
	chunk->head.next->head.prev = chunk->head.prev;
	free(chunk);
}

void *
repalloc(void *pointer, Size size)
{
	void	   *copy = palloc(size);

	memcpy(copy, pointer, Min(size, ((Chunk *) pointer - 1)->head.size));
	pfree(pointer);
	return copy;
}

char *
pstrdup(const char *in)
{
	return strcpy(palloc(strlen(in) + 1), in);
}

char *
pnstrdup(const char *in, Size len)
{
	Size		length = strnlen(in, len);
	char	   *copy = memcpy(palloc(length + 1), in, length);

	copy[length] = '\0';
	return copy;
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name, Size minContextSize,
							  Size initBlockSize, Size maxBlockSize)
{
	MemoryContext old = MemoryContextSwitchTo(parent);
	MemoryContext context = palloc0(sizeof(MemoryContextData));

	MemoryContextSwitchTo(old);
	return context;
}

/* It has no children here. */
void
MemoryContextDelete(MemoryContext context)
{
	Chunk	   *next;

	for (Chunk *chunk = chunks.head.next; chunk != &chunks; chunk = next)
	{
		next = chunk->head.next;
		if (chunk->head.context == context)
			pfree(chunk + 1);
	}
	pfree(context);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return MemoryContextAllocExtended(context, size, MCXT_ALLOC_ZERO);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	void	   *pointer = palloc0(size);

	MemoryContextSwitchTo(old);
	return pointer;
}

void
fuzz_reset(void)
{
	CurrentMemoryContext = NULL;
	while (chunks.head.next != &chunks)
		pfree(chunks.head.next + 1);
}

List *
lappend(List *list, void *datum)
{
	if (list == NIL)
	{
		list = palloc0(sizeof(List));
		list->type = T_List;
		list->max_length = 4;
		list->elements = palloc(4 * sizeof(ListCell));
	}
	if (list->length == list->max_length)
	{
		list->max_length *= 2;
		list->elements = repalloc(list->elements, list->max_length * sizeof(ListCell));
	}
	list->elements[list->length++].ptr_value = datum;
	return list;
}

/* ----
 * Errors
 * ----
 */

ErrorContextCallback *error_context_stack = NULL;
volatile sig_atomic_t InterruptPending = false;
sigjmp_buf *PG_exception_stack = NULL;
static int	level;
static int	code;

bool
fuzz_try(void (*body) (void *arg), void *arg, int *sqlstate)
{
	sigjmp_buf	here;
	MemoryContext context = CurrentMemoryContext;

	code = 0;
	PG_exception_stack = &here;
	error_context_stack = NULL;
	if (sigsetjmp(here, 0) == 0)
	{
		body(arg);
		return true;
	}
	CurrentMemoryContext = context;
	*sqlstate = code;
	return false;
}

void
fuzz_fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	abort();
}

bool
errstart(int elevel, const char *domain)
{
	level = elevel;
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	for (ErrorContextCallback *context = error_context_stack; context; context = context->previous)
		context->callback(context->arg);
	if (level >= ERROR)
		pg_re_throw();
}

void
pg_re_throw(void)
{
	siglongjmp(*PG_exception_stack, 1);
}

int
errcode(int sqlerrcode)
{
	code = sqlerrcode;
	return 0;
}

/* What is formatted must be there to be read. */
static int
format(const char *fmt, va_list args)
{
	char		buffer[1024];

	pg_vsnprintf(buffer, sizeof(buffer), fmt, args);
	return 0;
}

#define MESSAGE_FUNCTION(name) \
int \
name(const char *fmt,...) \
{ \
	va_list		args; \
	va_start(args, fmt); \
	format(fmt, args); \
	va_end(args); \
	return 0; \
}

MESSAGE_FUNCTION(errmsg)
MESSAGE_FUNCTION(errmsg_internal)
MESSAGE_FUNCTION(errdetail)
MESSAGE_FUNCTION(errhint)
MESSAGE_FUNCTION(errcontext_msg)

int
set_errcontext_domain(const char *domain)
{
	return 0;
}

void
check_stack_depth(void)
{
}

void
ProcessInterrupts(void)
{
}

/* ----
 * Encodings: the database is UTF8
 * ----
 */

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

const char *
GetDatabaseEncodingName(void)
{
	return "UTF8";
}

int
pg_mbstrlen_with_len(const char *mbstr, int limit)
{
	int			n = 0;

	for (; limit > 0 && *mbstr; n++)
	{
		int			len = pg_encoding_mblen_bounded(PG_UTF8, mbstr);

		limit -= len;
		mbstr += len;
	}
	return n;
}

bool
pg_verifymbstr(const char *mbstr, int len, bool noError)
{
	if (pg_encoding_verifymbstr(PG_UTF8, mbstr, len) == len)
		return true;
	if (!noError)
		ereport(ERROR, (errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE), errmsg("invalid byte sequence")));
	return false;
}

int
pg_mbcliplen(const char *mbstr, int len, int limit)
{
	int			clipped = 0;

	while (clipped < len && mbstr[clipped] != '\0')
	{
		int			next = clipped + pg_encoding_mblen_bounded(PG_UTF8, mbstr + clipped);

		if (next > limit || next > len)
			break;
		clipped = next;
	}
	return clipped;
}

char *
pg_any_to_server(const char *s, int len, int encoding)
{
	(void) pg_verifymbstr(s, len, false);
	return (char *) s;
}

char *
pg_server_to_any(const char *s, int len, int encoding)
{
	return (char *) s;
}

void
pg_unicode_to_server(pg_wchar c, unsigned char *s)
{
	if (!is_valid_unicode_codepoint(c))
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("invalid Unicode code point")));
	unicode_to_utf8(c, s);
	s[pg_utf_mblen(s)] = '\0';
}

/* ----
 * LSNs and times
 * ----
 */

XLogRecPtr
pg_lsn_in_internal(const char *str, bool *have_error)
{
	static const char digits[] = "0123456789abcdefABCDEF";
	Size		high = strspn(str, digits);
	Size		low;

	*have_error = true;
	if (high < 1 || high > 8 || str[high] != '/')
		return InvalidXLogRecPtr;
	low = strspn(str + high + 1, digits);
	if (low < 1 || low > 8 || str[high + 1 + low] != '\0')
		return InvalidXLogRecPtr;
	*have_error = false;
	return ((uint64) strtoul(str, NULL, 16) << 32) | (uint32) strtoul(str + high + 1, NULL, 16);
}

int
ParseDateTime(const char *timestr, char *workbuf, size_t buflen, char **field,
			  int *ftype, int maxfields, int *numfields)
{
	*numfields = 1;
	if (strlen(timestr) >= buflen)
		return DTERR_BAD_FORMAT;
	field[0] = strcpy(workbuf, timestr);
	ftype[0] = DTK_DATE;
	return 0;
}

int
DecodeDateTime(char **field, int *ftype, int nf, int *dtype, struct pg_tm *tm,
			   fsec_t *fsec, int *tzp)
{
	memset(tm, 0, sizeof(*tm));
	*dtype = DTK_DATE;
	*fsec = 0;
	*tzp = 0;
	return 0;
}

int
tm2timestamp(struct pg_tm *tm, fsec_t fsec, int *tzp, Timestamp *dt)
{
	*dt = 1;
	return 0;
}
