/*
 * decoder.c
 *	  The decoders that there are, by the names of their output plugins.
 *
 * Which one reads a stream is no decision of its own: a slot is made for one output
 * plugin, and whoever has the slot's name can ask for it.
 */
#include "trucker.h"

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

/* The decoder for a stream for which that plugin is set, or NULL: none is. */
const TruckerDecoder *
trucker_decoder_wanted(const char *plugin)
{
	return trucker_decoder_find(plugin ? plugin : decoders[trucker_output_plugin]->plugin);
}
