// SPDX-License-Identifier: MIT
#include "client/load_client.h"

#include <algorithm>

#include "base/clock.h"
#include "client/bulk.h"
#include "client/interruption.h"
#include "client/load_streams.h"
#include "client/reset_watch.h"
#include "client/server_watch.h"
#include "kernel/lock_turns.h"

namespace mose::client {
namespace {

// A cable that was out for seconds leaves TCP with a retransmission time-out of as long, more than once.
constexpr Nanoseconds kAnswersBound = std::chrono::seconds(30);
constexpr uint64_t kWatchTicks = 50;  // dear enough (a tenth of a millisecond) not to be done more often

}  // namespace

struct LoadClient::Impl {
  explicit Impl(const LoadOptions& o) : options(o), streams(o) {}

  LoadOptions options;
  LoadStreams streams;
  ServerWatch server;
  uint64_t next_sample_tick = 0;
  int64_t resumed_ns = 0;
  Window window;
  Counts before;
  uint64_t answers_before = 0;
  uint64_t retransmits_before = 0;
  std::optional<TcpCounters> tcp_before;
  std::optional<ResetWatch> resets;  // absent: we may not look
  // While the load runs: clients are on other machines, where no node takes the processor from them.
  std::optional<Unpreempted> unpreempted;

  void set_sending(bool on) {
    if (on) unpreempted.emplace();
    streams.set_sending(on);
    if (!on) unpreempted.reset();
  }

  void poll(int timeout_ms) {
    streams.poll(timeout_ms);
    if (streams.ticks() < next_sample_tick || !streams.sending()) return;
    next_sample_tick = streams.ticks() + kWatchTicks;
    server.sample(now_ns(), streams.answers());
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

  void fill_interruption(const PhaseBounds& bounds, Figures& out) {
    std::optional<int64_t> worst = streams.probes.empty() ? std::nullopt : std::optional<int64_t>(0);
    std::optional<int64_t> quiet;
    for (const Probe& p : streams.probes) {
      auto one = interruption(p.answers_ns(), window);
      auto normal = quiet_gap_p99(p.answers_ns(), window);
      if (normal && (!quiet || *normal > *quiet)) quiet = normal;
      if (worst && one && (!out.longest_gap || *one > *worst)) out.longest_gap = longest_gap(p.answers_ns(), window);
      worst = worst && one ? std::optional(std::max(*worst, *one)) : std::nullopt;
    }
    if (!worst) out.longest_gap.reset();
    if (out.longest_gap) out.longest_gap_phase = phase_of(*out.longest_gap, bounds);
    if (worst) out.service_interruption_ms = static_cast<double>(*worst) / 1e6;
    if (quiet) out.quiet_gap_p99_ms = static_cast<double>(*quiet) / 1e6;
    if (auto any = longest_gap(streams.answers_ns, window)) out.interruption_any_ms = static_cast<double>(any->length_ns()) / 1e6;
  }

  std::optional<double> longest_gap_ms(Window phase) const {
    std::optional<double> out;
    for (const Probe& p : streams.probes) {
      const auto answers = p.answers_ns();
      // A gap begins with an answer: the quiet time before the window does as well.
      if (answers.empty() || answers.front() >= phase.end_ns) return std::nullopt;
      auto gap = longest_gap(answers, {std::max(phase.begin_ns, answers.front()), phase.end_ns});
      if (!gap) return std::nullopt;
      out = std::max(out.value_or(0), static_cast<double>(gap->length_ns()) / 1e6);
    }
    return out;
  }

  void fill_phases(const PhaseBounds& bounds, Figures& out) {
    int64_t before_ns = std::max(window.begin_ns - kQuietNs, resumed_ns);
    auto windows = phase_windows(window, before_ns, bounds);
    for (size_t i = 0; i < windows.size(); ++i) {
      if (!windows[i]) continue;
      out.phases[i] = phase_figures(streams.shared.samples, *windows[i]);
      out.phases[i]->server_cpu_us = server.cpu_us_per_answer(*windows[i]);
      out.phases[i]->longest_gap_ms = longest_gap_ms(*windows[i]);
    }
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
  if (options.rate && (*options.rate == 0 || *options.rate > kRateMax || options.workers == 0)) {
    return fail("a rate is 1 to " + std::to_string(kRateMax) + " requests per second, on at least one connection");
  }
  auto impl = std::make_unique<Impl>(options);
  MOSE_TRY(impl->streams.make_descriptors());
  if (auto resets = ResetWatch::open()) impl->resets = std::move(*resets);
  return std::unique_ptr<LoadClient>(new LoadClient(std::move(impl)));
}

Result<uint64_t> LoadClient::fill() {
  return fill_server(impl_->options.server, impl_->streams.data, impl_->streams.workers);
}

Status LoadClient::start() {
  MOSE_TRY(impl_->streams.start());
  impl_->unpreempted.emplace();
  impl_->resumed_ns = now_ns();
  return {};
}

void LoadClient::pause() {
  impl_->set_sending(false);
  if (!impl_->poll_until([&] { return impl_->streams.all_idle(); }, kAnswersBound)) impl_->streams.lose_busy();
}

void LoadClient::resume() {
  impl_->resumed_ns = now_ns();
  impl_->set_sending(true);
}
void LoadClient::poll(int timeout_ms) { impl_->poll(timeout_ms); }
int LoadClient::event_fd() const {
  return impl_->streams.event_fd();
}
void LoadClient::watch_server(pid_t pid) {
  impl_->server.watch(pid);
}

Status LoadClient::begin_window() {
  Impl& c = *impl_;
  MOSE_TRY(c.streams.reconnect());
  c.window = {now_ns(), 0};
  c.streams.forget_before(c.window.begin_ns - kQuietNs - kQuietNs / 5);
  c.streams.shared.latencies_us.clear();
  c.before = c.streams.shared.counts;
  c.answers_before = c.streams.answers();
  c.retransmits_before = c.streams.retransmits();
  c.tcp_before = read_tcp_counters("self");
  if (c.resets) (void)c.resets->take();
  c.server.begin(c.window.begin_ns, c.streams.answers());
  return {};
}

Figures LoadClient::end_window(const PhaseBounds& bounds) {
  Impl& c = *impl_;
  c.window.end_ns = now_ns();
  Figures out;
  bool answered = c.poll_until([&] { return c.streams.all_open_answered_since(c.window.end_ns); }, kAnswersBound);
  out.all_answered = answered && c.streams.all_open();
  out.counts = c.streams.shared.counts - c.before;
  out.unanswered = c.streams.unanswered_since(c.window.end_ns);
  out.counts.errors += out.unanswered;
  out.answers = c.streams.answers() - c.answers_before;
  uint64_t retransmits = c.streams.retransmits();
  out.retransmits = retransmits > c.retransmits_before ? retransmits - c.retransmits_before : 0;
  c.server.sample(now_ns(), c.streams.answers());
  out.workload_tcp = c.server.tcp();
  auto tcp = read_tcp_counters("self");
  if (c.resets) out.resets_received = c.resets->take();
  if (tcp && c.tcp_before) out.client_tcp = *tcp - *c.tcp_before;
  auto as_double = [](std::optional<uint32_t> v) { return v ? std::optional<double>(*v) : std::nullopt; };
  auto& latencies = c.streams.shared.latencies_us;
  out.latency_p50_us = as_double(quantile(latencies, 0.50));
  out.latency_p99_us = as_double(quantile(latencies, 0.99));
  out.latency_max_us = as_double(quantile(latencies, 1.0));
  c.fill_interruption(bounds, out);
  c.fill_phases(bounds, out);
  return out;
}

Verification LoadClient::verify() {
  bool was_sending = impl_->streams.sending();
  pause();
  Verification out = read_back(impl_->options.server, impl_->streams.data, impl_->streams.workers);
  if (was_sending) impl_->set_sending(true);
  return out;
}

}  // namespace mose::client
