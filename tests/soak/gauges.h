// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "growth.h"
#include "lab/state.h"

// Everything of a lab that could grow with the number of moves, as numbers at one moment.
namespace mose::test {

// Of each node, by its name: what each program's processes hold together (resident and anonymous bytes, descriptors,
// threads, mappings), zombies, how many there are of each kind of the lab's inventory (inventory.h), and the bytes in
// /run, /tmp and the state directory.
[[nodiscard]] Result<std::map<std::string, Gauges>> read_nodes(const lab::LabState& state);

// Of the kernel: BPF objects. Absent while others on this machine run agents, whose objects could not be told from ours.
[[nodiscard]] Result<std::optional<Gauges>> read_kernel(const lab::LabState& state);

}  // namespace mose::test
