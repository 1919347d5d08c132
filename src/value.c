/*
 * value.c
 *	  The two forms in which a value can arrive: text, and its type's binary form.
 *
 * An output plugin that sends values in binary form fails on a type that holds another
 * one without a send function (an array of it, say), and so would stop the stream for
 * good, whether anybody reads the column or not.  Other types have no receive function, or
 * one that refuses what their own send function writes.  So before a stream is read the
 * types of its tables' columns are looked at, and where one of them is of that kind, all
 * values come as text.
 */
#include "trucker.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rangetypes.h"
#include "utils/syscache.h"

#include "value.h"

/*
 * Let output functions write what input functions take for the same value, whatever
 * the role's settings.  Undo with AtEOXact_GUC(false, result).
 */
int
trucker_value_set_formats(void)
{
	static const char *const settings[][2] = {
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "3"},
		{"bytea_output", "hex"},
		{"xmlbinary", "base64"},
		/* names of objects (regclass) are written with their schema */
		{"search_path", "pg_catalog"},
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/*
 * Does the type's receive function write into what it reads?  Those of types that hold
 * others do, for a while: they put a zero byte behind what they hand on, and if that
 * fails it stays there.
 */
bool
trucker_value_is_written_to(Oid type)
{
	char		typtype = get_typtype(type);

	return (typtype != TYPTYPE_BASE && typtype != TYPTYPE_ENUM) || OidIsValid(get_element_type(type));
}

/*
 * A value from its binary form, by a receive function; in the current memory context.
 * A zero byte follows the data.  copy: it is written to, and we need it as it is, should
 * this fail.
 */
Datum
trucker_value_receive(FmgrInfo *function, Oid param, int32 typmod, const char *data, int len, bool copy)
{
	StringInfoData buf;
	Datum		value;

	buf.data = copy ? memcpy(palloc(len + 1), data, len + 1) : unconstify(char *, data);
	buf.len = len;
	buf.maxlen = len + 1;
	buf.cursor = 0;
	value = ReceiveFunctionCall(function, &buf, param, typmod);
	if (buf.cursor != buf.len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("a value in binary form is longer than its type's function has read")));
	if (copy)
		pfree(buf.data);
	return value;
}

/*
 * An array of a domain becomes one of the type below, by the OID that stands in its binary
 * form, behind its number of dimensions and its flags; returns its new type.
 */
static Oid
without_domain(char *data, int len, Oid type)
{
	Oid			element = get_element_type(type);
	Oid			base = OidIsValid(element) ? getBaseType(element) : InvalidOid;
	Oid			array = base != element ? get_array_type(base) : InvalidOid;
	uint32		oid = pg_hton32(base);

	if (!OidIsValid(array) || len < 3 * (int) sizeof(oid))
		return type;
	memcpy(data + 2 * sizeof(oid), &oid, sizeof(oid));
	return array;
}

/*
 * The text of a value of that type.  A domain's value is read as one of the type below,
 * for which no CHECK is run; that of an array of a domain likewise.
 */
char *
trucker_value_text(const char *data, int len, Oid type)
{
	Oid			base;
	Oid			function;
	Oid			param;
	bool		is_varlena;
	FmgrInfo	receive;
	Datum		value;
	char	   *copy;
	char	   *text;
	int			nestlevel;

	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a value is of a type that has been dropped since"),
				 errdetail("When the change was made, the type of the column had OID %u.", type),
				 errhint("Call trucker.resync() to load the table anew.")));
	copy = memcpy(palloc(len + 1), data, len + 1);
	base = without_domain(copy, len, getBaseType(type));
	getTypeBinaryInputInfo(base, &function, &param);
	fmgr_info(function, &receive);
	value = trucker_value_receive(&receive, param, -1, copy, len, false);
	getTypeOutputInfo(base, &function, &is_varlena);
	nestlevel = trucker_value_set_formats();
	text = OidOutputFunctionCall(function, value);
	AtEOXact_GUC(false, nestlevel);
	return text;
}

/* ----
 * Which types have a binary form
 * ----
 */

static bool type_is_binary(Oid type);

static bool
has_send_function(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	bool		result = HeapTupleIsValid(tuple) && OidIsValid(((Form_pg_type) GETSTRUCT(tuple))->typsend);

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/*
 * All columns of a table, or of a composite type.  One that is there no more has no say.
 * or_text: what has no send function itself is sent as text.
 */
static bool
columns_are_binary(Oid relid, bool or_text)
{
	HeapTuple	class = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	int			natts;

	if (!HeapTupleIsValid(class))
		return true;
	natts = ((Form_pg_class) GETSTRUCT(class))->relnatts;
	ReleaseSysCache(class);
	for (int attnum = 1; attnum <= natts; attnum++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attnum));
		Oid			type;

		if (!HeapTupleIsValid(tuple))
			continue;
		type = ((Form_pg_attribute) GETSTRUCT(tuple))->attisdropped ? InvalidOid : ((Form_pg_attribute) GETSTRUCT(tuple))->atttypid;
		ReleaseSysCache(tuple);
		if (OidIsValid(type) && !(or_text && !has_send_function(type)) && !type_is_binary(type))
			return false;
	}
	return true;
}

/* Is there a way there and back, for the type and what it is made of? */
static bool
type_is_binary(Oid type)
{
	HeapTuple	tuple;
	FormData_pg_type form;

	check_stack_depth();
	/*
	 * An empty one cannot be received: the first two take no array of no dimensions, and the
	 * third no query of no words (15.18; 15.20 does).
	 */
	if (type == INT2VECTOROID || type == OIDVECTOROID || type == TSQUERYOID)
		return false;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		return true;
	memcpy(&form, GETSTRUCT(tuple), sizeof(FormData_pg_type));
	ReleaseSysCache(tuple);

	if (!OidIsValid(form.typsend) || !OidIsValid(form.typreceive))
		return false;
	switch (form.typtype)
	{
		case TYPTYPE_DOMAIN:
			return type_is_binary(form.typbasetype);
		case TYPTYPE_COMPOSITE:
			return columns_are_binary(form.typrelid, false);
		case TYPTYPE_RANGE:
			return type_is_binary(get_range_subtype(type));
		case TYPTYPE_MULTIRANGE:
			return type_is_binary(get_multirange_range(type));
		default:
			return !OidIsValid(get_element_type(type)) || type_is_binary(form.typelem);
	}
}

/*
 * Can all values of a table's columns be sent and received in binary form?  No lock is
 * taken: a table that is being altered, and where it matters, makes the next pass read
 * anew (stream.c).
 */
bool
trucker_value_table_is_binary(Oid relid)
{
	return columns_are_binary(relid, true);
}
