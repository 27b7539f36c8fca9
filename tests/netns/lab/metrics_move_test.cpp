// SPDX-License-Identifier: MIT
// A Redis with a known amount of memory is moved there and back, and both agents are asked meanwhile: what they serve is
// what happens, and in the end what the report says.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "kernel/netns.h"
#include "live_lab.h"
#include "support/exposition.h"
#include "support/http_client.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;
using test::Exposition;
constexpr const char* kLab = "t-lab-metrics";
constexpr int kMegabytes = 24;  // of noise, in values of one megabyte
constexpr double kMemory = kMegabytes * 1e6;

// A client of Redis that asks one thing after the other.
class Asker {
 public:
  explicit Asker(const std::string& netns_path) {
    auto place = open_file(netns_path, O_RDONLY);
    Status made = fail("no namespace");
    for (int i = 0; place && i < 500 && !made; ++i, std::this_thread::sleep_for(20ms)) {
      made = in_netns(place->get(), [&]() -> Status {
        socket_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kRedisPort)};
        inet_pton(AF_INET, kServiceAddress, &to.sin_addr);
        if (::connect(socket_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return fail_errno("connect");
        return {};
      });
    }
    EXPECT_TRUE(made) << made.error().what;
  }
  // The first bytes of the answer.
  std::string ask(const std::string& request) {
    EXPECT_TRUE(write_all(socket_.get(), request));
    std::string all(1, '\0');
    if (::recv(socket_.get(), all.data(), 1, 0) != 1) return "";
    size_t left = SIZE_MAX;
    while (left > 0) {
      char piece[65536];
      const ssize_t got = ::recv(socket_.get(), piece, std::min(sizeof piece, left), 0);
      if (got <= 0) return "";
      all.append(piece, static_cast<size_t>(got));
      const size_t end = all.find("\r\n");
      if (end == std::string::npos) continue;
      const size_t whole = all[0] == '$' ? end + 2 + std::stoul(all.substr(1)) + 2 : end + 2;
      left = whole - std::min(whole, all.size());
    }
    return all.substr(0, 20);
  }

 private:
  Fd socket_;
};

class MetricsOfAMove : public test::LiveLab {
 protected:
  MetricsOfAMove() : LiveLab(kLab) {}

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(make_lab());
    const ProgramResult started = start_redis();
    ASSERT_EQ(started.exit_code, 0) << started.err;
    client_.emplace(names_.netns_path("client"));
    std::mt19937_64 noise(7);
    for (int i = 0; i < kMegabytes; ++i) {
      std::string value(1'000'000, '\0');
      for (size_t at = 0; at < value.size(); at += 8) {
        const uint64_t bits = noise();
        memcpy(value.data() + at, &bits, 8);
      }
      const std::string key = "key" + std::to_string(i);
      ASSERT_EQ(client_->ask("*3\r\n$3\r\nSET\r\n$" + std::to_string(key.size()) + "\r\n" + key + "\r\n$1000000\r\n" + value + "\r\n"), "+OK\r\n");
    }
  }
  Exposition figures(const std::string& node) {
    auto place = open_node(state_, node);
    auto reply = place ? test::http_get(place->root + "/run/mose/metrics.sock", "/metrics") : Result<test::HttpReply>(std::unexpected(place.error()));
    EXPECT_TRUE(reply) << reply.error().what;
    auto read = test::parse_exposition(reply ? reply->body : "");
    EXPECT_TRUE(read) << read.error().what;
    return read.value_or(Exposition{});
  }
  // Moves it and calls `look` with the figures of source and destination every 100 ms until it has ended.
  Json move(const std::string& from, const std::string& to, std::vector<std::string> options,
            const std::function<void(const Exposition&, const Exposition&)>& look) {
    ProgramResult result;
    std::atomic<bool> ended{false};
    std::thread mover([&] {
      std::vector<std::string> words = {"migrate", "redis", "--to", to, "--json"};
      words.insert(words.end(), options.begin(), options.end());
      for (int i = 0; i < 150; ++i, std::this_thread::sleep_for(100ms)) {  // CRIU of an agent that has just started is proven first
        result = mose(from, words);
        if (result.exit_code != 3) break;
      }
      ended = true;
    });
    while (!ended) {
      const Exposition source = figures(from), destination = figures(to);
      look(source, destination);
      std::this_thread::sleep_for(100ms);
    }
    mover.join();
    EXPECT_EQ(result.exit_code, 0) << result.err << result.out;
    Json report = Json::parse(result.out, nullptr, false);
    return report.is_object() ? report : Json::object();
  }
  // In the end both say what the report does.
  void expect_ended(const std::string& from, const std::string& to, const Json& report) {
    Exposition source, destination;
    for (int i = 0; i < 50; ++i, std::this_thread::sleep_for(100ms)) {
      source = figures(from);
      destination = figures(to);
      if (source.families["mose_migration_elapsed_seconds"].samples.empty() && destination.families["mose_migration_elapsed_seconds"].samples.empty()) break;
    }
    const Exposition::Labels complete_source = {{"role", "source"}, {"result", "complete"}}, complete_destination = {{"role", "destination"}, {"result", "complete"}};
    EXPECT_EQ(source.value("mose_migrations_ended_total", complete_source), 1);
    EXPECT_EQ(destination.value("mose_migrations_ended_total", complete_destination), 1);
    EXPECT_EQ(source.value("mose_workloads", {{"state", "away"}}), 1);
    EXPECT_EQ(destination.value("mose_workloads", {{"state", "running"}}), 1);
    EXPECT_EQ(source.value("mose_migration_downtime_seconds_count"), 1);
    EXPECT_NEAR(*source.value("mose_migration_downtime_seconds_sum"), report["downtime_ms"].get<double>() / 1000, 1e-9);
    EXPECT_NEAR(*source.value("mose_migration_total_seconds_sum"), report["total_ms"].get<double>() / 1000, 1e-9);
    EXPECT_NEAR(*source.value("mose_migration_silence_seconds_sum"), report["packets"]["silence_ms"].get<double>() / 1000, 1e-9);
    const double pauses = report["standby"]["pause_ms"].is_number() ? report["standby"]["pause_ms"].get<double>() / 1000 : 0;
    EXPECT_NEAR(*source.value("mose_migration_standby_pause_seconds_sum"), pauses, 1e-9);
    EXPECT_EQ(source.value("mose_migrations_in_running_phase"), 0) << "nothing of it is left";
    EXPECT_EQ(destination.value("mose_migrations_in_running_phase"), 0);
  }

  std::optional<Asker> client_;
};

TEST_F(MetricsOfAMove, AreThoseOfTheMoveAndThenOfItsReport) {
  // Before it stops: rounds that take seconds.
  struct Seen {
    std::optional<double> processed, remaining, rate, dirty, round;
  } seen;
  int looks = 0;
  double most_processed = 0, most_at_destination = 0;
  const Exposition::Labels at_source = {{"workload", "redis"}, {"role", "source"}, {"peer", "b"}};
  const Exposition::Labels at_destination = {{"workload", "redis"}, {"role", "destination"}, {"peer", "a"}};
  Json report = move("a", "b", {"--strategy", "precopy", "--max-bandwidth", "80mbit", "--standby", "never"}, [&](const Exposition& source, const Exposition& destination) {
    Seen now{source.value("mose_migration_data_processed_bytes", at_source), source.value("mose_migration_data_remaining_bytes", at_source),
             source.value("mose_migration_memory_transfer_rate_bytes", at_source), source.value("mose_migration_dirty_memory_rate_bytes", at_source),
             source.value("mose_migration_round", at_source)};
    if (!now.processed) return;
    if (now.round == 1 && now.remaining && now.processed > 0 && source.value("mose_migrations_in_phase", {{"role", "source"}, {"phase", "precopy"}}) == 1) {
      ++looks;
      const double total = source.value("mose_migration_data_total_bytes", at_source).value_or(0);
      EXPECT_GT(total, kMemory);
      EXPECT_NEAR(*now.processed + *now.remaining, total, total / 5) << "what has been sent and what has not";
      EXPECT_LE(*now.remaining, seen.remaining.value_or(1e12));
      EXPECT_EQ(source.value("mose_migrations_in_running_phase"), 1);
      EXPECT_EQ(destination.value("mose_migrations_in_phase", {{"role", "destination"}, {"phase", "prepared"}}), 1);
      EXPECT_EQ(source.value("mose_workloads", {{"state", "moving"}}), 1);
      EXPECT_EQ(destination.value("mose_workloads", {{"state", "arriving"}}), 1);
    }
    EXPECT_GE(*now.processed, seen.processed.value_or(0));
    most_processed = std::max(most_processed, *now.processed);
    most_at_destination = std::max(most_at_destination, destination.value("mose_migration_data_processed_bytes", at_destination).value_or(0));
    if (now.rate) seen.rate = now.rate;
    if (now.dirty) seen.dirty = now.dirty;
    seen.processed = now.processed;
    seen.remaining = now.remaining;
  });
  EXPECT_GE(looks, 5) << "the first round takes more than two seconds";
  EXPECT_GT(most_processed, kMemory) << "noise";
  EXPECT_LT(most_processed, report["bytes_sent"].get<double>() * 1.01);
  EXPECT_NEAR(most_at_destination, most_processed, most_processed / 10);
  ASSERT_TRUE(seen.rate);
  EXPECT_NEAR(*seen.rate, 10e6, 2e6) << "the cap is what the link carries";
  EXPECT_TRUE(seen.dirty) << "from the second round on";
  expect_ended("a", "b", report);
}

// The agent that has the pages stands still after the commit: who touches one of them waits, and that is to be seen.
TEST_F(MetricsOfAMove, AFaultThatGetsNoAnswerIsSeen) {
  const Exposition::Labels at_destination = {{"workload", "redis"}, {"role", "destination"}, {"peer", "a"}};
  const pid_t source_agent = state_.agents.at("a").pid;
  bool stopped = false;
  double longest = 0;
  std::thread toucher;
  std::atomic<bool> touched{false};
  std::optional<double> missing_before;
  ProgramResult result;
  std::atomic<bool> ended{false};
  std::thread mover([&] {
    for (int i = 0; i < 150; ++i, std::this_thread::sleep_for(100ms)) {
      result = mose("a", {"migrate", "redis", "--to", "b", "--strategy", "postcopy", "--max-bandwidth", "20mbit", "--json"});
      if (result.exit_code != 3) break;
    }
    ended = true;
  });
  for (Timestamp until{}; !ended; std::this_thread::sleep_for(20ms)) {
    const Exposition there = figures("b");
    const auto missing = there.value("mose_migration_pages_missing", at_destination);
    const bool runs = there.value("mose_migrations_in_phase", {{"role", "destination"}, {"phase", "running"}}) == 1;
    if (missing) {
      EXPECT_EQ(there.value("mose_migration_data_remaining_bytes", at_destination), *missing * 4096);
      EXPECT_LE(*missing, missing_before.value_or(1e12));
      missing_before = missing;
    }
    // What waited while CRIU restored has been answered by then.
    const bool answered = there.value("mose_migration_fault_waiting_seconds", at_destination).value_or(1) < 0.3;
    if (runs && answered && !stopped && missing.value_or(0) > 1000) {
      ASSERT_EQ(kill(source_agent, SIGSTOP), 0);
      stopped = true;
      until = now() + 1500ms;
      toucher = std::thread([&] {
        for (int i = kMegabytes - 1; i >= 0; --i) {
          const std::string key = "key" + std::to_string(i);
          EXPECT_EQ(client_->ask("*2\r\n$3\r\nGET\r\n$" + std::to_string(key.size()) + "\r\n" + key + "\r\n").substr(0, 9), "$1000000\r");
        }
        touched = true;
      });
    }
    longest = std::max(longest, there.value("mose_migration_fault_waiting_seconds", at_destination).value_or(0));
    if (stopped && until != Timestamp{} && now() > until) {
      EXPECT_FALSE(touched);
      ASSERT_EQ(kill(source_agent, SIGCONT), 0);
      until = {};
    }
  }
  mover.join();
  if (toucher.joinable()) toucher.join();
  EXPECT_EQ(result.exit_code, 0) << result.err << result.out;
  EXPECT_TRUE(stopped);
  EXPECT_TRUE(touched) << "it has got everything in the end";
  EXPECT_GT(longest, 0.7);
  EXPECT_LT(longest, 5);
  expect_ended("a", "b", Json::parse(result.out, nullptr, false));
}

}  // namespace
}  // namespace mose::lab
