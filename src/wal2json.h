/*
 * wal2json.h
 *	  Private to the files of the decoder for wal2json, and to decode_wal2json().
 */
#ifndef TRUCKER_WAL2JSON_H
#define TRUCKER_WAL2JSON_H

#include "decoder.h"

/* makes numbers come as strings, NaN and infinity among them */
#define TRUCKER_WAL2JSON_EXACT_OPTION "numeric-data-types-as-string"

/* in wal2json_version.c */
extern const TruckerDecoder *trucker_wal2json_installed(void);
extern void trucker_wal2json_refused(const char *message);

/* in wal2json_options.c */
extern void trucker_wal2json_append_options(StringInfo buf, const TruckerDecodeRequest *request);
extern void trucker_wal2json_append_exact_options(StringInfo buf, const TruckerDecodeRequest *request);

/* in wal2json.c */
extern void trucker_wal2json_decode_any(const char *data, int len, TruckerMessage *message, XLogRecPtr *lsn);

/* in wal2json_v1.c */
extern bool trucker_wal2json_is_v1(const char *data, int len);
extern List *trucker_wal2json_decode_v1(const char *data, int len);

#endif							/* TRUCKER_WAL2JSON_H */
