// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "client/key_choice.h"
#include "client/streams.h"

// Load at a fixed rate: requests are due by the clock, whatever became of the former ones, and each is counted from the
// time at which it was due. A server that stands still for 100 ms has then delayed 100 ms of requests, not one per
// connection.
namespace mose::client {

// How many of the requests write; the others read.
struct Mix {
  uint32_t set_percent = 100;
  bool operator==(const Mix&) const = default;
};
// "set", "get" or "set:PERCENT".
[[nodiscard]] Result<Mix> parse_mix(const std::string& text);
[[nodiscard]] std::string to_string(Mix mix);

inline constexpr uint32_t kRateMax = 1'000'000;

// How many requests are due at which tick. Over any whole second they are exactly `rate`.
class RateSchedule {
 public:
  explicit RateSchedule(uint32_t requests_per_s) : rate_(requests_per_s) {}
  // `tick`: milliseconds since the start.
  [[nodiscard]] uint32_t due(uint64_t tick) const {
    return static_cast<uint32_t>((tick + 1) * rate_ / 1000 - tick * rate_ / 1000);
  }

 private:
  uint64_t rate_;
};

// One connection's part: SETs or GETs, any number under way. It alone writes its keys (index modulo streams), and a
// server carries out the requests of one connection in their order: so it knows what each must hold.
class RateStream {
 public:
  // `keys` chooses among the keys of a stream and is shared by all of them.
  RateStream(Context& shared, const KeyChoice& keys, Mix mix, uint32_t index, uint32_t streams, uint64_t seed);

  // Appends the next request to `out`; it is under way from now on.
  void append_next(std::string& out, int64_t due_ns);
  void answered(const Reply& reply, int64_t now_ns);
  // The connection has ended: what was under way may or may not have been carried out.
  void abandoned();

  [[nodiscard]] size_t pending() const { return pending_.size(); }
  [[nodiscard]] int64_t last_answered_due_ns() const { return last_answered_due_ns_; }

 private:
  struct Request {
    int64_t due_ns;
    uint32_t key, version;  // written by a SET; for a GET the newest that was sent before it
    bool set;
  };
  [[nodiscard]] bool next_is_set();
  void judge_get(const Request& request, const Reply& reply);

  Context& shared_;
  const KeyChoice& keys_;
  Mix mix_;
  uint32_t index_, streams_;
  uint64_t random_;
  std::deque<Request> pending_;
  int64_t last_answered_due_ns_ = 0;
};

}  // namespace mose::client
