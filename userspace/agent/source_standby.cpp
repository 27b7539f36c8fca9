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
constexpr uint64_t kStandbyBytesPerSecond = 100ull << 20;  // a slow destination: memory that it has never used cost 20 us a page here

Nanoseconds standby_bound(uint64_t memory_bytes) {
  return kStandbyBound + std::chrono::seconds(memory_bytes / kStandbyBytesPerSecond);
}

}  // namespace

// Of no use where the standby and the running workload could write to the same files: a fence that closes late would let it.
std::optional<std::string> SourceMigration::no_standby() const {
  for (const WorkloadMount& mount : spec_.mounts) {
    if (mount.mode == MountMode::shared && !mount.read_only) return "mount " + mount.target + " is shared and can be written to";
  }
  return {};
}

// The destination's copy of the clocks must not be behind: it is told how old they will be when the last byte has arrived, on a
// path that is as fast as the first round was.
Status SourceMigration::send_standby(ImagesPayload images, Timestamp clocks_read) {
  uint64_t bytes = 0;
  for (const restore::ImageFile& image : images.images) bytes += image.bytes.size();
  for (const CopiedFile& file : images.copied) bytes += file.contents.size();
  Nanoseconds transmission(static_cast<int64_t>(static_cast<double>(bytes) * nanoseconds_per_byte_));
  images.age = now() - clocks_read + transmission + connection_->round_trip();
  if (prepared_.takes_differences) standby_images_ = std::make_shared<const ImageFiles>(images.images);
  std::string encoded = encode(std::move(images));
  MOSE_TRY(check_images(encoded));
  connection_->send(wire::FrameType::standby, encoded);
  return {};
}

void SourceMigration::make_standby() {
  if (auto reason = no_standby()) {
    standby_problem_ = *reason;
    return post_([this] { done(SourceActionKind::make_standby, {}); });
  }
  criu_lane_.run([this] { return host_->dump_for_standby(); },
                 [this](SourceHost::StandbyDump dumped) {
                   if (!dumped.resumed) return done(SourceActionKind::make_standby, dumped.resumed);
                   standby_awaited_ = true;
                   if (driver_.state().phase != plan::SourcePhase::standby || !connection_) return standby_given_up();
                   if (!dumped.images) return standby_ended(dumped.images.error().what);
                   if (auto sent = send_standby(std::move(*dumped.images), dumped.clocks_read); !sent) return standby_ended(sent.error().what);
                   timeline_.begin("standby_wait");
                   standby_timer_ = context_.core.loop.after(standby_bound(prepare_ ? prepare_->memory_bytes : 0), [this] {
                     standby_ended("the destination did not build it in time");
                   });
                 });
}

void SourceMigration::standby_ended(const std::string& problem) {
  // Also of one that stood, and has been dropped.
  if (!problem.empty()) standby_problem_ = problem;
  if (!std::exchange(standby_awaited_, false)) return;
  context_.core.loop.cancel(standby_timer_);
  timeline_.end("standby_wait");
  if (!problem.empty()) {
    standby_images_.reset();
    log::info("no warm standby: the switchover restores from the start",
              {{"workload", spec_.name}, {"reason", problem}});
  }
  done(SourceActionKind::make_standby, {});
}

void SourceMigration::standby_given_up() {
  if (!std::exchange(standby_awaited_, false)) return;
  context_.core.loop.cancel(standby_timer_);
  done(SourceActionKind::make_standby, fail("ended before the standby stood"));
}

bool SourceMigration::standby_stands() const {
  return options_.standby && driver_.state().standby_tried && !standby_awaited_ && standby_problem_.empty();
}

std::string SourceMigration::standby_reason() const {
  if (!options_.standby) return "not wanted";
  if (!standby_problem_.empty()) return standby_problem_;
  return driver_.state().standby_tried ? "the migration ended before" : "no round of pre-copy followed that it could have been made in";
}

}  // namespace mose::agent
