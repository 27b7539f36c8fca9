/* SPDX-License-Identifier: MIT */
#ifndef MOSE_MAPPING_TABLE_H
#define MOSE_MAPPING_TABLE_H

/*
 * What the agent tells the preload in CRIU (preload.c) of the mappings of a frozen tree, in a memory file that CRIU
 * inherits as MOSE_MAPPING_TABLE_FD: a head, `processes` of mose_mapped_process, then all rows. Empty: nothing is told.
 */
#include <stdint.h>

#define MOSE_MAPPING_TABLE_FD 5
#define MOSE_MAPPING_TABLE_MAGIC 0x3170616d65736f6dull

struct mose_mapping_head {
	uint64_t magic, processes;
};

struct mose_mapped_process {
	uint64_t pid, first, rows; /* pid in the agent's pid namespace; its rows, in the order of addresses */
};

struct mose_mapping_row {
	uint64_t start, end;
	char flags[112]; /* what stands behind "VmFlags: " in smaps, ended by a zero */
};

#endif
