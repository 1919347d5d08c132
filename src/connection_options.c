/*
 * connection_options.c
 *	  The options of foreign servers and user mappings, and their validator.
 *
 * They are libpq's keywords, as far as they make sense for a worker, and a few of
 * our own.  Who may set which: what makes the server read a file of its operating
 * system user's, or use a certificate of it, is the superuser's; a user's password
 * belongs into the user mapping, where PostgreSQL hides it.
 *
 * An empty value is refused: libpq takes it for none at all, and would complete the
 * connection from somewhere else.
 */
#include "trucker.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "connection.h"

PG_FUNCTION_INFO_V1(trucker_fdw_validator);

/* a name that differs by more is no slip of the pen */
#define MAX_DISTANCE 3

/* in the order of their names */
static const TruckerConnectionOption connection_options[] = {
	{"adapter", TRUCKER_ON_SERVER, false, false, false},
	{"application_name", TRUCKER_ON_SERVER, false, true, false},
	{"channel_binding", TRUCKER_ON_SERVER, false, true, false},
	{"connect_timeout", TRUCKER_ON_SERVER, false, false, false},
	{"dbname", TRUCKER_ON_SERVER, false, true, true},
	{"gssencmode", TRUCKER_ON_SERVER, false, true, false},
	{"gsslib", TRUCKER_ON_SERVER, false, true, false},
	{"host", TRUCKER_ON_SERVER, false, true, true},
	{"hostaddr", TRUCKER_ON_SERVER, false, true, true},
	{"keepalives", TRUCKER_ON_SERVER, false, true, false},
	{"keepalives_count", TRUCKER_ON_SERVER, false, true, false},
	{"keepalives_idle", TRUCKER_ON_SERVER, false, true, false},
	{"keepalives_interval", TRUCKER_ON_SERVER, false, true, false},
	{"krbsrvname", TRUCKER_ON_SERVER, false, true, false},
	{"lock_timeout", TRUCKER_ON_SERVER, false, false, false},
	{"options", TRUCKER_ON_SERVER, true, true, false},
	{"passfile", TRUCKER_ON_SERVER | TRUCKER_ON_MAPPING, true, true, true},
	{"password", TRUCKER_ON_MAPPING, false, true, true},
	{"password_file", TRUCKER_ON_MAPPING, true, false, true},
	{"password_required", TRUCKER_ON_MAPPING, false, false, false},
	{"port", TRUCKER_ON_SERVER, false, true, true},
	{"position_schema", TRUCKER_ON_SERVER, false, false, false},
	{"requirepeer", TRUCKER_ON_SERVER, false, true, false},
	{"service", TRUCKER_ON_SERVER, true, true, true},
	{"ssl_max_protocol_version", TRUCKER_ON_SERVER, false, true, false},
	{"ssl_min_protocol_version", TRUCKER_ON_SERVER, false, true, false},
	{"sslcert", TRUCKER_ON_SERVER | TRUCKER_ON_MAPPING, true, true, false},
	{"sslcrl", TRUCKER_ON_SERVER, false, true, false},
	{"sslcrldir", TRUCKER_ON_SERVER, false, true, false},
	{"sslkey", TRUCKER_ON_SERVER | TRUCKER_ON_MAPPING, true, true, false},
	{"sslmode", TRUCKER_ON_SERVER, false, true, false},
	{"sslpassword", TRUCKER_ON_MAPPING, false, true, true},
	{"sslrootcert", TRUCKER_ON_SERVER, false, true, false},
	{"sslsni", TRUCKER_ON_SERVER, false, true, false},
	{"statement_timeout", TRUCKER_ON_SERVER, false, false, false},
	{"target_session_attrs", TRUCKER_ON_SERVER, false, true, false},
	{"tcp_user_timeout", TRUCKER_ON_SERVER, false, true, false},
	{"user", TRUCKER_ON_MAPPING, false, true, true},
};

/* The option of this name; NULL: there is none. */
const TruckerConnectionOption *
trucker_connection_option(const char *name)
{
	for (int i = 0; i < lengthof(connection_options); i++)
		if (strcmp(connection_options[i].name, name) == 0)
			return &connection_options[i];
	return NULL;
}

/* Names what was perhaps meant, and what there is. */
static char *
valid_options_hint(const char *name, int where)
{
	StringInfoData hint;
	StringInfoData list;
	const char *closest = NULL;
	int			distance = MAX_DISTANCE + 1;

	initStringInfo(&hint);
	initStringInfo(&list);
	for (int i = 0; i < lengthof(connection_options); i++)
	{
		const TruckerConnectionOption *option = &connection_options[i];
		int			d;

		if ((option->where & where) == 0)
			continue;
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", option->name);
		if (strlen(name) >= NAMEDATALEN)
			continue;
		d = varstr_levenshtein(name, strlen(name), option->name, strlen(option->name), 1, 1, 1, true);
		if (d < distance && d <= (int) strlen(name) / 2)
		{
			distance = d;
			closest = option->name;
		}
	}
	if (closest)
		appendStringInfo(&hint, "Perhaps you meant \"%s\".  ", closest);
	appendStringInfo(&hint, "Valid options here are: %s.", list.data);
	return hint.data;
}

static void
check_place(const char *name, int where)
{
	const TruckerConnectionOption *option = trucker_connection_option(name);

	if (option == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", name),
				 errhint("%s", valid_options_hint(name, where))));
	if ((option->where & where) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" belongs to %s", name,
						where == TRUCKER_ON_SERVER ? "a user mapping" : "the foreign server"),
				 errhint("%s", valid_options_hint(name, where))));
	if (option->superuser_only && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("option \"%s\" is superuser-only", name),
				 errdetail("It would let a connection use what belongs to the server's operating system user.")));
}

static void
raise_value(const char *name, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("option \"%s\" must be %s", name, wanted)));
}

static void
check_number(const char *name, const char *value, int min)
{
	char	   *end;
	long		number;

	errno = 0;
	number = strtol(value, &end, 10);
	if (errno != 0 || *end != '\0' || number < min || number > PG_INT32_MAX)
		raise_value(name, psprintf("an integer of %d or more", min));
}

static void
check_word(const char *name, const char *value, const char *const *words, const char *list)
{
	for (; *words; words++)
		if (strcmp(*words, value) == 0)
			return;
	raise_value(name, psprintf("one of %s", list));
}

/* Options whose value is one of a few words. */
static const struct
{
	const char *name;
	const char *words[8];
	const char *list;
}			choices[] = {
	{"adapter", {"postgres"}, "postgres"},
	{"sslmode", {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
	"disable, allow, prefer, require, verify-ca, verify-full"},
	{"channel_binding", {"disable", "prefer", "require"}, "disable, prefer, require"},
	{"gssencmode", {"disable", "prefer", "require"}, "disable, prefer, require"},
	{"target_session_attrs", {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
	"any, read-write, read-only, primary, standby, prefer-standby"},
	{"ssl_min_protocol_version", {"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}, "TLSv1, TLSv1.1, TLSv1.2, TLSv1.3"},
	{"ssl_max_protocol_version", {"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}, "TLSv1, TLSv1.1, TLSv1.2, TLSv1.3"},
	{"keepalives", {"0", "1"}, "0, 1"},
	{"sslsni", {"0", "1"}, "0, 1"},
};

static int
count_items(const char *list)
{
	int			n = 1;

	for (; *list != '\0'; list++)
		n += *list == ',' ? 1 : 0;
	return n;
}

/* One port, or a list of them. */
static void
check_ports(const char *name, const char *value)
{
	const char *p = value;

	for (int n = count_items(value); n > 0; n--)
	{
		char	   *end;
		long		port = strtol(p, &end, 10);

		if (end == p || (*end != ',' && *end != '\0') || port < 1 || port > 65535)
			raise_value(name, "a number from 1 to 65535, or several separated by commas");
		p = end + 1;
	}
}

static bool
is_path_option(const char *name)
{
	static const char *const paths[] = {"password_file", "passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"};

	for (int i = 0; i < lengthof(paths); i++)
		if (strcmp(name, paths[i]) == 0)
			return true;
	return false;
}

static void
check_value(DefElem *def)
{
	const char *name = def->defname;
	const char *value = defGetString(def);

	if (value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" is empty", name),
				 errhint("Leave it out, or give it a value.")));
	for (int i = 0; i < lengthof(choices); i++)
		if (strcmp(name, choices[i].name) == 0)
			check_word(name, value, choices[i].words, choices[i].list);
	if (strcmp(name, "connect_timeout") == 0)
		check_number(name, value, 1);
	else if (strcmp(name, "port") == 0)
		check_ports(name, value);
	else if (strcmp(name, "statement_timeout") == 0 || strcmp(name, "lock_timeout") == 0 ||
			 strcmp(name, "tcp_user_timeout") == 0 ||
			 strcmp(name, "keepalives_idle") == 0 || strcmp(name, "keepalives_interval") == 0 ||
			 strcmp(name, "keepalives_count") == 0)
		check_number(name, value, 0);
	else if (is_path_option(name) && !is_absolute_path(value))
		raise_value(name, "an absolute path");
	else if (strcmp(name, "position_schema") == 0 && (strlen(value) >= NAMEDATALEN || strncmp(value, "pg_", 3) == 0))
		raise_value(name, psprintf("a name of 1 to %d bytes that does not begin with \"pg_\"", NAMEDATALEN - 1));
	else if (strcmp(name, "password_required") == 0 && !defGetBoolean(def) && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("option \"password_required\" = false is superuser-only"),
				 errhint("A user mapping with the option \"password\" needs no superuser.")));
}

static const char *
value_of(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

static void
raise_contradiction(const char *what, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("%s", what), errdetail("%s", why), errhint("%s", hint)));
}

/* Options that are right one by one, and wrong together. */
static void
check_together(List *options)
{
	const char *sslmode = value_of(options, "sslmode");
	static const char *const tls[] = {"sslrootcert", "sslcrl", "sslcrldir", "sslcert", "sslkey"};

	const char *host = value_of(options, "host");
	const char *hostaddr = value_of(options, "hostaddr");
	const char *port = value_of(options, "port");
	const char *min = value_of(options, "ssl_min_protocol_version");
	const char *max = value_of(options, "ssl_max_protocol_version");

	if (host && hostaddr && count_items(host) != count_items(hostaddr))
		raise_contradiction("options \"host\" and \"hostaddr\" have different numbers of entries",
							"Each address belongs to the host at the same place.", "Give as many of one as of the other.");
	if (port && count_items(port) > 1 && count_items(port) != (host || hostaddr ? count_items(host ? host : hostaddr) : 1))
		raise_contradiction("options \"host\" and \"port\" have different numbers of entries",
							"Each port belongs to the host at the same place.", "Give one port for all, or one for each.");
	/* their names are in the order of the versions */
	if (min && max && strcmp(min, max) > 0)
		raise_contradiction("option \"ssl_min_protocol_version\" is beyond \"ssl_max_protocol_version\"",
							"No version of TLS is left.", "Leave out one of them.");
	if (value_of(options, "password") && value_of(options, "password_file"))
		raise_contradiction("options \"password\" and \"password_file\" exclude each other",
							"Both say what the password is.", "Leave out one of them.");
	if (sslmode && strncmp(sslmode, "verify-", 7) == 0 && value_of(options, "sslrootcert") == NULL)
		raise_contradiction(psprintf("option \"sslmode\" = %s needs option \"sslrootcert\"", sslmode),
							"There is no certificate authority to verify by.",
							"\"sslrootcert\" is the path of the file, on this server, that holds its certificate.");
	for (int i = 0; sslmode && strcmp(sslmode, "disable") == 0 && i < lengthof(tls); i++)
		if (value_of(options, tls[i]))
			raise_contradiction(psprintf("options \"sslmode\" = disable and \"%s\" exclude each other", tls[i]),
								"Without TLS it would never be used.", "Leave out one of them.");
	if ((value_of(options, "sslcert") == NULL) != (value_of(options, "sslkey") == NULL))
		raise_contradiction("options \"sslcert\" and \"sslkey\" need each other",
							"A client certificate is of no use without its key.",
							"Give both in the same place.");
}

/*
 * Check options (DefElem) of a wrapper, a server or a user mapping, as catalog says, for
 * the current user.
 */
void
trucker_connection_check_options(List *options, Oid catalog)
{
	int			where = 0;
	ListCell   *lc;

	if (catalog == ForeignServerRelationId)
		where = TRUCKER_ON_SERVER;
	else if (catalog == UserMappingRelationId)
		where = TRUCKER_ON_MAPPING;
	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (where == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", def->defname),
					 errhint("Options belong to foreign servers and user mappings.")));
		check_place(def->defname, where);
		check_value(def);
	}
	check_together(options);
}

/* fdw_validator(options, catalog): for CREATE and ALTER of wrapper, servers, user mappings */
Datum
trucker_fdw_validator(PG_FUNCTION_ARGS)
{
	trucker_connection_check_options(untransformRelOptions(PG_GETARG_DATUM(0)), PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
