// SPDX-License-Identifier: MIT
#pragma once

#include <linux/bpf.h>

#include "base/result.h"

// What the kernel says of its BPF objects; for the files of this folder.
namespace mose::bpf {

[[nodiscard]] Result<bpf_map_info> map_info(int map);
[[nodiscard]] Result<bpf_prog_info> program_info(int program);
// A value of such a map is possible_cpus() of them.
[[nodiscard]] bool is_per_cpu(uint32_t map_type);

}  // namespace mose::bpf
