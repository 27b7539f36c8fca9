// SPDX-License-Identifier: MIT
#include "text_connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel/netns.h"
#include "lab/names.h"

namespace mose::test {
namespace {

constexpr useconds_t kConnectRetryUs = 20'000;

Result<Fd> connect_once(uint16_t port) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  const timeval bound{std::chrono::duration_cast<std::chrono::seconds>(TextConnection::kAnswerBound).count(), 0};
  const int one = 1;
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  inet_pton(AF_INET, lab::kServiceAddress, &to.sin_addr);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
    return fail_errno("connect to port " + std::to_string(port));
  return socket;
}

}  // namespace

Result<TextConnection> TextConnection::open(const std::string& netns, uint16_t port, Nanoseconds patience) {
  MOSE_ASSIGN(auto place, open_file(netns, O_RDONLY | O_CLOEXEC));
  for (const Timestamp deadline = now() + patience;; ::usleep(kConnectRetryUs)) {
    auto socket = in_netns_get<Fd>(place.get(), [port] { return connect_once(port); });
    if (socket) return TextConnection(std::move(*socket));
    if (now() >= deadline) return std::unexpected(std::move(socket).error());
  }
}

Status TextConnection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_errno("send a request");
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return {};
}

Status TextConnection::receive() {
  char chunk[64 << 10];
  const ssize_t got = ::recv(socket_.get(), chunk, sizeof chunk, 0);
  if (got < 0 && errno == EINTR) return {};
  if (got < 0) return fail_errno("wait for an answer");
  if (got == 0) return fail("the server has closed the connection");
  text_.append(chunk, static_cast<size_t>(got));
  return {};
}

Result<std::string> TextConnection::line() {
  size_t end = text_.find('\n');
  for (; end == std::string::npos; end = text_.find('\n')) MOSE_TRY(receive());
  std::string out = text_.substr(0, end);
  text_.erase(0, end + 1);
  if (out.ends_with('\r')) out.pop_back();
  return out;
}

Result<std::string> TextConnection::bytes(size_t count) {
  while (text_.size() < count) MOSE_TRY(receive());
  std::string out = text_.substr(0, count);
  text_.erase(0, count);
  return out;
}

}  // namespace mose::test
