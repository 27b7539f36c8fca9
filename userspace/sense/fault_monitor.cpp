// SPDX-License-Identifier: MIT
#include "sense/fault_monitor.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <span>
#include <tuple>

#include "base/check.h"
#include "base/fd.h"
#include "kernel/bpf_object.h"
#include "kernel/bpf_skeleton.h"
#include "mose/bpf/dirty.h"

#include "dirty.skel.h"  // uses the contract

namespace mose::sense {
namespace {

using Form = FaultMonitorOptions::Form;

static_assert(MOSE_DIRTY_PAGE_SHIFT == kPageShift);

const char* to_string(Form form) {
  switch (form) {
    case Form::automatic:
      return "automatic";
    case Form::tp_btf:
      return "tp_btf";
    case Form::raw_tp:
      return "raw_tp";
  }
  return "?";
}

using Skeleton = bpf::Skeleton<dirty>;

Result<Skeleton> load(const FaultMonitorOptions& options, Form form) {
  return bpf::load_skeleton<dirty>("the programs at page faults", [&](dirty& skeleton) -> Status {
    bpf_program__set_autoload(skeleton.progs.btf_user, form == Form::tp_btf);
    bpf_program__set_autoload(skeleton.progs.btf_kernel, form == Form::tp_btf);
    bpf_program__set_autoload(skeleton.progs.raw_user, form == Form::raw_tp);
    bpf_program__set_autoload(skeleton.progs.raw_kernel, form == Form::raw_tp);
    for (auto [map, size] : {std::pair{skeleton.maps.mose_processes, options.processes_max},
                             std::pair{skeleton.maps.mose_threads, options.threads_max},
                             std::pair{skeleton.maps.mose_regions, options.regions_max}}) {
      if (int code = bpf_map__set_max_entries(map, std::max(size, 1u)); code < 0) return bpf::fail_libbpf("size a map", code);
    }
    skeleton.bss->mose_control.epoch = 1;
    return {};
  });
}

Result<Skeleton> load_and_attach(const std::string& cgroup, const FaultMonitorOptions& options, Form form) {
  MOSE_ASSIGN(Fd group, open_file(cgroup, O_RDONLY | O_DIRECTORY));
  MOSE_ASSIGN(Skeleton skeleton, load(options, form));
  const uint32_t zero = 0;
  const int group_fd = group.get();
  MOSE_TRY(bpf::map_update(bpf_map__fd(skeleton->maps.mose_group), &zero, &group_fd));
  if (int code = dirty__attach(skeleton.get()); code < 0) return bpf::fail_libbpf("attach the programs at page faults", code);
  return skeleton;
}

// Entry i of a dump; per-CPU values are 8-byte aligned already.
template <typename T>
T entry(const std::vector<std::byte>& bytes, size_t index) {
  T out;
  MOSE_CHECK((index + 1) * sizeof(T) <= bytes.size(), "a map's dump is shorter than its count");
  std::memcpy(&out, bytes.data() + index * sizeof(T), sizeof out);
  return out;
}

ProcessFaults process_of(const mose_dirty_process_key& key, const bpf::MapDump& dump, size_t index, unsigned cpus) {
  ProcessFaults out{.pid = key.tgid};
  for (unsigned cpu = 0; cpu < cpus; ++cpu) {
    auto value = entry<mose_dirty_process>(dump.values, index * cpus + cpu);
    out.space = std::max(out.space, value.space);
    out.from_user += value.from_user;
    out.from_kernel += value.from_kernel;
    out.absent += value.absent;
    out.present += value.present;
  }
  return out;
}

// The history as it would be, had the region been touched in the present epoch.
std::vector<uint8_t> aged(const mose_dirty_region& region, uint32_t epoch) {
  std::vector<uint8_t> out(MOSE_DIRTY_REGION_PAGES);
  const uint32_t epochs = std::min(epoch - region.epoch, 8u);
  for (size_t page = 0; page < out.size(); ++page) {
    const uint64_t byte = region.history[page / 8] >> (page % 8 * 8) & 0xff;
    out[page] = static_cast<uint8_t>(byte >> epochs);
  }
  return out;
}

uint64_t less_or_zero(uint64_t a, uint64_t b) {
  return a > b ? a - b : 0;
}

}  // namespace

struct FaultMonitor::Kernel {
  Skeleton skeleton;
  Form form;
  unsigned cpus;

  [[nodiscard]] std::array<int, 2> programs() const {
    auto& progs = skeleton->progs;
    return form == Form::tp_btf ? std::array{bpf_program__fd(progs.btf_user), bpf_program__fd(progs.btf_kernel)}
                                : std::array{bpf_program__fd(progs.raw_user), bpf_program__fd(progs.raw_kernel)};
  }
};

FaultMonitor::FaultMonitor(std::unique_ptr<Kernel> kernel) : kernel_(std::move(kernel)) {}
FaultMonitor::FaultMonitor(FaultMonitor&&) noexcept = default;
FaultMonitor& FaultMonitor::operator=(FaultMonitor&&) noexcept = default;
FaultMonitor::~FaultMonitor() = default;

Result<FaultMonitor> FaultMonitor::attach(const std::string& cgroup, const FaultMonitorOptions& options) {
  MOSE_ASSIGN(unsigned cpus, bpf::possible_cpus());
  const std::string where = "watch page faults of " + cgroup;
  std::string tried;
  for (Form form : {Form::tp_btf, Form::raw_tp}) {
    if (options.form != Form::automatic && options.form != form) continue;
    auto skeleton = load_and_attach(cgroup, options, form);
    if (skeleton) return FaultMonitor(std::make_unique<Kernel>(std::move(*skeleton), form, cpus));
    tried += (tried.empty() ? "" : "; ") + (std::string("as ") + to_string(form) + ": " + skeleton.error().what);
  }
  return fail(where + ": " + tried);
}

std::string_view FaultMonitor::form() const {
  return to_string(kernel_->form);
}

void FaultMonitor::next_epoch() {
  // A page of the map, shared with the programs, which read it whole.
  __atomic_add_fetch(&kernel_->skeleton->bss->mose_control.epoch, 1, __ATOMIC_RELAXED);
}

Result<FaultTotals> FaultMonitor::totals() const {
  std::vector<mose_dirty_totals> each(kernel_->cpus);
  const uint32_t zero = 0;
  MOSE_TRY(bpf::map_lookup(bpf_map__fd(kernel_->skeleton->maps.mose_totals), &zero, each.data()));
  FaultTotals out;
  for (const mose_dirty_totals& cpu : each) {
    out.faults += cpu.faults;
    out.from_user += cpu.from_user;
    out.from_kernel += cpu.from_kernel;
    out.absent += cpu.absent;
    out.present += cpu.present;
    out.lost_processes += cpu.lost_processes;
    out.lost_threads += cpu.lost_threads;
    out.lost_regions += cpu.lost_regions;
  }
  for (int program : kernel_->programs()) {
    MOSE_ASSIGN(uint64_t missed, bpf::program_misses(program));
    out.missed += missed;
  }
  return out;
}

Result<FaultSnapshot> FaultMonitor::snapshot(Tables tables) const {
  auto& maps = kernel_->skeleton->maps;
  const uint32_t epoch = __atomic_load_n(&kernel_->skeleton->bss->mose_control.epoch, __ATOMIC_RELAXED);
  FaultSnapshot out;
  uint64_t of_threads = 0, of_regions = 0;
  MOSE_ASSIGN(bpf::MapDump processes, bpf::map_dump(bpf_map__fd(maps.mose_processes)));
  for (size_t i = 0; i < processes.count; ++i) {
    out.processes.push_back(process_of(entry<mose_dirty_process_key>(processes.keys, i), processes, i, kernel_->cpus));
  }
  MOSE_ASSIGN(bpf::MapDump threads, bpf::map_dump(bpf_map__fd(maps.mose_threads)));
  for (size_t i = 0; i < threads.count; ++i) {
    auto value = entry<mose_dirty_thread>(threads.values, i);
    of_threads += value.faults;
    out.threads.push_back({.space = value.space,
                           .tid = entry<mose_dirty_thread_key>(threads.keys, i).tid,
                           .inner_tid = value.tid,
                           .name = std::string(value.comm, strnlen(value.comm, sizeof value.comm)),
                           .faults = value.faults});
  }
  bpf::MapDump regions;
  if (tables == Tables::all) {
    MOSE_ASSIGN(regions, bpf::map_dump(bpf_map__fd(maps.mose_regions)));
  }
  for (size_t i = 0; i < regions.count; ++i) {
    auto key = entry<mose_dirty_region_key>(regions.keys, i);
    auto value = entry<mose_dirty_region>(regions.values, i);
    of_regions += value.faults;
    out.regions.push_back({.space = value.space,
                           .pid = key.tgid,
                           .faults = value.faults,
                           .pages = {key.region * MOSE_DIRTY_REGION_PAGES, MOSE_DIRTY_REGION_PAGES},
                           .history = aged(value, epoch)});
  }
  // Last, so that what came meanwhile looks lost rather than the tables more than the whole.
  MOSE_ASSIGN(out.totals, totals());
  out.evicted_threads = less_or_zero(out.totals.faults, out.totals.lost_threads + of_threads);
  if (tables == Tables::all) out.evicted_regions = less_or_zero(out.totals.faults, out.totals.lost_regions + of_regions);
  std::ranges::sort(out.processes, std::greater{}, &ProcessFaults::faults);
  std::ranges::sort(out.threads, std::greater{}, &ThreadFaults::faults);
  std::ranges::sort(out.regions, {}, [](const RegionFaults& r) { return std::tuple(r.space, r.pid, r.pages.first); });
  return out;
}

}  // namespace mose::sense
