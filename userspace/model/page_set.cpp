// SPDX-License-Identifier: MIT
#include "model/page_set.h"

#include <algorithm>

namespace mose {

namespace {

constexpr auto kAscending = [](const PageRun& a, const PageRun& b) { return a.first < b.first; };

}  // namespace

PageSet PageSet::from_runs(std::vector<PageRun> runs) {
  std::sort(runs.begin(), runs.end(), kAscending);
  PageSet set;
  for (const PageRun& run : runs) set.add(run);
  return set;
}

void PageSet::add(PageRun run) {
  if (run.count == 0) return;
  if (runs_.empty() || run.first > runs_.back().end()) {
    runs_.push_back(run);
    return;
  }
  // First run that touches or follows the new one.
  auto from = std::lower_bound(runs_.begin(), runs_.end(), run.first,
                               [](const PageRun& r, uint64_t page) { return r.end() < page; });
  uint64_t first = run.first;
  uint64_t end = run.end();
  auto to = from;
  for (; to != runs_.end() && to->first <= end; ++to) {
    first = std::min(first, to->first);
    end = std::max(end, to->end());
  }
  if (from == to) {
    runs_.insert(from, run);
    return;
  }
  *from = PageRun{first, end - first};
  runs_.erase(from + 1, to);
}

void PageSet::remove(PageRun run) {
  if (run.count == 0) return;
  auto from = std::partition_point(runs_.begin(), runs_.end(), [&](const PageRun& r) { return r.end() <= run.first; });
  auto to = std::partition_point(from, runs_.end(), [&](const PageRun& r) { return r.first < run.end(); });
  if (from == to) return;
  // What sticks out at either end stays.
  const PageRun before{from->first, std::max(run.first, from->first) - from->first};
  const uint64_t end = std::prev(to)->end();
  const PageRun after{std::min(run.end(), end), end - std::min(run.end(), end)};
  if (before.count != 0) *from++ = before;
  if (after.count == 0) {
    runs_.erase(from, to);
  } else if (from == to) {
    runs_.insert(to, after);
  } else {
    *--to = after;
    runs_.erase(from, to);
  }
}

bool PageSet::contains(uint64_t page) const { return run_from(page).count != 0; }

PageRun PageSet::run_from(uint64_t page) const {
  auto it = std::upper_bound(runs_.begin(), runs_.end(), page,
                             [](uint64_t p, const PageRun& r) { return p < r.first; });
  if (it == runs_.begin()) return {};
  --it;
  if (page >= it->end()) return {};
  return {page, it->end() - page};
}

PageSet PageSet::minus(const PageSet& other) const {
  PageSet out;
  auto cut = other.runs_.begin();
  for (const PageRun& run : runs_) {
    uint64_t at = run.first;
    while (cut != other.runs_.end() && cut->end() <= at) ++cut;
    for (auto it = cut; it != other.runs_.end() && it->first < run.end(); ++it) {
      if (it->first > at) out.runs_.push_back({at, it->first - at});
      at = std::max(at, it->end());
    }
    if (at < run.end()) out.runs_.push_back({at, run.end() - at});
  }
  return out;
}

PageSet PageSet::intersect(const PageSet& other) const {
  PageSet out;
  auto a = runs_.begin();
  auto b = other.runs_.begin();
  while (a != runs_.end() && b != other.runs_.end()) {
    uint64_t first = std::max(a->first, b->first);
    uint64_t end = std::min(a->end(), b->end());
    if (first < end) out.runs_.push_back({first, end - first});
    if (a->end() < b->end()) {
      ++a;
    } else {
      ++b;
    }
  }
  return out;
}

PageSet PageSet::unite(const PageSet& other) const {
  std::vector<PageRun> all(runs_.size() + other.runs_.size());
  std::merge(runs_.begin(), runs_.end(), other.runs_.begin(), other.runs_.end(), all.begin(), kAscending);
  PageSet set;
  set.runs_.reserve(all.size());
  for (const PageRun& run : all) set.add(run);
  return set;
}

uint64_t PageSet::pages() const {
  uint64_t sum = 0;
  for (const PageRun& run : runs_) sum += run.count;
  return sum;
}

}  // namespace mose
