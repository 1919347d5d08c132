/*
 * wal2json_version.c
 *	  What the installed version of wal2json offers.
 *
 * It tells its version nowhere before 2.7, and refuses options that it does not know: an
 * error in the log of each server that has an older one, whenever a stream begins.  But
 * the name of an option that it knows stands in its library, as a string of its own; so
 * that is looked for there.  Each walsender loads what is on the disk, so that is looked
 * at whenever one is started, and read again when it is another file.
 *
 * That is told without running anything of it.  Should the plugin refuse the option
 * nevertheless (it was loaded at server start, by shared_preload_libraries, and has been
 * replaced on the disk since), that is remembered of this file.
 *
 * One option makes a difference to what trucks may rely on, numeric-data-types-as-string:
 * from 2.6 on, numbers come as strings, and so NaN and infinity, which JSON does not know,
 * come at all.
 */
#include "trucker.h"

#include <sys/stat.h>

#include "storage/fd.h"

#include "log.h"
#include "wal2json.h"

/* no library of this kind is that large */
#define MAX_LIBRARY (64 * 1024 * 1024)

/* The file that was read last, and what it offers. */
static struct
{
	dev_t		dev;
	ino_t		ino;
	off_t		size;
	struct timespec mtime;
	struct timespec ctime;
	bool		exact;
}			seen;

static bool
is_seen(const struct stat *st)
{
	return seen.dev == st->st_dev && seen.ino == st->st_ino && seen.size == st->st_size &&
		memcmp(&seen.mtime, &st->st_mtim, sizeof(seen.mtime)) == 0 &&
		memcmp(&seen.ctime, &st->st_ctim, sizeof(seen.ctime)) == 0;
}

/* Does this string, whole, stand in the file?  False if it cannot be read. */
static bool
holds_string(const char *path, off_t size, const char *string)
{
	FILE	   *file = size > 0 && size < MAX_LIBRARY ? AllocateFile(path, PG_BINARY_R) : NULL;
	Size		len = strlen(string) + 1;
	bool		found = false;
	char	   *content;
	Size		n;

	if (file == NULL)
		return false;
	content = palloc((Size) size);
	n = fread(content, 1, (Size) size, file);
	FreeFile(file);
	for (Size i = 1; i + len <= n && !found; i++)
		found = content[i] == string[0] && content[i - 1] == '\0' && memcmp(content + i, string, len) == 0;
	pfree(content);
	return found;
}

/* The decoder for the version that is installed now. */
const TruckerDecoder *
trucker_wal2json_installed(void)
{
	char	   *path = trucker_decoder_library(trucker_wal2json.plugin);
	struct stat st;

	if (path == NULL || stat(path, &st) != 0)
		return &trucker_wal2json;
	if (!is_seen(&st))
	{
		seen.exact = holds_string(path, st.st_size, TRUCKER_WAL2JSON_EXACT_OPTION);
		seen.dev = st.st_dev;
		seen.ino = st.st_ino;
		seen.size = st.st_size;
		seen.mtime = st.st_mtim;
		seen.ctime = st.st_ctim;
	}
	return seen.exact ? &trucker_wal2json_exact : &trucker_wal2json;
}

/*
 * Decoding could not be started.  If it is the option that the plugin does not know, the
 * next attempt goes without: values may be lost that start() has promised to carry, so say
 * so.  After any other error the option is kept.
 */
void
trucker_wal2json_refused(const char *message)
{
	if (message == NULL || strstr(message, TRUCKER_WAL2JSON_EXACT_OPTION) == NULL)
		return;
	seen.exact = false;
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
			(errmsg("output plugin \"%s\" is used without the option \"%s\", which its library knows",
					trucker_wal2json.plugin, TRUCKER_WAL2JSON_EXACT_OPTION),
			 errdetail("An older version must be loaded.  With it, NaN and infinity of real, double precision and numeric columns arrive as NULL."),
			 errhint("Restart the server, so that it loads the version that is installed."),
			 errhidecontext(true)));
}
