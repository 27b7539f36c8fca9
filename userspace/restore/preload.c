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
 *    /proc/PID/maps of that moment with the flags that the agent has written into a table (mapping_table.h). Where one
 *    mapping is not in the table as it is in maps, or anything else is not as expected, it is the real file.
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

#include "mapping_table.h"

#define EXPORT __attribute__((visibility("default")))
#define PAGEMAP_SCAN_REQUEST 0xC0606610ul /* _IOWR('f', 16, struct scan) */

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
_Static_assert(sizeof(struct scan) == 96, "the size is part of the request's number");

extern char **environ;

/* The six-argument system call, without libc's syscall() which is interposed below. */
static long raw(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	result = x0;
#else
#error "unknown architecture"
#endif
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

/* Whether the environment has this very entry. */
static int asked_for(const char *setting)
{
	for (char **entry = environ; entry && *entry; ++entry) {
		size_t i = 0;
		while (setting[i] && (*entry)[i] == setting[i])
			++i;
		if (!setting[i] && !(*entry)[i])
			return 1;
	}
	return 0;
}

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

/* Memory of our own: CRIU's heap is none of our business. NULL when there is none. */
static void *take(size_t bytes)
{
	long at = raw(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return at == -1 ? NULL : (void *)at;
}

static void give_back(void *at, size_t bytes)
{
	raw(SYS_munmap, (long)at, (long)bytes, 0, 0, 0, 0);
}

struct text {
	char *at;
	size_t bytes, room;
};

/* The whole file; it ends with a zero. */
static int read_text(int fd, struct text *out)
{
	out->room = 1u << 20;
	out->bytes = 0;
	out->at = take(out->room);
	while (out->at) {
		if (out->bytes + 1 == out->room) {
			long grown = raw(SYS_mremap, (long)out->at, (long)out->room, (long)(2 * out->room), MREMAP_MAYMOVE, 0, 0);
			if (grown == -1)
				return -1;
			out->at = (char *)grown;
			out->room *= 2;
		}
		long n = raw(SYS_read, fd, (long)(out->at + out->bytes), (long)(out->room - 1 - out->bytes), 0, 0, 0);
		if (n <= 0)
			return n == 0 ? 0 : -1;
		out->bytes += (size_t)n;
	}
	return -1;
}

static const char *parse_hex(const char *at, uint64_t *value)
{
	*value = 0;
	for (;; ++at) {
		if (*at >= '0' && *at <= '9')
			*value = *value << 4 | (uint64_t)(*at - '0');
		else if (*at >= 'a' && *at <= 'f')
			*value = *value << 4 | (uint64_t)(*at - 'a' + 10);
		else
			return at;
	}
}

static const char flags_label[] = "VmFlags: ";

static size_t put(char *to, const char *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; ++i)
		to[i] = from[i];
	return bytes;
}

/* maps with a line of flags behind each of its lines; 0 unless both lists are of the same mappings. */
static size_t merge_flags(const char *maps, const struct mose_mapping_row *rows, uint64_t count, char *out)
{
	size_t bytes = 0;
	uint64_t row = 0;
	for (const char *line = maps; *line; ++row) {
		uint64_t start, end;
		const char *dash = parse_hex(line, &start), *next = line;
		if (*dash != '-' || row == count)
			return 0;
		parse_hex(dash + 1, &end);
		if (rows[row].start != start || rows[row].end != end)
			return 0;
		while (*next && *next++ != '\n')
			;
		bytes += put(out + bytes, line, (size_t)(next - line));
		bytes += put(out + bytes, flags_label, sizeof flags_label - 1);
		for (size_t i = 0; i < sizeof rows[row].flags && rows[row].flags[i]; ++i)
			out[bytes++] = rows[row].flags[i];
		out[bytes++] = '\n';
		line = next;
	}
	return row == count ? bytes : 0;
}

/* A memory file with these bytes, at their beginning. */
static int file_of(const char *bytes, size_t count)
{
	int fd = (int)raw(SYS_memfd_create, (long)"mose-mappings", MFD_CLOEXEC, 0, 0, 0, 0);
	if (fd < 0)
		return -1;
	for (size_t done = 0; done < count;) {
		long n = raw(SYS_pwrite64, fd, (long)(bytes + done), (long)(count - done), (long)done, 0, 0);
		if (n <= 0) {
			raw(SYS_close, fd, 0, 0, 0, 0, 0);
			return -1;
		}
		done += (size_t)n;
	}
	return fd;
}

static int describe(int directory, const struct mose_mapping_row *rows, uint64_t count)
{
	struct text maps = {0};
	int result = -1, fd = (int)raw(SYS_openat, directory, (long)"maps", O_RDONLY | O_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return -1;
	int read = read_text(fd, &maps);
	raw(SYS_close, fd, 0, 0, 0, 0, 0);
	if (read == 0) {
		size_t room = maps.bytes + (size_t)count * (sizeof rows->flags + sizeof flags_label + 1) + 1;
		char *out = take(room);
		size_t bytes = out ? merge_flags(maps.at, rows, count, out) : 0;
		if (bytes)
			result = file_of(out, bytes);
		if (out)
			give_back(out, room);
	}
	if (maps.at)
		give_back(maps.at, maps.room);
	return result;
}

/* The number in "/proc/123", where this descriptor leads; 0: it leads elsewhere. */
static uint64_t process_of(int directory)
{
	static const char proc[] = "/proc/";
	char link[32] = "/proc/self/fd/", target[32] = {0};
	size_t length = 14, digits = 0;
	char text[12];
	if (directory < 0)
		return 0;
	for (unsigned rest = (unsigned)directory; rest || !digits; rest /= 10)
		text[digits++] = (char)('0' + rest % 10);
	while (digits)
		link[length++] = text[--digits];
	if (raw(SYS_readlinkat, AT_FDCWD, (long)link, (long)target, sizeof target - 1, 0, 0) <= 0)
		return 0;
	for (size_t i = 0; i < sizeof proc - 1; ++i) {
		if (target[i] != proc[i])
			return 0;
	}
	uint64_t pid = 0;
	const char *at = target + sizeof proc - 1;
	for (; *at >= '0' && *at <= '9'; ++at)
		pid = pid * 10 + (uint64_t)(*at - '0');
	return *at ? 0 : pid;
}

/* smaps of the process whose directory this is, as far as the agent has told; -1: nothing. */
static int told_smaps(int directory)
{
	uint64_t pid = process_of(directory);
	struct stat table;
	int result = -1;
	if (!pid || raw(SYS_fstat, MOSE_MAPPING_TABLE_FD, (long)&table, 0, 0, 0, 0) != 0)
		return -1;
	long size = table.st_size;
	if (size < (long)sizeof(struct mose_mapping_head))
		return -1;
	long at = raw(SYS_mmap, 0, size, PROT_READ, MAP_SHARED, MOSE_MAPPING_TABLE_FD, 0);
	if (at == -1)
		return -1;
	const struct mose_mapping_head *head = (const void *)at;
	const struct mose_mapped_process *process = (const void *)(head + 1);
	uint64_t room = ((uint64_t)size - sizeof *head) / sizeof *process;
	if (head->magic == MOSE_MAPPING_TABLE_MAGIC && head->processes <= room) {
		const struct mose_mapping_row *rows = (const void *)(process + head->processes);
		uint64_t all = (uint64_t)(at + size - (long)rows) / sizeof *rows;
		for (uint64_t i = 0; i < head->processes; ++i, ++process) {
			if (process->pid != pid)
				continue;
			if (process->first <= all && process->rows <= all - process->first)
				result = describe(directory, rows + process->first, process->rows);
			break;
		}
	}
	raw(SYS_munmap, at, size, 0, 0, 0, 0);
	return result;
}

static int is_smaps(const char *path)
{
	static const char name[] = "smaps";
	for (size_t i = 0; i < sizeof name; ++i) {
		if (path[i] != name[i])
			return 0;
	}
	return 1;
}

EXPORT int openat64(int directory, const char *path, int flags, ...)
{
	va_list args;
	va_start(args, flags);
	int mode = va_arg(args, int);
	va_end(args);
	if (is_smaps(path) && asked_for("MOSE_CRIU_MAPPINGS=1")) {
		int fd = told_smaps(directory);
		if (fd >= 0)
			return fd;
	}
	return (int)raw(SYS_openat, directory, (long)path, flags, mode, 0, 0);
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
