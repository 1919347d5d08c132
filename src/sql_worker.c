/*
 * sql_worker.c
 *	  The process of a session in this database: it runs SQL that another backend sends.
 *
 * It is connected as the role whose SQL it runs (see sql_session.c), with that role's
 * settings; or, where that is a truck's role, which need not be able to log in, confined to
 * it as a truck's own SQL is (identity.c): session user and current user are the role, and
 * SET ROLE, RESET ROLE and SET SESSION AUTHORIZATION are refused.  It reads commands from one queue in shared memory; rows, notices and errors
 * go back by the other one in the form of the protocol.  Each command is run as a client's
 * simple query is, one statement at a time, so statements that begin and end transactions
 * work.  The process ends with the first error, or when the other one lets go.
 */
#include "trucker.h"

#include "access/printtup.h"
#include "access/xact.h"
#include "libpq/pqmq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "pgstat.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "identity.h"
#include "sql_session.h"
#include "worker.h"

/* There is no client that could be asked for rows, or be given them. */
static void
refuse_client_copy(const RawStmt *raw)
{
	const CopyStmt *copy = (const CopyStmt *) raw->stmt;

	if (IsA(raw->stmt, CopyStmt) && copy->filename == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("COPY with the client is not possible here")));
}

/* Run one statement, between StartTransactionCommand() and CommitTransactionCommand(). */
static void
run_statement(RawStmt *raw, const char *sql, CommandDest dest, MemoryContext context)
{
	MemoryContext old;
	DestReceiver *receiver;
	List	   *plans;
	Portal		portal;
	QueryCompletion completion;
	int16		format = 0;
	bool		snapshot = false;

	refuse_client_copy(raw);
	if (analyze_requires_snapshot(raw))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		snapshot = true;
	}
	/* COMMIT takes the transaction's memory */
	old = MemoryContextSwitchTo(context);
	plans = pg_plan_queries(pg_analyze_and_rewrite_fixedparams(raw, sql, NULL, 0, NULL),
							sql, CURSOR_OPT_PARALLEL_OK, NULL);
	MemoryContextSwitchTo(old);
	if (snapshot)
		PopActiveSnapshot();

	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, CreateCommandTag(raw->stmt), plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	PortalSetResultFormat(portal, 1, &format);
	MemoryContextSwitchTo(context);
	receiver = CreateDestReceiver(dest);
	if (dest == DestRemote)
		SetRemoteDestReceiverParams(receiver, portal);
	MemoryContextSwitchTo(old);
	(void) PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, &completion);
	receiver->rDestroy(receiver);
	PortalDrop(portal, false);
}

static void
run_command(const char *sql, CommandDest dest, Oid confined_to, MemoryContext context)
{
	List	   *parsed;
	ListCell   *lc;

	debug_query_string = sql;
	pgstat_report_activity(STATE_RUNNING, sql);
	SetCurrentStatementStartTimestamp();
	parsed = pg_parse_query(sql);
	foreach(lc, parsed)
	{
		RawStmt    *raw = lfirst_node(RawStmt, lc);

		/* between two transactions there is only our own code */
		if (OidIsValid(confined_to) && !IsTransactionBlock())
			SetUserIdAndSecContext(confined_to, 0);
		StartTransactionCommand();
		if (OidIsValid(confined_to))
			SetUserIdAndSecContext(confined_to, SECURITY_LOCAL_USERID_CHANGE);
		/* a background worker has nobody else who would arm it */
		if (StatementTimeout > 0)
			enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
		run_statement(raw, sql, dest, context);
		CommitTransactionCommand();
		disable_timeout(STATEMENT_TIMEOUT, false);
		MemoryContextSwitchTo(context);
	}
	debug_query_string = NULL;
	if (!IsTransactionOrTransactionBlock())
		pgstat_report_stat(false);
	pgstat_report_activity(IsTransactionBlock() ? STATE_IDLEINTRANSACTION : STATE_IDLE, NULL);
}

/*
 * The next command, in the current memory context, and whether its rows are wanted; NULL:
 * the other end has let go.
 */
char *
trucker_sql_worker_receive(shm_mq_handle *commands, bool *keep)
{
	Size		len;
	void	   *data;
	char	   *command;

	if (shm_mq_receive(commands, &len, &data, false) != SHM_MQ_SUCCESS)
		return NULL;
	command = palloc(len);
	memcpy(command, data, len);
	*keep = command[0] == 'Q';
	return command + 1;
}

/* The command has been answered; false: nobody wants to know. */
bool
trucker_sql_worker_done(shm_mq_handle *answers)
{
	return shm_mq_send(answers, 1, "Z", false, true) == SHM_MQ_SUCCESS;
}

/* Commands, until the other end lets go. */
static void
serve(shm_mq_handle *commands, shm_mq_handle *answers, Oid confined_to)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "trucker SQL", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		char	   *command;
		bool		keep;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		command = trucker_sql_worker_receive(commands, &keep);
		if (command == NULL)
			return;
		run_command(command, keep ? DestRemote : DestNone, confined_to, context);
		if (!trucker_sql_worker_done(answers))
			return;
	}
}

/* Be the role for good; what it has set for its own sessions holds here, too. */
static void
confine(Oid database, Oid role)
{
	bool		is_superuser;

	trucker_worker_connect(database);
	trucker_identity_protect();
	StartTransactionCommand();
	is_superuser = superuser_arg(role);
	CommitTransactionCommand();
	trucker_identity_init(role, is_superuser);
	SetSessionAuthorization(role, is_superuser);
}

/*
 * What such a process does first: connect to the database, and to who has started it, by
 * the segment whose handle is the argument.  Returns the role that it is confined to, if
 * it is.
 */
Oid
trucker_sql_worker_attach(Datum main_arg, shm_mq_handle **commands, shm_mq_handle **answers)
{
	dsm_segment *segment;
	shm_toc    *toc;
	TruckerSqlOrder *order;
	shm_mq	   *queue;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* there is no resource owner yet, so the mapping lasts as long as the process */
	segment = dsm_attach(DatumGetUInt32(main_arg));
	if (segment == NULL)
		proc_exit(0);
	toc = shm_toc_attach(TRUCKER_SQL_MAGIC, dsm_segment_address(segment));
	if (toc == NULL)
		elog(ERROR, "invalid magic number in dynamic shared memory segment");
	order = shm_toc_lookup(toc, TRUCKER_SQL_ORDER, false);
	queue = shm_toc_lookup(toc, TRUCKER_SQL_ANSWERS, false);
	shm_mq_set_sender(queue, MyProc);
	*answers = shm_mq_attach(queue, segment, NULL);
	/* from here on, errors arrive where they belong */
	pq_redirect_to_shm_mq(segment, *answers);
	queue = shm_toc_lookup(toc, TRUCKER_SQL_COMMANDS, false);
	shm_mq_set_receiver(queue, MyProc);
	*commands = shm_mq_attach(queue, segment, NULL);

	if (OidIsValid(order->confined_to))
		confine(order->database, order->confined_to);
	else
		BackgroundWorkerInitializeConnectionByOid(order->database, order->login, 0);
	SetClientEncoding(GetDatabaseEncoding());
	pgstat_report_appname(order->name);
	return order->confined_to;
}

/* bgworker entry point: the argument is the segment's handle. */
void
trucker_sql_worker_main(Datum main_arg)
{
	shm_mq_handle *commands;
	shm_mq_handle *answers;
	Oid			confined_to = trucker_sql_worker_attach(main_arg, &commands, &answers);

	serve(commands, answers, confined_to);
	proc_exit(0);
}
