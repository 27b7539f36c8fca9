// SPDX-License-Identifier: MIT
// A newer agent, or one with another configuration, takes over the program of an uplink under traffic.
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "handover/uplink_programs.h"
#include "handover/uplink_steering.h"
#include "kernel/bpf_layout.h"
#include "kernel/bpf_replace.h"

namespace mose::handover {
namespace {

struct Pinned {
  Fd config, entries, counts, link, program;
};

Result<Pinned> open_pins(const std::string& directory) {
  Pinned pins;
  for (auto [name, fd] : {std::pair{"config", &pins.config},
                          {"entries", &pins.entries},
                          {"counts", &pins.counts},
                          {"link", &pins.link}}) {
    MOSE_ASSIGN(*fd, bpf::open_pinned(directory + "/" + name));
  }
  MOSE_ASSIGN(pins.program, bpf::program_of_link(pins.link.get()));
  return pins;
}

Result<mose_uplink_config> read_config(int pinned, int sample) {
  MOSE_ASSIGN(auto conversion, bpf::LayoutConversion::between(pinned, sample));
  MOSE_ASSIGN(uint32_t size, bpf::map_value_size(pinned));
  std::vector<std::byte> before(size), after(sizeof(mose_uplink_config));
  uint32_t zero = 0;
  MOSE_TRY(bpf::map_lookup(pinned, &zero, before.data()));
  conversion.convert(before, after);
  mose_uplink_config in{};
  std::memcpy(&in, after.data(), sizeof in);
  return in;
}

// Only the agent writes entries, so that the copy is exact. Counters lose what comes in between.
Status copy(const Pinned& from, const UplinkPrograms& to) {
  MOSE_ASSIGN(auto entries, bpf::LayoutConversion::between(from.entries.get(), to.entries()));
  auto counts = bpf::LayoutConversion::between(from.counts.get(), to.counts());
  Status counted = counts ? bpf::copy_values(from.counts.get(), to.counts(), *counts) : std::unexpected(counts.error());
  if (!counted) {
    // A build before had them otherwise; an entry without any would not be acted on.
    log::warn("the uplink counts from zero", {{"reason", counted.error().what}});
    MOSE_ASSIGN(unsigned cpus, bpf::possible_cpus());
    const std::vector<mose_uplink_counts> zero(cpus);
    MOSE_ASSIGN(bpf::MapDump keys, bpf::map_dump(from.entries.get()));
    for (size_t i = 0; i < keys.count; ++i) {
      MOSE_TRY(bpf::map_update_patiently(to.counts(), keys.keys.data() + i * sizeof(mose_steer_service), zero.data()));
    }
  }
  return bpf::copy_values(from.entries.get(), to.entries(), entries);
}

Result<bool> renew_pinned(const UplinkSteeringConfig& wanted, const std::string& directory) {
  MOSE_ASSIGN(Pinned pins, open_pins(directory));
  bpf::remove_pins_in_making(directory);
  MOSE_ASSIGN(unsigned device, bpf::xdp_link_device(pins.link.get()));
  if (device != wanted.ifindex) return fail("it is on no device of this name any more");
  MOSE_ASSIGN(UplinkPrograms programs, UplinkPrograms::load(wanted));
  MOSE_ASSIGN(mose_uplink_config before, read_config(pins.config.get(), programs.config()));
  MOSE_ASSIGN(bpf::MapShape entries, bpf::map_shape(pins.entries.get()));
  const auto found = from_kernel(before, wanted.device, wanted.bpffs, entries.max_entries);
  if (found.mode != wanted.mode) return fail(std::string("it is in the mode ") + to_string(found.mode));
  MOSE_ASSIGN(auto tag_before, bpf::program_tag(pins.program.get()));
  MOSE_ASSIGN(auto tag_after, bpf::program_tag(programs.program()));
  // An agent that died before it had pinned all leaves maps that say the same and are nobody's.
  MOSE_ASSIGN(bool own_entries, bpf::program_uses(pins.program.get(), pins.entries.get()));
  MOSE_ASSIGN(bool own_counts, bpf::program_uses(pins.program.get(), pins.counts.get()));
  const bool complete = own_entries && own_counts;
  if (complete && found == wanted && before.version == MOSE_STEER_VERSION && tag_before == tag_after) return false;
  MOSE_TRY(copy(pins, programs));
  MOSE_TRY(bpf::update_link(pins.link.get(), programs.program(), pins.program.get()));
  const std::pair<const char*, int> objects[] = {
      {"entries", programs.entries()}, {"counts", programs.counts()}, {"config", programs.config()}};
  for (auto [name, object] : objects) MOSE_TRY(bpf::replace_pin(object, directory, name));
  return true;
}

}  // namespace

Result<bool> UplinkSteering::renew(const UplinkSteeringConfig& config) {
  bpf::capture_libbpf_log();
  auto renewed = renew_pinned(config, uplink_pins(config.bpffs, config.device));
  if (!renewed) return context("XDP on uplink " + config.device, renewed.error());
  return renewed;
}

}  // namespace mose::handover
