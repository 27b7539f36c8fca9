/* SPDX-License-Identifier: MIT */
/*
 * mose-throttle: slows the processes of a control group (descriptor 3: its directory) down by freezing it for a share of
 * each 20 ms. A byte on standard input is that share in percent from now on; 0: it runs. At the end of the input, which
 * comes when the agent closes it or dies, and on a signal the group is thawed; then the time for which it stood still is
 * printed, in microseconds, and the exit status is 0. It is 1, with a message, where a write to the group failed.
 *
 * A frozen slice begins and ends in one function, slice(): there is no other way out of it than by a thaw.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "confine.h"

enum {
	GROUP = 3,
	/* Short against what clients wait for, long against the wakeups that it costs (two of ours, one of each thread). */
	PERIOD_NS = 20 * 1000 * 1000,
	PERCENT_MAX = 95,
	THAW_ATTEMPTS = 100,
	THAW_PAUSE_NS = 10 * 1000 * 1000,
};

enum order { NONE, CHANGED, END, BAD };

static volatile sig_atomic_t ended;
static sigset_t while_waiting; /* signals come in waits only, so that none is missed before one */
static int freezer;
static int64_t frozen_ns;

static void on_signal(int number)
{
	(void)number;
	ended = 1;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static bool complain(const char *what)
{
	fprintf(stderr, "mose-throttle: %s: %s\n", what, strerror(errno));
	return false;
}

/* A group that nobody thaws stands still for ever: tried for a second. It may have been removed, then there is nothing to. */
static bool thaw(void)
{
	const struct timespec pause = { 0, THAW_PAUSE_NS };
	int i;

	for (i = 0; i < THAW_ATTEMPTS; i++) {
		if (write(freezer, "0", 1) == 1)
			return true;
		if (errno == ENODEV)
			break;
		nanosleep(&pause, NULL);
	}
	return complain("cannot thaw");
}

/* Waits for the next order, at most so long; negative: for ever. */
static enum order next_order(int64_t ns, unsigned *percent)
{
	const struct timespec bound = { 0, ns };
	struct pollfd orders = { .fd = STDIN_FILENO, .events = POLLIN };
	unsigned char byte;
	int ready = ppoll(&orders, 1, ns < 0 ? NULL : &bound, &while_waiting);

	if (ended || ready < 0)
		return END;
	if (ready == 0)
		return NONE;
	if (read(STDIN_FILENO, &byte, 1) != 1)
		return END;
	if (byte > PERCENT_MAX)
		return BAD;
	*percent = byte;
	return CHANGED;
}

/* Stands still for so long, or until an order comes. */
static bool slice(int64_t ns, enum order *order, unsigned *percent)
{
	const int64_t begun = now_ns();
	bool frozen = write(freezer, "1", 1) == 1 || complain("cannot freeze");

	if (frozen)
		*order = next_order(ns, percent);
	/* Also where the freeze failed: it may have been done in part. */
	if (!thaw())
		return false;
	frozen_ns += now_ns() - begun;
	return frozen;
}

static bool follow_orders(void)
{
	unsigned percent = 0;
	enum order order = NONE;

	for (;;) {
		const int64_t still = (int64_t)PERIOD_NS / 100 * percent;

		/* Running comes first: after an order, and when a wakeup of ours was late, the group gets its share at once. */
		order = next_order(percent == 0 ? -1 : PERIOD_NS - still, &percent);
		if (order == NONE && !slice(still, &order, &percent))
			return false;
		if (order == END)
			return true;
		if (order == BAD) {
			errno = EINVAL;
			return complain("an order of more than 95 percent");
		}
	}
}

/* What is left is to write to the group, which is open, and to say how long it stood still. */
static const int calls[] = {
	SYS_read, SYS_write, SYS_ppoll, SYS_clock_gettime, SYS_nanosleep, SYS_clock_nanosleep, SYS_rt_sigreturn, SYS_restart_syscall,
	SYS_exit_group, SYS_exit, SYS_brk, SYS_mmap, SYS_munmap, SYS_close, SYS_fstat, SYS_newfstatat,
};

static void catch_signals(void)
{
	static const int numbers[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT };
	const struct sigaction action = { .sa_handler = on_signal };
	sigset_t blocked;
	size_t i;

	sigemptyset(&blocked);
	for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		sigaddset(&blocked, numbers[i]);
		sigaction(numbers[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, &blocked, &while_waiting);
	for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		sigdelset(&while_waiting, numbers[i]);
	signal(SIGPIPE, SIG_IGN); /* the reader of our last words may have died */
}

int main(void)
{
	/* It sleeps nearly always; late for a thaw it would keep the group still for longer than was asked for. */
	const struct sched_param first = { .sched_priority = 1 };
	bool obeyed;

	(void)sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);

	catch_signals();
	freezer = openat(GROUP, "cgroup.freeze", O_WRONLY | O_CLOEXEC);
	if (freezer < 0) {
		complain("open cgroup.freeze");
		return EXIT_FAILURE;
	}
	if (confine(calls, sizeof calls / sizeof calls[0]) != 0) {
		complain("give up what it does not need");
		return EXIT_FAILURE;
	}
	obeyed = follow_orders();
	/* Whatever has been written by others meanwhile: what is left behind runs. */
	if (!thaw())
		obeyed = false;
	printf("%lld\n", (long long)(frozen_ns / 1000));
	fflush(stdout);
	return obeyed ? EXIT_SUCCESS : EXIT_FAILURE;
}
