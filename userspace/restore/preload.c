/* SPDX-License-Identifier: MIT */
/*
 * libmose-criu-preload.so: loaded into the CRIU process by LD_PRELOAD, our own code at the libc boundary.
 *
 * 1. A dump without memory: with MOSE_CRIU_SKIP_MEMORY=1 every page-map scan is answered "no pages here". CRIU then
 *    finds nothing to save except the vdso, and the dump takes milliseconds whatever the size of the workload. Scans
 * for a single region stay real: CRIU uses them to probe the kernel. What processes share without a file is looked for
 * by seeking in it, and is answered with "no data" as well.
 * 2. prlimit of another user's process needs CAP_SYS_RESOURCE, which some machines withhold; what it asks for (reading
 *    limits) is in /proc/PID/limits as well. CRIU calls it through syscall().
 * 3. A restored tree that CRIU still holds dies with it: with MOSE_CRIU_EXIT_KILL=1 each task is traced with
 *    PTRACE_O_EXITKILL. A CRIU that is killed, with the agent or without it, would let the tree run otherwise. Never
 * for a dump, whose tree is the only one.
 * 4. The flags of mappings without a walk over their pages: with MOSE_CRIU_MAPPINGS=1 what CRIU reads as /proc/PID/smaps is
 *    /proc/PID/maps of that moment with the flags that the agent has written into a table (preload_mappings.c). Where one
 *    mapping is not in the table as it is in maps, or anything else is not as expected, it is the real file.
 *
 * 5. Connections are in repair mode only while they are dumped, with MOSE_CRIU_BRIEF_REPAIR=1 (preload_sockets.c).
 *
 * F_SETPIPE_SZ is left alone: only CRIU's own page server needs more than the limit, and we never start it.
 *
 * Only old libc symbols are used, and no stdio, so that the object built here loads into any newer libc.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

#define PAGEMAP_SCAN_REQUEST 0xC0606610ul /* _IOWR('f', 16, struct scan) */

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
_Static_assert(sizeof(struct scan) == 96, "the size is part of the request's number");

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	va_start(args, request);
	void *argument = va_arg(args, void *);
	va_end(args);
	if (request == PAGEMAP_SCAN_REQUEST && argument) {
		struct scan *scan = argument;
		if (scan->vec_len > 1 && asked_for("MOSE_CRIU_SKIP_MEMORY=1")) {
			scan->walk_end = scan->end;
			return 0;
		}
	}
	return (int)raw(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0);
}

/* Shared anonymous memory, memfd and the like: files of a mount that only the kernel has. */
static int is_shared_memory(int fd) {
  static unsigned long device;
  struct stat st;
  if (!device) {
    int probe = (int)raw(SYS_memfd_create, (long)"mose-probe", MFD_CLOEXEC, 0, 0, 0, 0);
    if (probe < 0) return 0;
    if (raw(SYS_fstat, probe, (long)&st, 0, 0, 0, 0) == 0) device = st.st_dev;
    raw(SYS_close, probe, 0, 0, 0, 0, 0);
  }
  return device && raw(SYS_fstat, fd, (long)&st, 0, 0, 0, 0) == 0 && st.st_dev == device;
}

static long seek(int fd, long offset, int whence) {
  if (whence == SEEK_DATA && asked_for("MOSE_CRIU_SKIP_MEMORY=1") && is_shared_memory(fd)) {
    errno = ENXIO;
    return -1;
  }
  return raw(SYS_lseek, fd, offset, whence, 0, 0, 0);
}

EXPORT off_t lseek(int fd, off_t offset, int whence) {
  return seek(fd, offset, whence);
}

EXPORT off64_t lseek64(int fd, off64_t offset, int whence) {
  return seek(fd, offset, whence);
}

EXPORT long ptrace(enum __ptrace_request request, ...)
{
	va_list args;
	va_start(args, request);
	long pid = va_arg(args, long), address = va_arg(args, long), data = va_arg(args, long);
	va_end(args);
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word = 0;
		if (raw(SYS_ptrace, request, pid, address, (long)&word, 0, 0) < 0)
			return -1;
		errno = 0;
		return word;
	}
	/* Options are replaced as a whole by either request. */
	if ((request == PTRACE_SEIZE || request == PTRACE_SETOPTIONS) && asked_for("MOSE_CRIU_EXIT_KILL=1"))
		data |= PTRACE_O_EXITKILL;
	return raw(SYS_ptrace, request, pid, address, data, 0, 0);
}

/* The order of /proc/PID/limits, by what its lines begin with. */
static const char *limit_name(int resource)
{
	switch (resource) {
	case RLIMIT_CPU: return "Max cpu time";
	case RLIMIT_FSIZE: return "Max file size";
	case RLIMIT_DATA: return "Max data size";
	case RLIMIT_STACK: return "Max stack size";
	case RLIMIT_CORE: return "Max core file size";
	case RLIMIT_RSS: return "Max resident set";
	case RLIMIT_NPROC: return "Max processes";
	case RLIMIT_NOFILE: return "Max open files";
	case RLIMIT_MEMLOCK: return "Max locked memory";
	case RLIMIT_AS: return "Max address space";
	case RLIMIT_LOCKS: return "Max file locks";
	case RLIMIT_SIGPENDING: return "Max pending signals";
	case RLIMIT_MSGQUEUE: return "Max msgqueue size";
	case RLIMIT_NICE: return "Max nice priority";
	case RLIMIT_RTPRIO: return "Max realtime priority";
	case RLIMIT_RTTIME: return "Max realtime timeout";
	default: return NULL;
	}
}

static const char *parse_limit(const char *at, uint64_t *value)
{
	while (*at == ' ')
		++at;
	if (*at == 'u') { /* unlimited */
		*value = ~0ull;
		while (*at >= 'a' && *at <= 'z')
			++at;
		return at;
	}
	if (*at < '0' || *at > '9')
		return NULL;
	*value = 0;
	while (*at >= '0' && *at <= '9')
		*value = *value * 10 + (uint64_t)(*at++ - '0');
	return at;
}

/* Soft and hard limit of a process from the text of /proc/PID/limits; 0 when found. */
static int find_limit(const char *text, const char *name, uint64_t out[2])
{
	for (const char *line = text; *line;) {
		size_t i = 0;
		while (name[i] && line[i] == name[i])
			++i;
		if (!name[i]) {
			const char *at = parse_limit(line + i, &out[0]);
			if (at && parse_limit(at, &out[1]))
				return 0;
		}
		while (*line && *line != '\n')
			++line;
		if (*line)
			++line;
	}
	return -1;
}

static int limits_from_proc(long pid, int resource, uint64_t out[2])
{
	char path[64] = "/proc/", digits[24];
	size_t length = 6, count = 0;
	const char *name = limit_name(resource);
	if (!name || pid <= 0)
		return -1;
	for (long rest = pid; rest; rest /= 10)
		digits[count++] = (char)('0' + rest % 10);
	while (count)
		path[length++] = digits[--count];
	static const char tail[] = "/limits";
	for (size_t i = 0; i < sizeof tail; ++i)
		path[length++] = tail[i];
	int fd = (int)raw(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return -1;
	char text[4096];
	size_t have = 0;
	for (long n; have < sizeof text - 1; have += (size_t)n) {
		n = raw(SYS_read, fd, (long)(text + have), (long)(sizeof text - 1 - have), 0, 0, 0);
		if (n <= 0)
			break;
	}
	raw(SYS_close, fd, 0, 0, 0, 0, 0);
	text[have] = 0;
	return find_limit(text, name, out);
}

EXPORT long syscall(long number, ...)
{
	va_list args;
	va_start(args, number);
	long a[6];
	for (int i = 0; i < 6; ++i)
		a[i] = va_arg(args, long);
	va_end(args);
	long result = raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (number == SYS_prlimit64 && result < 0 && errno == EPERM && !a[2] && a[3] &&
	    limits_from_proc(a[0], (int)a[1], (uint64_t *)a[3]) == 0)
		return 0;
	return result;
}
