// SPDX-License-Identifier: MIT
#include "handover/steering.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "base/rollback.h"
#include "kernel/bpf_object.h"
#include "mose/bpf/steer.h"
#include "steer_tc.skel.h"

namespace mose::handover {
namespace {

constexpr size_t kDrainedSize = 4096;  // an array map is mapped in whole pages

uint32_t key_of(Direction direction) {
  return static_cast<uint32_t>(direction);
}

std::string pin_directory(const std::string& bpffs, const std::string& workload) {
  return bpffs + "/mose/" + workload;
}

bool holds(SteerState state) {
  return state == SteerState::hold || state == SteerState::hold_new;
}

bool known(SteerState state) {
  return state >= SteerState::pass && state <= SteerState::hold_new;
}

bool is_zero(const MacAddress& mac) {
  return mac == MacAddress{};
}

mose_steer_policy to_kernel(const SteerPolicy& policy, uint32_t epoch) {
  mose_steer_policy out{};
  out.state = static_cast<mose_steer_state>(policy.state);
  out.after_drain = static_cast<mose_steer_state>(policy.after_drain);
  out.epoch = epoch;
  out.silent = policy.silent ? 1 : 0;
  out.on_expiry = static_cast<mose_steer_state>(policy.on_expiry);
  if (policy.deadline) out.deadline_ns = static_cast<uint64_t>(policy.deadline->time_since_epoch().count());
  out.tap_ifindex = policy.tap_ifindex;
  out.peer_ifindex = policy.peer_ifindex;
  std::copy(policy.peer_mac.begin(), policy.peer_mac.end(), out.peer_mac);
  std::copy(policy.own_mac.begin(), policy.own_mac.end(), out.own_mac);
  out.hold_packets_max = policy.hold_packets_max;
  out.hold_bytes_max = policy.hold_bytes_max;
  return out;
}

SteerPolicy from_kernel(const mose_steer_policy& in) {
  SteerPolicy policy;
  policy.state = static_cast<SteerState>(in.state);
  policy.after_drain = static_cast<SteerState>(in.after_drain);
  policy.silent = in.silent != 0;
  policy.on_expiry = static_cast<SteerState>(in.on_expiry);
  if (in.deadline_ns != 0) policy.deadline = Timestamp(Nanoseconds(in.deadline_ns));
  if (in.expired != 0) policy.expired = static_cast<SteerState>(in.expired);
  policy.tap_ifindex = in.tap_ifindex;
  policy.peer_ifindex = in.peer_ifindex;
  std::copy(std::begin(in.peer_mac), std::end(in.peer_mac), policy.peer_mac.begin());
  std::copy(std::begin(in.own_mac), std::end(in.own_mac), policy.own_mac.begin());
  policy.hold_packets_max = in.hold_packets_max;
  policy.hold_bytes_max = in.hold_bytes_max;
  return policy;
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
  }
  return {};
}

struct SkeletonFree {
  void operator()(steer_tc* skeleton) const { steer_tc__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<steer_tc, SkeletonFree>;

// Links or filters: as asked for, as the environment says, as the kernel can.
Result<TcAttach> choose_attach(TcAttach wanted) {
  if (wanted != TcAttach::automatic) return wanted;
  if (const char* forced = getenv("MOSE_TC_ATTACH"); forced != nullptr && *forced != 0) {
    if (std::string_view(forced) == "tcx") return TcAttach::tcx;
    if (std::string_view(forced) == "clsact") return TcAttach::clsact;
    return fail(std::string("MOSE_TC_ATTACH is \"") + forced + "\": tcx or clsact");
  }
  return bpf::probe_tcx() ? TcAttach::tcx : TcAttach::clsact;
}

Status fill_config(mose_steer_config& out, const SteeringConfig& config) {
  if (config.addresses.empty() || config.addresses.size() > MOSE_STEER_SERVICES_MAX) {
    return fail("steering takes 1 to " + std::to_string(MOSE_STEER_SERVICES_MAX) + " addresses, not " +
                std::to_string(config.addresses.size()));
  }
  out.version = MOSE_STEER_VERSION;
  out.services_count = static_cast<uint32_t>(config.addresses.size());
  for (size_t i = 0; i < config.addresses.size(); ++i) {
    const ServiceAddress& address = config.addresses[i];
    out.services[i].family = address.family == AF_INET ? 4 : 6;
    std::copy(address.bytes.begin(), address.bytes.end(), out.services[i].address);
  }
  out.host_ifindex = config.host_ifindex;
  out.uplink_ifindex = config.uplink_ifindex;
  std::copy(config.mac.begin(), config.mac.end(), out.service_mac);
  std::copy(config.uplink_mac.begin(), config.uplink_mac.end(), out.uplink_mac);
  out.attach = config.attach == TcAttach::clsact ? MOSE_STEER_CLSACT : MOSE_STEER_TCX;
  return {};
}

// Where the programs sit; names end up in those of the pins.
struct Place {
  const char* name;
  unsigned ifindex;
  bpf::TcPoint point;
};
std::vector<Place> places_of(const SteeringConfig& config) {
  std::vector<Place> places{{"ingress", config.host_ifindex, bpf::TcPoint::egress},
                            {"egress", config.host_ifindex, bpf::TcPoint::ingress}};
  if (config.uplink_ifindex != 0) places.push_back({"uplink", config.uplink_ifindex, bpf::TcPoint::ingress});
  return places;
}

Result<Skeleton> load(const SteeringConfig& config) {
  bpf::capture_libbpf_log();
  Skeleton skeleton(steer_tc__open());
  if (!skeleton) return bpf::fail_libbpf("open the steering programs", errno);
  // The read-only section is ours until loaded; the skeleton declares it const.
  mose_steer_config fixed{};
  MOSE_TRY(fill_config(fixed, config));
  std::memcpy(const_cast<mose_steer_config*>(&skeleton->rodata->mose_config), &fixed, sizeof fixed);
  if (int code = steer_tc__load(skeleton.get()); code < 0) return bpf::fail_libbpf("load the steering programs", code);
  return skeleton;
}

// A value of a map must have the size this agent knows, else reading would overrun or misread it.
Status expect_size(int map, size_t size, const std::string& name) {
  MOSE_ASSIGN(uint32_t actual, bpf::map_value_size(map));
  if (actual == size) return {};
  return fail("pinned map " + name + " is of another version (" + std::to_string(actual) + " bytes instead of " +
              std::to_string(size) + ")");
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

std::string_view reason_name(size_t reason) {
  switch (reason) {
    case MOSE_STEER_R_PASSED:
      return "passed";
    case MOSE_STEER_R_HELD:
      return "held";
    case MOSE_STEER_R_REINJECTED:
      return "reinjected";
    case MOSE_STEER_R_REDIRECTED:
      return "redirected";
    case MOSE_STEER_R_DROP_SHUT:
      return "drop-shut";
    case MOSE_STEER_R_DROP_OVERFLOW:
      return "drop-overflow";
    case MOSE_STEER_R_DROP_PARSE:
      return "drop-parse";
    case MOSE_STEER_R_DROP_SILENT:
      return "drop-silent";
    case MOSE_STEER_R_DROP_OTHER:
      return "drop-other";
    case MOSE_STEER_R_DROP_LOOP:
      return "drop-loop";
    case MOSE_STEER_R_DROP_REWRITE:
      return "drop-rewrite";
    case MOSE_STEER_R_TAKEN:
      return "taken";
    default:
      return "";
  }
}

uint64_t SteerCounters::dropped() const {
  return dropped_shut.frames + dropped_overflow.frames + dropped_parse.frames + dropped_silent.frames +
         dropped_other.frames + dropped_loop.frames + dropped_rewrite.frames;
}

struct Steering::Kernel {
  Fd services, queues, drained, counts, tap_program;
  Fd socket;                           // of the node's network namespace, whoever calls later
  uint64_t* drained_frames = nullptr;  // mapped, one per direction
  unsigned cpus = 0;

  Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() {
    if (drained_frames != nullptr) munmap(drained_frames, kDrainedSize);
  }

  Status complete() {
    socket = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("socket");
    void* page = mmap(nullptr, kDrainedSize, PROT_READ | PROT_WRITE, MAP_SHARED, drained.get(), 0);
    if (page == MAP_FAILED) return fail_errno("map the drain counters");
    drained_frames = static_cast<uint64_t*>(page);
    MOSE_ASSIGN(cpus, bpf::possible_cpus());
    return {};
  }
  // Without the routing lock, which others may hold for milliseconds.
  [[nodiscard]] bool device_exists(unsigned ifindex) const {
    ifreq request{};
    request.ifr_ifindex = static_cast<int>(ifindex);
    return ioctl(socket.get(), SIOCGIFNAME, &request) == 0 || errno != ENODEV;
  }
  // Release: whoever sees the count sees the frames delivered.
  [[nodiscard]] std::atomic_ref<uint64_t> frames(Direction direction) const {
    return std::atomic_ref<uint64_t>(drained_frames[key_of(direction)]);
  }
  [[nodiscard]] Result<mose_steer_policy> policy(Direction direction) const {
    mose_steer_policy value{};
    uint32_t key = key_of(direction);
    MOSE_TRY(bpf::map_lookup(services.get(), &key, &value, bpf::kMapLocked));
    return value;
  }
  [[nodiscard]] Status set_policy(Direction direction, const mose_steer_policy& value) const {
    uint32_t key = key_of(direction);
    return bpf::map_update(services.get(), &key, &value, bpf::kMapLocked);
  }
  [[nodiscard]] Result<uint64_t> queued(Direction direction) const {
    mose_steer_queue value{};
    uint32_t key = key_of(direction);
    MOSE_TRY(bpf::map_lookup(queues.get(), &key, &value));
    return value.queued;
  }
  [[nodiscard]] Result<std::vector<mose_steer_counts>> counts_of(Direction direction, uint32_t slot) const {
    static_assert(sizeof(mose_steer_counts) % 8 == 0, "the kernel rounds each CPU's value up to 8 bytes");
    std::vector<mose_steer_counts> each(cpus);
    uint32_t key = MOSE_STEER_COUNTS_KEY(key_of(direction), slot);
    MOSE_TRY(bpf::map_lookup(counts.get(), &key, each.data()));
    return each;
  }
  [[nodiscard]] Result<uint64_t> in_tap(Direction direction) const {
    // Drained first: it never passes queued, so that the difference cannot be negative.
    uint64_t gone = frames(direction).load(std::memory_order_acquire);
    MOSE_ASSIGN(uint64_t given, queued(direction));
    return given > gone ? given - gone : 0;
  }
  // Frames written off that came in the end have been counted twice: the next hold would end so many too early.
  [[nodiscard]] Status level(Direction direction) const {
    MOSE_ASSIGN(uint64_t given, queued(direction));
    frames(direction).store(given, std::memory_order_release);
    return {};
  }
};

Steering::Steering(SteeringConfig config, std::unique_ptr<Kernel> kernel)
    : config_(std::move(config)), kernel_(std::move(kernel)) {}
Steering::Steering(Steering&&) noexcept = default;
Steering& Steering::operator=(Steering&&) noexcept = default;
Steering::~Steering() = default;

Result<Steering> Steering::attach(const SteeringConfig& wanted) {
  std::string where = "steering of " + wanted.workload;
  if (wanted.host_ifindex == 0) return fail(where + ": no device");
  std::string directory = pin_directory(wanted.bpffs, wanted.workload);
  struct stat exists {};
  if (stat(directory.c_str(), &exists) == 0) return fail(where + ": pins exist already in " + directory);
  SteeringConfig config = wanted;
  MOSE_ASSIGN(config.attach, choose_attach(wanted.attach));

  auto loaded = load(config);
  if (!loaded) return context(where, loaded.error());
  steer_tc& skeleton = **loaded;
  auto kernel = std::make_unique<Kernel>();
  MOSE_ASSIGN(kernel->services, duplicate(bpf_map__fd(skeleton.maps.mose_services)));
  MOSE_ASSIGN(kernel->queues, duplicate(bpf_map__fd(skeleton.maps.mose_queues)));
  MOSE_ASSIGN(kernel->drained, duplicate(bpf_map__fd(skeleton.maps.mose_drained)));
  MOSE_ASSIGN(kernel->counts, duplicate(bpf_map__fd(skeleton.maps.mose_counts)));
  MOSE_ASSIGN(kernel->tap_program, duplicate(bpf_program__fd(skeleton.progs.steer_tap)));
  MOSE_TRY(kernel->complete());

  // Shut and silent before the first program can see a frame.
  SteerPolicy closed{.state = SteerState::shut, .silent = true};
  MOSE_TRY(kernel->set_policy(Direction::ingress, to_kernel(closed, 1)));
  MOSE_TRY(kernel->set_policy(Direction::egress, to_kernel(closed, 1)));

  Rollback rollback;
  rollback.push([&] { (void)remove_pins(config.bpffs, config.workload); });
  const struct {
    const char* name;
    int fd;
  } objects[] = {
      {"services", kernel->services.get()},       {"queues", kernel->queues.get()},
      {"drained", kernel->drained.get()},         {"counts", kernel->counts.get()},
      {"tap_program", kernel->tap_program.get()}, {"config", bpf_map__fd(skeleton.maps.rodata)},
  };
  for (const auto& object : objects) MOSE_TRY(bpf::pin(object.fd, directory + "/" + object.name));

  const bpf_program* programs[] = {skeleton.progs.steer_ingress, skeleton.progs.steer_egress,
                                   skeleton.progs.steer_uplink};
  std::vector<Place> places = places_of(config);
  for (size_t i = 0; i < places.size(); ++i) {
    const Place& place = places[i];
    int program = bpf_program__fd(programs[i]);
    if (config.attach == TcAttach::clsact) {
      MOSE_TRY(bpf::pin(program, directory + "/program_" + place.name));
      MOSE_TRY(bpf::attach_clsact(program, place.ifindex, place.point, config.host_ifindex));
    } else {
      MOSE_ASSIGN(Fd link, bpf::attach_tcx(program, place.ifindex, place.point));
      MOSE_TRY(bpf::pin(link.get(), directory + "/link_" + place.name));
    }
  }
  rollback.commit();
  return Steering(config, std::move(kernel));
}

namespace {

// What attach() has fixed.
Result<SteeringConfig> pinned_config(const std::string& bpffs, const std::string& workload) {
  std::string directory = pin_directory(bpffs, workload) + "/";
  MOSE_ASSIGN(Fd fixed, bpf::open_pinned(directory + "config"));
  MOSE_TRY(expect_size(fixed.get(), sizeof(mose_steer_config), "config"));
  mose_steer_config in{};
  uint32_t zero = 0;
  MOSE_TRY(bpf::map_lookup(fixed.get(), &zero, &in));
  if (in.version != MOSE_STEER_VERSION || in.services_count > MOSE_STEER_SERVICES_MAX) {
    return fail("pinned steering of " + workload + " has version " + std::to_string(in.version) +
                ", this agent knows " + std::to_string(MOSE_STEER_VERSION));
  }
  SteeringConfig config{.workload = workload, .bpffs = bpffs};
  config.attach = static_cast<TcAttach>(in.attach);
  config.host_ifindex = in.host_ifindex;
  config.uplink_ifindex = in.uplink_ifindex;
  std::copy(std::begin(in.service_mac), std::end(in.service_mac), config.mac.begin());
  std::copy(std::begin(in.uplink_mac), std::end(in.uplink_mac), config.uplink_mac.begin());
  for (uint32_t i = 0; i < in.services_count; ++i) {
    ServiceAddress address{.family = in.services[i].family == 4 ? AF_INET : AF_INET6,
                           .prefix = in.services[i].family == 4 ? 32u : 128u};
    std::copy(std::begin(in.services[i].address), std::end(in.services[i].address), address.bytes.begin());
    config.addresses.push_back(address);
  }
  return config;
}

// Filters stay when their pins go. Those of a device that is gone went with it.
void detach_filters(const SteeringConfig& config) {
  for (const Place& place : places_of(config)) {
    auto program = bpf::open_pinned(pin_directory(config.bpffs, config.workload) + "/program_" + place.name);
    if (!program) continue;
    auto detached = bpf::detach_clsact(program->get(), place.ifindex, place.point, config.host_ifindex);
    if (!detached) log::warn("a TC filter stays", {{"workload", config.workload}, {"reason", detached.error().what}});
  }
}

}  // namespace

Result<Steering> Steering::adopt(const std::string& bpffs, const std::string& workload) {
  bpf::capture_libbpf_log();
  std::string directory = pin_directory(bpffs, workload) + "/";
  MOSE_ASSIGN(SteeringConfig config, pinned_config(bpffs, workload));
  auto kernel = std::make_unique<Kernel>();
  MOSE_ASSIGN(kernel->services, bpf::open_pinned(directory + "services"));
  MOSE_ASSIGN(kernel->queues, bpf::open_pinned(directory + "queues"));
  MOSE_ASSIGN(kernel->drained, bpf::open_pinned(directory + "drained"));
  MOSE_ASSIGN(kernel->counts, bpf::open_pinned(directory + "counts"));
  MOSE_ASSIGN(kernel->tap_program, bpf::open_pinned(directory + "tap_program"));
  MOSE_TRY(expect_size(kernel->services.get(), sizeof(mose_steer_policy), "services"));
  MOSE_TRY(expect_size(kernel->queues.get(), sizeof(mose_steer_queue), "queues"));
  MOSE_TRY(expect_size(kernel->drained.get(), sizeof(mose_steer_drained), "drained"));
  MOSE_TRY(expect_size(kernel->counts.get(), sizeof(mose_steer_counts), "counts"));
  const char* kind = config.attach == TcAttach::clsact ? "program_" : "link_";
  for (const char* name : {"ingress", "egress"}) MOSE_TRY(bpf::open_pinned(directory + kind + name));
  MOSE_TRY(kernel->complete());
  return Steering(std::move(config), std::move(kernel));
}

Status Steering::remove_pins(const std::string& bpffs, const std::string& workload) {
  auto config = pinned_config(bpffs, workload);
  if (config && config->attach == TcAttach::clsact) detach_filters(*config);
  return bpf::unpin_directory(pin_directory(bpffs, workload));
}

Status Steering::remove() {
  Status status = remove_pins(config_.bpffs, config_.workload);
  kernel_.reset();
  return status;
}

int Steering::tap_program() const {
  return kernel_->tap_program.get();
}

Status Steering::set(Direction direction, const SteerPolicy& policy) {
  MOSE_CHECK(kernel_ != nullptr, "steering used after remove()");
  MOSE_TRY(check(direction, policy));
  MOSE_ASSIGN(mose_steer_policy current, kernel_->policy(direction));
  if (holds(policy.state) && !holds(static_cast<SteerState>(current.state))) {
    MOSE_ASSIGN(uint64_t left, kernel_->in_tap(direction));
    if (left > 0 && current.state == MOSE_STEER_DRAIN) {
      return fail(std::string("a new hold of ") + to_string(direction) + " must wait until the last one has drained: " +
                  std::to_string(left) + " frames are still in the tap");
    }
    if (left > 0) write_off(direction);  // of a hold that was never drained
    MOSE_TRY(kernel_->level(direction));
  }
  MOSE_TRY(kernel_->set_policy(direction, to_kernel(policy, current.epoch + 1)));
  // After the change: until then frames go on being counted as held.
  if (policy.state == SteerState::drain && !kernel_->device_exists(policy.tap_ifindex)) write_off(direction);
  return {};
}

// Frames that nobody can put back any more. While draining new ones may be counted until the count is level.
void Steering::write_off(Direction direction) {
  uint64_t lost = 0;
  for (auto left = kernel_->in_tap(direction); left && *left > 0; left = kernel_->in_tap(direction)) {
    add_drained(direction, *left);
    lost += *left;
  }
  if (lost == 0) return;
  log::warn("held frames were lost with their queue",
            {{"workload", config_.workload}, {"direction", to_string(direction)}, {"frames", lost}});
}

Status Steering::set_state(Direction direction, SteerState state) {
  MOSE_ASSIGN(SteerPolicy wanted, policy(direction));
  wanted.state = state;
  return set(direction, wanted);
}

Result<SteerPolicy> Steering::policy(Direction direction) const {
  MOSE_ASSIGN(mose_steer_policy value, kernel_->policy(direction));
  SteerPolicy policy = from_kernel(value);
  if (policy.deadline && now() >= *policy.deadline) {
    policy.expired = policy.state;
    policy.state = policy.on_expiry;
    policy.deadline.reset();
  }
  if (policy.state == SteerState::drain) {
    MOSE_ASSIGN(uint64_t left, kernel_->in_tap(direction));
    if (left == 0) policy.state = policy.after_drain;
  }
  return policy;
}

Result<uint64_t> Steering::queued_now(Direction direction) const {
  return kernel_->in_tap(direction);
}

void Steering::add_drained(Direction direction, uint64_t frames) {
  kernel_->frames(direction).fetch_add(frames, std::memory_order_release);
}

namespace {

SteerCounters::Stamps stamps_of(const std::vector<mose_steer_counts>& each, size_t state) {
  SteerCounters::Stamps out;
  uint32_t newest = 0;
  for (const auto& counts : each) newest = std::max(newest, counts.stamps[state].epoch);
  for (const auto& counts : each) {
    const mose_steer_stamp& in = counts.stamps[state];
    if (in.epoch != newest || in.first_ns == 0) continue;
    out.first_ns = out.first_ns == 0 ? in.first_ns : std::min<uint64_t>(out.first_ns, in.first_ns);
    out.last_ns = std::max<uint64_t>(out.last_ns, in.last_ns);
  }
  return out;
}

// `each`: of all CPUs, and of one or more slots.
SteerCounters sum_counts(const std::vector<mose_steer_counts>& each) {
  SteerCounters sum;
  for (const mose_steer_counts& counts : each) {
    for (size_t reason = 0; reason < sum.reasons.size(); ++reason) {
      sum.reasons[reason].frames += counts.frames[reason];
      sum.reasons[reason].bytes += counts.bytes[reason];
    }
  }
  sum.passed = sum.reasons[MOSE_STEER_R_PASSED];
  sum.held = sum.reasons[MOSE_STEER_R_HELD];
  sum.reinjected = sum.reasons[MOSE_STEER_R_REINJECTED];
  sum.redirected = sum.reasons[MOSE_STEER_R_REDIRECTED];
  sum.taken = sum.reasons[MOSE_STEER_R_TAKEN];
  sum.dropped_shut = sum.reasons[MOSE_STEER_R_DROP_SHUT];
  sum.dropped_overflow = sum.reasons[MOSE_STEER_R_DROP_OVERFLOW];
  sum.dropped_parse = sum.reasons[MOSE_STEER_R_DROP_PARSE];
  sum.dropped_silent = sum.reasons[MOSE_STEER_R_DROP_SILENT];
  sum.dropped_other = sum.reasons[MOSE_STEER_R_DROP_OTHER];
  sum.dropped_loop = sum.reasons[MOSE_STEER_R_DROP_LOOP];
  sum.dropped_rewrite = sum.reasons[MOSE_STEER_R_DROP_REWRITE];
  for (size_t state = 0; state < sum.stamps.size(); ++state) sum.stamps[state] = stamps_of(each, state);
  return sum;
}

}  // namespace

Result<SteerCounters> Steering::counters(Direction direction) const {
  std::vector<mose_steer_counts> all;
  for (uint32_t slot = 0; slot <= config_.addresses.size(); ++slot) {
    MOSE_ASSIGN(auto each, kernel_->counts_of(direction, slot));
    all.insert(all.end(), each.begin(), each.end());
  }
  SteerCounters sum = sum_counts(all);
  MOSE_ASSIGN(sum.queued, kernel_->queued(direction));
  sum.drained = kernel_->frames(direction).load(std::memory_order_acquire);
  return sum;
}

Result<std::vector<SteerCounters>> Steering::service_counters(Direction direction) const {
  std::vector<SteerCounters> services;
  for (uint32_t slot = 1; slot <= config_.addresses.size(); ++slot) {
    MOSE_ASSIGN(auto each, kernel_->counts_of(direction, slot));
    services.push_back(sum_counts(each));
  }
  return services;
}

Result<TcAttach> steering_supported() {
  return choose_attach(TcAttach::automatic);
}

}  // namespace mose::handover
