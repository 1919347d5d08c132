/*
 * connection.c
 *	  Connect to another PostgreSQL server as a foreign server and a user mapping say.
 *
 * A connection is a foreign server of the wrapper "trucker" or "postgres_fdw", used
 * as a truck's role: with the role's user mapping (or PUBLIC's), if it has USAGE on
 * the server.  It is looked up anew for each attempt, so what has been altered counts
 * from the next one on; a worker that is connected hears of it by invalidation.
 *
 * The process that connects is the server's, and so are the files, sockets and
 * environment variables within its reach.  They must not be lent to whoever may
 * define a connection:
 *
 * - A role that is no superuser needs a password in its user mapping, and the other
 *	 end must have asked for it.  Else host = '/var/run/postgresql', user = 'postgres'
 *	 would make it superuser, where peer or trust lets the server's own user in.
 * - What libpq takes from elsewhere if it is not told - PG* variables, ~/.pgpass, the
 *	 certificates in ~/.postgresql - is hidden from it (pgconn.c) or set to a file that
 *	 cannot exist.
 * - What names such things is superuser-only (connection_options.c), also in a server
 *	 of postgres_fdw, whose own validator is less strict: there its owner must be one.
 *
 * Where and as whom one connects, and with what password, is in none of our messages:
 * libpq's own are cleaned of it.
 */
#include "trucker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "connection.h"
#include "truck.h"

#define DEFAULT_POSITION_SCHEMA "trucker_positions"
#define DEFAULT_CONNECT_TIMEOUT 10
/* libpq does without a file of this name, and cannot find one */
#define NO_FILE "/dev/null/none"
#define MAX_PASSWORD_FILE 8192

/* how often servers and mappings have been altered, as far as this process knows */
static uint64 changes = 0;

static void
note_change(Datum arg, int cacheid, uint32 hashvalue)
{
	changes++;
}

/* A number that is another one after any foreign server or user mapping was altered. */
uint64
trucker_connection_changes(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_change, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, note_change, (Datum) 0);
		registered = true;
	}
	return changes;
}

/* Does the name mean this database? */
bool
trucker_connection_is_local(const char *name)
{
	return strcmp(name, TRUCKER_CONNECTION_LOCAL) == 0;
}

/* ----
 * What the catalogs say
 * ----
 */

/* The server, if there is one, it is of a kind that we know, and the role may use it. */
static ForeignServer *
find_server(const char *name, Oid role)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	const char *wrapper;

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("connection \"%s\" does not exist", name),
				 errhint("The connection \"%s\" is this database; any other one is a foreign server: CREATE SERVER %s FOREIGN DATA WRAPPER trucker OPTIONS (host '...', dbname '...');  One that a project defines is made by trucker.load().",
						 TRUCKER_CONNECTION_LOCAL, quote_identifier(name[0] ? name : "warehouse"))));
	wrapper = GetForeignDataWrapper(server->fdwid)->fdwname;
	if (strcmp(wrapper, "trucker") != 0 && strcmp(wrapper, "postgres_fdw") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("foreign server \"%s\" cannot be a connection", name),
				 errdetail("Its foreign data wrapper is \"%s\".", wrapper),
				 errhint("Connections are servers of the foreign data wrappers trucker and postgres_fdw.")));
	if (pg_foreign_server_aclcheck(server->serverid, role, ACL_USAGE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not use connection \"%s\"", GetUserNameFromId(role, false), name),
				 errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s;", quote_identifier(name),
						 quote_identifier(GetUserNameFromId(role, false)))));
	return server;
}

/* The role's user mapping, or PUBLIC's. */
static UserMapping *
find_mapping(const ForeignServer *server, Oid role)
{
	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
							   ObjectIdGetDatum(server->serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(server->serverid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" has no user mapping for connection \"%s\"",
						GetUserNameFromId(role, false), server->servername),
				 errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (user '...', password '...');",
						 quote_identifier(GetUserNameFromId(role, false)),
						 quote_identifier(server->servername))));
	return GetUserMapping(role, server->serverid);
}

/* An option's value; NULL: it is not given. */
static const char *
option_value(const TruckerConnection *connection, const char *name)
{
	const char *value = NULL;
	ListCell   *lc;

	foreach(lc, connection->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0 && defGetString(def)[0] != '\0')
			value = defGetString(def);
	}
	return value;
}

/* May the role use this connection?  Raises an error if not. */
void
trucker_connection_check(const char *name, Oid role)
{
	(void) find_server(name, role);
}

/* What our own options say, of a connection whose server and mapping have been put in. */
static void
take_own_options(TruckerConnection *connection)
{
	const char *required = option_value(connection, "password_required");

	connection->has_password = option_value(connection, "password") || option_value(connection, "password_file");
	if (required == NULL || !parse_bool(required, &connection->password_required))
		connection->password_required = true;
	connection->password_required &= !superuser_arg(connection->role);
	connection->position_schema = pstrdup(option_value(connection, "position_schema") ?
										  option_value(connection, "position_schema") : DEFAULT_POSITION_SCHEMA);
	connection->statement_timeout = pstrdup(option_value(connection, "statement_timeout") ?
											option_value(connection, "statement_timeout") : "0");
	connection->lock_timeout = pstrdup(option_value(connection, "lock_timeout") ?
									   option_value(connection, "lock_timeout") : "0");
}

/*
 * A connection as the role may use it now, in the current memory context.  In a
 * transaction.
 */
TruckerConnection *
trucker_connection_load(const char *name, Oid role)
{
	TruckerConnection *connection = palloc0(sizeof(TruckerConnection));
	ForeignServer *server = find_server(name, role);
	UserMapping *mapping = find_mapping(server, role);

	connection->name = pstrdup(name);
	connection->role = role;
	connection->options = list_concat_copy(server->options, mapping->options);
	connection->nserver = list_length(server->options);
	connection->trusted = strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "trucker") == 0 ||
		superuser_arg(server->owner);
	take_own_options(connection);
	if (option_value(connection, "user") == NULL && option_value(connection, "service") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("the user mapping of role \"%s\" for connection \"%s\" does not name a user",
						GetUserNameFromId(role, false), name),
				 errhint("ALTER USER MAPPING FOR %s SERVER %s OPTIONS (ADD user '...');",
						 OidIsValid(mapping->userid) ? quote_identifier(GetUserNameFromId(role, false)) : "PUBLIC",
						 quote_identifier(name))));
	if (connection->password_required && !connection->has_password)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("The user mapping of role \"%s\", which is no superuser, for connection \"%s\" holds none.",
						   GetUserNameFromId(role, false), name),
				 errhint("ALTER USER MAPPING FOR %s SERVER %s OPTIONS (ADD password '...');",
						 OidIsValid(mapping->userid) ? quote_identifier(GetUserNameFromId(role, false)) : "PUBLIC",
						 quote_identifier(name))));
	return connection;
}

/*
 * A connection that is not in the catalogs (yet), by options (DefElem) of a server and
 * of a user mapping that the role has given: by the same rules.
 */
TruckerConnection *
trucker_connection_from_options(const char *name, Oid role, List *server, List *mapping)
{
	TruckerConnection *connection = palloc0(sizeof(TruckerConnection));

	connection->name = pstrdup(name);
	connection->role = role;
	trucker_connection_check_options(server, ForeignServerRelationId);
	trucker_connection_check_options(mapping, UserMappingRelationId);
	connection->options = list_concat_copy(server, mapping);
	connection->nserver = list_length(server);
	connection->trusted = superuser_arg(role);
	take_own_options(connection);
	if (option_value(connection, "user") == NULL && option_value(connection, "service") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("connection \"%s\" does not name a user", name)));
	if (connection->password_required && !connection->has_password)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("Connection \"%s\" holds none, and role \"%s\" is no superuser.",
						   name, GetUserNameFromId(role, false))));
	return connection;
}

/* ----
 * libpq's keywords
 * ----
 */

typedef struct Keywords
{
	int			n;
	const char *keywords[64];
	const char *values[64];
} Keywords;

static void
add_keyword(Keywords *all, const char *keyword, const char *value)
{
	Assert(all->n < lengthof(all->keywords) - 1);
	all->keywords[all->n] = keyword;
	all->values[all->n++] = value;
}

/* What comes later wins: the mapping's options stand behind the server's. */
static void
set_keyword(Keywords *all, const char *keyword, const char *value)
{
	for (int i = 0; i < all->n; i++)
		if (strcmp(all->keywords[i], keyword) == 0)
		{
			all->values[i] = value;
			return;
		}
	add_keyword(all, keyword, value);
}

static void
add_default(Keywords *all, const char *keyword, const char *value)
{
	for (int i = 0; i < all->n; i++)
		if (strcmp(all->keywords[i], keyword) == 0)
			return;
	add_keyword(all, keyword, value);
}

/* The password that stands in a file of the server's, without the line's end. */
static char *
read_password_file(const TruckerConnection *connection, const char *path)
{
	char		buffer[MAX_PASSWORD_FILE + 1];
	struct stat st;
	/* opening a pipe would wait for who writes it */
	int			file = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	ssize_t		len = 0;

	if (file >= 0 && fstat(file, &st) == 0 && S_ISREG(st.st_mode))
		len = read(file, buffer, sizeof(buffer));
	if (file >= 0)
		CloseTransientFile(file);
	while (len > 0 && len < sizeof(buffer) && (buffer[len - 1] == '\n' || buffer[len - 1] == '\r'))
		len--;
	if (len <= 0 || len == sizeof(buffer) || memchr(buffer, '\0', len))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read the password of connection \"%s\"", connection->name),
				 errdetail("Its option \"password_file\" must name a regular file that the server can read, with 1 to %d bytes in it.",
						   MAX_PASSWORD_FILE)));
	buffer[len] = '\0';
	return pstrdup(buffer);
}

/* libpq passes over a revocation list that it cannot read. */
static void
check_revocation_list(const TruckerConnection *connection)
{
	static const char *const names[] = {"sslcrl", "sslcrldir"};

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *path = option_value(connection, names[i]);

		if (path && access(path, R_OK) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("could not read \"%s\" of connection \"%s\": %m", names[i], connection->name)));
	}
}

/* An option of the server may be set by anybody, or was set by a superuser. */
static void
check_option_trusted(const TruckerConnection *connection, const TruckerConnectionOption *option)
{
	if (!option->superuser_only || connection->trusted)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("option \"%s\" of connection \"%s\" is superuser-only", option->name, connection->name),
			 errhint("ALTER SERVER %s OWNER TO a superuser, or leave it out.", quote_identifier(connection->name))));
}

static void
require_ssl(const TruckerConnection *connection, Keywords *all)
{
	for (int i = 0; i < all->n; i++)
	{
		if (strcmp(all->keywords[i], "sslmode") != 0)
			continue;
		if (strcmp(all->values[i], "disable") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION),
					 errmsg("connection \"%s\" is not encrypted", connection->name),
					 errdetail("Its option \"sslmode\" is \"disable\", and trucker.require_ssl is on.")));
		/* these two would send the password, and go on, without encryption */
		if (strcmp(all->values[i], "prefer") == 0 || strcmp(all->values[i], "allow") == 0)
			all->values[i] = "require";
	}
	add_default(all, "sslmode", "require");
}

static void
build_keywords(const TruckerConnection *connection, const char *application_name, Keywords *all)
{
	const char *timeout = option_value(connection, "connect_timeout");
	const char *file = option_value(connection, "password_file");
	ListCell   *lc;

	all->n = 0;
	foreach(lc, connection->options)
	{
		DefElem    *def = lfirst(lc);
		const TruckerConnectionOption *option = trucker_connection_option(def->defname);

		if (option == NULL || !option->for_libpq || defGetString(def)[0] == '\0')
			continue;
		/* to what is in a mapping both validators have seen */
		if (foreach_current_index(lc) < connection->nserver)
			check_option_trusted(connection, option);
		set_keyword(all, option->name, defGetString(def));
	}
	if (file)
		add_keyword(all, "password", read_password_file(connection, file));
	check_revocation_list(connection);
	if (trucker_require_ssl)
		require_ssl(connection, all);

	add_default(all, "application_name", application_name);
	add_keyword(all, "client_encoding", GetDatabaseEncodingName());
	add_default(all, "gssencmode", "disable");
	add_default(all, "keepalives_idle", "30");
	add_default(all, "keepalives_interval", "10");
	add_default(all, "keepalives_count", "3");
	/* also limits how long one address may take to answer */
	add_default(all, "tcp_user_timeout",
				psprintf("%s000", timeout ? timeout : CppAsString2(DEFAULT_CONNECT_TIMEOUT)));
	if (option_value(connection, "service") == NULL)
	{
		add_default(all, "passfile", NO_FILE);
		add_default(all, "sslcert", NO_FILE);
		add_default(all, "sslkey", NO_FILE);
		add_default(all, "sslrootcert", NO_FILE);
		add_default(all, "sslcrl", NO_FILE);
	}
	all->keywords[all->n] = NULL;
	all->values[all->n] = NULL;
}

/* ----
 * Connecting
 * ----
 */

static void
replace_all(StringInfo text, const char *what, const char *by)
{
	StringInfoData result;
	const char *p = text->data;
	const char *found;

	initStringInfo(&result);
	while ((found = strstr(p, what)) != NULL)
	{
		appendBinaryStringInfo(&result, p, found - p);
		appendStringInfoString(&result, by);
		p = found + strlen(what);
	}
	appendStringInfoString(&result, p);
	*text = result;
}

/*
 * What libpq says, without whereto and as whom: "connection to server at ... failed: "
 * goes, and what the options say is replaced where it stands in quotes.
 */
static char *
clean_message(const TruckerConnection *connection, const char *message)
{
	StringInfoData text;
	const char *line = message;
	ListCell   *lc;

	initStringInfo(&text);
	while (*line != '\0')
	{
		size_t		len = strcspn(line, "\n");
		char	   *copy = pnstrdup(line, len);
		char	   *failed = strstr(copy, " failed: ");

		if (strncmp(copy, "connection to server ", 21) == 0 && failed)
			copy = failed + strlen(" failed: ");
		if (copy[0] != '\0')
			appendStringInfo(&text, "%s%s", text.len > 0 ? "\n" : "", copy);
		line += len + (line[len] == '\n' ? 1 : 0);
	}
	foreach(lc, connection->options)
	{
		DefElem    *def = lfirst(lc);
		const TruckerConnectionOption *option = trucker_connection_option(def->defname);

		if (option == NULL || !option->identifying || defGetString(def)[0] == '\0')
			continue;
		replace_all(&text, psprintf("\"%s\"", defGetString(def)), psprintf("(%s)", option->name));
		replace_all(&text, psprintf("'%s'", defGetString(def)), psprintf("(%s)", option->name));
	}
	return text.data;
}

/* What a program says that has been given the connection's parameters, cleaned likewise. */
char *
trucker_connection_clean_output(const TruckerConnection *connection, const char *program, const char *output)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, output);
	replace_all(&text, psprintf("%s: error: ", program), "");
	replace_all(&text, psprintf("%s: ", program), "");
	return clean_message(connection, text.data);
}

/* How many hosts are to be tried? */
static int
host_count(const TruckerConnection *connection)
{
	const char *hosts = option_value(connection, "host");
	int			count = 1;

	if (hosts == NULL)
		hosts = option_value(connection, "hostaddr");
	for (; hosts && *hosts; hosts++)
		count += *hosts == ',' ? 1 : 0;
	return count;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
}

static void
check_established(const TruckerConnection *connection, const TruckerConn *conn)
{
	if (PQstatus(conn->pg) != CONNECTION_OK)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to connection \"%s\"", connection->name),
				 errdetail_internal("%s", clean_message(connection, PQerrorMessage(conn->pg)))));
	if (trucker_require_ssl && !PQsslInUse(conn->pg))
		ereport(ERROR,
				(errcode(ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION),
				 errmsg("connection \"%s\" is not encrypted", connection->name),
				 errdetail("trucker.require_ssl is on.")));
	if (connection->password_required && !PQconnectionUsedPassword(conn->pg))
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("The other server has not asked for the password of connection \"%s\"; so it has let in this server, and not role \"%s\", which is no superuser.",
						   connection->name, GetUserNameFromId(connection->role, true)),
				 errhint("Use an authentication method with a password there, or let a superuser set the option \"password_required\" of the user mapping to false.")));
}

/*
 * Connect.  The result belongs to the current memory context.  Needs no transaction;
 * the name service, should it hang, cannot be interrupted ("hostaddr" does without).
 */
TruckerConn *
trucker_connection_open(const TruckerConnection *connection, const char *application_name)
{
	const char *timeout = option_value(connection, "connect_timeout");
	int			seconds = timeout ? atoi(timeout) : DEFAULT_CONNECT_TIMEOUT;
	Keywords	all;
	TruckerConn *conn;

	build_keywords(connection, application_name, &all);
	seconds = Min(Max(seconds, 1), 3600) * host_count(connection);
	conn = trucker_conn_start(all.keywords, all.values, seconds * 1000,
							  psprintf("could not connect to connection \"%s\"", connection->name));
	check_established(connection, conn);
	conn->command_context = "remote SQL";
	PQsetNoticeReceiver(conn->pg, ignore_notice, NULL);
	PQsetnonblocking(conn->pg, 1);
	return conn;
}

/*
 * What libpq needs to connect there, for a program: keywords and values (char *) in turn,
 * with secrets among them.
 */
List *
trucker_connection_parameters(const TruckerConnection *connection)
{
	Keywords	all;
	List	   *parameters = NIL;

	build_keywords(connection, "trucker", &all);
	for (int i = 0; i < all.n; i++)
	{
		parameters = lappend(parameters, pstrdup(all.keywords[i]));
		parameters = lappend(parameters, pstrdup(all.values[i]));
	}
	return parameters;
}

/* ----
 * Servers that trucks use
 * ----
 */

/*
 * A foreign server is about to be dropped or renamed: an error if a truck writes to
 * it.  (Trucks are rows, not objects; so there is no dependency that could say so.)
 */
void
trucker_connection_refuse_drop(Oid server_id)
{
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	TruckerCatalog access;
	char	   *truck = NULL;
	char	   *server;

	if (!OidIsValid(get_extension_oid("trucker", true)) ||
		!OidIsValid(get_relname_relid("truck", get_namespace_oid(TRUCKER_SCHEMA, true))))
		return;
	server = GetForeignServer(server_id)->servername;
	values[0] = CStringGetTextDatum(server);
	trucker_catalog_begin(&access);
	if (trucker_catalog_execute("SELECT name FROM trucker.truck WHERE output_connection = $1 ORDER BY name LIMIT 1",
								1, types, values, NULL, SPI_OK_SELECT) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(access.result_context);

		truck = trucker_text_column(SPI_tuptable->vals[0], 1);
		MemoryContextSwitchTo(old);
	}
	trucker_catalog_end(&access);
	if (truck)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop or rename server \"%s\" because truck \"%s\" writes to it", server, truck),
				 errhint("SELECT trucker.drop_truck(%s);", quote_literal_cstr(truck))));
}
