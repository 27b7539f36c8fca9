// SPDX-License-Identifier: MIT
#include "agent/destination_host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "agent/away_network.h"
#include "agent/bounds.h"
#include "agent/durable_file.h"
#include "agent/free_space.h"
#include "agent/migration_paths.h"
#include "agent/pager_link.h"
#include "agent/pager_log.h"
#include "agent/workloads.h"
#include "base/log.h"
#include "base/rollback.h"
#include "base/units.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "restore/images.h"
#include "restore/pager_client.h"
#include "restore/shared_memory.h"
#include "restore/tree_process.h"

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

constexpr Nanoseconds kDrainBound = std::chrono::seconds(5);
constexpr Nanoseconds kPagerStartBound = std::chrono::seconds(5);

std::string hex(const std::string& token) {
  std::string out;
  for (char c : token) out += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return out;
}

}  // namespace

DestinationHost::DestinationHost(const Config& config, NodeUplink& uplink, std::shared_ptr<const restore::CriuSetup> criu,
                                 PreparePayload payload, const MigrationId& id, const std::string& peer, Timeline& timeline)
    : config_(config), uplink_(uplink), criu_(std::move(criu)), payload_(std::move(payload)), id_(id), peer_(peer), timeline_(timeline) {}

// An agent that ends after the commit: what the workload has sent and still waits is for the next one.
DestinationHost::~DestinationHost() {
  if (egress_queue_ && network_) egress_queue_->leave(network_->steering());
}

restore::PagerLaunch DestinationHost::pager_launch() const {
  MigrationPaths paths = migration_paths(config_, id_);
  restore::PagerLaunch launch;
  launch.id = id_.hex();
  launch.source = payload_.page_server_address;
  launch.token = hex(payload_.token);
  launch.node = config_.node.name;
  launch.peer_node = peer_;
  launch.images_dir = paths.images;
  launch.socket = paths.pager_socket;
  launch.cgroup = workload_paths(config_, payload_.spec.name).cgroup;
  launch.log = paths.pager_log;
  if (!config_.tls.plain_text) {
    launch.certificate = config_.tls.certificate;
    launch.key = config_.tls.key;
    launch.authorities = config_.tls.authorities;
    launch.revoked = config_.tls.revoked;
  }
  launch.store_bytes_max = config_.limits.store_bytes_max;
  launch.reserve_bytes = std::min(payload_.memory_bytes, reserve_max_);
  return launch;
}

Status DestinationHost::start_pager() {
  MigrationPaths paths = migration_paths(config_, id_);
  MOSE_ASSIGN(pager_, restore::launch_pager(pager_launch()));
  Timestamp deadline = now() + kPagerStartBound;
  while (now() < deadline) {
    if (auto client = restore::PagerClient::connect(paths.pager_socket)) return {};
    if (!pager_.alive()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::string log_tail = read_file(paths.pager_log).value_or("");
  return fail("the pager did not start: " + (log_tail.empty() ? "no word from it" : log_tail.substr(log_tail.size() > 300 ? log_tail.size() - 300 : 0)));
}

void DestinationHost::set_restore(std::optional<restore::Swrk> swrk) {
  std::lock_guard lock(restore_mutex_);
  swrk_ = std::move(swrk);
  restore_process_ = {};
  if (!swrk_) return;
  if (auto handle = swrk_->process().share()) restore_process_ = std::move(*handle);
}

void DestinationHost::kill_restore() {
  std::lock_guard lock(restore_mutex_);
  if (restore_process_) (void)restore_process_.signal(SIGKILL);
}

Status DestinationHost::start_restore_process() {
  restore::Swrk::Place place;
  place.net_fd = netns_.get();
  place.ipc_fd = ipcns_.get();
  place.uts_fd = utsns_.get();
  place.cgroup_fd = cgroup_.fd();
  place.root = payload_.spec.root;
  for (const ExternalMount& mount : external_mounts(config_, payload_.spec)) {
    place.mounts.push_back({mount.key, mount.source, mount.read_only});
  }
  MOSE_ASSIGN(auto swrk, restore::Swrk::start_for_restore(*criu_, place));
  set_restore(std::move(swrk));
  return {};
}

// The source will send by a tunnel to an address that must be ours, by our uplink.
Status DestinationHost::take_from_tunnel() {
  const auto& theirs = payload_.path.tunnel;
  if (!theirs) return {};
  if (network_->uplink_ifindex() == 0)
    return fail("redirected packets would come by VXLAN, and no uplink takes them here: set node.uplink");
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(bool ours, netlink.has_address(theirs->remote));
  if (!ours) {
    return fail(fmt::format(
        "redirected packets would go to {}, which is no address of this node: give the right one as data_address in "
        "[peers.{}] at node {}",
        format_address(theirs->remote), config_.node.name, peer_));
  }
  return network_->steering().take_from(
      handover::Tunnel{.local = theirs->remote, .remote = theirs->local, .port = theirs->port});
}

Result<PreparedPayload> DestinationHost::prepare() {
  Timeline::Span span(timeline_, "prepare");
  MOSE_TRY(require_uplink(config_));
  MOSE_TRY(check());
  MOSE_TRY(uplink_.ready());
  const WorkloadSpec& spec = payload_.spec;
  MigrationPaths paths = migration_paths(config_, id_);
  Rollback rollback;
  std::error_code error;
  fs::create_directories(paths.dir, error);
  if (error) return fail_errno("make directory " + paths.dir, error.value());
  rollback.push([dir = paths.dir] { (void)remove_wiped(dir); });
  fs::create_directories(workload_paths(config_, spec.name).log_dir, error);
  for (const WorkloadMount& mount : spec.mounts) {
    if (mount.mode == MountMode::copy) fs::create_directories(mount.source, error);
  }
  MOSE_TRY(sync_copied(spec));
  MOSE_ASSIGN(images_dir_, restore::make_images_dir(paths.images));

  MOSE_ASSIGN(netns_, create_service_netns());
  MOSE_ASSIGN(ipcns_, new_namespace(NamespaceKind::ipc));
  MOSE_ASSIGN(utsns_, new_namespace(NamespaceKind::uts));
  MOSE_TRY(set_hostname(utsns_.get(), payload_.hostname));
  MOSE_ASSIGN(cgroup_, Cgroup::create(workload_paths(config_, spec.name).cgroup));
  // Never thaw what somebody left stopped.
  MOSE_ASSIGN(bool populated, cgroup_.populated());
  if (populated) {
    std::string path = std::exchange(cgroup_, {}).path();
    return fail(fmt::format("processes of an earlier stay of {} are in {}: see `mose status` and `mose recover`", spec.name, path));
  }
  MOSE_TRY(claim());
  MOSE_TRY(cgroup_.thaw());
  rollback.push([this] { (void)cgroup_.remove(kExitBound); });

  // Early: it takes memory for the pages while the network is made.
  rollback.push([this, socket = paths.pager_socket] {
    (void)end_pager(socket, kExitBound);
    if (!pager_) return;
    (void)pager_.signal(SIGKILL);
    (void)pager_.reap(kExitBound);
  });
  MOSE_TRY(start_pager());

  auto net = network_config(config_, spec);
  net.mtu = payload_.mtu;
  if (!payload_.path.tunnel) net.neighbours = payload_.neighbours;  // those of another segment are nobody here
  MOSE_TRY(end_network(config_, spec.name));                        // what an earlier stay may have left
  MOSE_ASSIGN(auto network, handover::WorkloadNetwork::create(net, netns_.get()));
  network_.emplace(std::move(network));
  rollback.push([this, name = spec.name, bpffs = net.bpffs] {
    network_.reset();
    (void)handover::WorkloadNetwork::destroy(name, bpffs);
  });
  MOSE_TRY(take_from_tunnel());
  MOSE_ASSIGN(auto queue, handover::HoldQueue::create(network_->steering(), handover::Direction::egress, paths.egress_holder));
  egress_queue_.emplace(std::move(queue));
  rollback.push([this] { egress_queue_.reset(); });
  MOSE_TRY(network_->hold(handover::Direction::egress, egress_queue_->tap_ifindex()));

  MOSE_TRY(open_announcer());
  rollback.push([this] { announcer_.reset(); });

  MOSE_TRY(start_restore_process());
  rollback.commit();
  return PreparedPayload{.uplink_mac = network_->uplink_mac(), .takes_tunnel = payload_.path.tunnel.has_value()};
}

// For the agent after us as well: what it may kill.
Status DestinationHost::claim() {
  claimed_ = true;
  MOSE_ASSIGN(Fd mark, open_file(migration_paths(config_, id_).claim, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  return {};
}

Status DestinationHost::adopt() {
  const WorkloadSpec& spec = payload_.spec;
  MOSE_ASSIGN(cgroup_, Cgroup::open(workload_paths(config_, spec.name).cgroup));
  MOSE_ASSIGN(ProcessHandle first, init());
  MOSE_ASSIGN(netns_, open_namespace(first, NamespaceKind::net));
  MOSE_ASSIGN(auto network, handover::WorkloadNetwork::open_existing(network_config(config_, spec), netns_.get()));
  network_.emplace(std::move(network));
  if (auto queue = adopt_egress_queue(); !queue) log::warn("frames of the workload wait", {{"workload", spec.name}, {"reason", queue.error().what}});
  return {};
}

// After a restart: what the workload has sent and the agent before us held. Nothing may be there.
Status DestinationHost::adopt_egress_queue() {
  if (egress_queue_) return {};
  MOSE_ASSIGN(egress_queue_, handover::HoldQueue::adopt_held(network_->steering(), handover::Direction::egress,
                                                             migration_paths(config_, id_).egress_holder));
  return {};
}

// CRIU starts in the workload's cgroup so that its children are born there; it must be outside before the fence. The kernel
// waits for a grace period (about 10 ms) before it moves a process, so this goes on beside the restore, from the moment when
// the first task exists: all others are children of that one.
std::future<Status> DestinationHost::move_out(pid_t criu) const {
  return std::async(std::launch::async, log::carried([path = config_.node.cgroup, criu]() -> Status {
    MOSE_ASSIGN(Cgroup outside, Cgroup::open(path));
    return outside.add(criu);
  }));
}

Status DestinationHost::on_hook(const std::string& name, std::future<Status>& moved) {
  if (name == "setup-namespaces") {
    moved = move_out(swrk_->process().pid());
  } else if (name == "post-restore") {
    if (!moved.valid()) moved = move_out(swrk_->process().pid());
    MOSE_TRY(moved.get());
  } else if (name == "pre-resume") {
    // The pager raises the fence as well, on CRIU's word that the restore is finished: whoever is first.
    Timeline::Span span(timeline_, "fence");
    MOSE_TRY(cgroup_.freeze(kFreezeBound));
  }
  return swrk_->answer(true);
}

Status DestinationHost::run_restore(Nanoseconds bound, const std::function<Status()>& at_start) {
  restore::Swrk::RestoreRequest request;
  request.images_dir = images_dir_.get();
  MOSE_TRY(swrk_->request_restore(request));
  Timestamp deadline = now() + bound;
  std::future<Status> moved;  // its end is awaited with every return
  for (;;) {
    MOSE_ASSIGN(auto event, swrk_->next(deadline - now()));
    if (auto* hook = std::get_if<restore::Swrk::Hook>(&event)) {
      if (at_start && hook->name == "pre-restore") MOSE_TRY(at_start());
      MOSE_TRY(on_hook(hook->name, moved));
    } else if (auto* done = std::get_if<restore::Swrk::Done>(&event)) {
      if (!done->success) return fail("CRIU's restore failed: " + done->message);
      break;
    } else if (auto* died = std::get_if<restore::Swrk::Died>(&event)) {
      return fail("CRIU died in the restore (" + died->how + ")");
    } else {
      return fail(fmt::format("CRIU's restore did not end within {} ms", to_ms(bound)));
    }
  }
  MOSE_TRY(swrk_->wait_exit(kExitBound));
  set_restore({});
  MOSE_TRY(cgroup_.wait_frozen(kFreezeBound));
  MOSE_ASSIGN(auto pids, cgroup_.procs());
  processes_ = std::max<size_t>(pids.size(), 1);
  return restore::mark_removed_segments(images_dir_.get(), [this](SpaceId space) -> Result<int> {
    MOSE_ASSIGN(ProcessHandle process, restore::process_of_space(cgroup_, space));
    return process.pid();
  });
}

Status DestinationHost::store_images(int dir, const ImagesPayload& images) {
  uint64_t bytes = 0;
  for (const restore::ImageFile& image : images.images) bytes += image.bytes.size();
  MOSE_TRY(check_space(config_.node.runtime_dir, bytes));
  for (const restore::ImageFile& image : images.images) MOSE_TRY(restore::store_image(dir, image));
  return {};
}

Status DestinationHost::restore(const ImagesPayload& images) {
  Timeline::Span span(timeline_, "restore");
  // The pager freezes the rest of a standby whose CRIU has died, perhaps after that was cleared away; the next CRIU is in there by now.
  MOSE_TRY(cgroup_.thaw());
  MOSE_TRY(check_images(images));
  MOSE_TRY(store_images(images_dir_.get(), images));
  MOSE_TRY(mark_copied(workload_paths(config_, payload_.spec.name).state_dir, payload_.spec));
  MOSE_TRY(write_copied(payload_.spec, workload_paths(config_, payload_.spec.name).log_dir, images.copied));
  return run_restore(config_.limits.restore_time_max);
}

Status DestinationHost::stop() {
  if (!network_) MOSE_TRY(adopt());
  return cgroup_.freeze(kFreezeBound);
}

Status DestinationHost::activate() {
  Timeline::Span span(timeline_, "activate");
  if (!network_) MOSE_TRY(adopt());
  MOSE_TRY(cgroup_.thaw());
  processes_ = 1;  // it starts and ends them as it likes
  if (thawed_us_ == 0) thawed_us_ = to_us(now());
  return network_->open_ingress();
}

void DestinationHost::release_egress() {
  Timeline::Span span(timeline_, "release");
  if (!network_) return;
  if (auto opened = network_->open_egress(); !opened) {
    log::error("what the workload sends is still held: restart the agent", {{"workload", payload_.spec.name}, {"reason", opened.error().what}});
    return;
  }
  announce();
  // TC has taken what the source redirected until here.
  if (auto known = uplink_.arrived(payload_.spec); !known) {
    log::warn("redirected frames are taken at TC alone", {{"workload", payload_.spec.name}, {"reason", known.error().what}});
  }
  if (auto adopted = adopt_egress_queue(); !adopted) {
    log::error("what the workload has sent is lost", {{"workload", payload_.spec.name}, {"reason", adopted.error().what}});
    end_egress_queue();  // or what it sends from now on would wait as well
    return;
  }
  if (!egress_queue_) return;
  auto drained = egress_queue_->drain(network_->steering(), kDrainBound);
  if (!drained || !*drained) log::warn("frames of the workload still wait", {{"workload", payload_.spec.name}});
  uint64_t lost = egress_queue_->stats().lost;
  if (auto counters = network_->steering().counters(handover::Direction::egress)) lost += counters->dropped_overflow.frames;
  egress_lost_ = lost;
}

// What was held leaves as frames that meet the drain, what comes after it as those that pass.
std::optional<int64_t> DestinationHost::first_out_us() const {
  if (!network_) return {};
  auto out = network_->steering().counters(handover::Direction::egress);
  if (!out) return {};
  std::optional<int64_t> first;
  for (auto state : {handover::SteerState::drain, handover::SteerState::pass}) {
    const auto at = static_cast<int64_t>(out->stamps[static_cast<size_t>(state)].first_ns / 1000);
    if (at != 0) first = std::min(first.value_or(at), at);
  }
  return first;
}

// The queue goes: what still waits in it is lost, but what comes after it must not be.
void DestinationHost::end_egress_queue() {
  if (!network_) return;
  auto egress = network_->steering().policy(handover::Direction::egress);
  if (!egress || egress->state != handover::SteerState::pass) {
    egress_lost_ += network_->steering().queued_now(handover::Direction::egress).value_or(0);
    log::error("frames of the workload are given up: they did not drain", {{"workload", payload_.spec.name}});
    if (auto opened = network_->pass(handover::Direction::egress); !opened) {
      log::error("what the workload sends is still held: restart the agent",
                 {{"workload", payload_.spec.name}, {"reason", opened.error().what}});
      return;
    }
  }
  egress_queue_.reset();
}

Status DestinationHost::end_own_pager() {
  const MigrationPaths paths = migration_paths(config_, id_);
  const Nanoseconds bound = kExitBound + time_to_free(payload_.memory_bytes);
  MOSE_TRY(end_pager(paths.pager_socket, bound));
  if (pager_) {
    (void)pager_.signal(SIGKILL);  // one that never listened
    (void)pager_.reap(bound);
  }
  tell_refused_calls(payload_.spec.name, paths.pager_log);
  return {};
}

Status DestinationHost::settle() {
  end_egress_queue();
  // Every page is in and every userfaultfd closed: the pager only waits for this.
  MOSE_TRY(end_own_pager());
  // The workload runs, whatever becomes of that.
  if (auto removed = remove_wiped(migration_paths(config_, id_).dir); !removed) {
    log::warn("files of a migration are left", {{"workload", payload_.spec.name}, {"reason", removed.error().what}});
  }
  return {};
}

Status DestinationHost::open_announcer() {
  if (announcer_) return {};
  MOSE_ASSIGN(auto announcer, handover::Announcer::open(network_->uplink_ifindex(), payload_.spec.addresses, payload_.spec.mac));
  announcer_.emplace(std::move(announcer));
  return {};
}

void DestinationHost::announce() {
  if (!network_) return;
  Status sent = open_announcer();
  if (sent) sent = announcer_->send_round();
  if (!sent) log::warn("the new place could not be announced", {{"workload", payload_.spec.name}, {"reason", sent.error().what}});
}

Status DestinationHost::discard() {
  MigrationPaths paths = migration_paths(config_, id_);
  std::error_code error;
  if (!claimed_ && !fs::exists(paths.claim, error)) {  // what is there under that name is somebody else's
    (void)remove_wiped(paths.dir);
    return {};
  }
  Timeline::Span span(timeline_, "discard");
  set_restore({});  // kills a CRIU that is still there
  const std::string& name = payload_.spec.name;
  std::string bpffs = network_config(config_, payload_.spec).bpffs;
  // Its sockets may have left repair mode: what they send on their death must not leave.
  if (network_) (void)network_->shut(handover::Direction::egress, true);
  // Whoever has stopped the workload has removed it, and who has not opened it looks for it.
  if (auto found = Cgroup::open(workload_paths(config_, name).cgroup); found) cgroup_ = std::move(*found);
  else if (found.error().code == ENOENT) cgroup_ = {};
  if (cgroup_.valid()) {
    MOSE_TRY(cgroup_.end(kExitBound));
    MOSE_TRY(cgroup_.remove(kExitBound));
  }
  egress_queue_.reset();
  handover::TapHolder::end_left(paths.egress_holder);
  network_.reset();
  netns_.reset();
  ipcns_.reset();
  utsns_.reset();
  MOSE_TRY(handover::WorkloadNetwork::destroy(name, bpffs));
  // The tree is dead: nothing can fault any more.
  MOSE_TRY(end_own_pager());
  (void)remove_wiped(paths.dir);
  return {};
}

bool DestinationHost::tree_gone() const {
  auto cgroup = Cgroup::open(workload_paths(config_, payload_.spec.name).cgroup);
  if (!cgroup) return cgroup.error().code == ENOENT;
  auto populated = cgroup->populated();
  return populated && !*populated;
}

std::string DestinationHost::missing() const {
  const std::string& name = payload_.spec.name;
  if (tree_gone()) return fmt::format("workload {} has ended on node {}", name, config_.node.name);
  const size_t all = processes_;
  if (all <= 1) return {};
  auto cgroup = Cgroup::open(workload_paths(config_, name).cgroup);
  auto there = cgroup ? cgroup->procs() : Result<std::vector<pid_t>>(std::unexpected(cgroup.error()));
  if (!there || there->size() >= all) return {};
  return fmt::format("{} of {} processes of workload {} have ended on node {}, where it stands still", all - there->size(), all, name,
                     config_.node.name);
}

Result<Fd> DestinationHost::watch_tree() const {
  MOSE_ASSIGN(Cgroup cgroup, Cgroup::open(workload_paths(config_, payload_.spec.name).cgroup));
  return cgroup.watch_events();
}

Result<ProcessHandle> DestinationHost::init() const {
  MOSE_ASSIGN(auto pids, cgroup_.procs());
  for (pid_t pid : pids) {
    auto process = ProcessHandle::open(pid);
    if (!process) continue;
    auto inner = virtual_pid(*process);
    if (inner && *inner == 1) return process;
  }
  return fail("no first process of " + payload_.spec.name + " in " + cgroup_.path());
}

}  // namespace mose::agent
