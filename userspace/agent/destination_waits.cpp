// SPDX-License-Identifier: MIT
// A destination whose workload runs before its memory is complete: who waits for pages, and what the workload's end means then.
#include <fmt/format.h>

#include <utility>

#include "agent/destination_migration.h"
#include "base/log.h"

namespace mose::agent {

std::optional<MemoryWait> DestinationMigration::memory_wait() const {
  const plan::DestinationState& state = driver_.state();
  const bool runs = state.phase == plan::DestinationPhase::running || (state.phase == plan::DestinationPhase::activating && thawed_at_);
  if (!runs || !pager_ || state.lost) return std::nullopt;
  const restore::PagerProgress& pager = pager_->status().progress;
  return MemoryWait{pager.remote_left, pager.present_pages, pager.waits, pager.trouble};
}

// Its clients wait with it: whoever watches must hear of it, and when it is over.
void DestinationMigration::note_waits() {
  auto wait = memory_wait();
  const bool alarm = wait && alarming(*wait, now());
  if (alarm == std::exchange(alarm_told_, alarm)) return;
  if (alarm) {
    log::warn("a workload waits for pages of its source", {{"reason", explain(*wait, payload_.spec.name, meta_.peer)}});
  } else {
    log::info("pages come again", {{"workload", payload_.spec.name}});
  }
  context_.progress(progress());
}

std::string DestinationMigration::recover_sentence() const {
  if (auto wait = memory_wait()) {
    return fmt::format("migration {} is committed and goes on by itself, there is nothing to decide: {}", meta_.id.hex(),
                       explain(*wait, payload_.spec.name, meta_.peer));
  }
  if (waits_for_verdict()) return fmt::format("node {} is asked how migration {} was decided, each second", meta_.peer, meta_.id.hex());
  return fmt::format("migration {} goes on by itself at its destination: {}", meta_.id.hex(), progress().phase);
}

void DestinationMigration::give_up() {
  const log::ForMigration named(meta_.id.hex());
  driver_.dispatch(plan::TreeEnded{"given up by the operator of the destination"});
}

plan::Verdict DestinationMigration::heard() const {
  const plan::DestinationState& state = driver_.state();
  if (state.committed) return plan::Verdict::commit;
  return state.abort_recorded ? plan::Verdict::abort : plan::Verdict::undecided;
}

void DestinationMigration::tree_ended(const std::string& how) {
  const log::ForMigration named(meta_.id.hex());
  std::string reason = how + " before its memory was complete";
  if (pager_ && pager_->status().sealed) {
    const restore::PagerProgress& pager = pager_->status().progress;
    if (pager.remote_left == 0) return;  // it needs no source any more, and finds the end of the tree by itself
    MemoryWait wait{pager.remote_left, pager.present_pages, {}, pager.trouble};
    reason += ": " + what_is_missing(wait, payload_.spec.name, meta_.peer);
    if (!wait.trouble.reason.empty()) reason += " (" + wait.trouble.reason + ")";
  }
  driver_.dispatch(plan::TreeEnded{reason});
}

}  // namespace mose::agent
