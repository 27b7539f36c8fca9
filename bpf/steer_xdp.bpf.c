/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Redirection at XDP on the node's uplink, for all services of the node. The contract is include/mose/bpf/steer.h.
 *
 * Frames for a service that has moved away go to the peer before the kernel has made packets of them, in a tunnel where it
 * is behind a router; frames that a peer redirected to us get the service's MAC. Those that come by a tunnel go up to TC:
 * here nobody could take back what the card has said about the checksum of the outer packet. Everything else goes up: nothing can be held here (XDP has no queue that keeps
 * segmentation offload and checksum state), so that holding and draining stay with steer_tc.bpf.c, and the agent
 * redirects here only after that queue is empty.
 */
#define MOSE_AT_XDP 1
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "lib/compat.bpf.h"
#include "lib/count.bpf.h"
#include "lib/encap.bpf.h"
#include "lib/flow.bpf.h"
#include "lib/parse.bpf.h"
#include "mose/bpf/steer.h"

const volatile struct mose_uplink_config mose_config;

/* Sizes are set when the program is loaded; memory is taken as services come. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct mose_steer_service);
	__type(value, struct mose_uplink_entry);
} mose_uplink SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2);
	__type(key, struct mose_steer_service);
	__type(value, struct mose_uplink_counts);
} mose_uplink_counts SEC(".maps");

static __always_inline int is_ours(const __u8 *mac)
{
	return same_mac(mac, mose_config.mac);
}

static __always_inline int store(struct xdp_md *xdp, const void *bytes, __u32 size)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;

	if (data + size > end)
		return bpf_xdp_store_bytes(xdp, 0, (void *)bytes, size);
	__builtin_memcpy(data, bytes, size);
	return 0;
}

/* What has been made ready leaves. */
static __always_inline int send_on(struct xdp_md *xdp, const struct mose_uplink_entry *entry, struct mose_uplink_counts *counts,
				   __u32 length)
{
	stamp_tick(&counts->redirect_stamp, entry->epoch);
	count_one(&counts->redirected, length);
	if (entry->peer_ifindex == xdp->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(entry->peer_ifindex, 0);
}

/* 0; 1: there is no room in front of the frame, which is as it was; negative: it has been spoilt. */
static __noinline int put_into_tunnel(struct xdp_md *xdp, const struct packet *packet, const struct mose_uplink_entry *entry,
				      __u32 length)
{
	__u8 macs[2 * ETH_ALEN];
	__be16 port;

	if (!packet || !entry)
		return -1;
	port = flow_port(xdp, packet);
	__builtin_memcpy(macs, entry->peer_mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, entry->own_mac, ETH_ALEN);
	if (entry->tunnel.family == 4) {
		struct outer4 outer __attribute__((aligned(8)));

		if (bpf_xdp_adjust_head(xdp, -TUNNEL_ROOM4))
			return 1;
		fill_outer4(&outer, packet, macs, &entry->tunnel, port, length);
		return store(xdp, &outer, sizeof(outer));
	} else {
		struct outer6 outer __attribute__((aligned(8)));

		if (bpf_xdp_adjust_head(xdp, -TUNNEL_ROOM6))
			return 1;
		fill_outer6(&outer, packet, macs, &entry->tunnel, port, length);
		return store(xdp, &outer, sizeof(outer));
	}
}

static __always_inline int redirect_by_tunnel(struct xdp_md *xdp, const struct packet *packet,
					      const struct mose_uplink_entry *entry, struct mose_uplink_counts *counts, __u32 length)
{
	const int room = entry->tunnel.family == 4 ? TUNNEL_ROOM4 : TUNNEL_ROOM6;
	__u32 mtu = length - sizeof(struct ethernet_header); /* in: what is to be checked */
	int result = bpf_check_mtu(xdp, entry->peer_ifindex, &mtu, room, 0);

	if (result) {
		count_one(result > 0 ? &counts->drop_mtu : &counts->drop_rewrite, length);
		return XDP_DROP;
	}
	result = put_into_tunnel(xdp, packet, entry, length);
	if (result < 0) {
		count_one(&counts->drop_rewrite, length);
		return XDP_DROP;
	}
	if (result > 0) {
		count_one(&counts->passed, length);
		return XDP_PASS;
	}
	return send_on(xdp, entry, counts, length);
}

/* The same segment: the source address must be ours, or the switches learn the client at a wrong port. */
static __always_inline int redirect(struct xdp_md *xdp, const struct packet *packet, const struct mose_uplink_entry *entry,
				    struct mose_uplink_counts *counts, __u32 length)
{
	__u8 macs[2 * ETH_ALEN];

	if (entry->tunnel.family) {
		/* A tag would mean another network outside. TC has the last word, and drops it. */
		if (packet->l3_offset == sizeof(struct ethernet_header))
			return redirect_by_tunnel(xdp, packet, entry, counts, length);
		count_one(&counts->passed, length);
		return XDP_PASS;
	}
	/* Redirected to us by the peer. A client on that node has the same address, and sends to the service's. */
	if (is_ours(packet->destination_mac) && same_mac(packet->source_mac, entry->peer_mac)) {
		count_one(&counts->drop_loop, length);
		return XDP_DROP;
	}
	__builtin_memcpy(macs, entry->peer_mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, entry->own_mac, ETH_ALEN);
	if (store(xdp, macs, sizeof(macs))) {
		count_one(&counts->drop_rewrite, length);
		return XDP_DROP;
	}
	return send_on(xdp, entry, counts, length);
}

static __always_inline int take(struct xdp_md *xdp, const struct mose_uplink_entry *entry, struct mose_uplink_counts *counts,
				__u32 length)
{
	if (store(xdp, entry->service_mac, ETH_ALEN)) {
		count_one(&counts->drop_rewrite, length);
		return XDP_DROP;
	}
	stamp_tick(&counts->local_stamp, entry->epoch);
	count_one(&counts->taken, length);
	return XDP_PASS;
}

SEC("xdp.frags")
int steer_xdp(struct xdp_md *xdp)
{
	const struct mose_uplink_entry *entry = NULL;
	struct mose_steer_service key = {};
	struct mose_uplink_counts *counts;
	struct packet packet;
	__u32 length;

	length = bpf_xdp_get_buff_len(xdp);
	parse(xdp, &packet);
	if (packet.kind == PACKET_IP) {
		key.family = packet.family;
		__builtin_memcpy(key.address, packet.destination, sizeof(key.address));
		entry = bpf_map_lookup_elem(&mose_uplink, &key);
	}
	if (!entry)
		__builtin_memset(&key, 0, sizeof(key));
	counts = bpf_map_lookup_elem(&mose_uplink_counts, &key);
	if (!counts)
		return XDP_PASS; /* it is coming or going at this moment: TC stands behind */
	if (entry && entry->state == MOSE_UPLINK_REDIRECT &&
	    (same_mac(packet.destination_mac, entry->service_mac) || is_ours(packet.destination_mac)))
		return redirect(xdp, &packet, entry, counts, length);
	if (entry && entry->state == MOSE_UPLINK_LOCAL && is_ours(packet.destination_mac))
		return take(xdp, entry, counts, length);
	count_one(&counts->passed, length);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
