/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_PARSE_BPF_H
#define MOSE_PARSE_BPF_H
/* What a frame is, as far as steering needs it; the same at TC and at XDP (lib/frame.bpf.h). */
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/compat.bpf.h"
#include "lib/frame.bpf.h"

#ifndef IPPROTO_ICMPV6
#define IPPROTO_ICMPV6 58 /* a macro in the kernel, unlike its sisters */
#endif

#define PARSE_VLAN_MAX 2 /* 802.1ad around 802.1Q; a third tag is refused */
#define PARSE_EXTENSIONS_MAX 6 /* RFC 8200 knows six kinds and each may come once */

enum packet_kind {
	PACKET_TRUNCATED = 0, /* ends before its headers do, or lies about their length */
	PACKET_NEIGHBOUR,     /* ARP, IPv6 neighbour discovery */
	PACKET_IP,
	PACKET_OTHER,
};

struct packet {
	__u32 kind;           /* enum packet_kind */
	__u8 family;          /* 4 or 6 for PACKET_IP */
	__u8 protocol;        /* layer 4; valid when l4_offset is not 0 */
	__u8 tcp_flags;       /* 0 unless TCP with its header in this packet */
	__u8 tcp_fragment;    /* a fragment, the first or a later one, of what is TCP as far as every fragment can tell */
	__u8 destination_mac[ETH_ALEN];
	__u8 source_mac[ETH_ALEN];
	__u32 source[4];      /* network order, IPv4 in the first */
	__u32 destination[4];
	__u32 l3_offset;      /* valid for PACKET_IP */
	__u32 l4_offset;      /* 0: a later fragment, or headers that are not followed */
	__u32 fragment;       /* 1: the first or a later one */
};

#define TCP_FLAG_SYN_BYTE 0x02
#define TCP_FLAG_ACK_BYTE 0x10

static __always_inline void parse_tcp(frame_t *frame, struct packet *packet)
{
	__u8 flags;

	if (packet->protocol == IPPROTO_TCP && packet->l4_offset &&
	    !load(frame, packet->l4_offset + 13, &flags, sizeof(flags)))
		packet->tcp_flags = flags;
}

static __always_inline void parse_ipv4(frame_t *frame, __u32 offset, struct packet *packet)
{
	struct {
		__u8 version_length;
		__u8 tos;
		__be16 total, id, fragment;
		__u8 ttl, protocol;
		__u16 checksum;
		__u32 source, destination;
	} ip;
	__u32 header;
	__u8 last;

	if (load(frame, offset, &ip, sizeof(ip)))
		return;
	header = (ip.version_length & 0x0f) * 4;
	if (ip.version_length >> 4 != 4 || header < sizeof(ip))
		return;
	/* A total of 0 is a frame of segmentation offload above 64 KB. */
	if (ip.total && bpf_ntohs(ip.total) < header)
		return;
	if (header > sizeof(ip) && load(frame, offset + header - 1, &last, sizeof(last)))
		return;
	packet->kind = PACKET_IP;
	packet->family = 4;
	packet->l3_offset = offset;
	packet->source[0] = ip.source;
	packet->destination[0] = ip.destination;
	packet->protocol = ip.protocol;
	if (ip.fragment & bpf_htons(IP_MF | IP_OFFSET)) {
		packet->fragment = 1;
		packet->tcp_fragment = ip.protocol == IPPROTO_TCP;
	}
	if (!(ip.fragment & bpf_htons(IP_OFFSET)))
		packet->l4_offset = offset + header;
	parse_tcp(frame, packet);
}

static __always_inline int is_neighbour_discovery(frame_t *frame, const struct packet *packet)
{
	__u8 type;

	/* 133 to 137: router and neighbour messages and redirect. */
	return packet->protocol == IPPROTO_ICMPV6 && packet->l4_offset && !load(frame, packet->l4_offset, &type, sizeof(type)) &&
	       type >= NDISC_ROUTER_SOLICITATION && type <= NDISC_NEIGHBOUR_ADVERTISEMENT + 1;
}

static __always_inline int is_extension(__u8 next)
{
	return next == NEXTHDR_HOP || next == NEXTHDR_ROUTING || next == NEXTHDR_FRAGMENT || next == NEXTHDR_AUTH ||
	       next == NEXTHDR_DEST;
}

/* Steps over extension headers. An unknown or unending chain leaves l4_offset 0: still an IP packet. */
static __always_inline void parse_extensions(frame_t *frame, __u32 offset, __u8 next, struct packet *packet)
{
	for (int i = 0; i <= PARSE_EXTENSIONS_MAX; i++) {
		struct {
			__u8 next, length;
			__be16 fragment;
		} extension;

		if (!is_extension(next)) {
			packet->protocol = next;
			packet->l4_offset = next == NEXTHDR_NONE ? 0 : offset;
			return;
		}
		/* By the helper: seven rounds of two ways to read are dear to verify, and few packets come here. */
		if (frame_load_slow(frame, offset, &extension, sizeof(extension)))
			return;
		if (next == NEXTHDR_FRAGMENT) {
			/* What follows is all that a later fragment knows: the first must not be judged by more. */
			if (extension.fragment & bpf_htons(0xfff9)) {
				packet->fragment = 1;
				packet->tcp_fragment = extension.next == IPPROTO_TCP || is_extension(extension.next);
			}
			if (extension.fragment & bpf_htons(0xfff8))
				return;
			offset += 8;
		} else if (next == NEXTHDR_AUTH) {
			offset += (extension.length + 2) * 4;
		} else {
			offset += (extension.length + 1) * 8;
		}
		next = extension.next;
	}
}

static __always_inline void parse_ipv6(frame_t *frame, __u32 offset, struct packet *packet)
{
	struct {
		__u32 version_flow;
		__be16 payload;
		__u8 next, hop_limit;
		__u32 source[4], destination[4];
	} ip;

	if (load(frame, offset, &ip, sizeof(ip)))
		return;
	if ((*(__u8 *)&ip.version_flow) >> 4 != 6)
		return;
	packet->kind = PACKET_IP;
	packet->family = 6;
	packet->l3_offset = offset;
	__builtin_memcpy(packet->source, ip.source, sizeof(packet->source));
	__builtin_memcpy(packet->destination, ip.destination, sizeof(packet->destination));
	parse_extensions(frame, offset + sizeof(ip), ip.next, packet);
	if (is_neighbour_discovery(frame, packet))
		packet->kind = PACKET_NEIGHBOUR;
	else
		parse_tcp(frame, packet);
}

/*
 * Global: the verifier checks it once, by its types alone. Inlined, or static, each of its many ends would be followed
 * through all that comes after it, for a second of the processor's time at each load. Use parse().
 */
__noinline int parse_frame(frame_t *frame, struct packet *packet)
{
	struct {
		__u8 destination[ETH_ALEN], source[ETH_ALEN];
		__be16 type;
	} ethernet;
	__u32 offset = sizeof(ethernet);
	__be16 type;

	if (!packet || load(frame, 0, &ethernet, sizeof(ethernet)))
		return 0;
	__builtin_memcpy(packet->destination_mac, ethernet.destination, ETH_ALEN);
	__builtin_memcpy(packet->source_mac, ethernet.source, ETH_ALEN);
	type = ethernet.type;
	for (int i = 0; i < PARSE_VLAN_MAX; i++) {
		struct {
			__be16 tag, type;
		} vlan;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (load(frame, offset, &vlan, sizeof(vlan)))
			return 0;
		type = vlan.type;
		offset += sizeof(vlan);
	}
	if (type == bpf_htons(ETH_P_ARP))
		packet->kind = PACKET_NEIGHBOUR;
	else if (type == bpf_htons(ETH_P_IP))
		parse_ipv4(frame, offset, packet);
	else if (type == bpf_htons(ETH_P_IPV6))
		parse_ipv6(frame, offset, packet);
	else
		packet->kind = PACKET_OTHER;
	return 0;
}

static __always_inline void parse(frame_t *frame, struct packet *packet)
{
	/* Older verifiers want memory that is handed over to hold something. */
	__builtin_memset(packet, 0, sizeof(*packet));
	parse_frame(frame, packet);
}

#endif
