// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>

#include "model/dirty_source.h"
#include "move/channel.h"
#include "move/page_encoder.h"
#include "move/urgent_gate.h"

namespace mose::move {

struct SendStats {
  uint64_t frames = 0;
  uint64_t pages = 0;
  uint64_t bytes = 0;  // on the wire, headers included
  Nanoseconds duration{0};
  ScanStats scan;  // run_round
};

struct PageSenderOptions {
  Bandwidth* bandwidth = nullptr;  // rounds and the push wait for it; null: no limit; borrowed
  PageEncoder* encoder = nullptr;  // of the migration; null: everything raw; borrowed
  std::function<void(uint64_t pages, uint64_t bytes)>
      progress;                // running totals, after each frame, from the sending thread
  std::function<void(SpaceId space, std::span<const PageRun> runs)> sent;  // the pages of the frame that has left
  std::stop_token stop;        // requested: the call under way ends with ECANCELED
  UrgentGate* gate = nullptr;  // the push waits here; borrowed
};

// The source's end of the BULK connection.
//
// Life: run_round() any number of times while the workload runs; after the freeze send_map() once, then push() the
// remote pages; when the connection breaks in push() nothing is lost, the destination asks for the rest
// (page_server.h). One thread at a time. The channel is borrowed.
class PageSender final : public PageSink {
 public:
  PageSender(Channel& channel, PageSenderOptions options);

  // Streams what changed, then ROUND_END. `round` from 1.
  [[nodiscard]] Result<SendStats> run_round(unsigned round, DirtySource& source,
                                            std::span<const SpaceProcess> processes);
  // HEAT, `runs_max` runs at most, for a peer that takes it (wire::kFeatureHeat). Before a round. Nothing is sent where
  // nothing is hot. Does not wait for the bandwidth, but is booked.
  [[nodiscard]] Status send_heat(std::span<const SpaceHeat> heat, uint64_t runs_max);
  // PAGE_MAP: from now on the set of pages is final.
  [[nodiscard]] Status send_map(const FinalPages& pages);
  // Reads the remote pages from the frozen processes and sends them: stacks and TLS first, then what was
  // written most often, each set ascending, then the rest; BULK_END.
  [[nodiscard]] Result<SendStats> push(const FinalPages& pages, std::span<const SpaceProcess> processes);

  Status send_pages(SpaceId space, std::span<const PageRun> runs,
                    std::span<const std::span<const std::byte>> pieces) override;
  Status send_hashed(SpaceId space, std::span<const PageRun> runs, std::span<const std::span<const std::byte>> pieces,
                     std::span<const uint64_t> hashes) override;

 private:
  Channel& channel_;
  PageSenderOptions options_;
  Bandwidth unlimited_;
  PageEncoder raw_;
  unsigned round_ = 0;
  SendStats total_;
};

}  // namespace mose::move
