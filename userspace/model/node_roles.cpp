// SPDX-License-Identifier: MIT
#include "model/node_roles.h"

namespace mose {

Result<NodeRoles> parse_roles(std::span<const std::string> names) {
  if (names.empty()) return fail("no role is named: source, destination or both");
  NodeRoles roles{false, false};
  for (const std::string& name : names) {
    if (name != "source" && name != "destination") return fail("role \"" + name + "\" is unknown; there are source and destination");
    (name == "source" ? roles.source : roles.destination) = true;
  }
  return roles;
}

std::string to_string(const NodeRoles& roles) {
  if (roles.source && roles.destination) return "source, destination";
  return roles.source ? "source" : roles.destination ? "destination" : "none";
}

NodeRoles narrowed(const NodeRoles& a, const NodeRoles& b) {
  return {a.source && b.source, a.destination && b.destination};
}

}  // namespace mose
