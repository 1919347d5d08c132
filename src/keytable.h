/*
 * keytable.h
 *	  A hash table over the keys of one input table's rows.
 */
#ifndef TRUCKER_KEYTABLE_H
#define TRUCKER_KEYTABLE_H

#include "nodes/execnodes.h"

#include "row.h"

/* Belongs to the memory context that it was created in. */
typedef struct TruckerKeyTable
{
	const TruckerRelation *relation;
	bool		hashable;		/* there is a key, and its types can be hashed */
	Size		entry_size;
	TupleHashTable table;		/* NULL until the first key is looked up */
	MemoryContext table_context;	/* of the hash table itself */
	MemoryContext key_context;	/* of the keys in it, and the entries */
	MemoryContext temp_context;
	TupleTableSlot *slot;
	Oid		   *eq_functions;
	FmgrInfo   *hash_functions;
	Oid		   *collations;
	AttrNumber *columns;
} TruckerKeyTable;

/* in keytable.c */
extern TruckerKeyTable *trucker_key_table_create(const TruckerRelation *relation, Size entry_size);
extern void *trucker_key_table_enter(TruckerKeyTable *keys, const Datum *values,
									 const TruckerPresence *presence, bool *isnew);
extern Size trucker_key_table_memory(const TruckerKeyTable *keys);
extern void trucker_key_table_clear(TruckerKeyTable *keys);
extern bool trucker_key_is_unchanged(const TruckerRelation *relation, const TruckerRow *row);

#endif							/* TRUCKER_KEYTABLE_H */
