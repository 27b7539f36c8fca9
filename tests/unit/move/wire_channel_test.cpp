// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "kernel/socket.h"
#include "move/channel.h"
#include "move/frame_buffer.h"
#include "move/hello.h"
#include "stream.h"

namespace mose::move {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::pair<Fd, Fd> socket_pair() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

std::pair<StreamSocket, StreamSocket> streams() {
  auto [a, b] = socket_pair();
  return {std::move(a), std::move(b)};
}

class Channels : public testing::Test {
 protected:
  Channels() { connect(seconds(60)); }
  void connect(Nanoseconds stall_max) {
    auto [a, b] = socket_pair();
    a_ = Channel(std::move(a), kStream, stall_max);
    b_ = Channel(std::move(b), kStream, stall_max);
  }
  Channel a_, b_;
};

TEST_F(Channels, CarryAFrameOfPartsLargerThanTheSocketBuffer) {
  std::vector<std::byte> big(20u << 20);
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<std::byte>(i * 31 >> 3);
  std::jthread sender([&] {
    std::span<const std::byte> all(big);
    std::span<const std::byte> parts[] = {all.first(3), {}, all.subspan(3)};
    EXPECT_TRUE(a_.send(wire::FrameType::images, parts));
  });
  auto frame = b_.receive(seconds(60));
  ASSERT_TRUE(frame) << frame.error().what;
  EXPECT_EQ(frame->type, wire::FrameType::images);
  EXPECT_EQ(frame->payload, big);
  sender.join();
  EXPECT_EQ(a_.bytes_sent(), b_.bytes_received());
}

TEST_F(Channels, AFrameOfManyPartsArrivesWhole) {
  std::vector<std::byte> bytes(3000, std::byte{7});
  std::vector<std::span<const std::byte>> parts(3000);
  for (size_t i = 0; i < parts.size(); ++i) parts[i] = std::span(bytes).subspan(i, 1);
  ASSERT_TRUE(a_.send(wire::FrameType::hello, parts));
  EXPECT_EQ(b_.receive(seconds(60))->payload, bytes);
}

TEST_F(Channels, AnEagerOneGivesFramesInTurnThoughItHasReadThemTogether) {
  b_.be_eager(milliseconds(1));
  EXPECT_FALSE(b_.has_pending());
  std::vector<std::byte> large(100000);
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<std::byte>(i * 7 >> 2);
  std::jthread sender([&] {
    for (size_t size : {5u, 0u, 100000u, 30u, 16384u, 1u}) {
      std::span<const std::byte> payload = std::span(large).first(size);
      ASSERT_TRUE(a_.send(size == 0 ? wire::FrameType::ping : wire::FrameType::images, payload));
    }
  });
  for (size_t size : {5u, 0u, 100000u}) {
    auto frame = b_.receive(seconds(60));
    ASSERT_TRUE(frame) << frame.error().what;
    EXPECT_EQ(frame->payload, std::vector<std::byte>(large.begin(), large.begin() + static_cast<long>(size)));
  }
  sender.join();
  b_.be_eager({});  // what it has read it still gives
  for (size_t size : {30u, 16384u, 1u}) EXPECT_EQ(b_.receive(seconds(60))->payload.size(), size);
  EXPECT_FALSE(b_.has_pending());
  EXPECT_EQ(a_.bytes_sent(), b_.bytes_received());
}

TEST_F(Channels, AnEagerOneSleepsAndLosesNothingWhenNobodyAnswers) {
  b_.be_eager(milliseconds(5));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(b_.receive(milliseconds(20)).error().code, ETIMEDOUT);
  ASSERT_TRUE(a_.send(wire::FrameType::ping, std::span<const std::byte>{}));
  EXPECT_EQ(b_.receive(seconds(60))->type, wire::FrameType::ping);
  a_ = Channel();
  EXPECT_EQ(b_.receive(seconds(60)).error().code, ECONNRESET);
}

TEST_F(Channels, SilenceIsATimeoutAndLosesNothing) {
  auto nothing = b_.receive(milliseconds(10));
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ETIMEDOUT);
  ASSERT_TRUE(a_.send(wire::FrameType::ping, std::span<const std::byte>{}));
  EXPECT_EQ(b_.receive(seconds(60))->type, wire::FrameType::ping);
}

TEST_F(Channels, AFrameThatStopsHalfwayEndsAtTheStallTime) {
  connect(milliseconds(50));
  auto bytes = encode_frame(wire::FrameType::hello, kStream, as_bytes("hello"));
  ASSERT_EQ(send(a_.fd(), bytes.data(), bytes.size() - 1, 0), static_cast<ssize_t>(bytes.size() - 1));
  auto frame = b_.receive(seconds(60));
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().code, ETIMEDOUT);
}

TEST_F(Channels, AClosedPeerIsConnectionReset) {
  a_ = Channel();
  EXPECT_EQ(b_.receive(seconds(60)).error().code, ECONNRESET);
}

TEST_F(Channels, ShutDownWakesAReceiver) {
  std::jthread later([&] { b_.shut_down(); });
  EXPECT_FALSE(b_.receive(seconds(30)));
}

TEST_F(Channels, APeerThatDoesNotReadStallsTheSenderForABoundedTime) {
  connect(milliseconds(50));
  std::vector<std::byte> big(64u << 20);
  Status status = a_.send(wire::FrameType::images, big);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ETIMEDOUT);
}

TEST_F(Channels, WrongChecksumAndForeignFramesAreRefused) {
  auto bytes = encode_frame(wire::FrameType::hello, kStream, as_bytes("hello"));
  bytes.back() ^= std::byte{1};
  ASSERT_GT(send(a_.fd(), bytes.data(), bytes.size(), 0), 0);
  auto frame = b_.receive(seconds(60));
  ASSERT_FALSE(frame);
  EXPECT_NE(frame.error().what.find("checksum"), std::string::npos);
  bytes = encode_frame(wire::FrameType::hello, {kStream.migration, 5}, as_bytes("hello"));
  ASSERT_GT(send(a_.fd(), bytes.data(), bytes.size(), 0), 0);
  EXPECT_FALSE(b_.receive(seconds(60)));
}

TEST(FrameBuffers, CarryFramesInAnyPieces) {
  auto [a, b] = streams();
  FrameReader reader(kStream);
  auto bytes = encode_frame(wire::FrameType::prepare, kStream, as_bytes("payload"));
  auto second = encode_frame(wire::FrameType::commit, kStream, {});
  bytes.insert(bytes.end(), second.begin(), second.end());
  std::vector<Frame> got;
  for (std::byte byte : bytes) {
    ASSERT_EQ(send(a.fd(), &byte, 1, 0), 1);
    auto frame = reader.read(b);
    ASSERT_TRUE(frame) << frame.error().what;
    if (*frame) got.push_back(std::move(**frame));
  }
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(as_text(got[0].payload), "payload");
  EXPECT_EQ(got[1].type, wire::FrameType::commit);
  a.reset();
  EXPECT_EQ(reader.read(b).error().code, ECONNRESET);
}

TEST(FrameBuffers, ReadOneFrameAndNoByteMore) {
  auto [a, b] = streams();
  FrameReader reader;
  auto bytes = encode_frame(wire::FrameType::hello, kStream, as_bytes("x"));
  bytes.push_back(std::byte{42});
  ASSERT_EQ(send(a.fd(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  auto frame = reader.read(b);
  ASSERT_TRUE(frame && *frame);
  EXPECT_EQ((*frame)->stream, kStream);
  std::byte rest{};
  EXPECT_EQ(recv(b.fd(), &rest, 1, MSG_DONTWAIT), 1);
  EXPECT_EQ(rest, std::byte{42});
}

TEST(FrameBuffers, WriterGoesOnWhereTheSocketWasFull) {
  auto [a, b] = streams();
  std::vector<std::byte> big(5u << 20, std::byte{9});
  FrameWriter writer;
  ASSERT_TRUE(writer.push(wire::FrameType::images, kStream, big));
  ASSERT_TRUE(writer.push(wire::FrameType::commit, kStream, {}));
  FrameReader reader(kStream);
  std::vector<Frame> got;
  bool all_out = false;
  for (int i = 0; i < 100000 && got.size() < 2; ++i) {
    if (!all_out) {
      auto flushed = writer.flush(a);
      ASSERT_TRUE(flushed);
      all_out = *flushed;
    }
    auto frame = reader.read(b);
    ASSERT_TRUE(frame) << frame.error().what;
    if (*frame) got.push_back(std::move(**frame));
  }
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].payload, big);
  EXPECT_TRUE(writer.empty());
}

TEST(FrameBuffers, RefuseALengthBeforeReadingIt) {
  auto [a, b] = streams();
  wire::FrameHeader header = make_header(wire::FrameType::commit, kStream, UINT32_MAX, 0);
  ASSERT_EQ(send(a.fd(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
  FrameReader reader(kStream);
  EXPECT_FALSE(reader.read(b));
  FrameWriter writer;
  EXPECT_EQ(writer.push(wire::FrameType::ping, kStream, as_bytes("x")).error().code, EMSGSIZE);
}

TEST(FrameBuffers, RefuseImagesThatAreLongerThanWanted) {
  for (auto type : {wire::FrameType::images, wire::FrameType::standby}) {
    for (uint32_t length : {1000u, 1001u}) {
      auto [a, b] = streams();
      wire::FrameHeader header = make_header(type, kStream, length, 0);
      ASSERT_EQ(send(a.fd(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
      FrameReader reader(kStream);
      reader.limit_images(1000);
      auto frame = reader.read(b);
      EXPECT_EQ(frame.has_value(), length == 1000) << to_string(type) << ' ' << length;
      EXPECT_EQ(frame ? EMSGSIZE : frame.error().code, EMSGSIZE);
    }
  }
}

TEST(FrameBuffers, RefuseAnyOtherTypeThanTheOneWanted) {
  struct Row {
    wire::FrameType type;
    uint32_t length;
    const char* reason;  // null: it is waited for
  };
  for (Row row : {Row{wire::FrameType::hello, wire::kHelloPayloadMax, nullptr},
                  Row{wire::FrameType::hello, wire::kHelloPayloadMax + 1, "at most"},
                  Row{wire::FrameType::images, wire::kImagesPayloadMax, "IMAGES frame where only HELLO is taken"},
                  Row{wire::FrameType::commit, 0, "COMMIT frame where only HELLO is taken"}}) {
    auto [a, b] = streams();
    wire::FrameHeader header = make_header(row.type, kStream, row.length, 0);
    ASSERT_EQ(send(a.fd(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
    FrameReader reader;
    reader.take_only(wire::FrameType::hello);
    auto frame = reader.read(b);
    ASSERT_EQ(frame.has_value(), row.reason == nullptr) << to_string(row.type) << ' ' << row.length;
    if (!frame) {
      EXPECT_NE(frame.error().what.find(row.reason), std::string::npos) << frame.error().what;
    }
  }
}

TEST(HelloFrame, SurvivesTheWire) {
  Hello hello = local_hello("node-a", Purpose::bulk);
  hello.token = std::string("\0\x01token", 7);
  hello.criu_version = "4.2.1";
  auto decoded = decode_hello(encode_hello(hello));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, hello);
  EXPECT_FALSE(hello.architecture.empty());
  EXPECT_EQ(hello.page_size, 4096u);
  EXPECT_FALSE(decode_hello(as_bytes("\xff\xff\xff")));
}

TEST(HelloFrame, RefusalsSayWhatDiffers) {
  Hello mine = local_hello("a", Purpose::control);
  Hello theirs = local_hello("b", Purpose::control);
  EXPECT_TRUE(check_peer(mine, theirs));
  theirs.version_min = 2;
  theirs.version_max = 3;
  EXPECT_NE(check_peer(mine, theirs).error().what.find("versions 2 to 3"), std::string::npos);
  theirs = local_hello("b", Purpose::control);
  theirs.architecture = "sparc";
  EXPECT_NE(check_peer(mine, theirs).error().what.find("sparc"), std::string::npos);
  theirs = local_hello("b", Purpose::control);
  theirs.page_size = 65536;
  EXPECT_NE(check_peer(mine, theirs).error().what.find("65536"), std::string::npos);
}

TEST(HelloFrame, MissingCpuFeaturesAreNamed) {
  Hello source, destination;
  source.cpu_features = {"avx", "avx2", "sse2"};
  destination.cpu_features = {"avx", "sse2", "vaes"};
  EXPECT_EQ(missing_cpu_features(source, destination), std::vector<std::string>{"avx2"});
  EXPECT_TRUE(missing_cpu_features(source, source).empty());
}

TEST(HelloFrame, TokensCompareWholeAndEmptyIsNone) {
  EXPECT_TRUE(same_token("abc", "abc"));
  EXPECT_FALSE(same_token("abc", "abd"));
  EXPECT_FALSE(same_token("abc", "abcd"));
  EXPECT_FALSE(same_token("", ""));
}

TEST(HelloFrame, GreetingOverTcpAnswersOrTurnsAway) {
  auto listener = tcp_listen("127.0.0.1:0");
  ASSERT_TRUE(listener) << listener.error().what;
  auto endpoint = local_endpoint(listener->get());
  ASSERT_TRUE(set_blocking(listener->get(), true));
  for (bool accept : {true, false}) {
    std::jthread server([&] {
      auto accepted = tcp_accept(listener->get(), false);
      ASSERT_TRUE(accepted && accepted->socket);
      Channel channel(std::move(accepted->socket), kStream);
      auto hello = channel.receive(seconds(5));
      ASSERT_TRUE(hello);
      EXPECT_EQ(decode_hello(hello->payload)->node, "client");
      EXPECT_TRUE(accept ? welcome(channel, local_hello("server", Purpose::unspecified)) : turn_away(channel, "not today"));
    });
    auto socket = tcp_connect(*endpoint, seconds(2));
    ASSERT_TRUE(socket) << socket.error().what;
    Channel channel(std::move(*socket), kStream);
    auto theirs = greet(channel, local_hello("client", Purpose::query), seconds(5));
    EXPECT_EQ(theirs.has_value(), accept);
    if (theirs) {
      EXPECT_EQ(theirs->node, "server");
    } else {
      EXPECT_NE(theirs.error().what.find("not today"), std::string::npos);
    }
  }
}

TEST(Endpoints, ThatAreWrongAreRefused) {
  for (const char* text : {"", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:8x", "host:80", "::1:80", "[::1:80"}) {
    EXPECT_FALSE(tcp_connect(text, milliseconds(10))) << text;
  }
  auto listener = tcp_listen("[::1]:0");
  if (listener) {
    EXPECT_TRUE(local_endpoint(listener->get())->starts_with("[::1]:"));
  }
}

TEST(Endpoints, ARefusedConnectionNamesTheEndpoint) {
  auto listener = tcp_listen("127.0.0.1:0");
  ASSERT_TRUE(listener);
  std::string endpoint = *local_endpoint(listener->get());
  listener->reset();
  auto socket = tcp_connect(endpoint, seconds(1));
  ASSERT_FALSE(socket);
  EXPECT_NE(socket.error().what.find(endpoint), std::string::npos) << socket.error().what;
}

}  // namespace
}  // namespace mose::move
