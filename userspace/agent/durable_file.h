// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace mose::agent {

// Replaces a file as a whole: after a crash it holds the old or the new contents. Durable on success.
[[nodiscard]] Status replace_file(const std::string& path, std::string_view contents);
// What has been made, renamed or removed in `directory` is durable on success.
[[nodiscard]] Status sync_directory(const std::string& directory);
// mkdir -p, mode 0700 for what is made here.
[[nodiscard]] Status make_directories(const std::string& path);
// Removes a file or a whole directory tree without crossing into other file systems; missing is fine, also what others take away
// at the same moment: a pager that ends, its socket.
[[nodiscard]] Status remove_tree(const std::string& path);
// The same, its files overwritten before (base/wipe.h): what a migration has left has a workload's registers, stacks and unsent data in it. What
// could not be overwritten goes as well, and is an error. Never while anybody waits: some milliseconds.
[[nodiscard]] Status remove_wiped(const std::string& path);

}  // namespace mose::agent
