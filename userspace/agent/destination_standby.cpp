// SPDX-License-Identifier: MIT
// The destination's part of a warm standby: a tree restored ahead of the switchover from an earlier dump, which never
// runs before it has been made equal to the last one. Whatever goes wrong with it before the switchover costs the
// standby alone.
#include <fmt/format.h>

#include <algorithm>

#include "agent/bounds.h"
#include "agent/destination_host.h"
#include "agent/destination_migration.h"
#include "agent/migration_paths.h"
#include "agent/workloads.h"
#include "base/log.h"
#include "kernel/proc_path.h"
#include "kernel/procfs.h"
#include "kernel/sock_diag.h"
#include "kernel/tcp_repair.h"
#include "restore/images.h"
#include "restore/standby_discard.h"
#include "restore/standby_refresh.h"
#include "restore/standby_warm.h"

namespace mose::agent {
namespace {

using plan::DestinationActionKind;

// Between the hook and CRIU's look at the clock: the start of the first task. Too much makes the workload's clocks jump
// ahead by that; too little would set them back. It takes half as long as CRIU's way to the hook (7-10 against 15-30 ms
// on a busy machine), and now and then several times as long as usual.
constexpr Nanoseconds kClockMarginMin = std::chrono::milliseconds(30), kClockMarginMax = std::chrono::milliseconds(500);
constexpr int kClockMarginWays = 3;
// Nothing else is under way in the pager at these moments.
constexpr Nanoseconds kPagerAnswerBound = std::chrono::seconds(5);
// Together less than the source waits for STANDING, so that no switchover meets a standby that is being built.
constexpr Nanoseconds kAnnounceBound = std::chrono::seconds(1);
constexpr Nanoseconds kBuildBound = std::chrono::seconds(3);
// For pages of the standby that only the source has: a lazy restore goes on without them, but to end the standby and to
// restore takes as long as this, and longer where there is much memory to free (4 GiB: 400 ms).
constexpr Nanoseconds kFreshLeast = std::chrono::milliseconds(300), kFreshGib = std::chrono::milliseconds(100),
                      kFreshMost = std::chrono::seconds(1);

Nanoseconds fresh_bound(uint64_t memory_bytes) {
  return std::min(kFreshLeast + kFreshGib * static_cast<int64_t>(memory_bytes >> 30), kFreshMost);
}

// As long as it takes where it is dear, and half as long again; shorter than the source waits for the standby.
constexpr Nanoseconds kWarmBound = std::chrono::seconds(1), kWarmPage = std::chrono::microseconds(12);

constexpr size_t kThreadsHeldMax = 100;

// As long as the payload is there.
std::shared_ptr<const ImageFiles> images_of(const std::shared_ptr<const ImagesPayload>& payload) { return {payload, &payload->images}; }

}  // namespace

Result<std::vector<restore::StandbyProcess>> DestinationHost::standby_tree(std::vector<ProcessHandle>& handles) const {
  MOSE_ASSIGN(auto pids, cgroup_.procs());
  handles.clear();
  handles.reserve(pids.size());
  std::vector<restore::StandbyProcess> tree;
  for (pid_t pid : pids) {
    MOSE_ASSIGN(ProcessHandle process, ProcessHandle::open(pid));
    MOSE_ASSIGN(pid_t space, virtual_pid(process));
    handles.push_back(std::move(process));
    tree.push_back({static_cast<SpaceId>(space), &handles.back()});
  }
  return tree;
}

Status DestinationHost::build_standby(std::shared_ptr<const ImagesPayload> payload, Timestamp received) {
  Timeline::Span span(timeline_, "standby");
  // Some trees could never be refreshed: known before anything is built.
  MOSE_ASSIGN(early_images_, restore::ImageSet::of(images_of(payload)));
  const ImagesPayload& images = *payload;
  MOSE_TRY(check_images(images));
  MOSE_ASSIGN(auto same, restore::compare_images(early_images_, early_images_, restore::StandbyMemory::eager));
  // What its sockets say while they stand is of yesterday.
  MOSE_TRY(network_->shut(handover::Direction::egress, true));
  MOSE_TRY(store_images(images_dir_.get(), images));
  MOSE_ASSIGN(auto processes, restore::read_processes(images_dir_.get()));
  for (const restore::ImageProcess& process : processes) standby_areas_[process.space] = restore::lazy_area(process);
  MOSE_TRY(mark_copied(workload_paths(config_, payload_.spec.name).state_dir, payload_.spec));
  MOSE_TRY(write_copied(payload_.spec, workload_paths(config_, payload_.spec.name).log_dir, images.copied));
  const Timestamp asked = now();
  Nanoseconds margin{};
  MOSE_TRY(run_restore(kBuildBound, [&] {
    margin = std::clamp(kClockMarginWays * (now() - asked), kClockMarginMin, kClockMarginMax);
    return restore::advance_clocks(images_dir_.get(), images.age + (now() - received) + margin);
  }));
  std::vector<ProcessHandle> handles;
  MOSE_ASSIGN(auto tree, standby_tree(handles));
  if (same.clocks && !handles.empty()) {
    // Both run on at the same pace: what is behind now is behind in the switchover, where it would cost more to find
    // out.
    const auto passed = static_cast<uint64_t>((images.age + (now() - received)).count());
    const restore::StandbyClocks due{same.clocks->monotonic_ns + passed, same.clocks->boottime_ns + passed};
    if (auto checked = restore::check_standby_clocks(due, handles.front()); !checked) {
      return fail(fmt::format("{}: CRIU came to them later than the {:.0f} ms by which they had been set ahead",
                              checked.error().what, to_ms(margin)));
    }
  }
  return restore::quiet_standby(tree);
}

Status DestinationHost::refresh_standby(std::shared_ptr<const ImagesPayload> payload) {
  Timeline::Span span(timeline_, "refresh");
  MOSE_ASSIGN(restore::ImageSet later, restore::ImageSet::of(images_of(payload)));
  MOSE_ASSIGN(restore::StandbyDelta delta,
              restore::compare_images(early_images_, later, restore::StandbyMemory::eager));
  MOSE_TRY(write_copied(payload_.spec, workload_paths(config_, payload_.spec.name).log_dir, payload->copied,
                        CopyTarget::standby));
  // Leaving repair mode, connections send window probes: they wait for the commit.
  MOSE_TRY(network_->hold(handover::Direction::egress, egress_queue_->tap_ifindex()));
  std::vector<ProcessHandle> handles;
  MOSE_ASSIGN(auto tree, standby_tree(handles));
  MOSE_ASSIGN(restore::StandbyTimes times, restore::refresh_standby(delta, tree));
  log::debug("the standby is refreshed", {{"workload", payload_.spec.name},
                                          {"seize_ms", to_ms(times.seize)},
                                          {"sockets_ms", to_ms(times.sockets)},
                                          {"files_ms", to_ms(times.files)},
                                          {"memory_ms", to_ms(times.memory)},
                                          {"threads_ms", to_ms(times.threads)},
                                          {"release_ms", to_ms(times.release)}});
  return {};
}

std::vector<restore::WarmTarget> DestinationHost::warm_targets(const std::vector<restore::StandbyProcess>& tree) const {
  std::vector<restore::WarmTarget> targets;
  for (const restore::StandbyProcess& process : tree)
    if (auto areas = standby_areas_.find(process.space); areas != standby_areas_.end()) targets.push_back({process.process, areas->second});
  return targets;
}

Status DestinationHost::warm_standby() {
  Timeline::Span span(timeline_, "warm");
  std::vector<ProcessHandle> handles;
  MOSE_ASSIGN(auto tree, standby_tree(handles));
  const auto targets = warm_targets(tree);
  const Nanoseconds bound = kWarmBound + static_cast<int64_t>(payload_.memory_bytes / kPageSize) * kWarmPage;
  MOSE_ASSIGN(restore::Warmed warmed, restore::warm_pages(cgroup_, targets, bound, warmed_enough_));
  if (warmed.pages == 0) return {};
  warmth_matters_ = warmed.worth && warmed.judged;
  log::info("the standby is warmed up", {{"workload", payload_.spec.name},
                                          {"pages", warmed.pages},
                                          {"of", warmed.pages_all},
                                          {"worth", warmed.worth},
                                          {"ms", to_ms(warmed.took)}});
  return {};
}

Status DestinationHost::keep_standby_warm() {
  if (!warmth_matters_) return {};
  std::vector<ProcessHandle> handles;
  MOSE_ASSIGN(auto tree, standby_tree(handles));
  size_t threads = 0;
  for (const restore::StandbyProcess& process : tree) threads += numbers_in(proc_path(process.process->pid(), "task")).size();
  // To let go of each takes its time, and the switchover waits from its images on.
  const auto& enough = threads <= kThreadsHeldMax ? hurried_ : warmed_enough_;
  MOSE_ASSIGN(uint64_t calls, restore::keep_warm(cgroup_, warm_targets(tree), enough));
  log::debug("the standby was kept warm", {{"workload", payload_.spec.name}, {"calls", calls}});
  return {};
}

struct DestinationHost::Discard {
  std::vector<ProcessHandle> processes;
  std::vector<Fd> userfaultfds;
  std::vector<restore::DiscardTarget> targets;
};

Result<DestinationHost::Discard> DestinationHost::prepare_discard(const std::vector<restore::StalePages>& pages,
                                                                  const restore::GuardianName& guardian) const {
  Discard out;
  MOSE_ASSIGN(auto holder, ProcessHandle::open_same(static_cast<pid_t>(guardian.pid), guardian.start_time));
  MOSE_ASSIGN(auto tree, standby_tree(out.processes));
  for (const restore::StalePages& one : pages) {
    auto process = std::ranges::find(tree, one.space, &restore::StandbyProcess::space);
    auto areas = standby_areas_.find(one.space);
    if (process == tree.end() || areas == standby_areas_.end()) return fail(fmt::format("the standby lacks process {}", one.space));
    if (!PageSet::from_runs(one.runs).minus(areas->second).empty())
      return fail(fmt::format("process {} of the standby has stale pages in memory that is not lazy", one.space));
    MOSE_ASSIGN(Fd userfaultfd, holder.descriptor(one.descriptor));
    out.targets.push_back({process->process, userfaultfd.get(), areas->second.runs(), one.runs});
    out.userfaultfds.push_back(std::move(userfaultfd));
  }
  return out;
}

Result<std::vector<restore::StalePages>> DestinationHost::discard_stale(const std::vector<restore::StalePages>& pages,
                                                                        const restore::GuardianName& guardian) {
  Timeline::Span span(timeline_, "discard");
  auto discard = prepare_discard(pages, guardian);
  if (!discard) {
    log::warn("stale pages of the standby are waited for", {{"workload", payload_.spec.name}, {"reason", discard.error().what}});
    return pages;
  }
  MOSE_ASSIGN(auto kept, restore::discard_pages(cgroup_, discard->targets));
  std::vector<restore::StalePages> out;
  for (size_t i = 0; i < kept.size(); ++i)
    if (!kept[i].empty()) out.push_back({.space = pages[i].space, .runs = kept[i].runs()});
  return out;
}

Status DestinationHost::drop_standby() {
  Timeline::Span span(timeline_, "standby_drop");
  set_restore({});
  MOSE_TRY(network_->shut(handover::Direction::egress, true));
  // In repair mode sockets vanish with their processes; else they would linger and be in the way of the next. So do
  // those of a tree that has died with its CRIU: they are ended below.
  std::vector<ProcessHandle> handles;
  if (auto tree = standby_tree(handles)) (void)set_tcp_repair(handles, true);
  MOSE_TRY(cgroup_.end(kExitBound));
  MOSE_TRY(cgroup_.thaw());
  MOSE_ASSIGN(SockDiag sockets, SockDiag::open(netns_.get()));
  if (auto ended = sockets.destroy_connections(); !ended) {
    log::warn("sockets of the dropped standby may be in the way of the next restore",
              {{"workload", payload_.spec.name}, {"reason", ended.error().what}});
  }
  MOSE_TRY(restore::set_images_aside(images_dir_.get()));
  // What a refreshed one has sent would leave at the commit, ahead of what the restored tree says on the same
  // connections.
  MOSE_ASSIGN(uint64_t frames, egress_queue_->discard(network_->steering()));
  if (frames > 0)
    log::debug("frames of the dropped standby are thrown away", {{"workload", payload_.spec.name}, {"frames", frames}});
  MOSE_TRY(network_->hold(handover::Direction::egress, egress_queue_->tap_ifindex()));
  return start_restore_process();
}

// ---- In the loop

void DestinationMigration::make_standby(const std::string& payload) {
  auto refuse = [this](const std::string& why) { connection_->send(wire::FrameType::standing, encode_standing(why)); };
  if (driver_.state().phase != plan::DestinationPhase::prepared || standby_ != Standby::none || !pager_) {
    return refuse("not at this moment");
  }
  auto images = decode_images(payload);
  if (!images) return refuse(images.error().what);
  standby_ = Standby::building;
  standby_images_ = std::make_shared<const ImagesPayload>(std::move(*images));
  standby_announced_ = standby_images_;
  standby_received_ = now();
  pager_->standby(!payload_.memory_first && restore::can_discard_pages());
  timers_.push_back(context_.core.loop.after(kAnnounceBound, [this] {
    standby_announced("no answer");
  }));
}

// The pager serves from now on what it has, before it knows what is final.
void DestinationMigration::standby_announced(const std::string& refusal) {
  const auto announced = std::exchange(standby_announced_, nullptr);
  if (standby_ != Standby::building || !announced) return;
  if (!refusal.empty()) return standby_built(fail("the pager refuses a standby: " + refusal));
  criu_lane_.run([this, images = announced, received = standby_received_] { return host_->build_standby(images, received); },
                 [this](const Status& status) { standby_built(status); });
}

void DestinationMigration::standby_built(const Status& status) {
  if (standby_ != Standby::building) return;
  if (!status) return drop_standby(status.error().what);
  standby_ = Standby::standing;
  if (std::exchange(restore_waits_, false)) return restore();  // the source did not wait for it
  if (staged_) standby_staged();
}

// As much of its memory is in as has come.
void DestinationMigration::standby_staged() {
  staged_ = true;
  if (standby_ != Standby::standing || std::exchange(warming_, true)) return;
  criu_lane_.run([this] { return host_->warm_standby(); },
                 [this](const Status& status) {
                   if (standby_ != Standby::standing) return;
                   if (!status) return drop_standby(status.error().what);
                   if (connection_) connection_->send(wire::FrameType::standing, encode_standing({}));
                   keep_standby_warm();
                 });
}

// On the lane of all that is done with it: who has something to do there says host_->hurry() first.
void DestinationMigration::keep_standby_warm() {
  criu_lane_.run([this] { return host_->keep_standby_warm(); },
                 [this](const Status& status) {
                   if (!status && standby_ == Standby::standing) drop_standby(status.error().what);
                 });
}

// The pager hears of it first: processes that vanish would be a failure. Both must have let go before the next restore.
void DestinationMigration::drop_standby(const std::string& why) {
  log::info("the standby is dropped",
            {{"workload", payload_.spec.name}, {"reason", why}});
  standby_ = Standby::dropping;
  standby_problem_ = why;
  pager_let_go_ = tree_gone_ = false;
  host_->hurry();
  unwatch_tree();
  if (pager_) pager_->standby_dropped();
  criu_lane_.run([this] { return host_->drop_standby(); },
                 [this](const Status& status) {
                   if (standby_ != Standby::dropping) return;
                   if (!status) return standby_gone(status);
                   tree_gone_ = true;
                   if (pager_let_go_) return standby_gone({});
                   timers_.push_back(context_.core.loop.after(
                       kPagerAnswerBound, [this] { standby_gone(fail("the pager does not let go of the standby")); }));
                 });
}

void DestinationMigration::standby_let_go() {
  if (standby_ != Standby::dropping) return;
  fenced_ = filled_ = false;
  pager_let_go_ = true;
  if (tree_gone_) standby_gone({});
}

void DestinationMigration::standby_gone(const Status& status) {
  if (standby_ != Standby::dropping) return;
  standby_ = Standby::gone;
  standby_failed_ = status;
  if (connection_) connection_->send(wire::FrameType::standing, encode_standing(standby_problem_));
  if (std::exchange(restore_waits_, false)) restore();
}

void DestinationMigration::refresh() {
  criu_lane_.run([this, images = images_] { return host_->refresh_standby(images); },
                 [this](const Status& status) { refreshed(status); });
}

void DestinationMigration::refreshed(const Status& status) {
  if (driver_.state().phase != plan::DestinationPhase::restoring)
    return done(DestinationActionKind::restore, fail("discarded"));
  restore_waits_ = true;                      // unless everything is well
  if (standby_ == Standby::dropping) return;  // the pager had a reason of its own
  if (standby_ == Standby::gone) {
    restore_waits_ = false;
    return restore();
  }
  if (!status) return drop_standby(status.error().what);
  restore_waits_ = false;
  standby_ = Standby::refreshed;
  restored({});
}

// Pages that were written since and are still at the source. Once at a time: what is offered again by a pager that was connected
// anew is the same, or of one that has taken over and knows nothing of it.
void DestinationMigration::discard_stale(const std::vector<restore::StalePages>& pages) {
  if (!pager_ || discarding_ || standby_ == Standby::dropping || standby_ == Standby::gone) return;
  if (standby_ != Standby::standing && standby_ != Standby::refreshed) return pager_->discarded(pages);  // kept
  discarding_ = true;
  host_->hurry();
  const restore::PagerStatus& status = pager_->status();
  const restore::GuardianName guardian{status.guardian_pid, status.guardian_start_time};
  criu_lane_.run([this, pages, guardian] { return host_->discard_stale(pages, guardian); },
                 [this, connection = pager_->connection()](const Result<std::vector<restore::StalePages>>& kept) {
                   discarding_ = false;
                   if (!kept) return discarded(std::unexpected(kept.error()), {});
                   const bool same = pager_ && pager_->connection() == connection;
                   discarded(same ? Status{} : Status(fail("the connection to the pager was lost while stale pages were taken out")), *kept);
                 });
}

// After an error nobody knows what is in it.
void DestinationMigration::discarded(const Status& status, const std::vector<restore::StalePages>& kept) {
  if (!pager_ || (standby_ != Standby::standing && standby_ != Standby::refreshed)) return;
  if (status) return pager_->discarded(kept);
  if (standby_ == Standby::refreshed && std::exchange(restored_, false)) restore_waits_ = true;
  drop_standby(status.error().what);
}

// What can come within that time at the rate of the whole migration so far.
uint64_t DestinationMigration::fresh_pages_max() const {
  const double seconds = std::chrono::duration<double>(now() - started_).count();
  const double rate = static_cast<double>(pager_->status().progress.bytes_received) / std::max(seconds, 1e-3);
  const auto pages = static_cast<uint64_t>(rate * std::chrono::duration<double>(fresh_bound(payload_.memory_bytes)).count()) / kPageSize;
  return std::max(pages, restore::kStandbyRemoteMax);
}

// What was written since the last round and is still at the source must not be waited for while the workload stands
// still, but for as long as doing without it would take.
void DestinationMigration::await_fresh_memory() {
  if (payload_.memory_first) return;  // every page is waited for, and nothing is gained without the standby
  pager_->pages_awaited();
  judge_stale_memory();
  timers_.push_back(context_.core.loop.after(fresh_bound(payload_.memory_bytes), [this] { without_standby("its memory did not become up to date in time"); }));
}

// Again whenever the pager has told of itself: how many pages are stale it knows only some time after the seal.
void DestinationMigration::judge_stale_memory() {
  if (!pager_ || payload_.memory_first) return;
  const uint64_t remote = pager_->status().standby.remote_pages;
  if (remote > fresh_pages_max()) without_standby(fmt::format("{} of its pages were written again and are still at the source", remote));
}

// While its memory is being waited for.
void DestinationMigration::without_standby(const std::string& why) {
  if (standby_ != Standby::refreshed || memory_fresh_) return;
  if (!std::exchange(restored_, false)) return;
  restore_waits_ = true;
  drop_standby(why);
}

}  // namespace mose::agent
