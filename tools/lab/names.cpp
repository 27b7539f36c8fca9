// SPDX-License-Identifier: MIT
#include "lab/names.h"

#include <algorithm>
#include <cctype>

namespace mose::lab {
namespace {
constexpr size_t kLabNameMax = 24;
}

bool is_node(const std::string& node) { return std::find(kNodes.begin(), kNodes.end(), node) != kNodes.end(); }

std::string node_address(const std::string& node) { return node == "a" ? "198.51.100.11" : "198.51.100.12"; }

Status check_lab_name(const std::string& lab) {
  bool good = !lab.empty() && lab.size() <= kLabNameMax && lab[0] != '-' &&
              std::all_of(lab.begin(), lab.end(), [](unsigned char c) { return std::isalnum(c) || c == '-'; });
  if (good) return {};
  return fail("\"" + lab + "\" is no name for a lab: use 1 to 24 letters, digits and '-', not beginning with '-'");
}

}  // namespace mose::lab
