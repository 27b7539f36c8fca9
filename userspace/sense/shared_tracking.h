// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernel/address_space.h"
#include "kernel/pagemap.h"
#include "kernel/shared_objects.h"
#include "kernel/write_tracking.h"
#include "model/dirty_source.h"
#include "sense/settle.h"

namespace mose::sense {

// Which pages of memory that processes share without a file have been written, from the page tables of all that map it.
//
// A page is clean where every mapping through which it can be written still shows its protection. That alone proves nothing:
// a child that is forked, writes and ends, or a mapping that comes and goes, leaves no trace in any page table that is left to
// look at. So what the page tables say counts only while no address space of the tree has been locked for a change
// (kernel/address_space.h), and for a System V segment, which any process of its namespace may attach, while no process or
// thread has got a number. Else everything counts as written. A memfd that somebody has open, or that may be on its way to him in
// a socket, is not tracked: write(2) to it passes page tables by. (So it would to other objects, for who opens them by
// /proc/PID/map_files, which takes CAP_CHECKPOINT_RESTORE.)
//
// Life: begin_round() before the objects of a round are looked at and after its processes were armed; protect() before pages
// are read, clean() at any time; tree_stopped() once, before anybody maps something into the frozen tree. One thread at a time.
class SharedTracking {
 public:
  // Null where a process is not tracked.
  using TrackingOf = std::function<WriteTracking*(SpaceId)>;

  // `processes`: the tree, its root first, and the objects. Without objects this does nothing.
  void begin_round(std::span<const SpaceProcess> processes, const TrackingOf& tracking_of);
  // Whether written pages of it can be told; else refused() is the reason, in words.
  [[nodiscard]] bool tracks(SpaceId object) const;
  [[nodiscard]] std::string refused(SpaceId object) const;
  // Whether what was protected before this round still counts.
  [[nodiscard]] bool holds(SpaceId object) const;
  // After an error, or where it turns out that pages are pinned, the object is not tracked.
  void protect(SpaceId object, const PageSet& pages, const TrackingOf& tracking_of, Settle& settle);
  // Pages of `among` that nobody has written since they were protected.
  [[nodiscard]] Result<PageSet> clean(SpaceId object, const PageSet& among, ScanPace pace) const;
  void tree_stopped(std::span<const SpaceProcess> processes);
  // In the stopped tree: whether clean() is the truth.
  [[nodiscard]] bool certain(SpaceId object) const { return stopped_ && tracks(object); }

 private:
  struct Mapped {
    SpaceProcess process;
    SharedMapping mapping;
  };
  struct Object {
    bool seen = false, segment = false, memfd = false;
    std::vector<Mapped> mapped;  // writable
    std::string unmapped;        // why it cannot be tracked as it is mapped
    std::string refused;         // why it is not tracked in this round; empty: it is
    bool holds = false;
  };
  struct Process {
    SpaceProcess process;
    AddressSpaceState state;
    bool operator==(const Process&) const = default;
  };
  [[nodiscard]] Result<std::vector<Process>> look(std::span<const SpaceProcess> processes);
  [[nodiscard]] static bool same_spaces(std::span<const Process> a, std::span<const Process> b);
  [[nodiscard]] static bool too_dear(std::span<const Mapped> mapped);
  [[nodiscard]] Status learn(std::span<const SpaceProcess> processes, const TrackingOf& tracking_of);
  void learn_descriptors(std::span<const SpaceProcess> processes);
  static void learn_mapping(Object& object, const SpaceProcess& process, const SharedMapping& mapping, WriteTracking* tracking);
  static void begin_object(Object& object, bool same);
  void forget(std::string why);

  std::optional<AddressSpaces> spaces_;
  std::vector<Process> processes_;
  std::map<SpaceId, Object> objects_;  // none while nothing is known for certain
  unsigned broken_ = 0;                // rounds one behind the other before which something had changed
  std::string unknown_ = "no round has looked at it yet";  // why there are no objects
  bool given_up_ = false, stopped_ = false;
};

}  // namespace mose::sense
