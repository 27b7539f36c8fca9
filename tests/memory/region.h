// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "stamp.h"

namespace mose::test {

// How memory is written; each has regions of its own.
enum class Kind : uint8_t {
  store,           // plain stores, several threads, a region each
  atomic,          // atomic exchanges
  read,            // read(2) from a pipe
  heap,            // stores below the program break
  stack,           // stores on a thread's stack
  huge,            // stores into huge pages
  file,            // stores into a private mapping of a file
  cold,            // written once
  advise,          // stores, and pages given back
  remap,           // stores into a region that is moved about
  vm_thread,       // process_vm_writev by a thread of the process
  vm_process,      // process_vm_writev by another process
  direct,          // read(2) of a file open for direct I/O
  fork,            // stores by a process and by children that share its pages
  ring,            // io_uring reads
  ring_fixed,      // io_uring reads into registered buffers
  shared,          // stores into shared anonymous memory
  shared_process,  // the same by another process, which has it from a fork
  memfd,           // stores into a memfd, and write(2)
  locked,          // stores into memory that is locked
  segment,         // stores into a System V segment
  removed_segment,  // the same by another process, into one that goes with its last mapping
};
inline constexpr size_t kKinds = 22;
[[nodiscard]] const char* to_string(Kind kind);

// Sums over all regions of a kind; what processes tell each other through pipes.
struct Counts {
  uint64_t pages = 0, steps = 0, checks = 0;
  uint64_t stale = 0, ahead = 0, foreign = 0, lost = 0, torn = 0;
};

// The order in which the pages of a region are written, as arithmetic: which page a step writes, and which step wrote a
// page last. One step in eight goes to the second half of the pages, so that some are hot and some are not. Nothing is
// remembered per page: a page that is stale has no record beside it that could be stale in the same way.
class Order {
 public:
  explicit Order(uint64_t pages) : half_(pages / 2) {}  // a power of two, at least 4
  [[nodiscard]] uint64_t page_of(uint64_t step) const;  // from 1
  // The last step up to `steps` that wrote the page; 0: none.
  [[nodiscard]] uint64_t last_step(uint64_t page, uint64_t steps) const;
  // After that many steps the same pages come again.
  [[nodiscard]] uint64_t period() const { return half_ * 8; }

 private:
  uint64_t half_;
};

// One region and what it should hold. Whoever writes or looks holds `lock`.
class Region {
 public:
  Region(Kind kind, unsigned number, uint64_t pages);
  virtual ~Region() = default;

  const Kind kind;
  std::mutex lock;
  char* base = nullptr;  // of page 0 now
  bool resting = false;

  // Of page 0 of a region, in its own numbering.
  [[nodiscard]] static uint64_t home_of(Kind kind, unsigned number);
  [[nodiscard]] uint64_t pages() const { return pages_; }
  [[nodiscard]] uint64_t steps() const { return steps_; }

  // One page more, as the kind writes it.
  void step();
  // Looks at `count` pages after those that were looked at last; bad ones are counted and told to the log.
  void check(uint64_t count);
  void add_counts(Counts& out) const;
  // Around times in which nothing is written.
  virtual void rest() {}
  virtual void work() {}

 protected:
  // Makes page `page` hold what `stamp` says.
  virtual void put(uint64_t page, const Stamp& stamp);
  // What page `page` holds after step `step` (0: from the beginning).
  [[nodiscard]] virtual Stamp stamp_of(uint64_t page, uint64_t step) const;
  void fill();
  [[nodiscard]] uint64_t* page_at(uint64_t page) const { return reinterpret_cast<uint64_t*>(base + page * kPageBytes); }
  [[nodiscard]] uint64_t home() const { return home_; }

  Order order_;
  PageImage image_;  // of the page that is written
  uint64_t pages_, steps_ = 0, next_check_ = 0;
  Counts counts_;

 private:
  uint64_t home_;
};

// A line to the log, which is standard error.
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void die(const char* what);

}  // namespace mose::test
