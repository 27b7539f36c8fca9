/* SPDX-License-Identifier: MIT */
#ifndef MOSE_PRELOAD_H
#define MOSE_PRELOAD_H

/* What the parts of libmose-criu-preload.so share: no libc but errno (preload.c says why). */
#include <errno.h>

#define EXPORT __attribute__((visibility("default")))

extern char **environ;

/* The six-argument system call, without libc's syscall() which is interposed. */
static inline long raw(long number, long a, long b, long c, long d, long e, long f)
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
static inline int asked_for(const char *setting)
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

/* A connection that CRIU has just dumped leaves repair mode (preload_sockets.c). */
void mose_leave_repair(void);

#endif
