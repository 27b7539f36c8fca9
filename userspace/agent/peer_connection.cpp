// SPDX-License-Identifier: MIT
#include "agent/peer_connection.h"

#include <sys/epoll.h>

#include "kernel/socket.h"

namespace mose::agent {
namespace {

// Looks per silence_max: so many times a sign of life is looked for before it is missed.
constexpr int kLooks = 5;
// A peer whose kernel acknowledges is there; that its agent is slow is no reason to give up so soon.
constexpr int kPatience = 8;
// A peer of ours has one PING under way. Its answer may wait behind long images; so many answers do not wait for a peer
// that reads them.
constexpr unsigned kPongsWaitingMax = 64;

}  // namespace

PeerConnection::PeerConnection(EventLoop& loop, move::StreamSocket socket, const move::StreamId& stream, std::string peer_node)
    : loop_(loop), socket_(std::move(socket)), stream_(stream), peer_node_(std::move(peer_node)), reader_(stream) {}

PeerConnection::~PeerConnection() {
  *alive_ = false;
  loop_.cancel(life_timer_);
  if (watched_) loop_.unwatch(socket_.fd());
}

Status PeerConnection::open(Handlers handlers) {
  set_handlers(std::move(handlers));
  MOSE_TRY(loop_.watch(socket_.fd(), EPOLLIN, [this](uint32_t events) { on_events(events); }));
  watched_ = true;
  // What came together with the HELLO shows on no descriptor any more.
  if (socket_.has_pending()) read_later();
  return {};
}

void PeerConnection::read_later() {
  if (std::exchange(later_, true)) return;
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    later_ = false;
    read_frames();
  });
}

void PeerConnection::send(wire::FrameType type, std::string_view payload) {
  bytes_sent_ += payload.size() + sizeof(wire::FrameHeader);
  if (auto pushed = writer_.push(type, stream_, move::as_bytes(payload)); !pushed) {
    // Never from inside send: the caller is in the middle of its own work.
    auto alive = alive_;
    loop_.post([this, alive, reason = pushed.error().what] {
      if (*alive) close(reason);
    });
    return;
  }
  flush();
}

void PeerConnection::on_events(uint32_t events) {
  auto alive = alive_;
  if (events & EPOLLOUT) flush();
  // What TLS had to say has left: what waited behind it shows on no descriptor any more.
  const bool goes_on = *alive && (events & EPOLLOUT) && watched_ && socket_.has_pending();
  if (*alive && (goes_on || (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))) read_frames();
}

void PeerConnection::read_frames() {
  auto alive = alive_;
  for (int turn = 0; *alive && watched_; ++turn) {
    if (turn == kFramesPerTurn) {
      // What is still in the kernel shows on the descriptor.
      if (socket_.has_pending()) read_later();
      return;
    }
    auto frame = reader_.read(socket_);
    if (!frame) {
      close(frame.error().what);
      return;
    }
    if (!*frame) {
      // Reading may have made TLS answer (new keys), and its answer, or more of it, waits for room in the socket.
      if (socket_.unsent() > 0) watch_output(true);
      return;
    }
    heard_ = now();
    pinged_ = false;
    if ((*frame)->type == wire::FrameType::ping) {
      pongs_waiting_ = writer_.empty() ? 0 : pongs_waiting_ + 1;
      if (pongs_waiting_ > kPongsWaitingMax) return close("the peer asks for signs of life and does not read them");
      send(wire::FrameType::pong);
    }
    if ((*frame)->type == wire::FrameType::ping || (*frame)->type == wire::FrameType::pong) continue;
    auto handlers = handlers_;
    handlers->on_frame((*frame)->type, std::string(move::as_text((*frame)->payload)));
  }
}

void PeerConnection::flush() {
  if (!watched_) return;
  auto done = writer_.flush(socket_);
  if (!done) {
    auto alive = alive_;
    loop_.post([this, alive, reason = done.error().what] {
      if (*alive) close(reason);
    });
    return;
  }
  watch_output(!*done);
}

void PeerConnection::watch_output(bool wanted) {
  if (wanted == writing_) return;
  writing_ = wanted;
  (void)loop_.change(socket_.fd(), EPOLLIN | (writing_ ? static_cast<uint32_t>(EPOLLOUT) : 0u));
}

std::optional<TlsUsed> PeerConnection::tls_used() const {
  const move::NodeCertificate* peer = socket_.peer();
  if (peer == nullptr) return std::nullopt;
  return TlsUsed{socket_.tls_version(), socket_.tls_cipher(), peer->whose()};
}

Nanoseconds PeerConnection::round_trip() const { return round_trip_time(socket_.fd()).value_or(Nanoseconds(0)); }

void PeerConnection::expect_life(Nanoseconds silence_max) {
  if (silence_max == silence_max_) return;
  silence_max_ = silence_max;
  loop_.cancel(life_timer_);
  life_timer_ = 0;
  if (silence_max_.count() == 0) return;
  heard_ = checked_ = now();
  pinged_ = no_room_ = false;
  unacknowledged_ = 0;
  life_timer_ = loop_.after(silence_max_ / kLooks, [this] { check_life(); });
}

void PeerConnection::check_life() {
  life_timer_ = 0;
  if (!watched_) return;
  Timestamp time = now();
  // When we ourselves were kept from looking, an answer may be waiting unread.
  if (time - checked_ > 2 * silence_max_ / kLooks) heard_ = time;
  checked_ = time;
  size_t waiting = writer_.waiting_bytes() + socket_.unsent() + unacknowledged_bytes(socket_.fd()).value_or(0);
  // The acknowledgement of a PING says that a kernel is there, its answer that an agent is.
  if (!pinged_ && waiting < unacknowledged_) heard_ = time;
  unacknowledged_ = waiting;
  // What waits may wait for room at a peer that does not read just now; once there is some, it is on its way.
  const Unanswered sent = unanswered(socket_.fd()).value_or(Unanswered{.data = true});
  const bool no_room = waiting > 0 && !sent.data && !sent.room;
  if (std::exchange(no_room_, no_room) && sent.data) heard_ = time;
  const bool there = no_room || (waiting == 0 && pinged_);
  Nanoseconds limit = there ? silence_max_ * kPatience : silence_max_;
  if (time - heard_ >= limit) {
    auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(limit).count();
    return close("no sign of life for " + std::to_string(ms) + " ms");
  }
  life_timer_ = loop_.after(silence_max_ / kLooks, [this] { check_life(); });
  if (pinged_ || waiting > 0) return;
  pinged_ = true;
  send(wire::FrameType::ping);
}

void PeerConnection::close(std::string reason) {
  if (!watched_) return;
  loop_.unwatch(socket_.fd());
  watched_ = false;
  socket_.reset();
  auto handlers = handlers_;
  handlers->on_closed(std::move(reason));
}

}  // namespace mose::agent
