// SPDX-License-Identifier: MIT
#include "agent/metrics_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/log.h"
#include "kernel/socket.h"

namespace mose::agent {
namespace {

constexpr int kListenBacklog = 64;
constexpr size_t kReadBytes = 4096;

std::shared_ptr<const MetricsServer::Page> page_of_status(HttpStatus status) {
  return std::make_shared<MetricsServer::Page>(MetricsServer::Page{{.status = status}, std::string(http_reason(status)) + "\n"});
}

}  // namespace

struct MetricsServer::Connection {
  Fd socket;
  EventLoop::TimerId timer = 0;
  std::string input, head;
  std::shared_ptr<const Page> page;  // of the answer; null: none yet
  bool with_body = true;
  size_t written = 0;  // of head and body
  int reads = 0;
  bool leaving = false;  // the answer is out: what still comes is thrown away
};

MetricsServer::MetricsServer(EventLoop& loop, std::string socket, Pages pages)
    : loop_(loop), socket_(std::move(socket)), pages_(std::move(pages)) {}

Result<std::unique_ptr<MetricsServer>> MetricsServer::start(EventLoop& loop, const MetricsConfig& config, Pages pages) {
  std::unique_ptr<MetricsServer> server(new MetricsServer(loop, config.socket, std::move(pages)));
  if (!config.listen.empty()) {
    auto listener = tcp_listen(config.listen, kListenBacklog);
    if (!listener) return context("metrics.listen", listener.error());
    MOSE_TRY(server->watch(std::move(*listener)));
  }
  MOSE_TRY(server->listen_local());
  return server;
}

Status MetricsServer::listen_local() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_.size() >= sizeof address.sun_path) return fail(socket_ + " is too long for a socket");
  socket_.copy(address.sun_path, sizeof address.sun_path - 1);
  Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return fail_errno("socket");
  if (unlink(socket_.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + socket_);
  const mode_t before = umask(0177);
  const int bound = bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  const int code = errno;
  umask(before);
  if (bound != 0) return fail_errno("bind " + socket_, code);
  if (listen(listener.get(), kListenBacklog) != 0) return fail_errno("listen on " + socket_);
  return watch(std::move(listener));
}

Status MetricsServer::watch(Fd listener) {
  const int fd = listener.get();
  MOSE_TRY(loop_.watch(fd, EPOLLIN, [this, fd](uint32_t) { on_listener(fd); }));
  listeners_[fd] = std::move(listener);
  return {};
}

MetricsServer::~MetricsServer() {
  loop_.cancel(window_);
  while (!connections_.empty()) close(connections_.begin()->first);
  for (const auto& [fd, listener] : listeners_) loop_.unwatch(fd);
  if (!listeners_.empty()) unlink(socket_.c_str());
}

// One a turn, so that what is under way has its turn as well.
void MetricsServer::on_listener(int listener) {
  Fd socket(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (window_ == 0) {
    window_ = loop_.after(kAcceptWindow, [this] {
      window_ = 0;
      accepts_ = 0;
      if (!std::exchange(resting_, false)) return;
      for (const auto& [fd, waiting] : listeners_) (void)loop_.change(fd, EPOLLIN);
    });
  }
  if (++accepts_ >= kAcceptsMax) rest();
  if (socket) take(std::move(socket));
}

// No descriptors left is a flood as well: accept() fails and the listener stays ready.
void MetricsServer::rest() {
  resting_ = true;
  for (const auto& [fd, listener] : listeners_) (void)loop_.change(fd, 0);
}

void MetricsServer::take(Fd socket) {
  if (connections_.size() >= kConnectionsMax) close(connections_.begin()->first);
  const uint64_t id = number_next_++;
  const int fd = socket.get();
  if (!loop_.watch(fd, EPOLLIN, [this, id](uint32_t events) { on_connection(id, events); })) return;
  auto connection = std::make_unique<Connection>();
  connection->socket = std::move(socket);
  connection->timer = loop_.after(kConnectionBound, [this, id] { close(id); });
  connections_[id] = std::move(connection);
}

void MetricsServer::on_connection(uint64_t id, uint32_t events) {
  if (events & EPOLLOUT) return write(id);
  Connection& connection = *connections_.at(id);
  if (!connection.leaving && !connection.page) return read_request(id);
  std::array<char, kReadBytes> ignored;
  const ssize_t got = ::recv(connection.socket.get(), ignored.data(), ignored.size(), 0);
  const bool over = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
  if (over || ++connection.reads >= 2 * kReadsMax) close(id);
}

void MetricsServer::read_request(uint64_t id) {
  Connection& connection = *connections_.at(id);
  std::array<char, kReadBytes> piece;
  const ssize_t got = ::recv(connection.socket.get(), piece.data(), piece.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return close(id);
  connection.input.append(piece.data(), static_cast<size_t>(got));
  auto request = parse_http_request(connection.input);
  if (!request) return answer(id, page_of_status(request.error()), true);
  if (*request) return answer(id, page_of((*request)->path), !(*request)->head);
  if (++connection.reads >= kReadsMax) answer(id, page_of_status(HttpStatus::bad_request), true);
}

std::shared_ptr<const MetricsServer::Page> MetricsServer::page_of(const std::string& path) {
  auto known = made_.find(path);
  if (known != made_.end() && now() - known->second.at < kFresh) return known->second.page;
  auto made = pages_(path);
  if (!made) return page_of_status(HttpStatus::not_found);
  auto page = std::make_shared<const Page>(std::move(*made));
  made_[path] = {page, now()};
  return page;
}

void MetricsServer::answer(uint64_t id, std::shared_ptr<const Page> page, bool with_body) {
  Connection& connection = *connections_.at(id);
  connection.head = http_head(page->answer, page->body.size());
  connection.input = {};
  connection.page = std::move(page);
  connection.with_body = with_body;
  write(id);
}

void MetricsServer::write(uint64_t id) {
  Connection& connection = *connections_.at(id);
  const std::string_view body = connection.with_body ? std::string_view(connection.page->body) : std::string_view();
  const size_t all = connection.head.size() + body.size();
  while (connection.written < all) {
    const bool in_head = connection.written < connection.head.size();
    const std::string_view rest =
        in_head ? std::string_view(connection.head).substr(connection.written) : body.substr(connection.written - connection.head.size());
    const ssize_t sent = ::send(connection.socket.get(), rest.data(), rest.size(), MSG_NOSIGNAL | (in_head ? MSG_MORE : 0));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return close(id);
    if (sent < 0) break;
    connection.written += static_cast<size_t>(sent);
  }
  const bool out = connection.written == all;
  // Closed with something unread, the kernel would take the answer back: the other end closes first, or its time is over.
  if (out && ::shutdown(connection.socket.get(), SHUT_WR) != 0) return close(id);
  connection.leaving = out;
  if (!loop_.change(connection.socket.get(), out ? EPOLLIN : EPOLLOUT)) close(id);
}

void MetricsServer::close(uint64_t id) {
  auto it = connections_.find(id);
  if (it == connections_.end()) return;
  loop_.cancel(it->second->timer);
  loop_.unwatch(it->second->socket.get());
  connections_.erase(it);
}

}  // namespace mose::agent
