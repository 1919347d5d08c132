/*
 * fuzz_pgoutput.c
 *	  Whatever the bytes are: the decoder for pgoutput decodes them, or refuses them with
 *	  ERRCODE_PROTOCOL_VIOLATION.
 *
 * An input is a stream of messages, each behind its length in two bytes: what one of
 * them describes is what the next ones are read by.  Each of them is put where nothing
 * follows that could be read by mistake.
 */
#include "postgres.h"

#include "pgoutput.h"

#include "server.h"

/* The options that it is asked with are not what is tested. */
void
trucker_pgoutput_append_options(StringInfo buf, const TruckerDecodeRequest *request)
{
	fuzz_fail("nobody asks for options here");
}

typedef struct Input
{
	void	   *state;			/* of the stream; or of what is kept of a transaction in progress */
	const char *data;
	int			len;
	TruckerMessage message;
	bool		wanted;
} Input;

static void
decode(void *arg)
{
	Input	   *input = arg;

	input->wanted = trucker_pgoutput.decode(input->state, input->data, input->len, &input->message);
}

static void
read_fields(const TruckerField *fields, int n)
{
	for (int i = 0; i < n; i++)
	{
		(void) strlen(fields[i].name);
		if (fields[i].value == NULL)
			continue;
		if (fields[i].value[fields[i].len] != '\0')
			fuzz_fail("a value without a zero byte behind it");
		if (!fields[i].binary && strlen(fields[i].value) != fields[i].len)
			fuzz_fail("a text is shorter than it is said to be");
	}
}

/* Read all that the message points at. */
static void
read_message(const TruckerMessage *message)
{
	for (; message; message = message->also)
	{
		if (message->decoder != &trucker_pgoutput)
			fuzz_fail("a message without its decoder");
		read_fields(message->newfields, message->nnew);
		read_fields(message->oldfields, message->nold);
		if (message->kind == TRUCKER_MSG_LOGICAL)
		{
			(void) strlen(message->content);
			if (strcmp(message->prefix, "trucker") != 0)
				fuzz_fail("a logical message of somebody else");
		}
		else if (message->kind == TRUCKER_MSG_INSERT || message->kind == TRUCKER_MSG_UPDATE ||
				 message->kind == TRUCKER_MSG_DELETE || message->kind == TRUCKER_MSG_TRUNCATE)
			(void) (strlen(message->schema) + strlen(message->table));
	}
}

/* Decode what would be kept until its transaction has committed: by another state. */
static void
read_kept(void *state, const TruckerMessage *kept)
{
	Input		input = {state, kept->kept, kept->keptlen};
	int			sqlstate;

	if (kept->xid == 0 || kept->subxid == 0)
		fuzz_fail("a kept message of no transaction");
	if (!fuzz_try(decode, &input, &sqlstate))
	{
		if (sqlstate != ERRCODE_PROTOCOL_VIOLATION)
			fuzz_fail("an error that is no protocol violation");
	}
	else if (input.wanted)
	{
		if (input.message.kind >= TRUCKER_MSG_STREAM_START)
			fuzz_fail("a transaction in progress within another one");
		read_message(&input.message);
	}
}

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TruckerDecodeRequest of_kept = {.message_prefix = "trucker"};
	TruckerDecodeRequest request = {.message_prefix = "trucker", .in_progress = true};
	void	   *kept = trucker_pgoutput.begin(&of_kept);
	Input		input = {trucker_pgoutput.begin(&request)};

	while (size >= 2)
	{
		size_t		len = Min((size_t) data[0] << 8 | data[1], size - 2);
		char	   *message = memcpy(palloc(len), data + 2, len);
		int			sqlstate;

		input.data = message;
		input.len = len;
		data += 2 + len;
		size -= 2 + len;
		if (fuzz_try(decode, &input, &sqlstate))
		{
			/* by then the stream's buffer may hold the next one */
			memset(message, 'x', len);
			pfree(message);
			if (input.wanted && input.message.kind == TRUCKER_MSG_STREAM_KEEP)
				read_kept(kept, &input.message);
			else if (input.wanted)
				read_message(&input.message);
		}
		else if (sqlstate != ERRCODE_PROTOCOL_VIOLATION)
			fuzz_fail("an error that is no protocol violation");
	}
	fuzz_reset();
	return 0;
}
