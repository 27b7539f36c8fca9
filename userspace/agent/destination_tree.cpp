// SPDX-License-Identifier: MIT
// A restored tree that stands still until its verdict comes: whether all of it is still there.
#include <sys/epoll.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "agent/destination_migration.h"
#include "base/log.h"
#include "kernel/cgroup.h"

namespace mose::agent {

// Its agent before us has written down how many there were. Without that, or once it may have run: one is enough.
void DestinationMigration::expect_tree(const Notes& notes) {
  auto it = notes.find(kNotedProcesses);
  if (it == notes.end()) return;
  size_t count = 0;
  std::from_chars(it->second.data(), it->second.data() + it->second.size(), count);
  if (count != 0) host_->expect_processes(count);
}

// Frozen it ends by nothing of its own: the kernel needs its memory, or somebody has killed it. The source has it whole.
void DestinationMigration::watch_tree() {
  if (tree_events_) return;
  auto events = host_->watch_tree();
  Status watched = events ? context_.core.loop.watch(events->get(), EPOLLPRI, [this](uint32_t) {
    Cgroup::note_events(tree_events_.get());
    look_at_tree();
  }) : Status(std::unexpected(events.error()));
  if (watched) {
    tree_events_ = std::move(*events);
  } else {
    log::warn("a restored workload cannot be watched", {{"workload", payload_.spec.name}, {"reason", watched.error().what}});
  }
  post_([this] { look_at_tree(); });  // what came before the watch
}

void DestinationMigration::unwatch_tree() {
  if (!tree_events_) return;
  context_.core.loop.unwatch(tree_events_.get());
  tree_events_ = {};
}

void DestinationMigration::look_at_tree() {
  const plan::DestinationState& state = driver_.state();
  const bool restoring = std::ranges::find(state.running, plan::DestinationActionKind::restore) != state.running.end() && !restored_;
  // What activate finds is its answer.
  if (activating_ || restoring || state.phase < plan::DestinationPhase::restoring || state.phase > plan::DestinationPhase::running) return;
  std::string missing = host_->missing();
  if (missing.empty()) return;
  unwatch_tree();
  // Its memory was being waited for.
  if (std::exchange(restored_, false)) return done(plan::DestinationActionKind::restore, fail(missing));
  if (state.phase == plan::DestinationPhase::running) return tree_ended(missing);
  log::error("a workload that waits for its verdict is not whole any more", {{"reason", missing}});
  driver_.dispatch(plan::TreeEnded{missing});
}

}  // namespace mose::agent
