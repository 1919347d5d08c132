/*
 * publication.c
 *	  The publications that streams read by pgoutput.
 *
 * pgoutput knows no list of tables of its own: it sends what publications hold.  And it
 * looks a change's publications up as they were when the change was made.  From that
 * follows nearly everything here:
 *
 *	- The publication must be there before the slot: pgoutput fails on every change that
 *	  is older than a publication that it has been given the name of.  So a stream has
 *	  one for all its tables, from before its slot on, and keeps it: streams that are
 *	  copied from it, and those of the same owner, role and name, share it.
 *	- A change that was made before its table was added never arrives, and nobody is
 *	  told.  A transaction may have made some changes before, and go on afterwards.  So
 *	  of a table that is added only what commits after the last transaction that ran
 *	  then has ended can be relied upon: from usable_lsn on.  A slot that is made after
 *	  a table was added needs no such care, for making one waits for just these.
 *	- No table is taken out while a truck of these streams reads it.
 *
 * To publish the updates and deletes of a table without a replica identity would make
 * the application's fail.  Trucks that read nothing but inserts may have such tables: for
 * these there is a second publication, of inserts and truncates, beside each one, with
 * the same name and "_i" after it.  What keeps DDL from leading there later is in
 * publication_guard.c.
 *
 * Of a partitioned table the partitions are published, one by one: as a whole it would
 * publish a new partition before that has a replica identity.  A partition is added by the
 * statement that makes it one (publication_guard.c), so that there is no change of it that
 * is older.  What is sent are changes of the partitions, as wal2json sends them, and as
 * toast.c and part.c must know them.  (Of a TRUNCATE of the whole, too, only partitions
 * are told: see trucker_tables_truncated().)
 *
 * Which columns of the tables they hold is column_list.c's concern.
 *
 * The only file, with column_list.c, that knows the columns of trucker.published_table.  Everything that
 * changes publications does so one after the other (trucker_publication_lock_all).
 */
#include "trucker.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "column_list.h"
#include "deadlock.h"
#include "log.h"
#include "publication.h"
#include "slots.h"

/* the trucks, of whatever state, that a publication $1 is for: t is trucker.truck */
#define READERS \
	"FROM trucker.truck t WHERE (t.owner, t.run_as, coalesce(t.options->>'stream', '" TRUCKER_DEFAULT_STREAM "')) IN " \
	"(SELECT x.owner, x.run_as, x.name FROM trucker.stream x WHERE x.publication = p.publication) " \
	"OR t.id IN (SELECT s.truck_id FROM trucker.truck_state s JOIN trucker.stream x ON x.id = s.stream_id " \
	"WHERE x.publication = p.publication)"

/* ----
 * Publications
 * ----
 */

static char *
inserts_name(const char *name)
{
	return psprintf("%s" TRUCKER_INSERTS_SUFFIX, name);
}

/* Both, as pgoutput is to be told of them. */
List *
trucker_publication_names(const char *name)
{
	return list_make2(pstrdup(name), inserts_name(name));
}

static void
utility(const char *sql)
{
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "unexpected result of \"%s\"", sql);
}

/*
 * Whoever changes publications takes turns; readers of the table are not held up.  In an
 * open access to the catalog.
 */
void
trucker_publication_lock_all(void)
{
	utility("LOCK TABLE trucker.published_table IN SHARE ROW EXCLUSIVE MODE");
}

/*
 * It goes with the extension.  It is no member of it: pg_dump would leave out the
 * publication, and not that it holds tables, so that no dump could be restored.  In a
 * database that was restored from one no stream needs it, and a probe drops it.
 */
static void
create_one(const char *name, const char *actions)
{
	ObjectAddress myself;
	ObjectAddress extension;

	if (OidIsValid(get_publication_oid(name, true)))
		return;
	utility(psprintf("CREATE PUBLICATION %s WITH (publish = '%s')", quote_identifier(name), actions));
	CommandCounterIncrement();
	ObjectAddressSet(myself, PublicationRelationId, get_publication_oid(name, false));
	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("trucker", false));
	recordDependencyOn(&myself, &extension, DEPENDENCY_AUTO);
}

static void
drop_one(const char *name)
{
	Oid			oid = get_publication_oid(name, true);
	ObjectAddress address;

	if (!OidIsValid(oid))
		return;
	ObjectAddressSet(address, PublicationRelationId, oid);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
}

static bool
holds(const char *name, Oid relid)
{
	Oid			oid = get_publication_oid(name, true);

	return OidIsValid(oid) && SearchSysCacheExists2(PUBLICATIONRELMAP, ObjectIdGetDatum(relid), ObjectIdGetDatum(oid));
}

/* ----
 * Tables
 * ----
 */

/* Does trucker.published_table have the table, for inserts, or for all changes? */
static bool
is_recorded(const char *name, Oid relid, bool inserts_only)
{
	Oid			types[] = {TEXTOID, OIDOID, BOOLOID};
	Datum		values[] = {CStringGetTextDatum(name), ObjectIdGetDatum(relid), BoolGetDatum(inserts_only)};

	return trucker_catalog_execute("SELECT FROM trucker.published_table WHERE publication = $1 AND relid = $2 "
								   "AND ($3 OR NOT inserts_only)", 3, types, values, NULL, SPI_OK_SELECT) > 0;
}

static void
record(const char *name, Oid relid, bool inserts_only)
{
	Oid			types[] = {TEXTOID, OIDOID, BOOLOID};
	Datum		values[] = {CStringGetTextDatum(name), ObjectIdGetDatum(relid), BoolGetDatum(inserts_only)};

	(void) trucker_catalog_execute("DELETE FROM trucker.published_table WHERE publication = $1 AND relid = $2",
								   2, types, values, NULL, SPI_OK_DELETE);
	(void) trucker_catalog_execute("INSERT INTO trucker.published_table (publication, relid, inserts_only) "
								   "VALUES ($1, $2, $3)", 3, types, values, NULL, SPI_OK_INSERT);
}

/* A table that an input consists of: itself, or a partition. */
typedef struct Part
{
	Oid			relid;
	bool		has_identity;
} Part;

/* All of them (Part *).  In an open access to the catalog. */
static List *
parts_of(Oid relid)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(relid);
	int			n = (int) trucker_catalog_execute("SELECT leaf, has_identity FROM trucker.input_parts($1) WHERE kind = 'r'",
												  1, &type, &value, NULL, SPI_OK_SELECT);
	List	   *parts = NIL;

	for (int i = 0; i < n; i++)
	{
		Part	   *part = palloc(sizeof(Part));
		bool		isnull;

		part->relid = DatumGetObjectId(trucker_column(SPI_tuptable->vals[i], 1, &isnull));
		part->has_identity = trucker_bool_column(SPI_tuptable->vals[i], 2);
		parts = lappend(parts, part);
	}
	return parts;
}

/*
 * A part that is not published, and ought to be; NULL: there is none.  A partition that
 * has no replica identity yet is not read either (input_ddl.c).
 */
static const Part *
missing_part(const char *name, const List *parts, bool inserts_only)
{
	ListCell   *lc;

	foreach(lc, parts)
	{
		const Part *part = lfirst(lc);

		if (part->has_identity ? !holds(name, part->relid) : inserts_only && !holds(inserts_name(name), part->relid))
			return part;
	}
	return NULL;
}

/* Is the input one that is not partitioned, and lacks a replica identity? */
static bool
lacks_identity(Oid relid, const List *parts)
{
	const Part *part = parts == NIL ? NULL : linitial(parts);

	return part && part->relid == relid && !part->has_identity;
}

static char *
qualified_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	return name ? quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name) : psprintf("(OID %u)", relid);
}

static void
raise_no_identity(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s has no replica identity", qualified_name(relid)),
			 errdetail("If its changes were published, the application's updates and deletes of it would fail."),
			 errhint("Add a primary key, or: ALTER TABLE %s REPLICA IDENTITY FULL;", qualified_name(relid))));
}

/*
 * Let the publication hold a table.  The locks keep the replica identity, and partitions,
 * as they are, and are in the way of nothing but DDL and VACUUM; who holds one for long
 * makes us give up and try again (trucker_catalog_begin() has set a lock_timeout).
 */
static void
add_table(const char *name, Oid relid, bool inserts_only)
{
	List	   *parts = parts_of(relid);
	const Part *part;

	if (is_recorded(name, relid, inserts_only) && missing_part(name, parts, inserts_only) == NULL &&
		(inserts_only || !lacks_identity(relid, parts)))
		return;
	LockRelationOid(relid, ShareUpdateExclusiveLock);
	if (get_rel_name(relid) == NULL)
		return;					/* it has just been dropped: the truck will say so itself */
	parts = parts_of(relid);
	if (!inserts_only && lacks_identity(relid, parts))
		raise_no_identity(relid);
	while ((part = missing_part(name, parts, inserts_only)) != NULL)
		trucker_publication_enter(part->has_identity ? name : inserts_name(name), part->relid);
	record(name, relid, lacks_identity(relid, parts));
}

/* The stream's publication, which is made if it has none.  In an open access to the catalog. */
static char *
find_or_create(const pg_uuid_t *stream_id)
{
	TruckerStreamRow *row = trucker_state_lock_stream(stream_id);
	char	   *name;

	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the stream has just been removed")));
	name = row->publication ? row->publication : trucker_state_publication_of(row);
	if (name == NULL)
		name = psprintf(TRUCKER_SLOT_PREFIX "%s", trucker_new_token());
	if (row->publication == NULL)
		trucker_state_set_publication(stream_id, name);
	create_one(name, "insert, update, delete, truncate");
	create_one(inserts_name(name), "insert, truncate");
	CommandCounterIncrement();
	return name;
}

/*
 * Let the stream have a publication that holds the inputs of all these trucks
 * (TruckerTruck *); returns its name, in the current memory context.  Committed, and
 * flushed, when it returns.  Outside any transaction.  Raises an error if a table lacks a
 * replica identity, or is locked for long.
 */
char *
trucker_publication_prepare(const pg_uuid_t *stream_id, List *trucks)
{
	MemoryContext context = CurrentMemoryContext;
	TruckerCatalog access;
	char	   *name;
	ListCell   *lc;

	StartTransactionCommand();
	trucker_catalog_begin(&access);
	trucker_give_way_in_deadlocks(true);
	trucker_publication_lock_all();
	name = find_or_create(stream_id);
	foreach(lc, trucks)
	{
		const TruckerTruck *truck = lfirst(lc);

		for (int i = 0; i < truck->ninputs; i++)
		{
			add_table(name, truck->inputs[i], truck->inserts_only);
			trucker_column_list_open(name, truck, truck->inputs[i]);
		}
	}
	trucker_give_way_in_deadlocks(false);
	name = MemoryContextStrdup(context, name);
	trucker_catalog_end(&access);
	CommitTransactionCommand();
	XLogFlush(XactLastCommitEnd);
	MemoryContextSwitchTo(context);
	trucker_stop_point("published");
	return name;
}

/*
 * Find out from where on tables that were added can be relied upon: not before every
 * transaction that ran when they were has ended.  To be called again and again.  Outside
 * any transaction.
 */
void
trucker_publication_settle(const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(name);
	TruckerCatalog access;

	StartTransactionCommand();
	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("SELECT FROM trucker.published_table WHERE publication = $1 AND usable_lsn IS NULL",
								1, &type, &value, NULL, SPI_OK_SELECT) > 0)
	{
		/* that commit is in the WAL before its transaction is seen to have ended */
		(void) trucker_catalog_execute("UPDATE trucker.published_table SET usable_lsn = pg_current_wal_insert_lsn() "
									   "WHERE publication = $1 AND usable_lsn IS NULL "
									   "AND added_before <= pg_snapshot_xmin(pg_current_snapshot())",
									   1, &type, &value, NULL, SPI_OK_UPDATE);
		/* our own number is greater than that of all that have one already */
		(void) trucker_catalog_execute("UPDATE trucker.published_table SET added_before = pg_current_xact_id() "
									   "WHERE publication = $1 AND added_before IS NULL",
									   1, &type, &value, NULL, SPI_OK_UPDATE);
	}
	trucker_catalog_end(&access);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/*
 * Does the publication hold all that commits at or after lsn, and that the truck wants to
 * know of its inputs, with the columns that it needs, but for those (Oid) that have yet to be loaded?  In a transaction.
 */
bool
trucker_publication_covers(const char *name, const TruckerTruck *truck, const List *unloaded, XLogRecPtr lsn)
{
	Oid			types[] = {TEXTOID, UUIDOID, PG_LSNOID, BOOLOID};
	Datum		values[] = {CStringGetTextDatum(name), UUIDPGetDatum(&truck->id), LSNGetDatum(lsn), BoolGetDatum(truck->inserts_only)};
	TruckerCatalog access;
	bool		covered;

	if (trucker_publication_trouble(name, truck, unloaded) != NULL)
		return false;
	trucker_catalog_begin(&access);
	covered = trucker_catalog_execute("SELECT FROM trucker.truck t JOIN trucker.input_table i ON i.truck_id = t.id "
									  "WHERE t.id = $2 AND i.relid = ANY (t.input_tables::oid[]) AND NOT EXISTS "
									  "(SELECT FROM trucker.published_table p WHERE (p.publication, p.relid) = ($1, i.relid) "
									  "AND p.usable_lsn <= $3 AND ($4 OR NOT p.inserts_only) AND (p.columns IS NULL OR p.columns @> "
									  "coalesce((SELECT n.columns || n.wanted FROM trucker.column_need n WHERE (n.truck_id, n.relid) = (t.id, i.relid)), '{0}')))",
									  4, types, values, NULL, SPI_OK_SELECT) == 0;
	trucker_catalog_end(&access);
	return covered;
}

/*
 * Does the publication not hold a table that the truck reads, and that has been loaded?
 * Returns why the truck cannot go on, or NULL.  In a transaction.
 */
const char *
trucker_publication_trouble(const char *name, const TruckerTruck *truck, const List *unloaded)
{
	TruckerCatalog access;
	const char *trouble = NULL;
	MemoryContext old;

	trucker_catalog_begin(&access);
	for (int i = 0; i < truck->ninputs && trouble == NULL; i++)
	{
		const Part *part;

		if (list_member_oid(unloaded, truck->inputs[i]))
			continue;
		part = missing_part(name, parts_of(truck->inputs[i]), truck->inserts_only);
		if (part == NULL)
			continue;
		old = MemoryContextSwitchTo(access.result_context);
		trouble = psprintf("its input table %s is not in publication \"%s\" any more", qualified_name(part->relid), name);
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	return trouble;
}

/* ----
 * What nobody needs any more
 * ----
 */

/*
 * Lock the tables that a publication holds, waiting for nobody.  Who drops tables, perhaps
 * several in one transaction, takes them out of their publications, as we do when these are
 * dropped: with the tables locked we neither wait for that nor are in a deadlock with it.
 */
static bool
lock_tables_of(const char *name)
{
	Oid			oid = get_publication_oid(name, true);
	ListCell   *lc;

	foreach(lc, OidIsValid(oid) ? GetPublicationRelations(oid, PUBLICATION_PART_ROOT) : NIL)
		if (!ConditionalLockRelationOid(lfirst_oid(lc), ShareUpdateExclusiveLock))
			return false;
	return true;
}

/* Those whose tables are locked are left for another probe. */
static void
drop_unused(void)
{
	int			n;
	char	  **names;

	n = (int) trucker_catalog_execute("SELECT pubname FROM pg_publication WHERE pubname ~ '^" TRUCKER_SLOT_PREFIX "[0-9a-f]{16}$' "
									  "AND pubname::text NOT IN (SELECT publication FROM trucker.stream WHERE publication IS NOT NULL)",
									  0, NULL, NULL, NULL, SPI_OK_SELECT);
	names = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		names[i] = pstrdup(NameStr(*DatumGetName(trucker_column(SPI_tuptable->vals[i], 1, &(bool) {0}))));
	for (int i = 0; i < n; i++)
	{
		if (!lock_tables_of(names[i]) || !lock_tables_of(inserts_name(names[i])))
			continue;
		drop_one(names[i]);
		drop_one(inserts_name(names[i]));
		ereport(trucker_elevel(TRUCKER_LOG_INFO), (errmsg("dropped publication \"%s\", which no stream needs", names[i])));
	}
	(void) trucker_catalog_execute("DELETE FROM trucker.published_table p WHERE NOT EXISTS "
								   "(SELECT FROM trucker.stream x WHERE x.publication = p.publication)",
								   0, NULL, NULL, NULL, SPI_OK_DELETE);
}

/* Take tables out of their publications that none of the trucks reads that these are for. */
static void
remove_unread(void)
{
	SPITupleTable *rows;
	int			n;

	(void) trucker_catalog_execute("DELETE FROM trucker.published_table p WHERE p.relid NOT IN "
								   "(SELECT unnest(t.input_tables::oid[]) " READERS ")",
								   0, NULL, NULL, NULL, SPI_OK_DELETE);
	n = (int) trucker_catalog_execute("SELECT b.pubname::text, r.prrelid FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid "
									  "WHERE b.pubname ~ '^" TRUCKER_SLOT_PREFIX "[0-9a-f]{16}(" TRUCKER_INSERTS_SUFFIX ")?$' AND NOT EXISTS "
									  "(SELECT FROM trucker.published_table p CROSS JOIN LATERAL trucker.input_parts(p.relid) i "
									  "WHERE b.pubname::text IN (p.publication, p.publication || '" TRUCKER_INSERTS_SUFFIX "') AND i.leaf = r.prrelid)",
									  0, NULL, NULL, NULL, SPI_OK_SELECT);
	rows = SPI_tuptable;
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		Oid			relid = DatumGetObjectId(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));

		/* a VACUUM may have it for hours; there is always another probe */
		if (ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
			trucker_publication_withdraw(TextDatumGetCString(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull)), relid);
	}
}

/*
 * Drop publications that no stream needs, and take tables out that no truck reads.  In a
 * transaction, of a probe; so it waits for nobody.
 */
void
trucker_publication_clean(void)
{
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("SELECT FROM pg_publication WHERE pubname ~ '^" TRUCKER_SLOT_PREFIX "[0-9a-f]{16}$'",
								0, NULL, NULL, NULL, SPI_OK_SELECT) > 0 &&
		ConditionalLockRelationOid(get_relname_relid("published_table", get_namespace_oid(TRUCKER_SCHEMA, false)),
								   ShareRowExclusiveLock))
	{
		drop_unused();
		remove_unread();
	}
	trucker_catalog_end(&access);
}
