/* SPDX-License-Identifier: MIT */
#ifndef MOSE_BPF_ADDRESS_SPACE_H
#define MOSE_BPF_ADDRESS_SPACE_H
/*
 * Contract between address_space.bpf.c and the agent: the iterator gives one record a thread that has an address space. Where
 * the kernel does not count changes there are none.
 */
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

struct mose_address_space {
	__u64 identity; /* tells the spaces that exist at one moment apart */
	__u32 changes;	/* grows whenever the space is locked for a change of its mappings */
	__u32 next_pid; /* from where the number of the next child is looked for; changes with every new process */
};

#endif
