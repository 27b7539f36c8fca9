// SPDX-License-Identifier: MIT
#include "restore/fill_order.h"

#include <algorithm>

namespace mose::restore {
namespace {

void add_pieces(PageRun run, uint64_t piece, std::vector<PageRun>& out) {
  while (run.count != 0) {
    uint64_t count = std::min(run.count, piece - run.first % piece);
    out.push_back({run.first, count});
    run = {run.first + count, run.count - count};
  }
}

}  // namespace

std::vector<PageRun> fill_order(const PageSet& pages, std::span<const PageSet> hot, uint64_t piece) {
  piece = std::max<uint64_t>(piece, 1);
  std::vector<PageRun> out;
  PageSet rest = pages;
  for (const PageSet& level : hot) {
    const PageSet wanted = rest.intersect(level);
    if (wanted.empty()) continue;
    for (const PageRun& part : wanted.runs()) add_pieces(part, piece, out);
    rest = rest.minus(wanted);
  }
  const auto& runs = rest.runs();
  for (auto it = runs.rbegin(); it != runs.rend(); ++it)
    if (it->count <= kSmallRunPages) add_pieces(*it, piece, out);
  for (const PageRun& run : runs)
    if (run.count > kSmallRunPages) add_pieces(run, piece, out);
  return out;
}

}  // namespace mose::restore
