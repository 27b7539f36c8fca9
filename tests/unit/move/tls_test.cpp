// SPDX-License-Identifier: MIT
// TLS between two ends of this process: who is believed, what else is refused and why, and that bytes come as they went.
#include "move/tls.h"

#include <gmock/gmock.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "move/channel.h"
#include "move/frame_buffer.h"
#include "move/openssl.h"
#include "move/tls_session.h"
#include "stream.h"
#include "support/fleet.h"

namespace mose::move {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using test::Fleet;
using test::kDayS;

std::pair<Fd, Fd> connected() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

struct Ends {
  StreamSocket client, server;
};

// What a handshake has come to at each end: nothing is no error.
struct Outcome {
  std::string client, server;
};

// Both ends by turns until both are done or one has failed; then once more, so that the other one hears of it.
Outcome shake_hands(Ends& ends) {
  Outcome outcome;
  bool client_done = false, server_done = false;
  for (int turn = 0; turn < 20; ++turn) {
    auto client = ends.client.handshake();
    auto server = ends.server.handshake();
    if (!client) outcome.client = client.error().what;
    if (!server) outcome.server = server.error().what;
    client_done = client && *client == Wait::nothing;
    server_done = server && *server == Wait::nothing;
    if (client_done && (server_done || !server)) break;
  }
  // With TLS 1.3 the client is done before its certificate has been judged.
  char byte;
  const iovec part{&byte, 1};
  if (auto read = ends.client.read({&part, 1}); !read && outcome.client.empty()) outcome.client = read.error().what;
  return outcome;
}

class TlsStreams : public testing::Test {
 protected:
  Ends connect(const TlsFiles& client, const TlsFiles& server, const std::string& peer = "b") {
    client_ = Tls::load(client).value();
    server_ = Tls::load(server).value();
    return again(peer);
  }
  Ends again(const std::string& peer = "b") {
    auto [mine, theirs] = connected();
    return {client_->connect(std::move(mine), peer).value(), server_->accept(std::move(theirs)).value()};
  }
  std::pair<Channel, Channel> channels() {
    Ends ends = connect(fleet_.node("a"), fleet_.node("b"));
    const Outcome outcome = shake_hands(ends);
    EXPECT_EQ(outcome.client + outcome.server, "");
    return {Channel(std::move(ends.client), kStream), Channel(std::move(ends.server), kStream)};
  }
  Fleet fleet_;
  std::shared_ptr<Tls> client_, server_;
};

TEST_F(TlsStreams, EachEndKnowsTheOther) {
  Ends ends = connect(fleet_.node("a", {.source = true, .destination = false}), fleet_.node("b"));
  EXPECT_EQ(ends.server.peer(), nullptr) << "before the handshake nobody is anybody";
  const Outcome outcome = shake_hands(ends);
  EXPECT_EQ(outcome.client + outcome.server, "");
  ASSERT_NE(ends.server.peer(), nullptr);
  EXPECT_THAT(ends.server.peer()->names, ElementsAre("a"));
  EXPECT_EQ(ends.server.peer()->roles, (NodeRoles{true, false}));
  ASSERT_NE(ends.client.peer(), nullptr);
  EXPECT_TRUE(ends.client.peer()->is_of("b"));
  EXPECT_EQ(ends.client.peer()->roles, NodeRoles{});
}

TEST_F(TlsStreams, FramesGoBothWaysAtOnce) {
  auto [a, b] = channels();
  constexpr int kFrames = 24;
  constexpr size_t kBytes = 1u << 20;
  auto send_all = [&](Channel& channel, char first) {
    std::vector<std::byte> payload(kBytes);
    for (int i = 0; i < kFrames; ++i) {
      memset(payload.data(), first + i, payload.size());
      payload[17] = std::byte{99};
      // A small part before a large one, as pages have it.
      const std::span<const std::byte> parts[] = {std::span(payload).first(24), std::span(payload).subspan(24)};
      ASSERT_TRUE(channel.send(wire::FrameType::pages, parts));
    }
  };
  auto receive_all = [&](Channel& channel, char first) {
    for (int i = 0; i < kFrames; ++i) {
      auto frame = channel.receive(std::chrono::seconds(20));
      ASSERT_TRUE(frame) << frame.error().what;
      ASSERT_EQ(frame->payload.size(), kBytes);
      ASSERT_EQ(frame->payload[17], std::byte{99});
      ASSERT_EQ(frame->payload.back(), static_cast<std::byte>(first + i));
    }
  };
  std::jthread first([&] { send_all(a, 1); }), second([&] { send_all(b, 50); });
  std::jthread third([&] { receive_all(b, 1); });
  receive_all(a, 50);
}

TEST_F(TlsStreams, ManySmallPartsArriveInOrder) {
  auto [a, b] = channels();
  std::vector<std::byte> bytes(100'000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  std::vector<std::span<const std::byte>> parts;
  for (size_t at = 0, size = 1; at < bytes.size(); at += size, size = size % 97 + 1) {
    size = std::min(size, bytes.size() - at);
    parts.push_back(std::span(bytes).subspan(at, size));
  }
  std::jthread sending([&] { EXPECT_TRUE(a.send(wire::FrameType::pages, parts)); });
  auto frame = b.receive(std::chrono::seconds(10));
  ASSERT_TRUE(frame) << frame.error().what;
  EXPECT_EQ(frame->payload, bytes);
}

TEST_F(TlsStreams, WhatCameWithTheFirstFrameGoesToTheNextOwner) {
  Ends ends = connect(fleet_.node("a"), fleet_.node("b"));
  ASSERT_EQ(shake_hands(ends).server, "");
  FrameWriter writer;
  ASSERT_TRUE(writer.push(wire::FrameType::hello, kStream, as_bytes("one")));
  ASSERT_TRUE(writer.push(wire::FrameType::prepare, kStream, as_bytes("two")));
  ASSERT_TRUE(writer.flush(ends.client).value());
  FrameReader reader;
  auto first = reader.read(ends.server);
  ASSERT_TRUE(first && *first);
  EXPECT_EQ(as_text((*first)->payload), "one");
  EXPECT_TRUE(ends.server.has_pending()) << "poll does not show it";
  Channel channel(std::move(ends.server), kStream);
  auto second = channel.receive(std::chrono::seconds(1));
  ASSERT_TRUE(second) << second.error().what;
  EXPECT_EQ(as_text(second->payload), "two");
}

TEST_F(TlsStreams, APeerThatDoesNotReadCostsABoundedBuffer) {
  Ends ends = connect(fleet_.node("a"), fleet_.node("b"));
  ASSERT_EQ(shake_hands(ends).server, "");
  const std::vector<char> bytes(1u << 20, 'x');
  const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  Moved moved;
  size_t total = 0, most = 0;
  do {
    auto written = ends.client.write({&part, 1});
    ASSERT_TRUE(written);
    moved = *written;
    total += moved.bytes;
    most = std::max(most, ends.client.unsent());
    EXPECT_LE(moved.bytes, TlsSession::kCallBytes) << "the other thread waits for it";
  } while (moved.bytes > 0 && total < (64u << 20));
  EXPECT_EQ(moved.wait, Wait::to_write);
  EXPECT_GT(most, 0u);
  EXPECT_LE(most, 128u << 10);
  EXPECT_FALSE(ends.client.flush().value());
}

TEST_F(TlsStreams, ClosingIsSeenAsClosing) {
  auto [a, b] = channels();
  a = Channel();
  auto frame = b.receive(std::chrono::seconds(1));
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().code, ECONNRESET) << frame.error().what;
}

TEST_F(TlsStreams, BytesOfOthersInTheStreamEndIt) {
  auto [a, b] = channels();
  const char record[] = "\x17\x03\x03\x00\x20" "not encrypted with anybody's key";
  ASSERT_GT(::send(a.fd(), record, sizeof record - 1, 0), 0);
  auto frame = b.receive(std::chrono::seconds(1));
  ASSERT_FALSE(frame);
  EXPECT_THAT(frame.error().what, HasSubstr("bad record mac"));
  EXPECT_FALSE(b.send(wire::FrameType::ping, std::span<const std::byte>{})) << "useless after an error";
}

TEST_F(TlsStreams, ShutDownWakesBothThreads) {
  auto [a, b] = channels();
  std::jthread closing([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    a.shut_down();
  });
  EXPECT_FALSE(a.receive(std::chrono::seconds(20)));
  EXPECT_FALSE(b.receive(std::chrono::seconds(20)));
}

// ---- who is believed -----------------------------------------------------------------------------------------------

TEST_F(TlsStreams, CertificatesThatDoNotCountAreRefusedWithTheReason) {
  const Fleet others;
  struct Row {
    TlsFiles client, server;
    std::string peer, client_says, server_says;
  };
  const TlsFiles a = fleet_.node("a"), b = fleet_.node("b");
  TlsFiles foreign = others.node("foreign");
  foreign.authorities = a.authorities;  // believes us, but who believes it?
  const Row rows[] = {
      {fleet_.node("old", {}, -3 * kDayS + 1, -1), b, "b", "this node's certificate has expired", "has expired: issue a new one"},
      {fleet_.node("early", {}, 3600, kDayS), b, "b", "does not accept this node's certificate", "not valid yet: compare the clocks"},
      {foreign, b, "b", "does not know the authority of this node's certificate", "of no authority that this node knows"},
      {a, fleet_.node("old-b", {}, -3 * kDayS + 1, -1), "old-b", "has expired: issue a new one", "this node's certificate has expired"},
      {a, others.node("x"), "x", "of no authority that this node knows", "does not know the authority of this node's certificate"},
  };
  for (const Row& row : rows) {
    Ends ends = connect(row.client, row.server, row.peer);
    const Outcome outcome = shake_hands(ends);
    EXPECT_THAT(outcome.client, HasSubstr(row.client_says)) << row.client.certificate;
    EXPECT_THAT(outcome.server, HasSubstr(row.server_says)) << row.client.certificate;
    EXPECT_EQ(ends.server.peer(), nullptr);
  }
}

TEST_F(TlsStreams, WhoIsConnectedToMustBeWhoWasMeant) {
  Ends ends = connect(fleet_.node("a"), fleet_.node("c"));
  EXPECT_THAT(shake_hands(ends).client, HasSubstr("is of c, not of node b: check its address in [peers.b]"));
}

TEST_F(TlsStreams, NoCertificateIsRefused) {
  server_ = Tls::load(fleet_.node("b")).value();
  auto [mine, theirs] = connected();
  StreamSocket server = server_->accept(std::move(theirs)).value();
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  ASSERT_EQ(SSL_set_fd(ssl.get(), mine.get()), 1);
  std::jthread client([&] { EXPECT_EQ(SSL_connect(ssl.get()), 1) << "the client's part is done before it is judged"; });
  Result<Wait> shaken = Wait::to_read;
  for (Timestamp end = now() + std::chrono::seconds(5); shaken && *shaken != Wait::nothing && now() < end;) shaken = server.handshake();
  ASSERT_FALSE(shaken);
  EXPECT_THAT(shaken.error().what, HasSubstr("the peer has shown no certificate"));
}

TEST_F(TlsStreams, OlderVersionsAreRefused) {
  server_ = Tls::load(fleet_.node("b")).value();
  auto [mine, theirs] = connected();
  StreamSocket server = server_->accept(std::move(theirs)).value();
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  ASSERT_EQ(SSL_CTX_set_max_proto_version(context.get(), TLS1_2_VERSION), 1);
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  ASSERT_EQ(SSL_set_fd(ssl.get(), mine.get()), 1);
  std::jthread client([&] { EXPECT_NE(SSL_connect(ssl.get()), 1); });
  Result<Wait> shaken = Wait::to_read;
  for (Timestamp end = now() + std::chrono::seconds(5); shaken && *shaken != Wait::nothing && now() < end;) shaken = server.handshake();
  ASSERT_FALSE(shaken);
  EXPECT_THAT(shaken.error().what, HasSubstr("no TLS 1.3"));
}

TEST_F(TlsStreams, PlainTextIsNamedAtBothEnds) {
  server_ = Tls::load(fleet_.node("b")).value();
  const auto hello = encode_frame(wire::FrameType::hello, kStream, as_bytes("x"));
  {
    auto [mine, theirs] = connected();
    StreamSocket server = server_->accept(std::move(theirs)).value();
    ASSERT_GT(::send(mine.get(), hello.data(), hello.size(), 0), 0);
    auto shaken = server.handshake();
    ASSERT_FALSE(shaken);
    EXPECT_THAT(shaken.error().what, HasSubstr("the peer speaks plain text and this node TLS"));
    EXPECT_EQ(shaken.error().code, EPROTONOSUPPORT);
  }
  auto [mine, theirs] = connected();
  StreamSocket client = server_->connect(std::move(mine), "b").value();
  EXPECT_EQ(client.handshake().value(), Wait::to_read);
  StreamSocket plain(std::move(theirs));
  FrameReader reader;
  auto read = reader.read(plain);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().what, HasSubstr("peer speaks TLS and this node plain text"));
}

// ---- later connections ---------------------------------------------------------------------------------------------

bool was_resumed(const Ends& ends) { return ends.client.resumed() && ends.server.resumed(); }

TEST_F(TlsStreams, LaterConnectionsResumeAndAreStillChecked) {
  Ends first = connect(fleet_.node("a", {}, -kDayS, 3), fleet_.node("b"));
  ASSERT_EQ(shake_hands(first).server, "");
  EXPECT_FALSE(was_resumed(first));
  Ends second = again();
  const Outcome outcome = shake_hands(second);
  EXPECT_EQ(outcome.client + outcome.server, "");
  EXPECT_TRUE(was_resumed(second));
  EXPECT_TRUE(second.server.peer()->is_of("a"));
  std::this_thread::sleep_for(std::chrono::milliseconds(4100));
  Ends late = again();
  EXPECT_THAT(shake_hands(late).server, HasSubstr("the peer's certificate has expired")) << "it was asked for anew";
}

// The same authority, that is its name and key, with another end.
std::string ending(const IssuedCertificate& authority, int64_t ends_unix_s) {
  BioPtr certificate_in = bio_of(authority.certificate), key_in = bio_of(authority.key), out(BIO_new(BIO_s_mem()));
  const X509Ptr certificate(PEM_read_bio_X509(certificate_in.get(), nullptr, nullptr, nullptr));
  const KeyPtr key(PEM_read_bio_PrivateKey(key_in.get(), nullptr, nullptr, nullptr));
  EXPECT_NE(ASN1_TIME_set(X509_getm_notAfter(certificate.get()), ends_unix_s), nullptr);
  EXPECT_GT(X509_sign(certificate.get(), key.get(), EVP_sha256()), 0);
  EXPECT_EQ(PEM_write_bio_X509(out.get(), certificate.get()), 1);
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<size_t>(size)};
}

// What was resumed would go on for as long as tickets do: the certificates of both nodes are good for long.
TEST_F(TlsStreams, AnAuthorityThatHasEndedSinceEndsResumptionAtWhicheverEndBelievesIt) {
  const TlsFiles a = fleet_.node("a"), b = fleet_.node("b");
  TlsFiles a_short = a, b_short = b;
  a_short.authorities = b_short.authorities = fleet_.path("short.crt");
  fleet_.write("short.crt", ending(fleet_.authority().own_pem().value(), std::time(nullptr) + 2), 0644);
  struct Pair {
    std::shared_ptr<Tls> client, server;
  };
  std::vector<Pair> pairs;
  for (const auto& [client, server] : {std::pair(a_short, b), std::pair(a, b_short)}) {
    Ends first = connect(client, server);
    EXPECT_EQ(shake_hands(first).server, "");
    Ends second = again();
    EXPECT_EQ(shake_hands(second).server, "");
    EXPECT_TRUE(was_resumed(second));
    pairs.push_back({client_, server_});
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(3100));
  for (size_t i = 0; i < pairs.size(); ++i) {
    client_ = pairs[i].client;
    server_ = pairs[i].server;
    Ends late = again();
    const Outcome outcome = shake_hands(late);
    EXPECT_THAT(i == 0 ? outcome.client : outcome.server, HasSubstr("the authority of the peer's certificate has expired")) << i;
    EXPECT_THAT(i == 0 ? outcome.server : outcome.client, HasSubstr("has expired, or its authority")) << i;
  }
}

TEST_F(TlsStreams, ARevokedCertificateIsRefusedByBothEndsFromTheNextConnectionOn) {
  TlsFiles a = fleet_.node("a"), b = fleet_.node("b");
  a.revoked = b.revoked = fleet_.revoke(fleet_.node("somebody"));
  Ends first = connect(a, b);
  ASSERT_EQ(shake_hands(first).server, "") << "only that one is";
  Ends second = again();
  ASSERT_EQ(shake_hands(second).server, "");
  EXPECT_TRUE(was_resumed(second));
  static_cast<void>(fleet_.revoke(a));
  Ends third = again();
  Outcome outcome = shake_hands(third);
  EXPECT_THAT(outcome.server, HasSubstr("the peer's certificate has been revoked"));
  EXPECT_THAT(outcome.client, HasSubstr("the peer says that this node's certificate has been revoked"));
  static_cast<void>(fleet_.node("a"));
  Ends fourth = again();
  EXPECT_EQ(shake_hands(fourth).server, "") << "a new certificate of the same node";
  static_cast<void>(fleet_.revoke(b));
  Ends fifth = again();
  outcome = shake_hands(fifth);
  EXPECT_THAT(outcome.client, HasSubstr("the peer's certificate has been revoked"));
}

// Both authorities have the same name, as all that `mose pki init` makes.
TEST_F(TlsStreams, AnAuthorityCanBeTakenAwayBeforeItsList) {
  const Fleet others;
  const std::string ours = read_file(fleet_.path("ca.crt")).value(), theirs = read_file(others.path("ca.crt")).value();
  TlsFiles a = others.node("a"), b = fleet_.node("b");
  a.authorities = b.authorities = fleet_.path("authorities.crt");
  fleet_.write("authorities.crt", ours + theirs, 0644);
  b.revoked = fleet_.path("lists.pem");
  fleet_.write("lists.pem", read_file(others.revoke(others.node("x"))).value() + read_file(fleet_.revoke(fleet_.node("y"))).value(), 0644);
  Ends first = connect(a, b);
  ASSERT_EQ(shake_hands(first).server, "");
  fleet_.write("authorities.crt", ours, 0644);
  Ends second = again();
  EXPECT_THAT(shake_hands(second).server, HasSubstr("of no authority that this node knows"));
  Ends third = connect(fleet_.node("c"), b);
  EXPECT_EQ(shake_hands(third).server, "") << "and after a restart";
  Ends fourth = connect({fleet_.path("y.crt"), fleet_.path("y.key"), b.authorities}, b);
  EXPECT_THAT(shake_hands(fourth).server, HasSubstr("the peer's certificate has been revoked")) << "the other list still holds";
}

TEST_F(TlsStreams, ATicketOfOnePeerIsNoUseForAnother) {
  Ends first = connect(fleet_.node("a"), fleet_.node("b"));
  ASSERT_EQ(shake_hands(first).server, "");
  Ends second = again("c");
  EXPECT_THAT(shake_hands(second).client, HasSubstr("is of b, not of node c"));
}

TEST_F(TlsStreams, ChangedFilesCountFromTheNextConnectionOn) {
  Ends first = connect(fleet_.node("a"), fleet_.node("b", {}, -kDayS, 5 * kDayS));
  ASSERT_EQ(shake_hands(first).server, "");
  const std::string serial = first.client.peer()->serial;
  static_cast<void>(fleet_.node("b"));
  Ends second = again();
  ASSERT_EQ(shake_hands(second).server, "");
  EXPECT_FALSE(was_resumed(second)) << "a ticket of the old certificate must not count";
  EXPECT_NE(second.client.peer()->serial, serial);
  // The first goes on.
  Channel a(std::move(first.client), kStream), b(std::move(first.server), kStream);
  ASSERT_TRUE(a.send(wire::FrameType::ping, std::span<const std::byte>{}));
  EXPECT_TRUE(b.receive(std::chrono::seconds(1)));

  fleet_.write("b.crt", "no certificate at all", 0644);
  Ends third = again();
  EXPECT_EQ(shake_hands(third).server, "") << "what cannot be used changes nothing";
  EXPECT_TRUE(server_->check_files()) << "it may just be copied";
  for (Timestamp end = now() + 2 * Tls::kReplaceMax; now() < end && server_->check_files();) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  auto usable = server_->check_files();
  ASSERT_FALSE(usable);
  EXPECT_THAT(usable.error().what, HasSubstr("b.crt holds none in PEM"));
  Ends fourth = again();
  EXPECT_EQ(shake_hands(fourth).server, "");
  static_cast<void>(fleet_.node("b"));
  EXPECT_TRUE(server_->check_files());
}

}  // namespace
}  // namespace mose::move
