// SPDX-License-Identifier: MIT
#include "lab/link_check.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/clock.h"
#include "kernel/netns.h"

namespace mose::lab {
namespace {

constexpr uint16_t kPort = 7401;
constexpr int kEchoes = 21, kEchoesFirst = 3;
constexpr int kEchoBoundMs = 5000;
constexpr Nanoseconds kWarm = std::chrono::milliseconds(700), kMeasured = std::chrono::milliseconds(1000);
constexpr int kBufferBytes = 8 << 20;
// A full segment: payload with timestamps, and what it is as a frame.
constexpr double kSegmentPayload = 1448, kSegmentFrame = 1514;

sockaddr_in address_of(const std::string& node) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(kPort);
  ::inet_pton(AF_INET, node_address(node).c_str(), &out.sin_addr);
  return out;
}

// A socket of the node's network namespace, ours to use from here.
Result<Fd> socket_in(const Names& names, const std::string& node, int type, bool bound) {
  MOSE_ASSIGN(auto ns, open_file(names.netns_path(node), O_RDONLY));
  return in_netns_get<Fd>(ns.get(), [&]() -> Result<Fd> {
    Fd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno("socket");
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &kBufferBytes, sizeof kBufferBytes);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &kBufferBytes, sizeof kBufferBytes);
    if (type == SOCK_STREAM) ::setsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    sockaddr_in here = address_of(node);
    if (bound && ::bind(fd.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) return fail_errno("bind");
    return fd;
  });
}

Status wait_readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  if (::poll(&p, 1, kEchoBoundMs) == 1) return {};
  return fail_errno("nothing comes through the link", ETIMEDOUT);
}

Result<double> measure_rtt(const Names& names) {
  MOSE_ASSIGN(auto a, socket_in(names, "a", SOCK_DGRAM, true));
  MOSE_ASSIGN(auto b, socket_in(names, "b", SOCK_DGRAM, true));
  std::vector<double> times;
  for (int i = 0; i < kEchoes + kEchoesFirst; ++i) {
    char byte = 'x';
    sockaddr_in to = address_of("b"), back = address_of("a");
    Timestamp begin = now();
    if (::sendto(a.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) != 1) return fail_errno("sendto");
    MOSE_TRY(wait_readable(b.get()));
    if (::recv(b.get(), &byte, 1, 0) != 1) return fail_errno("recv");
    if (::sendto(b.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&back), sizeof back) != 1)
      return fail_errno("sendto");
    MOSE_TRY(wait_readable(a.get()));
    if (::recv(a.get(), &byte, 1, 0) != 1) return fail_errno("recv");
    if (i >= kEchoesFirst) times.push_back(to_ms(now() - begin));
  }
  std::nth_element(times.begin(), times.begin() + kEchoes / 2, times.end());
  return times[kEchoes / 2];
}

Result<double> measure_rate(const Names& names) {
  MOSE_ASSIGN(auto listener, socket_in(names, "b", SOCK_STREAM, true));
  if (::listen(listener.get(), 1) != 0) return fail_errno("listen");
  MOSE_ASSIGN(auto sender, socket_in(names, "a", SOCK_STREAM, false));
  sockaddr_in to = address_of("b");
  if (::connect(sender.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
    return fail_errno("connect over the link");
  Fd receiver(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!receiver) return fail_errno("accept");
  std::string data(256u << 10, 'x'), sink(1u << 20, '\0');
  uint64_t bytes = 0;
  Timestamp begin = now(), last = begin;
  bool counting = false;
  while (!counting || last < begin + kMeasured) {
    pollfd fds[2] = {{sender.get(), POLLOUT, 0}, {receiver.get(), POLLIN, 0}};
    if (::poll(fds, 2, kEchoBoundMs) <= 0) return fail_errno("nothing comes through the link", ETIMEDOUT);
    if (fds[0].revents && ::send(sender.get(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
        errno != EAGAIN) {
      return fail_errno("send over the link");
    }
    if (!fds[1].revents) continue;
    ssize_t n = ::recv(receiver.get(), sink.data(), sink.size(), MSG_DONTWAIT);
    if (n == 0) return fail_errno("the stream over the link ended", EPIPE);
    if (n < 0 && errno != EAGAIN) return fail_errno("recv over the link");
    if (n < 0) continue;
    last = now();
    if (counting) {
      bytes += static_cast<uint64_t>(n);
    } else if (last >= begin + kWarm) {
      counting = true;  // what came until here came before
      begin = last;
    }
  }
  double seconds = to_ms(last - begin) / 1000;
  return static_cast<double>(bytes) * 8 / 1e6 / seconds * kSegmentFrame / kSegmentPayload;
}

}  // namespace

Result<LinkFigures> measure_link(const Names& names, bool with_rate) {
  LinkFigures out;
  MOSE_ASSIGN(out.rtt_ms, measure_rtt(names));
  if (!with_rate) return out;
  MOSE_ASSIGN(out.rate_mbit, measure_rate(names));
  return out;
}

double link_error(const LinkFigures& figures, std::optional<double> rate_mbit, std::optional<double> rtt_ms) {
  double error = 0;
  if (rtt_ms) error = std::max(error, std::abs(figures.rtt_ms / *rtt_ms - 1));
  if (rate_mbit && figures.rate_mbit) error = std::max(error, std::abs(*figures.rate_mbit / *rate_mbit - 1));
  return error;
}

}  // namespace mose::lab
