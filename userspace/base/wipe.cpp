// SPDX-License-Identifier: MIT
#include "base/wipe.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/fd.h"

namespace mose {
namespace {

constexpr std::array<char, 256u << 10> kZeros{};

bool is_ours_alone(const struct stat& info) { return S_ISREG(info.st_mode) && info.st_nlink == 1; }

}  // namespace

Status wipe_file_at(int dir, const std::string& path) {
  struct stat before {}, info {};
  if (::fstatat(dir, path.c_str(), &before, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT ? Status{} : fail_errno("stat " + path);
  if (!is_ours_alone(before) || before.st_size == 0) return {};
  auto file = open_at(dir, path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return file.error().code == ENOENT ? Status{} : Status(std::unexpected(file.error()));
  if (::fstat(file->get(), &info) < 0) return fail_errno("stat " + path);
  if (info.st_ino != before.st_ino || info.st_dev != before.st_dev || !is_ours_alone(info)) return {};
  // What is a hole has nothing in it, and would take room.
  for (off_t at = 0; (at = ::lseek(file->get(), at, SEEK_DATA)) >= 0 && at < info.st_size;) {
    const off_t hole = ::lseek(file->get(), at, SEEK_HOLE), end = hole < 0 ? info.st_size : std::min(hole, info.st_size);
    while (at < end) {
      const ssize_t n = ::pwrite(file->get(), kZeros.data(), std::min<size_t>(kZeros.size(), static_cast<size_t>(end - at)), at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return fail_errno("overwrite " + path, n < 0 ? errno : EIO);
      at += n;
    }
  }
  // Zeros that are only in memory go with the file. On a tmpfs there is nothing to be done.
  if (::fdatasync(file->get()) < 0) return fail_errno("sync " + path);
  return {};
}

}  // namespace mose
