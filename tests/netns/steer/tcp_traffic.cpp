// SPDX-License-Identifier: MIT
#include "tcp_traffic.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "bed.h"
#include "kernel/netns.h"

namespace mose::test {
namespace {

constexpr size_t kRequestBytes = 100;
constexpr int kBacklog = 4096;
constexpr auto kLastAnswers = std::chrono::seconds(3);

sockaddr_storage service_address(const char* text, socklen_t& size) {
  sockaddr_storage storage{};
  if (std::strchr(text, ':') != nullptr) {
    auto* in = reinterpret_cast<sockaddr_in6*>(&storage);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(kPort);
    inet_pton(AF_INET6, text, &in->sin6_addr);
    size = sizeof *in;
  } else {
    auto* in = reinterpret_cast<sockaddr_in*>(&storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(kPort);
    inet_pton(AF_INET, text, &in->sin_addr);
    size = sizeof *in;
  }
  return storage;
}

void watch(const Fd& epoll, int fd, uint32_t events) {
  epoll_event event{.events = events, .data = {.fd = fd}};
  EXPECT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event), 0) << strerror(errno);
}

}  // namespace

EchoService::EchoService(const Fd& netns, const char* address) : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  listener_ = tcp_listener(netns, address, kPort);
  EXPECT_EQ(listen(listener_.get(), kBacklog), 0);
  watch(epoll_, listener_.get(), EPOLLIN);
  thread_ = std::thread([this] { run(); });
}

void EchoService::stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void EchoService::run() {
  std::array<epoll_event, 64> events;
  while (!stop_) {
    int count = epoll_wait(epoll_.get(), events.data(), events.size(), 2);
    for (int i = 0; i < count; ++i) {
      int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd != listener_.get()) {
        serve(fd);
        continue;
      }
      Fd made(accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!made) continue;
      int one = 1;
      setsockopt(made.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      watch(epoll_, made.get(), EPOLLIN);
      int key = made.get();
      sockets_[key] = std::move(made);
      open_ = sockets_.size();
      ++accepted_;
    }
  }
}

void EchoService::serve(int fd) {
  std::array<char, 16384> buffer;
  ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) {
    (void)send(fd, buffer.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
    return;
  }
  sockets_.erase(fd);
  open_ = sockets_.size();
}

EchoClient::EchoClient(const Fd& netns, const char* address) : socket_(tcp_connect(netns, address, kPort)) {
  int one = 1;
  setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  receiver_ = std::thread([this] { receive_all(); });
  sender_ = std::thread([this] { send_all(); });
}

void EchoClient::send_all() {
  std::array<uint64_t, kRequestBytes / 8> request{};
  auto begin = std::chrono::steady_clock::now();
  for (uint64_t number = 1; !stop_sending_; ++number) {
    std::this_thread::sleep_until(begin + std::chrono::milliseconds(number));
    request[0] = number;
    request[1] = static_cast<uint64_t>(now_ns());
    if (send(socket_.get(), request.data(), sizeof request, MSG_NOSIGNAL) != sizeof request) break;
    sent_ = number;
  }
}

void EchoClient::receive_all() {
  std::array<uint64_t, kRequestBytes / 8> answer{};
  size_t have = 0;
  while (!stop_) {
    pollfd wait{.fd = socket_.get(), .events = POLLIN};
    if (poll(&wait, 1, 5) <= 0) continue;
    ssize_t got = recv(socket_.get(), reinterpret_cast<char*>(answer.data()) + have, sizeof answer - have, 0);
    if (got <= 0) {
      fault_ = fmt::format("the connection ended after {} answers: {}", answered_.load(), strerror(errno));
      return;
    }
    have += static_cast<size_t>(got);
    if (have < sizeof answer) continue;
    have = 0;
    int64_t took = now_ns() - static_cast<int64_t>(answer[1]);
    if (took > longest_ns_) longest_ns_ = took;
    if (answer[0] != answered_ + 1 && fault_.empty())
      fault_ = fmt::format("answer {} after {}", answer[0], answered_.load());
    ++answered_;
  }
}

void EchoClient::stop() {
  stop_sending_ = true;
  if (sender_.joinable()) sender_.join();
  for (auto until = now() + kLastAnswers; receiver_.joinable() && answered_ < sent_ && now() < until;) sleep_ms(1);
  stop_ = true;
  if (receiver_.joinable()) receiver_.join();
}

Nanoseconds EchoClient::take_longest() {
  return Nanoseconds(longest_ns_.exchange(0));
}

namespace {

// A held connection is a descriptor until it is answered: thousands where the machine is slow.
void allow_many_descriptors() {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0) << strerror(errno);
}

}  // namespace

ConnectionChurn::ConnectionChurn(const Fd& netns, const char* address, unsigned per_second)
    : epoll_(epoll_create1(EPOLL_CLOEXEC)), address_(address) {
  allow_many_descriptors();
  auto own = duplicate(netns.get());
  EXPECT_TRUE(own.has_value());
  netns_ = std::move(*own);
  thread_ = std::thread([this, per_second] {
    // The thread lives in the client's namespace: a socket a connection is made without another thread each.
    (void)in_netns(netns_.get(), [&]() -> Status {
      run(per_second);
      return {};
    });
  });
}

void ConnectionChurn::stop() {
  stop_connecting_ = true;
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void ConnectionChurn::run(unsigned per_second) {
  std::array<epoll_event, 128> events;
  Timestamp start = now(), stopped{};
  for (;;) {
    if (!stop_connecting_) {
      auto due = static_cast<uint64_t>((now() - start).count()) * per_second / 1'000'000'000;
      while (begun_ < due) begin();
    }
    int count = epoll_wait(epoll_.get(), events.data(), events.size(), 1);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      on_ready(event.data.fd, event.events);
    }
    if (!stop_) continue;
    if (stopped == Timestamp{}) stopped = now();
    if (connections_.empty()) return;
    if (now() - stopped < kLastAnswers) continue;
    failures_.push_back(fmt::format("{} connections were never answered", connections_.size()));
    return;
  }
}

void ConnectionChurn::begin() {
  ++begun_;
  socklen_t size = 0;
  auto to = service_address(address_.c_str(), size);
  Fd made(socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made) return fail(-1, "socket");
  if (connect(made.get(), reinterpret_cast<sockaddr*>(&to), size) != 0 && errno != EINPROGRESS)
    return fail(-1, "connect");
  watch(epoll_, made.get(), EPOLLOUT);
  int key = made.get();
  connections_[key] = {std::move(made), now()};
}

void ConnectionChurn::fail(int fd, const std::string& what) {
  failures_.push_back(what + ": " + strerror(errno));
  connections_.erase(fd);
}

void ConnectionChurn::on_ready(int fd, uint32_t) {
  auto it = connections_.find(fd);
  if (it == connections_.end()) return;
  Connection& connection = it->second;
  if (!connection.asked) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    errno = error;
    if (error != 0) return fail(fd, "connect");
    if (send(fd, "question", 8, MSG_NOSIGNAL) != 8) return fail(fd, "ask");
    connection.asked = true;
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
    return;
  }
  char answer[8];
  ssize_t got = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return;
  if (got != sizeof answer) return fail(fd, "answer");
  longest_ = std::max(longest_, now() - connection.begun);
  ++answered_;
  connections_.erase(it);
}

}  // namespace mose::test
