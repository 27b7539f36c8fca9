// SPDX-License-Identifier: MIT
// The load by phases of a move, and what is seen of the server from outside.
#include "client/phases.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "client/server_watch.h"
#include "client/tcp_counters.h"
#include "answers.h"

namespace mose::client {
namespace {

TEST(PhasesTest, UnknownBoundsGiveNoPhase) {
  Window window{100 * kMs, 900 * kMs};
  auto all = phase_windows(window, 10 * kMs, {200 * kMs, 300 * kMs, 400 * kMs});
  for (const auto& w : all) EXPECT_TRUE(w);
  EXPECT_EQ(all[0]->end_ns, window.begin_ns);
  EXPECT_EQ(all[3]->end_ns, window.end_ns);
  auto longer = phase_windows({100 * kMs, 9000 * kMs}, 10 * kMs, {200 * kMs, 300 * kMs, 400 * kMs});
  EXPECT_EQ(longer[3]->end_ns, 1400 * kMs) << "its first second: a move that takes longer to end is not judged by its quiet end";
  auto no_precopy = phase_windows(window, 10 * kMs, {0, 300 * kMs, 400 * kMs});
  EXPECT_FALSE(no_precopy[1]);
  EXPECT_TRUE(no_precopy[2]);
  auto nothing = phase_windows(window, 10 * kMs, {});
  EXPECT_TRUE(nothing[0]);
  for (size_t i : {1, 2, 3}) EXPECT_FALSE(nothing[i]) << i;
}

TEST(PhasesTest, ARequestBelongsWhereItWasDueAndItsAnswerWhereItCame) {
  std::vector<LoadSample> samples;
  for (uint32_t i = 0; i < 100; ++i) samples.push_back({i * kMs, i < 50 ? 1000u : 60'000u});
  PhaseFigures early = phase_figures(samples, {0, 50 * kMs}), late = phase_figures(samples, {50 * kMs, 100 * kMs});
  EXPECT_EQ(early.requests, 50u);
  EXPECT_EQ(late.requests, 50u);
  EXPECT_EQ(early.latency_max_us, 1000);
  EXPECT_EQ(late.latency_p50_us, 60'000) << "what was due while the server stood still waited, all of it";
  EXPECT_DOUBLE_EQ(early.answers_per_s, 49 / 0.05) << "one answer comes a millisecond later";
  EXPECT_DOUBLE_EQ(late.answers_per_s, 1 / 0.05);
  PhaseFigures empty = phase_figures({}, {0, kMs});
  EXPECT_EQ(empty.answers_per_s, 0);
  EXPECT_FALSE(empty.latency_p50_us);
}

TEST(PhasesTest, AGapLiesWhereMostOfItDoes) {
  const PhaseBounds bounds{200 * kMs, 300 * kMs, 400 * kMs};
  const auto in = [&](int64_t begin_ms, int64_t end_ms) { return phase_of({begin_ms * kMs, end_ms * kMs}, bounds); };
  EXPECT_EQ(in(210, 250), Phase::precopy);
  EXPECT_EQ(in(290, 330), Phase::handover) << "the last answer left just before the hold";
  EXPECT_EQ(in(380, 460), Phase::after);
  EXPECT_EQ(in(5000, 5100), Phase::after) << "the kill of the source comes when it comes";
  EXPECT_EQ(in(100, 190), std::nullopt);
  EXPECT_EQ(phase_of({210 * kMs, 250 * kMs}, {}), std::nullopt);
  EXPECT_EQ(phase_of({310 * kMs, 350 * kMs}, {0, 300 * kMs, 400 * kMs}), Phase::handover) << "a cold move has no pre-copy";
  EXPECT_EQ(phase_of({290 * kMs, 350 * kMs}, {200 * kMs, 300 * kMs, 0}), Phase::handover) << "broken off in the switchover";
  EXPECT_EQ(phase_of({290 * kMs, 350 * kMs}, {200 * kMs, 0, 0}), Phase::precopy) << "and before it";
}

TEST(TcpCountersTest, AreFoundByNameInEitherFile) {
  std::string snmp =
      "Ip: Forwarding RetransSegs\nIp: 1 99\nTcp: MaxConn EstabResets RetransSegs OutRsts\nTcp: -1 3 12 4\n";
  std::string netstat = "TcpExt: SyncookiesSent TCPTimeouts TCPLossProbes\nTcpExt: 0 2 5\n";
  EXPECT_EQ(parse_tcp_counters(snmp, netstat), (TcpCounters{2, 12, 5, 4, 3}));
  EXPECT_EQ(parse_tcp_counters(snmp, "TcpExt: TCPTimeouts\nTcpExt: 2\n"), std::nullopt) << "unknown is not zero";
  EXPECT_EQ(parse_tcp_counters("", ""), std::nullopt);
  EXPECT_NE(read_tcp_counters("self"), std::nullopt) << "this kernel has them all";
  EXPECT_EQ(read_tcp_counters("0"), std::nullopt);
}

TEST(ServerWatchTest, CostIsOfOneProcessBetweenTwoLooks) {
  ServerWatch watch;
  watch.sample(1, 0);
  EXPECT_EQ(watch.cpu_us_per_answer({0, 100}), std::nullopt) << "nobody is watched";
  watch.watch(::getpid());
  watch.begin(10, 100);
  EXPECT_EQ(watch.cpu_us_per_answer({0, 100}), std::nullopt) << "one look is no span";
  volatile uint64_t work = 0;
  for (uint64_t i = 0; i < 20'000'000; ++i) work = work + i;
  watch.sample(50, 200);
  auto cost = watch.cpu_us_per_answer({0, 100});
  ASSERT_TRUE(cost);
  EXPECT_GT(*cost, 0);
  EXPECT_EQ(watch.cpu_us_per_answer({20, 100}), std::nullopt) << "only looks within the span";
  watch.watch(::getppid());
  watch.sample(90, 300);
  EXPECT_EQ(watch.cpu_us_per_answer({0, 100}), std::nullopt) << "two processes";
}

TEST(ServerWatchTest, TcpOfAProcessThatCannotBeReadIsUnknown) {
  ServerWatch watch;
  watch.begin(10, 0);
  EXPECT_EQ(watch.tcp(), std::nullopt);
  watch.watch(::getpid());
  watch.begin(20, 0);
  ASSERT_TRUE(watch.tcp());
  watch.watch(999'999'999);
  watch.sample(30, 0);
  EXPECT_EQ(watch.tcp(), std::nullopt);
}

}  // namespace
}  // namespace mose::client
