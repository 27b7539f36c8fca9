// SPDX-License-Identifier: MIT
// The figures' door: what HTTP it takes, and what it does to who asks wrongly, slowly, or a thousand times.
#include "agent/metrics_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "kernel/socket.h"
#include "support/http_client.h"
#include "temp_dir.h"

namespace mose::agent {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;
using test::http_exchange;
using test::http_get;

std::string status_of(std::string_view bytes) {
  auto request = parse_http_request(bytes);
  if (!request) return std::to_string(static_cast<int>(request.error()));
  return !*request ? "more" : ((*request)->head ? "HEAD " : "GET ") + (*request)->path;
}

TEST(HttpRequest, IsTakenOrRefusedByWhatStandsThere) {
  const std::string host = "\r\nHost: localhost\r\n\r\n";
  const std::pair<std::string, const char*> rows[] = {
      {"GET /metrics HTTP/1.1" + host, "GET /metrics"},
      {"HEAD /readyz HTTP/1.1" + host, "HEAD /readyz"},
      {"GET /metrics?name[]=up HTTP/1.1" + host, "GET /metrics"},
      {"GET / HTTP/1.0\r\n\r\n", "GET /"},
      {"GET / HTTP/1.1\r\nhOsT:x\r\nX-Empty:\r\n\r\nmore that nobody reads", "GET /"},
      {"", "more"},
      {"GET /metrics HTTP/1.1\r\nHost: x\r\n", "more"},
      {"GET / HTTP/1.1\r\n\r\n", "400"},                                // without Host
      {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "400"},          // with two
      {"GET / HTTP/1.1\r\nHost x\r\n\r\n", "400"},                      // no header
      {"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", "400"},       // a line that goes on
      {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "400"},                    // a blank before the colon
      {"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", "400"},               // half a line's end
      {"GET /\r\n\r\n", "400"},                                         // HTTP/0.9
      {"GET  / HTTP/1.1" + host, "400"},
      {"GET http://a/ HTTP/1.1" + host, "400"},                         // for a proxy
      {"GET /\xc3\xa4 HTTP/1.1" + host, "400"},
      {"G(T / HTTP/1.1" + host, "400"},
      {std::string("GET /\0 HTTP/1.1", 15), "400"},
      {"\x16\x03\x01\x02\x01", "400"},                                  // TLS
      {"POST /metrics HTTP/1.1" + host, "405"},
      {"GET / HTTP/2.0" + host, "505"},
      {"PRI * HTTP/2.0\r\n\r\n", "400"},
      {"GET /" + std::string(kHttpLineMax, 'a'), "414"},
      {"GET /" + std::string(kHttpLineMax, 'a') + " HTTP/1.1" + host, "414"},
      {"GET / HTTP/1.1\r\nX: " + std::string(kHttpRequestMax, 'a'), "431"},
  };
  for (const auto& [bytes, expected] : rows) EXPECT_EQ(status_of(bytes), expected) << bytes.substr(0, 80);
}

// What a request is does not depend on where the stream is cut.
TEST(HttpRequest, IsTheSameHoweverItComes) {
  const std::string whole = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
  for (size_t length = 0; length < whole.size(); ++length) EXPECT_EQ(status_of(whole.substr(0, length)), "more") << length;
  EXPECT_EQ(status_of(whole), "GET /metrics");
}

// A server in a thread of its own, with one large page and one that counts how often it is made.
class MetricsServers : public testing::Test {
 protected:
  static constexpr size_t kLarge = 8u << 20;  // more than the sockets' buffers
  void SetUp() override {
    MetricsConfig config{.socket = dir_.path() + "/metrics.sock"};
    socket_ = config.socket;
    auto taken = tcp_listen("127.0.0.1:0");
    ASSERT_TRUE(taken);
    config.listen = tcp_ = local_endpoint(taken->get()).value();
    taken->reset();
    std::atomic<bool> started{false};
    thread_ = std::thread([this, config, &started] {
      auto loop = EventLoop::create();
      loop_ = loop->get();
      auto server = MetricsServer::start(*loop_, config, [this](const std::string& path) { return page(path); });
      EXPECT_TRUE(server) << server.error().what;
      started = true;
      started.notify_all();
      // For whether the loop has time for others.
      loop_->every(1ms, [this] {
        const Timestamp at = now();
        if (last_ != Timestamp{}) longest_ns_ = std::max(longest_ns_.load(), (at - last_).count());
        last_ = at;
      });
      if (server) loop_->every(1ms, [this, raw = server->get()] { connections_ = raw->connections(); });
      loop_->run();
      if (server) server->reset();
    });
    started.wait(false);
  }
  void TearDown() override {
    loop_->quit();
    thread_.join();
    EXPECT_NE(access(socket_.c_str(), F_OK), 0) << "the socket's file is left";
  }
  std::optional<MetricsServer::Page> page(const std::string& path) {
    if (path == "/metrics") return MetricsServer::Page{{}, "made " + std::to_string(++made_) + "\n"};
    if (path == "/large") return MetricsServer::Page{{}, std::string(kLarge, 'x')};
    if (path == "/unready") return MetricsServer::Page{{.status = HttpStatus::unavailable}, "not ready\n"};
    return std::nullopt;
  }
  bool wait_connections(size_t wanted, Nanoseconds bound = 2s) {
    for (const Timestamp end = now() + bound; now() < end; std::this_thread::sleep_for(2ms)) {
      if (connections_ == wanted) return true;
    }
    return false;
  }

  test::TempDir dir_;
  std::string socket_, tcp_;
  EventLoop* loop_ = nullptr;
  std::thread thread_;
  std::atomic<int> made_{0};
  std::atomic<size_t> connections_{0};
  std::atomic<int64_t> longest_ns_{0};
  Timestamp last_{};
};

TEST_F(MetricsServers, AnswerByBothWays) {
  for (const std::string& where : {socket_, tcp_}) {
    auto reply = http_get(where, "/metrics");
    ASSERT_TRUE(reply) << reply.error().what;
    EXPECT_EQ(reply->status, 200);
    EXPECT_THAT(reply->head, HasSubstr("Connection: close\r\n"));
    EXPECT_THAT(reply->head, testing::ContainsRegex("Date: [A-Z][a-z][a-z], [0-9][0-9] [A-Z][a-z][a-z] [0-9]+ [0-9:]+ GMT\r\n"));
    EXPECT_EQ(http_get(where, "/unready")->status, 503);
    EXPECT_EQ(http_get(where, "/none")->status, 404);
    auto posted = http_exchange(where, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    ASSERT_TRUE(posted);
    EXPECT_EQ(posted->status, 405);
    EXPECT_THAT(posted->head, HasSubstr("Allow: GET, HEAD\r\n"));
    auto head = http_exchange(where, "HEAD /unready HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(head);
    EXPECT_THAT(head->head, HasSubstr("Content-Length: 10\r\n"));
    EXPECT_EQ(head->body, "");
    auto large = http_get(where, "/large");
    ASSERT_TRUE(large) << large.error().what;
    EXPECT_EQ(large->body.size(), kLarge);
  }
  struct stat status{};
  ASSERT_EQ(stat(socket_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(MetricsServers, MakeAPageAtMostTenTimesASecond) {
  const Timestamp begun = now();
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(http_get(socket_, "/metrics"));
  EXPECT_LE(made_, (now() - begun) / MetricsServer::kFresh + 1);
  std::this_thread::sleep_for(MetricsServer::kFresh);
  const int before = made_;
  EXPECT_EQ(http_get(socket_, "/metrics")->body, "made " + std::to_string(before + 1) + "\n") << "it is not kept for longer";
}

TEST_F(MetricsServers, LetGoWhoReadsSlowlyOrSaysNothing) {
  std::vector<Fd> slow;
  for (size_t i = 0; i < 8; ++i) {
    slow.push_back(test::http_connect(tcp_).value());
    const std::string ask = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
    ASSERT_EQ(::send(slow.back().get(), ask.data(), i % 2 == 0 ? ask.size() : 7, 0), static_cast<ssize_t>(i % 2 == 0 ? ask.size() : 7));
  }
  ASSERT_TRUE(wait_connections(8));
  EXPECT_EQ(http_get(tcp_, "/metrics")->status, 200) << "nobody else waits for them";
  EXPECT_TRUE(wait_connections(0, MetricsServer::kConnectionBound + 2s));
}

TEST_F(MetricsServers, AFloodKeepsNoScraperOutAndTheLoopFree) {
  constexpr int kFlood = 1000;
  std::vector<Fd> flood;
  size_t most = 0;
  int served = 0, tries = 0;
  for (int i = 0; i < kFlood; ++i) {
    auto socket = test::http_connect(i % 2 == 0 ? socket_ : tcp_);
    ASSERT_TRUE(socket) << i << ": " << socket.error().what;
    flood.push_back(std::move(*socket));
    most = std::max(most, connections_.load());
    if (i % 100 != 50) continue;
    ++tries;
    auto reply = http_get(i % 200 == 50 ? socket_ : tcp_, "/metrics");
    served += reply && reply->status == 200 ? 1 : 0;
  }
  EXPECT_EQ(served, tries);
  EXPECT_LE(most, MetricsServer::kConnectionsMax);
  EXPECT_LT(Nanoseconds(longest_ns_), 100ms) << "somebody else's handler had to wait";
}

TEST_F(MetricsServers, AreNotDisturbedByGarbage) {
  const std::string rows[] = {
      std::string(100'000, '\xa5'),
      std::string(100'000, '\0'),
      std::string(100'000, 'A'),
      std::string(100'000, '\n'),
      "GET " + std::string(100'000, '/'),
      "GET / HTTP/1.1\r\n" + std::string(100'000, ':'),
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + std::string(1'000'000, 'b'),
  };
  for (const std::string& bytes : rows) {
    auto socket = test::http_connect(tcp_);
    ASSERT_TRUE(socket);
    (void)!::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    EXPECT_THAT(test::read_to_end(socket->get(), 3s), testing::StartsWith("HTTP/1.1 4")) << bytes.substr(0, 20);
  }
  // One byte at a time: the stream is not looked through again and again without an end.
  auto socket = test::http_connect(tcp_);
  ASSERT_TRUE(socket);
  std::thread sender([&] {
    for (int i = 0; i < 2000; ++i) {
      if (::send(socket->get(), "A", 1, MSG_NOSIGNAL) != 1) return;
      std::this_thread::sleep_for(100us);
    }
  });
  EXPECT_THAT(test::read_to_end(socket->get(), 3s), testing::StartsWith("HTTP/1.1 4"));
  sender.join();
  EXPECT_EQ(http_get(tcp_, "/metrics")->status, 200);
}

}  // namespace
}  // namespace mose::agent
