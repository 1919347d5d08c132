/*
 * temp_file.c
 *	  A temporary file that outlives transactions, and can be ended after any error.
 *
 * The server's BufFile writes what it still has in memory when it is closed.  Where writing
 * has failed, on a full disk or at temp_file_limit, closing it fails again, and the file
 * stays until the process ends.  So this is a buffer of our own on the server's files, as
 * small as appending and reading need.
 *
 * The file lies in pgsql_tmp of the database's default tablespace, belongs to no
 * transaction and no resource owner, counts for temp_file_limit, and goes with the process
 * at the latest.  Errors do not name it: the next attempt's file has another name, and
 * they would be taken for other ones, each to be logged (log.h).
 */
#include "postgres.h"

#include "storage/fd.h"
#include "utils/wait_event.h"

#include "temp_file.h"

struct TruckerTempFile
{
	File		file;
	int64		size;			/* of what has been appended, in bytes */
	int64		written;		/* so much of it is in the file, the rest in the buffer */
	int64		buffer_at;		/* where in the file what is in the buffer belongs */
	int			buffered;
	char		buffer[BLCKSZ];
};

/* In the current memory context. */
TruckerTempFile *
trucker_temp_file_create(void)
{
	TruckerTempFile *temp = palloc(sizeof(TruckerTempFile));

	temp->size = temp->written = temp->buffer_at = 0;
	temp->buffered = 0;
	temp->file = OpenTemporaryFile(true);
	return temp;
}

/* Write what is in memory only.  After an error the file is only good to be ended. */
static void
flush(TruckerTempFile *temp)
{
	while (temp->written < temp->size)
	{
		int			done = FileWrite(temp->file, temp->buffer + (temp->written - temp->buffer_at),
									 (int) (temp->size - temp->written), temp->written,
									 WAIT_EVENT_BUFFILE_WRITE);

		if (done <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write to a temporary file: %m")));
		temp->written += done;
	}
}

void
trucker_temp_file_append(TruckerTempFile *temp, const void *bytes, size_t n)
{
	const char *from = bytes;

	while (n > 0)
	{
		size_t		part;

		/* the buffer must be that of the file's end, and have room */
		if (temp->buffer_at + temp->buffered != temp->size || temp->buffered == BLCKSZ)
		{
			flush(temp);
			temp->buffer_at = temp->size;
			temp->buffered = 0;
		}
		part = Min(n, BLCKSZ - temp->buffered);
		memcpy(temp->buffer + temp->buffered, from, part);
		temp->buffered += part;
		temp->size += part;
		from += part;
		n -= part;
	}
}

/* Keep only its first bytes, and give back the space of the others. */
void
trucker_temp_file_cut(TruckerTempFile *temp, int64 size)
{
	Assert(size >= 0 && size <= temp->size);
	temp->size = size;
	if (temp->written > size)
	{
		if (FileTruncate(temp->file, size, WAIT_EVENT_BUFFILE_TRUNCATE) < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not truncate a temporary file: %m")));
		temp->written = size;
	}
	if (temp->buffer_at > size)
	{
		temp->buffer_at = size;
		temp->buffered = 0;
	}
	temp->buffered = (int) Min(temp->buffered, size - temp->buffer_at);
}

/* Read n bytes, which must be there. */
void
trucker_temp_file_read(TruckerTempFile *temp, int64 at, void *bytes, size_t n)
{
	char	   *to = bytes;

	Assert(at >= 0 && at + (int64) n <= temp->size);
	while (n > 0)
	{
		size_t		part;

		if (at < temp->buffer_at || at >= temp->buffer_at + temp->buffered)
		{
			int			wanted = (int) Min(BLCKSZ, temp->size - at);
			int			done;

			flush(temp);
			temp->buffered = 0;
			temp->buffer_at = at;
			done = FileRead(temp->file, temp->buffer, wanted, at, WAIT_EVENT_BUFFILE_READ);
			if (done < 0)
				ereport(ERROR,
						(errcode_for_file_access(),
						 errmsg("could not read from a temporary file: %m")));
			if (done == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("could not read from a temporary file: it ends at byte %lld of %lld",
								(long long) at, (long long) temp->size)));
			temp->buffered = done;
		}
		part = Min(n, (size_t) (temp->buffer_at + temp->buffered - at));
		memcpy(to, temp->buffer + (at - temp->buffer_at), part);
		at += part;
		to += part;
		n -= part;
	}
}

/* Delete it, whatever has failed before. */
void
trucker_temp_file_end(TruckerTempFile *temp)
{
	FileClose(temp->file);
	pfree(temp);
}
