/* SPDX-License-Identifier: MIT */
#ifndef MOSE_BPF_REMOTE_WRITES_H
#define MOSE_BPF_REMOTE_WRITES_H
/*
 * Contract between remote_writes.bpf.c and the agent: the program writes one record for each thread of the host that writes into the
 * memory of another process, and one of thread 0 at the end.
 */
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

struct mose_remote_write {
	__u32 thread; /* as the host's first pid namespace numbers it */
};

#endif
