// SPDX-License-Identifier: MIT
// A real mosed and its figures: what it says is what there is, and whoever keeps its door busy disturbs nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "bed.h"
#include "kernel/socket.h"
#include "move/channel.h"
#include "move/hello.h"
#include "support/exposition.h"
#include "support/fleet.h"
#include "support/http_client.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr const char* kDoor = "127.0.0.1:9477";
constexpr const char* kPeers = "127.0.0.1:7946";
constexpr int64_t kCertificateDays = 20;

class MetricsOfAnAgent : public testing::Test {
 protected:
  static void SetUpTestSuite() { bed = new AgentBed("metrics"); }
  static void TearDownTestSuite() {
    delete bed;
    bed = nullptr;
  }
  std::string configuration(const std::string& more) {
    std::string text = bed->configuration();
    const std::string plain = "[tls]\nplain_text = true\n";
    text.replace(text.find(plain), plain.size(), tls_section(fleet.node("a", {}, -kDayS, kCertificateDays * kDayS)));
    return text + more;
  }
  void start(const std::string& more = "[metrics]\nlisten = \"127.0.0.1:9477\"\n") { bed->start_agent_with(configuration(more)); }
  void TearDown() override {
    if (bed->agent_pid() == 0) return;
    (void)bed->mose({"stop", "redis", "--grace", "200ms"});
    bed->terminate_agent();
    EXPECT_NE(access(socket().c_str(), F_OK), 0) << "the socket's file is left";
  }
  static std::string socket() { return bed->directory() + "/run/metrics.sock"; }
  static Exposition figures(const std::string& where = socket()) {
    auto reply = http_get(where, "/metrics");
    EXPECT_TRUE(reply) << reply.error().what;
    if (!reply) return {};
    EXPECT_EQ(reply->status, 200);
    EXPECT_THAT(reply->head, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    auto read = parse_exposition(reply->body);
    EXPECT_TRUE(read) << read.error().what << "\n" << reply->body;
    return read.value_or(Exposition{});
  }
  // The value, as soon as it is that, else the last one seen.
  static std::optional<double> wait_for(const std::string& name, const Exposition::Labels& labels, double value) {
    std::optional<double> seen;
    for (Timestamp end = now() + 5s; now() < end && seen != value; std::this_thread::sleep_for(50ms)) seen = figures().value(name, labels);
    return seen;
  }
  static HttpReply wait_ready() {
    auto reply = http_get(socket(), "/readyz");
    for (Timestamp end = now() + 30s; now() < end && reply && reply->status != 200; std::this_thread::sleep_for(50ms)) reply = http_get(socket(), "/readyz");
    EXPECT_TRUE(reply) << reply.error().what;
    return reply.value_or(HttpReply{});
  }
  static uint64_t resident_bytes() {
    std::ifstream statm("/proc/" + std::to_string(bed->agent_pid()) + "/statm");
    uint64_t size = 0, resident = 0;
    statm >> size >> resident;
    return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  }

  static AgentBed* bed;
  const Fleet fleet;
};
AgentBed* MetricsOfAnAgent::bed = nullptr;

TEST_F(MetricsOfAnAgent, SayWhatThereIs) {
  start();
  EXPECT_THAT(bed->agent_log(), HasSubstr("this node's certificate ends soon"));
  EXPECT_EQ(http_get(socket(), "/healthz")->status, 200);
  const HttpReply ready = wait_ready();
  EXPECT_EQ(ready.status, 200) << ready.body;
  EXPECT_THAT(ready.body, HasSubstr("CRIU: ready\nundecided migrations: 0\n"));

  const Output run = bed->mose({"run", "redis", "--address", "192.0.2.10/24", "--root", bed->root(), "--", "redis-server", "--save", ""});
  ASSERT_EQ(run.exit_code, 0) << run.error << bed->agent_log();
  EXPECT_EQ(wait_for("mose_workloads", {{"state", "running"}}, 1), 1);
  for (const std::string& where : {socket(), std::string(kDoor)}) {
    const Exposition seen = figures(where);
    EXPECT_EQ(seen.value("mose_build_info", {{"node", "a"}}), 1);
    EXPECT_EQ(seen.value("mose_workloads", {{"state", "exited"}}), 0);
    EXPECT_EQ(seen.value("mose_migrations_undecided"), 0);
    EXPECT_EQ(seen.value("mose_migrations_in_running_phase"), 0);
    EXPECT_EQ(seen.value("mose_migration_downtime_seconds_count"), 0);
    EXPECT_NEAR(*seen.value("mose_certificate_expires_in_seconds"), static_cast<double>(kCertificateDays * kDayS), 60);
    EXPECT_NEAR(*seen.value("process_resident_memory_bytes"), static_cast<double>(resident_bytes()), 8e6);
    EXPECT_GT(*seen.value("process_open_fds"), 10);
    EXPECT_GT(*seen.value("process_cpu_seconds_total"), 0);
  }
  // A certificate that is replaced counts without a restart.
  (void)fleet.node("a", {}, -kDayS, 90 * kDayS);
  std::this_thread::sleep_for(200ms);
  EXPECT_NEAR(*figures().value("mose_certificate_expires_in_seconds"), static_cast<double>(90 * kDayS), 60);
  EXPECT_EQ(bed->mose({"stop", "redis", "--grace", "200ms"}).exit_code, 0);
  EXPECT_EQ(wait_for("mose_workloads", {{"state", "running"}}, 0), 0);
}

TEST_F(MetricsOfAnAgent, CountWhoWasRefusedByReason) {
  start();
  auto greet = [&](const move::TlsFiles& files, const std::string& name, move::Purpose purpose, uint32_t version = wire::kVersionMax) {
    auto stream = move::connect_stream(kPeers, move::Tls::load(files).value(), "a", 3s);
    ASSERT_TRUE(stream) << stream.error().what;
    move::Channel channel(std::move(*stream), {MigrationId{{7}}, 1});
    move::Hello hello = move::local_hello(name, purpose);
    hello.version_min = hello.version_max = version;
    (void)move::greet(channel, hello, 3s);
  };
  const move::TlsFiles b = fleet.node("b");
  greet(b, "c", move::Purpose::control);                                 // not its name
  greet(fleet.node("e"), "e", move::Purpose::control);                   // unknown here
  greet(b, "b", move::Purpose::bulk);                                    // no such migration
  greet(b, "b", move::Purpose::control, wire::kVersionMax + 1);
  Fd stranger = tcp_connect(kPeers, 3s).value();
  ASSERT_GT(::send(stranger.get(), "GET / HTTP/1.1\r\n\r\n", 18, 0), 0);
  const std::pair<const char*, double> rows[] = {{"identity", 1}, {"access", 2}, {"version", 1}, {"handshake", 1}, {"silent", 0}, {"crowded", 0}, {"local", 0}};
  for (const auto& [reason, count] : rows) EXPECT_EQ(wait_for("mose_peer_refusals_total", {{"reason", reason}}, count), count) << reason;
}

// The agent itself goes on with what it has read. The pager that the next arrival needs would not.
TEST_F(MetricsOfAnAgent, ReadinessIsThatOfTheCertificatesOnTheDisk) {
  start();
  EXPECT_THAT(wait_ready().body, HasSubstr("certificates: usable\n"));
  const move::TlsFiles b = fleet.node("b");
  auto ask_for_a_move = [&](move::Purpose purpose) -> std::string {
    auto stream = move::connect_stream(kPeers, move::Tls::load(b).value(), "a", 3s);
    if (!stream) return stream.error().what;
    move::Channel channel(std::move(*stream), {MigrationId{{7}}, 1});
    auto answer = move::greet(channel, move::local_hello("b", purpose), 3s);
    return answer ? "" : answer.error().what;
  };
  const std::string whole = read_file(fleet.path("a.crt")).value();
  fleet.write("a.crt", whole.substr(0, whole.size() / 2), 0644);
  EXPECT_EQ(ask_for_a_move(move::Purpose::control), "") << "it may just be copied";
  HttpReply reply = http_get(socket(), "/readyz").value();
  for (Timestamp end = now() + 10s; now() < end && reply.status == 200; std::this_thread::sleep_for(50ms)) reply = http_get(socket(), "/readyz").value();
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.body, HasSubstr("certificates: its certificates cannot be used as they are on the disk (the certificate " + fleet.path("a.crt") + ": certificate number 1"));
  EXPECT_THAT(bed->mose({"nodes"}).out, HasSubstr("this node: its certificates cannot be used as they are on the disk"));
  EXPECT_THAT(ask_for_a_move(move::Purpose::control), HasSubstr("node a takes no workloads now: its certificates cannot be used"));
  EXPECT_EQ(ask_for_a_move(move::Purpose::query), "") << "what has begun can still be ended";
  fleet.write("a.crt", whole, 0644);
  EXPECT_EQ(http_get(socket(), "/readyz")->status, 200);
  EXPECT_EQ(ask_for_a_move(move::Purpose::control), "");
  fleet.write("a.crt", read_file(b.certificate).value(), 0644);
  fleet.write("a.key", read_file(b.key).value(), 0600);
  for (Timestamp end = now() + 10s; now() < end && reply.status == 200; std::this_thread::sleep_for(50ms)) reply = http_get(socket(), "/readyz").value();
  EXPECT_THAT(bed->mose({"nodes"}).out, HasSubstr("is of b, and this node is called a"));
}

TEST_F(MetricsOfAnAgent, AreOffWhereThatIsSaid) {
  start("[metrics]\nenabled = false\nlisten = \"127.0.0.1:9477\"\n");
  EXPECT_NE(access(socket().c_str(), F_OK), 0);
  EXPECT_FALSE(http_connect(kDoor));
  EXPECT_THAT(bed->mose({"status"}).out, HasSubstr("no migration"));
}

TEST_F(MetricsOfAnAgent, AnAgentGoesOnWithoutThem) {
  Fd taken = tcp_listen(kDoor).value();
  start();
  EXPECT_THAT(bed->agent_log(), HasSubstr("figures cannot be served"));
  EXPECT_THAT(bed->mose({"status"}).out, HasSubstr("no migration"));
}

TEST_F(MetricsOfAnAgent, WhoKeepsTheDoorBusyDisturbsNobody) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  start();
  (void)wait_ready();
  (void)figures();
  const uint64_t before = resident_bytes();
  const std::string ask = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
  // A thousand that say nothing, garbage, half a request, or ask and never read.
  const std::string words[] = {"", std::string(4096, '\xa5'), "GET /metrics HTT", ask, "GET /" + std::string(100'000, 'a')};
  std::vector<Fd> flood;
  Nanoseconds slowest{0};
  for (int i = 0; i < 1000; ++i) {
    auto one = http_connect(i % 2 == 0 ? socket() : kDoor);
    ASSERT_TRUE(one) << i << ": " << one.error().what;
    const std::string& text = words[static_cast<size_t>(i) % std::size(words)];
    if (!text.empty()) (void)!::send(one->get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    flood.push_back(std::move(*one));
    if (i % 100 != 50) continue;
    EXPECT_EQ(figures().value("mose_migrations_undecided"), 0) << "a scraper gets in";
    const Timestamp asked = now();
    EXPECT_THAT(bed->mose({"status"}).out, HasSubstr("no migration"));
    slowest = std::max(slowest, now() - asked);
  }
  EXPECT_LT(slowest, 1s) << "mostly the start of a program";
  EXPECT_LT(resident_bytes(), before + (8u << 20));
  EXPECT_EQ(figures().value("mose_peer_refusals_total", {{"reason", "local"}}), 0);
}

}  // namespace
}  // namespace mose::test
