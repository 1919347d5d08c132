/*
 * project_store.c
 *	  Which project made what in this database.
 *
 * The only file that knows the columns of trucker.project_object.  load() changes and
 * drops nothing that it does not find there: what somebody has made by hand is his.
 *
 * A truck is known by its uuid, so that one of the same name that was made after the
 * project's was dropped is not taken for it.  Foreign servers have no such thing; so
 * when one is dropped, its rows go (hooks.c).
 */
#include "trucker.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "project_store.h"

static const char *const kind_names[] = {
	[TRUCKER_PROJECT_CONNECTION] = "connection",
	[TRUCKER_PROJECT_MAPPING] = "user mapping",
	[TRUCKER_PROJECT_TRUCK] = "truck",
};

const char *
trucker_project_kind_name(TruckerProjectKind kind)
{
	return kind_names[kind];
}

static void *
form_object(HeapTuple tuple)
{
	TruckerProjectObject *object = palloc0(sizeof(TruckerProjectObject));
	char	   *kind = trucker_text_column(tuple, 2);
	bool		isnull;

	object->project = trucker_text_column(tuple, 1);
	for (int i = 0; i < lengthof(kind_names); i++)
		if (strcmp(kind_names[i], kind) == 0)
			object->kind = i;
	object->name = trucker_text_column(tuple, 3);
	object->role = DatumGetObjectId(trucker_column(tuple, 4, &isnull));
	return object;
}

static bool
exists(const TruckerProjectObject *object)
{
	ForeignServer *server;

	if (object->kind == TRUCKER_PROJECT_TRUCK)
		return true;
	server = GetForeignServerByName(object->name, true);
	if (server == NULL || object->kind == TRUCKER_PROJECT_CONNECTION)
		return server != NULL;
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(object->role),
								 ObjectIdGetDatum(server->serverid));
}

/* What projects have made, and still exists: TruckerProjectObject *, by kind and name. */
List *
trucker_project_objects(void)
{
	List	   *all = trucker_catalog_list("SELECT o.project, o.kind, o.name, o.role::oid FROM trucker.project_object o "
										   "WHERE o.kind <> 'truck' OR EXISTS (SELECT FROM trucker.truck t "
										   "WHERE t.id = o.truck_id AND t.name = o.name) "
										   "ORDER BY o.kind COLLATE \"C\", o.name COLLATE \"C\", o.role::oid", NULL, form_object);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, all)
		if (exists(lfirst(lc)))
			result = lappend(result, lfirst(lc));
	return result;
}

/* Two that load take turns. */
void
trucker_project_lock(void)
{
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("LOCK TABLE trucker.project_object IN SHARE ROW EXCLUSIVE MODE", 0, NULL, NULL, NULL, SPI_OK_UTILITY);
	trucker_catalog_end(&access);
}

/* A project that has got a unique_id goes on with what it made when it was known by its folder. */
void
trucker_project_take_over(const char *id, const char *dir)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(id), CStringGetTextDatum(dir)};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	trucker_catalog_execute("UPDATE trucker.project_object SET project = $1 WHERE project = $2 AND project <> $1",
							2, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/* Write down, or delete, what kind, name and role say. */
static void
write_row(const char *sql, const char *id, TruckerProjectKind kind, const char *name, Oid role)
{
	Oid			types[] = {TEXTOID, TEXTOID, OIDOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(kind_names[kind]), CStringGetTextDatum(name),
		ObjectIdGetDatum(role), id ? CStringGetTextDatum(id) : (Datum) 0};
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	trucker_catalog_execute(sql, id ? 4 : 3, types, values, NULL, id ? SPI_OK_INSERT : SPI_OK_DELETE);
	trucker_catalog_end(&access);
}

/* The project has made that; a row of what does not exist any more is in the way of nothing. */
void
trucker_project_note(const char *id, TruckerProjectKind kind, const char *name, Oid role)
{
	write_row("INSERT INTO trucker.project_object (kind, name, role, project, truck_id) "
			  "VALUES ($1, $2, $3::regrole, $4, (SELECT id FROM trucker.truck WHERE $1 = 'truck' AND name = $2)) "
			  "ON CONFLICT (kind, name, role) DO UPDATE SET project = excluded.project, truck_id = excluded.truck_id",
			  id, kind, name, role);
}

void
trucker_project_forget(TruckerProjectKind kind, const char *name, Oid role)
{
	write_row("DELETE FROM trucker.project_object WHERE kind = $1 AND name = $2 AND role = $3::regrole",
			  NULL, kind, name, role);
}

/* A foreign server is being dropped or renamed: what comes under its name is not the project's. */
void
trucker_project_forget_server(Oid server_id)
{
	TruckerCatalog access;
	Oid			types[] = {TEXTOID};
	Datum		values[1];

	if (!OidIsValid(get_extension_oid("trucker", true)) ||
		!OidIsValid(get_relname_relid("project_object", get_namespace_oid(TRUCKER_SCHEMA, true))))
		return;
	values[0] = CStringGetTextDatum(GetForeignServer(server_id)->servername);
	trucker_catalog_begin(&access);
	trucker_catalog_execute("DELETE FROM trucker.project_object WHERE kind IN ('connection', 'user mapping') AND name = $1",
							1, types, values, NULL, SPI_OK_DELETE);
	trucker_catalog_end(&access);
}
