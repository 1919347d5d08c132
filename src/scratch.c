/*
 * scratch.c
 *	  Databases for a while: made, and dropped whatever happens.
 *
 * A function cannot make a database, and a transaction that fails cannot drop one.  So
 * each statement about databases runs in a session of its own (sql_session.c), and
 * before the first one a keeper is started (scratch_keeper.c), which drops what is there
 * when we end or fail.
 *
 * Their names say what they are, and hold a token of the test that they belong to:
 * trucker_test_0123456789abcdef_source.  What bears such a name and has no keeper is dropped
 * by the next test.
 */
#include "trucker.h"

#include <ctype.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "scratch.h"
#include "slots.h"
#include "sql_session.h"
#include "wait.h"

#define LOOK_MS 10

struct TruckerScratch
{
	char		token[TRUCKER_SCRATCH_TOKEN + 1];
	dsm_segment *segment;
	BackgroundWorkerHandle *keeper;
};

/* trucker_test_, 16 hexadecimal digits, "_", and a word */
bool
trucker_scratch_is_name(const char *name)
{
	const char *p = name + strlen(TRUCKER_SCRATCH_PREFIX);

	if (strncmp(name, TRUCKER_SCRATCH_PREFIX, strlen(TRUCKER_SCRATCH_PREFIX)) != 0 ||
		strspn(p, "0123456789abcdef") != TRUCKER_SCRATCH_TOKEN)
		return false;
	return p[TRUCKER_SCRATCH_TOKEN] == '_' && isalpha((unsigned char) p[TRUCKER_SCRATCH_TOKEN + 1]);
}

/* One statement about databases, as the caller. */
static List *
execute(const char *sql, bool keep)
{
	TruckerSqlSession *session = trucker_sql_session_local(GetUserId(), "trucker test databases");
	List	   *rows = trucker_sql_session_execute(session, sql, keep);

	trucker_sql_session_close(session);
	return rows;
}

static void
drop_named(const char *condition)
{
	ListCell   *lc;

	foreach(lc, execute(psprintf("SELECT datname FROM pg_catalog.pg_database "
								 "WHERE datname ~ '^" TRUCKER_SCRATCH_PREFIX "[0-9a-f]{16}_[a-z]+$' AND %s ORDER BY datname DESC", condition), true))
		(void) execute(psprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)",
								quote_identifier(((TruckerSqlRow *) lfirst(lc))->values[0])), false);
}

/* Those of tests whose keeper is gone: it was terminated. */
static void
drop_leftovers(void)
{
	drop_named(psprintf("NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = %s "
						"|| pg_catalog.substr(datname, %d, %d))",
						quote_literal_cstr(trucker_scratch_keeper_type("")), (int) strlen(TRUCKER_SCRATCH_PREFIX) + 1, TRUCKER_SCRATCH_TOKEN));
}

/* Others must see the keeper before they see a database that it keeps. */
static void
wait_for_keeper(const TruckerScratch *scratch)
{
	char	   *sql = psprintf("SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = %s",
							   quote_literal_cstr(trucker_scratch_keeper_type(scratch->token)));
	pid_t		pid;

	while (WaitForBackgroundWorkerStartup(scratch->keeper, &pid) == BGWH_STARTED)
	{
		if (execute(sql, true) != NIL)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, trucker_wait(TRUCKER_WAIT_TEST));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the process that drops the databases of tests has ended"),
			 errhint("The server's log says why.")));
}

/* Start a keeper.  In memory of the caller's transaction. */
TruckerScratch *
trucker_scratch_begin(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	TruckerScratch *scratch = palloc0(sizeof(TruckerScratch));
	shm_mq	   *queue;

	strlcpy(scratch->token, trucker_new_token(), sizeof(scratch->token));
	scratch->segment = dsm_create(shm_mq_minimum_size, 0);
	queue = shm_mq_create(dsm_segment_address(scratch->segment), shm_mq_minimum_size);
	shm_mq_set_sender(queue, MyProc);
	(void) shm_mq_attach(queue, scratch->segment, NULL);
	if (!trucker_scratch_keeper_register(MyDatabaseId, scratch->token, dsm_segment_handle(scratch->segment), &scratch->keeper))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free that could drop the databases of tests"),
				 errhint("Raise max_worker_processes, or try again when others have ended.")));
	MemoryContextSwitchTo(old);
	wait_for_keeper(scratch);
	drop_leftovers();
	return scratch;
}

/* Make one, as empty as template0 is, with the encoding and the collation of this one. */
Oid
trucker_scratch_create(TruckerScratch *scratch, const char *purpose, char **name)
{
	List	   *rows;

	*name = psprintf("%s%s_%s", TRUCKER_SCRATCH_PREFIX, scratch->token, purpose);
	rows = execute(psprintf("SELECT pg_catalog.format('CREATE DATABASE %%I TEMPLATE template0 ENCODING %%L LC_COLLATE %%L LC_CTYPE %%L', "
							"%s, pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype) || "
							"CASE WHEN datlocprovider = 'i' THEN pg_catalog.format(' LOCALE_PROVIDER icu ICU_LOCALE %%L', daticulocale) ELSE '' END "
							"FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
							quote_literal_cstr(*name)), true);
	(void) execute(((TruckerSqlRow *) linitial(rows))->values[0], false);
	/* others have no business there: what they might leave would be met with the caller's rights */
	(void) execute(psprintf("REVOKE CONNECT ON DATABASE %s FROM PUBLIC", quote_identifier(*name)), false);
	rows = execute(psprintf("SELECT oid FROM pg_catalog.pg_database WHERE datname = %s", quote_literal_cstr(*name)), true);
	return atooid(((TruckerSqlRow *) linitial(rows))->values[0]);
}

/* Drop those that were made; the next ones may bear the same names. */
void
trucker_scratch_drop(TruckerScratch *scratch)
{
	/* "source" before "output": its trucks write to that one */
	drop_named(psprintf("datname LIKE '%s%s\\_%%'", TRUCKER_SCRATCH_PREFIX, scratch->token));
}

/* There are none left. */
void
trucker_scratch_end(TruckerScratch *scratch)
{
	dsm_detach(scratch->segment);
}
