// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"
#include "model/workload.h"

namespace mose::agent {

// Device nodes that a workload would find in its /dev, of its root's mount and of declared ones, and by which root in it would reach what is the
// node's: a disk is a file that root may write. Those that every program may have are not among them. Names with numbers, at most
// three of them; empty: none. Elsewhere in a root or a mount nobody looks. Needs the right to mount.
[[nodiscard]] Result<std::string> devices_of_the_node(const WorkloadSpec& spec);

}  // namespace mose::agent
