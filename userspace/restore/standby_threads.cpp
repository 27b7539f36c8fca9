// SPDX-License-Identifier: MIT
#include <cpuid.h>
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/directory.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"
#include "kernel/ptrace_stop.h"
#include "restore/standby_actions.h"

namespace mose::restore {
namespace {

constexpr Nanoseconds kStopBound = std::chrono::seconds(1);
constexpr size_t kOriginalAx = 15;  // its place among the registers
constexpr size_t kXstateBytesMax = 32768, kHeaderOffset = 512, kExtendedOffset = 576, kSoftwareBytes = 464;
constexpr unsigned kComponentsMax = 63;

struct Place {
  unsigned offset = 0, size = 0;
};
// Where a state component lies in what ptrace gives and takes: the processor's uncompacted layout.
Place place_of(unsigned component) {
  unsigned size = 0, offset = 0, c = 0, d = 0;
  if (!__get_cpuid_count(0xd, component, &size, &offset, &c, &d)) return {};
  return {offset, size};
}

Status set_xstate(pid_t tid, const StandbyThread& from) {
  alignas(64) std::byte state[kXstateBytesMax];
  iovec io{state, sizeof state};
  if (trace(PTRACE_GETREGSET, tid, reinterpret_cast<void*>(NT_X86_XSTATE), &io) < 0)
    return fail_errno("read the processor state of a thread");
  if (io.iov_len < kExtendedOffset) return fail("the processor state of a thread is too short");
  std::memcpy(state, from.fxsave.data(), kSoftwareBytes);
  std::memset(state + kHeaderOffset, 0, io.iov_len - kHeaderOffset);
  uint64_t in_use = kLegacyComponents;
  for (const StandbyThread::Component& component : from.components) {
    if (component.number > kComponentsMax) return fail("impossible processor state");
    Place place = place_of(component.number);
    if (place.size != component.bytes.size() || place.offset < kExtendedOffset ||
        place.offset + place.size > io.iov_len)
      return fail("this processor keeps state component " + std::to_string(component.number) + " differently");
    std::memcpy(state + place.offset, component.bytes.data(), place.size);
    in_use |= uint64_t{1} << component.number;
  }
  std::memcpy(state + kHeaderOffset, &in_use, sizeof in_use);
  if (trace(PTRACE_SETREGSET, tid, reinterpret_cast<void*>(NT_X86_XSTATE), &io) < 0)
    return fail_errno("set the processor state of a thread");
  return {};
}

Status set_thread(pid_t tid, const StandbyThread& from) {
  auto registers = from.registers;
  // CRIU has put an interrupted call right already: the kernel must not do it again.
  registers[kOriginalAx] = ~uint64_t{0};
  iovec io{registers.data(), sizeof registers};
  if (trace(PTRACE_SETREGSET, tid, reinterpret_cast<void*>(NT_PRSTATUS), &io) < 0)
    return fail_errno("set the registers of a thread");
  MOSE_TRY(set_xstate(tid, from));
  uint64_t mask = from.signal_mask;
  if (trace(PTRACE_SETSIGMASK, tid, reinterpret_cast<void*>(sizeof mask), &mask) < 0)
    return fail_errno("set the signal mask of a thread");
  return {};
}

Status wait_stop(pid_t tid, Timestamp end) {
  MOSE_ASSIGN(int status, next_stop(tid, end - now()));
  // A stop with a signal: one would be lost here, and none is expected.
  if (!is_interrupt_stop(status)) return fail("a thread of the standby was stopped by something else");
  return {};
}

}  // namespace

Status StandbyThreads::seize_process(const StandbyProcess& process, uint32_t threads) {
  Directory tasks = open_directory(proc_path(process.process->pid(), "task"));
  if (!tasks) return fail_errno("list the threads of the standby");
  uint32_t count = 0;
  while (const dirent* entry = ::readdir(tasks.get())) {
    if (entry->d_name[0] == '.') continue;
    const auto thread = static_cast<pid_t>(std::atoi(entry->d_name));
    MOSE_ASSIGN(std::vector<pid_t> numbers, numbers_of(thread));
    if (trace(PTRACE_SEIZE, thread, nullptr, nullptr) < 0) return fail_errno("seize a thread of the standby");
    threads_.push_back({process.space, static_cast<uint32_t>(numbers.back()), thread, true});
    ++count;
    if (trace(PTRACE_INTERRUPT, thread, nullptr, nullptr) < 0) return fail_errno("interrupt a thread of the standby");
  }
  if (count != threads) return fail("the standby has another number of threads than the images");
  return {};
}

Status StandbyThreads::seize(const StandbyDelta& delta, std::span<const StandbyProcess> tree) {
  if (tree.size() != delta.processes.size()) return fail("the standby has another number of processes than the images");
  for (const auto& [space, threads] : delta.processes) {
    auto process =
        std::find_if(tree.begin(), tree.end(), [space = space](const StandbyProcess& p) { return p.space == space; });
    if (process == tree.end()) return fail("the standby lacks process " + std::to_string(space));
    MOSE_TRY(seize_process(*process, threads));
  }
  return {};
}

Status StandbyThreads::set(const StandbyDelta& delta) {
  const Timestamp end = now() + kStopBound;
  for (const StandbyThread& wanted : delta.threads) {
    auto thread = std::find_if(threads_.begin(), threads_.end(),
                               [&](const Thread& t) { return t.space == wanted.space && t.tid == wanted.tid; });
    if (thread == threads_.end() || !thread->attached)
      return fail("the standby lacks thread " + std::to_string(wanted.tid));
    MOSE_TRY(wait_stop(thread->host_tid, end));
    MOSE_TRY(set_thread(thread->host_tid, wanted));
    if (trace(PTRACE_DETACH, thread->host_tid, nullptr, nullptr) < 0)
      return fail_errno("let go of a thread of the standby");
    thread->attached = false;
  }
  return {};
}

StandbyThreads::~StandbyThreads() {
  const Timestamp end = now() + kStopBound;
  for (Thread& thread : threads_) {
    if (!thread.attached) continue;
    // A thread lets go only when it stands. One that stands already answers the wait with a timeout.
    if (trace(PTRACE_DETACH, thread.host_tid, nullptr, nullptr) == 0) continue;
    (void)wait_stop(thread.host_tid, end);
    (void)trace(PTRACE_DETACH, thread.host_tid, nullptr, nullptr);
  }
}

}  // namespace mose::restore
