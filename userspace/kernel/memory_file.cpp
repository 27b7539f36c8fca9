// SPDX-License-Identifier: MIT
#include "kernel/memory_file.h"

#include <fcntl.h>
#include <sys/mount.h>

namespace mose {

// The mount is attached nowhere and lives as long as the file is open.
Result<Fd> huge_memory_file(const char* name) {
  Fd filesystem(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!filesystem) return fail_errno("fsopen tmpfs");
  // No bound of its own: a memfd has none either.
  for (auto [key, value] : {std::pair{"huge", "always"}, {"size", "0"}, {"mode", "0700"}}) {
    if (::fsconfig(filesystem.get(), FSCONFIG_SET_STRING, key, value, 0) != 0)
      return fail_errno("tmpfs with huge pages");
  }
  if (::fsconfig(filesystem.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return fail_errno("create a tmpfs");
  Fd mount(::fsmount(filesystem.get(), FSMOUNT_CLOEXEC, 0));
  if (!mount) return fail_errno("fsmount");
  Fd file(::openat(mount.get(), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return fail_errno("a file of memory");
  return file;
}

}  // namespace mose
