/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_FUZZ_PACKET_HOST_H
#define MOSE_FUZZ_PACKET_HOST_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* struct packet of bpf/lib/parse.bpf.h, as C++ can see it. */
struct parsed_packet {
	uint32_t kind;
	uint8_t family, protocol, tcp_flags, tcp_fragment;
	uint8_t destination_mac[6], source_mac[6];
	uint32_t source[4], destination[4];
	uint32_t l3_offset, l4_offset, fragment;
};

/*
 * The parser of the BPF programs, compiled for this machine. `linear` of the frame's bytes lie in memory, the rest is for the
 * helper. The frame must lie in the first 4 GiB, where a pointer fits into the context's 32 bits.
 */
void parse_on_host(const uint8_t *frame, uint32_t bytes, uint32_t linear, struct parsed_packet *out);

#ifdef __cplusplus
}
#endif
#endif
