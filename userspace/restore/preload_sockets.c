/* SPDX-License-Identifier: MIT */
/*
 * Connections that leave repair mode as soon as they are dumped (MOSE_CRIU_BRIEF_REPAIR=1). CRIU leaves them in it to its end. When it
 * is killed the tree runs until the agent has frozen it, and read(2) and write(2) of a socket in repair mode are errors: a
 * program takes them for the end of the connection. What the kernel sends again meanwhile was dumped as not acknowledged, and nothing
 * arrives: the agent holds it. A CRIU that gives up puts back SO_REUSEADDR itself.
 *
 * The next that CRIU does behind a connection is to open the image for it.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "preload.h"

/* TCP_REPAIR_OFF would make each connection send a window probe. */
#ifndef TCP_REPAIR_OFF_NO_WP
#define TCP_REPAIR_OFF_NO_WP -1
#endif

static int repaired = -1, reuse;

static long set_option(int fd, int level, int name, const void *value, socklen_t length)
{
	return raw(SYS_setsockopt, fd, level, name, (long)value, length, 0);
}

void mose_leave_repair(void)
{
	if (repaired < 0)
		return;
	const int saved = errno, fd = repaired, off = TCP_REPAIR_OFF_NO_WP;
	repaired = -1;
	/* The kernel takes it away with the mode. */
	if (set_option(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off) == 0)
		set_option(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
	errno = saved;
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	if (level != IPPROTO_TCP || name != TCP_REPAIR || !value || length != sizeof(int) || !asked_for("MOSE_CRIU_BRIEF_REPAIR=1"))
		return (int)set_option(fd, level, name, value, length);
	mose_leave_repair();
	socklen_t size = sizeof reuse;
	const int known = raw(SYS_getsockopt, fd, SOL_SOCKET, SO_REUSEADDR, (long)&reuse, (long)&size, 0) == 0;
	const int done = (int)set_option(fd, level, name, value, length);
	if (done == 0 && known && *(const int *)value == 1)
		repaired = fd;
	return done;
}
