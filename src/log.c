/*
 * log.c
 *	  What goes to the server's log, and how often.
 *
 * Messages have a level of trucker's own, from what an operator must know to what one
 * looks for a mistake with.  Those that trucker.log_level lets pass are the server's
 * LOG; the others are its DEBUG1, so that nothing is out of reach.
 *
 * A truck that fails is tried again and again, and would say the same each time.  So
 * the same failure is logged at once, and then at most once in
 * trucker.log_repeat_interval, with how often it has come in between.
 *
 * PostgreSQL's own messages show values of rows: Key (id)=(1) already exists.  Who may
 * read the log is not who may read the tables, so these are taken out, unless
 * trucker.log_row_data is on.  The truck's owner sees the whole message in
 * trucker.status.
 */
#include "trucker.h"

#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "log.h"

/* The server's level for a message of ours. */
int
trucker_elevel(TruckerLogLevel level)
{
	return (int) level <= trucker_log_level ? LOG : DEBUG1;
}

/* ----
 * The same again
 * ----
 */

/*
 * What tells failures apart.  of_one: the error is that of a single source transaction,
 * which its context names: another one than that of the many that were tried together.
 */
uint32
trucker_failure_hash(const ErrorData *edata, bool of_one)
{
	const char *message = edata->message ? edata->message : "";
	uint32		hash = hash_bytes((const unsigned char *) message, (int) strlen(message));

	hash = hash_combine(hash, (uint32) edata->sqlerrcode);
	hash = hash_combine(hash, of_one ? 1 : 0);
	return hash == 0 ? 1 : hash;
}

/* Is this failure to be logged?  *more: how often it was not, since it was last. */
bool
trucker_repeats_log(TruckerRepeats *repeats, uint32 failure, int *more)
{
	TimestampTz now = GetCurrentTimestamp();

	*more = 0;
	if (repeats->failure == failure)
	{
		if (!TimestampDifferenceExceeds(repeats->logged_at, now, trucker_log_repeat_interval))
		{
			repeats->more++;
			return false;
		}
		*more = repeats->more;
	}
	repeats->failure = failure;
	repeats->logged_at = now;
	repeats->more = 0;
	return true;
}

/* ----
 * Values of rows
 * ----
 */

/* All from the first quote to the last one: a value may hold quotes itself. */
static char *
without_quoted(const char *message)
{
	const char *first = strchr(message, '"');
	const char *last = strrchr(message, '"');

	if (first == NULL)
		return pstrdup(message);
	return psprintf("%.*s\"...\"%s", (int) (first - message), message, last > first ? last + 1 : "");
}

/* Lines of a context that quote data: they are cut where it begins. */
static char *
without_data(const char *context)
{
	StringInfoData text;
	const char *line = context;

	initStringInfo(&text);
	while (*line != '\0')
	{
		int			len = (int) strcspn(line, "\n");
		const char *data = NULL;

		if (strncmp(line, "COPY ", 5) == 0 || strncmp(line, "JSON data, ", 11) == 0)
			data = strstr(line, ": ");
		appendBinaryStringInfo(&text, line, data && data < line + len ? (int) (data - line) : len);
		line += len;
		if (*line == '\n')
		{
			appendStringInfoChar(&text, '\n');
			line++;
		}
	}
	return text.data;
}

/*
 * Is what was not found named by a value, as by 'orders'::regclass?  Where it is named by
 * the SQL the error points at that place.
 */
static bool
names_value(const ErrorData *edata)
{
	if (edata->cursorpos > 0 || edata->internalpos > 0)
		return false;
	switch (edata->sqlerrcode)
	{
		case ERRCODE_UNDEFINED_TABLE:
		case ERRCODE_UNDEFINED_OBJECT:
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_AMBIGUOUS_FUNCTION:
		case ERRCODE_INVALID_SCHEMA_NAME:
		case ERRCODE_UNDEFINED_FILE:
			return true;
		default:
			return false;
	}
}

/* Errors about values: data exceptions, violated constraints, WITH CHECK OPTION, and those above. */
static void
hide_values(ErrorData *edata)
{
	int			category = ERRCODE_TO_CATEGORY(edata->sqlerrcode);
	bool		quotes_values = category == ERRCODE_DATA_EXCEPTION || names_value(edata);

	if (!quotes_values && category != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_WITH_CHECK_OPTION_VIOLATION))
		return;
	/* what the others quote are names */
	if (quotes_values && edata->message)
		edata->message = without_quoted(edata->message);
	if (edata->detail || edata->detail_log)
		edata->detail = edata->detail_log =
			pstrdup("Values of rows are logged only with trucker.log_row_data; the truck's owner sees them in trucker.status.");
	if (edata->context)
		edata->context = without_data(edata->context);
}

/*
 * Log an error that was caught and copied; more: how often it has come without being
 * logged.  What is allocated is left to the current memory context.
 */
void
trucker_log_error(const ErrorData *edata, int more)
{
	MemoryContext old = CurrentMemoryContext;
	ErrorData	copy = *edata;

	if (!trucker_log_row_data)
		hide_values(&copy);
	if (more > 0)
		copy.context = psprintf("%s%sthis failure has come %d more times since it was last logged",
								copy.context ? copy.context : "", copy.context ? "\n" : "", more);
	PG_TRY();
	{
		ReThrowError(&copy);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
}
