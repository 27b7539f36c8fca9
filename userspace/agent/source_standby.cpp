// SPDX-License-Identifier: MIT
// The source's part of a warm standby: one dump more while the workload has hardly changed, from which the destination builds
// a stopped tree ahead of the switchover. Whatever goes wrong here costs the standby, not the migration, unless the workload
// could not be resumed.
#include "agent/source_migration.h"
#include "base/log.h"

namespace mose::agent {
namespace {

using plan::SourceActionKind;

// Until the standby stands: a restore, and all that the first round brought copied into it.
constexpr Nanoseconds kStandbyBound = std::chrono::seconds(5);
constexpr uint64_t kStandbyBytesPerSecond = 200ull << 20;  // a slow destination

Nanoseconds standby_bound(uint64_t memory_bytes) {
  return kStandbyBound + std::chrono::seconds(memory_bytes / kStandbyBytesPerSecond);
}

}  // namespace

void SourceMigration::make_standby() {
  criu_lane_.run([this] { return host_->dump_for_standby(); },
                 [this](SourceHost::StandbyDump dumped) {
                   if (!dumped.resumed) return done(SourceActionKind::make_standby, dumped.resumed);
                   standby_awaited_ = true;
                   if (driver_.state().phase != plan::SourcePhase::standby || !connection_) return standby_given_up();
                   if (!dumped.images) return standby_ended(dumped.images.error().what);
                   dumped.images->age = now() - dumped.clocks_read;
                   connection_->send(wire::FrameType::standby, encode(std::move(*dumped.images)));
                   timeline_.begin("standby_wait");
                   standby_timer_ = context_.core.loop.after(standby_bound(prepare_ ? prepare_->memory_bytes : 0), [this] {
                     standby_ended("the destination did not build it in time");
                   });
                 });
}

void SourceMigration::standby_ended(const std::string& problem) {
  if (!std::exchange(standby_awaited_, false)) return;
  context_.core.loop.cancel(standby_timer_);
  timeline_.end("standby_wait");
  standby_problem_ = problem;
  if (!problem.empty()) {
    log::info("no warm standby: the switchover restores from the start",
              {{"migration", meta_.id.hex()}, {"workload", spec_.name}, {"reason", problem}});
  }
  done(SourceActionKind::make_standby, {});
}

void SourceMigration::standby_given_up() {
  if (!std::exchange(standby_awaited_, false)) return;
  context_.core.loop.cancel(standby_timer_);
  done(SourceActionKind::make_standby, fail("ended before the standby stood"));
}

}  // namespace mose::agent
