// SPDX-License-Identifier: MIT
#include "base/fd.h"

#include <fcntl.h>
#include <unistd.h>

namespace mose {

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode) { return open_at(AT_FDCWD, path, flags, mode); }

Result<Fd> open_at(int dir, const std::string& path, int flags, unsigned mode) {
  int fd = ::openat(dir, path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return fail_errno("open " + path);
  return Fd(fd);
}

Result<Fd> duplicate(int fd) {
  int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return fail_errno("duplicate a descriptor");
  return Fd(copy);
}

Result<std::string> read_all(int fd, size_t limit) {
  std::string out;
  char buffer[16384];
  for (;;) {
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read");
    if (n == 0) return out;
    if (out.size() + static_cast<size_t>(n) > limit) return fail("read: more than " + std::to_string(limit) + " bytes");
    out.append(buffer, static_cast<size_t>(n));
  }
}

Result<std::string> read_file(const std::string& path, size_t limit) {
  MOSE_ASSIGN(Fd fd, open_file(path, O_RDONLY));
  auto text = read_all(fd.get(), limit);
  if (!text) return context(path, std::move(text).error());
  return text;
}

Status write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Status write_whole_file_at(int dir, const std::string& path, std::string_view bytes) {
  const std::string next = path + ".new";
  MOSE_ASSIGN(Fd fd, open_at(dir, next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  MOSE_TRY(write_all(fd.get(), bytes));
  if (::renameat(dir, next.c_str(), dir, path.c_str()) < 0) return fail_errno("rename " + next);
  return {};
}

Status write_whole_file(const std::string& path, std::string_view bytes) { return write_whole_file_at(AT_FDCWD, path, bytes); }

Status write_control(const std::string& path, std::string_view value) {
  MOSE_ASSIGN(Fd fd, open_file(path, O_WRONLY));
  ssize_t n = ::write(fd.get(), value.data(), value.size());
  if (n < 0) return fail_errno("write \"" + std::string(value) + "\" to " + path);
  return {};
}

}  // namespace mose
