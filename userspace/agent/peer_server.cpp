// SPDX-License-Identifier: MIT
#include "agent/peer_server.h"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <cerrno>

#include "base/log.h"
#include "kernel/socket.h"

namespace mose::agent {
namespace {

constexpr size_t kPendingMax = 64;  // connections that have not said HELLO yet

}  // namespace

struct PeerServer::Pending {
  Fd socket;
  std::string address;
  move::FrameReader reader;
  EventLoop::TimerId timer = 0;
};

PeerServer::PeerServer(EventLoop& loop, Fd listener, move::Hello mine, Handlers handlers, Nanoseconds hello_bound)
    : loop_(loop), listener_(std::move(listener)), mine_(std::move(mine)), handlers_(std::move(handlers)), hello_bound_(hello_bound) {}

PeerServer::~PeerServer() {
  loop_.unwatch(listener_.get());
  while (!pending_.empty()) drop(pending_.begin()->first);
}

Result<std::unique_ptr<PeerServer>> PeerServer::listen(EventLoop& loop, const std::string& endpoint, const move::Hello& mine,
                                                       Handlers handlers, Nanoseconds hello_bound) {
  auto listener = tcp_listen(endpoint);
  if (!listener) {
    bool taken = listener.error().code == EADDRINUSE;
    return fail(fmt::format("other nodes could not connect to this one: {}{}", listener.error().what,
                            taken ? "; end what listens there or set node.listen" : "; set node.listen to an address of this node"));
  }
  std::unique_ptr<PeerServer> server(new PeerServer(loop, std::move(*listener), mine, std::move(handlers), hello_bound));
  MOSE_TRY(loop.watch(server->listener_.get(), EPOLLIN, [raw = server.get()](uint32_t) { raw->on_listener(); }));
  return server;
}

void PeerServer::on_listener() {
  for (;;) {
    auto accepted = tcp_accept(listener_.get(), /*non_blocking=*/true);
    if (!accepted) {
      log::warn("a connection could not be accepted", {{"reason", accepted.error().what}});
      return;
    }
    if (!accepted->socket.valid()) return;
    if (pending_.size() >= kPendingMax) continue;  // closes it
    int fd = accepted->socket.get();
    auto pending = std::make_unique<Pending>();
    pending->socket = std::move(accepted->socket);
    pending->address = accepted->peer;
    pending->reader.take_only(wire::FrameType::hello);
    if (auto watched = loop_.watch(fd, EPOLLIN, [this, fd](uint32_t) { on_pending(fd); }); !watched) {
      log::warn("a connection could not be watched", {{"peer", pending->address}, {"reason", watched.error().what}});
      continue;  // closes it
    }
    pending->timer = loop_.after(hello_bound_, [this, fd] { drop(fd); });
    pending_[fd] = std::move(pending);
  }
}

void PeerServer::drop(int fd) {
  auto it = pending_.find(fd);
  if (it == pending_.end()) return;
  loop_.cancel(it->second->timer);
  loop_.unwatch(fd);
  pending_.erase(it);
}

void PeerServer::on_pending(int fd) {
  Pending& pending = *pending_.at(fd);
  auto frame = pending.reader.read(fd);
  if (frame && !*frame) return;
  auto hello = !frame ? Result<move::Hello>(std::unexpected(frame.error()))
                      : move::decode_hello((*frame)->payload);
  if (!hello) {
    log::info("a connection said no HELLO", {{"peer", pending.address}, {"reason", hello.error().what}});
    return drop(fd);
  }
  move::StreamId stream = (*frame)->stream;
  Status accepted = move::check_peer(mine_, *hello);
  if (accepted) accepted = handlers_.accept(stream, *hello);
  // Small frames into an empty socket: written at once.
  move::FrameWriter writer;
  auto answer = accepted ? writer.push(wire::FrameType::hello, stream, move::encode_hello(mine_))
                         : writer.push(wire::FrameType::error, stream, move::as_bytes(accepted.error().what));
  auto written = answer ? writer.flush(fd) : Result<bool>(false);
  if (!accepted || !written || !*written) {
    if (!accepted) log::warn("a node is turned away", {{"peer", pending.address}, {"node", hello->node}, {"reason", accepted.error().what}});
    return drop(fd);
  }
  Incoming incoming{std::move(pending.socket), stream, std::move(*hello), pending.address};
  loop_.cancel(pending.timer);
  loop_.unwatch(fd);
  pending_.erase(fd);
  handlers_.on_connection(std::move(incoming));
}

}  // namespace mose::agent
