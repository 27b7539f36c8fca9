// SPDX-License-Identifier: MIT
#include "model/page_heat.h"

#include <algorithm>
#include <array>
#include <bit>

namespace mose {
namespace {

using Stretches = std::span<const PageHeat::Stretch>;

// Calls emit(run, rounds of a, rounds of b) for each stretch that one of them has, in ascending order.
template <typename Emit>
void sweep(Stretches a, Stretches b, Emit emit) {
  uint64_t at = 0;
  auto skip_passed = [&](Stretches& of) {
    while (!of.empty() && of.front().pages.end() <= at) of = of.subspan(1);
  };
  auto start_of = [&](Stretches of) { return of.empty() ? UINT64_MAX : std::max(of.front().pages.first, at); };
  for (;;) {
    skip_passed(a);
    skip_passed(b);
    if (a.empty() && b.empty()) return;
    const uint64_t start_a = start_of(a), start_b = start_of(b), from = std::min(start_a, start_b);
    const uint64_t end =
        std::min(start_a == from ? a.front().pages.end() : start_a, start_b == from ? b.front().pages.end() : start_b);
    emit(PageRun{from, end - from}, start_a == from ? a.front().rounds : uint8_t{0},
         start_b == from ? b.front().rounds : uint8_t{0});
    at = end;
  }
}

void append(std::vector<PageHeat::Stretch>& out, PageRun pages, uint8_t rounds) {
  if (!out.empty() && out.back().rounds == rounds && out.back().pages.end() == pages.first) {
    out.back().pages.count += pages.count;
  } else {
    out.push_back({pages, rounds});
  }
}

}  // namespace

void PageHeat::next_round(const PageSet& written) {
  std::vector<Stretch> found_now;
  found_now.reserve(written.runs().size());
  for (const PageRun& run : written.runs()) found_now.push_back({run, 1});
  std::vector<Stretch> next;
  next.reserve(stretches_.size() + found_now.size());
  sweep(stretches_, found_now, [&](PageRun pages, uint8_t before, uint8_t found) {
    const auto rounds = static_cast<uint8_t>((before << 1) | found);
    if (rounds != 0) append(next, pages, rounds);
  });
  for (int coolest = 1; next.size() > kStretchesMax; ++coolest)
    std::erase_if(next, [&](const Stretch& one) { return std::popcount(one.rounds) <= coolest; });
  stretches_ = std::move(next);
}

std::vector<PageSet> PageHeat::levels(std::span<const Stretch> seen) const {
  std::array<PageSet, kLevelsMax + 1> by_count;
  sweep(stretches_, seen, [&](PageRun pages, uint8_t found, uint8_t faulted) {
    const int rounds = std::popcount(found) + std::popcount(faulted);
    by_count[static_cast<size_t>(rounds)].add(pages);
  });
  std::vector<PageSet> out;
  for (size_t count = kLevelsMax; count > 0; --count) {
    if (!by_count[count].empty()) out.push_back(std::move(by_count[count]));
  }
  return out;
}

}  // namespace mose
