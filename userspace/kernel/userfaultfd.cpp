// SPDX-License-Identifier: MIT
#include "kernel/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernel/uffd_range.h"

namespace mose {
namespace {

static_assert(sizeof(uffd_msg) == sizeof(UffdMessage));

// The highest user address that every x86-64 and arm64 kernel accepts in a range, and the lowest one of mmap_min_addr's
// usual values that is not zero: WAKE checks the bounds of the range, not what is mapped in it.
constexpr uint64_t kWakeStart = 64u << 10;
constexpr uint64_t kWakeEnd = 0x7ffffffff000;

// One ioctl: bytes done (whole pages), or the errno as a negative number.
template <typename Operation>
UffdInstall install_run(uint64_t count, Operation operation) {
  UffdInstall out;
  uint64_t most = kUffdRunPagesMax;
  while (out.handled < count) {
    uint64_t pages = std::min(count - out.handled, most);
    int64_t done = operation(out.handled, pages);
    // A run that stopped on the way reports what it did; the next try says why.
    if (done > 0) {
      out.handled += static_cast<uint64_t>(done) >> kPageShift;
      out.installed += static_cast<uint64_t>(done) >> kPageShift;
      most = std::min(most * 2, kUffdRunPagesMax);
      continue;
    }
    switch (-done) {
      case EEXIST:
        ++out.handled;
        continue;
      case EINTR:
        continue;
      case EAGAIN:
        out.end = UffdInstall::End::event_pending;
        break;
      case ENOENT:
        // One call takes only what lies in one mapping: a run that goes on into the next is taken in parts.
        if (pages > 1) {
          most = pages / 2;
          continue;
        }
        out.end = UffdInstall::End::unregistered;
        break;
      case ESRCH:
      case ENOSPC:
        out.end = UffdInstall::End::gone;
        break;
      default:
        out.end = UffdInstall::End::failed;
        out.code = static_cast<int>(-done);
    }
    return out;
  }
  return out;
}

}  // namespace

UffdEvent decode(const UffdMessage& message) {
  uffd_msg raw;
  std::memcpy(&raw, message.bytes.data(), sizeof raw);
  UffdEvent event;
  switch (raw.event) {
    case UFFD_EVENT_PAGEFAULT:
      event.kind = UffdEvent::Kind::fault;
      event.page = raw.arg.pagefault.address >> kPageShift;
      event.count = 1;
      event.write = (raw.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
      break;
    case UFFD_EVENT_FORK:
      event.kind = UffdEvent::Kind::fork;
      event.fd = static_cast<int>(raw.arg.fork.ufd);
      break;
    case UFFD_EVENT_REMAP:
      event.kind = UffdEvent::Kind::remap;
      event.page = raw.arg.remap.from >> kPageShift;
      event.to = raw.arg.remap.to >> kPageShift;
      event.count = raw.arg.remap.len >> kPageShift;
      break;
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      event.kind = raw.event == UFFD_EVENT_REMOVE ? UffdEvent::Kind::remove : UffdEvent::Kind::unmap;
      event.page = raw.arg.remove.start >> kPageShift;
      event.count = (raw.arg.remove.end - raw.arg.remove.start) >> kPageShift;
      break;
    default:
      break;
  }
  return event;
}

void set_fork_descriptor(UffdMessage& message, int fd) {
  uffd_msg raw;
  std::memcpy(&raw, message.bytes.data(), sizeof raw);
  raw.arg.fork.ufd = static_cast<uint32_t>(fd);
  std::memcpy(message.bytes.data(), &raw, sizeof raw);
}

Result<bool> uffd_read(int uffd, UffdMessage& message) {
  for (;;) {
    ssize_t n = ::read(uffd, message.bytes.data(), message.bytes.size());
    if (n == static_cast<ssize_t>(message.bytes.size())) return true;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return false;
    if (n < 0) return fail_errno("read a userfaultfd");
    return fail("read a userfaultfd: message of " + std::to_string(n) + " bytes");
  }
}

UffdInstall uffd_copy(int uffd, uint64_t page, std::span<const std::byte> pages) {
  auto source = reinterpret_cast<uint64_t>(pages.data());
  return install_run(pages.size() >> kPageShift, [&](uint64_t at, uint64_t count) -> int64_t {
    uffdio_copy copy{.dst = (page + at) << kPageShift,
                     .src = source + (at << kPageShift),
                     .len = count << kPageShift,
                     .mode = 0,
                     .copy = 0};
    if (::ioctl(uffd, UFFDIO_COPY, &copy) == 0) return static_cast<int64_t>(copy.len);
    int code = errno;
    return copy.copy > 0 ? copy.copy : -code;
  });
}

UffdInstall uffd_zero(int uffd, PageRun run) {
  return install_run(run.count, [&](uint64_t at, uint64_t count) -> int64_t {
    uffdio_zeropage zero{.range = uffd_range({run.first + at, count}), .mode = 0, .zeropage = 0};
    if (::ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0) return static_cast<int64_t>(count << kPageShift);
    int code = errno;
    return zero.zeropage > 0 ? zero.zeropage : -code;
  });
}

Status uffd_wake(int uffd, PageRun run) {
  uffdio_range range = uffd_range(run);
  if (::ioctl(uffd, UFFDIO_WAKE, &range) != 0) return fail_errno("wake a faulting thread");
  return {};
}

Status uffd_wake_all(int uffd) {
  return uffd_wake(uffd, {kWakeStart >> kPageShift, (kWakeEnd - kWakeStart) >> kPageShift});
}

bool uffd_owner_alive(int uffd) {
  // The address space is looked for before the source is read, and there is no source: page 1 is nobody's.
  uffdio_copy copy{.dst = kWakeStart, .src = kPageSize, .len = kPageSize, .mode = UFFDIO_COPY_MODE_DONTWAKE, .copy = 0};
  return ::ioctl(uffd, UFFDIO_COPY, &copy) == 0 || (errno != ESRCH && errno != ENOSPC);
}

Status uffd_unregister(int uffd, PageRun run) {
  uffdio_range range = uffd_range(run);
  if (::ioctl(uffd, UFFDIO_UNREGISTER, &range) != 0) return fail_errno("unregister a range of a userfaultfd");
  return {};
}

std::span<const SyscallRule> uffd_service_calls() {
  constexpr uint64_t kRequest = 0xffffffff;
  static constexpr SyscallRule kCalls[] = {
      {"ioctl", {1, kRequest, UFFDIO_COPY}},
      {"ioctl", {1, kRequest, UFFDIO_ZEROPAGE}},
      {"ioctl", {1, kRequest, UFFDIO_WAKE}},
      {"ioctl", {1, kRequest, UFFDIO_UNREGISTER}},
  };
  return kCalls;
}

Result<Fd> uffd_open() {
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd) return fail_errno("userfaultfd");
  uffdio_api api{.api = UFFD_API,
                 .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                             UFFD_FEATURE_EVENT_UNMAP,
                 .ioctls = 0};
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return fail_errno("userfaultfd with events");
  return fd;
}

Status uffd_register(int uffd, PageRun run) {
  uffdio_register request{.range = uffd_range(run), .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
  if (::ioctl(uffd, UFFDIO_REGISTER, &request) != 0) return fail_errno("register a range with a userfaultfd");
  return {};
}

}  // namespace mose
