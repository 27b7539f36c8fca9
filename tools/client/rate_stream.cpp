// SPDX-License-Identifier: MIT
#include "client/rate_stream.h"

#include <charconv>

namespace mose::client {

Result<Mix> parse_mix(const std::string& text) {
  if (text == "set") return Mix{100};
  if (text == "get") return Mix{0};
  if (text.starts_with("set:")) {
    Mix out;
    const char *begin = text.data() + 4, *end = text.data() + text.size();
    auto [at, error] = std::from_chars(begin, end, out.set_percent);
    if (error == std::errc{} && at == end && out.set_percent <= 100) return out;
  }
  return fail("a mix is set, get or set:PERCENT (0 to 100), not \"" + text + "\"");
}

std::string to_string(Mix mix) {
  if (mix.set_percent == 100) return "set";
  return mix.set_percent == 0 ? "get" : "set:" + std::to_string(mix.set_percent);
}

RateStream::RateStream(Context& shared, const KeyChoice& keys, Mix mix, uint32_t index, uint32_t streams, uint64_t seed)
    : shared_(shared), keys_(keys), mix_(mix), index_(index), streams_(streams), random_(stream_seed(seed, index)) {}

// One kind alone draws nothing: its keys are the same ones whatever else there is.
bool RateStream::next_is_set() {
  if (mix_.set_percent == 0 || mix_.set_percent == 100) return mix_.set_percent == 100;
  return next_random(random_) % 100 < mix_.set_percent;
}

void RateStream::append_next(std::string& out, int64_t due_ns) {
  uint32_t key = index_ + streams_ * keys_.pick(next_random(random_));
  Request request{due_ns, key, 0, next_is_set()};
  if (request.set) {
    request.version = shared_.data.next_version(key);
    append_request(out, {"SET", DataSet::key_name(key), shared_.data.value(key, request.version)});
  } else {
    request.version = shared_.data.sent(key);
    append_request(out, {"GET", DataSet::key_name(key)});
  }
  pending_.push_back(request);
  ++shared_.counts.requests;
}

void RateStream::judge_get(const Request& request, const Reply& reply) {
  uint32_t key = 0, version = 0;
  bool ours = reply.kind == Reply::Kind::bulk && shared_.data.parse(reply.text, key, version);
  if (ours && key != request.key) {
    ++shared_.counts.reordered;
  } else if (reply.kind == Reply::Kind::null || (ours && version < shared_.data.acknowledged(key))) {
    ++shared_.counts.lost;
  } else if (!ours || version > request.version) {
    shared_.impossible();
  }
}

void RateStream::answered(const Reply& reply, int64_t now_ns) {
  if (pending_.empty()) {
    ++shared_.counts.duplicated;
    return;
  }
  Request request = pending_.front();
  pending_.pop_front();
  last_answered_due_ns_ = request.due_ns;
  shared_.load_latency(request.due_ns, now_ns);
  if (!request.set) {
    judge_get(request, reply);
  } else if (reply.kind == Reply::Kind::status) {
    shared_.data.acknowledge(request.key, request.version);
  } else {
    shared_.impossible();
  }
}

void RateStream::abandoned() {
  shared_.counts.errors += pending_.size();
  pending_.clear();
}

}  // namespace mose::client
