/*
 * project_files.h
 *	  The files of a project: where it is, who may read it, reading it.
 */
#ifndef TRUCKER_PROJECT_FILES_H
#define TRUCKER_PROJECT_FILES_H

#include "nodes/pg_list.h"

/* No file of a project is larger; what is, was not written by hand. */
#define TRUCKER_MAX_PROJECT_FILE (1024 * 1024)

/* What there is under a name. */
typedef enum TruckerFileKind
{
	TRUCKER_FILE_NONE,			/* nothing */
	TRUCKER_FILE_REGULAR,
	TRUCKER_FILE_FOLDER,
	TRUCKER_FILE_OTHER			/* a pipe, a socket, a device; or we may not look */
} TruckerFileKind;

/* in project_files.c */
extern void trucker_project_check_rights(void);
extern bool trucker_project_may_read(void);
extern char *trucker_project_dir(const char *dir);
extern char *trucker_project_path(const char *dir, const char *name);
extern TruckerFileKind trucker_project_file_kind(const char *dir, const char *name);
extern char *trucker_project_read_path(char *path, bool missing_ok);
extern char *trucker_project_read(const char *dir, const char *name, bool missing_ok);
extern List *trucker_project_list(const char *dir, const char *name, bool missing_ok);

#endif							/* TRUCKER_PROJECT_FILES_H */
