/* SPDX-License-Identifier: MIT */
/*
 * Part 4 of what preload.c lists: what CRIU reads as /proc/PID/smaps is maps with the flags of mapping_table.h.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mapping_table.h"
#include "preload.h"

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
	mose_leave_repair();
	if (is_smaps(path) && asked_for("MOSE_CRIU_MAPPINGS=1")) {
		int fd = told_smaps(directory);
		if (fd >= 0)
			return fd;
	}
	return (int)raw(SYS_openat, directory, (long)path, flags, mode, 0, 0);
}
