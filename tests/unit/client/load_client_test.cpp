// SPDX-License-Identifier: MIT
#include "client/load_client.h"

#include <gtest/gtest.h>

#include "base/clock.h"
#include "client/commands.h"
#include "client/data_set.h"
#include "fake_redis.h"

namespace mose::client {
namespace {

class Load : public ::testing::Test {
 protected:
  virtual void change(LoadOptions&) {}
  void SetUp() override {
    LoadOptions options;
    options.server = {"127.0.0.1", server_.port()};
    options.workers = 3;
    options.probes = 2;
    options.worker_interval_ms = 2;
    options.megabytes = 0.05;
    options.value_bytes = 100;
    change(options);
    auto client = LoadClient::create(options);
    ASSERT_TRUE(client) << client.error().what;
    client_ = std::move(*client);
    auto keys = client_->fill();
    ASSERT_TRUE(keys) << keys.error().what;
    EXPECT_EQ(*keys, keys_for(0.05, 100));
    auto started = client_->start();
    ASSERT_TRUE(started) << started.error().what;
  }
  void run_ms(int ms) {
    for (Timestamp end = now() + std::chrono::milliseconds(ms); now() < end;) client_->poll(5);
  }

  mose::test::FakeRedis server_;
  std::unique_ptr<LoadClient> client_;
};

TEST_F(Load, ServerThatDoesNothingWrongIsVerified) {
  run_ms(300);
  ASSERT_TRUE(client_->begin_window());
  run_ms(100);
  Figures f = client_->end_window();
  EXPECT_TRUE(f.all_answered);
  EXPECT_GT(f.counts.requests, 0u);
  EXPECT_EQ(f.counts.errors + f.counts.resets + f.counts.lost + f.counts.duplicated + f.counts.reordered, 0u);
  EXPECT_TRUE(f.latency_p50_us && f.latency_p99_us && f.latency_max_us);
  EXPECT_TRUE(f.service_interruption_ms && f.interruption_any_ms);
  Verification v = client_->verify();
  EXPECT_TRUE(v.verified) << v.problem;
  EXPECT_EQ(v.checked, keys_for(0.05, 100) + 3u);
}

TEST_F(Load, SilenceIsMeasuredOnEveryConnection) {
  run_ms(400);
  ASSERT_TRUE(client_->begin_window());
  server_.silent = true;
  run_ms(300);
  server_.silent = false;
  Figures f = client_->end_window();
  EXPECT_TRUE(f.all_answered);
  EXPECT_EQ(f.counts.errors, 0u);
  ASSERT_TRUE(f.interruption_any_ms);
  EXPECT_GT(*f.interruption_any_ms, 200);
  EXPECT_GT(*f.latency_max_us, 200'000);
}

TEST_F(Load, TooShortAQuietTimeGivesNoInterruption) {
  ASSERT_TRUE(client_->begin_window());
  run_ms(50);
  Figures f = client_->end_window();
  EXPECT_EQ(f.service_interruption_ms, std::nullopt);
}

TEST_F(Load, ResetsAreCountedAndTheConnectionIsMadeAnew) {
  run_ms(100);
  ASSERT_TRUE(client_->begin_window());
  server_.reset_all = true;
  run_ms(100);
  Figures f = client_->end_window();
  EXPECT_FALSE(f.all_answered);
  EXPECT_EQ(f.counts.resets, 5u);
  EXPECT_GE(f.counts.errors, 5u);
  ASSERT_TRUE(client_->begin_window());
  run_ms(100);
  f = client_->end_window();
  EXPECT_TRUE(f.all_answered);
  EXPECT_EQ(f.counts.resets, 0u);
}

TEST_F(Load, LostAndChangedKeysAreFoundByReadingBack) {
  run_ms(50);
  client_->pause();
  server_.erase(DataSet::key_name(5));
  server_.set(DataSet::key_name(6), "something else");
  server_.set("counter:1", "-3");
  Verification v = client_->verify();
  EXPECT_FALSE(v.verified);
  EXPECT_EQ(v.lost, 3u);
  EXPECT_NE(v.problem.find("key:0000000005 is missing"), std::string::npos) << v.problem;
}

TEST_F(Load, PausedClientSendsNothing) {
  run_ms(50);
  client_->pause();
  ASSERT_TRUE(client_->begin_window());
  run_ms(50);
  client_->resume();
  run_ms(50);
  Figures f = client_->end_window();
  EXPECT_GT(f.counts.requests, 0u);
  EXPECT_EQ(f.counts.errors, 0u);
}

class FixedRate : public Load {
 protected:
  void change(LoadOptions& options) override {
    options.rate = 2000;
    options.distribution.zipf = true;
  }
};

TEST_F(FixedRate, EveryRequestThatIsDueWhileTheServerIsSilentIsCounted) {
  run_ms(300);
  ASSERT_TRUE(client_->begin_window());
  int64_t silent_ns = now_ns();
  server_.silent = true;
  run_ms(300);
  server_.silent = false;
  int64_t spoke_ns = now_ns();
  run_ms(100);
  Figures f = client_->end_window({0, silent_ns, spoke_ns});
  EXPECT_TRUE(f.all_answered);
  EXPECT_EQ(f.counts.errors + f.counts.lost + f.counts.duplicated + f.counts.reordered, 0u);
  const auto& silence = f.phases[static_cast<size_t>(Phase::handover)];
  ASSERT_TRUE(silence);
  EXPECT_FALSE(f.phases[static_cast<size_t>(Phase::precopy)]);
  // 600 were due in at least 300 ms; the first of them waited for all of it, the middle one for half.
  EXPECT_GE(silence->requests, 590u);
  EXPECT_GT(*silence->latency_max_us, 290'000);
  EXPECT_GT(*silence->latency_p50_us, 140'000);
  Verification v = client_->verify();
  EXPECT_TRUE(v.verified) << v.problem;
}

TEST_F(FixedRate, AcknowledgedWriteThatIsGoneIsFound) {
  run_ms(50);
  client_->pause();
  server_.set(DataSet::key_name(7), DataSet(100, 100).value(7, 0));
  Verification v = client_->verify();
  EXPECT_EQ(v.lost, 1u);
  EXPECT_NE(v.problem.find("key:0000000007 is older"), std::string::npos) << v.problem;
}

TEST(LoadOptionsTest, ImpossibleOnesAreRefused) {
  auto refused = [](auto change) {
    LoadOptions options;
    options.server = {"127.0.0.1", 1};
    change(options);
    return !LoadClient::create(options);
  };
  EXPECT_TRUE(refused([](LoadOptions& o) { o.workers = o.probes = 0; }));
  EXPECT_TRUE(refused([](LoadOptions& o) { o.workers = 100'000; }));
  EXPECT_TRUE(refused([](LoadOptions& o) { o.value_bytes = 3; }));
  EXPECT_TRUE(refused([](LoadOptions& o) { o.worker_interval_ms = 0; }));
  EXPECT_TRUE(refused([](LoadOptions& o) { o.rate = 0; }));
  EXPECT_TRUE(refused([](LoadOptions& o) { o.rate = kRateMax + 1; }));
  EXPECT_TRUE(refused([](LoadOptions& o) {
    o.rate = 1;
    o.workers = 0;
  }));
  EXPECT_FALSE(refused([](LoadOptions&) {}));
}

TEST(LoadClientTest, ServerThatIsNotThereIsAnError) {
  LoadOptions options;
  options.server = {"127.0.0.1", 1};
  auto client = LoadClient::create(options);
  ASSERT_TRUE(client);
  EXPECT_FALSE((*client)->fill());
  EXPECT_FALSE((*client)->start());
  options.server.address = "nowhere";
  client = LoadClient::create(options);
  ASSERT_TRUE(client);
  EXPECT_FALSE((*client)->start());
  EXPECT_FALSE((*client)->verify().verified);
}

TEST(Commands, FiguresComeBackAsTheyWere) {
  Figures f;
  f.counts = {1, 2, 3, 4, 5, 6, 7};
  f.latency_p99_us = 12.5;
  f.interruption_any_ms = 0.25;
  f.retransmits = 9;
  f.phases[1] = PhaseFigures{1.5, 30'000, 20'000.5, 90, std::nullopt, 400, 500, 12.25, 61.5};
  f.longest_gap = Window{1'000'000, 62'500'000};
  f.longest_gap_phase = Phase::after;
  f.workload_tcp = TcpCounters{1, 2, 3, 4, 5};
  f.client_tcp = TcpCounters{};
  f.resets_received = 3;
  f.all_answered = true;
  auto back = figures_from_json(to_json(f));
  ASSERT_TRUE(back);
  EXPECT_EQ(to_json(*back), to_json(f));
  EXPECT_EQ(back->latency_p50_us, std::nullopt) << "null stays unknown";
  EXPECT_FALSE(back->phases[0]);
  EXPECT_EQ(back->longest_gap, f.longest_gap);
  EXPECT_EQ(back->longest_gap_phase, Phase::after);
  EXPECT_EQ(back->resets_received, 3u);
  EXPECT_EQ(back->workload_tcp, f.workload_tcp);
  Verification v{10, 2, false, "key \"x\""};
  auto verification = verification_from_json(to_json(v));
  ASSERT_TRUE(verification);
  EXPECT_EQ(to_json(*verification), to_json(v));
}

TEST(Commands, FailuresAndGarbageAreErrors) {
  EXPECT_FALSE(figures_from_json("{\"ok\":false,\"error\":\"no\"}"));
  EXPECT_FALSE(figures_from_json("nonsense"));
  EXPECT_FALSE(verification_from_json("[]"));
  EXPECT_FALSE(check_answer("{}"));
}

}  // namespace
}  // namespace mose::client
