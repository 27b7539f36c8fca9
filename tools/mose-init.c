/* SPDX-License-Identifier: MIT */
/*
 * mose-init: process 1 of a workload. Lies statically linked inside the workload's own root, because every mapped file of
 * the tree must be there when it is dumped.
 *
 *   mose-init PROGRAM [ARGUMENT...]
 *
 * Starts the program in a session of its own, reaps whatever becomes its child, passes SIGTERM, SIGINT and SIGHUP on and
 * ends with the program's status (128 + signal when it was killed; 127 when it could not be started). When process 1
 * ends, the kernel kills the rest of the tree.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *text)
{
	ssize_t written = write(STDERR_FILENO, text, strlen(text));
	(void)written; /* the log is full or gone: nobody is left to tell */
}

static void fail(const char *what, const char *why)
{
	say("mose-init: ");
	say(what);
	say(": ");
	say(why);
	say("\n");
}

/*
 * The signals stay blocked and are taken by sigwaitinfo: process 1 has no default actions, so that an unhandled SIGTERM
 * would be lost, and there is no handler that could interrupt anything.
 */
static const int passed_on[] = { SIGTERM, SIGINT, SIGHUP };

int main(int argc, char **argv)
{
	sigset_t signals, none;
	pid_t program;

	if (argc < 2) {
		say("usage: mose-init PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	sigemptyset(&none);
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	for (unsigned i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++)
		sigaddset(&signals, passed_on[i]);
	sigprocmask(SIG_BLOCK, &signals, NULL);

	program = fork();
	if (program < 0) {
		fail("fork", strerror(errno));
		return 127;
	}
	if (program == 0) {
		setsid();
		sigprocmask(SIG_SETMASK, &none, NULL);
		execv(argv[1], argv + 1);
		fail(argv[1], strerror(errno));
		_exit(127);
	}

	for (;;) {
		siginfo_t info = { .si_signo = 0 };
		int signal = sigwaitinfo(&signals, &info);

		/* EINTR: stopped and continued. What nobody has sent: of a borrowed call whose borrower has been killed. */
		if (signal < 0 || signal != info.si_signo)
			continue;
		if (signal != SIGCHLD) {
			kill(program, signal);
			continue;
		}
		for (;;) {
			int status;
			pid_t child = waitpid(-1, &status, WNOHANG);

			if (child <= 0)
				break;
			if (child == program)
				return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		}
	}
}
