// SPDX-License-Identifier: MIT
#pragma once

#include <bpf/libbpf.h>

#include <cstdint>

#include "base/result.h"
#include "kernel/bpf_object.h"

// Filters of the clsact qdisc in libbpf's words; for this folder alone, and for tests that stand for others.
namespace mose::bpf {

[[nodiscard]] bpf_tc_hook clsact_hook(unsigned ifindex, TcPoint point);
[[nodiscard]] bpf_tc_opts clsact_filter(uint32_t handle, uint32_t priority);
// Where `program` is attached with this handle; ENOENT: nowhere.
[[nodiscard]] Result<uint32_t> clsact_priority(int program, unsigned ifindex, TcPoint point, uint32_t handle);

}  // namespace mose::bpf
