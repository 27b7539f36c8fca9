// SPDX-License-Identifier: MIT
#include "kernel/inspect_sockets.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/unix_diag.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "kernel/netns.h"

namespace mose {
namespace {

constexpr size_t kReadBytes = 64u << 10;

struct DumpRequest {
  nlmsghdr header;
  unix_diag_req body;
};

Status send_request(int socket) {
  DumpRequest request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0u;
  request.body.udiag_show = UDIAG_SHOW_PEER;
  if (send(socket, &request, sizeof request, 0) < 0) return fail_errno("ask for unix sockets");
  return {};
}

void take_socket(UnixPeers& peers, const nlmsghdr& header) {
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(&header));
  std::optional<uint64_t>& peer = peers[message->udiag_ino];
  int left = static_cast<int>(header.nlmsg_len) - static_cast<int>(NLMSG_LENGTH(sizeof *message));
  auto* attribute = reinterpret_cast<const rtattr*>(message + 1);
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    uint32_t inode;
    if (attribute->rta_type != UNIX_DIAG_PEER || RTA_PAYLOAD(attribute) < sizeof inode) continue;
    memcpy(&inode, RTA_DATA(attribute), sizeof inode);
    peer = inode;
  }
}

Result<UnixPeers> read_unix_sockets() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!socket) return fail_errno("open sock_diag");
  MOSE_TRY(send_request(socket.get()));
  UnixPeers peers;
  std::vector<char> buffer(kReadBytes);
  for (;;) {
    ssize_t count = recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno("read unix sockets");
    auto left = static_cast<unsigned>(count);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return peers;
      if (header->nlmsg_type == NLMSG_ERROR) {
        int code = -static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error;
        return fail_errno("list unix sockets", code);
      }
      take_socket(peers, *header);
    }
  }
}

}  // namespace

Result<UnixPeers> unix_peers(int netns) {
  return in_netns_get<UnixPeers>(netns, read_unix_sockets);
}

Result<SocketFacts> socket_facts(const ProcessHandle& process, int fd, int netns) {
  MOSE_ASSIGN(Fd socket, process.descriptor(fd));
  SocketFacts facts;
  auto ask = [&](int option, int& value) {
    socklen_t length = sizeof value;
    return getsockopt(socket.get(), SOL_SOCKET, option, &value, &length) == 0;
  };
  if (!ask(SO_DOMAIN, facts.family) || !ask(SO_TYPE, facts.type)) return fail_errno("ask a socket");
  (void)ask(SO_PROTOCOL, facts.protocol);
  Fd namespace_of(ioctl(socket.get(), SIOCGSKNS));
  if (namespace_of) {
    MOSE_ASSIGN(facts.same_netns, same_namespace(namespace_of.get(), netns));
  }
  return facts;
}

}  // namespace mose
