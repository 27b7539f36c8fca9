// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "client/connection.h"
#include "client/data_set.h"
#include "client/figures.h"
#include "client/phases.h"

// The two kinds of load, each one connection and the judgement of its answers. They know no sockets: the client sends
// what they ask for and hands them the answers, so that a test can play the server.
namespace mose::client {

// What streams share.
struct Context {
  DataSet& data;
  Counts counts;
  std::vector<uint32_t> latencies_us;
  std::vector<LoadSample> samples = {};  // of the load without the probes

  void impossible() {
    ++counts.errors;
    ++counts.impossible;
  }
  void latency(int64_t sent_ns, int64_t now_ns);
  void load_latency(int64_t due_ns, int64_t now_ns);
};

// Random numbers of one stream: the same seed gives the same ones, and each stream has its own.
[[nodiscard]] uint64_t stream_seed(uint64_t seed, uint32_t index);
uint64_t next_random(uint64_t& state);

// Closed loop: one request under way, the next not before its time. SET and GET of keys that only this worker writes, and
// INCR of a counter of its own, whose answer must be exactly one more than the last.
class Worker {
 public:
  Worker(Context& shared, uint32_t index, uint32_t workers, uint64_t seed);

  [[nodiscard]] bool idle() const { return kind_ == Kind::none; }
  // The next request; marks it as under way.
  [[nodiscard]] std::string next_request(int64_t now_ns);
  void answered(const Reply& reply, int64_t now_ns);
  // The connection has ended: what was under way may or may not have been carried out.
  void abandoned();

  [[nodiscard]] std::string counter_name() const;
  // Acknowledged increments; one more may have been carried out after abandoned().
  [[nodiscard]] int64_t counter() const { return counter_; }
  [[nodiscard]] int64_t counter_max() const { return counter_ + uncertain_; }
  [[nodiscard]] int64_t last_answer_ns() const { return last_answer_ns_; }

 private:
  enum class Kind { none, set, get, incr };
  uint32_t random_key();

  Context& shared_;
  uint32_t index_, workers_;
  uint64_t random_;
  uint64_t turn_ = 0;
  Kind kind_ = Kind::none;
  uint32_t key_ = 0, version_ = 0;
  int64_t sent_ns_ = 0, last_answer_ns_ = 0;
  int64_t counter_ = 0, uncertain_ = 0;
};

// Open loop: GETs of ever other keys, sent at their time whether the former ones were answered or not.
class Probe {
 public:
  Probe(Context& shared, uint32_t index);

  // The request of the next key; it counts only after sent().
  [[nodiscard]] std::string next_request() const;
  void sent(int64_t now_ns);
  void answered(const Reply& reply, int64_t now_ns);
  void abandoned();

  [[nodiscard]] size_t pending() const { return pending_.size(); }
  [[nodiscard]] const std::vector<int64_t>& answers_ns() const { return answers_ns_; }
  [[nodiscard]] int64_t last_answered_sent_ns() const { return last_answered_sent_ns_; }
  void forget_answers_before(int64_t ns);

 private:
  struct Request {
    int64_t sent_ns;
    uint32_t key, acknowledged;  // the version that was acknowledged when it was sent: an older one is lost
  };
  void misplaced(uint32_t key);

  Context& shared_;
  uint32_t key_;
  std::deque<Request> pending_;
  std::deque<uint32_t> recent_;  // keys answered lately, to know a duplicate
  std::vector<int64_t> answers_ns_;
  int64_t last_answered_sent_ns_ = 0;
};

}  // namespace mose::client
