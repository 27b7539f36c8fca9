// SPDX-License-Identifier: MIT
#include "kernel/vfork.h"

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "kernel/procfs.h"

namespace mose {
namespace {

// Of the two memories in the kernel's order of them: 0 the same, 1 before, 2 behind; -1 with errno.
long compare_spaces(pid_t a, pid_t b) { return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0); }

}  // namespace

Result<pid_t> first_vforked(const std::vector<pid_t>& processes) {
  std::vector<pid_t> ordered;  // one of each memory
  for (const pid_t pid : processes) {
    size_t from = 0, to = ordered.size();
    while (from < to) {
      const size_t middle = from + (to - from) / 2;
      const long order = compare_spaces(pid, ordered[middle]);
      if (order < 0 && errno == ESRCH) break;
      if (order < 0) return fail_errno("compare the memory of process " + std::to_string(pid) + " with another's");
      if (order == 0) {
        if (!is_zombie(pid) && !is_zombie(ordered[middle])) return pid;
        break;
      }
      (order == 1 ? to : from) = order == 1 ? middle : middle + 1;
    }
    if (from == to) ordered.insert(ordered.begin() + static_cast<std::ptrdiff_t>(from), pid);
  }
  return 0;
}

}  // namespace mose
