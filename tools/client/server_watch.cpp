// SPDX-License-Identifier: MIT
#include "client/server_watch.h"

#include <charconv>
#include <filesystem>
#include <string>

#include "base/fd.h"

namespace mose::client {
namespace {

// Nanoseconds on a CPU, the first word of schedstat: the same time as utime + stime, which come in ticks of 10 ms.
std::optional<uint64_t> cpu_time_ns(pid_t pid) {
  std::error_code error;
  uint64_t sum = 0;
  std::filesystem::directory_iterator it("/proc/" + std::to_string(pid) + "/task", error), end;
  for (; !error && it != end; it.increment(error)) {
    auto text = read_file(it->path().string() + "/schedstat");
    if (!text) continue;  // a thread that has ended
    uint64_t ns = 0;
    auto [at, bad] = std::from_chars(text->data(), text->data() + text->size(), ns);
    if (bad != std::errc{}) return std::nullopt;
    sum += ns;
  }
  return error || sum == 0 ? std::nullopt : std::optional(sum);
}

}  // namespace

void ServerWatch::watch(pid_t pid) {
  if (pid == pid_) return;
  if (pid_ != 0) {
    former_ = base_ && last_ ? std::optional(*last_ - *base_) : std::nullopt;
    base_ = TcpCounters{};
    moved_ = true;
  }
  pid_ = pid;
  last_.reset();
}

void ServerWatch::sample(int64_t now_ns, uint64_t answers) {
  if (pid_ == 0) return;
  if (auto cpu = cpu_time_ns(pid_)) samples_.push_back({now_ns, *cpu, answers, pid_});
  if (auto tcp = read_tcp_counters(std::to_string(pid_))) last_ = tcp;
}

void ServerWatch::begin(int64_t now_ns, uint64_t answers) {
  std::erase_if(samples_, [&](const Sample& s) { return s.at_ns < now_ns - kQuietNs; });
  last_.reset();
  sample(now_ns, answers);
  base_ = last_;
  former_.reset();
  moved_ = false;
}

std::optional<double> ServerWatch::cpu_us_per_answer(Window span) const {
  const Sample *first = nullptr, *last = nullptr;
  for (const Sample& s : samples_) {
    if (s.at_ns < span.begin_ns || s.at_ns > span.end_ns) continue;
    // The frozen old process is looked at until the new one is known: the span is the new one's.
    if (!first || first->pid != s.pid) first = &s;
    last = &s;
  }
  if (!first || last->answers == first->answers) return std::nullopt;
  return static_cast<double>(last->cpu_ns - first->cpu_ns) / 1000 / static_cast<double>(last->answers - first->answers);
}

std::optional<TcpCounters> ServerWatch::tcp() const {
  if (!base_ || !last_ || (moved_ && !former_)) return std::nullopt;
  TcpCounters here = *last_ - *base_;
  return moved_ ? here + *former_ : here;
}

}  // namespace mose::client
