// SPDX-License-Identifier: MIT
#include "frame_proxy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <latch>
#include <utility>

#include "kernel/socket.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kConnectBound = std::chrono::seconds(2);
constexpr size_t kChunk = 256u << 10;

// Until the socket is ready for what the stream waits for, or at its end.
bool wait_for(const move::StreamSocket& socket, move::Wait wait) {
  pollfd p{socket.fd(), static_cast<short>(wait == move::Wait::to_write ? POLLOUT : POLLIN), 0};
  return ::poll(&p, 1, -1) == 1 || errno == EINTR;
}

bool shake(move::StreamSocket& socket) {
  for (;;) {
    auto wait = socket.handshake();
    if (!wait || *wait == move::Wait::nothing) return wait.has_value();
    if (!wait_for(socket, *wait)) return false;
  }
}

bool read_exactly(move::StreamSocket& socket, void* out, size_t size) {
  iovec part{out, size};
  while (part.iov_len > 0) {
    auto got = socket.read({&part, 1});
    if (!got || (got->bytes == 0 && !wait_for(socket, got->wait))) return false;
    part = {static_cast<char*>(part.iov_base) + got->bytes, part.iov_len - got->bytes};
  }
  return true;
}

bool write_exactly(move::StreamSocket& socket, const void* data, size_t size) {
  iovec part{const_cast<void*>(data), size};
  while (part.iov_len > 0) {
    auto put = socket.write({&part, 1});
    if (!put || (put->bytes == 0 && !wait_for(socket, put->wait))) return false;
    part = {static_cast<char*>(part.iov_base) + put->bytes, part.iov_len - put->bytes};
  }
  for (;;) {
    auto out = socket.flush();
    if (!out || *out) return out.has_value();
    if (!wait_for(socket, move::Wait::to_write)) return false;
  }
}

}  // namespace

struct FrameProxy::Link {
  move::StreamSocket near, far;  // of the connecting node, of the target
  std::array<std::thread, 2> threads;
  // Two threads in one handshake would each wait for bytes that the other has taken.
  std::latch shaken{1};
  std::atomic<unsigned> ended{0};

  void cut() {
    near.shut_down();
    far.shut_down();
  }
  void join() {
    for (std::thread& thread : threads) {
      if (thread.joinable()) thread.join();
    }
  }
};

Result<std::unique_ptr<FrameProxy>> FrameProxy::listen(const std::string& endpoint, const std::string& target, ProxyIdentities identities) {
  MOSE_ASSIGN(Fd listener, tcp_listen(endpoint));
  MOSE_ASSIGN(std::string bound, local_endpoint(listener.get()));
  return std::unique_ptr<FrameProxy>(new FrameProxy(std::move(listener), std::move(bound), target, std::move(identities)));
}

FrameProxy::FrameProxy(Fd listener, std::string endpoint, std::string target, ProxyIdentities identities)
    : listener_(std::move(listener)),
      stop_(::eventfd(0, EFD_CLOEXEC)),
      endpoint_(std::move(endpoint)),
      target_(std::move(target)),
      identities_(std::move(identities)) {
  acceptor_ = std::thread([this] { accept_loop(); });
}

FrameProxy::~FrameProxy() {
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(stop_.get(), &one, sizeof one);
  acceptor_.join();
  cut_all();
  for (auto& link : links_) link->join();
}

void FrameProxy::set_rule(FrameRule rule) {
  std::lock_guard lock(mutex_);
  rule_ = std::move(rule);
  seen_ = 0;
  fired_ = false;
}

bool FrameProxy::fired() const {
  std::lock_guard lock(mutex_);
  return fired_;
}

bool FrameProxy::swallowing() const {
  std::lock_guard lock(mutex_);
  return swallowing_;
}

void FrameProxy::heal() {
  bool vanished = false;
  {
    std::lock_guard lock(mutex_);
    rule_.reset();
    vanished = std::exchange(swallowing_, false);
  }
  if (vanished) cut_all();
}

void FrameProxy::cut_all() {
  std::lock_guard lock(mutex_);
  for (auto& link : links_) link->cut();
}

void FrameProxy::accept_loop() {
  for (;;) {
    pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents) return;
    if (!(fds[0].revents & POLLIN)) continue;
    auto near = tcp_accept(listener_.get(), false);
    if (!near || !near->socket) continue;
    // A target that is not there: the connecting node sees an end.
    if (auto taken = take(std::move(near->socket)); !taken) continue;
  }
}

// Handshakes are the pumps' work: a node that is stopped keeps nobody else waiting.
Status FrameProxy::take(Fd near) {
  auto link = std::make_shared<Link>();
  MOSE_ASSIGN(Fd far, tcp_connect(target_, kConnectBound));
  if (identities_.of_target) {
    MOSE_ASSIGN(link->near, identities_.of_target->accept(std::move(near)));
    MOSE_ASSIGN(link->far, identities_.of_peer->connect(std::move(far), identities_.target));
  } else {
    link->near = std::move(near);
    link->far = std::move(far);
  }
  std::lock_guard lock(mutex_);
  std::erase_if(links_, [](const std::shared_ptr<Link>& old) {
    if (old->ended.load() < 2) return false;
    old->join();
    return true;
  });
  links_.push_back(link);
  link->threads[0] = std::thread([this, link] { pump(link, Direction::to_target); });
  link->threads[1] = std::thread([this, link] { pump(link, Direction::from_target); });
  return {};
}

// What does not come of it shows at the first read.
void FrameProxy::shake_both(Link& link) const {
  // Who has vanished shakes no hands either.
  if (link.near.encrypted() && swallowing()) {
    pollfd p{link.near.fd(), POLLRDHUP, 0};
    while (::poll(&p, 1, -1) < 0 && errno == EINTR) continue;
  }
  if (!shake(link.near) || !shake(link.far)) link.cut();
}

void FrameProxy::pump(const std::shared_ptr<Link>& link, Direction direction) {
  move::StreamSocket& from = direction == Direction::to_target ? link->near : link->far;
  if (direction == Direction::from_target) {
    link->shaken.wait();
  } else {
    shake_both(*link);
    link->shaken.count_down();
  }
  for (;;) {
    wire::FrameHeader header{};
    if (!read_exactly(from, &header, sizeof header)) break;
    if (!forward(*link, direction, header)) break;
  }
  // An end on one side is an end on the other, except for a node that has vanished: it says nothing.
  if (!swallowing()) link->cut();
  ++link->ended;
}

bool FrameProxy::forward(Link& link, Direction direction, wire::FrameHeader header) {
  move::StreamSocket& from = direction == Direction::to_target ? link.near : link.far;
  move::StreamSocket& to = direction == Direction::to_target ? link.far : link.near;
  auto rule = meet(header, direction);
  if (rule && rule->moment == Moment::before) carry_out(*rule, link);
  if (rule && rule->then == FrameRule::Then::damage) header.checksum ^= 1;
  if (rule && rule->then == FrameRule::Then::rewrite) {
    std::string payload(header.length, '\0');
    if (!read_exactly(from, payload.data(), payload.size())) return false;
    rule->rewrite(header, payload);
    return write_exactly(to, &header, sizeof header) && write_exactly(to, payload.data(), payload.size());
  }
  bool passing = !swallowing();
  if (passing && !write_exactly(to, &header, sizeof header)) return false;
  std::vector<char> chunk(std::min<size_t>(kChunk, header.length));
  for (size_t left = header.length; left > 0;) {
    size_t part = std::min(left, chunk.size());
    if (!read_exactly(from, chunk.data(), part)) return false;
    if (passing && !write_exactly(to, chunk.data(), part)) return false;
    left -= part;
  }
  if (rule && rule->moment == Moment::after) carry_out(*rule, link);
  return true;
}

std::optional<FrameRule> FrameProxy::meet(const wire::FrameHeader& header, Direction direction) {
  std::lock_guard lock(mutex_);
  if (!rule_ || fired_ || rule_->direction != direction || static_cast<uint16_t>(rule_->type) != header.type) return {};
  if (++seen_ < rule_->nth) return {};
  fired_ = true;
  return rule_;
}

void FrameProxy::carry_out(const FrameRule& rule, Link& link) {
  if (rule.delay.count() > 0) std::this_thread::sleep_for(rule.delay);
  if (rule.action) rule.action();
  if (rule.then == FrameRule::Then::cut) link.cut();
  if (rule.then == FrameRule::Then::swallow) {
    std::lock_guard lock(mutex_);
    swallowing_ = true;
  }
}

}  // namespace mose::test
