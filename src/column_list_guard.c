/*
 * column_list_guard.c
 *	  Nothing that others do may fail because of the column lists of trucker's publications.
 *
 * The server refuses updates and deletes of a table whose list lacks a column of the
 * replica identity, or that has a list and REPLICA IDENTITY FULL.  And of each column of a
 * list it notes that the table's membership in the publication depends on it: the column
 * could not be dropped (with CASCADE the table would silently leave the publication), and a
 * type that goes with CASCADE would take the table along.
 *
 * A list could be taken away before such a statement is run.  But which columns a statement
 * will drop cannot be known beforehand: DROP TYPE, DROP SCHEMA, DROP EXTENSION CASCADE.  So
 * the dependencies are not there: a list is written without them (trucker_column_list_set).
 * Nothing can depend on a list being right then but ourselves, and the list goes, in the
 * transaction of the statement, whenever a table's columns or its replica identity have been
 * altered: from there on all columns are published, until a worker knows which are needed.
 * The server itself passes over columns of a list that there are no more; pg_dump would not.
 *
 * That is exact.  Each of these statements holds the table exclusively until its transaction
 * ends, so what has been written to the table before it was decoded with the list, and what
 * comes after it without.  And by that lock the tables are found: no query is needed, of
 * which the session's snapshot could hide what others have just done.
 *
 * In a database that was restored from a dump the lists have been made by ALTER PUBLICATION,
 * with their dependencies.  There they belong to nobody, and are taken away where they are made.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "column_list.h"
#include "publication.h"

/* A table's membership in a publication. */
typedef struct Listed
{
	Oid			publication;
	Oid			relid;
} Listed;

/*
 * Let the publication hold these columns of the table; NULL: all of them.  The caller has
 * locked the table against others who do that.
 */
void
trucker_column_list_set(Oid publication, Oid relid, const Bitmapset *attnums)
{
	Relation	rel = table_open(PublicationRelRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy2(PUBLICATIONRELMAP, ObjectIdGetDatum(relid), ObjectIdGetDatum(publication));
	Datum		values[Natts_pg_publication_rel] = {0};
	bool		nulls[Natts_pg_publication_rel] = {0};
	bool		replace[Natts_pg_publication_rel] = {0};
	int			at = Anum_pg_publication_rel_prattrs - 1;

	if (HeapTupleIsValid(tuple))
	{
		Oid			entry = ((Form_pg_publication_rel) GETSTRUCT(tuple))->oid;
		int16	   *list = palloc(Max(bms_num_members(attnums), 1) * sizeof(int16));
		int			n = 0;
		int			attnum = -1;

		while ((attnum = bms_next_member(attnums, attnum)) >= 0)
			list[n++] = (int16) attnum;
		replace[at] = true;
		nulls[at] = attnums == NULL;
		if (attnums)
			values[at] = PointerGetDatum(buildint2vector(list, n));
		tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
		CatalogTupleUpdate(rel, &tuple->t_self, tuple);
		/* that on the table itself is another kind of dependency */
		(void) deleteDependencyRecordsForSpecific(PublicationRelRelationId, entry, DEPENDENCY_NORMAL,
												  RelationRelationId, relid);
		CacheInvalidateRelcacheByRelid(relid);
		CommandCounterIncrement();
	}
	table_close(rel, RowExclusiveLock);
}

/* ----
 * Statements of the application
 * ----
 */

static bool
is_altered(const TruckerAltered *altered, Oid relid)
{
	if (altered->ntables > TRUCKER_MAX_ALTERED)
		return true;
	for (int i = 0; i < altered->ntables; i++)
		if (altered->tables[i] == relid)
			return true;
	return false;
}

/* Does this transaction hold the table exclusively? */
static bool
holds_alone(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	return LockHeldByMe(&tag, AccessExclusiveLock);
}

/*
 * Can a table, which is locked, have this list, with its replica identity as it is now?  A
 * partition cannot: perhaps it has just become one, of an input whose trucks need other columns.
 */
static bool
is_fit(Oid relid, const Bitmapset *list)
{
	Relation	rel = RelationIdGetRelation(relid);
	Bitmapset  *identity;
	int			x = -1;
	bool		fit;

	if (!RelationIsValid(rel))
		return true;			/* dropped, and its membership with it */
	fit = rel->rd_rel->relreplident != REPLICA_IDENTITY_FULL && rel->rd_rel->relkind == RELKIND_RELATION &&
		!rel->rd_rel->relispartition;
	identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	while (fit && (x = bms_next_member(identity, x)) >= 0)
		fit = bms_is_member(x + FirstLowInvalidHeapAttributeNumber, list);
	RelationClose(rel);
	return fit;
}

/* Lists of our publications that cannot stay, as Listed. */
static List *
find_unfit(const TruckerAltered *altered)
{
	Relation	rel = table_open(PublicationRelRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *unfit = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_publication_rel form = (Form_pg_publication_rel) GETSTRUCT(tuple);
		bool		isnull;
		Datum		list = heap_getattr(tuple, Anum_pg_publication_rel_prattrs, RelationGetDescr(rel), &isnull);
		char	   *name;

		if (isnull || !holds_alone(form->prrelid))
			continue;
		name = get_publication_name(form->prpubid, true);
		if (name == NULL || !trucker_publication_is_ours(name))
			continue;
		if (is_altered(altered, form->prrelid) || !is_fit(form->prrelid, pub_collist_to_bitmapset(NULL, list, NULL)))
		{
			Listed	   *listed = palloc(sizeof(Listed));

			listed->publication = form->prpubid;
			listed->relid = form->prrelid;
			unfit = lappend(unfit, listed);
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return unfit;
}

/*
 * After a statement that may have altered tables, and a CommandCounterIncrement(): no list
 * may stand in the way of anything, or lack what the columns' new names may mean to a truck.
 */
void
trucker_column_list_after(const TruckerAltered *altered)
{
	ListCell   *lc;

	foreach(lc, find_unfit(altered))
	{
		const Listed *listed = lfirst(lc);

		trucker_column_list_set(listed->publication, listed->relid, NULL);
	}
}

/* ----
 * Restored publications
 * ----
 */

/*
 * Is this a statement that gives tables to a publication which is named like ours?  Returns
 * the name, or NULL.  Ours are never made by such a one.
 */
char *
trucker_column_list_restored(Node *statement)
{
	const char *name = NULL;

	if (IsA(statement, AlterPublicationStmt))
		name = ((AlterPublicationStmt *) statement)->pubname;
	else if (IsA(statement, CreatePublicationStmt))
		name = ((CreatePublicationStmt *) statement)->pubname;
	return name && trucker_publication_is_ours(name) ? pstrdup(name) : NULL;
}

/* After it: let it hold all columns of its tables, which the statement has locked. */
void
trucker_column_list_strip(const char *publication)
{
	Oid			oid = get_publication_oid(publication, true);
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	List	   *relids = NIL;
	ListCell   *lc;

	if (!OidIsValid(oid))
		return;
	CommandCounterIncrement();
	rel = table_open(PublicationRelRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_publication_rel_prpubid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, PublicationRelPrpubidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (!heap_attisnull(tuple, Anum_pg_publication_rel_prattrs, RelationGetDescr(rel)))
			relids = lappend_oid(relids, ((Form_pg_publication_rel) GETSTRUCT(tuple))->prrelid);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	foreach(lc, relids)
		trucker_column_list_set(oid, lfirst_oid(lc), NULL);
}
