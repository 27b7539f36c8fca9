// SPDX-License-Identifier: MIT
// Load at a fixed rate: when requests are due, which keys they take, and how their answers are judged.
#include "client/rate_stream.h"

#include <gtest/gtest.h>

#include <map>

#include "answers.h"

namespace mose::client {
namespace {

class Rate : public ::testing::Test {
 protected:
  Rate() : data_(40, 64), shared_{data_, {}, {}}, keys_({}, 10) {
    for (uint32_t i = 0; i < data_.keys(); ++i) data_.acknowledge(i, data_.next_version(i));
  }
  RateStream stream(Mix mix, uint32_t index = 1) { return {shared_, keys_, mix, index, 4, 7}; }
  static uint32_t key_of(const std::string& request) {
    return static_cast<uint32_t>(std::stoul(request.substr(request.find("key:") + 4, 10)));
  }
  uint32_t send(RateStream& s, int64_t due_ns = 1000) {
    std::string request;
    s.append_next(request, due_ns);
    return key_of(request);
  }
  void get_answered(RateStream& s, uint32_t key, uint32_t version) {
    std::string text = data_.value(key, version);
    s.answered({Reply::Kind::bulk, text, 0}, 2000);
  }

  DataSet data_;
  Context shared_;
  KeyChoice keys_;
};

TEST(RateScheduleTest, EverySecondHasExactlyTheRate) {
  for (uint32_t rate : {1u, 7u, 333u, 1000u, 20'000u, 20'001u, kRateMax}) {
    RateSchedule schedule(rate);
    for (uint64_t second : {0ull, 3ull, 100'000ull}) {
      uint64_t sum = 0;
      for (uint64_t tick = second * 1000; tick < (second + 1) * 1000; ++tick) sum += schedule.due(tick);
      EXPECT_EQ(sum, rate) << "second " << second;
    }
  }
}

TEST_F(Rate, AcknowledgedWritesAreKnownInTheirOrder) {
  RateStream s = stream(Mix{100});
  std::map<uint32_t, uint32_t> writes;
  for (int i = 0; i < 100; ++i) {
    uint32_t key = send(s);
    EXPECT_EQ(key % 4, 1u) << "another stream's key";
    ++writes[key];
  }
  EXPECT_EQ(s.pending(), 100u);
  for (const auto& [key, n] : writes) EXPECT_EQ(data_.acknowledged(key), 1u) << "nothing is answered yet";
  for (int i = 0; i < 100; ++i) s.answered(status(), 2000);
  for (const auto& [key, n] : writes) EXPECT_EQ(data_.acknowledged(key), 1 + n);
  EXPECT_EQ(bad(shared_.counts), 0u);
  EXPECT_EQ(shared_.counts.requests, 100u);
}

TEST_F(Rate, LatencyCountsFromTheTimeAtWhichARequestWasDue) {
  RateStream s = stream(Mix{100});
  send(s, 1'000'000);
  send(s, 2'000'000);
  s.answered(status(), 9'000'000);
  s.answered(status(), 9'000'000);
  ASSERT_EQ(shared_.samples.size(), 2u);
  EXPECT_EQ(shared_.samples[0].latency_us, 8000u);
  EXPECT_EQ(shared_.samples[1].latency_us, 7000u);
  EXPECT_EQ(s.last_answered_due_ns(), 2'000'000);
}

TEST_F(Rate, AnswersOfGetsAreJudged) {
  RateStream s = stream(Mix{0});
  uint32_t key = send(s);
  get_answered(s, key, 1);
  EXPECT_EQ(bad(shared_.counts), 0u);
  key = send(s);
  get_answered(s, key, 0);
  EXPECT_EQ(shared_.counts.lost, 1u) << "older than acknowledged";
  key = send(s);
  get_answered(s, key, 2);
  EXPECT_EQ(shared_.counts.errors, 1u) << "never written";
  key = send(s);
  get_answered(s, (key + 4) % 40, 1);
  EXPECT_EQ(shared_.counts.reordered, 1u) << "of another key";
  send(s);
  s.answered({}, 2000);
  EXPECT_EQ(shared_.counts.lost, 2u) << "missing";
}

TEST_F(Rate, AMixIsBothKindsInItsProportion) {
  RateStream s = stream(Mix{20});
  std::map<uint32_t, uint32_t> versions;
  int sets = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string request;
    s.append_next(request, 1000);
    uint32_t key = key_of(request);
    if (request.find("SET") != std::string::npos) {
      ++sets;
      ++versions[key];
      s.answered(status(), 2000);
    } else {
      get_answered(s, key, 1 + versions[key]);
    }
  }
  EXPECT_NEAR(sets, 1000, 150);
  EXPECT_EQ(bad(shared_.counts), 0u);
}

TEST_F(Rate, AReadBehindAWriteOfTheSameKeyMustSeeIt) {
  RateStream s = stream(Mix{50});
  uint32_t written = 40;
  std::string request;
  // Until a read follows a write of its key, both under way.
  while (true) {
    request.clear();
    s.append_next(request, 1000);
    uint32_t key = key_of(request);
    bool set = request.find("SET") != std::string::npos;
    if (set) {
      s.answered(status(), 2000);
      written = key;
    } else if (key == written) {
      get_answered(s, key, data_.acknowledged(key) - 1);
      break;
    } else {
      get_answered(s, key, data_.acknowledged(key));
    }
  }
  EXPECT_EQ(shared_.counts.lost, 1u);
  EXPECT_EQ(shared_.counts.errors, 0u);
}

TEST(MixTest, OnlyKnownOnesAreTaken) {
  for (const char* text : {"set", "get", "set:1", "set:99"}) EXPECT_EQ(to_string(*parse_mix(text)), text);
  EXPECT_EQ(*parse_mix("set:100"), Mix{100});
  EXPECT_EQ(*parse_mix("set:0"), Mix{0});
  for (const char* wrong : {"", "put", "set:", "set:101", "set:-1", "set:5x", "get:5"}) {
    EXPECT_FALSE(parse_mix(wrong)) << wrong;
  }
}

TEST_F(Rate, WhatIsNoAnswerIsCounted) {
  RateStream s = stream(Mix{100});
  s.answered(status(), 2000);
  EXPECT_EQ(shared_.counts.duplicated, 1u);
  uint32_t key = send(s);
  s.answered({Reply::Kind::error, "ERR", 0}, 2000);
  EXPECT_EQ(shared_.counts.errors, 1u);
  EXPECT_EQ(data_.acknowledged(key), 1u);
  send(s);
  send(s);
  s.abandoned();
  EXPECT_EQ(shared_.counts.errors, 3u);
  EXPECT_EQ(s.pending(), 0u);
}

TEST(KeyChoiceTest, ZipfAsksForRanksInProportion) {
  constexpr uint32_t kKeys = 1000, kDraws = 400'000;
  KeyChoice choice({true, 1.0}, kKeys);
  std::map<uint32_t, uint32_t> drawn;
  uint64_t state = 88172645463325252ull;
  for (uint32_t i = 0; i < kDraws; ++i) {
    uint32_t key = choice.pick(next_random(state));
    ASSERT_LT(key, kKeys);
    ++drawn[key];
  }
  std::vector<uint32_t> counts;
  for (const auto& [key, n] : drawn) counts.push_back(n);
  std::sort(counts.rbegin(), counts.rend());
  double harmonic = 0;
  for (uint32_t rank = 1; rank <= kKeys; ++rank) harmonic += 1.0 / rank;
  for (uint32_t rank : {1u, 2u, 4u, 8u})
    EXPECT_NEAR(counts[rank - 1], kDraws / harmonic / rank, kDraws / harmonic / rank * 0.05) << rank;
  auto first =
      std::max_element(drawn.begin(), drawn.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
  drawn.erase(first);
  auto second =
      std::max_element(drawn.begin(), drawn.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
  EXPECT_GT(std::max(first, second) - std::min(first, second), 100u) << "hot keys lie apart";
}

TEST(KeyChoiceTest, UniformReachesEveryKeyAlike) {
  KeyChoice choice({}, 10);
  std::map<uint32_t, uint32_t> drawn;
  uint64_t state = 88172645463325252ull;
  for (uint32_t i = 0; i < 100'000; ++i) ++drawn[choice.pick(next_random(state))];
  ASSERT_EQ(drawn.size(), 10u);
  for (const auto& [key, n] : drawn) EXPECT_NEAR(n, 10'000, 500) << key;
}

TEST(KeyChoiceTest, OnlyKnownDistributionsAreTaken) {
  EXPECT_FALSE(parse_key_distribution("uniform")->zipf);
  EXPECT_DOUBLE_EQ(parse_key_distribution("zipf")->theta, 0.99);
  EXPECT_DOUBLE_EQ(parse_key_distribution("zipf:1.2")->theta, 1.2);
  for (const char* wrong : {"", "zip", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "zipf:1x", "zipf:11", "uniform:1"}) {
    EXPECT_FALSE(parse_key_distribution(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace mose::client
