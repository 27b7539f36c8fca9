// SPDX-License-Identifier: MIT
#pragma once

#include <dirent.h>

#include <memory>
#include <string>

namespace mose {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

// Null, with errno, where there is none or it may not be read.
[[nodiscard]] inline Directory open_directory(const std::string& path) { return Directory(::opendir(path.c_str())); }

}  // namespace mose
