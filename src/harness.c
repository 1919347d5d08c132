/*
 * harness.c
 *	  trucker.test() and trucker.test_tap(): the tests of a project's trucks.
 *
 * A case is a folder in the folder "test" of a truck, with backfill.sql, stream.sql and
 * test.sql.  It is run three times (harness_run.c), each time in databases that are made for
 * it and dropped (scratch.c), and the three must come to the same.
 *
 * Making databases and the extension in them takes a superuser, and so does all that follows:
 * a truck that writes elsewhere would need a login with a password there.  So these functions
 * are a superuser's, who by running a project's files trusts them; there is nobody whose
 * rights could be exceeded.  Nothing of the caller's own database is read or written but
 * the project's folder.
 *
 * The caller's transaction stays open, so it must not have written: making a slot waits for
 * each transaction that has.
 */
#include "trucker.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "check.h"
#include "checklist.h"
#include "harness.h"
#include "project_files.h"

PG_FUNCTION_INFO_V1(trucker_test);
PG_FUNCTION_INFO_V1(trucker_test_tap);

#define TEST_FOLDER "test"

static const char *const case_files[] = {"backfill.sql", "compare.sql", "stream.sql", "test.sql"};

/* ----
 * May it be run, and what?
 * ----
 */

static void
check_call(void)
{
	trucker_check_preloaded();
	trucker_check_is_no_standby();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to run tests of trucks"),
				 errdetail("They make databases, and the extension in them.")));
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot run tests of trucks within a security-restricted operation")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("tests of trucks cannot be run in a transaction that has written"),
				 errdetail("A truck that starts waits for it to end."),
				 errhint("COMMIT first.")));
}

static const TruckerProjectTruck *
find_truck(const TruckerProject *project, const char *name)
{
	ListCell   *lc;

	foreach(lc, project->trucks)
		if (strcmp(((TruckerProjectTruck *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("the project in \"%s\" has no truck \"%s\"", project->dir, name)));
}

/* The cases of a truck that are asked for, added to list. */
static List *
add_cases(List *list, const TruckerProject *project, const TruckerProjectTruck *truck, const char *wanted)
{
	char	   *tests = psprintf("%s/%s", truck->folder, TEST_FOLDER);
	ListCell   *lc;

	foreach(lc, trucker_project_list(project->dir, tests, true))
	{
		char	   *name = lfirst(lc);
		char	   *folder = psprintf("%s/%s", tests, name);
		TruckerTestCase *test;

		if ((wanted && strcmp(wanted, name) != 0) || trucker_project_file_kind(project->dir, folder) != TRUCKER_FILE_FOLDER)
			continue;
		test = palloc0(sizeof(TruckerTestCase));
		test->project = project;
		test->truck = truck;
		test->name = name;
		test->folder = folder;
		test->remote = trucker_project_writes_elsewhere(project, truck);
		test->context = CurrentMemoryContext;
		list = lappend(list, test);
	}
	return list;
}

/* A truck that is named must have tests; NULL: all trucks, those without are passed over. */
static List *
find_cases(const char *truck_name, const char *case_name)
{
	TruckerProject *project = trucker_project_load(NULL);
	List	   *cases = NIL;
	ListCell   *lc;

	if (truck_name == NULL)
	{
		foreach(lc, project->trucks)
			cases = add_cases(cases, project, lfirst(lc), case_name);
		if (cases == NIL && case_name == NULL)
			ereport(NOTICE,
					(errmsg("the project in \"%s\" has no tests", project->dir)));
	}
	else
		cases = add_cases(cases, project, find_truck(project, truck_name), case_name);
	if (cases == NIL && (truck_name || case_name))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no such test"),
				 errdetail("Project \"%s\" has no folder \"%s/%s/%s\" for a case.", project->dir,
						   truck_name ? find_truck(project, truck_name)->folder : "*", TEST_FOLDER, case_name ? case_name : "*")));
	return cases;
}

/* ----
 * Run them
 * ----
 */

/* False, and a row: a file is missing, or has a name that means nothing. */
static bool
files_are_right(TruckerTestCase *test)
{
	List	   *names = trucker_project_list(test->project->dir, test->folder, false);
	bool		has_test = false;
	bool		right = true;
	ListCell   *lc;

	foreach(lc, names)
	{
		bool		known = false;

		for (int i = 0; i < lengthof(case_files); i++)
			known |= strcmp(case_files[i], lfirst(lc)) == 0;
		has_test |= strcmp("test.sql", lfirst(lc)) == 0;
		if (known)
			continue;
		trucker_test_result(test, false, "%s/%s: unknown file; a case has backfill.sql, stream.sql, test.sql and compare.sql",
							test->folder, (char *) lfirst(lc));
		right = false;
	}
	if (!has_test)
		trucker_test_result(test, false, "%s/test.sql: the file is missing", test->folder);
	return right && has_test;
}

typedef struct Attempt
{
	TruckerTestCase *test;
	TruckerTestRun kind;
} Attempt;

static const char *
attempt(TruckerChecklist *list, void *arg)
{
	Attempt    *this = arg;

	trucker_test_run(this->test, this->kind);
	return NULL;
}

/* An error is a row, and the next run is made all the same. */
static void
run_once(TruckerTestCase *test, TruckerTestRun kind)
{
	Attempt		arg = {test, kind};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "trucker test", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	const char *ignored;
	ErrorData  *error = trucker_checklist_try(attempt, &arg, &ignored);

	if (error)
		trucker_test_result(test, false, "%s: ERROR: %s%s%s%s%s%s%s", trucker_test_run_name(kind), error->message,
							error->detail ? "\nDETAIL: " : "", error->detail ? error->detail : "",
							error->hint ? "\nHINT: " : "", error->hint ? error->hint : "",
							error->context ? "\nCONTEXT: " : "", error->context ? error->context : "");
	trucker_scratch_drop(test->scratch);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Run the cases that are asked for; they hold their results. */
static List *
run_all(FunctionCallInfo fcinfo)
{
	List	   *cases;
	TruckerScratch *scratch;
	int			nest_level;
	ListCell   *lc;

	check_call();
	cases = find_cases(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)),
					   PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (cases == NIL)
		return NIL;

	/* each migration of each run would be told of */
	nest_level = NewGUCNestLevel();
	(void) set_config_option("client_min_messages", "error", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	scratch = trucker_scratch_begin();
	foreach(lc, cases)
	{
		TruckerTestCase *test = lfirst(lc);

		test->scratch = scratch;
		if (!files_are_right(test))
			continue;
		for (int kind = 0; kind < TRUCKER_TEST_RUNS; kind++)
			run_once(test, kind);
	}
	trucker_scratch_end(scratch);
	AtEOXact_GUC(true, nest_level);
	return cases;
}

/* ----
 * The functions
 * ----
 */

/* test(truck, case) */
Datum
trucker_test(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, run_all(fcinfo))
	{
		const TruckerTestCase *test = lfirst(lc);
		ListCell   *cell;

		foreach(cell, test->results)
		{
			const TruckerTestResult *result = lfirst(cell);
			Datum		values[5];
			bool		nulls[5] = {false};

			values[0] = CStringGetTextDatum(test->truck->name);
			values[1] = CStringGetTextDatum(test->name);
			values[2] = Int32GetDatum(foreach_current_index(cell) + 1);
			values[3] = BoolGetDatum(result->ok);
			values[4] = CStringGetTextDatum(result->detail);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

static void
put_line(ReturnSetInfo *rsinfo, const char *line)
{
	Datum		value = CStringGetTextDatum(line);
	bool		isnull = false;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
}

/* What stands behind "ok 1 - " is one line, in which # would begin a directive. */
static char *
description(const char *text)
{
	StringInfoData line;

	initStringInfo(&line);
	for (; *text && *text != '\n'; text++)
	{
		if (*text == '#' || *text == '\\')
			appendStringInfoChar(&line, '\\');
		appendStringInfoChar(&line, *text == '\r' ? ' ' : *text);
	}
	return line.data;
}

/* The other lines are comments. */
static void
put_comments(ReturnSetInfo *rsinfo, const char *text)
{
	const char *rest = strchr(text, '\n');

	while (rest)
	{
		const char *line = rest + 1;

		rest = strchr(line, '\n');
		put_line(rsinfo, psprintf("# %s", rest ? pnstrdup(line, rest - line) : line));
	}
}

/* test_tap(truck, case) */
Datum
trucker_test_tap(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *cases;
	int			n = 0;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	cases = run_all(fcinfo);
	put_line(rsinfo, "TAP version 13");
	foreach(lc, cases)
	{
		const TruckerTestCase *test = lfirst(lc);
		ListCell   *cell;

		foreach(cell, test->results)
		{
			const TruckerTestResult *result = lfirst(cell);

			put_line(rsinfo, psprintf("%s %d - %s", result->ok ? "ok" : "not ok", ++n,
									  description(psprintf("%s/%s: %s", test->truck->name, test->name, result->detail))));
			put_comments(rsinfo, result->detail);
		}
	}
	put_line(rsinfo, n > 0 ? psprintf("1..%d", n) : "1..0 # SKIP the project has no tests");
	return (Datum) 0;
}
