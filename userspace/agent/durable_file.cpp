// SPDX-License-Identifier: MIT
#include "agent/durable_file.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "base/fd.h"
#include "base/wipe.h"

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

namespace {

using Visit = int (*)(const char*, const struct stat*, int, struct FTW*);

int remove_one(const char* name, const struct stat*, int, struct FTW*) { return ::remove(name) != 0 && errno != ENOENT ? -1 : 0; }

thread_local Status wiped;  // of the walk under way: its callback has no argument of ours

int wipe_and_remove_one(const char* name, const struct stat* info, int type, struct FTW* walk) {
  Status done = type == FTW_F ? wipe_file_at(AT_FDCWD, name) : Status{};
  if (!done && wiped) wiped = std::move(done);
  return remove_one(name, info, type, walk);
}

Status remove_by(Visit visit, const std::string& path) {
  constexpr int kDescriptorsMax = 16, kWalksMax = 100;
  for (int walk = 1;; ++walk) {
    if (nftw(path.c_str(), visit, kDescriptorsMax, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0) return {};
    const int code = errno;
    if (code == ENOENT && access(path.c_str(), F_OK) != 0) return {};
    // Something below has gone, or come, under the walk.
    if ((code != ENOENT && code != ENOTEMPTY) || walk == kWalksMax) return fail_errno("remove " + path, code);
  }
}

}  // namespace

Status remove_tree(const std::string& path) { return remove_by(remove_one, path); }

Status remove_wiped(const std::string& path) {
  wiped = {};
  MOSE_TRY(remove_by(wipe_and_remove_one, path));
  return std::exchange(wiped, {});
}

}  // namespace mose::agent
