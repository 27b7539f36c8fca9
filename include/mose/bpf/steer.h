/* SPDX-License-Identifier: MIT */
#ifndef MOSE_BPF_STEER_H
#define MOSE_BPF_STEER_H
/*
 * Contract between steer_tc.bpf.c and the agent. One entry per service address in the pinned map `mose_services`.
 * Fixed width, explicit padding, zero means invalid; sizes are asserted on both sides.
 */
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#define MOSE_STEER_MARK 0x4d4f5345u /* on frames that the agent re-injects: never held again */
#define MOSE_STEER_VERSION 1u

enum mose_steer_state {
	MOSE_STEER_INVALID = 0,
	MOSE_STEER_PASS = 1,
	MOSE_STEER_HOLD = 2,     /* to the tap, counted; bounded by hold_packets_max and hold_bytes_max */
	MOSE_STEER_DRAIN = 3,    /* to the tap until re-injected equals queued, then as `after_drain` says */
	MOSE_STEER_REDIRECT = 4, /* L2 rewrite to the peer's uplink, out of ours */
	MOSE_STEER_SHUT = 5,     /* dropped and counted */
};

/* Direction: towards the workload, or from it. */
enum mose_steer_direction {
	MOSE_STEER_INGRESS = 1,
	MOSE_STEER_EGRESS = 2,
};

/* What a program does with a packet, and why: index of the counters. */
enum mose_steer_reason {
	MOSE_STEER_R_INVALID = 0,
	MOSE_STEER_R_PASSED = 1,
	MOSE_STEER_R_HELD = 2,
	MOSE_STEER_R_REINJECTED = 3,
	MOSE_STEER_R_REDIRECTED = 4,
	MOSE_STEER_R_DROP_SHUT = 5,
	MOSE_STEER_R_DROP_OVERFLOW = 6,
	MOSE_STEER_R_DROP_PARSE = 7,
	MOSE_STEER_R_DROP_ARP = 8,  /* ARP/ND of a silent destination */
	MOSE_STEER_R_MAX = 16,
};

struct mose_steer_key {
	__u8 address[16];  /* network order, IPv4 in the first four bytes */
	__u8 family;       /* 4 or 6 */
	__u8 direction;    /* enum mose_steer_direction */
	__u8 pad[6];
};

struct mose_steer_value {
	__u32 lock;             /* struct bpf_spin_lock in the program */
	__u32 state;            /* enum mose_steer_state */
	__u32 after_drain;      /* PASS or REDIRECT */
	__u32 epoch;
	__u32 tap_ifindex;
	__u32 peer_ifindex;     /* device that redirected frames leave by */
	__u8 peer_mac[6];       /* destination address of redirected frames */
	__u8 own_mac[6];        /* their source address */
	__u32 silent;           /* 1: ARP/ND from the workload are dropped as well */
	__u64 hold_packets_max;
	__u64 hold_bytes_max;
	__u64 queued;           /* frames given to the tap since the hold began */
	__u64 queued_bytes;
	__u64 reinjected;       /* frames that came back with MOSE_STEER_MARK */
	__u64 counts[16];       /* by enum mose_steer_reason */
	__u64 first_ns;         /* bpf_ktime_get_ns of the first and last packet in the present state */
	__u64 last_ns;
};

#endif
