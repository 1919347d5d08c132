/*
 * identity.c
 *	  Become a truck's role for a whole transaction, and come back clean.
 *
 * A worker is connected as the bootstrap superuser.  User SQL must never run
 * with those rights, and must not be able to get back to them:
 *
 * - The transaction runs with session user = current user = the truck's role,
 *   so that an abort of the (sub)transaction restores that role and not the
 *   superuser.
 * - SECURITY_LOCAL_USERID_CHANGE forbids SET / RESET ROLE and SESSION
 *   AUTHORIZATION (guc.c refuses them within "security-definer" contexts).
 * - The commit, too, runs as the role: deferred triggers fire and WITH HOLD
 *   cursors are materialized in it.
 * - Only then do we switch back, and drop what the SQL left in the session:
 *   settings, held cursors, prepared statements, temporary tables, session
 *   advisory locks.  Otherwise a role's SQL could plant something (a temporary
 *   table, a setting) that our own code then meets with superuser's rights.
 *
 * The caller's road is: trucker_identity_begin(); work;
 * trucker_identity_commit(); or, after an error, AbortCurrentTransaction();
 * trucker_identity_reset().
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_db_role_setting.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

#include "identity.h"

/*
 * Act as role for a while, with the given search_path, in any backend.  Undo
 * with trucker_identity_pop; an error undoes it, too.
 */
void
trucker_identity_push(TruckerIdentity *saved, Oid role, int sec_context,
					  const char *search_path)
{
	GetUserIdAndSecContext(&saved->userid, &saved->sec_context);
	saved->nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path,
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(role, saved->sec_context | sec_context);
}

void
trucker_identity_pop(const TruckerIdentity *saved)
{
	AtEOXact_GUC(false, saved->nestlevel);
	SetUserIdAndSecContext(saved->userid, saved->sec_context);
}

/*
 * Settings of the process itself, that neither postgresql.conf nor ALTER
 * DATABASE nor ALTER ROLE may change.  Once, when the process starts.
 */
void
trucker_identity_protect(void)
{
	static const char *const settings[][2] = {
		/* between the role's transactions our own code runs: with a safe path */
		{"search_path", "pg_catalog, pg_temp"},
		/* others' defaults are for their sessions */
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		/* an error shall end an attempt, not the process */
		{"exit_on_error", "off"},
		/* templates compare .input_table */
		{"quote_all_identifiers", "off"},
		/* we look for deadlocks often (deadlock.c), and each look would be logged */
		{"log_lock_waits", "off"},

		/*
		 * A commit need not wait for the disk: the position is in the same
		 * transaction as the data, and the slot is confirmed only up to what
		 * has been flushed.  It must not wait for a standby: where our own
		 * walsender counts as one, that would be waiting for ourselves.
		 */
		{"synchronous_commit", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Take over the settings that the role would have in a session of its own:
 * ALTER ROLE ... IN DATABASE, ALTER ROLE, ALTER DATABASE, ALTER ROLE ALL.
 * They become the session's defaults, to which trucker_identity_reset()
 * returns.  Outside any transaction.  (postinit.c's process_settings, which does
 * this for ordinary sessions, is not exported.)
 *
 * It is done as the role and in a restricted context: anybody may say ALTER ROLE
 * ... SET session_authorization = 'postgres' of himself, and the checks of such
 * values would ask whether *we* may.  Here they are refused, with a warning.
 */
void
trucker_identity_init(Oid role, bool role_is_superuser)
{
	Relation	rel;
	Snapshot	snapshot;

	SetSessionAuthorization(role, role_is_superuser);
	StartTransactionCommand();
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE);
	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	snapshot = RegisterSnapshot(GetCatalogSnapshot(DbRoleSettingRelationId));
	ApplySetting(snapshot, MyDatabaseId, role, rel, PGC_S_DATABASE_USER);
	ApplySetting(snapshot, InvalidOid, role, rel, PGC_S_USER);
	ApplySetting(snapshot, MyDatabaseId, InvalidOid, rel, PGC_S_DATABASE);
	ApplySetting(snapshot, InvalidOid, InvalidOid, rel, PGC_S_GLOBAL);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	trucker_identity_reset();
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Start a transaction that is the role's from its first to its last moment.
 * role_is_superuser only sets the read-only parameter is_superuser.
 */
void
trucker_identity_begin(Oid role, bool role_is_superuser, const char *search_path)
{
	SetSessionAuthorization(role, role_is_superuser);
	/* for the main loop of a session only the server does it; now() would stand still */
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();

	set_local("search_path", search_path);
	/* what the text form of a value means must not depend on a role's setting */
	set_local("array_nulls", "on");
	set_local("xmloption", "content");
	/* nor in which encoding its binary form is: what we receive is in the database's */
	set_local("client_encoding", GetDatabaseEncodingName());
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE);
}

/* Commit as the role, then come back. */
void
trucker_identity_commit(void)
{
	CommitTransactionCommand();
	trucker_identity_reset();
}

static bool
temp_namespace_exists(void)
{
	Oid			namespace_id;
	Oid			toast_namespace_id;

	GetTempNamespaceState(&namespace_id, &toast_namespace_id);
	return OidIsValid(namespace_id);
}

/*
 * Come back to the superuser, outside any transaction, and drop what the
 * role's SQL may have left in the session.
 */
void
trucker_identity_reset(void)
{
	Assert(!IsTransactionState());

	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);

	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	ResetAllOptions();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetSequenceCaches();
	if (temp_namespace_exists())
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		ResetTempTableNamespace();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
}
