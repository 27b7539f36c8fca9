// SPDX-License-Identifier: MIT
#include "agent/source_host.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "agent/away_network.h"
#include "agent/bounds.h"
#include "agent/check.h"
#include "agent/durable_file.h"
#include "agent/free_space.h"
#include "agent/migration_paths.h"
#include "agent/workloads.h"
#include "base/log.h"
#include "handover/quiesce.h"
#include "kernel/borrowed_thread.h"
#include "kernel/netlink.h"
#include "kernel/procfs.h"
#include "kernel/receive_backlog.h"
#include "kernel/shared_objects.h"
#include "kernel/tcp_repair.h"
#include "kernel/tracers.h"
#include "kernel/tree_memory.h"
#include "kernel/vfork.h"

namespace mose::agent {
namespace {

// For a thread that was borrowed to get some of the processor: a period of its group's quota, as a rule a tenth of a second.
constexpr Nanoseconds kBorrowedBound = std::chrono::seconds(2);
// For frames that passed before the hold to reach their sockets; some microseconds are usual.
constexpr Nanoseconds kBacklogBound = std::chrono::milliseconds(10);
constexpr Nanoseconds kDrainBound = std::chrono::seconds(5);
// 7 to 20 GiB where it is dear; with the kill behind it less than the destination waits to hear of that (plan::kReleasedDeadline).
constexpr Nanoseconds kGiveBackBound = std::chrono::seconds(2);
// Between vfork() and exec: some 100 us, longer for a program whose pages come from another node. Clients' packets wait meanwhile.
constexpr Nanoseconds kVforkFirst = std::chrono::milliseconds(1);
constexpr Nanoseconds kVforkMax = std::chrono::milliseconds(20);
constexpr Nanoseconds kVforkBound = std::chrono::milliseconds(500);

// The host name of the workload's uts namespace, read by a thread that enters it.
std::string hostname_in(int uts) {
  std::string name;
  std::thread([&] {
    char buffer[256] = "";
    if (setns(uts, CLONE_NEWUTS) == 0 && gethostname(buffer, sizeof buffer - 1) == 0) name = buffer;
  }).join();
  return name;
}

// Or will be when it is thawed.
bool stopped_by_signal(const ProcessHandle& process) {
  constexpr uint64_t kStop = 1ull << (SIGSTOP - 1);
  auto state = status_field(process, "State");
  if (state && state->starts_with("T")) return true;
  for (const char* field : {"SigPnd", "ShdPnd"}) {
    auto pending = status_field(process, field);
    if (pending && (std::strtoull(pending->c_str(), nullptr, 16) & kStop) != 0) return true;
  }
  return false;
}

}  // namespace

SourceHost::SourceHost(const Config& config, NodeUplink& uplink, std::shared_ptr<const restore::CriuSetup> criu,
                       WorkloadSpec spec, std::shared_ptr<const ProcessHandle> init, const MigrationId& id,
                       std::string peer, Timeline& timeline)
    : config_(config),
      uplink_(uplink),
      criu_(std::move(criu)),
      spec_(std::move(spec)),
      init_(std::move(init)),
      id_(id),
      peer_(std::move(peer)),
      timeline_(timeline) {}

// An agent that ends after the commit: packets that wait are for the next one, which finds them with their holder.
SourceHost::~SourceHost() {
  if (ingress_queue_ && network_) ingress_queue_->leave(network_->steering());
}

Status SourceHost::open_network() {
  MOSE_ASSIGN(cgroup_, Cgroup::open(workload_paths(config_, spec_.name).cgroup));
  MOSE_ASSIGN(netns_, open_namespace(*init_, NamespaceKind::net));
  MOSE_ASSIGN(auto network, handover::WorkloadNetwork::open_existing(network_config(config_, spec_), netns_.get()));
  network_.emplace(std::move(network));
  return {};
}

// Held and late packets leave by the device that the pinned programs know, which is found out too late at the commit.
Status SourceHost::check_uplink() const {
  MOSE_TRY(require_uplink(config_));
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto uplink, netlink.link(config_.node.uplink));
  if (uplink.ifindex == network_->uplink_ifindex() && uplink.mac == network_->uplink_mac()) return {};
  return fail(fmt::format("{} is not the uplink that {} was started with, so that its packets could not be redirected: `mose stop` it "
                          "and start it again",
                          config_.node.uplink, spec_.name));
}

Result<PreparePayload> SourceHost::inspect() {
  Timeline::Span span(timeline_, "preflight");
  auto reasons = check_workload(spec_, *init_, workload_paths(config_, spec_.name).cgroup);
  if (!reasons.empty()) {
    std::string more = reasons.size() > 1 ? fmt::format(" (and {} more: see `mose check {} --to NODE`)", reasons.size() - 1, spec_.name) : "";
    return fail(reasons.front() + more);
  }
  MOSE_TRY(check_space(config_.node.runtime_dir, kImagesSpaceMin));
  MOSE_TRY(uplink_.ready());
  MOSE_TRY(open_network());
  MOSE_TRY(check_uplink());
  PreparePayload payload;
  payload.spec = spec_;
  MOSE_ASSIGN(payload.path, path_to_peer(config_, spec_.name, peer_));
  MOSE_ASSIGN(Fd uts, open_namespace(*init_, NamespaceKind::uts));
  payload.hostname = hostname_in(uts.get());
  MOSE_ASSIGN(payload.files, identify_files(spec_, *init_));
  MOSE_ASSIGN(payload.neighbours, network_->neighbours());
  MOSE_ASSIGN(payload.mtu, network_->mtu());
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
  payload.tasks = static_cast<uint32_t>(tree.size());
  uint64_t permitted = 0;
  for (const ProcessHandle& process : tree) {
    // What is mapped of files lies at the destination already. One that ends has no memory any more.
    if (auto has = status_field(process, "CapPrm")) permitted |= std::strtoull(has->c_str(), nullptr, 16);
    if (auto rss = status_field(process, "RssAnon")) payload.memory_bytes += std::strtoull(rss->c_str(), nullptr, 10) * 1024;
  }
  payload.capabilities = permitted;
  MOSE_ASSIGN(std::vector<SpaceProcess> spaces, cgroup_spaces(cgroup_.path()));
  MOSE_ASSIGN(std::vector<SharedObject> shared, shared_objects(spaces));
  for (const SharedObject& object : shared) payload.memory_bytes += object.resident;
  MOSE_ASSIGN(auto copied, read_copied(spec_, workload_paths(config_, spec_.name).log_dir));
  MOSE_TRY(check_prepare(payload));
  may_be_held_ = false;
  return payload;
}

Status SourceHost::adopt() { return open_network(); }

Status SourceHost::note_stopped() {
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
  stopped_before_.clear();
  for (const ProcessHandle& process : tree) {
    if (stopped_by_signal(process)) stopped_before_.insert(process.pid());
  }
  return {};
}

Result<ProcessHandle> SourceHost::slow_down(unsigned percent) { return throttle_.set(percent); }

void SourceHost::throttle_died() {
  if (auto lifted = throttle_.lift_dead(); !lifted) {
    log::error("the workload may stand still", {{"workload", spec_.name}, {"reason", lifted.error().what}});
  }
}

Status SourceHost::full_speed() {
  auto lifted = throttle_.lift();
  std::lock_guard lock(results_mutex_);
  throttled_ = throttle_.stood_still();
  return lifted;
}

Status SourceHost::quiesce() {
  Timeline::Span span(timeline_, "quiesce");
  // It has to accept what waits. And what slows it down must have gone before the freeze, which its thaw would undo.
  MOSE_TRY(full_speed());
  // A handshake that passed before new connections were held may wait in front of the stack still, where no listen queue shows it.
  auto taken = wait_receive_backlog(kBacklogBound);
  if (!taken || !*taken) log::info("handshakes may still be on their way into the workload", {{"workload", spec_.name}});
  MOSE_ASSIGN(WaitingConnections left, handover::quiesce(*listen_queues_));
  listen_queues_.reset();
  {
    std::lock_guard lock(results_mutex_);
    packets_.half_open = left.half_open;
  }
  if (left.none()) return {};
  if (left.not_accepted > 0) {
    return fail(fmt::format("{} connections to port {} of {} wait for being accepted and would be lost: move it when it accepts again",
                            left.not_accepted, left.port, spec_.name));
  }
  // Clients that never finish their handshake must not keep a workload from moving.
  log::warn("half-open connections are not moved", {{"workload", spec_.name}, {"connections", left.half_open}});
  return {};
}

// A thread of the workload in our hands is one that no dump could take out of them. Before anybody has to wait.
Status SourceHost::wait_for_borrowed() const {
  MOSE_ASSIGN(std::vector<pid_t> pids, cgroup_.procs());
  if (wait_for_borrowed_threads(kBorrowedBound, pids)) return {};
  return fail(fmt::format("a thread of {} that was borrowed to track what it writes has had no processor for {:.0f} s: give it more of the "
                          "processor, or migrate with --tracker hash",
                          spec_.name, to_ms(kBorrowedBound) / 1000));
}

// A debugger that has come since the preflight: CRIU could not take the tree out of its hands, and would find that out
// while the workload stands still.
Status SourceHost::check_untraced() {
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
  MOSE_ASSIGN(debuggers_, tracers_of(tree));
  if (debuggers_.empty()) {
    MOSE_ASSIGN(pid_t traced, first_traced(tree));
    if (traced == 0) return {};
    return fail(fmt::format("a process outside of this agent's pid namespace has begun to trace {} (thread {}): detach it and migrate again",
                            spec_.name, traced));
  }
  const pid_t tracer = *debuggers_.begin();
  auto name = read_file(fmt::format("/proc/{}/comm", tracer));
  std::string command = name ? name->substr(0, name->find('\n')) : "a process";
  return fail(
      fmt::format("{} (pid {}) has begun to trace {}: detach it and migrate again", command, tracer, spec_.name));
}

Status SourceHost::freeze() {
  MOSE_TRY(check_untraced());
  {
    Timeline::Span span(timeline_, "hold");
    MOSE_TRY(network_->hold(handover::Direction::ingress, ingress_queue_->tap_ifindex()));
  }
  Timeline::Span span(timeline_, "freeze");
  MOSE_TRY(freeze_outside_vfork());
  return wait_for_passed_frames();
}

// Who has called vfork() sleeps until its child has started a program, and nothing but that wakes it: CRIU would try to stop it for all
// of its time while the child stands still. So the tree runs on for a moment.
Status SourceHost::freeze_outside_vfork() {
  const Timestamp deadline = now() + kVforkBound;
  for (Nanoseconds pause = kVforkFirst;; pause = std::min(2 * pause, kVforkMax)) {
    MOSE_TRY(cgroup_.freeze(kFreezeBound));
    MOSE_ASSIGN(std::vector<pid_t> tree, cgroup_.procs());
    auto vforked = first_vforked(tree);
    if (!vforked) log::info("who is between vfork and exec is not known", {{"workload", spec_.name}, {"reason", vforked.error().what}});
    if (!vforked || *vforked == 0) return {};
    if (now() >= deadline) {
      return fail(fmt::format("process {} of {} runs in the memory of the one that has started it by vfork(), still after {:.0f} ms: no dump can "
                              "take these two; migrate again when it has started its program or ended, and not at all where it does neither",
                              *vforked, spec_.name, to_ms(kVforkBound)));
    }
    MOSE_TRY(cgroup_.thaw());
    std::this_thread::sleep_for(pause);
  }
}

// A frame that passed before the hold must be in its socket before the dump reads that: it would be acknowledged to the
// client and be in nobody's queue, and the connection would wait for it for ever.
Status SourceHost::wait_for_passed_frames() {
  auto taken = wait_receive_backlog(kBacklogBound);
  if (taken && *taken) return {};
  log::warn("frames may still be on their way into the workload: what it would answer is dropped, and comes again",
            {{"workload", spec_.name}, {"reason", taken ? "the CPUs' receive queues do not run dry" : taken.error().what}});
  return network_->shut(handover::Direction::egress, false);
}

// After a restart: the packets that the agent before us held.
Status SourceHost::adopt_queue() {
  if (ingress_queue_) return {};
  MOSE_ASSIGN(ingress_queue_, handover::HoldQueue::adopt_held(network_->steering(), handover::Direction::ingress,
                                                              migration_paths(config_, id_).ingress_holder));
  return {};
}

Status SourceHost::resume() {
  MOSE_TRY(full_speed());
  set_dump({});  // a CRIU that is still there gives up and cleans the tasks up
  if (!tree_alive()) return remove_rest(LeftNetwork::ends);
  if (!init_) return fail(fmt::format("the first process of {} has ended, and others are left in {}", spec_.name, workload_paths(config_, spec_.name).cgroup));
  // Nothing was held or stopped; what a signal of others has stopped stays so.
  if (!may_be_held_) {
    ingress_queue_.reset();
    return {};
  }
  return resume_tree();
}

// Only what is known to have ended has ended: the rest of such a tree is removed.
bool SourceHost::tree_alive() const {
  if (init_ && init_->alive()) return true;
  auto cgroup = Cgroup::open(workload_paths(config_, spec_.name).cgroup);
  if (!cgroup) return cgroup.error().code != ENOENT;
  auto populated = cgroup->populated();
  return populated ? *populated : populated.error().code != ENODEV;  // removed meanwhile
}

// Of a tree that has ended by itself.
Status SourceHost::remove_rest(LeftNetwork network) {
  ingress_queue_.reset();
  network_.reset();
  netns_.reset();
  cgroup_ = {};
  return remove_workload_resources(config_, spec_, kExitBound, network);
}

Status SourceHost::resume_tree() {
  Timeline::Span span(timeline_, "resume");
  if (!network_) MOSE_TRY(open_network());
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
  // The CRIU of an agent that has died cleans up as well, in its own time.
  {
    Timeline::Span let_go(timeline_, "let_go");
    MOSE_TRY(wait_untraced(tree, config_.limits.dump_time_max, debuggers_));
  }
  MOSE_TRY(network_->pass(handover::Direction::egress));
  MOSE_ASSIGN(RepairCount repaired, set_tcp_repair(tree, false));
  if (repaired.failed > 0) log::warn("sockets stay in repair mode", {{"workload", spec_.name}, {"sockets", repaired.failed}});
  // CRIU leaves a tree that it has finished dumping stopped by a signal: it would stay so after the thaw. Others must not see
  // one, and what was stopped before stays so.
  for (const ProcessHandle& process : tree) {
    if (!stopped_before_.contains(process.pid()) && stopped_by_signal(process)) (void)process.signal(SIGCONT);
  }
  MOSE_TRY(cgroup_.thaw());
  Timeline::Span reopen(timeline_, "reopen");
  MOSE_TRY(adopt_queue());
  MOSE_ASSIGN(auto policy, network_->steering().policy(handover::Direction::ingress));
  MOSE_ASSIGN(uint64_t waiting, network_->steering().queued_now(handover::Direction::ingress));
  // Where a hold has expired in the meantime, what it held is late, not lost.
  if (policy.state == handover::SteerState::pass && (waiting == 0 || !ingress_queue_)) {
    ingress_queue_.reset();
    return {};
  }
  if (!ingress_queue_) return network_->pass(handover::Direction::ingress);  // what was held is gone
  MOSE_TRY(network_->drain_to_pass(handover::Direction::ingress));
  MOSE_ASSIGN(bool drained, ingress_queue_->drain(network_->steering(), kDrainBound));
  if (!drained) return fail("held packets of " + spec_.name + " did not drain");
  timeline_.end("standby_pause");
  count_packets();
  ingress_queue_.reset();
  return {};
}

// Nothing of ours waits any more, so that no frame can be overtaken. TC goes on redirecting what does not come by the
// uplink, and everything where this fails.
void SourceHost::redirect_at_uplink(const handover::PeerPath& peer) {
  xdp_before_ = uplink_.redirected(spec_);
  auto put = uplink_.redirect(spec_, peer);
  if (put) at_xdp_ = *put;
  else log::warn("stragglers are redirected at TC alone", {{"workload", spec_.name}, {"reason", put.error().what}});
}

Status SourceHost::redirect(const handover::PeerPath& peer, SteerLayer layer) {
  if (!network_ && !tree_alive()) return {};  // its network has ended with it, and what was held there
  {
    Timeline::Span span(timeline_, "drain");
    if (!network_) MOSE_TRY(open_network());
    MOSE_TRY(adopt_queue());
    tunnel_ = peer.tunnel;
    if (auto taken = uplink_.leaves(spec_); !taken) {
      log::warn("XDP goes on taking what is redirected to us", {{"workload", spec_.name}, {"reason", taken.error().what}});
    }
    MOSE_TRY(network_->drain_to_peer(peer));
    if (ingress_queue_) {
      MOSE_ASSIGN(bool drained, ingress_queue_->drain(network_->steering(), kDrainBound));
      count_packets();
      if (!drained) return fail("held packets of " + spec_.name + " did not drain to the destination");
    }
    if (layer != SteerLayer::tc) redirect_at_uplink(peer);
  }
  return {};
}

void SourceHost::settle_redirection() {
  if (!network_ || at_xdp_) return;  // at XDP hardly anything comes to TC
  if (auto settled = network_->steering().settle_peer(); !settled) {
    log::warn("stragglers are redirected at full cost", {{"workload", spec_.name}, {"reason", settled.error().what}});
  }
}

Status SourceHost::repair_sockets() const {
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(*init_));
  MOSE_ASSIGN(RepairCount count, set_tcp_repair(tree, true));
  return count.failed == 0 ? Status{} : fail(fmt::format("{} sockets do not take repair mode", count.failed));
}

Status SourceHost::kill_tree() {
  Timeline::Span span(timeline_, "kill");
  // The other node has these files now: on the way back they are replaced by what is there.
  if (auto marked = mark_copied(workload_paths(config_, spec_.name).state_dir, spec_); !marked) {
    log::warn("on its way back the workload will find files of its own", {{"workload", spec_.name}, {"reason", marked.error().what}});
  }
  // A tree that has died by itself may have left its network to us, with packets that are on their way through it.
  if (!network_ && !tree_alive()) return remove_rest(LeftNetwork::stays);
  count_packets();
  if (tunnel_) MOSE_TRY(keep_away_network(config_, spec_.name, netns_.get()));
  // No FIN and no RST; whatever of the kind there is, egress is shut for it as well.
  if (auto repaired = init_ ? repair_sockets() : Status{}; !repaired)
    log::info("sockets of the tree that has moved die as they are", {{"workload", spec_.name}, {"reason", repaired.error().what}});
  if (auto given = give_memory_back(cgroup_, kGiveBackBound); !given)
    log::info("the memory of the tree that has moved is freed at one go", {{"workload", spec_.name}, {"reason", given.error().what}});
  return cgroup_.end(kExitBound);
}

Status SourceHost::release_network() {
  network_.reset();
  netns_.reset();
  if (!tunnel_) return end_network(config_, spec_.name);
  log::info("packets go on being redirected: `mose steer release` ends it",
            {{"workload", spec_.name}, {"by", format_tunnel(*tunnel_)}});
  return {};
}

Status SourceHost::release() {
  const uint64_t at_xdp = at_xdp_ ? uplink_.redirected(spec_) - xdp_before_ : 0;
  ingress_queue_.reset();
  handover::TapHolder::end_left(migration_paths(config_, id_).ingress_holder);
  (void)remove_wiped(migration_paths(config_, id_).dir);
  MOSE_TRY(release_network());
  if (at_xdp_ && !tunnel_) log::info("the redirection at XDP ends", {{"workload", spec_.name}, {"frames", at_xdp}});
  return cgroup_.valid() ? cgroup_.remove(kExitBound) : Status{};
}

std::map<SpaceId, PageSet> SourceHost::lazy_areas() const {
  std::lock_guard lock(results_mutex_);
  return lazy_areas_;
}

PacketCounts SourceHost::packets() const {
  std::lock_guard lock(results_mutex_);
  return packets_;
}

std::optional<Nanoseconds> SourceHost::throttled() const {
  std::lock_guard lock(results_mutex_);
  return throttled_;
}

void SourceHost::count_packets() {
  auto in = network_->steering().counters(handover::Direction::ingress);
  if (!in) return;
  PacketCounts counts = packets();
  // An agent that takes over knows no beginning to count from.
  if (before_) {
    counts.held = in->held.frames - before_->held.frames;
    // What the queue had to give up counts as drained for the programs, which would wait for it otherwise.
    const uint64_t given_up = ingress_queue_ ? ingress_queue_->stats().lost : 0;
    counts.drained = in->drained - before_->drained - given_up;
    counts.redirected = in->redirected.frames - before_->redirected.frames;
    if (at_xdp_) *counts.redirected += uplink_.redirected(spec_) - xdp_before_;
    // Not counted: what the frozen source itself sends again (the destination has the data), and questions for its link
    // address that the old place must not answer any more.
    auto lost = [](const handover::SteerCounters& c) { return c.dropped() - c.dropped_silent.frames; };
    counts.dropped = lost(*in) - lost(*before_) + given_up;
    counts.overflow = in->dropped_overflow.frames - before_->dropped_overflow.frames;
  }
  if (auto out = network_->steering().counters(handover::Direction::egress)) {
    const auto& passed = out->stamps[static_cast<size_t>(handover::SteerState::pass)];
    if (passed.last_ns != 0) counts.last_out_us = static_cast<int64_t>(passed.last_ns / 1000);
  }
  std::lock_guard lock(results_mutex_);
  packets_ = counts;
}

}  // namespace mose::agent
