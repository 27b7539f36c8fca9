/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Who is in process_vm_writev(2). /proc/TID/syscall tells it only of threads that sleep. The contract is
 * include/mose/bpf/remote_writes.h.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "mose/bpf/remote_writes.h"

/* Of x86-64, x32 and the 32-bit calls. To the last of these the first is another call, which is short. */
#define PROCESS_VM_WRITEV	311
#define PROCESS_VM_WRITEV_X32	(0x40000000 | 540)
#define PROCESS_VM_WRITEV_32	348

/* Of the kernel, since 6.7. With these flags it begins at the first thread of the host, whatever thread is given. */
extern int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task, unsigned int flags) __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *it) __ksym;
#define ALL_THREADS	1

/*
 * Is called for one thread and walks over all of the host itself: an iterator shows those of its reader's pid namespace and below
 * only, and who writes from outside of it is no better. The last record is of no thread: the walk has taken place.
 */
SEC("iter/task")
int mose_remote_writes(struct bpf_iter__task *ctx)
{
#ifdef __TARGET_ARCH_x86 /* elsewhere no memory is tracked so far, see kernel/borrowed_thread.h */
	struct task_struct *one = ctx->task, *task;
	struct mose_remote_write out = {};
	struct bpf_iter_task threads;

	if (!one)
		return 0;
	bpf_iter_task_new(&threads, one, ALL_THREADS);
	while ((task = bpf_iter_task_next(&threads))) {
		struct pt_regs *regs;
		__u32 number; /* no more of it counts */

		if (!BPF_CORE_READ(task, mm))
			continue;
		/*
		 * The registers of its last way into the kernel. They stay behind when it has left; the next call, fault or
		 * interrupt replaces them.
		 */
		regs = (struct pt_regs *)bpf_task_pt_regs(task);
		number = BPF_CORE_READ(regs, orig_ax);
		if (number != PROCESS_VM_WRITEV && number != PROCESS_VM_WRITEV_X32 && number != PROCESS_VM_WRITEV_32)
			continue;
		out.thread = BPF_CORE_READ(task, pid);
		if (bpf_seq_write(ctx->meta->seq, &out, sizeof(out)))
			break; /* the reader gets an error */
	}
	bpf_iter_task_destroy(&threads);
	out.thread = 0;
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
#endif
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
