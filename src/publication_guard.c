/*
 * publication_guard.c
 *	  Nothing that others do may fail because of trucker's publications; and nothing that
 *	  they do may take from these what trucks need.
 *
 * The server refuses updates and deletes of a table that publishes them and has no
 * replica identity, and it refuses to make a published table unlogged.  Trucker's own
 * publications must not lead to either: a table that has lost its identity, or has a
 * partition without one, is published for inserts only from then on, in the very
 * transaction of the statement that did it; and one that is to be unlogged leaves them
 * before.  What that means for trucks is input_ddl.c's concern.  (Lists of columns can stand
 * in the way, too: column_list_guard.c.)
 *
 * On the other hand only superusers could alter these publications, as with a replication
 * slot; but a slot that has been dropped is noticed, and changes that are not sent are
 * not.  So that is refused.
 */
#include "trucker.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "column_list.h"
#include "publication.h"

#define TOKEN_DIGITS 16

/* Is this a name that publication.c gives? */
bool
trucker_publication_is_ours(const char *name)
{
	size_t		prefix = strlen(TRUCKER_SLOT_PREFIX);

	return strncmp(name, TRUCKER_SLOT_PREFIX, prefix) == 0 &&
		strspn(name + prefix, "0123456789abcdef") == TOKEN_DIGITS &&
		(name[prefix + TOKEN_DIGITS] == '\0' ||
		 strcmp(name + prefix + TOKEN_DIGITS, TRUCKER_INSERTS_SUFFIX) == 0);
}

/* ----
 * Altering what is ours
 * ----
 */

static const char *
altered_publication(Node *statement)
{
	ListCell   *lc;

	switch (nodeTag(statement))
	{
		case T_AlterPublicationStmt:
			return ((AlterPublicationStmt *) statement)->pubname;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_PUBLICATION)
				return strVal(((RenameStmt *) statement)->object);
			return NULL;
		case T_AlterOwnerStmt:
			if (((AlterOwnerStmt *) statement)->objectType == OBJECT_PUBLICATION)
				return strVal(((AlterOwnerStmt *) statement)->object);
			return NULL;
		case T_DropStmt:
			if (((DropStmt *) statement)->removeType == OBJECT_PUBLICATION)
				foreach(lc, ((DropStmt *) statement)->objects)
					if (trucker_publication_is_ours(strVal(lfirst(lc))))
						return strVal(lfirst(lc));
			return NULL;
		default:
			return NULL;
	}
}

/* One that was restored from a dump is not. */
static bool
is_in_use(const char *name)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(name);
	TruckerCatalog access;
	bool		used;

	if (!OidIsValid(get_relname_relid("published_table", get_namespace_oid(TRUCKER_SCHEMA, true))))
		return false;
	trucker_catalog_begin(&access);
	used = trucker_catalog_execute("SELECT FROM trucker.stream WHERE $1 IN (publication, publication || '" TRUCKER_INSERTS_SUFFIX "')",
								   1, &type, &value, NULL, SPI_OK_SELECT) > 0;
	trucker_catalog_end(&access);
	return used;
}

/* Before a statement: it must not alter a publication of ours. */
void
trucker_publication_refuse(Node *statement)
{
	const char *name = altered_publication(statement);

	if (name == NULL || !trucker_publication_is_ours(name) || !OidIsValid(get_publication_oid(name, true)) || !is_in_use(name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("publication \"%s\" belongs to trucker", name),
			 errdetail("Trucks would miss changes without noticing."),
			 errhint("The view trucker.publications shows which trucks need it.")));
}

/* ----
 * What would make others' statements fail
 * ----
 */

/* Take a table out of a publication, if it is in there. */
void
trucker_publication_withdraw(const char *name, Oid relid)
{
	Oid			publication = get_publication_oid(name, true);
	Oid			entry;
	ObjectAddress address;

	if (!OidIsValid(publication))
		return;
	/* of two that do this the second one finds it done */
	LockRelationOid(relid, ShareUpdateExclusiveLock);
	entry = GetSysCacheOid2(PUBLICATIONRELMAP, Anum_pg_publication_rel_oid,
							ObjectIdGetDatum(relid), ObjectIdGetDatum(publication));
	if (!OidIsValid(entry))
		return;
	ObjectAddressSet(address, PublicationRelRelationId, entry);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/* Let a publication hold a table. */
void
trucker_publication_enter(const char *name, Oid relid)
{
	PublicationRelInfo info = {.relation = table_open(relid, ShareUpdateExclusiveLock)};

	(void) publication_add_relation(get_publication_oid(name, false), &info, true);
	table_close(info.relation, NoLock);
	CommandCounterIncrement();
}

/* Before a statement: a table that it makes unlogged must not be published. */
void
trucker_publication_before(Node *statement)
{
	AlterTableStmt *alter = (AlterTableStmt *) statement;
	bool		to_unlogged = false;
	ListCell   *lc;
	Oid			relid;

	if (!IsA(statement, AlterTableStmt) || alter->objtype != OBJECT_TABLE)
		return;
	foreach(lc, alter->cmds)
		to_unlogged |= lfirst_node(AlterTableCmd, lc)->subtype == AT_SetUnLogged;
	if (!to_unlogged)
		return;
	relid = RangeVarGetRelid(alter->relation, NoLock, true);
	if (!OidIsValid(relid) || !pg_class_ownercheck(relid, GetUserId()))
		return;					/* the statement will fail by itself */
	foreach(lc, GetRelationPublications(relid))
	{
		char	   *name = get_publication_name(lfirst_oid(lc), true);

		if (name && trucker_publication_is_ours(name))
			trucker_publication_withdraw(name, relid);
	}
}

/* Is there any publication of ours? */
static bool
any_is_there(void)
{
	Relation	rel = table_open(PublicationRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = trucker_publication_is_ours(NameStr(((Form_pg_publication) GETSTRUCT(tuple))->pubname));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Published tables of which updates would fail. */
static const char without_identity_sql[] =
	"SELECT p.pubname::text, r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
	"WHERE p.pubname ~ '^" TRUCKER_SLOT_PREFIX "[0-9a-f]{16}$' AND EXISTS "
	"(SELECT FROM trucker.input_parts(r.prrelid) WHERE kind = 'r' AND NOT has_identity)";

/* New partitions of inputs, and inputs that have got a replica identity; with the publication that they belong to. */
static const char unpublished_sql[] =
	"SELECT n.name, i.leaf FROM trucker.published_table x CROSS JOIN LATERAL trucker.input_parts(x.relid) i CROSS JOIN LATERAL "
	"(SELECT x.publication || CASE WHEN i.has_identity THEN '' ELSE '" TRUCKER_INSERTS_SUFFIX "' END AS name) n "
	"WHERE i.kind = 'r' AND i.persistence = 'p' AND (i.has_identity OR x.inserts_only) AND NOT EXISTS "
	"(SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = i.leaf AND p.pubname = n.name)";

/* For each publication and table that the query returns. */
static void
for_each(const char *sql, void (*action) (const char *name, Oid relid))
{
	int			n = (int) trucker_catalog_execute(sql, 0, NULL, NULL, NULL, SPI_OK_SELECT);
	SPITupleTable *rows = SPI_tuptable;

	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		action(TextDatumGetCString(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull)),
			   DatumGetObjectId(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull)));
	}
}

static void
publish_inserts_only(const char *name, Oid relid)
{
	char	   *inserts = psprintf("%s" TRUCKER_INSERTS_SUFFIX, name);

	trucker_publication_withdraw(name, relid);
	if (OidIsValid(get_publication_oid(inserts, true)))
		trucker_publication_enter(inserts, relid);
}

/*
 * After a statement that may have altered tables: those that we publish, and of which
 * updates would fail now, are published for inserts only; new partitions are published,
 * and what has got a replica identity is published for all changes.
 */
void
trucker_publication_after(const TruckerAltered *altered)
{
	TruckerCatalog access;

	if (!any_is_there())
		return;
	trucker_column_list_after(altered);
	trucker_catalog_begin(&access);
	/* as in input_ddl.c: compiling would take longer than the queries */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	for_each(without_identity_sql, publish_inserts_only);
	for_each(unpublished_sql, trucker_publication_enter);
	trucker_catalog_end(&access);
}
