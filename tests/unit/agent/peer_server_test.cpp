// SPDX-License-Identifier: MIT
#include "agent/peer_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "kernel/socket.h"
#include "move/codec.h"

namespace mose::agent {
namespace {

using namespace std::chrono_literals;

constexpr Nanoseconds kAnswerBound = 2s;  // well below the time that a connection has for its HELLO
constexpr Nanoseconds kShortHelloBound = 600ms;

class PeerServers : public testing::Test {
 protected:
  void SetUp() override {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    // A port that was free a moment ago.
    auto taken = tcp_listen("127.0.0.1:0");
    ASSERT_TRUE(taken) << taken.error().what;
    endpoint_ = local_endpoint(taken->get()).value();
    taken->reset();
    listen(PeerServer::kHelloBound);
  }
  void listen(Nanoseconds hello_bound) {
    server_.reset();
    PeerServer::Handlers handlers;
    handlers.accept = [](const move::StreamId&, const move::Hello&) { return Status{}; };
    handlers.on_connection = [this](PeerServer::Incoming incoming) { arrived_.push_back(std::move(incoming)); };
    auto server = PeerServer::listen(*loop_, endpoint_, move::local_hello("here", move::Purpose::control), handlers, hello_bound);
    ASSERT_TRUE(server) << server.error().what;
    server_ = std::move(*server);
  }
  Fd connect() {
    auto client = tcp_connect(endpoint_, kAnswerBound);
    EXPECT_TRUE(client) << client.error().what;
    // Out of the way: the lowest free number is the accepted end's.
    return client ? Fd(fcntl(client->get(), F_DUPFD_CLOEXEC, 200)) : Fd();
  }
  // Until the server has closed this connection. Reads what comes before.
  bool closed(const Fd& client, Nanoseconds bound) {
    for (Timestamp deadline = now() + bound; now() < deadline; loop_->run_once(1ms)) {
      char some[4096];
      ssize_t got = recv(client.get(), some, sizeof some, MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
    }
    return false;
  }

  std::unique_ptr<EventLoop> loop_;
  std::string endpoint_;
  std::vector<PeerServer::Incoming> arrived_;
  std::unique_ptr<PeerServer> server_;
};

TEST_F(PeerServers, HandOverWhoSaysHello) {
  Fd client = connect();
  auto hello = move::encode_frame(wire::FrameType::hello, {MigrationId::random(), 3},
                                  move::encode_hello(move::local_hello("there", move::Purpose::query)));
  ASSERT_EQ(send(client.get(), hello.data(), hello.size(), 0), static_cast<ssize_t>(hello.size()));
  for (Timestamp deadline = now() + kAnswerBound; arrived_.empty() && now() < deadline;) loop_->run_once(1ms);
  ASSERT_EQ(arrived_.size(), 1u);
  EXPECT_EQ(arrived_[0].hello.node, "there");
  EXPECT_EQ(arrived_[0].stream.epoch, 3u);
}

TEST_F(PeerServers, CloseBeforeThePayloadOfWhatIsNoHello) {
  for (auto type : {wire::FrameType::images, wire::FrameType::standby, wire::FrameType::page_map, wire::FrameType::prepare}) {
    Fd client = connect();
    auto header = move::make_header(type, {MigrationId::random(), 1}, move::payload_max(type), 0);
    ASSERT_EQ(send(client.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    EXPECT_TRUE(closed(client, kAnswerBound)) << move::to_string(type);
  }
  EXPECT_TRUE(arrived_.empty());
}

TEST_F(PeerServers, GiveALaterConnectionOfTheSameNumberItsOwnTime) {
  listen(kShortHelloBound);
  Fd first = connect();
  // The number that the next accepted connection gets: the loop believes that it watches it already.
  Fd taken(eventfd(0, EFD_CLOEXEC));
  const int number = taken.get();
  ASSERT_TRUE(loop_->watch(number, EPOLLIN, [](uint32_t) {}));
  taken.reset();
  ASSERT_TRUE(closed(first, kShortHelloBound / 2)) << "it could not be watched";
  loop_->unwatch(number);

  for (Timestamp half = now() + kShortHelloBound / 2; now() < half;) loop_->run_once(1ms);
  const Timestamp began = now();
  Fd second = connect();
  EXPECT_TRUE(closed(second, kAnswerBound));
  EXPECT_GE(now() - began, kShortHelloBound);
}

}  // namespace
}  // namespace mose::agent
