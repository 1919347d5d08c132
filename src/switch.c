/*
 * switch.c
 *	  A stream gets another output plugin, and loses and repeats nothing.
 *
 * A slot is made for one plugin, but a copy of it can be made for another one, at the
 * same LSN.  So a stream is switched between two passes: a new stream with such a copy
 * takes over all its trucks, and becomes the home in its place; the old one, which
 * carries nobody any more, goes with its slot.  All of it is catalog: first the new
 * stream's row, then its slot, then in one transaction the trucks.  Whatever happens in
 * between, the trucks are where they were, and the rest is found and dropped.
 *
 * pgoutput must also have a publication that holds the trucks' tables, from before what
 * they have yet to read (publication.c).  Until that is so the old plugin reads on.  So
 * one that cannot go on at all cannot be switched away from to pgoutput: from the
 * publication's point of view all that is yet to be read is too old.
 *
 * Catch-up streams are not switched: their trucks join the home, whatever reads that,
 * under the same condition.
 */
#include "trucker.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "log.h"
#include "publication.h"
#include "shmem.h"
#include "slots.h"
#include "stream.h"

/* how often to look whether a stream can be switched */
#define SWITCH_CHECK_MS 200

/* ... after an attempt has failed, or while no slot is free */
#define SWITCH_RETRY_MS 5000

/* The stream's publication, if its slot is read with one; else NULL. */
const char *
trucker_switch_publication(const TruckerStreamRow *stream)
{
	const TruckerDecoder *decoder;
	TruckerSlotInfo info;

	if (stream->slot_name == NULL || trucker_slot_find(stream->slot_name, &info) < 0)
		return NULL;
	decoder = trucker_decoder_find(info.plugin);
	return decoder && decoder->needs_publication ? stream->publication : NULL;
}

/*
 * Does a truck that rides on the one stream, and has applied all before lsn, get from the
 * other one what it needs?  In a transaction.
 */
bool
trucker_switch_suits(const TruckerStreamRow *from, const TruckerStreamRow *to,
					 const TruckerMember *member, XLogRecPtr lsn)
{
	const char *publication = trucker_switch_publication(to);
	const char *own = trucker_switch_publication(from);

	return publication == NULL || (own && strcmp(own, publication) == 0) ||
		trucker_publication_covers(publication, member->truck, member->unloaded, lsn);
}

/* ----
 * What has to be there first
 * ----
 */

typedef struct Preparation
{
	const TruckerStream *stream;
	const TruckerStreamRow *target;
} Preparation;

/* Are all active trucks' tables in the target's publication? */
static bool
prepare(void *arg)
{
	Preparation *preparation = arg;
	List	   *trucks = NIL;
	ListCell   *lc;

	foreach(lc, preparation->stream->members)
		if (((TruckerMember *) lfirst(lc))->active)
			trucks = lappend(trucks, ((TruckerMember *) lfirst(lc))->truck);
	trucker_publication_settle(trucker_publication_prepare(&preparation->target->id, trucks));
	return true;
}

/* Do the active trucks, which have applied all before lsn, get all from that publication? */
static bool
are_covered(const TruckerStream *stream, const char *publication, XLogRecPtr lsn)
{
	bool		covered = true;
	ListCell   *lc;

	foreach(lc, stream->members)
	{
		TruckerMember *member = lfirst(lc);

		covered = covered && (!member->active || trucker_publication_covers(publication, member->truck, member->unloaded, lsn));
	}
	return covered;
}

/* The target's row as it is now, in the current memory context. */
static TruckerStreamRow *
reread(const TruckerStreamRow *row)
{
	TruckerStreamRow *current;

	trucker_transition_begin();
	current = trucker_state_stream(&row->id);
	trucker_transition_commit();
	return current;
}

/*
 * See to it that the target's publication gives the stream's active trucks all from lsn
 * on; true: it does.  With no batch open.
 */
static bool
get_covered(const TruckerStream *stream, const TruckerStreamRow *target, XLogRecPtr lsn)
{
	static TimestampTz retry_at = 0;
	Preparation preparation = {stream, target};
	TimestampTz now = GetCurrentTimestamp();
	bool		covered;

	trucker_transition_begin();
	covered = target->publication && are_covered(stream, target->publication, lsn);
	trucker_transition_commit();
	if (covered || now < retry_at)
		return covered;
	/* a table that is not fit is no reason to fill the log */
	retry_at = TimestampTzPlusMilliseconds(now, SWITCH_RETRY_MS);
	if (!trucker_catalog_try(prepare, &preparation) || (target = reread(target)) == NULL)
		return false;
	retry_at = 0;
	trucker_transition_begin();
	covered = target->publication && are_covered(stream, target->publication, lsn);
	trucker_transition_commit();
	return covered;
}

/* Let the home be such that the trucks of this catch-up stream can join; true: it is. */
bool
trucker_switch_prepare_to_join(const TruckerStream *stream, const TruckerStreamRow *home)
{
	const char *publication = trucker_switch_publication(home);
	const char *own = trucker_switch_publication(stream->row);

	return publication == NULL || (own && strcmp(own, publication) == 0) ||
		get_covered(stream, home, stream->applied);
}

/* ----
 * Switching
 * ----
 */

/*
 * Shall the stream be read by another plugin, and can it be now?  With no batch open.
 */
bool
trucker_switch_is_due(TruckerStream *stream)
{
	const TruckerDecoder *wanted = trucker_decoder_wanted(stream->row->output_plugin);
	TimestampTz now = GetCurrentTimestamp();
	TruckerSlotInfo info;

	if (!stream->row->home || now < stream->switch_at || stream->row->slot_name == NULL ||
		trucker_slot_find(stream->row->slot_name, &info) < 0 || strcmp(info.plugin, wanted->plugin) == 0)
		return false;
	stream->switch_at = TimestampTzPlusMilliseconds(now, SWITCH_CHECK_MS);
	if (trucker_slots_free() == 0)
	{
		stream->switch_at = TimestampTzPlusMilliseconds(now, SWITCH_RETRY_MS);
		ereport(trucker_elevel(TRUCKER_LOG_WARN),
				(errmsg("stream \"%s\" cannot be switched to %s yet: no replication slot is free",
						stream->row->name, wanted->plugin), errhidecontext(true)));
		return false;
	}
	/* the copy stands where the slot is confirmed, not where the trucks are */
	return !wanted->needs_publication || get_covered(stream, stream->row, info.confirmed_lsn);
}

/* Hand all trucks to the new stream, and let it be the home; false: it has got none. */
static bool
hand_over(TruckerStream *stream, const pg_uuid_t *to_id)
{
	TruckerStreamRow *locked;
	TruckerStreamRow *to;
	bool		any = false;
	ListCell   *lc;

	trucker_transition_begin();
	locked = trucker_state_lock_stream(&stream->row->id);
	to = trucker_state_lock_stream(to_id);
	if (locked && locked->home && to)
	{
		foreach(lc, stream->members)
		{
			TruckerMember *member = lfirst(lc);

			/* one that somebody is just altering catches up with the others later */
			if (trucker_state_lock_truck(&member->truck_id, &stream->id) &&
				trucker_switch_suits(stream->row, to, member, trucker_slot_confirmed(to->slot_name)) &&
				trucker_state_hand_over(&member->truck_id, &stream->id, to_id, trucker_position_confirmable(member->position)))
				any = true;
		}
		if (any)
		{
			trucker_state_set_home(&stream->id, false);
			trucker_state_set_home(to_id, true);
		}
	}
	trucker_transition_commit();
	return any;
}

/* A truck of the stream's role and name; NULL: all have been altered, and will leave. */
static TruckerMember *
first_at_home(const TruckerStream *stream)
{
	ListCell   *lc;

	foreach(lc, stream->members)
		if (!((TruckerMember *) lfirst(lc))->misplaced)
			return lfirst(lc);
	return NULL;
}

static bool
switch_stream(void *arg)
{
	TruckerStream *stream = arg;
	const TruckerDecoder *wanted = trucker_decoder_wanted(stream->row->output_plugin);
	TruckerMember *first = first_at_home(stream);
	char	   *slot_name = trucker_slot_new_name();
	TruckerStreamRow *row = reread(stream->row);
	pg_uuid_t	id;

	if (row == NULL || first == NULL)
		return false;
	trucker_worker_set_splitting(true);
	trucker_transition_begin();
	id = trucker_state_add_catchup(first->truck, slot_name, wanted->needs_publication ? row->publication : NULL);
	trucker_transition_commit();
	trucker_stop_point("switch: recorded");
	trucker_transition_copy_slot(row->slot_name, slot_name, wanted->plugin);
	trucker_stop_point("switch: copied");
	if (!hand_over(stream, &id))
		return false;
	trucker_stop_point("switch: moved");
	ereport(trucker_elevel(TRUCKER_LOG_INFO),
			(errmsg("stream \"%s\" is decoded by %s from %X/%X on", stream->row->name, wanted->plugin,
					LSN_FORMAT_ARGS(trucker_slot_confirmed(slot_name))), errhidecontext(true)));
	return true;
}

/*
 * Switch the stream, if it is still possible, between two passes.  True: another stream
 * carries its trucks now.  An error is only logged, and leaves all as it was.
 */
bool
trucker_switch(TruckerStream *stream)
{
	bool		done;

	stream->switches = false;
	done = trucker_catalog_try(switch_stream, stream);
	trucker_worker_set_splitting(false);
	if (!done)
		stream->switch_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SWITCH_RETRY_MS);
	/* for the new stream, or what is left of it */
	trucker_request_scan(MyDatabaseId);
	return done;
}
