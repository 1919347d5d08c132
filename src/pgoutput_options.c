/*
 * pgoutput_options.c
 *	  The options that make the output plugin pgoutput write the messages that
 *	  pgoutput.c reads.
 *
 * Which tables' changes it sends its publications say, and no option.
 */
#include "postgres.h"

#include "nodes/pg_list.h"

#include "decoder.h"
#include "pgoutput.h"

/* In the replication grammar a quote is doubled, and a backslash is a character like any other. */
static void
append_option(StringInfo buf, const char *name, const char *value)
{
	appendStringInfo(buf, "%s\"%s\" '", buf->len > 0 ? ", " : "", name);
	for (const char *p = value; *p != '\0'; p++)
	{
		if (*p == '\'')
			appendStringInfoChar(buf, '\'');
		appendStringInfoChar(buf, *p);
	}
	appendStringInfoChar(buf, '\'');
}

/* The plugin splits the list as SQL's identifiers are split. */
static void
append_identifier(StringInfo list, const char *name)
{
	if (list->len > 0)
		appendStringInfoChar(list, ',');
	appendStringInfoChar(list, '"');
	for (const char *p = name; *p != '\0'; p++)
	{
		if (*p == '"')
			appendStringInfoChar(list, '"');
		appendStringInfoChar(list, *p);
	}
	appendStringInfoChar(list, '"');
}

/* The decoder's append_options: see decoder.h. */
void
trucker_pgoutput_append_options(StringInfo buf, const TruckerDecodeRequest *request)
{
	StringInfoData options;
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, request->publications)
		append_identifier(&list, lfirst(lc));

	initStringInfo(&options);
	append_option(&options, "proto_version", request->in_progress ? "2" : "1");
	append_option(&options, "publication_names", list.data);
	append_option(&options, "binary", request->as_text ? "false" : "true");
	if (request->in_progress)
		append_option(&options, "streaming", "on");
	/* ours are among them, and there is no telling the plugin which are wanted */
	append_option(&options, "messages", "true");

	appendBinaryStringInfo(buf, options.data, options.len);
	pfree(options.data);
	pfree(list.data);
}
