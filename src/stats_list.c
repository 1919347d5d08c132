/*
 * stats_list.c
 *	  The trucks and streams whose figures somebody may see.
 *
 * Shared memory knows trucks by their ids, of all databases.  What is shown of them, by
 * views and as metrics, is shown as trucker.status does it: to those who have the owner's
 * rights, and to members of pg_read_all_stats.
 */
#include "trucker.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include "catalog.h"
#include "stats_list.h"

static void *
form_listed(HeapTuple tuple)
{
	TruckerListed *listed = palloc0(sizeof(TruckerListed));
	bool		isnull;

	listed->id = trucker_uuid_column(tuple, 1);
	listed->name = trucker_text_column(tuple, 2);
	listed->owner = DatumGetObjectId(trucker_column(tuple, 3, &isnull));
	listed->home = trucker_bool_column(tuple, 4);
	listed->slot_name = trucker_text_column(tuple, 5);
	return listed;
}

static List *
list_visible(const char *sql, bool for_owner)
{
	List	   *all = trucker_catalog_list(sql, NULL, form_listed);
	bool		sees_all = !for_owner && has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	ListCell   *lc;

	foreach(lc, all)
		if (!sees_all && !has_privs_of_role(GetUserId(), ((TruckerListed *) lfirst(lc))->owner))
			all = foreach_delete_current(all, lc);
	return all;
}

/*
 * The trucks (TruckerListed *) of this database that the current user may look at, by
 * name; for_owner: that he may change.
 */
List *
trucker_list_trucks(bool for_owner)
{
	return list_visible("SELECT id, name, owner::oid, true, NULL::text FROM trucker.truck ORDER BY name", for_owner);
}

/* Likewise the streams. */
List *
trucker_list_streams(bool for_owner)
{
	return list_visible("SELECT id, name, owner::oid, home, slot_name FROM trucker.stream ORDER BY name, owner::oid, NOT home, id",
						for_owner);
}
