/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_FRAME_BPF_H
#define MOSE_FRAME_BPF_H
/*
 * The bytes of a frame at TC and at XDP, by one name, so that both programs share the parser. A program that sits at XDP
 * defines MOSE_AT_XDP before it includes anything of lib/.
 *
 * Read where the bytes lie when they are in the linear part, else by the helper: paged data (a 64 KB frame of
 * segmentation offload, an XDP frame of several buffers) has little there.
 */
#include <bpf/bpf_helpers.h>

#ifdef MOSE_AT_XDP
#define frame_t struct xdp_md /* no typedef: libbpf would look for one of this name in the kernel */
#define frame_load_slow bpf_xdp_load_bytes
#else
#define frame_t struct __sk_buff
#define frame_load_slow bpf_skb_load_bytes
#endif

/* Headers further in are left to the helper: the verifier wants a bound. */
#define FRAME_DIRECT_MAX 1024

/* 0, or negative when the frame ends before. */
static __always_inline int load(frame_t *frame, __u32 offset, void *to, __u32 size)
{
	if (offset <= FRAME_DIRECT_MAX) {
		void *data = (void *)(long)frame->data, *end = (void *)(long)frame->data_end;

		data += offset;
		if (data + size <= end) {
			__builtin_memcpy(to, data, size);
			return 0;
		}
	}
	return frame_load_slow(frame, offset, to, size);
}

#endif
