/*
 * child.c
 *	  Run a program from a backend, and read what it writes.
 *
 * popen() and system() would hold the backend until the program ends, with a shell
 * between both, and hand it all our environment and files.  Here the program gets what it is
 * given and nothing else, and we wait on the latch: should we be cancelled or terminated,
 * it is killed.
 */
#include "trucker.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"

#include "child.h"
#include "wait.h"

/* no process has more files than that open without meaning to */
#define MAX_FILES 65536
#define CHUNK 65536

typedef struct Child
{
	pid_t		pid;			/* 0: there is none */
	int			pipes[2][2];	/* of its output and its errors; -1: closed */
} Child;

static void
close_end(Child *child, int pipe, int end)
{
	if (child->pipes[pipe][end] >= 0)
	{
		close(child->pipes[pipe][end]);
		ReleaseExternalFD();
	}
	child->pipes[pipe][end] = -1;
}

/* Wait for its end, which is near: its output has been closed, or it has been killed. */
static int
reap(Child *child)
{
	int			status = 0;

	while (child->pid > 0 && waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
		;
	child->pid = 0;
	return status;
}

static void
cleanup(int code, Datum arg)
{
	Child	   *child = (Child *) DatumGetPointer(arg);

	if (child->pid > 0)
		kill(child->pid, SIGKILL);
	(void) reap(child);
	for (int i = 0; i < 2; i++)
	{
		close_end(child, i, 0);
		close_end(child, i, 1);
	}
}

static void
open_pipes(Child *child)
{
	for (int i = 0; i < 2; i++)
	{
		if (pipe(child->pipes[i]) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create a pipe: %m")));
		ReserveExternalFD();
		ReserveExternalFD();
	}
}

/* In the new process: nothing that is the server's may reach the program. */
static void
become(const Child *child, const char *path, char *const *arguments, char *const *environment)
{
	long		max = sysconf(_SC_OPEN_MAX);
	int			null = open("/dev/null", O_RDWR);
	sigset_t	none;

	if (null < 0 || dup2(null, 0) < 0 || dup2(child->pipes[0][1], 1) < 0 || dup2(child->pipes[1][1], 2) < 0)
		_exit(126);
	for (int fd = 3; fd < (max > 0 && max < MAX_FILES ? max : MAX_FILES); fd++)
		close(fd);
	for (int number = 1; number < NSIG; number++)
		(void) signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(path, arguments, environment);
	_exit(127);
}

/* Read what there is; false: that was all. */
static bool
read_some(Child *child, int pipe, StringInfo into)
{
	ssize_t		n;

	enlargeStringInfo(into, CHUNK);
	n = read(child->pipes[pipe][0], into->data + into->len, CHUNK);
	if (n > 0)
	{
		into->len += n;
		into->data[into->len] = '\0';
		return true;
	}
	if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
		return true;
	close_end(child, pipe, 0);
	return false;
}

static void
read_all(Child *child, StringInfo output, StringInfo errors)
{
	while (child->pipes[0][0] >= 0 || child->pipes[1][0] >= 0)
	{
		WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, 4);
		WaitEvent	events[4];
		int			n;

		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		for (int i = 0; i < 2; i++)
			if (child->pipes[i][0] >= 0)
				AddWaitEventToSet(set, WL_SOCKET_READABLE, child->pipes[i][0], NULL, &child->pipes[i]);
		n = WaitEventSetWait(set, -1, events, lengthof(events), trucker_wait(TRUCKER_WAIT_PROGRAM));
		FreeWaitEventSet(set);
		for (int i = 0; i < n; i++)
		{
			if (events[i].events & WL_LATCH_SET)
			{
				ResetLatch(MyLatch);
				CHECK_FOR_INTERRUPTS();
			}
			else if (events[i].user_data == &child->pipes[0])
				(void) read_some(child, 0, output);
			else
				(void) read_some(child, 1, errors);
		}
	}
}

/*
 * Run a program: arguments and environment end with NULL, arguments begin with its name.
 * What it writes is appended to output and errors.  Returns its status as waitpid() does.
 */
int
trucker_child_run(const char *path, char *const *arguments, char *const *environment,
				  StringInfo output, StringInfo errors)
{
	Child		child = {0, {{-1, -1}, {-1, -1}}};
	int			status = 0;

	PG_ENSURE_ERROR_CLEANUP(cleanup, PointerGetDatum(&child));
	{
		open_pipes(&child);
		fflush(NULL);
		child.pid = fork();
		if (child.pid == 0)
			become(&child, path, arguments, environment);
		if (child.pid < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not fork a process for \"%s\": %m", path)));
		for (int i = 0; i < 2; i++)
		{
			close_end(&child, i, 1);
			(void) fcntl(child.pipes[i][0], F_SETFL, O_NONBLOCK);
		}
		read_all(&child, output, errors);
		status = reap(&child);
	}
	PG_END_ENSURE_ERROR_CLEANUP(cleanup, PointerGetDatum(&child));
	return status;
}
