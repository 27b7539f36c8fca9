/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The mappings of a process with their flags, without a look at their pages. The contract is include/mose/bpf/mappings.h.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "mose/bpf/mappings.h"

SEC("iter/task_vma")
int mose_mappings(struct bpf_iter__task_vma *ctx)
{
	struct vm_area_struct *vma = ctx->vma;
	struct mose_mapping out = {};

	/* Flags that do not fit into one word would be lost: then there are no records, and nobody learns from them. */
	if (!vma || !ctx->task || bpf_core_field_size(vma->vm_flags) != sizeof(out.flags))
		return 0;
	out.start = vma->vm_start;
	out.end = vma->vm_end;
	out.flags = vma->vm_flags;
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
