// SPDX-License-Identifier: MIT
// A newer agent takes over from an older one: its programs for those at work, under traffic.
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/log.h"
#include "handover/steering.h"
#include "handover/steering_maps.h"
#include "handover/steering_programs.h"
#include "kernel/bpf_layout.h"
#include "kernel/bpf_replace.h"

namespace mose::handover {
namespace {

// A map that is at work, and what becomes of it.
struct MapAtWork {
  const char* name;
  int GivenMaps::* given;
  Fd pinned;
  std::optional<bpf::LayoutConversion> conversion;  // none: it is given to the new programs
  bool starts_anew = false;                         // its keys mean something else by now, or it is not there
};

constexpr size_t kMaps = 5;

class Renewal {
 public:
  // `sample`: programs and maps of this build, to see what has changed and where.
  Renewal(const steer_tc& sample, const std::string& bpffs, const std::string& workload)
      : sample_(sample), bpffs_(bpffs), workload_(workload), directory_(pin_directory(bpffs, workload)) {}

  Result<bool> run() {
    MOSE_ASSIGN(Fd fixed, bpf::open_pinned(directory_ + "/config"));
    for (MapAtWork& map : maps_) {
      auto pinned = bpf::open_pinned(directory_ + "/" + map.name);
      // Older builds had none, nor has an agent made one that died before it had pinned all.
      map.starts_anew = !pinned && pinned.error().code == ENOENT && map.given == &GivenMaps::drained_bytes;
      if (map.starts_anew) continue;
      if (!pinned) return std::unexpected(pinned.error());
      map.pinned = std::move(*pinned);
    }
    MOSE_TRY(read_config(fixed.get(), bpf_map__fd(sample_.maps.rodata)));
    MOSE_TRY(finish_interrupted());
    MOSE_TRY(compare());
    MOSE_ASSIGN(bool up_to_date, is_up_to_date());
    if (up_to_date) return false;
    GivenMaps given;
    for (const MapAtWork& map : maps_) {
      if (!map.conversion && !map.starts_anew) given.*map.given = map.pinned.get();
    }
    MOSE_ASSIGN(programs_, load_programs(config_, given));
    MOSE_TRY(copy());
    MOSE_TRY(replace());
    return true;
  }

 private:
  Status read_config(int pinned, int sample) {
    MOSE_ASSIGN(auto conversion, bpf::LayoutConversion::between(pinned, sample));
    MOSE_ASSIGN(uint32_t size, bpf::map_value_size(pinned));
    std::vector<std::byte> before(size), after(sizeof(mose_steer_config));
    uint32_t zero = 0;
    MOSE_TRY(bpf::map_lookup(pinned, &zero, before.data()));
    conversion.convert(before, after);
    mose_steer_config in{};
    std::memcpy(&in, after.data(), sizeof in);
    version_ = in.version;
    // What an older one had and we no longer have, we know to be of no use; what a newer one has, we do not.
    const bool understood = conversion.dropped().empty() || version_ <= MOSE_STEER_VERSION;
    if (!understood || in.services_count == 0 || in.services_count > MOSE_STEER_SERVICES_MAX) {
      return fail("pinned by a version (" + std::to_string(in.version) + ") that this agent cannot follow");
    }
    config_ = from_kernel(in, bpffs_, workload_);
    same_config_ = conversion.same();
    return {};
  }

  // Which program a filter has is known by what is pinned: the pin of one that was replaced already comes first.
  Status finish_interrupted() {
    if (config_.attach == TcAttach::clsact) {
      for (const ProgramPlace& place : places_of(config_)) {
        const std::string name = std::string("program_") + place.name;
        auto next = bpf::open_pinned(directory_ + "/next_" + name);
        if (!next || !bpf::clsact_has(next->get(), place.ifindex, place.point, config_.host_ifindex)) continue;
        MOSE_TRY(bpf::replace_pin(next->get(), directory_, name));
      }
    }
    bpf::remove_pins_in_making(directory_);
    return {};
  }

  Status compare() {
    const std::array<int, kMaps> wanted{bpf_map__fd(sample_.maps.mose_services), bpf_map__fd(sample_.maps.mose_queues),
                                        bpf_map__fd(sample_.maps.mose_drained),
                                        bpf_map__fd(sample_.maps.mose_drained_bytes),
                                        bpf_map__fd(sample_.maps.mose_counts)};
    for (size_t i = 0; i < maps_.size(); ++i) {
      MapAtWork& map = maps_[i];
      if (map.starts_anew) continue;
      MOSE_ASSIGN(auto conversion, bpf::LayoutConversion::between(map.pinned.get(), wanted[i]));
      MOSE_ASSIGN(bpf::MapShape before, bpf::map_shape(map.pinned.get()));
      MOSE_ASSIGN(bpf::MapShape after, bpf::map_shape(wanted[i]));
      if (before == after && conversion.same()) continue;
      const std::string what = std::string("the values of ") + map.name;
      // While they are copied the programs count frames into them.
      if (map.given == &GivenMaps::queues || map.given == &GivenMaps::drained || map.given == &GivenMaps::drained_bytes) {
        return fail(what + " differ, which can only be begun anew: mose cleanup");
      }
      if (map.given == &GivenMaps::counts && before.max_entries != after.max_entries) {
        map.starts_anew = true;
        log::warn("steering counts from zero", {{"workload", workload_}});
        continue;
      }
      if (map.given == &GivenMaps::services && !conversion.dropped().empty() && version_ > MOSE_STEER_VERSION) {
        return fail(what + " have fields that this agent does not know: " + conversion.dropped());
      }
      map.conversion = std::move(conversion);
    }
    return {};
  }

  Result<Fd> program_at(const ProgramPlace& place) const {
    if (config_.attach == TcAttach::clsact) return bpf::open_pinned(directory_ + "/program_" + place.name);
    MOSE_ASSIGN(Fd link, bpf::open_pinned(directory_ + "/link_" + place.name));
    return bpf::program_of_link(link.get());
  }

  Result<bool> is_up_to_date() const {
    bool same = version_ == MOSE_STEER_VERSION && same_config_;
    for (const MapAtWork& map : maps_) same = same && !map.conversion && !map.starts_anew;
    const std::vector<ProgramPlace> places = places_of(config_);
    const std::vector<int> programs = programs_of(sample_, config_);
    MOSE_ASSIGN(Fd tap, bpf::open_pinned(directory_ + "/tap_program"));
    MOSE_ASSIGN(auto tap_before, bpf::program_tag(tap.get()));
    MOSE_ASSIGN(auto tap_after, bpf::program_tag(bpf_program__fd(sample_.progs.steer_tap)));
    same = same && tap_before == tap_after;
    for (size_t i = 0; i < places.size(); ++i) {
      const ProgramPlace& place = places[i];
      MOSE_ASSIGN(Fd program, program_at(place));
      MOSE_ASSIGN(auto before, bpf::program_tag(program.get()));
      MOSE_ASSIGN(auto after, bpf::program_tag(programs[i]));
      same = same && before == after;
      // An agent that died before it had pinned all leaves maps that say the same and are nobody's. The uplink's
      // program uses two of them.
      for (const MapAtWork& map : maps_) {
        const bool used = std::string_view(place.name) != "uplink" || map.given == &GivenMaps::services ||
                          map.given == &GivenMaps::counts;
        if (!used || !map.pinned) continue;
        MOSE_ASSIGN(bool own, bpf::program_uses(program.get(), map.pinned.get()));
        same = same && own;
      }
    }
    return same;
  }

  // Nobody sets a policy meanwhile; what the programs change by themselves (an expiry, the end of a drain) the new ones
  // find out by themselves again, from the same deadline and the same queue.
  Status copy() {
    const std::array<int, kMaps> to{bpf_map__fd(programs_->maps.mose_services), -1, -1, -1,
                                    bpf_map__fd(programs_->maps.mose_counts)};
    for (size_t i = 0; i < maps_.size(); ++i) {
      if (maps_[i].conversion) MOSE_TRY(bpf::copy_values(maps_[i].pinned.get(), to[i], *maps_[i].conversion));
    }
    return {};
  }

  // A crash in between leaves what the next start does again, from maps that say the same.
  Status replace() {
    const std::vector<ProgramPlace> places = places_of(config_);
    const std::vector<int> programs = programs_of(*programs_, config_);
    for (size_t i = 0; i < places.size(); ++i) {
      const ProgramPlace& place = places[i];
      const std::string name = std::string("program_") + place.name;
      MOSE_ASSIGN(Fd before, program_at(place));
      if (config_.attach == TcAttach::clsact) {
        MOSE_TRY(bpf::pin(programs[i], directory_ + "/next_" + name));
        MOSE_TRY(bpf::replace_clsact(programs[i], before.get(), place.ifindex, place.point, config_.host_ifindex));
        MOSE_TRY(bpf::replace_pin(programs[i], directory_, name));
      } else {
        MOSE_ASSIGN(Fd link, bpf::open_pinned(directory_ + "/link_" + place.name));
        MOSE_TRY(bpf::update_link(link.get(), programs[i], before.get()));
      }
    }
    MOSE_TRY(bpf::wait_for_running_programs());
    const std::pair<const char*, int> pins[] = {{"services", bpf_map__fd(programs_->maps.mose_services)},
                                                {"drained_bytes", bpf_map__fd(programs_->maps.mose_drained_bytes)},
                                                {"counts", bpf_map__fd(programs_->maps.mose_counts)},
                                                {"tap_program", bpf_program__fd(programs_->progs.steer_tap)},
                                                {"config", bpf_map__fd(programs_->maps.rodata)}};
    for (auto [name, object] : pins) MOSE_TRY(bpf::replace_pin(object, directory_, name));
    return {};
  }

  const steer_tc& sample_;
  std::string bpffs_, workload_, directory_;
  SteeringConfig config_;
  uint32_t version_ = 0;
  bool same_config_ = false;
  std::array<MapAtWork, kMaps> maps_{{{"services", &GivenMaps::services, {}, {}},
                                      {"queues", &GivenMaps::queues, {}, {}},
                                      {"drained", &GivenMaps::drained, {}, {}},
                                      {"drained_bytes", &GivenMaps::drained_bytes, {}, {}},
                                      {"counts", &GivenMaps::counts, {}, {}}}};
  Skeleton programs_;
};

// Those of uplinks have a colon in their names.
std::vector<std::string> pinned_workloads(const std::string& bpffs) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(bpffs + "/mose", error)) {
    const std::string name = item.path().filename();
    if (!name.contains(':')) names.push_back(name);
  }
  return names;
}

}  // namespace

std::vector<Steering::Renewed> Steering::renew(const std::string& bpffs) {
  std::vector<Renewed> all;
  const std::vector<std::string> workloads = pinned_workloads(bpffs);
  if (workloads.empty()) return all;
  auto sample = load_programs({.workload = "sample", .addresses = {{}}, .bpffs = bpffs});
  for (const std::string& workload : workloads) {
    auto replaced = sample ? Renewal(**sample, bpffs, workload).run() : std::unexpected(sample.error());
    all.push_back({workload, replaced ? replaced : context("steering of " + workload, replaced.error())});
  }
  return all;
}

}  // namespace mose::handover
