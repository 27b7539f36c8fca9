// SPDX-License-Identifier: MIT
#include "kernel/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "kernel/proc_status.h"

namespace mose {
namespace {

constexpr long kCgroup2Magic = 0x63677270;

Status write_at(int dir, const char* name, std::string_view value) {
  MOSE_ASSIGN(Fd fd, open_at(dir, name, O_WRONLY));
  if (::write(fd.get(), value.data(), value.size()) < 0) return fail_errno("write \"" + std::string(value) + "\" to " + name);
  return {};
}

Result<std::string> read_at(int dir, const char* name) {
  MOSE_ASSIGN(Fd fd, open_at(dir, name, O_RDONLY));
  return read_all(fd.get());
}

Status make_directories(const std::string& path) {
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    std::string part = path.substr(0, at);
    if (::mkdir(part.c_str(), 0755) < 0 && errno != EEXIST) return fail_errno("make cgroup " + part);
    if (at == std::string::npos) return {};
  }
}

// "populated 1\nfrozen 0\n"
Result<bool> event_value(std::string_view text, const std::string& name) {
  size_t at = 0;
  while (at < text.size()) {
    size_t end = text.find('\n', at);
    if (end == std::string_view::npos) end = text.size();
    std::string_view line = text.substr(at, end - at);
    if (line.size() == name.size() + 2 && line.starts_with(name) && line[name.size()] == ' ') return line.back() == '1';
    at = end + 1;
  }
  return fail("cgroup.events has no field " + name);
}

}  // namespace

Result<std::string> cgroup_mount() {
  MOSE_ASSIGN(std::string text, read_file("/proc/self/mountinfo"));
  std::istringstream lines(text);
  std::string line, found;
  while (std::getline(lines, line)) {
    size_t dash = line.find(" - cgroup2 ");
    if (dash == std::string::npos) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, target;
    fields >> id >> parent >> device >> root >> target;
    if (found.empty() || target.size() < found.size()) found = target;
  }
  if (found.empty()) return fail("no cgroup version 2 is mounted");
  return found;
}

Result<Cgroup> Cgroup::create(const std::string& path) {
  if (!path.starts_with('/')) return fail("cgroup path " + path + " is not absolute");
  MOSE_TRY(make_directories(path));
  return open(path);
}

Result<Cgroup> Cgroup::open(const std::string& path) {
  MOSE_ASSIGN(Fd dir, open_file(path, O_RDONLY | O_DIRECTORY));
  struct statfs fs{};
  if (::fstatfs(dir.get(), &fs) < 0) return fail_errno("cgroup " + path);
  if (fs.f_type != kCgroup2Magic) return fail(path + " is no cgroup of version 2");
  return Cgroup(std::move(dir), path);
}

Result<Cgroup> Cgroup::of_process(pid_t pid) {
  MOSE_ASSIGN(std::string text, read_file("/proc/" + std::to_string(pid) + "/cgroup"));
  MOSE_ASSIGN(std::string mount, cgroup_mount());
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.starts_with("0::")) return open(mount + line.substr(3));
  }
  return fail("process " + std::to_string(pid) + " is in no cgroup of version 2");
}

Status Cgroup::request_freeze() const {
  auto status = write_at(dir_.get(), "cgroup.freeze", "1");
  if (!status) return context("freeze " + path_, std::move(status).error());
  return {};
}

Status Cgroup::freeze(Nanoseconds bound) const {
  MOSE_TRY(request_freeze());
  return wait_frozen(bound);
}

Status Cgroup::thaw() const {
  auto status = write_at(dir_.get(), "cgroup.freeze", "0");
  if (!status) return context("thaw " + path_, std::move(status).error());
  return {};
}

Status Cgroup::wait_frozen(Nanoseconds bound) const { return wait_event("frozen", true, bound); }

Result<bool> Cgroup::event(const std::string& name) const {
  MOSE_ASSIGN(std::string text, read_at(dir_.get(), "cgroup.events"));
  return event_value(text, name);
}

Status Cgroup::wait_event(const std::string& name, bool wanted, Nanoseconds bound) const {
  MOSE_ASSIGN(Fd events, open_at(dir_.get(), "cgroup.events", O_RDONLY));
  Timestamp deadline = now() + bound;
  char buffer[256];
  for (;;) {
    // Reading takes the current count of changes, so that a change after the read wakes the poll.
    ssize_t n = ::pread(events.get(), buffer, sizeof buffer, 0);
    if (n < 0) return fail_errno("read cgroup.events of " + path_);
    MOSE_ASSIGN(bool value, event_value({buffer, static_cast<size_t>(n)}, name));
    if (value == wanted) return {};
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0) return fail_errno("wait until " + path_ + " is " + (wanted ? "" : "not ") + name, ETIMEDOUT);
    pollfd p{events.get(), POLLPRI, 0};
    if (::poll(&p, 1, static_cast<int>(std::min<int64_t>(left, 1'000'000'000))) < 0 && errno != EINTR)
      return fail_errno("poll cgroup.events of " + path_);
  }
}

Result<Fd> Cgroup::watch_events() const {
  MOSE_ASSIGN(Fd events, open_at(dir_.get(), "cgroup.events", O_RDONLY));
  note_events(events.get());
  return events;
}

// Reading takes the current count of changes.
void Cgroup::note_events(int fd) {
  char buffer[256];
  (void)!::pread(fd, buffer, sizeof buffer, 0);
}

Result<bool> Cgroup::frozen() const { return event("frozen"); }
Result<bool> Cgroup::populated() const { return event("populated"); }

Result<bool> Cgroup::has_groups() const {
  MOSE_ASSIGN(std::string text, read_at(dir_.get(), "cgroup.stat"));
  constexpr std::string_view kName = "nr_descendants ";
  const size_t at = text.find(kName);
  if (at == std::string::npos) return fail("cgroup.stat has no field nr_descendants");
  return text[at + kName.size()] != '0';
}

Result<bool> Cgroup::freeze_requested() const {
  MOSE_ASSIGN(std::string text, read_at(dir_.get(), "cgroup.freeze"));
  return text.starts_with("1");
}

Result<std::vector<pid_t>> Cgroup::procs() const {
  MOSE_ASSIGN(std::string text, read_at(dir_.get(), "cgroup.procs"));
  std::vector<pid_t> out;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    pid_t pid = 0;
    auto [next, ec] = std::from_chars(at, end, pid);
    if (ec == std::errc{} && pid > 0) out.push_back(pid);
    at = next + 1;
  }
  return out;
}

Status Cgroup::add(pid_t pid) const {
  auto status = write_at(dir_.get(), "cgroup.procs", std::to_string(pid));
  if (!status) return context("move process " + std::to_string(pid) + " to " + path_, std::move(status).error());
  return {};
}

Status Cgroup::kill() const {
  auto status = write_at(dir_.get(), "cgroup.kill", "1");
  if (status || status.error().code != ENOENT) return status;
  // Kernels before 5.14. A frozen process dies of SIGKILL, and a frozen group cannot fork; a running one may, therefore
  // look again until nobody new appears.
  for (int round = 0; round < 64; ++round) {
    MOSE_ASSIGN(std::vector<pid_t> pids, procs());
    if (pids.empty()) return {};
    for (pid_t pid : pids) ::kill(pid, SIGKILL);
  }
  return {};
}

Status Cgroup::wait_empty(Nanoseconds bound) const { return wait_event("populated", false, bound); }

Status Cgroup::end(Nanoseconds bound) {
  uint64_t own = 0, shared = 0;
  if (auto processes = procs()) {
    for (pid_t process : *processes) {
      const Resident resident = resident_bytes(process);
      own += resident.own;
      shared = std::max(shared, resident.shared);
    }
  }
  held_ = std::max(held_, own + shared);
  MOSE_TRY(kill());
  return wait_empty(bound + time_to_free(held_));
}

Nanoseconds time_to_free(uint64_t bytes) {
  constexpr uint64_t kGib = 1u << 30, kGibMax = 4096;
  constexpr Nanoseconds kFreeGib = std::chrono::milliseconds(400);
  return kFreeGib * static_cast<int64_t>(std::min(1 + bytes / kGib, kGibMax));
}

Status Cgroup::remove(Nanoseconds bound) {
  Status status = wait_empty(bound);
  if (status && ::rmdir(path_.c_str()) < 0 && errno != ENOENT) status = fail_errno("remove cgroup " + path_);
  dir_.reset();
  return status;
}

}  // namespace mose
