/*
 * dry_run.c
 *	  dry_run(): what a truck's next source transactions would do.
 *
 * A process of its own does it, and takes everything back (dry_run_worker.c): here is
 * asked who may, and whether there is anything that could be tried.
 */
#include "trucker.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "check.h"
#include "dry_run.h"
#include "position.h"
#include "sql_session.h"

PG_FUNCTION_INFO_V1(trucker_dry_run);

static void
check_truck(const TruckerTruck *truck)
{
	trucker_check_preloaded();
	trucker_truck_check_role(truck);
	trucker_check_not_lost(truck, ERROR);
	if (truck->needs_backfill)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("truck \"%s\" has no position yet", truck->name),
				 errdetail("Its input tables are to be loaded first, and that cannot be tried."),
				 errhint("SELECT * FROM trucker.explain(%s); shows what it will do.", quote_literal_cstr(truck->name))));
}

/* Where all that has committed by now ends. */
static XLogRecPtr
end_of_commits(void)
{
	XLogRecPtr	end;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("no SQL can be run on a standby server")));
	end = trucker_lsn_record_end(GetXLogInsertRecPtr());
	XLogFlush(end);
	return end;
}

/* dry_run(truck, transactions) */
Datum
trucker_dry_run(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TruckerTruck *truck = trucker_truck_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int			transactions = PG_GETARG_INT32(1);
	TruckerSqlSession *session;
	AttInMetadata *columns;
	XLogRecPtr	until;
	char	   *order;
	ListCell   *lc;

	if (transactions < 1 || transactions > TRUCKER_DRY_RUN_MOST)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"transactions\" of dry_run must be from 1 to %d", TRUCKER_DRY_RUN_MOST),
				 errhint("It is the number of source transactions that are tried, in one transaction at the destination.")));
	check_truck(truck);
	until = end_of_commits();
	order = psprintf("%s %d %X/%X", DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&truck->id))),
					 transactions, LSN_FORMAT_ARGS(until));
	InitMaterializedSRF(fcinfo, 0);
	columns = TupleDescGetAttInMetadata(rsinfo->setDesc);
	session = trucker_sql_session_worker("trucker_dry_run_main", "trucker dry run",
										 psprintf(TRUCKER_APPLICATION_NAME, truck->name));
	foreach(lc, trucker_sql_session_execute(session, order, true))
	{
		TruckerSqlRow *row = lfirst(lc);

		if (row->n != TRUCKER_DRY_RUN_COLUMNS || row->n != rsinfo->setDesc->natts)
			elog(ERROR, "unexpected row of a dry run");
		tuplestore_puttuple(rsinfo->setResult, BuildTupleFromCStrings(columns, row->values));
	}
	trucker_sql_session_close(session);
	return (Datum) 0;
}
