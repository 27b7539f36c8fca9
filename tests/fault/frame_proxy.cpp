// SPDX-License-Identifier: MIT
#include "frame_proxy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "kernel/socket.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kConnectBound = std::chrono::seconds(2);
constexpr size_t kChunk = 256u << 10;

bool read_exactly(int fd, char* out, size_t size) {
  while (size > 0) {
    ssize_t n = ::recv(fd, out, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    out += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool write_exactly(int fd, const char* data, size_t size) {
  while (size > 0) {
    ssize_t n = ::send(fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

struct FrameProxy::Link {
  Fd near, far;  // of the connecting node, of the target
  std::array<std::thread, 2> threads;
  std::atomic<unsigned> ended{0};

  void cut() {
    ::shutdown(near.get(), SHUT_RDWR);
    ::shutdown(far.get(), SHUT_RDWR);
  }
  void join() {
    for (std::thread& thread : threads) {
      if (thread.joinable()) thread.join();
    }
  }
};

Result<std::unique_ptr<FrameProxy>> FrameProxy::listen(const std::string& endpoint, const std::string& target) {
  MOSE_ASSIGN(Fd listener, tcp_listen(endpoint));
  MOSE_ASSIGN(std::string bound, local_endpoint(listener.get()));
  return std::unique_ptr<FrameProxy>(new FrameProxy(std::move(listener), std::move(bound), target));
}

FrameProxy::FrameProxy(Fd listener, std::string endpoint, std::string target)
    : listener_(std::move(listener)), stop_(::eventfd(0, EFD_CLOEXEC)), endpoint_(std::move(endpoint)), target_(std::move(target)) {
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
    auto far = tcp_connect(target_, kConnectBound);
    if (!far) continue;  // the target is not there: the connecting node sees an end
    auto link = std::make_shared<Link>();
    link->near = std::move(near->socket);
    link->far = std::move(*far);
    std::lock_guard lock(mutex_);
    std::erase_if(links_, [](const std::shared_ptr<Link>& old) {
      if (old->ended.load() < 2) return false;
      old->join();
      return true;
    });
    links_.push_back(link);
    link->threads[0] = std::thread([this, link] { pump(link, Direction::to_target); });
    link->threads[1] = std::thread([this, link] { pump(link, Direction::from_target); });
  }
}

void FrameProxy::pump(const std::shared_ptr<Link>& link, Direction direction) {
  int from = direction == Direction::to_target ? link->near.get() : link->far.get();
  int to = direction == Direction::to_target ? link->far.get() : link->near.get();
  for (;;) {
    wire::FrameHeader header{};
    if (!read_exactly(from, reinterpret_cast<char*>(&header), sizeof header)) break;
    if (!forward(*link, direction, header, from, to)) break;
  }
  // An end on one side is an end on the other, except for a node that has vanished: it says nothing.
  if (!swallowing()) link->cut();
  ++link->ended;
}

bool FrameProxy::forward(Link& link, Direction direction, wire::FrameHeader header, int from, int to) {
  auto rule = meet(header, direction);
  if (rule && rule->moment == Moment::before) carry_out(*rule, link);
  if (rule && rule->then == FrameRule::Then::damage) header.checksum ^= 1;
  if (rule && rule->then == FrameRule::Then::rewrite) {
    std::string payload(header.length, '\0');
    if (!read_exactly(from, payload.data(), payload.size())) return false;
    rule->rewrite(header, payload);
    return write_exactly(to, reinterpret_cast<const char*>(&header), sizeof header) && write_exactly(to, payload.data(), payload.size());
  }
  bool passing = !swallowing();
  if (passing && !write_exactly(to, reinterpret_cast<const char*>(&header), sizeof header)) return false;
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
