// SPDX-License-Identifier: MIT
// The source's pre-copy rounds, and what slows the workload down in them.
#include <sys/epoll.h>

#include "agent/source_migration.h"
#include "base/log.h"

namespace mose::agent {
namespace {

using plan::SourceActionKind;

}  // namespace

// On the lane of quiesce and resume, which lift it, so that none of them comes between.
void SourceMigration::precopy_round(const plan::SourceAction& action) {
  const plan::RoundAhead ahead{.round = action.round,
                               .rounds_max = plan::rounds_at_most(options_.rounds_max, options_.auto_converge),
                               .pages = prepare_ ? prepare_->memory_bytes / kPageSize : 0,
                               .expected = {}};
  if (action.throttle_percent == 0) {
    if (action.closing) prepare_freeze();
    return send_round(ahead, action.closing);
  }
  criu_lane_.run([this, percent = action.throttle_percent] { return host_->slow_down(percent); },
                 [this, ahead, closing = action.closing](Result<ProcessHandle> throttle) {
                   if (!throttle) return done(SourceActionKind::precopy_round, std::unexpected(throttle.error()));
                   watch_throttle(std::move(*throttle));
                   // Over while it was being slowed down: what is prepared now would outlive the end.
                   if (driver_.state().phase != plan::SourcePhase::precopy)
                     return done(SourceActionKind::precopy_round, std::unexpected(Error{ECANCELED, "cancelled"}));
                   if (closing) prepare_freeze();
                   send_round(ahead, closing);
                 });
}

// One that is killed in a frozen slice leaves the workload frozen, and a round may take minutes.
void SourceMigration::watch_throttle(ProcessHandle process) {
  unwatch_throttle();
  throttle_ = std::move(process);
  auto watched = context_.core.loop.watch(throttle_.fd(), EPOLLIN, [this](uint32_t) {
    unwatch_throttle();
    criu_lane_.submit([this] { host_->throttle_died(); });  // not where it was lifted
  });
  if (!watched) log::warn("what slows a workload down is not watched", {{"workload", spec_.name}, {"reason", watched.error().what}});
}

void SourceMigration::unwatch_throttle() {
  if (throttle_) context_.core.loop.unwatch(throttle_.fd());
  throttle_ = {};
}

// What else stands between the last round and the freeze, while that round is under way: from it on the workload pays for its writes.
void SourceMigration::prepare_freeze() {
  await_disk({});
  criu_lane_.submit([this] {
    if (auto prepared = host_->prepare_dump(); !prepared)
      log::info("a dump could not be prepared ahead", {{"workload", spec_.name}, {"reason", prepared.error().what}});
  });
}

void SourceMigration::send_round(const plan::RoundAhead& ahead, bool closing) {
  memory_lane_.run([this, ahead, closing] { return memory_->round(ahead, closing); },
                   [this](Result<plan::RoundStats> stats) {
                     if (!stats) return done(SourceActionKind::precopy_round, std::unexpected(stats.error()));
                     bytes_done_ += stats->bytes_sent;
                     if (stats->bytes_sent > 0) {
                       nanoseconds_per_byte_ = static_cast<double>(stats->duration.count()) / static_cast<double>(stats->bytes_sent);
                     }
                     done(SourceActionKind::precopy_round, {}, *stats);
                   });
}

}  // namespace mose::agent
