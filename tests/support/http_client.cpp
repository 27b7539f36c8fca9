// SPDX-License-Identifier: MIT
#include "support/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace mose::test {

Result<Fd> http_connect(const std::string& where) {
  const bool local = where.starts_with('/');
  Fd socket(::socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  sockaddr_un path{};
  sockaddr_in address{};
  if (local) {
    path.sun_family = AF_UNIX;
    where.copy(path.sun_path, sizeof path.sun_path - 1);
  } else {
    const size_t colon = where.rfind(':');
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::stoi(where.substr(colon + 1))));
    inet_pton(AF_INET, where.substr(0, colon).c_str(), &address.sin_addr);
  }
  const auto* to = local ? reinterpret_cast<const sockaddr*>(&path) : reinterpret_cast<const sockaddr*>(&address);
  if (::connect(socket.get(), to, local ? sizeof path : sizeof address) != 0) return fail_errno("connect to " + where);
  return socket;
}

std::string read_to_end(int socket, Nanoseconds bound) {
  std::string all;
  for (const Timestamp end = now() + bound; now() < end;) {
    pollfd item{socket, POLLIN, 0};
    if (::poll(&item, 1, 100) <= 0) continue;
    char piece[16384];
    const ssize_t got = ::recv(socket, piece, sizeof piece, 0);
    if (got <= 0) break;
    all.append(piece, static_cast<size_t>(got));
  }
  return all;
}

Result<HttpReply> http_exchange(const std::string& where, std::string_view bytes) {
  MOSE_ASSIGN(Fd socket, http_connect(where));
  if (::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return fail_errno("send");
  const std::string all = read_to_end(socket.get());
  const size_t end = all.find("\r\n\r\n");
  if (!all.starts_with("HTTP/1.1 ") || end == std::string::npos) return fail("not an answer of HTTP: " + all.substr(0, 100));
  HttpReply reply{std::stoi(all.substr(9, 3)), all.substr(0, end + 2), all.substr(end + 4)};
  const std::string length = "Content-Length: " + std::to_string(reply.body.size()) + "\r\n";
  const bool head = bytes.starts_with("HEAD ");
  if (!head && reply.head.find(length) == std::string::npos) return fail("its length is not as said: " + reply.head);
  return reply;
}

Result<HttpReply> http_get(const std::string& where, const std::string& path) {
  return http_exchange(where, "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n");
}

}  // namespace mose::test
