// SPDX-License-Identifier: MIT
#include "handover/uplink_steering.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/directory.h"
#include "base/rollback.h"
#include "handover/steer_counters.h"
#include "handover/steering_maps.h"
#include "handover/uplink_programs.h"
#include "kernel/bpf_layout.h"
#include "mose/bpf/steer.h"

namespace mose::handover {
namespace {

mose_uplink_entry to_kernel(const UplinkEntry& entry, uint32_t epoch) {
  mose_uplink_entry out{};
  out.state = static_cast<mose_uplink_state>(entry.state);
  out.epoch = epoch;
  out.peer_ifindex = entry.peer_ifindex;
  std::copy(entry.service_mac.begin(), entry.service_mac.end(), out.service_mac);
  std::copy(entry.peer_mac.begin(), entry.peer_mac.end(), out.peer_mac);
  std::copy(entry.own_mac.begin(), entry.own_mac.end(), out.own_mac);
  out.tunnel = handover::to_kernel(entry.tunnel);
  entry.workload.copy(out.workload, sizeof out.workload - 1);
  return out;
}

UplinkEntry from_kernel(const mose_uplink_entry& in) {
  UplinkEntry entry;
  entry.state = static_cast<UplinkState>(in.state);
  entry.workload.assign(in.workload, strnlen(in.workload, sizeof in.workload));
  entry.peer_ifindex = in.peer_ifindex;
  std::copy(std::begin(in.service_mac), std::end(in.service_mac), entry.service_mac.begin());
  std::copy(std::begin(in.peer_mac), std::end(in.peer_mac), entry.peer_mac.begin());
  std::copy(std::begin(in.own_mac), std::end(in.own_mac), entry.own_mac.begin());
  entry.tunnel = handover::from_kernel(in.tunnel);
  return entry;
}

Status check(const ServiceAddress& address, const UplinkEntry& entry) {
  auto bad = [&](std::string_view why) {
    return fail("uplink entry of " + format_address(address) + ": " + std::string(why));
  };
  if (entry.workload.empty() || entry.workload.size() >= MOSE_STEER_NAME_SIZE) return bad("no name of a workload");
  if (entry.service_mac == MacAddress{}) return bad("the service's MAC address is missing");
  if (entry.state != UplinkState::redirect) return {};
  if (entry.peer_ifindex == 0) return bad("no device towards the peer is given");
  if (entry.peer_mac == MacAddress{} || entry.own_mac == MacAddress{}) return bad("a MAC address is missing");
  if (auto tunnel = check_tunnel(entry.tunnel); !tunnel) return bad(tunnel.error().what);
  return {};
}

// What the uplink counts, in the words that all programs share.
mose_steer_counts expand(const mose_uplink_counts& in) {
  mose_steer_counts out{};
  const std::pair<mose_steer_reason, const mose_steer_count*> counted[] = {
      {MOSE_STEER_R_PASSED, &in.passed},
      {MOSE_STEER_R_TAKEN, &in.taken},
      {MOSE_STEER_R_REDIRECTED, &in.redirected},
      {MOSE_STEER_R_DROP_LOOP, &in.drop_loop},
      {MOSE_STEER_R_DROP_REWRITE, &in.drop_rewrite},
      {MOSE_STEER_R_DROP_MTU, &in.drop_mtu}};
  for (auto [reason, count] : counted) {
    out.frames[reason] = count->frames;
    out.bytes[reason] = count->bytes;
  }
  out.stamps[MOSE_STEER_PASS] = in.local_stamp;
  out.stamps[MOSE_STEER_REDIRECT] = in.redirect_stamp;
  return out;
}

// Calls `each` with every key of the map; one that goes meanwhile begins the walk anew, so that a key may come twice.
template <typename F>
Status for_each_key(int map, F each) {
  mose_steer_service key{}, next{};
  MOSE_ASSIGN(bool more, bpf::map_next_key(map, nullptr, &next));
  while (more) {
    key = next;
    MOSE_ASSIGN(more, bpf::map_next_key(map, &key, &next));
    MOSE_TRY(each(key));
  }
  return {};
}

Result<std::optional<mose_uplink_entry>> lookup(int map, const mose_steer_service& key) {
  mose_uplink_entry value{};
  auto found = bpf::map_lookup(map, &key, &value);
  if (found) return value;
  if (found.error().code == ENOENT) return std::nullopt;
  return std::unexpected(found.error());
}

// Counters last: the program does not act on an entry without.
Status forget(int entries, int counts, const mose_steer_service& key) {
  MOSE_TRY(bpf::map_delete(entries, &key));
  return bpf::map_delete(counts, &key);
}

}  // namespace

const char* to_string(UplinkState state) {
  switch (state) {
    case UplinkState::local:
      return "local";
    case UplinkState::redirect:
      return "redirect";
  }
  return "?";
}

const char* to_string(bpf::XdpMode mode) {
  return mode == bpf::XdpMode::generic ? "generic" : "native";
}

struct UplinkSteering::Kernel {
  Fd entries, counts, link;
  unsigned cpus = 0;

  [[nodiscard]] Result<SteerCounters> counted(const mose_steer_service& key) const {
    static_assert(sizeof(mose_uplink_counts) % 8 == 0, "the kernel rounds each CPU's value up to 8 bytes");
    std::vector<mose_uplink_counts> each(cpus);
    auto found = bpf::map_lookup(counts.get(), &key, each.data());
    if (!found && found.error().code == ENOENT) return SteerCounters{};
    if (!found) return std::unexpected(found.error());
    std::vector<mose_steer_counts> expanded(cpus);
    std::transform(each.begin(), each.end(), expanded.begin(), expand);
    return sum_counts(expanded);
  }
};

UplinkSteering::UplinkSteering(UplinkSteeringConfig config, std::unique_ptr<Kernel> kernel)
    : config_(std::move(config)), kernel_(std::move(kernel)) {}
UplinkSteering::UplinkSteering(UplinkSteering&&) noexcept = default;
UplinkSteering& UplinkSteering::operator=(UplinkSteering&&) noexcept = default;
UplinkSteering::~UplinkSteering() = default;

Result<UplinkSteering> UplinkSteering::attach(const UplinkSteeringConfig& config) {
  const std::string where = "XDP on uplink " + config.device;
  const std::string directory = uplink_pins(config.bpffs, config.device);
  struct stat exists{};
  if (stat(directory.c_str(), &exists) == 0) return fail(where + ": pins exist already in " + directory);
  auto loaded = UplinkPrograms::load(config);
  if (!loaded) return context(where, loaded.error());
  const UplinkPrograms& programs = *loaded;
  auto kernel = std::make_unique<Kernel>();
  MOSE_ASSIGN(kernel->cpus, bpf::possible_cpus());
  MOSE_ASSIGN(kernel->entries, duplicate(programs.entries()));
  MOSE_ASSIGN(kernel->counts, duplicate(programs.counts()));

  Rollback rollback;
  rollback.push([&] { (void)remove_pins(config.bpffs, config.device); });
  MOSE_TRY(bpf::pin(kernel->entries.get(), directory + "/entries"));
  MOSE_TRY(bpf::pin(kernel->counts.get(), directory + "/counts"));
  MOSE_TRY(bpf::pin(programs.config(), directory + "/config"));
  auto link = bpf::attach_xdp(programs.program(), config.ifindex, config.mode);
  if (!link) return context(where + " (" + to_string(config.mode) + ")", link.error());
  kernel->link = std::move(*link);
  MOSE_TRY(bpf::pin(kernel->link.get(), directory + "/link"));
  rollback.commit();
  return UplinkSteering(config, std::move(kernel));
}

Result<UplinkSteering> UplinkSteering::adopt(const std::string& bpffs, const std::string& device) {
  bpf::capture_libbpf_log();
  const std::string directory = uplink_pins(bpffs, device) + "/";
  MOSE_ASSIGN(Fd fixed, bpf::open_pinned(directory + "config"));
  MOSE_TRY(expect_size(fixed.get(), sizeof(mose_uplink_config), directory + "config"));
  mose_uplink_config in{};
  uint32_t zero = 0;
  MOSE_TRY(bpf::map_lookup(fixed.get(), &zero, &in));
  if (in.version != MOSE_STEER_VERSION) {
    return fail("pinned XDP of uplink " + device + " has version " + std::to_string(in.version) +
                ", this agent knows " + std::to_string(MOSE_STEER_VERSION));
  }
  auto kernel = std::make_unique<Kernel>();
  MOSE_ASSIGN(kernel->cpus, bpf::possible_cpus());
  MOSE_ASSIGN(kernel->entries, bpf::open_pinned(directory + "entries"));
  MOSE_ASSIGN(kernel->counts, bpf::open_pinned(directory + "counts"));
  MOSE_ASSIGN(kernel->link, bpf::open_pinned(directory + "link"));
  MOSE_TRY(expect_size(kernel->entries.get(), sizeof(mose_uplink_entry), directory + "entries"));
  MOSE_TRY(expect_size(kernel->counts.get(), sizeof(mose_uplink_counts), directory + "counts"));
  MOSE_ASSIGN(bpf::MapShape shape, bpf::map_shape(kernel->entries.get()));
  UplinkSteering found(from_kernel(in, device, bpffs, shape.max_entries), std::move(kernel));
  if (!found.attached()) return fail("pinned XDP of uplink " + device + " is on no device any more");
  return found;
}

Status UplinkSteering::remove_pins(const std::string& bpffs, const std::string& device) {
  return bpf::unpin_directory(uplink_pins(bpffs, device));
}

std::vector<std::string> UplinkSteering::pinned_devices(const std::string& bpffs) {
  std::vector<std::string> devices;
  Directory dir = open_directory(bpffs + "/mose");
  if (!dir) return devices;
  while (const dirent* item = readdir(dir.get())) {
    std::string name = item->d_name;
    if (!name.starts_with(kUplinkPrefix)) continue;
    name.erase(0, kUplinkPrefix.size());
    std::replace(name.begin(), name.end(), ':', '.');
    devices.push_back(std::move(name));
  }
  return devices;
}

Status UplinkSteering::erase_workload(const std::string& bpffs, const std::string& workload) {
  for (const std::string& device : pinned_devices(bpffs)) {
    auto map = bpf::open_pinned(uplink_pins(bpffs, device) + "/entries");
    if (!map && map.error().code == ENOENT) continue;  // goes at this moment
    if (!map) return std::unexpected(map.error());
    MOSE_TRY(expect_size(map->get(), sizeof(mose_uplink_entry), "entries of uplink " + device));
    MOSE_ASSIGN(Fd counts, bpf::open_pinned(uplink_pins(bpffs, device) + "/counts"));
    MOSE_TRY(for_each_key(map->get(), [&](const mose_steer_service& key) -> Status {
      MOSE_ASSIGN(auto found, lookup(map->get(), key));
      if (!found || from_kernel(*found).workload != workload) return {};
      return forget(map->get(), counts.get(), key);
    }));
  }
  return {};
}

Status UplinkSteering::put(const ServiceAddress& address, const UplinkEntry& entry) {
  MOSE_CHECK(kernel_ != nullptr, "uplink steering used after remove()");
  MOSE_TRY(check(address, entry));
  const mose_steer_service key = to_kernel(address);
  MOSE_ASSIGN(auto before, lookup(kernel_->entries.get(), key));
  const mose_uplink_entry value = to_kernel(entry, before ? before->epoch + 1 : 1);
  if (before) return bpf::map_update(kernel_->entries.get(), &key, &value);
  std::vector<mose_uplink_counts> zero(kernel_->cpus);
  Status put = bpf::map_update_patiently(kernel_->counts.get(), &key, zero.data());
  if (put) put = bpf::map_update_patiently(kernel_->entries.get(), &key, &value);
  if (put) return {};
  (void)bpf::map_delete(kernel_->counts.get(), &key);
  if (put.error().code == E2BIG) {
    return fail("uplink " + config_.device + " redirects " + std::to_string(config_.entries_max) +
                " addresses already: raise limits.xdp_services_max");
  }
  return put;
}

Status UplinkSteering::erase(const ServiceAddress& address) {
  MOSE_CHECK(kernel_ != nullptr, "uplink steering used after remove()");
  return forget(kernel_->entries.get(), kernel_->counts.get(), to_kernel(address));
}

Result<std::optional<UplinkEntry>> UplinkSteering::entry(const ServiceAddress& address) const {
  MOSE_ASSIGN(auto found, lookup(kernel_->entries.get(), to_kernel(address)));
  if (!found) return std::nullopt;
  return from_kernel(*found);
}

Result<std::vector<UplinkSteering::Item>> UplinkSteering::entries() const {
  std::vector<Item> items;
  MOSE_ASSIGN(auto dump, bpf::map_dump(kernel_->entries.get()));
  items.reserve(dump.count);
  for (size_t i = 0; i < dump.count; ++i) {
    mose_steer_service key{};
    mose_uplink_entry value{};
    std::memcpy(&key, dump.keys.data() + i * sizeof key, sizeof key);
    std::memcpy(&value, dump.values.data() + i * sizeof value, sizeof value);
    items.push_back({from_kernel(key), from_kernel(value)});
  }
  return items;
}

Result<SteerCounters> UplinkSteering::counters(const ServiceAddress& address) const {
  return kernel_->counted(to_kernel(address));
}

Result<SteerCounters> UplinkSteering::other_counters() const {
  return kernel_->counted({});
}

bool UplinkSteering::attached() const {
  if (kernel_ == nullptr) return false;
  auto device = bpf::xdp_link_device(kernel_->link.get());
  return device && *device == config_.ifindex;
}

Status UplinkSteering::remove() {
  kernel_.reset();
  return remove_pins(config_.bpffs, config_.device);
}

}  // namespace mose::handover
