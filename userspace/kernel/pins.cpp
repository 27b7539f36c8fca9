// SPDX-License-Identifier: MIT
#include "kernel/pins.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <charconv>
#include <memory>
#include <string_view>

#include "base/directory.h"
#include "base/fd.h"
#include "kernel/procfs.h"

namespace mose {
namespace {

constexpr int kAfXdp = 44;

// Direct I/O shows in the octal flags of fdinfo.
bool opened_direct(const std::string& fdinfo) {
  auto text = read_file(fdinfo, 1u << 16);
  if (!text) return false;  // closed meanwhile
  size_t at = text->find("flags:");
  if (at == std::string::npos) return false;
  at = text->find_first_of("01234567", at);
  unsigned long flags = 0;
  std::from_chars(text->data() + at, text->data() + text->size(), flags, 8);
  return (flags & O_DIRECT) != 0;
}

// null, zero, full, random, urandom, and terminals copy, they do not pin.
bool copies_only(dev_t device) {
  const unsigned high = major(device), low = minor(device);
  if (high == 1) return low == 3 || low == 5 || low == 7 || low == 8 || low == 9;
  return high == 4 || high == 5 || (high >= 136 && high <= 143);
}

// /proc does not say of what family a socket is: a duplicate is asked, and closed at once.
bool is_xdp_socket(int pidfd, int fd) {
  Fd own(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, fd, 0)));
  int family = 0;
  socklen_t length = sizeof family;
  return own && getsockopt(own.get(), SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 && family == kAfXdp;
}

std::optional<std::string> pins_of(const std::string& proc, std::string_view number, int pidfd) {
  const std::string path = proc + "fd/" + std::string(number);
  char target[256];
  ssize_t length = readlink(path.c_str(), target, sizeof target);
  if (length < 0) return std::nullopt;  // closed meanwhile
  std::string_view link(target, static_cast<size_t>(length));
  if (link.starts_with("socket:")) {
    int fd = 0;
    std::from_chars(number.data(), number.data() + number.size(), fd);
    if (is_xdp_socket(pidfd, fd)) return "an AF_XDP socket holds its memory";
    return std::nullopt;
  }
  if (link.starts_with("anon_inode:")) {
    for (std::string_view kind : {"[io_uring]", "kvm", "[vfio", "iommufd"}) {
      if (link.find(kind) != std::string_view::npos)
        return "descriptor " + std::string(number) + " is " + std::string(link);
    }
    return std::nullopt;
  }
  if (!link.starts_with("/")) return std::nullopt;
  if (opened_direct(proc + "fdinfo/" + std::string(number))) return std::string(link) + " is open for direct I/O";
  if (!link.starts_with("/dev/")) return std::nullopt;
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISCHR(info.st_mode) || copies_only(info.st_rdev)) return std::nullopt;
  return "the device " + std::string(link) + " is open";
}

}  // namespace

std::optional<std::string> pinned_memory(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid) + "/";
  auto vmas = read_vmas(pid);
  if (!vmas) return "its memory map cannot be read";
  for (const Vma& vma : *vmas) {
    if (vma.name == "[aio]" || vma.name.starts_with("/[aio]")) return "it uses asynchronous I/O";
    if (vma.name.find("[io_uring]") != std::string::npos) return "it uses io_uring";
  }
  Directory dir = open_directory(proc + "fd");
  if (!dir) return "its descriptors cannot be read";
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  while (const dirent* entry = readdir(dir.get())) {
    if (entry->d_name[0] == '.') continue;
    if (auto pin = pins_of(proc, entry->d_name, pidfd.get())) return pin;
  }
  return std::nullopt;
}

}  // namespace mose
