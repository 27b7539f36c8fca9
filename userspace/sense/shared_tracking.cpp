// SPDX-License-Identifier: MIT
#include "sense/shared_tracking.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "kernel/process.h"
#include "kernel/procfs.h"

namespace mose::sense {
namespace {

// A tree that maps and forks all the time pays for the protection and gains nothing. The dump for a standby is one such
// change.
constexpr unsigned kBrokenMax = 2;
// Looking at the page tables costs about a fifth of reading and hashing.
constexpr uint64_t kMappingsWorth = 4;

bool is_process(const SpaceProcess& place) { return place.object.empty(); }

// Whether these are all processes of the tree, now.
Status check_complete(std::span<const SpaceProcess> processes) {
  std::set<int> known;
  for (const SpaceProcess& process : processes) known.insert(process.pid);
  MOSE_ASSIGN(ProcessHandle root, ProcessHandle::open(processes.front().pid));
  MOSE_ASSIGN(std::vector<ProcessHandle> tree, process_tree(root));
  for (const ProcessHandle& one : tree) {
    if (!known.contains(one.pid()) && !is_zombie(one.pid())) return fail(fmt::format("process {} has come meanwhile", one.pid()));
  }
  return {};
}

}  // namespace

Result<std::vector<SharedTracking::Process>> SharedTracking::look(std::span<const SpaceProcess> processes) {
  std::vector<Process> out;
  for (const SpaceProcess& process : processes) {
    if (!is_process(process) || is_zombie(process.pid)) continue;
    MOSE_ASSIGN(AddressSpaceState state, spaces_->of(process.pid));
    out.push_back({process, state});
  }
  return out;
}

void SharedTracking::forget(std::string why) {
  objects_.clear();
  processes_.clear();
  unknown_ = std::move(why);
}

// What looking at the mappings costs, against reading what lies in them once.
bool SharedTracking::too_dear(std::span<const Mapped> mapped) {
  uint64_t looked_at = 0, pages = 0;
  for (const Mapped& one : mapped) {
    looked_at += one.mapping.pages.count;
    pages = std::max(pages, one.mapping.first + one.mapping.pages.count);
  }
  return looked_at > kMappingsWorth * pages;
}

bool SharedTracking::same_spaces(std::span<const Process> a, std::span<const Process> b) {
  return std::ranges::equal(a, b, [](const Process& x, const Process& y) {
    return x.process == y.process && x.state.identity == y.state.identity && x.state.changes == y.state.changes;
  });
}

// Who maps what, with every mapping that can be written through made known to the kernel's record.
Status SharedTracking::learn(std::span<const SpaceProcess> processes, const TrackingOf& tracking_of) {
  objects_.clear();
  for (const SpaceProcess& place : processes) {
    if (!is_process(place)) objects_[place.space].unmapped = "nobody maps it, it is written to by system calls";
  }
  for (const SpaceProcess& process : processes) {
    if (!is_process(process)) continue;
    MOSE_ASSIGN(std::vector<SharedMapping> mappings, shared_mappings(process.pid));
    WriteTracking* tracking = mappings.empty() ? nullptr : tracking_of(process.space);
    for (const SharedMapping& mapping : mappings) {
      auto object = objects_.find(mapping.object);
      if (object == objects_.end()) return fail("shared memory has come meanwhile");
      learn_mapping(object->second, process, mapping, tracking);
    }
  }
  if (std::ranges::any_of(objects_, [](const auto& one) { return one.second.memfd; })) learn_descriptors(processes);
  for (auto& [space, object] : objects_) {
    if (object.unmapped.empty() && too_dear(object.mapped)) {
      object.unmapped = fmt::format("it is mapped {} times, to read it is cheaper", object.mapped.size());
    }
  }
  return {};
}

void SharedTracking::learn_descriptors(std::span<const SpaceProcess> processes) {
  for (const SpaceProcess& process : processes) {
    if (!is_process(process)) continue;
    const OpenMemfds found = open_memfds(process.pid);
    for (auto& [space, object] : objects_) {
      if (!object.memfd) continue;
      if (std::ranges::find(found.open, space) != found.open.end()) {
        object.unmapped = fmt::format("process {} has its memfd open for system calls", process.space);
      } else if (found.on_the_way) {
        object.unmapped = fmt::format("a socket of process {} holds descriptors that may be of its memfd", process.space);
      }
    }
  }
}

void SharedTracking::learn_mapping(Object& object, const SpaceProcess& process, const SharedMapping& mapping, WriteTracking* tracking) {
  if (std::exchange(object.seen, true) == false) object.unmapped.clear();
  object.segment |= mapping.kind == SharedMapping::Kind::segment;
  object.memfd |= mapping.kind == SharedMapping::Kind::memfd;
  if (!mapping.write || !object.unmapped.empty()) return;
  object.mapped.push_back({process, mapping});
  Status added = tracking == nullptr ? fail("it is not write-protected") : tracking->add(mapping.pages);
  if (!added) object.unmapped = fmt::format("process {} maps it: {}", process.space, added.error().what);
}
void SharedTracking::begin_object(Object& object, bool same) {
  object.holds = same && object.refused.empty();
  object.refused = object.unmapped;
}

void SharedTracking::begin_round(std::span<const SpaceProcess> processes, const TrackingOf& tracking_of) {
  stopped_ = false;
  if (given_up_ || std::ranges::all_of(processes, is_process)) return;
  if (!spaces_) {
    auto prepared = AddressSpaces::prepare();
    given_up_ = !prepared;
    if (given_up_) return forget(prepared.error().what);
    spaces_ = std::move(*prepared);
  }
  auto looked = look(processes);
  if (!looked) return forget(looked.error().what);
  const bool same = !processes_.empty() && same_spaces(*looked, processes_);
  const bool nobody_new = same && *looked == processes_;
  broken_ = same || processes_.empty() ? 0 : broken_ + 1;
  given_up_ = broken_ > kBrokenMax;
  if (given_up_) return forget("its processes change their mappings all the time");
  if (!same) {
    if (auto learned = learn(processes, tracking_of); !learned) return forget(learned.error().what);
    // From here on a change is seen; whoever came before it is seen by the look at who is there.
    auto after = look(processes);
    if (!after) return forget(after.error().what);
    if (auto complete = check_complete(processes); !complete) return forget(complete.error().what);
    looked = std::move(after);
  }
  processes_ = std::move(*looked);
  for (auto& [space, object] : objects_) begin_object(object, object.segment ? nobody_new : same);
}

bool SharedTracking::tracks(SpaceId object) const {
  auto it = objects_.find(object);
  return it != objects_.end() && it->second.refused.empty();
}

std::string SharedTracking::refused(SpaceId object) const {
  auto it = objects_.find(object);
  return it == objects_.end() ? unknown_ : it->second.refused;
}

bool SharedTracking::holds(SpaceId object) const { return tracks(object) && objects_.at(object).holds; }

void SharedTracking::protect(SpaceId object, const PageSet& pages, const TrackingOf& tracking_of, Settle& settle) {
  auto it = objects_.find(object);
  if (it == objects_.end() || !it->second.refused.empty()) return;
  Object& shared = it->second;
  std::set<int> pids;
  for (const Mapped& one : shared.mapped) {
    WriteTracking* tracking = tracking_of(one.process.space);
    Status done = tracking == nullptr ? fail("it is not write-protected any more") : tracking->protect_shared(one.mapping.to_process(pages));
    if (!done) {
      shared.refused = fmt::format("process {} maps it: {}", one.process.space, done.error().what);
      return;
    }
    pids.insert(one.process.pid);
  }
  const std::vector<pid_t> processes(pids.begin(), pids.end());
  if (auto pin = settle(processes)) shared.refused = *pin;
}

Result<PageSet> SharedTracking::clean(SpaceId object, const PageSet& among, ScanPace pace) const {
  PageSet clean = among;
  for (const Mapped& one : objects_.at(object).mapped) {
    MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(one.process.pid, pace));
    const PageSet area = one.mapping.to_process(clean);
    MOSE_ASSIGN(Pagemap::Tracked tracked, pagemap.tracked(PageSet::from_runs({one.mapping.pages})));
    clean = clean.minus(one.mapping.to_object(area.minus(tracked.clean)));
  }
  return clean;
}

void SharedTracking::tree_stopped(std::span<const SpaceProcess> processes) {
  stopped_ = true;
  if (objects_.empty()) return;
  auto looked = look(processes);
  if (!looked || !same_spaces(*looked, processes_)) return forget("its processes have changed their mappings");
  for (auto& [space, object] : objects_) {
    if (object.segment && *looked != processes_) object.refused = "processes or threads have come that may have attached it";
  }
}

}  // namespace mose::sense
