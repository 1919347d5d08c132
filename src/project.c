/*
 * project.c
 *	  A project's folder to the structs of project.h.
 *
 *		trucker.yml					connections, defaults; must be there
 *		my_truck/truck.yml			input, output, options
 *		my_truck/input.sql			optional
 *		my_truck/output.sql			optional where output.table is given
 *		my_truck/truncate.sql		optional: what a TRUNCATE of an input table runs
 *		my_truck/reset.sql			optional: what empties the destination for resync()
 *		trucks/my_truck/...			likewise
 *
 * All that is wrong is collected, so that whoever writes a project does not correct it
 * one error at a time; trucker_project_raise() then raises one error that lists it.
 * What cannot be read at all, because of its rights or its size, is in that list as
 * well.
 */
#include "trucker.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "checklist.h"
#include "project.h"
#include "project_files.h"

/* the SQL of a truck */
static const struct
{
	const char *name;
	size_t		offset;
}			sql_files[] = {
	{"input.sql", offsetof(TruckerProjectTruck, input_sql)},
	{"output.sql", offsetof(TruckerProjectTruck, output_sql)},
	{"truncate.sql", offsetof(TruckerProjectTruck, truncate_sql)},
	{"reset.sql", offsetof(TruckerProjectTruck, reset_sql)},
};

/* Add an error that was raised over a file, whose name its message may hold already. */
static void
add_caught(TruckerProjectErrors *errors, const char *name, const ErrorData *error)
{
	bool		named = strstr(error->message, name) != NULL;

	trucker_project_error(errors, "%s%s%s%s%s%s%s", named ? "" : name, named ? "" : ": ", error->message,
						  error->detail ? ".  " : "", error->detail ? error->detail : "",
						  error->hint ? ".  " : "", error->hint ? error->hint : "");
}

/* ----
 * Reading files
 * ----
 */

typedef struct FileTask
{
	const char *dir;
	const char *name;
	bool		missing_ok;
	char	   *text;
	List	   *names;			/* of a folder */
	TruckerProjectText *file;
	TruckerYaml *root;
} FileTask;

static const char *
do_read(TruckerChecklist *list, void *arg)
{
	FileTask   *file = arg;

	/* one that leads out of the project may be named in trucker.yml */
	if (file->name[0] == '/')
		file->text = trucker_project_read_path(pstrdup(file->name), false);
	else
		file->text = trucker_project_read(file->dir, file->name, file->missing_ok);
	return NULL;
}

static const char *
do_list(TruckerChecklist *list, void *arg)
{
	FileTask   *folder = arg;

	folder->names = trucker_project_list(folder->dir, folder->name, folder->missing_ok);
	return NULL;
}

/* The text of a file; NULL: there is none, or it has been complained of. */
static char *
read_file(TruckerProject *project, const char *name)
{
	FileTask	file = {.dir = project->dir, .name = name, .missing_ok = true};
	const char *result;
	ErrorData  *error = trucker_checklist_try(do_read, &file, &result);

	if (error)
		add_caught(&project->errors, name, error);
	return error ? NULL : file.text;
}

static List *
list_folder(TruckerProject *project, const char *name)
{
	FileTask	folder = {.dir = project->dir, .name = name, .missing_ok = true};
	const char *result;
	ErrorData  *error = trucker_checklist_try(do_list, &folder, &result);

	if (error)
		add_caught(&project->errors, name, error);
	return error ? NIL : folder.names;
}

/* What the server's environment says; NULL: nothing. */
static const char *
environment(const char *name)
{
	char	   *value = getenv(name);

	if (value && !pg_verifymbstr(value, strlen(value), true))
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("environment variable \"%s\" is not valid in encoding \"%s\"", name, GetDatabaseEncodingName())));
	return value;
}

static const char *
do_parse(TruckerChecklist *list, void *arg)
{
	FileTask   *file = arg;

	file->root = trucker_project_text_read(file->file, environment);
	return NULL;
}

/*
 * Read a YAML file.  *file becomes what places in it refer to; NULL: there is none.
 * Returns false if it has been complained of, and what it says is not known.
 */
static bool
read_yaml(TruckerProject *project, const char *name, TruckerProjectText **file, TruckerYaml **root)
{
	FileTask	read = {.dir = project->dir};
	int			before = project->errors.count;
	char	   *source = read_file(project, name);
	const char *result;
	ErrorData  *error;

	*file = NULL;
	*root = NULL;
	if (source == NULL)
		return project->errors.count == before;
	*file = palloc0(sizeof(TruckerProjectText));
	(*file)->name = pstrdup(name);
	(*file)->source = source;
	(*file)->errors = &project->errors;
	read.file = *file;
	error = trucker_checklist_try(do_parse, &read, &result);
	if (error)
		add_caught(&project->errors, name, error);
	*root = read.root;
	return project->errors.count == before;
}

/* ----
 * Connections
 * ----
 */

/* Without the white space around it. */
static char *
trim(char *text)
{
	size_t		len;

	text += strspn(text, " \t\r\n\f\v");
	len = strlen(text);
	while (len > 0 && strchr(" \t\r\n\f\v", text[len - 1]))
		len--;
	return pnstrdup(text, len);
}

/* The absolute path of a file that trucker.yml names. */
static char *
path_of(const TruckerProject *project, const TruckerProjectValue *path)
{
	char	   *result = is_absolute_path(path->text) ? pstrdup(path->text) : psprintf("%s/%s", project->dir, path->text);

	canonicalize_path(result);
	return result;
}

/*
 * Read the file that a value is in; complains if it cannot be read, or is empty.
 * NULL: it has been complained of.
 */
static char *
read_value_file(TruckerProject *project, const TruckerProjectValue *path)
{
	FileTask	file = {.dir = project->dir, .name = path_of(project, path)};
	const char *result;
	ErrorData  *error = trucker_checklist_try(do_read, &file, &result);

	if (error)
		trucker_project_complain(path->file, path->start, "%s", error->message);
	else if (trim(file.text)[0] == '\0')
		trucker_project_complain(path->file, path->start, "the file that is named here is empty");
	else
		return file.text;
	return NULL;
}

static void
take_value_file(TruckerProject *project, TruckerProjectValue *value, const TruckerProjectValue *path)
{
	char	   *text;

	if (path->text == NULL || value->text)
		return;
	text = read_value_file(project, path);
	if (text == NULL)
		return;
	*value = *path;
	value->text = trim(text);
}

/* Cut off at its end as a password_file is. */
static char *
without_line_end(const char *text)
{
	size_t		len = strlen(text);

	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	return pnstrdup(text, len);
}

/*
 * A password stays in its file: what is kept is the path.  It is looked at here, so
 * that one that is missing is found now.
 */
static void
take_password_file(TruckerProject *project, TruckerProjectConnection *connection)
{
	char	   *text;

	if (connection->pass_path.text == NULL || connection->pass.text)
		return;
	text = read_value_file(project, &connection->pass_path);
	if (text == NULL)
		return;
	if (strcmp(trim(text), without_line_end(text)) != 0)
		trucker_project_complain(connection->file, connection->pass_path.start,
								 "the file that is named here holds white space around the password, which would count");
	connection->password_file = path_of(project, &connection->pass_path);
}

static bool
is_sslmode(const char *text)
{
	static const char *const modes[] = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full", "true", "false"};

	for (int i = 0; i < lengthof(modes); i++)
		if (strcmp(text, modes[i]) == 0)
			return true;
	return false;
}

/* Take over the files that a connection names, and check what was in them. */
static void
complete_connection(TruckerProject *project, TruckerProjectConnection *connection)
{
	take_value_file(project, &connection->host, &connection->host_path);
	take_value_file(project, &connection->port, &connection->port_path);
	take_value_file(project, &connection->database, &connection->database_path);
	take_value_file(project, &connection->user, &connection->user_path);
	take_value_file(project, &connection->ssl, &connection->ssl_path);
	take_password_file(project, connection);
	if (connection->port.text && connection->port_path.text && !trucker_project_is_port(connection->port.text))
		trucker_project_complain(connection->file, connection->port.start,
								 "the file that is named here must hold a port: a number from 1 to 65535");
	if (connection->ssl.text && connection->ssl.text[0] != '\0' && !is_sslmode(connection->ssl.text))
		trucker_project_complain(connection->file, connection->ssl.start,
								 "\"ssl\" must be one of disable, allow, prefer, require, verify-ca, verify-full, true, false");
}

/* ----
 * Trucks
 * ----
 */

static bool
knows_connection(const TruckerProject *project, const TruckerProjectValue *value)
{
	return value->text == NULL || !project->readable || strcmp(value->text, "local") == 0 ||
		trucker_project_connection(project, value->text);
}

static void
check_connection(const TruckerProject *project, const TruckerProjectValue *value)
{
	if (!knows_connection(project, value))
		trucker_project_complain(value->file, value->start, "connection %s is not defined in %s",
								 trucker_project_value_shown(value), TRUCKER_PROJECT_FILE);
}

/* A file that holds SQL holds more than white space. */
static void
check_not_empty(TruckerProject *project, const char *folder, const char *file, const char *text)
{
	if (text && text[strspn(text, " \t\r\n\f\v")] == '\0')
		trucker_project_error(&project->errors, "%s/%s: the file is empty", folder, file);
}

/* What the files of a truck must be together. */
static void
check_files(TruckerProject *project, TruckerProjectTruck *truck)
{
	const char *run = truck->on_truncate.text;

	if (truck->output_sql == NULL && truck->output_table.text == NULL)
		trucker_project_error(&project->errors, "%s/output.sql: the file is missing, and %s/%s has no \"table\" in \"output\"",
							  truck->folder, truck->folder, TRUCKER_TRUCK_FILE);
	if (truck->output_sql && truck->mode.text)
		trucker_project_complain(truck->file, truck->mode.start,
								 "\"mode\" is of no use where there is an output.sql");
	if (truck->truncate_sql == NULL && run && strcmp(run, "run") == 0)
		trucker_project_error(&project->errors, "%s/truncate.sql: the file is missing, and \"on_truncate\" is \"run\"", truck->folder);
	if (truck->truncate_sql && run && strcmp(run, "run") != 0)
		trucker_project_complain(truck->file, truck->on_truncate.start,
								 "truncate.sql is never run, as \"on_truncate\" is not \"run\"");
}

static bool
is_sql_file(const char *name)
{
	size_t		len = strlen(name);

	return len > 4 && strcmp(name + len - 4, ".sql") == 0;
}

/* The SQL that is beside a truck.yml.  A slip of the pen in a file's name is not to be passed over. */
static void
read_sql(TruckerProject *project, TruckerProjectTruck *truck)
{
	List	   *names = list_folder(project, truck->folder);
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		bool		known = false;

		for (int i = 0; i < lengthof(sql_files); i++)
		{
			char	   *text;

			if (strcmp(sql_files[i].name, name) != 0)
				continue;
			known = true;
			text = read_file(project, psprintf("%s/%s", truck->folder, name));
			check_not_empty(project, truck->folder, name, text);
			*(char **) ((char *) truck + sql_files[i].offset) = text;
		}
		if (!known && is_sql_file(name))
			trucker_project_error(&project->errors,
								  "%s/%s: unknown file; the SQL of a truck is in input.sql, output.sql, truncate.sql and reset.sql",
								  truck->folder, name);
	}
}

static void
add_truck(TruckerProject *project, const char *folder, const char *name)
{
	TruckerProjectText *file;
	TruckerProjectTruck *truck;
	TruckerYaml *root;
	bool		readable = read_yaml(project, psprintf("%s/%s", folder, TRUCKER_TRUCK_FILE), &file, &root);
	ListCell   *lc;

	if (file == NULL)
		return;
	truck = readable ? trucker_project_read_truck(file, root) : palloc0(sizeof(TruckerProjectTruck));
	truck->file = file;
	truck->name = pstrdup(name);
	truck->folder = pstrdup(folder);
	if (strlen(name) >= NAMEDATALEN)
		trucker_project_error(&project->errors, "%s: the name of a truck has at most %d bytes", folder, NAMEDATALEN - 1);
	foreach(lc, project->trucks)
		if (strcmp(((TruckerProjectTruck *) lfirst(lc))->name, name) == 0)
			trucker_project_error(&project->errors, "%s: there is another truck \"%s\", in %s", folder, name,
								  ((TruckerProjectTruck *) lfirst(lc))->folder);
	read_sql(project, truck);
	if (readable)
	{
		check_files(project, truck);
		check_connection(project, &truck->input_connection);
		check_connection(project, &truck->output_connection);
	}
	project->trucks = lappend(project->trucks, truck);
}

/* A folder in which there are SQL files of a truck, but no truck.yml, is a mistake. */
static void
look_into(TruckerProject *project, const char *folder, const char *name)
{
	TruckerFileKind kind;

	if (trucker_project_file_kind(project->dir, folder) != TRUCKER_FILE_FOLDER)
		return;
	kind = trucker_project_file_kind(project->dir, psprintf("%s/%s", folder, TRUCKER_TRUCK_FILE));
	if (kind != TRUCKER_FILE_NONE)
	{
		add_truck(project, folder, name);
		return;
	}
	for (int i = 0; i < lengthof(sql_files); i++)
		if (trucker_project_file_kind(project->dir, psprintf("%s/%s", folder, sql_files[i].name)) == TRUCKER_FILE_REGULAR)
		{
			trucker_project_error(&project->errors, "%s/%s: the file is missing", folder, TRUCKER_TRUCK_FILE);
			return;
		}
}

static int
compare_trucks(const ListCell *a, const ListCell *b)
{
	return strcmp(((TruckerProjectTruck *) lfirst(a))->name, ((TruckerProjectTruck *) lfirst(b))->name);
}

static void
read_trucks(TruckerProject *project)
{
	ListCell   *lc;

	foreach(lc, list_folder(project, ""))
	{
		const char *name = lfirst(lc);

		/* the folders that mean something else */
		if (strcmp(name, "trucks") != 0 && strcmp(name, "migrate") != 0)
			look_into(project, name, name);
	}
	foreach(lc, list_folder(project, "trucks"))
		look_into(project, psprintf("trucks/%s", (char *) lfirst(lc)), lfirst(lc));
	list_sort(project->trucks, compare_trucks);
}

/* ----
 * All of it
 * ----
 */

/*
 * Read a project, whose folder trucker_project_dir() has found.  What is wrong is in
 * project->errors.  Allocated in the current memory context, and in a transaction.
 */
TruckerProject *
trucker_project_read_folder(const char *dir)
{
	TruckerProject *project = palloc0(sizeof(TruckerProject));
	TruckerProjectText *file;
	TruckerYaml *root;
	ListCell   *lc;

	project->dir = pstrdup(dir);
	project->id = project->dir;
	trucker_project_errors_init(&project->errors);
	project->readable = read_yaml(project, TRUCKER_PROJECT_FILE, &file, &root);
	if (file == NULL && project->readable)
	{
		trucker_project_error(&project->errors, "%s: the file is missing", TRUCKER_PROJECT_FILE);
		project->readable = false;
	}
	if (project->readable)
	{
		int			before = project->errors.count;

		trucker_project_read_root(project, file, root);
		foreach(lc, project->connections)
			complete_connection(project, lfirst(lc));
		if (project->unique_id.text && project->unique_id.text[0] != '\0')
			project->id = project->unique_id.text;
		/* a connection whose definition is wrong is not to be reported as missing, too */
		project->readable = project->errors.count == before;
	}
	read_trucks(project);
	trucker_project_fit_scratch(project);
	return project;
}

/* Raise an error that lists all that is wrong, if anything is. */
void
trucker_project_raise(const TruckerProject *project)
{
	const TruckerProjectErrors *errors = &project->errors;

	if (errors->count == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("project \"%s\" has %s", project->dir,
					errors->count == 1 ? "an error" : psprintf("%d errors", errors->count)),
			 errdetail_internal("%s%s", errors->lines.data,
								errors->count > 100 ? psprintf("\nand %d more", errors->count - 100) : ""),
			 errhint("Nothing has been changed.")));
}

/*
 * Read a project for the current user, who must have the right to, and raise what is
 * wrong with it.  dir may be NULL: trucker.project_dir.
 */
TruckerProject *
trucker_project_load(const char *dir)
{
	TruckerProject *project;

	trucker_project_check_rights();
	project = trucker_project_read_folder(trucker_project_dir(dir));
	trucker_project_raise(project);
	return project;
}
