// SPDX-License-Identifier: MIT
#include "agent/peer_server.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "kernel/socket.h"

namespace mose::agent {
namespace {

// Between two looks at what else there is to do; the listener stays readable.
constexpr int kAcceptsAtOnce = 16;
// A refused peer has so long to hear why. Closed with something unread, the kernel would take the words back.
constexpr Nanoseconds kLeaveBound = std::chrono::seconds(1);

// Who takes TLS for plain text hears why in plain text.
Error plain_text_error() {
  return {EPROTONOSUPPORT, "this node speaks TLS only: either both have [tls] with certificates or both plain_text = true"};
}

// The beginning of what has come, left where it is: a HELLO in plain text?
std::optional<wire::FrameHeader> plain_header(int fd) {
  wire::FrameHeader header{};
  const ssize_t got = ::recv(fd, &header, sizeof header, MSG_PEEK | MSG_DONTWAIT);
  if (got < static_cast<ssize_t>(sizeof header.magic) || header.magic != wire::kMagic) return {};
  if (got < static_cast<ssize_t>(sizeof header)) header = {};
  return header;
}

}  // namespace

struct PeerServer::Pending {
  move::StreamSocket socket;
  std::string address;
  uint64_t number = 0;  // in the order of arrival
  move::FrameReader reader;
  move::StreamId stream;  // as soon as it is known
  EventLoop::TimerId timer = 0;
  bool looked = false;   // for plain text where TLS is spoken
  bool leaving = false;  // refused: what it still says is thrown away
};

PeerServer::PeerServer(EventLoop& loop, Fd listener, move::Hello mine, Handlers handlers, Nanoseconds hello_bound,
                       std::shared_ptr<move::Tls> tls)
    : loop_(loop),
      listener_(std::move(listener)),
      mine_(std::move(mine)),
      handlers_(std::move(handlers)),
      hello_bound_(hello_bound),
      tls_(std::move(tls)),
      refusals_(loop, refused_),
      silent_(loop, refused_) {}

PeerServer::~PeerServer() {
  loop_.unwatch(listener_.get());
  while (!pending_.empty()) drop(pending_.begin()->first);
}

Result<std::unique_ptr<PeerServer>> PeerServer::listen(EventLoop& loop, const std::string& endpoint, const move::Hello& mine,
                                                       Handlers handlers, Nanoseconds hello_bound, std::shared_ptr<move::Tls> tls) {
  auto listener = tcp_listen(endpoint);
  if (!listener) {
    bool taken = listener.error().code == EADDRINUSE;
    return fail(fmt::format("other nodes could not connect to this one: {}{}", listener.error().what,
                            taken ? "; end what listens there or set node.listen" : "; set node.listen to an address of this node"));
  }
  std::unique_ptr<PeerServer> server(
      new PeerServer(loop, std::move(*listener), mine, std::move(handlers), hello_bound, std::move(tls)));
  MOSE_TRY(loop.watch(server->listener_.get(), EPOLLIN, [raw = server.get()](uint32_t) { raw->on_listener(); }));
  return server;
}

void PeerServer::on_listener() {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    auto accepted = tcp_accept(listener_.get(), /*non_blocking=*/true);
    if (!accepted) return refusals_.add(RefusalKind::local, "a connection could not be accepted", "", "", accepted.error().what);
    if (!accepted->socket.valid()) return;
    take(std::move(accepted->socket), std::move(accepted->peer));
  }
}

// Beyond what is taken of those in a second.
bool PeerServer::is_one_stranger_more(const std::string& peer) {
  if (!handlers_.is_known || handlers_.is_known(host_of(peer))) return false;
  if (now() - strangers_since_ >= kStrangersWindow) {
    strangers_since_ = now();
    strangers_ = 0;
  }
  return ++strangers_ > kStrangersMax;
}

void PeerServer::take(Fd socket, std::string peer) {
  if (is_one_stranger_more(peer)) {
    return silent_.add(RefusalKind::crowded, "a connection of an unknown address is one too many", peer, "",
                       fmt::format("{} of them have come within a second", kStrangersMax));
  }
  if (pending_.size() >= kPendingMax) make_room();
  const int fd = socket.get();
  auto pending = std::make_unique<Pending>();
  pending->address = std::move(peer);
  pending->number = number_next_++;
  pending->reader.take_only(wire::FrameType::hello);
  if (tls_) {
    auto session = tls_->accept(std::move(socket));
    if (!session) return refusals_.add(RefusalKind::local, "a connection could not be taken", pending->address, "", session.error().what);
    pending->socket = std::move(*session);
  } else {
    pending->socket = move::StreamSocket(std::move(socket));
  }
  if (auto watched = loop_.watch(fd, EPOLLIN, [this, fd](uint32_t) { on_pending(fd); }); !watched) {
    return refusals_.add(RefusalKind::local, "a connection could not be watched", pending->address, "", watched.error().what);  // closes it
  }
  pending->timer = loop_.after(hello_bound_, [this, fd] {
    const Pending& late = *pending_.at(fd);
    if (!late.leaving) silent_.add(RefusalKind::silent, "a connection said no HELLO in time", late.address, "", "silence");
    drop(fd);
  });
  pending_[fd] = std::move(pending);
}

// The oldest of the address that has most.
void PeerServer::make_room() {
  std::map<std::string, size_t> counts;
  for (const auto& [fd, pending] : pending_) ++counts[host_of(pending->address)];
  auto later = [&](const auto& a, const auto& b) {
    const size_t of_a = counts[host_of(a.second->address)], of_b = counts[host_of(b.second->address)];
    return of_a != of_b ? of_a < of_b : a.second->number > b.second->number;
  };
  auto victim = std::ranges::max_element(pending_, later);
  silent_.add(RefusalKind::crowded, "a connection makes room for newer ones", victim->second->address, "",
                fmt::format("{} connections have said no HELLO yet", pending_.size()));
  drop(victim->first);
}

void PeerServer::drop(int fd) {
  auto it = pending_.find(fd);
  if (it == pending_.end()) return;
  loop_.cancel(it->second->timer);
  loop_.unwatch(fd);
  pending_.erase(it);
}

// The frame, once it is whole. On the way there the descriptor is watched for what the stream waits for.
Result<std::optional<move::Frame>> PeerServer::hello_of(int fd, Pending& pending, RefusalKind& kind) {
  kind = RefusalKind::handshake;
  if (tls_ && !std::exchange(pending.looked, true)) {
    if (auto header = plain_header(fd)) {
      pending.stream = {MigrationId{header->migration}, header->epoch};
      return std::unexpected(plain_text_error());
    }
  }
  MOSE_ASSIGN(move::Wait wait, pending.socket.handshake());
  if (wait == move::Wait::nothing) {
    kind = RefusalKind::hello;
    MOSE_ASSIGN(auto frame, pending.reader.read(pending.socket));
    if (frame) return frame;
  }
  MOSE_TRY(loop_.change(fd, wait == move::Wait::to_write ? EPOLLOUT : EPOLLIN));
  return std::nullopt;
}

void PeerServer::on_pending(int fd) {
  Pending& pending = *pending_.at(fd);
  if (pending.leaving) {
    std::array<char, 16384> ignored;
    const ssize_t got = ::recv(fd, ignored.data(), ignored.size(), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) drop(fd);
    return;
  }
  RefusalKind kind{};
  auto frame = hello_of(fd, pending, kind);
  if (!frame) return turn_away(fd, kind, "", frame.error());
  if (!*frame) return;
  pending.stream = (*frame)->stream;
  auto hello = move::decode_hello((*frame)->payload);
  if (!hello) return turn_away(fd, RefusalKind::hello, "", hello.error());
  if (auto fits = check(pending, pending.stream, *hello, kind); !fits) return turn_away(fd, kind, hello->node, fits.error());
  answer(fd, (*frame)->stream, std::move(*hello));
}

Status PeerServer::check(const Pending& pending, const move::StreamId& stream, const move::Hello& hello, RefusalKind& kind) const {
  kind = RefusalKind::identity;
  const move::NodeCertificate* certificate = pending.socket.peer();
  if (tls_ && certificate == nullptr) return fail_errno("it has shown no certificate", EACCES);
  if (certificate != nullptr && !certificate->is_of(hello.node)) {
    return fail(fmt::format("it calls itself \"{}\" and its certificate is of {}", hello.node, certificate->whose()));
  }
  kind = RefusalKind::version;
  MOSE_TRY(move::check_peer(mine_, hello));
  kind = RefusalKind::access;
  return handlers_.accept(stream, hello, certificate);
}

void PeerServer::answer(int fd, const move::StreamId& stream, move::Hello hello) {
  Pending& pending = *pending_.at(fd);
  // A small frame into an empty socket: written at once.
  move::FrameWriter writer;
  auto written = writer.push(wire::FrameType::hello, stream, move::encode_hello(mine_)) ? writer.flush(pending.socket) : Result<bool>(false);
  if (!written || !*written) return drop(fd);
  Incoming incoming{std::move(pending.socket), stream, std::move(hello), pending.address};
  loop_.cancel(pending.timer);
  loop_.unwatch(fd);
  pending_.erase(fd);
  handlers_.on_connection(std::move(incoming));
}

// Told as far as the other end can hear it, then closed.
void PeerServer::turn_away(int fd, RefusalKind kind, const std::string& node, const Error& reason) {
  Pending& pending = *pending_.at(fd);
  refusals_.add(kind, node.empty() ? "a connection said no HELLO" : "a node is turned away", pending.address, node, reason.what);
  if (reason.code == EPROTONOSUPPORT) {
    const auto frame = move::encode_frame(wire::FrameType::error, pending.stream, move::as_bytes(reason.what));
    (void)!::send(fd, frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } else if (!node.empty()) {
    move::FrameWriter writer;
    if (writer.push(wire::FrameType::error, pending.stream, move::as_bytes(reason.what))) (void)writer.flush(pending.socket);
  }
  loop_.cancel(pending.timer);
  pending.leaving = true;
  if (::shutdown(fd, SHUT_WR) != 0 || !loop_.change(fd, EPOLLIN)) return drop(fd);
  pending.timer = loop_.after(std::min(kLeaveBound, hello_bound_), [this, fd] { drop(fd); });
}

}  // namespace mose::agent
