/*
 * pgoutput.h
 *	  Private to the files of the decoder for pgoutput.
 */
#ifndef TRUCKER_PGOUTPUT_H
#define TRUCKER_PGOUTPUT_H

#include "decoder.h"

/* in pgoutput_options.c */
extern void trucker_pgoutput_append_options(StringInfo buf, const TruckerDecodeRequest *request);

#endif							/* TRUCKER_PGOUTPUT_H */
