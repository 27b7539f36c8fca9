// SPDX-License-Identifier: MIT
#include "restore/standby_refresh.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

#include "kernel/rooted.h"
#include "kernel/tcp_repair.h"
#include "restore/standby_actions.h"

namespace mose::restore {

Result<Fd> standby_file(const StandbyDescriptor& descriptor, std::span<const StandbyProcess> tree) {
  for (const StandbyProcess& process : tree) {
    if (process.space != descriptor.space) continue;
    auto taken = process.process->descriptor(descriptor.number);
    if (!taken) return context("take " + to_string(descriptor) + " of the standby", taken.error());
    return taken;
  }
  return fail("the standby lacks process " + std::to_string(descriptor.space));
}

std::string to_string(const StandbyDescriptor& descriptor) {
  return "descriptor " + std::to_string(descriptor.number) + " of process " + std::to_string(descriptor.space);
}

namespace {

using Tree = std::span<const StandbyProcess>;
constexpr uint64_t kMillion = 1'000'000;
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS
constexpr size_t kZeroBytes = 65536;

// What `path` names in the standby now: its files may have been carried over once more since its restore.
Result<struct stat> stat_in_root(const StandbyProcess& process, const std::string& path) {
  const std::string root = "/proc/" + std::to_string(process.process->pid()) + "/root";
  MOSE_ASSIGN(Fd file, open_in_root(root, path, O_PATH | O_NOFOLLOW));
  struct stat out {};
  if (::fstat(file.get(), &out) < 0) return fail_errno("look at " + path);
  return out;
}

Status refresh_file(const StandbyFile& file, Tree tree) {
  MOSE_ASSIGN(Fd fd, standby_file(file.descriptor, tree));
  struct stat open{};
  if (::fstat(fd.get(), &open) < 0) return fail_errno("look at " + to_string(file.descriptor));
  if (file.regular) {
    if (!S_ISREG(open.st_mode)) return fail(to_string(file.descriptor) + " is no regular file in the standby");
    auto process = std::find_if(tree.begin(), tree.end(),
                                [&](const StandbyProcess& p) { return p.space == file.descriptor.space; });
    auto named = stat_in_root(*process, file.path);
    // A file without a name is restored from an image, which the comparison has seen.
    if (!named && !(named.error().code == ENOENT && open.st_nlink == 0))
      return std::unexpected(std::move(named).error());
    if (named && (named->st_dev != open.st_dev || named->st_ino != open.st_ino))
      return fail(file.path + " is another file than the standby has open");
    if (file.size && static_cast<uint64_t>(open.st_size) != *file.size)
      return fail(file.path + " has another size than at the dump");
  }
  if (file.position && ::lseek(fd.get(), static_cast<off_t>(*file.position), SEEK_SET) < 0)
    return fail_errno("set the position in " + file.path);
  return {};
}

Status refresh_flags(const StandbyStatusFlags& wanted, Tree tree) {
  MOSE_ASSIGN(Fd fd, standby_file(wanted.descriptor, tree));
  int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 ||
      ::fcntl(fd.get(), F_SETFL, (flags & ~static_cast<int>(kChangeableFlags)) | static_cast<int>(wanted.flags)) < 0)
    return fail_errno("set the flags of " + to_string(wanted.descriptor));
  return {};
}

Status refresh_eventfd(const StandbyEventfd& wanted, Tree tree) {
  MOSE_ASSIGN(Fd fd, standby_file(wanted.descriptor, tree));
  const std::string what = "set the counter of " + to_string(wanted.descriptor);
  // CRIU restores all of them as plain counters: one read takes all of it, and none may wait.
  pollfd p{fd.get(), POLLIN, 0};
  uint64_t value = 0;
  if (::poll(&p, 1, 0) == 1 && ::read(fd.get(), &value, sizeof value) != sizeof value) return fail_errno(what);
  if (value != wanted.early) return fail(what + ": it does not stand where the early dump says");
  if (wanted.final > 0 && ::write(fd.get(), &wanted.final, sizeof wanted.final) != sizeof wanted.final)
    return fail_errno(what);
  return {};
}

// Through a file of our own, which has both directions and never blocks.
Status refresh_pipe(const StandbyPipe& wanted, Tree tree) {
  MOSE_ASSIGN(Fd fd, standby_file(wanted.descriptor, tree));
  struct stat open{};
  if (::fstat(fd.get(), &open) < 0 || !S_ISFIFO(open.st_mode))
    return fail(to_string(wanted.descriptor) + " is no pipe in the standby");
  MOSE_ASSIGN(Fd own, open_file("/proc/self/fd/" + std::to_string(fd.get()), O_RDWR | O_NONBLOCK));
  size_t drained = 0;
  char buffer[65536];
  for (ssize_t n; (n = ::read(own.get(), buffer, sizeof buffer)) > 0;) drained += static_cast<size_t>(n);
  if (drained != wanted.early_bytes)
    return fail("the pipe behind " + to_string(wanted.descriptor) + " does not hold what the early dump says");
  auto status = write_all(own.get(), wanted.contents);
  if (!status) return context("fill the pipe behind " + to_string(wanted.descriptor), std::move(status).error());
  return {};
}

Status refresh_timer(const StandbyTimer& wanted, Tree tree) {
  MOSE_ASSIGN(Fd fd, standby_file(wanted.descriptor, tree));
  const std::string what = "set the timer behind " + to_string(wanted.descriptor);
  uint64_t value = wanted.value_ns;
  // An absolute one is given in our own time namespace, which the kernel then takes care of.
  if (wanted.absolute && value > 0) {
    timespec present{};
    if (::clock_gettime(wanted.clock, &present) < 0) return fail_errno(what);
    value += static_cast<uint64_t>(present.tv_sec) * kNsPerSecond + static_cast<uint64_t>(present.tv_nsec);
  }
  // Clears what it has counted, too.
  itimerspec spec{to_timespec(static_cast<int64_t>(wanted.interval_ns)), to_timespec(static_cast<int64_t>(value))};
  if (::timerfd_settime(fd.get(), wanted.absolute ? TFD_TIMER_ABSTIME : 0, &spec, nullptr) < 0) return fail_errno(what);
  uint64_t ticks = wanted.ticks;
  if (ticks > 0 && ::ioctl(fd.get(), kSetTicks, &ticks) < 0) return fail_errno(what);
  return {};
}

Status write_memory(int fd, uint64_t address, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(address));
    if (n <= 0) {
      if (n < 0 && errno == EINTR) continue;
      return fail_errno("write the memory of the standby", n < 0 ? errno : EIO);
    }
    address += static_cast<uint64_t>(n);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Status refresh_memory(const StandbyDelta& delta, Tree tree) {
  std::map<SpaceId, Fd> memories;
  for (const StandbyPages& pages : delta.pages) {
    Fd& memory = memories[pages.space];
    if (!memory) {
      auto process =
          std::find_if(tree.begin(), tree.end(), [&](const StandbyProcess& p) { return p.space == pages.space; });
      if (process == tree.end()) return fail("the standby lacks process " + std::to_string(pages.space));
      MOSE_ASSIGN(memory, open_file("/proc/" + std::to_string(process->process->pid()) + "/mem", O_RDWR));
    }
    const uint64_t address = pages.run.first << kPageShift;
    if (!pages.contents.empty()) {
      MOSE_TRY(write_memory(memory.get(), address, pages.contents));
      continue;
    }
    const std::string zeros(kZeroBytes, '\0');
    for (uint64_t done = 0, bytes = pages.run.count * kPageSize; done < bytes; done += zeros.size())
      MOSE_TRY(write_memory(memory.get(), address + done, std::string_view(zeros).substr(0, bytes - done)));
  }
  return {};
}

Status refresh_files(const StandbyDelta& delta, Tree tree) {
  for (const StandbyFile& file : delta.files) MOSE_TRY(refresh_file(file, tree));
  for (const StandbyEventfd& file : delta.eventfds) MOSE_TRY(refresh_eventfd(file, tree));
  for (const StandbyPipe& file : delta.pipes) MOSE_TRY(refresh_pipe(file, tree));
  for (const StandbyTimer& file : delta.timers) MOSE_TRY(refresh_timer(file, tree));
  for (const StandbyStatusFlags& file : delta.status_flags) MOSE_TRY(refresh_flags(file, tree));
  return refresh_epolls(delta, tree);
}

Result<uint64_t> standby_clock(const std::string& offsets, const char* name, clockid_t clock) {
  timespec present{};
  if (::clock_gettime(clock, &present) < 0) return fail_errno("read a clock");
  std::istringstream lines(offsets);
  std::string word;
  long long seconds = 0, nanoseconds = 0;
  while (lines >> word >> seconds >> nanoseconds) {
    if (word != name) continue;
    long long value = (present.tv_sec + seconds) * static_cast<long long>(kNsPerSecond) + present.tv_nsec + nanoseconds;
    return static_cast<uint64_t>(std::max(0LL, value));
  }
  return fail(std::string("the standby has no offset of the clock ") + name);
}

}  // namespace

Status quiet_standby(std::span<const StandbyProcess> tree) {
  std::vector<ProcessHandle> processes;
  for (const StandbyProcess& process : tree) {
    MOSE_ASSIGN(ProcessHandle handle, process.process->share());
    processes.push_back(std::move(handle));
  }
  MOSE_ASSIGN(RepairCount count, set_tcp_repair(processes, true));
  if (count.failed > 0) return fail(std::to_string(count.failed) + " connections of the standby could not be quieted");
  return {};
}

Status check_standby_clocks(const StandbyClocks& final, const ProcessHandle& process) {
  MOSE_ASSIGN(std::string offsets, read_file("/proc/" + std::to_string(process.pid()) + "/timens_offsets"));
  MOSE_ASSIGN(uint64_t monotonic, standby_clock(offsets, "monotonic", CLOCK_MONOTONIC));
  MOSE_ASSIGN(uint64_t boottime, standby_clock(offsets, "boottime", CLOCK_BOOTTIME));
  const uint64_t behind = std::max(final.monotonic_ns - std::min(monotonic, final.monotonic_ns),
                                   final.boottime_ns - std::min(boottime, final.boottime_ns));
  if (behind > 0)
    return fail("the clocks of the standby are behind those of the workload by " +
                std::to_string((behind + kMillion - 1) / kMillion) + " ms");
  return {};
}

Result<StandbyTimes> refresh_standby(const StandbyDelta& delta, std::span<const StandbyProcess> tree) {
  StandbyTimes times;
  Timestamp last = now();
  auto lap = [&](Nanoseconds& part) {
    const Timestamp present = now();
    part = present - last;
    last = present;
  };
  for (const StandbyProcess& process : tree) {
    if (delta.clocks) MOSE_TRY(check_standby_clocks(*delta.clocks, *process.process));
  }
  // The threads come to their stops while everything else is done.
  StandbyThreads threads;
  StandbyConnections connections;
  MOSE_TRY(threads.seize(delta, tree));
  lap(times.seize);
  MOSE_TRY(connections.restore(delta, tree));
  lap(times.sockets);
  MOSE_TRY(refresh_files(delta, tree));
  lap(times.files);
  MOSE_TRY(refresh_memory(delta, tree));
  lap(times.memory);
  MOSE_TRY(threads.set(delta));
  lap(times.threads);
  MOSE_TRY(connections.release(delta, tree));
  lap(times.release);
  return times;
}

}  // namespace mose::restore
