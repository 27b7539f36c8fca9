// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

struct io_uring_sqe;
struct io_uring_cqe;

namespace mose::test {

// An io_uring that does one read at a time. By system calls: the checker is linked statically and there need be no
// liburing.
class IoRing {
 public:
  IoRing() = default;
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;
  ~IoRing() { close(); }

  // `fixed` not null: that memory becomes buffer 0. errno on failure.
  [[nodiscard]] bool open(void* fixed, size_t bytes);
  void close();
  [[nodiscard]] bool is_open() const { return ring_ >= 0; }
  // What the read gives: bytes, or -errno.
  [[nodiscard]] int read(int file, void* to, uint32_t bytes, uint64_t offset);

 private:
  int ring_ = -1;
  bool fixed_ = false;
  void* rings_ = nullptr;
  size_t rings_bytes_ = 0, entries_bytes_ = 0;
  io_uring_sqe* entries_ = nullptr;
  io_uring_cqe* completions_ = nullptr;
  uint32_t *sq_tail_ = nullptr, *sq_mask_ = nullptr, *sq_array_ = nullptr;
  uint32_t *cq_head_ = nullptr, *cq_tail_ = nullptr, *cq_mask_ = nullptr;
};

}  // namespace mose::test
