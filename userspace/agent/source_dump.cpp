// SPDX-License-Identifier: MIT
// The dump of a workload: CRIU is started and asked while it runs, goes on when it stands still, and lets go of it again.
#include <fmt/format.h>

#include <filesystem>
#include <ranges>

#include "agent/bounds.h"
#include "agent/migration_paths.h"
#include "agent/source_host.h"
#include "agent/workloads.h"
#include "base/log.h"
#include "kernel/procfs.h"
#include "kernel/shared_objects.h"
#include "kernel/system_v.h"
#include "restore/images.h"
#include "restore/shared_memory.h"
#include "restore/told_mappings.h"

namespace mose::agent {
namespace {

// New connections wait until the freeze, some ms. An agent that dies here must not keep them out for good.
constexpr Nanoseconds kHoldNewMax = std::chrono::seconds(5);
// Of the flags of mappings: some 50 us a process, while it stands still.
constexpr Nanoseconds kTellBound = std::chrono::milliseconds(5);

// What only the namespace of a frozen tree tells of its segments. What has come since the preflight would be lost: without
// the namespace in the dump everything of it, and in any case what nobody has attached.
Status look_at_segments(const ProcessHandle& init, bool ipc_dumped, std::vector<SharedObject>& objects) {
  MOSE_ASSIGN(Fd ipc, open_namespace(init, NamespaceKind::ipc));
  MOSE_ASSIGN(SystemVObjects system_v, system_v_objects(ipc.get()));
  if (system_v.semaphores + system_v.queues != 0)
    return fail("System V semaphores or message queues have been made since the migration began");
  if (!ipc_dumped && !system_v.segments.empty())
    return fail("a System V segment has been made since the dump was prepared: move it again");
  for (const SystemVSegment& segment : system_v.segments) {
    auto object = std::ranges::find(objects, segment.id, &SharedObject::system_v);
    if (object == objects.end()) {
      return fail(fmt::format("no process of the workload has attached System V segment {} any more: its contents would be lost",
                              segment.id));
    }
    object->removed = segment.removed;
  }
  return {};
}

}  // namespace

void SourceHost::set_dump(std::optional<restore::Swrk> swrk) {
  // Ended outside of the lock: a CRIU that gives up takes its time.
  std::optional<restore::Swrk> old = std::exchange(swrk_, std::move(swrk));
  std::lock_guard lock(dump_mutex_);
  dump_breaker_ = {};
  dump_ready_ = false;
  if (!swrk_) return;
  if (auto breaker = swrk_->breaker()) dump_breaker_ = std::move(*breaker);
}

void SourceHost::break_dump() {
  std::lock_guard lock(dump_mutex_);
  dump_breaker_.break_off();
}

Status SourceHost::wait_hook(const std::string& name, const std::string& phase) {
  Timestamp deadline = now() + config_.limits.dump_time_max;
  for (;;) {
    MOSE_ASSIGN(auto event, swrk_->next(deadline - now()));
    if (auto* hook = std::get_if<restore::Swrk::Hook>(&event)) {
      if (hook->name == name) return {};
      MOSE_TRY(swrk_->answer(true));
    } else if (auto* done = std::get_if<restore::Swrk::Done>(&event)) {
      return fail(fmt::format("CRIU's dump of {} ended before {}: {}", spec_.name, name, done->message));
    } else if (auto* died = std::get_if<restore::Swrk::Died>(&event)) {
      return fail(fmt::format("CRIU died in the {} of {} ({})", phase, spec_.name, died->how));
    } else {
      return fail(fmt::format("CRIU's dump of {} did not reach {} within {} ms", spec_.name, name,
                              to_ms(config_.limits.dump_time_max)));
    }
  }
}

Status SourceHost::prepare_dump() {
  Timeline::Span span(timeline_, "dump_prepare");
  MOSE_ASSIGN(restore::Swrk::DumpRequest request, start_dump());
  MOSE_TRY(ask_dump(request));
  dump_ready_ = true;
  return {};
}

Status SourceHost::ask_dump(const restore::Swrk::DumpRequest& request) {
  MOSE_TRY(swrk_->request_dump(request));
  return wait_hook("pre-dump", "preparation");
}

Result<restore::Swrk::DumpRequest> SourceHost::start_dump() {
  MigrationPaths paths = migration_paths(config_, id_);
  std::error_code error;
  std::filesystem::create_directories(paths.dir, error);
  if (error) return fail_errno("make directory " + paths.dir, error.value());
  MOSE_ASSIGN(images_dir_, restore::make_images_dir(paths.images));
  ingress_queue_.reset();  // its end takes the file away that names who keeps the packets
  MOSE_ASSIGN(auto queue, handover::HoldQueue::create(network_->steering(), handover::Direction::ingress,
                                                          paths.ingress_holder));
  ingress_queue_.emplace(std::move(queue));

  restore::Swrk::Place place;
  MOSE_ASSIGN(Fd ipc, open_namespace(*init_, NamespaceKind::ipc));
  MOSE_ASSIGN(Fd uts, open_namespace(*init_, NamespaceKind::uts));
  MOSE_ASSIGN(Fd time, open_namespace(*init_, NamespaceKind::time));
  MOSE_ASSIGN(Fd own_time, own_namespace(NamespaceKind::time));
  MOSE_ASSIGN(bool same_time, same_namespace(time.get(), own_time.get()));
  place.net_fd = netns_.get();
  MOSE_ASSIGN(ipc_dumped_, has_segments());
  place.ipc_fd = ipc_dumped_ ? -1 : ipc.get();
  place.uts_fd = uts.get();
  place.time_fd = same_time ? -1 : time.get();
  MOSE_ASSIGN(auto swrk, restore::Swrk::start_for_dump(*criu_, place));
  set_dump(std::move(swrk));

  restore::Swrk::DumpRequest request;
  request.images_dir = images_dir_.get();
  request.pid = init_->pid();
  request.cgroup_path = cgroup_.path();
  for (const ExternalMount& mount : external_mounts(config_, spec_)) request.mounts.push_back({mount.target, mount.key});
  return request;
}

// CRIU dumps no mapping of a segment unless it dumps the whole namespace, which costs it a few milliseconds more.
Result<bool> SourceHost::has_segments() const {
  MOSE_ASSIGN(Fd ipc, open_namespace(*init_, NamespaceKind::ipc));
  MOSE_ASSIGN(SystemVObjects objects, system_v_objects(ipc.get()));
  return !objects.segments.empty();
}

Status SourceHost::arm_dump() {
  Timeline::Span span(timeline_, "arm");
  MOSE_TRY(wait_for_borrowed());
  may_be_held_ = true;
  // One that was prepared ahead may know nothing of a segment that has come since, and may have died.
  if (dump_ready_ && !swrk_->process().alive()) {
    log::info("the CRIU that was prepared ahead has ended: another is started", {{"workload", spec_.name}});
    set_dump({});
  }
  if (dump_ready_) {
    MOSE_ASSIGN(bool segments, has_segments());
    if (segments != ipc_dumped_) set_dump({});
  }
  std::optional<restore::Swrk::DumpRequest> request;
  if (!dump_ready_) {
    MOSE_ASSIGN(request, start_dump());
  }
  MOSE_TRY(note_stopped());
  // Once for both dumps: what the programs counted before belongs to earlier times.
  if (!before_) {
    MOSE_ASSIGN(before_, network_->steering().counters(handover::Direction::ingress));
  }
  // As late as can be, because new connections wait from here on. While CRIU prepares itself, or else in quiesce(), what has begun to
  // connect is let in.
  MOSE_ASSIGN(auto listen_queues, ListenQueues::open(netns_.get()));
  listen_queues_.emplace(std::move(listen_queues));
  MOSE_TRY(network_->hold_new(ingress_queue_->tap_ifindex(), now() + kHoldNewMax));
  return request ? ask_dump(*request) : Status{};
}

Status SourceHost::at_post_dump() {
  // CRIU thaws the cgroup while it dumps: until here ptrace alone holds the tree. From here on the cgroup does.
  MOSE_TRY(network_->shut(handover::Direction::egress, false));
  return cgroup_.freeze(kFreezeBound);
}

Result<ImagesPayload> SourceHost::complete_images() {
  MOSE_ASSIGN(auto processes, restore::read_processes(images_dir_.get()));
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
  std::map<SpaceId, const ProcessHandle*> by_space;
  for (const ProcessHandle& process : tree) {
    MOSE_ASSIGN(pid_t space, virtual_pid(process));
    by_space[static_cast<SpaceId>(space)] = &process;
  }
  std::map<SpaceId, PageSet> areas;
  ImageFiles present;  // instead of the dump's own
  for (const restore::ImageProcess& process : processes) {
    if (process.zombie) continue;
    auto source = by_space.find(process.space);
    if (source == by_space.end()) return fail(fmt::format("process {} of {} vanished in the dump", process.space, spec_.name));
    MOSE_ASSIGN(auto read, restore::read_present_pages(images_dir_.get(), process, *source->second, restore::eager_area(process)));
    std::ranges::move(read, std::back_inserter(present));
    areas[process.space] = restore::lazy_area(process);
  }
  {
    std::lock_guard lock(results_mutex_);
    lazy_areas_ = std::move(areas);
  }
  MOSE_ASSIGN(std::vector<SpaceProcess> spaces, cgroup_spaces(cgroup_.path()));
  MOSE_ASSIGN(std::vector<SharedObject> shared, shared_objects(spaces));
  MOSE_TRY(look_at_segments(*init_, ipc_dumped_, shared));
  MOSE_TRY(restore::write_shared_image(images_dir_.get(), shared));
  MOSE_ASSIGN(unsigned forgotten, restore::forget_file_sizes(images_dir_.get(), {kWorkloadLogTarget}));
  (void)forgotten;
  ImagesPayload payload;
  MOSE_ASSIGN(payload.images, restore::load_images(images_dir_.get()));
  std::erase_if(payload.images, [&](const restore::ImageFile& image) {
    return std::ranges::find(present, image.name, &restore::ImageFile::name) != present.end();
  });
  std::ranges::move(present, std::back_inserter(payload.images));
  MOSE_TRY(restore::advance_tcp_timestamps(payload.images, egress_open_for_));
  MOSE_ASSIGN(payload.copied, read_copied(spec_, workload_paths(config_, spec_.name).log_dir));
  return payload;
}

// Without it the dump takes longer, nothing else.
void SourceHost::tell_mappings() {
  const MappingFlags* flags = criu_->mapping_flags();
  if (flags == nullptr) return;
  auto told = [&]() -> Status {
    MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
    return swrk_->tell_mappings(restore::mapping_table(restore::mapped_processes(*flags, tree, kTellBound)));
  }();
  if (!told) log::info("CRIU reads smaps", {{"workload", spec_.name}, {"reason", told.error().what}});
}

Status SourceHost::dump_tree() {
  Timeline::Span span(timeline_, "dump");
  tell_mappings();
  const Timestamp begun = now();
  MOSE_TRY(swrk_->answer(true));
  MOSE_TRY(wait_hook("post-dump", "dump"));
  MOSE_TRY(at_post_dump());
  egress_open_for_ = now() - begun;
  return {};
}

Result<ImagesPayload> SourceHost::dump() {
  MOSE_TRY(dump_tree());
  Timeline::Span images(timeline_, "images");
  return complete_images();
}

SourceHost::StandbyDump SourceHost::dump_for_standby() {
  Timeline::Span span(timeline_, "standby_dump");
  Timestamp clocks_read = now();
  Status dumped = [&]() -> Status {
    MOSE_TRY(arm_dump());
    MOSE_TRY(quiesce());
    timeline_.begin("standby_pause");
    MOSE_TRY(freeze());
    clocks_read = now();
    return dump_tree();
  }();
  // CRIU waits at post-dump with every task in its hands, so a task that is free has been let go. Its end takes longer.
  if (dumped) break_dump();
  Status resumed = dumped ? resume_tree() : resume();
  if (dumped && !resumed) resumed = resume();  // of a CRIU that does not let go: it is ended
  timeline_.end("standby_pause");  // where it has not ended with the drain
  set_dump({});
  if (!dumped) return {std::unexpected(dumped.error()), std::move(resumed), clocks_read};
  // While it runs again: contents that are of yesterday are replaced at the switchover, mappings that are make it fail there.
  Timeline::Span images(timeline_, "images");
  return {complete_images(), std::move(resumed), clocks_read};
}

Status SourceHost::finish_dump() {
  Timeline::Span span(timeline_, "dump_exit");
  for (;;) {
    MOSE_TRY(swrk_->answer(true));
    MOSE_ASSIGN(auto event, swrk_->next(config_.limits.dump_time_max));
    if (std::get_if<restore::Swrk::Hook>(&event)) continue;
    auto* done = std::get_if<restore::Swrk::Done>(&event);
    if (!done) return fail("CRIU did not finish the dump of " + spec_.name);
    if (!done->success) return fail("CRIU's dump of " + spec_.name + " failed: " + done->message);
    break;
  }
  MOSE_TRY(swrk_->wait_exit(kExitBound));
  set_dump({});
  return cgroup_.wait_frozen(kFreezeBound);
}

}  // namespace mose::agent
