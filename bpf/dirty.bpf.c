/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Counts the write faults of one control group, by process, thread and page. The contract is include/mose/bpf/dirty.h.
 *
 * A write to a page that is tracked (asynchronous write protection) is a hardware fault like any other, though the
 * kernel resolves it alone: it passes here. Writes that take no exception do not (direct I/O, process_vm_writev), so that
 * this is a hint of heat and rate, never the dirty set.
 *
 * The same code twice, because not every kernel lets both kinds of program attach: the agent loads one pair. Both run in
 * the faulting thread and are skipped when they would interrupt themselves on one CPU; the kernel counts that
 * (recursion_misses), and so the per-CPU values need no atomics. A kernel fault that comes between a user fault's read
 * and write of one counter could lose a count: tracepoints run without preemption up to Linux 6.18 at least.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "lib/compat.bpf.h"
#include "mose/bpf/dirty.h"

/* Of x86's page fault error code, the only one that comes here: other architectures have no such tracepoint. */
#define FAULT_PRESENT 1u
#define FAULT_WRITE 2u

struct mose_dirty_control mose_control;

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} mose_group SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mose_dirty_totals);
} mose_totals SEC(".maps");

/* Sizes are set when the programs are loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1);
	__type(key, struct mose_dirty_process_key);
	__type(value, struct mose_dirty_process);
} mose_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct mose_dirty_thread_key);
	__type(value, struct mose_dirty_thread);
} mose_threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct mose_dirty_region_key);
	__type(value, struct mose_dirty_region);
} mose_regions SEC(".maps");

/* What a new region begins as; larger than a program's stack. */
static const struct mose_dirty_region empty_region;

struct fault {
	__u32 tgid, tid;
	__u64 page;
	bool user, present;
};

/* The number that a task has in its innermost pid namespace; 0: it is ending. */
static __always_inline __u32 inner_number(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level, number = 0;

	if (!pid)
		return 0;
	level = BPF_CORE_READ(pid, level);
	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid) +
				      bpf_core_field_offset(struct upid, nr));
	return number;
}

static __always_inline __u32 inner_space(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return inner_number(BPF_CORE_READ(task, group_leader));
}

static __always_inline void count_process(const struct fault *fault, struct mose_dirty_totals *totals)
{
	struct mose_dirty_process_key key = {.tgid = fault->tgid};
	struct mose_dirty_process *process = bpf_map_lookup_elem(&mose_processes, &key);

	if (!process) {
		struct mose_dirty_process fresh = {};

		/* Another CPU may have been first: then ours is zero here, and the space is set below. */
		bpf_map_update_elem(&mose_processes, &key, &fresh, BPF_NOEXIST);
		process = bpf_map_lookup_elem(&mose_processes, &key);
	}
	if (!process) {
		totals->lost_processes++;
		return;
	}
	if (!process->space)
		process->space = inner_space();
	if (fault->user)
		process->from_user++;
	else
		process->from_kernel++;
	if (fault->present)
		process->present++;
	else
		process->absent++;
}

static __always_inline void count_thread(const struct fault *fault, struct mose_dirty_totals *totals)
{
	struct mose_dirty_thread_key key = {.tid = fault->tid};
	struct mose_dirty_thread *thread = bpf_map_lookup_elem(&mose_threads, &key);

	/* The number has been given anew: the thread before has gone. */
	if (!thread || thread->tgid != fault->tgid) {
		struct mose_dirty_thread fresh = {.tgid = fault->tgid};

		fresh.space = inner_space();
		fresh.tid = inner_number((struct task_struct *)bpf_get_current_task());
		bpf_get_current_comm(fresh.comm, sizeof(fresh.comm));
		bpf_map_update_elem(&mose_threads, &key, &fresh, BPF_ANY);
		thread = bpf_map_lookup_elem(&mose_threads, &key);
	}
	if (thread)
		thread->faults++;
	else
		totals->lost_threads++;
}

/* Moves the history on to `now`. The one that sets the stamp does it; whoever marks a page meanwhile loses nothing: the
 * mark stays in this epoch or moves into the one before. */
static __always_inline void age(struct mose_dirty_region *region, __u32 now)
{
	__u32 then = READ_ONCE(region->epoch), epochs = now - then;
	__u64 keep;

	if (then == now || __sync_val_compare_and_swap(&region->epoch, then, now) != then)
		return;
	if (!then)
		return; /* a new region */
	keep = epochs < 8 ? (0xffu >> epochs) * 0x0101010101010101ull : 0;
	for (int i = 0; i < MOSE_DIRTY_REGION_PAGES / 8; i++) {
		__u64 old;

		if (!READ_ONCE(region->history[i]))
			continue;
		old = __sync_lock_test_and_set(&region->history[i], 0);
		old = (old >> (epochs & 7)) & keep;
		if (old)
			__sync_fetch_and_or(&region->history[i], old);
	}
}

static __always_inline void count_region(const struct fault *fault, struct mose_dirty_totals *totals)
{
	struct mose_dirty_region_key key = {
		.tgid = fault->tgid,
		.region = fault->page / MOSE_DIRTY_REGION_PAGES,
	};
	struct mose_dirty_region *region = bpf_map_lookup_elem(&mose_regions, &key);
	__u32 page = fault->page % MOSE_DIRTY_REGION_PAGES;
	__u64 mark;

	if (!region) {
		bpf_map_update_elem(&mose_regions, &key, &empty_region, BPF_NOEXIST);
		region = bpf_map_lookup_elem(&mose_regions, &key);
	}
	if (!region) {
		totals->lost_regions++;
		return;
	}
	if (!region->space)
		region->space = inner_space();
	age(region, READ_ONCE(mose_control.epoch));
	mark = (__u64)MOSE_DIRTY_WRITTEN_NOW << (page % 8 * 8);
	if (!(READ_ONCE(region->history[page / 8]) & mark))
		__sync_fetch_and_or(&region->history[page / 8], mark);
	__sync_fetch_and_add(&region->faults, 1);
}

static __always_inline int note(__u64 address, __u64 error, bool user)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct mose_dirty_totals *totals;
	struct fault fault = {
		.tgid = pid_tgid >> 32,
		.tid = (__u32)pid_tgid,
		.page = address >> MOSE_DIRTY_PAGE_SHIFT,
		.user = user,
		.present = error & FAULT_PRESENT,
	};
	__u32 zero = 0;

	/* The kernel's own addresses are the upper half. */
	if (!(error & FAULT_WRITE) || (__s64)address < 0)
		return 0;
	if (bpf_current_task_under_cgroup(&mose_group, 0) != 1)
		return 0;
	totals = bpf_map_lookup_elem(&mose_totals, &zero);
	if (!totals)
		return 0;
	totals->faults++;
	if (user)
		totals->from_user++;
	else
		totals->from_kernel++;
	if (fault.present)
		totals->present++;
	else
		totals->absent++;
	count_process(&fault, totals);
	count_thread(&fault, totals);
	count_region(&fault, totals);
	return 0;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(btf_user, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	return note(address, error, 1);
}

SEC("tp_btf/page_fault_kernel")
int BPF_PROG(btf_kernel, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	return note(address, error, 0);
}

SEC("raw_tp/page_fault_user")
int BPF_PROG(raw_user, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	return note(address, error, 1);
}

SEC("raw_tp/page_fault_kernel")
int BPF_PROG(raw_kernel, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	return note(address, error, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
