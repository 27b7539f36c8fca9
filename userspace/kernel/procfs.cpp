// SPDX-License-Identifier: MIT
#include "kernel/procfs.h"

#include <dirent.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

#include "base/directory.h"
#include "base/fd.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"

namespace mose {
namespace {

// The text in front of `separator`; `text` goes on behind it. Without a separator everything is taken.
std::string_view take_until(std::string_view& text, char separator) {
  size_t at = text.find(separator);
  std::string_view token = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
  return token;
}

std::optional<uint64_t> parse_number(std::string_view text, int base) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<PageRun> parse_range(std::string_view text) {
  auto start = parse_number(take_until(text, '-'), 16);
  auto end = parse_number(text, 16);
  if (!start || !end || *end <= *start || *start % kPageSize != 0 || *end % kPageSize != 0) return std::nullopt;
  return PageRun{*start / kPageSize, (*end - *start) / kPageSize};
}

VmaKind classify(bool shared, uint64_t inode, std::string_view device, std::string_view name) {
  bool bracketed = name.starts_with('[');
  if (shared) return bracketed && name != "[aio]" && !name.starts_with("[anon_shmem") ? VmaKind::special : VmaKind::shared;
  if (inode != 0 || device != "00:00" || name.starts_with('/')) return VmaKind::file_private;
  // "[stack:TID]" of old kernels, "[anon:NAME]" of prctl(PR_SET_VMA). Every other bracket is the kernel's own.
  if (name.empty() || name == "[heap]" || name.starts_with("[stack") || name.starts_with("[anon:")) return VmaKind::anonymous;
  return VmaKind::special;
}

std::optional<Vma> parse_line(std::string_view line) {
  Vma vma;
  auto range = parse_range(take_until(line, ' '));
  std::string_view permissions = take_until(line, ' ');
  auto offset = parse_number(take_until(line, ' '), 16);
  std::string_view device = take_until(line, ' ');
  auto inode = parse_number(take_until(line, ' '), 10);
  if (!range || permissions.size() != 4 || !offset || !inode) return std::nullopt;
  size_t name_at = line.find_first_not_of(' ');
  if (name_at != std::string_view::npos) vma.name = line.substr(name_at);
  vma.pages = *range;
  vma.read = permissions[0] == 'r';
  vma.write = permissions[1] == 'w';
  vma.exec = permissions[2] == 'x';
  vma.inode = *inode;
  vma.file_offset = *offset;
  vma.kind = classify(permissions[3] == 's', *inode, device, vma.name);
  return vma;
}

// "VmLck:\t  12 kB" -> 12; 0 when the field is missing.
uint64_t kilobytes(std::string_view status, std::string_view field) {
  for (size_t at = status.find(field); at != std::string_view::npos; at = status.find(field, at + 1)) {
    if (at != 0 && status[at - 1] != '\n') continue;
    std::string_view rest = status.substr(at + field.size());
    rest.remove_prefix(std::min(rest.find_first_of("0123456789"), rest.size()));
    return parse_number(take_until(rest, ' '), 10).value_or(0);
  }
  return 0;
}

// /proc files of a process that has just ended fail with ESRCH on read and ENOENT on open: both mean the same.
std::unexpected<Error> gone(Error error) {
  if (error.code == ENOENT) error.code = ESRCH;
  return std::unexpected(std::move(error));
}

Result<std::string> read_proc(pid_t pid, const char* leaf) {
  auto text = read_file(proc_path(pid, leaf));
  if (!text) return gone(std::move(text.error()));
  return text;
}

struct Stat {
  char state = '?';
  uint64_t flags = 0;  // of the kernel's task
  uint64_t start_time = 0;
};
constexpr uint64_t kFlagExiting = 0x4;  // PF_EXITING, which no header of user space has

// The command name may hold anything, so fields are counted from behind the last parenthesis.
Result<Stat> read_stat(pid_t pid) {
  MOSE_ASSIGN(std::string text, read_proc(pid, "stat"));
  size_t at = text.rfind(')');
  if (at == std::string::npos || at + 2 >= text.size()) return fail("/proc/PID/stat is not understood");
  std::string_view rest = std::string_view(text).substr(at + 2);
  Stat stat;
  stat.state = rest[0];
  constexpr int kFlags = 6, kStartTime = 19;  // fields behind the command's name
  for (int i = 0; i < kStartTime; ++i) {
    std::string_view field = take_until(rest, ' ');
    if (i == kFlags) stat.flags = parse_number(field, 10).value_or(0);
  }
  auto start = parse_number(take_until(rest, ' '), 10);
  if (!start) return fail("/proc/PID/stat is not understood");
  stat.start_time = *start;
  return stat;
}

const Vma* find_vma(const std::vector<Vma>& vmas, uint64_t page) {
  auto it = std::upper_bound(vmas.begin(), vmas.end(), page,
                             [](uint64_t p, const Vma& vma) { return p < vma.pages.first; });
  if (it == vmas.begin()) return nullptr;
  --it;
  return page < it->pages.end() ? &*it : nullptr;
}

// The stack pointer of a thread that does not run: last but one word of its `syscall` file.
std::optional<uint64_t> stack_pointer(const std::string& task_dir) {
  auto text = read_file(task_dir + "/syscall");
  if (!text) return std::nullopt;
  std::string_view rest = *text;
  while (rest.ends_with('\n')) rest.remove_suffix(1);
  size_t pc_at = rest.rfind(' ');
  if (pc_at == std::string_view::npos) return std::nullopt;  // "running"
  rest = rest.substr(0, pc_at);
  size_t sp_at = rest.rfind(' ');
  rest = rest.substr(sp_at == std::string_view::npos ? 0 : sp_at + 1);
  if (!rest.starts_with("0x")) return std::nullopt;
  return parse_number(rest.substr(2), 16);
}

}  // namespace

std::vector<int> numbers_in(const std::string& directory) {
  std::vector<int> numbers;
  Directory dir = open_directory(directory);
  if (!dir) return numbers;
  while (dirent* item = readdir(dir.get())) {
    std::string_view name = item->d_name;
    int number = 0;
    auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error == std::errc() && end == name.data() + name.size()) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

Result<std::vector<Vma>> parse_maps(std::string_view text) {
  std::vector<Vma> vmas;
  while (!text.empty()) {
    std::string_view line = take_until(text, '\n');
    auto vma = parse_line(line);
    if (!vma) return fail("line of maps is not understood: " + std::string(line));
    vmas.push_back(std::move(*vma));
  }
  return vmas;
}

void for_each_flags(std::string_view smaps, const std::function<void(PageRun, std::string_view)>& visit) {
  constexpr std::string_view kLabel = "VmFlags: ";
  std::optional<PageRun> current;
  while (!smaps.empty()) {
    std::string_view line = take_until(smaps, '\n');
    std::string_view head = line;
    if (auto range = parse_range(take_until(head, ' '))) current = range;
    else if (current && line.starts_with(kLabel)) visit(*current, line.substr(kLabel.size()));
  }
}

Status add_vma_flags(std::vector<Vma>& vmas, std::string_view smaps) {
  for_each_flags(smaps, [&](PageRun pages, std::string_view words) {
    auto* vma = const_cast<Vma*>(find_vma(vmas, pages.first));
    if (vma == nullptr) return;
    while (!words.empty()) {
      std::string_view word = take_until(words, ' ');
      if (word == "lo") vma->locked = true;
      if (word == "ht") vma->hugetlb = true;
    }
  });
  return {};
}

Result<std::vector<Vma>> read_vmas(pid_t pid) {
  MOSE_ASSIGN(std::string text, read_proc(pid, "maps"));
  MOSE_ASSIGN(std::vector<Vma> vmas, parse_maps(text));
  if (vmas.empty()) return vmas;
  MOSE_ASSIGN(std::string status, read_proc(pid, "status"));
  if (kilobytes(status, "VmLck:") != 0 || kilobytes(status, "HugetlbPages:") != 0) {
    MOSE_ASSIGN(std::string smaps, read_proc(pid, "smaps"));
    MOSE_TRY(add_vma_flags(vmas, smaps));
  }
  return vmas;
}

PageSet lazy_pages(const std::vector<Vma>& vmas) {
  PageSet set;
  for (const Vma& vma : vmas) {
    if (vma.lazy_eligible()) set.add(vma.pages);
  }
  return set;
}

Result<uint64_t> process_start_time(pid_t pid) {
  MOSE_ASSIGN(Stat stat, read_stat(pid));
  return stat.start_time;
}

namespace {

Status check_same(const SpaceProcess& process, const Stat& stat) {
  if (process.start_time == 0 || stat.start_time == process.start_time) return {};
  return std::unexpected(Error{ESRCH, "process " + std::to_string(process.pid) + " has ended"});
}

}  // namespace

Status check_same_process(const SpaceProcess& process) {
  if (process.start_time == 0) return {};
  MOSE_ASSIGN(Stat stat, read_stat(process.pid));
  return check_same(process, stat);
}

Status check_not_ending(const SpaceProcess& process) {
  if (!process.object.empty()) return {};  // it keeps what it holds as long as it is open
  MOSE_ASSIGN(Stat stat, read_stat(process.pid));
  MOSE_TRY(check_same(process, stat));
  MOSE_ASSIGN(std::string status, read_proc(process.pid, "status"));
  const bool ending = (stat.flags & kFlagExiting) != 0 || stat.state == 'Z' || stat.state == 'X' || (pending_signals(status) >> (SIGKILL - 1) & 1) != 0;
  if (!ending) return {};
  return std::unexpected(Error{ESRCH, "process " + std::to_string(process.pid) + " is ending"});
}

bool is_zombie(pid_t pid) {
  auto stat = read_stat(pid);
  return stat && (stat->state == 'Z' || stat->state == 'X');
}

Result<SpaceProcess> space_of(pid_t pid) {
  MOSE_ASSIGN(std::vector<pid_t> numbers, numbers_of(pid));
  SpaceProcess process;
  process.space = static_cast<SpaceId>(numbers.back());
  process.pid = pid;
  MOSE_ASSIGN(process.start_time, process_start_time(pid));
  return process;
}

Result<std::vector<SpaceProcess>> cgroup_spaces(const std::string& cgroup_dir) {
  MOSE_ASSIGN(std::string text, read_file(cgroup_dir + "/cgroup.procs"));
  std::vector<SpaceProcess> processes;
  std::string_view rest = text;
  while (!rest.empty()) {
    auto pid = parse_number(take_until(rest, '\n'), 10);
    if (!pid) return fail(cgroup_dir + "/cgroup.procs is not understood");
    if (*pid == 0) return fail(cgroup_dir + " holds a process of another pid namespace");
    auto process = space_of(static_cast<pid_t>(*pid));
    if (process) {
      processes.push_back(*process);
    } else if (process.error().code != ESRCH) {
      return context(cgroup_dir, process.error());
    }
  }
  std::sort(processes.begin(), processes.end(),
            [](const SpaceProcess& a, const SpaceProcess& b) { return a.space < b.space; });
  return processes;
}

PageSet first_touched(pid_t pid, const std::vector<Vma>& vmas) {
  constexpr uint64_t kAboveStackPointer = 8;  // frames that return first
  constexpr uint64_t kTopPages = 4;           // glibc keeps TLS and struct pthread at the top of a thread's stack
  PageSet set;
  std::string tasks = proc_path(pid, "task");
  Directory dir = open_directory(tasks);
  if (!dir) return set;
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_name[0] == '.') continue;
    auto pointer = stack_pointer(tasks + "/" + entry->d_name);
    if (!pointer) continue;
    uint64_t page = *pointer / kPageSize;
    const Vma* vma = find_vma(vmas, page);
    if (vma == nullptr || !vma->lazy_eligible()) continue;
    uint64_t from = std::max(vma->pages.first, page - 1);
    uint64_t to = std::min(vma->pages.end(), page + kAboveStackPointer);
    set.add({from, to - from});
    uint64_t top = vma->pages.end() - std::min(vma->pages.count, kTopPages);
    set.add({top, vma->pages.end() - top});
  }
  return set;
}

}  // namespace mose
