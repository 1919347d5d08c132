/*
 * column_list.c
 *	  Which columns of the input tables trucker's publications hold.
 *
 * Those that the SQL of the trucks reads for which a publication is, and of each table the
 * replica identity.  What the server does not send need not be detoasted, written out, sent,
 * read and thrown away.  All columns are held where trucks need all of them; with REPLICA
 * IDENTITY FULL, or if some truck needs a stored generated column, which is computed from
 * others (needs.c); where a truck might put changes into quarantine; and where it is not known what one needs.
 *
 * What each truck needs is written down (trucker.column_need) by the worker that compiles its
 * SQL, so that the lists hold it also while the truck is stopped, or rides on another stream.
 * Columns are told by attnum, and these by the columns that there were: when a table has been
 * altered since, that truck is taken to need all until its worker has looked again.  A row
 * says two things: that the lists must hold these columns; and that all changes which the
 * truck has yet to apply carry them.  A truck without a row is sent, and needs, all.  Its
 * worker can write one at any time, for that takes nothing away before the lists follow.
 * They do so here, at once with it, in the same transaction:
 *
 *	- A list that is too long is made shorter.  That is urgent to nobody; a table that is
 *	  locked, by VACUUM or a statement, is passed over.
 *	- A list that is too short is made longer.  What was written before does not have the
 *	  new columns, and neither has what transactions write that are running: as with a table
 *	  that is added, they can be relied upon from published_table.usable_lsn on
 *	  (publication.c), which is found anew.  For which columns it holds is written beside it,
 *	  since lists also become longer without us (column_list_guard.c).  These are all, as
 *	  long as there is no list.
 *
 * A truck that starts gets its slot only after all columns of its tables have been
 * published (trucker_column_list_open), so it has what its row, the first one, will say.
 * What one that is altered does until its columns arrive is redefine.c's concern.
 *
 * Row filters are none of a publication's here: a truck's WHERE may read other tables, and
 * what it does not want to see of one it may have to delete.
 *
 * The only file that knows the columns of trucker.column_need.
 */
#include "trucker.h"

#include "access/xact.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "column_list.h"
#include "publication.h"

/* stands for all columns */
#define ALL_COLUMNS 0

/* ----
 * What trucks need
 * ----
 */

static Datum
attnums_datum(const Bitmapset *attnums)
{
	Datum	   *elements = palloc(Max(bms_num_members(attnums), 1) * sizeof(Datum));
	int			n = 0;
	int			attnum = -1;

	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
		elements[n++] = Int16GetDatum((int16) attnum);
	if (attnums == NULL)
		elements[n++] = Int16GetDatum(ALL_COLUMNS);
	return PointerGetDatum(construct_array(elements, n, INT2OID, sizeof(int16), true, TYPALIGN_SHORT));
}

/* A statement with a truck's need as $1 to $4: truck, table, columns, what they are made of. */
static uint64
execute(const char *sql, const pg_uuid_t *truck_id, const TruckerColumnNeed *need, int expected)
{
	Oid			types[] = {UUIDOID, OIDOID, INT2ARRAYOID, TEXTOID};
	Datum		values[] = {UUIDPGetDatum(truck_id), ObjectIdGetDatum(need->relid), attnums_datum(need->attnums),
	CStringGetTextDatum(need->made_of)};
	TruckerCatalog access;
	uint64		touched;

	trucker_catalog_begin(&access);
	touched = trucker_catalog_execute(sql, lengthof(types), types, values, NULL, expected);
	trucker_catalog_end(&access);
	return touched;
}

/*
 * Do all changes that the truck has yet to apply carry what it needs now?  By what is written
 * down of the truck, where columns that are all there are do for "all".
 */
bool
trucker_column_need_covers(const pg_uuid_t *truck_id, const TruckerColumnNeed *need)
{
	return execute("SELECT FROM trucker.column_need n WHERE (truck_id, relid) = ($1, $2) "
				   "AND NOT ($3 <@ columns OR 0 = ANY (columns) OR (n.made_of = md5($4) AND n.made_of = trucker.columns_made_of($2) "
				   "AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $2 AND a.attnum > 0 AND NOT a.attisdropped "
				   "AND a.attgenerated = '' AND a.attnum <> ALL (n.columns))))",
				   truck_id, need, SPI_OK_SELECT) == 0;
}

/* This is what it needs, now and later, but for what it wants. */
void
trucker_column_need_set(const pg_uuid_t *truck_id, const TruckerColumnNeed *need)
{
	(void) execute("INSERT INTO trucker.column_need AS n (truck_id, relid, columns, made_of) VALUES ($1, $2, $3, md5($4)) "
				   "ON CONFLICT (truck_id, relid) DO UPDATE SET columns = excluded.columns, made_of = excluded.made_of "
				   "WHERE (n.columns, n.made_of) <> (excluded.columns, excluded.made_of)",
				   truck_id, need, SPI_OK_INSERT);
}

/* This it will need when its new definition takes effect. */
void
trucker_column_need_want(const pg_uuid_t *truck_id, const TruckerColumnNeed *need)
{
	(void) execute("INSERT INTO trucker.column_need (truck_id, relid, columns, made_of, wanted, wanted_made_of) "
				   "VALUES ($1, $2, '{0}', md5($4), $3, md5($4)) ON CONFLICT (truck_id, relid) DO UPDATE "
				   "SET wanted = excluded.wanted, wanted_made_of = excluded.wanted_made_of",
				   truck_id, need, SPI_OK_INSERT);
}

/* Is what it will need known of the table as it is now? */
bool
trucker_column_need_wants_of(const pg_uuid_t *truck_id, const TruckerColumnNeed *need)
{
	return execute("SELECT FROM trucker.column_need WHERE (truck_id, relid) = ($1, $2) "
				   "AND wanted_made_of = md5($4) AND $3 IS NOT NULL", truck_id, need, SPI_OK_SELECT) > 0;
}

/* It wants nothing any more. */
void
trucker_column_need_unwant(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("UPDATE trucker.column_need SET wanted = NULL, wanted_made_of = NULL WHERE truck_id = $1 AND wanted IS NOT NULL",
						  truck_id, NULL, SPI_OK_UPDATE);
}

/* The new definition has taken effect: what the truck wanted it needs now, and has. */
void
trucker_column_need_take_wanted(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("UPDATE trucker.column_need SET columns = coalesce(wanted, columns), made_of = coalesce(wanted_made_of, made_of), "
						  "wanted = NULL, wanted_made_of = NULL WHERE truck_id = $1", truck_id, NULL, SPI_OK_UPDATE);
}

/* The truck reads nothing by pgoutput, or begins anew; or has been dropped. */
void
trucker_column_need_forget(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("DELETE FROM trucker.column_need WHERE truck_id = $1", truck_id, NULL, SPI_OK_DELETE);
}

/* It does not read all tables any more that it has read. */
void
trucker_column_need_forget_others(const pg_uuid_t *truck_id)
{
	trucker_catalog_write("DELETE FROM trucker.column_need n USING trucker.truck t "
						  "WHERE t.id = $1 AND n.truck_id = t.id AND n.relid <> ALL (t.input_tables::oid[])",
						  truck_id, NULL, SPI_OK_DELETE);
}

/* ----
 * What publications hold
 * ----
 */

/*
 * What trucks need of the inputs of publication $1: "need" (relid, attnum), of which 0 stands
 * for all.  Not of trucks that are on no stream, or lost: these begin with a new slot.
 */
#define NEED \
	"reader AS MATERIALIZED (SELECT p.relid, t.id FROM trucker.published_table p JOIN trucker.truck t ON p.relid = ANY (t.input_tables::oid[]) " \
	"JOIN trucker.truck_state s ON s.truck_id = t.id AND s.stream_id IS NOT NULL AND NOT s.lost WHERE p.publication = $1 AND " \
	"((t.owner, t.run_as, coalesce(t.options->>'stream', '" TRUCKER_DEFAULT_STREAM "')) IN " \
	"(SELECT x.owner, x.run_as, x.name FROM trucker.stream x WHERE x.publication = p.publication) " \
	"OR s.stream_id IN (SELECT x.id FROM trucker.stream x WHERE x.publication = p.publication))), " \
	"made_of AS MATERIALIZED (SELECT relid, trucker.columns_made_of(relid) AS now FROM (SELECT DISTINCT relid FROM reader) d), " \
	"need AS MATERIALIZED (SELECT DISTINCT r.relid, c.attnum FROM reader r JOIN made_of m ON m.relid = r.relid " \
	"LEFT JOIN trucker.column_need n ON (n.truck_id, n.relid) = (r.id, r.relid) " \
	"CROSS JOIN LATERAL unnest(CASE WHEN n.made_of = m.now AND coalesce(n.wanted_made_of, m.now) = m.now " \
	"THEN n.columns || n.wanted ELSE '{0}'::int2[] END) AS c(attnum)) "

/*
 * The tables in publication $1 whose list is not what it should be: table, the columns that it
 * should hold (null: all), whether it lacks some of them.  A table that is also
 * published for inserts (publication_guard.c) has no list, as the server wants both to be alike.
 */
static const char unfit_sql[] =
	"WITH " NEED
	", part AS MATERIALIZED (SELECT d.relid, i.leaf FROM (SELECT DISTINCT relid FROM need) d "
	"CROSS JOIN LATERAL trucker.input_parts(d.relid) i WHERE i.kind = 'r'), "
	"column_of AS (SELECT i.leaf, coalesce(l.attnum, 0::int2) AS attnum FROM need n JOIN part i USING (relid) "
	"LEFT JOIN pg_attribute a ON (a.attrelid, a.attnum) = (n.relid, n.attnum) AND n.attnum > 0 "
	"LEFT JOIN pg_attribute l ON (l.attrelid, l.attname) = (i.leaf, a.attname) AND NOT l.attisdropped AND l.attgenerated = ''), "
	"leaf AS (SELECT leaf, array_agg(DISTINCT attnum ORDER BY attnum) AS columns FROM "
	"(TABLE column_of UNION ALL SELECT c.oid, CASE WHEN c.relreplident = 'f' OR a.attgenerated <> '' THEN 0::int2 ELSE k.attnum END "
	"FROM (SELECT DISTINCT leaf FROM column_of) d JOIN pg_class c ON c.oid = d.leaf "
	"LEFT JOIN pg_index x ON x.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END "
	"CROSS JOIN LATERAL unnest(coalesce(x.indkey::int2[], '{0}')) AS k(attnum) "
	"LEFT JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.oid, k.attnum)) u GROUP BY leaf), "
	"wanted AS (SELECT r.prrelid, r.prattrs::int2[] AS has, CASE WHEN 0 = ANY (f.columns) "
	"OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum > 0 AND NOT a.attisdropped "
	"AND a.attgenerated = '' AND a.attnum <> ALL (f.columns)) "
	"OR EXISTS (SELECT FROM pg_publication_rel i JOIN pg_publication ib ON ib.oid = i.prpubid "
	"WHERE i.prrelid = r.prrelid AND ib.pubname::text = $1 || '" TRUCKER_INSERTS_SUFFIX "') THEN NULL ELSE f.columns END AS columns "
	"FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid AND b.pubname::text = $1 JOIN leaf f ON f.leaf = r.prrelid) "
	"SELECT prrelid, columns, has IS NOT NULL AND coalesce(NOT columns <@ has, true) FROM wanted "
	"WHERE CASE WHEN has IS NULL OR columns IS NULL THEN has IS NOT NULL OR columns IS NOT NULL ELSE NOT (columns <@ has AND columns @> has) END";

/*
 * Of which columns of each input of publication $1 usable_lsn tells, when lists have been
 * made to fit: those of the tables $2 have become longer, those of $3 are too short still.
 * Of all, also those that nobody needs, as long as no table of the input has a list.
 */
static const char note_sql[] =
	"WITH " NEED
	", now AS (SELECT n.relid, CASE WHEN z.is_short THEN '{}' WHEN p.columns IS NULL OR f.is_new THEN CASE WHEN z.has_list THEN n.columns END "
	"ELSE n.columns END AS columns, f.is_new "
	"FROM (SELECT relid, CASE WHEN NOT bool_or(attnum = 0) THEN array_agg(attnum ORDER BY attnum) END AS columns FROM need GROUP BY relid) n "
	"JOIN trucker.published_table p ON (p.publication, p.relid) = ($1, n.relid) CROSS JOIN LATERAL "
	"(SELECT coalesce(bool_or(i.leaf = ANY ($2)), false) AS is_longer, coalesce(bool_or(i.leaf = ANY ($3)), false) AS is_short, "
	"coalesce(bool_or(EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid AND b.pubname::text = $1 "
	"WHERE r.prrelid = i.leaf AND r.prattrs IS NOT NULL)), false) AS has_list FROM trucker.input_parts(n.relid) i) z CROSS JOIN LATERAL "
	"(SELECT NOT coalesce(n.columns, '{0}') <@ coalesce(p.columns, n.columns, '{0}') OR z.is_longer OR z.is_short AS is_new) f) "
	"UPDATE trucker.published_table p SET columns = now.columns, "
	"added_before = CASE WHEN NOT now.is_new THEN p.added_before END, usable_lsn = CASE WHEN NOT now.is_new THEN p.usable_lsn END "
	"FROM now WHERE (p.publication, p.relid) = ($1, now.relid) AND (now.is_new OR p.columns IS DISTINCT FROM now.columns)";

/* A table whose list must become another one. */
typedef struct Unfit
{
	Oid			relid;
	Bitmapset  *attnums;		/* NULL: all */
	bool		is_short;
} Unfit;

static void
form_unfit(Unfit *unfit, HeapTuple tuple)
{
	bool		isnull;
	Datum		array;
	Datum	   *elements;
	int			n;

	unfit->relid = DatumGetObjectId(trucker_column(tuple, 1, &isnull));
	unfit->is_short = trucker_bool_column(tuple, 3);
	unfit->attnums = NULL;
	array = trucker_column(tuple, 2, &isnull);
	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(array), INT2OID, sizeof(int16), true, TYPALIGN_SHORT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		unfit->attnums = bms_add_member(unfit->attnums, DatumGetInt16(elements[i]));
}

/* In an open access to the catalog. */
static Unfit *
find_unfit(const char *publication, int *n)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(publication);
	Unfit	   *unfit;

	/* as in input_ddl.c: compiling would take longer than the query */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	*n = (int) trucker_catalog_execute(unfit_sql, 1, &type, &value, NULL, SPI_OK_SELECT);
	unfit = palloc(Max(*n, 1) * sizeof(Unfit));
	for (int i = 0; i < *n; i++)
		form_unfit(&unfit[i], SPI_tuptable->vals[i]);
	return unfit;
}

static Datum
oids_datum(const List *oids)
{
	Datum	   *elements = palloc(Max(list_length(oids), 1) * sizeof(Datum));
	ListCell   *lc;

	foreach(lc, oids)
		elements[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elements, list_length(oids), OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

static void
note(const char *publication, const List *longer, const List *too_short)
{
	Oid			types[] = {TEXTOID, OIDARRAYOID, OIDARRAYOID};
	Datum		values[] = {CStringGetTextDatum(publication), oids_datum(longer), oids_datum(too_short)};

	(void) trucker_catalog_execute(note_sql, lengthof(types), types, values, NULL, SPI_OK_UPDATE);
}

/*
 * Let the publication hold what its trucks need, and no more.  What is found is looked at
 * once more when the tables are locked: nobody alters them then.
 */
void
trucker_column_list_adapt(const char *publication)
{
	TruckerCatalog access;
	Oid			oid = get_publication_oid(publication, true);
	List	   *locked = NIL;
	List	   *longer = NIL;
	List	   *too_short = NIL;
	Unfit	   *unfit;
	int			n;

	if (!OidIsValid(oid))
		return;
	trucker_catalog_begin(&access);
	unfit = find_unfit(publication, &n);
	for (int i = 0; i < n; i++)
		if (ConditionalLockRelationOid(unfit[i].relid, ShareUpdateExclusiveLock))
			locked = lappend_oid(locked, unfit[i].relid);
	if (n > 0)
		unfit = find_unfit(publication, &n);
	for (int i = 0; i < n; i++)
	{
		if (!list_member_oid(locked, unfit[i].relid))
		{
			if (unfit[i].is_short)
				too_short = lappend_oid(too_short, unfit[i].relid);
			continue;
		}
		trucker_column_list_set(oid, unfit[i].relid, unfit[i].attnums);
		if (unfit[i].is_short)
			longer = lappend_oid(longer, unfit[i].relid);
	}
	note(publication, longer, too_short);
	trucker_catalog_end(&access);
}

/*
 * Before a slot is made, or another one is read, for the truck: let the publication hold
 * what it needs of a table, or all if that is not known.  Raises an error if a table is
 * locked for long.
 */
void
trucker_column_list_open(const char *publication, const TruckerTruck *truck, Oid relid)
{
	Oid			types[] = {TEXTOID, OIDOID, UUIDOID, BOOLOID};
	Datum		values[] = {CStringGetTextDatum(publication), ObjectIdGetDatum(relid), UUIDPGetDatum(&truck->id),
	BoolGetDatum(truck->needs_backfill)};
	int			n;
	Oid		   *leaves;
	TruckerCatalog access;

	trucker_catalog_begin(&access);
	n = (int) trucker_catalog_execute("SELECT i.leaf FROM trucker.input_parts($2) i JOIN pg_publication_rel r ON r.prrelid = i.leaf AND r.prattrs IS NOT NULL "
									  "JOIN pg_publication b ON b.oid = r.prpubid AND b.pubname::text = $1 "
									  "LEFT JOIN trucker.column_need n ON (n.truck_id, n.relid) = ($3, $2) AND NOT $4 "
									  "AND n.made_of = trucker.columns_made_of($2) AND coalesce(n.wanted_made_of, n.made_of) = n.made_of "
									  "WHERE EXISTS (SELECT FROM unnest(coalesce(n.columns || n.wanted, '{0}')) AS c(attnum) "
									  "LEFT JOIN pg_attribute a ON (a.attrelid, a.attnum) = ($2, c.attnum) AND c.attnum > 0 "
									  "LEFT JOIN pg_attribute l ON (l.attrelid, l.attname) = (i.leaf, a.attname) "
									  "WHERE coalesce(l.attnum, 0) <> ALL (r.prattrs::int2[]))",
									  lengthof(types), types, values, NULL, SPI_OK_SELECT);
	leaves = palloc(Max(n, 1) * sizeof(Oid));
	for (int i = 0; i < n; i++)
		leaves[i] = DatumGetObjectId(trucker_column(SPI_tuptable->vals[i], 1, &(bool) {0}));
	for (int i = 0; i < n; i++)
	{
		LockRelationOid(leaves[i], ShareUpdateExclusiveLock);
		trucker_column_list_set(get_publication_oid(publication, false), leaves[i], NULL);
	}
	if (n > 0)
		(void) trucker_catalog_execute("UPDATE trucker.published_table SET columns = NULL, added_before = NULL, usable_lsn = NULL "
									   "WHERE (publication, relid) = ($1, $2)", 2, types, values, NULL, SPI_OK_UPDATE);
	trucker_catalog_end(&access);
}

/* ----
 * Looking
 * ----
 */

/* From where on do all changes carry what the truck wants?  0: that is not known yet. */
XLogRecPtr
trucker_column_list_usable(const char *publication, const TruckerTruck *truck)
{
	Oid			types[] = {TEXTOID, UUIDOID};
	Datum		values[] = {CStringGetTextDatum(publication), UUIDPGetDatum(&truck->id)};
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	TruckerCatalog access;
	bool		isnull;
	Datum		value;

	trucker_catalog_begin(&access);
	(void) trucker_catalog_execute("SELECT CASE WHEN bool_and(p.usable_lsn IS NOT NULL AND (p.columns IS NULL OR n.wanted <@ p.columns)) "
								   "THEN max(p.usable_lsn) END FROM trucker.column_need n "
								   "LEFT JOIN trucker.published_table p ON (p.publication, p.relid) = ($1, n.relid) "
								   "WHERE n.truck_id = $2 AND n.wanted IS NOT NULL",
								   lengthof(types), types, values, NULL, SPI_OK_SELECT);
	value = trucker_column(SPI_tuptable->vals[0], 1, &isnull);
	if (!isnull)
		lsn = DatumGetLSN(value);
	trucker_catalog_end(&access);
	return lsn;
}

/* Does all that commits at or after lsn carry what a truck needs, also if it has not needed that so far? */
bool
trucker_column_list_carries(const char *publication, const TruckerColumnNeed *need, XLogRecPtr lsn)
{
	Oid			types[] = {TEXTOID, OIDOID, INT2ARRAYOID, PG_LSNOID};
	Datum		values[] = {CStringGetTextDatum(publication), ObjectIdGetDatum(need->relid), attnums_datum(need->attnums),
	LSNGetDatum(lsn)};
	TruckerCatalog access;
	bool		carries;

	trucker_catalog_begin(&access);
	carries = trucker_catalog_execute("SELECT FROM trucker.published_table WHERE (publication, relid) = ($1, $2) "
									  "AND usable_lsn <= $4 AND (columns IS NULL OR $3 <@ columns)",
									  lengthof(types), types, values, NULL, SPI_OK_SELECT) > 0;
	trucker_catalog_end(&access);
	return carries;
}

/*
 * Have tables been altered since it was found out what the trucks of this stream need of
 * them, or lists not been made that could be?
 */
bool
trucker_column_list_is_due(const char *publication, const pg_uuid_t *stream_id)
{
	Oid			type = UUIDOID;
	Datum		value = UUIDPGetDatum(stream_id);
	TruckerCatalog access;
	int			n;

	trucker_catalog_begin(&access);
	(void) find_unfit(publication, &n);
	if (n == 0)
		n = (int) trucker_catalog_execute("SELECT FROM trucker.column_need n JOIN trucker.truck_state s USING (truck_id) "
										  "WHERE s.stream_id = $1 AND s.enabled AND NOT s.lost "
										  "AND n.made_of IS DISTINCT FROM trucker.columns_made_of(n.relid) LIMIT 1",
										  1, &type, &value, NULL, SPI_OK_SELECT);
	trucker_catalog_end(&access);
	return n > 0;
}
