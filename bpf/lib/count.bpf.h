/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_COUNT_BPF_H
#define MOSE_COUNT_BPF_H
/*
 * Counters and stamps. Per CPU and without atomics: TC and XDP programs run with bottom halves off, so that no other one
 * comes between on the same CPU.
 */
#include <bpf/bpf_helpers.h>

#include "mose/bpf/steer.h"

static __always_inline void count(struct mose_steer_counts *counts, __u32 reason, __u32 bytes)
{
	if (reason < MOSE_STEER_R_MAX) {
		counts->frames[reason]++;
		counts->bytes[reason] += bytes;
	}
}

static __always_inline void count_one(struct mose_steer_count *count, __u32 bytes)
{
	count->frames++;
	count->bytes += bytes;
}

/* A change of the epoch begins new stamps. `now` costs one clock read, about 24 ns. */
static __always_inline void stamp_one(struct mose_steer_stamp *stamp, __u32 epoch, __u64 now)
{
	if (stamp->epoch != epoch || !stamp->first_ns) {
		stamp->epoch = epoch;
		stamp->first_ns = now;
	}
	stamp->last_ns = now;
}

/*
 * Of redirected frames, which may come at line rate: the first as exact as above, the last by the clock that the kernel
 * sets forward once a tick (up to 10 ms), which is read once a tick as well.
 */
static __always_inline void stamp_tick(struct mose_steer_stamp *stamp, __u32 epoch)
{
	__u32 tick = bpf_jiffies64();
	__u64 now;

	if (stamp->epoch != epoch || !stamp->first_ns) {
		stamp_one(stamp, epoch, bpf_ktime_get_ns());
		return;
	}
	if (stamp->tick == tick)
		return;
	stamp->tick = tick;
	now = bpf_ktime_get_coarse_ns();
	if (now > stamp->last_ns)
		stamp->last_ns = now;
}

static __always_inline void stamp(struct mose_steer_counts *counts, __u32 state, __u32 epoch, __u64 now)
{
	if (state < MOSE_STEER_STATE_MAX)
		stamp_one(&counts->stamps[state], epoch, now);
}

#endif
