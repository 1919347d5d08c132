/*
 * needs.c
 *	  Which columns of an input table those need who read its changes.
 *
 * A truck needs the columns of r that its SQL reads, and those that tell the table's
 * rows apart; of each the old value as well, where an unchanged TOAST value may be found.
 * What several trucks need together is what is kept of a change for them (batch.c), and
 * what a publication would have to hold.
 *
 * Columns are told by attnum, which no ALTER TABLE changes.  It is found out when a truck's
 * SQL is compiled.  That may be done anew at any time, and then something else may be
 * needed: of what was kept before, trucker_needs_cover() says whether it will do.
 */
#include "trucker.h"

#include "access/htup_details.h"

#include "needs.h"

/* Nothing, in the current memory context. */
TruckerNeeds *
trucker_needs_create(void)
{
	TruckerNeeds *needs = palloc0(sizeof(TruckerNeeds));

	needs->natts = MaxHeapAttributeNumber;
	return needs;
}

static bool
is_needed(const TruckerRelation *relation, int attnum)
{
	return relation->need_new[attnum - 1] || relation->need_old[attnum - 1];
}

/*
 * A stored generated column that the plugin leaves out is computed from others, which are
 * found out only when the first change comes (generated.c).
 */
static bool
needs_generated(const TruckerRelation *relation)
{
	for (int attnum = 1; attnum <= relation->desc->natts; attnum++)
		if (TupleDescAttr(relation->desc, attnum - 1)->attgenerated && is_needed(relation, attnum))
			return true;
	return false;
}

/* And what a truck needs whose SQL has been compiled for the table.  relation NULL: that is not known. */
void
trucker_needs_add(TruckerNeeds *needs, const TruckerRelation *relation)
{
	if (relation == NULL || needs_generated(relation))
	{
		needs->all = true;
		return;
	}
	needs->natts = Min(needs->natts, relation->desc->natts);
	needs->identity = bms_add_members(needs->identity, relation->identity);
	for (int attnum = 1; attnum <= relation->desc->natts; attnum++)
		if (is_needed(relation, attnum))
			needs->columns = bms_add_member(needs->columns, attnum);
}

bool
trucker_needs_column(const TruckerNeeds *needs, int attnum)
{
	return needs->all || attnum > needs->natts || bms_is_member(attnum, needs->columns);
}

/* Is all that the truck needs by now among it? */
bool
trucker_needs_cover(const TruckerNeeds *needs, const TruckerRelation *relation)
{
	for (int attnum = 1; attnum <= relation->desc->natts; attnum++)
		if (is_needed(relation, attnum) && !trucker_needs_column(needs, attnum))
			return false;
	return true;
}
