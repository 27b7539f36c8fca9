// SPDX-License-Identifier: MIT
#include "client/load_streams.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"

namespace mose::client {
namespace {

constexpr int64_t kTickNs = 1'000'000;
constexpr uint64_t kCatchUpTicksMax = 1000;    // a client that slept longer sends no burst for all of it
constexpr size_t kUnsentBytesMax = 64u << 20;  // per connection: three seconds of 20 000 SET/s of 1 kB on one
constexpr Nanoseconds kConnectBound = std::chrono::seconds(5);
constexpr uint64_t kTimerTag = UINT64_MAX;

}  // namespace

LoadStreams::LoadStreams(const LoadOptions& o)
    : data(std::max(keys_for(o.megabytes, o.value_bytes), o.rate ? o.workers : 1), o.value_bytes),
      shared{data, {}, {}},
      options_(o),
      keys_(o.distribution, o.workers ? data.keys() / o.workers : 1),
      schedule_(o.rate.value_or(0)) {
  for (uint32_t i = 0; i < o.workers; ++i) {
    if (o.rate) {
      streams_.emplace_back(shared, keys_, o.mix, i, o.workers, o.seed);
    } else {
      workers.emplace_back(shared, i, o.workers, o.seed);
    }
  }
  for (uint32_t i = 0; i < o.probes; ++i) probes.emplace_back(shared, i);
  connections_.resize(o.workers + o.probes);
}

Status LoadStreams::make_descriptors() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return fail_errno("epoll_create1");
  timer_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer_) return fail_errno("timerfd_create");
  return {};
}

Status LoadStreams::start() {
  for (size_t i = 0; i < connections_.size(); ++i) MOSE_TRY(open_connection(i));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kTimerTag;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event) != 0) return fail_errno("epoll_ctl");
  start_ns_ = now_ns() + kTickNs;
  itimerspec period{to_timespec(kTickNs), to_timespec(start_ns_)};
  if (::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &period, nullptr) != 0) return fail_errno("timerfd_settime");
  sending_ = true;
  return {};
}

Status LoadStreams::reconnect() {
  for (size_t i = 0; i < connections_.size(); ++i) {
    if (!connections_[i].open()) MOSE_TRY(open_connection(i));
  }
  return {};
}

Status LoadStreams::open_connection(size_t i) {
  MOSE_ASSIGN(connections_[i], Connection::connect(options_.server, kConnectBound));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = i;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connections_[i].fd(), &event) != 0) return fail_errno("epoll_ctl");
  return {};
}

void LoadStreams::lose_connection(size_t i) {
  connections_[i].close();
  ++shared.counts.resets;
  ++shared.counts.errors;
  if (i < workers.size()) {
    workers[i].abandoned();
  } else if (i < streams_.size()) {
    streams_[i].abandoned();
  } else {
    probe(i).abandoned();
  }
}

void LoadStreams::send_worker(size_t i, int64_t at) {
  if (!connections_[i].open() || !workers[i].idle()) return;
  // A closed loop has one small request under way: a full buffer cannot be.
  if (connections_[i].send(workers[i].next_request(at)) != Connection::Sent::sent) lose_connection(i);
}

void LoadStreams::send_probe(size_t i, int64_t at) {
  if (!connections_[i].open()) return;
  switch (connections_[i].send(probe(i).next_request())) {
    case Connection::Sent::sent:
      probe(i).sent(at);
      break;
    case Connection::Sent::full:
      ++shared.counts.not_sent;
      break;
    case Connection::Sent::closed:
      lose_connection(i);
      break;
  }
}

bool LoadStreams::send_batch(size_t i, uint32_t requests, int64_t due_ns) {
  if (!connections_[i].open() || connections_[i].unsent_bytes() > kUnsentBytesMax) return false;
  batch_.clear();
  for (uint32_t k = 0; k < requests; ++k) streams_[i].append_next(batch_, due_ns);
  if (!connections_[i].queue(batch_)) lose_connection(i);
  return true;
}

void LoadStreams::send_rate(uint64_t tick, int64_t due_ns) {
  for (uint32_t left = schedule_.due(tick); left > 0;) {
    uint32_t batch = std::min(left, kBatchMax);
    left -= batch;
    if (!send_batch(next_stream_, batch, due_ns)) shared.counts.not_sent += batch;
    next_stream_ = (next_stream_ + 1) % streams_.size();
  }
}

void LoadStreams::on_tick() {
  uint64_t ticks = 0;
  if (::read(timer_.get(), &ticks, sizeof ticks) != sizeof ticks) return;
  uint64_t end = tick_ + ticks;
  if (!sending_) {
    tick_ = end;
    return;
  }
  for (; ticks > kCatchUpTicksMax; --ticks, ++tick_) shared.counts.not_sent += schedule_.due(tick_);
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (connections_[i].open() && connections_[i].unsent_bytes() > 0 && !connections_[i].queue({})) lose_connection(i);
  }
  // A request that is sent late counts from the time at which it was due.
  for (; tick_ < end; ++tick_) {
    int64_t due = start_ns_ + static_cast<int64_t>(tick_) * kTickNs;
    for (size_t i = load_count(); i < connections_.size(); ++i) send_probe(i, due);
    for (size_t i = 0; i < workers.size(); ++i) {
      uint64_t interval = options_.worker_interval_ms;
      if (tick_ % interval == i * interval / workers.size()) send_worker(i, due);
    }
    if (!streams_.empty()) send_rate(tick_, due);
  }
}

void LoadStreams::on_readable(size_t i) {
  bool still_open = connections_[i].receive();
  int64_t at = now_ns();
  Reply reply;
  while (true) {
    auto whole = connections_[i].replies().next(reply);
    if (!whole) still_open = false;
    if (!whole || !*whole) break;
    answers_ns.push_back(at);
    ++answers_;
    if (i < workers.size()) {
      workers[i].answered(reply, at);
    } else if (i < streams_.size()) {
      streams_[i].answered(reply, at);
    } else {
      probe(i).answered(reply, at);
    }
  }
  if (!still_open) lose_connection(i);
}

void LoadStreams::poll(int timeout_ms) {
  epoll_event events[64];
  int n = ::epoll_wait(epoll_.get(), events, 64, timeout_ms);
  for (int k = 0; k < n; ++k) {
    if (events[k].data.u64 == kTimerTag) {
      on_tick();
    } else if (connections_[events[k].data.u64].open()) {
      on_readable(events[k].data.u64);
    }
  }
}

size_t LoadStreams::pending(size_t i) const {
  if (i < workers.size()) return workers[i].idle() ? 0 : 1;
  if (i < streams_.size()) return streams_[i].pending();
  return probes[i - load_count()].pending();
}

bool LoadStreams::answered_since(size_t i, int64_t ns) const {
  if (i < workers.size()) return workers[i].last_answer_ns() > ns;
  if (i < streams_.size()) return streams_[i].last_answered_due_ns() >= ns;
  return probes[i - load_count()].last_answered_sent_ns() >= ns;
}

bool LoadStreams::all_open() const {
  return std::all_of(connections_.begin(), connections_.end(), [](const Connection& c) { return c.open(); });
}

bool LoadStreams::all_idle() const {
  for (size_t i = 0; i < connections_.size(); ++i) {
    if (pending(i) > 0) return false;
  }
  return true;
}

bool LoadStreams::all_open_answered_since(int64_t ns) const {
  for (size_t i = 0; i < connections_.size(); ++i) {
    if (connections_[i].open() && !answered_since(i, ns)) return false;
  }
  return true;
}

uint64_t LoadStreams::unanswered_since(int64_t ns) const {
  uint64_t sum = 0;
  for (size_t i = 0; i < connections_.size(); ++i) {
    // What a connection that ended left unanswered was counted at its end.
    if (!connections_[i].open() || answered_since(i, ns)) continue;
    sum += i < workers.size() ? 1 : pending(i);
  }
  return sum;
}

uint64_t LoadStreams::retransmits() const {
  uint64_t sum = 0;
  for (const Connection& c : connections_) sum += c.retransmits();
  return sum;
}

void LoadStreams::lose_busy() {
  for (size_t i = 0; i < connections_.size(); ++i) {
    if (pending(i) > 0 && connections_[i].open()) lose_connection(i);
  }
}

void LoadStreams::forget_before(int64_t ns) {
  for (Probe& p : probes) p.forget_answers_before(ns);
  answers_ns.erase(answers_ns.begin(), std::lower_bound(answers_ns.begin(), answers_ns.end(), ns));
  std::erase_if(shared.samples, [&](const LoadSample& s) { return s.due_ns < ns; });
}

}  // namespace mose::client
