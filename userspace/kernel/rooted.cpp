// SPDX-License-Identifier: MIT
#include "kernel/rooted.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace mose {

Result<Fd> open_in_root(const std::string& root, const std::string& path, int flags) {
  MOSE_ASSIGN(Fd base, open_file(root, O_PATH | O_DIRECTORY));
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  Fd fd(static_cast<int>(::syscall(SYS_openat2, base.get(), path.c_str(), &how, sizeof how)));
  if (!fd) return fail_errno(path + " in " + root);
  return fd;
}

Result<Fd> mount_alone(const std::string& path) {
  Fd mount(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!mount) return fail_errno("clone the mount of " + path);
  return mount;
}

}  // namespace mose
