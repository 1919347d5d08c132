/*
 * temp_file.h
 *	  A temporary file that outlives transactions, and can be ended after any error.
 */
#ifndef TRUCKER_TEMP_FILE_H
#define TRUCKER_TEMP_FILE_H

typedef struct TruckerTempFile TruckerTempFile;

extern TruckerTempFile *trucker_temp_file_create(void);
extern void trucker_temp_file_append(TruckerTempFile *temp, const void *bytes, size_t n);
extern void trucker_temp_file_cut(TruckerTempFile *temp, int64 size);
extern void trucker_temp_file_read(TruckerTempFile *temp, int64 at, void *bytes, size_t n);
extern void trucker_temp_file_end(TruckerTempFile *temp);

#endif							/* TRUCKER_TEMP_FILE_H */
