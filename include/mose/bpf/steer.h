/* SPDX-License-Identifier: MIT */
#ifndef MOSE_BPF_STEER_H
#define MOSE_BPF_STEER_H
/*
 * Contract between steer_tc.bpf.c, steer_xdp.bpf.c and the agent.
 *
 * Of one workload, at the host end of its device (TC). A workload moves as a whole, so there is one entry per direction,
 * not per address: a change of state is one map update, however many addresses it has.
 *
 * mose_services  array, by direction: the policy. The agent writes (BPF_F_LOCK); the programs only ever end a drain
 *                (`after_drain`) and a state whose time is up (`on_expiry`), under the same lock, and note since when.
 * mose_queues    array, by direction: what is in the tap. The programs write, under the lock of the policy.
 * mose_drained   array, by direction, mapped into the agent: how many frames of the tap the agent has put back. One
 *                writer, monotonic, stored after the frame has been delivered: that is what makes the end of a drain free
 *                of inversions.
 * mose_drained_bytes  array, by direction, mapped into the agent: their bytes, stored before the frame is counted. A map of
 *                its own because mose_drained stays as it is; where it is missing (programs before version 6) it begins
 *                with zero.
 * mose_counts    per-CPU array, by MOSE_STEER_COUNTS_KEY: counters and stamps per direction and service. The programs
 *                write.
 *
 * Of one uplink at XDP, for all services of the node, because a device has room for one such program:
 *
 * mose_uplink         hash, by address: what becomes of frames that come in there for a service. The agent writes whole
 *                     entries, the program reads.
 * mose_uplink_counts  per-CPU hash, by address as well; address zero: frames for no service. An entry without counters is
 *                     not acted on: they come before it and go after it.
 *
 * Both take memory as services come (nothing is allocated beforehand but the heads of the hash); how many they take at most is
 * set when the program is loaded.
 *
 * A newer agent replaces programs that are at work, and maps whose values have changed: fields are carried over by their
 * names (BTF), so that a name never gets another meaning and an enumeration's number is never used again. mose_queues,
 * mose_drained and mose_drained_bytes are never copied, because they count while they would be: they stay as they are in every
 * version.
 *
 * Fixed width, explicit padding, zero means invalid; sizes are asserted on both sides. Enumerations stand in the values
 * where that makes `bpftool map dump` print names.
 */
#ifndef __VMLINUX_H__
#include <linux/bpf.h>
#include <linux/types.h>
#endif

#define MOSE_STEER_MARK 0x4d4f5345u /* on frames that the agent puts back: not held again while draining */
#define MOSE_STEER_VERSION 6u
#define MOSE_STEER_SERVICES_MAX 8   /* addresses of one workload */
#define MOSE_STEER_NAME_SIZE 32     /* of a workload, with its final zero */
#define MOSE_TUNNEL_VNI 0x4d4f53u   /* "MOS": on a port that others may use for theirs */

/*
 * Counters of a direction: slot 0 for frames that belong to no service (ARP, broadcast) and for those of the state pass,
 * which are not looked at; slot n for the n-th address of the configuration, counted from 1.
 */
#define MOSE_STEER_SLOTS (MOSE_STEER_SERVICES_MAX + 1)
#define MOSE_STEER_COUNTS_KEY(direction, slot) ((direction) * MOSE_STEER_SLOTS + (slot))

enum mose_steer_state {
	MOSE_STEER_INVALID = 0,  /* as SHUT: nothing has been set */
	MOSE_STEER_PASS = 1,
	MOSE_STEER_HOLD = 2,     /* to the tap, counted; bounded by hold_packets_max and hold_bytes_max */
	MOSE_STEER_DRAIN = 3,    /* to the tap until every queued frame has been put back, then as `after_drain` says; bounded as a
				  * hold, and by drain_packets_max */
	MOSE_STEER_REDIRECT = 4, /* frames to a service: to the peer's uplink (L2 rewrite, or VXLAN), out of ours; others dropped */
	MOSE_STEER_SHUT = 5,     /* dropped and counted */
	MOSE_STEER_HOLD_NEW = 6, /* what may open a TCP connection to the tap, the rest passes */
	MOSE_STEER_STATE_MAX = 8,
};

/* Direction: towards the workload, or from it. Also the key of the maps; 0 is invalid. */
enum mose_steer_direction {
	MOSE_STEER_INGRESS = 1,
	MOSE_STEER_EGRESS = 2,
	MOSE_STEER_UPLINK = 3, /* frames that a peer has redirected to us: counted; of the policy only `tunnel` counts */
	MOSE_STEER_DIRECTION_MAX = 4,
};

/* What a program does with a frame, and why: index of the counters. */
enum mose_steer_reason {
	MOSE_STEER_R_INVALID = 0,
	MOSE_STEER_R_PASSED = 1,
	MOSE_STEER_R_HELD = 2,
	MOSE_STEER_R_REINJECTED = 3,    /* came back with the mark; counted besides what becomes of it */
	MOSE_STEER_R_REDIRECTED = 4,
	MOSE_STEER_R_DROP_SHUT = 5,
	MOSE_STEER_R_DROP_OVERFLOW = 6, /* the hold is full */
	MOSE_STEER_R_DROP_PARSE = 7,    /* headers cut off, only where the state needs them */
	MOSE_STEER_R_DROP_SILENT = 8,   /* ARP or neighbour discovery where the workload must not be seen */
	MOSE_STEER_R_DROP_OTHER = 9,    /* redirect: not addressed to a service (broadcast, other protocols) */
	MOSE_STEER_R_DROP_LOOP = 10,    /* redirect: the peer had redirected it to our uplink, it must not go back */
	MOSE_STEER_R_DROP_REWRITE = 11, /* a helper refused to change the frame */
	MOSE_STEER_R_TAKEN = 12,        /* uplink: a peer had redirected it to us */
	MOSE_STEER_R_FOREIGN = 13,      /* uplink: VXLAN with our VNI for a service, from a node that may not send it: left to the kernel */
	MOSE_STEER_R_DROP_TUNNEL = 14,  /* uplink: VXLAN of the peer that holds no frame which it may send */
	MOSE_STEER_R_DROP_MTU = 15,     /* redirect: with the tunnel's headers it exceeds the device's MTU */
	MOSE_STEER_R_MAX = 16,
};

/*
 * Two nodes that are not on one segment: whole frames in UDP (VXLAN, RFC 7348), with MOSE_TUNNEL_VNI, from `local` to
 * `remote` where they are sent, from `remote` to `local` where they are taken. All zero: no tunnel.
 */
struct mose_steer_tunnel {
	__u8 local[16];  /* network order, IPv4 in the first four bytes */
	__u8 remote[16];
	__u16 port;      /* UDP destination, network order */
	__u8 family;     /* 4 or 6; 0: no tunnel */
	__u8 pad[5];
};

struct mose_steer_policy {
	struct bpf_spin_lock lock;
	enum mose_steer_state state;
	enum mose_steer_state after_drain; /* PASS, REDIRECT or SHUT */
	enum mose_steer_state on_expiry;   /* PASS or SHUT: what the state becomes at deadline_ns */
	enum mose_steer_state expired;     /* the state whose time was up; 0: none since the agent last wrote */
	__u32 epoch;                       /* raised by the agent with every change */
	__u64 deadline_ns;                 /* in bpf_ktime_get_ns; 0: the state does not expire */
	__u64 since_ns;                    /* when the state began, in bpf_ktime_get_ns; 0: before it was noted */
	__u32 silent;           /* 1: ARP and neighbour discovery are dropped as well */
	__u32 tap_ifindex;
	__u32 peer_ifindex;     /* device that redirected frames leave by */
	__u8 peer_mac[6];       /* destination address of redirected frames: the peer's, with a tunnel the next hop's */
	__u8 own_mac[6];        /* their source address */
	struct mose_steer_tunnel tunnel; /* ingress: redirected frames go by it; uplink: frames that come by it are taken */
	__u32 peer_settled;     /* 1: peer_ifindex to tunnel change no more: REDIRECT reads them without the lock */
	__u32 drain_packets_max; /* frames in the tap while in DRAIN: the agent lowers it to make it run dry; 0: hold_packets_max */
	__u64 hold_packets_max; /* frames in the tap at one time, below its queue length */
	__u64 hold_bytes_max;   /* bytes in the tap at one time */
};

/*
 * Totals since the programs were loaded; they only grow. In the tap now: queued - drained. A frame has as many bytes as are
 * read of it from the tap, without the tap's own header: its VLAN tags are counted wherever they are kept, and one of
 * segmentation offload is one frame.
 *
 * In bytes at most: queued_bytes less those drained, and no more than hold_bytes. Both are too large, never too small,
 * where frames have been lost, or written off, of which nobody knows the bytes; the second ends that with the next empty tap,
 * a new hold of the agent (which sets what has been drained to what was queued) the first.
 */
struct mose_steer_queue {
	__u64 queued;
	__u64 queued_bytes;
	__u64 hold_bytes; /* given to the tap since it was last empty */
	__u64 overflowed;
};

struct mose_steer_drained {
	__u64 frames; /* put back, or written off by the agent and reported */
};

struct mose_steer_drained_bytes {
	__u64 bytes; /* of those frames, as far as known */
};

/* First and last frame that met a state, in bpf_ktime_get_ns; valid for the epoch in which it was last entered. */
struct mose_steer_stamp {
	__u32 epoch;
	__u32 tick;     /* of the kernel's clock when last_ns was read, where that is done once a tick only */
	__u64 first_ns;
	__u64 last_ns;
};

struct mose_steer_counts {
	__u64 frames[MOSE_STEER_R_MAX]; /* by enum mose_steer_reason */
	__u64 bytes[MOSE_STEER_R_MAX];
	struct mose_steer_stamp stamps[MOSE_STEER_STATE_MAX]; /* by enum mose_steer_state */
};

/* What can become of a frame on the uplink: a third of mose_steer_counts, because a node may have 100 000 services. */
struct mose_steer_count {
	__u64 frames;
	__u64 bytes;
};

struct mose_uplink_counts {
	struct mose_steer_count passed, taken, redirected;
	struct mose_steer_count drop_loop, drop_rewrite, drop_mtu;
	struct mose_steer_stamp local_stamp, redirect_stamp;
};

struct mose_steer_service {
	__u8 address[16]; /* network order, IPv4 in the first four bytes */
	__u8 family;      /* 4 or 6 */
	__u8 pad[3];
};

/* Fixed when the programs are loaded (read-only data). */
struct mose_steer_config {
	__u32 version;
	__u32 services_count;
	struct mose_steer_service services[MOSE_STEER_SERVICES_MAX];
	__u32 host_ifindex;   /* host end of the workload's device */
	__u32 uplink_ifindex; /* 0: none */
	__u8 service_mac[6];  /* of the workload */
	__u8 uplink_mac[6];   /* of this node's uplink: peers address redirected frames to it */
	__u32 attach;         /* enum mose_steer_attach */
};

enum mose_steer_attach {
	MOSE_STEER_TCX = 1,    /* links, detached with their pins */
	MOSE_STEER_CLSACT = 2, /* filters of the clsact qdisc: for kernels before 6.6 */
};

enum mose_uplink_state {
	MOSE_UPLINK_INVALID = 0,
	MOSE_UPLINK_LOCAL = 1,    /* here or on its way here: frames that a peer redirected get the service's MAC */
	MOSE_UPLINK_REDIRECT = 2, /* moved away: frames go to the peer at once */
};

/* For frames whose destination is the key, and whose layer 2 destination is the service's MAC or our own. */
struct mose_uplink_entry {
	enum mose_uplink_state state;
	__u32 epoch;         /* raised with every change */
	__u32 peer_ifindex;  /* device that redirected frames leave by */
	__u8 service_mac[6];
	__u8 peer_mac[6];    /* destination address of redirected frames: the peer's, with a tunnel the next hop's */
	__u8 own_mac[6];     /* their source address */
	__u8 pad[2];
	struct mose_steer_tunnel tunnel; /* redirected frames go by it */
	char workload[MOSE_STEER_NAME_SIZE];
};

enum mose_uplink_mode {
	MOSE_UPLINK_NATIVE = 1,  /* in the driver */
	MOSE_UPLINK_GENERIC = 2, /* on packets, after the driver: for drivers without XDP */
};

/* Fixed when the program of an uplink is loaded (read-only data). */
struct mose_uplink_config {
	__u32 version;
	__u32 ifindex;
	__u8 mac[6]; /* peers address redirected frames to it */
	__u8 mode;   /* enum mose_uplink_mode */
	__u8 pad;
};

#ifdef __cplusplus
#define MOSE_STEER_ASSERT static_assert
#else
#define MOSE_STEER_ASSERT _Static_assert
#endif
MOSE_STEER_ASSERT(sizeof(enum mose_steer_state) == 4, "enumerations in values");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_tunnel) == 40, "tunnel");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_policy) == 88 + 40, "policy");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_queue) == 32, "queue");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_drained) == 8, "drained");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_drained_bytes) == 8, "drained bytes");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_stamp) == 24, "stamp");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_counts) == 2 * 16 * 8 + 8 * 24, "counts");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_service) == 20, "service");
MOSE_STEER_ASSERT(sizeof(struct mose_steer_config) == 8 + 8 * 20 + 8 + 12 + 4, "config");
MOSE_STEER_ASSERT(sizeof(struct mose_uplink_entry) == 64 + 40, "uplink entry");
MOSE_STEER_ASSERT(sizeof(struct mose_uplink_counts) == 6 * 16 + 2 * 24, "uplink counts");
MOSE_STEER_ASSERT(sizeof(struct mose_uplink_config) == 16, "uplink config");

#endif
