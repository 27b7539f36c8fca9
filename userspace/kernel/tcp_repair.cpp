// SPDX-License-Identifier: MIT
#include "kernel/tcp_repair.h"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace mose {
namespace {

int option(int fd, int level, int name, int missing) {
  int value = 0;
  socklen_t length = sizeof value;
  return ::getsockopt(fd, level, name, &value, &length) < 0 ? missing : value;
}

bool listening(int fd) { return option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0) != 0; }

// One descriptor of a process. The duplicate must go at once: it would keep the socket alive after the owner's close.
void switch_one(const ProcessHandle& process, int number, bool on, RepairCount& count) {
  int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, process.fd(), number, 0u));
  if (fd < 0) return;  // closed meanwhile
  Fd copy(fd);
  if (option(fd, SOL_SOCKET, SO_PROTOCOL, -1) != IPPROTO_TCP) return;
  ++count.tcp_sockets;
  int present = option(fd, IPPROTO_TCP, TCP_REPAIR, -1);
  if (present < 0 || (present == 1) == on || listening(fd)) return;
  int wanted = on ? 1 : 0;
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &wanted, sizeof wanted) == 0)
    ++count.changed;
  else
    ++count.failed;
}

}  // namespace

Result<RepairCount> set_tcp_repair(const std::vector<ProcessHandle>& processes, bool on) {
  RepairCount count;
  for (const ProcessHandle& process : processes) {
    std::string path = "/proc/" + std::to_string(process.pid()) + "/fd";
    DIR* dir = ::opendir(path.c_str());
    if (!dir) {
      if (!process.alive()) continue;
      return fail_errno("list descriptors in " + path);
    }
    while (dirent* entry = ::readdir(dir)) {
      if (entry->d_name[0] == '.') continue;
      char target[64];
      ssize_t n = ::readlinkat(::dirfd(dir), entry->d_name, target, sizeof target);
      if (n < 7 || std::string_view(target, 7) != "socket:") continue;
      switch_one(process, std::atoi(entry->d_name), on, count);
    }
    ::closedir(dir);
  }
  return count;
}

}  // namespace mose
