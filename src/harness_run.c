/*
 * harness_run.c
 *	  One run of one case of a truck's tests, in databases of its own.
 *
 * What happens is what would happen by hand: migrations, backfill.sql, load(), start(), wait,
 * stream.sql, wait, test.sql; each in a session of the caller's role in the database that
 * it belongs to (sql_session.c).  So the truck is a real one, with its slot, its worker and its
 * position, and the launcher runs it like any other.
 *
 * The runs differ in how the changes of stream.sql come to the truck: see TruckerTestRun.  A
 * batch ends where nothing more waits, so waiting after each transaction makes batches of
 * one.  Changes that were made while the truck was stopped come together, but how fast
 * depends on the machine: so its worker is told not to end a batch before the last of
 * them, by a setting of the database (receive.c).  The worker is ended by pg_terminate_backend(): a kill -9 would
 * restart the whole server.
 *
 * Whatever goes wrong raises an error; the caller makes a row of it, and drops the databases.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "harness.h"
#include "migrate.h"
#include "project_files.h"
#include "sql_file.h"
#include "sql_session.h"
#include "wait.h"

#define LOOK_MS 20

typedef struct Run
{
	TruckerTestCase *test;
	TruckerTestRun kind;
	Oid			source;			/* the databases; the same, unless the truck writes elsewhere */
	Oid			output;
	char	   *output_name;
	TruckerSqlSession *at_source;
	TruckerSqlSession *at_output;
	int			transactions;	/* of stream.sql, done */
} Run;

/* What runs, for the context of errors. */
typedef struct Running
{
	const char *file;
	const TruckerSqlStatement *statement;
} Running;

const char *
trucker_test_run_name(TruckerTestRun kind)
{
	return kind == TRUCKER_TEST_SINGLE ? "one transaction a batch" :
		kind == TRUCKER_TEST_TOGETHER ? "all in one batch" : "worker ended on the way";
}

/* Another row of the result. */
void
trucker_test_result(TruckerTestCase *test, bool ok, const char *fmt,...)
{
	MemoryContext old = MemoryContextSwitchTo(test->context);
	TruckerTestResult *result = palloc0(sizeof(TruckerTestResult));
	StringInfoData text;

	initStringInfo(&text);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&text, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&text, needed);
	}
	result->ok = ok;
	result->detail = text.data;
	test->results = lappend(test->results, result);
	MemoryContextSwitchTo(old);
}

/* ----
 * Statements
 * ----
 */

/*
 * Execute a statement.  A session's statement_timeout raises what a cancel of ours would
 * raise, and would end the whole test: it is told apart by the time that has passed.
 */
static List *
execute(TruckerSqlSession *session, const char *sql)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), trucker_test_timeout * INT64CONST(1000));
	List	   *volatile rows = NIL;

	PG_TRY();
	{
		rows = trucker_sql_session_execute(session, sql, true);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_QUERY_CANCELED && GetCurrentTimestamp() >= end)
		{
			FlushErrorState();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the statement takes longer than trucker.test_timeout (%d s)", trucker_test_timeout)));
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	return rows;
}

/* The first column of the only row, or NULL. */
static char *
value_of(TruckerSqlSession *session, const char *sql)
{
	List	   *rows = execute(session, sql);

	return rows ? ((TruckerSqlRow *) linitial(rows))->values[0] : NULL;
}

static void
error_context(void *arg)
{
	Running    *running = arg;

	errcontext("file \"%s\", line %d", running->file, running->statement->line);
}

/* The statements of a file of the case; NIL: there is no such file. */
static List *
read_statements(const TruckerTestCase *test, const char *name, char **file)
{
	char	   *text;

	*file = psprintf("%s/%s", test->folder, name);
	text = trucker_project_read(test->project->dir, *file, true);
	return text ? trucker_sql_file_split(*file, text) : NIL;
}

/* Execute one of a file. */
static List *
execute_statement(TruckerSqlSession *session, const char *file, const TruckerSqlStatement *statement)
{
	Running		running = {file, statement};
	ErrorContextCallback callback = {error_context_stack, error_context, &running};
	List	   *rows;

	error_context_stack = &callback;
	rows = execute(session, statement->sql);
	error_context_stack = callback.previous;
	return rows;
}

/* ----
 * Databases
 * ----
 */

/* A session in one of them, in which projects are loaded as project_scratch.c says. */
static TruckerSqlSession *
open_session(Oid database)
{
	TruckerSqlSession *session = trucker_sql_session_in(database, GetUserId(), "trucker test");

	(void) trucker_sql_session_execute(session,
									   psprintf("SELECT pg_catalog.set_config(name, value, false) FROM (VALUES "
												"('client_min_messages', 'error'), ('synchronous_commit', 'on'), ('trucker.project_dir', ''), "
												"('default_transaction_read_only', 'off'), ('statement_timeout', '%ds')) AS s (name, value)",
												trucker_test_timeout), false);
	return session;
}

static void
make_databases(Run *run)
{
	char	   *name;

	run->output_name = "";
	run->source = run->output = trucker_scratch_create(run->test->scratch, "source", &name);
	if (run->test->remote)
		run->output = trucker_scratch_create(run->test->scratch, "output", &run->output_name);
	run->at_source = open_session(run->source);
	run->at_output = run->test->remote ? open_session(run->output) : run->at_source;
	(void) execute(run->at_source, "CREATE EXTENSION trucker");
}

static void
migrate(const Run *run, Oid database, const char *connection)
{
	const char *dir = run->test->project->dir;
	TruckerMigrations *migrations;
	TruckerMigrator *migrator;

	if (trucker_project_file_kind(dir, psprintf("%s/%s", TRUCKER_MIGRATE_FOLDER, connection)) != TRUCKER_FILE_FOLDER)
		return;
	migrations = trucker_migrations_read_files(dir, connection);
	migrator = trucker_migrator_create_in(database, connection, GetUserId());
	trucker_migrate_all(migrator, migrations);
}

/* Those of this database, under each name that it has for the truck; and those of the output. */
static void
migrate_all(const Run *run)
{
	const TruckerProjectTruck *truck = run->test->truck;
	const char *input = truck->input_connection.text ? truck->input_connection.text : "local";
	const char *output = truck->output_connection.text ? truck->output_connection.text : "local";

	migrate(run, run->source, "local");
	if (strcmp(input, "local") != 0)
		migrate(run, run->source, input);
	if (strcmp(output, "local") != 0 && strcmp(output, input) != 0)
		migrate(run, run->output, output);
}

/* ----
 * The truck
 * ----
 */

/*
 * Errors that pass by themselves: of a worker that was ended, or meets what it left.  NULL:
 * the truck is said to pause a moment before its error can be read.
 */
static bool
may_pass(const char *error)
{
	static const char *const codes[] = {"08", "40", "53300", "53400", "55006", "57"};

	for (int i = 0; error && i < lengthof(codes); i++)
		if (strncmp(error, codes[i], strlen(codes[i])) == 0)
			return true;
	return error == NULL;
}

/* Raise the truck's error if it has one, without waiting for it to be tried again and again. */
static char *
look_at_truck(const Run *run, const char *waits_for)
{
	List	   *rows = execute(run->at_source, psprintf("SELECT state, last_error FROM trucker.status WHERE truck = %s",
														quote_literal_cstr(run->test->truck->name)));
	TruckerSqlRow *row;
	char	   *state;

	if (rows == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the truck is gone"),
				 errdetail("The SQL of the case, or the truck's own, has dropped or renamed it.")));
	row = linitial(rows);
	state = row->values[0];
	if (strcmp(state, waits_for) != 0 &&
		(strcmp(state, "failed") == 0 || strcmp(state, "lost") == 0 ||
		 (strcmp(state, "retrying") == 0 && !may_pass(row->values[1]))))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("the truck has failed"),
				 errdetail_internal("%s", row->values[1] ? row->values[1] : state)));
	return state;
}

static void
raise_timeout(const Run *run, const char *state)
{
	char	   *error = value_of(run->at_source, psprintf("SELECT last_error FROM trucker.status WHERE truck = %s",
														  quote_literal_cstr(run->test->truck->name)));

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the truck takes longer than trucker.test_timeout (%d s)", trucker_test_timeout),
			 errdetail_internal("State: %s.%s%s", state, error ? "  Last error: " : "", error ? error : "")));
}

/* Until everything that has been committed is at the destination. */
static void
wait_for_truck(const Run *run)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), trucker_test_timeout * INT64CONST(1000));
	char	   *lsn = value_of(run->at_source, "SELECT pg_catalog.pg_current_wal_flush_lsn()");
	char	   *sql = psprintf("SELECT trucker.wait_for(%s, %s, '0.5 s')",
							   quote_literal_cstr(run->test->truck->name), quote_literal_cstr(lsn));

	for (;;)
	{
		char	   *state = look_at_truck(run, "");

		if (strcmp(value_of(run->at_source, sql), "t") == 0)
			return;
		if (GetCurrentTimestamp() >= deadline)
			raise_timeout(run, state);
	}
}

static void
look_again_soon(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, trucker_wait(TRUCKER_WAIT_TEST));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
wait_for_state(const Run *run, const char *state)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), trucker_test_timeout * INT64CONST(1000));
	char	   *now;

	while (strcmp(now = look_at_truck(run, state), state) != 0)
	{
		if (GetCurrentTimestamp() >= deadline)
			raise_timeout(run, now);
		look_again_soon();
	}
}

static void
call_truck(const Run *run, const char *function)
{
	(void) execute(run->at_source, psprintf("SELECT trucker.%s(%s)", function, quote_literal_cstr(run->test->truck->name)));
}

static void
end_worker(Run *run)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), trucker_test_timeout * INT64CONST(1000));

	/* it may not have come back from the last time */
	while (execute(run->at_source, "SELECT pg_catalog.pg_terminate_backend(pid) FROM trucker.stream_workers() WHERE pid IS NOT NULL") == NIL)
	{
		char	   *state = look_at_truck(run, "");

		if (GetCurrentTimestamp() >= deadline)
			raise_timeout(run, state);
		look_again_soon();
	}
}

static void
start_truck(const Run *run)
{
	(void) execute(run->at_source, psprintf("SELECT pg_catalog.set_config('trucker.test_truck', %s, false), pg_catalog.set_config('trucker.test_output', %s, false)",
											quote_literal_cstr(run->test->truck->name), quote_literal_cstr(run->output_name)));
	(void) execute(run->at_source, psprintf("SELECT FROM trucker.load(%s)", quote_literal_cstr(run->test->project->dir)));
	call_truck(run, "start");
	wait_for_truck(run);
}

/* ----
 * stream.sql
 * ----
 */

/* Follows BEGIN and COMMIT; true: the session is in a transaction block behind this one. */
static bool
in_block(bool before, const TruckerSqlStatement *statement)
{
	const char *first = statement->words[0];

	if (strcmp(first, "begin") == 0 || trucker_sql_begins(statement, "start transaction"))
		return true;
	if (strcmp(first, "commit") == 0 || strcmp(first, "end") == 0 || strcmp(first, "abort") == 0 ||
		trucker_sql_begins(statement, "prepare transaction"))
		return trucker_sql_begins(statement, "commit and chain");
	if (strcmp(first, "rollback") == 0)
		return before && (trucker_sql_begins(statement, "rollback to") ||
						  trucker_sql_begins(statement, "rollback transaction to") || trucker_sql_begins(statement, "rollback work to"));
	return before;
}

static int
count_transactions(List *statements)
{
	bool		block = false;
	int			n = 0;
	ListCell   *lc;

	foreach(lc, statements)
	{
		block = in_block(block, lfirst(lc));
		n += block ? 0 : 1;
	}
	return n;
}

/* Start it again: what is there up to now comes in one batch. */
static void
start_together(const Run *run)
{
	char	   *lsn = value_of(run->at_source, "SELECT pg_catalog.pg_current_wal_flush_lsn()");

	/* what is written from here on brings the stream beyond that LSN */
	(void) execute(run->at_source, value_of(run->at_source,
											psprintf("SELECT pg_catalog.format('ALTER DATABASE %%I SET trucker.test_batch_until = %%L', pg_catalog.current_database(), %s)",
													 quote_literal_cstr(lsn))));
	call_truck(run, "start");
}

/* The worker of before would not hear of what is set for the database. */
static void
stop_worker(const Run *run)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), trucker_test_timeout * INT64CONST(1000));

	call_truck(run, "stop");
	wait_for_state(run, "stopped");
	while (execute(run->at_source, "SELECT FROM trucker.stream_workers() WHERE pid IS NOT NULL") != NIL)
	{
		if (GetCurrentTimestamp() >= deadline)
			raise_timeout(run, "stopped");
		look_again_soon();
	}
}

static void
stream(Run *run)
{
	char	   *file;
	List	   *statements = read_statements(run->test, "stream.sql", &file);
	int			half = (count_transactions(statements) + 1) / 2;
	bool		block = false;
	ListCell   *lc;

	if (run->kind == TRUCKER_TEST_TOGETHER)
		stop_worker(run);
	foreach(lc, statements)
	{
		TruckerSqlStatement *statement = lfirst(lc);

		(void) execute_statement(run->at_source, file, statement);
		block = in_block(block, statement);
		if (block)
			continue;
		run->transactions++;
		if (run->kind == TRUCKER_TEST_SINGLE)
			wait_for_truck(run);
		else if (run->kind == TRUCKER_TEST_BROKEN && run->transactions == half)
			end_worker(run);
	}
	if (block)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("file \"%s\" ends within a transaction", file),
				 errhint("Add COMMIT.")));
	if (run->kind == TRUCKER_TEST_TOGETHER)
		start_together(run);
	if (run->kind == TRUCKER_TEST_BROKEN)
		end_worker(run);
	wait_for_truck(run);
}

/* ----
 * What has come out
 * ----
 */

/* "f | 3 | x" */
static char *
shown(const TruckerSqlRow *row)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < row->n; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? " | " : "", row->values[i] ? row->values[i] : "NULL");
	return text.data;
}

static bool
is_boolean(const TruckerSqlRow *row)
{
	const char *value = row->n > 0 ? row->values[0] : "";

	return value == NULL || strcmp(value, "t") == 0 || strcmp(value, "f") == 0;
}

/* test.sql: each row must begin with true. */
static void
check_rows(Run *run)
{
	char	   *file;
	List	   *statements = read_statements(run->test, "test.sql", &file);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, statements)
	{
		TruckerSqlStatement *statement = lfirst(lc);
		List	   *rows = execute_statement(run->at_output, file, statement);
		ListCell   *cell;

		foreach(cell, rows)
		{
			TruckerSqlRow *row = lfirst(cell);
			bool		ok = row->n > 0 && row->values[0] && strcmp(row->values[0], "t") == 0;

			n++;
			trucker_test_result(run->test, ok, "%s: %s, line %d, row %d: %s%s", trucker_test_run_name(run->kind), file,
								statement->line, foreach_current_index(cell) + 1, shown(row),
								is_boolean(row) ? "" : " (the first column must be boolean)");
		}
	}
	if (n == 0)
		trucker_test_result(run->test, false, "%s: %s: it has returned no row", trucker_test_run_name(run->kind), file);
}

/* The rows of one query, with the name of what they are. */
static List *
add_rows(List *all, List *rows, const char *name)
{
	ListCell   *lc;

	foreach(lc, rows)
		all = lappend(all, psprintf("%s: %s", name, shown(lfirst(lc))));
	return all;
}

/* All tables but the truck's input and what trucker keeps for itself. */
static List *
read_tables(Run *run)
{
	List	   *all = NIL;
	ListCell   *lc;

	foreach(lc, execute(run->at_output,
						psprintf("SELECT c.oid::pg_catalog.regclass, pg_catalog.format('SELECT trucker_row::pg_catalog.text FROM %%s AS trucker_row ORDER BY trucker_row::pg_catalog.text COLLATE \"C\"', c.oid::pg_catalog.regclass) "
								 "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
								 "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_' "
								 "AND n.nspname NOT IN ('information_schema', 'trucker', 'trucker_migrations', 'trucker_positions') %s"
								 "AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass "
								 "AND d.objid = c.oid AND d.deptype = 'e') ORDER BY n.nspname, c.relname",
								 run->test->remote ? "" : "AND c.oid NOT IN (SELECT relid FROM trucker.input_table) ")))
	{
		TruckerSqlRow *row = lfirst(lc);

		all = add_rows(all, execute(run->at_output, row->values[1]), row->values[0]);
	}
	return all;
}

static int
compare_texts(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* What is compared between the runs: the rows of compare.sql; without one, of all tables. */
static List *
read_output(Run *run)
{
	char	   *file;
	List	   *statements = read_statements(run->test, "compare.sql", &file);
	List	   *all = NIL;
	ListCell   *lc;

	if (statements == NIL)
		return read_tables(run);
	foreach(lc, statements)
	{
		TruckerSqlStatement *statement = lfirst(lc);

		all = add_rows(all, execute_statement(run->at_output, file, statement), psprintf("line %d", statement->line));
	}
	if (all == NIL)
		trucker_test_result(run->test, false, "%s: %s: it has returned no row, so nothing is compared",
							trucker_test_run_name(run->kind), file);
	list_sort(all, compare_texts);
	return all;
}

/* Both lists are in the same order; the first row in which they differ. */
static void
compare(TruckerTestCase *test, TruckerTestRun kind, List *rows)
{
	int			i = 0;

	while (i < list_length(test->tables) && i < list_length(rows) && strcmp(list_nth(test->tables, i), list_nth(rows, i)) == 0)
		i++;
	if (i == list_length(test->tables) && i == list_length(rows))
		trucker_test_result(test, true, "%s: the output is the same", trucker_test_run_name(kind));
	else
		trucker_test_result(test, false, "%s: the output is not the same as with %s: %s instead of %s",
							trucker_test_run_name(kind), trucker_test_run_name(TRUCKER_TEST_SINGLE),
							i < list_length(rows) ? (char *) list_nth(rows, i) : "no more rows",
							i < list_length(test->tables) ? (char *) list_nth(test->tables, i) : "no more rows");
}

static void
compare_output(Run *run, List *rows)
{
	TruckerTestCase *test = run->test;
	MemoryContext old;
	ListCell   *lc;

	if (test->has_tables)
		compare(test, run->kind, rows);
	if (run->kind != TRUCKER_TEST_SINGLE)
		return;
	old = MemoryContextSwitchTo(test->context);
	foreach(lc, rows)
		test->tables = lappend(test->tables, pstrdup(lfirst(lc)));
	test->has_tables = true;
	MemoryContextSwitchTo(old);
}

/* ----
 * All of it
 * ----
 */

static void
backfill(const Run *run)
{
	char	   *file;
	List	   *statements = read_statements(run->test, "backfill.sql", &file);
	bool		block = false;
	ListCell   *lc;

	foreach(lc, statements)
	{
		(void) execute_statement(run->at_source, file, lfirst(lc));
		block = in_block(block, lfirst(lc));
	}
	if (block)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("file \"%s\" ends within a transaction", file),
				 errhint("Add COMMIT.")));
}

/* Run a case once; its results are added to it.  The databases are left to the caller. */
void
trucker_test_run(TruckerTestCase *test, TruckerTestRun kind)
{
	Run			run = {.test = test, .kind = kind};
	List	   *output;

	make_databases(&run);
	migrate_all(&run);
	backfill(&run);
	start_truck(&run);
	stream(&run);
	/* before test.sql, which may write */
	output = read_output(&run);
	check_rows(&run);
	compare_output(&run, output);
	if (run.at_output != run.at_source)
		trucker_sql_session_close(run.at_output);
	trucker_sql_session_close(run.at_source);
}
