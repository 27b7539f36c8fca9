// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "model/dirty_source.h"
#include "model/page_table.h"

namespace mose::sense {

struct HashScanOptions {
  unsigned round_threads = 1;  // rounds run beside the workload
  unsigned final_threads = 2;  // the final scan is on the critical path
};

// Finds changed pages by hashing all of them: every populated page is read with process_vm_readv (no cost to the target
// but memory bandwidth) and its XXH3-64 compared with that of the bytes last sent. Costs about 0.5 us per page here and
// sees what write tracking misses (DMA, other processes' writes). Two contents with the same hash would be taken for
// equal: 2^-64 per changed page.
//
// Memory: 8 bytes per page ever sent.
class HashScan : public DirtySource {
 public:
  explicit HashScan(HashScanOptions options = {});
  ~HashScan() override;

  [[nodiscard]] std::string_view name() const override { return "hash-scan"; }
  [[nodiscard]] std::string reason() const override { return "exact, and without cost to the workload"; }
  Result<ScanStats> round(std::span<const SpaceProcess> processes, PageSink& sink, std::stop_token stop) override;
  void read_last(std::span<const SpaceHeat> hot) override { hot_.assign(hot.begin(), hot.end()); }
  Result<FinalPages> final_scan(std::span<const SpaceProcess> processes) override;

 private:
  struct Space;
  Space& space_of(SpaceId id);

  HashScanOptions options_;
  std::vector<SpaceHeat> hot_;  // see read_last
  std::map<SpaceId, std::unique_ptr<Space>> spaces_;
};

}  // namespace mose::sense
