/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Steering of one workload's packets at TC. The contract, with the maps, is include/mose/bpf/steer.h.
 *
 *   steer_ingress  TC egress of the host end of the workload's device: towards the workload
 *   steer_egress   TC ingress of the host end: from the workload
 *   steer_uplink   TC ingress of the node's uplink: takes what a peer has redirected to us
 *   steer_tap      TC ingress of the tap of held egress: puts frames back as if the workload had just sent them
 *
 * Mechanism only: which state when is the agent's business.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "lib/compat.bpf.h"
#include "lib/count.bpf.h"
#include "lib/flow.bpf.h"
#include "lib/parse.bpf.h"
#include "mose/bpf/steer.h"

const volatile struct mose_steer_config mose_config;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOSE_STEER_DIRECTION_MAX);
	__type(key, __u32);
	__type(value, struct mose_steer_policy);
} mose_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOSE_STEER_DIRECTION_MAX);
	__type(key, __u32);
	__type(value, struct mose_steer_queue);
} mose_queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MOSE_STEER_DIRECTION_MAX);
	__type(key, __u32);
	__type(value, struct mose_steer_drained);
} mose_drained SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MOSE_STEER_DIRECTION_MAX * MOSE_STEER_SLOTS);
	__type(key, __u32);
	__type(value, struct mose_steer_counts);
} mose_counts SEC(".maps");

struct maps {
	struct mose_steer_policy *policy;
	struct mose_steer_queue *queue;
	struct mose_steer_drained *drained;
	struct mose_steer_counts *counts;
};

/* What has been decided about a frame under the lock; acted on after it. */
struct decision {
	__u32 state; /* PASS, HOLD (to the tap), REDIRECT or SHUT */
	__u32 met;   /* state the frame met: for the stamps */
	__u32 epoch;
	__u32 ifindex;
	__u32 full;
	__u8 macs[2 * ETH_ALEN]; /* destination, source: as they stand in a frame */
};

static __always_inline struct mose_steer_counts *counts_of(__u32 direction, __u32 slot)
{
	__u32 key = MOSE_STEER_COUNTS_KEY(direction, slot);

	return bpf_map_lookup_elem(&mose_counts, &key);
}

static __always_inline int find_maps(__u32 direction, struct maps *maps)
{
	maps->policy = bpf_map_lookup_elem(&mose_services, &direction);
	maps->queue = bpf_map_lookup_elem(&mose_queues, &direction);
	maps->drained = bpf_map_lookup_elem(&mose_drained, &direction);
	maps->counts = counts_of(direction, 0);
	return maps->policy && maps->queue && maps->drained && maps->counts;
}

/* A place in the tap, or not. Under the policy's lock: the counts are what the bound and the end of a drain rest on. */
static __always_inline void queue_frame(const struct maps *maps, __u32 length, struct decision *decision)
{
	struct mose_steer_queue *queue = maps->queue;
	__u64 drained = READ_ONCE(maps->drained->frames);
	__u64 in_tap = queue->queued > drained ? queue->queued - drained : 0;

	if (!in_tap)
		queue->hold_bytes = 0;
	decision->state = MOSE_STEER_HOLD;
	decision->ifindex = maps->policy->tap_ifindex;
	if (in_tap >= maps->policy->hold_packets_max || queue->hold_bytes + length > maps->policy->hold_bytes_max) {
		queue->overflowed++;
		decision->full = 1;
		return;
	}
	queue->queued++;
	queue->queued_bytes += length;
	queue->hold_bytes += length;
}

/*
 * Under one lock: the state, the end of a drain and the place in the queue. So no frame can enter the tap after the
 * drain has ended, and none passes while an earlier one is still there. `drained` counts frames that have reached the
 * other side, not frames that are on their way: counting them when they come by here would let the next frame overtake
 * on another CPU.
 */
static __always_inline void decide(const struct maps *maps, int marked, int opens, __u32 length, __u64 now,
				   struct decision *decision)
{
	struct mose_steer_policy *policy = maps->policy;
	__u32 state;

	__builtin_memset(decision, 0, sizeof(*decision));
	bpf_spin_lock(&policy->lock);
	state = policy->state;
	if (policy->deadline_ns && now >= policy->deadline_ns) {
		policy->expired = state;
		policy->deadline_ns = 0;
		state = policy->state = policy->on_expiry;
	}
	if (state == MOSE_STEER_DRAIN) {
		if (READ_ONCE(maps->drained->frames) >= maps->queue->queued)
			state = policy->state = policy->after_drain;
		else if (marked)
			state = policy->after_drain;
	}
	decision->met = state;
	decision->epoch = policy->epoch;
	/* A marked frame that meets HOLD goes back to the tap: behind others is better than into a dumped socket. */
	if (state == MOSE_STEER_HOLD || state == MOSE_STEER_DRAIN || (state == MOSE_STEER_HOLD_NEW && opens)) {
		queue_frame(maps, length, decision);
	} else if (state == MOSE_STEER_PASS || state == MOSE_STEER_HOLD_NEW) {
		decision->state = MOSE_STEER_PASS;
	} else if (state == MOSE_STEER_REDIRECT) {
		decision->state = MOSE_STEER_REDIRECT;
		decision->ifindex = policy->peer_ifindex;
		__builtin_memcpy(decision->macs, policy->peer_mac, ETH_ALEN);
		__builtin_memcpy(decision->macs + ETH_ALEN, policy->own_mac, ETH_ALEN);
	} else {
		decision->state = MOSE_STEER_SHUT;
	}
	bpf_spin_unlock(&policy->lock);
}

static __always_inline int drop(const struct maps *maps, __u32 reason, __u32 length)
{
	count(maps->counts, reason, length);
	return TC_ACT_SHOT;
}

static __always_inline int pass(const struct maps *maps, __u32 length)
{
	count(maps->counts, MOSE_STEER_R_PASSED, length);
	return MOSE_TC_NEXT;
}

/* To the peer's uplink. The source address must be ours: the client's would teach the switches a wrong port. */
static __always_inline int redirect(struct __sk_buff *skb, const struct maps *maps, const struct packet *packet,
				    __u32 service, const struct decision *decision)
{
	if (!service)
		return drop(maps, MOSE_STEER_R_DROP_OTHER, skb->len);
	if (same_mac(packet->source_mac, decision->macs))
		return drop(maps, MOSE_STEER_R_DROP_LOOP, skb->len);
	if (bpf_skb_store_bytes(skb, 0, decision->macs, sizeof(decision->macs), 0))
		return drop(maps, MOSE_STEER_R_DROP_REWRITE, skb->len);
	count(maps->counts, MOSE_STEER_R_REDIRECTED, skb->len);
	return bpf_redirect(decision->ifindex, 0);
}

static __always_inline int steer(struct __sk_buff *skb, __u32 direction)
{
	int marked = skb->mark == MOSE_STEER_MARK;
	struct decision decision;
	struct packet packet;
	struct maps maps;
	__u32 service;
	__u64 now;

	/* Lookups in arrays with keys below their size do not fail. */
	if (!find_maps(direction, &maps))
		return TC_ACT_SHOT;
	/* The long hours between migrations: no lock, no parsing. */
	if (!marked && READ_ONCE(maps.policy->state) == MOSE_STEER_PASS && !READ_ONCE(maps.policy->silent)) {
		stamp(maps.counts, MOSE_STEER_PASS, READ_ONCE(maps.policy->epoch), bpf_ktime_get_ns());
		return pass(&maps, skb->len);
	}
	parse(skb, &packet);
	service = service_of(&mose_config, &packet, direction == MOSE_STEER_INGRESS ? packet.destination : packet.source);
	if (service) {
		maps.counts = counts_of(direction, service);
		if (!maps.counts)
			return TC_ACT_SHOT;
	}
	if (marked) {
		count(maps.counts, MOSE_STEER_R_REINJECTED, skb->len);
		skb->mark = 0; /* it is for us, not for the host's rules behind */
	}
	if (packet.kind == PACKET_NEIGHBOUR) {
		if (READ_ONCE(maps.policy->silent))
			return drop(&maps, MOSE_STEER_R_DROP_SILENT, skb->len);
		return pass(&maps, skb->len);
	}
	if (packet.kind == PACKET_TRUNCATED && READ_ONCE(maps.policy->state) != MOSE_STEER_PASS)
		return drop(&maps, MOSE_STEER_R_DROP_PARSE, skb->len);

	now = bpf_ktime_get_ns();
	decide(&maps, marked, opens_connection(&packet), skb->len, now, &decision);
	stamp(maps.counts, decision.met, decision.epoch, now);
	if (decision.state == MOSE_STEER_PASS)
		return pass(&maps, skb->len);
	if (decision.state == MOSE_STEER_REDIRECT)
		return redirect(skb, &maps, &packet, service, &decision);
	if (decision.state != MOSE_STEER_HOLD)
		return drop(&maps, MOSE_STEER_R_DROP_SHUT, skb->len);
	if (decision.full)
		return drop(&maps, MOSE_STEER_R_DROP_OVERFLOW, skb->len);
	count(maps.counts, MOSE_STEER_R_HELD, skb->len);
	return bpf_redirect(decision.ifindex, 0);
}

SEC("tcx/egress")
int steer_ingress(struct __sk_buff *skb)
{
	return steer(skb, MOSE_STEER_INGRESS);
}

SEC("tcx/ingress")
int steer_egress(struct __sk_buff *skb)
{
	return steer(skb, MOSE_STEER_EGRESS);
}

/* Only frames that are addressed to our uplink at layer 2 and to a service of ours at layer 3: a peer redirected them. */
SEC("tcx/ingress")
int steer_uplink(struct __sk_buff *skb)
{
	struct mose_steer_counts *counts;
	struct packet packet;
	__u8 mac[ETH_ALEN];
	__u32 service;

	if (load(skb, 0, mac, sizeof(mac)))
		return MOSE_TC_NEXT;
	for (int i = 0; i < ETH_ALEN; i++)
		if (mac[i] != mose_config.uplink_mac[i])
			return MOSE_TC_NEXT;
	parse(skb, &packet);
	service = service_of(&mose_config, &packet, packet.destination);
	if (!service)
		return MOSE_TC_NEXT;
	counts = counts_of(MOSE_STEER_UPLINK, service);
	if (!counts)
		return TC_ACT_SHOT;
	for (int i = 0; i < ETH_ALEN; i++)
		mac[i] = mose_config.service_mac[i];
	if (bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0)) {
		count(counts, MOSE_STEER_R_DROP_REWRITE, skb->len);
		return TC_ACT_SHOT;
	}
	stamp(counts, MOSE_STEER_PASS, 0, bpf_ktime_get_ns());
	count(counts, MOSE_STEER_R_TAKEN, skb->len);
	return MOSE_TC_NEXT;
}

SEC("tcx/ingress")
int steer_tap(struct __sk_buff *skb)
{
	skb->mark = MOSE_STEER_MARK;
	return bpf_redirect(mose_config.host_ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
