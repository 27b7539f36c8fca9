// SPDX-License-Identifier: MIT
#include "client/streams.h"

#include <algorithm>
#include <numeric>

namespace mose::client {
namespace {

constexpr size_t kRecentKeys = 1024;
constexpr size_t kLatenciesMax = 8u << 20;  // an hour of load; more are not kept
// A step that is prime to most key counts, so that consecutive probes touch pages far apart.
constexpr uint32_t kProbeStride = 7919;

uint32_t latency_us_of(int64_t sent_ns, int64_t now_ns) {
  return static_cast<uint32_t>(std::clamp<int64_t>((now_ns - sent_ns) / 1000, 0, UINT32_MAX));
}

}  // namespace

uint64_t stream_seed(uint64_t seed, uint32_t index) {
  return (seed + 1) * 0x9e3779b97f4a7c15ull + index + 1;
}

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

void Context::latency(int64_t sent_ns, int64_t now_ns) {
  if (latencies_us.size() >= kLatenciesMax) return;
  latencies_us.push_back(latency_us_of(sent_ns, now_ns));
}

void Context::load_latency(int64_t due_ns, int64_t now_ns) {
  latency(due_ns, now_ns);
  if (samples.size() < kLatenciesMax) samples.push_back({due_ns, latency_us_of(due_ns, now_ns)});
}

Worker::Worker(Context& shared, uint32_t index, uint32_t workers, uint64_t seed)
    : shared_(shared), index_(index), workers_(workers), random_(stream_seed(seed, index)) {}

std::string Worker::counter_name() const { return "counter:" + std::to_string(index_); }

uint32_t Worker::random_key() {
  uint32_t keys = shared_.data.keys();
  // Each worker has its own keys (index modulo workers), so that it alone knows what they must hold.
  uint32_t own = keys / workers_ + (index_ < keys % workers_ ? 1 : 0);
  if (own == 0) return keys;
  return index_ + workers_ * static_cast<uint32_t>(next_random(random_) % own);
}

std::string Worker::next_request(int64_t now_ns) {
  std::string out;
  sent_ns_ = now_ns;
  key_ = random_key();
  uint64_t turn = turn_++ % 4;
  if (turn == 3 || key_ == shared_.data.keys()) {
    kind_ = Kind::incr;
    append_request(out, {"INCR", counter_name()});
  } else if (turn % 2 == 0) {
    kind_ = Kind::set;
    version_ = shared_.data.next_version(key_);
    append_request(out, {"SET", DataSet::key_name(key_), shared_.data.value(key_, version_)});
  } else {
    kind_ = Kind::get;
    append_request(out, {"GET", DataSet::key_name(key_)});
  }
  ++shared_.counts.requests;
  return out;
}

void Worker::answered(const Reply& reply, int64_t now_ns) {
  Kind kind = kind_;
  kind_ = Kind::none;
  if (kind == Kind::none) {
    ++shared_.counts.duplicated;
    return;
  }
  last_answer_ns_ = now_ns;
  shared_.load_latency(sent_ns_, now_ns);
  uint32_t key = 0, version = 0;
  if (kind == Kind::set && reply.kind == Reply::Kind::status) {
    shared_.data.acknowledge(key_, version_);
  } else if (kind == Kind::incr && reply.kind == Reply::Kind::integer) {
    int64_t expected = counter_ + 1;
    if (reply.integer > expected + uncertain_) ++shared_.counts.duplicated;
    if (reply.integer < expected) ++shared_.counts.lost;
    counter_ = reply.integer;
    uncertain_ = 0;
  } else if (kind == Kind::get && reply.kind == Reply::Kind::null) {
    ++shared_.counts.lost;
  } else if (kind == Kind::get && reply.kind == Reply::Kind::bulk && shared_.data.parse(reply.text, key, version)) {
    if (key != key_) {
      ++shared_.counts.reordered;
    } else if (version < shared_.data.acknowledged(key_)) {
      ++shared_.counts.lost;
    } else if (version > shared_.data.sent(key_)) {
      shared_.impossible();
    }
  } else {
    shared_.impossible();
  }
}

void Worker::abandoned() {
  if (kind_ == Kind::none) return;
  if (kind_ == Kind::incr) ++uncertain_;
  ++shared_.counts.errors;
  kind_ = Kind::none;
}

Probe::Probe(Context& shared, uint32_t index) : shared_(shared), key_((index * 104729u) % shared.data.keys()) {}

std::string Probe::next_request() const {
  std::string out;
  append_request(out, {"GET", DataSet::key_name(key_)});
  return out;
}

void Probe::sent(int64_t now_ns) {
  ++shared_.counts.requests;
  pending_.push_back({now_ns, key_, shared_.data.acknowledged(key_)});
  uint32_t keys = shared_.data.keys();
  uint32_t stride = std::gcd(kProbeStride, keys) == 1 ? kProbeStride : 1;
  key_ = static_cast<uint32_t>((static_cast<uint64_t>(key_) + stride) % keys);
}

void Probe::misplaced(uint32_t key) {
  auto later = std::find_if(pending_.begin(), pending_.end(), [&](const Request& r) { return r.key == key; });
  if (later != pending_.end()) {
    ++shared_.counts.reordered;
    pending_.erase(later);
  } else if (std::find(recent_.begin(), recent_.end(), key) != recent_.end()) {
    ++shared_.counts.duplicated;
  } else {
    shared_.impossible();
  }
}

void Probe::answered(const Reply& reply, int64_t now_ns) {
  answers_ns_.push_back(now_ns);
  uint32_t key = 0, version = 0;
  bool ours = reply.kind == Reply::Kind::bulk && shared_.data.parse(reply.text, key, version);
  if (pending_.empty()) {
    ++shared_.counts.duplicated;
    return;
  }
  if (ours && key != pending_.front().key) {
    misplaced(key);
    return;
  }
  Request request = pending_.front();
  pending_.pop_front();
  last_answered_sent_ns_ = request.sent_ns;
  shared_.latency(request.sent_ns, now_ns);
  recent_.push_back(request.key);
  if (recent_.size() > kRecentKeys) recent_.pop_front();
  if (reply.kind == Reply::Kind::null || (ours && version < request.acknowledged)) {
    ++shared_.counts.lost;
  } else if (!ours || version > shared_.data.sent(request.key)) {
    shared_.impossible();
  }
}

void Probe::abandoned() {
  shared_.counts.errors += pending_.size();
  pending_.clear();
}

void Probe::forget_answers_before(int64_t ns) {
  auto first = std::lower_bound(answers_ns_.begin(), answers_ns_.end(), ns);
  answers_ns_.erase(answers_ns_.begin(), first);
}

}  // namespace mose::client
