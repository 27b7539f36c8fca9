// SPDX-License-Identifier: MIT
#include "agent/durable_file.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

namespace mose::agent {

Status replace_file(const std::string& path, std::string_view contents) {
  std::string temporary = path + ".new";
  auto write = [&]() -> Status {
    MOSE_ASSIGN(Fd file, open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    if (auto status = write_all(file.get(), contents); !status) return context("write " + temporary, status.error());
    if (fsync(file.get()) != 0) return fail_errno("fsync " + temporary);
    if (rename(temporary.c_str(), path.c_str()) != 0) return fail_errno("rename to " + path);
    return {};
  };
  if (auto status = write(); !status) {
    unlink(temporary.c_str());
    return status;
  }
  return sync_directory(path.substr(0, path.rfind('/') + 1));
}

Status sync_directory(const std::string& directory) {
  MOSE_ASSIGN(Fd dir, open_file(directory, O_RDONLY | O_DIRECTORY));
  if (fsync(dir.get()) != 0) return fail_errno("fsync " + directory);
  return {};
}

Status make_directories(const std::string& path) {
  for (size_t at = 1; at <= path.size(); ++at) {
    if (at < path.size() && path[at] != '/') continue;
    std::string part = path.substr(0, at);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno("make directory " + part);
  }
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return fail_errno(path);
  if (!S_ISDIR(info.st_mode)) return fail(path + " is not a directory");
  return {};
}

Status remove_tree(const std::string& path) {
  constexpr int kDescriptorsMax = 16, kWalksMax = 100;
  auto remove_one = [](const char* name, const struct stat*, int, struct FTW*) { return ::remove(name) != 0 && errno != ENOENT ? -1 : 0; };
  for (int walk = 1;; ++walk) {
    if (nftw(path.c_str(), remove_one, kDescriptorsMax, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0) return {};
    const int code = errno;
    if (code == ENOENT && access(path.c_str(), F_OK) != 0) return {};
    // Something below has gone, or come, under the walk.
    if ((code != ENOENT && code != ENOTEMPTY) || walk == kWalksMax) return fail_errno("remove " + path, code);
  }
}

}  // namespace mose::agent
