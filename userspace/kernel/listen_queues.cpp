// SPDX-License-Identifier: MIT
#include "kernel/listen_queues.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>

namespace mose {
namespace {

constexpr std::array<int, 2> kFamilies{AF_INET, AF_INET6};

}  // namespace

Result<ListenQueues> ListenQueues::open(int netns) {
  MOSE_ASSIGN(SockDiag sockets, SockDiag::open(netns));
  return ListenQueues(std::move(sockets));
}

Result<WaitingConnections> ListenQueues::read() const {
  WaitingConnections waiting;
  uint32_t longest = 0;
  for (int family : kFamilies) {
    uint32_t listeners = 0, half_open = 0;
    MOSE_TRY(sockets_.each(family, 1u << TCP_LISTEN, [&](const inet_diag_msg&) { ++listeners; }));
    if (listeners == 0) continue;  // requests have the family of their listener
    MOSE_TRY(sockets_.each(family, 1u << TCP_SYN_RECV, [&](const inet_diag_msg&) { ++half_open; }));
    MOSE_TRY(sockets_.each(family, 1u << TCP_LISTEN, [&](const inet_diag_msg& listener) {
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
