/*
 * harness.h
 *	  Tests of a project's trucks.
 */
#ifndef TRUCKER_HARNESS_H
#define TRUCKER_HARNESS_H

#include "project.h"
#include "scratch.h"

/* How the changes of a case come to the truck. */
typedef enum TruckerTestRun
{
	TRUCKER_TEST_SINGLE,		/* one source transaction a batch */
	TRUCKER_TEST_TOGETHER,		/* all in one batch, as far as the settings let it */
	TRUCKER_TEST_BROKEN			/* its worker is ended twice on the way */
} TruckerTestRun;

#define TRUCKER_TEST_RUNS (TRUCKER_TEST_BROKEN + 1)

/* A folder in the folder "test" of a truck. */
typedef struct TruckerTestCase
{
	const TruckerProject *project;
	const TruckerProjectTruck *truck;
	char	   *name;
	char	   *folder;			/* in the project */
	bool		remote;			/* the truck writes to another database */
	TruckerScratch *scratch;
	List	   *results;		/* of TruckerTestResult * */
	List	   *tables;			/* what the output holds after the first run: char * */
	bool		has_tables;
	MemoryContext context;		/* of results and tables */
} TruckerTestCase;

/* A row of test(). */
typedef struct TruckerTestResult
{
	bool		ok;
	char	   *detail;
} TruckerTestResult;

/* in harness_run.c */
extern void trucker_test_run(TruckerTestCase *test, TruckerTestRun kind);
extern const char *trucker_test_run_name(TruckerTestRun kind);
extern void trucker_test_result(TruckerTestCase *test, bool ok, const char *fmt,...) pg_attribute_printf(3, 4);

#endif							/* TRUCKER_HARNESS_H */
