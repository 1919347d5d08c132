/*
 * project.h
 *	  A project as its files describe it.
 *
 * What stands in a file keeps its place there, so that an error that is found later
 * (a table that does not exist) can name it.
 */
#ifndef TRUCKER_PROJECT_H
#define TRUCKER_PROJECT_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "template.h"
#include "yaml_reader.h"

#define TRUCKER_PROJECT_FILE "trucker.yml"
#define TRUCKER_TRUCK_FILE "truck.yml"

/* What is wrong with a project: all of it, before anything is done. */
typedef struct TruckerProjectErrors
{
	int			count;
	StringInfoData lines;
} TruckerProjectErrors;

/* A YAML file. */
typedef struct TruckerProjectText
{
	const char *name;			/* in the project: "my_truck/truck.yml" */
	const char *source;
	TruckerTemplateMap map;
	TruckerProjectErrors *errors;
} TruckerProjectText;

/* A value in a YAML file. */
typedef struct TruckerProjectValue
{
	char	   *text;			/* NULL: it is not given */
	const TruckerProjectText *file;
	int			start;			/* in the rendered text */
	int			end;
} TruckerProjectValue;

/* A connection that trucker.yml defines. */
typedef struct TruckerProjectConnection
{
	TruckerProjectValue name;
	TruckerProjectValue adapter;
	TruckerProjectValue host;
	TruckerProjectValue port;
	TruckerProjectValue database;
	TruckerProjectValue user;
	TruckerProjectValue pass;
	TruckerProjectValue ssl;
	/* names of files that hold the value; project.c reads them */
	TruckerProjectValue host_path;
	TruckerProjectValue port_path;
	TruckerProjectValue database_path;
	TruckerProjectValue user_path;
	TruckerProjectValue pass_path;
	TruckerProjectValue ssl_path;
	TruckerProjectValue migrate;
	const TruckerYaml *options; /* further options of the foreign server; or NULL */
	const TruckerProjectText *file;

	char	   *password_file;	/* absolute path of what pass_path names; or NULL */
	bool		migrate_auto;	/* pending migrations are run by start() */
	bool		known_here;		/* is_here has been found out */
	bool		is_here;		/* it leads to this very database */
	bool		no_password;	/* a role that is no superuser needs none */
} TruckerProjectConnection;

/* A truck: a folder with a truck.yml. */
typedef struct TruckerProjectTruck
{
	char	   *name;
	char	   *folder;			/* in the project */
	const TruckerProjectText *file;
	TruckerProjectValue input_connection;
	List	   *tables;			/* of TruckerProjectValue * */
	const TruckerYaml *only_columns;	/* or NULL */
	const TruckerYaml *except_columns;
	TruckerProjectValue output_connection;
	TruckerProjectValue output_table;
	TruckerProjectValue mode;
	TruckerProjectValue stream;
	TruckerProjectValue changes;
	TruckerProjectValue on_error;
	TruckerProjectValue on_truncate;
	TruckerProjectValue role;
	TruckerProjectValue toast;
	TruckerProjectValue backfill;	/* "true", "false" */
	TruckerProjectValue inserts_only;
	TruckerProjectValue slow_query_threshold_ms;
	char	   *input_sql;		/* what the files hold; NULL: there is none */
	char	   *output_sql;
	char	   *truncate_sql;
	char	   *reset_sql;
} TruckerProjectTruck;

typedef struct TruckerProject
{
	char	   *dir;
	char	   *id;				/* unique_id, or the folder */
	TruckerProjectErrors errors;
	bool		readable;		/* trucker.yml could be read: its connections are known */
	TruckerProjectValue unique_id;
	TruckerProjectValue slow_query_threshold_ms;
	List	   *connections;	/* of TruckerProjectConnection *, in the order of the file */
	List	   *trucks;			/* of TruckerProjectTruck *, in the order of their names */
} TruckerProject;

/* in project_text.c */
extern void trucker_project_errors_init(TruckerProjectErrors *errors);
extern void trucker_project_error(TruckerProjectErrors *errors, const char *fmt,...) pg_attribute_printf(2, 3);
extern void trucker_project_complain(const TruckerProjectText *file, int start, const char *fmt,...) pg_attribute_printf(3, 4);
extern char *trucker_project_shown(const TruckerProjectText *file, int start, int end, const char *text);
extern char *trucker_project_value_shown(const TruckerProjectValue *value);
extern TruckerYaml *trucker_project_text_read(TruckerProjectText *file, const char *(*environment) (const char *name));

/* in project_yaml.c */
extern void trucker_project_read_root(TruckerProject *project, const TruckerProjectText *file, const TruckerYaml *root);
extern TruckerProjectTruck *trucker_project_read_truck(const TruckerProjectText *file, const TruckerYaml *root);
extern bool trucker_project_is_port(const char *text);
extern TruckerProjectConnection *trucker_project_connection(const TruckerProject *project, const char *name);

/* in project.c */
extern TruckerProject *trucker_project_read_folder(const char *dir);
extern TruckerProject *trucker_project_load(const char *dir);
extern void trucker_project_raise(const TruckerProject *project);

/* in project_connection.c */
extern bool trucker_project_writes_elsewhere(const TruckerProject *project, const TruckerProjectTruck *truck);
extern List *trucker_project_server_options(const TruckerProjectConnection *connection);
extern List *trucker_project_mapping_options(const TruckerProjectConnection *connection);
extern void trucker_project_note_here(TruckerProjectConnection *connection);
extern bool trucker_project_is_here(TruckerProjectConnection *connection);

/* in project_scratch.c */
extern void trucker_project_fit_scratch(TruckerProject *project);

#endif							/* TRUCKER_PROJECT_H */
