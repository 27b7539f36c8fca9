// SPDX-License-Identifier: MIT
#include "agent/peer_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "kernel/socket.h"
#include "move/channel.h"
#include "move/codec.h"
#include "support/fleet.h"

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
  void listen(Nanoseconds hello_bound, std::shared_ptr<move::Tls> tls = {}) {
    server_.reset();
    PeerServer::Handlers handlers;
    handlers.accept = [](const move::StreamId&, const move::Hello&, const move::NodeCertificate*) { return Status{}; };
    handlers.on_connection = [this](PeerServer::Incoming incoming) { arrived_.push_back(std::move(incoming)); };
    auto server = PeerServer::listen(*loop_, endpoint_, move::local_hello("here", move::Purpose::control), handlers, hello_bound, std::move(tls));
    ASSERT_TRUE(server) << server.error().what;
    server_ = std::move(*server);
  }
  Fd connect() {
    auto client = tcp_connect(endpoint_, kAnswerBound);
    EXPECT_TRUE(client) << client.error().what;
    // Out of the way: the lowest free number is the accepted end's.
    return client ? Fd(fcntl(client->get(), F_DUPFD_CLOEXEC, 200)) : Fd();
  }
  // From another address of this machine.
  Fd connect_from(const char* address) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in from{}, to{};
    from.sin_family = to.sin_family = AF_INET;
    inet_pton(AF_INET, address, &from.sin_addr);
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint_.substr(endpoint_.rfind(':') + 1))));
    EXPECT_EQ(bind(socket.get(), reinterpret_cast<sockaddr*>(&from), sizeof from), 0);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    return Fd(fcntl(socket.get(), F_DUPFD_CLOEXEC, 200));
  }
  // A node that says HELLO in a thread while the loop runs here.
  Result<move::Hello> say_hello(const std::string& name, const std::shared_ptr<move::Tls>& tls) {
    std::atomic<bool> done{false};
    Result<move::Hello> answer = fail("no answer");
    std::jthread node([&] {
      answer = [&]() -> Result<move::Hello> {
        MOSE_ASSIGN(auto socket, move::connect_stream(endpoint_, tls, "here", kAnswerBound));
        move::Channel channel(std::move(socket), {MigrationId::random(), 1});
        return move::greet(channel, move::local_hello(name, move::Purpose::query), kAnswerBound);
      }();
      done = true;
    });
    for (Timestamp deadline = now() + 2 * kAnswerBound; !done && now() < deadline;) loop_->run_once(1ms);
    node.join();
    return answer;
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

TEST_F(PeerServers, AFloodFromOneAddressKeepsNoOtherOut) {
  Fd quiet = connect_from("127.0.0.2");
  std::vector<Fd> flood;
  for (size_t i = 0; i < 5 * PeerServer::kPendingMax; ++i) {
    flood.push_back(connect());
    loop_->run_once(Nanoseconds(0));
  }
  for (Timestamp end = now() + 200ms; now() < end;) loop_->run_once(1ms);
  auto hello = move::encode_frame(wire::FrameType::hello, {MigrationId::random(), 3},
                                  move::encode_hello(move::local_hello("there", move::Purpose::query)));
  ASSERT_EQ(send(quiet.get(), hello.data(), hello.size(), 0), static_cast<ssize_t>(hello.size()));
  for (Timestamp deadline = now() + kAnswerBound; arrived_.empty() && now() < deadline;) loop_->run_once(1ms);
  ASSERT_EQ(arrived_.size(), 1u) << "the oldest of all, but the only one of its address";
  EXPECT_TRUE(arrived_[0].address.starts_with("127.0.0.2:"));
  EXPECT_TRUE(closed(flood.front(), kAnswerBound)) << "the flood's own oldest has made room";
  EXPECT_FALSE(closed(flood.back(), 100ms));
}

TEST_F(PeerServers, TakeOnlyWhoHasACertificateOfHisName) {
  const test::Fleet fleet, others;
  auto there = move::Tls::load(fleet.node("there")).value();
  listen(PeerServer::kHelloBound, move::Tls::load(fleet.node("here")).value());
  auto answer = say_hello("there", there);
  ASSERT_TRUE(answer) << answer.error().what;
  ASSERT_EQ(arrived_.size(), 1u);
  EXPECT_TRUE(arrived_[0].socket.encrypted());

  answer = say_hello("somebody", there);
  ASSERT_FALSE(answer);
  EXPECT_THAT(answer.error().what, testing::HasSubstr("it calls itself \"somebody\" and its certificate is of there"));

  move::TlsFiles stranger = others.node("there");
  stranger.authorities = fleet.path("ca.crt");
  answer = say_hello("there", move::Tls::load(stranger).value());
  ASSERT_FALSE(answer);
  EXPECT_THAT(answer.error().what, testing::HasSubstr("does not know the authority of this node's certificate"));
  EXPECT_EQ(arrived_.size(), 1u);
}

TEST_F(PeerServers, SayWhatIsWrongWhereOnlyOneEndSpeaksTls) {
  const test::Fleet fleet;
  listen(PeerServer::kHelloBound, move::Tls::load(fleet.node("here")).value());
  auto answer = say_hello("there", nullptr);
  ASSERT_FALSE(answer);
  EXPECT_THAT(answer.error().what, testing::HasSubstr("peer refuses: this node speaks TLS only"));

  listen(PeerServer::kHelloBound);
  answer = say_hello("there", move::Tls::load(fleet.node("there")).value());
  ASSERT_FALSE(answer);
  EXPECT_THAT(answer.error().what, testing::HasSubstr("the peer speaks plain text and this node TLS"));
  EXPECT_TRUE(arrived_.empty());
}

TEST_F(PeerServers, CloseAHandshakeThatStandsStill) {
  const test::Fleet fleet;
  listen(kShortHelloBound, move::Tls::load(fleet.node("here")).value());
  Fd silent = connect();
  const char part_of_a_record[] = "\x16\x03\x01\x02\x00\x01";
  ASSERT_GT(send(silent.get(), part_of_a_record, sizeof part_of_a_record - 1, 0), 0);
  EXPECT_FALSE(closed(silent, kShortHelloBound / 2));
  EXPECT_TRUE(closed(silent, kAnswerBound));
}

}  // namespace
}  // namespace mose::agent
