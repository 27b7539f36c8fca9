/* SPDX-License-Identifier: MIT */
#ifndef MOSE_BPF_MAPPINGS_H
#define MOSE_BPF_MAPPINGS_H
/*
 * Contract between mappings.bpf.c and the agent: the iterator gives one record a mapping, in the order of addresses.
 */
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

struct mose_mapping {
	__u64 start, end; /* addresses */
	__u64 flags;	  /* as the kernel keeps them: which bit is what differs between kernels */
};

#endif
