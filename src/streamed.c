/*
 * streamed.c
 *	  Transactions that are sent while they run are kept until they have committed.
 *
 * Nothing of a transaction may be applied before it is known to commit: not only because
 * it may abort, but because what others commit meanwhile comes first, and because the
 * truck's SQL shall see the tables as they are when it has.  So its messages go to a
 * temporary file as they come, and are read from there, as if they came then, when its
 * commit does.  What is gained is that by then all has been decoded and sent, and that the
 * walsender need not spill it.
 *
 * A subtransaction that is rolled back takes with it all that has been kept since its first
 * change: what came later is its own, or that of subtransactions within it.  But the server
 * does not always tell: not of one with so many changes that were spilled before they could be
 * sent that it read them back in several goes, as the chunks of one large value are
 * (ReorderBufferTruncateTXN() takes it for one of which nothing has been sent).  So what has
 * become of each one is looked up when the transaction has committed.
 *
 * Nothing here outlives the connection.  After the next one has been made the walsender
 * sends again what had not committed, from its beginning.
 *
 * Files here live across transactions; trucker_streamed_clear() ends them.
 */
#include "postgres.h"

#include "access/clog.h"
#include "access/transam.h"
#include "common/hashfn.h"

#include "streamed.h"
#include "temp_file.h"

/* A subtransaction has had its first change there; later ones follow. */
typedef struct FirstChange
{
	TransactionId subxid;		/* hash key */
	char		status;			/* simplehash's */
	bool		taken_back;		/* it was rolled back, and nobody has said so */
	int64		at;
} FirstChange;

#define SH_PREFIX first
#define SH_ELEMENT_TYPE FirstChange
#define SH_KEY_TYPE TransactionId
#define SH_KEY subxid
#define SH_HASH_KEY(tb, key) murmurhash32(key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* One transaction. */
typedef struct Kept
{
	TransactionId xid;			/* hash key */
	char		status;			/* simplehash's */
	TruckerTempFile *file;
	int64		end;			/* of what counts in it, in bytes */
	TransactionId last;			/* the (sub)transaction of the last message; or invalid */
	first_hash *firsts;			/* of its subtransactions */
} Kept;

#define SH_PREFIX kept
#define SH_ELEMENT_TYPE Kept
#define SH_KEY_TYPE TransactionId
#define SH_KEY xid
#define SH_HASH_KEY(tb, key) murmurhash32(key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct TruckerStreamed
{
	MemoryContext context;
	kept_hash  *transactions;
	TransactionId reading;		/* the one that has committed, and is being read; or invalid */
	int64		at;				/* how far */
};

/* In front of each message in a file. */
typedef struct KeptHeader
{
	XLogRecPtr	lsn;
	int32		len;
	TransactionId subxid;
} KeptHeader;

/* In the current memory context, which must not end before trucker_streamed_clear(). */
TruckerStreamed *
trucker_streamed_create(void)
{
	TruckerStreamed *streamed = palloc0(sizeof(TruckerStreamed));

	streamed->context = CurrentMemoryContext;
	streamed->transactions = kept_create(CurrentMemoryContext, 8, NULL);
	return streamed;
}

static Kept *
find(TruckerStreamed *streamed, TransactionId xid)
{
	Kept	   *kept = kept_lookup(streamed->transactions, xid);

	if (kept == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received a message about transaction %u in progress, of which no part has been sent", xid)));
	return kept;
}

static void
forget(TruckerStreamed *streamed, Kept *kept)
{
	trucker_temp_file_end(kept->file);
	first_destroy(kept->firsts);
	kept_delete_item(streamed->transactions, kept);
}

bool
trucker_streamed_is_empty(const TruckerStreamed *streamed)
{
	return streamed->transactions->members == 0;
}

/* End all files. */
void
trucker_streamed_clear(TruckerStreamed *streamed)
{
	kept_iterator iterator;
	Kept	   *kept;

	streamed->reading = InvalidTransactionId;
	kept_start_iterate(streamed->transactions, &iterator);
	while ((kept = kept_iterate(streamed->transactions, &iterator)) != NULL)
		trucker_temp_file_end(kept->file);
	kept_reset(streamed->transactions);
}

/* A part of a transaction begins. */
static void
begin_part(TruckerStreamed *streamed, TransactionId xid)
{
	MemoryContext context = CurrentMemoryContext;
	first_hash *firsts;
	TruckerTempFile *file;
	Kept	   *kept;
	bool		found;

	if (kept_lookup(streamed->transactions, xid) != NULL)
		return;
	MemoryContextSwitchTo(streamed->context);
	firsts = first_create(streamed->context, 8, NULL);
	file = trucker_temp_file_create();
	MemoryContextSwitchTo(context);

	kept = kept_insert(streamed->transactions, xid, &found);
	kept->file = file;
	kept->end = 0;
	kept->last = InvalidTransactionId;
	kept->firsts = firsts;
}

static void
keep(Kept *kept, const TruckerMessage *message)
{
	KeptHeader	header;

	/* no padding may be written as it happens to be */
	memset(&header, 0, sizeof(header));
	header.lsn = message->lsn;
	header.len = message->keptlen;
	header.subxid = message->subxid;
	if (message->subxid != kept->last && message->subxid != kept->xid)
	{
		bool		found;
		FirstChange *first = first_insert(kept->firsts, message->subxid, &found);

		if (!found)
		{
			first->at = kept->end;
			first->taken_back = false;
		}
	}
	kept->last = message->subxid;
	trucker_temp_file_append(kept->file, &header, sizeof(header));
	trucker_temp_file_append(kept->file, message->kept, message->keptlen);
	kept->end += sizeof(header) + message->keptlen;
}

/* One of its subtransactions is rolled back. */
static void
take_back(Kept *kept, TransactionId subxid)
{
	FirstChange *first = first_lookup(kept->firsts, subxid);

	/* it may have had no change that was sent */
	if (first == NULL)
		return;
	if (first->at < kept->end)
	{
		kept->end = first->at;
		trucker_temp_file_cut(kept->file, kept->end);
	}
	kept->last = InvalidTransactionId;
	first_delete_item(kept->firsts, first);
}

/* Take a message about transactions in progress, but for their commit. */
void
trucker_streamed_take(TruckerStreamed *streamed, const TruckerMessage *message)
{
	switch (message->kind)
	{
		case TRUCKER_MSG_STREAM_START:
			begin_part(streamed, message->xid);
			break;
		case TRUCKER_MSG_STREAM_KEEP:
			keep(find(streamed, message->xid), message);
			break;
		case TRUCKER_MSG_STREAM_ABORT:
			if (message->subxid == message->xid)
				forget(streamed, find(streamed, message->xid));
			else
				take_back(find(streamed, message->xid), message->subxid);
			break;
		default:
			Assert(message->kind == TRUCKER_MSG_STREAM_STOP);
			break;
	}
}

/*
 * Which subtransactions were rolled back?  That was noted before the transaction could commit,
 * and those within them were noted with them.  The slot holds back the catalogs' freezing, and
 * so the end of these notes.
 */
static void
look_up_firsts(Kept *kept)
{
	first_iterator iterator;
	FirstChange *first;

	first_start_iterate(kept->firsts, &iterator);
	while ((first = first_iterate(kept->firsts, &iterator)) != NULL)
	{
		XLogRecPtr	lsn;

		first->taken_back = TransactionIdGetStatus(first->subxid, &lsn) == TRANSACTION_STATUS_ABORTED;
	}
}

/* The transaction has committed: its messages can be had from trucker_streamed_next(). */
void
trucker_streamed_read(TruckerStreamed *streamed, TransactionId xid)
{
	Kept	   *kept = find(streamed, xid);

	Assert(!TransactionIdIsValid(streamed->reading));
	look_up_firsts(kept);
	streamed->reading = xid;
	streamed->at = 0;
}

static bool
is_taken_back(const Kept *kept, TransactionId subxid)
{
	FirstChange *first = subxid == kept->xid ? NULL : first_lookup(kept->firsts, subxid);

	return first != NULL && first->taken_back;
}

/*
 * Its next message, in the current memory context, and the LSN that it came with.  False:
 * there are no more, and the transaction is forgotten.  taken_back: the message is no change
 * of it, but may describe a table, which is not described again to those that are.
 */
bool
trucker_streamed_next(TruckerStreamed *streamed, XLogRecPtr *lsn, char **data, int *len, bool *taken_back)
{
	Kept	   *kept = find(streamed, streamed->reading);
	KeptHeader	header;

	if (streamed->at >= kept->end)
	{
		forget(streamed, kept);
		streamed->reading = InvalidTransactionId;
		return false;
	}
	trucker_temp_file_read(kept->file, streamed->at, &header, sizeof(header));
	*lsn = header.lsn;
	*len = header.len;
	*taken_back = is_taken_back(kept, header.subxid);
	*data = palloc(header.len);
	trucker_temp_file_read(kept->file, streamed->at + sizeof(header), *data, header.len);
	streamed->at += sizeof(header) + header.len;
	return true;
}
