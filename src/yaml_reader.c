/*
 * yaml_reader.c
 *	  YAML to a tree, with libyaml's parser.
 *
 * libyaml hands out events; we build the tree, so that each node keeps its place in
 * the file, and so that what a configuration file has no need of can be refused where
 * it stands.  That is also what bounds the work: without aliases a tree is not larger
 * than its text.
 *
 * libyaml's memory is malloc's, and is freed whatever happens.  Its places are counted
 * in characters, ours in bytes.  Text is UTF-8 for it, and in the encoding of the
 * database for us.
 */
#include "postgres.h"

#include <yaml.h>

#include "mb/pg_wchar.h"

#include "yaml_reader.h"

/* trucker.yml: a mapping of a list of mappings of a mapping */
#define MAX_DEPTH 16
/* each is compared with all others */
#define MAX_KEYS 2000

typedef struct Reader
{
	const char *text;
	int			len;
	TruckerYamlComplain complain;
	void	   *arg;
	yaml_parser_t parser;
	/* a place that is known in both ways of counting */
	size_t		known_index;
	int			known_offset;
	int			depth;
	bool		ended;			/* no more events: libyaml has found an error, or we have */
} Reader;

static TruckerYaml *read_node(Reader *reader, yaml_event_t *event);

/* What a character of the text is long. */
static int
character_length(const char *p)
{
	/* in SQL_ASCII a file is UTF-8 nonetheless */
	int			encoding = GetDatabaseEncoding() == PG_SQL_ASCII ? PG_UTF8 : GetDatabaseEncoding();

	return pg_encoding_mblen_bounded(encoding, p);
}

/* The byte at which the character of that number stands. */
static int
offset_of(Reader *reader, size_t index)
{
	if (index < reader->known_index)
	{
		reader->known_index = 0;
		reader->known_offset = 0;
	}
	while (reader->known_index < index && reader->known_offset < reader->len)
	{
		reader->known_offset += character_length(reader->text + reader->known_offset);
		reader->known_index++;
	}
	return Min(reader->known_offset, reader->len);
}

static void
complain(Reader *reader, int start, int end, const char *message)
{
	reader->complain(reader->arg, start, end, message);
}

/* The text is not YAML. */
static void
complain_of_syntax(Reader *reader)
{
	yaml_parser_t *parser = &reader->parser;
	int			offset = offset_of(reader, parser->problem_mark.index);
	const char *problem = parser->problem ? parser->problem : "it cannot be read";
	char	   *message;

	if (parser->error == YAML_READER_ERROR)
	{
		/* its place is counted in bytes of UTF-8, and the mark is not set */
		offset = Min(parser->problem_offset, reader->len);
		message = psprintf("%s", problem);
	}
	else if (offset < reader->len && reader->text[offset] == '\t')
		message = pstrdup("a tab cannot stand here: YAML is indented with spaces");
	else if (parser->context)
		message = psprintf("%s, %s", problem, parser->context);
	else
		message = pstrdup(problem);
	complain(reader, offset, offset, message);
}

/* The next event; false: there is none, and somebody has been told why. */
static bool
next_event(Reader *reader, yaml_event_t *event)
{
	if (reader->ended)
		return false;
	if (yaml_parser_parse(&reader->parser, event))
		return true;
	reader->ended = true;
	if (reader->parser.error == YAML_MEMORY_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	complain_of_syntax(reader);
	return false;
}

static TruckerYaml *
make_node(Reader *reader, TruckerYamlKind kind, const yaml_event_t *event)
{
	TruckerYaml *node = palloc0(sizeof(TruckerYaml));

	node->kind = kind;
	node->start = offset_of(reader, event->start_mark.index);
	node->end = offset_of(reader, event->end_mark.index);
	return node;
}

/* Aliases, anchors and tags are not for configuration files. */
static void
refuse_properties(Reader *reader, const TruckerYaml *node, const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor)
		complain(reader, node->start, node->end, "anchors (&name) are not supported");
	if (tag)
		complain(reader, node->start, node->end, "tags (!name) are not supported");
}

/* Does YAML take a plain word for nothing? */
static bool
means_null(const char *text)
{
	return text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 ||
		strcmp(text, "Null") == 0 || strcmp(text, "NULL") == 0;
}

static TruckerYaml *
read_scalar(Reader *reader, yaml_event_t *event)
{
	TruckerYaml *node = make_node(reader, TRUCKER_YAML_SCALAR, event);
	const char *value = (const char *) event->data.scalar.value;
	size_t		len = event->data.scalar.length;

	refuse_properties(reader, node, event->data.scalar.anchor, event->data.scalar.tag);
	if (memchr(value, '\0', len) != NULL)
	{
		complain(reader, node->start, node->end, "a value cannot hold the character with code zero");
		len = strlen(value);
	}
	/* an escape may have made what the encoding of the database has not: an error, that names it */
	node->text = pstrdup(pg_any_to_server(pnstrdup(value, len), len, PG_UTF8));
	node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	if (!node->quoted && means_null(node->text))
		node->kind = TRUCKER_YAML_NULL;
	return node;
}

static TruckerYaml *
read_list(Reader *reader, yaml_event_t *start)
{
	TruckerYaml *list = make_node(reader, TRUCKER_YAML_LIST, start);
	yaml_event_t event;

	refuse_properties(reader, list, start->data.sequence_start.anchor, start->data.sequence_start.tag);
	while (next_event(reader, &event))
	{
		TruckerYaml *item;

		if (event.type == YAML_SEQUENCE_END_EVENT)
		{
			yaml_event_delete(&event);
			break;
		}
		item = read_node(reader, &event);
		if (item)
			list->values = lappend(list->values, item);
	}
	return list;
}

/* May this be a key of the mapping? */
static bool
check_key(Reader *reader, const TruckerYaml *map, const TruckerYaml *key)
{
	ListCell   *lc;

	if (key->kind != TRUCKER_YAML_SCALAR)
	{
		complain(reader, key->start, key->end, "a key must be a word");
		return false;
	}
	if (!key->quoted && strcmp(key->text, "<<") == 0)
	{
		complain(reader, key->start, key->end, "merge keys (<<) are not supported");
		return false;
	}
	if (list_length(map->keys) == MAX_KEYS)
	{
		complain(reader, key->start, key->end, "these are too many keys");
		reader->ended = true;
		return false;
	}
	foreach(lc, map->keys)
		if (strcmp(((TruckerYaml *) lfirst(lc))->text, key->text) == 0)
		{
			complain(reader, key->start, key->end, "this key stands here twice");
			return false;
		}
	return true;
}

static TruckerYaml *
read_map(Reader *reader, yaml_event_t *start)
{
	TruckerYaml *map = make_node(reader, TRUCKER_YAML_MAP, start);
	yaml_event_t event;

	refuse_properties(reader, map, start->data.mapping_start.anchor, start->data.mapping_start.tag);
	while (next_event(reader, &event))
	{
		TruckerYaml *key;
		TruckerYaml *value = NULL;

		if (event.type == YAML_MAPPING_END_EVENT)
		{
			yaml_event_delete(&event);
			break;
		}
		key = read_node(reader, &event);
		if (next_event(reader, &event))
			value = read_node(reader, &event);
		if (key && value && check_key(reader, map, key))
		{
			map->keys = lappend(map->keys, key);
			map->values = lappend(map->values, value);
		}
	}
	return map;
}

/*
 * The node that an event begins; the event is used up.  NULL: there is none that could
 * be used, and somebody has been told.
 */
static TruckerYaml *
read_node(Reader *reader, yaml_event_t *event)
{
	TruckerYaml *volatile node = NULL;
	int			start = offset_of(reader, event->start_mark.index);

	/* what is raised from here on would leave the event behind */
	PG_TRY();
	{
		if (++reader->depth > MAX_DEPTH)
		{
			complain(reader, start, start, "this is nested too deeply");
			reader->ended = true;
		}
		else if (event->type == YAML_SCALAR_EVENT)
			node = read_scalar(reader, event);
		else if (event->type == YAML_SEQUENCE_START_EVENT)
			node = read_list(reader, event);
		else if (event->type == YAML_MAPPING_START_EVENT)
			node = read_map(reader, event);
		else
			complain(reader, start, offset_of(reader, event->end_mark.index), "aliases (*name) are not supported");
	}
	PG_FINALLY();
	{
		yaml_event_delete(event);
	}
	PG_END_TRY();
	reader->depth--;
	return node;
}

/* The text's only document; NULL: it is empty, or cannot be used. */
static TruckerYaml *
read_document(Reader *reader)
{
	TruckerYaml *root = NULL;
	int			documents = 0;
	yaml_event_t event;

	while (next_event(reader, &event))
	{
		yaml_event_type_t type = event.type;
		int			offset = offset_of(reader, event.start_mark.index);

		if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
			type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT)
		{
			root = read_node(reader, &event);
			continue;
		}
		yaml_event_delete(&event);
		if (type == YAML_STREAM_END_EVENT)
			break;
		if (type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
		{
			complain(reader, offset, offset, "the file holds more than one document");
			break;
		}
	}
	return root;
}

/*
 * Read a text in the encoding of the database.  The tree is allocated in the current
 * memory context; NULL: the text is empty, or complain() has been called.  What can
 * still be read is read, so that as much as possible is complained of at once.
 */
TruckerYaml *
trucker_yaml_read(const char *text, TruckerYamlComplain complain, void *arg)
{
	Reader		reader = {.text = text, .len = strlen(text), .complain = complain, .arg = arg};
	char	   *utf8 = pg_server_to_any(text, reader.len, PG_UTF8);
	TruckerYaml *volatile root = NULL;

	if (!yaml_parser_initialize(&reader.parser))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	PG_TRY();
	{
		yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
		yaml_parser_set_input_string(&reader.parser, (const unsigned char *) utf8, strlen(utf8));
		root = read_document(&reader);
	}
	PG_FINALLY();
	{
		yaml_parser_delete(&reader.parser);
	}
	PG_END_TRY();
	return root;
}
