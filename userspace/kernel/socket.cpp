// SPDX-License-Identifier: MIT
#include "kernel/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace mose {
namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family = 0;
};

Result<Address> parse_endpoint(const std::string& endpoint) {
  const std::string wrong = "'" + endpoint + "' is not an address with a port, e.g. 192.0.2.1:7946 or [2001:db8::1]:7946";
  size_t colon = endpoint.rfind(':');
  if (colon == std::string::npos || colon == 0) return fail(wrong);
  std::string host = endpoint.substr(0, colon);
  uint16_t port = 0;
  const char* port_end = endpoint.data() + endpoint.size();
  auto [end, error] = std::from_chars(endpoint.data() + colon + 1, port_end, port);
  if (error != std::errc{} || end != port_end) return fail(wrong);

  Address address;
  if (host.front() == '[' && host.back() == ']') {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    host = host.substr(1, host.size() - 2);
    if (inet_pton(AF_INET6, host.c_str(), &in6->sin6_addr) != 1) return fail(wrong);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    address.length = sizeof(*in6);
    address.family = AF_INET6;
  } else {
    auto* in4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    if (inet_pton(AF_INET, host.c_str(), &in4->sin_addr) != 1) return fail(wrong);
    in4->sin_family = AF_INET;
    in4->sin_port = htons(port);
    address.length = sizeof(*in4);
    address.family = AF_INET;
  }
  return address;
}

std::string format_endpoint(const sockaddr_storage& storage) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (storage.ss_family == AF_INET) {
    const auto* in4 = reinterpret_cast<const sockaddr_in*>(&storage);
    inet_ntop(AF_INET, &in4->sin_addr, text, sizeof(text));
    return std::string(text) + ":" + std::to_string(ntohs(in4->sin_port));
  }
  if (storage.ss_family == AF_INET6) {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
    return "[" + std::string(text) + "]:" + std::to_string(ntohs(in6->sin6_port));
  }
  return "local";
}

Status set_option(int socket, int level, int name, int value, const char* what) {
  if (setsockopt(socket, level, name, &value, sizeof(value)) != 0) return fail_errno(what);
  return {};
}

Status wait_connected(int socket, Nanoseconds bound) {
  const Timestamp end = now() + bound;
  for (;;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now()).count();
    pollfd poll_fd{socket, POLLOUT, 0};
    int ready = poll(&poll_fd, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return fail_errno("poll");
    if (ready == 0) return fail_errno("no answer", ETIMEDOUT);
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return fail_errno("getsockopt");
    if (error != 0) return fail_errno("connect", error);
    return {};
  }
}

}  // namespace

Status check_endpoint(const std::string& endpoint) {
  MOSE_TRY(parse_endpoint(endpoint));
  return {};
}

Result<Fd> tcp_connect(const std::string& endpoint, Nanoseconds bound) {
  MOSE_ASSIGN(Address address, parse_endpoint(endpoint));
  Fd socket(::socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("socket");
  MOSE_TRY(tune_migration_socket(socket.get()));
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0) {
    if (errno != EINPROGRESS) return fail_errno("connect to " + endpoint);
    if (auto connected = wait_connected(socket.get(), bound); !connected) return context(endpoint, connected.error());
  }
  MOSE_TRY(set_blocking(socket.get(), true));
  return socket;
}

Result<Fd> tcp_listen(const std::string& endpoint, int backlog) {
  MOSE_ASSIGN(Address address, parse_endpoint(endpoint));
  Fd socket(::socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("socket");
  MOSE_TRY(set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0) {
    return fail_errno("bind " + endpoint);
  }
  if (listen(socket.get(), backlog) != 0) return fail_errno("listen on " + endpoint);
  return socket;
}

Result<Accepted> tcp_accept(int listener, bool non_blocking) {
  sockaddr_storage peer{};
  socklen_t length = sizeof(peer);
  int flags = SOCK_CLOEXEC | (non_blocking ? SOCK_NONBLOCK : 0);
  Fd socket(accept4(listener, reinterpret_cast<sockaddr*>(&peer), &length, flags));
  if (!socket) {
    // A connection that was reset while it waited is as good as none.
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return Accepted{};
    return fail_errno("accept");
  }
  MOSE_TRY(tune_migration_socket(socket.get()));
  return Accepted{std::move(socket), format_endpoint(peer)};
}

Result<std::string> local_endpoint(int socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return fail_errno("getsockname");
  return format_endpoint(address);
}

std::string host_of(const std::string& endpoint) { return endpoint.substr(0, endpoint.rfind(':')); }

Status set_blocking(int socket, bool blocking) {
  int flags = fcntl(socket, F_GETFL);
  if (flags < 0) return fail_errno("F_GETFL");
  int wanted = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
  if (wanted != flags && fcntl(socket, F_SETFL, wanted) != 0) return fail_errno("F_SETFL");
  return {};
}

Result<size_t> unacknowledged_bytes(int socket) {
  int bytes = 0;
  if (::ioctl(socket, TIOCOUTQ, &bytes) != 0) return fail_errno("ask for unacknowledged bytes");
  return static_cast<size_t>(bytes);
}

namespace {

Result<tcp_info> tcp_state(int socket) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return fail_errno("ask for the state of a connection");
  return info;
}

}  // namespace

Result<Nanoseconds> round_trip_time(int socket) {
  MOSE_ASSIGN(tcp_info info, tcp_state(socket));
  return std::chrono::microseconds(info.tcpi_rtt);
}

Result<Unanswered> unanswered(int socket) {
  MOSE_ASSIGN(tcp_info info, tcp_state(socket));
  // One probe of a full window may be under way; a second one says that the first was not answered.
  return Unanswered{.data = info.tcpi_unacked != 0, .room = info.tcpi_probes > 1};
}

// Of Linux 6.15; older headers do not name it.
#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44
#endif

Status tune_migration_socket(int socket) {
  // Without these the connection still works, only slower to notice or to carry: their failure is none of ours.
  static_cast<void>(setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, "cubic", strlen("cubic")));
  // Pauses between retransmissions double without it: a link that was away for five seconds was used again after another five,
  // and a workload may stand still meanwhile. A kernel that does not know it keeps the doubling.
  constexpr int kRetransmitEachMs = 1000;
  static_cast<void>(setsockopt(socket, IPPROTO_TCP, TCP_RTO_MAX_MS, &kRetransmitEachMs, sizeof kRetransmitEachMs));
  MOSE_TRY(set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
  MOSE_TRY(set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"));
  MOSE_TRY(set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 2, "TCP_KEEPIDLE"));
  MOSE_TRY(set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 1, "TCP_KEEPINTVL"));
  MOSE_TRY(set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 5, "TCP_KEEPCNT"));
  int timeout_ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(kUserTimeout).count());
  return set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms, "TCP_USER_TIMEOUT");
}

Status set_unsent_max(int socket, unsigned bytes) {
  return set_option(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, static_cast<int>(bytes), "TCP_NOTSENT_LOWAT");
}

}  // namespace mose
