/*
 * project_files.c
 *	  The files of a project: where it is, who may read it, reading it.
 *
 * Files are read by the server, with the rights of its operating system user.  So who
 * reads a project must be one who may read the server's files anyway: a superuser or
 * a member of pg_read_server_files.  It is the current user who is looked at, as
 * pg_read_file() does: in a SECURITY DEFINER function that is its owner, who has lent
 * his rights, or has none to lend.  Who may read one file of the server's may read all
 * of them, so a symbolic link that leads out of the project is followed.  Names that
 * come from the database (a connection, a version) and become a part of a path are not
 * to lead anywhere else: trucker_project_path() refuses "..", for it is never meant.
 *
 * Nothing here waits: what is no regular file (a pipe, a device) is not read.
 *
 * A file is UTF-8, as editors and git have it, and arrives in the encoding of the
 * database.  A byte order mark is dropped.
 */
#include "trucker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"

#include "project_files.h"

/* May the current user read files of the server's? */
bool
trucker_project_may_read(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES);
}

/* Raises an error if the current user may not. */
void
trucker_project_check_rights(void)
{
	if (!trucker_project_may_read())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read the files of a project"),
				 errdetail("They are read with the rights of the server's operating system user."),
				 errhint("A superuser may, and so may a member of pg_read_server_files.")));
}

/*
 * The project's folder: what an argument says, or trucker.project_dir where it is
 * NULL.  In canonical form, palloc'd.  That there is such a folder is checked.
 */
char *
trucker_project_dir(const char *dir)
{
	bool		given = dir != NULL;
	char	   *path = pstrdup(given ? dir : trucker_project_dir_setting ? trucker_project_dir_setting : "");
	struct stat st;

	if (path[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no project"),
				 errdetail("Neither the argument \"dir\" nor trucker.project_dir names a folder."),
				 errhint("ALTER DATABASE ... SET trucker.project_dir = '/path/of/the/project';")));
	if (!is_absolute_path(path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the project's folder \"%s\" is not an absolute path", path),
				 given ? errhint("The path is the server's, not the client's.") :
				 errhint("Set trucker.project_dir to an absolute path.")));
	canonicalize_path(path);
	if (stat(path, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the project's folder \"%s\": %m", path),
				 errhint("The folder must be on the server's machine, and readable by its operating system user.")));
	if (!S_ISDIR(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the project \"%s\" is not a folder", path),
				 errhint("A project is the folder that holds trucker.yml.")));
	return path;
}

/* Does a part of the path read ".."? */
static bool
leads_up(const char *path)
{
	for (const char *p = path; *p != '\0';)
	{
		size_t		len = strcspn(p, "/");

		if (len == 2 && strncmp(p, "..", 2) == 0)
			return true;
		p += len + (p[len] == '/' ? 1 : 0);
	}
	return false;
}

/* The path of what is called name in the project. */
char *
trucker_project_path(const char *dir, const char *name)
{
	char	   *path;

	if (name[0] == '/' || leads_up(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" leads out of the project \"%s\"", name, dir)));
	path = name[0] == '\0' ? pstrdup(dir) : psprintf("%s/%s", dir, name);
	if (strlen(path) >= MAXPGPATH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the path of \"%s\" in the project is too long", name)));
	return path;
}

/* What is there under that name? */
TruckerFileKind
trucker_project_file_kind(const char *dir, const char *name)
{
	struct stat st;

	if (stat(trucker_project_path(dir, name), &st) != 0)
		return errno == ENOENT || errno == ENOTDIR ? TRUCKER_FILE_NONE : TRUCKER_FILE_OTHER;
	if (S_ISREG(st.st_mode))
		return TRUCKER_FILE_REGULAR;
	return S_ISDIR(st.st_mode) ? TRUCKER_FILE_FOLDER : TRUCKER_FILE_OTHER;
}

/* Read what is in an open file; how many bytes those are, at most one more than allowed. */
static size_t
read_all(int fd, const char *path, char *buffer)
{
	size_t		len = 0;

	while (len <= TRUCKER_MAX_PROJECT_FILE)
	{
		ssize_t		n = read(fd, buffer + len, TRUCKER_MAX_PROJECT_FILE + 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", path)));
		if (n == 0)
			break;
		len += n;
	}
	return len;
}

/* What was read becomes text of the database's; raises an error that names the file. */
static char *
to_text(const char *path, char *bytes, size_t len)
{
	int			valid;

	if (len > TRUCKER_MAX_PROJECT_FILE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("file \"%s\" is too large", path),
				 errdetail("A file of a project has at most %d bytes.", TRUCKER_MAX_PROJECT_FILE)));
	if (len >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0)
	{
		bytes += 3;
		len -= 3;
	}
	bytes[len] = '\0';
	if (memchr(bytes, '\0', len) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("file \"%s\" holds a character with code zero", path),
				 errhint("A file of a project is text.")));
	valid = pg_encoding_verifymbstr(PG_UTF8, bytes, len);
	if (valid != len)
	{
		int			line = 1;

		for (int i = 0; i < valid; i++)
			line += bytes[i] == '\n' ? 1 : 0;
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("file \"%s\" is not valid UTF-8 in line %d", path, line),
				 errhint("Save it as UTF-8.")));
	}
	return pg_any_to_server(bytes, len, PG_UTF8);
}

/* While a file's text is converted: which one it is. */
static void
file_context(void *arg)
{
	errcontext("file \"%s\"", (const char *) arg);
}

/*
 * The text of a file, palloc'd.  NULL, with missing_ok, if there is none.  Raises an
 * error that names the file if it cannot be read, is no regular file, is larger than
 * TRUCKER_MAX_PROJECT_FILE, or holds what is no text.
 */
char *
trucker_project_read_path(char *path, bool missing_ok)
{
	/* opening a pipe would wait for who writes it */
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	ErrorContextCallback callback = {error_context_stack, file_context, path};
	struct stat st;
	char	   *bytes;
	char	   *text;
	size_t		len;

	if (fd < 0 && missing_ok && (errno == ENOENT || errno == ENOTDIR))
		return NULL;
	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (!S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path)));
	bytes = palloc(TRUCKER_MAX_PROJECT_FILE + 2);
	len = read_all(fd, path, bytes);
	CloseTransientFile(fd);

	error_context_stack = &callback;
	text = to_text(path, bytes, len);
	error_context_stack = callback.previous;
	text = pstrdup(text);
	pfree(bytes);
	return text;
}

/* A name becomes text of the database's, and must lead back to its file. */
static void
check_file_name(const char *path, const char *name)
{
	if (pg_encoding_verifymbstr(PG_UTF8, name, strlen(name)) != strlen(name))
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("a name in folder \"%s\" is not valid UTF-8", path)));
	for (const char *p = name; GetDatabaseEncoding() != PG_UTF8 && *p != '\0'; p++)
		if (IS_HIGHBIT_SET(*p))
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("a name in folder \"%s\" is not ASCII", path),
					 errdetail("In a database whose encoding is not UTF8 the names of a project's files must be.")));
}

/* Likewise, of a file of the project. */
char *
trucker_project_read(const char *dir, const char *name, bool missing_ok)
{
	return trucker_project_read_path(trucker_project_path(dir, name), missing_ok);
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/*
 * The names (char *) in a folder of the project ("": the project itself), in the order
 * of their bytes.  Hidden ones, which begin with a dot, are left out.  With missing_ok,
 * a folder that is not there is empty.
 */
List *
trucker_project_list(const char *dir, const char *name, bool missing_ok)
{
	char	   *path = trucker_project_path(dir, name);
	DIR		   *folder = AllocateDir(path);
	struct dirent *entry;
	List	   *names = NIL;

	if (folder == NULL && missing_ok && errno == ENOENT)
		return NIL;
	/* raises an error if the folder could not be opened */
	while ((entry = ReadDir(folder, path)) != NULL)
	{
		if (entry->d_name[0] == '.')
			continue;
		check_file_name(path, entry->d_name);
		names = lappend(names, pstrdup(entry->d_name));
	}
	FreeDir(folder);
	list_sort(names, compare_names);
	return names;
}
