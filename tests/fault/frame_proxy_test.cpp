// SPDX-License-Identifier: MIT
// The proxy between two peers of the test's own: frames pass unharmed, and each kind of harm happens at its frame.
#include "frame_proxy.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>

#include "kernel/socket.h"
#include "move/channel.h"
#include "support/fleet.h"

namespace mose::test {
namespace {

using wire::FrameType;

// One connection through the proxy, both ends in our hands.
class FrameProxyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto listener = tcp_listen("127.0.0.1:0");
    ASSERT_TRUE(listener);
    listener_ = std::move(*listener);
    auto proxy = FrameProxy::listen("127.0.0.1:0", *local_endpoint(listener_.get()));
    ASSERT_TRUE(proxy) << proxy.error().what;
    proxy_ = std::move(*proxy);
    open(source_, target_);
  }

  void open(Fd& source, Fd& target) {
    auto connected = tcp_connect(proxy_->endpoint(), std::chrono::seconds(2));
    ASSERT_TRUE(connected);
    source = std::move(*connected);
    pollfd p{listener_.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&p, 1, 2000), 1);
    auto accepted = tcp_accept(listener_.get(), false);
    ASSERT_TRUE(accepted && accepted->socket);
    target = std::move(accepted->socket);
  }

  static void send_frame(const Fd& fd, FrameType type, const std::string& payload = "") {
    wire::FrameHeader header{};
    header.magic = wire::kMagic;
    header.type = static_cast<uint16_t>(type);
    header.length = static_cast<uint32_t>(payload.size());
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    ASSERT_TRUE(write_all(fd.get(), bytes + payload));
  }
  // Type of the next frame, invalid when the connection ends, nothing within `ms`.
  static std::optional<FrameType> receive(const Fd& fd, std::string* payload = nullptr, int ms = 2000) {
    pollfd p{fd.get(), POLLIN, 0};
    if (::poll(&p, 1, ms) != 1) return {};
    wire::FrameHeader header{};
    if (::recv(fd.get(), &header, sizeof header, MSG_WAITALL) != static_cast<ssize_t>(sizeof header)) return FrameType::invalid;
    std::string body(header.length, '\0');
    if (!body.empty() && ::recv(fd.get(), body.data(), body.size(), MSG_WAITALL) != static_cast<ssize_t>(body.size())) {
      return FrameType::invalid;
    }
    if (payload) *payload = body;
    return static_cast<FrameType>(header.type);
  }

  Fd listener_, source_, target_;
  std::unique_ptr<FrameProxy> proxy_;
};

TEST_F(FrameProxyTest, FramesPassInBothDirections) {
  std::string large(3u << 20, 'x'), got;
  std::thread sender([&] { send_frame(source_, FrameType::images, large); });
  EXPECT_EQ(receive(target_, &got), FrameType::images);
  sender.join();
  EXPECT_EQ(got, large);
  send_frame(target_, FrameType::ready);
  EXPECT_EQ(receive(source_), FrameType::ready);
  EXPECT_FALSE(proxy_->fired());
}

TEST_F(FrameProxyTest, ActsBeforeTheNthFrameOfItsTypeAndDirection) {
  std::atomic<int> acts{0};
  FrameRule rule{.type = FrameType::ping, .direction = Direction::to_target, .moment = Moment::before, .nth = 2};
  rule.then = FrameRule::Then::cut;
  rule.action = [&] { ++acts; };
  proxy_->set_rule(rule);
  send_frame(source_, FrameType::pong);
  send_frame(target_, FrameType::ping);  // the other direction
  send_frame(source_, FrameType::ping);
  EXPECT_EQ(receive(target_), FrameType::pong);
  EXPECT_EQ(receive(target_), FrameType::ping);
  EXPECT_EQ(receive(source_), FrameType::ping);
  EXPECT_EQ(acts.load(), 0);
  send_frame(source_, FrameType::ping);
  EXPECT_EQ(receive(target_), FrameType::invalid);
  EXPECT_EQ(receive(source_), FrameType::invalid);
  EXPECT_EQ(acts.load(), 1);
  EXPECT_TRUE(proxy_->fired());
}

TEST_F(FrameProxyTest, ActsAfterTheFrameHasPassed) {
  FrameRule rule{.type = FrameType::commit, .direction = Direction::to_target, .moment = Moment::after};
  rule.then = FrameRule::Then::cut;
  proxy_->set_rule(rule);
  send_frame(source_, FrameType::commit, "payload");
  std::string got;
  EXPECT_EQ(receive(target_, &got), FrameType::commit);
  EXPECT_EQ(got, "payload");
  EXPECT_EQ(receive(target_), FrameType::invalid);
}

TEST_F(FrameProxyTest, AVanishedNodeSaysNothingUntilItIsBack) {
  FrameRule rule{.type = FrameType::prepare, .direction = Direction::to_target, .moment = Moment::before};
  rule.then = FrameRule::Then::swallow;
  proxy_->set_rule(rule);
  send_frame(source_, FrameType::prepare);
  EXPECT_EQ(receive(target_, nullptr, 100), std::nullopt);
  send_frame(target_, FrameType::prepared);
  EXPECT_EQ(receive(source_, nullptr, 100), std::nullopt);
  Fd second_source, second_target;
  open(second_source, second_target);
  send_frame(second_source, FrameType::hello);
  EXPECT_EQ(receive(second_target, nullptr, 100), std::nullopt);
  proxy_->heal();
  EXPECT_EQ(receive(source_), FrameType::invalid);
  open(source_, target_);
  send_frame(source_, FrameType::hello);
  EXPECT_EQ(receive(target_), FrameType::hello);
}

TEST_F(FrameProxyTest, DelaysAFrame) {
  FrameRule rule{.type = FrameType::ready, .direction = Direction::from_target, .moment = Moment::before};
  rule.then = FrameRule::Then::delay;
  rule.delay = std::chrono::milliseconds(200);
  proxy_->set_rule(rule);
  send_frame(target_, FrameType::ready);
  EXPECT_EQ(receive(source_, nullptr, 50), std::nullopt);
  EXPECT_EQ(receive(source_), FrameType::ready);
}

TEST_F(FrameProxyTest, AnEndOnOneSideIsAnEndOnTheOther) {
  source_.reset();
  EXPECT_EQ(receive(target_), FrameType::invalid);
}

TEST_F(FrameProxyTest, ATargetThatIsNotThereEndsTheConnection) {
  listener_.reset();
  auto connected = tcp_connect(proxy_->endpoint(), std::chrono::seconds(2));
  ASSERT_TRUE(connected);
  EXPECT_EQ(receive(*connected), FrameType::invalid);
}

// Each end takes the proxy for the other node, because it has that node's certificate, and it reads what neither says in the clear.
TEST(FrameProxyTls, IsEachEndsOtherNode) {
  const Fleet fleet;
  std::map<std::string, std::shared_ptr<move::Tls>> identities;
  for (const char* node : {"a", "b"}) identities[node] = move::Tls::load(fleet.node(node)).value();
  Fd listener = tcp_listen("127.0.0.1:0").value();
  auto proxy = FrameProxy::listen("127.0.0.1:0", *local_endpoint(listener.get()), {"b", identities["b"], identities["a"]}).value();
  proxy->set_rule({.type = FrameType::images, .then = FrameRule::Then::damage});

  const move::StreamId stream{MigrationId::random(), 1};
  constexpr Nanoseconds kBound = std::chrono::seconds(2);
  std::thread target([&] {
    pollfd p{listener.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&p, 1, 2000), 1);
    auto accepted = tcp_accept(listener.get(), false);
    ASSERT_TRUE(accepted && accepted->socket);
    move::Channel channel(identities["b"]->accept(std::move(accepted->socket)).value(), stream, kBound);
    auto first = channel.receive(kBound);
    ASSERT_TRUE(first) << first.error().what;
    EXPECT_EQ(move::as_text(first->payload), "prepare");
    ASSERT_NE(channel.peer(), nullptr);
    EXPECT_TRUE(channel.peer()->is_of("a"));
    ASSERT_TRUE(channel.send(FrameType::prepared, move::as_bytes("prepared")));
    EXPECT_FALSE(channel.receive(kBound)) << "its checksum was not its own any more";
  });
  auto connected = move::connect_stream(proxy->endpoint(), identities["a"], "b", kBound);
  EXPECT_TRUE(connected) << connected.error().what;
  if (connected) {
    move::Channel channel(std::move(*connected), stream, kBound);
    EXPECT_TRUE(channel.peer() && channel.peer()->is_of("b"));
    EXPECT_TRUE(channel.send(FrameType::prepare, move::as_bytes("prepare")));
    auto answer = channel.receive(kBound);
    EXPECT_TRUE(answer && move::as_text(answer->payload) == "prepared");
    EXPECT_TRUE(channel.send(FrameType::images, move::as_bytes("images")));
  }
  target.join();
  EXPECT_TRUE(proxy->fired());
}

}  // namespace
}  // namespace mose::test
