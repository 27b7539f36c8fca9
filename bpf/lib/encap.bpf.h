/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_ENCAP_BPF_H
#define MOSE_ENCAP_BPF_H
/*
 * Frames in frames: the headers of VXLAN (RFC 7348) as we put them on, and as we read them. The same at TC and at XDP.
 *
 * What is put on is fixed but for addresses, lengths and the source port: no checksum of UDP (over IPv6 by RFC 6935; the
 * frame inside has its own, and only the peer is listened to, as RFC 6936 asks), never fragmented, since the peer's program
 * sees frames before the kernel puts fragments together, and not ECN-capable, so that no mark can be lost with it.
 */
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/frame.bpf.h"
#include "lib/parse.bpf.h"
#include "mose/bpf/steer.h"

/* A macro in the kernel: the length of the inner Ethernet header stands in the flags. */
#define ADJ_ROOM_ENCAP_L2(length) ((__u64)(length) << 56)

#define TUNNEL_HOPS 64
#define TUNNEL_VNI_VALID 0x08
#define TUNNEL_PORT_FIRST 0xc000 /* RFC 7348: of the dynamic range, so that paths are chosen by flow */
#define TUNNEL_PORT_MASK 0x3fff

struct ethernet_header {
	__u8 destination[ETH_ALEN], source[ETH_ALEN];
	__be16 type;
} __attribute__((packed));

struct tunnel_header {
	__be16 source_port, port, length, checksum; /* UDP */
	__u8 flags, reserved[3], vni[3], reserved2; /* VXLAN */
} __attribute__((packed));

struct outer4 {
	struct ethernet_header ethernet;
	__u8 version_length, tos;
	__be16 total, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u8 source[4], destination[4];
	struct tunnel_header tunnel;
	struct ethernet_header inner;
} __attribute__((packed));

struct outer6 {
	struct ethernet_header ethernet;
	__u8 version, flow[3];
	__be16 payload;
	__u8 next, hop_limit;
	__u8 source[16], destination[16];
	struct tunnel_header tunnel;
	struct ethernet_header inner;
} __attribute__((packed));

/* What a frame grows by. */
#define TUNNEL_ROOM4 ((int)(sizeof(struct outer4) - sizeof(struct ethernet_header)))
#define TUNNEL_ROOM6 ((int)(sizeof(struct outer6) - sizeof(struct ethernet_header)))
_Static_assert(TUNNEL_ROOM4 == 50 && TUNNEL_ROOM6 == 70, "headers of VXLAN");

/* By the flow inside, the same at TC and at XDP: frames of one connection must not overtake each other. */
static __always_inline __be16 flow_port(frame_t *frame, const struct packet *packet)
{
	__u32 hash = packet->protocol, ports = 0;

	if ((packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP) && packet->l4_offset && !packet->fragment)
		(void)load(frame, packet->l4_offset, &ports, sizeof(ports));
	hash = (hash ^ ports) * 0x9e3779b1u;
	for (int i = 0; i < 4; i++) {
		hash = (hash ^ hash >> 15 ^ packet->source[i]) * 0x9e3779b1u;
		hash = (hash ^ hash >> 13 ^ packet->destination[i]) * 0x85ebca6bu;
	}
	hash ^= hash >> 16;
	return bpf_htons(TUNNEL_PORT_FIRST | (hash & TUNNEL_PORT_MASK));
}

/* 0: a frame of segmentation offload whose length no header can say; the kernel writes those of its segments. */
static __always_inline __be16 length_field(__u32 length)
{
	return length > 0xffff ? 0 : bpf_htons(length);
}

static __always_inline void fill_ethernet(struct ethernet_header *out, const __u8 *destination, const __u8 *source,
					  __be16 type)
{
	__builtin_memcpy(out->destination, destination, ETH_ALEN);
	__builtin_memcpy(out->source, source, ETH_ALEN);
	out->type = type;
}

static __always_inline __be16 inner_type(const struct packet *packet)
{
	return packet->family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
}

/* Around a frame of `length` bytes, Ethernet header and all. */
static __always_inline void fill_tunnel(struct tunnel_header *out, const struct mose_steer_tunnel *tunnel,
					__be16 source_port, __u32 length)
{
	__builtin_memset(out, 0, sizeof(*out));
	out->source_port = source_port;
	out->port = tunnel->port;
	out->length = length_field(sizeof(*out) + length);
	out->flags = TUNNEL_VNI_VALID;
	out->vni[0] = MOSE_TUNNEL_VNI >> 16 & 0xff;
	out->vni[1] = MOSE_TUNNEL_VNI >> 8 & 0xff;
	out->vni[2] = MOSE_TUNNEL_VNI & 0xff;
}

/* `macs`: destination and source of the outer frame. */
static __always_inline void fill_outer4(struct outer4 *out, const struct packet *packet, const __u8 *macs,
					const struct mose_steer_tunnel *tunnel, __be16 source_port, __u32 length)
{
	const __u16 *words = (const __u16 *)&out->version_length;
	__u32 sum = 0;

	fill_ethernet(&out->ethernet, macs, macs + ETH_ALEN, bpf_htons(ETH_P_IP));
	out->version_length = 0x45;
	out->tos = 0;
	out->total = length_field(20 + sizeof(struct tunnel_header) + length);
	out->id = 0;
	out->fragment = bpf_htons(IP_DF);
	out->ttl = TUNNEL_HOPS;
	out->protocol = IPPROTO_UDP;
	out->checksum = 0;
	__builtin_memcpy(out->source, tunnel->local, sizeof(out->source));
	__builtin_memcpy(out->destination, tunnel->remote, sizeof(out->destination));
	for (int i = 0; i < 10; i++)
		sum += words[i]; /* the header lies at an even offset of the stack */
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	out->checksum = ~sum;
	fill_tunnel(&out->tunnel, tunnel, source_port, length);
	fill_ethernet(&out->inner, packet->destination_mac, packet->source_mac, inner_type(packet));
}

static __always_inline void fill_outer6(struct outer6 *out, const struct packet *packet, const __u8 *macs,
					const struct mose_steer_tunnel *tunnel, __be16 source_port, __u32 length)
{
	fill_ethernet(&out->ethernet, macs, macs + ETH_ALEN, bpf_htons(ETH_P_IPV6));
	out->version = 0x60;
	__builtin_memset(out->flow, 0, sizeof(out->flow));
	out->payload = length_field(sizeof(struct tunnel_header) + length);
	out->next = IPPROTO_UDP;
	out->hop_limit = TUNNEL_HOPS;
	__builtin_memcpy(out->source, tunnel->local, sizeof(out->source));
	__builtin_memcpy(out->destination, tunnel->remote, sizeof(out->destination));
	fill_tunnel(&out->tunnel, tunnel, source_port, length);
	fill_ethernet(&out->inner, packet->destination_mac, packet->source_mac, inner_type(packet));
}

enum tunnel_kind {
	TUNNEL_OTHER = 0, /* nothing of ours */
	TUNNEL_FOREIGN,   /* to us and with our VNI, from a node that is not the peer; `inner` says for whom */
	TUNNEL_BROKEN,    /* the peer's, but what is in it cannot be read */
	TUNNEL_FRAME,     /* the peer's; `inner` says what is in it */
};

static __always_inline int same_address(const __u32 *packet, const __u8 *tunnel, __u8 family)
{
	const __u32 *address = (const __u32 *)tunnel;

	return packet[0] == address[0] &&
	       (family == 4 || (packet[1] == address[1] && packet[2] == address[2] && packet[3] == address[3]));
}

/* Kind, family and destination of the packet behind an inner Ethernet header: all that says whose it is. 0 or -1. */
static __always_inline int read_inner(frame_t *frame, __u32 offset, struct packet *inner)
{
	struct ethernet_header ethernet;

	if (load(frame, offset, &ethernet, sizeof(ethernet)))
		return -1;
	offset += sizeof(ethernet);
	if (ethernet.type == bpf_htons(ETH_P_IP)) {
		__u32 ip[5];

		if (load(frame, offset, ip, sizeof(ip)) || *(__u8 *)ip >> 4 != 4 || (*(__u8 *)ip & 0x0f) < 5)
			return -1;
		inner->family = 4;
		inner->destination[0] = ip[4];
	} else if (ethernet.type == bpf_htons(ETH_P_IPV6)) {
		__u32 ip[10];

		if (load(frame, offset, ip, sizeof(ip)) || *(__u8 *)ip >> 4 != 6)
			return -1;
		inner->family = 6;
		__builtin_memcpy(inner->destination, ip + 6, sizeof(inner->destination));
	} else {
		return -1; /* nothing else is redirected, and nothing with a tag */
	}
	inner->kind = PACKET_IP;
	inner->l3_offset = offset;
	return 0;
}

/* Is `outer`, a frame that has come in by the uplink, one of this tunnel? */
static __always_inline enum tunnel_kind read_tunnel(frame_t *frame, const struct packet *outer,
						    const struct mose_steer_tunnel *tunnel, struct packet *inner)
{
	struct tunnel_header header;
	__u32 length;

	if (outer->kind != PACKET_IP || outer->protocol != IPPROTO_UDP || !outer->l4_offset || outer->fragment ||
	    outer->family != tunnel->family || !same_address(outer->destination, tunnel->local, tunnel->family))
		return TUNNEL_OTHER;
	if (load(frame, outer->l4_offset, &header, sizeof(header)))
		return TUNNEL_OTHER;
	if (header.port != tunnel->port || !(header.flags & TUNNEL_VNI_VALID) ||
	    header.vni[0] != (MOSE_TUNNEL_VNI >> 16 & 0xff) || header.vni[1] != (MOSE_TUNNEL_VNI >> 8 & 0xff) ||
	    header.vni[2] != (MOSE_TUNNEL_VNI & 0xff))
		return TUNNEL_OTHER;
	if (!same_address(outer->source, tunnel->remote, tunnel->family))
		return read_inner(frame, outer->l4_offset + sizeof(header), inner) ? TUNNEL_OTHER : TUNNEL_FOREIGN;
	/* From here on it is ours. The peer sends neither tags nor options. */
	length = bpf_ntohs(header.length);
	if (outer->l3_offset != sizeof(struct ethernet_header) ||
	    outer->l4_offset != outer->l3_offset + (outer->family == 4 ? 20 : 40) ||
	    (length && length < sizeof(header) + sizeof(struct ethernet_header)) ||
	    read_inner(frame, outer->l4_offset + sizeof(header), inner))
		return TUNNEL_BROKEN;
	return TUNNEL_FRAME;
}

#endif
