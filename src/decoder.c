/*
 * decoder.c
 *	  The decoders that there are, by the names of their output plugins.
 *
 * Which one reads a stream is no decision of its own: a slot is made for one output
 * plugin, and whoever has the slot's name can ask for it.
 */
#include "trucker.h"

#include <sys/stat.h>

#include "fmgr.h"
#include "miscadmin.h"

#include "decoder.h"

static const TruckerDecoder *const decoders[TRUCKER_PLUGINS] = {
	[TRUCKER_PLUGIN_WAL2JSON] = &trucker_wal2json,
	[TRUCKER_PLUGIN_PGOUTPUT] = &trucker_pgoutput
};

/* The decoder of an output plugin's messages; NULL: there is none. */
const TruckerDecoder *
trucker_decoder_find(const char *plugin)
{
	for (int i = 0; i < lengthof(decoders); i++)
		if (strcmp(decoders[i]->plugin, plugin) == 0)
			return decoders[i];
	return NULL;
}

/* The decoder of the messages of the version that is installed now. */
const TruckerDecoder *
trucker_decoder_installed(const TruckerDecoder *decoder)
{
	return decoder->installed ? decoder->installed() : decoder;
}

/*
 * The file that an output plugin is loaded from: the first one of its name in the
 * directories that the server looks in; NULL: there is none.
 */
char *
trucker_decoder_library(const char *plugin)
{
	const char *path = Dynamic_library_path;

	while (path && *path)
	{
		int			len = (int) strcspn(path, ":");
		char	   *directory = pnstrdup(path, len);
		char	   *file;
		struct stat st;

		if (strncmp(directory, "$libdir", 7) == 0)
			directory = psprintf("%s%s", pkglib_path, directory + 7);
		file = psprintf("%s/%s%s", directory, plugin, DLSUFFIX);
		if (stat(file, &st) == 0)
			return file;
		path += len + (path[len] == ':' ? 1 : 0);
	}
	return NULL;
}

/* The decoder for a stream for which that plugin is set, or NULL: none is. */
const TruckerDecoder *
trucker_decoder_wanted(const char *plugin)
{
	return trucker_decoder_find(plugin ? plugin : decoders[trucker_output_plugin]->plugin);
}
