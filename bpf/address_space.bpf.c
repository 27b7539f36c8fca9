/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * How often the mappings of a process have been changed. The contract is include/mose/bpf/address_space.h.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "mose/bpf/address_space.h"

/* Before 6.14. */
struct mm_struct___plain {
	int mm_lock_seq;
} __attribute__((preserve_access_index));

SEC("iter/task")
int mose_address_space(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct mose_address_space out = {};
	struct mm_struct *mm;

	if (!task)
		return 0;
	mm = BPF_CORE_READ(task, mm);
	if (!mm)
		return 0;
	if (bpf_core_field_exists(mm->mm_lock_seq.sequence))
		out.changes = BPF_CORE_READ(mm, mm_lock_seq.sequence);
	else if (bpf_core_field_exists(((struct mm_struct___plain *)mm)->mm_lock_seq))
		out.changes = BPF_CORE_READ((struct mm_struct___plain *)mm, mm_lock_seq);
	else
		return 0; /* not counted: then there are no records */
	out.identity = (__u64)mm;
	out.next_pid = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, idr.idr_next);
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
