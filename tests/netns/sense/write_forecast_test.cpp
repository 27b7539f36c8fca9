// SPDX-License-Identifier: MIT
// A process that writes a tenth of its pages nine times out of ten: which tenth that is, and how many pages each round
// will find written, are known while it runs.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <thread>

#include "kernel/probe.h"
#include "netns/sense/sense_bed.h"
#include "plan/dirty_model.h"
#include "sense/fault_monitor.h"
#include "sense/write_scan.h"
#include "support/support.h"

namespace mose::sense {
namespace {

using std::chrono::milliseconds;

constexpr size_t kPages = 10'240;
constexpr size_t kHotPages = kPages / 10;
// The first closes no window, and the second one's is what the first forecast is made of.
constexpr size_t kForecasts = 30;
constexpr unsigned kRounds = kForecasts + 2;
constexpr int kWritesPerMs = 50;  // four or five to each hot page in a round, one to one in sixteen of the others

class Load {
 public:
  Load() {
    void* at = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) std::abort();
    memory_ = static_cast<char*>(at);
    ::madvise(memory_, kPages * kPageSize, MADV_NOHUGEPAGE);
    std::iota(order_.begin(), order_.end(), 0u);
    std::shuffle(order_.begin(), order_.end(), std::mt19937(11));
    for (size_t i = 0; i < kHotPages; ++i) hot_[order_[i]] = true;
    actor_ = std::make_unique<test::Actor>(std::vector<std::function<void()>>{[this] { fill(); }, [this] { write(); }});
    actor_->step();
  }
  ~Load() {
    actor_.reset();
    ::munmap(memory_, kPages * kPageSize);
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  // It writes until it is killed.
  void start() { actor_->step(false); }
  [[nodiscard]] const test::Actor& actor() const { return *actor_; }
  [[nodiscard]] bool has(uint64_t page) const { return page >= first_page() && page < first_page() + kPages; }
  [[nodiscard]] bool is_hot(uint64_t page) const { return hot_[page - first_page()]; }

 private:
  [[nodiscard]] uint64_t first_page() const { return reinterpret_cast<uintptr_t>(memory_) >> kPageShift; }
  void touch(uint32_t page) {
    auto* word = reinterpret_cast<volatile uint64_t*>(memory_ + page * kPageSize);
    *word = *word + 1;
  }
  void fill() {
    for (uint32_t page = 0; page < kPages; ++page) touch(page);
  }
  [[noreturn]] void write() {
    std::minstd_rand random(3);
    for (;;) {
      for (int i = 0; i < kWritesPerMs; ++i) {
        const bool hot = random() % 10 != 0;
        touch(order_[hot ? random() % kHotPages : kHotPages + random() % (kPages - kHotPages)]);
      }
      ::usleep(1000);
    }
  }

  char* memory_;
  std::vector<uint32_t> order_ = std::vector<uint32_t>(kPages);  // hot ones first
  std::vector<bool> hot_ = std::vector<bool>(kPages);
  std::unique_ptr<test::Actor> actor_;
};

class Nowhere final : public PageSink {
 public:
  Status send_pages(SpaceId, std::span<const PageRun>, std::span<const std::span<const std::byte>>) override {
    return {};
  }
};

// Protects while it stands still. On a busy machine a thread may not come to its stop within the bound of a borrow.
bool armed(WriteScan& scan, const Load& load) {
  Nowhere nowhere;
  for (int i = 0; i < 50; ++i) {
    if (!scan.round(load.actor().spaces(), nowhere, {})) return false;
    if (scan.name() == "write-protection") return true;
  }
  return false;
}

// Of the pages that were written in most epochs, the hottest tenth: how many are the load's.
double right_of_the_hottest(const FaultMonitor& monitor, const Load& load) {
  auto snapshot = monitor.snapshot();
  EXPECT_TRUE(snapshot);
  if (!snapshot) return 0;
  std::vector<std::pair<int, uint64_t>> heat;  // epochs, page
  for (const RegionFaults& region : snapshot->regions) {
    for (uint64_t i = 0; i < region.pages.count; ++i) {
      const uint64_t page = region.pages.first + i;
      if (load.has(page)) heat.emplace_back(std::popcount(region.history[i]), page);
    }
  }
  std::sort(heat.begin(), heat.end(), std::greater<>());
  heat.resize(std::min(heat.size(), kHotPages));
  const auto right = std::count_if(heat.begin(), heat.end(), [&](const auto& one) { return load.is_hot(one.second); });
  return static_cast<double>(right) / kHotPages;
}

TEST(WriteForecast, KnowsTheHottestTenthAndWhatARoundWillFind) {
  for (const char* needed : {"btf", "page-fault-tracepoints", "uffd-wp-async"}) {
    ProbeResult found = probe(needed);
    if (found.state != ProbeState::yes) test::skip_process(std::string(needed) + ": " + found.detail);
  }
  test::Group group;
  Load load;
  ASSERT_TRUE(group.group.add(load.actor().pid()));
  auto monitor = FaultMonitor::attach(group.group.path());
  ASSERT_TRUE(monitor) << monitor.error().what;
  WriteScan scan({.hash = {}, .late = false});
  ASSERT_TRUE(armed(scan, load)) << scan.reason();
  load.start();
  Nowhere nowhere;
  plan::RoundForecaster forecaster;
  std::mt19937 random(5);
  for (unsigned round = 1; round <= kRounds; ++round) {
    monitor->next_epoch();
    const Timestamp start = now();
    auto stats = scan.round(load.actor().spaces(), nowhere, {});
    ASSERT_TRUE(stats) << stats.error().what;
    forecaster.round(round, start, now(), stats->pages_changed, stats->pages_present);
    // Windows of different lengths: equal ones would be forecast by who repeats the last number.
    std::this_thread::sleep_for(milliseconds(60 + random() % 80));
  }
  ASSERT_EQ(scan.name(), "write-protection") << scan.reason();
  const double right = right_of_the_hottest(*monitor, load);
  std::vector<double> errors;
  for (const plan::ForecastCheck& check : forecaster.checks()) {
    if (auto error = check.error()) errors.push_back(std::abs(*error));
  }
  ASSERT_EQ(errors.size(), kForecasts);
  std::sort(errors.begin(), errors.end());
  const double median = errors[errors.size() / 2];
  std::printf("hottest tenth: %.1f %% right; forecast of %zu rounds: %.1f %% off in the median, %.1f %% at most\n",
              right * 100, errors.size(), median * 100, errors.back() * 100);
  EXPECT_GE(right, 0.9);
  EXPECT_LE(median, 0.25);
}

}  // namespace
}  // namespace mose::sense
