/*
 * filter.c
 *	  Which columns of an input table a truck's r has: only_columns, except_columns.
 *
 * Without these options r has every column of the table.  What is left out is not in r:
 * SELECT * FROM r does not show it, and SQL that names it is an error, when the truck is
 * started or altered and whenever its SQL is compiled.
 *
 * The columns that tell the table's rows apart are never left out: only_columns need not
 * name them, and except_columns must not.  (With REPLICA IDENTITY FULL these are the
 * primary key's; without one, none.)  Should another column become one of them later,
 * what except_columns leaves out stays left out: trucker reads it to tell rows apart, and
 * shows it to nobody.
 *
 * A filter is about columns, not about names: when a column is renamed, nothing may come
 * to light that was to be hidden, and no truck stop for a column that it does not read.
 * So in this database it is attnums that count (trucker.filter_attnum).  They mean nothing
 * to another one, into which a dump is loaded; so the names are kept as well, and follow
 * each ALTER TABLE in its own transaction (filter_store.c).
 */
#include "trucker.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "filter.h"

static const char *
option_name(bool keeps)
{
	return keeps ? "only_columns" : "except_columns";
}

/* ----
 * The options
 * ----
 */

static Jsonb *
take(Jsonb **options, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&(*options)->root, key, strlen(key), NULL);

	if (value == NULL)
		return NULL;
	*options = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(*options),
												  CStringGetTextDatum(key)));
	return JsonbValueToJsonb(value);
}

/*
 * What options say about filters, and the options without that: filters have tables of
 * their own.
 */
Jsonb *
trucker_filter_take_options(Jsonb *options, TruckerFilterOptions *taken)
{
	taken->only = taken->except = NULL;
	/* what is no object is refused with the other options */
	if (!JB_ROOT_IS_OBJECT(options))
		return options;
	taken->only = take(&options, option_name(true));
	taken->except = take(&options, option_name(false));
	return options;
}

static void
raise_malformed(bool keeps)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" of a truck must be an array of column names, or an object of such arrays", option_name(keeps)),
			 errhint("With one input table: [\"a\", \"b\"].  With any number: {\"schema.table\": [\"a\", \"b\"], ...}.")));
}

/* The strings of an array, at which it stands. */
static List *
read_names(JsonbIterator **it, bool keeps)
{
	JsonbValue	value;
	List	   *names = NIL;

	for (;;)
	{
		JsonbIteratorToken token = JsonbIteratorNext(it, &value, true);

		if (token == WJB_END_ARRAY)
			break;
		if (token != WJB_ELEM || value.type != jbvString)
			raise_malformed(keeps);
		names = lappend(names, pnstrdup(value.val.string.val, value.val.string.len));
	}
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" of a truck names no column", option_name(keeps)),
				 errhint("Leave it out; in alter_truck(), null removes it.")));
	return names;
}

static Oid
find_input(const TruckerTruck *truck, const char *name, bool keeps)
{
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(stringToQualifiedNameList(name)), NoLock, true);

	for (int i = 0; i < truck->ninputs; i++)
		if (truck->inputs[i] == relid)
			return relid;
	ereport(ERROR,
			(errcode(OidIsValid(relid) ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_UNDEFINED_TABLE),
			 errmsg("option \"%s\" names table \"%s\", which is no input table of truck \"%s\"",
					option_name(keeps), name, truck->name),
			 errhint("Name tables as you would in SQL, with their schema and quoted where needed.")));
	return InvalidOid;			/* keep compiler quiet */
}

static bool
has_name(const List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* The column of this name, which must be there. */
static AttrNumber
find_column(Relation rel, const char *name, bool keeps)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table %s does not exist", name, trucker_qualified_name(rel)),
				 errdetail("The option \"%s\" of the truck names it.", option_name(keeps)),
				 errhint("Name columns of the table as they are written in its definition, without quotes.")));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("column \"%s\" of table %s is a system column", name, trucker_qualified_name(rel)),
				 errdetail("The option \"%s\" of the truck names it, and \"r\" never has it.", option_name(keeps))));
	return attnum;
}

/* Is it one of those that tell the table's rows apart? */
static bool
is_key(const TruckerRelation *relation, AttrNumber attnum)
{
	for (int i = 0; relation->has_key && i < relation->nkeys; i++)
		if (relation->keys[i] == attnum)
			return true;
	return false;
}

static void
check_is_no_key(const TruckerRelation *relation, AttrNumber attnum)
{
	if (is_key(relation, attnum))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" cannot leave out column \"%s\" of table %s", option_name(false),
						NameStr(TupleDescAttr(relation->desc, attnum - 1)->attname), relation->name),
				 errdetail("The column is part of the table's replica identity or primary key, by which rows are told apart."),
				 errhint("Let the truck's SQL not read it.")));
}

/* Find the filter's columns in its table, which stays locked as it is until the caller commits. */
static void
resolve(TruckerFilter *filter)
{
	Relation	rel = relation_open(filter->relid, AccessShareLock);
	TruckerRelation *relation = trucker_relation_build(rel);
	ListCell   *lc;

	filter->attnums = NULL;
	foreach(lc, filter->names)
	{
		AttrNumber	attnum = find_column(rel, lfirst(lc), filter->keeps);

		if (!filter->keeps)
			check_is_no_key(relation, attnum);
		filter->attnums = bms_add_member(filter->attnums, attnum);
	}
	relation_close(rel, NoLock);
}

static void
add_filter(TruckerTruck *truck, Oid relid, bool keeps, List *names)
{
	TruckerFilter *filter;
	ListCell   *lc;

	foreach(lc, truck->filters)
	{
		TruckerFilter *other = lfirst(lc);

		if (other->relid == relid && other->keeps == keeps)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" names a table twice", option_name(keeps))));
		if (other->relid == relid)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the options \"only_columns\" and \"except_columns\" of a truck exclude each other"),
					 errdetail("Both are about table %s.", quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid))),
					 errhint("Leave out one of them; in alter_truck(), null removes one that the truck has.")));
	}
	for (int i = 1; i < list_length(names); i++)
		if (has_name(list_truncate(list_copy(names), i), list_nth(names, i)))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("option \"%s\" names column \"%s\" twice", option_name(keeps), (char *) list_nth(names, i))));
	filter = palloc0(sizeof(TruckerFilter));
	filter->relid = relid;
	filter->keeps = keeps;
	filter->names = names;
	truck->filters = lappend(truck->filters, filter);
}

static void
add_from_option(TruckerTruck *truck, Jsonb *option, bool keeps)
{
	JsonbIterator *it = JsonbIteratorInit(&option->root);
	JsonbValue	value;
	JsonbIteratorToken token = JsonbIteratorNext(&it, &value, false);

	if (token == WJB_BEGIN_ARRAY && !value.val.array.rawScalar)
	{
		List	   *names = read_names(&it, keeps);

		if (truck->ninputs > 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" of truck \"%s\" does not say which table it is about", option_name(keeps), truck->name),
					 errdetail("The truck has %d input tables.", truck->ninputs),
					 errhint("Give an object: {\"schema.table\": [\"a\", \"b\"], ...}.")));
		add_filter(truck, truck->inputs[0], keeps, names);
		return;
	}
	if (token != WJB_BEGIN_OBJECT)
		raise_malformed(keeps);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_END_OBJECT)
	{
		Oid			relid = find_input(truck, pnstrdup(value.val.string.val, value.val.string.len), keeps);

		token = JsonbIteratorNext(&it, &value, false);
		if (token != WJB_BEGIN_ARRAY)
			raise_malformed(keeps);
		add_filter(truck, relid, keeps, read_names(&it, keeps));
	}
}

static bool
is_null(Jsonb *option)
{
	JsonbValue	value;

	return JsonbExtractScalar(&option->root, &value) && value.type == jbvNull;
}

/*
 * Give the truck the filters that the options say, in place of those of the same option,
 * and take away those of tables that it does not read.  Its tables and its role are known.
 */
void
trucker_filter_set(TruckerTruck *truck, const TruckerFilterOptions *taken)
{
	List	   *old = truck->filters_restored ? trucker_filter_restored(truck) : truck->filters;
	ListCell   *lc;

	truck->filters = NIL;
	foreach(lc, old)
	{
		TruckerFilter *filter = lfirst(lc);
		bool		is_read = false;

		for (int i = 0; i < truck->ninputs; i++)
			is_read |= truck->inputs[i] == filter->relid;
		if (is_read && (filter->keeps ? taken->only : taken->except) == NULL)
			truck->filters = lappend(truck->filters, filter);
	}
	if (taken->only && !is_null(taken->only))
		add_from_option(truck, taken->only, true);
	if (taken->except && !is_null(taken->except))
		add_from_option(truck, taken->except, false);
	foreach(lc, truck->filters)
	{
		TruckerFilter *filter = lfirst(lc);

		if (filter->names == NIL)
		{
			/* one that it had: its names will be written anew, and must not change meanwhile */
			LockRelationOid(filter->relid, AccessShareLock);
			continue;
		}
		/* the lock that is taken now is for those who may read the table */
		if (pg_class_aclcheck(filter->relid, truck->role, ACL_SELECT) != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("role \"%s\" may not read input table %s", GetUserNameFromId(truck->role, false),
							quote_qualified_identifier(get_namespace_name(get_rel_namespace(filter->relid)), get_rel_name(filter->relid)))));
		resolve(filter);
	}
	truck->filters_restored = false;
}

/* ----
 * What r lacks
 * ----
 */

static const TruckerFilter *
filter_of(const TruckerTruck *truck, Oid relid)
{
	List	   *filters = truck->filters;
	ListCell   *lc;

	if (truck->filters_restored)
		filters = trucker_filter_restored(truck);
	foreach(lc, filters)
	{
		TruckerFilter *filter = lfirst(lc);

		if (filter->relid != relid)
			continue;
		if (truck->filters_restored)
			resolve(filter);
		return filter;
	}
	return NULL;
}

/* The columns (attnum) of the table that r does not have; NULL: it has all. */
Bitmapset *
trucker_filter_excluded(const TruckerTruck *truck, const TruckerRelation *relation)
{
	const TruckerFilter *filter = filter_of(truck, relation->relid);
	Bitmapset  *excluded = NULL;

	if (filter == NULL || !filter->keeps)
		return filter ? bms_copy(filter->attnums) : NULL;
	for (int attnum = 1; attnum <= relation->desc->natts; attnum++)
		if (!bms_is_member(attnum, filter->attnums) && !is_key(relation, attnum))
			excluded = bms_add_member(excluded, attnum);
	return excluded;
}

/* A sentence about the columns of the table that the truck's option leaves in, or out; NULL: it has none. */
char *
trucker_filter_describe(const TruckerTruck *truck, const TruckerRelation *relation)
{
	const TruckerFilter *filter = filter_of(truck, relation->relid);
	StringInfoData text;
	int			attnum = -1;

	if (filter == NULL)
		return NULL;
	initStringInfo(&text);
	while ((attnum = bms_next_member(filter->attnums, attnum)) >= 0)
	{
		Form_pg_attribute attr = attnum <= relation->desc->natts ? TupleDescAttr(relation->desc, attnum - 1) : NULL;

		if (attr && !attr->attisdropped)
			appendStringInfo(&text, "%s\"%s\"", text.len ? ", " : "", NameStr(attr->attname));
	}
	return psprintf(filter->keeps ?
					"Of table %s the truck's option \"only_columns\" leaves in \"r\" only the key and: %s." :
					"Of table %s the truck's option \"except_columns\" leaves out of \"r\": %s.",
					relation->name, text.len ? text.data : "none");
}
