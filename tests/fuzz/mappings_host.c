/* SPDX-License-Identifier: MIT */
/* The preload's code under another name: openat64() of this program stays libc's. */
#define openat64 mose_fuzz_openat64
#include "../../userspace/restore/preload_mappings.c"

void mose_leave_repair(void)
{
}

size_t merge_on_host(const char *maps, const struct mose_mapping_row *rows, uint64_t count, char *out);
int told_on_host(int directory);

size_t merge_on_host(const char *maps, const struct mose_mapping_row *rows, uint64_t count, char *out)
{
	return merge_flags(maps, rows, count, out);
}

int told_on_host(int directory)
{
	return told_smaps(directory);
}
