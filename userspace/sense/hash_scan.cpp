// SPDX-License-Identifier: MIT
#include "sense/hash_scan.h"

#include <algorithm>

#include "sense/page_reader.h"

namespace mose::sense {

struct HashScan::Space {
  Hashes hashes;  // of what the destination holds
};

HashScan::HashScan(HashScanOptions options) : options_(options) {
  options_.round_threads = std::max(options_.round_threads, 1u);
  options_.final_threads = std::max(options_.final_threads, 1u);
}
HashScan::~HashScan() = default;

HashScan::Space& HashScan::space_of(SpaceId id) {
  auto& space = spaces_[id];
  if (!space) space = std::make_unique<Space>();
  return *space;
}

namespace {

// One process in one round: units are read and hashed on several threads, sent one at a time.
Status round_of(const SpaceProcess& process, std::span<const PageSet> hot, Hashes& hashes, unsigned threads,
                PageSink& sink, std::stop_token& stop, ScanStats& stats) {
  MOSE_TRY(check_same_process(process));
  MOSE_ASSIGN(Populated populated, populated_pages(process, ScanPace::gentle));
  return send_changed(process, populated.pages, {.threads = threads, .hot = hot}, hashes, sink, stop, stats);
}

// One process of the frozen tree.
Result<SpacePages> final_of(const SpaceProcess& process, const Hashes& hashes, unsigned threads, ScanStats& stats) {
  SpacePages out;
  out.space = process.space;
  MOSE_TRY(check_same_process(process));
  if (is_zombie(process.pid)) return out;
  MOSE_ASSIGN(Populated populated, populated_pages(process, ScanPace::at_once));
  MOSE_ASSIGN(Compared compared, compare(process, populated.pages, hashes, threads));
  MOSE_TRY(check_all_read(compared.unreadable));
  out.remote = std::move(compared.changed);
  out.present = populated.pages.minus(compared.zero);
  if (process.object.empty()) out.first = first_touched(process.pid, populated.vmas).intersect(out.remote);
  stats.pages_present += out.present.pages();
  stats.pages_zero += compared.zero.pages();
  stats.pages_read += populated.pages.pages();
  stats.pages_changed += out.remote.pages();
  return out;
}

}  // namespace

Result<ScanStats> HashScan::round(std::span<const SpaceProcess> processes, PageSink& sink, std::stop_token stop) {
  return round_over(processes, [&](const SpaceProcess& process, ScanStats& stats) {
    return round_of(process, levels_of(hot_, process.space), space_of(process.space).hashes, options_.round_threads, sink,
                    stop, stats);
  });
}

Result<FinalPages> HashScan::final_scan(std::span<const SpaceProcess> processes) {
  return final_over(processes, [&](const SpaceProcess& process, ScanStats& stats) {
    return final_of(process, space_of(process.space).hashes, options_.final_threads, stats);
  });
}

}  // namespace mose::sense
