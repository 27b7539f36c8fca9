// SPDX-License-Identifier: MIT
#include "kernel/sock_diag.h"

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <utility>
#include <vector>

#include "kernel/netns.h"

namespace mose {
namespace {

constexpr size_t kReadBytes = 32u << 10;  // what the kernel fills at a time
constexpr timeval kAnswerBound{.tv_sec = 1, .tv_usec = 0};
constexpr uint32_t kAllStates = ~0u, kListening = 1u << TCP_LISTEN;

struct Request {
  nlmsghdr header;
  inet_diag_req_v2 body;
};

Request request_for(uint16_t type, uint16_t flags, int family) {
  Request request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = type;
  request.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  request.body.sdiag_family = static_cast<uint8_t>(family);
  request.body.sdiag_protocol = IPPROTO_TCP;
  return request;
}

// Hands `take` each answer but the last one, and gives that one's error number (0: none).
Result<int> exchange(int netlink, const Request& request, const std::function<void(const inet_diag_msg&)>& take) {
  if (send(netlink, &request, sizeof request, 0) < 0) return fail_errno("ask for TCP sockets");
  alignas(nlmsghdr) std::array<char, kReadBytes> buffer;
  for (;;) {
    ssize_t count = recv(netlink, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno("read TCP sockets");
    auto left = static_cast<unsigned>(count);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return 0;
      if (header->nlmsg_type == NLMSG_ERROR) return -static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error;
      take(*static_cast<const inet_diag_msg*>(NLMSG_DATA(header)));
    }
  }
}

}  // namespace

Result<SockDiag> SockDiag::open(int netns) {
  return in_netns_get<SockDiag>(netns, []() -> Result<SockDiag> {
    Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink) return fail_errno("open sock_diag");
    // Whoever waits for this also keeps connections waiting.
    if (setsockopt(netlink.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerBound, sizeof kAnswerBound) < 0) {
      return fail_errno("bound the wait for sock_diag");
    }
    return SockDiag(std::move(netlink));
  });
}

Status SockDiag::each(int family, uint32_t states, const std::function<void(const inet_diag_msg&)>& take) const {
  Request request = request_for(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
  request.body.idiag_states = states;
  MOSE_ASSIGN(int code, exchange(socket_.get(), request, take));
  if (code != 0) return fail_errno("list TCP sockets", code);
  return {};
}

Result<size_t> SockDiag::destroy_connections() const {
  size_t ended = 0;
  for (int family : {AF_INET, AF_INET6}) {
    std::vector<inet_diag_sockid> found;
    MOSE_TRY(each(family, kAllStates & ~kListening, [&](const inet_diag_msg& socket) { found.push_back(socket.id); }));
    for (const inet_diag_sockid& id : found) {
      Request request = request_for(SOCK_DESTROY, NLM_F_ACK, family);
      request.body.idiag_states = kAllStates;
      request.body.id = id;
      MOSE_ASSIGN(int code, exchange(socket_.get(), request, [](const inet_diag_msg&) {}));
      if (code == ENOENT) continue;  // it has gone meanwhile
      if (code != 0) return fail_errno("end a TCP socket", code);
      ++ended;
    }
  }
  return ended;
}

}  // namespace mose
