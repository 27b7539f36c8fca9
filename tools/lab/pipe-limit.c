/* SPDX-License-Identifier: MIT */
/*
 * libmose-lab-pipe-limit.so: loaded into stock CRIU's page server, for the baseline that restores lazily.
 *
 * The server asks for a pipe of kServerPipe bytes and gives up when it may not have it: that is more than
 * fs.pipe-max-size, and some machines withhold CAP_SYS_RESOURCE. It works with a smaller one. The pipes of the dump
 * itself grow as far as they may, and CRIU knows what to do then: they are left alone.
 *
 * Nothing but old libc symbols, so that it loads into a newer libc than the one it was built with.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { kServerPipe = 819 * 4096, kUnprivilegedPipe = 1 << 20 };

static int control(int fd, int command, long argument)
{
	long result = syscall(SYS_fcntl, fd, command, argument);
	if (result < 0 && errno == EPERM && command == F_SETPIPE_SZ && argument == kServerPipe)
		result = syscall(SYS_fcntl, fd, command, (long)kUnprivilegedPipe);
	return (int)result;
}

#define FORWARD                                  \
	{                                        \
		va_list args;                    \
		va_start(args, command);         \
		long argument = va_arg(args, long); \
		va_end(args);                    \
		return control(fd, command, argument); \
	}

EXPORT int fcntl(int fd, int command, ...) FORWARD
EXPORT int fcntl64(int fd, int command, ...) FORWARD
