/*
 * checklist.c
 *	  One list of checks for start(), which raises the first failure, and for
 *	  check(), which tells all of them.
 *
 * A check raises an error, as everything else does, and knows nothing of who asks.
 * For check() each runs in a subtransaction of its own, whose error becomes a row;
 * what a check takes (locks, the role that it plans as, a connection) goes with it.
 * What a check must leave behind for the next one, it puts into memory of its
 * caller's.
 */
#include "trucker.h"

#include "access/xact.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

#include "checklist.h"

struct TruckerChecklist
{
	ReturnSetInfo *rsinfo;		/* rows: item, ok, detail, hint */
	bool		warned;			/* the check at hand has */
	char	   *warning;
	char	   *warning_hint;
};

/* The rows go to the result of a function that InitMaterializedSRF() has prepared. */
TruckerChecklist *
trucker_checklist_create(ReturnSetInfo *rsinfo)
{
	TruckerChecklist *list = palloc0(sizeof(TruckerChecklist));

	list->rsinfo = rsinfo;
	return list;
}

/* Try a check in a subtransaction; NULL if it has passed, else its error, in the caller's context. */
static ErrorData *
try(TruckerChecklist *list, TruckerCheck check, void *arg, const char **result)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		*result = check(list, arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;

	/* somebody wants us to stop, or memory is short: that is no finding */
	if (error && (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
				  error->sqlerrcode == ERRCODE_OUT_OF_MEMORY))
		ReThrowError(error);
	return error;
}

ErrorData *
trucker_checklist_try(TruckerCheck check, void *arg, const char **result)
{
	return try(NULL, check, arg, result);
}

static void
put_row(TruckerChecklist *list, const char *item, bool ok, const char *detail, const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, detail == NULL, hint == NULL};

	values[0] = CStringGetTextDatum(item);
	values[1] = BoolGetDatum(ok);
	values[2] = detail ? CStringGetTextDatum(detail) : (Datum) 0;
	values[3] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	tuplestore_putvalues(list->rsinfo->setResult, list->rsinfo->setDesc, values, nulls);
}

/* Run one check; false if it has failed, which with a list is told there. */
bool
trucker_checklist_run(TruckerChecklist *list, const char *item, TruckerCheck check, void *arg)
{
	const char *result = NULL;
	MemoryContext context;
	MemoryContext old;
	ErrorData  *error;

	if (list == NULL)
	{
		(void) check(NULL, arg);
		return true;
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "trucker check", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	list->warned = false;
	error = try(list, check, arg, &result);
	if (error)
		put_row(list, item, false,
				error->detail ? psprintf("%s.  %s", error->message, error->detail) : error->message,
				error->hint);
	else if (list->warned)
		put_row(list, item, true, list->warning, list->warning_hint);
	else
		put_row(list, item, true, result, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return error == NULL;
}

/* What does not keep a truck from starting, but may stop it one day.  detail and hint may be NULL. */
void
trucker_checklist_warn(TruckerChecklist *list, const char *message, const char *detail, const char *hint)
{
	if (list == NULL)
		ereport(WARNING,
				(errmsg("%s", message),
				 detail ? errdetail("%s", detail) : 0,
				 hint ? errhint("%s", hint) : 0));
	else
	{
		list->warned = true;
		list->warning = detail ? psprintf("%s.  %s", message, detail) : pstrdup(message);
		list->warning_hint = hint ? pstrdup(hint) : NULL;
	}
}
