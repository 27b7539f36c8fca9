// SPDX-License-Identifier: MIT
#include "kernel/tcp_repair.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/directory.h"
#include "kernel/proc_path.h"

namespace mose {
namespace {

int option(int fd, int level, int name, int missing) {
  int value = 0;
  socklen_t length = sizeof value;
  return ::getsockopt(fd, level, name, &value, &length) < 0 ? missing : value;
}

bool listening(int fd) { return option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0) != 0; }

bool unconnected(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_state == TCP_CLOSE;
}

// 0: none.
uint16_t local_port(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) < 0) return 0;
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
  return 0;
}

// Calls `visit` with a duplicate of each TCP socket, one after the other. The duplicate goes at once: it would keep the
// socket alive after the owner's close.
Status for_each_tcp_socket(const std::vector<ProcessHandle>& processes, const std::function<void(int)>& visit) {
  for (const ProcessHandle& process : processes) {
    std::string path = proc_path(process.pid(), "fd");
    Directory dir = open_directory(path);
    if (!dir && !process.alive()) continue;
    if (!dir) return fail_errno("list descriptors in " + path);
    while (dirent* entry = ::readdir(dir.get())) {
      if (entry->d_name[0] == '.') continue;
      char target[64];
      ssize_t n = ::readlinkat(::dirfd(dir.get()), entry->d_name, target, sizeof target);
      if (n < 7 || std::string_view(target, 7) != "socket:") continue;
      auto copy = process.descriptor(std::atoi(entry->d_name));
      if (!copy) continue;  // closed meanwhile
      if (option(copy->get(), SOL_SOCKET, SO_PROTOCOL, -1) == IPPROTO_TCP) visit(copy->get());
    }
  }
  return {};
}

// A socket that leaves repair mode has lost SO_REUSEADDR, and as long as it lives nobody could listen on its port again. Those
// that were accepted had it from their listener.
using ReuseByPort = std::map<uint16_t, int>;

void switch_one(int fd, bool on, const ReuseByPort& reuse, RepairCount& count) {
  ++count.tcp_sockets;
  int present = option(fd, IPPROTO_TCP, TCP_REPAIR, -1);
  if (present < 0 || (present == 1) == on || listening(fd) || (on && unconnected(fd))) return;
  int wanted = on ? 1 : 0;
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &wanted, sizeof wanted) != 0) {
    ++count.failed;
    return;
  }
  ++count.changed;
  auto listener = on ? reuse.end() : reuse.find(local_port(fd));
  if (listener != reuse.end()) (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &listener->second, sizeof listener->second);
}

}  // namespace

Result<RepairCount> set_tcp_repair(const std::vector<ProcessHandle>& processes, bool on) {
  ReuseByPort reuse;
  if (!on) {
    MOSE_TRY(for_each_tcp_socket(processes, [&](int fd) {
      if (listening(fd)) reuse[local_port(fd)] = option(fd, SOL_SOCKET, SO_REUSEADDR, 0);
    }));
  }
  RepairCount count;
  MOSE_TRY(for_each_tcp_socket(processes, [&](int fd) { switch_one(fd, on, reuse, count); }));
  return count;
}

}  // namespace mose
