// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/dirty_source.h"
#include "model/page_set.h"

// What /proc says of a process' memory.
namespace mose {

enum class VmaKind : uint8_t {
  anonymous,     // private anonymous: heap, stacks, bss, mmap
  special,       // vdso, vvar, vsyscall and the like: made by the kernel
  file_private,  // private mapping of a file; its written pages are the process' own
  shared,        // shared with anybody who maps the same object: file, memfd, SysV, shared anonymous
};

struct Vma {
  PageRun pages;
  VmaKind kind = VmaKind::anonymous;
  bool read = false, write = false, exec = false;
  bool locked = false, hugetlb = false;  // known only after add_vma_flags()
  uint64_t inode = 0;
  uint64_t file_offset = 0;
  std::string name;  // as in maps: path, "[heap]", "[stack]", "[anon:...]"

  // CRIU registers such a region for lazy restore; everything else it restores eagerly.
  [[nodiscard]] bool lazy_eligible() const { return kind == VmaKind::anonymous && !locked && !hugetlb; }
};

// One text of /proc/PID/maps. Lines that do not parse are an error.
[[nodiscard]] Result<std::vector<Vma>> parse_maps(std::string_view text);
// Of every mapping that a text of /proc/PID/smaps describes: its pages, and the words behind "VmFlags: ", a blank behind each.
void for_each_flags(std::string_view smaps, const std::function<void(PageRun, std::string_view)>& visit);
// Sets `locked` and `hugetlb` from a text of /proc/PID/smaps of the same moment.
[[nodiscard]] Status add_vma_flags(std::vector<Vma>& vmas, std::string_view smaps);
// maps, and smaps only when the process has locked or huge pages at all (about ten times dearer). A process without
// memory (zombie) has no regions. ESRCH when there is no such process.
[[nodiscard]] Result<std::vector<Vma>> read_vmas(pid_t pid);
// The pages of the lazy-eligible regions.
[[nodiscard]] PageSet lazy_pages(const std::vector<Vma>& vmas);

// Start time in clock ticks since boot; ESRCH when there is no such process.
[[nodiscard]] Result<uint64_t> process_start_time(pid_t pid);
// ESRCH when the process is gone or its number names another one.
[[nodiscard]] Status check_same_process(const SpaceProcess& process);
// ESRCH as well when its end has begun or is certain: its page tables empty themselves from then on, and what they say is
// missing means nothing. Asked after a look at them, success makes that look good.
[[nodiscard]] Status check_not_ending(const SpaceProcess& process);
// True for a process that has ended but was not reaped.
[[nodiscard]] bool is_zombie(pid_t pid);
// The processes of a cgroup directory with their spaces, ascending by space. Processes that end meanwhile are left out.
[[nodiscard]] Result<std::vector<SpaceProcess>> cgroup_spaces(const std::string& cgroup_dir);
[[nodiscard]] Result<SpaceProcess> space_of(pid_t pid);

// Pages that the threads of a stopped process touch first when they go on: around their stack pointers and, where the
// thread library keeps its block, at the top of those regions. A hint: what cannot be read is left out.
[[nodiscard]] PageSet first_touched(pid_t pid, const std::vector<Vma>& vmas);

}  // namespace mose
