// SPDX-License-Identifier: MIT
#include "client/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

namespace mose::client {
namespace {

constexpr int kSendBufferBytes = 4 << 20;  // a minute of probe requests: the load stays open-loop through a long freeze
constexpr size_t kReceiveChunk = 256u << 10;

Status wait_for(int fd, short events, Nanoseconds bound) {
  pollfd p{fd, events, 0};
  int ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(bound).count());
  int n = ::poll(&p, 1, ms);
  if (n < 0) return fail_errno("poll");
  if (n == 0) return fail_errno("the server", ETIMEDOUT);
  return {};
}

}  // namespace

Result<Connection> Connection::connect(const Endpoint& server, Nanoseconds bound) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server.port);
  if (inet_pton(AF_INET, server.address.c_str(), &address.sin_addr) != 1) {
    return fail("\"" + server.address + "\" is not an IPv4 address");
  }
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket");
  int one = 1;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
  // Where cubic is not built in the host's default stays: better a slightly different measurement than none.
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EINPROGRESS) return fail_errno("connect to " + server.address);
    if (auto s = wait_for(fd.get(), POLLOUT, bound); !s) return context("connect to " + server.address, s.error());
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return fail_errno("connect to " + server.address, error);
  }
  Connection out;
  out.fd_ = std::move(fd);
  return out;
}

void Connection::end(int code) {
  close_code_ = code;
  fd_.reset();
}

bool Connection::flush() {
  while (unsent_bytes() > 0) {
    ssize_t n = ::send(fd_.get(), unsent_.data() + unsent_begin_, unsent_bytes(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      if (errno != EAGAIN) end(errno);
      return false;
    }
    unsent_begin_ += static_cast<size_t>(n);
  }
  unsent_.clear();
  unsent_begin_ = 0;
  return true;
}

bool Connection::queue(std::string_view requests) {
  if (!open()) return false;
  // Only when half of it is done with: moved bytes stay in proportion to sent ones.
  if (unsent_begin_ > unsent_.size() / 2) {
    unsent_.erase(0, unsent_begin_);
    unsent_begin_ = 0;
  }
  unsent_ += requests;
  return flush() || open();
}

Connection::Sent Connection::send(std::string_view request) {
  if (!open()) return Sent::closed;
  if (!flush()) return open() ? Sent::full : Sent::closed;
  while (true) {
    ssize_t n = ::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return Sent::full;
    if (n < 0) {
      end(errno);
      return Sent::closed;
    }
    unsent_ = request.substr(static_cast<size_t>(n));
    return Sent::sent;
  }
}

bool Connection::receive() {
  static thread_local std::string chunk(kReceiveChunk, '\0');
  if (!open()) return false;
  ssize_t n = ::recv(fd_.get(), chunk.data(), chunk.size(), 0);
  if (n > 0) {
    replies_.append(std::string_view(chunk).substr(0, static_cast<size_t>(n)));
    return true;
  }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  end(n == 0 ? 0 : errno);
  return false;
}

uint64_t Connection::retransmits() const {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (!open() || ::getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  return info.tcpi_total_retrans;
}

Status Connection::send_all(std::string_view bytes, Nanoseconds bound) {
  while (!bytes.empty()) {
    ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (n < 0 && errno == EAGAIN) {
      MOSE_TRY(wait_for(fd_.get(), POLLOUT, bound));
    } else if (n < 0 && errno != EINTR) {
      return fail_errno("send");
    }
  }
  return {};
}

Status Connection::wait_reply(Reply& reply, Nanoseconds bound) {
  while (true) {
    MOSE_ASSIGN(bool whole, replies_.next(reply));
    if (whole) return {};
    MOSE_TRY(wait_for(fd_.get(), POLLIN, bound));
    if (!receive()) return fail_errno("the server closed the connection", close_code_ ? close_code_ : EPIPE);
  }
}

}  // namespace mose::client
