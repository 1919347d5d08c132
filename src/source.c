/*
 * source.c
 *	  SQL functions that look at the source's side of trucks: what stands in the way
 *	  of starting them, what an input table must log, slots that nobody needs.
 *
 * None of them changes a truck.  What is shown of a truck is shown to those who may
 * manage it, and, without anything of its rows or its SQL, to members of
 * pg_read_all_stats.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "check.h"
#include "checklist.h"
#include "identity.h"
#include "log.h"
#include "migrate.h"
#include "program.h"
#include "slots.h"
#include "state.h"
#include "truck.h"

PG_FUNCTION_INFO_V1(trucker_check);
PG_FUNCTION_INFO_V1(trucker_check_replica_identity);
PG_FUNCTION_INFO_V1(trucker_drop_orphans);

/* ----
 * check
 * ----
 */

/* check(name): all that start() would look at; NULL: for each of the caller's trucks */
Datum
trucker_check(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TruckerChecklist *list;
	List	   *names;
	List	   *trucks = NIL;
	ListCell   *lc;
	int			new_trucks = 0;
	int			new_slots = 0;
	List	   *decoders = NIL;

	/* who may not manage the truck learns nothing of the server either */
	names = PG_ARGISNULL(0) ? trucker_truck_own_names() : list_make1(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	foreach(lc, names)
	{
		TruckerTruck *truck = trucker_truck_get(lfirst(lc));

		trucks = lappend(trucks, truck);
		new_trucks += truck->enabled ? 0 : 1;
		new_slots += truck->has_stream ? 0 : 1;
		decoders = list_append_unique_ptr(decoders, unconstify(TruckerDecoder *, trucker_check_decoder(truck)));
	}

	InitMaterializedSRF(fcinfo, 0);
	list = trucker_checklist_create(rsinfo);
	/* trucks that start together share what they need */
	if (decoders == NIL)
		decoders = list_make1(unconstify(TruckerDecoder *, trucker_decoder_wanted(NULL)));
	trucker_check_list_server(list, Min(new_trucks, 1), Min(new_slots, 1), decoders);
	trucker_migrations_check_list(list, trucks);
	foreach(lc, trucks)
		trucker_check_list_truck(list, lfirst(lc));
	return (Datum) 0;
}

/* ----
 * check_replica_identity
 * ----
 */

/* What a truck needs of a table's replica identity. */
typedef struct Needs
{
	const TruckerTruck *truck;
	Relation	rel;			/* the input table, of which others may be partitions */
	TruckerOutput *output;		/* once it is there */
	List	   *old_names;		/* columns (char *) whose old values its SQL reads */
} Needs;

/*
 * Which old values does the truck's SQL read?  Analysed as its role, and not planned:
 * nothing of the role's is executed.
 */
static const char *
find_needs(TruckerChecklist *list, void *arg)
{
	Needs	   *needs = arg;
	TruckerIdentity saved;
	TruckerProgram *program;

	trucker_identity_push(&saved, needs->truck->role,
						  SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
						  needs->truck->search_path);
	needs->output = trucker_output_create(needs->truck);
	program = trucker_program_create(needs->truck, needs->output, needs->rel);
	trucker_identity_pop(&saved);
	for (int i = 0; i < program->type->desc->natts; i++)
	{
		TruckerColumn *column = &program->type->columns[i];

		if (column->source == TRUCKER_FROM_OLD)
			needs->old_names = lappend(needs->old_names,
									   pstrdup(NameStr(TupleDescAttr(needs->rel->rd_att, column->number - 1)->attname)));
	}
	trucker_program_free(program);
	return NULL;
}

/* The columns that a table's key has; that of the primary key, if nothing else is chosen. */
static Bitmapset *
key_columns(Relation rel)
{
	Bitmapset  *identity = NULL;

	if (rel->rd_rel->relreplident != REPLICA_IDENTITY_DEFAULT)
		identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	return identity ? identity : RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
}

/* Which old values does the SQL read that no key of the table has?  NULL: none. */
static char *
outside_key(Relation rel, const Needs *needs)
{
	Bitmapset  *key = key_columns(rel);
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, needs ? needs->old_names : NIL)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), lfirst(lc));

		if (!bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, key))
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", quote_identifier(lfirst(lc)));
	}
	return names.len ? names.data : NULL;
}

static char *
describe_needs(Relation rel, const Needs *needs)
{
	char	   *outside = outside_key(rel, needs);

	if (needs == NULL)
		return "a key, for updates and deletes";
	if (needs->truck->inserts_only)
		return "nothing: it passes over updates and deletes";
	if (outside)
		return psprintf("old values of columns outside of the key: %s", outside);
	return needs->truck->net ? "a primary key, or an index chosen by REPLICA IDENTITY" : "a key";
}

/* The columns of an index, in order. */
static char *
index_columns(Relation rel, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	StringInfoData names;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	form = (Form_pg_index) GETSTRUCT(tuple);
	initStringInfo(&names);
	for (int i = 0; i < form->indnkeyatts; i++)
		appendStringInfo(&names, "%s%s", names.len ? ", " : "",
						 quote_identifier(get_attname(RelationGetRelid(rel), form->indkey.values[i], false)));
	ReleaseSysCache(tuple);
	return names.data;
}

/* What the table has, in words. */
static char *
describe_identity(Relation rel)
{
	Oid			index = RelationGetReplicaIndex(rel);

	switch (rel->rd_rel->relreplident)
	{
		case REPLICA_IDENTITY_FULL:
			return "full";
		case REPLICA_IDENTITY_NOTHING:
			return "nothing";
		case REPLICA_IDENTITY_INDEX:
			return OidIsValid(index) ? psprintf("index %s (%s)", quote_identifier(get_rel_name(index)), index_columns(rel, index)) :
				"nothing, as its index is gone";
		default:
			return OidIsValid(index) ? psprintf("primary key (%s)", index_columns(rel, index)) :
				"nothing, as there is no primary key";
	}
}

/* An index that REPLICA IDENTITY USING INDEX accepts; InvalidOid if there is none. */
static Oid
usable_index(Relation rel)
{
	Oid			found = InvalidOid;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;
		bool		usable = form->indisunique && form->indimmediate && form->indisvalid &&
			RelationGetIndexExpressions(index) == NIL && RelationGetIndexPredicate(index) == NIL;

		for (int i = 0; usable && i < form->indnkeyatts; i++)
			usable = form->indkey.values[i] > 0 &&
				TupleDescAttr(rel->rd_att, form->indkey.values[i] - 1)->attnotnull;
		if (usable && !OidIsValid(found))
			found = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	return found;
}

/* What to run, if the table has no identity, or one that is not enough. */
static char *
suggest_alter(Relation rel, const Needs *needs)
{
	char	   *name = trucker_qualified_name(rel);
	Oid			index;

	if (outside_key(rel, needs))
		return psprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", name);
	if (OidIsValid(rel->rd_pkindex))
		return psprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT;", name);
	index = usable_index(rel);
	if (OidIsValid(index))
		return psprintf("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s;", name,
						quote_identifier(get_rel_name(index)));
	if (needs && needs->truck->net)
		return psprintf("ALTER TABLE %s ADD PRIMARY KEY (...);", name);
	return psprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", name);
}

/* Does the truck's SQL get what it needs? */
static bool
is_enough(Relation rel, const Needs *needs)
{
	Oid			index = RelationGetReplicaIndex(rel);
	bool		full = rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL;

	if (needs && needs->truck->inserts_only)
		return true;
	if (!full && outside_key(rel, needs))
		return false;
	if (needs && needs->truck->net)
		return OidIsValid(index) || (full && OidIsValid(rel->rd_pkindex));
	return full || OidIsValid(index);
}

/* One row; known is false if it is not known what the truck needs. */
static void
put_identity(ReturnSetInfo *rsinfo, Relation rel, const Needs *needs, bool known)
{
	bool		ok = known && is_enough(rel, needs);
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = ObjectIdGetDatum(RelationGetRelid(rel));
	nulls[1] = needs == NULL;
	values[1] = needs ? CStringGetTextDatum(needs->truck->name) : (Datum) 0;
	values[2] = CStringGetTextDatum(known ? describe_needs(rel, needs) :
									"unknown: its SQL does not fit the table, see trucker.check()");
	values[3] = CStringGetTextDatum(describe_identity(rel));
	nulls[4] = !known;
	values[4] = BoolGetDatum(ok);
	nulls[5] = ok || !known;
	values[5] = nulls[5] ? (Datum) 0 : CStringGetTextDatum(suggest_alter(rel, needs));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* The table's own identity, or, if it is partitioned, that of each partition. */
static void
put_tables(ReturnSetInfo *rsinfo, Relation rel, const Needs *needs, bool known)
{
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
	{
		put_identity(rsinfo, rel, needs, known);
		return;
	}
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), NoLock, NULL))
	{
		Relation	part = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (part == NULL)
			continue;
		if (part->rd_rel->relkind == RELKIND_RELATION)
			put_identity(rsinfo, part, needs, known);
		relation_close(part, AccessShareLock);
	}
}

/*
 * check_replica_identity(table): for each truck that reads it, what it needs and what
 * the table has; or, if none does, what any truck would need
 */
Datum
trucker_check_replica_identity(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			relid = PG_GETARG_OID(0);
	bool		sees_all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	bool		none = true;
	Relation	rel;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a table", trucker_qualified_name(rel)),
				 errhint("Name a table whose changes a truck reads.")));
	foreach(lc, trucker_truck_readers(relid))
	{
		Needs		needs = {lfirst(lc), rel, NULL, NIL};
		const char *ignored;
		bool		known;

		if (!sees_all && !has_privs_of_role(GetUserId(), needs.truck->owner))
			continue;
		none = false;
		/* what is wrong with its SQL its owner reads in check(); it is nobody else's business */
		known = needs.truck->inserts_only || trucker_checklist_try(find_needs, &needs, &ignored) == NULL;
		if (needs.output)
			needs.output->routine->rollback(needs.output);
		put_tables(rsinfo, rel, &needs, known);
	}
	if (none)
		put_tables(rsinfo, rel, NULL, true);
	/* anybody may ask: hold up nobody's DDL until the end of a transaction */
	relation_close(rel, AccessShareLock);
	return (Datum) 0;
}

/* ----
 * drop_orphans
 * ----
 */

/*
 * drop_orphans(): drop the slots of this database that bear our name and that no stream
 * needs, and return their names
 *
 * The rule is the probe's (probe.c): a worker commits a slot's name before it makes the
 * slot, so one whose name is nowhere is nobody's, if the slots are listed first and
 * what is committed by now is read then.  Dropping is not undone by a rollback; a
 * transaction that has written might roll back what makes a slot look like nobody's.
 */
Datum
trucker_drop_orphans(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *slots;
	List	   *needed;
	ListCell   *lc;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("slots cannot be told to be nobody's on a standby server"),
				 errhint("Call trucker.drop_orphans() when it has been promoted.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("drop_orphans cannot be called in a transaction that has written"),
				 errdetail("A slot that is dropped does not come back if the transaction is rolled back."),
				 errhint("COMMIT first.")));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	slots = trucker_slots_of_database(MyDatabaseId, false);
	PushActiveSnapshot(GetLatestSnapshot());
	needed = trucker_state_slot_names();
	PopActiveSnapshot();
	foreach(lc, slots)
	{
		Datum		value = CStringGetTextDatum(lfirst(lc));
		bool		isnull = false;

		/* one that somebody holds is let go of first; a worker's end sends a probe */
		if (trucker_slot_is_among(needed, lfirst(lc)) || trucker_slot_active_pid(lfirst(lc)) != 0)
			continue;
		trucker_slot_drop(lfirst(lc));
		ereport(trucker_elevel(TRUCKER_LOG_INFO),
				(errmsg("dropped replication slot \"%s\", which no stream needs", (char *) lfirst(lc))));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
	return (Datum) 0;
}
