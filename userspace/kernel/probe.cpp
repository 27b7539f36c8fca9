// SPDX-License-Identifier: MIT
#include "kernel/probe.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>

#include "base/fd.h"
#include "kernel/cgroup.h"
#include "kernel/netns.h"
#include "kernel/pagemap.h"
#include "kernel/process.h"
#include "kernel/remote_writes.h"
#include "kernel/tap.h"

namespace mose {
namespace {

ProbeResult from_errno(std::string_view what) {
  int code = errno;
  return {ProbeState::no, std::string(what) + ": " + strerror(code)};
}
ProbeResult from_error(const Error& error) {
  return {ProbeState::no, error.what};
}
ProbeResult yes(std::string detail) {
  return {ProbeState::yes, std::move(detail)};
}

// Features of userfaultfd beyond missing pages of private anonymous memory; older headers do not know the last ones.
constexpr uint64_t kUffdWpAsync = 1ull << 15;
constexpr uint64_t kUffdEvents =
    UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;

// The handshake without wishes tells all features; one with wishes proves that they can be had.
Result<uint64_t> uffd_features(uint64_t wanted) {
  Fd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!uffd) return fail_errno("userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = wanted;
  if (ioctl(uffd.get(), UFFDIO_API, &api) != 0) return fail_errno("UFFDIO_API");
  return api.features;
}

ProbeResult probe_userfaultfd() {
  auto features = uffd_features(kUffdEvents);
  if (!features) return from_error(features.error());
  return yes("missing pages, with fork, remap, remove and unmap events");
}

ProbeResult probe_uffd_wp_async() {
  auto features = uffd_features(kUffdWpAsync);
  if (!features) return from_error(features.error());
  return yes("asynchronous write protection");
}

ProbeResult probe_pagemap_scan() {
  auto pagemap = Pagemap::open(getpid());
  if (!pagemap) return from_error(pagemap.error());
  volatile char on_stack = 1;
  uint64_t page = reinterpret_cast<uintptr_t>(&on_stack) >> kPageShift;
  auto found = pagemap->populated({page, 1});
  if (!found) return from_error(found.error());
  if (found->pages() != 1) return {ProbeState::no, "a page that is present was not found"};
  return yes(Pagemap::looks_quickly() ? "PAGEMAP_SCAN finds a page that is present, and what was given back without looking at each page"
                                      : "PAGEMAP_SCAN finds a page that is present");
}

// A program that does nothing.
Fd load_empty_program(bpf_prog_type type) {
  bpf_insn program[2] = {};
  program[0].code = BPF_ALU64 | BPF_MOV | BPF_K;  // r0 = 0
  program[1].code = BPF_JMP | BPF_EXIT;
  bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.prog_type = type;
  attr.insns = reinterpret_cast<uintptr_t>(program);
  attr.insn_cnt = 2;
  attr.license = reinterpret_cast<uintptr_t>("GPL");
  return Fd(static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
}

ProbeResult probe_bpf() {
  Fd fd = load_empty_program(BPF_PROG_TYPE_SCHED_CLS);
  if (!fd) return from_errno("load a classifier");
  return yes("a classifier can be loaded");
}

ProbeResult probe_page_fault_tracepoints() {
  Fd program = load_empty_program(BPF_PROG_TYPE_RAW_TRACEPOINT);
  if (!program) return from_errno("load a program for tracepoints");
  for (const char* name : {"page_fault_user", "page_fault_kernel"}) {
    bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.raw_tracepoint.name = reinterpret_cast<uintptr_t>(name);
    attr.raw_tracepoint.prog_fd = static_cast<uint32_t>(program.get());
    Fd link(static_cast<int>(syscall(SYS_bpf, BPF_RAW_TRACEPOINT_OPEN, &attr, sizeof attr)));
    if (!link) return from_errno(std::string("attach to ") + name);
  }
  return yes("programs can be attached to page_fault_user and page_fault_kernel");
}

ProbeResult probe_bpf_task_iterator() {
  auto writes = RemoteWrites::shared();
  if (!writes) return from_error(writes.error());
  auto threads = (*writes)->under_way();
  if (!threads) return from_error(threads.error());
  return yes("a program can look at the calls of all threads");
}

ProbeResult probe_bpffs() {
  struct statfs info;
  if (statfs("/sys/fs/bpf", &info) != 0) return from_errno("/sys/fs/bpf");
  if (info.f_type != BPF_FS_MAGIC) return {ProbeState::no, "no bpf file system is mounted at /sys/fs/bpf"};
  return yes("mounted at /sys/fs/bpf");
}

ProbeResult probe_btf() {
  auto file = open_file("/sys/kernel/btf/vmlinux", O_RDONLY);
  if (!file) return from_error(file.error());
  return yes("/sys/kernel/btf/vmlinux");
}

ProbeResult probe_tap() {
  auto netns = create_netns();
  if (!netns) return from_error(netns.error());
  auto status = in_netns(netns->get(), []() -> Status {
    MOSE_ASSIGN(Tap tap, create_tap("moseprobe", 1));
    return {};
  });
  if (!status) return from_error(status.error());
  return yes("a tap that keeps segmentation and checksum state");
}

ProbeResult probe_freezer() {
  auto mount = cgroup_mount();
  if (!mount) return from_error(mount.error());
  auto group = Cgroup::create(*mount + "/mose-probe-" + std::to_string(getpid()));
  if (!group) return from_error(group.error());
  constexpr Nanoseconds kBound = std::chrono::milliseconds(200);
  auto frozen = group->freeze(kBound);
  (void)group->thaw();
  auto removed = group->remove(kBound);
  if (!frozen) return from_error(frozen.error());
  if (!removed) return from_error(removed.error());
  return yes("a group below " + *mount + " can be frozen");
}

ProbeResult probe_pidfd_getfd() {
  Fd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self) return from_errno("pidfd_open");
  Fd copy(static_cast<int>(syscall(SYS_pidfd_getfd, self.get(), self.get(), 0)));
  if (!copy) return from_errno("pidfd_getfd");
  return yes("pidfd_open and pidfd_getfd");
}

ProbeResult probe_set_tid() {
  // A process of the number 1 in a pid namespace of its own: what a restore does for every process.
  std::array<pid_t, 1> number{1};
  clone_args args{};
  args.flags = CLONE_NEWPID;
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<uintptr_t>(number.data());
  args.set_tid_size = number.size();
  long child = syscall(SYS_clone3, &args, sizeof args);
  if (child == 0) syscall(SYS_exit_group, 0);
  if (child < 0) return from_errno("clone3 with a wanted process id");
  while (waitpid(static_cast<pid_t>(child), nullptr, __WALL) < 0 && errno == EINTR) {
  }
  return yes("clone3 gives a wanted process id");
}

ProbeResult probe_time_namespace() {
  auto own = own_namespace(NamespaceKind::time);
  if (!own) return from_error(own.error());
  return yes("time namespaces");
}

// Bits of linux/capability.h; the last three are younger than some headers.
struct Capability {
  unsigned bit;
  const char* name;
};
constexpr Capability kRequiredCapabilities[] = {{0, "CHOWN"},    {1, "DAC_OVERRIDE"}, {5, "KILL"},
                                                {6, "SETGID"},   {7, "SETUID"},       {12, "NET_ADMIN"},
                                                {13, "NET_RAW"}, {19, "SYS_PTRACE"},  {21, "SYS_ADMIN"},
                                                {38, "PERFMON"}, {39, "BPF"},         {40, "CHECKPOINT_RESTORE"}};
constexpr unsigned kSysResource = 24;

Result<uint64_t> effective_capabilities() {
  MOSE_ASSIGN(std::string text, read_file("/proc/self/status", 1u << 16));
  size_t at = text.find("\nCapEff:");
  if (at == std::string::npos) return fail("no CapEff in /proc/self/status");
  return strtoull(text.c_str() + at + 8, nullptr, 16);
}

ProbeResult probe_capabilities() {
  auto mask = effective_capabilities();
  if (!mask) return {ProbeState::unknown, mask.error().what};
  std::string missing;
  for (const Capability& capability : kRequiredCapabilities) {
    bool have = ((*mask >> capability.bit) & 1) != 0;
    if (!have) missing += std::string(missing.empty() ? "" : ", ") + "CAP_" + capability.name;
  }
  if (!missing.empty()) return {ProbeState::no, "missing: " + missing};
  return yes("all that are needed");
}

ProbeResult probe_sys_resource() {
  auto mask = effective_capabilities();
  if (!mask) return {ProbeState::unknown, mask.error().what};
  if (((*mask >> kSysResource) & 1) == 0) return {ProbeState::no, "CAP_SYS_RESOURCE is missing"};
  return yes("CAP_SYS_RESOURCE");
}

// A kernel without it accepts the reset and shows no page as written: only a bit that comes back after a write proves it.
// In a child, because the reset protects all pages of whoever asks for it.
ProbeResult probe_soft_dirty() {
  enum Answer : int { works = 0, no_bit, sticky_bit, no_reset, no_pagemap };
  long child = syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child < 0) return from_errno("fork");
  if (child == 0) {
    alignas(kPageSize) static volatile char page[kPageSize];
    constexpr uint64_t kSoftDirty = 1ull << 55;
    page[0] = 1;
    int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int reset = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    auto is_dirty = [&] {
      uint64_t entry = 0;
      if (pread(pagemap, &entry, sizeof entry, static_cast<off_t>(reinterpret_cast<uintptr_t>(page) / kPageSize * 8)) != 8) {
        syscall(SYS_exit_group, no_pagemap);
      }
      return (entry & kSoftDirty) != 0;
    };
    if (pagemap < 0) syscall(SYS_exit_group, no_pagemap);
    if (::write(reset, "4", 1) != 1) syscall(SYS_exit_group, no_reset);
    bool before = is_dirty();
    page[0] = 2;
    syscall(SYS_exit_group, before ? sticky_bit : is_dirty() ? works : no_bit);
  }
  int status = 0;
  while (waitpid(static_cast<pid_t>(child), &status, __WALL) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status)) return {ProbeState::unknown, "the process that tried it was killed"};
  switch (WEXITSTATUS(status)) {
    case works:
      return yes("a page that is written after a reset is shown as written");
    case no_bit:
      return {ProbeState::no, "a page that was written after a reset is not shown as written"};
    case sticky_bit:
      return {ProbeState::no, "a page is shown as written after a reset"};
    case no_reset:
      return {ProbeState::no, "/proc/PID/clear_refs takes no reset"};
    default:
      return {ProbeState::unknown, "/proc/PID/pagemap cannot be read"};
  }
}

struct Entry {
  Probe probe;
  ProbeResult (*run)();
  bool may_pass = false;  // a failure may be of this moment: memory, descriptors
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> kEntries = {
      {{"capabilities", "the agent cannot enter, stop or rebuild other users' processes", true}, probe_capabilities},
      {{"cgroup-freezer", "there is no fence: nothing could guarantee that only one side runs", true}, probe_freezer},
      {{"userfaultfd", "memory cannot be served after the switchover", true}, probe_userfaultfd},
      {{"pagemap-scan", "the pages that a stopped process has cannot be found", true}, probe_pagemap_scan},
      {{"pidfd-getfd", "sockets of a stopped source cannot be set going again", true}, probe_pidfd_getfd},
      {{"clone3-set-tid", "processes cannot be rebuilt with their ids", true}, probe_set_tid},
      {{"bpf", "packets cannot be held or redirected", true}, probe_bpf},
      {{"bpffs", "steering does not survive the agent's restart", true}, probe_bpffs},
      {{"tap-vnet-hdr", "held packets lose their segmentation state", true}, probe_tap},
      {{"time-namespace", "monotonic clocks of a moved workload jump", true}, probe_time_namespace},
      {{"btf", "programs that read kernel structures cannot be loaded: no write-rate hints", false}, probe_btf},
      {{"page-fault-tracepoints", "who writes which pages how often is not seen: forecasts come from whole rounds only",
        false},
       probe_page_fault_tracepoints},
      {{"uffd-wp-async", "written pages are found by comparing contents, not by write protection", false},
       probe_uffd_wp_async},
      {{"bpf-task-iterator",
        "who writes into other processes' memory (process_vm_writev) is not seen: written pages are found by comparing contents", false},
       probe_bpf_task_iterator, true},
      {{"soft-dirty", "nothing: written pages are found by write protection or by comparing contents", false},
       probe_soft_dirty},
      {{"cap-sys-resource",
        "limits of other users' processes are read from /proc by a helper in CRIU, and raised ones are not restored",
        false},
       probe_sys_resource},
  };
  return kEntries;
}

std::mutex cache_lock;
std::map<std::string, ProbeResult, std::less<>> cache, forced;

}  // namespace

const char* to_string(ProbeState state) {
  switch (state) {
    case ProbeState::no:
      return "no";
    case ProbeState::yes:
      return "yes";
    case ProbeState::unknown:
      return "unknown";
  }
  return "?";
}

const std::vector<Probe>& kernel_probes() {
  static const std::vector<Probe> kProbes = [] {
    std::vector<Probe> out;
    for (const Entry& entry : entries()) out.push_back(entry.probe);
    return out;
  }();
  return kProbes;
}

ProbeResult probe(std::string_view name) {
  std::lock_guard guard(cache_lock);
  if (auto it = forced.find(name); it != forced.end()) return it->second;
  if (auto it = cache.find(name); it != cache.end()) return it->second;
  for (const Entry& entry : entries()) {
    if (entry.probe.name != name) continue;
    ProbeResult result = entry.run();
    if (result.state == ProbeState::yes || !entry.may_pass) cache[std::string(name)] = result;
    return result;
  }
  return {ProbeState::unknown, "no such probe"};
}

void force_probe(std::string_view name, ProbeState state) {
  std::lock_guard guard(cache_lock);
  forced[std::string(name)] = {state, "forced for a test"};
}

void unforce_probes() {
  std::lock_guard guard(cache_lock);
  forced.clear();
}

}  // namespace mose
