/*
 * yaml_reader.h
 *	  YAML to a tree.  Pure: no file, no catalog.
 *
 * What a configuration file needs of YAML, and no more: mappings, sequences and
 * scalars.  Refused are aliases and anchors, tags, merge keys, keys that are no plain
 * words or occur twice, several documents, and nesting beyond what is of any use.
 */
#ifndef TRUCKER_YAML_READER_H
#define TRUCKER_YAML_READER_H

#include "nodes/pg_list.h"

typedef enum TruckerYamlKind
{
	TRUCKER_YAML_NULL,			/* nothing, ~ or null */
	TRUCKER_YAML_SCALAR,
	TRUCKER_YAML_LIST,
	TRUCKER_YAML_MAP
} TruckerYamlKind;

typedef struct TruckerYaml
{
	TruckerYamlKind kind;
	int			start;			/* where it stands in the text, in bytes */
	int			end;
	char	   *text;			/* of a scalar, in the encoding of the database */
	bool		quoted;			/* it was: a number or a truth value is none then */
	List	   *keys;			/* of a mapping: scalars, in the order of the file */
	List	   *values;			/* of a mapping or a list */
} TruckerYaml;

/* Is told of what is wrong, and where. */
typedef void (*TruckerYamlComplain) (void *arg, int start, int end, const char *message);

/* in yaml_reader.c */
extern TruckerYaml *trucker_yaml_read(const char *text, TruckerYamlComplain complain, void *arg);

#endif							/* TRUCKER_YAML_READER_H */
