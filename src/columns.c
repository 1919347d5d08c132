/*
 * columns.c
 *	  What columns an input table had when a change was made.
 *
 * A change names its columns as they were called when it was recorded.  Whoever alters
 * columns holds an exclusive lock on the table until the commit, so the LSN of the
 * change's own record tells which columns those were: input_ddl.c writes down what the
 * table's columns are from which LSN on.  A partition's have the same names as the
 * table's, also in the WAL: what is known of the table will do for all of them.
 *
 * Where that is not known, or is not true of the table as it is now (something has been
 * done to it with the library not loaded), row_message.c must do with what the change
 * tells.
 *
 * Types are altered without a lock on the tables that have columns of them.  So this
 * holds for others' transactions from the commit of the one that has altered a type on;
 * and a batch that has read values of such types looks at its end whether they are still
 * what they were when it began (trucker_columns_confirm).
 *
 * What is known is read when the first change comes after the table was altered; the
 * batch's lock on the table keeps it from changing before the batch ends.
 */
#include "trucker.h"

#include "access/transam.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "columns.h"
#include "state.h"

struct TruckerColumns
{
	Oid			relid;
	MemoryContext context;		/* of what follows, reset when it is read anew */
	uint64		alterations;	/* read as of that many; 0: to be read */
	bool		forgotten;		/* what was found was not true; if the batch has been rolled back it is still there */
	int			nspans;			/* 0: nothing is known */
	TruckerColumnSpan *spans;	/* the oldest first */
	bool		used;			/* by this batch */
	char	   *version;		/* of what is known, if types are among it that can be altered; else NULL */
	TruckerColumnSpan now;		/* what the table's columns are, by the catalog */
};

typedef struct Watched
{
	Oid			relid;
	uint64		alterations;	/* of this table */
} Watched;

/* the input tables of this process, and how often all tables at once were told to be altered */
static HTAB *watched = NULL;
static uint64 alterations_of_all = 1;

static void
relcache_changed(Datum arg, Oid relid)
{
	Watched    *entry;

	if (!OidIsValid(relid))
		alterations_of_all++;
	else if ((entry = hash_search(watched, &relid, HASH_FIND, NULL)) != NULL)
		entry->alterations++;
}

/* How often has the table been altered, as far as this process has heard? */
static uint64
alterations_of(Oid relid)
{
	Watched    *entry;
	bool		found;

	if (watched == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(Watched), .hcxt = TopMemoryContext};

		watched = hash_create("trucker altered tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		CacheRegisterRelcacheCallback(relcache_changed, (Datum) 0);
	}
	entry = hash_search(watched, &relid, HASH_ENTER, &found);
	if (!found)
		entry->alterations = 0;
	return alterations_of_all + entry->alterations;
}

/* Of an input table, in the current memory context. */
TruckerColumns *
trucker_columns_create(Oid relid)
{
	TruckerColumns *columns = palloc0(sizeof(TruckerColumns));

	columns->relid = relid;
	columns->context = AllocSetContextCreate(CurrentMemoryContext, "trucker columns", ALLOCSET_SMALL_SIZES);
	return columns;
}

/* A batch has opened the table.  What it is told of its columns is good until it ends. */
void
trucker_columns_begin(TruckerColumns *columns)
{
	if (columns->forgotten || columns->alterations != alterations_of(columns->relid))
		columns->alterations = 0;
	columns->used = false;
}

/* "attnum type is_bytea[.marks] name" */
static void
parse_column(TruckerColumnThen *column, char *text)
{
	char	   *p = text;

	column->attnum = (AttrNumber) strtol(p, &p, 10);
	column->type = (Oid) strtoul(p, &p, 10);
	column->is_bytea = strtol(p, &p, 10) != 0;
	column->marks = "";
	if (*p == '.')
	{
		int			len = strcspn(++p, " ");

		column->marks = pnstrdup(p, len);
		p += len;
	}
	column->name = *p == ' ' ? p + 1 : p;
}

static void
fill_span(TruckerColumnSpan *span, const TruckerInputColumns *known, TruckerColumnSpan *next)
{
	span->lsn = known->named_lsn;
	span->named_by = known->named_by;
	span->commit_lsn = known->commit_lsn;
	span->next = next;
	span->defaulted = known->defaulted;
	span->ncolumns = known->ncolumns;
	span->columns = palloc0(Max(known->ncolumns, 1) * sizeof(TruckerColumnThen));
	for (int i = 0; i < known->ncolumns; i++)
	{
		parse_column(&span->columns[i], known->columns[i]);
		span->attnums = bms_add_member(span->attnums, Max(span->columns[i].attnum, 0));
	}
}

/* Are these the columns that the table has now? */
static bool
is_now(const TruckerColumnSpan *span, TupleDesc desc)
{
	int			n = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attisdropped)
			continue;
		if (n == span->ncolumns || span->columns[n].attnum != attr->attnum ||
			span->columns[n].type != attr->atttypid || strcmp(span->columns[n].name, NameStr(attr->attname)) != 0)
			return false;
		n++;
	}
	return n == span->ncolumns;
}

static const TruckerColumnThen *
column_of(const TruckerColumnSpan *span, AttrNumber attnum)
{
	for (int i = 0; i < span->ncolumns; i++)
		if (span->columns[i].attnum == attnum)
			return &span->columns[i];
	return NULL;
}

/* Are all these marks, separated by commas, among those? */
static bool
has_marks(const char *those, const char *these)
{
	while (*these != '\0')
	{
		int			len = strcspn(these, ",");
		const char *p = those;

		while (*p != '\0' && !(strcspn(p, ",") == len && memcmp(p, these, len) == 0))
		{
			p += strcspn(p, ",");
			p += *p == ',';
		}
		if (*p == '\0')
			return false;
		these += len;
		these += *these == ',';
	}
	return true;
}

/*
 * bytea as text is not the text that USING has made of it, nor the reverse.  And a value of
 * a type that was altered while the column had it is not what the table shows.
 */
static void
mark_refused(TruckerColumnSpan *span, const TruckerColumnSpan *now)
{
	for (int i = 0; i < span->ncolumns; i++)
	{
		TruckerColumnThen *column = &span->columns[i];
		const TruckerColumnThen *current = column_of(now, column->attnum);

		if (current == NULL)
			continue;
		column->refused = current->is_bytea != column->is_bytea;
		for (const TruckerColumnSpan *later = span->next ? span->next : now; later != NULL;
			 later = later->next ? later->next : later == now ? NULL : now)
		{
			const TruckerColumnThen *other = column_of(later, column->attnum);

			if (other && other->type == column->type)
				column->altered = !has_marks(other->marks, column->marks);
		}
	}
}

static void
read_columns(TruckerColumns *columns, const pg_uuid_t *truck_id, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(columns->context);
	TruckerColumnSpan *next = NULL;
	List	   *known;
	char	   *version;
	int			n;

	MemoryContextReset(columns->context);
	columns->nspans = 0;
	columns->forgotten = false;
	columns->alterations = alterations_of(columns->relid);
	/* before what it is the version of: what comes in between is found at the batch's end */
	version = trucker_state_columns_version(truck_id, columns->relid);
	known = trucker_state_columns(truck_id, columns->relid);
	n = Max(list_length(known) - 1, 0);
	columns->spans = palloc0(Max(n, 1) * sizeof(TruckerColumnSpan));
	for (int i = n - 1; i >= 0; i--)
	{
		fill_span(&columns->spans[i], list_nth(known, i), next);
		next = &columns->spans[i];
	}
	memset(&columns->now, 0, sizeof(columns->now));
	columns->version = NULL;
	if (n > 0)
		fill_span(&columns->now, llast(known), NULL);
	for (int i = 0; i < columns->now.ncolumns; i++)
		if (columns->now.columns[i].marks[0] != '\0')
			columns->version = version;
	MemoryContextSwitchTo(old);
	if (n == 0)
		return;
	if (!is_now(&columns->spans[n - 1], desc))
	{
		/* the next ALTER TABLE will write down what it finds as of then, and not before */
		trucker_state_forget_columns(truck_id, columns->relid);
		columns->forgotten = true;
		return;
	}
	for (int i = 0; i < n; i++)
		mark_refused(&columns->spans[i], &columns->now);
	columns->nspans = n;
}

/* Were these the columns when this change was recorded, or had they been? */
static bool
has_begun(const TruckerColumnSpan *span, XLogRecPtr lsn, TransactionId xid)
{
	if (span->named_by == 0 || (TransactionId) span->named_by == xid)
		return lsn >= span->lsn;
	return !XLogRecPtrIsInvalid(span->commit_lsn) && lsn >= span->commit_lsn;
}

/*
 * The table's columns when a change was recorded, by transaction xid; NULL: not known.  The
 * table is open in this batch, and has these columns now.
 */
const TruckerColumnSpan *
trucker_columns_at(TruckerColumns *columns, const pg_uuid_t *truck_id, TupleDesc desc, XLogRecPtr lsn, TransactionId xid)
{
	if (columns->alterations == 0)
		read_columns(columns, truck_id, desc);
	if (XLogRecPtrIsInvalid(lsn))
		return NULL;
	columns->used = true;
	for (int i = columns->nspans - 1; i >= 0; i--)
		if (has_begun(&columns->spans[i], lsn, xid))
			return columns->spans[i].ncolumns > 0 ? &columns->spans[i] : NULL;
	return NULL;
}

/* Read what is known now, in a batch that has opened the table; and forget what is not true. */
void
trucker_columns_check(TruckerColumns *columns, const pg_uuid_t *truck_id, TupleDesc desc)
{
	columns->alterations = 0;
	(void) trucker_columns_at(columns, truck_id, desc, InvalidXLogRecPtr, InvalidTransactionId);
}

/*
 * At the end of a batch: has a type been altered since its values were read?  Its input
 * function may have taken them for what they are not.
 */
void
trucker_columns_confirm(TruckerColumns *columns, const pg_uuid_t *truck_id)
{
	char	   *version;
	bool		is_same;

	if (!columns->used || columns->nspans == 0 || columns->version == NULL)
		return;
	version = trucker_state_columns_version(truck_id, columns->relid);
	is_same = strcmp(columns->version, version) == 0;
	pfree(version);
	if (is_same)
		return;
	columns->forgotten = true;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the type of a column of table %s has been altered while its values were read",
					get_rel_name(columns->relid)),
			 errhint("The truck reads them again by itself.")));
}

/* Are there any that the table does not have now?  They may be of no use any more. */
bool
trucker_columns_have_old(const TruckerColumns *columns)
{
	return columns->nspans > 1;
}

/* The column that had this name then; NULL: none.  Looked for from *hint on. */
const TruckerColumnThen *
trucker_columns_find(const TruckerColumnSpan *then, const char *name, int *hint)
{
	for (int i = 0; i < then->ncolumns; i++)
	{
		int			at = (*hint + i) % then->ncolumns;

		if (strcmp(then->columns[at].name, name) == 0)
		{
			*hint = at + 1;
			return &then->columns[at];
		}
	}
	return NULL;
}

/* A column that there was not yet: did it have a default when it was added? */
bool
trucker_columns_were_defaulted(const TruckerColumnSpan *then, AttrNumber attnum)
{
	for (const TruckerColumnSpan *span = then->next; span != NULL; span = span->next)
		if (bms_is_member(attnum, span->attnums))
			return bms_is_member(attnum, span->defaulted);
	return true;
}
