// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "base/result.h"

// BPF objects of MOSE's, known by their names, in the whole kernel: a program that is attached, or a map that a program
// uses, stays without any descriptor or pin. Whose lab or agent they belong to cannot be said.
namespace mose::test {

struct BpfObjects {
  uint64_t programs = 0, maps = 0, links = 0;  // links: of these programs
};
[[nodiscard]] Result<BpfObjects> count_bpf_objects();

}  // namespace mose::test
