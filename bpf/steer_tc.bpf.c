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
#include "lib/encap.bpf.h"
#include "lib/flow.bpf.h"
#include "lib/parse.bpf.h"
#include "mose/bpf/steer.h"

#define VLAN_TAG_SIZE 4

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
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MOSE_STEER_DIRECTION_MAX);
	__type(key, __u32);
	__type(value, struct mose_steer_drained_bytes);
} mose_drained_bytes SEC(".maps");

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
	struct mose_steer_drained_bytes *drained_bytes;
	struct mose_steer_counts *counts;
};

/* What has been decided about a frame under the lock; acted on after it. */
struct decision {
	__u32 state; /* PASS, HOLD (to the tap), REDIRECT or SHUT */
	__u32 met;   /* state the frame met: for the stamps */
	__u32 epoch;
	__u32 ifindex;
	__u32 full;
	__u32 settled; /* a redirection that has been going on: no lock, and no clock to a nanosecond */
	__u8 macs[2 * ETH_ALEN]; /* destination, source: as they stand in a frame */
	struct mose_steer_tunnel tunnel;
};

static __always_inline struct mose_steer_counts *counts_of(__u32 direction, __u32 slot)
{
	__u32 key = MOSE_STEER_COUNTS_KEY(direction, slot);

	return bpf_map_lookup_elem(&mose_counts, &key);
}

static __always_inline int find_queue(__u32 direction, struct maps *maps)
{
	maps->queue = bpf_map_lookup_elem(&mose_queues, &direction);
	maps->drained = bpf_map_lookup_elem(&mose_drained, &direction);
	maps->drained_bytes = bpf_map_lookup_elem(&mose_drained_bytes, &direction);
	return maps->queue && maps->drained && maps->drained_bytes;
}

static __always_inline int find_maps(__u32 direction, struct maps *maps)
{
	maps->policy = bpf_map_lookup_elem(&mose_services, &direction);
	return !!maps->policy;
}

/* A place in the tap, or not. Under the policy's lock: the counts are what the bound and the end of a drain rest on. */
static __always_inline void queue_frame(const struct maps *maps, __u32 state, __u32 length, struct decision *decision)
{
	__u64 packets_max = maps->policy->hold_packets_max, drain_max = maps->policy->drain_packets_max;
	struct mose_steer_queue *queue = maps->queue;
	__u64 drained = READ_ONCE(maps->drained->frames);
	__u64 in_tap = queue->queued > drained ? queue->queued - drained : 0;
	__u64 bytes_drained = READ_ONCE(maps->drained_bytes->bytes);
	__u64 bytes = queue->queued_bytes > bytes_drained ? queue->queued_bytes - bytes_drained : 0;

	if (!in_tap)
		queue->hold_bytes = 0;
	if (bytes > queue->hold_bytes)
		bytes = queue->hold_bytes;
	decision->state = MOSE_STEER_HOLD;
	decision->ifindex = maps->policy->tap_ifindex;
	/* What is dropped overtakes nothing, so that the order stays. */
	if (state == MOSE_STEER_DRAIN && drain_max && drain_max < packets_max)
		packets_max = drain_max;
	if (in_tap >= packets_max || bytes + length > maps->policy->hold_bytes_max) {
		__sync_fetch_and_add(&queue->overflowed, 1);
		decision->full = 1;
		return;
	}
	/* Atomic for the moment in which an agent replaces programs: another CPU may count by the lock of the policy before. */
	__sync_fetch_and_add(&queue->queued, 1);
	__sync_fetch_and_add(&queue->queued_bytes, length);
	__sync_fetch_and_add(&queue->hold_bytes, length);
}

static __always_inline void redirect_decided(const struct mose_steer_policy *policy, struct decision *decision)
{
	decision->state = MOSE_STEER_REDIRECT;
	decision->ifindex = policy->peer_ifindex;
	__builtin_memcpy(decision->macs, policy->peer_mac, ETH_ALEN);
	__builtin_memcpy(decision->macs + ETH_ALEN, policy->own_mac, ETH_ALEN);
	if (policy->tunnel.family)
		__builtin_memcpy(&decision->tunnel, &policy->tunnel, sizeof(decision->tunnel));
}

/*
 * A redirection ends by the agent's word only, and the agent changes a settled peer only when no program can be reading it
 * any more: nothing here needs the lock, which costs as much as all the rest of the decision.
 */
static __always_inline int decide_settled(const struct mose_steer_policy *policy, struct decision *decision)
{
	decision->full = 0;
	decision->tunnel.family = 0;
	decision->settled = READ_ONCE(policy->state) == MOSE_STEER_REDIRECT && READ_ONCE(policy->peer_settled);
	if (!decision->settled)
		return 0;
	decision->met = MOSE_STEER_REDIRECT;
	decision->epoch = READ_ONCE(policy->epoch);
	redirect_decided(policy, decision);
	return 1;
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

	bpf_spin_lock(&policy->lock);
	state = policy->state;
	if (policy->deadline_ns && now >= policy->deadline_ns) {
		policy->expired = state;
		policy->deadline_ns = 0;
		policy->since_ns = now;
		state = policy->state = policy->on_expiry;
	}
	if (state == MOSE_STEER_DRAIN) {
		if (READ_ONCE(maps->drained->frames) >= maps->queue->queued) {
			policy->since_ns = now;
			state = policy->state = policy->after_drain;
		} else if (marked) {
			state = policy->after_drain;
		}
	}
	decision->met = state;
	decision->epoch = policy->epoch;
	/* A marked frame that meets HOLD goes back to the tap: behind others is better than into a dumped socket. */
	if (state == MOSE_STEER_HOLD || state == MOSE_STEER_DRAIN || (state == MOSE_STEER_HOLD_NEW && opens)) {
		queue_frame(maps, state, length, decision);
	} else if (state == MOSE_STEER_PASS || state == MOSE_STEER_HOLD_NEW) {
		decision->state = MOSE_STEER_PASS;
	} else if (state == MOSE_STEER_REDIRECT) {
		redirect_decided(policy, decision);
	} else {
		decision->state = MOSE_STEER_SHUT;
	}
	bpf_spin_unlock(&policy->lock);
}

/* What is read of a frame from the tap: a tag that the kernel keeps beside the frame stands in it there. */
static __always_inline __u32 length_in_tap(const struct __sk_buff *skb)
{
	return skb->len + (skb->vlan_present ? VLAN_TAG_SIZE : 0);
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

/*
 * The tunnel's headers put on: 0, or negative when the kernel refuses. Segmentation stays as the sender asked for it, so
 * that the kernel cuts a large frame into packets that are each put into the tunnel whole.
 */
static __noinline int put_into_tunnel(struct __sk_buff *skb, const struct packet *packet, const struct decision *decision)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
			    ADJ_ROOM_ENCAP_L2(sizeof(struct ethernet_header));
	const __u32 length = skb->len;
	__be16 port;

	if (!packet || !decision)
		return -1;
	/* A tag would stand outside, where it means another network. */
	if (packet->l3_offset != sizeof(struct ethernet_header) || skb->vlan_present)
		return -1;
	port = flow_port(skb, packet);
	if (decision->tunnel.family == 4) {
		struct outer4 outer __attribute__((aligned(8)));

		if (bpf_skb_adjust_room(skb, TUNNEL_ROOM4, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
			return -1;
		fill_outer4(&outer, packet, decision->macs, &decision->tunnel, port, length);
		return bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0);
	} else {
		struct outer6 outer __attribute__((aligned(8)));

		if (bpf_skb_adjust_room(skb, TUNNEL_ROOM6, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
			return -1;
		fill_outer6(&outer, packet, decision->macs, &decision->tunnel, port, length);
		return bpf_skb_store_bytes(skb, 0, &outer, sizeof(outer), 0);
	}
}

/* The peer is behind a router. */
static __always_inline int redirect_by_tunnel(struct __sk_buff *skb, const struct maps *maps, const struct packet *packet,
					      const struct decision *decision)
{
	const __u32 length = skb->len;
	__u32 mtu = 0;
	int fits;

	if (put_into_tunnel(skb, packet, decision))
		return drop(maps, MOSE_STEER_R_DROP_REWRITE, length);
	fits = bpf_check_mtu(skb, decision->ifindex, &mtu, 0, BPF_MTU_CHK_SEGS);
	if (fits)
		return drop(maps, fits > 0 ? MOSE_STEER_R_DROP_MTU : MOSE_STEER_R_DROP_REWRITE, length);
	count(maps->counts, MOSE_STEER_R_REDIRECTED, length);
	return bpf_redirect(decision->ifindex, 0);
}

/* To the peer's uplink. The source address must be ours: the client's would teach the switches a wrong port. */
static __always_inline int redirect(struct __sk_buff *skb, const struct maps *maps, const struct packet *packet,
				    __u32 service, const struct decision *decision)
{
	if (!service)
		return drop(maps, MOSE_STEER_R_DROP_OTHER, skb->len);
	if (decision->tunnel.family)
		return redirect_by_tunnel(skb, maps, packet, decision);
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
		maps.counts = counts_of(direction, 0);
		if (!maps.counts)
			return TC_ACT_SHOT;
		stamp(maps.counts, MOSE_STEER_PASS, READ_ONCE(maps.policy->epoch), bpf_ktime_get_ns());
		return pass(&maps, skb->len);
	}
	parse(skb, &packet);
	service = service_of(&mose_config, &packet, direction == MOSE_STEER_INGRESS ? packet.destination : packet.source);
	maps.counts = counts_of(direction, service);
	if (!maps.counts)
		return TC_ACT_SHOT;
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

	if (decide_settled(maps.policy, &decision)) {
		stamp_tick(&maps.counts->stamps[MOSE_STEER_REDIRECT], decision.epoch);
	} else {
		if (!find_queue(direction, &maps))
			return TC_ACT_SHOT;
		now = bpf_ktime_get_ns();
		decide(&maps, marked, opens_connection(&packet), length_in_tap(skb), now, &decision);
		stamp(maps.counts, decision.met, decision.epoch, now);
	}
	if (decision.state == MOSE_STEER_PASS)
		return pass(&maps, skb->len);
	if (decision.state == MOSE_STEER_REDIRECT) {
		int verdict = redirect(skb, &maps, &packet, service, &decision);

		/* Refused, what has been put back would be put back for ever, and all that waits behind it with it. */
		return marked && verdict == TC_ACT_SHOT ? TC_ACT_STOLEN : verdict;
	}
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

/* What the peer's program has put on goes. The source stays the router's: that is who is at this port of the switch. */
static __noinline int take_out_of_tunnel(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner)
{
	struct ethernet_header ethernet;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (!outer || !inner)
		return -1;
	if (outer->family != inner->family)
		flags |= inner->family == 4 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	if (bpf_skb_adjust_room(skb, outer->family == 4 ? -TUNNEL_ROOM4 : -TUNNEL_ROOM6, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	for (int i = 0; i < ETH_ALEN; i++)
		ethernet.destination[i] = mose_config.service_mac[i];
	__builtin_memcpy(ethernet.source, outer->source_mac, ETH_ALEN);
	ethernet.type = inner_type(inner);
	return bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0);
}

static __always_inline int take(struct mose_steer_counts *counts, int refused, __u32 length)
{
	if (refused) {
		count(counts, MOSE_STEER_R_DROP_REWRITE, length);
		return TC_ACT_SHOT;
	}
	stamp(counts, MOSE_STEER_PASS, 0, bpf_ktime_get_ns());
	count(counts, MOSE_STEER_R_TAKEN, length);
	return MOSE_TC_NEXT;
}

/* Frames of the tunnel by which the node that this workload came from sends what is still addressed to the old place. */
static __always_inline int from_tunnel(struct __sk_buff *skb, struct mose_steer_policy *policy, const struct packet *outer,
				       int *verdict)
{
	struct mose_steer_tunnel tunnel;
	struct mose_steer_counts *counts;
	struct packet inner = {};
	__u32 service, length = skb->len;
	enum tunnel_kind kind;

	bpf_spin_lock(&policy->lock);
	__builtin_memcpy(&tunnel, &policy->tunnel, sizeof(tunnel));
	bpf_spin_unlock(&policy->lock);
	kind = read_tunnel(skb, outer, &tunnel, &inner);
	if (kind == TUNNEL_OTHER)
		return 0;
	*verdict = MOSE_TC_NEXT;
	service = kind == TUNNEL_BROKEN ? 0 : service_of(&mose_config, &inner, inner.destination);
	if (kind != TUNNEL_BROKEN && !service)
		return 1; /* for another workload, whose peer this may be */
	counts = counts_of(MOSE_STEER_UPLINK, service);
	if (!counts) {
		*verdict = TC_ACT_SHOT;
	} else if (kind == TUNNEL_FOREIGN) {
		count(counts, MOSE_STEER_R_FOREIGN, length);
	} else if (kind == TUNNEL_BROKEN) {
		count(counts, MOSE_STEER_R_DROP_TUNNEL, length);
		*verdict = TC_ACT_SHOT;
	} else {
		*verdict = take(counts, take_out_of_tunnel(skb, outer, &inner), length);
	}
	return 1;
}

/*
 * What the peer has redirected to us, and ingress would redirect to it: it would go round for ever. Only here is that to be
 * seen, by the address of our uplink in front of it. The peer's own address behind that says little, since the bridge there
 * mostly has the same: clients on that node send with it, to the service's address. Nor does a router's, with a tunnel.
 */
static __always_inline int goes_round(const struct packet *packet)
{
	__u32 state, after_drain, tunnel, direction = MOSE_STEER_INGRESS;
	__u8 peer[ETH_ALEN] __attribute__((aligned(2)));
	struct mose_steer_policy *policy = bpf_map_lookup_elem(&mose_services, &direction);

	if (!policy || (READ_ONCE(policy->state) != MOSE_STEER_REDIRECT && READ_ONCE(policy->state) != MOSE_STEER_DRAIN))
		return 0;
	bpf_spin_lock(&policy->lock);
	state = policy->state;
	after_drain = policy->after_drain;
	tunnel = policy->tunnel.family;
	__builtin_memcpy(peer, policy->peer_mac, sizeof(peer));
	bpf_spin_unlock(&policy->lock);
	if (state == MOSE_STEER_DRAIN)
		state = after_drain;
	return state == MOSE_STEER_REDIRECT && !tunnel && same_mac(packet->source_mac, peer);
}

/*
 * Only frames that a peer redirected: addressed to our uplink at layer 2 and to a service of ours at layer 3, or out of
 * the tunnel.
 */
SEC("tcx/ingress")
int steer_uplink(struct __sk_buff *skb)
{
	__u32 service, direction = MOSE_STEER_UPLINK;
	struct mose_steer_policy *policy;
	struct mose_steer_counts *counts;
	struct packet packet;
	__u8 mac[ETH_ALEN] __attribute__((aligned(2)));
	int ours, verdict;

	policy = bpf_map_lookup_elem(&mose_services, &direction);
	if (!policy || load(skb, 0, mac, sizeof(mac)))
		return MOSE_TC_NEXT;
	ours = same_mac(mac, mose_config.uplink_mac);
	/* By a router frames come to the MAC of whatever has the node's address: the uplink, or its bridge. */
	if (!ours && !READ_ONCE(policy->tunnel.family))
		return MOSE_TC_NEXT;
	parse(skb, &packet);
	if (READ_ONCE(policy->tunnel.family) && from_tunnel(skb, policy, &packet, &verdict))
		return verdict;
	service = ours ? service_of(&mose_config, &packet, packet.destination) : 0;
	if (!service)
		return MOSE_TC_NEXT;
	if (goes_round(&packet)) {
		counts = counts_of(MOSE_STEER_INGRESS, service);
		if (counts)
			count(counts, MOSE_STEER_R_DROP_LOOP, skb->len);
		return TC_ACT_SHOT;
	}
	counts = counts_of(direction, service);
	if (!counts)
		return TC_ACT_SHOT;
	for (int i = 0; i < ETH_ALEN; i++)
		mac[i] = mose_config.service_mac[i];
	return take(counts, bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0), skb->len);
}

SEC("tcx/ingress")
int steer_tap(struct __sk_buff *skb)
{
	skb->mark = MOSE_STEER_MARK;
	return bpf_redirect(mose_config.host_ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
