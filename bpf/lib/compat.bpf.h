/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef MOSE_COMPAT_BPF_H
#define MOSE_COMPAT_BPF_H

/*
 * Our verdict for "nothing to object": the next program of the chain (TCX_NEXT), or the next filter on clsact. Both are
 * -1, so that one object serves both ways of attaching and other people's programs behind ours still run.
 */
#define MOSE_TC_NEXT TC_ACT_UNSPEC

/* The compiler must read the memory here, once. */
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

#endif
