// SPDX-License-Identifier: MIT
#include "sense/write_scan.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>

#include "base/log.h"
#include "kernel/pagemap.h"
#include "kernel/pins.h"
#include "kernel/write_tracking.h"
#include "sense/hot_tail.h"
#include "sense/page_reader.h"
#include "sense/protect_ahead.h"
#include "sense/quick_look.h"

namespace mose::sense {
namespace {

// Pages that the kernel calls written are read in the freeze, to find those that hold what they held, or nothing: but no more
// than this. Of more it takes longer than it saves.
constexpr uint64_t kComparedMax = 1024;

// Of pages, from which the number of all that were written is told: a tenth of them is known to be that within a fifth of it.
constexpr uint64_t kSample = 2048;

// A round of written pages is protected in so many parts, of no fewer pages than a part is worth. The later a page is
// protected, the less of what the workload writes in the round is left for the next.
constexpr uint64_t kParts = 8, kPartPagesMin = 1024;
// And fewer where the look for pins, which each of them takes, is a long one: many descriptors.
constexpr Nanoseconds kPinChecksMax = std::chrono::milliseconds(8);

}  // namespace

struct WriteScan::Space {
  Hashes hashes;  // of what the destination holds
  std::optional<WriteTracking> tracking;
  int pid = 0;
  uint64_t start_time = 0;
  PageSet added;          // regions in `tracking`, as far as known
  PageSet zero;           // pages that were all zero when last read, since armed
  PageSet unprotected;    // in the last armed round, because they are hot: the final scan compares them
  bool complete = false;  // a whole round has been read and sent since armed: a clean page is as it was sent
  std::string refused;    // why this process is not tracked
  Nanoseconds pin_check{0};  // how long it took to look for pins

  // Those of pages that are protected that are at the destination as they are here.
  [[nodiscard]] PageSet sent_of(const PageSet& pages) const {
    const PageSet zeros = pages.intersect(zero);
    return known_pages(pages.minus(zeros), hashes).unite(zeros);
  }
  // Tracks what is new of regions that have grown, and regions with a page of `untracked`, which have been moved, as a whole. Refused
  // (EINVAL, EPERM): such a one stays untracked and is read each time. Gives all that it has tried.
  PageSet track_new(std::span<const Vma> vmas, const PageSet& unknown, const PageSet& untracked) {
    PageSet began;
    for (const Vma& vma : vmas) {
      if (!vma.lazy_eligible()) continue;
      const PageSet area = PageSet::from_runs({vma.pages});
      const PageSet fresh = untracked.intersect(area).empty() ? unknown.intersect(area) : area;
      for (const PageRun& run : fresh.runs())
        if (tracking->add(run)) added.add(run);
      began = began.unite(fresh);
    }
    return began;
  }
  void disarm() {
    tracking.reset();
    added = {};
    zero = unprotected = {};
    complete = false;
  }
};

WriteScan::WriteScan(WriteScanOptions options) : options_(std::move(options)) {
  options_.hash.round_threads = std::max(options_.hash.round_threads, 1u);
  options_.hash.final_threads = std::max(options_.hash.final_threads, 1u);
}
WriteScan::~WriteScan() = default;

WriteScan::Space& WriteScan::space_of(SpaceId id) {
  auto& space = spaces_[id];
  if (!space) space = std::make_unique<Space>();
  return *space;
}

std::string_view WriteScan::name() const {
  for (const auto& [id, space] : spaces_) {
    if (space->complete) return "write-protection";
  }
  return "hash-scan";
}

std::string WriteScan::reason() const {
  std::string text;
  for (const auto& [id, space] : spaces_) {
    if (space->refused.empty()) continue;
    const std::string what = id < kSharedSpaces ? "process " + std::to_string(id) : "shared memory " + std::to_string(id - kSharedSpaces);
    text += (text.empty() ? "" : "; ") + what + " is hashed: " + space->refused;
  }
  if (!text.empty()) return text;
  if (name() == "hash-scan") return "no round was expected to be the last: everything is hashed";
  if (!options_.why.empty()) return options_.why;
  return options_.late ? "write faults are dear here: armed for the last rounds only" : "armed from the first round on";
}

// Makes the process tracked, or leaves the reason why not.
void WriteScan::arm(const SpaceProcess& process, Space& space) {
  if (space.tracking && (space.pid != process.pid || space.start_time != process.start_time)) space.disarm();
  // A pin that exists now may still be written through after the protection is on.
  const Timestamp begun = now();
  auto pin = settle_.refused() ? settle_.refused() : pinned_memory(process.pid);
  space.pin_check = now() - begun;
  if (pin) {
    space.disarm();
    space.refused = *pin;
    return;
  }
  if (space.tracking) return;
  WriteTracking::Stop stop;
  auto taken = WriteTracking::take(process.pid, &stop);
  if (!taken) {
    space.refused = taken.error().what;
    return;
  }
  space.refused.clear();
  (void)Pagemap::looks_quickly();  // found out before anything stands still
  space.tracking.emplace(std::move(*taken));
  space.pid = process.pid;
  space.start_time = process.start_time;
  ++arm_.processes;
  arm_.stop_longest = std::max(arm_.stop_longest, stop.borrowed);
}

WriteTracking* WriteScan::tracking_of(SpaceId process) {
  auto it = spaces_.find(process);
  return it == spaces_.end() || !it->second->tracking ? nullptr : &*it->second->tracking;
}

Status WriteScan::round_of_object(const SpaceProcess& object, PageSink& sink, std::stop_token& stop, ScanStats& stats) {
  Space& space = space_of(object.space);
  const bool was_complete = space.complete && shared_.holds(object.space);
  space.complete = false;
  Reading reading{.threads = options_.hash.round_threads, .hot = levels_of(hot_, object.space)};
  MOSE_ASSIGN(Populated populated, populated_pages(object, ScanPace::gentle));
  PageSet pages = std::move(populated.pages), zero;
  if (!shared_.tracks(object.space)) {
    space.refused = shared_.refused(object.space);
    return send_changed(object, pages, reading, space.hashes, sink, stop, stats);
  }
  if (was_complete) {
    MOSE_ASSIGN(PageSet clean, shared_.clean(object.space, pages, ScanPace::gentle));
    const PageSet clean_zero = clean.intersect(space.zero);
    const PageSet sent = known_pages(clean.minus(clean_zero), space.hashes);
    pages = pages.minus(sent).minus(clean_zero);
    stats.pages_present += sent.pages();
    stats.pages_zero += clean_zero.pages();
  }
  auto tracking = [this](SpaceId process) { return tracking_of(process); };
  reading.zero = &zero;
  reading.before = [&](const PageSet& next) -> Status {
    shared_.protect(object.space, next, tracking, settle_);
    return {};
  };
  MOSE_TRY(send_changed(object, pages, reading, space.hashes, sink, stop, stats));
  space.refused = shared_.refused(object.space);
  if (!space.refused.empty()) return {};
  space.zero = space.zero.minus(pages).unite(zero);
  if (!was_complete) stats.pages_armed += pages.pages();
  space.complete = true;
  return {};
}

// What a round has to do with the pages of a tracked process.
struct WriteScan::Due {
  PageSet pages;        // are read,
  PageSet skipped;      // and these are known to be as they were sent
  PageSet areas, huge;  // of the process: where its pages lie, and which are in huge ones
  std::vector<PageSet> tail = {};  // what is hot, and read last; space.unprotected of it is not protected
};

// `complete`: everything has been read and sent since the process was armed. Nothing is protected here.
Result<WriteScan::Due> WriteScan::look_at(const SpaceProcess& process, Space& space, const Pagemap& pagemap, bool complete) {
  MOSE_ASSIGN(Populated populated, populated_pages(process, ScanPace::gentle, false));
  QuickLook quick;
  if (complete && Pagemap::looks_quickly()) {
    MOSE_ASSIGN(quick, look_quickly(pagemap, populated.vmas, [&space](const PageSet& pages) { return space.sent_of(pages); }));
    quick.changed = quick.changed.intersect(space.added);
    quick.clean = quick.clean.intersect(space.added);
  }
  const PageSet areas = populated.areas.minus(quick.changed).minus(quick.clean);
  // Pages of regions that are not tracked yet are read whatever the kernel says of them afterwards: a moved region may
  // bring old marks along.
  MOSE_ASSIGN(Pagemap::Tracked before, pagemap.tracked(left_to_look_at(populated.areas, quick.clean)));
  quick.clean = quick.clean.minus(before.written);
  const PageSet began = space.track_new(populated.vmas, areas.minus(space.added), before.untracked);
  // What was moved there just now has brought its marks along, which the quick look has seen, or comes after the look at each page.
  PageSet arrived = quick.clean.intersect(began);
  quick.clean = quick.clean.minus(arrived);
  MOSE_ASSIGN(Pagemap::Tracked after, pagemap.tracked(began));
  arrived = arrived.unite(after.clean).unite(after.written).unite(after.untracked);
  Due due{.pages = before.clean.unite(before.written).unite(before.untracked).unite(arrived),
          .skipped = {},
          .areas = std::move(populated.areas),
          .huge = std::move(before.huge)};
  if (!complete) return due;
  // Protected since they were sent, and not written: as long as that is so they are as they were sent.
  const PageSet sent = space.sent_of(before.clean.intersect(space.added)).minus(arrived);
  due.pages = due.pages.minus(sent);
  due.skipped = sent.unite(quick.clean).minus(due.pages);
  return due;
}

// Pages are protected when their turn has come, or that of a neighbour: one that is written before costs the workload no fault,
// and is not read again in the next round. Gives why the process cannot be tracked after all.
Result<std::optional<std::string>> WriteScan::read_due(const SpaceProcess& process, Space& space, const Pagemap& pagemap, const Due& due,
                                                       Reading reading, PageSink& sink, const std::stop_token& stop, ScanStats& stats) {
  const PageSet guarded = due.pages.minus(space.unprotected);
  PageSet pages = due.pages, zero;
  ProtectAhead ahead(process.pid, settle_, pagemap, due.huge, guarded, space.unprotected, due.areas, space.added);
  reading.zero = &zero;
  reading.before = std::ref(ahead);
  MOSE_TRY(send_changed(process, guarded, reading, space.hashes, sink, stop, stats));
  auto behind = [&](const PageSet& more, ScanStats& counted) -> Result<PageSet> {
    PageSet zeros;
    if (!more.empty())
      MOSE_TRY(send_changed(process, more, {.threads = reading.threads, .hot = due.tail, .zero = &zeros}, space.hashes, sink, stop, counted));
    return zeros;
  };
  // Those that have been protected with their neighbours all the same are read again below.
  MOSE_ASSIGN(PageSet zero_hot, behind(space.unprotected.minus(ahead.again()), stats));
  zero = zero.unite(zero_hot);
  if (const PageSet& again = ahead.again(); !again.empty()) {
    ScanStats more;
    MOSE_ASSIGN(PageSet zero_again, behind(again, more));
    zero = zero.minus(again).unite(zero_again);
    stats.pages_read += more.pages_read;
    stats.pages_changed += more.pages_changed;
    stats.pages_present += again.minus(guarded).minus(due.skipped).pages();
    pages = pages.unite(again);
  }
  stats.pages_present += due.skipped.minus(space.zero).pages();
  stats.pages_zero += due.skipped.intersect(space.zero).pages();
  space.zero = space.zero.minus(pages).unite(zero);
  return ahead.pin();
}

Status WriteScan::round_of(const SpaceProcess& process, PageSink& sink, std::stop_token& stop, ScanStats& stats) {
  MOSE_TRY(check_same_process(process));
  Space& space = space_of(process.space);
  Reading reading{.threads = options_.hash.round_threads, .hot = levels_of(hot_, process.space)};
  if (arming()) arm(process, space);
  if (!space.tracking) {
    MOSE_ASSIGN(Populated populated, populated_pages(process, ScanPace::gentle));
    return send_changed(process, populated.pages, reading, space.hashes, sink, stop, stats);
  }
  const bool was_complete = space.complete;
  space.complete = false;  // until all that is found below has been sent
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process.pid, ScanPace::gentle));
  MOSE_ASSIGN(Due due, look_at(process, space, pagemap, was_complete));
  space.unprotected = {};
  if (was_complete) {
    const uint64_t parts = std::clamp<int64_t>(kPinChecksMax / std::max(space.pin_check, Nanoseconds(1)), 1, kParts);
    reading.before_pages = std::min(std::max(due.pages.pages() / parts, kPartPagesMin), reading.before_pages);
  }
  // Where faults are dear, in a round behind the one that reads everything as well: it would protect what is hot at the worst moment.
  if (spares_behind() || !was_complete) {
    due.tail = hot_tail(process, reading.hot, due.pages, due.pages.pages() + due.skipped.pages(), tail_left_, space.hashes);
    for (const PageSet& level : due.tail) space.unprotected = space.unprotected.unite(level);
    tail_left_ -= std::min(tail_left_, space.unprotected.pages());
    reading.hot = {};
  }
  MOSE_ASSIGN(auto pin, read_due(process, space, pagemap, due, reading, sink, stop, stats));
  if (pin) {
    space.disarm();
    space.refused = *pin;
    return {};
  }
  // After the reading, which takes longer than a fork: CRIU dumps nobody who has a userfaultfd.
  if (auto closed = space.tracking->close_copies(); !closed) {
    log::warn("a forked process keeps a descriptor of the tracking", {{"reason", closed.error().what}});
  }
  if (!was_complete) stats.pages_armed += due.pages.minus(space.unprotected).pages();
  stats.pages_unprotected += space.unprotected.pages();
  if (!spares_behind()) stats.pages_next_protected += space.unprotected.pages();
  space.complete = true;
  return {};
}

namespace {

// Of pages that nobody has looked at those that are not populated may be unreadable: guard pages.
Status check_unreadable(const SpaceProcess& process, const PageSet& unreadable, const PageSet& unlooked) {
  if (unreadable.empty()) return {};
  MOSE_TRY(check_all_read(unreadable.minus(unlooked)));
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process.pid));
  MOSE_ASSIGN(PageSet populated, pagemap.populated(unreadable));
  return check_all_read(populated);
}

}  // namespace

Result<SpacePages> WriteScan::final_of(const SpaceProcess& process, ScanStats& stats) {
  SpacePages out;
  out.space = process.space;
  MOSE_TRY(check_same_process(process));
  if (is_zombie(process.pid)) return out;
  Space& space = space_of(process.space);
  const bool object = !process.object.empty();
  const bool armed = object ? space.complete && shared_.certain(process.space)
                            : space.complete && space.pid == process.pid && space.start_time == process.start_time;
  if (object && !armed) space.refused = shared_.refused(process.space);
  MOSE_ASSIGN(Populated populated, populated_pages(process, ScanPace::at_once, object || !armed));
  PageSet unread;  // known to be as sent
  PageSet unread_zero;
  PageSet unread_written;
  PageSet unlooked;  // may not be populated
  if (armed) {
    auto known = [&space](const PageSet& pages) { return space.sent_of(pages); };
    PageSet clean;
    if (object) {
      MOSE_ASSIGN(clean, shared_.clean(process.space, populated.pages, ScanPace::at_once));
      clean = known(clean);
    } else {
      MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process.pid));
      QuickLook quick;
      if (Pagemap::looks_quickly()) {
        MOSE_ASSIGN(quick, look_quickly(pagemap, populated.vmas, known));
      }
      // Protected for another process, that is (vfork): its turn of a round was not this one's.
      quick.clean = quick.clean.intersect(space.added);
      // What is hot lies everywhere: a look at each page around it is one at all of them. It is read in any case.
      unlooked = space.unprotected.intersect(quick.changed).intersect(space.added).intersect(populated.areas);
      MOSE_ASSIGN(Pagemap::Tracked tracked, pagemap.tracked(left_to_look_at(populated.areas, quick.clean.unite(unlooked))));
      populated.pages = tracked.written.unite(tracked.untracked).unite(tracked.clean).unite(unlooked);
      clean = known(tracked.clean.intersect(space.added).minus(quick.clean)).unite(quick.clean.minus(tracked.written));
      tracked.written = tracked.written.minus(space.unprotected);
      if (tracked.written.pages() > kComparedMax) unread_written = std::move(tracked.written);
    }
    unread_zero = clean.intersect(space.zero);
    unread = clean.minus(unread_zero);
    populated.pages = populated.pages.minus(clean).minus(unread_written);
  }
  MOSE_ASSIGN(Compared compared, compare(process, populated.pages, space.hashes, options_.hash.final_threads));
  MOSE_TRY(check_unreadable(process, compared.unreadable, unlooked));
  populated.pages = populated.pages.minus(compared.unreadable);
  stats.pages_read += populated.pages.pages();
  out.remote = compared.changed.unite(unread_written);
  out.present = populated.pages.minus(compared.zero).unite(unread).unite(unread_written);
  if (process.object.empty()) out.first = first_touched(process.pid, populated.vmas).intersect(out.remote);
  stats.pages_present += out.present.pages();
  stats.pages_zero += compared.zero.pages() + unread_zero.pages();
  stats.pages_changed += out.remote.pages();
  return out;
}

Result<ScanStats> WriteScan::round(std::span<const SpaceProcess> processes, PageSink& sink, std::stop_token stop) {
  tail_left_ = kTailMost;
  settle_.begin_round();
  settle_.prepare();  // in the first round, long before anything is protected
  bool begun = !arming();  // of the objects, which stand behind the processes
  return round_over(processes, [&](const SpaceProcess& process, ScanStats& stats) {
    if (process.object.empty()) return round_of(process, sink, stop, stats);
    if (!begun) shared_.begin_round(processes, [this](SpaceId space) { return tracking_of(space); });
    begun = true;
    return round_of_object(process, sink, stop, stats);
  });
}

Result<FinalPages> WriteScan::final_scan(std::span<const SpaceProcess> processes) {
  return final_over(processes, [&](const SpaceProcess& process, ScanStats& stats) { return final_of(process, stats); });
}

std::optional<double> WriteScan::estimate_written(std::span<const SpaceProcess> processes) {
  if (arming()) return std::nullopt;
  uint64_t known = 0;
  for (const SpaceProcess& process : processes) known += count_pages(space_of(process.space).hashes);
  if (known == 0) return std::nullopt;
  Picking picking{.every = std::max<uint64_t>(known / kSample, 1)};
  Sample sample;
  for (const SpaceProcess& process : processes) {
    const Hashes& hashes = space_of(process.space).hashes;
    PageSet picked;
    hashes.for_each([&](uint64_t page, uint64_t) { if (picking.pick()) picked.add({page, 1}); });
    (void)look_for_changes(process, picked, hashes, sample);  // one that ends just now, for one, is not counted
  }
  if (sample.read == 0) return std::nullopt;
  return static_cast<double>(sample.changed) / static_cast<double>(sample.read) * static_cast<double>(known);
}

void WriteScan::end_tracking() {
  for (auto& [id, space] : spaces_) space->disarm();
}

}  // namespace mose::sense
