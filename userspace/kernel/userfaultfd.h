// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/syscall_filter.h"
#include "model/page_set.h"

namespace mose {

// The operations on a userfaultfd (missing mode) that serving another process's memory takes, as values. Every `uffd` is
// a borrow. Addresses are page indices.
//
// Life of a descriptor: it comes from CRIU or with a fork event; it must not be closed before every page is in, because
// the kernel then answers further faults with zero pages, silently.

// One message as the kernel writes it. Read straight into memory that outlives the reader where losing one would matter.
struct alignas(8) UffdMessage {
  std::array<std::byte, 32> bytes{};
};

struct UffdEvent {
  enum class Kind : uint8_t { none, fault, fork, remap, remove, unmap };
  Kind kind = Kind::none;  // none: no message, or one that we do not know
  uint64_t page = 0;       // fault: the page; remap: old place; remove, unmap: first page
  uint64_t count = 0;      // pages of remap, remove, unmap
  uint64_t to = 0;         // remap: new place
  int fd = -1;             // fork: the child's userfaultfd, already open in the reader's descriptor table
  bool write = false;      // fault: by a write
};
[[nodiscard]] UffdEvent decode(const UffdMessage& message);
// Changes the descriptor number in a fork message: it has another one in the process that takes the message over.
void set_fork_descriptor(UffdMessage& message, int fd);

// Reads one message. False: nothing there. The descriptor must be non-blocking. Faults come before other events.
[[nodiscard]] Result<bool> uffd_read(int uffd, UffdMessage& message);

// How an attempt to install pages ended.
struct UffdInstall {
  enum class End : uint8_t {
    done,           // every page is present now
    event_pending,  // an event must be read first (EAGAIN); the rest is untouched
    unregistered,   // the next page lies in no registered mapping (ENOENT)
    gone,           // the process has exited (ESRCH, ENOSPC)
    failed,         // anything else: see code
  };
  End end = End::done;
  uint64_t handled = 0;    // leading pages that are present now
  uint64_t installed = 0;  // of these, by this call; the others had been present before
  int code = 0;            // errno of `failed`
};
// One ioctl carries at most this, and only what lies in one mapping: other runs are cut by the functions below.
inline constexpr uint64_t kUffdRunPagesMax = 512;

// Copies whole pages to `page` and on, and wakes who waits for them. Pages that are present are left alone.
[[nodiscard]] UffdInstall uffd_copy(int uffd, uint64_t page, std::span<const std::byte> pages);
[[nodiscard]] UffdInstall uffd_zero(int uffd, PageRun run);
// Lets every thread that waits for a page of the run try again.
[[nodiscard]] Status uffd_wake(int uffd, PageRun run);
// The same for a whole address space: faults that a dead reader had read are reported again.
[[nodiscard]] Status uffd_wake_all(int uffd);
// Whether the address space behind it still exists. Changes nothing in it.
[[nodiscard]] bool uffd_owner_alive(int uffd);
[[nodiscard]] Status uffd_unregister(int uffd, PageRun run);

// The calls by which the functions above serve.
[[nodiscard]] std::span<const SyscallRule> uffd_service_calls();

// A userfaultfd of our own memory with fork, remap, remove and unmap events, and the registration of a run in it (tests,
// probes). ENOSYS, EPERM: this host cannot.
[[nodiscard]] Result<Fd> uffd_open();
[[nodiscard]] Status uffd_register(int uffd, PageRun run);

}  // namespace mose
