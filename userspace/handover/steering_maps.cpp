// SPDX-License-Identifier: MIT
#include "handover/steering_maps.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>

#include "kernel/bpf_object.h"

namespace mose::handover {
namespace {

constexpr size_t kDrainedSize = 4096;  // an array map is mapped in whole pages

uint32_t key_of(Direction direction) {
  return static_cast<uint32_t>(direction);
}

Result<uint64_t*> map_drained(const Fd& map) {
  void* page = mmap(nullptr, kDrainedSize, PROT_READ | PROT_WRITE, MAP_SHARED, map.get(), 0);
  if (page == MAP_FAILED) return fail_errno("map the drain counters");
  return static_cast<uint64_t*>(page);
}

}  // namespace

std::string pin_directory(const std::string& bpffs, const std::string& workload) {
  return bpffs + "/mose/" + workload;
}

mose_steer_service to_kernel(const ServiceAddress& address) {
  mose_steer_service out{};
  out.family = address.family == AF_INET ? 4 : 6;
  std::copy_n(address.bytes.begin(), address.family == AF_INET ? 4 : 16, out.address);
  return out;
}

ServiceAddress from_kernel(const mose_steer_service& in) {
  ServiceAddress address{.family = in.family == 4 ? AF_INET : AF_INET6, .prefix = in.family == 4 ? 32u : 128u};
  std::copy(std::begin(in.address), std::end(in.address), address.bytes.begin());
  return address;
}

mose_steer_tunnel to_kernel(const std::optional<Tunnel>& tunnel) {
  mose_steer_tunnel out{};
  if (!tunnel) return out;
  const mose_steer_service local = to_kernel(tunnel->local), remote = to_kernel(tunnel->remote);
  std::copy(std::begin(local.address), std::end(local.address), out.local);
  std::copy(std::begin(remote.address), std::end(remote.address), out.remote);
  out.port = htons(tunnel->port);
  out.family = local.family;
  return out;
}

std::optional<Tunnel> from_kernel(const mose_steer_tunnel& in) {
  if (in.family == 0) return std::nullopt;
  mose_steer_service local{.family = in.family}, remote{.family = in.family};
  std::copy(std::begin(in.local), std::end(in.local), local.address);
  std::copy(std::begin(in.remote), std::end(in.remote), remote.address);
  return Tunnel{.local = from_kernel(local), .remote = from_kernel(remote), .port = ntohs(in.port)};
}

Status check_tunnel(const std::optional<Tunnel>& tunnel) {
  if (!tunnel) return {};
  if (tunnel->local.family == 0 || tunnel->local.family != tunnel->remote.family) {
    return fail("a tunnel has two addresses of one family");
  }
  return tunnel->port == 0 ? fail("a tunnel has a port") : Status{};
}

mose_steer_policy to_kernel(const SteerPolicy& policy, const mose_steer_policy& before) {
  mose_steer_policy out{};
  out.state = static_cast<mose_steer_state>(policy.state);
  out.after_drain = static_cast<mose_steer_state>(policy.after_drain);
  out.epoch = before.epoch + 1;
  out.silent = policy.silent ? 1 : 0;
  out.on_expiry = static_cast<mose_steer_state>(policy.on_expiry);
  const Timestamp since = out.state == before.state ? Timestamp(Nanoseconds(before.since_ns)) : now();
  out.since_ns = static_cast<uint64_t>(since.time_since_epoch().count());
  if (policy.deadline) out.deadline_ns = static_cast<uint64_t>(policy.deadline->time_since_epoch().count());
  out.tap_ifindex = policy.tap_ifindex;
  out.peer_ifindex = policy.peer_ifindex;
  std::copy(policy.peer_mac.begin(), policy.peer_mac.end(), out.peer_mac);
  std::copy(policy.own_mac.begin(), policy.own_mac.end(), out.own_mac);
  out.tunnel = to_kernel(policy.tunnel);
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
  if (in.since_ns != 0) policy.since = Timestamp(Nanoseconds(in.since_ns));
  if (in.expired != 0) policy.expired = static_cast<SteerState>(in.expired);
  policy.tap_ifindex = in.tap_ifindex;
  policy.peer_ifindex = in.peer_ifindex;
  std::copy(std::begin(in.peer_mac), std::end(in.peer_mac), policy.peer_mac.begin());
  std::copy(std::begin(in.own_mac), std::end(in.own_mac), policy.own_mac.begin());
  policy.tunnel = from_kernel(in.tunnel);
  policy.hold_packets_max = in.hold_packets_max;
  policy.hold_bytes_max = in.hold_bytes_max;
  return policy;
}

Status expect_size(int map, size_t size, const std::string& name) {
  MOSE_ASSIGN(uint32_t actual, bpf::map_value_size(map));
  if (actual == size) return {};
  return fail("pinned map " + name + " is of another version (" + std::to_string(actual) + " bytes instead of " +
              std::to_string(size) + ")");
}

SteeringMaps::~SteeringMaps() {
  if (frames_page != nullptr) munmap(frames_page, kDrainedSize);
  if (bytes_page != nullptr) munmap(bytes_page, kDrainedSize);
}

Status SteeringMaps::complete() {
  socket = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  MOSE_ASSIGN(frames_page, map_drained(drained));
  MOSE_ASSIGN(bytes_page, map_drained(drained_bytes));
  MOSE_ASSIGN(cpus, bpf::possible_cpus());
  return {};
}

bool SteeringMaps::device_exists(unsigned ifindex) const {
  ifreq request{};
  request.ifr_ifindex = static_cast<int>(ifindex);
  return ioctl(socket.get(), SIOCGIFNAME, &request) == 0 || errno != ENODEV;
}

std::atomic_ref<uint64_t> SteeringMaps::frames(Direction direction) const {
  return std::atomic_ref<uint64_t>(frames_page[key_of(direction)]);
}

std::atomic_ref<uint64_t> SteeringMaps::bytes(Direction direction) const {
  return std::atomic_ref<uint64_t>(bytes_page[key_of(direction)]);
}

Result<mose_steer_policy> SteeringMaps::policy(Direction direction) const {
  mose_steer_policy value{};
  uint32_t key = key_of(direction);
  MOSE_TRY(bpf::map_lookup(services.get(), &key, &value, bpf::kMapLocked));
  return value;
}

Status SteeringMaps::set_policy(Direction direction, const mose_steer_policy& value) const {
  uint32_t key = key_of(direction);
  return bpf::map_update(services.get(), &key, &value, bpf::kMapLocked);
}

Result<mose_steer_queue> SteeringMaps::queue(Direction direction) const {
  mose_steer_queue value{};
  uint32_t key = key_of(direction);
  MOSE_TRY(bpf::map_lookup(queues.get(), &key, &value));
  return value;
}

Result<std::vector<mose_steer_counts>> SteeringMaps::counts_of(Direction direction, uint32_t slot) const {
  static_assert(sizeof(mose_steer_counts) % 8 == 0, "the kernel rounds each CPU's value up to 8 bytes");
  std::vector<mose_steer_counts> each(cpus);
  uint32_t key = MOSE_STEER_COUNTS_KEY(key_of(direction), slot);
  MOSE_TRY(bpf::map_lookup(counts.get(), &key, each.data()));
  return each;
}

Result<uint64_t> SteeringMaps::in_tap(Direction direction) const {
  // Drained first: it never passes queued, so that the difference cannot be negative.
  uint64_t gone = frames(direction).load(std::memory_order_acquire);
  MOSE_ASSIGN(mose_steer_queue given, queue(direction));
  return given.queued > gone ? given.queued - gone : 0;
}

Status SteeringMaps::level(Direction direction) const {
  MOSE_ASSIGN(mose_steer_queue given, queue(direction));
  bytes(direction).store(given.queued_bytes, std::memory_order_relaxed);
  frames(direction).store(given.queued, std::memory_order_release);
  return {};
}

}  // namespace mose::handover
