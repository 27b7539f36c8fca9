// SPDX-License-Identifier: MIT
#include "kernel/socket_peer.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "base/fd.h"
#include "kernel/process.h"

namespace mose {
namespace {

constexpr int kSoPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5

// Of the very process that connected. An older kernel knows its number only, which would have to have been given to another one in the
// moment since then.
Result<Fd> pidfd_of(int socket, pid_t pid) {
  int fd = -1;
  socklen_t length = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &fd, &length) == 0) return Fd(fd);
  if (errno != ENOPROTOOPT) return fail_errno("find the process at the other end");
  fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u));
  if (fd < 0) return fail_errno("open process " + std::to_string(pid));
  return Fd(fd);
}

}  // namespace

Result<SocketPeer> socket_peer(int socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return fail_errno("ask who is at the other end");
  return SocketPeer{.uid = peer.uid, .gid = peer.gid, .pid = peer.pid};
}

Result<bool> peer_is_capable(int socket, const SocketPeer& peer, int capability) {
  MOSE_ASSIGN(Fd pidfd, pidfd_of(socket, peer.pid));
  MOSE_ASSIGN(ProcessHandle process, ProcessHandle::open(peer.pid));
  MOSE_ASSIGN(std::string effective, status_field(process, "CapEff"));
  MOSE_ASSIGN(Fd theirs, open_namespace(process, NamespaceKind::user));
  MOSE_ASSIGN(Fd ours, own_namespace(NamespaceKind::user));
  MOSE_ASSIGN(bool same, same_namespace(theirs.get(), ours.get()));
  // What was read is its own as long as it has not been reaped.
  if (::syscall(SYS_pidfd_send_signal, pidfd.get(), 0, nullptr, 0u) < 0 && errno == ESRCH)
    return fail_errno("look at process " + std::to_string(peer.pid), ESRCH);
  return same && ((std::strtoull(effective.c_str(), nullptr, 16) >> capability) & 1) != 0;
}

}  // namespace mose
