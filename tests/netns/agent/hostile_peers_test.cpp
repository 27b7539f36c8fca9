// SPDX-License-Identifier: MIT
// A real mosed with certificates, and others at its port: who is not of the fleet, or may not do what he asks for, is told
// no with the reason in the log; a flood takes no memory and keeps no node out.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <fstream>
#include <thread>

#include "agent/peer_server.h"
#include "agent/source_memory.h"
#include "agent/wire_messages.h"
#include "bed.h"
#include "kernel/socket.h"
#include "move/channel.h"
#include "move/frame_buffer.h"
#include "move/hello.h"
#include "support/fleet.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kEndpoint = "127.0.0.1:7946";
constexpr Nanoseconds kBound = 3s;
const move::StreamId kStream{MigrationId{{7, 7}}, 1};

class HostilePeers : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    bed = new AgentBed("hostile");
    for (const char* words : {"ip link add name up type veth peer name far", "ip link set dev up master br0 up", "ip link set dev far up"}) {
      const Output made = run_program({"sh", "-c", words});
      ASSERT_EQ(made.exit_code, 0) << words << ": " << made.error;
    }
  }
  static void TearDownTestSuite() {
    delete bed;
    bed = nullptr;
  }
  void SetUp() override {
    std::string text = bed->configuration();
    const std::string plain = "[tls]\nplain_text = true\n";
    const size_t at = text.find(plain);
    ASSERT_NE(at, std::string::npos);
    move::TlsFiles files = fleet.node("a");
    files.revoked = fleet.revoke(fleet.node("somebody"));
    text.replace(at, plain.size(), tls_section(files));
    text.insert(text.find("bridge ="), "uplink = \"up\"\n");
    // c takes workloads and sends none, by its certificate; d by what this node is told of it.
    text += "[peers.c]\naddress = \"192.0.2.201:7946\"\n[peers.d]\naddress = \"192.0.2.202:7946\"\nroles = [\"destination\"]\n";
    // The address that these tests come from is one of a node, too.
    text += "[peers.f]\naddress = \"127.0.0.1:7999\"\n";
    bed->start_agent_with(text);
    seen_ = bed->agent_log().size();
  }
  void TearDown() override { bed->terminate_agent(); }

  // What the agent has said since this was asked last.
  std::string news() {
    const std::string log = bed->agent_log();
    const std::string fresh = log.substr(seen_);
    seen_ = log.size();
    return fresh;
  }
  std::string wait_for_news(const std::string& part) {
    std::string all;
    for (Timestamp end = now() + kBound; now() < end && all.find(part) == std::string::npos; std::this_thread::sleep_for(10ms)) all += news();
    return all;
  }
  // What a node hears that says HELLO; empty: it is let in.
  static std::string refusal(const move::TlsFiles& files, const std::string& name, move::Purpose purpose, const std::string& token = {},
                             uint32_t version = wire::kVersionMax, const move::StreamId& stream = kStream) {
    auto tls = move::Tls::load(files);
    if (!tls) return tls.error().what;
    auto socket = move::connect_stream(kEndpoint, *tls, "a", kBound);
    if (!socket) return socket.error().what;
    move::Channel channel(std::move(*socket), stream);
    move::Hello hello = move::local_hello(name, purpose);
    hello.token = token;
    hello.version_min = hello.version_max = version;
    auto answer = move::greet(channel, hello, kBound);
    return answer ? "" : answer.error().what;
  }
  static uint64_t resident_bytes() {
    std::ifstream statm("/proc/" + std::to_string(bed->agent_pid()) + "/statm");
    uint64_t size = 0, resident = 0;
    statm >> size >> resident;
    return resident * 4096;
  }
  // A connection that has shown a certificate and said HELLO, for what comes then.
  move::Channel let_in(move::Purpose purpose) {
    auto socket = move::connect_stream(kEndpoint, move::Tls::load(fleet.node("b")).value(), "a", kBound);
    EXPECT_TRUE(socket) << socket.error().what;
    move::Channel channel(std::move(*socket), kStream, kBound);
    auto answer = move::greet(channel, move::local_hello("b", purpose), kBound);
    EXPECT_TRUE(answer) << answer.error().what;
    return channel;
  }

  static AgentBed* bed;
  const Fleet fleet, others;
  size_t seen_ = 0;
};
AgentBed* HostilePeers::bed = nullptr;

TEST_F(HostilePeers, AreRefusedWithAReasonThatIsLogged) {
  const move::TlsFiles b = fleet.node("b");
  EXPECT_EQ(refusal(b, "b", move::Purpose::control), "") << "who should be let in is";

  move::TlsFiles foreign = others.node("b");
  foreign.authorities = b.authorities;
  const move::TlsFiles expired = fleet.node("b-old", {}, -3 * kDayS + 1, -1);
  const move::TlsFiles sink = fleet.node("c", {.source = false});
  struct Row {
    move::TlsFiles files;
    std::string name;
    move::Purpose purpose;
    uint32_t version;
    const char *heard, *logged;
  };
  constexpr uint32_t kNow = wire::kVersionMax;
  using enum move::Purpose;
  const Row rows[] = {
      {foreign, "b", control, kNow, "does not know the authority", "of no authority that this node knows"},
      {expired, "b-old", control, kNow, "certificate has expired", "the peer's certificate has expired"},
      {b, "c", control, kNow, "it calls itself \"c\" and its certificate is of b", "it calls itself"},
      {fleet.node("e"), "e", control, kNow, "does not know node \"e\"", "does not know node"},
      {sink, "c", control, kNow, "node c may not send workloads to node a", "may not send workloads"},
      {fleet.node("d"), "d", control, kNow, "node d may not send workloads to node a", "node d may not send"},
      {b, "b", bulk, kNow, "no such migration here", "no such migration here"},
      {b, "b", control, kNow + 1, "update the older one", "speaks protocol versions 2 to 2"},
  };
  for (const Row& row : rows) {
    EXPECT_THAT(refusal(row.files, row.name, row.purpose, "token", row.version), HasSubstr(row.heard));
    EXPECT_THAT(wait_for_news(row.logged), HasSubstr(row.logged));
  }
  EXPECT_EQ(refusal(sink, "c", move::Purpose::query), "") << "it may ask, and hears nothing of others' migrations";
}

TEST_F(HostilePeers, WhoseCertificateIsRevokedAreRefusedWithoutARestart) {
  const move::TlsFiles b = fleet.node("b");
  EXPECT_EQ(refusal(b, "b", move::Purpose::control), "");
  static_cast<void>(fleet.revoke(b));
  EXPECT_THAT(refusal(b, "b", move::Purpose::control), HasSubstr("this node's certificate has been revoked"));
  const char* logged = "the peer's certificate has been revoked (tls.revoked)";
  EXPECT_THAT(wait_for_news(logged), HasSubstr(logged));
  EXPECT_EQ(refusal(fleet.node("b"), "b", move::Purpose::control), "") << "another one of the same node";
}

// Who may ask for a verdict is let in without a role, and gets no further by it.
TEST_F(HostilePeers, SendNoWorkloadsByAConnectionThatAsks) {
  for (const char* name : {"c", "d"}) {
    const move::TlsFiles files = name == std::string("c") ? fleet.node("c", {.source = false}) : fleet.node("d");
    auto socket = move::connect_stream(kEndpoint, move::Tls::load(files).value(), "a", kBound);
    ASSERT_TRUE(socket) << socket.error().what;
    move::Channel channel(std::move(*socket), kStream, kBound);
    ASSERT_TRUE(move::greet(channel, move::local_hello(name, move::Purpose::query), kBound));
    ASSERT_TRUE(channel.send(wire::FrameType::prepare, std::span<const std::byte>{}));
    auto answer = channel.receive(kBound);
    ASSERT_TRUE(answer) << answer.error().what;
    EXPECT_EQ(answer->type, wire::FrameType::refused);
    EXPECT_THAT(std::string(move::as_text(answer->payload)), HasSubstr("may not send workloads"));
    EXPECT_THAT(wait_for_news("a workload is refused"), HasSubstr("a workload is refused"));
  }
}

// A stranger must not make the agent compute for milliseconds before he is known.
TEST_F(HostilePeers, AreOfferedNoGroupThatCostsMuch) {
  const std::string ask = "echo | timeout 5 openssl s_client -connect " + std::string(kEndpoint) + " -tls1_3 -groups ";
  for (const char* group : {"ffdhe8192", "ffdhe2048", "P-521"}) {
    EXPECT_THAT(run_program({"sh", "-c", ask + group + " 2>&1"}).out, HasSubstr("handshake failure")) << group;
  }
  EXPECT_THAT(run_program({"sh", "-c", ask + "X25519 2>&1"}).out, Not(HasSubstr("handshake failure")));
}

TEST_F(HostilePeers, ThatSpeakNothingOfOursAreRefused) {
  {  // A HELLO in plain text.
    move::Channel channel(tcp_connect(kEndpoint, kBound).value(), kStream);
    auto answer = move::greet(channel, move::local_hello("b", move::Purpose::control), kBound);
    ASSERT_FALSE(answer);
    EXPECT_THAT(answer.error().what, HasSubstr("this node speaks TLS only"));
    EXPECT_THAT(wait_for_news("speaks TLS only"), HasSubstr("speaks TLS only"));
  }
  {  // Neither the one nor the other.
    Fd socket = tcp_connect(kEndpoint, kBound).value();
    const std::string text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    ASSERT_GT(::send(socket.get(), text.data(), text.size(), 0), 0);
    EXPECT_THAT(wait_for_news("does not speak TLS"), HasSubstr("does not speak TLS"));
  }
  {  // A frame under TLS that is no HELLO, and says that it is long.
    auto stream = move::connect_stream(kEndpoint, move::Tls::load(fleet.node("b")).value(), "a", kBound).value();
    const auto header = move::make_header(wire::FrameType::images, kStream, wire::kImagesPayloadMax, 0);
    const iovec part{const_cast<wire::FrameHeader*>(&header), sizeof header};
    ASSERT_TRUE(stream.write({&part, 1}));
    EXPECT_THAT(wait_for_news("where only HELLO is taken"), HasSubstr("where only HELLO is taken"));
  }
  // Garbage after HELLO ends the connection, whatever it was for.
  for (auto purpose : {move::Purpose::control, move::Purpose::query}) {
    auto stream = let_in(purpose).release();
    std::string garbage(200'000, '\xa5');
    const iovec part{garbage.data(), garbage.size()};
    (void)stream.write({&part, 1});
    Result<move::Moved> read = move::Moved{};
    char byte;
    const iovec into{&byte, 1};
    for (Timestamp end = now() + kBound; read && now() < end; std::this_thread::sleep_for(5ms)) read = stream.read({&into, 1});
    EXPECT_FALSE(read) << "it was not closed";
  }
  EXPECT_EQ(refusal(fleet.node("b"), "b", move::Purpose::query), "");
}

// The library has a line of its own for each text that is none, and no bound on them.
TEST_F(HostilePeers, WhatTheySendWronglyIsNotToldForEachMessage) {
  auto channel = let_in(move::Purpose::control);
  const std::string wrong = "\x0a\x04\x0a\x02\xff\xfe";  // a workload whose name is no text
  ASSERT_TRUE(channel.send(wire::FrameType::prepare, move::as_bytes(wrong)));
  auto answer = channel.receive(kBound);
  ASSERT_TRUE(answer) << answer.error().what;
  EXPECT_EQ(answer->type, wire::FrameType::refused);
  EXPECT_THAT(bed->agent_log(), Not(HasSubstr("libprotobuf")));
}

TEST_F(HostilePeers, AFloodTakesLittleMemoryAndKeepsNoNodeOut) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const move::TlsFiles b = fleet.node("b");
  ASSERT_EQ(refusal(b, "b", move::Purpose::query), "");
  const uint64_t before = resident_bytes();
  constexpr int kFlood = 1000;
  constexpr uint64_t kGrowthMax = 24u << 20;
  auto tls = move::Tls::load(b).value();
  const Timestamp begun = now();
  std::vector<move::StreamSocket> flood;
  int let_in_meanwhile = 0, tries = 0;
  for (int i = 0; i < kFlood; ++i) {
    auto socket = tcp_connect(kEndpoint, kBound);
    ASSERT_TRUE(socket) << i << ": " << socket.error().what;
    // Silent ones, halves of a record, and handshakes that stop in the middle.
    const char half[] = "\x16\x03\x01\x02\x00\x01";
    if (i % 3 == 1) (void)!::send(socket->get(), half, sizeof half - 1, MSG_NOSIGNAL);
    flood.push_back(i % 3 == 2 ? tls->connect(std::move(*socket), "a").value() : move::StreamSocket(std::move(*socket)));
    if (i % 3 == 2) (void)flood.back().handshake();
    if (i % 100 != 50) continue;
    ++tries;
    let_in_meanwhile += refusal(b, "b", move::Purpose::query).empty() ? 1 : 0;
  }
  EXPECT_EQ(let_in_meanwhile, tries) << "a node must get in while the flood goes on, from the same address too";
  EXPECT_LT(resident_bytes(), before + kGrowthMax);
  EXPECT_THAT(bed->mose({"status"}).out, HasSubstr("no migration")) << "it still answers";
  flood.clear();
  std::string log;
  for (Timestamp end = now() + 15s; now() < end && log.find("than are told singly") == std::string::npos; std::this_thread::sleep_for(100ms)) {
    log += news();
  }
  EXPECT_THAT(log, HasSubstr("more connections were refused than are told singly"));
  // 10 of each kind in 10 s, and what else an agent says.
  const auto windows = (now() - begun) / 10s + 2;
  EXPECT_LT(std::count(log.begin(), log.end(), '\n'), 20 + 20 * windows) << "a flood must not fill the disk";
}

// Each asks for a handshake, which is what costs: from where no node of ours is so many a second and no more.
TEST_F(HostilePeers, StrangersGetSoManyHandshakesASecond) {
  constexpr int kTries = 300;
  const move::TlsFiles b = fleet.node("b");
  auto tls = move::Tls::load(b).value();
  auto from_elsewhere = [&] {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in from{.sin_family = AF_INET}, to{.sin_family = AF_INET, .sin_port = htons(7946)};
    inet_pton(AF_INET, "127.0.0.77", &from.sin_addr);
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&from), sizeof from), 0);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    auto stream = tls->connect(std::move(socket), "a");
    for (Timestamp end = now() + kBound; stream && now() < end;) {
      auto wait = stream->handshake();
      if (!wait) return false;
      if (*wait == move::Wait::nothing) return true;
      pollfd readable{stream->fd(), POLLIN, 0};
      (void)::poll(&readable, 1, 100);
    }
    return false;
  };
  const Timestamp begun = now();
  int shaken = 0, known_in = 0, known = 0;
  for (int i = 0; i < kTries; ++i) {
    shaken += from_elsewhere() ? 1 : 0;
    if (i % 50 != 25) continue;
    ++known;
    known_in += refusal(b, "b", move::Purpose::query).empty() ? 1 : 0;
  }
  const auto windows = (now() - begun) / agent::PeerServer::kStrangersWindow + 2;
  EXPECT_GT(shaken, 0);
  EXPECT_LE(shaken, windows * agent::PeerServer::kStrangersMax);
  EXPECT_LT(shaken, kTries) << "so slow a machine that nothing was asked of it: " << windows;
  EXPECT_EQ(known_in, known) << "the others hear nothing of it";
  EXPECT_THAT(wait_for_news("one too many"), HasSubstr("one too many"));
}

TEST_F(HostilePeers, APeerThatReadsSlowlyIsLetGo) {
  // It asks and asks and never reads an answer: what waits for it is bounded.
  const uint64_t before = resident_bytes();
  auto stream = let_in(move::Purpose::control).release();
  const auto ping = move::encode_frame(wire::FrameType::ping, kStream, {});
  std::string many;
  for (int i = 0; i < 4000; ++i) many.append(reinterpret_cast<const char*>(ping.data()), ping.size());
  bool let_go = false;
  size_t at = 0;
  for (Timestamp end = now() + 4s; !let_go && now() < end;) {
    const iovec part{many.data() + at, many.size() - at};
    auto sent = stream.write({&part, 1});
    let_go = !sent;
    at = (at + (sent ? sent->bytes : 0)) % many.size();
    if (sent && sent->bytes == 0) std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(let_go) << "before the time that a connection has for its first frame";
  EXPECT_LT(resident_bytes(), before + (16u << 20));
  EXPECT_EQ(refusal(fleet.node("b"), "b", move::Purpose::query), "") << "and nobody else waits";
}

// The test as node b, to which a workload is to move: until PREPARE has come, which holds the token of the page streams.
struct Prepared {
  move::StreamSocket socket;
  move::StreamId stream;
  std::string token;
};
Result<Prepared> take_prepare(const move::TlsFiles& files) {
  MOSE_ASSIGN(Fd listener, tcp_listen("192.0.2.200:7946"));
  MOSE_ASSIGN(auto tls, move::Tls::load(files));
  std::optional<Prepared> peer;
  move::FrameReader reader;
  for (Timestamp end = now() + 40s; now() < end;) {
    pollfd ready{peer ? peer->socket.fd() : listener.get(), POLLIN, 0};
    (void)poll(&ready, 1, 100);
    if (!peer) {
      MOSE_ASSIGN(auto accepted, tcp_accept(listener.get(), true));
      if (!accepted.socket.valid()) continue;
      MOSE_ASSIGN(auto socket, tls->accept(std::move(accepted.socket)));
      peer = Prepared{std::move(socket), {}, {}};
      reader = move::FrameReader();
    }
    auto frame = reader.read(peer->socket);
    if (!frame) peer.reset();  // one that only wanted to know whether it can connect
    if (!frame || !*frame) continue;
    peer->stream = (*frame)->stream;
    if ((*frame)->type == wire::FrameType::hello) {
      move::FrameWriter writer;
      MOSE_TRY(writer.push(wire::FrameType::hello, peer->stream, move::encode_hello(move::local_hello("b", move::Purpose::unspecified))));
      MOSE_TRY(writer.flush(peer->socket));
    }
    if ((*frame)->type != wire::FrameType::prepare) continue;
    MOSE_ASSIGN(auto prepare, agent::decode_prepare(std::string(move::as_text((*frame)->payload))));
    peer->token = prepare.token;
    return std::move(*peer);
  }
  return fail("no PREPARE came");
}

TEST_F(HostilePeers, ATokenIsNoUseToAnotherNode) {
  ASSERT_EQ(run_program({"ip", "addr", "add", "192.0.2.200/24", "dev", "br0"}).exit_code, 0);
  const Output started = bed->mose({"run", "redis", "--address", "192.0.2.10/24", "--root", bed->root(), "--", "redis-server", "--save", "",
                                    "--protected-mode", "no"});
  ASSERT_EQ(started.exit_code, 0) << started.error;
  const move::TlsFiles b = fleet.node("b");
  Result<Prepared> peer = fail("nothing came");
  Output migrated;
  {
    std::jthread destination([&] { peer = take_prepare(b); });
    std::jthread asking([&] {
      for (Timestamp end = now() + 30s; now() < end; std::this_thread::sleep_for(200ms)) {  // CRIU is proven first
        migrated = bed->mose({"migrate", "redis", "--to", "b"});
        if (migrated.error.find("being prepared") == std::string::npos) return;
      }
    });
    destination.join();
    EXPECT_TRUE(peer) << peer.error().what << bed->agent_log();
    if (peer) {
      const move::TlsFiles c = fleet.node("c");
      for (auto purpose : {move::Purpose::bulk, move::Purpose::urgent}) {
        EXPECT_THAT(refusal(c, "c", purpose, peer->token, wire::kVersionMax, peer->stream), HasSubstr("no such migration here"));
        EXPECT_THAT(refusal(b, "b", purpose, peer->token + "x", wire::kVersionMax, peer->stream), HasSubstr("no such migration here"));
      }
      EXPECT_EQ(refusal(b, "b", move::Purpose::urgent, peer->token, wire::kVersionMax, peer->stream), "") << "its own node has it for this";
      // More connections than it can need: the oldest are closed.
      std::vector<move::Channel> many;
      for (size_t i = 0; i < 2 * agent::SourceMemory::kUrgentMax; ++i) {
        auto stream = move::connect_stream(kEndpoint, move::Tls::load(b).value(), "a", kBound);
        ASSERT_TRUE(stream) << stream.error().what;
        many.emplace_back(std::move(*stream), peer->stream);
        move::Hello hello = move::local_hello("b", move::Purpose::urgent);
        hello.token = peer->token;
        ASSERT_TRUE(move::greet(many.back(), hello, kBound));
      }
      for (size_t i = 0; i < many.size(); ++i) {
        auto header = many[i].receive_header(i < agent::SourceMemory::kUrgentMax ? kBound : 100ms);
        ASSERT_FALSE(header);
        EXPECT_EQ(header.error().code == ETIMEDOUT, i >= agent::SourceMemory::kUrgentMax) << i << ": " << header.error().what;
      }
      peer->socket.reset();
    }
  }
  EXPECT_NE(migrated.exit_code, 0);
  EXPECT_TRUE(redis_answers("192.0.2.10")) << "it goes on here";
  EXPECT_EQ(bed->mose({"stop", "redis", "--grace", "200ms"}).exit_code, 0);
  EXPECT_EQ(run_program({"ip", "addr", "del", "192.0.2.200/24", "dev", "br0"}).exit_code, 0);
}

TEST_F(HostilePeers, AStartWithoutCertificatesIsRefusedWithWhatToDo) {
  std::string text = bed->configuration();
  text.replace(text.find("[tls]\nplain_text = true\n"), std::string("[tls]\nplain_text = true\n").size(), "");
  const Output output = bed->mosed_once(text);
  EXPECT_NE(output.exit_code, 0);
  EXPECT_THAT(output.error, HasSubstr("`mose pki init` and `mose pki issue a`"));
  text += tls_section(fleet.node("z"));
  EXPECT_THAT(bed->mosed_once(text).error, HasSubstr("is of z, and this node is called a"));
}

}  // namespace
}  // namespace mose::test
