/*
 * fuzz_wal2json.c
 *	  Whatever the bytes are: both decoders decode them, or refuse them with
 *	  ERRCODE_PROTOCOL_VIOLATION.
 *
 * The two readers of format 2 must agree: what a stream accepts decode_wal2json()
 * accepts as well, and finds the same in it.  But the LSN and the time of a change it
 * reads, and so may refuse, and a stream does not.
 */
#include "postgres.h"

#include "wal2json.h"

#include "server.h"

/* The options that it is asked with are not what is tested. */
void
trucker_wal2json_append_options(StringInfo buf, const TruckerDecodeRequest *request)
{
	fuzz_fail("nobody asks for options here");
}

void
trucker_wal2json_append_exact_options(StringInfo buf, const TruckerDecodeRequest *request)
{
	fuzz_fail("nobody asks for options here");
}

const TruckerDecoder *
trucker_wal2json_installed(void)
{
	return &trucker_wal2json;
}

void
trucker_wal2json_refused(const char *message)
{
	fuzz_fail("nobody starts decoding here");
}

typedef struct Input
{
	const char *data;
	int			len;
	TruckerMessage message;
	XLogRecPtr	lsn;
	List	   *changes;
} Input;

static void
decode_stream(void *arg)
{
	Input	   *input = arg;

	(void) trucker_wal2json.decode(NULL, input->data, input->len, &input->message);
}

static void
decode_any(void *arg)
{
	Input	   *input = arg;

	trucker_wal2json_decode_any(input->data, input->len, &input->message, &input->lsn);
}

static void
decode_v1(void *arg)
{
	Input	   *input = arg;

	(void) trucker_wal2json_is_v1(input->data, input->len);
	input->changes = trucker_wal2json_decode_v1(input->data, input->len);
}

static bool
try_decode(void (*decode) (void *arg), Input *input)
{
	int			sqlstate;

	if (fuzz_try(decode, input, &sqlstate))
		return true;
	if (sqlstate != ERRCODE_PROTOCOL_VIOLATION)
		fuzz_fail("an error that is no protocol violation");
	return false;
}

static Size
read_fields(const TruckerField *fields, int n)
{
	Size		size = 0;

	for (int i = 0; i < n; i++)
		size += strlen(fields[i].name) + (fields[i].value ? strlen(fields[i].value) : 0) +
			(fields[i].type ? strlen(fields[i].type) : 0);
	return size;
}

/* Read every string that the message points at. */
static Size
read_message(const TruckerMessage *message)
{
	Size		size = read_fields(message->newfields, message->nnew) +
		read_fields(message->oldfields, message->nold);

	switch (message->kind)
	{
		case TRUCKER_MSG_LOGICAL:
			return size + strlen(message->prefix) + strlen(message->content);
		case TRUCKER_MSG_BEGIN:
		case TRUCKER_MSG_COMMIT:
			return size;
		default:
			return size + strlen(message->schema) + strlen(message->table);
	}
}

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		stream = {(const char *) data, (int) size};
	Input		any = stream;
	Input		v1 = stream;
	ListCell   *lc;

	if (try_decode(decode_stream, &stream))
	{
		bool		is_change = stream.message.kind != TRUCKER_MSG_BEGIN && stream.message.kind != TRUCKER_MSG_COMMIT;
		Size		strings = read_message(&stream.message);

		if (!try_decode(decode_any, &any))
		{
			if (!is_change)
				fuzz_fail("decode_wal2json() refuses what a stream accepts");
		}
		else if (strings != read_message(&any.message) ||
				 stream.message.kind != any.message.kind || stream.message.xid != any.message.xid ||
				 stream.message.nnew != any.message.nnew || stream.message.nold != any.message.nold)
			fuzz_fail("the readers of format 2 do not agree");
	}
	else if (try_decode(decode_any, &any))
		(void) read_message(&any.message);
	if (try_decode(decode_v1, &v1))
		foreach(lc, v1.changes)
			(void) read_message(lfirst(lc));
	fuzz_reset();
	return 0;
}
