// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mose {

// Owner of one file descriptor. Move-only; a raw int elsewhere is a borrow.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC. The error names the path.
[[nodiscard]] Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0);
[[nodiscard]] Result<Fd> open_at(int dir, const std::string& path, int flags, unsigned mode = 0);
// dup with close-on-exec.
[[nodiscard]] Result<Fd> duplicate(int fd);

// Reads to the end of file; fails when there are more than `limit` bytes.
[[nodiscard]] Result<std::string> read_all(int fd, size_t limit = 64u << 20);
[[nodiscard]] Result<std::string> read_file(const std::string& path, size_t limit = 64u << 20);
// Writes all bytes or fails (a short write is continued; EINTR is retried).
[[nodiscard]] Status write_all(int fd, std::string_view bytes);
// A file (0600) that readers find as it was or as it is now, never half. Not synced: what must outlive a loss of power is written
// otherwise. `path` below the directory `dir`, or from where the process is (AT_FDCWD).
[[nodiscard]] Status write_whole_file(const std::string& path, std::string_view bytes);
[[nodiscard]] Status write_whole_file_at(int dir, const std::string& path, std::string_view bytes);
// Opens, writes once and closes: for control files of the kernel (O_WRONLY, no create).
[[nodiscard]] Status write_control(const std::string& path, std::string_view value);

}  // namespace mose
