/*
 * project_yaml.c
 *	  The keys of trucker.yml and truck.yml.
 *
 * From the trees that the files became to the structs of project.h.  What can be said
 * of a file by itself is checked here, with its place: unknown keys, wrong types, what
 * is missing, what excludes each other.  What it names (files, connections, tables) is
 * looked for by others.
 */
#include "postgres.h"

#include "project.h"

typedef enum KeyType
{
	KEY_TEXT,
	KEY_BOOLEAN,
	KEY_NUMBER,					/* 0 to 2147483647 */
	KEY_PORT,
	KEY_WORD,					/* one of some words */
	KEY_IGNORED					/* the predecessor's; somebody else sees to it */
} KeyType;

typedef struct Key
{
	const char *name;
	KeyType		type;
	size_t		offset;			/* of the TruckerProjectValue */
	const char *words;			/* of KEY_WORD: how an error enumerates them */
} Key;

#define ROOT_KEY(field, type) {#field, type, offsetof(TruckerProject, field), NULL}
#define CONNECTION_KEY(field, type) {#field, type, offsetof(TruckerProjectConnection, field), NULL}
#define TRUCK_KEY(field, type, words) {#field, type, offsetof(TruckerProjectTruck, field), words}

/* A part of a file that is a mapping. */
typedef struct Part
{
	const char *what;			/* how messages call it */
	const Key  *keys;
	int			nkeys;
	const char *more;			/* keys whose values are lists or mappings: " name name " */
} Part;

static const Key root_keys[] = {
	ROOT_KEY(unique_id, KEY_TEXT),
	ROOT_KEY(slow_query_threshold_ms, KEY_NUMBER),
	{"metrics_addr", KEY_IGNORED, 0, NULL},
};
static const Part root_part = {"trucker.yml", root_keys, lengthof(root_keys), " connections "};

static const Key connection_keys[] = {
	CONNECTION_KEY(name, KEY_TEXT),
	CONNECTION_KEY(adapter, KEY_TEXT),
	CONNECTION_KEY(host, KEY_TEXT),
	CONNECTION_KEY(port, KEY_PORT),
	CONNECTION_KEY(database, KEY_TEXT),
	CONNECTION_KEY(user, KEY_TEXT),
	CONNECTION_KEY(pass, KEY_TEXT),
	CONNECTION_KEY(ssl, KEY_TEXT),
	CONNECTION_KEY(host_path, KEY_TEXT),
	CONNECTION_KEY(port_path, KEY_TEXT),
	CONNECTION_KEY(database_path, KEY_TEXT),
	CONNECTION_KEY(user_path, KEY_TEXT),
	CONNECTION_KEY(pass_path, KEY_TEXT),
	CONNECTION_KEY(ssl_path, KEY_TEXT),
	{"migrate", KEY_WORD, offsetof(TruckerProjectConnection, migrate), "auto, manual"},
};
static const Part connection_part = {"a connection", connection_keys, lengthof(connection_keys), " options "};

static const Key truck_keys[] = {
	TRUCK_KEY(slow_query_threshold_ms, KEY_NUMBER, NULL),
	TRUCK_KEY(stream, KEY_TEXT, NULL),
	TRUCK_KEY(changes, KEY_WORD, "all, net"),
	TRUCK_KEY(on_error, KEY_WORD, "retry, stop, quarantine"),
	TRUCK_KEY(on_truncate, KEY_WORD, "error, ignore, run"),
	TRUCK_KEY(toast, KEY_WORD, "exact, current"),
	TRUCK_KEY(role, KEY_TEXT, NULL),
	TRUCK_KEY(backfill, KEY_BOOLEAN, NULL),
	TRUCK_KEY(inserts_only, KEY_BOOLEAN, NULL),
};
static const Part truck_part = {"truck.yml", truck_keys, lengthof(truck_keys), " input output "};

static const Key input_keys[] = {
	{"connection", KEY_TEXT, offsetof(TruckerProjectTruck, input_connection), NULL},
};
static const Part input_part = {"input", input_keys, lengthof(input_keys), " table tables only_columns except_columns "};

static const Key output_keys[] = {
	{"connection", KEY_TEXT, offsetof(TruckerProjectTruck, output_connection), NULL},
	{"table", KEY_TEXT, offsetof(TruckerProjectTruck, output_table), NULL},
	{"mode", KEY_WORD, offsetof(TruckerProjectTruck, mode), "append, mirror"},
};
static const Part output_part = {"output", output_keys, lengthof(output_keys), ""};

/* ----
 * Values
 * ----
 */

static bool
is_number(const char *text)
{
	int64		value = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9' && value <= PG_INT32_MAX; p++)
		value = value * 10 + (*p - '0');
	return *p == '\0' && p > text && value <= PG_INT32_MAX;
}

bool
trucker_project_is_port(const char *text)
{
	return is_number(text) && atoi(text) >= 1 && atoi(text) <= 65535;
}

/* Is the text one of the words of a list that is separated by ", "? */
static bool
is_word(const char *text, const char *words)
{
	size_t		len = strlen(text);

	for (const char *p = words; *p != '\0';)
	{
		size_t		n = strcspn(p, ",");

		if (n == len && strncmp(p, text, n) == 0)
			return true;
		p += n + (p[n] == ',' ? 2 : 0);
	}
	return false;
}

static char *
shown(const TruckerProjectText *file, const TruckerYaml *node)
{
	return trucker_project_shown(file, node->start, node->end, node->text);
}

/* A scalar of the key's type?  Complains if not. */
static bool
check_value(const TruckerProjectText *file, const Key *key, const TruckerYaml *node)
{
	const char *wanted = NULL;

	if (node->kind != TRUCKER_YAML_SCALAR)
	{
		trucker_project_complain(file, node->start, "\"%s\" must be a single value, not a %s", key->name,
								 node->kind == TRUCKER_YAML_LIST ? "list" : "mapping");
		return false;
	}
	if (key->type == KEY_BOOLEAN && (node->quoted || !is_word(node->text, "true, false")))
		wanted = "true or false";
	else if (key->type == KEY_NUMBER && !is_number(node->text))
		wanted = "a whole number from 0 to 2147483647";
	else if (key->type == KEY_PORT && !trucker_project_is_port(node->text))
		wanted = "a number from 1 to 65535";
	else if (key->type == KEY_WORD && !is_word(node->text, key->words))
		wanted = psprintf("one of %s", key->words);
	if (wanted)
		trucker_project_complain(file, node->start, "\"%s\" must be %s, not %s", key->name, wanted, shown(file, node));
	return wanted == NULL;
}

static void
set_value(TruckerProjectValue *value, const TruckerProjectText *file, const TruckerYaml *node)
{
	value->text = node->text;
	value->file = file;
	value->start = node->start;
	value->end = node->end;
}

static void
complain_of_key(const TruckerProjectText *file, const Part *part, const TruckerYaml *key)
{
	StringInfoData valid;
	const char *p = part->more;

	initStringInfo(&valid);
	for (int i = 0; i < part->nkeys; i++)
		if (part->keys[i].type != KEY_IGNORED)
			appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", part->keys[i].name);
	for (p += strspn(p, " "); *p != '\0'; p += strspn(p, " "))
	{
		size_t		len = strcspn(p, " ");

		appendStringInfo(&valid, "%s%.*s", valid.len > 0 ? ", " : "", (int) len, p);
		p += len;
	}
	trucker_project_complain(file, key->start, "unknown key %s; the keys of %s are: %s",
							 shown(file, key), part->what, valid.data);
}

/* Must be a mapping; nothing at all is an empty one.  Complains if it is not. */
static bool
is_map(const TruckerProjectText *file, const char *what, const TruckerYaml *node)
{
	if (node == NULL || node->kind == TRUCKER_YAML_NULL)
		return false;
	if (node->kind != TRUCKER_YAML_MAP)
		trucker_project_complain(file, node->start, "%s must be a mapping of keys to values", what);
	return node->kind == TRUCKER_YAML_MAP;
}

/* Take over the simple values of a mapping.  What is null is not given. */
static void
read_part(const TruckerProjectText *file, const Part *part, const TruckerYaml *map, void *base)
{
	for (int i = 0; i < list_length(map->keys); i++)
	{
		const TruckerYaml *key = list_nth(map->keys, i);
		const TruckerYaml *node = list_nth(map->values, i);
		const Key  *known = NULL;

		for (int k = 0; k < part->nkeys; k++)
			if (strcmp(part->keys[k].name, key->text) == 0)
				known = &part->keys[k];
		if (known && known->type != KEY_IGNORED)
		{
			if (node->kind != TRUCKER_YAML_NULL && check_value(file, known, node))
				set_value((TruckerProjectValue *) ((char *) base + known->offset), file, node);
		}
		else if (!known && (strchr(key->text, ' ') || strstr(part->more, psprintf(" %s ", key->text)) == NULL))
			complain_of_key(file, part, key);
	}
}

/* The value of a key, if there is one. */
static const TruckerYaml *
find(const TruckerYaml *map, const char *name)
{
	for (int i = 0; i < list_length(map->keys); i++)
	{
		const TruckerYaml *value = list_nth(map->values, i);

		if (strcmp(((TruckerYaml *) list_nth(map->keys, i))->text, name) == 0)
			return value->kind == TRUCKER_YAML_NULL ? NULL : value;
	}
	return NULL;
}

/* ----
 * trucker.yml
 * ----
 */

/* The connection of that name; NULL: there is none. */
TruckerProjectConnection *
trucker_project_connection(const TruckerProject *project, const char *name)
{
	ListCell   *lc;

	foreach(lc, project->connections)
	{
		TruckerProjectConnection *connection = lfirst(lc);

		if (strcmp(connection->name.text, name) == 0)
			return connection;
	}
	return NULL;
}

/* A value and the file that holds it exclude each other. */
static void
check_pair(const TruckerProjectText *file, const TruckerProjectValue *value, const TruckerProjectValue *path, const char *name)
{
	if (value->text && path->text)
		trucker_project_complain(file, path->start, "\"%s\" and \"%s_path\" exclude each other", name, name);
}

static void
check_adapter(const TruckerProjectText *file, const TruckerProjectConnection *connection)
{
	const TruckerProjectValue *adapter = &connection->adapter;

	if (adapter->text == NULL || strcmp(adapter->text, "postgres") == 0)
		return;
	if (is_word(adapter->text, "clickhouse, duckdb"))
		trucker_project_complain(file, adapter->start, "adapter %s is not supported by this version; the only one is: postgres",
								 trucker_project_value_shown(adapter));
	else
		trucker_project_complain(file, adapter->start, "unknown adapter %s; the only one is: postgres",
								 trucker_project_value_shown(adapter));
}

/* "options": further options of the foreign server, by name. */
static const TruckerYaml *
read_server_options(const TruckerProjectText *file, const TruckerYaml *map)
{
	const TruckerYaml *options = find(map, "options");

	if (!is_map(file, "\"options\"", options))
		return NULL;
	for (int i = 0; i < list_length(options->keys); i++)
	{
		const TruckerYaml *key = list_nth(options->keys, i);
		const TruckerYaml *value = list_nth(options->values, i);

		if (value->kind != TRUCKER_YAML_SCALAR)
			trucker_project_complain(file, value->start, "option %s must be a single value", shown(file, key));
		else if (is_word(key->text, "host, port, dbname, sslmode, adapter"))
			trucker_project_complain(file, key->start, "option %s has a key of its own in a connection", shown(file, key));
	}
	return options;
}

static TruckerProjectConnection *
read_connection(const TruckerProjectText *file, const TruckerYaml *map)
{
	TruckerProjectConnection *connection = palloc0(sizeof(TruckerProjectConnection));

	connection->file = file;
	read_part(file, &connection_part, map, connection);
	check_pair(file, &connection->host, &connection->host_path, "host");
	check_pair(file, &connection->port, &connection->port_path, "port");
	check_pair(file, &connection->database, &connection->database_path, "database");
	check_pair(file, &connection->user, &connection->user_path, "user");
	check_pair(file, &connection->pass, &connection->pass_path, "pass");
	check_pair(file, &connection->ssl, &connection->ssl_path, "ssl");
	check_adapter(file, connection);
	connection->options = read_server_options(file, map);
	connection->migrate_auto = connection->migrate.text && strcmp(connection->migrate.text, "auto") == 0;
	if (connection->name.text == NULL || connection->name.text[0] == '\0')
	{
		trucker_project_complain(file, map->start, "a connection needs a \"name\"");
		return NULL;
	}
	if (strlen(connection->name.text) >= NAMEDATALEN)
	{
		trucker_project_complain(file, connection->name.start, "the name of a connection has at most %d bytes", NAMEDATALEN - 1);
		return NULL;
	}
	return connection;
}

/* Take over what the tree of trucker.yml says; NULL: the file is empty. */
void
trucker_project_read_root(TruckerProject *project, const TruckerProjectText *file, const TruckerYaml *root)
{
	const TruckerYaml *connections;
	ListCell   *lc;

	if (!is_map(file, TRUCKER_PROJECT_FILE, root))
		return;
	read_part(file, &root_part, root, project);
	connections = find(root, "connections");
	if (connections && connections->kind != TRUCKER_YAML_LIST)
		trucker_project_complain(file, connections->start, "\"connections\" must be a list");
	foreach(lc, connections && connections->kind == TRUCKER_YAML_LIST ? connections->values : NIL)
	{
		const TruckerYaml *item = lfirst(lc);
		TruckerProjectConnection *connection;

		if (item->kind == TRUCKER_YAML_NULL)
			trucker_project_complain(file, item->start, "a connection needs a \"name\"");
		if (!is_map(file, "a connection", item))
			continue;
		connection = read_connection(file, item);
		if (connection == NULL)
			continue;
		if (trucker_project_connection(project, connection->name.text))
			trucker_project_complain(file, connection->name.start, "there are two connections with the name %s",
									 trucker_project_value_shown(&connection->name));
		else
			project->connections = lappend(project->connections, connection);
	}
}

/* ----
 * truck.yml
 * ----
 */

/* Add one input table. */
static void
add_table(TruckerProjectTruck *truck, const TruckerProjectText *file, const TruckerYaml *node)
{
	TruckerProjectValue *table = palloc0(sizeof(TruckerProjectValue));
	ListCell   *lc;

	if (node->kind != TRUCKER_YAML_SCALAR || node->text[0] == '\0')
	{
		trucker_project_complain(file, node->start, "an input table must be the name of a table");
		return;
	}
	foreach(lc, truck->tables)
		if (strcmp(((TruckerProjectValue *) lfirst(lc))->text, node->text) == 0)
		{
			trucker_project_complain(file, node->start, "input table %s is named twice", shown(file, node));
			return;
		}
	set_value(table, file, node);
	truck->tables = lappend(truck->tables, table);
}

static void
read_tables(TruckerProjectTruck *truck, const TruckerProjectText *file, const TruckerYaml *input)
{
	const TruckerYaml *table = find(input, "table");
	const TruckerYaml *tables = find(input, "tables");
	ListCell   *lc;

	if (table && tables)
		trucker_project_complain(file, table->start, "\"table\" and \"tables\" exclude each other");
	if (table && table->kind != TRUCKER_YAML_SCALAR)
		trucker_project_complain(file, table->start, "\"table\" must be a single value; several are a list in \"tables\"");
	else if (table)
		add_table(truck, file, table);
	if (tables && tables->kind != TRUCKER_YAML_LIST)
		trucker_project_complain(file, tables->start, "\"tables\" must be a list; a single one is \"table\"");
	foreach(lc, tables && tables->kind == TRUCKER_YAML_LIST ? tables->values : NIL)
		add_table(truck, file, lfirst(lc));
	if (!table && (!tables || (tables->kind == TRUCKER_YAML_LIST && tables->values == NIL)))
		trucker_project_complain(file, input->start, "a truck needs at least one input table");
}

/* Is it a list of names of columns?  Complains if not. */
static bool
is_column_list(const TruckerProjectText *file, const char *key, const TruckerYaml *node)
{
	ListCell   *lc;

	if (node->kind != TRUCKER_YAML_LIST)
	{
		trucker_project_complain(file, node->start, "\"%s\" must be a list of columns, or a mapping of input tables to such lists", key);
		return false;
	}
	foreach(lc, node->values)
	{
		const TruckerYaml *item = lfirst(lc);

		if (item->kind != TRUCKER_YAML_SCALAR || item->text[0] == '\0')
		{
			trucker_project_complain(file, item->start, "\"%s\" must hold names of columns", key);
			return false;
		}
	}
	return true;
}

/* only_columns, except_columns: a list for the one input table, or table: list. */
static const TruckerYaml *
read_columns(TruckerProjectTruck *truck, const TruckerProjectText *file, const TruckerYaml *input, const char *key)
{
	const TruckerYaml *node = find(input, key);
	bool		good = true;

	if (node == NULL)
		return NULL;
	if (node->kind != TRUCKER_YAML_MAP)
	{
		if (!is_column_list(file, key, node))
			return NULL;
		if (list_length(truck->tables) > 1)
		{
			trucker_project_complain(file, node->start, "\"%s\" must say for which of the input tables: a mapping of tables to lists", key);
			return NULL;
		}
		return node;
	}
	for (int i = 0; i < list_length(node->keys); i++)
	{
		const TruckerYaml *table = list_nth(node->keys, i);
		bool		known = false;
		ListCell   *lc;

		foreach(lc, truck->tables)
			known |= strcmp(((TruckerProjectValue *) lfirst(lc))->text, table->text) == 0;
		if (!known)
			trucker_project_complain(file, table->start, "%s is no input table of this truck", shown(file, table));
		good &= known && is_column_list(file, key, list_nth(node->values, i));
	}
	return good ? node : NULL;
}

/* What the tree of a truck.yml says; NULL: the file is empty. */
TruckerProjectTruck *
trucker_project_read_truck(const TruckerProjectText *file, const TruckerYaml *root)
{
	TruckerProjectTruck *truck = palloc0(sizeof(TruckerProjectTruck));
	const TruckerYaml *input;
	const TruckerYaml *output;

	truck->file = file;
	if (root && root->kind != TRUCKER_YAML_NULL && !is_map(file, TRUCKER_TRUCK_FILE, root))
		return truck;
	if (root == NULL || root->kind == TRUCKER_YAML_NULL)
	{
		trucker_project_complain(file, 0, "a truck needs an \"input\" with at least one table");
		return truck;
	}
	read_part(file, &truck_part, root, truck);
	input = find(root, "input");
	if (input == NULL)
		trucker_project_complain(file, root->start, "a truck needs an \"input\" with at least one table");
	else if (is_map(file, "\"input\"", input))
	{
		read_part(file, &input_part, input, truck);
		read_tables(truck, file, input);
		truck->only_columns = read_columns(truck, file, input, "only_columns");
		truck->except_columns = read_columns(truck, file, input, "except_columns");
		/* with mappings they may be about different tables */
		if (truck->only_columns && truck->except_columns &&
			(truck->only_columns->kind == TRUCKER_YAML_LIST || truck->except_columns->kind == TRUCKER_YAML_LIST))
			trucker_project_complain(file, truck->except_columns->start, "\"only_columns\" and \"except_columns\" exclude each other");
	}
	output = find(root, "output");
	if (output && is_map(file, "\"output\"", output))
		read_part(file, &output_part, output, truck);
	return truck;
}
