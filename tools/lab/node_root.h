// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"

// The root directory of a lab node: really another disk. Programs, their libraries and the CRIU prefix are copied, so
// that a file changed on one node is not changed on the other, and so that what MOSE compares between nodes is compared.
namespace mose::lab {

inline constexpr const char* kPkiDirectory = "/etc/mose/pki";

struct RootRequest {
  std::string root;  // made when missing, must be empty
  std::string node;  // becomes the host name
  std::string config;  // text of /etc/mose/mose.toml
  // Of /etc/mose/pki, by their names, readable by root only.
  std::map<std::string, std::string> certificates;
};

[[nodiscard]] Status fill_node_root(const RootRequest& request);

// What is put into a root later, at the same paths as on this machine.
struct RootAdditions {
  std::vector<std::string> programs;  // with the libraries that they need
  std::vector<std::string> trees;     // directories
};
// What is there already is left as it is: programs of the node may run from it. Trees must not be there.
[[nodiscard]] Status add_to_node_root(const std::string& root, const RootAdditions& additions);

// Removes a directory tree on one filesystem; does not enter mount points. Not finding it is no failure.
[[nodiscard]] Status remove_tree(const std::string& path);

}  // namespace mose::lab
