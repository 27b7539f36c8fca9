// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <string>

#include "base/result.h"

namespace mose {

// What a node may do with workloads. Its certificate says so; [peers.NAME] of another node's configuration may narrow it.
struct NodeRoles {
  bool source = true;       // may send workloads away
  bool destination = true;  // may take them

  bool operator==(const NodeRoles&) const = default;
};

// Each name is "source" or "destination". No name at all is an error: such a node could do nothing.
[[nodiscard]] Result<NodeRoles> parse_roles(std::span<const std::string> names);
[[nodiscard]] std::string to_string(const NodeRoles& roles);  // "source, destination"
// What both allow.
[[nodiscard]] NodeRoles narrowed(const NodeRoles& a, const NodeRoles& b);

}  // namespace mose
