// SPDX-License-Identifier: MIT
#include "kernel/listen_queues.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <functional>
#include <vector>

#include "kernel/netns.h"

namespace mose {
namespace {

constexpr size_t kReadBytes = 32u << 10;  // what the kernel fills at a time
constexpr timeval kAnswerBound{.tv_sec = 1, .tv_usec = 0};
constexpr std::array<int, 2> kFamilies{AF_INET, AF_INET6};

struct Request {
  nlmsghdr header;
  inet_diag_req_v2 body;
};

// Every TCP socket of `family` in one of `states`, in the order of the kernel's tables.
Status each_socket(int netlink, int family, uint32_t states, const std::function<void(const inet_diag_msg&)>& take) {
  Request request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = static_cast<uint8_t>(family);
  request.body.sdiag_protocol = IPPROTO_TCP;
  request.body.idiag_states = states;
  if (send(netlink, &request, sizeof request, 0) < 0) return fail_errno("ask for TCP sockets");
  alignas(nlmsghdr) std::array<char, kReadBytes> buffer;
  for (;;) {
    ssize_t count = recv(netlink, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno("read TCP sockets");
    auto left = static_cast<unsigned>(count);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return {};
      if (header->nlmsg_type == NLMSG_ERROR) {
        return fail_errno("list TCP sockets", -static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error);
      }
      take(*static_cast<const inet_diag_msg*>(NLMSG_DATA(header)));
    }
  }
}

}  // namespace

Result<ListenQueues> ListenQueues::open(int netns) {
  return in_netns_get<ListenQueues>(netns, []() -> Result<ListenQueues> {
    Fd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink) return fail_errno("open sock_diag");
    // Whoever waits for this also keeps new connections waiting.
    if (setsockopt(netlink.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerBound, sizeof kAnswerBound) < 0) {
      return fail_errno("bound the wait for sock_diag");
    }
    return ListenQueues(std::move(netlink));
  });
}

Result<WaitingConnections> ListenQueues::read() const {
  WaitingConnections waiting;
  uint32_t longest = 0;
  for (int family : kFamilies) {
    uint32_t listeners = 0, half_open = 0;
    MOSE_TRY(each_socket(socket_.get(), family, 1u << TCP_LISTEN, [&](const inet_diag_msg&) { ++listeners; }));
    if (listeners == 0) continue;  // requests have the family of their listener
    MOSE_TRY(each_socket(socket_.get(), family, 1u << TCP_SYN_RECV, [&](const inet_diag_msg&) { ++half_open; }));
    MOSE_TRY(each_socket(socket_.get(), family, 1u << TCP_LISTEN, [&](const inet_diag_msg& listener) {
      waiting.not_accepted += listener.idiag_rqueue;
      if (listener.idiag_rqueue > longest) {
        longest = listener.idiag_rqueue;
        waiting.port = ntohs(listener.id.idiag_sport);
      }
    }));
    waiting.listeners += listeners;
    waiting.half_open += half_open;
  }
  return waiting;
}

}  // namespace mose
