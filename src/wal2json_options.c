/*
 * wal2json_options.c
 *	  The options that make the output plugin wal2json write the messages that
 *	  wal2json.c reads, for no tables but a truck's.
 *
 * What is hard about it is one option, add-tables: the plugin splits it with
 * rules of its own, and a table that the list misses is lost in silence.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "replication/origin.h"

#include "decoder.h"
#include "wal2json.h"

/*
 * Append a schema's or table's name as add-tables wants it.
 *
 * The plugin splits its list at commas and at whatever isspace() takes for
 * white space, then each entry at its first dot; a part that is a bare "*"
 * matches everything.  A backslash takes the next byte literally, whatever it
 * is, so one before every ASCII character but letters, digits and underscores
 * makes any name exact: "\*" is the name "*", "\\" is a backslash.
 *
 * Bytes above 127 stay as they are, unless isspace() holds for one under this
 * database's LC_CTYPE, which the walsender shares.  Before a character's first
 * byte a backslash helps.  Inside a character it cannot stand: the command
 * would not be valid in its encoding.  Such a name is inexpressible and
 * becomes "*": the caller matches names itself, so too much does no harm, and
 * too little would lose changes.
 */
static void
append_escaped_name(StringInfo list, const char *name)
{
	int			start = list->len;
	const char *p = name;

	while (*p != '\0')
	{
		unsigned char c = (unsigned char) *p;
		int			charlen = pg_encoding_mblen_bounded(GetDatabaseEncoding(), p);
		int			i;

		if (IS_HIGHBIT_SET(c) ? isspace(c) : !(isalnum(c) || c == '_'))
			appendStringInfoChar(list, '\\');

		for (i = 1; i < charlen; i++)
		{
			if (isspace((unsigned char) p[i]))
			{
				list->len = start;
				list->data[start] = '\0';
				appendStringInfoChar(list, '*');
				return;
			}
		}

		appendBinaryStringInfo(list, p, charlen);
		p += charlen;
	}
}

/*
 * Append one option for START_REPLICATION.  In the replication grammar a
 * quote is doubled and a backslash is a character like any other.
 */
static void
append_option(StringInfo buf, const char *name, const char *value)
{
	const char *p;

	if (buf->len > 0)
		appendStringInfoString(buf, ", ");
	appendStringInfo(buf, "\"%s\" '", name);
	for (p = value; *p != '\0'; p++)
	{
		if (*p == '\'')
			appendStringInfoChar(buf, '\'');
		appendStringInfoChar(buf, *p);
	}
	appendStringInfoChar(buf, '\'');
}

/* The decoder's append_options: see decoder.h. */
void
trucker_wal2json_append_options(StringInfo buf, const TruckerDecodeRequest *request)
{
	StringInfoData options;
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, request->tables)
	{
		const TruckerTableName *name = lfirst(lc);

		if (list.len > 0)
			appendStringInfoChar(&list, ',');
		append_escaped_name(&list, name->schema);
		appendStringInfoChar(&list, '.');
		append_escaped_name(&list, name->table);
	}

	/*
	 * No tables must not come to mean all tables.  wal2json 2.5 takes an empty
	 * list as "none", but documents only that leaving out the option is "all".
	 * An entry that no table can match needs no such reading: a lone dot is
	 * the table with the empty name in the schema with the empty name.
	 */
	if (list.len == 0)
		appendStringInfoChar(&list, '.');

	initStringInfo(&options);
	append_option(&options, "format-version", "2");
	append_option(&options, "include-xids", "1");
	append_option(&options, "include-lsn", "1");
	append_option(&options, "include-timestamp", "1");
	/* a column's type at the time is known from its attnum and LSN (columns.c), so include-type-oids is not worth its bytes */
	append_option(&options, "include-types", "0");
	append_option(&options, "include-column-positions", "1");
	if (request->no_updates || request->no_truncates)
		append_option(&options, "actions", psprintf("insert%s%s", request->no_updates ? "" : ",update,delete",
													request->no_truncates ? "" : ",truncate"));

	/*
	 * Any user may write logical messages, of any size, and one whose text exceeds 1 GB
	 * once it is JSON would stop the stream for good.  So they stay in the walsender,
	 * but for those with a prefix that nobody else knows.
	 */
	append_option(&options, "add-msg-prefixes", request->message_prefix);
	/* what trucks write, and no truck reads: see written.c */
	append_option(&options, "filter-origins", psprintf("%d", DoNotReplicateId));
	append_option(&options, "add-tables", list.data);

	appendBinaryStringInfo(buf, options.data, options.len);
	pfree(options.data);
	pfree(list.data);
}

/* For the version that can carry all values. */
void
trucker_wal2json_append_exact_options(StringInfo buf, const TruckerDecodeRequest *request)
{
	trucker_wal2json_append_options(buf, request);
	appendStringInfo(buf, ", \"%s\" '1'", TRUCKER_WAL2JSON_EXACT_OPTION);
}
