// SPDX-License-Identifier: MIT
#include "handover/steering.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"
#include "base/rollback.h"
#include "handover/steering_maps.h"
#include "handover/steering_programs.h"
#include "kernel/bpf_object.h"
#include "kernel/bpf_replace.h"

namespace mose::handover {
namespace {

bool holds(SteerState state) {
  return state == SteerState::hold || state == SteerState::hold_new;
}

bool known(SteerState state) {
  return state >= SteerState::pass && state <= SteerState::hold_new;
}

bool is_zero(const MacAddress& mac) {
  return mac == MacAddress{};
}

// The first rule that `policy` breaks.
Status check(Direction direction, const SteerPolicy& policy) {
  auto bad = [&](std::string_view why) {
    return fail(std::string("steering ") + to_string(direction) + " to " + to_string(policy.state) + ": " +
                std::string(why));
  };
  if (direction == Direction::uplink) return bad("the uplink has counters only");
  if (!known(policy.state)) return bad("unknown state");
  bool drains = policy.state == SteerState::drain;
  if (drains && policy.after_drain != SteerState::pass && policy.after_drain != SteerState::redirect &&
      policy.after_drain != SteerState::shut) {
    return bad("a drain ends in pass, redirect or shut");
  }
  if (policy.deadline && policy.on_expiry != SteerState::pass && policy.on_expiry != SteerState::shut) {
    return bad("a state expires to pass or shut");
  }
  if (policy.deadline && policy.state == SteerState::redirect) return bad("a redirection does not expire");
  if ((holds(policy.state) || drains) && policy.tap_ifindex == 0) return bad("no tap is given");
  if (policy.state == SteerState::redirect || (drains && policy.after_drain == SteerState::redirect)) {
    if (direction != Direction::ingress) return bad("only ingress can be redirected");
    if (policy.peer_ifindex == 0) return bad("no device towards the peer is given");
    if (is_zero(policy.peer_mac) || is_zero(policy.own_mac)) return bad("a MAC address is missing");
    if (auto tunnel = check_tunnel(policy.tunnel); !tunnel) return bad(tunnel.error().what);
  }
  return {};
}

bool same_peer(const mose_steer_policy& a, const mose_steer_policy& b) {
  return a.peer_ifindex == b.peer_ifindex && std::ranges::equal(a.peer_mac, b.peer_mac) &&
         std::ranges::equal(a.own_mac, b.own_mac) && from_kernel(a.tunnel) == from_kernel(b.tunnel);
}

// With the lock the programs go on to the former peer; then none of them reads it without.
Status unsettle_peer(const SteeringMaps& maps, Direction direction, mose_steer_policy current) {
  current.peer_settled = 0;
  MOSE_TRY(maps.set_policy(direction, current));
  return bpf::wait_for_running_programs();
}

// Filters stay when their pins go, and only by these programs are they known to be ours: whatever build has pinned them, and
// whatever it has written into the configuration.
Status detach_filters(const std::string& directory) {
  std::vector<uint32_t> programs;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = item.path().filename();
    // The second: an agent died while it replaced the first.
    if (!name.starts_with("program_") && !name.starts_with("next_program_")) continue;
    MOSE_ASSIGN(Fd program, bpf::open_pinned(item.path()));
    MOSE_ASSIGN(uint32_t id, bpf::program_id(program.get()));
    programs.push_back(id);
  }
  return programs.empty() ? Status{} : bpf::detach_clsact(programs);
}

}  // namespace

const char* to_string(Direction direction) {
  switch (direction) {
    case Direction::ingress:
      return "ingress";
    case Direction::egress:
      return "egress";
    case Direction::uplink:
      return "uplink";
  }
  return "?";
}

const char* to_string(SteerState state) {
  switch (state) {
    case SteerState::pass:
      return "pass";
    case SteerState::hold:
      return "hold";
    case SteerState::drain:
      return "drain";
    case SteerState::redirect:
      return "redirect";
    case SteerState::shut:
      return "shut";
    case SteerState::hold_new:
      return "hold-new";
  }
  return "?";
}

const char* to_string(TcAttach attach) {
  switch (attach) {
    case TcAttach::automatic:
      return "auto";
    case TcAttach::tcx:
      return "tcx";
    case TcAttach::clsact:
      return "clsact";
  }
  return "?";
}

Steering::Steering(SteeringConfig config, std::unique_ptr<SteeringMaps> maps)
    : config_(std::move(config)), maps_(std::move(maps)) {}
Steering::Steering(Steering&&) noexcept = default;
Steering& Steering::operator=(Steering&&) noexcept = default;
Steering::~Steering() = default;

Result<Steering> Steering::attach(const SteeringConfig& wanted) {
  std::string where = "steering of " + wanted.workload;
  if (wanted.host_ifindex == 0) return fail(where + ": no device");
  std::string directory = pin_directory(wanted.bpffs, wanted.workload);
  if (pinned(wanted.bpffs, wanted.workload)) return fail(where + ": pins exist already in " + directory);
  SteeringConfig config = wanted;
  MOSE_ASSIGN(config.attach, choose_attach(wanted.attach));

  auto loaded = load_programs(config);
  if (!loaded) return context(where, loaded.error());
  steer_tc& skeleton = **loaded;
  auto maps = std::make_unique<SteeringMaps>();
  MOSE_ASSIGN(maps->services, duplicate(bpf_map__fd(skeleton.maps.mose_services)));
  MOSE_ASSIGN(maps->queues, duplicate(bpf_map__fd(skeleton.maps.mose_queues)));
  MOSE_ASSIGN(maps->drained, duplicate(bpf_map__fd(skeleton.maps.mose_drained)));
  MOSE_ASSIGN(maps->drained_bytes, duplicate(bpf_map__fd(skeleton.maps.mose_drained_bytes)));
  MOSE_ASSIGN(maps->counts, duplicate(bpf_map__fd(skeleton.maps.mose_counts)));
  MOSE_ASSIGN(maps->tap_program, duplicate(bpf_program__fd(skeleton.progs.steer_tap)));
  MOSE_TRY(maps->complete());

  // Shut and silent before the first program can see a frame.
  SteerPolicy closed{.state = SteerState::shut, .silent = true};
  MOSE_TRY(maps->set_policy(Direction::ingress, to_kernel(closed, {})));
  MOSE_TRY(maps->set_policy(Direction::egress, to_kernel(closed, {})));

  Rollback rollback;
  rollback.push([&] { (void)remove_pins(config.bpffs, config.workload); });
  const struct {
    const char* name;
    int fd;
  } objects[] = {
      {"services", maps->services.get()},
      {"queues", maps->queues.get()},
      {"drained", maps->drained.get()},
      {"drained_bytes", maps->drained_bytes.get()},
      {"counts", maps->counts.get()},
      {"tap_program", maps->tap_program.get()},
      {"config", bpf_map__fd(skeleton.maps.rodata)},
  };
  for (const auto& object : objects) MOSE_TRY(bpf::pin(object.fd, directory + "/" + object.name));

  const std::vector<ProgramPlace> places = places_of(config);
  const std::vector<int> programs = programs_of(skeleton, config);
  for (size_t i = 0; i < places.size(); ++i) {
    const ProgramPlace& place = places[i];
    const int program = programs[i];
    if (config.attach == TcAttach::clsact) {
      MOSE_TRY(bpf::pin(program, directory + "/program_" + place.name));
      MOSE_TRY(bpf::attach_clsact(program, place.ifindex, place.point, config.host_ifindex));
    } else {
      MOSE_ASSIGN(Fd link, bpf::attach_tcx(program, place.ifindex, place.point));
      MOSE_TRY(bpf::pin(link.get(), directory + "/link_" + place.name));
    }
  }
  rollback.commit();
  return Steering(config, std::move(maps));
}

bool Steering::pinned(const std::string& bpffs, const std::string& workload) {
  struct stat exists{};
  return stat(pin_directory(bpffs, workload).c_str(), &exists) == 0;
}

Result<Steering> Steering::adopt(const std::string& bpffs, const std::string& workload) {
  bpf::capture_libbpf_log();
  std::string directory = pin_directory(bpffs, workload) + "/";
  MOSE_ASSIGN(SteeringConfig config, pinned_config(bpffs, workload));
  auto maps = std::make_unique<SteeringMaps>();
  MOSE_ASSIGN(maps->services, bpf::open_pinned(directory + "services"));
  MOSE_ASSIGN(maps->queues, bpf::open_pinned(directory + "queues"));
  MOSE_ASSIGN(maps->drained, bpf::open_pinned(directory + "drained"));
  MOSE_ASSIGN(maps->drained_bytes, bpf::open_pinned(directory + "drained_bytes"));
  MOSE_ASSIGN(maps->counts, bpf::open_pinned(directory + "counts"));
  MOSE_ASSIGN(maps->tap_program, bpf::open_pinned(directory + "tap_program"));
  MOSE_TRY(expect_size(maps->services.get(), sizeof(mose_steer_policy), "services"));
  MOSE_TRY(expect_size(maps->queues.get(), sizeof(mose_steer_queue), "queues"));
  MOSE_TRY(expect_size(maps->drained.get(), sizeof(mose_steer_drained), "drained"));
  MOSE_TRY(expect_size(maps->drained_bytes.get(), sizeof(mose_steer_drained_bytes), "drained_bytes"));
  MOSE_TRY(expect_size(maps->counts.get(), sizeof(mose_steer_counts), "counts"));
  const char* kind = config.attach == TcAttach::clsact ? "program_" : "link_";
  for (const char* name : {"ingress", "egress"}) MOSE_TRY(bpf::open_pinned(directory + kind + name));
  MOSE_TRY(maps->complete());
  return Steering(std::move(config), std::move(maps));
}

Status Steering::remove_pins(const std::string& bpffs, const std::string& workload) {
  const std::string directory = pin_directory(bpffs, workload);
  MOSE_TRY(detach_filters(directory));
  return bpf::unpin_directory(directory);
}

Status Steering::remove() {
  Status status = remove_pins(config_.bpffs, config_.workload);
  maps_.reset();
  return status;
}

int Steering::tap_program() const {
  return maps_->tap_program.get();
}

Status Steering::set(Direction direction, const SteerPolicy& policy) {
  MOSE_CHECK(maps_ != nullptr, "steering used after remove()");
  MOSE_TRY(check(direction, policy));
  MOSE_ASSIGN(mose_steer_policy current, maps_->policy(direction));
  if (holds(policy.state) && !holds(static_cast<SteerState>(current.state))) {
    MOSE_ASSIGN(uint64_t left, maps_->in_tap(direction));
    if (left > 0 && current.state == MOSE_STEER_DRAIN) {
      return fail(std::string("a new hold of ") + to_string(direction) + " must wait until the last one has drained: " +
                  std::to_string(left) + " frames are still in the tap");
    }
    if (left > 0) write_off(direction);  // of a hold that was never drained
    MOSE_TRY(maps_->level(direction));
  }
  mose_steer_policy next = to_kernel(policy, current);
  if (current.peer_settled != 0) {
    if (same_peer(current, next))
      next.peer_settled = 1;
    else
      MOSE_TRY(unsettle_peer(*maps_, direction, current));
  }
  MOSE_TRY(maps_->set_policy(direction, next));
  // After the change: until then frames go on being counted as held.
  if (policy.state == SteerState::drain && !maps_->device_exists(policy.tap_ifindex)) write_off(direction);
  return {};
}

Status Steering::settle_peer() {
  MOSE_CHECK(maps_ != nullptr, "steering used after remove()");
  MOSE_ASSIGN(SteerPolicy now_there, policy(Direction::ingress));
  if (now_there.state != SteerState::redirect) return {};
  // Whatever CPU a program runs on from here, it sees the peer that was set.
  MOSE_TRY(bpf::wait_for_running_programs());
  MOSE_ASSIGN(mose_steer_policy current, maps_->policy(Direction::ingress));
  current.peer_settled = 1;
  return maps_->set_policy(Direction::ingress, current);
}

// While draining new ones may be counted until the count is level.
uint64_t Steering::write_off(Direction direction) {
  uint64_t lost = 0;
  for (auto left = maps_->in_tap(direction); left && *left > 0; left = maps_->in_tap(direction)) {
    add_drained(direction, *left, 0);
    lost += *left;
  }
  if (lost == 0) return 0;
  log::warn("held frames were lost with their queue",
            {{"workload", config_.workload}, {"direction", to_string(direction)}, {"frames", lost}});
  return lost;
}

Status Steering::set_state(Direction direction, SteerState state) {
  MOSE_ASSIGN(SteerPolicy wanted, policy(direction));
  wanted.state = state;
  return set(direction, wanted);
}

Status Steering::shut(Direction direction, bool silent) {
  MOSE_ASSIGN(SteerPolicy wanted, policy(direction));
  wanted.deadline.reset();
  wanted.state = SteerState::shut;
  wanted.silent = silent;
  return set(direction, wanted);
}

Status Steering::take_from(const std::optional<Tunnel>& tunnel) {
  MOSE_CHECK(maps_ != nullptr, "steering used after remove()");
  MOSE_TRY(check_tunnel(tunnel));
  MOSE_ASSIGN(mose_steer_policy policy, maps_->policy(Direction::uplink));
  policy.tunnel = to_kernel(tunnel);
  return maps_->set_policy(Direction::uplink, policy);
}

Result<std::optional<Tunnel>> Steering::taken_from() const {
  MOSE_ASSIGN(mose_steer_policy policy, maps_->policy(Direction::uplink));
  return from_kernel(policy.tunnel);
}

Result<SteerPolicy> Steering::policy(Direction direction) const {
  MOSE_ASSIGN(mose_steer_policy value, maps_->policy(direction));
  SteerPolicy policy = from_kernel(value);
  if (policy.deadline && now() >= *policy.deadline) {
    policy.expired = policy.state;
    policy.state = policy.on_expiry;
    policy.since = policy.deadline;
    policy.deadline.reset();
  }
  if (policy.state == SteerState::drain) {
    MOSE_ASSIGN(uint64_t left, maps_->in_tap(direction));
    if (left == 0) policy.state = policy.after_drain;
  }
  return policy;
}

Result<uint64_t> Steering::queued_now(Direction direction) const {
  return maps_->in_tap(direction);
}

Result<uint64_t> Steering::held_now(Direction direction) const {
  MOSE_ASSIGN(mose_steer_policy current, maps_->policy(direction));
  if (!maps_->device_exists(current.tap_ifindex)) return 0;
  return maps_->in_tap(direction);
}

// The programs may end the drain between the two: then it begins once more, and ends with the next frame, since nothing waits.
Status Steering::bound_drain(Direction direction, uint32_t frames) {
  MOSE_ASSIGN(mose_steer_policy current, maps_->policy(direction));
  if (current.state != MOSE_STEER_DRAIN) return {};
  current.drain_packets_max = frames;
  return maps_->set_policy(direction, current);
}

void Steering::add_drained(Direction direction, uint64_t frames, uint64_t bytes) {
  maps_->bytes(direction).fetch_add(bytes, std::memory_order_relaxed);
  maps_->frames(direction).fetch_add(frames, std::memory_order_release);
}

Result<TcAttach> steering_supported() {
  return choose_attach(TcAttach::automatic);
}

}  // namespace mose::handover
