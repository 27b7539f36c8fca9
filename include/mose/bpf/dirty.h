/* SPDX-License-Identifier: MIT */
#ifndef MOSE_BPF_DIRTY_H
#define MOSE_BPF_DIRTY_H
/*
 * Contract between dirty.bpf.c and the agent: write faults of the processes of one control group.
 *
 * mose_group      cgroup array, one entry: whose faults count, groups below it included. The agent writes, before it
 *                 attaches.
 * mose_totals     per-CPU array, one entry: every write fault of the group, also those that found no room below.
 * mose_processes  per-CPU hash: by process. Full: later processes are counted as lost.
 * mose_threads    LRU hash: by thread; the one that has written longest ago goes first.
 * mose_regions    LRU hash: by 2 MiB of an address space, with a history of every page in it.
 *
 * Faults of entries that an LRU hash has thrown out: the total minus the sum of what it holds minus what was lost.
 *
 * History: one byte per page, a shift register of the epochs in which it had a write fault: bit 7 is the epoch of the
 * region's stamp, bit 6 the one before, and so on. As a number it is a heat that halves with every epoch, without a
 * clock and without overflow. A region shifts when it is first touched in a new epoch; who reads shifts the rest of the
 * way. With all that is around them the bytes of a region cost 1.2 bytes a page; an entry per page costs 88, one per
 * 64 KiB 5.5 and says less (tests/bench/fault_bench.cpp).
 *
 * Fixed width, explicit padding, zero means invalid; sizes are asserted on both sides.
 */
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#define MOSE_DIRTY_PAGE_SHIFT 12
#define MOSE_DIRTY_REGION_PAGES 512 /* 2 MiB: what one page table maps */
#define MOSE_DIRTY_WRITTEN_NOW 0x80 /* of a history */
#define MOSE_DIRTY_COMM_SIZE 16

/* Set by the agent at any time; a new epoch begins with its increment, from 1. */
struct mose_dirty_control {
	__u32 epoch;
	__u32 pad;
};

/* Only grow. faults = from_user + from_kernel = absent + present. */
struct mose_dirty_totals {
	__u64 faults;
	__u64 from_user;
	__u64 from_kernel; /* the kernel wrote for the process: read(2), recv(2) and the like */
	__u64 absent;      /* no page was there: a first touch */
	__u64 present;     /* there and not writable: tracked, or shared until written */
	__u64 lost_processes; /* faults that found no room in mose_processes */
	__u64 lost_threads;
	__u64 lost_regions;
};

/* Numbers of the initial pid namespace. */
struct mose_dirty_process_key {
	__u32 tgid;
};
struct mose_dirty_thread_key {
	__u32 tid;
};
struct mose_dirty_region_key {
	__u32 tgid;
	__u32 pad;
	__u64 region; /* address / 2 MiB */
};

/* `space`: the process' number in its innermost pid namespace, as in CRIU's images. */
struct mose_dirty_process {
	__u32 space;
	__u32 pad;
	__u64 from_user;
	__u64 from_kernel;
	__u64 absent;
	__u64 present;
};

/* One writer: the thread itself. */
struct mose_dirty_thread {
	__u32 tgid;
	__u32 space;
	__u32 tid; /* in its innermost pid namespace */
	__u32 pad;
	__u64 faults;
	char comm[MOSE_DIRTY_COMM_SIZE]; /* at its first fault */
};

struct mose_dirty_region {
	__u32 space;
	__u32 epoch; /* of the history */
	__u64 faults;
	__u64 history[MOSE_DIRTY_REGION_PAGES / 8]; /* one byte a page, lowest page in the lowest byte of a word */
};

#ifdef __cplusplus
#define MOSE_DIRTY_ASSERT static_assert
#else
#define MOSE_DIRTY_ASSERT _Static_assert
#endif
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_control) == 8, "control");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_totals) == 64, "totals");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_process_key) == 4, "process key");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_thread_key) == 4, "thread key");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_region_key) == 16, "region key");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_process) == 40, "process");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_thread) == 40, "thread");
MOSE_DIRTY_ASSERT(sizeof(struct mose_dirty_region) == 16 + 512, "region");

#endif
