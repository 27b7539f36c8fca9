// SPDX-License-Identifier: MIT
#pragma once

namespace mose::agent {

// What is kept of the network of a workload that has left, for packets that are still redirected.
enum class LeftNetwork : bool { ends, stays };

}  // namespace mose::agent
