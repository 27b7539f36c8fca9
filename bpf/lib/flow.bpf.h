/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_FLOW_BPF_H
#define MOSE_FLOW_BPF_H
/* Questions about a parsed packet: whose is it, does it open a connection. */
#include "lib/parse.bpf.h"
#include "mose/bpf/steer.h"

/* The service that has this address: its place in the configuration, counted from 1. 0: none. */
static __always_inline __u32 service_of(const volatile struct mose_steer_config *config, const struct packet *packet,
					const __u32 *wanted)
{
	if (packet->kind != PACKET_IP)
		return 0;
	for (__u32 i = 0; i < MOSE_STEER_SERVICES_MAX; i++) {
		const volatile __u32 *address = (const volatile __u32 *)config->services[i].address;

		if (i >= config->services_count)
			break;
		if (config->services[i].family != packet->family || address[0] != wanted[0])
			continue;
		if (packet->family == 4 || (address[1] == wanted[1] && address[2] == wanted[2] && address[3] == wanted[3]))
			return i + 1;
	}
	return 0;
}

/*
 * May this open a TCP connection? A fragment may, whichever it is: only the first has the flags, and a connection request
 * whose parts take different ways is lost. Nobody else sends TCP in fragments to speak of.
 */
static __always_inline int opens_connection(const struct packet *packet)
{
	return packet->tcp_fragment ||
	       (packet->tcp_flags & (TCP_FLAG_SYN_BYTE | TCP_FLAG_ACK_BYTE)) == TCP_FLAG_SYN_BYTE;
}

/* Both at even addresses. `b` may be read-only data, whose value the compiler must not take for known. */
static __always_inline int same_mac(const __u8 *a, const volatile __u8 *b)
{
	const volatile __u16 *y = (const volatile __u16 *)b;
	const __u16 *x = (const __u16 *)a;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

#endif
