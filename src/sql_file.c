/*
 * sql_file.c
 *	  Cut a file of SQL into statements, without understanding them.
 *
 * The server's own lexer tells what is a string, a comment or a name; a semicolon
 * outside of all parentheses ends a statement, unless it stands in the body of a
 * function of the kind BEGIN ATOMIC ... END.  These are psql's rules.  A parser would
 * know more, but it is this server's: another one may be of a later version, with
 * statements that ours does not know, and a statement may use what the one before it
 * makes.
 *
 * What only psql or a client can do is found here: backslash commands, and COPY with the
 * client.  So is transaction control: whoever runs the file says what is a transaction.
 */
#include "trucker.h"

#include <ctype.h>

#include "common/keywords.h"
#include "mb/pg_wchar.h"
#include "parser/scanner.h"
#include "utils/formatting.h"

#include "sql_file.h"

#define NO_TRANSACTION "-- trucker: no transaction"

/* so much of what is wrong is shown, in bytes */
#define MAX_SHOWN 200

/* Where the lexer is, for errors. */
typedef struct Scan
{
	const char *file;
	const char *text;
	core_yyscan_t scanner;
	int			counted;		/* up to here lines have been counted */
	int			line;			/* the one that this place is in */

	/* of the statement at hand */
	TruckerSqlStatement *statement; /* NULL: none has begun */
	int			start;
	int			nwords;
	int			parentheses;
	int			blocks;			/* BEGIN ATOMIC and CASE that are open */
	char	   *last_word;		/* "" if the last token was none */
	bool		copies;			/* begins with COPY */
} Scan;

static int
line_at(const char *text, int offset)
{
	int			line = 1;

	for (int i = 0; i < offset; i++)
		line += text[i] == '\n' ? 1 : 0;
	return line;
}

/* The same for places that come one after the other. */
static int
next_line_at(Scan *scan, int offset)
{
	for (; scan->counted < offset; scan->counted++)
		scan->line += scan->text[scan->counted] == '\n' ? 1 : 0;
	return scan->line;
}

/* The lexer tells the place of an error as one in the client's query: make it one in the file. */
static void
error_context(void *arg)
{
	Scan	   *scan = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		const char *p = scan->text;

		for (int i = 1; i < position && *p; i++)
			p += pg_mblen(p);
		errposition(0);
		errcontext("file \"%s\", line %d", scan->file, line_at(scan->text, p - scan->text));
	}
	else
		errcontext("file \"%s\"", scan->file);
}

/* A token that is a word (no quoted name), in lower case; else "". */
static char *
word_at(const char *text, int location)
{
	int			len = 0;

	if (!isalpha((unsigned char) text[location]) && text[location] != '_')
		return "";
	while (isalnum((unsigned char) text[location + len]) || text[location + len] == '_')
		len++;
	/* E'...', U&"..." and the like begin like words */
	if (text[location + len] == '\'' || text[location + len] == '&')
		return "";
	return asc_tolower(text + location, len);
}

/* Do the statement's first words begin with these, which are separated by blanks? */
bool
trucker_sql_begins(const TruckerSqlStatement *statement, const char *words)
{
	for (int i = 0; i < TRUCKER_SQL_WORDS && *words != '\0'; i++)
	{
		size_t		len = strcspn(words, " ");

		if (strlen(statement->words[i]) != len || strncmp(statement->words[i], words, len) != 0)
			return false;
		words += len + (words[len] == ' ' ? 1 : 0);
	}
	return *words == '\0';
}

static bool
creates_routine(const TruckerSqlStatement *statement)
{
	return trucker_sql_begins(statement, "create function") || trucker_sql_begins(statement, "create procedure") ||
		trucker_sql_begins(statement, "create or replace function") ||
		trucker_sql_begins(statement, "create or replace procedure");
}

/* What ends at a semicolon, and what does not. */
static void
follow_nesting(Scan *scan, int token, const char *word)
{
	if (token == '(')
		scan->parentheses++;
	else if (token == ')' && scan->parentheses > 0)
		scan->parentheses--;
	if (scan->parentheses > 0 || scan->statement == NULL)
		return;
	if (scan->blocks == 0)
	{
		if (strcmp(word, "atomic") == 0 && strcmp(scan->last_word, "begin") == 0 && creates_routine(scan->statement))
			scan->blocks = 1;
	}
	else if (strcmp(word, "case") == 0)
		scan->blocks++;
	else if (strcmp(word, "end") == 0)
		scan->blocks--;
}

static void
set_problem(Scan *scan, const char *problem)
{
	if (scan->statement->problem == NULL)
		scan->statement->problem = pstrdup(problem);
}

static void
judge_word(Scan *scan, const char *word)
{
	if (scan->copies && scan->parentheses == 0 &&
		((strcmp(word, "stdin") == 0 && strcmp(scan->last_word, "from") == 0) ||
		 (strcmp(word, "stdout") == 0 && strcmp(scan->last_word, "to") == 0)))
		set_problem(scan, "COPY with the client is not possible here: there is none that holds the data; write INSERT");
}

static void
judge_first_words(Scan *scan)
{
	static const char *const control[] = {"begin", "start transaction", "commit", "end", "rollback", "abort",
		"savepoint", "release", "prepare transaction"};

	for (int i = 0; i < lengthof(control); i++)
		if (trucker_sql_begins(scan->statement, control[i]))
			set_problem(scan, "transaction control is not possible here: the file is one transaction, or, with the first line \""
						NO_TRANSACTION "\", each statement is one");
}

static void
begin_statement(Scan *scan, int location, int chunk)
{
	scan->statement = palloc0(sizeof(TruckerSqlStatement));
	scan->statement->chunk = scan->text + chunk;
	scan->statement->offset = location - chunk;
	scan->statement->line = next_line_at(scan, location);
	for (int i = 0; i < TRUCKER_SQL_WORDS; i++)
		scan->statement->words[i] = "";
	scan->start = location;
	scan->nwords = 0;
	scan->parentheses = 0;
	scan->blocks = 0;
	scan->last_word = "";
	scan->copies = false;
}

static void
end_statement(Scan *scan, int end, int chunk_end, List **statements)
{
	TruckerSqlStatement *statement = scan->statement;

	while (end > scan->start && isspace((unsigned char) scan->text[end - 1]))
		end--;
	statement->sql = pnstrdup(scan->text + scan->start, end - scan->start);
	statement->chunk_len = scan->text + chunk_end - statement->chunk;
	judge_first_words(scan);
	*statements = lappend(*statements, statement);
	scan->statement = NULL;
}

/* One token; true: it ends a statement. */
static bool
take_token(Scan *scan, int token, int location, int chunk)
{
	char	   *word = word_at(scan->text, location);

	if (token == ';' && (scan->statement == NULL || (scan->parentheses == 0 && scan->blocks == 0)))
		return true;
	if (scan->statement == NULL)
		begin_statement(scan, location, chunk);
	if (token == '\\')
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("psql's backslash commands are not possible here"),
				 errhint("The file is read by the server: write SQL."),
				 scanner_errposition(location, scan->scanner)));
	if (scan->nwords < TRUCKER_SQL_WORDS)
		scan->statement->words[scan->nwords++] = word;
	scan->copies |= scan->nwords == 1 && strcmp(word, "copy") == 0;
	follow_nesting(scan, token, word);
	judge_word(scan, word);
	scan->last_word = word;
	return false;
}

/* The next token, or 0.  What the lexer says of a quote without end holds the rest of the text: it is cut. */
static int
next_token(Scan *scan, core_YYSTYPE *value, YYLTYPE *location)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int token = 0;

	PG_TRY();
	{
		token = core_yylex(value, location, scan->scanner);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			len;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		len = pg_mbcliplen(error->message, strlen(error->message), MAX_SHOWN);
		if (error->message[len] != '\0')
			error->message = psprintf("%.*s...", len, error->message);
		ReThrowError(error);
	}
	PG_END_TRY();
	return token;
}

/*
 * The statements (TruckerSqlStatement *) of a text, which must stay where it is.  Raises an
 * error, with the file's name and the line, if it ends in the middle of something, or
 * if there are backslash commands.
 */
List *
trucker_sql_file_split(const char *file, const char *text)
{
	Scan		scan = {.file = file, .text = text, .line = 1, .last_word = ""};
	ErrorContextCallback callback = {error_context_stack, error_context, &scan};
	core_yy_extra_type extra;
	core_YYSTYPE value;
	YYLTYPE		location;
	List	   *statements = NIL;
	int			chunk = 0;
	int			token;

	error_context_stack = &callback;
	scan.scanner = scanner_init(text, &extra, &ScanKeywords, ScanKeywordTokens);
	extra.standard_conforming_strings = true;
	extra.escape_string_warning = false;
	while ((token = next_token(&scan, &value, &location)) != 0)
	{
		if (!take_token(&scan, token, location, chunk))
			continue;
		if (scan.statement)
			end_statement(&scan, location, location + 1, &statements);
		chunk = location + 1;
	}
	if (scan.statement)
		end_statement(&scan, strlen(text), strlen(text), &statements);
	scanner_finish(scan.scanner);
	error_context_stack = callback.previous;
	return statements;
}

/* Does the first line say so? */
bool
trucker_sql_file_without_transaction(const char *text)
{
	size_t		len = strcspn(text, "\r\n");

	while (len > 0 && isspace((unsigned char) text[len - 1]))
		len--;
	return len == strlen(NO_TRANSACTION) && pg_strncasecmp(text, NO_TRANSACTION, len) == 0;
}
