// SPDX-License-Identifier: MIT
// The test plays the server: it answers rightly, wrongly, twice, late and out of order.
#include "client/streams.h"

#include <gtest/gtest.h>

#include "answers.h"

namespace mose::client {
namespace {

Reply bulk(const std::string& text) { return {Reply::Kind::bulk, text, 0}; }
Reply integer(int64_t v) { return {Reply::Kind::integer, {}, v}; }
Reply null() { return {}; }

class Streams : public ::testing::Test {
 protected:
  Streams() : data_(50, 64), shared_{data_, {}, {}}, worker_(shared_, 0, 1, 1), probe_(shared_, 0) {
    for (uint32_t i = 0; i < data_.keys(); ++i) data_.acknowledge(i, data_.next_version(i));
  }
  // The key of the request that the worker has under way.
  static uint32_t key_of(const std::string& request) {
    return static_cast<uint32_t>(std::stoul(request.substr(request.find("key:") + 4, 10)));
  }
  // Sends requests (answering them rightly) until one of the wanted kind is under way.
  std::string until(const std::string& verb) {
    while (true) {
      std::string request = worker_.next_request(1);
      if (request.find(verb) != std::string::npos) return request;
      answer_rightly(request);
    }
  }
  void answer_rightly(const std::string& request) {
    if (request.find("INCR") != std::string::npos) {
      worker_.answered(integer(worker_.counter() + 1), 2);
    } else if (request.find("SET") != std::string::npos) {
      worker_.answered(status(), 2);
    } else {
      uint32_t key = key_of(request);
      worker_.answered(bulk(data_.value(key, data_.acknowledged(key))), 2);
    }
  }
  uint32_t probe_key() const { return key_of(probe_.next_request()); }
  Reply right(uint32_t key) {
    text_.push_back(data_.value(key, data_.acknowledged(key)));
    return bulk(text_.back());
  }

  DataSet data_;
  Context shared_;
  Worker worker_;
  Probe probe_;
  std::deque<std::string> text_;
};

TEST_F(Streams, RightAnswersCountAsNothingBad) {
  for (int i = 0; i < 200; ++i) answer_rightly(worker_.next_request(1000));
  for (int i = 0; i < 200; ++i) {
    uint32_t key = probe_key();
    probe_.sent(1000);
    probe_.answered(right(key), 3000);
  }
  EXPECT_EQ(shared_.counts.requests, 400u);
  EXPECT_EQ(bad(shared_.counts), 0u);
  EXPECT_EQ(shared_.latencies_us.size(), 400u);
  EXPECT_EQ(shared_.latencies_us.back(), 2u);
}

TEST_F(Streams, AcknowledgedWriteThatIsGoneIsLost) {
  std::string request = until("GET");
  worker_.answered(null(), 2);
  EXPECT_EQ(shared_.counts.lost, 1u);
  request = until("GET");
  uint32_t key = key_of(request);
  data_.acknowledge(key, data_.next_version(key));
  worker_.answered(bulk(data_.value(key, data_.acknowledged(key) - 1)), 2);
  EXPECT_EQ(shared_.counts.lost, 2u);
  EXPECT_EQ(shared_.counts.errors, 0u);
}

TEST_F(Streams, IncrementCarriedOutTwiceIsDuplicatedAndOneUndoneIsLost) {
  until("INCR");
  worker_.answered(integer(2), 2);
  EXPECT_EQ(shared_.counts.duplicated, 1u);
  until("INCR");
  worker_.answered(integer(1), 2);
  EXPECT_EQ(shared_.counts.lost, 1u);
}

TEST_F(Streams, IncrementOfUnknownFateMayHaveHappened) {
  until("INCR");
  worker_.abandoned();
  EXPECT_EQ(shared_.counts.errors, 1u);
  EXPECT_EQ(worker_.counter_max(), worker_.counter() + 1);
  until("INCR");
  worker_.answered(integer(2), 2);
  EXPECT_EQ(shared_.counts.duplicated, 0u);
}

TEST_F(Streams, AnswerOfAnotherKeyIsReorderedForAWorker) {
  uint32_t key = key_of(until("GET"));
  worker_.answered(right((key + 1) % data_.keys()), 2);
  EXPECT_EQ(shared_.counts.reordered, 1u);
}

TEST_F(Streams, AnswerToNothingIsDuplicated) {
  worker_.answered(status(), 2);
  probe_.answered(status(), 2);
  EXPECT_EQ(shared_.counts.duplicated, 2u);
}

TEST_F(Streams, ProbeKnowsOrderByContent) {
  uint32_t first = probe_key();
  probe_.sent(1);
  uint32_t second = probe_key();
  probe_.sent(1);
  probe_.answered(right(second), 2);
  EXPECT_EQ(shared_.counts.reordered, 1u);
  probe_.answered(right(first), 3);
  EXPECT_EQ(bad(shared_.counts), 1u) << "the one that was overtaken is right when it comes";
  uint32_t third = probe_key();
  probe_.sent(4);
  probe_.answered(right(first), 5);
  EXPECT_EQ(shared_.counts.duplicated, 1u);
  probe_.answered(right(third), 6);
  EXPECT_EQ(bad(shared_.counts), 2u);
  EXPECT_EQ(probe_.pending(), 0u);
}

TEST_F(Streams, ProbeTakesAnyVersionBetweenAcknowledgedAndSent) {
  uint32_t key = probe_key();
  probe_.sent(1);
  uint32_t version = data_.next_version(key);  // under way
  probe_.answered(bulk(data_.value(key, version)), 2);
  EXPECT_EQ(bad(shared_.counts), 0u);
  key = probe_key();
  probe_.sent(1);
  probe_.answered(bulk(data_.value(key, data_.sent(key) + 1)), 2);
  EXPECT_EQ(shared_.counts.errors, 1u) << "newer than anything that was written";
}

TEST_F(Streams, ProbeThatReadsAnOlderVersionLostAWrite) {
  uint32_t key = probe_key();
  data_.acknowledge(key, data_.next_version(key));
  probe_.sent(1);
  probe_.answered(bulk(data_.value(key, data_.acknowledged(key) - 1)), 2);
  EXPECT_EQ(shared_.counts.lost, 1u);
}

TEST_F(Streams, ErrorsAndGarbageAreErrors) {
  probe_.sent(1);
  probe_.answered({Reply::Kind::error, "LOADING", 0}, 2);
  probe_.sent(1);
  probe_.answered(bulk(std::string(64, '\0')), 2);
  until("SET");
  worker_.answered({Reply::Kind::error, "OOM", 0}, 2);
  EXPECT_EQ(shared_.counts.errors, 3u);
}

TEST_F(Streams, UnansweredProbesOfALostConnectionAreErrors) {
  for (int i = 0; i < 5; ++i) probe_.sent(1);
  probe_.abandoned();
  EXPECT_EQ(shared_.counts.errors, 5u);
  EXPECT_EQ(probe_.pending(), 0u);
}

TEST(Workers, WriteOnlyTheirOwnKeys) {
  DataSet data(7, 64);
  Context shared{data, {}, {}};
  for (uint32_t index = 0; index < 10; ++index) {
    Worker worker(shared, index, 10, 3);
    for (int i = 0; i < 50; ++i) {
      std::string request = worker.next_request(1);
      size_t at = request.find("key:");
      if (at == std::string::npos) {
        worker.answered(integer(worker.counter() + 1), 2);
        continue;
      }
      EXPECT_EQ(std::stoul(request.substr(at + 4, 10)) % 10, index);
      worker.abandoned();
    }
    if (index >= 7) {
      EXPECT_EQ(worker.counter(), 50) << "no key of its own: it only counts";
    }
  }
}

}  // namespace
}  // namespace mose::client
