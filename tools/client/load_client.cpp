// SPDX-License-Identifier: MIT
#include "client/load_client.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "client/bulk.h"
#include "client/interruption.h"
#include "client/streams.h"

namespace mose::client {
namespace {

using std::chrono::seconds;

constexpr int64_t kTickNs = 1'000'000;
constexpr uint64_t kCatchUpTicksMax = 1000;  // a client that slept longer sends no burst for all of it
constexpr Nanoseconds kConnectBound = seconds(5);
constexpr Nanoseconds kAnswersBound = seconds(10);
constexpr uint64_t kTimerTag = UINT64_MAX;

int64_t now_ns() { return now().time_since_epoch().count(); }

}  // namespace

struct LoadClient::Impl {
  explicit Impl(const LoadOptions& o)
      : options(o), data(keys_for(o.megabytes, o.value_bytes), o.value_bytes), shared{data, {}, {}} {}

  LoadOptions options;
  DataSet data;
  Context shared;
  std::vector<Worker> workers;
  std::vector<Probe> probes;
  std::vector<Connection> connections;  // of the workers, then of the probes
  std::vector<int64_t> answers_ns;      // of all connections
  Fd epoll, timer;
  bool sending = false;
  uint64_t tick = 0;
  Window window;
  Counts before;
  uint64_t retransmits_before = 0;

  [[nodiscard]] bool is_worker(size_t i) const { return i < workers.size(); }
  Probe& probe(size_t i) { return probes[i - workers.size()]; }

  Status open_connection(size_t i) {
    MOSE_ASSIGN(connections[i], Connection::connect(options.server, kConnectBound));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, connections[i].fd(), &event) != 0) return fail_errno("epoll_ctl");
    return {};
  }

  void lose_connection(size_t i) {
    connections[i].close();
    ++shared.counts.resets;
    ++shared.counts.errors;
    if (is_worker(i)) {
      workers[i].abandoned();
    } else {
      probe(i).abandoned();
    }
  }

  void send_worker(size_t i, int64_t at) {
    if (!connections[i].open() || !workers[i].idle()) return;
    // A closed loop has one small request under way: a full buffer cannot be.
    if (connections[i].send(workers[i].next_request(at)) != Connection::Sent::sent) lose_connection(i);
  }

  void send_probe(size_t i, int64_t at) {
    if (!connections[i].open()) return;
    switch (connections[i].send(probe(i).next_request())) {
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

  void on_tick() {
    uint64_t ticks = 0;
    if (::read(timer.get(), &ticks, sizeof ticks) != sizeof ticks || !sending) return;
    ticks = std::min(ticks, kCatchUpTicksMax);
    int64_t at = now_ns();
    // A request that is sent late counts from the time at which it was due.
    for (; ticks > 0; --ticks, ++tick) {
      int64_t due = at - static_cast<int64_t>(ticks - 1) * kTickNs;
      for (size_t i = workers.size(); i < connections.size(); ++i) send_probe(i, due);
      for (size_t i = 0; i < workers.size(); ++i) {
        uint64_t interval = options.worker_interval_ms;
        if (tick % interval == i * interval / workers.size()) send_worker(i, due);
      }
    }
  }

  void on_readable(size_t i) {
    bool still_open = connections[i].receive();
    int64_t at = now_ns();
    Reply reply;
    while (true) {
      auto whole = connections[i].replies().next(reply);
      if (!whole) still_open = false;
      if (!whole || !*whole) break;
      answers_ns.push_back(at);
      if (is_worker(i)) {
        workers[i].answered(reply, at);
      } else {
        probe(i).answered(reply, at);
      }
    }
    if (!still_open) lose_connection(i);
  }

  void poll(int timeout_ms) {
    epoll_event events[64];
    int n = ::epoll_wait(epoll.get(), events, 64, timeout_ms);
    for (int k = 0; k < n; ++k) {
      if (events[k].data.u64 == kTimerTag) {
        on_tick();
      } else if (connections[events[k].data.u64].open()) {
        on_readable(events[k].data.u64);
      }
    }
  }

  template <typename Predicate>
  bool poll_until(Predicate&& done, Nanoseconds bound) {
    Timestamp deadline = now() + bound;
    while (!done()) {
      if (now() >= deadline) return false;
      poll(10);
    }
    return true;
  }

  [[nodiscard]] bool all_idle() const {
    return std::all_of(workers.begin(), workers.end(), [](const Worker& w) { return w.idle(); }) &&
           std::all_of(probes.begin(), probes.end(), [](const Probe& p) { return p.pending() == 0; });
  }

  [[nodiscard]] bool answered_since(size_t i, int64_t ns) const {
    if (is_worker(i)) return workers[i].last_answer_ns() > ns;
    return probes[i - workers.size()].last_answered_sent_ns() >= ns;
  }

  // Every connection that is still open has answered something that was sent at or after `ns`.
  [[nodiscard]] bool all_open_answered_since(int64_t ns) const {
    for (size_t i = 0; i < connections.size(); ++i) {
      if (connections[i].open() && !answered_since(i, ns)) return false;
    }
    return true;
  }

  [[nodiscard]] uint64_t retransmits() const {
    uint64_t sum = 0;
    for (const Connection& c : connections) sum += c.retransmits();
    return sum;
  }

  void fill_interruption(Figures& out) {
    std::optional<int64_t> worst = probes.empty() ? std::nullopt : std::optional<int64_t>(0);
    std::optional<int64_t> quiet;
    for (const Probe& p : probes) {
      auto one = interruption(p.answers_ns(), window);
      auto normal = quiet_gap_p99(p.answers_ns(), window);
      if (normal && (!quiet || *normal > *quiet)) quiet = normal;
      worst = worst && one ? std::optional(std::max(*worst, *one)) : std::nullopt;
    }
    if (worst) out.service_interruption_ms = static_cast<double>(*worst) / 1e6;
    if (quiet) out.quiet_gap_p99_ms = static_cast<double>(*quiet) / 1e6;
    if (auto any = longest_gap(answers_ns, window)) out.interruption_any_ms = static_cast<double>(*any) / 1e6;
  }
};

LoadClient::LoadClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LoadClient::~LoadClient() = default;

Result<std::unique_ptr<LoadClient>> LoadClient::create(const LoadOptions& options) {
  if (options.workers + options.probes == 0 || options.workers > kConnectionsMax || options.probes > kConnectionsMax) {
    return fail("between 1 and " + std::to_string(kConnectionsMax) + " connections, please");
  }
  if (options.value_bytes < kValueHeaderBytes || options.value_bytes > kValueBytesMax) {
    return fail("a value has " + std::to_string(kValueHeaderBytes) + " to " + std::to_string(kValueBytesMax) + " bytes");
  }
  if (options.worker_interval_ms == 0) return fail("the interval of the workers must be at least 1 ms");
  auto impl = std::make_unique<Impl>(options);
  impl->epoll = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!impl->epoll) return fail_errno("epoll_create1");
  impl->timer = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!impl->timer) return fail_errno("timerfd_create");
  for (uint32_t i = 0; i < options.workers; ++i) {
    impl->workers.emplace_back(impl->shared, i, options.workers, options.seed);
  }
  for (uint32_t i = 0; i < options.probes; ++i) impl->probes.emplace_back(impl->shared, i);
  impl->connections.resize(options.workers + options.probes);
  return std::unique_ptr<LoadClient>(new LoadClient(std::move(impl)));
}

Result<uint64_t> LoadClient::fill() { return fill_server(impl_->options.server, impl_->data, impl_->workers); }

Status LoadClient::start() {
  for (size_t i = 0; i < impl_->connections.size(); ++i) MOSE_TRY(impl_->open_connection(i));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kTimerTag;
  if (::epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, impl_->timer.get(), &event) != 0) return fail_errno("epoll_ctl");
  itimerspec period{{0, kTickNs}, {0, kTickNs}};
  if (::timerfd_settime(impl_->timer.get(), 0, &period, nullptr) != 0) return fail_errno("timerfd_settime");
  impl_->sending = true;
  return {};
}

void LoadClient::pause() {
  impl_->sending = false;
  if (impl_->poll_until([&] { return impl_->all_idle(); }, kAnswersBound)) return;
  // Late answers would be taken for those of later requests: such a connection is of no more use.
  for (size_t i = 0; i < impl_->connections.size(); ++i) {
    bool pending = impl_->is_worker(i) ? !impl_->workers[i].idle() : impl_->probe(i).pending() > 0;
    if (pending && impl_->connections[i].open()) impl_->lose_connection(i);
  }
}

void LoadClient::resume() { impl_->sending = true; }
void LoadClient::poll(int timeout_ms) { impl_->poll(timeout_ms); }
int LoadClient::event_fd() const { return impl_->epoll.get(); }

Status LoadClient::begin_window() {
  for (size_t i = 0; i < impl_->connections.size(); ++i) {
    if (!impl_->connections[i].open()) MOSE_TRY(impl_->open_connection(i));
  }
  Impl& c = *impl_;
  c.window = {now_ns(), 0};
  int64_t keep_from = c.window.begin_ns - kQuietNs - kQuietNs / 5;
  for (Probe& p : c.probes) p.forget_answers_before(keep_from);
  c.answers_ns.erase(c.answers_ns.begin(), std::lower_bound(c.answers_ns.begin(), c.answers_ns.end(), keep_from));
  c.shared.latencies_us.clear();
  c.before = c.shared.counts;
  c.retransmits_before = c.retransmits();
  return {};
}

Figures LoadClient::end_window() {
  Impl& c = *impl_;
  c.window.end_ns = now_ns();
  Figures out;
  bool answered = c.poll_until([&] { return c.all_open_answered_since(c.window.end_ns); }, kAnswersBound);
  bool all_open = std::all_of(c.connections.begin(), c.connections.end(), [](const Connection& x) { return x.open(); });
  out.all_answered = answered && all_open;
  out.counts = c.shared.counts - c.before;
  for (size_t i = 0; i < c.connections.size(); ++i) {
    // What a connection that ended left unanswered was counted at its end.
    if (!c.connections[i].open() || c.answered_since(i, c.window.end_ns)) continue;
    out.counts.errors += c.is_worker(i) ? 1 : c.probe(i).pending();
  }
  uint64_t retransmits = c.retransmits();
  out.retransmits = retransmits > c.retransmits_before ? retransmits - c.retransmits_before : 0;
  auto as_double = [](std::optional<uint32_t> v) { return v ? std::optional<double>(*v) : std::nullopt; };
  out.latency_p50_us = as_double(quantile(c.shared.latencies_us, 0.50));
  out.latency_p99_us = as_double(quantile(c.shared.latencies_us, 0.99));
  out.latency_max_us = as_double(quantile(c.shared.latencies_us, 1.0));
  c.fill_interruption(out);
  return out;
}

Verification LoadClient::verify() {
  bool was_sending = impl_->sending;
  pause();
  Verification out = read_back(impl_->options.server, impl_->data, impl_->workers);
  impl_->sending = was_sending;
  return out;
}

}  // namespace mose::client
