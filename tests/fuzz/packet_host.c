/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The kernel's types instead of libc's, as in the programs themselves. */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

static const __u8 *whole_frame;
static __u32 whole_bytes;

static long load_on_host(const void *frame, __u32 offset, void *to, __u32 size)
{
	(void)frame;
	/* As the kernel has it: nothing beyond the end, and no offset that wraps. */
	if (offset > 0xffff || size > whole_bytes || offset > whole_bytes - size)
		return -14;
	__builtin_memcpy(to, whole_frame + offset, size);
	return 0;
}

#define bpf_skb_load_bytes load_on_host
#include "lib/parse.bpf.h"

/* Not packet_host.h: it brings libc's types along. */
void parse_on_host(const __u8 *frame, __u32 bytes, __u32 linear, struct packet *out);
_Static_assert(sizeof(struct packet) == 64, "parsed_packet is the same");

void parse_on_host(const __u8 *frame, __u32 bytes, __u32 linear, struct packet *out)
{
	struct __sk_buff context = {0};

	whole_frame = frame;
	whole_bytes = bytes;
	context.data = (__u32)(unsigned long)frame;
	context.data_end = context.data + linear;
	parse(&context, out);
}
