/*
 * wal2json.h
 *	  Private to the two files of the decoder for wal2json.
 */
#ifndef TRUCKER_WAL2JSON_H
#define TRUCKER_WAL2JSON_H

#include "decoder.h"

/* in wal2json_options.c */
extern void trucker_wal2json_append_options(StringInfo buf, const TruckerDecodeRequest *request);

#endif							/* TRUCKER_WAL2JSON_H */
