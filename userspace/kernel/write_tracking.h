// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "model/page_set.h"

namespace mose {

// The kernel's own record of which pages a process writes: a userfaultfd in asynchronous write-protection mode (Linux
// 6.7). A write to a protected page costs its thread one page fault, in the kernel, and takes the protection off;
// nobody has to answer. Pagemap::protect() puts it on, Pagemap::tracked() reads the record.
//
// Life: take() makes the userfaultfd inside the process with a borrowed thread and brings it here; the process keeps no
// descriptor of it (CRIU dumps no process that has one). add() regions; the record of a region ends when it is unmapped
// or moved. end() takes the protection off in small steps; closing without it makes the kernel do the same in one go,
// with the address space locked (4-20 ms per 200 MB), so the destructor calls it too. A userfaultfd whose process has
// gone costs nothing to close. No event features are asked for: the process would wait in fork, munmap and the like
// until we read the event.
class WriteTracking {
 public:
  struct Stop {
    Nanoseconds borrowed{0};  // for how long the thread was kept
  };
  // ENOSYS, EPERM, ENOTSUP, EBUSY...: with the reason in words.
  [[nodiscard]] static Result<WriteTracking> take(pid_t pid, Stop* stop = nullptr);
  // Of this process, for who wants to know what tracking costs: of few pages, because closing it takes the protection off
  // in one go. A child that is forked meanwhile may keep a copy of the descriptor until it execs.
  [[nodiscard]] static Result<WriteTracking> of_self();
  WriteTracking(WriteTracking&&) noexcept = default;
  WriteTracking& operator=(WriteTracking&&) noexcept;
  ~WriteTracking() { end(); }

  // One mapping, or a part of it. Not yet protected.
  [[nodiscard]] Status add(PageRun run);
  // Protects pages of shared memory, in a mapping that was added, whatever they are now. Also one that this process has not
  // touched: it is there all the same, and what is not in the page tables shows no write. In steps of a few tenths of a
  // millisecond. (Pagemap::protect() protects what is populated, as private memory needs it.)
  [[nodiscard]] Status protect_shared(const PageSet& pages);
  // A fork by another thread while the descriptor lay in the process has given a copy to the child, which no dump can
  // take: closes it there, with a borrowed thread of the child. A child is seen only when its fork is over, so ask
  // again some time after take(). Gives how many copies were closed; an error where one is left. Not of a frozen tree.
  [[nodiscard]] Result<unsigned> close_copies();
  void end();

 private:
  WriteTracking(Fd uffd, pid_t pid, int number) : uffd_(std::move(uffd)), pid_(pid), number_(number) {}
  Fd uffd_;
  pid_t pid_ = 0;
  PageSet shared_;   // protected by protect_shared()
  int number_ = -1;  // of the descriptor in the process, while it was there; -1 of this process
};

}  // namespace mose
