/* SPDX-License-Identifier: MIT */
/*
 * For the small static helpers: gives up every capability, new privileges, core files, and all system calls but those of a list.
 * A refused call fails with EPERM; where the kernel has an audit log it stands there, with its number.
 */
#ifndef MOSE_TOOLS_CONFINE_H
#define MOSE_TOOLS_CONFINE_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define CONFINE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define CONFINE_ARCH AUDIT_ARCH_AARCH64
#else
#error "the architecture's number for filters of system calls"
#endif

#define CONFINE_CALLS_MAX 32

/* Another convention's calls have numbers of their own (on x86_64 also within the same architecture, from this bit on). */
static inline int confine_calls(const int *calls, unsigned int count)
{
	enum { OTHER_CONVENTION = 0x40000000 };
	struct sock_filter program[CONFINE_CALLS_MAX + 8];
	struct sock_fprog filter = { 0, program };
	unsigned int n = 0, i;

	if (count > CONFINE_CALLS_MAX) {
		errno = E2BIG;
		return -1;
	}
	program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CONFINE_ARCH, 1, 0);
	program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, OTHER_CONVENTION, (unsigned char)count, 0);
	for (i = 0; i < count; i++)
		program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)calls[i],
							    (unsigned char)(count - i), 0);
	program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	filter.len = (unsigned short)n;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, &filter);
}

/* 0, or -1 with errno: then some of it may have been given up. */
static inline int confine(const int *calls, unsigned int count)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2];
	int bit;

	memset(none, 0, sizeof none);
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	/* The kernel has no capability from the first on that it refuses. */
	for (bit = 0; bit < 64 && prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) == 0; bit++)
		;
	if (syscall(SYS_capset, &header, none) != 0)
		return -1;
	return confine_calls(calls, count);
}

#endif
