// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

// The root directory of a lab node: really another disk. Programs, their libraries and the CRIU prefix are copied, so
// that a file changed on one node is not changed on the other, and so that what MOSE compares between nodes is compared.
namespace mose::lab {

struct RootRequest {
  std::string root;  // made when missing, must be empty
  std::string node;  // becomes the host name
  std::string config;  // text of /etc/mose/mose.toml
};

[[nodiscard]] Status fill_node_root(const RootRequest& request);

// Removes a directory tree on one filesystem; does not enter mount points. Not finding it is no failure.
[[nodiscard]] Status remove_tree(const std::string& path);

}  // namespace mose::lab
